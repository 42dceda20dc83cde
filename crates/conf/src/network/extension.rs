//! What libvirt has no word for: `xmlns:virtnic='urn:virtnic:1'`.

use serde::{Deserialize, Serialize};

use crate::xml::{Base, Element, FromXml, Keyword, VIRTNIC_NAMESPACE, Writer, keywords};
use crate::{DirectMode, Error, ErrorKind, Faults, HybridSettings};

/// Settings in virtnic's own namespace, on a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkExtension {
    /// `<virtnic:pool spread=…>`.
    pub spread: Spread,
    /// `<virtnic:pool numa=…>`.
    pub numa: NumaPolicy,
    /// `<virtnic:pool carrier='require'>`: a PF or NIC without carrier lends nothing.
    pub needs_carrier: bool,
    /// `<virtnic:pool lend=…>` (mode passthrough): what is lent of a device that is a PF; none: its VFs,
    /// if it has any.
    pub lend: Option<PoolLend>,
    /// `<virtnic:vf …>`.
    pub vf: VfSettings,
    /// `<virtnic:direct modes=…>`: the macvtap modes that a guest may choose; none: any.
    pub direct_modes: Option<Vec<DirectMode>>,
    /// `<virtnic:direct host-access=…>`: the host gets a macvlan of its own on each parent, so that
    /// it and its guests reach each other.
    pub host_access: bool,
    /// `<virtnic:hybrid …>` (mode hostdev-hybrid): how its guests' pairs are made where they don't say.
    pub hybrid: HybridSettings,
    /// `<pf><virtnic:vfs count=…/></pf>`: how many VFs a PF is to have.
    pub vfs: Vec<PfVfs>,
}

/// How many VFs a PF is to have when the network starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PfVfs {
    /// The PF's netdev.
    pub pf: String,
    /// At least 1.
    pub count: u32,
}

/// Which of several PFs a VF is taken from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Spread {
    /// The PF with the fewest VFs lent.
    #[default]
    Balance,
    /// The first PF that has one.
    Pack,
}

/// What a pool lends of a network device that is a PF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PoolLend {
    /// The NIC itself, whole, as libvirt does.
    Pf,
    /// Its free VFs, one to a guest.
    Vfs,
}

/// How much a guest's NUMA node counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NumaPolicy {
    /// A near device first.
    #[default]
    Prefer,
    /// A near device or none.
    Require,
    /// Not at all.
    Ignore,
}

/// What a VF may do, set through its PF on each hand-out. `None`: the neutral value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VfSettings {
    /// The guest may change its MAC and go promiscuous.
    pub trust: Option<bool>,
    /// Frames with another source MAC are dropped.
    pub spoof_check: Option<bool>,
    /// The link that the guest sees.
    pub link: Option<VfLink>,
    /// Highest transmit rate, Mbit/s; 0: no limit.
    pub max_rate: Option<u32>,
    /// Guaranteed transmit rate, Mbit/s; 0: none.
    pub min_rate: Option<u32>,
    /// Priority of its VLAN, 0–7.
    pub qos: Option<u8>,
    /// The protocol of its VLAN's tag.
    pub protocol: Option<VlanProtocol>,
    /// The guest may read its RSS table and key.
    pub rss_query: Option<bool>,
}

/// A VLAN tag's protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum VlanProtocol {
    /// 802.1Q.
    #[default]
    Dot1q,
    /// 802.1ad, for an outer tag.
    Dot1ad,
}

/// A VF's link as its PF sets it (`IFLA_VF_LINK_STATE`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VfLink {
    /// As the PF's own.
    #[default]
    Auto,
    /// Up, whatever the PF's is.
    On,
    /// Down, whatever the PF's is.
    Off,
}

keywords!(Spread {
    Balance = "balance",
    Pack = "pack",
});
keywords!(PoolLend {
    Pf = "pf",
    Vfs = "vfs",
});
keywords!(NumaPolicy {
    Prefer = "prefer",
    Require = "require",
    Ignore = "ignore",
});
keywords!(VlanProtocol {
    Dot1q = "802.1Q",
    Dot1ad = "802.1ad",
});
keywords!(VfLink {
    Auto = "auto",
    On = "on",
    Off = "off",
});

impl NetworkExtension {
    /// Reads what a `<network>` says in our namespace, apart from its PFs' `<virtnic:vfs>`.
    ///
    /// Unlike libvirt's elements, ours are never ignored: a wrong word in one of them could leave a
    /// guest with more rights than its owner meant.
    pub(super) fn from_network(network: Element<'_>) -> Result<Self, Error> {
        let mut extension = Self::default();
        let mut faults = Faults::default();
        // Others, and second ones, are refused by whoever reads the document.
        for name in ["pool", "vf", "direct", "hybrid"] {
            if let Some(element) = network.children_in(VIRTNIC_NAMESPACE, name).next() {
                faults.or_default(extension.read(element));
            }
        }
        faults.finish()?;
        Ok(extension)
    }

    /// Reads one of the elements below `<network>`.
    fn read(&mut self, element: Element<'_>) -> Result<(), Error> {
        let mut faults = Faults::default();
        match element.name() {
            "pool" => {
                only(element, &["spread", "numa", "carrier", "lend"], &mut faults);
                self.lend = faults.or_default(element.keyword("lend"));
                self.spread = (faults.or_default(element.keyword("spread"))).unwrap_or_default();
                self.numa = (faults.or_default(element.keyword("numa"))).unwrap_or_default();
                self.needs_carrier = match element.attribute("carrier") {
                    None | Some("ignore") => false,
                    Some("require") => true,
                    Some(_) => {
                        let expected = "require or ignore";
                        faults.push(element.invalid(ErrorKind::Xml, "carrier", expected));
                        false
                    }
                };
            }
            "vf" => self.vf = VfSettings::from_xml(element)?,
            "hybrid" => {
                only(element, &["guest", "fallback"], &mut faults);
                self.hybrid = HybridSettings::read(element, &mut faults);
            }
            _ => {
                only(element, &["modes", "host-access"], &mut faults);
                self.direct_modes = faults.or_default(direct_modes(element));
                let host_access = faults.or_default(element.yes_no("host-access"));
                self.host_access = host_access.unwrap_or(false);
            }
        }
        faults.finish()
    }

