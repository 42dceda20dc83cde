//! Which frames reach a guest, as the real kernel carries them, in a network namespace of each test's
//! own. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

#[allow(dead_code, reason = "the other namespace tests use the rest")]
mod stations;

use conf::{DirectMode, MacAddress};
use host::{BridgePort, Links, LinuxHost, RxFilter};
use stations::{BROADCAST, Station, in_namespace, mac, run};

const ENODEV: i32 = 19;

/// `right` in a bridge that reflects, which is what a VEPA switch does; beside it a station.
fn reflecting_switch(host: &LinuxHost) -> Station {
    run("ip link add br0 type bridge");
    run("ip link set right master br0");
    run("ip link set right type bridge_slave hairpin on");
    run("ip link set br0 up");
    Station::in_bridge(host, "switch9", "br0")
}

#[test]
fn vepa_reaches_siblings_by_the_switch() {
    in_namespace(|host, _| {
        let switch = reflecting_switch(host);
        let a = Station::on(host, "guest1", "left", DirectMode::Vepa);
        let b = Station::on(host, "guest2", "left", DirectMode::Vepa);
        a.send(b.mac, "by way of the switch");
        b.receive_until("by way of the switch");
        run("ip link set right type bridge_slave hairpin off");
        a.send(b.mac, "kept by the switch");
        switch.send(b.mac, "from the wire");
        assert_eq!(b.receive_until("from the wire"), ["from the wire"]);
    });
}

/// Even where the switch sends frames back: the kernel drops broadcasts and multicasts of a
/// sibling. It does let a reflected unicast pass, so that private guests need a switch without
/// reflection.
#[test]
fn private_reaches_the_wire_and_siblings_do_not_hear_of_it() {
    in_namespace(|host, _| {
        let switch = reflecting_switch(host);
        let heard = |mode, [a, b]: [&str; 2]| {
            let a = Station::on(host, a, "left", mode);
            let b = Station::on(host, b, "left", mode);
            a.send(BROADCAST, "to all");
            switch.receive_until("to all");
            switch.send(BROADCAST, "from the wire");
            let texts = b.receive_until("from the wire");
            for station in [a, b] {
                let netdev = station.netdev;
                host.delete_link(netdev.index, netdev.name).unwrap();
            }
            texts
        };
        let private = heard(DirectMode::Private, ["guest1", "guest2"]);
        assert_eq!(private, ["from the wire"]);
        let vepa = heard(DirectMode::Vepa, ["guest3", "guest4"]);
        assert_eq!(vepa, ["to all", "from the wire"]);
    });
}

#[test]
fn bridge_reaches_siblings_without_the_wire() {
    in_namespace(|host, _| {
        run("ip link add br0 type bridge");
        run("ip link set right master br0");
        run("ip link set br0 up");
        let switch = Station::in_bridge(host, "switch9", "br0");
        let a = Station::on(host, "guest1", "left", DirectMode::Bridge);
        let b = Station::on(host, "guest2", "left", DirectMode::Bridge);
        a.send(b.mac, "among siblings");
        b.receive_until("among siblings");
        a.send(switch.mac, "to the wire");
        assert_eq!(switch.receive_until("to the wire"), ["to the wire"]);
    });
}

#[test]
fn passthrough_hears_what_is_for_any_mac() {
    in_namespace(|host, _| {
        let a = Station::on(host, "guest1", "left", DirectMode::Passthrough);
        let b = Station::on(host, "guest2", "right", DirectMode::Passthrough);
        a.send(b.mac, "over the wire");
        b.receive_until("over the wire");
        a.send(mac(77), "for another");
        b.receive_until("for another");
    });
}

/// Groups that IPv6 asks for neighbours in; few enough of them share a bucket of the filter.
fn solicited() -> Vec<MacAddress> {
    let last = 0..16;
    last.map(|n| MacAddress::new([0x33, 0x33, 0xff, 0x12, 0x34, n]))
        .collect()
}

#[test]
fn neighbour_discovery_reaches_the_guest_once_every_multicast_does() {
    in_namespace(|host, _| {
        run("ip link add br0 type bridge");
        run("ip link set right master br0");
        run("ip link set br0 up");
        let switch = Station::in_bridge(host, "switch9", "br0");
        let guest = Station::on(host, "guest1", "left", DirectMode::Bridge);
        let ask = |last| {
            for group in solicited() {
                switch.send(group, "who has this address");
            }
            switch.send(BROADCAST, last);
            guest.receive_until(last).len() - 1
        };
        assert!(ask("first") < solicited().len(), "most are filtered out");
        let index = guest.netdev.index;
        let filter = RxFilter {
            all_multicast: true,
            ..RxFilter::default()
        };
        host.set_rx_filter(index, &filter).unwrap();
        assert_eq!(host.rx_filter(index).unwrap(), filter);
        assert_eq!(ask("second"), solicited().len());
        host.set_rx_filter(index, &RxFilter::default()).unwrap();
        assert!(ask("third") < solicited().len());
    });
}

