//! What is kept of a running guest, so that the next daemon finds it.

use std::io;
use std::path::PathBuf;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::process::Process;
use crate::{Lifecycle, QmpError};

/// Identity of a guest's process, and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestRecord {
    /// The guest's name.
    pub name: String,
    /// The process.
    pub pid: u32,
    /// When it started, clock ticks since boot: tells it from a later process of that number.
    pub start_time: u64,
    /// The boot that it belongs to (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// Its monitor socket.
    pub monitor: PathBuf,
    /// Its log.
    pub log: PathBuf,
    /// What follows its power-off, reboot and crash.
    pub lifecycle: Lifecycle,
}

/// A guest that can't be taken up again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReconnectError {
    /// Its process has ended: what it had can be taken back.
    #[error("guest '{name}' ended while no daemon was watching it")]
    Gone {
        /// The guest.
        name: String,
    },
    /// The record is from before a reboot: neither process nor lent devices are there.
    #[error("the record of guest '{name}' is from before the host's last start")]
    AnotherBoot {
        /// The guest.
        name: String,
    },
    /// Its process lives, and its monitor does not answer. [`GuestRecord::kill`] ends it.
    #[error("guest '{name}' runs as process {pid}, but can't be controlled")]
    Monitor {
        /// The guest.
        name: String,
        /// The process.
        pid: u32,
        /// What went wrong.
        #[source]
        source: QmpError,
    },
    /// The kernel did not say.
    #[error("cannot tell whether guest '{name}' still runs")]
    Unknown {
        /// The guest.
        name: String,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

impl GuestRecord {
    /// Whether its process has certainly ended. Its monitor is not asked.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(
            self.process(),
            Err(ReconnectError::Gone { .. } | ReconnectError::AnotherBoot { .. })
        )
    }

    /// Ends a guest that can't be controlled, with SIGKILL, and waits until it is gone. One that
    /// is gone already is fine.
    pub async fn kill(&self) -> Result<(), ReconnectError> {
        match self.process() {
            Ok(process) => {
                process
                    .signal(Signal::KILL)
                    .map_err(|source| self.unknown(source))?;
                process.ended().await;
                Ok(())
            }
            Err(ReconnectError::Gone { .. } | ReconnectError::AnotherBoot { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The process, if it still runs.
    pub(crate) fn process(&self) -> Result<Process, ReconnectError> {
        let name = || self.name.clone();
        if boot_id().map_err(|source| self.unknown(source))? != self.boot_id {
            return Err(ReconnectError::AnotherBoot { name: name() });
        }
        Process::find(self.pid, self.start_time)
            .map_err(|source| self.unknown(source))?
            .ok_or_else(|| ReconnectError::Gone { name: name() })
    }

    fn unknown(&self, source: io::Error) -> ReconnectError {
        ReconnectError::Unknown {
            name: self.name.clone(),
            source,
        }
    }
}

/// Identity of this boot.
pub(crate) fn boot_id() -> io::Result<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(id.trim().to_owned())
}
