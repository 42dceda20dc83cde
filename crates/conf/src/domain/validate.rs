//! What a definition must not say.

use std::collections::HashSet;

use super::defaults::number_of;
use super::{Controller, Disk, Domain, GuestAddress, MAX_DEVICES};
use crate::xml::Document;
use crate::{
    Error, ErrorKind, Faults, Form, HostSource, Interface, InterfaceSource, PciAddress, Plug,
    Teaming,
};

fn unsupported(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::ConfigUnsupported, message)
}

fn xml(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Xml, message)
}

/// A disk is called by its bus and a number in letters: from that come its place and its name in QEMU.
fn check_disk_name(disk: &Disk) -> Result<(), Error> {
    let target = &disk.target;
    let begins = |prefixes: &[&str]| prefixes.iter().any(|one| target.starts_with(one));
    let (is_right, what) = match disk.device.as_str() {
        "floppy" => (begins(&["fd"]), "floppy"),
        "disk" | "lun" => (begins(&["hd", "sd", "vd", "xvd", "ubd"]), "harddisk"),
        _ => (true, ""),
    };
    if !is_right {
        return Err(xml(format!("Invalid {what} device name: {target}")));
    }
    if disk.drive().is_none() && number_of(target).is_none() {
        return Err(xml(format!(
            "Unknown disk name '{target}' and no address specified"
        )));
    }
    Ok(())
}

impl Domain {
    /// Checks what one element can't say alone: duplicates, and what the machine doesn't have.
    ///
    /// # Errors
    /// All contradictions, in the class of the first.
    pub fn validate(&self) -> Result<(), Error> {
        if !self.is_q35() && !self.is_i440fx() {
            return Err(xml(format!(
                "No PCI buses available: machine '{}' is neither a q35 nor a pc",
                self.os.machine
            )));
        }
        self.check_count()?;
        self.check_kept()?;
        Error::all([
            self.check_lifecycle(),
            self.check_boot(),
            self.check_controllers(),
            self.check_disks(),
            self.check_aliases(),
            self.check_unassigned(),
            self.check_host_devices(),
            self.check_shared_memory(),
        ])
    }

    /// Checks each interface against what it was resolved to.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigUnsupported`] naming the interface by its MAC.
    pub fn check_resolved(&self) -> Result<(), Error> {
        self.devices.interfaces.iter().try_for_each(|interface| {
            interface.check_resolved().map_err(|error| Error {
                message: format!("interface {} - {}", interface.mac, error.message),
                ..error
            })
        })
    }

    /// Checks that its document, once it is kept, can be read again; to be asked of whatever was
    /// changed.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigUnsupported`], with what it has too much of.
    pub fn check_kept(&self) -> Result<(), Error> {
        Document::check_kept(&self.to_xml_with_secrets(Form::Inactive))
    }

    /// What is defined must be fit to be read again.
    pub(super) fn check_count(&self) -> Result<(), Error> {
        match self.devices.count() {
            0..=MAX_DEVICES => Ok(()),
            _ => Err(unsupported(super::read_devices::too_many())),
        }
    }

    fn check_lifecycle(&self) -> Result<(), Error> {
        let actions = &self.lifecycle;
        let (off, reboot) = (actions.on_poweroff.as_str(), actions.on_reboot.as_str());
        if [off, reboot, &actions.on_crash].contains(&"rename-restart") {
            return Err(unsupported(
                "QEMU has no 'rename-restart' for <on_poweroff>, <on_reboot> or <on_crash>",
            ));
        }
        if off == "preserve" || reboot == "preserve" {
            return Err(unsupported(
                "'preserve' is for <on_crash>, not for <on_poweroff> or <on_reboot>",
            ));
        }
        if off == "restart" && reboot == "destroy" {
            return Err(unsupported(
                "QEMU can't restart at <on_poweroff> and destroy at <on_reboot>",
            ));
        }
        Ok(())
    }

    fn check_boot(&self) -> Result<(), Error> {
        if !self.os.boot.is_empty() && self.has_boot_orders() {
            return Err(unsupported(
                "per-device boot elements cannot be used together with os/boot elements",
            ));
        }
        let mut seen = HashSet::new();
        for order in self.infos().filter_map(|info| info.boot_order) {
            if !seen.insert(order) {
                return Err(unsupported(format!(
                    "boot order '{order}' used for more than one device"
                )));
            }
        }
        Ok(())
    }

    fn check_controllers(&self) -> Result<(), Error> {
        let mut seen: HashSet<(&str, u32)> = HashSet::new();
        for controller in &self.devices.controllers {
            self.check_controller(controller)?;
            let new = seen.insert((&controller.kind, controller.index));
            if !new && controller.usb_2().is_none() {
                return Err(xml(format!(
                    "Multiple '{}' controllers with index '{}'",
                    controller.kind, controller.index
                )));
            }
        }
        Ok(())
    }

