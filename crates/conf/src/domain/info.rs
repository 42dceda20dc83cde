//! What every device has: alias, boot order, option ROM and its place in the guest.

use super::Origin;
use crate::tree::Tree;
use crate::xml::{Base, Element, RawXml};
use crate::{Error, ErrorKind, Faults, PciAddress};

/// What every device has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceInfo {
    /// `<alias>`: in a definition only names with `ua-`; in a running guest always.
    pub alias: Option<String>,
    /// `<boot order=…>`, from 1.
    pub boot_order: Option<u32>,
    /// `<rom>`.
    pub rom: Option<Rom>,
    /// `<acpi index=…>`.
    pub acpi_index: Option<u32>,
    /// Where the guest sees it.
    pub address: Option<GuestAddress>,
}

/// `<rom>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rom {
    /// `rom/@enabled`.
    pub enabled: Option<bool>,
    /// `rom/@bar`.
    pub bar: Option<bool>,
    /// `rom/@file`.
    pub file: Option<String>,
}

/// `<address>` of a guest's device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestAddress {
    /// On a PCI bus of the guest.
    Pci {
        /// Domain, bus (the controller's index), slot, function.
        address: PciAddress,
        /// `multifunction`.
        multifunction: Option<bool>,
    },
    /// On a disk controller.
    Drive {
        /// The controller's index.
        controller: u32,
        /// The controller's bus: IDE has two, others one, 0.
        bus: u32,
        /// The SCSI target.
        target: u32,
        /// The drive on that bus or target.
        unit: u32,
    },
    /// On a USB bus.
    Usb {
        /// The controller's index.
        bus: u32,
        /// Port path, as `1.2`.
        port: Option<String>,
    },
    /// Not given to the guest (`type='unassigned'`).
    Unassigned,
    /// Any other kind, kept as it stands.
    Other(RawXml),
}

/// The longest alias, in bytes: QEMU says it in its events, twice.
const ALIAS_MAX: usize = 255;

/// Whether an alias is a user's own: `ua-`, then letters, digits, `_` and `-`.
pub(crate) fn is_user_alias(alias: &str) -> bool {
    alias.starts_with("ua-")
        && alias
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'-')
}

impl DeviceInfo {
    /// Where it is on the guest's PCI buses.
    #[must_use]
    pub fn pci_address(&self) -> Option<PciAddress> {
        match self.address {
            Some(GuestAddress::Pci { address, .. }) => Some(address),
            _ => None,
        }
    }

    /// Whether the host prepares it, and the guest does not see it.
    #[must_use]
    pub fn is_unassigned(&self) -> bool {
        matches!(self.address, Some(GuestAddress::Unassigned))
    }

    pub(crate) fn read(element: Element<'_>, origin: Origin) -> Result<Self, Error> {
        let alias = element.child("alias").and_then(|c| c.attribute("name"));
        let alias = alias.filter(|name| origin == Origin::Status || is_user_alias(name));
        let mut faults = Faults::default();
        if origin != Origin::Status && alias.is_some_and(|alias| alias.len() > ALIAS_MAX) {
            let message = format!("an alias has at most {ALIAS_MAX} characters");
            faults.push(element.error(ErrorKind::Xml, message));
        }
        let child = |name: &str| element.child(name);
        let info = Self {
            alias: alias.map(str::to_owned),
            boot_order: child("boot").and_then(|boot| faults.or_default(boot_order(boot))),
            rom: child("rom").and_then(|rom| faults.or_default(Rom::read(rom))),
            acpi_index: child("acpi")
                .and_then(|acpi| faults.or_default(acpi.number("index")))
                .filter(|&index| index != 0),
            address: child("address")
                .and_then(|address| faults.or_default(GuestAddress::read(address))),
        };
        faults.finish()?;
        Ok(info)
    }

    pub(crate) fn write<'a>(&'a self, tree: &mut Tree<'a>, hide_alias: bool) {
        if let Some(order) = self.boot_order {
            tree.child(Tree::new("boot").with("order", order));
        }
        if let Some(alias) = self.alias.as_ref().filter(|_| !hide_alias) {
            tree.child(Tree::new("alias").with("name", alias));
        }
        if let Some(rom) = &self.rom {
            let mut child = Tree::new("rom");
            child.yes_no("enabled", rom.enabled);
            child.on_off("bar", rom.bar);
            child.optional("file", rom.file.as_ref());
            tree.child(child);
        }
        if let Some(index) = self.acpi_index {
            tree.child(Tree::new("acpi").with("index", index));
        }
        if let Some(address) = &self.address {
            address.write(tree);
        }
    }
}

fn boot_order(boot: Element<'_>) -> Result<Option<u32>, Error> {
    match boot.number::<u32>("order")? {
        Some(0) => Err(boot.attribute_error(
            ErrorKind::Xml,
            "order",
            "incorrect boot order '0', expecting positive integer",
        )),
        Some(order) => Ok(Some(order)),
        None => Err(boot.missing(ErrorKind::Xml, "order")),
    }
}

