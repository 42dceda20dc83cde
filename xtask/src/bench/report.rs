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
/// The unit of what is the better the more there is of it.
const RATE: &str = "ports/s";

/// Of the column that says what was measured.
const WIDTH: usize = 54;

/// What a script hands over.
#[derive(Debug, Deserialize)]
pub(super) struct Sample {
    /// What was measured.
    pub(super) what: String,
    /// Whose it is.
    pub(super) who: String,
    /// Of the samples.
    pub(super) unit: String,
    /// Of what was measured, where that was done in several.
    pub(super) size: Option<u32>,
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
    size: Option<u32>,
    count: usize,
    median: f64,
    mean: f64,
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
                size: sample.size,
                count: sorted.len(),
                median,
                mean: sorted.iter().sum::<f64>() / sorted.len() as f64,
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

    /// The same, by somebody else.
    fn beside(&self, this: &Measurement, who: &str) -> Option<&Measurement> {
        let same = |one: &&Measurement| {
            (one.place, &one.what, one.size) == (this.place, &this.what, this.size)
        };
        let mut others = self.measurements.iter().filter(|one| one.who == who);
        others.find(same)
    }

    /// Our median as a part of another's.
    fn ratio(&self, place: Place, what: &str, other: &str) -> Option<f64> {
        let mut all = self.measurements.iter();
        let ours = all.find(|one| one.place == place && one.what == what && one.who == OURS)?;
        Some(ours.median / self.beside(ours, other)?.median)
    }

    /// What a station lost in a switch on average, as a part of what it lost with another; all of which nothing was lost
    /// is 0.
    fn loss(&self, what: &str) -> Option<f64> {
        let mut all = self.measurements.iter();
        let ours = all.find(|one| one.what == what && one.who == OURS)?;
        let theirs = self.beside(ours, PEER)?.mean;
        Some(if ours.mean == 0.0 {
            0.0
        } else {
            ours.mean / theirs
        })
    }

    /// Our median.
    fn ours(&self, place: Place, what: &str) -> Option<f64> {
        let mut all = self.measurements.iter();
        let ours = all.find(|one| one.place == place && one.what == what && one.who == OURS)?;
        Some(ours.median)
    }

    /// A writer's list beside hostile readers, as a multiple of one at rest.
    fn beside_readers(&self) -> Option<f64> {
        let median = |when: &str| self.ours(Place::Readers, &format!("a writer's list {when}"));
        Some(median("beside hostile readers")? / median("at rest")?)
    }

