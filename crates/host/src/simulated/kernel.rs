//! The simulated host as a [`Host`].

use conf::{MacAddress, PciAddress};

use super::net::Who;
use super::state::{
    EBUSY, Place, State, Stop, Target, is_vfio, pf_ifindex, pf_netdev, vf_ifindex, vf_netdev,
};
use super::{Effect, NIC_DRIVER, PF_DRIVER, SimulatedHost, VF_DRIVER};
use crate::{
    Host, HostError, HostEvents, IommuGroup, LinkState, NodeAccess, Operation, PciDevice,
    PhysicalFunction, Sriov, Usage, VfAbilities, VfSetting, VfState, VfioHolder, VirtualFunction,
    VlanProtocol,
};

const EINVAL: i32 = rustix::io::Errno::INVAL.raw_os_error();
const ENOENT: i32 = rustix::io::Errno::NOENT.raw_os_error();
const ERANGE: i32 = rustix::io::Errno::RANGE.raw_os_error();
const EPROTONOSUPPORT: i32 = rustix::io::Errno::PROTONOSUPPORT.raw_os_error();
const EOPNOTSUPP: i32 = rustix::io::Errno::OPNOTSUPP.raw_os_error();

impl Host for SimulatedHost {
    fn physical_functions(&self) -> Result<Vec<PhysicalFunction>, HostError> {
        self.call(Operation::ReadInventory, None, |state, _| {
            Ok((0..state.shape.pfs).map(|pf| physical(state, pf)).collect())
        })
    }

    fn physical_function(&self, netdev: &str) -> Result<PhysicalFunction, HostError> {
        self.call(
            Operation::ReadInventory,
            None,
            |state, _| match find_netdev(state, netdev)?.1 {
                Who::Pf(pf) => Ok(physical(state, pf)),
                Who::Vf(..) | Who::Made => {
                    Err(HostError::NotPhysicalFunction(netdev.to_owned()).into())
                }
            },
        )
    }

    fn virtual_functions(&self, pf: &PhysicalFunction) -> Result<Vec<VirtualFunction>, HostError> {
        let address = Some(pf.address);
        self.call(Operation::ReadInventory, address, |state, _| {
            let index = find_pf(state, pf.address)?;
            let vfs = state.pfs[usize::from(index)].vfs.iter();
            let present = (0_u16..).zip(vfs).filter(|(_, vf)| vf.is_some());
            Ok(present
                .map(|(number, _)| virtual_function(state, index, number))
                .collect())
        })
    }

    fn virtual_function(&self, address: PciAddress) -> Result<VirtualFunction, HostError> {
        self.call(Operation::ReadInventory, Some(address), |state, _| {
            let (pf, number) = state.vf_place(address)?;
            Ok(virtual_function(state, pf, number))
        })
    }

    fn pci_address_of(&self, netdev: &str) -> Result<PciAddress, HostError> {
        self.call(Operation::ReadInventory, None, |state, _| {
            let (index, _) = find_netdev(state, netdev)?;
            let address = state.pci_of(Target::Netdev(index));
            Ok(address.ok_or_else(|| HostError::NotPci(netdev.to_owned()))?)
        })
    }

    fn pci_device(&self, address: PciAddress) -> Result<PciDevice, HostError> {
        self.call(Operation::ReadInventory, Some(address), |state, _| {
            Ok(pci_device(state, address)?)
        })
    }

    fn iommu_group(&self, address: PciAddress) -> Result<Option<IommuGroup>, HostError> {
        self.call(Operation::ReadGroup, Some(address), |state, _| {
            if state.root_port(address).is_some() {
                return Ok(None);
            }
            let number = state.group(address)?;
            if !state.iommu {
                return Ok(None);
            }
            let mut members = Vec::new();
            for member in state.group_members(number, address) {
                members.push((member, state.driver(member)?.map(Into::into)));
            }
            Ok(Some(IommuGroup { number, members }))
        })
    }

    fn pf_link(&self, pf: &PhysicalFunction) -> Result<LinkState, HostError> {
        self.call(Operation::ReadLink, Some(pf.address), |state, _| {
            let index = find_pf(state, pf.address)?;
            Ok(state.pfs[usize::from(index)].link)
        })
    }

    fn vf_state(&self, vf: &VirtualFunction) -> Result<VfState, HostError> {
        self.call(Operation::ReadVf, Some(vf.address), |state, _| {
            Ok(state.vf_state(vf.address)?)
        })
    }

    fn vf_mac_is_given(&self, vf: &VirtualFunction) -> Result<Option<bool>, HostError> {
        self.call(Operation::ReadVf, Some(vf.address), |state, _| {
            let vf = state.vf(vf.address)?;
            Ok(vf.netdev_mac.map(|_| vf.took_given_mac))
        })
    }

