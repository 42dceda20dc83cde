//! The start itself: what blocks, up to the fork.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use host::{GuestGroup, Leash, RunAs, Spawn, SpawnStep, Spawned};
use tokio::sync::oneshot;

use super::unfinished::{Started, Unfinished};
use super::{
    LaunchError, LaunchSpec, channel_path, files, memory_lock_with_device, memory_lock_without,
    placement,
};
use crate::log::Log;
use crate::output::{Pipe, make_pipe};
use crate::record::boot_id;
use crate::run_dir::RunDir;
use crate::simulated::{SimulatedGuests, Start};
use crate::{CommandLine, Resources, Taps, command_line, netdev_id, socket, stray};

/// A process that runs, and has not greeted.
pub(super) struct Begun {
    pub(super) unfinished: Unfinished,
    /// Of one that comes in from another host.
    pub(super) leash: Option<Leash>,
    /// Our end of its pipe, and where that leads.
    pub(super) output: Option<(PathBuf, OwnedFd, Log)>,
    pub(super) monitor: PathBuf,
    pub(super) boot_id: String,
}

/// A start on a thread of its own: the kernel may keep it waiting for a disk, and neither whoever
/// gives the start up nor the runtime's end waits along.
///
/// When this is dropped nothing is started any more, or it is ended.
pub(super) struct Starting {
    gate: Arc<Gate>,
    begun: oneshot::Receiver<Result<(LaunchSpec, Begun), LaunchError>>,
}

impl Starting {
    /// Begins to do all that is done before QEMU runs, and to start it.
    pub(super) fn new(
        spec: LaunchSpec,
        simulated: Option<SimulatedGuests>,
    ) -> Result<Self, LaunchError> {
        let gate = Arc::<Gate>::default();
        let its_gate = Arc::clone(&gate);
        let (sender, begun) = oneshot::channel();
        let work = move || {
            let begun = match simulated {
                Some(guests) => begin_simulated(&guests, &spec, &its_gate),
                None => begin_qemu(&spec, &its_gate),
            };
            // Whoever waited may be gone, and what was begun goes with this.
            drop(sender.send(begun.map(|begun| (spec, begun))));
        };
        std::thread::Builder::new()
            .name("guest-start".to_owned())
            .spawn(work)
            .map_err(failed(Path::new("the start")))?;
        Ok(Self { gate, begun })
    }

    /// Waits until the process runs.
    pub(super) async fn begun(&mut self) -> Result<(LaunchSpec, Begun), LaunchError> {
        let begun = (&mut self.begun).await;
        let broken_off = |_| failed(Path::new("the start"))(io::Error::other("it broke off"));
        begun.map_err(broken_off)?
    }

    /// Gives it up; `true`: there is no process, and none will come. Otherwise there is one, or
    /// soon will be.
    pub(super) fn withdraw(&self) -> bool {
        self.gate.close()
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        self.withdraw();
    }
}

/// Between what a start waits for and what it does.
#[derive(Debug, Default)]
struct Gate(AtomicU8);

impl Gate {
    const OPEN: u8 = 0;
    const PASSED: u8 = 1;
    const CLOSED: u8 = 2;

    /// Whether the start may make a process.
    fn pass(&self) -> Result<(), LaunchError> {
        self.change(Self::PASSED)
            .then_some(())
            .ok_or(LaunchError::GivenUp)
    }

    /// Whether the start had not passed, and now can't.
    fn close(&self) -> bool {
        self.change(Self::CLOSED)
    }

    fn change(&self, to: u8) -> bool {
        let order = Ordering::SeqCst;
        let before = self.0.compare_exchange(Self::OPEN, to, order, order);
        before.is_ok() || before == Err(to)
    }
}

