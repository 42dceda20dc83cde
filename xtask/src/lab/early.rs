//! The emulated host's own initial file system: it mounts the Debian root over 9p, covers it with memory, and hands over
//! to the agent.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::cache::{Cache, CacheError, Kept};
use super::cpio::Archive;
use crate::run::{RunError, privileged};
use crate::ui::Step;

/// Modules that it takes to reach the root.
const MODULES: &[&str] = &["9pnet_virtio", "9p", "overlay"];

/// Printed by a host that was only started to see whether it starts.
pub(crate) const PROBE_ANSWER: &str = "LAB-PROBE-OK";

/// `/init`. The agent's path and the mount tags are those of `boot`.
const INIT: &str = "\
#!/bin/busybox sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
/bin/busybox mkdir -p /proc /sys /dev /ro /rw /new
/bin/busybox --install -s /bin
mount -t proc proc /proc
if grep -q lab.probe /proc/cmdline; then echo LAB-PROBE-OK; poweroff -f; fi
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do insmod $module; done
nine=trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro
mount -t 9p -o $nine hostroot /ro
mount -t tmpfs tmpfs /rw
mkdir /rw/upper /rw/work
mount -t overlay -o lowerdir=/ro,upperdir=/rw/upper,workdir=/rw/work overlay /new
mount -t 9p -o $nine run /new/lab/run
mount -t 9p -o $nine guest /new/lab/guest
mount -t 9p -o $nine checkout /new/checkout
for dir in proc sys dev; do mount -o move /$dir /new/$dir; done
exec switch_root /new /lab/run/bin/xtask lab-agent
";

/// Makes it from the Debian root; returns a directory with the host's `vmlinuz` and `initrd`.
pub(crate) fn early(cache: &Cache, root: &Path) -> Result<Kept, CacheError> {
    cache.get("host-early", &(root, INIT, MODULES), |dir, log| {
        let step = Step::start("Initial file system of the emulated host");
        let modules_dir = root.join("lib/modules");
        let version = fs::read_dir(&modules_dir)
            .map_err(CacheError::file("read", &modules_dir))?
            .find_map(|entry| entry.ok()?.file_name().into_string().ok())
            .ok_or_else(|| {
                CacheError::file("find a kernel in", &modules_dir)(
                    std::io::ErrorKind::NotFound.into(),
                )
            })?;
        let mut archive = Archive::default();
        for point in ["bin", "dev", "modules"] {
            archive.directory(point);
        }
        archive.console();
        let busybox = root.join("bin/busybox");
        archive.program(
            "bin/busybox",
            &fs::read(&busybox).map_err(CacheError::file("read", &busybox))?,
        );
        archive.program("init", INIT.as_bytes());
        for (number, module) in modules(root, &version, log)?.iter().enumerate() {
            let content = output(in_root(root, "busybox").args(["xzcat", module]), log)?;
            archive.program(&format!("modules/{number:02}.ko"), &content);
        }
        let initrd = dir.join("initrd");
        fs::write(&initrd, archive.finish()).map_err(CacheError::file("write", &initrd))?;
        let kernel = root.join(format!("boot/vmlinuz-{version}"));
        fs::copy(&kernel, dir.join("vmlinuz")).map_err(CacheError::file("copy", &kernel))?;
        step.clear();
        Ok(())
    })
}

/// The files of the modules, each after those that it needs.
fn modules(root: &Path, version: &str, log: &Path) -> Result<Vec<String>, CacheError> {
    let mut files: Vec<String> = Vec::new();
    for module in MODULES {
        let listed = output(
            in_root(root, "modprobe").args(["-S", version, "--show-depends", module]),
            log,
        )?;
        for line in String::from_utf8_lossy(&listed).lines() {
            if let Some(file) = line.strip_prefix("insmod ").map(str::trim)
                && !files.iter().any(|known| known == file)
            {
                files.push(file.to_owned());
            }
        }
    }
    Ok(files)
}

fn in_root(root: &Path, program: &str) -> Command {
    let mut chroot = privileged("chroot");
    chroot.arg(root).arg(program);
    chroot
}

/// A command's standard output; what it says beside that goes to the log.
fn output(command: &mut Command, log: &Path) -> Result<Vec<u8>, CacheError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|source| RunError::Start {
        program: program.clone(),
        source,
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    fs::write(log, &output.stderr).map_err(CacheError::file("write", log))?;
    Err(RunError::Failed {
        program,
        status: output.status,
        log: log.to_owned(),
    }
    .into())
}
