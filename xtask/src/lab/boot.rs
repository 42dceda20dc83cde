//! QEMU as a host with an IOMMU and SR-IOV cards.
//!
//! QEMU is the Debian root's own, run in that root (`chroot`), in a mount namespace that also holds this checkout, the
//! guest and the run's own directory. All of it goes when QEMU ends.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::accel::Accel;
use super::cache::Cache;
use super::pair::{Member, far_mac, station_mac};
use super::setup::Lab;
use super::wire::PORT;
use crate::run::privileged;

/// Why an emulated host did not come up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    /// The run's own directory could not be made.
    #[error("can't make {}", path.display())]
    RunDir {
        /// What was to be made.
        path: PathBuf,
        /// The kernel's refusal.
        source: io::Error,
    },
    /// QEMU could not be started or watched.
    #[error("can't start the emulated host")]
    Start(#[source] io::Error),
    /// QEMU ended before its agent answered.
    #[error("the emulated host ended before it was up; its last words:\n{0}")]
    Ended(String),
}

/// What to emulate.
#[derive(Debug, Clone)]
pub(crate) struct HostSpec {
    /// SR-IOV cards, each with up to seven VFs.
    pub(crate) pfs: u8,
    /// MiB of memory.
    pub(crate) memory: u32,
    /// Which of two hosts it is, if it is not alone.
    pub(crate) member: Option<Member>,
}

/// A directory of one run: the socket, the programs, the console's log. It goes with the value.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// Makes one, and removes those whose process has ended without doing so.
    fn new(cache: &Cache) -> Result<Self, BootError> {
        let runs = cache.dir().join("runs");
        let make = |path: &Path| {
            fs::create_dir_all(path).map_err(|source| BootError::RunDir {
                path: path.to_owned(),
                source,
            })
        };
        make(&runs)?;
        for entry in fs::read_dir(&runs).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let pid = name.to_str().and_then(|name| name.split('-').next());
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                // A leftover that can't be removed harms nobody.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let pid = std::process::id();
        let path = (0_u32..)
            .map(|number| runs.join(format!("{pid}-{number}")))
            .find(|path| !path.exists())
            .unwrap_or(runs);
        make(&path.join("bin"))?;
        Ok(Self { path })
    }

    /// The serial console's log.
    pub(crate) fn console(&self) -> PathBuf {
        self.path.join("console.log")
    }

    fn messages(&self) -> PathBuf {
        self.path.join("qemu.log")
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // The next run tries again.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A running emulated host. Dropping it ends QEMU.
#[derive(Debug)]
pub(crate) struct Machine {
    qemu: Child,
    /// The way to the agent.
    pub(crate) agent: UnixStream,
    /// The run's directory.
    pub(crate) run: RunDir,
}

impl Machine {
    /// Starts a host with copies of `programs` and of this one, which is its agent, and waits for QEMU to be there. The
    /// second of two hosts is told where the first one's run directory is.
    pub(crate) fn boot(
        lab: &Lab,
        spec: &HostSpec,
        programs: &[PathBuf],
        first: Option<&RunDir>,
    ) -> Result<Self, BootError> {
        let run = RunDir::new(&lab.cache)?;
        // The agent is this very program, whatever a build has made of its file since it started.
        let agent = (Path::new("/proc/self/exe"), OsStr::new("xtask"));
        let built = programs
            .iter()
            .map(|path| (path.as_path(), path.file_name().unwrap_or_default()));
        for (program, name) in std::iter::once(agent).chain(built) {
            let copy = run.path.join("bin").join(name);
            // Copies, so that a build meanwhile does not change a running host.
            fs::copy(program, &copy).map_err(|source| BootError::RunDir { path: copy, source })?;
        }
        let socket = run.path.join("agent.sock");
        let listener = UnixListener::bind(&socket).map_err(|source| BootError::RunDir {
            path: socket,
            source,
        })?;
        let messages = File::create(run.messages()).map_err(BootError::Start)?;
        let wires = first.map_or(run.path.as_path(), |first| &first.path);
        let dirs = Some((run.path.as_path(), wires));
        let mut qemu = qemu_command(lab, dirs, &arguments(lab.accel, spec))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(messages)
            .spawn()
            .map_err(BootError::Start)?;
        let ended = watch(&qemu).map_err(BootError::Start)?;
        let mut fds = [
            PollFd::new(&listener, PollFlags::IN),
            PollFd::new(&ended, PollFlags::IN),
        ];
        poll(&mut fds, None).map_err(|errno| BootError::Start(errno.into()))?;
        if fds[0].revents().is_empty() {
            let _ = qemu.wait();
            return Err(BootError::Ended(last_lines(&run.messages(), 20)));
        }
        let (agent, _) = listener.accept().map_err(BootError::Start)?;
        Ok(Self { qemu, agent, run })
    }

    /// Lets the host power off, for at most so long.
    pub(crate) fn power_off(self, patience: Duration) {
        // Whatever comes of it, the drop makes sure of the end.
        ends_within(&self.qemu, patience);
    }

    /// What the host and QEMU said last, to explain an end.
    pub(crate) fn last_words(&self) -> String {
        let mut words = last_lines(&self.run.console(), 25);
        words.push_str(&last_lines(&self.run.messages(), 5));
        words
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Without its host's other end the agent powers off; this is for a host that no longer runs its agent.
        if matches!(self.qemu.try_wait(), Ok(None)) {
            end(&mut self.qemu, b"quit\n");
        }
    }
}

/// Ends a QEMU by what its monitor, on its standard input, understands: behind sudo no signal of ours reaches it.
pub(crate) fn end(qemu: &mut Child, quit: &[u8]) {
    if let Some(mut monitor) = qemu.stdin.take() {
        // A closed one means that QEMU has ended.
        let _ = monitor.write_all(quit);
    }
    if !ends_within(qemu, QUIT_PATIENCE) {
        // Its parent's end is its own.
        let _ = qemu.kill();
    }
    let _ = qemu.wait();
}

/// How long QEMU may take to end when its monitor is told to.
const QUIT_PATIENCE: Duration = Duration::from_secs(5);

/// Waits for a child's end, for at most so long; whether it has ended.
fn ends_within(child: &Child, patience: Duration) -> bool {
    let patience = Timespec {
        tv_sec: patience.as_secs().cast_signed(),
        tv_nsec: patience.subsec_nanos().into(),
    };
    watch(child).is_ok_and(|ended| {
        poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&patience))
            .is_ok_and(|ready| ready > 0)
    })
}

