//! What every host keeps to: the same checks for the simulated host and for a real card.

use conf::{MacAddress, PciAddress, VfLink};
use host::{
    GuestGroup, Host, HostError, HostEvent, LinkState, NodeAccess, NodeParent, PhysicalFunction,
    Sriov, VfSetting, VfState, VirtualFunction, VlanProtocol,
};

const ENOENT: i32 = 2;
const EINVAL: i32 = 22;
const EBUSY: i32 = 16;
const ERANGE: i32 = 34;
const EPROTONOSUPPORT: i32 = 93;
const EOPNOTSUPP: i32 = 95;

/// A host with a PF that is up and has at least two VFs, which are on their ordinary driver and
/// not in use.
pub(crate) struct Subject<'a> {
    pub(crate) host: &'a dyn Host,
    pub(crate) pf: &'a str,
}

/// One thing that holds.
pub(crate) type Check = fn(&Subject<'_>);

/// All checks by name. Each leaves the host as it found it.
pub(crate) const CHECKS: &[(&str, Check)] = &[
    ("a PF is found by its name, and listed", pf_is_found),
    (
        "every PF and VF is listed with its place",
        functions_have_places,
    ),
    (
        "a VF on vfio is used by whoever opens it, and the kernel finds its driver again",
        rebinding_finds_the_driver,
    ),
    (
        "VFs have numbers from 0 and know their PF",
        vfs_know_their_pf,
    ),
    (
        "a PCI function tells its part in SR-IOV",
        functions_tell_their_part,
    ),
    (
        "names and addresses of something else are refused",
        others_are_refused,
    ),
    ("the PF's link is up", link_is_up),
    (
        "each setting is read back as it was set",
        settings_are_read_back,
    ),
    (
        "a VLAN with priority is read back, and taken off",
        vlan_is_read_back,
    ),
    (
        "setting one VF leaves the others alone",
        others_are_left_alone,
    ),
    (
        "what the card can't do is refused with a number",
        refusals_have_numbers,
    ),
    (
        "a VF that is not there can't be set or read",
        missing_vf_is_refused,
    ),
    ("an idle VF is not in use", idle_vf_is_free),
    ("a VF goes to vfio and comes back", vf_goes_and_comes_back),
    (
        "a group is let be opened, as long as it is vfio's",
        group_is_lent_and_taken_back,
    ),
    (
        "binding twice and giving back twice change nothing",
        binding_is_idempotent,
    ),
    (
        "a MAC set while the guest has the VF is the host's after it",
        mac_is_taken_up,
    ),
    ("a VF whose MAC is taken off keeps none", mac_is_taken_off),
    (
        "an unknown driver changes nothing",
        unknown_driver_changes_nothing,
    ),
    (
        "a VF without a driver is given back without one",
        no_driver_is_given_back,
    ),
    ("changes of drivers are told", driver_changes_are_told),
    ("the boot keeps its identity", boot_is_one),
    (
        "the number of VFs changes only through 0",
        vf_count_goes_through_zero,
    ),
];

impl Subject<'_> {
    fn pf(&self) -> PhysicalFunction {
        self.host.physical_function(self.pf).unwrap()
    }

    fn vfs(&self) -> Vec<VirtualFunction> {
        self.host.virtual_functions(&self.pf()).unwrap()
    }

    fn vf(&self, number: usize) -> VirtualFunction {
        self.vfs().swap_remove(number)
    }

    fn state(&self, vf: &VirtualFunction) -> VfState {
        self.host.vf_state(vf).unwrap()
    }

    /// All that the PF says of the VF: its own network device follows in its own time.
    fn settings(&self, vf: &VirtualFunction) -> VfState {
        VfState {
            netdev: None,
            ..self.state(vf)
        }
    }

    fn set(&self, vf: &VirtualFunction, setting: VfSetting) {
        self.host.set_vf(vf, setting).unwrap();
    }

    fn driver(&self, vf: &VirtualFunction) -> Option<String> {
        self.host.pci_device(vf.address).unwrap().driver
    }

    /// Lets a check use a VF on vfio, and gives it back.
    fn on_vfio(&self, vf: &VirtualFunction, check: impl FnOnce()) {
        let before = self.driver(vf).unwrap();
        let driver = self.host.best_vfio_driver(vf.address).unwrap();
        self.host.bind(vf.address, &driver).unwrap();
        assert_eq!(self.driver(vf), Some(driver));
        check();
        self.host.unbind(vf.address, Some(&before)).unwrap();
        assert_eq!(self.driver(vf), Some(before));
    }
}

