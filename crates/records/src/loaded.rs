//! What a file turned out to be.

use std::fmt;
use std::path::PathBuf;

/// Bytes of an unreadable record that are kept for whoever can make something of them.
const HEAD: usize = 64 * 1024;

/// A record, as it was found. `id` is the name under which it was written.
#[derive(Debug)]
#[must_use = "an unreadable record bars what it is about"]
pub enum Loaded<T> {
    /// It belongs to this boot.
    Good {
        /// Its identity.
        id: String,
        /// What it tells.
        record: T,
        /// The format that it was written in.
        format: u32,
    },
    /// Removed: what it tells went with its boot.
    OtherBoot {
        /// Its identity.
        id: String,
        /// What it told, if that could be read.
        record: Option<T>,
    },
    /// It makes no sense, or not to this release. It stays, and what it is about must not be touched.
    Unreadable(Unreadable),
}

/// A record that can't be read, and was left where it is.
#[derive(thiserror::Error)]
#[error("the record '{}' can't be read: {reason}", .path.display())]
pub struct Unreadable {
    /// Its identity, for [`crate::Records::remove`] too.
    pub id: String,
    /// The file.
    pub path: PathBuf,
    /// The format that it says it has.
    pub format: Option<u32>,
    /// What is wrong with it.
    pub reason: String,
    /// Its text, or the first 64 KiB of it. It may hold secrets, so `Debug` leaves it out.
    pub text: String,
}

impl Unreadable {
    pub(crate) fn new(
        id: String,
        path: PathBuf,
        format: Option<u32>,
        reason: String,
        text: &[u8],
    ) -> Self {
        let head = text.get(..HEAD).unwrap_or(text);
        Self {
            id,
            path,
            format,
            reason,
            text: String::from_utf8_lossy(head).into_owned(),
        }
    }
}

impl fmt::Debug for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unreadable")
            .field("path", &self.path)
            .field("format", &self.format)
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}
