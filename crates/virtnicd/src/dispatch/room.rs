//! Room for clients. Each holds a descriptor, and the daemon needs some for its own files: without a
//! bound, whoever may only read could keep it from working by connecting often enough.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::sync::lock;

/// Clients of one kind at a time, however many descriptors there are.
const MOST: usize = 5000;

/// Between two lines of the log that there is no room.
const TELL_EACH: Duration = Duration::from_secs(60);

/// Places for clients that may change things, and for those that may not: neither kind takes the
/// other's, and half of the descriptors stay with the daemon.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    writers: Arc<Semaphore>,
    readers: Arc<Semaphore>,
    /// When it was last told that there is none.
    told: Arc<Mutex<Option<Instant>>>,
}

/// A client's place, until it is dropped.
pub(super) type Place = OwnedSemaphorePermit;

impl Room {
    /// As much room as the limits of this process allow.
    pub(crate) fn of_this_process() -> Self {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let places = usize::try_from(descriptors / 4)
            .unwrap_or(MOST)
            .clamp(1, MOST);
        let semaphore = || Arc::new(Semaphore::new(places));
        Self {
            writers: semaphore(),
            readers: semaphore(),
            told: Arc::default(),
        }
    }

    /// Waits for a place; none when the daemon stops.
    pub(super) async fn place(&self, read_only: bool) -> Option<Place> {
        let (kind, places) = if read_only {
            ("read-only", &self.readers)
        } else {
            ("read-write", &self.writers)
        };
        if let Ok(place) = Arc::clone(places).try_acquire_owned() {
            return Some(place);
        }
        if self.is_to_be_told() {
            tracing::warn!(
                kind,
                "no room for more clients until one leaves; LimitNOFILE= gives more"
            );
        }
        Arc::clone(places).acquire_owned().await.ok()
    }

    /// Clients come and go as they like, and each could fill a line of the log.
    fn is_to_be_told(&self) -> bool {
        let (mut told, now) = (lock(&self.told), Instant::now());
        let is_due = told.is_none_or(|told| now.duration_since(told) >= TELL_EACH);
        if is_due {
            *told = Some(now);
        }
        is_due
    }
}
