//! What a daemon does first: take up what an earlier one left, in this boot or before.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use conf::Uuid;
use qemu::{Guest, GuestEvents, ReconnectError};
use records::Loaded;

use crate::daemon::Daemon;
use crate::fault;
use crate::guest::{DomainRecord, GuestHandle, MoveRecord, Request, Step};

/// For a process to end whose start was broken off. One that waits for the kernel keeps nobody
/// else's daemon from listening.
const STRAY_DEADLINE: Duration = Duration::from_secs(10);

/// A guest whose process was found.
struct FoundGuest {
    record: DomainRecord,
    machine: Guest,
    events: GuestEvents,
}

impl Daemon {
    /// Guests whose processes are there, then the devices of the others, then networks that run, with
    /// the ports of the guests that are there, then definitions. Nobody's monitor is waited for.
    pub(crate) async fn take_up(self: &Arc<Self>) -> io::Result<()> {
        let mut found = Vec::new();
        let moves = self.moves()?;
        for record in self.guest_records()? {
            let moved = moves.get(&record.uuid);
            found.extend(self.find_guest(record, moved).await);
        }
        let running: HashSet<Uuid> = found.iter().map(|found| found.record.uuid).collect();
        for moved in moves.values() {
            if !running.contains(&moved.guest) && !self.barred.may_be(moved.guest) {
                self.end_move(moved);
            }
        }
        self.bar_unrecorded(&running);
        // What a guest has of which nobody knows stays with it: it may run.
        let may_run = |guest| running.contains(&guest) || self.barred.may_be(guest);
        tokio::task::block_in_place(|| self.lender.recover(may_run));
        tokio::task::block_in_place(|| self.restore_drained())?;
        // What runs comes before what a file says of it by now.
        self.restore_networks(may_run).await?;
        self.load_networks().await?;
        let definitions = self.find_guest_definitions()?;
        for found in found {
            let moved = moves.get(&found.record.uuid);
            self.take_up_guest(found.record, found.machine, found.events, moved);
        }
        self.take_guests_in(definitions).await;
        self.sweep_host_access();
        let may_run = |guest| running.contains(&guest) || self.barred.may_be(guest);
        if let Err(error) = qemu::sweep_run_dirs(&self.paths.guests(), may_run) {
            tracing::warn!(%error, "directories of guests that are gone may stay");
        }
        self.keep_promises();
        self.follow_host();
        let daemon = Arc::clone(self);
        // On a host with thousands of VFs it takes its time, and nobody waits for it.
        tokio::task::spawn_blocking(move || daemon.tell_differences());
        Ok(())
    }

    /// Starts, once a boot, the networks and guests that are to start with the host. What was stopped
    /// since is to stay so.
    pub(crate) async fn autostart(self: &Arc<Self>) {
        let marker = self.paths.autostarted();
        let boot = self.host.boot_id().unwrap_or_default();
        let done = records::read_file(&marker, 1024);
        if done.is_ok_and(|done| done == boot.as_bytes()) {
            tracing::info!("what is marked for it was started with the host by an earlier daemon");
            return;
        }
        self.autostart_networks().await;
        for handle in self.guests.all() {
            if handle.view().autostart && !handle.is_active() {
                autostart_guest(&handle).await;
            }
        }
        if let Err(error) = records::replace_file(&marker, boot.as_bytes()) {
            tracing::warn!(%error, "all of it may be started with the host once more");
        }
        tracing::info!("what is marked for it was started with the host");
    }

    /// Definitions that were put there by hand.
    pub(crate) async fn read_new_definitions(self: &Arc<Self>) {
        let read = self.load_networks().await;
        match read.and_then(|()| self.find_guest_definitions()) {
            Ok(definitions) => {
                self.take_guests_in(definitions).await;
                tracing::info!("read the definitions that were added");
            }
            Err(error) => tracing::error!(%error, "can't read definitions"),
        }
    }

    /// What records tell of guests, one a guest. Guests of those that can't be read are barred.
    fn guest_records(&self) -> io::Result<Vec<DomainRecord>> {
        let mut records = BTreeMap::new();
        let (mut renamed, mut unreadable) = (Vec::new(), Vec::new());
        let loaded = self.records.domains.load::<DomainRecord>();
        for loaded in loaded.map_err(io::Error::other)? {
            match loaded {
                Loaded::Good { id, record, .. } if id == record.uuid.to_string() => {
                    records.insert(record.uuid, record);
                }
                Loaded::Good { id, record, .. } => renamed.push((id, record)),
                Loaded::OtherBoot { .. } => {}
                Loaded::Unreadable(error) => unreadable.push(error),
            }
        }
        for (id, record) in renamed {
            let own = record.uuid.to_string();
            if unreadable.iter().any(|error| error.id == own) {
                // Whether it is as new as that one was, a person may know.
                let guest = record.name;
                tracing::warn!(
                    file = id,
                    guest,
                    "a record beside its damaged one is left alone"
                );
                continue;
            }
            match records.entry(record.uuid) {
                Entry::Occupied(_) => {
                    tracing::warn!(
                        file = id,
                        guest = record.name,
                        "a copy of its record is left"
                    );
                }
                Entry::Vacant(entry) => {
                    tracing::warn!(file = id, guest = record.name, "its record was renamed");
                    let put_back = self.records.domains.write(record.uuid, &record);
                    if let Err(error) = put_back.and_then(|()| self.records.domains.remove(&id)) {
                        tracing::error!(file = id, %error, "its record keeps a name that isn't its own");
                    }
                    entry.insert(record);
                }
            }
        }
        for record in unreadable {
            self.barred.bar(&record);
        }
        Ok(records.into_values().collect())
    }

