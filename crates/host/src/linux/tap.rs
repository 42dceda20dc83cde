//! Taps and macvtaps: making them, and opening their queues.
//!
//! Numbers are those of the kernel's `linux/if_tun.h`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use conf::{MacAddress, NetdevName};
use rustix::fs::{CWD, Dev, FileType, Mode, makedev, mknodat};
use rustix::ioctl::{Getter, Opcode, Setter, Updater, ioctl, opcode};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::netlink::{Device, Kind};
use super::{LinuxHost, sysfs};
use crate::{HostError, MacvlanSpec, Netdev, Operation, TapQueues, TapSpec};

const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);
const TUNGETFEATURES: Opcode = opcode::read::<u32>(b'T', 207);
const TUNGETIFF: Opcode = opcode::read::<u32>(b'T', 210);
const SIOCADDMULTI: Opcode = 0x8931;
const SIOCDELMULTI: Opcode = 0x8932;

const IFF_TAP: u16 = 0x0002;
const IFF_MULTI_QUEUE: u16 = 0x0100;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const IFF_TUN_EXCL: u16 = 0x8000;

const EBUSY: i32 = rustix::io::Errno::BUSY.raw_os_error();
const EEXIST: i32 = rustix::io::Errno::EXIST.raw_os_error();
const ENODEV: i32 = rustix::io::Errno::NODEV.raw_os_error();

impl LinuxHost {
    pub(super) fn macvlan(&self, spec: &MacvlanSpec) -> Result<Netdev, HostError> {
        let refused = |source| HostError::Kernel {
            operation: Operation::MakeMacvlan,
            target: self.on_lower(spec),
            source,
        };
        self.netlink.make_macvlan(spec).map_err(refused)?;
        self.finish_made(spec.name, refused, |index| {
            let device = self.tag_macvlan(spec, index).map_err(refused)?;
            check_macvlan(spec, &device)?;
            Ok(device)
        })
    }

    /// Finishes a link that was just made, or removes it.
    pub(super) fn finish_made(
        &self,
        name: NetdevName,
        refused: impl FnOnce(io::Error) -> HostError,
        finish: impl FnOnce(u32) -> Result<Device, HostError>,
    ) -> Result<Netdev, HostError> {
        let made = self.netlink.device_named(name.as_str());
        let made = made.and_then(|made| made.ok_or_else(|| errno(ENODEV)));
        let made = made.map_err(refused)?;
        let finished = finish(made.index).and_then(|device| self.netdev_of(device));
        if finished.is_err()
            && let Err(left) = self.netlink.delete(made.index)
        {
            tracing::error!(netdev = %name, error = %left, "left behind");
        }
        finished
    }

    fn on_lower(&self, spec: &MacvlanSpec) -> String {
        match self.netlink.device(spec.lower) {
            Ok(lower) => format!("'{}' on '{}'", spec.name, lower.name),
            Err(_) => format!("'{}' on device {}", spec.name, spec.lower),
        }
    }

    fn tag_macvlan(&self, spec: &MacvlanSpec, index: u32) -> io::Result<Device> {
        self.netlink.set_alias(index, &spec.tag)?;
        if spec.tap {
            // The host would speak with the guest's MAC, and its address would be the guest's.
            self.netlink.set_without_ipv6_address(index)?;
        }
        self.netlink.device(index)
    }

    pub(super) fn tap(&self, spec: &TapSpec) -> Result<(Netdev, Vec<OwnedFd>), HostError> {
        let refused = |source| refused(Operation::MakeTap, spec.name, source);
        let queues = spec.queues;
        // It goes with its last queue: a failure undoes itself.
        let mut fds = Vec::with_capacity(usize::from(queues.count));
        fds.push(self.attach(spec.name, queues, true).map_err(refused)?);
        for _ in 1..queues.count {
            fds.push(self.attach(spec.name, queues, false).map_err(refused)?);
        }
        let device = self.finish_tap(spec).map_err(refused)?;
        let found = match spec.mtu {
            Some(mtu) if device.state.mtu != mtu => format!("its MTU is {}", device.state.mtu),
            _ if device.mac != spec.mac => format!("its MAC is {}", device.mac),
            _ if device.alias.as_deref() != Some(&spec.tag) => String::from("its alias is another"),
            _ => return Ok((self.netdev_of(device)?, fds)),
        };
        Err(not_kept(spec.name, found))
    }

