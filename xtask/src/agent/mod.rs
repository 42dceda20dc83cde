//! The agent: the first program of the emulated host. It makes the host ready, starts the daemon, runs one command, and
//! tells the other end of the wire how it went.
//!
//! It is two processes. The first one, PID 1, only buries the dead: whoever looks for a process that has ended must not
//! find its zombie. The second one does the work.

mod command;
mod daemon;
mod host;
pub(crate) mod on;
mod pair;
pub(crate) mod tests;

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::{Pid, WaitOptions, wait};
use rustix::system::{RebootCommand, reboot};

use crate::lab::pair::Member;
use crate::lab::wire::{Frame, Job, PORT};

/// Why the host could not be made ready.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    /// A step of the kernel's or a file's failed.
    #[error("can't {what}")]
    Io {
        /// The step.
        what: String,
        /// The refusal.
        source: io::Error,
    },
    /// A program said no.
    #[error("{what} failed: {output}")]
    Program {
        /// What was asked of it.
        what: String,
        /// What it said.
        output: String,
    },
    /// The wire carried something else than a job.
    #[error("no job on the wire")]
    NoJob,
}

/// For `map_err`: what was tried.
fn cant<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> AgentError {
    move |source| AgentError::Io {
        what: what.into(),
        source: source.into(),
    }
}

/// PID 1: starts the worker, buries the dead, and powers off once the worker has ended.
pub(crate) fn init() -> ! {
    let worker = Command::new("/proc/self/exe")
        .args(["lab-agent", "--worker"])
        .spawn();
    match worker {
        Ok(worker) => {
            let worker = Pid::from_raw(worker.id().cast_signed());
            while let Ok(dead) = wait(WaitOptions::empty()) {
                if dead.map(|(pid, _)| pid) == worker {
                    break;
                }
            }
        }
        Err(error) => crate::ui::say(&format!("lab: no worker: {error}")),
    }
    // Nothing needs saving: the root is memory over a read-only file system.
    let _ = reboot(RebootCommand::PowerOff);
    std::process::exit(1)
}

/// Does the work.
pub(crate) fn work() {
    let mut port = match find_port() {
        Ok(port) => port,
        Err(error) => return crate::ui::say(&format!("lab: no wire: {error}")),
    };
    let last = match serve(&mut port) {
        Ok(code) => Frame::Exit(code),
        Err(error) => Frame::Failed(with_sources(&error)),
    };
    if let Err(error) = last.write(&mut port) {
        crate::ui::say(&format!("lab: the wire broke: {error}"));
    }
}

fn serve(port: &mut File) -> Result<u8, AgentError> {
    let job: Job = match Frame::read(port) {
        Ok(Some(Frame::Job(json))) => {
            serde_json::from_slice(&json).map_err(|_| AgentError::NoJob)?
        }
        Ok(_) => return Err(AgentError::NoJob),
        Err(error) => return Err(cant("read the job")(error)),
    };
    host::mounts(&job)?;
    let pfs = host::devices(job.vfs)?;
    host::station(&pfs, job.member)?;
    if let Some(member) = job.member {
        pair::join(member)?;
    }
    let daemon = daemon::start(job.daemon)?;
    host::wait_for_links(&pfs)?;
    if let Some(member) = job.member {
        pair::open(member, &job, &pfs)?;
    }
    tell(port, Frame::Note(host::summary(&pfs)))?;
    let code = if job.member == Some(Member::Second) {
        wait_for(port, |frame| match frame {
            Frame::Exit(code) => Some(*code),
            _ => None,
        })?
    } else {
        if job.member.is_some() {
            wait_for(port, |frame| (*frame == Frame::Go).then_some(()))?;
        }
        command::run(port, &job, &pfs).map_err(cant(format!("run {}", job.command.join(" "))))?
    };
    if code != 0
        && let Some(log) = daemon.last_lines(job.hostname())
    {
        tell(port, Frame::Err(log.into_bytes()))?;
    }
    Ok(code)
}

/// Reads frames up to one that is wanted.
fn wait_for<T>(port: &mut File, wanted: impl Fn(&Frame) -> Option<T>) -> Result<T, AgentError> {
    loop {
        match Frame::read(port).map_err(cant("read from the wire"))? {
            Some(frame) => {
                if let Some(found) = wanted(&frame) {
                    return Ok(found);
                }
            }
            None => return Err(cant("read from the wire")(io::ErrorKind::UnexpectedEof)),
        }
    }
}

fn tell(port: &mut File, frame: Frame) -> Result<(), AgentError> {
    frame.write(port).map_err(cant("write to the wire"))
}

/// The virtio port with our name. Without udev nobody makes links to it.
fn find_port() -> io::Result<File> {
    for entry in fs::read_dir("/sys/class/virtio-ports")? {
        let entry = entry?;
        if fs::read_to_string(entry.path().join("name"))?.trim() == PORT {
            let device = PathBuf::from("/dev").join(entry.file_name());
            return File::options().read(true).write(true).open(device);
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// An error and what is behind it, on one line.
pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}
