//! Every single kernel operation fails in its turn, on the way there and on the way back.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod common;

use assign::{Phase, ReturnError};
use common::scenes::Scene;
use common::{Machine, chain, claim, item, lend, ordinary};
use host::{Fault, Operation};

const EIO: i32 = 5;

#[test]
fn whatever_fails_while_preparing_is_told_and_all_is_undone() {
    for scene in Scene::ALL {
        for partial in [false, true] {
            let failed = fail_each_while_preparing(scene, partial);
            // The fewest are taken to open a tap of somebody else's.
            assert!(failed >= 4, "{scene:?}: only {failed} operations failed");
            // Eight reads before the change, six settings, bind, read back, grant.
            assert!(failed >= 16 || scene != Scene::Vfio, "only {failed}");
        }
    }
}

/// How many operations there were to fail.
fn fail_each_while_preparing(scene: Scene, partial: bool) -> u32 {
    let mut failed = 0;
    for nth in 1.. {
        let machine = scene.machine();
        let assigner = machine.start();
        let found = machine.host.snapshot();
        let claim = scene.claim(&assigner, &machine, 1).unwrap();
        let item = claim.item();
        let fault = Fault::any(EIO).nth(nth);
        machine
            .host
            .fail(if partial { fault.partial() } else { fault });
        let prepared = assigner.prepare(claim, &scene.preparation(1));
        if machine.host.waiting_faults() > 0 {
            assert!(prepared.is_ok(), "{scene:?}");
            break;
        }
        let error = prepared.unwrap_err();
        let text = chain(&error);
        assert!(
            text.starts_with(&format!("cannot lend {} to guest 'web1': ", item.words())),
            "{scene:?}: {text}"
        );
        assert!(
            text.contains(" of ") && text.ends_with("(os error 5)"),
            "{scene:?}: {text}"
        );
        assert!(error.undo.is_empty(), "{scene:?}: {text}");
        assert_eq!(
            found.differences(&machine.host.snapshot()),
            [""; 0],
            "{scene:?}: {text}"
        );
        assert!(assigner.list().is_empty() && machine.records().is_empty());
        let claim = scene.claim(&assigner, &machine, 2).unwrap();
        let again = assigner.prepare(claim, &scene.preparation(2));
        assert!(again.is_ok(), "{scene:?}: {text}");
        failed += 1;
    }
    failed
}

#[test]
fn whatever_fails_on_the_way_back_it_is_back_or_kept_back() {
    for scene in Scene::ALL {
        let (overcome, kept_back) = fail_each_on_the_way_back(scene);
        assert!(
            overcome + kept_back > 1 || scene == Scene::Existing,
            "{scene:?}"
        );
        assert!(kept_back > 0, "{scene:?}: {overcome} overcome");
        assert!(overcome > 0 && kept_back > 5 || scene != Scene::Vfio);
    }
}

/// How many faults were overcome, and how many kept it back until the next attempt.
fn fail_each_on_the_way_back(scene: Scene) -> (u32, u32) {
    let (mut overcome, mut kept_back) = (0, 0);
    for nth in 1.. {
        let machine = scene.machine();
        let assigner = machine.start();
        let found = machine.host.snapshot();
        let claim = scene.claim(&assigner, &machine, 1).unwrap();
        let lent = assigner.prepare(claim, &scene.preparation(1)).unwrap();
        assigner.set_link_state(lent.generation, true).unwrap();
        machine.host.fail(Fault::any(EIO).nth(nth));
        let returned = assigner.give_back(lent.generation);
        if machine.host.waiting_faults() > 0 {
            assert!(returned.is_ok(), "{scene:?}");
            break;
        }
        if let Err(error) = returned {
            kept_back += 1;
            let text = chain(&error);
            assert!(text.contains("(os error 5)"), "{scene:?}: {text}");
            assert_eq!(machine.records().len(), 1, "{scene:?}: {text}");
            if scene.device(&machine).is_some() && !Scene::is_link(lent.item) {
                assert!(scene.claim(&assigner, &machine, 2).is_err());
            }
            assigner.give_back(lent.generation).unwrap();
        } else {
            overcome += 1;
        }
        assert_eq!(
            found.differences(&machine.host.snapshot()),
            [""; 0],
            "{scene:?}, fault {nth}"
        );
        assert!(assigner.list().is_empty() && machine.records().is_empty());
    }
    (overcome, kept_back)
}

