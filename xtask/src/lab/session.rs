//! One job in one emulated host, or in the first of two, seen from this machine.

use std::fs;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

use super::boot::{BootError, HostSpec, Machine, RunDir};
use super::setup::{Lab, SetupError, build_programs};
use super::wire::{Daemon, Frame, Job};
use crate::ui::{Step, say};

/// How long a host may take to be ready: an emulated one needs about 15 s on an idle machine. Two have twice that.
const BOOT_PATIENCE: Duration = Duration::from_secs(120);
/// How long the second host may take to tell how it ended.
const LAST_WORDS_PATIENCE: Duration = Duration::from_secs(10);
/// How much longer than its command a host may take. The agent keeps the command's own time.
const GRACE: Duration = Duration::from_secs(60);
/// How long powering off may take before the host is just ended.
const POWER_OFF_PATIENCE: Duration = Duration::from_secs(10);

/// Why a job gave no exit status.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    /// The programs could not be built.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The host did not start.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The host started and was never ready.
    #[error("the emulated host {host} was not ready within {seconds} s; its last words:\n{words}")]
    NotReady {
        /// Which.
        host: &'static str,
        /// Seconds that it had.
        seconds: u64,
        /// The end of its console.
        words: String,
    },
    /// The host is not what it should be.
    #[error("the emulated host {host} could not be made ready: {why}")]
    Agent {
        /// Which.
        host: &'static str,
        /// What its agent said.
        why: String,
    },
    /// The host went away.
    #[error("the emulated host {host} ended before the command did; its last words:\n{words}")]
    Lost {
        /// Which.
        host: &'static str,
        /// The end of its console.
        words: String,
    },
    /// The wire to the host broke.
    #[error("the connection to the emulated host failed")]
    Wire(#[from] io::Error),
}

/// A job, and the host for it. If that is the first of two, the second is like it.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The host.
    pub(crate) host: HostSpec,
    /// The job.
    pub(crate) job: Job,
    /// Programs built with optimisation.
    pub(crate) release: bool,
    /// Where the kernel's console is kept; that of a second host is beside it.
    pub(crate) console: Option<PathBuf>,
}

/// How a job ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The command's exit status.
    pub(crate) code: u8,
}

