//! Macvtaps on VLAN devices with the real kernel, in a network namespace of each test's own. For the
//! lab: many a machine's kernel has no VLAN devices.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test's helpers are tests too"
)]

mod common;
#[path = "common/namespace.rs"]
mod namespace;
#[path = "../../host/tests/stations/mod.rs"]
#[allow(dead_code, reason = "its namespace is another one")]
mod stations;

use assign::{
    Assigner, Difference, Lent, LentKind, MacvtapPreparation, Origin, Preparation, Vhost,
};
use common::scenes::{macvtap, name, vlan};
use common::{chain, guest, mac};
use conf::{DeviceId, DirectMode};
use host::{Ipv6Autoconf, Links, LinuxHost, Netdev};
use namespace::{Namespace, run};
use stations::{BROADCAST, ONE, Station};

fn asked(n: u32, id: u16) -> MacvtapPreparation {
    MacvtapPreparation {
        vlan: Some(vlan(id)),
        bandwidth: None,
        vhost: Vhost::IfThere,
        queues: ONE,
        ..macvtap("left", DirectMode::Bridge, n)
    }
}

fn prepare(assigner: &Assigner, n: u32, id: u16) -> Result<Lent, String> {
    let left = DeviceId::Netdev(name("left"));
    let claim = assigner.claim_link(Some(left), guest(n), Origin::Interface);
    let prepared = assigner.prepare(claim.unwrap(), &Preparation::Macvtap(asked(n, id)));
    prepared.map_err(|error| chain(&error))
}

/// Lends, and switches on.
fn lend(assigner: &Assigner, n: u32, id: u16) -> Lent {
    let lent = prepare(assigner, n, id).unwrap();
    assigner.set_link_state(lent.generation, true).unwrap();
    lent
}

fn netdev(lent: &Lent) -> &Netdev {
    match &lent.kind {
        LentKind::Link { netdev, .. } => netdev,
        LentKind::Vfio { .. } | LentKind::Usb { .. } => panic!("{} is no link", lent.item),
    }
}

/// The guest's end.
fn station(lent: &mut Lent) -> Station {
    let LentKind::Link { netdev, taps, .. } = &mut lent.kind else {
        panic!("{} is no link", lent.item);
    };
    Station {
        netdev: netdev.clone(),
        mac: netdev.mac,
        fd: taps.remove(0),
    }
}

fn ours(host: &LinuxHost, id: u16) -> Option<Netdev> {
    let left = host.netdev("left").unwrap().index;
    host.netdev(&format!("vn{left}.{id}")).ok()
}

/// The other end's VLAN device, up.
fn other_end(id: u16) -> String {
    let device = format!("right.{id}");
    run(&format!(
        "ip link add link right name {device} type vlan id {id}"
    ));
    run(&format!("ip link set {device} up"));
    device
}

#[test]
#[ignore = "needs the lab: 8021q"]
fn a_guest_is_heard_in_its_vlan_only_and_hears_nothing_else() {
    Namespace::run(|space| {
        let (assigner, host) = (space.open().0, space.host());
        let found = space.netdevs();
        let mut lent = lend(&assigner, 1, 42);
        let mut beside = lend(&assigner, 2, 42);
        let (guest, neighbour) = (station(&mut lent), station(&mut beside));
        let plain = Station::on(&host, "plain4", "right", DirectMode::Bridge);

        // On the wire there is a tag.
        guest.send(BROADCAST, "tagged");
        let tagged = loop {
            let mut frame = [0; 2048];
            let length = rustix::io::read(&plain.fd, &mut frame).unwrap();
            let is_it = (frame[..length].windows(6)).any(|bytes| bytes == b"tagged");
            if is_it {
                break frame[12..16].to_vec();
            }
        };
        assert_eq!(tagged[..2], [0x81, 0x00], "802.1Q");
        assert_eq!(tagged[3], 42);
        neighbour.receive_until("tagged");

        let friend = Station::on(&host, "friend5", &other_end(42), DirectMode::Bridge);
        let stranger = Station::on(&host, "stranger6", &other_end(43), DirectMode::Bridge);
        let outside = Station::on(&host, "outside7", "left", DirectMode::Bridge);
        let mut third = lend(&assigner, 3, 43);
        let elsewhere = station(&mut third);

        // The guest speaks: its VLAN hears it, no other one does, and nobody without a VLAN.
        guest.send(BROADCAST, "of VLAN 42");
        friend.receive_until("of VLAN 42");
        neighbour.receive_until("of VLAN 42");
        elsewhere.send(BROADCAST, "of VLAN 43");
        assert_eq!(stranger.receive_until("of VLAN 43"), ["of VLAN 43"]);
        outside.send(BROADCAST, "of none");
        assert_eq!(plain.receive_until("of none"), ["of none"]);

        // Others speak: the guest hears what is said in its VLAN.
        plain.send(BROADCAST, "to none");
        outside.receive_until("to none");
        stranger.send(BROADCAST, "to VLAN 43");
        elsewhere.receive_until("to VLAN 43");
        friend.send(guest.mac, "to the guest");
        assert_eq!(guest.receive_until("to the guest"), ["to the guest"]);

        for station in [plain, friend, stranger, outside] {
            let netdev = station.netdev;
            host.delete_link(netdev.index, netdev.name).unwrap();
        }
        run("ip link delete right.42");
        run("ip link delete right.43");
        assigner.give_back(third.generation).unwrap();
        assert!(ours(&host, 43).is_none());
        assigner.give_back(lent.generation).unwrap();
        assert!(ours(&host, 42).is_some());
        assigner.give_back(beside.generation).unwrap();
        assert_eq!(space.netdevs(), found);
    });
}

