//! Devices of every kind in sysfs, and who on the host uses them.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use conf::{PciAddress, PciExpress, UsbDeviceCapability, UsbInterfaceCapability, UsbName};

use super::block::is_below;
use super::sysfs::{Reading, inventory};
use super::{LinuxHost, express, is_vfio};
use crate::{
    HostError, Inventory, Netdev, NetdevNode, NodeParent, NodePlace, Operation, PciDetails, Usage,
    UsbKind, UsbNode,
};

/// Most characters of what a USB device says of itself.
const MOST_NAME: usize = 256;
/// The class of what shows pictures, the upper byte of a PCI class.
const CLASS_DISPLAY: u32 = 0x03;

impl Inventory for LinuxHost {
    fn pci_functions(&self) -> Result<Vec<PciAddress>, HostError> {
        let names = inventory("the host").names(&self.sysfs.pci_bus().join("devices"))?;
        let mut all: Vec<_> = names.iter().filter_map(|name| name.parse().ok()).collect();
        all.sort_unstable();
        Ok(all)
    }

    fn pci_place(&self, address: PciAddress) -> Result<NodePlace, HostError> {
        let directory = self.sysfs.existing(address)?;
        let path = self.sysfs.canonical(&directory);
        path.map(place_at).ok_or(HostError::NoPciDevice(address))
    }

    fn pci_details(&self, address: PciAddress) -> Result<PciDetails, HostError> {
        let directory = self.sysfs.existing(address)?;
        let target = address.to_string();
        let reading = inventory(&target);
        let id = |name| reading.number::<u16>(&directory.join(name));
        let (vendor_name, product_name) = match (id("vendor")?, id("device")?) {
            (Some(vendor), Some(product)) => self.pci_ids.names(vendor, product),
            _ => (None, None),
        };
        Ok(PciDetails {
            place: self.pci_place(address)?,
            vendor_name,
            product_name,
            express: express_of(&directory, reading)?,
            can_reset: directory.join("reset").exists(),
        })
    }

    fn netdev_place(&self, netdev: &str) -> Result<NodePlace, HostError> {
        let directory = self.sysfs.netdev_dir(netdev);
        let path = directory.and_then(|directory| self.sysfs.canonical(&directory));
        path.map(place_at)
            .ok_or_else(|| HostError::NoNetdev(netdev.to_owned()))
    }

    fn netdev_node(&self, netdev: &Netdev) -> Result<NetdevNode, HostError> {
        let name = netdev.name.as_str();
        let place = self.netdev_place(name)?;
        let missing = || HostError::NoNetdev(name.to_owned());
        let directory = self.sysfs.netdev_dir(name).ok_or_else(missing)?;
        let features = self.generic.features(netdev.index);
        let features = self.tell(Operation::ReadNetdev, netdev.index, features)?;
        let mut words: Vec<_> = (WORDS.iter())
            .filter(|(_, names)| names.iter().any(|name| features.contains(*name)))
            .map(|(word, _)| *word)
            .collect();
        if directory.join("device/infiniband").exists() {
            let at = words.iter().position(|word| *word == "txudptnl");
            words.insert(at.unwrap_or(words.len()), "rdma");
        }
        Ok(NetdevNode {
            place,
            state: inventory(name).text(&directory.join("operstate"))?,
            // Refused while it is down.
            speed: inventory(name)
                .number(&directory.join("speed"))
                .unwrap_or_default(),
            features: words,
            wireless: directory.join("phy80211").exists(),
        })
    }

    fn usb_names(&self) -> Result<Vec<String>, HostError> {
        inventory("the host").names(&self.sysfs.usb_devices())
    }

    fn usb_place(&self, name: &str) -> Result<NodePlace, HostError> {
        let path = is_usb(name).then(|| self.sysfs.canonical(&self.sysfs.usb_devices().join(name)));
        let path = path.flatten().map(place_at);
        path.ok_or_else(|| HostError::NoUsbDevice(name.to_owned()))
    }

