//! Attributes whose values are words from a short list.

/// A type whose values have words in XML, each given once.
pub trait Keyword: Copy + PartialEq + 'static {
    /// Every word with its value. The first word of a value is the one that is written.
    const WORDS: &'static [(&'static str, Self)];

    /// The value of a word; the case counts.
    #[must_use]
    fn from_word(word: &str) -> Option<Self> {
        Self::WORDS
            .iter()
            .find_map(|&(known, value)| (known == word).then_some(value))
    }

    /// The word of a value.
    #[must_use]
    fn word(self) -> &'static str {
        Self::WORDS
            .iter()
            .find_map(|&(word, value)| (value == self).then_some(word))
            .unwrap_or_default()
    }

    /// All words, as an error shows them: `a, b or c`.
    #[must_use]
    fn expected() -> String {
        let words: Vec<_> = Self::WORDS.iter().map(|&(word, _)| word).collect();
        match words.as_slice() {
            [] => String::new(),
            [one] => (*one).to_owned(),
            [most @ .., last] => format!("{} or {last}", most.join(", ")),
        }
    }
}

/// Gives a type its words: `keywords!(Colour { Red = "red", Blue = "blue" });`.
macro_rules! keywords {
    ($type:ty { $($value:ident = $word:literal),+ $(,)? }) => {
        impl $crate::xml::Keyword for $type {
            const WORDS: &'static [(&'static str, Self)] = &[$(($word, Self::$value)),+];
        }
    };
}
pub(crate) use keywords;

/// `yes` or `no`, exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words are the document's")]
pub enum YesNo {
    Yes,
    No,
}

/// `on` or `off`, exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words are the document's")]
pub enum OnOff {
    On,
    Off,
}

keywords!(YesNo { Yes = "yes", No = "no" });
keywords!(OnOff { On = "on", Off = "off" });

impl From<bool> for YesNo {
    fn from(value: bool) -> Self {
        if value { Self::Yes } else { Self::No }
    }
}

impl From<bool> for OnOff {
    fn from(value: bool) -> Self {
        if value { Self::On } else { Self::Off }
    }
}

impl From<YesNo> for bool {
    fn from(value: YesNo) -> Self {
        value == YesNo::Yes
    }
}

impl From<OnOff> for bool {
    fn from(value: OnOff) -> Self {
        value == OnOff::On
    }
}
