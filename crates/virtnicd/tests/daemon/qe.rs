//! What libvirt's own QE suite asks of a host that lends VFs, as far as a simulated one can show it.
//! `docs/tp-libvirt.md` says of each of its scenarios which test shows it.

mod failover;
mod flags;
mod lifecycle;
mod named;
mod plugging;
mod refused;
mod unlike;
mod whose;

use host::Host as _;
use rpc::*;

use crate::harness::*;
use crate::hotplug::MAC;
use crate::in_process::Site;

/// The first VF of `sim0`, and its name among node devices.
const VF: &str = "0000:02:00.0";
const VF_NODE: &str = "pci_0000_02_00_0";

/// The attributes of a `<address>` for a PCI address.
fn attributes(address: &str) -> String {
    let (domain, bus) = (&address[..4], &address[5..7]);
    let (slot, function) = (&address[8..10], &address[11..]);
    format!("domain='0x{domain}' bus='0x{bus}' slot='0x{slot}' function='0x{function}'")
}

/// An interface that is the function at that address; with `managed='…'`, or without a word of it.
fn vf_interface(address: &str, managed: &str, more: &str) -> String {
    format!(
        "<interface type='hostdev'{managed}><mac address='{MAC}'/><source><address type='pci' {}/>\
         </source>{more}</interface>",
        attributes(address)
    )
}

/// The same as a plain host device.
fn host_device(address: &str, managed: &str, more: &str) -> String {
    format!(
        "<hostdev mode='subsystem' type='pci'{managed}><source><address {}/></source>{more}\
         </hostdev>",
        attributes(address)
    )
}

const MANAGED: &str = " managed='yes'";

/// A macvtap over `sim1`, or whatever else is named.
fn direct(dev: &str, mode: &str) -> String {
    format!(
        "<interface type='direct'><mac address='{MAC}'/><source dev='{dev}' mode='{mode}'/>\
         <model type='virtio'/></interface>"
    )
}

/// Who drives a function of the host.
fn driver(site: &Site, address: &str) -> Option<String> {
    let device = site.simulation.host.pci_device(address.parse().unwrap());
    device.unwrap().driver
}

/// A guest with nine free ports, less what it gets of itself.
fn roomy(name: &str) -> String {
    guest_xml(name, &root_ports(9))
}

/// The first element of that name in a document.
fn element(document: &str, name: &str) -> String {
    let start = document.find(&format!("<{name} ")).unwrap();
    let end = format!("</{name}>");
    let length = document[start..].find(&end).unwrap() + end.len();
    document[start..start + length].to_owned()
}

/// How many connections a network's document tells.
async fn connections(client: &Client, net: &Net) -> u32 {
    let live = client.network_dump(net, 0).await;
    let count = live.split("<network connections='").nth(1);
    count.map_or(0, |rest| rest.split('\'').next().unwrap().parse().unwrap())
}
