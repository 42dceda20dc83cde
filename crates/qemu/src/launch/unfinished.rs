//! A start that is not finished.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use host::Spawned;
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Signal, WaitId, WaitIdOptions};

use crate::process::{KernelProcess, Process};
use crate::run_dir::RunDir;
use crate::simulated::Machine;

/// A process that is killed and collected, and whose directory is removed, unless it is kept.
#[derive(Debug)]
pub(super) struct Unfinished(Option<(Started, RunDir)>);

#[derive(Debug)]
pub(super) enum Started {
    Qemu(Spawned),
    Simulated(Arc<Machine>),
}

impl Unfinished {
    pub(super) fn new(started: Started, run_dir: RunDir) -> Self {
        Self(Some((started, run_dir)))
    }

    /// Begins to watch the process, which stays unfinished. Needs the runtime.
    pub(super) fn watch(&self) -> io::Result<Process> {
        match &self.0 {
            Some((Started::Qemu(spawned), _)) => {
                let pidfd = spawned.pidfd.try_clone()?;
                KernelProcess::started(spawned.pid, pidfd).map(Process::Qemu)
            }
            Some((Started::Simulated(machine), _)) => Ok(Process::Simulated(Arc::clone(machine))),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// The start is finished.
    pub(super) fn keep(mut self) {
        if let Some((_, run_dir)) = self.0.take() {
            run_dir.keep();
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        match self.0.take() {
            Some((Started::Qemu(spawned), _)) => kill(spawned.pid, spawned.pidfd),
            Some((Started::Simulated(machine), _)) => machine.signal(Signal::KILL),
            None => {}
        }
    }
}

fn kill(pid: u32, pidfd: OwnedFd) {
    match rustix::process::pidfd_send_signal(&pidfd, Signal::KILL) {
        Ok(()) => {}
        Err(rustix::io::Errno::SRCH) => return, // gone and collected
        Err(error) => tracing::error!(pid, %error, "ending an unfinished start"),
    }
    // Someone has to collect it. The runtime may be about to end, and SIGKILL may take its time.
    let collect = move || {
        let _ = rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None);
        let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
    };
    let thread = std::thread::Builder::new().name("collect".to_owned());
    if let Err(error) = thread.spawn(collect) {
        tracing::error!(pid, %error, "an ended process is not collected");
    }
}
