//! As much rtnetlink as one guest needs: requests with an answer, and link events.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

/// Room for the largest message the kernel sends in one datagram.
const DATAGRAM: usize = 32 * 1024;
/// Bytes of `nlmsghdr`.
const HEADER: usize = 16;
/// Bytes of `ifinfomsg`.
const IFINFO: usize = 16;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_REPLACE_CREATE: u16 = 0x500;
const NLM_F_CREATE_NEW: u16 = 0x600;
const RTMGRP_LINK: u32 = 1;
const IFF_UP: u32 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_BOND_MODE: u16 = 1;
const IFLA_BOND_MIIMON: u16 = 3;
const IFLA_BOND_PRIMARY: u16 = 11;
const BOND_MODE_ACTIVEBACKUP: u8 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// No duplicate address detection: the address works at once.
const IFA_F_NODAD: u8 = 2;

/// What the kernel says about a link.
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mac: Vec<u8>,
    /// Whether it belongs to a bond or failover pair.
    pub enslaved: bool,
    /// `IF_OPER_*`.
    pub operstate: u8,
    /// Whether it has been brought up.
    pub up: bool,
    /// Whether this message says that it is gone.
    pub gone: bool,
}

/// A netlink socket for routing messages.
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Netlink {
    /// A socket that hears of every change to a link.
    pub fn events() -> io::Result<Self> {
        Self::open(RTMGRP_LINK)
    }

    /// A socket for requests.
    pub fn requests() -> io::Result<Self> {
        Self::open(0)
    }

    fn open(groups: u32) -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None,
        )?;
        bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// The links of the next datagram of an event socket.
    pub fn next_links(&self) -> io::Result<Vec<Link>> {
        let datagram = self.receive()?;
        Ok(messages(&datagram)
            .filter_map(|(kind, body)| parse_link(kind, body))
            .collect())
    }

    /// All links.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        self.request(RTM_GETLINK, NLM_F_DUMP, &[0; IFINFO])?;
        let mut links = Vec::new();
        loop {
            let datagram = self.receive()?;
            for (kind, body) in messages(&datagram) {
                match kind {
                    NLMSG_DONE => return Ok(links),
                    NLMSG_ERROR => acknowledged(body)?,
                    _ => links.extend(parse_link(kind, body)),
                }
            }
        }
    }

    /// Brings a link up or down.
    pub fn set_up(&mut self, index: u32, up: bool) -> io::Result<()> {
        let body = ifinfo(index, if up { IFF_UP } else { 0 }, IFF_UP);
        self.change(RTM_NEWLINK, 0, &body)
    }

    /// Sets a link's MAC address.
    pub fn set_mac(&mut self, index: u32, mac: &[u8]) -> io::Result<()> {
        let mut body = ifinfo(index, 0, 0);
        attribute(&mut body, IFLA_ADDRESS, mac);
        self.change(RTM_NEWLINK, 0, &body)
    }

    /// Sets a link's MTU.
    pub fn set_mtu(&mut self, index: u32, bytes: u32) -> io::Result<()> {
        let mut body = ifinfo(index, 0, 0);
        attribute(&mut body, IFLA_MTU, &bytes.to_ne_bytes());
        self.change(RTM_NEWLINK, 0, &body)
    }

    /// Makes a bond of which one card works and the others stand by, all with the MAC of the first; it looks at their
    /// links every 50 ms.
    pub fn add_bond(&mut self, name: &str) -> io::Result<()> {
        let mut data = Vec::new();
        attribute(&mut data, IFLA_BOND_MODE, &[BOND_MODE_ACTIVEBACKUP]);
        attribute(&mut data, IFLA_BOND_MIIMON, &50_u32.to_ne_bytes());
        let mut body = ifinfo(0, 0, 0);
        attribute(&mut body, IFLA_IFNAME, format!("{name}\0").as_bytes());
        attribute(&mut body, IFLA_LINKINFO, &bond_info(&data));
        self.change(RTM_NEWLINK, NLM_F_CREATE_NEW, &body)
    }

    /// The card of a bond that works whenever it can.
    pub fn prefer_in_bond(&mut self, bond: u32, index: u32) -> io::Result<()> {
        let mut data = Vec::new();
        attribute(&mut data, IFLA_BOND_PRIMARY, &index.to_ne_bytes());
        let mut body = ifinfo(bond, 0, 0);
        attribute(&mut body, IFLA_LINKINFO, &bond_info(&data));
        self.change(RTM_NEWLINK, 0, &body)
    }

    /// Joins a link in a bond.
    pub fn set_master(&mut self, index: u32, master: u32) -> io::Result<()> {
        let mut body = ifinfo(index, 0, 0);
        attribute(&mut body, IFLA_MASTER, &master.to_ne_bytes());
        self.change(RTM_NEWLINK, 0, &body)
    }

    /// Gives a link an address.
    pub fn add_address(&mut self, index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
        let (family, bytes) = match address {
            IpAddr::V4(address) => (AddressFamily::INET, address.octets().to_vec()),
            IpAddr::V6(address) => (AddressFamily::INET6, address.octets().to_vec()),
        };
        let mut body = vec![family.as_raw() as u8, prefix, IFA_F_NODAD, 0];
        body.extend(index.to_ne_bytes());
        attribute(&mut body, IFA_LOCAL, &bytes);
        attribute(&mut body, IFA_ADDRESS, &bytes);
        self.change(RTM_NEWADDR, NLM_F_REPLACE_CREATE, &body)
    }

    /// Sends a request and waits for the kernel's yes or no.
    fn change(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.request(kind, flags | NLM_F_ACK, body)?;
        let datagram = self.receive()?;
        messages(&datagram)
            .find(|(kind, _)| *kind == NLMSG_ERROR)
            .map_or(Ok(()), |(_, body)| acknowledged(body))
    }

    fn request(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.sequence += 1;
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0_u32.to_ne_bytes());
        message.extend(body);
        send(&self.socket, &message, SendFlags::empty())?;
        Ok(())
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut datagram = vec![0; DATAGRAM];
        let (length, _) = recv(&self.socket, &mut datagram[..], RecvFlags::empty())?;
        datagram.truncate(length);
        Ok(datagram)
    }
}

