//! The simulated host's network devices: the contract, and what tests do with them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

mod link_suite;

use std::panic::{AssertUnwindSafe, catch_unwind};

use conf::{DirectMode, MacAddress};
use host::{
    Effect, Fault, Host, HostError, HostEvent, Links, MacvlanSpec, Operation, Quirks,
    SimulatedHost, TapQueues, TapSpec, Usage, VfSetting, VlanSpec,
};
use link_suite::{CHECKS, Subject, VLAN_CHECKS};

const EIO: i32 = 5;
const EADDRNOTAVAIL: i32 = 99;
const ONE: TapQueues = TapQueues {
    count: 1,
    vnet_hdr: true,
};

fn host() -> SimulatedHost {
    let host = SimulatedHost::new("pfs=2,vfs=8".parse().unwrap());
    host.add_nic("eth0").unwrap();
    host.add_bridge("br0").unwrap();
    host
}

fn mac(last: u8) -> MacAddress {
    MacAddress::new([0x52, 0x54, 0, 0, 0, last])
}

fn spec(host: &SimulatedHost, lower: &str, mode: DirectMode) -> MacvlanSpec {
    MacvlanSpec {
        name: "macvtap0".parse().unwrap(),
        lower: host.netdev(lower).unwrap().index,
        mode,
        mac: mac(1),
        mtu: None,
        tap: true,
        tag: String::from("virtnic:x"),
    }
}

#[test]
fn the_contract_holds_over_a_nic_a_pf_and_a_vf() {
    for nic in ["eth0", "sim1", "sim1v0"] {
        for (name, check) in CHECKS.iter().chain(VLAN_CHECKS) {
            let host = host();
            let before = host.snapshot();
            let bridge = "br0";
            let subject = Subject {
                host: &host,
                nic,
                bridge,
            };
            let checked = catch_unwind(AssertUnwindSafe(|| check(&subject)));
            assert!(checked.is_ok(), "broken over {nic}: {name}");
            let after = before.differences(&host.snapshot());
            // A PF's own MAC, once set, was set to what it was.
            assert!(after.is_empty(), "left over {nic} by '{name}': {after:?}");
        }
    }
}

#[test]
fn a_nic_is_a_pci_function_and_other_devices_are_none() {
    let host = host();
    let nic = host.netdev("eth0").unwrap();
    let address = nic.pci.unwrap();
    assert_eq!(host.pci_address_of("eth0").unwrap(), address);
    assert_eq!(host.pci_device(address).unwrap().netdevs, ["eth0"]);
    assert!(matches!(
        host.physical_function("eth0"),
        Err(HostError::NotPhysicalFunction(_))
    ));
    assert!(matches!(
        host.pci_address_of("br0"),
        Err(HostError::NotPci(_))
    ));
    let pf = host.physical_function("sim0").unwrap();
    assert_eq!(host.netdev("sim0").unwrap().pci, Some(pf.address));
    assert_eq!(host.netdev("sim0").unwrap().index, pf.ifindex);
    assert!(host.add_nic("eth0").is_none() && host.add_nic("sim0").is_none());
}

#[test]
fn a_nic_goes_to_vfio_and_comes_back() {
    let host = host();
    let address = host.pci_address_of("eth0").unwrap();
    let mac = host.netdev("eth0").unwrap().mac;
    host.make_macvlan(&spec(&host, "eth0", DirectMode::Bridge))
        .unwrap();
    host.bind(address, "vfio-pci").unwrap();
    assert_eq!(host.pci_device(address).unwrap().netdevs, [""; 0]);
    for gone in ["eth0", "macvtap0"] {
        assert!(matches!(host.netdev(gone), Err(HostError::NoNetdev(_))));
    }
    host.unbind(address, Some(SimulatedHost::NIC_DRIVER))
        .unwrap();
    let back = host.netdev("eth0").unwrap();
    assert_eq!((back.pci, back.mac), (Some(address), mac));
}

