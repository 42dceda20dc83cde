//! The real kernel's network devices.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use conf::{Bandwidth, DirectMode, MacAddress, NetdevName, PciAddress};

use super::LinuxHost;
use super::netlink::{Device, Kind, PortFlags};
use super::sysfs::Reading;
use super::tap::set_group;
use crate::{
    BridgePort, BridgeVlan, Counters, HostError, Ipv6Autoconf, Links, MacvlanSpec, Netdev,
    NetdevDetails, NicAbility, Operation, PhysicalFunction, PortRequest, RxFilter, TapQueues,
    TapSpec, Usage, VirtualFunction, VlanSpec,
};

impl Links for LinuxHost {
    fn netdevs(&self) -> Result<Vec<Netdev>, HostError> {
        let devices = self.netlink.devices().map_err(|source| HostError::Kernel {
            operation: Operation::ReadNetdev,
            target: String::from("the host"),
            source,
        })?;
        let mut netdevs = Vec::with_capacity(devices.len());
        for device in devices {
            match self.netdev_of(device) {
                Ok(netdev) => netdevs.push(netdev),
                // It went while we looked, or no document can name it.
                Err(HostError::NoNetdev(name)) => tracing::debug!(name, "passed over"),
                Err(error) => return Err(error),
            }
        }
        Ok(netdevs)
    }

    fn netdev(&self, name: &str) -> Result<Netdev, HostError> {
        let found = self.netlink.device_named(name);
        let found = found.map_err(|source| HostError::Kernel {
            operation: Operation::ReadNetdev,
            target: format!("'{name}'"),
            source,
        })?;
        self.netdev_of(found.ok_or_else(|| HostError::NoNetdev(name.to_owned()))?)
    }

    fn netdev_usage(&self, netdev: &Netdev) -> Result<Vec<Usage>, HostError> {
        // It may have been renamed meanwhile.
        let device = self.netlink.device(netdev.index);
        let device = self.tell(Operation::ReadUsage, netdev.index, device)?;
        self.usage_of_netdev(&device.name, false)
    }

    fn netdev_details(&self, netdev: &Netdev) -> Result<NetdevDetails, HostError> {
        let details = self.netlink.details(netdev.index);
        let details = self.tell(Operation::ReadNetdev, netdev.index, details)?;
        let directory = self.sysfs.netdev_dir(netdev.name.as_str());
        Ok(NetdevDetails {
            speed: directory.and_then(|directory| speed(&directory)),
            ..details
        })
    }

    fn nic_ability(&self, netdev: &Netdev) -> Result<NicAbility, HostError> {
        self.ability_of(netdev)
    }

    fn netdev_counters(&self, ifindex: u32) -> Result<Counters, HostError> {
        self.tell(
            Operation::ReadCounters,
            ifindex,
            self.netlink.counters(ifindex),
        )
    }

    fn vf_counters(&self, vf: &VirtualFunction) -> Result<Option<Counters>, HostError> {
        let counters = self.netlink.vf_counters(vf.pf_ifindex, vf.number);
        counters.map_err(|error| Self::refused_vf(vf, Operation::ReadCounters, error))
    }

    fn set_up(&self, ifindex: u32, up: bool) -> Result<(), HostError> {
        self.tell(Operation::SetUp, ifindex, self.netlink.set_up(ifindex, up))
    }

    fn set_macvlan_mode(&self, netdev: &Netdev, mode: DirectMode) -> Result<(), HostError> {
        self.tell(
            Operation::SetMacvlanMode,
            netdev.index,
            self.netlink.set_macvlan_mode(netdev.index, mode),
        )
    }

    fn ipv6_autoconf(&self, ifindex: u32) -> Result<Option<Ipv6Autoconf>, HostError> {
        self.autoconf_of(ifindex)
    }

    fn set_addr_gen_mode(&self, ifindex: u32, mode: u8) -> Result<(), HostError> {
        self.change_addr_gen_mode(ifindex, mode)
    }

    fn set_accept_ra(&self, ifindex: u32, accept: i32) -> Result<(), HostError> {
        self.change_accept_ra(ifindex, accept)
    }

