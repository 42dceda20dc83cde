//! A guest's links on the host: switched on before it runs and off when it does not, and what
//! becomes of devices that leave it.

use std::sync::Arc;

use assign::{Generation, Kind};
use conf::{DirectMode, Interface, InterfaceSource, Plug, VfLink};
use lending::{Attachment, Note, Vanished};
use rpc::flags::DomainMessages;
use rpc::{Code, DomainDeviceRemoved, Error};

use super::control::control;
use super::handle::Run;
use super::interface::Carrier;
use super::{GuestHandle, QEMU, halves};
use crate::blocking::blocking;
use crate::daemon::Daemon;
use crate::fault::{self, Result};

/// Switches all links of a guest on or off. A link that is on while its guest does not run would take
/// frames that nobody reads, and answer for a MAC that may be elsewhere by now.
pub(super) async fn switch(
    daemon: &Arc<Daemon>,
    attachments: &[Attachment],
    up: bool,
) -> Result<()> {
    let is_link = |claim: &Generation| {
        let line = daemon.lender.find(*claim);
        line.is_some_and(|line| matches!(line.kind, Some(Kind::Macvtap | Kind::Tap)))
    };
    let claims = attachments.iter().filter_map(|attachment| attachment.claim);
    let links: Vec<_> = claims.filter(is_link).collect();
    if links.is_empty() {
        return Ok(());
    }
    let daemon = Arc::clone(daemon);
    let switched = blocking(QEMU, move || {
        for link in links {
            let set = daemon.lender.set_link_state(link, up);
            set.map_err(|error| Error::new(Code::OperationFailed, QEMU, fault::chain(&error)))?;
        }
        Ok(())
    });
    switched.await?
}

/// Has a running guest see the link of an interface as its document says.
pub(super) async fn set_link(daemon: &Arc<Daemon>, run: &Run, interface: &Interface) -> Result<()> {
    let up = interface.link_up != Some(false);
    match Carrier::of(interface, run, &daemon.lender) {
        Carrier::Vf { claim, .. } => {
            let link = if up {
                daemon.vf_link_of(interface)
            } else {
                VfLink::Off
            };
            let daemon = Arc::clone(daemon);
            blocking(QEMU, move || daemon.lender.set_vf_link(claim, link))
                .await?
                .map_err(fault::lending::change)
        }
        _ if interface.is_hostdev() => {
            let detail = format!(
                "interface {} is a host device, and none whose link could be set",
                interface.mac
            );
            Err(Error::new(Code::OperationUnsupported, QEMU, detail))
        }
        _ => {
            let Some(alias) = &interface.info.alias else {
                let detail = format!("interface {} has no alias", interface.mac);
                return Err(Error::new(Code::InternalError, QEMU, detail));
            };
            run.machine.set_link(alias, up).await.map_err(control)
        }
    }
}

impl Daemon {
    /// The link of a VF that is not switched off.
    fn vf_link_of(&self, interface: &Interface) -> VfLink {
        let settings = match &interface.source {
            InterfaceSource::Network {
                network,
                port_group,
            } => self
                .networks
                .by_name(network)
                .map(|network| network.vf_settings(interface.vf, port_group.as_deref())),
            _ => interface.vf,
        };
        settings.unwrap_or_default().link.unwrap_or_default()
    }

    /// What the owner of a running guest should know about its connections; `virsh dominfo` shows
    /// it.
    pub(crate) fn guest_messages(
        &self,
        object: &GuestHandle,
        flags: DomainMessages,
    ) -> Vec<String> {
        // Tainting and deprecation, of which there is nothing to tell, can be asked for by flags.
        if flags != DomainMessages::NONE {
            return Vec::new();
        }
        let view = object.view();
        let interfaces = view.live_interfaces().iter();
        let hidden = interfaces.filter(|interface| self.hides_from_host(interface));
        let of_network =
            |interface: &Interface| matches!(interface.source, InterfaceSource::Network { .. });
        let mut messages = Vec::new();
        if let Some(of_network) = hidden.map(of_network).reduce(|one, other| one || other) {
            messages.push(format!("note: {}", Note::NoHostAccess { of_network }));
        }
        if let Some(run) = &view.run {
            messages.extend(halves::messages(self, run));
        }
        messages
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
        let Some(handle) = self.guests.by_uuid(vanished.holder.guest) else {
            return;
        };
        let view = handle.view();
        let run = view.run.as_ref();
        let its = run.and_then(|run| {
            let mut attachments = run.attachments.iter();
            attachments.find(|one| one.claim == Some(vanished.claim))
        });
        if let Some(dev_alias) = its.map(|attachment| attachment.alias.clone()) {
            let dom = handle.dom();
            self.events.tell(DomainDeviceRemoved { dom, dev_alias });
        }
    }
}
