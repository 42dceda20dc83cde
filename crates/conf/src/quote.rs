//! Names in commands that a person is told to type.

use std::borrow::Cow;

/// A word as a shell takes it for one, and a command for no option: in quotes, if need be.
///
/// ```
/// assert_eq!(conf::quoted("vfs"), "vfs");
/// assert_eq!(conf::quoted("it's"), r"'it'\''s'");
/// ```
#[must_use]
pub fn quoted(word: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_alphanumeric() || "._-/:@%+".contains(c);
    if !word.is_empty() && !word.starts_with('-') && word.chars().all(is_plain) {
        return Cow::Borrowed(word);
    }
    // An option can't begin with a quote that is the shell's alone: virsh ends options with `--`.
    let dashes = if word.starts_with('-') { "-- " } else { "" };
    Cow::Owned(format!("{dashes}'{}'", word.replace('\'', r"'\''")))
}
