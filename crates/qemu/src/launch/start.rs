//! The start itself: what blocks, up to the fork.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use conf::{CharBackend, Disk, DiskSource, Domain};
use host::{Spawn, SpawnStep};
use rustix::fs::OFlags;

use super::{LaunchError, LaunchSpec, channel_path, memory_lock, placement};
use crate::log::Log;
use crate::process::Process;
use crate::record::boot_id;
use crate::{CommandLine, Resources, Taps, command_line, socket};

/// A process that is connected to, and not yet greeted.
pub(super) struct Started {
    pub(super) process: Process,
    pub(super) connection: UnixStream,
    pub(super) log: Log,
    pub(super) monitor: PathBuf,
    pub(super) boot_id: String,
}

/// All that is done before QEMU runs, and QEMU's start.
pub(super) fn start(spec: &LaunchSpec) -> Result<Started, LaunchError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| LaunchError::Prepare { path, source }
    };
    let boot_id = boot_id().map_err(failed(Path::new("/proc")))?;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&spec.run_dir)
        .map_err(failed(&spec.run_dir))?;
    let monitor = spec.run_dir.join("monitor.sock");
    let listener = socket::listen(&monitor).map_err(failed(&monitor))?;
    // It listens already, so nobody has to wait for QEMU to make it.
    let connection = socket::connect(&monitor).map_err(failed(&monitor))?;

    let mut resources = Resources {
        monitor: listener.as_raw_fd(),
        pci_devices: spec.pci_devices.clone(),
        usb_devices: spec.usb_devices.clone(),
        ..Resources::default()
    };
    let mut inherited: Vec<OwnedFd> = vec![listener.into()];
    if spec.run_as.is_some() {
        open_files(&spec.domain, &mut resources, &mut inherited)?;
    }
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

    let command = command_line(&spec.domain, &resources)?;
    let log = Log::begin(&spec.log, &command).map_err(failed(&spec.log))?;
    let output = log.output().map_err(failed(&spec.log))?;
    let process = spawn(spec, command, output.into(), inherited)?;
    Ok(Started {
        process,
        connection,
        log,
        monitor,
        boot_id,
    })
}

fn spawn(
    spec: &LaunchSpec,
    command: CommandLine,
    output: OwnedFd,
    inherited: Vec<OwnedFd>,
) -> Result<Process, LaunchError> {
    let program = command.program.clone();
    let spawn = Spawn {
        program: command.program,
        args: command.args.into_iter().map(OsString::from).collect(),
        environment: vec![
            // QEMU's words are shown to people and read by programs.
            ("LC_ALL".into(), "C".into()),
            ("PATH".into(), "/usr/sbin:/usr/bin:/sbin:/bin".into()),
            ("HOME".into(), spec.run_dir.clone().into_os_string()),
        ],
        output,
        inherited,
        memory_lock: memory_lock(&spec.domain),
        cpus: placement::emulator_cpus(&spec.domain),
        memory_policy: placement::memory_policy(&spec.domain),
        run_as: spec.run_as.clone(),
    };
    match spawn.spawn() {
        Ok(spawned) => Process::started(spawned).map_err(|source| LaunchError::Prepare {
            path: program,
            source,
        }),
        Err(error)
            if error.step == SpawnStep::Execute
                && error.source.kind() == io::ErrorKind::NotFound =>
        {
            Err(LaunchError::NoEmulator { program })
        }
        Err(error) => Err(error.into()),
    }
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

/// Opens what a QEMU without our rights could not.
fn open_files(
    domain: &Domain,
    resources: &mut Resources,
    inherited: &mut Vec<OwnedFd>,
) -> Result<(), LaunchError> {
    let mut open = |alias: &Option<String>, path: &str, options: &[&OpenOptions]| {
        let Some(alias) = alias else {
            return Ok::<_, LaunchError>(()); // refused when the command line is made
        };
        for options in options {
            let file: File = options.open(path).map_err(|source| LaunchError::Prepare {
                path: path.into(),
                source,
            })?;
            let numbers = resources.files.entry(alias.clone()).or_default();
            numbers.push(file.as_raw_fd());
            inherited.push(file.into());
        }
        Ok(())
    };
    for disk in &domain.devices.disks {
        let Some(DiskSource::File(path) | DiskSource::Block(path)) = &disk.source else {
            continue;
        };
        // QEMU takes a descriptor only if it is as direct as its cache is to be.
        let direct = if is_direct(disk) {
            OFlags::DIRECT
        } else {
            OFlags::empty()
        };
        let (mut read, mut both) = (OpenOptions::new(), OpenOptions::new());
        read.read(true).custom_flags(direct.bits().cast_signed());
        both.read(true)
            .write(true)
            .custom_flags(direct.bits().cast_signed());
        if is_written_to(disk) {
            // QEMU opens an image for reading first, to look at it.
            open(&disk.info.alias, path, &[&read, &both])?;
        } else {
            open(&disk.info.alias, path, &[&read])?;
        }
    }
    for serial in &domain.devices.serials {
        if let CharBackend::File { path, append } = &serial.backend {
            let mut write = OpenOptions::new();
            write.write(true).create(true).mode(0o600);
            if *append == Some(true) {
                write.append(true);
            } else {
                write.truncate(true);
            }
            open(&serial.info.alias, path, &[&write])?;
        }
    }
    Ok(())
}

/// Whether its cache mode goes around the host's page cache.
fn is_direct(disk: &Disk) -> bool {
    let mut attributes = disk.driver_attributes.iter();
    attributes.any(|(name, mode)| name == "cache" && matches!(mode.as_str(), "none" | "directsync"))
}

fn is_written_to(disk: &Disk) -> bool {
    !disk.read_only && disk.device != "cdrom"
}