#[test]
fn what_is_on_a_vf_goes_with_its_network_device() {
    let host = host();
    let pf = host.physical_function("sim0").unwrap();
    let vf = host.virtual_functions(&pf).unwrap().remove(1);
    let mut events = host.watch().unwrap();
    let over_vf = spec(&host, "sim0v1", DirectMode::Passthrough);
    host.make_macvlan(&over_vf).unwrap();
    let usage = Usage::Lower {
        netdev: String::from("sim0v1"),
        upper: String::from("macvtap0"),
    };
    assert_eq!(host.vf_usage(&vf).unwrap(), [usage], "ours counts there");
    host.bind(vf.address, "vfio-pci").unwrap();
    assert!(matches!(
        host.netdev("macvtap0"),
        Err(HostError::NoNetdev(_))
    ));
    assert!(matches!(host.netdev("sim0v1"), Err(HostError::NoNetdev(_))));
    let expected = HostEvent::LinkRemoved {
        ifindex: over_vf.lower,
        netdev: String::from("sim0v1"),
    };
    while events.next().unwrap() != expected {}
    host.unbind(vf.address, Some(SimulatedHost::VF_DRIVER))
        .unwrap();
    assert_eq!(host.netdev("sim0v1").unwrap().index, over_vf.lower);
    assert_eq!(host.vf_usage(&vf).unwrap(), []);
}

#[test]
fn a_vf_keeps_the_mac_that_its_pf_gave_it() {
    let host = host();
    host.set_quirks(Quirks::igb());
    let pf = host.physical_function("sim0").unwrap();
    let vf = host.virtual_functions(&pf).unwrap().remove(0);
    let netdev = host.netdev("sim0v0").unwrap();
    host.set_mac(netdev.index, mac(5)).unwrap();
    assert_eq!(host.vf_state(&vf).unwrap().mac, mac(5));
    host.set_vf(&vf, VfSetting::Mac(mac(6))).unwrap();
    let error = host.set_mac(netdev.index, mac(7)).unwrap_err();
    assert_eq!(error.errno(), Some(EADDRNOTAVAIL));
    assert!(error.to_string().contains("'sim0v0'"), "{error}");
}

