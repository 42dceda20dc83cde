//! What a host's device is known by.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{ParsePciAddressError, PciAddress, UsbAddress};

/// The longest name of a network device, bytes: `IFNAMSIZ` of the kernel's `if.h`, less its NUL.
const LONGEST: usize = 15;

/// A name that a network device can have: 1 to 15 bytes, none of them a slash, a colon, blank or a
/// control character, and neither `.` nor `..` (`dev_valid_name` of the kernel's `net/core/dev.c`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetdevName {
    /// Padded with NULs, so that the order is that of the texts.
    bytes: [u8; LONGEST],
}

/// A text that no network device can be called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' can't be the name of a network device: 1 to 15 bytes, no slash, colon or blank")]
pub struct NetdevNameError(String);

/// A device of the host that can be given to a guest: the same one, however a document names it.
///
/// A network device that is all that a PCI function offers (a VF's, most NICs') is known by the
/// function's address; others (bonds, VLANs, veths) by their name. A USB device is known by where it
/// is plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceId {
    /// A PCI function.
    Pci(PciAddress),
    /// A network device without one.
    Netdev(NetdevName),
    /// A USB device.
    Usb(UsbAddress),
}

impl NetdevName {
    /// The name as the kernel has it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let length = (self.bytes.iter())
            .position(|byte| *byte == 0)
            .unwrap_or(LONGEST);
        // It was made of a whole text.
        std::str::from_utf8(&self.bytes[..length]).unwrap_or_default()
    }
}

impl FromStr for NetdevName {
    type Err = NetdevNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let is_odd = |c: char| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control();
        if name.is_empty()
            || name.len() > LONGEST
            || matches!(name, "." | "..")
            || name.contains(is_odd)
        {
            return Err(NetdevNameError(name.chars().take(32).collect()));
        }
        let mut bytes = [0; LONGEST];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Ok(Self { bytes })
    }
}

impl TryFrom<String> for NetdevName {
    type Error = NetdevNameError;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        name.parse()
    }
}

impl From<NetdevName> for String {
    fn from(name: NetdevName) -> Self {
        name.as_str().to_owned()
    }
}

impl fmt::Display for NetdevName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for NetdevName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl DeviceId {
    /// The PCI function, if it is one.
    #[must_use]
    pub fn pci(self) -> Option<PciAddress> {
        match self {
            Self::Pci(address) => Some(address),
            Self::Netdev(_) | Self::Usb(_) => None,
        }
    }

    /// The USB device, if it is one.
    #[must_use]
    pub fn usb(self) -> Option<UsbAddress> {
        match self {
            Self::Usb(address) => Some(address),
            Self::Pci(_) | Self::Netdev(_) => None,
        }
    }
}

impl From<PciAddress> for DeviceId {
    fn from(address: PciAddress) -> Self {
        Self::Pci(address)
    }
}

impl From<NetdevName> for DeviceId {
    fn from(name: NetdevName) -> Self {
        Self::Netdev(name)
    }
}

impl From<UsbAddress> for DeviceId {
    fn from(address: UsbAddress) -> Self {
        Self::Usb(address)
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(address) => address.fmt(f),
            Self::Netdev(name) => name.fmt(f),
            Self::Usb(address) => address.fmt(f),
        }
    }
}

/// As it is displayed: neither a PCI nor a USB address can be a network device's name, since that has
/// no colon.
impl FromStr for DeviceId {
    type Err = NetdevNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Usb(address));
        }
        let address: Result<PciAddress, ParsePciAddressError> = text.parse();
        address.map_or_else(
            |_| text.parse().map(Self::Netdev),
            |address| Ok(address.into()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_kernels() {
        for name in ["a", "enp65s0f0np0v1", "123456789012345", "br-lan.10", "ü"] {
            assert_eq!(name.parse::<NetdevName>().unwrap().as_str(), name);
        }
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a:b",
            "a b",
            "a\n",
            "a\0",
            "1234567890123456",
        ] {
            assert!(name.parse::<NetdevName>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_device_reads_as_it_writes() {
        for text in ["0000:03:10.1", "bond0", "usb:1:5@1.4"] {
            assert_eq!(text.parse::<DeviceId>().unwrap().to_string(), text);
        }
        for text in ["0000:03:10.9", "usb:1:5@0", "usb:1:5"] {
            assert!(text.parse::<DeviceId>().is_err(), "{text}");
        }
    }
}
