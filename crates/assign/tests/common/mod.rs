//! A simulated host, a journal in a directory of its own, and guests to lend to.
#![allow(dead_code, reason = "each test file uses the part of it that it needs")]

pub(crate) mod hooked;
pub(crate) mod scenes;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use assign::{
    Assigner, Claim, ClaimError, Finding, Holder, Item, Lent, LentKind, Origin, Preparation,
    PrepareError, Recovery, VfConfig, VfioPreparation, VfioUser,
};
use conf::{DeviceId, MacAddress, PciAddress, Uuid, VfLink, VfSettings, Vlan, VlanTag};
use host::{Host, NodeAccess, SharedHost, SimulatedCrash, SimulatedHost};

pub(crate) const USER: VfioUser = VfioUser { uid: 107, gid: 108 };

/// Who may open what is lent to a guest whose QEMU has no group of its own.
pub(crate) const GRANTED: NodeAccess = NodeAccess {
    uid: USER.uid,
    gid: USER.gid,
    mode: 0o600,
};

/// One machine: it stays while the daemon comes and goes.
pub(crate) struct Machine {
    pub(crate) host: SimulatedHost,
    pub(crate) directory: tempfile::TempDir,
}

impl Machine {
    pub(crate) fn new(shape: &str) -> Self {
        Self {
            host: SimulatedHost::new(shape.parse().unwrap()),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// With a card `eth0`, which is up, a bridge `br0`, a tap `tap0` of somebody else's, and a USB
    /// device.
    pub(crate) fn with_links(shape: &str) -> Self {
        let machine = Self::new(shape);
        machine.host.add_nic("eth0").unwrap();
        machine.host.put_up("eth0", true);
        machine.host.add_bridge("br0").unwrap();
        machine.host.add_usb(1, "1.4", (0x046d, 0xc31c)).unwrap();
        machine.host.add_netdev("tap0", "tun", None).unwrap();
        machine
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.directory.path().join("devices")
    }

    /// The daemon starts.
    pub(crate) fn open(&self) -> (Assigner, Recovery) {
        self.open_with(Arc::new(self.host.clone()))
    }

    pub(crate) fn open_with(&self, host: SharedHost) -> (Assigner, Recovery) {
        Assigner::open(host, self.journal(), Some(USER)).unwrap()
    }

    /// The daemon starts on a machine on which nothing is lent.
    pub(crate) fn start(&self) -> Assigner {
        let (assigner, recovery) = self.open();
        assert!(recovery.assignments.is_empty() && recovery.findings.is_empty());
        assigner
    }

    /// The daemon starts again after a crash, and finds those guests running.
    pub(crate) fn restart(&self, runs: impl Fn(Uuid) -> bool) -> (Assigner, Vec<Finding>) {
        self.host.restart_caller();
        let (assigner, _) = self.open();
        let findings = assigner.recover(runs);
        (assigner, findings)
    }

    pub(crate) fn vf(&self, number: usize) -> PciAddress {
        let pf = &self.host.physical_functions().unwrap()[0];
        self.host.virtual_functions(pf).unwrap()[number].address
    }

    pub(crate) fn pf(&self) -> PciAddress {
        self.host.physical_functions().unwrap()[0].address
    }

    /// Names of the records.
    pub(crate) fn records(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.journal()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names
            .filter(|name| name != "starts" && name != "probing")
            .collect();
        names.sort_unstable();
        names
    }
}

pub(crate) fn guest(n: u32) -> Holder {
    Holder {
        guest: Uuid::from_u128(n.into()),
        name: format!("web{n}"),
        network: Some("vfs".into()),
        port: Some(Uuid::from_u128(1000 + u128::from(n))),
        mac: Some(mac(n)),
        alias: Some("hostdev0".into()),
        attachment: Some(Uuid::from_u128(2000 + u128::from(n))),
    }
}

pub(crate) fn mac(n: u32) -> MacAddress {
    let [.., a, b, c] = n.to_be_bytes();
    MacAddress::new([0x52, 0x54, 0, a, b, c])
}

/// What is on the list of a PCI function.
pub(crate) fn item(address: PciAddress) -> Item {
    Item::Device(DeviceId::Pci(address))
}

pub(crate) fn vfio(network: Option<VfConfig>) -> VfioPreparation {
    VfioPreparation {
        managed: true,
        driver: None,
        network,
        profile: None,
    }
}

pub(crate) fn managed(network: Option<VfConfig>) -> Preparation {
    Preparation::Vfio(vfio(network))
}

/// The driver that a lent function has.
pub(crate) fn driver(lent: &Lent) -> &str {
    match &lent.kind {
        LentKind::Vfio { driver, .. } => driver,
        LentKind::Link { .. } | LentKind::Usb { .. } => panic!("{} has no driver", lent.item),
    }
}

/// MAC and VLAN only.
pub(crate) fn ordinary(n: u32) -> Preparation {
    managed(Some(mac_and_vlan(n)))
}

pub(crate) fn mac_and_vlan(n: u32) -> VfConfig {
    let tag = VlanTag {
        id: 42,
        native: None,
    };
    let vlan = Vlan {
        trunk: false,
        tags: vec![tag],
    };
    VfConfig::new(mac(n), Some(&vlan), &VfSettings::default()).unwrap()
}

/// No setting at its neutral value.
pub(crate) fn everything(n: u32) -> Preparation {
    let settings = VfSettings {
        trust: Some(true),
        spoof_check: Some(false),
        link: Some(VfLink::On),
        max_rate: Some(500),
        min_rate: Some(100),
        qos: Some(3),
        ..VfSettings::default()
    };
    let tag = VlanTag {
        id: 42,
        native: None,
    };
    let vlan = Vlan {
        trunk: false,
        tags: vec![tag],
    };
    managed(Some(VfConfig::new(mac(n), Some(&vlan), &settings).unwrap()))
}

pub(crate) fn claim(assigner: &Assigner, vf: PciAddress, n: u32) -> Result<Claim, ClaimError> {
    assigner.claim(DeviceId::Pci(vf), guest(n), Origin::PoolPort)
}

pub(crate) fn lend(
    assigner: &Assigner,
    vf: PciAddress,
    n: u32,
    preparation: &Preparation,
) -> Result<Lent, PrepareError> {
    let claim = claim(assigner, vf, n).unwrap();
    assigner.prepare(claim, preparation)
}

/// An error with all that is behind it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Runs something that the host may cut short, as `kill -9` would; `None`: it did.
pub(crate) fn until_crash<T>(work: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(value) => Some(value),
        Err(panic) if panic.is::<SimulatedCrash>() => None,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
