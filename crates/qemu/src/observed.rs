//! The state of a guest, and how those who watch it learn of it.

use std::sync::Arc;

use tokio::sync::watch;

use crate::events::{Queue, Told};
use crate::{Exit, GuestEvent, GuestEvents, GuestState, MigrationStatus};

/// The state of a guest, and everyone who is told of it.
#[derive(Debug)]
pub(crate) struct Observed {
    state: watch::Sender<GuestState>,
    exit: watch::Sender<Option<Exit>>,
    migration: watch::Sender<MigrationStatus>,
    events: Arc<Queue>,
}

impl Observed {
    pub(crate) fn new(state: GuestState) -> (Self, GuestEvents) {
        let (events, receiver) = GuestEvents::new();
        let observed = Self {
            state: watch::Sender::new(state),
            exit: watch::Sender::new(None),
            migration: watch::Sender::new(MigrationStatus::None),
            events,
        };
        (observed, receiver)
    }

    pub(crate) fn state(&self) -> GuestState {
        *self.state.borrow()
    }

    /// Changes the state, and says so if it is another one.
    pub(crate) fn become_(&self, to: GuestState) {
        let from = self.state.send_replace(to);
        if from != to {
            self.tell(GuestEvent::State { from, to });
        }
    }

    /// One is about to begin, and what became of an earlier one no longer counts.
    pub(crate) fn begin_migration(&self) {
        self.migration.send_replace(MigrationStatus::Setup);
    }

    /// QEMU tells how far its migration is.
    pub(crate) fn migration_is(&self, status: MigrationStatus) {
        self.migration.send_replace(status);
    }

    pub(crate) fn migration(&self) -> MigrationStatus {
        *self.migration.borrow()
    }

    /// Waits until one has come to its end.
    pub(crate) async fn migrated(&self) -> MigrationStatus {
        let mut status = self.migration.subscribe();
        let ended = status.wait_for(|status| status.is_final()).await;
        // The sender is ours.
        ended.map_or(MigrationStatus::Failed, |status| *status)
    }

    /// Nobody may be listening, which is fine.
    pub(crate) fn tell(&self, event: GuestEvent) -> Told {
        self.events.tell(event)
    }

    pub(crate) fn events(&self) -> &Queue {
        &self.events
    }

    pub(crate) fn end(&self, exit: Exit) {
        self.become_(GuestState::Ended);
        self.tell(GuestEvent::Exited(exit));
        self.events.close();
        self.exit.send_replace(Some(exit));
    }

    pub(crate) fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Waits for the end.
    pub(crate) async fn exited(&self) -> Exit {
        let mut receiver = self.exit.subscribe();
        loop {
            if let Some(exit) = *receiver.borrow_and_update() {
                return exit;
            }
            if receiver.changed().await.is_err() {
                // Can't be: the sender is ours.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until the state is as wanted.
    pub(crate) async fn reached(&self, wanted: impl Fn(GuestState) -> bool) {
        // An error would mean that the sender, which is ours, is gone.
        let _ = self
            .state
            .subscribe()
            .wait_for(|state| wanted(*state))
            .await;
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        self.events.close();
    }
}