impl Rom {
    fn read(element: Element<'_>) -> Result<Option<Self>, Error> {
        let rom = Self {
            enabled: element.yes_no("enabled")?,
            bar: element.on_off("bar")?,
            file: element.attribute_string("file"),
        };
        if rom.enabled == Some(false) && (rom.bar.is_some() || rom.file.is_some()) {
            return Err(element.error(
                ErrorKind::ConfigUnsupported,
                "ROM tuning is not supported when ROM is disabled",
            ));
        }
        Ok((rom != Self::default()).then_some(rom))
    }
}

impl GuestAddress {
    /// Reads `<address>`; none, if it asks for a PCI address and gives none.
    pub(crate) fn read(element: Element<'_>) -> Result<Option<Self>, Error> {
        let kind = element
            .attribute("type")
            .ok_or_else(|| element.error(ErrorKind::Xml, "No type specified for device address"))?;
        let number = |name| Ok(element.number::<u32>(name)?.unwrap_or(0));
        match kind {
            "pci" => {
                if element.child("zpci").is_some() {
                    return Err(element.error(
                        ErrorKind::ConfigUnsupported,
                        "This QEMU binary doesn't support zPCI",
                    ));
                }
                let address = pci_address(element)?;
                let multifunction = element.on_off("multifunction")?;
                let empty = address == PciAddress::default() && multifunction.is_none();
                Ok((!empty).then_some(Self::Pci {
                    address,
                    multifunction,
                }))
            }
            "drive" if element.attribute("diskbus").is_none() => Ok(Some(Self::Drive {
                controller: number("controller")?,
                bus: number("bus")?,
                target: number("target")?,
                unit: number("unit")?,
            })),
            "usb" => Ok(Some(Self::Usb {
                bus: number("bus")?,
                port: element.attribute_string("port"),
            })),
            "unassigned" => Ok(Some(Self::Unassigned)),
            "virtio-serial" | "ccid" | "isa" | "dimm" | "ccw" | "spapr-vio" | "virtio-mmio"
            | "virtio-s390" | "drive" => Ok(Some(Self::Other(element.raw()))),
            _ => Err(element.invalid(
                ErrorKind::Xml,
                "type",
                "pci, drive, usb, virtio-serial, ccid, isa, dimm, unassigned",
            )),
        }
    }

    fn write<'a>(&'a self, tree: &mut Tree<'a>) {
        let address = Tree::new("address");
        let address = match self {
            Self::Pci {
                address: pci,
                multifunction,
            } => {
                let mut address = pci_attributes(address.with("type", "pci"), *pci);
                address.on_off("multifunction", *multifunction);
                address
            }
            Self::Drive {
                controller,
                bus,
                target,
                unit,
            } => address
                .with("type", "drive")
                .with("controller", controller)
                .with("bus", bus)
                .with("target", target)
                .with("unit", unit),
            Self::Usb { bus, port } => {
                let mut address = address.with("type", "usb").with("bus", bus);
                address.optional("port", port.as_ref());
                address
            }
            Self::Unassigned => address.with("type", "unassigned"),
            Self::Other(raw) => {
                tree.raw(raw);
                return;
            }
        };
        tree.child(address);
    }
}

/// The four attributes of a PCI address.
pub(crate) fn pci_attributes(tree: Tree<'_>, address: PciAddress) -> Tree<'_> {
    tree.with("domain", format_args!("0x{:04x}", address.domain()))
        .with("bus", format_args!("0x{:02x}", address.bus()))
        .with("slot", format_args!("0x{:02x}", address.slot()))
        .with("function", format_args!("0x{:x}", address.function()))
}

/// A PCI address's four attributes, in any base; what is missing is 0.
pub(crate) fn pci_address(element: Element<'_>) -> Result<PciAddress, Error> {
    let number = |name: &str, max: u32, shown: &str| {
        let wide = element.number_in::<u32>(name, Base::Any, u64::from(u32::MAX))?;
        let value = wide.unwrap_or(0);
        if value > max {
            return Err(element.attribute_error(
                ErrorKind::Xml,
                name,
                format!("Invalid PCI address {name}='0x{value:x}', must be <= {shown}"),
            ));
        }
        Ok(value)
    };
    let domain = number("domain", 0xffff, "0xFFFF")?;
    let bus = number("bus", 0xff, "0xFF")?;
    let slot = number("slot", 0x1f, "0x1F")?;
    let function = number("function", 7, "7")?;
    let byte = |value: u32| u8::try_from(value).unwrap_or(u8::MAX);
    PciAddress::new(domain, byte(bus), byte(slot), byte(function))
        .ok_or_else(|| element.error(ErrorKind::Xml, "Invalid PCI address"))
}
