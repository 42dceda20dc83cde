//! The transport.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
    NLMSG_NOOP, NLMSG_OVERRUN, NetlinkBuffer, NetlinkSerializable,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::attributes::{Attributes, malformed, text, u32_at};
use crate::KernelRefusal;

/// Longest wait for one reply. The kernel answers at once, or not at all.
const PATIENCE: Duration = Duration::from_secs(10);
/// A dump that changed while it was read is read again, so often.
const DUMP_TRIES: usize = 4;
/// Longest message that is read: far more than the kernel's own limit for one.
const MOST_BYTES: usize = 16 << 20;

const NLMSGERR_ATTR_MSG: u16 = 1;
const MSG_PEEK: i32 = 0x02;
const MSG_TRUNC: i32 = 0x20;

/// Connections to one of the kernel's netlink families. Idle ones are used again.
#[derive(Debug)]
pub(crate) struct Connections {
    protocol: isize,
    idle: Mutex<Vec<Connection>>,
}

/// To rtnetlink.
impl Default for Connections {
    fn default() -> Self {
        Self::to(NETLINK_ROUTE)
    }
}

#[derive(Debug)]
struct Connection {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// A message as it goes over the wire, without netlink's own header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Raw<'a> {
    /// The message's type (`RTM_…`, or a generic family's number).
    pub(crate) kind: u16,
    /// `NLM_F_…`; request and acknowledgement are added.
    pub(crate) flags: u16,
    /// The family's header, and attributes.
    pub(crate) payload: &'a [u8],
}

impl Connections {
    fn to(protocol: isize) -> Self {
        Self {
            protocol,
            idle: Mutex::default(),
        }
    }

    /// To generic netlink.
    pub(crate) fn generic() -> Self {
        Self::to(NETLINK_GENERIC)
    }

