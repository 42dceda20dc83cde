//! The daemon: everything that the objects share.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use assign::{OpenError, VfioUser};
use host::{GuestGroup, HostError, LinuxHost, NodeInfo, NodeInfoError, RunAs, SharedHost};
use lending::Ledger;
use records::Records;
use rpc::DaemonStatus;
use rpc::server::Connection;
use tokio::sync::{OnceCell, mpsc, watch};

use crate::Simulation;
use crate::accounts;
use crate::drain::DrainedRecord;
use crate::events::Events;
use crate::guest::{Barred, DomainRecord, GuestGroups, GuestHandle, MoveRecord};
use crate::listen::{self, ListenError, Socket};
use crate::migration::Patience;
use crate::network::{NetworkHandle, NetworkRecord, PortRecord, Ports};
use crate::options::Options;
use crate::paths::Paths;
use crate::registry::Registry;
use crate::remote::RemoteError;
use crate::store::Store;
use crate::sync::lock;

/// As whom simulated QEMUs would run: Debian's libvirt-qemu.
pub(crate) const SIMULATED_USER: VfioUser = VfioUser {
    uid: 64055,
    gid: 64055,
};

/// Stands for the connection of a client where the daemon is its own; no connection has this number.
pub(crate) const ITSELF: u64 = u64::MAX - 1;

/// What one running daemon has.
pub(crate) struct Daemon {
    pub(crate) paths: Paths,
    pub(crate) host: SharedHost,
    pub(crate) node: NodeInfo,
    /// The host is none.
    pub(crate) simulated: bool,
    /// Where guests' processes come from.
    pub(crate) launcher: qemu::Launcher,
    pub(crate) networks: Registry<NetworkHandle>,
    pub(crate) guests: Registry<GuestHandle>,
    pub(crate) network_store: Store,
    pub(crate) domain_store: Store,
    pub(crate) records: AllRecords,
    pub(crate) lender: Arc<Ledger>,
    pub(crate) ports: Ports,
    /// Guests whose records can't be read.
    pub(crate) barred: Barred,
    pub(crate) events: Events,
    /// The clients of now, by the numbers of their connections.
    connections: Mutex<HashMap<u64, Weak<Connection>>>,
    /// Whom QEMU runs as.
    pub(crate) qemu_user: Option<RunAs>,
    /// The groups by which guests' processes open what is lent to them.
    pub(crate) guest_groups: GuestGroups,
    /// Where QEMU's processes go, under systemd.
    pub(crate) scopes: Option<qemu::Scopes>,
    /// How long a guest may take until its driver has joined its pairs.
    pub(crate) time_to_join: Duration,
    /// How long who takes part in a move may take.
    pub(crate) patience: Patience,
    /// Tells this daemon from others, as long as the host runs.
    identity: String,
    pub(crate) emulator: OnceCell<u64>,
    /// What short names of machines stand for.
    machines: OnceLock<HashMap<String, String>>,
    last_id: AtomicI32,
    since: Instant,
    stopping: watch::Sender<bool>,
    /// Keeps others from this root for as long as it is open: until the last work is done that was begun
    /// here, which has the daemon, too.
    _lock: File,
    /// Then whoever waits for that hears of it.
    _ended: mpsc::Sender<Infallible>,
}

/// Tells when nothing is done any more for a daemon that nobody has.
#[derive(Debug)]
pub(crate) struct Ended(mpsc::Receiver<Infallible>);

impl Ended {
    /// Waits for that.
    pub(crate) async fn wait(mut self) {
        // Nothing is ever sent.
        let _ = self.0.recv().await;
    }
}

/// The records of each kind.
#[derive(Debug)]
pub(crate) struct AllRecords {
    pub(crate) networks: Records,
    pub(crate) ports: Records,
    pub(crate) domains: Records,
    /// How far guests are on their way from one host to another.
    pub(crate) moves: Records,
    /// PFs that lend nothing.
    pub(crate) drained: Records,
}

