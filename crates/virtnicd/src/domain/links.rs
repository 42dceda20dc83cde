//! A guest's links on the host: switched on before it runs and off when it does not, and what
//! becomes of devices that leave it.

use std::sync::Arc;

use assign::{Assignment, Kind};
use conf::{DirectMode, Interface, InterfaceSource, Plug, Uuid};
use rpc::{Code, DomainDeviceRemoved, Error};

use super::{DomainObject, QEMU, Running};
use crate::daemon::Daemon;
use crate::fault::{self, Result};
use crate::lender::Vanished;
use crate::network::NO_HOST_ACCESS;
use crate::sync::lock;

impl Daemon {
    /// Switches all links of a guest on or off. A link that is on while its guest does not run
    /// would take frames that nobody reads, and answer for a MAC that may be elsewhere by now.
    pub(super) async fn switch_links(self: &Arc<Self>, guest: Uuid, up: bool) -> Result<()> {
        let is_link = |line: &Assignment| {
            line.holder.guest == guest && matches!(line.kind, Some(Kind::Macvtap | Kind::Tap))
        };
        let links: Vec<_> = (self.lender.list().into_iter().filter(is_link)).collect();
        if links.is_empty() {
            return Ok(());
        }
        let daemon = Arc::clone(self);
        let switched = tokio::task::spawn_blocking(move || {
            for link in links {
                let set = daemon.lender.set_link_state(link.generation, up);
                set.map_err(|error| Error::new(Code::OperationFailed, QEMU, fault::chain(&error)))?;
            }
            Ok(())
        });
        switched.await.unwrap_or_else(|_| {
            let detail = "switching the guest's links broke off; the log says why";
            Err(Error::new(Code::InternalError, QEMU, detail))
        })
    }

    /// What the owner of a running guest should know about its connections; `virsh dominfo` shows
    /// it.
    pub(crate) fn domain_messages(&self, object: &DomainObject, flags: u32) -> Vec<String> {
        // Tainting and deprecation, of which there is nothing to tell, can be asked for by flags.
        if flags != 0 {
            return Vec::new();
        }
        let status = lock(&object.state);
        let Some(running) = &status.running else {
            return Vec::new();
        };
        let mut interfaces = running.domain.devices.interfaces.iter();
        if interfaces.any(|interface| self.hides_from_host(interface)) {
            vec![format!("note: {NO_HOST_ACCESS}")]
        } else {
            Vec::new()
        }
    }

    /// Whether it is a macvtap beside which the host has no device of its own.
    fn hides_from_host(&self, interface: &Interface) -> bool {
        let mode = match (&interface.actual, &interface.source) {
            (Some(actual), _) => match &actual.plug {
                Plug::Direct { mode, .. } => *mode,
                _ => return false,
            },
            (None, InterfaceSource::Direct { mode, .. }) => *mode,
            _ => return false,
        };
        let has_access = match &interface.source {
            InterfaceSource::Network { network, .. } => (self.network_by_name(network))
                .and_then(|network| network.running())
                .is_ok_and(|network| network.extension.host_access),
            _ => false,
        };
        mode != DirectMode::Passthrough && !has_access
    }

    /// A device that a guest has is not there any more. The guest goes on.
    pub(crate) fn tell_vanished(&self, vanished: &Vanished) {
        let Some(object) = self.domains.by_uuid(vanished.owner.guest) else {
            return;
        };
        let alias = {
            let status = lock(&object.state);
            let running = status.running.as_ref();
            running.and_then(|running| alias_of(running, &vanished.owner))
        };
        if let Some(dev_alias) = alias {
            let dom = object.dom();
            self.events.tell(DomainDeviceRemoved { dom, dev_alias });
        }
    }

    /// QEMU let go of a device: asked by somebody over its monitor, or by the kernel, whose device
    /// goes away. A host device is taken back, and is out of the running document.
    pub(super) async fn device_deleted(self: &Arc<Self>, object: &Arc<DomainObject>, alias: &str) {
        let _job = object.job.lock().await;
        let found = {
            let status = lock(&object.state);
            let running = status.running.as_ref();
            running.and_then(|running| {
                let lines = self.lender.list();
                let of_guest = |line: &&Assignment| line.holder.guest == object.uuid;
                let is_it = |line: &&Assignment| {
                    alias_of(running, &line.holder).as_deref() == Some(alias)
                        && line.kind == Some(Kind::Hostdev)
                };
                lines.iter().filter(of_guest).find(is_it).cloned()
            })
        };
        if let Some(line) = found {
            if let Err(error) = self.lender.give_back(line.generation).await {
                tracing::error!(guest = object.name, %error, "a device was not given back");
            }
            let port = line.holder.port;
            let network = {
                let status = &mut *lock(&object.state);
                status.running.as_mut().and_then(|running| {
                    running.borrowed.lent.retain(|g| *g != line.generation);
                    let ports = &mut running.borrowed.ports;
                    let at = ports.iter().position(|(_, uuid)| Some(*uuid) == port);
                    let devices = &mut running.domain.devices;
                    let is_it = |info: &conf::DeviceInfo| info.alias.as_deref() == Some(alias);
                    devices.interfaces.retain(|one| !is_it(&one.info));
                    devices.hostdevs.retain(|one| !is_it(&one.info));
                    at.map(|at| ports.remove(at))
                })
            };
            if let Some((network, port)) = network {
                self.end_port(network, port);
            }
            let status = lock(&object.state);
            if let Some(running) = &status.running
                && let Err(error) = self.record_running(object, running)
            {
                tracing::warn!(guest = object.name, %error, "its record is behind");
            }
        }
        self.events.tell(DomainDeviceRemoved {
            dom: object.dom(),
            dev_alias: alias.to_owned(),
        });
    }
}

/// The guest's name for a device that is lent to it.
fn alias_of(running: &Running, owner: &assign::Holder) -> Option<String> {
    if owner.alias.is_some() {
        return owner.alias.clone();
    }
    let is_its = |interface: &&Interface| match &interface.actual {
        Some(actual) => Some(actual.port) == owner.port,
        None => Some(interface.mac) == owner.mac,
    };
    let interface = running.domain.devices.interfaces.iter().find(is_its)?;
    interface.info.alias.clone()
}
