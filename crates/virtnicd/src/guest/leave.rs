//! A guest's way to another host: what is done beside its owner.

use std::sync::Arc;

use qemu::{GuestState, MigrationInfo, MigrationStatus, PauseReason};
use rpc::{Code, Error};

use super::cancel::Cancel;
use super::control::control;
use super::handle::{GuestHandle, Run};
use super::moving::{Aftermath, MoveRecord, SendWish, Step, called_off};
use super::{QEMU, links};
use crate::daemon::Daemon;
use crate::fault::{self, Result};

/// Has QEMU send a guest, and waits until that is over. What fails leaves it as it was: QEMU lets it run
/// again by itself.
pub(super) async fn send(
    daemon: &Arc<Daemon>,
    handle: &GuestHandle,
    run: &Run,
    (wish, was_running): (&SendWish, bool),
    cancel: &Cancel,
) -> Result<MigrationInfo> {
    let record = MoveRecord {
        was_running,
        ..MoveRecord::new(handle, wish.id, Step::Sending)
    };
    daemon.note_move(record.clone()).await?;
    let sent = send_recorded(daemon, run, wish, cancel, record).await;
    let Err(error) = sent else {
        return sent;
    };
    // QEMU lets it run again by itself, unless it, or somebody, halted it before. Nobody was told that all was
    // sent, so it can't run there.
    let is_halted = matches!(
        run.machine.state(),
        GuestState::Paused(PauseReason::User | PauseReason::Migration)
    );
    let back = match was_running && is_halted {
        true => go_on(daemon, run).await,
        false => Ok(()),
    };
    daemon.forget_move(handle.uuid).await;
    Err(match back {
        Ok(()) => error,
        Err(left) => error.followed_by(&format!("\nIt is halted, and stays so: {left}")),
    })
}

async fn send_recorded(
    daemon: &Arc<Daemon>,
    run: &Run,
    wish: &SendWish,
    cancel: &Cancel,
    record: MoveRecord,
) -> Result<MigrationInfo> {
    let machine = &run.machine;
    let begun = machine.migrate(&wish.settings, &wish.uri).await;
    begun.map_err(control)?;
    let status = tokio::select! {
        status = machine.migrated() => status,
        () = cancel.cancelled() => {
            if let Err(error) = machine.cancel_migration().await {
                tracing::warn!(guest = record.name, %error, "QEMU does not end its migration");
            }
            machine.migrated().await
        }
    };
    match status {
        MigrationStatus::Completed => {}
        MigrationStatus::Cancelled => return Err(called_off()),
        _ if cancel.is_cancelled() => return Err(called_off()),
        _ => {
            let info = machine.migration().await.unwrap_or_default();
            let why = info
                .error_desc
                .unwrap_or_else(|| "QEMU does not say why".to_owned());
            let detail = format!(
                "sending guest '{}' to {} failed: {why}\nIt goes on here. If nobody answers there, give \
                 an address at which the other host is reached: --migrateuri tcp://ADDRESS",
                record.name, wish.uri
            );
            return Err(Error::new(Code::OperationFailed, QEMU, detail));
        }
    }
    switch_off(daemon, run, cancel, record).await?;
    Ok(machine.migration().await.unwrap_or_default())
}

/// From here on it may run on the other host.
async fn switch_off(
    daemon: &Arc<Daemon>,
    run: &Run,
    cancel: &Cancel,
    record: MoveRecord,
) -> Result<()> {
    if cancel.is_cancelled() {
        return Err(called_off());
    }
    links::switch(daemon, &run.attachments, false).await?;
    let sent = MoveRecord {
        step: Step::Sent,
        ..record
    };
    daemon.note_move(sent).await
}

/// Does what is to be done about a guest that an earlier daemon was moving; whether it is done.
pub(super) async fn settle(
    daemon: &Arc<Daemon>,
    handle: &GuestHandle,
    run: &Run,
    aftermath: Aftermath,
) -> bool {
    let guest = &handle.name;
    match aftermath {
        Aftermath::GoesOn { was_running } => {
            let ended = run.machine.end_migration().await.map_err(control);
            let is_halted = run.machine.state() == GuestState::Paused(PauseReason::Migration);
            let back = match ended {
                Ok(_) if is_halted && was_running => go_on(daemon, run).await,
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            };
            match back {
                Ok(()) => {
                    tracing::warn!(guest, "its move was broken off: it stays here");
                    daemon.forget_move(handle.uuid).await;
                    true
                }
                Err(error) => {
                    tracing::error!(guest, %error, "its move was broken off, and it is not let run again");
                    false
                }
            }
        }
        Aftermath::Unknown { .. } => {
            tracing::error!(
                guest,
                "a daemon ended while it was moved, and nobody here can tell on which host it runs: it is \
                 halted here with all that it has; virtnic migrate-resolve {guest} --here lets it go on here, \
                 --there ends it here"
            );
            let halted = run.machine.suspend().await;
            if let Err(error) = halted {
                tracing::error!(guest, error = fault::chain(&error), "it is not halted");
                return false;
            }
            if let Err(error) = links::switch(daemon, &run.attachments, false).await {
                tracing::error!(guest, %error, "its links are still on");
            }
            true
        }
    }
}

/// Lets a guest run here that did not go.
pub(super) async fn go_on(daemon: &Arc<Daemon>, run: &Run) -> Result<()> {
    links::switch(daemon, &run.attachments, true).await?;
    if let Err(error) = run.machine.resume().await {
        // Its own failure is the lesser news.
        let _ = links::switch(daemon, &run.attachments, false).await;
        return Err(control(error));
    }
    Ok(())
}
