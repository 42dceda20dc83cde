//! What the real host reads and writes in sysfs, on a made-up tree: an igb card with two VFs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use conf::PciAddress;
use host::{
    GuestGroup, Host, HostError, LinkState, Links, LinuxHost, Netdev, NicAbility, NodeAccess,
    Operation, Paths, Sriov, Usage,
};

const PF: &str = "0000:01:00.0";
const VF0: &str = "0000:01:10.0";
const VF1: &str = "0000:01:10.2";
const PLAIN: &str = "0000:00:1f.6";

struct Tree {
    root: tempfile::TempDir,
}

impl Tree {
    /// The card, and a plain network device of the board.
    fn card() -> Self {
        let root = tempfile::tempdir().unwrap();
        let tree = Self { root };
        tree.pci(PF, "0x8086", "0x10c9", Some("igb"), 1);
        tree.file(&device(PF, "sriov_totalvfs"), "7\n");
        tree.file(&device(PF, "sriov_numvfs"), "2\n");
        tree.file(&device(PF, "sriov_offset"), "128\n");
        tree.file(&device(PF, "sriov_stride"), "2\n");
        tree.netdev(PF, "enp1s0", 5, "52:54:00:00:01:00");
        for (number, vf) in [VF0, VF1].into_iter().enumerate() {
            tree.pci(vf, "0x8086", "0x10ca", Some("igbvf"), 2 + number as u32);
            tree.link(&device(vf, "physfn"), &format!("../{PF}"));
            tree.link(&device(PF, &format!("virtfn{number}")), &format!("../{vf}"));
            let mac = format!("3a:00:00:00:00:0{number}");
            tree.netdev(vf, &format!("enp1s0v{number}"), 6 + number as u32, &mac);
        }
        tree.pci(PLAIN, "0x8086", "0x10d3", Some("e1000e"), 9);
        tree.netdev(PLAIN, "eno1", 2, "52:54:00:00:00:99");
        tree.file("sys/bus/pci/drivers_probe", "");
        tree
    }

