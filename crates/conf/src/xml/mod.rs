//! Reading and writing XML: strict, without DTDs, with limits.
//!
//! Reading: [`Document::parse`] checks the limits before any tree is built, then [`Element`] hands
//! out typed attributes and children; each error names the place. Writing: [`Writer`] makes
//! libvirt's canonical form. [`RawXml`] carries what is not modelled through both, byte for byte.

mod keyword;
mod namespace;
mod number;
mod position;
mod prescan;
mod raw;
mod reader;
mod uuid;
mod writer;

pub(crate) use keyword::keywords;
pub use keyword::{Keyword, OnOff, YesNo};
pub use number::{Base, Unsigned, parse_unsigned};
pub use raw::RawXml;
pub(crate) use raw::edited;
pub use reader::{Document, Element};
pub use uuid::parse_uuid;
pub use writer::Writer;

/// The most bytes that a document may have: what libvirt's wire protocol lets a string have.
pub const MAX_BYTES: usize = 4 << 20;
/// How deep elements may nest.
pub const MAX_DEPTH: usize = 256;
/// How many attributes one element may have; they are compared with each other.
pub const MAX_ATTRIBUTES: usize = 256;
/// How many namespace declarations a document may have; prefixes are looked for among them.
pub const MAX_NAMESPACES: usize = 256;
/// How many nodes (elements, texts, comments) a document may have.
pub const MAX_NODES: u32 = 1 << 18;

/// The same of one that is only asked about, by anybody: a guest with a hundred devices has two
/// thousand.
pub const MAX_ASKED_NODES: u32 = 1 << 14;

/// How large a document may be, by where it comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) bytes: usize,
    pub(crate) nodes: u32,
}

impl Limits {
    /// A client's, or one that was kept.
    pub(crate) const READ: Self = Self {
        bytes: MAX_BYTES,
        nodes: MAX_NODES,
    };
    /// Of whoever asks what would become of it: some may not do more than that, and do it often.
    pub(crate) const ASKED: Self = Self {
        bytes: MAX_BYTES,
        nodes: MAX_ASKED_NODES,
    };
    /// What may be kept: half of what is read, so that with all that a running guest or network
    /// shows beside its definition it can be read again.
    pub(crate) const KEPT: Self = Self {
        bytes: MAX_BYTES / 2,
        nodes: MAX_NODES / 2,
    };
}

/// virtnic's own namespace, for what libvirt has no word for.
pub const VIRTNIC_NAMESPACE: &str = "urn:virtnic:1";

/// A noun that reads itself from its element.
pub trait FromXml: Sized {
    /// Reads the element; its name was checked by whoever found it.
    ///
    /// # Errors
    /// What is wrong, in libvirt's class, with line, column and path.
    fn from_xml(element: Element<'_>) -> Result<Self, crate::Error>;
}

/// A noun that writes itself as its element.
pub trait ToXml {
    /// Writes libvirt's canonical form; nothing at all where there is nothing to say.
    fn write_xml(&self, writer: &mut Writer);
}
