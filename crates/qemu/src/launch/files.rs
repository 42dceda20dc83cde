//! Opening a guest's files: what its document names, and nothing that makes whoever opens it wait.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use conf::{CharBackend, Disk, DiskSource, Domain};
use rustix::fs::{FileType, Mode, OFlags, Stat};

use super::LaunchError;
use crate::Resources;

/// What a path is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// A disk's image, a kernel, a ROM: a file or a block device.
    Image,
    /// A serial port's: what an image may be, or a sink such as `/dev/null`.
    Output,
}

/// The kernel's number of the devices that are memory, `/dev/null` among them.
const MEMORY_DEVICES: u32 = 1;

/// Refuses what would make QEMU wait for ever, and opens what a QEMU without our rights could not,
/// if it is to have none.
pub(super) fn open_files(
    domain: &Domain,
    for_another_user: bool,
    resources: &mut Resources,
    inherited: &mut Vec<OwnedFd>,
) -> Result<(), LaunchError> {
    for path in only_read(domain) {
        // QEMU opens it itself, and tells what else is wrong with it.
        look_at(Path::new(path), Use::Image)?;
    }
    let mut open = |alias: &Option<String>, path: &str, wanted: Use, ways: &[OFlags]| {
        if !for_another_user {
            return look_at(Path::new(path), wanted);
        }
        let Some(alias) = alias else {
            return Ok(()); // refused when the command line is made
        };
        for flags in ways {
            let file = open_checked(Path::new(path), wanted, *flags)?;
            let numbers = resources.files.entry(alias.clone()).or_default();
            numbers.push(file.as_raw_fd());
            inherited.push(file.into());
        }
        Ok(())
    };
    for disk in &domain.devices.disks {
        if let Some((path, ways)) = image(disk) {
            open(&disk.info.alias, path, Use::Image, &ways)?;
        }
    }
    for serial in &domain.devices.serials {
        if let CharBackend::File { path, append } = &serial.backend {
            let how = if *append == Some(true) {
                OFlags::APPEND
            } else {
                OFlags::TRUNC
            };
            let flags = OFlags::WRONLY | OFlags::CREATE | how;
            open(&serial.info.alias, path, Use::Output, &[flags])?;
        }
    }
    Ok(())
}

/// Opens what a disk that is plugged in needs of the host, for a QEMU that runs as somebody else, or
/// looks at it: nothing is opened that would make QEMU, or us, wait for ever. Blocks.
///
/// # Errors
/// [`LaunchError::NoFile`] or [`LaunchError::Prepare`], with the path.
pub fn open_disk(disk: &Disk, for_another_user: bool) -> Result<Vec<OwnedFd>, LaunchError> {
    let Some((path, ways)) = image(disk) else {
        return Ok(Vec::new());
    };
    let path = Path::new(path);
    if !for_another_user {
        look_at(path, Use::Image)?;
        return Ok(Vec::new());
    }
    let files = ways.into_iter();
    let files = files.map(|flags| Ok(open_checked(path, Use::Image, flags)?.into()));
    files.collect()
}

/// The path of a disk's image, and the ways in which QEMU opens it.
fn image(disk: &Disk) -> Option<(&str, Vec<OFlags>)> {
    let Some(DiskSource::File(path) | DiskSource::Block(path)) = &disk.source else {
        return None;
    };
    // QEMU takes a descriptor only if it is as direct as its cache is to be.
    let direct = if is_direct(disk) {
        OFlags::DIRECT
    } else {
        OFlags::empty()
    };
    // QEMU opens an image for reading first, to look at it.
    let mut ways = vec![OFlags::RDONLY | direct];
    if is_written_to(disk) {
        ways.push(OFlags::RDWR | direct);
    }
    Some((path, ways))
}

/// Files that QEMU always opens itself.
fn only_read(domain: &Domain) -> impl Iterator<Item = &String> {
    let devices = &domain.devices;
    let infos = devices.interfaces.iter().map(|interface| &interface.info);
    let infos = infos.chain(devices.hostdevs.iter().map(|hostdev| &hostdev.info));
    let roms = infos.filter_map(|info| info.rom.as_ref()?.file.as_ref());
    domain.os.kernel.iter().chain(&domain.os.initrd).chain(roms)
}

/// Refuses a path that must not be opened. What can't be looked at is no concern of ours.
fn look_at(path: &Path, wanted: Use) -> Result<(), LaunchError> {
    match place(path) {
        Ok(place) => check(path, &place, wanted).map(drop),
        Err(_) => Ok(()),
    }
}

