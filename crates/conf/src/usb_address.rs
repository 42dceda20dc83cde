//! Where a USB device of the host is plugged in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Ports on the way to a device, at most: hubs are stacked no deeper (`MAX_TOPO_LEVEL` of the kernel's
/// `drivers/usb/core/hub.c`).
const MOST_PORTS: usize = 6;

/// A USB device of the host, as it is plugged in now: its bus, its number there, which it loses when
/// it is plugged in anew or starts over, and its port, which it then has again. No two devices have
/// all of that in common until 127 others came to the bus.
///
/// Written `usb:1:5@1.4`: number 5 of bus 1, in port 4 of the hub in port 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UsbAddress {
    bus: u16,
    device: u8,
    /// Padded with zeroes, which no port has.
    ports: [u8; MOST_PORTS],
}

/// A text that is no USB address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no USB device of the form usb:1:5@1.4")]
pub struct UsbAddressError(String);

impl UsbAddress {
    /// A device by its bus (1 to 999, as in `/dev/bus/usb`), its number there (1 to 127), and the
    /// ports on the way to it, from the bus on, as sysfs has them in `devpath`: `1.4`. `None`: there
    /// can be no such device; a bus' own hub is none.
    #[must_use]
    pub fn new(bus: u16, device: u8, devpath: &str) -> Option<Self> {
        if !(1..=999).contains(&bus) || !(1..=127).contains(&device) {
            return None;
        }
        let mut ports = [0; MOST_PORTS];
        let mut places = ports.iter_mut();
        for port in devpath.split('.') {
            // One text for one device.
            if port.starts_with(['0', '+']) {
                return None;
            }
            *places.next()? = port.parse().ok().filter(|port| *port > 0)?;
        }
        Some(Self { bus, device, ports })
    }

    /// Its bus.
    #[must_use]
    pub fn bus(self) -> u16 {
        self.bus
    }

    /// Its number on the bus.
    #[must_use]
    pub fn device(self) -> u8 {
        self.device
    }

    /// The ports on the way to it, from the bus on: `1.4`.
    #[must_use]
    pub fn devpath(self) -> String {
        let ports = self.ports.iter().take_while(|port| **port > 0);
        let ports: Vec<_> = ports.map(u8::to_string).collect();
        ports.join(".")
    }
}

impl fmt::Display for UsbAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "usb:{}:{}@{}", self.bus, self.device, self.devpath())
    }
}

impl fmt::Debug for UsbAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for UsbAddress {
    type Err = UsbAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = || {
            let (numbers, devpath) = text.strip_prefix("usb:")?.split_once('@')?;
            let (bus, device) = numbers.split_once(':')?;
            let address = Self::new(bus.parse().ok()?, device.parse().ok()?, devpath)?;
            (address.to_string() == text).then_some(address)
        };
        read().ok_or_else(|| UsbAddressError(text.chars().take(32).collect()))
    }
}

impl TryFrom<String> for UsbAddress {
    type Error = UsbAddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<UsbAddress> for String {
    fn from(address: UsbAddress) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_as_it_writes() {
        for text in ["usb:1:5@1", "usb:12:127@1.4", "usb:999:1@15.2.3.4.5.6"] {
            assert_eq!(text.parse::<UsbAddress>().unwrap().to_string(), text);
        }
        let address: UsbAddress = "usb:1:5@1.4".parse().unwrap();
        assert_eq!(
            (address.bus(), address.device(), &*address.devpath()),
            (1, 5, "1.4")
        );
        for text in [
            "",
            "usb:1:5",
            "usb:0:5@1",
            "usb:1000:5@1",
            "usb:1:128@1",
            "usb:1:0@1",
            "usb:1:5@0",
            "usb:1:5@",
            "usb:1:5@1.",
            "usb:01:5@1",
            "usb:1:5@1.+4",
            "usb:1:5@256",
            "usb:1:5@1.2.3.4.5.6.7",
        ] {
            assert!(text.parse::<UsbAddress>().is_err(), "{text}");
        }
    }
}