#[test]
fn every_call_fails_where_it_is_told_to() {
    let host = host();
    let nic = host.netdev("eth0").unwrap();
    let tap = TapSpec {
        name: "vnet0".parse().unwrap(),
        mac: mac(2),
        mtu: None,
        queues: ONE,
        tag: String::from("virtnic:x"),
    };
    let macvlan = spec(&host, "eth0", DirectMode::Vepa);
    let made = host.make_macvlan(&macvlan).unwrap();
    let bridge = host.netdev("br0").unwrap().index;
    let vlan = VlanSpec {
        name: "vlan42".parse().unwrap(),
        lower: nic.index,
        id: 42.try_into().unwrap(),
        tag: String::from("virtnic:x"),
    };
    type Call<'a> = Box<dyn Fn() -> Result<(), HostError> + 'a>;
    let calls: [(Operation, Call<'_>); 16] = [
        (Operation::ReadNetdev, Box::new(|| host.netdevs().map(drop))),
        (
            Operation::ReadUsage,
            Box::new(|| host.netdev_usage(&nic).map(drop)),
        ),
        (
            Operation::ReadCounters,
            Box::new(|| host.netdev_counters(nic.index).map(drop)),
        ),
        (Operation::SetUp, Box::new(|| host.set_up(nic.index, true))),
        (
            Operation::SetNetdevMac,
            Box::new(|| host.set_mac(nic.index, mac(3))),
        ),
        (
            Operation::SetMtu,
            Box::new(|| host.set_mtu(nic.index, 1600)),
        ),
        (
            Operation::MakeMacvlan,
            Box::new(|| host.make_macvlan(&macvlan).map(drop)),
        ),
        (
            Operation::MakeVlan,
            Box::new(|| host.make_vlan(&vlan).map(drop)),
        ),
        (
            Operation::OpenTap,
            Box::new(|| host.open_macvtap(&made, ONE).map(drop)),
        ),
        (
            Operation::MakeTap,
            Box::new(|| host.make_tap(&tap).map(drop)),
        ),
        (
            Operation::OpenVhost,
            Box::new(|| host.open_vhost(1).map(drop)),
        ),
        (
            Operation::DeleteLink,
            Box::new(|| host.delete_link(made.index, made.name)),
        ),
        (
            Operation::SetMaster,
            Box::new(|| host.set_master(made.index, Some(bridge))),
        ),
        (
            Operation::SetBridgePort,
            Box::new(|| host.set_bridge_port(made.index, &Default::default())),
        ),
        (
            Operation::SetBridgeMac,
            Box::new(|| host.set_bridge_mac(made.index, mac(1), true)),
        ),
        (
            Operation::SetRxFilter,
            Box::new(|| host.set_rx_filter(made.index, &Default::default())),
        ),
    ];
    let before = host.snapshot();
    for (operation, call) in calls {
        host.fail(Fault::of(operation, EIO));
        let error = call().unwrap_err();
        assert_eq!(error.errno(), Some(EIO), "{operation:?}");
        assert_eq!(host.waiting_faults(), 0);
        let text = error.to_string();
        assert!(text.starts_with(&operation.to_string()), "{text}");
        assert_eq!(before.differences(&host.snapshot()), [""; 0]);
    }
}

#[test]
fn a_fault_finds_a_network_device_by_its_function() {
    let host = host();
    let address = host.pci_address_of("sim0v2").unwrap();
    let index = |name| host.netdev(name).unwrap().index;
    host.fail(Fault::of(Operation::SetUp, EIO).on(address));
    host.set_up(index("sim0v1"), true).unwrap();
    let error = host.set_up(index("sim0v2"), true).unwrap_err();
    let named = format!("switching the network device on or off of 'sim0v2' ({address})");
    assert_eq!(error.to_string(), named);
}

#[test]
fn a_crash_leaves_what_was_made_without_its_tag() {
    let host = host();
    host.crash_after(1);
    let crashed = catch_unwind(AssertUnwindSafe(|| {
        host.make_macvlan(&spec(&host, "eth0", DirectMode::Bridge))
    }));
    // Looking up the device below is a call, too, but changes nothing.
    assert!(crashed.is_err());
    host.restart_caller();
    let left = host.netdev("macvtap0").unwrap();
    assert_eq!(left.alias, None);
    assert!(matches!(host.effects()[..], [Effect::LinkMade(index, _)] if index == left.index));
}

#[test]
fn a_failed_undo_leaves_what_was_made_without_its_tag() {
    let host = host();
    host.fail(Fault::of(Operation::MakeMacvlan, EIO).partial());
    host.make_macvlan(&spec(&host, "eth0", DirectMode::Bridge))
        .unwrap_err();
    assert_eq!(host.netdev("macvtap0").unwrap().alias, None);
}

#[test]
fn a_boot_leaves_the_hosts_own_devices() {
    let host = host();
    let made = host
        .make_macvlan(&spec(&host, "sim0v0", DirectMode::Bridge))
        .unwrap();
    host.set_up(made.lower.unwrap(), true).unwrap();
    host.reboot();
    assert!(matches!(
        host.netdev("macvtap0"),
        Err(HostError::NoNetdev(_))
    ));
    assert!(!host.netdev("sim0v0").unwrap().state.up);
    assert!(host.netdev("eth0").is_ok() && host.netdev("br0").is_ok());
}

#[test]
fn names_are_kept_apart() {
    let host = host();
    host.add_alternative_name("sim0v1", "uplink");
    assert_eq!(
        host.netdev("uplink").unwrap(),
        host.netdev("sim0v1").unwrap()
    );
    assert!(
        matches!(host.netdev("sim0v4"), Err(HostError::NoNetdev(_))),
        "sim1's first one has that index"
    );
    let made = host
        .make_macvlan(&spec(&host, "eth0", DirectMode::Bridge))
        .unwrap();
    host.rename_netdev("macvtap0", "renamed");
    assert_eq!(host.netdev("renamed").unwrap().index, made.index);
    host.remove_netdev("eth0");
    assert!(host.netdev("renamed").is_err() && host.netdev("eth0").is_err());
}

#[test]
fn thousands_of_vfs_are_as_quick_as_few() {
    let host = SimulatedHost::new("pfs=128,vfs=32768".parse().unwrap());
    assert_eq!(host.netdevs().unwrap().len(), 128 + 32_768);
    // A walk over all of them in each would take minutes.
    for number in 0..256 {
        for pf in 0..128 {
            let name = format!("sim{pf}v{number}");
            let index = host.netdev(&name).unwrap().index;
            host.set_up(index, true).unwrap();
        }
    }
}
