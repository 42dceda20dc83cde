//! A guest's way from another host: what is done beside its owner.

use std::sync::Arc;

use qemu::{CpuWord, Guest, MigrationStatus, StopsWithUs};
use rpc::{Code, Error};

use super::cancel::Cancel;
use super::control::control;
use super::handle::{GuestHandle, Run};
use super::moving::{ArrivalWish, FINISH_PATIENCE, FinishWish, MoveRecord, Step};
use super::{QEMU, definition, links, record};
use crate::blocking::blocking;
use crate::daemon::Daemon;
use crate::fault::Result;

/// Has a QEMU that was started for it wait for its guest; where.
pub(super) async fn listen(guest: &Guest, wish: &ArrivalWish) -> Result<String> {
    if let (Some(there), Some(here)) = (&wish.cpu, guest.cpu_features().await.map_err(control)?) {
        check_cpu(&wish.domain.name, there, &here)?;
    }
    let mut refused = None;
    for uri in &wish.uris {
        match guest.listen_for_migration(&wish.settings, uri).await {
            Ok(()) => return Ok(uri.clone()),
            Err(error @ qemu::ControlError::Qmp(qemu::QmpError::Refused { .. })) => {
                refused = Some(error);
            }
            Err(error) => return Err(control(error)),
        }
    }
    let why = refused.map_or_else(|| "there is none".to_owned(), |error| error.to_string());
    let detail = format!(
        "QEMU can't wait for guest '{}' at any of the addresses from {} on: {why}",
        wish.domain.name,
        wish.uris.first().map_or("(none)", |uri| uri)
    );
    Err(Error::new(Code::OperationFailed, QEMU, detail))
}

/// A guest keeps the CPU features that it has.
fn check_cpu(name: &str, there: &[CpuWord], here: &[CpuWord]) -> Result<()> {
    let value = |words: &[CpuWord], place| {
        let mut words = words.iter();
        words
            .find(|word| word.place() == place)
            .map_or(0, |word| word.features)
    };
    let mut differ: Vec<String> = Vec::new();
    for word in there.iter().chain(here.iter()) {
        let (eax, ecx, register) = word.place();
        let (old, new) = (value(there, word.place()), value(here, word.place()));
        let leaf = match ecx {
            Some(ecx) => format!("CPUID {eax:#x}.{ecx} {register}"),
            None => format!("CPUID {eax:#x} {register}"),
        };
        let text = format!("{leaf} is {old:#010x} there and {new:#010x} here");
        if old != new && !differ.contains(&text) {
            differ.push(text);
        }
    }
    if differ.is_empty() {
        return Ok(());
    }
    let detail = format!(
        "guest '{name}' would get another CPU here than it has: {}\nA CPU model that both hosts have \
         (<cpu mode='custom'><model>…) makes it movable from its next start on.",
        differ.join("; ")
    );
    Err(Error::new(Code::ConfigUnsupported, QEMU, detail))
}

/// A guest that is here.
pub(super) struct Arrived {
    pub(super) run: Run,
    /// What was kept of it.
    pub(super) definition: Option<Arc<conf::Domain>>,
    /// It stops if we end before its client knows that it is here.
    pub(super) stops_with_us: Option<StopsWithUs>,
}

