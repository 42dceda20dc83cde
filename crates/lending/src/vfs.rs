//! VFs that a network asks for where its PF has none.

use conf::Network;
use host::PhysicalFunction;

use crate::ledger::Ledger;
use crate::members::OpenPoolError;

/// VFs were not made.
#[derive(Debug, thiserror::Error)]
#[error("network '{network}': can't make {count} VFs of '{pf}'")]
pub struct MakeVfsError {
    /// The network that asks for them.
    pub network: String,
    /// The PF's network device.
    pub pf: String,
    /// As many were asked for.
    pub count: u32,
    /// Why not.
    #[source]
    pub source: assign::MakeVfsError,
}

impl MakeVfsError {
    /// What a person can do about it, where there is something.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        self.source.advice()
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

    /// Makes VFs without drivers of the host's, unless these are what is needed.
    fn make_vfs(
        &self,
        network: &Network,
        pf: &PhysicalFunction,
        count: u32,
        need_netdevs: bool,
    ) -> Result<(), MakeVfsError> {
        let made = self.assigner.make_vfs(pf, count, need_netdevs);
        made.map_err(|source| MakeVfsError {
            network: network.name.clone(),
            pf: pf.netdev.clone(),
            count,
            source,
        })
    }
}
