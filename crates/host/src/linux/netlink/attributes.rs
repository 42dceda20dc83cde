//! Attributes of a netlink message, read without trust.

use std::io;

use netlink_packet_core::NlasIterator;

/// The attributes in some bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// The attributes behind a header of that length.
    pub(crate) fn after(header: usize, payload: &'a [u8]) -> io::Result<Self> {
        payload.get(header..).map(Self).ok_or_else(malformed)
    }

    /// Type and value of each. Bytes that are no attribute end the walk with an error.
    pub(crate) fn iter(self) -> impl Iterator<Item = io::Result<(u16, &'a [u8])>> {
        NlasIterator::new(self.0).map(|attribute| {
            let attribute = attribute.map_err(|_| malformed())?;
            let (kind, length) = (attribute.kind(), attribute.value_length());
            let value = attribute.into_inner().get(4..4 + length);
            Ok((kind, value.ok_or_else(malformed)?))
        })
    }

    /// The value of the first one of that type.
    pub(crate) fn find(self, kind: u16) -> io::Result<Option<&'a [u8]>> {
        for attribute in self.iter() {
            let (found, value) = attribute?;
            if found == kind {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// The attributes inside the first one of that type.
    pub(crate) fn nested(self, kind: u16) -> io::Result<Option<Self>> {
        Ok(self.find(kind)?.map(Self))
    }
}

/// The attributes inside a value.
impl<'a> From<&'a [u8]> for Attributes<'a> {
    fn from(value: &'a [u8]) -> Self {
        Self(value)
    }
}

/// The native-endian number at that offset.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> io::Result<u32> {
    let bytes = bytes.get(offset..offset + 4).ok_or_else(malformed)?;
    bytes
        .try_into()
        .map(u32::from_ne_bytes)
        .map_err(|_| malformed())
}

/// Text up to its NUL.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

pub(crate) fn malformed() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the kernel's netlink message can't be read",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncated_attribute_is_an_error_and_not_a_panic() {
        let good = [8, 0, 3, 0, 1, 2, 3, 4];
        assert_eq!(
            Attributes::from(&good[..]).find(3).unwrap(),
            Some(&[1, 2, 3, 4][..])
        );
        for length in 1..good.len() {
            assert!(
                Attributes::from(&good[..length]).find(3).is_err(),
                "{length}"
            );
        }
        for length in [0, 3, 200, 255] {
            let bad = [length, 0, 3, 0, 1, 2, 3, 4];
            assert!(Attributes::from(&bad[..]).find(3).is_err(), "{length}");
        }
    }
}