    fn host(&self) -> LinuxHost {
        LinuxHost::new(Paths {
            modprobe: PathBuf::from("/bin/false"),
            ..Paths::under(self.root.path())
        })
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    fn link(&self, path: &str, target: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(Path::new(target), path).unwrap();
    }

    fn pci(&self, address: &str, vendor: &str, id: &str, driver: Option<&str>, group: u32) {
        self.file(&device(address, "vendor"), &format!("{vendor}\n"));
        self.file(&device(address, "device"), &format!("{id}\n"));
        self.file(&device(address, "class"), "0x020000\n");
        self.file(&device(address, "numa_node"), "-1\n");
        self.file(&device(address, "max_link_speed"), "2.5 GT/s PCIe\n");
        self.file(&device(address, "driver_override"), "(null)\n");
        self.link(&device(address, "subsystem"), "../../pci");
        if let Some(driver) = driver {
            self.file(&format!("sys/bus/pci/drivers/{driver}/unbind"), "");
            self.link(
                &device(address, "driver"),
                &format!("../../drivers/{driver}"),
            );
        }
        let groups = format!("sys/kernel/iommu_groups/{group}/devices");
        self.link(
            &format!("{groups}/{address}"),
            &format!("../../../../bus/pci/devices/{address}"),
        );
        let of_group = format!("../../../../kernel/iommu_groups/{group}");
        self.link(&device(address, "iommu_group"), &of_group);
    }

    fn netdev(&self, address: &str, name: &str, ifindex: u32, mac: &str) {
        let directory = device(address, &format!("net/{name}"));
        self.file(&format!("{directory}/ifindex"), &format!("{ifindex}\n"));
        self.file(&format!("{directory}/address"), &format!("{mac}\n"));
        self.link(
            &format!("{directory}/device"),
            &format!("../../../{address}"),
        );
        let target = format!("../../bus/pci/devices/{address}/net/{name}");
        self.link(&format!("sys/class/net/{name}"), &target);
    }
}

fn device(address: &str, file: &str) -> String {
    format!("sys/bus/pci/devices/{address}/{file}")
}

fn at(address: &str) -> PciAddress {
    address.parse().unwrap()
}

#[test]
fn cards_that_make_vfs_are_listed_and_others_are_not() {
    let tree = Tree::card();
    let host = tree.host();
    let pfs = host.physical_functions().unwrap();
    let [pf] = &pfs[..] else { panic!("{pfs:?}") };
    assert_eq!(
        (pf.address, pf.netdev.as_str(), pf.ifindex),
        (at(PF), "enp1s0", 5)
    );
    assert_eq!((pf.max_vfs, pf.vf_count, pf.numa_node), (7, 2, None));
    assert_eq!(&host.physical_function("enp1s0").unwrap(), pf);
    tree.file(&device(PLAIN, "sriov_totalvfs"), "4\n");
    tree.file(&device(PLAIN, "class"), "0x010802\n");
    assert_eq!(
        host.physical_functions().unwrap().len(),
        1,
        "an NVMe drive has VFs too"
    );
}

#[test]
fn vfs_are_listed_by_number_and_each_is_found_alone() {
    let tree = Tree::card();
    let host = tree.host();
    let pf = host.physical_function("enp1s0").unwrap();
    let vfs = host.virtual_functions(&pf).unwrap();
    let seen: Vec<_> = vfs.iter().map(|vf| (vf.number, vf.address)).collect();
    assert_eq!(seen, [(0, at(VF0)), (1, at(VF1))]);
    for vf in &vfs {
        assert_eq!(&host.virtual_function(vf.address).unwrap(), vf);
    }
    // A card whose numbers do not follow its own arithmetic.
    tree.file(&device(PF, "sriov_stride"), "1\n");
    assert_eq!(host.virtual_function(at(VF1)).unwrap().number, 1);
    fs::remove_file(tree.path(&device(PF, "sriov_offset"))).unwrap();
    assert_eq!(host.virtual_function(at(VF1)).unwrap().number, 1);
}

#[test]
fn names_and_addresses_that_are_something_else_are_refused_by_name() {
    let tree = Tree::card();
    let host = tree.host();
    fs::create_dir_all(tree.path("sys/class/net/lo")).unwrap();
    let text = |error: HostError| error.to_string();
    assert_eq!(
        text(host.physical_function("eno1").unwrap_err()),
        "network device 'eno1' is not an SR-IOV physical function"
    );
    assert_eq!(
        text(host.physical_function("enp1s0v0").unwrap_err()),
        "network device 'enp1s0v0' is not an SR-IOV physical function"
    );
    assert_eq!(
        text(host.virtual_function(at(PF)).unwrap_err()),
        "PCI device 0000:01:00.0 is not an SR-IOV Virtual Function"
    );
    assert!(matches!(
        host.pci_address_of("lo"),
        Err(HostError::NotPci(_))
    ));
    for name in [
        "eth9",
        "",
        ".",
        "..",
        "a/b",
        "../../etc",
        "name-of-twenty-chars",
    ] {
        assert!(
            matches!(host.physical_function(name), Err(HostError::NoNetdev(_))),
            "{name}"
        );
    }
    let gone = at("0000:05:00.0");
    assert!(matches!(host.virtual_function(gone), Err(HostError::NoPciDevice(a)) if a == gone));
    assert!(matches!(
        host.pci_device(gone),
        Err(HostError::NoPciDevice(_))
    ));
    assert!(matches!(
        host.bind(gone, "igb"),
        Err(HostError::NoPciDevice(_))
    ));
}

#[test]
fn a_pf_without_a_driver_is_passed_over_and_named_when_asked_for() {
    let tree = Tree::card();
    let host = tree.host();
    fs::remove_dir_all(tree.path(&device(PF, "net"))).unwrap();
    assert_eq!(host.physical_functions().unwrap(), []);
    let error = host.virtual_function(at(VF0)).unwrap_err();
    assert!(
        matches!(error, HostError::NoPfNetdev(pf) if pf == at(PF)),
        "{error}"
    );
}

#[test]
fn representors_are_not_taken_for_the_pf() {
    let tree = Tree::card();
    tree.netdev(PF, "eth0", 20, "52:54:00:00:01:aa");
    tree.file(&device(PF, "net/eth0/phys_port_name"), "pf0vf0\n");
    tree.file(&device(PF, "net/enp1s0/phys_port_name"), "p0\n");
    let host = tree.host();
    assert_eq!(host.virtual_function(at(VF0)).unwrap().pf_netdev, "enp1s0");
    assert_eq!(host.pci_device(at(PF)).unwrap().netdevs, ["enp1s0", "eth0"]);
    assert!(matches!(
        host.physical_function("eth0"),
        Err(HostError::NotPhysicalFunction(_))
    ));
}

#[test]
fn what_a_function_is() {
    let tree = Tree::card();
    let host = tree.host();
    let pf = host.pci_device(at(PF)).unwrap();
    assert_eq!(
        (pf.vendor, pf.device, pf.class),
        (0x8086, 0x10c9, 0x02_0000)
    );
    assert_eq!(pf.driver.as_deref(), Some("igb"));
    assert_eq!((pf.iommu_group, pf.is_express), (Some(1), true));
    let vfs = vec![at(VF0), at(VF1)];
    assert_eq!(pf.sriov, Sriov::Physical { vfs, max: 7 });
    let vf = host.pci_device(at(VF1)).unwrap();
    assert_eq!(vf.sriov, Sriov::Virtual { pf: at(PF) });
    assert_eq!(host.pci_device(at(PLAIN)).unwrap().sriov, Sriov::None);
}

#[test]
fn a_group_tells_all_members_with_their_drivers() {
    let tree = Tree::card();
    let host = tree.host();
    let bridge = "0000:00:01.0";
    tree.file(&device(bridge, "class"), "0x060400\n");
    let member = format!("sys/kernel/iommu_groups/2/devices/{bridge}");
    tree.link(&member, &format!("../../../../bus/pci/devices/{bridge}"));
    let group = host.iommu_group(at(VF0)).unwrap().unwrap();
    assert_eq!(group.number, 2);
    let members = [(at(bridge), None), (at(VF0), Some(String::from("igbvf")))];
    assert_eq!(group.members, members);
    fs::remove_file(tree.path(&device(VF0, "iommu_group"))).unwrap();
    assert_eq!(host.iommu_group(at(VF0)).unwrap(), None);
}

#[test]
fn nonsense_in_sysfs_is_an_error_that_names_the_device() {
    let tree = Tree::card();
    let host = tree.host();
    tree.file(&device(PF, "sriov_numvfs"), "many\n");
    let error = host.physical_function("enp1s0").unwrap_err();
    assert!(
        matches!(&error, HostError::Malformed { target, what }
        if target == PF && what == "sriov_numvfs is 'many'"),
        "{error}"
    );
    tree.file(&device(PF, "sriov_numvfs"), "99999999999\n");
    assert!(host.physical_function("enp1s0").is_err());
}

#[test]
fn binding_overrides_one_device_frees_it_and_has_it_probed() {
    let tree = Tree::card();
    let host = tree.host();
    tree.file("sys/bus/pci/drivers/vfio-pci/unbind", "");
    // No kernel is behind this tree: nobody takes the device.
    let error = host.bind(at(VF0), "vfio-pci").unwrap_err();
    assert!(
        matches!(&error, HostError::NotTaken { driver, holder, .. }
        if driver == "vfio-pci" && holder.as_deref() == Some("igbvf")),
        "{error}"
    );
    assert_eq!(tree.read(&device(VF0, "driver_override")), "vfio-pci");
    assert_eq!(tree.read("sys/bus/pci/drivers/igbvf/unbind"), VF0);
    assert_eq!(tree.read("sys/bus/pci/drivers_probe"), VF0);
    assert!(!tree.path("sys/bus/pci/drivers/vfio-pci/new_id").exists());
    assert_eq!(tree.read(&device(VF1, "driver_override")), "(null)\n");
}

#[test]
fn a_device_that_the_driver_has_already_is_left_alone() {
    let tree = Tree::card();
    let host = tree.host();
    host.bind(at(VF0), "igbvf").unwrap();
    assert_eq!(tree.read(&device(VF0, "driver_override")), "(null)\n");
    assert_eq!(tree.read("sys/bus/pci/drivers_probe"), "");
    // Giving it back clears an override that a crash left behind, and nothing else.
    tree.file(&device(VF0, "driver_override"), "vfio-pci\n");
    host.unbind(at(VF0), Some("igbvf")).unwrap();
    assert_eq!(tree.read(&device(VF0, "driver_override")), "\n");
    assert_eq!(tree.read("sys/bus/pci/drivers/igbvf/unbind"), "");
}

#[test]
fn a_device_that_had_no_driver_is_given_back_without_one() {
    let tree = Tree::card();
    let host = tree.host();
    host.unbind(at(VF0), None).unwrap();
    assert_eq!(tree.read("sys/bus/pci/drivers/igbvf/unbind"), VF0);
    assert_eq!(tree.read("sys/bus/pci/drivers_probe"), "");
}

#[test]
fn a_missing_driver_is_refused_before_anything_changes() {
    let tree = Tree::card();
    let host = tree.host();
    for name in ["vfio-pci", "", "../igb", "a.b"] {
        let error = host.bind(at(VF0), name).unwrap_err();
        assert!(
            matches!(error, HostError::NoDriver { .. }),
            "{name}: {error}"
        );
    }
    assert_eq!(tree.read(&device(VF0, "driver_override")), "(null)\n");
    assert_eq!(tree.read("sys/bus/pci/drivers/igbvf/unbind"), "");
}

#[test]
fn a_driver_is_found_under_its_modules_name_too() {
    let tree = Tree::card();
    let host = tree.host();
    let module = "sys/module/mlx5_vfio_pci/drivers";
    tree.link(
        &format!("{module}/pci:mlx5-vfio-pci"),
        "../../../bus/pci/drivers/mlx5-vfio-pci",
    );
    let error = host.bind(at(VF0), "mlx5_vfio_pci").unwrap_err();
    assert!(matches!(error, HostError::NotTaken { driver, .. } if driver == "mlx5-vfio-pci"));
}

#[test]
fn the_variant_driver_comes_from_the_kernels_aliases() {
    let tree = Tree::card();
    let host = tree.host();
    tree.file(
        &device(VF0, "modalias"),
        "pci:v00008086d000010CAsv00001AF4sd00001100bc02sc00i00\n",
    );
    assert_eq!(host.best_vfio_driver(at(VF0)).unwrap(), "vfio-pci");
    let aliases = Paths::under(tree.root.path()).modules.join("modules.alias");
    fs::create_dir_all(aliases.parent().unwrap()).unwrap();
    fs::write(
        &aliases,
        "alias vfio_pci:v00008086d000010CAsv*sd*bc*sc*i* igb_vfio_pci\n",
    )
    .unwrap();
    assert_eq!(host.best_vfio_driver(at(VF0)).unwrap(), "igb_vfio_pci");
}

#[test]
fn a_vf_whose_network_device_is_elsewhere_is_in_use() {
    let tree = Tree::card();
    let host = tree.host();
    let vf = host.virtual_function(at(VF0)).unwrap();
    fs::remove_dir_all(tree.path(&device(VF0, "net"))).unwrap();
    assert_eq!(host.vf_usage(&vf).unwrap(), [Usage::OtherNamespace]);
    // Without a driver, or with one that makes no network device, there is none to look for.
    fs::remove_file(tree.path(&device(VF0, "driver"))).unwrap();
    assert_eq!(host.vf_usage(&vf).unwrap(), []);
    tree.link(&device(VF0, "driver"), "../../drivers/pci-stub");
    assert_eq!(host.vf_usage(&vf).unwrap(), []);
}

#[test]
fn a_vf_is_idle_only_while_its_network_device_is_down_and_alone() {
    let tree = Tree::card();
    let host = tree.host();
    let vf = host.virtual_function(at(VF0)).unwrap();
    let netdev = host.pci_device(at(VF0)).unwrap().netdevs.remove(0);
    let file = |name: &str| format!("sys/class/net/{netdev}/{name}");
    assert!(!host.vf_is_idle(&vf), "its flags are not known");
    tree.file(&file("flags"), "0x1002\n");
    assert!(host.vf_is_idle(&vf));
    tree.file(&file("flags"), "0x1003\n");
    assert!(!host.vf_is_idle(&vf), "up");
    tree.file(&file("flags"), "0x1002\n");
    for built_on_it in ["upper_vlan42", "master"] {
        tree.link(&file(built_on_it), "../vlan42");
        assert!(!host.vf_is_idle(&vf), "{built_on_it}");
        fs::remove_file(tree.path(&file(built_on_it))).unwrap();
    }
    fs::remove_file(tree.path(&device(VF0, "driver"))).unwrap();
    tree.link(&device(VF0, "driver"), "../../drivers/vfio-pci");
    assert!(!host.vf_is_idle(&vf), "a guest may have it");
}

#[test]
fn the_number_of_vfs_is_written_only_when_it_changes() {
    let tree = Tree::card();
    let host = tree.host();
    let pf = host.physical_function("enp1s0").unwrap();
    host.set_vf_count(&pf, 2).unwrap();
    assert_eq!(tree.read(&device(PF, "sriov_numvfs")), "2\n", "untouched");
    host.set_vf_count(&pf, 0).unwrap();
    assert_eq!(tree.read(&device(PF, "sriov_numvfs")), "0");
}

#[test]
fn a_device_is_reset_unless_it_can_not_or_vfio_does() {
    let tree = Tree::card();
    let host = tree.host();
    host.reset(at(VF0)).unwrap();
    assert!(!tree.path(&device(VF0, "reset")).exists());
    tree.file(&device(VF0, "reset"), "");
    host.reset(at(VF0)).unwrap();
    assert_eq!(tree.read(&device(VF0, "reset")), "1");
    tree.file(&device(VF1, "reset"), "");
    fs::remove_file(tree.path(&device(VF1, "driver"))).unwrap();
    tree.link(&device(VF1, "driver"), "../../drivers/vfio-pci");
    host.reset(at(VF1)).unwrap();
    assert_eq!(tree.read(&device(VF1, "reset")), "");
}

#[test]
fn a_vfio_group_is_let_be_opened_or_the_refusal_names_it() {
    let tree = Tree::card();
    let host = tree.host();
    assert_eq!(host.vfio_access(2).unwrap(), None);
    let error = host.set_vfio_access(2, NodeAccess::ROOT).unwrap_err();
    assert!(
        matches!(&error, HostError::Kernel { operation: Operation::GrantVfio, target, .. }
        if target.ends_with("dev/vfio/2")),
        "{error}"
    );
    assert_eq!(error.errno(), Some(2));
    tree.file("dev/vfio/2", "");
    let access = |mode| NodeAccess {
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        mode,
    };
    for mode in [0o660, 0o600] {
        host.set_vfio_access(2, access(mode)).unwrap();
        assert_eq!(host.vfio_access(2).unwrap(), Some(access(mode)));
    }
    if rustix::process::geteuid().is_root() {
        let group = NodeAccess {
            gid: GuestGroup::draw().gid(),
            ..access(0o660)
        };
        host.set_vfio_access(2, group).unwrap();
        assert_eq!(host.vfio_access(2).unwrap(), Some(group));
    }
}

#[test]
fn the_boot_has_an_identity() {
    let tree = Tree::card();
    let host = tree.host();
    assert!(host.boot_id().is_err());
    tree.file(
        "proc/sys/kernel/random/boot_id",
        "2a8bdb9d-3b9d-4a3c-8f6e-0f7d6a1f0b11\n",
    );
    assert_eq!(
        host.boot_id().unwrap(),
        "2a8bdb9d-3b9d-4a3c-8f6e-0f7d6a1f0b11"
    );
}

#[test]
fn automatic_probing_is_read_and_written() {
    let tree = Tree::card();
    let host = tree.host();
    let pf = host.physical_function("enp1s0").unwrap();
    for refused in [
        host.autoprobe(&pf).map(|_| ()),
        host.set_autoprobe(&pf, false),
    ] {
        let error = refused.unwrap_err();
        assert!(
            matches!(&error, HostError::Unsupported { target, .. } if target.contains("enp1s0")),
            "{error}"
        );
    }
    let file = device(PF, "sriov_drivers_autoprobe");
    tree.file(&file, "1\n");
    assert!(host.autoprobe(&pf).unwrap());
    host.set_autoprobe(&pf, false).unwrap();
    assert_eq!(tree.read(&file), "0");
    assert!(!host.autoprobe(&pf).unwrap());
    tree.file(&file, "perhaps\n");
    assert!(matches!(
        host.autoprobe(&pf),
        Err(HostError::Malformed { .. })
    ));
}

#[test]
fn pfs_and_vfs_are_told_apart_from_other_nics() {
    let tree = Tree::card();
    let host = tree.host();
    let netdev = |name: &str, index, address: &str| Netdev {
        index,
        name: name.parse().unwrap(),
        alternative_names: Vec::new(),
        mac: conf::MacAddress::ZERO,
        state: LinkState {
            up: false,
            carrier: false,
            mtu: 1500,
        },
        kind: None,
        vlan: None,
        lower: None,
        master: None,
        alias: None,
        pci: Some(address.parse().unwrap()),
        link_type: host::LinkType::Ethernet,
    };
    let ability = host.nic_ability(&netdev("enp1s0", 5, PF)).unwrap();
    assert_eq!(ability, NicAbility::SrIov { max_vfs: 7, vfs: 2 });
    let ability = host.nic_ability(&netdev("enp1s0v1", 7, VF1)).unwrap();
    assert_eq!(ability, NicAbility::VirtualFunction);
    // The loopback device stands for a card that can do nothing of it.
    let ability = host.nic_ability(&netdev("eno1", 1, PLAIN)).unwrap();
    assert_eq!(ability, NicAbility::Ethernet);
}