    fn set_mac(&self, ifindex: u32, mac: MacAddress) -> Result<(), HostError> {
        self.tell(
            Operation::SetNetdevMac,
            ifindex,
            self.netlink.set_mac(ifindex, mac),
        )
    }

    fn set_mtu(&self, ifindex: u32, mtu: u32) -> Result<(), HostError> {
        self.tell(
            Operation::SetMtu,
            ifindex,
            self.netlink.set_mtu(ifindex, mtu),
        )
    }

    fn make_macvlan(&self, spec: &MacvlanSpec) -> Result<Netdev, HostError> {
        self.macvlan(spec)
    }

    fn make_vlan(&self, spec: &VlanSpec) -> Result<Netdev, HostError> {
        self.vlan(spec)
    }

    fn open_macvtap(&self, netdev: &Netdev, queues: TapQueues) -> Result<Vec<OwnedFd>, HostError> {
        self.macvtap_queues(netdev.index, netdev.name, queues)
    }

    fn make_tap(&self, spec: &TapSpec) -> Result<(Netdev, Vec<OwnedFd>), HostError> {
        self.tap(spec)
    }

    fn open_tap(&self, name: NetdevName, queues: TapQueues) -> Result<Vec<OwnedFd>, HostError> {
        self.queues_of(name, queues)
    }

    fn open_vhost(&self, count: u16) -> Result<Vec<OwnedFd>, HostError> {
        self.vhosts(count)
    }

    fn delete_link(&self, ifindex: u32, name: NetdevName) -> Result<(), HostError> {
        const ENODEV: i32 = rustix::io::Errno::NODEV.raw_os_error();
        let deleted = match self.netlink.device(ifindex) {
            Err(error) if crate::errno(&error) == Some(ENODEV) => Ok(()),
            Ok(device) if device.name != name.as_str() => Ok(()),
            Ok(_) => self.netlink.delete(ifindex),
            Err(error) => Err(error),
        };
        deleted.map_err(|source| HostError::Kernel {
            operation: Operation::DeleteLink,
            target: format!("'{name}'"),
            source,
        })
    }

    fn set_master(&self, ifindex: u32, master: Option<u32>) -> Result<(), HostError> {
        let set = self.netlink.set_master(ifindex, master.unwrap_or(0));
        self.tell(Operation::SetMaster, ifindex, set)
    }

    fn set_bridge_port(&self, ifindex: u32, port: &BridgePort) -> Result<(), HostError> {
        let flags = PortFlags {
            isolated: port.isolated,
            learning: port.learning,
            unicast_flood: port.unicast_flood,
        };
        if flags != PortFlags::default() {
            self.tell(
                Operation::SetBridgePort,
                ifindex,
                self.netlink.set_port(ifindex, flags),
            )?;
            self.check_port(ifindex, flags)?;
        }
        match &port.vlans {
            Some(vlans) => self.set_port_vlans(ifindex, vlans),
            None => Ok(()),
        }
    }

    fn set_bridge_mac(
        &self,
        ifindex: u32,
        mac: MacAddress,
        present: bool,
    ) -> Result<(), HostError> {
        let set = self.netlink.set_port_mac(ifindex, mac, present);
        self.tell(Operation::SetBridgeMac, ifindex, set)
    }

    fn rx_filter(&self, ifindex: u32) -> Result<RxFilter, HostError> {
        let device = self.tell(Operation::ReadNetdev, ifindex, self.netlink.device(ifindex))?;
        Ok(RxFilter {
            promiscuous: device.promiscuous,
            all_multicast: device.all_multicast,
            multicast: self.groups_of(&device)?,
        })
    }

    fn set_rx_filter(&self, ifindex: u32, filter: &RxFilter) -> Result<(), HostError> {
        let device = self.tell(
            Operation::SetRxFilter,
            ifindex,
            self.netlink.device(ifindex),
        )?;
        let now = self.groups_of(&device)?;
        let missing = filter.multicast.iter().filter(|group| !now.contains(group));
        let beyond = now.iter().filter(|group| !filter.multicast.contains(group));
        // First what is let in, so that nothing is missed meanwhile.
        let add = missing.map(|group| (group, true));
        for (group, present) in add.chain(beyond.map(|group| (group, false))) {
            let set = set_group(&device.name, *group, present);
            self.tell(Operation::SetRxFilter, ifindex, set)?;
        }
        let set = (self.netlink).set_open(ifindex, filter.promiscuous, filter.all_multicast);
        self.tell(Operation::SetRxFilter, ifindex, set)
    }

