//! Node devices of a simulated host.

use conf::{InterfaceState, NodeSriov};
use host::{Host as _, NicAbility, SimulatedHost, SimulatedShape};

use super::*;

const PF: &str = "pci_0000_01_00_0";

fn simulated(shape: &str) -> (SimulatedHost, Devices) {
    let host = SimulatedHost::new(shape.parse::<SimulatedShape>().unwrap());
    let devices = Devices {
        host: Arc::new(host.clone()),
        uuid: Some(Uuid::from_u128(1)),
    };
    (host, devices)
}

fn names(devices: &Devices, flags: u32) -> Vec<String> {
    devices
        .names(DeviceFilter::from_flags(flags.into()))
        .unwrap()
}

fn describe(devices: &Devices, name: &str) -> NodeDevice {
    let found = devices.find(name).unwrap().unwrap();
    devices.describe(&found, name).unwrap()
}

#[test]
fn every_listed_device_is_found_by_its_name_and_its_parent_is_listed() {
    let (_, devices) = simulated("pfs=2,vfs=5");
    let all = names(&devices, 0);
    // The host; PFs with a root port each, and VFs; their network devices; a USB disk on its hub.
    assert_eq!(all.len(), 1 + (2 * 2 + 5) + (2 + 5) + 3, "{all:?}");
    for name in &all {
        let device = describe(&devices, name);
        assert_eq!(device.name, *name);
        assert_eq!(NodeDevice::parse(&device.to_xml()).unwrap(), device);
        match device.parent {
            Some(parent) => assert!(all.contains(&parent), "{parent} of {name}"),
            None => assert_eq!(name, NodeDevice::COMPUTER),
        }
    }
}

#[test]
fn flags_choose_by_kind_and_state() {
    const ACTIVE: u32 = 0x8000_0000;
    const INACTIVE: u32 = 0x4000_0000;
    let (_, devices) = simulated("pfs=1,vfs=2");
    assert_eq!(names(&devices, ACTIVE | 1), [NodeDevice::COMPUTER]);
    let cards = names(&devices, ACTIVE | 2);
    assert_eq!(cards.len(), 4);
    assert!(cards.iter().all(|name| name.starts_with("pci_")));
    assert_eq!(names(&devices, ACTIVE | INACTIVE | 0x10).len(), 3);
    assert_eq!(names(&devices, 2 | 0x10).len(), 7);
    assert_eq!(names(&devices, ACTIVE | 4), ["usb_1_1", "usb_usb1"]);
    assert_eq!(names(&devices, ACTIVE | 8), ["usb_1_1_1_0"]);
    // Disks, and devices that are not there.
    assert_eq!(names(&devices, ACTIVE | 0x100), [""; 0]);
    assert_eq!(names(&devices, INACTIVE), [""; 0]);
}

#[test]
fn a_pf_tells_its_vfs_and_a_vf_its_pf() {
    let (_, devices) = simulated("pfs=1,vfs=2");
    let pf = describe(&devices, PF);
    let pci = pf.pci().unwrap().clone();
    let NodeSriov::PhysicalFunction { vfs, max: 8 } = &pci.sriov else {
        panic!("{pci:?}")
    };
    assert_eq!(vfs.len(), 2);
    assert!(pf.driver.is_some());
    assert_eq!(pci.vendor.name.as_deref(), Some("Intel Corporation"));
    assert!(pci.product.name.is_some());
    assert_eq!(pf.parent.as_deref(), Some("pci_0000_00_10_0"));
    assert!(
        pf.path
            .as_ref()
            .is_some_and(|path| path.ends_with("/0000:00:10.0/0000:01:00.0"))
    );
    let port = describe(&devices, "pci_0000_00_10_0").to_xml();
    assert!(port.contains("<capability type='pci-bridge'/>"), "{port}");
    let vf = describe(&devices, &vfs[0].node_device_name());
    let vf = vf.pci().unwrap();
    assert_eq!(vf.sriov, NodeSriov::VirtualFunctionOf(pci.address));
    let group = vf.iommu_group.as_ref().unwrap();
    assert_eq!(group.members, [vfs[0]]);
}

#[test]
fn a_vf_that_is_lent_has_no_network_device() {
    let (host, devices) = simulated("pfs=1,vfs=2");
    let pf = host.physical_function("sim0").unwrap();
    let vf = host.virtual_functions(&pf).unwrap().remove(0);
    let (netdev, mac) = host.vf_state(&vf).unwrap().netdev.unwrap();
    let name = net_device_name(&netdev, mac);
    assert_eq!(describe(&devices, &name).net().unwrap().mac(), Some(mac));
    host.bind(vf.address, "vfio-pci").unwrap();
    assert!(devices.find(&name).unwrap().is_none());
    assert!(!names(&devices, 0x10).contains(&name));
    let card = describe(&devices, &vf.address.node_device_name());
    assert_eq!(card.driver.as_deref(), Some("vfio-pci"));
}

