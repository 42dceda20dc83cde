//! Network interfaces that QEMU plays itself: a `-netdev` for the host's side, a `-device` for
//! the guest's.

use conf::{Domain, GuestAddress, Interface, InterfaceSource, NicDriver, Plug, Teaming, TxMode};

use super::address::{pci_address, usb_address};
use super::hostdevs::rom;
use super::json::Object;
use super::{Builder, Problem, Taps, virtio};

impl Builder<'_> {
    pub(super) fn nics(&mut self) {
        for (index, interface) in self.domain.devices.interfaces.iter().enumerate() {
            if interface.is_hostdev() || self.is_withheld(&interface.info) {
                continue; // comes with the host devices, or later
            }
            let Some(alias) = self.alias(&interface.info, "interface") else {
                continue;
            };
            let taps = self.resources.taps.get(&alias);
            let queues = taps.map_or(1, |taps| taps.taps.len());
            match netdev(interface, &alias, index, taps.map(Descriptors::numbers)) {
                Ok(netdev) => self.option("-netdev", netdev),
                Err(problem) => {
                    self.problems.push(problem);
                    continue;
                }
            }
            let device = place(self.domain, interface, &alias);
            let boot_index = self.boot.index(&interface.info);
            let device =
                device.map(|place| device_object(interface, &alias, queues, boot_index, place));
            self.device(device);
        }
    }
}

/// The arguments of `netdev_add` for an interface that is plugged into a running guest.
///
/// Its descriptors were handed over before under these names; `index` is its place among the
/// guest's interfaces.
pub fn nic_netdev(
    interface: &Interface,
    index: usize,
    taps: &[String],
    vhosts: &[String],
) -> Result<serde_json::Value, Problem> {
    let alias = alias_of(interface)?;
    let descriptors = (!taps.is_empty()).then(|| Descriptors {
        taps: taps.to_vec(),
        vhosts: vhosts.to_vec(),
    });
    Ok(netdev(interface, alias, index, descriptors)?.to_json())
}

/// The id of the host's side of a network card.
pub(crate) fn netdev_id(alias: &str) -> String {
    format!("host{alias}")
}

/// The arguments of `device_add` for that interface, with that many queues.
pub fn nic_device(
    domain: &Domain,
    interface: &Interface,
    queues: usize,
) -> Result<serde_json::Value, Problem> {
    let alias = alias_of(interface)?;
    let place = place(domain, interface, alias)?;
    let device = device_object(interface, alias, queues, interface.info.boot_order, place);
    Ok(device.to_json())
}

fn place(domain: &Domain, interface: &Interface, alias: &str) -> Result<Object, Problem> {
    let controllers = &domain.devices.controllers;
    match interface.info.address {
        Some(GuestAddress::Usb { .. }) => usb_address(controllers, &interface.info, alias),
        _ => pci_address(controllers, &interface.info, alias),
    }
}

fn alias_of(interface: &Interface) -> Result<&str, Problem> {
    let alias = interface.info.alias.as_deref();
    alias.ok_or_else(|| Problem::NoAlias("interface".to_owned()))
}

/// Taps and vhosts, by number or by name.
struct Descriptors {
    taps: Vec<String>,
    vhosts: Vec<String>,
}

impl Descriptors {
    fn numbers(taps: &Taps) -> Self {
        Self {
            taps: taps.taps.iter().map(ToString::to_string).collect(),
            vhosts: taps.vhosts.iter().map(ToString::to_string).collect(),
        }
    }
}

fn netdev(
    interface: &Interface,
    alias: &str,
    index: usize,
    descriptors: Option<Descriptors>,
) -> Result<Object, Problem> {
    let id = netdev_id(alias);
    let kind = |kind: &str| Object::new().with("type", kind);
    match &interface.source {
        InterfaceSource::User => Ok(kind("user").with("id", id)),
        // A hub of its own, with nobody else on it.
        InterfaceSource::Null => Ok(kind("hubport")
            .with("hubid", u64::try_from(index).unwrap_or(u64::MAX))
            .with("id", id)),
        InterfaceSource::Direct { .. }
        | InterfaceSource::Bridge { .. }
        | InterfaceSource::Ethernet
        | InterfaceSource::Network { .. } => {
            let connected = match interface.actual.as_ref().map(|actual| &actual.plug) {
                Some(Plug::Network { .. } | Plug::Bridge { .. } | Plug::Direct { .. }) => true,
                Some(Plug::HostdevPci { .. }) => false,
                None => !matches!(interface.source, InterfaceSource::Network { .. }),
            };
            let descriptors = descriptors
                .filter(|d| connected && !d.taps.is_empty())
                .ok_or_else(|| Problem::NotConnected(alias.to_owned()))?;
            Ok(tap(&descriptors)
                .maybe("sndbuf", interface.send_buffer)
                .with("id", id))
        }
        InterfaceSource::HostdevHybrid { .. } => Err(Problem::Unsupported(
            "<interface type='hostdev-hybrid'> that is not yet a pair".to_owned(),
        )),
        InterfaceSource::Hostdev { .. } => Err(Problem::NotConnected(alias.to_owned())),
        InterfaceSource::Other { kind, .. } => {
            Err(Problem::Unsupported(format!("<interface type='{kind}'>")))
        }
    }
}

