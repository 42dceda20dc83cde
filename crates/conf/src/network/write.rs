//! Writing `<network>`.

use std::collections::HashMap;

use super::read::DNSMASQ_NAMESPACE;
use super::{Nat, Network, NetworkBridge, PortGroup};
use crate::xml::{ToXml, VIRTNIC_NAMESPACE, Writer};
use crate::{Form, Forward, PciAddress, PoolMembers};

/// What a running network has beside its definition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkStatus {
    /// Guests' interfaces on the network.
    pub connections: u32,
    /// The devices of its pool, in order; those of a list that are missing here have no guests.
    pub devices: Vec<DeviceStatus>,
}

/// A device of a running pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceStatus {
    /// The device, as the document names it.
    pub device: PoolDevice,
    /// Guests' interfaces on it.
    pub connections: u32,
}

/// A device of a pool, as the document names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PoolDevice {
    /// A network device.
    Interface(String),
    /// A PCI function.
    Address(PciAddress),
}

/// How many guests' interfaces are on each device that has any.
#[derive(Default)]
struct Connections<'s> {
    interfaces: HashMap<&'s str, u32>,
    addresses: HashMap<PciAddress, u32>,
}

impl<'s> Connections<'s> {
    fn of(devices: &'s [DeviceStatus]) -> Self {
        let mut connections = Self::default();
        for status in devices.iter().filter(|status| status.connections > 0) {
            let count = status.connections;
            match &status.device {
                PoolDevice::Interface(name) => {
                    connections.interfaces.insert(name, count);
                }
                PoolDevice::Address(address) => {
                    connections.addresses.insert(*address, count);
                }
            }
        }
        connections
    }
}

impl Network {
    /// The definition as libvirt's canonical document; all forms are alike but for what
    /// [`Network::to_xml_live`] adds.
    #[must_use]
    pub fn to_xml(&self, form: Form) -> String {
        match form {
            Form::Inactive | Form::Migratable => self.document(None),
            Form::Live => self.document(Some(&NetworkStatus::default())),
        }
    }

    /// The document of a running network: its definition, how many guests use it and each device
    /// of its pool, and which devices its PFs turned out to have.
    #[must_use]
    pub fn to_xml_live(&self, status: &NetworkStatus) -> String {
        self.document(Some(status))
    }

    fn document(&self, status: Option<&NetworkStatus>) -> String {
        let mut writer = Writer::new();
        writer.element("network", |w| self.write(w, status));
        writer.finish()
    }

    fn write(&self, w: &mut Writer, status: Option<&NetworkStatus>) {
        let ip = &self.ip;
        if !ip.dnsmasq_options.is_empty() {
            w.attribute("xmlns:dnsmasq", DNSMASQ_NAMESPACE);
        }
        let connections = Connections::of(status.map_or(&[], |status| &status.devices));
        if self.has_extension() {
            w.attribute("xmlns:virtnic", VIRTNIC_NAMESPACE);
        }
        let guests = status.map_or(0, |status| status.connections);
        w.optional_attribute("connections", (guests > 0).then_some(guests));
        w.optional_attribute("ipv6", ip.ipv6.then_some("yes"));
        w.optional_yes_no("trustGuestRxFilters", self.trust_guest_rx_filters);
        w.text_element("name", &self.name);
        w.text_element("uuid", self.uuid);
        w.optional_text_element("title", self.title.as_deref());
        w.optional_text_element("description", self.description.as_deref());
        w.raws(&self.metadata);
        if let Some(forward) = &self.forward {
            let devices = status.map_or(&[][..], |status| &status.devices);
            w.element("forward", |w| {
                self.write_forward(forward, w, devices, &connections);
            });
        }
        self.write_bridge(w);
        if let Some(mtu) = ip.mtu {
            w.element("mtu", |w| w.attribute("size", mtu));
        }
        if let Some(mac) = ip.mac {
            w.element("mac", |w| w.attribute("address", mac));
        }
        w.write_optional(ip.domain.as_ref());
        w.write(&ip.dns);
        w.write_optional(self.vlan.as_ref());
        w.write_optional(self.bandwidth.as_ref());
        if let Some(isolated) = self.isolated_ports {
            w.element("port", |w| w.yes_no("isolated", isolated));
        }
        for address in &ip.addresses {
            w.write(address);
        }
        for route in &ip.routes {
            w.write(route);
        }
        w.write_optional(self.virtual_port.as_ref());
        for group in &self.port_groups {
            w.write(group);
        }
        if !ip.dnsmasq_options.is_empty() {
            w.element("dnsmasq:options", |w| {
                for option in &ip.dnsmasq_options {
                    w.element("dnsmasq:option", |w| w.attribute("value", option));
                }
            });
        }
        self.extension.write(w);
    }

