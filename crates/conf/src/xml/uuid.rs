//! UUIDs as libvirt reads them.

use uuid::Uuid;

use super::Element;
use crate::{Error, ErrorKind};

/// Reads a UUID: 32 hex digits, dashes or blanks between the pairs, blanks around them.
#[must_use]
pub fn parse_uuid(text: &str) -> Option<Uuid> {
    let mut rest = text.trim_ascii().bytes().peekable();
    let mut bytes = [0; 16];
    for byte in &mut bytes {
        while rest.next_if(|&c| c == b'-' || c == b' ').is_some() {}
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    rest.next().is_none().then(|| Uuid::from_bytes(bytes))
}

impl Element<'_> {
    /// The UUID in its first child of that name.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`], as libvirt has it, if the text is no UUID.
    pub fn child_uuid(self, name: &str) -> Result<Option<Uuid>, Error> {
        let Some(child) = self.child(name) else {
            return Ok(None);
        };
        let text = child.text();
        parse_uuid(&text).map(Some).ok_or_else(|| {
            let text: String = text.chars().take(60).collect();
            child.error(ErrorKind::Internal, format!("'{text}' is no UUID"))
        })
    }

    /// An attribute that is a UUID.
    ///
    /// # Errors
    /// `kind` if it is something else.
    pub fn uuid(self, kind: ErrorKind, name: &str) -> Result<Option<Uuid>, Error> {
        let Some(text) = self.attribute(name) else {
            return Ok(None);
        };
        match parse_uuid(text) {
            Some(uuid) => Ok(Some(uuid)),
            None => Err(self.invalid(kind, name, "a UUID")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dashes_and_blanks_may_be_anywhere_between_pairs() {
        let uuid = parse_uuid(" 5D744f21ba4a 4d6e-bdb230a3-5ff3207d\n").unwrap();
        assert_eq!(uuid.to_string(), "5d744f21-ba4a-4d6e-bdb2-30a35ff3207d");
    }

    #[test]
    fn refuses_what_is_no_uuid() {
        for text in [
            "",
            "5d744f21-ba4a-4d6e-bdb2-30a35ff3207",
            "5d744f21-ba4a-4d6e-bdb2-30a35ff3207d0",
            "5-d744f21-ba4a-4d6e-bdb2-30a35ff3207d",
            "5d744f21-ba4a-4d6e-bdb2-30a35ff3207x",
        ] {
            assert_eq!(parse_uuid(text), None, "{text}");
        }
    }
}
