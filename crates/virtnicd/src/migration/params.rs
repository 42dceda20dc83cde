//! The named values of a migration, as clients give them.

use rpc::{TypedParam, TypedValue};

use super::wrong;
use crate::fault::Result;

/// Those that an offline migration is about; others are about what is moved of a running guest.
#[derive(Debug, Default)]
pub(super) struct Params {
    /// The guest's name on the destination.
    pub(super) name: Option<String>,
    /// Its document for the destination.
    pub(super) document: Option<String>,
}

impl Params {
    /// # Errors
    /// One of them is given twice, or is no text.
    pub(super) fn read(params: &[TypedParam]) -> Result<Self> {
        let mut read = Self::default();
        for param in params {
            let place = match param.field.as_str() {
                "destination_name" => &mut read.name,
                "destination_xml" | "persistent_xml" if read.document.is_none() => {
                    &mut read.document
                }
                "destination_xml" | "persistent_xml" => continue, // they say the same
                _ => continue,
            };
            let TypedValue::Text(text) = &param.value else {
                return Err(wrong(format!("'{}' has to be a text", param.field)));
            };
            if place.replace(text.clone()).is_some() {
                return Err(wrong(format!("'{}' is given twice", param.field)));
            }
        }
        Ok(read)
    }
}
