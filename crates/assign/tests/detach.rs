//! Functions that are taken from the host for nobody, and given back to it.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod common;

use std::sync::Arc;

use assign::{
    Assigner, DetachError, Difference, ErrorKind, Finding, Item, Origin, Phase, Preparation,
    VfioPreparation,
};
use common::hooked::Hooked;
use common::{Machine, guest, item, ordinary, until_crash};
use conf::{DeviceId, PciAddress};
use host::{BlockUse, Fault, Host, Inventory, Links, Operation, SimulatedHost, Usage, VfSetting};

const EBUSY: i32 = 16;

fn driver(machine: &Machine, address: PciAddress) -> Option<String> {
    machine.host.pci_device(address).unwrap().driver
}

fn nobody_runs(_: conf::Uuid) -> bool {
    false
}

fn unmanaged() -> Preparation {
    Preparation::Vfio(VfioPreparation {
        managed: false,
        driver: None,
        network: None,
        profile: None,
    })
}

fn refusal(outcome: Result<impl std::fmt::Debug, DetachError>) -> (ErrorKind, String) {
    let error = outcome.unwrap_err();
    let text = match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    (error.kind(), text)
}

fn refused_with(outcome: Result<impl std::fmt::Debug, DetachError>, part: &str) {
    let (kind, text) = refusal(outcome);
    assert_eq!(kind, ErrorKind::OperationInvalid, "{text}");
    assert!(text.contains(part), "{text}");
}

#[test]
fn a_vf_goes_to_vfio_and_comes_back_as_it_was() {
    let machine = Machine::new("pfs=1,vfs=2");
    let assigner = machine.start();
    let (vf, found) = (machine.vf(0), machine.host.snapshot());
    let detached = assigner.detach(vf, None).unwrap();
    assert_eq!(detached.driver, "vfio-pci");
    assert_eq!(driver(&machine, vf).as_deref(), Some("vfio-pci"));
    let line = assigner.find(Item::Detached(vf)).unwrap();
    assert_eq!((line.phase, line.origin), (Phase::Lent, Origin::Detached));
    assert_eq!(machine.records(), [format!("detached-{vf}.json")]);
    // Once more changes nothing.
    let effects = machine.host.effect_count();
    assert_eq!(assigner.detach(vf, None).unwrap(), detached);
    assert_eq!(machine.host.effect_count(), effects);

    assert_eq!(
        assigner.reattach(vf).unwrap().as_deref(),
        Some(SimulatedHost::VF_DRIVER)
    );
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
    assert!(assigner.list().is_empty() && machine.records().is_empty());
    // What the host has, it has.
    assert!(assigner.reattach(vf).is_ok());
}

#[test]
fn it_stays_detached_over_a_restart_and_not_over_a_boot() {
    let machine = Machine::new("pfs=1,vfs=2");
    let vf = machine.vf(0);
    assert!(machine.start().detach(vf, None).is_ok());
    let (assigner, findings) = machine.restart(nobody_runs);
    assert!(findings.is_empty(), "{findings:?}");
    assert_eq!(driver(&machine, vf).as_deref(), Some("vfio-pci"));
    assert!(assigner.find(Item::Detached(vf)).is_some());
    drop(assigner);
    machine.host.reboot();
    let (assigner, recovery) = machine.open();
    assert!(
        matches!(&recovery.findings[..], [Finding::OtherBoot { .. }]),
        "{:?}",
        recovery.findings
    );
    assert!(assigner.list().is_empty() && machine.records().is_empty());
}

#[test]
fn a_guest_takes_it_unmanaged_and_gives_it_back_detached() {
    let machine = Machine::new("pfs=1,vfs=2");
    let assigner = machine.start();
    let vf = machine.vf(0);
    let claim = |n| assigner.claim(vf.into(), guest(n), Origin::HostDevice);
    // Not taken from the host yet.
    let early = assigner
        .prepare(claim(1).unwrap(), &unmanaged())
        .unwrap_err();
    assert!(early.obstacle.advice().unwrap().contains("nodedev-detach"));
    assert!(assigner.detach(vf, None).is_ok());
    let lent = assigner.prepare(claim(1).unwrap(), &unmanaged()).unwrap();
    machine.host.hold_vfio(vf, true);
    for outcome in [
        assigner.detach(vf, None).map(drop),
        assigner.reattach(vf).map(drop),
        assigner.reset(vf),
    ] {
        refused_with(outcome, "lent to guest 'web1'");
    }
    assert_eq!(assigner.reconcile(|_| true), []);
    machine.host.hold_vfio(vf, false);
    assigner.give_back(lent.generation).unwrap();
    assert_eq!(driver(&machine, vf).as_deref(), Some("vfio-pci"));
    assert!(assigner.find(Item::Detached(vf)).is_some());
    // A managed one may have it, too, and leaves it as it was.
    let claimed = assigner
        .claim(vf.into(), guest(2), Origin::HostDevice)
        .unwrap();
    let lent = assigner.prepare(claimed, &ordinary(2)).unwrap();
    assigner.give_back(lent.generation).unwrap();
    assert!(assigner.reattach(vf).is_ok());
    assert_eq!(
        driver(&machine, vf).as_deref(),
        Some(SimulatedHost::VF_DRIVER)
    );
}

