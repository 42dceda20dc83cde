//! Reading `<devices>`.

use std::collections::HashMap;

use super::defaults::number_of;
use super::devices::{
    CharBackend, CharDevice, Controller, Devices, Disk, DiskSource, MAX_DEVICES, MemBalloon,
    OtherDevice, PciControllerTarget, Rng,
};
use super::served::check_kind;
use super::shapes::{
    CHARACTER_DEVICE, CONTROLLER, DEVICES, DISK, DISK_DRIVER, DISK_ELSEWHERE, MEMBALLOON, RNG,
};
use super::{DeviceInfo, Origin};
use crate::kept::Kept;
use crate::xml::{Base, Element};
use crate::{Error, ErrorKind, Faults, HostDevice, Interface};

/// What libvirt calls memory balloons.
const BALLOON_MODELS: [&str; 5] = [
    "virtio",
    "xen",
    "none",
    "virtio-transitional",
    "virtio-non-transitional",
];

impl Devices {
    pub(super) fn read(element: Option<Element<'_>>, origin: Origin) -> Result<Self, Error> {
        let mut devices = Self::default();
        let Some(element) = element else {
            return Ok(devices);
        };
        let own = || {
            let own = element.children();
            own.filter(|child| child.namespace().is_none())
        };
        let is_device =
            |child: &Element<'_>| !child.is("emulator") && DEVICES.child(child.name()).is_some();
        if let Some(beyond) = own().filter(is_device).nth(MAX_DEVICES) {
            return Err(beyond.error(ErrorKind::ConfigUnsupported, too_many()));
        }
        let mut faults = Faults::default();
        faults.each(own(), |child| devices.read_child(child, origin));
        faults.finish()?;
        devices.sort_disks();
        devices.sort_controllers();
        Ok(devices)
    }

    pub(super) fn read_child(&mut self, child: Element<'_>, origin: Origin) -> Result<(), Error> {
        match child.name() {
            "emulator" => {
                let path = child.text();
                self.emulator = (!path.is_empty()).then_some(path);
            }
            "disk" => self.disks.push(Disk::read(child, origin)?),
            "controller" => self.controllers.push(Controller::read(child, origin)?),
            "interface" => self.interfaces.push(Interface::read(child, origin)?),
            "hostdev" => match HostDevice::read(child, origin)? {
                Some(hostdev) => self.hostdevs.push(hostdev),
                None => self.keep(child, self.hostdevs.len(), origin)?,
            },
            "serial" => self.serials.push(CharDevice::read(child, origin)?),
            "console" => self.consoles.push(CharDevice::read(child, origin)?),
            "rng" => match Rng::read(child, origin)? {
                Some(rng) => self.rngs.push(rng),
                None => self.keep(child, self.rngs.len(), origin)?,
            },
            "memballoon" => {
                let model = child.require("model")?;
                if !BALLOON_MODELS.contains(&model) {
                    let expected = BALLOON_MODELS.join(", ");
                    return Err(child.invalid(ErrorKind::Xml, "model", expected));
                }
                if self.memballoon.is_some() {
                    let message = "only a single memory balloon device is supported";
                    return Err(child.error(ErrorKind::Internal, message));
                }
                self.memballoon = Some(MemBalloon {
                    model: model.to_owned(),
                    info: DeviceInfo::read(child, origin)?,
                    unused: Kept::of(child, &MEMBALLOON),
                });
            }
            name if DEVICES.child(name).is_some() => {
                check_kind(child)?;
                self.keep(child, 0, origin)?;
            }
            _ => {} // unknown: kept with the domain
        }
        Ok(())
    }

    /// Puts the disks of a bus together, by their names; buses come as they are first named.
    fn sort_disks(&mut self) {
        let groups = ranks(self.disks.iter().map(|disk| &disk.bus));
        let mut disks: Vec<_> = groups.into_iter().zip(self.disks.drain(..)).collect();
        disks.sort_by_key(|(group, disk)| (*group, number_of(&disk.target)));
        self.disks.extend(disks.into_iter().map(|(_, disk)| disk));
    }

    fn keep(&mut self, element: Element<'_>, after: usize, origin: Origin) -> Result<(), Error> {
        self.others.push(OtherDevice::read(element, after, origin)?);
        Ok(())
    }
}

