//! Node devices that come, go and change, as clients who asked are told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};

use conf::PciAddress;
use host::{HostError, HostEvent, HostEvents};
use rpc::{NodeDev, NodeDeviceChange, NodeDeviceLifecycle, NodeDeviceUpdate};

use super::devices::{Devices, Seen, node_name, unless_gone, usb_node_name};
use crate::daemon::Daemon;
use crate::fault;

/// Changes that wait to be looked at; more are looked at in one go.
const MOST_WAITING: usize = 4096;

/// A device, however it is called now.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Pci(PciAddress),
    /// By index: the name and the MAC, of which a node device's name is made, can change.
    Net(u32),
    Usb(String),
}

/// What is to be told of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum News {
    Created(String),
    Deleted(String),
    Updated(String),
}

/// A stream of the host's changes, which somebody else reads a copy of.
struct Copied {
    events: Box<dyn HostEvents>,
    copies: SyncSender<HostEvent>,
    missed: Arc<AtomicBool>,
}

impl HostEvents for Copied {
    fn next(&mut self) -> Option<HostEvent> {
        let event = self.events.next()?;
        // Nobody is waited for: whoever missed one looks at everything again.
        if self.copies.try_send(event.clone()).is_err() {
            self.missed.store(true, Ordering::Release);
        }
        Some(event)
    }
}

impl Daemon {
    /// Tells clients of node devices from now on, on a thread of its own, by those events, which go on
    /// to whoever reads what this gives.
    pub(crate) fn follow_devices(
        self: &Arc<Self>,
        events: Box<dyn HostEvents>,
    ) -> Box<dyn HostEvents> {
        let (copies, received) = mpsc::sync_channel(MOST_WAITING);
        let missed = Arc::<AtomicBool>::default();
        // Not the daemon itself: this goes on until the host says no more.
        let (daemon, devices) = (Arc::downgrade(self), self.devices());
        let of_thread = Arc::clone(&missed);
        let follow = move || {
            let mut known = Known::default();
            known.look_at_all(&devices);
            follow(&received, &of_thread, &devices, &mut known, |news| {
                if let Some(daemon) = daemon.upgrade() {
                    daemon.tell_of_device(&news);
                }
            });
        };
        let spawned = std::thread::Builder::new()
            .name("node-devices".into())
            .spawn(follow);
        if let Err(error) = spawned {
            tracing::error!(%error, "changes of node devices go untold");
        }
        Box::new(Copied {
            events,
            copies,
            missed,
        })
    }

    fn tell_of_device(&self, news: &News) {
        let lifecycle = |name: &str, change| NodeDeviceLifecycle {
            dev: NodeDev {
                name: name.to_owned(),
            },
            change,
        };
        match news {
            News::Created(name) => self.events.tell(lifecycle(name, NodeDeviceChange::Created)),
            News::Updated(name) => self.events.tell(NodeDeviceUpdate {
                dev: NodeDev { name: name.clone() },
            }),
            News::Deleted(name) => {
                if let Some(address) = super::devices::pci_address(name) {
                    self.lender.detached_is_gone(address);
                }
                self.events.tell(lifecycle(name, NodeDeviceChange::Deleted));
            }
        }
    }
}

/// Works off what comes, as much as there is in one go, until nothing can come any more.
fn follow(
    received: &Receiver<HostEvent>,
    missed: &AtomicBool,
    devices: &Devices,
    known: &mut Known,
    tell: impl Fn(News),
) {
    while let Ok(event) = received.recv() {
        let mut changed = Changed::default();
        changed.note(event);
        while let Ok(event) = received.try_recv() {
            changed.note(event);
        }
        changed.everything |= missed.swap(false, Ordering::AcqRel);
        for news in known.work_off(devices, changed) {
            tell(news);
        }
    }
}

/// What has to be looked at again.
#[derive(Debug, Default)]
struct Changed {
    everything: bool,
    pci: BTreeSet<PciAddress>,
    /// By index, with the name that it had then.
    net: BTreeMap<u32, String>,
    gone: BTreeSet<u32>,
    usb: BTreeSet<String>,
}

