//! PCI functions, VFs and network devices in sysfs.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use conf::PciAddress;

use crate::{
    HostError, IommuGroup, Operation, PciDevice, PhysicalFunction, Sriov, VirtualFunction,
};

/// Longest attribute that is read: sysfs gives one page at most.
const MOST_BYTES: u64 = 4096;
/// Longest table that is read.
const MOST_TABLE: u64 = 16 << 20;
/// Longest name of a network device, `IFNAMSIZ` less the NUL.
const MOST_NAME: usize = 15;
/// `IFF_UP`.
const FLAG_UP: u32 = 1;
const CLASS_ETHERNET: u32 = 0x0200;

/// sysfs, below a directory.
#[derive(Debug, Clone)]
pub(super) struct Sysfs {
    root: PathBuf,
}

/// One read within an operation on a device, so that an error can name both.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading<'a> {
    pub(super) operation: Operation,
    pub(super) target: &'a str,
}

impl Reading<'_> {
    pub(super) fn refused(self, source: io::Error) -> HostError {
        HostError::Kernel {
            operation: self.operation,
            target: self.target.to_owned(),
            source,
        }
    }

    fn malformed(self, what: impl Into<String>) -> HostError {
        HostError::Malformed {
            target: self.target.to_owned(),
            what: what.into().chars().take(100).collect(),
        }
    }

    /// The text of a small file, trimmed; `None` where there is no such file.
    pub(super) fn text(self, path: &Path) -> Result<Option<String>, HostError> {
        let mut text = String::new();
        let read =
            File::open(path).and_then(|file| file.take(MOST_BYTES).read_to_string(&mut text));
        match read {
            Ok(_) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.refused(error)),
        }
    }

    /// The text of a longer file of the kernel's; `None` where there is no such file.
    pub(super) fn table(self, path: &Path) -> Result<Option<String>, HostError> {
        let mut text = String::new();
        let read =
            File::open(path).and_then(|file| file.take(MOST_TABLE).read_to_string(&mut text));
        match read {
            Ok(_) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.refused(error)),
        }
    }

    /// A number in a small file, decimal or with `0x`.
    pub(super) fn number<T: TryFrom<i64>>(self, path: &Path) -> Result<Option<T>, HostError> {
        let Some(text) = self.text(path)? else {
            return Ok(None);
        };
        let number = match text.strip_prefix("0x") {
            Some(hex) => i64::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        };
        let name = || path.file_name().unwrap_or_default().to_string_lossy();
        let number = number.and_then(|number| T::try_from(number).ok());
        number
            .map(Some)
            .ok_or_else(|| self.malformed(format!("{} is '{text}'", name())))
    }

    /// The last part of where a link leads; `None` where there is no link.
    pub(super) fn link(self, path: &Path) -> Result<Option<String>, HostError> {
        match fs::read_link(path) {
            Ok(target) => {
                let name = target.file_name().and_then(|name| name.to_str());
                let name = name.ok_or_else(|| self.malformed(target.display().to_string()))?;
                Ok(Some(name.to_owned()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.refused(error)),
        }
    }

    /// The names in a directory, sorted; none where there is no such directory.
    pub(super) fn names(self, directory: &Path) -> Result<Vec<String>, HostError> {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.refused(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(|error| self.refused(error))?.file_name();
            names.extend(name.into_string());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn address(self, text: &str) -> Result<PciAddress, HostError> {
        text.parse()
            .map_err(|_| self.malformed(format!("'{text}' is no PCI address")))
    }

    /// Writes an attribute.
    pub(super) fn write(self, path: &Path, value: &str) -> Result<(), HostError> {
        let written = (OpenOptions::new().write(true).truncate(true).open(path))
            .and_then(|mut file| file.write_all(value.as_bytes()));
        written.map_err(|error| self.refused(error))
    }
}

/// A read of the inventory.
pub(super) fn inventory(target: &str) -> Reading<'_> {
    Reading {
        operation: Operation::ReadInventory,
        target,
    }
}

impl Sysfs {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(super) fn device_dir(&self, address: PciAddress) -> PathBuf {
        self.root.join(format!("bus/pci/devices/{address}"))
    }

    pub(super) fn pci_bus(&self) -> PathBuf {
        self.root.join("bus/pci")
    }

    pub(super) fn usb_devices(&self) -> PathBuf {
        self.root.join("bus/usb/devices")
    }

    pub(super) fn class_dir(&self, class: &str) -> PathBuf {
        self.root.join("class").join(class)
    }

    pub(super) fn file_systems(&self) -> PathBuf {
        self.root.join("fs")
    }

    /// The directory that a link of the kernel's leads to, as `/sys/devices/…`; `None`: there is
    /// none. Such links go up to the root, and down from there.
    pub(super) fn canonical(&self, path: &Path) -> Option<String> {
        let target = match fs::read_link(path) {
            Ok(target) => target,
            // It is no link.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                path.strip_prefix(&self.root).ok()?.to_owned()
            }
            Err(_) => return None,
        };
        let down: PathBuf = (target.components())
            .filter(|part| matches!(part, std::path::Component::Normal(_)))
            .collect();
        Path::new("/sys")
            .join(down)
            .into_os_string()
            .into_string()
            .ok()
    }

    pub(super) fn module_dir(&self, module: &str) -> PathBuf {
        self.root.join("module").join(module)
    }

    /// The directory of a network device, if the name can be one at all.
    pub(super) fn netdev_dir(&self, netdev: &str) -> Option<PathBuf> {
        let possible = (1..=MOST_NAME).contains(&netdev.len())
            && netdev != "."
            && netdev != ".."
            && !netdev.contains(['/', '\0']);
        possible.then(|| self.root.join("class/net").join(netdev))
    }

    /// The device's directory, where the device is there.
    pub(super) fn existing(&self, address: PciAddress) -> Result<PathBuf, HostError> {
        let directory = self.device_dir(address);
        if directory.exists() {
            Ok(directory)
        } else {
            Err(HostError::NoPciDevice(address))
        }
    }

    /// Whether the function is a VF.
    pub(super) fn is_virtual(&self, address: PciAddress) -> Result<bool, HostError> {
        let target = address.to_string();
        let physical = inventory(&target).link(&self.existing(address)?.join("physfn"))?;
        Ok(physical.is_some())
    }

    pub(super) fn driver(&self, address: PciAddress) -> Result<Option<String>, HostError> {
        let target = address.to_string();
        inventory(&target).link(&self.device_dir(address).join("driver"))
    }

    /// The network devices of a PCI function, its own before the representors of others.
    pub(super) fn netdevs(&self, address: PciAddress) -> Result<Vec<String>, HostError> {
        let target = address.to_string();
        let reading = inventory(&target);
        let directory = self.device_dir(address).join("net");
        let mut names = reading.names(&directory)?;
        if names.len() > 1 {
            names.sort_by_cached_key(|name| {
                // Most drivers refuse to name a port (EOPNOTSUPP): then it is nobody else's.
                let port = reading.text(&directory.join(name).join("phys_port_name"));
                let port = port.ok().flatten().filter(|port| !port.is_empty());
                port.is_some_and(|port| !is_own_port(&port))
            });
        }
        Ok(names)
    }

    pub(super) fn ifindex(&self, netdev: &str) -> Result<u32, HostError> {
        let missing = || HostError::NoNetdev(netdev.to_owned());
        let directory = self.netdev_dir(netdev).ok_or_else(missing)?;
        let index = inventory(netdev).number(&directory.join("ifindex"))?;
        index.ok_or_else(missing)
    }

    pub(super) fn mac(&self, netdev: &str) -> Result<Option<conf::MacAddress>, HostError> {
        let Some(directory) = self.netdev_dir(netdev) else {
            return Ok(None);
        };
        let reading = inventory(netdev);
        let Some(text) = reading.text(&directory.join("address"))? else {
            return Ok(None);
        };
        (text.parse())
            .map(Some)
            .map_err(|_| reading.malformed(format!("its MAC is '{text}'")))
    }

    /// Whether the MAC is the one that the driver found (`addr_assign_type`).
    pub(super) fn mac_is_permanent(&self, netdev: &str) -> Result<Option<bool>, HostError> {
        const NET_ADDR_PERM: u32 = 0;
        let Some(directory) = self.netdev_dir(netdev) else {
            return Ok(None);
        };
        let kind: Option<u32> = inventory(netdev).number(&directory.join("addr_assign_type"))?;
        Ok(kind.map(|kind| kind == NET_ADDR_PERM))
    }

    /// The network devices that sit on this one.
    pub(super) fn uppers(&self, netdev: &str) -> Result<Vec<String>, HostError> {
        let Some(directory) = self.netdev_dir(netdev) else {
            return Ok(Vec::new());
        };
        let names = inventory(netdev).names(&directory)?;
        let uppers = names.iter().filter_map(|name| name.strip_prefix("upper_"));
        Ok(uppers.map(str::to_owned).collect())
    }

    /// Whether a network device is down, belongs to no other, and carries no other.
    pub(super) fn is_at_rest(&self, netdev: &str) -> Result<bool, HostError> {
        let Some(directory) = self.netdev_dir(netdev) else {
            return Ok(false);
        };
        let reading = inventory(netdev);
        let flags: Option<u32> = reading.number(&directory.join("flags"))?;
        if flags.is_none_or(|flags| flags & FLAG_UP != 0) {
            return Ok(false);
        }
        let names = reading.names(&directory)?;
        Ok(!names
            .iter()
            .any(|name| name == "master" || name.starts_with("upper_")))
    }

    pub(super) fn master(&self, netdev: &str) -> Result<Option<String>, HostError> {
        match self.netdev_dir(netdev) {
            Some(directory) => inventory(netdev).link(&directory.join("master")),
            None => Ok(None),
        }
    }

    pub(super) fn pci_address_of(&self, netdev: &str) -> Result<PciAddress, HostError> {
        let directory = (self.netdev_dir(netdev)).filter(|directory| directory.exists());
        let directory = directory.ok_or_else(|| HostError::NoNetdev(netdev.to_owned()))?;
        let reading = inventory(netdev);
        let subsystem = reading.link(&directory.join("device/subsystem"))?;
        let device = reading.link(&directory.join("device"))?;
        match (subsystem.as_deref(), device) {
            (Some("pci"), Some(device)) => reading.address(&device),
            _ => Err(HostError::NotPci(netdev.to_owned())),
        }
    }

    pub(super) fn physical_function(&self, netdev: &str) -> Result<PhysicalFunction, HostError> {
        let address = self.pci_address_of(netdev)?;
        let not_one = || HostError::NotPhysicalFunction(netdev.to_owned());
        let function = self.physical_function_at(address)?.ok_or_else(not_one)?;
        // A representor's name leads to the PF as well, but it is not the PF.
        (function.netdev == netdev)
            .then_some(function)
            .ok_or_else(not_one)
    }

    pub(super) fn physical_functions(&self) -> Result<Vec<PhysicalFunction>, HostError> {
        let reading = inventory("the host");
        let mut found = Vec::new();
        for name in reading.names(&self.pci_bus().join("devices"))? {
            let address = reading.address(&name)?;
            match self.card(address) {
                Ok(function) => found.extend(function),
                // It went while we looked, or its driver is not loaded: nothing to lend there.
                Err(HostError::NoPciDevice(_) | HostError::NoPfNetdev(_)) => {
                    tracing::debug!(%address, "passed over");
                }
                Err(error) => return Err(error),
            }
        }
        found.sort_unstable_by_key(|function| function.address);
        Ok(found)
    }

    /// The function as a PF, if it is a network card that can make VFs.
    fn card(&self, address: PciAddress) -> Result<Option<PhysicalFunction>, HostError> {
        let directory = self.device_dir(address);
        if !directory.join("sriov_totalvfs").exists() {
            return Ok(None);
        }
        let class: Option<u32> =
            inventory(&address.to_string()).number(&directory.join("class"))?;
        if class.is_none_or(|class| class >> 8 != CLASS_ETHERNET) {
            return Ok(None);
        }
        self.physical_function_at(address)
    }

    fn physical_function_at(
        &self,
        address: PciAddress,
    ) -> Result<Option<PhysicalFunction>, HostError> {
        let directory = self.existing(address)?;
        let target = address.to_string();
        let reading = inventory(&target);
        let Some(max_vfs) = reading.number(&directory.join("sriov_totalvfs"))? else {
            return Ok(None);
        };
        let netdev = self.netdevs(address)?.into_iter().next();
        let netdev = netdev.ok_or(HostError::NoPfNetdev(address))?;
        Ok(Some(PhysicalFunction {
            address,
            ifindex: self.ifindex(&netdev)?,
            netdev,
            max_vfs,
            vf_count: reading
                .number(&directory.join("sriov_numvfs"))?
                .unwrap_or(0),
            numa_node: self.numa_node(address)?,
        }))
    }

    pub(super) fn vf_count(&self, pf: PciAddress) -> Result<u16, HostError> {
        let directory = self.existing(pf)?;
        let count = inventory(&pf.to_string()).number(&directory.join("sriov_numvfs"))?;
        count.ok_or_else(|| HostError::NotPhysicalFunction(pf.to_string()))
    }

    /// -1 in sysfs: none.
    fn numa_node(&self, address: PciAddress) -> Result<Option<u16>, HostError> {
        let path = self.device_dir(address).join("numa_node");
        let node: Option<i32> = inventory(&address.to_string()).number(&path)?;
        Ok(node.and_then(|node| u16::try_from(node).ok()))
    }

    /// The addresses of a PF's VFs by number.
    pub(super) fn vf_addresses(&self, pf: PciAddress) -> Result<Vec<(u16, PciAddress)>, HostError> {
        let directory = self.existing(pf)?;
        let target = pf.to_string();
        let reading = inventory(&target);
        let mut found = Vec::new();
        for name in reading.names(&directory)? {
            let Some(number) = name.strip_prefix("virtfn").and_then(|n| n.parse().ok()) else {
                continue;
            };
            if let Some(vf) = reading.link(&directory.join(&name))? {
                found.push((number, reading.address(&vf)?));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    pub(super) fn virtual_functions(
        &self,
        pf: &PhysicalFunction,
    ) -> Result<Vec<VirtualFunction>, HostError> {
        let mut found = Vec::new();
        for (number, address) in self.vf_addresses(pf.address)? {
            found.push(VirtualFunction {
                address,
                pf_address: pf.address,
                pf_netdev: pf.netdev.clone(),
                pf_ifindex: pf.ifindex,
                number,
                numa_node: self.numa_node(address)?,
            });
        }
        Ok(found)
    }

    pub(super) fn virtual_function(
        &self,
        address: PciAddress,
    ) -> Result<VirtualFunction, HostError> {
        let directory = self.existing(address)?;
        let target = address.to_string();
        let reading = inventory(&target);
        let Some(pf) = reading.link(&directory.join("physfn"))? else {
            return Err(HostError::NotVirtualFunction(address));
        };
        let pf_address = reading.address(&pf)?;
        let pf_netdev = self.netdevs(pf_address)?.into_iter().next();
        let pf_netdev = pf_netdev.ok_or(HostError::NoPfNetdev(pf_address))?;
        Ok(VirtualFunction {
            address,
            pf_address,
            pf_ifindex: self.ifindex(&pf_netdev)?,
            pf_netdev,
            number: self.vf_number(pf_address, address)?,
            numa_node: self.numa_node(address)?,
        })
    }

    /// The number by the PF's own arithmetic, if its link agrees; else by looking at every link.
    fn vf_number(&self, pf: PciAddress, vf: PciAddress) -> Result<u16, HostError> {
        let directory = self.device_dir(pf);
        let target = vf.to_string();
        let reading = inventory(&target);
        let offset: Option<u32> = reading.number(&directory.join("sriov_offset"))?;
        let stride: Option<u32> = reading.number(&directory.join("sriov_stride"))?;
        let guess = offset.zip(stride).and_then(|(offset, stride)| {
            let distance = routing_id(vf)
                .checked_sub(routing_id(pf))?
                .checked_sub(offset)?;
            distance.checked_div(stride)
        });
        if let Some(guess) = guess.and_then(|guess| u16::try_from(guess).ok()) {
            let link = reading.link(&directory.join(format!("virtfn{guess}")))?;
            if link.is_some_and(|link| link == target) {
                return Ok(guess);
            }
        }
        let all = self.vf_addresses(pf)?;
        let found = all.into_iter().find(|(_, address)| *address == vf);
        found
            .map(|(number, _)| number)
            .ok_or(HostError::NotVirtualFunction(vf))
    }

    pub(super) fn pci_device(&self, address: PciAddress) -> Result<PciDevice, HostError> {
        let directory = self.existing(address)?;
        let target = address.to_string();
        let reading = inventory(&target);
        let missing = |what: &str| reading.malformed(format!("it has no {what}"));
        let max = reading.number(&directory.join("sriov_totalvfs"))?;
        let pf = reading.link(&directory.join("physfn"))?;
        let sriov = match (pf, max) {
            (Some(pf), _) => Sriov::Virtual {
                pf: reading.address(&pf)?,
            },
            (None, Some(max)) => {
                let vfs = self.vf_addresses(address)?;
                let vfs = vfs.into_iter().map(|(_, vf)| vf).collect();
                Sriov::Physical { vfs, max }
            }
            (None, None) => Sriov::None,
        };
        Ok(PciDevice {
            address,
            vendor: (reading.number(&directory.join("vendor"))?)
                .ok_or_else(|| missing("vendor"))?,
            device: (reading.number(&directory.join("device"))?)
                .ok_or_else(|| missing("device"))?,
            class: (reading.number(&directory.join("class"))?).ok_or_else(|| missing("class"))?,
            driver: self.driver(address)?,
            netdevs: self.netdevs(address)?,
            iommu_group: self.iommu_group_number(address, reading)?,
            numa_node: self.numa_node(address)?,
            // The kernel shows a link's speed for PCI Express functions only.
            is_express: directory.join("max_link_speed").exists(),
            sriov,
        })
    }

    fn iommu_group_number(
        &self,
        address: PciAddress,
        reading: Reading<'_>,
    ) -> Result<Option<u32>, HostError> {
        let group = reading.link(&self.device_dir(address).join("iommu_group"))?;
        let malformed = |group: &str| reading.malformed(format!("its IOMMU group is '{group}'"));
        group
            .map(|group| group.parse().map_err(|_| malformed(&group)))
            .transpose()
    }

    pub(super) fn iommu_group(&self, address: PciAddress) -> Result<Option<IommuGroup>, HostError> {
        let directory = self.existing(address)?;
        let target = address.to_string();
        let reading = Reading {
            operation: Operation::ReadGroup,
            target: &target,
        };
        let Some(number) = self.iommu_group_number(address, reading)? else {
            return Ok(None);
        };
        let mut members = Vec::new();
        for name in reading.names(&directory.join("iommu_group/devices"))? {
            // Other buses' devices can be members too; they have no driver that vfio minds.
            if let Ok(member) = name.parse() {
                members.push((member, self.driver(member)?));
            }
        }
        members.sort_unstable();
        Ok(Some(IommuGroup { number, members }))
    }
}

/// Bus, slot and function as one number, as PCI routes by.
fn routing_id(address: PciAddress) -> u32 {
    u32::from(address.bus()) << 8 | u32::from(address.slot()) << 3 | u32::from(address.function())
}

/// Whether a `phys_port_name` is a card's own port (`p0`, `p1s2`) and no representor's (`pf0vf1`).
fn is_own_port(name: &str) -> bool {
    let digits_end = |text: &str, mark: char| {
        let (before, digits) = text.rsplit_once(mark)?;
        let numeric = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        numeric.then(|| before.to_owned())
    };
    let port = |text: &str| digits_end(text, 'p').is_some();
    port(name) || digits_end(name, 's').is_some_and(|before| port(&before))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn representors_are_not_the_cards_own_port() {
        for own in ["p0", "p12", "p1s2", "c1p0"] {
            assert!(is_own_port(own), "{own}");
        }
        for other in ["pf0vf1", "pf0", "c1pf0vf3", "", "p", "ps"] {
            assert!(!is_own_port(other), "{other}");
        }
    }
}