    fn set_bandwidth(&self, ifindex: u32, bandwidth: &Bandwidth) -> Result<(), HostError> {
        self.shape(ifindex, bandwidth)
    }

    fn autoprobe(&self, pf: &PhysicalFunction) -> Result<bool, HostError> {
        self.autoprobe_of(pf)
    }

    fn set_autoprobe(&self, pf: &PhysicalFunction, on: bool) -> Result<(), HostError> {
        self.change_autoprobe(pf, on)
    }

    fn port_profile(&self, request: &PortRequest) -> Result<(), HostError> {
        self.ask_port(request)
    }
}

impl LinuxHost {
    /// A device in the host's words. [`HostError::NoNetdev`]: it went meanwhile, or its name can't
    /// be written in a document.
    pub(super) fn netdev_of(&self, device: Device) -> Result<Netdev, HostError> {
        let name = device.name.parse();
        let name = name.map_err(|_| HostError::NoNetdev(device.name.clone()))?;
        let pci = self.function_of(&device)?;
        Ok(Netdev {
            index: device.index,
            name,
            alternative_names: device.alternative_names,
            mac: device.mac,
            state: device.state,
            kind: device.kind.as_ref().map(|kind| kind.as_str().to_owned()),
            vlan: match device.kind {
                Some(Kind::Vlan(Some(id))) => id.try_into().ok(),
                _ => None,
            },
            lower: device.lower,
            master: device.master,
            alias: device.alias,
            pci,
            link_type: device.link_type,
        })
    }

    fn function_of(&self, device: &Device) -> Result<Option<PciAddress>, HostError> {
        match &device.parent {
            Some((bus, parent)) if bus == "pci" => {
                let address = parent.parse().map_err(|_| HostError::Malformed {
                    target: format!("'{}'", device.name),
                    what: format!("'{parent}' is no PCI address"),
                })?;
                Ok(Some(address))
            }
            // What has a kind is made of software; kernels before 5.15 tell nothing of a card's.
            None if device.kind.is_none() => match self.sysfs.pci_address_of(&device.name) {
                Ok(address) => Ok(Some(address)),
                Err(HostError::NotPci(_) | HostError::NoNetdev(_)) => Ok(None),
                Err(error) => Err(error),
            },
            Some(_) | None => Ok(None),
        }
    }

    /// An outcome with the device's name in its error.
    pub(super) fn tell<T>(
        &self,
        operation: Operation,
        ifindex: u32,
        outcome: io::Result<T>,
    ) -> Result<T, HostError> {
        outcome.map_err(|source| HostError::Kernel {
            operation,
            target: match self.netlink.device(ifindex) {
                Ok(device) => format!("'{}'", device.name),
                Err(_) => format!("network device {ifindex}"),
            },
            source,
        })
    }

    fn check_port(&self, ifindex: u32, wanted: PortFlags) -> Result<(), HostError> {
        let device = self.netlink.device(ifindex);
        let device = self.tell(Operation::SetBridgePort, ifindex, device)?;
        let now = device.port.unwrap_or_default();
        let kept = |wanted: Option<bool>, now: Option<bool>| wanted.is_none() || wanted == now;
        if kept(wanted.isolated, now.isolated)
            && kept(wanted.learning, now.learning)
            && kept(wanted.unicast_flood, now.unicast_flood)
        {
            return Ok(());
        }
        Err(HostError::Unsupported {
            target: format!("'{}'", device.name),
            reason: format!("as a bridge port it should be {wanted:?}, and is {now:?}"),
        })
    }

