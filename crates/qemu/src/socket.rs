//! Unix sockets whose paths may be longer than the 107 bytes that an address holds.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Listens at that path; replaces a socket that an earlier start left there, and nothing else: none
/// that somebody listens at.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(left) if left.file_type().is_socket() => match connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path)?;
            }
            _ => return Err(io::ErrorKind::AddrInUse.into()),
        },
        Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Err(_) => {}
    }
    through_directory(path, |short| UnixListener::bind(short))
}

/// Connects, without blocking: where too many wait to be accepted already, it fails.
pub(crate) fn connect(path: &Path) -> io::Result<UnixStream> {
    through_directory(path, |short| {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(short)?)?;
        Ok(socket.into())
    })
}

/// Calls with a short path to the same place, by way of an open directory.
fn through_directory<T>(path: &Path, call: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let directory = rustix::fs::open(
        directory,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut short = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    short.push(name);
    call(&short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_longer_than_an_address_works() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let path = deep.join("monitor.sock");
        drop(listen(&path).unwrap());
        let listener = listen(&path).unwrap();
        connect(&path).unwrap();
        listener.accept().unwrap();
    }

    #[test]
    fn a_socket_that_somebody_listens_at_stays_theirs() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("agent");
        let theirs = listen(&path).unwrap();
        let error = listen(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        theirs.accept().unwrap(); // the question
        connect(&path).unwrap();
        theirs.accept().unwrap();
    }

    #[test]
    fn only_a_socket_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("agent");
        std::fs::write(&path, "precious").unwrap();
        let error = listen(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
}
