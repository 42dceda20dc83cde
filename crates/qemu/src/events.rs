//! What happens to a guest, on its way to whoever watches it.
//!
//! A guest's process may say anything, any number of times, while nobody listens. So little waits
//! here: one event of a kind and device, a few changes of state, and a limited number of bytes of
//! QEMU's own words.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::{Event, Exit, GuestState};

/// How many changes of state wait. Of more, the last one says where they led.
const STATES: usize = 16;

/// How many events about devices wait: more than a guest has devices.
const DEVICE_EVENTS: usize = 1024;

/// How much of QEMU's own words waits.
const QMP_EVENTS: usize = 128;

/// And how much of it, bytes.
const QMP_BYTES: usize = 64 << 10;

/// Something that happened to a guest.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum GuestEvent {
    /// It is doing something else now. From [`GuestState::Unknown`]: its monitor answered for the
    /// first time, and what QEMU has can be asked for.
    State {
        /// Before.
        from: GuestState,
        /// Now.
        to: GuestState,
    },
    /// It is being switched off.
    Shutdown {
        /// By itself, or from outside; `None`: QEMU doesn't say.
        by_guest: Option<bool>,
    },
    /// It started anew in the same process.
    Rebooted {
        /// At its own wish.
        by_guest: bool,
    },
    /// QEMU no longer has a device: the guest let it go, asked or not. A host device also goes when
    /// the host's kernel asks QEMU for it and the guest agrees.
    DeviceDeleted {
        /// The device's.
        alias: String,
    },
    /// The guest refused to let a device go.
    UnplugRefused {
        /// The device's.
        alias: String,
    },
    /// A guest's driver of a virtio card has negotiated failover: from now on QEMU opens the card's
    /// primary as soon as it is plugged in, and the one that it remembers at once. Comes again after
    /// each of the guest's starts, and never from a guest that can't.
    FailoverNegotiated {
        /// The card's: the standby's.
        alias: String,
    },
    /// QEMU took a failover pair's primary away from the guest, as a migration begins.
    UnplugPrimary {
        /// The primary's.
        alias: String,
    },
    /// A guest's driver changed what its network card lets in. The next change is told of after
    /// [`Guest::rx_filter`](crate::Guest::rx_filter) was asked.
    RxFilterChanged {
        /// The card's.
        alias: String,
    },
    /// A migration goes through the guest's memory for the so-manieth time, from 1 on.
    MigrationPass(i32),
    /// Events about devices were dropped since too many waited: ask which devices are there, for
    /// their receive filters, and which cards have negotiated failover.
    DevicesChanged,
    /// What QEMU said, in QEMU's words: also what the other events come from. Of those that nobody
    /// took in time some are left out; see [`Guest::dropped_events`](crate::Guest::dropped_events).
    Qmp(Event),
    /// It is gone. No other event follows.
    Exited(Exit),
}

/// The events of a guest, in order.
#[derive(Debug)]
pub struct GuestEvents(Arc<Queue>);

/// Where a guest's events wait.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pending: Mutex<Pending>,
    added: Notify,
    taken: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    events: VecDeque<GuestEvent>,
    /// Of QEMU's own words.
    qmp_bytes: usize,
    /// In the lifetime of the guest.
    dropped: u64,
    /// Nothing will be added, or nobody takes anything.
    closed: bool,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// It waits, alone of its kind.
    Added,
    /// An older one of its kind still waited: the receiver lags.
    Merged,
    /// There was no room.
    Dropped,
    /// Nobody listens.
    ToNobody,
}

impl GuestEvents {
    pub(crate) fn new() -> (Arc<Queue>, Self) {
        let queue = Arc::new(Queue::default());
        (Arc::clone(&queue), Self(queue))
    }

    /// The next event; `None` after the last. Dropping the call loses none.
    pub async fn recv(&mut self) -> Option<GuestEvent> {
        loop {
            let added = self.0.added.notified();
            if let Some(event) = self.0.take() {
                return Some(event);
            }
            if self.0.lock().closed {
                return None;
            }
            added.await;
        }
    }

