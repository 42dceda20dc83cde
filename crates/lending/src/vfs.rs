//! VFs that a network asks for where its PF has none.

use conf::Network;
use host::{HostError, PhysicalFunction};

use crate::error::chain;
use crate::ledger::Ledger;
use crate::members::OpenPoolError;

/// VFs were not made.
#[derive(Debug, thiserror::Error)]
pub enum MakeVfsError {
    /// More than the PF can have.
    #[error("network '{network}': can't make {count} VFs of '{pf}': it can have {max} at most")]
    TooMany {
        /// The network that asks for them.
        network: String,
        /// The PF's network device.
        pf: String,
        /// As many were asked for.
        count: u32,
        /// The PF's limit.
        max: u16,
    },
    /// The host refused.
    #[error("network '{network}': can't make {count} VFs of '{pf}'")]
    Refused {
        /// The network that asks for them.
        network: String,
        /// The PF's network device.
        pf: String,
        /// As many were asked for.
        count: u16,
        /// What the host said.
        #[source]
        source: HostError,
        /// What it said when the PF's automatic probing was to be switched on again.
        not_undone: Option<Box<HostError>>,
    },
}

impl MakeVfsError {
    /// What a person can do about it, where there is something.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::TooMany { .. } => None,
            Self::Refused { source, .. } => source.advice(),
        }
    }
}

impl Ledger {
    /// A PF with as many VFs as its network asks for, if it had none.
    pub(crate) fn with_vfs(
        &self,
        network: &Network,
        pf: PhysicalFunction,
        need_netdevs: bool,
    ) -> Result<PhysicalFunction, OpenPoolError> {
        let wanted = network.extension.vfs.iter().find(|vfs| vfs.pf == pf.netdev);
        let Some(wanted) = wanted else { return Ok(pf) };
        if pf.vf_count > 0 {
            if u32::from(pf.vf_count) != wanted.count {
                tracing::warn!(
                    network = network.name,
                    pf = pf.netdev,
                    "has {} VFs, not the {} that its network asks for; they are left alone",
                    pf.vf_count,
                    wanted.count
                );
            }
            return Ok(pf);
        }
        self.make_vfs(network, &pf, wanted.count, need_netdevs)
            .map_err(Box::new)?;
        Ok(self.host.physical_function(&pf.netdev)?)
    }

    /// Makes VFs without drivers of the host's, unless these are what is needed. The PF's setting
    /// for that is put back, whatever comes of it.
    fn make_vfs(
        &self,
        network: &Network,
        pf: &PhysicalFunction,
        count: u32,
        need_netdevs: bool,
    ) -> Result<(), MakeVfsError> {
        let fits = u16::try_from(count).ok();
        let Some(count) = fits.filter(|count| *count <= pf.max_vfs) else {
            return Err(MakeVfsError::TooMany {
                network: network.name.clone(),
                pf: pf.netdev.clone(),
                count,
                max: pf.max_vfs,
            });
        };
        let refused = |source, not_undone| MakeVfsError::Refused {
            network: network.name.clone(),
            pf: pf.netdev.clone(),
            count,
            source,
            not_undone,
        };
        let probed = self.host.autoprobe(pf).map_err(|e| refused(e, None))?;
        let switch_off = probed && !need_netdevs;
        if switch_off {
            let off = self.host.set_autoprobe(pf, false);
            off.map_err(|error| refused(error, None))?;
        }
        let made = self.host.set_vf_count(pf, count);
        let restored = if switch_off {
            self.host.set_autoprobe(pf, true)
        } else {
            Ok(())
        };
        match (made, restored) {
            (Ok(()), Ok(())) => {
                tracing::info!(pf = pf.netdev, count, "made VFs");
                Ok(())
            }
            (Ok(()), Err(error)) => {
                // The VFs are there, and good; only later ones would go without a driver.
                tracing::error!(
                    pf = pf.netdev,
                    error = chain(&error),
                    "its drivers' automatic probing stays switched off"
                );
                Ok(())
            }
            (Err(error), restored) => Err(refused(error, restored.err().map(Box::new))),
        }
    }
}
