//! A network namespace of a test's own, with the real kernel's devices.

use std::process::Command;
use std::sync::Arc;

use assign::{Assigner, Recovery};
use conf::Uuid;
use host::{Links, LinuxHost, Netdev, Paths};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::thread::UnshareFlags;

/// A daemon's place in the namespace.
pub(crate) struct Namespace {
    paths: Paths,
    directory: tempfile::TempDir,
}

impl Namespace {
    /// Runs a test on a thread with a network namespace, and a sysfs that shows it, of its own.
    /// There are a pair of connected devices, `left` and `right`, both up, a bridge `br0`, and a
    /// tap `tap0` of somebody else's.
    pub(crate) fn run(test: impl FnOnce(&Self) + Send + 'static) {
        let thread = std::thread::spawn(|| {
            let sysfs = tempfile::tempdir().unwrap();
            #[expect(deprecated, reason = "the safe form; no descriptor table is unshared")]
            rustix::thread::unshare(UnshareFlags::NEWNET | UnshareFlags::NEWNS)
                .expect("network namespaces need root");
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            rustix::mount::mount_change("/", private).unwrap();
            rustix::mount::mount("sysfs", sysfs.path(), "sysfs", MountFlags::empty(), None)
                .unwrap();
            for command in [
                "ip link add left type veth peer name right",
                "ip link set left up",
                "ip link set right up",
                // Without a MAC of its own it would take its members'.
                "ip link add br0 address 52:54:00:00:ff:01 type bridge",
                "ip tuntap add tap0 mode tap multi_queue vnet_hdr",
            ] {
                run(command);
            }
            test(&Self {
                paths: Paths {
                    sysfs: sysfs.path().to_owned(),
                    ..Paths::default()
                },
                directory: tempfile::tempdir().unwrap(),
            });
            rustix::mount::unmount(sysfs.path(), UnmountFlags::DETACH).unwrap();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    pub(crate) fn host(&self) -> LinuxHost {
        LinuxHost::new(self.paths.clone())
    }

    pub(crate) fn open(&self) -> (Assigner, Recovery) {
        let journal = self.directory.path().join("devices");
        Assigner::open(Arc::new(self.host()), journal, None).unwrap()
    }

    pub(crate) fn record(&self, item: &str) -> std::path::PathBuf {
        self.directory
            .path()
            .join("devices")
            .join(format!("{item}.json"))
    }

    /// The daemon starts again, and finds those guests running; what it says then.
    pub(crate) fn restart(&self, runs: impl Fn(Uuid) -> bool) -> (Assigner, Vec<String>) {
        let (assigner, _) = self.open();
        let findings = assigner.recover(runs);
        let findings = findings.iter().map(ToString::to_string).collect();
        (assigner, findings)
    }

    /// All network devices, but for what changes by itself.
    pub(crate) fn netdevs(&self) -> Vec<Netdev> {
        let mut all = self.host().netdevs().unwrap();
        for netdev in &mut all {
            netdev.state.carrier = false;
        }
        all
    }
}

/// What a command prints.
pub(crate) fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = (Command::new(words.next().unwrap()).args(words))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {said}");
    String::from_utf8(output.stdout).unwrap()
}
