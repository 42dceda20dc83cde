//! PCI addresses.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::xml::{Base, Element, FromXml, Writer};
use crate::{Error, Faults};

/// Where a PCI function sits, on the host or in a guest.
///
/// Displayed as the kernel writes it, `0000:03:10.1`. Ranges are the kernel's: bus 0–255, slot
/// 0–31, function 0–7; a domain may exceed 16 bits (VMD).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    slot: u8,
    function: u8,
}

/// A text that is no PCI address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no PCI address of the form 0000:03:10.1")]
pub struct ParsePciAddressError(pub String);

impl PciAddress {
    /// An address, if slot and function are within their ranges.
    #[must_use]
    pub const fn new(domain: u32, bus: u8, slot: u8, function: u8) -> Option<Self> {
        if slot > 0x1f || function > 7 {
            return None;
        }
        Some(Self {
            domain,
            bus,
            slot,
            function,
        })
    }

    /// PCI domain (segment).
    #[must_use]
    pub const fn domain(self) -> u32 {
        self.domain
    }

    /// Bus within the domain.
    #[must_use]
    pub const fn bus(self) -> u8 {
        self.bus
    }

    /// Slot (device) on the bus, 0–31.
    #[must_use]
    pub const fn slot(self) -> u8 {
        self.slot
    }

    /// Function of the device, 0–7.
    #[must_use]
    pub const fn function(self) -> u8 {
        self.function
    }

    /// Writes `domain`, `bus`, `slot` and `function` on the element that was opened last.
    pub fn write_attributes(self, writer: &mut Writer) {
        writer.attribute("domain", format_args!("0x{:04x}", self.domain));
        writer.attribute("bus", format_args!("0x{:02x}", self.bus));
        writer.attribute("slot", format_args!("0x{:02x}", self.slot));
        writer.attribute("function", format_args!("0x{:x}", self.function));
    }

    /// libvirt's node device name, `pci_0000_03_10_1`.
    #[must_use]
    pub fn node_device_name(self) -> String {
        format!(
            "pci_{:04x}_{:02x}_{:02x}_{:x}",
            self.domain, self.bus, self.slot, self.function
        )
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:04x}:{:02x}:{:02x}.{:x}",
            self.domain, self.bus, self.slot, self.function
        )
    }
}

impl FromStr for PciAddress {
    type Err = ParsePciAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| ParsePciAddressError(text.chars().take(32).collect()))
    }
}

impl TryFrom<String> for PciAddress {
    type Error = ParsePciAddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<PciAddress> for String {
    fn from(address: PciAddress) -> Self {
        address.to_string()
    }
}

impl FromXml for PciAddress {
    /// Reads the four attributes, in any base; those that are missing are 0.
    fn from_xml(element: Element<'_>) -> Result<Self, Error> {
        let mut faults = Faults::default();
        let domain = element.number_in("domain", Base::Any, u64::from(u32::MAX));
        let domain = faults.or_default(domain).unwrap_or(0);
        let mut number = |name, max| {
            let number = faults.or_default(element.number_in(name, Base::Any, max));
            number.unwrap_or(0)
        };
        let (bus, slot, function) = (
            number("bus", 0xff),
            number("slot", 0x1f),
            number("function", 7),
        );
        faults.finish()?;
        Ok(Self {
            domain,
            bus,
            slot,
            function,
        })
    }
}

fn parse(text: &str) -> Option<PciAddress> {
    let (domain, rest) = text.split_once(':')?;
    let (bus, rest) = rest.split_once(':')?;
    let (slot, function) = rest.split_once('.')?;
    let plain = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_hexdigit());
    if ![domain, bus, slot, function].into_iter().all(plain) {
        return None;
    }
    PciAddress::new(
        u32::from_str_radix(domain, 16).ok()?,
        u8::from_str_radix(bus, 16).ok()?,
        u8::from_str_radix(slot, 16).ok()?,
        u8::from_str_radix(function, 16).ok()?,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_the_kernels_form() {
        let address: PciAddress = "0000:03:10.7".parse().unwrap();
        assert_eq!(address, PciAddress::new(0, 3, 0x10, 7).unwrap());
        assert_eq!(address.to_string(), "0000:03:10.7");
        assert_eq!(address.node_device_name(), "pci_0000_03_10_7");
    }

    #[test]
    fn refuses_what_is_no_address() {
        for text in [
            "",
            "03:10.7",
            "0000:03:20.0",
            "0000:03:10.8",
            "0000:+3:10.0",
            "0:0:0.0.0",
        ] {
            assert!(text.parse::<PciAddress>().is_err(), "{text}");
        }
    }
}
