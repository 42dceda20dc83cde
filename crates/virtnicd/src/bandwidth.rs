//! Rates as typed parameters: the same names for guests' interfaces and for networks' ports.

use conf::{Bandwidth, Rate};
use rpc::{Code, Domain, Error, TypedParam, TypedValue};

use crate::fault::Result;

/// The most KiB that a burst can have; the most that a document may say, too.
const MAX_BURST: u32 = 4_194_303;

/// What a client wants of the two directions. One that it does not name stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BandwidthChange {
    inbound: Direction,
    outbound: Direction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Kept,
    Unlimited,
    Limited(Rate),
}

/// A direction as it is named, while it is read.
#[derive(Debug, Default)]
struct Named {
    average: Option<u32>,
    peak: Option<u32>,
    burst: Option<u32>,
    floor: Option<u32>,
}

impl BandwidthChange {
    /// Reads what a client gave; errors are of that part of the system.
    pub(crate) fn parse(domain: Domain, params: &[TypedParam]) -> Result<Self> {
        let error = |detail: String| Error::new(Code::InvalidArg, domain, detail);
        let (mut inbound, mut outbound) = (Named::default(), Named::default());
        for TypedParam { field, value } in params {
            let place = match field.as_str() {
                "inbound.average" => &mut inbound.average,
                "inbound.peak" => &mut inbound.peak,
                "inbound.burst" => &mut inbound.burst,
                "inbound.floor" => &mut inbound.floor,
                "outbound.average" => &mut outbound.average,
                "outbound.peak" => &mut outbound.peak,
                "outbound.burst" => &mut outbound.burst,
                _ => {
                    return Err(error(format!(
                        "parameter '{field}' is not one of a bandwidth's"
                    )));
                }
            };
            let TypedValue::U32(value) = *value else {
                return Err(error(format!(
                    "parameter '{field}' has to be an unsigned int"
                )));
            };
            if place.replace(value).is_some() {
                return Err(error(format!("parameter '{field}' occurs more than once")));
            }
        }
        let direction = |name, named: Named| named.read(name).map_err(error);
        Ok(Self {
            inbound: direction("inbound", inbound)?,
            outbound: direction("outbound", outbound)?,
        })
    }

    /// Whether a rate is to be guaranteed.
    pub(crate) fn has_floor(&self) -> bool {
        matches!(
            self.inbound,
            Direction::Limited(Rate { floor: Some(_), .. })
        )
    }

    /// What there is after the change.
    pub(crate) fn apply(&self, old: Option<&Bandwidth>) -> Option<Bandwidth> {
        let new = Bandwidth {
            inbound: self.inbound.apply(old.and_then(|old| old.inbound)),
            outbound: self.outbound.apply(old.and_then(|old| old.outbound)),
        };
        (new != Bandwidth::default()).then_some(new)
    }
}

impl Direction {
    fn apply(self, old: Option<Rate>) -> Option<Rate> {
        match self {
            Self::Kept => old,
            Self::Unlimited => None,
            Self::Limited(rate) => Some(rate),
        }
    }
}

impl Named {
    /// A direction without average and floor is unlimited; then nothing else can be said of it.
    fn read(&self, name: &str) -> std::result::Result<Direction, String> {
        let given = |value: Option<u32>| value.filter(|&value| value > 0).map(u64::from);
        let rate = Rate {
            average: given(self.average),
            peak: given(self.peak),
            floor: given(self.floor),
            burst: given(self.burst),
        };
        if self.burst.is_some_and(|burst| burst > MAX_BURST) {
            return Err(format!("{name}.burst is {MAX_BURST} KiB at most"));
        }
        if rate.average.is_none() && (rate.peak.is_some() || rate.burst.is_some()) {
            return Err(format!("{name}.peak and {name}.burst need {name}.average"));
        }
        let named = [self.average, self.peak, self.burst, self.floor];
        Ok(match (rate.average.or(rate.floor), named) {
            (Some(_), _) => Direction::Limited(rate),
            (None, [None, None, None, None]) => Direction::Kept,
            (None, _) => Direction::Unlimited,
        })
    }
}