fn mac(last: u8) -> MacAddress {
    MacAddress::new([0x52, 0x54, 0, 0xaa, 0xbb, last])
}

fn pf_is_found(subject: &Subject<'_>) {
    let pf = subject.pf();
    assert_eq!(pf.netdev, subject.pf);
    assert!(pf.vf_count >= 2 && pf.vf_count <= pf.max_vfs, "{pf:?}");
    assert!(subject.host.physical_functions().unwrap().contains(&pf));
    assert_eq!(subject.host.pci_address_of(subject.pf).unwrap(), pf.address);
}

fn functions_have_places(subject: &Subject<'_>) {
    let host = subject.host;
    let all = host.pci_functions().unwrap();
    assert!(all.is_sorted());
    let pf = subject.pf().address;
    let vfs = subject.vfs().into_iter().map(|vf| vf.address);
    for address in std::iter::once(pf).chain(vfs) {
        assert!(all.contains(&address), "{address}");
        let place = host.pci_place(address).unwrap();
        assert!(place.path.starts_with("/sys/devices/"), "{place:?}");
        assert!(place.path.ends_with(&address.to_string()), "{place:?}");
        assert_eq!(host.pci_details(address).unwrap().place, place);
    }
    let place = host.netdev_place(subject.pf).unwrap();
    assert_eq!(place.parent, NodeParent::Pci(pf));
    let netdev = host.netdev(subject.pf).unwrap();
    assert_eq!(host.netdev_node(&netdev).unwrap().place, place);
    assert!(matches!(
        host.netdev_place("no-such-one"),
        Err(HostError::NoNetdev(_))
    ));
}

fn rebinding_finds_the_driver(subject: &Subject<'_>) {
    let (host, vf) = (subject.host, subject.vf(0));
    let before = subject.driver(&vf);
    assert_eq!(host.pci_usage(vf.address).unwrap(), []);
    let driver = host.best_vfio_driver(vf.address).unwrap();
    host.bind(vf.address, &driver).unwrap();
    assert_eq!(host.pci_usage(vf.address).unwrap(), []);
    assert_eq!(host.rebind(vf.address).unwrap(), before);
    assert_eq!(subject.driver(&vf), before);
}

fn vfs_know_their_pf(subject: &Subject<'_>) {
    let pf = subject.pf();
    let vfs = subject.vfs();
    assert_eq!(vfs.len(), usize::from(pf.vf_count));
    for (number, vf) in (0..).zip(&vfs) {
        assert_eq!((vf.number, vf.pf_address), (number, pf.address));
        assert_eq!((&vf.pf_netdev, vf.pf_ifindex), (&pf.netdev, pf.ifindex));
        assert_eq!(&subject.host.virtual_function(vf.address).unwrap(), vf);
    }
}

fn functions_tell_their_part(subject: &Subject<'_>) {
    let (pf, vf) = (subject.pf(), subject.vf(0));
    let device = subject.host.pci_device(pf.address).unwrap();
    let vfs: Vec<_> = subject.vfs().iter().map(|vf| vf.address).collect();
    assert_eq!(
        device.sriov,
        Sriov::Physical {
            vfs,
            max: pf.max_vfs
        }
    );
    assert!(device.netdevs.iter().any(|name| name == subject.pf) && device.is_express);
    let device = subject.host.pci_device(vf.address).unwrap();
    assert_eq!(device.sriov, Sriov::Virtual { pf: pf.address });
    assert_eq!(device.class >> 8, 0x0200);
    let (netdev, own) = subject.state(&vf).netdev.unwrap();
    assert_eq!(device.netdevs, std::slice::from_ref(&netdev));
    assert!(!own.is_zero());
    assert_eq!(subject.host.pci_address_of(&netdev).unwrap(), vf.address);
    let group = subject.host.iommu_group(vf.address).unwrap().unwrap();
    assert_eq!(device.iommu_group, Some(group.number));
    assert!(group.members.contains(&(vf.address, device.driver)));
}

