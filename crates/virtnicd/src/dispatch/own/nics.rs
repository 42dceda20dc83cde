//! The host's NICs, and what each can do for guests.

use std::collections::HashMap;

use host::Netdev;
use rpc::{Domain, Nic};

use super::pool_rows::ability;
use crate::daemon::Daemon;
use crate::fault::{self, Result};

/// Kinds of devices that stand for a NIC, or are one inside of a container.
const KINDS: [&str; 5] = ["bond", "team", "vlan", "veth", "dummy"];

impl Daemon {
    /// Every card's network device, and those that are made of such: bonds, VLANs. Asks the kernel,
    /// so it blocks.
    pub(in crate::dispatch) fn nics(&self) -> Result<Vec<Nic>> {
        let netdevs = (self.host.netdevs()).map_err(fault::host(Domain::Interface))?;
        let names: HashMap<u32, String> = (netdevs.iter())
            .map(|netdev| (netdev.index, netdev.name.to_string()))
            .collect();
        let nics = netdevs.iter().filter(|netdev| is_nic(netdev));
        // One that is gone by the time that it is looked at is none any more.
        Ok(nics.filter_map(|netdev| self.nic(netdev, &names)).collect())
    }

    fn nic(&self, netdev: &Netdev, names: &HashMap<u32, String>) -> Option<Nic> {
        let ability = ability(self.host.nic_ability(netdev).ok()?);
        let pci = netdev.pci.and_then(|pci| self.host.pci_device(pci).ok());
        Some(Nic {
            name: netdev.name.to_string(),
            ability,
            mac: Some(netdev.mac.to_string()),
            kind: netdev.kind.clone(),
            pci_address: netdev.pci.map(|pci| pci.to_string()),
            numa_node: pci.as_ref().and_then(|pci| pci.numa_node).map(u32::from),
            driver: pci.and_then(|pci| pci.driver),
            up: netdev.state.up,
            carrier: netdev.state.carrier,
            mtu: netdev.state.mtu,
            master: netdev.master.and_then(|index| names.get(&index).cloned()),
            networks: self.lender.networks_over(netdev),
            drained: netdev.pci.is_some_and(|pci| self.lender.is_drained(pci)),
        })
    }
}

/// Whether a guest's frames could leave the host there. The loopback has no MAC.
fn is_nic(netdev: &Netdev) -> bool {
    let kind_fits = match &netdev.kind {
        None => true,
        Some(kind) => KINDS.contains(&kind.as_str()),
    };
    kind_fits && !netdev.mac.is_zero() && !netdev.is_ours()
}

#[cfg(test)]
mod tests {
    use host::{Links as _, SimulatedHost};

    use super::*;

    #[test]
    fn cards_and_what_is_made_of_them_are_nics_and_what_guests_get_is_none() {
        let host = SimulatedHost::new("pfs=1,vfs=1".parse().unwrap());
        host.add_nic("eth2").unwrap();
        host.add_bond("bond0", &["eth2"]).unwrap();
        host.add_bridge("br0").unwrap();
        host.add_netdev("sim0.42", "vlan", Some("sim0")).unwrap();
        host.add_netdev("vnet7", "tun", None).unwrap();
        host.add_netdev("macvtap0", "macvtap", Some("sim0"))
            .unwrap();
        let netdevs = host.netdevs().unwrap();
        let nics = netdevs.iter().filter(|netdev| is_nic(netdev));
        let mut names: Vec<_> = nics.map(|netdev| netdev.name.to_string()).collect();
        names.sort_unstable();
        assert_eq!(names, ["bond0", "eth2", "sim0", "sim0.42", "sim0v0"]);
    }
}