#[test]
fn one_that_somebody_gave_back_while_a_guest_had_it_is_nobodys_after_a_restart() {
    let machine = Machine::new("pfs=1,vfs=2");
    let mut assigner = machine.start();
    let vf = machine.vf(0);
    for preparation in [unmanaged(), ordinary(1)] {
        assert!(assigner.detach(vf, None).is_ok());
        let claim = assigner
            .claim(vf.into(), guest(1), Origin::HostDevice)
            .unwrap();
        assert!(assigner.prepare(claim, &preparation).is_ok());
        let by_hand = Some(SimulatedHost::VF_DRIVER);
        machine.host.bind_by_hand(vf, by_hand);
        let findings;
        (assigner, findings) = machine.restart(nobody_runs);
        assert!(
            matches!(
                &findings[..],
                [Finding::GivenBack { .. }, Finding::NotDetached { .. }]
            ),
            "{findings:?}"
        );
        assert_eq!(driver(&machine, vf).as_deref(), by_hand);
        assert!(assigner.list().is_empty() && machine.records().is_empty());
        assert_eq!(assigner.reconcile(nobody_runs), []);
    }
}

#[test]
fn a_guest_that_still_has_the_group_open_is_seen_in_its_own_right() {
    let machine = Machine::new("pfs=1,vfs=2");
    let assigner = machine.start();
    let vf = machine.vf(0);
    assert!(assigner.detach(vf, None).is_ok());
    let claim = assigner
        .claim(vf.into(), guest(1), Origin::HostDevice)
        .unwrap();
    let lent = assigner.prepare(claim, &unmanaged()).unwrap();
    machine.host.hold_vfio(vf, true);
    // The detached line is in the same group, and no guest's.
    assert!(assigner.give_back(lent.generation).is_err());
    machine.host.hold_vfio(vf, false);
    assigner.give_back(lent.generation).unwrap();
}

#[test]
fn what_the_host_uses_stays_with_the_host() {
    let machine = Machine::with_links("pfs=1,vfs=2");
    let assigner = machine.start();
    let nic = machine.host.pci_address_of("eth0").unwrap();
    let mounted = Usage::Block {
        device: "sda1".to_owned(),
        by: BlockUse::Mounted("/".to_owned()),
    };
    machine.host.set_usage(nic, vec![mounted]);
    refused_with(assigner.detach(nic, None), "sda1 is mounted at /");
    refused_with(
        assigner.detach(nic, Some("vfio-pci")),
        "sda1 is mounted at /",
    );
    refused_with(assigner.reset(nic), "sda1 is mounted at /");
    // A plain host device is no different, managed or not.
    let claim = assigner
        .claim(nic.into(), guest(1), Origin::HostDevice)
        .unwrap();
    let plain = Preparation::Vfio(common::vfio(None));
    let refused = assigner.prepare(claim, &plain).unwrap_err();
    assert!(
        refused
            .obstacle
            .to_string()
            .contains("sda1 is mounted at /")
    );
    machine.host.set_usage(nic, Vec::new());
    machine.host.put_into("eth0", Some("br0"));
    refused_with(assigner.detach(nic, None), "eth0 belongs to br0");
    machine.host.put_into("eth0", None);
    assert!(assigner.reset(nic).is_ok());
    assert!(assigner.detach(nic, None).is_ok());
    assert!(assigner.reattach(nic).is_ok());
    assert!(machine.host.netdev("eth0").is_ok());
    refused_with(assigner.detach(machine.pf(), None), "it has 2 VFs");
    let bridge = machine.host.pci_place(machine.pf()).unwrap().parent;
    let host::NodeParent::Pci(bridge) = bridge else {
        panic!("{bridge:?}")
    };
    refused_with(assigner.detach(bridge, None), "it is a bridge");
}

