//! What records, kernel and running guests don't agree about, and mending it.

use std::sync::Arc;

use conf::Uuid;
use lending::Ledger;
use rpc::{Difference, Outcome};
use tokio::task::block_in_place;

use crate::daemon::Daemon;
use crate::fault;
use crate::guest::{BarredGuest, Departure, RecordSubject, Request, UnreadRecord};
use crate::network::NetworkHandle;
use crate::registry::Named as _;

/// How a record comes to be unreadable.
const DAMAGED: &str = "a file that was damaged, or that another release wrote";

impl Daemon {
    /// Every difference; with `apply`, those that are safe to mend are mended first, one after the
    /// other.
    pub(in crate::dispatch) async fn reconcile(self: &Arc<Self>, apply: bool) -> Vec<Difference> {
        let mut all = self.missing_records(apply).await;
        all.extend(block_in_place(|| self.compare(apply)));
        all
    }

    /// Running networks, ports and guests of which the next daemon would not know.
    async fn missing_records(self: &Arc<Self>, apply: bool) -> Vec<Difference> {
        let mut missing = Vec::new();
        for network in self.known_networks() {
            // One that is being stopped has no record already: its owner knows.
            let is_missing = block_in_place(|| !self.records.networks.has(network.uuid()));
            if is_missing && let Ok(true) = self.lacks_record(&network).await {
                let written = match apply {
                    true => Some(self.record_running(&network).await),
                    false => None,
                };
                missing.push(missing_record("network", network.name(), None, written));
            }
            missing.extend(block_in_place(|| self.missing_ports(&network, apply)));
        }
        for guest in self.known_guests() {
            // Asked twice: one that is ended meanwhile has none, and is not at rest any more.
            let has_record = || block_in_place(|| self.records.domains.has(guest.uuid()));
            if !guest.is_at_rest() || has_record() || !guest.is_at_rest() {
                continue;
            }
            let written = match apply {
                true => Some(guest.request(Request::record_again()).await),
                false => None,
            };
            let name = guest.name().to_owned();
            missing.push(missing_record("guest", &name, Some(name.clone()), written));
        }
        missing
    }

    fn missing_ports(&self, network: &NetworkHandle, apply: bool) -> Vec<Difference> {
        let mut missing = Vec::new();
        for entry in self.ports_of(network).unwrap_or_default() {
            let port = entry.port.uuid;
            // One that is removed meanwhile has none, and is out of sight.
            if self.records.ports.has(port) || self.port(network, port).is_err() {
                continue;
            }
            let written = apply.then(|| self.record_port_again(network, port));
            let guest = Some(entry.port.owner_name);
            missing.push(missing_record("port", &port.to_string(), guest, written));
        }
        missing
    }

    /// The kernel, the journal and what is barred. Blocks.
    fn compare(&self, apply: bool) -> Vec<Difference> {
        // Asked before anything is mended: what such a guest had goes with its record.
        let barred: Vec<_> = (self.barred.all().into_iter())
            .map(|guest| {
                let had = self.had_of_barred(&guest);
                (self.barred_difference(&guest, apply), had)
            })
            .collect();
        let barred = barred.into_iter().flat_map(|(guest, had)| {
            let had: Vec<_> = (had.into_iter().map(|one| with_its_guest(one, &guest))).collect();
            std::iter::once(guest).chain(had)
        });
        let barred: Vec<_> = barred.collect();
        let unread = self.barred.unread();
        let unread = unread.iter().map(unread_difference);
        let owed = self.owed_differences(apply);
        let found = self.lender.differences(|guest| self.may_run(guest));
        let told: Vec<_> = barred.iter().map(|one| one.what.clone()).collect();
        let found = found.iter().filter(|one| !told.contains(&one.to_string()));
        let found = found.map(|difference| {
            let outcome = mended(&self.lender, difference, apply);
            self.difference(difference, outcome)
        });
        let of_records = barred.into_iter().chain(unread).chain(owed);
        of_records
            .chain(self.lost_between_hosts())
            .chain(found)
            .collect()
    }

    /// Guests of which nobody here can tell on which host they run.
    fn lost_between_hosts(&self) -> Vec<Difference> {
        let guests = self.known_guests().into_iter();
        let lost = guests.filter(|guest| {
            guest
                .view()
                .leaving
                .as_ref()
                .is_some_and(Departure::is_unknown)
        });
        lost.map(|guest| {
            let name = guest.name();
            Difference {
                device: None,
                guest: Some(name.to_owned()),
                what: format!(
                    "guest '{name}' was being moved, and nobody here can tell on which host it runs: it is \
                     halted here with all that it has"
                ),
                cause: "who was moving it, or a virtnicd, ended in the middle".to_owned(),
                remedy: format!(
                    "look at the other host; if it does not run there: virtnic migrate-resolve {name} --here, if it \
                     does: virtnic migrate-resolve {name} --there"
                ),
                safe: false,
                outcome: Outcome::Left,
            }
        })
        .collect()
    }

