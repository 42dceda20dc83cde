//! Macvtaps and taps, made for a guest and taken back.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod common;

use assign::{
    Claim, ClaimError, ErrorKind, Item, Kind, Lent, LentKind, MacvtapPreparation, Origin, Phase,
    Preparation, TapPreparation, Vhost,
};
use common::scenes::{Scene, bandwidth, macvtap, name, qbg, tap};
use common::{Machine, chain, guest, lend, mac, ordinary};
use conf::{DeviceId, DirectMode};
use host::{Fault, Links, Netdev, Operation};

fn netdev(lent: &Lent) -> &Netdev {
    match &lent.kind {
        LentKind::Link { netdev, .. } => netdev,
        LentKind::Vfio { .. } => panic!("{} is no link", lent.item),
    }
}

#[test]
fn whatever_is_lent_is_recorded_listed_and_comes_back_as_it_was() {
    for scene in Scene::ALL {
        let machine = scene.machine();
        let assigner = machine.start();
        let found = machine.host.snapshot();
        let claim = scene.claim(&assigner, &machine, 1).unwrap();
        let generation = claim.generation();
        let lent = assigner.prepare(claim, &scene.preparation(1)).unwrap();
        assert_eq!(lent.generation, generation, "{scene:?}");
        assigner.set_link_state(generation, true).unwrap();

        let [line] = &assigner.list()[..] else {
            panic!("{scene:?}: one line, not {:?}", assigner.list());
        };
        assert_eq!((&line.phase, &line.owner), (&Phase::Lent, &guest(1)));
        assert_eq!(line.item, lent.item);
        assert_eq!(line.device(), scene.device(&machine), "{scene:?}");
        assert_eq!(assigner.of_guest(guest(1).guest), [line.clone()]);
        assert_eq!(machine.records(), [format!("{}.json", lent.item)]);
        if let LentKind::Link {
            netdev,
            taps,
            vhosts,
        } = &lent.kind
        {
            assert_eq!((taps.len(), vhosts.len()), (2, 2), "{scene:?}");
            assert_eq!(line.netdev, Some(netdev.name));
            assert_eq!(line.ifindex, Some(netdev.index));
            assert_eq!(netdev.is_ours(), scene.makes_link(), "{scene:?}");
            let now = machine.host.netdev(netdev.name.as_str()).unwrap();
            assert!(now.state.up || scene == Scene::Existing, "{scene:?}");
        }

        assigner.set_link_state(generation, false).unwrap();
        drop(lent);
        let returned = assigner.give_back(generation).unwrap();
        assert_eq!(returned.owner, guest(1));
        assert_eq!(found.differences(&machine.host.snapshot()), [""; 0], "{scene:?}");
        assert!(assigner.list().is_empty() && machine.records().is_empty());
    }
}

#[test]
fn a_shared_device_has_many_links_and_counts_them() {
    let machine = Machine::with_links("vfs=1");
    let assigner = machine.start();
    let found = machine.host.snapshot();
    let eth0 = machine.device("eth0");
    let mut lent = Vec::new();
    for n in 1..=3 {
        let claim = assigner.claim_link(Some(eth0), guest(n), Origin::PoolPort);
        let preparation = Preparation::Macvtap(macvtap("eth0", DirectMode::Bridge, n));
        lent.push(assigner.prepare(claim.unwrap(), &preparation).unwrap());
        assert_eq!(assigner.connections(eth0), n as usize);
    }
    let names: Vec<_> = lent.iter().map(|lent| netdev(lent).name.to_string()).collect();
    assert_eq!(names, ["macvtap0", "macvtap1", "macvtap2"]);
    let line = assigner.find(lent[1].item).unwrap();
    assert_eq!(
        (line.parent, line.mode, line.kind),
        (Some(eth0), Some(DirectMode::Bridge), Some(Kind::Macvtap))
    );

    // Whole, it is nobody's.
    let refused = assigner.claim(eth0, guest(4), Origin::Interface).unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!("device {eth0} is shared by macvtaps of guests 'web1', 'web2', 'web3'")
    );
    // The name of one that went is free again.
    assigner.give_back(lent.remove(1).generation).unwrap();
    let claim = assigner.claim_link(Some(eth0), guest(5), Origin::Interface).unwrap();
    let preparation = Preparation::Macvtap(macvtap("eth0", DirectMode::Bridge, 5));
    lent.push(assigner.prepare(claim, &preparation).unwrap());
    assert_eq!(netdev(&lent[2]).name, name("macvtap1"));
    for lent in lent {
        assigner.give_back(lent.generation).unwrap();
    }
    assert_eq!(assigner.connections(eth0), 0);
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
}

