//! What a simulated host holds.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use conf::{MacAddress, NetdevName, PciAddress, UsbAddress, VfLink};

use super::events::Watchers;
use super::fault::{Effect, Faults};
use super::net::Net;
use super::qos::Qos;
use super::usb::UsbPlugs;
use super::{Quirks, SimulatedShape, VF_DRIVER};
use crate::{HostError, HostEvent, LinkState, NodeAccess, Operation, Usage, VfState, VlanProtocol};

/// Effects that are kept.
const MOST_EFFECTS: usize = 1024;

/// A driver's name: one of the few known ones, nearly always.
pub(super) type Driver = Cow<'static, str>;

#[derive(Debug)]
pub(super) struct State {
    pub(super) shape: SimulatedShape,
    pub(super) quirks: Quirks,
    pub(super) boot: u64,
    pub(super) pfs: Vec<Pf>,
    /// Where each device is kept; without the VFs that do not exist now.
    pub(super) places: HashMap<PciAddress, Place>,
    pub(super) plain: BTreeMap<PciAddress, Plain>,
    /// Groups with several members; every other device has a group of its own.
    pub(super) shared_groups: HashMap<u32, Vec<PciAddress>>,
    pub(super) iommu: bool,
    pub(super) variant: Option<String>,
    pub(super) held_groups: HashSet<u32>,
    /// Nodes of IOMMU groups that others than root may open, or were let.
    pub(super) vfio_nodes: HashMap<u32, NodeAccess>,
    pub(super) usages: HashMap<PciAddress, Vec<Usage>>,
    pub(super) usb_usages: HashMap<(u32, u32), Vec<Usage>>,
    pub(super) refusals: HashSet<(PciAddress, String)>,
    pub(super) net: Net,
    pub(super) qos: Qos,
    pub(super) usb: UsbPlugs,
    pub(super) faults: Faults,
    pub(super) watchers: Watchers,
    pub(super) crashed: bool,
    pub(super) effects_until_crash: Option<u64>,
    pub(super) effects: VecDeque<Effect>,
    pub(super) effect_count: u64,
    random_macs: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Pf(u16),
    Vf(u16, u16),
    Plain,
}

#[derive(Debug)]
pub(super) struct Pf {
    pub(super) address: PciAddress,
    pub(super) link: LinkState,
    /// There is carrier while it is up.
    pub(super) cable: bool,
    pub(super) vfs: Vec<Option<Vf>>,
}

#[derive(Debug, Clone)]
pub(super) struct Vf {
    /// As the PF lists it.
    pub(super) admin_mac: MacAddress,
    /// The PF gave it; else the VF's driver told it, or there is none.
    pub(super) mac_given: bool,
    /// Its driver found its MAC given when it was bound.
    pub(super) took_given_mac: bool,
    pub(super) vlan: (u16, u8, VlanProtocol),
    pub(super) spoof_check: bool,
    pub(super) trust: bool,
    pub(super) link: VfLink,
    pub(super) rate: (u32, u32),
    pub(super) rss_query: bool,
    pub(super) binding: Binding,
    /// Of its own network device, while its ordinary driver has it.
    pub(super) netdev_mac: Option<MacAddress>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Binding {
    pub(super) driver: Option<Driver>,
    pub(super) driver_override: Option<Driver>,
}

/// A device that is neither PF nor VF.
#[derive(Debug, Clone)]
pub(super) struct Plain {
    pub(super) binding: Binding,
    pub(super) group: u32,
    /// The host's driver that takes it.
    pub(super) ordinary: Cow<'static, str>,
    /// Its network device, while a driver makes it.
    pub(super) nic: Option<NetdevName>,
}

/// What a call is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// The whole host.
    Host,
    Pci(PciAddress),
    /// A network device, by index.
    Netdev(u32),
    /// A network device that may not be there.
    Named(NetdevName),
    Usb(UsbAddress),
}

impl From<Option<PciAddress>> for Target {
    fn from(address: Option<PciAddress>) -> Self {
        address.map_or(Self::Host, Self::Pci)
    }
}

/// Why a call ends early.
pub(super) enum Stop {
    Error(HostError),
    Crash,
}

impl From<HostError> for Stop {
    fn from(error: HostError) -> Self {
        Self::Error(error)
    }
}

