//! The way out of a connection: frames in order, never waiting for a peer that does not read.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::socket::Outgoing;

/// The connection is gone, or has just been given up.
#[derive(Debug, thiserror::Error)]
#[error("the connection is closed")]
pub struct Disconnected;

/// The one writer of a connection.
///
/// A frame goes straight into the socket while the socket takes it. What is left over is queued,
/// and a task of its own sends it as the peer reads. The queue is bounded: answers and streams
/// wait for room, and events, which can't, end the connection when too many are unread.
#[derive(Debug)]
pub(crate) struct Outbox {
    stream: UnixStream,
    runtime: Handle,
    queue_max: usize,
    stall: Duration,
    state: Mutex<State>,
    /// Told when the queue has become shorter, and at the end.
    shorter: Notify,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Queued>,
    /// Bytes in the queue.
    queued: usize,
    /// Bytes in the queue that nobody asked for.
    unasked: usize,
    /// A task is sending the queue; nobody else may write.
    draining: bool,
    closed: bool,
}

#[derive(Debug)]
struct Queued {
    frame: Outgoing,
    unasked: bool,
}

impl Outbox {
    /// The way out through `stream`. Must be called on the runtime that it is to use.
    ///
    /// At most `queue_max` bytes wait for a peer that is slow, and it may read nothing at all for
    /// `stall` while some wait.
    pub(crate) fn new(stream: UnixStream, queue_max: usize, stall: Duration) -> Outbox {
        Outbox {
            stream,
            runtime: Handle::current(),
            queue_max,
            stall,
            state: Mutex::default(),
            shorter: Notify::new(),
        }
    }

    pub(crate) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Sends a frame that the peer waits for.
    pub(crate) fn push(self: &Arc<Self>, bytes: Vec<u8>) -> Result<(), Disconnected> {
        self.push_with_fds(bytes, Vec::new())
    }

    /// The same, with file descriptors that follow the frame.
    pub(crate) fn push_with_fds(
        self: &Arc<Self>,
        bytes: Vec<u8>,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Disconnected> {
        self.push_locked(&mut self.state(), Outgoing::new(bytes, fds), false)
    }

    /// Sends a frame that nobody asked for just now, as an event. It can't wait for room: a peer
    /// that leaves too many of these unread is cut off.
    pub(crate) fn push_unasked(self: &Arc<Self>, bytes: Vec<u8>) -> Result<(), Disconnected> {
        let frame = Outgoing::new(bytes, Vec::new());
        let mut state = self.state();
        if state.unasked > 0 && state.unasked + frame.left() > self.queue_max {
            tracing::warn!(
                unread = state.unasked,
                "a peer does not read; it is disconnected"
            );
            self.close_locked(&mut state);
        }
        self.push_locked(&mut state, frame, true)
    }

    /// Sends a frame when the queue has room for it.
    pub(crate) async fn push_with_room(
        self: &Arc<Self>,
        bytes: Vec<u8>,
    ) -> Result<(), Disconnected> {
        let mut frame = Some(Outgoing::new(bytes, Vec::new()));
        loop {
            let shorter = self.shorter.notified();
            {
                let mut state = self.state();
                if (state.closed || state.queued <= self.queue_max)
                    && let Some(frame) = frame.take()
                {
                    return self.push_locked(&mut state, frame, false);
                }
            }
            shorter.await;
        }
    }

    /// Waits until at most `queued` bytes are queued.
    pub(crate) async fn wait_below(&self, queued: usize) -> Result<(), Disconnected> {
        loop {
            let shorter = self.shorter.notified();
            {
                let state = self.state();
                if state.closed {
                    return Err(Disconnected);
                }
                if state.queued <= queued {
                    return Ok(());
                }
            }
            shorter.await;
        }
    }

    /// Ends the connection; what is queued is lost.
    pub(crate) fn close(&self) {
        self.close_locked(&mut self.state());
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state().closed
    }

    fn push_locked(
        self: &Arc<Self>,
        state: &mut State,
        mut frame: Outgoing,
        unasked: bool,
    ) -> Result<(), Disconnected> {
        if state.closed {
            return Err(Disconnected);
        }
        if !state.draining {
            match frame.send(&self.stream) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    state.draining = true;
                    self.runtime.spawn(Arc::clone(self).drain());
                }
                Err(error) => {
                    tracing::debug!(%error, "can't write to a peer");
                    self.close_locked(state);
                    return Err(Disconnected);
                }
            }
        }
        state.queued += frame.left();
        if unasked {
            state.unasked += frame.left();
        }
        state.queue.push_back(Queued { frame, unasked });
        Ok(())
    }

    /// Sends the queue as fast as the peer reads.
    async fn drain(self: Arc<Self>) {
        loop {
            let Ok(Ok(())) = tokio::time::timeout(self.stall, self.stream.writable()).await else {
                tracing::warn!(stall = ?self.stall, "a peer does not read; it is disconnected");
                self.close();
                return;
            };
            if self.send_queued() {
                return;
            }
        }
    }

    /// Sends what the socket takes; true when nothing is left to do.
    fn send_queued(&self) -> bool {
        let mut state = self.state();
        while let Some(mut first) = state.queue.pop_front() {
            let before = first.frame.left();
            let sent = first.frame.send(&self.stream);
            let gone = before - first.frame.left();
            state.queued -= gone;
            if first.unasked {
                state.unasked -= gone;
            }
            match sent {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    state.queue.push_front(first);
                    self.shorter.notify_waiters();
                    return false;
                }
                Err(error) => {
                    tracing::debug!(%error, "can't write to a peer");
                    self.close_locked(&mut state);
                    return true;
                }
            }
        }
        state.draining = false;
        self.shorter.notify_waiters();
        true
    }

    fn close_locked(&self, state: &mut State) {
        if !state.closed {
            state.closed = true;
            state.queue.clear();
            state.queued = 0;
            state.unasked = 0;
            // Whoever reads or writes sees the end at once, whoever else still has the socket.
            if let Err(error) = rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Both) {
                tracing::debug!(%error, "can't shut down a peer's socket");
            }
            self.shorter.notify_waiters();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; if that were wrong, the state would still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
