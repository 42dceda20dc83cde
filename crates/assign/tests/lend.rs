//! A device's way to a guest and back.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod common;

use std::sync::{Arc, Barrier};
use std::time::Duration;

use assign::{ErrorKind, Origin, Phase, Preparation, ReturnError, VfioPreparation};
use common::hooked::Hooked;
use common::{
    GRANTED, Machine, chain, claim, driver, everything, guest, item, lend, mac, mac_and_vlan,
    managed, ordinary, vfio,
};
use conf::{HostDriver, MacAddress, VfLink};
use host::{Effect, Fault, Host, Operation, Quirks, VfSetting, VirtualFunction, VlanProtocol};

#[test]
fn a_vf_is_set_bound_granted_recorded_and_comes_back_as_it_was() {
    let machine = Machine::new("vfs=2");
    let (assigner, vf) = (machine.start(), machine.vf(1));
    let found = machine.host.snapshot();
    let lent = lend(&assigner, vf, 1, &everything(1)).unwrap();
    assert_eq!((lent.item, driver(&lent)), (item(vf), "vfio-pci"));

    let device = &machine.host.snapshot().devices[&vf];
    let state = device.vf.as_ref().unwrap();
    assert_eq!(
        (state.mac, state.vlan, state.qos, state.vlan_protocol),
        (mac(1), 42, 3, VlanProtocol::Dot1q)
    );
    assert_eq!(
        (state.trust, state.spoof_check, state.link),
        (Some(true), Some(false), Some(VfLink::On))
    );
    assert_eq!((state.min_rate, state.max_rate), (100, 500));
    assert_eq!(device.driver.as_deref(), Some("vfio-pci"));
    assert_eq!(machine.host.vfio_access_of(vf), Some(GRANTED));
    assert_eq!(machine.records(), [format!("{vf}.json")]);

    let [line] = &assigner.list()[..] else {
        panic!("one line, not {:?}", assigner.list());
    };
    assert_eq!((&line.phase, &line.holder), (&Phase::Lent, &guest(1)));
    assert_eq!(line.vf.as_ref().unwrap().number, 1);
    assert_eq!(line.host_driver.as_deref(), Some("simvf"));
    assert_eq!(assigner.find(item(vf)).as_ref(), Some(line));
    assert_eq!(
        assigner.of_guest(guest(1).guest),
        std::slice::from_ref(line)
    );

    assert_eq!(
        assigner.find_generation(lent.generation).as_ref(),
        Some(line)
    );

    let returned = assigner.give_back(lent.generation).unwrap();
    assert_eq!(assigner.find_generation(lent.generation), None);
    assert_eq!((returned.holder, returned.vanished), (guest(1), false));
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
    assert!(assigner.list().is_empty() && machine.records().is_empty());
}

#[test]
fn the_mac_comes_first_and_the_driver_last() {
    let machine = Machine::new("vfs=1");
    let (assigner, vf) = (machine.start(), machine.vf(0));
    let _lent = lend(&assigner, vf, 1, &ordinary(1)).unwrap();
    let effects = machine.host.effects();
    assert!(matches!(effects[0], Effect::Set(_, VfSetting::Mac(_))));
    assert!(matches!(
        effects[1],
        Effect::Set(_, VfSetting::Vlan { id: 42, .. })
    ));
    assert_eq!(
        effects[effects.len() - 2],
        Effect::Bound(vf, "vfio-pci".into())
    );
    assert!(matches!(
        effects[effects.len() - 1],
        Effect::VfioAccess(_, GRANTED)
    ));
}

#[test]
fn nothing_of_the_host_or_of_the_guest_before_is_left_to_a_guest() {
    let machine = Machine::new("vfs=1");
    let (assigner, vf) = (machine.start(), machine.vf(0));
    let device = machine.host.virtual_function(vf).unwrap();
    for setting in [
        VfSetting::Trust(true),
        VfSetting::SpoofCheck(false),
        VfSetting::Link(VfLink::Off),
        VfSetting::Rate { min: 0, max: 10 },
        VfSetting::Vlan {
            id: 7,
            qos: 1,
            protocol: VlanProtocol::Dot1ad,
        },
    ] {
        machine.host.set_vf(&device, setting).unwrap();
    }
    let found = machine.host.snapshot();
    let plain = managed(Some(
        assign::VfConfig::new(mac(1), None, &conf::VfSettings::default()).unwrap(),
    ));
    let lent = lend(&assigner, vf, 1, &plain).unwrap();
    let state = machine.host.vf_state(&device).unwrap();
    assert_eq!(
        (
            state.trust,
            state.spoof_check,
            state.link,
            state.max_rate,
            state.vlan
        ),
        (Some(false), Some(true), Some(VfLink::Auto), 0, 0)
    );
    assigner.give_back(lent.generation).unwrap();
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
}

