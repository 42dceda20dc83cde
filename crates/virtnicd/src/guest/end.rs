//! A guest's end: its process, then all that it had of the host.

use std::sync::Arc;

use assign::Generation;
use lending::{Attachment, PortId};
use qemu::Exit;
use rpc::Error;

use super::QEMU;
use super::control::control;
use super::handle::{GuestHandle, Run};
use crate::blocking::blocking;
use crate::daemon::Daemon;
use crate::fault::{self, Result};

/// Ends the process, and waits until it is gone.
pub(super) async fn kill(run: &Run, gracefully: bool) -> Result<Exit> {
    let ended = if gracefully {
        run.machine.destroy_gracefully().await
    } else {
        run.machine.destroy().await
    };
    ended.map_err(control)
}

/// Takes back whatever a guest had, as far as that goes; what was left behind.
pub(super) async fn give_all_back(
    daemon: &Arc<Daemon>,
    handle: &GuestHandle,
    attachments: &[Attachment],
) -> Vec<String> {
    let mut left = Vec::new();
    for attachment in attachments.iter().rev() {
        daemon.lender.end_promise(attachment.id);
        if let Some(claim) = attachment.claim
            && let Err(error) = give_back(daemon, claim).await
        {
            tracing::error!(guest = handle.name, %error, "a device was not given back");
            left.push(error);
        }
    }
    let (daemon, uuid) = (Arc::clone(daemon), handle.uuid);
    let ports: Vec<_> = attachments
        .iter()
        .rev()
        .filter_map(|one| one.port)
        .collect();
    let removed = blocking(QEMU, move || {
        for PortId { network, port } in ports {
            daemon.end_port(network, port);
        }
        let removed = daemon.records.domains.discard(uuid);
        // Only then: until it is gone the next daemon has to know how far its move was.
        removed.and_then(|()| daemon.records.moves.discard(uuid))
    });
    match removed.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            let error = fault::chain(&error);
            tracing::warn!(guest = handle.name, error, "its record stays for now");
        }
        Err(error) => tracing::error!(guest = handle.name, %error, "its ports stay"),
    }
    left
}

/// Takes a device back; what is in the way, in words.
pub(super) async fn give_back(
    daemon: &Arc<Daemon>,
    claim: Generation,
) -> std::result::Result<(), String> {
    let daemon = Arc::clone(daemon);
    match blocking(QEMU, move || daemon.lender.give_back(claim)).await {
        Ok(given) => given.map_err(|error| fault::chain(&error)),
        Err(error) => Err(format!("giving {claim} back: {error}")),
    }
}

/// An error, with what could not be undone after it.
pub(super) fn and_left_behind(error: Error, left: &[String]) -> Error {
    if left.is_empty() {
        return error;
    }
    error.followed_by(&format!("\nNot undone: {}", left.join("; ")))
}
