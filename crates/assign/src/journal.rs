//! The journal: a file for each item that is not as it was found.
//!
//! A record is written beside its place and renamed into it, so that it is there whole or not at
//! all. It is not synced to a disk: it describes this boot, and a later one does not believe it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::device::Item;
use crate::record::{Format1, Record};

/// Bytes of the longest record; real ones have about 1,500.
const LONGEST: u64 = 64 * 1024;

/// A journal file that can't be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} '{}'", .path.display())]
pub struct JournalError {
    /// What was tried.
    pub action: &'static str,
    /// On which file.
    pub path: PathBuf,
    /// What the kernel, or the file's text, said.
    #[source]
    pub source: io::Error,
}

impl JournalError {
    /// The kernel's error number, where it was the kernel that refused.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

/// A file of the journal that makes no sense.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) path: PathBuf,
    /// What it is about, by its name.
    pub(crate) item: Option<Item>,
    pub(crate) reason: String,
}

#[derive(Debug)]
pub(crate) struct Journal {
    directory: PathBuf,
}

impl Journal {
    /// Opens the journal in that directory, made if it is missing.
    pub(crate) fn open(directory: PathBuf) -> Result<Self, JournalError> {
        let mut builder = fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(&directory);
        made.map_err(failed("make", &directory))?;
        Ok(Self { directory })
    }

    /// Writes an item's record, in place of an older one.
    pub(crate) fn write(&self, record: &Record) -> Result<(), JournalError> {
        let path = self.path(record.item);
        let text = serde_json::to_vec_pretty(record)
            .map_err(io::Error::from)
            .and_then(|text| match text.len() as u64 {
                length if length > LONGEST => Err(too_long(length)),
                _ => Ok(text),
            });
        self.replace(&path, &text.map_err(failed("write", &path))?)
    }

    /// Removes an item's record. Fine if there is none.
    pub(crate) fn remove(&self, item: Item) -> Result<(), JournalError> {
        let path = self.path(item);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// All records, by item; and what looks like one and can't be read. Half-written files are
    /// removed: nothing was done on their account.
    pub(crate) fn read_all(&self) -> Result<(Vec<Record>, Vec<Unreadable>), JournalError> {
        let list = failed("list", &self.directory);
        let (mut records, mut unreadable) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&self.directory).map_err(&list)? {
            let path = entry.map_err(&list)?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if name.starts_with('.') && name.ends_with(".new") {
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            } else if let Some(stem) = name.strip_suffix(".json") {
                let item = stem.parse().ok();
                match read(&path) {
                    Ok(record) if Some(record.item) == item => records.push(record),
                    Ok(record) => unreadable.push(Unreadable {
                        reason: format!("it is about {}", record.item),
                        item,
                        path,
                    }),
                    Err(error) => unreadable.push(Unreadable {
                        reason: error.to_string(),
                        item,
                        path,
                    }),
                }
            }
        }
        records.sort_by_key(|record| record.item);
        Ok((records, unreadable))
    }

    /// Counts this start; tells which one it is, in this boot. Higher than any in the records.
    pub(crate) fn count_start(&self, boot: &str, records: &[Record]) -> u32 {
        let path = self.directory.join("starts");
        let starts = fs::read_to_string(&path).unwrap_or_default();
        let counted = starts.trim().split_once(' ');
        let counted = counted.and_then(|(of, count)| (of == boot).then_some(count));
        let counted = counted.and_then(|count| count.parse().ok());
        let recorded = records.iter().map(|record| record.generation.start).max();
        let start = counted.max(recorded).unwrap_or(0_u32).saturating_add(1);
        // Without the count a generation could come twice, which only matters to who kept an old
        // one across a restart: no reason to leave running guests alone.
        if let Err(error) = self.replace(&path, format!("{boot} {start}\n").as_bytes()) {
            tracing::warn!(%error, reason = %error.source, "this start is not counted");
        }
        start
    }

    fn replace(&self, path: &Path, text: &[u8]) -> Result<(), JournalError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let beside = self.directory.join(format!(".{name}.new"));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let written = (options.open(&beside))
            .and_then(|mut file| file.write_all(text))
            .and_then(|()| fs::rename(&beside, path));
        written.map_err(|error| {
            // Best effort: a half-written file has no meaning, and the next start removes it.
            let _ = fs::remove_file(&beside);
            failed("write", path)(error)
        })
    }

    fn path(&self, item: Item) -> PathBuf {
        self.directory.join(format!("{item}.json"))
    }

    /// Tells this journal from that of another daemon on the same host: eight digits, of the path
    /// (FNV-1a).
    pub(crate) fn instance(&self) -> String {
        let bytes = self.directory.as_os_str().as_bytes();
        let hash = bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        });
        format!("{hash:08x}")
    }
}

fn read(path: &Path) -> io::Result<Record> {
    let mut text = Vec::new();
    File::open(path)?.take(LONGEST + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LONGEST {
        return Err(too_long(text.len() as u64));
    }
    let Format { format } = serde_json::from_slice(&text)?;
    match format {
        Record::FORMAT => Ok(serde_json::from_slice(&text)?),
        Format1::FORMAT => {
            let old: Format1 = serde_json::from_slice(&text)?;
            old.try_into().map_err(io::Error::other)
        }
        format => Err(io::Error::other(format!(
            "it has format {format}, and this version reads up to {}",
            Record::FORMAT
        ))),
    }
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

fn too_long(length: u64) -> io::Error {
    io::Error::other(format!(
        "a record of {length} bytes is longer than {LONGEST}"
    ))
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> JournalError + 'a {
    move |source| JournalError {
        action,
        path: path.to_owned(),
        source,
    }
}
