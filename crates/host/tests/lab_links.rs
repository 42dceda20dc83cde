//! Devices for guests on what this machine's kernel may lack: bonds, VLANs, bridges that filter
//! VLANs, vhost-net, and a real VF below. For the lab.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

mod link_suite;
#[allow(dead_code, reason = "the other namespace tests use the rest")]
mod stations;

use conf::DirectMode;
use host::{BridgePort, BridgeVlan, Host, Links, LinuxHost, Paths};
use link_suite::{CHECKS, Subject, VLAN_CHECKS};
use stations::{BROADCAST, Station, in_namespace, run};

#[test]
#[ignore = "needs the lab: bonding"]
fn lab_a_bond_is_a_parent() {
    in_namespace(|host, _| {
        run("ip link set left down");
        run("ip link add bond0 type bond mode active-backup miimon 100");
        run("ip link set left master bond0");
        run("ip link set bond0 up");
        let bond = host.netdev("bond0").unwrap();
        assert_eq!(bond.kind.as_deref(), Some("bond"));
        assert_eq!(host.netdev("left").unwrap().master, Some(bond.index));
        let a = Station::on(host, "guest1", "bond0", DirectMode::Vepa);
        let b = Station::on(host, "guest2", "right", DirectMode::Passthrough);
        b.send(a.mac, "through the bond");
        a.receive_until("through the bond");
        assert_eq!(a.netdev.lower, Some(bond.index));
    });
}

#[test]
#[ignore = "needs the lab: 8021q"]
fn lab_a_vlan_is_a_parent() {
    in_namespace(|host, _| {
        for side in ["left", "right"] {
            run(&format!(
                "ip link add link {side} name {side}.42 type vlan id 42"
            ));
            run(&format!("ip link set {side}.42 up"));
        }
        let vlan = host.netdev("left.42").unwrap();
        assert_eq!(vlan.kind.as_deref(), Some("vlan"));
        assert_eq!(vlan.lower, Some(host.netdev("left").unwrap().index));
        let a = Station::on(host, "guest1", "left.42", DirectMode::Bridge);
        let b = Station::on(host, "guest2", "right.42", DirectMode::Bridge);
        let untagged = Station::on(host, "guest3", "right", DirectMode::Bridge);
        a.send(BROADCAST, "in the VLAN");
        b.receive_until("in the VLAN");
        b.send(a.mac, "back");
        a.receive_until("back");
        let outside = Station::on(host, "guest4", "left", DirectMode::Bridge);
        outside.send(BROADCAST, "outside");
        assert_eq!(untagged.receive_until("outside"), ["outside"]);
    });
}

#[test]
#[ignore = "needs the lab: 8021q"]
fn lab_the_contract_of_vlan_devices_holds() {
    in_namespace(|host, _| {
        run("ip link add br0 type bridge");
        let subject = Subject {
            host,
            nic: "left",
            bridge: "br0",
        };
        for (name, check) in VLAN_CHECKS {
            println!("{name}");
            check(&subject);
        }
    });
}

#[test]
#[ignore = "needs the lab: 8021q"]
fn lab_a_service_tag_is_another_vlan() {
    in_namespace(|host, _| {
        run("ip link add link left name left.42s type vlan protocol 802.1ad id 42");
        let theirs = host.netdev("left.42s").unwrap();
        assert_eq!((theirs.kind.as_deref(), theirs.vlan), (Some("vlan"), None));
    });
}

#[test]
#[ignore = "needs the lab: bridges that filter VLANs"]
fn lab_ports_hear_their_vlans_only() {
    in_namespace(|host, _| {
        run("ip link add br0 type bridge vlan_filtering 1");
        run("ip link set br0 up");
        let stations =
            ["vnet1", "vnet2", "vnet3"].map(|name| Station::in_bridge(host, name, "br0"));
        let [a, b, other] = &stations;
        let untagged = |id| BridgeVlan {
            id,
            pvid: true,
            untagged: true,
        };
        let tagged = BridgeVlan {
            id: 4094,
            pvid: false,
            untagged: false,
        };
        let set = |station: &Station, vlans: &[BridgeVlan]| {
            let port = BridgePort {
                vlans: Some(vlans.to_vec()),
                ..BridgePort::default()
            };
            host.set_bridge_port(station.netdev.index, &port).unwrap();
        };
        set(a, &[untagged(42), tagged]);
        set(b, &[untagged(42)]);
        set(other, &[untagged(43)]);
        let shown = run("bridge vlan show dev vnet1");
        assert!(shown.contains("42 PVID Egress Untagged") && shown.contains("4094"));
        assert!(!shown.contains(" 1 "), "{shown}");
        a.send(BROADCAST, "in VLAN 42");
        b.receive_until("in VLAN 42");
        set(b, &[untagged(43)]);
        b.send(BROADCAST, "in VLAN 43");
        assert_eq!(other.receive_until("in VLAN 43"), ["in VLAN 43"]);
        set(b, &[]);
        assert!(!run("bridge vlan show dev vnet2").contains("43"));
    });
}

#[test]
#[ignore = "needs the lab: vhost-net"]
fn lab_vhost_is_opened_once_a_queue() {
    let host = LinuxHost::new(Paths::default());
    assert_eq!(host.open_vhost(2).unwrap().len(), 2);
}

#[test]
#[ignore = "needs the lab: a PF that is up, has VFs and is named in LAB_PF0"]
fn lab_a_vf_is_a_parent() {
    let pf = std::env::var("LAB_PF0").expect("LAB_PF0 names the PF");
    let host = LinuxHost::new(Paths::default());
    let pf = host.physical_function(&pf).unwrap();
    assert_eq!(host.netdev(&pf.netdev).unwrap().pci, Some(pf.address));
    let vf = host.virtual_functions(&pf).unwrap().remove(0);
    let (nic, _) = host.vf_state(&vf).unwrap().netdev.unwrap();
    let netdev = host.netdev(&nic).unwrap();
    assert_eq!((netdev.pci, netdev.kind), (Some(vf.address), None));
    run("ip link add labbr0 type bridge");
    let subject = Subject {
        host: &host,
        nic: &nic,
        bridge: "labbr0",
    };
    let mut broken = Vec::new();
    for (name, check) in CHECKS {
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&subject)));
        if checked.is_err() {
            broken.push(name);
        }
    }
    run("ip link del labbr0");
    assert!(broken.is_empty(), "broken: {broken:#?}");
    let over = Station::on(&host, "labguest1", &nic, DirectMode::Passthrough);
    assert_eq!(over.mac, host.netdev(&nic).unwrap().mac);
    assert!(!host.vf_usage(&vf).unwrap().is_empty());
    let made = over.netdev;
    host.delete_link(made.index, made.name).unwrap();
    host.set_up(netdev.index, false).unwrap();
    assert_eq!(host.vf_usage(&vf).unwrap(), []);
}
