//! What a client sees of a server, frame by frame.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use rpc::frame::{Header, Kind, Status};
use rpc::server::{Clients, Limits};
use rpc::*;

#[tokio::test]
async fn the_handshake_of_virsh_works() {
    let mut client = Raw::connect(Limits::default());
    assert_eq!(client.call(&AuthList {}).await, Ok(vec![0]));
    assert_eq!(
        client.call(&ConnectSupportsFeature { feature: 10 }).await,
        Ok(true)
    );
    let name = Some("qemu:///system".to_owned());
    assert_eq!(
        client
            .call(&ConnectOpen {
                name,
                flags: Default::default()
            })
            .await,
        Ok(())
    );
    assert_eq!(
        client.call(&ConnectSupportsFeature { feature: 14 }).await,
        Ok(true)
    );
    assert_eq!(
        client.call(&ConnectSupportsFeature { feature: 999 }).await,
        Ok(false)
    );
    assert_eq!(client.call(&ConnectRegisterCloseCallback {}).await, Ok(()));
    assert_eq!(
        client.call(&ConnectGetHostname {}).await,
        Ok("host".to_owned())
    );
    assert_eq!(
        client.call(&ConnectUnregisterCloseCallback {}).await,
        Ok(())
    );
    assert_eq!(client.call(&ConnectClose {}).await, Ok(()));
    assert!(client.is_closed_by_server().await);
    assert_eq!(client.daemon.closed.notified().await, ());
}

#[tokio::test]
async fn nothing_works_before_open_and_open_works_once() {
    let mut client = Raw::connect(Limits::default());
    let error = client.call(&ConnectGetHostname {}).await.unwrap_err();
    assert_eq!(error.to_string(), "internal error: connection not open");
    assert_eq!(error.domain(), Domain::Rpc);
    client.open().await;
    let error = client
        .call(&ConnectOpen {
            name: None,
            flags: Default::default(),
        })
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "internal error: connection already open");
}

#[tokio::test]
async fn a_refused_open_leaves_the_connection_closed() {
    let mut client = Raw::connect(Limits::default());
    let name = Some("xen:///".to_owned());
    let error = client
        .call(&ConnectOpen {
            name,
            flags: Default::default(),
        })
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::NoConnect);
    assert!(client.call(&ConnectGetHostname {}).await.is_err());
    client.open().await;
    assert!(client.call(&ConnectGetHostname {}).await.is_ok());
}

#[tokio::test]
async fn what_nobody_knows_gets_the_error_that_clients_look_for() {
    let mut client = Raw::open_connection().await;
    let header = call_header(Program::Main.number(), 9999);
    let error = client.exchange(&header, &[]).await.unwrap_err();
    assert_eq!((error.code(), error.domain()), (Code::Rpc, Domain::Rpc));
    assert_eq!(error.to_string(), "unknown procedure: 9999");

    // One that libvirt has and that is not in the table, whatever it is called with.
    let header = call_header(Program::Main.number(), 62);
    let error = client.exchange(&header, &[]).await.unwrap_err();
    assert_eq!(
        (error.code(), error.domain()),
        (Code::NoSupport, Domain::Domain)
    );
    let text = "this function is not supported by the connection driver: virDomainMigratePerform";
    assert_eq!(error.to_string(), text);

    let error = client
        .exchange(&call_header(0x2000_8088, 1), &[])
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "Cannot find program 536903816 version 1");

    let header = call_header(Program::Main.number(), 46);
    let error = client.exchange(&header, &[0xff; 4]).await.unwrap_err();
    assert_eq!(error.to_string(), "Unable to decode message payload");

    // A text of one byte that is none in UTF-8, to what takes one.
    let header = call_header(Program::Main.number(), 46);
    let latin = [0, 0, 0, 1, 0xe4, 0, 0, 0];
    let error = client.exchange(&header, &latin).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "Unable to decode message payload: a text in it, such as a document, is not UTF-8"
    );

    let error = client
        .call(&NodeDeviceReset { name: "x".into() })
        .await
        .unwrap_err();
    assert_eq!(
        (error.code(), error.domain()),
        (Code::NoSupport, Domain::NodeDevice)
    );
    assert!(
        error.to_string().ends_with(": virNodeDeviceReset"),
        "{error}"
    );

    // And the connection lives on.
    assert!(client.call(&ConnectGetHostname {}).await.is_ok());
}

