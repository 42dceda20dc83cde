//! Bytes from anybody: nothing panics, nothing is taken for more than it is.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fmt::Debug;
use std::sync::Arc;

use common::Daemon;
use proptest::prelude::*;
use rpc::frame::{Header, Kind, Status, frame};
use rpc::server::{Clients, Limits, serve};
use rpc::xdr::{DecodeError, Reader, Writer, Xdr, from_bytes};
use rpc::{Event, Program, Reply, Request, TypedParam, TypedValue, WireError};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

const PROGRAMS: [Program; 3] = [Program::Main, Program::Qemu, Program::Virtnic];

/// Words that are likely to mean something: small numbers, limits, letters.
fn words() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        4 => 0_u32..4,
        1 => 4_u32..64,
        1 => Just(0x6161_6161),
        1 => Just(16_384),
        1 => Just(u32::MAX),
        1 => any::<u32>(),
    ];
    prop::collection::vec(word, 0..64)
        .prop_map(|words| words.into_iter().flat_map(u32::to_be_bytes).collect())
}

fn header() -> impl Strategy<Value = Header> {
    let program = prop_oneof![
        4 => Just(0x2000_8086_u32),
        1 => Just(0x2000_8087),
        1 => Just(0x6b65_6570),
        1 => any::<u32>(),
    ];
    let kind = prop_oneof![
        4 => Just(Kind::Call),
        1 => Just(Kind::CallWithFds),
        2 => Just(Kind::Stream),
        1 => Just(Kind::Hole),
        1 => Just(Kind::Reply),
        1 => Just(Kind::Other(9)),
    ];
    let status =
        prop_oneof![4 => Just(Status::Ok), 1 => Just(Status::Error), 1 => Just(Status::Continue)];
    let procedure = prop_oneof![2 => Just(1), 8 => 0..460, 1 => Just(201)];
    (program, procedure, kind, 0_u32..4, status).prop_map(
        |(program, procedure, kind, serial, status)| Header {
            program,
            version: 1,
            procedure,
            kind,
            serial,
            status,
        },
    )
}

fn value() -> impl Strategy<Value = TypedValue> {
    prop_oneof![
        any::<i32>().prop_map(TypedValue::I32),
        any::<u32>().prop_map(TypedValue::U32),
        any::<i64>().prop_map(TypedValue::I64),
        any::<u64>().prop_map(TypedValue::U64),
        any::<i32>().prop_map(|number| TypedValue::F64(number.into())),
        any::<bool>().prop_map(TypedValue::Bool),
        "[^\0]{0,100}".prop_map(TypedValue::Text),
    ]
}

fn encoded(encode: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut w = Writer::default();
    encode(&mut w);
    w.finish().unwrap()
}

/// What decodes from some bytes must decode from its own bytes to the same.
///
/// Compared as text, so that a NaN equals itself.
fn assert_stable<T: Debug>(
    bytes: &[u8],
    decode: impl Fn(&mut Reader<'_>) -> Option<Result<T, DecodeError>>,
    encode: impl Fn(&T, &mut Writer),
) {
    if let Some(Ok(value)) = decode(&mut Reader::new(bytes)) {
        let own = encoded(|w| encode(&value, w));
        let again = decode(&mut Reader::new(&own)).unwrap().unwrap();
        assert_eq!(format!("{again:?}"), format!("{value:?}"));
    }
}

fn assert_all_stable(bytes: &[u8]) {
    for program in PROGRAMS {
        for number in 0..460 {
            assert_stable(
                bytes,
                |r| Request::decode(program, number, r),
                Request::encode,
            );
            assert_stable(bytes, |r| Reply::decode(program, number, r), Reply::encode);
            assert_stable(
                bytes,
                |r| Event::decode(program, number, r),
                |(callback, event), w| event.encode(*callback, w),
            );
        }
    }
    assert_stable(bytes, |r| Some(Header::decode(r)), Header::encode);
    assert_stable(bytes, |r| Some(WireError::decode(r)), WireError::encode);
}

proptest! {
    #[test]
    fn any_bytes_are_a_message_or_an_error(likely in words(), any in any::<Vec<u8>>()) {
        assert_all_stable(&likely);
        assert_all_stable(&any);
    }

    /// A connection takes whatever comes, and ends when the client goes.
    #[test]
    fn a_connection_survives_any_frames(
        frames in prop::collection::vec((header(), words()), 0..8),
        tail in any::<Vec<u8>>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            let served = tokio::spawn(serve(
                Arc::<Daemon>::default(),
                theirs,
                false,
                Clients::new(Limits::default()),
            ));
            let mut bytes = Vec::new();
            for (header, payload) in &frames {
                let mut one = frame(header, |_| ()).unwrap();
                one.extend_from_slice(payload);
                let length = u32::try_from(one.len()).unwrap();
                one[..4].copy_from_slice(&length.to_be_bytes());
                bytes.extend(one);
            }
            bytes.extend(&tail);
            // The server may hang up half-way.
            let _ = ours.write_all(&bytes).await;
            let _ = ours.shutdown().await;
            served.await.unwrap();
        });
    }

    #[test]
    fn typed_parameters_survive(field in "[^\0]{0,19}", value in value()) {
        let param = TypedParam { field, value };
        let bytes = encoded(|w| param.encode(w));
        prop_assert_eq!(bytes.len() % 4, 0);
        prop_assert_eq!(from_bytes::<TypedParam>(&bytes), Ok(param));
    }
}
