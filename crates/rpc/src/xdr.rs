//! XDR: big-endian four-byte units, as libvirt uses them.
//!
//! Each message is declared once, with `wire_struct!` or as a row of the procedure
//! table; the codec here knows only the building blocks. Decoding checks every count against both
//! its maximum and the bytes that are left before it allocates, so a short message can't claim much
//! memory. It is lenient where libvirt is: any non-zero word means "present", padding is not
//! looked at, and bytes after the last field are ignored.

use uuid::Uuid;

/// The longest string that may travel, in bytes.
pub const STRING_MAX: usize = 4 * 1024 * 1024;

/// Why bytes are not the message they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ends before the value does.
    #[error("the message ends early: {needed} more bytes are needed, {left} are left")]
    Truncated {
        /// Bytes that the value needs at least.
        needed: usize,
        /// Bytes that are left.
        left: usize,
    },
    /// A count is over the maximum of its field.
    #[error("a count of {count} is over the maximum of {max}")]
    TooLong {
        /// The count in the message.
        count: usize,
        /// The maximum for that field.
        max: usize,
    },
    /// A string is not UTF-8, or holds a NUL byte that a C peer would stop at.
    #[error("a string is not UTF-8 text without NUL bytes")]
    NotText,
    /// A number that stands for a choice stands for none that is known.
    #[error("{value} is no known {what}")]
    UnknownChoice {
        /// What the number should have named.
        what: &'static str,
        /// The number.
        value: i32,
    },
}

/// A value is too large to be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{count} items or bytes where at most {max} may be sent")]
pub struct EncodeError {
    /// How many there are.
    pub count: usize,
    /// How many there may be.
    pub max: usize,
}

/// A value with a form on the wire.
pub trait Xdr: Sized {
    /// The fewest bytes that a value takes. Counts are checked against it before allocating.
    const MIN: usize;

    /// Appends the value.
    fn encode(&self, w: &mut Writer);

    /// Takes the value off the front.
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError>;

    /// Its flags that have no meaning; see [`crate::flags`].
    fn unknown_flags(&self) -> u64 {
        0
    }
}

/// A counted value whose maximum depends on the field that it is in.
pub trait Bounded: Sized {
    /// Appends count and items; more than `max` spoils the whole message.
    fn encode_max(&self, max: usize, w: &mut Writer);

    /// Takes count and items off the front, refusing a count over `max`.
    fn decode_max(max: usize, r: &mut Reader<'_>) -> Result<Self, DecodeError>;
}

/// Collects the bytes of one message.
///
/// Encoding itself can't fail; a value over its maximum is remembered and [`Writer::finish`]
/// reports it, so that one check covers a whole message.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
    error: Option<EncodeError>,
}

impl Writer {
    /// A writer that appends to `bytes`.
    pub fn after(bytes: Vec<u8>) -> Writer {
        Writer { bytes, error: None }
    }

    /// Appends one four-byte unit.
    pub fn word(&mut self, word: u32) {
        self.bytes.extend_from_slice(&word.to_be_bytes());
    }

    /// Appends bytes and fills up to a multiple of four.
    pub fn padded(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.bytes
            .extend_from_slice(&[0; 3][..padding(bytes.len())]);
    }

    /// Appends a count, remembering it if it is over `max`.
    pub fn count(&mut self, count: usize, max: usize) {
        match u32::try_from(count) {
            Ok(word) if count <= max => self.word(word),
            _ => self.error = Some(EncodeError { count, max }),
        }
    }

    /// The message, or why it can't be sent.
    pub fn finish(self) -> Result<Vec<u8>, EncodeError> {
        match self.error {
            None => Ok(self.bytes),
            Some(error) => Err(error),
        }
    }
}

/// Reads one message from the front.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes }
    }

    /// What was not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// Takes `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (front, rest) = self
            .bytes
            .split_at_checked(len)
            .ok_or(DecodeError::Truncated {
                needed: len,
                left: self.bytes.len(),
            })?;
        self.bytes = rest;
        Ok(front)
    }

    /// Takes `len` bytes and their padding, whatever it holds.
    pub fn padded(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let front = self.take(len)?;
        self.take(padding(len))?;
        Ok(front)
    }

    /// Takes one four-byte unit.
    pub fn word(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    /// Takes a count of items of at least `item_min` bytes each.
    pub fn count(&mut self, max: usize, item_min: usize) -> Result<usize, DecodeError> {
        let count = self.word()? as usize;
        if count > max {
            return Err(DecodeError::TooLong { count, max });
        }
        let needed = count.saturating_mul(item_min);
        if needed > self.bytes.len() {
            return Err(DecodeError::Truncated {
                needed,
                left: self.bytes.len(),
            });
        }
        Ok(count)
    }

    /// Takes as many bytes as an array holds.
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }
}

/// Reads one value from the front of `bytes`; what follows it is ignored.
pub fn from_bytes<T: Xdr>(bytes: &[u8]) -> Result<T, DecodeError> {
    T::decode(&mut Reader::new(bytes))
}

fn padding(len: usize) -> usize {
    len.wrapping_neg() % 4
}

