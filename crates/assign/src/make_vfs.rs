//! Making VFs, without a trace of how it was done.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use conf::PciAddress;
use host::{HostError, PhysicalFunction};
use records::{Loaded, RecordError, Records};
use serde::{Deserialize, Serialize};

use crate::assigner::Assigner;
use crate::error::chain;
use crate::recover::Finding;

/// VFs that were not made, or not without a trace.
#[derive(Debug, thiserror::Error)]
pub enum MakeVfsError {
    /// The card has no room for them.
    #[error("it can have {most} at most")]
    TooMany {
        /// Most VFs that the PF can make.
        most: u16,
    },
    /// Another thread makes some.
    #[error("its VFs are just being made")]
    InHand,
    /// What is about to be done could not be recorded, so it was not done.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The host refused.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The host refused, and the PF's setting could not be put back. That is tried again when the
    /// daemon starts, or VFs are made.
    #[error("{}; and drivers still don't take its new VFs by themselves: {}", chain(.refusal), chain(.undo))]
    NotUndone {
        /// What it refused first.
        refusal: Box<HostError>,
        /// What stood in the way of putting it back.
        undo: Box<HostError>,
    },
}

impl MakeVfsError {
    /// What a person can do about it, where there is something.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Host(error) => error.advice(),
            Self::NotUndone { refusal, .. } => refusal.advice(),
            Self::TooMany { .. } | Self::InHand | Self::Record(_) => None,
        }
    }
}

/// PFs whose `sriov_drivers_autoprobe` is switched off for the moment: a record each, by address.
#[derive(Debug)]
pub(crate) struct Probing {
    records: Records,
    /// PFs in the hands of a thread.
    in_hand: Mutex<BTreeSet<PciAddress>>,
}

/// It was on, and was switched off.
#[derive(Debug, Serialize, Deserialize)]
struct SwitchedOff {
    pf: PciAddress,
}

impl Probing {
    const FORMAT: u32 = 1;

    pub(crate) fn open(journal: &Path, boot: &str) -> Result<Self, RecordError> {
        Ok(Self {
            records: Records::open(journal.join("probing"), boot, Self::FORMAT)?,
            in_hand: Mutex::default(),
        })
    }

    /// PFs that were left so. What a record that can't be read is about is told by its name.
    fn left(&self) -> Result<BTreeSet<PciAddress>, RecordError> {
        let loaded = self.records.load::<SwitchedOff>()?.into_iter();
        let ids = loaded.filter_map(|loaded| match loaded {
            Loaded::Good { id, .. } => Some(id),
            Loaded::Unreadable(file) => Some(file.id),
            Loaded::OtherBoot { .. } => None,
        });
        Ok(ids.filter_map(|id| id.parse().ok()).collect())
    }
}

/// A PF of which one thread makes VFs.
struct InHand<'a>(&'a Probing, PciAddress);

impl<'a> InHand<'a> {
    fn take(probing: &'a Probing, pf: PciAddress) -> Option<Self> {
        let mut all = probing
            .in_hand
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.insert(pf).then_some(Self(probing, pf))
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        let mut all = self
            .0
            .in_hand
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.remove(&self.1);
    }
}

impl Assigner {
    /// Makes a PF's VFs; it has none. Blocks for seconds. Unless `probe`, the host's drivers don't
    /// take them: the PF's setting for that is switched off meanwhile, recorded first, and put back
    /// whatever comes of it, by the next start if need be.
    ///
    /// # Errors
    /// The card can't, or what the host refused.
    pub fn make_vfs(
        &self,
        pf: &PhysicalFunction,
        count: u32,
        probe: bool,
    ) -> Result<(), MakeVfsError> {
        let most = pf.max_vfs;
        let count = u16::try_from(count).ok().filter(|count| *count <= most);
        let count = count.ok_or(MakeVfsError::TooMany { most })?;
        let host = &self.host.0;
        let _in_hand = InHand::take(&self.probing, pf.address).ok_or(MakeVfsError::InHand)?;
        // What an earlier attempt left is put back first.
        if self.probing.left()?.contains(&pf.address) {
            self.probe_again(pf)?;
        }
        if probe || !host.autoprobe(pf)? {
            host.set_vf_count(pf, count)?;
            tracing::info!(pf = pf.netdev, count, "made VFs");
            return Ok(());
        }
        let switched_off = SwitchedOff { pf: pf.address };
        self.probing.records.write(pf.address, &switched_off)?;
        let made = host.set_autoprobe(pf, false);
        let made = made.and_then(|()| host.set_vf_count(pf, count));
        match (made, self.probe_again(pf)) {
            (Ok(()), Ok(())) => {
                tracing::info!(pf = pf.netdev, count, "made VFs");
                Ok(())
            }
            (Err(error), Ok(())) => Err(error.into()),
            (Ok(()), Err(error)) => {
                // They are there, and good; only later ones would go without a driver.
                let error = error.to_string();
                tracing::error!(pf = pf.netdev, error, "drivers don't take its new VFs");
                Ok(())
            }
            (Err(refusal), Err(MakeVfsError::Host(undo))) => Err(MakeVfsError::NotUndone {
                refusal: Box::new(refusal),
                undo: Box::new(undo),
            }),
            (Err(refusal), Err(_)) => Err(refusal.into()),
        }
    }

    /// Switches the setting on again; then its record goes.
    fn probe_again(&self, pf: &PhysicalFunction) -> Result<(), MakeVfsError> {
        let host = &self.host.0;
        if !host.autoprobe(pf)? {
            host.set_autoprobe(pf, true)?;
        }
        Ok(self.probing.records.remove(pf.address)?)
    }

    /// Puts back what the last run left switched off.
    pub(crate) fn recover_probing(&self) -> Vec<Finding> {
        let left = match self.probing.left() {
            Ok(left) => left,
            Err(error) => {
                tracing::error!(%error, reason = %error.source, "it is not known what was left");
                return Vec::new();
            }
        };
        let recovered = left.into_iter().map(|address| {
            let all = self.host.0.physical_functions();
            let put_back = all.map_err(MakeVfsError::from).and_then(|all| {
                match all.iter().find(|pf| pf.address == address) {
                    Some(pf) => self.probe_again(pf),
                    // It is gone, and its setting with it.
                    None => Ok(self.probing.records.remove(address)?),
                }
            });
            match put_back {
                Ok(()) => Finding::ProbingRestored { pf: address },
                Err(error) => Finding::ProbingLeft { pf: address, error },
            }
        });
        recovered.collect()
    }
}
