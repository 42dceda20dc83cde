//! A guest's tap that goes to another place while the guest runs: another bridge, or other VLANs or
//! another isolation in the one where it is.

use std::cell::Cell;

use conf::{MacAddress, NetdevName, Uuid};
use host::{BridgePort, Host, HostError, Netdev};

use crate::assigner::Assigner;
use crate::change::ChangeError;
use crate::device::Generation;
use crate::link::{Changing, name_of};
use crate::patience::insist;
use crate::record::{LinkKind, LinkWork, Record};

/// How a tap stands in a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapSeat {
    /// The bridge.
    pub bridge: NetdevName,
    /// As a port of it. `None` of a setting: as a new port has it.
    pub port: BridgePort,
    /// The guest's MAC is in the bridge's table while the guest runs.
    pub static_mac: bool,
    /// Bytes; `None`: those of the bridge.
    pub mtu: Option<u32>,
}

/// On which network a tap stands, as the list shows it; both `None`: on none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeatOwner {
    /// The network's name.
    pub network: Option<String>,
    /// The network's port.
    pub port: Option<Uuid>,
}

/// A tap that is moved.
struct Move<'a> {
    host: &'a dyn Host,
    /// As it was before.
    tap: Netdev,
    guest_mac: MacAddress,
    /// The guest's vCPUs run.
    runs: bool,
    /// It need not leave its bridge.
    stays: bool,
    /// It has left it.
    left: Cell<bool>,
}

impl Assigner {
    /// Moves a lent tap from where it stands to another place, or gives it other settings there;
    /// recorded first, and read back. Where it has to leave its bridge it is off meanwhile, so that no
    /// frame of it goes where it must not; else nothing is interrupted. `runs`: the guest's vCPUs do.
    ///
    /// A failure brings it back to `from`. `None`: where it stands is not known, since an earlier move was
    /// cut short; then it leaves whatever bridge it is in, and a failure leaves it where it is.
    ///
    /// # Errors
    /// It is no tap of ours in a bridge, there is no such bridge, or the kernel refused.
    pub fn move_tap(
        &self,
        generation: Generation,
        from: Option<&TapSeat>,
        to: &TapSeat,
        owner: SeatOwner,
        runs: bool,
    ) -> Result<(), ChangeError> {
        let mut lent = self.borrow_lent(generation)?;
        let is_ours = |link: &&LinkWork| link.kind == LinkKind::Tap && !link.existing;
        let link = lent.record.link().filter(is_ours);
        let Some(link) = link.filter(|link| link.bridge.is_some()).cloned() else {
            return Err(ChangeError::NoSuchSetting {
                generation,
                setting: "place in a bridge",
            });
        };
        let host = &*self.host.0;
        let tap = lent.netdev_of(&link)?;
        let bridge = bridge(host, to.bridge).map_err(|source| lent.refused(source))?;
        let before = lent.record.clone();
        note_seat(&mut lent.record, to, bridge.index, owner);
        if let Err(error) = self.keep_seat(&mut lent) {
            // Its record on disk is the old one still; what is known has to agree with it.
            lent.record = before;
            let _ = self.keep_seat(&mut lent);
            return Err(error);
        }
        let moving = Move {
            host,
            guest_mac: link.guest_mac,
            runs,
            stays: from.is_some_and(|from| stays(&tap, from, to, &bridge)),
            left: Cell::new(false),
            tap,
        };
        let error = match moving.go(from, to, &bridge) {
            Ok(None) => return Ok(()),
            Ok(Some(found)) => ChangeError::Elsewhere {
                tap: link.name,
                wanted: to.bridge,
                found,
            },
            Err(source) => lent.refused(source).into(),
        };
        // What can't be undone is told by the next comparison.
        let undone = moving.back(from, to);
        let undone = undone.map_err(|source| ChangeError::from(lent.refused(source)));
        lent.record = before;
        if let Err(left) = self.keep_seat(&mut lent).and(undone) {
            tracing::warn!(tap = %link.name, error = %left, "it is not back where it was");
        }
        Err(error)
    }

    /// Writes what is known of where it stands, and has the list show it.
    fn keep_seat(&self, lent: &mut Changing<'_>) -> Result<(), ChangeError> {
        if let Some(entry) = self.lock().entries.get_mut(&lent.item) {
            entry.holder.clone_from(&lent.record.holder);
        }
        Ok(lent.keep()?)
    }
}

