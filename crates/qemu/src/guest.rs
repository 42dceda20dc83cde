//! A running guest.

mod control;
mod leftovers;
mod life;
mod media;
mod migration;
mod plug;
mod undo;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use conf::{DeviceInfo, Disk, Domain, HostDevice, Interface, PciAddress, Teaming};
use host::MemoryLock;

use crate::launch::memory_lock_with_device;
use crate::{
    Exit, GuestRecord, GuestRxFilter, GuestState, Problem, Qmp, QmpError, RefusalKind, TapFds,
    netdev_id,
};

pub(crate) use life::Life;
pub use migration::StopsWithUs;

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
    /// Its process may not lock as much memory as a device of the host's needs.
    #[error(
        "letting QEMU (guest '{name}', process {pid}) lock {} of memory failed\n\
         A PCI device of the host's reaches all of the guest's memory, so QEMU has to lock it: the \
         daemon needs CAP_SYS_RESOURCE.",
        amount(*wanted)
    )]
    MemoryLock {
        /// The guest.
        name: String,
        /// Its process.
        pid: u32,
        /// The limit that was to be set.
        wanted: MemoryLock,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It holds the tray of a drive locked, so the medium stays what it was.
    #[error(
        "guest '{name}' holds the tray of disk '{disk}' locked\n\
         It was asked to open it; try again when it has, or eject the medium inside the guest."
    )]
    TrayLocked {
        /// The guest.
        name: String,
        /// The disk's target, such as `sda`.
        disk: String,
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

impl ControlError {
    /// What QEMU refused for; `None`: it did not refuse.
    #[must_use]
    pub fn refusal(&self) -> Option<RefusalKind> {
        match self {
            Self::Qmp(error) => error.refusal(),
            _ => None,
        }
    }

    /// Whether QEMU may have done what failed here, or may do it yet: after a plug
    /// [`Guest::clear_leftovers`] is to be called when the monitor answers again.
    #[must_use]
    pub fn is_uncertain(&self) -> bool {
        matches!(self, Self::Qmp(error) if error.is_uncertain())
    }
}

fn amount(limit: MemoryLock) -> String {
    match limit {
        MemoryLock::AtLeast(bytes) => format!("{} MiB", bytes.div_ceil(1 << 20)),
        MemoryLock::Unlimited => "any amount".to_owned(),
    }
}

/// What became of the wish that a guest let a device go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unplugging {
    /// The guest was asked. The device is gone with
    /// [`GuestEvent::DeviceDeleted`](crate::GuestEvent::DeviceDeleted), not before.
    Asked,
    /// It was asked before, and has not answered: nothing was done now. QEMU says so for a while only
    /// (5 s with PCIe's own hotplug, no time at all with ACPI's); later it asks the guest once more.
    InProgress,
    /// QEMU doesn't have it. That is no proof that QEMU won't open it: a failover pair's primary that
    /// was plugged in before the guest negotiated isn't there, and is remembered.
    NotThere,
}

/// What kind of thing was plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugged {
    /// A network card of QEMU's.
    Interface {
        /// How many queues it was to have, at the most: as many taps may be left.
        queues: usize,
    },
    /// A PCI or USB device of the host's.
    HostDevice,
    /// A disk, with its nodes.
    Disk,
    /// The nodes of media that a drive, which stays, doesn't have in it.
    Medium,
}

