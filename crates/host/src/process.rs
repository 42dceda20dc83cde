//! Starting a process with limits, an identity and descriptors of its own.
//!
//! Only what is passed in reaches the child: descriptors, environment, identity. It gets a
//! session of its own, so that it outlives whoever started it.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags, RawDir};
use rustix::io::{Errno, FdFlags};
use rustix::process::{Pid, PidfdFlags};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::MemoryLock;
use crate::affinity::{Mask, MemoryMode, MemoryPolicy, set_affinity, set_memory_policy};
use crate::memory_lock::raise_own;

/// A process to be started.
#[derive(Debug)]
pub struct Spawn {
    /// The program: a path, or a name that is looked up in `PATH`.
    pub program: PathBuf,
    /// Its arguments, its own name excluded.
    pub args: Vec<OsString>,
    /// Its whole environment: nothing is taken over from ours.
    pub environment: Vec<(OsString, OsString)>,
    /// Where its standard output and error go. Its input is `/dev/null`.
    pub output: OwnedFd,
    /// Descriptors that it gets, under the numbers that they have here.
    pub inherited: Vec<OwnedFd>,
    /// How much memory it may lock; `None`: as much as we may.
    pub memory_lock: Option<MemoryLock>,
    /// The host's CPUs that it runs on; `None`: those that we may.
    pub cpus: Option<Vec<u16>>,
    /// Where its memory comes from; `None`: as ours.
    pub memory_policy: Option<MemoryPolicy>,
    /// Who it runs as; `None`: as we do.
    pub run_as: Option<RunAs>,
}

/// An identity without any capability, and without a way to gain one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunAs {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// All further groups, such as the one that may open `/dev/kvm`.
    pub groups: Vec<u32>,
}

/// A process that was started. It is our child: whoever holds this must wait for its end.
#[derive(Debug)]
pub struct Spawned {
    /// Its process id.
    pub pid: u32,
    /// It itself, whatever becomes of its number; readable once it has ended.
    pub pidfd: OwnedFd,
}

/// A process that could not be started; nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[error("starting {} failed while {step}", program.display())]
pub struct SpawnError {
    /// The program.
    pub program: PathBuf,
    /// How far it came.
    pub step: SpawnStep,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// What is done, in this order, to start a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum SpawnStep {
    /// Pipes and the fork.
    Fork,
    /// A session of its own.
    Session,
    /// `RLIMIT_MEMLOCK`.
    MemoryLock,
    /// The CPUs that it runs on.
    Affinity,
    /// The NUMA nodes that its memory comes from.
    MemoryPolicy,
    /// Groups and user.
    Identity,
    /// Capabilities.
    Capabilities,
    /// Which descriptors it keeps.
    Descriptors,
    /// The program itself.
    Execute,
}

impl SpawnStep {
    const ALL: [Self; 9] = [
        Self::Fork,
        Self::Session,
        Self::MemoryLock,
        Self::Affinity,
        Self::MemoryPolicy,
        Self::Identity,
        Self::Capabilities,
        Self::Descriptors,
        Self::Execute,
    ];
}

impl fmt::Display for SpawnStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fork => "making the new process",
            Self::Session => "giving it a session of its own",
            Self::MemoryLock => "raising its memory-lock limit (RLIMIT_MEMLOCK)",
            Self::Affinity => "choosing its CPUs",
            Self::MemoryPolicy => "choosing the NUMA nodes of its memory",
            Self::Identity => "changing its user and groups",
            Self::Capabilities => "dropping its capabilities",
            Self::Descriptors => "choosing its file descriptors",
            Self::Execute => "executing the program",
        })
    }
}

impl Spawn {
    /// Starts it.
    ///
    /// Returns when the program runs or could not be executed.
    pub fn spawn(self) -> Result<Spawned, SpawnError> {
        let program = self.program.clone();
        let failed = |step, source| SpawnError {
            program: program.clone(),
            step,
            source,
        };

        let (progress, report) = io::pipe().map_err(|e| failed(SpawnStep::Fork, e))?;
        let output = self
            .output
            .try_clone()
            .map_err(|e| failed(SpawnStep::Fork, e))?;
        let setup = Setup {
            keep: self.inherited.iter().map(AsRawFd::as_raw_fd).collect(),
            memory_lock: self.memory_lock,
            cpus: self.cpus.as_deref().map(Mask::of),
            memory_policy: self
                .memory_policy
                .map(|policy| (policy.mode, Mask::of(&policy.nodes))),
            run_as: self.run_as,
            report: report.into(),
        };

        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .env_clear()
            .envs(self.environment)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(self.output);
        #[expect(unsafe_code, reason = "a child's set-up has no safe form")]
        // SAFETY: between fork and exec the child calls only `Setup::run`, which makes system
        // calls on data prepared before the fork: it takes no lock and allocates nothing.
        unsafe {
            command.pre_exec(move || setup.run().map_err(io::Error::from));
        }

        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                drop(command); // closes our end of the report, so that reading it ends
                return Err(failed(last_step(progress), error));
            }
        };
        let pid = child.id();
        let pidfd = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or(Errno::SRCH)
            // Not reaped yet, so the number can't be anyone else's.
            .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK));
        match pidfd {
            Ok(pidfd) => Ok(Spawned { pid, pidfd }),
            Err(error) => {
                let mut child = child;
                // It is killed, so waiting for it is short; both can only fail if it is gone.
                let _ = child.kill();
                let _ = child.wait();
                Err(failed(SpawnStep::Fork, error.into()))
            }
        }
    }
}