fn others_are_refused(subject: &Subject<'_>) {
    let host = subject.host;
    let (pf, vf) = (subject.pf(), subject.vf(0));
    let (netdev, _) = subject.state(&vf).netdev.unwrap();
    let error = host.physical_function(&netdev).unwrap_err();
    assert!(
        matches!(&error, HostError::NotPhysicalFunction(name) if *name == netdev),
        "{error}"
    );
    let error = host.virtual_function(pf.address).unwrap_err();
    assert!(
        matches!(&error, HostError::NotVirtualFunction(at) if *at == pf.address),
        "{error}"
    );
    for name in ["nosuchdev", "", "../x"] {
        let error = host.physical_function(name).unwrap_err();
        assert!(
            matches!(&error, HostError::NoNetdev(named) if named == name),
            "{error}"
        );
    }
    let nowhere = PciAddress::new(0xfffe, 0, 0, 0).unwrap();
    let error = host.virtual_function(nowhere).unwrap_err();
    assert!(
        matches!(&error, HostError::NoPciDevice(at) if *at == nowhere),
        "{error}"
    );
    assert!(matches!(
        host.bind(nowhere, "vfio-pci"),
        Err(HostError::NoPciDevice(_))
    ));
    assert!(matches!(
        host.iommu_group(nowhere),
        Err(HostError::NoPciDevice(_))
    ));
}

fn link_is_up(subject: &Subject<'_>) {
    let LinkState { up, mtu, .. } = subject.host.pf_link(&subject.pf()).unwrap();
    assert!(up && mtu >= 1500);
}

fn settings_are_read_back(subject: &Subject<'_>) {
    let vf = subject.vf(1);
    let before = subject.settings(&vf);
    subject.set(&vf, VfSetting::Mac(mac(1)));
    assert_eq!(subject.state(&vf).mac, mac(1));
    subject.set(&vf, VfSetting::Mac(before.mac));
    if let Some(check) = before.spoof_check {
        subject.set(&vf, VfSetting::SpoofCheck(!check));
        assert_eq!(subject.state(&vf).spoof_check, Some(!check));
        subject.set(&vf, VfSetting::SpoofCheck(check));
    }
    if let Some(trust) = before.trust {
        subject.set(&vf, VfSetting::Trust(!trust));
        assert_eq!(subject.state(&vf).trust, Some(!trust));
        subject.set(&vf, VfSetting::Trust(trust));
    }
    subject.set(&vf, VfSetting::Rate { min: 0, max: 100 });
    let state = subject.state(&vf);
    assert_eq!((state.min_rate, state.max_rate), (0, 100));
    subject.set(&vf, VfSetting::Rate { min: 0, max: 0 });
    match subject.host.set_vf(&vf, VfSetting::Link(VfLink::Off)) {
        Ok(()) => {
            assert_eq!(subject.state(&vf).link, Some(VfLink::Off));
            subject.set(&vf, VfSetting::Link(VfLink::Auto));
        }
        Err(error) => assert_eq!(error.errno(), Some(EOPNOTSUPP), "{error:?}"),
    }
    assert_eq!(subject.settings(&vf), before);
}

fn vlan_is_read_back(subject: &Subject<'_>) {
    let vf = subject.vf(0);
    let protocol = VlanProtocol::Dot1q;
    for (id, qos) in [(42, 3), (4094, 0), (0, 0)] {
        subject.set(&vf, VfSetting::Vlan { id, qos, protocol });
        let state = subject.state(&vf);
        assert_eq!(
            (state.vlan, state.qos, state.vlan_protocol),
            (id, qos, protocol)
        );
    }
}

fn others_are_left_alone(subject: &Subject<'_>) {
    let (one, other) = (subject.vf(0), subject.vf(1));
    let (before, others) = (subject.settings(&one), subject.settings(&other));
    let (id, qos, protocol) = (7, 0, VlanProtocol::Dot1q);
    subject.set(&one, VfSetting::Mac(mac(2)));
    subject.set(&one, VfSetting::Vlan { id, qos, protocol });
    assert_eq!(subject.settings(&other), others);
    let id = 0;
    subject.set(&one, VfSetting::Vlan { id, qos, protocol });
    subject.set(&one, VfSetting::Mac(before.mac));
    assert_eq!(subject.settings(&one), before);
}

