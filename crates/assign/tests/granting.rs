//! Who may open what is lent: the guest's own QEMU, and not another that runs as the same user.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod common;

use std::sync::Arc;

use assign::{Assigner, Lent, Origin, Phase, Preparation, PrepareError, ReturnError};
use common::hooked::Hooked;
use common::{GRANTED, Machine, chain, claim, guest, managed, ordinary, until_crash, vfio};
use conf::PciAddress;
use host::{Fault, GuestGroup, Host, NodeAccess, Operation, Usb};

const EIO: i32 = 5;

fn access(group: GuestGroup) -> NodeAccess {
    NodeAccess {
        uid: 0,
        gid: group.gid(),
        mode: 0o660,
    }
}

fn lend(
    assigner: &Assigner,
    vf: PciAddress,
    n: u32,
    group: GuestGroup,
) -> Result<Lent, PrepareError> {
    let claim = claim(assigner, vf, n).unwrap();
    assigner.prepare_for(claim, &ordinary(n), Some(group))
}

#[test]
fn a_group_is_opened_by_its_guests_qemu_and_by_nobody_elses() {
    let machine = Machine::new("vfs=2");
    let (assigner, found) = (machine.start(), machine.host.snapshot());
    let (one, other) = (machine.vf(0), machine.vf(1));
    let groups = [GuestGroup::draw(), GuestGroup::draw()];
    let first = lend(&assigner, one, 1, groups[0]).unwrap();
    let second = lend(&assigner, other, 2, groups[1]).unwrap();
    assert_eq!(machine.host.vfio_access_of(one), Some(access(groups[0])));
    assert_eq!(machine.host.vfio_access_of(other), Some(access(groups[1])));
    assigner.give_back(first.generation).unwrap();
    // The same VF, and another guest.
    let third = lend(&assigner, one, 3, groups[1]).unwrap();
    assert_eq!(machine.host.vfio_access_of(one), Some(access(groups[1])));
    for lent in [second, third] {
        assigner.give_back(lent.generation).unwrap();
    }
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
}

#[test]
fn a_usb_device_is_opened_by_its_guests_qemu_alone() {
    let machine = Machine::with_links("vfs=1");
    let (assigner, found) = (machine.start(), machine.host.snapshot());
    let (address, group) = (machine.usb(), GuestGroup::draw());
    let claim = assigner.claim(address.into(), guest(1), Origin::HostDevice);
    let lent = assigner
        .prepare_for(claim.unwrap(), &Preparation::Usb, Some(group))
        .unwrap();
    assert_eq!(machine.host.usb_access(address).unwrap(), access(group));
    assigner.give_back(lent.generation).unwrap();
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
}

#[test]
fn a_node_that_was_there_gets_back_what_it_had() {
    let admins = NodeAccess {
        uid: 33,
        gid: 44,
        mode: 0o640,
    };
    let unmanaged = Preparation::Vfio(assign::VfioPreparation {
        managed: false,
        ..vfio(None)
    });
    // With vfio all the time, and bound anew to another driver of vfio's.
    for variant in [None, Some("sim-vfio-pci")] {
        let machine = Machine::new("vfs=1");
        let vf = machine.vf(0);
        machine.host.set_variant_driver(variant);
        machine.host.bind_by_hand(vf, Some("vfio-pci"));
        machine.host.set_vfio_access_of(vf, admins);
        let found = machine.host.snapshot();
        let preparation = match variant {
            None => unmanaged.clone(),
            Some(driver) => Preparation::Vfio(assign::VfioPreparation {
                driver: Some(conf::HostDriver {
                    model: Some(driver.to_owned()),
                    ..conf::HostDriver::default()
                }),
                ..vfio(None)
            }),
        };
        for group in [Some(GuestGroup::draw()), None] {
            let assigner = machine.start();
            let claim = claim(&assigner, vf, 1).unwrap();
            let lent = assigner.prepare_for(claim, &preparation, group).unwrap();
            let granted = group.map_or(GRANTED, access);
            assert_eq!(machine.host.vfio_access_of(vf), Some(granted));
            assigner.give_back(lent.generation).unwrap();
            assert_eq!(machine.host.vfio_access_of(vf), Some(admins));
            assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
        }
    }
}