    fn finish_tap(&self, spec: &TapSpec) -> io::Result<Device> {
        let made = self.netlink.device_named(spec.name.as_str())?;
        let index = made.ok_or_else(|| errno(ENODEV))?.index;
        self.netlink.set_alias(index, &spec.tag)?;
        // It is up as long as the guest runs, and the host has no part in it.
        self.netlink.set_without_ipv6_address(index)?;
        self.netlink.set_mac(index, spec.mac)?;
        if let Some(mtu) = spec.mtu {
            self.netlink.set_mtu(index, mtu)?;
        }
        self.netlink.device(index)
    }

    /// Opens one more queue of a tap, or, `new`, the first one of one that is made so.
    fn attach(&self, name: NetdevName, queues: TapQueues, new: bool) -> io::Result<OwnedFd> {
        let fd = open(&self.paths.dev.join("net/tun"))?;
        let mut request = Request::of(name);
        request.set_flags(wanted_flags(&fd, queues)? | if new { IFF_TUN_EXCL } else { 0 });
        match request.set_queue(&fd) {
            // That is how the driver says that the name is taken.
            Err(error) if new && error.raw_os_error() == Some(EBUSY) => Err(errno(EEXIST)),
            set => set.map(|()| fd),
        }
    }

    pub(super) fn queues_of(
        &self,
        name: NetdevName,
        queues: TapQueues,
    ) -> Result<Vec<OwnedFd>, HostError> {
        let refused = |source| refused(Operation::OpenTap, name, source);
        let device = self.netlink.device_named(name.as_str()).map_err(refused)?;
        let device = device.ok_or_else(|| HostError::NoNetdev(name.to_string()))?;
        let unable = |reason: &str| HostError::Unsupported {
            target: format!("'{name}'"),
            reason: reason.to_owned(),
        };
        match device.kind {
            Some(Kind::Macvtap(_)) => self.macvtap_queues(device.index, name, queues),
            Some(Kind::Tun {
                is_tap: true,
                many_queues,
            }) => {
                if queues.count > 1 && !many_queues {
                    return Err(unable("it was made with one queue"));
                }
                let flags = if many_queues { IFF_MULTI_QUEUE } else { 0 };
                let fds = (0..queues.count).map(|_| self.join(&device, queues, flags));
                fds.collect::<io::Result<_>>().map_err(refused)
            }
            _ => Err(unable("it is neither a tap nor a macvtap")),
        }
    }

    /// Opens a queue of a tap that is there.
    fn join(&self, device: &Device, queues: TapQueues, flags: u16) -> io::Result<OwnedFd> {
        let name = device.name.parse().map_err(io::Error::other)?;
        let fd = open(&self.paths.dev.join("net/tun"))?;
        let mut request = Request::of(name);
        let flags = flags | wanted_flags(&fd, queues)? & !IFF_MULTI_QUEUE;
        request.set_flags(flags);
        request.set_queue(&fd)?;
        // If it went meanwhile, that made a new one, which goes when this is closed.
        let now = self.netlink.device_named(&device.name)?;
        if now.is_none_or(|now| now.index != device.index) {
            return Err(errno(ENODEV));
        }
        Ok(fd)
    }

    pub(super) fn macvtap_queues(
        &self,
        index: u32,
        name: NetdevName,
        queues: TapQueues,
    ) -> Result<Vec<OwnedFd>, HostError> {
        let fds = (0..queues.count).map(|_| {
            let fd = self.open_node(index, name)?;
            set_up_macvtap(&fd, name, queues)
                .map_err(|error| refused(Operation::OpenTap, name, error))?;
            Ok(fd)
        });
        fds.collect()
    }

    /// Opens a macvtap's character device. In another network namespace, or in a container, the
    /// node in `/dev` is missing, or is that of another macvtap with the same index; then one is
    /// made for the moment.
    fn open_node(&self, index: u32, name: NetdevName) -> Result<OwnedFd, HostError> {
        let refused = |source| refused(Operation::OpenTap, name, source);
        let device = self.sysfs.tap_number(name.as_str(), index)?;
        let node = self.paths.dev.join(format!("tap{index}"));
        let Some(device) = device.and_then(|text| parse_number(&text)) else {
            return Err(HostError::Unsupported {
                target: format!("'{name}'"),
                reason: String::from(
                    "its character device is not to be found in /sys; is another network \
                     namespace's /sys mounted there?",
                ),
            });
        };
        // The kernel makes it at once, where /dev is its own.
        if is_node(&node, device) {
            return open(&node).map_err(refused);
        }
        let opened = self.open_own_node(index, device);
        opened.map_err(|source| HostError::Kernel {
            operation: Operation::OpenTap,
            target: format!(
                "'{name}' (there is no {} of its own, so one was to be made)",
                node.display()
            ),
            source,
        })
    }

