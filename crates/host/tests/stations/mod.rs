//! A network namespace of a test's own, and stations in it that send and receive frames.

use std::os::fd::OwnedFd;
use std::process::Command;

use conf::{DirectMode, MacAddress};
use host::{Links, LinuxHost, MacvlanSpec, Netdev, Paths, TapQueues, TapSpec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::UnshareFlags;

pub(crate) const BROADCAST: MacAddress = MacAddress::new([0xff; 6]);

/// For local experiments.
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
const LEAST_FRAME: usize = 60;

pub(crate) const ONE: TapQueues = TapQueues {
    count: 1,
    vnet_hdr: false,
};

/// Runs a test on a thread with a network namespace, and a sysfs that shows it, of its own. The
/// namespace has a pair of connected devices, `left` and `right`, both up.
pub(crate) fn in_namespace(test: impl FnOnce(&LinuxHost, &Paths) + Send + 'static) {
    let thread = std::thread::spawn(|| {
        let sysfs = tempfile::tempdir().unwrap();
        #[expect(deprecated, reason = "the safe form; no descriptor table is unshared")]
        rustix::thread::unshare(UnshareFlags::NEWNET | UnshareFlags::NEWNS)
            .expect("network namespaces need root");
        mount_change(
            "/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )
        .unwrap();
        mount("sysfs", sysfs.path(), "sysfs", MountFlags::empty(), None).unwrap();
        run("ip link add left type veth peer name right");
        run("ip link set left up");
        run("ip link set right up");
        let paths = Paths {
            sysfs: sysfs.path().to_owned(),
            ..Paths::default()
        };
        test(&LinuxHost::new(paths.clone()), &paths);
        rustix::mount::unmount(sysfs.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
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

pub(crate) fn mac(last: u8) -> MacAddress {
    MacAddress::new([0x52, 0x54, 0, 0, 0, last])
}

pub(crate) fn macvtap(host: &LinuxHost, name: &str, lower: &str, mode: DirectMode) -> MacvlanSpec {
    let last = name.bytes().last().unwrap();
    MacvlanSpec {
        name: name.parse().unwrap(),
        lower: host.netdev(lower).unwrap().index,
        mode,
        mac: mac(last),
        mtu: None,
        tap: true,
        tag: format!("virtnic:{name}"),
    }
}

pub(crate) fn tap(name: &str, queues: TapQueues) -> TapSpec {
    let last = name.bytes().last().unwrap();
    TapSpec {
        name: name.parse().unwrap(),
        mac: MacAddress::new([0xfe, 0x54, 0, 0, 0, last]),
        mtu: None,
        queues,
        tag: format!("virtnic:{name}"),
    }
}

/// A guest's end: a device that is up, and its queue.
pub(crate) struct Station {
    pub(crate) netdev: Netdev,
    pub(crate) mac: MacAddress,
    pub(crate) fd: OwnedFd,
}

impl Station {
    /// On a macvtap.
    pub(crate) fn on(host: &LinuxHost, name: &str, lower: &str, mode: DirectMode) -> Self {
        let netdev = (host.make_macvlan(&macvtap(host, name, lower, mode))).unwrap();
        host.set_up(netdev.index, true).unwrap();
        let fd = host.open_macvtap(&netdev, ONE).unwrap().remove(0);
        Self {
            mac: netdev.mac,
            netdev,
            fd,
        }
    }

    /// On a tap in a bridge.
    pub(crate) fn in_bridge(host: &LinuxHost, name: &str, bridge: &str) -> Self {
        let (netdev, mut fds) = host.make_tap(&tap(name, ONE)).unwrap();
        let bridge = host.netdev(bridge).unwrap();
        host.set_master(netdev.index, Some(bridge.index)).unwrap();
        host.set_up(netdev.index, true).unwrap();
        Self {
            netdev,
            mac: mac(name.bytes().last().unwrap()),
            fd: fds.remove(0),
        }
    }

    pub(crate) fn send(&self, to: MacAddress, text: &str) {
        let mut frame = [to.bytes(), self.mac.bytes()].concat();
        frame.extend(ETHERTYPE);
        frame.extend(text.as_bytes());
        frame.resize(LEAST_FRAME, 0);
        rustix::io::write(&self.fd, &frame).unwrap();
    }

    /// The texts that arrive, up to and with that one.
    pub(crate) fn receive_until(&self, last: &str) -> Vec<String> {
        let mut texts = Vec::new();
        loop {
            let text = self.receive().unwrap_or_else(|| {
                panic!(
                    "'{last}' does not arrive at {}: {texts:?}",
                    self.netdev.name
                )
            });
            texts.push(text);
            if texts.last().is_some_and(|text| text == last) {
                return texts;
            }
        }
    }

    fn receive(&self) -> Option<String> {
        let patience = Timespec {
            tv_sec: 5,
            tv_nsec: 0,
        };
        loop {
            let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
            if poll(&mut fds, Some(&patience)).unwrap() == 0 {
                return None;
            }
            let mut frame = [0; 2048];
            let length = rustix::io::read(&self.fd, &mut frame).unwrap();
            // The kernel's own frames are of other types.
            if frame[12..14] == ETHERTYPE {
                let text = String::from_utf8(frame[14..length].to_vec()).unwrap();
                return Some(text.trim_end_matches('\0').to_owned());
            }
        }
    }
}
