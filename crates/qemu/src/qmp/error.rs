//! What can go wrong between us and QEMU.

use std::io;
use std::time::Duration;

/// A command that was not carried out, or whose outcome is unknown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QmpError {
    /// Nobody listens on the socket, or it can't be reached.
    #[error("cannot connect to QEMU's monitor {path}")]
    Connect {
        /// The socket.
        path: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// QEMU closed the connection: it ended, or it serves someone else.
    #[error("QEMU closed its monitor while '{command}' was waiting for an answer")]
    Closed {
        /// The command without an answer.
        command: String,
    },
    /// No answer in time. QEMU may carry the command out yet.
    #[error("QEMU did not answer '{command}' within {} s", after.as_secs_f32())]
    Deadline {
        /// The command without an answer.
        command: String,
        /// How long it was given.
        after: Duration,
    },
    /// QEMU's own refusal.
    #[error("QEMU refused '{command}': {description}")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's class, such as `GenericError`, `DeviceNotFound` or `CommandNotFound`.
        class: String,
        /// QEMU's words.
        description: String,
    },
    /// An answer of a shape that we don't know.
    #[error("QEMU's answer to '{command}' is not understood")]
    Answer {
        /// The command.
        command: String,
        /// What did not fit.
        #[source]
        source: serde_json::Error,
    },
    /// An answer that is well-formed and says nothing.
    #[error("QEMU's answer to '{command}' makes no sense")]
    Nonsense {
        /// The command.
        command: &'static str,
    },
    /// A raw command that is no QMP command.
    #[error("'{text}' is no QMP command: a JSON object with a member 'execute' is wanted")]
    NotACommand {
        /// Its beginning.
        text: String,
    },
}

impl QmpError {
    /// Whether QEMU doesn't know the device (or netdev, or object) that was named.
    #[must_use]
    pub fn is_device_not_found(&self) -> bool {
        matches!(self, Self::Refused { class, .. } if class == "DeviceNotFound")
    }
}
