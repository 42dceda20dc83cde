//! Other programs that speak netlink, as lldpad does.

use std::io;
use std::time::Instant;

use netlink_packet_core::NLMSG_ERROR;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::connection::{Messages, Raw, frame, outcome, receive_from, wait};
use super::port::RTM_SETLINK;

/// Sends a message to the program at that netlink port, and waits for its answer; the payload of
/// what it answers, unless that is an acknowledgement. News of the same matter go to the port
/// `listener`, later.
///
/// # Errors
/// `ConnectionRefused`: there is no such program. `TimedOut`: it does not answer.
pub(crate) fn ask_agent(
    agent: u32,
    listener: Option<u32>,
    message: Raw<'_>,
    deadline: Instant,
) -> io::Result<Option<Vec<u8>>> {
    // A socket for this alone: whatever arrives from the agent is the answer.
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    let own = socket.bind_auto()?.port_number();
    let bytes = frame(message, 1, listener.unwrap_or(own))?;
    socket.send_to(&bytes, &SocketAddr::new(agent, 0), 0)?;
    let mut buffer = Vec::new();
    loop {
        wait(&socket, deadline)?;
        if receive_from(&socket, &mut buffer)? != agent {
            continue;
        }
        for answer in Messages(&buffer) {
            let answer = answer?;
            if answer.message_type() != NLMSG_ERROR {
                return Ok(Some(answer.payload().to_vec()));
            }
            outcome(NLMSG_ERROR, answer.flags(), answer.payload())?;
            if message.kind == RTM_SETLINK {
                return Ok(None);
            }
        }
    }
}
