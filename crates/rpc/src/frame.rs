//! Frames: a length, a header, a payload, and file descriptors that follow.

use crate::xdr::{DecodeError, EncodeError, Reader, Writer, Xdr};

/// The shortest frame: the length word and a header.
pub const FRAME_MIN: usize = 28;
/// The longest frame, with its length word.
pub const FRAME_MAX: usize = 33_554_436;
/// How many file descriptors may travel with a frame.
pub const FDS_MAX: usize = 32;
/// The largest payload of a stream packet that every client takes.
pub const STREAM_PACKET_MAX: usize = 262_120;

/// Keepalive messages have a program of their own.
pub(crate) const KEEPALIVE_PROGRAM: u32 = 0x6b65_6570;
pub(crate) const KEEPALIVE_PING: i32 = 1;
pub(crate) const KEEPALIVE_PONG: i32 = 2;

/// Declares an enumeration of the header; peers may send numbers that mean nothing.
macro_rules! header_enum {
    ($( $(#[$meta:meta])* $name:ident { $( $(#[$vmeta:meta])* $variant:ident = $number:literal, )* } )*) => { $(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $( $(#[$vmeta])* $variant, )*
            /// A number without a meaning.
            Other(i32),
        }

        impl $name {
            fn number(self) -> i32 {
                match self {
                    $( $name::$variant => $number, )*
                    $name::Other(number) => number,
                }
            }

            fn from_number(number: i32) -> $name {
                match number {
                    $( $number => $name::$variant, )*
                    other => $name::Other(other),
                }
            }
        }
    )* };
}

header_enum! {
    /// What a frame is.
    Kind {
        /// A call from a client.
        Call = 0,
        /// The answer to a call.
        Reply = 1,
        /// An event.
        Event = 2,
        /// A packet of a stream.
        Stream = 3,
        /// A call that file descriptors follow.
        CallWithFds = 4,
        /// An answer that file descriptors follow.
        ReplyWithFds = 5,
        /// A hole in a stream.
        Hole = 6,
    }

    /// How a call went, or what a stream packet means.
    Status {
        /// Success; the end of a stream.
        Ok = 0,
        /// An error follows; a stream was given up.
        Error = 1,
        /// More of a stream follows.
        Continue = 2,
    }
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The number of the program.
    pub program: u32,
    /// The version of the program.
    pub version: u32,
    /// The procedure, or the event's number.
    pub procedure: i32,
    /// What the frame is.
    pub kind: Kind,
    /// The client's number for a call, repeated by all that answers it.
    pub serial: u32,
    /// How it went.
    pub status: Status,
}

impl Header {
    /// The same call's header for something that answers it.
    pub(crate) fn answer(self, kind: Kind, status: Status) -> Header {
        Header {
            kind,
            status,
            ..self
        }
    }
}

impl Xdr for Header {
    const MIN: usize = FRAME_MIN - 4;

    fn encode(&self, w: &mut Writer) {
        w.word(self.program);
        w.word(self.version);
        self.procedure.encode(w);
        self.kind.number().encode(w);
        w.word(self.serial);
        self.status.number().encode(w);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Header {
            program: r.word()?,
            version: r.word()?,
            procedure: i32::decode(r)?,
            kind: Kind::from_number(i32::decode(r)?),
            serial: r.word()?,
            status: Status::from_number(i32::decode(r)?),
        })
    }
}

/// A whole frame: `header`, then what `payload` writes.
pub fn frame(header: &Header, payload: impl FnOnce(&mut Writer)) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = Vec::with_capacity(256);
    bytes.extend_from_slice(&[0; 4]);
    let mut w = Writer::after(bytes);
    header.encode(&mut w);
    payload(&mut w);
    let mut bytes = w.finish()?;
    set_length(&mut bytes)?;
    Ok(bytes)
}

/// A whole stream packet; its data is neither counted nor padded.
pub(crate) fn stream_packet(header: &Header, data: &[u8]) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = frame(header, |_| ())?;
    bytes.extend_from_slice(data);
    set_length(&mut bytes)?;
    Ok(bytes)
}

/// Whether a frame may have that length.
pub fn length_is_legal(length: usize) -> bool {
    (FRAME_MIN..=FRAME_MAX).contains(&length)
}

/// Puts the length of the frame into its first word.
fn set_length(bytes: &mut [u8]) -> Result<(), EncodeError> {
    let too_long = EncodeError {
        count: bytes.len(),
        max: FRAME_MAX,
    };
    if bytes.len() > FRAME_MAX {
        return Err(too_long);
    }
    let length = u32::try_from(bytes.len()).map_err(|_| too_long)?;
    if let Some(first) = bytes.first_chunk_mut() {
        *first = length.to_be_bytes();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xdr::from_bytes;

    const HEADER: Header = Header {
        program: 0x2000_8086,
        version: 1,
        procedure: 59,
        kind: Kind::Call,
        serial: 6,
        status: Status::Ok,
    };

    #[test]
    fn a_call_without_arguments_is_28_bytes() {
        let bytes = frame(&HEADER, |_| ()).unwrap();
        assert_eq!(bytes.len(), FRAME_MIN);
        assert_eq!(bytes[..4], [0, 0, 0, 28]);
        assert_eq!(from_bytes::<Header>(&bytes[4..]), Ok(HEADER));
    }

    #[test]
    fn stream_data_is_not_padded() {
        let header = HEADER.answer(Kind::Stream, Status::Continue);
        let bytes = stream_packet(&header, b"abc").unwrap();
        assert_eq!(bytes[..4], [0, 0, 0, 31]);
        assert_eq!(bytes[28..], *b"abc");
    }

    #[test]
    fn a_frame_that_peers_would_refuse_is_not_made() {
        let header = HEADER.answer(Kind::Stream, Status::Continue);
        assert!(stream_packet(&header, &vec![0; FRAME_MAX - FRAME_MIN]).is_ok());
        assert!(stream_packet(&header, &vec![0; FRAME_MAX - FRAME_MIN + 1]).is_err());
    }
}
