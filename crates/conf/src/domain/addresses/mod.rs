//! Places on the guest's PCI buses, given as libvirt gives them, so that a guest that moves between
//! the two keeps its devices where they were.
//!
//! Addresses in the document stay. A first pass over all devices finds out how many further buses
//! are needed; their controllers are added; a second pass, which now places those first, gives
//! every device its address.

mod buses;
mod chipset;
mod connect;
mod order;
mod plugged;
mod usb;

use buses::{Buses, Model};
use connect::{Connect, Wish};
use order::Companions;
pub use order::DeviceRef;

use std::collections::HashMap;

use super::{Controller, Domain, GuestAddress};
use crate::{Error, ErrorKind, KeptPlaces, PciAddress};

impl Domain {
    /// Gives every PCI device without an address its place, and adds the PCI controllers that this
    /// needs. `is_express` says whether a function of this host is a PCI Express device; one that is
    /// not there counts as one.
    ///
    /// To be called after [`Domain::fill_defaults`]: the root bus must be among the controllers.
    ///
    /// # Errors
    /// Two devices at one address, an address on a bus that doesn't take such a device, a bus that
    /// can't be made.
    pub fn assign_addresses(
        &mut self,
        is_express: &dyn Fn(PciAddress) -> bool,
    ) -> Result<(), Error> {
        self.validate()?;
        let Some(root) = self.devices.controllers.iter().find(|c| c.is_pci_root()) else {
            return Ok(());
        };
        let express_root = root.model.as_deref() == Some("pcie-root");
        let pci = self.devices.controllers.iter().filter(|c| c.kind == "pci");
        let last_given = pci.map(|controller| controller.index).max().unwrap_or(0);
        let mut pass = Pass {
            is_express,
            express_root,
            trial: true,
        };

        let mut buses = pass.buses(self)?;
        pass.chipset(self, &mut buses)?;
        if !express_root && !buses.all_full() {
            // A bus that would be full keeps a slot for the bridge to a further one.
            buses.next(&Wish::endpoint(Connect::PciDevice).by_hand(), 0)?;
        }
        pass.place_all(self, &mut buses)?;
        if express_root && last_given == 0 && buses.len() > 1 {
            // Someone who leaves the buses to us gets one free port to plug into.
            buses.next(&Wish::endpoint(Connect::PcieDevice), 0)?;
        }
        let mut bus = 1;
        while bus < buses.len() {
            if let Some(model) = self.add_missing_controller(bus, &buses)
                && let Some(wish) = Wish::of_controller(model.name())
            {
                buses.next(&wish, 0)?;
            }
            bus += 1;
        }

        self.check_count()?;

        pass.trial = false;
        let mut buses = pass.buses(self)?;
        pass.chipset(self, &mut buses)?;
        pass.place_all(self, &mut buses)?;
        self.mark_multifunction(&buses);
        self.fill_pci_targets()
    }

    /// As [`Domain::assign_addresses`], with devices that should be where they were. Where the same
    /// document was given before, they are there anyway, and all others are, too. Where they would
    /// move, they are put there first; if that can't be, they move.
    ///
    /// # Errors
    /// As [`Domain::assign_addresses`].
    pub fn assign_addresses_keeping(
        &mut self,
        is_express: &dyn Fn(PciAddress) -> bool,
        kept: &KeptPlaces,
    ) -> Result<(), Error> {
        if kept.0.is_empty() {
            return self.assign_addresses(is_express);
        }
        let mut there = self.clone();
        self.assign_addresses(is_express)?;
        let kept: HashMap<&str, &GuestAddress> = (kept.0.iter())
            .map(|(alias, address)| (alias.as_str(), address))
            .collect();
        let mut moved = false;
        let interfaces = self.devices.interfaces.iter();
        for (put, placed) in there.devices.interfaces.iter_mut().zip(interfaces) {
            let alias = placed.info.alias.as_deref();
            let Some(&address) = alias.and_then(|alias| kept.get(alias)) else {
                continue;
            };
            if put.info.address.is_none() {
                put.info.address = Some(address.clone());
                moved |= placed.info.pci_address() != put.info.pci_address();
            }
        }
        if moved && there.assign_addresses(is_express).is_ok() {
            *self = there;
        }
        Ok(())
    }

    /// Adds the controller of a bus that was made for a device; its model, if there was none yet.
    fn add_missing_controller(&mut self, bus: usize, buses: &Buses) -> Option<Model> {
        let index = u32::try_from(bus).ok()?;
        let controllers = &self.devices.controllers;
        if controllers
            .iter()
            .any(|c| c.kind == "pci" && c.index == index)
        {
            return None;
        }
        let model = buses.model(bus)?;
        let mut controller = Controller::new("pci", index, Some(model.name()));
        controller.model_name = model.device_name().map(str::to_owned);
        self.devices.insert_controller(controller);
        Some(model)
    }

    /// A device at function 0 says that its slot has others.
    fn mark_multifunction(&mut self, buses: &Buses) {
        for device in order::all(&self.devices) {
            if let Some(info) = device.info_mut(&mut self.devices)
                && let Some(GuestAddress::Pci {
                    address,
                    multifunction: multifunction @ None,
                }) = &mut info.address
                && address.function() == 0
                && buses.has_further_functions(*address)
            {
                *multifunction = Some(true);
            }
        }
    }

