//! Shaping, counters, abilities, VFs on demand and port profiles of the simulated host.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests are tests"
)]

use conf::{Bandwidth, MacAddress, Rate, Uuid};
use host::{
    Counters, Effect, Fault, Host, HostError, HostEvent, Links, NicAbility, Operation,
    PhysicalFunction, PortAction, PortAnswer, PortProfile, PortRequest, SimulatedHost,
    VirtualFunction,
};

const EINVAL: i32 = 22;
const ENOMEM: i32 = 12;
const EBUSY: i32 = 16;
const ENODEV: i32 = 19;
const ERANGE: i32 = 34;

fn small() -> (SimulatedHost, PhysicalFunction, Vec<VirtualFunction>) {
    let host = SimulatedHost::new("pfs=1,vfs=4".parse().unwrap());
    let pf = host.physical_function("sim0").unwrap();
    let vfs = host.virtual_functions(&pf).unwrap();
    (host, pf, vfs)
}

fn limited() -> Bandwidth {
    let average = Rate {
        average: Some(1000),
        ..Rate::default()
    };
    Bandwidth {
        inbound: Some(average),
        outbound: None,
    }
}

fn associate(action: PortAction) -> PortRequest {
    PortRequest {
        action,
        mac: MacAddress::new([0x52, 0x54, 0, 1, 2, 3]),
        profile: PortProfile::Qbg {
            link: "sim0".parse().unwrap(),
            manager_id: 11,
            type_id: 1,
            type_id_version: 1,
            instance_id: Uuid::from_u128(7),
        },
    }
}

#[test]
fn shaping_is_kept_until_it_is_removed() {
    let (host, pf, _) = small();
    let before = host.snapshot();
    host.set_bandwidth(pf.ifindex, &limited()).unwrap();
    assert_eq!(host.bandwidth(pf.ifindex), limited());
    assert_eq!(before.differences(&host.snapshot()).len(), 1);
    host.fail(Fault::of(Operation::SetBandwidth, EINVAL));
    let error = (host.set_bandwidth(pf.ifindex, &Bandwidth::default())).unwrap_err();
    assert_eq!(error.errno(), Some(EINVAL));
    host.set_bandwidth(pf.ifindex, &Bandwidth::default())
        .unwrap();
    assert_eq!(before, host.snapshot());
    let error = host.set_bandwidth(4242, &limited()).unwrap_err();
    assert_eq!(error.errno(), Some(ENODEV));
    let mut guaranteed = limited();
    guaranteed.inbound.as_mut().unwrap().floor = Some(1);
    let error = host.set_bandwidth(pf.ifindex, &guaranteed).unwrap_err();
    assert!(matches!(error, HostError::Unsupported { .. }), "{error}");
}

#[test]
fn shaping_goes_with_its_device() {
    let (host, _, vfs) = small();
    let netdev = host.netdev("sim0v1").unwrap();
    host.set_bandwidth(netdev.index, &limited()).unwrap();
    host.bind(vfs[1].address, "vfio-pci").unwrap();
    assert!(host.snapshot().bandwidths.is_empty());
}

#[test]
fn vfs_made_while_autoprobe_is_off_have_no_driver() {
    let (host, pf, vfs) = small();
    assert!(host.autoprobe(&pf).unwrap());
    host.set_vf_count(&pf, 0).unwrap();
    host.set_autoprobe(&pf, false).unwrap();
    assert!(!host.autoprobe(&pf).unwrap());
    assert_eq!(host.snapshot().without_autoprobe.len(), 1);
    host.set_vf_count(&pf, 4).unwrap();
    let state = host.vf_state(&vfs[0]).unwrap();
    assert_eq!((state.driver, state.netdev), (None, None));
    host.set_autoprobe(&pf, true).unwrap();
    host.set_vf_count(&pf, 0).unwrap();
    host.set_vf_count(&pf, 4).unwrap();
    assert!(host.vf_state(&vfs[0]).unwrap().netdev.is_some());
    host.fail(Fault::of(Operation::SetAutoprobe, EINVAL).on(pf.address));
    let error = host.set_autoprobe(&pf, false).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "setting the automatic probing of VFs of 'sim0' ({})",
            pf.address
        )
    );
}