#[test]
fn the_consoles_card_goes_only_if_its_driver_is_named() {
    let machine = Machine::with_links("pfs=1,vfs=0");
    let assigner = machine.start();
    let card = machine.host.pci_address_of("eth0").unwrap();
    machine.host.set_usage(card, vec![Usage::Console]);
    let refused = assigner.detach(card, None).unwrap_err();
    assert!(refused.advice().unwrap().contains("--driver"));
    let claim = assigner
        .claim(card.into(), guest(1), Origin::HostDevice)
        .unwrap();
    let plain = Preparation::Vfio(common::vfio(None));
    let managed = assigner.prepare(claim, &plain).unwrap_err();
    assert!(managed.obstacle.advice().unwrap().contains("managed='no'"));
    assert!(assigner.detach(card, Some("vfio-pci")).is_ok());
    let claim = assigner
        .claim(card.into(), guest(1), Origin::HostDevice)
        .unwrap();
    assert!(assigner.prepare(claim, &unmanaged()).is_ok());
}

#[test]
fn what_guests_have_is_refused_by_their_names() {
    let machine = Machine::with_links("pfs=1,vfs=2");
    let assigner = machine.start();
    let nic = machine.host.pci_address_of("eth0").unwrap();
    for parent in [nic.into(), DeviceId::Netdev("eth0".parse().unwrap())] {
        let share = assigner
            .claim_link(Some(parent), guest(3), Origin::Interface)
            .unwrap();
        refused_with(assigner.detach(nic, None), "macvtaps of guest 'web3'");
        refused_with(assigner.reset(nic), "macvtaps of guest 'web3'");
        assigner.give_back(share.generation()).unwrap();
    }
    let vf = machine.vf(1);
    let lent = common::lend(&assigner, vf, 1, &ordinary(1)).unwrap();
    refused_with(assigner.detach(vf, None), "lent to guest 'web1'");
    refused_with(assigner.detach(machine.pf(), None), "lent to guest 'web1'");
    assigner.give_back(lent.generation).unwrap();
}

#[test]
fn the_rest_of_a_running_guests_group_does_not_go_back_to_the_host() {
    let machine = Machine::new("pfs=1,vfs=2");
    let assigner = machine.start();
    let (first, second) = (machine.vf(0), machine.vf(1));
    machine.host.share_group(first, second);
    assert!(assigner.detach(second, None).is_ok());
    let lent = common::lend(&assigner, first, 1, &ordinary(1)).unwrap();
    refused_with(assigner.reattach(second), "shares its IOMMU group");
    assert!(assigner.find(Item::Detached(second)).is_some());
    assigner.give_back(lent.generation).unwrap();
    assert!(assigner.reattach(second).is_ok());
}

#[test]
fn reconcile_tells_of_it_and_of_one_that_somebody_gave_back() {
    let machine = Machine::new("pfs=1,vfs=2");
    let assigner = machine.start();
    let vf = machine.vf(0);
    assert!(assigner.detach(vf, None).is_ok());
    let told = assigner.reconcile(nobody_runs);
    let [told @ Difference::Detached { .. }] = &told[..] else {
        panic!("{told:?}")
    };
    assert!(!told.is_safe() && told.remedy().contains("virsh nodedev-reattach pci_"));
    machine
        .host
        .bind_by_hand(vf, Some(SimulatedHost::VF_DRIVER));
    let told = assigner.reconcile(nobody_runs);
    let [told @ Difference::NotDetached { .. }] = &told[..] else {
        panic!("{told:?}")
    };
    assert!(told.to_string().contains("has driver simvf"), "{told}");
    let effects = machine.host.effect_count();
    assigner.mend(told).unwrap();
    assert!(assigner.list().is_empty() && machine.records().is_empty());
    assert_eq!(machine.host.effect_count(), effects);
    // The same while no daemon looked.
    assert!(assigner.detach(vf, None).is_ok());
    machine
        .host
        .bind_by_hand(vf, Some(SimulatedHost::VF_DRIVER));
    let (assigner, findings) = machine.restart(nobody_runs);
    assert!(
        matches!(&findings[..], [Finding::NotDetached { .. }]),
        "{findings:?}"
    );
    assert!(assigner.list().is_empty() && machine.records().is_empty());
}

#[test]
fn a_detached_function_that_is_gone_is_nobodys() {
    let machine = Machine::new("pfs=1,vfs=2");
    let assigner = machine.start();
    let vf = machine.vf(0);
    assert!(assigner.detach(vf, None).is_ok());
    assigner.detached_is_gone(vf);
    assert!(assigner.find(Item::Detached(vf)).is_some(), "it is there");
    machine.host.remove_vf(vf);
    assert!(matches!(
        &assigner.reconcile(nobody_runs)[..],
        [Difference::NotDetached { .. }]
    ));
    assigner.detached_is_gone(vf);
    assert!(assigner.list().is_empty() && machine.records().is_empty());
}

