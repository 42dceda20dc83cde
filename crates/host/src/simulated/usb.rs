//! USB devices of the simulated host.

use std::collections::BTreeMap;

use conf::UsbAddress;

use super::state::{State, Target};
use super::{Effect, SimulatedHost};
use crate::{HostError, HostEvent, NodeAccess, Operation, Usb, UsbDevice, UsbInterface};

/// As devtmpfs makes nodes of USB devices.
const FRESH: NodeAccess = NodeAccess {
    uid: 0,
    gid: 0,
    mode: 0o664,
};

/// What takes every interface.
const DRIVER: &str = "simusb";

/// The USB devices that there are.
#[derive(Debug, Default)]
pub(super) struct UsbPlugs {
    devices: BTreeMap<UsbAddress, (UsbDevice, NodeAccess)>,
    /// The last number of each bus.
    last: BTreeMap<u16, u8>,
}

impl UsbPlugs {
    /// Each device with what is not as it was when it was plugged in.
    pub(super) fn told(&self) -> BTreeMap<UsbAddress, (Vec<Option<String>>, NodeAccess)> {
        let devices = self.devices.iter();
        let told = devices.map(|(address, (device, access))| {
            let drivers = device.interfaces.iter().map(|one| one.driver.clone());
            (*address, (drivers.collect(), *access))
        });
        told.collect()
    }

    /// Whether there is a device of that number.
    pub(super) fn has(&self, bus: u32, device: u32) -> bool {
        let mut all = self.devices.keys();
        all.any(|one| (u32::from(one.bus()), u32::from(one.device())) == (bus, device))
    }
}

impl SimulatedHost {
    /// Plugs a USB device in, with one interface, which a driver takes; tells where. `None`: there is
    /// no such port, or something is plugged in there.
    pub fn add_usb(&self, bus: u16, devpath: &str, ids: (u16, u16)) -> Option<UsbAddress> {
        let mut state = self.lock();
        let number =
            (state.usb.last.get(&bus)).map_or(2, |last| if *last < 127 { last + 1 } else { 2 });
        let address = UsbAddress::new(bus, number, devpath)?;
        let at_port =
            |other: &UsbAddress| (other.bus(), other.devpath()) == (bus, address.devpath());
        if state.usb.devices.keys().any(at_port) {
            return None;
        }
        let device = UsbDevice {
            address,
            vendor: ids.0,
            product: ids.1,
            is_hub: false,
            interfaces: vec![UsbInterface {
                name: format!("{bus}-{devpath}:1.0"),
                driver: Some(DRIVER.to_owned()),
            }],
        };
        state.usb.last.insert(bus, number);
        state.usb.devices.insert(address, (device, FRESH));
        Some(address)
    }

    /// Makes a USB device a hub.
    pub fn make_usb_hub(&self, address: UsbAddress) {
        if let Some((device, _)) = self.lock().usb.devices.get_mut(&address) {
            device.is_hub = true;
        }
    }

    /// Pulls a USB device out.
    pub fn remove_usb(&self, address: UsbAddress) {
        let mut state = self.lock();
        if state.usb.devices.remove(&address).is_some() {
            state.watchers.send(&HostEvent::UsbRemoved(address));
        }
    }

    /// A process takes a USB device's interfaces from their drivers, and does not give them back:
    /// as a QEMU that is killed leaves it.
    pub fn take_usb_interfaces(&self, address: UsbAddress) {
        if let Some((device, _)) = self.lock().usb.devices.get_mut(&address) {
            for interface in &mut device.interfaces {
                interface.driver = None;
            }
        }
    }

    fn on_usb<T>(
        &self,
        operation: Operation,
        address: UsbAddress,
        carry_out: impl FnOnce(&mut State, UsbDevice, NodeAccess) -> Result<T, super::state::Stop>,
    ) -> Result<T, HostError> {
        self.call(operation, Target::Usb(address), |state, _| {
            match state.usb.devices.get(&address).cloned() {
                Some((device, access)) => carry_out(state, device, access),
                None => Err(HostError::NoUsbDevice(address.to_string()).into()),
            }
        })
    }
}

impl Usb for SimulatedHost {
    fn usb_devices(&self) -> Result<Vec<UsbDevice>, HostError> {
        self.call(Operation::ReadInventory, None, |state, _| {
            let devices = state.usb.devices.values();
            Ok(devices.map(|(device, _)| device.clone()).collect())
        })
    }

    fn usb_device(&self, address: UsbAddress) -> Result<UsbDevice, HostError> {
        self.on_usb(Operation::ReadInventory, address, |_, device, _| Ok(device))
    }

    fn usb_access(&self, address: UsbAddress) -> Result<NodeAccess, HostError> {
        self.on_usb(Operation::ReadInventory, address, |_, _, access| Ok(access))
    }

    fn set_usb_access(&self, address: UsbAddress, access: NodeAccess) -> Result<(), HostError> {
        self.on_usb(Operation::GrantUsb, address, |state, device, _| {
            state.usb.devices.insert(address, (device, access));
            state.effect(Effect::UsbAccess(address, access))
        })
    }

    fn probe_usb(&self, address: UsbAddress) -> Result<(), HostError> {
        self.on_usb(Operation::ProbeUsb, address, |state, mut device, access| {
            for interface in &mut device.interfaces {
                interface.driver.get_or_insert_with(|| DRIVER.to_owned());
            }
            state.usb.devices.insert(address, (device, access));
            state.effect(Effect::UsbProbed(address))
        })
    }
}
