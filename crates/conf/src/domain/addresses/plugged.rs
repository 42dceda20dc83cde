//! The place of a device that is plugged into a running guest: on the buses that it has.

use super::buses::Buses;
use super::{DeviceRef, Pass};
use crate::domain::{Controller, Domain, GuestAddress};
use crate::{DeviceInfo, Error, ErrorKind, PciAddress};

impl Domain {
    /// Gives a device that is to be plugged into this running guest a place where that is possible, or
    /// checks the one that it has. No controller is added. Devices that sit on no PCI bus are left as
    /// they are, and so are those that the guest is not to see. `is_express`: as in
    /// [`Domain::assign_addresses`].
    ///
    /// # Errors
    /// There is no free place, the given one is another's, or nothing can be plugged in there.
    pub fn place_plugged(
        &mut self,
        device: DeviceRef,
        is_express: &dyn Fn(PciAddress) -> bool,
    ) -> Result<(), Error> {
        let controllers = &self.devices.controllers;
        let Some(root) = controllers.iter().find(|c| c.is_pci_root()) else {
            return Ok(());
        };
        let express_root = root.model.as_deref() == Some("pcie-root");
        let pass = Pass {
            is_express,
            express_root,
            trial: false,
        };
        let Some(wish) = pass.wish(device, self) else {
            return Ok(());
        };
        let info = device.info(&self.devices);
        if info.is_some_and(DeviceInfo::is_unassigned) {
            return Ok(());
        }
        let given = info.and_then(DeviceInfo::pci_address);
        if let Some(address) = given
            && address.function() != 0
        {
            let message = format!(
                "only function 0 of a slot can be plugged in, and the address is {address}"
            );
            return Err(Error::new(ErrorKind::Internal, message));
        }
        // With all others in their places; the given address is reserved here, too.
        let mut buses = pass.buses(self)?;
        pass.chipset(self, &mut buses)?;
        let address = match given {
            Some(address) => {
                let bus = u32::from(address.bus());
                if !takes_plugs(&self.devices.controllers, bus) {
                    let message = format!(
                        "nothing can be plugged in at {address}: the controller with \
                         index='{bus}' takes no devices while the guest runs"
                    );
                    let mut error = Error::new(ErrorKind::Internal, message);
                    error.advice = Some(HOW_TO_GET_A_PORT.to_owned());
                    return Err(error);
                }
                address
            }
            None => self.free_place(&mut buses, &wish)?,
        };
        if let Some(info) = device.info_mut(&mut self.devices)
            && info.pci_address().is_none()
        {
            info.address = Some(GuestAddress::Pci {
                address,
                multifunction: None,
            });
        }
        Ok(())
    }

    fn free_place(&self, buses: &mut Buses, wish: &super::Wish) -> Result<PciAddress, Error> {
        loop {
            // Each is taken as it is found, so this ends.
            let address = buses.next(wish, 0).map_err(|mut error| {
                error.kind = ErrorKind::Internal;
                error.message = "No more available PCI slots".to_owned();
                error.advice = Some(HOW_TO_GET_A_PORT.to_owned());
                error
            })?;
            if takes_plugs(&self.devices.controllers, u32::from(address.bus())) {
                return Ok(address);
            }
        }
    }
}

const HOW_TO_GET_A_PORT: &str = "Each free <controller type='pci' model='pcie-root-port'/> takes one \
     device; add some to the definition ('virsh edit') and start the guest anew.";

/// Whether devices come and go on that bus while the guest runs.
fn takes_plugs(controllers: &[Controller], bus: u32) -> bool {
    let mut pci = controllers.iter().filter(|c| c.kind == "pci");
    pci.find(|c| c.index == bus).is_some_and(|controller| {
        controller.target.hotplug != Some(false)
            && controller.model.as_deref() != Some("pcie-root")
            && controller.model.as_deref() != Some("dmi-to-pci-bridge")
    })
}
