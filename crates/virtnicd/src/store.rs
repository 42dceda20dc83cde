//! Definitions on disk: one XML file each, readable by a person, safe against a power cut.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

/// Definitions of one kind, in one directory; the links in `autostart/` mark those to start.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    dir: PathBuf,
    /// The command that changes such a definition, for the note at the head of each file.
    edit: &'static str,
}

/// A definition as it stands on the disk.
#[derive(Debug, Clone)]
pub(crate) struct StoredDefinition {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// A definition that can't be read, and was left where it is.
#[derive(Debug, thiserror::Error)]
#[error("the definition {} can't be read", path.display())]
pub(crate) struct Unreadable {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// A file that defines something of another name.
#[derive(Debug, thiserror::Error)]
#[error("it defines '{0}', so the file has to be named {0}.xml")]
pub(crate) struct Misnamed(String);

impl Store {
    /// Opens, and makes if need be, the directory. What a crash left half written goes, and so do marks
    /// of definitions that somebody took away: another of that name is not meant by them.
    pub(crate) fn open(dir: PathBuf, edit: &'static str) -> io::Result<Self> {
        fs::create_dir_all(dir.join("autostart"))?;
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            if name.is_some_and(|name| name.ends_with(".xml.new"))
                && let Err(error) = fs::remove_file(&path)
            {
                tracing::warn!(file = %path.display(), %error, "a half-written file stays");
            }
        }
        for entry in fs::read_dir(dir.join("autostart"))? {
            let mark = entry?;
            let is_missing = |path: PathBuf| {
                let found = path.symlink_metadata();
                found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
            };
            if is_missing(dir.join(mark.file_name()))
                && let Err(error) = fs::remove_file(mark.path())
            {
                tracing::warn!(mark = %mark.path().display(), %error, "it marks nothing, and stays");
            }
        }
        Ok(Self { dir, edit })
    }

    /// Writes the definition of what had none; a mark of an earlier one of that name goes first.
    pub(crate) fn write_new(&self, name: &str, xml: &str) -> io::Result<()> {
        self.set_autostart(name, false)?;
        self.write(name, xml)
    }

    /// Writes a definition; when this returns, it is on the disk, or the log says that it may not be.
    pub(crate) fn write(&self, name: &str, xml: &str) -> io::Result<()> {
        let path = self.path(name);
        let new = path.with_extension("xml.new");
        let written =
            write_synced(&new, &self.document(xml)).and_then(|()| fs::rename(&new, &path));
        if written.is_err() {
            // The old definition stands; what is left of the new one is of no use.
            let _ = fs::remove_file(&new);
        }
        written?;
        sync_dir(&self.dir);
        Ok(())
    }

    /// Removes a definition and its autostart mark.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        remove_if_there(&self.path(name))?;
        sync_dir(&self.dir);
        // One that stays marks nothing, and goes before there is another of that name.
        if let Err(error) = self.set_autostart(name, false) {
            tracing::warn!(name, %error, "its mark to start with the host stays");
        }
        Ok(())
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
        sync_dir(&self.dir.join("autostart"));
        Ok(())
    }

    /// Whether a file that was found has the name of what it defines; else nobody would find it
    /// when that is to be changed or removed.
    pub(crate) fn check_name(&self, found: &StoredDefinition, name: &str) -> Result<(), Misnamed> {
        if found.path == self.path(name) {
            Ok(())
        } else {
            Err(Misnamed(name.to_owned()))
        }
    }

    /// Keeps what was found as it was understood, if it is still there. A definition that was written by
    /// hand gets its identity, and all else that is chosen for it, once.
    pub(crate) fn take_in(
        &self,
        found: &StoredDefinition,
        name: &str,
        xml: &str,
    ) -> io::Result<()> {
        if read(&found.path)? != found.text {
            return Err(io::Error::other("it was changed meanwhile"));
        }
        if found.text == self.document(xml) {
            Ok(())
        } else {
            self.write(name, xml)
        }
    }

    /// Every definition's path and text, by name.
    pub(crate) fn load(&self) -> io::Result<Vec<Result<StoredDefinition, Unreadable>>> {
        let mut paths: Vec<PathBuf> = fs::read_dir(&self.dir)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<_>>()?;
        paths.retain(|path| path.extension().is_some_and(|e| e == "xml") && path.is_file());
        paths.sort();
        Ok(paths
            .into_iter()
            .map(|path| match read(&path) {
                Ok(text) => Ok(StoredDefinition { path, text }),
                Err(source) => Err(Unreadable { path, source }),
            })
            .collect())
    }

    /// What stands in the file of a definition.
    fn document(&self, xml: &str) -> String {
        format!(
            "<!-- Kept by virtnicd: change it with `{}`. -->\n{xml}",
            self.edit
        )
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.xml"))
    }

    fn mark(&self, name: &str) -> PathBuf {
        self.dir.join("autostart").join(format!("{name}.xml"))
    }
}

