//! The host's own interfaces, as `virsh iface-list` and `iface-dumpxml` show them. They are looked
//! at and never changed here, and nothing is kept of them: each call looks at the host as it is.

use std::sync::Arc;

use conf::{
    BondMode, HostInterface, HostInterfaceKind, InterfaceState, MacAddress, MiiMonitor, NetLink,
};
use host::{BondDetails, HostError, Netdev, NetdevDetails, SharedHost};
use rpc::flags::ListInterfaces;
use rpc::{Code, Domain, Error, Iface};

use crate::blocking::blocking;
use crate::daemon::Daemon;
use crate::fault::{self, Result};

const DOMAIN: Domain = Domain::Interface;

/// How deep interfaces are shown inside others: a bridge's bond's members.
const DEEPEST: usize = 4;

/// What a look at the host gives.
type Seen<T> = std::result::Result<T, HostError>;

/// InterfaceFilter interfaces are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InterfaceFilter {
    Active,
    Inactive,
    All,
}

impl InterfaceFilter {
    /// The flags of a listing: none, or both, mean all.
    pub(crate) fn from_flags(flags: ListInterfaces) -> Self {
        match flags {
            ListInterfaces::ACTIVE => Self::Active,
            ListInterfaces::INACTIVE => Self::Inactive,
            _ => Self::All,
        }
    }

    fn takes(self, netdev: &Netdev) -> bool {
        match self {
            Self::Active => is_active(netdev),
            Self::Inactive => !is_active(netdev),
            Self::All => true,
        }
    }
}

impl Daemon {
    /// The host's interfaces, by name; those that were made for guests are not the host's.
    pub(crate) async fn host_interfaces(&self, which: InterfaceFilter) -> Result<Vec<Iface>> {
        let netdevs = self.look_at_netdevs(own_netdevs).await?;
        let mut found: Vec<Iface> = netdevs
            .iter()
            .filter(|netdev| which.takes(netdev))
            .map(iface)
            .collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// The interface of that name.
    pub(crate) async fn host_interface(&self, name: String) -> Result<Iface> {
        Ok(iface(&self.find_netdev(name).await?))
    }

    /// The one interface with that MAC.
    pub(crate) async fn host_interface_by_mac(&self, mac: &str) -> Result<Iface> {
        let netdevs = self.look_at_netdevs(own_netdevs).await?;
        let wanted: Option<MacAddress> = mac.parse().ok();
        let mut found = netdevs.iter().filter(|netdev| Some(netdev.mac) == wanted);
        match (found.next(), found.next()) {
            (Some(netdev), None) => Ok(iface(netdev)),
            (Some(one), Some(other)) => {
                let detail = format!(
                    "MAC {mac} is that of '{}' and of '{}'",
                    one.name, other.name
                );
                Err(Error::new(Code::MultipleInterfaces, DOMAIN, detail))
            }
            (None, _) => {
                let detail = format!("couldn't find interface with MAC address '{mac}'");
                Err(Error::new(Code::NoInterface, DOMAIN, detail))
            }
        }
    }

    /// Whether the interface of that name is up and has carrier.
    pub(crate) async fn is_host_interface_active(&self, name: String) -> Result<bool> {
        Ok(is_active(&self.find_netdev(name).await?))
    }

    /// The document of the interface of that name, with what it is made of.
    pub(crate) async fn host_interface_xml(&self, name: String) -> Result<String> {
        let netdev = self.find_netdev(name).await?;
        let described = self.look_at_netdevs(move |host| {
            let all = own_netdevs(host)?;
            describe(host, &netdev, &all, DEEPEST)
        });
        Ok(described.await?.to_xml())
    }

    async fn find_netdev(&self, name: String) -> Result<Netdev> {
        let missing = format!("couldn't find interface named '{name}'");
        let found = self.look_at_netdevs(move |host| match host.netdev(&name) {
            // Another name of the same device is not the one that lists tell.
            Ok(netdev) if netdev.name.as_str() == name && is_the_hosts(&netdev) => Ok(Some(netdev)),
            Ok(_) | Err(HostError::NoNetdev(_)) => Ok(None),
            Err(error) => Err(error),
        });
        found
            .await?
            .ok_or_else(|| Error::new(Code::NoInterface, DOMAIN, missing))
    }

    /// Looks at the host, on a thread that may wait for it.
    async fn look_at_netdevs<T: Send + 'static>(
        &self,
        at: impl FnOnce(&SharedHost) -> Seen<T> + Send + 'static,
    ) -> Result<T> {
        let host = Arc::clone(&self.host);
        let seen = blocking(DOMAIN, move || at(&host)).await?;
        seen.map_err(fault::host(DOMAIN))
    }
}

fn own_netdevs(host: &SharedHost) -> Seen<Vec<Netdev>> {
    let mut netdevs = host.netdevs()?;
    netdevs.retain(is_the_hosts);
    Ok(netdevs)
}

/// Macvtaps and taps that were made for guests come and go with them.
fn is_the_hosts(netdev: &Netdev) -> bool {
    !netdev.is_ours()
}