    fn vf_abilities(&self, _vf: &VirtualFunction) -> Result<VfAbilities, HostError> {
        let quirks = self.lock().quirks;
        Ok(VfAbilities {
            link_state: quirks.link_state,
            min_rate: quirks.min_rate,
            outer_vlan: quirks.outer_vlan,
        })
    }

    fn set_vf(&self, vf: &VirtualFunction, setting: VfSetting) -> Result<(), HostError> {
        let operation = setting.operation();
        self.call(operation, Some(vf.address), |state, _| {
            let (pf, _) = state.vf_place(vf.address)?;
            let carrier = state.pfs[usize::from(pf)].link.carrier;
            if let Some(errno) = refusal(state, setting, carrier) {
                return Err(state.kernel(operation, Some(vf.address), errno).into());
            }
            let at_once = state.quirks.mac_at_once;
            let device = state.vf(vf.address)?;
            match setting {
                VfSetting::Mac(mac) => {
                    device.admin_mac = mac;
                    device.mac_given = !mac.is_zero();
                    if at_once && !mac.is_zero() && device.netdev_mac.is_some() {
                        device.netdev_mac = Some(mac);
                    }
                }
                VfSetting::Vlan { id: 0, .. } => device.vlan = (0, 0, VlanProtocol::Dot1q),
                VfSetting::Vlan { id, qos, protocol } => device.vlan = (id, qos, protocol),
                VfSetting::SpoofCheck(on) => device.spoof_check = on,
                VfSetting::Trust(on) => device.trust = on,
                VfSetting::Link(link) => device.link = link,
                VfSetting::Rate { min, max } => device.rate = (min, max),
                VfSetting::RssQuery(on) => device.rss_query = on,
            }
            state.effect(Effect::Set(vf.address, setting))
        })
    }

    fn set_netdev_mac(&self, netdev: &str, mac: MacAddress) -> Result<(), HostError> {
        let index = self.lock().index_of(netdev);
        let target = index.map_or(Target::Host, Target::Netdev);
        self.call(Operation::SetNetdevMac, target, |state, _| {
            let (index, _) = find_netdev(state, netdev)?;
            state.set_netdev_mac(index, mac)
        })
    }

    fn vf_usage(&self, vf: &VirtualFunction) -> Result<Vec<Usage>, HostError> {
        self.call(Operation::ReadUsage, Some(vf.address), |state, _| {
            let group = state.group(vf.address)?;
            let mut usages = state.usages.get(&vf.address).cloned().unwrap_or_default();
            let (pf, number) = state.vf_place(vf.address)?;
            usages.extend(state.stacked_on(vf_ifindex(state.shape, pf, number), true));
            if state.held_groups.contains(&group) {
                usages.push(Usage::VfioOpen(holder(group)));
            }
            Ok(usages)
        })
    }

    fn vfio_holder(&self, address: PciAddress) -> Result<Option<VfioHolder>, HostError> {
        self.call(Operation::ReadUsage, Some(address), |state, _| {
            let group = state.group(address)?;
            let is_vfio = state
                .driver(address)?
                .is_some_and(|driver| is_vfio(&driver));
            let held = is_vfio && state.held_groups.contains(&group);
            Ok(held.then(|| holder(group)))
        })
    }

    fn vf_is_idle(&self, vf: &VirtualFunction) -> bool {
        self.vf_usage(vf).is_ok_and(|usages| usages.is_empty())
    }

    fn best_vfio_driver(&self, address: PciAddress) -> Result<String, HostError> {
        self.call(Operation::ChooseDriver, Some(address), |state, _| {
            let variant = match state.place(address)? {
                Place::Vf(..) => state.variant.clone(),
                Place::Pf(_) | Place::Plain => None,
            };
            Ok(variant.unwrap_or_else(|| String::from("vfio-pci")))
        })
    }

    fn check_driver(&self, driver: &str) -> Result<(), HostError> {
        self.call(Operation::ChooseDriver, None, |state, _| {
            let known = [VF_DRIVER, PF_DRIVER, NIC_DRIVER, "vfio-pci"].contains(&driver)
                || state.variant.as_deref() == Some(driver);
            match known {
                true => Ok(()),
                false => Err(no_driver(driver)),
            }
        })
    }

    fn bind(&self, address: PciAddress, driver: &str) -> Result<(), HostError> {
        self.call(Operation::Bind, Some(address), |state, partial| {
            bind(state, address, driver, partial)
        })
    }

