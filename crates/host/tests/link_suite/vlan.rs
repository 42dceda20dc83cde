//! What every host keeps to with VLAN devices, where its kernel has them.

use conf::DirectMode;
use host::{Netdev, VlanId, VlanSpec, tag};

use super::{Check, EEXIST, Subject};

const ENETDOWN: i32 = 100;
const ERANGE: i32 = 34;

/// As [`super::CHECKS`].
pub(crate) const VLAN_CHECKS: &[(&str, Check)] = &[
    ("a VLAN device comes and goes", comes_and_goes),
    ("a device has one of each VLAN", there_is_one_of_each),
    (
        "a VLAN device is up only while the one below is",
        is_up_with_what_is_below,
    ),
    ("no MTU is above that below", mtu_is_not_above),
    ("a macvtap stands on a VLAN device", carries_macvtaps),
];

fn id(id: u16) -> VlanId {
    id.try_into().unwrap()
}

fn spec(subject: &Subject<'_>, name: &str, number: u16) -> VlanSpec {
    VlanSpec {
        name: name.parse().unwrap(),
        lower: subject.nic().index,
        id: id(number),
        tag: tag(conf::Uuid::nil(), name),
    }
}

fn make(subject: &Subject<'_>, name: &str, number: u16) -> Netdev {
    (subject.host.make_vlan(&spec(subject, name, number))).unwrap()
}

fn comes_and_goes(subject: &Subject<'_>) {
    let nic = subject.nic();
    let made = make(subject, "linkvlan.42", 42);
    assert_eq!(subject.host.netdev("linkvlan.42").unwrap(), made);
    assert_eq!(
        (made.kind.as_deref(), made.vlan),
        (Some("vlan"), Some(id(42)))
    );
    assert_eq!((made.lower, made.mac), (Some(nic.index), nic.mac));
    assert_eq!((made.state.mtu, made.state.up), (nic.state.mtu, false));
    assert!(made.is_ours() && made.pci.is_none());
    assert_eq!(nic.vlan, None);
    // Ours are no use of what is below.
    assert_eq!(subject.host.netdev_usage(&nic).unwrap(), []);
    subject.delete(&made);
}

fn there_is_one_of_each(subject: &Subject<'_>) {
    let made = make(subject, "linkvlan1", 42);
    for (name, number) in [("linkvlan2", 42), ("linkvlan1", 43)] {
        let error = (subject.host.make_vlan(&spec(subject, name, number))).unwrap_err();
        assert_eq!(error.errno(), Some(EEXIST), "{error:?}");
    }
    let other = make(subject, "linkvlan2", 43);
    subject.delete(&made);
    subject.delete(&other);
    let mut nowhere = spec(subject, "linkvlan1", 42);
    nowhere.lower = u32::MAX >> 1;
    assert!(subject.host.make_vlan(&nowhere).is_err());
}

fn is_up_with_what_is_below(subject: &Subject<'_>) {
    let (host, nic) = (subject.host, subject.nic());
    let made = make(subject, "linkvlan1", 42);
    let is_up = || host.netdev("linkvlan1").unwrap().state.up;
    host.set_up(nic.index, false).unwrap();
    let error = host.set_up(made.index, true).unwrap_err();
    assert_eq!(error.errno(), Some(ENETDOWN), "{error:?}");
    host.set_up(nic.index, true).unwrap();
    host.set_up(made.index, true).unwrap();
    assert!(is_up());
    host.set_up(nic.index, false).unwrap();
    assert!(!is_up());
    host.set_up(nic.index, true).unwrap();
    assert!(is_up());
    subject.delete(&made);
    host.set_up(nic.index, nic.state.up).unwrap();
}

fn mtu_is_not_above(subject: &Subject<'_>) {
    let (host, nic) = (subject.host, subject.nic());
    let made = make(subject, "linkvlan1", 42);
    let error = host.set_mtu(made.index, nic.state.mtu + 1).unwrap_err();
    assert_eq!(error.errno(), Some(ERANGE), "{error:?}");
    host.set_mtu(nic.index, nic.state.mtu - 200).unwrap();
    let now = host.netdev("linkvlan1").unwrap().state.mtu;
    assert_eq!(now, nic.state.mtu - 200, "it follows what is below");
    host.set_mtu(nic.index, nic.state.mtu).unwrap();
    host.set_mtu(made.index, nic.state.mtu).unwrap();
    subject.delete(&made);
}

fn carries_macvtaps(subject: &Subject<'_>) {
    let made = make(subject, "linkvlan1", 42);
    let mut spec = subject.spec("linktest1", DirectMode::Bridge);
    spec.lower = made.index;
    let macvtap = subject.host.make_macvlan(&spec).unwrap();
    assert_eq!(macvtap.lower, Some(made.index));
    subject.delete(&made);
    assert!(subject.host.netdev("linktest1").is_err(), "it went along");
}
