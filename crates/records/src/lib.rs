//! Files that tell a later daemon what was: one JSON file a record, in one directory a kind.
//!
//! A record is written beside its place and renamed into it, so that it is there whole or not at
//! all. It is not synced to a disk: it describes this boot, and one of another boot is not believed.
//! Each says which `format` it has; a release reads all earlier ones.
//!
//! A record that can't be read is a finding, never an absence: it is told with its identity, so
//! that the caller can bar what it is about, and nothing but [`Records::remove`] takes it away.

mod file;
mod loaded;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Display;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use file::{read_file, replace_file};
pub use loaded::{Loaded, Unreadable};

/// Bytes of the longest record, where [`Records::at_most`] says nothing else: a guest's holds its
/// document, and documents are bounded by half of this.
const LONGEST: u64 = 64 << 20;

/// Records in one directory; far more than a host has devices.
const MOST: usize = 100_000;

/// The format of a record that names none.
const FIRST_FORMAT: u32 = 1;

/// Records of one kind, in one directory.
#[derive(Debug, Clone)]
pub struct Records {
    directory: PathBuf,
    boot: String,
    format: u32,
    longest: u64,
    /// Two threads that write one record must not write one file. Held for one write alone.
    writing: Arc<Mutex<()>>,
    /// What [`Records::discard`] could not remove, and the texts that [`Records::settle`] could not
    /// write.
    owed: Arc<Mutex<BTreeMap<String, Option<Vec<u8>>>>>,
}

/// A file of records that can't be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} '{}'", .path.display())]
pub struct RecordError {
    /// What was tried.
    pub action: &'static str,
    /// The file, or the directory.
    pub path: PathBuf,
    /// What the kernel, or the file's text, said.
    #[source]
    pub source: io::Error,
}

impl RecordError {
    /// The kernel's error number, where it was the kernel that refused.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

/// Why a reader of an older format makes nothing of a record.
pub type ReadError = Box<dyn Error + Send + Sync>;

/// What is written: the stamp, then the record's own fields.
#[derive(Serialize)]
struct Stamped<'a, T> {
    format: u32,
    boot: &'a str,
    #[serde(flatten)]
    record: &'a T,
}

/// What every format has.
#[derive(Deserialize)]
struct Stamp {
    format: Option<u32>,
    boot: String,
}

impl Records {
    /// Opens the directory, made (for its owner alone) if it is missing. `boot` is the identity of
    /// this boot; `format`, from 1 on, that of the records which this release writes.
    ///
    /// # Errors
    /// The directory can't be made.
    pub fn open(
        directory: impl Into<PathBuf>,
        boot: impl Into<String>,
        format: u32,
    ) -> Result<Self, RecordError> {
        let directory = directory.into();
        file::make_directory(&directory).map_err(failed("make", &directory))?;
        Ok(Self {
            directory,
            boot: boot.into(),
            format,
            longest: LONGEST,
            writing: Arc::default(),
            owed: Arc::default(),
        })
    }

    /// Bounds a record's length, in bytes; 64 MiB otherwise.
    #[must_use]
    pub fn at_most(mut self, bytes: u64) -> Self {
        self.longest = bytes;
        self
    }

    /// Where they are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Writes a record, in place of an older one of that identity. `T` is a struct, or a map, without
    /// fields named `format` and `boot`.
    ///
    /// # Errors
    /// The kernel refuses, the record is too long, or `id` makes no file name; an older record stands.
    pub fn write<T: Serialize>(&self, id: impl Display, record: &T) -> Result<(), RecordError> {
        let (id, text) = self.text(&id, record)?;
        let _one_at_a_time = self.one_at_a_time();
        self.carry_out(&id, Some(&text))
    }

    /// As [`Records::write`], where what it tells is so, whether it can be written or not: one that can't
    /// be is remembered, and tried again when the next one can, or by [`Records::retry_owed`].
    ///
    /// # Errors
    /// The kernel refuses for now; an older record stands.
    pub fn settle<T: Serialize>(&self, id: impl Display, record: &T) -> Result<(), RecordError> {
        let (id, text) = self.text(&id, record)?;
        self.carry_out_or_owe(id, Some(text))
    }

    fn text<T: Serialize>(
        &self,
        id: &impl Display,
        record: &T,
    ) -> Result<(String, Vec<u8>), RecordError> {
        let id = id.to_string();
        let stamped = Stamped {
            format: self.format,
            boot: &self.boot,
            record,
        };
        let text = file::check_id(&id)
            .and_then(|()| Ok(serde_json::to_vec_pretty(&stamped)?))
            .and_then(|text| file::check_length(text.len() as u64, self.longest).map(|()| text));
        let text = text.map_err(failed("write", &self.path(&id)))?;
        Ok((id, text))
    }