    fn open_own_node(&self, index: u32, device: Dev) -> io::Result<OwnedFd> {
        // Another namespace's macvtap may have the same index.
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let name = format!(".virtnic-tap{index}-{process}-{count}");
        let node = OwnNode(self.paths.dev.join(name));
        let mode = Mode::RUSR | Mode::WUSR;
        // One that a crash left is of no use.
        let _ = std::fs::remove_file(&node.0);
        mknodat(CWD, &node.0, FileType::CharacterDevice, mode, device)?;
        open(&node.0)
    }

    pub(super) fn vhosts(&self, count: u16) -> Result<Vec<OwnedFd>, HostError> {
        const ENOENT: i32 = rustix::io::Errno::NOENT.raw_os_error();
        const ENXIO: i32 = rustix::io::Errno::NXIO.raw_os_error();
        let node = self.paths.dev.join("vhost-net");
        let opened = (0..count).map(|_| open(&node)).collect::<io::Result<_>>();
        opened.map_err(|source| match source.raw_os_error() {
            Some(ENOENT | ENXIO | ENODEV) => HostError::NoVhost,
            _ => HostError::Kernel {
                operation: Operation::OpenVhost,
                target: node.display().to_string(),
                source,
            },
        })
    }
}

/// Adds a multicast group to, or removes it from, those that a device lets in.
pub(super) fn set_group(netdev: &str, group: MacAddress, present: bool) -> io::Result<()> {
    let name = netdev.parse().map_err(io::Error::other)?;
    let request = Request::of(name).with_mac(group);
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    request.set_group(&socket, present)
}

/// A node that is removed as soon as it was opened.
struct OwnNode(PathBuf);

impl Drop for OwnNode {
    fn drop(&mut self) {
        // Nobody uses it.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// `struct ifreq`: a name, and a union.
#[repr(C)]
struct Request {
    name: [u8; 16],
    value: [u8; 24],
}

impl Request {
    fn of(netdev: NetdevName) -> Self {
        let mut name = [0; 16];
        let text = netdev.as_str().as_bytes();
        // At most 15 bytes.
        name[..text.len()].copy_from_slice(text);
        Self {
            name,
            value: [0; 24],
        }
    }

    fn set_flags(&mut self, flags: u16) {
        self.value[..2].copy_from_slice(&flags.to_ne_bytes());
    }

    /// As a `struct sockaddr` without a family.
    fn with_mac(mut self, mac: MacAddress) -> Self {
        self.value[2..8].copy_from_slice(&mac.bytes());
        self
    }

    /// Attaches a queue, or sets its flags.
    fn set_queue(&mut self, fd: impl AsFd) -> io::Result<()> {
        #[expect(unsafe_code, reason = "ioctls of taps have no safe form")]
        // SAFETY: for TUNSETIFF the kernel reads and writes one `struct ifreq`, which `Request` is
        // in size and layout, and keeps no pointer to it.
        unsafe {
            ioctl(fd, Updater::<TUNSETIFF, Self>::new(self))?;
        }
        Ok(())
    }

    /// The device that a queue belongs to.
    fn of_queue(fd: impl AsFd) -> io::Result<Self> {
        #[expect(unsafe_code, reason = "ioctls of taps have no safe form")]
        // SAFETY: for TUNGETIFF the kernel writes one `struct ifreq`, which `Request` is in size
        // and layout, and every byte of it is valid whatever it is.
        let request = unsafe {
            let mut request = Self {
                name: [0; 16],
                value: [0; 24],
            };
            ioctl(fd, Updater::<TUNGETIFF, Self>::new(&mut request))?;
            request
        };
        Ok(request)
    }

    fn set_group(self, socket: impl AsFd, present: bool) -> io::Result<()> {
        #[expect(
            unsafe_code,
            reason = "multicast groups of a device are set by ioctl only"
        )]
        // SAFETY: for both the kernel reads one `struct ifreq`, which `Request` is in size and
        // layout, and keeps no pointer to it.
        unsafe {
            if present {
                ioctl(socket, Setter::<SIOCADDMULTI, Self>::new(self))?;
            } else {
                ioctl(socket, Setter::<SIOCDELMULTI, Self>::new(self))?;
            }
        }
        Ok(())
    }

