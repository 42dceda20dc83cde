//! Single files: their names, and reading and writing them whole.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// What a name in a directory of records means.
pub(crate) enum Name<'a> {
    /// A record of that identity.
    Record(&'a str),
    /// A file of the owner's that is no record.
    Beside,
    /// A write that was cut short.
    HalfWritten,
    Strange,
}

pub(crate) fn classify(name: &OsStr) -> Name<'_> {
    let Some(name) = name.to_str() else {
        return Name::Strange;
    };
    // The first releases wrote `ID.new`, later ones write `.ID.json.new`.
    if name.ends_with(".new") {
        return Name::HalfWritten;
    }
    match name.strip_suffix(".json") {
        Some(id) if check_id(id).is_ok() => Name::Record(id),
        None if !name.contains('.') => Name::Beside,
        _ => Name::Strange,
    }
}

/// Refuses an identity that makes no file name of its own.
pub(crate) fn check_id(id: &str) -> io::Result<()> {
    if id.is_empty() || id.starts_with('.') || id.contains(['/', '\0']) {
        let said = format!("'{id}' can't be a record's name");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, said));
    }
    Ok(())
}

pub(crate) fn check_length(length: u64, longest: u64) -> io::Result<()> {
    if length > longest {
        let said = format!("a record of {length} bytes is longer than {longest}");
        return Err(io::Error::other(said));
    }
    Ok(())
}

/// Reads a small file of the daemon's own. What is no file, such as a FIFO or a link, is not waited for
/// or followed; one of more than `longest` bytes is refused.
///
/// # Errors
/// It is not such a file, or the kernel refuses.
pub fn read_file(path: &Path, longest: u64) -> io::Result<Vec<u8>> {
    // A FIFO would be waited for, and a link may lead anywhere.
    let metadata = fs::symlink_metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    check_length(metadata.len(), longest)?;
    let mut text = Vec::new();
    File::open(path)?.take(longest).read_to_end(&mut text)?;
    Ok(text)
}

/// Makes a directory for its owner alone, and those above it.
pub(crate) fn make_directory(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(path)
}

/// Replaces a file of the daemon's own as a whole, whatever is there now. One thread at a time for each.
///
/// # Errors
/// The kernel refuses; an older file stands.
pub fn replace_file(path: &Path, text: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.new"));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let opened = match options.open(&beside) {
        // Somebody removed the directory.
        Err(error) if error.kind() == io::ErrorKind::NotFound => path
            .parent()
            .map_or(Ok(()), make_directory)
            .and_then(|()| options.open(&beside)),
        opened => opened,
    };
    let written = opened
        .and_then(|mut file| file.write_all(text))
        .and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // Best effort: a half-written file has no meaning, and the next start removes it.
        let _ = fs::remove_file(&beside);
    }
    written
}
