//! The kernel's events about devices.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use conf::{PciAddress, UsbAddress};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_KOBJECT_UEVENT};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::netlink::receive;
use crate::HostEvent;

/// The kernel's own events; udev sends to another group.
const KERNEL_GROUP: u32 = 1;
/// Room for bursts: making 254 VFs sends about a thousand events of 300 bytes.
const BUFFER: usize = 4 << 20;

/// Events from when it was opened on.
#[derive(Debug)]
pub(super) struct UeventSocket(Socket);

impl UeventSocket {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_KOBJECT_UEVENT)?;
        enlarge(&socket);
        socket.bind(&SocketAddr::new(0, KERNEL_GROUP))?;
        Ok(Self(socket))
    }

    /// Waits for one event, whichever, and takes it off; `false` when the deadline has passed.
    /// Lost events count as one.
    pub(super) fn wait(&self, deadline: Instant) -> io::Result<bool> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
            let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) => return Ok(false),
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        match receive(&self.0, &mut Vec::new()) {
            Ok(()) => Ok(true),
            Err(error) if is_overrun(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Takes the next event off; `None` where it is about something else.
    pub(super) fn next(&self, buffer: &mut Vec<u8>) -> io::Result<Option<HostEvent>> {
        receive(&self.0, buffer)?;
        Ok(parse(buffer))
    }
}

impl AsFd for UeventSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Makes room for bursts, as much as we may.
pub(super) fn enlarge(socket: &Socket) {
    use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force};
    let enlarged = set_socket_recv_buffer_size_force(socket, BUFFER)
        .or_else(|_| set_socket_recv_buffer_size(socket, BUFFER));
    if let Err(error) = enlarged {
        tracing::debug!(%error, "the receive buffer stays small");
    }
}

/// Whether events were lost, since they came faster than they were read.
pub(super) fn is_overrun(error: &io::Error) -> bool {
    const ENOBUFS: i32 = rustix::io::Errno::NOBUFS.raw_os_error();
    error.raw_os_error() == Some(ENOBUFS)
}

/// `ACTION@PATH`, then `KEY=VALUE`s, each ended by a NUL.
fn parse(message: &[u8]) -> Option<HostEvent> {
    let value = |key: &str| {
        let mut parts = message.split(|byte| *byte == 0);
        let found = parts.find_map(|part| part.strip_prefix(key.as_bytes())?.strip_prefix(b"="));
        found.and_then(|value| std::str::from_utf8(value).ok())
    };
    match value("SUBSYSTEM")? {
        "pci" => {}
        "usb" if value("DEVTYPE") == Some("usb_device") && value("ACTION")? == "remove" => {
            let (bus, device) = (
                value("BUSNUM")?.parse().ok()?,
                value("DEVNUM")?.parse().ok()?,
            );
            let (_, name) = value("DEVPATH")?.rsplit_once('/')?;
            let Some((_, devpath)) = name.split_once('-') else {
                return Some(HostEvent::UsbChanged(name.to_owned()));
            };
            return UsbAddress::new(bus, device, devpath).map(HostEvent::UsbRemoved);
        }
        "usb" => {
            let name = value("DEVPATH")?.rsplit('/').next()?;
            return Some(HostEvent::UsbChanged(name.to_owned()));
        }
        _ => return None,
    }
    let address: PciAddress = value("PCI_SLOT_NAME")?.parse().ok()?;
    match value("ACTION")? {
        "add" => Some(HostEvent::PciAdded(address)),
        "remove" => Some(HostEvent::PciRemoved(address)),
        "bind" | "unbind" => Some(HostEvent::PciDriverChanged(address)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: &str, subsystem: &str) -> Vec<u8> {
        let path = "/devices/pci0000:00/0000:00:02.0/0000:01:10.2";
        format!(
            "{action}@{path}\0ACTION={action}\0DEVPATH={path}\0SUBSYSTEM={subsystem}\0\
             PCI_CLASS=20000\0PCI_SLOT_NAME=0000:01:10.2\0SEQNUM=2143\0"
        )
        .into_bytes()
    }

    #[test]
    fn reads_what_happens_to_pci_functions_and_nothing_else() {
        let address: PciAddress = "0000:01:10.2".parse().unwrap();
        let added = HostEvent::PciAdded(address);
        assert_eq!(parse(&event("add", "pci")), Some(added));
        let removed = HostEvent::PciRemoved(address);
        assert_eq!(parse(&event("remove", "pci")), Some(removed));
        let changed = HostEvent::PciDriverChanged(address);
        assert_eq!(parse(&event("bind", "pci")), Some(changed.clone()));
        assert_eq!(parse(&event("unbind", "pci")), Some(changed));
        assert_eq!(parse(&event("change", "pci")), None);
        assert_eq!(parse(&event("add", "net")), None);
        let usb = HostEvent::UsbChanged("0000:01:10.2".to_owned());
        assert_eq!(parse(&event("add", "usb")), Some(usb));
    }

    #[test]
    fn a_usb_device_that_goes_is_told_by_where_it_was() {
        let event = |action: &str, path: &str, kind: &str| {
            let text = format!(
                "{action}@{path}\0ACTION={action}\0DEVPATH={path}\0SUBSYSTEM=usb\0\
                 DEVNAME=bus/usb/001/005\0DEVTYPE={kind}\0BUSNUM=001\0DEVNUM=005\0"
            );
            parse(text.as_bytes())
        };
        let path = "/devices/pci0000:00/0000:00:14.0/usb1/1-1/1-1.4";
        let address = "usb:1:5@1.4".parse().unwrap();
        let removed = event("remove", path, "usb_device");
        assert_eq!(removed, Some(HostEvent::UsbRemoved(address)));
        let changed = |name: &str| Some(HostEvent::UsbChanged(name.to_owned()));
        assert_eq!(event("add", path, "usb_device"), changed("1-1.4"));
        assert_eq!(event("remove", path, "usb_interface"), changed("1-1.4"));
        assert_eq!(
            event("remove", "/devices/usb1", "usb_device"),
            changed("usb1")
        );
    }

    #[test]
    fn a_mangled_event_is_nothing() {
        assert_eq!(parse(b""), None);
        assert_eq!(
            parse(b"SUBSYSTEM=pci\0ACTION=add\0PCI_SLOT_NAME=\xff\0"),
            None
        );
        let whole = event("add", "pci");
        let name_ends = whole.windows(9).position(|w| w == b"01:10.2\0S").unwrap() + 7;
        for length in 0..name_ends {
            assert_eq!(parse(&whole[..length]), None, "{length}");
        }
    }
}
