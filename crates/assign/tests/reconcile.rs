//! Records, kernel and guests, compared and mended.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod common;

use assign::{Assigner, Difference, MendError};
use common::scenes::Scene;
use common::{Machine, chain, guest, lend, mac, ordinary};
use conf::{DirectMode, Uuid};
use host::{Fault, Host, Links, Operation, VfSetting, VlanProtocol};

/// What `reconcile` says, in words, and that it touched nothing.
fn told(machine: &Machine, assigner: &Assigner, runs: impl Fn(Uuid) -> bool) -> Vec<Difference> {
    let (before, effects) = (machine.host.snapshot(), machine.host.effect_count());
    let list = assigner.list();
    let differences = assigner.reconcile(runs);
    assert_eq!(before.differences(&machine.host.snapshot()), [""; 0]);
    assert_eq!(
        (machine.host.effect_count(), assigner.list()),
        (effects, list)
    );
    for difference in &differences {
        let text = serde_json::to_string(difference).unwrap();
        assert_eq!(
            &serde_json::from_str::<Difference>(&text).unwrap(),
            difference
        );
        let line = difference.to_string();
        assert!(!line.contains('\n') && !difference.cause().is_empty());
        assert!(!difference.remedy().is_empty());
        // Nothing is attached to a guest that runs.
        assert!(!difference.remedy().contains("attach"), "{difference}");
    }
    differences
}

fn texts(differences: &[Difference]) -> Vec<String> {
    differences.iter().map(ToString::to_string).collect()
}

#[test]
fn where_all_agree_nothing_is_said() {
    // One that its PF holds to a MAC of its own is told as such while nobody has it.
    let scenes = Scene::ALL.into_iter();
    for scene in scenes.filter(|scene| *scene != Scene::VfioHeld) {
        let machine = scene.machine();
        let assigner = machine.start();
        let quiet = |differences: Vec<Difference>| {
            assert!(differences.is_empty(), "{scene:?}: {differences:?}");
        };
        quiet(told(&machine, &assigner, |_| true));
        let claim = scene.claim(&assigner, &machine, 1).unwrap();
        quiet(told(&machine, &assigner, |_| true));
        let lent = assigner.prepare(claim, &scene.preparation(1)).unwrap();
        assigner.set_link_state(lent.generation, true).unwrap();
        quiet(told(&machine, &assigner, |id| id == guest(1).guest));
        assigner.give_back(lent.generation).unwrap();
        quiet(told(&machine, &assigner, |_| false));
    }
}

#[test]
fn what_is_lent_to_no_running_guest_is_given_back() {
    for scene in Scene::ALL {
        let machine = scene.machine();
        let assigner = machine.start();
        let found = machine.host.snapshot();
        let claim = scene.claim(&assigner, &machine, 1).unwrap();
        let lent = assigner.prepare(claim, &scene.preparation(1)).unwrap();
        let differences = told(&machine, &assigner, |_| false);
        assert_eq!(
            texts(&differences),
            [format!(
                "{} is lent to guest 'web1', which does not run",
                lent.item.words()
            )],
            "{scene:?}"
        );
        assert!(differences[0].is_safe());
        drop(lent);
        assigner.mend(&differences[0]).unwrap();
        assert_eq!(
            found.differences(&machine.host.snapshot()),
            [""; 0],
            "{scene:?}"
        );
        assert!(assigner.list().is_empty());
        // Mended twice is mended.
        assigner.mend(&differences[0]).unwrap();
    }
}

#[test]
fn a_link_that_nobody_knows_of_is_removed_unless_its_guest_runs() {
    let scene = Scene::Shared(DirectMode::Vepa);
    let machine = scene.machine();
    let assigner = machine.start();
    let claim = scene.claim(&assigner, &machine, 1).unwrap();
    let _lent = assigner.prepare(claim, &scene.preparation(1)).unwrap();
    drop(assigner);
    std::fs::remove_file(machine.journal().join(&machine.records()[0])).unwrap();
    let (assigner, _) = machine.restart(|_| true);
    let running = told(&machine, &assigner, |_| true);
    assert_eq!(
        texts(&running),
        [format!(
            "'macvtap0' was made for guest {}, and nobody knows of it",
            guest(1).guest
        )]
    );
    assert!(!running[0].is_safe());
    let refused = assigner.mend(&running[0]).unwrap_err();
    assert!(matches!(refused, MendError::NotSafe(_)));
    assert!(machine.has("macvtap0"));
    let gone = told(&machine, &assigner, |_| false);
    assert!(gone[0].is_safe());
    machine.host.fail(Fault::of(Operation::DeleteLink, 16));
    let error = assigner.mend(&gone[0]).unwrap_err();
    assert!(
        chain(&error).starts_with("cannot remove 'macvtap0': "),
        "{}",
        chain(&error)
    );
    assigner.mend(&gone[0]).unwrap();
    assert!(!machine.has("macvtap0"));
}

#[test]
fn the_links_of_another_daemon_are_none_of_ours() {
    let scene = Scene::Shared(DirectMode::Vepa);
    let machine = scene.machine();
    let assigner = machine.start();
    let claim = scene.claim(&assigner, &machine, 1).unwrap();
    let _lent = assigner.prepare(claim, &scene.preparation(1)).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let host = std::sync::Arc::new(machine.host.clone());
    let (other, _) = Assigner::open(host, elsewhere.path().join("devices"), None).unwrap();
    assert_eq!(told(&machine, &other, |_| false), []);
}

