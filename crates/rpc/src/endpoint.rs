//! The end of a connected socket that is ours.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

use crate::frame::FDS_MAX;

/// A connected socket of which only what comes in is watched: with the way out watched as well, each
/// answer that a peer takes off its socket wakes this end once more, which costs both of them.
#[derive(Debug)]
pub(crate) struct Endpoint {
    socket: AsyncFd<StdStream>,
}

impl Endpoint {
    /// Must be called on the runtime that is to watch it.
    pub(crate) fn new(stream: UnixStream) -> io::Result<Endpoint> {
        let socket = watch(stream.into_std()?, Interest::READABLE)?;
        Ok(Endpoint { socket })
    }

    /// Waits until something came in, or the peer is gone.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await?.retain_ready();
        Ok(())
    }

    /// Waits until something can be sent, or the peer is gone. For a peer that reads slowly: each
    /// wait costs a file descriptor while it lasts.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        let again = watch(self.socket.get_ref().try_clone()?, Interest::WRITABLE)?;
        again.writable().await?.retain_ready();
        Ok(())
    }

    /// Takes in what is there; `WouldBlock` if that is nothing, 0 if nothing will come any more.
    pub(crate) fn receive(
        &self,
        space: &mut [u8],
        fds: &mut VecDeque<OwnedFd>,
    ) -> io::Result<usize> {
        self.socket
            .try_io(Interest::READABLE, |socket| receive(socket, space, fds))
    }

    /// Sends some of these bytes; `WouldBlock` if the peer has to read first.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let sent = rustix::net::send(self, bytes, SEND)?;
        Ok(sent)
    }

    /// Sends a file descriptor, with the byte that carries it.
    pub(crate) fn send_fd(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let rights = [fd];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&rights));
        rustix::net::sendmsg(self, &[IoSlice::new(&[0])], &mut control, SEND)?;
        Ok(())
    }
}

impl AsFd for Endpoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }
}

#[expect(
    deprecated,
    reason = "unsound for types that change their descriptor; a socket keeps the one it owns"
)]
fn watch(socket: StdStream, interest: Interest) -> io::Result<AsyncFd<StdStream>> {
    AsyncFd::with_interest(socket, interest)
}

const SEND: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);

fn receive(socket: &StdStream, space: &mut [u8], fds: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
    let mut control_space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut control_space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received =
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(space)], &mut control, flags)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "more file descriptors came at once than any frame may have",
        ));
    }
    Ok(received.bytes)
}
