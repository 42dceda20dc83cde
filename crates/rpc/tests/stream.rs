//! Consoles: what a client sees of a stream, packet by packet.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::*;
use rpc::frame::{Kind, Status};
use rpc::server::StreamInput;
use rpc::*;

#[tokio::test]
async fn a_console_carries_bytes_both_ways_until_the_client_finishes() {
    let mut client = Raw::open_connection().await;
    let (header, mut reader, mut writer) = client.open_console("tty").await;

    writer.write(b"login: ").await.unwrap();
    let (packet, data) = client.receive().await;
    assert_eq!(packet, header.with(Kind::Stream, Status::Continue));
    assert_eq!(data, b"login: ");

    client
        .send(&header.with(Kind::Stream, Status::Continue), b"root\n")
        .await;
    assert_eq!(reader.next().await, StreamInput::Data(b"root\n".to_vec()));

    let goodbye = header.with(Kind::Stream, Status::Ok);
    client.send(&goodbye, &[]).await;
    assert_eq!(client.receive().await, (goodbye, Vec::new()));
    assert_eq!(reader.next().await, StreamInput::Finished);
    assert!(writer.write(b"too late").await.is_err());
    drop(writer);

    // Late data is dropped, a late goodbye is answered, and nothing else was sent.
    client
        .send(&header.with(Kind::Stream, Status::Continue), b"late")
        .await;
    client
        .send(&header.with(Kind::Stream, Status::Error), &[])
        .await;
    assert_eq!(client.receive().await, (goodbye, Vec::new()));
    assert!(client.call(&ConnectGetHostname {}).await.is_ok());
}

#[tokio::test]
async fn the_end_of_a_console_is_announced_and_then_confirmed() {
    let mut client = Raw::open_connection().await;
    let (header, mut reader, writer) = client.open_console("tty").await;
    writer.finish().await.unwrap();
    let end = header.with(Kind::Stream, Status::Continue);
    assert_eq!(client.receive().await, (end, Vec::new()));
    let goodbye = header.with(Kind::Stream, Status::Ok);
    client.send(&goodbye, &[]).await;
    assert_eq!(client.receive().await, (goodbye, Vec::new()));
    assert_eq!(reader.next().await, StreamInput::Finished);
}

#[tokio::test]
async fn a_console_that_breaks_says_why_and_an_abort_is_confirmed() {
    let mut client = Raw::open_connection().await;
    let (header, _reader, writer) = client.open_console("tty").await;
    writer.fail(&Error::new(
        Code::InternalError,
        Domain::Streams,
        "the guest is gone",
    ));
    let (packet, payload) = client.receive().await;
    assert_eq!(packet, header.with(Kind::Stream, Status::Error));
    let error: Error = xdr::from_bytes(&payload).unwrap();
    assert_eq!(error.to_string(), "internal error: the guest is gone");

    let (header, mut reader, writer) = client.open_console("tty").await;
    drop(writer);
    assert_eq!(
        client.receive().await.0,
        header.with(Kind::Stream, Status::Error)
    );
    assert_eq!(reader.next().await, StreamInput::Lost);

    let (header, mut reader, _writer) = client.open_console("tty").await;
    client
        .send(&header.with(Kind::Stream, Status::Error), &[])
        .await;
    let goodbye = header.with(Kind::Stream, Status::Ok);
    assert_eq!(client.receive().await, (goodbye, Vec::new()));
    assert_eq!(reader.next().await, StreamInput::Aborted);
}

#[tokio::test]
async fn a_console_that_breaks_at_once_says_so_after_the_reply() {
    let mut client = Raw::open_connection().await;
    assert_eq!(client.call(&console("broken")).await, Ok(()));
    let (packet, _) = client.receive().await;
    assert_eq!((packet.kind, packet.status), (Kind::Stream, Status::Error));
}

#[tokio::test]
async fn a_console_that_could_not_be_opened_sends_nothing() {
    let mut client = Raw::open_connection().await;
    let args = console("busy");
    assert!(client.call(&args).await.is_err());
    let (mut reader, mut writer) = client.daemon.take_console().await;
    assert!(writer.write(b"x").await.is_err());
    assert_eq!(reader.next().await, StreamInput::Lost);
    assert!(client.call(&ConnectGetHostname {}).await.is_ok());
}

#[tokio::test]
async fn a_slow_client_slows_the_source_of_its_console() {
    let mut client = Raw::open_connection().await;
    let (_, _reader, mut writer) = client.open_console("tty").await;
    let total = 8 * 1024 * 1024;
    let written = Arc::new(AtomicUsize::new(0));
    let progress = Arc::clone(&written);
    let source = tokio::spawn(async move {
        for _ in 0..total / 1024 {
            writer.write(&[b'x'; 1024]).await.unwrap();
            progress.fetch_add(1024, Ordering::Relaxed);
        }
        writer
    });
    // However often it gets its turn, it does not go on while nobody reads.
    for _ in 0..20_000 {
        tokio::task::yield_now().await;
    }
    let stuck = written.load(Ordering::Relaxed);
    assert!(
        (1..total / 2).contains(&stuck),
        "{stuck} of {total} bytes were taken"
    );
    let mut received = 0;
    while received < total {
        let (_, data) = client.receive().await;
        received += data.len();
    }
    assert_eq!(received, total);
    drop(source.await.unwrap());
}

#[tokio::test]
async fn the_end_of_the_connection_ends_its_consoles() {
    let mut client = Raw::open_connection().await;
    let (_, mut reader, mut writer) = client.open_console("tty").await;
    let daemon = Arc::clone(&client.daemon);
    drop(client);
    daemon.closed.notified().await;
    assert_eq!(reader.next().await, StreamInput::Lost);
    assert!(writer.write(b"x").await.is_err());
}
