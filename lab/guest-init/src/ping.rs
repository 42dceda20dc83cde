//! ICMP echo, as the guest's own proof that it can send.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::ipproto::ICMP;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

/// How long one answer may take. The first one waits for ARP, in a machine emulated twice.
const PATIENCE: Duration = Duration::from_secs(3);
/// Echo identifier of this guest's requests.
const IDENTIFIER: u16 = 0x766e;

/// Sends `count` echo requests, each after the answer to the one before; returns how many were answered.
pub fn ping(address: Ipv4Addr, count: u16) -> io::Result<u16> {
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(ICMP),
    )?;
    let mut answered = 0;
    for sequence in 1..=count {
        let request = echo_request(sequence);
        let start = Instant::now();
        sendto(
            &socket,
            &request,
            SendFlags::empty(),
            &SocketAddrV4::new(address, 0),
        )?;
        while let Some(left) = PATIENCE.checked_sub(start.elapsed()) {
            let left = Timespec {
                tv_sec: left.as_secs().cast_signed(),
                tv_nsec: left.subsec_nanos().into(),
            };
            if poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&left))? == 0 {
                break;
            }
            let mut packet = [0; 2048];
            let (length, _) = recv(&socket, &mut packet[..], RecvFlags::empty())?;
            if is_answer(&packet[..length], address, sequence) {
                println!(
                    "PONG {address} {sequence} {:.1} ms",
                    start.elapsed().as_secs_f64() * 1e3
                );
                answered += 1;
                break;
            }
        }
    }
    Ok(answered)
}

fn echo_request(sequence: u16) -> [u8; 64] {
    let mut packet = [0; 64];
    packet[0] = 8;
    packet[4..6].copy_from_slice(&IDENTIFIER.to_be_bytes());
    packet[6..8].copy_from_slice(&sequence.to_be_bytes());
    let sum: u32 = packet
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[2..4].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Whether an IPv4 packet is the echo reply to our request.
fn is_answer(packet: &[u8], from: Ipv4Addr, sequence: u16) -> bool {
    let header = usize::from(packet.first().copied().unwrap_or_default() & 0xf) * 4;
    let (Some(source), Some(reply)) = (packet.get(12..16), packet.get(header..header + 8)) else {
        return false;
    };
    source == from.octets()
        && reply[0] == 0
        && reply[4..6] == IDENTIFIER.to_be_bytes()
        && reply[6..8] == sequence.to_be_bytes()
}
