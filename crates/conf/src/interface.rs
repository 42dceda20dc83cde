//! `<interface>`: a guest's network interface.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    Bandwidth, DeviceInfo, DirectMode, HostDriver, HostSource, MacAddress, VfSettings, VirtualPort,
    Vlan, xml::RawXml,
};

/// A guest's network interface, as defined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The guest's MAC; made up where the document has none.
    pub mac: MacAddress,
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
    /// `<target dev=…>`: the host-side device's name.
    pub target: Option<String>,
    /// `<model type=…>`.
    pub model: Option<String>,
    /// Its part in a failover pair.
    pub teaming: Option<Teaming>,
    /// `<link state=…>`: up unless said otherwise.
    pub link_up: Option<bool>,
    /// `<mtu size=…>`, bytes.
    pub mtu: Option<u32>,
    /// `<virtnic:vf …>` (ours).
    pub vf: Option<VfSettings>,
    /// Alias, guest address, boot order, rom.
    pub info: DeviceInfo,
    /// What was resolved for the running guest; never in a definition.
    pub actual: Option<ActualDevice>,
    /// Children and attributes that are kept and not used yet, in their place.
    pub unused: Vec<RawXml>,
}

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
        /// Which device.
        source: HostSource,
    },
    /// A VF of this PF beside virtio on macvtap over it (ours).
    HostdevHybrid {
        /// The PF's netdev.
        dev: String,
    },
    /// A tap on an existing bridge.
    Bridge {
        /// The bridge.
        bridge: String,
    },
    /// A tap of its own.
    Ethernet,
    /// QEMU's user-mode network.
    User,
    /// No connection.
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
