//! Controllers that a machine has, and those that its devices need.

use std::collections::{HashMap, HashSet};

use crate::domain::read_devices::{NO_INDEX, ranks};
use crate::domain::{Controller, Devices, Domain, GuestAddress};

/// The most controllers of a kind that drives may ask for by their address.
const MAX_CONTROLLERS: u32 = 256;

impl Devices {
    /// Puts the controllers of a kind together, by their index, as if each were inserted after the
    /// one before it. One that waits for its index keeps its place.
    pub(in crate::domain) fn sort_controllers(&mut self) {
        let groups = ranks(self.controllers.iter().map(|controller| &controller.kind));
        let mut highest: HashMap<usize, u32> = HashMap::new();
        let place = |(group, controller): (usize, Controller)| {
            let highest = highest.entry(group).or_default();
            let index = match controller.index {
                NO_INDEX => *highest,
                index => index,
            };
            *highest = index.max(*highest);
            ((group, index), controller)
        };
        let controllers = groups.into_iter().zip(self.controllers.drain(..));
        let mut controllers: Vec<_> = controllers.map(place).collect();
        controllers.sort_by_key(|(place, _)| *place);
        let controllers = controllers.into_iter();
        self.controllers
            .extend(controllers.map(|(_, controller)| controller));
    }

    /// Adds a controller after those of its kind with a lower index, or at the end.
    pub(in crate::domain) fn insert_controller(&mut self, controller: Controller) {
        let same = self.controllers.iter().enumerate();
        let mut same = same.filter(|(_, other)| other.kind == controller.kind);
        // One that waits for its index keeps its place.
        let after = |c: &Controller| c.index != NO_INDEX && c.index > controller.index;
        let before = same.clone().find(|(_, c)| after(c));
        let place = match before {
            Some((position, _)) => position,
            None => match same.next_back() {
                Some((position, _)) => position + 1,
                None => self.controllers.len(),
            },
        };
        self.controllers.insert(place, controller);
    }

    fn has_controller(&self, kind: &str, index: u32) -> bool {
        let mut controllers = self.controllers.iter();
        controllers.any(|c| c.kind == kind && c.index == index)
    }

    fn ensure_controller(&mut self, kind: &str, index: u32, model: Option<&str>) {
        if !self.has_controller(kind, index) {
            self.insert_controller(Controller::new(kind, index, model));
        }
    }
}

impl Domain {
    pub(super) fn fill_controllers(&mut self) {
        self.number_controllers();
        let q35 = self.is_q35();
        let root = if q35 { "pcie-root" } else { "pci-root" };
        let devices = &mut self.devices;
        if !devices.controllers.iter().any(|c| c.kind == "usb") {
            let model = if q35 { "qemu-xhci" } else { "piix3-uhci" };
            devices.ensure_controller("usb", 0, Some(model));
        }
        if q35 {
            devices.ensure_controller("sata", 0, None);
        }
        devices.ensure_controller("pci", 0, Some(root));
        self.fill_controllers_of_drives();
        self.fill_controllers_of_channels();
        for controller in &mut self.devices.controllers {
            fill_model(controller, root);
        }
    }

    /// Controllers without an index get the first of their kind that is free. USB 2 needs several that are one:
    /// each is a companion of the one before it, as long as that has none of its model.
    fn number_controllers(&mut self) {
        let mut taken: HashSet<(String, u32)> = HashSet::new();
        let mut companions: HashSet<(u32, String)> = HashSet::new();
        for controller in &self.devices.controllers {
            taken.insert((controller.kind.clone(), controller.index));
            let model = controller.usb_2().map(str::to_owned);
            companions.extend(model.map(|model| (controller.index, model)));
        }
        let mut next: HashMap<String, u32> = HashMap::new();
        // The index of the USB controller before this one, if that is one of several.
        let mut before: Option<u32> = None;
        for controller in &mut self.devices.controllers {
            let model = controller.usb_2().map(str::to_owned);
            let joined = before.zip(model.clone());
            if controller.index == NO_INDEX {
                controller.index = match joined.filter(|joined| !companions.contains(joined)) {
                    Some((index, _)) => index,
                    None => {
                        let next = next.entry(controller.kind.clone()).or_default();
                        while taken.contains(&(controller.kind.clone(), *next)) {
                            *next += 1;
                        }
                        *next += 1;
                        *next - 1
                    }
                };
            }
            if controller.kind == "usb" {
                let index = controller.index;
                before = model.is_some().then_some(index);
                companions.extend(model.map(|model| (index, model)));
            }
        }
        // Into the order in which they will be read again.
        self.devices.sort_controllers();
    }

