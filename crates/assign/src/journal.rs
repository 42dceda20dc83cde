//! The journal: a record for each item that is not as it was found.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use records::{Loaded, ReadError, RecordError, Records};

use crate::device::Item;
use crate::record::{Format1, Record};

/// Bytes of the longest record; real ones have about 1,500.
const LONGEST: u64 = 64 * 1024;

/// A record that makes no sense.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) path: PathBuf,
    /// What it is about, by its name.
    pub(crate) item: Option<Item>,
    pub(crate) reason: String,
}

/// What the journal tells when it is opened.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) records: Vec<Record>,
    /// Of another boot, and removed: the item, and the guest's name if it could be read.
    pub(crate) of_other_boots: Vec<(String, Option<String>)>,
    pub(crate) unreadable: Vec<Unreadable>,
}

#[derive(Debug)]
pub(crate) struct Journal {
    records: Records,
    boot: String,
}

impl Journal {
    /// Opens the journal in that directory, made if it is missing.
    pub(crate) fn open(directory: PathBuf, boot: String) -> Result<Self, RecordError> {
        let records = Records::open(directory, boot.clone(), Record::FORMAT)?;
        Ok(Self {
            records: records.at_most(LONGEST),
            boot,
        })
    }

    /// Writes an item's record, in place of an older one.
    pub(crate) fn write(&self, record: &Record) -> Result<(), RecordError> {
        self.records.write(record.item, record)
    }

    /// Whether an item has a record.
    pub(crate) fn has(&self, item: Item) -> bool {
        self.records.has(item)
    }

    /// Removes an item's record. Fine if there is none.
    pub(crate) fn remove(&self, item: Item) -> Result<(), RecordError> {
        self.records.remove(item)
    }

    /// All records, by item.
    pub(crate) fn read_all(&self) -> Result<Told, RecordError> {
        let mut told = Told::default();
        for loaded in self.records.load_as(read)? {
            match loaded {
                Loaded::Good { id, record, .. } if id == record.item.to_string() => {
                    told.records.push(record);
                }
                Loaded::Good { id, record, .. } => told.unreadable.push(Unreadable {
                    path: self.records.directory().join(format!("{id}.json")),
                    item: id.parse().ok(),
                    reason: format!("it is about {}", record.item),
                }),
                Loaded::OtherBoot { id, record } => {
                    told.of_other_boots
                        .push((id, record.map(|record| record.holder.name)));
                }
                Loaded::Unreadable(file) => told.unreadable.push(Unreadable {
                    path: file.path,
                    item: file.id.parse().ok(),
                    reason: file.reason,
                }),
            }
        }
        told.records.sort_by_key(|record| record.item);
        Ok(told)
    }

    /// Counts this start; tells which one it is, in this boot. Higher than any in the records.
    pub(crate) fn count_start(&self, records: &[Record]) -> u32 {
        let boot = &self.boot;
        let starts = self.records.read_beside(STARTS).unwrap_or_default();
        let starts = String::from_utf8_lossy(&starts);
        let counted = starts.trim().split_once(' ');
        let counted = counted.and_then(|(of, count)| (of == boot).then_some(count));
        let counted = counted.and_then(|count| count.parse().ok());
        let recorded = records.iter().map(|record| record.generation.start).max();
        let start = counted.max(recorded).unwrap_or(0_u32).saturating_add(1);
        let text = format!("{boot} {start}\n");
        // Without the count a generation could come twice, which only matters to who kept an old
        // one across a restart: no reason to leave running guests alone.
        if let Err(error) = self.records.write_beside(STARTS, text.as_bytes()) {
            tracing::warn!(%error, reason = %error.source, "this start is not counted");
        }
        start
    }

    /// Tells this journal from that of another daemon on the same host: eight digits, of the path
    /// (FNV-1a).
    pub(crate) fn instance(&self) -> String {
        let bytes = self.records.directory().as_os_str().as_bytes();
        let hash = bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        });
        format!("{hash:08x}")
    }
}

/// The file that counts starts.
const STARTS: &str = "starts";

fn read(format: u32, text: &[u8]) -> Result<Record, ReadError> {
    match format {
        Format1::FORMAT => {
            let old: Format1 = serde_json::from_slice(text)?;
            Ok(old.try_into()?)
        }
        _ => Ok(serde_json::from_slice(text)?),
    }
}
