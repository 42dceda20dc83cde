//! What a guest is doing, and how it ended.

use serde::{Deserialize, Serialize};

use crate::RunState;

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
    /// What ended it.
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

impl std::fmt::Display for ExitReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Shutdown { by_guest: true } => "shut down by itself",
            Self::Shutdown { by_guest: false } => "shut down",
            Self::Destroyed => "destroyed",
            Self::Crashed => "crashed",
            Self::Died => "died",
        })
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// By itself, with that status.
    Code(i32),
    /// By that signal.
    Signal(i32),
}

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}
