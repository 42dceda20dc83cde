//! The command of a job: its input, its output, its time.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::host::{KVM, Pf, STATION};
use super::pair;
use crate::lab::boot::watch;
use crate::lab::wire::{Frame, Job};

/// The status of a command that took too long, as `timeout` has it.
pub(crate) const TIMED_OUT: u8 = 124;

/// Where a command's output is read.
struct Output {
    file: File,
    frame: fn(Vec<u8>) -> Frame,
    open: bool,
}

/// Runs the command to its end, and returns its status as a shell would.
pub(crate) fn run(port: &mut File, job: &Job, pfs: &[Pf]) -> io::Result<u8> {
    let mut command = prepare(job, pfs)?;
    let mut terminal = None;
    let mut input = None;
    let mut outputs = Vec::new();
    if let Some((rows, columns)) = job.terminal {
        let (master, slave) = open_terminal(rows, columns)?;
        command
            .stdin(slave.try_clone()?)
            .stdout(slave.try_clone()?)
            .stderr(slave);
        terminal = Some(File::from(master.try_clone()?));
        outputs.push(Output {
            file: master.into(),
            frame: Frame::Out,
            open: true,
        });
    } else {
        let (out, out_end) = io::pipe()?;
        let (err, err_end) = io::pipe()?;
        command
            .stdin(if job.input {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(out_end)
            .stderr(err_end)
            .process_group(0);
        outputs.push(Output {
            file: OwnedFd::from(out).into(),
            frame: Frame::Out,
            open: true,
        });
        outputs.push(Output {
            file: OwnedFd::from(err).into(),
            frame: Frame::Err,
            open: true,
        });
    }
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let code = if error.kind() == io::ErrorKind::NotFound {
                127
            } else {
                126
            };
            let text = format!("{}: {error}\n", job.command.join(" "));
            Frame::Err(text.into_bytes()).write(port)?;
            return Ok(code);
        }
    };
    // It holds ends of the pipes.
    drop(command);
    if let Some(pipe) = child.stdin.take() {
        input = Some(feed(pipe));
    }
    let ended = watch(&child)?;
    let deadline = job
        .timeout
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let group = Pid::from_raw(child.id().cast_signed());
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            if let Some(group) = group {
                kill_process_group(group, Signal::KILL)?;
            }
            child.wait()?;
            drain(&mut outputs, port)?;
            let text = format!(
                "lab: no end within {} s: {}\n",
                job.timeout.unwrap_or_default(),
                job.command.join(" ")
            );
            Frame::Err(text.into_bytes()).write(port)?;
            return Ok(TIMED_OUT);
        }
        let ready = wait_for(&ended, port, &outputs, left)?;
        if ready.output {
            read_ready(&mut outputs, port)?;
        }
        if ready.ended {
            let status = child.wait()?;
            // What the command's own children still write belongs to nobody.
            drain(&mut outputs, port)?;
            return Ok(code(status));
        }
        if ready.port {
            match Frame::read(port)? {
                Some(Frame::Input(bytes)) => {
                    if let Some(terminal) = &mut terminal {
                        terminal.write_all(&bytes)?;
                    } else if bytes.is_empty() {
                        input = None;
                    } else if let Some(input) = &input {
                        // A command that has closed its input wants no more.
                        let _ = input.send(bytes);
                    }
                }
                Some(Frame::Resize(rows, columns)) => {
                    if let Some(terminal) = &terminal {
                        tcsetwinsize(terminal, window(rows, columns))?;
                    }
                }
                Some(_) => {}
                // The other end is gone: so is the reason to run.
                None => {
                    if let Some(group) = group {
                        kill_process_group(group, Signal::KILL)?;
                    }
                    child.wait()?;
                    return Ok(TIMED_OUT);
                }
            }
        }
    }
}

/// Writes what it is sent to the pipe, from a thread of its own: a command that does not read must still be heard. The
/// pipe's end is the sender's.
fn feed(mut pipe: ChildStdin) -> Sender<Vec<u8>> {
    let (sender, pieces) = channel::<Vec<u8>>();
    std::thread::spawn(move || {
        for piece in pieces {
            if pipe.write_all(&piece).is_err() {
                break;
            }
        }
    });
    sender
}

