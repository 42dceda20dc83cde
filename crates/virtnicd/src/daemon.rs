//! The daemon: everything that the objects share.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use assign::{OpenError, VfioUser};
use conf::Uuid;
use host::{HostError, LinuxHost, NodeInfo, NodeInfoError, RunAs, SharedHost, SimulatedHost};
use rpc::DaemonStatus;
use tokio::sync::OnceCell;

use crate::accounts;
use crate::domain::DomainObject;
use crate::events::Events;
use crate::lender::Lender;
use crate::listen::{self, ListenError, Socket};
use crate::network::{NetworkObject, PortEntry};
use crate::options::Options;
use crate::paths::Paths;
use crate::records::Records;
use crate::registry::Registry;
use crate::store::Store;

/// What one running daemon has.
pub(crate) struct Daemon {
    pub(crate) paths: Paths,
    pub(crate) host: SharedHost,
    pub(crate) node: NodeInfo,
    /// The host is none.
    pub(crate) simulated: bool,
    /// Where guests' processes come from.
    pub(crate) launcher: qemu::Launcher,
    pub(crate) networks: Registry<NetworkObject>,
    pub(crate) domains: Registry<DomainObject>,
    pub(crate) network_store: Store,
    pub(crate) domain_store: Store,
    pub(crate) records: AllRecords,
    pub(crate) lender: Lender,
    /// Ports of running guests on networks that do not run, by network.
    pub(crate) parked_ports: Mutex<HashMap<Uuid, Vec<PortEntry>>>,
    pub(crate) events: Events,
    /// Whom QEMU runs as.
    pub(crate) qemu_user: Option<RunAs>,
    pub(crate) emulator: OnceCell<u64>,
    /// What short names of machines stand for.
    machines: OnceLock<HashMap<String, String>>,
    last_id: AtomicI32,
    since: Instant,
    /// Keeps others from this root for as long as it is open.
    _lock: File,
}

/// The records of each kind.
#[derive(Debug)]
pub(crate) struct AllRecords {
    pub(crate) networks: Records,
    pub(crate) ports: Records,
    pub(crate) domains: Records,
}

/// Why the daemon does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("the runtime does not start")]
    Runtime(#[source] io::Error),
    #[error("{} can't be used", path.display())]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("another virtnicd has {}; stop it, or choose another --root", .0.display())]
    Locked(PathBuf),
    #[error("the host can't be read")]
    Host(#[source] HostError),
    #[error(transparent)]
    Node(#[from] NodeInfoError),
    #[error("the journal of lent devices can't be used")]
    Lender(#[source] OpenError),
    #[error("there is no user '{0}'; name one with --qemu-user")]
    NoUser(String),
    #[error("there is no group '{0}'; name one with --socket-group")]
    NoGroup(String),
    #[error(transparent)]
    Listen(#[from] ListenError),
}

impl Daemon {
    /// Opens the root, and takes up what an earlier daemon left: definitions, running networks,
    /// running guests, and devices that nobody has any more.
    pub(crate) async fn open(options: &Options) -> Result<Arc<Self>, StartError> {
        let paths = Paths::below(&options.root);
        let lock = lock_root(&paths)?;
        let host: SharedHost = match options.simulate {
            Some(shape) => Arc::new(SimulatedHost::new(shape)),
            None => Arc::new(LinuxHost::new(host::Paths::default())),
        };
        let boot = host.boot_id().map_err(StartError::Host)?;
        let node = match options.simulate {
            Some(_) => NodeInfo::simulated(),
            None => NodeInfo::read(&host::Paths::default())?,
        };
        let in_dir = |path: PathBuf| move |source| StartError::Directory { path, source };
        let qemu_user = qemu_user(options)?;
        let vfio_user = qemu_user.as_ref().map(|user| VfioUser {
            uid: user.uid,
            gid: user.gid,
        });
        let records = |kind: &str| {
            let dir = paths.records(kind);
            Records::open(dir.clone(), boot.clone()).map_err(in_dir(dir))
        };
        let store = |dir: PathBuf, edit| Store::open(dir.clone(), edit).map_err(in_dir(dir));
        let daemon = Arc::new(Self {
            node,
            simulated: options.simulate.is_some(),
            launcher: match options.simulate {
                Some(_) => qemu::Launcher::Simulated(qemu::SimulatedGuests::new()),
                None => qemu::Launcher::Qemu,
            },
            networks: Registry::new(),
            domains: Registry::new(),
            network_store: store(paths.networks(), "virsh net-edit")?,
            domain_store: store(paths.domains(), "virsh edit")?,
            records: AllRecords {
                networks: records("networks")?,
                ports: records("ports")?,
                domains: records("domains")?,
            },
            lender: Lender::open(Arc::clone(&host), paths.records("devices"), vfio_user)
                .map_err(StartError::Lender)?,
            parked_ports: Mutex::default(),
            events: Events::default(),
            qemu_user,
            emulator: OnceCell::new(),
            machines: OnceLock::new(),
            last_id: AtomicI32::new(0),
            since: Instant::now(),
            _lock: lock,
            host,
            paths,
        });
        daemon
            .take_up()
            .await
            .map_err(in_dir(daemon.paths.run().to_owned()))?;
        Ok(daemon)
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
        let (networks, guests) = (self.networks.all(), self.domains.all());
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

fn lock_root(paths: &Paths) -> Result<File, StartError> {
    let in_run = |source| StartError::Directory {
        path: paths.run().to_owned(),
        source,
    };
    listen::make_open_dir(paths.run()).map_err(in_run)?;
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(paths.lock());
    let lock = lock.map_err(in_run)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => Err(StartError::Locked(paths.run().to_owned())),
        Err(fs::TryLockError::Error(source)) => Err(in_run(source)),
    }
}

/// QEMU's own user, where there is one and we may become it; it may use KVM.
fn qemu_user(options: &Options) -> Result<Option<RunAs>, StartError> {
    if !rustix::process::geteuid().is_root() || options.simulate.is_some() {
        return Ok(None);
    }
    let run_as = |(uid, gid)| RunAs {
        uid,
        gid,
        groups: accounts::group("kvm").into_iter().collect(),
    };
    match &options.qemu_user {
        Some(name) => {
            let ids = accounts::user(name).ok_or_else(|| StartError::NoUser(name.clone()))?;
            Ok(Some(run_as(ids)))
        }
        None => Ok(["libvirt-qemu", "qemu"]
            .into_iter()
            .find_map(accounts::user)
            .map(run_as)),
    }
}