    /// Removes a record, readable or not. Fine if there is none.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove(&self, id: impl Display) -> Result<(), RecordError> {
        let _one_at_a_time = self.one_at_a_time();
        self.carry_out(&id.to_string(), None)
    }

    /// As [`Records::remove`], where what it tells is over, whether the file can be removed or not: one
    /// that stays is remembered, and tried again when the next one goes, or by
    /// [`Records::retry_owed`], unless it is written again.
    ///
    /// # Errors
    /// The kernel refuses for now.
    pub fn discard(&self, id: impl Display) -> Result<(), RecordError> {
        self.carry_out_or_owe(id.to_string(), None)
    }

    /// Writes that text, or removes the record; what was owed of it is of the past then. One at a time.
    fn carry_out(&self, id: &str, text: Option<&[u8]>) -> Result<(), RecordError> {
        let path = self.path(id);
        match text {
            Some(text) => file::replace_file(&path, text).map_err(failed("write", &path))?,
            None => match file::check_id(id).and_then(|()| fs::remove_file(&path)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove", &path)(error));
                }
                _ => {}
            },
        }
        self.owed().remove(id);
        Ok(())
    }

    /// The same; what could not be done is kept in mind, or else all that is so is tried.
    fn carry_out_or_owe(&self, id: String, text: Option<Vec<u8>>) -> Result<(), RecordError> {
        let one_at_a_time = self.one_at_a_time();
        let done = self.carry_out(&id, text.as_deref());
        if done.is_err() {
            self.owed().insert(id, text);
            return done;
        }
        drop(one_at_a_time);
        self.retry_owed();
        done
    }

    /// Removes and writes what could not be. Answers with what can't be even now, by identity: a later
    /// daemon would believe those files.
    pub fn retry_owed(&self) -> Vec<(String, RecordError)> {
        let ids: Vec<String> = self.owed().keys().cloned().collect();
        let mut left = Vec::new();
        for id in ids {
            // None that is written meanwhile.
            let _one_at_a_time = self.one_at_a_time();
            let Some(text) = self.owed().get(&id).cloned() else {
                continue;
            };
            if let Err(error) = self.carry_out(&id, text.as_deref()) {
                left.push((id, error));
            }
        }
        left
    }

    fn owed(&self) -> MutexGuard<'_, BTreeMap<String, Option<Vec<u8>>>> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn one_at_a_time(&self) -> MutexGuard<'_, ()> {
        (self.writing.lock()).unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is a file of that identity. What can't be looked at counts as there.
    #[must_use]
    pub fn has(&self, id: impl Display) -> bool {
        let found = self.path(id).symlink_metadata();
        !found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    /// All records, by identity. Earlier formats are read as `T` too: it has defaults for what they
    /// lack.
    ///
    /// # Errors
    /// The directory can't be listed, or has more than 100,000 records: no record at all is then
    /// known to be absent.
    pub fn load<T: DeserializeOwned>(&self) -> Result<Vec<Loaded<T>>, RecordError> {
        self.load_as(|_, text| Ok(serde_json::from_slice(text)?))
    }

    /// As [`Records::load`], with a reader of the caller's, which is given the format (1 up to that of
    /// [`Records::open`]) and the text.
    ///
    /// Half-written files are removed: nothing was done on their account. So are records of another
    /// boot: what they tell went with it. Files of other names are left alone, and logged.
    ///
    /// # Errors
    /// As those of [`Records::load`].
    pub fn load_as<T>(
        &self,
        read: impl Fn(u32, &[u8]) -> Result<T, ReadError>,
    ) -> Result<Vec<Loaded<T>>, RecordError> {
        let mut loaded = Vec::new();
        for id in self.list()? {
            match file::read_file(&self.path(&id), self.longest) {
                Ok(text) => loaded.push(self.understand(id, &text, &read)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => loaded.push(self.unreadable(id, None, error.to_string(), &[])),
            }
        }
        Ok(loaded)
    }

    /// As [`Records::load`], with each record under its own identity, as `own` tells it: one whose file
    /// was renamed is put back, and a copy beside the record itself is removed; one beside a record that
    /// can't be read is left alone, and not read. Otherwise what is done
    /// to the record later would miss that file, and the next load would bring it back.
    ///
    /// # Errors
    /// As those of [`Records::load`].
    pub fn load_own<T: Serialize + DeserializeOwned>(
        &self,
        own: impl Fn(&T) -> String,
    ) -> Result<Vec<Loaded<T>>, RecordError> {
        let (mut settled, mut renamed) = (Vec::new(), Vec::new());
        let (mut ids, mut damaged) = (BTreeSet::new(), BTreeSet::new());
        for loaded in self.load::<T>()? {
            match loaded {
                Loaded::Good { id, record, format } if id != own(&record) => {
                    renamed.push((id, record, format));
                }
                Loaded::Good { ref id, .. } => {
                    ids.insert(id.clone());
                    settled.push(loaded);
                }
                Loaded::Unreadable(error) => {
                    damaged.insert(error.id.clone());
                    settled.push(Loaded::Unreadable(error));
                }
                Loaded::OtherBoot { .. } => settled.push(loaded),
            }
        }
        for (file, record, format) in renamed {
            let id = own(&record);
            if damaged.contains(&id) {
                // Whether it is as new as that one was, a person may know.
                tracing::warn!(file, id, "a record beside a damaged one is left alone");
                continue;
            }
            let is_copy = !ids.insert(id.clone());
            tracing::warn!(file, id, is_copy, "a record under another name");
            let put_back = if is_copy {
                Ok(())
            } else {
                self.write(&id, &record)
            };
            if let Err(error) = put_back.and_then(|()| self.remove(&file)) {
                tracing::error!(file, %error, "a record keeps a name that isn't its own");
            }
            if !is_copy {
                settled.push(Loaded::Good { id, record, format });
            }
        }
        Ok(settled)
    }

    /// Reads a file that is no record, and lies beside them.
    ///
    /// # Errors
    /// As those of [`read_file`].
    pub fn read_beside(&self, name: &str) -> io::Result<Vec<u8>> {
        read_file(&self.directory.join(name), self.longest)
    }

    /// Replaces a file that is no record, and lies beside them.
    ///
    /// # Errors
    /// The kernel refuses; an older file stands.
    pub fn write_beside(&self, name: &str, text: &[u8]) -> Result<(), RecordError> {
        let path = self.directory.join(name);
        let _one_at_a_time = self.one_at_a_time();
        file::replace_file(&path, text).map_err(failed("write", &path))
    }

    fn understand<T>(
        &self,
        id: String,
        text: &[u8],
        read: impl Fn(u32, &[u8]) -> Result<T, ReadError>,
    ) -> Loaded<T> {
        let stamp: Stamp = match serde_json::from_slice(text) {
            Ok(stamp) => stamp,
            Err(error) => return self.unreadable(id, None, said(text, &error), text),
        };
        let format = stamp.format.unwrap_or(FIRST_FORMAT);
        let record = match format {
            format if format > self.format => Err(format!(
                "a newer release wrote it: it has format {format}, and this one reads up to {}",
                self.format
            )),
            format => read(format, text).map_err(|error| match error.downcast_ref() {
                Some(error) => said(text, error),
                None => error.to_string(),
            }),
        };
        if stamp.boot != self.boot {
            tracing::info!(%id, boot = stamp.boot, "removing a record of another boot");
            if let Err(error) = self.remove(&id) {
                tracing::warn!(%error, reason = %error.source, "it stays, and is not believed");
            }
            let record = record.ok();
            return Loaded::OtherBoot { id, record };
        }
        match record {
            Ok(record) => Loaded::Good { id, record, format },
            Err(reason) => self.unreadable(id, Some(format), reason, text),
        }
    }

    fn unreadable<T>(
        &self,
        id: String,
        format: Option<u32>,
        reason: String,
        text: &[u8],
    ) -> Loaded<T> {
        let path = self.path(&id);
        Loaded::Unreadable(Unreadable::new(id, path, format, reason, text))
    }

    /// The identities of all records.
    fn list(&self) -> Result<Vec<String>, RecordError> {
        let list = failed("list", &self.directory);
        let (mut ids, mut strange) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&self.directory).map_err(&list)? {
            let name = entry.map_err(&list)?.file_name();
            match file::classify(&name) {
                file::Name::Record(id) => ids.push(id.to_owned()),
                file::Name::Beside => {}
                file::Name::HalfWritten => {
                    let path = self.directory.join(&name);
                    if let Err(error) = fs::remove_file(&path) {
                        tracing::warn!(file = %path.display(), %error, "a half-written file stays");
                    }
                }
                file::Name::Strange => strange.push(name),
            }
            if ids.len() > MOST {
                return Err(list(io::Error::other(format!(
                    "it has more than {MOST} records"
                ))));
            }
            strange.truncate(STRANGE_TOLD);
        }
        if !strange.is_empty() {
            let directory = self.directory.display();
            tracing::warn!(%directory, ?strange, "files that are no records are left alone");
        }
        ids.sort_unstable();
        Ok(ids)
    }

    fn path(&self, id: impl Display) -> PathBuf {
        self.directory.join(format!("{id}.json"))
    }
}

/// Names of files that are no records, in one line of the log.
const STRANGE_TOLD: usize = 10;

/// What is wrong with a text, in words of whoever looks at the file.
fn said(text: &[u8], error: &serde_json::Error) -> String {
    use serde_json::error::Category;
    let (line, column) = (error.line(), error.column());
    match error.classify() {
        _ if text.is_empty() => "it is empty".to_owned(),
        Category::Eof => format!("it is cut short in line {line}"),
        Category::Syntax => format!("it is damaged in line {line}, near column {column}"),
        // Which field it is, is said by the parser alone.
        Category::Data | Category::Io => {
            format!("it does not say what such a record says: {error}")
        }
    }
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> RecordError + 'a {
    move |source| RecordError {
        action,
        path: path.to_owned(),
        source,
    }
}