fn prepare(job: &Job, pfs: &[Pf]) -> io::Result<Command> {
    let (program, arguments) = job
        .command
        .split_first()
        .ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = if job.terminal.is_some() {
        // Makes the terminal the controlling one, without which a shell has no job control.
        let mut setsid = Command::new("setsid");
        setsid.args(["--ctty", "--wait", program]);
        setsid
    } else {
        Command::new(program)
    };
    command
        .args(arguments)
        .current_dir("/checkout")
        .env_clear()
        .env(
            "PATH",
            "/lab/run/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("HOME", "/root")
        .env("LANG", "C.UTF-8")
        .env("TERM", "xterm-256color")
        .env("RUST_BACKTRACE", "1")
        .env("LAB_GUEST_KERNEL", "/lab/guest/vmlinux")
        .env("LAB_GUEST_INITRD", "/lab/guest/initrd")
        .env("LAB_GUEST_TYPE", guest_type())
        .env("LAB_STATION", STATION)
        .env("LAB_DAEMON", job.daemon.name());
    for (number, pf) in pfs.iter().enumerate() {
        command.env(format!("LAB_PF{number}"), &pf.netdev);
    }
    if let Some(member) = job.member {
        command.envs(pair::environment(member));
    }
    command.envs(job.env.iter().map(|(key, value)| (key, value)));
    Ok(command)
}

/// The quickest kind of domain that works here.
fn guest_type() -> &'static str {
    if Path::new(KVM).exists() {
        "kvm"
    } else {
        "qemu"
    }
}

fn open_terminal(rows: u16, columns: u16) -> io::Result<(OwnedFd, OwnedFd)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let name = name.to_string_lossy().into_owned();
    let slave = File::options().read(true).write(true).open(name)?;
    tcsetwinsize(&master, window(rows, columns))?;
    Ok((master, slave.into()))
}

fn window(rows: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// Which of the descriptors have something to say.
struct Ready {
    ended: bool,
    port: bool,
    output: bool,
}

fn wait_for(
    ended: &OwnedFd,
    port: &File,
    outputs: &[Output],
    left: Option<Duration>,
) -> io::Result<Ready> {
    let mut fds = vec![
        PollFd::new(ended, PollFlags::IN),
        PollFd::new(port, PollFlags::IN),
    ];
    let open = outputs.iter().filter(|output| output.open);
    fds.extend(open.map(|output| PollFd::from_borrowed_fd(output.file.as_fd(), PollFlags::IN)));
    let left = left.map(timespec);
    match poll(&mut fds, left.as_ref()) {
        Err(rustix::io::Errno::INTR) => {}
        result => drop(result?),
    }
    let ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
    Ok(Ready {
        ended: ready(&fds[0]),
        port: ready(&fds[1]),
        output: fds[2..].iter().any(ready),
    })
}

/// Passes on what is there now.
fn drain(outputs: &mut [Output], port: &mut File) -> io::Result<()> {
    while read_ready(outputs, port)? {}
    Ok(())
}

/// Reads once from each output that has something; whether any had.
fn read_ready(outputs: &mut [Output], port: &mut File) -> io::Result<bool> {
    let mut any = false;
    for output in outputs.iter_mut().filter(|output| output.open) {
        let mut fds = [PollFd::from_borrowed_fd(output.file.as_fd(), PollFlags::IN)];
        if poll(&mut fds, Some(&timespec(Duration::ZERO)))? == 0 {
            continue;
        }
        let mut bytes = vec![0; 64 * 1024];
        // A terminal whose last process has ended says EIO, which is its end of file.
        let length = match output.file.read(&mut bytes) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => 0,
            result => result?,
        };
        if length == 0 {
            output.open = false;
        } else {
            bytes.truncate(length);
            (output.frame)(bytes).write(port)?;
            any = true;
        }
    }
    Ok(any)
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: duration.as_secs().cast_signed(),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

/// The status as a shell shows it: 128 and the signal for a command that a signal ended.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| Some(128 + status.signal()?));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(255)
}
