//! The devices of a guest.

use super::{DeviceInfo, GuestAddress};
use crate::kept::Kept;
use crate::xml::{Document, RawXml};
use crate::{HostDevice, Interface};

/// The most devices that a guest may have, those included that it is given by default: as many as
/// 256 PCI buses of 32 slots hold.
pub const MAX_DEVICES: usize = 8192;

/// `<devices>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Devices {
    /// The QEMU to run.
    pub emulator: Option<String>,
    /// Disks, those of a bus together, by their names.
    pub disks: Vec<Disk>,
    /// Controllers, PCI ones included.
    pub controllers: Vec<Controller>,
    /// Network interfaces, in the order of the document.
    pub interfaces: Vec<Interface>,
    /// PCI and USB devices of the host that are no interfaces.
    pub hostdevs: Vec<HostDevice>,
    /// Serial ports, in the order of the document.
    pub serials: Vec<CharDevice>,
    /// Consoles; the first mirrors the first serial port where there is one.
    pub consoles: Vec<CharDevice>,
    /// Random number generators.
    pub rngs: Vec<Rng>,
    /// The balloon; `None` only before defaults are filled in.
    pub memballoon: Option<MemBalloon>,
    /// Devices that are not modelled: kept, with the place in the guest that they were given.
    pub others: Vec<OtherDevice>,
}

/// `<disk>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// `disk` or `cdrom` (`floppy` and `lun` are kept and refused).
    pub device: String,
    /// Where its bytes are.
    pub source: Option<DiskSource>,
    /// `<driver type=…>`: raw or qcow2; empty only before defaults are filled in.
    pub format: String,
    /// `<driver cache=…>` and the like, kept.
    pub driver_attributes: Vec<(String, String)>,
    /// `<target dev=…>`.
    pub target: String,
    /// `<target bus=…>`: virtio or sata (others are kept and refused).
    pub bus: String,
    /// `<readonly/>`.
    pub read_only: bool,
    /// Alias, guest address, boot order.
    pub info: DeviceInfo,
    /// Kept and not used.
    pub unused: Kept,
}

/// `disk/@type` and `<source>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskSource {
    /// An image file.
    File(String),
    /// A block device.
    Block(String),
    /// A kind that is kept, and refused at start: `disk/@type` and its `<source>`.
    Other {
        /// `disk/@type`.
        kind: String,
        /// `<source>` as it stands.
        source: Option<RawXml>,
    },
}

/// `<controller>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Controller {
    /// `pci`, `usb`, `sata`, `ide`, `scsi`, `virtio-serial` …
    pub kind: String,
    /// `controller/@index`, unique for its kind.
    pub index: u32,
    /// `controller/@model`.
    pub model: Option<String>,
    /// PCI: `<model name=…>`.
    pub model_name: Option<String>,
    /// PCI: `<target …>`.
    pub target: PciControllerTarget,
    /// Alias, guest address.
    pub info: DeviceInfo,
    /// Kept and not used.
    pub unused: Kept,
}

/// `<target>` of a PCI controller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PciControllerTarget {
    /// Slot number shown to the guest.
    pub chassis: Option<u8>,
    /// Port number: slot × 8 + function.
    pub port: Option<u8>,
    /// Chassis of a pci-bridge.
    pub chassis_nr: Option<u8>,
    /// Bus of an expander.
    pub bus_nr: Option<u8>,
    /// NUMA node of an expander.
    pub node: Option<u32>,
    /// Root ports: devices may be plugged while running.
    pub hotplug: Option<bool>,
}

/// `<serial>` or `<console>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CharDevice {
    /// Where its bytes go.
    pub backend: CharBackend,
    /// `<target type=…>`: isa-serial, serial, virtio.
    pub target_type: Option<String>,
    /// `<target port=…>`.
    pub target_port: Option<u32>,
    /// `<target><model name=…>`.
    pub target_model: Option<String>,
    /// Alias, guest address.
    pub info: DeviceInfo,
    /// Kept and not used.
    pub unused: Kept,
}

/// The host's end of a character device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CharBackend {
    /// A pseudo-terminal; its path once the guest runs.
    Pty(Option<String>),
    /// A file, appended to or not.
    File {
        /// The file's path on the host.
        path: String,
        /// `append='on'`.
        append: Option<bool>,
    },
    /// What is written is lost, and there is nothing to read.
    Null,
    /// A kind that is kept, and refused at start: `@type`, `<source>`s as they stand.
    Other {
        /// `@type`.
        kind: String,
        /// What it said.
        source: Vec<RawXml>,
    },
}

