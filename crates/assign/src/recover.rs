//! After a restart: what the last run left.

use std::path::PathBuf;

use conf::Uuid;
use host::HostError;

use crate::assigner::Assigner;
use crate::device::{Assignment, DeviceId};
use crate::error::UndoFault;
use crate::journal::{Record, Stage};
use crate::settings::{describe, differing};

/// What the journal told when it was opened.
#[derive(Debug)]
pub struct Recovery {
    /// Devices that are not as they were found: those of running guests among them.
    pub assignments: Vec<Assignment>,
    /// What else there is to say.
    pub findings: Vec<Finding>,
}

/// A record that does not agree with the host, or what was done about one. [`std::fmt::Display`]
/// says it in a line.
#[derive(Debug, thiserror::Error)]
pub enum Finding {
    /// Removed: the device's state went with its boot.
    #[error("{device} was lent to guest '{guest}' before the last boot; its record is removed")]
    OtherBoot {
        /// Which device.
        device: DeviceId,
        /// Whose it was.
        guest: String,
    },
    /// Left alone, and its device is kept back.
    #[error(
        "the record '{}' can't be read: {reason}; its device is kept back until the file is removed", .path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The guest was gone; its device is back.
    #[error("{device} was given back: guest '{guest}' is gone")]
    GivenBack {
        /// Which device.
        device: DeviceId,
        /// Whose it was.
        guest: String,
    },
    /// It was being prepared; all of that is undone.
    #[error("{device} was being prepared for guest '{guest}'; that is undone")]
    Undone {
        /// Which device.
        device: DeviceId,
        /// Whose it was to be.
        guest: String,
    },
    /// The device is dirty, or still open.
    #[error("{device}, of guest '{guest}', could not be restored: {fault}")]
    NotRestored {
        /// Which device.
        device: DeviceId,
        /// Whose it was.
        guest: String,
        /// One of the reasons.
        fault: UndoFault,
    },
    /// A running guest's device is not as it was lent.
    #[error("{device}, lent to guest '{guest}', should have {wanted}, and has {found}")]
    Differs {
        /// Which device.
        device: DeviceId,
        /// Whose it is.
        guest: String,
        /// As it was lent.
        wanted: String,
        /// As it is.
        found: String,
    },
    /// A running guest's device is not there.
    #[error("{device}, lent to guest '{guest}', is not there any more")]
    Vanished {
        /// Which device.
        device: DeviceId,
        /// Whose it was.
        guest: String,
    },
    /// A running guest's device could not be looked at.
    #[error("{device}, lent to guest '{guest}', can't be looked at")]
    Unknown {
        /// Which device.
        device: DeviceId,
        /// Whose it is.
        guest: String,
        /// Why.
        #[source]
        error: HostError,
    },
}

impl Assigner {
    /// Finishes what the last run left, once it is known which guests run: theirs stay lent and
    /// are compared with the kernel; all others, and what was half prepared or half given back,
    /// are restored. Called once, after [`Assigner::open`].
    pub fn recover(&self, runs: impl Fn(Uuid) -> bool) -> Vec<Finding> {
        let mut findings = Vec::new();
        for record in self.left_over() {
            let Some(in_hand) = self.take_left(&record) else {
                continue;
            };
            let (device, guest) = (record.device, record.owner.name.clone());
            if record.stage == Stage::Lent && runs(record.owner.guest) {
                findings.extend(self.compare(&record));
                in_hand.lent();
                continue;
            }
            let restored = self.restore(&record);
            if restored.is_clean() {
                in_hand.free();
                findings.push(match record.stage {
                    Stage::Preparing => Finding::Undone { device, guest },
                    Stage::Lent | Stage::Returning => Finding::GivenBack { device, guest },
                });
                continue;
            }
            in_hand.dirty(restored.reasons());
            findings.extend(
                (restored.faults.into_iter()).map(|fault| Finding::NotRestored {
                    device,
                    guest: guest.clone(),
                    fault,
                }),
            );
        }
        findings
    }

    /// What is not so of what the record of a lent device says. Nothing is mended: a guest runs.
    fn compare(&self, record: &Record) -> Vec<Finding> {
        let (device, guest) = (record.device, || record.owner.name.clone());
        let DeviceId::Pci(address) = device;
        let host = &*self.host.0;
        let (driver, mut found) = match (&record.vf, &record.original) {
            (Some(vf), Some(_)) => match host.vf_state(vf) {
                Ok(state) => {
                    let differing = differing(&record.settings, &state).into_iter();
                    let texts = differing.map(|(wanted, found)| {
                        let found = found.map_or_else(|| "nothing told".to_owned(), describe);
                        (describe(wanted), found)
                    });
                    (Ok(state.driver), texts.collect())
                }
                Err(error) => (Err(error), Vec::new()),
            },
            _ => (host.pci_device(address).map(|pci| pci.driver), Vec::new()),
        };
        match driver {
            Ok(driver) if driver.as_deref() == Some(&*record.driver) => {}
            Ok(driver) => found.push((
                format!("driver {}", record.driver),
                driver.map_or_else(|| "no driver".to_owned(), |d| format!("driver {d}")),
            )),
            Err(HostError::NoPciDevice(_)) => {
                return vec![Finding::Vanished {
                    device,
                    guest: guest(),
                }];
            }
            Err(error) => {
                return vec![Finding::Unknown {
                    device,
                    guest: guest(),
                    error,
                }];
            }
        }
        let found = found.into_iter().map(|(wanted, found)| Finding::Differs {
            device,
            guest: guest(),
            wanted,
            found,
        });
        found.collect()
    }
}
