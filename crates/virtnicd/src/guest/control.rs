//! Running guests: what they do, and what is done to them.

use std::sync::Arc;

use qemu::{ControlError, GuestState, PauseReason, QmpError};
use rpc::{Code, DomainState, Error};

use super::handle::{GuestHandle, Run};
use super::{DOMAIN, QEMU, links, record};
use crate::daemon::Daemon;
use crate::fault::{self, Result};

/// Paused, since it is starting up; libvirt's numbers.
pub(super) const STARTING: DomainState = DomainState {
    state: 3,
    reason: 11,
};

/// How long a command that a user typed may take.
const MONITOR_DEADLINE: std::time::Duration = std::time::Duration::from_secs(60);

/// libvirt's numbers of a guest's state and of its reason.
pub(super) fn state_and_reason(run: &Run) -> DomainState {
    let (state, reason) = match run.machine.state() {
        GuestState::Running if run.resumed => (1, 5),
        GuestState::Running if run.arrived => (1, 2),
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
        // About to be cleaned up.
        GuestState::Ended => (4, 0),
        GuestState::Unknown => (0, 0),
    };
    DomainState { state, reason }
}

/// What a guest's process has used of the processors, nanoseconds; 0 where that is not known.
pub(super) fn cpu_time(run: &Run) -> u64 {
    let Some(pid) = run.machine.pid() else {
        return 0;
    };
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

/// What came of it.
pub(super) struct Controlled {
    /// Somebody let it run who was not its start.
    pub(super) resumed: bool,
}

/// Halts it, then switches its links off.
pub(super) async fn suspend(
    daemon: &Arc<Daemon>,
    handle: &GuestHandle,
    run: &Run,
) -> Result<Controlled> {
    run.machine.suspend().await.map_err(control)?;
    if let Err(error) = links::switch(daemon, &run.attachments, false).await {
        tracing::warn!(guest = handle.name, %error, "paused, and its links are still on");
    }
    Ok(Controlled { resumed: false })
}

/// Switches its links on, then lets it run.
pub(super) async fn resume(
    daemon: &Arc<Daemon>,
    handle: &GuestHandle,
    run: &Run,
) -> Result<Controlled> {
    let machine = &run.machine;
    if machine.state() == GuestState::Running {
        return Err(fault::invalid(QEMU, "domain is already running"));
    }
    links::switch(daemon, &run.attachments, true).await?;
    if let Err(error) = machine.resume().await {
        // Its own failure is the lesser news.
        let _ = links::switch(daemon, &run.attachments, false).await;
        return Err(control(error));
    }
    let resumed = Run {
        resumed: true,
        ..run.clone()
    };
    record::write_or_warn(daemon, handle, &resumed).await;
    Ok(Controlled { resumed: true })
}

/// What changes nothing that is kept here: QEMU is asked, and may take its time.
impl GuestHandle {
    /// Presses the guest's power button; what it makes of that is up to it.
    pub(crate) async fn shut_down(&self) -> Result<()> {
        let run = self.run()?;
        run.machine.shutdown().await.map_err(control)
    }

    pub(crate) async fn reboot(&self) -> Result<()> {
        let run = self.run()?;
        run.machine.reboot().await.map_err(control)
    }

    pub(crate) async fn reset(&self) -> Result<()> {
        let run = self.run()?;
        run.machine.reset().await.map_err(control)
    }

    /// Sends a line to QEMU's monitor, and gives QEMU's answer as it is, errors included.
    pub(crate) async fn monitor_command(&self, command: &str, human: bool) -> Result<String> {
        let run = self.run()?;
        let machine = &run.machine;
        let answer = if human {
            machine.human(command, MONITOR_DEADLINE).await
        } else {
            machine.pass_through(command, MONITOR_DEADLINE).await
        };
        answer.map_err(control)
    }
}

/// A guest that could not be controlled.
pub(super) fn control(error: ControlError) -> Error {
    match &error {
        ControlError::Ended { .. } => fault::invalid(DOMAIN, "domain is not running"),
        ControlError::StillThere { .. }
        | ControlError::Silent { .. }
        | ControlError::TrayLocked { .. }
        | ControlError::Qmp(QmpError::Closed { .. }) => {
            Error::new(Code::OperationFailed, QEMU, error.to_string())
        }
        ControlError::Device { .. } => Error::new(Code::ConfigUnsupported, QEMU, error.to_string()),
        _ => Error::new(Code::InternalError, QEMU, fault::chain(&error)),
    }
}