impl State {
    pub(super) fn new(shape: SimulatedShape) -> Self {
        let mut state = Self {
            shape,
            quirks: Quirks::default(),
            boot: 1,
            pfs: Vec::with_capacity(usize::from(shape.pfs)),
            places: HashMap::with_capacity(usize::from(shape.pfs) + shape.vfs as usize),
            plain: BTreeMap::new(),
            shared_groups: HashMap::new(),
            iommu: true,
            variant: None,
            held_groups: HashSet::new(),
            vfio_nodes: HashMap::new(),
            usages: HashMap::new(),
            usb_usages: HashMap::new(),
            refusals: HashSet::new(),
            net: Net::default(),
            qos: Qos::default(),
            usb: UsbPlugs::default(),
            faults: Faults::default(),
            watchers: Watchers::default(),
            crashed: false,
            effects_until_crash: None,
            effects: VecDeque::new(),
            effect_count: 0,
            random_macs: 0,
        };
        for index in 0..shape.pfs {
            let address = shape.pf_address(index);
            state.places.insert(address, Place::Pf(index));
            state.pfs.push(Pf {
                address,
                link: LinkState {
                    up: true,
                    carrier: true,
                    mtu: 1500,
                },
                cable: true,
                vfs: Vec::new(),
            });
            state.make_vfs(index, shape.vfs_of(index));
        }
        state
    }

    /// Gives a PF fresh VFs in place of those that it has.
    pub(super) fn make_vfs(&mut self, pf: u16, count: u16) {
        for number in 0..self.vf_count(pf) {
            let address = self.shape.vf_address(pf, number);
            if self.places.remove(&address).is_some() {
                self.vf_netdev_gone(pf, number);
                self.usages.remove(&address);
                self.watchers.send(&HostEvent::PciRemoved(address));
            }
        }
        let vfs = (0..count)
            .map(|number| {
                self.places
                    .insert(self.shape.vf_address(pf, number), Place::Vf(pf, number));
                let mut vf = Vf::fresh(self.random_mac());
                if self.qos.without_autoprobe.contains(&pf) {
                    vf.binding.driver = None;
                    vf.netdev_mac = None;
                }
                Some(vf)
            })
            .collect();
        self.pfs[usize::from(pf)].vfs = vfs;
        for number in 0..count {
            let address = self.shape.vf_address(pf, number);
            self.watchers.send(&HostEvent::PciAdded(address));
        }
    }

    pub(super) fn vf_count(&self, pf: u16) -> u16 {
        u16::try_from(self.pfs[usize::from(pf)].vfs.len()).unwrap_or(u16::MAX)
    }

    pub(super) fn place(&self, address: PciAddress) -> Result<Place, HostError> {
        (self.places.get(&address).copied()).ok_or(HostError::NoPciDevice(address))
    }

    pub(super) fn vf_place(&self, address: PciAddress) -> Result<(u16, u16), HostError> {
        match self.place(address)? {
            Place::Vf(pf, number) => Ok((pf, number)),
            Place::Pf(_) | Place::Plain => Err(HostError::NotVirtualFunction(address)),
        }
    }

    pub(super) fn vf(&mut self, address: PciAddress) -> Result<&mut Vf, HostError> {
        let (pf, number) = self.vf_place(address)?;
        let vfs = &mut self.pfs[usize::from(pf)].vfs;
        (vfs.get_mut(usize::from(number)).and_then(Option::as_mut))
            .ok_or(HostError::NoPciDevice(address))
    }

    /// `None` for a PF, whose driver stays.
    pub(super) fn binding(
        &mut self,
        address: PciAddress,
    ) -> Result<Option<&mut Binding>, HostError> {
        Ok(match self.place(address)? {
            Place::Pf(_) => None,
            Place::Vf(..) => Some(&mut self.vf(address)?.binding),
            Place::Plain => self.plain.get_mut(&address).map(|plain| &mut plain.binding),
        })
    }

    pub(super) fn driver(&mut self, address: PciAddress) -> Result<Option<Driver>, HostError> {
        Ok(match self.binding(address)? {
            Some(binding) => binding.driver.clone(),
            None => Some(Cow::Borrowed(super::PF_DRIVER)),
        })
    }

    pub(super) fn group(&self, address: PciAddress) -> Result<u32, HostError> {
        let own = match self.place(address)? {
            Place::Pf(pf) => u32::from(pf),
            Place::Vf(pf, number) => {
                let before = u32::from(pf) * u32::from(self.shape.max_vfs());
                u32::from(self.shape.pfs) + before + u32::from(number)
            }
            Place::Plain => return Ok(self.plain.get(&address).map_or(0, |plain| plain.group)),
        };
        let shared = (self.shared_groups.iter()).find(|(_, members)| members.contains(&address));
        Ok(shared.map_or(own, |(group, _)| *group))
    }

    /// The first VF of a PF that a process holds by vfio.
    pub(super) fn held_vf(&self, pf: u16) -> Option<PciAddress> {
        let vfs = (0..self.vf_count(pf)).map(|number| self.shape.vf_address(pf, number));
        let mut vfs = vfs.filter(|_| !self.held_groups.is_empty());
        vfs.find(|vf| (self.group(*vf)).is_ok_and(|group| self.held_groups.contains(&group)))
    }