#[test]
fn a_device_that_is_lent_whole_is_not_shared() {
    let machine = Machine::with_links("vfs=1");
    let (assigner, vf) = (machine.start(), machine.vf(0));
    let _lent = lend(&assigner, vf, 1, &ordinary(1)).unwrap();
    let refused = assigner.claim_link(Some(vf.into()), guest(2), Origin::Interface);
    assert!(matches!(refused, Err(ClaimError::Taken { .. })), "{refused:?}");
    assert_eq!(assigner.connections(vf.into()), 1);
    // The PF serves the host, and macvtaps, beside it.
    let pf = machine.device("sim0");
    let claim = assigner.claim_link(Some(pf), guest(2), Origin::Interface).unwrap();
    let preparation = Preparation::Macvtap(macvtap("sim0", DirectMode::Bridge, 2));
    assert!(assigner.prepare(claim, &preparation).is_ok());
}

#[test]
fn a_macvtap_is_as_it_was_asked_for() {
    let machine = Machine::with_links("vfs=1");
    let assigner = machine.start();
    let claim = Scene::Shared(DirectMode::Vepa).claim(&assigner, &machine, 1).unwrap();
    let asked = MacvtapPreparation {
        name: Some(name("web")),
        mtu: Some(1400),
        ..macvtap("eth0", DirectMode::Vepa, 1)
    };
    let lent = assigner.prepare(claim, &Preparation::Macvtap(asked)).unwrap();
    let link = netdev(&lent);
    assert_eq!((link.name, link.mac, link.state.mtu), (name("web"), mac(1), 1400));
    assert_eq!(link.lower, Some(machine.host.netdev("eth0").unwrap().index));
    assert!(!link.state.up, "a guest that does not run yet is not heard");
    assert!(machine.host.rx_filter(link.index).unwrap().all_multicast);
    assert_eq!(machine.host.bandwidth(link.index), bandwidth());
    let alias = link.alias.as_ref().unwrap();
    assert!(alias.starts_with(&format!("virtnic:{}:{}", guest(1).guest, lent.generation)));
}

#[test]
fn a_filter_that_the_guest_is_to_set_is_not_opened_before() {
    let machine = Machine::with_links("vfs=1");
    let assigner = machine.start();
    let claim = Scene::Shared(DirectMode::Vepa).claim(&assigner, &machine, 1).unwrap();
    let asked = MacvtapPreparation {
        all_multicast: false,
        ..macvtap("eth0", DirectMode::Vepa, 1)
    };
    let lent = assigner.prepare(claim, &Preparation::Macvtap(asked)).unwrap();
    assert!(!machine.host.rx_filter(netdev(&lent).index).unwrap().all_multicast);
}

