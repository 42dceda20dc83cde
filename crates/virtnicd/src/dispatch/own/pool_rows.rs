//! What the networks have to lend, as clients get it: the pool's table, with what only the kernel
//! knows.

use pool::{Explanation, NicRow, Note, PfRow, Row, Sharing, Verdict};
use rpc::{DeviceNote, Holding, NicAbility, PoolRow, VfCount};

use crate::daemon::Daemon;

impl Daemon {
    /// The rows of such a table. Asks the kernel what each NIC can do.
    pub(crate) fn pool_rows(&self, explanation: &Explanation) -> Vec<PoolRow> {
        let rows = explanation.rows.iter().map(|row| {
            let mut told = match row {
                Row::Pf(row) => pf_row(row),
                Row::Nic(row) => nic_row(row, self.ability_of(row.netdev.as_str())),
            };
            told.obstacle = obstacle(row);
            told
        });
        rows.collect()
    }

    fn ability_of(&self, netdev: &str) -> Option<NicAbility> {
        let netdev = self.host.netdev(netdev).ok()?;
        Some(ability(self.host.nic_ability(&netdev).ok()?))
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
        // What is free of one that lends nothing can't be had.
        free: if row.is_drained { 0 } else { count(row.free) },
        connections: count(row.lent.len() + row.shared.len()),
        promised: count(row.promised),
        drained: row.is_drained,
        lent: (holders.into_iter())
            .map(|note| holding(vf(note.number), &note.note))
            .collect(),
        busy: notes(&row.busy),
        kept_back,
        obstacle: None,
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
        promised: 0,
        drained: row.is_drained,
        lent,
        busy: note(&row.busy),
        kept_back: note(&row.withheld),
        obstacle: None,
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

/// Why nothing can be had of it, with what to do where that is a command.
fn obstacle(row: &Row) -> Option<String> {
    let obstacle = row.obstacle()?;
    Some(match row.remedy() {
        Some(remedy) => format!("{obstacle}; {remedy}"),
        None => obstacle,
    })
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use conf::{DeviceId, NumaPolicy, PciAddress, Spread};
    use pool::{Health, Holder, Members, NetworkSpec, NicInfo, PfInfo, Pool, Request, VfInfo};

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
            from: pool::Source::Anywhere,
            is_promised: false,
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
        assert_eq!(obstacle(&table.rows[0]), None);
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
        assert_eq!(
            obstacle(&table.rows[0]).as_deref(),
            Some("it is down; bring ens1 up: ip link set ens1 up")
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
