//! Devices for guests as the real kernel makes them, in a network namespace of each test's own.
//! Needs root.

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
use host::{
    BridgePort, BridgeVlan, Host, HostError, HostEvent, HostEvents, Links, LinuxHost, Operation,
    Paths, TapQueues, Usage,
};
use link_suite::{CHECKS, Subject};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use stations::{BROADCAST, ONE, Station, in_namespace, mac, macvtap, run, tap};

const ENOENT: i32 = 2;
const E2BIG: i32 = 7;
const EBUSY: i32 = 16;
const EEXIST: i32 = 17;
const ENODEV: i32 = 19;
const EINVAL: i32 = 22;
const ERANGE: i32 = 34;
const EADDRINUSE: i32 = 98;

const MODES: [DirectMode; 4] = [
    DirectMode::Vepa,
    DirectMode::Private,
    DirectMode::Bridge,
    DirectMode::Passthrough,
];

fn names(host: &LinuxHost) -> Vec<String> {
    let netdevs = host.netdevs().unwrap().into_iter();
    netdevs.map(|netdev| netdev.name.to_string()).collect()
}

#[test]
fn the_contract_holds() {
    in_namespace(|host, _| {
        run("ip link add br0 type bridge");
        let subject = Subject {
            host,
            nic: "left",
            bridge: "br0",
        };
        for (name, check) in CHECKS {
            println!("{name}");
            check(&subject);
        }
    });
}

#[test]
fn a_macvtap_is_made_down_in_its_mode_with_tag_and_mtu() {
    in_namespace(|host, _| {
        run("ip link set left mtu 4000");
        for mode in MODES {
            let mut spec = macvtap(host, "guest1", "left", mode);
            let made = host.make_macvlan(&spec).unwrap();
            assert_eq!(made, host.netdev("guest1").unwrap());
            assert_eq!(made.kind.as_deref(), Some("macvtap"));
            assert_eq!((made.lower, made.pci), (Some(spec.lower), None));
            assert!(made.is_ours() && made.alias.as_deref() == Some(&spec.tag));
            assert_eq!((made.state.up, made.state.mtu), (false, 4000));
            if mode != DirectMode::Passthrough {
                assert_eq!(made.mac, spec.mac);
            }
            host.delete_link(made.index, made.name).unwrap();
            spec.mtu = Some(1400);
            let made = host.make_macvlan(&spec).unwrap();
            assert_eq!(made.state.mtu, 1400);
            host.delete_link(made.index, made.name).unwrap();
            assert!(!names(host).contains(&String::from("guest1")));
        }
    });
}

#[test]
fn in_passthrough_the_device_below_has_the_guests_mac() {
    in_namespace(|host, _| {
        let left = host.netdev("left").unwrap();
        host.set_mac(left.index, mac(9)).unwrap();
        let spec = macvtap(host, "guest1", "left", DirectMode::Passthrough);
        let made = host.make_macvlan(&spec).unwrap();
        assert_eq!(made.mac, mac(9));
        host.set_mac(made.index, mac(8)).unwrap();
        assert_eq!(host.netdev("left").unwrap().mac, mac(8));
    });
}

#[test]
fn what_excludes_each_other_is_refused_with_a_number() {
    in_namespace(|host, _| {
        let make = |name, mode| host.make_macvlan(&macvtap(host, name, "left", mode));
        make("guest1", DirectMode::Bridge).unwrap();
        let error = make("guest1", DirectMode::Bridge).unwrap_err();
        assert_eq!(error.errno(), Some(EEXIST));
        assert_eq!(
            error.to_string(),
            "making the macvlan device of 'guest1' on 'left'"
        );
        let error = make("guest2", DirectMode::Passthrough).unwrap_err();
        assert_eq!(error.errno(), Some(EINVAL));
        let mut spec = macvtap(host, "guest2", "left", DirectMode::Bridge);
        spec.mtu = Some(9000);
        let error = host.make_macvlan(&spec).unwrap_err();
        assert_eq!(error.errno(), Some(EINVAL), "above what is below");
        spec.lower = 4711;
        spec.mtu = None;
        let error = host.make_macvlan(&spec).unwrap_err();
        assert_eq!(error.errno(), Some(ENODEV));
        run("ip link add br0 type bridge");
        run("ip link set right master br0");
        let spec = macvtap(host, "guest3", "right", DirectMode::Bridge);
        let error = host.make_macvlan(&spec).unwrap_err();
        assert_eq!(error.errno(), Some(EBUSY), "the bridge listens there");
    });
}

