//! Clients of other hosts: who is let in by TLS, and what those who are not do to the others.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rpc::client::{ConnectError, Connecting};
use rpc::*;
use rustix::process::Signal;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::harness::{Client, Daemon, PATIENCE, Root, SHAPE};
use crate::pki::Pki;

const LISTENS: &str = "listening for TLS address=";

/// The program, told to listen for TLS with the certificates of that directory.
fn command(root: &Root, pki: &Path) -> Command {
    let mut command = root.command(SHAPE);
    command.arg("--listen-tls=[::]:0").arg("--tls-dir").arg(pki);
    command
}

/// A daemon that is ready, and its port for TLS.
fn start(mut command: Command, allowed: &[&str]) -> (Daemon, u16) {
    for name in allowed {
        command.args(["--tls-allow", name]);
    }
    let mut daemon = Daemon::spawn(command);
    let port = port(&daemon.wait_for_line(LISTENS));
    daemon.wait_for_line("ready");
    (daemon, port)
}

/// The port at the end of a line.
fn port(line: &str) -> u16 {
    line.rsplit_once(':').unwrap().1.trim().parse().unwrap()
}

async fn connect(uri: &str) -> Result<Client, ConnectError> {
    let how = Connecting {
        time: PATIENCE,
        ..Connecting::default()
    };
    let (rpc, events) = rpc::client::Client::connect(&uri.parse().unwrap(), &how).await?;
    Ok(Client::of(rpc, events))
}

async fn by_tls(port: u16, pki: &Path) -> Result<Client, ConnectError> {
    let pki = pki.display();
    connect(&format!("qemu+tls://localhost:{port}/system?pkipath={pki}")).await
}

#[tokio::test]
async fn a_named_client_does_what_root_does_and_others_are_sent_away() {
    let (root, pki) = (Root::new(), Pki::new());
    let command = command(&root, &pki.server());
    let (mut daemon, port) = start(command, &["C=GB,O=Example,CN=client1", "h2.example.org"]);
    let client = by_tls(port, &pki.client_named("client1")).await.unwrap();
    daemon.wait_for_line("name=C=GB,O=Example,CN=client1 from=");
    client.running_network("n1", "sim0").await;
    client.running_guest("g1", "n1").await;
    assert!(client.ok(ConnectIsSecure {}).await);
    assert!(!client.ok(ConnectSupportsFeature { feature: 8 }).await);
    assert_eq!(root.client().await.network_names(2).await, ["n1"]);

    let refused = by_tls(port, &pki.client_named("client2")).await;
    assert!(matches!(refused, Err(ConnectError::NotAdmitted(_))));
    daemon.wait_for_line("C=GB,O=Example,CN=client2 is not on the list");
    let others = Pki::new();
    let foreign = others.client_named("client1");
    let ca = pki.server().join("cacert.pem");
    fs::copy(ca, foreign.join("cacert.pem")).unwrap();
    assert!(by_tls(port, &foreign).await.is_err());

    // It goes with a daemon that stops, and does not keep it from that.
    daemon.stop();
    assert!(client.rpc.call(&ConnectGetHostname {}).await.is_err());
}

#[tokio::test]
async fn libvirts_files_below_the_root_are_taken_and_read_again_when_asked() {
    let (root, pki) = (Root::new(), Pki::new());
    let from = pki.server();
    for (name, place) in [
        ("cacert.pem", "etc/pki/CA/cacert.pem"),
        ("servercert.pem", "etc/pki/libvirt/servercert.pem"),
        ("serverkey.pem", "etc/pki/libvirt/private/serverkey.pem"),
    ] {
        let to = root.path(place);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from.join(name), to).unwrap();
    }
    let list = root.path("etc/virtnic/tls-allow");
    fs::create_dir_all(list.parent().unwrap()).unwrap();
    fs::write(&list, "# who\nO=Other,*\n*,CN=client1\n").unwrap();
    let mut command = root.command(SHAPE);
    command.arg("--listen-tls=[::]:0");
    let (mut daemon, port) = start(command, &[]);
    let (first, second) = (pki.client_named("client1"), pki.client_named("client2"));
    let client = by_tls(port, &first).await.unwrap();
    by_tls(port, &second).await.err().unwrap();

    fs::write(&list, "*,CN=client2\n").unwrap();
    daemon.signal(Signal::HUP);
    daemon.wait_for_line("were read again");
    by_tls(port, &second).await.unwrap();
    by_tls(port, &first).await.err().unwrap();
    // Whoever is in stays.
    client.ok(ConnectGetHostname {}).await;

    for (text, part) in [
        ("", "nobody is named who may come by TLS"),
        ("CN=a\nnonsense here\n", "line 2 names no client"),
    ] {
        fs::write(&list, text).unwrap();
        daemon.signal(Signal::HUP);
        let line = daemon.wait_for_line("ERROR");
        assert!(line.contains(part), "{line}");
        by_tls(port, &second).await.unwrap();
    }
}

