//! A guest's end, whoever brought it about, and what follows from it.

use std::sync::Arc;

use qemu::{Exit, ExitReason, GuestEvent, GuestEvents, GuestState, PauseReason};
use rpc::{DomainChange, DomainRebooted, MonitorEvent};

use super::{DomainObject, Running, StopReason, control};
use crate::daemon::Daemon;
use crate::fault::Result;
use crate::sync::lock;

impl Daemon {
    /// Ends a guest, and returns when all that it had is given back.
    pub(crate) async fn destroy_domain(
        self: &Arc<Self>,
        object: &Arc<DomainObject>,
        gracefully: bool,
    ) -> Result<()> {
        let _job = object.job.lock().await;
        let guest = self.guest(object)?;
        let ended = if gracefully {
            guest.destroy_gracefully().await
        } else {
            guest.destroy().await
        };
        let exit = ended.map_err(control::control)?;
        self.clean_up(object, exit).await;
        Ok(())
    }

    /// Ends the guests that were to end with a client's connection.
    pub(crate) fn destroy_guests_of(self: &Arc<Self>, connection: u64) {
        for object in self.domains.all() {
            let its = |running: &Running| running.autodestroy == Some(connection);
            if !lock(&object.state).running.as_ref().is_some_and(its) {
                continue;
            }
            let daemon = Arc::clone(self);
            tokio::spawn(async move {
                if let Err(error) = daemon.destroy_domain(&object, false).await {
                    tracing::error!(guest = object.name, %error, "not ended with its client");
                }
            });
        }
    }

    /// Watches a guest: tells clients what happens to it, and cleans up after it. Where its start
    /// has told already that it runs, the first event of that is not told again.
    pub(super) fn watch_guest(
        self: &Arc<Self>,
        object: &Arc<DomainObject>,
        id: i32,
        mut events: GuestEvents,
        mut is_told: bool,
    ) {
        let (daemon, object) = (Arc::clone(self), Arc::clone(object));
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                // Whoever ended it may have told its end already; nothing comes after that.
                let dom = object.dom();
                if dom.id != id {
                    break;
                }
                match event {
                    GuestEvent::State { from, to } => {
                        let is_known = to == GuestState::Running && std::mem::take(&mut is_told);
                        if !is_known && let Some(change) = change(from, to) {
                            daemon.tell_domain(&object, change);
                        }
                    }
                    GuestEvent::Shutdown { by_guest } => {
                        daemon.tell_domain(&object, shutdown(by_guest));
                    }
                    GuestEvent::Rebooted { .. } => {
                        daemon.events.tell(DomainRebooted { dom });
                    }
                    GuestEvent::Qmp(event) => {
                        daemon.events.tell(MonitorEvent {
                            dom,
                            seconds: event.timestamp.map_or(0, |time| time.seconds),
                            micros: event.timestamp.map_or(0, |time| time.micros),
                            details: details(&event),
                            event: event.name,
                        });
                    }
                    GuestEvent::Exited(exit) => {
                        let _job = object.job.lock().await;
                        if object.dom().id == id {
                            daemon.clean_up(&object, exit).await;
                        }
                    }
                    event => daemon.heed(&object, event),
                }
            }
        });
    }

    /// What QEMU tells and something has to be done about. Done beside: it waits for the guest's
    /// job, and whoever has that may wait for the next event.
    fn heed(self: &Arc<Self>, object: &Arc<DomainObject>, event: GuestEvent) {
        let (daemon, object) = (Arc::clone(self), Arc::clone(object));
        match event {
            GuestEvent::RxFilterChanged { alias } => {
                tokio::spawn(async move { daemon.filter_changed(&object, &alias).await });
            }
            GuestEvent::DeviceDeleted { alias } => {
                tokio::spawn(async move { daemon.device_deleted(&object, &alias).await });
            }
            _ => {}
        }
    }

    /// Takes back what a guest had whose process is gone. Under its job.
    pub(super) async fn clean_up(&self, object: &Arc<DomainObject>, exit: Exit) {
        let borrowed = {
            let status = lock(&object.state);
            let Some(running) = &status.running else {
                return;
            };
            running.borrowed.clone()
        };
        // What fails is logged, and the device kept out of its pool.
        self.give_all_back(object, &borrowed).await;
        let (reason, change) = match exit.reason {
            ExitReason::Shutdown { .. } => (StopReason::Shutdown, DomainChange::StoppedShutdown),
            ExitReason::Destroyed => (StopReason::Destroyed, DomainChange::StoppedDestroyed),
            ExitReason::Crashed => (StopReason::Crashed, DomainChange::StoppedCrashed),
            ExitReason::Died => (StopReason::Crashed, DomainChange::StoppedFailed),
        };
        match exit.status {
            Some(status) => tracing::info!(guest = object.name, ?reason, %status, "stopped"),
            None => tracing::info!(guest = object.name, ?reason, "stopped"),
        }
        let mut status = lock(&object.state);
        status.running = None;
        status.stopped = reason;
        self.forget_domain_if_unused(object, &mut status);
        drop(status);
        self.tell_domain(object, change);
    }
}

/// An event's data, as text.
fn details(event: &qemu::Event) -> Option<String> {
    if event.data.is_empty() {
        return None;
    }
    serde_json::to_string(&event.data).ok()
}

/// A guest is switched off: by itself, or by whoever ended it from outside.
fn shutdown(by_guest: Option<bool>) -> DomainChange {
    match by_guest {
        Some(true) => DomainChange::ShutdownByGuest,
        Some(false) => DomainChange::ShutdownByHost,
        None => DomainChange::ShutdownFinished,
    }
}

/// What clients are told of a change of state; the end is told when all is cleaned up.
fn change(from: GuestState, to: GuestState) -> Option<DomainChange> {
    use GuestState as S;
    match (from, to) {
        // Told by the start itself.
        (S::Paused(PauseReason::Starting), S::Paused(_)) => None,
        // An earlier daemon has told it.
        (S::Unknown, _) | (_, S::Unknown) => None,
        (_, S::Running) => Some(DomainChange::ResumedUnpaused),
        (_, S::Paused(PauseReason::IoError)) => Some(DomainChange::SuspendedIoError),
        (_, S::Paused(PauseReason::Watchdog)) => Some(DomainChange::SuspendedWatchdog),
        (_, S::Paused(PauseReason::Migration)) => Some(DomainChange::SuspendedMigrated),
        (_, S::Paused(_)) => Some(DomainChange::SuspendedPaused),
        // Told with QEMU's own event, which says by whom.
        (_, S::ShuttingDown) => None,
        (_, S::Crashed) => Some(DomainChange::CrashedPanicked),
        (_, S::Asleep) => Some(DomainChange::PmSuspendedMemory),
        (_, S::Ended) => None,
    }
}
