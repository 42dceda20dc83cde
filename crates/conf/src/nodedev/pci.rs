//! `<capability type='pci'>`: a PCI function.

use super::child_number;
use crate::xml::{Base, Element, FromXml, RawXml, ToXml, Writer, keywords};
use crate::{Error, ErrorKind, PciAddress};

/// A PCI function.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PciCapability {
    /// Class, subclass and interface, 24 bits.
    pub class: Option<u32>,
    /// Where it sits.
    pub address: PciAddress,
    /// What it is called.
    pub product: PciName,
    /// Who made it.
    pub vendor: PciName,
    /// Its part in SR-IOV.
    pub sriov: NodeSriov,
    /// `<capability>`s of other kinds (bridges, mediated devices, vital product data), as they
    /// stand.
    pub other: Vec<RawXml>,
    /// Its IOMMU group.
    pub iommu_group: Option<NodeIommuGroup>,
    /// Its NUMA node.
    pub numa_node: Option<u32>,
    /// Its link, where it is PCI Express.
    pub express: Option<PciExpress>,
}

/// A number from the PCI ID repository, and its name there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PciName {
    /// The PCI vendor or product number.
    pub id: u16,
    /// The name, if it is known.
    pub name: Option<String>,
}

/// A PCI function's part in SR-IOV.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NodeSriov {
    /// It has none.
    #[default]
    None,
    /// A VF of this PF.
    VirtualFunctionOf(PciAddress),
    /// A PF, with or without VFs now.
    PhysicalFunction {
        /// Its VFs, by number.
        vfs: Vec<PciAddress>,
        /// Most VFs that it can have; 0: not told.
        max: u32,
    },
}

/// `<iommuGroup>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeIommuGroup {
    /// Its number, good for this boot.
    pub number: u32,
    /// All its members.
    pub members: Vec<PciAddress>,
}

/// `<pci-express>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PciExpress {
    /// What its link can do.
    pub capable: Option<PciExpressLink>,
    /// What its link does.
    pub status: Option<PciExpressLink>,
}

/// `<link>` of `<pci-express>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PciExpressLink {
    /// The port's number.
    pub port: Option<u32>,
    /// GT/s.
    pub speed: Option<PciLinkSpeed>,
    /// Lanes; 0: down.
    pub width: u32,
}

/// The speeds that PCI Express has, GT/s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words are the document's")]
pub enum PciLinkSpeed {
    Gt2_5,
    Gt5,
    Gt8,
    Gt16,
    Gt32,
    Gt64,
}

keywords!(PciLinkSpeed {
    Gt2_5 = "2.5",
    Gt5 = "5",
    Gt8 = "8",
    Gt16 = "16",
    Gt32 = "32",
    Gt64 = "64",
});

impl FromXml for PciCapability {
    fn from_xml(element: Element<'_>) -> Result<Self, Error> {
        let mut capability = Self {
            class: match element.child("class") {
                Some(_) => Some(child_number(element, "class", 0xff_ffff)?),
                None => None,
            },
            address: address(element)?,
            product: name(element, "product")?,
            vendor: name(element, "vendor")?,
            iommu_group: element.parse_child("iommuGroup")?,
            numa_node: match element.child("numa") {
                Some(numa) => numa.number("node")?,
                None => None,
            },
            express: element.parse_child("pci-express")?,
            ..Self::default()
        };
        for child in element.children_named("capability") {
            match child.require("type")? {
                "phys_function" => {
                    let address = PciAddress::from_xml(child.require_child("address")?)?;
                    capability.sriov = NodeSriov::VirtualFunctionOf(address);
                }
                "virt_functions" => {
                    capability.sriov = NodeSriov::PhysicalFunction {
                        vfs: addresses(child)?,
                        max: child.number("maxCount")?.unwrap_or(0),
                    };
                }
                _ => capability.other.push(child.raw()),
            }
        }
        Ok(capability)
    }
}

fn address(element: Element<'_>) -> Result<PciAddress, Error> {
    let domain = child_number(element, "domain", u64::from(u32::MAX))?;
    let bus = child_number(element, "bus", 0xff)?;
    let slot = child_number(element, "slot", 0x1f)?;
    let function = child_number(element, "function", 7)?;
    PciAddress::new(domain, bus, slot, function)
        .ok_or_else(|| element.error(ErrorKind::Xml, "the PCI address is out of range"))
}

fn addresses(element: Element<'_>) -> Result<Vec<PciAddress>, Error> {
    let addresses = element.children_named("address");
    addresses.map(PciAddress::from_xml).collect()
}