    /// Records that could not be written or removed; told while that is so.
    fn owed_differences(&self, apply: bool) -> Vec<Difference> {
        let kinds = [
            ("network", &self.records.networks),
            ("port", &self.records.ports),
            ("guest", &self.records.domains),
            ("the move of guest", &self.records.moves),
        ];
        let left = kinds.into_iter().flat_map(|(kind, records)| {
            let left = records.retry_owed().into_iter();
            left.map(move |(id, error)| (kind, id, error))
        });
        left.map(|(kind, id, error)| {
            let reason = error.source.to_string();
            Difference {
                device: None,
                guest: None,
                what: format!(
                    "the record of {kind} {id} is not what is so by now: '{}'",
                    error.path.display()
                ),
                cause: format!("virtnicd can't {} it: {reason}", error.action),
                remedy: format!(
                    "the next virtnicd would take it for true: see to it that this one can {} the \
                     file (is the file system read-only?), and it does",
                    error.action
                ),
                safe: true,
                outcome: if apply {
                    Outcome::Failed(reason)
                } else {
                    Outcome::Left
                },
            }
        })
        .collect()
    }

    /// Whether what a guest has is its own. One with a job under way may have been started by the time
    /// that it is asked about, and of a barred one nobody knows.
    pub(crate) fn may_run(&self, guest: Uuid) -> bool {
        let handle = self.guests.by_uuid(guest);
        handle.is_some_and(|handle| handle.is_active() || handle.is_busy())
            || self.barred.may_be(guest)
    }

    /// A guest whose record can't be read. If it has no process, what it had can be taken back.
    fn barred_difference(&self, guest: &BarredGuest, apply: bool) -> Difference {
        let process = self.launcher.find_stray(guest.uuid);
        let name = match self.guests.by_uuid(guest.uuid) {
            Some(handle) => handle.name().to_owned(),
            None => guest.uuid.to_string(),
        };
        let safe = matches!(process, Ok(None));
        let remedy = match &process {
            Ok(Some(pid)) => format!(
                "it runs as process {pid}: shut it down from inside, or end that process; then \
                 virtnic reconcile --apply takes back what it had"
            ),
            Ok(None) => {
                "it has no process: virtnic reconcile --apply removes the record and takes \
                         back what it had"
                    .to_owned()
            }
            Err(error) => format!("look for its process, which could not be done here: {error}"),
        };
        let (outcome, remedy) = if apply && safe {
            match self.admit_barred(guest) {
                Ok(()) => {
                    let done = "it had no process: its record was removed, and what it had was \
                                taken back";
                    (Outcome::Mended, done.to_owned())
                }
                Err(reason) => {
                    let by_hand = "see to what is in the way, by hand if need be, and ask again: what it \
                                   had is given back as far as that went";
                    (Outcome::Failed(reason), by_hand.to_owned())
                }
            }
        } else {
            (Outcome::Left, remedy)
        };
        Difference {
            device: None,
            guest: Some(name),
            what: guest.what.clone(),
            cause: DAMAGED.to_owned(),
            remedy,
            safe,
            outcome,
        }
    }

    /// What is different about the devices of a barred guest.
    fn had_of_barred(&self, guest: &BarredGuest) -> Vec<Difference> {
        let lines = self.lender.of_guest(guest.uuid);
        let is_its = |name: &str| lines.iter().any(|line| line.holder.name == name);
        let found = self.lender.differences(|guest| self.may_run(guest));
        let found = found.iter().map(|one| self.difference(one, Outcome::Left));
        found
            .filter(|one| one.guest.as_deref().is_some_and(is_its))
            .collect()
    }

    /// Takes back all that a barred guest without a process had, and removes its record.
    fn admit_barred(&self, guest: &BarredGuest) -> Result<(), String> {
        for line in self.lender.of_guest(guest.uuid) {
            (self.lender.give_back(line.generation))
                .map_err(|error| crate::fault::chain(&error))?;
            if let Some(port) = line.holder.port {
                self.end_port_anywhere(port);
            }
        }
        let removed = self.records.domains.remove(&guest.record);
        removed.map_err(|error| crate::fault::chain(&error))?;
        self.barred.admit(guest.uuid);
        Ok(())
    }

