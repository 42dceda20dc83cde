//! Sets of host CPUs and NUMA nodes, as `0-3,^2,8`.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// A set of the host's CPUs or NUMA nodes, by number; never empty.
///
/// Written as numbers and ranges, `0-3,8`. Read also with `^2`, which takes a number out again
/// that stood before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumberSet {
    /// In rising order, with a gap between each two.
    runs: Vec<RangeInclusive<u16>>,
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

    /// The set of those numbers; `None` if there are none.
    #[must_use]
    pub fn of(numbers: impl IntoIterator<Item = u16>) -> Option<Self> {
        let numbers: BTreeSet<u16> = numbers.into_iter().collect();
        let mut runs: Vec<RangeInclusive<u16>> = Vec::new();
        for number in numbers {
            match runs.last_mut() {
                Some(run) if run.end() + 1 == number => *run = *run.start()..=number,
                _ => runs.push(number..=number),
            }
        }
        (!runs.is_empty()).then_some(Self { runs })
    }

    /// The numbers, rising.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        self.runs.iter().cloned().flatten()
    }

    /// Whether that number is in it.
    #[must_use]
    pub fn contains(&self, number: u16) -> bool {
        self.runs.iter().any(|run| run.contains(&number))
    }
}

impl FromStr for NumberSet {
    type Err = ParseNumberSetError;

    fn from_str(text: &str) -> Result<Self, ParseNumberSetError> {
        let mut present = vec![false; usize::from(Self::MAX) + 1];
        for part in text.split(',') {
            let part = part.trim_ascii();
            let (range, is_in) = match part.strip_prefix('^') {
                Some(one) => (number(one)?..=number(one)?, false),
                None => match part.split_once('-') {
                    Some((first, last)) => (number(first)?..=number(last)?, true),
                    None => (number(part)?..=number(part)?, true),
                },
            };
            // A range that falls is none.
            let slots = present.get_mut(range).filter(|slots| !slots.is_empty());
            slots.ok_or(ParseNumberSetError::Syntax)?.fill(is_in);
        }
        let numbers = (0..=Self::MAX).zip(present).filter(|(_, is_in)| *is_in);
        Self::of(numbers.map(|(number, _)| number)).ok_or(ParseNumberSetError::Empty)
    }
}

/// A number within the bound, in digits alone.
fn number(text: &str) -> Result<usize, ParseNumberSetError> {
    let text = text.trim_ascii();
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| digits);
    number
        .filter(|&number| number <= usize::from(NumberSet::MAX))
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
        assert!(set.contains(9) && !set.contains(3));
    }
}
