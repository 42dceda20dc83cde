//! Taps that go to another place while their guests run.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod common;

use assign::{
    Assigner, ChangeError, Finding, Generation, Preparation, SeatOwner, TapPreparation, TapSeat,
};
use common::scenes::{Scene, name, tap};
use common::{Machine, chain, guest, managed, until_crash};
use conf::Uuid;
use host::{BridgePort, BridgeVlan, Effect, Fault, Links, NetdevSnapshot, Operation};

const EIO: i32 = 5;

fn machine() -> Machine {
    let machine = Machine::with_links("vfs=2");
    machine.host.add_bridge("br1").unwrap();
    machine
}

fn access(id: u16) -> Vec<BridgeVlan> {
    vec![BridgeVlan {
        id,
        pvid: true,
        untagged: true,
    }]
}

fn seat(bridge: &str, vlan: Option<u16>) -> TapSeat {
    TapSeat {
        bridge: name(bridge),
        port: BridgePort {
            vlans: vlan.map(access),
            ..BridgePort::default()
        },
        static_mac: false,
        mtu: None,
    }
}

fn isolated(seat: TapSeat) -> TapSeat {
    let port = BridgePort {
        isolated: Some(true),
        ..seat.port
    };
    TapSeat { port, ..seat }
}

/// With the table in our hands.
fn ours(seat: TapSeat) -> TapSeat {
    let port = BridgePort {
        learning: Some(false),
        unicast_flood: Some(false),
        ..seat.port
    };
    TapSeat {
        port,
        static_mac: true,
        ..seat
    }
}

/// Lends a tap that stands so, to a guest that runs.
fn lent(machine: &Machine, assigner: &Assigner, at: &TapSeat) -> Generation {
    let preparation = Preparation::Tap(TapPreparation {
        name: None,
        bridge: Some(at.bridge),
        port: at.port.clone(),
        static_mac: at.static_mac,
        existing: false,
        bandwidth: None,
        ..tap(1)
    });
    let claim = Scene::Bridge.claim(assigner, machine, 1).unwrap();
    let lent = assigner.prepare(claim, &preparation).unwrap();
    let generation = lent.generation;
    // QEMU has its queues.
    std::mem::forget(lent);
    assigner.set_link_state(generation, true).unwrap();
    generation
}

fn owner(n: u128) -> SeatOwner {
    SeatOwner {
        network: Some(format!("net{n}")),
        port: Some(Uuid::from_u128(n)),
    }
}

/// The tap as it stands, and the name of its bridge.
fn stands(machine: &Machine, assigner: &Assigner) -> (String, NetdevSnapshot) {
    let [line] = assigner.of_guest(guest(1).guest).try_into().unwrap();
    let mut snapshot = machine.host.snapshot().netdevs[line.netdev.unwrap().as_str()].clone();
    // Each journal marks its own.
    assert!(snapshot.netdev.alias.take().is_some());
    let all = machine.host.netdevs().unwrap();
    let master = snapshot.netdev.master.unwrap();
    let bridge = all.into_iter().find(|one| one.index == master).unwrap();
    (bridge.name.to_string(), snapshot)
}

fn places() -> Vec<TapSeat> {
    vec![
        seat("br0", None),
        seat("br0", Some(7)),
        seat("br0", Some(8)),
        isolated(seat("br0", Some(8))),
        isolated(seat("br1", None)),
        ours(seat("br1", Some(7))),
        seat("br1", Some(7)),
        ours(isolated(seat("br0", None))),
    ]
}