#[test]
fn a_tap_stands_in_its_bridge_with_a_mac_of_its_own() {
    let machine = Machine::with_links("vfs=1");
    let assigner = machine.start();
    let bridge = machine.host.netdev("br0").unwrap();
    machine.host.set_mtu(bridge.index, 1420).unwrap();
    let claim = Scene::Bridge.claim(&assigner, &machine, 1).unwrap();
    let lent = assigner.prepare(claim, &Scene::Bridge.preparation(1)).unwrap();
    let link = netdev(&lent);
    assert_eq!((link.name, link.master), (name("vnet0"), Some(bridge.index)));
    assert_eq!(link.mac.to_string(), "fe:54:00:00:00:01");
    assert_eq!(link.state.mtu, 1420, "the bridge's");
    assert!(link.state.up);
    let line = assigner.find(lent.item).unwrap();
    assert_eq!((line.kind, line.bridge), (Some(Kind::Tap), Some(name("br0"))));
}

#[test]
fn the_device_below_is_up_while_a_guest_needs_it() {
    let machine = Machine::with_links("vfs=1");
    let assigner = machine.start();
    let eth0 = machine.host.netdev("eth0").unwrap().index;
    let is_up = || machine.host.netdev("eth0").unwrap().state.up;
    machine.host.set_up(eth0, false).unwrap();
    let scene = Scene::Shared(DirectMode::Bridge);
    let lend = |n| {
        let claim = scene.claim(&assigner, &machine, n).unwrap();
        assigner.prepare(claim, &scene.preparation(n)).unwrap()
    };
    let (first, second) = (lend(1), lend(2));
    assert!(!is_up());
    assigner.set_link_state(first.generation, true).unwrap();
    assert!(is_up());
    assigner.set_link_state(second.generation, true).unwrap();
    assigner.set_link_state(first.generation, false).unwrap();
    assert!(is_up(), "others may need it");
    assigner.give_back(first.generation).unwrap();
    assert!(is_up(), "the second does");
    assigner.give_back(second.generation).unwrap();
    assert!(!is_up(), "as it was found");
    // A device that was up stays so.
    machine.host.set_up(eth0, true).unwrap();
    let third = lend(3);
    assigner.set_link_state(third.generation, true).unwrap();
    assigner.give_back(third.generation).unwrap();
    assert!(is_up());
}

#[test]
fn a_link_needs_the_claim_that_fits_it() {
    let machine = Machine::with_links("vfs=1");
    let assigner = machine.start();
    let eth0 = machine.device("eth0");
    let whole = || assigner.claim(eth0, guest(1), Origin::Interface).unwrap();
    let shared = || assigner.claim_link(Some(eth0), guest(1), Origin::Interface).unwrap();
    let alone = || assigner.claim_link(None, guest(1), Origin::Interface).unwrap();
    let bridge_mode = Preparation::Macvtap(macvtap("eth0", DirectMode::Bridge, 1));
    let passthrough = Preparation::Macvtap(macvtap("eth0", DirectMode::Passthrough, 1));
    let tap = Preparation::Tap(tap(1));
    let (whole, shared, alone): (&dyn Fn() -> Claim, &dyn Fn() -> Claim, &dyn Fn() -> Claim) =
        (&whole, &shared, &alone);
    for (claim, preparation) in [
        (whole, &bridge_mode),
        (whole, &tap),
        (shared, &passthrough),
        (shared, &tap),
        (shared, &ordinary(1)),
        (alone, &bridge_mode),
    ] {
        let error = assigner.prepare(claim(), preparation).unwrap_err();
        assert!(chain(&error).contains("is not one for what is asked for"), "{}", chain(&error));
        assert!(assigner.list().is_empty() && machine.records().is_empty());
    }
    let other = assigner.claim(machine.vf(0).into(), guest(1), Origin::Interface).unwrap();
    let error = assigner.prepare(other, &passthrough).unwrap_err();
    assert!(chain(&error).contains("'eth0' does not belong to"), "{}", chain(&error));
}

