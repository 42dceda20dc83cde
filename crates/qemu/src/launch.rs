//! Starting a guest.

mod error;
mod placement;
mod start;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use conf::{CharBackend, Domain, HostSource, PciAddress};
use host::{MemoryLock, RunAs};
use rustix::process::Signal;

pub use error::LaunchError;

use crate::guest::Real;
use crate::log::Log;
use crate::process::Process;
use crate::{
    Guest, GuestEvents, GuestRecord, GuestState, Lifecycle, PauseReason, Qmp, QmpError, QmpEvents,
};
use start::{Started, start};

/// From the start of QEMU's process to its monitor's greeting.
const DEADLINE: Duration = Duration::from_secs(60);

/// For a QEMU that closed its monitor to end, too.
const END_DEADLINE: Duration = Duration::from_secs(5);

/// All that a start takes.
#[derive(Debug)]
pub struct LaunchSpec {
    /// The guest, its defaults, aliases, addresses and networks filled in.
    pub domain: Domain,
    /// A directory of the guest's own, for its monitor socket; made if it is not there.
    pub run_dir: PathBuf,
    /// Where QEMU's words go, after those of earlier starts.
    pub log: PathBuf,
    /// Taps of the interfaces that need any, by alias.
    pub taps: BTreeMap<String, TapFds>,
    /// Which PCI function a host device is that its document names otherwise, by alias.
    pub pci_devices: BTreeMap<String, PciAddress>,
    /// Which USB device (bus, device) it is, by alias.
    pub usb_devices: BTreeMap<String, (u32, u32)>,
    /// Who QEMU runs as; `None`: as we do. Files of disks and serial ports are then opened by us
    /// and handed over, so that QEMU needs no right to them.
    pub run_as: Option<RunAs>,
    /// Leave it halted.
    pub paused: bool,
    /// How long QEMU may take until its monitor greets.
    pub deadline: Duration,
}

/// An interface's open taps, one a queue.
#[derive(Debug, Default)]
pub struct TapFds {
    /// Taps or macvtaps.
    pub taps: Vec<OwnedFd>,
    /// `/dev/vhost-net`, as many; none without vhost.
    pub vhosts: Vec<OwnedFd>,
}

/// A guest that was started.
#[derive(Debug)]
pub struct Launched {
    /// The guest.
    pub guest: Guest,
    /// What happens to it from now on.
    pub events: GuestEvents,
    /// Its pseudo-terminals, by the alias of their device; see [`fill_ptys`].
    pub ptys: BTreeMap<String, String>,
}

impl LaunchSpec {
    /// A start with nothing but files: run as we do, and not halted.
    #[must_use]
    pub fn new(domain: Domain, run_dir: PathBuf, log: PathBuf) -> Self {
        Self {
            domain,
            run_dir,
            log,
            taps: BTreeMap::new(),
            pci_devices: BTreeMap::new(),
            usb_devices: BTreeMap::new(),
            run_as: None,
            paused: false,
            deadline: DEADLINE,
        }
    }
}

pub(crate) async fn launch(spec: LaunchSpec) -> Result<Launched, LaunchError> {
    // Opens files and forks: not for the runtime's threads.
    let worker = tokio::task::spawn_blocking(move || {
        let started = start(&spec);
        (spec, started)
    });
    let (spec, started) = worker.await.map_err(|error| LaunchError::Prepare {
        path: PathBuf::from("the start"),
        source: io::Error::other(error),
    })?;
    let Started {
        process,
        connection,
        log,
        monitor,
        boot_id,
    } = started?;

    let unfinished = Unfinished {
        process: Arc::new(process),
        is_kept: false,
    };
    let first_steps = async {
        let (qmp, qmp_events) = greet(&unfinished.process, connection, &log, spec.deadline).await?;
        let pid = unfinished.process.pid();
        placement::pin_vcpus(&qmp, pid, &spec.domain).await?;
        let ptys = set_going(&qmp, &spec)
            .await
            .map_err(|source| LaunchError::Setting { source })?;
        Ok::<_, LaunchError>((qmp, qmp_events, ptys))
    };
    let (qmp, qmp_events, ptys) = match first_steps.await {
        Ok(done) => done,
        Err(error) => {
            unfinished.end().await;
            return Err(error);
        }
    };
    // Nothing is awaited from here on, so a dropped call can't leave a guest that nobody has.
    let process = unfinished.keep();
    let record = GuestRecord {
        name: spec.domain.name.clone(),
        pid: process.pid(),
        start_time: process.start_time(),
        boot_id,
        monitor,
        log: spec.log,
        lifecycle: Lifecycle::of(&spec.domain.lifecycle),
    };
    let state = if spec.paused {
        GuestState::Paused(PauseReason::Starting)
    } else {
        GuestState::Running
    };
    let (real, events) = Real::watch(record, process, qmp, qmp_events, state);
    Ok(Launched {
        guest: Guest::real(real),
        events,
        ptys,
    })
}

