//! VLAN tags of an interface, a port group or a network.

use serde::{Deserialize, Serialize};

use crate::xml::{Base, Element, FromXml, ToXml, Writer, keywords};
use crate::{Error, ErrorKind, Faults};

/// The VLANs that a port carries. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vlan {
    /// Whether tagged frames pass to the guest. More than one tag implies it.
    pub trunk: bool,
    /// The tags, in the order of the document; at most one has a native mode.
    pub tags: Vec<VlanTag>,
}

/// The most tags: as many as there are identifiers.
const MAX_TAGS: usize = 4096;

/// `<tag>`: a VLAN that the port carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VlanTag {
    /// VLAN identifier, 0–4095 as libvirt accepts them (IEEE 802.1Q reserves 4095).
    pub id: u16,
    /// Whether untagged frames belong to this VLAN, and how its frames leave.
    pub native: Option<NativeMode>,
}

/// How frames of the native VLAN leave the guest's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NativeMode {
    /// With a tag.
    Tagged,
    /// Without a tag.
    Untagged,
}

keywords!(NativeMode {
    Tagged = "tagged",
    Untagged = "untagged",
});

impl FromXml for Vlan {
    fn from_xml(element: Element<'_>) -> Result<Self, Error> {
        if let Some(beyond) = element.children_named("tag").nth(MAX_TAGS) {
            let message = format!("<vlan> has more than {MAX_TAGS} of <tag>, one for each VLAN");
            return Err(beyond.error(ErrorKind::Xml, message));
        }
        let (mut faults, mut tags) = (Faults::default(), Vec::new());
        faults.each(element.children_named("tag"), |tag| {
            tags.push(VlanTag::from_xml(tag)?);
            Ok(())
        });
        let trunk = element.attribute("trunk");
        let word = |word: &str| {
            ["yes", "no"]
                .iter()
                .any(|known| word.eq_ignore_ascii_case(known))
        };
        if !trunk.is_none_or(word) {
            faults.push(element.invalid(ErrorKind::Xml, "trunk", "yes or no"));
        }
        faults.finish()?;
        if tags.is_empty() {
            return Err(element.error(ErrorKind::Xml, "<vlan> needs at least one <tag>"));
        }
        let native = tags.iter().filter(|tag| tag.native.is_some()).count();
        if native > 1 {
            return Err(element.error(
                ErrorKind::Xml,
                "<vlan> has more than one <tag> with a nativeMode",
            ));
        }
        let trunk = match trunk {
            None => tags.len() > 1,
            Some(word) if word.eq_ignore_ascii_case("yes") => true,
            Some(_) => {
                if tags.len() > 1 || native > 0 {
                    return Err(element.attribute_error(
                        ErrorKind::Xml,
                        "trunk",
                        "trunk='no' on <vlan> allows a single <tag> without nativeMode",
                    ));
                }
                false
            }
        };
        Ok(Self { trunk, tags })
    }
}

impl FromXml for VlanTag {
    fn from_xml(element: Element<'_>) -> Result<Self, Error> {
        let mut faults = Faults::default();
        let id = element.number_in("id", Base::Ten, 4095);
        let id = id.and_then(|id| id.ok_or_else(|| element.missing(ErrorKind::Xml, "id")));
        let id = faults.or_default(id);
        let native = faults.or_default(element.keyword("nativeMode"));
        faults.finish()?;
        Ok(Self { id, native })
    }
}

impl ToXml for Vlan {
    fn write_xml(&self, writer: &mut Writer) {
        writer.element("vlan", |w| {
            w.optional_attribute("trunk", self.trunk.then_some("yes"));
            for tag in &self.tags {
                w.element("tag", |w| {
                    w.attribute("id", tag.id);
                    w.optional_keyword("nativeMode", tag.native);
                });
            }
        });
    }
}

impl Vlan {
    /// The only tag, if frames are tagged and untagged for the guest: all that a VF can do.
    #[must_use]
    pub fn access_tag(&self) -> Option<u16> {
        match self.tags.as_slice() {
            [tag] if !self.trunk => Some(tag.id),
            _ => None,
        }
    }
}
