//! A guest with a QEMU.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::timeout;

use super::ControlError;
use crate::process::Process;
use crate::state::Observed;
use crate::{
    Action, Event, Exit, ExitReason, ExitStatus, GuestEvent, GuestEvents, GuestRecord, GuestState,
    PauseReason, Qmp, QmpEvents, ReconnectError, RunState,
};

/// After SIGTERM, before SIGKILL.
const GRACE: Duration = Duration::from_secs(10);

/// After SIGKILL. Giving back a device, and large memory, takes the kernel its time.
const KILL_DEADLINE: Duration = Duration::from_secs(30);

/// For a QEMU that is there to greet a new daemon.
const RECONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// For the last events of a QEMU that is gone: they are in the socket already.
const LAST_EVENTS: Duration = Duration::from_secs(1);

/// For the event that follows a command which QEMU has carried out.
const EVENT_DEADLINE: Duration = Duration::from_secs(5);

/// A guest with a QEMU, and what has become of it.
#[derive(Debug)]
pub(crate) struct Real {
    pub(crate) record: GuestRecord,
    pub(crate) qmp: Qmp,
    pub(crate) observed: Observed,
    process: Arc<Process>,
    causes: Mutex<Causes>,
}

/// What happened that may explain an end.
#[derive(Debug, Default)]
struct Causes {
    destroyed: bool,
    panicked: bool,
    /// `Some`: it was switched off, by itself or not.
    shutdown: Option<bool>,
    /// Why the next STOP comes.
    pause: Option<PauseReason>,
}

impl Real {
    /// Begins to watch a QEMU.
    pub(crate) fn watch(
        record: GuestRecord,
        process: Arc<Process>,
        qmp: Qmp,
        qmp_events: QmpEvents,
        state: GuestState,
    ) -> (Arc<Self>, GuestEvents) {
        let (observed, events) = Observed::new(state);
        let real = Arc::new(Self {
            record,
            qmp,
            observed,
            process,
            causes: Mutex::default(),
        });
        tokio::spawn(Arc::clone(&real).observe(qmp_events));
        (real, events)
    }

    pub(crate) async fn reconnect(
        record: &GuestRecord,
    ) -> Result<(Arc<Self>, GuestEvents), ReconnectError> {
        let process = Arc::new(record.process()?);
        let unreachable = |source| ReconnectError::Monitor {
            name: record.name.clone(),
            pid: record.pid,
            source,
        };
        let greeting = async {
            let (qmp, events) = Qmp::connect(&record.monitor, RECONNECT_DEADLINE).await?;
            let status = qmp.status().await?;
            Ok((qmp, events, status))
        };
        let greeted = tokio::select! {
            // If it ends meanwhile, that counts and not what the monitor says about it.
            biased;
            _ = process.ended() => {
                return Err(ReconnectError::Gone { name: record.name.clone() });
            }
            greeted = greeting => greeted,
        };
        let (qmp, qmp_events, status) = greeted.map_err(unreachable)?;
        let state = GuestState::from(&status);
        let (real, events) = Self::watch(record.clone(), process, qmp, qmp_events, state);
        match status {
            RunState::Shutdown => real.after_shutdown(true, ""),
            RunState::GuestPanicked => real.after_panic(),
            _ => {}
        }
        Ok((real, events))
    }

    pub(crate) fn ended(&self) -> ControlError {
        ControlError::Ended {
            name: self.record.name.clone(),
        }
    }

    pub(super) async fn resume(&self) -> Result<(), ControlError> {
        self.running()?;
        if self.observed.state() == GuestState::Running {
            return Ok(());
        }
        self.command(self.qmp.cont()).await?;
        self.settle(|state| state == GuestState::Running).await
    }

    pub(super) async fn suspend(&self) -> Result<(), ControlError> {
        self.running()?;
        if self.observed.state() != GuestState::Running {
            return Ok(());
        }
        self.command(self.qmp.stop()).await?;
        self.settle(|state| state != GuestState::Running).await
    }

    pub(super) async fn shutdown(&self) -> Result<(), ControlError> {
        self.running()?;
        self.forget_reboot();
        self.command(self.qmp.system_powerdown()).await
    }

    pub(super) async fn reboot(&self) -> Result<(), ControlError> {
        self.running()?;
        // A file, so that a daemon that comes after us knows it, too.
        if let Err(error) = std::fs::write(self.reboot_mark(), "") {
            tracing::warn!(guest = self.record.name, %error, "noting that a reboot was asked for");
        }
        let result = self.command(self.qmp.system_powerdown()).await;
        if result.is_err() {
            self.forget_reboot();
        }
        result
    }

