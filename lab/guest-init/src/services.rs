//! What the guest answers over TCP, so that somebody outside can tell whether a connection lives on, and the guest with it.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::thread;

/// Sends back what it gets (RFC 862).
const ECHO: u16 = 7;
/// Tells how long the guest is up, and closes: in place of the time (RFC 867), which this guest does not know.
const UPTIME: u16 = 13;

/// Listens on all addresses, those included that come later. Each connection has a thread of its own.
pub fn start() -> io::Result<()> {
    listen(ECHO, echo)?;
    listen(UPTIME, |mut stream| {
        stream.write_all(format!("{}\n", uptime()?).as_bytes())
    })
}

/// Seconds since the kernel started, and the boot's own id: a guest that was moved has the same one, a new one has not.
pub fn uptime() -> io::Result<String> {
    let uptime = fs::read_to_string("/proc/uptime")?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let seconds = uptime.split_whitespace().next().unwrap_or_default();
    Ok(format!("{seconds} {}", boot.trim()))
}

fn listen(port: u16, answer: fn(TcpStream) -> io::Result<()>) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // What a client does wrong, or its end, is its own affair.
            thread::spawn(move || answer(stream));
        }
    });
    Ok(())
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes)? {
            0 => return Ok(()),
            length => stream.write_all(&bytes[..length])?,
        }
    }
}
