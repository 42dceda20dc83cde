//! What stands in the way of taking a function from the host, or giving it back.

use conf::PciAddress;
use host::Usage;

use crate::error::{ClaimError, ErrorKind, Obstacle, UndoFault};

/// A function was not taken from the host, not given back to it, or not reset.
#[derive(Debug, thiserror::Error)]
pub enum DetachError {
    /// Somebody has it, or works on it.
    #[error(transparent)]
    Taken(#[from] ClaimError),
    /// Something else is in the way. All that was done was undone, unless `undo` tells otherwise.
    #[error("cannot {doing} {address}{}", and_not_undone(.undo))]
    Refused {
        /// What was to be done: `detach`.
        doing: &'static str,
        /// The function.
        address: PciAddress,
        /// What stood in the way.
        #[source]
        obstacle: Box<Obstacle>,
        /// What could not be undone.
        undo: Vec<UndoFault>,
    },
    /// It was given back, and is not as it was found.
    #[error("{address} is not as it was found: {}", texts(.faults))]
    Dirty {
        /// The function.
        address: PciAddress,
        /// All that went wrong.
        faults: Vec<UndoFault>,
    },
}

fn texts(faults: &[UndoFault]) -> String {
    let texts: Vec<_> = faults.iter().map(UndoFault::to_string).collect();
    texts.join("; ")
}

fn and_not_undone(undo: &[UndoFault]) -> String {
    match undo {
        [] => String::new(),
        undo => format!(", nor restore it ({})", texts(undo)),
    }
}

impl DetachError {
    /// Its class.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Taken(_) => ErrorKind::OperationInvalid,
            Self::Refused { obstacle, .. } => obstacle.kind(),
            Self::Dirty { .. } => ErrorKind::Internal,
        }
    }

    /// What a person can do about it, where there is something.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Taken(_) => None,
            Self::Refused {
                doing, obstacle, ..
            } => match &**obstacle {
                Obstacle::InUse(usages) if usages.as_slice() == [Usage::Console] => Some(
                    "if the host can do without its console, name the driver: --driver vfio"
                        .to_owned(),
                ),
                Obstacle::InUse(_) => Some("take it out of use on the host first".to_owned()),
                Obstacle::HasVfs { address, .. } => Some(format!(
                    "{doing} one of them; or remove them first: \
                     echo 0 > /sys/bus/pci/devices/{address}/sriov_numvfs"
                )),
                obstacle => obstacle.advice(),
            },
            Self::Dirty { .. } => Some("virtnic reconcile tells more, and mends it".to_owned()),
        }
    }
}