fn refusals_have_numbers(subject: &Subject<'_>) {
    let vf = subject.vf(0);
    let before = subject.settings(&vf);
    let group = MacAddress::new([1, 0, 0x5e, 0, 0, 1]);
    let error = subject.host.set_vf(&vf, VfSetting::Mac(group)).unwrap_err();
    assert_eq!(error.errno(), Some(EINVAL), "{error:?}");
    let named = format!(
        "setting the MAC of VF 0 of '{}' ({})",
        subject.pf, vf.address
    );
    assert_eq!(error.to_string(), named);
    let (id, qos, protocol) = (42, 0, VlanProtocol::Dot1ad);
    match subject
        .host
        .set_vf(&vf, VfSetting::Vlan { id, qos, protocol })
    {
        Ok(()) => {
            assert_eq!(subject.state(&vf).vlan_protocol, protocol);
            let (id, protocol) = (0, VlanProtocol::Dot1q);
            subject.set(&vf, VfSetting::Vlan { id, qos, protocol });
        }
        Err(error) => assert!(
            [Some(EPROTONOSUPPORT), Some(EOPNOTSUPP)].contains(&error.errno()),
            "{error:?}"
        ),
    }
    assert_eq!(subject.settings(&vf), before);
}

fn missing_vf_is_refused(subject: &Subject<'_>) {
    let mut vf = subject.vf(0);
    vf.number = 250;
    vf.address = PciAddress::new(0xfffe, 0, 0, 0).unwrap();
    assert!(subject.host.vf_state(&vf).is_err());
    assert!(subject.host.set_vf(&vf, VfSetting::Mac(mac(3))).is_err());
    assert!(subject.host.vf_usage(&vf).is_err());
    assert!(!subject.host.vf_is_idle(&vf));
}

fn idle_vf_is_free(subject: &Subject<'_>) {
    let vf = subject.vf(0);
    assert_eq!(subject.host.vf_usage(&vf).unwrap(), []);
    assert!(subject.host.vf_is_idle(&vf));
}

fn vf_goes_and_comes_back(subject: &Subject<'_>) {
    let vf = subject.vf(0);
    let (netdev, _) = subject.state(&vf).netdev.unwrap();
    subject.on_vfio(&vf, || {
        let state = subject.state(&vf);
        assert_eq!(state.netdev, None);
        assert_eq!(
            subject.host.vf_usage(&vf).unwrap(),
            [],
            "nobody has the group open"
        );
        assert!(matches!(
            subject.host.pci_address_of(&netdev),
            Err(HostError::NoNetdev(_))
        ));
        let group = subject.host.iommu_group(vf.address).unwrap().unwrap();
        assert!(group.members.contains(&(vf.address, state.driver)));
    });
    let (netdev, own) = subject.state(&vf).netdev.unwrap();
    assert!(!own.is_zero());
    assert_eq!(subject.host.pci_address_of(&netdev).unwrap(), vf.address);
}

fn group_is_lent_and_taken_back(subject: &Subject<'_>) {
    let vf = subject.vf(0);
    let group = subject.host.iommu_group(vf.address).unwrap().unwrap();
    let access = || subject.host.vfio_access(group.number).unwrap();
    assert_eq!(access(), None, "it is not vfio's");
    let granted = NodeAccess {
        uid: 0,
        gid: GuestGroup::draw().gid(),
        mode: 0o660,
    };
    let set = |access| subject.host.set_vfio_access(group.number, access);
    let error = set(granted).unwrap_err();
    assert_eq!(error.errno(), Some(ENOENT), "{error:?}");
    subject.on_vfio(&vf, || {
        let found = access().unwrap();
        assert_eq!(found, NodeAccess::ROOT);
        for wanted in [granted, found, granted] {
            set(wanted).unwrap();
            assert_eq!(access(), Some(wanted));
        }
        assert_eq!(subject.host.vf_usage(&vf).unwrap(), []);
    });
    assert_eq!(access(), None);
    // Nobody keeps what it was let before.
    subject.on_vfio(&vf, || assert_eq!(access(), Some(NodeAccess::ROOT)));
}

fn binding_is_idempotent(subject: &Subject<'_>) {
    let vf = subject.vf(0);
    let before = subject.driver(&vf).unwrap();
    subject.host.bind(vf.address, &before).unwrap();
    subject.host.unbind(vf.address, Some(&before)).unwrap();
    subject.on_vfio(&vf, || {
        let driver = subject.driver(&vf).unwrap();
        subject.host.bind(vf.address, &driver).unwrap();
        subject.host.unbind(vf.address, Some(&driver)).unwrap();
        assert_eq!(
            subject.driver(&vf),
            Some(driver),
            "it was on vfio before us"
        );
    });
    subject.host.unbind(vf.address, Some(&before)).unwrap();
    assert_eq!(subject.driver(&vf), Some(before));
}