    /// Whether it says anything that needs our namespace.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Writes the elements below `<network>`.
    pub(super) fn write(&self, writer: &mut Writer) {
        writer.element_unless_empty("virtnic:pool", |w| {
            let default = Self::default();
            w.optional_keyword("spread", Some(self.spread).filter(|&s| s != default.spread));
            w.optional_keyword("numa", Some(self.numa).filter(|&n| n != default.numa));
            w.optional_attribute("carrier", self.needs_carrier.then_some("require"));
            w.optional_keyword("lend", self.lend);
        });
        self.vf.write(writer);
        writer.element_unless_empty("virtnic:direct", |w| {
            if let Some(modes) = &self.direct_modes {
                let words: Vec<_> = modes.iter().map(|mode| mode.word()).collect();
                w.attribute("modes", words.join(" "));
            }
            w.optional_yes_no("host-access", self.host_access.then_some(true));
        });
        self.hybrid.write(writer);
    }
}

fn direct_modes(element: Element<'_>) -> Result<Option<Vec<DirectMode>>, Error> {
    let Some(text) = element.attribute("modes") else {
        return Ok(None);
    };
    let mut modes = Vec::new();
    for word in text.split_ascii_whitespace() {
        let Some(mode) = DirectMode::from_word(word) else {
            let expected = format!("a list of {}", DirectMode::expected());
            return Err(element.invalid(ErrorKind::Xml, "modes", expected));
        };
        if !modes.contains(&mode) {
            modes.push(mode);
        }
    }
    if modes.is_empty() {
        return Err(element.invalid(ErrorKind::Xml, "modes", "at least one mode"));
    }
    Ok(Some(modes))
}

/// Reads the count from `<virtnic:vfs>` in a `<pf>`.
pub(super) fn vf_count(pf: Element<'_>) -> Result<Option<u32>, Error> {
    let Some(element) = pf.children_in(VIRTNIC_NAMESPACE, "vfs").next() else {
        return Ok(None);
    };
    let mut faults = Faults::default();
    only(element, &["count"], &mut faults);
    faults.finish()?;
    match element.number_in("count", Base::Ten, 65_535)? {
        Some(0) => Err(element.invalid(ErrorKind::Xml, "count", "a number from 1 to 65535")),
        Some(count) => Ok(Some(count)),
        None => Err(element.missing(ErrorKind::Xml, "count")),
    }
}

impl VfSettings {
    /// Reads the `<virtnic:vf>` of a network, port group or interface, if there is one.
    ///
    /// # Errors
    /// Unknown attributes and values.
    pub fn of(parent: Element<'_>) -> Result<Option<Self>, Error> {
        let element = parent.children_in(VIRTNIC_NAMESPACE, "vf").next();
        element.map(Self::from_xml).transpose()
    }

    /// Writes `<virtnic:vf>`, if it says anything. The prefix must be declared further out.
    pub fn write(&self, writer: &mut Writer) {
        writer.element_unless_empty("virtnic:vf", |w| {
            w.optional_on_off("trust", self.trust);
            w.optional_on_off("spoofchk", self.spoof_check);
            w.optional_keyword("link", self.link);
            w.optional_attribute("rate", self.max_rate);
            w.optional_attribute("min-rate", self.min_rate);
            w.optional_attribute("qos", self.qos);
            w.optional_keyword("protocol", self.protocol);
            w.optional_on_off("rss-query", self.rss_query);
        });
    }
}

impl FromXml for VfSettings {
    fn from_xml(element: Element<'_>) -> Result<Self, Error> {
        let mut faults = Faults::default();
        only(
            element,
            &[
                "trust",
                "spoofchk",
                "link",
                "rate",
                "min-rate",
                "qos",
                "protocol",
                "rss-query",
            ],
            &mut faults,
        );
        let settings = Self {
            trust: faults.or_default(element.on_off("trust")),
            spoof_check: faults.or_default(element.on_off("spoofchk")),
            link: faults.or_default(element.keyword("link")),
            max_rate: faults.or_default(element.number("rate")),
            min_rate: faults.or_default(element.number("min-rate")),
            qos: faults.or_default(element.number_in("qos", Base::Ten, 7)),
            protocol: faults.or_default(element.keyword("protocol")),
            rss_query: faults.or_default(element.on_off("rss-query")),
        };
        if let (Some(min), Some(max @ 1..)) = (settings.min_rate, settings.max_rate)
            && min > max
        {
            faults.push(element.attribute_error(
                ErrorKind::Xml,
                "min-rate",
                format!("min-rate='{min}' is above rate='{max}'"),
            ));
        }
        faults.finish()?;
        Ok(settings)
    }
}

/// Refuses attributes of ours that nobody knows.
fn only(element: Element<'_>, known: &[&str], faults: &mut Faults) {
    let unknown = element
        .attributes()
        .filter(|(name, _)| !known.contains(name));
    faults.each(unknown, |(name, _)| {
        let message = format!(
            "<virtnic:{}> has no attribute '{name}'; expected {}",
            element.name(),
            known.join(", ")
        );
        Err(element.attribute_error(ErrorKind::Xml, name, message))
    });
}