#[test]
fn a_device_is_claimed_once() {
    let machine = Machine::new("vfs=1");
    let (assigner, vf) = (machine.start(), machine.vf(0));
    let held = claim(&assigner, vf, 1).unwrap();
    let refused = claim(&assigner, vf, 2).unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!("device {vf} is in use: lent to guest 'web1' by network 'vfs'")
    );
    assigner.give_back(held.generation()).unwrap();
    assert!(claim(&assigner, vf, 2).is_ok());
    assert_eq!(machine.host.effect_count(), 0);
}

#[test]
fn a_late_clean_up_does_not_reach_the_next_owner() {
    let machine = Machine::new("vfs=1");
    let (assigner, vf) = (machine.start(), machine.vf(0));
    let first = lend(&assigner, vf, 1, &ordinary(1)).unwrap();
    assigner.give_back(first.generation).unwrap();
    let second = lend(&assigner, vf, 2, &ordinary(2)).unwrap();
    let late = assigner.give_back(first.generation).unwrap_err();
    assert!(matches!(late, ReturnError::Superseded(generation) if generation == first.generation));
    drop(assigner);
    // Nor after a restart, when counting starts anew.
    let (assigner, _) = machine.restart(|_| true);
    assert!(assigner.give_back(first.generation).is_err());
    assert_eq!(assigner.list()[0].generation, second.generation);
    let device = machine.host.virtual_function(vf).unwrap();
    assert_eq!(machine.host.vf_state(&device).unwrap().mac, mac(2));
}

#[test]
fn a_plan_tells_the_steps_and_takes_none() {
    let machine = Machine::new("vfs=1");
    let (assigner, vf) = (machine.start(), machine.vf(0));
    let plan = assigner.plan(item(vf), &guest(1), &ordinary(1)).unwrap();
    let steps: Vec<_> = plan.steps.iter().map(ToString::to_string).collect();
    assert_eq!(
        steps,
        [
            "set MAC 52:54:00:00:00:01".to_owned(),
            "set VLAN 42".to_owned(),
            "bind to vfio-pci".to_owned(),
            format!(
                "let its QEMU alone open /dev/vfio/{}",
                plan.vfio().unwrap().0
            ),
        ]
    );
    assert_eq!(machine.host.effect_count(), 0);
}

#[test]
fn a_group_member_without_a_host_driver_is_no_obstacle() {
    let machine = Machine::new("vfs=1");
    machine.host.add_group_member(machine.vf(0), None).unwrap();
    machine
        .host
        .add_group_member(machine.vf(0), Some("pci-stub"))
        .unwrap();
    assert!(lend(&machine.start(), machine.vf(0), 1, &ordinary(1)).is_ok());
}

#[test]
fn an_igb_card_lends_with_ordinary_settings() {
    let machine = Machine::new("vfs=1");
    machine.host.set_quirks(Quirks::igb());
    let assigner = machine.start();
    let vf = machine.host.virtual_function(machine.vf(0)).unwrap();
    let netdev = machine.host.vf_state(&vf).unwrap().netdev;
    // Its PF lists the MAC that the VF's driver made up, from the first time on that it hears it.
    let lent = lend(&assigner, machine.vf(0), 1, &ordinary(1)).unwrap();
    assigner.give_back(lent.generation).unwrap();
    let found = machine.host.snapshot();
    assert_eq!(machine.host.vf_state(&vf).unwrap().netdev, netdev);
    let lent = lend(&assigner, machine.vf(0), 2, &ordinary(2)).unwrap();
    assigner.give_back(lent.generation).unwrap();
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
}

#[test]
fn a_driver_that_takes_no_zeroes_keeps_the_vfs_own_mac() {
    let machine = Machine::new("vfs=1");
    machine.host.set_quirks(Quirks {
        zero_mac: false,
        ..Quirks::default()
    });
    let vf = machine.host.virtual_function(machine.vf(0)).unwrap();
    let (_, own) = machine.host.vf_state(&vf).unwrap().netdev.unwrap();
    let assigner = machine.start();
    let lent = lend(&assigner, machine.vf(0), 1, &ordinary(1)).unwrap();
    assigner.give_back(lent.generation).unwrap();
    let state = machine.host.vf_state(&vf).unwrap();
    assert_eq!(state.netdev, Some(("sim0v0".into(), own)));
    assert_eq!(state.mac, own);
}

