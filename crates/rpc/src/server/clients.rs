//! What the clients of one server share: the room that they have, and the events that they hear of.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Connection;
use super::subscriptions::Notice;
use crate::event::Event;
use crate::frame::FRAME_MAX;
use crate::outbox::Room;
use crate::procedure::Pace;

/// What one client may take up.
#[derive(Debug, Clone)]
pub struct ClientLimits {
    /// Bytes of a frame that it sends.
    pub frame: usize,
    /// How long a frame may take from its first byte to its last.
    pub frame_time: Duration,
    /// Calls of each pace that run, or wait for a place among those of other clients.
    pub calls: usize,
    /// Calls of each pace that wait for those; more are refused.
    pub waiting_calls: usize,
    /// Registrations for events.
    pub subscriptions: usize,
    /// Bytes that may wait for a client that reads slowly; an event beyond that ends the connection.
    pub queued_bytes: usize,
    /// How long a client may read nothing at all while bytes wait for it.
    pub stall: Duration,
}

/// What all clients of a server may take up.
///
/// A reader is a client that may change nothing, and any client before its connection is open: whoever
/// reaches a socket can be one, so all of them together have bounds that don't grow with their number.
#[derive(Debug, Clone)]
pub struct Limits {
    /// What one client that may change things may take up.
    pub writer: ClientLimits,
    /// What one reader may take up.
    pub reader: ClientLimits,
    /// Slow calls of all writers that run at a time.
    pub writers_slow_calls: usize,
    /// Urgent calls of all writers that run at a time.
    pub urgent_calls: usize,
    /// Guests of all writers that are on their way at a time.
    pub moves: usize,
    /// Steps of others' moves that run at a time.
    pub steps: usize,
    /// Slow and urgent calls of all readers that run at a time.
    pub readers_slow_calls: usize,
    /// Bytes that all readers together have in large frames and waiting calls, and that wait for
    /// them to be read.
    pub readers_bytes: usize,
    /// How long the opening of a connection may take.
    pub opening: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            writer: ClientLimits {
                frame: FRAME_MAX,
                frame_time: Duration::from_secs(30),
                calls: 32,
                waiting_calls: 256,
                subscriptions: 1024,
                queued_bytes: 4 * 1024 * 1024,
                stall: Duration::from_secs(30),
            },
            reader: ClientLimits {
                frame: 256 * 1024,
                frame_time: Duration::from_secs(10),
                calls: 2,
                waiting_calls: 8,
                // Every event of every class, twice.
                subscriptions: 64,
                queued_bytes: 256 * 1024,
                stall: Duration::from_secs(10),
            },
            writers_slow_calls: 64,
            urgent_calls: 32,
            moves: 64,
            steps: 64,
            readers_slow_calls: 4,
            readers_bytes: 16 * 1024 * 1024,
            opening: Duration::from_secs(30),
        }
    }
}

/// Events that wait to be handed on. Over this many, whoever has another hands on the oldest first.
const EVENTS_WAITING: usize = 1024;

/// All clients of one server, made once and given to [`serve`](super::serve) with each connection.
#[derive(Debug)]
pub struct Clients {
    limits: Limits,
    writers_places: Semaphore,
    urgent_places: Semaphore,
    move_places: Semaphore,
    step_places: Semaphore,
    readers_places: Semaphore,
    pub(super) readers_bytes: Arc<Semaphore>,
    /// Readers' frames are looked at one at a time, each reader in its turn: however many they are and
    /// whatever they ask, the other threads are left to the writers.
    pub(super) readers_turn: Semaphore,
    events: Mutex<Events>,
    /// Held while an event is handed on, so that all hear of events in one order.
    handing_on: Mutex<()>,
}

#[derive(Debug, Default)]
struct Events {
    /// How many there have been.
    count: u64,
    waiting: VecDeque<(u64, Event)>,
    /// A task hands them on.
    handed_on: bool,
    /// Connections that ever registered for events.
    listeners: Vec<Weak<Connection>>,
    /// Where to hand on; none before the first listener.
    runtime: Option<Handle>,
}

impl Clients {
    /// No client yet.
    pub fn new(limits: Limits) -> Arc<Clients> {
        Arc::new(Clients {
            writers_places: Semaphore::new(limits.writers_slow_calls),
            urgent_places: Semaphore::new(limits.urgent_calls),
            move_places: Semaphore::new(limits.moves),
            step_places: Semaphore::new(limits.steps),
            readers_places: Semaphore::new(limits.readers_slow_calls),
            readers_bytes: Arc::new(Semaphore::new(limits.readers_bytes)),
            readers_turn: Semaphore::new(1),
            events: Mutex::default(),
            handing_on: Mutex::new(()),
            limits,
        })
    }

    /// What they may take up.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Tells everyone who registered for it, before this and not since. It waits for no client, and
    /// costs next to nothing where nobody registered: the clients are told by a task.
    pub fn publish(self: &Arc<Self>, event: impl Into<Event>) {
        let event = event.into();
        let too_many = {
            let mut events = self.events();
            events.count += 1;
            let Some(runtime) = events.runtime.clone() else {
                return;
            };
            let number = events.count;
            events.waiting.push_back((number, event));
            if !events.handed_on {
                events.handed_on = true;
                let clients = Arc::clone(self);
                runtime.spawn(async move {
                    while clients.hand_on() {
                        tokio::task::yield_now().await;
                    }
                });
            }
            events.waiting.len() > EVENTS_WAITING
        };
        if too_many {
            self.hand_on();
        }
    }

    /// What may wait for a client to read it.
    pub(super) fn room(&self, writer: bool) -> Room {
        let limits = if writer {
            &self.limits.writer
        } else {
            &self.limits.reader
        };
        Room {
            bytes: limits.queued_bytes,
            stall: limits.stall,
            budget: (!writer).then(|| Arc::clone(&self.readers_bytes)),
        }
    }

    /// Has a connection told of the events that it registers for. Must be called on the runtime.
    pub(super) fn add_listener(&self, connection: &Arc<Connection>) {
        let mut events = self.events();
        events.runtime.get_or_insert_with(Handle::current);
        events.listeners.retain(|known| known.strong_count() > 0);
        events.listeners.push(Arc::downgrade(connection));
    }

    /// How many events there have been.
    pub(super) fn event_count(&self) -> u64 {
        self.events().count
    }

    /// A place for a call among those of the other clients; none is needed for a quick one.
    pub(super) async fn place(&self, pace: Pace, writer: bool) -> Option<SemaphorePermit<'_>> {
        let places = match (pace, writer) {
            (Pace::Quick, _) => return None,
            (Pace::Slow, true) => &self.writers_places,
            (Pace::Urgent, true) => &self.urgent_places,
            (Pace::Move, true) => &self.move_places,
            (Pace::Step, true) => &self.step_places,
            (Pace::Slow | Pace::Urgent | Pace::Move | Pace::Step, false) => &self.readers_places,
        };
        // They are never closed.
        places.acquire().await.ok()
    }

    /// Hands on the oldest event; false if there was none.
    fn hand_on(&self) -> bool {
        let _order = self
            .handing_on
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (number, event, listeners) = {
            let mut events = self.events();
            let Some((number, event)) = events.waiting.pop_front() else {
                events.handed_on = false;
                return false;
            };
            let listeners: Vec<_> = events.listeners.iter().filter_map(Weak::upgrade).collect();
            (number, event, listeners)
        };
        if let Some(notice) = Notice::new(event) {
            for connection in listeners {
                connection.notify(&notice, number);
            }
        }
        true
    }

    fn events(&self) -> MutexGuard<'_, Events> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
