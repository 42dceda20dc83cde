//! The documents that the tests hand in.

use uuid::Uuid;

pub(crate) fn network_xml(name: &str, pf: &str) -> String {
    format!(
        "<network><name>{name}</name>\
         <forward mode='hostdev' managed='yes'><pf dev='{pf}'/></forward></network>"
    )
}

/// A small guest with those devices.
pub(crate) fn guest_xml(name: &str, devices: &str) -> String {
    format!(
        "<domain type='kvm'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os>\
         <devices>{devices}</devices></domain>"
    )
}

/// An interface on a network.
pub(crate) fn on_network(network: &str) -> String {
    format!("<interface type='network'><source network='{network}'/></interface>")
}

/// A port of an interface of the guest `guest`, with the last byte of its MAC.
pub(crate) fn port_xml(uuid: Uuid, guest: &str, mac: u8) -> String {
    let owner = Uuid::from_u128(0xbeef_0000 + u128::from(mac));
    format!(
        "<networkport><uuid>{uuid}</uuid>\
         <owner><name>{guest}</name><uuid>{owner}</uuid></owner>\
         <mac address='52:54:00:00:00:{mac:02x}'/></networkport>"
    )
}
