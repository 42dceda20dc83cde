//! USB devices as documents name them.

use std::fmt;

use conf::{UsbAddress, UsbSource};
use host::{Host, HostError};

/// Why no USB device, or no single one, is meant.
#[derive(Debug, thiserror::Error)]
pub enum UsbError {
    /// There is none.
    #[error("there is no USB device {0}")]
    Missing(UsbName),
    /// There are several, of which the document's words say nothing more.
    #[error("{name} means {} USB devices: {}", .found.len(), listed(.found))]
    Several {
        /// As the document names it.
        name: UsbName,
        /// Which.
        found: Vec<UsbAddress>,
    },
    /// The host does not tell.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// How a document names a USB device, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsbName {
    ids: Option<(u16, u16)>,
    place: Option<(u32, u32)>,
}

/// Devices that are listed.
const MOST_LISTED: usize = 8;

fn listed(found: &[UsbAddress]) -> String {
    let listed = found.iter().take(MOST_LISTED).map(|address| {
        let (bus, device) = (address.bus(), address.device());
        format!(
            "bus {bus} device {device} (port {bus}-{})",
            address.devpath()
        )
    });
    let mut text = listed.collect::<Vec<_>>().join(", ");
    if found.len() > MOST_LISTED {
        text.push_str(", …");
    }
    text
}

impl From<&UsbSource> for UsbName {
    fn from(source: &UsbSource) -> Self {
        Self {
            ids: source.ids,
            place: source.place,
        }
    }
}

impl fmt::Display for UsbName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((vendor, product)) = self.ids {
            write!(f, "{vendor:04x}:{product:04x}")?;
        }
        match (self.ids, self.place) {
            (None, Some((bus, device))) => write!(f, "at bus {bus} device {device}"),
            (Some(_), Some((bus, device))) => write!(f, " at bus {bus} device {device}"),
            (_, None) => Ok(()),
        }
    }
}

impl UsbError {
    /// What a person can do about it, where there is something.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Missing(_) => Some("see which there are: lsusb".to_owned()),
            Self::Several { found, .. } => found.first().map(|first| {
                format!(
                    "say which in its <source>, for example <address bus='{}' device='{}'/>",
                    first.bus(),
                    first.device()
                )
            }),
            Self::Host(error) => error.advice(),
        }
    }
}

/// The one device that a document means: that at its place, if it names one, and it has to have the
/// ids, if it names these; else the only one with them. Asks the host; blocks.
///
/// # Errors
/// There is none, or more than one.
pub(crate) fn find_usb(host: &dyn Host, source: &UsbSource) -> Result<UsbAddress, UsbError> {
    let mut found = host.usb_devices()?;
    found.retain(|device| {
        let (bus, number) = (device.address.bus(), device.address.device());
        let ids = (source.ids).is_none_or(|ids| ids == (device.vendor, device.product));
        let place = source
            .place
            .is_none_or(|place| place == (u32::from(bus), u32::from(number)));
        ids && place
    });
    match &found[..] {
        [] => Err(UsbError::Missing(source.into())),
        [one] => Ok(one.address),
        _ => Err(UsbError::Several {
            name: source.into(),
            found: found.iter().map(|device| device.address).collect(),
        }),
    }
}
