//! What is wrong with a document.

use std::fmt;

/// A document that can't be used, with the place and libvirt's class of the fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// libvirt's class of the fault; clients act on it.
    pub kind: ErrorKind,
    /// What is wrong and what was expected, in one line, names inside; cut where it is longer than
    /// anybody reads.
    pub message: String,
    /// Line and column, from 1, where the fault can be placed.
    pub position: Option<(u32, u32)>,
    /// The element, as `/network/forward/pf`.
    pub path: Option<String>,
    /// What a person can do about it, where that is more than to write what was expected.
    pub advice: Option<String>,
    /// What else is wrong with the same document, as far as it could be read, up to [`MAX_FAULTS`]
    /// in all; each of these has nothing here.
    pub also: Vec<Error>,
}

/// The most faults that are told of one document; nobody reads more, and reading ends at them.
pub const MAX_FAULTS: usize = 20;

/// The longest message, bytes: names and values stand in it as the document has them.
const LONGEST: usize = 1000;

/// libvirt's error classes that a document can meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// `internal error` (1).
    Internal,
    /// `invalid argument` (8).
    InvalidArgument,
    /// `operation failed` (9).
    OperationFailed,
    /// `unknown OS type` (16).
    OsType,
    /// `missing target information` (20).
    NoTarget,
    /// `missing name information` (21).
    NoName,
    /// `XML error` (27): not well-formed, or not what the format says.
    Xml,
    /// An XML fault told without a prefix (35).
    XmlDetail,
    /// `Requested operation is not valid` (55): not on this object as it is.
    OperationInvalid,
    /// `unsupported configuration` (67): well-formed, and not to be had.
    ConfigUnsupported,
    /// `numerical overflow` (82).
    Overflow,
    /// `Operation not supported` (84): on no object of the kind.
    OperationUnsupported,
}

impl Error {
    /// A fault without a place.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: shortened(message.into()),
            position: None,
            path: None,
            advice: None,
            also: Vec::new(),
        }
    }

    /// The same with what else is wrong, as far as that is told.
    pub(crate) fn with(mut self, mut other: Self) -> Self {
        let further = std::mem::take(&mut other.also);
        self.also.extend(std::iter::once(other).chain(further));
        self.also.truncate(MAX_FAULTS - 1);
        self
    }

    /// The same at another line and column.
    pub(crate) fn placed(mut self, position: (u32, u32)) -> Self {
        self.position = Some(position);
        self
    }

    /// Whether it tells as many faults as are told, so that there may be others.
    fn is_full(&self) -> bool {
        self.also.len() + 1 >= MAX_FAULTS
    }

    /// Fails with all that is wrong, told by the first of them.
    pub(crate) fn all(results: impl IntoIterator<Item = Result<(), Self>>) -> Result<(), Self> {
        let mut faults = Faults::default();
        for result in results {
            faults.or_default(result);
        }
        faults.finish()
    }
}

/// A text as an error tells it.
pub(crate) fn shortened(mut text: String) -> String {
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST));
        text.push('…');
    }
    text
}

/// What was found wrong so far, where reading goes on behind a fault.
#[derive(Debug, Default)]
pub(crate) struct Faults(Option<Error>);

impl Faults {
    /// What was read; after a fault, which is kept, nothing.
    pub(crate) fn or_default<T: Default>(&mut self, result: Result<T, Error>) -> T {
        self.or(result, T::default)
    }

    /// What was read; after a fault, which is kept, what reading goes on with instead.
    pub(crate) fn or<T>(&mut self, result: Result<T, Error>, instead: impl FnOnce() -> T) -> T {
        result.unwrap_or_else(|error| {
            self.push(error);
            instead()
        })
    }

    /// What was read; `None` after a fault, which is kept.
    pub(crate) fn optional<T>(&mut self, result: Result<T, Error>) -> Option<T> {
        self.or(result.map(Some), || None)
    }

    /// Keeps a fault, and those told with it, as far as they are told.
    pub(crate) fn push(&mut self, error: Error) {
        self.0 = Some(match self.0.take() {
            None => error,
            Some(first) => first.with(error),
        });
    }

    /// Reads one part of a document after the other, until there are as many faults as are told.
    pub(crate) fn each<T>(
        &mut self,
        parts: impl IntoIterator<Item = T>,
        mut read: impl FnMut(T) -> Result<(), Error>,
    ) {
        for part in parts {
            if self.is_full() {
                return;
            }
            self.or_default(read(part));
        }
    }

    fn is_full(&self) -> bool {
        self.0.as_ref().is_some_and(Error::is_full)
    }

    /// Whether nothing was found wrong so far.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// # Errors
    /// The first fault, with the others.
    pub(crate) fn finish(self) -> Result<(), Error> {
        self.0.map_or(Ok(()), Err)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match (&self.path, self.position) {
            (Some(path), Some((line, column))) => {
                write!(f, " ({path}, line {line}, column {column})")
            }
            (None, Some((line, column))) => write!(f, " (line {line}, column {column})"),
            (Some(path), None) => write!(f, " ({path})"),
            (None, None) => Ok(()),
        }?;
        self.also
            .iter()
            .try_for_each(|error| write!(f, "; also: {error}"))?;
        match self.is_full() {
            true => write!(f, "; there may be more than these {MAX_FAULTS}"),
            false => Ok(()),
        }
    }
}

impl std::error::Error for Error {}
