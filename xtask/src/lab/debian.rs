//! Debian 13 in a directory: the emulated host's root, and the tools that build the guest's kernel.

use std::fs;
use std::path::Path;

use super::cache::{Cache, CacheError, Kept};
use crate::run::{RunError, find_program, logged, privileged};
use crate::ui::Step;

/// The release. Its QEMU is the first whose emulated `igb` VFs work.
const SUITE: &str = "trixie";

/// What the emulated host has.
const HOST_PACKAGES: &[&str] = &[
    "busybox-static",
    "ethtool",
    "iperf3",
    "iproute2",
    "iputils-ping",
    "kmod",
    "libvirt-clients",
    "libvirt-daemon-system",
    "libxml2-utils",
    "linux-image-amd64",
    "pciutils",
    "procps",
    "python3-libvirt",
    "qemu-system-x86",
    "qemu-utils",
    "socat",
    "strace",
    "tcpdump",
    "usbutils",
    "virtinst",
];

/// What builds a kernel.
const BUILD_PACKAGES: &[&str] = &[
    "bc",
    "bison",
    "flex",
    "gcc",
    "libc6-dev",
    "libelf-dev",
    "linux-source-6.12",
    "make",
    "perl",
    "xz-utils",
];

/// Modules that it takes to make VFs.
pub(crate) const CARD_MODULES: &[&str] = &["igb", "igbvf"];
/// Modules for all else that a host lends and guests use.
pub(crate) const OTHER_MODULES: &[&str] = &[
    "vfio-pci",
    "macvtap",
    "vhost_net",
    "tun",
    "bridge",
    "veth",
    "8021q",
    "bonding",
    "dummy",
];
/// Modules for the station's cards. They come last, so that the PFs and their VFs have the first names.
pub(crate) const STATION_MODULES: &[&str] = &["virtio_net"];
/// Modules for a processor with this flag.
pub(crate) const KVM_MODULES: &[(&str, &str)] = &[("svm", "kvm_amd"), ("vmx", "kvm_intel")];

/// Unpacks modules and what they need, for the emulated host to load: unpacking is slow there.
const UNPACK: &str = "\
cd /lib/modules/*
version=${PWD##*/}
for module; do modprobe --set-version $version --show-depends $module; done | while read insmod file; do
    if [ -e $file ] && [ $insmod = insmod ]; then busybox unxz $file; fi
done
depmod $version
";

/// Where this machine's directories are mounted, in the emulated host's root.
pub(crate) const MOUNT_POINTS: &[&str] = &["lab", "lab/root", "lab/run", "lab/guest", "checkout"];

/// Configuration of the peer: as root in a root file system of the lab's own, without what that lacks.
const LIBVIRT_QEMU_CONF: &str = "\
user = \"root\"
group = \"root\"
security_driver = \"none\"
namespaces = []
cgroup_controllers = []
";

/// The emulated host's root file system.
pub(crate) fn host_root(cache: &Cache) -> Result<Kept, CacheError> {
    let kvm = KVM_MODULES.iter().map(|(_, module)| module);
    let modules: Vec<&str> = CARD_MODULES
        .iter()
        .chain(OTHER_MODULES)
        .chain(STATION_MODULES)
        .chain(kvm)
        .copied()
        .collect();
    let recipe = (
        SUITE,
        HOST_PACKAGES,
        MOUNT_POINTS,
        LIBVIRT_QEMU_CONF,
        &modules,
        UNPACK,
    );
    cache.get("host-root", &recipe, |dir, log| {
        bootstrap(
            "Debian 13 root of the emulated host (about a minute, 0.6 GB)",
            HOST_PACKAGES,
            dir,
            log,
        )?;
        let step = Step::start("Mount points and modules");
        for point in MOUNT_POINTS {
            let mut mkdir = privileged("mkdir");
            mkdir.arg(dir.join(point));
            logged(&step, mkdir, log)?;
        }
        let conf = log.with_extension("qemu.conf");
        fs::write(&conf, LIBVIRT_QEMU_CONF).map_err(CacheError::file("write", &conf))?;
        let mut install = privileged("install");
        install
            .args(["-m", "644"])
            .arg(&conf)
            .arg(dir.join("etc/libvirt/qemu.conf"));
        logged(&step, install, log)?;
        let mut unpack = privileged("chroot");
        unpack
            .arg(dir)
            .args(["sh", "-ec", UNPACK, "sh"])
            .args(&modules);
        logged(&step, unpack, log)?;
        step.clear();
        Ok(())
    })
}

/// A root file system with a compiler and the kernel's source.
pub(crate) fn build_root(cache: &Cache) -> Result<Kept, CacheError> {
    cache.get("build-root", &(SUITE, BUILD_PACKAGES), |dir, log| {
        bootstrap(
            "Debian 13 with a compiler and the kernel's source (half a minute, 0.6 GB)",
            BUILD_PACKAGES,
            dir,
            log,
        )
    })
}

fn bootstrap(title: &str, packages: &[&str], dir: &Path, log: &Path) -> Result<(), CacheError> {
    need_mmdebstrap(log)?;
    let step = Step::start(title);
    let mut mmdebstrap = privileged("mmdebstrap");
    mmdebstrap
        .args(["--mode=root", "--variant=minbase"])
        .arg("--aptopt=APT::Install-Recommends \"false\"")
        .arg(format!("--include={}", packages.join(",")))
        .arg(SUITE)
        .arg(dir);
    logged(&step, mmdebstrap, log)?;
    step.done();
    Ok(())
}

/// Installs mmdebstrap and Debian's keys, with apt, if this machine lacks them.
fn need_mmdebstrap(log: &Path) -> Result<(), RunError> {
    if find_program("mmdebstrap").is_some() {
        return Ok(());
    }
    let step = Step::start("Installing mmdebstrap with apt-get");
    let apt = |args: &[&str]| {
        let mut apt = privileged("env");
        apt.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"])
            .args(args);
        logged(&step, apt, log)
    };
    apt(&["update"])?;
    apt(&[
        "install",
        "--yes",
        "--no-install-recommends",
        "mmdebstrap",
        "debian-archive-keyring",
    ])?;
    step.done();
    Ok(())
}