/// How far the child came, as it reported.
fn last_step(mut progress: PipeReader) -> SpawnStep {
    let mut steps = Vec::new();
    // An unreadable report leaves the first step.
    let _ = progress.read_to_end(&mut steps);
    steps
        .last()
        .and_then(|&step| SpawnStep::ALL.get(usize::from(step)).copied())
        .unwrap_or(SpawnStep::Fork)
}

/// What the child does to itself before it becomes the program.
struct Setup {
    keep: Vec<RawFd>,
    memory_lock: Option<MemoryLock>,
    cpus: Option<Mask>,
    memory_policy: Option<(MemoryMode, Mask)>,
    run_as: Option<RunAs>,
    report: OwnedFd,
}

impl Setup {
    /// Runs in the child between fork and exec: system calls only, no allocation, no lock.
    fn run(&self) -> Result<(), Errno> {
        self.entering(SpawnStep::Session);
        rustix::process::setsid()?;
        self.entering(SpawnStep::MemoryLock);
        if let Some(limit) = self.memory_lock {
            raise_own(limit)?;
        }
        self.entering(SpawnStep::Affinity);
        if let Some(cpus) = &self.cpus {
            set_affinity(0, cpus)?;
        }
        self.entering(SpawnStep::MemoryPolicy);
        if let Some((mode, nodes)) = &self.memory_policy {
            set_memory_policy(*mode, nodes)?;
        }
        if let Some(who) = &self.run_as {
            self.become_user(who)?;
        }
        self.entering(SpawnStep::Descriptors);
        self.choose_descriptors()?;
        self.entering(SpawnStep::Execute);
        Ok(())
    }

    fn entering(&self, step: SpawnStep) {
        // A lost report makes an error less precise, and is no reason to fail.
        let _ = rustix::io::write(&self.report, &[step as u8]);
    }

    fn become_user(&self, who: &RunAs) -> Result<(), Errno> {
        use rustix::process::{Gid, Uid};

        self.entering(SpawnStep::Capabilities);
        for capability in CapabilitySet::all().iter() {
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                Ok(()) => {}
                Err(Errno::INVAL) => break, // the kernel knows fewer than we do
                Err(error) => return Err(error),
            }
        }
        rustix::thread::clear_ambient_capability_set()?;

        self.entering(SpawnStep::Identity);
        let mut groups = [Gid::ROOT; MAX_GROUPS];
        let count = who.groups.len().min(MAX_GROUPS);
        for (slot, &gid) in groups.iter_mut().zip(&who.groups) {
            *slot = Gid::from_raw(gid);
        }
        rustix::thread::set_thread_groups(&groups[..count])?;
        let gid = Gid::from_raw(who.gid);
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        let uid = Uid::from_raw(who.uid);
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;

        self.entering(SpawnStep::Capabilities);
        // Leaving uid 0 cleared them; becoming uid 0 did not.
        rustix::thread::set_capabilities(
            None,
            CapabilitySets {
                effective: CapabilitySet::empty(),
                permitted: CapabilitySet::empty(),
                inheritable: CapabilitySet::empty(),
            },
        )?;
        rustix::thread::set_no_new_privs(true)
    }

    /// Marks every descriptor to be closed, except for the standard ones and those to be kept.
    fn choose_descriptors(&self) -> Result<(), Errno> {
        let directory = rustix::fs::open(
            c"/proc/self/fd",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut buffer = [std::mem::MaybeUninit::uninit(); 2048];
        let mut entries = RawDir::new(&directory, &mut buffer);
        while let Some(entry) = entries.next() {
            let Some(number) = parse_number(entry?.file_name().to_bytes()) else {
                continue; // "." and ".."
            };
            if number > 2 && !self.keep.contains(&number) {
                set_flags(number, FdFlags::CLOEXEC)?;
            }
        }
        for &number in &self.keep {
            set_flags(number, FdFlags::empty())?;
        }
        Ok(())
    }
}

/// More than any identity of ours has.
const MAX_GROUPS: usize = 32;

#[expect(unsafe_code, reason = "a descriptor known by its number only")]
fn set_flags(number: RawFd, flags: FdFlags) -> Result<(), Errno> {
    // SAFETY: the child has one thread, and the number was just seen to be open in it (or is
    // owned by `Spawn::inherited`); it is not closed while borrowed.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(fd.as_fd(), flags)
}

fn parse_number(digits: &[u8]) -> Option<RawFd> {
    let mut number: RawFd = 0;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        number = number
            .checked_mul(10)?
            .checked_add(RawFd::from(digit - b'0'))?;
    }
    (!digits.is_empty()).then_some(number)
}

#[cfg(test)]
mod tests;
