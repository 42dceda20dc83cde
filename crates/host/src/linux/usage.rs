//! Who uses a VF, as the kernel sees it.

use conf::PciAddress;

use super::rest::Known;
use super::{LinuxHost, is_vfio};
use crate::{HostError, Operation, Usage};

impl LinuxHost {
    /// What uses the function now.
    ///
    /// A network device that is merely up is not in use: drivers and network managers bring VFs up
    /// unasked, and the kernel then gives each an IPv6 link-local address. It is in use when it is
    /// up and somebody gave it an address, when a default route leaves through it, and, up or down,
    /// when another device is built on it.
    pub(super) fn usage_of(&self, address: PciAddress) -> Result<Vec<Usage>, HostError> {
        self.sysfs.existing(address)?;
        let Some(driver) = self.sysfs.driver(address)? else {
            return Ok(Vec::new());
        };
        if is_vfio(&driver) {
            let holder = self.holder_of_group(address)?;
            return Ok(holder.map(Usage::VfioOpen).into_iter().collect());
        }
        let netdevs = self.sysfs.netdevs(address)?;
        if netdevs.is_empty() && self.makes_netdev(address, &driver)? {
            return Ok(vec![Usage::OtherNamespace]);
        }
        let mut usages = Vec::new();
        for netdev in netdevs {
            usages.extend(self.usage_of_netdev(&netdev, true)?);
        }
        Ok(usages)
    }

    /// Whether the function's network device, which is there, is down and nothing is built on it:
    /// as noted, or as seen.
    pub(super) fn is_known_idle(&self, address: PciAddress) -> Result<bool, HostError> {
        let Some(notes) = &self.rest else {
            return Ok(self.idle_devices(address)?.is_some());
        };
        let moment = match notes.ask(address) {
            Known::AtRest => return Ok(true),
            Known::Nothing(moment) => moment,
        };
        let Some(netdevs) = self.idle_devices(address)? else {
            return Ok(false);
        };
        let indexes = netdevs.iter().map(|netdev| self.sysfs.ifindex(netdev));
        notes.note(address, indexes.collect::<Result<_, _>>()?, moment);
        Ok(true)
    }

    /// The function's network devices, if it has some and all are at rest. That is read from sysfs,
    /// which does without netlink's lock.
    fn idle_devices(&self, address: PciAddress) -> Result<Option<Vec<String>>, HostError> {
        match self.sysfs.driver(address)? {
            Some(driver) if !is_vfio(&driver) => {}
            _ => return Ok(None),
        }
        let netdevs = self.sysfs.netdevs(address)?;
        for netdev in &netdevs {
            if !self.sysfs.is_at_rest(netdev)? {
                return Ok(None);
            }
        }
        Ok(Some(netdevs).filter(|netdevs| !netdevs.is_empty()))
    }

    /// What uses a network device now; what we put on it ourselves only where asked.
    pub(super) fn usage_of_netdev(
        &self,
        netdev: &str,
        with_ours: bool,
    ) -> Result<Vec<Usage>, HostError> {
        let refused = |source| HostError::Kernel {
            operation: Operation::ReadUsage,
            target: format!("'{netdev}'"),
            source,
        };
        let ifindex = self.sysfs.ifindex(netdev)?;
        let link = self.netlink.link(ifindex).map_err(refused)?;
        let mut usages = Vec::new();
        if link.state.up {
            if let Some(address) = self.netlink.first_address(ifindex).map_err(refused)? {
                let netdev = netdev.to_owned();
                usages.push(Usage::Addressed { netdev, address });
            }
            if self.netlink.has_default_route(ifindex).map_err(refused)? {
                let netdev = netdev.to_owned();
                usages.push(Usage::DefaultRoute { netdev });
            }
        }
        let master = match link.master {
            Some(index) => {
                let name = self.sysfs.master(netdev)?;
                Some(name.unwrap_or_else(|| format!("device {index}")))
            }
            None => None,
        };
        for upper in self.sysfs.uppers(netdev)? {
            if master.as_ref() != Some(&upper) && (with_ours || !self.is_ours(&upper)) {
                let netdev = netdev.to_owned();
                usages.push(Usage::Lower { netdev, upper });
            }
        }
        if let Some(master) = master {
            let netdev = netdev.to_owned();
            usages.push(Usage::Enslaved { netdev, master });
        }
        Ok(usages)
    }

    fn is_ours(&self, netdev: &str) -> bool {
        // What can't be asked is somebody else's.
        let found = self.netlink.device_named(netdev).ok().flatten();
        let alias = found.and_then(|device| device.alias);
        alias.is_some_and(|alias| alias.starts_with(crate::TAG))
    }
}
