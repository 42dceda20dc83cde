//! PFs that are taken out of service: nothing of them is lent any more, and guests part with what they
//! can.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;

use assign::{Assignment, Generation, Item, Phase};
use conf::{DeviceId, NetdevName, PciAddress};
use host::{Netdev, PhysicalFunction};
use lending::{AttachmentState, Creditor, Role};
use records::Loaded;
use rpc::{Code, Domain, DrainReport, Error, StaysOnPf};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::blocking::blocking;
use crate::daemon::Daemon;
use crate::fault::{self, Result};
use crate::guest::{self, GuestHandle};

/// A PF that lends nothing, for the next daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DrainedRecord {
    /// Where it sits.
    pf: PciAddress,
    /// The name of its network device then.
    netdev: String,
}

impl DrainedRecord {
    /// Of this layout; a later one gets another number.
    pub(crate) const FORMAT: u32 = 1;
}

impl Daemon {
    /// Has a PF lend nothing from now on, and takes the VFs of all pairs on it back; what stays.
    pub(crate) async fn drain(self: &Arc<Self>, pf: &str) -> Result<DrainReport> {
        // What can fail comes first.
        let host = self.host.clone();
        let netdevs = blocking(Domain::Network, move || host.netdevs()).await?;
        let netdevs = netdevs.map_err(fault::host(Domain::Network))?;
        let record = self.set_drained(pf, true).await?;
        let refused = self.recall(record.pf).await;
        let above = above(&netdevs, record.pf);
        let lines = self.lender.list();
        let is_on = |line: &&Assignment| {
            (self.is_on(line, record.pf) || stands_on(line, &above).is_some())
                && self.is_with_guest(line)
        };
        let (mut vfs, mut macvtaps) = (Vec::new(), Vec::new());
        for line in lines.iter().filter(is_on) {
            let stays = StaysOnPf {
                what: self.name_of_line(line),
                guest: line.holder.name.clone(),
                why: match stands_on(line, &above) {
                    Some(netdev) => format!(
                        "it is on {netdev}, which is on the PF: it loses its connection unless {netdev} \
                         has another card"
                    ),
                    None => self.why_it_stays(line, &refused),
                },
            };
            match line.item {
                Item::Link(_) if !self.is_on_vf(line) => macvtaps.push(stays),
                _ => vfs.push(stays),
            }
        }
        Ok(DrainReport {
            pf: record.netdev,
            pci_address: record.pf.to_string(),
            vfs,
            macvtaps,
        })
    }

    /// Asks all pairs on a PF for their VFs, at once; those that could not be asked, and why.
    async fn recall(self: &Arc<Self>, pf: PciAddress) -> HashMap<Generation, Error> {
        let mut asked = JoinSet::new();
        for (guest, alias, claim) in self.pairs_on(pf) {
            asked.spawn(async move { (claim, guest::recall(&guest, alias).await) });
        }
        let mut refused = HashMap::new();
        while let Some(answer) = asked.join_next().await {
            // One that broke off has said so in the log, and its VF is told to stay.
            if let Ok((claim, Err(error))) = answer {
                refused.insert(claim, error);
            }
        }
        refused
    }

    /// Why something on a drained PF is still there, and what would have it leave.
    fn why_it_stays(&self, line: &Assignment, refused: &HashMap<Generation, Error>) -> String {
        let refusal = refused.get(&line.generation);
        match (line.item, refusal) {
            (Item::Link(_), _) if !self.is_on_vf(line) => {
                "it stays on the PF, which can be serviced only when the guest is elsewhere"
                    .to_owned()
            }
            _ if self.is_leaving(line) => {
                "the guest was asked to let it go, and has not answered yet".to_owned()
            }
            (_, Some(error)) => error.detail().to_owned(),
            (_, None) => "it is no half of a pair: end the guest, or detach the device".to_owned(),
        }
    }

    /// Has a PF lend again.
    pub(crate) async fn undrain(self: &Arc<Self>, pf: &str) -> Result<()> {
        self.set_drained(pf, false).await.map(drop)
    }

