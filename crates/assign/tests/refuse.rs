//! What is not lent, and what is said then; nothing is changed, or all of it is undone.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod common;

use std::sync::Arc;

use assign::{ErrorKind, Obstacle, Preparation, PrepareError, VfioPreparation};
use common::hooked::Hooked;
use common::{Machine, chain, everything, lend, mac_and_vlan, managed, ordinary, vfio};
use conf::PciAddress;
use host::{LinkState, Operation, Quirks, Usage};

/// Refused before anything is changed, with nothing left on the list.
fn refused(machine: &Machine, preparation: &Preparation, device: PciAddress) -> PrepareError {
    let assigner = machine.start();
    let found = machine.host.snapshot();
    let error = lend(&assigner, device, 1, preparation).unwrap_err();
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
    assert!(assigner.list().is_empty() && machine.records().is_empty());
    assert!(error.undo.is_empty());
    error
}

#[test]
fn what_the_host_uses_is_not_lent() {
    let machine = Machine::new("vfs=1");
    let vf = machine.vf(0);
    let address = "10.0.0.5/24".to_owned();
    let usage = Usage::Addressed {
        netdev: "sim0v0".into(),
        address,
    };
    machine.host.set_usage(vf, vec![usage]);
    let error = refused(&machine, &ordinary(1), vf);
    assert_eq!(
        chain(&error),
        format!("cannot lend {vf} to guest 'web1': it is in use: sim0v0 is up with 10.0.0.5/24")
    );
    assert_eq!(error.kind(), ErrorKind::OperationInvalid);
    assert!(error.is_about_this_device());
}

#[test]
fn what_another_program_gave_to_a_guest_is_not_lent() {
    let machine = Machine::new("vfs=1");
    machine.host.bind_by_hand(machine.vf(0), Some("vfio-pci"));
    machine.host.hold_vfio(machine.vf(0), true);
    let error = refused(&machine, &ordinary(1), machine.vf(0));
    assert!(chain(&error).ends_with("open"), "{}", chain(&error));
}

#[test]
fn the_pf_has_to_be_up() {
    let machine = Machine::new("vfs=1");
    machine.host.set_pf_up(machine.pf(), false);
    let error = refused(&machine, &ordinary(1), machine.vf(0));
    assert!(chain(&error).ends_with("its PF is not online: 'sim0' is down"));
    assert_eq!(
        error.obstacle.advice().as_deref(),
        Some("bring it up: ip link set sim0 up")
    );
}

#[test]
fn a_pf_where_a_vf_is_wanted() {
    let machine = Machine::new("vfs=1");
    let error = refused(&machine, &ordinary(1), machine.pf());
    assert!(
        chain(&error).contains("SR-IOV Virtual Function"),
        "{}",
        chain(&error)
    );
    assert_eq!(error.kind(), ErrorKind::ConfigUnsupported);
}

/// They could not be had back as they were.
#[test]
fn a_pf_is_not_parted_from_its_vfs() {
    let machine = Machine::new("vfs=2");
    let whole = Preparation::Vfio(VfioPreparation {
        managed: true,
        driver: None,
        network: None,
        profile: None,
    });
    let error = refused(&machine, &whole, machine.pf());
    assert!(
        chain(&error).ends_with("it has 2 VFs, which would be gone"),
        "{}",
        chain(&error)
    );
    assert!(error.obstacle.advice().unwrap().contains("sriov_numvfs"));
}

#[test]
fn no_iommu() {
    let machine = Machine::new("vfs=1");
    machine.host.set_iommu(false);
    let error = refused(&machine, &ordinary(1), machine.vf(0));
    assert!(matches!(*error.obstacle, Obstacle::NoIommu));
    assert_eq!(error.kind(), ErrorKind::ConfigUnsupported);
}

#[test]
fn a_member_of_the_group_in_the_way_is_named() {
    let machine = Machine::new("vfs=1");
    let member = machine
        .host
        .add_group_member(machine.vf(0), Some("ahci"))
        .unwrap();
    let error = refused(&machine, &ordinary(1), machine.vf(0));
    let text = chain(&error);
    assert!(
        text.ends_with(&format!("is not viable: driver 'ahci' has {member}")),
        "{text}"
    );
}

#[test]
fn a_group_is_one_guests() {
    let machine = Machine::new("vfs=2");
    let (one, other) = (machine.vf(0), machine.vf(1));
    machine.host.share_group(one, other);
    machine.host.bind_by_hand(other, Some("vfio-pci"));
    let assigner = machine.start();
    let _lent = lend(&assigner, one, 1, &ordinary(1)).unwrap();
    let error = lend(&assigner, other, 2, &ordinary(2)).unwrap_err();
    assert!(
        chain(&error).ends_with(&format!(
            "device {one}, which shares its IOMMU group, is lent to guest 'web1'"
        )),
        "{}",
        chain(&error)
    );
    assert!(lend(&assigner, other, 1, &ordinary(1)).is_ok());
}

#[test]
fn a_card_and_its_vf_are_not_lent_at_once() {
    let machine = Machine::new("vfs=1");
    let assigner = machine.start();
    let lent = lend(&assigner, machine.vf(0), 1, &ordinary(1)).unwrap();
    let error = lend(&assigner, machine.pf(), 2, &managed(None)).unwrap_err();
    assert!(chain(&error).contains("which is one of its VFs, is lent to guest 'web1'"));
    assigner.give_back(lent.generation).unwrap();
}

