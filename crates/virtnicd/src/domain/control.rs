//! Running guests: what they do, and what is done to them.

use std::sync::Arc;

use qemu::{ControlError, Guest, GuestState, PauseReason};
use rpc::{Code, DomainState, Error};

use super::{DOMAIN, DomainObject, QEMU, Running};
use crate::daemon::Daemon;
use crate::fault::{self, Result};
use crate::sync::lock;

/// Paused, since it is starting up; libvirt's numbers.
pub(super) const STARTING: DomainState = DomainState {
    state: 3,
    reason: 11,
};

/// How long a command that a user typed may take.
const MONITOR_DEADLINE: std::time::Duration = std::time::Duration::from_secs(60);

/// libvirt's numbers of a guest's state and of its reason.
pub(super) fn state_and_reason(running: &Running) -> DomainState {
    let (state, reason) = match running.guest.state() {
        GuestState::Running if running.resumed => (1, 5),
        GuestState::Running => (1, 1),
        GuestState::Paused(reason) => (
            3,
            match reason {
                PauseReason::Starting | PauseReason::User => 1,
                PauseReason::Migration => 2,
                PauseReason::IoError => 5,
                PauseReason::Watchdog => 6,
                PauseReason::Preserved => 8,
                PauseReason::Other => 0,
            },
        ),
        GuestState::ShuttingDown => (4, 1),
        GuestState::Crashed => (6, 1),
        GuestState::Asleep => (7, 0),
        GuestState::Unknown => (0, 0),
        // About to be cleaned up.
        GuestState::Ended => (4, 0),
    };
    DomainState { state, reason }
}

/// What a guest's process has used of the processors, nanoseconds; 0 where that is not known.
pub(super) fn cpu_time(guest: &Guest) -> u64 {
    let Some(pid) = guest.pid() else { return 0 };
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Fields 14 and 15, after the name in parentheses, in clock ticks.
    let ticks: u64 = stat.rsplit_once(')').map_or(0, |(_, rest)| {
        rest.split_ascii_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|n| n.parse::<u64>().ok())
            .sum()
    });
    ticks.saturating_mul(1_000_000_000) / rustix::param::clock_ticks_per_second().max(1)
}

impl Daemon {
    pub(crate) async fn suspend_domain(self: &Arc<Self>, object: &Arc<DomainObject>) -> Result<()> {
        let _job = object.job.lock().await;
        self.guest(object)?.suspend().await.map_err(control)?;
        if let Err(error) = self.switch_links(object.uuid, false).await {
            tracing::warn!(guest = object.name, %error, "paused, and its links are still on");
        }
        Ok(())
    }

    pub(crate) async fn resume_domain(self: &Arc<Self>, object: &Arc<DomainObject>) -> Result<()> {
        let _job = object.job.lock().await;
        let guest = self.guest(object)?;
        if guest.state() == GuestState::Running {
            return Err(fault::invalid(QEMU, "domain is already running"));
        }
        self.switch_links(object.uuid, true).await?;
        if let Err(error) = guest.resume().await {
            // Its own failure is the lesser news.
            let _ = self.switch_links(object.uuid, false).await;
            return Err(control(error));
        }
        let status = &mut *lock(&object.state);
        if let Some(running) = &mut status.running {
            running.resumed = true;
            if let Err(error) = self.record_running(object, running) {
                tracing::warn!(guest = object.name, %error, "its record is behind");
            }
        }
        Ok(())
    }

    /// Presses the guest's power button; what it makes of that is up to it.
    pub(crate) async fn shut_domain_down(&self, object: &Arc<DomainObject>) -> Result<()> {
        self.guest(object)?.shutdown().await.map_err(control)
    }

    pub(crate) async fn reboot_domain(&self, object: &Arc<DomainObject>) -> Result<()> {
        self.guest(object)?.reboot().await.map_err(control)
    }

    pub(crate) async fn reset_domain(&self, object: &Arc<DomainObject>) -> Result<()> {
        self.guest(object)?.reset().await.map_err(control)
    }

    /// Sends a line to QEMU's monitor, and gives QEMU's answer as it is, errors included.
    pub(crate) async fn monitor_command(
        &self,
        object: &Arc<DomainObject>,
        command: &str,
        human: bool,
    ) -> Result<String> {
        let guest = self.guest(object)?;
        let answer = if human {
            guest.human(command, MONITOR_DEADLINE).await
        } else {
            guest.pass_through(command, MONITOR_DEADLINE).await
        };
        answer.map_err(control)
    }

    /// The process of a guest that runs.
    pub(super) fn guest(&self, object: &DomainObject) -> Result<Guest> {
        let status = lock(&object.state);
        status
            .running
            .as_ref()
            .map(|running| running.guest.clone())
            .ok_or_else(|| object.not_running())
    }
}

/// A guest that could not be controlled.
pub(super) fn control(error: ControlError) -> Error {
    match &error {
        ControlError::Ended { .. } => fault::invalid(DOMAIN, "domain is not running"),
        ControlError::StillThere { .. } | ControlError::Silent { .. } => {
            Error::new(Code::OperationFailed, QEMU, error.to_string())
        }
        _ => Error::new(Code::InternalError, QEMU, fault::chain(&error)),
    }
}
