//! Guests that clients have announced, and not brought yet.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rpc::{Code, Error};

use super::QEMU;
use super::cookie::Cookie;
use crate::fault::Result;
use crate::sync::lock;

/// How long a client may take from one phase to the next.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many are expected at a time, at most.
const MOST: usize = 16;

/// A guest that was announced.
#[derive(Debug)]
pub(super) struct Arrival {
    /// The connection of the client that announced it, and that alone brings it.
    connection: u64,
    pub(super) domain: conf::Domain,
    pub(super) cookie: Cookie,
    until: Instant,
}

impl Arrival {
    pub(super) fn new(connection: u64, domain: conf::Domain, cookie: Cookie) -> Self {
        Self {
            connection,
            domain,
            cookie,
            until: Instant::now() + PATIENCE,
        }
    }
}

/// All of them, by name. Nothing but memory is kept for one.
#[derive(Debug, Default)]
pub(crate) struct Arrivals(Mutex<HashMap<String, Arrival>>);

impl Arrivals {
    /// # Errors
    /// Another client has announced that name, or there are too many.
    pub(super) fn expect(&self, arrival: Arrival) -> Result<()> {
        let refused = |detail: String| Err(Error::new(Code::OperationFailed, QEMU, detail));
        let mut all = lock(&self.0);
        let now = Instant::now();
        all.retain(|_, known| known.until > now);
        let name = &arrival.domain.name;
        if (all.get(name)).is_some_and(|known| known.connection != arrival.connection) {
            return refused(format!(
                "guest '{name}' is just being moved here by another client"
            ));
        }
        if all.len() >= MOST && !all.contains_key(name) {
            return refused(format!(
                "{MOST} guests are just being moved here; try again"
            ));
        }
        all.insert(name.clone(), arrival);
        Ok(())
    }

    /// What that client has announced; it is not expected any more.
    pub(super) fn take(&self, name: &str, connection: u64) -> Option<Arrival> {
        let mut all = lock(&self.0);
        all.get(name)
            .filter(|known| known.connection == connection && known.until > Instant::now())?;
        all.remove(name)
    }

    /// A client is gone, and brings nothing any more.
    pub(crate) fn forget(&self, connection: u64) {
        lock(&self.0).retain(|_, known| known.connection != connection);
    }
}