#[tokio::test]
async fn a_frame_of_no_known_type_gets_an_error_and_answers_get_none() {
    let mut client = Raw::open_connection().await;
    let header = Header {
        kind: Kind::Other(9),
        ..call_header(Program::Main.number(), 59)
    };
    let error = client.exchange(&header, &[]).await.unwrap_err();
    assert_eq!(error.to_string(), "Unexpected message type 9");
    for kind in [Kind::Reply, Kind::Event] {
        client.send(&Header { kind, ..header }, &[]).await;
    }
    assert!(client.call(&ConnectGetHostname {}).await.is_ok());
}

#[tokio::test]
async fn go_libvirts_flag_for_present_is_understood() {
    let mut client = Raw::connect(Limits::default());
    let payload = [1, 0, 0, 0, 0, 0, 0, 2, b'g', b'o', 0, 0, 0, 0, 0, 0];
    let header = call_header(Program::Main.number(), 1);
    assert_eq!(
        client
            .exchange(&header, &payload)
            .await
            .map(|reply| reply.len()),
        Ok(0)
    );
}

#[tokio::test]
async fn readers_may_read_and_no_more() {
    let net = Net {
        name: "n1".into(),
        uuid: uuid::Uuid::nil(),
    };
    for (socket, flags) in [(true, 0_u32), (false, 1)] {
        let mut client = Raw::connect_with(Limits::default(), socket);
        client
            .call(&ConnectOpen {
                name: None,
                flags: flags.into(),
            })
            .await
            .unwrap();
        assert!(client.call(&ConnectGetHostname {}).await.is_ok());
        let error = client
            .call(&NetworkDestroy { net: net.clone() })
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "operation forbidden: read only access prevents virNetworkDestroy"
        );
    }
}

#[tokio::test]
async fn pings_and_other_calls_are_answered_during_a_long_call() {
    let mut client = Raw::open_connection().await;
    let long = client.start(&slow_call()).await;
    client.daemon.slow_began.notified().await;
    client.send(&PING, &[]).await;
    let (header, _) = client.receive().await;
    assert_eq!(
        header,
        Header {
            procedure: 2,
            ..PING
        }
    );
    assert!(client.call(&ConnectGetHostname {}).await.is_ok());
    client.daemon.let_go.notify_one();
    let (header, _) = client.receive().await;
    assert_eq!((header.serial, header.status), (long, Status::Ok));
}

#[tokio::test]
async fn it_is_known_whether_a_client_could_get_its_answer() {
    for stays in [true, false] {
        let mut client = Raw::open_connection().await;
        client.start(&slow_call()).await;
        let daemon = Arc::clone(&client.daemon);
        daemon.slow_began.notified().await;
        let answered = daemon.answered.lock().unwrap().take().unwrap();
        if stays {
            daemon.let_go.notify_one();
            // Gone right after it has the answer, it has it nevertheless.
            client.receive().await;
            drop(client);
        } else {
            drop(client);
            daemon.closed.notified().await;
            daemon.let_go.notify_one();
        }
        assert_eq!(answered.await.unwrap(), stays);
    }
}

#[tokio::test]
async fn calls_over_the_limit_wait_and_those_over_the_waiting_limit_are_refused() {
    let limits = limits(|limits| {
        limits.writer.calls = 2;
        limits.writer.waiting_calls = 1;
    });
    let mut client = Raw::connect(limits);
    client.open().await;
    let mut serials = Vec::new();
    for _ in 0..3 {
        serials.push(client.start(&slow_call()).await);
    }
    let error = client.call(&slow_call()).await.unwrap_err();
    assert_eq!(error.code(), Code::OperationFailed);
    // A call of high priority has places of its own.
    assert!(client.call(&ConnectGetHostname {}).await.is_ok());
    for _ in 0..3 {
        client.daemon.let_go.notify_one();
        let (header, _) = client.receive().await;
        assert_eq!(header.status, Status::Ok);
        serials.retain(|serial| *serial != header.serial);
    }
    assert_eq!(serials, []);
}