#[test]
fn names_of_nothing_find_nothing() {
    let (_, devices) = simulated("pfs=1,vfs=2");
    for name in [
        "",
        "pci",
        "pci_",
        "pci_0000_01_00_7",
        "pci_0000_01_00_0_",
        "pci_0_1_0_0",
        "pci_0000_01_00_00",
        "pci_0000_01_00_+0",
        "pci_ffffffffff_01_00_0",
        "net_",
        "net_sim0_52_54_00_00_00_01",
        "net_sim9",
        "net_é_52_54_00_00_00_01",
        "usb_1_7",
    ] {
        assert!(devices.find(name).unwrap().is_none(), "{name}");
    }
}

#[test]
fn the_link_of_a_pf_is_told() {
    let (host, devices) = simulated("pfs=1,vfs=2");
    let pf = host.physical_function("sim0").unwrap();
    let netdev = names(&devices, 0x10).remove(0);
    let state = || describe(&devices, &netdev).net().unwrap().link.state;
    assert_eq!(state(), Some(InterfaceState::Up));
    host.set_pf_up(pf.address, false);
    assert_eq!(state(), Some(InterfaceState::Down));
}

#[test]
fn plain_nics_bonds_and_bridges_are_network_devices_too() {
    let (host, devices) = simulated("pfs=1,vfs=0");
    let nic = host.add_nic("eth2").unwrap();
    host.add_bond("bond0", &["eth2"]).unwrap();
    host.add_bridge("br0").unwrap();
    let all = names(&devices, 0);
    for name in ["eth2", "bond0", "br0"] {
        let prefix = format!("net_{name}_");
        let name = all.iter().find(|name| name.starts_with(&prefix)).unwrap();
        let device = describe(&devices, name);
        let parent = device.parent.unwrap();
        assert!(all.contains(&parent), "{parent} of {name}");
    }
    let name = net_device_name("eth2", nic.mac);
    let net = describe(&devices, &name).net().unwrap().clone();
    assert_eq!((&*net.interface, net.mac()), ("eth2", Some(nic.mac)));
    assert_eq!(net.features, [""; 0]);
    let pf = names(&devices, 0x10).remove(0);
    let net = describe(&devices, &pf).net().unwrap().clone();
    assert!(net.features.contains(&"tso".to_owned()), "{net:?}");
    assert_eq!(net.link.speed, Some(1000));
}

#[test]
fn a_card_that_offloads_macvlans_says_so_while_that_is_switched_on() {
    let (host, devices) = simulated("pfs=1,vfs=0");
    let nic = host.add_nic("eth2").unwrap();
    let name = net_device_name("eth2", nic.mac);
    for (on, features) in [(true, &["macvlan-offload"][..]), (false, &[])] {
        host.set_nic_ability("eth2", NicAbility::MacvlanOffload { on });
        let device = describe(&devices, &name);
        assert_eq!(device.net().unwrap().features, features);
        assert_eq!(NodeDevice::parse(&device.to_xml()).unwrap(), device);
    }
}

/// A `.` is a `_` in the name of the node device.
#[test]
fn a_network_device_with_an_odd_name_is_found() {
    let (host, devices) = simulated("pfs=1,vfs=0");
    let vlan = host.add_netdev("sim0.42", "vlan", Some("sim0")).unwrap();
    let name = net_device_name("sim0.42", vlan.mac);
    assert!(name.starts_with("net_sim0_42_"), "{name}");
    let net = describe(&devices, &name).net().unwrap().clone();
    assert_eq!(net.interface, "sim0.42");
}

#[test]
fn a_usb_device_tells_its_bus_its_number_and_its_names() {
    let (_, devices) = simulated("pfs=1,vfs=0");
    let disk = describe(&devices, "usb_1_1");
    let [conf::NodeCapability::UsbDevice(usb)] = &*disk.capabilities else {
        panic!("{disk:?}")
    };
    assert_eq!((usb.bus, usb.device), (1, 2));
    assert_eq!(
        (usb.vendor.id, usb.vendor.name.as_deref()),
        (Some(0x781), Some("SanDisk Corp."))
    );
    assert_eq!(disk.parent.as_deref(), Some("usb_usb1"));
    assert_eq!(disk.devnode.as_deref(), Some("/dev/bus/usb/001/002"));
}

/// With 2,048 VFs: what is only listed is not looked at, and one document takes a few questions.
#[test]
fn a_large_host_is_listed_and_read_in_no_time() {
    let (_, devices) = simulated("pfs=8,vfs=2048");
    let begun = std::time::Instant::now();
    let all = names(&devices, 0);
    assert!(all.len() > 4096);
    for name in &all {
        assert_eq!(describe(&devices, name).name, *name);
    }
    let taken = begun.elapsed();
    assert!(taken < std::time::Duration::from_secs(20), "{taken:?}");
}
