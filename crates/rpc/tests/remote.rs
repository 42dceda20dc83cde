//! Clients and servers that are not on one host, by TLS and by TCP.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/pki.rs"]
mod pki;

use std::error::Error as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::Daemon;
use pki::{Pki, Wanted};
use rpc::client::{Client, ConnectError, Connecting};
use rpc::server::{Clients, Limits, Peer, Refused, Remote, TlsGate, serve_remote};
use rpc::tls::{AllowList, CredentialsError, Files};
use rpc::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// For what succeeds.
const PLENTY: Duration = Duration::from_secs(20);

fn list(names: &[&str]) -> AllowList {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn gate(dir: &Path, allowed: &[&str], time: Duration) -> TlsGate {
    TlsGate::open(&Files::of_server_in(dir), list(allowed), time).unwrap()
}

/// A server that lets clients in by that gate, or all of them.
struct Server {
    daemon: Arc<Daemon>,
    port: u16,
    refused: mpsc::UnboundedReceiver<Refused>,
}

impl Server {
    async fn start(gate: Option<TlsGate>) -> Server {
        let listener = TcpListener::bind("[::]:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (daemon, clients) = (Arc::<Daemon>::default(), Clients::new(Limits::default()));
        let (sender, refused) = mpsc::unbounded_channel();
        let (service, gate) = (Arc::clone(&daemon), gate.map(Arc::new));
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (service, clients) = (Arc::clone(&service), Arc::clone(&clients));
                let (gate, sender) = (gate.clone(), sender.clone());
                tokio::spawn(async move {
                    let admitted = match &gate {
                        Some(gate) => gate.admit(tcp).await,
                        None => Remote::unknown(tcp),
                    };
                    match admitted {
                        Ok(remote) => serve_remote(service, remote, clients).await,
                        // A test may not want to know.
                        Err(why) => drop(sender.send(why)),
                    }
                });
            }
        });
        Server {
            daemon,
            port,
            refused,
        }
    }

    async fn connect(
        &self,
        host: &str,
        pki: &Path,
    ) -> Result<(Client, client::Events), ConnectError> {
        let uri = format!(
            "qemu+tls://{host}:{}/system?pkipath={}",
            self.port,
            pki.display()
        );
        let how = Connecting {
            time: PLENTY,
            ..Connecting::default()
        };
        Client::connect(&uri.parse().unwrap(), &how).await
    }

    async fn raw(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.unwrap()
    }
}

/// An error and its sources.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[tokio::test]
async fn both_sides_know_each_other() {
    let pki = Pki::new();
    let server = Server::start(Some(gate(
        &pki.server(),
        &["C=GB,O=Example,CN=client*"],
        PLENTY,
    )))
    .await;
    let dir = pki.client_named("client1");
    for (host, local) in [
        ("localhost", None),
        ("127.0.0.1", Some("127.0.0.1")),
        ("[::1]", Some("::1")),
    ] {
        let (client, _events) = server.connect(host, &dir).await.unwrap();
        assert_eq!(client.call(&ConnectGetHostname {}).await.unwrap(), "host");
        // Descriptors don't go along, and large replies do.
        let passes = client.call(&ConnectSupportsFeature { feature: 8 }).await;
        assert!(!passes.unwrap());
        let name = "any".into();
        let flags = Default::default();
        let xml = client.call(&NodeDeviceGetXmlDesc { name, flags }).await;
        assert_eq!(xml.unwrap().len(), 4_000_000);
        let conn = server.daemon.conns.lock().unwrap().last().unwrap().clone();
        let Peer::Tls { name, address } = conn.peer() else {
            panic!("{conn:?}");
        };
        assert_eq!(name.to_string(), "C=GB,O=Example,CN=client1");
        assert!(address.ip().is_loopback() && conn.is_secure() && !conn.is_read_only());
        if let Some(local) = local {
            assert_eq!(conn.local_addr(), Some(local.parse().unwrap()));
        }
        client.close().await;
        server.daemon.closed.notified().await;
    }
}