    /// What we did in several sizes: the first of each, the median of its largest as a part of its
    /// smallest's, and both sizes.
    fn growths(&self) -> Vec<(&Measurement, f64, u32, u32)> {
        let ours = || self.measurements.iter().filter(|one| one.who == OURS);
        let mut growths: Vec<(&Measurement, f64, u32, u32)> = Vec::new();
        for one in ours() {
            if growths.iter().any(|(known, ..)| known.what == one.what) {
                continue;
            }
            let sizes = || {
                let same = ours().filter(|other| other.what == one.what);
                same.filter_map(|other| Some((other.size?, other.median)))
            };
            let smallest = sizes().min_by_key(|(size, _)| *size);
            let largest = sizes().max_by_key(|(size, _)| *size);
            if let (Some((small, least)), Some((large, most))) = (smallest, largest)
                && small < large
            {
                growths.push((one, most / least, small, large));
            }
        }
        growths
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
        for (one, growth, small, large) in self.growths() {
            let what = one.what.as_str();
            if one.unit == RATE {
                let what = format!("{what}: {large} get no less than {small}");
                aim(what, one.place, 1.0, Some(growth), |seen, limit| {
                    seen >= limit
                });
            } else {
                let what = format!("{what}: {large} take at most twice the time of {small}");
                aim(what, one.place, 2.0, Some(growth), |seen, limit| {
                    seen <= limit
                });
            }
        }
        let seen = self.ratio(Place::Lab, "guest with a VF", BARE);
        let what = "guest with a VF: at most 1.3 of the bare script's".to_owned();
        aim(what, Place::Lab, 1.3, seen, |seen, limit| seen <= limit);
        for kind in ["VF", "macvtap"] {
            for what in [format!("{kind} attached"), format!("{kind} detached")] {
                for (other, limit) in [(BARE, 1.2), (PEER, 0.5)] {
                    let seen = self.ratio(Place::Lab, &what, other);
                    let what = format!("{what}: at most {limit} of {other}'s");
                    aim(what, Place::Lab, limit, seen, |seen, limit| seen <= limit);
                }
            }
        }
        for what in ["pings lost, VF unplugged", "pings lost, VF plugged"] {
            let seen = self.loss(what);
            let what = format!("{what}: on average at most 0.5 of libvirtd's");
            aim(what, Place::Lab, 0.5, seen, |seen, limit| seen <= limit);
        }
        let seen = self.beside_readers();
        let what = "a writer's list beside hostile readers: at most 10 times of that at rest";
        aim(
            what.to_owned(),
            Place::Readers,
            10.0,
            seen,
            |seen, limit| seen <= limit,
        );
        let seen = self.ours(Place::Readers, "memory beside hostile readers, peak");
        let what = "memory beside hostile readers: under 128 MB";
        aim(
            what.to_owned(),
            Place::Readers,
            128.0,
            seen,
            |seen, limit| seen < limit,
        );
        let median = |what: &str| self.ours(Place::Owners, what);
        let ratio = |what: &str, other: &str| Some(median(what)? / median(other)?);
        let under = |seen: f64, limit: f64| seen < limit;
        let beside = ratio(
            "a reader's net-list while a PF makes VFs",
            "a reader's net-list at rest",
        );
        let what = "a reader's net-list while a PF makes VFs: at most twice that at rest";
        aim(what.to_owned(), Place::Owners, 2.0, beside, under);
        for (step, limit) in [
            ("until it answers", 1000.0),
            ("until all guests are reconnected", 5000.0),
        ] {
            let what = format!("restart: {step}");
            let seen = median(&what);
            aim(
                format!("{what}: under {limit} ms"),
                Place::Owners,
                limit,
                seen,
                under,
            );
        }
        let at_once = ratio(
            "guests with a VF, started at once",
            "guests with a VF, one after another",
        );
        let what = "guests with a VF started at once: at most 0.25 of one after another";
        aim(what.to_owned(), Place::Owners, 0.25, at_once, under);
        for one in &self.measurements {
            if one.who == OURS && one.what.starts_with("memory") && one.what.ends_with("resident") {
                let what = format!("{}: under 8 MB", one.what);
                aim(what, one.place, 8.0, Some(one.median), |seen, limit| {
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
                    "\n{:<WIDTH$} {:<12} {:>5} {:>12} {:>12}  virtnicd's to it",
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
                .then(|| self.beside(one, OURS))
                .flatten()
                .map_or_else(String::new, |ours| {
                    format!("  {:.2}", ours.median / one.median)
                });
            let what = match one.size {
                Some(size) => format!("{} ({size})", one.what),
                None => one.what.clone(),
            };
            writeln!(
                f,
                "{:<WIDTH$} {:<12} {:>5} {:>12} {:>12}{ratio}",
                what,
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
                size: None,
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
    fn the_largest_is_compared_with_the_smallest_wherever_they_stand() {
        let mut report = Report::default();
        let mut add = |what: &str, who: &str, unit: &str, size, sample| {
            let sample = Sample {
                what: what.to_owned(),
                who: who.to_owned(),
                unit: unit.to_owned(),
                size: Some(size),
                samples: vec![sample],
            };
            report.add(Place::Pools, sample);
        };
        for (size, time) in [(64, 9.0), (16, 2.0), (1024, 5.0)] {
            add("port", OURS, "ms", size, time);
            add("port", PEER, "ms", size, 2.0 * time);
        }
        add("clients", OURS, RATE, 1, 100.0);
        add("clients", OURS, RATE, 8, 150.0);
        add("alone", OURS, "ms", 8, 1.0);
        let text = report.to_string();
        for line in [
            "NOT met  2.50  port: 1024 take at most twice the time of 16",
            "met      1.50  clients: 8 get no less than 1",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert_eq!(report.aims().len(), 2);
        let ratios = text.lines().filter(|line| line.ends_with("  0.50"));
        assert_eq!(ratios.count(), 3, "{text}");
    }

    #[test]
    fn a_writers_list_beside_readers_is_compared_with_one_at_rest() {
        let mut report = Report::default();
        for (what, unit, sample) in [
            ("a writer's list at rest", "ms", 0.2),
            ("a writer's list beside hostile readers", "ms", 1.0),
            ("memory beside hostile readers, peak", "MB", 130.0),
        ] {
            let sample = Sample {
                what: what.to_owned(),
                who: OURS.to_owned(),
                unit: unit.to_owned(),
                size: None,
                samples: vec![sample],
            };
            report.add(Place::Readers, sample);
        }
        let text = report.to_string();
        for line in [
            "met      5.00  a writer's list beside hostile readers: at most 10 times",
            "NOT met  130.00  memory beside hostile readers: under 128 MB",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn what_was_not_measured_has_no_aim() {
        assert!(report(&[("port create", OURS, &[1.0])]).aims().is_empty());
    }
}
