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

/// What a refusal is about, as far as its class and QEMU's words tell. The words may change with
/// QEMU, so nothing rests on them but what is said to a person or tried once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusalKind {
    /// There is no such device, netdev or object.
    DeviceNotFound,
    /// This QEMU doesn't have the command.
    CommandNotFound,
    /// A device is where the new one is to be.
    SlotInUse,
    /// The controller that a device is to be on isn't there.
    BusNotFound,
    /// The controller is there, and takes no device while the guest runs, or no further one.
    BusTakesNone,
    /// There is a device of that name.
    NameTaken,
    /// A virtio card has, or remembers, another primary: see [`crate::SimulatedGuest`].
    OtherPrimary,
    /// The guest was asked for the device before, and has not answered.
    UnplugInProgress,
    /// The guest is busy with the slot: it may be asked again in a few seconds.
    GuestBusy,
    /// The guest holds the tray locked.
    TrayLocked,
    /// Something uses the node, or the file behind it.
    InUse,
    /// Something else.
    Other,
}

/// QEMU's words by which refusals of class `GenericError` are told apart; all of a line have to be
/// there. As of QEMU 10: `system/qdev-monitor.c`, `hw/pci/pci.c`, `hw/pci/pcie.c`,
/// `hw/net/virtio-net.c`, `block/qapi-system.c`, `blockdev.c`.
const WORDS: [(RefusalKind, &[&str]); 14] = [
    (
        RefusalKind::UnplugInProgress,
        &["already in the process of unplug"],
    ),
    (
        RefusalKind::GuestBusy,
        &["Hot-unplug failed: guest is busy"],
    ),
    (
        RefusalKind::OtherPrimary,
        &["Cannot attach more than one primary device"],
    ),
    (RefusalKind::SlotInUse, &["PCI: slot", "not available"]),
    (RefusalKind::SlotInUse, &["PCI: slot", "already occupied"]),
    (RefusalKind::BusNotFound, &["Bus '", "not found"]),
    (RefusalKind::BusTakesNone, &["Bus '", "is full"]),
    (RefusalKind::BusTakesNone, &["does not support hotplugging"]),
    (RefusalKind::NameTaken, &["Duplicate device ID"]),
    (RefusalKind::NameTaken, &["Duplicate nodes with node-name"]),
    (RefusalKind::TrayLocked, &["Tray of device", "is not open"]),
    (
        RefusalKind::TrayLocked,
        &["is locked and force was not specified"],
    ),
    (RefusalKind::InUse, &["Node", "is in use"]),
    (RefusalKind::InUse, &["Block device", "is in use"]),
];

impl QmpError {
    /// Whether QEMU doesn't know the device (or netdev, or object) that was named.
    #[must_use]
    pub fn is_device_not_found(&self) -> bool {
        self.refusal() == Some(RefusalKind::DeviceNotFound)
    }

    /// What QEMU refused for; `None`: it is no refusal.
    #[must_use]
    pub fn refusal(&self) -> Option<RefusalKind> {
        let Self::Refused {
            class, description, ..
        } = self
        else {
            return None;
        };
        Some(match class.as_str() {
            "DeviceNotFound" => RefusalKind::DeviceNotFound,
            "CommandNotFound" => RefusalKind::CommandNotFound,
            _ => {
                let mut known = WORDS.iter();
                let are_there =
                    |words: &[&str]| words.iter().all(|word| description.contains(word));
                let found = known.find(|(_, words)| are_there(words));
                found.map_or(RefusalKind::Other, |(kind, _)| *kind)
            }
        })
    }

    /// Whether the command may have been carried out, or may be yet: QEMU did not answer.
    #[must_use]
    pub fn is_uncertain(&self) -> bool {
        match self {
            Self::Closed { .. } | Self::Deadline { .. } | Self::Answer { .. } => true,
            Self::Nonsense { .. } => true,
            Self::Connect { .. } | Self::Refused { .. } | Self::NotACommand { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(class: &str, words: &str) -> Option<RefusalKind> {
        let error = QmpError::Refused {
            command: "device_add".to_owned(),
            class: class.to_owned(),
            description: words.to_owned(),
        };
        assert!(!error.is_uncertain());
        assert!(error.to_string().contains(words), "QEMU's reason is shown");
        error.refusal()
    }

    #[test]
    fn refusals_are_told_apart_by_class_and_words() {
        for (words, expected) in [
            (
                "PCI: slot 0 function 0 not available for vfio-pci, in use by virtio-net-pci,id=net0",
                RefusalKind::SlotInUse,
            ),
            (
                "PCI: slot 0 function 0 already occupied by e1000e, new func vfio-pci cannot be exposed to guest.",
                RefusalKind::SlotInUse,
            ),
            ("Bus 'pci.9' not found", RefusalKind::BusNotFound),
            ("Bus 'pci.9' is full", RefusalKind::BusTakesNone),
            (
                "Bus 'pcie.0' does not support hotplugging",
                RefusalKind::BusTakesNone,
            ),
            ("Duplicate device ID 'net0'", RefusalKind::NameTaken),
            (
                "Cannot attach more than one primary device to 'net0': 'a' and 'b'",
                RefusalKind::OtherPrimary,
            ),
            (
                "Device hostdev0 is already in the process of unplug",
                RefusalKind::UnplugInProgress,
            ),
            (
                "Hot-unplug failed: guest is busy (power indicator blinking)",
                RefusalKind::GuestBusy,
            ),
            (
                "Tray of device 'sata0-0-0' is not open",
                RefusalKind::TrayLocked,
            ),
            ("Node 'disk-storage' is in use", RefusalKind::InUse),
            ("words of tomorrow", RefusalKind::Other),
        ] {
            assert_eq!(kind("GenericError", words), Some(expected), "{words}");
        }
        let not_found = Some(RefusalKind::DeviceNotFound);
        assert_eq!(kind("DeviceNotFound", "Bus 'x' not found"), not_found);
        let closed = QmpError::Closed {
            command: "stop".to_owned(),
        };
        assert_eq!(closed.refusal(), None);
        assert!(closed.is_uncertain());
    }
}
