//! A socket as a source and a sink of frames, file descriptors included.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use crate::endpoint::Endpoint;
use crate::frame::{FDS_MAX, FRAME_MIN, Header, Kind, length_is_legal};
use crate::xdr::{Reader, Xdr};

/// What the read buffer starts with, in bytes, and shrinks back to.
const BUFFER: usize = 4 * 1024;

/// Why no more frames come.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("the peer closed the connection")]
    Closed,
    #[error("can't read from the peer")]
    Io(#[from] io::Error),
    #[error("a frame claims to have {0} bytes")]
    Length(usize),
    #[error("a frame of {length} bytes is over the {max} of this connection")]
    OverAllowance {
        header: Header,
        length: usize,
        max: usize,
    },
    #[error("the connection was not opened in time")]
    NotOpened,
    #[error("too much of others' frames is under way")]
    NoRoom(Header),
    #[error("the rest of a frame did not come in time")]
    Stalled,
    #[error("a frame promises {0} file descriptors")]
    FdCount(usize),
    #[error("a promised file descriptor did not come")]
    FdMissing,
    #[error("more file descriptors came than any frame may have")]
    FdFlood,
}

/// What a peer's frames may take up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowance<'a> {
    /// Bytes of a frame; at most [`FRAME_MAX`](crate::frame::FRAME_MAX).
    pub(crate) frame: usize,
    /// How long a frame may take from its first byte to its last, and how long it waits for room.
    pub(crate) patience: Duration,
    /// A permit is a byte of the buffers, beyond what each connection has anyway, that the peer shares
    /// with others; none: it is not counted.
    pub(crate) budget: Option<&'a Arc<Semaphore>>,
}

/// A frame as it came in.
#[derive(Debug)]
pub(crate) struct Incoming<'a> {
    pub(crate) header: Header,
    pub(crate) payload: &'a [u8],
    pub(crate) fds: Vec<OwnedFd>,
}

/// Cuts what comes in into frames.
///
/// Every read may bring file descriptors, which a plain `read` would lose. The kernel ends a read
/// at the byte that one belongs to, so they are in the order of the frames that announce them.
#[derive(Debug)]
pub(crate) struct Inbox {
    buffer: Vec<u8>,
    /// The part of `buffer` that was received and not used yet.
    start: usize,
    end: usize,
    fds: VecDeque<OwnedFd>,
    /// What the buffer takes of the peer's budget.
    charge: Option<OwnedSemaphorePermit>,
}

impl Inbox {
    pub(crate) fn new() -> Inbox {
        Inbox {
            buffer: vec![0; BUFFER],
            start: 0,
            end: 0,
            fds: VecDeque::new(),
            charge: None,
        }
    }