/// Says that a definition which was found is not known. One that has been removed meanwhile needs no
/// saying.
pub(crate) fn say_left_out(path: &Path, error: &str) {
    let file = path.display();
    match path.symlink_metadata() {
        Err(gone) if gone.kind() == io::ErrorKind::NotFound => {
            tracing::debug!(%file, "it was removed while it was read");
        }
        _ => tracing::error!(%file, error, "a definition is left out"),
    }
}

/// No more is read than a document may have: it is some other file then.
fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let limit = 2 * conf::xml::MAX_BYTES as u64;
    let read = File::open(path)?.take(limit).read_to_string(&mut text)?;
    if read as u64 == limit {
        let detail = format!("it has {limit} bytes or more, which no definition has");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, detail));
    }
    Ok(text)
}

fn write_synced(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Makes what was changed in a directory safe against a power cut. If that fails it is changed all the
/// same, so that nobody may be told otherwise.
fn sync_dir(dir: &Path) {
    if let Err(error) = File::open(dir).and_then(|dir| dir.sync_all()) {
        let dir = dir.display();
        tracing::warn!(%dir, %error, "what was changed there may be lost by a power cut");
    }
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
    fn a_file_without_end_is_no_definition() {
        let (dir, store) = store();
        store.write("a", "<network/>\n").unwrap();
        let huge = File::create(dir.path().join("networks/b.xml")).unwrap();
        huge.set_len(1 << 40).unwrap();
        let found = store.load().unwrap();
        assert!(found[0].is_ok());
        let error = found[1].as_ref().unwrap_err();
        assert!(
            error.source.to_string().contains("bytes or more"),
            "{error}"
        );
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
        assert!(found[0].as_ref().unwrap().text.ends_with("<network/>\n"));
        store.remove("a").unwrap();
        assert!(!store.autostart("a"));
        assert_eq!(store.load().unwrap().len(), 1);
    }

    #[test]
    fn a_definition_that_can_not_be_removed_keeps_its_mark() {
        let (dir, store) = store();
        let file = dir.path().join("networks/a.xml");
        store.set_autostart("a", true).unwrap();
        fs::create_dir(&file).unwrap();
        store.remove("a").unwrap_err();
        assert!(store.autostart("a"));
        fs::remove_dir(&file).unwrap();
        store.remove("a").unwrap();
        assert!(!store.autostart("a"));
    }

    #[test]
    fn what_was_found_and_is_another_by_now_is_not_taken_in() {
        let (dir, store) = store();
        let file = dir.path().join("networks/a.xml");
        fs::write(&file, "<network/>").unwrap();
        let found = store.load().unwrap().remove(0).unwrap();
        fs::write(&file, "<network>other</network>").unwrap();
        store
            .take_in(&found, "a", "<network full=''/>")
            .unwrap_err();
        assert_eq!(
            fs::read_to_string(&file).unwrap(),
            "<network>other</network>"
        );
        fs::remove_file(&file).unwrap();
        store
            .take_in(&found, "a", "<network full=''/>")
            .unwrap_err();
        assert!(!file.exists());
    }

    #[test]
    fn a_failed_write_leaves_the_old_definition() {
        let (dir, store) = store();
        store.write("a", "<network/>\n").unwrap();
        // The new file's name is taken by a directory, so that it can't be made.
        fs::create_dir(dir.path().join("networks/a.xml.new")).unwrap();
        store.write("a", "<other/>\n").unwrap_err();
        assert!(
            store.load().unwrap()[0]
                .as_ref()
                .unwrap()
                .text
                .ends_with("<network/>\n")
        );
    }

    #[test]
    fn what_was_filled_in_is_kept_and_a_wrong_file_name_is_told() {
        let (dir, store) = store();
        let path = dir.path().join("networks/a.xml");
        fs::write(&path, "<network><name>a</name></network>").unwrap();
        let found = store.load().unwrap().remove(0).unwrap();
        let error = store.check_name(&found, "b").unwrap_err();
        assert_eq!(
            error.to_string(),
            "it defines 'b', so the file has to be named b.xml"
        );
        store.check_name(&found, "a").unwrap();
        store
            .take_in(&found, "a", "<network full='yes'/>\n")
            .unwrap();
        let found = store.load().unwrap().remove(0).unwrap();
        assert!(found.text.ends_with("<network full='yes'/>\n"));
        // Whole already: not written again, so that its age tells of its last change.
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        store
            .take_in(&found, "a", "<network full='yes'/>\n")
            .unwrap();
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before);
    }

    #[test]
    fn a_half_written_file_is_not_read() {
        let (dir, store) = store();
        let half = dir.path().join("networks/a.xml.new");
        fs::write(&half, "<netw").unwrap();
        assert!(store.load().unwrap().is_empty());
        // Another thread may be at it: only who has just come knows that nobody is.
        assert!(half.exists());
        Store::open(dir.path().join("networks"), "virsh net-edit").unwrap();
        assert!(!half.exists());
    }
}
