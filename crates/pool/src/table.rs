//! The whole picture behind a choice: each PF and other device of a network, with what stands in
//! the way.

use std::collections::HashMap;
use std::fmt;

use conf::{DeviceId, MacAddress, NetdevName, NumaPolicy};
use serde::{Deserialize, Serialize};

use crate::choose::{Obstacle, Request};
use crate::index::{Home, Standing};
use crate::inventory::{NicInfo, Pf, Pool};
use crate::loans::{Holder, Uses};
use crate::network::{Network, Sharing, Source};

/// What a network has to offer one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The network.
    pub network: String,
    /// Whether it lends whole devices, or shares in them.
    pub sharing: Sharing,
    /// By PF for VFs, else by device; in the network's order.
    pub rows: Vec<Row>,
    /// Devices that the network lists and that are not there.
    pub missing: Vec<DeviceId>,
    /// It lends the devices that it lists, and not all VFs of its PFs.
    #[serde(default)]
    pub is_list: bool,
}

/// One line of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Row {
    /// The VFs of a PF.
    Pf(PfRow),
    /// A device that is no VF.
    Nic(NicRow),
}

/// A PF's share in a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PfRow {
    /// The PF's network device, or its address while it is gone.
    pub pf: String,
    /// NUMA node; `None` where the host has none.
    pub numa_node: Option<u16>,
    /// Whether the network lends whole VFs, or shares in them.
    pub sharing: Sharing,
    /// VFs that the network lends from it.
    pub total: usize,
    /// Those that could be had, were the PF itself in order.
    pub free: usize,
    /// Those that are lent whole, to whom; by VF number.
    pub lent: Vec<Note<Holder>>,
    /// Shares in them, whose; by VF number.
    pub shared: Vec<Note<Holder>>,
    /// Those in use by something else, by what; by VF number.
    pub busy: Vec<Note<String>>,
    /// Those kept back, and why; by VF number.
    pub withheld: Vec<Note<String>>,
    /// Numbers of those that have no network device, where the network needs one.
    pub without_netdev: Vec<u16>,
    /// How many VFs it has, and how many it could make.
    pub vfs: (usize, u16),
    /// How many VFs of it guests wait for, which others don't get.
    #[serde(default)]
    pub promised: usize,
    /// It was drained, whatever else is the matter with it.
    #[serde(default)]
    pub is_drained: bool,
    /// Whether it can give one at all.
    pub verdict: Verdict,
}

/// A device that is no VF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicRow {
    /// Which one.
    pub device: DeviceId,
    /// Its name now.
    pub netdev: NetdevName,
    /// NUMA node; `None` where the host has none.
    pub numa_node: Option<u16>,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether the network lends it whole, or shares in it.
    pub sharing: Sharing,
    /// Who has all of it.
    pub lent: Option<Holder>,
    /// Who has a share in it.
    pub shared: Vec<Holder>,
    /// What else uses it.
    pub busy: Option<String>,
    /// Why it is kept back.
    pub withheld: Option<String>,
    /// It is a PF that was drained, whatever else is the matter with it.
    #[serde(default)]
    pub is_drained: bool,
    /// Whether it can be had.
    pub verdict: Verdict,
}

/// A VF, and something about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note<T> {
    /// Which VF.
    pub device: DeviceId,
    /// Its number.
    pub number: u16,
    /// What there is to say.
    pub note: T,
}

/// Whether a PF can give a device, or another device can be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It can.
    Open,
    /// It is in order, and has none left; or it is in use itself.
    NoneFree,
    /// It has no VFs that the network lends.
    NoVfs,
    /// It is not there.
    Gone,
    /// It is administratively down.
    Down,
    /// It was drained: nothing of it is lent any more.
    Drained,
    /// As many VFs as are free are promised to guests that wait for one.
    Promised {
        /// How many.
        count: usize,
    },
    /// Its wire is dead, and the network needs it alive.
    NoCarrier,
    /// It is on another NUMA node, and the network requires the borrower's.
    Far,
    /// The MAC is in use there already.
    MacInUse {
        /// The MAC.
        mac: MacAddress,
        /// By whom.
        guest: String,
    },
}

impl Pool {
    /// What [`Pool::choose`] would weigh; `None` where there is no such network.
    ///
    /// Costs a look at every VF and other device of the network.
    #[must_use]
    pub fn explain(&self, request: &Request<'_>) -> Option<Explanation> {
        let network = self.networks.get(request.network)?;
        Some(self.explanation(network, request))
    }

