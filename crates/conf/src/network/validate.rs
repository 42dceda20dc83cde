//! What a network must be, beyond being well-spelt, to be defined.

use std::collections::HashSet;

use super::ip::network_part;
use super::{IpNetwork, Network, PortGroup};
use crate::xml::{Document, Keyword};
use crate::{Error, ErrorKind, Form, ForwardMode, PoolMembers, VirtualPort, VirtualPortKind};

impl Network {
    /// Checks what can be told without looking at the host.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigUnsupported`], mostly, naming the network and all that is wrong with it.
    pub fn validate(&self) -> Result<(), Error> {
        self.check_kept()?;
        Error::all([
            self.check_addresses(),
            self.check_bandwidth(),
            self.check_members(),
            self.check_direct_modes(),
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
    /// [`ErrorKind::ConfigUnsupported`], with what it has too much of.
    pub fn check_kept(&self) -> Result<(), Error> {
        Document::check_kept(&self.to_xml(Form::Inactive))
    }

    pub(super) fn refuse(&self, message: impl std::fmt::Display) -> Error {
        Error::new(
            ErrorKind::ConfigUnsupported,
            format!("network '{}': {message}", self.name),
        )
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
            ("<txt>", dns.texts.is_empty()),
            ("<host>", dns.hosts.is_empty()),
            ("<srv>", dns.services.is_empty()),
        ];
        let found = [
            ("<mac>", ip.mac.is_none()),
            ("<ip>", ip.addresses.is_empty()),
            ("<domain>", ip.domain.is_none()),
        ];
        match found.iter().chain(&records).find(|(_, absent)| !absent) {
            None => Ok(()),
            Some((name, _)) => {
                let mode = self.mode_word();
                Err(self.refuse(format_args!("mode '{mode}' allows no {name}")))
            }
        }
    }

    fn check_bandwidth(&self) -> Result<(), Error> {
        if self.makes_bridge() || self.existing_bridge().is_some() {
            return Ok(());
        }
        let mode = self.mode_word();
        if self.bandwidth.is_some() {
            return Err(self.refuse(format_args!("mode '{mode}' allows no <bandwidth>")));
        }
        match self.port_groups.iter().find(|g| g.bandwidth.is_some()) {
            None => Ok(()),
            Some(group) => Err(self.refuse(format_args!(
                "mode '{mode}' allows no <bandwidth> in portgroup '{}'",
                group.name
            ))),
        }
    }

    fn check_members(&self) -> Result<(), Error> {
        let Some(forward) = &self.forward else {
            return Ok(());
        };
        let hostdev = forward.mode.lends_host_devices();
        match &forward.members {
            PoolMembers::Interfaces(names) if hostdev => Err(self.refuse(format_args!(
                "mode '{}' lends PCI devices: name '{}' by its <address>, or its PF as <pf>",
                self.mode_word(),
                names.first().map_or("", String::as_str)
            ))),
            PoolMembers::Addresses(_) if !hostdev => Err(self.refuse(format_args!(
                "mode '{}' lends network devices: name them by <interface>, not by <address>",
                self.mode_word()
            ))),
            _ => Ok(()),
        }
    }

    fn check_groups(&self) -> Result<(), Error> {
        let (mut names, mut default) = (HashSet::new(), None);
        for group in &self.port_groups {
            if !names.insert(&group.name) {
                return Err(self.refuse(format_args!("portgroup '{}' is there twice", group.name)));
            }
            if !group.is_default {
                continue;
            }
            if let Some(other) = default.replace(&group.name) {
                return Err(self.refuse(format_args!(
                    "portgroups '{other}' and '{}' are both the default",
                    group.name
                )));
            }
        }
        Ok(())
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
        for group in &self.port_groups {
            let carries = group.vlan.is_some() || self.vlan.is_some();
            if carries && !can_tag(group) {
                return Err(self.refuse(format_args!(
                    "mode '{}' can't set the <vlan> of portgroup '{}'",
                    self.mode_word(),
                    group.name
                )));
            }
        }
        let default_group = self.port_groups.iter().any(|group| group.is_default);
        if self.vlan.is_some() && !tags && !default_group {
            return Err(self.refuse(format_args!(
                "mode '{}' can't set a <vlan>",
                self.mode_word()
            )));
        }
        Ok(())
    }

    pub(super) fn check_dhcp(&self) -> Result<(), Error> {
        for ipv6 in [false, true] {
            let serving = self.ip.addresses.iter().filter(|ip| {
                ip.address.is_some_and(|address| address.is_ipv6() == ipv6) && ip.dhcp.serves()
            });
            if serving.count() > 1 {
                let family = if ipv6 { "IPv6" } else { "IPv4" };
                return Err(self.refuse(format_args!("more than one {family} <ip> has a <dhcp>")));
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
        for route in &self.ip.routes {
            let gateway = route.gateway;
            let inside = |&prefix: &u8| networks.contains(&(network_part(gateway, prefix), prefix));
            if !prefixes.iter().any(inside) {
                return Err(self.refuse(format_args!(
                    "the gateway {gateway} of the <route> to {} is in none of its <ip> networks",
                    route.address
                )));
            }
        }
        Ok(())
    }
}
