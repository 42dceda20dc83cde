//! The way out of a connection: frames in order, never waiting for a peer that does not read.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::endpoint::Endpoint;
use crate::socket::{Outgoing, permits};

/// A frame of at most so many bytes is tried on the socket before the budget is asked: a peer that
/// reads always has room for it there.
const SMALL: usize = 64 * 1024;
/// What a frame takes in a queue beside its bytes.
const OVERHEAD: usize = 256;
/// How long the front of a bounded queue may take until the peer has read it.
const FRONT_TIME: Duration = Duration::from_secs(60);

/// The connection is gone, or has just been given up.
#[derive(Debug, thiserror::Error)]
#[error("the connection is closed")]
pub struct Disconnected;

/// Why an answer can't be sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unsent {
    /// The connection is gone.
    Disconnected,
    /// Too much waits to be read by this peer, or by those that share its budget.
    NoRoom,
}

impl From<Disconnected> for Unsent {
    fn from(_: Disconnected) -> Unsent {
        Unsent::Disconnected
    }
}

/// What may wait for a peer.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    /// Bytes that may wait when another frame is queued.
    pub(crate) bytes: usize,
    /// How long the peer may read nothing at all while some wait.
    pub(crate) stall: Duration,
    /// A permit is a queued byte that the peer shares with others; none: they are not counted.
    pub(crate) budget: Option<Arc<Semaphore>>,
}

/// The one writer of a connection.
///
/// A frame goes straight into the socket while the socket takes it. What is left over is queued,
/// and a task of its own sends it as the peer reads. The queue is bounded: answers and streams
/// wait for room, and events, which can't, end the connection when too many are unread. A peer that
/// shares a budget with others waits for nothing: what has no room is not queued.
#[derive(Debug)]
pub(crate) struct Outbox {
    stream: Endpoint,
    runtime: Handle,
    state: Mutex<State>,
    /// Told when the queue has become shorter, and at the end.
    shorter: Notify,
}

#[derive(Debug)]
struct State {
    room: Room,
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
    kind: What,
    /// What it takes of the peer's budget.
    _charge: Option<OwnedSemaphorePermit>,
    since: Instant,
}

/// Why a frame is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// The peer waits for it.
    Answer,
    /// Something happened.
    Event,
    /// The peer wants to know whether we live.
    Pong,
}

impl Outbox {
    /// The way out through `stream`. Must be called on the runtime that it is to use.
    pub(crate) fn new(stream: Endpoint, room: Room) -> Outbox {
        Outbox {
            stream,
            runtime: Handle::current(),
            state: Mutex::new(State {
                room,
                queue: VecDeque::new(),
                queued: 0,
                unasked: 0,
                draining: false,
                closed: false,
            }),
            shorter: Notify::new(),
        }
    }

    /// Gives the peer that much room from now on.
    pub(crate) fn set_room(&self, room: Room) {
        self.state().room = room;
    }

    pub(crate) fn stream(&self) -> &Endpoint {
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
        self.push_locked(
            &mut self.state(),
            Outgoing::new(bytes, fds),
            What::Answer,
            None,
        )
        .map(drop)
    }

    /// Answers a ping, before all that waits. One answer is enough however many pings came.
    pub(crate) fn push_pong(self: &Arc<Self>, bytes: Vec<u8>) -> Result<(), Disconnected> {
        let mut state = self.state();
        if state.queue.iter().take(2).any(|one| one.kind == What::Pong) {
            return Ok(());
        }
        self.push_locked(
            &mut state,
            Outgoing::new(bytes, Vec::new()),
            What::Pong,
            None,
        )
        .map(drop)
    }

    /// Sends a frame that nobody asked for just now, as an event. It can't wait for room: a peer
    /// that leaves too many of these unread is cut off.
    pub(crate) fn push_unasked(self: &Arc<Self>, bytes: Vec<u8>) -> Result<(), Disconnected> {
        let frame = Outgoing::new(bytes, Vec::new());
        let mut state = self.state();
        if state.unasked > 0 && state.unasked + frame.left() > state.room.bytes {
            self.cut_off(&mut state);
        }
        self.push_locked(&mut state, frame, What::Event, None)
            .map(drop)
    }

