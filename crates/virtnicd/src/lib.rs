//! The daemon: libvirt's clients come in by its sockets, guests get their network devices from it.
//!
//! A library, so that several run side by side in one process, each below a root of its own.

mod accounts;
mod affect;
mod bandwidth;
mod blocking;
mod daemon;
mod dispatch;
mod drain;
mod events;
mod fault;
mod guest;
mod inventory;
mod listen;
mod logging;
mod metadata;
mod migration;
mod network;
mod options;
mod paths;
mod registry;
mod remote;
mod restart;
mod store;
mod sync;

use std::sync::Arc;
use std::time::Duration;

use host::{GuestGroup, NodeAccess, SimulatedHost, SimulatedShape};
use qemu::SimulatedGuests;
use tokio::task::JoinSet;

pub use daemon::StartError;
pub use listen::ListenError;
pub use logging::{LogError, start as start_logging};
pub use options::{Options, PlaceError};
pub use remote::RemoteError;

use daemon::{Daemon, Ended};
use remote::Doors;

/// For what is under way when the daemon is told to stop. The records tell the next one how far it was.
const FAREWELL: Duration = Duration::from_secs(2);

/// A host that is none, and the guests on it. Clones are the same.
#[derive(Debug, Clone)]
pub struct Simulation {
    /// Its kernel.
    pub host: SimulatedHost,
    /// Its processes.
    pub guests: SimulatedGuests,
    /// How long a guest may take from its start until its driver has joined its pairs, before the
    /// daemon says that it has not; a minute.
    pub time_to_join: Duration,
}

impl Simulation {
    /// A host of that shape, without guests.
    #[must_use]
    pub fn new(shape: SimulatedShape) -> Self {
        let host = SimulatedHost::new(shape);
        let guests = SimulatedGuests::new();
        let nodes = host.clone();
        guests.set_permissions(
            move |own_group, device| match nodes.vfio_access_of(device) {
                None => Err("No such file or directory".to_owned()),
                Some(access) if may_open(access, own_group) => Ok(()),
                Some(_) => Err("Permission denied".to_owned()),
            },
        );
        Self {
            host,
            guests,
            time_to_join: guest::TIME_TO_JOIN,
        }
    }
}

/// Whether a simulated QEMU may open a node, for reading and writing.
fn may_open(access: NodeAccess, own_group: Option<GuestGroup>) -> bool {
    let of_user = access.uid == daemon::SIMULATED_USER.uid && access.mode & 0o600 == 0o600;
    let gids = [
        Some(daemon::SIMULATED_USER.gid),
        own_group.map(GuestGroup::gid),
    ];
    let of_group = gids.contains(&Some(access.gid)) && access.mode & 0o060 == 0o060;
    of_user || of_group || access.mode & 0o006 == 0o006
}

/// A daemon that serves clients. Dropped, it stops to; guests go on.
pub struct Virtnicd {
    daemon: Arc<Daemon>,
    doors: Doors,
    accepting: JoinSet<()>,
    autostarting: JoinSet<()>,
    ended: Ended,
}

impl std::fmt::Debug for Virtnicd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Virtnicd").finish_non_exhaustive()
    }
}

impl Virtnicd {
    /// Takes up what an earlier daemon left below the root, and listens. What is to be started with
    /// the host is started beside: see [`Virtnicd::autostarted`].
    ///
    /// Must run on a tokio runtime of several threads, with I/O and time.
    ///
    /// # Errors
    /// The root can't be used, or another daemon uses it.
    pub async fn start(options: &Options) -> Result<Self, StartError> {
        let simulation = options.simulate.map(Simulation::new);
        Self::start_on(options, simulation).await
    }

    /// The same, on a simulated host that others have, too: the next daemon finds what this one left.
    ///
    /// # Errors
    /// As those of [`Virtnicd::start`].
    pub async fn start_on(
        options: &Options,
        simulation: Option<Simulation>,
    ) -> Result<Self, StartError> {
        let (daemon, ended) = Daemon::open(options, simulation).await?;
        // Who listens there has what would be taken up. Clients that come already wait for that.
        let sockets = daemon.listen(options)?;
        let doors = Doors::open(options, &daemon.paths)?;
        let run = daemon.paths.run().to_owned();
        let taken_up = daemon.take_up().await;
        taken_up.map_err(|source| StartError::Directory { path: run, source })?;
        let mut accepting = JoinSet::new();
        let room = dispatch::Room::of_this_process();
        for socket in sockets {
            accepting.spawn(dispatch::accept(Arc::clone(&daemon), socket, room.clone()));
        }
        doors.accept(&mut accepting, &daemon, &room);
        let mut autostarting = JoinSet::new();
        let starting = Arc::clone(&daemon);
        autostarting.spawn(async move { starting.autostart().await });
        Ok(Self {
            daemon,
            doors,
            accepting,
            autostarting,
            ended,
        })
    }

    /// Waits until all that is to be started with the host was, or failed to.
    pub async fn autostarted(&mut self) {
        while self.autostarting.join_next().await.is_some() {}
    }

    /// Reads definitions that were put below the root by hand.
    pub async fn read_new_definitions(&self) {
        self.daemon.read_new_definitions().await;
    }

    /// Reads the certificates for TLS and the list of clients again. Where they can't be used now, the log
    /// says so and the earlier ones count.
    pub fn read_certificates(&self) {
        self.doors.read_again();
    }

    /// Where clients of other hosts are listened for by TLS, if they are.
    #[must_use]
    pub fn tls_address(&self) -> Option<std::net::SocketAddr> {
        self.doors.tls_address()
    }

    /// Listens no more, and lets the root go. Guests go on. What is under way is waited for, for two
    /// seconds at most: what waits for the kernel or a disk longer keeps the root until it is done, or
    /// the process has ended.
    pub async fn stop(mut self) {
        self.accepting.shutdown().await;
        self.autostarting.shutdown().await;
        self.daemon.stop();
        drop(self.daemon);
        if tokio::time::timeout(FAREWELL, self.ended.wait())
            .await
            .is_err()
        {
            tracing::warn!("what is under way is left to the kernel");
        }
    }
}

/// An error with its sources, outermost first.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    fault::chain(error)
}
