//! Devices that are part of the machine, at their fixed places.

use super::connect::{Connect, Wish};
use super::order::{Companions, DeviceRef};
use super::{Buses, Pass};
use crate::domain::{Devices, Domain, GuestAddress};
use crate::{Error, ErrorKind, PciAddress};

/// On bus 0.
fn place(slot: u8, function: u8) -> PciAddress {
    PciAddress::new(0, 0, slot, function).unwrap_or_default()
}

/// Whether it is one of the PIIX3's own functions, whose slot is reserved as a whole.
pub(super) fn is_built_in(device: DeviceRef, devices: &Devices, address: PciAddress) -> bool {
    let DeviceRef::Controller(i) = device else {
        return false;
    };
    let Some(controller) = devices.controllers.get(i) else {
        return false;
    };
    controller.index == 0
        && match controller.kind.as_str() {
            "ide" => address == place(1, 1),
            "usb" => is_piix3(controller.model.as_deref()) && address == place(1, 2),
            _ => false,
        }
}

fn is_piix3(model: Option<&str>) -> bool {
    matches!(model, None | Some("piix3-uhci"))
}

impl Pass<'_> {
    /// Reserves what the chipset has, and gives its devices among the domain's their places.
    pub(super) fn chipset(&self, domain: &mut Domain, buses: &mut Buses) -> Result<(), Error> {
        if self.express_root {
            self.q35(domain, buses)
        } else {
            self.i440fx(domain, buses)
        }
    }

    fn i440fx(&self, domain: &mut Domain, buses: &mut Buses) -> Result<(), Error> {
        for controller in &mut domain.devices.controllers {
            let (built_in, what) = match (controller.kind.as_str(), controller.index) {
                ("ide", 0) => (place(1, 1), "Primary IDE controller"),
                ("usb", 0) if is_piix3(controller.model.as_deref()) => {
                    (place(1, 2), "PIIX3 USB controller at index 0")
                }
                _ => continue,
            };
            let shown = format!("0:0:1.{}", built_in.function());
            fix(&mut controller.info.address, built_in, what, &shown)?;
        }
        let wish = Wish::endpoint(Connect::PciDevice).by_hand();
        // ISA bridge, IDE, USB, power management.
        for function in 0..4 {
            buses.reserve(place(1, function), &wish, true)?;
        }
        self.primary_video(domain, buses, 2)
    }

    fn q35(&self, domain: &mut Domain, buses: &mut Buses) -> Result<(), Error> {
        let wish = Wish::endpoint(Connect::PcieDevice).by_hand();
        let mut companions = Companions::of(&domain.devices);
        for i in 0..domain.devices.controllers.len() {
            let Some(controller) = domain.devices.controllers.get(i) else {
                continue;
            };
            let (kind, index) = (controller.kind.as_str(), controller.index);
            let model = controller.model.as_deref().unwrap_or_default();
            let given = controller.info.address.is_some();
            let address = if kind == "sata" && index == 0 {
                let address = place(0x1f, 2);
                if given {
                    let mut address_given = controller.info.address.clone();
                    fix(
                        &mut address_given,
                        address,
                        "Primary SATA controller",
                        "0:0:1f.2",
                    )?;
                    continue;
                }
                address
            } else if kind == "usb"
                && !given
                && let Some((function, beside)) = companions.of_bus(controller)
            {
                let slot = match beside {
                    Some(other) if other.bus() == 0 => other.slot(),
                    Some(_) => continue,
                    None if !buses.slot_in_use(0, 0x1d) => 0x1d,
                    None if !buses.slot_in_use(0, 0x1a) => 0x1a,
                    None => continue,
                };
                companions.placed(index, place(slot, function));
                place(slot, function)
            } else if kind == "pci" && model == "dmi-to-pci-bridge" && !given {
                if buses.slot_in_use(0, 0x1e) {
                    continue;
                }
                place(0x1e, 0)
            } else {
                continue;
            };
            let wish = Wish::of_controller(model).unwrap_or(wish);
            buses.reserve(address, &wish, true)?;
            let multifunction = (kind == "usb" && address.function() == 0).then_some(true);
            if let Some(controller) = domain.devices.controllers.get_mut(i) {
                controller.info.address = Some(GuestAddress::Pci {
                    address,
                    multifunction,
                });
            }
        }
        // LPC bridge and SMBus.
        for function in [0, 3] {
            buses.reserve(place(0x1f, function), &wish, true)?;
        }
        self.primary_video(domain, buses, 1)?;
        let sounds = domain.devices.others.iter_mut();
        let mut sounds =
            sounds.filter(|other| other.name == "sound" && other.info.address.is_none());
        let ich9 = sounds.find(|sound| sound.attribute("model") == Some("ich9"));
        if let Some(sound) = ich9
            && !buses.slot_in_use(0, 0x1b)
        {
            buses.reserve(place(0x1b, 0), &wish, true)?;
            sound.info.address = Some(at(place(0x1b, 0)));
        }
        Ok(())
    }

    /// The first display is where firmware looks for it.
    fn primary_video(&self, domain: &mut Domain, buses: &mut Buses, slot: u8) -> Result<(), Error> {
        let mut videos = domain.devices.others.iter_mut();
        let Some(video) = videos.find(|other| other.name == "video") else {
            return Ok(());
        };
        let kind = video.child_attribute("model", "type");
        let shown = !matches!(kind.as_deref(), Some("none" | "ramfb"));
        if !shown || video.info.address.is_some() || buses.slot_in_use(0, slot) {
            return Ok(());
        }
        let endpoint = if self.express_root {
            Connect::PcieDevice
        } else {
            Connect::PciDevice
        };
        buses.reserve(place(slot, 0), &Wish::endpoint(endpoint).by_hand(), true)?;
        video.info.address = Some(at(place(slot, 0)));
        Ok(())
    }
}

fn at(address: PciAddress) -> GuestAddress {
    GuestAddress::Pci {
        address,
        multifunction: None,
    }
}

/// Gives a device its fixed place, or refuses another one.
fn fix(
    given: &mut Option<GuestAddress>,
    address: PciAddress,
    what: &str,
    shown: &str,
) -> Result<(), Error> {
    match given {
        None => {
            *given = Some(at(address));
            Ok(())
        }
        Some(GuestAddress::Pci { address: other, .. }) if *other == address => Ok(()),
        Some(_) => Err(Error::new(
            ErrorKind::Internal,
            format!("{what} must have PCI address {shown}"),
        )),
    }
}