    async fn set_drained(self: &Arc<Self>, pf: &str, drained: bool) -> Result<DrainedRecord> {
        let (daemon, name) = (Arc::clone(self), pf.to_owned());
        blocking(Domain::Network, move || {
            let record = daemon.pf_to_drain(&name, drained)?;
            let what = || format!("can't record whether '{name}' lends");
            let records = &daemon.records.drained;
            let kept = match drained {
                true => records.write(record.pf, &record),
                false => records.remove(record.pf),
            };
            kept.map_err(|error| fault::record(Domain::Network, what())(error))?;
            if daemon.lender.is_drained(record.pf) != drained {
                tracing::info!(pf = record.netdev, drained, "lends, or not");
            }
            daemon.lender.set_drained(record.pf, drained);
            Ok(record)
        })
        .await?
    }

    /// The PF that a person means, by the name of its network device or by its address. One that is not
    /// there can be had to lend again all the same.
    fn pf_to_drain(&self, name: &str, drained: bool) -> Result<DrainedRecord> {
        let record = |pf: PhysicalFunction| DrainedRecord {
            pf: pf.address,
            netdev: pf.netdev,
        };
        if let Ok(address) = name.parse() {
            let pfs = self.host.physical_functions();
            let pfs = pfs.map_err(fault::host(Domain::Network))?;
            if let Some(pf) = pfs.into_iter().find(|pf| pf.address == address) {
                return Ok(record(pf));
            }
            if !drained && self.lender.is_drained(address) {
                return Ok(DrainedRecord {
                    pf: address,
                    netdev: name.to_owned(),
                });
            }
        }
        let found = self.host.physical_function(name);
        found.map(record).map_err(fault::host(Domain::Network))
    }

    /// PFs that an earlier daemon was told not to lend of. Blocks.
    pub(crate) fn restore_drained(&self) -> io::Result<()> {
        let loaded = self.records.drained.load::<DrainedRecord>();
        for loaded in loaded.map_err(io::Error::other)? {
            match loaded {
                Loaded::Good { record, .. } => self.lender.set_drained(record.pf, true),
                Loaded::OtherBoot { .. } => {}
                Loaded::Unreadable(error) => {
                    // Its name says which PF it is about: better lend too little.
                    tracing::error!("{}", fault::chain(&error));
                    if let Ok(pf) = error.id.parse() {
                        self.lender.set_drained(pf, true);
                    }
                }
            }
        }
        Ok(())
    }

    /// VFs of that PF that are halves of running guests' pairs, by alias, and the claims on them.
    fn pairs_on(&self, pf: PciAddress) -> Vec<(Arc<GuestHandle>, String, Generation)> {
        let mut found = Vec::new();
        for guest in self.guests.all() {
            let view = guest.view();
            let attachments = view.run.iter().flat_map(|run| &run.attachments);
            let primaries = attachments.filter(|one| one.role == Role::Primary);
            // What QEMU still has open of one that it let go of comes back by itself.
            let theirs = primaries.filter(|one| one.state != AttachmentState::Owed(Creditor::Host));
            for one in theirs {
                let line = one.claim.and_then(|claim| self.lender.find(claim));
                if let Some(line) = line.filter(|line| self.is_on(line, pf)) {
                    found.push((Arc::clone(&guest), one.alias.clone(), line.generation));
                }
            }
        }
        found
    }

    /// Whether a lent device is a VF of the PF, the PF itself, or something on it.
    fn is_on(&self, line: &Assignment, pf: PciAddress) -> bool {
        let device = line.item.device().or(line.parent);
        let Some(address) = device.and_then(DeviceId::pci) else {
            return false;
        };
        address == pf
            || line.vf.as_ref().is_some_and(|vf| vf.pf_address == pf)
            || self
                .lender
                .pf_of(address)
                .is_some_and(|its| its.address == pf)
    }

    /// Whether it is a macvtap on a VF, which it keeps from being free.
    fn is_on_vf(&self, line: &Assignment) -> bool {
        let parent = line.parent.and_then(DeviceId::pci);
        parent.is_some_and(|parent| self.lender.pf_of(parent).is_some())
    }

