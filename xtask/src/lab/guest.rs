//! The small guest: a kernel of only what is needed, and a root file system of one program.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::cache::{Cache, CacheError, Kept};
use super::cpio::Archive;
use super::debian;
use crate::run::{logged, privileged};
use crate::ui::Step;

/// The kernel's options, beyond `make tinyconfig`.
const KERNEL_CONFIG: &str = include_str!("../../../lab/guest-kernel.config");

/// Builds the kernel in `/build`, a directory of its own; `/dev` and `/proc` are there. An ELF file is wanted, for QEMU
/// enters it directly, without a loader to emulate.
const KERNEL_SCRIPT: &str = "\
set -e
cd /build
mkdir source
tar --extract --directory source --strip-components 1 --file /usr/src/linux-source-6.12.tar.xz
cd source
make tinyconfig
cat ../config >> .config
make olddefconfig
make -j$(nproc) vmlinux
strip -o ../vmlinux vmlinux
cp .config ../config
cd ..
rm -r source
";

/// Builds whatever of the guest is not built yet; returns a directory with its `vmlinux` and `initrd`.
pub(crate) fn guest(cache: &Cache, checkout: &Path) -> Result<Kept, CacheError> {
    let (kernel, initrd) = (kernel(cache)?, initrd(cache, checkout)?);
    let files = [kernel.join("vmlinux"), initrd.join("initrd")];
    cache.get("guest", &files, |dir, _| {
        for file in &files {
            let copy = dir.join(file.file_name().unwrap_or_default());
            fs::copy(file, &copy).map_err(CacheError::file("write", &copy))?;
        }
        Ok(())
    })
}

fn kernel(cache: &Cache) -> Result<Kept, CacheError> {
    cache.get("guest-kernel", &(KERNEL_CONFIG, KERNEL_SCRIPT), |dir, log| {
        let root = debian::build_root(cache)?;
        let step = Step::start("Guest kernel (about four minutes on two cores)");
        let config = dir.join("config");
        fs::write(&config, KERNEL_CONFIG).map_err(CacheError::file("write", &config))?;
        // In a mount namespace of its own: nothing stays mounted, however this ends.
        let mut build = privileged("unshare");
        build
            .args(["--mount", "--kill-child", "sh", "-ec"])
            .arg(
                "mkdir -p \"$1/build\"; mount --bind \"$2\" \"$1/build\"; mount --bind /dev \"$1/dev\"
                 mount -t proc proc \"$1/proc\"; exec chroot \"$1\" sh -c \"$3\"",
            )
            .args(["sh".as_ref(), root.as_os_str(), dir.as_os_str(), KERNEL_SCRIPT.as_ref()]);
        logged(&step, build, log)?;
        step.done();
        Ok(())
    })
}

fn initrd(cache: &Cache, checkout: &Path) -> Result<Kept, CacheError> {
    let project = checkout.join("lab/guest-init");
    let mut sources = vec![project.join("Cargo.toml"), project.join("Cargo.lock")];
    let src = project.join("src");
    for entry in fs::read_dir(&src).map_err(CacheError::file("read", &src))? {
        sources.push(entry.map_err(CacheError::file("read", &src))?.path());
    }
    sources.sort();
    let mut recipe = Vec::new();
    for source in sources {
        recipe.push(fs::read(&source).map_err(CacheError::file("read", &source))?);
    }
    cache.get("guest-initrd", &recipe, |dir, log| {
        let step = Step::start("Guest init");
        let target = cache.dir().join("guest-init-target");
        let mut build = Command::new(env!("CARGO"));
        build
            .args([
                "build",
                "--release",
                "--locked",
                "--target",
                "x86_64-unknown-linux-gnu",
                "--manifest-path",
            ])
            .arg(project.join("Cargo.toml"))
            .arg("--target-dir")
            .arg(&target)
            .env(
                "RUSTFLAGS",
                "-C target-feature=+crt-static -C relocation-model=static",
            );
        logged(&step, build, log)?;
        let init = target.join("x86_64-unknown-linux-gnu/release/guest-init");
        let init = fs::read(&init).map_err(CacheError::file("read", &init))?;
        let mut archive = Archive::default();
        for point in ["dev", "proc", "sys"] {
            archive.directory(point);
        }
        archive.console();
        archive.program("init", &init);
        let path = dir.join("initrd");
        fs::write(&path, archive.finish()).map_err(CacheError::file("write", &path))?;
        step.done();
        Ok(())
    })
}