/// Who takes a command's output.
pub(crate) trait Sink {
    /// Bytes of standard output.
    fn out(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Bytes of standard error.
    fn err(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// Passes output on to this process's own.
#[derive(Debug)]
pub(crate) struct Passthrough;

impl Sink for Passthrough {
    fn out(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()
    }

    fn err(&mut self, bytes: &[u8]) -> io::Result<()> {
        io::stderr().lock().write_all(bytes)
    }
}

/// Rows and columns of this process's terminal.
pub(crate) fn terminal_size() -> (u16, u16) {
    tcgetwinsize(io::stdin()).map_or((24, 80), |size| (size.ws_row, size.ws_col))
}

/// Builds the programs that a host with this daemon has; returns where they are.
pub(crate) fn programs(daemon: Daemon, release: bool) -> Result<Vec<PathBuf>, SetupError> {
    match daemon {
        Daemon::Virtnicd => build_programs(&["virtnicd", "virtnic"], release),
        Daemon::Libvirtd | Daemon::None => Ok(Vec::new()),
    }
}

/// Builds the programs, boots a host, runs the job, powers off.
pub(crate) fn run(lab: &Lab, plan: &Plan, sink: &mut dyn Sink) -> Result<Outcome, SessionError> {
    run_with(lab, plan, &programs(plan.job.daemon, plan.release)?, sink)
}

/// As [`run`], with programs that are built already. A host that is never ready, and so was asked
/// for nothing, is started once more: an emulated clock can stand still on a machine that is very
/// busy.
pub(crate) fn run_with(
    lab: &Lab,
    plan: &Plan,
    programs: &[PathBuf],
    sink: &mut dyn Sink,
) -> Result<Outcome, SessionError> {
    match run_once(lab, plan, programs, sink) {
        Err(error @ SessionError::NotReady { .. }) => {
            say(&format!("lab: {error}\nlab: once more"));
            run_once(lab, plan, programs, sink)
        }
        ended => ended,
    }
}

fn run_once(
    lab: &Lab,
    plan: &Plan,
    programs: &[PathBuf],
    sink: &mut dyn Sink,
) -> Result<Outcome, SessionError> {
    let (what, accel) = match plan.job.member {
        None => ("an emulated host", lab.accel.name()),
        Some(_) => ("two emulated hosts", lab.accel.name()),
    };
    let step = Step::start(format!("Starting {what} ({accel})"));
    let mut hosts = vec![Host::boot(
        lab,
        plan.host.clone(),
        &plan.job,
        programs,
        None,
    )?];
    if let Some(member) = plan.job.member {
        let member = Some(member.other());
        let spec = HostSpec {
            member,
            ..plan.host.clone()
        };
        let job = Job {
            member,
            command: Vec::new(),
            timeout: None,
            terminal: None,
            ..plan.job.clone()
        };
        let first = Some(&hosts[0].machine.run);
        let second = Host::boot(lab, spec, &job, programs, first)?;
        hosts.push(second);
    }
    let result = converse(&mut hosts, plan, step, sink);
    if let Some(path) = &plan.console {
        keep_consoles(&hosts, path);
    }
    if result.is_ok() {
        for host in hosts {
            host.machine.power_off(POWER_OFF_PATIENCE);
        }
    }
    result
}

/// An emulated host that has its job.
struct Host {
    name: &'static str,
    machine: Machine,
    /// What it said of itself when it was ready.
    ready: Option<String>,
}

impl Host {
    fn boot(
        lab: &Lab,
        spec: HostSpec,
        job: &Job,
        programs: &[PathBuf],
        first: Option<&RunDir>,
    ) -> Result<Self, SessionError> {
        let mut machine = Machine::boot(lab, &spec, programs, first)?;
        let name = job.hostname();
        let job = serde_json::to_vec(job).map_err(io::Error::from)?;
        Frame::Job(job).write(&mut machine.agent)?;
        Ok(Self {
            name,
            machine,
            ready: None,
        })
    }

    fn lost(&self) -> SessionError {
        SessionError::Lost {
            host: self.name,
            words: self.machine.last_words(),
        }
    }
}

/// Copies what the kernels said to a file of the user's, and one more of that name with a number.
fn keep_consoles(hosts: &[Host], path: &Path) {
    for (number, host) in (1..).zip(hosts) {
        let mut path = path.as_os_str().to_owned();
        if number > 1 {
            path.push(format!(".{number}"));
        }
        if let Err(error) = fs::copy(host.machine.run.console(), &path) {
            say(&format!("lab: can't write {}: {error}", path.display()));
        }
    }
}

/// Takes frames until the last one.
fn converse(
    hosts: &mut [Host],
    plan: &Plan,
    step: Step,
    sink: &mut dyn Sink,
) -> Result<Outcome, SessionError> {
    let mut step = Some(step);
    let mut raw = None;
    let patience = BOOT_PATIENCE * u32::try_from(hosts.len()).unwrap_or(1);
    let mut deadline = Some(Instant::now() + patience);
    let mut size = plan.job.terminal;
    loop {
        let from = match wait(hosts, deadline, raw.is_some())? {
            Event::Timeout => {
                let Some(host) = hosts.iter().find(|host| host.ready.is_none()) else {
                    return Err(hosts[0].lost());
                };
                return Err(SessionError::NotReady {
                    host: host.name,
                    seconds: patience.as_secs(),
                    words: host.machine.last_words(),
                });
            }
            Event::Frame(from) => from,
            Event::Typed => {
                let agent = &mut hosts[0].machine.agent;
                let now = terminal_size();
                if size.is_some_and(|size| size != now) {
                    Frame::Resize(now.0, now.1).write(agent)?;
                    size = Some(now);
                }
                let mut bytes = vec![0; 4096];
                // Past the standard library's buffer: what that keeps, no poll would show.
                let length = rustix::io::read(io::stdin(), &mut bytes).map_err(io::Error::from)?;
                bytes.truncate(length);
                Frame::Input(bytes).write(agent)?;
                continue;
            }
        };
        let host = &mut hosts[from];
        match Frame::read(&mut host.machine.agent)? {
            Some(Frame::Note(text)) => {
                host.ready = Some(text);
                if !hosts.iter().all(|host| host.ready.is_some()) {
                    continue;
                }
                if let Some(step) = step.take() {
                    step.done();
                }
                for host in hosts.iter() {
                    let text = host.ready.as_deref().unwrap_or_default();
                    say(&format!("{}: {text}", host.name));
                }
                if plan.job.member.is_some() {
                    Frame::Go.write(&mut hosts[0].machine.agent)?;
                }
                deadline = plan
                    .job
                    .timeout
                    .map(|seconds| Instant::now() + Duration::from_secs(seconds) + GRACE);
                if plan.job.terminal.is_some() {
                    raw = RawTerminal::enter()?;
                }
            }
            Some(Frame::Out(bytes)) => sink.out(&bytes)?,
            Some(Frame::Err(bytes)) => sink.err(&bytes)?,
            Some(Frame::Exit(code)) if from == 0 => {
                if let [_, second] = hosts {
                    finish(second, code, sink)?;
                }
                return Ok(Outcome { code });
            }
            Some(Frame::Failed(why)) => {
                return Err(SessionError::Agent {
                    host: host.name,
                    why,
                });
            }
            Some(
                Frame::Job(_) | Frame::Input(_) | Frame::Resize(..) | Frame::Exit(_) | Frame::Go,
            ) => {}
            None => return Err(host.lost()),
        }
    }
}

/// Tells the second host how the command ended in the first, and passes on what it has to say to that.
fn finish(second: &mut Host, code: u8, sink: &mut dyn Sink) -> Result<(), SessionError> {
    let deadline = Some(Instant::now() + LAST_WORDS_PATIENCE);
    Frame::Exit(code).write(&mut second.machine.agent)?;
    loop {
        let frame = match wait(std::slice::from_ref(second), deadline, false)? {
            Event::Frame(_) => Frame::read(&mut second.machine.agent)?,
            Event::Timeout | Event::Typed => None,
        };
        match frame {
            Some(Frame::Err(bytes)) => sink.err(&bytes)?,
            Some(Frame::Exit(_)) => return Ok(()),
            Some(_) => {}
            // The command's status is what counts.
            None => {
                let (name, words) = (second.name, second.machine.last_words());
                say(&format!(
                    "lab: the emulated host {name} does not answer; its last words:\n{words}"
                ));
                return Ok(());
            }
        }
    }
}

enum Event {
    /// One has come from this host.
    Frame(usize),
    Typed,
    Timeout,
}

fn wait(hosts: &[Host], deadline: Option<Instant>, typing: bool) -> io::Result<Event> {
    let stdin = io::stdin();
    loop {
        let mut fds: Vec<_> = hosts
            .iter()
            .map(|host| PollFd::new(&host.machine.agent, PollFlags::IN))
            .collect();
        if typing {
            fds.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
        }
        let left = deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: left.as_secs().cast_signed(),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        match poll(&mut fds, left.as_ref()) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
            Ok(_) => {}
        }
        return Ok(match fds.iter().position(|fd| !fd.revents().is_empty()) {
            Some(from) if from < hosts.len() => Event::Frame(from),
            Some(_) => Event::Typed,
            None => Event::Timeout,
        });
    }
}

/// The terminal passed on key by key; its former state returns with the drop.
struct RawTerminal {
    former: Termios,
}

impl RawTerminal {
    fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !isatty(&stdin) {
            return Ok(None);
        }
        let former = tcgetattr(&stdin)?;
        let mut raw = former.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Some(Self { former }))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // The terminal is gone if this fails.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.former);
    }
}
