//! The lab tier's tests: scripts in `lab/tests`, each with a line that says what host it wants.
//!
//! ```text
//! # lab: pfs=1 timeout=120 group=basic
//! ```
//!
//! Scripts of one group share one emulated host, one after the other; each ends with status 0 if what it tests is so.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A script's line can't be understood.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScriptError {
    /// It could not be read.
    #[error("can't read {}", path.display())]
    Read {
        /// The script, or its directory.
        path: PathBuf,
        /// The kernel's refusal.
        source: io::Error,
    },
    /// A word of its line is unknown or no number.
    #[error("{}: \"{word}\" in its \"# lab:\" line: it may have hosts=N, pfs=N, memory=MIB, timeout=SECONDS, group=NAME", path.display())]
    Word {
        /// The script.
        path: PathBuf,
        /// The word.
        word: String,
    },
}

/// One test of the lab tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Script {
    /// Its file's name, without the ending.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Scripts of one group share a host.
    pub(crate) group: String,
    /// Hosts it wants; it runs in the first.
    pub(crate) hosts: u8,
    /// SR-IOV cards it wants, in each.
    pub(crate) pfs: u8,
    /// MiB of memory it wants, if not just the usual.
    pub(crate) memory: Option<u32>,
    /// Seconds it may take.
    pub(crate) timeout: u64,
}

/// All scripts in `dir`, by name. Those without a `# lab:` line are helpers of the others.
pub(crate) fn find(dir: &Path) -> Result<Vec<Script>, ScriptError> {
    let cant = |path: &Path| {
        let path = path.to_owned();
        move |source| ScriptError::Read { path, source }
    };
    let mut scripts = Vec::new();
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(scripts),
        entries => entries.map_err(cant(dir))?,
    };
    for entry in entries {
        let path = entry.map_err(cant(dir))?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "sh" || extension == "py")
        {
            let text = fs::read_to_string(&path).map_err(cant(&path))?;
            scripts.extend(parse(&path, &text)?);
        }
    }
    scripts.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(scripts)
}

fn parse(path: &Path, text: &str) -> Result<Option<Script>, ScriptError> {
    let Some(line) = text.lines().find_map(|line| line.strip_prefix("# lab:")) else {
        return Ok(None);
    };
    let mut script = Script {
        name: path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        path: path.to_owned(),
        group: "basic".to_owned(),
        hosts: 1,
        pfs: 1,
        memory: None,
        timeout: 120,
    };
    for word in line.split_whitespace() {
        let bad = || ScriptError::Word {
            path: path.to_owned(),
            word: word.to_owned(),
        };
        let (key, value) = word.split_once('=').ok_or_else(bad)?;
        match key {
            "group" => script.group = value.to_owned(),
            "pfs" => script.pfs = value.parse().ok().filter(|pfs| *pfs <= 4).ok_or_else(bad)?,
            "hosts" => {
                let hosts = value.parse().ok().filter(|hosts| matches!(hosts, 1 | 2));
                script.hosts = hosts.ok_or_else(bad)?;
            }
            "memory" => script.memory = Some(value.parse().map_err(|_| bad())?),
            "timeout" => script.timeout = value.parse().map_err(|_| bad())?,
            _ => return Err(bad()),
        }
    }
    Ok(Some(script))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_says_what_host_it_wants() {
        let script = parse(
            Path::new("t/crash.sh"),
            "#!/bin/bash\n# lab: pfs=2 group=slow timeout=300\ntrue\n",
        );
        let script = script.unwrap().unwrap();
        assert_eq!(
            (script.name.as_str(), script.pfs, script.timeout),
            ("crash", 2, 300)
        );
        assert_eq!(script.group, "slow");
        assert_eq!((script.hosts, script.memory), (1, None));
        let script = parse(Path::new("t/move.sh"), "# lab: hosts=2 memory=512\n");
        let script = script.unwrap().unwrap();
        assert_eq!((script.hosts, script.memory), (2, Some(512)));
        assert_eq!(parse(Path::new("t/lib.sh"), "true\n").unwrap(), None);
    }

    #[test]
    fn an_unknown_wish_is_named() {
        assert!(parse(Path::new("t/a.sh"), "# lab: hosts=3\n").is_err());
        let error = parse(Path::new("t/a.sh"), "# lab: pfs=9\n").unwrap_err();
        assert!(
            error.to_string().starts_with("t/a.sh: \"pfs=9\""),
            "{error}"
        );
    }
}
