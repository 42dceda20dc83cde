//! Which clients may come in.

use std::str::FromStr;

use super::names::{Attribute, ClientName, DistinguishedName};

/// Longest pattern, in bytes.
const LONGEST: usize = 4096;

/// The clients that may come in; nobody, if it is empty.
#[derive(Debug, Clone, Default)]
pub struct AllowList(Vec<AllowPattern>);

impl AllowList {
    /// Whether nobody may come in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether any client of the CA may come in.
    #[must_use]
    pub fn allows_anybody(&self) -> bool {
        self.0.iter().any(|one| matches!(one.0, Pattern::Anybody))
    }

    /// Whether this client may.
    #[must_use]
    pub fn allows(&self, client: &ClientName) -> bool {
        self.0.iter().any(|pattern| pattern.matches(client))
    }

    /// Reads a file of patterns, one a line; empty lines and those that begin with `#` say nothing.
    ///
    /// # Errors
    /// The number of the first line that is no pattern, from 1, and what is wrong with it.
    pub fn read(text: &str) -> Result<AllowList, (usize, PatternError)> {
        let lines = text.lines().map(str::trim).enumerate();
        let said = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        said.map(|(number, line)| line.parse().map_err(|error| (number + 1, error)))
            .collect::<Result<_, _>>()
            .map(AllowList)
    }
}

impl Extend<AllowPattern> for AllowList {
    fn extend<T: IntoIterator<Item = AllowPattern>>(&mut self, more: T) {
        self.0.extend(more);
    }
}

impl FromIterator<AllowPattern> for AllowList {
    fn from_iter<T: IntoIterator<Item = AllowPattern>>(patterns: T) -> AllowList {
        AllowList(patterns.into_iter().collect())
    }
}

/// Clients by name.
///
/// * `C=GB,O=Example,CN=client1`: a subject, whole, in the order in which GnuTLS and libvirt print it. In a
///   value `*` stands for any text and `?` for a character; a part that is only `*` stands for any number of
///   parts. A `\` takes its meaning from the character after it. Unlike libvirt's, a `*` never reaches from
///   one part into another.
/// * `host.example.org`: a DNS name among the alternative names; `*.example.org`: with one word before.
/// * `*`: anybody who has a certificate of the CA.
///
/// ```
/// use rpc::tls::AllowPattern;
/// assert!("O=Example,CN=*".parse::<AllowPattern>().is_ok());
/// assert!("CN=a,b".parse::<AllowPattern>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowPattern(Pattern);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Anybody,
    Dns { any_first: bool, rest: String },
    Subject(Vec<Part>),
}

/// What a part of a subject has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    AnyNumber,
    One(Vec<(Attribute, Vec<Piece>)>),
}

/// What a piece of a value has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    AnyText,
    AnyCharacter,
    Character(char),
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// Nothing, or far too much.
    #[error("a name has 1 to {LONGEST} bytes")]
    Length,
    /// No `=` in a part of a subject.
    #[error("the part '{0}' is not ATTRIBUTE=VALUE; a comma in a value is written '\\,'")]
    NoValue(String),
    /// An unknown word.
    #[error(
        "there is no attribute '{0}'; usual ones are C, ST, L, O, OU, CN, others are numbers in dots"
    )]
    Attribute(String),
    /// Nothing after a `\`.
    #[error("nothing follows the last '\\'")]
    Escape,
    /// No DNS name either.
    #[error(
        "'{0}' is neither a subject, such as O=Example,CN=client1, nor a DNS name, in which '*.' may \
         stand first"
    )]
    Dns(String),
}

impl AllowPattern {
    fn matches(&self, client: &ClientName) -> bool {
        match &self.0 {
            Pattern::Anybody => true,
            Pattern::Dns { any_first, rest } => client.dns.iter().any(|name| {
                let compared = match (any_first, name.split_once('.')) {
                    (false, _) => name,
                    // What a certificate is for in general names nobody.
                    (true, Some((word, rest))) if !word.is_empty() && word != "*" => rest,
                    (true, _) => return false,
                };
                compared.eq_ignore_ascii_case(rest)
            }),
            Pattern::Subject(parts) => matches_subject(parts, &client.subject),
        }
    }
}

