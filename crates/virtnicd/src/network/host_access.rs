//! The host's own way to guests on macvtap: macvlan keeps a device's own traffic from the
//! macvtaps on it, so the host needs a macvlan of its own beside them.

use conf::{DirectMode, MacAddress, NetdevName, Network, PoolDevice};
use host::{HostError, MacvlanSpec, Netdev};
use lending::Note;
use rpc::{Code, Error};

use super::DOMAIN;
use crate::daemon::Daemon;
use crate::fault::{self, Result};

/// The beginning of the `ifalias` of such a device; the network's uuid follows.
const TAG: &str = "virtnic-host:";

impl Daemon {
    /// Says what a network is like whose host can't reach its guests.
    pub(super) fn say_host_access(network: &Network) {
        let mode = network.default_direct_mode();
        let is_shared = mode.is_some_and(|mode| mode != DirectMode::Passthrough);
        if is_shared && !network.extension.host_access {
            tracing::info!(
                network = network.name,
                "{}",
                Note::NoHostAccess { of_network: true }
            );
        }
    }

    /// Makes the macvlans of a network that asks for them. Blocks.
    pub(super) fn open_host_access(&self, network: &Network) -> Result<()> {
        if !network.extension.host_access {
            return Ok(());
        }
        for member in self.lender.members(&network.name) {
            let PoolDevice::Interface(parent) = member else {
                continue;
            };
            if let Err(error) = self.make_host_access(network, &parent) {
                self.close_host_access(network);
                let detail = format!(
                    "network '{}': no host access over '{parent}': {}",
                    network.name,
                    fault::chain(&error)
                );
                return Err(Error::new(Code::OperationFailed, DOMAIN, detail));
            }
        }
        Ok(())
    }

    /// Removes them. What can't be removed is logged; the next start of the daemon tries again.
    pub(super) fn close_host_access(&self, network: &Network) {
        self.remove_host_access(|of, _| of == network.uuid.to_string());
    }

    /// Removes those over devices that a network has no more.
    pub(super) fn prune_host_access(&self, network: &Network) {
        let mut parents = Vec::new();
        for member in self.lender.members(&network.name) {
            let PoolDevice::Interface(parent) = member else {
                continue;
            };
            match self.host.netdev(&parent) {
                Ok(parent) => parents.push(Some(parent.index)),
                Err(HostError::NoNetdev(_)) => {}
                Err(error) => {
                    // Which one is not needed any more can't be told.
                    tracing::error!(parent, error = fault::chain(&error), "not looked at");
                    return;
                }
            }
        }
        self.remove_host_access(|of, netdev| {
            of == network.uuid.to_string() && !parents.contains(&netdev.lower)
        });
    }

    /// Removes those of networks that don't run: left by a daemon that was killed meanwhile.
    pub(crate) fn sweep_host_access(&self) {
        let runs = |of: &str| {
            let uuid = of.parse().ok();
            uuid.and_then(|uuid| self.networks.by_uuid(uuid))
                .is_some_and(|network| network.is_active())
        };
        self.remove_host_access(|of, _| !runs(of));
    }

    fn make_host_access(
        &self,
        network: &Network,
        parent: &str,
    ) -> std::result::Result<(), HostError> {
        let parent = self.host.netdev(parent)?;
        let tag = format!("{TAG}{}", network.uuid);
        let is_there = |netdev: &Netdev| {
            netdev.lower == Some(parent.index) && netdev.alias.as_deref() == Some(&tag)
        };
        if self.host.netdevs()?.iter().any(is_there) {
            return Ok(());
        }
        let made = self.host.make_macvlan(&MacvlanSpec {
            name: own_name(parent.name),
            lower: parent.index,
            mode: DirectMode::Bridge,
            mac: own_mac(network, &parent),
            mtu: None,
            tap: false,
            tag,
        })?;
        self.host.set_up(made.index, true).inspect_err(|_| {
            // Its own failure is the lesser news.
            let _ = self.host.delete_link(made.index, made.name);
        })?;
        tracing::info!(network = network.name, netdev = %made.name, "host access");
        Ok(())
    }

    fn remove_host_access(&self, of: impl Fn(&str, &Netdev) -> bool) {
        let netdevs = match self.host.netdevs() {
            Ok(netdevs) => netdevs,
            Err(error) => {
                tracing::error!(error = fault::chain(&error), "host access is not removed");
                return;
            }
        };
        for netdev in netdevs {
            let network = netdev.alias.as_deref().and_then(|a| a.strip_prefix(TAG));
            if !network.is_some_and(|network| of(network, &netdev)) {
                continue;
            }
            if let Err(error) = self.host.delete_link(netdev.index, netdev.name) {
                tracing::error!(netdev = %netdev.name, error = fault::chain(&error), "not removed");
            }
        }
    }
}

/// The same for the same parent each time, so that addresses can be configured on it.
fn own_name(parent: NetdevName) -> NetdevName {
    let mut name = format!("h-{parent}");
    // Names are cut at a character, and what is cut is still a name.
    while name.len() > 15 {
        name.pop();
    }
    name.parse().unwrap_or(parent)
}

/// Locally administered, and the same each time.
fn own_mac(network: &Network, parent: &Netdev) -> MacAddress {
    let uuid = network.uuid.as_bytes();
    let index = parent.mac.bytes();
    MacAddress::new([
        0x02,
        uuid[0] ^ index[1],
        uuid[1] ^ index[2],
        uuid[2] ^ index[3],
        uuid[3] ^ index[4],
        uuid[4] ^ index[5],
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_parents_as_far_as_it_fits() {
        let own = |parent: &str| own_name(parent.parse().unwrap()).to_string();
        assert_eq!(own("eth0"), "h-eth0");
        assert_eq!(own("enp65s0f0np0v12"), "h-enp65s0f0np0v");
    }
}
