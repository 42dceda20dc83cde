//! The VLAN devices on which macvtaps stand.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod common;

use std::sync::Arc;

use assign::{Assigner, Difference, Item, Lent, LentKind, MacvtapPreparation, Origin, Preparation};
use common::hooked::Hooked;
use common::scenes::{macvtap, name, qbh, vlan};
use common::{Machine, chain, guest, mac, until_crash};
use conf::DirectMode;
use host::{Host, HostError, Ipv6Autoconf, Links, Netdev, Usage};

/// A macvtap for that guest, in that VLAN of eth0.
fn asked(n: u32, id: u16) -> MacvtapPreparation {
    MacvtapPreparation {
        vlan: Some(vlan(id)),
        ..macvtap("eth0", DirectMode::Bridge, n)
    }
}

fn prepare(
    machine: &Machine,
    assigner: &Assigner,
    n: u32,
    preparation: MacvtapPreparation,
) -> Result<Lent, String> {
    let parent = Some(machine.device(preparation.lower.as_str()));
    let claim = assigner.claim_link(parent, guest(n), Origin::Interface);
    let prepared = assigner.prepare(claim.unwrap(), &Preparation::Macvtap(preparation));
    prepared.map_err(|error| chain(&error))
}

fn lend(machine: &Machine, assigner: &Assigner, n: u32, id: u16) -> Lent {
    prepare(machine, assigner, n, asked(n, id)).unwrap()
}

fn netdev(lent: &Lent) -> &Netdev {
    match &lent.kind {
        LentKind::Link { netdev, .. } => netdev,
        LentKind::Vfio { .. } | LentKind::Usb { .. } => panic!("{} is no link", lent.item),
    }
}

/// The VLAN device of ours on eth0.
fn ours(machine: &Machine, id: u16) -> Result<Netdev, HostError> {
    let eth0 = machine.host.netdev("eth0").unwrap().index;
    machine.host.netdev(&format!("vn{eth0}.{id}"))
}

fn steps(assigner: &Assigner, n: u32, id: u16) -> Vec<String> {
    let preparation = Preparation::Macvtap(asked(n, id));
    let plan = assigner.plan(Item::PLANNED_LINK, &guest(n), &preparation);
    let steps = plan.unwrap().steps;
    steps.iter().map(ToString::to_string).collect()
}

#[test]
fn guests_of_a_vlan_share_its_device_and_the_last_one_takes_it_along() {
    let machine = Machine::with_links("vfs=1");
    let assigner = machine.start();
    let found = machine.host.snapshot();
    let eth0 = machine.host.netdev("eth0").unwrap();
    let first = lend(&machine, &assigner, 1, 42);
    let second = lend(&machine, &assigner, 2, 42);
    let other = lend(&machine, &assigner, 3, 43);
    let device = ours(&machine, 42).unwrap();
    assert_eq!(
        (device.lower, device.vlan),
        (Some(eth0.index), Some(vlan(42)))
    );
    for lent in [&first, &second] {
        assert_eq!(netdev(lent).lower, Some(device.index));
    }
    assert_eq!(
        netdev(&other).lower,
        Some(ours(&machine, 43).unwrap().index)
    );
    // They count where they are claimed.
    assert_eq!(assigner.connections(machine.device("eth0")), 3);

    assigner.set_link_state(second.generation, true).unwrap();
    assert!(ours(&machine, 42).unwrap().state.up);
    assert_eq!(
        machine.host.ipv6_autoconf(device.index).unwrap(),
        Some(Ipv6Autoconf::NONE),
        "the host takes no address in the guests' VLAN"
    );
    assigner.give_back(first.generation).unwrap();
    assert_eq!(ours(&machine, 42).unwrap().index, device.index);
    assert!(machine.has(netdev(&second).name.as_str()));
    assigner.give_back(second.generation).unwrap();
    assert!(ours(&machine, 42).is_err() && ours(&machine, 43).is_ok());
    assigner.give_back(other.generation).unwrap();
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
}

