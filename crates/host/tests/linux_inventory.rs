//! What the real host reads of devices of every kind, and who uses them, on a made-up sysfs and procfs.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use conf::PciLinkSpeed;
use host::{BlockUse, HostError, Inventory, Links, LinuxHost, NodeParent, Paths, Usage, UsbKind};

const BRIDGE: &str = "0000:00:1c.0";
const SATA: &str = "0000:00:1f.2";
const VGA: &str = "0000:00:02.0";
const NVME: &str = "0000:02:00.0";
const XHCI: &str = "0000:00:14.0";

struct Tree(tempfile::TempDir);

impl Tree {
    /// A board with a graphics card, SATA with a disk of two partitions, NVMe behind a bridge, and a
    /// USB disk.
    fn board() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        tree.pci(VGA, "", "0x030000");
        tree.pci(SATA, "", "0x010601");
        tree.pci(BRIDGE, "", "0x060400");
        tree.pci(NVME, BRIDGE, "0x010802");
        tree.pci(XHCI, "", "0x0c0330");
        let sata = format!("devices/pci0000:00/{SATA}/ata1/host0/target0:0:0/0:0:0:0/block/sda");
        tree.block(&sata, "8:0");
        tree.block(&format!("{sata}/sda1"), "8:1");
        tree.block(&format!("{sata}/sda2"), "8:2");
        tree.block("devices/virtual/block/dm-0", "253:0");
        tree.file("sys/class/block/dm-0/dm/name", "vg-root\n");
        tree.file("sys/class/block/dm-0/dm/uuid", "LVM-abc\n");
        let nvme = format!("devices/pci0000:00/{BRIDGE}/{NVME}/nvme/nvme0/nvme0c0n1");
        tree.block(&nvme, "259:1");
        tree.block(
            "devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1",
            "259:0",
        );
        let usb = format!("devices/pci0000:00/{XHCI}/usb2");
        tree.usb(&usb, 2, 1, 0x1d6b, 3);
        tree.usb(&format!("{usb}/2-1"), 2, 5, 0x0781, 0x5581);
        let interface = format!("{usb}/2-1/2-1:1.0");
        tree.file(&format!("sys/{interface}/bInterfaceClass"), "08\n");
        tree.class("bus/usb/devices", &interface);
        tree.block(
            &format!("{interface}/host6/target6:0:0/6:0:0:0/block/sdb"),
            "8:16",
        );
        tree.file("proc/swaps", "Filename Type Size Used Priority\n");
        tree.file(
            "proc/self/mountinfo",
            "20 1 0:18 / /proc rw - proc proc rw\n",
        );
        tree
    }

    fn host(&self) -> LinuxHost {
        LinuxHost::new(Paths {
            modprobe: PathBuf::from("/bin/false"),
            ..Paths::under(self.0.path())
        })
    }

    fn file(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A link in a class or on a bus to a device of that name.
    fn class(&self, class: &str, device: &str) {
        let name = Path::new(device).file_name().unwrap();
        let directory = self.0.path().join("sys").join(class);
        fs::create_dir_all(&directory).unwrap();
        let up = "../".repeat(class.split('/').count());
        symlink(format!("{up}{device}"), directory.join(name)).unwrap();
    }

    fn pci(&self, address: &str, below: &str, class: &str) {
        let below = if below.is_empty() {
            String::new()
        } else {
            format!("{below}/")
        };
        let device = format!("devices/pci0000:00/{below}{address}");
        self.file(&format!("sys/{device}/class"), class);
        self.file(&format!("sys/{device}/vendor"), "0x8086\n");
        self.file(&format!("sys/{device}/device"), "0x10c9\n");
        self.class("bus/pci/devices", &device);
    }

    fn block(&self, device: &str, number: &str) {
        self.file(&format!("sys/{device}/dev"), number);
        self.class("class/block", device);
    }

    fn usb(&self, device: &str, bus: u32, number: u32, vendor: u16, product: u16) {
        self.file(&format!("sys/{device}/busnum"), format!("{bus}\n"));
        self.file(&format!("sys/{device}/devnum"), format!("{number}\n"));
        self.file(&format!("sys/{device}/idVendor"), format!("{vendor:04x}\n"));
        self.file(
            &format!("sys/{device}/idProduct"),
            format!("{product:04x}\n"),
        );
        self.file(&format!("sys/{device}/product"), "Its own words\n");
        self.class("bus/usb/devices", device);
    }

    fn usage(&self, address: &str) -> Vec<Usage> {
        self.host().pci_usage(address.parse().unwrap()).unwrap()
    }
}