#[test]
fn a_lent_link_that_is_gone_is_told() {
    let scene = Scene::Bridge;
    let machine = scene.machine();
    let assigner = machine.start();
    let claim = scene.claim(&assigner, &machine, 1).unwrap();
    let _lent = assigner.prepare(claim, &scene.preparation(1)).unwrap();
    let link = machine.host.netdev("vnet0").unwrap();
    machine.host.delete_link(link.index, link.name).unwrap();
    let differences = told(&machine, &assigner, |_| true);
    assert_eq!(
        texts(&differences),
        ["'vnet0', lent to guest 'web1', is not there"]
    );
    assert!(!differences[0].is_safe());
}

#[test]
fn a_tap_that_somebody_took_out_of_its_bridge_is_told() {
    let scene = Scene::Bridge;
    let machine = scene.machine();
    let assigner = machine.start();
    let claim = scene.claim(&assigner, &machine, 1).unwrap();
    let lent = assigner.prepare(claim, &scene.preparation(1)).unwrap();
    let link = machine.host.netdev("vnet0").unwrap();
    machine.host.set_master(link.index, None).unwrap();
    let differences = told(&machine, &assigner, |_| true);
    assert_eq!(
        texts(&differences),
        [format!(
            "{}, lent to guest 'web1', should have bridge br0, and has no bridge",
            lent.item.words()
        )]
    );
}

#[test]
fn settings_of_a_lent_vf_that_somebody_changed_are_told_and_left() {
    for scene in [Scene::Vfio, Scene::PassthroughVf] {
        let machine = scene.machine();
        let assigner = machine.start();
        let claim = scene.claim(&assigner, &machine, 1).unwrap();
        let _lent = assigner.prepare(claim, &scene.preparation(1)).unwrap();
        let vf = machine.host.virtual_function(machine.vf(0)).unwrap();
        let other = VfSetting::Vlan {
            id: 7,
            qos: 0,
            protocol: VlanProtocol::Dot1q,
        };
        machine.host.set_vf(&vf, other).unwrap();
        let differences = told(&machine, &assigner, |_| true);
        let [difference] = &differences[..] else {
            panic!("{scene:?}: {differences:?}");
        };
        assert!(
            difference.to_string().ends_with("and has VLAN 7"),
            "{difference}"
        );
        assert!(!difference.is_safe());
        assert!(assigner.mend(difference).is_err());
        assert_eq!(machine.host.vf_state(&vf).unwrap().vlan, 7);
    }
}

#[test]
fn what_others_left_on_free_vfs_is_told_and_left() {
    let machine = Machine::with_links("vfs=2");
    let assigner = machine.start();
    let (one, other) = (machine.vf(0), machine.vf(1));
    machine.host.bind_by_hand(one, Some("vfio-pci"));
    let vf = machine.host.virtual_function(other).unwrap();
    machine.host.set_vf(&vf, VfSetting::Mac(mac(9))).unwrap();
    machine.host.set_vf(&vf, VfSetting::Trust(true)).unwrap();
    let differences = told(&machine, &assigner, |_| true);
    assert_eq!(
        texts(&differences),
        [
            format!("{one} has driver vfio-pci, and is lent to nobody"),
            format!(
                "VF 1 of 'sim0' ({other}) is lent to nobody, and has MAC 52:54:00:00:00:09, trust on"
            ),
        ]
    );
    assert!(differences.iter().all(|difference| !difference.is_safe()));
}

#[test]
fn what_could_not_be_restored_is_tried_again() {
    for scene in [
        Scene::Vfio,
        Scene::PassthroughVf,
        Scene::Shared(DirectMode::Vepa),
    ] {
        let machine = scene.machine();
        let assigner = machine.start();
        let found = machine.host.snapshot();
        let claim = scene.claim(&assigner, &machine, 1).unwrap();
        let lent = assigner.prepare(claim, &scene.preparation(1)).unwrap();
        for operation in [Operation::Unbind, Operation::DeleteLink] {
            machine.host.fail(Fault::of(operation, 5).always());
        }
        assert!(assigner.give_back(lent.generation).is_err());
        let differences = told(&machine, &assigner, |_| false);
        let [difference @ Difference::Dirty { .. }] = &differences[..] else {
            panic!("{scene:?}: {differences:?}");
        };
        assert!(difference.is_safe());
        assert!(
            assigner.mend(difference).is_err(),
            "{scene:?}: it still fails"
        );
        machine.host.heal();
        assigner.mend(difference).unwrap();
        assert_eq!(
            found.differences(&machine.host.snapshot()),
            [""; 0],
            "{scene:?}"
        );
        assert!(assigner.list().is_empty() && machine.records().is_empty());
    }
}

#[test]
fn a_host_that_does_not_tell_is_told() {
    let machine = Machine::with_links("vfs=1");
    let assigner = machine.start();
    let _lent = lend(&assigner, machine.vf(0), 1, &ordinary(1)).unwrap();
    machine.host.fail(Fault::of(Operation::ReadVf, 5).always());
    let differences = assigner.reconcile(|_| true);
    assert!(
        matches!(&differences[..], [Difference::Unknown { reason, .. }] if reason.ends_with("(os error 5)")),
        "{differences:?}"
    );
}