#[test]
fn a_vf_without_driver_gets_no_guests_mac_for_good() {
    let machine = Machine::new("vfs=1");
    machine.host.set_quirks(Quirks {
        zero_mac: false,
        ..Quirks::default()
    });
    machine.host.bind_by_hand(machine.vf(0), None);
    let assigner = machine.start();
    let lent = lend(&assigner, machine.vf(0), 1, &ordinary(1)).unwrap();
    assigner.give_back(lent.generation).unwrap();
    let vf = machine.host.virtual_function(machine.vf(0)).unwrap();
    let state = machine.host.vf_state(&vf).unwrap();
    assert!(state.mac != mac(1) && state.mac != MacAddress::ZERO);
    assert_eq!(state.driver, None);
}

#[test]
fn a_variant_driver_is_preferred_and_a_named_one_taken() {
    let machine = Machine::new("vfs=2");
    machine.host.set_variant_driver(Some("sim-vfio-pci"));
    let assigner = machine.start();
    let best = lend(&assigner, machine.vf(0), 1, &ordinary(1)).unwrap();
    assert_eq!(driver(&best), "sim-vfio-pci");
    let model = Some("vfio-pci".to_owned());
    let named = Preparation::Vfio(VfioPreparation {
        driver: Some(HostDriver {
            model,
            ..HostDriver::default()
        }),
        ..vfio(Some(mac_and_vlan(2)))
    });
    let named = lend(&assigner, machine.vf(1), 2, &named).unwrap();
    assert_eq!(driver(&named), "vfio-pci");
}

#[test]
fn a_plain_host_device_keeps_its_settings() {
    let machine = Machine::new("vfs=1");
    let assigner = machine.start();
    let found = machine.host.snapshot();
    let claim = assigner
        .claim(machine.vf(0).into(), guest(1), Origin::HostDevice)
        .unwrap();
    let lent = assigner.prepare(claim, &managed(None)).unwrap();
    let effects = machine.host.effects();
    assert!(
        !effects
            .iter()
            .any(|effect| matches!(effect, Effect::Set(..))),
        "{effects:?}"
    );
    assert_eq!(assigner.list()[0].origin, Origin::HostDevice);
    assigner.give_back(lent.generation).unwrap();
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
}

#[test]
fn a_vf_in_reset_is_waited_for() {
    let machine = Machine::new("vfs=1");
    let (assigner, vf) = (machine.start(), machine.vf(0));
    machine.host.fail(Fault::of(Operation::SetMac, 11));
    machine.host.fail(Fault::of(Operation::SetVlan, 16));
    assert!(lend(&assigner, vf, 1, &ordinary(1)).is_ok());
    assert_eq!(machine.host.waiting_faults(), 0);
}

#[test]
fn two_devices_are_prepared_side_by_side() {
    let machine = Machine::new("vfs=2");
    // Neither bind returns before both were called: with a lock held this would never end.
    let both = Barrier::new(2);
    let hooked = Hooked {
        on_bind: Box::new(move || {
            both.wait();
        }),
        ..Hooked::plain(machine.host.clone())
    };
    let (assigner, _) = machine.open_with(Arc::new(hooked));
    let (one, other) = (machine.vf(0), machine.vf(1));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| lend(&assigner, one, 1, &ordinary(1)).is_ok());
        assert!(lend(&assigner, other, 2, &ordinary(2)).is_ok());
        assert!(first.join().unwrap());
    });
    assert_eq!(assigner.list().len(), 2);
}

#[test]
fn a_device_that_vanished_is_off_the_list_when_it_is_given_back() {
    let machine = Machine::new("vfs=1");
    let (assigner, vf) = (machine.start(), machine.vf(0));
    let lent = lend(&assigner, vf, 1, &ordinary(1)).unwrap();
    machine.host.remove_vf(vf);
    assert!(assigner.give_back(lent.generation).unwrap().vanished);
    assert!(assigner.list().is_empty() && machine.records().is_empty());
}

