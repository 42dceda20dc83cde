//! The sockets that clients of this host come to.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixListener;

/// A socket that listens, and whether who comes there may change things.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) listener: UnixListener,
    pub(crate) read_only: bool,
    path: PathBuf,
    /// Device and inode of its file.
    inode: (u64, u64),
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// Why a socket can't be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Another daemon listens there.
    #[error("{} is in use by another daemon; stop that one, or choose other paths", .0.display())]
    InUse(PathBuf),
    /// The kernel refuses it.
    #[error("can't listen on {}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Names that libvirt's clients look for, below their socket directory.
const LIBVIRT_NAMES: [&str; 4] = ["libvirt", "virtqemud", "virtnetworkd", "virtnodedevd"];

/// Listens on our own pair of sockets, and on libvirt's names where that is asked. `group` may use
/// the read-write ones.
pub(crate) fn listen(
    own: (PathBuf, PathBuf),
    libvirt: Option<&Path>,
    group: Option<u32>,
) -> Result<Vec<Socket>, ListenError> {
    let mut wanted = vec![own];
    for name in libvirt.iter().flat_map(|_| LIBVIRT_NAMES) {
        let path = |suffix| libvirt.map(|dir| dir.join(format!("{name}-sock{suffix}")));
        wanted.extend(path("").zip(path("-ro")));
    }
    let mut sockets = Vec::new();
    for (read_write, read_only) in wanted {
        sockets.push(bind(read_write, false, group)?);
        sockets.push(bind(read_only, true, group)?);
    }
    Ok(sockets)
}

impl Drop for Socket {
    fn drop(&mut self) {
        // A file that stays would make clients believe that somebody listens. One that is another
        // daemon's by now stays.
        if inode(&self.path).is_ok_and(|now| now == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The process's umask keeps others out until the intended mode is set.
fn bind(path: PathBuf, read_only: bool, group: Option<u32>) -> Result<Socket, ListenError> {
    if is_in_use(&path) {
        return Err(ListenError::InUse(path));
    }
    let bound = || -> io::Result<(UnixListener, (u64, u64))> {
        if let Some(dir) = path.parent() {
            make_open_dir(dir)?;
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = StdListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        if !read_only && let Some(group) = group {
            chown(&path, None, Some(group))?;
        }
        let mode = if read_only {
            0o666
        } else if group.is_some() {
            0o660
        } else {
            0o600
        };
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
        Ok((UnixListener::from_std(listener)?, inode(&path)?))
    };
    match bound() {
        Ok((listener, inode)) => Ok(Socket {
            listener,
            read_only,
            path,
            inode,
        }),
        Err(source) => Err(ListenError::Io { path, source }),
    }
}

/// Whether somebody listens there. One that takes nobody in, since its backlog is full, is not waited for.
fn is_in_use(path: &Path) -> bool {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        None,
    );
    let asked =
        socket.and_then(|socket| rustix::net::connect(&socket, &SocketAddrUnix::new(path)?));
    matches!(asked, Ok(()) | Err(Errno::AGAIN))
}

/// Clients of any user reach the read-only socket, so a directory that is made lets them pass, as do
/// those above it.
pub(crate) fn make_open_dir(dir: &Path) -> io::Result<()> {
    // The parent of a relative path's first part is the directory that we are in.
    if dir.as_os_str().is_empty() || dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        make_open_dir(parent)?;
    }
    fs::create_dir(dir)?;
    fs::set_permissions(dir, Permissions::from_mode(0o755))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn a_stale_file_is_replaced_and_a_living_daemon_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let own = || (dir.path().join("run/a"), dir.path().join("run/a-ro"));
        fs::create_dir(dir.path().join("run")).unwrap();
        drop(StdListener::bind(dir.path().join("run/a")).unwrap());
        let sockets = listen(own(), None, None).unwrap();
        assert_eq!(sockets.iter().filter(|socket| socket.read_only).count(), 1);
        let mode = |name: &str| {
            fs::metadata(dir.path().join(name))
                .unwrap()
                .permissions()
                .mode()
        };
        assert_eq!(
            (mode("run/a") & 0o777, mode("run/a-ro") & 0o777),
            (0o600, 0o666)
        );
        assert!(matches!(
            listen(own(), None, None),
            Err(ListenError::InUse(_))
        ));
        drop(sockets);
        assert!(!dir.path().join("run/a").exists());
    }

    #[tokio::test]
    async fn a_daemon_that_ends_leaves_the_sockets_of_its_successor() {
        let dir = tempfile::tempdir().unwrap();
        let own = || (dir.path().join("a"), dir.path().join("a-ro"));
        let first = listen(own(), None, None).unwrap();
        for name in ["a", "a-ro"] {
            fs::remove_file(dir.path().join(name)).unwrap();
        }
        let _second = listen(own(), None, None).unwrap();
        drop(first);
        assert!(UnixStream::connect(dir.path().join("a")).is_ok());
    }

    #[tokio::test]
    async fn one_that_takes_nobody_in_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let address = SocketAddrUnix::new(&path).unwrap();
        let socket = || {
            let flags = SocketFlags::NONBLOCK;
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap()
        };
        let listening = socket();
        rustix::net::bind(&listening, &address).unwrap();
        rustix::net::listen(&listening, 0).unwrap();
        let waiting = socket();
        rustix::net::connect(&waiting, &address).unwrap();
        let refused = listen((path, dir.path().join("a-ro")), None, None).unwrap_err();
        assert!(matches!(refused, ListenError::InUse(_)), "{refused}");
    }
}
