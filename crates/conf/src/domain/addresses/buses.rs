//! The PCI buses of a guest and what sits on them.

use super::connect::{Connect, Wish};
use crate::domain::Controller;
use crate::{Error, ErrorKind, PciAddress};

/// PCI buses, by their controllers' index.
pub(super) struct Buses {
    buses: Vec<Bus>,
    express_root: bool,
    /// Buses that lack are made.
    growing: bool,
}

/// What a bus belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Model {
    PciRoot,
    PcieRoot,
    PciBridge,
    DmiToPciBridge,
    PcieToPciBridge,
    RootPort,
    SwitchUpstream,
    SwitchDownstream,
    PciExpander,
    PcieExpander,
}

struct Bus {
    model: Model,
    /// Bits of [`Connect`].
    accepts: u16,
    /// Devices are placed here of their own accord.
    automatic: bool,
    first: u8,
    last: u8,
    /// For each slot, a bit for each function in use.
    slots: [u8; 32],
    /// No slot below this one is free: none is ever freed.
    search_from: u8,
    /// For each slot, whether it is shared by devices that say they can.
    shared: [bool; 32],
}

impl Model {
    const ALL: [Self; 10] = [
        Self::PciRoot,
        Self::PcieRoot,
        Self::PciBridge,
        Self::DmiToPciBridge,
        Self::PcieToPciBridge,
        Self::RootPort,
        Self::SwitchUpstream,
        Self::SwitchDownstream,
        Self::PciExpander,
        Self::PcieExpander,
    ];

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|model| model.name() == name)
    }

    /// `controller/@model`.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::PciRoot => "pci-root",
            Self::PcieRoot => "pcie-root",
            Self::PciBridge => "pci-bridge",
            Self::DmiToPciBridge => "dmi-to-pci-bridge",
            Self::PcieToPciBridge => "pcie-to-pci-bridge",
            Self::RootPort => "pcie-root-port",
            Self::SwitchUpstream => "pcie-switch-upstream-port",
            Self::SwitchDownstream => "pcie-switch-downstream-port",
            Self::PciExpander => "pci-expander-bus",
            Self::PcieExpander => "pcie-expander-bus",
        }
    }

    /// `<model name=…>`: QEMU's device.
    pub(super) fn device_name(self) -> Option<&'static str> {
        crate::domain::defaults::pci_device_name(self.name())
    }

    fn bus(self) -> Bus {
        use Connect as C;
        let (accepts, automatic, first, last): (&[Connect], bool, u8, u8) = match self {
            Self::PciRoot => (&[C::PciDevice, C::PciBridge, C::PciExpander], true, 1, 31),
            Self::PciBridge => (&[C::PciDevice, C::PciBridge], true, 1, 31),
            Self::PcieToPciBridge => (&[C::PciDevice, C::PciBridge], true, 1, 31),
            Self::PciExpander => (&[C::PciDevice, C::PciBridge], true, 0, 31),
            Self::PcieRoot => (
                &[
                    C::PcieDevice,
                    C::RootPort,
                    C::DmiToPciBridge,
                    C::PcieExpander,
                ],
                false,
                1,
                31,
            ),
            Self::DmiToPciBridge => (&[C::PciDevice, C::PciBridge], false, 0, 31),
            Self::RootPort | Self::SwitchDownstream => (
                &[C::PcieDevice, C::SwitchUpstream, C::PcieToPciBridge],
                true,
                0,
                0,
            ),
            Self::SwitchUpstream => (&[C::SwitchDownstream], false, 0, 31),
            Self::PcieExpander => (&[C::RootPort, C::DmiToPciBridge], false, 0, 31),
        };
        Bus {
            model: self,
            accepts: accepts.iter().fold(0, |all, connect| all | connect.bit()),
            automatic,
            first,
            last,
            slots: [0; 32],
            search_from: first,
            shared: [false; 32],
        }
    }
}

