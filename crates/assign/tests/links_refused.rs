//! Macvtaps and taps that are not made, or not as asked; nothing is changed, or all of it is undone.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod common;

use assign::{
    Claim, ErrorKind, LentKind, MacvtapPreparation, Origin, Preparation, TapPreparation, Vhost,
};
use common::scenes::{Scene, macvtap, name, tap};
use common::{Machine, chain, guest, mac, ordinary};
use conf::{DeviceId, DirectMode};
use host::{Fault, Links, Operation};

#[test]
fn a_link_needs_the_claim_that_fits_it() {
    let machine = Machine::with_links("vfs=1");
    let assigner = machine.start();
    let eth0 = machine.device("eth0");
    let whole = || assigner.claim(eth0, guest(1), Origin::Interface).unwrap();
    let shared = || {
        assigner
            .claim_link(Some(eth0), guest(1), Origin::Interface)
            .unwrap()
    };
    let alone = || {
        assigner
            .claim_link(None, guest(1), Origin::Interface)
            .unwrap()
    };
    let bridge_mode = Preparation::Macvtap(macvtap("eth0", DirectMode::Bridge, 1));
    let passthrough = Preparation::Macvtap(macvtap("eth0", DirectMode::Passthrough, 1));
    let tap = Preparation::Tap(tap(1));
    let claims: [(&dyn Fn() -> Claim, _); 6] = [
        (&whole, &bridge_mode),
        (&whole, &tap),
        (&shared, &passthrough),
        (&shared, &tap),
        (&shared, &ordinary(1)),
        (&alone, &bridge_mode),
    ];
    for (claim, preparation) in claims {
        let error = assigner.prepare(claim(), preparation).unwrap_err();
        assert!(
            chain(&error).contains("chosen for another use"),
            "{}",
            chain(&error)
        );
        assert!(assigner.list().is_empty() && machine.records().is_empty());
    }
    let other = assigner
        .claim(machine.vf(0).into(), guest(1), Origin::Interface)
        .unwrap();
    let error = assigner.prepare(other, &passthrough).unwrap_err();
    assert!(
        chain(&error).contains("'eth0' does not belong to"),
        "{}",
        chain(&error)
    );
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
    assert!(
        error
            .obstacle
            .advice()
            .unwrap()
            .contains("ip link set eth0 nomaster")
    );
    assert!(error.is_about_this_device());
    let passthrough = Preparation::Macvtap(macvtap("eth0", DirectMode::Passthrough, 1));
    let error = refused(&machine, Scene::PassthroughNic, &passthrough);
    assert!(
        chain(&error).ends_with("it is in use: eth0 belongs to br0"),
        "{}",
        chain(&error)
    );
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
    let error = refused(
        &machine,
        Scene::PassthroughNic,
        &Preparation::Macvtap(on_nic),
    );
    assert_eq!(
        error.kind(),
        ErrorKind::ConfigUnsupported,
        "{}",
        chain(&error)
    );
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
        let claim = assigner
            .claim_link(None, guest(1), Origin::Interface)
            .unwrap();
        assigner.prepare(claim, &Preparation::Tap(TapPreparation { vhost, ..tap(1) }))
    };
    let error = prepare(Vhost::Required).unwrap_err();
    assert!(
        chain(&error).ends_with("modprobe vhost_net"),
        "{}",
        chain(&error)
    );
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
fn a_fault_when_the_link_is_switched_on_leaves_it_lent() {
    let machine = Machine::with_links("vfs=1");
    let assigner = machine.start();
    let scene = Scene::Shared(DirectMode::Bridge);
    let claim = scene.claim(&assigner, &machine, 1).unwrap();
    let lent = assigner.prepare(claim, &scene.preparation(1)).unwrap();
    machine.host.fail(Fault::of(Operation::SetUp, 5));
    let error = assigner.set_link_state(lent.generation, true).unwrap_err();
    let text = chain(&error);
    assert!(
        text.starts_with("cannot change a tap device, lent to guest 'web1': "),
        "{text}"
    );
    assert!(text.ends_with("(os error 5)"), "{text}");
    assigner.set_link_state(lent.generation, true).unwrap();
    assigner.give_back(lent.generation).unwrap();
}

#[test]
fn what_was_set_and_not_kept_is_a_failure() {
    let plain_port = Preparation::Tap(TapPreparation {
        bridge: Some(name("br0")),
        ..tap(1)
    });
    for (deaf_to, scene, told) in [
        (
            Operation::SetMaster,
            Scene::Bridge,
            "bridge br0 was set, and no bridge is read back",
        ),
        (
            Operation::SetRxFilter,
            Scene::Shared(DirectMode::Vepa),
            "all multicasts was set, and not all multicasts is read back",
        ),
        (
            Operation::SetUp,
            Scene::Ethernet,
            "up was set, and down is read back",
        ),
        (
            Operation::SetNetdevMac,
            Scene::PassthroughNic,
            "MAC 52:54:00:00:00:01 was set, and MAC 3a:5b:00:00:00:00 is read back",
        ),
    ] {
        let machine = scene.machine();
        let deaf = common::hooked::Hooked {
            deaf_to: Some(deaf_to),
            ..common::hooked::Hooked::plain(machine.host.clone())
        };
        let found = machine.host.snapshot();
        let (assigner, _) = machine.open_with(std::sync::Arc::new(deaf));
        let claim = scene.claim(&assigner, &machine, 1).unwrap();
        let preparation = match scene {
            Scene::Bridge => plain_port.clone(),
            _ => scene.preparation(1),
        };
        let error = assigner.prepare(claim, &preparation).unwrap_err();
        assert!(chain(&error).ends_with(told), "{}", chain(&error));
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert_eq!(
            found.differences(&machine.host.snapshot()),
            [""; 0],
            "{scene:?}"
        );
    }
}