    /// Who may open a group's node, which is there while vfio has a device of the group.
    pub(super) fn vfio_access(&mut self, group: u32) -> Option<NodeAccess> {
        let mut devices: Vec<_> = (self.plain.iter())
            .filter(|(_, plain)| plain.group == group)
            .map(|(address, _)| *address)
            .collect();
        devices.extend(self.shared_groups.get(&group).into_iter().flatten());
        let (pfs, vfs) = (u32::from(self.shape.pfs), u32::from(self.shape.max_vfs()));
        if let Some(number) = group.checked_sub(pfs).filter(|_| vfs > 0)
            && let (Ok(pf), Ok(vf)) = (u16::try_from(number / vfs), u16::try_from(number % vfs))
            && pf < self.shape.pfs
        {
            devices.push(self.shape.vf_address(pf, vf));
        }
        let is_there = devices.into_iter().any(|device| {
            let driver = self.driver(device).ok().flatten();
            self.group(device).is_ok_and(|its| its == group)
                && driver.is_some_and(|driver| is_vfio(&driver))
        });
        let access = self.vfio_nodes.get(&group).copied();
        is_there.then(|| access.unwrap_or(NodeAccess::ROOT))
    }

    pub(super) fn group_members(&self, group: u32, of: PciAddress) -> Vec<PciAddress> {
        let mut members = (self.shared_groups.get(&group)).map_or_else(|| vec![of], Clone::clone);
        members.retain(|member| self.places.contains_key(member));
        members.sort_unstable();
        members
    }