    fn unbind(&self, address: PciAddress, expect: Option<&str>) -> Result<(), HostError> {
        self.call(Operation::Unbind, Some(address), |state, partial| {
            if let Some(driver) = expect.filter(|driver| is_vfio(driver)) {
                return bind(state, address, driver, partial);
            }
            let holder = state.driver(address)?;
            state.override_driver(address, None)?;
            if holder.as_deref() == expect {
                return Ok(());
            }
            state.take_from_driver(address)?;
            let Some(expect) = expect.filter(|_| !partial) else {
                return Ok(());
            };
            state.probe(address)?;
            taken(state, address, expect)
        })
    }

    fn reset(&self, address: PciAddress) -> Result<(), HostError> {
        self.call(Operation::Reset, Some(address), |state, _| {
            state.place(address)?;
            state.effect(Effect::Reset(address))
        })
    }

    fn vfio_access(&self, group: u32) -> Result<Option<NodeAccess>, HostError> {
        self.call(Operation::ReadInventory, None, |state, _| {
            Ok(state.vfio_access(group))
        })
    }

    fn set_vfio_access(&self, group: u32, access: NodeAccess) -> Result<(), HostError> {
        self.call(Operation::GrantVfio, None, |state, partial| {
            let Some(now) = state.vfio_access(group) else {
                return Err(state.kernel(Operation::GrantVfio, None, ENOENT).into());
            };
            let mode = if partial {
                now.mode & access.mode
            } else {
                access.mode
            };
            let access = NodeAccess { mode, ..access };
            state.vfio_nodes.insert(group, access);
            state.effect(Effect::VfioAccess(group, access))
        })
    }

    fn set_vf_count(&self, pf: &PhysicalFunction, count: u16) -> Result<(), HostError> {
        let address = Some(pf.address);
        let set = self.call(Operation::SetVfCount, address, |state, _| {
            let index = find_pf(state, pf.address)?;
            let now = state.vf_count(index);
            let refusal = if count > state.shape.max_vfs() {
                Some(ERANGE)
            } else if count == now {
                return Ok(());
            } else if (now > 0 && count > 0) || state.held_vf(index).is_some() {
                Some(EBUSY)
            } else {
                None
            };
            if let Some(errno) = refusal {
                return Err(state.kernel(Operation::SetVfCount, address, errno).into());
            }
            state.make_vfs(index, count);
            state.effect(Effect::VfCount(pf.address, count))
        });
        set.map_err(|error| match error {
            HostError::Kernel { target, source, .. } => {
                let state = self.lock();
                let index = find_pf(&state, pf.address).ok();
                HostError::VfCount {
                    pf: target,
                    asked: count,
                    has: index.map_or(pf.vf_count, |index| state.vf_count(index)),
                    max: pf.max_vfs,
                    holder: index.and_then(|index| state.held_vf(index)),
                    source,
                }
            }
            error => error,
        })
    }

    fn boot_id(&self) -> Result<String, HostError> {
        let boot = self.lock().boot;
        Ok(format!("51300000-0000-4000-8000-{boot:012x}"))
    }

    fn watch(&self) -> Result<Box<dyn HostEvents>, HostError> {
        self.call(Operation::Watch, None, |state, _| {
            Ok(state.watchers.watch())
        })
    }
}

fn no_driver(driver: &str) -> Stop {
    let driver = driver.to_owned();
    let reason = String::from("the simulated host has no such driver");
    HostError::NoDriver { driver, reason }.into()
}

fn bind(state: &mut State, address: PciAddress, driver: &str, partial: bool) -> Result<(), Stop> {
    if state.driver(address)?.as_deref() == Some(driver) {
        return Ok(());
    }
    let known = [VF_DRIVER, PF_DRIVER, NIC_DRIVER, "vfio-pci"].contains(&driver)
        || state.ordinary_driver(address) == driver
        || state.variant.as_deref() == Some(driver);
    if !known {
        return Err(no_driver(driver));
    }
    state.override_driver(address, Some(driver))?;
    state.take_from_driver(address)?;
    if partial {
        return Ok(());
    }
    state.probe(address)?;
    taken(state, address, driver)
}

fn taken(state: &mut State, address: PciAddress, driver: &str) -> Result<(), Stop> {
    let holder = state.driver(address)?;
    if holder.as_deref() == Some(driver) {
        return Ok(());
    }
    Err(Stop::Error(HostError::NotTaken {
        address,
        driver: driver.to_owned(),
        holder: holder.map(Into::into),
    }))
}

