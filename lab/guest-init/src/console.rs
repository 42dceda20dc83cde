//! Commands typed on the serial console.

use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::ops::ControlFlow;

use crate::links::Links;
use crate::ping::ping;
use crate::services;

/// What the console understands.
pub const COMMANDS: &str = "poweroff | ping ADDRESS [COUNT] | net | up NAME | down NAME | mac NAME MAC | mtu NAME BYTES | \
     uptime";

/// Longest line kept; the rest of a longer one is dropped.
const LONGEST: usize = 256;

/// The line being typed.
#[derive(Default)]
pub struct Console {
    line: Vec<u8>,
}

impl Console {
    /// Reads what is there and carries out every whole line; `Break` when one asked to power off.
    pub fn read(&mut self, links: &mut Links) -> io::Result<ControlFlow<()>> {
        let mut bytes = [0; LONGEST];
        let length = io::stdin().read(&mut bytes)?;
        if length == 0 {
            return Ok(ControlFlow::Break(()));
        }
        for byte in &bytes[..length] {
            if !matches!(byte, b'\n' | b'\r') {
                if self.line.len() < LONGEST {
                    self.line.push(*byte);
                }
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = String::from_utf8_lossy(&line);
            if run(line.trim(), links).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

fn run(line: &str, links: &mut Links) -> ControlFlow<()> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let done = match words[..] {
        [] => Ok(()),
        ["poweroff"] => return ControlFlow::Break(()),
        ["net"] => links.print_all(),
        ["up", name] => links.set_up(name, true),
        ["down", name] => links.set_up(name, false),
        ["mac", name, mac] => links.set_mac(name, mac),
        ["mtu", name, bytes] => bytes
            .parse()
            .map_err(|_| io::Error::other("not a number of bytes"))
            .and_then(|bytes| links.set_mtu(name, bytes)),
        ["uptime"] => services::uptime().map(|uptime| println!("UPTIME {uptime}")),
        ["ping", address] => ping_line(address, "1"),
        ["ping", address, count] => ping_line(address, count),
        _ => Err(io::Error::other(format!("unknown; try {COMMANDS}"))),
    };
    if let Err(error) = done {
        println!("ERROR {line}: {error}");
    }
    ControlFlow::Continue(())
}

fn ping_line(address: &str, count: &str) -> io::Result<()> {
    let address: Ipv4Addr = address
        .parse()
        .map_err(|_| io::Error::other("not an IPv4 address"))?;
    let count: u16 = count
        .parse()
        .map_err(|_| io::Error::other("not a count between 1 and 65535"))?;
    let answered = ping(address, count)?;
    println!("PING {address} {answered}/{count}");
    Ok(())
}