fn matches_subject(parts: &[Part], subject: &DistinguishedName) -> bool {
    let found: Vec<Vec<(&Attribute, Option<&str>)>> =
        subject.parts().map(Iterator::collect).collect();
    matches_all(
        parts,
        &found,
        |part| *part == Part::AnyNumber,
        |part, found| match part {
            Part::AnyNumber => true,
            Part::One(wanted) => {
                wanted.len() == found.len()
                    && wanted
                        .iter()
                        .zip(found)
                        .all(|((kind, pieces), (of, value))| {
                            kind == *of && value.is_some_and(|value| matches_value(pieces, value))
                        })
            }
        },
    )
}

fn matches_value(pieces: &[Piece], value: &str) -> bool {
    let characters: Vec<char> = value.chars().collect();
    matches_all(
        pieces,
        &characters,
        |piece| *piece == Piece::AnyText,
        |piece, found| match piece {
            Piece::AnyText | Piece::AnyCharacter => true,
            Piece::Character(wanted) => wanted == found,
        },
    )
}

/// Whether the wanted are the found, of which some wanted ones stand for any number. Costs at most the
/// product of their numbers.
fn matches_all<W, F>(
    wanted: &[W],
    found: &[F],
    is_any: impl Fn(&W) -> bool,
    is_one: impl Fn(&W, &F) -> bool,
) -> bool {
    let (mut w, mut f) = (0, 0);
    // After the last that stands for any number: there, and how far it was stretched.
    let mut again = None;
    while f < found.len() {
        match wanted.get(w) {
            Some(any) if is_any(any) => {
                again = Some((w + 1, f));
                w += 1;
            }
            Some(one) if is_one(one, &found[f]) => {
                w += 1;
                f += 1;
            }
            _ => {
                let Some((after, from)) = &mut again else {
                    return false;
                };
                *from += 1;
                (w, f) = (*after, *from);
            }
        }
    }
    wanted[w..].iter().all(is_any)
}

impl FromStr for AllowPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<AllowPattern, PatternError> {
        let text = text.trim();
        if text.is_empty() || text.len() > LONGEST {
            return Err(PatternError::Length);
        }
        if text == "*" {
            return Ok(AllowPattern(Pattern::Anybody));
        }
        if !text.contains('=') {
            return dns(text).map(AllowPattern);
        }
        let parts = split(text, ',').into_iter().map(|part| match part.trim() {
            "*" => Ok(Part::AnyNumber),
            part => one_part(part),
        });
        Ok(AllowPattern(Pattern::Subject(
            parts.collect::<Result<_, _>>()?,
        )))
    }
}

fn dns(text: &str) -> Result<Pattern, PatternError> {
    let (any_first, rest) = match text.strip_prefix("*.") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let is_word = |word: &str| {
        let is_fine = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        !word.is_empty() && word.chars().all(is_fine)
    };
    if !rest.split('.').all(is_word) {
        return Err(PatternError::Dns(text.to_owned()));
    }
    Ok(Pattern::Dns {
        any_first,
        rest: rest.to_owned(),
    })
}

fn one_part(part: &str) -> Result<Part, PatternError> {
    let attributes = split(part, '+').into_iter().map(|one| {
        let no_value = || PatternError::NoValue(part.to_owned());
        let (word, value) = one.split_once('=').ok_or_else(no_value)?;
        let word = word.trim();
        let attribute =
            Attribute::named(word).ok_or_else(|| PatternError::Attribute(word.to_owned()))?;
        Ok((attribute, pieces(value.trim_start())?))
    });
    attributes.collect::<Result<_, _>>().map(Part::One)
}

/// The pieces of a value.
fn pieces(value: &str) -> Result<Vec<Piece>, PatternError> {
    let mut pieces = Vec::new();
    let mut rest = value.chars();
    while let Some(c) = rest.next() {
        pieces.push(match c {
            '*' => Piece::AnyText,
            '?' => Piece::AnyCharacter,
            '\\' => Piece::Character(rest.next().ok_or(PatternError::Escape)?),
            other => Piece::Character(other),
        });
    }
    Ok(pieces)
}

