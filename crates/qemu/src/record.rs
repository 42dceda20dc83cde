//! What is kept of a running guest, so that the next daemon finds it.

use std::io;
use std::path::PathBuf;

use host::GuestGroup;
use serde::{Deserialize, Serialize};

use crate::Lifecycle;

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
    /// The pipe that it prints to; `None` of a guest that an earlier release started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<PathBuf>,
    /// The group that it alone has, by which it opens what is lent to it; `None` where it opens it as its
    /// user, as guests of earlier releases do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_group: Option<GuestGroup>,
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
    /// Its process has ended, and another one has its number.
    #[error(
        "guest '{name}' ended while no daemon was watching it: process {pid} is another one now"
    )]
    Impostor {
        /// The guest.
        name: String,
        /// The other process. It is none of ours.
        pid: u32,
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
    pub(crate) fn gone(&self) -> ReconnectError {
        ReconnectError::Gone {
            name: self.name.clone(),
        }
    }

    pub(crate) fn unknown(&self, source: io::Error) -> ReconnectError {
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