    fn named(&self) -> &[u8] {
        let end = self.name.iter().position(|byte| *byte == 0);
        &self.name[..end.unwrap_or(self.name.len())]
    }
}

/// The flags for queues, as far as the kernel's driver has them.
fn wanted_flags(fd: impl AsFd, queues: TapQueues) -> io::Result<u16> {
    #[expect(unsafe_code, reason = "ioctls of taps have no safe form")]
    // SAFETY: for TUNGETFEATURES the kernel writes one unsigned int.
    let features = unsafe { ioctl(fd, Getter::<TUNGETFEATURES, u32>::new())? };
    let flag = |wanted: bool, flag: u16| if wanted { flag } else { 0 };
    let wanted = flag(queues.vnet_hdr, IFF_VNET_HDR) | flag(queues.count > 1, IFF_MULTI_QUEUE);
    if features & u32::from(wanted) != u32::from(wanted) {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the kernel's taps have no such queues",
        ));
    }
    Ok(IFF_TAP | IFF_NO_PI | wanted)
}

fn set_up_macvtap(fd: &OwnedFd, name: NetdevName, queues: TapQueues) -> io::Result<()> {
    let mut request = Request::of(name);
    request.set_flags(wanted_flags(fd, queues)?);
    request.set_queue(fd)?;
    if Request::of_queue(fd)?.named() != name.as_str().as_bytes() {
        return Err(io::Error::other("the node is that of another device"));
    }
    Ok(())
}

fn check_macvlan(spec: &MacvlanSpec, device: &Device) -> Result<(), HostError> {
    let mode = match &device.kind {
        Some(Kind::Macvtap(mode)) if spec.tap => *mode,
        Some(Kind::Macvlan(mode)) if !spec.tap => *mode,
        _ => None,
    };
    let found = if mode != Some(spec.mode) {
        mode.map_or_else(
            || String::from("its mode is not told"),
            |mode| format!("its mode is {mode:?}"),
        )
    } else if spec.mtu.is_some_and(|mtu| mtu != device.state.mtu) {
        format!("its MTU is {}", device.state.mtu)
    } else if device.alias.as_deref() != Some(&spec.tag) {
        String::from("its alias is another")
    } else {
        return Ok(());
    };
    Err(not_kept(spec.name, found))
}

pub(super) fn not_kept(name: NetdevName, what: String) -> HostError {
    HostError::Malformed {
        target: format!("'{name}', which was just made"),
        what,
    }
}

fn refused(operation: Operation, name: NetdevName, source: io::Error) -> HostError {
    HostError::Kernel {
        operation,
        target: format!("'{name}'"),
        source,
    }
}

pub(super) fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    // The standard library opens with O_CLOEXEC.
    let opened: io::Result<File> = OpenOptions::new().read(true).write(true).open(path);
    opened.map(OwnedFd::from)
}

fn is_node(path: &Path, device: Dev) -> bool {
    let found = std::fs::symlink_metadata(path);
    found.is_ok_and(|found| found.file_type().is_char_device() && found.rdev() == device)
}

/// `MAJOR:MINOR`.
fn parse_number(text: &str) -> Option<Dev> {
    let (major, minor) = text.split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}

impl sysfs::Sysfs {
    /// The number of a macvtap's character device, as text.
    fn tap_number(&self, netdev: &str, index: u32) -> Result<Option<String>, HostError> {
        let Some(directory) = self.netdev_dir(netdev) else {
            return Ok(None);
        };
        let reading = sysfs::Reading {
            operation: Operation::OpenTap,
            target: netdev,
        };
        reading.text(&directory.join(format!("macvtap/tap{index}/dev")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_kernels_length() {
        assert_eq!(size_of::<Request>(), 40);
    }

    #[test]
    fn only_two_numbers_are_a_device() {
        assert_eq!(parse_number("246:1"), Some(makedev(246, 1)));
        for text in ["", "246", "246:", ":1", "a:1", "246:-1"] {
            assert_eq!(parse_number(text), None, "{text}");
        }
    }
}