    fn difference(&self, difference: &assign::Difference, outcome: Outcome) -> Difference {
        let outcome = match difference {
            assign::Difference::Detached { .. } => Outcome::Meant,
            _ => outcome,
        };
        Difference {
            device: device_of(difference),
            guest: self.guest_of(difference),
            what: difference.to_string(),
            cause: difference.cause().to_owned(),
            remedy: match outcome {
                Outcome::Mended => difference.done().to_owned(),
                Outcome::Left | Outcome::Failed(_) | Outcome::Meant => difference.remedy(),
            },
            safe: difference.is_safe(),
            outcome,
        }
    }

    /// The name of the guest that it is about; the uuid of one that is not known any more.
    fn guest_of(&self, difference: &assign::Difference) -> Option<String> {
        use assign::Difference as D;
        match difference {
            D::OrphanedLink { guest, .. } => Some(match self.guests.by_uuid(*guest) {
                Some(object) => object.name().to_owned(),
                None => guest.to_string(),
            }),
            D::LinkMissing { guest, .. }
            | D::DeviceMissing { guest, .. }
            | D::Changed { guest, .. }
            | D::NoGuest { guest, .. }
            | D::Dirty { guest, .. }
            | D::NoRecord { guest, .. } => Some(guest.clone()).filter(|guest| !guest.is_empty()),
            D::UnusedVlan { .. }
            | D::UnreadableRecord { .. }
            | D::Detached { .. }
            | D::NotDetached { .. }
            | D::OnVfio { .. }
            | D::LeftSettings { .. }
            | D::Unknown { .. } => None,
        }
    }
}

/// A record that somebody removed, and what came of writing it again, if that was asked for.
fn missing_record(
    kind: &str,
    name: &str,
    guest: Option<String>,
    written: Option<fault::Result<()>>,
) -> Difference {
    let (outcome, remedy) = match written {
        Some(Ok(())) => (Outcome::Mended, "it was written again"),
        Some(Err(error)) => {
            let why = error.message().to_owned();
            (Outcome::Failed(why), "write it again")
        }
        None => (Outcome::Left, "write it again"),
    };
    Difference {
        device: None,
        guest,
        what: format!(
            "the record of {kind} {name} is not there: the next virtnicd would not know of it"
        ),
        cause: "somebody removed it".to_owned(),
        remedy: remedy.to_owned(),
        safe: true,
        outcome,
    }
}

/// A record that says nothing, not even of whom. Mending it takes somebody who knows.
fn unread_difference(record: &UnreadRecord) -> Difference {
    let remedy = match record.subject {
        RecordSubject::Guest => {
            "no guest's devices are taken back until it is known whose it was: look for a QEMU that \
             virsh list does not show, end it, remove the record and start virtnicd again"
        }
        RecordSubject::Network => {
            "the network counts as inactive; its guests and its ports keep what they have: remove \
             the record, and start the network"
        }
        RecordSubject::Port => {
            "what a guest has is listed by virtnic who all the same; a port that was made without \
             a guest holds its device no more: remove the record, and make the port again"
        }
    };
    Difference {
        device: None,
        guest: None,
        what: record.what.clone(),
        cause: DAMAGED.to_owned(),
        remedy: remedy.to_owned(),
        safe: false,
        outcome: Outcome::Left,
    }
}

/// A difference of what a barred guest has: it ends when that is taken back, and not otherwise.
fn with_its_guest(one: Difference, guest: &Difference) -> Difference {
    let remedy = match (&guest.outcome, guest.safe) {
        (Outcome::Mended, _) => "it was taken back with all that its guest had",
        (_, true) => "virtnic reconcile --apply takes it back with all that its guest had",
        (_, false) => "it is taken back with all that its guest had, once that is known to be gone",
    };
    Difference {
        remedy: remedy.to_owned(),
        safe: guest.safe,
        outcome: guest.outcome.clone(),
        ..one
    }
}

/// Mends a difference, if that is asked for and safe.
fn mended(ledger: &Ledger, difference: &assign::Difference, apply: bool) -> Outcome {
    if !apply || !difference.is_safe() {
        return Outcome::Left;
    }
    match ledger.mend(difference) {
        Ok(()) => Outcome::Mended,
        Err(error) => Outcome::Failed(fault::chain(&error)),
    }
}

