//! Live state, for the next daemon after this one dies: one JSON file an object.
//!
//! Records describe this boot only, so they are renamed into place and not synced; each says which
//! boot it belongs to, and one of another boot is not believed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Records of one kind, in one directory.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    dir: PathBuf,
    boot: String,
}

#[derive(Serialize, Deserialize)]
struct Stamped<T> {
    boot: String,
    #[serde(flatten)]
    record: T,
}

/// A record that can't be used, and was left where it is.
#[derive(Debug, thiserror::Error)]
#[error("the record {} can't be read", path.display())]
pub(crate) struct Unreadable {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Records {
    /// Opens, and makes if need be, the directory. `boot` is the identity of this boot.
    pub(crate) fn open(dir: PathBuf, boot: String) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        Ok(Self { dir, boot })
    }

    pub(crate) fn write<T: Serialize>(
        &self,
        id: impl std::fmt::Display,
        record: &T,
    ) -> io::Result<()> {
        let stamped = Stamped {
            boot: self.boot.clone(),
            record,
        };
        let text = serde_json::to_vec_pretty(&stamped)?;
        let path = self.path(id);
        let new = path.with_extension("new");
        let written = fs::write(&new, text).and_then(|()| fs::rename(&new, &path));
        if written.is_err() {
            // The old record stands.
            let _ = fs::remove_file(&new);
        }
        written
    }

    /// Removes a record; fine if there is none.
    pub(crate) fn remove(&self, id: impl std::fmt::Display) -> io::Result<()> {
        match fs::remove_file(self.path(id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// All records of this boot. Those of another boot are removed: what they tell is gone.
    pub(crate) fn load<T: DeserializeOwned>(&self) -> io::Result<Vec<Result<T, Unreadable>>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match read(&path) {
                Ok(Stamped { boot, record }) if boot == self.boot => found.push(Ok(record)),
                Ok(Stamped { boot, .. }) => {
                    tracing::info!(record = %path.display(), %boot, "removing a record of another boot");
                    fs::remove_file(&path)?;
                }
                Err(source) => found.push(Err(Unreadable { path, source })),
            }
        }
        Ok(found)
    }

    fn path(&self, id: impl std::fmt::Display) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Stamped<T>> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Thing {
        size: u32,
    }

    #[test]
    fn a_record_of_another_boot_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let before = Records::open(dir.path().into(), "one".into()).unwrap();
        before.write("a", &Thing { size: 1 }).unwrap();
        assert_eq!(
            before.load::<Thing>().unwrap().remove(0).unwrap(),
            Thing { size: 1 }
        );
        let after = Records::open(dir.path().into(), "two".into()).unwrap();
        assert!(after.load::<Thing>().unwrap().is_empty());
        assert!(!dir.path().join("a.json").exists());
    }

    #[test]
    fn a_damaged_record_is_told_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path().into(), "one".into()).unwrap();
        fs::write(dir.path().join("a.json"), "{\"boot\":").unwrap();
        let error = records.load::<Thing>().unwrap().remove(0).unwrap_err();
        assert!(error.to_string().contains("a.json"), "{error}");
        assert!(dir.path().join("a.json").exists());
    }
}
