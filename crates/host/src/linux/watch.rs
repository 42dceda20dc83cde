//! Changes of devices and links, as one stream.

use std::collections::VecDeque;
use std::io;

use netlink_packet_core::NetlinkBuffer;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::event::{PollFd, PollFlags, poll};

use super::netlink::{Link, receive};
use super::uevent::{UeventSocket, enlarge, is_overrun};
use crate::{HostEvent, HostEvents};

/// `RTMGRP_LINK`, as a mask.
const LINK_GROUP: u32 = 1;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;

#[derive(Debug)]
pub(super) struct LinuxEvents {
    devices: UeventSocket,
    links: Socket,
    buffer: Vec<u8>,
    waiting: VecDeque<HostEvent>,
}

impl LinuxEvents {
    pub(super) fn open() -> io::Result<Self> {
        let mut links = Socket::new(NETLINK_ROUTE)?;
        enlarge(&links);
        links.bind(&SocketAddr::new(0, LINK_GROUP))?;
        Ok(Self {
            devices: UeventSocket::open()?,
            links,
            buffer: Vec::new(),
            waiting: VecDeque::new(),
        })
    }

    /// Waits for either socket, and reads what there is.
    fn fill(&mut self) -> io::Result<()> {
        let mut fds = [
            PollFd::new(&self.devices, PollFlags::IN),
            PollFd::new(&self.links, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let [devices, links] = fds.map(|fd| !fd.revents().is_empty());
        if devices {
            let event = self.devices.next(&mut self.buffer);
            let event = event.or_else(lost)?;
            self.waiting.extend(event);
        }
        if links {
            match receive(&self.links, &mut self.buffer) {
                Ok(()) => self.waiting.extend(link_changes(&self.buffer)),
                Err(error) => self.waiting.extend(lost(error)?),
            }
        }
        Ok(())
    }
}

impl HostEvents for LinuxEvents {
    fn next(&mut self) -> Option<HostEvent> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            if let Err(error) = self.fill() {
                tracing::error!(%error, "the kernel's events can't be read any more");
                return None;
            }
        }
    }
}

fn lost(error: io::Error) -> io::Result<Option<HostEvent>> {
    if is_overrun(&error) {
        Ok(Some(HostEvent::Lost))
    } else {
        Err(error)
    }
}

fn link_changes(datagram: &[u8]) -> Vec<HostEvent> {
    let mut rest = datagram;
    let mut changes = Vec::new();
    while let Ok(message) = NetlinkBuffer::new_checked(rest) {
        if [RTM_NEWLINK, RTM_DELLINK].contains(&message.message_type()) {
            match Link::read(message.payload()) {
                Ok(link) => changes.push(HostEvent::LinkChanged {
                    ifindex: link.index,
                    netdev: link.name,
                }),
                Err(_) => changes.push(HostEvent::Lost),
            }
        }
        let length = usize::try_from(message.length()).unwrap_or(usize::MAX);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    changes
}