impl Changed {
    fn note(&mut self, event: HostEvent) {
        use HostEvent as E;
        match event {
            E::PciAdded(address) | E::PciRemoved(address) | E::PciDriverChanged(address) => {
                self.pci.insert(address);
            }
            E::LinkChanged { ifindex, netdev } => {
                self.gone.remove(&ifindex);
                self.net.insert(ifindex, netdev);
            }
            E::LinkRemoved { ifindex, .. } => {
                self.net.remove(&ifindex);
                self.gone.insert(ifindex);
            }
            E::UsbChanged(name) => {
                self.usb.insert(name);
            }
            // Its name is made of where it is plugged in.
            E::UsbRemoved(address) => {
                let name = format!("{}-{}", address.bus(), address.devpath());
                self.usb.insert(name);
            }
            E::PortDisassociated { .. } => {}
            E::Lost => self.everything = true,
        }
    }
}

/// The devices that are there, as far as is known, by the names that were told.
#[derive(Debug, Default)]
struct Known(BTreeMap<Key, String>);

impl Known {
    fn work_off(&mut self, devices: &Devices, changed: Changed) -> Vec<News> {
        let mut news = Vec::new();
        if changed.everything {
            news.extend(self.look_at_all(devices));
            return news;
        }
        for ifindex in changed.gone {
            news.extend(self.settle(Key::Net(ifindex), None));
        }
        for address in changed.pci {
            let place = unless_gone(devices.host.pci_place(address));
            let name = address.node_device_name();
            news.extend(self.look(Key::Pci(address), place.map(|there| there.map(|_| name))));
        }
        for (ifindex, name) in changed.net {
            // One of another index has the name by now: its own message is on its way.
            let found = unless_gone(devices.host.netdev(&name));
            let found = found.map(|found| found.filter(|found| found.index == ifindex));
            if let Ok(Some(found)) = found {
                news.extend(self.settle(Key::Net(ifindex), Some(node_name(&found))));
            }
        }
        for usb in changed.usb {
            let place = unless_gone(devices.host.usb_place(&usb));
            let name = usb_node_name(&usb);
            news.extend(self.look(Key::Usb(usb), place.map(|there| there.map(|_| name))));
        }
        news
    }

    /// What can't be looked at is as it was.
    fn look(&mut self, key: Key, now: Result<Option<String>, HostError>) -> Vec<News> {
        match now {
            Ok(now) => self.settle(key, now),
            Err(error) => {
                tracing::debug!(?key, error = fault::chain(&error), "not looked at");
                Vec::new()
            }
        }
    }

    /// A device has that name now, or is not there.
    fn settle(&mut self, key: Key, now: Option<String>) -> Vec<News> {
        let before = match &now {
            Some(now) => self.0.insert(key, now.clone()),
            None => self.0.remove(&key),
        };
        match (before, now) {
            (None, None) => Vec::new(),
            (None, Some(now)) => vec![News::Created(now)],
            (Some(before), None) => vec![News::Deleted(before)],
            (Some(before), Some(now)) if before == now => vec![News::Updated(now)],
            (Some(before), Some(now)) => vec![News::Deleted(before), News::Created(now)],
        }
    }

    /// Everything, where it is not known what changed.
    fn look_at_all(&mut self, devices: &Devices) -> Vec<News> {
        let all = match all(devices) {
            Ok(all) => all,
            Err(error) => {
                tracing::warn!(error = fault::chain(&error), "node devices can't be listed");
                return Vec::new();
            }
        };
        let before = std::mem::replace(&mut self.0, all);
        let mut news = Vec::new();
        for (key, name) in &before {
            if self.0.get(key) != Some(name) {
                news.push(News::Deleted(name.clone()));
            }
        }
        for (key, name) in &self.0 {
            if before.get(key) != Some(name) {
                news.push(News::Created(name.clone()));
            }
        }
        news
    }
}

