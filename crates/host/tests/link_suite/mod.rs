//! What every host keeps to with network devices for guests: the same checks for the simulated
//! host and for the real kernel.

#[allow(dead_code, reason = "not every machine's kernel has VLAN devices")]
mod vlan;

use std::os::fd::AsFd;

use conf::{DirectMode, MacAddress};
use host::{
    BridgePort, Host, HostError, HostEvent, HostEvents, Ipv6Autoconf, MacvlanSpec, Netdev,
    RxFilter, TapQueues, TapSpec, Usage, tag,
};

#[allow(unused_imports, reason = "not every machine's kernel has VLAN devices")]
pub(crate) use vlan::VLAN_CHECKS;

const EEXIST: i32 = 17;
const ENODEV: i32 = 19;
const EINVAL: i32 = 22;
const EBUSY: i32 = 16;
const EADDRINUSE: i32 = 98;
const EADDRNOTAVAIL: i32 = 99;

/// A host with a NIC that nothing uses, and a bridge without ports.
pub(crate) struct Subject<'a> {
    pub(crate) host: &'a dyn Host,
    pub(crate) nic: &'a str,
    pub(crate) bridge: &'a str,
}

/// One thing that holds.
pub(crate) type Check = fn(&Subject<'_>);

/// All checks by name. Each leaves the host as it found it.
pub(crate) const CHECKS: &[(&str, Check)] = &[
    ("a device is listed and found by its name", is_found),
    ("a device that is not there is named", missing_is_named),
    (
        "a macvtap comes and goes in each mode",
        macvtap_comes_and_goes,
    ),
    ("a name is given once", names_are_given_once),
    ("passthrough is alone", passthrough_is_alone),
    ("in passthrough there is one MAC", passthrough_has_one_mac),
    ("two that are up have two MACs", macs_are_given_once),
    ("no MTU is above that below", mtu_is_not_above),
    ("ours are no use of what is below", ours_are_no_use),
    ("others are a use of what is below", others_are_a_use),
    ("a tap goes with its last queue", tap_goes_with_its_queues),
    (
        "a device joins a bridge and leaves it",
        bridge_is_joined_and_left,
    ),
    ("a bridge port is set as far as is asked", port_is_set),
    ("what is let in is read back", filter_is_read_back),
    (
        "how IPv6 addresses come is set and read back",
        ipv6_is_read_back,
    ),
    (
        "a guest's link has no IPv6 address of the host's",
        links_have_no_ipv6,
    ),
    ("a bridge's device carries no macvtap", bridge_listens_alone),
    ("a device is removed under its name only", name_is_minded),
    ("what is gone has no settings", gone_is_refused),
];

impl Subject<'_> {
    fn nic(&self) -> Netdev {
        self.host.netdev(self.nic).unwrap()
    }

    fn spec(&self, name: &str, mode: DirectMode) -> MacvlanSpec {
        MacvlanSpec {
            name: name.parse().unwrap(),
            lower: self.nic().index,
            mode,
            mac: mac(name.bytes().last().unwrap()),
            mtu: None,
            tap: true,
            tag: tag(conf::Uuid::nil(), name),
        }
    }

    fn make(&self, name: &str, mode: DirectMode) -> Netdev {
        self.host.make_macvlan(&self.spec(name, mode)).unwrap()
    }

    fn delete(&self, netdev: &Netdev) {
        self.host.delete_link(netdev.index, netdev.name).unwrap();
        let error = self.host.netdev(netdev.name.as_str()).unwrap_err();
        assert!(matches!(error, HostError::NoNetdev(_)), "{error}");
    }

    /// A tap in the bridge, with its queue, which keeps it.
    fn port(&self) -> (Netdev, impl AsFd) {
        let (tap, mut fds) = self.host.make_tap(&tap("linktap1", 1)).unwrap();
        let bridge = self.host.netdev(self.bridge).unwrap().index;
        self.host.set_master(tap.index, Some(bridge)).unwrap();
        (self.host.netdev("linktap1").unwrap(), fds.remove(0))
    }
}

fn mac(last: u8) -> MacAddress {
    MacAddress::new([0x52, 0x54, 0, 0xcc, 0xdd, last])
}

fn tap(name: &str, count: u16) -> TapSpec {
    TapSpec {
        name: name.parse().unwrap(),
        mac: mac(name.bytes().last().unwrap()),
        mtu: None,
        queues: TapQueues {
            count,
            vnet_hdr: true,
        },
        tag: tag(conf::Uuid::nil(), name),
    }
}

const SHARED: [DirectMode; 3] = [DirectMode::Vepa, DirectMode::Private, DirectMode::Bridge];

