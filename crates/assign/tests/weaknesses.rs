//! What is known to go wrong with libvirt, and holds here; by the numbers of the list that all tests
//! of that kind share.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod common;

use assign::{
    ErrorKind, Lent, LentKind, MacvtapPreparation, Obstacle, Origin, Phase, Preparation,
    ReturnError, VfioPreparation,
};
use common::scenes::{Scene, macvtap, name};
use common::{
    Machine, chain, claim, everything, guest, lend, mac, mac_and_vlan, managed, ordinary,
    until_crash, vfio,
};
use conf::{DirectMode, HostBackend, HostDriver, MacAddress};
use host::{Effect, Fault, Host, Links, Netdev, Operation, PortAction, Quirks, Usage, VfSetting};

const EIO: i32 = 5;

fn prepare(machine: &Machine, assigner: &assign::Assigner, scene: Scene) -> Lent {
    let claim = scene.claim(assigner, machine, 1).unwrap();
    assigner.prepare(claim, &scene.preparation(1)).unwrap()
}

fn netdev(lent: &Lent) -> &Netdev {
    match &lent.kind {
        LentKind::Link { netdev, .. } => netdev,
        LentKind::Vfio { .. } | LentKind::Usb { .. } => panic!("{} is no link", lent.item),
    }
}

#[test]
fn weakness_21_the_state_found_first_is_kept_until_it_is_restored() {
    let machine = Machine::new("vfs=1");
    let vf = machine.vf(0);
    let found = machine.host.snapshot();
    // Killed when the VF has the guest's MAC and VLAN …
    let assigner = machine.start();
    machine.host.crash_after(2);
    assert!(until_crash(|| lend(&assigner, vf, 1, &ordinary(1)).is_ok()).is_none());
    std::mem::forget(assigner);
    // … and, at the next start, not to be restored: what was found is not lost, nor overwritten
    // by another guest's.
    machine.host.restart_caller();
    machine
        .host
        .fail(Fault::of(Operation::SetMac, EIO).always());
    let (assigner, findings) = machine.restart(|_| false);
    assert!(findings[0].to_string().contains("could not be restored"));
    assert_eq!(machine.records().len(), 1);
    assert!(claim(&assigner, vf, 2).is_err());
    machine.host.heal();
    let generation = assigner.list()[0].generation;
    assigner.give_back(generation).unwrap();
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
    assert!(machine.records().is_empty());
}

#[test]
fn weakness_22_a_half_set_vf_is_rolled_back_and_leaves_no_record() {
    for operation in [Operation::SetVlan, Operation::Bind, Operation::GrantVfio] {
        let machine = Machine::new("vfs=1");
        let (assigner, vf) = (machine.start(), machine.vf(0));
        let found = machine.host.snapshot();
        machine.host.fail(Fault::of(operation, EIO).partial());
        let error = lend(&assigner, vf, 1, &ordinary(1)).unwrap_err();
        assert!(error.undo.is_empty(), "{}", chain(&error));
        assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
        assert!(assigner.list().is_empty() && machine.records().is_empty());
    }
}

#[test]
fn weakness_23_no_made_up_mac_is_left_when_the_vlan_is_refused() {
    for zero_mac in [true, false] {
        let machine = Machine::new("vfs=1");
        machine.host.set_quirks(Quirks {
            zero_mac,
            ..Quirks::default()
        });
        let vf = machine.host.virtual_function(machine.vf(0)).unwrap();
        let own = machine.host.vf_state(&vf).unwrap().netdev.unwrap().1;
        machine.host.fail(Fault::of(Operation::SetVlan, 22));
        let assigner = machine.start();
        assert!(lend(&assigner, machine.vf(0), 1, &ordinary(1)).is_err());
        let macs: Vec<_> = (machine.host.effects().into_iter())
            .filter_map(|effect| match effect {
                Effect::Set(_, VfSetting::Mac(mac)) => Some(mac),
                _ => None,
            })
            .collect();
        // There and back; where no driver takes zeroes, back to the VF's own.
        let back = if zero_mac { MacAddress::ZERO } else { own };
        assert_eq!(macs, [mac(1), back]);
    }
}

