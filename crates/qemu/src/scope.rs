//! A control group of each guest's own, where systemd runs.
//!
//! A guest's process begins in the control group of whoever starts it, which is the daemon's
//! service. There it counts against the service's limits, and goes with the service: by its OOM
//! policy, or when it is stopped with a `KillMode` other than `process`. So systemd is asked to make
//! a transient scope of the process, as `systemd-machined` does for libvirt's guests.
//!
//! Whatever comes in the way of that costs the guest its scope, and is no reason not to start it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use conf::Uuid;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout_at};

#[cfg(test)]
mod tests;

/// For the call and what comes of it. A start waits for no more than that.
const DEADLINE: Duration = Duration::from_secs(5);

/// Between two looks at the group of a process: nobody tells when that changes. systemd takes a few
/// milliseconds.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// How many bytes of `busctl`'s words are read.
const WORDS: u64 = 1024;

/// The slice of all machines, which is systemd's own and libvirt's, too.
const SLICE: &str = "machine.slice";

/// The daemon's own service.
const SERVICE: &str = "virtnicd.service";

/// What is stopped before any guest is when the host goes down, as `libvirt-guests.service` is
/// before it.
const GUESTS_DOWN: &str = "virt-guest-shutdown.target";

/// Processes and threads of one guest; the number is that of `systemd-machined`. Without it the
/// manager's `DefaultTasksMax` would count, which may be too few for a guest with many disks.
const TASKS: &str = "16384";

/// systemd's scopes: where guests' processes go.
#[derive(Debug, Clone)]
pub struct Scopes {
    /// The program that calls systemd: a path, or a name that is looked up among the system's.
    pub busctl: PathBuf,
    /// How long a start waits for systemd, at most.
    pub deadline: Duration,
    proc: PathBuf,
}

impl Scopes {
    /// Those of this host; `None`: systemd doesn't run it. `booted` is the directory that is there
    /// if it does: `/run/systemd/system`, as `sd_booted(3)` has it.
    #[must_use]
    pub fn under_systemd(booted: &Path) -> Option<Self> {
        booted.is_dir().then(|| Self {
            busctl: "busctl".into(),
            deadline: DEADLINE,
            proc: "/proc".into(),
        })
    }

    /// Moves a guest's process, which has not been collected, into a scope of its own. Returns when
    /// it is there, or after a warning.
    pub(crate) async fn move_guest(&self, name: &str, uuid: Uuid, pid: u32) {
        let scope = Scope { name, uuid, pid };
        match self.make(&scope).await {
            Ok(()) => tracing::debug!(guest = name, scope = scope.unit(), "has its scope"),
            Err(error) => tracing::warn!(
                guest = name,
                pid,
                %error,
                "it has no scope of its own and stays in the daemon's control group: an OOM policy \
                 of the daemon's service, or a stop of it without KillMode=process, ends the guest"
            ),
        }
    }