    pub(crate) fn explanation(&self, network: &Network, request: &Request<'_>) -> Explanation {
        let mut missing = Vec::new();
        let rows = match &network.source {
            Source::Whole(places) => {
                let pfs = places.iter().map(|&place| &self.pfs[place]);
                pfs.map(|pf| {
                    let vfs: Vec<_> = pf.vfs.iter().map(|(n, vf)| (*n, (*vf).into())).collect();
                    Row::Pf(self.pf_row(pf, &vfs, network, request))
                })
                .collect()
            }
            Source::Listed(listed) => {
                let mut parts = Vec::new();
                let mut part_of_pf = HashMap::new();
                for &device in &listed.devices {
                    match self.standing(device).map(|standing| standing.home) {
                        None => missing.push(device),
                        Some(Home::Nic { .. }) => parts.push(Part::Nic(device)),
                        Some(Home::Vf { pf, number }) => {
                            let part = *part_of_pf.entry(pf).or_insert(parts.len());
                            if part == parts.len() {
                                parts.push(Part::Vfs(pf, Vec::new()));
                            }
                            if let Part::Vfs(_, vfs) = &mut parts[part] {
                                vfs.push((number, device));
                            }
                        }
                    }
                }
                (parts.into_iter())
                    .filter_map(|part| self.row(part, network, request))
                    .collect()
            }
        };
        Explanation {
            network: request.network.to_owned(),
            sharing: network.spec.sharing,
            rows,
            missing,
            is_list: matches!(network.source, Source::Listed(_)),
        }
    }

    fn row(&self, part: Part, network: &Network, request: &Request<'_>) -> Option<Row> {
        match part {
            Part::Vfs(pf, mut vfs) => {
                vfs.sort_unstable();
                let row = self.pf_row(&self.pfs[pf], &vfs, network, request);
                Some(Row::Pf(row))
            }
            Part::Nic(device) => {
                let nic = self.nics.get(&device)?;
                let standing = self.standing(device)?;
                Some(Row::Nic(self.nic_row(nic, &standing, network, request)))
            }
        }
    }

    fn pf_row(
        &self,
        pf: &Pf,
        vfs: &[(u16, DeviceId)],
        network: &Network,
        request: &Request<'_>,
    ) -> PfRow {
        let spec = &network.spec;
        let mut row = PfRow {
            pf: pf.netdev.clone(),
            numa_node: pf.numa_node,
            sharing: spec.sharing,
            total: vfs.len(),
            free: 0,
            lent: Vec::new(),
            shared: Vec::new(),
            busy: Vec::new(),
            withheld: Vec::new(),
            without_netdev: Vec::new(),
            vfs: (pf.vfs.len(), pf.max_vfs),
            promised: self.promised.get(&pf.address).copied().unwrap_or(0),
            is_drained: self.drained.contains(&pf.address),
            verdict: Verdict::Open,
        };
        for &(number, device) in vfs {
            let uses = self.uses.get(&device);
            if let Some(Uses::Shared(shares)) = uses {
                let shares = shares.values().cloned();
                (row.shared).extend(shares.map(|holder| Note::new(device, number, holder)));
            }
            let netdev = self.standing(device).and_then(|standing| standing.netdev);
            match uses {
                Some(Uses::Whole(holder)) => {
                    row.lent.push(Note::new(device, number, holder.clone()));
                }
                Some(Uses::Shared(_)) if spec.sharing == Sharing::Exclusive => {}
                _ => {
                    if let Some(reason) = self.withheld.get(&device) {
                        row.withheld.push(Note::new(device, number, reason.clone()));
                    } else if let Some(what) = request.exclude.get(&device) {
                        row.busy.push(Note::new(device, number, what.clone()));
                    } else if spec.needs_netdev && netdev.is_none() {
                        row.without_netdev.push(number);
                    } else {
                        row.free += 1;
                    }
                }
            }
        }
        row.verdict = match self.obstacle(pf, network, request) {
            Some(Obstacle::Gone) => Verdict::Gone,
            Some(Obstacle::Down) => Verdict::Down,
            Some(Obstacle::Drained) => Verdict::Drained,
            _ if row.total == 0 => Verdict::NoVfs,
            Some(Obstacle::NoCarrier) => Verdict::NoCarrier,
            Some(Obstacle::Far) => Verdict::Far,
            _ if row.free == 0 => Verdict::NoneFree,
            Some(Obstacle::Promised(count)) => Verdict::Promised { count },
            Some(Obstacle::MacInUse(mac, guest)) => Verdict::MacInUse { mac, guest },
            None => Verdict::Open,
        };
        debug_assert!(
            row.verdict != Verdict::Far || spec.numa == NumaPolicy::Require,
            "only a required node can rule a PF out"
        );
        row
    }

