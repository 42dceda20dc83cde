//! A guest on its way to another host, or from one.

use std::io;
use std::time::Duration;

use rustix::process::Signal;

use super::{ControlError, Guest};
use crate::{CpuWord, MigrationInfo, MigrationSettings, MigrationStatus};

impl Guest {
    /// What QEMU says of its migration.
    pub async fn migration(&self) -> Result<MigrationInfo, ControlError> {
        self.0.command(self.qmp()?.migration()).await
    }

    /// Has a QEMU that was started for that ([`LaunchSpec::incoming`](crate::LaunchSpec::incoming)) wait for
    /// its guest at that URI (`tcp:ADDRESS:PORT`, `unix:PATH`).
    pub async fn listen_for_migration(
        &self,
        settings: &MigrationSettings,
        uri: &str,
    ) -> Result<(), ControlError> {
        let qmp = self.qmp()?;
        self.0.command(qmp.set_migration(settings)).await?;
        self.0.command(qmp.migrate_incoming(uri)).await
    }

    /// Begins to send the guest to that URI; [`Self::migrated`] waits for the outcome.
    pub async fn migrate(
        &self,
        settings: &MigrationSettings,
        uri: &str,
    ) -> Result<(), ControlError> {
        let qmp = self.qmp()?;
        self.0.command(qmp.set_migration(settings)).await?;
        self.0.observed.begin_migration();
        self.0.command(qmp.migrate(uri)).await
    }

    /// How far its migration is, as QEMU told last. Waits for nobody.
    #[must_use]
    pub fn migration_status(&self) -> MigrationStatus {
        self.0.observed.migration()
    }

    /// Waits until what [`Self::migrate`] began, or what comes in, has come to its end. A process that ends
    /// has failed.
    pub async fn migrated(&self) -> MigrationStatus {
        tokio::select! {
            biased;
            status = self.0.observed.migrated() => status,
            _ = self.exited() => MigrationStatus::Failed,
        }
    }

    /// Brings a migration of the guest from here to its end that somebody else began, whoever listened; what
    /// it came to. What is under way is ended.
    pub async fn end_migration(&self) -> Result<MigrationStatus, ControlError> {
        // What ends from here on is told.
        self.0.observed.begin_migration();
        let info = self.migration().await?;
        if info.status == MigrationStatus::None || info.status.is_final() {
            self.0.observed.migration_is(info.status);
            return Ok(info.status);
        }
        self.cancel_migration().await?;
        Ok(self.migrated().await)
    }

    /// Asks QEMU to end the migration. Returns when QEMU has heard it; it may take its time.
    pub async fn cancel_migration(&self) -> Result<(), ControlError> {
        self.0.command(self.qmp()?.migrate_cancel()).await
    }

    /// Bytes a second that a migration may send from now on; 0: no limit.
    pub async fn set_migration_bandwidth(&self, bytes: u64) -> Result<(), ControlError> {
        let set = self.qmp()?.set_migration_bandwidth(bytes);
        self.0.command(set).await
    }

    /// For how long a migration may halt the guest from now on.
    pub async fn set_migration_downtime(&self, limit: Duration) -> Result<(), ControlError> {
        let set = self.qmp()?.set_migration_downtime(limit);
        self.0.command(set).await
    }

    /// Has the guest's process stop where it is, as by SIGSTOP, if ours ends while what this gives is held: the
    /// kernel sees to it. Only of a guest that came in ([`LaunchSpec::incoming`](crate::LaunchSpec::incoming))
    /// through this very `Guest`.
    pub fn stop_with_us(&self) -> io::Result<StopsWithUs> {
        self.0.fasten(true)?;
        Ok(StopsWithUs(self.clone()))
    }

    /// Lets a process go on that [was stopped](Self::stop_with_us).
    pub fn thaw(&self) -> io::Result<()> {
        self.0.process.signal(Signal::CONT)
    }

    /// Has the network told where the guest is: its cards' links have to be on.
    pub async fn announce(&self) -> Result<(), ControlError> {
        self.0.command(self.qmp()?.announce_self()).await
    }

    /// The CPU features that the guest really has; `None`: this QEMU can't tell.
    pub async fn cpu_features(&self) -> Result<Option<Vec<CpuWord>>, ControlError> {
        self.0.command(self.qmp()?.cpu_features()).await
    }
}

/// A guest whose process stops if ours ends now; see [`Guest::stop_with_us`]. Dropped, it stays so.
#[derive(Debug)]
pub struct StopsWithUs(Guest);

impl StopsWithUs {
    /// It goes on without us from now on.
    pub fn let_off(self) -> io::Result<()> {
        self.0.0.fasten(false)
    }
}
