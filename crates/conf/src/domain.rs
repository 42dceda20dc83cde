//! `<domain>`: a guest.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{HostDevice, Interface, PciAddress, xml::RawXml};

/// A guest. What virtnic runs is modelled; all else is kept byte for byte and written back in its
/// place.
///
/// <https://libvirt.org/formatdomain.html>
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// `domain/@type`.
    pub virt_type: VirtType,
    /// Unique name; no `/`, no newline.
    pub name: String,
    /// Unique identity, made up where the document has none.
    pub uuid: Uuid,
    /// One line for people.
    pub title: Option<String>,
    /// Text for people.
    pub description: Option<String>,
    /// Whatever other programs keep here.
    pub metadata: Option<RawXml>,
    /// Most memory, KiB.
    pub memory_kib: u64,
    /// Memory at start, KiB.
    pub current_memory_kib: u64,
    /// `<memtune><hard_limit>`, KiB.
    pub memory_hard_limit_kib: Option<u64>,
    /// Most virtual CPUs.
    pub vcpus: u32,
    /// Virtual CPUs at start, where fewer.
    pub current_vcpus: Option<u32>,
    /// Firmware, machine and boot.
    pub os: Os,
    /// `<features>`: the ones that are used.
    pub features: Features,
    /// `<cpu>`.
    pub cpu: Option<Cpu>,
    /// `<clock offset=…>`.
    pub clock_offset: String,
    /// What follows a power-off, a reboot and a crash.
    pub lifecycle: LifecycleActions,
    /// Everything plugged in.
    pub devices: Devices,
    /// Elements that are kept and not carried out, in their places.
    pub unused: Vec<Unused>,
}

/// A piece of a document that is kept, and refused by name when the guest is to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unused {
    /// Path of its parent, as `/domain/devices`.
    pub parent: String,
    /// The piece itself; its first element's name says what it is.
    pub xml: RawXml,
    /// Harmless to leave out (seclabel defaults, ps2 inputs …): no reason to refuse a start.
    pub harmless: bool,
}

/// `domain/@type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VirtType {
    /// With the kernel's help.
    Kvm,
    /// By emulation.
    Qemu,
}

/// `<os>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Os {
    /// `os/type/@arch`.
    pub arch: String,
    /// `os/type/@machine`: `q35`, `pc`, or a versioned one.
    pub machine: String,
    /// Direct kernel boot.
    pub kernel: Option<String>,
    /// Direct kernel boot.
    pub initrd: Option<String>,
    /// Direct kernel boot.
    pub cmdline: Option<String>,
    /// `<boot dev=…>` in order: hd, network, cdrom, fd.
    pub boot: Vec<String>,
    /// `<bios useserial=…>`.
    pub bios_use_serial: Option<bool>,
}

/// `<features>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Features {
    /// ACPI tables.
    pub acpi: bool,
    /// The APIC.
    pub apic: bool,
    /// Physical address extension.
    pub pae: bool,
    /// A virtual IOMMU needs more locked memory (`<ioapic driver=…>`, `<iommu>`): kept as raw.
    pub other: Vec<RawXml>,
}

/// `<cpu>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cpu {
    /// `custom`, `host-model`, `host-passthrough` or `maximum`.
    pub mode: Option<String>,
    /// `cpu/@match`.
    pub match_: Option<String>,
    /// `cpu/@check`.
    pub check: Option<String>,
    /// `<model>`: its fallback and name.
    pub model: Option<CpuModel>,
    /// `<topology>`: sockets, dies, clusters, cores, threads.
    pub topology: Option<CpuTopology>,
    /// `<feature policy name>`.
    pub features: Vec<(Option<String>, String)>,
    /// Attributes and children that are kept and not used.
    pub unused: Vec<RawXml>,
}

/// `<cpu><model>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuModel {
    /// `model/@fallback`.
    pub fallback: Option<String>,
    /// The model's name as QEMU has it.
    pub name: String,
}