#[test]
fn from_any_place_to_any_other_it_stands_as_if_it_had_been_made_there() {
    for from in places() {
        for to in places() {
            let machine = machine();
            let assigner = machine.start();
            lent(&machine, &assigner, &to);
            let (bridge, expected) = stands(&machine, &assigner);

            let machine = self::machine();
            let assigner = machine.start();
            let found = machine.host.snapshot();
            let generation = lent(&machine, &assigner, &from);
            (assigner.move_tap(generation, Some(&from), &to, owner(5), true)).unwrap();
            assert_eq!(
                stands(&machine, &assigner),
                (bridge, expected),
                "{from:?} {to:?}"
            );
            let [line] = assigner.of_guest(guest(1).guest).try_into().unwrap();
            assert_eq!(line.bridge, Some(to.bridge));
            assert_eq!(line.holder.port, owner(5).port);
            // Nobody else did it; and the next daemon knows.
            assert_eq!(assigner.reconcile(|_| true), []);
            let (assigner, findings) = machine.restart(|_| true);
            assert!(findings.is_empty(), "{findings:?}");
            assert_eq!(assigner.reconcile(|_| true), []);
            let [line] = assigner.of_guest(guest(1).guest).try_into().unwrap();
            assert_eq!(line.holder.network, owner(5).network);
            assigner.give_back(generation).unwrap();
            assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
        }
    }
}

#[test]
fn one_that_stays_in_its_bridge_is_never_off() {
    let machine = machine();
    let assigner = machine.start();
    let (from, to) = (seat("br0", Some(7)), isolated(seat("br0", Some(8))));
    let generation = lent(&machine, &assigner, &from);
    let before = machine.host.effects().len();
    (assigner.move_tap(generation, Some(&from), &to, owner(1), true)).unwrap();
    let effects = machine.host.effects();
    assert!(matches!(&effects[before..], [Effect::BridgePort(..)]));
}

#[test]
fn one_that_leaves_its_bridge_is_off_until_it_stands_as_it_must() {
    let machine = machine();
    let assigner = machine.start();
    let (from, to) = (seat("br0", None), ours(seat("br1", Some(8))));
    let generation = lent(&machine, &assigner, &from);
    let before = machine.host.effects().len();
    (assigner.move_tap(generation, Some(&from), &to, owner(1), true)).unwrap();
    let effects = machine.host.effects();
    assert!(matches!(
        &effects[before..],
        [
            Effect::LinkUp(_, false),
            Effect::Master(_, None),
            Effect::Master(_, Some(_)),
            Effect::BridgePort(..),
            Effect::BridgeMac(..),
            Effect::LinkUp(_, true),
        ]
    ));
}

#[test]
fn a_guest_that_is_halted_is_not_in_the_table() {
    let machine = machine();
    let assigner = machine.start();
    let (from, to) = (seat("br0", None), ours(seat("br1", None)));
    let generation = lent(&machine, &assigner, &from);
    (assigner.move_tap(generation, Some(&from), &to, owner(1), false)).unwrap();
    let macs = |machine: &Machine| stands(machine, &assigner).1.bridge_macs;
    assert!(macs(&machine).is_empty());
    assigner.set_link_state(generation, true).unwrap();
    assert_eq!(macs(&machine), [common::mac(1)]);
}

#[test]
fn a_move_that_fails_anywhere_ends_where_it_began() {
    for (from, to) in [
        (seat("br0", None), ours(isolated(seat("br1", Some(7))))),
        (ours(seat("br0", Some(7))), seat("br0", None)),
        (ours(seat("br0", Some(7))), isolated(seat("br0", Some(8)))),
    ] {
        let mut failed = 0;
        for nth in 1.. {
            let machine = machine();
            let assigner = machine.start();
            let generation = lent(&machine, &assigner, &from);
            let before = stands(&machine, &assigner);
            let holder = assigner.of_guest(guest(1).guest)[0].holder.clone();
            machine.host.fail(Fault::any(EIO).nth(nth));
            let moved = assigner.move_tap(generation, Some(&from), &to, owner(9), true);
            machine.host.heal();
            let Err(error) = moved else {
                break;
            };
            failed += 1;
            assert!(chain(&error).contains("web1"), "{error}");
            assert_eq!(stands(&machine, &assigner), before, "{nth}: {error}");
            assert_eq!(assigner.of_guest(guest(1).guest)[0].holder, holder);
            assert_eq!(assigner.reconcile(|_| true), []);
        }
        assert!(failed > 3, "{failed}");
    }
}