fn is_found(subject: &Subject<'_>) {
    let nic = subject.nic();
    assert_eq!(nic.name.as_str(), subject.nic);
    let all = subject.host.netdevs().unwrap();
    assert!(all.contains(&nic));
    assert!(all.is_sorted_by_key(|netdev| netdev.index));
    assert!(!nic.mac.is_zero() && !nic.is_ours());
    let bridge = subject.host.netdev(subject.bridge).unwrap();
    assert_eq!(bridge.kind.as_deref(), Some("bridge"));
    assert_eq!(subject.host.netdev_usage(&nic).unwrap(), []);
}

fn missing_is_named(subject: &Subject<'_>) {
    for name in ["nosuchdev", "", "a-name-that-is-longer-than-any"] {
        let error = subject.host.netdev(name).unwrap_err();
        assert!(matches!(&error, HostError::NoNetdev(named) if named == name));
    }
}

fn macvtap_comes_and_goes(subject: &Subject<'_>) {
    let queues = TapQueues {
        count: 4,
        vnet_hdr: true,
    };
    for mode in SHARED {
        let spec = subject.spec("linktest1", mode);
        let mut events = subject.host.watch().unwrap();
        let made = subject.host.make_macvlan(&spec).unwrap();
        assert_eq!(subject.host.netdev("linktest1").unwrap(), made);
        assert_eq!((made.mac, made.lower), (spec.mac, Some(spec.lower)));
        assert_eq!(made.alias.as_deref(), Some(spec.tag.as_str()));
        assert_eq!(made.state.mtu, subject.nic().state.mtu);
        assert!(made.is_ours() && !made.state.up);
        assert_eq!(made.kind.as_deref(), Some("macvtap"));
        let fds = subject.host.open_macvtap(&made, queues).unwrap();
        assert_eq!(fds.len(), 4);
        drop(fds);
        subject.host.set_up(made.index, true).unwrap();
        assert!(subject.host.netdev("linktest1").unwrap().state.up);
        subject.delete(&made);
        until_removed(&mut *events, "linktest1");
    }
}

fn names_are_given_once(subject: &Subject<'_>) {
    let made = subject.make("linktest1", DirectMode::Bridge);
    let spec = subject.spec("linktest1", DirectMode::Bridge);
    let error = subject.host.make_macvlan(&spec).unwrap_err();
    assert_eq!(error.errno(), Some(EEXIST), "{error:?}");
    let error = subject.host.make_tap(&tap("linktest1", 1)).unwrap_err();
    assert_eq!(error.errno(), Some(EEXIST), "{error:?}");
    assert_eq!(subject.host.netdev("linktest1").unwrap(), made);
    subject.delete(&made);
}

fn passthrough_is_alone(subject: &Subject<'_>) {
    let refused = |mode| {
        let error = subject.host.make_macvlan(&subject.spec("linktest2", mode));
        assert_eq!(error.unwrap_err().errno(), Some(EINVAL));
    };
    let shared = subject.make("linktest1", DirectMode::Bridge);
    let other = subject.make("linktest2", DirectMode::Vepa);
    subject.delete(&other);
    refused(DirectMode::Passthrough);
    subject.delete(&shared);
    let alone = subject.make("linktest1", DirectMode::Passthrough);
    refused(DirectMode::Passthrough);
    refused(DirectMode::Bridge);
    subject.delete(&alone);
}

fn passthrough_has_one_mac(subject: &Subject<'_>) {
    let nic = subject.nic();
    match subject.host.set_mac(nic.index, mac(9)) {
        // A VF whose PF gave it a MAC.
        Err(error) if error.errno() == Some(EADDRNOTAVAIL) => return,
        set => set.unwrap(),
    }
    let made = subject.make("linktest1", DirectMode::Passthrough);
    assert_eq!(made.mac, mac(9));
    subject.host.set_mac(made.index, mac(8)).unwrap();
    assert_eq!(subject.nic().mac, mac(8));
    subject.delete(&made);
    subject.host.set_mac(nic.index, nic.mac).unwrap();
    assert_eq!(subject.nic().mac, nic.mac);
    let group = MacAddress::new([1, 0, 0x5e, 0, 0, 1]);
    assert!(subject.host.set_mac(nic.index, group).is_err());
}

fn macs_are_given_once(subject: &Subject<'_>) {
    let first = subject.make("linktest1", DirectMode::Bridge);
    let mut spec = subject.spec("linktest2", DirectMode::Bridge);
    spec.mac = first.mac;
    let second = subject.host.make_macvlan(&spec).unwrap();
    subject.host.set_up(first.index, true).unwrap();
    let error = subject.host.set_up(second.index, true).unwrap_err();
    assert_eq!(error.errno(), Some(EADDRINUSE), "{error:?}");
    subject.host.set_mac(second.index, mac(7)).unwrap();
    subject.host.set_up(second.index, true).unwrap();
    subject.delete(&first);
    subject.delete(&second);
}

