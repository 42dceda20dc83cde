//! Links as the real kernel shows them, in a network namespace of each test's own. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

use std::process::Command;

use conf::MacAddress;
use host::{
    Host, HostError, HostEvent, Links, LinuxHost, Operation, Paths, PhysicalFunction, Usage,
};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::UnshareFlags;

const EADDRNOTAVAIL: i32 = 99;
const EOPNOTSUPP: i32 = 95;
const ENODEV: i32 = 19;

/// Runs a test on a thread with a network namespace, and a sysfs that shows it, of its own. The
/// namespace has a pair of connected devices, `left` and `right`, both down.
fn in_namespace(test: impl FnOnce(&LinuxHost) + Send + 'static) {
    let thread = std::thread::spawn(|| {
        let sysfs = tempfile::tempdir().unwrap();
        #[expect(deprecated, reason = "the safe form; no descriptor table is unshared")]
        rustix::thread::unshare(UnshareFlags::NEWNET | UnshareFlags::NEWNS)
            .expect("network namespaces need root");
        mount_change(
            "/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )
        .unwrap();
        mount("sysfs", sysfs.path(), "sysfs", MountFlags::empty(), None).unwrap();
        ip("link add left type veth peer name right");
        let host = LinuxHost::new(Paths {
            sysfs: sysfs.path().to_owned(),
            ..Paths::default()
        });
        test(&host);
        drop(host);
        rustix::mount::unmount(sysfs.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {said}");
}

fn usage(host: &LinuxHost) -> Vec<Usage> {
    host.netdev_usage(&host.netdev("left").unwrap()).unwrap()
}

fn left() -> String {
    String::from("left")
}

/// `left` as if it were a PF.
fn left_as_pf() -> PhysicalFunction {
    let shown = Command::new("ip")
        .args(["-o", "link", "show", "left"])
        .output()
        .unwrap()
        .stdout;
    let text = String::from_utf8(shown).unwrap();
    let ifindex = text.split(':').next().unwrap().parse().unwrap();
    PhysicalFunction {
        address: "0000:01:00.0".parse().unwrap(),
        netdev: left(),
        ifindex,
        max_vfs: 0,
        vf_count: 0,
        numa_node: None,
    }
}

#[test]
fn a_device_that_is_merely_up_is_not_in_use() {
    in_namespace(|host| {
        assert_eq!(usage(host), []);
        ip("link set left up");
        ip("link set right up");
        ip("addr add fe80::1/64 dev left nodad");
        assert_eq!(usage(host), []);
    });
}

#[test]
fn an_address_counts_while_the_device_is_up() {
    in_namespace(|host| {
        ip("addr add 10.1.2.3/24 dev left");
        assert_eq!(usage(host), [], "down");
        ip("link set left up");
        let address = String::from("10.1.2.3/24");
        let netdev = left();
        assert_eq!(usage(host), [Usage::Addressed { netdev, address }]);
        ip("addr flush dev left");
        ip("addr add 2001:db8::5/64 dev left nodad");
        let address = String::from("2001:db8::5/64");
        let netdev = left();
        assert_eq!(usage(host), [Usage::Addressed { netdev, address }]);
    });
}

#[test]
fn only_the_asked_devices_addresses_and_routes_count() {
    in_namespace(|host| {
        ip("link set left up");
        ip("link set right up");
        ip("addr add 10.1.2.3/24 dev right");
        ip("route add default via 10.1.2.1 dev right");
        ip("addr add 2001:db8::5/64 dev right nodad");
        ip("-6 route add default via 2001:db8::1 dev right");
        assert_eq!(usage(host), []);
    });
}

#[test]
fn a_default_route_counts_in_whatever_table() {
    for route in [
        "route add default dev left",
        "route add default dev left table 100",
        "-6 route add default dev left table 100",
    ] {
        in_namespace(move |host| {
            ip("link set left up");
            ip("link set right up");
            ip("route add 10.9.0.0/16 dev left");
            assert_eq!(usage(host), [], "another route");
            ip(route);
            assert_eq!(
                usage(host),
                [Usage::DefaultRoute { netdev: left() }],
                "{route}"
            );
        });
    }
}

#[test]
fn what_is_built_on_a_device_counts_even_while_it_is_down() {
    in_namespace(|host| {
        ip("link add link left name over type macvtap mode bridge");
        let upper = String::from("over");
        let netdev = left();
        assert_eq!(usage(host), [Usage::Lower { netdev, upper }]);
        ip("link del over");
        ip("link add br0 type bridge");
        ip("link set left master br0");
        let master = String::from("br0");
        let netdev = left();
        assert_eq!(usage(host), [Usage::Enslaved { netdev, master }]);
    });
}

#[test]
fn answers_longer_than_one_datagram_are_read_whole() {
    in_namespace(|host| {
        ip("link set left up");
        let batch: String = (0..3000)
            .map(|n| format!("addr add 10.{}.{}.1/24 dev right\n", n / 250, n % 250))
            .collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), batch).unwrap();
        ip(&format!("-batch {}", file.path().display()));
        assert_eq!(usage(host), []);
        ip("link set right up");
        assert!(matches!(
            &host.netdev_usage(&host.netdev("right").unwrap()).unwrap()[..],
            [Usage::Addressed { address, .. }] if address == "10.0.0.1/24"
        ));
    });
}

#[test]
fn the_link_is_read_as_it_is_now() {
    in_namespace(|host| {
        let pf = left_as_pf();
        let link = host.pf_link(&pf).unwrap();
        assert_eq!((link.up, link.carrier, link.mtu), (false, false, 1500));
        ip("link set left up mtu 9000");
        let link = host.pf_link(&pf).unwrap();
        assert_eq!((link.up, link.carrier, link.mtu), (true, false, 9000));
        ip("link set right up");
        assert!(host.pf_link(&pf).unwrap().carrier);
    });
}

#[test]
fn a_renamed_device_is_still_the_same() {
    in_namespace(|host| {
        let pf = left_as_pf();
        let left = host.netdev("left").unwrap();
        ip("link set left name other");
        assert!(host.pf_link(&pf).is_ok());
        assert_eq!(host.netdev_usage(&left).unwrap(), []);
        assert!(matches!(host.netdev("left"), Err(HostError::NoNetdev(name)) if name == "left"));
    });
}

#[test]
fn refusals_name_operation_and_device_and_keep_the_number() {
    in_namespace(|host| {
        let pf = left_as_pf();
        ip("link del left");
        let error = host.pf_link(&pf).unwrap_err();
        assert_eq!(error.errno(), Some(ENODEV));
        assert_eq!(
            error.to_string(),
            "reading the link of 'left' (0000:01:00.0)"
        );
        // The connection is still good after a refusal.
        ip("link add left type veth peer name right");
        let vf = host::VirtualFunction {
            address: "0000:01:10.0".parse().unwrap(),
            pf_address: pf.address,
            pf_netdev: left(),
            pf_ifindex: left_as_pf().ifindex,
            number: 3,
            numa_node: None,
        };
        let error = host.set_vf(&vf, host::VfSetting::Trust(true)).unwrap_err();
        assert_eq!(error.errno(), Some(EOPNOTSUPP), "{error:?}");
        assert!(
            matches!(&error, HostError::Kernel { operation: Operation::SetTrust, target, .. }
            if target == "VF 3 of 'left' (0000:01:10.0)"),
            "{error}"
        );
        let group = MacAddress::new([1, 0, 0x5e, 0, 0, 1]);
        let error = host.set_netdev_mac("left", group).unwrap_err();
        assert_eq!(error.errno(), Some(EADDRNOTAVAIL));
    });
}

#[test]
fn a_devices_own_mac_is_set() {
    in_namespace(|host| {
        let mac: MacAddress = "52:54:00:01:02:03".parse().unwrap();
        host.set_netdev_mac("left", mac).unwrap();
        let shown = Command::new("ip")
            .args(["link", "show", "left"])
            .output()
            .unwrap()
            .stdout;
        let shown = String::from_utf8(shown).unwrap();
        assert!(shown.contains("link/ether 52:54:00:01:02:03"), "{shown}");
    });
}

#[test]
fn changes_of_links_are_told() {
    in_namespace(|host| {
        let mut events = host.watch().unwrap();
        let pf = left_as_pf();
        ip("link set left up");
        let told = events.next().unwrap();
        let expected = HostEvent::LinkChanged {
            ifindex: pf.ifindex,
            netdev: left(),
        };
        assert_eq!(told, expected);
        ip("link del left");
        let expected = HostEvent::LinkRemoved {
            ifindex: pf.ifindex,
            netdev: left(),
        };
        while events.next().unwrap() != expected {}
    });
}