/// Refused before anything is changed.
fn refused(machine: &Machine, scene: Scene, preparation: &Preparation) -> assign::PrepareError {
    let assigner = machine.start();
    let found = machine.host.snapshot();
    let claim = scene.claim(&assigner, machine, 1).unwrap();
    let effects = machine.host.effect_count();
    let error = assigner.prepare(claim, preparation).unwrap_err();
    assert_eq!(machine.host.effect_count(), effects, "{}", chain(&error));
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
    assert!(assigner.list().is_empty() && machine.records().is_empty());
    error
}

#[test]
fn a_member_of_a_bridge_is_not_shared() {
    let machine = Machine::with_links("vfs=1");
    let eth0 = machine.host.netdev("eth0").unwrap().index;
    let br0 = machine.host.netdev("br0").unwrap().index;
    machine.host.set_master(eth0, Some(br0)).unwrap();
    let scene = Scene::Shared(DirectMode::Bridge);
    let error = refused(&machine, scene, &scene.preparation(1));
    assert!(
        chain(&error).ends_with("'eth0' belongs to 'br0', so that no macvtap can share it"),
        "{}",
        chain(&error)
    );
    assert!(error.obstacle.advice().unwrap().contains("ip link set eth0 nomaster"));
    assert!(error.is_about_this_device());
    let passthrough = Preparation::Macvtap(macvtap("eth0", DirectMode::Passthrough, 1));
    let error = refused(&machine, Scene::PassthroughNic, &passthrough);
    assert!(chain(&error).ends_with("it is in use: eth0 belongs to br0"), "{}", chain(&error));
}

#[test]
fn settings_of_a_vf_are_for_vfs() {
    let machine = Machine::with_links("vfs=1");
    let Preparation::Macvtap(on_vf) = Scene::PassthroughVf.preparation(1) else {
        panic!("a macvtap");
    };
    let on_nic = MacvtapPreparation {
        lower: name("eth0"),
        ..on_vf
    };
    let error = refused(&machine, Scene::PassthroughNic, &Preparation::Macvtap(on_nic));
    assert_eq!(error.kind(), ErrorKind::ConfigUnsupported, "{}", chain(&error));
}

#[test]
fn an_mtu_above_the_parents_is_told_with_what_to_do() {
    let machine = Machine::with_links("vfs=1");
    let asked = MacvtapPreparation {
        mtu: Some(9000),
        ..macvtap("eth0", DirectMode::Bridge, 1)
    };
    let scene = Scene::Shared(DirectMode::Bridge);
    let error = refused(&machine, scene, &Preparation::Macvtap(asked));
    assert!(chain(&error).ends_with("an MTU of 9000 is above that of 'eth0', 1500"));
    assert_eq!(
        error.obstacle.advice().as_deref(),
        Some("raise it first: ip link set eth0 mtu 9000")
    );
}

#[test]
fn a_bridge_has_to_be_one_and_a_tap_to_be_there() {
    let machine = Machine::with_links("vfs=1");
    let in_no_bridge = TapPreparation {
        bridge: Some(name("eth0")),
        ..tap(1)
    };
    let error = refused(&machine, Scene::Bridge, &Preparation::Tap(in_no_bridge));
    assert!(chain(&error).ends_with("network device 'eth0' is no bridge"));
    let nowhere = TapPreparation {
        name: Some(name("tap9")),
        existing: true,
        ..tap(1)
    };
    let error = refused(&machine, Scene::Existing, &Preparation::Tap(nowhere));
    assert!(chain(&error).ends_with("there is no network device 'tap9'"));
}

#[test]
fn without_vhost_a_guest_is_served_by_qemu_unless_it_insists() {
    let machine = Machine::with_links("vfs=1");
    machine.host.set_vhost(false);
    let assigner = machine.start();
    let found = machine.host.snapshot();
    let prepare = |vhost| {
        let claim = assigner.claim_link(None, guest(1), Origin::Interface).unwrap();
        assigner.prepare(claim, &Preparation::Tap(TapPreparation { vhost, ..tap(1) }))
    };
    let error = prepare(Vhost::Required).unwrap_err();
    assert!(chain(&error).ends_with("modprobe vhost_net"), "{}", chain(&error));
    assert_eq!(error.kind(), ErrorKind::ConfigUnsupported);
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
    for vhost in [Vhost::IfThere, Vhost::Never] {
        let lent = prepare(vhost).unwrap();
        let LentKind::Link { vhosts, .. } = &lent.kind else {
            panic!("a tap");
        };
        assert!(vhosts.is_empty());
        assigner.give_back(lent.generation).unwrap();
    }
}

