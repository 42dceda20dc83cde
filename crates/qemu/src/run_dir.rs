//! The directory of a running guest: its monitor's socket, its channels', the pipe of its words.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::{Path, PathBuf};

use conf::Uuid;
use rustix::fs::{FlockOperation, Mode, OFlags};

/// What the extension of the mark of a wanted reboot is.
const REBOOT: &str = "reboot";

/// A guest's directory while the guest starts. It is removed unless it is kept.
///
/// Of two starts of one guest, of which nobody waits for the first any more, the second waits until
/// the first is out of here.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    /// Holds the lock on it.
    _directory: OwnedFd,
    is_kept: bool,
}

impl RunDir {
    /// Makes the directory, or takes the one that is there. Blocks while another start has it.
    pub(crate) fn make(path: &Path) -> io::Result<Self> {
        loop {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = match rustix::fs::open(path, flags, Mode::empty()) {
                Err(rustix::io::Errno::NOENT) => continue,
                directory => directory?,
            };
            rustix::fs::flock(&directory, FlockOperation::LockExclusive)?;
            // The one who had it may have removed it.
            let locked = rustix::fs::fstat(&directory)?;
            match rustix::fs::stat(path) {
                Ok(now) if (now.st_dev, now.st_ino) == (locked.st_dev, locked.st_ino) => {
                    return Ok(Self {
                        path: path.to_owned(),
                        _directory: directory,
                        is_kept: false,
                    });
                }
                Ok(_) | Err(rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The guest runs: it is removed with the guest.
    pub(crate) fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if !self.is_kept {
            remove(&self.path);
        }
    }
}

/// The mark of a guest whose reboot was asked for, beside its monitor.
pub(crate) fn reboot_mark(monitor: &Path) -> PathBuf {
    monitor.with_extension(REBOOT)
}

/// Removes the directory of a guest that has ended, by the path of its monitor.
pub(crate) fn remove_of_monitor(monitor: &Path) {
    if let Some(directory) = monitor.parent() {
        remove(directory);
    }
}

/// Removes the directories below `guests` that belong to no guest that is used, and returns how
/// many those were. What a directory holds that no guest put there stays, and the directory, too.
///
/// Blocks. A directory that isn't named as a guest's identity is left alone.
pub fn sweep_run_dirs(guests: &Path, is_used: impl Fn(Uuid) -> bool) -> io::Result<usize> {
    let entries = match fs::read_dir(guests) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let guest = name.to_str().and_then(|name| name.parse::<Uuid>().ok());
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_directory && guest.is_some_and(|guest| !is_used(guest)) {
            removed += usize::from(remove(&entry.path()));
        }
    }
    Ok(removed)
}

/// Removes what a guest leaves, and the directory if that was all; whether it is gone.
fn remove(directory: &Path) -> bool {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_ours = entry
            .file_type()
            .is_ok_and(|kind| kind.is_socket() || kind.is_fifo())
            || path
                .extension()
                .is_some_and(|extension| extension == REBOOT);
        if is_ours {
            // If it stays, so does the directory, which is told.
            let _ = fs::remove_file(&path);
        }
    }
    match fs::remove_dir(directory) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => {
            let path = directory.display();
            tracing::warn!(%path, %error, "the directory of a guest that is gone stays");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn used(parent: &Path, uuid: Uuid) -> PathBuf {
        let directory = parent.join(uuid.to_string());
        fs::create_dir(&directory).unwrap();
        drop(UnixListener::bind(directory.join("monitor.sock")).unwrap());
        fs::write(directory.join("monitor.reboot"), "").unwrap();
        directory
    }

    #[test]
    fn directories_of_no_guest_are_swept_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let (running, gone, strange) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
        let running_dir = used(parent.path(), running);
        let gone_dir = used(parent.path(), gone);
        let strange_dir = used(parent.path(), strange);
        fs::write(strange_dir.join("notes"), "an admin's").unwrap();
        let other = parent.path().join("not-a-guest");
        fs::create_dir(&other).unwrap();

        let removed = sweep_run_dirs(parent.path(), |guest| guest == running).unwrap();
        assert_eq!(removed, 1);
        assert!(running_dir.join("monitor.sock").exists());
        assert!(!gone_dir.exists());
        assert!(strange_dir.join("notes").exists());
        assert!(other.exists());
        assert_eq!(
            sweep_run_dirs(&parent.path().join("missing"), |_| false).unwrap(),
            0
        );
    }

    #[test]
    fn a_second_start_waits_until_the_first_is_out_of_the_directory() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("guest");
        let first = RunDir::make(&path).unwrap();
        let (sender, second) = std::sync::mpsc::channel();
        let there = path.clone();
        std::thread::spawn(move || sender.send(RunDir::make(&there).unwrap()));
        // Bound to the first's end: it can't be there before.
        assert!(second.try_recv().is_err());
        drop(first);
        let second = second
            .recv_timeout(std::time::Duration::from_secs(20))
            .unwrap();
        assert!(path.exists());
        second.keep();
        assert!(path.exists());
    }
}
