//! A running guest.

mod control;
mod life;
mod plug;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use conf::{DeviceInfo, Domain, Interface, PciAddress, Teaming};

use crate::{
    Exit, GuestRecord, GuestRxFilter, GuestState, Problem, Qmp, QmpError, TapFds, hostdev_device,
    netdev_id,
};

pub(crate) use life::Life;

/// A guest that runs, or has run: QEMU's, or a simulated one. Clones are the same guest.
#[derive(Debug, Clone)]
pub struct Guest(Arc<Life>);

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
    /// An earlier daemon started it, and its monitor has not answered us yet.
    #[error(
        "guest '{name}' runs as process {pid}, but its monitor does not answer yet\n\
         It goes on being tried; 'virsh destroy' ends the process without the monitor."
    )]
    Silent {
        /// The guest.
        name: String,
        /// Its process.
        pid: u32,
    },
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
    /// A device that can't be plugged in as it is.
    #[error("guest '{name}' can't have the device: {problem}")]
    Device {
        /// The guest.
        name: String,
        /// What stands in the way.
        problem: Problem,
    },
}

/// What became of the wish that a guest let a device go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unplugging {
    /// The guest was asked. The device is gone with
    /// [`GuestEvent::DeviceDeleted`](crate::GuestEvent::DeviceDeleted), not before.
    Asked,
    /// QEMU doesn't have it.
    NotThere,
}

impl Guest {
    pub(crate) fn of(life: Arc<Life>) -> Self {
        Self(life)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.record.name
    }

    /// What it does now.
    #[must_use]
    pub fn state(&self) -> GuestState {
        self.0.observed.state()
    }

    /// Its process; `None` for a simulated guest.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.0.pid()
    }

    /// What is to be kept, for [`Launcher::reconnect`](crate::Launcher::reconnect).
    #[must_use]
    pub fn record(&self) -> &GuestRecord {
        &self.0.record
    }

    /// Its monitor, for what there is no method for.
    pub fn qmp(&self) -> Result<&Qmp, ControlError> {
        self.0.qmp()
    }

    /// How it ended; `None` while it runs.
    #[must_use]
    pub fn exit(&self) -> Option<Exit> {
        self.0.observed.exit()
    }

    /// Waits for its end.
    pub async fn exited(&self) -> Exit {
        self.0.observed.exited().await
    }

    /// How many of its process's events were dropped, since too many waited to be taken.
    #[must_use]
    pub fn dropped_events(&self) -> u64 {
        self.0.observed.events().dropped()
    }

    /// Lets its virtual CPUs run.
    pub async fn resume(&self) -> Result<(), ControlError> {
        self.0.resume().await
    }

    /// Halts its virtual CPUs.
    pub async fn suspend(&self) -> Result<(), ControlError> {
        self.0.suspend().await
    }

    /// Presses its power button. Whether and when it switches off is up to it.
    pub async fn shutdown(&self) -> Result<(), ControlError> {
        self.0.shutdown().await
    }

    /// Presses its power button, and starts it anew when it has switched itself off.
    pub async fn reboot(&self) -> Result<(), ControlError> {
        self.0.reboot().await
    }

    /// Starts it anew without asking it.
    pub async fn reset(&self) -> Result<(), ControlError> {
        self.0.reset().await
    }

    /// Plugs the cable of an emulated network card in, or pulls it out: what the guest sees. QEMU
    /// can't be asked for it; setting it twice is fine.
    pub async fn set_link(&self, alias: &str, up: bool) -> Result<(), ControlError> {
        self.command(self.qmp()?.set_link(alias, up)).await
    }

    /// What the driver of a network card lets in. Asking is also what has the guest tell of its
    /// next change.
    pub async fn rx_filter(&self, alias: &str) -> Result<GuestRxFilter, ControlError> {
        let mut found = self.command(self.qmp()?.rx_filters(Some(alias))).await?;
        found.retain(|filter| filter.alias == alias);
        found.pop().ok_or_else(|| {
            let command = "query-rx-filter";
            QmpError::Nonsense { command }.into()
        })
    }

    /// The same, of all its network cards that have such filters.
    pub async fn rx_filters(&self) -> Result<Vec<GuestRxFilter>, ControlError> {
        self.command(self.qmp()?.rx_filters(None)).await
    }

    /// The aliases of the devices that QEMU has now, also of those that it is about to let go.
    pub async fn device_aliases(&self) -> Result<BTreeSet<String>, ControlError> {
        self.command(self.qmp()?.device_aliases()).await
    }

    /// Asks the guest to let a device go.
    pub async fn unplug(&self, alias: &str) -> Result<Unplugging, ControlError> {
        match self.command(self.qmp()?.device_del(alias)).await {
            Ok(()) => Ok(Unplugging::Asked),
            Err(ControlError::Qmp(error)) if error.is_device_not_found() => {
                Ok(Unplugging::NotThere)
            }
            Err(error) => Err(error),
        }
    }

    /// Plugs a network card of QEMU's into the guest, which is `domain`. The interface's alias and
    /// address are filled in; `index` is its place among the guest's interfaces. If it fails
    /// nothing of it is left; if this call is dropped, that is not so.
    pub async fn plug_interface(
        &self,
        domain: &Domain,
        interface: &Interface,
        index: usize,
        taps: TapFds,
    ) -> Result<(), ControlError> {
        plug::interface(&self.0, domain, interface, index, taps).await
    }

    /// Takes away the host's side of a network card whose device is gone.
    pub async fn remove_netdev(&self, alias: &str) -> Result<(), ControlError> {
        let netdev = netdev_id(alias);
        self.command(self.qmp()?.netdev_del(&netdev)).await
    }

    /// Plugs a PCI function of the host's into the guest, which is `domain`; `info` and `teaming`
    /// are the device's, its alias and address filled in.
    pub async fn plug_host_device(
        &self,
        domain: &Domain,
        info: &DeviceInfo,
        teaming: Option<&Teaming>,
        host: PciAddress,
    ) -> Result<(), ControlError> {
        let arguments = hostdev_device(domain, info, teaming, host);
        let arguments = arguments.map_err(|problem| self.0.cannot_have(problem))?;
        self.command(self.qmp()?.device_add(arguments)).await
    }

    /// Passes a QMP command through as text, and returns QEMU's answer as text, refusals included.
    /// An `id` in it is given back.
    pub async fn pass_through(
        &self,
        text: &str,
        deadline: Duration,
    ) -> Result<String, ControlError> {
        self.command(self.qmp()?.pass_through(text, deadline)).await
    }

    /// Passes a line of QEMU's human monitor through, and returns what it prints.
    pub async fn human(&self, line: &str, deadline: Duration) -> Result<String, ControlError> {
        self.command(self.qmp()?.human(line, deadline)).await
    }

    /// Ends its process: SIGTERM, and SIGKILL after ten seconds. Returns when it is really gone.
    pub async fn destroy(&self) -> Result<Exit, ControlError> {
        self.0.destroy(true).await
    }

    /// As [`Self::destroy`], but never with SIGKILL: a QEMU that doesn't end loses no data.
    pub async fn destroy_gracefully(&self) -> Result<Exit, ControlError> {
        self.0.destroy(false).await
    }

    async fn command<T>(
        &self,
        command: impl Future<Output = Result<T, QmpError>>,
    ) -> Result<T, ControlError> {
        self.0.command(command).await
    }
}
