//! What clients that may change nothing can take up, however many they are.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::*;
use rpc::frame::{FRAME_MAX, Header, Kind, Status};
use rpc::server::{Clients, Limits};
use rpc::*;

fn event() -> Event {
    let dom = Dom {
        name: "g1".into(),
        uuid: uuid::Uuid::nil(),
        id: 1,
    };
    Event::from(DomainRebooted { dom })
}

fn register() -> ConnectDomainEventCallbackRegisterAny {
    ConnectDomainEventCallbackRegisterAny {
        event_id: 1,
        dom: None,
    }
}

/// A call of about so many bytes.
fn large_call(bytes: usize) -> NodeDeviceGetParent {
    NodeDeviceGetParent {
        name: "x".repeat(bytes),
    }
}

/// A reply of four megabytes.
fn large_reply() -> NodeDeviceGetXmlDesc {
    NodeDeviceGetXmlDesc {
        name: "large".into(),
        flags: Default::default(),
    }
}

struct Server {
    daemon: Arc<Daemon>,
    clients: Arc<Clients>,
}

impl Server {
    fn new(limits: Limits) -> Server {
        Server {
            daemon: Arc::default(),
            clients: Clients::new(limits),
        }
    }

    fn connect(&self, read_only: bool) -> Raw {
        Raw::connect_to(&self.daemon, &self.clients, read_only)
    }

    async fn open(&self, read_only: bool) -> Raw {
        let mut client = self.connect(read_only);
        client.open().await;
        client
    }

    /// Starts slow calls, each of a reader of its own, until all of the readers' places are taken.
    async fn fill_readers_places(&self) -> Vec<Raw> {
        let mut readers = Vec::new();
        for _ in 0..self.clients.limits().readers_slow_calls {
            let mut reader = self.open(true).await;
            reader.start(&slow_call()).await;
            self.daemon.slow_began.notified().await;
            readers.push(reader);
        }
        readers
    }
}

#[tokio::test]
async fn a_frame_may_be_as_large_as_its_sender_is_trusted() {
    let server = Server::new(Limits::default());
    let max = server.clients.limits().reader.frame;
    for (read_only, open, who) in [
        (true, true, "a read-only client"),
        (true, false, "a read-only client"),
        (false, false, "a client whose connection is not open"),
    ] {
        let mut client = server.connect(read_only);
        if open {
            client.open().await;
            assert!(client.call(&large_call(max - 100)).await.is_err());
        }
        // Its header is enough.
        let length = u32::try_from(max + 1).unwrap();
        let mut bytes = frame::frame(&call_header(Program::Main.number(), 46), |_| ()).unwrap();
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        client.send_bytes(&bytes).await;
        let error = client.receive_reply::<NetworkLookupByName>().await;
        let text = format!("a message of {length} bytes is over the {max} that {who} may send");
        assert_eq!(error.unwrap_err().to_string(), text);
        assert!(client.is_closed_by_server().await);
    }
    let mut writer = server.open(false).await;
    let error = writer.call(&large_call(3_000_000)).await.unwrap_err();
    assert_eq!(error.code(), Code::NoSupport);
}

#[tokio::test]
async fn half_frames_of_all_readers_share_one_account_and_leave_the_writers_alone() {
    let total = 600 * 1024;
    let server = Server::new(limits(|limits| {
        limits.readers_bytes = total;
        limits.reader.frame_time = Duration::from_millis(300);
    }));
    let mut whole = frame::frame(&call_header(Program::Main.number(), 46), |_| ()).unwrap();
    whole.resize(250 * 1024, 0);
    let length = u32::try_from(whole.len()).unwrap();
    whole[..4].copy_from_slice(&length.to_be_bytes());
    // Each keeps back the last byte, or as much as the daemon does not take.
    let mut crowd = Vec::new();
    for place in 0..40 {
        let mut client = server.connect(place % 2 == 0);
        client.send_some(&whole[..whole.len() - 1]).await;
        crowd.push(client);
    }
    let mut writer = server.open(false).await;
    assert!(writer.call(&ConnectGetHostname {}).await.is_ok());
    let xml = "x".repeat(1_000_000);
    let net = writer.call(&NetworkDefineXml { xml }).await.unwrap();
    assert_eq!(net.name.len(), 1_000_000);
    // They are all cut off in the end, and some learn why.
    let mut told = 0;
    for client in &mut crowd {
        if let Some(error) = client.last_error().await {
            assert_eq!(error.code(), Code::ResourceBusy, "{error}");
            told += 1;
        }
    }
    assert!(told > 0, "more than {total} bytes were kept");
    // And a reader has its room back.
    let mut reader = server.open(true).await;
    let error = reader.call(&large_call(200_000)).await.unwrap_err();
    assert_eq!(error.code(), Code::NoSupport);
}

