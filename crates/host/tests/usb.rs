//! USB devices: as sysfs shows them, and the same checks for the simulated host and for a tree like
//! the kernel's.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use conf::UsbAddress;
use host::{Host, HostError, HostEvent, LinuxHost, NodeAccess, Paths, SimulatedHost, Usb};

/// A tree with `/sys` and `/dev`.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        tree.put("sys/bus/usb/drivers_probe", "");
        tree.plug("usb1", "0", 1, "1d6b:0002:09");
        tree
    }

    fn put(&self, file: &str, text: &str) {
        let file = self.0.path().join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    /// A device with one interface, which no driver has.
    fn plug(&self, name: &str, devpath: &str, device: u8, ids: &str) {
        let mut ids = ids.split(':');
        for (file, text) in [
            ("busnum", "1".to_owned()),
            ("devnum", device.to_string()),
            ("devpath", devpath.to_owned()),
            ("idVendor", ids.next().unwrap().to_owned()),
            ("idProduct", ids.next().unwrap().to_owned()),
            ("bDeviceClass", ids.next().unwrap().to_owned()),
        ] {
            self.put(
                &format!("sys/bus/usb/devices/{name}/{file}"),
                &format!("{text}\n"),
            );
        }
        let interface = format!("sys/bus/usb/devices/{name}/{name}:1.0/bInterfaceNumber");
        self.put(&interface, "00\n");
        self.put(&format!("dev/bus/usb/001/{device:03}"), "");
    }

    fn host(&self) -> LinuxHost {
        LinuxHost::new(Paths {
            sysfs: self.0.path().join("sys"),
            dev: self.0.path().join("dev"),
            ..Paths::default()
        })
    }
}

/// What holds of a device that nobody uses.
fn check(host: &dyn Host, address: UsbAddress) {
    let device = host.usb_device(address).unwrap();
    assert_eq!(host.usb_devices().unwrap(), std::slice::from_ref(&device));
    assert_eq!((device.vendor, device.product), (0x046d, 0xc31c));
    assert!(!device.is_hub);
    let found = host.usb_access(address).unwrap();
    let closed = NodeAccess {
        mode: 0o600,
        ..found
    };
    host.set_usb_access(address, closed).unwrap();
    assert_eq!(host.usb_access(address).unwrap(), closed);
    host.set_usb_access(address, found).unwrap();
    host.probe_usb(address).unwrap();

    let (bus, device) = (address.bus(), address.device());
    for other in [
        UsbAddress::new(bus, device + 1, &address.devpath()),
        UsbAddress::new(bus, device, "7"),
        UsbAddress::new(bus + 1, device, &address.devpath()),
    ] {
        let other = other.unwrap();
        let error = host.usb_device(other).unwrap_err();
        assert!(matches!(error, HostError::NoUsbDevice(_)), "{error}");
        assert!(error.to_string().contains(&other.to_string()));
    }
}

#[test]
fn a_device_is_found_by_where_it_is_plugged_in() {
    let simulated = SimulatedHost::new("vfs=1".parse().unwrap());
    let address = simulated.add_usb(1, "1.4", (0x046d, 0xc31c)).unwrap();
    check(&simulated, address);

    let tree = Tree::new();
    tree.plug("1-1.4", "1.4", 5, "046d:c31c:00");
    check(&tree.host(), "usb:1:5@1.4".parse().unwrap());
    // It asked for the only interface without a driver.
    let probed = fs::read_to_string(tree.0.path().join("sys/bus/usb/drivers_probe")).unwrap();
    assert_eq!(probed, "1-1.4:1.0");
}

#[test]
fn interfaces_come_with_their_drivers() {
    let tree = Tree::new();
    tree.plug("1-2", "2", 6, "046d:c31c:00");
    let interface = tree.0.path().join("sys/bus/usb/devices/1-2/1-2:1.0");
    let driver = Path::new("../../../drivers/usbhid");
    symlink(driver, interface.join("driver")).unwrap();
    let device = tree.host().usb_devices().unwrap().remove(0);
    let [one] = &device.interfaces[..] else {
        panic!("{device:?}");
    };
    assert_eq!(
        (&*one.name, one.driver.as_deref()),
        ("1-2:1.0", Some("usbhid"))
    );
    // What a driver has is not offered again.
    tree.host().probe_usb(device.address).unwrap();
    let probed = fs::read_to_string(tree.0.path().join("sys/bus/usb/drivers_probe")).unwrap();
    assert_eq!(probed, "");
}

#[test]
fn what_makes_no_sense_is_passed_over_in_a_list_and_told_when_it_is_asked_for() {
    let tree = Tree::new();
    tree.plug("1-1", "1", 2, "05e3:0610:09");
    tree.plug("1-2", "2", 6, "046d:zzzz:00");
    tree.plug("1-3", "3.0", 7, "046d:c31c:00");
    let host = tree.host();
    let devices = host.usb_devices().unwrap();
    assert_eq!(devices.len(), 1);
    assert!(devices[0].is_hub);
    let error = host.usb_device("usb:1:6@2".parse().unwrap()).unwrap_err();
    assert!(
        error.to_string().contains("its product is 'zzzz'"),
        "{error}"
    );
    // Without USB there is none, and that is no failure.
    let none = LinuxHost::new(Paths {
        sysfs: tree.0.path().join("elsewhere"),
        ..Paths::default()
    });
    assert_eq!(none.usb_devices().unwrap(), []);
}

#[test]
fn a_node_that_is_gone_is_a_device_that_is_gone() {
    let tree = Tree::new();
    tree.plug("1-2", "2", 6, "046d:c31c:00");
    let (host, address) = (tree.host(), "usb:1:6@2".parse().unwrap());
    let node = tree.0.path().join("dev/bus/usb/001/006");
    let access = host.usb_access(address).unwrap();
    assert_eq!(access.uid, fs::metadata(&node).unwrap().uid());
    fs::remove_file(node).unwrap();
    for error in [
        host.usb_access(address).unwrap_err(),
        host.set_usb_access(address, access).unwrap_err(),
    ] {
        assert!(matches!(error, HostError::NoUsbDevice(_)), "{error}");
    }
}

#[test]
fn a_simulated_device_that_is_plugged_in_anew_has_another_number() {
    let host = SimulatedHost::new("vfs=1".parse().unwrap());
    let mut events = host.watch().unwrap();
    let first = host.add_usb(1, "3", (1, 2)).unwrap();
    assert_eq!(host.add_usb(1, "3", (1, 2)), None, "the port is taken");
    host.remove_usb(first);
    assert_eq!(events.next(), Some(HostEvent::UsbRemoved(first)));
    let second = host.add_usb(1, "3", (1, 2)).unwrap();
    assert_ne!(first, second);
    assert_eq!(first.devpath(), second.devpath());
    assert!(host.usb_device(first).is_err() && host.usb_device(second).is_ok());
}
