//! The nouns of virtnic, and their libvirt XML.
//!
//! Each noun parses itself from a document and formats itself as libvirt's canonical form. Nothing
//! here does I/O: a [`PciAddress`] is a name, not a device that is known to exist.

mod address;
mod bandwidth;
mod device_id;
mod domain;
mod driver;
mod error;
mod forward;
pub mod grammar;
mod host_interface;
mod hostdev;
mod hybrid;
mod interface;
mod kept;
mod mac;
mod merge;
mod metadata;
mod network;
mod nodedev;
mod object_name;
mod port;
mod quote;
mod secrets;
mod tree;
mod usb_address;
mod virtualport;
mod vlan;
pub mod xml;

pub use address::{ParsePciAddressError, PciAddress};
pub use bandwidth::{Bandwidth, Rate};
pub use device_id::{DeviceId, NetdevName, NetdevNameError};
pub use domain::*;
pub(crate) use error::Faults;
pub use error::{Error, ErrorKind, MAX_FAULTS};
pub use forward::{Forward, ForwardMode, PoolMembers};
pub use host_interface::{BondMode, HostInterface, HostInterfaceKind, MiiMonitor};
pub use hostdev::*;
pub use hybrid::*;
pub use interface::*;
pub use kept::Kept;
pub use mac::{MacAddress, ParseMacAddressError};
pub use merge::{merge_port, merge_vf_settings, merge_virtual_port};
pub use metadata::{metadata_element, set_metadata_element};
pub use network::*;
pub use nodedev::*;
pub use port::*;
pub use quote::quoted;
pub use secrets::has_hidden_secrets;
pub use usb_address::{UsbAddress, UsbAddressError};
pub use uuid::Uuid;
pub use virtualport::{VirtualPort, VirtualPortKind, VirtualPortRules};
pub use vlan::{NativeMode, Vlan, VlanTag};

/// Which form of a document is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The definition: what is kept on disk and used at the next start.
    Inactive,
    /// The running object, with all that was resolved for it.
    Live,
    /// What is sent to another host: the definition, without what belongs to this one.
    Migratable,
}
