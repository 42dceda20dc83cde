//! The daemon as a process: its options, signals, exit codes, sockets and what it tells systemd.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Output, Stdio};

use rpc::*;
use rustix::process::Signal;

use crate::harness::*;

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_virtnicd"))
        .args(args)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn help_and_version_are_told_on_standard_output() {
    let help = run(&["--help"]);
    assert!(help.status.success() && help.stderr.is_empty());
    for part in [
        "--root",
        "--simulate",
        "--socket-group",
        "Signals:",
        "Exit status:",
    ] {
        assert!(text(&help.stdout).contains(part), "{part}");
    }
    let version = run(&["--version"]);
    assert_eq!(
        text(&version.stdout),
        format!("virtnicd {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn a_wrong_command_line_is_told_and_exits_with_2() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().to_str().unwrap();
    for (args, part) in [
        (&["--nosuch"][..], "--nosuch"),
        (&["--root", dir, "--simulate", "pfs=0"], "1 to 128 PFs"),
        (
            &["--root", dir, "--simulate", "pfs=2,cards=1"],
            "pfs=2,vfs=64",
        ),
        (
            &[
                "--root",
                dir,
                "--simulate",
                "pfs=1",
                "--log",
                "virtnicd=loud",
            ],
            "no log filter",
        ),
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(
            text(&output.stderr).contains(part),
            "{}",
            text(&output.stderr)
        );
        assert!(output.stdout.is_empty());
    }
    // Nothing was made for it.
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn term_and_int_stop_it_and_remove_its_sockets() {
    for signal in [Signal::TERM, Signal::INT] {
        let root = Root::new();
        let daemon = root.start();
        let client = root.client().await;
        client.running_network("n1", "sim0").await;
        daemon.signal(signal);
        let (status, log) = daemon.ended();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(!root.socket().exists() && !root.read_only_socket().exists());
        // Running networks are left for the next one.
        let _daemon = root.start();
        assert_eq!(root.client().await.network_names(2).await, ["n1"]);
    }
}

#[tokio::test]
async fn a_second_daemon_on_a_root_is_refused_and_does_no_harm() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let before = client.picture(&root).await;
    let (status, log) = Daemon::spawn(root.command(SHAPE)).ended();
    assert_eq!(status.code(), Some(1));
    let last = log.lines().last().unwrap();
    assert!(
        last.contains("another virtnicd has") && last.contains("--root"),
        "{log}"
    );
    assert_eq!(client.picture(&root).await, before);
    root.client().await;
}

#[tokio::test]
async fn two_daemons_on_two_roots_know_nothing_of_each_other() {
    let (left, right) = (Root::new(), Root::new());
    let (left_daemon, right_daemon) = (left.start(), right.start());
    let (left_client, right_client) = (left.client().await, right.client().await);
    left_client.running_network("n1", "sim0").await;
    left_client.running_guest("g1", "n1").await;
    let status = right_client.ok(VirtnicStatus {}).await;
    assert_eq!(status.pid, right_daemon.pid());
    assert_eq!((status.networks, status.guests, status.lent), (0, 0, 0));
    let status = left_client.ok(VirtnicStatus {}).await;
    assert_eq!(status.pid, left_daemon.pid());
    assert_eq!((status.networks, status.guests, status.lent), (1, 1, 1));
    left_daemon.stop();
    right_client.running_network("n1", "sim0").await;
}

#[tokio::test]
async fn sockets_admit_whom_they_should() {
    let root = Root::new();
    let mut command = root.command(SHAPE);
    command
        .arg("--libvirt-sockets")
        .arg(root.path("run/libvirt"));
    let mut daemon = Daemon::spawn(command);
    daemon.wait_for_line("ready");
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(root.read_only_socket()), 0o666);
    // The group may come in where there is one; nobody else ever.
    assert!([0o600, 0o660].contains(&mode(root.socket())));
    for name in ["libvirt", "virtqemud", "virtnetworkd", "virtnodedevd"] {
        let path = root.path(&format!("run/libvirt/{name}-sock"));
        rpc::client::Client::open(&path, "", false).await.unwrap();
        let path = root.path(&format!("run/libvirt/{name}-sock-ro"));
        rpc::client::Client::open(&path, "", true).await.unwrap();
    }
    // What guests are made of is nobody else's business.
    let client = root.client().await;
    client.running_network("n1", "sim0").await;
    assert_eq!(mode(root.path("etc/virtnic/networks/n1.xml")), 0o600);
    assert_eq!(mode(root.record("networks").0), 0o600);
    daemon.stop();
    assert_eq!(fs::read_dir(root.path("run/libvirt")).unwrap().count(), 0);
}

#[test]
fn a_root_that_can_t_be_used_is_named() {
    let root = Root::new();
    fs::write(root.path("run"), "a file").unwrap();
    let (status, log) = Daemon::spawn(root.command(SHAPE)).ended();
    assert_eq!(status.code(), Some(1));
    let last = log.lines().last().unwrap();
    assert!(
        last.contains(root.path("run/virtnic").to_str().unwrap()),
        "{log}"
    );
}

#[test]
fn an_unknown_group_is_named() {
    let root = Root::new();
    let mut command = root.command(SHAPE);
    command.args(["--socket-group", "nosuchgroup"]);
    let (status, log) = Daemon::spawn(command).ended();
    assert_eq!(status.code(), Some(1));
    let last = log.lines().last().unwrap();
    assert!(
        last.contains("no group 'nosuchgroup'") && last.contains("--socket-group"),
        "{log}"
    );
}

#[tokio::test]
async fn hup_reads_what_was_added_by_hand() {
    let root = Root::new();
    let mut daemon = root.start();
    let client = root.client().await;
    let kept = client.define_network(&network_xml("kept", "sim0")).await;
    let before = client.network_dump(&kept, 0).await;

    let networks = root.path("etc/virtnic/networks");
    fs::write(networks.join("new.xml"), network_xml("new", "sim1")).unwrap();
    fs::write(networks.join("broken.xml"), "<network><name>broken</name>").unwrap();
    let guest = guest_xml("new", &on_network("new"));
    fs::write(root.path("etc/virtnic/domains/new.xml"), guest).unwrap();
    daemon.signal(Signal::HUP);
    let line = daemon.wait_for_line("left out");
    assert!(line.contains("broken.xml"), "{line}");
    daemon.wait_for_line("read the definitions");

    assert_eq!(client.network_names(0).await, ["kept", "new"]);
    assert_eq!(client.network_dump(&kept, 0).await, before);
    let net = client.ok(NetworkLookupByName { name: "new".into() }).await;
    client.ok(NetworkCreate { net }).await;
    // What was written by hand lacks what a client's document is filled in with.
    let dom = client.ok(DomainLookupByName { name: "new".into() }).await;
    client.start(&dom).await;
    assert_eq!(client.who().await.len(), 1);
}

#[tokio::test]
async fn what_was_added_by_hand_is_the_same_at_each_start() {
    let root = Root::new();
    fs::create_dir_all(root.path("etc/virtnic/networks")).unwrap();
    fs::create_dir_all(root.path("etc/virtnic/domains")).unwrap();
    fs::write(
        root.path("etc/virtnic/networks/n.xml"),
        network_xml("n", "sim0"),
    )
    .unwrap();
    // What an earlier release kept, though it was in no place of its own, makes nobody lose a guest.
    let channel = "<channel type='unix'><target type='virtio' name='c'/><virtnic:vf \
                   xmlns:virtnic='urn:virtnic:1'/></channel>";
    let guest = guest_xml("g", &format!("{}{channel}", on_network("n")));
    fs::write(root.path("etc/virtnic/domains/g.xml"), guest).unwrap();
    // Nobody would find this one to remove it.
    let other = network_xml("other", "sim1");
    fs::write(root.path("etc/virtnic/networks/misnamed.xml"), other).unwrap();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let daemon = root.start();
        assert!(
            daemon.seen().contains("has to be named other.xml"),
            "{}",
            daemon.seen()
        );
        let client = root.client().await;
        assert_eq!(client.network_names(0).await, ["n"]);
        let net = client.ok(NetworkLookupByName { name: "n".into() }).await;
        let dom = client.ok(DomainLookupByName { name: "g".into() }).await;
        seen.push((net, client.guest_dump(&dom, DOMAIN_XML_INACTIVE).await));
        daemon.stop();
    }
    // Identity and MAC address among them, or a guest's card changes with each start of the daemon.
    assert_eq!(seen[0], seen[1]);
    // And what a client's document is filled in with.
    assert!(seen[0].1.contains("<address type='pci'"), "{}", seen[0].1);
}