    /// Chassis, port and bus numbers that the document leaves open.
    fn fill_pci_targets(&mut self) -> Result<(), Error> {
        let expander = |c: &Controller| {
            matches!(
                c.model.as_deref(),
                Some("pci-expander-bus" | "pcie-expander-bus")
            )
        };
        let taken = self.devices.controllers.iter().filter(|c| expander(c));
        let mut lowest = taken
            .filter_map(|c| c.target.bus_nr.map(u16::from))
            .min()
            .unwrap_or(256);
        for controller in &mut self.devices.controllers {
            if controller.kind != "pci" {
                continue;
            }
            let address = controller.info.pci_address().unwrap_or_default();
            let index = u8::try_from(controller.index).ok();
            let target = &mut controller.target;
            match controller.model.as_deref() {
                Some("pci-bridge") => target.chassis_nr = target.chassis_nr.or(index),
                Some("pcie-root-port") => {
                    target.chassis = target.chassis.or(index);
                    let port = (address.slot() << 3) + address.function();
                    target.port = target.port.or(Some(port));
                }
                Some("pcie-switch-downstream-port") => {
                    target.chassis = target.chassis.or(index);
                    target.port = target.port.or(Some(address.slot()));
                }
                Some("pci-expander-bus" | "pcie-expander-bus") if target.bus_nr.is_none() => {
                    // Each expander leaves room for one bus behind it; the lowest are pci.0's own.
                    lowest = lowest.checked_sub(2).filter(|&n| n > 0).ok_or_else(|| {
                        Error::new(
                            ErrorKind::Internal,
                            format!(
                                "No free busNr lower than current lowest busNr is available to \
                                 auto-assign to bus {}. Must be manually assigned",
                                controller.index
                            ),
                        )
                    })?;
                    target.bus_nr = u8::try_from(lowest).ok();
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// One walk over all devices.
struct Pass<'f> {
    is_express: &'f dyn Fn(PciAddress) -> bool,
    express_root: bool,
    /// Only count; nothing is stored, and buses that lack are made.
    trial: bool,
}

impl Pass<'_> {
    /// The buses of the controllers, with every address of the document taken.
    fn buses(&self, domain: &Domain) -> Result<Buses, Error> {
        let mut buses = Buses::new(&domain.devices.controllers, self.express_root, self.trial)?;
        for device in order::all(&domain.devices) {
            let Some(address) = device
                .info(&domain.devices)
                .and_then(|info| info.pci_address())
            else {
                continue;
            };
            if !self.express_root && chipset::is_built_in(device, &domain.devices, address) {
                continue;
            }
            let wish = self.wish(device, domain);
            // What sits on no PCI bus has no business with a PCI address; its own checks say so.
            if let Some(wish) = wish {
                buses.reserve(address, &wish, true)?;
            }
        }
        Ok(buses)
    }

    fn place_all(&self, domain: &mut Domain, buses: &mut Buses) -> Result<(), Error> {
        let mut companions = Companions::of(&domain.devices);
        for device in order::placing(&domain.devices) {
            let Some(wish) = self.wish(device, domain) else {
                continue;
            };
            if device
                .info(&domain.devices)
                .is_none_or(|i| i.address.is_some())
            {
                continue;
            }
            let controller = match device {
                DeviceRef::Controller(i) => domain.devices.controllers.get(i),
                _ => None,
            };
            let found = controller.and_then(|c| Some((c.index, companions.of_bus(c)?)));
            let Some((index, (function, beside))) = found else {
                let address = buses.next(&wish, 0)?;
                self.store(device, domain, address, None);
                continue;
            };
            let address = place_companion(function, beside, &wish, buses)?;
            if !self.trial {
                companions.placed(index, address);
            }
            self.store(device, domain, address, (function == 0).then_some(true));
        }
        Ok(())
    }

    fn store(
        &self,
        device: DeviceRef,
        domain: &mut Domain,
        address: PciAddress,
        multifunction: Option<bool>,
    ) {
        if self.trial {
            return;
        }
        if let Some(info) = device.info_mut(&mut domain.devices) {
            info.address = Some(GuestAddress::Pci {
                address,
                multifunction,
            });
        }
    }

    fn wish(&self, device: DeviceRef, domain: &Domain) -> Option<Wish> {
        let wish = connect::wish(device, &domain.devices, self.is_express)?;
        Some(if self.express_root {
            wish
        } else {
            wish.on_conventional_buses()
        })
    }
}

/// The four controllers of one USB 2 bus share a slot.
fn place_companion(
    function: u8,
    beside: Option<PciAddress>,
    wish: &Wish,
    buses: &mut Buses,
) -> Result<PciAddress, Error> {
    let beside = beside
        .and_then(|other| PciAddress::new(other.domain(), other.bus(), other.slot(), function));
    match beside {
        Some(address) => {
            buses.reserve(address, wish, false)?;
            Ok(address)
        }
        None => buses.next(wish, function),
    }
}