/// What the kernel or the PF's driver says to a setting.
fn refusal(state: &State, setting: VfSetting, carrier: bool) -> Option<i32> {
    let quirks = state.quirks;
    match setting {
        VfSetting::Mac(mac) if mac.is_multicast() || (mac.is_zero() && !quirks.zero_mac) => {
            Some(EINVAL)
        }
        VfSetting::Vlan { id, qos, .. } if id > 4095 || qos > 7 => Some(EINVAL),
        VfSetting::Vlan { protocol, .. }
            if protocol == VlanProtocol::Dot1ad && !quirks.outer_vlan =>
        {
            Some(EPROTONOSUPPORT)
        }
        VfSetting::RssQuery(_) if !quirks.rss_query => Some(EOPNOTSUPP),
        VfSetting::Trust(_) if !quirks.trust => Some(EOPNOTSUPP),
        VfSetting::Link(_) if !quirks.link_state => Some(EOPNOTSUPP),
        VfSetting::Rate { .. } if !carrier && !quirks.rate_without_link => Some(EINVAL),
        VfSetting::Rate { min, .. } if min > 0 && !quirks.min_rate => Some(EINVAL),
        VfSetting::Rate { min, max } if max > 0 && min > max => Some(EINVAL),
        _ => None,
    }
}

fn find_pf(state: &State, address: PciAddress) -> Result<u16, HostError> {
    match state.place(address)? {
        Place::Pf(pf) => Ok(pf),
        Place::Vf(..) | Place::Plain => Err(HostError::NotPhysicalFunction(address.to_string())),
    }
}

fn find_netdev(state: &State, name: &str) -> Result<(u32, Who), HostError> {
    let index = state.index_of(name);
    let found = index.and_then(|index| Some((index, state.who(index)?)));
    found.ok_or_else(|| HostError::NoNetdev(name.to_owned()))
}

fn numa_node(pf: u16) -> Option<u16> {
    Some(pf % 2)
}

fn physical(state: &State, pf: u16) -> PhysicalFunction {
    PhysicalFunction {
        address: state.pfs[usize::from(pf)].address,
        netdev: pf_netdev(pf),
        ifindex: pf_ifindex(pf),
        max_vfs: state.shape.max_vfs(),
        vf_count: state.vf_count(pf),
        numa_node: numa_node(pf),
    }
}

fn virtual_function(state: &State, pf: u16, number: u16) -> VirtualFunction {
    VirtualFunction {
        address: state.shape.vf_address(pf, number),
        pf_address: state.pfs[usize::from(pf)].address,
        pf_netdev: pf_netdev(pf),
        pf_ifindex: pf_ifindex(pf),
        number,
        numa_node: numa_node(pf),
    }
}

pub(super) fn pci_device(state: &mut State, address: PciAddress) -> Result<PciDevice, HostError> {
    if let Some(port) = state.root_port(address) {
        return Ok(port);
    }
    let driver = state.driver(address)?.map(Into::into);
    let iommu_group = state.iommu.then_some(state.group(address)?);
    // The ids are those of an Intel 82576, its VF, and an 82574.
    let (device, netdevs, sriov, numa) = match state.place(address)? {
        Place::Pf(pf) => {
            let vfs = (0..state.vf_count(pf)).map(|number| state.shape.vf_address(pf, number));
            let vfs = vfs.filter(|vf| state.places.contains_key(vf)).collect();
            let max = state.shape.max_vfs();
            let sriov = Sriov::Physical { vfs, max };
            (0x10c9, vec![pf_netdev(pf)], sriov, numa_node(pf))
        }
        Place::Vf(pf, number) => {
            let has_netdev = state.vf(address)?.netdev_mac.is_some();
            let netdevs = has_netdev.then(|| vf_netdev(pf, number));
            let pf_address = state.pfs[usize::from(pf)].address;
            let sriov = Sriov::Virtual { pf: pf_address };
            (0x10ca, netdevs.into_iter().collect(), sriov, numa_node(pf))
        }
        Place::Plain => {
            let nic = state.plain.get(&address).and_then(|plain| plain.nic);
            let shown = nic.filter(|nic| state.index_of(nic.as_str()).is_some());
            let netdevs = shown.iter().map(ToString::to_string).collect();
            (0x10d3, netdevs, Sriov::None, None)
        }
    };
    Ok(PciDevice {
        address,
        vendor: 0x8086,
        device,
        class: 0x02_0000,
        driver,
        netdevs,
        iommu_group,
        numa_node: numa,
        is_express: true,
        sriov,
    })
}

/// Every group that is open here is so in one guest's process.
pub(super) fn holder(group: u32) -> VfioHolder {
    VfioHolder {
        group,
        process: Some(SimulatedHost::GUEST_PROCESS),
    }
}