    /// Sends what `netlink-packet-route` has no words for; `read` hears type and payload of each
    /// reply.
    pub(crate) fn exchange(
        &self,
        message: Raw<'_>,
        mut read: impl FnMut(u16, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        self.with(|connection| connection.exchange(message, &mut read))
    }

    /// Changes something.
    pub(crate) fn change(&self, message: RouteNetlinkMessage) -> io::Result<()> {
        self.with(|connection| connection.request(&message, 0, &mut |_, _| Ok(())))
    }

    /// Asks for one thing; `read` hears type and payload of each reply.
    pub(crate) fn get(
        &self,
        message: RouteNetlinkMessage,
        mut read: impl FnMut(u16, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        self.with(|connection| connection.request(&message, 0, &mut read))
    }

    /// Asks for all of a kind. Made anew where the kernel's tables changed meanwhile.
    pub(crate) fn dump<T>(
        &self,
        message: &RouteNetlinkMessage,
        mut read: impl FnMut(u16, &[u8]) -> io::Result<Option<T>>,
    ) -> io::Result<Vec<T>> {
        let mut last = None;
        for _ in 0..DUMP_TRIES {
            let mut found = Vec::new();
            let outcome = self.with(|connection| {
                connection.request(message, NLM_F_DUMP, &mut |kind, payload| {
                    found.extend(read(kind, payload)?);
                    Ok(())
                })
            });
            match outcome {
                Ok(()) => return Ok(found),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(malformed))
    }

    fn with<T>(&self, work: impl FnOnce(&mut Connection) -> io::Result<T>) -> io::Result<T> {
        let idle = self.idle().pop();
        let mut connection = idle.map_or_else(|| Connection::open(self.protocol), Ok)?;
        let outcome = work(&mut connection);
        // A refusal is a whole answer; after anything else the stream may be out of step.
        let in_step = (outcome.as_ref())
            .err()
            .is_none_or(|error| (error.get_ref()).is_some_and(|inner| inner.is::<KernelRefusal>()));
        if in_step {
            self.idle().push(connection);
        }
        outcome
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        socket.set_netlink_get_strict_chk(true)?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: Vec::new(),
        })
    }

    fn request(
        &mut self,
        message: &RouteNetlinkMessage,
        flags: u16,
        read: &mut dyn FnMut(u16, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut payload = vec![0; message.buffer_len()];
        message.serialize(&mut payload);
        let raw = Raw {
            kind: message.message_type(),
            flags,
            payload: &payload,
        };
        self.exchange(raw, read)
    }

    fn exchange(
        &mut self,
        message: Raw<'_>,
        read: &mut dyn FnMut(u16, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = frame(message, self.sequence, 0)?;
        let kernel = SocketAddr::new(0, 0);
        let sent = self.socket.send_to(&bytes, &kernel, 0)?;
        if sent != bytes.len() {
            return Err(malformed());
        }
        let deadline = Instant::now() + PATIENCE;
        let mut changed_meanwhile = false;
        loop {
            wait(&self.socket, deadline)?;
            receive(&self.socket, &mut self.buffer)?;
            for message in Messages(&self.buffer) {
                let message = message?;
                if message.sequence_number() != self.sequence {
                    continue;
                }
                changed_meanwhile |= message.flags() & NLM_F_DUMP_INTR != 0;
                let payload = message.payload();
                match message.message_type() {
                    NLMSG_NOOP => {}
                    NLMSG_OVERRUN => return Err(malformed()),
                    // Both start with an error number; 0: it is the acknowledgement.
                    kind @ (NLMSG_ERROR | NLMSG_DONE) => {
                        outcome(kind, message.flags(), payload)?;
                        if changed_meanwhile {
                            return Err(io::ErrorKind::Interrupted.into());
                        }
                        return Ok(());
                    }
                    kind => read(kind, payload)?,
                }
            }
        }
    }
}

/// A message with its header, from that port (0: whichever the kernel knows us by).
pub(crate) fn frame(message: Raw<'_>, sequence: u32, port: u32) -> io::Result<Vec<u8>> {
    const HEADER: usize = 16;
    let length = HEADER + message.payload.len();
    let flags = NLM_F_REQUEST | NLM_F_ACK | message.flags;
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(
        u32::try_from(length)
            .map_err(|_| malformed())?
            .to_ne_bytes(),
    );
    bytes.extend(message.kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(port.to_ne_bytes());
    bytes.extend(message.payload);
    Ok(bytes)
}

/// The messages in a datagram.
pub(crate) struct Messages<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = io::Result<NetlinkBuffer<&'a [u8]>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let Ok(message) = NetlinkBuffer::new_checked(self.0) else {
            self.0 = &[];
            return Some(Err(malformed()));
        };
        let length = usize::try_from(message.length()).unwrap_or(usize::MAX);
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(message))
    }
}

/// What an acknowledgement, an error or the end of a dump says.
pub(crate) fn outcome(kind: u16, flags: u16, payload: &[u8]) -> io::Result<()> {
    let code = u32_at(payload, 0)?.cast_signed();
    if code == 0 {
        return Ok(());
    }
    // Behind an error's number is the request's header (and, uncapped, the whole request).
    let texts = match kind {
        NLMSG_DONE => payload.get(4..),
        _ if flags & NLM_F_CAPPED != 0 => payload.get(20..),
        _ => {
            let echoed = usize::try_from(u32_at(payload, 4)?).unwrap_or(usize::MAX);
            payload.get(echoed.saturating_add(4).next_multiple_of(4)..)
        }
    };
    // A text that can't be read must not hide the error itself.
    let said = texts.and_then(|texts| Attributes::from(texts).find(NLMSGERR_ATTR_MSG).ok()?);
    Err(KernelRefusal::new(code.saturating_neg(), said.map(text)).into())
}

