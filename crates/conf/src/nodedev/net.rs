//! `<capability type='net'>`: a network device.

use crate::xml::{Element, FromXml, Writer, keywords};
use crate::{Error, MacAddress};

/// A network device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetCapability {
    /// The netdev, as the kernel names it.
    pub interface: String,
    /// Its address, as the kernel writes it; not every kind of link has a MAC.
    pub address: Option<String>,
    /// Whether there is a carrier, and how fast it is.
    pub link: NetLink,
    /// What its driver takes off the kernel's hands: `rx`, `tx`, `tso` …
    pub features: Vec<String>,
    /// Wired or wireless.
    pub kind: Option<NetKind>,
}

/// `<link>` of a network device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetLink {
    /// Mbit/s.
    pub speed: Option<u32>,
    /// Its operational state.
    pub state: Option<InterfaceState>,
}

/// A link's state, as RFC 2863 has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words are the document's")]
pub enum InterfaceState {
    Unknown,
    NotPresent,
    Down,
    LowerLayerDown,
    Testing,
    Dormant,
    Up,
}

/// What kind of network device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetKind {
    /// Ethernet (`80203`).
    Wired,
    /// Wireless (`80211`).
    Wireless,
}

keywords!(InterfaceState {
    Unknown = "unknown",
    NotPresent = "notpresent",
    Down = "down",
    LowerLayerDown = "lowerlayerdown",
    Testing = "testing",
    Dormant = "dormant",
    Up = "up",
});
keywords!(NetKind {
    Wired = "80203",
    Wireless = "80211",
});

impl NetCapability {
    /// Its MAC, if it has one.
    #[must_use]
    pub fn mac(&self) -> Option<MacAddress> {
        self.address.as_deref()?.parse().ok()
    }

    pub(super) fn write(&self, w: &mut Writer) {
        w.text_element("interface", &self.interface);
        w.optional_text_element("address", self.address.as_deref());
        w.element_unless_empty("link", |w| {
            w.optional_attribute("speed", self.link.speed);
            w.optional_keyword("state", self.link.state);
        });
        for feature in &self.features {
            w.element("feature", |w| w.attribute("name", feature));
        }
        if let Some(kind) = self.kind {
            w.element("capability", |w| w.keyword("type", kind));
        }
    }
}

impl FromXml for NetCapability {
    fn from_xml(element: Element<'_>) -> Result<Self, Error> {
        let features = element
            .children_named("feature")
            .map(|feature| feature.require("name").map(str::to_owned))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            interface: element.require_child("interface")?.text(),
            address: element.child_text("address"),
            link: match element.child("link") {
                Some(link) => NetLink {
                    speed: link.number("speed")?,
                    state: link.keyword("state")?,
                },
                None => NetLink::default(),
            },
            features,
            kind: match element.child("capability") {
                Some(capability) => capability.keyword("type")?,
                None => None,
            },
        })
    }
}
