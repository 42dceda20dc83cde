//! Port profiles: what the switch is told of a guest, and when.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod common;

use assign::{ErrorKind, MacvtapPreparation, Phase, Preparation};
use common::scenes::{Scene, macvtap, qbg, qbh};
use common::{Machine, chain, guest, lend, mac};
use conf::DirectMode;
use host::{Effect, Fault, Operation};

#[test]
fn a_port_profile_is_asked_for_and_given_up() {
    let machine = Machine::with_links("vfs=1");
    let assigner = machine.start();
    let scene = Scene::Shared(DirectMode::Vepa);
    let claim = scene.claim(&assigner, &machine, 1).unwrap();
    let asked = MacvtapPreparation {
        profile: Some(assign::Profile {
            action: host::PortAction::PreAssociate,
            ..qbg()
        }),
        ..macvtap("eth0", DirectMode::Vepa, 1)
    };
    let lent = assigner
        .prepare(claim, &Preparation::Macvtap(asked))
        .unwrap();
    let action = || {
        machine
            .host
            .port_profiles()
            .get(&mac(1))
            .map(|request| request.action)
    };
    assert_eq!(action(), Some(host::PortAction::PreAssociate));
    // The guest has arrived.
    assigner
        .associate(lent.generation, host::PortAction::Associate)
        .unwrap();
    assert_eq!(action(), Some(host::PortAction::Associate));
    assigner.give_back(lent.generation).unwrap();
    assert_eq!(action(), None);
}

#[test]
fn a_switch_that_refuses_is_told_and_all_is_undone() {
    let machine = Machine::with_links("vfs=1");
    let assigner = machine.start();
    let found = machine.host.snapshot();
    machine
        .host
        .set_port_answer(host::PortAnswer::Refuse("no such VSI type".into()));
    let scene = Scene::Shared(DirectMode::Vepa);
    let claim = scene.claim(&assigner, &machine, 1).unwrap();
    let error = assigner.prepare(claim, &scene.preparation(1)).unwrap_err();
    assert!(
        chain(&error).contains("no such VSI type"),
        "{}",
        chain(&error)
    );
    assert!(error.undo.is_empty());
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
    assert!(assigner.list().is_empty() && machine.records().is_empty());
}

/// The first question was carried out all the same, and the second did not reach the switch.
#[test]
fn an_association_that_may_have_been_made_is_owed_until_it_is_given_up() {
    let machine = Machine::with_links("vfs=1");
    let assigner = machine.start();
    let found = machine.host.snapshot();
    let fault = || Fault::of(Operation::PortProfile, 5);
    machine.host.fail(fault().partial());
    machine.host.fail(fault().nth(2));
    let scene = Scene::Shared(DirectMode::Vepa);
    let claim = scene.claim(&assigner, &machine, 1).unwrap();
    let error = assigner.prepare(claim, &scene.preparation(1)).unwrap_err();
    assert!(!error.undo.is_empty());
    assert!(machine.host.port_profiles().contains_key(&mac(1)));
    let list = assigner.list();
    assert!(matches!(list[0].phase, Phase::Dirty(_)), "{list:?}");
    assigner.give_back(list[0].generation).unwrap();
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
}

#[test]
fn a_hostdev_vf_gets_mac_and_vlan_from_its_802_1qbh_profile() {
    let machine = Machine::with_links("vfs=1");
    let (assigner, vf) = (machine.start(), machine.vf(0));
    let found = machine.host.snapshot();
    let with = |network, profile| {
        Preparation::Vfio(assign::VfioPreparation {
            profile: Some(profile),
            ..common::vfio(Some(network))
        })
    };
    let plain = assign::VfConfig::new(mac(1), None, &conf::VfSettings::default()).unwrap();
    let lent = lend(&assigner, vf, 1, &with(plain, qbh())).unwrap();
    let request = machine.host.port_profiles()[&mac(1)].clone();
    assert_eq!(request.action, host::PortAction::Associate);
    assert!(
        matches!(&request.profile, host::PortProfile::Qbh { link, vf: Some(0), guest: to, .. }
            if link.as_str() == "sim0" && *to == guest(1).guest),
        "{request:?}"
    );
    let set = |effect: &Effect| matches!(effect, Effect::Set(..));
    assert!(
        !machine.host.effects().iter().any(set),
        "the card does that"
    );
    assigner.give_back(lent.generation).unwrap();
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);

    for (network, profile, told) in [
        (common::mac_and_vlan(1), qbh(), "can have no VLAN beside it"),
        (plain, qbg(), "can have no port profile but one of 802.1Qbh"),
    ] {
        let error = lend(&assigner, vf, 1, &with(network, profile)).unwrap_err();
        assert!(chain(&error).ends_with(told), "{}", chain(&error));
        assert_eq!(error.kind(), ErrorKind::ConfigUnsupported);
    }
}

#[test]
fn a_switch_that_does_not_let_go_keeps_the_item_until_it_does() {
    let scene = Scene::Shared(DirectMode::Vepa);
    let machine = scene.machine();
    let assigner = machine.start();
    let found = machine.host.snapshot();
    let claim = scene.claim(&assigner, &machine, 1).unwrap();
    let lent = assigner.prepare(claim, &scene.preparation(1)).unwrap();
    machine.host.set_port_answer(host::PortAnswer::Silence);
    let error = assigner.give_back(lent.generation).unwrap_err();
    assert!(
        chain(&error).contains("no answer within 10 s"),
        "{}",
        chain(&error)
    );
    assert!(!machine.has("macvtap0"), "all else is undone");
    assert!(matches!(assigner.list()[0].phase, Phase::Dirty(_)));
    // Without an agent nobody holds the association any more; with one it is told again.
    machine.host.set_port_answer(host::PortAnswer::Accept);
    assigner.give_back(lent.generation).unwrap();
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
    assert!(assigner.list().is_empty() && machine.records().is_empty());
}

#[test]
fn a_macvtap_on_a_vf_has_its_802_1qbh_profile_from_the_pf() {
    let scene = Scene::PassthroughVf;
    let machine = scene.machine();
    let assigner = machine.start();
    let found = machine.host.snapshot();
    let Preparation::Macvtap(with_vlan) = scene.preparation(1) else {
        panic!("a macvtap");
    };
    let asked = |vf| {
        Preparation::Macvtap(MacvtapPreparation {
            vf: Some(vf),
            profile: Some(qbh()),
            ..with_vlan.clone()
        })
    };
    let claim = scene.claim(&assigner, &machine, 1).unwrap();
    let error = assigner
        .prepare(claim, &asked(common::mac_and_vlan(1)))
        .unwrap_err();
    assert!(
        chain(&error).ends_with("can have no VLAN beside it"),
        "{}",
        chain(&error)
    );
    let plain = assign::VfConfig::new(mac(1), None, &conf::VfSettings::default()).unwrap();
    let claim = scene.claim(&assigner, &machine, 1).unwrap();
    let lent = assigner.prepare(claim, &asked(plain)).unwrap();
    let request = machine.host.port_profiles()[&mac(1)].clone();
    assert!(
        matches!(&request.profile, host::PortProfile::Qbh { link, vf: Some(0), .. }
            if link.as_str() == "sim0"),
        "{request:?}"
    );
    assigner.give_back(lent.generation).unwrap();
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
}
