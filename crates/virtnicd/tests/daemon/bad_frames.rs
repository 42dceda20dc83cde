//! The wire itself: calls that are none, clients that misbehave, and what each socket is for.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use rpc::client::OpenError;
use rpc::frame::{Header, Kind, Status, frame};
use rpc::xdr::{Xdr as _, from_bytes};
use rpc::*;
use uuid::Uuid;

use crate::harness::*;

/// A client that sends what it likes.
struct Raw(UnixStream);

impl Raw {
    fn connect(root: &Root) -> Raw {
        let stream = UnixStream::connect(root.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Raw(stream)
    }

    /// One whose connection is open.
    fn open(root: &Root) -> Raw {
        let mut raw = Raw::connect(root);
        raw.call(&ConnectOpen {
            name: None,
            flags: Default::default(),
        })
        .unwrap();
        raw
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// The next frame, without its length; none when the connection is ended.
    fn receive(&mut self) -> Option<Vec<u8>> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).ok()?;
        let mut rest = vec![0; u32::from_be_bytes(length) as usize - 4];
        self.0.read_exact(&mut rest).ok()?;
        Some(rest)
    }

    /// The answer to what was sent: its payload, or its error.
    fn answer(&mut self) -> Result<Vec<u8>, Error> {
        let reply = self.receive().expect("the connection is ended");
        let header: Header = from_bytes(&reply).unwrap();
        let payload = reply[24..].to_vec();
        match header.status {
            Status::Ok => Ok(payload),
            _ => Err(from_bytes(&payload).unwrap()),
        }
    }

    fn call<P: Procedure>(&mut self, args: &P) -> Result<Vec<u8>, Error> {
        let header = call(P::INFO.program.number(), P::INFO.number);
        self.send(&frame(&header, |w| args.encode(w)).unwrap());
        self.answer()
    }

    fn is_alive(&mut self) -> bool {
        self.call(&ConnectGetHostname {}).is_ok()
    }

    /// Sends a header with those bytes after it.
    fn send_call(&mut self, header: &Header, payload: &[u8]) {
        let mut bytes = frame(header, |_| ()).unwrap();
        bytes.extend_from_slice(payload);
        let length = u32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        self.send(&bytes);
    }
}

fn call(program: u32, procedure: i32) -> Header {
    Header {
        program,
        version: 1,
        procedure,
        kind: Kind::Call,
        serial: 7,
        status: Status::Ok,
    }
}

const MAIN: u32 = 0x2000_8086;

#[test]
fn an_unknown_call_gets_an_error_and_the_connection_lives() {
    let root = Root::new();
    let _daemon = root.start();
    let mut raw = Raw::open(&root);
    for (header, part) in [
        (call(MAIN, 9999), "unknown procedure: 9999"),
        (call(MAIN, -1), "unknown procedure: -1"),
        (call(0x1234, 1), "Cannot find program 4660 version 1"),
        (
            Header {
                version: 2,
                ..call(MAIN, 1)
            },
            "version 2",
        ),
        // Arguments that end early.
        (call(MAIN, 46), "decode"),
    ] {
        raw.send_call(&header, &[]);
        let error = raw.answer().unwrap_err();
        assert_eq!(
            (error.code(), error.domain()),
            (Code::Rpc, Domain::Rpc),
            "{error}"
        );
        assert!(error.message().contains(part), "{error}");
        assert!(raw.is_alive());
    }
    // One that exists, and that nobody here carries out: clients try another then.
    let args = ConnectGetSysinfo {
        flags: Default::default(),
    };
    let error = raw.call(&args).unwrap_err();
    assert_eq!(error.code(), Code::NoSupport);
    assert!(error.message().contains("virConnectGetSysinfo"), "{error}");
    assert!(raw.is_alive());
}

#[test]
fn a_call_before_the_connection_is_open_is_refused() {
    let root = Root::new();
    let _daemon = root.start();
    let mut raw = Raw::connect(&root);
    let error = raw.call(&ConnectGetHostname {}).unwrap_err();
    assert!(error.message().contains("connection not open"), "{error}");
    raw.call(&ConnectOpen {
        name: None,
        flags: Default::default(),
    })
    .unwrap();
    assert!(raw.is_alive());
}

#[test]
fn a_frame_with_an_impossible_length_ends_its_connection_alone() {
    let root = Root::new();
    let _daemon = root.start();
    let mut bystander = Raw::open(&root);
    for length in [u32::MAX, 0, 3, 27, 64 * 1024 * 1024] {
        let mut raw = Raw::open(&root);
        raw.send(&length.to_be_bytes());
        assert_eq!(raw.receive(), None, "a length of {length}");
    }
    // Neither is one that promises much and sends little worth its memory.
    let mut raw = Raw::open(&root);
    raw.send(&(32u32 * 1024 * 1024).to_be_bytes());
    raw.send(&[0; 100]);
    assert!(bystander.is_alive());
}

