//! `<device>`: devices of the host, as `virsh nodedev-dumpxml` shows them.

mod net;
mod pci;
mod system;
mod usb;

pub use net::{InterfaceState, NetCapability, NetKind, NetLink};
pub use pci::{
    NodeIommuGroup, NodeSriov, PciCapability, PciExpress, PciExpressLink, PciLinkSpeed, PciName,
};
pub use system::{SystemCapability, SystemFirmware, SystemHardware};
pub use usb::{UsbDeviceCapability, UsbInterfaceCapability, UsbName};

use crate::xml::{Document, Element, FromXml, RawXml, ToXml, Writer};
use crate::{Error, ErrorKind, MacAddress};

/// A device of the host.
///
/// <https://libvirt.org/formatnode.html>
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeDevice {
    /// Unique: see [`node_device_name`].
    pub name: String,
    /// Its directory in sysfs.
    pub path: Option<String>,
    /// Its device node.
    pub devnode: Option<String>,
    /// Other names of its device node.
    pub devnode_links: Vec<String>,
    /// The name of the device that it sits on.
    pub parent: Option<String>,
    /// The kernel driver that has it.
    pub driver: Option<String>,
    /// What it is; at least one.
    pub capabilities: Vec<NodeCapability>,
}

/// `<capability>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeCapability {
    /// The host itself.
    System(SystemCapability),
    /// A PCI function.
    Pci(PciCapability),
    /// A network device.
    Net(NetCapability),
    /// A USB device.
    UsbDevice(UsbDeviceCapability),
    /// An interface of a USB device.
    UsbInterface(UsbInterfaceCapability),
    /// Any other kind, as it stands.
    Other {
        /// `capability/@type`.
        kind: String,
        /// All of it.
        xml: RawXml,
    },
}

/// The name of a device: its subsystem, its name in sysfs and what else is needed to tell it, with
/// `_` for all that is neither letter nor digit.
///
/// ```
/// assert_eq!(conf::node_device_name("usb", "1-1.4:1.0", None), "usb_1_1_4_1_0");
/// ```
#[must_use]
pub fn node_device_name(subsystem: &str, sysname: &str, extra: Option<&str>) -> String {
    let mut name = format!("{subsystem}_{sysname}");
    if let Some(extra) = extra {
        name.push('_');
        name.push_str(extra);
    }
    name.replace(|c: char| !c.is_ascii_alphanumeric(), "_")
}

/// The name of a network device: `net_eth0_52_54_00_12_34_56`.
#[must_use]
pub fn net_device_name(interface: &str, mac: MacAddress) -> String {
    node_device_name("net", interface, Some(&mac.to_string()))
}

impl NodeDevice {
    /// The name of the host itself, which is the parent of all devices without another.
    pub const COMPUTER: &str = "computer";

    /// Reads a `<device>` document.
    ///
    /// # Errors
    /// What is wrong, in libvirt's class, with line, column and path.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let document = Document::parse(text)?;
        Self::from_xml(document.root_named("device")?)
    }

    /// libvirt's canonical document.
    #[must_use]
    pub fn to_xml(&self) -> String {
        let mut writer = Writer::new();
        self.write_xml(&mut writer);
        writer.finish()
    }

    /// All its capabilities by the words that libvirt's clients filter by.
    #[must_use]
    pub fn capability_names(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for capability in &self.capabilities {
            names.push(capability.name());
            if let NodeCapability::Pci(pci) = capability {
                names.extend(pci.other_names());
            }
        }
        names
    }

    /// What it is as a PCI function.
    #[must_use]
    pub fn pci(&self) -> Option<&PciCapability> {
        self.capabilities
            .iter()
            .find_map(|capability| match capability {
                NodeCapability::Pci(pci) => Some(pci),
                _ => None,
            })
    }

    /// What it is as a network device.
    #[must_use]
    pub fn net(&self) -> Option<&NetCapability> {
        self.capabilities
            .iter()
            .find_map(|capability| match capability {
                NodeCapability::Net(net) => Some(net),
                _ => None,
            })
    }
}