/// Waits until there is something to read.
pub(crate) fn wait(socket: &Socket, deadline: Instant) -> io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| malformed())?;
        let mut fds = [PollFd::new(socket, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("the kernel did not answer within {} s", PATIENCE.as_secs()),
                ));
            }
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reads one whole datagram of the kernel's, however long; those of others are dropped, and leave
/// the buffer empty.
pub(crate) fn receive(socket: &Socket, buffer: &mut Vec<u8>) -> io::Result<()> {
    if receive_from(socket, buffer)? != 0 {
        buffer.clear();
    }
    Ok(())
}

/// Reads one whole datagram, and tells whose it is; 0: the kernel's.
pub(crate) fn receive_from(socket: &Socket, buffer: &mut Vec<u8>) -> io::Result<u32> {
    buffer.clear();
    let (length, _) = socket.recv_from(buffer, MSG_PEEK | MSG_TRUNC)?;
    if length > MOST_BYTES {
        return Err(malformed());
    }
    buffer.clear();
    buffer.reserve(length);
    let (_, sender) = socket.recv_from(buffer, 0)?;
    Ok(sender.port_number())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An error as the kernel writes it.
    fn error_reply(errno: i32, said: &str, capped: bool, request: &[u8]) -> Vec<u8> {
        let mut payload = (-errno).to_ne_bytes().to_vec();
        let mut header = vec![0; 16];
        header[..4].copy_from_slice(&(16 + request.len() as u32).to_ne_bytes());
        payload.extend(header);
        if !capped {
            payload.extend(request);
        }
        let length = 4 + said.len() + 1;
        payload.extend((length as u16).to_ne_bytes());
        payload.extend(NLMSGERR_ATTR_MSG.to_ne_bytes());
        payload.extend(said.as_bytes());
        payload.resize(payload.len() + 1 + (length.next_multiple_of(4) - length), 0);
        payload
    }

    #[test]
    fn the_kernels_words_are_kept_beside_its_number() {
        for (flags, capped) in [(NLM_F_CAPPED, true), (0, false)] {
            let reply = error_reply(22, "No such VF", capped, &[7; 24]);
            let error = outcome(NLMSG_ERROR, flags, &reply).unwrap_err();
            assert!(error.to_string().contains("No such VF"), "{error}");
            assert_eq!(crate::errno(&error), Some(22));
        }
        assert!(outcome(NLMSG_ERROR, 0, &0_i32.to_ne_bytes()).is_ok());
    }

    #[test]
    fn cut_off_errors_keep_their_number() {
        let reply = error_reply(95, "Not by this driver", false, &[7; 24]);
        for length in 8..reply.len() {
            let error = outcome(NLMSG_ERROR, 0, &reply[..length]).unwrap_err();
            assert_eq!(crate::errno(&error), Some(95), "{length}");
        }
        assert!(outcome(NLMSG_ERROR, 0, &[0; 3]).is_err());
    }

    #[test]
    fn lying_lengths_end_the_walk() {
        for length in [0_u32, 15, 17, u32::MAX] {
            let mut bytes = vec![0; 16];
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            let messages: Vec<_> = Messages(&bytes).collect();
            assert!(matches!(messages[..], [Err(_)]), "{length}");
        }
    }

    #[test]
    fn a_real_kernels_words_arrive_and_the_connection_goes_on() {
        use netlink_packet_route::link::LinkMessage;
        let connections = Connections::default();
        let mut message = LinkMessage::default();
        message.header.index = 1;
        message.header.flags = netlink_packet_route::link::LinkFlags::Up;
        let wrong = RouteNetlinkMessage::GetLink(message.clone());
        let error = connections.get(wrong, |_, _| Ok(())).unwrap_err();
        assert_eq!(crate::errno(&error), Some(22));
        assert!(
            error.to_string().starts_with("Invalid values in header"),
            "{error}"
        );
        message.header.flags = Default::default();
        let mut replies = 0;
        let right = RouteNetlinkMessage::GetLink(message);
        connections
            .get(right, |_, _| {
                replies += 1;
                Ok(())
            })
            .unwrap();
        assert_eq!((replies, connections.idle().len()), (1, 1));
    }
}
