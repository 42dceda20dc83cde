//! Who is connected, and what they are told.

use std::sync::{Arc, RwLock, Weak};

use rpc::Event;
use rpc::server::Connection;

use crate::sync::{read, write};

/// The connections of now.
#[derive(Debug, Default)]
pub(crate) struct Events {
    connections: RwLock<Vec<Weak<Connection>>>,
}

impl Events {
    /// Has a connection told what it subscribes to, for as long as it lives.
    pub(crate) fn add(&self, connection: &Arc<Connection>) {
        let mut connections = write(&self.connections);
        connections.retain(|known| known.strong_count() > 0);
        connections.push(Arc::downgrade(connection));
    }

    /// Ends all connections.
    pub(crate) fn close(&self) {
        for connection in read(&self.connections).iter().filter_map(Weak::upgrade) {
            connection.close();
        }
    }

    /// Tells everyone who subscribed to it.
    pub(crate) fn tell(&self, event: impl Into<Event>) {
        let event = event.into();
        for connection in read(&self.connections).iter().filter_map(Weak::upgrade) {
            connection.publish(&event);
        }
    }
}
