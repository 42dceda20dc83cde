//! What became of a guest while nobody listened to it: asked of QEMU when its monitor answers a daemon
//! for the first time, and when too much was told at once.

use std::collections::BTreeSet;
use std::sync::Arc;

use assign::Phase;
use conf::Teaming;
use lending::{Attachment, AttachmentState};
use qemu::GuestState;

use super::change::Unfinished;
use super::handle::{GuestHandle, Run};
use super::{QEMU, attachment, change, links, pairs, record, seat};
use crate::blocking::blocking;
use crate::daemon::Daemon;
use crate::fault;

/// What QEMU has of what the guest was given.
pub(super) struct Stock {
    /// What the guest has, as far as it is now.
    pub(super) attachments: Vec<Attachment>,
    /// The aliases of what QEMU has no more.
    pub(super) lost: Vec<String>,
    /// Standbys that the guest's driver has joined with a VF.
    pub(super) negotiated: BTreeSet<String>,
    /// A change that was cut short, and can't be brought to its end.
    pub(super) changing: Option<Unfinished>,
}

/// Brings the host's links to what the guest does and its document says, and asks QEMU what it has.
pub(super) async fn take(daemon: &Arc<Daemon>, handle: &GuestHandle, run: &Run) -> Stock {
    let mut attachments = run.attachments.clone();
    let runs = run.machine.state() == GuestState::Running;
    if let Err(error) = links::switch(daemon, &run.attachments, runs).await {
        tracing::warn!(guest = handle.name, %error, "its links are not as it runs");
    }
    for interface in &run.domain.devices.interfaces {
        let (Some(alias), false) = (&interface.info.alias, interface.is_hostdev()) else {
            continue;
        };
        let up = interface.link_up != Some(false);
        if let Err(error) = run.machine.set_link(alias, up).await {
            let error = fault::chain(&error);
            tracing::warn!(
                guest = handle.name,
                alias,
                error,
                "its link is not as it is defined"
            );
        }
    }
    let changing = match &run.changing {
        Some(unfinished) => end_change(daemon, handle, run, unfinished).await,
        None => None,
    };
    let held = match run.machine.device_aliases().await {
        Ok(mut held) => {
            held.extend(unseen(&run.domain));
            held
        }
        Err(error) => {
            let error = fault::chain(&error);
            tracing::warn!(
                guest = handle.name,
                error,
                "what it has let go is not known"
            );
            return Stock {
                attachments,
                lost: Vec::new(),
                negotiated: run.negotiated.clone(),
                changing,
            };
        }
    };
    let mut lost = Vec::new();
    for attachment in &mut attachments {
        let alias = &attachment.alias;
        let is_elsewhere = matches!(
            attachment.state,
            AttachmentState::Owed(_) | AttachmentState::Demoted
        );
        // One that is only reserved QEMU was never given; one that was prepared for it begins anew.
        let is_untouched = || {
            let line = attachment.claim.and_then(|claim| daemon.lender.find(claim));
            line.is_none_or(|line| line.phase == Phase::Claimed)
        };
        let is_reserved = attachment.reserved.is_some() && !held.contains(alias) && is_untouched();
        if is_elsewhere || is_reserved || alias.is_empty() {
            continue;
        }
        if !held.contains(alias) {
            lost.push(alias.clone());
        } else if !attachment.state.is_leaving() {
            // A daemon may have ended between QEMU's answer and its record.
            attachment.state = AttachmentState::Plugged;
            attachment.reserved = None;
        } else if let Err(error) = run.machine.unplug(alias).await {
            // Whatever it answered while nobody listened it says again.
            let error = fault::chain(&error);
            tracing::info!(
                guest = handle.name,
                device = alias,
                error,
                "asked once more"
            );
        }
    }
    let standing: Vec<_> = attachments
        .iter()
        .filter(|one| !lost.contains(&one.alias))
        .cloned()
        .collect();
    pairs::direct(daemon, &handle.name, &standing).await;
    let disks = run.domain.devices.disks.iter();
    let disks = disks.filter_map(|disk| disk.info.alias.clone());
    lost.extend(disks.filter(|alias| !held.contains(alias)));
    let negotiated = negotiated(handle, run, &held).await;
    Stock {
        attachments,
        lost,
        negotiated,
        changing,
    }
}

/// The aliases of what is prepared for the guest, and QEMU was never given.
fn unseen(domain: &conf::Domain) -> impl Iterator<Item = String> {
    let hostdevs = domain.devices.hostdevs.iter().map(|one| &one.info);
    let unseen = hostdevs.filter(|info| info.is_unassigned());
    unseen.filter_map(|info| info.alias.clone())
}

/// The standbys that the guest's driver has joined with a VF, as far as QEMU can tell.
async fn negotiated(handle: &GuestHandle, run: &Run, held: &BTreeSet<String>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let standbys = run.domain.devices.interfaces.iter();
    let standbys = standbys.filter(|one| matches!(one.teaming, Some(Teaming::Persistent)));
    for alias in standbys.filter_map(|one| one.info.alias.as_ref()) {
        match run.machine.has_negotiated_failover(alias).await {
            Ok(Some(true)) => {
                found.insert(alias.clone());
            }
            // This QEMU does not tell; it has the VF only because it was negotiated.
            Ok(None) if has_primary(run, held, alias) => {
                found.insert(alias.clone());
            }
            Ok(_) => {}
            Err(error) => {
                let error = fault::chain(&error);
                tracing::warn!(
                    guest = handle.name,
                    alias,
                    error,
                    "whether it has failover is not known"
                );
            }
        }
    }
    found
}

/// Whether QEMU has the VF whose other half that standby is.
fn has_primary(run: &Run, held: &BTreeSet<String>, standby: &str) -> bool {
    let its = attachment::by_alias(&run.attachments, standby);
    let primary = its.and_then(|standby| pairs::other_half(&run.attachments, standby));
    primary.is_some_and(|primary| held.contains(&primary.alias))
}

/// Makes what runs like its document, as a daemon meant to that ended meanwhile; what is left to do,
/// if it can't be done.
async fn end_change(
    daemon: &Arc<Daemon>,
    handle: &GuestHandle,
    run: &Run,
    unfinished: &Unfinished,
) -> Option<Unfinished> {
    if let Err(error) = change::put_right(daemon, handle, run, unfinished).await {
        tracing::warn!(guest = handle.name, %error, "a change that was cut short is not made");
        return Some(unfinished.clone());
    }
    let (on_networks, ports) = (Arc::clone(daemon), unfinished.ports.clone());
    let ended = blocking(QEMU, move || seat::end_ports(&on_networks, &ports)).await;
    if let Err(error) = ended {
        tracing::warn!(guest = handle.name, %error, "its old ports stay");
    }
    let settled = Run {
        changing: None,
        ..run.clone()
    };
    record::write_or_warn(daemon, handle, &settled).await;
    tracing::info!(guest = handle.name, "a change that was cut short is made");
    None
}