#[test]
fn systemd_is_told_when_it_is_ready_and_when_it_stops() {
    let root = Root::new();
    let path = root.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let hear = || {
        let mut message = [0; 512];
        let length = manager.recv(&mut message).expect("systemd is told nothing");
        text(&message[..length])
    };
    let mut command = root.command(SHAPE);
    command.env("NOTIFY_SOCKET", &path);
    let daemon = Daemon::spawn(command);
    assert!(hear().lines().any(|line| line == "READY=1"));
    // Ready means that clients are let in.
    std::os::unix::net::UnixStream::connect(root.socket()).unwrap();
    daemon.signal(Signal::TERM);
    assert!(hear().lines().any(|line| line == "STOPPING=1"));
    assert!(daemon.ended().0.success());
}

#[tokio::test]
async fn a_root_may_be_named_from_where_one_is() {
    let root = Root::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_virtnicd"));
    command.args(["--root", "new/root", "--libvirt-sockets", "sockets"]);
    command
        .args(["--simulate", SHAPE])
        .current_dir(root.path(""));
    command
        .env_remove("NOTIFY_SOCKET")
        .env_remove("JOURNAL_STREAM");
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut daemon = Daemon::spawn(command);
    daemon.has_said("ready");
    for socket in [
        "new/root/run/virtnic/virtnic-sock",
        "sockets/libvirt-sock-ro",
    ] {
        assert!(root.path(socket).exists(), "{socket}");
    }
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_on_a_disk_that_hangs_keeps_nobody_waiting() {
    let root = Root::new();
    let daemon = root.start();
    let client = root.client().await;
    // Opening this never returns: nobody reads at the other end.
    let hanging = root.path("etc/virtnic/domains/g1.xml.new");
    let made = Command::new("mkfifo").arg(&hanging).status().unwrap();
    assert!(made.success());
    let defining = tokio::spawn({
        let definer = root.client().await;
        async move { definer.rpc.call(&define("g1")).await }
    });
    for at in 2..20 {
        client.ok(define(&format!("g{at}"))).await;
        let reader = root.read_only_client().await;
        assert!(reader.guest_names(0).await.contains(&format!("g{at}")));
    }
    client.running_network("n1", "sim0").await;
    assert!(!defining.is_finished());
    daemon.stop();
    assert!(defining.await.unwrap().is_err());

    // What was never acknowledged is not there, and all else is.
    fs::remove_file(&hanging).unwrap();
    let _daemon = root.start();
    let names = root.client().await.guest_names(0).await;
    assert_eq!(names.len(), 18);
    assert!(!names.contains(&"g1".to_owned()));
}

fn define(name: &str) -> DomainDefineXmlFlags {
    DomainDefineXmlFlags {
        xml: guest_xml(name, ""),
        flags: Default::default(),
    }
}