macro_rules! numbers {
    ($($t:ty),*) => { $(
        impl Xdr for $t {
            const MIN: usize = size_of::<$t>();

            fn encode(&self, w: &mut Writer) {
                w.bytes.extend_from_slice(&self.to_be_bytes());
            }

            fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
                r.array().map(<$t>::from_be_bytes)
            }
        }
    )* };
}
numbers!(i32, u32, i64, u64, f64);

impl Xdr for () {
    const MIN: usize = 0;

    fn encode(&self, _: &mut Writer) {}

    fn decode(_: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(())
    }
}

impl Xdr for bool {
    const MIN: usize = 4;

    fn encode(&self, w: &mut Writer) {
        w.word(u32::from(*self));
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(r.word()? != 0)
    }
}

impl<T: Xdr> Xdr for Option<T> {
    const MIN: usize = 4;

    fn encode(&self, w: &mut Writer) {
        self.is_some().encode(w);
        if let Some(value) = self {
            value.encode(w);
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        bool::decode(r)?.then(|| T::decode(r)).transpose()
    }
}

impl Xdr for Uuid {
    const MIN: usize = 16;

    fn encode(&self, w: &mut Writer) {
        w.bytes.extend_from_slice(self.as_bytes());
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.array().map(Uuid::from_bytes)
    }
}

impl Xdr for String {
    const MIN: usize = 4;

    fn encode(&self, w: &mut Writer) {
        self.encode_max(STRING_MAX, w);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        String::decode_max(STRING_MAX, r)
    }
}

impl Bounded for String {
    fn encode_max(&self, max: usize, w: &mut Writer) {
        w.count(self.len(), max);
        w.padded(self.as_bytes());
    }

    fn decode_max(max: usize, r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let len = r.count(max, 1)?;
        let text = std::str::from_utf8(r.padded(len)?).map_err(|_| DecodeError::NotText)?;
        if text.contains('\0') {
            return Err(DecodeError::NotText);
        }
        Ok(text.to_owned())
    }
}

impl Bounded for Vec<u8> {
    fn encode_max(&self, max: usize, w: &mut Writer) {
        w.count(self.len(), max);
        w.padded(self);
    }

    fn decode_max(max: usize, r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let len = r.count(max, 1)?;
        Ok(r.padded(len)?.to_owned())
    }
}

impl<T: Xdr> Bounded for Vec<T> {
    fn encode_max(&self, max: usize, w: &mut Writer) {
        w.count(self.len(), max);
        for item in self {
            item.encode(w);
        }
    }

    fn decode_max(max: usize, r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = r.count(max, T::MIN)?;
        (0..count).map(|_| T::decode(r)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded<T: Xdr>(value: &T) -> Vec<u8> {
        let mut w = Writer::default();
        value.encode(&mut w);
        w.finish().unwrap()
    }

    #[test]
    fn text_is_counted_and_padded() {
        assert_eq!(encoded(&"vm".to_owned()), [0, 0, 0, 2, b'v', b'm', 0, 0]);
        assert_eq!(encoded(&String::new()), [0, 0, 0, 0]);
    }

    #[test]
    fn any_non_zero_word_means_present() {
        let bytes = [1, 0, 0, 0, 0, 0, 0, 7];
        assert_eq!(from_bytes::<Option<i32>>(&bytes), Ok(Some(7)));
        assert_eq!(from_bytes::<Option<i32>>(&[0; 4]), Ok(None));
    }

    #[test]
    fn padding_and_what_follows_are_not_looked_at() {
        let bytes = [0, 0, 0, 1, b'a', 9, 9, 9, 1, 2, 3];
        assert_eq!(from_bytes::<String>(&bytes), Ok("a".to_owned()));
    }

    #[test]
    fn a_count_must_fit_the_bytes_that_are_left() {
        let mut r = Reader::new(&[0, 0, 0x40, 0, 1, 2, 3, 4]);
        assert_eq!(
            Vec::<Uuid>::decode_max(16384, &mut r),
            Err(DecodeError::Truncated {
                needed: 16384 * 16,
                left: 4
            })
        );
        let mut r = Reader::new(&[0xff; 8]);
        assert_eq!(
            Vec::<Uuid>::decode_max(16384, &mut r),
            Err(DecodeError::TooLong {
                count: 0xffff_ffff,
                max: 16384
            })
        );
    }

    #[test]
    fn text_a_c_peer_would_cut_short_is_refused() {
        assert_eq!(
            from_bytes::<String>(&[0, 0, 0, 2, b'a', 0, 0, 0]),
            Err(DecodeError::NotText)
        );
        assert_eq!(
            from_bytes::<String>(&[0, 0, 0, 1, 0xff, 0, 0, 0]),
            Err(DecodeError::NotText)
        );
    }

    #[test]
    fn one_value_over_its_maximum_spoils_the_message() {
        let mut w = Writer::default();
        vec![1_i32, 2, 3].encode_max(2, &mut w);
        7_u32.encode(&mut w);
        assert_eq!(w.finish(), Err(EncodeError { count: 3, max: 2 }));
    }
}