fn begin_qemu(spec: &LaunchSpec, gate: &Gate) -> Result<Begun, LaunchError> {
    let mut resources = resources(spec);
    let mut inherited: Vec<OwnedFd> = Vec::new();
    // First of all, since this may take its time.
    files::open_files(
        &spec.domain,
        spec.run_as.is_some(),
        &mut resources,
        &mut inherited,
    )?;
    let run_dir = RunDir::make(&spec.run_dir).map_err(failed(&spec.run_dir))?;
    let boot_id = boot_id().map_err(failed(Path::new("/proc")))?;
    let monitor = monitor_path(spec);
    let listener = socket::listen(&monitor).map_err(failed(&monitor))?;
    resources.monitor = listener.as_raw_fd();
    inherited.push(listener.into());
    open_channels(spec, &mut resources, &mut inherited)?;
    for (alias, fds) in &spec.taps {
        let mut taps = Taps::default();
        for (from, to) in [(&fds.taps, &mut taps.taps), (&fds.vhosts, &mut taps.vhosts)] {
            for fd in from {
                let copy = fd.try_clone().map_err(failed(Path::new("a tap")))?;
                to.push(copy.as_raw_fd());
                inherited.push(copy);
            }
        }
        resources.taps.insert(alias.clone(), taps);
    }

    let leash = match spec.incoming {
        true => Some(Leash::new().map_err(failed(&spec.run_dir))?),
        false => None,
    };
    if let Some(leash) = &leash {
        let end = leash.end_for_process();
        inherited.push(end.map_err(failed(&spec.run_dir))?);
    }
    let command = command_line(&spec.domain, &resources)?;
    let mut log = Log::open(&spec.log).map_err(failed(&spec.log))?;
    log.begin(&command).map_err(failed(&spec.log))?;
    let path = spec.run_dir.join("output");
    let Pipe { reader, writer } = make_pipe(&path).map_err(failed(&path))?;
    gate.pass()?;
    let spawned = spawn(spec, command, writer, inherited)?;
    Ok(Begun {
        unfinished: Unfinished::new(Started::Qemu(spawned), run_dir),
        leash,
        output: Some((path, reader, log)),
        monitor,
        boot_id,
    })
}

/// The same for a guest that is simulated: its document has to have a command line, and that is
/// what the guest is made of. Its files need not be there.
fn begin_simulated(
    guests: &SimulatedGuests,
    spec: &LaunchSpec,
    gate: &Gate,
) -> Result<Begun, LaunchError> {
    let mut resources = resources(spec);
    for device in &spec.domain.devices.others {
        if let (Some(_), Some(alias)) = (device.unix_channel(), &device.info.alias) {
            resources.channels.insert(alias.clone(), 0);
        }
    }
    for (alias, fds) in &spec.taps {
        let numbers = |fds: &[OwnedFd]| fds.iter().map(AsRawFd::as_raw_fd).collect();
        let taps = Taps {
            taps: numbers(&fds.taps),
            vhosts: numbers(&fds.vhosts),
        };
        resources.taps.insert(alias.clone(), taps);
    }
    let command = command_line(&spec.domain, &resources)?;
    let run_dir = RunDir::make(&spec.run_dir).map_err(failed(&spec.run_dir))?;
    // As QEMU does: a tap lasts as long as somebody has it open.
    let copies = |fds: &[OwnedFd]| fds.iter().map(OwnedFd::try_clone).collect();
    let taps = spec.taps.iter().map(|(alias, fds)| {
        let copies: io::Result<Vec<_>> = copies(&fds.taps);
        Ok((netdev_id(alias), copies?))
    });
    let taps: io::Result<_> = taps.collect();
    let taps = taps.map_err(failed(&spec.run_dir))?;
    gate.pass()?;
    let machine = guests.start(Start {
        uuid: spec.domain.uuid,
        own_group: spec.own_group,
        command,
        taps,
        memory_lock: memory_lock_without(&spec.domain, &spec.withheld),
        memory: memory_lock_with_device(&spec.domain),
    });
    Ok(Begun {
        unfinished: Unfinished::new(Started::Simulated(machine), run_dir),
        leash: None,
        output: None,
        monitor: monitor_path(spec),
        boot_id: guests.boot_id().to_owned(),
    })
}