#[test]
fn a_mac_that_another_on_the_same_card_has_is_told_with_its_holder() {
    let machine = Machine::with_links("vfs=1");
    let assigner = machine.start();
    let shared = |n, mac| {
        let claim = assigner
            .claim_link(Some(machine.device("eth0")), guest(n), Origin::Interface)
            .unwrap();
        let preparation = MacvtapPreparation {
            mac,
            ..macvtap("eth0", DirectMode::Bridge, n)
        };
        assigner.prepare(claim, &Preparation::Macvtap(preparation))
    };
    let _first = shared(1, mac(1)).unwrap();
    let effects = machine.host.effect_count();
    let refused = shared(2, mac(1)).unwrap_err();
    assert_eq!(
        refused.obstacle.to_string(),
        "the MAC 52:54:00:00:00:01 on 'eth0' is that of 'macvtap0', made for guest 'web1'"
    );
    let own = machine.host.netdev("eth0").unwrap().mac;
    let refused = shared(3, own).unwrap_err();
    assert_eq!(
        refused.obstacle.to_string(),
        format!("the MAC {own} on 'eth0' is that of 'eth0' itself")
    );
    assert!(refused.obstacle.advice().is_some());
    assert_eq!(machine.host.effect_count(), effects);
    assert!(shared(4, mac(4)).is_ok());
}

#[test]
fn the_loopback_device_carries_no_macvtap() {
    let machine = Machine::with_links("vfs=1");
    machine.host.add_netdev("lo", "loopback", None).unwrap();
    let assigner = machine.start();
    for mode in [DirectMode::Bridge, DirectMode::Passthrough] {
        let lo = DeviceId::Netdev(name("lo"));
        let claim = match mode {
            DirectMode::Passthrough => assigner.claim(lo, guest(1), Origin::Interface),
            _ => assigner.claim_link(Some(lo), guest(1), Origin::Interface),
        };
        let preparation = Preparation::Macvtap(macvtap("lo", mode, 1));
        let refused = assigner.prepare(claim.unwrap(), &preparation).unwrap_err();
        assert_eq!(
            refused.obstacle.to_string(),
            "'lo' is the loopback device, and a macvtap needs an Ethernet card, a bond or a VLAN \
             below it"
        );
        assert_eq!(refused.kind(), ErrorKind::ConfigUnsupported);
    }
}

#[test]
fn a_guests_own_link_carries_no_other_guests() {
    let machine = Machine::with_links("vfs=1");
    let assigner = machine.start();
    let eth0 = assigner
        .claim_link(Some(machine.device("eth0")), guest(1), Origin::Interface)
        .unwrap();
    let first = Preparation::Macvtap(macvtap("eth0", DirectMode::Bridge, 1));
    assert!(assigner.prepare(eth0, &first).is_ok());
    for mode in [DirectMode::Bridge, DirectMode::Passthrough] {
        let tap = DeviceId::Netdev(name("macvtap0"));
        let claim = match mode {
            DirectMode::Passthrough => assigner.claim(tap, guest(2), Origin::Interface),
            _ => assigner.claim_link(Some(tap), guest(2), Origin::Interface),
        };
        let above = Preparation::Macvtap(macvtap("macvtap0", mode, 2));
        let refused = assigner.prepare(claim.unwrap(), &above).unwrap_err();
        let told = refused.obstacle.to_string();
        assert!(
            told.starts_with("'macvtap0' is a guest's own link"),
            "{told}"
        );
    }
}

#[test]
fn an_mtu_that_no_link_has_is_refused_before_one_is_made() {
    for mtu in [9, 65_522] {
        let machine = Machine::with_links("vfs=1");
        let small = MacvtapPreparation {
            mtu: Some(mtu),
            ..macvtap("eth0", DirectMode::Passthrough, 1)
        };
        let error = refused(
            &machine,
            Scene::PassthroughNic,
            &Preparation::Macvtap(small),
        );
        assert!(chain(&error).contains("68 to 65521"), "{}", chain(&error));
        let small = TapPreparation {
            mtu: Some(mtu),
            ..tap(1)
        };
        let error = refused(&machine, Scene::Ethernet, &Preparation::Tap(small));
        assert!(chain(&error).contains("68 to 65521"), "{}", chain(&error));
    }
}
