//! Asking a running guest to let a device go. It answers when it likes: nothing waits for it here.

use std::sync::Arc;
use std::time::Duration;

use conf::{DeviceInfo, DeviceRef};
use lending::{Attachment, AttachmentState, Creditor, Role};
use qemu::Unplugging;
use rpc::{Code, Error};
use tokio::time::Instant;

use super::control::control;
use super::handle::{GuestHandle, Reply, Run};
use super::hotplug::Meant;
use super::{QEMU, attachment, medium, pairs, record};
use crate::daemon::Daemon;
use crate::fault::Result;

/// How long a client waits for the guest; after that its call succeeds, and means "asked". As long as
/// libvirt waits.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// A client that waits until a guest has let a device go.
pub(super) struct Waiting {
    pub(super) alias: String,
    /// Until when.
    pub(super) until: Instant,
    pub(super) reply: Option<Reply>,
    /// The definition is to lose it, too, once the guest has.
    pub(super) config: Option<Meant>,
}

/// What came of asking.
pub(super) struct Asked {
    pub(super) attachments: Vec<Attachment>,
    pub(super) alias: String,
    pub(super) result: Result<Answer>,
}

/// What QEMU said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The guest was asked.
    Asked,
    /// It was asked before.
    InProgress,
    /// QEMU doesn't have it any more.
    Gone,
}

/// Asks QEMU for a device of a running guest.
pub(super) async fn ask(
    daemon: &Arc<Daemon>,
    handle: &GuestHandle,
    run: &Run,
    alias: String,
    asked: AttachmentState,
) -> Asked {
    let mut run = run.clone();
    let before = mark(&mut run.attachments, &alias, asked);
    let result = ask_recorded(daemon, handle, &run, &alias).await;
    if result.is_err()
        && let Some(before) = before
    {
        mark(&mut run.attachments, &alias, before);
        record::write_or_warn(daemon, handle, &run).await;
    }
    Asked {
        attachments: run.attachments,
        alias,
        result,
    }
}

async fn ask_recorded(
    daemon: &Arc<Daemon>,
    handle: &GuestHandle,
    run: &Run,
    alias: &str,
) -> Result<Answer> {
    record::write(daemon, handle, run).await?;
    match run.machine.unplug(alias).await.map_err(control)? {
        Unplugging::Asked => Ok(Answer::Asked),
        Unplugging::InProgress => Ok(Answer::InProgress),
        Unplugging::NotThere => Ok(Answer::Gone),
    }
}

/// Sets how far a device is; how far it was.
pub(super) fn mark(
    attachments: &mut [Attachment],
    alias: &str,
    state: AttachmentState,
) -> Option<AttachmentState> {
    let its = attachments
        .iter_mut()
        .find(|one| one.alias == alias && one.state != AttachmentState::Owed(Creditor::Host))?;
    Some(std::mem::replace(&mut its.state, state))
}

/// The alias of a device that may be asked for; of the standby of a pair only with the other half.
pub(super) fn alias_of(run: &Run, place: DeviceRef, as_pair: bool) -> Result<String> {
    let name = &run.domain.name;
    let unsupported = |detail: String| Error::new(Code::OperationUnsupported, QEMU, detail);
    let devices = &run.domain.devices;
    if !matches!(
        place,
        DeviceRef::Interface(_) | DeviceRef::Hostdev(_) | DeviceRef::Disk(_)
    ) {
        let detail = "only interfaces, host devices and disks leave a running guest; with --config \
                      another device is gone at its next start";
        return Err(unsupported(detail.to_owned()));
    }
    if let DeviceRef::Disk(at) = place
        && let Some(disk) = devices.disks.get(at)
    {
        medium::check_pluggable(disk)?;
    }
    let info = place.info(devices);
    let failed = |detail: String| Err(Error::new(Code::OperationFailed, QEMU, detail));
    let Some(DeviceInfo {
        alias: Some(alias), ..
    }) = info
    else {
        let detail = format!("the device of guest '{name}' has no alias");
        return Err(Error::new(Code::InternalError, QEMU, detail));
    };
    if info.is_some_and(conf::is_multifunction) {
        return failed(format!(
            "device '{alias}' of guest '{name}' is one of several functions of its slot, and can't \
             leave alone"
        ));
    }
    if let Some(address) = info.and_then(DeviceInfo::pci_address)
        && let bus = u32::from(address.bus())
        && devices.controllers.iter().any(|controller| {
            controller.kind == "pci"
                && controller.index == bus
                && controller.target.hotplug == Some(false)
        })
    {
        return failed(format!(
            "device '{alias}' of guest '{name}' sits on controller {bus}, which has hotplug='off'"
        ));
    }
    let its = attachment::by_alias(&run.attachments, alias);
    if let Some(standby) = its.filter(|one| one.role == Role::Standby)
        && let Some(primary) = pairs::other_half(&run.attachments, standby)
        && !(as_pair && primary.state == AttachmentState::Demoted)
    {
        return failed(format!(
            "device '{alias}' of guest '{name}' is the half of a pair that stays: its VF, '{}', has to \
             go first\nGive the one element, or the MAC, to take both out.",
            primary.alias
        ));
    }
    match its.map(|one| one.state) {
        Some(AttachmentState::Owed(_)) => failed(format!(
            "device '{alias}' has left guest '{name}' already, and is being given back"
        )),
        _ => Ok(alias.clone()),
    }
}

/// The guest has been asked before, and has not answered.
pub(super) fn in_progress(guest: &str, alias: &str) -> Error {
    let detail = format!(
        "Device {alias} is already in the process of unplug: guest '{guest}' was asked to let it go, \
         and has not answered yet"
    );
    // The code by which libvirt's clients know it, which says that the daemon failed.
    Error::worded(Code::InternalError, Code::OperationFailed, QEMU, detail)
}

/// The guest said no.
pub(super) fn refused(guest: &str, alias: &str) -> Error {
    let detail = format!("guest '{guest}' refused to let device '{alias}' go");
    Error::new(Code::OperationFailed, QEMU, detail)
}

/// The guest ended with the device still plugged in.
pub(super) fn ended(guest: &str) -> Error {
    let detail = format!("guest '{guest}' ended before it let the device go");
    Error::new(Code::OperationFailed, QEMU, detail)
}
