//! MAC addresses.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An Ethernet address. Displayed in lower case, two digits a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress([u8; 6]);

/// A text that is no MAC address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no MAC address of the form 52:54:00:12:34:56")]
pub struct ParseMacAddressError(pub String);

impl MacAddress {
    /// All zeroes: "none set" to the kernel.
    pub const ZERO: Self = Self([0; 6]);

    /// From its six bytes, the first on the wire first.
    #[must_use]
    pub const fn new(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }

    /// The six bytes, the first on the wire first.
    #[must_use]
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }

    /// Group addresses (IEEE 802: the lowest bit of the first byte) can't belong to a device.
    #[must_use]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// Whether nothing is set.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self == Self::ZERO
    }

    /// A random address with the prefix that QEMU's guests use, 52:54:00.
    #[must_use]
    pub fn random() -> Self {
        let random = uuid::Uuid::new_v4().into_bytes();
        Self([0x52, 0x54, 0x00, random[0], random[1], random[2]])
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = ParseMacAddressError;

    /// Six groups of one or two hex digits with colons, as libvirt reads them.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| ParseMacAddressError(text.chars().take(32).collect()))
    }
}

impl TryFrom<String> for MacAddress {
    type Error = ParseMacAddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> Self {
        mac.to_string()
    }
}

fn parse(text: &str) -> Option<MacAddress> {
    let mut bytes = [0; 6];
    let mut groups = text.split(':');
    for byte in &mut bytes {
        let group = groups.next()?;
        let plain = matches!(group.len(), 1 | 2) && group.bytes().all(|b| b.is_ascii_hexdigit());
        *byte = plain
            .then(|| u8::from_str_radix(group, 16).ok())
            .flatten()?;
    }
    groups.next().is_none().then_some(MacAddress(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_groups_are_filled() {
        let mac: MacAddress = "52:54:0:A:bb:1".parse().unwrap();
        assert_eq!(mac.to_string(), "52:54:00:0a:bb:01");
    }

    #[test]
    fn refuses_what_is_no_mac() {
        for text in [
            "",
            "52:54:00:00:00",
            "52:54:00:00:00:00:00",
            "52:54:00:00:00:g0",
            "+1:2:3:4:5:6",
        ] {
            assert!(text.parse::<MacAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_random_address_is_a_guests() {
        let mac = MacAddress::random();
        assert!(!mac.is_multicast() && mac.to_string().starts_with("52:54:00:"));
    }
}