#[tokio::test]
async fn a_connection_that_is_not_opened_in_time_is_ended() {
    let server = Server::new(limits(|limits| limits.opening = Duration::from_millis(50)));
    let mut silent = server.connect(false);
    let mut slow = server.connect(true);
    slow.send_bytes(&[0, 0, 0]).await;
    let mut open = server.open(true).await;
    assert!(silent.is_closed_by_server().await);
    assert!(slow.is_closed_by_server().await);
    assert!(open.call(&ConnectGetHostname {}).await.is_ok());
}

#[tokio::test]
async fn what_readers_leave_unread_is_bounded_for_all_of_them_together() {
    let server = Server::new(limits(|limits| limits.readers_bytes = 10_000_000));
    // Two replies of four megabytes are kept; what the others ask for is refused.
    let mut crowd = Vec::new();
    for _ in 0..6 {
        let mut reader = server.open(true).await;
        reader.start(&large_reply()).await;
        reader.something_came().await;
        crowd.push(reader);
    }
    let mut refused = 0;
    for reader in &mut crowd {
        match reader.receive_reply::<NodeDeviceGetXmlDesc>().await {
            Ok(xml) => assert_eq!(xml.len(), 4_000_000),
            Err(error) => {
                assert_eq!(error.code(), Code::ResourceBusy);
                refused += 1;
            }
        }
        assert!(reader.call(&ConnectGetHostname {}).await.is_ok());
    }
    assert_eq!(refused, 4);
    // Whoever reads gives the room back.
    assert!(crowd[5].call(&large_reply()).await.is_ok());
}

#[tokio::test]
async fn a_small_answer_needs_no_room_of_others() {
    let server = Server::new(limits(|limits| limits.readers_bytes = 4_100_000));
    let mut greedy = server.open(true).await;
    greedy.start(&large_reply()).await;
    greedy.something_came().await;
    let mut modest = server.open(true).await;
    for _ in 0..100 {
        assert!(modest.call(&ConnectGetHostname {}).await.is_ok());
    }
}

#[tokio::test]
async fn a_connection_has_a_bound_of_registrations() {
    let server = Server::new(limits(|limits| {
        limits.reader.subscriptions = 3;
        limits.writer.subscriptions = 5;
    }));
    for (read_only, max) in [(true, 3), (false, 5)] {
        let mut client = server.open(read_only).await;
        let mut last = 0;
        for _ in 0..max {
            last = client.call(&register()).await.unwrap();
        }
        let error = client.call(&register()).await.unwrap_err();
        assert_eq!(error.code(), Code::OperationFailed);
        let part = format!("has {max} event registrations");
        assert!(error.to_string().contains(&part), "{error}");
        // One that is ended makes room.
        let end = ConnectDomainEventCallbackDeregisterAny { callback_id: last };
        client.call(&end).await.unwrap();
        assert!(client.call(&register()).await.is_ok());
    }
}

#[tokio::test]
async fn whoever_registers_hears_of_what_happens_from_then_on() {
    let server = Server::new(Limits::default());
    let mut early = server.open(true).await;
    let first = early.call(&register()).await.unwrap();
    let mut late = server.open(true).await;
    // Not handed on yet when the other one registers: this test has one thread.
    server.clients.publish(event());
    let second = late.call(&register()).await.unwrap();
    let third = late.call(&register()).await.unwrap();
    server.clients.publish(event());
    for _ in 0..2 {
        assert_eq!(early.receive_event().await, (first, event()));
    }
    assert_eq!(late.receive_event().await, (second, event()));
    assert_eq!(late.receive_event().await, (third, event()));
    // Nothing but the answer comes after those.
    assert!(late.call(&ConnectGetHostname {}).await.is_ok());
}