#[test]
fn two_that_are_up_have_two_macs() {
    in_namespace(|host, _| {
        let mut spec = macvtap(host, "guest1", "left", DirectMode::Bridge);
        let first = host.make_macvlan(&spec).unwrap();
        spec.name = "guest2".parse().unwrap();
        let second = host.make_macvlan(&spec).unwrap();
        host.set_up(first.index, true).unwrap();
        let error = host.set_up(second.index, true).unwrap_err();
        assert_eq!(error.errno(), Some(EADDRINUSE));
        assert!(error.to_string().contains("'guest2'"), "{error}");
    });
}

#[test]
fn a_macvtap_that_can_not_be_tagged_is_not_left_behind() {
    in_namespace(|host, _| {
        let mut spec = macvtap(host, "guest1", "left", DirectMode::Vepa);
        spec.tag = "virtnic:".repeat(100);
        let error = host.make_macvlan(&spec).unwrap_err();
        assert_eq!(error.errno(), Some(ERANGE));
        assert!(!names(host).contains(&String::from("guest1")));
    });
}

#[test]
fn the_hosts_own_macvlan_has_an_ipv6_address_and_a_guests_macvtap_has_none() {
    in_namespace(|host, _| {
        let mut spec = macvtap(host, "guest1", "left", DirectMode::Bridge);
        host.make_macvlan(&spec).unwrap();
        (spec.name, spec.mac, spec.tap) = ("own2".parse().unwrap(), mac(2), false);
        let own = host.make_macvlan(&spec).unwrap();
        assert_eq!(own.kind.as_deref(), Some("macvlan"));
        run("ip link set guest1 up");
        run("ip link set own2 up");
        run("ip link set right up");
        let addresses = |name| run(&format!("ip -6 -o addr show dev {name}"));
        assert_eq!(addresses("guest1"), "");
        assert!(addresses("own2").contains("fe80::"));
    });
}

#[test]
fn queues_are_opened_though_the_node_is_missing_or_anothers() {
    in_namespace(|host, paths| {
        let spec = macvtap(host, "guest1", "left", DirectMode::Bridge);
        let made = host.make_macvlan(&spec).unwrap();
        let dev = tempfile::tempdir().unwrap();
        let elsewhere = LinuxHost::new(Paths {
            dev: dev.path().to_owned(),
            ..paths.clone()
        });
        elsewhere.open_macvtap(&made, ONE).unwrap();
        assert_eq!(std::fs::read_dir(dev.path()).unwrap().count(), 0);
        let node = dev.path().join(format!("tap{}", made.index));
        let mode = Mode::RUSR | Mode::WUSR;
        mknodat(CWD, &node, FileType::CharacterDevice, mode, makedev(1, 3)).unwrap();
        let fds = elsewhere.open_macvtap(&made, ONE).unwrap();
        assert_eq!(std::fs::read_dir(dev.path()).unwrap().count(), 1);
        let flags = rustix::io::fcntl_getfd(&fds[0]).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        let nowhere = LinuxHost::new(Paths {
            dev: dev.path().join("nowhere"),
            ..paths.clone()
        });
        let error = nowhere.open_macvtap(&made, ONE).unwrap_err();
        assert_eq!(error.errno(), Some(ENOENT));
        assert!(
            error.to_string().contains("'guest1' (there is no "),
            "{error}"
        );
    });
}

