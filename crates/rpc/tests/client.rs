//! Our client against our server.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Daemon, slow_call};
use rpc::client::{CallError, Client, Events, OpenError};
use rpc::server::{Clients, Limits, serve};
use rpc::*;
use tokio::net::{UnixListener, UnixStream};

async fn connect(daemon: &Arc<Daemon>) -> (Client, Events) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    tokio::spawn(serve(
        Arc::clone(daemon),
        theirs,
        false,
        Clients::new(Limits::default()),
    ));
    Client::open_on(ours, "qemu:///system", false)
        .await
        .unwrap()
}

#[tokio::test]
async fn it_opens_calls_and_closes_over_a_path() {
    let daemon = Arc::<Daemon>::default();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sock");
    let listener = UnixListener::bind(&path).unwrap();
    let service = Arc::clone(&daemon);
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        serve(service, stream, false, Clients::new(Limits::default())).await;
    });
    let (client, _events) = Client::open(&path, "", true).await.unwrap();
    assert_eq!(client.call(&ConnectGetHostname {}).await.unwrap(), "host");
    let net = Net {
        name: "n1".into(),
        uuid: uuid::Uuid::nil(),
    };
    let refused = client.call(&NetworkDestroy { net }).await.unwrap_err();
    assert!(matches!(refused, CallError::Refused(error) if error.code() == Code::OperationDenied));
    client.close().await;
    daemon.closed.notified().await;
}

#[tokio::test]
async fn what_fails_is_told_apart() {
    let missing = Client::open("/nowhere/sock".as_ref(), "", false)
        .await
        .unwrap_err();
    assert_eq!(missing.to_string(), "can't connect to /nowhere/sock");

    let (ours, theirs) = UnixStream::pair().unwrap();
    tokio::spawn(serve(
        Arc::<Daemon>::default(),
        theirs,
        false,
        Clients::new(Limits::default()),
    ));
    let wrong = Client::open_on(ours, "xen:///", false).await.unwrap_err();
    let OpenError::Call(CallError::Refused(error)) = wrong else {
        panic!("{wrong:?}")
    };
    assert_eq!(error.code(), Code::NoConnect);
}

#[tokio::test]
async fn calls_run_side_by_side_and_may_be_given_up() {
    let daemon = Arc::<Daemon>::default();
    let (client, _events) = connect(&daemon).await;
    let slow = slow_call();
    let given_up = tokio::time::timeout(Duration::ZERO, client.call(&slow)).await;
    assert!(given_up.is_err());
    let (long, short) = tokio::join!(client.call(&slow), async {
        let short = client.call(&ConnectGetHostname {}).await;
        daemon.let_go.notify_one();
        daemon.let_go.notify_one();
        tokio::task::yield_now().await;
        daemon.let_go.notify_one();
        short
    });
    assert_eq!(short.unwrap(), "host");
    assert_eq!(long.unwrap().len(), 4_000_000);
}

#[tokio::test]
async fn events_arrive_with_the_number_of_their_registration() {
    let daemon = Arc::<Daemon>::default();
    let (client, mut events) = connect(&daemon).await;
    let register = ConnectDomainEventCallbackRegisterAny {
        event_id: 1,
        dom: None,
    };
    let callback = client.call(&register).await.unwrap();
    let dom = Dom {
        name: "g1".into(),
        uuid: uuid::Uuid::nil(),
        id: 4,
    };
    let event = Event::from(DomainRebooted { dom });
    let conn = Arc::clone(&daemon.conns.lock().unwrap()[0]);
    assert_eq!(conn.publish(&event), 1);
    assert_eq!(events.next().await, Some((callback, event)));
    conn.close();
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_server_that_goes_away_ends_the_calls_that_wait() {
    let daemon = Arc::<Daemon>::default();
    let (client, _events) = connect(&daemon).await;
    let slow = slow_call();
    let (lost, ()) = tokio::join!(client.call(&slow), async {
        daemon.slow_began.notified().await;
        let conn = Arc::clone(&daemon.conns.lock().unwrap()[0]);
        conn.close();
    });
    assert!(matches!(lost, Err(CallError::Disconnected)));
    let after = client.call(&ConnectGetHostname {}).await;
    assert!(matches!(after, Err(CallError::Disconnected)));
}

#[tokio::test]
async fn file_descriptors_go_along() {
    let daemon = Arc::<Daemon>::default();
    let (client, _events) = connect(&daemon).await;
    let fds = ["a", "b"].map(|text| {
        let (reader, mut writer) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut writer, text.as_bytes()).unwrap();
        reader.into()
    });
    let args = DomainCreateXmlWithFiles {
        xml_desc: "<domain/>".into(),
        flags: Default::default(),
    };
    let dom = client.call_with_fds(&args, fds.into()).await.unwrap();
    assert_eq!(dom.name, "a b");
}
