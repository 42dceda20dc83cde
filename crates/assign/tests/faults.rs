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
            text.starts_with(&format!("cannot lend {item} to guest 'web1': ")),
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