/// Why the daemon does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Threads, signals or timers can't be had.
    #[error("the runtime does not start")]
    Runtime(#[source] io::Error),
    /// A directory can't be made, read or locked.
    #[error("{} can't be used", path.display())]
    Directory {
        /// Which one.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Another daemon uses the root.
    #[error("another virtnicd has {}; stop it, or choose another --root", .0.display())]
    Locked(PathBuf),
    /// The kernel does not tell what it has.
    #[error("the host can't be read")]
    Host(#[source] HostError),
    /// Nor what processors and memory there are.
    #[error(transparent)]
    Node(#[from] NodeInfoError),
    /// What is lent is not known.
    #[error("the journal of lent devices can't be used")]
    Lender(#[source] OpenError),
    /// The user that QEMU is to run as.
    #[error("there is no user '{0}'; name one with --qemu-user")]
    NoUser(String),
    /// None was named, and none of the usual ones is there.
    #[error(
        "QEMU would run as root, with every right on this host: there is neither a user \
         'libvirt-qemu' nor 'qemu'\nMake one: useradd --system --no-create-home libvirt-qemu\n\
         or name one: --qemu-user NAME; root, too, if that is meant"
    )]
    QemuAsRoot,
    /// The group that may use the read-write socket.
    #[error("there is no group '{0}'; name one with --socket-group")]
    NoGroup(String),
    /// A socket can't be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Nor can clients of other hosts be served.
    #[error(transparent)]
    Remote(#[from] RemoteError),
}

impl Daemon {
    /// Opens the root. Nothing of what an earlier daemon left is looked at yet.
    pub(crate) async fn open(
        options: &Options,
        simulation: Option<Simulation>,
    ) -> Result<(Arc<Self>, Ended), StartError> {
        let paths = Paths::below(&options.root);
        let lock = lock_root(&paths).await?;
        let host: SharedHost = match &simulation {
            Some(simulation) => Arc::new(simulation.host.clone()),
            None => Arc::new(LinuxHost::new(host::Paths::default()).noting_rest()),
        };
        let boot = host.boot_id().map_err(StartError::Host)?;
        let identity = lock.metadata().map_or_else(
            |_| boot.clone(),
            |root| format!("{boot}-{:x}-{:x}", root.dev(), root.ino()),
        );
        let node = match &simulation {
            Some(_) => NodeInfo::simulated(),
            None => NodeInfo::read(&host::Paths::default())?,
        };
        let in_dir = |path: PathBuf| move |source| StartError::Directory { path, source };
        let qemu_user = if simulation.is_some() {
            None
        } else {
            let is_root = rustix::process::geteuid().is_root();
            let ids = qemu_user(is_root, options.qemu_user.as_deref(), accounts::user)?;
            ids.map(|(uid, gid)| RunAs {
                uid,
                gid,
                groups: accounts::group("kvm").into_iter().collect(),
            })
        };
        let vfio_user = match (&simulation, &qemu_user) {
            (Some(_), _) => Some(SIMULATED_USER),
            (None, user) => user.as_ref().map(|user| VfioUser {
                uid: user.uid,
                gid: user.gid,
            }),
        };
        let have_own_groups = match (&simulation, &qemu_user) {
            (Some(_), _) => true,
            (None, user) => user.as_ref().is_some_and(can_have_own_groups),
        };
        let guest_groups = GuestGroups::new(have_own_groups);
        let records = |kind: &str, format| {
            Records::open(paths.records(kind), boot.clone(), format)
                .map_err(|error| in_dir(error.path)(error.source))
        };
        let store = |dir: PathBuf, edit| Store::open(dir.clone(), edit).map_err(in_dir(dir));
        let (ends, ended) = mpsc::channel(1);
        let daemon = Arc::new(Self {
            node,
            simulated: simulation.is_some(),
            patience: Patience::of(options),
            identity,
            time_to_join: (simulation.as_ref()).map_or(crate::guest::TIME_TO_JOIN, |simulation| {
                simulation.time_to_join
            }),
            launcher: match simulation {
                Some(simulation) => qemu::Launcher::Simulated(simulation.guests),
                None => qemu::Launcher::Qemu,
            },
            networks: Registry::new(),
            guests: Registry::new(),
            connections: Mutex::default(),
            network_store: store(paths.networks(), "virsh net-edit")?,
            domain_store: store(paths.domains(), "virsh edit")?,
            records: AllRecords {
                networks: records("networks", NetworkRecord::FORMAT)?,
                ports: records("ports", PortRecord::FORMAT)?,
                domains: records("domains", DomainRecord::FORMAT)?,
                moves: records("moves", MoveRecord::FORMAT)?,
                drained: records("drained", DrainedRecord::FORMAT)?,
            },
            lender: Ledger::open(Arc::clone(&host), paths.records("devices"), vfio_user)
                .map(Arc::new)
                .map_err(StartError::Lender)?,
            ports: Ports::default(),
            barred: Barred::default(),
            events: Events::default(),
            guest_groups,
            qemu_user,
            scopes: qemu::Scopes::under_systemd(paths.systemd()),
            emulator: OnceCell::new(),
            machines: OnceLock::new(),
            last_id: AtomicI32::new(0),
            since: Instant::now(),
            stopping: watch::Sender::new(false),
            _lock: lock,
            _ended: ends,
            host,
            paths,
        });
        Ok((daemon, Ended(ended)))
    }

    /// Listens on the sockets that the options name.
    pub(crate) fn listen(&self, options: &Options) -> Result<Vec<Socket>, StartError> {
        let group = match &options.socket_group {
            Some(name) => {
                Some(accounts::group(name).ok_or_else(|| StartError::NoGroup(name.clone()))?)
            }
            None => accounts::group("libvirt").filter(|_| rustix::process::geteuid().is_root()),
        };
        let own = (self.paths.socket(), self.paths.read_only_socket());
        Ok(listen::listen(
            own,
            options.libvirt_sockets.as_deref(),
            group,
        )?)
    }

    /// Tells this daemon from others: its root, on this boot.
    pub(crate) fn identity(&self) -> &str {
        &self.identity
    }

    /// A client has come.
    pub(crate) fn connected(&self, connection: &Arc<Connection>) {
        lock(&self.connections).insert(connection.id(), Arc::downgrade(connection));
    }

    /// A client is gone: what was to end with it does.
    pub(crate) fn disconnected(self: &Arc<Self>, connection: u64) {
        lock(&self.connections).remove(&connection);
        self.end_guests_of(connection);
    }

    /// Owners end, and the root is let go when what is under way has come to its end: see [`Ended`].
    pub(crate) fn stop(&self) {
        self.stopping.send_replace(true);
        let connections = std::mem::take(&mut *lock(&self.connections));
        for connection in connections.into_values().filter_map(|weak| weak.upgrade()) {
            connection.close();
        }
    }

    /// Waits until the daemon stops.
    pub(crate) async fn stopped(&self) {
        // The sender is ours.
        let _ = self.stopping.subscribe().wait_for(|stops| *stops).await;
    }

    /// Whether a client is still there.
    pub(crate) fn is_connected(&self, connection: u64) -> bool {
        connection == ITSELF || lock(&self.connections).contains_key(&connection)
    }

    /// The number of the next guest to start.
    pub(crate) fn next_domain_id(&self) -> i32 {
        self.last_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A guest runs with that number: the next ones are higher.
    pub(crate) fn seen_domain_id(&self, id: i32) {
        self.last_id.fetch_max(id, Ordering::Relaxed);
    }

    /// What the daemon is and has.
    pub(crate) fn status(&self) -> DaemonStatus {
        let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let (networks, guests) = (self.known_networks(), self.known_guests());
        DaemonStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime: self.since.elapsed().as_secs(),
            simulated: self.simulated,
            networks: small(networks.len()),
            active_networks: small(
                networks
                    .iter()
                    .filter(|network| network.is_active())
                    .count(),
            ),
            guests: small(guests.len()),
            running_guests: small(guests.iter().filter(|guest| guest.is_active()).count()),
            lent: small(self.lender.lent_count()),
        }
    }

    /// The emulator's version as libvirt counts it; 0: there is none.
    pub(crate) async fn emulator_version(&self) -> u64 {
        let ask = || async {
            qemu::emulator_version(Path::new(qemu::DEFAULT_EMULATOR))
                .await
                .unwrap_or(0)
        };
        *self.emulator.get_or_init(ask).await
    }

    /// The machine that a short name stands for today, so that a guest stays the same when QEMU
    /// grows. Blocks at first: QEMU is asked once.
    pub(crate) fn machine<'a>(&'a self, name: &'a str) -> &'a str {
        if self.simulated {
            return name;
        }
        let machines = self
            .machines
            .get_or_init(|| qemu::machine_aliases(Path::new(qemu::DEFAULT_EMULATOR)));
        machines.get(name).map_or(name, String::as_str)
    }
}

/// How long a daemon that has just ended may still have the root: a process that it was about to
/// start had all of its files. No event tells when that lets go.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_RETRY: Duration = Duration::from_millis(50);

async fn lock_root(paths: &Paths) -> Result<File, StartError> {
    let in_run = |source| StartError::Directory {
        path: paths.lock(),
        source,
    };
    listen::make_open_dir(paths.run()).map_err(|source| StartError::Directory {
        path: paths.run().to_owned(),
        source,
    })?;
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        // What is no file is not waited for.
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(paths.lock());
    let lock = lock.map_err(in_run)?;
    if !lock.metadata().is_ok_and(|lock| lock.is_file()) {
        let source = io::Error::other("it is not a file");
        return Err(in_run(source));
    }
    let end = Instant::now() + LOCK_PATIENCE;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(fs::TryLockError::WouldBlock) if Instant::now() < end => {
                tokio::time::sleep(LOCK_RETRY).await;
            }
            Err(fs::TryLockError::WouldBlock) => {
                return Err(StartError::Locked(paths.run().to_owned()));
            }
            Err(fs::TryLockError::Error(source)) => return Err(in_run(source)),
        }
    }
}

/// QEMU's own user and group; none where we may not become another's anyway.
fn qemu_user(
    is_root: bool,
    named: Option<&str>,
    find: impl Fn(&str) -> Option<(u32, u32)>,
) -> Result<Option<(u32, u32)>, StartError> {
    let ids = match named {
        _ if !is_root => return Ok(None),
        Some(name) => find(name).ok_or_else(|| StartError::NoUser(name.to_owned())),
        None => {
            let mut usual = ["libvirt-qemu", "qemu"].into_iter();
            usual.find_map(find).ok_or(StartError::QemuAsRoot)
        }
    };
    ids.map(Some)
}

/// Whether each guest's QEMU can have a group of its own, and that keeps others out.
fn can_have_own_groups(user: &RunAs) -> bool {
    if user.uid == 0 {
        tracing::warn!(
            "QEMU runs as root: a guest's can open what is lent to another (see --qemu-user)"
        );
        return false;
    }
    let can = GuestGroup::can_be_had(Path::new("/proc"));
    if !can {
        tracing::warn!(
            uid = user.uid,
            "no groups can be given to guests here (user namespace): a guest's QEMU can open what is \
             lent to another"
        );
    }
    can
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemu_is_root_only_if_that_is_asked_for() {
        let only_root = |name: &str| (name == "root").then_some((0, 0));
        let refused = qemu_user(true, None, only_root).unwrap_err();
        assert!(matches!(refused, StartError::QemuAsRoot));
        assert!(refused.to_string().contains("--qemu-user"), "{refused}");
        let asked = qemu_user(true, Some("root"), only_root).unwrap();
        assert_eq!(asked, Some((0, 0)));
        let unknown = qemu_user(true, Some("nosuch"), only_root).unwrap_err();
        assert!(matches!(unknown, StartError::NoUser(name) if name == "nosuch"));

        let usual = |name: &str| (name == "qemu").then_some((107, 107));
        assert_eq!(qemu_user(true, None, usual).unwrap(), Some((107, 107)));
        assert_eq!(qemu_user(false, None, only_root).unwrap(), None);
    }
}
