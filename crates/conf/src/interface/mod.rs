//! `<interface>`: a guest's network interface.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

mod driver;
mod read;
mod write;

pub use driver::{NicBackend, NicBackendKind, NicDriver, NicDriverName, Offloads, TxMode};

use crate::domain::{Origin, Written};
use crate::kept::Kept;
use crate::xml::{Document, RawXml};
use crate::{
    Bandwidth, DeviceInfo, DirectMode, Error, Form, HostDriver, HostSource, Hybrid, MacAddress,
    PciAddress, VfSettings, VirtualPort, Vlan,
};

/// A guest's network interface, as defined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The guest's MAC; made up where the document has none.
    pub mac: MacAddress,
    /// Whether the document gave the MAC.
    pub given_mac: GivenMac,
    /// What it connects to.
    pub source: InterfaceSource,
    /// VLANs of its own.
    pub vlan: Option<Vlan>,
    /// A profile of its own.
    pub virtual_port: Option<VirtualPort>,
    /// Shaping of its own.
    pub bandwidth: Option<Bandwidth>,
    /// `<port isolated=…>`.
    pub isolated: Option<bool>,
    /// The guest may change its MAC and filters.
    pub trust_guest_rx_filters: Option<bool>,
    /// `<target dev=…>`: the host-side device's name, or a template of it, as `tap%d`; see
    /// [`Interface::target_name`].
    pub target: Option<String>,
    /// `target/@managed`: `no` if the tap is someone else's (`ethernet` only).
    pub target_managed: Option<bool>,
    /// `mac/@type='generated'`: not given by a person.
    pub mac_generated: Option<bool>,
    /// `mac/@check`.
    pub mac_check: Option<bool>,
    /// `<script path=…>`, run to set the tap up.
    pub script: Option<String>,
    /// `<downscript path=…>`.
    pub downscript: Option<String>,
    /// `<backenddomain name=…>`.
    pub backend_domain: Option<String>,
    /// `<model type=…>`.
    pub model: Option<String>,
    /// `<driver>` of a virtio model. Before defaults are filled in also that of a network's interface
    /// without a model: its network may make it virtio.
    pub driver: Option<NicDriver>,
    /// `<driver>` of the VF, of an element that asks for a pair.
    pub vf_driver: Option<HostDriver>,
    /// `<backend>`.
    pub backend: Option<NicBackend>,
    /// `<tune><sndbuf>`, bytes.
    pub send_buffer: Option<u64>,
    /// `<coalesce><rx><frames max=…>`, never 0.
    pub coalesce_rx_frames: Option<u32>,
    /// Its part in a failover pair.
    pub teaming: Option<Teaming>,
    /// `<link state=…>`: up unless said otherwise.
    pub link_up: Option<bool>,
    /// `<mtu size=…>`, bytes.
    pub mtu: Option<u32>,
    /// `<virtnic:vf …>` (ours).
    pub vf: Option<VfSettings>,
    /// `<virtnic:direct mode=…>` (ours): the macvtap mode, of those that its network offers.
    pub direct_mode: Option<DirectMode>,
    /// `<virtnic:hybrid …>` (ours): a pair of a VF and virtio is asked for, or this is half of one.
    pub hybrid: Option<Hybrid>,
    /// Alias, guest address, boot order, rom.
    pub info: DeviceInfo,
    /// What was resolved for the running guest; never in a definition.
    pub actual: Option<ActualDevice>,
    /// The function that the running guest has of a `<source dev=…>`; never in a definition.
    pub host_address: Option<PciAddress>,
    /// Children and attributes that are kept and not used yet, in their place.
    pub unused: Kept,
}

/// Whether a document gave an interface's MAC, or it was made up. That is no part of what the interface
/// is: any two are equal.
#[derive(Debug, Clone, Copy, Default)]
pub struct GivenMac(pub bool);