    /// The next event, if one waits.
    pub fn try_recv(&mut self) -> Option<GuestEvent> {
        self.0.take()
    }
}

impl Drop for GuestEvents {
    fn drop(&mut self) {
        let mut pending = self.0.lock();
        pending.closed = true;
        pending.events = VecDeque::new();
        drop(pending);
        self.0.taken.notify_one();
    }
}

impl Queue {
    pub(crate) fn tell(&self, event: GuestEvent) -> Told {
        let told = {
            let mut pending = self.lock();
            if pending.closed {
                Told::ToNobody
            } else {
                pending.add(event)
            }
        };
        if told != Told::ToNobody {
            self.added.notify_one();
        }
        told
    }

    fn take(&self) -> Option<GuestEvent> {
        let event = {
            let mut pending = self.lock();
            let event = pending.events.pop_front()?;
            if let GuestEvent::Qmp(event) = &event {
                pending.qmp_bytes -= event.size;
            }
            event
        };
        self.taken.notify_one();
        Some(event)
    }

    /// No event will follow.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.added.notify_one();
    }

    /// Waits until one was taken, or nobody will.
    pub(crate) async fn taken(&self) {
        self.taken.notified().await;
    }

    /// How many of QEMU's events were dropped so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pending> {
        // Nothing panics while it is held.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    fn add(&mut self, event: GuestEvent) -> Told {
        match event {
            GuestEvent::State { to, .. } if self.count(is_state) >= STATES => {
                let mut last = self.events.iter_mut().rev();
                if let Some(GuestEvent::State { to: last, .. }) = last.find(|event| is_state(event))
                {
                    *last = to;
                }
                Told::Merged
            }
            GuestEvent::State { .. } | GuestEvent::Exited(_) => self.append(event),
            GuestEvent::Qmp(event) => self.add_words(event),
            event if self.events.contains(&event) => Told::Merged,
            event => {
                let about_device = |event: &GuestEvent| {
                    matches!(
                        event,
                        GuestEvent::DeviceDeleted { .. }
                            | GuestEvent::UnplugRefused { .. }
                            | GuestEvent::RxFilterChanged { .. }
                            | GuestEvent::FailoverNegotiated { .. }
                            | GuestEvent::UnplugPrimary { .. }
                    )
                };
                if !about_device(&event) || self.count(about_device) < DEVICE_EVENTS {
                    return self.append(event);
                }
                self.dropped += 1;
                if !self.events.contains(&GuestEvent::DevicesChanged) {
                    self.append(GuestEvent::DevicesChanged);
                }
                Told::Dropped
            }
        }
    }

    /// Of QEMU's own words the newest of a kind and device count.
    fn add_words(&mut self, new: Event) -> Told {
        let mut number = 0;
        for event in &mut self.events {
            let GuestEvent::Qmp(old) = event else {
                continue;
            };
            number += 1;
            let bytes = self.qmp_bytes - old.size + new.size;
            if old.is_of_the_kind_of(&new) && bytes <= QMP_BYTES {
                self.qmp_bytes = bytes;
                self.dropped += 1;
                *old = new;
                return Told::Merged;
            }
        }
        if number >= QMP_EVENTS || self.qmp_bytes + new.size > QMP_BYTES {
            self.dropped += 1;
            return Told::Dropped;
        }
        self.qmp_bytes += new.size;
        self.append(GuestEvent::Qmp(new))
    }

    fn append(&mut self, event: GuestEvent) -> Told {
        self.events.push_back(event);
        Told::Added
    }

    fn count(&self, is_it: impl Fn(&GuestEvent) -> bool) -> usize {
        self.events.iter().filter(|event| is_it(event)).count()
    }
}

