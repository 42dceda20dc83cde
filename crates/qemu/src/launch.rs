//! Starting a guest.

mod error;
mod files;
mod placement;
mod start;
mod unfinished;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use conf::{CharBackend, DeviceInfo, Domain, HostSource, PciAddress};
use host::{GuestGroup, MemoryLock, RunAs};
use rustix::process::Signal;

pub use error::LaunchError;
pub use files::open_disk;

use crate::guest::Life;
use crate::log::Log;
use crate::output::Output;
use crate::process::Process;
use crate::qmp::QmpEvents;
use crate::{
    ExitStatus, Guest, GuestEvents, GuestRecord, GuestState, Lifecycle, PauseReason, Qmp, QmpError,
    Scopes, SimulatedGuests,
};
use start::{Begun, Starting};
use unfinished::Unfinished;

/// From the start of QEMU's process to its monitor's greeting.
const DEADLINE: Duration = Duration::from_secs(60);

/// For a QEMU that closed its monitor to end, too.
const END_DEADLINE: Duration = Duration::from_secs(5);

/// For a QEMU that was killed to be gone. Giving back a device takes the kernel its time.
const KILL_DEADLINE: Duration = Duration::from_secs(30);

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
    /// Aliases of interfaces and host devices that are not plugged in yet, though they are the
    /// guest's: see [`Resources::withheld`](crate::Resources::withheld).
    pub withheld: BTreeSet<String>,
    /// Who QEMU runs as; `None`: as we do. Files of disks and serial ports are then opened by us
    /// and handed over, so that QEMU needs no right to them.
    pub run_as: Option<RunAs>,
    /// The group by which it opens what is lent to this guest, besides those of `run_as`; it counts only
    /// where that is set.
    pub own_group: Option<GuestGroup>,
    /// Where QEMU's process goes; `None`: it stays in our control group. Simulated guests have none.
    pub scopes: Option<Scopes>,
    /// Leave it halted.
    pub paused: bool,
    /// It is to come in from another host: see
    /// [`Guest::listen_for_migration`](crate::Guest::listen_for_migration). It is halted until then, and when
    /// it is here.
    pub incoming: bool,
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
            withheld: BTreeSet::new(),
            run_as: None,
            own_group: None,
            scopes: None,
            paused: false,
            incoming: false,
            deadline: DEADLINE,
        }
    }
}

/// Starts a guest: QEMU's or, of these, a simulated one.
pub(crate) async fn launch(
    spec: LaunchSpec,
    simulated: Option<SimulatedGuests>,
    given_up: impl Future<Output = ()>,
) -> Result<Launched, LaunchError> {
    let mut given_up = pin!(given_up);
    let mut starting = Starting::new(spec, simulated)?;
    let mut is_given_up = false;
    let begun = tokio::select! {
        begun = starting.begun() => begun,
        () = &mut given_up => {
            if starting.withdraw() {
                return Err(LaunchError::GivenUp);
            }
            // It can only be the fork that it waits for.
            is_given_up = true;
            starting.begun().await
        }
    };
    let (spec, begun) = begun?;
    let Begun {
        unfinished,
        leash,
        output,
        monitor,
        boot_id,
    } = begun;
    let process = unfinished.watch();
    let process = Arc::new(process.map_err(|source| LaunchError::Prepare {
        path: monitor.clone(),
        source,
    })?);
    let (pipe, output) = match output {
        Some((path, reader, log)) => (Some(path), follow(reader, log)),
        None => (None, None),
    };
    let first_steps = async {
        let greeted = greet(&process, &monitor, spec.deadline);
        let ((qmp, qmp_events), ()) = tokio::try_join!(greeted, move_out(&process, &spec))?;
        placement::pin_vcpus(&qmp, process.pid(), &spec.domain).await?;
        let ptys = set_going(&qmp, &spec)
            .await
            .map_err(|source| LaunchError::Setting { source })?;
        Ok::<_, Failure>(((qmp, qmp_events), ptys))
    };
    let done = tokio::select! {
        biased;
        () = given_up, if !is_given_up => Err(Failure::Other(LaunchError::GivenUp)),
        () = std::future::ready(()), if is_given_up => Err(Failure::Other(LaunchError::GivenUp)),
        done = first_steps => done,
    };
    let (monitor_of_it, ptys) = match done {
        Ok(done) => done,
        Err(failure) => return Err(end(&process, unfinished, output, failure, spec.log).await),
    };
    // Nothing is awaited from here on, so a dropped call can't leave a guest that nobody has.
    unfinished.keep();
    let record = GuestRecord {
        name: spec.domain.name.clone(),
        pid: process.pid(),
        start_time: process.start_time(),
        boot_id,
        monitor,
        log: spec.log,
        output: pipe,
        own_group: spec.own_group,
        lifecycle: Lifecycle::of(&spec.domain.lifecycle),
    };
    let state = match spec {
        LaunchSpec { incoming: true, .. } => GuestState::Paused(PauseReason::Migration),
        LaunchSpec { paused: true, .. } => GuestState::Paused(PauseReason::Starting),
        _ => GuestState::Running,
    };
    let (life, events) = Life::watch(record, process, output, monitor_of_it, state);
    life.have_leash(leash);
    Ok(Launched {
        guest: Guest::of(life),
        events,
        ptys,
    })
}

/// What went wrong with a process that was started, before it is known what it said.
enum Failure {
    /// It ended.
    Ended(Option<ExitStatus>),
    /// It can't be controlled.
    Monitor(QmpError),
    Other(LaunchError),
}

