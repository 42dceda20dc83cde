//! `<driver>` of host devices, in `<forward>`, `<hostdev>`, `<interface>` and `<networkport>`.

use crate::xml::{Element, FromXml, ToXml, Writer, keywords};
use crate::{Error, HostBackend, HostDriver};

keywords!(HostBackend {
    Vfio = "vfio",
    Kvm = "kvm",
    Xen = "xen",
});

impl FromXml for HostDriver {
    fn from_xml(element: Element<'_>) -> Result<Self, Error> {
        Ok(Self {
            backend: element.keyword("name")?,
            model: element.attribute_string("model"),
        })
    }
}

impl ToXml for HostDriver {
    /// Nothing, where it says nothing.
    fn write_xml(&self, writer: &mut Writer) {
        writer.element_unless_empty("driver", |w| {
            w.optional_keyword("name", self.backend);
            w.optional_attribute("model", self.model.as_deref());
        });
    }
}
