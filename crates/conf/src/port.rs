//! `<networkport>`: one guest interface's place in a network.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::xml::{Document, Element, FromXml, ToXml, Writer, keywords};
use crate::{
    Bandwidth, Error, ErrorKind, Faults, HostDriver, MacAddress, MacTableManager, PciAddress,
    VirtualPort, Vlan,
};

/// A port, as the network gave it to its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkPort {
    /// Chosen by whoever asks for the port.
    pub uuid: Uuid,
    /// The guest's name.
    pub owner_name: String,
    /// The guest's identity.
    pub owner_uuid: Uuid,
    /// The port group's name.
    pub group: Option<String>,
    /// The guest's MAC.
    pub mac: MacAddress,
    /// Merged from interface, network and group.
    pub virtual_port: Option<VirtualPort>,
    /// From the interface or the group.
    pub bandwidth: Option<Bandwidth>,
    /// Traffic class on the bridge.
    pub class_id: Option<u32>,
    /// From the interface, the group or the network.
    pub vlan: Option<Vlan>,
    /// From the interface or the network.
    pub isolated: Option<bool>,
    /// From the interface, the group or the network.
    pub trust_guest_rx_filters: Option<bool>,
    /// What the guest is plugged into; none in a request.
    pub plug: Option<Plug>,
}

/// `<plug>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Plug {
    /// A tap on the network's own bridge.
    Network {
        /// The bridge's netdev.
        bridge: String,
        /// Who fills its table.
        mac_table_manager: Option<MacTableManager>,
    },
    /// A tap on an existing bridge.
    Bridge {
        /// The bridge's netdev.
        bridge: String,
        /// Who fills its table.
        mac_table_manager: Option<MacTableManager>,
    },
    /// macvtap over a network device.
    Direct {
        /// The device below.
        dev: String,
        /// The macvlan mode.
        mode: DirectMode,
    },
    /// A PCI function, given whole.
    HostdevPci {
        /// Bound and given back by us.
        managed: bool,
        /// How it is bound.
        driver: Option<HostDriver>,
        /// Where the host has it.
        address: PciAddress,
    },
}

/// A macvlan mode (`IFLA_MACVLAN_MODE`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DirectMode {
    /// All frames leave by the wire; an 802.1Qbg switch sends some back.
    #[default]
    Vepa,
    /// As vepa, and broadcasts and multicasts of siblings that a switch sends back are dropped. Linux
    /// lets a unicast through that a reflecting switch sends back.
    Private,
    /// Siblings reach each other inside the host.
    Bridge,
    /// The device below belongs to one guest.
    Passthrough,
}

keywords!(DirectMode {
    Vepa = "vepa",
    Private = "private",
    Bridge = "bridge",
    Passthrough = "passthrough",
});

impl NetworkPort {
    /// Reads a `<networkport>` document.
    ///
    /// # Errors
    /// What is wrong, in libvirt's class, with line, column and path.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let document = Document::parse(text)?;
        document.read_definition("networkport", Self::from_xml)
    }

    /// libvirt's canonical document.
    #[must_use]
    pub fn to_xml(&self) -> String {
        let mut writer = Writer::new();
        self.write_xml(&mut writer);
        writer.finish()
    }
}

impl FromXml for NetworkPort {
    fn from_xml(element: Element<'_>) -> Result<Self, Error> {
        let mut faults = Faults::default();
        let owner = faults.optional(needed(element, element.child("owner"), "owner"));
        let mac = faults.optional(needed(element, element.child("mac"), "mac"));
        let limits = element.child("bandwidth");
        let bandwidth = limits.map(|bandwidth| Bandwidth::parse(bandwidth, true));
        let bandwidth = faults.or_default(bandwidth.transpose()).flatten();
        let class_id = limits.map(|bandwidth| bandwidth.number::<u32>("classID"));
        let class_id = faults.or_default(class_id.transpose()).flatten();
        let mut id = |element: Element<'_>| {
            let id = element.child_uuid("uuid");
            faults.or_default(id.and_then(|id| needed(element, id, "uuid")))
        };
        let (uuid, owner_uuid) = (id(element), owner.map(id).unwrap_or_default());
        let owner_name = owner.map(|owner| needed(owner, owner.child_text("name"), "name"));
        let owner_name = owner_name.map(|name| faults.or_default(name));
        let address = mac.map(|mac| {
            let address = mac.parsed(ErrorKind::Xml, "address");
            address.and_then(|address| {
                address.ok_or_else(|| mac.missing(ErrorKind::Internal, "address"))
            })
        });
        let address = address.and_then(|address| faults.optional(address));
        let flag = |name, attribute| element.child(name).map(|child| child.yes_no(attribute));
        let port = Self {
            uuid,
            owner_name: owner_name.unwrap_or_default(),
            owner_uuid,
            group: element.child_text("group"),
            mac: address.unwrap_or_else(MacAddress::random),
            virtual_port: (faults.or_default(element.parse_child("virtualport")))
                .filter(|port| *port != VirtualPort::default()),
            // A class without limits is a class of nothing.
            class_id: class_id.filter(|&id| id > 0 && bandwidth.is_some()),
            bandwidth,
            vlan: faults.or_default(element.parse_child("vlan")),
            isolated: (faults.or_default(flag("port", "isolated").transpose())).flatten(),
            trust_guest_rx_filters: faults
                .or_default(flag("rxfilters", "trustGuest").transpose())
                .flatten(),
            plug: element
                .child("plug")
                .and_then(|plug| faults.or_default(Plug::parse(plug))),
        };
        faults.finish()?;
        Ok(port)
    }
}

