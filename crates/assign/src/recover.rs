//! After a restart: what the last run left.

use std::path::PathBuf;

use conf::{NetdevName, PciAddress, Uuid};
use host::HostError;

use crate::assigner::Assigner;
use crate::compare::Deviation;
use crate::device::{Assignment, Item};
use crate::error::{UndoFault, chain, whose};
use crate::make_vfs::MakeVfsError;
use crate::record::Stage;
use crate::vf::driver_name;

/// What the journal told when it was opened.
#[derive(Debug)]
pub struct Recovery {
    /// What is not as it was found: that of running guests among it.
    pub assignments: Vec<Assignment>,
    /// What else there is to say.
    pub findings: Vec<Finding>,
}

/// A record that does not agree with the host, or what was done about one. [`std::fmt::Display`]
/// says it in a line.
#[derive(Debug, thiserror::Error)]
pub enum Finding {
    /// Removed: the device's state went with its boot.
    #[error("{item} was lent{} before the last boot; its record is removed", match .guest { Some(guest) => format!(" to guest '{guest}'"), None => String::new() })]
    OtherBoot {
        /// The item, as its record is called.
        item: String,
        /// Whose it was, if the record could be read.
        guest: Option<String>,
    },
    /// Left alone, and its item is kept back.
    #[error(
        "the record '{}' can't be read: {reason}; its item is kept back until the file is removed", .path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// While VFs were made, drivers were kept from taking them; later ones are taken again.
    #[error(
        "drivers take new VFs of {pf} again by themselves: the last run was ended before it saw to that"
    )]
    ProbingRestored {
        /// The physical function.
        pf: PciAddress,
    },
    /// That could not be put back; it is tried again at the next start.
    #[error("drivers don't take new VFs of {pf} by themselves (sriov_drivers_autoprobe): {}", chain(.error))]
    ProbingLeft {
        /// The physical function.
        pf: PciAddress,
        /// What stood in the way.
        error: MakeVfsError,
    },
    /// The guest was gone; its device is back.
    #[error("{words} was given back: guest '{guest}' is gone", words = .item.words())]
    GivenBack {
        /// The device, or the tap of one.
        item: Item,
        /// Whose it was.
        guest: String,
    },
    /// It was taken from the host for nobody, and somebody gave it back, or it is gone.
    #[error("{address} was detached from the host, and {now}; its record is removed", now = detached_now(.driver))]
    NotDetached {
        /// The function.
        address: PciAddress,
        /// The driver that it has; the outer `None`: it is not there.
        driver: Option<Option<String>>,
    },
    /// It was being prepared; all of that is undone.
    #[error("{words} was being prepared for {whose}; that is undone", words = .item.words(), whose = whose(.guest))]
    Undone {
        /// The device, or the tap of one.
        item: Item,
        /// Whose it was to be.
        guest: String,
    },
    /// The device is dirty, or still open.
    #[error("{words}, of {whose}, could not be restored: {fault}", words = .item.words(), whose = whose(.guest))]
    NotRestored {
        /// The device, or the tap of one.
        item: Item,
        /// Whose it was.
        guest: String,
        /// One of the reasons.
        fault: UndoFault,
    },
    /// A running guest's device is not as it was lent.
    #[error("{words}, lent to guest '{guest}', should have {wanted}, and has {found}", words = .item.words())]
    Differs {
        /// The device, or the tap of one.
        item: Item,
        /// Whose it is.
        guest: String,
        /// As it was lent.
        wanted: String,
        /// As it is.
        found: String,
    },
    /// A running guest's device is not there.
    #[error("{words}, lent to guest '{guest}', is not there any more", words = .item.words())]
    Vanished {
        /// The device, or the tap of one.
        item: Item,
        /// Whose it was.
        guest: String,
    },
    /// A running guest's link is not there, though the device below may be.
    #[error("'{netdev}', made for guest '{guest}', is not there any more")]
    LinkGone {
        /// The device, or the tap of one.
        item: Item,
        /// Whose it was.
        guest: String,
        /// What it was called.
        netdev: NetdevName,
    },
    /// A running guest's device could not be looked at.
    #[error("{words}, lent to guest '{guest}', can't be looked at", words = .item.words())]
    Unknown {
        /// The device, or the tap of one.
        item: Item,
        /// Whose it is.
        guest: String,
        /// What the host said.
        #[source]
        error: HostError,
    },
}

impl Assigner {
    /// Finishes what the last run left, once it is known which guests run: theirs stay lent and
    /// are compared with the kernel; all others, and what was half prepared or half given back,
    /// are restored. Called once, after [`Assigner::open`].
    pub fn recover(&self, runs: impl Fn(Uuid) -> bool) -> Vec<Finding> {
        let mut findings = self.recover_probing();
        for record in self.left_over() {
            let Some(in_hand) = self.take_left(&record) else {
                continue;
            };
            let (item, guest) = (record.item, record.holder.name.clone());
            if record.stage == Stage::Lent
                && let Some(address) = item.detached()
            {
                findings.extend(self.recover_detached(in_hand, &record, address));
                continue;
            }
            if record.stage == Stage::Lent && runs(record.holder.guest) {
                let found = self.compare(&record).into_iter();
                findings.extend(found.map(|found| finding(item, guest.clone(), found)));
                in_hand.lent();
                continue;
            }
            let restored = self.restore_in_hand(in_hand, &record);
            if restored.is_clean() {
                findings.push(match record.stage {
                    Stage::Preparing => Finding::Undone { item, guest },
                    Stage::Lent | Stage::Returning => Finding::GivenBack { item, guest },
                });
                continue;
            }
            findings.extend(
                (restored.faults.into_iter()).map(|fault| Finding::NotRestored {
                    item,
                    guest: guest.clone(),
                    fault,
                }),
            );
        }
        findings
    }
}

fn detached_now(driver: &Option<Option<String>>) -> String {
    match driver {
        None => "is not there any more".to_owned(),
        Some(driver) => format!("has {}", driver_name(driver.as_deref())),
    }
}

fn finding(item: Item, guest: String, found: Deviation) -> Finding {
    match found {
        Deviation::Differs { wanted, found } => Finding::Differs {
            item,
            guest,
            wanted,
            found,
        },
        Deviation::DeviceGone => Finding::Vanished { item, guest },
        Deviation::LinkGone(netdev) => Finding::LinkGone {
            item,
            guest,
            netdev,
        },
        Deviation::Unknown(error) => Finding::Unknown { item, guest, error },
    }
}
