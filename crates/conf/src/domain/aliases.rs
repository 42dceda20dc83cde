//! Aliases: the names of a running guest's devices, for clients and QEMU alike.

use std::collections::HashSet;

use super::defaults::number_of;
use super::info::is_user_alias;
use super::{DeviceInfo, Disk, Domain, GuestAddress};
use crate::InterfaceSource;

impl Domain {
    /// Gives every device of a guest that is to start its alias. A user's own (`ua-…`) stays. An
    /// interface that was resolved to a host device counts as one.
    pub fn assign_aliases(&mut self) {
        let narrow = self.narrow_controllers();
        for disk in &mut self.devices.disks {
            let alias = disk_alias(disk, &narrow);
            set(&mut disk.info, alias);
        }
        let q35 = self.is_q35();
        for controller in &mut self.devices.controllers {
            let (kind, index) = (controller.kind.as_str(), controller.index);
            let alias = match (kind, index, controller.model.as_deref()) {
                ("pci", 0, Some("pcie-root")) => "pcie.0".to_owned(),
                ("pci", index, _) => format!("pci.{index}"),
                ("ide", 0, _) if !q35 => "ide".to_owned(),
                ("sata", 0, _) if q35 => "ide".to_owned(),
                ("usb", 0, _) => "usb".to_owned(),
                ("virtio-serial", index, _) => format!("virtio-serial{index}"),
                (kind, index, _) => format!("{kind}{index}"),
            };
            set(&mut controller.info, alias);
        }
        let mut hostdevs = 0;
        for (number, interface) in self.devices.interfaces.iter_mut().enumerate() {
            let whole = interface.is_hostdev()
                || matches!(interface.source, InterfaceSource::Hostdev { .. });
            let alias = if whole {
                hostdevs += 1;
                format!("hostdev{}", hostdevs - 1)
            } else {
                format!("net{number}")
            };
            set(&mut interface.info, alias);
        }
        for hostdev in &mut self.devices.hostdevs {
            set(&mut hostdev.info, format!("hostdev{hostdevs}"));
            hostdevs += 1;
        }
        for (number, serial) in self.devices.serials.iter_mut().enumerate() {
            set(&mut serial.info, format!("serial{number}"));
        }
        let first_serial = self.devices.serials.first();
        let first_serial = first_serial.and_then(|serial| serial.info.alias.clone());
        for (number, console) in self.devices.consoles.iter_mut().enumerate() {
            let mirrors = number == 0 && console.target_type.as_deref() == Some("serial");
            let alias = match &first_serial {
                Some(serial) if mirrors => serial.clone(),
                _ => format!("console{number}"),
            };
            set(&mut console.info, alias);
        }
        for (number, rng) in self.devices.rngs.iter_mut().enumerate() {
            set(&mut rng.info, format!("rng{number}"));
        }
        if let Some(balloon) = &mut self.devices.memballoon
            && balloon.model != "none"
        {
            set(&mut balloon.info, "balloon0".to_owned());
        }
        self.assign_other_aliases(hostdevs);
    }

    /// SCSI controllers whose disks have no target, by index.
    fn narrow_controllers(&self) -> HashSet<u32> {
        let controllers = self.devices.controllers.iter();
        controllers
            .filter(|c| c.kind == "scsi" && c.model.as_deref() == Some("lsilogic"))
            .map(|controller| controller.index)
            .collect()
    }

    /// The alias of one disk.
    pub(super) fn name_disk(&mut self, at: usize) {
        let narrow = self.narrow_controllers();
        if let Some(disk) = self.devices.disks.get_mut(at) {
            let alias = disk_alias(disk, &narrow);
            set(&mut disk.info, alias);
        }
    }

    fn assign_other_aliases(&mut self, mut hostdevs: usize) {
        let mut counts: Vec<(String, usize)> = vec![("rng".to_owned(), self.devices.rngs.len())];
        for other in &mut self.devices.others {
            let prefix = match other.name.as_str() {
                "graphics" | "audio" | "panic" | "lease" | "redirfilter" => continue,
                "filesystem" => "fs",
                "redirdev" => "redir",
                "memory" => "dimm",
                "hostdev" => {
                    set(&mut other.info, format!("hostdev{hostdevs}"));
                    hostdevs += 1;
                    continue;
                }
                name => name,
            };
            let number = match counts.iter_mut().find(|(name, _)| name == prefix) {
                Some((_, count)) => {
                    *count += 1;
                    *count - 1
                }
                None => {
                    counts.push((prefix.to_owned(), 1));
                    0
                }
            };
            let alias = format!("{prefix}{number}");
            set(&mut other.info, alias);
        }
    }
}

fn set(info: &mut DeviceInfo, alias: String) {
    if !info.alias.as_deref().is_some_and(is_user_alias) {
        info.alias = Some(alias);
    }
}

/// The alias of a disk; those on `narrow` SCSI controllers have no target.
fn disk_alias(disk: &Disk, narrow: &HashSet<u32>) -> String {
    match &disk.info.address {
        Some(GuestAddress::Drive {
            controller,
            bus,
            target,
            unit,
        }) if disk.bus == "scsi" && !narrow.contains(controller) => {
            format!("scsi{controller}-{bus}-{target}-{unit}")
        }
        Some(GuestAddress::Drive {
            controller,
            bus,
            unit,
            ..
        }) => format!("{}{controller}-{bus}-{unit}", disk.bus),
        _ => {
            let number = number_of(&disk.target).unwrap_or(0);
            format!("{}-disk{number}", disk.bus)
        }
    }
}