    async fn make(&self, scope: &Scope<'_>) -> Result<(), ScopeError> {
        let until = Instant::now() + self.deadline;
        let late = |_| ScopeError::Silent {
            program: self.busctl.clone(),
            within: self.deadline,
        };
        timeout_at(until, self.call(scope)).await.map_err(late)??;
        // The answer only means that systemd is going to do it.
        let group = self.proc.join(scope.pid.to_string()).join("cgroup");
        loop {
            // A process that is gone needs no scope, and its end is told by others.
            let Ok(groups) = tokio::fs::read_to_string(&group).await else {
                return Ok(());
            };
            if scope.is_in(&groups) {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(ScopeError::NotMoved {
                    scope: scope.unit(),
                    within: self.deadline,
                });
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Calls systemd. When this is dropped `busctl` is killed.
    async fn call(&self, scope: &Scope<'_>) -> Result<(), ScopeError> {
        let failed = |source| ScopeError::Run {
            program: self.busctl.clone(),
            source,
        };
        let mut command = Command::new(&self.busctl);
        command
            .args(["--system", "--quiet", "--no-pager"])
            // Nobody is there to type a password.
            .arg("--allow-interactive-authorization=no")
            .args(["--", "call"])
            .args(scope.call())
            .env_clear()
            .env("LC_ALL", "C")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // The kernel may have to read the program from a disk first.
        let spawned = tokio::task::spawn_blocking(move || command.spawn()).await;
        let spawned = spawned.unwrap_or_else(|error| Err(io::Error::other(error)));
        let mut child = spawned.map_err(failed)?;
        let words = words(&mut child).await;
        let status = child.wait().await.map_err(failed)?;
        if status.success() {
            return Ok(());
        }
        Err(ScopeError::Refused {
            program: self.busctl.clone(),
            status,
            words,
        })
    }
}

/// The first line that a program says, until it says no more, or too much.
async fn words(child: &mut Child) -> String {
    let mut words = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        // What was read until it failed is all there is.
        let _ = stderr.take(WORDS).read_to_end(&mut words).await;
    }
    let words = String::from_utf8_lossy(&words);
    let line = words.lines().map(str::trim).find(|line| !line.is_empty());
    line.unwrap_or("nothing").chars().take(200).collect()
}

/// One guest's scope.
struct Scope<'a> {
    name: &'a str,
    uuid: Uuid,
    pid: u32,
}

impl Scope<'_> {
    /// The unit's name: no other start of the guest has it, also if that one's scope is still there.
    fn unit(&self) -> String {
        format!("virtnic-{}-{}.scope", self.uuid, self.pid)
    }

    /// Whether these are the process's groups (`/proc/PID/cgroup`, a line for each hierarchy) when
    /// it is in the scope.
    fn is_in(&self, groups: &str) -> bool {
        let unit = self.unit();
        let mut last_parts = groups.lines().filter_map(|line| line.rsplit('/').next());
        last_parts.any(|part| part == unit)
    }

    /// What follows `busctl call`, see its manual: a method, its signature, and each of its
    /// arguments as a word of its own. An array has its length before it, a variant its type.
    ///
    /// A scope's `KillMode` stays as it is. With the host going down its process gets SIGTERM, by
    /// which QEMU writes out what it has of its disks, and SIGKILL after 90 s; the daemon, which
    /// gives the devices back, goes later.
    fn call(&self) -> Vec<String> {
        let pid = self.pid.to_string();
        let description = format!("guest {} of virtnicd", self.name);
        let properties: [&[&str]; 7] = [
            &["Description", "s", &description],
            &["Slice", "s", SLICE],
            &["PIDs", "au", "1", &pid],
            // Nothing of it stays when its process has ended, however that was.
            &["CollectMode", "s", "inactive-or-failed"],
            &["TasksMax", "t", TASKS],
            // Orders only, and there need be no such unit.
            &["After", "as", "1", SERVICE],
            &["Before", "as", "1", GUESTS_DOWN],
        ];
        let (unit, count) = (self.unit(), properties.len().to_string());
        let method: &[&str] = &[
            "org.freedesktop.systemd1",
            "/org/freedesktop/systemd1",
            "org.freedesktop.systemd1.Manager",
            "StartTransientUnit",
            "ssa(sv)a(sa(sv))",
            &unit,
            // A scope of that name, or a host that goes down, is not to be disturbed.
            "fail",
            &count,
        ];
        let no_other_units: &[&str] = &["0"];
        std::iter::once(method)
            .chain(properties)
            .chain(std::iter::once(no_other_units))
            .flatten()
            .map(|&word| word.to_owned())
            .collect()
    }
}

/// Why a guest has no scope.
#[derive(Debug, thiserror::Error)]
enum ScopeError {
    #[error("{} can't be run: {source}", program.display())]
    Run { program: PathBuf, source: io::Error },
    #[error("{} ended with {status} and said: {words}", program.display())]
    Refused {
        program: PathBuf,
        status: ExitStatus,
        words: String,
    },
    #[error("{} did not answer within {} s", program.display(), within.as_secs_f32())]
    Silent { program: PathBuf, within: Duration },
    #[error("systemd did not move it into {scope} within {} s", within.as_secs_f32())]
    NotMoved { scope: String, within: Duration },
}