#[test]
fn nothing_is_taken_from_a_process_that_still_has_it_and_nothing_is_forgotten() {
    let machine = Machine::new("vfs=1");
    let (assigner, vf) = (machine.start(), machine.vf(0));
    let plain = machine.host.add_nic("eth0").unwrap().pci.unwrap();
    for (device, preparation) in [(vf, ordinary(1)), (plain, managed(None))] {
        let found = machine.host.snapshot();
        let lent = lend(&assigner, device, 1, &preparation).unwrap();
        let (as_lent, records) = (machine.host.snapshot(), machine.records());
        machine.host.hold_vfio(device, true);
        let error = assigner.give_back(lent.generation).unwrap_err();
        assert!(matches!(error, ReturnError::StillHeld { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::System(16));
        let text = error.to_string();
        let start = format!("{device}, lent to guest 'web1', is still in use: process 4711 has");
        assert!(text.starts_with(&start), "{text}");
        assert!(
            error
                .advice()
                .unwrap()
                .starts_with("once process 4711 has ended")
        );
        assert_eq!(as_lent.differences(&machine.host.snapshot()), [""; 0]);
        assert_eq!(
            (&assigner.list()[0].phase, machine.records()),
            (&Phase::Lent, records)
        );
        let later = assigner.give_back_within(lent.generation, Duration::from_millis(1));
        assert!(matches!(later, Err(ReturnError::StillHeld { .. })));
        let patience = Duration::from_secs(60);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| assigner.give_back_within(lent.generation, patience));
            machine.host.hold_vfio(device, false);
            waits.join().unwrap().unwrap();
        });
        assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
        assert!(assigner.list().is_empty() && machine.records().is_empty());
    }
}

#[test]
fn what_a_guests_attachment_has_is_found_by_it_over_a_restart() {
    let machine = Machine::new("vfs=2");
    let attachment = guest(1).attachment.unwrap();
    let assigner = machine.start();
    assert!(assigner.find_attachment(attachment).is_none());
    let lent = lend(&assigner, machine.vf(0), 1, &ordinary(1)).unwrap();
    drop(assigner);
    let (assigner, _) = machine.restart(|_| true);
    let line = assigner.find_attachment(attachment).unwrap();
    assert_eq!((line.item, line.generation), (lent.item, lent.generation));
    assigner.give_back(lent.generation).unwrap();
    assert!(assigner.find_attachment(attachment).is_none());
}

/// A VF of an igb card, found with those MACs, and how its PF holds it.
fn igb_vf(admin: Option<u32>, own: Option<u32>, trust: bool) -> (Machine, VirtualFunction) {
    let machine = Machine::new("vfs=2");
    machine.host.set_quirks(Quirks::igb());
    let vf = machine.host.virtual_function(machine.vf(0)).unwrap();
    let rebind = || {
        machine.host.unbind(vf.address, None).unwrap();
        machine.host.bind(vf.address, "vfio-pci").unwrap();
        machine.host.unbind(vf.address, Some("simvf")).unwrap();
    };
    machine.host.set_vf(&vf, VfSetting::Trust(trust)).unwrap();
    rebind();
    if let Some(own) = own {
        machine.host.set_netdev_mac("sim0v0", mac(own)).unwrap();
    }
    if let Some(admin) = admin {
        machine
            .host
            .set_vf(&vf, VfSetting::Mac(mac(admin)))
            .unwrap();
        if own.is_none() {
            rebind();
        }
    }
    (machine, vf)
}

/// Whether the VF's PF lets it have a MAC of its own choice.
fn may_choose(machine: &Machine, vf: &VirtualFunction) -> bool {
    let was = machine.host.vf_state(vf).unwrap().netdev.unwrap().1;
    let may = machine.host.set_netdev_mac("sim0v0", mac(200)).is_ok();
    if may {
        machine.host.set_netdev_mac("sim0v0", was).unwrap();
    }
    may
}

#[test]
fn a_vf_gets_its_own_mac_and_its_pfs_back_and_is_held_as_before() {
    for trust in [false, true] {
        for (admin, own) in [
            (None, None),
            (None, Some(90)),
            (Some(91), None),
            (Some(91), Some(90)),
            // The guest's is the one that is found.
            (Some(1), Some(90)),
        ] {
            let (machine, vf) = igb_vf(admin, own, trust);
            let case = format!("{admin:?} {own:?} {trust}");
            let assigner = machine.start();
            let found = machine.host.snapshot();
            for _ in 0..2 {
                let lent = lend(&assigner, vf.address, 1, &ordinary(1)).unwrap();
                let returned = assigner.give_back(lent.generation);
                returned.unwrap_or_else(|error| panic!("{case}: {}", chain(&error)));
                assert_eq!(
                    found.differences(&machine.host.snapshot()),
                    [""; 0],
                    "{case}"
                );
                // A trusted one may always, and its choice would replace what is checked here.
                if !trust {
                    assert_eq!(may_choose(&machine, &vf), admin.is_none(), "{case}");
                }
            }
        }
    }
}
