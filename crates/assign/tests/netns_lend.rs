//! Macvtaps and taps, lent and taken back with the real kernel, in a network namespace of each
//! test's own. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test's helpers are tests too"
)]

mod common;
#[path = "common/namespace.rs"]
mod namespace;

use assign::{
    Assigner, Difference, Lent, LentKind, MacvtapPreparation, Origin, Preparation, SeatOwner,
    TapPreparation, TapSeat, Vhost,
};
use common::scenes::{macvtap, name, tap};
use common::{chain, guest, mac};
use conf::{DeviceId, DirectMode, MacAddress};
use host::{BridgePort, Links, Netdev};
use namespace::{Namespace, run};

/// What the kernel of any machine that builds this can do.
fn preparations(n: u32) -> Vec<Preparation> {
    let modes = [
        DirectMode::Vepa,
        DirectMode::Private,
        DirectMode::Bridge,
        DirectMode::Passthrough,
    ];
    let taps = [
        TapPreparation {
            bridge: Some(name("br0")),
            port: BridgePort {
                isolated: Some(true),
                learning: Some(false),
                unicast_flood: Some(false),
                vlans: None,
            },
            static_mac: true,
            ..plain_tap(n)
        },
        plain_tap(n),
        TapPreparation {
            name: Some(name("tap0")),
            existing: true,
            ..plain_tap(n)
        },
    ];
    let macvtaps = modes.map(|mode| Preparation::Macvtap(plain_macvtap(mode, n)));
    let taps = taps.map(Preparation::Tap);
    macvtaps.into_iter().chain(taps).collect()
}

fn plain_macvtap(mode: DirectMode, n: u32) -> MacvtapPreparation {
    MacvtapPreparation {
        bandwidth: None,
        vhost: Vhost::IfThere,
        mtu: (mode == DirectMode::Passthrough).then_some(9000),
        ..macvtap("left", mode, n)
    }
}

fn plain_tap(n: u32) -> TapPreparation {
    TapPreparation {
        bandwidth: None,
        ..tap(n)
    }
}

fn lend(assigner: &Assigner, preparation: &Preparation, n: u32) -> Lent {
    let left = DeviceId::Netdev(name("left"));
    let claim = match preparation {
        Preparation::Macvtap(macvtap) if macvtap.mode == DirectMode::Passthrough => {
            assigner.claim(left, guest(n), Origin::Interface)
        }
        Preparation::Macvtap(_) => assigner.claim_link(Some(left), guest(n), Origin::Interface),
        _ => assigner.claim_link(None, guest(n), Origin::Interface),
    };
    let prepared = assigner.prepare(claim.unwrap(), preparation);
    prepared.unwrap_or_else(|error| panic!("{}", chain(&error)))
}

fn link(lent: &Lent) -> &Netdev {
    match &lent.kind {
        LentKind::Link { netdev, .. } => netdev,
        LentKind::Vfio { .. } | LentKind::Usb { .. } => panic!("{} is no link", lent.item),
    }
}

#[test]
fn whatever_the_kernel_makes_is_as_asked_and_goes_without_a_trace() {
    Namespace::run(|space| {
        let (assigner, host) = (space.open().0, space.host());
        for up in [true, false] {
            host.set_up(host.netdev("left").unwrap().index, up).unwrap();
            let found = space.netdevs();
            for preparation in preparations(1) {
                let lent = lend(&assigner, &preparation, 1);
                assigner.set_link_state(lent.generation, true).unwrap();
                let now = host.netdev(link(&lent).name.as_str()).unwrap();
                match &preparation {
                    Preparation::Macvtap(asked) => {
                        assert!(now.state.up, "{preparation:?}");
                        assert_eq!(now.mac, mac(1));
                        assert_eq!(now.state.mtu, asked.mtu.unwrap_or(1500));
                        assert!(host.rx_filter(now.index).unwrap().all_multicast);
                        assert!(host.netdev("left").unwrap().state.up);
                    }
                    Preparation::Tap(asked) => {
                        assert!(now.state.up || asked.existing);
                        assert_eq!(now.master.is_some(), asked.bridge.is_some());
                    }
                    Preparation::Vfio(_) | Preparation::Usb => {}
                }
                let LentKind::Link { taps, .. } = &lent.kind else {
                    panic!("a link");
                };
                assert_eq!(taps.len(), 2);
                assigner.set_link_state(lent.generation, false).unwrap();
                let generation = lent.generation;
                drop(lent);
                assigner.give_back(generation).unwrap();
                assert_eq!(space.netdevs(), found, "{preparation:?}");
            }
        }
        assert!(assigner.list().is_empty());
    });
}

