//! Guests whose records can't be read: nobody knows whether they run, so what they have stays with
//! them, and none of them is started a second time.

use std::collections::BTreeMap;
use std::sync::Mutex;

use conf::Uuid;
use records::Unreadable;
use rpc::{Code, Error};

use super::QEMU;
use crate::sync::lock;

/// Those guests.
#[derive(Debug, Default)]
pub(crate) struct Barred(Mutex<BTreeMap<Uuid, BarredGuest>>);

/// One of them.
#[derive(Debug, Clone)]
pub(crate) struct BarredGuest {
    pub(crate) uuid: Uuid,
    /// What is wrong, in words.
    pub(crate) what: String,
}

impl Barred {
    /// Bars the guest of a record.
    pub(crate) fn bar(&self, record: &Unreadable) {
        tracing::error!(
            "{record}; its guest is left alone and can't be started: virtnic reconcile tells more"
        );
        if let Ok(uuid) = record.id.parse() {
            let what = record.to_string();
            lock(&self.0).insert(uuid, BarredGuest { uuid, what });
        }
    }

    /// Bars a guest that runs, or may run, and can't be taken up; what is wrong, in words.
    pub(crate) fn bar_unknown(&self, uuid: Uuid, what: String) {
        tracing::error!("{what}; it is left alone and can't be started");
        lock(&self.0).insert(uuid, BarredGuest { uuid, what });
    }

    /// It is known again what became of it.
    pub(crate) fn admit(&self, guest: Uuid) {
        lock(&self.0).remove(&guest);
    }

    /// Who they are.
    pub(crate) fn guests(&self) -> Vec<Uuid> {
        lock(&self.0).keys().copied().collect()
    }

    /// Whether a guest is one of them.
    pub(crate) fn has(&self, guest: Uuid) -> bool {
        lock(&self.0).contains_key(&guest)
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<BarredGuest> {
        lock(&self.0).values().cloned().collect()
    }

    /// Refuses to start one of them.
    pub(super) fn check(&self, guest: Uuid, name: &str) -> Result<(), Error> {
        let barred = lock(&self.0).get(&guest).cloned();
        let Some(BarredGuest { what, .. }) = barred else {
            return Ok(());
        };
        let detail = format!(
            "guest '{name}' may be running already: {what}\n\
             See what is there: virtnic reconcile"
        );
        Err(Error::new(Code::OperationFailed, QEMU, detail))
    }
}
