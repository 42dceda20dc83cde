//! What makes two hosts of one: the management network, each one's way to the other's daemon and to a shell there.

use std::fs::{self, File, Permissions};
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::net::Shutdown;

use super::host::{Pf, netdev_of, program};
use super::{AgentError, cant, on};
use crate::lab::pair::Member;
use crate::lab::wire::Job;

/// The management network's netdev, in each host.
const NETDEV: &str = "mgmt0";
/// Where a daemon of either kind listens.
const DAEMON: &str = "/run/libvirt/libvirt-sock";
/// Where it is reached from the other host; libvirt's own port for that.
const DAEMON_PORT: u16 = 16509;

/// Gives the host its place in the management network.
pub(crate) fn join(member: Member) -> Result<(), AgentError> {
    let netdev = netdev_of(&member.management_mac())?;
    let address = format!("{}/24", member.address());
    program("ip", &["link", "set", &netdev, "name", NETDEV])?;
    program("ip", &["address", "add", &address, "dev", NETDEV])?;
    program("ip", &["link", "set", NETDEV, "up"])
}

/// Opens the ways into this host and to the other one. The daemon here is ready.
pub(crate) fn open(member: Member, job: &Job, pfs: &[Pf]) -> Result<(), AgentError> {
    let other = member.other();
    let listen = |port| {
        TcpListener::bind((member.address(), port)).map_err(cant(format!("listen on port {port}")))
    };
    on::serve(listen(on::PORT)?, job, pfs);
    let from_there = listen(DAEMON_PORT)?;
    relay(
        move || hurried(from_there.accept()?.0),
        |_| Ok(UnixStream::connect(DAEMON)?.into()),
        member,
    );
    let (dir, socket) = (format!("/run/{}", other.name()), socket(other));
    fs::create_dir_all(&dir).map_err(cant(format!("make {dir}")))?;
    let from_here = UnixListener::bind(&socket).map_err(cant(format!("listen on {socket}")))?;
    relay(
        move || Ok(from_here.accept()?.0.into()),
        |to| hurried(TcpStream::connect((to.address(), DAEMON_PORT))?),
        other,
    );

    let path = format!("/usr/local/bin/on{}", other.number());
    let (address, port) = (other.address(), on::PORT);
    let script = format!("#!/bin/sh\nexec /lab/run/bin/xtask lab-on {address}:{port} -- \"$@\"\n");
    fs::write(&path, script)
        .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o755)))
        .map_err(cant(format!("write {path}")))
}

/// What commands of this host are told of both.
pub(crate) fn environment(member: Member) -> [(String, String); 3] {
    let other = member.other();
    [
        ("LAB_HOST1".to_owned(), Member::First.address().to_owned()),
        ("LAB_HOST2".to_owned(), Member::Second.address().to_owned()),
        (
            format!("LAB_HOST{}_URI", other.number()),
            format!("qemu:///system?socket={}", socket(other)),
        ),
    ]
}

/// Where a host's daemon is reached from the other one.
fn socket(of: Member) -> String {
    format!("/run/{}/libvirt-sock", of.name())
}

/// Passes each connection on to one that `connect` makes, as long as this process lives.
fn relay(
    accept: impl Fn() -> io::Result<OwnedFd> + Send + 'static,
    connect: fn(Member) -> io::Result<OwnedFd>,
    to: Member,
) {
    std::thread::spawn(move || {
        while let Ok(from) = accept() {
            std::thread::spawn(move || {
                // Whoever can't be passed on sees his connection end.
                let _ = connect(to).and_then(|to| both_ways(from, to));
            });
        }
    });
}

/// Copies both ways until each side has ended.
fn both_ways(one: OwnedFd, other: OwnedFd) -> io::Result<()> {
    let (one, other) = (File::from(one), File::from(other));
    let back = (other.try_clone()?, one.try_clone()?);
    std::thread::spawn(move || one_way(back.0, back.1));
    one_way(one, other);
    Ok(())
}

fn one_way(mut from: File, mut to: File) {
    // An error is an end, too, and the other side is told of either.
    let _ = io::copy(&mut from, &mut to);
    let _ = rustix::net::shutdown(&to, Shutdown::Write);
}

/// A connection over the management network, on which what is written goes out at once.
fn hurried(stream: TcpStream) -> io::Result<OwnedFd> {
    stream.set_nodelay(true)?;
    Ok(stream.into())
}