    fn nic_row(
        &self,
        nic: &NicInfo,
        standing: &Standing,
        network: &Network,
        request: &Request<'_>,
    ) -> NicRow {
        let sharing = network.spec.sharing;
        let (lent, shared) = match self.uses.get(&nic.device) {
            None => (None, Vec::new()),
            Some(Uses::Whole(holder)) => (Some(holder.clone()), Vec::new()),
            Some(Uses::Shared(shares)) => (None, shares.values().cloned().collect()),
        };
        let busy = request.exclude.get(&nic.device).cloned();
        let is_free = standing.is_open()
            && busy.is_none()
            && (sharing == Sharing::Shared || shared.is_empty());
        let verdict = match self.nic_obstacle(nic, network, request) {
            Some(Obstacle::NoCarrier) => Verdict::NoCarrier,
            Some(Obstacle::Far) => Verdict::Far,
            _ if !is_free => Verdict::NoneFree,
            Some(Obstacle::MacInUse(mac, guest)) => Verdict::MacInUse { mac, guest },
            Some(Obstacle::Drained) => Verdict::Drained,
            Some(Obstacle::Gone | Obstacle::Down | Obstacle::Promised(_)) | None => Verdict::Open,
        };
        NicRow {
            device: nic.device,
            netdev: nic.netdev,
            numa_node: nic.numa_node,
            up: nic.health.up,
            sharing,
            lent,
            shared,
            busy,
            withheld: self.withheld.get(&nic.device).cloned(),
            is_drained: self.is_drained(nic.device),
            verdict,
        }
    }
}

/// What a row is made of.
enum Part {
    /// A PF by place, and those VFs of it that the network lists.
    Vfs(usize, Vec<(u16, DeviceId)>),
    Nic(DeviceId),
}

impl<T> Note<T> {
    fn new(device: DeviceId, number: u16, note: T) -> Self {
        Self {
            device,
            number,
            note,
        }
    }
}

impl Row {
    /// Whether it can give one at all.
    #[must_use]
    pub fn verdict(&self) -> &Verdict {
        match self {
            Self::Pf(row) => &row.verdict,
            Self::Nic(row) => &row.verdict,
        }
    }

    /// Why nothing can be had of it, whatever is free there.
    #[must_use]
    pub fn obstacle(&self) -> Option<String> {
        match self {
            Self::Pf(row) => match &row.verdict {
                Verdict::NoVfs => Some("it has no VFs".to_owned()),
                verdict => (verdict.fault("it", row.numa_node)).or_else(|| verdict.clash("behind")),
            },
            Self::Nic(row) => {
                let verdict = &row.verdict;
                (verdict.fault("it", row.numa_node)).or_else(|| verdict.clash("on"))
            }
        }
    }

    /// The command that would change that, where there is one.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Pf(row) => row.remedy(),
            Self::Nic(row) => row.remedy(),
        }
    }
}

impl PfRow {
    pub(crate) fn remedy(&self) -> Option<String> {
        match self.verdict {
            Verdict::Down => Some(bring_up(&self.pf)),
            Verdict::Drained => Some(undrain(&self.pf)),
            Verdict::NoVfs => Some(format!(
                "make VFs: echo {} > /sys/class/net/{}/device/sriov_numvfs",
                self.vfs.1.clamp(1, 4),
                self.pf
            )),
            _ => None,
        }
    }
}

impl NicRow {
    pub(crate) fn remedy(&self) -> Option<String> {
        if self.verdict == Verdict::Drained {
            return Some(undrain(self.netdev.as_str()));
        }
        // It is down, and so its carrier is not known, which the network needs.
        (self.verdict == Verdict::NoCarrier && !self.up).then(|| bring_up(self.netdev.as_str()))
    }
}

fn undrain(name: &str) -> String {
    format!("let it lend again: virtnic undrain {name}")
}

fn bring_up(name: &str) -> String {
    format!("bring {name} up: ip link set {name} up")
}

/// How many names a text lists before it counts the rest.
const NAMED: usize = 6;

