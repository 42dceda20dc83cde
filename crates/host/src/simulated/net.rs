//! The network devices of the simulated host.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::PipeReader;

use conf::{DirectMode, MacAddress, NetdevName, PciAddress};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::VF_DRIVER;
use super::link_rules::DEFAULT_MTU;
use super::state::{
    FIRST_PF_INDEX, FIRST_VF_INDEX, Pf, State, Target, Vf, parse_netdev, pf_ifindex, pf_netdev,
    vf_ifindex, vf_netdev,
};
use crate::{
    BridgePort, Counters, HostEvent, Ipv6Autoconf, LinkState, LinkType, Netdev, RxFilter, Usage,
    VlanId,
};

/// Devices that are neither a PF's nor a VF's are counted from here: there are fewer VFs.
const FIRST_MADE_INDEX: u32 = 100_000;

#[derive(Debug, Default)]
pub(super) struct Net {
    made: BTreeMap<u32, Made>,
    /// Names of those, and alternative names of all.
    names: HashMap<String, u32>,
    /// What was changed on a device, whichever it is.
    common: HashMap<u32, Common>,
    /// What sits on a device.
    uppers: HashMap<u32, BTreeSet<u32>>,
    pub(super) usages: HashMap<u32, Vec<Usage>>,
    pub(super) counters: HashMap<u32, Counters>,
    /// Bridge ports and MACs.
    pub(super) tables: BTreeSet<(u32, MacAddress)>,
    pub(super) without_vhost: bool,
    count: u32,
}

/// A device that is neither a PF's nor a VF's.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) name: NetdevName,
    pub(super) kind: Option<String>,
    pub(super) mac: MacAddress,
    pub(super) lower: Option<u32>,
    /// Of a macvtap or macvlan.
    pub(super) mode: Option<DirectMode>,
    /// Of a VLAN device.
    pub(super) vlan: Option<VlanId>,
    pub(super) alias: Option<String>,
    pub(super) pci: Option<PciAddress>,
    /// Ready once all its queues are closed, where it goes with them.
    pub(super) users: Option<PipeReader>,
    /// Part of the host: there after a boot.
    pub(super) lasting: bool,
}

/// What every device has, as far as it was changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Common {
    /// Of all but PFs.
    pub(super) up: bool,
    /// Of all but PFs.
    pub(super) mtu: Option<u32>,
    /// A PF's.
    pub(super) mac: Option<MacAddress>,
    pub(super) master: Option<u32>,
    pub(super) port: Option<BridgePort>,
    pub(super) filter: RxFilter,
    pub(super) alternative_names: Vec<String>,
    /// As the kernel has it for a new device, unless it was changed.
    pub(super) ipv6: Option<Ipv6Autoconf>,
}

/// Whose a network device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    Pf(u16),
    Vf(u16, u16),
    Made,
}

/// Looking.
impl State {
    pub(super) fn index_of(&self, name: &str) -> Option<u32> {
        let index = match parse_netdev(name) {
            Some((pf, None)) => pf_ifindex(pf),
            Some((pf, Some(number))) => vf_ifindex(self.shape, pf, number),
            None => *self.net.names.get(name)?,
        };
        // A number beyond the PF's last VF would be the next PF's.
        let named_so = parse_netdev(name).is_none_or(|_| self.netdev_name(index) == name);
        (named_so && self.who(index).is_some()).then_some(index)
    }

    pub(super) fn who(&self, index: u32) -> Option<Who> {
        if self.net.made.contains_key(&index) {
            return Some(Who::Made);
        }
        if let Some(of_vf) = index.checked_sub(FIRST_VF_INDEX) {
            let each = u32::from(self.shape.max_vfs());
            let pf = u16::try_from(of_vf / each).ok()?;
            let number = u16::try_from(of_vf % each).ok()?;
            let vf = self.vf_at(pf, number)?;
            return vf.netdev_mac.map(|_| Who::Vf(pf, number));
        }
        let pf = u16::try_from(index.checked_sub(FIRST_PF_INDEX)?).ok()?;
        self.pf_at(pf).map(|_| Who::Pf(pf))
    }

    pub(super) fn netdev_at(&self, index: u32) -> Option<Netdev> {
        let who = self.who(index)?;
        let common = self.common(index);
        let mut netdev = Netdev {
            index,
            name: self.netdev_name(index).parse().ok()?,
            alternative_names: common.alternative_names,
            mac: self.mac_of(index)?,
            state: self.link_of(index)?,
            kind: None,
            vlan: None,
            lower: None,
            master: common.master,
            alias: None,
            pci: self.pci_of(Target::Netdev(index)),
            link_type: LinkType::Ethernet,
        };
        if let (Who::Made, Some(made)) = (who, self.net.made.get(&index)) {
            netdev.kind.clone_from(&made.kind);
            netdev.vlan = made.vlan;
            netdev.lower = made.lower;
            if made.kind.as_deref() == Some("loopback") {
                netdev.link_type = LinkType::Loopback;
            }
            netdev.alias.clone_from(&made.alias);
        }
        Some(netdev)
    }