fn name(capability: Element<'_>, name: &str) -> Result<PciName, Error> {
    let element = capability.require_child(name)?;
    let text = element.text();
    Ok(PciName {
        id: element
            .number_in("id", Base::Any, 0xffff)?
            .ok_or_else(|| element.missing(ErrorKind::Xml, "id"))?,
        name: (!text.is_empty()).then_some(text),
    })
}

impl PciName {
    fn write(&self, name: &str, w: &mut Writer) {
        w.element_spaced(name, |w| {
            w.attribute("id", format_args!("0x{:04x}", self.id));
            if let Some(name) = &self.name {
                w.text(name);
            }
        });
    }
}

impl PciCapability {
    pub(super) fn write(&self, w: &mut Writer) {
        if let Some(class) = self.class {
            w.text_element("class", format_args!("0x{class:06x}"));
        }
        w.text_element("domain", self.address.domain());
        w.text_element("bus", self.address.bus());
        w.text_element("slot", self.address.slot());
        w.text_element("function", self.address.function());
        self.product.write("product", w);
        self.vendor.write("vendor", w);
        w.write(&self.sriov);
        w.raws(&self.other);
        if let Some(group) = &self.iommu_group {
            w.element("iommuGroup", |w| {
                w.attribute("number", group.number);
                write_addresses(&group.members, w);
            });
        }
        if let Some(node) = self.numa_node {
            w.element("numa", |w| w.attribute("node", node));
        }
        w.write_optional(self.express.as_ref());
    }

    /// The words by which clients find the capabilities inside it.
    pub(super) fn other_names(&self) -> Vec<&'static str> {
        let has = |word: &&str| {
            let kind = [format!("type='{word}'"), format!("type=\"{word}\"")];
            self.other.iter().any(|raw| {
                let tag = raw.as_str().split('>').next().unwrap_or_default();
                kind.iter().any(|kind| tag.contains(kind))
            })
        };
        ["mdev_types", "vpd"].into_iter().filter(has).collect()
    }
}

impl ToXml for NodeSriov {
    fn write_xml(&self, writer: &mut Writer) {
        match self {
            Self::None => {}
            Self::VirtualFunctionOf(pf) => writer.element("capability", |w| {
                w.attribute("type", "phys_function");
                write_addresses(&[*pf], w);
            }),
            // A PF that can tell its limit has a tag of its own where it has no VFs.
            Self::PhysicalFunction { vfs, max: 0 } => writer.element_with_end("capability", |w| {
                w.attribute("type", "virt_functions");
                write_addresses(vfs, w);
            }),
            Self::PhysicalFunction { vfs, max } => writer.element("capability", |w| {
                w.attribute("type", "virt_functions");
                w.attribute("maxCount", max);
                write_addresses(vfs, w);
            }),
        }
    }
}

fn write_addresses(addresses: &[PciAddress], w: &mut Writer) {
    for address in addresses {
        w.element("address", |w| address.write_attributes(w));
    }
}

impl FromXml for NodeIommuGroup {
    fn from_xml(element: Element<'_>) -> Result<Self, Error> {
        Ok(Self {
            number: element
                .number("number")?
                .ok_or_else(|| element.missing(ErrorKind::Xml, "number"))?,
            members: addresses(element)?,
        })
    }
}

impl FromXml for PciExpress {
    fn from_xml(element: Element<'_>) -> Result<Self, Error> {
        let mut express = Self::default();
        for link in element.children_named("link") {
            let parsed = PciExpressLink {
                port: link.number("port")?,
                speed: link.keyword("speed")?,
                width: link
                    .number("width")?
                    .ok_or_else(|| link.missing(ErrorKind::Xml, "width"))?,
            };
            match link.require("validity")? {
                "cap" => express.capable = Some(parsed),
                "sta" => express.status = Some(parsed),
                _ => return Err(link.invalid(ErrorKind::Xml, "validity", "cap or sta")),
            }
        }
        Ok(express)
    }
}

impl ToXml for PciExpress {
    fn write_xml(&self, writer: &mut Writer) {
        writer.element("pci-express", |w| {
            for (validity, link) in [("cap", &self.capable), ("sta", &self.status)] {
                let Some(link) = link else { continue };
                w.element("link", |w| {
                    w.attribute("validity", validity);
                    w.optional_attribute("port", link.port);
                    w.optional_keyword("speed", link.speed);
                    w.attribute("width", link.width);
                });
            }
        });
    }
}
