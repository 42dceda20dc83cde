//! What a guest is doing, and how those who watch it learn of it.

use std::sync::Arc;

use tokio::sync::watch;

use crate::events::{Queue, Told};
use crate::{ExitStatus, GuestEvent, GuestEvents, RunState};

/// What a guest is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestState {
    /// Its virtual CPUs run.
    Running,
    /// They are halted.
    Paused(PauseReason),
    /// It switched itself off; its process is about to end, or to start it anew.
    ShuttingDown,
    /// It panicked, and is kept as it was.
    Crashed,
    /// It put itself to sleep (S3).
    Asleep,
    /// Its process is there, and its monitor has not answered since we came to it.
    Unknown,
    /// Its process is gone.
    Ended,
}

/// Why virtual CPUs are halted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PauseReason {
    /// They never ran.
    Starting,
    /// Somebody asked.
    User,
    /// A disk failed.
    IoError,
    /// Its watchdog fired.
    Watchdog,
    /// It is on its way to or from another host or a file.
    Migration,
    /// It switched itself off or crashed, and is to be kept so.
    Preserved,
    /// QEMU says something else.
    Other,
}

impl From<&RunState> for GuestState {
    fn from(state: &RunState) -> Self {
        match state {
            RunState::Running => Self::Running,
            RunState::Shutdown => Self::ShuttingDown,
            RunState::GuestPanicked => Self::Crashed,
            RunState::Suspended => Self::Asleep,
            RunState::PreLaunch => Self::Paused(PauseReason::Starting),
            RunState::Paused => Self::Paused(PauseReason::User),
            RunState::IoError => Self::Paused(PauseReason::IoError),
            RunState::Watchdog => Self::Paused(PauseReason::Watchdog),
            RunState::InMigrate
            | RunState::PostMigrate
            | RunState::FinishMigrate
            | RunState::RestoreVm
            | RunState::SaveVm
            | RunState::Colo => Self::Paused(PauseReason::Migration),
            RunState::Debug | RunState::InternalError | RunState::Other(_) => {
                Self::Paused(PauseReason::Other)
            }
        }
    }
}

/// How a guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Why.
    pub reason: ExitReason,
    /// How its process ended; unknown for one that an earlier daemon started.
    pub status: Option<ExitStatus>,
}

/// Why a guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitReason {
    /// It was switched off: by itself, or by a signal to QEMU or a `quit`.
    Shutdown {
        /// By itself, whether or not somebody had pressed its power button.
        by_guest: bool,
    },
    /// We ended it, as somebody asked.
    Destroyed,
    /// It panicked.
    Crashed,
    /// QEMU ended, and nobody had asked it to.
    Died,
}

/// The state of a guest, and everyone who is told of it.
#[derive(Debug)]
pub(crate) struct Observed {
    state: watch::Sender<GuestState>,
    exit: watch::Sender<Option<Exit>>,
    events: Arc<Queue>,
}

impl Observed {
    pub(crate) fn new(state: GuestState) -> (Self, GuestEvents) {
        let (events, receiver) = GuestEvents::new();
        let observed = Self {
            state: watch::Sender::new(state),
            exit: watch::Sender::new(None),
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
