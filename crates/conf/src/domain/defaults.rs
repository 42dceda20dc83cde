//! What libvirt fills in when a guest is defined.

mod consoles;
mod controllers;
mod drives;

pub(crate) use controllers::pci_device_name;
pub(super) use drives::number_of;

use super::{Cpu, CpuModel, DeviceInfo, Domain, MemBalloon, OtherDevice, VirtType};
use crate::kept::Kept;
use crate::xml::{Document, Element, RawXml};
use crate::{HybridPart, Interface, InterfaceSource};

/// The QEMU of Debian and its kin.
const EMULATOR: &str = "/usr/bin/qemu-system-x86_64";

/// QEMU's oldest machine, which libvirt gives who names none.
const MACHINE: &str = "pc";

/// The CPU that QEMU gives these machines of itself.
const CPU_MODEL: &str = "qemu64";

pub(super) fn is_q35(machine: &str) -> bool {
    machine == "q35" || machine.starts_with("pc-q35")
}

pub(super) fn is_i440fx(machine: &str) -> bool {
    let old = ["pc-i440fx", "pc-0.", "pc-1."];
    machine == "pc" || old.iter().any(|start| machine.starts_with(start))
}

impl Domain {
    /// Fills in what a definition may leave open, so that the guest stays the same from now on:
    /// machine, CPU, boot order, controllers, drive addresses, models, console, balloon and the
    /// like. What the document says stays.
    pub fn fill_defaults(&mut self) {
        self.fill_defaults_with(&|_| None);
    }

    /// As [`Domain::fill_defaults`]; `lends_host_device` says whether a network of that name lends
    /// whole host devices. An interface of a network that lends none gets a NIC model; one of a
    /// network that is not known yet keeps its model open and its place fit for either.
    pub fn fill_defaults_with(&mut self, lends_host_device: &dyn Fn(&str) -> Option<bool>) {
        if self.os.machine.is_empty() {
            MACHINE.clone_into(&mut self.os.machine);
        }
        self.devices
            .emulator
            .get_or_insert_with(|| EMULATOR.to_owned());
        self.fill_boot();
        self.fill_cpu();
        self.fill_consoles();
        for interface in &mut self.devices.interfaces {
            fill_interface(interface, lends_host_device);
        }
        self.fill_disks();
        self.fill_controllers();
        self.fill_balloon();
        self.fill_inputs();
        self.fill_graphics();
        self.fill_audio();
        if self.is_q35() {
            self.fill_watchdog();
        }
    }

    /// Whether the machine is one of QEMU's q35.
    #[must_use]
    pub fn is_q35(&self) -> bool {
        is_q35(&self.os.machine)
    }

    /// Whether the machine is one of QEMU's i440fx.
    #[must_use]
    pub fn is_i440fx(&self) -> bool {
        is_i440fx(&self.os.machine)
    }

    fn fill_boot(&mut self) {
        if self.os.boot.is_empty() && !self.has_boot_orders() {
            self.os.boot.push("hd".to_owned());
        }
    }

    /// Whether a device has a boot order of its own.
    pub(super) fn has_boot_orders(&self) -> bool {
        self.infos().any(|info| info.boot_order.is_some())
    }

    /// What every device has, in no particular order. Consoles are left out: they have no place
    /// of their own, and the first shares its serial port's alias.
    pub(crate) fn infos(&self) -> impl Iterator<Item = &DeviceInfo> {
        let devices = &self.devices;
        (devices.disks.iter().map(|d| &d.info))
            .chain(devices.controllers.iter().map(|d| &d.info))
            .chain(devices.interfaces.iter().map(|d| &d.info))
            .chain(devices.hostdevs.iter().map(|d| &d.info))
            .chain(devices.serials.iter().map(|d| &d.info))
            .chain(devices.rngs.iter().map(|d| &d.info))
            .chain(devices.memballoon.iter().map(|d| &d.info))
            .chain(devices.others.iter().map(|d| &d.info))
    }

