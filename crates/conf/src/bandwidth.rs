//! Traffic shaping of an interface, a port group or a network.

use serde::{Deserialize, Serialize};

use crate::xml::{Base, Element, ToXml, Writer, parse_unsigned};
use crate::{Error, ErrorKind, Faults};

/// Averages, peaks and floors: KiB/s that still fit a 64-bit count of bits.
const MAX_RATE: u64 = 1 << 54;
/// Bursts: KiB that still fit tc's 32-bit count of bytes.
const MAX_BURST: u64 = 4_194_303;

/// Limits in both directions, as the guest sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// Towards the guest.
    pub inbound: Option<Rate>,
    /// From the guest.
    pub outbound: Option<Rate>,
}

/// A rate: averages and peaks in KiB/s, the burst in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Average, KiB/s, 1 to 2^54.
    pub average: Option<u64>,
    /// Peak, KiB/s, 1 to 2^54.
    pub peak: Option<u64>,
    /// Guaranteed, KiB/s, 1 to 2^54; inbound on interfaces of networks only.
    pub floor: Option<u64>,
    /// What may pass at peak rate, KiB, 1 to 4194303.
    pub burst: Option<u64>,
}

impl Bandwidth {
    /// Reads `<bandwidth>`; `None` if it limits neither direction. A floor is for inbound traffic
    /// of ports of a network.
    ///
    /// # Errors
    /// A rate without average, a floor where none can be, a value out of range.
    pub fn parse(element: Element<'_>, floor_allowed: bool) -> Result<Option<Self>, Error> {
        let rate = |name, floor_allowed| {
            let child = element.child(name);
            child
                .map(|child| Rate::parse(child, floor_allowed))
                .transpose()
        };
        let mut faults = Faults::default();
        let bandwidth = Self {
            inbound: (faults.or_default(rate("inbound", floor_allowed))).filter(Rate::limits),
            outbound: faults
                .or_default(rate("outbound", false))
                .filter(Rate::limits),
        };
        faults.finish()?;
        Ok((bandwidth != Self::default()).then_some(bandwidth))
    }

    /// Writes `<bandwidth>`, with the traffic class of a port if there is one.
    pub fn write(&self, writer: &mut Writer, class_id: Option<u32>) {
        writer.element_unless_empty("bandwidth", |w| {
            w.optional_attribute("classID", class_id.filter(|&id| id > 0));
            for (name, rate) in [("inbound", self.inbound), ("outbound", self.outbound)] {
                let Some(rate) = rate else { continue };
                w.element(name, |w| {
                    w.optional_attribute("average", rate.average);
                    w.optional_attribute("peak", rate.peak);
                    w.optional_attribute("floor", rate.floor);
                    w.optional_attribute("burst", rate.burst);
                });
            }
        });
    }
}

impl ToXml for Bandwidth {
    fn write_xml(&self, writer: &mut Writer) {
        self.write(writer, None);
    }
}

impl Rate {
    /// Whether it says anything at all: without average and floor there is nothing to keep to.
    fn limits(&self) -> bool {
        self.average.is_some() || self.floor.is_some()
    }

    fn parse(element: Element<'_>, floor_allowed: bool) -> Result<Self, Error> {
        let value = |name: &str, max: u64, unit: &str| -> Result<Option<u64>, Error> {
            let Some(text) = element.attribute(name) else {
                return Ok(None);
            };
            let expected = format!("a number from 0 to {max}, in {unit}");
            match parse_unsigned(text, Base::Ten) {
                Some(value) if value <= max => Ok(Some(value)),
                Some(_) => Err(element.invalid(ErrorKind::Overflow, name, expected)),
                None => Err(element.invalid(ErrorKind::Xml, name, expected)),
            }
        };
        let name = element.name();
        let mut faults = Faults::default();
        let rate = Self {
            average: faults.or_default(value("average", MAX_RATE, "KiB/s")),
            peak: faults.or_default(value("peak", MAX_RATE, "KiB/s")),
            floor: faults.or_default(value("floor", MAX_RATE, "KiB/s")),
            burst: faults.or_default(value("burst", MAX_BURST, "KiB")),
        };
        faults.finish()?;
        if rate.average.is_none() && rate.floor.is_none() {
            let expected = if floor_allowed {
                "'average' or 'floor'"
            } else {
                "'average'"
            };
            return Err(element.error(
                ErrorKind::XmlDetail,
                format!("<{name}> needs the attribute {expected}"),
            ));
        }
        if rate.average.is_none() && (rate.peak.is_some() || rate.burst.is_some()) {
            return Err(element.error(
                ErrorKind::ConfigUnsupported,
                format!("<{name}> has a peak or a burst and no average"),
            ));
        }
        if rate.floor.is_some() && !floor_allowed {
            return Err(element.attribute_error(
                ErrorKind::ConfigUnsupported,
                "floor",
                format!(
                    "floor on <{name}> is not possible here; it is for <inbound> of interfaces \
                     of type 'network'"
                ),
            ));
        }
        // 0 is no limit, and without an average a peak says nothing.
        let positive = |value: Option<u64>| value.filter(|&value| value > 0);
        let average = positive(rate.average);
        Ok(Self {
            average,
            peak: average.and(positive(rate.peak)),
            floor: positive(rate.floor),
            burst: average.and(positive(rate.burst)),
        })
    }
}