#[test]
fn without_this_namespaces_sysfs_that_is_said() {
    in_namespace(|host, paths| {
        let spec = macvtap(host, "guest1", "left", DirectMode::Bridge);
        let made = host.make_macvlan(&spec).unwrap();
        let elsewhere = LinuxHost::new(Paths {
            sysfs: "/sys".into(),
            ..paths.clone()
        });
        let error = elsewhere.open_macvtap(&made, ONE).unwrap_err();
        assert!(error.to_string().contains("not to be found in /sys"));
    });
}

#[test]
fn a_macvtap_has_as_many_queues_as_asked_for() {
    in_namespace(|host, _| {
        let spec = macvtap(host, "guest1", "left", DirectMode::Bridge);
        let made = host.make_macvlan(&spec).unwrap();
        let queues = TapQueues {
            count: 4,
            vnet_hdr: true,
        };
        assert_eq!(host.open_macvtap(&made, queues).unwrap().len(), 4);
        assert_eq!(host.open_tap(made.name, queues).unwrap().len(), 4);
        host.delete_link(made.index, made.name).unwrap();
        let error = host.open_tap(made.name, queues).unwrap_err();
        assert!(matches!(error, HostError::NoNetdev(_)), "{error}");
    });
}

#[test]
fn a_tap_goes_with_its_last_queue() {
    in_namespace(|host, _| {
        let queues = TapQueues {
            count: 3,
            vnet_hdr: true,
        };
        let mut spec = tap("vnet1", queues);
        spec.mtu = Some(9000);
        let (made, mut fds) = host.make_tap(&spec).unwrap();
        assert_eq!((fds.len(), made.state.mtu), (3, 9000));
        assert_eq!((made.mac, made.kind.as_deref()), (spec.mac, Some("tun")));
        assert!(made.is_ours() && !made.state.up);
        let error = host.make_tap(&spec).unwrap_err();
        assert_eq!(error.errno(), Some(EEXIST), "{error}");
        let error = host.make_tap(&tap("left", ONE)).unwrap_err();
        assert_eq!(error.errno(), Some(EEXIST), "{error}");
        fds.truncate(1);
        assert_eq!(host.netdev("vnet1").unwrap(), made);
        let mut events = host.watch().unwrap();
        drop(fds);
        until_removed(&mut *events, "vnet1");
        let error = host.netdev("vnet1").unwrap_err();
        assert!(matches!(error, HostError::NoNetdev(_)), "{error}");
    });
}

/// A program that another test starts holds our descriptors for a moment, so that a tap may go a
/// little later than its queue was closed here.
fn until_removed(events: &mut dyn HostEvents, name: &str) {
    loop {
        match events.next().unwrap() {
            HostEvent::LinkRemoved { netdev, .. } if netdev == name => return,
            _ => {}
        }
    }
}

#[test]
fn a_tap_that_can_not_be_finished_is_not_left_behind() {
    in_namespace(|host, _| {
        let mut spec = tap("vnet1", ONE);
        spec.mac = BROADCAST;
        let mut events = host.watch().unwrap();
        let error = host.make_tap(&spec).unwrap_err();
        assert!(error.to_string().starts_with("making the tap of 'vnet1'"));
        until_removed(&mut *events, "vnet1");
        let queues = TapQueues {
            count: 300,
            vnet_hdr: true,
        };
        let error = host.make_tap(&tap("vnet1", queues)).unwrap_err();
        assert_eq!(error.errno(), Some(E2BIG));
        until_removed(&mut *events, "vnet1");
    });
}