    pub(super) fn all_netdevs(&self) -> Vec<Netdev> {
        let vfs = (self.pfs.iter().zip(0_u16..)).flat_map(|(pf, index)| {
            let numbers = (0_u16..).zip(&pf.vfs).filter(|(_, vf)| vf.is_some());
            numbers.map(move |(number, _)| vf_ifindex(self.shape, index, number))
        });
        let pfs = (0..self.shape.pfs).map(pf_ifindex);
        let all = pfs.chain(vfs).chain(self.net.made.keys().copied());
        all.filter_map(|index| self.netdev_at(index)).collect()
    }

    /// What sits on a device, and what it belongs to; our own devices only where asked.
    pub(super) fn stacked_on(&self, index: u32, with_ours: bool) -> Vec<Usage> {
        let netdev = || self.netdev_name(index);
        let uppers = self.net.uppers.get(&index).into_iter().flatten();
        let uppers = uppers.filter_map(|upper| self.netdev_at(*upper));
        let uppers = uppers.filter(|upper| with_ours || !upper.is_ours());
        let mut usages: Vec<_> = uppers
            .map(|upper| Usage::Lower {
                netdev: netdev(),
                upper: upper.name.to_string(),
            })
            .collect();
        usages.extend(self.common(index).master.map(|master| Usage::Enslaved {
            netdev: netdev(),
            master: self.netdev_name(master),
        }));
        usages
    }

    pub(super) fn netdev_usages(&self, index: u32) -> Vec<Usage> {
        let of_vf = match self.pci_of(Target::Netdev(index)) {
            Some(address) => self.usages.get(&address),
            None => None,
        };
        let told = of_vf.or(self.net.usages.get(&index));
        let mut usages = told.cloned().unwrap_or_default();
        usages.extend(self.stacked_on(index, false));
        usages
    }

    /// The PCI function behind a call's target.
    pub(super) fn pci_of(&self, target: Target) -> Option<PciAddress> {
        let index = match target {
            Target::Host | Target::Usb(_) => return None,
            Target::Pci(address) => return Some(address),
            Target::Named(name) => self.index_of(name.as_str())?,
            Target::Netdev(index) => index,
        };
        match self.who(index)? {
            Who::Pf(pf) => Some(self.pf_at(pf)?.address),
            Who::Vf(pf, number) => Some(self.shape.vf_address(pf, number)),
            Who::Made => self.net.made.get(&index)?.pci,
        }
    }

    pub(super) fn netdev_text(&self, index: u32) -> String {
        if self.who(index).is_none() {
            return format!("network device {index}");
        }
        let name = self.netdev_name(index);
        match self.pci_of(Target::Netdev(index)) {
            Some(address) => format!("'{name}' ({address})"),
            None => format!("'{name}'"),
        }
    }

    /// The name, whether or not the device is there.
    pub(super) fn netdev_name(&self, index: u32) -> String {
        if let Some(made) = self.net.made.get(&index) {
            return made.name.to_string();
        }
        let short = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
        match index.checked_sub(FIRST_VF_INDEX) {
            Some(of_vf) => {
                let each = u32::from(self.shape.max_vfs());
                vf_netdev(short(of_vf / each), short(of_vf % each))
            }
            None => pf_netdev(short(index.saturating_sub(FIRST_PF_INDEX))),
        }
    }

    pub(super) fn made(&self, index: u32) -> Option<&Made> {
        self.net.made.get(&index)
    }

    pub(super) fn made_mut(&mut self, index: u32) -> Option<&mut Made> {
        self.net.made.get_mut(&index)
    }

    pub(super) fn common(&self, index: u32) -> Common {
        self.net.common.get(&index).cloned().unwrap_or_default()
    }

    pub(super) fn change(&mut self, index: u32, change: impl FnOnce(&mut Common)) {
        let mut common = self.common(index);
        change(&mut common);
        if common == Common::default() {
            self.net.common.remove(&index);
        } else {
            self.net.common.insert(index, common);
        }
    }