    /// A recorded guest, if its process is there. Without one the record goes: the journal knows what
    /// is to be given back. Its monitor is not waited for.
    async fn find_guest(
        &self,
        record: DomainRecord,
        moved: Option<&MoveRecord>,
    ) -> Option<FoundGuest> {
        let leaves = moved.filter(|moved| moved.ends_here());
        let process = record.guest.as_ref().filter(|_| leaves.is_none());
        let Some(process) = process else {
            match leaves.map(|moved| moved.step) {
                Some(Step::Left) => {
                    tracing::info!(guest = record.name, "it has left: ending it here")
                }
                Some(_) => tracing::warn!(
                    guest = record.name,
                    "its move here was broken off; undoing it"
                ),
                None => tracing::warn!(guest = record.name, "its start was broken off; undoing it"),
            }
            let run_dir = self.paths.guest(record.uuid);
            let ended = self.launcher.kill_stray(record.uuid, &run_dir);
            let reason = match tokio::time::timeout(STRAY_DEADLINE, ended).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("it is there {} s later", STRAY_DEADLINE.as_secs())),
            };
            if let Some(reason) = reason {
                // What it has can't be taken from under it.
                let what = format!(
                    "the process of guest '{}', whose start or move was broken off, can't be ended: {reason}",
                    record.name
                );
                self.barred.bar_unknown(record.uuid, what);
                return None;
            }
            self.drop_guest_record(record.uuid);
            return None;
        };
        match self.launcher.reconnect(process, Duration::ZERO).await {
            Ok((machine, events)) => Some(FoundGuest {
                record,
                machine,
                events,
            }),
            Err(error @ ReconnectError::Unknown { .. }) => {
                self.barred.bar_unknown(record.uuid, fault::chain(&error));
                None
            }
            Err(error) => {
                tracing::warn!("{}", fault::chain(&error));
                self.drop_guest_record(record.uuid);
                None
            }
        }
    }

    /// Bars guests that have a process and no record of it: somebody removed that, or put an old one in
    /// its place.
    fn bar_unrecorded(&self, running: &HashSet<Uuid>) {
        let strays = tokio::task::block_in_place(|| self.launcher.strays(&self.paths.guests()));
        let strays = strays.unwrap_or_else(|error| {
            tracing::warn!(%error, "guests without a record are not looked for");
            Vec::new()
        });
        for (guest, pid) in strays {
            if !running.contains(&guest) && !self.barred.may_be(guest) {
                let what =
                    format!("process {pid} is that of guest {guest}, of which there is no record");
                self.barred.bar_unknown(guest, what);
            }
        }
    }

    /// Nothing of a guest that was moving here stays, and of one that has left only its definition.
    fn end_move(&self, moved: &MoveRecord) {
        if moved.made_definition
            && let Err(error) = self.domain_store.remove(&moved.name)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::error!(guest = moved.name, %error, "the definition that it got here stays");
        }
        if let Err(error) = self.records.moves.discard(moved.guest) {
            let (guest, error) = (&moved.name, fault::chain(&error));
            tracing::warn!(guest, error, "the record of its move stays for now");
        }
    }

    fn drop_guest_record(&self, uuid: Uuid) {
        if let Err(error) = self.records.domains.discard(uuid) {
            tracing::warn!(%uuid, error = fault::chain(&error), "its record stays for now");
        }
    }

    /// Says what records, kernel and running guests don't agree about. Mending is asked for.
    fn tell_differences(&self) {
        for difference in self.lender.differences(|guest| self.may_run(guest)) {
            tracing::warn!("{difference}; virtnic reconcile tells more");
        }
    }

    /// Hears of changes on the host from now on, on a thread of its own.
    fn follow_host(self: &Arc<Self>) {
        let events = match self.host.watch() {
            Ok(events) => events,
            Err(error) => {
                tracing::error!(
                    error = fault::chain(&error),
                    "changes on the host go unnoticed"
                );
                return;
            }
        };
        let events = self.follow_devices(events);
        // Not the daemon itself: this goes on until the host says no more.
        let (daemon, lender) = (Arc::downgrade(self), Arc::clone(&self.lender));
        let follow = move || {
            lender.follow(events, |vanished| {
                if let Some(daemon) = daemon.upgrade() {
                    daemon.tell_vanished(&vanished);
                }
            });
        };
        if let Err(error) = std::thread::Builder::new()
            .name("host-events".into())
            .spawn(follow)
        {
            tracing::error!(%error, "changes on the host go unnoticed");
        }
    }
}

async fn autostart_guest(handle: &GuestHandle) {
    let name = &handle.dom().name;
    let start = Request::Start {
        domain: None,
        paused: false,
        autodestroy: None,
    };
    match handle.request(start).await {
        Ok(()) => tracing::info!(guest = name, "started with the host"),
        Err(error) => tracing::error!(guest = name, %error, "not started"),
    }
}