#[test]
fn a_tap_that_somebody_made_is_joined() {
    in_namespace(|host, _| {
        run("ip tuntap add single mode tap");
        run("ip tuntap add many mode tap multi_queue");
        run("ip tuntap add routed mode tun");
        let four = TapQueues { count: 4, ..ONE };
        let open = |name: &str, queues| host.open_tap(name.parse().unwrap(), queues);
        assert_eq!(open("single", ONE).unwrap().len(), 1);
        assert_eq!(open("many", ONE).unwrap().len(), 1);
        assert_eq!(open("many", four).unwrap().len(), 4);
        let error = open("single", four).unwrap_err();
        assert!(error.to_string().contains("made with one queue"), "{error}");
        for other in ["routed", "left"] {
            let error = open(other, ONE).unwrap_err();
            assert!(error.to_string().contains("neither a tap nor"), "{error}");
        }
        assert!(names(host).contains(&String::from("single")), "it stays");
    });
}

#[test]
fn vlans_of_ports_are_not_set_in_vain() {
    in_namespace(|host, _| {
        run("ip link add br0 type bridge");
        run("ip link set left master br0");
        let left = host.netdev("left").unwrap();
        let port = BridgePort {
            vlans: Some(vec![BridgeVlan {
                id: 42,
                pvid: true,
                untagged: true,
            }]),
            ..BridgePort::default()
        };
        let error = host.set_bridge_port(left.index, &port).unwrap_err();
        assert!(error.to_string().contains("vlan_filtering 1"), "{error}");
        host.set_master(left.index, None).unwrap();
        let error = host.set_bridge_port(left.index, &port).unwrap_err();
        assert!(error.to_string().contains("in no bridge"), "{error}");
    });
}

#[test]
fn a_device_has_all_its_names_and_belongs_to_its_bridge() {
    in_namespace(|host, _| {
        let long = "the-left-one-of-the-pair";
        run(&format!("ip link property add dev left altname {long}"));
        run("ip link property add dev left altname linker");
        run("ip link add br0 type bridge");
        run("ip link set left master br0");
        let left = host.netdev("left").unwrap();
        assert_eq!(left.alternative_names, [long, "linker"]);
        assert_eq!(left.kind.as_deref(), Some("veth"));
        assert_eq!(left.master, Some(host.netdev("br0").unwrap().index));
        for name in [long, "linker"] {
            assert_eq!(host.netdev(name).unwrap(), left);
        }
        assert!(host.netdevs().unwrap().contains(&left));
        let endless = "x".repeat(500);
        for name in ["nosuchdev", "", "../left", "left\0", &endless] {
            let error = host.netdev(name).unwrap_err();
            assert!(matches!(&error, HostError::NoNetdev(named) if named == name));
        }
        host.set_master(left.index, None).unwrap();
        assert_eq!(host.netdev("left").unwrap().master, None);
    });
}

