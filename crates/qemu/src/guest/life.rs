//! The life of a guest: what its process and its monitor tell, and what is to follow from it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use host::MemoryLock;
use tokio::time::timeout;

use super::ControlError;
use crate::events::Told;
use crate::observed::Observed;
use crate::output::Output;
use crate::process::Process;
use crate::qmp::QmpEvents;
use crate::run_dir;
use crate::{
    Action, Event, Exit, ExitReason, ExitStatus, GuestEvent, GuestEvents, GuestRecord, GuestState,
    MigrationStatus, PauseReason, Problem, Qmp, QmpError, RunState,
};

/// For the last events of a QEMU that is gone: they are in the socket already.
const LAST_EVENTS: Duration = Duration::from_secs(1);

/// Between two attempts to reach a monitor that can't be reached: at first, and at the most.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// How much QEMU may say, bytes, before whoever watches the guest gets time to take some of it.
const HEADLONG: usize = 64 << 10;

/// And how much time that is.
const PAUSE: Duration = Duration::from_millis(10);

/// Longest alias that an event is believed to be about, bytes.
const ALIAS: usize = 255;

/// A guest's process, its monitor, and what has become of it.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) record: GuestRecord,
    pub(crate) observed: Observed,
    /// Once it has greeted.
    monitor: OnceLock<Qmp>,
    pub(super) process: Arc<Process>,
    causes: Mutex<Causes>,
    /// Of one that comes in from another host.
    leash: OnceLock<host::Leash>,
}

/// What happened that may explain an end.
#[derive(Debug, Default)]
pub(super) struct Causes {
    pub(super) destroyed: bool,
    panicked: bool,
    /// `Some`: it was switched off, by itself or not.
    shutdown: Option<bool>,
    /// It is migrated, and the next STOP may come from that.
    migrates: bool,
    /// Why the next STOP comes.
    pause: Option<PauseReason>,
}

impl Life {
    /// Begins to watch a guest whose monitor has greeted.
    pub(crate) fn watch(
        record: GuestRecord,
        process: Arc<Process>,
        output: Option<Output>,
        (qmp, qmp_events): (Qmp, QmpEvents),
        state: GuestState,
    ) -> (Arc<Self>, GuestEvents) {
        let (life, events) = Self::new(record, process, state);
        // It is empty until here.
        let _ = life.monitor.set(qmp);
        tokio::spawn(Arc::clone(&life).observe(Some(qmp_events), output));
        (life, events)
    }

    /// Begins to watch a guest whose monitor has yet to greet, if ever it does.
    pub(crate) fn take_up(
        record: GuestRecord,
        process: Arc<Process>,
        output: Option<Output>,
    ) -> (Arc<Self>, GuestEvents) {
        let (life, events) = Self::new(record, process, GuestState::Unknown);
        tokio::spawn(Arc::clone(&life).observe(None, output));
        (life, events)
    }

    fn new(
        record: GuestRecord,
        process: Arc<Process>,
        state: GuestState,
    ) -> (Arc<Self>, GuestEvents) {
        let (observed, events) = Observed::new(state);
        let life = Self {
            record,
            observed,
            monitor: OnceLock::new(),
            process,
            causes: Mutex::default(),
            leash: OnceLock::new(),
        };
        (Arc::new(life), events)
    }

    pub(crate) fn have_leash(&self, leash: Option<host::Leash>) {
        if let Some(leash) = leash {
            // It is empty until here.
            let _ = self.leash.set(leash);
        }
    }

    /// Has its process stop when ours ends, or not.
    pub(super) fn fasten(&self, fastened: bool) -> std::io::Result<()> {
        match (&*self.process, self.leash.get()) {
            (Process::Simulated(machine), _) => {
                machine.fasten(fastened);
                Ok(())
            }
            (Process::Qemu(_), Some(leash)) if fastened => leash.fasten(self.record.pid),
            (Process::Qemu(_), Some(leash)) => leash.let_off(),
            (Process::Qemu(_), None) => Ok(()),
        }
    }

    /// Its process, if the kernel knows it.
    pub(super) fn pid(&self) -> Option<u32> {
        match &*self.process {
            Process::Qemu(_) => Some(self.process.pid()),
            Process::Simulated(_) => None,
        }
    }

