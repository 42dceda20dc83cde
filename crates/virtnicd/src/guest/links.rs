//! A guest's links on the host: switched on before it runs and off when it does not, and what
//! becomes of devices that leave it.

use std::sync::Arc;

use assign::{Generation, Kind};
use conf::{DirectMode, Interface, InterfaceSource, Plug};
use lending::{Attachment, Note, Vanished};
use rpc::flags::DomainMessages;
use rpc::{Code, DomainDeviceRemoved, Error};

use super::{GuestHandle, QEMU};
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

impl Daemon {
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
        let mut interfaces = view.live_interfaces().iter();
        if interfaces.any(|interface| self.hides_from_host(interface)) {
            vec![format!("note: {}", Note::NoHostAccess)]
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
