//! What a network must be, beyond being well-spelt, to be defined.

use std::collections::HashSet;

use super::ip::network_part;
use super::{IpNetwork, Network, PortGroup};
use crate::xml::{Document, Keyword};
use crate::{
    Error, Faults, Form, ForwardMode, PciAddress, PoolMembers, VirtualPort, VirtualPortKind,
};

impl Network {
    /// Checks what can be told without looking at the host.
    ///
    /// # Errors
    /// [`crate::ErrorKind::ConfigUnsupported`], mostly, naming the network and all that is wrong with it.
    pub fn validate(&self) -> Result<(), Error> {
        self.check_kept()?;
        Error::all([
            self.check_addresses(),
            self.check_bandwidth(),
            self.check_members(),
            self.check_direct_modes(),
            self.check_hybrid(),
            self.check_lend(),
            self.check_groups(),
            self.check_vlans(),
            self.check_dhcp(),
            self.check_routes(),
        ])
    }

    /// Checks that its document, once it is kept, can be read again; to be asked of whatever was
    /// changed.
    ///
    /// # Errors
    /// [`crate::ErrorKind::ConfigUnsupported`], with what it has too much of.
    pub fn check_kept(&self) -> Result<(), Error> {
        Document::check_kept(&self.to_xml(Form::Inactive))
    }

