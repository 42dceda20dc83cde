//! What is kept of a running guest, for the next daemon.

use std::collections::BTreeSet;
use std::sync::Arc;

use assign::Generation;
use conf::Uuid;
use lending::{Attachment, AttachmentState, PortId, Role, Subject};
use qemu::GuestRecord;
use rpc::Error;
use serde::{Deserialize, Serialize};

use super::QEMU;
use super::change::Unfinished;
use super::groups::GuestGroups;
use super::handle::{GuestHandle, Run};
use crate::blocking::blocking;
use crate::daemon::Daemon;
use crate::fault::{self, Result};

/// A running guest. Written before anything is done for it, and again when its process is there.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DomainRecord {
    pub(crate) name: String,
    pub(crate) uuid: Uuid,
    /// The number of its run.
    pub(crate) id: i32,
    /// What it has of the host.
    #[serde(default)]
    attachments: Vec<Attachment>,
    /// In format 1, instead of attachments: the ports that were made for it, network and port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ports: Vec<(Uuid, Uuid)>,
    /// In format 1, too: the claims on its devices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    lent: Vec<Generation>,
    /// It was resumed by somebody since its start.
    resumed: bool,
    /// It came from another host.
    #[serde(default)]
    arrived: bool,
    /// It was to end with its client, and no client outlives its daemon.
    #[serde(default)]
    autodestroy: bool,
    /// It was being made like this document, and these ports were to go then; see [`Run::changing`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    changing: Option<Vec<PortId>>,
    /// Drives whose media were being changed then, by target.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    media: Vec<String>,
    /// The running document, with all that was resolved.
    xml: String,
    /// The process, once there is one.
    pub(crate) guest: Option<GuestRecord>,
}

/// Stands for the connection of a client of an earlier daemon; no connection has this number.
const NOBODY: u64 = u64::MAX;

impl DomainRecord {
    /// Of this layout; a later one gets another number. Format 1 had ports and claims of a guest as
    /// two lists, and did not say whose is which; format 2 knew no VFs that come and go.
    pub(crate) const FORMAT: u32 = 3;

    /// Of a start, before anything is touched for it.
    pub(super) fn of_start(
        handle: &GuestHandle,
        domain: &conf::Domain,
        attachments: Vec<Attachment>,
        autodestroy: bool,
    ) -> Self {
        Self {
            name: handle.name.clone(),
            uuid: handle.uuid,
            id: domain.id.and_then(|id| i32::try_from(id).ok()).unwrap_or(0),
            attachments,
            ports: Vec::new(),
            lent: Vec::new(),
            resumed: false,
            arrived: false,
            autodestroy,
            changing: None,
            media: Vec::new(),
            xml: domain.to_status_xml(),
            guest: None,
        }
    }

    fn of(handle: &GuestHandle, run: &Run) -> Self {
        let attachments = run.attachments.clone();
        Self {
            id: run.id,
            resumed: run.resumed,
            arrived: run.arrived,
            changing: (run.changing.as_ref()).map(|unfinished| unfinished.ports.clone()),
            media: (run.changing.as_ref())
                .map_or_else(Vec::new, |unfinished| unfinished.media.clone()),
            guest: Some(run.machine.record().clone()),
            ..Self::of_start(handle, &run.domain, attachments, run.autodestroy.is_some())
        }
    }

    /// The guest as it was then, with its process.
    pub(super) fn into_run(
        self,
        machine: qemu::Guest,
        groups: &GuestGroups,
    ) -> std::result::Result<Run, conf::Error> {
        let mut domain = conf::Domain::parse_status(&self.xml)?;
        domain.id = u32::try_from(self.id).ok();
        let mut attachments = self.attachments;
        if attachments.is_empty() {
            attachments = of_format_one(&domain, self.ports, self.lent);
        }
        Ok(Run {
            id: self.id,
            domain,
            own_group: (machine.record().own_group).map(|group| groups.take_up(group)),
            machine,
            attachments,
            negotiated: BTreeSet::new(),
            is_unjoined: false,
            resumed: self.resumed,
            arrived: self.arrived,
            autodestroy: self.autodestroy.then_some(NOBODY),
            changing: self.changing.map(|ports| Unfinished {
                ports,
                media: self.media,
            }),
        })
    }
}

/// Format 1 knew which ports and which claims a guest has, and not which is whose.
fn of_format_one(
    domain: &conf::Domain,
    ports: Vec<(Uuid, Uuid)>,
    lent: Vec<Generation>,
) -> Vec<Attachment> {
    let attachment = |alias: Option<&str>, mac, port, claim| Attachment {
        id: Uuid::new_v4(),
        alias: alias.unwrap_or_default().to_owned(),
        subject: Subject::Interface,
        mac,
        role: Role::Sole,
        pair: None,
        port,
        claim,
        reserved: None,
        owed_since: None,
        state: AttachmentState::Plugged,
    };
    let ports = ports.into_iter().map(|(network, port)| {
        let mut interfaces = domain.devices.interfaces.iter();
        let its = interfaces.find(|interface| {
            (interface.actual.as_ref()).is_some_and(|actual| actual.port == port)
        });
        attachment(
            its.and_then(|interface| interface.info.alias.as_deref()),
            its.map(|interface| interface.mac),
            Some(PortId { network, port }),
            None,
        )
    });
    let claims = lent
        .into_iter()
        .map(|claim| attachment(None, None, None, Some(claim)));
    ports.chain(claims).collect()
}

/// Records a guest that runs, or is about to.
pub(super) async fn write(daemon: &Arc<Daemon>, handle: &GuestHandle, run: &Run) -> Result<()> {
    keep(daemon, DomainRecord::of(handle, run)).await
}

/// Keeps a record.
pub(super) async fn keep(daemon: &Arc<Daemon>, record: DomainRecord) -> Result<()> {
    let daemon = Arc::clone(daemon);
    let written = blocking(QEMU, move || {
        let written = daemon.records.domains.write(record.uuid, &record);
        written.map_err(|error| -> Error {
            fault::record(QEMU, format!("can't record guest '{}'", record.name))(error)
        })
    });
    written.await?
}

/// The same, where the guest is already so: a record that is behind is told in the log.
pub(super) async fn write_or_warn(daemon: &Arc<Daemon>, handle: &GuestHandle, run: &Run) {
    let (daemon, record) = (Arc::clone(daemon), DomainRecord::of(handle, run));
    let settled = blocking(QEMU, move || {
        let settled = daemon.records.domains.settle(record.uuid, &record);
        settled.map_err(|error| fault::chain(&error))
    });
    let error = match settled.await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error,
        Err(error) => error.to_string(),
    };
    tracing::warn!(guest = handle.name, error, "its record is behind for now");
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
