//! What an init system would do, and the VFs.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::{MountFlags, mount};
use rustix::system::sethostname;

use super::{AgentError, cant};
use crate::lab::debian::{CARD_MODULES, KVM_MODULES, OTHER_MODULES, STATION_MODULES};
use crate::lab::pair::{Member, far_mac, station_mac};
use crate::lab::wire::Job;

/// Where programs find the kernel's virtualisation.
pub(crate) const KVM: &str = "/dev/kvm";

/// The network namespace of the station: something outside of the host, at the other end of each PF's wire.
pub(crate) const STATION: &str = "outside";

/// A physical function with VFs.
#[derive(Debug, Clone)]
pub(crate) struct Pf {
    /// Its netdev.
    pub(crate) netdev: String,
    /// Its PCI address.
    pub(crate) address: String,
    /// Its VFs, made and not made.
    pub(crate) vfs: u8,
}

/// File systems, links and names that programs count on.
pub(crate) fn mounts(job: &Job) -> Result<(), AgentError> {
    for (kind, dir, options) in [
        ("devpts", "/dev/pts", Some(c"mode=620,ptmxmode=666")),
        ("tmpfs", "/dev/shm", None),
        ("tmpfs", "/run", Some(c"mode=755")),
        ("tmpfs", "/tmp", Some(c"mode=1777")),
        ("cgroup2", "/sys/fs/cgroup", None),
    ] {
        fs::create_dir_all(dir).map_err(cant(format!("make {dir}")))?;
        mount(kind, dir, kind, MountFlags::empty(), options)
            .map_err(cant(format!("mount {dir}")))?;
    }
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, link).map_err(cant(format!("link {link}")))?;
    }
    let hostname = job.hostname();
    sethostname(hostname.as_bytes()).map_err(cant("set the host's name"))?;
    let hosts = if job.member.is_some() {
        // By its own name, too, it is reached from the other.
        let line = |member: Member| format!("{} {}\n", member.address(), member.name());
        format!(
            "127.0.0.1 localhost\n{}{}",
            line(Member::First),
            line(Member::Second)
        )
    } else {
        format!("127.0.0.1 localhost {hostname}\n")
    };
    fs::write("/etc/hosts", hosts).map_err(cant("write /etc/hosts"))?;
    if let Some(member) = job.member {
        let id = member.uuid().replace('-', "");
        fs::write("/etc/machine-id", format!("{id}\n")).map_err(cant("write /etc/machine-id"))?;
    }
    program("ip", &["link", "set", "lo", "up"])
}

