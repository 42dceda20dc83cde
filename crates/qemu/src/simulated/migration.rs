//! The migration of a simulated guest: over a real socket, so that hosts of one test, or of two processes,
//! send guests to each other.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

use super::machine::Machine;
use super::{Refusal, lock};
use crate::RunState;

/// More than what is sent of any guest, bytes.
const LONGEST: u64 = 1 << 20;
/// The memory that a guest claims to have.
const MEMORY: u64 = 128 << 20;
const PAGE: u64 = 4096;

/// How far a machine's migration is.
#[derive(Debug, Default)]
pub(super) struct Migration {
    /// QEMU's word; empty: there was none.
    status: &'static str,
    error: Option<String>,
    began: Option<Instant>,
    halted: Option<Instant>,
    downtime: Duration,
    total: Duration,
    is_cancelled: bool,
    bandwidth: u64,
    /// Has somebody set `multifd`: both sides have to.
    multifd: bool,
    /// How often its cards told the network where it is.
    pub(super) announced: u32,
}

/// What is sent of a guest.
#[derive(Debug, Serialize, Deserialize)]
struct Sent {
    /// Of each device that both have to have: driver, bus, place.
    devices: Vec<(String, String, String)>,
    /// Standbys whose driver has negotiated failover.
    negotiated: Vec<String>,
    multifd: bool,
    /// What the guest has counted, so that a test can tell that it is the same one.
    memory: Value,
}

/// Where migrations go to, and come from.
enum Place {
    Tcp(String),
    Unix(PathBuf),
}

impl Place {
    fn read(uri: &str) -> Result<Self, Refusal> {
        match uri.split_once(':') {
            Some(("tcp", address)) => Ok(Self::Tcp(address.to_owned())),
            Some(("unix", path)) => Ok(Self::Unix(path.into())),
            _ => Err(refused(format!("unknown migration protocol: {uri}"))),
        }
    }
}

enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Listening {
    fn bind(place: &Place) -> io::Result<Self> {
        match place {
            Place::Tcp(address) => {
                let _runtime = beside().enter();
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener).map(Self::Tcp)
            }
            Place::Unix(path) => {
                let _ = std::fs::remove_file(path);
                let _runtime = beside().enter();
                UnixListener::bind(path).map(Self::Unix)
            }
        }
    }

    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

async fn connect(place: &Place) -> io::Result<Box<dyn Stream>> {
    Ok(match place {
        Place::Tcp(address) => Box::new(TcpStream::connect(address).await?),
        Place::Unix(path) => Box::new(UnixStream::connect(path).await?),
    })
}

/// Where what a process does by itself goes on, whoever talks with it.
fn beside() -> &'static Runtime {
    static BESIDE: OnceLock<Runtime> = OnceLock::new();
    BESIDE.get_or_init(|| {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        #[expect(
            clippy::expect_used,
            reason = "without threads there are no simulated guests"
        )]
        runtime.expect("a thread for simulated guests")
    })
}

fn refused(text: String) -> Refusal {
    ("GenericError", text)
}

impl Machine {
    /// `migrate-set-capabilities`.
    pub(super) fn set_capabilities(&self, arguments: &Value) {
        let wanted = arguments["capabilities"].as_array();
        for wanted in wanted.into_iter().flatten() {
            if wanted["capability"] == "multifd" {
                lock(&self.state).migration.multifd = wanted["state"] == true;
            }
        }
    }

    /// `migrate-set-parameters`.
    pub(super) fn set_parameters(&self, arguments: &Value) {
        if let Some(bandwidth) = arguments["max-bandwidth"].as_u64() {
            lock(&self.state).migration.bandwidth = bandwidth;
        }
    }

    pub(super) fn migration_bandwidth(&self) -> u64 {
        lock(&self.state).migration.bandwidth
    }