    fn fill_cpu(&mut self) {
        let cpu = self.cpu.get_or_insert_with(Cpu::default);
        let given = cpu.model.is_some() || cpu.mode.is_some();
        if !given {
            cpu.model = Some(CpuModel {
                fallback: Some("forbid".to_owned()),
                name: CPU_MODEL.to_owned(),
            });
            cpu.check.get_or_insert_with(|| "none".to_owned());
        }
        let mode = cpu.mode.get_or_insert_with(|| "custom".to_owned()).as_str();
        let check = match mode {
            "host-passthrough" => {
                cpu.migratable.get_or_insert(true);
                "none"
            }
            "maximum" => "none",
            "custom" => {
                cpu.match_.get_or_insert_with(|| "exact".to_owned());
                if let Some(model) = &mut cpu.model {
                    model.fallback.get_or_insert_with(|| "allow".to_owned());
                }
                // An emulated CPU is not compared with the host's.
                match self.virt_type {
                    VirtType::Kvm => "partial",
                    VirtType::Qemu => "none",
                }
            }
            _ => "partial",
        };
        cpu.check.get_or_insert_with(|| check.to_owned());
        cpu.unused.rewrite("numa", number_cells);
    }

    fn fill_balloon(&mut self) {
        let balloon = self.devices.memballoon.get_or_insert_with(|| MemBalloon {
            model: String::new(),
            info: DeviceInfo::default(),
            unused: Kept::default(),
        });
        if balloon.model.is_empty() {
            "virtio".clone_into(&mut balloon.model);
        }
    }

    fn others(&self, name: &str) -> impl Iterator<Item = &OtherDevice> {
        let others = self.devices.others.iter();
        others.filter(move |other| other.name == name)
    }

    /// PC machines have a PS/2 mouse and keyboard.
    fn fill_inputs(&mut self) {
        for kind in ["mouse", "keyboard"] {
            let there = self.others("input").any(|input| {
                input.attribute("type") == Some(kind) && input.attribute("bus") == Some("ps2")
            });
            if !there {
                let input = OtherDevice::new("input", &[("type", kind), ("bus", "ps2")]);
                self.devices.others.push(input);
            }
        }
    }

    fn fill_graphics(&mut self) {
        let mut remote = false;
        for other in &mut self.devices.others {
            if other.name == "graphics" {
                remote = true;
                fill_display(other);
            }
        }
        if remote && self.others("video").next().is_none() {
            let mut video = OtherDevice::new("video", &[]);
            video
                .children
                .push(RawXml("<model type='cirrus'/>".to_owned()));
            self.devices.others.push(video);
        }
        let mut first = true;
        for other in &mut self.devices.others {
            if other.name == "video" {
                fill_video(other, first);
                first = false;
            }
        }
    }

    fn fill_audio(&mut self) {
        if self.others("audio").next().is_some() {
            return;
        }
        let graphics = self.others("graphics").next();
        let kind = match graphics.and_then(|graphics| graphics.attribute("type")) {
            Some("spice") => "spice",
            Some("sdl") => "sdl",
            _ => "none",
        };
        let audio = OtherDevice::new("audio", &[("id", "1"), ("type", kind)]);
        self.devices.others.push(audio);
    }

    /// The q35 chipset has one.
    fn fill_watchdog(&mut self) {
        let itco = |watchdog: &OtherDevice| watchdog.attribute("model") == Some("itco");
        if !self.others("watchdog").any(itco) {
            let watchdog = OtherDevice::new("watchdog", &[("model", "itco"), ("action", "reset")]);
            self.devices.others.push(watchdog);
        }
    }
}

/// `<numa>` with a number for each cell, if none has one yet.
fn number_cells(numa: &RawXml) -> Option<RawXml> {
    let document = Document::parse(numa.as_str()).ok()?;
    let root = document.root();
    let mut cells = root.children_named("cell");
    if cells.any(|cell| cell.attribute("id").is_some()) {
        return None;
    }
    let names_end = |cell: Element<'_>| cell.node().range().start + "<cell".len();
    let places = root.children_named("cell").map(names_end);
    let (mut text, mut rest) = (String::new(), 0);
    for (number, place) in places.enumerate() {
        text.push_str(&numa.as_str()[rest..place]);
        text.push_str(&format!(" id='{number}'"));
        rest = place;
    }
    text.push_str(&numa.as_str()[rest..]);
    Some(RawXml(text))
}