/// Loads the modules that nobody else loads, for there is no udev, and makes the VFs meanwhile.
pub(crate) fn devices(vfs: u8) -> Result<Vec<Pf>, AgentError> {
    program("modprobe", &[&["--all"], CARD_MODULES].concat())?;
    std::thread::scope(|scope| {
        let others = scope.spawn(other_modules);
        let pfs = make_vfs(vfs);
        match others.join() {
            Ok(result) => result?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        pfs
    })
}

fn other_modules() -> Result<(), AgentError> {
    program("modprobe", &[&["--all"], OTHER_MODULES].concat())?;
    // The emulated processor has AMD's virtualisation, so that guests need not be emulated twice. A real one passed on
    // may have either, or none.
    let cpu = fs::read_to_string("/proc/cpuinfo").map_err(cant("read /proc/cpuinfo"))?;
    for (flag, module) in KVM_MODULES {
        if cpu.split_whitespace().any(|word| word == *flag) {
            program("modprobe", &[module])?;
        }
    }
    if Path::new(KVM).exists() {
        // As udev's rules have it.
        program("chgrp", &["kvm", KVM])?;
        program("chmod", &["660", KVM])?;
    }
    Ok(())
}

/// Makes `vfs` VFs on each igb card, on all cards at once: each takes a second or more.
fn make_vfs(vfs: u8) -> Result<Vec<Pf>, AgentError> {
    let mut pfs = Vec::new();
    let driver = Path::new("/sys/bus/pci/drivers/igb");
    for entry in fs::read_dir(driver).map_err(cant("list igb's devices"))? {
        let address = entry
            .map_err(cant("list igb's devices"))?
            .file_name()
            .to_string_lossy()
            .into_owned();
        let net = driver.join(&address).join("net");
        let Ok(mut netdevs) = fs::read_dir(net) else {
            continue;
        };
        if let Some(Ok(netdev)) = netdevs.next() {
            let netdev = netdev.file_name().to_string_lossy().into_owned();
            pfs.push(Pf {
                netdev,
                address,
                vfs,
            });
        }
    }
    pfs.sort_by(|a, b| a.address.cmp(&b.address));
    std::thread::scope(|scope| {
        let made: Vec<_> = pfs
            .iter()
            .map(|pf| scope.spawn(|| make_vfs_of(pf)))
            .collect();
        made.into_iter().try_for_each(|made| match made.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    Ok(pfs)
}

fn make_vfs_of(pf: &Pf) -> Result<(), AgentError> {
    if pf.vfs > 0 {
        let attribute = Path::new("/sys/bus/pci/devices")
            .join(&pf.address)
            .join("sriov_numvfs");
        fs::write(attribute, pf.vfs.to_string())
            .map_err(cant(format!("make {} VFs on {}", pf.vfs, pf.netdev)))?;
    }
    program("ip", &["link", "set", &pf.netdev, "up"])
}

/// Puts the other end of each PF's wire into a network namespace of its own, as `wire0`, `wire1` …, up and without an
/// address. The host's own namespace has nothing of it, so that to the host it is a station somewhere in its network.
///
/// In the first of two hosts `wire0` is a bridge, whose ports are that end (`near0`) and that of the other host's PF
/// (`far0`). The second one's station has no wires.
pub(crate) fn station(pfs: &[Pf], member: Option<Member>) -> Result<(), AgentError> {
    program("ip", &["netns", "add", STATION])?;
    // It says nothing unasked.
    let quiet = "net.ipv6.conf.default.disable_ipv6=1";
    program(
        "ip",
        &[
            "netns", "exec", STATION, "sysctl", "--quiet", "--write", quiet,
        ],
    )?;
    program("ip", &["-n", STATION, "link", "set", "lo", "up"])?;
    if pfs.is_empty() && member.is_none() {
        return Ok(());
    }
    program("modprobe", &[&["--all"], STATION_MODULES].concat())?;
    for pf in (0..u8::MAX).take(pfs.len()) {
        let wire = format!("wire{pf}");
        match member {
            None => move_out(&station_mac(pf), &wire)?,
            Some(Member::First) => {
                let (near, far) = (format!("near{pf}"), format!("far{pf}"));
                move_out(&station_mac(pf), &near)?;
                move_out(&far_mac(pf), &far)?;
                bridge(&wire, &[&near, &far])?;
            }
            Some(Member::Second) => {}
        }
    }
    Ok(())
}

/// Moves the card with that MAC to the station, under that name.
fn move_out(mac: &str, name: &str) -> Result<(), AgentError> {
    let netdev = netdev_of(mac)?;
    program(
        "ip",
        &["link", "set", &netdev, "name", name, "netns", STATION],
    )?;
    program("ip", &["-n", STATION, "link", "set", name, "up"])
}

/// A bridge of the station's that forwards at once and says nothing of its own.
fn bridge(name: &str, ports: &[&str]) -> Result<(), AgentError> {
    let ip = |words: &[&str]| program("ip", &[&["-n", STATION, "link"], words].concat());
    let silent = [
        "stp_state",
        "0",
        "forward_delay",
        "0",
        "mcast_snooping",
        "0",
    ];
    ip(&[&["add", name, "type", "bridge"], &silent[..]].concat())?;
    for port in ports {
        ip(&["set", port, "master", name])?;
    }
    ip(&["set", name, "up"])
}

/// The netdev with that MAC.
pub(crate) fn netdev_of(mac: &str) -> Result<String, AgentError> {
    let all = Path::new("/sys/class/net");
    for entry in fs::read_dir(all).map_err(cant("list the network devices"))? {
        let netdev = entry.map_err(cant("list the network devices"))?.file_name();
        let address = fs::read_to_string(all.join(&netdev).join("address")).unwrap_or_default();
        if address.trim() == mac {
            return Ok(netdev.to_string_lossy().into_owned());
        }
    }
    Err(cant(format!("find the card {mac}"))(
        std::io::ErrorKind::NotFound,
    ))
}

/// Waits until every PF has its link back, which making VFs takes away.
pub(crate) fn wait_for_links(pfs: &[Pf]) -> Result<(), AgentError> {
    let is_up = |pf: &Pf| {
        let state = PathBuf::from("/sys/class/net")
            .join(&pf.netdev)
            .join("operstate");
        fs::read_to_string(state).is_ok_and(|state| state.trim() == "up")
    };
    // Listening before looking: no change is missed.
    let mut monitor = Command::new("ip")
        .args(["-oneline", "monitor", "link"])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(cant("watch the links"))?;
    let mut changes = BufReader::new(monitor.stdout.take().ok_or(AgentError::NoJob)?).lines();
    while !pfs.iter().all(is_up) {
        let Some(Ok(_)) = changes.next() else {
            return Err(cant("watch the links")(std::io::ErrorKind::UnexpectedEof));
        };
    }
    // PID 1 buries it; its end is what matters.
    let _ = monitor.kill();
    Ok(())
}

/// One line for a person.
pub(crate) fn summary(pfs: &[Pf]) -> String {
    let cards: Vec<String> = pfs
        .iter()
        .map(|pf| format!("{} ({}, {} VFs)", pf.netdev, pf.address, pf.vfs))
        .collect();
    if cards.is_empty() {
        "no SR-IOV cards".to_owned()
    } else {
        cards.join(", ")
    }
}

/// Runs a program that says nothing when all is well.
pub(crate) fn program(name: &str, arguments: &[&str]) -> Result<(), AgentError> {
    let what = format!("{name} {}", arguments.join(" "));
    let output = Command::new(name)
        .args(arguments)
        .output()
        .map_err(cant(format!("run {what}")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(AgentError::Program {
        what,
        output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