impl Buses {
    /// The buses of these controllers. An index between them that has none gets the plainest.
    pub(super) fn new(
        controllers: &[Controller],
        express_root: bool,
        growing: bool,
    ) -> Result<Self, Error> {
        let pci = controllers.iter().filter(|c| c.kind == "pci");
        let last = pci.clone().map(|c| c.index).max().unwrap_or(0);
        let filler = if express_root {
            Model::RootPort
        } else {
            Model::PciBridge
        };
        // Indexes beyond 255 were refused: no address could name their bus.
        let count = usize::try_from(last.min(255)).unwrap_or(255) + 1;
        let mut buses: Vec<_> = (0..count).map(|_| filler.bus()).collect();
        for controller in pci {
            let model = controller.model.as_deref().and_then(Model::named);
            let slot = usize::try_from(controller.index).ok();
            let slot = slot.and_then(|index| buses.get_mut(index));
            let (Some(model), Some(bus)) = (model, slot) else {
                return Err(Error::new(
                    ErrorKind::Internal,
                    format!(
                        "PCI controller with index='{}' has no known model, or an index above 255",
                        controller.index
                    ),
                ));
            };
            *bus = model.bus();
        }
        Ok(Self {
            buses,
            express_root,
            growing,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.buses.len()
    }

    pub(super) fn model(&self, bus: usize) -> Option<Model> {
        self.buses.get(bus).map(|bus| bus.model)
    }

    /// Whether every slot of every bus is taken.
    pub(super) fn all_full(&self) -> bool {
        let full = |bus: &Bus| (bus.first..=bus.last).all(|slot| bus.functions(slot) != 0);
        self.buses.iter().all(full)
    }

    pub(super) fn slot_in_use(&self, bus: u8, slot: u8) -> bool {
        let bus = self.buses.get(usize::from(bus));
        bus.is_some_and(|bus| bus.functions(slot) != 0)
    }

    /// Whether its slot has other functions in use.
    pub(super) fn has_further_functions(&self, address: PciAddress) -> bool {
        let bus = self.buses.get(usize::from(address.bus()));
        bus.is_some_and(|bus| bus.functions(address.slot()) > 1)
    }

    /// Takes an address. One from the document may put PCI devices into PCI Express slots and the
    /// other way round.
    pub(super) fn reserve(
        &mut self,
        address: PciAddress,
        wish: &Wish,
        from_document: bool,
    ) -> Result<(), Error> {
        let kind = if from_document {
            ErrorKind::Xml
        } else {
            ErrorKind::Internal
        };
        let invalid = |message: String| {
            let message = format!("Invalid PCI address {address}. {message}");
            Err(Error::new(kind, message))
        };
        if address.domain() != 0 {
            return invalid("Only PCI domain 0 is available".to_owned());
        }
        let index = usize::from(address.bus());
        if index >= self.buses.len() && self.growing {
            self.grow_to(index, wish)?;
        }
        let count = self.buses.len();
        let Some(bus) = self.buses.get_mut(index) else {
            return invalid(format!("Only PCI buses up to {} are available", count - 1));
        };
        let endpoints = Connect::PciDevice.bit() | Connect::PcieDevice.bit();
        let (mut accepts, mut wanted) = (bus.accepts, wish.connect.bit());
        if from_document {
            if accepts & endpoints != 0 {
                accepts |= endpoints;
            }
            if wish.connect == Connect::PciBridge {
                wanted |= Connect::PciDevice.bit();
            }
        }
        if accepts & wanted == 0 {
            return Err(Error::new(
                kind,
                format!(
                    "The device at PCI address {address} cannot be plugged into the PCI controller \
                     with index='{index}'. It requires a controller that accepts a {}.",
                    wish.connect.description()
                ),
            ));
        }
        if address.slot() < bus.first {
            return invalid(format!("slot must be >= {}", bus.first));
        }
        if address.slot() > bus.last {
            return invalid(format!("slot must be <= {}", bus.last));
        }
        if !bus.take(address.slot(), address.function(), wish.aggregate) {
            return Err(Error::new(
                kind,
                format!("Attempted double use of PCI Address {address}"),
            ));
        }
        Ok(())
    }

    /// Takes the first place that fits; where several share a slot, its next function.
    pub(super) fn next(&mut self, wish: &Wish, function: u8) -> Result<PciAddress, Error> {
        for index in 0..self.buses.len() {
            if let Some(address) = self.next_on(index, wish, function) {
                return Ok(address);
            }
        }
        if !self.growing {
            return Err(Error::new(
                ErrorKind::Internal,
                "No more available PCI slots",
            ));
        }
        let made = self.grow(wish)?;
        self.next_on(made, wish, function)
            .ok_or_else(|| no_bus_for(wish))
    }

    fn next_on(&mut self, index: usize, wish: &Wish, function: u8) -> Option<PciAddress> {
        let bus = self.buses.get_mut(index)?;
        if bus.accepts & wish.connect.bit() == 0 || (wish.automatic && !bus.automatic) {
            return None;
        }
        let number = u8::try_from(index).ok()?;
        let first = if wish.aggregate {
            bus.first
        } else {
            bus.first_free()
        };
        for slot in first..=bus.last {
            let used = bus.functions(slot);
            let free = if used == 0 {
                Some(function)
            } else if wish.aggregate && bus.is_shared(slot) {
                (0..8).find(|function| used & (1 << function) == 0)
            } else {
                None
            };
            if let Some(function) = free {
                bus.take(slot, function, wish.aggregate);
                return PciAddress::new(0, number, slot, function);
            }
        }
        None
    }

    /// Makes the bus that such a device goes to; its index.
    fn grow(&mut self, wish: &Wish) -> Result<usize, Error> {
        if wish.connect == Connect::PciDevice && self.lacks_conventional_bus() {
            // A conventional bus hangs on a bridge, and the bridge on a port of its own.
            self.push(Model::RootPort)?;
            return self.push(Model::PcieToPciBridge);
        }
        let model = self.model_for(wish)?;
        self.push(model)
    }

    /// Makes all buses up to one that the document names.
    fn grow_to(&mut self, index: usize, wish: &Wish) -> Result<(), Error> {
        if wish.connect == Connect::PciDevice && self.lacks_conventional_bus() {
            if self.buses.len() < index {
                self.push(Model::RootPort)?;
            }
            self.push(Model::PcieToPciBridge)?;
        }
        let model = self.model_for(wish)?;
        while self.buses.len() <= index {
            self.push(model)?;
        }
        Ok(())
    }

    fn lacks_conventional_bus(&self) -> bool {
        let bridge = Connect::PciBridge.bit();
        self.express_root && self.buses.iter().all(|bus| bus.accepts & bridge == 0)
    }

    fn push(&mut self, model: Model) -> Result<usize, Error> {
        if self.buses.len() > usize::from(u8::MAX) {
            return Err(Error::new(
                ErrorKind::Internal,
                "the guest would need more than 256 PCI buses",
            ));
        }
        self.buses.push(model.bus());
        Ok(self.buses.len() - 1)
    }

    fn model_for(&self, wish: &Wish) -> Result<Model, Error> {
        match wish.connect {
            Connect::PciDevice | Connect::PciBridge => Ok(Model::PciBridge),
            Connect::PcieDevice | Connect::SwitchUpstream | Connect::PcieToPciBridge
                if self.express_root =>
            {
                Ok(Model::RootPort)
            }
            _ => Err(no_bus_for(wish)),
        }
    }
}

fn no_bus_for(wish: &Wish) -> Error {
    let what = match wish.connect {
        Connect::PciDevice | Connect::PcieDevice => {
            format!("a {}", wish.connect.description())
        }
        controller => format!("a PCI controller model='{}'", controller.description()),
    };
    Error::new(
        ErrorKind::Internal,
        format!(
            "a PCI slot is needed to connect {what}, but none is available, and it cannot be \
             automatically added"
        ),
    )
}

impl Bus {
    fn functions(&self, slot: u8) -> u8 {
        self.slots.get(usize::from(slot)).copied().unwrap_or(0xff)
    }

    /// The first slot without any function in use, or the one after the last.
    fn first_free(&mut self) -> u8 {
        while self.search_from <= self.last && self.functions(self.search_from) != 0 {
            self.search_from += 1;
        }
        self.search_from
    }

    fn is_shared(&self, slot: u8) -> bool {
        let shared = self.shared.get(usize::from(slot));
        shared.copied().unwrap_or(false)
    }

    /// Whether it was free.
    fn take(&mut self, slot: u8, function: u8, shares: bool) -> bool {
        let slot = usize::from(slot);
        let (Some(used), Some(shared)) = (self.slots.get_mut(slot), self.shared.get_mut(slot))
        else {
            return false;
        };
        if *used & (1 << function) != 0 {
            return false;
        }
        if *used == 0 {
            *shared = shares;
        }
        *used |= 1 << function;
        true
    }
}
