//! Sets of host CPUs and NUMA nodes, as `0-3,^2,8`.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;

/// A set of the host's CPUs or NUMA nodes, by number; never empty. A clone shares the numbers.
///
/// Written as numbers and ranges, `0-3,8`. Read also with `^2`, which takes a number out again
/// that stood before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumberSet {
    /// In rising order, with a gap between each two.
    runs: Arc<[RangeInclusive<u16>]>,
}

/// A text that is no set of CPUs or NUMA nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseNumberSetError {
    /// Not the format, or a number beyond [`NumberSet::MAX`].
    #[error("expected numbers and ranges up to {}, as 0-3,^2,8", NumberSet::MAX)]
    Syntax,
    /// Nothing is left in it.
    #[error("expected one number at least")]
    Empty,
}

impl NumberSet {
    /// The greatest number that a set may hold; libvirt's bound.
    pub const MAX: u16 = 16_383;

    /// The set of those numbers, of which none is above [`NumberSet::MAX`]; `None` if there are
    /// none.
    #[must_use]
    pub fn of(numbers: impl IntoIterator<Item = u16>) -> Option<Self> {
        let mut bits = Bits::default();
        for number in numbers {
            bits.put(number..=number, true);
        }
        bits.into_set()
    }

    /// All numbers of those sets; `None` if there are no sets.
    #[must_use]
    pub fn union<'s>(sets: impl IntoIterator<Item = &'s Self>) -> Option<Self> {
        let mut bits = Bits::default();
        for set in sets {
            set.runs.iter().for_each(|run| bits.put(run.clone(), true));
        }
        bits.into_set()
    }

    /// Its numbers without those of another set; `None` if none is left.
    #[must_use]
    pub fn without(&self, other: &Self) -> Option<Self> {
        let mut bits = Bits::default();
        for (set, is_in) in [(self, true), (other, false)] {
            set.runs.iter().for_each(|run| bits.put(run.clone(), is_in));
        }
        bits.into_set()
    }

    /// The numbers, rising.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        self.runs.iter().cloned().flatten()
    }

    /// Whether that number is in it.
    #[must_use]
    pub fn contains(&self, number: u16) -> bool {
        let before = self.runs.partition_point(|run| *run.end() < number);
        self.runs
            .get(before)
            .is_some_and(|run| run.contains(&number))
    }
}

impl FromStr for NumberSet {
    type Err = ParseNumberSetError;

    fn from_str(text: &str) -> Result<Self, ParseNumberSetError> {
        let mut bits = Bits::default();
        for part in text.split(',') {
            let part = part.trim_ascii();
            let (first, last, is_in) = match part.strip_prefix('^') {
                Some(one) => (number(one)?, number(one)?, false),
                None => match part.split_once('-') {
                    Some((first, last)) => (number(first)?, number(last)?, true),
                    None => (number(part)?, number(part)?, true),
                },
            };
            // A range that falls is none.
            if first > last {
                return Err(ParseNumberSetError::Syntax);
            }
            bits.put(first..=last, is_in);
        }
        bits.into_set().ok_or(ParseNumberSetError::Empty)
    }
}

/// A set in the making: a bit for each number, so that a range costs next to nothing however wide
/// it is.
struct Bits([u64; NumberSet::MAX as usize / 64 + 1]);

impl Default for Bits {
    fn default() -> Self {
        Self([0; NumberSet::MAX as usize / 64 + 1])
    }
}

impl Bits {
    fn put(&mut self, range: RangeInclusive<u16>, is_in: bool) {
        let (first, last) = (usize::from(*range.start()), usize::from(*range.end()));
        for word in first / 64..=last / 64 {
            let low = first.saturating_sub(word * 64);
            let high = (last - word * 64).min(63);
            let mask = (u64::MAX << low) & (u64::MAX >> (63 - high));
            match self.0.get_mut(word) {
                Some(bits) if is_in => *bits |= mask,
                Some(bits) => *bits &= !mask,
                None => {} // beyond what a set may hold
            }
        }
    }