#[test]
fn a_string_over_the_maximum_is_refused() {
    let root = Root::new();
    let _daemon = root.start();
    let mut raw = Raw::open(&root);
    // The whole of a 5 MB document, and one that only claims to have 4 GB.
    let mut long = (5u32 * 1024 * 1024).to_be_bytes().to_vec();
    long.resize(5 * 1024 * 1024 + 4, b' ');
    for payload in [&long[..], &u32::MAX.to_be_bytes()] {
        raw.send_call(&call(MAIN, NetworkDefineXml::INFO.number), payload);
        let error = raw.answer().unwrap_err();
        assert_eq!(error.code(), Code::Rpc, "{error}");
        assert!(raw.is_alive());
    }
}

#[tokio::test]
async fn garbage_and_half_frames_do_no_harm() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    client.running_network("n1", "sim0").await;
    let before = client.picture(&root).await;
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 4096],
        &[0, 0, 0, 28, 1, 2],
    ] {
        let mut raw = Raw::connect(&root);
        raw.send(bytes);
    }
    // A call whose client is gone before its answer.
    let mut raw = Raw::open(&root);
    let number = DomainCreateXml::INFO.number;
    let xml_desc = guest_xml("half", "<tpm/>");
    let args = DomainCreateXml {
        xml_desc,
        flags: Default::default(),
    };
    raw.send(&frame(&call(MAIN, number), |w| args.encode(w)).unwrap());
    drop(raw);
    let until = async {
        while client.picture(&root).await != before {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, until)
        .await
        .expect("something is left");
}

#[tokio::test]
async fn a_picture_is_whole_while_guests_come_and_go() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let other = root.client().await;
    let before = client.picture(&root).await;
    // Each is known for as long as it takes to see that it can't be started.
    let mut refusals = std::pin::pin!(async {
        for _ in 0..50 {
            let xml_desc = guest_xml("half", "<tpm/>");
            let flags = flags::CreateDomain::NONE;
            other.refused(DomainCreateXml { xml_desc, flags }).await;
        }
    });
    loop {
        tokio::select! {
            () = &mut refusals => break,
            picture = client.picture(&root) => drop(picture),
        }
    }
    assert_eq!(client.picture(&root).await, before);
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_nobody_up() {
    let root = Root::new();
    // A large dump: a network of many VFs.
    let _daemon = root.start_on("pfs=1,vfs=2000");
    let client = root.client().await;
    let net = client.running_network("n1", "sim0").await;
    let dump = NetworkGetXmlDesc {
        net: net.clone(),
        flags: Default::default(),
    };

    // It asks for dumps until the daemon stops listening to it, and reads none.
    let mut greedy = Raw::open(&root);
    let events = ConnectNetworkEventRegisterAny {
        event_id: 0,
        net: None,
    };
    greedy.call(&events).unwrap();
    greedy.0.set_nonblocking(true).unwrap();
    let number = NetworkGetXmlDesc::INFO.number;
    let ask = frame(&call(MAIN, number), |w| dump.encode(w)).unwrap();
    let asked = (0..100_000)
        .take_while(|_| greedy.0.write_all(&ask).is_ok())
        .count();
    assert!(asked < 100_000, "the daemon takes calls without end");

    // Others see dumps, changes and their events as before.
    let mut other = root.client().await;
    other.listen().await;
    let transient = other
        .ok(NetworkCreateXml {
            xml: network_xml("t1", "sim0"),
        })
        .await;
    other.ok(NetworkDestroy { net: transient }).await;
    other.hears(&["t1 Started", "t1 Stopped"]).await;
    assert!(other.ok(dump).await.len() > 100_000);
}

#[tokio::test]
async fn a_client_that_leaves_its_events_unread_is_cut_off() {
    let root = Root::new();
    let _daemon = root.start();
    let mut client = root.client().await;
    client.listen().await;
    let mut deaf = Raw::open(&root);
    // As many registrations as it likes, each of which hears of everything.
    for _ in 0..500 {
        deaf.call(&ConnectNetworkEventRegisterAny {
            event_id: 0,
            net: None,
        })
        .unwrap();
    }
    let net = client.define_network(&network_xml("n1", "sim0")).await;
    client.hears(&["n1 Defined"]).await;
    for _ in 0..100 {
        client.ok(NetworkCreate { net: net.clone() }).await;
        client.ok(NetworkDestroy { net: net.clone() }).await;
        client.hears(&["n1 Started", "n1 Stopped"]).await;
    }
    // 500 registrations, 201 events of 64 bytes: more than is kept for anyone.
    let mut unread = 0;
    while let Some(event) = deaf.receive() {
        unread += event.len();
    }
    assert!(unread < 500 * 201 * 60, "all {unread} bytes were kept");
}