#[test]
fn weakness_24_it_is_checked_that_drivers_took_the_device_and_that_nobody_used_it() {
    let machine = Machine::new("vfs=2");
    let (assigner, vf) = (machine.start(), machine.vf(0));
    machine.host.refuse_driver(vf, "vfio-pci");
    let error = lend(&assigner, vf, 1, &ordinary(1)).unwrap_err();
    assert!(
        chain(&error).contains("'vfio-pci' did not take"),
        "{}",
        chain(&error)
    );

    let other = machine.vf(1);
    let lent = lend(&assigner, other, 1, &ordinary(1)).unwrap();
    machine.host.refuse_driver(other, "simvf");
    let error = assigner.give_back(lent.generation).unwrap_err();
    assert!(matches!(error, ReturnError::Dirty { .. }));
    assert!(chain(&error).contains("it had driver simvf, and has no driver"));

    for usage in [
        Usage::Addressed {
            netdev: "sim0v0".into(),
            address: "10.0.0.5/24".into(),
        },
        Usage::Enslaved {
            netdev: "sim0v0".into(),
            master: "bond0".into(),
        },
    ] {
        machine.host.set_usage(vf, vec![usage]);
        let error = lend(&assigner, vf, 1, &ordinary(1)).unwrap_err();
        assert!(matches!(*error.obstacle, Obstacle::InUse(_)));
        let claim = assigner.claim(vf.into(), guest(1), Origin::Interface);
        let preparation = Scene::PassthroughVf.preparation(1);
        let error = assigner.prepare(claim.unwrap(), &preparation).unwrap_err();
        assert!(matches!(*error.obstacle, Obstacle::InUse(_)));
    }
}

#[test]
fn weakness_25_a_device_that_a_crash_left_on_vfio_gets_its_driver_back() {
    let machine = Machine::new("vfs=1");
    let found = machine.host.snapshot();
    let assigner = machine.start();
    let _lent = lend(&assigner, machine.vf(0), 1, &ordinary(1)).unwrap();
    drop(assigner);
    let (assigner, _) = machine.restart(|_| false);
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
    // One that an administrator put there stays as it was found, and is told.
    machine.host.bind_by_hand(machine.vf(0), Some("vfio-pci"));
    let found = machine.host.snapshot();
    let told = assigner.reconcile(|_| true);
    assert!(
        told[0]
            .to_string()
            .ends_with("has driver vfio-pci, and is lent to nobody")
    );
    let lent = lend(&assigner, machine.vf(0), 1, &ordinary(1)).unwrap();
    assigner.give_back(lent.generation).unwrap();
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
}

#[test]
fn weakness_26_after_a_restart_it_is_known_what_each_device_had() {
    let machine = Machine::new("vfs=2");
    let unmanaged = Preparation::Vfio(VfioPreparation {
        managed: false,
        ..vfio(Some(mac_and_vlan(2)))
    });
    machine.host.bind_by_hand(machine.vf(1), Some("vfio-pci"));
    let found = machine.host.snapshot();
    let assigner = machine.start();
    let _managed = lend(&assigner, machine.vf(0), 1, &ordinary(1)).unwrap();
    let _unmanaged = lend(&assigner, machine.vf(1), 2, &unmanaged).unwrap();
    drop(assigner);
    let (assigner, _) = machine.restart(|_| true);
    let had: Vec<_> = (assigner.list().into_iter())
        .map(|line| line.host_driver.unwrap())
        .collect();
    assert_eq!(had, ["simvf", "vfio-pci"]);
    for line in assigner.list() {
        assigner.give_back(line.generation).unwrap();
    }
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
}

#[test]
fn weakness_27_a_vf_that_went_while_nobody_looked_is_told_and_taken_from_no_guest() {
    let machine = Machine::new("vfs=2");
    let assigner = machine.start();
    let _kept = lend(&assigner, machine.vf(0), 1, &ordinary(1)).unwrap();
    let _lost = lend(&assigner, machine.vf(1), 1, &ordinary(1)).unwrap();
    drop(assigner);
    let lost = machine.vf(1);
    machine.host.remove_vf(lost);
    let (assigner, findings) = machine.restart(|_| true);
    let texts: Vec<_> = findings.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [format!(
            "{lost}, lent to guest 'web1', is not there any more"
        )]
    );
    assert!(assigner.list().iter().all(|line| line.phase == Phase::Lent));
}

#[test]
fn weakness_28_a_missing_device_is_an_error_with_its_name() {
    let machine = Machine::with_links("vfs=1");
    let vf = machine.vf(0);
    machine.host.remove_vf(vf);
    let assigner = machine.start();
    for preparation in [ordinary(1), managed(None)] {
        let error = lend(&assigner, vf, 1, &preparation).unwrap_err();
        assert!(chain(&error).ends_with(&format!("there is no PCI device {vf}")));
        assert!(error.is_about_this_device());
    }
    let claim = assigner.claim(vf.into(), guest(1), Origin::Interface);
    let passthrough = Scene::PassthroughVf.preparation(1);
    let error = assigner.prepare(claim.unwrap(), &passthrough).unwrap_err();
    assert!(chain(&error).ends_with("there is no network device 'sim0v0'"));
}

