//! What clients are told.

use std::sync::Arc;

use rpc::Event;
use rpc::server::{Clients, Limits};

/// The clients of the daemon, as whoever has news for them sees them.
#[derive(Debug)]
pub(crate) struct Events(Arc<Clients>);

impl Default for Events {
    fn default() -> Self {
        Self(Clients::new(Limits::default()))
    }
}

impl Events {
    /// All that the clients share.
    pub(crate) fn clients(&self) -> Arc<Clients> {
        Arc::clone(&self.0)
    }

    /// Tells everyone who subscribed to it. It waits for nobody.
    pub(crate) fn tell(&self, event: impl Into<Event>) {
        self.0.publish(event);
    }
}
