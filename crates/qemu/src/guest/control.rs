//! What is done to a guest, and what that leads to.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::timeout;

use super::{ControlError, Life};
use crate::{Exit, GuestState, QmpError};

/// After SIGTERM, before SIGKILL.
const GRACE: Duration = Duration::from_secs(10);

/// After SIGKILL. Giving back a device, and large memory, takes the kernel its time.
const KILL_DEADLINE: Duration = Duration::from_secs(30);

/// For the event that follows a command which QEMU has carried out.
const EVENT_DEADLINE: Duration = Duration::from_secs(5);

impl Life {
    pub(super) async fn resume(&self) -> Result<(), ControlError> {
        let qmp = self.qmp()?;
        if self.observed.state() == GuestState::Running {
            return Ok(());
        }
        self.command(qmp.cont()).await?;
        self.settle(|state| state == GuestState::Running).await
    }

    pub(super) async fn suspend(&self) -> Result<(), ControlError> {
        let qmp = self.qmp()?;
        if self.observed.state() != GuestState::Running {
            return Ok(());
        }
        self.command(qmp.stop()).await?;
        self.settle(|state| state != GuestState::Running).await
    }

    pub(super) async fn shutdown(&self) -> Result<(), ControlError> {
        let qmp = self.qmp()?;
        self.forget_reboot();
        self.command(qmp.system_powerdown()).await
    }

    pub(super) async fn reboot(&self) -> Result<(), ControlError> {
        let qmp = self.qmp()?;
        // A file, so that a daemon that comes after us knows it, too.
        if let Err(error) = std::fs::write(self.reboot_mark(), "") {
            tracing::warn!(guest = self.record.name, %error, "noting that a reboot was asked for");
        }
        let result = self.command(qmp.system_powerdown()).await;
        if result.is_err() {
            self.forget_reboot();
        }
        result
    }

    pub(super) async fn reset(&self) -> Result<(), ControlError> {
        self.command(self.qmp()?.system_reset()).await
    }

    pub(super) async fn destroy(self: &Arc<Self>, force: bool) -> Result<Exit, ControlError> {
        if let Some(exit) = self.observed.exit() {
            return Ok(exit);
        }
        self.causes().destroyed = true;
        // Goes on if this call is dropped.
        tokio::spawn(Arc::clone(self).terminate(force));
        let within = if force { GRACE + KILL_DEADLINE } else { GRACE };
        timeout(within, self.observed.exited())
            .await
            .map_err(|_| ControlError::StillThere {
                name: self.record.name.clone(),
                pid: self.record.pid,
                within,
            })
    }

    pub(super) async fn terminate(self: Arc<Self>, force: bool) {
        let signal = |signal| {
            if let Err(error) = self.process.signal(signal) {
                let pid = self.record.pid;
                tracing::error!(guest = self.record.name, pid, %error, "signalling QEMU");
            }
        };
        signal(Signal::TERM);
        let ended = timeout(GRACE, self.process.ended()).await.is_ok();
        if !ended && force {
            signal(Signal::KILL);
        }
    }

    /// Waits for the state that a command leads to. QEMU tells of it before it answers.
    async fn settle(&self, wanted: impl Fn(GuestState) -> bool) -> Result<(), ControlError> {
        // The command was carried out; a state that has changed once more is no failure.
        let _ = timeout(EVENT_DEADLINE, self.observed.reached(wanted)).await;
        Ok(())
    }

    pub(super) async fn command<T>(
        &self,
        command: impl Future<Output = Result<T, QmpError>>,
    ) -> Result<T, ControlError> {
        command.await.map_err(|error| match error {
            QmpError::Closed { .. } if self.observed.exit().is_some() => self.ended(),
            error => error.into(),
        })
    }
}
