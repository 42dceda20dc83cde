//! Failures, crashes and what an administrator does, on the simulated host.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

use std::panic::{AssertUnwindSafe, catch_unwind};

use conf::MacAddress;
use host::{
    Effect, Fault, Host, HostError, Operation, Quirks, SimulatedCrash, SimulatedHost, Usage,
    VfSetting, VirtualFunction,
};

const EIO: i32 = 5;
const EBUSY: i32 = 16;
const ESHUTDOWN: i32 = 108;

fn small() -> (SimulatedHost, Vec<VirtualFunction>) {
    let host = SimulatedHost::new("pfs=1,vfs=4".parse().unwrap());
    let vfs = host
        .virtual_functions(&host.physical_function("sim0").unwrap())
        .unwrap();
    (host, vfs)
}

fn mac(last: u8) -> VfSetting {
    VfSetting::Mac(MacAddress::new([0x52, 0x54, 0, 0, 0, last]))
}

#[test]
fn a_fault_hits_the_chosen_call_once() {
    let (host, vfs) = small();
    let before = host.snapshot();
    host.fail(Fault::of(Operation::SetMac, EIO).on(vfs[1].address).nth(2));
    host.set_vf(&vfs[0], mac(0)).unwrap();
    host.set_vf(&vfs[1], mac(1)).unwrap();
    host.set_vf(&vfs[1], VfSetting::Trust(true)).unwrap();
    assert_eq!(host.waiting_faults(), 1);
    let error = host.set_vf(&vfs[1], mac(2)).unwrap_err();
    assert_eq!(error.errno(), Some(EIO));
    assert_eq!(
        error.to_string(),
        format!("setting the MAC of VF 1 of 'sim0' ({})", vfs[1].address)
    );
    assert_eq!(host.waiting_faults(), 0);
    host.set_vf(&vfs[1], mac(3)).unwrap();
    let changed = before.differences(&host.snapshot());
    assert_eq!(changed.len(), 2, "{changed:?}");
}

#[test]
fn a_lasting_fault_stays_until_it_is_healed() {
    let (host, vfs) = small();
    host.fail(Fault::any(EIO).always());
    assert_eq!(host.vf_state(&vfs[0]).unwrap_err().errno(), Some(EIO));
    assert_eq!(
        host.bind(vfs[0].address, "vfio-pci").unwrap_err().errno(),
        Some(EIO)
    );
    host.heal();
    host.vf_state(&vfs[0]).unwrap();
}

#[test]
fn a_partial_fault_leaves_something_behind() {
    let (host, vfs) = small();
    host.fail(Fault::of(Operation::SetMac, EIO).partial());
    host.set_vf(&vfs[0], mac(7)).unwrap_err();
    assert_eq!(VfSetting::Mac(host.vf_state(&vfs[0]).unwrap().mac), mac(7));
    host.fail(Fault::of(Operation::Bind, EIO).partial());
    host.bind(vfs[0].address, "vfio-pci").unwrap_err();
    assert_eq!(host.vf_state(&vfs[0]).unwrap().driver, None);
    host.unbind(vfs[0].address, Some(SimulatedHost::VF_DRIVER))
        .unwrap();
    let state = host.vf_state(&vfs[0]).unwrap();
    assert_eq!(state.driver.as_deref(), Some(SimulatedHost::VF_DRIVER));
}

#[test]
fn a_crash_stops_the_caller_between_any_two_effects() {
    // Override, unbinding, binding, MAC.
    for effects in 0..4 {
        let (host, vfs) = small();
        host.crash_after(effects);
        let stopped = catch_unwind(AssertUnwindSafe(|| {
            host.bind(vfs[0].address, "vfio-pci").unwrap();
            host.set_vf(&vfs[0], mac(1)).unwrap();
            host.vf_state(&vfs[0]).unwrap();
        }));
        let crash = stopped.unwrap_err().downcast::<SimulatedCrash>();
        assert!(crash.is_ok(), "after {effects}");
        assert_eq!(host.effect_count(), effects);
        host.restart_caller();
        host.unbind(vfs[0].address, Some(SimulatedHost::VF_DRIVER))
            .unwrap();
        host.vf_state(&vfs[0]).unwrap();
    }
}