fn is_state(event: &GuestEvent) -> bool {
    matches!(event, GuestEvent::State { .. })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::PauseReason;

    fn words(name: &str, device: &str, size: usize) -> GuestEvent {
        let data = json!({ "device": device });
        GuestEvent::Qmp(Event {
            name: name.to_owned(),
            data: data.as_object().unwrap().clone(),
            timestamp: None,
            size,
        })
    }

    fn deleted(alias: impl Into<String>) -> GuestEvent {
        GuestEvent::DeviceDeleted {
            alias: alias.into(),
        }
    }

    fn all(events: &mut GuestEvents) -> Vec<GuestEvent> {
        std::iter::from_fn(|| events.try_recv()).collect()
    }

    #[test]
    fn one_event_of_a_kind_and_device_waits() {
        let (queue, mut events) = GuestEvents::new();
        let changed = |alias: &str| GuestEvent::RxFilterChanged {
            alias: alias.to_owned(),
        };
        for _ in 0..1000 {
            queue.tell(changed("net0"));
            queue.tell(deleted("net1"));
            queue.tell(changed("net1"));
            queue.tell(words("NIC_RX_FILTER_CHANGED", "net0", 100));
        }
        let once = [
            changed("net0"),
            deleted("net1"),
            changed("net1"),
            words("NIC_RX_FILTER_CHANGED", "net0", 100),
        ];
        assert_eq!(all(&mut events), once);
        queue.tell(changed("net0"));
        assert_eq!(all(&mut events), [changed("net0")], "taken is taken");
    }

    #[test]
    fn changes_of_state_keep_their_order_and_lead_where_they_led() {
        let (queue, mut events) = GuestEvents::new();
        let paused = GuestState::Paused(PauseReason::User);
        let (mut from, mut to) = (GuestState::Running, paused);
        for _ in 0..1001 {
            queue.tell(GuestEvent::State { from, to });
            std::mem::swap(&mut from, &mut to);
        }
        let told = all(&mut events);
        assert_eq!(told.len(), STATES);
        let mut before = GuestState::Running;
        for event in told {
            let GuestEvent::State { from, to } = event else {
                panic!("{event:?}");
            };
            assert_eq!(from, before);
            before = to;
        }
        assert_eq!(before, paused);
    }

    #[test]
    fn what_qemu_says_waits_in_limited_number_and_size() {
        let (queue, mut events) = GuestEvents::new();
        for number in 0..10_000 {
            queue.tell(words(&format!("NEWS_{number}"), "", 10));
        }
        assert_eq!(all(&mut events).len(), QMP_EVENTS);
        assert_eq!(queue.dropped(), 10_000 - QMP_EVENTS as u64);
        for number in 0..100 {
            queue.tell(words(&format!("LONG_{number}"), "", QMP_BYTES / 5 * 2));
        }
        assert_eq!(all(&mut events).len(), 2);
        assert_eq!(queue.lock().qmp_bytes, 0);
        // The newest of a kind doesn't grow beyond it, either.
        queue.tell(words("A", "", QMP_BYTES / 2));
        queue.tell(words("B", "", QMP_BYTES / 2));
        assert_eq!(queue.tell(words("A", "", QMP_BYTES)), Told::Dropped);
    }

    #[test]
    fn devices_that_nobody_knows_do_not_pile_up_and_that_is_told() {
        let (queue, mut events) = GuestEvents::new();
        for number in 0..10_000 {
            queue.tell(deleted(format!("device{number}")));
        }
        let told = all(&mut events);
        assert_eq!(told.len(), DEVICE_EVENTS + 1);
        assert_eq!(told.last(), Some(&GuestEvent::DevicesChanged));
    }

    #[tokio::test]
    async fn the_last_event_is_told_however_many_waited() {
        let (queue, mut events) = GuestEvents::new();
        for number in 0..10_000 {
            queue.tell(words(&format!("NEWS_{number}"), "", 10));
            queue.tell(deleted(format!("device{number}")));
        }
        let exit = Exit {
            reason: crate::ExitReason::Died,
            status: None,
        };
        queue.tell(GuestEvent::Exited(exit));
        queue.close();
        let mut last = None;
        while let Some(event) = events.recv().await {
            last = Some(event);
        }
        assert_eq!(last, Some(GuestEvent::Exited(exit)));
    }

    #[test]
    fn nothing_waits_for_nobody() {
        let (queue, events) = GuestEvents::new();
        queue.tell(deleted("net0"));
        drop(events);
        assert_eq!(queue.tell(deleted("net0")), Told::ToNobody);
        assert!(queue.lock().events.is_empty());
    }
}