#[tokio::test]
async fn a_client_by_dns_name_is_let_in() {
    let pki = Pki::new();
    let server = Server::start(Some(gate(&pki.server(), &["*.Example.org"], PLENTY))).await;
    let named = |name: &str, dns: &[&str]| {
        let names = dns;
        pki.client(
            name,
            &Wanted {
                names,
                ..Wanted::default()
            },
        )
    };
    let dir = named("good", &["other.net", "h1.example.org"]);
    let (client, _events) = server.connect("localhost", &dir).await.unwrap();
    client.close().await;
    for (name, dns) in [
        ("deep", &["a.b.example.org"][..]),
        ("bare", &["example.org"]),
        ("wild", &["*.example.org"]),
        ("none", &[]),
    ] {
        let refused = server.connect("localhost", &named(name, dns)).await;
        assert!(
            matches!(refused, Err(ConnectError::NotAdmitted(_))),
            "{name}"
        );
    }
}

#[tokio::test]
async fn whom_the_certificate_does_not_prove_is_not_let_in() {
    let (pki, others) = (Pki::new(), Pki::new());
    let dir = pki.server();
    pki.revoke(&dir, &[77], false);
    let mut server = Server::start(Some(gate(&dir, &["CN=c1"], PLENTY))).await;
    let client = |pki: &Pki, name: &str, cn: &str, serial, is_expired| {
        let subject = &[("CN", cn)];
        pki.client(
            name,
            &Wanted {
                subject,
                serial,
                is_expired,
                ..Wanted::default()
            },
        )
    };
    let good = client(&pki, "good", "c1", 5, false);
    let (client_1, _events) = server.connect("localhost", &good).await.unwrap();
    client_1.close().await;

    let expired = client(&pki, "expired", "c1", 6, true);
    let revoked = client(&pki, "revoked", "c1", 77, false);
    let other = client(&pki, "other", "c2", 8, false);
    let longer = client(&pki, "longer", "c1,CN=c1", 9, false);
    let foreign = client(&others, "foreign", "c1", 5, false);
    // It would trust the server, if that were all.
    fs::copy(good.join("cacert.pem"), foreign.join("cacert.pem")).unwrap();
    for (dir, server_says, client_says) in [
        (&expired, "expired", "xpired"),
        (&revoked, "evoked", "evoked"),
        (&foreign, "handshake failed", ""),
        (&other, "CN=c2 is not on the list", "not among those"),
        (
            &longer,
            "CN=c1\\,CN=c1 is not on the list",
            "not among those",
        ),
    ] {
        let error = server.connect("localhost", dir).await.unwrap_err();
        assert!(told(&error).contains(client_says), "{}", told(&error));
        let refused = told(&server.refused.recv().await.unwrap());
        assert!(refused.contains(server_says), "{refused}");
    }
    // No certificate at all: a web browser, say.
    let mut roots = tokio_rustls::rustls::RootCertStore::empty();
    let ca = fs::read(good.join("cacert.pem")).unwrap();
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;
    roots
        .add(tokio_rustls::rustls::pki_types::CertificateDer::from_pem_slice(&ca).unwrap())
        .unwrap();
    let config = tokio_rustls::rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let host = "localhost".try_into().unwrap();
    if let Ok(mut tls) = connector.connect(host, server.raw().await).await {
        assert!(tls.read_u8().await.is_err());
    }
    let refused = told(&server.refused.recv().await.unwrap());
    assert!(refused.contains("no certificates"), "{refused}");
}

#[tokio::test]
async fn a_list_of_revoked_certificates_that_is_out_of_date_lets_nobody_in() {
    let pki = Pki::new();
    let dir = pki.server();
    pki.revoke(&dir, &[], true);
    let mut server = Server::start(Some(gate(&dir, &["*"], PLENTY))).await;
    let client = pki.client_named("c1");
    server.connect("localhost", &client).await.unwrap_err();
    let refused = told(&server.refused.recv().await.unwrap());
    assert!(refused.contains("xpired"), "{refused}");
}

