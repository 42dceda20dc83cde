//! What a host has, for whoever shows it, and who on the host uses it.

use conf::{PciAddress, PciExpress, UsbDeviceCapability, UsbInterfaceCapability};

use crate::{HostError, Usage};

/// What virtnic asks about devices of every kind. Part of [`crate::Host`], and like it: each method
/// looks at one device, or tells the names of all without looking at one; and blocks.
pub trait Inventory: Send + Sync + 'static {
    /// The addresses of all PCI functions, bridges among them, in order.
    fn pci_functions(&self) -> Result<Vec<PciAddress>, HostError>;

    /// Where a PCI function stands among the others.
    fn pci_place(&self, address: PciAddress) -> Result<NodePlace, HostError>;

    /// What a description of a PCI function shows beyond [`crate::PciDevice`].
    fn pci_details(&self, address: PciAddress) -> Result<PciDetails, HostError>;

    /// Where a network device stands; [`HostError::NoNetdev`].
    fn netdev_place(&self, netdev: &str) -> Result<NodePlace, HostError>;

    /// What a description of a network device shows beyond [`crate::Netdev`].
    fn netdev_node(&self, netdev: &crate::Netdev) -> Result<NetdevNode, HostError>;

    /// The kernel's names of all USB devices and of their interfaces (`usb1`, `1-1.4`, `1-1.4:1.0`),
    /// sorted.
    fn usb_names(&self) -> Result<Vec<String>, HostError>;

    /// Where the USB device or interface of that name stands; [`HostError::NoUsbDevice`].
    fn usb_place(&self, name: &str) -> Result<NodePlace, HostError>;

    /// The USB device or interface of that name; [`HostError::NoUsbDevice`].
    fn usb_node(&self, name: &str) -> Result<UsbNode, HostError>;

    /// How the host itself uses a PCI function, whatever it is: by a network device behind it, as
    /// [`crate::Links::netdev_usage`] has it, but what is put on it by us counts, too; by a file
    /// system, swap or volume on a disk behind it; as the card that shows the console. One that a vfio
    /// driver has: who has its group open. Empty: nobody would miss it.
    ///
    /// Costs a walk over the names of all network and block devices.
    fn pci_usage(&self, address: PciAddress) -> Result<Vec<Usage>, HostError>;

    /// The same for a USB device, by the numbers of its bus and on it; [`HostError::NoUsbDevice`].
    fn usb_usage(&self, bus: u32, device: u32) -> Result<Vec<Usage>, HostError>;

    /// Takes a PCI function from the driver that it was bound to on purpose, and has the kernel choose
    /// one for it; tells which took it. [`crate::Host::unbind`], for whoever does not know what the
    /// host had.
    fn rebind(&self, address: PciAddress) -> Result<Option<String>, HostError>;
}

/// Where a device stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePlace {
    /// Its directory in sysfs, without links on the way: `/sys/devices/…`.
    pub path: String,
    /// What it is on.
    pub parent: NodeParent,
}

/// What a device is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeParent {
    /// No other device.
    Computer,
    /// A PCI function: a bridge, or what makes it.
    Pci(PciAddress),
    /// A USB device or interface, by the kernel's name.
    Usb(String),
}

/// What a PCI function is called, and how it is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PciDetails {
    /// Where it stands.
    pub place: NodePlace,
    /// Who made it, by the PCI ID repository; `None`: not known there, or there is none.
    pub vendor_name: Option<String>,
    /// What it is called there.
    pub product_name: Option<String>,
    /// Its link, where it is PCI Express. One that is part of the processors has none, and is empty.
    pub express: Option<PciExpress>,
    /// The kernel knows a way to reset it.
    pub can_reset: bool,
}

/// How a network device is connected, and what it takes off the kernel's hands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetdevNode {
    /// Where it stands.
    pub place: NodePlace,
    /// Its operational state (`operstate`), by RFC 2863's words without spaces: `up`,
    /// `lowerlayerdown`; `None`: not told.
    pub state: Option<String>,
    /// Mbit/s; `None`: no link, or not told.
    pub speed: Option<u32>,
    /// libvirt's short words for what ethtool lists as switched on: `rx`, `tx`, `sg`, `tso` …
    pub features: Vec<&'static str>,
    /// Wireless.
    pub wireless: bool,
}

/// A USB device or one of its interfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsbNode {
    /// Where it stands.
    pub place: NodePlace,
    /// The kernel driver that has it.
    pub driver: Option<String>,
    /// Its node in `/dev`; interfaces have none.
    pub devnode: Option<String>,
    /// What it is.
    pub kind: UsbKind,
}

/// What a USB node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UsbKind {
    /// All of a device.
    Device(UsbDeviceCapability),
    /// An interface of one.
    Interface(UsbInterfaceCapability),
}

/// What holds a disk, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlockUse {
    /// A file system on it is mounted there.
    Mounted(String),
    /// It is swap.
    Swap,
    /// It belongs to something larger, in words: `LVM volume vg-root (dm-0)`, `md127`.
    Member(String),
    /// Something in the kernel has it for itself, and does not tell what: ZFS, most likely, where
    /// that is loaded.
    Held {
        /// ZFS is loaded.
        zfs: bool,
    },
}

impl std::fmt::Display for BlockUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mounted(at) => write!(f, "is mounted at {at}"),
            Self::Swap => f.write_str("is swap"),
            Self::Member(of) => write!(f, "belongs to {of}"),
            Self::Held { zfs: true } => f.write_str("is held by the kernel, most likely for ZFS"),
            Self::Held { zfs: false } => f.write_str("is held by something on the host"),
        }
    }
}
