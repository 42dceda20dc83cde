//! Guests whose records can't be read: nobody knows whether they run, so what they have stays with
//! them, and none of them is started a second time.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use conf::Uuid;
use records::Unreadable;
use rpc::{Code, Error};

use super::QEMU;
use crate::daemon::Daemon;
use crate::sync::lock;

/// Those guests, and records of which not even that is known.
#[derive(Debug, Default)]
pub(crate) struct Barred {
    guests: Mutex<BTreeMap<Uuid, BarredGuest>>,
    unread: Mutex<Vec<UnreadRecord>>,
}

/// One of those guests.
#[derive(Debug, Clone)]
pub(crate) struct BarredGuest {
    pub(crate) uuid: Uuid,
    /// What is wrong, in words.
    pub(crate) what: String,
    /// The name of its record's file, without extension.
    pub(crate) record: String,
}

/// A record that can't be read, and bars no guest that could be named.
#[derive(Debug, Clone)]
pub(crate) struct UnreadRecord {
    pub(crate) subject: RecordSubject,
    pub(crate) path: PathBuf,
    /// What is wrong, in words.
    pub(crate) what: String,
    /// Which file it was, to tell it from one that took its place.
    file: Option<FileMark>,
}

impl UnreadRecord {
    /// What its file is named after, unless somebody renamed it.
    fn named(&self) -> Option<Uuid> {
        self.path.file_stem()?.to_str()?.parse().ok()
    }
}

/// Inode, and the time of its last change in seconds and nanoseconds.
type FileMark = (u64, i64, i64);

fn mark_of(path: &Path) -> io::Result<FileMark> {
    let found = path.symlink_metadata()?;
    Ok((found.ino(), found.ctime(), found.ctime_nsec()))
}

/// What a record tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordSubject {
    /// A guest. As long as nobody knows which, it may be any.
    Guest,
    Network,
    Port,
}

impl Barred {
    /// Bars the guest of a record, by the file's name or else by what the text still says.
    pub(crate) fn bar(&self, record: &Unreadable) {
        let Some(uuid) = guest_of(record) else {
            return self.note_unread(RecordSubject::Guest, record);
        };
        tracing::error!(
            "{record}; its guest is left alone and can't be started: virtnic reconcile tells more"
        );
        let (what, record) = (record.to_string(), record.id.clone());
        let guest = BarredGuest { uuid, what, record };
        lock(&self.guests).insert(uuid, guest);
    }

    /// Bars a guest that runs, or may run, and can't be taken up; what is wrong, in words.
    pub(crate) fn bar_unknown(&self, uuid: Uuid, what: String) {
        tracing::error!("{what}; it is left alone and can't be started");
        let record = uuid.to_string();
        let guest = BarredGuest { uuid, what, record };
        lock(&self.guests).insert(uuid, guest);
    }

    /// Keeps in mind that a record says nothing.
    pub(crate) fn note_unread(&self, subject: RecordSubject, record: &Unreadable) {
        tracing::error!("{record}: virtnic reconcile tells more");
        lock(&self.unread).push(UnreadRecord {
            subject,
            path: record.path.clone(),
            what: record.to_string(),
            file: mark_of(&record.path).ok(),
        });
    }

    /// It is known again what became of it.
    pub(crate) fn admit(&self, guest: Uuid) {
        lock(&self.guests).remove(&guest);
    }

    /// Whether nobody knows if a guest runs.
    pub(crate) fn may_be(&self, guest: Uuid) -> bool {
        lock(&self.guests).contains_key(&guest) || self.has_nameless()
    }

    /// Whether there is the record of a guest that can't be named. Looks for its file.
    fn has_nameless(&self) -> bool {
        let unread = self.unread();
        unread.iter().any(|one| one.subject == RecordSubject::Guest)
    }

    /// Whether a network that is not known to run has a record that can't be read.
    pub(crate) fn may_network_run(&self, network: Uuid) -> bool {
        let unread = self.unread();
        let mut networks = (unread.iter()).filter(|one| one.subject == RecordSubject::Network);
        networks.any(|one| one.named().is_none_or(|named| named == network))
    }

    /// All guests that can be named.
    pub(crate) fn all(&self) -> Vec<BarredGuest> {
        lock(&self.guests).values().cloned().collect()
    }

    /// The records that bar nobody who could be named, as far as they are still there.
    pub(crate) fn unread(&self) -> Vec<UnreadRecord> {
        let mut unread = lock(&self.unread).clone();
        if unread.is_empty() {
            return unread;
        }
        // Only what is surely gone, or was replaced, is forgotten; a link that leads nowhere is not.
        unread.retain(|one| match mark_of(&one.path) {
            Ok(now) => one.file.is_none_or(|noted| noted == now),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        });
        let is_there = |path: &PathBuf| unread.iter().any(|one| one.path == *path);
        lock(&self.unread).retain(|one| is_there(&one.path));
        unread
    }

    /// Refuses to start one of them.
    pub(super) fn check(&self, guest: Uuid, name: &str) -> Result<(), Error> {
        let barred = lock(&self.guests).get(&guest).cloned();
        match barred {
            Some(BarredGuest { what, .. }) => Err(may_run(name, &what)),
            None => Ok(()),
        }
    }
}

impl Daemon {
    /// Refuses a guest whose process is there, where a record that says nothing may be this guest's.
    /// Blocks.
    pub(crate) fn check_no_process(&self, guest: Uuid, name: &str) -> Result<(), Error> {
        if !self.barred.has_nameless() {
            return Ok(());
        }
        let unknown = |error: io::Error| Error::new(Code::SystemError, QEMU, error.to_string());
        match self.launcher.find_stray(guest).map_err(unknown)? {
            Some(pid) => Err(may_run(name, &format!("process {pid} has its uuid"))),
            None => Ok(()),
        }
    }
}

/// The refusal to start a guest a second time, with what tells that it may run.
fn may_run(name: &str, what: &str) -> Error {
    let detail = format!(
        "guest '{name}' may be running already: {what}\n\
         see what is there: virtnic reconcile"
    );
    Error::new(Code::OperationFailed, QEMU, detail)
}

/// Whose a record is. Its file may have been renamed, and its text be cut short: the guest's `uuid`
/// stands near its beginning.
fn guest_of(record: &Unreadable) -> Option<Uuid> {
    let from_text = || {
        let (_, rest) = record.text.split_once("\"uuid\"")?;
        rest.split('"').nth(1)?.parse().ok()
    };
    record.id.parse().ok().or_else(from_text)
}