pub(super) fn too_many() -> String {
    format!("the guest has more than {MAX_DEVICES} devices, its default ones included")
}

/// For each word, how many others were first named before it.
pub(super) fn ranks<'w>(words: impl Iterator<Item = &'w String>) -> Vec<usize> {
    let mut known: HashMap<&String, usize> = HashMap::new();
    words
        .map(|word| {
            let next = known.len();
            *known.entry(word).or_insert(next)
        })
        .collect()
}

impl OtherDevice {
    fn read(element: Element<'_>, after: usize, origin: Origin) -> Result<Self, Error> {
        let of_info = |name: &str| ["boot", "alias", "rom", "acpi", "address"].contains(&name);
        let children = element.children();
        let children =
            children.filter(|child| child.namespace().is_some() || !of_info(child.name()));
        let children: Vec<_> = children.map(Element::raw).collect();
        let text = element.text().trim().to_owned();
        let attributes = element.all_attributes().into_iter();
        Ok(Self {
            name: element.name().to_owned(),
            info: DeviceInfo::read(element, origin)?,
            attributes: attributes
                .map(|(name, value)| (name, value.to_owned()))
                .collect(),
            text: (children.is_empty() && !text.is_empty()).then_some(text),
            children,
            after,
        })
    }
}

impl Disk {
    fn read(element: Element<'_>, origin: Origin) -> Result<Self, Error> {
        let mut faults = Faults::default();
        let device = element.attribute("device").unwrap_or("disk");
        if !["disk", "cdrom", "floppy", "lun"].contains(&device) {
            let expected = "disk, cdrom, floppy or lun";
            let fault = element.invalid(ErrorKind::Xml, "device", expected);
            faults.push(fault);
        }
        let source = faults.or_default(DiskSource::read(element));
        let target = faults.or_default(read_target(element));
        let bus = faults.or_default(read_bus(element));
        let (format, driver_attributes) = match element.child("driver") {
            Some(driver) => faults.or_default(read_disk_driver(driver)),
            None => Default::default(),
        };
        let info = faults.or_default(DeviceInfo::read(element, origin));
        faults.finish()?;
        let shape = match source {
            Some(DiskSource::Other { .. }) => &DISK_ELSEWHERE,
            _ => &DISK,
        };
        Ok(Self {
            device: device.to_owned(),
            source,
            format,
            driver_attributes,
            bus: bus.unwrap_or_else(|| bus_of(&target, device).to_owned()),
            target,
            read_only: element.child("readonly").is_some() || device == "cdrom",
            info,
            unused: Kept::of(element, shape),
        })
    }
}

impl DiskSource {
    fn read(disk: Element<'_>) -> Result<Option<Self>, Error> {
        let source = disk.child("source");
        let path = |name: &str| {
            let path = source.and_then(|source| source.attribute_string(name));
            path.filter(|path| !path.is_empty())
        };
        let elsewhere = |kind: &str| Self::Other {
            kind: kind.to_owned(),
            source: source.map(Element::raw),
        };
        Ok(match disk.attribute("type").unwrap_or("file") {
            "file" => path("file").map(Self::File),
            kind @ "block" => Some(path("dev").map_or_else(|| elsewhere(kind), Self::Block)),
            kind @ ("network" | "dir" | "volume" | "nvme" | "vhostuser" | "vhostvdpa") => {
                Some(elsewhere(kind))
            }
            _ => {
                let expected = "file, block, network, dir, volume, nvme, vhostuser, vhostvdpa";
                return Err(disk.invalid(ErrorKind::Xml, "type", expected));
            }
        })
    }
}

fn read_target(disk: Element<'_>) -> Result<String, Error> {
    let target = disk.child("target");
    let dev = target.and_then(|target| target.attribute_string("dev"));
    dev.filter(|dev| !dev.is_empty()).ok_or_else(|| {
        let message = "<disk> needs a <target dev='…'>, as vda or sda";
        disk.error(ErrorKind::NoTarget, message)
    })
}

fn read_bus(disk: Element<'_>) -> Result<Option<String>, Error> {
    let Some(target) = disk.child("target") else {
        return Ok(None);
    };
    match target.attribute("bus") {
        Some(bus) if !BUSES.contains(&bus) => {
            Err(target.invalid(ErrorKind::Xml, "bus", BUSES.join(", ")))
        }
        bus => Ok(bus.map(str::to_owned)),
    }
}

