//! What is kept of a running guest, for the next daemon.

use assign::Generation;
use conf::Uuid;
use qemu::GuestRecord;
use serde::{Deserialize, Serialize};

use super::start::{Borrowed, Running};
use super::{DomainObject, QEMU};
use crate::daemon::Daemon;
use crate::fault::{self, Result};

/// A running guest. Written before anything is done for it, and again when its process is there.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DomainRecord {
    pub(crate) name: String,
    pub(crate) uuid: Uuid,
    /// The number of its run.
    pub(crate) id: i32,
    /// The ports that were made for it: network and port.
    pub(crate) ports: Vec<(Uuid, Uuid)>,
    /// The claims on its devices.
    pub(crate) lent: Vec<Generation>,
    /// It was resumed by somebody since its start.
    pub(crate) resumed: bool,
    /// The running document, with all that was resolved.
    pub(crate) xml: String,
    /// The process, once there is one.
    pub(crate) guest: Option<GuestRecord>,
}

impl Daemon {
    /// Records a start before anything is touched for it.
    pub(super) fn record_start(
        &self,
        object: &DomainObject,
        id: i32,
        domain: &conf::Domain,
        borrowed: &Borrowed,
    ) -> Result<()> {
        self.write_record(&DomainRecord {
            name: object.name.clone(),
            uuid: object.uuid,
            id,
            ports: borrowed.ports.clone(),
            lent: borrowed.lent.clone(),
            resumed: false,
            xml: domain.to_status_xml(),
            guest: None,
        })
    }

    /// Records a guest that runs.
    pub(super) fn record_running(&self, object: &DomainObject, running: &Running) -> Result<()> {
        self.write_record(&DomainRecord {
            name: object.name.clone(),
            uuid: object.uuid,
            id: running.id,
            ports: running.borrowed.ports.clone(),
            lent: running.borrowed.lent.clone(),
            resumed: running.resumed,
            xml: running.domain.to_status_xml(),
            guest: Some(running.guest.record().clone()),
        })
    }

    fn write_record(&self, record: &DomainRecord) -> Result<()> {
        self.records
            .domains
            .write(record.uuid, record)
            .map_err(fault::file(
                QEMU,
                format!("can't record guest '{}'", record.name),
            ))
    }
}