/// What a first failure leaves half done, a second one may hide from its undoing.
#[test]
fn whatever_fails_after_a_failure_nothing_is_left_behind_in_the_end() {
    for scene in Scene::ALL {
        let mut kept_back = 0;
        for first in 1.. {
            let Some(more) = fail_each_after(scene, first) else {
                break;
            };
            kept_back += more;
        }
        assert!(kept_back > 0 || scene == Scene::Existing, "{scene:?}");
    }
}

/// Preparing fails half way through the operation of that number, and another one after it: how
/// many of those kept the item back. `None`: there are not so many operations.
fn fail_each_after(scene: Scene, first: u64) -> Option<u32> {
    let mut kept_back = 0;
    for second in first + 1.. {
        let machine = scene.machine();
        let assigner = machine.start();
        let found = machine.host.snapshot();
        let claim = scene.claim(&assigner, &machine, 1).unwrap();
        machine.host.fail(Fault::any(EIO).nth(first).partial());
        machine.host.fail(Fault::any(EIO).nth(second));
        let error = assigner.prepare(claim, &scene.preparation(1)).err()?;
        let is_last = machine.host.waiting_faults() > 0;
        machine.host.heal();
        for line in assigner.list() {
            kept_back += 1;
            assigner.give_back(line.generation).unwrap();
        }
        let mut differences = found.differences(&machine.host.snapshot());
        // Of a switch that refused an association nobody can tell whether it keeps it.
        differences.retain(|difference| !difference.starts_with("port profiles: "));
        assert_eq!(
            differences,
            [""; 0],
            "{scene:?}, faults {first} and {second}: {}",
            chain(&error)
        );
        assert!(assigner.list().is_empty() && machine.records().is_empty());
        if is_last {
            break;
        }
    }
    Some(kept_back)
}

#[test]
fn a_failed_undo_keeps_the_record_and_the_device() {
    let machine = Machine::new("vfs=2");
    let (assigner, vf) = (machine.start(), machine.vf(0));
    let found = machine.host.snapshot();
    machine.host.fail(Fault::of(Operation::GrantVfio, EIO));
    machine.host.fail(Fault::of(Operation::SetVlan, EIO).nth(2));
    machine.host.fail(Fault::of(Operation::Unbind, EIO));
    let error = lend(&assigner, vf, 1, &ordinary(1)).unwrap_err();
    let text = chain(&error);
    // The undo went on after each failure: the MAC, set before the VLAN, is back.
    assert_eq!(
        text,
        format!(
            "cannot lend {vf} to guest 'web1', nor restore it (\
             giving back of VF 0 of 'sim0' ({vf}): Input/output error (os error 5); \
             setting the VLAN of VF 0 of 'sim0' ({vf}): Input/output error (os error 5); \
             it had no VLAN, and has VLAN 42; \
             it had driver simvf, and has driver vfio-pci; \
             it had a network device with MAC 3a:5d:00:00:00:01, and has no network device): \
             granting the vfio group of the simulated host: Input/output error (os error 5)"
        )
    );
    let [line] = &assigner.list()[..] else {
        panic!("the device is not on the list");
    };
    assert!(matches!(&line.phase, Phase::Dirty(reasons) if reasons.len() == 5));
    assert_eq!(assigner.barred()[0].0, item(vf));
    let refused = claim(&assigner, vf, 2).unwrap_err();
    assert!(
        refused
            .to_string()
            .starts_with(&format!("device {vf} is kept back: "))
    );
    assert_eq!(machine.records().len(), 1);
    // Its neighbour is not affected, and a second attempt mends it.
    assert!(lend(&assigner, machine.vf(1), 2, &ordinary(2)).is_ok());
    let generation = line.generation;
    assigner.give_back(generation).unwrap();
    let differences = found.differences(&machine.host.snapshot());
    assert!(
        differences
            .iter()
            .all(|line| !line.starts_with(&vf.to_string()))
    );
    assert!(claim(&assigner, vf, 2).is_ok());
}

#[test]
fn a_dirty_device_is_retried_at_the_next_start() {
    let machine = Machine::new("vfs=1");
    let (assigner, vf) = (machine.start(), machine.vf(0));
    let found = machine.host.snapshot();
    let lent = lend(&assigner, vf, 1, &ordinary(1)).unwrap();
    machine
        .host
        .fail(Fault::of(Operation::Unbind, EIO).always());
    let error = assigner.give_back(lent.generation).unwrap_err();
    assert!(matches!(error, ReturnError::Dirty { .. }));
    drop(assigner);
    // Still failing, and the guest runs again, elsewhere: this device is none of its.
    let (assigner, findings) = machine.restart(|_| true);
    assert!(
        findings[0].to_string().contains("could not be restored"),
        "{}",
        findings[0]
    );
    assert!(!assigner.barred().is_empty());
    drop(assigner);
    machine.host.heal();
    let (assigner, findings) = machine.restart(|_| true);
    assert_eq!(
        findings[0].to_string(),
        format!("{vf} was given back: guest 'web1' is gone")
    );
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
    assert!(assigner.list().is_empty() && machine.records().is_empty());
}