/// The parts between separators that no `\` stands before.
fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        if c == separator && !escaped {
            parts.push(&text[start..at]);
            start = at + c.len_utf8();
        }
        escaped = c == '\\' && !escaped;
    }
    parts.push(&text[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, subject: &[&[(&str, &str)]]) -> bool {
        let pattern: AllowPattern = pattern.parse().unwrap();
        let client = ClientName {
            subject: DistinguishedName::made(subject),
            dns: Vec::new(),
        };
        pattern.matches(&client)
    }

    #[test]
    fn a_subject_is_compared_whole_part_by_part() {
        let client: &[&[(&str, &str)]] =
            &[&[("C", "GB")], &[("O", "Example")], &[("CN", "client1")]];
        for pattern in [
            "C=GB,O=Example,CN=client1",
            "c=GB, o=Example , cn=client1",
            "2.5.4.6=GB,*",
            "*,CN=client1",
            "C=GB,*,CN=client?",
            "*,O=Ex*le,*",
            "C=*,O=*,CN=*",
            "C=GB,*,O=Example,CN=client1",
        ] {
            assert!(matches(pattern, client), "{pattern}");
        }
        for pattern in [
            "CN=client1",
            "CN=*",
            "C=GB,O=Example",
            "C=GB*,CN=client1",
            "O=Example,C=GB,CN=client1",
            "C=gb,O=Example,CN=client1",
            "C=GB,O=Example,CN=client",
            "C=GB,O=Example,CN=client\\*",
            "C=GB,O=Example,CN=client1,*,CN=*",
            "C=GB+O=Example,CN=client1",
        ] {
            assert!(!matches(pattern, client), "{pattern}");
        }
    }

    #[test]
    fn what_is_in_a_value_is_never_taken_for_a_part() {
        let client: &[&[(&str, &str)]] =
            &[&[("O", "Other"), ("OU", "a+b")], &[("CN", "x,CN=client1")]];
        assert!(!matches("*,CN=client1", client));
        assert!(!matches("*,CN=x", client) && !matches("*,CN=x,*", client));
        assert!(matches("O=Other+OU=a\\+b,CN=x\\,CN=client1", client));
        assert!(matches("*", client) && matches("*", &[]) && matches("*,CN=*,*", client));
    }

    proptest! {
        #[test]
        fn any_text_is_a_pattern_or_not(text in "\\PC{0,40}") {
            let _ = text.parse::<AllowPattern>();
        }

        #[test]
        fn stars_stand_for_any_text(pattern in "[ab*?]{0,8}", value in "[ab]{0,10}") {
            let wanted = pieces(&pattern).unwrap();
            prop_assert_eq!(matches_value(&wanted, &value), naive(&wanted, &value));
        }

        #[test]
        fn a_name_as_it_is_shown_matches_itself(values in proptest::collection::vec("[a,+*?=\\\\# ]{1,6}", 1..4)) {
            let values: Vec<String> = values.iter().map(|value| format!("x{value}x")).collect();
            let pairs: Vec<_> = values.iter().map(|value| [("CN", value.as_str())]).collect();
            let parts: Vec<&[(&str, &str)]> = pairs.iter().map(|pair| &pair[..]).collect();
            let shown = DistinguishedName::made(&parts).to_string();
            prop_assert!(matches(&shown, &parts), "{}", shown);
        }
    }

    fn naive(pieces: &[Piece], value: &str) -> bool {
        let rest = || value.chars().next().map(|first| &value[first.len_utf8()..]);
        match pieces.split_first() {
            None => value.is_empty(),
            Some((Piece::AnyText, after)) => {
                naive(after, value) || rest().is_some_and(|rest| naive(pieces, rest))
            }
            Some((Piece::AnyCharacter, after)) => rest().is_some_and(|rest| naive(after, rest)),
            Some((Piece::Character(c), after)) => {
                value.starts_with(*c) && rest().is_some_and(|rest| naive(after, rest))
            }
        }
    }
}