    pub(super) fn mode_word(&self) -> &'static str {
        self.forward_mode().map_or("none", Keyword::word)
    }

    /// Only a bridge of our own has addresses to serve.
    fn check_addresses(&self) -> Result<(), Error> {
        if self.makes_bridge() {
            return Ok(());
        }
        let (ip, dns) = (&self.ip, &self.ip.dns);
        let records = [
            ("dns/txt", dns.texts.is_empty()),
            ("dns/host", dns.hosts.is_empty()),
            ("dns/srv", dns.services.is_empty()),
        ];
        let found = [
            ("mac", ip.mac.is_none()),
            ("ip", ip.addresses.is_empty()),
            ("domain", ip.domain.is_none()),
        ];
        let present = found
            .into_iter()
            .chain(records)
            .filter(|(_, absent)| !absent);
        Error::all(present.map(|(path, _)| {
            let (mode, name) = (self.mode_word(), path.trim_start_matches("dns/"));
            let message = format!("mode '{mode}' allows no <{name}>");
            Err(self.refuse_at(path, 0, message))
        }))
    }

    fn check_bandwidth(&self) -> Result<(), Error> {
        if self.makes_bridge() || self.existing_bridge().is_some() {
            return Ok(());
        }
        let mode = self.mode_word();
        let mut faults = Faults::default();
        if self.bandwidth.is_some() {
            let message = format!("mode '{mode}' allows no <bandwidth>");
            faults.push(self.refuse_at("bandwidth", 0, message));
        }
        let groups = self.port_groups.iter().enumerate();
        faults.each(
            groups.filter(|(_, g)| g.bandwidth.is_some()),
            |(nth, group)| {
                let message = format!(
                    "mode '{mode}' allows no <bandwidth> in portgroup '{}'",
                    group.name
                );
                Err(self.refuse_at("portgroup/bandwidth", nth, message))
            },
        );
        faults.finish()
    }

    fn check_members(&self) -> Result<(), Error> {
        let Some(forward) = &self.forward else {
            return Ok(());
        };
        let hostdev = forward.mode.lends_host_devices();
        match &forward.members {
            PoolMembers::Interfaces(names) if hostdev => {
                let message = format!(
                    "mode '{}' lends PCI devices: name '{}' by its <address>, or its PF as <pf>",
                    self.mode_word(),
                    names.first().map_or("", String::as_str)
                );
                // The name may stand in forward/@dev, too.
                let path = match self.is_placed("forward/interface") {
                    true => "forward/interface",
                    false => "forward",
                };
                Err(self.refuse_at(path, 0, message))
            }
            PoolMembers::Addresses(_) if !hostdev => Err(self.refuse_at(
                "forward/address",
                0,
                format_args!(
                    "mode '{}' lends network devices: name them by <interface>, not by <address>",
                    self.mode_word()
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Asks of each device that it lists by address what is wrong with it, and what a person can do
    /// about that.
    ///
    /// # Errors
    /// [`crate::ErrorKind::ConfigUnsupported`], with all that is wrong, each in its place.
    ///
    /// [`crate::ErrorKind::ConfigUnsupported`]: crate::ErrorKind::ConfigUnsupported
    pub fn check_listed(
        &self,
        wrong: impl Fn(PciAddress) -> Option<(String, Option<String>)>,
    ) -> Result<(), Error> {
        let members = self.forward.as_ref().map(|forward| &forward.members);
        let Some(PoolMembers::Addresses(addresses)) = members else {
            return Ok(());
        };
        let mut faults = Faults::default();
        faults.each(addresses.iter().enumerate(), |(nth, &address)| {
            let Some((message, advice)) = wrong(address) else {
                return Ok(());
            };
            Err(Error {
                advice,
                ..self.refuse_at("forward/address", nth, message)
            })
        });
        faults.finish()
    }

    fn check_groups(&self) -> Result<(), Error> {
        let (mut names, mut default) = (HashSet::new(), None);
        let mut faults = Faults::default();
        faults.each(self.port_groups.iter().enumerate(), |(nth, group)| {
            let refuse = |message: String| Err(self.refuse_at("portgroup", nth, message));
            if !names.insert(&group.name) {
                return refuse(format!("portgroup '{}' is there twice", group.name));
            }
            if !group.is_default {
                return Ok(());
            }
            match default.replace(&group.name) {
                None => Ok(()),
                Some(other) => refuse(format!(
                    "portgroups '{other}' and '{}' are both the default",
                    group.name
                )),
            }
        });
        faults.finish()
    }

    /// Who can tag frames: VFs, macvtap that has a VF to itself, and Open vSwitch.
    fn check_vlans(&self) -> Result<(), Error> {
        let open_vswitch =
            |port: &VirtualPort| port.kind.is_none_or(|k| k == VirtualPortKind::OpenVSwitch);
        let tags = match self.forward_mode() {
            Some(ForwardMode::Hostdev | ForwardMode::HostdevHybrid | ForwardMode::Passthrough) => {
                true
            }
            Some(ForwardMode::Bridge) => self.virtual_port.as_ref().is_none_or(open_vswitch),
            _ => false,
        };
        let bridge = self.forward_mode() == Some(ForwardMode::Bridge);
        let can_tag = |group: &PortGroup| match &group.virtual_port {
            Some(port) => bridge && port.kind == Some(VirtualPortKind::OpenVSwitch),
            None => tags,
        };
        let mut faults = Faults::default();
        faults.each(self.port_groups.iter().enumerate(), |(nth, group)| {
            let carries = group.vlan.is_some() || self.vlan.is_some();
            if !carries || can_tag(group) {
                return Ok(());
            }
            let (path, nth) = match group.vlan {
                Some(_) => ("portgroup/vlan", nth),
                None => ("vlan", 0),
            };
            let mode = self.mode_word();
            let message = format!(
                "mode '{mode}' can't set the <vlan> of portgroup '{}'",
                group.name
            );
            Err(self.refuse_at(path, nth, message))
        });
        let default_group = self.port_groups.iter().any(|group| group.is_default);
        if self.vlan.is_some() && !tags && !default_group {
            let message = format!("mode '{}' can't set a <vlan>", self.mode_word());
            faults.push(self.refuse_at("vlan", 0, message));
        }
        faults.finish()
    }

    pub(super) fn check_dhcp(&self) -> Result<(), Error> {
        for ipv6 in [false, true] {
            let mut serving = self.ip.addresses.iter().enumerate().filter(|(_, ip)| {
                ip.address.is_some_and(|address| address.is_ipv6() == ipv6) && ip.dhcp.serves()
            });
            if let Some((nth, _)) = serving.nth(1) {
                let family = if ipv6 { "IPv6" } else { "IPv4" };
                let message = format!("more than one {family} <ip> has a <dhcp>");
                return Err(self.refuse_at("ip/dhcp", nth, message));
            }
        }
        Ok(())
    }

    fn check_routes(&self) -> Result<(), Error> {
        let networks: HashSet<_> = self
            .ip
            .addresses
            .iter()
            .filter_map(IpNetwork::network)
            .collect();
        let mut prefixes: Vec<u8> = networks.iter().map(|(_, prefix)| *prefix).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        let mut faults = Faults::default();
        faults.each(self.ip.routes.iter().enumerate(), |(nth, route)| {
            let gateway = route.gateway;
            let inside = |&prefix: &u8| networks.contains(&(network_part(gateway, prefix), prefix));
            if prefixes.iter().any(inside) {
                return Ok(());
            }
            let message = format!(
                "the gateway {gateway} of the <route> to {} is in none of its <ip> networks",
                route.address
            );
            Err(self.refuse_at("route", nth, message))
        });
        faults.finish()
    }
}