fn failed(path: &Path) -> impl Fn(io::Error) -> LaunchError {
    let path = path.to_owned();
    move |source| LaunchError::Prepare {
        path: path.clone(),
        source,
    }
}

fn monitor_path(spec: &LaunchSpec) -> PathBuf {
    spec.run_dir.join("monitor.sock")
}

fn resources(spec: &LaunchSpec) -> Resources {
    Resources {
        pci_devices: spec.pci_devices.clone(),
        usb_devices: spec.usb_devices.clone(),
        withheld: spec.withheld.clone(),
        incoming: spec.incoming,
        ..Resources::default()
    }
}

fn spawn(
    spec: &LaunchSpec,
    command: CommandLine,
    output: OwnedFd,
    inherited: Vec<OwnedFd>,
) -> Result<Spawned, LaunchError> {
    let program = command.program.clone();
    let spawn = Spawn {
        program: command.program,
        args: command.args.into_iter().map(OsString::from).collect(),
        environment: vec![
            // QEMU's words are shown to people and read by programs.
            ("LC_ALL".into(), "C".into()),
            ("PATH".into(), "/usr/sbin:/usr/bin:/sbin:/bin".into()),
            (stray::MARK.into(), stray::mark(&spec.run_dir)),
        ],
        output,
        inherited,
        memory_lock: memory_lock_without(&spec.domain, &spec.withheld),
        cpus: placement::emulator_cpus(&spec.domain),
        memory_policy: placement::memory_policy(&spec.domain),
        run_as: identity(spec),
    };
    match spawn.spawn() {
        Ok(spawned) => Ok(spawned),
        Err(error)
            if error.step == SpawnStep::Execute
                && error.source.kind() == io::ErrorKind::NotFound =>
        {
            Err(LaunchError::NoEmulator { program })
        }
        Err(error) => Err(error.into()),
    }
}

/// Who it runs as, with the group that it alone has.
fn identity(spec: &LaunchSpec) -> Option<RunAs> {
    let mut identity = spec.run_as.clone()?;
    let own = spec.own_group.map(GuestGroup::gid);
    identity.groups.extend(own);
    Some(identity)
}

/// Listens for those who talk with the guest by a channel; QEMU takes over.
fn open_channels(
    spec: &LaunchSpec,
    resources: &mut Resources,
    inherited: &mut Vec<OwnedFd>,
) -> Result<(), LaunchError> {
    for device in &spec.domain.devices.others {
        let (Some(channel), Some(alias)) = (device.unix_channel(), &device.info.alias) else {
            continue;
        };
        let path = match channel.path {
            Some(path) => PathBuf::from(path),
            None => channel_path(&spec.run_dir, alias),
        };
        let listener =
            socket::listen(&path).map_err(|source| LaunchError::Prepare { path, source })?;
        resources
            .channels
            .insert(alias.clone(), listener.as_raw_fd());
        inherited.push(listener.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_own_group_comes_beside_those_that_all_have() {
        let xml = "<domain type='kvm'><name>g</name><memory>65536</memory>\
                   <os><type machine='q35'>hvm</type></os></domain>";
        let domain = conf::Domain::parse(xml).unwrap();
        let mut spec = LaunchSpec::new(domain, "run".into(), "log".into());
        let group = GuestGroup::draw();
        spec.own_group = Some(group);
        assert_eq!(identity(&spec), None, "it runs as we do");
        spec.run_as = Some(RunAs {
            uid: 107,
            gid: 108,
            groups: vec![36],
        });
        let groups = |spec: &LaunchSpec| identity(spec).unwrap().groups;
        assert_eq!(groups(&spec), [36, group.gid()]);
        spec.own_group = None;
        assert_eq!(groups(&spec), [36]);
    }
}
