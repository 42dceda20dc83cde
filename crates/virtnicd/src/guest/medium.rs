//! The medium of a running guest's drive, and the files of its disks.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use conf::Disk;
use qemu::{ControlError, Problem};
use rpc::{Code, Error};

use super::QEMU;
use super::control::control;
use super::handle::{GuestHandle, Run};
use crate::daemon::Daemon;
use crate::fault::{self, Result};

/// The only disk whose source changes while it is there.
const DRIVE: &str = "cdrom";

/// Buses whose disks come and go while a guest runs.
const PLUGGABLE: [&str; 2] = ["virtio", "scsi"];

/// A disk's bus lets it come and go.
pub(super) fn check_pluggable(disk: &Disk) -> Result<()> {
    if PLUGGABLE.contains(&disk.bus.as_str()) {
        return Ok(());
    }
    let instead = match disk.device.as_str() {
        DRIVE => "The medium of a drive that it has can be changed: virsh change-media.",
        _ => "With --config it is so from the next start on.",
    };
    let detail = format!(
        "disk '{}' can't be plugged into or out of a running guest: it is on bus {}, and disks on {} \
         alone can\n{instead}",
        disk.target,
        disk.bus,
        PLUGGABLE.join(" and ")
    );
    Err(Error::new(Code::OperationUnsupported, QEMU, detail))
}

/// Whether two documents of a drive have different media.
pub(super) fn is_other(old: &Disk, new: &Disk) -> bool {
    (&old.source, &old.format) != (&new.source, &new.format)
}

/// A drive of a definition as a client gives it. What names it stays.
///
/// # Errors
/// It is no drive.
pub(super) fn defined_as(own: &Disk, given: &Disk) -> Result<Disk> {
    check_drive(own, given)?;
    let mut new = given.clone();
    let info = &mut new.info;
    info.address = info.address.take().or_else(|| own.info.address.clone());
    info.alias = info.alias.take().or_else(|| own.info.alias.clone());
    Ok(new)
}

/// A drive that runs with the medium that a client gives it, or with none.
///
/// # Errors
/// It is no drive, or something else is to change, too.
pub(super) fn running_with(own: &Disk, given: &Disk) -> Result<Disk> {
    check_drive(own, given)?;
    let other = own.changes_beside_medium(given);
    if !other.is_empty() {
        let detail = format!(
            "of disk '{}' these can't be changed while its guest runs: {}\nIts medium alone can; with \
             --config that, too, is so from the next start on.",
            own.target,
            other.join(", ")
        );
        return Err(Error::new(Code::OperationUnsupported, QEMU, detail));
    }
    let mut new = own.with_medium_of(given);
    if new.format.is_empty() {
        "raw".clone_into(&mut new.format);
    }
    Ok(new)
}

fn check_drive(own: &Disk, given: &Disk) -> Result<()> {
    if own.device == DRIVE && given.device == DRIVE {
        return Ok(());
    }
    let detail = format!(
        "of a guest's disks the medium of a cdrom alone can be changed, and disk '{}' is none",
        own.target
    );
    Err(Error::new(Code::OperationUnsupported, QEMU, detail))
}

/// Puts into a drive what its document has; `force`: also where the guest holds its tray locked.
pub(super) async fn put_in(
    daemon: &Arc<Daemon>,
    handle: &GuestHandle,
    run: &Run,
    drive: &Disk,
    force: bool,
) -> Result<()> {
    let files = open(daemon, &handle.name, drive).await.map_err(control)?;
    let changed = run.machine.change_medium(drive, files, force).await;
    changed.map_err(control)
}

/// Opens the files of a disk, if QEMU could not.
pub(super) async fn open(
    daemon: &Daemon,
    guest: &str,
    disk: &Disk,
) -> std::result::Result<Vec<OwnedFd>, ControlError> {
    let (disk, is_other) = (disk.clone(), daemon.qemu_user.is_some());
    let opened = tokio::task::spawn_blocking(move || qemu::open_disk(&disk, is_other)).await;
    let files = match opened {
        Ok(opened) => opened.map_err(|error| fault::chain(&error)),
        Err(_) => Err("opening it was broken off".to_owned()),
    };
    files.map_err(|problem| ControlError::Device {
        name: guest.to_owned(),
        problem: Problem::Unsupported(problem),
    })
}