/// All rates; 0: no limit. Clients take the names and types of what they may set from here, so that
/// those without a limit are told, too.
pub(crate) fn rate_params(bandwidth: Option<&Bandwidth>) -> Vec<TypedParam> {
    let rate = |rate: Option<Rate>| rate.unwrap_or_default();
    let inbound = rate(bandwidth.and_then(|bandwidth| bandwidth.inbound));
    let outbound = rate(bandwidth.and_then(|bandwidth| bandwidth.outbound));
    vec![
        param("inbound.average", inbound.average),
        param("inbound.peak", inbound.peak),
        param("inbound.burst", inbound.burst),
        param("inbound.floor", inbound.floor),
        param("outbound.average", outbound.average),
        param("outbound.peak", outbound.peak),
        param("outbound.burst", outbound.burst),
    ]
}

/// Documents can say more than the call can tell.
fn param(name: &str, value: Option<u64>) -> TypedParam {
    let value = u32::try_from(value.unwrap_or(0)).unwrap_or(u32::MAX);
    TypedParam::new(name, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(params: &[(&str, u32)]) -> Result<BandwidthChange> {
        let params: Vec<_> = (params.iter())
            .map(|(name, value)| TypedParam::new(*name, *value))
            .collect();
        BandwidthChange::parse(Domain::Network, &params)
    }

    fn average(average: u64) -> Option<Rate> {
        Some(Rate {
            average: Some(average),
            ..Rate::default()
        })
    }

    #[test]
    fn a_direction_that_is_not_named_stays() {
        let old = Bandwidth {
            inbound: average(1),
            outbound: average(2),
        };
        let apply = |params: &[(&str, u32)]| parse(params).unwrap().apply(Some(&old));
        assert_eq!(apply(&[]), Some(old.clone()));
        let changed = apply(&[("outbound.average", 9)]).unwrap();
        assert_eq!(
            (changed.inbound, changed.outbound),
            (average(1), average(9))
        );
        let changed = apply(&[("inbound.average", 0)]).unwrap();
        assert_eq!((changed.inbound, changed.outbound), (None, average(2)));
        assert_eq!(
            apply(&[
                ("inbound.average", 0),
                ("outbound.average", 0),
                ("outbound.peak", 0)
            ]),
            None
        );
    }

    #[test]
    fn what_is_set_is_what_is_read() {
        let all = [
            ("inbound.average", 1),
            ("inbound.peak", 2),
            ("inbound.burst", 3),
            ("inbound.floor", 4),
            ("outbound.average", 5),
            ("outbound.peak", 6),
            ("outbound.burst", 7),
        ];
        let bandwidth = parse(&all).unwrap().apply(None).unwrap();
        let expected: Vec<_> = (all.iter())
            .map(|(name, value)| TypedParam::new(*name, *value))
            .collect();
        assert_eq!(rate_params(Some(&bandwidth)), expected);
        let none = rate_params(None);
        assert_eq!(none.len(), expected.len());
        assert!(none.iter().all(|param| param.value == TypedValue::U32(0)));
    }

    #[test]
    fn what_makes_no_rate_is_refused_by_name() {
        for (params, part) in [
            (&[("inbound.peak", 5)][..], "inbound.average"),
            (
                &[("outbound.burst", 5), ("outbound.average", 0)],
                "outbound.average",
            ),
            (&[("outbound.floor", 5)], "'outbound.floor'"),
            (&[("speed", 5)], "'speed'"),
            (
                &[("inbound.average", 5), ("inbound.average", 5)],
                "more than once",
            ),
            (
                &[("inbound.average", 5), ("inbound.burst", MAX_BURST + 1)],
                "inbound.burst",
            ),
        ] {
            let error = parse(params).unwrap_err();
            assert_eq!(error.code(), Code::InvalidArg);
            assert!(error.message().contains(part), "{error}");
        }
        let wrong = TypedParam::new("inbound.average", 5i32);
        let error = BandwidthChange::parse(Domain::Network, &[wrong]).unwrap_err();
        assert!(error.message().contains("unsigned int"), "{error}");
    }
}