#[test]
fn a_daemon_that_starts_again_knows_its_links_and_removes_those_of_dead_guests() {
    Namespace::run(|space| {
        let found = space.netdevs();
        for preparation in preparations(1) {
            let (assigner, _) = space.open();
            let lent = lend(&assigner, &preparation, 1);
            assigner.set_link_state(lent.generation, true).unwrap();
            drop(assigner);
            let (assigner, findings) = space.restart(|_| true);
            assert_eq!(findings, [""; 0], "{preparation:?}");
            assert_eq!(assigner.reconcile(|_| true), []);
            drop(assigner);
            // Its QEMU's descriptors go with it.
            let item = lent.item;
            drop(lent);
            let (assigner, findings) = space.restart(|_| false);
            assert_eq!(
                findings,
                [format!(
                    "{} was given back: guest 'web1' is gone",
                    item.words()
                )]
            );
            assert!(assigner.list().is_empty());
            assert_eq!(space.netdevs(), found, "{preparation:?}");
        }
    });
}

#[test]
fn a_tap_goes_from_bridge_to_bridge_and_back() {
    Namespace::run(|space| {
        run("ip link add br1 address 52:54:00:00:ff:02 type bridge");
        // One that was not set is that of its members.
        run("ip link set br1 mtu 1400");
        let found = space.netdevs();
        let (assigner, _) = space.open();
        let seat = |bridge: &str, isolated: bool, is_ours: bool| TapSeat {
            bridge: name(bridge),
            port: BridgePort {
                isolated: isolated.then_some(true),
                learning: is_ours.then_some(false),
                unicast_flood: is_ours.then_some(false),
                vlans: None,
            },
            static_mac: is_ours,
            mtu: None,
        };
        let places = [
            seat("br0", false, false),
            seat("br0", true, true),
            seat("br1", true, true),
            seat("br1", false, false),
            seat("br0", true, false),
        ];
        let preparation = Preparation::Tap(TapPreparation {
            bridge: Some(name("br0")),
            ..plain_tap(1)
        });
        let lent = lend(&assigner, &preparation, 1);
        assigner.set_link_state(lent.generation, true).unwrap();
        let mut from = places[0].clone();
        let again = places.iter().rev().cloned();
        for to in places.iter().cloned().chain(again) {
            let owner = SeatOwner::default();
            (assigner.move_tap(lent.generation, Some(&from), &to, owner, true)).unwrap();
            let host = space.host();
            let now = host.netdev(link(&lent).name.as_str()).unwrap();
            let bridge = host.netdev(to.bridge.as_str()).unwrap();
            assert_eq!(now.master, Some(bridge.index), "{to:?}");
            assert_eq!(now.state.mtu, bridge.state.mtu);
            assert!(now.state.up);
            assert_eq!(assigner.reconcile(|_| true), []);
            from = to;
        }
        let generation = lent.generation;
        drop(lent);
        assigner.give_back(generation).unwrap();
        assert_eq!(space.netdevs(), found);
    });
}

#[test]
fn what_the_kernel_would_refuse_is_refused_before_or_undone() {
    Namespace::run(|space| {
        let (assigner, found) = (space.open().0, space.netdevs());
        let left = DeviceId::Netdev(name("left"));
        let shared = || {
            assigner
                .claim_link(Some(left), guest(1), Origin::Interface)
                .unwrap()
        };
        let error = |claim, preparation: MacvtapPreparation| {
            let refused = assigner.prepare(claim, &Preparation::Macvtap(preparation));
            let error = refused.unwrap_err();
            assert!(error.undo.is_empty());
            chain(&error)
        };
        // Somebody else's macvtap excludes a whole loan; so do addresses.
        run("ip link add link left name other type macvtap mode bridge");
        let whole = || assigner.claim(left, guest(1), Origin::Interface).unwrap();
        let passthrough = plain_macvtap(DirectMode::Passthrough, 1);
        let text = error(whole(), passthrough.clone());
        assert!(text.ends_with("it is in use: other sits on left"), "{text}");
        run("ip link delete other");
        run("ip address add 192.0.2.1/24 dev left");
        let text = error(whole(), passthrough.clone());
        assert!(
            text.ends_with("it is in use: left is up with 192.0.2.1/24"),
            "{text}"
        );
        run("ip address flush dev left");
        // A name that is taken, one that the kernel does not take, a bridge's member.
        let named = |text: &str| MacvtapPreparation {
            name: Some(name(text)),
            ..plain_macvtap(DirectMode::Bridge, 1)
        };
        let text = error(shared(), named("right"));
        assert!(
            text.ends_with("'right' already, a veth device of the host"),
            "{text}"
        );
        let small = MacvtapPreparation {
            mtu: Some(20),
            ..plain_macvtap(DirectMode::Bridge, 1)
        };
        let text = error(shared(), small);
        assert!(text.contains("68 to 65521"), "{text}");
        // Only the kernel says no to a multicast address.
        let multicast = MacvtapPreparation {
            mac: MacAddress::new([1, 0, 0, 0, 0, 1]),
            ..plain_macvtap(DirectMode::Bridge, 1)
        };
        let text = error(shared(), multicast);
        assert!(text.contains("(os error 99)"), "{text}");
        run("ip link set left master br0");
        let text = error(shared(), plain_macvtap(DirectMode::Bridge, 1));
        assert!(text.ends_with("'left' belongs to 'br0', so that no macvtap can share it"));
        run("ip link set left nomaster");
        assert_eq!(space.netdevs(), found);
        assert!(assigner.list().is_empty());
    });
}

