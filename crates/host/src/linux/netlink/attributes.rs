//! Attributes of a netlink message, read without trust.

use std::io;

use netlink_packet_core::{NLA_F_NESTED, NlasIterator};

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

/// Attributes to send, behind a header.
#[derive(Debug, Clone, Default)]
pub(crate) struct AttributeWriter(Vec<u8>);

impl AttributeWriter {
    /// Behind that header, whose length is a multiple of 4.
    pub(crate) fn after(header: impl Into<Vec<u8>>) -> Self {
        Self(header.into())
    }

    /// One attribute. Its value is shorter than 64 KiB: a longer one makes a message that nobody
    /// can read.
    pub(crate) fn value(&mut self, kind: u16, value: impl AsRef<[u8]>) -> &mut Self {
        let value = value.as_ref();
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Text with its NUL.
    pub(crate) fn text(&mut self, kind: u16, text: &str) -> &mut Self {
        self.value(kind, [text.as_bytes(), &[0]].concat())
    }

    /// Attributes inside one.
    pub(crate) fn nest(&mut self, kind: u16, write: impl FnOnce(&mut Self)) -> &mut Self {
        let mut inner = Self::default();
        write(&mut inner);
        self.value(kind | NLA_F_NESTED, inner.0)
    }

    /// The header, and all that was written.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
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

/// The native-endian number at that offset.
pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> io::Result<u64> {
    let bytes = bytes.get(offset..offset + 8).ok_or_else(malformed)?;
    bytes
        .try_into()
        .map(u64::from_ne_bytes)
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
    fn what_is_written_is_read() {
        let mut writer = AttributeWriter::after([7; 4]);
        writer.text(1, "abcd").nest(2, |inner| {
            inner.value(3, [9]).value(4, 5_u32.to_ne_bytes());
        });
        let read = Attributes::after(4, writer.bytes()).unwrap();
        assert_eq!(text(read.find(1).unwrap().unwrap()), "abcd");
        let inner = read.nested(2).unwrap().unwrap();
        assert_eq!(inner.find(3).unwrap().unwrap(), [9]);
        assert_eq!(u32_at(inner.find(4).unwrap().unwrap(), 0).unwrap(), 5);
    }

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
