//! One job in one emulated host, seen from this machine.

use std::fs;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

use super::boot::{BootError, HostSpec, Machine};
use super::setup::{Lab, SetupError, build_programs};
use super::wire::{Daemon, Frame, Job};
use crate::ui::{Step, say};

/// How long a host may take to be ready: an emulated one needs about 15 s on an idle machine.
const BOOT_PATIENCE: Duration = Duration::from_secs(120);
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
    #[error("the emulated host was not ready within {} s; its last words:\n{words}", BOOT_PATIENCE.as_secs())]
    NotReady {
        /// The end of its console.
        words: String,
    },
    /// The host is not what it should be.
    #[error("the emulated host could not be made ready: {0}")]
    Agent(String),
    /// The host went away.
    #[error("the emulated host ended before its command did; its last words:\n{words}")]
    Lost {
        /// The end of its console.
        words: String,
    },
    /// The wire to the host broke.
    #[error("the connection to the emulated host failed")]
    Wire(#[from] io::Error),
}

/// A job, and the host for it.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The host.
    pub(crate) host: HostSpec,
    /// The job.
    pub(crate) job: Job,
    /// Programs built with optimisation.
    pub(crate) release: bool,
    /// Where the kernel's console is kept.
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
    let step = Step::start(format!("Starting an emulated host ({})", lab.accel.name()));
    let mut machine = Machine::boot(lab, &plan.host, programs)?;
    let job = serde_json::to_vec(&plan.job).map_err(io::Error::from)?;
    Frame::Job(job).write(&mut machine.agent)?;
    let result = converse(&mut machine, plan, step, sink);
    if let Some(path) = &plan.console
        && let Err(error) = fs::copy(machine.run.console(), path)
    {
        say(&format!("lab: can't write {}: {error}", path.display()));
    }
    if result.is_ok() {
        machine.power_off(POWER_OFF_PATIENCE);
    }
    result
}

/// Takes frames until the last one.
fn converse(
    machine: &mut Machine,
    plan: &Plan,
    step: Step,
    sink: &mut dyn Sink,
) -> Result<Outcome, SessionError> {
    let mut step = Some(step);
    let mut raw = None;
    let mut deadline = Some(Instant::now() + BOOT_PATIENCE);
    let mut size = plan.job.terminal;
    loop {
        let typed = match wait(machine, deadline, raw.is_some())? {
            Event::Timeout => {
                let words = machine.last_words();
                return Err(if step.is_some() {
                    SessionError::NotReady { words }
                } else {
                    SessionError::Lost { words }
                });
            }
            Event::Frame => false,
            Event::Typed => true,
        };
        if typed {
            let now = terminal_size();
            if size.is_some_and(|size| size != now) {
                Frame::Resize(now.0, now.1).write(&mut machine.agent)?;
                size = Some(now);
            }
            let mut bytes = vec![0; 4096];
            // Past the standard library's buffer: what that keeps, no poll would show.
            let length = rustix::io::read(io::stdin(), &mut bytes).map_err(io::Error::from)?;
            bytes.truncate(length);
            Frame::Input(bytes).write(&mut machine.agent)?;
            continue;
        }
        match Frame::read(&mut machine.agent)? {
            Some(Frame::Note(text)) => {
                if let Some(step) = step.take() {
                    step.done();
                }
                say(&format!("lab: {text}"));
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
            Some(Frame::Exit(code)) => return Ok(Outcome { code }),
            Some(Frame::Failed(why)) => return Err(SessionError::Agent(why)),
            Some(Frame::Job(_) | Frame::Input(_) | Frame::Resize(..)) => {}
            None => {
                return Err(SessionError::Lost {
                    words: machine.last_words(),
                });
            }
        }
    }
}

enum Event {
    Frame,
    Typed,
    Timeout,
}

fn wait(machine: &Machine, deadline: Option<Instant>, typing: bool) -> io::Result<Event> {
    let stdin = io::stdin();
    loop {
        let mut fds = vec![PollFd::new(&machine.agent, PollFlags::IN)];
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
            Ok(0) => return Ok(Event::Timeout),
            Ok(_) if fds[0].revents().is_empty() => return Ok(Event::Typed),
            Ok(_) => return Ok(Event::Frame),
        }
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