#[test]
fn a_plan_says_whose_the_vlan_device_is() {
    let machine = Machine::with_links("vfs=1");
    machine.host.add_vlan("office", "eth0", vlan(7)).unwrap();
    let assigner = machine.start();
    let index = machine.host.netdev("eth0").unwrap().index;
    let effects = machine.host.effect_count();
    assert_eq!(
        steps(&assigner, 1, 42)[..2],
        [
            format!("make vn{index}.42 for VLAN 42 of eth0"),
            format!("make macvtap0 on vn{index}.42 in bridge mode"),
        ]
    );
    assert_eq!(
        steps(&assigner, 1, 7)[..2],
        [
            "use office, which the host has for VLAN 7 of eth0, and leave it as it is",
            "make macvtap0 on office in bridge mode",
        ]
    );
    assert_eq!(machine.host.effect_count(), effects);
    let _lent = lend(&machine, &assigner, 1, 42);
    assert_eq!(
        steps(&assigner, 2, 42)[0],
        format!("share vn{index}.42, which is there for VLAN 42 of eth0")
    );
}

#[test]
fn a_vlan_device_of_the_hosts_is_used_as_it_is_and_stays() {
    let machine = Machine::with_links("vfs=1");
    machine.host.add_vlan("office", "eth0", vlan(42)).unwrap();
    // An address on it is no hindrance.
    let addressed = Usage::Addressed {
        netdev: "office".to_owned(),
        address: "192.0.2.1/24".to_owned(),
    };
    machine.host.set_netdev_usage("office", vec![addressed]);
    let office = machine.host.netdev("office").unwrap();
    let assigner = machine.start();
    let found = machine.host.snapshot();
    let lent = lend(&machine, &assigner, 1, 42);
    assigner.set_link_state(lent.generation, true).unwrap();
    assert_eq!(netdev(&lent).lower, Some(office.index));
    assert!(ours(&machine, 42).is_err());
    assert_eq!(machine.host.netdev("office").unwrap(), office);
    assert_eq!(assigner.reconcile(|_| true), []);
    // Nor after a restart.
    drop(assigner);
    let (assigner, findings) = machine.restart(|_| true);
    assert!(findings.is_empty(), "{findings:?}");
    assigner.give_back(lent.generation).unwrap();
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
}

#[test]
fn what_can_not_carry_a_vlan_is_told_before_anything_is_made() {
    let refused = |set_up: &dyn Fn(&Machine), preparation: MacvtapPreparation| {
        let machine = Machine::with_links("vfs=1");
        set_up(&machine);
        let (assigner, found) = (machine.start(), machine.host.snapshot());
        let text = prepare(&machine, &assigner, 1, preparation).unwrap_err();
        assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
        assert!(assigner.list().is_empty() && machine.records().is_empty());
        text
    };
    let office = |machine: &Machine| {
        machine.host.add_vlan("office", "eth0", vlan(42)).unwrap();
    };
    let text = refused(
        &|machine| {
            office(machine);
            machine.host.put_up("office", false);
        },
        asked(1, 42),
    );
    assert!(
        text.ends_with("'office', which the host has for that VLAN, is down"),
        "{text}"
    );
    let text = refused(
        &|machine| {
            office(machine);
            machine.host.put_into("office", Some("br0"));
        },
        asked(1, 42),
    );
    assert!(
        text.ends_with("'office' belongs to 'br0', so that no macvtap can share it"),
        "{text}"
    );
    let text = refused(
        &|machine| {
            let eth0 = machine.host.netdev("eth0").unwrap().index;
            let name = format!("vn{eth0}.42");
            machine.host.add_netdev(&name, "dummy", None).unwrap();
        },
        asked(1, 42),
    );
    assert!(
        text.contains("VLAN 42 of 'eth0' is to be 'vn")
            && text.ends_with("of that name already, a dummy device of the host"),
        "{text}"
    );
    let text = refused(
        &|_| {},
        MacvtapPreparation {
            profile: Some(qbh()),
            ..asked(1, 42)
        },
    );
    assert!(text.ends_with("can have no VLAN beside it"), "{text}");
    let text = refused(
        &|machine| machine.host.put_into("eth0", Some("br0")),
        asked(1, 42),
    );
    assert!(text.contains("'eth0' belongs to 'br0'"), "{text}");
    // In passthrough mode the whole card is the guest's, which would be without a VLAN.
    let machine = Machine::with_links("vfs=1");
    let assigner = machine.start();
    let claim = assigner.claim(machine.device("eth0"), guest(1), Origin::Interface);
    let preparation = MacvtapPreparation {
        mode: DirectMode::Passthrough,
        ..asked(1, 42)
    };
    let refused = assigner.prepare(claim.unwrap(), &Preparation::Macvtap(preparation));
    let text = chain(&refused.unwrap_err());
    assert!(text.contains("'eth0' is no VF"), "{text}");
}

