//! `<capability type='system'>`: the host itself.

use uuid::Uuid;

use crate::Error;
use crate::xml::{Element, FromXml, Writer};

/// The host, as its firmware describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SystemCapability {
    /// The model's name.
    pub product: Option<String>,
    /// Who made the machine, and which one it is.
    pub hardware: SystemHardware,
    /// What it boots from.
    pub firmware: SystemFirmware,
}

/// `<hardware>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words are the document's")]
pub struct SystemHardware {
    pub vendor: Option<String>,
    pub version: Option<String>,
    pub serial: Option<String>,
    /// All zeroes where it is not known.
    pub uuid: Uuid,
}

/// `<firmware>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words are the document's")]
pub struct SystemFirmware {
    pub vendor: Option<String>,
    pub version: Option<String>,
    pub release_date: Option<String>,
}

impl FromXml for SystemCapability {
    fn from_xml(element: Element<'_>) -> Result<Self, Error> {
        let text = |parent: &str, name: &str| element.child(parent)?.child_text(name);
        Ok(Self {
            product: element.child_text("product"),
            hardware: SystemHardware {
                vendor: text("hardware", "vendor"),
                version: text("hardware", "version"),
                serial: text("hardware", "serial"),
                // Some firmware has sixteen equal bytes here, which is no identity and no fault.
                uuid: text("hardware", "uuid")
                    .and_then(|uuid| Uuid::parse_str(uuid.trim()).ok())
                    .unwrap_or_default(),
            },
            firmware: SystemFirmware {
                vendor: text("firmware", "vendor"),
                version: text("firmware", "version"),
                release_date: text("firmware", "release_date"),
            },
        })
    }
}

impl SystemCapability {
    pub(super) fn write(&self, w: &mut Writer) {
        w.optional_text_element("product", self.product.as_deref());
        w.element("hardware", |w| {
            w.optional_text_element("vendor", self.hardware.vendor.as_deref());
            w.optional_text_element("version", self.hardware.version.as_deref());
            w.optional_text_element("serial", self.hardware.serial.as_deref());
            w.text_element("uuid", self.hardware.uuid);
        });
        w.element_with_end("firmware", |w| {
            w.optional_text_element("vendor", self.firmware.vendor.as_deref());
            w.optional_text_element("version", self.firmware.version.as_deref());
            w.optional_text_element("release_date", self.firmware.release_date.as_deref());
        });
    }
}