    /// `query-migrate`.
    pub(super) fn migration(&self) -> Value {
        let state = lock(&self.state);
        let migration = &state.migration;
        let blocked = state.blocks_migration();
        let mut info = json!({});
        if let Some(device) = blocked {
            let text = format!("{device}: VFIO migration is not supported in kernel");
            info["blocked-reasons"] = json!([text]);
        }
        if migration.status.is_empty() {
            return info;
        }
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let now = migration
            .began
            .map_or(migration.total, |began| began.elapsed());
        let left = match migration.status {
            "completed" => 0,
            _ => MEMORY / 2,
        };
        info["status"] = migration.status.into();
        info["total-time"] = millis(now).into();
        info["setup-time"] = 1.into();
        info["downtime"] = millis(migration.downtime).into();
        info["expected-downtime"] = 300.into();
        info["ram"] = json!({
            "total": MEMORY, "remaining": left, "transferred": MEMORY - left, "mbps": 800.0,
            "page-size": PAGE, "dirty-sync-count": 2, "duplicate": 0, "normal": (MEMORY - left) / PAGE,
            "normal-bytes": MEMORY - left, "dirty-pages-rate": 0,
        });
        if let Some(error) = &migration.error {
            info["error-desc"] = error.clone().into();
        }
        info
    }

    fn migration_is(&self, status: &'static str) {
        {
            let mut state = lock(&self.state);
            let migration = &mut state.migration;
            migration.status = status;
            if status == "setup" {
                (migration.began, migration.error) = (Some(Instant::now()), None);
            }
            if matches!(status, "completed" | "failed" | "cancelled") {
                let began = migration.began.take();
                migration.total = began.map_or(Duration::ZERO, |began| began.elapsed());
                let halted = migration.halted.take();
                migration.downtime = halted.map_or(Duration::ZERO, |halted| halted.elapsed());
            }
        }
        self.say("MIGRATION", json!({ "status": status }));
    }

    /// `migrate`.
    pub(super) fn migrate(self: &Arc<Self>, uri: &str) -> Result<(), Refusal> {
        let place = Place::read(uri)?;
        {
            let mut state = lock(&self.state);
            if let Some(device) = state.blocks_migration() {
                let text = format!("{device}: VFIO migration is not supported in kernel");
                return Err(refused(text));
            }
            if state.migration.began.is_some() {
                let text = "There's a migration process in progress";
                return Err(refused(text.to_owned()));
            }
            if state.status == RunState::InMigrate {
                return Err(refused(
                    "Guest is waiting for an incoming migration".to_owned(),
                ));
            }
            state.migration.is_cancelled = false;
        }
        self.migration_is("setup");
        let machine = Arc::clone(self);
        beside().spawn(async move {
            tokio::select! {
                _ = machine.ended() => {}
                () = machine.send(&place) => {}
            }
        });
        Ok(())
    }

    /// `migrate_cancel`.
    pub(super) fn cancel_migration(&self) {
        let is_under_way = {
            let state = lock(&self.state);
            state.migration.began.is_some() && state.migration.halted.is_none()
        };
        if is_under_way {
            self.migration_is("cancelling");
            // It is told to have ended only after that.
            lock(&self.state).migration.is_cancelled = true;
            self.wake();
        }
    }

    fn is_cancelled(&self) -> bool {
        lock(&self.state).migration.is_cancelled
    }