#[test]
fn a_missing_device_is_named() {
    let machine = Machine::new("vfs=1");
    let vf = machine.vf(0);
    machine.host.remove_vf(vf);
    let error = refused(&machine, &ordinary(1), vf);
    assert!(chain(&error).ends_with(&format!("there is no PCI device {vf}")));
}

#[test]
fn what_a_driver_does_not_offer_is_refused_before_anything_is_done() {
    let machine = Machine::new("vfs=1");
    machine.host.set_quirks(Quirks {
        trust: false,
        ..Quirks::default()
    });
    let error = refused(&machine, &everything(1), machine.vf(0));
    assert!(chain(&error).ends_with("the driver of its physical function offers no trust"));
    assert_eq!(error.kind(), ErrorKind::ConfigUnsupported);
    assert!(lend(&machine.start(), machine.vf(0), 1, &ordinary(1)).is_ok());
}

#[test]
fn what_a_driver_is_known_not_to_set_is_refused_before_anything_is_done() {
    let machine = Machine::new("vfs=1");
    machine.host.set_quirks(Quirks::igb());
    let error = refused(&machine, &everything(1), machine.vf(0));
    let text = chain(&error);
    assert!(text.ends_with("offers no link state"), "{text}");
    assert_eq!(
        error.obstacle.advice().as_deref(),
        Some("leave the link state out")
    );
    assert_eq!(machine.host.effect_count(), 0);
}

#[test]
fn a_driver_that_refuses_a_setting_midway_is_named_and_all_is_undone() {
    let machine = Machine::new("vfs=1");
    machine.host.set_quirks(Quirks {
        rate_without_link: false,
        ..Quirks::default()
    });
    let link = LinkState {
        up: true,
        carrier: false,
        mtu: 1500,
    };
    machine.host.set_pf_link(machine.pf(), link);
    let vf = machine.vf(0);
    let error = refused(&machine, &everything(1), vf);
    let text = chain(&error);
    assert!(
        text.starts_with(&format!(
            "cannot lend {vf} to guest 'web1': setting the rate of VF 0 of 'sim0' ({vf}): "
        )),
        "{text}"
    );
    assert_eq!(error.kind(), ErrorKind::System(22));
}

#[test]
fn an_unmanaged_device_has_to_be_detached_and_stays_so() {
    let machine = Machine::new("vfs=1");
    let unmanaged = Preparation::Vfio(VfioPreparation {
        managed: false,
        ..vfio(Some(mac_and_vlan(1)))
    });
    let error = refused(&machine, &unmanaged, machine.vf(0));
    assert!(chain(&error).ends_with(
        "it is not managed, and must be manually detached from the host: driver 'simvf' has it"
    ));
    machine.host.bind_by_hand(machine.vf(0), Some("vfio-pci"));
    let found = machine.host.snapshot();
    let assigner = machine.start();
    let lent = lend(&assigner, machine.vf(0), 1, &unmanaged).unwrap();
    assigner.give_back(lent.generation).unwrap();
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
    let access = machine.host.vfio_access_of(machine.vf(0));
    assert_eq!(access, Some(host::NodeAccess::ROOT));
}

#[test]
fn a_driver_that_does_not_take_the_device_is_told_and_undone() {
    let machine = Machine::new("vfs=1");
    machine.host.refuse_driver(machine.vf(0), "vfio-pci");
    let error = refused(&machine, &ordinary(1), machine.vf(0));
    assert!(
        chain(&error).contains("driver 'vfio-pci' did not take"),
        "{}",
        chain(&error)
    );
}

#[test]
fn a_value_that_was_not_kept_is_a_failure() {
    let machine = Machine::new("vfs=1");
    let deaf = Hooked {
        deaf_to: Some(Operation::SetVlan),
        ..Hooked::plain(machine.host.clone())
    };
    let found = machine.host.snapshot();
    let (assigner, _) = machine.open_with(Arc::new(deaf));
    let error = lend(&assigner, machine.vf(0), 1, &ordinary(1)).unwrap_err();
    assert!(
        chain(&error).ends_with("VLAN 42 was set, and no VLAN is read back"),
        "{}",
        chain(&error)
    );
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
}

#[test]
fn a_full_disk_is_told_before_anything_is_changed() {
    let machine = Machine::new("vfs=1");
    let (assigner, vf) = (machine.start(), machine.vf(0));
    let record = machine.journal().join(format!(".{vf}.json.new"));
    std::os::unix::fs::symlink("/dev/full", record).unwrap();
    let error = lend(&assigner, vf, 1, &ordinary(1)).unwrap_err();
    let text = chain(&error);
    assert!(
        text.contains(&format!("{vf}.json': No space left on device")),
        "{text}"
    );
    assert_eq!(error.kind(), ErrorKind::System(28));
    let advice = error.obstacle.advice().unwrap();
    assert_eq!(
        advice,
        format!("make room under {}", machine.journal().display())
    );
    assert_eq!(machine.host.effect_count(), 0);
    assert!(assigner.list().is_empty() && machine.records().is_empty());
}