#[test]
fn groups_are_given_and_taken_and_the_kernels_own_stay() {
    in_namespace(|host, _| {
        let switch = reflecting_switch(host);
        let guest = Station::on(host, "guest1", "left", DirectMode::Bridge);
        let index = guest.netdev.index;
        assert_eq!(host.rx_filter(index).unwrap(), RxFilter::default());
        let own = run("ip maddr show dev guest1");
        let filter = RxFilter {
            multicast: solicited(),
            ..RxFilter::default()
        };
        host.set_rx_filter(index, &filter).unwrap();
        assert_eq!(host.rx_filter(index).unwrap(), filter);
        for group in solicited() {
            switch.send(group, "for the group");
        }
        switch.send(BROADCAST, "last");
        assert_eq!(guest.receive_until("last").len(), solicited().len() + 1);
        let promiscuous = RxFilter {
            promiscuous: true,
            multicast: solicited().split_off(15),
            ..RxFilter::default()
        };
        host.set_rx_filter(index, &promiscuous).unwrap();
        assert_eq!(host.rx_filter(index).unwrap(), promiscuous);
        host.set_rx_filter(index, &RxFilter::default()).unwrap();
        assert_eq!(run("ip maddr show dev guest1"), own);
        let wrong = RxFilter {
            multicast: vec![mac(1)],
            ..RxFilter::default()
        };
        let error = host.set_rx_filter(4711, &wrong).unwrap_err();
        assert_eq!(error.errno(), Some(ENODEV));
    });
}

#[test]
fn isolated_ports_do_not_reach_each_other() {
    in_namespace(|host, _| {
        run("ip link add br0 type bridge");
        run("ip link set br0 up");
        let stations =
            ["vnet1", "vnet2", "vnet3"].map(|name| Station::in_bridge(host, name, "br0"));
        let [a, b, other] = &stations;
        a.send(b.mac, "before");
        b.receive_until("before");
        let isolated = BridgePort {
            isolated: Some(true),
            ..BridgePort::default()
        };
        for station in [a, b] {
            host.set_bridge_port(station.netdev.index, &isolated)
                .unwrap();
        }
        a.send(BROADCAST, "from one isolated");
        other.receive_until("from one isolated");
        other.send(BROADCAST, "from the other");
        assert_eq!(b.receive_until("from the other"), ["from the other"]);
        let again = BridgePort {
            isolated: Some(false),
            ..BridgePort::default()
        };
        host.set_bridge_port(b.netdev.index, &again).unwrap();
        a.send(b.mac, "after");
        b.receive_until("after");
    });
}

#[test]
fn a_port_that_is_not_flooded_hears_of_macs_that_were_put_behind_it() {
    in_namespace(|host, _| {
        run("ip link add br0 type bridge");
        run("ip link set br0 up");
        let [a, b] = ["vnet1", "vnet2"].map(|name| Station::in_bridge(host, name, "br0"));
        let index = b.netdev.index;
        let port = BridgePort {
            learning: Some(false),
            unicast_flood: Some(false),
            ..BridgePort::default()
        };
        host.set_bridge_port(index, &port).unwrap();
        let reached = |last| {
            a.send(mac(50), "for the guest");
            a.send(BROADCAST, last);
            b.receive_until(last).len() > 1
        };
        assert!(!reached("first"));
        host.set_bridge_mac(index, mac(50), true).unwrap();
        host.set_bridge_mac(index, mac(50), true).unwrap();
        assert!(
            run("bridge fdb show br br0").contains("52:54:00:00:00:32 dev vnet2 master br0 static")
        );
        assert!(reached("second"));
        host.set_bridge_mac(index, mac(50), false).unwrap();
        host.set_bridge_mac(index, mac(50), false).unwrap();
        assert!(!reached("third"));
        let left = host.netdev("left").unwrap().index;
        assert!(host.set_bridge_mac(left, mac(50), true).is_err());
        assert!(host.set_bridge_port(left, &port).is_err());
    });
}