#[tokio::test]
async fn readers_in_any_number_keep_no_writer_out() {
    let root = Root::new();
    let mut daemon = Daemon::spawn(root.command_with_descriptors(SHAPE, 128));
    daemon.wait_for_line("ready");
    let reader = || UnixStream::connect(root.read_only_socket()).unwrap();
    // Those for whom there is no room wait where the kernel has room for them.
    let mut crowd: Vec<_> = (0..120).map(|_| reader()).collect();
    daemon.wait_for_line("no room for more clients");
    let client = root.client().await;
    client.running_network("n1", "sim0").await;
    client.running_guest("g1", "n1").await;
    // Who waited gets in when others leave.
    crowd.truncate(10);
    root.read_only_client().await.picture(&root).await;
}

#[tokio::test]
async fn readers_read_and_change_nothing() {
    let root = Root::new();
    let _daemon = root.start();
    let writer = root.client().await;
    let net = writer.running_network("n1", "sim0").await;
    let port = writer
        .create_port(&net, &port_xml(Uuid::from_u128(1), "client", 1))
        .await;
    let dom = writer.define_guest(&guest_xml("g1", "")).await;
    let reader = root.read_only_client().await;
    reader.picture(&root).await;
    reader.ok(ConnectGetCapabilities {}).await;

    let xml = network_xml("n2", "sim1");
    let denied = Code::OperationDenied;
    macro_rules! denied {
        ($($call:expr),* $(,)?) => { $(
            reader.refuses(&root, $call, denied, &["operation forbidden: read only access"]).await;
        )* };
    }
    denied! {
        NetworkDefineXml { xml: xml.clone() },
        NetworkCreateXml { xml },
        NetworkDestroy { net: net.clone() },
        NetworkUndefine { net: net.clone() },
        NetworkSetAutostart { net: net.clone(), autostart: true },
        NetworkPortCreateXml { network: net, xml: port_xml(Uuid::from_u128(2), "c", 2), flags: Default::default() },
        NetworkPortDelete { port, flags: Default::default() },
        DomainDefineXmlFlags { xml: guest_xml("g2", ""), flags: Default::default() },
        DomainCreateXml { xml_desc: guest_xml("g2", ""), flags: Default::default() },
        DomainCreateWithFlags { dom: dom.clone(), flags: Default::default() },
        DomainUndefineFlags { dom: dom.clone(), flags: Default::default() },
        DomainOpenConsole { dom: dom.clone(), dev_name: None, flags: Default::default() },
        QemuDomainMonitorCommand { dom: dom.clone(), cmd: "quit".into(), flags: 1.into() },
    }
    let secrets = DomainGetXmlDesc {
        dom,
        flags: 1.into(),
    };
    reader
        .refuses(
            &root,
            secrets,
            denied,
            &["virDomainGetXMLDesc with secure flag"],
        )
        .await;

    // By its own wish on the socket for all, too.
    let open = rpc::client::Client::open(&root.socket(), "qemu:///system", true).await;
    let (careful, _events) = open.unwrap();
    careful
        .call(&NetworkDefineXml {
            xml: network_xml("n3", "sim1"),
        })
        .await
        .unwrap_err();
}

#[tokio::test]
async fn only_uris_that_are_served_are_opened() {
    let root = Root::new();
    let _daemon = root.start();
    for name in [
        "",
        "qemu:///system",
        "network:///system",
        "qemu:///system?socket=/nosuch",
    ] {
        rpc::client::Client::open(&root.socket(), name, false)
            .await
            .unwrap();
    }
    for name in ["xen:///system", "lxc:///", "qemu:///nosuch", "nonsense"] {
        let error = rpc::client::Client::open(&root.socket(), name, false)
            .await
            .unwrap_err();
        let OpenError::Call(rpc::client::CallError::Refused(error)) = error else {
            panic!("{error}");
        };
        assert_eq!(error.code(), Code::NoConnect);
        assert!(error.message().contains(name), "{error}");
    }
}

#[tokio::test]
async fn the_connection_and_the_host_are_told() {
    let root = Root::new();
    let daemon = root.start();
    let client = root.client().await;
    assert_eq!(client.ok(ConnectGetUri {}).await, "qemu:///system");
    assert_eq!(client.ok(ConnectGetType {}).await, "QEMU");
    assert_eq!(client.ok(ConnectGetLibVersion {}).await, 11_003_000);
    assert!(!client.ok(ConnectGetHostname {}).await.is_empty());
    assert!(client.ok(ConnectIsSecure {}).await);
    let node = client.ok(NodeGetInfo {}).await;
    assert!(node.cpus >= 1 && node.memory > 0, "{node:?}");
    let capabilities = client.ok(ConnectGetCapabilities {}).await;
    assert!(capabilities.starts_with("<capabilities>"), "{capabilities}");
    let devices = ConnectListAllNodeDevices {
        need_results: true,
        flags: 0x8000_0000.into(),
    };
    let devices = client.ok(devices).await.into_items();
    assert!(
        devices
            .iter()
            .any(|device| device.name == "pci_0000_02_00_1"),
        "{devices:?}"
    );
    let status = client.ok(VirtnicStatus {}).await;
    assert_eq!(
        (status.version.as_str(), status.pid),
        (env!("CARGO_PKG_VERSION"), daemon.pid())
    );
}