#[test]
fn what_is_below_in_another_namespace_is_not_told() {
    in_namespace(|host, _| {
        let left = host.netdev("left").unwrap();
        assert_eq!(left.lower, Some(host.netdev("right").unwrap().index));
        let mut holder = (std::process::Command::new("unshare"))
            .args(["-n", "cat"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // It echoes only once it is in its namespace.
        use std::io::{Read, Write};
        holder.stdin.as_mut().unwrap().write_all(b".").unwrap();
        let mut echo = [0];
        holder
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut echo)
            .unwrap();
        run(&format!("ip link set right netns {}", holder.id()));
        assert_eq!(host.netdev("left").unwrap().lower, None);
        drop(holder.stdin.take());
        holder.wait().unwrap();
    });
}

#[test]
fn our_own_devices_are_no_use_of_what_is_below() {
    in_namespace(|host, _| {
        let left = host.netdev("left").unwrap();
        let mut spec = macvtap(host, "guest1", "left", DirectMode::Bridge);
        host.make_macvlan(&spec).unwrap();
        assert_eq!(host.netdev_usage(&left).unwrap(), []);
        (spec.name, spec.tag) = ("other2".parse().unwrap(), String::from("mine"));
        host.make_macvlan(&spec).unwrap();
        let usage = Usage::Lower {
            netdev: String::from("left"),
            upper: String::from("other2"),
        };
        assert_eq!(host.netdev_usage(&left).unwrap(), [usage]);
        run("ip link del left");
        let error = host.netdev_usage(&left).unwrap_err();
        assert_eq!(error.errno(), Some(ENODEV), "{error}");
    });
}

#[test]
fn a_device_is_removed_only_under_its_name() {
    in_namespace(|host, _| {
        let spec = macvtap(host, "guest1", "left", DirectMode::Bridge);
        let made = host.make_macvlan(&spec).unwrap();
        run("ip link set guest1 name renamed");
        host.delete_link(made.index, made.name).unwrap();
        assert!(names(host).contains(&String::from("renamed")));
        host.delete_link(made.index, "renamed".parse().unwrap())
            .unwrap();
        host.delete_link(made.index, "renamed".parse().unwrap())
            .unwrap();
        assert!(!names(host).contains(&String::from("renamed")));
        let lo = host.netdev("lo").unwrap();
        let error = host.delete_link(lo.index, lo.name).unwrap_err();
        assert_eq!(error.to_string(), "removing the network device of 'lo'");
    });
}

#[test]
fn devices_go_with_what_they_sit_on_and_that_is_told() {
    in_namespace(|host, _| {
        run("ip link add br0 type bridge");
        let spec = macvtap(host, "guest1", "left", DirectMode::Bridge);
        let made = host.make_macvlan(&spec).unwrap();
        let right = host.netdev("right").unwrap();
        let mut events = host.watch().unwrap();
        host.set_master(right.index, host.netdev("br0").ok().map(|b| b.index))
            .unwrap();
        host.set_master(right.index, None).unwrap();
        run("ip link set left down");
        run("ip link del left");
        let mut removed = Vec::new();
        while !removed.contains(&right.index) || !removed.contains(&made.index) {
            match events.next().unwrap() {
                HostEvent::LinkRemoved { ifindex, .. } => removed.push(ifindex),
                HostEvent::LinkChanged { netdev, .. } if netdev == "left" => {
                    // It left the bridge before, and was not gone.
                    assert!(!removed.contains(&right.index));
                }
                _ => {}
            }
        }
    });
}

#[test]
fn state_mtu_and_counters_are_read_back() {
    in_namespace(|host, _| {
        let a = Station::on(host, "guest1", "left", DirectMode::Passthrough);
        let b = Station::on(host, "guest2", "right", DirectMode::Passthrough);
        let before = host.netdev_counters(b.netdev.index).unwrap();
        a.send(b.mac, "counted");
        b.receive_until("counted");
        let after = host.netdev_counters(b.netdev.index).unwrap();
        assert!(after.rx_packets > before.rx_packets && after.rx_bytes > before.rx_bytes);
        let left = host.netdev("left").unwrap();
        host.set_mtu(left.index, 1400).unwrap();
        assert_eq!(host.netdev("left").unwrap().state.mtu, 1400);
        let error = host.set_mtu(left.index, 1).unwrap_err();
        assert_eq!(error.errno(), Some(EINVAL));
        host.set_up(left.index, false).unwrap();
        assert!(!host.netdev("left").unwrap().state.up);
        let error = host.netdev_counters(4711).unwrap_err();
        assert_eq!(error.errno(), Some(ENODEV));
        assert!(matches!(
            error,
            HostError::Kernel {
                operation: Operation::ReadCounters,
                ..
            }
        ));
    });
}

#[test]
fn a_missing_vhost_is_said_with_what_to_do() {
    in_namespace(|_, paths| {
        let dev = tempfile::tempdir().unwrap();
        let host = LinuxHost::new(Paths {
            dev: dev.path().to_owned(),
            ..paths.clone()
        });
        let error = host.open_vhost(1).unwrap_err();
        assert!(matches!(error, HostError::NoVhost));
        assert!(error.to_string().contains("modprobe vhost_net"));
    });
}