fn tap(descriptors: &Descriptors) -> Object {
    let Descriptors { taps, vhosts } = descriptors;
    let several = taps.len() > 1;
    let (fd, vhostfd) = if several {
        ("fds", "vhostfds")
    } else {
        ("fd", "vhostfd")
    };
    let vhosts = (!vhosts.is_empty()).then(|| vhosts.join(":"));
    Object::new()
        .with("type", "tap")
        .with(fd, taps.join(":"))
        .maybe("vhost", vhosts.as_ref().map(|_| true))
        .maybe(vhostfd, vhosts)
}

fn device_object(
    interface: &Interface,
    alias: &str,
    queues: usize,
    boot_index: Option<u32>,
    place: Object,
) -> Object {
    let model = interface.model.as_deref().unwrap_or("virtio");
    let device = if interface.is_virtio() || interface.model.is_none() {
        let driver = interface.driver.clone().unwrap_or_default();
        virtio_device(interface, &driver, model, queues)
    } else {
        Object::driver(model)
    };
    device
        .with("netdev", netdev_id(alias))
        .with("id", alias)
        .with("mac", interface.mac.to_string())
        .maybe("bootindex", boot_index)
        .and(place)
        .and(rom(&interface.info))
}

fn virtio_device(interface: &Interface, driver: &NicDriver, model: &str, queues: usize) -> Object {
    let several = (queues > 1).then_some(true);
    // A pair for each queue, one for control, one for changes of the configuration.
    let vectors = several.and_then(|_| u64::try_from(2 * queues + 2).ok());
    let tx = driver.tx_mode.map(|mode| match mode {
        TxMode::Iothread => "bh",
        TxMode::Timer => "timer",
    });
    let failover = matches!(interface.teaming, Some(Teaming::Persistent)).then_some(true);
    let mut device = Object::driver(virtio("virtio-net", model))
        .maybe("iommu_platform", driver.iommu)
        .maybe("ats", driver.ats)
        .maybe("packed", driver.packed)
        .maybe("page-per-vq", driver.page_per_vq)
        .maybe("tx", tx)
        .maybe("ioeventfd", driver.ioeventfd)
        .maybe("event_idx", driver.event_idx);
    for (names, offloads) in [(&HOST[..], &driver.host), (&GUEST[..], &driver.guest)] {
        for &(document, qemu) in names {
            let offload = offloads.iter().find(|(name, _)| *name == document);
            device = device.maybe(qemu, offload.map(|&(_, on)| on));
        }
    }
    device
        .maybe("mq", several)
        .maybe("vectors", vectors)
        .maybe("rx_queue_size", driver.rx_queue_size)
        .maybe("tx_queue_size", driver.tx_queue_size)
        .maybe("rss", driver.rss)
        .maybe("hash", driver.rss_hash_report)
        .maybe("host_mtu", interface.mtu)
        .maybe("failover", failover)
}

/// Offloads of `<host>`: the document's name and QEMU's, in QEMU's order.
const HOST: [(&str, &str); 7] = [
    ("csum", "csum"),
    ("gso", "gso"),
    ("tso4", "host_tso4"),
    ("tso6", "host_tso6"),
    ("ecn", "host_ecn"),
    ("ufo", "host_ufo"),
    ("mrg_rxbuf", "mrg_rxbuf"),
];

/// Offloads of `<guest>`, likewise.
const GUEST: [(&str, &str); 5] = [
    ("csum", "guest_csum"),
    ("tso4", "guest_tso4"),
    ("tso6", "guest_tso6"),
    ("ecn", "guest_ecn"),
    ("ufo", "guest_ufo"),
];