#[tokio::test]
async fn a_panic_in_a_call_becomes_its_error() {
    let mut client = Raw::open_connection().await;
    for later in [0_u32, 1] {
        let args = NodeDeviceGetXmlDesc {
            name: "panic".into(),
            flags: later.into(),
        };
        let error = client.call(&args).await.unwrap_err();
        assert_eq!(
            (error.code(), error.domain()),
            (Code::InternalError, Domain::NodeDevice)
        );
        assert!(
            error.to_string().contains("virNodeDeviceGetXMLDesc"),
            "{error}"
        );
    }
    assert!(client.call(&ConnectGetHostname {}).await.is_ok());
}

#[tokio::test]
async fn a_wrong_reply_never_reaches_the_client() {
    let mut client = Raw::open_connection().await;
    let error = client.call(&ConnectGetUri {}).await.unwrap_err();
    assert_eq!(error.code(), Code::InternalError);
}

#[tokio::test]
async fn a_reply_that_is_too_large_becomes_an_error() {
    let mut client = Raw::open_connection().await;
    let args = ConnectListAllNetworks {
        need_results: true,
        flags: Default::default(),
    };
    let error = client.call(&args).await.unwrap_err();
    assert_eq!(error.to_string(), "Unable to encode message payload");
    // Their number alone is no problem.
    let args = ConnectListAllNetworks {
        need_results: false,
        flags: Default::default(),
    };
    assert_eq!(
        client.call(&args).await.map(|nets| nets.count()),
        Ok(16_385)
    );
}

#[tokio::test]
async fn a_length_that_no_frame_has_ends_the_connection_at_once() {
    for length in [0, 27, 33_554_437, u32::MAX] {
        let mut client = Raw::open_connection().await;
        client.send_bytes(&length.to_be_bytes()).await;
        assert!(client.is_closed_by_server().await, "{length}");
    }
}