#[test]
fn a_record_that_somebody_removed_is_written_again() {
    let machine = Machine::new("pfs=1,vfs=2");
    let assigner = machine.start();
    let vf = machine.vf(0);
    assert!(assigner.detach(vf, None).is_ok());
    let record = machine.journal().join(format!("detached-{vf}.json"));
    std::fs::remove_file(&record).unwrap();
    let told = assigner.reconcile(nobody_runs);
    assert_eq!(told.len(), 1);
    assigner.mend(&told[0]).unwrap();
    assert!(record.exists());
}

#[test]
fn settings_that_were_made_meanwhile_stand() {
    let machine = Machine::new("pfs=1,vfs=2");
    let assigner = machine.start();
    let address = machine.vf(0);
    assert!(assigner.detach(address, None).is_ok());
    let vf = machine.host.virtual_function(address).unwrap();
    let mac = common::mac(9);
    machine.host.set_vf(&vf, VfSetting::Mac(mac)).unwrap();
    assert!(assigner.reattach(address).is_ok());
    let state = machine.host.vf_state(&vf).unwrap();
    assert_eq!((state.mac, state.netdev.unwrap().1), (mac, mac));
}

#[test]
fn one_that_was_on_vfio_before_goes_to_the_driver_that_the_kernel_chooses() {
    let machine = Machine::new("pfs=1,vfs=2");
    let assigner = machine.start();
    let (first, second) = (machine.vf(0), machine.vf(1));
    for vf in [first, second] {
        machine.host.bind_by_hand(vf, Some("vfio-pci"));
    }
    assert!(assigner.detach(first, None).is_ok());
    for vf in [first, second] {
        machine.host.hold_vfio(vf, true);
        refused_with(assigner.reattach(vf), "has its vfio group");
        machine.host.hold_vfio(vf, false);
        assert!(assigner.reattach(vf).is_ok());
        assert_eq!(
            driver(&machine, vf).as_deref(),
            Some(SimulatedHost::VF_DRIVER)
        );
    }
    assert!(assigner.list().is_empty() && machine.records().is_empty());
}

#[test]
fn a_failure_undoes_all_and_what_cannot_be_undone_is_dirty() {
    let machine = Machine::new("pfs=1,vfs=2");
    let assigner = machine.start();
    let (vf, found) = (machine.vf(0), machine.host.snapshot());
    machine.host.refuse_driver(machine.vf(1), "vfio-pci");
    assert!(assigner.detach(machine.vf(1), None).is_err());
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
    assert!(assigner.list().is_empty() && machine.records().is_empty());

    machine
        .host
        .fail(Fault::of(Operation::Bind, EBUSY).partial());
    machine.host.fail(Fault::of(Operation::Unbind, EBUSY));
    let (_, text) = refusal(assigner.detach(vf, None));
    assert!(text.contains("nor restore it"), "{text}");
    assert_eq!(machine.host.waiting_faults(), 0);
    let line = assigner.find(Item::Detached(vf)).unwrap();
    assert!(matches!(line.phase, Phase::Dirty(_)), "{line:?}");
    let kept_back = assigner.claim(vf.into(), guest(1), Origin::HostDevice);
    assert!(kept_back.is_err());
    assert!(assigner.reattach(vf).is_ok());
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);

    assert!(assigner.detach(vf, None).is_ok());
    machine.host.fail(Fault::of(Operation::Unbind, EBUSY));
    assert!(matches!(
        assigner.reattach(vf),
        Err(DetachError::Dirty { .. })
    ));
    let told = assigner.reconcile(nobody_runs);
    assert!(matches!(&told[..], [Difference::Dirty { .. }]), "{told:?}");
    assert!(
        told[0].to_string().contains("back from nobody"),
        "{}",
        told[0]
    );
    assigner.mend(&told[0]).unwrap();
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
}