/// What undoing takes.
const UNDOING: [Operation; 12] = [
    Operation::SetMac,
    Operation::SetVlan,
    Operation::SetRate,
    Operation::SetTrust,
    Operation::Unbind,
    Operation::SetNetdevMac,
    Operation::SetMtu,
    Operation::SetUp,
    Operation::DeleteLink,
    Operation::SetBandwidth,
    Operation::PortProfile,
    Operation::ReadNetdev,
];

/// Each single thing that undoing takes refuses for good, after each kind of operation failed on
/// the way there.
#[test]
fn whatever_cannot_be_undone_keeps_its_record_until_it_can() {
    let (mut clean, mut dirty) = (0, 0);
    for scene in Scene::ALL {
        for undoing in UNDOING {
            let machine = scene.machine();
            let assigner = machine.start();
            let found = machine.host.snapshot();
            let claim = scene.claim(&assigner, &machine, 1).unwrap();
            let lent = assigner.prepare(claim, &scene.preparation(1)).unwrap();
            assigner.set_link_state(lent.generation, true).unwrap();
            machine.host.fail(Fault::of(undoing, EIO).always());
            match assigner.give_back(lent.generation) {
                Ok(_) => clean += 1,
                Err(error) => {
                    dirty += 1;
                    let text = chain(&error);
                    assert!(
                        text.contains("(os error 5)"),
                        "{scene:?}, {undoing:?}: {text}"
                    );
                    let [line] = &assigner.list()[..] else {
                        panic!("{scene:?}, {undoing:?}: it is off the list");
                    };
                    assert!(matches!(line.phase, Phase::Dirty(_)));
                    assert_eq!(assigner.barred()[0].0, lent.item);
                    assert_eq!(machine.records(), [format!("{}.json", lent.item)]);
                    // Nor does a new start make it anybody's.
                    machine.host.restart_caller();
                    let (again, _) = machine.open();
                    again.recover(|_| true);
                    // A macvtap that could not be removed goes when its VF is bound anew.
                    let goes = (Scene::PassthroughLockedVf, Operation::DeleteLink);
                    let is_kept = (scene, undoing) != goes;
                    assert_eq!(again.barred().len() == 1, is_kept, "{scene:?}, {undoing:?}");
                    machine.host.heal();
                    if is_kept {
                        again.give_back(lent.generation).unwrap();
                    }
                    assert!(again.list().is_empty());
                }
            }
            machine.host.heal();
            assert_eq!(
                found.differences(&machine.host.snapshot()),
                [""; 0],
                "{scene:?}, {undoing:?}"
            );
            assert!(machine.records().is_empty());
        }
    }
    assert!(clean > 20 && dirty > 20, "{clean} clean, {dirty} dirty");
}

#[test]
fn a_macvtap_that_could_be_neither_finished_nor_undone_is_told_whole() {
    let scene = Scene::PassthroughNic;
    let machine = scene.machine();
    let assigner = machine.start();
    let found = machine.host.snapshot();
    machine.host.fail(Fault::of(Operation::OpenVhost, EIO));
    machine
        .host
        .fail(Fault::of(Operation::DeleteLink, EIO).always());
    machine.host.fail(Fault::of(Operation::SetMtu, EIO).nth(2));
    let claim = scene.claim(&assigner, &machine, 1).unwrap();
    let item = claim.item();
    let error = assigner.prepare(claim, &scene.preparation(1)).unwrap_err();
    // The undo went on after each failure: the MAC is back.
    assert_eq!(
        chain(&error),
        format!(
            "cannot lend {item} to guest 'web1', nor restore it (\
             removing the network device of 'macvtap0': Input/output error (os error 5); \
             setting the MTU of 'eth0' ({item}): Input/output error (os error 5); \
             it had no network device macvtap0, and has macvtap0; \
             it had eth0 with an MTU of 1500, and has an MTU of 9000): \
             opening vhost-net of the simulated host: Input/output error (os error 5)"
        )
    );
    assert!(scene.claim(&assigner, &machine, 2).is_err());
    machine.host.heal();
    assigner.give_back(assigner.list()[0].generation).unwrap();
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
}