#[tokio::test]
async fn events_come_in_order_and_none_is_lost_however_many_wait() {
    let server = Server::new(Limits::default());
    let mut client = server.open(false).await;
    client.call(&register()).await.unwrap();
    for id in 0..5000 {
        let dom = Dom {
            name: "g1".into(),
            uuid: uuid::Uuid::nil(),
            id,
        };
        server.clients.publish(DomainRebooted { dom });
    }
    for expected in 0..5000 {
        match client.receive_event().await.1 {
            Event::DomainRebooted(event) => assert_eq!(event.dom.id, expected),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn slow_calls_of_readers_have_few_places_and_take_none_of_the_writers() {
    let server = Server::new(limits(|limits| limits.readers_slow_calls = 2));
    let crowd = server.fill_readers_places().await;
    // One more of them waits, and goes on hearing of everything else.
    let mut reader = server.open(true).await;
    let waits = reader.start(&slow_call()).await;
    reader.send(&PING, &[]).await;
    assert_eq!(reader.receive().await.0.procedure, 2);
    assert!(reader.call(&ConnectGetHostname {}).await.is_ok());
    // A writer does not wait.
    let mut writer = server.open(false).await;
    writer.start(&slow_call()).await;
    server.daemon.slow_began.notified().await;
    // Readers that go away make room, though their calls never ended.
    drop(crowd);
    server.daemon.slow_began.notified().await;
    server.daemon.let_go.notify_waiters();
    let (header, _) = reader.receive().await;
    assert_eq!((header.serial, header.status), (waits, Status::Ok));
    assert!(writer.receive_reply::<NodeDeviceGetXmlDesc>().await.is_ok());
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_waiting_calls_along() {
    for read_only in [true, false] {
        let server = Server::new(limits(|limits| {
            limits.readers_slow_calls = 1;
            limits.writers_slow_calls = 1;
        }));
        let mut first = server.open(read_only).await;
        first.start(&slow_call()).await;
        server.daemon.slow_began.notified().await;
        let mut gone = server.open(read_only).await;
        for _ in 0..5 {
            gone.start(&slow_call()).await;
        }
        assert!(gone.call(&ConnectGetHostname {}).await.is_ok());
        drop(gone);
        server.daemon.closed.notified().await;
        let mut last = server.open(read_only).await;
        last.start(&slow_call()).await;
        server.daemon.let_go.notify_one();
        assert!(first.receive_reply::<NodeDeviceGetXmlDesc>().await.is_ok());
        // The next that begins is the last one's: nobody else's is left.
        server.daemon.slow_began.notified().await;
        server.daemon.let_go.notify_one();
        assert!(last.receive_reply::<NodeDeviceGetXmlDesc>().await.is_ok());
    }
}

#[tokio::test]
async fn a_writers_call_runs_to_its_end_when_the_client_is_gone() {
    let server = Server::new(limits(|limits| limits.writers_slow_calls = 1));
    let mut gone = server.open(false).await;
    gone.start(&slow_call()).await;
    server.daemon.slow_began.notified().await;
    drop(gone);
    server.daemon.closed.notified().await;
    let mut next = server.open(false).await;
    next.start(&slow_call()).await;
    assert!(next.call(&ConnectGetHostname {}).await.is_ok());
    // The first one still has the only place.
    assert!(!server.daemon.slow_has_begun());
    server.daemon.let_go.notify_one();
    server.daemon.slow_began.notified().await;
    server.daemon.let_go.notify_one();
    assert!(next.receive_reply::<NodeDeviceGetXmlDesc>().await.is_ok());
}

#[tokio::test]
async fn a_call_that_ends_another_gets_in_when_all_places_are_taken() {
    let server = Server::new(limits(|limits| limits.writers_slow_calls = 1));
    let mut writer = server.open(false).await;
    writer.start(&slow_call()).await;
    writer.start(&slow_call()).await;
    server.daemon.slow_began.notified().await;
    let dom = Dom {
        name: "g1".into(),
        uuid: uuid::Uuid::nil(),
        id: 1,
    };
    let error = writer.call(&DomainDestroy { dom }).await.unwrap_err();
    assert_eq!(error.code(), Code::NoSupport);
}

#[tokio::test]
async fn pings_are_answered_while_a_client_leaves_its_answers_unread() {
    let server = Server::new(Limits::default());
    for read_only in [true, false] {
        let mut client = server.open(read_only).await;
        client.start(&large_reply()).await;
        client.something_came().await;
        // Calls that have to wait, and pings behind them.
        let waits = client.start(&ConnectGetHostname {}).await;
        for _ in 0..1000 {
            client.send(&PING, &[]).await;
        }
        let pong = Header {
            procedure: 2,
            ..PING
        };
        assert_eq!(client.receive().await.1.len(), 4_000_004);
        assert_eq!(client.receive().await.0, pong, "before the other answers");
        loop {
            let (header, _) = client.receive().await;
            if header.kind == Kind::Reply {
                assert_eq!(header.serial, waits);
                break;
            }
            assert_eq!(header, pong);
        }
    }
}

#[tokio::test]
async fn a_reader_that_asks_and_never_reads_is_not_listened_to_any_more() {
    let server = Server::new(Limits::default());
    let mut greedy = server.open(true).await;
    greedy.start(&large_reply()).await;
    greedy.something_came().await;
    let header = call_header(Program::Main.number(), ConnectGetHostname::INFO.number);
    let ask = frame::frame(&header, |_| ()).unwrap();
    let flood = ask.repeat(FRAME_MAX / ask.len());
    let taken = greedy.send_some(&flood).await;
    assert!(
        taken < flood.len() / 10,
        "{taken} bytes of calls were taken"
    );
    let mut other = server.open(true).await;
    assert!(other.call(&ConnectGetHostname {}).await.is_ok());
}
