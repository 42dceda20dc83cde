//! `<domain>`: a guest.

mod addresses;
mod aliases;
mod cpu;
pub(crate) mod defaults;
mod device;
mod devices;
pub(crate) mod info;
mod medium;
mod number_set;
mod placement;
mod read;
mod read_devices;
mod served;
pub(crate) mod shapes;
mod timers;
mod unsupported;
mod validate;
mod write;
mod write_devices;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use addresses::DeviceRef;
pub use cpu::{Cpu, CpuModel, CpuTopology};
pub use device::{AlreadyThere, Device, FindError, is_multifunction};
pub use devices::*;
pub use info::{DeviceInfo, GuestAddress, Rom};
pub use number_set::{NumberSet, ParseNumberSetError};
pub use placement::{NumaMemory, NumaMode, Placement};
pub use served::{UnixChannel, UsbInput};
pub use timers::{TickPolicy, Timer, TimerName};
pub use unsupported::Unsupported;

use crate::kept::Kept;
use crate::tree::Secrets;
use crate::xml::{Document, RawXml, keywords};
use crate::{Error, Form};

/// A guest. What virtnic runs is modelled; all else is kept byte for byte and written back in its
/// place.
///
/// <https://libvirt.org/formatdomain.html>
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// `domain/@id`: the number of the running guest; never in a definition.
    pub id: Option<u32>,
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
    /// Where on the host it runs.
    pub placement: Placement,
    /// Firmware, machine and boot.
    pub os: Os,
    /// `<features>`: the ones that are used.
    pub features: Features,
    /// `<cpu>`.
    pub cpu: Option<Cpu>,
    /// `<clock offset=…>`.
    pub clock_offset: String,
    /// `<clock><timer>`, in order.
    pub timers: Vec<Timer>,
    /// `<pm>`.
    pub power: PowerManagement,
    /// What follows a power-off, a reboot and a crash.
    pub lifecycle: LifecycleActions,
    /// Everything plugged in.
    pub devices: Devices,
    /// What is kept and not carried out, in its place.
    pub unused: Kept,
}

/// `domain/@type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VirtType {
    /// By the CPU, with the kernel's help.
    Kvm,
    /// By QEMU alone, which emulates the CPU.
    Qemu,
}

keywords!(VirtType {
    Kvm = "kvm",
    Qemu = "qemu",
});

/// Where a document comes from, which decides what of it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A person or a client: what belongs to a running guest is left out.
    Definition,
    /// Our own record of a running guest.
    Status,
}

/// Which form is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// A form that clients may ask for.
    Form(Form),
    /// Our own record of a running guest: the definition and what was resolved, side by side.
    Status,
}

impl Written {
    /// Whether what belongs to a running guest is shown.
    pub(crate) fn is_running(self) -> bool {
        matches!(self, Self::Status | Self::Form(Form::Live))
    }
}

impl Domain {
    /// Reads a definition. What belongs to a running guest (its id, aliases that are not a user's
    /// own, resolved devices) is left out; nothing is filled in but a missing uuid and MACs.
    ///
    /// # Errors
    /// What is wrong with the document, each with its place, in libvirt's class of the first.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let document = Document::parse(text)?;
        document.read_definition("domain", |element| Self::read(element, Origin::Definition))
    }

    /// The same of a document that is only asked about: it has at most
    /// [`crate::xml::MAX_ASKED_NODES`] elements, texts and comments. Also whether the document says its
    /// UUID; otherwise one was made up.
    ///
    /// # Errors
    /// As [`Domain::parse`].
    pub fn parse_asked(text: &str) -> Result<(Self, bool), Error> {
        let document = Document::parse_asked(text)?;
        document.read_definition("domain", |element| {
            let domain = Self::read(element, Origin::Definition)?;
            Ok((domain, element.child("uuid").is_some()))
        })
    }

    /// The same of one that was kept: what an earlier release kept though it was in no place of its
    /// own is kept on, and told when the guest is to start.
    ///
    /// # Errors
    /// As [`Domain::parse`].
    pub fn parse_kept(text: &str) -> Result<Self, Error> {
        let document = Document::parse(text)?;
        Self::read(document.root_named("domain")?, Origin::Definition)
    }

    /// Reads what [`Domain::to_status_xml`] wrote.
    ///
    /// # Errors
    /// As [`Domain::parse`].
    pub fn parse_status(text: &str) -> Result<Self, Error> {
        let document = Document::parse(text)?;
        Self::read(document.root_named("domain")?, Origin::Status)
    }

    /// libvirt's canonical document, for anybody: passwords are hidden.
    #[must_use]
    pub fn to_xml(&self, form: Form) -> String {
        self.tree(Written::Form(form)).finish(Secrets::Hidden)
    }

    /// As [`Domain::to_xml`], with passwords: for the file in which a definition is kept, another
    /// host's daemon, and clients that may ask for it (`VIR_DOMAIN_XML_SECURE`).
    #[must_use]
    pub fn to_xml_with_secrets(&self, form: Form) -> String {
        self.tree(Written::Form(form)).finish(Secrets::Shown)
    }

    /// The whole state of a running guest, to be read by [`Domain::parse_status`]: the definition
    /// of each interface and what it was resolved to, with passwords. For our own records alone.
    #[must_use]
    pub fn to_status_xml(&self) -> String {
        self.tree(Written::Status).finish(Secrets::Shown)
    }
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
    /// The firmware has ACPI tables.
    pub acpi: bool,
    /// Interrupts come by the APIC.
    pub apic: bool,
    /// Physical address extension.
    pub pae: bool,
    /// `<vmport state=…>`: VMware's port; none: QEMU's default.
    pub vmport: Option<bool>,
}

/// `<pm>`: whether the guest may suspend itself; none: QEMU's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PowerManagement {
    /// `<suspend-to-mem enabled=…>` (S3).
    pub suspend_to_mem: Option<bool>,
    /// `<suspend-to-disk enabled=…>` (S4).
    pub suspend_to_disk: Option<bool>,
}

/// `<on_poweroff>`, `<on_reboot>`, `<on_crash>`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words are the document's")]
pub struct LifecycleActions {
    pub on_poweroff: String,
    pub on_reboot: String,
    pub on_crash: String,
}