fn is_active(netdev: &Netdev) -> bool {
    netdev.state.up && netdev.state.carrier
}

fn iface(netdev: &Netdev) -> Iface {
    Iface {
        name: netdev.name.to_string(),
        mac: netdev.mac.to_string(),
    }
}

/// The interface with those in it. Of one that is gone by now it says what was known.
fn describe(
    host: &SharedHost,
    netdev: &Netdev,
    all: &[Netdev],
    deepest: usize,
) -> Seen<HostInterface> {
    let details = match host.netdev_details(netdev) {
        Err(error) if is_gone(&error) => NetdevDetails::default(),
        details => details?,
    };
    let members = || -> Seen<Vec<HostInterface>> {
        let members = all.iter().filter(|one| one.master == Some(netdev.index));
        let mut members: Vec<_> = match deepest {
            0 => Vec::new(),
            _ => members
                .map(|member| describe(host, member, all, deepest - 1))
                .collect::<Seen<_>>()?,
        };
        members.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(members)
    };
    let below = || {
        let lower = all.iter().find(|one| Some(one.index) == netdev.lower)?;
        Some(lower.name.to_string())
    };
    let kind = match (netdev.kind.as_deref(), details.vlan, below()) {
        (Some("bridge"), ..) => HostInterfaceKind::Bridge {
            stp: details.bridge.map(|bridge| bridge.stp),
            forward_delay: details.bridge.map(|bridge| bridge.forward_delay),
            ports: members()?,
        },
        (Some("bond"), ..) => HostInterfaceKind::Bond {
            mode: details.bond.and_then(|bond| bond_mode(bond.mode)),
            mii: details.bond.and_then(mii),
            members: members()?,
        },
        (Some("vlan"), Some(tag), Some(below)) => HostInterfaceKind::Vlan { tag, below },
        _ => HostInterfaceKind::Ethernet,
    };
    let state = if is_active(netdev) {
        InterfaceState::Up
    } else {
        InterfaceState::Down
    };
    Ok(HostInterface {
        name: netdev.name.to_string(),
        mac: Some(netdev.mac),
        mtu: Some(netdev.state.mtu),
        link: NetLink {
            speed: details.speed,
            state: Some(state),
        },
        kind,
    })
}

fn is_gone(error: &HostError) -> bool {
    const ENODEV: i32 = 19;
    matches!(error, HostError::NoNetdev(_)) || error.errno() == Some(ENODEV)
}

/// The kernel's numbers, `BOND_MODE_*`.
fn bond_mode(mode: u8) -> Option<BondMode> {
    Some(match mode {
        0 => BondMode::BalanceRr,
        1 => BondMode::ActiveBackup,
        2 => BondMode::BalanceXor,
        3 => BondMode::Broadcast,
        4 => BondMode::Lacp,
        5 => BondMode::BalanceTlb,
        6 => BondMode::BalanceAlb,
        _ => return None,
    })
}

/// A bond that does not look at its links says nothing of it.
fn mii(bond: BondDetails) -> Option<MiiMonitor> {
    (bond.mii_frequency > 0).then_some(MiiMonitor {
        frequency: bond.mii_frequency,
        up_delay: Some(bond.up_delay),
        down_delay: Some(bond.down_delay),
    })
}

#[cfg(test)]
mod tests {
    use host::{Links as _, SimulatedHost, SimulatedShape};

    use super::*;

    fn document(host: &SimulatedHost, name: &str) -> String {
        let shared: SharedHost = Arc::new(host.clone());
        let netdev = host.netdev(name).unwrap();
        let all = own_netdevs(&shared).unwrap();
        describe(&shared, &netdev, &all, DEEPEST).unwrap().to_xml()
    }

    #[test]
    fn a_bridge_holds_its_bond_and_that_its_members() {
        let host = SimulatedHost::new("pfs=2,vfs=2".parse::<SimulatedShape>().unwrap());
        host.add_bridge("br0").unwrap();
        let bond = host.add_bond("bond0", &["sim0", "sim1"]).unwrap();
        let bridge = host.netdev("br0").unwrap();
        host.set_master(bond.index, Some(bridge.index)).unwrap();
        let xml = document(&host, "br0");
        let names: Vec<_> = xml
            .split(" name='")
            .skip(1)
            .map(|rest| rest.split('\'').next().unwrap())
            .collect();
        assert_eq!(names, ["br0", "bond0", "sim0", "sim1"], "{xml}");
        assert!(xml.starts_with("<interface type='bridge'"), "{xml}");
        assert!(xml.contains("<interface type='bond'"), "{xml}");
        assert!(!document(&host, "sim0").contains("br0"));
    }

    #[test]
    fn the_kernels_numbers_of_bonds_are_words() {
        let words: Vec<_> = (0..8).map(|mode| bond_mode(mode).is_some()).collect();
        assert_eq!(words, [true, true, true, true, true, true, true, false]);
        assert_eq!(bond_mode(4), Some(BondMode::Lacp));
        assert_eq!(mii(BondDetails::default()), None);
    }
}
