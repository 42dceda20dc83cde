//! Whether a guest can go to another host: each device answers for itself.

use std::path::Path;

use conf::{
    CharBackend, DirectMode, Disk, DiskSource, Domain, HostSource, Interface, InterfaceSource,
    VirtualPortKind,
};
use lending::{Attachment, Role, Subject};
use qemu::GuestState;
use rpc::{Code, Error, Obstacle};

use super::QEMU;
use crate::fault::Result;
use crate::guest::{Run, is_plugged_vf};

/// Why something can't move, and what would make it movable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reason {
    pub(crate) what: String,
    pub(crate) why: String,
    pub(crate) advice: String,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}; {}", self.what, self.why, self.advice)
    }
}

fn reason(what: impl Into<String>, why: &str, advice: &str) -> Reason {
    Reason {
        what: what.into(),
        why: why.to_owned(),
        advice: advice.to_owned(),
    }
}

/// # Errors
/// It can't: every reason.
pub(crate) fn check(run: &Run) -> Result<()> {
    let reasons = reasons(run);
    if reasons.is_empty() {
        return Ok(());
    }
    let reasons: Vec<_> = reasons.iter().map(ToString::to_string).collect();
    let detail = format!(
        "guest '{}' can't be moved as it is:\n- {}",
        run.domain.name,
        reasons.join("\n- ")
    );
    Err(Error::new(Code::OperationInvalid, QEMU, detail))
}

/// All that keeps a guest where it is, apart from its disks.
pub(crate) fn reasons(run: &Run) -> Vec<Reason> {
    let devices = &run.domain.devices;
    let mut reasons = Vec::new();
    reasons.extend(state(run));
    for interface in &devices.interfaces {
        reasons.extend(of_interface(interface, run));
    }
    for hostdev in &devices.hostdevs {
        let alias = hostdev.info.alias.as_deref().unwrap_or("hostdev");
        let its = its(run, alias, Subject::HostDevice);
        if its.is_some_and(|one| one.role == Role::Primary) {
            continue;
        }
        reasons.push(match hostdev.source {
            HostSource::Usb(_) => reason(
                format!("host device '{alias}'"),
                "a USB device is plugged into this host",
                "detach it first: virsh detach-device-alias",
            ),
            _ => reason(
                format!("host device '{alias}'"),
                "a PCI device of this host can't go along",
                "detach it first, or make it the VF of a pair (<teaming>)",
            ),
        });
    }
    let chars = devices.serials.iter().chain(&devices.consoles);
    for device in chars {
        let alias = device.info.alias.as_deref().unwrap_or("console");
        let what = format!("'{alias}'");
        match &device.backend {
            CharBackend::Pty(_) | CharBackend::Null => {}
            CharBackend::File { .. } => {}
            _ => reasons.push(reason(
                what,
                "what it is connected to stays on this host",
                "use a pty for it",
            )),
        }
    }
    for disk in &devices.disks {
        reasons.extend(of_disk(disk));
    }
    reasons
}

fn its<'a>(run: &'a Run, alias: &str, subject: Subject) -> Option<&'a Attachment> {
    let mut all = run.attachments.iter();
    all.find(|one| one.alias == alias && one.subject == subject)
}

/// A guest that is halted can't let its VFs go.
fn state(run: &Run) -> Option<Reason> {
    let state = run.machine.state();
    let what = format!("guest '{}'", run.domain.name);
    match state {
        GuestState::Running => None,
        GuestState::Paused(_) => run.attachments.iter().any(is_plugged_vf).then(|| {
            reason(
                what,
                "it is paused, and can't let its VF go",
                "virsh resume it, or take the VF out before it is paused: virtnic demote",
            )
        }),
        GuestState::ShuttingDown | GuestState::Ended => {
            Some(reason(what, "it is shutting down", "start it again"))
        }
        GuestState::Crashed => Some(reason(what, "it has crashed", "reset or destroy it")),
        GuestState::Asleep => Some(reason(what, "it is asleep", "wake it up first")),
        GuestState::Unknown => Some(reason(
            what,
            "its monitor does not answer",
            "try again when it does",
        )),
    }
}

