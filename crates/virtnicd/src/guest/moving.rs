//! Guests on their way from one host to another: how far they are, and what the next daemon knows of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use conf::Uuid;
use qemu::{CpuWord, MigrationInfo, MigrationSettings};
use records::Loaded;
use rpc::{Code, Error};
use serde::{Deserialize, Serialize};

use super::handle::GuestHandle;
use super::{QEMU, RecordSubject};
use crate::blocking::blocking;
use crate::daemon::Daemon;
use crate::fault::{self, Result};

/// A guest that is held to go to another host, is on its way there, or has gone.
#[derive(Debug, Clone)]
pub(crate) struct Departure {
    /// Tells this move from others, here and there.
    pub(crate) id: Uuid,
    pub(crate) phase: Phase,
    /// The connection of the client that moves it; `None`: that is gone.
    pub(crate) connection: Option<u64>,
    pub(crate) since: Instant,
    /// It ran when it was held, so that it runs again if it stays.
    pub(super) was_running: bool,
    /// How it was sent, once it was.
    pub(crate) sent: Option<Arc<MigrationInfo>>,
}

/// How far a guest is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its document was handed out; nothing else may change it.
    Held,
    /// It is asked for its VFs.
    Unplugging,
    /// QEMU sends it.
    Sending,
    /// All of it was sent, and it is halted here. Whether it runs there its client knows.
    Sent,
    /// It runs there, and is being ended here.
    Left,
}

/// A guest that comes in.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    /// Tells this move from others, here and there.
    pub(crate) id: Uuid,
    /// The connection of the client that moves it.
    pub(crate) connection: u64,
    pub(crate) since: Instant,
    /// Where its QEMU waits for it.
    pub(crate) uri: String,
}

/// How a guest was moved.
#[derive(Debug, Clone)]
pub(crate) struct Moved {
    /// To another host, or from one.
    pub(crate) out: bool,
    /// How its memory was sent.
    pub(crate) sent: MigrationInfo,
    /// From the client's first call to its last.
    pub(crate) took: Duration,
}

/// What a client wants to be held.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HoldWish {
    pub(crate) id: Uuid,
    pub(crate) connection: u64,
}

/// Where and how a guest is to be sent.
#[derive(Debug, Clone)]
pub(crate) struct SendWish {
    pub(crate) id: Uuid,
    pub(crate) connection: u64,
    pub(crate) uri: String,
    pub(crate) settings: MigrationSettings,
}

/// What is to come in.
#[derive(Debug, Clone)]
pub(crate) struct ArrivalWish {
    pub(crate) id: Uuid,
    pub(crate) connection: u64,
    pub(crate) domain: conf::Domain,
    pub(crate) settings: MigrationSettings,
    /// The places where its QEMU may wait for it, of which the first that is free is taken.
    pub(crate) uris: Vec<String>,
    /// The features of the CPU that it has where it comes from.
    pub(crate) cpu: Option<Vec<CpuWord>>,
}

/// What is to become of a guest that has come in.
#[derive(Debug, Clone)]
pub(crate) struct FinishWish {
    pub(crate) id: Uuid,
    pub(crate) connection: u64,
    /// It stays halted.
    pub(crate) paused: bool,
    /// The definition that is kept of it.
    pub(crate) definition: Option<Arc<conf::Domain>>,
    /// How it was sent.
    pub(crate) moved: Option<Arc<Moved>>,
}

/// What is said of a guest on its way out, whatever is done to it just now.
#[derive(Debug)]
pub(crate) enum Departing {
    /// Send it.
    Send(SendWish),
    /// Bytes a second that may be sent of it; 0: no limit. Also before it leaves.
    Bandwidth(u64),
    /// For how long it may be halted. Also before it leaves.
    Downtime(Duration),
    /// End what is under way; it stays here.
    Abort,
    /// It runs there. Whether its definition is to go from here, too.
    Confirm { id: Uuid, undefine: bool },
    /// It does not run there: it goes on here.
    CallOff { id: Option<Uuid>, connection: u64 },
    /// Who moves it does not know where it is: that is up to a person.
    Unknown,
    /// A person says where it is: nobody else can any more.
    Resolve { here: bool },
}

/// What is kept of a move, beside the guest's own record, until it is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MoveRecord {
    /// The guest.
    pub(crate) guest: Uuid,
    /// Its name.
    pub(crate) name: String,
    /// The move.
    pub(crate) id: Uuid,
    /// How far it is.
    pub(crate) step: Step,
    /// It got a definition here, and had none before.
    #[serde(default)]
    pub(crate) made_definition: bool,
    /// It ran when its move began.
    #[serde(default = "runs")]
    pub(crate) was_running: bool,
}

/// What a record means that does not say it.
fn runs() -> bool {
    true
}

/// What the next daemon has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Step {
    /// QEMU may send it, and nobody was told that it has: it goes on here.
    Sending,
    /// All was sent, and its client may know: nobody here can tell where it runs.
    Sent,
    /// It runs there: it ends here.
    Left,
    /// It comes in, and nobody was told that it is here: it ends here.
    Arriving,
    /// It was let run, and its client may know: nobody here can tell where it runs.
    Arrived,
}

