//! What the networks have to lend, for people: the pool's table, with what only the kernel knows.

use std::collections::BTreeMap;

use conf::{DeviceId, Network};
use host::Netdev;
use pool::{Explanation, NicRow, Note, PfRow, Request, Row, Sharing, Verdict};
use rpc::{DeviceNote, Holding, NicAbility, PoolRow, VfCount};

use super::{Lender, whole_or_share};
use crate::sync::lock;

impl Lender {
    /// What a running network has to lend, and what of it the host itself uses. Asks the kernel
    /// about each device that is free, so it blocks.
    pub(crate) fn picture(&self, network: &Network) -> Option<Explanation> {
        let free = lock(&self.state).pool.free(&network.name);
        let busy: BTreeMap<DeviceId, String> = (free.into_iter())
            .filter_map(|device| {
                let usable = self.usable(whole_or_share(network, None, device));
                Some((device, usable.err()?))
            })
            .collect();
        let request = Request {
            network: &network.name,
            guest: "",
            mac: None,
            numa_nodes: &[],
            exclude: &busy,
        };
        lock(&self.state).pool.explain(&request)
    }

    /// The rows of such a table, as clients get them. Asks the kernel what each NIC can do.
    pub(crate) fn rows(&self, explanation: &Explanation) -> Vec<PoolRow> {
        let rows = explanation.rows.iter().map(|row| match row {
            Row::Pf(row) => pf_row(row),
            Row::Nic(row) => nic_row(row, self.ability_of(row.netdev.as_str())),
        });
        rows.collect()
    }

    fn ability_of(&self, netdev: &str) -> Option<NicAbility> {
        let netdev = self.host.netdev(netdev).ok()?;
        Some(ability(self.host.nic_ability(&netdev).ok()?))
    }

