//! Built things, kept between runs: the Debian root, the guest's kernel, the initial file systems.
//!
//! Each is a directory named after its recipe's hash. It is built under another name and renamed when it is whole, so a
//! half-built one is never used and a changed recipe is built anew. What a running host uses is never removed.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::run::{RunError, logged, privileged};
use crate::ui::Step;

/// Why a cached thing is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CacheError {
    /// Nobody says where the cache may be.
    #[error("no place for the lab's files: set HOME or XDG_CACHE_HOME")]
    NoPlace,
    /// A file operation failed.
    #[error("can't {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's refusal.
        source: io::Error,
    },
    /// A program failed.
    #[error(transparent)]
    Run(#[from] RunError),
}

impl CacheError {
    /// For `map_err`: an action on a path.
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// A built thing, which nobody removes while this value lives.
#[derive(Debug)]
pub(crate) struct Kept {
    path: PathBuf,
    _in_use: File,
}

impl Kept {
    fn open(path: PathBuf) -> Result<Self, CacheError> {
        let in_use = File::open(&path).map_err(CacheError::file("open", &path))?;
        flock(&in_use, FlockOperation::LockShared)
            .map_err(|errno| CacheError::file("lock", &path)(errno.into()))?;
        Ok(Self {
            path,
            _in_use: in_use,
        })
    }
}

impl Deref for Kept {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

impl AsRef<OsStr> for Kept {
    fn as_ref(&self) -> &OsStr {
        self.path.as_os_str()
    }
}

/// The directory of cached things.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// Opens it, making it if need be: `$XDG_CACHE_HOME/virtnic` or `~/.cache/virtnic`.
    pub(crate) fn open() -> Result<Self, CacheError> {
        let dir = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))
            .ok_or(CacheError::NoPlace)?
            .join("virtnic");
        fs::create_dir_all(&dir).map_err(CacheError::file("make", &dir))?;
        Ok(Self { dir })
    }

    /// Where it is.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory of `name` built by `recipe`; `build` fills it if it is not there yet, and is given a log to write.
    /// Former builds of that name are removed.
    pub(crate) fn get(
        &self,
        name: &str,
        recipe: &impl Hash,
        build: impl FnOnce(&Path, &Path) -> Result<(), CacheError>,
    ) -> Result<Kept, CacheError> {
        let mut hasher = DefaultHasher::new();
        recipe.hash(&mut hasher);
        let done = self.dir.join(format!("{name}-{:016x}", hasher.finish()));
        if done.is_dir() {
            return Kept::open(done);
        }
        // Others who want the same wait here, and then find it.
        let lock_path = self.dir.join(format!("{name}.lock"));
        let lock = File::create(&lock_path).map_err(CacheError::file("make", &lock_path))?;
        flock(&lock, FlockOperation::LockExclusive)
            .map_err(|errno| CacheError::file("lock", &lock_path)(errno.into()))?;
        if done.is_dir() {
            return Kept::open(done);
        }
        self.remove(name)?;
        let partial = self.dir.join(format!("{name}-partial"));
        fs::create_dir(&partial).map_err(CacheError::file("make", &partial))?;
        build(&partial, &self.dir.join(format!("{name}.log")))?;
        fs::rename(&partial, &done).map_err(CacheError::file("rename", &partial))?;
        Kept::open(done)
    }

    /// Removes every build of `name` that nobody uses.
    fn remove(&self, name: &str) -> Result<(), CacheError> {
        let entries = fs::read_dir(&self.dir).map_err(CacheError::file("read", &self.dir))?;
        for entry in entries {
            let entry = entry.map_err(CacheError::file("read", &self.dir))?;
            let file_name = entry.file_name();
            let is_build = file_name
                .to_str()
                .and_then(|file| file.strip_prefix(name)?.strip_prefix('-'))
                .is_some_and(|rest| rest == "partial" || rest.len() == 16);
            if is_build && is_free(&entry.path()) {
                remove_tree(&entry.path(), &self.dir.join(format!("{name}.log")))?;
            }
        }
        Ok(())
    }

    /// Removes everything.
    pub(crate) fn clean(&self) -> Result<(), CacheError> {
        let step = Step::start(format!("Removing {}", self.dir.display()));
        let log = std::env::temp_dir().join("virtnic-lab-clean.log");
        remove_tree(&self.dir, &log)?;
        step.done();
        Ok(())
    }
}

/// Whether no host runs with this build.
fn is_free(build: &Path) -> bool {
    File::open(build).is_ok_and(|dir| flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok())
}

/// Removes a tree that may belong to root. It stays on its own file system, so that nothing mounted inside is harmed.
fn remove_tree(path: &Path, log: &Path) -> Result<(), CacheError> {
    let step = Step::start(format!("Removing {}", path.display()));
    let mut rm = privileged("rm");
    rm.args(["--recursive", "--force", "--one-file-system", "--"])
        .arg(path);
    logged(&step, rm, log)?;
    step.clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_recipe_is_built_anew_and_a_half_built_one_never_used() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache {
            dir: dir.path().to_owned(),
        };
        let fails = cache.get("thing", &1, |partial, log| {
            fs::write(partial.join("half"), "").unwrap();
            Err(CacheError::file("write", log)(io::Error::other("full")))
        });
        assert!(fails.is_err());
        let first = cache
            .get("thing", &1, |partial, _| {
                assert!(!partial.join("half").exists());
                fs::write(partial.join("whole"), "").unwrap();
                Ok(())
            })
            .unwrap();
        assert!(first.path.join("whole").exists());
        let again = cache
            .get("thing", &1, |_, _| panic!("built twice"))
            .unwrap();
        assert_eq!(first.path, again.path);
        let first_path = first.path.clone();
        drop((first, again));
        let second = cache.get("thing", &2, |_, _| Ok(())).unwrap();
        assert!(second.path.exists() && !first_path.exists());
        // What somebody uses stays.
        let third = cache.get("thing", &3, |_, _| Ok(())).unwrap();
        assert!(second.path.exists() && third.path.exists());
    }
}