/// Opens a path if it is of a kind that is allowed, without waiting for whatever it is.
fn open_checked(path: &Path, wanted: Use, flags: OFlags) -> Result<File, LaunchError> {
    let failed = |source: rustix::io::Errno| LaunchError::Prepare {
        path: path.to_owned(),
        source: source.into(),
    };
    let careful = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = match place(path) {
        Ok(place) => {
            check(path, &place, wanted)?;
            // The same place, whatever the path leads to by now.
            let same = format!("/proc/self/fd/{}", place.as_raw_fd());
            let flags = (flags | careful).difference(OFlags::CREATE);
            rustix::fs::open(same, flags, Mode::empty())
        }
        Err(rustix::io::Errno::NOENT) if flags.contains(OFlags::CREATE) => {
            let flags = flags | careful | OFlags::EXCL;
            rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
        }
        Err(error) => Err(error),
    };
    let opened = opened.map_err(failed)?;
    // QEMU is to have it as if it had opened it itself.
    let flags = rustix::fs::fcntl_getfl(&opened).map_err(failed)?;
    rustix::fs::fcntl_setfl(&opened, flags.difference(OFlags::NONBLOCK)).map_err(failed)?;
    Ok(opened.into())
}

/// What a path leads to, without opening that.
fn place(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

fn check(path: &Path, place: &OwnedFd, wanted: Use) -> Result<(), LaunchError> {
    let stat = rustix::fs::fstat(place).map_err(|source| LaunchError::Prepare {
        path: path.to_owned(),
        source: source.into(),
    })?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile | FileType::BlockDevice => return Ok(()),
        FileType::CharacterDevice if wanted == Use::Output && is_memory(&stat) => return Ok(()),
        FileType::CharacterDevice => "a character device",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::Directory => "a directory",
        _ => "no file",
    };
    Err(LaunchError::NoFile {
        path: path.to_owned(),
        kind,
    })
}

fn is_memory(stat: &Stat) -> bool {
    rustix::fs::major(stat.st_rdev) == MEMORY_DEVICES
}

/// Whether its cache mode goes around the host's page cache.
fn is_direct(disk: &Disk) -> bool {
    let mut attributes = disk.driver_attributes.iter();
    attributes.any(|(name, mode)| name == "cache" && matches!(mode.as_str(), "none" | "directsync"))
}

fn is_written_to(disk: &Disk) -> bool {
    !disk.read_only && disk.device != "cdrom"
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::unix::net::UnixListener;

    use super::*;

    const BOTH: OFlags = OFlags::RDWR;

    fn fifo(directory: &Path) -> std::path::PathBuf {
        let path = directory.join("fifo");
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, mode, 0).unwrap();
        path
    }

    #[test]
    fn nothing_is_opened_that_one_would_wait_for() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        for (path, kind) in [
            (fifo(directory.path()), "a FIFO"),
            (socket, "a socket"),
            ("/dev/ptmx".into(), "a character device"),
            (directory.path().to_owned(), "a directory"),
        ] {
            for wanted in [Use::Image, Use::Output] {
                let error = open_checked(&path, wanted, BOTH).unwrap_err();
                let text = error.to_string();
                assert!(
                    text.contains(kind) && text.contains(path.to_str().unwrap()),
                    "{text}"
                );
                look_at(&path, wanted).unwrap_err();
            }
        }
        let null = Path::new("/dev/null");
        open_checked(null, Use::Image, BOTH).unwrap_err();
        open_checked(null, Use::Output, BOTH).unwrap();
    }

    #[test]
    fn a_file_is_opened_as_qemu_would() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk.img");
        let error = open_checked(&path, Use::Image, BOTH).unwrap_err();
        assert!(matches!(error, LaunchError::Prepare { source, .. }
            if source.kind() == io::ErrorKind::NotFound));
        look_at(&path, Use::Image).unwrap();

        let create = OFlags::WRONLY | OFlags::CREATE;
        open_checked(&path, Use::Output, create).unwrap();
        std::fs::write(&path, "words").unwrap();
        let file = open_checked(&path, Use::Output, create | OFlags::APPEND).unwrap();
        let flags = rustix::fs::fcntl_getfl(&file).unwrap();
        assert!(!flags.contains(OFlags::NONBLOCK) && flags.contains(OFlags::APPEND));
        assert_eq!(std::fs::read(&path).unwrap(), b"words");
        open_checked(&path, Use::Output, create | OFlags::TRUNC).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }
}