fn fill_interface(interface: &mut Interface, lends_host_device: &dyn Fn(&str) -> Option<bool>) {
    // Its network is what would have made a pair of it.
    if matches!(interface.source, InterfaceSource::Network { .. }) {
        interface.vf_driver = None;
        interface.driver = interface.driver.take().filter(|_| interface.is_virtio());
    }
    if interface.model.is_some() || interface.is_part(HybridPart::Primary) {
        return;
    }
    let model = match &interface.source {
        InterfaceSource::Hostdev { .. } | InterfaceSource::HostdevHybrid { .. } => return,
        InterfaceSource::Network { network, .. } => match lends_host_device(network) {
            Some(false) => "rtl8139",
            Some(true) | None => return,
        },
        InterfaceSource::Other { kind, .. } if matches!(kind.as_str(), "vhostuser" | "vdpa") => {
            "virtio"
        }
        _ => "rtl8139",
    };
    interface.model = Some(model.to_owned());
}

impl OtherDevice {
    pub(super) fn new(name: &str, attributes: &[(&str, &str)]) -> Self {
        let attributes = attributes.iter();
        Self {
            name: name.to_owned(),
            info: DeviceInfo::default(),
            attributes: attributes
                .map(|&(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            children: Vec::new(),
            text: None,
            after: 0,
        }
    }

    fn has(&self, name: &str) -> bool {
        self.attribute(name).is_some()
    }

    fn add(&mut self, name: &str, value: &str) {
        if !self.has(name) {
            self.attributes.push((name.to_owned(), value.to_owned()));
        }
    }
}

/// VNC and Spice listen on an address, on a port of libvirt's choice.
fn fill_display(graphics: &mut OtherDevice) {
    if !matches!(graphics.attribute("type"), Some("vnc" | "spice")) {
        return;
    }
    if graphics.attribute("type") == Some("vnc")
        && matches!(graphics.attribute("port"), None | Some("-1"))
    {
        graphics.add("port", "-1");
        graphics.add("autoport", "yes");
    }
    if !graphics.has_child("listen") && !graphics.has("listen") && !graphics.has("socket") {
        let listen = RawXml("<listen type='address'/>".to_owned());
        graphics.children.insert(0, listen);
    }
}

/// Memory and heads of a display, as libvirt gives them, KiB.
fn fill_video(video: &mut OtherDevice, first: bool) {
    let Some(model) = video.children.iter_mut().find(|raw| raw.name() == "model") else {
        return;
    };
    let Ok(document) = crate::xml::Document::parse(model.as_str()) else {
        return;
    };
    let root = document.root();
    let mut attributes: Vec<(String, String)> = root
        .attributes()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let kind = root.attribute("type").unwrap_or_default().to_owned();
    let defaults: &[(&str, &str)] = match kind.as_str() {
        "none" | "ramfb" => return,
        "qxl" => &[
            ("ram", "65536"),
            ("vram", "65536"),
            ("vgamem", "16384"),
            ("heads", "1"),
        ],
        "virtio" | "bochs" => &[("heads", "1")],
        _ => &[("vram", "16384"), ("heads", "1")],
    };
    let primary: &[(&str, &str)] = if first { &[("primary", "yes")] } else { &[] };
    for &(name, value) in defaults.iter().chain(primary) {
        if !attributes.iter().any(|(given, _)| given == name) {
            attributes.push((name.to_owned(), value.to_owned()));
        }
    }
    let inner: Vec<RawXml> = root.children().map(crate::xml::Element::raw).collect();
    let mut tree = crate::tree::Tree::new("model");
    for (name, value) in &attributes {
        tree.attribute(name, value);
    }
    for child in &inner {
        tree.raw(child);
    }
    let text = tree.finish(crate::tree::Secrets::Shown);
    if attributes.len() > root.attributes().count() {
        *model = RawXml(text.trim_end().to_owned());
    }
}