    /// Its monitor, if it is there and answers.
    pub(super) fn qmp(&self) -> Result<&Qmp, ControlError> {
        if self.observed.exit().is_some() {
            return Err(self.ended());
        }
        self.monitor.get().ok_or_else(|| ControlError::Silent {
            name: self.record.name.clone(),
            pid: self.record.pid,
        })
    }

    /// Lets its process lock more memory.
    pub(super) fn raise_memory_lock(&self, wanted: MemoryLock) -> Result<(), ControlError> {
        if self.observed.exit().is_some() {
            return Err(self.ended());
        }
        let raised = self.process.raise_memory_lock(wanted);
        raised.map_err(|source| ControlError::MemoryLock {
            name: self.record.name.clone(),
            pid: self.record.pid,
            wanted,
            source,
        })
    }

    pub(super) fn cannot_have(&self, problem: Problem) -> ControlError {
        ControlError::Device {
            name: self.record.name.clone(),
            problem,
        }
    }

    pub(super) fn ended(&self) -> ControlError {
        ControlError::Ended {
            name: self.record.name.clone(),
        }
    }

    /// Runs until the process is gone.
    async fn observe(self: Arc<Self>, mut qmp_events: Option<QmpEvents>, output: Option<Output>) {
        let mut is_silent = qmp_events.is_none();
        let mut unheeded = 0;
        let status = loop {
            if is_silent {
                tokio::select! {
                    // If it ends meanwhile, that counts and not what the monitor says about it.
                    biased;
                    status = self.process.ended() => break status,
                    (qmp, events, status) = self.hail() => {
                        is_silent = false;
                        qmp_events = Some(events);
                        // It is empty until here.
                        let _ = self.monitor.set(qmp);
                        self.on_greeting(&status);
                    }
                }
                continue;
            }
            tokio::select! {
                biased;
                event = next(&mut qmp_events) => {
                    let Some(event) = event else { continue };
                    let size = event.size;
                    if matches!(self.on_event(event), Told::Merged | Told::Dropped) {
                        unheeded += size;
                    }
                }
                status = self.process.ended() => break status,
            }
            if unheeded >= HEADLONG {
                // Meanwhile nothing is read from QEMU: what it has to say waits with it.
                let _ = timeout(PAUSE, self.observed.events().taken()).await;
                unheeded = 0;
            }
        };
        let last_events = async {
            while let Some(event) = next_of(&mut qmp_events).await {
                self.on_event(event);
            }
        };
        let _ = timeout(LAST_EVENTS, last_events).await;
        if let Some(output) = output {
            output.finish().await;
        }
        self.forget_reboot();
        run_dir::remove_of_monitor(&self.record.monitor);
        let exit = Exit {
            reason: self.causes().explain(status),
            status,
        };
        // Whoever owns the guest says so, too, once it has given all back.
        let (guest, reason) = (&self.record.name, exit.reason);
        match status {
            Some(status) => tracing::debug!(guest, %reason, %status, "its process ended"),
            None => tracing::debug!(guest, %reason, "its process ended"),
        }
        self.observed.end(exit);
    }

    /// Tries to reach the monitor, for as long as it takes. A QEMU that hangs greets when it no
    /// longer does.
    async fn hail(&self) -> (Qmp, QmpEvents, RunState) {
        let (mut pause, most) = RETRY;
        loop {
            match self.greet().await {
                Ok(greeted) => return greeted,
                Err(error) => {
                    let (guest, pid) = (&self.record.name, self.record.pid);
                    tracing::debug!(guest, pid, %error, "its monitor can't be reached");
                }
            }
            // Nothing tells when a socket can be connected to.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(most);
        }
    }

    async fn greet(&self) -> Result<(Qmp, QmpEvents, RunState), QmpError> {
        let path: &Path = &self.record.monitor;
        let wire = self.process.connect(path);
        let wire = wire.map_err(|source| QmpError::Connect {
            path: path.display().to_string(),
            source,
        })?;
        let (qmp, events) = Qmp::greet(wire, Duration::MAX).await?;
        let status = qmp.status().await?;
        Ok((qmp, events, status))
    }

    /// What its document asks to happen after a power-off or a crash that nobody saw is carried out
    /// now.
    fn on_greeting(self: &Arc<Self>, status: &RunState) {
        self.observed.become_(GuestState::from(status));
        match status {
            RunState::Shutdown => self.after_shutdown(true, ""),
            RunState::GuestPanicked => self.after_panic(),
            _ => {}
        }
    }