    fn usb_node(&self, name: &str) -> Result<UsbNode, HostError> {
        let place = self.usb_place(name)?;
        let directory = self.sysfs.usb_devices().join(name);
        let reading = inventory(name);
        let hex = |file: &str| {
            let text = reading.text(&directory.join(file))?;
            Ok::<_, HostError>(text.and_then(|text| u32::from_str_radix(&text, 16).ok()))
        };
        let words = |file: &str| {
            let text = reading.text(&directory.join(file))?;
            let text = text.filter(|text| !text.is_empty());
            Ok::<_, HostError>(text.map(|text| text.chars().take(MOST_NAME).collect::<String>()))
        };
        let driver = reading.link(&directory.join("driver"))?;
        if name.contains(':') {
            let interface = UsbInterfaceCapability {
                number: hex("bInterfaceNumber")?.unwrap_or(0),
                class: hex("bInterfaceClass")?.unwrap_or(0),
                subclass: hex("bInterfaceSubClass")?.unwrap_or(0),
                protocol: hex("bInterfaceProtocol")?.unwrap_or(0),
                description: words("interface")?,
            };
            let kind = UsbKind::Interface(interface);
            return Ok(UsbNode {
                place,
                driver,
                devnode: None,
                kind,
            });
        }
        let small = |id: Option<u32>| id.and_then(|id| u16::try_from(id).ok());
        let (vendor, product) = (small(hex("idVendor")?), small(hex("idProduct")?));
        let (vendor_name, product_name) = match (vendor, product) {
            (Some(vendor), Some(product)) => self.usb_ids.names(vendor, product),
            _ => (None, None),
        };
        let bus = reading.number(&directory.join("busnum"))?.unwrap_or(0);
        let device = reading.number(&directory.join("devnum"))?.unwrap_or(0);
        Ok(UsbNode {
            place,
            driver,
            devnode: Some(format!("/dev/bus/usb/{bus:03}/{device:03}")),
            kind: UsbKind::Device(UsbDeviceCapability {
                bus,
                device,
                product: UsbName {
                    id: product,
                    name: product_name.map_or_else(|| words("product"), |name| Ok(Some(name)))?,
                },
                vendor: UsbName {
                    id: vendor,
                    name: vendor_name
                        .map_or_else(|| words("manufacturer"), |name| Ok(Some(name)))?,
                },
            }),
        })
    }

    fn pci_usage(&self, address: PciAddress) -> Result<Vec<Usage>, HostError> {
        let target = address.to_string();
        let reading = Reading {
            operation: Operation::ReadUsage,
            target: &target,
        };
        self.sysfs.existing(address)?;
        let driver = self.sysfs.driver(address)?;
        if driver.as_deref().is_some_and(is_vfio) {
            let holder = self.holder_of_group(address)?;
            return Ok(holder.map(Usage::VfioOpen).into_iter().collect());
        }
        let below = self.pci_place(address)?.path;
        let netdevs = self.netdevs_below(&below, reading)?;
        let mut usages = self.usage_below(&below, &netdevs, reading)?;
        if let Some(driver) = &driver
            && netdevs.is_empty()
            && self.makes_netdev(address, driver)?
        {
            usages.push(Usage::OtherNamespace);
        }
        if self.shows_console(address, &below, reading)? {
            usages.push(Usage::Console);
        }
        Ok(usages)
    }

    fn usb_usage(&self, bus: u32, device: u32) -> Result<Vec<Usage>, HostError> {
        let target = format!("USB device {bus}-{device}");
        let reading = Reading {
            operation: Operation::ReadUsage,
            target: &target,
        };
        for name in self.usb_names()?.iter().filter(|name| !name.contains(':')) {
            let directory = self.sysfs.usb_devices().join(name);
            let number = |file| reading.number::<u32>(&directory.join(file));
            if (number("busnum")?, number("devnum")?) == (Some(bus), Some(device)) {
                let below = self.usb_place(name)?.path;
                let netdevs = self.netdevs_below(&below, reading)?;
                return self.usage_below(&below, &netdevs, reading);
            }
        }
        Err(HostError::NoUsbDevice(format!("{bus}-{device}")))
    }

    fn rebind(&self, address: PciAddress) -> Result<Option<String>, HostError> {
        self.give_to_host(address)
    }
}

impl LinuxHost {
    /// The network devices below that directory, however deep: a virtio card's is not its own.
    fn netdevs_below(&self, below: &str, reading: Reading<'_>) -> Result<Vec<String>, HostError> {
        let class = self.sysfs.class_dir("net");
        let mut names = reading.names(&class)?;
        names.retain(|name| {
            let path = self.sysfs.canonical(&class.join(name));
            path.is_some_and(|path| is_below(&path, below))
        });
        Ok(names)
    }

    /// The use of those network devices, and of disks below that directory.
    fn usage_below(
        &self,
        below: &str,
        netdevs: &[String],
        reading: Reading<'_>,
    ) -> Result<Vec<Usage>, HostError> {
        let mut usages = Vec::new();
        for name in netdevs {
            match self.usage_of_netdev(name, true) {
                Ok(found) => usages.extend(found),
                // It went meanwhile.
                Err(HostError::NoNetdev(_)) => {}
                Err(error) => return Err(error),
            }
        }
        usages.extend(self.block_usage_below(below, reading)?);
        Ok(usages)
    }

    /// The firmware began to show the console there, or the kernel's first frame buffer, on which it
    /// goes on, is there.
    fn shows_console(
        &self,
        address: PciAddress,
        below: &str,
        reading: Reading<'_>,
    ) -> Result<bool, HostError> {
        let directory = self.sysfs.device_dir(address);
        let class: Option<u32> = reading.number(&directory.join("class"))?;
        if class.is_none_or(|class| class >> 16 != CLASS_DISPLAY) {
            return Ok(false);
        }
        if reading.number::<u32>(&directory.join("boot_vga"))? == Some(1) {
            return Ok(true);
        }
        let buffer = self.sysfs.class_dir("graphics").join("fb0");
        let buffer = self.sysfs.canonical(&buffer);
        Ok(buffer.is_some_and(|buffer| is_below(&buffer, below)))
    }
}

