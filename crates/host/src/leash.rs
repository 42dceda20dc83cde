//! A process that stops when ours ends, by the kernel alone: whatever ends us, nobody has to be there to
//! see to it.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::OFlags;

/// `F_SETSIG` of the kernel's `asm-generic/fcntl.h`.
const SET_SIGNAL: i32 = 10;

/// A pipe of which the process has an end. When the other end, which only we have, is closed by our end the
/// kernel sends the process SIGSTOP (`fcntl(2)`, `F_SETSIG` and `O_ASYNC`): it halts where it is, and loses
/// nothing.
#[derive(Debug)]
pub struct Leash {
    reader: PipeReader,
    _writer: PipeWriter,
}

impl Leash {
    /// One that holds nobody yet.
    ///
    /// # Errors
    /// The kernel has no descriptors left.
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        Ok(Self {
            reader,
            _writer: writer,
        })
    }

    /// What the process is to have open as long as it lives.
    ///
    /// # Errors
    /// The kernel has no descriptors left.
    pub fn end_for_process(&self) -> io::Result<OwnedFd> {
        self.reader.as_fd().try_clone_to_owned()
    }

    /// From now on that process, which has [its end](Self::end_for_process), stops when we end.
    ///
    /// # Errors
    /// The kernel's refusal; nothing is changed.
    pub fn fasten(&self, pid: u32) -> io::Result<()> {
        let pid = i32::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.control(libc::F_SETOWN, pid)?;
        self.control(SET_SIGNAL, libc::SIGSTOP)?;
        self.set_async(true)
    }

    /// From now on it doesn't.
    ///
    /// # Errors
    /// The kernel's refusal: it still stops when we end.
    pub fn let_off(&self) -> io::Result<()> {
        self.set_async(false)
    }

    fn set_async(&self, on: bool) -> io::Result<()> {
        let is_async = OFlags::from_bits_retain(libc::O_ASYNC.cast_unsigned());
        let mut flags = rustix::fs::fcntl_getfl(&self.reader)?;
        flags.set(is_async, on);
        Ok(rustix::fs::fcntl_setfl(&self.reader, flags)?)
    }

    fn control(&self, command: i32, value: i32) -> io::Result<()> {
        #[expect(
            unsafe_code,
            reason = "rustix has no word for who is sent which signal"
        )]
        // SAFETY: both commands take a number, and change nothing but the descriptor, which is ours.
        let result = unsafe { libc::fcntl(self.reader.as_raw_fd(), command, value) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::process::{Child, Command};

    use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

    use super::*;

    /// A process with an end of that leash.
    fn started(leash: &Leash) -> Child {
        let end = leash.end_for_process().unwrap();
        let mut command = Command::new("sleep");
        command.arg("60").stdin(end);
        command.process_group(0);
        command.spawn().unwrap()
    }

    fn pid_of(child: &Child) -> Pid {
        Pid::from_raw(child.id().cast_signed()).unwrap()
    }

    /// Waits until it is stopped.
    fn stops(child: &Child) -> bool {
        let options = WaitIdOptions::STOPPED;
        let status = rustix::process::waitid(WaitId::Pid(pid_of(child)), options);
        status.unwrap().unwrap().stopped()
    }

    fn end(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_process_stops_when_its_leash_is_dropped() {
        let leash = Leash::new().unwrap();
        let child = started(&leash);
        leash.fasten(child.id()).unwrap();
        drop(leash);
        assert!(stops(&child));
        end(child);
    }

    #[test]
    fn a_process_that_was_let_off_goes_on() {
        let leash = Leash::new().unwrap();
        let child = started(&leash);
        leash.fasten(child.id()).unwrap();
        leash.let_off().unwrap();
        drop(leash);
        // Had it been stopped, that would have been before.
        rustix::process::kill_process(pid_of(&child), Signal::TERM).unwrap();
        let options = WaitIdOptions::EXITED | WaitIdOptions::STOPPED;
        let status = rustix::process::waitid(WaitId::Pid(pid_of(&child)), options);
        assert!(!status.unwrap().unwrap().stopped());
    }

    #[test]
    fn it_is_not_stopped_before_it_is_fastened() {
        let leash = Leash::new().unwrap();
        let child = started(&leash);
        drop(leash);
        rustix::process::kill_process(pid_of(&child), Signal::TERM).unwrap();
        let options = WaitIdOptions::EXITED | WaitIdOptions::STOPPED;
        let status = rustix::process::waitid(WaitId::Pid(pid_of(&child)), options);
        assert!(!status.unwrap().unwrap().stopped());
    }
}
