//! Names of guests and networks: their definitions are kept in files of these names.

/// The longest name in bytes: what a file system takes, less what is put behind it.
const LONGEST: usize = 240;

/// What keeps a definition from being a file of that name, as an error says it of the name.
pub(crate) fn unfit(name: &str) -> Option<String> {
    if name.trim().is_empty() {
        return Some("is blank".to_owned());
    }
    if name.contains('/') {
        return Some("contains a '/'".to_owned());
    }
    if name.contains('\n') {
        return Some("contains a line feed".to_owned());
    }
    if matches!(name, "." | "..") {
        return Some("is a directory's".to_owned());
    }
    (name.len() > LONGEST).then(|| format!("is longer than {LONGEST} bytes"))
}

/// A name as an error shows it.
pub(crate) fn shown(name: &str) -> String {
    name.chars().take(60).collect()
}