/// What is left of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftovers {
    /// Nothing.
    None,
    /// The device itself, for which the guest was asked, and what it stands on. After its
    /// [`GuestEvent::DeviceDeleted`](crate::GuestEvent::DeviceDeleted) the rest can be cleared.
    Device(Unplugging),
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
        unplug(&self.0, alias).await
    }

    /// Plugs a network card of QEMU's into the guest, which is `domain`. The interface's alias and
    /// address are filled in; `index` is its place among the guest's interfaces. If it fails
    /// nothing of it is left, unless the error [is uncertain](ControlError::is_uncertain); if this call
    /// is dropped, see [`Self::clear_leftovers`]. A link that is to be down is set so afterwards.
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

    /// Lets QEMU's process lock as much memory as it has to for a PCI device of the host's: as much as
    /// a start of the guest with one would have let it. A limit that is higher stays.
    /// [`Self::plug_host_device`] does it, too.
    pub fn raise_memory_lock(&self, domain: &Domain) -> Result<(), ControlError> {
        self.0.raise_memory_lock(memory_lock_with_device(domain))
    }

    /// Plugs a PCI function of the host's into the guest, which is `domain`; `info` and `teaming`
    /// are the device's, its alias and address filled in. QEMU's process is let to lock the memory
    /// first.
    ///
    /// A failover pair's primary is not plugged in before its guest has negotiated: see
    /// [`SimulatedGuest`](crate::SimulatedGuest) for what QEMU would do with it.
    pub async fn plug_host_device(
        &self,
        domain: &Domain,
        info: &DeviceInfo,
        teaming: Option<&Teaming>,
        host: PciAddress,
    ) -> Result<(), ControlError> {
        plug::host_device(&self.0, domain, info, teaming, host).await
    }

    /// Plugs a USB device of the host's into the guest, which is `domain`: the one that is device
    /// `place.1` of the host's bus `place.0`. Its alias is filled in, and its address as far as it has
    /// one.
    pub async fn plug_usb(
        &self,
        domain: &Domain,
        hostdev: &HostDevice,
        place: (u32, u32),
    ) -> Result<(), ControlError> {
        plug::usb(&self.0, domain, hostdev, place).await
    }

    /// Plugs a disk into the guest, which is `domain`; its alias and address are filled in. `files`
    /// is what [`open_disk`](crate::open_disk) opened for it; if that is nothing QEMU opens the image
    /// itself.
    pub async fn plug_disk(
        &self,
        domain: &Domain,
        disk: &Disk,
        files: Vec<OwnedFd>,
    ) -> Result<(), ControlError> {
        plug::disk(&self.0, domain, disk, files).await
    }

    /// Takes away what is below a disk whose device is gone.
    pub async fn remove_drive(&self, alias: &str) -> Result<(), ControlError> {
        leftovers::of_drive(&self.0, alias).await
    }

    /// Puts another medium into a drive, or none: what `disk`, which is the drive, has for a source
    /// now; `files` as for [`Self::plug_disk`]. If it fails the old medium is in.
    ///
    /// # Errors
    /// [`ControlError::TrayLocked`] if the guest holds the drive's tray locked, and `force` isn't set.
    pub async fn change_medium(
        &self,
        disk: &Disk,
        files: Vec<OwnedFd>,
        force: bool,
    ) -> Result<(), ControlError> {
        media::change(&self.0, disk, files, force).await
    }

    /// Clears what is left of a device: of a plug that was dropped or broke off, whoever began it, or
    /// of a device that is gone. Nothing is left to clear is fine, and so is calling it again. A device
    /// that is there, be it whole or not, is asked for first.
    pub async fn clear_leftovers(
        &self,
        alias: &str,
        kind: Plugged,
    ) -> Result<Leftovers, ControlError> {
        leftovers::clear(&self.0, alias, kind).await
    }

    /// Whether the guest's driver of a failover pair's standby has negotiated failover since the guest
    /// started, for whoever may have missed [`GuestEvent::FailoverNegotiated`](crate::GuestEvent);
    /// `None`: QEMU (before 7.2) doesn't tell, or there is no such card.
    pub async fn has_negotiated_failover(&self, alias: &str) -> Result<Option<bool>, ControlError> {
        let asked = self.qmp()?.guest_has_feature(alias, "VIRTIO_NET_F_STANDBY");
        self.command(asked).await
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

async fn unplug(life: &Life, alias: &str) -> Result<Unplugging, ControlError> {
    let asked = life.command(life.qmp()?.device_del(alias)).await;
    match asked.as_ref().map_err(ControlError::refusal) {
        Ok(()) => Ok(Unplugging::Asked),
        Err(Some(RefusalKind::DeviceNotFound)) => Ok(Unplugging::NotThere),
        Err(Some(RefusalKind::UnplugInProgress)) => Ok(Unplugging::InProgress),
        Err(_) => asked.map(|()| Unplugging::Asked),
    }
}