    fn check_controller(&self, controller: &Controller) -> Result<(), Error> {
        let model = controller.model.as_deref().unwrap_or_default();
        match controller.kind.as_str() {
            "ide" if self.is_i440fx() && controller.index > 0 => Err(unsupported(
                "Only a single IDE controller is supported for this machine type",
            )),
            "ide" if self.is_q35() => Err(unsupported(
                "IDE controllers are unsupported for this QEMU binary or machine type",
            )),
            "pci" if controller.is_pci_root() && controller.index != 0 => Err(xml(
                "pci-root and pcie-root controllers should have index 0",
            )),
            "pci" => self.check_pci_controller(controller.index, model),
            _ => Ok(()),
        }
    }

    fn check_pci_controller(&self, index: u32, model: &str) -> Result<(), Error> {
        let (express, conventional) = (self.is_q35(), self.is_i440fx());
        let root = if express { "pcie-root" } else { "pci-root" };
        if index == 0 && model != root {
            let mut error = xml(format!(
                "The PCI controller with index='0' must be model='{root}' for this machine type, \
                 but model='{model}' was found instead"
            ));
            error.advice = Some(format!(
                "give yours an index from 1 on, or put <controller type='pci' index='0' \
                 model='{root}'/> before it"
            ));
            return Err(error);
        }
        // That no bus takes another kind is found when it is given its place.
        let fits = match model {
            "pci-expander-bus" => !express,
            "pcie-expander-bus" => !conventional,
            "pci-root"
            | "pcie-root"
            | "pcie-root-port"
            | "pcie-switch-upstream-port"
            | "pcie-switch-downstream-port"
            | "dmi-to-pci-bridge"
            | "pcie-to-pci-bridge"
            | "pci-bridge" => true,
            _ => {
                return Err(Error::new(
                    ErrorKind::Internal,
                    format!("Unable to determine model '{model}' of PCI controller idx={index}"),
                ));
            }
        };
        if !fits {
            return Err(unsupported(format!(
                "{model} controllers are not supported with this machine type"
            )));
        }
        if index > 255 {
            return Err(Error::new(
                ErrorKind::Internal,
                format!("PCI controller with index='{index}': at most 255 can be addressed"),
            ));
        }
        Ok(())
    }

    fn check_disks(&self) -> Result<(), Error> {
        let mut seen = HashSet::new();
        let mut places = HashSet::new();
        for disk in &self.devices.disks {
            check_disk_name(disk)?;
            if !seen.insert(&disk.target) {
                return Err(xml(format!(
                    "target '{}' duplicated for disk sources",
                    disk.target
                )));
            }
            if let Some(place) = disk.drive()
                && !places.insert((&disk.bus, place))
            {
                return Err(xml(format!(
                    "target '{}' has the drive address of another disk",
                    disk.target
                )));
            }
            if disk.bus == "virtio" && disk.device == "lun" {
                return Err(unsupported(
                    "This QEMU doesn't support SCSI emulation with 'virtio-blk' device",
                ));
            }
            if disk.bus == "virtio" && matches!(disk.info.address, Some(GuestAddress::Drive { .. }))
            {
                return Err(unsupported(format!(
                    "unexpected address type for virtio disk '{}'",
                    disk.target
                )));
            }
        }
        Ok(())
    }

    fn check_aliases(&self) -> Result<(), Error> {
        let mut seen = HashSet::new();
        for info in self.infos() {
            if let Some(alias) = &info.alias
                && !seen.insert(alias)
            {
                return Err(unsupported(format!("non unique alias detected: {alias}")));
            }
        }
        Ok(())
    }

    /// What the guest is not to see can only be a device that the host prepares for it.
    fn check_unassigned(&self) -> Result<(), Error> {
        let hostdevs = self.devices.hostdevs.iter();
        let may_be = hostdevs.filter(|one| one.info.is_unassigned()).count();
        let unassigned = self.infos().filter(|info| info.is_unassigned());
        if unassigned.count() == may_be {
            return Ok(());
        }
        Err(unsupported(
            "a guest address of type='unassigned' is supported only for hostdev devices of their own",
        ))
    }

    /// Host functions that this guest asks for by address, those of interfaces first.
    pub fn host_pci_addresses(&self) -> impl Iterator<Item = PciAddress> {
        let interfaces = self.devices.interfaces.iter();
        let interfaces = interfaces.filter_map(|interface| match &interface.source {
            InterfaceSource::Hostdev {
                source: HostSource::Pci(address),
                ..
            } => Some(*address),
            _ => None,
        });
        let hostdevs = self.devices.hostdevs.iter();
        interfaces.chain(hostdevs.filter_map(|hostdev| match &hostdev.source {
            HostSource::Pci(address) => Some(*address),
            _ => None,
        }))
    }

