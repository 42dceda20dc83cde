//! Where guests' processes come from.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use conf::Uuid;

use crate::guest::Life;
use crate::launch;
use crate::log::Log;
use crate::output::{Output, open_pipe};
use crate::process::{KernelProcess, Process, Sought};
use crate::record::boot_id;
use crate::simulated::SimulatedGuests;
use crate::stray;
use crate::{
    Guest, GuestEvents, GuestRecord, GuestState, LaunchError, LaunchSpec, Launched, ReconnectError,
};

/// Starts guests, and takes up those that an earlier daemon started.
#[derive(Debug, Clone)]
pub enum Launcher {
    /// As processes of QEMU's.
    Qemu,
    /// In memory.
    Simulated(SimulatedGuests),
}

impl Launcher {
    /// Starts a guest. Returns when its monitor is connected, and it is halted or runs.
    ///
    /// A guest that could not be started leaves no process and no directory behind
    /// ([`LaunchError::StillThere`] says if its process does not end). If this call is dropped
    /// the process is killed, and nobody waits for its end; see [`Self::launch_until`].
    pub async fn launch(&self, spec: LaunchSpec) -> Result<Launched, LaunchError> {
        self.launch_until(spec, std::future::pending()).await
    }

    /// As [`Self::launch`], unless it is given up meanwhile. Then this returns
    /// [`LaunchError::GivenUp`] when there is no process any more, so that what was lent to it can
    /// be taken back: at once if there was none yet, also if the kernel keeps the start waiting.
    pub async fn launch_until(
        &self,
        spec: LaunchSpec,
        given_up: impl Future<Output = ()>,
    ) -> Result<Launched, LaunchError> {
        let simulated = match self {
            Self::Qemu => None,
            Self::Simulated(guests) => Some(guests.clone()),
        };
        launch::launch(spec, simulated, given_up).await
    }

    /// Takes up a guest that an earlier daemon started.
    ///
    /// Its monitor is given that much time to answer. If it doesn't the guest is
    /// [`GuestState::Unknown`], can be destroyed and not otherwise be controlled, and its monitor
    /// goes on being tried; a change of state tells when it answers.
    ///
    /// What QEMU has may have changed meanwhile: see [`Guest::device_aliases`] and
    /// [`Guest::rx_filters`]. What the guest's document asks to happen after a power-off that
    /// nobody saw is carried out when its monitor answers.
    pub async fn reconnect(
        &self,
        record: &GuestRecord,
        patience: Duration,
    ) -> Result<(Guest, GuestEvents), ReconnectError> {
        let process = Arc::new(self.find(record)?);
        let output = match &*process {
            Process::Qemu(_) => follow_output(record).await,
            Process::Simulated(_) => None,
        };
        let (life, events) = Life::take_up(record.clone(), process, output);
        let answered = life.observed.reached(|state| state != GuestState::Unknown);
        // One that takes longer is told of by an event.
        let _ = tokio::time::timeout(patience, answered).await;
        if life.observed.state() == GuestState::Ended {
            return Err(record.gone());
        }
        Ok((Guest::of(life), events))
    }

    /// Ends the process of a guest that nobody has a record of, since its daemon died between
    /// starting and recording it; returns when it is gone. `run_dir` is the guest's.
    pub async fn kill_stray(&self, guest: Uuid, run_dir: &Path) -> io::Result<()> {
        match self {
            Self::Qemu => stray::kill(guest, run_dir).await,
            Self::Simulated(guests) => {
                guests.kill(guest);
                Ok(())
            }
        }
    }

    /// A process that may be that of a guest whose record says nothing; `None`: it has none. More
    /// cautious than [`Self::kill_stray`]: another one's process of the guest's identity counts, too.
    pub fn find_stray(&self, guest: Uuid) -> io::Result<Option<u32>> {
        match self {
            Self::Qemu => stray::find(guest),
            Self::Simulated(guests) => Ok(guests.pid_of(guest)),
        }
    }

    /// The processes of guests whose directories are below that one, with the guests' identities,
    /// whether there are records of them or not. Looks at all processes; blocks.
    pub fn strays(&self, guests: &Path) -> io::Result<Vec<(Uuid, u32)>> {
        match self {
            Self::Qemu => stray::below(guests),
            Self::Simulated(guests) => Ok(guests.all()),
        }
    }

    /// The process of a record, if it still runs.
    fn find(&self, record: &GuestRecord) -> Result<Process, ReconnectError> {
        if let Self::Simulated(guests) = self {
            let machine = guests.find(record);
            return machine.map(Process::Simulated).ok_or_else(|| record.gone());
        }
        if boot_id().map_err(|source| record.unknown(source))? != record.boot_id {
            let name = record.name.clone();
            return Err(ReconnectError::AnotherBoot { name });
        }
        let sought = KernelProcess::find(record.pid, record.start_time);
        match sought.map_err(|source| record.unknown(source))? {
            Sought::Here(process) => Ok(Process::Qemu(process)),
            Sought::Gone => Err(record.gone()),
            Sought::Another => Err(ReconnectError::Impostor {
                name: record.name.clone(),
                pid: record.pid,
            }),
        }
    }
}

/// A record of an earlier release has no pipe: its QEMU writes to the log itself. A pipe that can't
/// be opened costs QEMU's words, and is no reason to give its guest up.
async fn follow_output(record: &GuestRecord) -> Option<Output> {
    let (pipe, log) = (record.output.clone()?, record.log.clone());
    let open = move || io::Result::Ok((open_pipe(&pipe)?, Log::open(&log)?));
    let opened = tokio::task::spawn_blocking(open).await;
    let opened = opened.unwrap_or_else(|error| Err(io::Error::other(error)));
    match opened.and_then(|(reader, log)| Output::follow(reader, log)) {
        Ok(output) => Some(output),
        Err(error) => {
            tracing::warn!(guest = record.name, %error, "what it prints goes unread");
            None
        }
    }
}