/// A disk's format, and what else its `<driver>` says.
fn read_disk_driver(driver: Element<'_>) -> Result<(String, Vec<(String, String)>), Error> {
    let (mut format, mut attributes) = (String::new(), Vec::new());
    for (name, value) in driver.attributes() {
        if name == "type" {
            value.clone_into(&mut format);
        } else if name != "name" && DISK_DRIVER.contains(&name) {
            let words = DISK_DRIVER_WORDS.iter().find(|(known, _)| *known == name);
            if let Some((_, words)) = words
                && !words.contains(&value)
            {
                return Err(driver.invalid(ErrorKind::Xml, name, words.join(", ")));
            }
            attributes.push((name.to_owned(), value.to_owned()));
        }
    }
    Ok((format, attributes))
}

/// What libvirt knows for some attributes of a disk's `<driver>`.
const DISK_DRIVER_WORDS: [(&str, &[&str]); 4] = [
    (
        "cache",
        &[
            "default",
            "none",
            "writethrough",
            "writeback",
            "directsync",
            "unsafe",
        ],
    ),
    ("io", &["native", "threads", "io_uring"]),
    ("discard", &["unmap", "ignore"]),
    ("detect_zeroes", &["off", "on", "unmap"]),
];

/// Buses that libvirt's disks can be on.
const BUSES: [&str; 10] = [
    "ide", "fdc", "scsi", "virtio", "xen", "usb", "uml", "sata", "sd", "nvme",
];

/// The bus that a drive's name stands for.
fn bus_of(target: &str, device: &str) -> &'static str {
    match target.get(..2) {
        Some("fd") => "fdc",
        Some("sd") => "scsi",
        Some("vd") => "virtio",
        Some("hd") => "ide",
        _ if target.starts_with("xvd") => "xen",
        _ if device == "floppy" => "fdc",
        _ => "ide",
    }
}

impl Controller {
    fn read(element: Element<'_>, origin: Origin) -> Result<Self, Error> {
        let kind = element.require("type")?;
        let kinds = [
            "ide",
            "fdc",
            "scsi",
            "sata",
            "virtio-serial",
            "ccid",
            "usb",
            "pci",
            "xenbus",
            "isa",
            "nvme",
        ];
        if !kinds.contains(&kind) {
            return Err(element.invalid(ErrorKind::Xml, "type", kinds.join(", ")));
        }
        let index = match element.attribute("index") {
            Some(text) => {
                let number = crate::xml::parse_unsigned(text, Base::Ten);
                let number = number.and_then(|number| u32::try_from(number).ok());
                number.filter(|&number| number <= i32::MAX.unsigned_abs()).ok_or_else(|| {
                    let text: String = text.chars().take(40).collect();
                    let message = format!(
                        "Invalid value for attribute 'index' in element 'controller': '{text}'. \
                         Expected non-negative value"
                    );
                    element.attribute_error(ErrorKind::Xml, "index", message)
                })?
            }
            None => NO_INDEX,
        };
        let model = element.attribute_string("model");
        if let Some(model) = &model
            && kind == "usb"
            && !USB_MODELS.contains(&model.as_str())
        {
            let expected = USB_MODELS.join(", ");
            return Err(element.invalid(ErrorKind::ConfigUnsupported, "model", expected));
        }
        if matches!(model.as_deref(), Some("pci-root" | "pcie-root"))
            && element.child("address").is_some()
        {
            return Err(element.error(
                ErrorKind::ConfigUnsupported,
                "pci-root and pcie-root controllers should not have an address",
            ));
        }
        let model_name = element.child("model");
        let model_name = model_name.and_then(|model| model.attribute_string("name"));
        let pci = kind == "pci";
        let target = element.child("target").filter(|_| pci);
        Ok(Self {
            kind: kind.to_owned(),
            index,
            model,
            model_name: model_name.filter(|_| pci),
            target: target
                .map(PciControllerTarget::read)
                .transpose()?
                .unwrap_or_default(),
            info: DeviceInfo::read(element, origin)?,
            unused: Kept::of(element, &CONTROLLER),
        })
    }
}

