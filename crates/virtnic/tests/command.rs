//! The program itself, against a daemon that answers with what a test gives it.

mod common;

use std::fs::File;

use common::{Answers, Host, Ran, two_lent, virtnic};

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
fn json_is_for_scripts() {
    let lent = two_lent();
    let since = lent[0].since;
    let ran = Host::with(Answers::Lent(lent)).virtnic(&["who", "--json"]);
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
fn an_environment_variable_that_says_nothing_is_none() {
    let host = Host::with(Answers::Lent(Vec::new()));
    let ran = |args: &[&str]| {
        let mut command = virtnic();
        command.arg("--root").arg(host.root.path()).args(args);
        let output = command.env("VIRTNIC_SOCKET", "").output().unwrap();
        Ran::of(output, host.root.path())
    };
    let with_root = ran(&["who", "--json"]);
    assert_eq!(
        (with_root.status, with_root.out.as_str()),
        (0, "[]\n"),
        "{with_root:?}"
    );
    let output = virtnic().args(["who", "--socket", ""]).output().unwrap();
    let by_option = Ran::of(output, host.root.path());
    assert_eq!(by_option.status, 2);
    assert!(
        by_option.err.contains("--socket needs a path"),
        "{by_option:?}"
    );
}

#[test]
fn a_plan_is_of_a_guest_or_of_a_file() {
    let host = Host::empty();
    let ran = host.virtnic(&["plan"]);
    assert_eq!(ran.status, 2);
    assert!(ran.err.contains("<GUEST|--file <GUEST.XML>>"), "{ran:?}");
}

#[test]
fn a_document_that_is_too_large_is_told_by_its_size() {
    let host = Host::with(Answers::Lent(Vec::new()));
    let file = host.root.path().join("large.xml");
    std::fs::write(&file, " ".repeat(5_000_000)).unwrap();
    let ran = host.virtnic(&["plan", "--file", file.to_str().unwrap()]);
    assert_eq!(ran.status, 1);
    let said = "large.xml has 5000000 bytes, and a document may have 4194304 (4 MiB)\n";
    assert!(ran.err.ends_with(said), "{ran:?}");
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
    for args in [
        &["whom"][..],
        &["who", "--jsn"],
        &["man", "whom"],
        &["plan"],
        &["plan", "web", "--file", "web.xml"],
        &[],
    ] {
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
        for command in [
            "who",
            "plan",
            "net",
            "nics",
            "promote",
            "demote",
            "drain",
            "undrain",
            "migrate-check",
            "migrate-resolve",
            "reconcile",
            "status",
            "completions",
        ] {
            // As a man page has a hyphen.
            let escaped = command.replace('-', "\\-");
            let is_there = ran.out.contains(command) || ran.out.contains(&escaped);
            assert!(is_there, "{command} in {args:?}");
        }
    }
    // Each part of the end of a help text is a section of its own, its lines as they are.
    let page = host.virtnic(&["man", "plan"]).out;
    for part in [".SH EXIT STATUS", ".SH EACH OF ROWS\n.nf\n\\&  name "] {
        assert!(page.contains(part), "{part:?} in {page}");
    }
    let page = host.virtnic(&["man", "who"]).out;
    assert!(
        page.contains(".SH SYNOPSIS") && page.contains("pci_address"),
        "{page}"
    );
}