    /// The running networks that lend a network device of the host, or its VFs.
    pub(crate) fn networks_over(&self, netdev: &Netdev) -> Vec<String> {
        let state = lock(&self.state);
        let pf = netdev.pci.and_then(|address| state.pool.vf(address));
        let lends = |parts: &super::pools::Parts| {
            let by_itself = parts.listed.iter().any(|(name, device)| {
                *name == Some(netdev.name)
                    || *device == DeviceId::Netdev(netdev.name)
                    || netdev.pci.is_some_and(|address| *device == address.into())
            });
            let has = |address| parts.pfs.contains(&address);
            let as_vf = parts.listed.is_empty() && pf.is_some_and(|(pf, _)| has(pf));
            by_itself || as_vf || netdev.pci.is_some_and(has)
        };
        let networks = state.networks.iter().filter(|(_, parts)| lends(parts));
        let mut names: Vec<_> = networks.map(|(name, _)| name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// What a device is called: its network device, or which VF it is, or else its address.
    pub(crate) fn name_of(&self, device: DeviceId) -> String {
        let nic = lock(&self.state).pool.nic(device).map(|nic| nic.netdev);
        match (nic, self.place_of(device)) {
            (Some(name), _) => name.to_string(),
            (None, Some((pf, number))) => format!("VF {number} of {pf}"),
            (None, None) => device.to_string(),
        }
    }
}

/// What a NIC can do for guests, on the wire.
pub(crate) fn ability(ability: host::NicAbility) -> NicAbility {
    match ability {
        host::NicAbility::SrIov { max_vfs, vfs } => NicAbility::SrIov(VfCount {
            vfs: vfs.into(),
            max: max_vfs.into(),
        }),
        host::NicAbility::VirtualFunction => NicAbility::VirtualFunction,
        host::NicAbility::MacvlanOffload { on } => NicAbility::MacvlanOffload(on),
        host::NicAbility::Ethernet => NicAbility::Ethernet,
    }
}

fn pf_row(row: &PfRow) -> PoolRow {
    let vf = |number: u16| format!("VF {number}");
    let mut holders: Vec<_> = row.lent.iter().chain(&row.shared).collect();
    holders.sort_by_key(|note| note.number);
    let notes = |notes: &[Note<String>]| -> Vec<DeviceNote> {
        let notes = notes.iter().map(|note| DeviceNote {
            device: vf(note.number),
            note: note.note.clone(),
        });
        notes.collect()
    };
    let mut kept_back = notes(&row.withheld);
    kept_back.extend(row.without_netdev.iter().map(|number| DeviceNote {
        device: vf(*number),
        note: "it has no network device".to_owned(),
    }));
    let (vfs, max) = row.vfs;
    PoolRow {
        name: row.pf.clone(),
        ability: (row.verdict != Verdict::Gone).then(|| {
            NicAbility::SrIov(VfCount {
                vfs: count(vfs),
                max: max.into(),
            })
        }),
        numa_node: row.numa_node.map(u32::from),
        total: count(row.total),
        free: count(row.free),
        connections: count(row.lent.len() + row.shared.len()),
        lent: (holders.into_iter())
            .map(|note| holding(vf(note.number), &note.note))
            .collect(),
        busy: notes(&row.busy),
        kept_back,
        obstacle: obstacle(&row.verdict, &row.pf, true),
    }
}

fn nic_row(row: &NicRow, ability: Option<NicAbility>) -> PoolRow {
    let name = row.netdev.to_string();
    let note = |note: &Option<String>| -> Vec<DeviceNote> {
        let notes = note.iter().map(|note| DeviceNote {
            device: name.clone(),
            note: note.clone(),
        });
        notes.collect()
    };
    let holders = row.lent.iter().chain(&row.shared);
    let lent: Vec<_> = holders
        .map(|holder| holding(name.clone(), holder))
        .collect();
    let is_free = row.lent.is_none()
        && row.busy.is_none()
        && row.withheld.is_none()
        && (row.sharing == Sharing::Shared || row.shared.is_empty());
    PoolRow {
        ability,
        numa_node: row.numa_node.map(u32::from),
        total: 1,
        free: is_free.into(),
        connections: count(lent.len()),
        lent,
        busy: note(&row.busy),
        kept_back: note(&row.withheld),
        obstacle: obstacle(&row.verdict, &name, false),
        name,
    }
}

fn holding(device: String, holder: &pool::Holder) -> Holding {
    Holding {
        device,
        guest: holder.guest.clone(),
        network: holder.network.clone(),
    }
}

/// Why nothing can be had of a PF or NIC of that name, with what to do where that is a command.
fn obstacle(verdict: &Verdict, name: &str, is_pf: bool) -> Option<String> {
    Some(match verdict {
        Verdict::Open | Verdict::NoneFree => return None,
        Verdict::NoVfs if is_pf => {
            format!("it has no VFs: echo 4 > /sys/class/net/{name}/device/sriov_numvfs")
        }
        Verdict::NoVfs => "it has no VFs".to_owned(),
        Verdict::Gone => "it is not there".to_owned(),
        Verdict::Down => format!("it is down: ip link set {name} up"),
        Verdict::NoCarrier => "it has no carrier".to_owned(),
        Verdict::Far => "it is not on the guest's NUMA node".to_owned(),
        Verdict::MacInUse { mac, guest } => {
            format!("MAC {mac} is in use there, by guest '{guest}'")
        }
    })
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use conf::{NumaPolicy, PciAddress, Spread};
    use pool::{Health, Holder, Members, NetworkSpec, NicInfo, PfInfo, Pool, VfInfo};

    use super::*;

    const UP: Health = Health {
        up: true,
        carrier: true,
    };

    fn address(function: u8) -> PciAddress {
        PciAddress::new(0, 3, 0, function).unwrap()
    }

    fn holder(guest: &str, network: Option<&str>) -> Holder {
        Holder {
            guest: guest.to_owned(),
            network: network.map(str::to_owned),
            mac: None,
        }
    }

    /// A PF `ens1` with three VFs, of which the first two have network devices.
    fn with_pf(health: Health) -> Pool {
        let mut pool = Pool::new();
        let info = PfInfo {
            address: address(0),
            netdev: "ens1".to_owned(),
            numa_node: Some(1),
            max_vfs: 7,
            health,
        };
        let vfs = [1, 2, 3].map(|function| VfInfo {
            address: address(function),
            number: u16::from(function) - 1,
            netdev: (function < 3).then(|| format!("ens1v{}", function - 1).parse().unwrap()),
        });
        pool.set_pf(&info, &vfs);
        pool
    }

    fn explain(pool: &mut Pool, members: Members, sharing: Sharing) -> Explanation {
        let spec = NetworkSpec {
            members,
            sharing,
            needs_netdev: true,
            spread: Spread::Balance,
            numa: NumaPolicy::Ignore,
            needs_carrier: false,
        };
        pool.set_network("n1", spec);
        let exclude = BTreeMap::from([(address(2).into(), "it is up with 10.0.0.5/24".to_owned())]);
        let request = Request {
            network: "n1",
            guest: "",
            mac: None,
            numa_nodes: &[],
            exclude: &exclude,
        };
        pool.explain(&request).unwrap()
    }

    fn notes(notes: &[DeviceNote]) -> Vec<(&str, &str)> {
        (notes.iter().map(|note| (&*note.device, &*note.note))).collect()
    }

    #[test]
    fn each_vf_that_can_not_be_had_is_told_with_its_reason() {
        let mut pool = with_pf(UP);
        let owner = holder("web", Some("other"));
        pool.claim(address(1), owner).unwrap();
        let members = Members::PhysicalFunctions(vec![address(0)]);
        let table = explain(&mut pool, members, Sharing::Exclusive);
        let [Row::Pf(row)] = &*table.rows else {
            panic!("{table:?}")
        };
        let row = pf_row(row);
        assert_eq!((&*row.name, row.numa_node), ("ens1", Some(1)));
        assert_eq!((row.total, row.free, row.connections), (3, 0, 1));
        let [held] = &*row.lent else {
            panic!("{row:?}")
        };
        assert_eq!((&*held.device, &*held.guest), ("VF 0", "web"));
        assert_eq!(held.network.as_deref(), Some("other"));
        assert_eq!(notes(&row.busy), [("VF 1", "it is up with 10.0.0.5/24")]);
        assert_eq!(
            notes(&row.kept_back),
            [("VF 2", "it has no network device")]
        );
        assert_eq!(row.obstacle, None);
        let count = VfCount { vfs: 3, max: 7 };
        assert_eq!(row.ability, Some(NicAbility::SrIov(count)));
    }

    #[test]
    fn a_pf_that_is_down_says_how_to_bring_it_up() {
        let mut pool = with_pf(Health {
            up: false,
            carrier: false,
        });
        let members = Members::PhysicalFunctions(vec![address(0)]);
        let table = explain(&mut pool, members, Sharing::Exclusive);
        let [Row::Pf(row)] = &*table.rows else {
            panic!("{table:?}")
        };
        assert_eq!(
            pf_row(row).obstacle.as_deref(),
            Some("it is down: ip link set ens1 up")
        );
    }

    #[test]
    fn a_shared_nic_is_free_however_many_have_it_and_not_once_it_is_lent_whole() {
        let mut pool = Pool::new();
        let device: DeviceId = DeviceId::Netdev("eth2".parse().unwrap());
        pool.set_nic(NicInfo {
            device,
            netdev: "eth2".parse().unwrap(),
            numa_node: None,
            health: UP,
        });
        let row = |pool: &mut Pool| {
            let table = explain(pool, Members::Devices(vec![device]), Sharing::Shared);
            let [Row::Nic(row)] = &*table.rows else {
                panic!("{table:?}")
            };
            nic_row(row, Some(NicAbility::Ethernet))
        };
        let shares: Vec<_> = ["web", "db"]
            .map(|guest| pool.share(device, holder(guest, Some("n1"))).unwrap())
            .into();
        let shared = row(&mut pool);
        assert_eq!((shared.total, shared.free, shared.connections), (1, 1, 2));
        let guests: Vec<_> = shared.lent.iter().map(|held| &*held.guest).collect();
        assert_eq!(guests, ["web", "db"]);
        for share in shares {
            pool.release_share(share);
        }
        pool.claim(device, holder("mail", None)).unwrap();
        let lent = row(&mut pool);
        assert_eq!((lent.free, lent.connections), (0, 1));
        assert_eq!(lent.lent[0].network, None);
    }
}
