//! Controllers: PCI first, since all others may sit on their buses.

use conf::Controller;

use super::address::{companion_port, is_usb_companion};
use super::json::Object;
use super::{Builder, Problem, is_q35, virtio};

/// The order of kinds; each needs only those before it.
const KINDS: [&str; 6] = ["pci", "usb", "scsi", "ide", "sata", "virtio-serial"];

/// QEMU's PCI controllers: a document may name no other device so.
const PCI_CONTROLLERS: [&str; 9] = [
    "i82801b11-bridge",
    "ioh3420",
    "pci-bridge",
    "pcie-pci-bridge",
    "pcie-root-port",
    "pxb",
    "pxb-pcie",
    "x3130-upstream",
    "xio3130-downstream",
];

impl Builder<'_> {
    pub(super) fn controllers(&mut self) {
        let all = &self.domain.devices.controllers;
        for kind in KINDS {
            let mut of_kind: Vec<_> = all.iter().filter(|c| c.kind == kind).collect();
            if kind == "pci" {
                of_kind.sort_by_key(|c| c.index);
            }
            for controller in of_kind {
                if self.is_built_in(controller) {
                    continue;
                }
                let Some(alias) = self.alias(&controller.info, &format!("{kind} controller"))
                else {
                    continue;
                };
                let device = match kind {
                    "pci" => self.pci_controller(controller, &alias),
                    "usb" => self.usb_controller(controller, &alias),
                    _ => self.other_controller(controller, &alias),
                };
                self.device(device);
            }
        }
        for controller in all.iter().filter(|c| !KINDS.contains(&c.kind.as_str())) {
            self.refuse(format!("<controller type='{}'>", controller.kind));
        }
    }

    /// Whether the machine has it anyway, or it stands for having none.
    fn is_built_in(&self, controller: &Controller) -> bool {
        let model = controller.model.as_deref();
        match controller.kind.as_str() {
            "pci" => matches!(model, Some("pci-root" | "pcie-root")),
            "usb" => model == Some("none"),
            "ide" => controller.index == 0 && !self.is_q35(),
            "sata" => controller.index == 0 && self.is_q35(),
            _ => false,
        }
    }

    pub(super) fn is_q35(&self) -> bool {
        is_q35(self.domain)
    }

    fn pci_controller(&self, controller: &Controller, alias: &str) -> Result<Object, Problem> {
        let target = &controller.target;
        if let Some(name) = controller.model_name.as_deref()
            && !PCI_CONTROLLERS.contains(&name)
        {
            let what = format!("<controller type='pci'> with <model name='{name}'>");
            return Err(Problem::Unsupported(what));
        }
        let named = |default: &str| {
            let name = controller.model_name.as_deref().unwrap_or(default);
            Object::driver(name)
        };
        let port = |default| {
            named(default)
                .maybe("port", target.port)
                .maybe("chassis", target.chassis)
                .with("id", alias)
                .maybe("hotplug", target.hotplug)
        };
        let expander = |default| {
            named(default)
                .maybe("bus_nr", target.bus_nr)
                .with("id", alias)
                .maybe("numa_node", target.node)
        };
        let device = match controller.model.as_deref().unwrap_or("") {
            "pcie-root-port" => port("pcie-root-port"),
            "pcie-switch-downstream-port" => port("xio3130-downstream"),
            "pcie-switch-upstream-port" => named("x3130-upstream").with("id", alias),
            "pci-bridge" => named("pci-bridge")
                .maybe("chassis_nr", target.chassis_nr)
                .with("id", alias),
            "dmi-to-pci-bridge" => named("i82801b11-bridge").with("id", alias),
            "pcie-to-pci-bridge" => named("pcie-pci-bridge").with("id", alias),
            "pci-expander-bus" => expander("pxb"),
            "pcie-expander-bus" => expander("pxb-pcie"),
            other => {
                let what = format!("<controller type='pci' model='{other}'>");
                return Err(Problem::Unsupported(what));
            }
        };
        Ok(device.and(self.pci_address(&controller.info, alias)?))
    }

    fn usb_controller(&self, controller: &Controller, alias: &str) -> Result<Object, Problem> {
        let driver = match controller.model.as_deref().unwrap_or("piix3-uhci") {
            "piix3-uhci" => "piix3-usb-uhci",
            "piix4-uhci" => "piix4-usb-uhci",
            "ehci" => "usb-ehci",
            "ich9-ehci1" => "ich9-usb-ehci1",
            "ich9-uhci1" => "ich9-usb-uhci1",
            "ich9-uhci2" => "ich9-usb-uhci2",
            "ich9-uhci3" => "ich9-usb-uhci3",
            "vt82c686b-uhci" => "vt82c686b-usb-uhci",
            "pci-ohci" => "pci-ohci",
            "nec-xhci" => "nec-usb-xhci",
            "qemu-xhci" => "qemu-xhci",
            other => {
                let what = format!("<controller type='usb' model='{other}'>");
                return Err(Problem::Unsupported(what));
            }
        };
        let device = match companion_port(controller) {
            Some(port) => {
                let mut masters = self.controllers_of("usb");
                let master = masters
                    .find(|c| c.index == controller.index && !is_usb_companion(c))
                    .and_then(|c| c.info.alias.as_deref())
                    .ok_or_else(|| Problem::NoController {
                        device: alias.to_owned(),
                        bus: format!("an EHCI with index {}", controller.index),
                    })?;
                Object::driver(driver)
                    .with("masterbus", format!("{master}.0"))
                    .with("firstport", port)
            }
            None => {
                // As many ports of either speed.
                let ports = ports(controller).filter(|_| driver.ends_with("xhci"));
                Object::driver(driver)
                    .maybe("p2", ports)
                    .maybe("p3", ports)
                    .with("id", alias)
            }
        };
        Ok(device.and(self.pci_address(&controller.info, alias)?))
    }

    fn other_controller(&self, controller: &Controller, alias: &str) -> Result<Object, Problem> {
        let model = controller.model.as_deref();
        let driver = match (controller.kind.as_str(), model) {
            ("virtio-serial", model) => virtio("virtio-serial", model.unwrap_or("virtio")),
            ("scsi", Some(model @ ("virtio-transitional" | "virtio-non-transitional"))) => {
                virtio("virtio-scsi", model)
            }
            ("scsi", Some("virtio-scsi")) => "virtio-scsi-pci".to_owned(),
            ("sata", None | Some("ich9-ahci")) => "ahci".to_owned(),
            (kind, model) => {
                let model = model.map_or(String::new(), |m| format!(" model='{m}'"));
                let what = format!(
                    "<controller type='{kind}'{model} index='{}'>",
                    controller.index
                );
                return Err(Problem::Unsupported(what));
            }
        };
        let max_ports = ports(controller).filter(|_| controller.kind == "virtio-serial");
        Ok(Object::driver(driver)
            .with("id", alias)
            .maybe("max_ports", max_ports)
            .and(self.pci_address(&controller.info, alias)?))
    }
}

fn ports(controller: &Controller) -> Option<u32> {
    controller.unused.attribute("ports")?.parse().ok()
}