    /// Sends a frame when the queue has room for it; where that is shared, at once or not at all. True: the
    /// kernel has all of it.
    pub(crate) async fn push_with_room(self: &Arc<Self>, bytes: Vec<u8>) -> Result<bool, Unsent> {
        let mut frame = Some(Outgoing::new(bytes, Vec::new()));
        loop {
            let shorter = self.shorter.notified();
            {
                let mut state = self.state();
                let has_room = state.closed || state.queued <= state.room.bytes;
                if has_room && let Some(frame) = frame.take() {
                    let charge = match state.charge_before(&frame) {
                        Ok(charge) => charge,
                        Err(NoRoom) => return Err(Unsent::NoRoom),
                    };
                    return Ok(self.push_locked(&mut state, frame, What::Answer, charge)?);
                }
                if state.room.budget.is_some() {
                    return Err(Unsent::NoRoom);
                }
            }
            shorter.await;
        }
    }

    /// Waits until a call may begin: until at most a quarter of the room is taken.
    pub(crate) async fn wait_for_room(&self) -> Result<(), Disconnected> {
        let quarter = self.state().room.bytes / 4;
        self.wait_below(quarter).await
    }

    /// Whether a call may begin now.
    pub(crate) fn has_room(&self) -> bool {
        let state = self.state();
        state.queued <= state.room.bytes / 4
    }

    /// Waits until the connection is closed.
    pub(crate) async fn closed(&self) {
        loop {
            let shorter = self.shorter.notified();
            if self.is_closed() {
                return;
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

    /// True: the kernel has all of it.
    fn push_locked(
        self: &Arc<Self>,
        state: &mut State,
        mut frame: Outgoing,
        kind: What,
        mut charge: Option<OwnedSemaphorePermit>,
    ) -> Result<bool, Disconnected> {
        if state.closed {
            return Err(Disconnected);
        }
        if !state.draining {
            match frame.send(&self.stream) {
                Ok(()) => return Ok(true),
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
        frame.shrink();
        // What is left over of a large frame is charged already, and a pong is nothing.
        if charge.is_none() && kind != What::Pong {
            charge = match state.charge(frame.left()) {
                Ok(charge) => charge,
                Err(NoRoom) => {
                    self.cut_off(state);
                    return Err(Disconnected);
                }
            };
        }
        state.queued += frame.left();
        if kind == What::Event {
            state.unasked += frame.left();
        }
        let queued = Queued {
            frame,
            kind,
            _charge: charge,
            since: Instant::now(),
        };
        if kind == What::Pong {
            // A part of the first may be sent already.
            let place = state.queue.len().min(1);
            state.queue.insert(place, queued);
        } else {
            state.queue.push_back(queued);
        }
        Ok(false)
    }

    /// Sends the queue as fast as the peer reads.
    async fn drain(self: Arc<Self>) {
        loop {
            let stall = self.state().room.stall;
            let writable = tokio::time::timeout(stall, self.stream.writable()).await;
            if !matches!(writable, Ok(Ok(()))) || self.state().is_overdue() {
                self.cut_off(&mut self.state());
                return;
            }
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
            if first.kind == What::Event {
                state.unasked -= gone;
            }
            match sent {
                Ok(()) => {
                    if let Some(next) = state.queue.front_mut() {
                        next.since = Instant::now();
                    }
                }
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

    /// Ends the connection with a peer that does not read.
    fn cut_off(&self, state: &mut State) {
        let unread = state.queued;
        // Those that share a budget are whoever likes; they must not fill the log.
        if state.room.budget.is_some() {
            tracing::debug!(unread, "a peer does not read; it is disconnected");
        } else if !state.closed {
            tracing::warn!(unread, "a peer does not read; it is disconnected");
        }
        self.close_locked(state);
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

/// The budget of a peer is used up.
#[derive(Debug)]
struct NoRoom;

impl State {
    /// Takes room for a frame that could still be left out: a large one, or one that must wait.
    fn charge_before(&self, frame: &Outgoing) -> Result<Option<OwnedSemaphorePermit>, NoRoom> {
        if self.draining || frame.left() > SMALL {
            self.charge(frame.left())
        } else {
            Ok(None)
        }
    }

    fn charge(&self, bytes: usize) -> Result<Option<OwnedSemaphorePermit>, NoRoom> {
        let Some(budget) = &self.room.budget else {
            return Ok(None);
        };
        Arc::clone(budget)
            .try_acquire_many_owned(permits(bytes + OVERHEAD))
            .map(Some)
            .map_err(|_| NoRoom)
    }

    /// Whether a peer that shares a budget takes too long over what is first in its queue.
    fn is_overdue(&self) -> bool {
        self.room.budget.is_some()
            && self
                .queue
                .front()
                .is_some_and(|first| first.since.elapsed() > FRONT_TIME)
    }
}
