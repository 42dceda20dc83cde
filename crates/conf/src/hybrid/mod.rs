//! `<virtnic:hybrid>`: one network interface of a guest that is two devices with one MAC, a VF and a
//! virtio NIC on a macvtap over the VF's PF.
//!
//! A document asks for a pair in one element. When the guest is defined that becomes two ordinary
//! interfaces, which say whose halves they are. What each of them gets stands in [`split`].

mod define;
mod pairs;
mod split;

pub use define::{HybridHalves, KeptPlaces, NetworkPairs};
pub use pairs::{Pair, PairFault, PairPrimary};
pub(crate) use split::{settings_fault, vlan_fault};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::xml::{Element, Keyword, VIRTNIC_NAMESPACE, Writer, keywords};
use crate::{Error, ErrorKind, Faults, HostSource, Interface, InterfaceSource, Teaming};

/// Whose guest joins the two devices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HybridGuest {
    /// Its virtio driver, by itself: QEMU's failover pair (`VIRTIO_NET_F_STANDBY`).
    #[default]
    Failover,
    /// Its owner, with a bond: the guest sees both from the start.
    Bond,
}

/// What becomes of a guest for which no VF is free.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HybridFallback {
    /// It does not start.
    #[default]
    None,
    /// It starts on virtio alone, and gets a VF when one is free.
    Virtio,
}

/// Which half of a pair an interface is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HybridPart {
    /// virtio, which stays.
    Standby,
    /// The VF, which may come and go.
    Primary,
}

/// `<virtnic:hybrid>` of a network, or of an element that asks for a pair. `None`: not said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HybridSettings {
    /// Who joins the devices; failover, if nobody says.
    pub guest: Option<HybridGuest>,
    /// What follows if no VF is free; nothing, if nobody says.
    pub fallback: Option<HybridFallback>,
}

/// `<virtnic:hybrid>` of an interface that is one half of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HybridHalf {
    /// The pair, the same on both halves.
    pub pair: Uuid,
    /// Which half it is.
    pub part: HybridPart,
    /// Who joins them.
    pub guest: HybridGuest,
    /// What the interface says itself; where it does not, its network counts.
    pub fallback: Option<HybridFallback>,
}

/// `<virtnic:hybrid>` of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hybrid {
    /// The element asks for a pair.
    Wanted(HybridSettings),
    /// It is half of one.
    Half(HybridHalf),
}

keywords!(HybridGuest {
    Failover = "failover",
    Bond = "bond",
});
keywords!(HybridFallback {
    Virtio = "virtio",
    None = "none",
});
keywords!(HybridPart {
    Standby = "standby",
    Primary = "primary",
});

impl HybridSettings {
    /// Reads the element of a network; its attributes were looked at.
    pub(crate) fn read(element: Element<'_>, faults: &mut Faults) -> Self {
        Self {
            guest: faults.or_default(element.keyword("guest")),
            fallback: faults.or_default(element.keyword("fallback")),
        }
    }

    /// Writes `<virtnic:hybrid>`, if it says anything. The prefix must be declared further out.
    pub(crate) fn write(self, writer: &mut Writer) {
        writer.element_unless_empty("virtnic:hybrid", |w| self.write_attributes(w));
    }

    fn write_attributes(self, w: &mut Writer) {
        w.optional_keyword("guest", self.guest);
        w.optional_keyword("fallback", self.fallback);
    }
}

impl Hybrid {
    /// Its element in an interface, if there is one.
    pub(crate) fn element_of(interface: Element<'_>) -> Option<Element<'_>> {
        interface.children_in(VIRTNIC_NAMESPACE, "hybrid").next()
    }

    /// Reads that of an interface whose `<teaming>` is known: where the halves have one it tells
    /// which half this is, too.
    pub(crate) fn read(
        interface: Element<'_>,
        teaming: Option<&Teaming>,
    ) -> Result<Option<Self>, Error> {
        let Some(element) = Self::element_of(interface) else {
            return Ok(None);
        };
        let known = ["guest", "fallback", "pair", "part"];
        let mut faults = Faults::default();
        faults.each(
            element
                .attributes()
                .filter(|(name, _)| !known.contains(name)),
            |(name, _)| {
                let message = format!(
                    "<virtnic:hybrid> has no attribute '{name}'; expected {}",
                    known.join(", ")
                );
                Err(element.attribute_error(ErrorKind::Xml, name, message))
            },
        );
        let settings = HybridSettings::read(element, &mut faults);
        let pair = faults.or_default(element.uuid(ErrorKind::Xml, "pair"));
        let part: Option<HybridPart> = faults.or_default(element.keyword("part"));
        faults.finish()?;
        let Some(pair) = pair else {
            return match part {
                None => Ok(Some(Self::Wanted(settings))),
                Some(_) => Err(element.missing(ErrorKind::Xml, "pair")),
            };
        };
        let by_teaming = teaming.map(|teaming| match teaming {
            Teaming::Persistent => HybridPart::Standby,
            Teaming::Transient { .. } => HybridPart::Primary,
        });
        Ok(Some(Self::Half(HybridHalf {
            pair,
            part: part
                .or(by_teaming)
                .ok_or_else(|| element.missing(ErrorKind::Xml, "part"))?,
            guest: settings.guest.unwrap_or_default(),
            fallback: settings.fallback,
        })))
    }

    /// Writes `<virtnic:hybrid>`. The prefix must be declared further out.
    pub(crate) fn write(self, writer: &mut Writer) {
        writer.element("virtnic:hybrid", |w| match self {
            Self::Wanted(settings) => settings.write_attributes(w),
            Self::Half(half) => {
                w.keyword("guest", half.guest);
                w.optional_keyword("fallback", half.fallback);
                w.attribute("pair", half.pair);
                w.keyword("part", half.part);
            }
        });
    }
}

impl Interface {
    /// Whether the element by itself asks for a pair. One of a network that lends pairs need not
    /// say so: [`crate::Domain::expand_hybrids`] asks.
    #[must_use]
    pub fn is_hybrid(&self) -> bool {
        match self.hybrid {
            Some(Hybrid::Half(_)) => false,
            Some(Hybrid::Wanted(_)) => true,
            None => matches!(self.source, InterfaceSource::HostdevHybrid { .. }),
        }
    }