    /// Waits for the next frame. Nothing is lost when the future is dropped and `next` called again.
    pub(crate) async fn next(
        &mut self,
        stream: &Endpoint,
        allowance: &Allowance<'_>,
    ) -> Result<Incoming<'_>, ReadError> {
        self.shrink();
        if self.start == self.end {
            // Nobody announced these.
            self.fds.clear();
            self.rewind();
            self.read(stream).await?;
        }
        // From here on a frame has begun.
        let mut deadline = Instant::now() + allowance.patience;
        self.fill(4, stream, deadline).await?;
        let length = Reader::new(self.pending())
            .word()
            .map_or(0, |word| word as usize);
        if !length_is_legal(length) {
            return Err(ReadError::Length(length));
        }
        // A frame of legal length has a whole header.
        self.fill(FRAME_MIN, stream, deadline).await?;
        let mut r = Reader::new(&self.pending()[4..]);
        let header = Header::decode(&mut r).map_err(|_| ReadError::Length(length))?;
        if length > allowance.frame {
            return Err(ReadError::OverAllowance {
                header,
                length,
                max: allowance.frame,
            });
        }
        // What a frame claims is believed step by step: the buffer is at most twice what has come.
        while self.pending().len() < length {
            let step = length.min(self.buffer.len());
            self.fill(step, stream, deadline).await?;
            if step < length {
                let larger = length.min(2 * self.buffer.len());
                deadline += self.grow(larger, &header, allowance).await?;
            }
        }
        let mut r = Reader::new(&self.pending()[FRAME_MIN..length]);
        let mut payload_at = FRAME_MIN;
        let mut fds = Vec::new();
        let mut used = length;
        if matches!(header.kind, Kind::CallWithFds | Kind::ReplyWithFds) {
            let count = r.word().map_err(|_| ReadError::Length(length))? as usize;
            if count > FDS_MAX {
                return Err(ReadError::FdCount(count));
            }
            payload_at += 4;
            used += count;
            // One byte follows for each, and carries it.
            if used > self.buffer.len() {
                self.buffer.resize(used, 0);
            }
            self.fill(used, stream, deadline).await?;
            for _ in 0..count {
                fds.push(self.fds.pop_front().ok_or(ReadError::FdMissing)?);
            }
        }
        let start = self.start;
        self.start += used;
        let payload = &self.buffer[start + payload_at..start + length];
        Ok(Incoming {
            header,
            payload,
            fds,
        })
    }

    fn pending(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Moves what is pending to the front.
    fn rewind(&mut self) {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
    }

    /// Gives back what a large frame took.
    fn shrink(&mut self) {
        if self.buffer.len() > BUFFER && self.pending().len() <= BUFFER {
            self.rewind();
            self.buffer.truncate(BUFFER);
            self.buffer.shrink_to_fit();
            self.charge = None;
        }
    }

    /// Makes the buffer `len` bytes long as soon as the budget has room, and tells how long that took.
    async fn grow(
        &mut self,
        len: usize,
        header: &Header,
        allowance: &Allowance<'_>,
    ) -> Result<Duration, ReadError> {
        let before = Instant::now();
        if let Some(budget) = allowance.budget {
            let more = permits(len - self.buffer.len());
            let room = Arc::clone(budget).acquire_many_owned(more);
            let Ok(Ok(room)) = timeout(allowance.patience, room).await else {
                return Err(ReadError::NoRoom(*header));
            };
            match &mut self.charge {
                Some(charge) => charge.merge(room),
                none => *none = Some(room),
            }
        }
        self.buffer.resize(len, 0);
        Ok(before.elapsed())
    }

    /// Reads until `length` bytes are pending, for which the buffer has room.
    async fn fill(
        &mut self,
        length: usize,
        stream: &Endpoint,
        deadline: Instant,
    ) -> Result<(), ReadError> {
        if self.start + length > self.buffer.len() {
            self.rewind();
        }
        while self.end - self.start < length {
            // A peer that sends byte by byte must not keep this thread from the others.
            tokio::task::coop::consume_budget().await;
            match timeout_at(deadline, self.read(stream)).await {
                Ok(read) => read?,
                Err(_) => return Err(ReadError::Stalled),
            }
        }
        Ok(())
    }

    /// Waits for some bytes. Room for them must be left.
    async fn read(&mut self, stream: &Endpoint) -> Result<(), ReadError> {
        loop {
            let space = &mut self.buffer[self.end..];
            let fds = &mut self.fds;
            match stream.receive(space, fds) {
                Ok(0) => return Err(ReadError::Closed),
                Ok(count) => {
                    self.end += count;
                    // The one frame in progress has at most this many, and the kernel ends a read
                    // at each, so that at most one of the next frame is here already.
                    if self.fds.len() > FDS_MAX + 1 {
                        return Err(ReadError::FdFlood);
                    }
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    stream.readable().await?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(ReadError::Closed);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Permits of a budget for that many bytes.
pub(crate) fn permits(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// A frame on its way out.
#[derive(Debug)]
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    fds: VecDeque<OwnedFd>,
}

impl Outgoing {
    pub(crate) fn new(bytes: Vec<u8>, fds: Vec<OwnedFd>) -> Outgoing {
        Outgoing {
            bytes,
            sent: 0,
            fds: fds.into(),
        }
    }

    /// Gives back what was not needed of the memory in which it was composed: it will be kept.
    pub(crate) fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
    }

    /// How many bytes are left to send.
    pub(crate) fn left(&self) -> usize {
        self.bytes.len() - self.sent + self.fds.len()
    }

    /// Sends what the socket takes now; `WouldBlock` if that is not all.
    pub(crate) fn send(&mut self, stream: &Endpoint) -> io::Result<()> {
        while self.left() > 0 {
            match self.send_some(stream) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => other?,
            }
        }
        Ok(())
    }

    fn send_some(&mut self, stream: &Endpoint) -> io::Result<()> {
        if self.sent < self.bytes.len() {
            self.sent += stream.send(&self.bytes[self.sent..])?;
        } else if let Some(fd) = self.fds.front() {
            stream.send_fd(fd.as_fd())?;
            self.fds.pop_front();
        }
        Ok(())
    }
}