#[tokio::test]
async fn a_frame_that_comes_byte_by_byte_is_read() {
    let mut client = Raw::open_connection().await;
    let bytes = frame::frame(&call_header(Program::Main.number(), 59), |_| ()).unwrap();
    for byte in bytes {
        client.send_bytes(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.receive().await.0.status, Status::Ok);
}

#[tokio::test]
async fn a_megabyte_of_xml_comes_through() {
    let mut client = Raw::open_connection().await;
    let xml = "x".repeat(3_000_000);
    let net = client
        .call(&NetworkDefineXml { xml: xml.clone() })
        .await
        .unwrap();
    assert_eq!(net.name.len(), xml.len());
}

#[tokio::test]
async fn a_frame_that_is_never_finished_ends_the_connection() {
    let limits = limits(|limits| limits.writer.frame_time = Duration::from_millis(20));
    let mut client = Raw::connect(limits);
    client.open().await;
    // It claims all that a frame may have, and sends little of it.
    client.send_bytes(&33_554_436_u32.to_be_bytes()).await;
    client.send_bytes(&[0; 1000]).await;
    assert!(client.is_closed_by_server().await);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off_and_others_are_not() {
    let limits = limits(|limits| limits.writer.queued_bytes = 256 * 1024);
    let (daemon, clients) = (Arc::default(), Clients::new(limits));
    let mut idle = Raw::connect_to(&daemon, &clients, false);
    idle.open().await;
    idle.call(&ConnectDomainEventCallbackRegisterAny {
        event_id: 1,
        dom: None,
    })
    .await
    .unwrap();
    let mut other = Raw::connect_to(&daemon, &clients, false);
    other.open().await;

    let idle_conn = daemon.conns.lock().unwrap()[0].clone();
    let dom = Dom {
        name: "g".repeat(1000),
        uuid: uuid::Uuid::nil(),
        id: 1,
    };
    let event = Event::from(DomainRebooted { dom });
    let mut sent = 0;
    while !idle_conn.is_closed() {
        sent += idle_conn.publish(&event);
        assert!(sent < 100_000, "an endless queue");
    }
    assert!(sent > 100, "{sent} events are no flood");
    assert!(other.call(&ConnectGetHostname {}).await.is_ok());
    daemon.closed.notified().await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_of_a_reply_is_cut_off_in_time() {
    let limits = limits(|limits| limits.writer.stall = Duration::from_millis(20));
    let mut client = Raw::connect(limits);
    client.open().await;
    client
        .start(&NodeDeviceGetXmlDesc {
            name: "large".into(),
            flags: Default::default(),
        })
        .await;
    client.daemon.closed.notified().await;
}

#[tokio::test]
async fn an_event_beside_a_large_reply_is_no_reason_to_cut_off() {
    let limits = limits(|limits| limits.writer.queued_bytes = 100_000);
    let mut client = Raw::connect(limits);
    client.open().await;
    client
        .call(&ConnectDomainEventCallbackRegisterAny {
            event_id: 1,
            dom: None,
        })
        .await
        .unwrap();
    client
        .start(&NodeDeviceGetXmlDesc {
            name: "large".into(),
            flags: Default::default(),
        })
        .await;
    client.something_came().await;
    let dom = Dom {
        name: "g1".into(),
        uuid: uuid::Uuid::nil(),
        id: 1,
    };
    assert_eq!(
        client.conn().publish(&Event::from(DomainRebooted { dom })),
        1
    );
    assert_eq!(client.receive().await.1.len(), 4_000_004);
    client.receive_event().await;
}

#[tokio::test]
async fn file_descriptors_arrive_in_order_and_the_frames_after_them_too() {
    let mut client = Raw::open_connection().await;
    let mut fds = Vec::new();
    for text in ["one", "two"] {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(text.as_bytes()).unwrap();
        fds.push(OwnedFd::from(reader));
    }
    let args = DomainCreateXmlWithFiles {
        xml_desc: "<domain/>".into(),
        flags: Default::default(),
    };
    client.start_with_fds(&args, fds).await;
    let dom = client
        .receive_reply::<DomainCreateXmlWithFiles>()
        .await
        .unwrap();
    assert_eq!(dom.name, "one two");
    assert!(client.call(&ConnectGetHostname {}).await.is_ok());
}

#[tokio::test]
async fn promised_descriptors_that_do_not_come_end_the_connection() {
    let mut client = Raw::open_connection().await;
    let header = Header {
        kind: Kind::CallWithFds,
        ..call_header(Program::Main.number(), 59)
    };
    client.send(&header, &[0, 0, 0, 1]).await;
    client.send_bytes(&[0]).await;
    assert!(client.is_closed_by_server().await);

    let mut client = Raw::open_connection().await;
    client.send(&header, &[0, 0, 0, 33]).await;
    assert!(client.is_closed_by_server().await);
}

#[tokio::test]
async fn events_go_to_those_that_want_them() {
    let mut client = Raw::open_connection().await;
    let net = |n: u128| Net {
        name: format!("n{n}"),
        uuid: uuid::Uuid::from_u128(n),
    };
    let register = |net| ConnectNetworkEventRegisterAny { event_id: 0, net };
    let all = client.call(&register(None)).await.unwrap();
    let one = client.call(&register(Some(net(1)))).await.unwrap();
    let guests = client
        .call(&ConnectDomainEventCallbackRegisterAny {
            event_id: 0,
            dom: None,
        })
        .await
        .unwrap();
    assert!(all != one && one != guests && all != guests);

    let conn = client.conn();
    let event = |n| {
        Event::from(NetworkLifecycle {
            net: net(n),
            change: NetworkChange::Started,
        })
    };
    assert_eq!(conn.publish(&event(1)), 2);
    assert_eq!(client.receive_event().await, (all, event(1)));
    assert_eq!(client.receive_event().await, (one, event(1)));
    assert_eq!(conn.publish(&event(2)), 1);
    assert_eq!(client.receive_event().await, (all, event(2)));

    client
        .call(&ConnectNetworkEventDeregisterAny { callback_id: all })
        .await
        .unwrap();
    assert_eq!(conn.publish(&event(2)), 0);
    // That number belongs to events about guests.
    let wrong = ConnectNetworkEventDeregisterAny {
        callback_id: guests,
    };
    assert_eq!(
        client.call(&wrong).await.unwrap_err().code(),
        Code::InternalError
    );
    let unknown = ConnectDomainEventCallbackRegisterAny {
        event_id: 28,
        dom: None,
    };
    let error = client.call(&unknown).await.unwrap_err();
    assert_eq!(error.to_string(), "internal error: unsupported event ID 28");
}
