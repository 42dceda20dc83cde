//! Plans, networks, NICs, differences and counters as people and scripts get to see them.

mod common;

use std::io::Write as _;
use std::process::Stdio;

use common::samples::*;
use common::{Answers, Host, Ran, seconds_ago, two_lent, virtnic};
use rpc::{Lent, LentKind, Outcome, PlanReport};

#[test]
fn a_plan_says_what_each_interface_gets_and_why_and_each_step() {
    let ran = Host::with(Answers::Plan(plan())).virtnic(&["plan", "web"]);
    insta::assert_snapshot!(ran.out, @r"
    guest web would start

    interface 52:54:00:00:00:01, network slow
      gets     macvtap vepa on eth2
      why      of 2 NICs, eth2 has the fewest connections (3)
      step 1   make macvtap0 on eth2
      step 2   open 2 queues of it
               and vhost-net for each
      note     the host can't reach this guest over eth2

    interface 52:54:00:00:00:01, user
      gets     nothing of the host's

    hostdev hostdev0, pci
      gets     0000:03:00.0
      why      the guest names it
      step 1   bind to vfio-pci
    ");
    assert_eq!((ran.status, ran.err.as_str()), (0, ""));
}

#[test]
fn a_plan_that_fails_has_the_table_of_the_refusal_and_status_4() {
    let ran = Host::with(Answers::Plan(refused_plan())).virtnic(&["plan", "web"]);
    insta::assert_snapshot!(ran.out, @r"
    guest web would not start
      refused  <memballoon model='xen'>

    interface 52:54:00:00:00:01, network fast
      refused  network 'fast' has no free device
      advice   stop a guest
      note     the host can't reach this guest over eth2
        NIC     ABILITY             NODE  DEVICES  FREE  LENT  BUSY  PORTS
        ens1f0  SR-IOV, 4 of 8 VFs     1        4     0     3     1      3
        NIC     DEVICE  STATE  BY
        ens1f0  VF 0    lent   web
        ens1f0  VF 1    lent   db (network other)
        ens1f0  VF 2    lent   mail (by itself)
        ens1f0  VF 3    busy   ens1f0v3 is up with 10.0.0.5/24
    ");
    assert_eq!((ran.status, ran.err.as_str()), (4, ""));
    let ran = Host::with(Answers::Plan(refused_plan())).virtnic(&["plan", "web", "--json"]);
    assert_eq!(ran.status, 4);
    let plan: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let device = &plan["devices"][0];
    assert_eq!(device["verdict"], "refused");
    assert_eq!(device["rows"][0]["lent"][1]["guest"], "db");
    assert!(device["device"].is_null());
}

#[test]
fn what_to_do_about_an_obstacle_is_advice() {
    let report = PlanReport {
        would_start: false,
        obstacles: vec!["it may be running\nsee what is there".into()],
        ..plan()
    };
    let ran = Host::with(Answers::Plan(report)).virtnic(&["plan", "web"]);
    assert!(
        ran.out
            .contains("\n  refused  it may be running\n  advice   see what is there\n"),
        "{ran:?}"
    );
}

#[test]
fn a_running_guest_is_planned_for_its_next_start() {
    let report = PlanReport {
        running: true,
        notes: vec!["its VF would be another one".into()],
        ..plan()
    };
    let ran = Host::with(Answers::Plan(report)).virtnic(&["plan", "web"]);
    assert!(
        ran.out
            .starts_with("guest web runs; it would start again\n  note"),
        "{ran:?}"
    );
}

#[test]
fn a_document_can_be_planned_from_a_file_and_from_standard_input() {
    let host = Host::with(Answers::Plan(plan()));
    let file = host.root.path().join("guest.xml");
    std::fs::write(&file, "<domain/>").unwrap();
    let ran = host.virtnic(&["plan", "--file", file.to_str().unwrap()]);
    assert!(
        ran.out.starts_with("guest <domain/> would start\n"),
        "{ran:?}"
    );

    let mut command = virtnic();
    command.arg("--root").arg(host.root.path());
    command.args(["plan", "--file", "-"]).stdin(Stdio::piped());
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"<domain>").unwrap();
    let ran = Ran::of(child.wait_with_output().unwrap(), host.root.path());
    assert!(
        ran.out.starts_with("guest <domain> would start\n"),
        "{ran:?}"
    );

    std::fs::write(&file, b"<domain>\xe4</domain>").unwrap();
    let ran = host.virtnic(&["plan", "--file", file.to_str().unwrap()]);
    let told = "/guest.xml is not UTF-8 text";
    assert!(ran.status == 1 && ran.err.contains(told), "{ran:?}");

    let ran = host.virtnic(&["plan", "--file", "/nowhere/guest.xml"]);
    assert_eq!((ran.status, ran.out.as_str()), (1, ""));
    assert!(
        ran.err.contains("/nowhere/guest.xml can't be read"),
        "{ran:?}"
    );
}

#[test]
fn networks_are_told_a_line_each() {
    let ran = Host::with(Answers::Networks(networks())).virtnic(&["net"]);
    insta::assert_snapshot!(ran.out, @r"
    NETWORK  STATE     MODE         NICS  DEVICES  FREE  PORTS
    fast     active    passthrough     2        5     0      1
    slow     inactive  bridge          -        -     -      0
    ");
    assert_eq!((ran.status, ran.err.as_str()), (0, ""));
    let ran = Host::with(Answers::Networks(Vec::new())).virtnic(&["net"]);
    assert_eq!(
        (ran.status, ran.out.as_str(), ran.err.as_str()),
        (0, "", "there are no networks\n")
    );
}

#[test]
fn one_network_is_told_with_its_cards_and_what_is_taken() {
    let ran = Host::with(Answers::Networks(networks())).virtnic(&["net", "fast"]);
    insta::assert_snapshot!(ran.out, @r"
    network  fast (active)
    mode     passthrough, a device for one guest
    ports    1
    missing  eth9

    NIC     ABILITY              NODE  DEVICES  FREE  LENT  BUSY  PORTS  IN THE WAY
    ens1f0  SR-IOV, 4 of 8 VFs      1        4     0     3     1      3  -
    eth2    macvlan offload, on     -        1     1     0     0      0  it has no carrier

    NIC     DEVICE  STATE  BY
    ens1f0  VF 0    lent   web
    ens1f0  VF 1    lent   db (network other)
    ens1f0  VF 2    lent   mail (by itself)
    ens1f0  VF 3    busy   ens1f0v3 is up with 10.0.0.5/24
    ");
    let ran = Host::with(Answers::Networks(networks())).virtnic(&["net", "slow"]);
    insta::assert_snapshot!(ran.out, @r"
    network  slow (inactive)
    mode     bridge
    choice   vepa, bridge
    ports    0
    ");
}

#[test]
fn what_many_vfs_have_in_common_is_one_line() {
    let mut reports = networks();
    reports.truncate(1);
    let row = &mut reports[0].rows[0];
    let note = |number: u32, note: &str| rpc::DeviceNote {
        device: format!("VF {number}"),
        note: note.into(),
    };
    row.busy = (3..40).map(|number| note(number, "not managed")).collect();
    row.busy.push(note(40, "it is up"));
    let ran = Host::with(Answers::Networks(reports)).virtnic(&["net", "fast"]);
    let table: Vec<_> = ran.out.lines().rev().take(3).collect();
    insta::assert_snapshot!(table.join("\n"), @r"
    ens1f0  VF 40               busy   it is up
    ens1f0  VF 3 to VF 39 (37)  busy   not managed
    ens1f0  VF 2                lent   mail (by itself)
    ");
}

#[test]
fn nics_are_told_by_their_ability() {
    let host = Host::with(Answers::Nics(nics()));
    let ran = host.virtnic(&["nics"]);
    insta::assert_snapshot!(ran.out, @r"
    NIC     ABILITY               LINK        DRIVER  PCI ADDRESS   NODE  MASTER  NETWORKS    KIND
    ens1f0  SR-IOV, 7 of 8 VFs    up          igb     0000:01:00.0  0     -       fast, slow  -
    eth2    macvlan offload, off  no carrier  ixgbe   0000:01:00.0  0     bond0   -           -
    bond0   Ethernet              down        -       -             -     -       -           bond
    ");
    assert_eq!((ran.status, ran.err.as_str()), (0, ""));
    assert_eq!(host.virtnic(&["nodedev"]).out, ran.out);
    let with_vfs = host.virtnic(&["nics", "--vfs"]).out;
    assert_eq!(with_vfs.lines().count(), ran.out.lines().count() + 1);
    assert!(with_vfs.contains("ens1f0v0"), "{with_vfs}");

    let only_vfs = nics().drain(1..2).collect();
    let ran = Host::with(Answers::Nics(only_vfs)).virtnic(&["nics"]);
    assert_eq!(
        (ran.status, ran.err.as_str()),
        (0, "there are VFs only (--vfs shows them)\n")
    );
}

#[test]
fn differences_are_told_with_cause_and_remedy_and_are_status_4() {
    let ran = Host::with(Answers::Differences(differences())).virtnic(&["reconcile"]);
    insta::assert_snapshot!(ran.out, @r"
    macvtap3 on eth2 was made for guest 'web', which does not run
      cause    virtnicd ended before it could remove it
      remedy   remove macvtap3

    VF 1 of ens1f0 has driver vfio-pci, and nobody has it
      by hand  bind it to its own driver
    ");
    assert_eq!(
        (ran.status, ran.err.as_str()),
        (4, "2 differences, of which --apply would mend 1\n")
    );
    let ran = Host::with(Answers::Differences(Vec::new())).virtnic(&["reconcile"]);
    assert_eq!(
        (ran.status, ran.out.as_str(), ran.err.as_str()),
        (0, "", "no differences: records, kernel and guests agree\n")
    );
    let ran = Host::with(Answers::Differences(Vec::new())).virtnic(&["reconcile", "--json"]);
    assert_eq!(
        (ran.status, ran.out.as_str(), ran.err.as_str()),
        (0, "[]\n", "")
    );
}

#[test]
fn what_somebody_asked_for_is_told_and_is_status_0() {
    let mut meant = differences();
    meant.truncate(1);
    meant[0].outcome = Outcome::Meant;
    let ran = Host::with(Answers::Differences(meant.clone())).virtnic(&["reconcile"]);
    insta::assert_snapshot!(ran.out, @r"
    macvtap3 on eth2 was made for guest 'web', which does not run
      cause    virtnicd ended before it could remove it
      undo     remove macvtap3
    ");
    assert_eq!(
        (ran.status, ran.err.as_str()),
        (0, "no differences beside what somebody asked for\n")
    );
    let ran = Host::with(Answers::Differences(meant)).virtnic(&["reconcile", "--json"]);
    assert_eq!(ran.status, 0);
    assert!(ran.out.contains("\"outcome\": \"meant\""), "{}", ran.out);
}

/// Only through the socket on which something may be changed.
#[test]
fn what_is_mended_is_no_difference_any_more() {
    let host = Host::with(Answers::Refuses);
    let mut mended = differences();
    mended.truncate(1);
    mended[0].outcome = Outcome::Mended;
    host.listen("virtnic-sock", Answers::Differences(mended));
    let ran = host.virtnic(&["reconcile", "--apply"]);
    insta::assert_snapshot!(ran.out, @r"
    macvtap3 on eth2 was made for guest 'web', which does not run
      cause    virtnicd ended before it could remove it
      mended   remove macvtap3
    ");
    assert_eq!(
        (ran.status, ran.err.as_str()),
        (0, "1 difference, 1 mended\n")
    );

    let host = Host::with(Answers::Refuses);
    let mut failed = differences();
    failed[0].outcome = Outcome::Failed("Device or resource busy".into());
    host.listen("virtnic-sock", Answers::Differences(failed));
    let ran = host.virtnic(&["reconcile", "--apply"]);
    assert!(
        ran.out.contains("failed   Device or resource busy"),
        "{ran:?}"
    );
    assert_eq!(
        (ran.status, ran.err.as_str()),
        (4, "2 differences, 0 mended\n")
    );
}

#[test]
fn nothing_is_mended_over_the_read_only_socket() {
    let host = Host::with(Answers::Differences(differences()));
    let socket = host.socket("virtnic-sock-ro");
    let mut command = virtnic();
    command
        .args(["reconcile", "--apply", "--socket"])
        .arg(socket);
    let ran = Ran::of(command.output().unwrap(), host.root.path());
    assert_eq!((ran.status, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains("read only access"), "{ran:?}");
}

#[test]
fn what_stands_for_a_device_on_the_host_is_told() {
    let mut lent = two_lent();
    lent[0] = Lent {
        kind: LentKind::Macvtap,
        pf: None,
        vf: None,
        pci_address: None,
        driver: None,
        host_netdev: Some("macvtap0".into()),
        parent: Some("eth2".into()),
        mode: Some("vepa".into()),
        ..lent[0].clone()
    };
    lent[1].vanished = true;
    let ran = Host::with(Answers::Lent(lent.clone())).virtnic(&["who"]);
    insta::assert_snapshot!(ran.out, @r"
    NETWORK  GUEST          MAC                KIND          NETDEV    ON    PF      VF  PCI ADDRESS   DRIVER    FOR    STATE
    fast     web            52:54:00:00:00:01  macvtap vepa  macvtap0  eth2  -       -   -             -         3 min  lent
    -        a-longer-name  52:54:00:00:00:01  hostdev       -         -     ens1f0  12  0000:03:10.0  vfio-pci  5 d    lent, vanished
    ");

    lent[1] = Lent {
        kind: LentKind::Tap,
        host_netdev: Some("vnet0".into()),
        parent: Some("br0".into()),
        since: seconds_ago(30 * 60),
        mode: None,
        ..lent[0].clone()
    };
    let ran = Host::with(Answers::Lent(lent)).virtnic(&["who"]);
    insta::assert_snapshot!(ran.out, @r"
    NETWORK  GUEST  MAC                KIND          NETDEV    ON    FOR
    fast     web    52:54:00:00:00:01  macvtap vepa  macvtap0  eth2  3 min
    fast     web    52:54:00:00:00:01  tap           vnet0     br0   30 min
    ");
}

/// Weakness 13: which guest has which VF, and what goes through it, is one question.
#[test]
fn weakness_13_who_has_which_device_is_one_question() {
    let ran = Host::with(Answers::Lent(counted())).virtnic(&["who", "--stats"]);
    insta::assert_snapshot!(ran.out, @r"
    GUEST          MAC                DEVICE         RX BYTES  RX PACKETS  RX DROPS  MULTICAST  BROADCAST  TX BYTES  TX PACKETS  TX DROPS
    web            52:54:00:00:00:01  ens1f0 VF 0   123456789      100000         3         12          -        42           1         0
    a-longer-name  52:54:00:00:00:01  ens1f0 VF 12          -           -         -          -          -         -           -         -
    ");
    let ran = Host::with(Answers::Lent(counted())).virtnic(&["who", "--stats", "--json"]);
    let rows: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(rows[0]["stats"]["rx_bytes"], 123_456_789);
    assert!(rows[0]["stats"]["rx_broadcast"].is_null());
    assert!(rows[1]["stats"].is_null());
}

#[test]
fn json_has_the_fields_that_the_help_names() {
    let drains = || Answers::Drains(vec![drained()].into());
    let turns = || Answers::Turns(vec!["ua-vf".into()], pairs());
    let changes = [
        ("drain", "vfs", drains(), &["ens1f0"][..]),
        ("drain", "macvtaps", drains(), &["ens1f0"]),
        ("promote", "", turns(), &["web"]),
        ("demote", "", turns(), &["web"]),
    ];
    for (command, nested, answers, args) in changes {
        let host = Host::empty();
        host.listen("virtnic-sock", answers);
        has_the_fields(&host, command, nested, args);
    }
    let cases = [
        ("who", "stats", Answers::Lent(counted()), &["--stats"][..]),
        ("status", "", Answers::Lent(Vec::new()), &[]),
        (
            "plan",
            "devices rows",
            Answers::Plan(refused_plan()),
            &["web"],
        ),
        ("net", "rows", Answers::Networks(networks()), &[]),
        ("nics", "", Answers::Nics(nics()), &[]),
        ("reconcile", "", Answers::Differences(differences()), &[]),
    ];
    for (command, nested, answers, args) in cases {
        has_the_fields(&Host::with(answers), command, nested, args);
    }
}

#[expect(
    clippy::unwrap_used,
    reason = "a helper that panics is a test that fails"
)]
fn has_the_fields(host: &Host, command: &str, nested: &str, args: &[&str]) {
    let ran = host.virtnic(&[&[command, "--json"], args].concat());
    let mut value: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let help = host.virtnic(&[command, "--help"]).out;
    let sections: Vec<&str> = help.split("\n\n").collect();
    let mut titles = vec!["Fields of ".to_owned()];
    titles.extend(
        nested
            .split_whitespace()
            .map(|name| format!("Each of {name}")),
    );
    for (depth, title) in titles.iter().enumerate() {
        if depth > 0 {
            value = value[title.trim_start_matches("Each of ")].take();
        }
        if value.is_array() {
            value = value[0].take();
        }
        let object = value.as_object().unwrap();
        let mut fields: Vec<&str> = object.keys().map(String::as_str).collect();
        let section = sections.iter().find(|section| section.starts_with(title));
        let section = section.unwrap_or_else(|| panic!("no '{title}' in {help}"));
        let mut named: Vec<&str> = (section.lines().skip(1))
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        fields.sort_unstable();
        named.sort_unstable();
        assert_eq!(fields, named, "virtnic {command}, {title}");
    }
}

#[test]
fn halves_of_pairs_are_told_with_what_they_wait_for() {
    let ran = Host::with(Answers::Lent(pairs())).virtnic(&["who"]);
    insta::assert_snapshot!(ran.out, @r"
    NETWORK  GUEST  MAC                KIND            NETDEV    ON      PF      VF  PCI ADDRESS   DRIVER  HALF     NEGOTIATED  FOR    STATE
    fast     web    52:54:00:00:00:01  macvtap bridge  macvtap0  ens1f0  -       -   -             -       standby  no          3 min  lent
    fast     web    52:54:00:00:00:01  hostdev         -         -       ens1f0  0   0000:03:10.0  -       primary  no          -      reserved
    fast     db     52:54:00:00:00:01  hostdev         -         -       ens1f0  -   -             -       primary  -           -      owed
    ");
    insta::assert_snapshot!(ran.err, @"guest 'web' has not negotiated failover");
    assert_eq!(ran.status, 0);
    let ran = Host::with(Answers::Lent(pairs())).virtnic(&["who", "--json"]);
    let rows: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(rows[1]["role"], "primary");
    assert_eq!(rows[0]["pair"], rows[1]["pair"]);
    assert_eq!(rows[1]["negotiated"], false);
    assert!(rows[2]["negotiated"].is_null() && rows[2]["pci_address"].is_null());
    assert_eq!(ran.err, "");
}

#[test]
fn the_halves_of_a_pair_are_planned_side_by_side() {
    let ran = Host::with(Answers::Plan(plan_of_pair())).virtnic(&["plan", "web"]);
    insta::assert_snapshot!(ran.out, @r"
    guest web would start

    interface 52:54:00:00:00:01, network slow
      half     standby of a pair over ens1f0
      gets     macvtap vepa on eth2
      why      of 2 NICs, eth2 has the fewest connections (3)
      step 1   make macvtap0 on eth2
      step 2   open 2 queues of it
               and vhost-net for each
      note     the host can't reach this guest over eth2

    hostdev hostdev0, pci
      half     primary of a pair over ens1f0
      gets     0000:03:00.0
      why      the guest names it
      step 1   bind to vfio-pci

    interface 52:54:00:00:00:01, user
      gets     nothing of the host's
    ");
}

#[test]
fn a_pf_that_is_drained_is_told_with_its_remedy() {
    let mut networks = networks();
    networks[0].rows[0].drained = true;
    networks[0].rows[0].promised = 2;
    networks[0].rows[0].obstacle =
        Some("it is drained; let it lend again: virtnic undrain ens1f0".into());
    let ran = Host::with(Answers::Networks(networks)).virtnic(&["net", "fast"]);
    insta::assert_snapshot!(ran.out, @r"
    network  fast (active)
    mode     passthrough, a device for one guest
    ports    1
    missing  eth9

    NIC     ABILITY              NODE  DEVICES  FREE  LENT  BUSY  PORTS  PROMISED  IN THE WAY
    ens1f0  SR-IOV, 4 of 8 VFs      1        4     0     3     1      3         2  it is drained; let it lend again: virtnic undrain ens1f0
    eth2    macvlan offload, on     -        1     1     0     0      0         0  it has no carrier

    NIC     DEVICE  STATE  BY
    ens1f0  VF 0    lent   web
    ens1f0  VF 1    lent   db (network other)
    ens1f0  VF 2    lent   mail (by itself)
    ens1f0  VF 3    busy   ens1f0v3 is up with 10.0.0.5/24
    ");
    let mut nics = nics();
    nics[0].drained = true;
    let ran = Host::with(Answers::Nics(nics)).virtnic(&["nics"]);
    insta::assert_snapshot!(ran.out, @r"
    NIC     ABILITY               LINK        DRIVER  PCI ADDRESS   NODE  MASTER  NETWORKS    KIND  LENDS
    ens1f0  SR-IOV, 7 of 8 VFs    up          igb     0000:01:00.0  0     -       fast, slow  -     drained
    eth2    macvlan offload, off  no carrier  ixgbe   0000:01:00.0  0     bond0   -           -     -
    bond0   Ethernet              down        -       -             -     -       -           bond  -
    ");
}

#[test]
fn a_pf_is_drained_and_what_stays_on_it_is_told() {
    let host = Host::empty();
    host.listen("virtnic-sock", Answers::Drains(vec![drained()].into()));
    let ran = host.virtnic(&["drain", "ens1f0"]);
    insta::assert_snapshot!(ran.out, @r"
    PF        ens1f0 (0000:03:00.0), lends nothing until: virtnic undrain ens1f0
    VFs       2 with guests
    macvtaps  1 on it

    STAYS                GUEST  WHY
    VF 3 (0000:03:10.6)  db     it is no half of a pair
    VF 0 (0000:03:10.0)  web    the guest was asked to let it go
    macvtap0             web    it stays on the PF
    ");
    assert_eq!((ran.status, ran.err.as_str()), (4, ""));
    let ran = host.virtnic(&["undrain", "ens1f0"]);
    assert_eq!(
        (ran.status, ran.out.as_str(), ran.err.as_str()),
        (0, "", "ens1f0 lends again\n")
    );
}

#[test]
fn who_drains_can_wait_until_no_guest_has_a_vf() {
    let (first, mut second, mut last) = (drained(), drained(), drained());
    second.vfs.truncate(1);
    last.vfs.clear();
    let host = Host::empty();
    host.listen(
        "virtnic-sock",
        Answers::Drains(vec![first, second, last].into()),
    );
    let ran = host.virtnic(&["drain", "ens1f0", "--wait"]);
    insta::assert_snapshot!(ran.out, @r"
    PF        ens1f0 (0000:03:00.0), lends nothing until: virtnic undrain ens1f0
    VFs       none with guests
    macvtaps  1 on it

    STAYS     GUEST  WHY
    macvtap0  web    it stays on the PF
    ");
    insta::assert_snapshot!(ran.err, @r"
    2 VFs are left of ens1f0: db, web
    1 VF is left of ens1f0: db
    ");
    assert_eq!(ran.status, 0);
}

#[test]
fn who_waits_for_so_long_waits_no_longer() {
    let host = Host::empty();
    host.listen("virtnic-sock", Answers::Drains(vec![drained()].into()));
    let ran = host.virtnic(&["drain", "--wait", "0", "ens1f0", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(report["vfs"].as_array().unwrap().len(), 2);
    assert_eq!((ran.status, ran.err.as_str()), (4, ""));
}

#[test]
fn vfs_of_pairs_come_and_go_by_hand() {
    let turned = |state: &str| {
        let mut rows = pairs();
        rows[1].state = state.into();
        // Another guest's, of the same name.
        rows.reverse();
        let host = Host::empty();
        host.listen("virtnic-sock", Answers::Turns(vec!["ua-vf".into()], rows));
        host
    };
    let ran = turned("lent").virtnic(&["promote", "web"]);
    insta::assert_snapshot!(ran.out, @r"
    DEVICE  MAC                PF      VF  PCI ADDRESS   STATE
    ua-vf   52:54:00:00:00:01  ens1f0  0   0000:03:10.0  lent
    ");
    assert_eq!((ran.status, ran.err.as_str()), (0, ""));
    let ran = turned("pending").virtnic(&["demote", "web", "--mac", "52:54:00:00:00:01"]);
    insta::assert_snapshot!(ran.out, @r"
    DEVICE  MAC                PF      VF  PCI ADDRESS   STATE
    ua-vf   52:54:00:00:00:01  ens1f0  0   0000:03:10.0  pending
    ");
    assert_eq!(ran.status, 4);
    assert_eq!(
        ran.err,
        "the guest has not let it go yet; virtnic who tells when it has\n"
    );
    let ran = turned("parted").virtnic(&["demote", "web", "--json"]);
    assert_eq!((ran.status, ran.err.as_str()), (0, ""));
}

#[test]
fn nothing_is_drained_or_parted_over_the_read_only_socket() {
    let host = Host::with(Answers::Drains(vec![drained()].into()));
    let socket = host.socket("virtnic-sock-ro");
    for args in [
        &["drain", "ens1f0"][..],
        &["undrain", "ens1f0"],
        &["demote", "web"],
    ] {
        let mut command = virtnic();
        command.args(args).arg("--socket").arg(&socket);
        let ran = Ran::of(command.output().unwrap(), host.root.path());
        assert_eq!((ran.status, ran.out.as_str()), (1, ""), "{args:?}");
        assert!(ran.err.contains("read only access"), "{ran:?}");
    }
}
