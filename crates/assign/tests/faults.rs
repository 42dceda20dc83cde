//! Every single kernel operation fails in its turn, on the way there and on the way back.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod common;

use assign::{DeviceId, Phase, ReturnError};
use common::{Machine, chain, claim, everything, lend, ordinary};
use host::{Fault, Operation};

const EIO: i32 = 5;

#[test]
fn whatever_fails_while_preparing_is_told_and_all_is_undone() {
    for partial in [false, true] {
        let mut failed = 0;
        for nth in 1.. {
            let machine = Machine::new("vfs=2");
            let (assigner, vf) = (machine.start(), machine.vf(0));
            let found = machine.host.snapshot();
            let fault = Fault::any(EIO).nth(nth);
            machine
                .host
                .fail(if partial { fault.partial() } else { fault });
            let prepared = lend(&assigner, vf, 1, &everything(1));
            if machine.host.waiting_faults() > 0 {
                assert!(prepared.is_ok());
                break;
            }
            let error = prepared.unwrap_err();
            let text = chain(&error);
            assert!(
                text.starts_with(&format!("cannot lend {vf} to guest 'web1': ")),
                "{text}"
            );
            assert!(
                text.contains(" of ") && text.ends_with("(os error 5)"),
                "{text}"
            );
            assert!(error.undo.is_empty(), "{text}");
            assert_eq!(
                found.differences(&machine.host.snapshot()),
                [""; 0],
                "{text}"
            );
            assert!(assigner.list().is_empty() && machine.records().is_empty());
            assert!(lend(&assigner, vf, 2, &ordinary(2)).is_ok(), "{text}");
            failed += 1;
        }
        // Eight reads before the change, six settings, bind, read back, grant.
        assert!(failed >= 16, "only {failed} operations failed");
    }
}

#[test]
fn whatever_fails_on_the_way_back_the_device_is_back_or_kept_back() {
    let (mut overcome, mut kept_back) = (0, 0);
    for nth in 1.. {
        let machine = Machine::new("vfs=1");
        let (assigner, vf) = (machine.start(), machine.vf(0));
        let found = machine.host.snapshot();
        let lent = lend(&assigner, vf, 1, &everything(1)).unwrap();
        machine.host.fail(Fault::any(EIO).nth(nth));
        let returned = assigner.give_back(lent.generation);
        if machine.host.waiting_faults() > 0 {
            assert!(returned.is_ok());
            break;
        }
        if let Err(error) = returned {
            kept_back += 1;
            assert!(chain(&error).contains("(os error 5)"), "{}", chain(&error));
            assert_eq!(machine.records().len(), 1);
            assert!(claim(&assigner, vf, 2).is_err());
            assigner.give_back(lent.generation).unwrap();
        } else {
            overcome += 1;
        }
        assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
        assert!(assigner.list().is_empty() && machine.records().is_empty());
    }
    assert!(
        overcome > 0 && kept_back > 5,
        "{overcome} overcome, {kept_back} kept back"
    );
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
    assert_eq!(assigner.barred()[0].0, DeviceId::Pci(vf));
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