fn block(device: &str, by: BlockUse) -> Usage {
    let device = device.to_owned();
    Usage::Block { device, by }
}

#[test]
fn every_function_is_listed_with_its_place() {
    let tree = Tree::board();
    let host = tree.host();
    let all = host.pci_functions().unwrap();
    let all: Vec<_> = all.iter().map(ToString::to_string).collect();
    assert_eq!(all, [VGA, XHCI, BRIDGE, SATA, NVME]);
    let place = host.pci_place(NVME.parse().unwrap()).unwrap();
    assert_eq!(
        place.path,
        format!("/sys/devices/pci0000:00/{BRIDGE}/{NVME}")
    );
    assert_eq!(place.parent, NodeParent::Pci(BRIDGE.parse().unwrap()));
    let gone = host.pci_place("0000:77:00.0".parse().unwrap()).unwrap_err();
    assert!(matches!(gone, HostError::NoPciDevice(_)));
}

#[test]
fn names_and_links_are_told_where_they_can_be_read() {
    let tree = Tree::board();
    let address = NVME.parse().unwrap();
    let details = tree.host().pci_details(address).unwrap();
    assert_eq!((details.vendor_name, details.express), (None, None));
    tree.file(
        "usr/share/misc/pci.ids",
        "8086  Intel Corporation\n\t10c9  82576\n",
    );
    let device = format!("sys/devices/pci0000:00/{BRIDGE}/{NVME}");
    tree.file(&format!("{device}/config"), [0; 64]);
    tree.file(&format!("{device}/max_link_speed"), "8.0 GT/s PCIe\n");
    tree.file(&format!("{device}/max_link_width"), "4\n");
    tree.file(&format!("{device}/current_link_speed"), "Unknown\n");
    tree.file(&format!("{device}/current_link_width"), "255\n");
    let details = tree.host().pci_details(address).unwrap();
    assert_eq!(details.vendor_name.as_deref(), Some("Intel Corporation"));
    assert_eq!(details.product_name.as_deref(), Some("82576"));
    let express = details.express.unwrap();
    let (capable, status) = (express.capable.unwrap(), express.status.unwrap());
    assert_eq!((capable.speed, capable.width), (Some(PciLinkSpeed::Gt8), 4));
    assert_eq!((status.speed, status.width), (None, 0));
}

#[test]
fn usb_devices_and_interfaces() {
    let tree = Tree::board();
    let host = tree.host();
    assert_eq!(host.usb_names().unwrap(), ["2-1", "2-1:1.0", "usb2"]);
    let disk = host.usb_node("2-1").unwrap();
    let UsbKind::Device(device) = &disk.kind else {
        panic!("{disk:?}")
    };
    assert_eq!(
        (device.bus, device.device, device.vendor.id),
        (2, 5, Some(0x781))
    );
    assert_eq!(device.product.name.as_deref(), Some("Its own words"));
    assert_eq!(disk.place.parent, NodeParent::Usb("usb2".to_owned()));
    assert_eq!(disk.devnode.as_deref(), Some("/dev/bus/usb/002/005"));
    tree.file(
        "usr/share/misc/usb.ids",
        "0781  SanDisk Corp.\n\t5581  Ultra\n",
    );
    let UsbKind::Device(device) = host.usb_node("2-1").unwrap().kind else {
        panic!()
    };
    assert_eq!(device.product.name.as_deref(), Some("Ultra"));
    let UsbKind::Interface(interface) = host.usb_node("2-1:1.0").unwrap().kind else {
        panic!()
    };
    assert_eq!(interface.class, 8);
    for name in ["9-9", "../usb2", ""] {
        assert!(
            matches!(host.usb_node(name), Err(HostError::NoUsbDevice(_))),
            "{name}"
        );
    }
}

#[test]
fn a_disk_that_nobody_uses_is_in_nobodys_way() {
    let tree = Tree::board();
    for address in [SATA, NVME, VGA, XHCI] {
        assert_eq!(tree.usage(address), [], "{address}");
    }
}