    /// Waits until the migration is cancelled, and as long as that takes.
    async fn cancelled(&self) {
        let mut changes = self.changes();
        while !self.is_cancelled() {
            // The sender is the machine's.
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
        tokio::time::sleep(self.faults().cancel_takes).await;
    }

    async fn send(self: &Arc<Self>, place: &Place) {
        let outcome = tokio::select! {
            biased;
            () = self.cancelled() => Err(None),
            sent = self.send_memory(place) => sent.map_err(Some),
        };
        let stream = match outcome {
            Ok(stream) => stream,
            Err(None) => return self.migration_is("cancelled"),
            Err(Some(text)) => return self.migration_failed(text),
        };
        // From here on nobody can end it.
        let was_running = {
            let mut state = lock(&self.state);
            if state.migration.is_cancelled {
                drop(state);
                return self.migration_is("cancelled");
            }
            state.migration.halted = Some(Instant::now());
            state.status == RunState::Running
        };
        if was_running {
            self.halt(RunState::FinishMigrate);
        }
        self.migration_is("device");
        match self.send_rest(stream).await {
            Ok(()) => {
                lock(&self.state).status = RunState::PostMigrate;
                self.migration_is("completed");
            }
            Err(error) => {
                if was_running {
                    self.run();
                }
                self.migration_failed(error.to_string());
            }
        }
    }

    fn migration_failed(&self, text: String) {
        self.migration_is("failed");
        lock(&self.state).migration.error = Some(text);
    }

    /// Connects, and stays as long as its faults have it.
    async fn send_memory(&self, place: &Place) -> Result<Box<dyn Stream>, String> {
        let stream = connect(place).await;
        let mut stream = stream.map_err(|error| format!("Failed to connect: {error}"))?;
        // The destination knows by that that it has begun.
        let begun = stream.write_all(b"\n").await;
        begun.map_err(|error| error.to_string())?;
        self.migration_is("active");
        self.say("MIGRATION_PASS", json!({ "pass": 1 }));
        let mut rest = [0; 1];
        tokio::select! {
            () = self.has_sent_memory() => {}
            // The destination sends nothing: it is gone.
            _ = stream.read(&mut rest) => return Err("Unable to write to socket: Broken pipe".to_owned()),
        }
        if self.faults().migration_fails {
            return Err("the migration fails, as a fault has it".to_owned());
        }
        self.say("MIGRATION_PASS", json!({ "pass": 2 }));
        Ok(stream)
    }

    async fn send_rest(&self, mut stream: Box<dyn Stream>) -> io::Result<()> {
        let mut text = {
            let state = lock(&self.state);
            let sent = Sent {
                devices: state.migrated_devices(),
                negotiated: state.negotiated(),
                multifd: state.migration.multifd,
                memory: state.memory.clone(),
            };
            serde_json::to_string(&sent)?
        };
        text.push('\n');
        stream.write_all(text.as_bytes()).await?;
        let mut answer = [0; 1];
        stream.read_exact(&mut answer).await?;
        Ok(())
    }

    /// `migrate-incoming`.
    pub(super) fn listen_for_migration(self: &Arc<Self>, uri: &str) -> Result<(), Refusal> {
        let place = Place::read(uri)?;
        if lock(&self.state).status != RunState::InMigrate {
            let text = "'-incoming' was not specified on the command line";
            return Err(refused(text.to_owned()));
        }
        let listening = Listening::bind(&place);
        let listening = listening.map_err(|error| {
            let text = format!("Failed to find an available port: {error}");
            refused(text)
        })?;
        self.migration_is("setup");
        let machine = Arc::clone(self);
        beside().spawn(async move {
            let received = tokio::select! {
                _ = machine.ended() => return,
                received = machine.receive(listening) => received,
            };
            if let Err(error) = received {
                machine.migration_failed(error.to_string());
                // As QEMU does by default.
                machine.end(crate::ExitStatus::Code(1));
            }
        });
        Ok(())
    }

    async fn receive(self: &Arc<Self>, listening: Listening) -> io::Result<()> {
        let stream = listening.accept().await?;
        drop(listening);
        let (from, mut to) = tokio::io::split(stream);
        let mut from = BufReader::new(from).take(LONGEST);
        let mut line = String::new();
        from.read_line(&mut line).await?;
        self.migration_is("active");
        line.clear();
        from.read_line(&mut line).await?;
        let sent: Sent = serde_json::from_str(&line)?;
        self.load_takes_its_time().await;
        let broken = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text);
        if self.faults().load_fails {
            return Err(broken("load of migration failed, as a fault has it"));
        }
        {
            let mut state = lock(&self.state);
            if state.migrated_devices() != sent.devices || state.migration.multifd != sent.multifd {
                return Err(broken("load of migration failed: Invalid argument"));
            }
            state.memory = sent.memory;
        }
        for standby in &sent.negotiated {
            self.negotiate(standby);
        }
        lock(&self.state).status = RunState::Paused;
        self.migration_is("completed");
        // Who does not wait for it is gone, and has sent all.
        let _ = to.write_all(b"1").await;
        Ok(())
    }

    /// Waits while a fault has the memory change faster than it is sent.
    async fn has_sent_memory(&self) {
        self.faults_are(|faults| !faults.migration_stays).await;
    }

    async fn load_takes_its_time(&self) {
        self.faults_are(|faults| !faults.load_stays).await;
    }
}
