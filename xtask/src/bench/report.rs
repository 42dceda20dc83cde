//! What was measured, summed up for a person and as JSON.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Place;

/// Our daemon, as the scripts name it.
const OURS: &str = "virtnicd";
/// The peer.
const PEER: &str = "libvirtd";
/// The kernel's steps and QEMU alone.
const BARE: &str = "bare script";

/// What a script hands over.
#[derive(Debug, Deserialize)]
pub(super) struct Sample {
    /// What was measured.
    pub(super) what: String,
    /// Whose it is.
    pub(super) who: String,
    /// Of the samples.
    pub(super) unit: String,
    /// In the order in which they were taken.
    pub(super) samples: Vec<f64>,
}

/// A measurement, summed up.
#[derive(Debug, Serialize)]
struct Measurement {
    place: Place,
    what: String,
    who: String,
    unit: String,
    count: usize,
    median: f64,
    /// The largest, where there are fewer than a hundred samples.
    p99: f64,
}

/// What is aimed at, and what was seen.
#[derive(Debug, Serialize)]
struct Aim {
    what: String,
    place: Place,
    limit: f64,
    seen: f64,
    met: bool,
}

/// All of it, as JSON has it.
#[derive(Debug, Serialize)]
pub(super) struct Summary<'a> {
    measurements: &'a [Measurement],
    aims: Vec<Aim>,
}

/// All that was measured.
#[derive(Debug, Default)]
pub(super) struct Report {
    measurements: Vec<Measurement>,
}

impl Report {
    /// Takes a script's samples in. One without samples says nothing.
    pub(super) fn add(&mut self, place: Place, sample: Sample) {
        let mut sorted = sample.samples;
        sorted.sort_by(f64::total_cmp);
        if let (Some(median), Some(p99)) = (percentile(&sorted, 50), percentile(&sorted, 99)) {
            self.measurements.push(Measurement {
                place,
                what: sample.what,
                who: sample.who,
                unit: sample.unit,
                count: sorted.len(),
                median,
                p99,
            });
        }
    }

    /// What `--json` prints.
    pub(super) fn summary(&self) -> Summary<'_> {
        Summary {
            measurements: &self.measurements,
            aims: self.aims(),
        }
    }

    fn of(&self, place: Place, what: &str, who: &str) -> Option<&Measurement> {
        self.measurements
            .iter()
            .find(|one| one.place == place && one.what == what && one.who == who)
    }

    /// Our median as a part of another's.
    fn ratio(&self, place: Place, what: &str, other: &str) -> Option<f64> {
        let ours = self.of(place, what, OURS)?.median;
        Some(ours / self.of(place, what, other)?.median)
    }

    fn aims(&self) -> Vec<Aim> {
        let mut aims = Vec::new();
        let mut aim =
            |what: String, place, limit: f64, seen: Option<f64>, met: fn(f64, f64) -> bool| {
                if let Some(seen) = seen {
                    aims.push(Aim {
                        what,
                        place,
                        limit,
                        seen,
                        met: met(seen, limit),
                    });
                }
            };
        for place in [Place::Machine, Place::Lab] {
            for what in ["port create", "port delete"] {
                let seen = self.ratio(place, what, PEER);
                let what = format!("{what}: at most 0.5 of libvirtd's");
                aim(what, place, 0.5, seen, |seen, limit| seen <= limit);
            }
        }
        let seen = self.ratio(Place::Lab, "guest with a VF", BARE);
        let what = "guest with a VF: at most 1.3 of the bare script's".to_owned();
        aim(what, Place::Lab, 1.3, seen, |seen, limit| seen <= limit);
        for one in &self.measurements {
            if one.who == OURS && one.what.starts_with("memory") && one.what.ends_with("resident") {
                let what = format!("{}: under 12 MB", one.what);
                aim(what, one.place, 12.0, Some(one.median), |seen, limit| {
                    seen < limit
                });
            }
        }
        aims
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = None;
        for one in &self.measurements {
            if last != Some(one.place) {
                writeln!(
                    f,
                    "\n{:<38} {:<12} {:>5} {:>12} {:>12}  virtnicd's to it",
                    one.place.title(),
                    "",
                    "n",
                    "median",
                    "p99"
                )?;
                last = Some(one.place);
            }
            let value = |value: f64| format!("{value:.*} {}", digits(value), one.unit);
            let ratio = (one.who != OURS)
                .then(|| self.ratio(one.place, &one.what, &one.who))
                .flatten()
                .map_or_else(String::new, |ratio| format!("  {ratio:.2}"));
            writeln!(
                f,
                "{:<38} {:<12} {:>5} {:>12} {:>12}{ratio}",
                one.what,
                one.who,
                one.count,
                value(one.median),
                value(one.p99)
            )?;
        }
        writeln!(f)?;
        for aim in self.aims() {
            let verdict = if aim.met { "met" } else { "NOT met" };
            writeln!(
                f,
                "{verdict:<8} {:.2}  {} ({})",
                aim.seen,
                aim.what,
                aim.place.title()
            )?;
        }
        Ok(())
    }
}

/// Decimals that are worth reading.
fn digits(value: f64) -> usize {
    match value {
        value if value < 10.0 => 3,
        value if value < 100.0 => 1,
        _ => 0,
    }
}

/// By nearest rank; `None` of nothing.
fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(samples: &[(&str, &str, &[f64])]) -> Report {
        let mut report = Report::default();
        for (what, who, samples) in samples {
            let sample = Sample {
                what: (*what).to_owned(),
                who: (*who).to_owned(),
                unit: "ms".to_owned(),
                samples: samples.to_vec(),
            };
            report.add(Place::Lab, sample);
        }
        report
    }

    #[test]
    fn percentiles_are_samples_that_were_taken() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&hundred, 50), Some(50.0));
        assert_eq!(percentile(&hundred, 99), Some(99.0));
        assert_eq!(percentile(&[7.0], 99), Some(7.0));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn aims_compare_medians_and_a_missed_one_is_said() {
        let report = report(&[
            ("port create", OURS, &[9.0, 1.0, 1.0]),
            ("port create", PEER, &[4.0]),
            ("guest with a VF", OURS, &[3.0]),
            ("guest with a VF", BARE, &[2.0]),
        ]);
        let text = report.to_string();
        assert!(
            text.contains("met      0.25  port create: at most 0.5"),
            "{text}"
        );
        assert!(
            text.contains("NOT met  1.50  guest with a VF: at most 1.3"),
            "{text}"
        );
    }

    #[test]
    fn what_was_not_measured_has_no_aim() {
        assert!(report(&[("port create", OURS, &[1.0])]).aims().is_empty());
    }
}