fn of_interface(interface: &Interface, run: &Run) -> Option<Reason> {
    let what = format!("interface {}", interface.mac);
    let alias = interface.info.alias.as_deref().unwrap_or_default();
    let its = its(run, alias, Subject::Interface);
    let is_primary = its.is_some_and(|one| one.role == Role::Primary && one.pair.is_some());
    let port = (interface.actual.as_ref())
        .and_then(|actual| actual.virtual_port.as_ref())
        .or(interface.virtual_port.as_ref());
    let kind = port.and_then(|port| port.kind);
    if interface.is_hostdev() {
        if kind == Some(VirtualPortKind::Qbg) {
            return Some(reason(
                what,
                "a VF can't be announced to a switch by 802.1Qbg",
                "use 802.1Qbh, or a macvtap",
            ));
        }
        return (!is_primary).then(|| {
            reason(
                what,
                "it is a VF without another half, so the guest would lose its connection",
                "a network of mode 'hostdev-hybrid', or <teaming> with a virtio interface, makes it a pair",
            )
        });
    }
    match &interface.source {
        InterfaceSource::Network { .. }
        | InterfaceSource::Bridge { .. }
        | InterfaceSource::Ethernet
        | InterfaceSource::Null
        | InterfaceSource::User
        | InterfaceSource::Direct {
            mode:
                DirectMode::Bridge | DirectMode::Private | DirectMode::Vepa | DirectMode::Passthrough,
            ..
        } => None,
        InterfaceSource::Hostdev { .. } | InterfaceSource::HostdevHybrid { .. } => None,
        InterfaceSource::Other { kind, .. } => Some(reason(
            what,
            &format!("its type, '{kind}', is not known to move"),
            "use a network, a bridge or a macvtap",
        )),
    }
}

fn of_disk(disk: &Disk) -> Option<Reason> {
    match &disk.source {
        None | Some(DiskSource::File(_) | DiskSource::Block(_)) => None,
        Some(DiskSource::Other { kind, .. }) => Some(reason(
            format!("disk '{}'", disk.target),
            &format!("its type, '{kind}', is not known to move"),
            "use a file or a block device that both hosts reach",
        )),
    }
}

/// Disks that the other host can't reach, as far as this one can tell: files that are on no file system
/// which hosts share. Looks at the file system; blocks.
pub(crate) fn unshared_disks(domain: &Domain) -> Vec<Reason> {
    let disks = domain.devices.disks.iter();
    let unshared = disks.filter_map(|disk| match &disk.source {
        Some(DiskSource::File(path)) if !is_shared(Path::new(path)) => Some(reason(
            format!("disk '{}' ({path})", disk.target),
            "it is on a file system of this host alone",
            "put it where both hosts reach it (NFS, Ceph, GlusterFS …), or say --unsafe if they do",
        )),
        _ => None,
    });
    unshared.collect()
}

/// # Errors
/// There are such disks, and nobody said that this is safe all the same.
pub(crate) fn check_disks(domain: &Domain) -> Result<()> {
    let reasons: Vec<_> = unshared_disks(domain)
        .iter()
        .map(ToString::to_string)
        .collect();
    if reasons.is_empty() {
        return Ok(());
    }
    let detail = format!(
        "Migration without shared storage is unsafe, of guest '{}':\n- {}",
        domain.name,
        reasons.join("\n- ")
    );
    Err(Error::new(Code::MigrateUnsafe, QEMU, detail))
}

impl From<Reason> for Obstacle {
    fn from(reason: Reason) -> Self {
        let Reason { what, why, advice } = reason;
        Self {
            there: false,
            what,
            why,
            advice,
        }
    }
}

/// The kernel's numbers (`linux/magic.h`, and the file systems' own) of file systems that hosts share.
const SHARED: [u64; 12] = [
    0x6969,      // NFS
    0xff53_4d42, // CIFS
    0xfe53_4d42, // SMB2
    0x517b,      // SMB
    0x0116_1970, // GFS2
    0x7461_636f, // OCFS2
    0x5346_414f, // AFS
    0x00c3_6400, // Ceph
    0x4750_4653, // GPFS
    0x0bd0_0bd0, // Lustre
    0x6573_5546, // FUSE: GlusterFS, Quobyte
    0x0102_1997, // 9p
];

/// One that is not there is not shared.
fn is_shared(path: &Path) -> bool {
    let found = rustix::fs::statfs(path);
    found.is_ok_and(|found| SHARED.contains(&(found.f_type as u64 & 0xffff_ffff)))
}
