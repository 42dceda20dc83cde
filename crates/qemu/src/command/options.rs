//! QEMU's option lists: `value,key=value,…`. A document's text is in a list only as one value of it:
//! commas are doubled, which QEMU reads as one. Where QEMU doesn't (`-cpu`), a text has to be a
//! [`Word`].

use std::fmt;

/// The value of an option of the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OptionValue(String);

/// A list of keys and their values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct OptionList(String);

/// A text that means itself wherever it stands: letters, digits, `.`, `_` and `-`, and a letter or
/// digit first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word<'a>(&'a str);

impl<'a> Word<'a> {
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        (begins && text.chars().all(is_plain)).then_some(Self(text))
    }
}

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl OptionList {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// A list that begins with the value of the option's own key, which isn't written.
    pub(super) fn of(value: impl fmt::Display) -> Self {
        Self(doubled(value))
    }

    pub(super) fn with(self, key: &'static str, value: impl fmt::Display) -> Self {
        self.with_word(Word(key), value)
    }

    /// Adds a key that is a document's.
    pub(super) fn with_word(mut self, key: Word<'_>, value: impl fmt::Display) -> Self {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        self.0.push_str(&format!("{key}={}", doubled(value)));
        self
    }

    /// Adds the key, if there is something to add.
    pub(super) fn maybe(self, key: &'static str, value: Option<impl fmt::Display>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }
}

fn doubled(value: impl fmt::Display) -> String {
    value.to_string().replace(',', ",,")
}

impl OptionValue {
    /// A value that is no list: QEMU takes it as it is.
    pub(super) fn whole(text: impl fmt::Display) -> Self {
        Self(text.to_string())
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }
}

/// A text of ours.
impl From<&'static str> for OptionValue {
    fn from(text: &'static str) -> Self {
        Self(text.to_owned())
    }
}

impl From<OptionList> for OptionValue {
    fn from(list: OptionList) -> Self {
        Self(list.0)
    }
}

/// JSON, which escapes in its own way. An option takes it where it begins with a brace.
impl From<super::json::Object> for OptionValue {
    fn from(object: super::json::Object) -> Self {
        Self(object.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stays_one_value() {
        let list = OptionList::of("a,b")
            .with("key", "c,d=e")
            .maybe("none", None::<u32>);
        assert_eq!(OptionValue::from(list).into_text(), "a,,b,key=c,,d=e");
        let list = OptionList::new().with("one", 1).with("two", 2);
        assert_eq!(OptionValue::from(list).into_text(), "one=1,two=2");
    }

    #[test]
    fn a_word_means_itself() {
        for word in ["Haswell-noTSX-IBRS", "sse4.1", "hv_time", "486"] {
            assert!(Word::parse(word).is_some(), "{word}");
        }
        for other in ["", "a,b", "a=b", "+a", "-a", "a b", "a\n", "ä", "{", ".a"] {
            assert!(Word::parse(other).is_none(), "{other}");
        }
    }
}
