//! What is wrong with a document.

use std::fmt;

/// A document that can't be used, with the place and libvirt's class of the fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// libvirt's class of the fault; clients act on it.
    pub kind: ErrorKind,
    /// What is wrong and what was expected, in one line, names inside.
    pub message: String,
    /// Line and column, from 1, where the fault can be placed.
    pub position: Option<(u32, u32)>,
    /// The element, as `/network/forward/pf`.
    pub path: Option<String>,
}

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
    /// `unsupported configuration` (67): well-formed, and not to be had.
    ConfigUnsupported,
    /// `numerical overflow` (82).
    Overflow,
}

impl Error {
    /// A fault without a place.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            position: None,
            path: None,
        }
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
        }
    }
}

impl std::error::Error for Error {}
