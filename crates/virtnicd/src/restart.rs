//! What a daemon does first: take up what an earlier one left, in this boot or before.

use rpc::flags::StartDomain;
use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use conf::Uuid;
use qemu::{Guest, GuestEvents};

use crate::daemon::Daemon;
use crate::domain::{DomainObject, DomainRecord};
use crate::fault;

/// A guest that was found running.
struct Found {
    record: DomainRecord,
    guest: Guest,
    events: GuestEvents,
}

impl Daemon {
    /// Definitions, then guests that run, then the devices of those that don't, then networks with
    /// the ports of the ones that do.
    pub(crate) async fn take_up(self: &Arc<Self>) -> io::Result<()> {
        self.load_networks()?;
        self.load_domains()?;
        let mut found = Vec::new();
        for record in self.records.domains.load::<DomainRecord>()? {
            match record {
                Ok(record) => found.extend(self.find_guest(record).await),
                Err(error) => tracing::error!("{}", fault::chain(&error)),
            }
        }
        let running: HashSet<Uuid> = found.iter().map(|found| found.record.uuid).collect();
        let runs = running.clone();
        self.lender
            .recover(move |guest| runs.contains(&guest))
            .await;
        self.restore_networks(|guest| running.contains(&guest))?;
        for Found {
            record,
            guest,
            events,
        } in found
        {
            self.take_up_guest(record, guest, events);
        }
        self.sweep_host_access();
        self.follow_host();
        let daemon = Arc::clone(self);
        // On a host with thousands of VFs it takes its time, and nobody waits for it.
        tokio::task::spawn_blocking(move || daemon.tell_differences());
        Ok(())
    }

    /// Starts the networks, and once a boot the guests, that are to start with the host.
    pub(crate) async fn autostart(self: &Arc<Self>) {
        tokio::task::block_in_place(|| self.autostart_networks());
        let marker = self.paths.autostarted();
        let boot = self.host.boot_id().unwrap_or_default();
        if std::fs::read_to_string(&marker).is_ok_and(|done| done == boot) {
            return;
        }
        for object in self.domains.all() {
            if self.domain_autostart(&object) && !object.is_active() {
                self.autostart_guest(&object).await;
            }
        }
        if let Err(error) = std::fs::write(&marker, boot) {
            tracing::warn!(%error, "guests may be started with the host once more");
        }
    }

    /// Definitions that were put there by hand.
    pub(crate) fn read_new_definitions(self: &Arc<Self>) {
        let read =
            tokio::task::block_in_place(|| self.load_networks().and_then(|()| self.load_domains()));
        match read {
            Ok(()) => tracing::info!("read the definitions that were added"),
            Err(error) => tracing::error!(%error, "can't read definitions"),
        }
    }

    async fn autostart_guest(self: &Arc<Self>, object: &Arc<DomainObject>) {
        let name = &object.dom().name;
        match self.start_domain(object, StartDomain::NONE, 0).await {
            Ok(()) => tracing::info!(guest = name, "started with the host"),
            Err(error) => tracing::error!(guest = name, %error, "not started"),
        }
    }

    /// The process of a recorded guest, if it still runs. Without one the record goes: the journal
    /// knows what is to be given back.
    async fn find_guest(&self, record: DomainRecord) -> Option<Found> {
        if self.simulated {
            // The simulated host is a new one, and stubs live in the daemon.
            self.drop_domain_record(record.uuid);
            return None;
        }
        let Some(process) = &record.guest else {
            tracing::warn!(guest = record.name, "its start was broken off; undoing it");
            if let Err(error) = qemu::kill_stray(record.uuid).await {
                tracing::error!(
                    guest = record.name,
                    error = fault::chain(&error),
                    "still runs"
                );
            }
            self.drop_domain_record(record.uuid);
            return None;
        };
        match Guest::reconnect(process).await {
            Ok((guest, events)) => {
                tracing::info!(guest = record.name, id = record.id, "found running");
                Some(Found {
                    record,
                    guest,
                    events,
                })
            }
            Err(error @ qemu::ReconnectError::Gone { .. }) => {
                tracing::warn!("{}", fault::chain(&error));
                self.drop_domain_record(record.uuid);
                None
            }
            Err(error) => {
                tracing::error!("{}; ending it", fault::chain(&error));
                if let Err(error) = process.kill().await {
                    tracing::error!("{}", fault::chain(&error));
                }
                self.drop_domain_record(record.uuid);
                None
            }
        }
    }

    fn drop_domain_record(&self, uuid: Uuid) {
        if let Err(error) = self.records.domains.remove(uuid) {
            tracing::warn!(%uuid, %error, "its record stays");
        }
    }

    /// Says what records, kernel and running guests don't agree about. Mending is asked for.
    fn tell_differences(&self) {
        let runs = |guest| {
            self.domains
                .by_uuid(guest)
                .is_some_and(|guest| guest.is_active())
        };
        for difference in self.lender.differences(runs) {
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
        let daemon = Arc::clone(self);
        let follow = move || {
            daemon
                .lender
                .follow(events, |vanished| daemon.tell_vanished(&vanished));
        };
        if let Err(error) = std::thread::Builder::new()
            .name("host-events".into())
            .spawn(follow)
        {
            tracing::error!(%error, "changes on the host go unnoticed");
        }
    }
}
