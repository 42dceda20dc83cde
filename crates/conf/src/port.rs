//! `<networkport>`: one guest interface's place in a network.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Bandwidth, HostDriver, MacAddress, MacTableManager, PciAddress, VirtualPort, Vlan};

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
        /// The bridge.
        bridge: String,
        /// Who fills its table.
        mac_table_manager: Option<MacTableManager>,
    },
    /// A tap on an existing bridge.
    Bridge {
        /// The bridge.
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
        /// Which one.
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
    /// As vepa, and nothing comes back from siblings.
    Private,
    /// Siblings reach each other inside the host.
    Bridge,
    /// The device below belongs to one guest.
    Passthrough,
}