fn mac_is_taken_up(subject: &Subject<'_>) {
    let vf = subject.vf(1);
    let before = subject.state(&vf).mac;
    subject.on_vfio(&vf, || subject.set(&vf, VfSetting::Mac(mac(4))));
    let state = subject.state(&vf);
    assert_eq!(state.mac, mac(4));
    assert_eq!(state.netdev.map(|(_, own)| own), Some(mac(4)));
    subject.on_vfio(&vf, || subject.set(&vf, VfSetting::Mac(before)));
}

/// igb takes zeroes as "none"; others refuse them.
fn mac_is_taken_off(subject: &Subject<'_>) {
    let vf = subject.vf(1);
    subject.set(&vf, VfSetting::Mac(mac(5)));
    match subject.host.set_vf(&vf, VfSetting::Mac(MacAddress::ZERO)) {
        Ok(()) => assert_eq!(subject.state(&vf).mac, MacAddress::ZERO),
        Err(error) => assert_eq!(error.errno(), Some(EINVAL), "{error:?}"),
    }
}

fn unknown_driver_changes_nothing(subject: &Subject<'_>) {
    let vf = subject.vf(0);
    let before = subject.state(&vf);
    let error = subject.host.bind(vf.address, "no-such-driver").unwrap_err();
    assert!(matches!(&error, HostError::NoDriver { driver, .. } if driver == "no-such-driver"));
    assert_eq!(subject.state(&vf), before);
}

fn no_driver_is_given_back(subject: &Subject<'_>) {
    let vf = subject.vf(0);
    let before = subject.driver(&vf).unwrap();
    subject.host.unbind(vf.address, None).unwrap();
    assert_eq!(subject.driver(&vf), None);
    assert_eq!(subject.host.vf_usage(&vf).unwrap(), []);
    let driver = subject.host.best_vfio_driver(vf.address).unwrap();
    subject.host.bind(vf.address, &driver).unwrap();
    subject.host.unbind(vf.address, None).unwrap();
    assert_eq!(subject.driver(&vf), None);
    subject.host.unbind(vf.address, Some(&before)).unwrap();
    assert_eq!(subject.driver(&vf), Some(before));
}

fn driver_changes_are_told(subject: &Subject<'_>) {
    let vf = subject.vf(0);
    let mut events = subject.host.watch().unwrap();
    subject.on_vfio(&vf, || {});
    while events.next().unwrap() != HostEvent::PciDriverChanged(vf.address) {}
}

fn boot_is_one(subject: &Subject<'_>) {
    let boot = subject.host.boot_id().unwrap();
    assert_eq!(boot.len(), 36);
    assert_eq!(subject.host.boot_id().unwrap(), boot);
}

fn vf_count_goes_through_zero(subject: &Subject<'_>) {
    let pf = subject.pf();
    subject.host.set_vf_count(&pf, pf.vf_count).unwrap();
    let error = subject.host.set_vf_count(&pf, pf.vf_count - 1).unwrap_err();
    assert_eq!(error.errno(), Some(EBUSY), "{error:?}");
    assert!(error.advice().unwrap().contains("by way of 0"), "{error:?}");
    let error = subject.host.set_vf_count(&pf, pf.max_vfs + 1).unwrap_err();
    assert_eq!(error.errno(), Some(ERANGE), "{error:?}");
    let limit = format!("allows {} VFs", pf.max_vfs);
    assert!(error.advice().unwrap().contains(&limit), "{error:?}");
    let mut events = subject.host.watch().unwrap();
    let first = subject.vf(0).address;
    subject.host.set_vf_count(&pf, 0).unwrap();
    assert!(subject.vfs().is_empty());
    while events.next().unwrap() != HostEvent::PciRemoved(first) {}
    subject.host.set_vf_count(&pf, pf.vf_count).unwrap();
    assert_eq!(subject.vfs().len(), usize::from(pf.vf_count));
    while events.next().unwrap() != HostEvent::PciAdded(first) {}
}