#[test]
fn macs_are_each_guests_own_in_one_vlan_and_may_come_again_in_another() {
    let machine = Machine::with_links("vfs=1");
    let assigner = machine.start();
    let with_mac = |n, id, mac| MacvtapPreparation {
        mac,
        ..asked(n, id)
    };
    let _first = lend(&machine, &assigner, 1, 42);
    let text = prepare(&machine, &assigner, 2, with_mac(2, 42, mac(1))).unwrap_err();
    assert!(text.contains("made for guest 'web1'"), "{text}");
    let other = prepare(&machine, &assigner, 2, with_mac(2, 43, mac(1))).unwrap();
    assigner.set_link_state(other.generation, true).unwrap();
    let own = machine.host.netdev("eth0").unwrap().mac;
    let text = prepare(&machine, &assigner, 3, with_mac(3, 44, own)).unwrap_err();
    assert!(text.contains("is that of 'eth0' itself"), "{text}");
}

#[test]
fn the_mtu_is_that_of_the_card() {
    let machine = Machine::with_links("vfs=1");
    let assigner = machine.start();
    let eth0 = machine.host.netdev("eth0").unwrap().index;
    let _first = lend(&machine, &assigner, 1, 42);
    assert_eq!(ours(&machine, 42).unwrap().state.mtu, 1500);
    machine.host.set_mtu(eth0, 9000).unwrap();
    let large = MacvtapPreparation {
        mtu: Some(9000),
        ..asked(2, 42)
    };
    let second = prepare(&machine, &assigner, 2, large).unwrap();
    assert_eq!(ours(&machine, 42).unwrap().state.mtu, 9000);
    assert_eq!(netdev(&second).state.mtu, 9000);
}

#[test]
fn a_vlan_device_and_a_card_are_known_again_under_other_names() {
    let machine = Machine::with_links("vfs=1");
    let assigner = machine.start();
    let found = machine.host.netdevs().unwrap().len();
    let lent = lend(&machine, &assigner, 1, 42);
    let device = ours(&machine, 42).unwrap();
    machine.host.rename_netdev("eth0", "uplink");
    machine.host.rename_netdev(device.name.as_str(), "tenants");
    assigner.set_link_state(lent.generation, true).unwrap();
    assert!(machine.host.netdev("tenants").unwrap().state.up);
    // The next guest finds it, too.
    let second = MacvtapPreparation {
        lower: name("uplink"),
        ..asked(2, 42)
    };
    let second = prepare(&machine, &assigner, 2, second).unwrap();
    assert_eq!(netdev(&second).lower, Some(device.index));
    assigner.give_back(lent.generation).unwrap();
    assert!(machine.has("tenants"));
    assigner.give_back(second.generation).unwrap();
    assert_eq!(machine.host.netdevs().unwrap().len(), found);
}

