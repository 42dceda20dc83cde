//! PFs that are taken out of service: nothing of them is lent any more, and guests part with what they
//! can.

use std::sync::Arc;

use assign::{Assignment, Item, Kind};
use conf::{DeviceId, PciAddress};
use lending::{AttachmentState, Role};
use records::Loaded;
use rpc::{Code, Domain, DrainReport, Error, StaysOnPf};
use serde::{Deserialize, Serialize};

use crate::blocking::blocking;
use crate::daemon::Daemon;
use crate::fault::{self, Result};
use crate::guest::{self, GuestHandle, Turn};

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
        let record = self.set_drained(pf, true).await?;
        let mut refused = Vec::new();
        for (guest, mac) in self.pairs_on(record.pf) {
            if let Err(error) = guest::turn(&guest, Some(mac), Turn::Demote).await {
                refused.push((guest.dom().uuid, error));
            }
        }
        let lines = self.lender.list();
        let is_on = |line: &&Assignment| self.is_on(line, record.pf);
        let (mut vfs, mut macvtaps) = (Vec::new(), Vec::new());
        for line in lines.iter().filter(is_on) {
            let refusal = refused
                .iter()
                .find(|(guest, _)| *guest == line.holder.guest);
            let stays = StaysOnPf {
                what: self.name_of_line(line),
                guest: line.holder.name.clone(),
                why: match (line.kind, refusal) {
                    (Some(Kind::Macvtap), _) if line.item.device() != Some(record.pf.into()) => {
                        "it stays on the PF, which can be serviced only when the guest is elsewhere"
                            .to_owned()
                    }
                    (_, Some((_, error))) => error.detail().to_owned(),
                    _ if self.is_leaving(line) => {
                        "the guest was asked to let it go, and has not answered yet".to_owned()
                    }
                    _ => "it is no half of a pair: end the guest, or detach the device".to_owned(),
                },
            };
            match line.kind {
                Some(Kind::Macvtap) => macvtaps.push(stays),
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

    /// Has a PF lend again.
    pub(crate) async fn undrain(self: &Arc<Self>, pf: &str) -> Result<()> {
        self.set_drained(pf, false).await.map(drop)
    }

    async fn set_drained(self: &Arc<Self>, pf: &str, drained: bool) -> Result<DrainedRecord> {
        let (daemon, name) = (Arc::clone(self), pf.to_owned());
        blocking(Domain::Network, move || {
            let pf = daemon.host.physical_function(&name);
            let pf = pf.map_err(fault::host(Domain::Network))?;
            let record = DrainedRecord {
                pf: pf.address,
                netdev: pf.netdev,
            };
            let what = || format!("can't record whether '{name}' lends");
            let records = &daemon.records.drained;
            let kept = match drained {
                true => records.write(record.pf, &record),
                false => records.remove(record.pf),
            };
            kept.map_err(|error| fault::record(Domain::Network, what())(error))?;
            daemon.lender.set_drained(record.pf, drained);
            tracing::info!(pf = record.netdev, drained, "lends, or not");
            Ok(record)
        })
        .await?
    }

    /// PFs that an earlier daemon was told not to lend of. Blocks.
    pub(crate) fn restore_drained(&self) {
        let loaded = match self.records.drained.load::<DrainedRecord>() {
            Ok(loaded) => loaded,
            Err(error) => {
                return tracing::error!(%error, "which PFs are drained is not known");
            }
        };
        for loaded in loaded {
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
    }

    /// Running guests with a pair whose VF is of that PF, and the pair's MAC.
    fn pairs_on(&self, pf: PciAddress) -> Vec<(Arc<GuestHandle>, conf::MacAddress)> {
        let mut found = Vec::new();
        for guest in self.guests.all() {
            let view = guest.view();
            let Some(run) = &view.run else {
                continue;
            };
            for one in &run.attachments {
                let line = one.claim.and_then(|claim| self.lender.find(claim));
                let is_on = line.is_some_and(|line| self.is_on(&line, pf));
                let pair = run
                    .attachments
                    .iter()
                    .filter(|other| other.pair == one.pair);
                let mac = pair.filter_map(|half| half.mac).next();
                if one.role == Role::Primary
                    && is_on
                    && let Some(mac) = mac
                {
                    found.push((Arc::clone(&guest), mac));
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

    fn is_leaving(&self, line: &Assignment) -> bool {
        let Some(guest) = self.guests.by_uuid(line.holder.guest) else {
            return false;
        };
        let view = guest.view();
        view.run.as_ref().is_some_and(|run| {
            let mut its = run.attachments.iter();
            its.any(|one| {
                one.claim == Some(line.generation)
                    && matches!(
                        one.state,
                        AttachmentState::Unplugging
                            | AttachmentState::Demoting
                            | AttachmentState::Owed(_)
                    )
            })
        })
    }

    fn name_of_line(&self, line: &Assignment) -> String {
        match (line.item, &line.vf, line.netdev) {
            (_, _, Some(netdev)) => netdev.to_string(),
            (Item::Device(device), Some(vf), _) => format!("VF {} ({device})", vf.number),
            (item, ..) => item
                .device()
                .map_or_else(String::new, |device| device.to_string()),
        }
    }
}

/// A MAC as a client gives it.
pub(crate) fn read_mac(mac: Option<&str>) -> Result<Option<conf::MacAddress>> {
    mac.map(str::parse)
        .transpose()
        .map_err(|error| Error::new(Code::InvalidArg, Domain::Qemu, format!("{error}")))
}