#[test]
fn a_refused_number_of_vfs_explains_itself() {
    let (host, pf, vfs) = small();
    let refused = |count| {
        let error = host.set_vf_count(&pf, count).unwrap_err();
        (error.errno().unwrap(), error.advice().unwrap(), error)
    };
    let (errno, advice, error) = refused(9);
    assert_eq!((errno, advice.contains("allows 8 VFs")), (ERANGE, true));
    assert_eq!(
        error.to_string(),
        format!(
            "setting the number of VFs of 'sim0' ({}) to 9, from 4",
            pf.address
        )
    );
    let (errno, advice, _) = refused(3);
    assert_eq!((errno, advice.contains("by way of 0")), (EBUSY, true));
    host.bind(vfs[2].address, "vfio-pci").unwrap();
    host.hold_vfio(vfs[2].address, true);
    let (errno, advice, error) = refused(0);
    let holder = format!("a process holds its VF {} by vfio", vfs[2].address);
    assert_eq!((errno, advice.contains(&holder)), (EBUSY, true), "{advice}");
    assert!(matches!(error, HostError::VfCount { holder: Some(vf), .. } if vf == vfs[2].address));
    host.hold_vfio(vfs[2].address, false);
    host.fail(Fault::of(Operation::SetVfCount, ENOMEM));
    let (errno, advice, _) = refused(0);
    assert_eq!((errno, advice.contains("bus numbers")), (ENOMEM, true));
    host.set_vf_count(&pf, 0).unwrap();
}

#[test]
fn a_nic_tells_what_it_can_do() {
    let (host, pf, vfs) = small();
    let ability = |name: &str| host.nic_ability(&host.netdev(name).unwrap()).unwrap();
    let expected = NicAbility::SrIov { max_vfs: 8, vfs: 4 };
    assert_eq!(ability(&pf.netdev), expected);
    assert_eq!(ability("sim0v1"), NicAbility::VirtualFunction);
    host.add_nic("nic0").unwrap();
    assert_eq!(ability("nic0"), NicAbility::Ethernet);
    let offload = NicAbility::MacvlanOffload { on: false };
    host.set_nic_ability("nic0", offload);
    assert_eq!(ability("nic0"), offload);
    host.set_vf_counters(vfs[0].address, Counters::default());
    assert_eq!(
        host.vf_counters(&vfs[0]).unwrap(),
        Some(Counters::default())
    );
    assert_eq!(host.vf_counters(&vfs[1]).unwrap(), None);
}

#[test]
fn port_profiles_are_agreed_refused_or_not_answered() {
    let (host, ..) = small();
    let request = associate(PortAction::Associate);
    host.port_profile(&request).unwrap();
    assert_eq!(host.port_profiles()[&request.mac], request);
    assert!(matches!(host.effects()[..], [Effect::PortProfile(_)]));
    let mut events = host.watch().unwrap();
    host.disassociate_port(request.mac);
    let ended = HostEvent::PortDisassociated {
        mac: request.mac,
        instance: Some(Uuid::from_u128(7)),
    };
    assert_eq!(events.next(), Some(ended));
    assert!(host.port_profiles().is_empty());
    host.set_port_answer(PortAnswer::Silence);
    host.port_profile(&associate(PortAction::AssociateAgain))
        .unwrap();
    let error = host.port_profile(&request).unwrap_err();
    assert!(error.to_string().contains("no answer within 10 s"));
    host.set_port_answer(PortAnswer::Refuse(String::from("not today")));
    let error = host.port_profile(&request).unwrap_err();
    assert!(error.to_string().contains("not today"), "{error}");
    host.set_port_answer(PortAnswer::Unsupported);
    let error = host.port_profile(&request).unwrap_err();
    assert!(matches!(error, HostError::Unsupported { .. }));
    host.set_port_answer(PortAnswer::Accept);
    let mut elsewhere = request.clone();
    if let PortProfile::Qbg { link, .. } = &mut elsewhere.profile {
        *link = "nowhere".parse().unwrap();
    }
    let error = host.port_profile(&elsewhere).unwrap_err();
    assert!(matches!(error, HostError::NoNetdev(_)), "{error}");
    host.port_profile(&associate(PortAction::Disassociate))
        .unwrap();
    assert!(host.port_profiles().is_empty());
}