/// Lets a guest run that has come in. What fails leaves it halted, and its definition as it was.
pub(super) async fn finish(
    daemon: &Arc<Daemon>,
    handle: &Arc<GuestHandle>,
    run: &Run,
    before: Option<Arc<conf::Domain>>,
    wish: FinishWish,
    cancel: &Cancel,
) -> Result<Arrived> {
    let name = &handle.name;
    let arrived = tokio::select! {
        arrived = tokio::time::timeout(FINISH_PATIENCE, run.machine.migrated()) => arrived,
        () = cancel.cancelled() => return Err(client_gone(name)),
    };
    let failed = |why: &str| {
        let detail = format!("guest '{name}' did not come in: {why}");
        Err(Error::new(Code::OperationFailed, QEMU, detail))
    };
    match arrived {
        Ok(MigrationStatus::Completed) => {}
        Ok(_) => return failed("its QEMU could not load what came; its log tells more"),
        Err(_) => return failed("not all of it came"),
    }
    let mut run = run.clone();
    run.arrived = true;
    let record = MoveRecord {
        made_definition: wish.definition.is_some() && before.is_none(),
        ..MoveRecord::new(handle, wish.id, Step::Arriving)
    };
    if let Some(definition) = &wish.definition {
        daemon.note_move(record.clone()).await?;
        keep_definition(daemon, name, Some(Arc::clone(definition))).await?;
    }
    let finished = if cancel.is_cancelled() {
        Err(client_gone(name))
    } else {
        let_run(daemon, handle, &run, (wish.paused, cancel), record).await
    };
    match finished {
        Ok(stops_with_us) => Ok(Arrived {
            run,
            definition: wish.definition,
            stops_with_us,
        }),
        Err(error) => {
            if wish.definition.is_some()
                && let Err(left) = keep_definition(daemon, name, before).await
            {
                return Err(error.followed_by(&format!("\nNot undone: {}", left.message())));
            }
            Err(error)
        }
    }
}

fn client_gone(name: &str) -> Error {
    let detail = format!("guest '{name}' does not come: who was moving it is gone");
    Error::new(Code::OperationAborted, QEMU, detail)
}

async fn let_run(
    daemon: &Arc<Daemon>,
    handle: &Arc<GuestHandle>,
    run: &Run,
    (paused, cancel): (bool, &Cancel),
    record: MoveRecord,
) -> Result<Option<StopsWithUs>> {
    if paused {
        note_arrived(daemon, handle, run, record).await?;
        return Ok(None);
    }
    // Until its client knows that it runs here it may be let run where it came from.
    let stops_with_us = run.machine.stop_with_us().map_err(|error| {
        let detail = format!(
            "guest '{}' can't be let run in safety: {error}",
            handle.name
        );
        Error::new(Code::OperationFailed, QEMU, detail)
    })?;
    let runs = async {
        // The network learns from its first frames where it is: they have to get out.
        links::switch(daemon, &run.attachments, true).await?;
        if cancel.is_cancelled() {
            return Err(client_gone(&handle.name));
        }
        run.machine.resume().await.map_err(control)?;
        if cancel.is_cancelled() {
            return Err(client_gone(&handle.name));
        }
        if let Err(error) = run.machine.announce().await {
            tracing::warn!(guest = handle.name, %error, "the network is not told where it is");
        }
        note_arrived(daemon, handle, run, record).await
    };
    match runs.await {
        Ok(()) => Ok(Some(stops_with_us)),
        Err(error) => {
            // It must not run any longer than it takes to say so.
            let _ = run.machine.suspend().await;
            let _ = links::switch(daemon, &run.attachments, false).await;
            let_off(stops_with_us, &handle.name);
            Err(error)
        }
    }
}

/// A process that stopped could not be asked to end.
pub(super) fn let_off(stops_with_us: StopsWithUs, guest: &str) {
    if let Err(error) = stops_with_us.let_off() {
        tracing::error!(guest, %error, "its process will stop when this daemon ends");
    }
}

/// It runs here, and its client may know that from now on.
async fn note_arrived(
    daemon: &Arc<Daemon>,
    handle: &Arc<GuestHandle>,
    run: &Run,
    record: MoveRecord,
) -> Result<()> {
    record::write_or_warn(daemon, handle, run).await;
    let arrived = MoveRecord {
        step: Step::Arrived,
        ..record
    };
    daemon.note_move(arrived).await
}

/// Writes a guest's definition, or removes it.
async fn keep_definition(
    daemon: &Arc<Daemon>,
    name: &str,
    domain: Option<Arc<conf::Domain>>,
) -> Result<()> {
    let (daemon, its) = (Arc::clone(daemon), name.to_owned());
    let kept = blocking(QEMU, move || match domain {
        Some(domain) => definition::keep(&daemon, &its, &domain),
        None => daemon.domain_store.remove(&its),
    });
    kept.await?.map_err(definition::not_kept(name))
}