#[test]
#[ignore = "needs the lab: 8021q"]
fn a_card_that_was_down_is_up_while_a_vlan_needs_it_and_takes_no_address() {
    Namespace::run(|space| {
        let (assigner, host) = (space.open().0, space.host());
        let left = host.netdev("left").unwrap();
        for (up, mtu) in [(true, 1500), (false, 4000)] {
            host.set_up(left.index, up).unwrap();
            host.set_mtu(left.index, mtu).unwrap();
            let found = (space.netdevs(), host.ipv6_autoconf(left.index).unwrap());
            let first = lend(&assigner, 1, 42);
            let second = lend(&assigner, 2, 42);
            let device = ours(&host, 42).unwrap();
            assert!(device.state.up && device.is_ours());
            assert_eq!((device.state.mtu, netdev(&first).state.mtu), (mtu, mtu));
            let autoconf = host.ipv6_autoconf(device.index).unwrap();
            assert_eq!(autoconf, Some(Ipv6Autoconf::NONE));
            assert!(host.netdev("left").unwrap().state.up);
            assert_eq!(assigner.reconcile(|_| true), []);
            assigner.give_back(first.generation).unwrap();
            assert!(ours(&host, 42).unwrap().state.up);
            assigner.give_back(second.generation).unwrap();
            let now = (space.netdevs(), host.ipv6_autoconf(left.index).unwrap());
            assert_eq!(now, found);
        }
    });
}

#[test]
#[ignore = "needs the lab: 8021q"]
fn a_daemon_that_starts_again_removes_the_vlan_of_dead_guests() {
    Namespace::run(|space| {
        let (found, host) = (space.netdevs(), space.host());
        let (assigner, _) = space.open();
        let lent = lend(&assigner, 1, 42);
        drop(assigner);
        let (assigner, findings) = space.restart(|_| true);
        assert_eq!(findings, [""; 0]);
        drop(assigner);
        // Under other names, too.
        run("ip link set left down");
        run(&format!(
            "ip link set {} name tenants",
            ours(&host, 42).unwrap().name
        ));
        run("ip link set left name uplink");
        let (assigner, _) = space.restart(|_| false);
        assert!(assigner.list().is_empty());
        run("ip link set uplink name left");
        run("ip link set left up");
        assert_eq!(space.netdevs(), found);
        // One whose record is gone is told, and mended.
        let other = lend(&assigner, 2, 42);
        drop(assigner);
        std::fs::remove_file(space.record(&other.item.to_string())).unwrap();
        let (assigner, _) = space.restart(|_| false);
        let [orphan @ Difference::OrphanedLink { .. }] = &assigner.reconcile(|_| false)[..] else {
            panic!("the macvtap comes first");
        };
        assigner.mend(orphan).unwrap();
        let [unused @ Difference::UnusedVlan { .. }] = &assigner.reconcile(|_| false)[..] else {
            panic!("then its VLAN");
        };
        assigner.mend(unused).unwrap();
        assert_eq!(assigner.reconcile(|_| false), []);
        assert_eq!(space.netdevs(), found);
        drop(lent);
    });
}

#[test]
#[ignore = "needs the lab: 8021q"]
fn the_hosts_own_vlan_device_is_used_as_it_is() {
    Namespace::run(|space| {
        let (assigner, host) = (space.open().0, space.host());
        run("ip link add link left name office type vlan id 42");
        let text = prepare(&assigner, 1, 42).unwrap_err();
        assert!(text.ends_with("is down"), "{text}");
        run("ip link set office up");
        run("ip address add 192.0.2.1/24 dev office");
        let (office, found) = (host.netdev("office").unwrap(), space.netdevs());
        let lent = lend(&assigner, 1, 42);
        assert_eq!(netdev(&lent).lower, Some(office.index));
        assigner.give_back(lent.generation).unwrap();
        assert_eq!(space.netdevs(), found);
        assert!(run("ip -o addr show dev office").contains("192.0.2.1"));
        // A bridge's can't be shared; one of 802.1ad is another VLAN.
        run("ip link set office master br0");
        let text = prepare(&assigner, 1, 42).unwrap_err();
        assert!(text.contains("'office' belongs to 'br0'"), "{text}");
        run("ip link delete office");
        run("ip link add link left name service type vlan protocol 802.1ad id 42");
        let lent = lend(&assigner, 1, 42);
        assert_eq!(
            netdev(&lent).lower,
            ours(&host, 42).map(|device| device.index)
        );
        assert_eq!(netdev(&lent).mac, mac(1));
        assigner.give_back(lent.generation).unwrap();
        assert!(ours(&host, 42).is_none() && host.netdev("service").is_ok());
    });
}

#[test]
#[ignore = "needs the lab: 8021q"]
fn a_vlan_that_is_in_another_namespace_is_told() {
    Namespace::run(|space| {
        let (assigner, _) = space.open();
        let mut other = std::process::Command::new("unshare")
            .args(["--net", "sleep", "60"])
            .spawn()
            .unwrap();
        let namespace = format!("/proc/{}/ns/net", other.id());
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        while std::fs::read_link(&namespace).is_ok_and(|theirs| theirs == own) {
            std::thread::yield_now();
        }
        run("ip link add link left name office type vlan id 42");
        run(&format!("ip link set office netns {}", other.id()));
        let text = prepare(&assigner, 1, 42).unwrap_err();
        assert!(
            text.ends_with(
                "VLAN 42 of 'left' has its device already, in another network namespace"
            ),
            "{text}"
        );
        assert!(assigner.list().is_empty());
        other.kill().unwrap();
        other.wait().unwrap();
    });
}
