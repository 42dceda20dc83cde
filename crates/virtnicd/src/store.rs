//! Definitions on disk: one XML file each, readable by a person, safe against a power cut.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Definitions of one kind, in one directory; the links in `autostart/` mark those to start.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    dir: PathBuf,
    /// The command that changes such a definition, for the note at the head of each file.
    edit: &'static str,
}

impl Store {
    /// Opens, and makes if need be, the directory.
    pub(crate) fn open(dir: PathBuf, edit: &'static str) -> io::Result<Self> {
        fs::create_dir_all(dir.join("autostart"))?;
        Ok(Self { dir, edit })
    }

    /// Writes a definition; when this returns, it is on the disk.
    pub(crate) fn write(&self, name: &str, xml: &str) -> io::Result<()> {
        let path = self.path(name);
        let new = path.with_extension("xml.new");
        let written = write_synced(&new, self.edit, xml).and_then(|()| fs::rename(&new, &path));
        if written.is_err() {
            // The old definition stands; what is left of the new one is of no use.
            let _ = fs::remove_file(&new);
        }
        written?;
        sync_dir(&self.dir)
    }

    /// Removes a definition and its autostart mark.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        self.set_autostart(name, false)?;
        remove_if_there(&self.path(name))?;
        sync_dir(&self.dir)
    }

    /// Whether it is marked to start with the host.
    pub(crate) fn autostart(&self, name: &str) -> bool {
        self.mark(name).symlink_metadata().is_ok()
    }

    /// Marks it to start with the host, or takes the mark away.
    pub(crate) fn set_autostart(&self, name: &str, wanted: bool) -> io::Result<()> {
        if wanted == self.autostart(name) {
            return Ok(());
        }
        if wanted {
            std::os::unix::fs::symlink(self.path(name), self.mark(name))?;
        } else {
            remove_if_there(&self.mark(name))?;
        }
        sync_dir(&self.dir.join("autostart"))
    }

    /// Every definition's path and text, by name.
    pub(crate) fn load(&self) -> io::Result<Vec<(PathBuf, io::Result<String>)>> {
        let mut paths: Vec<PathBuf> = fs::read_dir(&self.dir)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<_>>()?;
        paths.retain(|path| path.extension().is_some_and(|e| e == "xml") && path.is_file());
        paths.sort();
        Ok(paths
            .into_iter()
            .map(|path| {
                let text = fs::read_to_string(&path);
                (path, text)
            })
            .collect())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.xml"))
    }

    fn mark(&self, name: &str) -> PathBuf {
        self.dir.join("autostart").join(format!("{name}.xml"))
    }
}

fn write_synced(path: &Path, edit: &str, xml: &str) -> io::Result<()> {
    let mut file = File::create(path)?;
    writeln!(file, "<!-- Kept by virtnicd: change it with `{edit}`. -->")?;
    file.write_all(xml.as_bytes())?;
    file.sync_all()
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("networks"), "virsh net-edit").unwrap();
        (dir, store)
    }

    #[test]
    fn what_was_written_is_read_and_removed() {
        let (_dir, store) = store();
        store.write("a", "<network/>\n").unwrap();
        store.write("b.c", "<network/>\n").unwrap();
        store.set_autostart("a", true).unwrap();
        assert!(store.autostart("a") && !store.autostart("b.c"));
        let found = store.load().unwrap();
        assert_eq!(found.len(), 2);
        assert!(found[0].1.as_ref().unwrap().ends_with("<network/>\n"));
        store.remove("a").unwrap();
        assert!(!store.autostart("a"));
        assert_eq!(store.load().unwrap().len(), 1);
    }

    #[test]
    fn a_failed_write_leaves_the_old_definition() {
        let (dir, store) = store();
        store.write("a", "<network/>\n").unwrap();
        // The new file's name is taken by a directory, so that it can't be made.
        fs::create_dir(dir.path().join("networks/a.xml.new")).unwrap();
        store.write("a", "<other/>\n").unwrap_err();
        assert!(store.load().unwrap()[0].1.as_ref().unwrap().ends_with("<network/>\n"));
    }

    #[test]
    fn a_half_written_file_is_not_read() {
        let (dir, store) = store();
        fs::write(dir.path().join("networks/a.xml.new"), "<netw").unwrap();
        assert!(store.load().unwrap().is_empty());
    }
}