#[test]
fn without_a_list_or_a_secret_key_it_does_not_start() {
    let pki = Pki::new();
    let dir = pki.server();
    let fails = |change: &dyn Fn(&mut Command)| {
        let root = Root::new();
        let mut command = command(&root, &dir);
        change(&mut command);
        let (status, log) = Daemon::spawn(command).ended();
        (status.code(), log)
    };
    let (status, log) = fails(&|_| ());
    assert_eq!(status, Some(1));
    for part in ["would be root here", "--tls-allow", "etc/virtnic/tls-allow"] {
        assert!(log.contains(part), "{log}");
    }
    let named = |command: &mut Command| {
        command.args(["--tls-allow", "CN=a"]);
    };
    let key = dir.join("serverkey.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let (status, log) = fails(&named);
    assert!(
        status == Some(1) && log.contains("by others (mode 0644)"),
        "{log}"
    );
    fs::remove_file(&key).unwrap();
    let (status, log) = fails(&named);
    let missing = format!("(--listen-tls): can't read {}: No such file", key.display());
    assert!(status == Some(1) && log.contains(&missing), "{log}");

    let (status, log) = fails(&|command: &mut Command| {
        command.args(["--tls-allow", "CN=a,b"]);
    });
    assert!(
        status == Some(2) && log.contains("not ATTRIBUTE=VALUE"),
        "{log}"
    );
    let root = Root::new();
    let mut without = root.command(SHAPE);
    without.args(["--tls-allow", "CN=a"]);
    let (status, log) = Daemon::spawn(without).ended();
    assert!(
        status.code() == Some(2) && log.contains("--listen-tls"),
        "{log}"
    );
}

#[tokio::test]
async fn an_address_in_use_is_told_by_its_option() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let root = Root::new();
    let mut command = root.command(SHAPE);
    command.args(["--listen-tcp-without-encryption", &address]);
    let (status, log) = Daemon::spawn(command).ended();
    assert_eq!(status.code(), Some(1));
    let said = format!("can't listen on {address} (--listen-tcp-without-encryption): ");
    assert!(log.contains(&said), "{log}");
}

#[tokio::test]
async fn plain_tcp_is_only_there_when_asked_for_and_is_told_to_be_open() {
    let root = Root::new();
    let mut command = root.command(SHAPE);
    command.args(["--listen-tcp-without-encryption", "127.0.0.1:0"]);
    let mut daemon = Daemon::spawn(command);
    let line = daemon.wait_for_line("listening for TCP as it is");
    assert!(line.contains("WARN"), "{line}");
    let port = port(&line);
    let client = connect(&format!("qemu+tcp://127.0.0.1:{port}/system"))
        .await
        .unwrap();
    assert!(!client.ok(ConnectIsSecure {}).await);
    client.running_network("n1", "sim0").await;
}

#[tokio::test]
async fn many_that_prove_nothing_keep_nobody_out() {
    let (root, pki) = (Root::new(), Pki::new());
    let (daemon, port) = start(command(&root, &pki.server()), &["*"]);
    let mut silent = Vec::new();
    for number in 0..60u8 {
        let mut tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        match number % 3 {
            0 => {}
            // The start of a handshake.
            1 => tcp.write_all(&[22, 3, 1, 1]).await.unwrap(),
            // Nonsense, which may be answered before all of it is sent.
            _ => drop(tcp.write_all(&[number; 4096]).await),
        }
        silent.push(tcp);
    }
    root.client().await.running_network("n1", "sim0").await;
    let client = by_tls(port, &pki.client_named("c1")).await.unwrap();
    assert_eq!(client.network_names(2).await, ["n1"]);
    // Those that are still looked at don't keep it from stopping.
    client.ok(ConnectGetHostname {}).await;
    daemon.stop();
    drop(silent);
}

/// virsh, where it is installed: it has a TLS of its own.
#[tokio::test(flavor = "multi_thread")]
async fn virsh_comes_by_tls() {
    let (root, pki) = (Root::new(), Pki::new());
    let (_daemon, port) = start(command(&root, &pki.server()), &["*,CN=c1"]);
    let virsh = |dir: PathBuf| {
        let uri = format!(
            "qemu+tls://localhost:{port}/system?pkipath={}",
            dir.display()
        );
        let mut virsh = Command::new("virsh");
        virsh
            .args(["-c", &uri, "nodedev-list", "--cap", "net"])
            .env("LC_ALL", "C");
        virsh.output()
    };
    let Ok(output) = virsh(pki.client_named("c1")) else {
        return println!("skipped: virsh is not installed");
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        text(&output.stdout).contains("net_sim0"),
        "{}",
        text(&output.stderr)
    );
    let refused = virsh(pki.client_named("c2")).unwrap();
    assert!(!refused.status.success(), "{}", text(&refused.stdout));
}