/// A descriptor that is readable once the child has ended.
pub(crate) fn watch(child: &Child) -> io::Result<std::os::fd::OwnedFd> {
    let pid = Pid::from_raw(child.id().cast_signed()).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// QEMU in the Debian root, with what it needs mounted in its own namespace. The paths inside are those of the arguments.
/// `dirs` are the run's own and that of the wires between two hosts.
pub(crate) fn qemu_command(
    lab: &Lab,
    dirs: Option<(&Path, &Path)>,
    arguments: &[String],
) -> Command {
    let (run, wires) = dirs.unwrap_or((Path::new(""), Path::new("")));
    // `--kill-child` and the parent's death signal: QEMU does not outlive this process.
    let mut command = privileged("setpriv");
    command
        .args([
            "--pdeathsig",
            "KILL",
            "unshare",
            "--mount",
            "--kill-child",
            "sh",
            "-ec",
        ])
        .arg(
            "root=$1 guest=$2 early=$3 checkout=$4 run=$5 wires=$6; shift 6
             mount --bind \"$root\" \"$root/lab/root\"
             mount --bind \"$guest\" \"$root/lab/guest\"
             mount --bind \"$checkout\" \"$root/checkout\"
             [ -z \"$run\" ] || mount --bind \"$run\" \"$root/lab/run\"
             [ -z \"$wires\" ] || mount --bind \"$wires\" \"$root/srv\"
             mount --bind /dev \"$root/dev\"
             mount --bind \"$early\" \"$root/mnt\"
             mount -t proc proc \"$root/proc\"
             exec chroot \"$root\" qemu-system-x86_64 \"$@\"",
        )
        .arg("sh")
        .arg(&lab.root)
        .arg(&lab.guest_dir)
        .arg(&lab.early_dir)
        .arg(&lab.checkout)
        .arg(run)
        .arg(wires)
        .args(arguments);
    command
}

/// Processor cycles of a 250th second, at 2.5 GHz: the kernel's delays need no more precision with emulated devices, and
/// measuring it takes a second.
const LOOPS: u32 = 10_000_000;

/// What every emulated host has: machine, kernel, console.
pub(crate) fn base_arguments(
    accel: Accel,
    memory: u32,
    console: &str,
    cmdline: &str,
) -> Vec<String> {
    let (accel_option, cpu) = match accel {
        Accel::Kvm => ("kvm", "host"),
        Accel::Tcg => ("tcg,thread=multi", "qemu64,+x2apic,+npt"),
    };
    let memory = format!("{memory}M");
    let cmdline = format!(
        "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable no_timer_check lpj={LOOPS} intel_iommu=on iommu=pt {cmdline}"
    );
    [
        "-M",
        "q35,kernel-irqchip=split",
        "-accel",
        accel_option,
        "-cpu",
        cpu,
        "-smp",
        "2",
        "-m",
        &memory,
        "-nodefaults",
        "-nographic",
        "-no-reboot",
        "-serial",
        console,
        "-kernel",
        "/mnt/vmlinuz",
        "-initrd",
        "/mnt/initrd",
        "-append",
        &cmdline,
    ]
    .map(str::to_owned)
    .to_vec()
}

fn arguments(accel: Accel, spec: &HostSpec) -> Vec<String> {
    let mut arguments = base_arguments(accel, spec.memory, "file:/lab/run/console.log", "");
    let mut add = |option: &str, value: String| arguments.extend([option.to_owned(), value]);
    add(
        "-device",
        "intel-iommu,intremap=on,caching-mode=on,device-iotlb=on".to_owned(),
    );
    for (tag, path) in [
        ("hostroot", "/lab/root"),
        ("run", "/lab/run"),
        ("guest", "/lab/guest"),
        ("checkout", "/checkout"),
    ] {
        add(
            "-fsdev",
            format!("local,id={tag},path={path},security_model=none,readonly=on,multidevs=remap"),
        );
        add(
            "-device",
            format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}"),
        );
    }
    add(
        "-chardev",
        "socket,id=agent,path=/lab/run/agent.sock".to_owned(),
    );
    add("-device", "virtio-serial-pci".to_owned());
    add(
        "-device",
        format!("virtserialport,chardev=agent,name={PORT}"),
    );
    let member = spec.member.unwrap_or(Member::First);
    for pf in 0..spec.pfs {
        let number = pf + 1;
        add(
            "-device",
            format!("pcie-root-port,id=port{number},bus=pcie.0,chassis={number}"),
        );
        // A wire without a way out; its other end is the station's.
        add("-netdev", format!("hubport,id=net{number},hubid={number}"));
        if spec.member.is_some() {
            // An end that nobody holds takes every frame. So a card that takes none for a moment holds up no wire, which
            // would stay so if nobody told it to go on; and the next frame brings with it what waits for the card.
            let id = format!("idle{number}");
            add("-netdev", format!("hubport,id={id},hubid={number}"));
        }
        if member == Member::Second {
            let far = far_wire(pf);
            add("-netdev", member.end_of_wire(&far));
            let id = format!("uplink{number}");
            add(
                "-netdev",
                format!("hubport,id={id},hubid={number},netdev={far}"),
            );
        }
        let mac = member.pf_mac(pf);
        add(
            "-device",
            format!("igb,bus=port{number},netdev=net{number},mac={mac}"),
        );
    }
    // After all cards, whose places stay what they would be without it.
    let mut card = |netdev: &str, wire: String, mac: String| {
        add("-netdev", wire);
        add(
            "-device",
            format!("virtio-net-pci,netdev={netdev},mac={mac}"),
        );
    };
    if member == Member::First {
        for pf in 0..spec.pfs {
            let number = pf + 1;
            let station = format!("station{number}");
            let wire = format!("hubport,id={station},hubid={number}");
            card(&station, wire, station_mac(pf));
            if spec.member.is_some() {
                let far = far_wire(pf);
                card(&far, member.end_of_wire(&far), far_mac(pf));
            }
        }
    }
    if spec.member.is_some() {
        let wire = member.end_of_wire(MANAGEMENT_WIRE);
        card(MANAGEMENT_WIRE, wire, member.management_mac());
        add("-uuid", member.uuid());
    }
    arguments
}

/// The wire for management between two hosts.
const MANAGEMENT_WIRE: &str = "management";

/// The wire from a PF of the second host to the station.
fn far_wire(pf: u8) -> String {
    format!("far{pf}")
}

/// The end of a text file.
fn last_lines(path: &Path, count: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..]
        .iter()
        .flat_map(|line| [line, "\n"])
        .collect()
}