#[test]
fn functions_of_one_group_are_one_guests_until_the_last_is_back() {
    let machine = Machine::new("vfs=2");
    let (one, other) = (machine.vf(0), machine.vf(1));
    machine.host.share_group(one, other);
    for vf in [one, other] {
        machine.host.bind_by_hand(vf, Some("vfio-pci"));
    }
    let (assigner, found) = (machine.start(), machine.host.snapshot());
    let group = GuestGroup::draw();
    let lent = [one, other].map(|vf| {
        let claim = assigner.claim(vf.into(), guest(1), Origin::HostDevice);
        let lent = assigner.prepare_for(claim.unwrap(), &managed(None), Some(group));
        lent.unwrap().generation
    });
    assigner.give_back(lent[0]).unwrap();
    assert_eq!(machine.host.vfio_access_of(other), Some(access(group)));
    assigner.give_back(lent[1]).unwrap();
    assert_eq!(machine.host.vfio_access_of(other), Some(NodeAccess::ROOT));
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
}

#[test]
fn a_group_that_cannot_be_granted_is_told_and_taken_back() {
    let machine = Machine::new("vfs=1");
    let (assigner, vf) = (machine.start(), machine.vf(0));
    let (found, group) = (machine.host.snapshot(), GuestGroup::draw());
    for partial in [false, true] {
        let fault = Fault::of(Operation::GrantVfio, EIO);
        machine
            .host
            .fail(if partial { fault.partial() } else { fault });
        let error = lend(&assigner, vf, 1, group).unwrap_err();
        assert!(error.undo.is_empty(), "{}", chain(&error));
        assert!(
            chain(&error).contains("granting the vfio group"),
            "{}",
            chain(&error)
        );
        assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
        assert!(assigner.list().is_empty() && machine.records().is_empty());
    }
    // Nor one that the kernel says it granted, and did not.
    let hooked = Hooked {
        deaf_to: Some(Operation::GrantVfio),
        ..Hooked::plain(machine.host.clone())
    };
    drop(assigner);
    let (assigner, _) = machine.open_with(Arc::new(hooked));
    let text = chain(&lend(&assigner, vf, 1, group).unwrap_err());
    assert!(
        text.contains(&format!("group {} with permissions 660", group.gid()))
            && text.ends_with("permissions 600 is read back"),
        "{text}"
    );
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
}

#[test]
fn a_group_that_cannot_be_taken_back_keeps_the_device_from_others() {
    let machine = Machine::new("vfs=1");
    let vf = machine.vf(0);
    machine.host.bind_by_hand(vf, Some("vfio-pci"));
    let (assigner, found) = (machine.start(), machine.host.snapshot());
    let group = GuestGroup::draw();
    let lent = lend(&assigner, vf, 1, group).unwrap();
    machine
        .host
        .fail(Fault::of(Operation::GrantVfio, EIO).always());
    let error = assigner.give_back(lent.generation).unwrap_err();
    assert!(matches!(error, ReturnError::Dirty { .. }));
    let text = chain(&error);
    let (was, is) = ("user 0 and group 0 with permissions 600", group.gid());
    assert!(
        text.contains("granting the vfio group of the simulated host")
            && text.contains(&format!(
                "it had a node of {was}, and has a node of user 0 and group {is}"
            )),
        "{text}"
    );
    assert!(claim(&assigner, vf, 2).is_err());
    // The next daemon, which finds the guest gone, sees to it.
    drop(assigner);
    machine.host.heal();
    let (assigner, findings) = machine.restart(|_| false);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(assigner.list().is_empty());
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
}

