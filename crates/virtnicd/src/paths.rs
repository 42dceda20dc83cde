//! Where the daemon keeps what.

use std::path::{Path, PathBuf};

/// All paths of one daemon, below one root.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    root: PathBuf,
    definitions: PathBuf,
    run: PathBuf,
    log: PathBuf,
    systemd: PathBuf,
}

impl Paths {
    /// A relative root is below the directory that the daemon was started in; QEMU runs in another.
    pub(crate) fn below(root: &Path) -> Self {
        // Fails where the root is empty or the directory gone; then there is nothing better.
        let root = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
        Self {
            definitions: root.join("etc/virtnic"),
            run: root.join("run/virtnic"),
            log: root.join("var/log/virtnic"),
            systemd: root.join("run/systemd/system"),
            root,
        }
    }

    /// All is below it.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The list of clients that may come by TLS.
    pub(crate) fn tls_allow(&self) -> PathBuf {
        self.definitions.join("tls-allow")
    }

    /// Definitions of networks.
    pub(crate) fn networks(&self) -> PathBuf {
        self.definitions.join("networks")
    }

    /// Definitions of guests.
    pub(crate) fn domains(&self) -> PathBuf {
        self.definitions.join("domains")
    }

    /// A directory of records of one kind: `networks`, `ports`, `devices` or `domains`.
    pub(crate) fn records(&self, kind: &str) -> PathBuf {
        self.run.join(kind)
    }

    /// The directories of running guests.
    pub(crate) fn guests(&self) -> PathBuf {
        self.run.join("guests")
    }

    /// Sockets of one running guest.
    pub(crate) fn guest(&self, uuid: conf::Uuid) -> PathBuf {
        self.guests().join(uuid.to_string())
    }

    /// The log of one guest's QEMU.
    pub(crate) fn guest_log(&self, name: &str) -> PathBuf {
        self.log.join("qemu").join(format!("{name}.log"))
    }

    /// A directory that is there if systemd runs the host. A daemon with a root of its own is none of
    /// systemd's services.
    pub(crate) fn systemd(&self) -> &Path {
        &self.systemd
    }

    /// The directory of what lasts until the next boot.
    pub(crate) fn run(&self) -> &Path {
        &self.run
    }

    /// Held while a daemon uses this root.
    pub(crate) fn lock(&self) -> PathBuf {
        self.run.join("virtnicd.lock")
    }

    /// Says in which boot the guests marked for it were started.
    pub(crate) fn autostarted(&self) -> PathBuf {
        self.run.join("autostarted")
    }

    /// The read-write socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.run.join("virtnic-sock")
    }

    /// The read-only socket.
    pub(crate) fn read_only_socket(&self) -> PathBuf {
        self.run.join("virtnic-sock-ro")
    }
}