fn mtu_is_not_above(subject: &Subject<'_>) {
    let nic = subject.nic();
    let mut spec = subject.spec("linktest1", DirectMode::Bridge);
    spec.mtu = Some(nic.state.mtu + 1);
    let error = subject.host.make_macvlan(&spec).unwrap_err();
    assert_eq!(error.errno(), Some(EINVAL), "{error:?}");
    spec.mtu = Some(nic.state.mtu - 100);
    let made = subject.host.make_macvlan(&spec).unwrap();
    assert_eq!(Some(made.state.mtu), spec.mtu);
    let error = subject.host.set_mtu(made.index, nic.state.mtu + 1);
    assert_eq!(error.unwrap_err().errno(), Some(EINVAL));
    subject
        .host
        .set_mtu(nic.index, nic.state.mtu - 200)
        .unwrap();
    let now = subject.host.netdev("linktest1").unwrap().state.mtu;
    assert_eq!(now, nic.state.mtu - 200, "it follows what is below");
    subject.host.set_mtu(nic.index, nic.state.mtu).unwrap();
    subject.delete(&made);
}

fn ours_are_no_use(subject: &Subject<'_>) {
    let made = subject.make("linktest1", DirectMode::Bridge);
    assert_eq!(subject.host.netdev_usage(&subject.nic()).unwrap(), []);
    subject.delete(&made);
}

fn others_are_a_use(subject: &Subject<'_>) {
    let mut spec = subject.spec("linktest1", DirectMode::Bridge);
    (spec.tag, spec.tap) = (String::from("somebody's"), false);
    let made = subject.host.make_macvlan(&spec).unwrap();
    assert_eq!(made.kind.as_deref(), Some("macvlan"));
    let usage = Usage::Lower {
        netdev: subject.nic.to_owned(),
        upper: String::from("linktest1"),
    };
    assert_eq!(subject.host.netdev_usage(&subject.nic()).unwrap(), [usage]);
    subject.delete(&made);
}

fn tap_goes_with_its_queues(subject: &Subject<'_>) {
    let (made, mut fds) = subject.host.make_tap(&tap("linktap1", 3)).unwrap();
    assert_eq!(fds.len(), 3);
    assert_eq!(made.kind.as_deref(), Some("tun"));
    assert!(made.is_ours() && made.mac == mac(b'1') && !made.state.up);
    fds.truncate(1);
    assert_eq!(subject.host.netdev("linktap1").unwrap(), made);
    let mut events = subject.host.watch().unwrap();
    drop(fds);
    // The simulated host looks when it is asked something.
    subject.host.netdevs().unwrap();
    until_removed(&mut *events, "linktap1");
}

fn bridge_is_joined_and_left(subject: &Subject<'_>) {
    let (port, queue) = subject.port();
    let bridge = subject.host.netdev(subject.bridge).unwrap();
    assert_eq!(port.master, Some(bridge.index));
    let usage = Usage::Enslaved {
        netdev: String::from("linktap1"),
        master: subject.bridge.to_owned(),
    };
    assert_eq!(subject.host.netdev_usage(&port).unwrap(), [usage]);
    assert!(
        subject
            .host
            .set_master(port.index, Some(u32::MAX >> 1))
            .is_err()
    );
    assert!(
        subject
            .host
            .set_master(bridge.index, Some(bridge.index))
            .is_err()
    );
    subject.host.set_master(port.index, None).unwrap();
    let left = subject.host.netdev("linktap1").unwrap();
    assert_eq!(left.master, None);
    subject.delete(&left);
    drop(queue);
}

fn port_is_set(subject: &Subject<'_>) {
    let wanted = BridgePort {
        isolated: Some(true),
        unicast_flood: Some(false),
        ..BridgePort::default()
    };
    let nic = subject.nic().index;
    assert!(subject.host.set_bridge_port(nic, &wanted).is_err());
    assert!(subject.host.set_bridge_mac(nic, mac(3), true).is_err());
    let (port, queue) = subject.port();
    subject.host.set_bridge_port(port.index, &wanted).unwrap();
    for present in [true, true, false, false] {
        let set = subject.host.set_bridge_mac(port.index, mac(3), present);
        set.unwrap();
    }
    subject.delete(&port);
    drop(queue);
}

fn filter_is_read_back(subject: &Subject<'_>) {
    let made = subject.make("linktest1", DirectMode::Bridge);
    let group = |last| MacAddress::new([0x33, 0x33, 0xff, 0, 0, last]);
    let filters = [
        RxFilter {
            all_multicast: true,
            ..RxFilter::default()
        },
        RxFilter {
            promiscuous: true,
            all_multicast: false,
            multicast: vec![group(1), group(2)],
        },
        RxFilter {
            multicast: vec![group(2), group(3)],
            ..RxFilter::default()
        },
        RxFilter::default(),
    ];
    for filter in filters {
        subject.host.set_rx_filter(made.index, &filter).unwrap();
        assert_eq!(subject.host.rx_filter(made.index).unwrap(), filter);
    }
    subject.delete(&made);
}

