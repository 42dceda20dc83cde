//! Room for clients. Each holds a descriptor, and the daemon needs some for its own files: without a
//! bound, whoever may only read could keep it from working by connecting often enough.

use std::sync::Arc;

use rustix::process::{Resource, getrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Clients of one kind at a time, however many descriptors there are.
const MOST: usize = 5000;

/// Places for clients that may change things, and for those that may not: neither kind takes the
/// other's, and half of the descriptors stay with the daemon.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    writers: Arc<Semaphore>,
    readers: Arc<Semaphore>,
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
        tracing::warn!(
            kind,
            "no room for more clients until one leaves; LimitNOFILE= gives more"
        );
        Arc::clone(places).acquire_owned().await.ok()
    }
}
