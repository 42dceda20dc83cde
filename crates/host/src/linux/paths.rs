//! Where the kernel shows itself.

use std::path::{Path, PathBuf};

/// Where the kernel's file systems and its modules are. Passed in, so that a test can have its
/// own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// sysfs, `/sys`.
    pub sysfs: PathBuf,
    /// procfs, `/proc`.
    pub proc: PathBuf,
    /// Device nodes, `/dev`.
    pub dev: PathBuf,
    /// This kernel's modules, `/lib/modules/RELEASE`.
    pub modules: PathBuf,
    /// The machine's own id, `/etc/machine-id`.
    pub machine_id: PathBuf,
    /// Where programs write their process ids, `/run`.
    pub run: PathBuf,
    /// Where programs' data is, `/usr/share`: the repositories of PCI's and USB's names are there, if at
    /// all.
    pub share: PathBuf,
    /// The program that loads modules, `modprobe`.
    pub modprobe: PathBuf,
}

impl Default for Paths {
    /// The host's own.
    fn default() -> Self {
        Self::under(Path::new("/"))
    }
}

impl Paths {
    /// The usual places below that directory. Modules are loaded by the real modprobe.
    #[must_use]
    pub fn under(root: &Path) -> Self {
        let release = rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned();
        Self {
            sysfs: root.join("sys"),
            proc: root.join("proc"),
            dev: root.join("dev"),
            modules: root.join("lib/modules").join(release),
            machine_id: root.join("etc/machine-id"),
            run: root.join("run"),
            share: root.join("usr/share"),
            modprobe: PathBuf::from("modprobe"),
        }
    }
}
