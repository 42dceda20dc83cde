//! What the networks have to lend, for people: the pool's table, with what only the kernel knows.

use std::collections::BTreeMap;

use conf::{DeviceId, ForwardMode, Network};
use host::Netdev;
use pool::{Explanation, Request};

use crate::ledger::Ledger;
use crate::members::NetworkMembers;
use crate::state::{lock, whole_or_part};

impl Ledger {
    /// What a running network has to lend, and what of it the host itself uses. Asks the host
    /// about each device that is free; blocks.
    #[must_use]
    pub fn survey(&self, network: &Network) -> Option<Explanation> {
        let free = lock(&self.state).pool.free(&network.name);
        let busy: BTreeMap<DeviceId, String> = (free.into_iter())
            .filter_map(|device| {
                let usable = self.usable(whole_or_part(Some(network), None, device));
                let unusable = usable.err().map(|error| crate::chain(&error));
                let reason = unusable.or_else(|| self.unbound(network, device));
                Some((device, reason?))
            })
            .collect();
        let request = Request {
            network: &network.name,
            guest: "",
            mac: None,
            numa_nodes: &[],
            exclude: &busy,
            from: pool::Source::Anywhere,
            is_promised: false,
        };
        lock(&self.state).pool.explain(&request)
    }

    /// What keeps a guest from having a host device that the network does not manage.
    fn unbound(&self, network: &Network, device: DeviceId) -> Option<String> {
        let forward = network
            .forward
            .as_ref()
            .filter(|forward| !forward.managed)?;
        if network.forward_mode() != Some(ForwardMode::Hostdev) {
            return None;
        }
        let pci = match self.host.pci_device(device.pci()?) {
            Ok(pci) => pci,
            Err(error) => return Some(crate::chain(&error)),
        };
        let bound = assign::check_unmanaged(pci.driver.as_deref(), forward.driver.as_ref());
        Some(crate::chain(&bound.err()?))
    }

    /// The running networks that lend a network device of the host, or its VFs; by name.
    #[must_use]
    pub fn networks_over(&self, netdev: &Netdev) -> Vec<String> {
        let state = lock(&self.state);
        let pf = netdev.pci.and_then(|address| state.pool.vf(address));
        let lends = |members: &NetworkMembers| {
            let by_itself = members.listed.iter().any(|(name, device)| {
                *name == Some(netdev.name)
                    || *device == DeviceId::Netdev(netdev.name)
                    || netdev.pci.is_some_and(|address| *device == address.into())
            });
            let has = |address| members.pfs.contains(&address);
            let as_vf = members.listed.is_empty() && pf.is_some_and(|(pf, _)| has(pf));
            by_itself || as_vf || netdev.pci.is_some_and(has)
        };
        let networks = state.networks.iter().filter(|(_, members)| lends(members));
        let networks = networks.filter(|(name, _)| !pool::is_synthetic(name));
        let mut names: Vec<_> = networks.map(|(name, _)| name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// The PF that a VF of a network belongs to, and its number there.
    #[must_use]
    pub fn place_of(&self, device: DeviceId) -> Option<(String, u16)> {
        let state = lock(&self.state);
        let (pf_address, number) = state.pool.vf(device.pci()?)?;
        let pf = state.pfs.get(&pf_address)?;
        Some((pf.netdev.clone(), number))
    }

    /// What a device is called: its network device, or which VF it is, or else its address.
    #[must_use]
    pub fn name_of(&self, device: DeviceId) -> String {
        let nic = lock(&self.state).pool.nic(device).map(|nic| nic.netdev);
        match (nic, self.place_of(device)) {
            (Some(name), _) => name.to_string(),
            (None, Some((pf, number))) => format!("VF {number} of {pf}"),
            (None, None) => {
                let state = lock(&self.state);
                let pf = device.pci().and_then(|address| state.pfs.get(&address));
                pf.map_or_else(|| device.to_string(), |pf| pf.netdev.clone())
            }
        }
    }
}