    /// Which pair it is a half of, if virtnic made that.
    #[must_use]
    pub fn hybrid_half(&self) -> Option<&HybridHalf> {
        match &self.hybrid {
            Some(Hybrid::Half(half)) => Some(half),
            Some(Hybrid::Wanted(_)) | None => None,
        }
    }

    /// Whether it is that half of a pair that virtnic made.
    pub(crate) fn is_part(&self, part: HybridPart) -> bool {
        self.hybrid_half().is_some_and(|half| half.part == part)
    }

    /// What `<virtnic:hybrid>` and the interface that has it contradict each other in.
    pub(crate) fn check_hybrid(&self, interface: Element<'_>) -> Result<(), Error> {
        let (Some(hybrid), Some(element)) = (&self.hybrid, Hybrid::element_of(interface)) else {
            return Ok(());
        };
        let kind = self.source.kind();
        let refuse = |message: String| Err(element.error(ErrorKind::ConfigUnsupported, message));
        let half = match hybrid {
            Hybrid::Half(half) => half,
            Hybrid::Wanted(_) if !matches!(kind, "network" | "hostdev-hybrid") => {
                return refuse(format!(
                    "an interface of type '{kind}' is no pair: <virtnic:hybrid> without 'pair' is \
                     for types 'network' and 'hostdev-hybrid'"
                ));
            }
            Hybrid::Wanted(_) if self.teaming.is_some() => {
                return refuse(
                    "<virtnic:hybrid> asks for a pair, and <teaming> says that this is half of \
                     one: give one of them"
                        .to_owned(),
                );
            }
            Hybrid::Wanted(_) => return Ok(()),
        };
        let part = half.part.word();
        let fits = match (half.part, &self.source) {
            (
                HybridPart::Standby,
                InterfaceSource::Direct { .. } | InterfaceSource::Network { .. },
            )
            | (HybridPart::Primary, InterfaceSource::Network { .. }) => true,
            (HybridPart::Primary, InterfaceSource::Hostdev { source, .. }) => {
                !matches!(source, HostSource::Usb(_))
            }
            _ => false,
        };
        if !fits {
            return refuse(format!(
                "an interface of type '{kind}' can't be the {part} of a pair: the standby is of \
                 type 'direct' or 'network', the primary a PCI 'hostdev' or 'network'"
            ));
        }
        if half.part == HybridPart::Standby && !self.is_virtio() {
            return refuse("the standby of a pair needs model 'virtio'".to_owned());
        }
        match (half.guest, half.part, &self.teaming) {
            (HybridGuest::Bond, _, None)
            | (HybridGuest::Failover, HybridPart::Standby, Some(Teaming::Persistent))
            | (HybridGuest::Failover, HybridPart::Primary, Some(Teaming::Transient { .. })) => {
                Ok(())
            }
            (HybridGuest::Bond, _, Some(_)) => refuse(
                "guest='bond' and <teaming> contradict each other: QEMU would make a failover pair"
                    .to_owned(),
            ),
            (HybridGuest::Failover, HybridPart::Standby, _) => refuse(
                "the standby of a pair with guest='failover' needs <teaming type='persistent'/>"
                    .to_owned(),
            ),
            (HybridGuest::Failover, HybridPart::Primary, _) => refuse(
                "the primary of a pair with guest='failover' needs <teaming type='transient' \
                 persistent='…'/>"
                    .to_owned(),
            ),
        }
    }
}