#[test]
fn a_crash_at_any_change_leaves_no_group_to_a_guest_that_is_gone() {
    for effects in 1.. {
        let machine = Machine::new("vfs=1");
        let vf = machine.vf(0);
        machine.host.bind_by_hand(vf, Some("vfio-pci"));
        let (assigner, found) = (machine.start(), machine.host.snapshot());
        machine.host.crash_after(effects);
        let through = until_crash(|| {
            let lent = lend(&assigner, vf, 1, GuestGroup::draw()).unwrap();
            assigner.give_back(lent.generation).unwrap();
        });
        std::mem::forget(assigner);
        let (assigner, _) = machine.restart(|_| false);
        assert!(assigner.list().is_empty());
        assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
        if through.is_some() {
            assert!(effects > 4, "only {effects}");
            break;
        }
    }
}

#[test]
fn a_running_guests_group_is_its_own_over_a_restart_and_somebodys_change_is_told() {
    let machine = Machine::new("vfs=1");
    let (assigner, vf) = (machine.start(), machine.vf(0));
    let (found, group) = (machine.host.snapshot(), GuestGroup::draw());
    let lent = lend(&assigner, vf, 1, group).unwrap();
    drop(assigner);
    let (assigner, findings) = machine.restart(|_| true);
    assert_eq!(findings.len(), 0, "{findings:?}");
    assert_eq!(machine.host.vfio_access_of(vf), Some(access(group)));
    let open = NodeAccess {
        mode: 0o666,
        ..access(group)
    };
    machine.host.set_vfio_access_of(vf, open);
    let text = assigner.reconcile(|_| true)[0].to_string();
    assert!(
        text.contains("permissions 660") && text.ends_with("permissions 666"),
        "{text}"
    );
    assigner.give_back(lent.generation).unwrap();
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
}

/// QEMU may open the device once more, up to the moment at which it is no longer let to.
#[test]
fn a_guest_that_opens_its_device_once_more_keeps_it() {
    let machine = Machine::new("vfs=1");
    let vf = machine.vf(0);
    let host = machine.host.clone();
    let hooked = Hooked {
        on_grant: Box::new(move |access| {
            if access == NodeAccess::ROOT {
                host.hold_vfio(vf, true);
            }
        }),
        ..Hooked::plain(machine.host.clone())
    };
    let (assigner, _) = machine.open_with(Arc::new(hooked));
    let lent = lend(&assigner, vf, 1, GuestGroup::draw()).unwrap();
    let error = assigner.give_back(lent.generation).unwrap_err();
    assert!(matches!(error, ReturnError::StillHeld { .. }), "{error:?}");
    let [line] = &assigner.list()[..] else {
        panic!("it is off the list");
    };
    assert_eq!(line.phase, Phase::Lent);
    let device = machine.host.virtual_function(vf).unwrap();
    let state = machine.host.vf_state(&device).unwrap();
    assert_eq!(state.mac, common::mac(1), "nothing is changed below it");
    // No more than that: it can't be opened again.
    assert_eq!(machine.host.vfio_access_of(vf), Some(NodeAccess::ROOT));
    machine.host.hold_vfio(vf, false);
    assigner.give_back(lent.generation).unwrap();
}

#[test]
fn a_function_that_is_gone_leaves_its_group_to_nobody() {
    let machine = Machine::new("vfs=1");
    let vf = machine.vf(0);
    let member = machine.host.add_group_member(vf, Some("vfio-pci")).unwrap();
    let assigner = machine.start();
    let group = GuestGroup::draw();
    let lent = lend(&assigner, vf, 1, group).unwrap();
    assert_eq!(machine.host.vfio_access_of(member), Some(access(group)));
    let pf = machine.host.physical_function("sim0").unwrap();
    machine.host.set_vf_count(&pf, 0).unwrap();
    assert!(assigner.give_back(lent.generation).unwrap().vanished);
    assert_eq!(machine.host.vfio_access_of(member), Some(NodeAccess::ROOT));
}
