//! A process, ours or an earlier daemon's, held by a descriptor and not by its number.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use host::MemoryLock;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::sync::OnceCell;

use crate::ExitStatus;
use crate::qmp::Wire;
use crate::simulated::Machine;
use crate::socket;

/// A guest's process, or what plays it.
#[derive(Debug)]
pub(crate) enum Process {
    Qemu(KernelProcess),
    Simulated(Arc<Machine>),
}

impl Process {
    /// Its number; a simulated one's is none that the kernel gives.
    pub(crate) fn pid(&self) -> u32 {
        match self {
            Self::Qemu(process) => process.pid,
            Self::Simulated(machine) => machine.pid(),
        }
    }

    pub(crate) fn start_time(&self) -> u64 {
        match self {
            Self::Qemu(process) => process.start_time,
            Self::Simulated(machine) => machine.start_time(),
        }
    }

    /// Sends a signal. A process that has ended already is fine.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match self {
            Self::Qemu(process) => process.signal(signal),
            Self::Simulated(machine) => {
                machine.signal(signal);
                Ok(())
            }
        }
    }

    /// Lets it lock more memory; a limit that is high enough stays.
    pub(crate) fn raise_memory_lock(&self, wanted: MemoryLock) -> io::Result<()> {
        match self {
            // Its number is its own for as long as its end was not seen.
            Self::Qemu(process) if has_ended(process.pidfd.get_ref())? => Err(Errno::SRCH.into()),
            Self::Qemu(process) => host::raise_memory_lock(process.pid, wanted),
            Self::Simulated(machine) => machine.raise_memory_lock(wanted),
        }
    }

    /// Waits for the end; the status is known of a child only. Any number of callers may wait,
    /// again and again.
    pub(crate) async fn ended(&self) -> Option<ExitStatus> {
        match self {
            Self::Qemu(process) => process.ended().await,
            Self::Simulated(machine) => Some(machine.ended().await),
        }
    }

    /// Connects to its monitor, which is at that path.
    pub(crate) fn connect(&self, monitor: &Path) -> io::Result<Wire> {
        match self {
            Self::Qemu(_) => {
                let stream = socket::connect(monitor)?;
                UnixStream::from_std(stream).map(Wire::Socket)
            }
            Self::Simulated(machine) => machine.connect(),
        }
    }
}

/// What a number and a time of start stand for now.
#[derive(Debug)]
pub(crate) enum Sought {
    /// The process that was started then.
    Here(KernelProcess),
    /// Another one has the number.
    Another,
    Gone,
}

/// A process of the kernel's and the one moment of its end.
#[derive(Debug)]
pub(crate) struct KernelProcess {
    pid: u32,
    start_time: u64,
    pidfd: AsyncFd<OwnedFd>,
    is_child: bool,
    end: OnceCell<Option<ExitStatus>>,
}

impl KernelProcess {
    /// One that we just started.
    pub(crate) fn started(pid: u32, pidfd: OwnedFd) -> io::Result<Self> {
        // It is not reaped yet, so its entry in /proc is there.
        Self::new(pid, start_time(pid)?, pidfd, true)
    }

    /// One that runs, if it is the one that started then.
    pub(crate) fn find(pid: u32, started: u64) -> io::Result<Sought> {
        let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return Ok(Sought::Gone);
        };
        let pidfd = match rustix::process::pidfd_open(number, PidfdFlags::NONBLOCK) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => return Ok(Sought::Gone),
            Err(error) => return Err(error.into()),
        };
        if has_ended(&pidfd)? {
            return Ok(Sought::Gone); // only waits to be collected
        }
        // Asked after the descriptor was taken, so the answer is about the process that it holds.
        match start_time(pid) {
            Ok(time) if time == started => Self::new(pid, time, pidfd, false).map(Sought::Here),
            Ok(_) => Ok(Sought::Another),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Sought::Gone),
            Err(error) => Err(error),
        }
    }

    fn new(pid: u32, start_time: u64, pidfd: OwnedFd, is_child: bool) -> io::Result<Self> {
        Ok(Self {
            pid,
            start_time,
            pidfd: watched(pidfd, Interest::READABLE)?,
            is_child,
            end: OnceCell::new(),
        })
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(self.pidfd.get_ref(), signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn ended(&self) -> Option<ExitStatus> {
        *self.end.get_or_init(|| self.wait()).await
    }

    async fn wait(&self) -> Option<ExitStatus> {
        loop {
            let mut ready = match self.pidfd.readable().await {
                Ok(ready) => ready,
                Err(error) => {
                    tracing::error!(pid = self.pid, %error, "waiting for a process");
                    return None;
                }
            };
            if !self.is_child {
                return None;
            }
            let end = WaitId::PidFd(self.pidfd.get_ref().as_fd());
            match rustix::process::waitid(end, WaitIdOptions::EXITED) {
                Ok(Some(status)) => {
                    return match (status.exit_status(), status.terminating_signal()) {
                        (Some(code), _) => Some(ExitStatus::Code(code)),
                        (None, Some(signal)) => Some(ExitStatus::Signal(signal)),
                        (None, None) => None,
                    };
                }
                Ok(None) | Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                // Somebody else reaped it.
                Err(_) => return None,
            }
        }
    }
}

/// Whether the process has ended, without waiting.
fn has_ended(pidfd: &OwnedFd) -> io::Result<bool> {
    let mut polled = [PollFd::new(pidfd, PollFlags::IN)];
    let now = Timespec::default();
    Ok(rustix::event::poll(&mut polled, Some(&now))? > 0)
}

/// A descriptor whose readiness can be waited for, within a tokio runtime.
#[expect(
    deprecated,
    reason = "what replaces it is unsafe, for sources that close or change their descriptor; one \
              that is owned does neither"
)]
pub(crate) fn watched(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, interest)
}

/// When the process started, in clock ticks since boot: field 22 of `/proc/PID/stat`.
fn start_time(pid: u32) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_start_time(&stat).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn parse_start_time(stat: &str) -> Option<u64> {
    // The second field is the program's name in parentheses, and may hold any character.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_time_is_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1000 1";
        assert_eq!(parse_start_time(stat), Some(4242));
        assert_eq!(parse_start_time("7 (cut"), None);
    }

    #[tokio::test]
    async fn a_reused_number_is_another_process() {
        let me = std::process::id();
        let started = start_time(me).unwrap();
        let find = |pid, started| KernelProcess::find(pid, started).unwrap();
        assert!(matches!(find(me, started), Sought::Here(_)));
        assert!(matches!(find(me, started + 1), Sought::Another));
        // No process has the greatest number.
        assert!(matches!(find(i32::MAX as u32, started), Sought::Gone));
    }
}
