//! Where a document said what can be refused only later, when all of the network is known.

use std::collections::HashMap;

use super::Network;
use crate::error::shortened;
use crate::xml::{Element, VIRTNIC_NAMESPACE};
use crate::{Error, ErrorKind};

/// Elements below `<network>` of which the first is refused, if any is.
const FIRST: [&str; 8] = [
    "mac",
    "ip",
    "domain",
    "forward",
    "bandwidth",
    "vlan",
    "port",
    "virtualport",
];
/// The same below another.
const FIRST_BELOW: [(&str, &str, &str); 4] = [
    ("forward", "interface", "forward/interface"),
    ("dns", "txt", "dns/txt"),
    ("dns", "host", "dns/host"),
    ("dns", "srv", "dns/srv"),
];

/// The same of virtnic's own.
const OURS: [(&str, &str); 4] = [
    ("pool", "virtnic:pool"),
    ("vf", "virtnic:vf"),
    ("direct", "virtnic:direct"),
    ("hybrid", "virtnic:hybrid"),
];

/// How many `<address>`es are noted, each of which may be refused.
const MAX_ADDRESSES: usize = 1024;

/// Lines and columns by path below `<network>` and number among those of that path, from 0. They
/// are no part of what a network is: any two are equal.
#[derive(Debug, Clone, Default)]
pub struct Places(HashMap<(&'static str, usize), (u32, u32)>);

impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Places {}

impl Places {
    pub(super) fn of(network: Element<'_>) -> Self {
        let mut places = Self::default();
        for path in FIRST {
            places.note(path, 0, network.child(path));
        }
        for (outer, name, path) in FIRST_BELOW {
            places.note(path, 0, network.child(outer).and_then(|e| e.child(name)));
        }
        let listed = network.child("forward");
        let listed = listed.into_iter().flat_map(|f| f.children_named("address"));
        for (nth, address) in listed.take(MAX_ADDRESSES).enumerate() {
            places.note("forward/address", nth, Some(address));
        }
        for (name, path) in OURS {
            places.note(path, 0, network.children_in(VIRTNIC_NAMESPACE, name).next());
        }
        for (nth, group) in network.children_named("portgroup").enumerate() {
            places.note("portgroup", nth, Some(group));
            places.note("portgroup/vlan", nth, group.child("vlan"));
            places.note("portgroup/bandwidth", nth, group.child("bandwidth"));
            places.note("portgroup/virtualport", nth, group.child("virtualport"));
            let vf = group.children_in(VIRTNIC_NAMESPACE, "vf").next();
            places.note("portgroup/virtnic:vf", nth, vf);
        }
        let serving = network.children_named("ip").map(|ip| ip.child("dhcp"));
        for (nth, dhcp) in serving.enumerate() {
            places.note("ip/dhcp", nth, dhcp);
        }
        for (nth, route) in network.children_named("route").enumerate() {
            places.note("route", nth, Some(route));
        }
        places
    }

    fn note(&mut self, path: &'static str, nth: usize, element: Option<Element<'_>>) {
        if let Some(element) = element {
            self.0.insert((path, nth), element.position());
        }
    }
}

impl Network {
    /// An error about one of its elements, placed where its document had that.
    pub(super) fn refuse_at(
        &self,
        path: &'static str,
        nth: usize,
        message: impl std::fmt::Display,
    ) -> Error {
        let position = self.places.0.get(&(path, nth)).copied();
        Error {
            position,
            path: position.map(|_| shortened(format!("/network/{path}"))),
            ..self.refuse(message)
        }
    }

    /// Whether its document has such an element.
    pub(super) fn is_placed(&self, path: &'static str) -> bool {
        self.places.0.contains_key(&(path, 0))
    }

    /// An error about it as a whole, or about what is not in its document.
    pub(super) fn refuse(&self, message: impl std::fmt::Display) -> Error {
        Error::new(
            ErrorKind::ConfigUnsupported,
            format!("network '{}': {message}", self.name),
        )
    }
}