    /// Whether a guest can still use it. What one that is off left behind is `virtnic reconcile`'s to tell.
    fn is_with_guest(&self, line: &Assignment) -> bool {
        let is_dirty = matches!(line.phase, Phase::Dirty(_));
        let guest = self.guests.by_uuid(line.holder.guest);
        !is_dirty || guest.is_some_and(|guest| guest.view().run.is_some())
    }

    fn is_leaving(&self, line: &Assignment) -> bool {
        let Some(guest) = self.guests.by_uuid(line.holder.guest) else {
            return false;
        };
        let view = guest.view();
        view.run.as_ref().is_some_and(|run| {
            let mut its = run.attachments.iter();
            its.any(|one| {
                let is_owed = matches!(one.state, AttachmentState::Owed(_));
                one.claim == Some(line.generation) && (one.state.is_leaving() || is_owed)
            })
        })
    }

    fn name_of_line(&self, line: &Assignment) -> String {
        if let (Item::Link(_), Some(netdev)) = (line.item, line.netdev) {
            return netdev.to_string();
        }
        let Some(device) = line.item.device() else {
            return String::new();
        };
        // One that is only claimed was not looked at yet.
        let number = line.vf.as_ref().map(|vf| vf.number);
        let number = number.or_else(|| Some(self.lender.place_of(device)?.1));
        match number {
            Some(number) => format!("VF {number} ({device})"),
            None => device.to_string(),
        }
    }
}

/// The network devices that stand on a PF's: VLAN devices, bonds and bridges, however far up.
fn above(all: &[Netdev], pf: PciAddress) -> BTreeSet<NetdevName> {
    let mut reached: BTreeSet<u32> = (all.iter().filter(|one| one.pci == Some(pf)))
        .map(|one| one.index)
        .collect();
    let mut found = BTreeSet::new();
    loop {
        let masters: BTreeSet<u32> = (all.iter())
            .filter(|one| reached.contains(&one.index))
            .filter_map(|one| one.master)
            .collect();
        let next: Vec<_> = (all.iter())
            .filter(|one| !reached.contains(&one.index))
            .filter(|one| {
                masters.contains(&one.index) || one.lower.is_some_and(|on| reached.contains(&on))
            })
            .collect();
        if next.is_empty() {
            return found;
        }
        found.extend(next.iter().map(|one| one.name));
        reached.extend(next.iter().map(|one| one.index));
    }
}

/// Which of those devices something lent stands on.
fn stands_on(line: &Assignment, above: &BTreeSet<NetdevName>) -> Option<NetdevName> {
    match line.item.device().or(line.parent) {
        Some(DeviceId::Netdev(name)) => above.get(&name).copied(),
        _ => None,
    }
}

/// A MAC as a client gives it.
pub(crate) fn read_mac(mac: Option<&str>) -> Result<Option<conf::MacAddress>> {
    mac.map(str::parse)
        .transpose()
        .map_err(|error| Error::new(Code::InvalidArg, Domain::Qemu, format!("{error}")))
}

#[cfg(test)]
mod tests {
    use records::Records;

    use super::*;

    #[test]
    fn drained_pfs_of_the_first_format_are_read() {
        let golden = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/golden/records/format-1/drained"
        );
        let boot = "51300000-0000-4000-8000-000000000001";
        let records = Records::open(golden, boot, DrainedRecord::FORMAT).unwrap();
        let [Loaded::Good { id, record, .. }] = &records.load::<DrainedRecord>().unwrap()[..]
        else {
            panic!("one good record")
        };
        assert_eq!(*id, record.pf.to_string());
        assert_eq!(record.pf, "0000:01:00.0".parse().unwrap());
        assert_eq!(record.netdev, "sim0");
        // As this release writes it.
        let written = serde_json::to_value(record).unwrap();
        let text = std::fs::read_to_string(format!("{golden}/{id}.json")).unwrap();
        let mut known: serde_json::Value = serde_json::from_str(&text).unwrap();
        let fields = known.as_object_mut().unwrap();
        fields.retain(|name, _| name != "boot" && name != "format");
        assert_eq!(written, known);
    }
}