fn all(devices: &Devices) -> Seen<BTreeMap<Key, String>> {
    let pci = devices.host.pci_functions()?.into_iter();
    let net = devices.host.netdevs()?.into_iter();
    let usb = devices.host.usb_names()?.into_iter();
    let all = (pci.map(|address| (Key::Pci(address), address.node_device_name())))
        .chain(net.map(|link| (Key::Net(link.index), node_name(&link))))
        .chain(usb.map(|name| {
            let shown = usb_node_name(&name);
            (Key::Usb(name), shown)
        }));
    Ok(all.collect())
}

#[cfg(test)]
mod tests {
    use conf::Uuid;
    use host::{Host as _, Links as _, SimulatedHost};

    use super::*;

    /// A host, and what is told of it when all that happened is worked off.
    struct Scene {
        host: SimulatedHost,
        devices: Devices,
        known: Known,
        events: Box<dyn HostEvents>,
    }

    impl Scene {
        fn new() -> Self {
            let host = SimulatedHost::new("pfs=1,vfs=2".parse().unwrap());
            let devices = Devices {
                host: Arc::new(host.clone()),
                uuid: Some(Uuid::from_u128(1)),
            };
            let events = host.watch().unwrap();
            let mut known = Known::default();
            assert!(!known.look_at_all(&devices).is_empty());
            Self {
                host,
                devices,
                known,
                events,
            }
        }

        /// After that USB device, which marks the end.
        fn news(&mut self) -> Vec<News> {
            self.host.touch_usb("end");
            let mut changed = Changed::default();
            loop {
                match self.events.next().unwrap() {
                    HostEvent::UsbChanged(name) if name == "end" => break,
                    event => changed.note(event),
                }
            }
            self.known.work_off(&self.devices, changed)
        }
    }

    #[test]
    fn a_vf_that_goes_takes_its_network_device_along() {
        let mut scene = Scene::new();
        let pf = scene.host.physical_function("sim0").unwrap();
        let vf = scene.host.virtual_functions(&pf).unwrap().remove(0);
        let card = vf.address.node_device_name();
        let (name, mac) = scene.host.vf_state(&vf).unwrap().netdev.unwrap();
        let netdev = conf::net_device_name(&name, mac);
        scene.host.bind(vf.address, "vfio-pci").unwrap();
        assert_eq!(
            scene.news(),
            [News::Deleted(netdev), News::Updated(card.clone())]
        );
        scene.host.remove_vf(vf.address);
        assert_eq!(scene.news(), [News::Deleted(card.clone())]);
        scene.host.restore_vf(pf.address, 0);
        let told = scene.news();
        assert!(told.contains(&News::Created(card)), "{told:?}");
        assert_eq!(scene.news(), []);
    }

    #[test]
    fn another_name_or_mac_is_another_device() {
        let mut scene = Scene::new();
        let bridge = scene.host.add_bridge("br0").unwrap();
        let first = node_name(&bridge);
        assert_eq!(scene.news(), [News::Created(first.clone())]);
        let mac = "52:54:00:00:00:99".parse().unwrap();
        scene.host.set_mac(bridge.index, mac).unwrap();
        let second = conf::net_device_name("br0", mac);
        assert_eq!(
            scene.news(),
            [News::Deleted(first), News::Created(second.clone())]
        );
        scene.host.rename_netdev("br0", "br1");
        let third = conf::net_device_name("br1", mac);
        assert_eq!(
            scene.news(),
            [News::Deleted(second), News::Created(third.clone())]
        );
        scene.host.put_up("br1", false);
        assert_eq!(scene.news(), [News::Updated(third.clone())]);
        scene.host.remove_netdev("br1");
        assert_eq!(scene.news(), [News::Deleted(third)]);
    }

    #[test]
    fn what_was_missed_is_found_by_looking_at_all() {
        let mut scene = Scene::new();
        let bridge = scene.host.add_bridge("br0").unwrap();
        let mut changed = Changed::default();
        changed.note(HostEvent::Lost);
        let told = scene.known.work_off(&scene.devices, changed);
        assert_eq!(told, [News::Created(node_name(&bridge))]);
    }
}
