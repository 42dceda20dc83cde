//! A guest's serial port, by its pseudo-terminal.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::fs::{Mode, OFlags};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

/// A console that can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the console {}", path.display())]
pub struct ConsoleError {
    /// The pseudo-terminal.
    pub path: PathBuf,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// An open console. Reading ends when the guest does.
#[derive(Debug)]
pub struct Console(AsyncFd<OwnedFd>);

/// Opens a guest's pseudo-terminal, raw: each byte passes as it is.
///
/// It doesn't become anyone's controlling terminal. Must be called within a tokio runtime.
pub fn open_console(path: &Path) -> Result<Console, ConsoleError> {
    let open = || {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        let mut settings = tcgetattr(&fd)?;
        settings.make_raw();
        tcsetattr(&fd, OptionalActions::Now, &settings)?;
        crate::process::watched(fd, Interest::READABLE | Interest::WRITABLE)
    };
    open().map(Console).map_err(|source| ConsoleError {
        path: path.to_owned(),
        source,
    })
}

impl AsyncRead for Console {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(cx))?;
            let unfilled = buffer.initialize_unfilled();
            let result = ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut *unfilled)?));
            match result {
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                // The other end is gone: the guest has ended.
                Ok(Err(error)) if is_hangup(&error) => return Poll::Ready(Ok(())),
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_not_ready) => {}
            }
        }
    }
}

impl AsyncWrite for Console {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_write_ready(cx))?;
            match ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), bytes)?)) {
                Ok(Err(error)) if is_hangup(&error) => {
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                }
                Ok(result) => return Poll::Ready(result),
                Err(_not_ready) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn is_hangup(error: &io::Error) -> bool {
    rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use std::fs::File;
    use std::io::{Read, Write};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn pty() -> (File, PathBuf) {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = ptsname(&master, Vec::new()).unwrap();
        (File::from(master), path.into_string().unwrap().into())
    }

    #[tokio::test]
    async fn bytes_pass_as_they_are_and_reading_ends_with_the_guest() {
        let (mut guest, path) = pty();
        let mut console = open_console(&path).unwrap();

        guest.write_all(b"login\n\x03").unwrap();
        let mut heard = [0; 7];
        console.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"login\n\x03");

        console.write_all(b"root\r\x04").await.unwrap();
        let mut typed = [0; 6];
        guest.read_exact(&mut typed).unwrap();
        assert_eq!(&typed, b"root\r\x04", "no echo, no translation");

        drop(guest);
        assert_eq!(console.read(&mut [0; 8]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_path_without_a_terminal_is_an_error_that_names_it() {
        let error = open_console(Path::new("/dev/null")).unwrap_err();
        assert_eq!(error.to_string(), "cannot open the console /dev/null");
    }
}
