//! Settings of lent items that are changed while their guests run.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod common;

use std::fs;

use assign::{Assigner, ChangeError, Finding, Generation, Preparation, TapPreparation};
use common::scenes::{Scene, bandwidth, name, tap};
use common::{Machine, chain, everything, guest, lend, managed, until_crash};
use conf::{Bandwidth, VfLink};
use host::{Fault, Host, Operation, Quirks};

const EIO: i32 = 5;

fn link_of(machine: &Machine) -> Option<VfLink> {
    let vf = machine.host.virtual_function(machine.vf(0)).unwrap();
    machine.host.vf_state(&vf).unwrap().link
}

fn record(machine: &Machine) -> String {
    let [file] = machine.records().try_into().unwrap();
    fs::read_to_string(machine.journal().join(file)).unwrap()
}

fn is_given_back(findings: &[Finding]) -> bool {
    matches!(findings, [Finding::GivenBack { .. }])
}

/// Lends a VF whose link is to be on.
fn lent_vf(machine: &Machine, assigner: &Assigner) -> Generation {
    let lent = lend(assigner, machine.vf(0), 1, &everything(1)).unwrap();
    assert_eq!(link_of(machine), Some(VfLink::On));
    lent.generation
}

#[test]
fn a_vfs_link_is_set_recorded_and_comes_back_as_it_was() {
    let machine = Machine::new("vfs=2");
    let assigner = machine.start();
    let found = machine.host.snapshot();
    let generation = lent_vf(&machine, &assigner);
    for link in [VfLink::Off, VfLink::Auto, VfLink::Off] {
        assigner.set_vf_link(generation, link).unwrap();
        assert_eq!(link_of(&machine), Some(link));
        // Nobody else set it.
        assert_eq!(assigner.reconcile(|_| true), []);
    }
    let (assigner, findings) = machine.restart(|_| true);
    assert!(findings.is_empty(), "{findings:?}");
    assert_eq!(assigner.reconcile(|_| true), []);
    assigner.give_back(generation).unwrap();
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
}

#[test]
fn a_link_that_is_refused_is_as_it_was() {
    let machine = Machine::new("vfs=2");
    let assigner = machine.start();
    let generation = lent_vf(&machine, &assigner);
    let before = (record(&machine), link_of(&machine));
    machine.host.fail(Fault::of(Operation::SetLink, EIO));
    let error = assigner.set_vf_link(generation, VfLink::Off).unwrap_err();
    let text = chain(&error);
    assert!(
        text.contains("web1") && text.contains("setting the link state"),
        "{text}"
    );
    assert_eq!((record(&machine), link_of(&machine)), before);

    // Read back: a kernel that agrees and does nothing has not done it.
    machine
        .host
        .fail(Fault::of(Operation::SetLink, EIO).always());
    assigner.set_vf_link(generation, VfLink::Off).unwrap_err();
    machine.host.heal();
    assert_eq!(link_of(&machine), before.1);
    assigner.set_vf_link(generation, VfLink::Off).unwrap();
}

#[test]
fn a_link_that_can_not_be_recorded_is_not_set() {
    let machine = Machine::new("vfs=2");
    let assigner = machine.start();
    let generation = lent_vf(&machine, &assigner);
    let aside = machine.directory.path().join("aside");
    fs::rename(machine.journal(), &aside).unwrap();
    fs::write(machine.journal(), "in the way").unwrap();
    let error = assigner.set_vf_link(generation, VfLink::Off).unwrap_err();
    assert!(chain(&error).contains("devices"), "{error}");
    fs::remove_file(machine.journal()).unwrap();
    fs::rename(aside, machine.journal()).unwrap();
    assert_eq!(link_of(&machine), Some(VfLink::On));
    assert_eq!(assigner.reconcile(|_| true), []);
}

#[test]
fn a_driver_without_link_states_is_named() {
    let machine = Machine::new("vfs=2");
    machine.host.set_quirks(Quirks::igb());
    let assigner = machine.start();
    let lent = lend(&assigner, machine.vf(0), 1, &common::ordinary(1)).unwrap();
    let before = record(&machine);
    let error = assigner
        .set_vf_link(lent.generation, VfLink::Off)
        .unwrap_err();
    assert!(matches!(error, ChangeError::NotOffered { .. }), "{error}");
    assert!(error.to_string().contains("'sim0'"), "{error}");
    assert_eq!(record(&machine), before);
}

#[test]
fn a_crash_at_any_point_leaves_nothing_behind() {
    for effects in 0.. {
        let machine = Machine::new("vfs=2");
        let assigner = machine.start();
        let found = machine.host.snapshot();
        let generation = lent_vf(&machine, &assigner);
        machine.host.crash_after(effects);
        let done = until_crash(|| assigner.set_vf_link(generation, VfLink::Off));
        let (_, findings) = machine.restart(|_| false);
        assert!(is_given_back(&findings), "{effects}: {findings:?}");
        assert_eq!(
            found.differences(&machine.host.snapshot()),
            [""; 0],
            "{effects}"
        );
        if done.is_some() {
            assert!(effects > 0);
            return;
        }
    }
}

#[test]
fn only_what_is_lent_and_has_the_setting_is_changed() {
    let machine = Machine::with_links("vfs=2");
    let assigner = machine.start();
    let vf = lend(&assigner, machine.vf(0), 1, &managed(None)).unwrap();
    let refused = assigner.set_bandwidth(vf.generation, &bandwidth());
    assert!(
        matches!(refused, Err(ChangeError::NoSuchSetting { .. })),
        "{refused:?}"
    );
    assigner.give_back(vf.generation).unwrap();
    let refused = assigner.set_vf_link(vf.generation, VfLink::Off);
    assert!(matches!(refused, Err(ChangeError::Lent(_))), "{refused:?}");
}

#[test]
fn a_link_is_shaped_anew_and_in_the_end_not_at_all() {
    let machine = Machine::with_links("vfs=2");
    let assigner = machine.start();
    let found = machine.host.snapshot();
    // Somebody else's tap, which stays.
    let preparation = Preparation::Tap(TapPreparation {
        name: Some(name("tap0")),
        existing: true,
        bandwidth: None,
        ..tap(1)
    });
    let claim = Scene::Existing.claim(&assigner, &machine, 1).unwrap();
    let lent = assigner.prepare(claim, &preparation).unwrap();
    let [line] = assigner.of_guest(guest(1).guest).try_into().unwrap();
    let shaped = || machine.host.bandwidth(line.ifindex.unwrap());
    assert_eq!(shaped(), Bandwidth::default());
    assigner
        .set_bandwidth(lent.generation, &bandwidth())
        .unwrap();
    assert_eq!(shaped(), bandwidth());

    let none = Bandwidth::default();
    machine.host.fail(Fault::of(Operation::SetBandwidth, EIO));
    let error = assigner.set_bandwidth(lent.generation, &none).unwrap_err();
    assert!(chain(&error).contains("setting the bandwidth"), "{error}");
    assigner
        .set_bandwidth(lent.generation, &bandwidth())
        .unwrap();

    // A crash: the next daemon knows that there is something to take away.
    let (_, findings) = machine.restart(|_| false);
    assert!(is_given_back(&findings), "{findings:?}");
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
}