#[test]
fn what_runs_while_the_caller_unwinds_can_do_nothing_more() {
    struct Undo<'a>(&'a SimulatedHost, &'a VirtualFunction);
    impl Drop for Undo<'_> {
        fn drop(&mut self) {
            let error = self.0.set_vf(self.1, mac(9)).unwrap_err();
            assert_eq!(error.errno(), Some(ESHUTDOWN));
        }
    }
    let (host, vfs) = small();
    host.crash_after(1);
    let stopped = catch_unwind(AssertUnwindSafe(|| {
        let _undo = Undo(&host, &vfs[0]);
        host.set_vf(&vfs[0], mac(1)).unwrap();
    }));
    assert!(stopped.is_err());
    host.restart_caller();
    assert_eq!(VfSetting::Mac(host.vf_state(&vfs[0]).unwrap().mac), mac(1));
}

#[test]
fn effects_are_told_in_order() {
    let (host, vfs) = small();
    let vf = vfs[2].address;
    host.set_vf(&vfs[2], mac(1)).unwrap();
    host.bind(vf, "vfio-pci").unwrap();
    let vfio = String::from("vfio-pci");
    let expected = [
        Effect::Set(vf, mac(1)),
        Effect::Override(vf, Some(vfio.clone())),
        Effect::Unbound(vf, SimulatedHost::VF_DRIVER.to_owned()),
        Effect::Bound(vf, vfio),
    ];
    assert_eq!(host.effects(), expected);
    host.clear_effects();
    assert_eq!((host.effects(), host.effect_count()), (Vec::new(), 4));
}

#[test]
fn a_host_driver_without_a_mac_from_the_pf_makes_up_a_new_one() {
    let (host, vfs) = small();
    let before = host.snapshot();
    let (_, own) = host.vf_state(&vfs[0]).unwrap().netdev.unwrap();
    host.bind(vfs[0].address, "vfio-pci").unwrap();
    host.unbind(vfs[0].address, Some(SimulatedHost::VF_DRIVER))
        .unwrap();
    let (netdev, made_up) = host.vf_state(&vfs[0]).unwrap().netdev.unwrap();
    assert_ne!(made_up, own);
    host.set_netdev_mac(&netdev, own).unwrap();
    assert_eq!(before.differences(&host.snapshot()), Vec::<String>::new());
}

/// What was seen of a real igb.
#[test]
fn an_igb_lists_the_mac_that_a_vf_made_up_and_locks_the_one_that_it_gave() {
    const EADDRNOTAVAIL: i32 = 99;
    let (host, vfs) = small();
    host.set_quirks(Quirks::igb());
    let vf = &vfs[0];
    let anew = || {
        host.unbind(vf.address, None).unwrap();
        host.unbind(vf.address, Some(SimulatedHost::VF_DRIVER))
            .unwrap();
        let state = host.vf_state(vf).unwrap();
        let (netdev, own) = state.netdev.unwrap();
        (state.mac, own, netdev)
    };
    let (listed, own, netdev) = anew();
    assert_eq!(listed, own);
    assert_ne!(anew().1, own, "another one at each bind");
    host.set_netdev_mac(&netdev, own).unwrap();
    assert_eq!(host.vf_state(vf).unwrap().mac, own);
    host.set_vf(vf, mac(1)).unwrap();
    let (listed, given, _) = anew();
    assert_eq!(
        (VfSetting::Mac(listed), VfSetting::Mac(given)),
        (mac(1), mac(1))
    );
    let error = host.set_netdev_mac(&netdev, own).unwrap_err();
    assert_eq!(error.errno(), Some(EADDRNOTAVAIL));
    host.set_vf(vf, VfSetting::Mac(MacAddress::ZERO)).unwrap();
    host.set_netdev_mac(&netdev, own).unwrap();
    assert_eq!(host.vf_state(vf).unwrap().mac, own);
    // While the PF is down neither hears of the other, and rates can't be set.
    host.set_vf(vf, mac(2)).unwrap();
    host.set_pf_up(vf.pf_address, false);
    let (listed, own, _) = anew();
    assert_eq!(VfSetting::Mac(listed), mac(2));
    assert_ne!(own, listed);
    let error = host
        .set_vf(vf, VfSetting::Rate { min: 0, max: 0 })
        .unwrap_err();
    assert_eq!(error.errno(), Some(22));
}

