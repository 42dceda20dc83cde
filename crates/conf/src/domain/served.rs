//! Devices that are kept as they stand, and carried out all the same: a guest agent's channel, and
//! the inputs that management programs give every guest.

use super::{GuestAddress, OtherDevice};
use crate::xml::{Document, Element};
use crate::{Error, ErrorKind};

/// `<channel type='unix'>` with a virtio target: a socket of the host's that is a port in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixChannel {
    /// The port's name in the guest, as `org.qemu.guest_agent.0`.
    pub name: Option<String>,
    /// Where QEMU listens; none: a place of the daemon's choice.
    pub path: Option<String>,
    /// The virtio-serial controller's index.
    pub controller: u32,
    /// The port's number on it, from 1.
    pub port: u32,
}

/// `<input bus='usb'>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words are the document's")]
pub enum UsbInput {
    Tablet,
    Mouse,
    Keyboard,
}

/// What kind of input, or of a channel's end in the guest, is among those that there are.
pub(super) fn check_kind(device: Element<'_>) -> Result<(), Error> {
    let unsupported = ErrorKind::ConfigUnsupported;
    if device.is("channel")
        && let Some(target) = device.child("target")
    {
        return match target.attribute("type") {
            Some("virtio" | "guestfwd" | "xen") => Ok(()),
            Some(_) => Err(target.invalid(unsupported, "type", "virtio, guestfwd or xen")),
            None => Err(target.missing(unsupported, "type")),
        };
    }
    if device.is("input")
        && let Some(kind) = device.attribute("type")
        && !INPUTS.contains(&kind)
    {
        return Err(device.invalid(unsupported, "type", INPUTS.join(", ")));
    }
    Ok(())
}

/// What libvirt calls inputs.
const INPUTS: [&str; 5] = ["mouse", "tablet", "keyboard", "passthrough", "evdev"];

impl OtherDevice {
    /// Whether it is carried out, though nothing of it is modelled.
    #[must_use]
    pub fn is_served(&self) -> bool {
        self.is_unix_channel() || self.usb_input().is_some()
    }

    /// The channel that it is, once it has its place on a controller.
    #[must_use]
    pub fn unix_channel(&self) -> Option<UnixChannel> {
        if !self.is_unix_channel() {
            return None;
        }
        let Some(GuestAddress::Other(address)) = &self.info.address else {
            return None;
        };
        let document = Document::parse(address.as_str()).ok()?;
        let address = document.root();
        if address.attribute("type") != Some("virtio-serial") {
            return None;
        }
        let number = |name: &str| address.number::<u32>(name).ok().flatten();
        let path = self.child_attribute("source", "path");
        Some(UnixChannel {
            name: self.child_attribute("target", "name"),
            path: path.filter(|path| !path.is_empty()),
            controller: number("controller").unwrap_or(0),
            port: number("port")?,
        })
    }

    fn is_unix_channel(&self) -> bool {
        let known = |name: &str| ["source", "target"].contains(&name);
        let mode = self.child_attribute("source", "mode");
        self.name == "channel"
            && self.attribute("type") == Some("unix")
            && self.children.iter().all(|child| known(child.name()))
            && matches!(mode.as_deref(), None | Some("bind"))
            && self.child_attribute("target", "type").as_deref() == Some("virtio")
    }

    /// The USB input that it is.
    #[must_use]
    pub fn usb_input(&self) -> Option<UsbInput> {
        if self.name != "input" || self.attribute("bus") != Some("usb") || !self.children.is_empty()
        {
            return None;
        }
        Some(match self.attribute("type")? {
            "tablet" => UsbInput::Tablet,
            "mouse" => UsbInput::Mouse,
            "keyboard" => UsbInput::Keyboard,
            _ => return None,
        })
    }
}