#[tokio::test]
async fn a_server_that_is_another_is_not_believed() {
    let (pki, others) = (Pki::new(), Pki::new());
    let client = pki.client_named("c1");
    for (dir, host, part) in [
        (
            pki.server_named(&["other.example.org"]),
            "localhost",
            "not valid for name",
        ),
        (
            pki.server_named(&["localhost"]),
            "127.0.0.1",
            "not valid for name",
        ),
        (others.server(), "localhost", "invalid peer certificate"),
    ] {
        let server = Server::start(Some(gate(&dir, &["*"], PLENTY))).await;
        let error = server.connect(host, &client).await.unwrap_err();
        assert!(matches!(error, ConnectError::Handshake { .. }));
        let told = told(&error);
        assert!(told.contains(part) && told.contains(host), "{told}");
        assert!(error.source().is_some());
    }
}

#[tokio::test]
async fn who_says_nothing_or_nonsense_is_sent_away() {
    let pki = Pki::new();
    let time = Duration::from_millis(300);
    let mut server = Server::start(Some(gate(&pki.server(), &["*"], time))).await;
    let mut silent = server.raw().await;
    let refused = server.refused.recv().await.unwrap();
    assert!(matches!(refused, Refused::TooSlow(_)), "{refused}");
    assert_eq!(silent.read(&mut [0]).await.unwrap_or(0), 0);

    let mut nonsense = server.raw().await;
    nonsense.write_all(&[0; 100]).await.unwrap();
    let refused = server.refused.recv().await.unwrap();
    assert!(matches!(refused, Refused::Handshake(_)), "{refused}");

    // A frame without TLS gets no answer either.
    let mut frame = server.raw().await;
    frame
        .write_all(&[0, 0, 0, 28, 0x20, 0, 0x80, 0x86])
        .await
        .unwrap();
    let refused = server.refused.recv().await.unwrap();
    assert!(matches!(refused, Refused::Handshake(_)), "{refused}");
}

#[tokio::test]
async fn anybody_comes_in_over_plain_tcp_and_is_told_apart() {
    let server = Server::start(None).await;
    let uri = format!("qemu+tcp://127.0.0.1:{}/system", server.port);
    let how = Connecting {
        read_only: true,
        ..Connecting::default()
    };
    let (client, _events) = Client::connect(&uri.parse().unwrap(), &how).await.unwrap();
    assert_eq!(client.call(&ConnectGetHostname {}).await.unwrap(), "host");
    let conn = server.daemon.conns.lock().unwrap()[0].clone();
    assert!(matches!(conn.peer(), Peer::Tcp { address } if address.ip().is_ipv4()));
    assert_eq!(conn.local_addr(), Some("127.0.0.1".parse().unwrap()));
    assert!(!conn.is_secure() && conn.is_read_only());
    // A client that is dropped is gone at once, without a goodbye.
    drop(client);
    server.daemon.closed.notified().await;
}

#[tokio::test]
async fn a_host_that_does_not_answer_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let time = Duration::from_millis(100);
    let how = Connecting {
        time,
        ..Connecting::default()
    };
    let pki = Pki::new();
    let dir = pki.client_named("c1");
    for (uri, part) in [
        (
            format!("qemu+tcp://127.0.0.1:{port}/system"),
            "open the connection within 0.1 s",
        ),
        (
            format!(
                "qemu+tls://127.0.0.1:{port}/system?pkipath={}",
                dir.display()
            ),
            "let us in within 0.1 s",
        ),
    ] {
        let error = Client::connect(&uri.parse().unwrap(), &how)
            .await
            .unwrap_err();
        assert!(matches!(error, ConnectError::Slow { .. }));
        assert!(told(&error).contains(part), "{}", told(&error));
    }
    drop(listener);
    let uri = format!("qemu+tcp://127.0.0.1:{port}/system");
    let error = Client::connect(&uri.parse().unwrap(), &how)
        .await
        .unwrap_err();
    let told = told(&error);
    assert!(
        told.starts_with(&format!("can't connect to 127.0.0.1:{port}: ")),
        "{told}"
    );
}