#[test]
fn a_held_vf_can_not_be_taken_back() {
    let (host, vfs) = small();
    host.bind(vfs[0].address, "vfio-pci").unwrap();
    host.hold_vfio(vfs[0].address, true);
    assert!(matches!(
        host.vf_usage(&vfs[0]).unwrap()[..],
        [Usage::VfioOpen(_)]
    ));
    let ordinary = Some(SimulatedHost::VF_DRIVER);
    assert_eq!(
        host.unbind(vfs[0].address, ordinary).unwrap_err().errno(),
        Some(EBUSY)
    );
    let pf = host.physical_function("sim0").unwrap();
    assert_eq!(host.set_vf_count(&pf, 0).unwrap_err().errno(), Some(EBUSY));
    host.hold_vfio(vfs[0].address, false);
    host.unbind(vfs[0].address, ordinary).unwrap();
}

#[test]
fn a_group_with_a_second_member_tells_both() {
    let (host, vfs) = small();
    let other = host.add_group_member(vfs[0].address, Some("ahci")).unwrap();
    let group = host.iommu_group(vfs[0].address).unwrap().unwrap();
    assert_eq!(host.iommu_group(other).unwrap(), Some(group.clone()));
    assert_eq!(group.members.len(), 2);
    assert!(group.members.contains(&(other, Some(String::from("ahci")))));
    assert_eq!(
        host.iommu_group(vfs[1].address)
            .unwrap()
            .unwrap()
            .members
            .len(),
        1
    );
    host.share_group(vfs[2].address, vfs[3].address);
    let both = host.iommu_group(vfs[3].address).unwrap().unwrap();
    assert_eq!(both, host.iommu_group(vfs[2].address).unwrap().unwrap());
    assert_eq!(both.members.len(), 2);
    host.set_iommu(false);
    assert_eq!(host.iommu_group(vfs[0].address).unwrap(), None);
}

#[test]
fn vfs_vanish_and_return() {
    let (host, vfs) = small();
    let pf = host.physical_function("sim0").unwrap();
    host.remove_vf(vfs[1].address);
    assert_eq!(host.virtual_functions(&pf).unwrap().len(), 3);
    assert!(matches!(
        host.vf_state(&vfs[1]),
        Err(HostError::NoPciDevice(_))
    ));
    host.restore_vf(pf.address, 1);
    assert_eq!(host.virtual_functions(&pf).unwrap(), vfs);
}

#[test]
fn a_reboot_leaves_nothing_of_what_was_set() {
    let (host, vfs) = small();
    let boot = host.boot_id().unwrap();
    host.set_vf(&vfs[0], mac(1)).unwrap();
    host.bind(vfs[0].address, "vfio-pci").unwrap();
    host.reboot();
    assert_ne!(host.boot_id().unwrap(), boot);
    let state = host.vf_state(&vfs[0]).unwrap();
    assert!(state.mac.is_zero());
    assert_eq!(state.driver.as_deref(), Some(SimulatedHost::VF_DRIVER));
}

#[test]
fn a_driver_that_refuses_leaves_the_device_without_one() {
    let (host, vfs) = small();
    host.refuse_driver(vfs[0].address, "vfio-pci");
    let error = host.bind(vfs[0].address, "vfio-pci").unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "driver 'vfio-pci' did not take {}; no driver has it",
            vfs[0].address
        )
    );
}

#[test]
fn one_call_costs_the_same_among_32768_vfs() {
    let host = SimulatedHost::new("pfs=128,vfs=32768".parse().unwrap());
    let pfs = host.physical_functions().unwrap();
    let vfs = host.virtual_functions(&pfs[127]).unwrap();
    assert_eq!((pfs.len(), vfs.len()), (128, 256));
    let started = std::time::Instant::now();
    for vf in &vfs {
        for _ in 0..10 {
            host.bind(vf.address, "vfio-pci").unwrap();
            host.set_vf(vf, mac(1)).unwrap();
            host.unbind(vf.address, Some(SimulatedHost::VF_DRIVER))
                .unwrap();
            host.vf_usage(vf).unwrap();
        }
    }
    // 10,240 calls take some 10 ms; a walk over all VFs in each would take minutes.
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
}
