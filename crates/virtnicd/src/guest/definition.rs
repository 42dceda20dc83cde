//! A guest's definition on its way to the disk. One at a time, and beside whatever runs.

use std::io;
use std::sync::Arc;

use conf::Form;
use rpc::Error;
use tokio::task::JoinHandle;

use super::QEMU;
use super::change::LiveChange;
use super::handle::{GuestHandle, Reply, Run};
use crate::daemon::Daemon;
use crate::fault;
use crate::store::StoredDefinition;

/// A definition that is being written or removed.
pub(super) struct Write {
    pub(super) what: WriteWhat,
    /// What is kept, where that was made on the way.
    pub(super) work: JoinHandle<std::result::Result<Option<Arc<conf::Domain>>, Unwritten>>,
    pub(super) reply: Option<Reply>,
    /// What was changed beside it in what runs, to be taken back if this fails.
    pub(super) change: Option<Box<LiveChange>>,
}

/// Why nothing was written.
pub(super) enum Unwritten {
    File(io::Error),
    Refused(Error),
}

impl From<io::Error> for Unwritten {
    fn from(error: io::Error) -> Self {
        Self::File(error)
    }
}

/// What is done to it.
pub(super) enum WriteWhat {
    /// It is kept, as a client gave it.
    Define {
        domain: Arc<conf::Domain>,
        /// There was none.
        is_new: bool,
    },
    /// It was found on the disk, and is kept as it was understood.
    TakeIn(Arc<StoredDefinition>, Arc<conf::Domain>),
    /// It is kept, a part of it changed.
    Keep(Arc<conf::Domain>),
    /// A device is added to it.
    Attach {
        defined: Arc<conf::Domain>,
        device: Arc<conf::Device>,
    },
    /// A device of it is made like one that is given.
    Update {
        defined: Arc<conf::Domain>,
        /// What a client may have seen, too.
        running: Option<Arc<Run>>,
        device: Arc<conf::Device>,
    },
    /// It is forgotten.
    Undefine,
    /// It is marked to start with the host, or not.
    Autostart(bool),
}

impl Write {
    pub(super) fn begin(
        daemon: &Arc<Daemon>,
        handle: &GuestHandle,
        what: WriteWhat,
        reply: Option<Reply>,
        change: Option<Box<LiveChange>>,
    ) -> Self {
        // Until it is done no other daemon has the root.
        let (daemon, name) = (Arc::clone(daemon), handle.name.clone());
        let work = match &what {
            WriteWhat::Define {
                domain,
                is_new: true,
            } => {
                let domain = Arc::clone(domain);
                spawn(move || Ok(daemon.domain_store.write_new(&name, &text_of(&domain))?))
            }
            WriteWhat::Define { domain, .. } | WriteWhat::Keep(domain) => {
                let domain = Arc::clone(domain);
                spawn(move || Ok(keep(&daemon, &name, &domain)?))
            }
            WriteWhat::Attach { defined, device } => {
                let (defined, device) = (Arc::clone(defined), Arc::clone(device));
                tokio::task::spawn_blocking(move || {
                    let changed = daemon.definition_with(&defined, &device);
                    let changed = changed.map_err(Unwritten::Refused)?;
                    keep(&daemon, &name, &changed)?;
                    Ok(Some(Arc::new(changed)))
                })
            }
            WriteWhat::Update {
                defined,
                running,
                device,
            } => {
                let (defined, device) = (Arc::clone(defined), Arc::clone(device));
                let running = running.clone();
                tokio::task::spawn_blocking(move || {
                    let running = running.as_ref().map(|run| &run.domain);
                    let changed = daemon.definition_as(&defined, running, &device);
                    let changed = changed.map_err(Unwritten::Refused)?;
                    keep(&daemon, &name, &changed)?;
                    Ok(Some(Arc::new(changed)))
                })
            }
            WriteWhat::TakeIn(found, domain) => {
                let (found, domain) = (Arc::clone(found), Arc::clone(domain));
                spawn(move || {
                    Ok(daemon
                        .domain_store
                        .take_in(&found, &name, &text_of(&domain))?)
                })
            }
            WriteWhat::Undefine => spawn(move || Ok(daemon.domain_store.remove(&name)?)),
            &WriteWhat::Autostart(wanted) => {
                spawn(move || Ok(daemon.domain_store.set_autostart(&name, wanted)?))
            }
        };
        Self {
            what,
            work,
            reply,
            change,
        }
    }

    /// Why it is not on the disk.
    pub(super) fn error(&self, name: &str, error: Unwritten) -> Error {
        let error = match error {
            Unwritten::File(error) => error,
            Unwritten::Refused(error) => return error,
        };
        let what = match self.what {
            WriteWhat::Define { .. }
            | WriteWhat::Keep(_)
            | WriteWhat::Attach { .. }
            | WriteWhat::Update { .. } => return not_kept(name)(error),
            WriteWhat::TakeIn(..) => format!("the definition of guest '{name}' is not taken in"),
            WriteWhat::Undefine => format!("can't forget guest '{name}'"),
            WriteWhat::Autostart(_) => format!("can't mark guest '{name}'"),
        };
        fault::file(QEMU, what)(error)
    }
}

/// Writes a definition that was there before. Blocks.
pub(super) fn keep(daemon: &Daemon, name: &str, domain: &conf::Domain) -> io::Result<()> {
    daemon.domain_store.write(name, &text_of(domain))
}

fn text_of(domain: &conf::Domain) -> String {
    domain.to_xml_with_secrets(Form::Inactive)
}

/// Why a definition is not kept, as its client is told.
pub(super) fn not_kept(name: &str) -> impl FnOnce(io::Error) -> Error {
    fault::file(QEMU, format!("can't keep guest '{name}'"))
}

/// Writes, and makes nothing new on the way.
fn spawn(
    write: impl FnOnce() -> std::result::Result<(), Unwritten> + Send + 'static,
) -> JoinHandle<std::result::Result<Option<Arc<conf::Domain>>, Unwritten>> {
    tokio::task::spawn_blocking(move || write().map(|()| None))
}
