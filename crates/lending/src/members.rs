//! What each running network lends: its documents' names, as devices of this host.

use std::collections::BTreeSet;

use conf::{
    DeviceId, Forward, ForwardMode, NetdevName, Network, PciAddress, PoolDevice, PoolLend,
    PoolMembers, VirtualPortKind,
};
use host::{Host, HostError, Netdev, PhysicalFunction};
use pool::{Health, Members, NetworkSpec, NicInfo, PfInfo, Sharing, Update, VfInfo};

use crate::devices::device_of;
use crate::ledger::Ledger;
use crate::state::{State, lock};
use crate::vfs::MakeVfsError;

/// What a running network lends.
#[derive(Debug, Default)]
pub(crate) struct NetworkMembers {
    /// The PFs that it names, or whose VFs it names.
    pub(crate) pfs: Vec<PciAddress>,
    /// The devices that it lists, in order, and the names that it lists them by.
    pub(crate) listed: Vec<(Option<NetdevName>, DeviceId)>,
    /// Its guests' macvtaps need the VFs' network devices.
    pub(crate) needs_netdev: bool,
    /// How it lends them.
    pub(crate) spec: Option<NetworkSpec>,
}

/// A network's devices can't be lent.
#[derive(Debug, thiserror::Error)]
pub enum OpenPoolError {
    /// It names no device.
    #[error("{} names no device to lend", pool::called(.0))]
    NamesNone(String),
    /// None of its PFs has VFs.
    #[error("{}: {} has no VFs", pool::called(.network), .pfs.iter().map(|pf| format!("'{pf}'")).collect::<Vec<_>>().join(" and "))]
    NoVfs {
        /// Its name.
        network: String,
        /// Its PFs' network devices.
        pfs: Vec<String>,
    },
    /// VFs were to be made.
    #[error(transparent)]
    MakeVfs(#[from] Box<MakeVfsError>),
    /// A device that it names is not what it should be.
    #[error(transparent)]
    Device(#[from] HostError),
    /// The host does not tell what it has to lend.
    #[error("{}", pool::called(.network))]
    Host {
        /// Its name.
        network: String,
        /// What the host said.
        #[source]
        source: HostError,
    },
}

/// The PF that a passthrough network lists by its name, and nothing beside it.
pub(crate) struct LonePf {
    pub(crate) pf: PhysicalFunction,
    /// Its VFs are lent, one a guest; else it is itself.
    pub(crate) lends_vfs: bool,
}

/// See [`LonePf`]. Asks the host.
pub(crate) fn lone_pf(host: &dyn Host, network: &Network) -> Option<LonePf> {
    let PoolMembers::Interfaces(names) = &network.forward.as_ref()?.members else {
        return None;
    };
    let [name] = names.as_slice() else {
        return None;
    };
    if network.forward_mode() != Some(ForwardMode::Passthrough) {
        return None;
    }
    // What is no PF is what it is.
    let pf = host.physical_function(name).ok()?;
    let lends_vfs = match network.extension.lend {
        Some(PoolLend::Pf) => false,
        Some(PoolLend::Vfs) => true,
        None => pf.vf_count > 0,
    };
    Some(LonePf { pf, lends_vfs })
}

/// Whether a device of the network is one guest's at a time.
pub(crate) fn is_exclusive(network: &Network) -> bool {
    let is_qbh = || {
        let profiles = std::iter::once(network.virtual_port.as_ref())
            .chain(network.port_groups.iter().map(|g| g.virtual_port.as_ref()));
        (profiles.flatten()).any(|port| port.kind == Some(VirtualPortKind::Qbh))
    };
    match network.forward_mode() {
        Some(ForwardMode::Hostdev | ForwardMode::HostdevHybrid | ForwardMode::Passthrough) => true,
        Some(ForwardMode::Private) => is_qbh(),
        _ => false,
    }
}

impl Ledger {
    /// Makes a network's devices known, and lends them from now on; in place of what a network of
    /// that name lent. Asks the host, and may make VFs, which takes seconds; blocks.
    ///
    /// # Errors
    /// It names nothing, or what it names is not there or has no VFs and can't get any.
    pub fn open_pool(&self, network: &Network, forward: &Forward) -> Result<(), OpenPoolError> {
        let of_network = |source: HostError| OpenPoolError::Host {
            network: network.name.clone(),
            source,
        };
        let is_macvtap = !forward.mode.lends_host_devices();
        let mut members = NetworkMembers {
            needs_netdev: is_macvtap,
            ..NetworkMembers::default()
        };
        let mut pfs: Vec<PhysicalFunction> = Vec::new();
        // A PF that is listed alone stands for its VFs.
        let lone = lone_pf(&*self.host, network).filter(|lone| lone.lends_vfs);
        let whole = lone.map(|lone| vec![lone.pf.netdev]);
        let whole = whole.map(PoolMembers::PhysicalFunctions);
        let lent = match whole.as_ref().unwrap_or(&forward.members) {
            PoolMembers::PhysicalFunctions(names) => {
                for name in names {
                    let pf = self.host.physical_function(name).map_err(of_network)?;
                    pfs.push(self.with_vfs(network, pf, is_macvtap)?);
                }
                if pfs.iter().all(|pf| pf.vf_count == 0) {
                    return Err(OpenPoolError::NoVfs {
                        network: network.name.clone(),
                        pfs: pfs.into_iter().map(|pf| pf.netdev).collect(),
                    });
                }
                Members::PhysicalFunctions(pfs.iter().map(|pf| pf.address).collect())
            }
            PoolMembers::Addresses(addresses) => {
                for &address in addresses {
                    let vf = self.host.virtual_function(address)?;
                    self.add_pf(&mut pfs, &vf.pf_netdev).map_err(of_network)?;
                    members.listed.push((None, address.into()));
                }
                Members::Devices(members.devices())
            }
            PoolMembers::Interfaces(names) => {
                for name in names {
                    let (name, device) =
                        self.listed(network, name, &mut pfs).map_err(of_network)?;
                    members.listed.push((Some(name), device));
                }
                Members::Devices(members.devices())
            }
            PoolMembers::None => {
                return Err(OpenPoolError::NamesNone(network.name.clone()));
            }
        };
        members.pfs = pfs.iter().map(|pf| pf.address).collect();
        let extension = &network.extension;
        let spec = NetworkSpec {
            members: lent,
            sharing: if is_exclusive(network) {
                Sharing::Exclusive
            } else {
                Sharing::Shared
            },
            needs_netdev: is_macvtap,
            spread: extension.spread,
            numa: extension.numa,
            needs_carrier: extension.needs_carrier,
        };
        // Known before it is looked at, so that looking knows what to look for.
        {
            let mut state = lock(&self.state);
            (state.pfs).extend(pfs.iter().map(|pf| (pf.address, pf.clone())));
            members.spec = Some(spec.clone());
            state.networks.insert(network.name.clone(), members);
        }
        let looked = pfs.iter().try_for_each(|pf| self.look_at(pf).map(drop));
        if let Err(error) = looked {
            self.close_pool(&network.name);
            return Err(of_network(error));
        }
        lock(&self.state).pool.set_network(&network.name, spec);
        Ok(())
    }

    /// A network lends no more. What it lent stays lent.
    pub fn close_pool(&self, network: &str) {
        let mut state = lock(&self.state);
        state.pool.remove_network(network);
        state.networks.remove(network);
    }

    /// What a running network lends, in its order, as its live document lists it.
    #[must_use]
    pub fn members(&self, network: &str) -> Vec<PoolDevice> {
        let state = lock(&self.state);
        let Some(members) = state.networks.get(network) else {
            return Vec::new();
        };
        let listed = members
            .listed
            .iter()
            .filter_map(|(name, device)| match (name, device) {
                (Some(name), _) | (None, DeviceId::Netdev(name)) => {
                    Some(PoolDevice::Interface(name.to_string()))
                }
                (None, DeviceId::Pci(address)) => Some(PoolDevice::Address(*address)),
                // No network lists one.
                (None, DeviceId::Usb(_)) => None,
            });
        if !members.listed.is_empty() {
            return listed.collect();
        }
        let vfs = members.pfs.iter().flat_map(|pf| state.pool.vfs_of(*pf));
        if members.needs_netdev {
            vfs.filter_map(|vf| Some(PoolDevice::Interface(vf.netdev?.to_string())))
                .collect()
        } else {
            vfs.map(|vf| PoolDevice::Address(vf.address)).collect()
        }
    }

    /// The PCI function behind a name that a running network lists.
    #[must_use]
    pub fn listed_function(&self, network: &str, name: &str) -> Option<PciAddress> {
        let state = lock(&self.state);
        let mut listed = state.networks.get(network)?.listed.iter();
        let (_, device) = listed.find(|(own, _)| own.is_some_and(|own| own.as_str() == name))?;
        device.pci()
    }

    /// A device that a network lists by name. One that is not there yet is known by its name until
    /// it comes.
    fn listed(
        &self,
        network: &Network,
        name: &str,
        pfs: &mut Vec<PhysicalFunction>,
    ) -> Result<(NetdevName, DeviceId), HostError> {
        let name: NetdevName = name
            .parse()
            .map_err(|_| HostError::NoNetdev(name.to_owned()))?;
        let netdev = match self.host.netdev(name.as_str()) {
            Ok(netdev) => netdev,
            Err(HostError::NoNetdev(_)) => {
                tracing::warn!(network = network.name, %name, "lists a device that is not there");
                return Ok((name, name.into()));
            }
            Err(error) => return Err(error),
        };
        let device = device_of(&*self.host, &netdev)?;
        match device {
            DeviceId::Pci(address) => match self.host.virtual_function(address) {
                Ok(vf) => self.add_pf(pfs, &vf.pf_netdev)?,
                Err(HostError::NotVirtualFunction(_)) => self.enter_nic(device, &netdev)?,
                Err(error) => return Err(error),
            },
            DeviceId::Netdev(_) | DeviceId::Usb(_) => self.enter_nic(device, &netdev)?,
        }
        Ok((name, device))
    }

    fn add_pf(&self, pfs: &mut Vec<PhysicalFunction>, netdev: &str) -> Result<(), HostError> {
        if !pfs.iter().any(|pf| pf.netdev == netdev) {
            pfs.push(self.host.physical_function(netdev)?);
        }
        Ok(())
    }

    fn enter_nic(&self, device: DeviceId, netdev: &Netdev) -> Result<(), HostError> {
        let numa_node = match device {
            DeviceId::Pci(address) => self.host.pci_device(address)?.numa_node,
            DeviceId::Netdev(_) | DeviceId::Usb(_) => None,
        };
        let info = NicInfo {
            device,
            netdev: netdev.name,
            numa_node,
            health: Health {
                up: netdev.state.up,
                carrier: netdev.state.carrier,
            },
        };
        lock(&self.state).pool.set_nic(info);
        Ok(())
    }

    /// Tells the pool what a PF has now. Asks the kernel, so no lock is held meanwhile.
    pub(crate) fn look_at(&self, pf: &PhysicalFunction) -> Result<Update, HostError> {
        let link = match self.host.pf_link(pf) {
            Err(HostError::NoNetdev(_) | HostError::NoPciDevice(_)) => {
                return Ok(lock(&self.state).pool.remove_pf(pf.address));
            }
            link => link?,
        };
        let vfs = self.host.virtual_functions(pf)?;
        let needs_netdevs = {
            let state = lock(&self.state);
            state.needs_netdevs(pf.address)
        };
        let info = PfInfo {
            address: pf.address,
            netdev: pf.netdev.clone(),
            numa_node: pf.numa_node,
            max_vfs: pf.max_vfs,
            health: Health {
                up: link.up,
                carrier: link.carrier,
            },
        };
        let of_pool: Vec<_> = vfs
            .iter()
            .map(|vf| VfInfo {
                address: vf.address,
                number: vf.number,
                netdev: if needs_netdevs {
                    self.vf_netdev(vf.address)
                } else {
                    None
                },
            })
            .collect();
        let mut state = lock(&self.state);
        state.vfs.extend(vfs.into_iter().map(|vf| (vf.address, vf)));
        Ok(state.pool.set_pf(&info, &of_pool))
    }

    fn vf_netdev(&self, address: PciAddress) -> Option<NetdevName> {
        let netdevs = self.host.pci_device(address).ok()?.netdevs;
        netdevs.first()?.parse().ok()
    }

    /// Tells the pool what became of a device that networks list by name; its old and its new
    /// identity, if that changed.
    pub(crate) fn look_at_name(&self, name: NetdevName) -> Result<Option<DeviceId>, HostError> {
        match self.host.netdev(name.as_str()) {
            Ok(netdev) => {
                let device = device_of(&*self.host, &netdev)?;
                let is_vf = device
                    .pci()
                    .is_some_and(|address| self.host.virtual_function(address).is_ok());
                if !is_vf {
                    self.enter_nic(device, &netdev)?;
                }
                Ok(Some(device))
            }
            Err(HostError::NoNetdev(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl OpenPoolError {
    /// What a person can do about it, where there is something.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::NoVfs { pfs, .. } => {
                let pf = pfs.first()?;
                Some(format!(
                    "Make some: echo 4 > /sys/class/net/{pf}/device/sriov_numvfs\n\
                     or let the network make them: <pf dev='{pf}'><virtnic:vfs count='4'/></pf>"
                ))
            }
            Self::MakeVfs(error) => error.advice(),
            Self::Device(error) | Self::Host { source: error, .. } => error.advice(),
            Self::NamesNone(_) => None,
        }
    }
}

impl NetworkMembers {
    /// How it lends the devices that it lists now.
    pub(crate) fn spec_now(&self) -> Option<NetworkSpec> {
        let mut spec = self.spec.clone()?;
        if let Members::Devices(devices) = &mut spec.members {
            *devices = self.devices();
        }
        Some(spec)
    }

    fn devices(&self) -> Vec<DeviceId> {
        self.listed.iter().map(|(_, device)| *device).collect()
    }
}

impl State {
    /// Whether some network needs the network devices of that PF's VFs.
    pub(crate) fn needs_netdevs(&self, pf: PciAddress) -> bool {
        let mut networks = self.networks.values();
        networks.any(|members| members.needs_netdev && members.pfs.contains(&pf))
    }

    /// The names that running networks list.
    pub(crate) fn listed_names(&self) -> BTreeSet<NetdevName> {
        let members = self.networks.values();
        members
            .flat_map(|members| members.listed.iter())
            .filter_map(|(name, _)| *name)
            .collect()
    }
}
