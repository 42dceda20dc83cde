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

/// A disk of a guest as a client gives it: a drive with another medium, or none.
///
/// # Errors
/// It is no drive, or something else is to change, too.
pub(super) fn with_medium(own: &Disk, given: &Disk) -> Result<Disk> {
    let refused = |detail: String| Err(Error::new(Code::OperationUnsupported, QEMU, detail));
    if own.device != DRIVE || given.device != DRIVE {
        return refused(format!(
            "of a guest's disks the medium of a cdrom alone can be changed, and disk '{}' is none",
            own.target
        ));
    }
    let mut new = own.clone();
    new.source.clone_from(&given.source);
    new.format.clone_from(&given.format);
    Ok(new)
}

/// The same of what runs, where nothing else can change.
pub(super) fn with_medium_alone(own: &Disk, given: &Disk) -> Result<Disk> {
    let mut new = with_medium(own, given)?;
    if new.format.is_empty() {
        "raw".clone_into(&mut new.format);
    }
    // What is not said stays.
    let differs = |given: bool, what: &'static str| given.then_some(what);
    let is_new = |attribute| !own.driver_attributes.contains(attribute);
    let order = given.info.boot_order;
    let other = [
        differs(given.bus != own.bus, "<target bus=…>"),
        differs(given.driver_attributes.iter().any(is_new), "<driver>"),
        differs(order.is_some() && order != own.info.boot_order, "<boot>"),
    ];
    let other: Vec<_> = other.into_iter().flatten().collect();
    if other.is_empty() {
        return Ok(new);
    }
    let detail = format!(
        "of disk '{}' these can't be changed while its guest runs: {}\nIts medium alone can; with \
         --config that, too, is so from the next start on.",
        own.target,
        other.join(", ")
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
