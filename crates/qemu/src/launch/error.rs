//! Why a guest was not started.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use host::SpawnError;

use crate::{CommandLineError, ExitStatus, QmpError};

/// A guest that was not started; nothing of it is left but its log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// Its document asks for what can't be.
    #[error(transparent)]
    CommandLine(#[from] CommandLineError),
    /// There is no such QEMU.
    #[error(
        "there is no emulator {}\nInstall QEMU (Debian: qemu-system-x86), or correct <emulator>.",
        program.display()
    )]
    NoEmulator {
        /// Where it should be.
        program: PathBuf,
    },
    /// A directory, socket, log or image could not be opened.
    #[error("cannot prepare {}", path.display())]
    Prepare {
        /// Its path.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A path that is no file, and would be waited for.
    #[error(
        "{} is {kind}\nA disk's image, a kernel or a ROM is a file or a block device.",
        path.display()
    )]
    NoFile {
        /// The path.
        path: PathBuf,
        /// What it is, with its article.
        kind: &'static str,
    },
    /// Whoever asked for it gave it up.
    #[error("the start was given up")]
    GivenUp,
    /// It failed or was given up, and its process does not end: what was lent to it can't be taken
    /// back yet.
    #[error("the start failed, and its process {pid} has not ended within {} s", within.as_secs())]
    StillThere {
        /// The process. One that SIGKILL doesn't end waits for the kernel, usually for a device.
        pid: u32,
        /// How long it was given.
        within: Duration,
        /// Why the start failed.
        #[source]
        source: Box<LaunchError>,
    },
    /// The process could not be made.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// QEMU ended before its monitor was there.
    #[error(
        "QEMU refused to start ({}): {}",
        ending(status),
        words_or_log(words, log)
    )]
    Refused {
        /// How it ended.
        status: Option<ExitStatus>,
        /// Its last words in this start.
        words: String,
        /// Its log.
        log: PathBuf,
    },
    /// QEMU runs and can't be controlled; it was killed.
    #[error(
        "QEMU started, but its monitor did not work: {}",
        words_or_log(words, log)
    )]
    Monitor {
        /// Its last words in this start.
        words: String,
        /// Its log.
        log: PathBuf,
        /// What went wrong.
        #[source]
        source: QmpError,
    },
    /// A virtual CPU can't run where it is to; it was killed.
    #[error("virtual CPU {number} can't be pinned to the host's CPUs ({cpus})")]
    Pin {
        /// The virtual CPU.
        number: u32,
        /// The host's CPUs, as the document has them.
        cpus: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A last setting was refused; it was killed.
    #[error("QEMU started, but the guest could not be set going")]
    Setting {
        /// What went wrong.
        #[source]
        source: QmpError,
    },
}

fn ending(status: &Option<ExitStatus>) -> String {
    status.map_or("unknown status".to_owned(), |status| status.to_string())
}

fn words_or_log(words: &str, log: &Path) -> String {
    if words.is_empty() {
        format!("it said nothing; see {}", log.display())
    } else {
        words.to_owned()
    }
}