    /// What became of QEMU's own words.
    fn on_event(self: &Arc<Self>, event: Event) -> Told {
        match event.name.as_str() {
            "STOP" => {
                let now = self.observed.state();
                if !matches!(now, GuestState::ShuttingDown | GuestState::Crashed) {
                    let mut causes = self.causes();
                    let reason = match causes.pause.take() {
                        Some(reason) => reason,
                        None if causes.migrates => PauseReason::Migration,
                        None => PauseReason::User,
                    };
                    drop(causes);
                    self.observed.become_(GuestState::Paused(reason));
                }
            }
            "RESUME" | "WAKEUP" => {
                self.causes().migrates = false;
                self.observed.become_(GuestState::Running);
            }
            "MIGRATION" => {
                let status = event.text("status").unwrap_or_default();
                let status = MigrationStatus::from(status.to_owned());
                self.causes().migrates = status.may_halt();
                self.observed.migration_is(status);
            }
            "MIGRATION_PASS" => {
                let pass = event.data.get("pass").and_then(serde_json::Value::as_u64);
                if let Some(pass) = pass.and_then(|pass| i32::try_from(pass).ok()) {
                    self.observed.tell(GuestEvent::MigrationPass(pass));
                }
            }
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
                // QEMU also answers so to being told to go.
                let is_news = {
                    let causes = self.causes();
                    !causes.destroyed && causes.shutdown.is_none()
                };
                if is_news {
                    self.observed.tell(GuestEvent::Shutdown {
                        by_guest: event.flag("guest"),
                    });
                }
                self.after_shutdown(by_guest, event.text("reason").unwrap_or(""));
            }
            "GUEST_PANICKED" if event.text("action") != Some("run") => {
                let first = !self.causes().panicked;
                self.observed.become_(GuestState::Crashed);
                if first {
                    self.after_panic();
                }
            }
            "DEVICE_DELETED" => {
                // Parts of a device, without a name of their own, go with it.
                self.tell_of_device(event.text("device"), |alias| GuestEvent::DeviceDeleted {
                    alias,
                });
            }
            "DEVICE_UNPLUG_GUEST_ERROR" => {
                self.tell_of_device(event.text("device"), |alias| GuestEvent::UnplugRefused {
                    alias,
                });
            }
            "FAILOVER_NEGOTIATED" => {
                let standby = event.text("device-id");
                self.tell_of_device(standby, |alias| GuestEvent::FailoverNegotiated { alias });
            }
            "UNPLUG_PRIMARY" => {
                let primary = event.text("device-id");
                self.tell_of_device(primary, |alias| GuestEvent::UnplugPrimary { alias });
            }
            "NIC_RX_FILTER_CHANGED" => {
                self.tell_of_device(event.text("name"), |alias| GuestEvent::RxFilterChanged {
                    alias,
                });
            }
            _ => {}
        }
        self.observed.tell(GuestEvent::Qmp(event))
    }

    fn tell_of_device(&self, alias: Option<&str>, event: impl FnOnce(String) -> GuestEvent) {
        let Some(alias) = alias else { return };
        self.observed.tell(if alias.len() <= ALIAS {
            event(alias.to_owned())
        } else {
            GuestEvent::DevicesChanged
        });
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
        let life = Arc::clone(self);
        match action {
            Action::Destroy => drop(tokio::spawn(life.terminate(true))),
            Action::Restart => drop(tokio::spawn(async move { life.start_anew().await })),
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
            let qmp = self.qmp()?;
            qmp.system_reset().await?;
            qmp.cont().await?;
            Ok::<_, ControlError>(())
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

    pub(super) fn reboot_mark(&self) -> PathBuf {
        run_dir::reboot_mark(&self.record.monitor)
    }

    /// Whether a reboot was asked for; it no longer is.
    pub(super) fn forget_reboot(&self) -> bool {
        std::fs::remove_file(self.reboot_mark()).is_ok()
    }

    pub(super) fn causes(&self) -> std::sync::MutexGuard<'_, Causes> {
        // Nothing panics while it is held.
        self.causes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The next event; never, once the connection has ended.
async fn next(events: &mut Option<QmpEvents>) -> Option<Event> {
    match events {
        Some(open) => {
            let event = open.recv().await;
            if event.is_none() {
                *events = None;
            }
            event
        }
        None => std::future::pending().await,
    }
}

async fn next_of(events: &mut Option<QmpEvents>) -> Option<Event> {
    events.as_mut()?.recv().await
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
