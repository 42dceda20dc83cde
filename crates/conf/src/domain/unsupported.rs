//! What a definition asks for and nobody would carry out.

use std::fmt;

use super::shapes::{
    CHARACTER_DEVICE, CONTROLLER, CPU, DISK, DOMAIN, HOSTDEV, INTERFACE, MEMBALLOON, RNG,
};
use super::{CharBackend, DeviceInfo, DiskSource, Domain, GuestAddress, NumaMode, OtherDevice};
use crate::InterfaceSource;

/// Attributes of a disk's `<driver>` that QEMU is told.
const DISK_DRIVER_DONE: [&str; 7] = [
    "cache",
    "io",
    "discard",
    "detect_zeroes",
    "error_policy",
    "rerror_policy",
    "queues",
];

/// An element, attribute or value that a guest would have to do without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsupported {
    /// Where it stands, as `/domain/devices/disk[2]`; positions from 1.
    pub path: String,
    /// What it is: an element's name, `@attribute`, or `@attribute='value'`.
    pub name: String,
}

impl Unsupported {
    pub(crate) fn at(path: &str, name: &str) -> Self {
        Self {
            path: path.to_owned(),
            name: name.to_owned(),
        }
    }
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.path, self.name)
    }
}

/// A device whose guest address is of another kind than it can have.
fn misplaced(
    path: &str,
    info: &DeviceInfo,
    fits: impl Fn(&GuestAddress) -> bool,
    found: &mut Vec<Unsupported>,
) {
    if info.address.as_ref().is_some_and(|address| !fits(address)) {
        found.push(Unsupported::at(path, "address/@type"));
    }
}

impl Domain {
    /// All that is kept and would be missing from the guest, in the order of the document. A start
    /// must refuse it, by name. What a guest can't notice is not listed.
    #[must_use]
    pub fn unsupported(&self) -> Vec<Unsupported> {
        let mut found = Vec::new();
        if self.os.arch != "x86_64" {
            let name = format!("@arch='{}'", self.os.arch);
            found.push(Unsupported::at("/domain/os/type", &name));
        }
        self.unused.report("/domain", &DOMAIN, &mut found);
        if self.os.bios_use_serial == Some(true) {
            found.push(Unsupported::at("/domain/os/bios", "@useserial='yes'"));
        }
        let memory = self.placement.memory.as_ref();
        if memory.is_some_and(|memory| memory.mode == NumaMode::Restrictive) {
            let name = "@mode='restrictive'";
            found.push(Unsupported::at("/domain/numatune/memory", name));
        }
        if !["utc", "localtime"].contains(&self.clock_offset.as_str()) {
            let name = format!("@offset='{}'", self.clock_offset);
            found.push(Unsupported::at("/domain/clock", &name));
        }
        for (number, timer) in self.timers.iter().enumerate() {
            if let Some(name) = timer.lacking() {
                let path = format!("/domain/clock/timer[{}]", number + 1);
                found.push(Unsupported::at(&path, &name));
            }
        }
        if let Some(cpu) = &self.cpu {
            cpu.unused.report("/domain/cpu", &CPU, &mut found);
            if let Some(count) = cpu.topology.map(|topology| topology.cpus())
                && count != u64::from(self.vcpus)
            {
                let name = format!("topology (of {count} CPUs, and <vcpu> is {})", self.vcpus);
                found.push(Unsupported::at("/domain/cpu", &name));
            }
        }
        self.unsupported_disks(&mut found);
        self.unsupported_characters(&mut found);
        let devices = &self.devices;
        for (number, controller) in devices.controllers.iter().enumerate() {
            let path = path("controller", number);
            let lacking = match (controller.kind.as_str(), controller.model.as_deref()) {
                ("pci" | "usb" | "ide" | "sata" | "virtio-serial", _) => None,
                (
                    "scsi",
                    Some("virtio-scsi" | "virtio-transitional" | "virtio-non-transitional"),
                ) => None,
                ("scsi", Some(model)) => Some(format!("@model='{model}'")),
                // It came with a <smartcard>, which is told.
                ("ccid", _) if devices.others.iter().any(|other| other.name == "smartcard") => None,
                (kind, _) => Some(format!("@type='{kind}'")),
            };
            if let Some(name) = lacking {
                found.push(Unsupported::at(&path, &name));
            }
            controller.unused.report(&path, &CONTROLLER, &mut found);
        }
        for (number, interface) in devices.interfaces.iter().enumerate() {
            let path = path("interface", number);
            if let InterfaceSource::Other { kind, .. } = &interface.source {
                found.push(Unsupported::at(&path, &format!("@type='{kind}'")));
            }
            for (name, given) in [
                ("script", &interface.script),
                ("downscript", &interface.downscript),
                ("backenddomain", &interface.backend_domain),
            ] {
                if given.is_some() {
                    found.push(Unsupported::at(&path, name));
                }
            }
            // Cards are on PCI, but for those that are USB devices.
            let on_usb = interface.model.as_deref() == Some("usb-net");
            let fits = |address: &GuestAddress| match address {
                GuestAddress::Usb { .. } => on_usb,
                GuestAddress::Drive { .. } | GuestAddress::Other(_) => false,
                GuestAddress::Pci { .. } | GuestAddress::Unassigned => true,
            };
            misplaced(&path, &interface.info, fits, &mut found);
            for (name, is_given) in [
                ("backend", interface.backend.is_some()),
                ("coalesce", interface.coalesce_rx_frames.is_some()),
            ] {
                if is_given {
                    found.push(Unsupported::at(&path, name));
                }
            }
            interface.unused.report(&path, &INTERFACE, &mut found);
        }
        for (number, hostdev) in devices.hostdevs.iter().enumerate() {
            hostdev
                .unused
                .report(&path("hostdev", number), &HOSTDEV, &mut found);
        }
        for (number, rng) in devices.rngs.iter().enumerate() {
            rng.unused.report(&path("rng", number), &RNG, &mut found);
        }
        if let Some(balloon) = &devices.memballoon {
            let path = "/domain/devices/memballoon";
            balloon.unused.report(path, &MEMBALLOON, &mut found);
        }
        let missed = |other: &&OtherDevice| !other.is_harmless() && !other.is_served();
        for other in devices.others.iter().filter(missed) {
            // Of these some kinds are carried out.
            let kind = other.attribute("type").filter(|_| other.name == "hostdev");
            let mode = other.attribute("mode").filter(|mode| *mode != "subsystem");
            let name = match (kind, mode) {
                (Some(_), Some(mode)) => format!("hostdev/@mode='{mode}'"),
                (Some(kind), None) => format!("hostdev/@type='{kind}'"),
                (None, _) => other.name.clone(),
            };
            found.push(Unsupported::at("/domain/devices", &name));
        }
        found
    }

