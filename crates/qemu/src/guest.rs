//! A running guest.

mod real;

use std::sync::Arc;
use std::time::Duration;

use crate::launch::{self, LaunchError, LaunchSpec, Launched};
use crate::stub::Stub;
use crate::{Exit, GuestEvents, GuestRecord, GuestState, Qmp, QmpError, ReconnectError};

pub(crate) use real::Real;

/// A guest that runs, or has run. Clones are the same guest.
#[derive(Debug, Clone)]
pub struct Guest(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Qemu(Arc<Real>),
    Stub(Arc<Stub>),
}

/// Something that could not be done to a guest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// It is gone.
    #[error("guest '{name}' is not running")]
    Ended {
        /// The guest.
        name: String,
    },
    /// QEMU did not do it.
    #[error(transparent)]
    Qmp(#[from] QmpError),
    /// It was asked to end, and has not.
    #[error("guest '{name}' (process {pid}) did not end within {} s", within.as_secs_f32())]
    StillThere {
        /// The guest.
        name: String,
        /// Its process. One that SIGKILL doesn't end waits for the kernel, usually for a device.
        pid: u32,
        /// How long it was given.
        within: Duration,
    },
    /// A guest of a simulated host has no QEMU.
    #[error("guest '{name}' is simulated: it has no {what}")]
    Simulated {
        /// The guest.
        name: String,
        /// What it lacks.
        what: &'static str,
    },
}

impl Guest {
    /// Starts a guest. Returns when its monitor is connected, and it is halted or runs.
    ///
    /// A guest that could not be started leaves no process behind, also when this call is dropped.
    pub async fn launch(spec: LaunchSpec) -> Result<Launched, LaunchError> {
        launch::launch(spec).await
    }

    /// Takes up a guest that an earlier daemon started.
    ///
    /// What its document asks to happen after a power-off that nobody saw is carried out now.
    pub async fn reconnect(record: &GuestRecord) -> Result<(Self, GuestEvents), ReconnectError> {
        let (real, events) = Real::reconnect(record).await?;
        Ok((Self(Kind::Qemu(real)), events))
    }

    /// A guest that is none: it starts at once, halted or not, changes its state as it is told,
    /// and ends when told to.
    #[must_use]
    pub fn stub(name: &str, paused: bool) -> (Self, GuestEvents) {
        let (stub, events) = Stub::new(name, paused);
        (Self(Kind::Stub(Arc::new(stub))), events)
    }

    pub(crate) fn real(real: Arc<Real>) -> Self {
        Self(Kind::Qemu(real))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.0 {
            Kind::Qemu(real) => &real.record.name,
            Kind::Stub(stub) => &stub.name,
        }
    }

    /// What it does now.
    #[must_use]
    pub fn state(&self) -> GuestState {
        match &self.0 {
            Kind::Qemu(real) => real.observed.state(),
            Kind::Stub(stub) => stub.observed.state(),
        }
    }

    /// Its process; `None` for a stub.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.record().map(|record| record.pid)
    }

    /// What is to be kept, for [`Guest::reconnect`]; `None` for a stub.
    #[must_use]
    pub fn record(&self) -> Option<&GuestRecord> {
        match &self.0 {
            Kind::Qemu(real) => Some(&real.record),
            Kind::Stub(_) => None,
        }
    }

    /// Its monitor, for what there is no method for: devices, netdevs, raw commands, HMP.
    pub fn qmp(&self) -> Result<&Qmp, ControlError> {
        match &self.0 {
            Kind::Qemu(real) => match real.observed.exit() {
                None => Ok(&real.qmp),
                Some(_) => Err(real.ended()),
            },
            Kind::Stub(stub) => Err(stub.lacks("monitor")),
        }
    }

    /// How it ended; `None` while it runs.
    #[must_use]
    pub fn exit(&self) -> Option<Exit> {
        match &self.0 {
            Kind::Qemu(real) => real.observed.exit(),
            Kind::Stub(stub) => stub.observed.exit(),
        }
    }

    /// Waits for its end.
    pub async fn exited(&self) -> Exit {
        match &self.0 {
            Kind::Qemu(real) => real.observed.exited().await,
            Kind::Stub(stub) => stub.observed.exited().await,
        }
    }

    /// Lets its virtual CPUs run.
    pub async fn resume(&self) -> Result<(), ControlError> {
        match &self.0 {
            Kind::Qemu(real) => real.resume().await,
            Kind::Stub(stub) => stub.resume(),
        }
    }

    /// Halts its virtual CPUs.
    pub async fn suspend(&self) -> Result<(), ControlError> {
        match &self.0 {
            Kind::Qemu(real) => real.suspend().await,
            Kind::Stub(stub) => stub.suspend(),
        }
    }

    /// Presses its power button. Whether and when it switches off is up to it.
    pub async fn shutdown(&self) -> Result<(), ControlError> {
        match &self.0 {
            Kind::Qemu(real) => real.shutdown().await,
            Kind::Stub(stub) => stub.shutdown(),
        }
    }

    /// Presses its power button, and starts it anew when it has switched itself off.
    pub async fn reboot(&self) -> Result<(), ControlError> {
        match &self.0 {
            Kind::Qemu(real) => real.reboot().await,
            Kind::Stub(stub) => stub.reset(),
        }
    }

    /// Starts it anew without asking it.
    pub async fn reset(&self) -> Result<(), ControlError> {
        match &self.0 {
            Kind::Qemu(real) => real.reset().await,
            Kind::Stub(stub) => stub.reset(),
        }
    }

    /// Plugs the cable of an emulated network card in, or pulls it out: what the guest sees.
    pub async fn set_link(&self, alias: &str, up: bool) -> Result<(), ControlError> {
        match &self.0 {
            Kind::Qemu(_) => Ok(self.qmp()?.set_link(alias, up).await?),
            Kind::Stub(stub) => stub.set_link(),
        }
    }

    /// Ends its process: SIGTERM, and SIGKILL after ten seconds. Returns when it is really gone.
    pub async fn destroy(&self) -> Result<Exit, ControlError> {
        match &self.0 {
            Kind::Qemu(real) => real.destroy(true).await,
            Kind::Stub(stub) => Ok(stub.destroy()),
        }
    }

    /// As [`Self::destroy`], but never with SIGKILL: a QEMU that doesn't end loses no data.
    pub async fn destroy_gracefully(&self) -> Result<Exit, ControlError> {
        match &self.0 {
            Kind::Qemu(real) => real.destroy(false).await,
            Kind::Stub(stub) => Ok(stub.destroy()),
        }
    }
}