    /// Counts and keeps a change that was made; a crash that is due happens now.
    pub(super) fn effect(&mut self, effect: Effect) -> Result<(), Stop> {
        if self.effects.len() == MOST_EFFECTS {
            self.effects.pop_front();
        }
        self.effects.push_back(effect);
        self.effect_count += 1;
        match &mut self.effects_until_crash {
            Some(left) if *left <= 1 => {
                self.crashed = true;
                self.effects_until_crash = None;
                Err(Stop::Crash)
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Takes the device from its driver.
    pub(super) fn take_from_driver(&mut self, address: PciAddress) -> Result<(), Stop> {
        let group = self.group(address)?;
        if self.held_groups.contains(&group) && self.driver(address)?.is_some_and(|d| is_vfio(&d)) {
            return Err(self.kernel(Operation::Unbind, Some(address), EBUSY).into());
        }
        let Some(driver) = self
            .binding(address)?
            .and_then(|binding| binding.driver.take())
        else {
            return Ok(());
        };
        if let Place::Vf(pf, number) = self.place(address)? {
            self.vf_netdev_gone(pf, number);
        }
        self.nic_gone(address);
        if self.vfio_access(group).is_none() {
            self.vfio_nodes.remove(&group);
        }
        self.watchers.send(&HostEvent::PciDriverChanged(address));
        self.effect(Effect::Unbound(address, driver.into_owned()))
    }

    /// Lets the driver that the override names, or the ordinary one, take the device; it may
    /// refuse.
    pub(super) fn probe(&mut self, address: PciAddress) -> Result<(), Stop> {
        let Some(binding) = self.binding(address)? else {
            return Ok(());
        };
        if binding.driver.is_some() {
            return Ok(());
        }
        let driver_override = binding.driver_override.clone();
        let ordinary = self.ordinary_driver(address);
        let driver = driver_override.unwrap_or_else(|| ordinary.clone());
        if (self.refusals).contains(&(address, driver.clone().into_owned())) {
            return Ok(());
        }
        if let Some(binding) = self.binding(address)? {
            binding.driver = Some(driver.clone());
        }
        if let Place::Vf(pf, number) = self.place(address)?
            && driver == VF_DRIVER
        {
            let (random, mailbox) = (self.random_mac(), self.quirks.mailbox);
            let heard = !mailbox || self.pfs[usize::from(pf)].link.up;
            let vf = self.vf(address)?;
            if !vf.mac_given {
                vf.admin_mac = MacAddress::ZERO;
            }
            // Where the PF gave none, igbvf makes a new one up at each probe.
            let own = Some(vf.admin_mac).filter(|mac| heard && !mac.is_zero());
            let own = own.unwrap_or(random);
            vf.took_given_mac = vf.mac_given && own == vf.admin_mac;
            vf.netdev_mac = Some(own);
            if mailbox && heard && !vf.mac_given {
                vf.admin_mac = own;
            }
            self.link_changed(pf, number);
        }
        if driver == ordinary {
            self.nic_appears(address);
        }
        self.watchers.send(&HostEvent::PciDriverChanged(address));
        self.effect(Effect::Bound(address, driver.into_owned()))
    }

    pub(super) fn override_driver(
        &mut self,
        address: PciAddress,
        driver: Option<&str>,
    ) -> Result<(), Stop> {
        let Some(binding) = self.binding(address)? else {
            return Ok(());
        };
        if binding.driver_override.as_deref() == driver {
            return Ok(());
        }
        binding.driver_override = driver.map(|name| Cow::Owned(name.to_owned()));
        self.effect(Effect::Override(address, driver.map(str::to_owned)))
    }

    pub(super) fn vf_state(&mut self, address: PciAddress) -> Result<VfState, HostError> {
        let (pf, number) = self.vf_place(address)?;
        let (tells_trust, tells_rss) = (self.quirks.trust, self.quirks.rss_query);
        let vf = self.vf(address)?;
        Ok(VfState {
            mac: vf.admin_mac,
            vlan: vf.vlan.0,
            qos: vf.vlan.1,
            vlan_protocol: vf.vlan.2,
            spoof_check: Some(vf.spoof_check),
            trust: tells_trust.then_some(vf.trust),
            link: Some(vf.link),
            min_rate: vf.rate.0,
            max_rate: vf.rate.1,
            rss_query: tells_rss.then_some(vf.rss_query),
            driver: vf.binding.driver.as_deref().map(str::to_owned),
            netdev: vf.netdev_mac.map(|mac| (vf_netdev(pf, number), mac)),
        })
    }

    /// What the kernel refuses, in words.
    pub(super) fn kernel(
        &self,
        operation: Operation,
        target: impl Into<Target>,
        errno: i32,
    ) -> HostError {
        let target = match target.into() {
            Target::Host => String::from("the simulated host"),
            Target::Named(name) => format!("'{name}'"),
            Target::Usb(address) => address.to_string(),
            Target::Netdev(index) => self.netdev_text(index),
            Target::Pci(address) => match self.places.get(&address) {
                Some(Place::Pf(pf)) => format!("'{}' ({address})", pf_netdev(*pf)),
                Some(Place::Vf(pf, number)) => {
                    format!("VF {number} of '{}' ({address})", pf_netdev(*pf))
                }
                Some(Place::Plain) | None => address.to_string(),
            },
        };
        HostError::Kernel {
            operation,
            target,
            source: std::io::Error::from_raw_os_error(errno),
        }
    }

    pub(super) fn link_changed(&self, pf: u16, number: u16) {
        self.watchers.send(&HostEvent::LinkChanged {
            ifindex: vf_ifindex(self.shape, pf, number),
            netdev: vf_netdev(pf, number),
        });
    }

    /// A locally administered MAC that no device of this host had before.
    pub(super) fn random_mac(&mut self) -> MacAddress {
        self.random_macs += 1;
        let [a, b, c, d] = self.random_macs.to_be_bytes();
        MacAddress::new([0x3a, 0x5d, a, b, c, d])
    }
}

impl Vf {
    pub(super) fn fresh(netdev_mac: MacAddress) -> Self {
        Self {
            admin_mac: MacAddress::ZERO,
            mac_given: false,
            took_given_mac: false,
            vlan: (0, 0, VlanProtocol::Dot1q),
            spoof_check: true,
            trust: false,
            link: VfLink::Auto,
            rate: (0, 0),
            rss_query: false,
            binding: Binding {
                driver: Some(Cow::Borrowed(VF_DRIVER)),
                driver_override: None,
            },
            netdev_mac: Some(netdev_mac),
        }
    }
}

pub(super) const EBUSY: i32 = rustix::io::Errno::BUSY.raw_os_error();

pub(super) fn is_vfio(driver: &str) -> bool {
    driver.contains("vfio")
}

pub(super) const FIRST_PF_INDEX: u32 = 2;
pub(super) const FIRST_VF_INDEX: u32 = 1000;

pub(super) fn pf_netdev(pf: u16) -> String {
    format!("sim{pf}")
}

pub(super) fn vf_netdev(pf: u16, number: u16) -> String {
    format!("sim{pf}v{number}")
}

pub(super) fn pf_ifindex(pf: u16) -> u32 {
    u32::from(pf) + FIRST_PF_INDEX
}

pub(super) fn vf_ifindex(shape: SimulatedShape, pf: u16, number: u16) -> u32 {
    FIRST_VF_INDEX + u32::from(pf) * u32::from(shape.max_vfs()) + u32::from(number)
}

/// The PF, and the VF's number if it is a VF's, that a simulated name means.
pub(super) fn parse_netdev(name: &str) -> Option<(u16, Option<u16>)> {
    let rest = name.strip_prefix("sim")?;
    let (pf, number) = match rest.split_once('v') {
        Some((pf, number)) => (pf.parse().ok()?, Some(number.parse().ok()?)),
        None => (rest.parse().ok()?, None),
    };
    let canonical = number.map_or_else(|| pf_netdev(pf), |number| vf_netdev(pf, number));
    (canonical == name).then_some((pf, number))
}
