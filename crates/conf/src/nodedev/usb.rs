//! `<capability type='usb_device'>` and `<capability type='usb'>`.

use super::child_number;
use crate::Error;
use crate::xml::{Base, Element, FromXml, Writer};

/// A USB device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsbDeviceCapability {
    /// The number of the bus that it is on.
    pub bus: u32,
    /// Its number on the bus.
    pub device: u32,
    /// What it is called.
    pub product: UsbName,
    /// Who made it.
    pub vendor: UsbName,
}

/// A number and a name, where the device tells them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsbName {
    /// The USB vendor or product number.
    pub id: Option<u16>,
    /// What the device says of itself.
    pub name: Option<String>,
}

/// An interface of a USB device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsbInterfaceCapability {
    /// Its number in its device.
    pub number: u32,
    /// USB's class.
    pub class: u32,
    /// USB's subclass.
    pub subclass: u32,
    /// USB's protocol.
    pub protocol: u32,
    /// What it calls itself.
    pub description: Option<String>,
}

impl FromXml for UsbDeviceCapability {
    fn from_xml(element: Element<'_>) -> Result<Self, Error> {
        Ok(Self {
            bus: child_number(element, "bus", u64::from(u32::MAX))?,
            device: child_number(element, "device", u64::from(u32::MAX))?,
            product: element.parse_child("product")?.unwrap_or_default(),
            vendor: element.parse_child("vendor")?.unwrap_or_default(),
        })
    }
}

impl FromXml for UsbName {
    fn from_xml(element: Element<'_>) -> Result<Self, Error> {
        let text = element.text();
        Ok(Self {
            id: element.number_in("id", Base::Any, 0xffff)?,
            name: (!text.is_empty()).then_some(text),
        })
    }
}

impl UsbName {
    fn write(&self, name: &str, w: &mut Writer) {
        if *self == Self::default() {
            return;
        }
        w.element_spaced(name, |w| {
            if let Some(id) = self.id {
                w.attribute("id", format_args!("0x{id:04x}"));
            }
            if let Some(name) = &self.name {
                w.text(name);
            }
        });
    }
}

impl UsbDeviceCapability {
    pub(super) fn write(&self, w: &mut Writer) {
        w.text_element("bus", self.bus);
        w.text_element("device", self.device);
        self.product.write("product", w);
        self.vendor.write("vendor", w);
    }
}

impl FromXml for UsbInterfaceCapability {
    fn from_xml(element: Element<'_>) -> Result<Self, Error> {
        let number = |name| child_number(element, name, u64::from(u32::MAX));
        Ok(Self {
            number: number("number")?,
            class: number("class")?,
            subclass: number("subclass")?,
            protocol: number("protocol")?,
            description: element.child_text("description"),
        })
    }
}

impl UsbInterfaceCapability {
    pub(super) fn write(&self, w: &mut Writer) {
        w.text_element("number", self.number);
        w.text_element("class", self.class);
        w.text_element("subclass", self.subclass);
        w.text_element("protocol", self.protocol);
        w.optional_text_element("description", self.description.as_deref());
    }
}