#[test]
fn a_step_that_fails_and_is_done_all_the_same_is_undone() {
    let (from, to) = (seat("br0", Some(7)), isolated(seat("br1", None)));
    for operation in [
        Operation::SetUp,
        Operation::SetMaster,
        Operation::SetBridgePort,
    ] {
        let machine = machine();
        let assigner = machine.start();
        let generation = lent(&machine, &assigner, &from);
        let before = stands(&machine, &assigner);
        machine.host.fail(Fault::of(operation, EIO).partial());
        (assigner.move_tap(generation, Some(&from), &to, owner(9), true)).unwrap_err();
        assert_eq!(stands(&machine, &assigner), before, "{operation:?}");
    }
}

#[test]
fn what_can_not_be_recorded_is_not_moved() {
    let machine = machine();
    let assigner = machine.start();
    let (from, to) = (seat("br0", None), seat("br1", None));
    let generation = lent(&machine, &assigner, &from);
    let before = stands(&machine, &assigner);
    let aside = machine.directory.path().join("aside");
    std::fs::rename(machine.journal(), &aside).unwrap();
    std::fs::write(machine.journal(), "in the way").unwrap();
    (assigner.move_tap(generation, Some(&from), &to, owner(9), true)).unwrap_err();
    std::fs::remove_file(machine.journal()).unwrap();
    std::fs::rename(aside, machine.journal()).unwrap();
    assert_eq!(stands(&machine, &assigner), before);
    assert_eq!(assigner.reconcile(|_| true), []);
}

#[test]
fn a_move_that_a_crash_cut_short_is_done_again_or_given_back() {
    let (from, to) = (seat("br0", None), ours(seat("br1", Some(7))));
    for effects in 0.. {
        let machine = machine();
        let assigner = machine.start();
        let found = machine.host.snapshot();
        let generation = lent(&machine, &assigner, &from);
        machine.host.crash_after(effects);
        let done = until_crash(|| assigner.move_tap(generation, Some(&from), &to, owner(2), true))
            .is_some();
        // Where it stands is told, and mended by whoever knows where it is to be.
        let (assigner, findings) = machine.restart(|_| true);
        let is_told = |finding: &Finding| matches!(finding, Finding::Differs { .. });
        assert!(findings.iter().all(is_told), "{findings:?}");
        (assigner.move_tap(generation, None, &to, owner(2), true)).unwrap();
        assert_eq!(stands(&machine, &assigner).0, "br1");
        assert_eq!(assigner.reconcile(|_| true), [], "{effects}");
        let (_, findings) = machine.restart(|_| false);
        assert!(matches!(findings.as_slice(), [Finding::GivenBack { .. }]));
        assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
        if done {
            assert!(effects > 3);
            return;
        }
    }
}

#[test]
fn only_a_tap_of_ours_in_a_bridge_is_moved() {
    let machine = machine();
    let assigner = machine.start();
    let (from, to) = (seat("br0", None), seat("br1", None));
    let vf = common::lend(&assigner, machine.vf(0), 1, &managed(None)).unwrap();
    let refused = assigner.move_tap(vf.generation, Some(&from), &to, owner(1), true);
    assert!(
        matches!(refused, Err(ChangeError::NoSuchSetting { .. })),
        "{refused:?}"
    );
    assigner.give_back(vf.generation).unwrap();
    let generation = lent(&machine, &assigner, &from);
    let before = stands(&machine, &assigner);
    for (bridge, part) in [("br9", "br9"), ("eth0", "no bridge")] {
        let refused =
            assigner.move_tap(generation, Some(&from), &seat(bridge, None), owner(1), true);
        let text = chain(&refused.unwrap_err());
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(stands(&machine, &assigner), before);
}
