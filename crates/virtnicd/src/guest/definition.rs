//! A guest's definition on its way to the disk. One at a time, and beside whatever runs.

use std::io;
use std::sync::Arc;

use conf::Form;
use rpc::Error;
use tokio::task::JoinHandle;

use super::QEMU;
use super::change::LiveChange;
use super::handle::{GuestHandle, Reply};
use crate::daemon::Daemon;
use crate::fault;
use crate::store::StoredDefinition;

/// A definition that is being written or removed.
pub(super) struct Write {
    pub(super) what: WriteWhat,
    pub(super) work: JoinHandle<io::Result<()>>,
    pub(super) reply: Option<Reply>,
    /// What was changed beside it in what runs, to be taken back if this fails.
    pub(super) change: Option<Box<LiveChange>>,
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
                tokio::task::spawn_blocking(move || {
                    daemon
                        .domain_store
                        .write_new(&name, &domain.to_xml_with_secrets(Form::Inactive))
                })
            }
            WriteWhat::Define { domain, .. } | WriteWhat::Keep(domain) => {
                let domain = Arc::clone(domain);
                tokio::task::spawn_blocking(move || {
                    daemon
                        .domain_store
                        .write(&name, &domain.to_xml_with_secrets(Form::Inactive))
                })
            }
            WriteWhat::TakeIn(found, domain) => {
                let (found, domain) = (Arc::clone(found), Arc::clone(domain));
                tokio::task::spawn_blocking(move || {
                    daemon.domain_store.take_in(
                        &found,
                        &name,
                        &domain.to_xml_with_secrets(Form::Inactive),
                    )
                })
            }
            WriteWhat::Undefine => {
                tokio::task::spawn_blocking(move || daemon.domain_store.remove(&name))
            }
            &WriteWhat::Autostart(wanted) => tokio::task::spawn_blocking(move || {
                daemon.domain_store.set_autostart(&name, wanted)
            }),
        };
        Self {
            what,
            work,
            reply,
            change,
        }
    }

    /// Why it is not on the disk.
    pub(super) fn error(&self, name: &str, error: io::Error) -> Error {
        let what = match self.what {
            WriteWhat::Define { .. } | WriteWhat::Keep(_) => format!("can't keep guest '{name}'"),
            WriteWhat::TakeIn(..) => format!("the definition of guest '{name}' is not taken in"),
            WriteWhat::Undefine => format!("can't forget guest '{name}'"),
            WriteWhat::Autostart(_) => format!("can't mark guest '{name}'"),
        };
        fault::file(QEMU, what)(error)
    }
}