/// Lists a few, counts the others: `web1, web2 and 30 more`.
pub(crate) fn some<T>(notes: &[T], text: impl Fn(&T) -> String) -> String {
    let named: Vec<_> = notes.iter().take(NAMED).map(text).collect();
    match notes.len() - named.len() {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// What many have in common is said once: `VF 2: it is up, VF 3, VF 4: it is not managed`.
fn by_reason(notes: &[Note<String>]) -> String {
    let mut reasons: Vec<(&str, Vec<u16>)> = Vec::new();
    for note in notes {
        match reasons.iter_mut().find(|(reason, _)| *reason == note.note) {
            Some((_, numbers)) => numbers.push(note.number),
            None => reasons.push((&note.note, vec![note.number])),
        }
    }
    some(&reasons, |(reason, numbers)| {
        format!(
            "{}: {reason}",
            some(numbers, |number| format!("VF {number}"))
        )
    })
}

/// `1 connection`, `3 connections`.
pub(crate) fn connections(count: usize) -> String {
    match count {
        1 => "1 connection".to_owned(),
        count => format!("{count} connections"),
    }
}

impl Verdict {
    /// What is wrong with a PF (`what`: "the PF") or other device ("it"), if it is that.
    fn fault(&self, what: &str, numa_node: Option<u16>) -> Option<String> {
        Some(match self {
            Self::Gone => format!("{what} is not there"),
            Self::Down => format!("{what} is down"),
            Self::Drained => format!("{what} is drained"),
            Self::NoCarrier => format!("{what} has no carrier"),
            Self::Far => match numa_node {
                Some(node) => format!("{what} is on NUMA node {node}, not on the guest's"),
                None => format!("{what} is not on the guest's NUMA node"),
            },
            Self::Promised { count: 1 } => "its last VF is promised to a guest".to_owned(),
            Self::Promised { count } => format!("its last {count} VFs are promised to guests"),
            Self::MacInUse { .. } | Self::Open | Self::NoneFree | Self::NoVfs => return None,
        })
    }

    /// Whose MAC is in the way, if it is that; `place`: behind a PF, or on another device.
    fn clash(&self, place: &str) -> Option<String> {
        let Self::MacInUse { mac, guest } = self else {
            return None;
        };
        Some(format!("MAC {mac} is in use {place} it by guest '{guest}'"))
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pf(row) => row.fmt(f),
            Self::Nic(row) => row.fmt(f),
        }
    }
}

impl fmt::Display for PfRow {
    /// `7 VFs of enp1s0: 6 lent (web1, web2 …), 1 busy (…)`, however many there are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.verdict.fault("the PF", self.numa_node));
        parts.extend(self.verdict.clash("behind"));
        if !self.lent.is_empty() {
            let who = some(&self.lent, |note| note.note.guest.clone());
            parts.push(format!("{} lent ({who})", self.lent.len()));
        }
        match (self.sharing, self.shared.len()) {
            (_, 0) => {}
            (Sharing::Shared, count) => parts.push(connections(count)),
            (Sharing::Exclusive, _) => {
                let mut devices: Vec<_> = self.shared.iter().map(|note| note.device).collect();
                devices.dedup();
                let who = some(&self.shared, |note| note.note.guest.clone());
                parts.push(format!("{} shared ({who})", devices.len()));
            }
        }
        let count = |word: &str, notes: &[Note<String>]| {
            format!("{} {word} ({})", notes.len(), by_reason(notes))
        };
        if !self.busy.is_empty() {
            parts.push(count("busy", &self.busy));
        }
        if !self.withheld.is_empty() {
            parts.push(count("kept back", &self.withheld));
        }
        if !self.without_netdev.is_empty() {
            let which = some(&self.without_netdev, |number| format!("VF {number}"));
            let count = self.without_netdev.len();
            parts.push(format!("{count} without a network device ({which})"));
        }
        if self.free > 0 && self.sharing == Sharing::Exclusive {
            parts.push(format!("{} free", self.free));
        }
        let plural = if self.total == 1 { "VF" } else { "VFs" };
        write!(f, "{} {plural} of {}", self.total, self.pf)?;
        if !parts.is_empty() {
            write!(f, ": {}", parts.join(", "))?;
        }
        Ok(())
    }
}

impl fmt::Display for NicRow {
    /// `enp3s0: 3 connections`, or `enp3s0: no carrier, lent (web1)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        match &self.verdict {
            Verdict::NoCarrier if !self.up => {
                parts.push("down, so that its carrier can't be told".to_owned());
            }
            Verdict::NoCarrier => parts.push("no carrier".to_owned()),
            verdict => {
                parts.extend(verdict.fault("it", self.numa_node));
                parts.extend(verdict.clash("on"));
            }
        }
        if let Some(holder) = &self.lent {
            parts.push(format!("lent ({})", holder.guest));
        }
        match (self.sharing, self.shared.len()) {
            (Sharing::Exclusive, 0) => {}
            (Sharing::Exclusive, _) => {
                let who = some(&self.shared, |holder| holder.guest.clone());
                parts.push(format!("shared ({who})"));
            }
            (Sharing::Shared, 0) if self.lent.is_some() => {}
            (Sharing::Shared, count) => parts.push(connections(count)),
        }
        if let Some(what) = &self.busy {
            parts.push(format!("busy ({what})"));
        }
        if let Some(reason) = &self.withheld {
            parts.push(format!("kept back ({reason})"));
        }
        if parts.is_empty() {
            parts.push("free".to_owned());
        }
        write!(f, "{}: {}", self.netdev, parts.join(", "))
    }
}