    /// The macvtaps and macvlans on a device.
    pub(super) fn macvlans_on(&self, lower: u32) -> impl Iterator<Item = (u32, &Made)> {
        let uppers = self.net.uppers.get(&lower).into_iter().flatten();
        let made = uppers.filter_map(|index| Some((*index, self.made(*index)?)));
        made.filter(|(_, made)| made.mode.is_some())
    }

    /// The VLAN devices on a device, with their numbers.
    pub(super) fn vlans_on(&self, lower: u32) -> impl Iterator<Item = (u32, VlanId)> {
        let uppers = self.net.uppers.get(&lower).into_iter().flatten();
        uppers.filter_map(|index| Some((*index, self.made(*index)?.vlan?)))
    }

    pub(super) fn link_of(&self, index: u32) -> Option<LinkState> {
        let common = self.common(index);
        let mtu = common.mtu.unwrap_or(DEFAULT_MTU);
        let carrier_below = match self.who(index)? {
            Who::Pf(pf) => return Some(self.pf_at(pf)?.link),
            Who::Vf(pf, _) => self.pf_at(pf)?.link.carrier,
            Who::Made => {
                let made = self.made(index)?;
                made.lower
                    .is_none_or(|lower| self.link_of(lower).is_some_and(|link| link.carrier))
            }
        };
        Some(LinkState {
            up: common.up,
            carrier: common.up && carrier_below,
            mtu,
        })
    }

    pub(super) fn mac_of(&self, index: u32) -> Option<MacAddress> {
        match self.who(index)? {
            Who::Pf(pf) => {
                let [high, low] = pf.to_be_bytes();
                let own = MacAddress::new([0x3a, 0x5c, 0, 0, high, low]);
                Some(self.common(index).mac.unwrap_or(own))
            }
            Who::Vf(pf, number) => self.vf_at(pf, number)?.netdev_mac,
            Who::Made => {
                let made = self.made(index)?;
                match (made.mode, made.lower) {
                    // It has none of its own.
                    (Some(DirectMode::Passthrough), Some(lower)) => self.mac_of(lower),
                    _ => Some(made.mac),
                }
            }
        }
    }

    pub(super) fn pf_at(&self, pf: u16) -> Option<&Pf> {
        self.pfs.get(usize::from(pf))
    }

    fn vf_at(&self, pf: u16, number: u16) -> Option<&Vf> {
        let vfs = &self.pf_at(pf)?.vfs;
        vfs.get(usize::from(number))?.as_ref()
    }
}

/// Coming and going.
impl State {
    /// Whether a device could be called that.
    pub(super) fn is_free(&self, name: &str) -> bool {
        self.index_of(name).is_none()
    }

    pub(super) fn add_made(&mut self, made: Made) -> u32 {
        let index = FIRST_MADE_INDEX + self.net.count;
        self.net.count += 1;
        self.net.names.insert(made.name.to_string(), index);
        if let Some(lower) = made.lower {
            self.net.uppers.entry(lower).or_default().insert(index);
        }
        self.net.made.insert(index, made);
        self.netdev_changed(index);
        index
    }

    /// The device is gone, with all that sits on it.
    pub(super) fn remove_made(&mut self, index: u32) -> Option<Made> {
        let netdev = self.netdev_name(index);
        let made = self.net.made.remove(&index)?;
        self.net.names.remove(made.name.as_str());
        if let Some(lower) = made.lower
            && let Some(uppers) = self.net.uppers.get_mut(&lower)
        {
            uppers.remove(&index);
        }
        let of = |common: &&mut Common| common.master == Some(index);
        for member in self.net.common.values_mut().filter(of) {
            (member.master, member.port) = (None, None);
        }
        let common = &mut self.net.common;
        common.retain(|_, common| *common != Common::default());
        self.leave_nothing(index);
        self.send_removed(index, netdev);
        Some(made)
    }

    /// A VF's network device goes, if there is one.
    pub(super) fn vf_netdev_gone(&mut self, pf: u16, number: u16) {
        let vfs = self.pfs.get_mut(usize::from(pf)).map(|pf| &mut pf.vfs);
        let vf = vfs.and_then(|vfs| vfs.get_mut(usize::from(number))?.as_mut());
        if vf.is_some_and(|vf| vf.netdev_mac.take().is_some()) {
            let index = vf_ifindex(self.shape, pf, number);
            self.leave_nothing(index);
            self.send_removed(index, vf_netdev(pf, number));
        }
    }

    /// The network device of a NIC without VFs goes, if there is one.
    pub(super) fn nic_gone(&mut self, address: PciAddress) {
        let nic = self.plain.get(&address).and_then(|plain| plain.nic);
        let index = nic.and_then(|nic| self.index_of(nic.as_str()));
        if let Some(index) = index {
            self.remove_made(index);
        }
    }