/// libvirt's words for features of network devices, in its order, and ethtool's for each.
const WORDS: &[(&str, &[&str])] = &[
    ("rx", &["rx-checksum"]),
    (
        "tx",
        &[
            "tx-checksum-ipv4",
            "tx-checksum-ip-generic",
            "tx-checksum-ipv6",
            "tx-checksum-fcoe-crc",
            "tx-checksum-sctp",
        ],
    ),
    ("sg", &["tx-scatter-gather", "tx-scatter-gather-fraglist"]),
    (
        "tso",
        &[
            "tx-tcp-segmentation",
            "tx-tcp-ecn-segmentation",
            "tx-tcp-mangleid-segmentation",
            "tx-tcp6-segmentation",
        ],
    ),
    ("gso", &["tx-generic-segmentation"]),
    ("gro", &["rx-gro"]),
    ("lro", &["rx-lro"]),
    ("rxvlan", &["rx-vlan-hw-parse"]),
    ("txvlan", &["tx-vlan-hw-insert"]),
    ("ntuple", &["rx-ntuple-filter"]),
    ("rxhash", &["rx-hashing"]),
    ("txudptnl", &["tx-udp_tnl-segmentation"]),
];

fn express_of(directory: &Path, reading: Reading<'_>) -> Result<Option<PciExpress>, HostError> {
    let mut config = Vec::new();
    let read = File::open(directory.join("config"))
        .and_then(|file| file.take(express::CONFIG_BYTES).read_to_end(&mut config));
    if let (Ok(_), Some(found)) = (read, express::link_of(&config)) {
        return Ok(Some(found));
    }
    // Who may not read all of that gets the same in words, without the port.
    let link = |which: &str| {
        let speed = reading.text(&directory.join(format!("{which}_link_speed")))?;
        let width = reading.number(&directory.join(format!("{which}_link_width")));
        let link =
            speed.map(|speed| express::link_in_words(&speed, width.ok().flatten().unwrap_or(0)));
        Ok::<_, HostError>(link)
    };
    let (capable, status) = (link("max")?, link("current").unwrap_or_default());
    Ok(capable.is_some().then_some(PciExpress { capable, status }))
}

/// The next device up that has a name of its own among node devices.
fn place_at(path: String) -> NodePlace {
    let mut above = path.split('/').rev().skip(1);
    let parent = above.find_map(|name| match name.parse() {
        Ok(address) => Some(NodeParent::Pci(address)),
        Err(_) if is_usb(name) => Some(NodeParent::Usb(name.to_owned())),
        Err(_) => None,
    });
    NodePlace {
        parent: parent.unwrap_or(NodeParent::Computer),
        path,
    }
}

/// `usb1`, `1-1.4`, `1-1.4:1.0`.
fn is_usb(name: &str) -> bool {
    let numeric = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(bus) = name.strip_prefix("usb") {
        return numeric(bus);
    }
    let (device, interface) = match name.split_once(':') {
        Some((device, interface)) => (device, Some(interface)),
        None => (name, None),
    };
    let ports = |text: &str| text.split('.').all(numeric);
    let is_device = device
        .split_once('-')
        .is_some_and(|(bus, port)| numeric(bus) && ports(port));
    is_device && interface.is_none_or(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_on_the_next_one_up_that_has_a_name() {
        for (path, parent) in [
            ("/sys/devices/pci0000:00/0000:00:1c.0", NodeParent::Computer),
            (
                "/sys/devices/pci0000:00/0000:00:1c.0/0000:01:10.2",
                NodeParent::Pci("0000:00:1c.0".parse().unwrap()),
            ),
            (
                "/sys/devices/pci0000:00/0000:00:03.0/virtio0/net/eth0",
                NodeParent::Pci("0000:00:03.0".parse().unwrap()),
            ),
            (
                "/sys/devices/pci0000:00/0000:00:14.0/usb1/1-1/1-1.4/1-1.4:1.0/net/usb0",
                NodeParent::Usb("1-1.4:1.0".to_owned()),
            ),
            (
                "/sys/devices/pci0000:00/0000:00:14.0/usb1",
                NodeParent::Pci("0000:00:14.0".parse().unwrap()),
            ),
            ("/sys/devices/virtual/net/br0", NodeParent::Computer),
        ] {
            assert_eq!(place_at(path.to_owned()).parent, parent, "{path}");
        }
    }

    #[test]
    fn names_of_usb_devices() {
        for name in ["usb1", "1-1", "12-3.4.1", "1-1:1.0"] {
            assert!(is_usb(name), "{name}");
        }
        for name in [
            "usb",
            "usbx",
            "1-",
            "-1",
            "1-1:",
            "1-1.",
            "0000:00:14.0",
            "net",
            "a-1",
        ] {
            assert!(!is_usb(name), "{name}");
        }
    }
}
