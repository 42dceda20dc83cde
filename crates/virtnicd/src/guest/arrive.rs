//! A guest's way from another host: what is done beside its owner.

use std::sync::Arc;

use qemu::{CpuWord, Guest, MigrationStatus};
use rpc::{Code, Error};

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
}

/// Lets a guest run that has come in. What fails leaves it halted, and its definition as it was.
pub(super) async fn finish(
    daemon: &Arc<Daemon>,
    handle: &Arc<GuestHandle>,
    run: &Run,
    before: Option<Arc<conf::Domain>>,
    wish: FinishWish,
    id: conf::Uuid,
) -> Result<Arrived> {
    let name = &handle.name;
    let arrived = tokio::time::timeout(FINISH_PATIENCE, run.machine.migrated()).await;
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
        guest: handle.uuid,
        name: name.clone(),
        id,
        step: Step::Arriving,
        made_definition: wish.definition.is_some() && before.is_none(),
    };
    if let Some(definition) = &wish.definition {
        daemon.note_move(record.clone()).await?;
        keep_definition(daemon, name, Some(Arc::clone(definition))).await?;
    }
    let finished = let_run(daemon, handle, &run, wish.paused, record).await;
    match finished {
        Ok(()) => Ok(Arrived {
            run,
            definition: wish.definition,
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

async fn let_run(
    daemon: &Arc<Daemon>,
    handle: &Arc<GuestHandle>,
    run: &Run,
    paused: bool,
    record: MoveRecord,
) -> Result<()> {
    if !paused {
        // The network learns from its first frames where it is: they have to get out.
        links::switch(daemon, &run.attachments, true).await?;
        run.machine.resume().await.map_err(control)?;
        if let Err(error) = run.machine.announce().await {
            tracing::warn!(guest = handle.name, %error, "the network is not told where it is");
        }
    }
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
