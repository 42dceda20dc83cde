//! In which order devices are placed.

use std::collections::HashMap;

use crate::domain::{Controller, DeviceInfo, Devices};
use crate::{InterfaceSource, PciAddress};

/// One device of the guest, by its list in [`Devices`] and its position there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are the lists")]
pub enum DeviceRef {
    Controller(usize),
    Interface(usize),
    Disk(usize),
    Hostdev(usize),
    MemBalloon,
    Rng(usize),
    Serial(usize),
    Other(usize),
}

impl DeviceRef {
    /// Every device, in the order of the document; consoles, which have no place of their own, are left out.
    pub(in crate::domain) fn all(devices: &Devices) -> Vec<Self> {
        let mut all = all(devices);
        all.retain(|one| one.info(devices).is_some());
        all
    }

    /// What every device has.
    #[must_use]
    pub fn info(self, devices: &Devices) -> Option<&DeviceInfo> {
        Some(match self {
            Self::Controller(i) => &devices.controllers.get(i)?.info,
            Self::Interface(i) => &devices.interfaces.get(i)?.info,
            Self::Disk(i) => &devices.disks.get(i)?.info,
            Self::Hostdev(i) => &devices.hostdevs.get(i)?.info,
            Self::MemBalloon => &devices.memballoon.as_ref()?.info,
            Self::Rng(i) => &devices.rngs.get(i)?.info,
            Self::Serial(i) => &devices.serials.get(i)?.info,
            Self::Other(i) => &devices.others.get(i)?.info,
        })
    }

    /// The same, to be changed.
    pub fn info_mut(self, devices: &mut Devices) -> Option<&mut DeviceInfo> {
        Some(match self {
            Self::Controller(i) => &mut devices.controllers.get_mut(i)?.info,
            Self::Interface(i) => &mut devices.interfaces.get_mut(i)?.info,
            Self::Disk(i) => &mut devices.disks.get_mut(i)?.info,
            Self::Hostdev(i) => &mut devices.hostdevs.get_mut(i)?.info,
            Self::MemBalloon => &mut devices.memballoon.as_mut()?.info,
            Self::Rng(i) => &mut devices.rngs.get_mut(i)?.info,
            Self::Serial(i) => &mut devices.serials.get_mut(i)?.info,
            Self::Other(i) => &mut devices.others.get_mut(i)?.info,
        })
    }
}

/// All devices, in the order of the document.
pub(super) fn all(devices: &Devices) -> Vec<DeviceRef> {
    let mut all: Vec<_> = (0..devices.disks.len()).map(DeviceRef::Disk).collect();
    all.extend((0..devices.controllers.len()).map(DeviceRef::Controller));
    all.extend((0..devices.interfaces.len()).map(DeviceRef::Interface));
    all.extend((0..devices.serials.len()).map(DeviceRef::Serial));
    all.extend((0..devices.hostdevs.len()).map(DeviceRef::Hostdev));
    all.push(DeviceRef::MemBalloon);
    all.extend((0..devices.rngs.len()).map(DeviceRef::Rng));
    all.extend((0..devices.others.len()).map(DeviceRef::Other));
    all
}

/// All devices, in the order in which libvirt places them.
pub(super) fn placing(devices: &Devices) -> Vec<DeviceRef> {
    let controllers = |pci: bool| {
        let all = devices.controllers.iter().enumerate();
        all.filter(move |(_, c)| (c.kind == "pci") == pci)
            .map(|(i, _)| DeviceRef::Controller(i))
    };
    let others = |name: &'static str| {
        let all = devices.others.iter().enumerate();
        all.filter(move |(_, other)| other.name == name)
            .map(|(i, _)| DeviceRef::Other(i))
    };
    let interfaces = |hostdev: bool| {
        let all = devices.interfaces.iter().enumerate();
        all.filter(move |(_, interface)| {
            matches!(interface.source, InterfaceSource::Hostdev { .. }) == hostdev
        })
        .map(|(i, _)| DeviceRef::Interface(i))
    };
    let mut order: Vec<_> = controllers(true).collect();
    order.extend(others("filesystem"));
    order.extend(interfaces(false));
    order.extend(others("sound"));
    order.extend(controllers(false));
    order.extend((0..devices.disks.len()).map(DeviceRef::Disk));
    order.extend(interfaces(true));
    order.extend(hostdevs(devices));
    order.push(DeviceRef::MemBalloon);
    order.extend((0..devices.rngs.len()).map(DeviceRef::Rng));
    for name in ["rng", "watchdog", "video", "shmem", "input"] {
        order.extend(others(name));
    }
    order.extend((0..devices.serials.len()).map(DeviceRef::Serial));
    for name in ["iommu", "vsock", "memory", "crypto", "panic", "pstore"] {
        order.extend(others(name));
    }
    order
}

/// Modelled and other host devices, as they stand in the document.
fn hostdevs(devices: &Devices) -> Vec<DeviceRef> {
    let others = devices.others.iter().enumerate();
    let mut others = others
        .filter(|(_, other)| other.name == "hostdev")
        .peekable();
    let mut order = Vec::new();
    for position in 0..devices.hostdevs.len() {
        while let Some((i, _)) = others.next_if(|(_, other)| other.after <= position) {
            order.push(DeviceRef::Other(i));
        }
        order.push(DeviceRef::Hostdev(position));
    }
    order.extend(others.map(|(i, _)| DeviceRef::Other(i)));
    order
}

/// Where the controllers of each USB 2 bus have their slot, by the index that they share.
pub(super) struct Companions(HashMap<u32, PciAddress>);

impl Companions {
    /// Of those that have their place already, the first of each bus counts.
    pub(super) fn of(devices: &Devices) -> Self {
        let mut found = Self(HashMap::new());
        for controller in &devices.controllers {
            let model = controller.model.as_deref();
            if model.and_then(companion_function).is_some()
                && let Some(address) = controller.info.pci_address()
            {
                found.placed(controller.index, address);
            }
        }
        found
    }

    pub(super) fn placed(&mut self, index: u32, address: PciAddress) {
        self.0.entry(index).or_insert(address);
    }

    /// For a controller of such a bus: its function, and where another one is already.
    pub(super) fn of_bus(&self, controller: &Controller) -> Option<(u8, Option<PciAddress>)> {
        let function = companion_function(controller.model.as_deref()?)?;
        Some((function, self.0.get(&controller.index).copied()))
    }
}

/// The function that each controller of Intel's ICH9 has in its slot.
fn companion_function(model: &str) -> Option<u8> {
    match model {
        "ich9-ehci1" => Some(7),
        "ich9-uhci1" => Some(0),
        "ich9-uhci2" => Some(1),
        "ich9-uhci3" => Some(2),
        _ => None,
    }
}
