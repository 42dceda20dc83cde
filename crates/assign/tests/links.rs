//! Macvtaps and taps, made for a guest and taken back.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod common;

use assign::{
    ClaimError, Item, Kind, Lent, LentKind, MacvtapPreparation, Origin, Phase, Preparation,
};
use common::scenes::{Scene, bandwidth, macvtap, name};
use common::{Machine, chain, guest, lend, mac, ordinary};
use conf::{DeviceId, DirectMode};
use host::{Fault, Host, Ipv6Autoconf, Links, Netdev, Operation};

fn netdev(lent: &Lent) -> &Netdev {
    match &lent.kind {
        LentKind::Link { netdev, .. } => netdev,
        LentKind::Vfio { .. } | LentKind::Usb { .. } => panic!("{} is no link", lent.item),
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
        assert_eq!((&line.phase, &line.holder), (&Phase::Lent, &guest(1)));
        assert_eq!(line.item, lent.item);
        assert_eq!(line.device(), scene.device(&machine), "{scene:?}");
        assert_eq!(
            assigner.of_guest(guest(1).guest),
            std::slice::from_ref(line)
        );
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
        assert_eq!(returned.holder, guest(1));
        assert_eq!(
            found.differences(&machine.host.snapshot()),
            [""; 0],
            "{scene:?}"
        );
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
    let names: Vec<_> = lent
        .iter()
        .map(|lent| netdev(lent).name.to_string())
        .collect();
    assert_eq!(names, ["macvtap0", "macvtap1", "macvtap2"]);
    let line = assigner.find(lent[1].item).unwrap();
    assert_eq!(
        (line.parent, line.mode, line.kind),
        (Some(eth0), Some(DirectMode::Bridge), Some(Kind::Macvtap))
    );

    // Whole, it is nobody's.
    let refused = assigner
        .claim(eth0, guest(4), Origin::Interface)
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!("device {eth0} is shared by macvtaps of guests 'web1', 'web2', 'web3'")
    );
    // The name of one that went is free again.
    assigner.give_back(lent.remove(1).generation).unwrap();
    let claim = assigner
        .claim_link(Some(eth0), guest(5), Origin::Interface)
        .unwrap();
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
    assert!(
        matches!(refused, Err(ClaimError::Taken { .. })),
        "{refused:?}"
    );
    assert_eq!(assigner.connections(vf.into()), 1);
    // The PF serves the host, and macvtaps, beside it.
    let pf = machine.device("sim0");
    let claim = assigner
        .claim_link(Some(pf), guest(2), Origin::Interface)
        .unwrap();
    let preparation = Preparation::Macvtap(macvtap("sim0", DirectMode::Bridge, 2));
    assert!(assigner.prepare(claim, &preparation).is_ok());
}

#[test]
fn a_macvtap_is_as_it_was_asked_for() {
    let machine = Machine::with_links("vfs=1");
    let assigner = machine.start();
    let claim = Scene::Shared(DirectMode::Vepa)
        .claim(&assigner, &machine, 1)
        .unwrap();
    let asked = MacvtapPreparation {
        name: Some(name("web")),
        mtu: Some(1400),
        ..macvtap("eth0", DirectMode::Vepa, 1)
    };
    let lent = assigner
        .prepare(claim, &Preparation::Macvtap(asked))
        .unwrap();
    let link = netdev(&lent);
    assert_eq!(
        (link.name, link.mac, link.state.mtu),
        (name("web"), mac(1), 1400)
    );
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
    let claim = Scene::Shared(DirectMode::Vepa)
        .claim(&assigner, &machine, 1)
        .unwrap();
    let asked = MacvtapPreparation {
        all_multicast: false,
        ..macvtap("eth0", DirectMode::Vepa, 1)
    };
    let lent = assigner
        .prepare(claim, &Preparation::Macvtap(asked))
        .unwrap();
    assert!(
        !machine
            .host
            .rx_filter(netdev(&lent).index)
            .unwrap()
            .all_multicast
    );
}

