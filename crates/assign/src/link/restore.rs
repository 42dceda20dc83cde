//! Taking a link back.

use conf::{Bandwidth, DeviceId};
use host::{Host, HostError, Netdev};

use super::find::{LowerNow, find_link, lower_now};
use super::lower::{Given, give_mac, give_mtu, unhush};
use crate::assigner::Assigner;
use crate::device::Item;
use crate::profile::leave;
use crate::record::{LinkWork, LowerWork, Record, VfWork, WholeWork};
use crate::restore::Restored;
use crate::vf::{Faults, FunctionRestorer, rebind};

impl Assigner {
    /// In reverse: its end at the switch, the link itself, the device below.
    pub(crate) fn restore_link(&self, record: &Record, link: &LinkWork) -> Restored {
        let host = &*self.host.0;
        let mut faults = Faults::default();
        let tag = self.tag_of(record);
        leave(host, link.profile.as_ref(), &mut faults);
        let before = faults.certain.len();
        match find_link(host, link, &tag) {
            Ok(Some(netdev)) if link.existing => {
                if link.shaped {
                    faults.certain(host.set_bandwidth(netdev.index, &Bandwidth::default()));
                }
            }
            Ok(Some(netdev)) => {
                faults.doubtful(host.delete_link(netdev.index, netdev.name));
                expect_gone(host, link, &tag, &mut faults);
            }
            Ok(None) => {}
            Err(error) => faults.certain(Err(error)),
        }
        let is_gone = faults.differences.is_empty() && faults.certain.len() == before;
        let mut vanished = false;
        if let Some(lower) = &link.lower {
            if is_gone {
                self.leave_vlan(record.item, lower, &mut faults);
            }
            vanished = match &lower.whole {
                Some(whole) => restore_whole(host, record.item, lower, whole, &mut faults),
                None => self.restore_shared(record.item, lower, &mut faults),
            };
        }
        Restored {
            faults: faults.settle(record.item),
            vanished,
        }
    }

    /// The last link of those for which the device was brought up takes it down, unless the host
    /// has begun to use it. Tells whether the device is gone.
    fn restore_shared(&self, item: Item, lower: &LowerWork, faults: &mut Faults) -> bool {
        if !lower.raised {
            return false;
        }
        let _one_at_a_time = self.hold_parents();
        if self.other_raiser(item, lower.device).is_some() {
            self.forget_raised(item);
            return false;
        }
        let host = &*self.host.0;
        match lower_now(host, lower) {
            Ok(LowerNow::Here(netdev)) => {
                let down = match netdev.state.up {
                    true => put_down(host, &netdev),
                    false => Ok(()),
                };
                let unhushed = match lower.ipv6 {
                    Some(found) => unhush(host, netdev.index, found),
                    None => Ok(()),
                };
                // It is on the list for a moment more, and holds nothing up.
                if down.is_ok() && unhushed.is_ok() {
                    self.forget_raised(item);
                }
                faults.certain(down);
                faults.certain(unhushed);
            }
            Ok(LowerNow::Gone) => return true,
            Ok(LowerNow::Bare) => {}
            Err(error) => faults.certain(Err(error)),
        }
        false
    }

    /// What another link knows of the device, for which that is up, too.
    pub(crate) fn other_raiser(&self, item: Item, device: DeviceId) -> Option<LowerWork> {
        let list = self.lock();
        let links = list.shared.get(&device).into_iter().flatten();
        let mut others = links.filter_map(|link| list.by_generation(*link));
        others.find_map(|(other, entry)| {
            let link = entry.record.as_ref().and_then(Record::link)?;
            let lower = link.lower.as_ref()?;
            (other != item && lower.raised).then(|| lower.clone())
        })
    }

    fn forget_raised(&self, item: Item) {
        let mut list = self.lock();
        let record = (list.entries.get_mut(&item)).and_then(|entry| entry.record.as_mut());
        let link = record.and_then(Record::link_mut);
        if let Some(lower) = link.and_then(|link| link.lower.as_mut()) {
            lower.raised = false;
        }
    }
}

fn put_down(host: &dyn Host, netdev: &Netdev) -> Result<(), HostError> {
    if !host.netdev_usage(netdev)?.is_empty() {
        tracing::info!(netdev = %netdev.name, "left up, since the host uses it by now");
        return Ok(());
    }
    host.set_up(netdev.index, false)
}

fn expect_gone(host: &dyn Host, link: &LinkWork, tag: &str, faults: &mut Faults) {
    match find_link(host, link, tag) {
        Ok(None) => {}
        Ok(Some(netdev)) => {
            let name = netdev.name;
            faults.differs(format!("no network device {name}"), name.to_string());
        }
        Err(error) => faults.certain(Err(error)),
    }
}