fn ipv6_is_read_back(subject: &Subject<'_>) {
    let (host, nic) = (subject.host, subject.nic());
    let before = host.ipv6_autoconf(nic.index).unwrap().unwrap();
    assert_ne!(before, Ipv6Autoconf::NONE);
    let none = Ipv6Autoconf::NONE;
    host.set_addr_gen_mode(nic.index, none.addr_gen_mode)
        .unwrap();
    let now = host.ipv6_autoconf(nic.index).unwrap().unwrap();
    assert_eq!(
        now,
        Ipv6Autoconf {
            accept_ra: before.accept_ra,
            ..none
        }
    );
    host.set_accept_ra(nic.index, none.accept_ra).unwrap();
    assert_eq!(host.ipv6_autoconf(nic.index).unwrap(), Some(none));
    let refused = host.set_addr_gen_mode(nic.index, 99).unwrap_err();
    assert_eq!(refused.errno(), Some(EINVAL), "{refused}");
    host.set_addr_gen_mode(nic.index, before.addr_gen_mode)
        .unwrap();
    host.set_accept_ra(nic.index, before.accept_ra).unwrap();
    assert_eq!(host.ipv6_autoconf(nic.index).unwrap(), Some(before));
}

fn links_have_no_ipv6(subject: &Subject<'_>) {
    let mode = |netdev: &Netdev| {
        let told = subject.host.ipv6_autoconf(netdev.index).unwrap();
        told.unwrap().addr_gen_mode
    };
    let none = Ipv6Autoconf::NONE.addr_gen_mode;
    let macvtap = subject.make("linktap6", DirectMode::Bridge);
    assert_eq!(mode(&macvtap), none);
    subject.delete(&macvtap);
    let (tap, queue) = subject.port();
    assert_eq!(mode(&tap), none);
    drop(queue);
    // The host's own.
    let macvlan = MacvlanSpec {
        tap: false,
        ..subject.spec("linkvlan6", DirectMode::Bridge)
    };
    let macvlan = subject.host.make_macvlan(&macvlan).unwrap();
    assert_ne!(mode(&macvlan), none);
    subject.delete(&macvlan);
}

fn bridge_listens_alone(subject: &Subject<'_>) {
    let bridge = subject.host.netdev(subject.bridge).unwrap().index;
    let nic = subject.nic().index;
    subject.host.set_master(nic, Some(bridge)).unwrap();
    let spec = subject.spec("linktest1", DirectMode::Bridge);
    let error = subject.host.make_macvlan(&spec).unwrap_err();
    assert_eq!(error.errno(), Some(EBUSY), "{error:?}");
    subject.host.set_master(nic, None).unwrap();
    let made = subject.host.make_macvlan(&spec).unwrap();
    let error = subject.host.set_master(nic, Some(bridge)).unwrap_err();
    assert_eq!(error.errno(), Some(EBUSY), "{error:?}");
    subject.delete(&made);
}

fn name_is_minded(subject: &Subject<'_>) {
    let made = subject.make("linktest1", DirectMode::Bridge);
    let other = "linktest2".parse().unwrap();
    subject.host.delete_link(made.index, other).unwrap();
    assert_eq!(subject.host.netdev("linktest1").unwrap(), made);
    subject.delete(&made);
    subject.host.delete_link(made.index, made.name).unwrap();
}

fn gone_is_refused(subject: &Subject<'_>) {
    let gone = subject.make("linktest1", DirectMode::Bridge);
    subject.delete(&gone);
    let host = subject.host;
    let filter = RxFilter::default();
    for error in [
        host.set_up(gone.index, true).unwrap_err(),
        host.set_mac(gone.index, mac(1)).unwrap_err(),
        host.set_mtu(gone.index, 1500).unwrap_err(),
        host.rx_filter(gone.index).unwrap_err(),
        host.set_rx_filter(gone.index, &filter).unwrap_err(),
        host.netdev_counters(gone.index).unwrap_err(),
        host.netdev_usage(&gone).unwrap_err(),
    ] {
        assert_eq!(error.errno(), Some(ENODEV), "{error:?}");
    }
    let one = TapQueues {
        count: 1,
        vnet_hdr: false,
    };
    assert!(host.open_macvtap(&gone, one).is_err());
    let error = host.open_tap(gone.name, one).unwrap_err();
    assert!(matches!(error, HostError::NoNetdev(_)), "{error}");
}

fn until_removed(events: &mut dyn HostEvents, name: &str) {
    loop {
        match events.next().unwrap() {
            HostEvent::LinkRemoved { netdev, .. } if netdev == name => return,
            _ => {}
        }
    }
}