/// What it is about: a PCI function, a network device, or a claim.
fn device_of(difference: &assign::Difference) -> Option<String> {
    use assign::Difference as D;
    match difference {
        D::OrphanedLink { netdev, .. }
        | D::UnusedVlan { netdev, .. }
        | D::LinkMissing { netdev, .. } => Some(netdev.to_string()),
        D::DeviceMissing { item, .. }
        | D::Changed { item, .. }
        | D::NoGuest { item, .. }
        | D::Dirty { item, .. }
        | D::NoRecord { item, .. } => {
            let detached = item.detached().map(|address| address.to_string());
            item.device().map(|device| device.to_string()).or(detached)
        }
        D::UnreadableRecord { item, .. } => Some(item.to_string()),
        D::Detached { address, .. }
        | D::NotDetached { address, .. }
        | D::OnVfio { address, .. }
        | D::LeftSettings { address, .. } => Some(address.to_string()),
        D::Unknown { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use assign::{Holder, MacvtapPreparation, Origin, Preparation, Vhost};
    use conf::{DirectMode, MacAddress};
    use host::{Fault, Links as _, Operation, SimulatedHost, TapQueues};
    use lending::{Share, device_named};

    use super::*;

    const EBUSY: i32 = 16;
    const MAC: MacAddress = MacAddress::new([0x52, 0x54, 0, 0, 0, 1]);

    /// A macvtap that an earlier daemon made, and whose record is gone; and the next daemon's ledger.
    fn orphaned() -> (SimulatedHost, Ledger, tempfile::TempDir) {
        let host = SimulatedHost::new("pfs=1,vfs=1".parse().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let journal = dir.path().join("devices");
        let open = || Ledger::open(Arc::new(host.clone()), journal.clone(), None).unwrap();
        let before = open();
        let holder = Holder {
            guest: Uuid::from_u128(1),
            name: "web".to_owned(),
            network: None,
            port: None,
            mac: Some(MAC),
            alias: None,
            attachment: None,
        };
        let sim0 = device_named(&host, "sim0").unwrap();
        let claim = (before.claim(Share::Part(sim0), &holder, Origin::Interface)).unwrap();
        let macvtap = MacvtapPreparation {
            lower: "sim0".parse().unwrap(),
            mode: DirectMode::Bridge,
            name: None,
            mac: MAC,
            vf: None,
            vlan: None,
            queues: TapQueues {
                count: 1,
                vnet_hdr: true,
            },
            vhost: Vhost::Never,
            mtu: None,
            bandwidth: None,
            all_multicast: false,
            profile: None,
        };
        let prepared = before.prepare(claim, &Preparation::Macvtap(macvtap), None);
        // As at a crash, nothing is given back.
        let lent = prepared.unwrap();
        drop((lent, before));
        for record in fs::read_dir(&journal).unwrap() {
            let path = record.unwrap().path();
            if path.extension().is_some_and(|ext| ext == "json") {
                fs::remove_file(path).unwrap();
            }
        }
        let after = open();
        (host, after, dir)
    }

    #[test]
    fn an_orphan_is_removed_only_if_that_is_asked_for() {
        let (host, ledger, _dir) = orphaned();
        let found = ledger.differences(|_| false);
        let [orphan] = &*found else {
            panic!("{found:?}")
        };
        assert_eq!(device_of(orphan).as_deref(), Some("macvtap0"));
        assert_eq!(mended(&ledger, orphan, false), Outcome::Left);
        assert!(host.netdev("macvtap0").is_ok());
        assert_eq!(mended(&ledger, orphan, true), Outcome::Mended);
        assert!(host.netdev("macvtap0").is_err());
        assert_eq!(ledger.differences(|_| false), []);
    }

    #[test]
    fn what_a_running_guest_may_need_is_left_alone() {
        let (host, ledger, _dir) = orphaned();
        let found = ledger.differences(|_| true);
        assert_eq!(mended(&ledger, &found[0], true), Outcome::Left);
        assert!(host.netdev("macvtap0").is_ok());
    }

    #[test]
    fn a_refusal_of_the_kernel_is_told_and_the_difference_stays() {
        let (host, ledger, _dir) = orphaned();
        let found = ledger.differences(|_| false);
        host.fail(Fault::of(Operation::DeleteLink, EBUSY).always());
        let Outcome::Failed(reason) = mended(&ledger, &found[0], true) else {
            panic!("mended")
        };
        assert!(reason.contains("macvtap0"), "{reason}");
        assert!(reason.contains("busy"), "{reason}");
        assert_eq!(ledger.differences(|_| false), found);
    }
}
