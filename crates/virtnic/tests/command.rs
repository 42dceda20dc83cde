//! The program itself, against a daemon that answers with what a test gives it.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that panics is a test that fails"
)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rpc::server::{Call, Service, serve};
use rpc::{Code, DaemonStatus, Domain, Error, Lent, Reply, Request};
use tempfile::TempDir;
use tokio::net::UnixListener;
use uuid::Uuid;

/// What the stand-in for the daemon says.
enum Answers {
    Lent(Vec<Lent>),
    Refuses,
    /// Knows no call of virtnic's, as libvirt's daemons.
    Foreign,
}

impl Service for Answers {
    async fn call(&self, _: Call, request: Request) -> Result<Reply, Error> {
        match (request, self) {
            (Request::ConnectOpen(_), _) => Ok(Reply::ConnectOpen(())),
            (Request::VirtnicWho(args), Answers::Lent(lent)) => {
                let mut lent = lent.clone();
                if let Some(filter) = args.filter {
                    lent.retain(|device| device.guest.as_ref() == Some(&filter));
                }
                Ok(Reply::VirtnicWho(lent))
            }
            (Request::VirtnicStatus(_), Answers::Lent(lent)) => {
                let lent = u32::try_from(lent.len()).unwrap();
                Ok(Reply::VirtnicStatus(DaemonStatus {
                    version: "0.1.0".into(),
                    pid: 4711,
                    uptime: 200,
                    simulated: true,
                    networks: 3,
                    active_networks: 2,
                    guests: 5,
                    running_guests: 4,
                    lent,
                }))
            }
            (_, Answers::Foreign) => Err(Error::new(
                Code::Rpc,
                Domain::Rpc,
                "Cannot find program 1 version 1",
            )),
            (_, _) => Err(Error::new(
                Code::OperationInvalid,
                Domain::Network,
                "not now",
            )),
        }
    }
}

/// A directory with a daemon below it, for as long as it lives.
struct Host {
    root: TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Host {
    fn empty() -> Host {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("run/virtnic")).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        Host { root, runtime }
    }

    fn with(answers: Answers) -> Host {
        let host = Host::empty();
        host.listen("virtnic-sock-ro", answers);
        host
    }

    fn listen(&self, name: &str, answers: Answers) {
        let answers = Arc::new(answers);
        let _guard = self.runtime.enter();
        let listener = UnixListener::bind(self.socket(name)).unwrap();
        self.runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(
                    Arc::clone(&answers),
                    stream,
                    true,
                    Default::default(),
                ));
            }
        });
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.root.path().join("run/virtnic").join(name)
    }

    fn virtnic(&self, args: &[&str]) -> Ran {
        let mut command = virtnic();
        command.arg("--root").arg(self.root.path()).args(args);
        Ran::of(command.output().unwrap(), self.root.path())
    }
}

fn virtnic() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_virtnic"));
    command.env_remove("VIRTNIC_SOCKET").stdin(Stdio::null());
    command
}

/// What a run of the program left.
#[derive(Debug)]
struct Ran {
    status: i32,
    out: String,
    err: String,
}