#[test]
fn weakness_29_members_of_the_group_that_the_host_has_are_named_before_anything_is_done() {
    let machine = Machine::new("vfs=1");
    let member = machine.host.add_group_member(machine.vf(0), Some("ahci"));
    let error = lend(&machine.start(), machine.vf(0), 1, &ordinary(1)).unwrap_err();
    let text = chain(&error);
    assert!(
        text.ends_with(&format!("driver 'ahci' has {}", member.unwrap())),
        "{text}"
    );
    assert_eq!(machine.host.effect_count(), 0);
}

#[test]
fn weakness_30_a_back_end_that_is_gone_is_refused_by_name_at_once() {
    let machine = Machine::new("vfs=1");
    let assigner = machine.start();
    for (backend, word) in [(HostBackend::Kvm, "kvm"), (HostBackend::Xen, "xen")] {
        let asked = Preparation::Vfio(VfioPreparation {
            driver: Some(HostDriver {
                backend: Some(backend),
                ..HostDriver::default()
            }),
            ..vfio(Some(mac_and_vlan(1)))
        });
        let error = lend(&assigner, machine.vf(0), 1, &asked).unwrap_err();
        assert!(chain(&error).contains(&format!("driver '{word}' is not supported")));
        assert_eq!(error.kind(), ErrorKind::ConfigUnsupported);
    }
    assert_eq!(machine.host.effect_count(), 0);
}

#[test]
fn weakness_31_a_pf_that_is_down_leads_to_another_and_all_settings_can_be_made() {
    let machine = Machine::new("pfs=2,vfs=2");
    let assigner = machine.start();
    machine.host.set_pf_up(machine.pf(), false);
    let error = lend(&assigner, machine.vf(0), 1, &everything(1)).unwrap_err();
    assert!(matches!(*error.obstacle, Obstacle::PfDown { .. }));
    assert!(error.is_about_this_device());
    let pf = &machine.host.physical_functions().unwrap()[1];
    let vf = machine.host.virtual_functions(pf).unwrap().remove(0);
    let _lent = lend(&assigner, vf.address, 1, &everything(1)).unwrap();
    let state = machine.host.vf_state(&vf).unwrap();
    assert_eq!((state.vlan, state.qos), (42, 3));
    assert_eq!((state.trust, state.spoof_check), (Some(true), Some(false)));
    assert_eq!((state.link, state.max_rate), (Some(conf::VfLink::On), 500));
}

#[test]
fn weakness_32_a_device_that_is_renamed_meanwhile_stays_the_same_device() {
    for mode in [DirectMode::Passthrough, DirectMode::Bridge] {
        let machine = Machine::with_links("vfs=1");
        machine.host.add_netdev("bond0", "bond", None).unwrap();
        let assigner = machine.start();
        let bond0 = machine.device("bond0");
        let before = machine.host.netdev("bond0").unwrap();
        let claim = match mode {
            DirectMode::Passthrough => assigner.claim(bond0, guest(1), Origin::Interface),
            _ => assigner.claim_link(Some(bond0), guest(1), Origin::Interface),
        };
        let preparation = Preparation::Macvtap(macvtap("bond0", mode, 1));
        let lent = assigner.prepare(claim.unwrap(), &preparation).unwrap();
        machine.host.rename_netdev("bond0", "lan0");
        machine
            .host
            .rename_netdev(netdev(&lent).name.as_str(), "web");
        assigner.set_link_state(lent.generation, true).unwrap();
        assert!(machine.host.netdev("web").unwrap().state.up);
        assigner.give_back(lent.generation).unwrap();
        let after = machine.host.netdev("lan0").unwrap();
        assert_eq!(
            (after.mac, after.state),
            (before.mac, before.state),
            "{mode:?}"
        );
        assert!(!machine.has("web"));
    }
}