/// `<cpu><topology>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words are the document's")]
pub struct CpuTopology {
    pub sockets: u32,
    pub dies: u32,
    pub clusters: u32,
    pub cores: u32,
    pub threads: u32,
}

/// `<on_poweroff>`, `<on_reboot>`, `<on_crash>`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words are the document's")]
pub struct LifecycleActions {
    pub on_poweroff: String,
    pub on_reboot: String,
    pub on_crash: String,
}

/// `<devices>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Devices {
    /// The QEMU to run.
    pub emulator: Option<String>,
    /// Disks.
    pub disks: Vec<Disk>,
    /// Controllers, PCI ones included.
    pub controllers: Vec<Controller>,
    /// Network interfaces.
    pub interfaces: Vec<Interface>,
    /// Host devices.
    pub hostdevs: Vec<HostDevice>,
    /// Serial ports.
    pub serials: Vec<CharDevice>,
    /// Consoles; the first mirrors the first serial port where there is one.
    pub consoles: Vec<CharDevice>,
    /// Random number generators.
    pub rngs: Vec<Rng>,
    /// The balloon; `None` only before defaults are filled in.
    pub memballoon: Option<MemBalloon>,
}

/// `<disk>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// `disk` or `cdrom`.
    pub device: String,
    /// Where its bytes are.
    pub source: Option<DiskSource>,
    /// `<driver type=…>`: raw or qcow2.
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
    pub unused: Vec<RawXml>,
}

/// `disk/@type` and `<source>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskSource {
    /// An image file.
    File(String),
    /// A block device.
    Block(String),
}

/// `<controller>`.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    pub unused: Vec<RawXml>,
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
    pub unused: Vec<RawXml>,
}

/// The host's end of a character device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CharBackend {
    /// A pseudo-terminal; its path once the guest runs.
    Pty(Option<String>),
    /// A file, appended to or not.
    File {
        /// Its path.
        path: String,
        /// `append='on'`.
        append: Option<bool>,
    },
    /// Nowhere.
    Null,
    /// A kind that is kept, and refused at start: `@type`, `<source>`s as they stand.
    Other {
        /// `@type`.
        kind: String,
        /// What it said.
        source: Vec<RawXml>,
    },
}

/// `<rng model='virtio'>`.
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
    pub unused: Vec<RawXml>,
}

/// `<memballoon>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemBalloon {
    /// `virtio` (or its transitional kinds) or `none`.
    pub model: String,
    /// Alias, guest address.
    pub info: DeviceInfo,
    /// Kept and not used.
    pub unused: Vec<RawXml>,
}

/// What every device has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceInfo {
    /// `<alias>`: in a definition only names with `ua-`; in a running guest always.
    pub alias: Option<String>,
    /// `<boot order=…>`, from 1.
    pub boot_order: Option<u32>,
    /// `<rom>`.
    pub rom: Option<Rom>,
    /// `<acpi index=…>`.
    pub acpi_index: Option<u32>,
    /// Where the guest sees it.
    pub address: Option<GuestAddress>,
}

/// `<rom>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rom {
    /// `rom/@enabled`.
    pub enabled: Option<bool>,
    /// `rom/@bar`.
    pub bar: Option<bool>,
    /// `rom/@file`.
    pub file: Option<String>,
}

/// `<address>` of a guest's device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestAddress {
    /// On a PCI bus of the guest.
    Pci {
        /// Domain, bus (the controller's index), slot, function.
        address: PciAddress,
        /// `multifunction`.
        multifunction: Option<bool>,
    },
    /// On a disk controller.
    Drive {
        /// The controller's index.
        controller: u32,
        /// Bus.
        bus: u32,
        /// Target.
        target: u32,
        /// Unit.
        unit: u32,
    },
    /// On a USB bus.
    Usb {
        /// The controller's index.
        bus: u32,
        /// Port path, as `1.2`.
        port: Option<String>,
    },
    /// Not given to the guest (`type='unassigned'`).
    Unassigned,
    /// Any other kind, kept as it stands.
    Other(RawXml),
}