impl Ran {
    fn of(output: Output, root: &Path) -> Ran {
        let root = root.display().to_string();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&root, "ROOT");
        Ran {
            status: output.status.code().unwrap(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}

fn seconds_ago(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap() - seconds
}

/// Two guests' VFs; the times are in the middle of a unit, so that a slow test tells the same.
fn two_lent() -> Vec<Lent> {
    let first = Lent {
        network: Some("fast".into()),
        guest: Some("web".into()),
        guest_uuid: Some(Uuid::from_u128(1)),
        mac: Some("52:54:00:00:00:01".into()),
        pf: Some("ens1f0".into()),
        vf: Some(0),
        pci_address: Some("0000:03:10.0".into()),
        driver: Some("vfio-pci".into()),
        host_netdev: None,
        state: "lent".into(),
        since: seconds_ago(3 * 60 + 30),
        port: Uuid::from_u128(10),
    };
    let second = Lent {
        network: None,
        guest: Some("a-longer-name".into()),
        vf: Some(12),
        since: seconds_ago(5 * 86_400 + 3_600),
        ..first.clone()
    };
    vec![first, second]
}

#[test]
fn who_is_a_plain_table() {
    let host = Host::with(Answers::Lent(two_lent()));
    let ran = host.virtnic(&["who"]);
    insta::assert_snapshot!(ran.out, @r"
    NETWORK  GUEST          MAC                PF      VF  PCI ADDRESS   DRIVER    FOR
    fast     web            52:54:00:00:00:01  ens1f0  0   0000:03:10.0  vfio-pci  3 min
    -        a-longer-name  52:54:00:00:00:01  ens1f0  12  0000:03:10.0  vfio-pci  5 d
    ");
    assert_eq!((ran.status, ran.err.as_str()), (0, ""));
}

#[test]
fn what_is_not_simply_lent_is_told() {
    let mut lent = two_lent();
    lent[1].state = "claimed".into();
    lent[1].since = 0;
    let ran = Host::with(Answers::Lent(lent)).virtnic(&["who"]);
    insta::assert_snapshot!(ran.out, @r"
    NETWORK  GUEST          MAC                PF      VF  PCI ADDRESS   DRIVER    FOR    STATE
    fast     web            52:54:00:00:00:01  ens1f0  0   0000:03:10.0  vfio-pci  3 min  lent
    -        a-longer-name  52:54:00:00:00:01  ens1f0  12  0000:03:10.0  vfio-pci  -      claimed
    ");
}

#[test]
fn a_filter_goes_to_the_daemon() {
    let host = Host::with(Answers::Lent(two_lent()));
    let ran = host.virtnic(&["who", "web"]);
    assert!(
        ran.out.contains("web") && !ran.out.contains("a-longer-name"),
        "{ran:?}"
    );
    let ran = host.virtnic(&["who", "db"]);
    assert_eq!(
        (ran.status, ran.out.as_str(), ran.err.as_str()),
        (0, "", "nothing of 'db' is lent\n")
    );
}

#[test]
fn nothing_lent_is_a_remark_for_people_and_an_empty_array_for_scripts() {
    let host = Host::with(Answers::Lent(Vec::new()));
    let ran = host.virtnic(&["who"]);
    assert_eq!(
        (ran.status, ran.out.as_str(), ran.err.as_str()),
        (0, "", "nothing is lent\n")
    );
    let ran = host.virtnic(&["who", "--json"]);
    assert_eq!(
        (ran.status, ran.out.as_str(), ran.err.as_str()),
        (0, "[]\n", "")
    );
}

#[test]
fn json_has_the_fields_that_the_help_names() {
    let lent = two_lent();
    let since = lent[0].since;
    let host = Host::with(Answers::Lent(lent));
    for (command, rows) in [("who", 2), ("status", 1)] {
        let ran = host.virtnic(&[command, "--json"]);
        let value: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
        let objects = value.as_array().cloned().unwrap_or(vec![value]);
        assert_eq!(objects.len(), rows);
        let mut fields: Vec<&str> = objects[0]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let help = host.virtnic(&[command, "--help"]).out;
        let (_, closing) = help.split_once("Fields of ").unwrap();
        let mut named: Vec<&str> = (closing.lines().skip(1))
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        fields.sort_unstable();
        named.sort_unstable();
        assert_eq!(fields, named, "virtnic {command}");
    }
    let ran = host.virtnic(&["who", "--json"]);
    let rows: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(rows[0]["vf"], 0);
    assert_eq!(rows[0]["since"], since);
    assert_eq!(rows[0]["port"], "00000000-0000-0000-0000-00000000000a");
    assert!(rows[1]["network"].is_null());
}

#[test]
fn status_is_told() {
    let host = Host::with(Answers::Lent(two_lent()));
    let ran = host.virtnic(&["status"]);
    insta::assert_snapshot!(ran.out, @r"
    version   0.1.0
    process   4711, for 3 min
    host      simulated
    networks  3, active 2
    guests    5, running 4
    lent      2
    ");
    assert_eq!((ran.status, ran.err.as_str()), (0, ""));
}

#[test]
fn no_daemon_is_told_with_the_places_and_what_to_do() {
    let host = Host::empty();
    let ran = host.virtnic(&["who"]);
    insta::assert_snapshot!(ran.err, @r"
    virtnic: no daemon answers:
      ROOT/run/virtnic/virtnic-sock-ro: No such file or directory
      ROOT/run/virtnic/virtnic-sock: No such file or directory
    start one with: virtnicd --root ROOT
    ");
    assert_eq!((ran.status, ran.out.as_str()), (3, ""));
}

#[test]
fn a_socket_that_a_dead_daemon_left_is_no_daemon() {
    let host = Host::empty();
    drop(std::os::unix::net::UnixListener::bind(host.socket("virtnic-sock-ro")).unwrap());
    let ran = host.virtnic(&["status"]);
    assert_eq!(ran.status, 3);
    assert!(
        ran.err.contains("virtnic-sock-ro: Connection refused"),
        "{ran:?}"
    );
}

#[test]
fn without_a_read_only_socket_the_other_one_does() {
    let host = Host::empty();
    host.listen("virtnic-sock", Answers::Lent(two_lent()));
    let ran = host.virtnic(&["who"]);
    assert_eq!((ran.status, ran.out.lines().count()), (0, 3), "{ran:?}");
}

#[test]
fn the_socket_can_be_named_by_option_and_environment() {
    let host = Host::empty();
    host.listen("elsewhere", Answers::Lent(Vec::new()));
    let socket = host.socket("elsewhere");
    let by_option = virtnic()
        .args(["who", "--json", "--socket"])
        .arg(&socket)
        .output()
        .unwrap();
    let by_environment = virtnic()
        .args(["who", "--json"])
        .env("VIRTNIC_SOCKET", &socket)
        .output()
        .unwrap();
    for output in [by_option, by_environment] {
        let ran = Ran::of(output, host.root.path());
        assert_eq!((ran.status, ran.out.as_str()), (0, "[]\n"), "{ran:?}");
    }
}

#[test]
fn a_refusal_is_told_in_the_daemons_words() {
    let ran = Host::with(Answers::Refuses).virtnic(&["who"]);
    assert_eq!(ran.status, 1);
    assert_eq!(
        ran.err,
        "virtnic: Requested operation is not valid: not now\n"
    );
}

#[test]
fn libvirts_own_daemon_is_told_from_ours() {
    let ran = Host::with(Answers::Foreign).virtnic(&["who"]);
    assert_eq!(ran.status, 1);
    insta::assert_snapshot!(ran.err, @r"
    virtnic: Cannot find program 1 version 1
    whoever listens there is no virtnicd, but libvirt's own daemon
    ");
}

#[test]
fn a_wrong_command_line_is_status_2() {
    let host = Host::empty();
    for args in [&["whom"][..], &["who", "--jsn"], &["man", "whom"], &[]] {
        let ran = host.virtnic(args);
        assert_eq!((ran.status, ran.out.as_str()), (2, ""), "{args:?}");
        assert!(!ran.err.is_empty(), "{args:?}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let host = Host::with(Answers::Lent(two_lent()));
    for args in [
        &["who"][..],
        &["status"],
        &["man"],
        &["completions", "bash"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = virtnic();
        command
            .arg("--root")
            .arg(host.root.path())
            .args(args)
            .stdout(writer);
        let ran = Ran::of(command.output().unwrap(), host.root.path());
        assert_eq!((ran.status, ran.err.as_str()), (0, ""), "{args:?}");
    }
}

#[test]
fn output_that_is_lost_is_a_failure() {
    let host = Host::with(Answers::Lent(two_lent()));
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut command = virtnic();
    command
        .arg("--root")
        .arg(host.root.path())
        .arg("who")
        .stdout(full);
    let ran = Ran::of(command.output().unwrap(), host.root.path());
    assert_eq!(ran.status, 1);
    assert!(ran.err.contains("No space left on device"), "{ran:?}");
}

#[test]
fn names_can_not_steer_the_terminal() {
    let mut lent = two_lent();
    lent[0].guest = Some("\u{1b}[2Jweb".into());
    let ran = Host::with(Answers::Lent(lent)).virtnic(&["who"]);
    assert!(
        !ran.out.contains('\u{1b}') && ran.out.contains("\\u{1b}[2Jweb"),
        "{ran:?}"
    );
}

#[test]
fn help_man_page_and_completions_know_the_commands() {
    let host = Host::empty();
    let root: [&[&str]; 3] = [&["--help"], &["man"], &["completions", "zsh"]];
    for args in root {
        let ran = host.virtnic(args);
        assert_eq!(ran.status, 0, "{args:?}");
        for command in ["who", "status", "completions"] {
            assert!(ran.out.contains(command), "{command} in {args:?}");
        }
    }
    let page = host.virtnic(&["man", "who"]).out;
    assert!(
        page.contains(".SH SYNOPSIS") && page.contains("pci_address"),
        "{page}"
    );
}