fn ifinfo(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend(index.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body.extend(change.to_ne_bytes());
    body
}

/// What `IFLA_LINKINFO` says of a bond.
fn bond_info(data: &[u8]) -> Vec<u8> {
    let mut info = Vec::new();
    attribute(&mut info, IFLA_INFO_KIND, b"bond");
    attribute(&mut info, IFLA_INFO_DATA, data);
    info
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(((4 + value.len()) as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// An `nlmsgerr`: zero is a yes.
fn acknowledged(body: &[u8]) -> io::Result<()> {
    match i32_at(body, 0) {
        Some(0) | None => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(-errno)),
    }
}

/// The messages of a datagram: kind and body.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32_at(bytes, 0)? as usize;
        let kind = u16_at(bytes, 4)?;
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

fn parse_link(kind: u16, body: &[u8]) -> Option<Link> {
    if kind != RTM_NEWLINK && kind != RTM_DELLINK {
        return None;
    }
    let mut link = Link {
        index: u32_at(body, 4)?,
        name: String::new(),
        mac: Vec::new(),
        enslaved: false,
        operstate: 0,
        up: u32_at(body, 8)? & IFF_UP != 0,
        gone: kind == RTM_DELLINK,
    };
    let mut rest = body.get(IFINFO..)?;
    while let (Some(length), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let length = usize::from(length);
        let value = rest.get(4..length)?;
        match kind {
            IFLA_ADDRESS => link.mac = value.to_vec(),
            IFLA_IFNAME => {
                link.name = String::from_utf8_lossy(value)
                    .trim_end_matches('\0')
                    .to_owned();
            }
            IFLA_MASTER => link.enslaved = true,
            IFLA_OPERSTATE => link.operstate = *value.first()?,
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(link)
}

fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..offset + N)?.try_into().ok()
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    array_at(bytes, offset).map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    array_at(bytes, offset).map(u32::from_ne_bytes)
}

fn i32_at(bytes: &[u8], offset: usize) -> Option<i32> {
    array_at(bytes, offset).map(i32::from_ne_bytes)
}
