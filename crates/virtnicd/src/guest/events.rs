//! What QEMU tells of a guest: told to clients, and followed.

use std::sync::Arc;

use qemu::{GuestEvent, GuestState, PauseReason};
use rpc::{
    DomainChange, DomainDeviceAdded, DomainDeviceRemovalFailed, DomainDeviceRemoved,
    DomainJobCompleted, DomainLifecycle, DomainMigrationIteration, DomainRebooted, MonitorEvent,
};

use super::moving::Moved;
use super::owner::Owner;

impl Owner {
    pub(super) fn take_event(&mut self, event: GuestEvent) {
        let Some(run) = &self.state.run else {
            return;
        };
        let dom = self.handle.dom_with(run.id);
        match event {
            GuestEvent::State {
                from: GuestState::Unknown,
                ..
            } => self.is_stocked = false,
            GuestEvent::State { from, to } => {
                let is_known = to == GuestState::Running && std::mem::take(&mut self.is_told);
                if !is_known && let Some(change) = change(from, to) {
                    self.tell(change);
                }
            }
            GuestEvent::Rebooted { .. } => {
                // Its next driver negotiates anew.
                self.joins_anew();
                self.daemon.events.tell(DomainRebooted { dom });
            }
            GuestEvent::Shutdown { by_guest } => self.tell(shutdown(by_guest)),
            GuestEvent::RxFilterChanged { alias } => {
                self.filters.insert(alias);
            }
            GuestEvent::DeviceDeleted { alias } => {
                self.deleted.insert(alias);
            }
            GuestEvent::FailoverNegotiated { alias } => {
                tracing::info!(
                    guest = self.handle.name,
                    standby = alias,
                    "failover is negotiated"
                );
                if let Some(run) = &mut self.state.run {
                    Arc::make_mut(run).negotiated.insert(alias);
                }
                self.held_back.clear();
                self.held.clear();
            }
            GuestEvent::UnplugRefused { alias } => {
                self.refused.insert(alias);
            }
            GuestEvent::MigrationPass(iteration) => {
                (self.daemon.events).tell(DomainMigrationIteration { dom, iteration });
            }
            GuestEvent::DevicesChanged => self.is_stocked = false,
            GuestEvent::Qmp(event) => {
                self.daemon.events.tell(MonitorEvent {
                    dom,
                    seconds: event.timestamp.map_or(0, |time| time.seconds),
                    micros: event.timestamp.map_or(0, |time| time.micros),
                    details: details(&event),
                    event: event.name,
                });
            }
            GuestEvent::Exited(exit) => self.is_gone(exit),
            // Who asked for that is told otherwise.
            _ => {}
        }
    }

    /// Tells clients what became of the guest.
    pub(super) fn tell(&self, change: DomainChange) {
        self.daemon.events.tell(DomainLifecycle {
            dom: self.handle.dom(),
            change,
        });
    }

    /// Tells clients how a move of the guest went.
    pub(super) fn tell_moved(&self, moved: &Moved) {
        let params = crate::migration::job_params(5, moved.took, &moved.sent, true);
        let dom = self.handle.dom();
        (self.daemon.events).tell(DomainJobCompleted { dom, params });
    }

    /// Tells clients that a device is out of the guest.
    pub(super) fn tell_removed(&self, dev_alias: String) {
        let dom = self.handle.dom();
        self.daemon
            .events
            .tell(DomainDeviceRemoved { dom, dev_alias });
    }
}

/// News of a guest's devices.
impl Owner {
    pub(super) fn tell_added(&self, dev_alias: String) {
        let dom = self.handle.dom();
        self.daemon
            .events
            .tell(DomainDeviceAdded { dom, dev_alias });
    }

    pub(super) fn tell_kept(&self, dev_alias: String) {
        let dom = self.handle.dom();
        (self.daemon.events).tell(DomainDeviceRemovalFailed { dom, dev_alias });
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
        // An earlier daemon has told it.
        (S::Unknown, _) | (_, S::Unknown) => None,
        // Told by the start itself.
        (S::Paused(PauseReason::Starting), S::Paused(_)) => None,
        (S::Paused(PauseReason::Migration), S::Running) => Some(DomainChange::ResumedMigrated),
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