impl From<LaunchError> for Failure {
    fn from(error: LaunchError) -> Self {
        Self::Other(error)
    }
}

impl Failure {
    fn with(self, words: String, log: PathBuf) -> LaunchError {
        match self {
            Self::Ended(status) => LaunchError::Refused { status, words, log },
            Self::Monitor(source) => LaunchError::Monitor { words, log, source },
            Self::Other(error) => error,
        }
    }
}

/// A guest whose words can't be followed runs nevertheless.
fn follow(reader: OwnedFd, log: Log) -> Option<Output> {
    let output = Output::follow(reader, log);
    output
        .inspect_err(|error| tracing::warn!(%error, "what a guest prints goes unread"))
        .ok()
}

/// Ends a process that was started in vain, and waits until it is gone; why the start failed, with
/// its last words.
async fn end(
    process: &Process,
    unfinished: Unfinished,
    output: Option<Output>,
    failure: Failure,
    log: PathBuf,
) -> LaunchError {
    if let Err(error) = process.signal(Signal::KILL) {
        tracing::error!(pid = process.pid(), %error, "ending an unfinished start");
    }
    let is_gone = tokio::time::timeout(KILL_DEADLINE, process.ended())
        .await
        .is_ok();
    drop(unfinished);
    let words = match (process, output) {
        (_, Some(output)) if is_gone => output.finish().await,
        (Process::Simulated(machine), _) => machine.last_words(),
        (Process::Qemu(_), _) => String::new(),
    };
    let error = failure.with(words, log);
    if is_gone {
        return error;
    }
    LaunchError::StillThere {
        pid: process.pid(),
        within: KILL_DEADLINE,
        source: Box::new(error),
    }
}

/// Moves QEMU out of our control group, beside its own first steps. What it was given of memory
/// before counts as ours for as long as it has it, so this is to begin as early as can be.
async fn move_out(process: &Process, spec: &LaunchSpec) -> Result<(), Failure> {
    if let (Process::Qemu(_), Some(scopes)) = (process, &spec.scopes) {
        let domain = &spec.domain;
        let moved = scopes.move_guest(&domain.name, domain.uuid, process.pid());
        moved.await;
    }
    Ok(())
}

/// Waits for QEMU's greeting or its end, whichever comes first.
async fn greet(
    process: &Process,
    monitor: &Path,
    deadline: Duration,
) -> Result<(Qmp, QmpEvents), Failure> {
    // It listens already, so nobody has to wait for QEMU to make it.
    let wire = match process.connect(monitor) {
        Ok(wire) => wire,
        Err(source) => {
            // A process that ends listens no more.
            let ended = tokio::time::timeout(END_DEADLINE, process.ended()).await;
            return Err(match ended {
                Ok(status) => Failure::Ended(status),
                Err(_) => Failure::Monitor(QmpError::Connect {
                    path: monitor.display().to_string(),
                    source,
                }),
            });
        }
    };
    let error = tokio::select! {
        greeted = Qmp::greet(wire, deadline) => match greeted {
            Ok(greeted) => return Ok(greeted),
            Err(error) => error,
        },
        status = process.ended() => return Err(Failure::Ended(status)),
    };
    // A QEMU that refuses closes its monitor a moment before it ends.
    if matches!(error, QmpError::Closed { .. })
        && let Ok(status) = tokio::time::timeout(END_DEADLINE, process.ended()).await
    {
        return Err(Failure::Ended(status));
    }
    Err(Failure::Monitor(error))
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
            && !spec.withheld.contains(alias)
        {
            qmp.set_link(alias, false).await?;
        }
    }
    let balloon = devices.memballoon.as_ref();
    let (now, most) = (spec.domain.current_memory_kib, spec.domain.memory_kib);
    // One that comes in brings what its balloon has.
    let has_balloon = balloon.is_some_and(|balloon| balloon.model != "none") && !spec.incoming;
    if now < most && has_balloon {
        qmp.set_balloon(now.saturating_mul(1024)).await?;
    }
    if !spec.paused && !spec.incoming {
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
    memory_lock_without(domain, &BTreeSet::new())
}

/// As [`memory_lock`], of a guest that is started without these of its devices.
fn memory_lock_without(domain: &Domain, withheld: &BTreeSet<String>) -> Option<MemoryLock> {
    let is_there = |info: &DeviceInfo| {
        let alias = info.alias.as_ref();
        !alias.is_some_and(|alias| withheld.contains(alias))
    };
    let devices = &domain.devices;
    let mut interfaces = devices.interfaces.iter();
    let mut hostdevs = devices.hostdevs.iter();
    let has_vfio = interfaces.any(|interface| interface.is_hostdev() && is_there(&interface.info))
        || hostdevs.any(|hostdev| {
            !matches!(hostdev.source, HostSource::Usb(_)) && is_there(&hostdev.info)
        });
    let is_limited = domain.memory_hard_limit_kib.is_some();
    (has_vfio || is_limited).then(|| memory_lock_with_device(domain))
}

/// As [`memory_lock`], of a guest that has a PCI device of the host's, or is about to get one.
pub(crate) fn memory_lock_with_device(domain: &Domain) -> MemoryLock {
    const OWN: u64 = 1 << 30;
    let bytes = |kib: u64| kib.saturating_mul(1024);
    MemoryLock::AtLeast(match domain.memory_hard_limit_kib {
        Some(limit) => bytes(limit),
        None => bytes(domain.memory_kib).saturating_add(OWN),
    })
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
