//! What became of a guest while nobody listened to it: asked of QEMU when its monitor answers a daemon
//! for the first time, and when too much was told at once.

use std::sync::Arc;

use lending::{Attachment, AttachmentState};
use qemu::GuestState;

use super::handle::{GuestHandle, Run};
use super::links;
use crate::daemon::Daemon;
use crate::fault;

/// Brings the host's links to what the guest does and its document says; the aliases of the devices
/// that QEMU has no more.
pub(super) async fn take(daemon: &Arc<Daemon>, handle: &GuestHandle, run: &Run) -> Vec<String> {
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
    let held = match run.machine.device_aliases().await {
        Ok(held) => held,
        Err(error) => {
            let error = fault::chain(&error);
            tracing::warn!(
                guest = handle.name,
                error,
                "what it has let go is not known"
            );
            return Vec::new();
        }
    };
    let is_lost = |one: &&Attachment| {
        !matches!(one.state, AttachmentState::Owed(_))
            && !one.alias.is_empty()
            && !held.contains(&one.alias)
    };
    let lost = run.attachments.iter().filter(is_lost);
    lost.map(|attachment| attachment.alias.clone()).collect()
}