/// What a daemon does about a guest that an earlier one was moving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aftermath {
    /// Nobody was told that it went: it goes on here, if it ran.
    GoesOn { was_running: bool },
    /// It may run on the other host, and nobody here can tell: it is halted until a person says.
    Unknown { id: Uuid, was_running: bool },
}

impl MoveRecord {
    /// Whether the guest must not be here any more, or not yet.
    pub(crate) fn ends_here(&self) -> bool {
        matches!(self.step, Step::Arriving | Step::Left)
    }

    /// What is to be done about it otherwise.
    pub(super) fn aftermath(&self) -> Aftermath {
        let was_running = self.was_running;
        match self.step {
            Step::Sending => Aftermath::GoesOn { was_running },
            _ => Aftermath::Unknown {
                id: self.id,
                was_running,
            },
        }
    }

    /// Of a guest that ran when its move began.
    pub(super) fn new(handle: &GuestHandle, id: Uuid, step: Step) -> Self {
        Self {
            guest: handle.uuid,
            name: handle.name.clone(),
            id,
            step,
            made_definition: false,
            was_running: true,
        }
    }

    /// Of this layout; a later one gets another number.
    pub(crate) const FORMAT: u32 = 1;
}

impl Daemon {
    /// Writes how far a move is, before what makes it so.
    pub(super) async fn note_move(self: &Arc<Self>, record: MoveRecord) -> Result<()> {
        let daemon = Arc::clone(self);
        let written = blocking(QEMU, move || {
            let written = daemon.records.moves.write(record.guest, &record);
            written.map_err(|error| -> Error {
                fault::record(
                    QEMU,
                    format!("can't record the move of guest '{}'", record.name),
                )(error)
            })
        });
        written.await?
    }

    /// A move is over.
    pub(super) async fn forget_move(self: &Arc<Self>, guest: Uuid) {
        let daemon = Arc::clone(self);
        let removed = blocking(QEMU, move || daemon.records.moves.discard(guest));
        if let Ok(Err(error)) = removed.await {
            let error = fault::chain(&error);
            tracing::warn!(%guest, error, "the record of its move stays for now");
        }
    }

    /// What an earlier daemon left of moves, by guest. Of one that can't be read a person has to say where the
    /// guest is.
    pub(crate) fn moves(&self) -> std::io::Result<std::collections::HashMap<Uuid, MoveRecord>> {
        let loaded = self.records.moves.load::<MoveRecord>();
        let mut found = std::collections::HashMap::new();
        for loaded in loaded.map_err(std::io::Error::other)? {
            match loaded {
                Loaded::Good { record, .. } => {
                    found.insert(record.guest, record);
                }
                Loaded::OtherBoot { .. } => {}
                Loaded::Unreadable(error) => match error.id.parse() {
                    Ok(guest) => {
                        tracing::error!("{error}: where its guest runs only a person can say");
                        let unknown = MoveRecord {
                            guest,
                            name: String::new(),
                            id: Uuid::new_v4(),
                            step: Step::Sent,
                            made_definition: false,
                            was_running: true,
                        };
                        found.insert(guest, unknown);
                    }
                    Err(_) => self.barred.note_unread(RecordSubject::Guest, &error),
                },
            }
        }
        Ok(found)
    }
}

impl Departure {
    /// Whether only a person can say where the guest is.
    pub(crate) fn is_unknown(&self) -> bool {
        self.phase == Phase::Sent && self.connection.is_none()
    }

    /// Of a guest of which only a person can say where it is.
    pub(super) fn unknown(id: Uuid, was_running: bool) -> Self {
        Self {
            id,
            phase: Phase::Sent,
            connection: None,
            since: Instant::now(),
            was_running,
            sent: None,
        }
    }
}

/// How long a guest that comes in may take to be there once its client says that all was sent.
pub(super) const FINISH_PATIENCE: Duration = Duration::from_secs(60);

/// It is on its way out.
pub(super) fn is_leaving(name: &str) -> Error {
    let detail = format!(
        "guest '{name}' is on its way to another host: nothing of it changes until it is there, or stays\n\
         See 'virsh domjobinfo', and 'virsh domjobabort' to keep it here."
    );
    fault::invalid(QEMU, detail)
}

/// It is on its way in.
pub(super) fn is_arriving(name: &str) -> Error {
    let detail = format!("guest '{name}' is on its way from another host, and not here yet");
    fault::invalid(QEMU, detail)
}

/// It is not on its way in.
pub(super) fn comes_not(name: &str) -> Error {
    let detail = format!(
        "guest '{name}' is not on its way from another host: what came of it was ended, or never began"
    );
    fault::invalid(QEMU, detail)
}

/// Its monitor has not answered yet.
pub(super) fn is_silent(name: &str) -> Error {
    let detail = format!(
        "guest '{name}' can't be moved: its monitor has not answered yet since the daemon started"
    );
    fault::invalid(QEMU, detail)
}

/// It is not on its way.
pub(super) fn no_job(name: &str) -> Error {
    let detail =
        format!("guest '{name}' is not on its way to another host: no job is active on the domain");
    fault::invalid(QEMU, detail)
}

/// The move was ended by somebody.
pub(super) fn called_off() -> Error {
    let detail = "job 'migration out' canceled by client";
    Error::new(Code::OperationAborted, QEMU, detail)
}
