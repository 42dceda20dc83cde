//! What the PFs and NICs of a network have to lend, in tables: for `net` and for a plan's refusal.

use rpc::{DeviceNote, Holding, NicAbility, PoolRow};
use serde::Serialize;

use crate::output::Table;

/// What a NIC can do for guests, for people.
pub(super) fn ability(ability: &NicAbility) -> String {
    match ability {
        NicAbility::SrIov(count) => format!("SR-IOV, {} of {} VFs", count.vfs, count.max),
        NicAbility::VirtualFunction => "VF".to_owned(),
        NicAbility::MacvlanOffload(true) => "macvlan offload, on".to_owned(),
        NicAbility::MacvlanOffload(false) => "macvlan offload, off".to_owned(),
        NicAbility::Ethernet => "Ethernet".to_owned(),
    }
}

/// One line for each PF and NIC.
pub(super) fn summary(rows: &[PoolRow]) -> Table {
    let with_promised = rows.iter().any(|row| row.promised > 0);
    let with_obstacle = rows.iter().any(|row| row.obstacle.is_some());
    let mut table = Table::new(
        [
            "NIC", "ABILITY", "NODE", "DEVICES", "FREE", "LENT", "BUSY", "PORTS",
        ]
        .into_iter()
        .chain(with_promised.then_some("PROMISED"))
        .chain(with_obstacle.then_some("IN THE WAY")),
    );
    table.align_right(2..=if with_promised { 8 } else { 7 });
    for row in rows {
        let cells = [
            Some(row.name.clone()),
            row.ability.as_ref().map(ability),
            row.numa_node.map(|node| node.to_string()),
            Some(row.total.to_string()),
            Some(row.free.to_string()),
            Some(row.lent.len().to_string()),
            Some((row.busy.len() + row.kept_back.len()).to_string()),
            Some(row.connections.to_string()),
        ];
        let promised = with_promised.then(|| Some(row.promised.to_string()));
        let obstacle = with_obstacle.then(|| row.obstacle.clone());
        table.row(cells.into_iter().chain(promised).chain(obstacle));
    }
    table
}

/// One line for each device that is lent, busy or kept back; none: there is no such device.
/// Devices that were lent by another network than `network` name theirs.
pub(super) fn taken(rows: &[PoolRow], network: Option<&str>) -> Option<Table> {
    let mut table = Table::new(["NIC", "DEVICE", "STATE", "BY"]);
    let mut any = false;
    for row in rows {
        let lent = row.lent.iter().map(|holding| {
            let by = match (&holding.network, network) {
                (None, _) => format!("{} (by itself)", holding.guest),
                (Some(theirs), Some(ours)) if theirs == ours => holding.guest.clone(),
                (Some(theirs), _) => format!("{} (network {theirs})", holding.guest),
            };
            (&holding.device, "lent", by)
        });
        let busy = row
            .busy
            .iter()
            .map(|note| (&note.device, "busy", note.note.clone()));
        let kept_back =
            (row.kept_back.iter()).map(|note| (&note.device, "kept back", note.note.clone()));
        let lines: Vec<_> = lent.chain(busy).chain(kept_back).collect();
        // Many in a row that have the same to tell are one line.
        let is_same = |one: &(&String, &str, String), next: &(&String, &str, String)| {
            one.1 != "lent" && (one.1, &one.2) == (next.1, &next.2)
        };
        for same in lines.chunk_by(is_same) {
            let [(first, state, by), rest @ ..] = same else {
                continue;
            };
            any = true;
            let device = match rest {
                [] => (*first).clone(),
                [.., (last, ..)] => format!("{first} to {last} ({})", same.len()),
            };
            table.row([
                Some(row.name.clone()),
                Some(device),
                Some((*state).to_owned()),
                Some(by.clone()),
            ]);
        }
    }
    any.then_some(table)
}

/// The fields of a [`Row`] in `--json`, for help texts.
pub(super) const ROW_HELP: &str =
    "  name         its network device, or its address while that is gone
  ability      sr-iov, vf, macvlan-offload, ethernet; null while it is gone
  vfs          VFs that it has; null unless it is sr-iov
  max_vfs      VFs that it can make; null unless it is sr-iov
  offload      whether macvlan-offload is switched on; null for other abilities
  numa_node    null where the host has none
  total        devices of it that the network lends: VFs, or the NIC itself
  free         how many of them are free
  connections  guests' interfaces on it, of all networks
  promised     VFs of it that guests wait for, which others don't get
  drained      whether it was drained, so that nothing of it is lent: virtnic undrain NIC
  lent         objects of device, guest and network
  busy         objects of device and note: what the host uses it for
  kept_back    objects of device and note: why
  obstacle     why nothing of it can be had, whatever is free; null if nothing stands in the way";

/// [`PoolRow`] under the names that scripts rely on.
#[derive(Serialize)]
pub(super) struct Row<'a> {
    name: &'a str,
    #[serde(flatten)]
    ability: Ability,
    numa_node: Option<u32>,
    total: u32,
    free: u32,
    connections: u32,
    promised: u32,
    drained: bool,
    lent: Vec<Held<'a>>,
    busy: Vec<Noted<'a>>,
    kept_back: Vec<Noted<'a>>,
    obstacle: Option<&'a str>,
}

/// [`NicAbility`] in fields of its own.
#[derive(Serialize, Default)]
pub(super) struct Ability {
    ability: Option<&'static str>,
    vfs: Option<u32>,
    max_vfs: Option<u32>,
    offload: Option<bool>,
}

#[derive(Serialize)]
struct Held<'a> {
    device: &'a str,
    guest: &'a str,
    network: Option<&'a str>,
}

#[derive(Serialize)]
struct Noted<'a> {
    device: &'a str,
    note: &'a str,
}

impl<'a> From<&'a PoolRow> for Row<'a> {
    fn from(row: &'a PoolRow) -> Self {
        Self {
            name: &row.name,
            ability: row.ability.as_ref().map(Ability::from).unwrap_or_default(),
            numa_node: row.numa_node,
            total: row.total,
            free: row.free,
            connections: row.connections,
            promised: row.promised,
            drained: row.drained,
            lent: row.lent.iter().map(Held::from).collect(),
            busy: row.busy.iter().map(Noted::from).collect(),
            kept_back: row.kept_back.iter().map(Noted::from).collect(),
            obstacle: row.obstacle.as_deref(),
        }
    }
}

impl From<&NicAbility> for Ability {
    fn from(ability: &NicAbility) -> Self {
        let named = |name| Self {
            ability: Some(name),
            ..Self::default()
        };
        match ability {
            NicAbility::SrIov(count) => Self {
                vfs: Some(count.vfs),
                max_vfs: Some(count.max),
                ..named("sr-iov")
            },
            NicAbility::VirtualFunction => named("vf"),
            NicAbility::MacvlanOffload(on) => Self {
                offload: Some(*on),
                ..named("macvlan-offload")
            },
            NicAbility::Ethernet => named("ethernet"),
        }
    }
}

impl<'a> From<&'a Holding> for Held<'a> {
    fn from(holding: &'a Holding) -> Self {
        Self {
            device: &holding.device,
            guest: &holding.guest,
            network: holding.network.as_deref(),
        }
    }
}

impl<'a> From<&'a DeviceNote> for Noted<'a> {
    fn from(note: &'a DeviceNote) -> Self {
        Self {
            device: &note.device,
            note: &note.note,
        }
    }
}