/// `<rng model='virtio'>` with a random file as its backend; others are [`OtherDevice`]s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rng {
    /// `virtio`, or its transitional kinds.
    pub model: String,
    /// `<backend model='random'>`: the file read from.
    pub source: Option<String>,
    /// `<rate bytes period>`: bytes, milliseconds.
    pub rate: Option<(u32, Option<u32>)>,
    /// Alias, guest address.
    pub info: DeviceInfo,
    /// Kept and not used.
    pub unused: Kept,
}

/// `<memballoon>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemBalloon {
    /// `virtio` (or its transitional kinds) or `none`.
    pub model: String,
    /// Alias, guest address.
    pub info: DeviceInfo,
    /// Kept and not used.
    pub unused: Kept,
}

/// A device that is kept as it stands and refused by name at start, unless a guest is the same
/// without it. It still takes its place on the guest's buses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherDevice {
    /// Its element's name.
    pub name: String,
    /// Alias, guest address, boot order.
    pub info: DeviceInfo,
    pub(crate) attributes: Vec<(String, String)>,
    pub(crate) children: Vec<RawXml>,
    pub(crate) text: Option<String>,
    /// How many modelled devices of that name stand before it.
    pub(crate) after: usize,
}

impl Devices {
    /// How many there are; a console counts as one, too.
    #[must_use]
    pub fn count(&self) -> usize {
        self.disks.len()
            + self.controllers.len()
            + self.interfaces.len()
            + self.hostdevs.len()
            + self.serials.len()
            + self.consoles.len()
            + self.rngs.len()
            + usize::from(self.memballoon.is_some())
            + self.others.len()
    }
}

impl Disk {
    /// The drive's place on its controller: controller, bus, target, unit.
    #[must_use]
    pub fn drive(&self) -> Option<(u32, u32, u32, u32)> {
        match self.info.address {
            Some(GuestAddress::Drive {
                controller,
                bus,
                target,
                unit,
            }) => Some((controller, bus, target, unit)),
            _ => None,
        }
    }
}

impl Controller {
    /// A controller without anything but its identity.
    #[must_use]
    pub fn new(kind: &str, index: u32, model: Option<&str>) -> Self {
        Self {
            kind: kind.to_owned(),
            index,
            model: model.map(str::to_owned),
            ..Self::default()
        }
    }

    /// `pci-root` or `pcie-root`, which are on no other bus.
    #[must_use]
    pub fn is_pci_root(&self) -> bool {
        self.kind == "pci" && matches!(self.model.as_deref(), Some("pci-root" | "pcie-root"))
    }

    /// The model of one of the USB controllers that are one USB 2 controller, EHCI and its companions: they have
    /// one index.
    pub(super) fn usb_2(&self) -> Option<&str> {
        let model = self.model.as_deref().filter(|_| self.kind == "usb")?;
        model.starts_with("ich9-").then_some(model)
    }
}

impl OtherDevice {
    /// An attribute of its element.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        let mut attributes = self.attributes.iter();
        attributes.find_map(|(known, value)| (known == name).then_some(value.as_str()))
    }

    /// An attribute of its first child of that name.
    #[must_use]
    pub fn child_attribute(&self, child: &str, name: &str) -> Option<String> {
        let raw = self.children.iter().find(|raw| raw.name() == child)?;
        let document = Document::parse(raw.as_str()).ok()?;
        document.root().attribute_string(name)
    }

    /// Whether it has such a child.
    #[must_use]
    pub fn has_child(&self, child: &str) -> bool {
        self.children.iter().any(|raw| raw.name() == child)
    }

    /// Whether a guest is the same without it: QEMU's machines have it anyway, or it says that
    /// there is none.
    #[must_use]
    pub fn is_harmless(&self) -> bool {
        let plain = self.children.is_empty();
        match self.name.as_str() {
            "input" => {
                plain
                    && self.attribute("bus") == Some("ps2")
                    && matches!(self.attribute("type"), Some("mouse" | "keyboard"))
            }
            "audio" => self.attribute("type") == Some("none"),
            "video" => self.child_attribute("model", "type").as_deref() == Some("none"),
            "watchdog" => {
                plain
                    && self.attribute("model") == Some("itco")
                    && matches!(self.attribute("action"), None | Some("reset"))
            }
            _ => false,
        }
    }
}