    fn set_port_vlans(&self, ifindex: u32, vlans: &[BridgeVlan]) -> Result<(), HostError> {
        let operation = Operation::SetBridgePort;
        self.expect_vlan_filtering(ifindex)?;
        let before = self.tell(operation, ifindex, self.netlink.port_vlans(ifindex))?;
        for vlan in vlans {
            let added = self.netlink.add_port_vlan(ifindex, *vlan);
            self.tell(operation, ifindex, added)?;
        }
        let is_wanted = |vlan: &BridgeVlan| vlans.iter().any(|wanted| wanted.id == vlan.id);
        for vlan in before.into_iter().filter(|vlan| !is_wanted(vlan)) {
            let removed = self.netlink.remove_port_vlan(ifindex, vlan);
            self.tell(operation, ifindex, removed)?;
        }
        let mut now = self.tell(operation, ifindex, self.netlink.port_vlans(ifindex))?;
        let mut wanted = vlans.to_vec();
        now.sort_unstable_by_key(|vlan| vlan.id);
        wanted.sort_unstable_by_key(|vlan| vlan.id);
        if now == wanted {
            return Ok(());
        }
        Err(HostError::Unsupported {
            target: format!("network device {ifindex}"),
            reason: format!(
                "as a bridge port it should have the VLANs {wanted:?}, and has {now:?}"
            ),
        })
    }

    /// VLANs of ports mean nothing to a bridge that doesn't look at them.
    fn expect_vlan_filtering(&self, ifindex: u32) -> Result<(), HostError> {
        let operation = Operation::SetBridgePort;
        let device = self.tell(operation, ifindex, self.netlink.device(ifindex))?;
        let unable = |target: &str, reason: String| HostError::Unsupported {
            target: format!("'{target}'"),
            reason,
        };
        let Some(master) = device.master else {
            return Err(unable(&device.name, String::from("it is in no bridge")));
        };
        let bridge = self.tell(operation, master, self.netlink.device(master))?;
        match bridge.kind {
            Some(Kind::Bridge {
                filters_vlans: true,
            }) => Ok(()),
            Some(Kind::Bridge { .. }) => {
                let reason = format!(
                    "it does not filter VLANs; switch that on with: ip link set {} type bridge \
                     vlan_filtering 1",
                    bridge.name
                );
                Err(unable(&bridge.name, reason))
            }
            _ => Err(unable(&bridge.name, String::from("it is no bridge"))),
        }
    }

    /// The multicast groups that were given to a device; without those that the kernel itself
    /// listens to.
    fn groups_of(&self, device: &Device) -> Result<Vec<MacAddress>, HostError> {
        let reading = Reading {
            operation: Operation::ReadNetdev,
            target: &device.name,
        };
        let file = self.paths.proc.join("thread-self/net/dev_mcast");
        let table = reading.table(&file)?.unwrap_or_default();
        let mut groups: Vec<_> = table
            .lines()
            .filter_map(|line| read_group(line, device.index))
            .collect();
        groups.sort_unstable();
        Ok(groups)
    }
}

/// A line of `/proc/net/dev_mcast`: index, name, users, of these those who asked by hand, MAC.
fn read_group(line: &str, ifindex: u32) -> Option<MacAddress> {
    let mut words = line.split_whitespace();
    let index: u32 = words.next()?.parse().ok()?;
    let given: u32 = words.nth(2)?.parse().ok()?;
    let hex = words.next()?;
    if index != ifindex || given == 0 || hex.len() != 12 || !hex.is_ascii() {
        return None;
    }
    let mut bytes = [0; 6];
    for (place, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * place..2 * place + 2], 16).ok()?;
    }
    Some(MacAddress::new(bytes))
}

/// Mbit/s. Without carrier the kernel refuses to tell, and of what has no speed it tells -1.
fn speed(directory: &Path) -> Option<u32> {
    let speed = std::fs::read_to_string(directory.join("speed")).ok()?;
    let speed: u32 = speed.trim().parse().ok()?;
    // What drivers tell that don't know: all ones, as a number without a sign.
    (speed > 0 && speed < u32::MAX).then_some(speed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_groups_that_were_given_count() {
        let table = "\
2    eth0            1     0     333300000001
9    macvtap0        1     1     01005e000005
9    macvtap0        2     0     333300000001
9    macvtap0        1     1     0100
9    macvtap0        1
";
        let groups: Vec<_> = table.lines().filter_map(|l| read_group(l, 9)).collect();
        assert_eq!(groups, ["01:00:5e:00:00:05".parse().unwrap()]);
    }
}