fn needed<T>(element: Element<'_>, part: Option<T>, name: &str) -> Result<T, Error> {
    part.ok_or_else(|| {
        let message = format!("<{}> needs a <{name}>", element.name());
        element.error(ErrorKind::Internal, message)
    })
}

impl ToXml for NetworkPort {
    fn write_xml(&self, writer: &mut Writer) {
        writer.element("networkport", |w| {
            w.text_element("uuid", self.uuid);
            w.element("owner", |w| {
                w.text_element("name", &self.owner_name);
                w.text_element("uuid", self.owner_uuid);
            });
            w.optional_text_element("group", self.group.as_deref());
            w.element("mac", |w| w.attribute("address", self.mac));
            w.write_optional(self.virtual_port.as_ref());
            if let Some(bandwidth) = &self.bandwidth {
                bandwidth.write(w, self.class_id);
            }
            w.write_optional(self.vlan.as_ref());
            if let Some(isolated) = self.isolated {
                w.element("port", |w| w.yes_no("isolated", isolated));
            }
            if let Some(trust) = self.trust_guest_rx_filters {
                w.element("rxfilters", |w| w.yes_no("trustGuest", trust));
            }
            w.write_optional(self.plug.as_ref());
        });
    }
}

impl Plug {
    /// Reads `<plug>`; none for `type='none'`.
    fn parse(element: Element<'_>) -> Result<Option<Self>, Error> {
        let need = |name| match element.require(name)? {
            "" => Err(element.missing(ErrorKind::Xml, name)),
            value => Ok(value.to_owned()),
        };
        let plug = match element.require("type")? {
            "none" => return Ok(None),
            "network" => Self::Network {
                bridge: need("bridge")?,
                mac_table_manager: element.keyword("macTableManager")?,
            },
            "bridge" => Self::Bridge {
                bridge: need("bridge")?,
                mac_table_manager: element.keyword("macTableManager")?,
            },
            "direct" => Self::Direct {
                dev: need("dev")?,
                mode: element.keyword("mode")?.unwrap_or_default(),
            },
            "hostdev-pci" => Self::HostdevPci {
                managed: element.yes_no("managed")?.unwrap_or(false),
                driver: element
                    .parse_child("driver")?
                    .filter(|driver| *driver != HostDriver::default()),
                address: PciAddress::from_xml(element.require_child("address")?)?,
            },
            _ => {
                let expected = "none, network, bridge, direct or hostdev-pci";
                return Err(element.invalid(ErrorKind::Xml, "type", expected));
            }
        };
        Ok(Some(plug))
    }
}

impl ToXml for Plug {
    fn write_xml(&self, writer: &mut Writer) {
        writer.element("plug", |w| match self {
            Self::Network {
                bridge,
                mac_table_manager,
            } => write_bridge(w, "network", bridge, *mac_table_manager),
            Self::Bridge {
                bridge,
                mac_table_manager,
            } => write_bridge(w, "bridge", bridge, *mac_table_manager),
            Self::Direct { dev, mode } => {
                w.attribute("type", "direct");
                w.attribute("dev", dev);
                w.keyword("mode", *mode);
            }
            Self::HostdevPci {
                managed,
                driver,
                address,
            } => {
                w.attribute("type", "hostdev-pci");
                w.yes_no("managed", *managed);
                w.write_optional(driver.as_ref());
                w.element("address", |w| address.write_attributes(w));
            }
        });
    }
}

fn write_bridge(w: &mut Writer, kind: &str, bridge: &str, manager: Option<MacTableManager>) {
    w.attribute("type", kind);
    w.attribute("bridge", bridge);
    w.optional_keyword("macTableManager", manager);
}