    fn has_extension(&self) -> bool {
        !self.extension.is_default() || self.port_groups.iter().any(|group| group.vf.is_some())
    }

    fn write_bridge(&self, w: &mut Writer) {
        let own = self.makes_bridge();
        let default = NetworkBridge::default();
        let bridge = self.ip.bridge.as_ref().unwrap_or(&default);
        w.element_unless_empty("bridge", |w| {
            w.optional_attribute("name", bridge.name.as_deref());
            w.optional_attribute("zone", bridge.zone.as_deref());
            if own {
                w.attribute("stp", if bridge.stp { "on" } else { "off" });
                w.attribute("delay", bridge.delay);
            }
            w.optional_keyword("macTableManager", bridge.mac_table_manager);
        });
    }

    fn write_forward(
        &self,
        forward: &Forward,
        w: &mut Writer,
        devices: &[DeviceStatus],
        connections: &Connections<'_>,
    ) {
        if let PoolMembers::Interfaces(names) = &forward.members {
            w.optional_attribute("dev", names.first());
        }
        w.keyword("mode", forward.mode);
        if forward.mode.lends_host_devices() {
            w.yes_no("managed", forward.managed);
        }
        if !connections.addresses.is_empty() && !self.has_extension() {
            w.attribute("xmlns:virtnic", VIRTNIC_NAMESPACE);
        }
        w.write_optional(forward.driver.as_ref());
        w.write_optional(forward.nat.as_ref());
        match &forward.members {
            PoolMembers::None => {}
            PoolMembers::PhysicalFunctions(names) => {
                let counts: HashMap<_, _> = self
                    .extension
                    .vfs
                    .iter()
                    .map(|vfs| (&vfs.pf, vfs.count))
                    .collect();
                for name in names {
                    w.element("pf", |w| {
                        w.attribute("dev", name);
                        if let Some(count) = counts.get(name) {
                            w.element("virtnic:vfs", |w| w.attribute("count", count));
                        }
                    });
                }
                for device in devices {
                    match &device.device {
                        PoolDevice::Interface(name) => write_interface(name, w, connections),
                        PoolDevice::Address(address) => write_address(*address, w, connections),
                    }
                }
            }
            PoolMembers::Interfaces(names) => {
                for name in names {
                    write_interface(name, w, connections);
                }
            }
            PoolMembers::Addresses(addresses) => {
                for &address in addresses {
                    write_address(address, w, connections);
                }
            }
        }
    }
}

fn write_interface(name: &str, w: &mut Writer, connections: &Connections<'_>) {
    w.element("interface", |w| {
        w.attribute("dev", name);
        w.optional_attribute("connections", connections.interfaces.get(name));
    });
}

/// libvirt's format counts the guests of network devices only, so here the attribute is ours.
fn write_address(address: PciAddress, w: &mut Writer, connections: &Connections<'_>) {
    w.element("address", |w| {
        w.attribute("type", "pci");
        address.write_attributes(w);
        let connections = connections.addresses.get(&address);
        w.optional_attribute("virtnic:connections", connections);
    });
}

impl ToXml for Network {
    fn write_xml(&self, writer: &mut Writer) {
        writer.element("network", |w| self.write(w, None));
    }
}

impl ToXml for Nat {
    /// Nothing, where it says nothing.
    fn write_xml(&self, writer: &mut Writer) {
        writer.element_unless_empty("nat", |w| {
            w.optional_yes_no("ipv6", self.ipv6);
            if let Some((start, end)) = &self.addresses {
                w.element("address", |w| {
                    w.attribute("start", start);
                    w.attribute("end", end);
                });
            }
            if let Some((start, end)) = self.ports {
                w.element("port", |w| {
                    w.attribute("start", start);
                    w.attribute("end", end);
                });
            }
        });
    }
}

impl ToXml for PortGroup {
    fn write_xml(&self, writer: &mut Writer) {
        writer.element_with_end("portgroup", |w| {
            w.attribute("name", &self.name);
            w.optional_attribute("default", self.is_default.then_some("yes"));
            w.optional_yes_no("trustGuestRxFilters", self.trust_guest_rx_filters);
            w.write_optional(self.vlan.as_ref());
            w.write_optional(self.virtual_port.as_ref());
            w.write_optional(self.bandwidth.as_ref());
            if let Some(vf) = &self.vf {
                vf.write(w);
            }
        });
    }
}
