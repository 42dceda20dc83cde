//! Changes of devices and links, as one stream.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::event::{PollFd, PollFlags, poll};

use super::netlink::{Link, Messages, RTM_SETLINK, disassociated, receive_from};
use super::port_profile::{Agents, Listener};
use super::uevent::{UeventSocket, enlarge, is_overrun};
use crate::{HostEvent, HostEvents};

/// `RTMGRP_LINK`, as a mask.
pub(super) const LINK_GROUP: u32 = 1;
pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_DELLINK: u16 = 17;

#[derive(Debug)]
pub(super) struct LinuxEvents {
    devices: UeventSocket,
    links: Socket,
    buffer: Vec<u8>,
    waiting: VecDeque<HostEvent>,
    agents: Agents,
    listener: Arc<Listener>,
    port: u32,
}

impl LinuxEvents {
    /// From now on agents are told to send their news here.
    pub(super) fn open(agents: Agents, listener: Arc<Listener>) -> io::Result<Self> {
        let mut links = Socket::new(NETLINK_ROUTE)?;
        enlarge(&links);
        links.bind(&SocketAddr::new(0, LINK_GROUP))?;
        let mut own = SocketAddr::new(0, 0);
        links.get_address(&mut own)?;
        let devices = UeventSocket::open()?;
        listener.set(own.port_number());
        Ok(Self {
            devices,
            links,
            buffer: Vec::new(),
            waiting: VecDeque::new(),
            agents,
            listener,
            port: own.port_number(),
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
            match receive_from(&self.links, &mut self.buffer) {
                Ok(0) => self.waiting.extend(link_changes(&self.buffer)),
                Ok(sender) if self.agents.speak_from(sender) => {
                    self.waiting.extend(ended_ports(&self.buffer));
                }
                Ok(sender) => tracing::debug!(sender, "a message of nobody's is dropped"),
                Err(error) => self.waiting.extend(lost(error)?),
            }
        }
        Ok(())
    }
}

impl Drop for LinuxEvents {
    fn drop(&mut self) {
        self.listener.leave(self.port);
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
    let changes = Messages(datagram)
        .map_while(Result::ok)
        .filter_map(|message| {
            let told = [RTM_NEWLINK, RTM_DELLINK].contains(&message.message_type());
            told.then(|| match Link::read(message.payload()) {
                Ok(link) if is_end(message.message_type(), message.payload()) => {
                    HostEvent::LinkRemoved {
                        ifindex: link.index,
                        netdev: link.name,
                    }
                }
                Ok(link) => HostEvent::LinkChanged {
                    ifindex: link.index,
                    netdev: link.name,
                },
                Err(_) => HostEvent::Lost,
            })
        });
    changes.collect()
}

/// Whether a device is gone. A bridge tells by the same message, of a family of its own, that a
/// device has left it.
fn is_end(kind: u16, payload: &[u8]) -> bool {
    kind == RTM_DELLINK && payload.first() == Some(&0)
}

/// The port profiles whose end an agent tells.
fn ended_ports(datagram: &[u8]) -> Vec<HostEvent> {
    let ended = Messages(datagram)
        .map_while(Result::ok)
        .filter_map(|message| {
            if message.message_type() != RTM_SETLINK {
                return None;
            }
            let (mac, instance) = disassociated(message.payload()).ok().flatten()?;
            Some(HostEvent::PortDisassociated { mac, instance })
        });
    ended.collect()
}
