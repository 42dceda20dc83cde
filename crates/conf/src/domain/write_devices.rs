//! Writing `<devices>`.

use super::devices::{
    CharBackend, CharDevice, Controller, Devices, Disk, DiskSource, MemBalloon, OtherDevice, Rng,
};
use super::shapes::{CHARACTER_DEVICE, CONTROLLER, DEVICES, DISK, DISK_ELSEWHERE, MEMBALLOON, RNG};
use super::{DeviceInfo, Written};
use crate::tree::Tree;

impl Devices {
    pub(super) fn tree(&self, form: Written) -> Tree<'_> {
        let mut tree = Tree::new("devices");
        tree.text_child("emulator", self.emulator.as_ref());
        for shape in DEVICES.children.iter() {
            let modelled: Vec<Tree<'_>> = match shape.name {
                "disk" => self.disks.iter().map(|disk| disk.tree(form)).collect(),
                "controller" => trees(&self.controllers, |c| c.tree(form)),
                "interface" => trees(&self.interfaces, |interface| interface.tree(form)),
                "serial" => trees(&self.serials, |serial| serial.tree("serial", form)),
                "console" => trees(&self.consoles, |console| console.tree("console", form)),
                "hostdev" => trees(&self.hostdevs, |hostdev| hostdev.tree(form)),
                "memballoon" => trees(self.memballoon.as_slice(), |balloon| balloon.tree(form)),
                "rng" => trees(&self.rngs, |rng| rng.tree(form)),
                _ => Vec::new(),
            };
            let mut others = self
                .others
                .iter()
                .filter(|other| other.name == shape.name)
                .peekable();
            for (position, device) in modelled.into_iter().enumerate() {
                while let Some(other) = others.next_if(|other| other.after <= position) {
                    tree.child(other.tree(form));
                }
                tree.child(device);
            }
            for other in others {
                tree.child(other.tree(form));
            }
        }
        tree
    }
}

fn trees<'a, T>(devices: &'a [T], tree: impl Fn(&'a T) -> Tree<'a>) -> Vec<Tree<'a>> {
    devices.iter().map(tree).collect()
}

impl DeviceInfo {
    /// As [`DeviceInfo::write`], without the aliases that only a running guest has.
    pub(crate) fn write_for<'a>(&'a self, tree: &mut Tree<'a>, form: Written) {
        let hidden = |alias: &String| !form.is_running() && !super::info::is_user_alias(alias);
        self.write(tree, self.alias.as_ref().is_some_and(hidden));
    }
}

impl OtherDevice {
    fn tree(&self, form: Written) -> Tree<'_> {
        let mut tree = Tree::new(&self.name);
        for (name, value) in &self.attributes {
            tree.attribute(name, value);
        }
        for child in &self.children {
            tree.carried(child);
        }
        self.info.write_for(&mut tree, form);
        // A device that was given a child since it was read has no text any more, as it would have
        // none if it were read with that child. Alias and address are no such children.
        if let Some(text) = self.text.as_ref().filter(|_| self.children.is_empty()) {
            tree.text(text);
        }
        tree
    }
}

impl Disk {
    fn tree(&self, form: Written) -> Tree<'_> {
        let (kind, shape) = match &self.source {
            None | Some(DiskSource::File(_)) => ("file", &DISK),
            Some(DiskSource::Block(_)) => ("block", &DISK),
            Some(DiskSource::Other { kind, .. }) => (kind.as_str(), &DISK_ELSEWHERE),
        };
        let mut tree = Tree::new("disk").with("type", kind);
        tree.attribute("device", &self.device);
        let mut driver = Tree::new("driver");
        if !self.format.is_empty() {
            driver.attribute("name", "qemu");
            driver.attribute("type", &self.format);
        }
        for (name, value) in &self.driver_attributes {
            driver.attribute(name, value);
        }
        tree.child_unless_empty(driver);
        match &self.source {
            None | Some(DiskSource::Other { source: None, .. }) => &mut tree,
            Some(DiskSource::File(path)) => tree.child(Tree::new("source").with("file", path)),
            Some(DiskSource::Block(path)) => tree.child(Tree::new("source").with("dev", path)),
            Some(DiskSource::Other {
                source: Some(source),
                ..
            }) => tree.carried(source),
        };
        let target = Tree::new("target").with("dev", &self.target);
        tree.child(target.with("bus", &self.bus));
        if self.read_only {
            tree.child(Tree::new("readonly"));
        }
        self.info.write_for(&mut tree, form);
        tree.keep(&self.unused, shape);
        tree
    }
}

impl Controller {
    fn tree(&self, form: Written) -> Tree<'_> {
        let mut tree = Tree::new("controller").with("type", &self.kind);
        if self.index != super::read_devices::NO_INDEX {
            tree.attribute("index", self.index);
        }
        tree.optional("model", self.model.as_ref());
        if let Some(name) = &self.model_name {
            tree.child(Tree::new("model").with("name", name));
        }
        let mut target = Tree::new("target");
        target.optional("chassisNr", self.target.chassis_nr);
        target.optional("chassis", self.target.chassis);
        let port = self.target.port;
        target.optional("port", port.map(|port| format!("0x{port:x}")));
        target.optional("busNr", self.target.bus_nr);
        target.on_off("hotplug", self.target.hotplug);
        target.text_child("node", self.target.node);
        tree.child_unless_empty(target);
        self.info.write_for(&mut tree, form);
        tree.keep(&self.unused, &CONTROLLER);
        tree
    }
}

impl CharDevice {
    fn tree(&self, name: &'static str, form: Written) -> Tree<'_> {
        let mut tree = Tree::new(name);
        match &self.backend {
            CharBackend::Pty(path) => {
                let path = path.as_ref().filter(|_| form.is_running());
                tree.attribute("type", "pty");
                tree.optional("tty", path.filter(|_| name == "console"));
                if let Some(path) = path {
                    tree.child(Tree::new("source").with("path", path));
                }
            }
            CharBackend::File { path, append } => {
                tree.attribute("type", "file");
                let mut source = Tree::new("source").with("path", path);
                source.on_off("append", *append);
                tree.child(source);
            }
            CharBackend::Null => {
                tree.attribute("type", "null");
            }
            CharBackend::Other { kind, source } => {
                tree.attribute("type", kind);
                for source in source {
                    tree.carried(source);
                }
            }
        }
        let mut target = Tree::new("target");
        target.optional("type", self.target_type.as_ref());
        target.optional("port", self.target_port);
        if let Some(model) = &self.target_model {
            target.child(Tree::new("model").with("name", model));
        }
        tree.child_unless_empty(target);
        self.info.write_for(&mut tree, form);
        tree.keep(&self.unused, &CHARACTER_DEVICE);
        tree
    }
}

impl Rng {
    fn tree(&self, form: Written) -> Tree<'_> {
        let mut tree = Tree::new("rng").with("model", &self.model);
        if let Some((bytes, period)) = self.rate {
            let mut rate = Tree::new("rate").with("bytes", bytes);
            rate.optional("period", period);
            tree.child(rate);
        }
        let mut backend = Tree::new("backend").with("model", "random");
        if let Some(source) = &self.source {
            backend.text(source);
        }
        tree.child(backend);
        self.info.write_for(&mut tree, form);
        tree.keep(&self.unused, &RNG);
        tree
    }
}

impl MemBalloon {
    fn tree(&self, form: Written) -> Tree<'_> {
        let mut tree = Tree::new("memballoon").with("model", &self.model);
        self.info.write_for(&mut tree, form);
        tree.keep(&self.unused, &MEMBALLOON);
        tree
    }
}