    fn unsupported_disks(&self, found: &mut Vec<Unsupported>) {
        for (number, disk) in self.devices.disks.iter().enumerate() {
            let path = path("disk", number);
            if let Some(DiskSource::Other { kind, .. }) = &disk.source {
                found.push(Unsupported::at(&path, &format!("@type='{kind}'")));
            }
            if !["disk", "cdrom"].contains(&disk.device.as_str()) {
                let name = format!("@device='{}'", disk.device);
                found.push(Unsupported::at(&path, &name));
            }
            if !["virtio", "sata", "ide", "scsi"].contains(&disk.bus.as_str()) {
                let name = format!("target/@bus='{}'", disk.bus);
                found.push(Unsupported::at(&path, &name));
            }
            if !["raw", "qcow2"].contains(&disk.format.as_str()) {
                let name = format!("driver/@type='{}'", disk.format);
                found.push(Unsupported::at(&path, &name));
            }
            for (name, _) in &disk.driver_attributes {
                if !DISK_DRIVER_DONE.contains(&name.as_str()) {
                    found.push(Unsupported::at(&path, &format!("driver/@{name}")));
                }
            }
            let fits = |address: &GuestAddress| match disk.bus.as_str() {
                "virtio" => matches!(address, GuestAddress::Pci { .. }),
                "scsi" | "sata" | "ide" => matches!(address, GuestAddress::Drive { .. }),
                _ => true,
            };
            misplaced(&path, &disk.info, fits, found);
            disk.unused.report(&path, &DISK, found);
        }
    }

    fn unsupported_characters(&self, found: &mut Vec<Unsupported>) {
        let devices = &self.devices;
        for (name, list) in [("serial", &devices.serials), ("console", &devices.consoles)] {
            for (number, device) in list.iter().enumerate() {
                // Such a console is the first serial port, which was looked at.
                let mirrors = name == "console"
                    && number == 0
                    && device.target_type.as_deref() == Some("serial")
                    && !devices.serials.is_empty();
                if mirrors {
                    continue;
                }
                let path = path(name, number);
                if let CharBackend::Other { kind, .. } = &device.backend {
                    found.push(Unsupported::at(&path, &format!("@type='{kind}'")));
                }
                let target = device.target_type.as_deref();
                if name == "console" && target.is_some_and(|target| target != "serial") {
                    let target = target.unwrap_or_default();
                    let what = format!("target/@type='{target}'");
                    found.push(Unsupported::at(&path, &what));
                }
                device.unused.report(&path, &CHARACTER_DEVICE, found);
            }
        }
    }
}

fn path(name: &str, number: usize) -> String {
    format!("/domain/devices/{name}[{}]", number + 1)
}