/// With a record that can't be written: at first, or once the function has its new driver.
#[test]
fn a_full_disk_undoes_all() {
    let machine = Machine::new("pfs=1,vfs=2");
    let (vf, found) = (machine.vf(0), machine.host.snapshot());
    let full = machine.journal().join(format!(".detached-{vf}.json.new"));
    let assigner = machine.start();
    std::os::unix::fs::symlink("/dev/full", &full).unwrap();
    let (kind, text) = refusal(assigner.detach(vf, None));
    assert_eq!(kind, ErrorKind::System(28), "{text}");
    assert_eq!(machine.host.effect_count(), 0);
    assert!(assigner.list().is_empty() && machine.records().is_empty());
    drop(assigner);

    let hook = full.clone();
    let hooked = Hooked {
        on_bind: Box::new(move || std::os::unix::fs::symlink("/dev/full", &hook).unwrap()),
        ..Hooked::plain(machine.host.clone())
    };
    let (assigner, _) = machine.open_with(Arc::new(hooked));
    let (kind, text) = refusal(assigner.detach(vf, None));
    assert_eq!(kind, ErrorKind::System(28), "{text}");
    assert!(machine.host.effect_count() > 0);
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
    assert!(assigner.list().is_empty() && machine.records().is_empty());
}

#[test]
fn one_that_the_kernel_does_not_take_back_is_as_it_was_found() {
    let machine = Machine::new("pfs=1,vfs=2");
    let assigner = machine.start();
    let vf = machine.vf(0);
    machine.host.bind_by_hand(vf, Some("vfio-pci"));
    assert!(assigner.detach(vf, None).is_ok());
    machine.host.fail(Fault::of(Operation::Unbind, EBUSY));
    let (kind, text) = refusal(assigner.reattach(vf));
    assert_eq!(kind, ErrorKind::System(EBUSY), "{text}");
    assert_eq!(driver(&machine, vf).as_deref(), Some("vfio-pci"));
    assert!(assigner.list().is_empty() && machine.records().is_empty());
    assert!(assigner.reattach(vf).is_ok());
    assert_eq!(
        driver(&machine, vf).as_deref(),
        Some(SimulatedHost::VF_DRIVER)
    );
}

/// Detaches and reattaches, until it is killed after that many changes of the host.
fn killed_after(machine: &Machine, effects: u64) -> bool {
    let assigner = machine.start();
    let vf = machine.vf(0);
    machine.host.crash_after(effects);
    let through = until_crash(|| {
        assigner.detach(vf, None).unwrap();
        assigner.reattach(vf).unwrap();
    });
    // What a killed process does not do: unwinding's own work must not reach the journal.
    std::mem::forget(assigner);
    machine.host.restart_caller();
    through.is_none()
}

#[test]
fn after_a_crash_at_any_change_it_is_detached_or_the_hosts() {
    let (mut crashes, mut detached) = (0, 0);
    for effects in 1.. {
        let machine = Machine::new("pfs=1,vfs=2");
        let found = machine.host.snapshot();
        if !killed_after(&machine, effects) {
            break;
        }
        crashes += 1;
        assert_eq!(
            machine.records().len(),
            1,
            "a record before the first change"
        );
        let (assigner, _) = machine.restart(nobody_runs);
        let vf = machine.vf(0);
        if assigner.find(Item::Detached(vf)).is_some() {
            detached += 1;
            assert_eq!(driver(&machine, vf).as_deref(), Some("vfio-pci"));
            assigner.reattach(vf).unwrap();
        }
        assert_eq!(
            found.differences(&machine.host.snapshot()),
            [""; 0],
            "after change {effects}"
        );
        assert!(assigner.list().is_empty() && machine.records().is_empty());
    }
    assert!(crashes >= 5, "only {crashes} crashes");
    assert!(detached <= 1, "{detached}");
}

/// The list and a pool's claims: one of them at a time.
#[test]
fn two_threads_never_both_have_it() {
    let machine = Machine::new("pfs=1,vfs=2");
    let assigner = machine.start();
    let vf = machine.vf(0);
    let work = |assigner: &Assigner| {
        let _ = assigner.detach(vf, None);
        let _ = assigner.reattach(vf);
    };
    std::thread::scope(|scope| {
        for n in 0..4 {
            let (assigner, machine) = (&assigner, &machine);
            scope.spawn(move || {
                for _ in 0..20 {
                    if n % 2 == 0 {
                        work(assigner);
                    } else if let Ok(claim) =
                        assigner.claim(vf.into(), guest(n), Origin::HostDevice)
                        && let Ok(lent) = assigner.prepare(claim, &ordinary(n))
                    {
                        assert_eq!(driver(machine, vf).as_deref(), Some("vfio-pci"));
                        assigner.give_back(lent.generation).unwrap();
                    }
                }
            });
        }
    });
    let _ = assigner.reattach(vf);
    assert_eq!(
        driver(&machine, vf).as_deref(),
        Some(SimulatedHost::VF_DRIVER)
    );
    assert!(assigner.list().is_empty() && machine.records().is_empty());
    assert!(assigner.find(item(vf)).is_none());
}
