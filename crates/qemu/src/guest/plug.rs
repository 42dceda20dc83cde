//! Plugging a device in: several commands, and what undoes them.

use std::os::fd::OwnedFd;

use conf::{DeviceInfo, Disk, Domain, HostDevice, HostSource, Interface, PciAddress, Teaming};
use serde_json::Value;

use super::undo::{Done, Steps};
use super::{ControlError, Life};
use crate::command::{NodeNames, disk_device, disk_nodes, usb_device};
use crate::launch::memory_lock_with_device;
use crate::qmp::DescriptorSet;
use crate::{Problem, RefusalKind, TapFds, hostdev_device, netdev_id, nic_device, nic_netdev};

/// What a tap and a vhost of a card are called that are handed over for it.
pub(super) fn descriptor_names(alias: &str, queue: usize) -> [String; 2] {
    ["tap", "vhost"].map(|what| format!("{what}-{alias}-{queue}"))
}

/// Hands the taps over, then adds the host's side and the card.
pub(super) async fn interface(
    life: &Life,
    domain: &Domain,
    interface: &Interface,
    index: usize,
    taps: TapFds,
) -> Result<(), ControlError> {
    let qmp = life.qmp()?;
    let cannot = |problem| life.cannot_have(problem);
    let alias = alias_of(&interface.info, "interface").map_err(cannot)?;
    let named = |which: usize, fds: Vec<OwnedFd>| -> Vec<(String, OwnedFd)> {
        let fds = fds.into_iter().enumerate();
        fds.map(|(queue, fd)| {
            let [tap, vhost] = descriptor_names(alias, queue);
            (if which == 0 { tap } else { vhost }, fd)
        })
        .collect()
    };
    let (taps, vhosts) = (named(0, taps.taps), named(1, taps.vhosts));
    let names = |fds: &[(String, OwnedFd)]| -> Vec<String> {
        fds.iter().map(|(name, _)| name.clone()).collect()
    };
    // All that can be wrong with the document is known before anything is done.
    let netdev = nic_netdev(interface, index, &names(&taps), &names(&vhosts)).map_err(cannot)?;
    let device = nic_device(domain, interface, taps.len().max(1)).map_err(cannot)?;

    let mut steps = Steps::new(life, qmp);
    for (name, fd) in taps.into_iter().chain(vhosts) {
        let given = qmp.give_descriptor(&name, fd).await;
        steps.did(given, Done::Descriptor(name)).await?;
    }
    let added = qmp.netdev_add(netdev).await;
    steps.did(added, Done::Netdev(netdev_id(alias))).await?;
    add_device(steps, alias, device).await
}

/// Raises the memory-lock limit, then adds the device.
pub(super) async fn host_device(
    life: &Life,
    domain: &Domain,
    info: &DeviceInfo,
    teaming: Option<&Teaming>,
    host: PciAddress,
) -> Result<(), ControlError> {
    let qmp = life.qmp()?;
    let cannot = |problem| life.cannot_have(problem);
    let alias = alias_of(info, "hostdev").map_err(cannot)?;
    let device = hostdev_device(domain, info, teaming, host).map_err(cannot)?;
    life.raise_memory_lock(memory_lock_with_device(domain))?;
    let added = add_device(Steps::new(life, qmp), alias, device).await;
    match (&added, teaming) {
        // QEMU makes a primary that it remembers by itself when the guest negotiates, as soon as it may open
        // it: that can be just before.
        (Err(error), Some(Teaming::Transient { .. }))
            if error.refusal() == Some(RefusalKind::NameTaken)
                && qmp.host_of(alias).await.ok().flatten() == Some(host) =>
        {
            Ok(())
        }
        _ => added,
    }
}

pub(super) async fn usb(
    life: &Life,
    domain: &Domain,
    hostdev: &HostDevice,
    place: (u32, u32),
) -> Result<(), ControlError> {
    let qmp = life.qmp()?;
    let cannot = |problem| life.cannot_have(problem);
    let alias = alias_of(&hostdev.info, "hostdev").map_err(cannot)?;
    let HostSource::Usb(source) = &hostdev.source else {
        let what = format!("host device '{alias}' as a USB device");
        return Err(cannot(Problem::Unsupported(what)));
    };
    let device = usb_device(domain, &hostdev.info, source, place).map_err(cannot)?;
    add_device(Steps::new(life, qmp), alias, device).await
}

/// Hands the files over, then adds the disk's nodes and the disk.
pub(super) async fn disk(
    life: &Life,
    domain: &Domain,
    disk: &Disk,
    files: Vec<OwnedFd>,
) -> Result<(), ControlError> {
    let qmp = life.qmp()?;
    let cannot = |problem| life.cannot_have(problem);
    let alias = alias_of(&disk.info, "disk").map_err(cannot)?;
    let names = NodeNames::new(alias, 0);
    disk_nodes(disk, &names, None).map_err(cannot)?;
    let device = disk_device(domain, disk, alias, disk.info.boot_order, &names);
    let device = device.map_err(cannot)?.to_json();

    let mut steps = Steps::new(life, qmp);
    add_nodes(&mut steps, disk, &names, files).await?;
    add_device(steps, alias, device).await
}

/// Adds the nodes of a disk's medium, with the files that were opened for it; none: QEMU opens them
/// itself. Returns the topmost node; `None`: the document has no medium.
pub(super) async fn add_nodes(
    steps: &mut Steps<'_>,
    disk: &Disk,
    names: &NodeNames,
    files: Vec<OwnedFd>,
) -> Result<Option<String>, ControlError> {
    let (life, qmp) = (steps.life, steps.qmp);
    let alias = disk.info.alias.as_deref().unwrap_or_default();
    let mut set = None;
    for fd in files {
        let added = qmp.add_fd(alias, set, fd).await;
        let done = match (set, &added) {
            (None, Ok(set)) => Done::Set(*set),
            // The others go with the first. A set whose number is not known is left, which is told.
            _ => Done::Nothing,
        };
        set = Some(steps.did(added, done).await?);
    }
    let nodes = disk_nodes(disk, names, set.map(DescriptorSet::path));
    let nodes = nodes.map_err(|problem| life.cannot_have(problem))?;
    let mut top = None;
    for node in nodes {
        let added = qmp.add_node(node.options.to_json()).await;
        steps.did(added, Done::Node(node.name.clone())).await?;
        top = Some(node.name);
    }
    Ok(top)
}

async fn add_device(
    mut steps: Steps<'_>,
    alias: &str,
    arguments: Value,
) -> Result<(), ControlError> {
    let added = steps.qmp.device_add(arguments).await;
    steps.did(added, Done::Device(alias.to_owned())).await
}

pub(super) fn alias_of<'a>(info: &'a DeviceInfo, what: &str) -> Result<&'a str, Problem> {
    let alias = info.alias.as_deref();
    alias.ok_or_else(|| Problem::NoAlias(what.to_owned()))
}
