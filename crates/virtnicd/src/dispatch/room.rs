//! Room for clients. Each holds a descriptor, and the daemon needs some for its own files: without a
//! bound, whoever may only read could keep it from working by connecting often enough.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rpc::server::REMOTE_DESCRIPTORS;
use rustix::process::{Resource, getrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::sync::lock;

/// Clients of one kind at a time, however many descriptors there are.
const MOST: usize = 5000;

/// Between two lines of the log that there is no room.
const TELL_EACH: Duration = Duration::from_secs(60);

/// Places for clients that may change things, for those that may not, and for those of other hosts: no kind
/// takes another's, and three eighths of the descriptors stay with the daemon.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    writers: Arc<Semaphore>,
    readers: Arc<Semaphore>,
    remote: Arc<Semaphore>,
    /// When it was last told that there is none.
    told: Arc<Mutex<Option<Instant>>>,
}

/// A client's place, until it is dropped.
pub(super) type Place = OwnedSemaphorePermit;

impl Room {
    /// As much room as the limits of this process allow.
    pub(crate) fn of_this_process() -> Self {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let semaphore = |places: u64| {
            let places = usize::try_from(places).unwrap_or(MOST).clamp(1, MOST);
            Arc::new(Semaphore::new(places))
        };
        Self {
            writers: semaphore(descriptors / 4),
            readers: semaphore(descriptors / 4),
            remote: semaphore(descriptors / 8 / u64::from(REMOTE_DESCRIPTORS)),
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
        self.place_among(kind, places).await
    }

    /// The same, for a client of another host.
    pub(super) async fn remote_place(&self) -> Option<Place> {
        self.place_among("remote", &self.remote).await
    }

    async fn place_among(&self, kind: &str, places: &Arc<Semaphore>) -> Option<Place> {
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