#[test]
fn a_tap_that_is_not_ours_is_not_changed_and_not_removed() {
    let machine = Machine::with_links("vfs=1");
    let assigner = machine.start();
    let before = machine.host.netdev("tap0").unwrap();
    let claim = Scene::Existing.claim(&assigner, &machine, 1).unwrap();
    let lent = assigner.prepare(claim, &Scene::Existing.preparation(1)).unwrap();
    assert_eq!(netdev(&lent), &before);
    assert_eq!(machine.host.bandwidth(before.index), bandwidth());
    assigner.set_link_state(lent.generation, true).unwrap();
    assigner.give_back(lent.generation).unwrap();
    assert_eq!(machine.host.netdev("tap0").unwrap(), before);
    assert_eq!(machine.host.bandwidth(before.index), conf::Bandwidth::default());
}

#[test]
fn a_link_that_is_gone_is_off_the_list_when_it_is_given_back() {
    for scene in [Scene::Shared(DirectMode::Vepa), Scene::PassthroughVf, Scene::Bridge] {
        let machine = scene.machine();
        let assigner = machine.start();
        let found = machine.host.snapshot();
        let claim = scene.claim(&assigner, &machine, 1).unwrap();
        let lent = assigner.prepare(claim, &scene.preparation(1)).unwrap();
        let link = netdev(&lent);
        machine.host.delete_link(link.index, link.name).unwrap();
        assert!(assigner.set_link_state(lent.generation, true).is_err());
        assigner.give_back(lent.generation).unwrap();
        assert!(assigner.list().is_empty() && machine.records().is_empty());
        assert_eq!(found.differences(&machine.host.snapshot()), [""; 0], "{scene:?}");
    }
}

#[test]
fn a_vf_below_a_macvtap_that_vanishes_takes_its_link_with_it() {
    let scene = Scene::PassthroughVf;
    let machine = scene.machine();
    let assigner = machine.start();
    let claim = scene.claim(&assigner, &machine, 1).unwrap();
    let lent = assigner.prepare(claim, &scene.preparation(1)).unwrap();
    machine.host.remove_vf(machine.vf(0));
    assert!(assigner.give_back(lent.generation).unwrap().vanished);
    assert!(assigner.list().is_empty() && machine.records().is_empty());
}

#[test]
fn a_plan_of_a_link_tells_the_steps_and_takes_none() {
    let machine = Machine::with_links("vfs=1");
    let assigner = machine.start();
    let effects = machine.host.effect_count();
    let planned = |item, scene: Scene| {
        let plan = assigner.plan(item, &guest(1), &scene.preparation(1)).unwrap();
        plan.steps.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let shared = Scene::Shared(DirectMode::Vepa);
    assert_eq!(
        planned(Item::PLANNED_LINK, shared),
        [
            "make macvtap0 on eth0 in vepa mode",
            "let all multicasts in",
            "limit its bandwidth",
            "associate it with the switch by 802.1Qbg",
            "open 2 queues of macvtap0",
            "open /dev/vhost-net",
        ]
    );
    let vf = DeviceId::Pci(machine.vf(0));
    assert_eq!(
        planned(Item::Device(vf), Scene::PassthroughVf)[..3],
        [
            "set VLAN 42",
            "give sim0v0 the MAC 52:54:00:00:00:01",
            "make macvtap0 on sim0v0 in passthrough mode",
        ]
    );
    assert_eq!(
        planned(Item::PLANNED_LINK, Scene::Bridge),
        [
            "make vnet0 with an MTU of 1500",
            "put it into br0",
            "as a port of it: isolation, no learning, no flooding",
            "limit its bandwidth",
            "open /dev/vhost-net if it is there",
            "switch it on",
        ]
    );
    assert_eq!(machine.host.effect_count(), effects);
    assert!(assigner.list().is_empty());
}

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
    let lent = assigner.prepare(claim, &Preparation::Macvtap(asked)).unwrap();
    let action = || machine.host.port_profiles().get(&mac(1)).map(|request| request.action);
    assert_eq!(action(), Some(host::PortAction::PreAssociate));
    // The guest has arrived.
    assigner.associate(lent.generation, host::PortAction::Associate).unwrap();
    assert_eq!(action(), Some(host::PortAction::Associate));
    assigner.give_back(lent.generation).unwrap();
    assert_eq!(action(), None);
}