impl PartialEq for GivenMac {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for GivenMac {}

/// `interface/@type` and `<source>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InterfaceSource {
    /// A port of a network.
    Network {
        /// The network's name.
        network: String,
        /// The port group's name.
        port_group: Option<String>,
    },
    /// macvtap over a network device.
    Direct {
        /// The device below.
        dev: String,
        /// The macvlan mode.
        mode: DirectMode,
    },
    /// A host device that is configured as a network device first.
    Hostdev {
        /// Bound and given back by us.
        managed: bool,
        /// How it is bound.
        driver: Option<HostDriver>,
        /// The function or device, as the document names it.
        source: HostSource,
    },
    /// A VF of this PF beside virtio on macvtap over it (ours).
    HostdevHybrid {
        /// The PF's netdev.
        dev: String,
    },
    /// A tap on an existing bridge.
    Bridge {
        /// The bridge's netdev.
        bridge: String,
    },
    /// A tap of its own.
    Ethernet,
    /// QEMU's user-mode network.
    User,
    /// A NIC that is connected to nothing.
    Null,
    /// A kind that is kept, and refused at start: its `type` and its `<source>`.
    Other {
        /// `interface/@type`.
        kind: String,
        /// `<source>` as it stands.
        source: Option<RawXml>,
    },
}

/// What a network resolved an interface to: libvirt's "actual device".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActualDevice {
    /// The port that it belongs to.
    pub port: Uuid,
    /// What the guest is plugged into.
    pub plug: crate::Plug,
    /// Merged settings of the port.
    pub vlan: Option<Vlan>,
    /// Merged settings of the port.
    pub virtual_port: Option<VirtualPort>,
    /// Merged settings of the port.
    pub bandwidth: Option<Bandwidth>,
    /// Merged settings of the port.
    pub isolated: Option<bool>,
    /// Merged settings of the port.
    pub trust_guest_rx_filters: Option<bool>,
}

/// `<teaming>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Teaming {
    /// The standby, which stays: virtio.
    Persistent,
    /// The primary, which is unplugged to migrate.
    Transient {
        /// The standby's alias.
        persistent: String,
    },
}

/// NIC models that are virtio devices.
pub(crate) fn is_virtio_model(model: &str) -> bool {
    matches!(
        model,
        "virtio" | "virtio-transitional" | "virtio-non-transitional"
    )
}

impl Interface {
    /// Reads a definition, as a client gives it to plug an interface.
    ///
    /// # Errors
    /// What is wrong, in libvirt's class, with its place.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let document = Document::parse(text)?;
        document.read_definition("interface", |element| {
            Self::read(element, Origin::Definition)
        })
    }

    /// libvirt's canonical document. The live form shows what the interface was resolved to.
    #[must_use]
    pub fn to_xml(&self, form: Form) -> String {
        self.tree(Written::Form(form))
            .finish(crate::tree::Secrets::Hidden)
    }

    /// The name that the document gives the device on the host; none where a name is to be made up,
    /// which a template like `tap%d` asks for too.
    #[must_use]
    pub fn target_name(&self) -> Option<&str> {
        let is_template = |name: &&str| name.matches('%').count() == 1 && name.contains("%d");
        self.target.as_deref().filter(|name| !is_template(name))
    }

    /// Whether the device is, or was resolved to, a host device.
    #[must_use]
    pub fn is_hostdev(&self) -> bool {
        match &self.actual {
            Some(actual) => matches!(actual.plug, crate::Plug::HostdevPci { .. }),
            None => matches!(self.source, InterfaceSource::Hostdev { .. }),
        }
    }

    /// Whether it names a host device by a network device's name: which function that is was resolved
    /// when it was lent.
    #[must_use]
    pub fn names_host_device(&self) -> bool {
        let source = match &self.source {
            InterfaceSource::Hostdev { source, .. } => source,
            _ => return false,
        };
        matches!(source, HostSource::NetDevice(_) | HostSource::VfOf(_))
    }

    /// Whether the model is one of virtio's.
    #[must_use]
    pub fn is_virtio(&self) -> bool {
        self.model.as_deref().is_some_and(is_virtio_model)
    }
}

impl InterfaceSource {
    /// `interface/@type`.
    #[must_use]
    pub fn kind(&self) -> &str {
        match self {
            Self::Network { .. } => "network",
            Self::Direct { .. } => "direct",
            Self::Hostdev { .. } => "hostdev",
            Self::HostdevHybrid { .. } => "hostdev-hybrid",
            Self::Bridge { .. } => "bridge",
            Self::Ethernet => "ethernet",
            Self::User => "user",
            Self::Null => "null",
            Self::Other { kind, .. } => kind,
        }
    }
}
