//! Answers of a daemon: plans, networks, NICs, differences and counters.

use rpc::{
    ChosenDevice, DeviceNote, Difference, DrainReport, GuestCounters, Holding, Lent, LentKind,
    NetworkReport, Nic, NicAbility, Outcome, PairHalf, PlanRefusal, PlanReport, PlannedChoice,
    PlannedDevice, PlannedHalf, PoolRow, StaysOnPf, VfCount,
};
use uuid::Uuid;

use super::two_lent;

pub(crate) fn sriov(vfs: u32) -> NicAbility {
    NicAbility::SrIov(VfCount { vfs, max: 8 })
}

pub(crate) fn ens1f0() -> PoolRow {
    let holding = |device: &str, guest: &str, network: Option<&str>| Holding {
        device: device.into(),
        guest: guest.into(),
        network: network.map(str::to_owned),
    };
    PoolRow {
        name: "ens1f0".into(),
        ability: Some(sriov(4)),
        numa_node: Some(1),
        total: 4,
        free: 0,
        connections: 3,
        promised: 0,
        drained: false,
        lent: vec![
            holding("VF 0", "web", Some("fast")),
            holding("VF 1", "db", Some("other")),
            holding("VF 2", "mail", None),
        ],
        busy: vec![DeviceNote {
            device: "VF 3".into(),
            note: "ens1f0v3 is up with 10.0.0.5/24".into(),
        }],
        kept_back: Vec::new(),
        obstacle: None,
    }
}

pub(crate) fn eth2() -> PoolRow {
    PoolRow {
        name: "eth2".into(),
        ability: Some(NicAbility::MacvlanOffload(true)),
        numa_node: None,
        total: 1,
        free: 1,
        connections: 0,
        promised: 0,
        drained: false,
        lent: Vec::new(),
        busy: Vec::new(),
        kept_back: Vec::new(),
        obstacle: Some("it has no carrier".into()),
    }
}

pub(crate) fn networks() -> Vec<NetworkReport> {
    let fast = NetworkReport {
        name: "fast".into(),
        uuid: Uuid::from_u128(1),
        active: true,
        mode: "passthrough".into(),
        bridge: None,
        modes: Vec::new(),
        exclusive: true,
        connections: 1,
        rows: vec![ens1f0(), eth2()],
        missing: vec!["eth9".into()],
    };
    let slow = NetworkReport {
        name: "slow".into(),
        active: false,
        mode: "bridge".into(),
        modes: vec!["vepa".into(), "bridge".into()],
        exclusive: false,
        connections: 0,
        rows: Vec::new(),
        missing: Vec::new(),
        ..fast.clone()
    };
    vec![fast, slow]
}

pub(crate) fn nics() -> Vec<Nic> {
    let pf = Nic {
        name: "ens1f0".into(),
        ability: sriov(7),
        mac: Some("52:54:00:00:00:01".into()),
        kind: None,
        pci_address: Some("0000:01:00.0".into()),
        driver: Some("igb".into()),
        numa_node: Some(0),
        up: true,
        carrier: true,
        mtu: 1500,
        master: None,
        networks: vec!["fast".into(), "slow".into()],
        drained: false,
    };
    let vf = Nic {
        name: "ens1f0v0".into(),
        ability: NicAbility::VirtualFunction,
        networks: Vec::new(),
        ..pf.clone()
    };
    let offload = Nic {
        name: "eth2".into(),
        ability: NicAbility::MacvlanOffload(false),
        driver: Some("ixgbe".into()),
        carrier: false,
        networks: Vec::new(),
        master: Some("bond0".into()),
        ..pf.clone()
    };
    let bond = Nic {
        name: "bond0".into(),
        ability: NicAbility::Ethernet,
        kind: Some("bond".into()),
        pci_address: None,
        driver: None,
        numa_node: None,
        up: false,
        networks: Vec::new(),
        ..pf.clone()
    };
    vec![pf, vf, offload, bond]
}

pub(crate) fn differences() -> Vec<Difference> {
    let orphan = Difference {
        device: Some("macvtap3".into()),
        guest: Some("web".into()),
        what: "macvtap3 on eth2 was made for guest 'web', which does not run".into(),
        cause: "virtnicd ended before it could remove it".into(),
        remedy: "remove macvtap3".into(),
        safe: true,
        outcome: Outcome::Left,
    };
    let bound = Difference {
        device: Some("0000:01:10.2".into()),
        guest: None,
        what: "VF 1 of ens1f0 has driver vfio-pci, and nobody has it".into(),
        cause: String::new(),
        remedy: "bind it to its own driver".into(),
        safe: false,
        outcome: Outcome::Left,
    };
    vec![orphan, bound]
}