    fn fill_controllers_of_drives(&mut self) {
        for kind in ["scsi", "fdc", "ide", "sata"] {
            let drives = self.devices.disks.iter().filter(|disk| disk.bus == kind);
            let last = drives
                .filter_map(|disk| disk.drive())
                .map(|drive| drive.0)
                .max();
            if let Some(last) = last {
                for index in 0..=last.min(MAX_CONTROLLERS) {
                    self.devices.ensure_controller(kind, index, None);
                }
            }
        }
    }

    /// Channels and virtio consoles sit on virtio-serial controllers; smart cards on CCID ones.
    fn fill_controllers_of_channels(&mut self) {
        let virtio = |device: &crate::OtherDevice| {
            device.name == "channel"
                && device.child_attribute("target", "type").as_deref() == Some("virtio")
        };
        let console =
            |console: &crate::CharDevice| console.target_type.as_deref() == Some("virtio");
        if self.devices.others.iter().any(virtio) || self.devices.consoles.iter().any(console) {
            self.devices.ensure_controller("virtio-serial", 0, None);
        }
        if self
            .devices
            .others
            .iter()
            .any(|other| other.name == "smartcard")
        {
            self.devices.ensure_controller("ccid", 0, None);
        }
        let mut port = 0;
        for channel in &mut self.devices.others {
            if !virtio(channel) {
                continue;
            }
            forget_empty_source(channel);
            port += 1;
            if channel.info.address.is_none() {
                let address =
                    format!("<address type='virtio-serial' controller='0' bus='0' port='{port}'/>");
                channel.info.address = Some(GuestAddress::Other(crate::xml::RawXml(address)));
            }
        }
    }
}

/// A socket without a path is one of libvirt's choice.
fn forget_empty_source(channel: &mut crate::OtherDevice) {
    if channel.attribute("type") == Some("unix")
        && channel.child_attribute("source", "path").is_none()
    {
        channel.children.retain(|child| child.name() != "source");
    }
}

fn fill_model(controller: &mut Controller, root: &str) {
    match controller.kind.as_str() {
        "usb" => {
            controller
                .model
                .get_or_insert_with(|| "piix3-uhci".to_owned());
        }
        "scsi" => {
            controller
                .model
                .get_or_insert_with(|| "lsilogic".to_owned());
        }
        "pci" => {
            // The root has no place of its own; one that has is no root, and is refused.
            if controller.index == 0 && controller.info.address.is_none() {
                controller.model.get_or_insert_with(|| root.to_owned());
            }
            let name = controller.model.as_deref().and_then(pci_device_name);
            if let Some(name) = name {
                controller.model_name.get_or_insert_with(|| name.to_owned());
            }
        }
        _ => {}
    }
}

/// QEMU's device for a model of PCI controller.
pub(crate) fn pci_device_name(model: &str) -> Option<&'static str> {
    Some(match model {
        "pci-bridge" => "pci-bridge",
        "dmi-to-pci-bridge" => "i82801b11-bridge",
        "pcie-to-pci-bridge" => "pcie-pci-bridge",
        "pcie-root-port" => "pcie-root-port",
        "pcie-switch-upstream-port" => "x3130-upstream",
        "pcie-switch-downstream-port" => "xio3130-downstream",
        "pci-expander-bus" => "pxb",
        "pcie-expander-bus" => "pxb-pcie",
        _ => return None,
    })
}