/// What libvirt calls USB controllers.
const USB_MODELS: [&str; 14] = [
    "piix3-uhci",
    "piix4-uhci",
    "ehci",
    "ich9-ehci1",
    "ich9-uhci1",
    "ich9-uhci2",
    "ich9-uhci3",
    "vt82c686b-uhci",
    "pci-ohci",
    "nec-xhci",
    "qusb1",
    "qusb2",
    "qemu-xhci",
    "none",
];

/// A controller that has no index yet; the first that is free is given by the defaults.
pub(super) const NO_INDEX: u32 = u32::MAX;

impl PciControllerTarget {
    fn read(element: Element<'_>) -> Result<Self, Error> {
        let number = |name| element.number_in::<u8>(name, Base::Any, 255);
        let node = match element.child("node") {
            Some(node) => {
                let text = node.text();
                let number = crate::xml::parse_unsigned(text.trim(), Base::Ten);
                let number = number.and_then(|number| u32::try_from(number).ok());
                Some(number.ok_or_else(|| {
                    node.error(
                        ErrorKind::Xml,
                        "<node> of a PCI controller must be a number",
                    )
                })?)
            }
            None => None,
        };
        Ok(Self {
            chassis: number("chassis")?,
            port: number("port")?,
            chassis_nr: number("chassisNr")?,
            bus_nr: number("busNr")?,
            node,
            hotplug: element.on_off("hotplug")?,
        })
    }
}

/// Kinds of character device that libvirt knows and this crate only carries through.
const CHARACTER_KINDS: [&str; 12] = [
    "vc",
    "dev",
    "pipe",
    "stdio",
    "udp",
    "tcp",
    "unix",
    "spicevmc",
    "spiceport",
    "nmdm",
    "qemu-vdagent",
    "dbus",
];

impl CharDevice {
    fn read(element: Element<'_>, origin: Origin) -> Result<Self, Error> {
        let sources = || element.children_named("source");
        let path = || sources().find_map(|source| source.attribute_string("path"));
        let tty = || element.attribute_string("tty");
        let backend = match element.attribute("type").unwrap_or("pty") {
            // Which terminal it was the last time says nothing about the next.
            "pty" if origin == Origin::Definition => CharBackend::Pty(None),
            "pty" => CharBackend::Pty(path().or_else(tty)),
            "null" => CharBackend::Null,
            "file" => CharBackend::File {
                path: path().ok_or_else(|| {
                    let message = "missing source path attribute for char device";
                    element.error(ErrorKind::Internal, message)
                })?,
                append: match sources().next() {
                    Some(source) => source.on_off("append")?,
                    None => None,
                },
            },
            kind if !CHARACTER_KINDS.contains(&kind) => {
                let expected = format!("pty, null, file, {}", CHARACTER_KINDS.join(", "));
                return Err(element.invalid(ErrorKind::ConfigUnsupported, "type", expected));
            }
            kind => CharBackend::Other {
                kind: kind.to_owned(),
                source: sources().map(Element::raw).collect(),
            },
        };
        let target = element.child("target");
        let target_port = match target {
            Some(target) => target.number("port")?,
            None => None,
        };
        let target_model = target.and_then(|target| target.child("model"));
        Ok(Self {
            backend,
            target_type: target.and_then(|target| target.attribute_string("type")),
            target_port,
            target_model: target_model.and_then(|model| model.attribute_string("name")),
            info: DeviceInfo::read(element, origin)?,
            unused: Kept::of(element, &CHARACTER_DEVICE),
        })
    }
}

impl Rng {
    fn read(element: Element<'_>, origin: Origin) -> Result<Option<Self>, Error> {
        let backend = element.require_child("backend")?;
        if backend.attribute("model") != Some("random") {
            return Ok(None);
        }
        let source = backend.text();
        let rate = match element.child("rate") {
            Some(rate) => {
                let bytes = rate.number("bytes")?;
                let bytes = bytes.ok_or_else(|| rate.missing(ErrorKind::Xml, "bytes"))?;
                Some((bytes, rate.number("period")?))
            }
            None => None,
        };
        Ok(Some(Self {
            model: element.require("model")?.to_owned(),
            source: (!source.is_empty()).then_some(source),
            rate,
            info: DeviceInfo::read(element, origin)?,
            unused: Kept::of(element, &RNG),
        }))
    }
}
