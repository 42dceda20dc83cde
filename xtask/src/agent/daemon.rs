//! The daemon that answers `virsh -c qemu:///system` in the emulated host.

use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use super::host::program;
use super::{AgentError, cant};
use crate::lab::wire::Daemon;

/// How long a daemon may take to be ready, in a machine that may be emulated.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where the daemon says that it is ready.
const NOTIFY: &str = "/run/lab-notify";
/// Our daemon's log.
pub(crate) const LOG: &str = "/var/log/virtnicd.log";
/// The peer's.
const LIBVIRT_LOG: &str = "/var/log/libvirt/libvirtd.log";
/// Lines of the log that are shown after a failure.
const SHOWN: usize = 60;

/// A daemon that is ready.
#[derive(Debug)]
pub(crate) struct Started {
    log: Option<&'static str>,
}

impl Started {
    /// The end of its log, if it has one, under a line that says so.
    pub(crate) fn last_lines(&self, host: &str) -> Option<String> {
        let path = self.log?;
        let text = fs::read(path).ok()?;
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let shown = lines[lines.len().saturating_sub(SHOWN)..].join("\n");
        Some(format!(
            "---- the end of {path} in the emulated host {host}:\n{shown}\n----\n"
        ))
    }
}

/// Starts it and waits until it is ready.
pub(crate) fn start(daemon: Daemon) -> Result<Started, AgentError> {
    match daemon {
        Daemon::None => Ok(Started { log: None }),
        Daemon::Libvirtd => {
            for dir in ["/run/libvirt", "/var/log/libvirt"] {
                fs::create_dir_all(dir).map_err(cant(format!("make {dir}")))?;
            }
            program("virtlogd", &["-d"])?;
            // Warnings and errors.
            let outputs = format!("LIBVIRT_LOG_OUTPUTS=3:file:{LIBVIRT_LOG}");
            program("env", &[&outputs, "libvirtd", "-d"])?;
            Ok(Started {
                log: Some(LIBVIRT_LOG),
            })
        }
        Daemon::Virtnicd => start_virtnicd(),
    }
}

fn start_virtnicd() -> Result<Started, AgentError> {
    let socket = UnixDatagram::bind(NOTIFY).map_err(cant("listen for the daemon's readiness"))?;
    let log = File::create(LOG).map_err(cant(format!("make {LOG}")))?;
    let errors = log.try_clone().map_err(cant(format!("share {LOG}")))?;
    let mut child = Command::new("/lab/run/bin/virtnicd")
        .args(["--libvirt-sockets", "/run/libvirt"])
        .env("NOTIFY_SOCKET", NOTIFY)
        .env("RUST_BACKTRACE", "1")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .map_err(cant("start virtnicd"))?;
    if ready(&socket, &mut child)? {
        return Ok(Started { log: Some(LOG) });
    }
    Err(AgentError::Program {
        what: "virtnicd".to_owned(),
        output: fs::read_to_string(LOG).unwrap_or_default(),
    })
}

/// Waits for the daemon's `READY=1`; false if it ended before, or said nothing for too long.
fn ready(socket: &UnixDatagram, child: &mut Child) -> Result<bool, AgentError> {
    let (heard, news) = mpsc::channel();
    let listener = socket
        .try_clone()
        .map_err(cant("listen for the daemon's readiness"))?;
    let of_message = heard.clone();
    std::thread::spawn(move || {
        let mut message = [0; 4096];
        while let Ok(length) = listener.recv(&mut message) {
            let ready = message[..length]
                .split(|byte| *byte == b'\n')
                .any(|line| line == b"READY=1");
            // Nobody listens any more once somebody gave up.
            if ready && of_message.send(true).is_err() {
                break;
            }
        }
    });
    let ended = crate::lab::boot::watch(child).map_err(cant("watch virtnicd"))?;
    std::thread::spawn(move || {
        let mut fds = [rustix::event::PollFd::new(
            &ended,
            rustix::event::PollFlags::IN,
        )];
        if rustix::event::poll(&mut fds, None).is_ok() {
            // As above.
            let _ = heard.send(false);
        }
    });
    Ok(news.recv_timeout(PATIENCE).unwrap_or(false))
}
