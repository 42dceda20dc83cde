//! Titles, descriptions and what other programs keep with an object: the same for networks and
//! guests.

use conf::xml::RawXml;
use rpc::{Code, Domain, Error};

use crate::fault::{self, Result};

/// Which piece is meant: `VIR_DOMAIN_METADATA_*` and `VIR_NETWORK_METADATA_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    Description,
    Title,
    /// The element of that namespace.
    Element(&'a str),
}

/// Where the pieces stand in a document.
pub(crate) struct Pieces<'d> {
    pub(crate) title: &'d mut Option<String>,
    pub(crate) description: &'d mut Option<String>,
    pub(crate) metadata: &'d mut Option<RawXml>,
}

/// What a piece becomes: nothing, or a text; an element with the prefix of its namespace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewText<'a> {
    pub(crate) text: Option<&'a str>,
    pub(crate) key: Option<&'a str>,
}

impl<'a> Piece<'a> {
    /// The piece of that number, of that namespace.
    pub(crate) fn new(domain: Domain, number: i32, uri: Option<&'a str>) -> Result<Self> {
        let refused = |detail: String| Err(Error::new(Code::InvalidArg, domain, detail));
        match (number, uri) {
            (0, None) => Ok(Self::Description),
            (1, None) => Ok(Self::Title),
            (0 | 1, Some(_)) => refused("titles and descriptions have no namespace".to_owned()),
            (2, Some(uri)) => Ok(Self::Element(uri)),
            (2, None) => refused("metadata needs the URI of its namespace".to_owned()),
            (other, _) => refused(format!("{other} is no kind of metadata")),
        }
    }

    /// The number and the namespace, as events tell them.
    pub(crate) fn told(self) -> (i32, Option<String>) {
        match self {
            Self::Description => (0, None),
            Self::Title => (1, None),
            Self::Element(uri) => (2, Some(uri.to_owned())),
        }
    }

    /// The piece, if it is there.
    pub(crate) fn find(
        self,
        title: Option<&String>,
        description: Option<&String>,
        metadata: Option<&RawXml>,
    ) -> Option<String> {
        match self {
            Self::Description => description.cloned(),
            Self::Title => title.cloned(),
            Self::Element(uri) => conf::metadata_element(metadata?, uri),
        }
    }

    /// Changes the piece.
    pub(crate) fn set(self, domain: Domain, pieces: Pieces<'_>, new: NewText<'_>) -> Result<()> {
        // An empty title is none.
        let text = new.text.filter(|text| !text.is_empty());
        match self {
            Self::Title if text.is_some_and(|text| text.contains('\n')) => {
                let detail = "a title is one line";
                return Err(Error::new(Code::InvalidArg, domain, detail));
            }
            Self::Title => *pieces.title = text.map(str::to_owned),
            Self::Description => *pieces.description = text.map(str::to_owned),
            Self::Element(uri) => {
                let element = match (new.text, new.key) {
                    (Some(xml), Some(key)) => Some((key, xml)),
                    (Some(_), None) => {
                        let detail = "metadata needs a prefix for its namespace (the key)";
                        return Err(Error::new(Code::InvalidArg, domain, detail));
                    }
                    (None, _) => None,
                };
                let changed = conf::set_metadata_element(pieces.metadata.as_ref(), uri, element);
                *pieces.metadata = changed.map_err(fault::document(domain))?;
            }
        }
        Ok(())
    }
}
