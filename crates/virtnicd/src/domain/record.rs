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
    /// The process, once there is one; never, for a stub.
    pub(crate) guest: Option<GuestRecord>,
}

impl DomainRecord {
    /// Of this layout; a later one gets another number.
    pub(crate) const FORMAT: u32 = 1;
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
            guest: running.guest.record().cloned(),
        })
    }

    fn write_record(&self, record: &DomainRecord) -> Result<()> {
        self.records
            .domains
            .write(record.uuid, record)
            .map_err(fault::record(
                QEMU,
                format!("can't record guest '{}'", record.name),
            ))
    }
}

#[cfg(test)]
mod tests {
    use records::{Loaded, Records};

    use super::*;

    #[test]
    fn guests_of_the_first_format_are_read() {
        let golden = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/golden/records/format-1/domains"
        );
        let boot = "51300000-0000-4000-8000-000000000001";
        let records = Records::open(golden, boot, DomainRecord::FORMAT).unwrap();
        let loaded = records.load::<DomainRecord>().unwrap();
        let guests = loaded.into_iter().map(|loaded| match loaded {
            Loaded::Good { id, record, .. } if id == record.uuid.to_string() => record,
            other => panic!("{other:?}"),
        });
        let guests: Vec<_> = guests.collect();
        let names: Vec<_> = guests.iter().map(|guest| &*guest.name).collect();
        assert_eq!(names, ["web2", "web1"]);
        for guest in &guests {
            assert_eq!((guest.ports.len(), guest.lent.len()), (2, 3));
            let document = conf::Domain::parse(&guest.xml).unwrap();
            assert_eq!(document.name, guest.name);
        }
        assert!(guests[0].guest.is_none());
        assert_eq!(guests[1].guest.as_ref().unwrap().pid, 4711);
    }
}