    fn into_set(self) -> Option<NumberSet> {
        let mut runs: Vec<RangeInclusive<u16>> = Vec::new();
        for (word, mut bits) in (0_u16..).zip(self.0) {
            while bits != 0 {
                let low = bits.trailing_zeros();
                let length = (bits >> low).trailing_ones();
                let end = low + length - 1;
                // Both are below 64.
                let number = |bit: u32| word * 64 + u16::try_from(bit).unwrap_or(u16::MAX);
                match runs.last_mut() {
                    Some(run) if run.end() + 1 == number(low) => {
                        *run = *run.start()..=number(end);
                    }
                    _ => runs.push(number(low)..=number(end)),
                }
                bits &= !((u64::MAX >> (63 - end)) & (u64::MAX << low));
            }
        }
        (!runs.is_empty()).then(|| NumberSet { runs: runs.into() })
    }
}

/// A number within the bound, in digits alone.
fn number(text: &str) -> Result<u16, ParseNumberSetError> {
    let text = text.trim_ascii();
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| digits);
    number
        .filter(|&number| number <= NumberSet::MAX)
        .ok_or(ParseNumberSetError::Syntax)
}

impl fmt::Display for NumberSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, run) in self.runs.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(f, "{comma}{}", run.start())?;
            if run.start() != run.end() {
                write!(f, "-{}", run.end())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> Result<String, ParseNumberSetError> {
        text.parse::<NumberSet>().map(|set| set.to_string())
    }

    #[test]
    fn sets_are_read_as_libvirt_does_and_written_in_one_form() {
        for (text, form) in [
            ("0", "0"),
            ("0-3,^2,8", "0-1,3,8"),
            (" 5 , 3 - 4,1", "1,3-5"),
            ("0,1", "0-1"),
            ("^1,1", "1"),
            ("7-7,7", "7"),
            ("0-16383", "0-16383"),
        ] {
            assert_eq!(canonical(text).as_deref(), Ok(form), "{text}");
            assert_eq!(canonical(form).as_deref(), Ok(form));
        }
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for text in [
            "",
            " ",
            ",",
            "x",
            "-1",
            "1-",
            "3-1",
            "^1-2,5",
            "1;2",
            "+1",
            "0x1",
            "16384",
            "0-99999999999999999999",
            "1 2",
            "1-2-3",
            "^",
        ] {
            assert_eq!(
                canonical(text),
                Err(ParseNumberSetError::Syntax),
                "{text:?}"
            );
        }
        assert_eq!(canonical("3,^3"), Err(ParseNumberSetError::Empty));
    }

    #[test]
    fn membership() {
        let set: NumberSet = "0-2,9".parse().unwrap();
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 1, 2, 9]);
        assert!(set.contains(9) && !set.contains(3) && !set.contains(10));
    }

    #[test]
    fn sets_are_joined_and_taken_from_each_other() {
        let set = |text: &str| text.parse::<NumberSet>().unwrap();
        let join = |texts: &[&str]| {
            let sets: Vec<_> = texts.iter().map(|text| set(text)).collect();
            NumberSet::union(&sets).map(|set| set.to_string())
        };
        assert_eq!(join(&["0-62", "63-64,70", "65"]).unwrap(), "0-65,70");
        assert_eq!(join(&["16383", "0"]).unwrap(), "0,16383");
        assert_eq!(join(&[]), None);
        let left = set("0-200").without(&set("1-127,130,200-300"));
        assert_eq!(left.unwrap().to_string(), "0,128-129,131-199");
        assert_eq!(set("5").without(&set("0-16383")), None);
        assert_eq!(
            NumberSet::of([64, 63, 3, 3]).unwrap().to_string(),
            "3,63-64"
        );
    }

    #[test]
    fn a_clone_holds_no_numbers_of_its_own() {
        let set: NumberSet = "0-16383".parse().unwrap();
        assert!(Arc::ptr_eq(&set.runs, &set.clone().runs));
    }
}
