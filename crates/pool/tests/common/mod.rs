//! A small host: PFs `ens1` … with seven VFs each, and plain NICs.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]
#![allow(dead_code, reason = "no test program uses all of it")]
#![allow(unreachable_pub, missing_docs, reason = "for the tests beside it only")]

use std::collections::BTreeMap;

use conf::{DeviceId, MacAddress, NetdevName, NumaPolicy, PciAddress, Spread};
use pool::{
    Choice, Health, Holder, Members, NetworkSpec, NicInfo, PfInfo, Pool, Refusal, Request, Sharing,
    VfInfo,
};

pub const UP: Health = Health {
    up: true,
    carrier: true,
};

pub const DOWN: Health = Health {
    up: false,
    carrier: false,
};

pub const DARK: Health = Health {
    up: true,
    carrier: false,
};

pub fn pf(n: u8) -> PciAddress {
    PciAddress::new(0, n, 0, 0).unwrap()
}

pub fn vf(n: u8, number: u8) -> PciAddress {
    PciAddress::new(0, n, 0x10 + number / 8, number % 8).unwrap()
}

pub fn name(name: &str) -> NetdevName {
    name.parse().unwrap()
}

/// VFs without network devices, as those are that wait for a guest's driver.
pub fn vfs(n: u8, count: u8) -> Vec<VfInfo> {
    (0..count)
        .map(|number| VfInfo {
            address: vf(n, number),
            number: number.into(),
            netdev: None,
        })
        .collect()
}

/// VFs with network devices `ens1v0` ….
pub fn named_vfs(n: u8, count: u8) -> Vec<VfInfo> {
    let mut vfs = vfs(n, count);
    for vf in &mut vfs {
        vf.netdev = Some(name(&format!("ens{n}v{}", vf.number)));
    }
    vfs
}

pub fn info(n: u8) -> PfInfo {
    PfInfo {
        address: pf(n),
        netdev: format!("ens{n}"),
        numa_node: Some(u16::from(n % 2)),
        max_vfs: 7,
        health: UP,
    }
}

/// A NIC that is known by its name.
pub fn nic(netdev: &str) -> NicInfo {
    NicInfo {
        device: name(netdev).into(),
        netdev: name(netdev),
        numa_node: None,
        health: UP,
    }
}

pub fn id(netdev: &str) -> DeviceId {
    name(netdev).into()
}

pub fn whole_vfs(members: Members) -> NetworkSpec {
    NetworkSpec {
        members,
        sharing: Sharing::Exclusive,
        needs_netdev: false,
        spread: Spread::Balance,
        numa: NumaPolicy::Ignore,
        needs_carrier: false,
    }
}

pub fn passthrough(members: Members) -> NetworkSpec {
    NetworkSpec {
        needs_netdev: true,
        ..whole_vfs(members)
    }
}

pub fn shared(members: Members) -> NetworkSpec {
    NetworkSpec {
        sharing: Sharing::Shared,
        ..passthrough(members)
    }
}

pub fn pfs(ns: impl IntoIterator<Item = u8>) -> Members {
    Members::PhysicalFunctions(ns.into_iter().map(pf).collect())
}

pub fn nics(names: &[&str]) -> Members {
    Members::Devices(names.iter().map(|name| id(name)).collect())
}

/// Those PFs, and a network `vfs` over all of them.
pub fn pool_of(count: u8, change: impl FnOnce(&mut NetworkSpec)) -> Pool {
    let mut pool = Pool::new();
    for n in 1..=count {
        pool.set_pf(&info(n), &vfs(n, 7));
    }
    let mut network = whole_vfs(pfs(1..=count));
    change(&mut network);
    pool.set_network("vfs", network);
    pool
}

/// Those NICs, and a network `lan` that shares them.
pub fn lan(names: &[&str], change: impl FnOnce(&mut NetworkSpec)) -> Pool {
    let mut pool = Pool::new();
    for name in names {
        pool.set_nic(nic(name));
    }
    let mut network = shared(nics(names));
    change(&mut network);
    pool.set_network("lan", network);
    pool
}

/// A question to network `vfs`.
pub struct Ask<'a> {
    pub network: &'a str,
    pub guest: &'a str,
    pub nodes: &'a [u16],
    pub mac: Option<MacAddress>,
    pub exclude: BTreeMap<DeviceId, String>,
}

impl Default for Ask<'_> {
    fn default() -> Self {
        Self {
            network: "vfs",
            guest: "web",
            nodes: &[],
            mac: None,
            exclude: BTreeMap::new(),
        }
    }
}

impl<'a> Ask<'a> {
    pub fn to(network: &'a str) -> Self {
        Self {
            network,
            ..Self::default()
        }
    }

    pub fn request(&self) -> Request<'_> {
        Request {
            network: self.network,
            guest: self.guest,
            mac: self.mac,
            numa_nodes: self.nodes,
            exclude: &self.exclude,
            from: pool::Source::Anywhere,
            is_promised: false,
        }
    }

    pub fn of(&self, pool: &Pool) -> Result<Choice, Box<Refusal>> {
        pool.choose(&self.request())
    }
}

pub fn holder(guest: &str) -> Holder {
    Holder {
        guest: guest.into(),
        network: Some("vfs".into()),
        mac: None,
    }
}

pub fn lend(pool: &mut Pool, guest: &str) -> DeviceId {
    let device = Ask::default().of(pool).unwrap().device;
    pool.claim(device, holder(guest)).unwrap();
    device
}

/// Gives a share of what network `lan` chooses.
pub fn join(pool: &mut Pool, guest: &str) -> DeviceId {
    let device = Ask::to("lan").of(pool).unwrap().device;
    let holder = Holder {
        network: Some("lan".into()),
        ..holder(guest)
    };
    pool.share(device, holder).unwrap();
    device
}
