//! Settings of lent items that are changed while the guest runs.

use conf::{Bandwidth, NetdevName, VfLink};
use host::{HostError, VfSetting, VirtualFunction};

use crate::assigner::Assigner;
use crate::device::Generation;
use crate::error::LinkError;
use crate::link::Changing;
use crate::settings::{describe, differing};

/// What the kernel answers where a driver has no such function.
const EOPNOTSUPP: i32 = rustix::io::Errno::OPNOTSUPP.raw_os_error();

/// A setting that was not changed: all is as before.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The item can't be changed, or not now.
    #[error(transparent)]
    Lent(#[from] LinkError),
    /// What is lent is nothing that has the setting.
    #[error("what is lent under {generation} has no {setting}")]
    NoSuchSetting {
        /// Under which claim.
        generation: Generation,
        /// What was to be set.
        setting: &'static str,
    },
    /// The VF's driver has no such setting.
    #[error("the driver of '{}' can't set the {setting} of its VFs (VF {})", .vf.pf_netdev, .vf.number)]
    NotOffered {
        /// The VF.
        vf: VirtualFunction,
        /// What was to be set.
        setting: &'static str,
    },
    /// The kernel agreed, and told otherwise afterwards.
    #[error("VF {} of '{}' was set to {wanted}, and did not take it", .vf.number, .vf.pf_netdev)]
    NotTaken {
        /// The VF.
        vf: VirtualFunction,
        /// What was to be.
        wanted: String,
    },
    /// A tap was moved, the kernel agreed, and told otherwise afterwards.
    #[error("'{tap}' should be in bridge '{wanted}', and is {found}")]
    Elsewhere {
        /// The tap.
        tap: NetdevName,
        /// Where it was to be.
        wanted: NetdevName,
        /// Where it is, in words.
        found: String,
    },
}

impl Assigner {
    /// Sets the link that the guest of a lent VF sees; recorded before it is set, and read back.
    ///
    /// # Errors
    /// It is no VF that is lent whole, its driver has no such setting, or the kernel refused.
    pub fn set_vf_link(&self, generation: Generation, link: VfLink) -> Result<(), ChangeError> {
        const SETTING: &str = "link state";
        let mut lent = self.borrow_lent(generation)?;
        let Some(work) = lent.record.vf_mut() else {
            return Err(ChangeError::NoSuchSetting {
                generation,
                setting: SETTING,
            });
        };
        let (vf, before) = (work.vf.clone(), work.settings.clone());
        let host = &*self.host.0;
        let state = host.vf_state(&vf).map_err(|source| lent.refused(source))?;
        let Some(was) = state.link else {
            return Err(ChangeError::NotOffered {
                vf,
                setting: SETTING,
            });
        };
        let wanted = VfSetting::Link(link);
        let mut settings = before.clone();
        let is_it = |setting: &&mut VfSetting| setting.operation() == wanted.operation();
        match settings.iter_mut().find(is_it) {
            Some(setting) => *setting = wanted,
            None => settings.push(wanted),
        }
        if let Err(error) = keep_settings(&mut lent, settings) {
            // Its record on disk is the old one still; what is known has to agree with it.
            let _ = keep_settings(&mut lent, before);
            return Err(error.into());
        }
        let set = || -> Result<bool, HostError> {
            host.set_vf(&vf, wanted)?;
            Ok(differing(&[wanted], &host.vf_state(&vf)?).is_empty())
        };
        let error = match set() {
            Ok(true) => return Ok(()),
            Ok(false) => ChangeError::NotTaken {
                vf: vf.clone(),
                wanted: describe(wanted),
            },
            Err(source) if source.errno() == Some(EOPNOTSUPP) => ChangeError::NotOffered {
                vf: vf.clone(),
                setting: SETTING,
            },
            Err(source) => lent.refused(source).into(),
        };
        // Half a change is none. What can't be undone is told by the next comparison.
        let undo = || -> Result<(), HostError> {
            match host.vf_state(&vf)?.link == Some(was) {
                true => Ok(()),
                false => host.set_vf(&vf, VfSetting::Link(was)),
            }
        };
        let undone = undo().map_err(|source| lent.refused(source));
        if let Err(left) = keep_settings(&mut lent, before).and(undone) {
            tracing::warn!(vf = %vf.address, error = %left, "a link state is not undone");
        }
        Err(error)
    }

    /// Shapes the traffic of a lent macvtap or tap, in place of any shaping that it had. The
    /// default removes it. A failure leaves it unshaped.
    ///
    /// # Errors
    /// It is lent by vfio, the kernel lacks what it takes, or refused.
    pub fn set_bandwidth(
        &self,
        generation: Generation,
        bandwidth: &Bandwidth,
    ) -> Result<(), ChangeError> {
        let mut lent = self.borrow_lent(generation)?;
        let Some(link) = lent.record.link_mut() else {
            return Err(ChangeError::NoSuchSetting {
                generation,
                setting: "bandwidth",
            });
        };
        let Some(index) = link.index else {
            let gone = HostError::NoNetdev(link.name.to_string());
            return Err(lent.refused(gone).into());
        };
        // Remembered before it is so, and forgotten after: a tap of somebody else's outlives its
        // guest.
        if !link.shaped {
            link.shaped = true;
            lent.keep()?;
        }
        let set = self.host.0.set_bandwidth(index, bandwidth);
        set.map_err(|source| lent.refused(source))?;
        if *bandwidth == Bandwidth::default()
            && let Some(link) = lent.record.link_mut()
        {
            link.shaped = false;
            lent.keep()?;
        }
        Ok(())
    }
}

fn keep_settings(lent: &mut Changing<'_>, settings: Vec<VfSetting>) -> Result<(), LinkError> {
    if let Some(work) = lent.record.vf_mut() {
        work.settings = settings;
    }
    lent.keep()
}