/// Brings a device that was lent whole back to what was found: up or down, its own MAC, what was
/// set through its PF, its MTU. Tells whether it is gone.
fn restore_whole(
    host: &dyn Host,
    item: Item,
    lower: &LowerWork,
    whole: &WholeWork,
    faults: &mut Faults,
) -> bool {
    let now = match lower_now(host, lower) {
        Ok(LowerNow::Gone) => return true,
        // Without a driver nothing of a card's own is left; a VF's settings are its PF's.
        Ok(LowerNow::Bare) if whole.vf.is_none() => return false,
        Ok(now) => now.netdev(),
        Err(error) => {
            faults.certain(Err(error));
            return false;
        }
    };
    if let Some(netdev) = &now
        && netdev.state.up
        && !whole.up
    {
        faults.doubtful(host.set_up(netdev.index, false));
    }
    match &whole.vf {
        Some(vf) => restore_vf(host, now.as_ref(), whole, vf, faults),
        None => {
            if let Some(netdev) = now.filter(|netdev| netdev.mac != whole.mac) {
                let given = give_mac(host, &netdev, whole.mac, None);
                faults.doubtful(given.map(|_| ()));
            }
        }
    }
    match lower_now(host, lower) {
        Ok(LowerNow::Here(netdev)) => {
            if netdev.state.mtu != whole.mtu {
                faults.doubtful(give_mtu(host, &netdev, whole.mtu));
            }
            if let Some(found) = lower.ipv6 {
                faults.certain(unhush(host, netdev.index, found));
            }
            raise(host, lower, whole, faults);
            compare(host, lower, whole, faults);
        }
        Ok(LowerNow::Gone) => return true,
        Ok(LowerNow::Bare) => {}
        Err(error) => faults.certain(Err(error)),
    }
    tracing::debug!(%item, lower = %lower.name, "the device below is back");
    false
}

fn raise(host: &dyn Host, lower: &LowerWork, whole: &WholeWork, faults: &mut Faults) {
    match lower_now(host, lower) {
        Ok(LowerNow::Here(netdev)) if netdev.state.up != whole.up => {
            faults.doubtful(host.set_up(netdev.index, whole.up));
        }
        Ok(_) => {}
        Err(error) => faults.doubtful(Err(error)),
    }
}

fn compare(host: &dyn Host, lower: &LowerWork, whole: &WholeWork, faults: &mut Faults) {
    let netdev = match lower_now(host, lower) {
        Ok(LowerNow::Here(netdev)) => netdev,
        Ok(_) => return,
        Err(error) => return faults.certain(Err(error)),
    };
    let name = lower.name;
    if netdev.mac != whole.mac {
        faults.differs(
            format!("{name} with MAC {}", whole.mac),
            format!("MAC {}", netdev.mac),
        );
    }
    if netdev.state.mtu != whole.mtu {
        faults.differs(
            format!("{name} with an MTU of {}", whole.mtu),
            format!("an MTU of {}", netdev.state.mtu),
        );
    }
    if netdev.state.up != whole.up {
        let word = |up| if up { "up" } else { "down" };
        faults.differs(
            format!("{name} {}", word(whole.up)),
            word(netdev.state.up).to_owned(),
        );
    }
}

/// The VF's own MAC first, since some PFs follow what the VF tells them; then what was set through
/// the PF; then, if its driver held on to the guest's MAC, that once more, after it was bound anew.
fn restore_vf(
    host: &dyn Host,
    now: Option<&Netdev>,
    whole: &WholeWork,
    vf: &VfWork,
    faults: &mut Faults,
) {
    let driver = vf.original.driver.as_deref();
    let mut refused = false;
    if let Some(netdev) = now.filter(|netdev| netdev.mac != whole.mac) {
        match give_mac(host, netdev, whole.mac, Some(&vf.vf)) {
            Ok(Given::Directly) => {}
            Ok(Given::Refused(_)) => refused = true,
            Err(error) => faults.doubtful(Err(error)),
        }
    }
    let mut function = FunctionRestorer::new(host, vf.vf.address, driver, Some(vf));
    function.settings();
    let bound = host.vf_state(&vf.vf).map(|state| state.driver);
    match bound {
        Ok(bound) if bound.as_deref() != driver => function.driver(),
        Ok(_) if refused => {
            let again = rebind(host, vf.vf.address, driver);
            function.faults.doubtful(again);
        }
        Ok(_) => {}
        Err(error) => function.faults.doubtful(Err(error)),
    }
    function.netdev_mac();
    function.admin_mac();
    function.verify();
    let Faults {
        certain,
        doubtful,
        differences,
    } = function.faults;
    faults.certain.extend(certain);
    faults.doubtful.extend(doubtful);
    faults.differences.extend(differences);
}