#[test]
fn a_mounted_partition_swap_and_volumes_are_uses_of_the_disks_card() {
    let tree = Tree::board();
    let mounts = "36 1 8:1 / /boot\\040x rw - ext4 /dev/sda1 rw\n\
                  37 1 253:0 / / rw - xfs /dev/mapper/vg-root rw\n";
    tree.file("proc/1/mountinfo", mounts);
    fs::create_dir_all(tree.0.path().join("sys/class/block/sda2/holders/dm-0")).unwrap();
    let mounted = |at: &str| BlockUse::Mounted(at.to_owned());
    let volume = BlockUse::Member("LVM volume vg-root (dm-0)".to_owned());
    let wanted = [
        block("sda1", mounted("/boot x")),
        block("sda2", volume),
        block("sda2", mounted("/")),
    ];
    assert_eq!(tree.usage(SATA), wanted);
    assert_eq!(tree.usage(NVME), []);
    tree.file(
        "proc/swaps",
        "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n",
    );
    assert!(tree.usage(SATA).contains(&block("sda2", BlockUse::Swap)));
}

#[test]
fn a_volume_on_itself_ends_the_search() {
    let tree = Tree::board();
    for holder in ["sda/holders/md0", "md0/holders/md0", "md0/holders/sda"] {
        fs::create_dir_all(tree.0.path().join("sys/class/block").join(holder)).unwrap();
    }
    let member = |of: &str| block("sda", BlockUse::Member(of.to_owned()));
    assert_eq!(
        tree.usage(SATA),
        [member("md0"), member("md0"), member("sda")]
    );
}

#[test]
fn an_nvme_disk_with_several_paths_is_used_through_each_of_them() {
    let tree = Tree::board();
    let mount = "36 1 259:0 / /srv rw - ext4 /dev/nvme0n1 rw\n";
    tree.file("proc/self/mountinfo", mount);
    let mounted = BlockUse::Mounted("/srv".to_owned());
    assert_eq!(tree.usage(NVME), [block("nvme0n1", mounted)]);
}

#[test]
fn a_member_of_btrfs_that_is_not_the_one_mounted_by_name() {
    let tree = Tree::board();
    fs::create_dir_all(tree.0.path().join("sys/fs/btrfs/uuid/devices/sda2")).unwrap();
    let member = BlockUse::Member("a btrfs file system".to_owned());
    assert_eq!(tree.usage(SATA), [block("sda2", member)]);
}

#[test]
fn a_mounted_usb_disk_is_a_use_of_the_device_and_of_its_controller() {
    let tree = Tree::board();
    let host = tree.host();
    assert_eq!(host.usb_usage(2, 5).unwrap(), []);
    let mount = "36 1 8:16 / /media rw - vfat /dev/sdb rw\n";
    tree.file("proc/self/mountinfo", mount);
    let wanted = [block("sdb", BlockUse::Mounted("/media".to_owned()))];
    assert_eq!(host.usb_usage(2, 5).unwrap(), wanted);
    assert_eq!(tree.usage(XHCI), wanted);
    assert!(matches!(
        host.usb_usage(2, 6),
        Err(HostError::NoUsbDevice(_))
    ));
}

#[test]
fn the_card_that_shows_the_console() {
    let tree = Tree::board();
    let device = format!("devices/pci0000:00/{VGA}");
    tree.file(&format!("sys/{device}/boot_vga"), "0\n");
    assert_eq!(tree.usage(VGA), []);
    tree.file(&format!("sys/{device}/boot_vga"), "1\n");
    assert_eq!(tree.usage(VGA), [Usage::Console]);
    tree.file(&format!("sys/{device}/boot_vga"), "0\n");
    fs::create_dir_all(tree.0.path().join(format!("sys/{device}/graphics/fb0"))).unwrap();
    tree.class("class/graphics", &format!("{device}/graphics/fb0"));
    assert_eq!(tree.usage(VGA), [Usage::Console]);
    // Another function that has a frame buffer below it, of all things, is no graphics card.
    assert_eq!(tree.usage(SATA), []);
}

/// Whatever this machine has.
#[test]
fn a_real_kernel_tells_of_its_devices() {
    let host = LinuxHost::new(Paths::default());
    for address in host.pci_functions().unwrap() {
        let details = host.pci_details(address).unwrap();
        assert!(details.place.path.ends_with(&address.to_string()));
        assert!(Path::new(&details.place.path).is_dir(), "{details:?}");
        let usages = host.pci_usage(address).unwrap();
        // A virtio card's network device is seen, deep as it is.
        let contradict = usages.contains(&Usage::OtherNamespace) && usages.len() > 1;
        assert!(!contradict, "{address}: {usages:?}");
    }
    for name in host.usb_names().unwrap() {
        host.usb_node(&name).unwrap();
    }
    for netdev in host.netdevs().unwrap() {
        let node = host.netdev_node(&netdev).unwrap();
        assert!(Path::new(&node.place.path).is_dir(), "{node:?}");
    }
}
