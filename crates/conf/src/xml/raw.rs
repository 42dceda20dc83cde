//! Pieces of documents that are carried through.

use std::ops::Range;

/// A piece of a document, kept byte for byte.
///
/// Made by [`Element::raw`](super::Element::raw) from one element of a checked document; namespace
/// declarations that it needs from further up are added to its first tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawXml(pub String);

impl RawXml {
    /// The piece as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of its element, with its prefix.
    #[must_use]
    pub fn name(&self) -> &str {
        first_name(&self.0)
    }
}

/// The name of the element that a text starts with, with its prefix.
pub(super) fn first_name(text: &str) -> &str {
    let inner = text.strip_prefix('<').unwrap_or(text);
    let end = inner.find(|c: char| c.is_ascii_whitespace() || c == '/' || c == '>');
    end.map_or(inner, |end| &inner[..end])
}

/// A text with pieces of it replaced; they don't overlap.
pub(crate) fn edited(text: &str, mut edits: Vec<(Range<usize>, String)>) -> String {
    // Stable: of two at one place the first comes first.
    edits.sort_by_key(|(range, _)| range.start);
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for (range, new) in edits {
        out.push_str(&text[at..range.start]);
        out.push_str(&new);
        at = range.end;
    }
    out + &text[at..]
}
