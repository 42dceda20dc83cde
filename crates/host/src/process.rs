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
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

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
    /// Who it runs as; `None`: as we do.
    pub run_as: Option<RunAs>,
}

/// A limit on locked memory (`RLIMIT_MEMLOCK`). A limit that is higher already stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryLock {
    /// Bytes.
    AtLeast(u64),
    /// No limit.
    Unlimited,
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
    const ALL: [Self; 7] = [
        Self::Fork,
        Self::Session,
        Self::MemoryLock,
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
            raise_memory_lock(limit)?;
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

fn raise_memory_lock(wanted: MemoryLock) -> Result<(), Errno> {
    let now = rustix::process::getrlimit(Resource::Memlock);
    // `None` means no limit, in the kernel's answer and here.
    let wanted = match wanted {
        MemoryLock::AtLeast(bytes) => Some(bytes),
        MemoryLock::Unlimited => None,
    };
    let higher = |a: Option<u64>, b: Option<u64>| a.zip(b).map(|(a, b)| a.max(b));
    let new = Rlimit {
        current: higher(now.current, wanted),
        maximum: higher(now.maximum, wanted),
    };
    if new == now {
        return Ok(());
    }
    rustix::process::setrlimit(Resource::Memlock, new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{WaitId, WaitIdOptions};
    use std::fs::File;
    use std::io::Seek;

    /// Runs a shell script, and returns what it printed and its exit status.
    fn shell(script: &str, change: impl FnOnce(&mut Spawn)) -> (String, i32) {
        let output = tempfile::tempfile().unwrap();
        let mut spawn = Spawn {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
            output: output.try_clone().unwrap().into(),
            inherited: Vec::new(),
            memory_lock: None,
            run_as: None,
        };
        change(&mut spawn);
        let spawned = spawn.spawn().unwrap();
        let status = wait(&spawned);
        (read(output), status)
    }

    fn wait(spawned: &Spawned) -> i32 {
        // The descriptor is non-blocking, so wait until it is readable first.
        let mut fds = [rustix::event::PollFd::new(
            &spawned.pidfd,
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut fds, None).unwrap();
        rustix::process::waitid(WaitId::PidFd(spawned.pidfd.as_fd()), WaitIdOptions::EXITED)
            .unwrap()
            .unwrap()
            .exit_status()
            .unwrap()
    }

    fn read(mut file: File) -> String {
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    }

    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    #[test]
    fn the_environment_is_only_what_was_given() {
        let (text, status) = shell("echo $FRUIT; env | wc -l; pwd; exit 7", |spawn| {
            spawn.environment.push(("FRUIT".into(), "apple".into()));
        });
        // PATH, FRUIT, and PWD, which the shell makes itself.
        assert_eq!(text, "apple\n3\n/\n");
        assert_eq!(status, 7);
    }

    #[test]
    fn it_leads_its_own_session() {
        let (text, _) = shell("cut -d' ' -f1,6 /proc/$$/stat", |_| {});
        let (pid, session) = text.trim().split_once(' ').unwrap();
        assert_eq!(pid, session);
    }

    #[test]
    fn only_the_intended_descriptors_are_inherited() {
        let kept = tempfile::tempfile().unwrap();
        let number = kept.as_raw_fd();
        // One that somebody forgot to mark.
        let leaked = tempfile::tempfile().unwrap();
        rustix::io::fcntl_setfd(&leaked, FdFlags::empty()).unwrap();

        let copy = kept.try_clone().unwrap();
        // A shell need not know descriptors above 9 by number.
        let script = format!("echo written >/proc/$$/fd/{number}; ls /proc/$$/fd | tr '\\n' ' '");
        let (listing, _) = shell(&script, |spawn| spawn.inherited.push(kept.into()));

        assert_eq!(read(copy), "written\n");
        let open: Vec<RawFd> = listing
            .split_whitespace()
            .map(|n| n.parse().unwrap())
            .collect();
        assert!(open.contains(&number), "{listing}");
        assert!(!open.contains(&leaked.as_raw_fd()), "{listing}");
    }

    #[test]
    fn a_missing_program_is_said_to_be_missing() {
        let error = Spawn {
            program: "/nonexistent/qemu".into(),
            args: Vec::new(),
            environment: Vec::new(),
            output: tempfile::tempfile().unwrap().into(),
            inherited: Vec::new(),
            memory_lock: None,
            run_as: None,
        }
        .spawn()
        .unwrap_err();
        assert_eq!(error.step, SpawnStep::Execute);
        assert_eq!(error.source.kind(), io::ErrorKind::NotFound);
        assert_eq!(
            error.to_string(),
            "starting /nonexistent/qemu failed while executing the program"
        );
    }

    #[test]
    fn the_memory_lock_limit_rises_and_never_falls() {
        let now = rustix::process::getrlimit(Resource::Memlock).current;
        let (text, _) = shell("ulimit -l", |spawn| {
            spawn.memory_lock = Some(MemoryLock::AtLeast(1));
        });
        let unchanged = now.map_or("unlimited".to_owned(), |bytes| (bytes / 1024).to_string());
        assert_eq!(text.trim(), unchanged);

        let capabilities = rustix::thread::capabilities(None).unwrap().effective;
        if !capabilities.contains(CapabilitySet::SYS_RESOURCE) {
            eprintln!("SKIPPED: raising a hard limit needs CAP_SYS_RESOURCE");
            return;
        }
        let (text, _) = shell("ulimit -l", |spawn| {
            spawn.memory_lock = Some(MemoryLock::Unlimited);
        });
        assert_eq!(text.trim(), "unlimited");
    }

    #[test]
    fn another_identity_has_no_capability_left() {
        if !is_root() {
            eprintln!("SKIPPED: changing identity needs root");
            return;
        }
        let script = "id -u; id -g; id -G; grep -E '^(Cap|NoNewPrivs)' /proc/self/status";
        for uid in [64321, 0] {
            let (text, _) = shell(script, |spawn| {
                spawn.run_as = Some(RunAs {
                    uid,
                    gid: 64322,
                    groups: vec![64323],
                });
            });
            let mut lines = text.lines();
            assert_eq!(lines.next(), Some(uid.to_string().as_str()));
            assert_eq!(lines.next(), Some("64322"));
            assert_eq!(lines.next(), Some("64322 64323"));
            let bounding = text.lines().find(|l| l.starts_with("CapBnd")).unwrap();
            assert!(bounding.ends_with("0000000000000000"), "{text}");
            let effective = text.lines().find(|l| l.starts_with("CapEff")).unwrap();
            assert!(effective.ends_with("0000000000000000"), "{text}");
            assert!(text.contains("NoNewPrivs:\t1"), "{text}");
        }
    }

    #[test]
    fn a_refused_identity_names_the_step() {
        if is_root() {
            eprintln!("SKIPPED: root may become anyone");
            return;
        }
        let error = Spawn {
            program: "/bin/true".into(),
            args: Vec::new(),
            environment: Vec::new(),
            output: tempfile::tempfile().unwrap().into(),
            inherited: Vec::new(),
            memory_lock: None,
            run_as: Some(RunAs {
                uid: 0,
                gid: 0,
                groups: Vec::new(),
            }),
        }
        .spawn()
        .unwrap_err();
        assert_eq!(error.source.raw_os_error(), Some(1));
    }
}