    pub(super) async fn reset(&self) -> Result<(), ControlError> {
        self.running()?;
        self.command(self.qmp.system_reset()).await
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

    /// Runs until the process is gone.
    async fn observe(self: Arc<Self>, mut qmp_events: QmpEvents) {
        let mut monitor_is_open = true;
        let status = loop {
            tokio::select! {
                biased;
                event = qmp_events.recv(), if monitor_is_open => match event {
                    Some(event) => self.on_event(event),
                    None => monitor_is_open = false,
                },
                status = self.process.ended() => break status,
            }
        };
        while monitor_is_open {
            match timeout(LAST_EVENTS, qmp_events.recv()).await {
                Ok(Some(event)) => self.on_event(event),
                Ok(None) | Err(_) => monitor_is_open = false,
            }
        }
        self.forget_reboot();
        let _ = std::fs::remove_file(&self.record.monitor);
        let exit = Exit {
            reason: self.causes().explain(status),
            status,
        };
        tracing::info!(guest = self.record.name, reason = ?exit.reason, ?status, "guest ended");
        self.observed.end(exit);
    }

    fn on_event(self: &Arc<Self>, event: Event) {
        match event.name.as_str() {
            "STOP" => {
                let now = self.observed.state();
                if !matches!(now, GuestState::ShuttingDown | GuestState::Crashed) {
                    let reason = self.causes().pause.take().unwrap_or(PauseReason::User);
                    self.observed.become_(GuestState::Paused(reason));
                }
            }
            "RESUME" | "WAKEUP" => self.observed.become_(GuestState::Running),
            "SUSPEND" => self.observed.become_(GuestState::Asleep),
            "RESET" => {
                let by_guest = event.flag("guest").unwrap_or(false);
                self.observed.tell(GuestEvent::Rebooted { by_guest });
            }
            "BLOCK_IO_ERROR" if event.text("action") == Some("stop") => {
                self.causes().pause = Some(PauseReason::IoError);
            }
            "WATCHDOG" if event.text("action") == Some("pause") => {
                self.causes().pause = Some(PauseReason::Watchdog);
            }
            "SHUTDOWN" => {
                let by_guest = event.flag("guest").unwrap_or(false);
                self.observed.become_(GuestState::ShuttingDown);
                self.after_shutdown(by_guest, event.text("reason").unwrap_or(""));
            }
            "GUEST_PANICKED" if event.text("action") != Some("run") => {
                let first = !self.causes().panicked;
                self.observed.become_(GuestState::Crashed);
                if first {
                    self.after_panic();
                }
            }
            _ => {}
        }
        self.observed.tell(GuestEvent::Qmp(event));
    }

    /// Carries out what is to follow a power-off or, with `-no-reboot`, a reboot.
    fn after_shutdown(self: &Arc<Self>, by_guest: bool, reason: &str) {
        {
            let mut causes = self.causes();
            if causes.panicked {
                return; // what follows a panic is under way
            }
            if reason == "guest-panic" {
                drop(causes);
                return self.after_panic();
            }
            // A second one is QEMU's answer to being told to go.
            causes.shutdown.get_or_insert(by_guest);
            // On its way out already.
            if causes.destroyed || matches!(reason, "host-signal" | "host-qmp-quit" | "host-ui") {
                return;
            }
        }
        let wanted_reboot = self.forget_reboot();
        let actions = self.record.lifecycle;
        let action = match reason {
            "guest-reset" | "host-qmp-system-reset" | "subsystem-reset" => actions.on_reboot,
            _ if wanted_reboot => actions.on_reboot,
            _ => actions.on_poweroff,
        };
        self.carry_out(action);
    }

    fn after_panic(self: &Arc<Self>) {
        self.causes().panicked = true;
        self.carry_out(self.record.lifecycle.on_crash);
    }

    fn carry_out(self: &Arc<Self>, action: Action) {
        let real = Arc::clone(self);
        match action {
            Action::Destroy => drop(tokio::spawn(real.terminate(true))),
            Action::Restart => drop(tokio::spawn(async move { real.start_anew().await })),
            Action::Preserve => {
                let crashed = self.observed.state() == GuestState::Crashed;
                if !crashed {
                    let kept = GuestState::Paused(PauseReason::Preserved);
                    self.observed.become_(kept);
                }
            }
        }
    }

    /// Starts a guest anew that QEMU holds halted after its end.
    async fn start_anew(&self) {
        let anew = async {
            self.qmp.system_reset().await?;
            self.qmp.cont().await
        };
        match anew.await {
            Ok(()) => {
                let mut causes = self.causes();
                causes.shutdown = None;
                causes.panicked = false;
            }
            Err(error) => {
                tracing::error!(guest = self.record.name, %error, "starting a guest anew");
            }
        }
    }

    async fn terminate(self: Arc<Self>, force: bool) {
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

    async fn command(
        &self,
        command: impl Future<Output = Result<(), crate::QmpError>>,
    ) -> Result<(), ControlError> {
        command.await.map_err(|error| match error {
            crate::QmpError::Closed { .. } if self.observed.exit().is_some() => self.ended(),
            error => error.into(),
        })
    }

    fn running(&self) -> Result<(), ControlError> {
        match self.observed.exit() {
            None => Ok(()),
            Some(_) => Err(self.ended()),
        }
    }

    fn reboot_mark(&self) -> PathBuf {
        self.record.monitor.with_extension("reboot")
    }

    /// Whether a reboot was asked for; it no longer is.
    fn forget_reboot(&self) -> bool {
        std::fs::remove_file(self.reboot_mark()).is_ok()
    }

    fn causes(&self) -> std::sync::MutexGuard<'_, Causes> {
        // Nothing panics while it is held.
        self.causes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Causes {
    fn explain(&self, status: Option<ExitStatus>) -> ExitReason {
        match (self.destroyed, self.panicked, self.shutdown) {
            (true, _, _) => ExitReason::Destroyed,
            (_, true, _) => ExitReason::Crashed,
            (_, _, Some(by_guest)) => ExitReason::Shutdown { by_guest },
            // It ended in order, only nobody told us.
            _ if status == Some(ExitStatus::Code(0)) => ExitReason::Shutdown { by_guest: false },
            _ => ExitReason::Died,
        }
    }
}