#[test]
fn a_link_that_lost_its_record_is_found_by_its_tag_and_removed() {
    Namespace::run(|space| {
        let found = space.netdevs();
        let (assigner, _) = space.open();
        let lent = lend(
            &assigner,
            &Preparation::Macvtap(plain_macvtap(DirectMode::Vepa, 1)),
            1,
        );
        drop(assigner);
        std::fs::remove_file(space.record(&lent.item.to_string())).unwrap();
        let (assigner, _) = space.restart(|_| false);
        let differences = assigner.reconcile(|_| false);
        let [orphan @ Difference::OrphanedLink { .. }] = &differences[..] else {
            panic!("{differences:?}");
        };
        assigner.mend(orphan).unwrap();
        assert_eq!(space.netdevs(), found);
        assert_eq!(assigner.reconcile(|_| false), []);
    });
}

/// A router at the right end.
struct Router(std::os::fd::OwnedFd, u32);

impl Router {
    fn new(space: &Namespace) -> Self {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with, sockopt};
        run("ip addr add fe80::1/64 dev right nodad");
        let socket = socket_with(
            AddressFamily::INET6,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(ipproto::ICMPV6),
        )
        .unwrap();
        sockopt::set_ipv6_multicast_hops(&socket, 255).unwrap();
        Self(socket, space.host().netdev("right").unwrap().index)
    }

    /// Advertises itself, and the prefix 2001:db8:5::/64.
    fn advertise(&self) {
        let mut message = vec![134, 0, 0, 0, 64, 0, 0x07, 0x08];
        message.extend([0; 8]);
        message.extend([3, 4, 64, 0xc0]);
        for number in [86_400_u32, 14_400, 0] {
            message.extend(number.to_be_bytes());
        }
        let prefix: std::net::Ipv6Addr = "2001:db8:5::".parse().unwrap();
        message.extend(prefix.octets());
        let all = std::net::SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, self.1);
        rustix::net::sendto(&self.0, &message, rustix::net::SendFlags::empty(), &all).unwrap();
    }

    /// Advertises until the left end has heard it that many times more.
    fn is_heard(&self, times: u64) {
        let heard = || {
            let told = std::fs::read_to_string("/proc/thread-self/net/dev_snmp6/left").unwrap();
            let line = told
                .lines()
                .find(|line| line.starts_with("Icmp6InRouterAdvertisements"));
            let number = line.and_then(|line| line.split_whitespace().last());
            number.map_or(0, |number| number.parse::<u64>().unwrap())
        };
        let before = heard();
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while heard() < before + times {
            assert!(std::time::Instant::now() < patience, "nothing is heard");
            self.advertise();
            std::thread::yield_now();
        }
    }
}

fn addresses() -> String {
    run("ip -6 -o addr show dev left") + &run("ip -6 route show dev left")
}

#[test]
fn what_is_up_for_a_guest_only_gets_no_address_from_a_router() {
    Namespace::run(|space| {
        let (assigner, host) = (space.open().0, space.host());
        let router = Router::new(space);
        router.is_heard(3);
        assert!(addresses().contains("2001:db8:5:"), "{}", addresses());
        for mode in [DirectMode::Bridge, DirectMode::Passthrough] {
            let left = host.netdev("left").unwrap();
            host.set_up(left.index, false).unwrap();
            assert_eq!(addresses(), "");
            let found = (space.netdevs(), host.ipv6_autoconf(left.index).unwrap());
            let lent = lend(&assigner, &Preparation::Macvtap(plain_macvtap(mode, 1)), 1);
            assigner.set_link_state(lent.generation, true).unwrap();
            router.is_heard(3);
            assert_eq!(addresses(), "", "{mode:?}");
            let name = link(&lent).name;
            assert_eq!(run(&format!("ip -6 -o addr show dev {name}")), "");
            assigner.give_back(lent.generation).unwrap();
            let now = (space.netdevs(), host.ipv6_autoconf(left.index).unwrap());
            assert_eq!(now, found);
            assert_eq!(addresses(), "", "{mode:?}");
        }
    });
}
