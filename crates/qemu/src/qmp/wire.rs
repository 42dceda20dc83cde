//! What carries QMP: QEMU's monitor socket, or a simulated guest's end of it.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::{AsyncRead, AsyncWriteExt, DuplexStream, Interest, ReadHalf, WriteHalf};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;

/// Most descriptors in one message; the kernel's limit is 253.
const DESCRIPTORS_A_MESSAGE: usize = 64;

/// A connection to a monitor, before the handshake.
#[derive(Debug)]
pub(crate) enum Wire {
    Socket(UnixStream),
    Simulated(DuplexStream, Descriptors),
}

/// Descriptors on their way to a simulated guest, beside the stream. Clones are the same way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Descriptors(Arc<Mutex<VecDeque<OwnedFd>>>);

impl Descriptors {
    /// The next one that was sent.
    pub(crate) fn take(&self) -> Option<OwnedFd> {
        self.queue().pop_front()
    }

    fn send(&self, descriptors: &[OwnedFd]) -> io::Result<()> {
        for fd in descriptors {
            let copy = fd.try_clone()?;
            self.queue().push_back(copy);
        }
        Ok(())
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<OwnedFd>> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What QEMU sends.
pub(super) type Incoming = Box<dyn AsyncRead + Send + Unpin>;

/// What is sent to QEMU. Dropping it ends the connection in both directions.
pub(super) enum Outgoing {
    Socket(OwnedWriteHalf),
    Simulated(WriteHalf<DuplexStream>, Descriptors),
}

impl Wire {
    pub(super) fn split(self) -> (Incoming, Outgoing) {
        match self {
            Self::Socket(stream) => {
                let (from, to) = stream.into_split();
                (Box::new(from), Outgoing::Socket(to))
            }
            Self::Simulated(stream, descriptors) => {
                let (from, to): (ReadHalf<_>, _) = tokio::io::split(stream);
                (Box::new(from), Outgoing::Simulated(to, descriptors))
            }
        }
    }
}

impl Outgoing {
    /// Sends a message whole.
    pub(super) async fn send(&mut self, bytes: &[u8], descriptors: &[OwnedFd]) -> io::Result<()> {
        match self {
            Self::Socket(half) => send(half.as_ref(), bytes, descriptors).await,
            Self::Simulated(half, way) => {
                way.send(descriptors)?;
                half.write_all(bytes).await
            }
        }
    }

    /// Ends the connection, and with it the reading of the other half.
    pub(super) async fn close(&mut self) {
        // It may have ended already.
        match self {
            Self::Socket(half) => {
                let _ = rustix::net::shutdown(half.as_ref(), rustix::net::Shutdown::Both);
            }
            Self::Simulated(half, _) => {
                let _ = half.shutdown().await;
            }
        }
    }
}

async fn send(stream: &UnixStream, bytes: &[u8], descriptors: &[OwnedFd]) -> io::Result<()> {
    let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    if borrowed.len() > DESCRIPTORS_A_MESSAGE {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut rest = bytes;
    let mut descriptors = &borrowed[..];
    while !rest.is_empty() {
        let sent = stream
            .async_io(Interest::WRITABLE, || {
                let mut space = [std::mem::MaybeUninit::uninit();
                    rustix::cmsg_space!(ScmRights(DESCRIPTORS_A_MESSAGE))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                if !descriptors.is_empty() {
                    control.push(SendAncillaryMessage::ScmRights(descriptors));
                }
                let sent = rustix::net::sendmsg(
                    stream,
                    &[IoSlice::new(rest)],
                    &mut control,
                    SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
                )?;
                Ok(sent)
            })
            .await?;
        descriptors = &[]; // they went with the first byte
        rest = &rest[sent..];
    }
    Ok(())
}