#[tokio::test]
async fn sockets_of_this_host_are_looked_for_where_daemons_have_them() {
    let root = tempfile::tempdir().unwrap();
    let how = Connecting {
        root: root.path().to_owned(),
        ..Connecting::default()
    };
    let uri = "qemu:///system".parse().unwrap();
    let error = Client::connect(&uri, &how).await.unwrap_err();
    let (first, then) = (
        root.path().join("run/virtnic/virtnic-sock"),
        "run/libvirt/libvirt-sock",
    );
    let told = told(&error);
    assert!(
        told.contains(&format!("at {} or ", first.display())) && told.ends_with(then),
        "{told}"
    );
    // A file that nobody listens behind keeps nobody from the next.
    fs::create_dir_all(root.path().join("run/virtnic")).unwrap();
    fs::create_dir_all(root.path().join("run/libvirt")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&first).unwrap());
    let listener = tokio::net::UnixListener::bind(root.path().join(then)).unwrap();
    let daemon = Arc::<Daemon>::default();
    let service = Arc::clone(&daemon);
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        server::serve(service, stream, false, Clients::new(Limits::default())).await;
    });
    let (client, _events) = Client::connect(&uri, &how).await.unwrap();
    let conn = daemon.conns.lock().unwrap()[0].clone();
    assert!(matches!(conn.peer(), Peer::Local(Some(_))));
    assert_eq!(conn.local_addr(), None);
    client.close().await;
}

#[test]
fn files_that_are_no_credentials_are_told() {
    let pki = Pki::new();
    let dir = pki.server();
    let files = Files::of_server_in(&dir);
    let open = || TlsGate::open(&files, list(&["*"]), PLENTY).map(|_| ());
    open().unwrap();
    let mode = |mode| fs::set_permissions(&files.key, fs::Permissions::from_mode(mode)).unwrap();
    for fine in [0o400, 0o600, 0o640] {
        mode(fine);
        open().unwrap();
    }
    for open_to_others in [0o644, 0o660, 0o604, 0o601] {
        mode(open_to_others);
        let error = open().unwrap_err();
        assert!(
            matches!(error, CredentialsError::KeyIsOpen { .. }),
            "{error}"
        );
        assert!(told(&error).contains(&format!("{open_to_others:04o}")));
    }
    mode(0o600);
    let says = |part: &str| {
        let told = told(&open().unwrap_err());
        assert!(told.contains(part), "{told}");
    };
    let key = fs::read(&files.key).unwrap();
    fs::write(&files.key, "no PEM").unwrap();
    says("serverkey.pem holds no private key as PEM");
    fs::write(&files.key, &key).unwrap();
    fs::write(&files.revoked, &key).unwrap();
    says("cacrl.pem holds no certificate revocation list as PEM");
    fs::remove_file(&files.revoked).unwrap();
    fs::write(&files.ca, &key).unwrap();
    says("cacert.pem holds no certificate as PEM");
    fs::remove_file(&files.ca).unwrap();
    says("can't read");
    fs::create_dir(&files.ca).unwrap();
    says("not a file");
    fs::remove_dir(&files.ca).unwrap();
    fs::copy(pki.client_named("x").join("cacert.pem"), &files.ca).unwrap();
    // The key of another certificate.
    fs::copy(pki.client_named("x").join("clientkey.pem"), &files.key).unwrap();
    says("servercert.pem can't be used");
    let root = Files::of_server(Path::new("/r"));
    assert_eq!(
        root.key,
        Path::new("/r/etc/pki/libvirt/private/serverkey.pem")
    );
    let root = Files::of_client(Path::new("/r"));
    assert_eq!(
        root.certificate,
        Path::new("/r/etc/pki/libvirt/clientcert.pem")
    );
}

#[test]
fn lists_are_read_line_by_line() {
    let list = AllowList::read("# who\n\n  CN=a\nh1.example.org \n").unwrap();
    assert!(!list.is_empty() && !list.allows_anybody());
    assert!(AllowList::read("#\n").unwrap().is_empty());
    assert!(AllowList::read("*").unwrap().allows_anybody());
    for (text, line, part) in [
        ("CN=a\n\nO=a,b", 3, "'b' is not ATTRIBUTE=VALUE"),
        ("X=a", 1, "no attribute 'X'"),
        ("CN=a\\", 1, "nothing follows"),
        ("a b", 1, "neither a subject"),
        ("a.*.b", 1, "neither a subject"),
        ("*CN=a", 1, "no attribute '*CN'"),
    ] {
        let (number, error) = AllowList::read(text).unwrap_err();
        assert_eq!(number, line, "{text}");
        assert!(error.to_string().contains(part), "{error}");
    }
}