impl Move<'_> {
    /// Where it is instead, in words, if the kernel agreed and did something else.
    fn go(
        &self,
        from: Option<&TapSeat>,
        to: &TapSeat,
        bridge: &Netdev,
    ) -> Result<Option<String>, HostError> {
        match from.filter(|_| self.stays) {
            Some(from) => self.set_in_place(from, to)?,
            None => {
                let mtu = to.mtu.unwrap_or(bridge.state.mtu);
                self.join(to, bridge.index, mtu)?;
            }
        }
        let now = self.host.netdev(self.tap.name.as_str())?;
        if now.master == Some(bridge.index) && now.state.up {
            return Ok(None);
        }
        Ok(Some(match now.master {
            Some(_) if !now.state.up => "down".to_owned(),
            Some(master) => format!("in {}", name_of(self.host, master)),
            None => "in no bridge".to_owned(),
        }))
    }

    fn set_in_place(&self, from: &TapSeat, to: &TapSeat) -> Result<(), HostError> {
        let (host, index) = (self.host, self.tap.index);
        let port = differing(&from.port, &to.port);
        if port != BridgePort::default() {
            insist(|| host.set_bridge_port(index, &port))?;
        }
        if self.runs && from.static_mac != to.static_mac {
            insist(|| host.set_bridge_mac(index, self.guest_mac, to.static_mac))?;
        }
        Ok(())
    }

    fn join(&self, seat: &TapSeat, bridge: u32, mtu: u32) -> Result<(), HostError> {
        let (host, index) = (self.host, self.tap.index);
        host.set_up(index, false)?;
        self.left.set(true);
        host.set_master(index, None)?;
        if host.netdev(self.tap.name.as_str())?.state.mtu != mtu {
            host.set_mtu(index, mtu)?;
        }
        host.set_master(index, Some(bridge))?;
        if seat.port != BridgePort::default() {
            host.set_bridge_port(index, &seat.port)?;
        }
        if seat.static_mac && self.runs {
            host.set_bridge_mac(index, self.guest_mac, true)?;
        }
        host.set_up(index, true)
    }

    /// Whatever was done: to the place where it was.
    fn back(&self, from: Option<&TapSeat>, to: &TapSeat) -> Result<(), HostError> {
        let (Some(from), Some(master)) = (from, self.tap.master) else {
            return Ok(()); // nobody knows where it was
        };
        if self.stays {
            return self.set_in_place(to, from);
        }
        if !self.left.get() && self.host.netdev(self.tap.name.as_str())?.state.up {
            return Ok(());
        }
        insist(|| self.join(from, master, self.tap.state.mtu))
    }
}

/// Whether a tap can stay in its bridge: nobody but the bridge knows what VLANs a new port has.
fn stays(tap: &Netdev, from: &TapSeat, to: &TapSeat, bridge: &Netdev) -> bool {
    let vlans = (&from.port.vlans, &to.port.vlans);
    tap.master == Some(bridge.index)
        && from.bridge == to.bridge
        && (vlans.0 == vlans.1 || matches!(vlans, (Some(_), Some(_))))
}

fn note_seat(record: &mut Record, seat: &TapSeat, bridge: u32, owner: SeatOwner) {
    (record.holder.network, record.holder.port) = (owner.network, owner.port);
    if let Some(link) = record.link_mut() {
        link.bridge = Some(seat.bridge);
        link.bridge_index = Some(bridge);
        link.static_mac = seat.static_mac;
    }
}

fn bridge(host: &dyn Host, name: NetdevName) -> Result<Netdev, HostError> {
    let netdev = host.netdev(name.as_str())?;
    if netdev.kind.as_deref() == Some("bridge") {
        return Ok(netdev);
    }
    Err(HostError::Unsupported {
        target: format!("'{name}'"),
        reason: "it is no bridge".to_owned(),
    })
}

/// What has to be set, so that a port that is as `from` becomes as `to`.
fn differing(from: &BridgePort, to: &BridgePort) -> BridgePort {
    // What is not said is what a new port has: it is not isolated, learns and floods.
    let flag = |from: Option<bool>, to: Option<bool>, fresh: bool| {
        let to = to.unwrap_or(fresh);
        (from.unwrap_or(fresh) != to).then_some(to)
    };
    BridgePort {
        isolated: flag(from.isolated, to.isolated, false),
        learning: flag(from.learning, to.learning, true),
        unicast_flood: flag(from.unicast_flood, to.unicast_flood, true),
        vlans: to.vlans.clone().filter(|_| from.vlans != to.vlans),
    }
}