#[test]
fn a_tap_stands_in_its_bridge_with_a_mac_of_its_own() {
    let machine = Machine::with_links("vfs=1");
    let assigner = machine.start();
    let bridge = machine.host.netdev("br0").unwrap();
    machine.host.set_mtu(bridge.index, 1420).unwrap();
    let claim = Scene::Bridge.claim(&assigner, &machine, 1).unwrap();
    let lent = assigner
        .prepare(claim, &Scene::Bridge.preparation(1))
        .unwrap();
    let link = netdev(&lent);
    assert_eq!(
        (link.name, link.master),
        (name("vnet0"), Some(bridge.index))
    );
    assert_eq!(link.mac.to_string(), "fe:54:00:00:00:01");
    assert_eq!(link.state.mtu, 1420, "the bridge's");
    assert!(link.state.up);
    let line = assigner.find(lent.item).unwrap();
    assert_eq!(
        (line.kind, line.bridge),
        (Some(Kind::Tap), Some(name("br0")))
    );
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
fn a_tap_that_is_not_ours_is_not_changed_and_not_removed() {
    let machine = Machine::with_links("vfs=1");
    let assigner = machine.start();
    let before = machine.host.netdev("tap0").unwrap();
    let claim = Scene::Existing.claim(&assigner, &machine, 1).unwrap();
    let lent = assigner
        .prepare(claim, &Scene::Existing.preparation(1))
        .unwrap();
    assert_eq!(netdev(&lent), &before);
    assert_eq!(machine.host.bandwidth(before.index), bandwidth());
    assigner.set_link_state(lent.generation, true).unwrap();
    assigner.give_back(lent.generation).unwrap();
    assert_eq!(machine.host.netdev("tap0").unwrap(), before);
    assert_eq!(
        machine.host.bandwidth(before.index),
        conf::Bandwidth::default()
    );
}

#[test]
fn a_link_that_is_gone_is_off_the_list_when_it_is_given_back() {
    for scene in [
        Scene::Shared(DirectMode::Vepa),
        Scene::PassthroughVf,
        Scene::Bridge,
    ] {
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
        assert_eq!(
            found.differences(&machine.host.snapshot()),
            [""; 0],
            "{scene:?}"
        );
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
        let plan = assigner
            .plan(item, &guest(1), &scene.preparation(1))
            .unwrap();
        plan.steps
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
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
        planned(Item::Device(vf), Scene::PassthroughVf)[..4],
        [
            "set VLAN 42",
            "give sim0v0 the MAC 52:54:00:00:00:01",
            "keep the host from taking IPv6 addresses on sim0v0",
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
fn a_guests_mac_is_in_the_bridges_table_while_it_runs() {
    let scene = Scene::Bridge;
    let machine = scene.machine();
    let assigner = machine.start();
    let claim = scene.claim(&assigner, &machine, 1).unwrap();
    let lent = assigner.prepare(claim, &scene.preparation(1)).unwrap();
    let table = || machine.host.bridge_macs("vnet0");
    assert_eq!(table(), []);
    assigner.set_link_state(lent.generation, true).unwrap();
    assert_eq!(table(), [mac(1)]);
    assigner.set_link_state(lent.generation, false).unwrap();
    assert_eq!(table(), []);
    assert!(
        machine.host.netdev("vnet0").unwrap().state.up,
        "a tap stays up"
    );
}

#[test]
fn a_vf_below_a_macvtap_gets_mac_and_vlan_and_keeps_its_driver() {
    for (scene, through_pf) in [
        (Scene::PassthroughVf, false),
        (Scene::PassthroughLockedVf, true),
    ] {
        let machine = scene.machine();
        let assigner = machine.start();
        let claim = scene.claim(&assigner, &machine, 1).unwrap();
        let lent = assigner.prepare(claim, &scene.preparation(1)).unwrap();
        let vf = machine.host.virtual_function(machine.vf(0)).unwrap();
        let state = machine.host.vf_state(&vf).unwrap();
        assert_eq!(state.netdev, Some(("sim0v0".into(), mac(1))), "{scene:?}");
        assert_eq!((state.driver.as_deref(), state.vlan), (Some("simvf"), 42));
        // Its PF gives it the MAC only where it holds on to one.
        assert_eq!(state.mac == mac(1), through_pf, "{scene:?}");
        assert_eq!(netdev(&lent).mac, mac(1));
        let line = assigner.find(lent.item).unwrap();
        assert_eq!(
            (line.vf, line.mode),
            (Some(vf), Some(DirectMode::Passthrough))
        );
    }
}

#[test]
fn an_igb_vf_below_a_macvtap_comes_back_as_it_was() {
    for scene in [Scene::PassthroughVf, Scene::PassthroughLockedVf] {
        let machine = scene.machine();
        machine.host.set_quirks(host::Quirks::igb());
        let assigner = machine.start();
        let lend = |n| {
            let claim = scene.claim(&assigner, &machine, n).unwrap();
            let lent = assigner.prepare(claim, &scene.preparation(n)).unwrap();
            assigner.set_link_state(lent.generation, true).unwrap();
            assigner.give_back(lent.generation).unwrap();
        };
        // Its PF lists the MAC that the VF's driver made up, once it has heard it.
        lend(1);
        let found = machine.host.snapshot();
        lend(2);
        assert_eq!(
            found.differences(&machine.host.snapshot()),
            [""; 0],
            "{scene:?}"
        );
    }
}

#[test]
fn a_device_that_takes_no_mac_while_it_is_up_is_switched_off_for_it() {
    let scene = Scene::PassthroughNic;
    let machine = scene.machine();
    let assigner = machine.start();
    let found = machine.host.snapshot();
    let prepare = || {
        let claim = scene.claim(&assigner, &machine, 1).unwrap();
        assigner.prepare(claim, &scene.preparation(1)).unwrap()
    };
    machine.host.fail(Fault::of(Operation::SetNetdevMac, 16));
    let lent = prepare();
    assert!(!machine.host.netdev("eth0").unwrap().state.up);
    assigner.set_link_state(lent.generation, true).unwrap();
    assert!(machine.host.netdev("eth0").unwrap().state.up);
    machine.host.fail(Fault::of(Operation::SetNetdevMac, 16));
    assigner.give_back(lent.generation).unwrap();
    assert_eq!(machine.host.waiting_faults(), 0);
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
}

/// A router is heard while the card is up for guests; the host takes nothing from it, and the card
/// can be lent again.
#[test]
fn a_card_that_is_up_for_guests_only_gives_the_host_no_ipv6_addresses() {
    for scene in [Scene::SharedDown, Scene::PassthroughDown] {
        let machine = scene.machine();
        let found = machine.host.snapshot();
        let assigner = machine.start();
        let claim = scene.claim(&assigner, &machine, 1).unwrap();
        let lent = assigner.prepare(claim, &scene.preparation(1)).unwrap();
        assigner.set_link_state(lent.generation, true).unwrap();
        let card = machine.host.netdev("eth0").unwrap();
        assert!(card.state.up, "{scene:?}");
        assert_eq!(
            machine.host.ipv6_autoconf(card.index).unwrap(),
            Some(Ipv6Autoconf::NONE),
            "{scene:?}"
        );
        machine.host.advertise_router();
        assert_eq!(machine.host.netdev_usage(&card).unwrap(), [], "{scene:?}");
        assigner.give_back(lent.generation).unwrap();
        assert_eq!(
            found.differences(&machine.host.snapshot()),
            [""; 0],
            "{scene:?}"
        );
        let whole = Scene::PassthroughDown;
        let claim = whole.claim(&assigner, &machine, 2).unwrap();
        assert!(assigner.prepare(claim, &whole.preparation(2)).is_ok());
    }
}

#[test]
fn the_last_of_two_links_gives_the_card_its_ipv6_settings_back() {
    let machine = Scene::SharedDown.machine();
    let card = machine.host.netdev("eth0").unwrap();
    machine.host.set_accept_ra(card.index, 2).unwrap();
    let found = machine.host.snapshot();
    let assigner = machine.start();
    let lent: Vec<_> = [1, 2]
        .map(|n| {
            let claim = Scene::SharedDown.claim(&assigner, &machine, n).unwrap();
            let preparation = Scene::SharedDown.preparation(n);
            let lent = assigner.prepare(claim, &preparation).unwrap();
            assigner.set_link_state(lent.generation, true).unwrap();
            lent.generation
        })
        .into();
    assigner.give_back(lent[0]).unwrap();
    let card = machine.host.netdev("eth0").unwrap();
    assert!(card.state.up);
    assert_eq!(
        machine.host.ipv6_autoconf(card.index).unwrap(),
        Some(Ipv6Autoconf::NONE)
    );
    assigner.give_back(lent[1]).unwrap();
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
}

#[test]
fn a_card_that_the_host_has_up_keeps_its_ipv6_settings_while_guests_share_it() {
    let machine = Machine::with_links("vfs=1");
    let scene = Scene::Shared(DirectMode::Bridge);
    let assigner = machine.start();
    let claim = scene.claim(&assigner, &machine, 1).unwrap();
    let lent = assigner.prepare(claim, &scene.preparation(1)).unwrap();
    assigner.set_link_state(lent.generation, true).unwrap();
    machine.host.advertise_router();
    let card = machine.host.netdev("eth0").unwrap();
    assert_eq!(machine.host.netdev_usage(&card).unwrap().len(), 2);
}

#[test]
fn a_card_whose_ipv6_can_not_be_switched_off_is_not_raised_and_comes_back() {
    for operation in [
        Operation::ReadIpv6,
        Operation::SetAddrGenMode,
        Operation::SetAcceptRa,
    ] {
        let machine = Scene::SharedDown.machine();
        let found = machine.host.snapshot();
        let assigner = machine.start();
        let claim = Scene::SharedDown.claim(&assigner, &machine, 1).unwrap();
        let preparation = Scene::SharedDown.preparation(1);
        let lent = assigner.prepare(claim, &preparation).unwrap();
        machine.host.fail(Fault::of(operation, 30));
        let refused = assigner.set_link_state(lent.generation, true).unwrap_err();
        assert!(chain(&refused).contains("of 'eth0'"), "{}", chain(&refused));
        assert!(!machine.host.netdev("eth0").unwrap().state.up);
        assigner.give_back(lent.generation).unwrap();
        assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
    }
}