impl FromXml for NodeDevice {
    fn from_xml(element: Element<'_>) -> Result<Self, Error> {
        let name = element
            .child_text("name")
            .ok_or_else(|| element.error(ErrorKind::NoName, "<device> needs a <name>"))?;
        let (mut devnode, mut devnode_links) = (None, Vec::new());
        for node in element.children_named("devnode") {
            match node.require("type")? {
                "dev" => devnode = Some(node.text()),
                "link" => devnode_links.push(node.text()),
                _ => return Err(node.invalid(ErrorKind::Xml, "type", "dev or link")),
            }
        }
        let capabilities = element
            .children_named("capability")
            .map(NodeCapability::from_xml)
            .collect::<Result<Vec<_>, _>>()?;
        if capabilities.is_empty() {
            return Err(element.error(ErrorKind::Xml, "<device> needs a <capability>"));
        }
        Ok(Self {
            name,
            path: element.child_text("path"),
            devnode,
            devnode_links,
            parent: element.child_text("parent"),
            driver: element
                .child("driver")
                .and_then(|driver| driver.child_text("name")),
            capabilities,
        })
    }
}

impl ToXml for NodeDevice {
    fn write_xml(&self, writer: &mut Writer) {
        writer.element("device", |w| {
            w.text_element("name", &self.name);
            w.optional_text_element("path", self.path.as_deref());
            let devnodes = self.devnode.iter().map(|path| ("dev", path));
            let links = self.devnode_links.iter().map(|path| ("link", path));
            for (kind, path) in devnodes.chain(links) {
                w.element("devnode", |w| {
                    w.attribute("type", kind);
                    w.text(path);
                });
            }
            w.optional_text_element("parent", self.parent.as_deref());
            if let Some(driver) = &self.driver {
                w.element("driver", |w| w.text_element("name", driver));
            }
            for capability in &self.capabilities {
                w.write(capability);
            }
        });
    }
}

impl NodeCapability {
    /// `capability/@type`.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::System(_) => "system",
            Self::Pci(_) => "pci",
            Self::Net(_) => "net",
            Self::UsbDevice(_) => "usb_device",
            Self::UsbInterface(_) => "usb",
            Self::Other { kind, .. } => kind,
        }
    }
}

impl FromXml for NodeCapability {
    fn from_xml(element: Element<'_>) -> Result<Self, Error> {
        Ok(match element.require("type")? {
            "system" => Self::System(SystemCapability::from_xml(element)?),
            "pci" => Self::Pci(PciCapability::from_xml(element)?),
            "net" => Self::Net(NetCapability::from_xml(element)?),
            "usb_device" => Self::UsbDevice(UsbDeviceCapability::from_xml(element)?),
            "usb" => Self::UsbInterface(UsbInterfaceCapability::from_xml(element)?),
            kind => Self::Other {
                kind: kind.to_owned(),
                xml: element.raw(),
            },
        })
    }
}

impl ToXml for NodeCapability {
    fn write_xml(&self, writer: &mut Writer) {
        if let Self::Other { xml, .. } = self {
            writer.raw(xml);
            return;
        }
        writer.element("capability", |w| {
            w.attribute("type", self.name());
            match self {
                Self::System(system) => system.write(w),
                Self::Pci(pci) => pci.write(w),
                Self::Net(net) => net.write(w),
                Self::UsbDevice(device) => device.write(w),
                Self::UsbInterface(interface) => interface.write(w),
                Self::Other { .. } => {}
            }
        });
    }
}

/// The number in a child element that must be there, in any base.
fn child_number<T: TryFrom<u64>>(element: Element<'_>, name: &str, max: u64) -> Result<T, Error> {
    let child = element.require_child(name)?;
    let text = child.text();
    crate::xml::parse_unsigned(&text, crate::xml::Base::Any)
        .filter(|&value| value <= max)
        .and_then(|value| T::try_from(value).ok())
        .ok_or_else(|| {
            let text: String = text.chars().take(40).collect();
            child.error(
                ErrorKind::Xml,
                format!("<{name}> is '{text}': expected a number from 0 to {max}"),
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_libvirts() {
        let mac = "52:54:00:12:34:56".parse().unwrap();
        assert_eq!(net_device_name("eth0", mac), "net_eth0_52_54_00_12_34_56");
        assert_eq!(
            net_device_name("enp1s0.v-1", mac),
            "net_enp1s0_v_1_52_54_00_12_34_56"
        );
    }
}
