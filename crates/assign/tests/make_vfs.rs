//! VFs are made, and the PF's setting for their drivers is as it was.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod common;

use assign::{Assigner, MakeVfsError};
use common::{Machine, chain, until_crash};
use host::{Fault, Host, Links, Operation, PhysicalFunction};

/// A machine whose PF has no VFs.
fn machine() -> (Machine, PhysicalFunction) {
    let machine = Machine::new("vfs=4");
    let pf = machine.host.physical_function("sim0").unwrap();
    machine.host.set_vf_count(&pf, 0).unwrap();
    machine.host.clear_effects();
    (machine, pf)
}

fn drivers(machine: &Machine, pf: &PhysicalFunction) -> Vec<Option<String>> {
    let vfs = machine.host.virtual_functions(pf).unwrap().into_iter();
    let driver = |vf: host::VirtualFunction| machine.host.vf_state(&vf).unwrap().driver;
    vfs.map(driver).collect()
}

fn left(machine: &Machine) -> usize {
    let directory = machine.journal().join("probing");
    std::fs::read_dir(directory).unwrap().count()
}

#[test]
fn vfs_are_made_with_a_driver_or_without_one() {
    for (probe, driver) in [(true, Some("simvf".to_owned())), (false, None)] {
        let (machine, pf) = machine();
        let assigner = machine.start();
        assigner.make_vfs(&pf, 3, probe).unwrap();
        assert_eq!(drivers(&machine, &pf), vec![driver; 3]);
        assert!(machine.host.autoprobe(&pf).unwrap());
        assert_eq!(left(&machine), 0);
    }
}

#[test]
fn a_setting_that_was_off_stays_off() {
    let (machine, pf) = machine();
    machine.host.set_autoprobe(&pf, false).unwrap();
    machine.start().make_vfs(&pf, 3, false).unwrap();
    assert!(!machine.host.autoprobe(&pf).unwrap());
    assert!(machine.restart(|_| false).1.is_empty());
    assert!(!machine.host.autoprobe(&pf).unwrap());
}

#[test]
fn more_than_the_card_can_make_are_refused() {
    let (machine, pf) = machine();
    let most = u32::from(pf.max_vfs);
    for count in [most + 1, most + 65_536] {
        let refused = machine.start().make_vfs(&pf, count, false).unwrap_err();
        assert_eq!(refused.to_string(), format!("it can have {most} at most"));
    }
    assert!(machine.host.effects().is_empty());
}

#[test]
fn killed_at_any_change_the_next_start_puts_the_setting_back() {
    for effects in 1.. {
        let (machine, pf) = machine();
        let assigner = machine.start();
        machine.host.crash_after(effects);
        let through = until_crash(|| assigner.make_vfs(&pf, 3, false).unwrap()).is_some();
        std::mem::forget(assigner);
        if through {
            assert_eq!(effects, 4, "off, VFs, on");
            break;
        }
        let (assigner, findings) = machine.restart(|_| false);
        let texts: Vec<_> = findings.iter().map(ToString::to_string).collect();
        assert!(
            matches!(&texts[..], [text] if text.starts_with("drivers take new VFs of 0000:01:00.0 again")),
            "{texts:?}"
        );
        assert!(machine.host.autoprobe(&pf).unwrap(), "{effects}");
        assert_eq!(left(&machine), 0);
        drop(assigner);
        assert!(machine.restart(|_| false).1.is_empty());
    }
}

#[test]
fn whatever_is_refused_the_setting_is_put_back_at_once_or_when_it_can_be() {
    for partial in [false, true] {
        for operation in [Operation::SetAutoprobe, Operation::SetVfCount] {
            let (machine, pf) = machine();
            let assigner = machine.start();
            let fault = Fault::of(operation, 5);
            machine
                .host
                .fail(if partial { fault.partial() } else { fault });
            let refused = assigner.make_vfs(&pf, 3, false).unwrap_err();
            assert!(matches!(refused, MakeVfsError::Host(_)), "{refused}");
            assert!(machine.host.autoprobe(&pf).unwrap(), "{operation}");
            assert_eq!(left(&machine), 0);
        }
    }
    let both_fail = |machine: &Machine, assigner: &Assigner, pf: &PhysicalFunction| {
        machine.host.fail(Fault::of(Operation::SetVfCount, 28));
        machine
            .host
            .fail(Fault::of(Operation::SetAutoprobe, 5).nth(2));
        let refused = assigner.make_vfs(pf, 3, false).unwrap_err();
        assert!(
            matches!(refused, MakeVfsError::NotUndone { .. }),
            "{refused}"
        );
        assert!(
            chain(&refused).contains("No space left"),
            "{}",
            chain(&refused)
        );
        assert!(!machine.host.autoprobe(pf).unwrap());
        assert_eq!(left(machine), 1);
    };
    let (one, pf) = machine();
    let assigner = one.start();
    both_fail(&one, &assigner, &pf);
    // Asked again; and, below, started again.
    assigner.make_vfs(&pf, 3, false).unwrap();
    assert!(one.host.autoprobe(&pf).unwrap());
    assert_eq!(left(&one), 0);
    let (other, pf) = machine();
    both_fail(&other, &other.start(), &pf);
    assert_eq!(other.restart(|_| false).1.len(), 1);
    assert!(other.host.autoprobe(&pf).unwrap());
}

#[test]
fn a_record_that_cannot_be_read_is_told_by_its_name() {
    let (machine, pf) = machine();
    drop(machine.start());
    machine.host.set_autoprobe(&pf, false).unwrap();
    let path = machine
        .journal()
        .join(format!("probing/{}.json", pf.address));
    std::fs::write(&path, "{").unwrap();
    assert_eq!(machine.restart(|_| false).1.len(), 1);
    assert!(machine.host.autoprobe(&pf).unwrap() && !path.exists());
}