    fn check_host_devices(&self) -> Result<(), Error> {
        let mut seen = HashSet::new();
        for address in self.host_pci_addresses() {
            if !seen.insert(address) {
                return Err(xml(format!(
                    "Hostdev already exists in the domain configuration: PCI device {address}"
                )));
            }
        }
        for hostdev in &self.devices.hostdevs {
            if let Some(Teaming::Persistent) = hostdev.teaming {
                return Err(unsupported(
                    "the teaming of a <hostdev> must be of type 'transient'",
                ));
            }
            if hostdev.teaming.is_some() && !matches!(hostdev.source, HostSource::Pci(_)) {
                return Err(unsupported(
                    "teaming is only supported for pci hostdev devices",
                ));
            }
        }
        Ok(())
    }

    /// A vhost-user process works on the guest's memory, so that must be shared.
    fn check_shared_memory(&self) -> Result<(), Error> {
        let needs = |interface: &Interface| interface.source.kind() == "vhostuser";
        if !self.devices.interfaces.iter().any(needs) || self.shares_memory() {
            return Ok(());
        }
        Err(unsupported("'interface' requires shared memory"))
    }

    fn shares_memory(&self) -> bool {
        let shared = |raw: &crate::xml::RawXml| {
            let Ok(document) = Document::parse(raw.as_str()) else {
                return false;
            };
            let root = document.root();
            let access = root
                .child("access")
                .and_then(|access| access.attribute("mode"));
            let mut cells = root.children_named("cell");
            access == Some("shared") || cells.any(|c| c.attribute("memAccess") == Some("shared"))
        };
        let numa = self.cpu.iter().flat_map(|cpu| cpu.unused.children("numa"));
        self.unused
            .children("memoryBacking")
            .chain(numa)
            .any(shared)
    }
}

impl Interface {
    /// Checks the settings against what the interface is, or was resolved to.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigUnsupported`], with all that can't be had; whose it is is not said.
    pub fn check_resolved(&self) -> Result<(), Error> {
        let kind = match &self.actual {
            Some(actual) => match actual.plug {
                Plug::Network { .. } => "network",
                Plug::Bridge { .. } => "bridge",
                Plug::Direct { .. } => "direct",
                Plug::HostdevPci { .. } => "hostdev",
            },
            None => self.source.kind(),
        };
        let actual = self.actual.as_ref();
        let bandwidth = actual.map_or(&self.bandwidth, |actual| &actual.bandwidth);
        let hostdev = kind == "hostdev";
        let multiqueue = [
            "network",
            "bridge",
            "direct",
            "ethernet",
            "vhostuser",
            "vdpa",
        ];
        let mut faults = Faults::default();
        let mut refuse = |what: &str| faults.push(unsupported(what));
        if let InterfaceSource::Hostdev {
            source: HostSource::Usb(_),
            ..
        } = self.source
        {
            refuse("a USB device can't be given MAC and VLAN by the host; use a plain <hostdev>");
        }
        if self.direct_mode.is_some() && !matches!(self.source, InterfaceSource::Network { .. }) {
            refuse(
                "<virtnic:direct> chooses of a network's modes; this interface says its mode itself",
            );
        }
        // QEMU plays these alone.
        if matches!(kind, "user" | "null") {
            for (given, what) in [
                (bandwidth.is_some(), "<bandwidth>"),
                (self.vlan.is_some(), "<vlan>"),
                (self.mtu.is_some() && !self.is_virtio(), "<mtu>"),
                (self.vf.is_some(), "<virtnic:vf>"),
            ] {
                if given {
                    refuse(&format!(
                        "{what} can't be had on an interface of type '{kind}'"
                    ));
                }
            }
        }
        if hostdev {
            if bandwidth.is_some() {
                refuse(
                    "<bandwidth> can't be kept on a host device; limit its VF: <virtnic:vf \
                     rate='…'/>",
                );
            }
            if self.mtu.is_some() {
                refuse("<mtu> can't be set on a host device: the guest sets it itself");
            }
            for (given, what) in [
                // The PF of a VF that a network gave can pull its cable out.
                (
                    self.link_up == Some(false) && actual.is_none(),
                    "<link state='down'>",
                ),
                (self.coalesce_rx_frames.is_some(), "<coalesce>"),
                (self.send_buffer.is_some(), "<sndbuf>"),
                (
                    self.unused.children("filterref").next().is_some(),
                    "<filterref>",
                ),
            ] {
                if given {
                    refuse(&format!("{what} can't be had on a host device"));
                }
            }
            if self.backend.as_ref().is_some_and(|b| b.tap.is_some()) {
                refuse(
                    "custom tap device path is not supported for network interfaces of type hostdev",
                );
            }
        } else if let Some(Teaming::Transient { .. }) = self.teaming {
            refuse(&format!(
                "teaming transient device must be type='hostdev', not '{kind}'"
            ));
        }
        let queues = self.driver.as_ref().and_then(|driver| driver.queues);
        if queues.is_some() && !multiqueue.contains(&kind) {
            refuse(&format!(
                "multiqueue is not supported for network interfaces of type {kind}"
            ));
        }
        faults.finish()
    }
}