#[test]
fn a_vlan_device_that_the_host_has_begun_to_use_stays_until_it_is_free() {
    let machine = Machine::with_links("vfs=1");
    let assigner = machine.start();
    let found = machine.host.snapshot();
    let lent = lend(&machine, &assigner, 1, 42);
    let device = ours(&machine, 42).unwrap().name;
    let own = machine
        .host
        .add_netdev("mon0", "macvlan", Some(device.as_str()));
    assert!(own.is_some());
    assigner.give_back(lent.generation).unwrap();
    assert!(assigner.list().is_empty() && machine.records().is_empty());
    assert!(machine.has("mon0") && machine.has(device.as_str()));
    assert_eq!(assigner.reconcile(|_| true), []);
    machine.host.remove_netdev("mon0");
    let differences = assigner.reconcile(|_| true);
    let [unused @ Difference::UnusedVlan { .. }] = &differences[..] else {
        panic!("{differences:?}");
    };
    assert_eq!(
        unused.to_string(),
        format!("'{device}' was made for guests of VLAN 42, and none of them uses it")
    );
    // Somebody came before it was mended.
    let lent = lend(&machine, &assigner, 2, 42);
    assigner.mend(unused).unwrap();
    assert!(machine.has(device.as_str()));
    drop(assigner);
    std::fs::remove_file(machine.journal().join(&machine.records()[0])).unwrap();
    machine
        .host
        .delete_link(netdev(&lent).index, netdev(&lent).name)
        .unwrap();
    let (assigner, _) = machine.restart(|_| false);
    let differences = assigner.reconcile(|_| false);
    assert_eq!(differences.len(), 1, "{differences:?}");
    assert!(differences[0].is_safe());
    assigner.mend(&differences[0]).unwrap();
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
}

#[test]
fn another_daemons_vlan_device_is_not_ours() {
    let machine = Machine::with_links("vfs=1");
    let (assigner, found) = (machine.start(), machine.host.snapshot());
    let elsewhere = tempfile::tempdir().unwrap();
    let (other, _) = Assigner::open(
        Arc::new(machine.host.clone()),
        elsewhere.path().join("devices"),
        None,
    )
    .unwrap();
    let theirs = lend(&machine, &other, 1, 42);
    other.set_link_state(theirs.generation, true).unwrap();
    let mine = lend(&machine, &assigner, 2, 42);
    assigner.set_link_state(mine.generation, true).unwrap();
    assert_eq!(netdev(&mine).lower, netdev(&theirs).lower);
    // The one that made it leaves it to the other one, and says so once that has gone.
    other.give_back(theirs.generation).unwrap();
    assert!(machine.has(netdev(&mine).name.as_str()));
    assert_eq!(other.reconcile(|_| true), []);
    assigner.give_back(mine.generation).unwrap();
    assert!(ours(&machine, 42).is_ok());
    assert_eq!(assigner.reconcile(|_| true), []);
    let differences = other.reconcile(|_| true);
    assert_eq!(differences.len(), 1, "{differences:?}");
    other.mend(&differences[0]).unwrap();
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
}

/// What was planned is not so any more when it is done.
#[test]
fn a_vlan_device_that_comes_in_between_is_used() {
    let machine = Machine::with_links("vfs=1");
    let hooked = Hooked {
        before_vlan: {
            let host = machine.host.clone();
            Box::new(move || drop(host.add_vlan("office", "eth0", vlan(42))))
        },
        ..Hooked::plain(machine.host.clone())
    };
    let (assigner, _) = machine.open_with(Arc::new(hooked));
    let lent = lend(&machine, &assigner, 1, 42);
    let office = machine.host.netdev("office").unwrap();
    assert_eq!(netdev(&lent).lower, Some(office.index));
    assigner.give_back(lent.generation).unwrap();
    assert_eq!(machine.host.netdev("office").unwrap(), office);
}