pub(crate) fn plan() -> PlanReport {
    let gets = PlannedDevice {
        element: "interface".into(),
        r#type: "network".into(),
        mac: Some("52:54:00:00:00:01".into()),
        alias: None,
        network: Some("slow".into()),
        half: None,
        choice: PlannedChoice::Device(ChosenDevice {
            kind: LentKind::Macvtap,
            device: "macvtap vepa on eth2".into(),
            pci_address: None,
            why: "of 2 NICs, eth2 has the fewest connections (3)".into(),
        }),
        steps: vec![
            "make macvtap0 on eth2".into(),
            "open 2 queues of it\nand vhost-net for each".into(),
        ],
        notes: vec!["the host can't reach this guest over eth2".into()],
    };
    let hostdev = PlannedDevice {
        element: "hostdev".into(),
        r#type: "pci".into(),
        mac: None,
        alias: Some("hostdev0".into()),
        network: None,
        half: None,
        choice: PlannedChoice::Device(ChosenDevice {
            kind: LentKind::Hostdev,
            device: "0000:03:00.0".into(),
            pci_address: Some("0000:03:00.0".into()),
            why: "the guest names it".into(),
        }),
        steps: vec!["bind to vfio-pci".into()],
        notes: Vec::new(),
    };
    let user = PlannedDevice {
        r#type: "user".into(),
        network: None,
        choice: PlannedChoice::None("nothing of the host's".into()),
        steps: Vec::new(),
        notes: Vec::new(),
        ..gets.clone()
    };
    PlanReport {
        guest: "web".into(),
        guest_uuid: Uuid::from_u128(7),
        running: false,
        would_start: true,
        obstacles: Vec::new(),
        notes: Vec::new(),
        devices: vec![gets, user, hostdev],
    }
}

pub(crate) fn refused_plan() -> PlanReport {
    let mut plan = plan();
    plan.devices.truncate(1);
    plan.devices[0].network = Some("fast".into());
    plan.devices[0].choice = PlannedChoice::Refused(PlanRefusal {
        error: "network 'fast' has no free device".into(),
        advice: Some("stop a guest".into()),
        rows: vec![ens1f0()],
    });
    plan.devices[0].steps.clear();
    PlanReport {
        would_start: false,
        obstacles: vec!["<memballoon model='xen'>".into()],
        ..plan
    }
}

pub(crate) fn counted() -> Vec<Lent> {
    let mut lent = two_lent();
    lent[0].counters = Some(GuestCounters {
        rx_bytes: 123_456_789,
        rx_packets: 100_000,
        rx_errors: None,
        rx_dropped: 3,
        rx_multicast: Some(12),
        rx_broadcast: None,
        tx_bytes: 42,
        tx_packets: 1,
        tx_errors: None,
        tx_dropped: 0,
        tx_multicast: None,
        tx_broadcast: None,
    });
    lent
}

/// Two guests' VFs and a macvtap, on a PF that is drained.
pub(crate) fn drained() -> DrainReport {
    let stays = |what: &str, guest: &str, why: &str| StaysOnPf {
        what: what.into(),
        guest: guest.into(),
        why: why.into(),
    };
    DrainReport {
        pf: "ens1f0".into(),
        pci_address: "0000:03:00.0".into(),
        vfs: vec![
            stays("VF 3 (0000:03:10.6)", "db", "it is no half of a pair"),
            stays(
                "VF 0 (0000:03:10.0)",
                "web",
                "the guest was asked to let it go",
            ),
        ],
        macvtaps: vec![stays("macvtap0", "web", "it stays on the PF")],
    }
}

/// A pair of which the guest has not joined the halves, and one that waits for its VF.
pub(crate) fn pairs() -> Vec<Lent> {
    let half = |pair: u128, role: &str, negotiated: Option<bool>, advice: Option<&str>| {
        Some(PairHalf {
            pair: Uuid::from_u128(pair),
            role: role.into(),
            negotiated,
            advice: advice.map(str::to_owned),
        })
    };
    let [vf, _] = two_lent().try_into().unwrap();
    let advice = Some("guest 'web' has not negotiated failover");
    let standby = Lent {
        kind: LentKind::Macvtap,
        alias: Some("ua-standby".into()),
        half: half(1, "standby", Some(false), advice),
        vf: None,
        host_netdev: Some("macvtap0".into()),
        parent: Some("ens1f0".into()),
        mode: Some("bridge".into()),
        pf: None,
        pci_address: None,
        driver: None,
        ..vf.clone()
    };
    let primary = Lent {
        alias: Some("ua-vf".into()),
        half: half(1, "primary", Some(false), advice),
        state: "reserved".into(),
        since: 0,
        driver: None,
        ..vf.clone()
    };
    let owed = Lent {
        guest: Some("db".into()),
        alias: Some("ua-vf".into()),
        half: half(2, "primary", None, None),
        vf: None,
        pci_address: None,
        driver: None,
        state: "owed".into(),
        since: 0,
        ..vf
    };
    vec![standby, primary, owed]
}

/// A guest with a pair, whose other half comes behind another device.
pub(crate) fn plan_of_pair() -> PlanReport {
    let mut plan = plan();
    let half = |role: &str| {
        Some(PlannedHalf {
            pair: Uuid::from_u128(9),
            role: role.into(),
            pf: Some("ens1f0".into()),
        })
    };
    plan.devices[0].half = half("standby");
    plan.devices[2].half = half("primary");
    plan
}