/// Waits for QEMU's greeting or its end, whichever comes first.
async fn greet(
    process: &Process,
    connection: UnixStream,
    log: &Log,
    deadline: Duration,
) -> Result<(Qmp, QmpEvents), LaunchError> {
    let refused = |status| LaunchError::Refused {
        status,
        words: log.last_words(),
        log: log.path().to_owned(),
    };
    let stream =
        tokio::net::UnixStream::from_std(connection).map_err(|source| LaunchError::Prepare {
            path: "the monitor".into(),
            source,
        })?;
    let error = tokio::select! {
        greeted = Qmp::greet(stream, deadline) => match greeted {
            Ok(greeted) => return Ok(greeted),
            Err(error) => error,
        },
        status = process.ended() => return Err(refused(status)),
    };
    // A QEMU that refuses closes its monitor a moment before it ends.
    if matches!(error, QmpError::Closed { .. })
        && let Ok(status) = tokio::time::timeout(END_DEADLINE, process.ended()).await
    {
        return Err(refused(status));
    }
    Err(LaunchError::Monitor {
        words: log.last_words(),
        log: log.path().to_owned(),
        source: error,
    })
}

/// What no argument of QEMU's says; then lets it run, if it is to.
async fn set_going(qmp: &Qmp, spec: &LaunchSpec) -> Result<BTreeMap<String, String>, QmpError> {
    let devices = &spec.domain.devices;
    let is_pty = |serial: &conf::CharDevice| matches!(serial.backend, CharBackend::Pty(_));
    let mut ptys = BTreeMap::new();
    if devices.serials.iter().any(is_pty) {
        let found = qmp.character_devices().await?;
        ptys = found
            .iter()
            .filter_map(|device| device.pty())
            .map(|(alias, path)| (alias.to_owned(), path.to_owned()))
            .collect();
    }
    for interface in &devices.interfaces {
        if let (Some(false), Some(alias)) = (interface.link_up, &interface.info.alias)
            && !interface.is_hostdev()
        {
            qmp.set_link(alias, false).await?;
        }
    }
    let balloon = devices.memballoon.as_ref();
    let (now, most) = (spec.domain.current_memory_kib, spec.domain.memory_kib);
    if now < most && balloon.is_some_and(|balloon| balloon.model != "none") {
        qmp.set_balloon(now.saturating_mul(1024)).await?;
    }
    if !spec.paused {
        qmp.cont().await?;
    }
    Ok(ptys)
}

/// The socket of a channel whose document names none: in the guest's own directory.
#[must_use]
pub fn channel_path(run_dir: &Path, alias: &str) -> PathBuf {
    run_dir.join(format!("{alias}.sock"))
}

/// How much memory the guest's QEMU must be allowed to lock; `None`: no more than any process.
///
/// A device that is given to the guest reaches all of the guest's memory, so all of it is locked;
/// a GiB more is for the device's own.
#[must_use]
pub fn memory_lock(domain: &Domain) -> Option<MemoryLock> {
    const OWN: u64 = 1 << 30;
    let bytes = |kib: u64| kib.saturating_mul(1024);
    if let Some(limit) = domain.memory_hard_limit_kib {
        return Some(MemoryLock::AtLeast(bytes(limit)));
    }
    let devices = &domain.devices;
    let has_vfio = devices.interfaces.iter().any(conf::Interface::is_hostdev)
        || devices
            .hostdevs
            .iter()
            .any(|hostdev| !matches!(hostdev.source, HostSource::Usb(_)));
    has_vfio.then(|| MemoryLock::AtLeast(bytes(domain.memory_kib).saturating_add(OWN)))
}

/// Writes the paths of a guest's pseudo-terminals into its live document: serial ports, and the
/// consoles that repeat them.
pub fn fill_ptys(domain: &mut Domain, ptys: &BTreeMap<String, String>) {
    let devices = &mut domain.devices;
    for device in devices.serials.iter_mut().chain(&mut devices.consoles) {
        let path = device.info.alias.as_ref().and_then(|alias| ptys.get(alias));
        if let (CharBackend::Pty(place), Some(path)) = (&mut device.backend, path) {
            *place = Some(path.clone());
        }
    }
}

/// A process that ends unless it is kept, also when the call that started it is dropped.
struct Unfinished {
    process: Arc<Process>,
    is_kept: bool,
}

impl Unfinished {
    fn keep(mut self) -> Arc<Process> {
        self.is_kept = true;
        Arc::clone(&self.process)
    }

    async fn end(self) {
        let process = Arc::clone(&self.process);
        drop(self);
        process.ended().await;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        if let Err(error) = self.process.signal(Signal::KILL) {
            tracing::error!(pid = self.process.pid(), %error, "ending an unfinished start");
        }
        // Someone has to collect it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let process = Arc::clone(&self.process);
            runtime.spawn(async move { process.ended().await });
        }
    }
}