    /// The driver of a NIC without VFs makes its network device.
    pub(super) fn nic_appears(&mut self, address: PciAddress) {
        let nic = self.plain.get(&address).and_then(|plain| plain.nic);
        if let Some(name) = nic.filter(|name| self.is_free(name.as_str())) {
            let [_, _, _, slot] = u32::from(address.slot()).to_be_bytes();
            self.add_made(Made {
                name,
                kind: None,
                mac: MacAddress::new([0x3a, 0x5b, 0, 0, slot, address.function()]),
                lower: None,
                mode: None,
                vlan: None,
                alias: None,
                pci: Some(address),
                users: None,
                lasting: true,
            });
        }
    }

    pub(super) fn ordinary_driver(&self, address: PciAddress) -> Cow<'static, str> {
        let plain = self.plain.get(&address);
        plain.map_or(Cow::Borrowed(VF_DRIVER), |plain| plain.ordinary.clone())
    }

    /// Takes away what hangs on a device that goes.
    fn leave_nothing(&mut self, index: u32) {
        for upper in self.net.uppers.remove(&index).unwrap_or_default() {
            self.remove_made(upper);
        }
        let common = self.net.common.remove(&index).unwrap_or_default();
        for name in common.alternative_names {
            self.net.names.remove(&name);
        }
        self.forget_macs(index);
        self.net.usages.remove(&index);
        self.net.counters.remove(&index);
        self.qos.netdev_gone(index);
    }

    /// The tables of bridges without that port.
    pub(super) fn forget_macs(&mut self, port: u32) {
        let all = (port, MacAddress::ZERO)..=(port, MacAddress::new([0xff; 6]));
        let behind: Vec<_> = self.net.tables.range(all).copied().collect();
        for entry in behind {
            self.net.tables.remove(&entry);
        }
    }

    /// Taps whose last user has gone, go.
    pub(super) fn close_unused_taps(&mut self) {
        let taps = self.net.made.iter();
        let (taps, mut fds): (Vec<_>, Vec<_>) = taps
            .filter_map(|(index, made)| {
                let users = made.users.as_ref()?;
                Some((*index, PollFd::new(users, PollFlags::IN)))
            })
            .unzip();
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        if fds.is_empty() || poll(&mut fds, Some(&at_once)).is_err() {
            return;
        }
        let all = taps.into_iter().zip(&fds);
        let unused = all.filter(|(_, fd)| fd.revents().contains(PollFlags::HUP));
        let unused: Vec<_> = unused.map(|(index, _)| index).collect();
        for index in unused {
            self.remove_made(index);
        }
    }

    /// What a boot leaves of the network devices: the host's own, as they were made.
    pub(super) fn forget_links(&mut self) {
        let made = self.net.made.iter().filter(|(_, made)| !made.lasting);
        let gone: Vec<_> = made.map(|(index, _)| *index).collect();
        for index in gone {
            self.remove_made(index);
        }
        let kept = |common: &Common| Common {
            alternative_names: common.alternative_names.clone(),
            ..Common::default()
        };
        let common = &mut self.net.common;
        common
            .values_mut()
            .for_each(|common| *common = kept(common));
        common.retain(|_, common| *common != Common::default());
        self.net.tables.clear();
        self.net.usages.clear();
        self.net.counters.clear();
        for pf in &mut self.pfs {
            pf.link = LinkState {
                up: true,
                carrier: pf.cable,
                mtu: DEFAULT_MTU,
            };
        }
    }

    pub(super) fn add_alternative_name(&mut self, index: u32, name: &str) {
        self.net.names.insert(name.to_owned(), index);
        self.change(index, |common| {
            common.alternative_names.push(name.to_owned());
        });
    }

    pub(super) fn rename_made(&mut self, index: u32, name: NetdevName) {
        if let Some(made) = self.net.made.get_mut(&index) {
            let old = std::mem::replace(&mut made.name, name);
            let plain = made.pci.and_then(|address| self.plain.get_mut(&address));
            if let Some(plain) = plain {
                plain.nic = Some(name);
            }
            self.net.names.remove(old.as_str());
            self.net.names.insert(name.to_string(), index);
            self.netdev_changed(index);
        }
    }

    pub(super) fn netdev_changed(&self, index: u32) {
        self.watchers.send(&HostEvent::LinkChanged {
            ifindex: index,
            netdev: self.netdev_name(index),
        });
    }

    fn send_removed(&self, ifindex: u32, netdev: String) {
        let event = HostEvent::LinkRemoved { ifindex, netdev };
        self.watchers.send(&event);
    }
}