#[test]
fn a_switch_that_refuses_is_told_and_all_is_undone() {
    let machine = Machine::with_links("vfs=1");
    let assigner = machine.start();
    let found = machine.host.snapshot();
    machine.host.set_port_answer(host::PortAnswer::Refuse("no such VSI type".into()));
    let scene = Scene::Shared(DirectMode::Vepa);
    let claim = scene.claim(&assigner, &machine, 1).unwrap();
    let error = assigner.prepare(claim, &scene.preparation(1)).unwrap_err();
    assert!(chain(&error).contains("no such VSI type"), "{}", chain(&error));
    assert!(error.undo.is_empty());
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
    assert!(assigner.list().is_empty() && machine.records().is_empty());
}

#[test]
fn two_links_that_want_one_name_get_two() {
    let machine = Machine::with_links("vfs=1");
    let assigner = machine.start();
    let eth0 = machine.host.netdev("eth0").unwrap();
    // Somebody takes the name between the choice and the making.
    let hooked = common::hooked::Hooked {
        before_make: {
            let host = machine.host.clone();
            let taken = std::sync::Once::new();
            Box::new(move || taken.call_once(|| drop(host.add_nic("macvtap0"))))
        },
        ..common::hooked::Hooked::plain(machine.host.clone())
    };
    drop(assigner);
    let (assigner, _) = machine.open_with(std::sync::Arc::new(hooked));
    let scene = Scene::Shared(DirectMode::Bridge);
    let claim = scene.claim(&assigner, &machine, 1).unwrap();
    let lent = assigner.prepare(claim, &scene.preparation(1)).unwrap();
    assert_eq!(netdev(&lent).name, name("macvtap1"));
    let record = std::fs::read_to_string(machine.journal().join(&machine.records()[0])).unwrap();
    assert!(record.contains("\"name\": \"macvtap1\""), "{record}");
    assert_eq!(netdev(&lent).lower, Some(eth0.index));
    assigner.give_back(lent.generation).unwrap();
    assert!(machine.has("macvtap0") && !machine.has("macvtap1"));
}

#[test]
fn a_fault_when_the_link_is_switched_on_leaves_it_lent() {
    let machine = Machine::with_links("vfs=1");
    let assigner = machine.start();
    let scene = Scene::Shared(DirectMode::Bridge);
    let claim = scene.claim(&assigner, &machine, 1).unwrap();
    let lent = assigner.prepare(claim, &scene.preparation(1)).unwrap();
    machine.host.fail(Fault::of(Operation::SetUp, 5));
    let error = assigner.set_link_state(lent.generation, true).unwrap_err();
    let text = chain(&error);
    assert!(text.starts_with("cannot change link-1.1, lent to guest 'web1': "), "{text}");
    assert!(text.ends_with("(os error 5)"), "{text}");
    assigner.set_link_state(lent.generation, true).unwrap();
    assigner.give_back(lent.generation).unwrap();
}