#[test]
fn guests_that_come_and_go_at_once_agree_who_makes_it_and_who_removes_it() {
    let machine = Machine::with_links("vfs=1");
    machine.host.put_up("eth0", false);
    let assigner = machine.start();
    let found = machine.host.snapshot();
    std::thread::scope(|scope| {
        for n in 1..=4 {
            let (machine, assigner) = (&machine, &assigner);
            scope.spawn(move || {
                for _ in 0..60 {
                    let lent = lend(machine, assigner, n, 42);
                    assigner.set_link_state(lent.generation, true).unwrap();
                    let below = netdev(&lent).lower.unwrap();
                    let all = machine.host.netdevs().unwrap();
                    let device = all.iter().find(|netdev| netdev.index == below).unwrap();
                    assert_eq!(device.vlan, Some(vlan(42)));
                    assert!(device.state.up);
                    assert!(machine.has(netdev(&lent).name.as_str()));
                    assigner.give_back(lent.generation).unwrap();
                }
            });
        }
    });
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
    assert!(machine.records().is_empty());
}

#[test]
fn a_guest_killed_half_way_leaves_the_others_vlan_alone() {
    for effects in 1.. {
        let machine = Machine::with_links("vfs=1");
        let assigner = machine.start();
        let found = machine.host.snapshot();
        let kept = lend(&machine, &assigner, 1, 42);
        assigner.set_link_state(kept.generation, true).unwrap();
        let with_one = machine.host.snapshot();
        machine.host.crash_after(effects);
        let is_through = until_crash(|| {
            let lent = lend(&machine, &assigner, 2, 42);
            assigner.set_link_state(lent.generation, true).unwrap();
            assigner.give_back(lent.generation).unwrap();
        });
        std::mem::forget(assigner);
        let (assigner, _) = machine.restart(|id| id == guest(1).guest);
        assert_eq!(with_one.differences(&machine.host.snapshot()), [""; 0]);
        assigner.give_back(kept.generation).unwrap();
        assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
        if is_through.is_some() {
            assert!(effects > 4, "only {effects} crashes");
            break;
        }
    }
}

/// Two that were being lent when the daemon was killed, and a VLAN device that was made and not yet
/// tagged.
#[test]
fn what_a_crash_left_untagged_goes_with_the_last_record() {
    let machine = Machine::with_links("vfs=1");
    let found = machine.host.snapshot();
    let assigner = machine.start();
    machine.host.crash_after(1);
    assert!(until_crash(|| lend(&machine, &assigner, 1, 42)).is_none());
    std::mem::forget(assigner);
    machine.host.restart_caller();
    assert_eq!(ours(&machine, 42).unwrap().alias, None);
    let (assigner, findings) = machine.restart(|_| false);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
    drop(assigner);
    assert!(machine.records().is_empty());
}

#[test]
fn a_vf_can_carry_vlans_of_guests_that_share_it() {
    let machine = Machine::with_links("vfs=1");
    let assigner = machine.start();
    let found = machine.host.snapshot();
    let on_vf = MacvtapPreparation {
        lower: name("sim0v0"),
        ..asked(1, 42)
    };
    let lent = prepare(&machine, &assigner, 1, on_vf).unwrap();
    assigner.set_link_state(lent.generation, true).unwrap();
    let vf = machine.host.virtual_function(machine.vf(0)).unwrap();
    assert!(!machine.host.vf_usage(&vf).unwrap().is_empty());
    machine.host.remove_vf(machine.vf(0));
    assert!(assigner.give_back(lent.generation).unwrap().vanished);
    machine.host.restore_vf(machine.pf(), 0);
    assert!(assigner.list().is_empty() && machine.records().is_empty());
    let mut differences = found.differences(&machine.host.snapshot());
    differences.retain(|difference| !difference.starts_with(&machine.vf(0).to_string()));
    assert_eq!(differences, [""; 0]);
}