#[test]
fn weakness_33_the_device_below_gets_its_mac_back_if_the_macvtap_cannot_be_made() {
    for scene in [
        Scene::PassthroughNic,
        Scene::PassthroughVf,
        Scene::PassthroughLockedVf,
    ] {
        for operation in [
            Operation::MakeMacvlan,
            Operation::OpenTap,
            Operation::OpenVhost,
        ] {
            let machine = scene.machine();
            let assigner = machine.start();
            let found = machine.host.snapshot();
            machine.host.fail(Fault::of(operation, EIO));
            let claim = scene.claim(&assigner, &machine, 1).unwrap();
            let error = assigner.prepare(claim, &scene.preparation(1)).unwrap_err();
            assert!(error.undo.is_empty(), "{}", chain(&error));
            let given = machine.host.effects().into_iter().any(|effect| {
                matches!(effect, Effect::LinkMac(_, to) | Effect::NetdevMac(_, to) | Effect::Set(_, VfSetting::Mac(to)) if to == mac(1))
            });
            assert!(given, "{scene:?}: the guest's MAC was never set");
            assert_eq!(
                found.differences(&machine.host.snapshot()),
                [""; 0],
                "{scene:?}"
            );
        }
    }
}

#[test]
fn weakness_34_a_taken_name_is_told_with_its_holder_and_automatic_names_pass_it_over() {
    let machine = Machine::with_links("vfs=1");
    let assigner = machine.start();
    let scene = Scene::Shared(DirectMode::Bridge);
    let asked = |text: Option<&str>, n| {
        let claim = scene.claim(&assigner, &machine, n).unwrap();
        let preparation = MacvtapPreparation {
            name: text.map(name),
            ..macvtap("eth0", DirectMode::Bridge, n)
        };
        assigner.prepare(claim, &Preparation::Macvtap(preparation))
    };
    let _first = asked(Some("macvtap0"), 1).unwrap();
    machine
        .host
        .add_netdev("macvtap1", "macvtap", Some("eth0"))
        .unwrap();
    for (taken, holder) in [
        ("macvtap0", "made for guest 'web1'"),
        ("macvtap1", "a macvtap device of the host"),
        ("sim0", "a card of the host"),
    ] {
        let error = asked(Some(taken), 2).unwrap_err();
        let text = chain(&error);
        assert!(
            text.ends_with(&format!(
                "there is a network device '{taken}' already, {holder}"
            )),
            "{text}"
        );
        assert_eq!(error.kind(), ErrorKind::System(17));
        assert!(
            error
                .obstacle
                .advice()
                .unwrap()
                .contains("leave <target> out")
        );
    }
    let third = asked(None, 3).unwrap();
    assert_eq!(netdev(&third).name, name("macvtap2"));
}

#[test]
fn weakness_35_the_device_below_is_up_or_down_afterwards_as_it_was_before() {
    for (scene, lower) in [
        (Scene::PassthroughNic, "eth0"),
        (Scene::PassthroughVf, "sim0v0"),
        (Scene::PassthroughLockedVf, "sim0v0"),
    ] {
        for up in [false, true] {
            let machine = scene.machine();
            machine.host.put_up(lower, up);
            let assigner = machine.start();
            let found = machine.host.snapshot();
            let is_up = || machine.host.netdev(lower).unwrap().state.up;
            let lent = prepare(&machine, &assigner, scene);
            assigner.set_link_state(lent.generation, true).unwrap();
            assert!(is_up());
            assigner.set_link_state(lent.generation, false).unwrap();
            assigner.give_back(lent.generation).unwrap();
            assert_eq!(is_up(), up, "{scene:?}");
            assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
        }
    }
}

#[test]
fn weakness_37_after_a_restart_links_are_looked_for_and_profiles_of_all_modes_asked_again() {
    for mode in [DirectMode::Vepa, DirectMode::Private, DirectMode::Bridge] {
        let scene = Scene::Shared(mode);
        let machine = scene.machine();
        let assigner = machine.start();
        let lent = prepare(&machine, &assigner, scene);
        drop(assigner);
        let (assigner, findings) = machine.restart(|_| true);
        assert_eq!(findings.len(), 0, "{findings:?}");
        assigner
            .associate(lent.generation, PortAction::AssociateAgain)
            .unwrap();
        let profiles = machine.host.port_profiles();
        assert_eq!(profiles[&mac(1)].action, PortAction::AssociateAgain);
        drop(assigner);
        machine.host.remove_netdev(netdev(&lent).name.as_str());
        let (assigner, findings) = machine.restart(|_| true);
        let texts: Vec<_> = findings.iter().map(ToString::to_string).collect();
        let item = lent.item;
        assert_eq!(
            texts,
            ["'macvtap0', made for guest 'web1', is not there any more"]
        );
        assert_eq!(assigner.find(item).unwrap().phase, Phase::Lent);
    }
}
