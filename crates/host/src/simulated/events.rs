//! Streams of changes, bounded.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use crate::{HostEvent, HostEvents};

/// Events that wait at most in one stream; more are lost, and that is told.
const MOST_WAITING: usize = 4096;

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<HostEvent>,
    ended: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All streams of one host. They end when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Watchers(Vec<Weak<Queue>>);

impl Watchers {
    pub(super) fn watch(&mut self) -> Box<dyn HostEvents> {
        let queue = Arc::new(Queue::default());
        self.0.retain(|other| other.strong_count() > 0);
        self.0.push(Arc::downgrade(&queue));
        Box::new(SimulatedEvents(queue))
    }

    pub(super) fn send(&self, event: &HostEvent) {
        for queue in self.0.iter().filter_map(Weak::upgrade) {
            let mut state = queue.lock();
            if state.waiting.len() >= MOST_WAITING {
                state.waiting.clear();
                state.waiting.push_back(HostEvent::Lost);
            } else {
                state.waiting.push_back(event.clone());
            }
            queue.changed.notify_one();
        }
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        for queue in self.0.iter().filter_map(Weak::upgrade) {
            queue.lock().ended = true;
            queue.changed.notify_one();
        }
    }
}

#[derive(Debug)]
struct SimulatedEvents(Arc<Queue>);

impl HostEvents for SimulatedEvents {
    fn next(&mut self) -> Option<HostEvent> {
        let mut state = self.0.lock();
        loop {
            if let Some(event) = state.waiting.pop_front() {
                return Some(event);
            }
            if state.ended {
                return None;
            }
            state = (self.0.changed.wait(state)).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_watcher_is_told_that_it_lost_events() {
        let mut watchers = Watchers::default();
        let mut events = watchers.watch();
        let event = HostEvent::LinkChanged {
            ifindex: 1,
            netdev: String::from("sim0"),
        };
        for _ in 0..=MOST_WAITING {
            watchers.send(&event);
        }
        watchers.send(&event);
        drop(watchers);
        assert_eq!(events.next(), Some(HostEvent::Lost));
        assert_eq!(events.next(), Some(event));
        assert_eq!(events.next(), None, "ends with the host");
    }
}
