//! Reading and writing XML: strict, without DTDs, with limits.

/// A piece of a document, kept byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawXml(pub String);
