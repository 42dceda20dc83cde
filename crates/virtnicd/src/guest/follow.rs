//! What is done about what QEMU tells: a device that it let go is taken back, a receive filter that
//! changed is followed.

use std::collections::BTreeSet;
use std::sync::Arc;

use lending::{Attachment, AttachmentState, Creditor, PortId};

use super::QEMU;
use super::handle::{GuestHandle, Run};
use super::{end, record, rx_filter};
use crate::blocking::blocking;
use crate::daemon::Daemon;

/// Stands for all filters; no alias is empty.
pub(super) const ALL: &str = "";
/// Stands for what is owed; no alias is empty.
pub(super) const OWED: &str = "";

/// What became of it.
pub(super) struct Followed {
    pub(super) attachments: Vec<Attachment>,
    pub(super) domain: conf::Domain,
    /// Devices that are out of the guest, by alias.
    pub(super) removed: Vec<String>,
}

/// Takes back what QEMU let go of, and asks again for what it still held; then follows filters.
pub(super) async fn follow(
    daemon: &Arc<Daemon>,
    handle: &GuestHandle,
    run: &Run,
    deleted: BTreeSet<String>,
    filters: BTreeSet<String>,
) -> Followed {
    let mut run = run.clone();
    let mut removed = Vec::new();
    for alias in deleted.iter().filter(|alias| *alias != OWED) {
        if is_host_device(daemon, &run, alias) {
            let its = run.attachments.iter_mut();
            let mut its = its.filter(|one| one.alias == *alias);
            if let Some(attachment) = its.next() {
                attachment.state = AttachmentState::Owed(Creditor::Host);
            }
            let devices = &mut run.domain.devices;
            let is_it = |info: &conf::DeviceInfo| info.alias.as_ref() == Some(alias);
            devices.interfaces.retain(|one| !is_it(&one.info));
            devices.hostdevs.retain(|one| !is_it(&one.info));
        }
        removed.push(alias.clone());
    }
    if !deleted.is_empty() {
        // First what the guest has lost, then what the host gets back.
        record::write_or_warn(daemon, handle, &run).await;
        take_back(daemon, handle, &mut run).await;
        record::write_or_warn(daemon, handle, &run).await;
    }
    let all = filters.contains(ALL);
    rx_filter::follow(daemon, handle, &run, |alias| all || filters.contains(alias)).await;
    Followed {
        attachments: run.attachments,
        domain: run.domain,
        removed,
    }
}

/// Whether the guest has a PCI function, or a USB device, of the host by that name, which goes back when QEMU lets go of it.
fn is_host_device(daemon: &Daemon, run: &Run, alias: &str) -> bool {
    super::attachment::by_alias(&run.attachments, alias)
        .and_then(|attachment| daemon.lender.find(attachment.claim?))
        .is_some_and(|line| matches!(line.kind, Some(assign::Kind::Hostdev | assign::Kind::Usb)))
}

/// Takes back all that is owed to the host, as far as QEMU has closed it.
async fn take_back(daemon: &Arc<Daemon>, handle: &GuestHandle, run: &mut Run) {
    let mut kept = Vec::new();
    for attachment in std::mem::take(&mut run.attachments) {
        if attachment.state != AttachmentState::Owed(Creditor::Host) {
            kept.push(attachment);
            continue;
        }
        if let Some(claim) = attachment.claim
            && let Err(error) = end::give_back(daemon, claim).await
        {
            tracing::warn!(
                guest = handle.name,
                error,
                "a device that the guest let go is not given back yet"
            );
            kept.push(attachment);
            continue;
        }
        if let Some(PortId { network, port }) = attachment.port {
            let daemon = Arc::clone(daemon);
            let ended = blocking(QEMU, move || daemon.end_port(network, port)).await;
            if let Err(error) = ended {
                tracing::error!(guest = handle.name, %error, "its port stays");
            }
        }
    }
    run.attachments = kept;
}
