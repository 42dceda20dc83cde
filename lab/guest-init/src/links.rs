//! The guest's network cards: found, brought up, addressed and reported.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use crate::netlink::{Link, Netlink};

/// The bond's name.
const BOND: &str = "bond0";

/// Every card, and the addresses wanted on them.
pub struct Links {
    events: Netlink,
    requests: Netlink,
    wanted: HashMap<[u8; 6], Vec<(IpAddr, u8)>>,
    /// MACs whose cards are joined in a bond.
    bonded: HashSet<[u8; 6]>,
    known: HashMap<u32, Known>,
}

/// What was last seen of a card.
struct Known {
    line: String,
    addressed: bool,
}

impl AsFd for Links {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

impl Links {
    /// Listens for cards; `cmdline` is the kernel's, with the addresses wanted.
    pub fn open(cmdline: &str) -> io::Result<Self> {
        Ok(Self {
            events: Netlink::events()?,
            requests: Netlink::requests()?,
            wanted: wanted(cmdline),
            bonded: bonded(cmdline),
            known: HashMap::new(),
        })
    }

    /// Looks at every link there is.
    pub fn refresh_all(&mut self) -> io::Result<()> {
        for link in self.requests.links()? {
            self.refresh(&link);
        }
        Ok(())
    }

    /// Takes in what the kernel has to say.
    pub fn read_events(&mut self) -> io::Result<()> {
        for link in self.events.next_links()? {
            self.refresh(&link);
        }
        Ok(())
    }

    /// Prints the line of every card.
    pub fn print_all(&mut self) -> io::Result<()> {
        self.known.values_mut().for_each(|known| known.line.clear());
        self.refresh_all()
    }

    /// Brings a card up or down.
    pub fn set_up(&mut self, name: &str, up: bool) -> io::Result<()> {
        let index = self.index(name)?;
        self.requests.set_up(index, up)
    }

    /// Sets a card's MAC address.
    pub fn set_mac(&mut self, name: &str, mac: &str) -> io::Result<()> {
        let mac = parse_mac(mac).ok_or_else(|| io::Error::other("not a MAC address"))?;
        let index = self.index(name)?;
        self.requests.set_mac(index, &mac)
    }

    /// Sets a card's MTU.
    pub fn set_mtu(&mut self, name: &str, bytes: u32) -> io::Result<()> {
        let index = self.index(name)?;
        self.requests.set_mtu(index, bytes)
    }

    fn index(&mut self, name: &str) -> io::Result<u32> {
        self.requests
            .links()?
            .into_iter()
            .find(|link| link.name == name)
            .map(|link| link.index)
            .ok_or_else(|| io::Error::other("no such card"))
    }

    /// Joins a card in the bond: one works, a VF if there is one, the others stand by.
    fn join(&mut self, link: &Link) -> io::Result<()> {
        let bond = match self.index(BOND) {
            Ok(bond) => bond,
            Err(_) => {
                self.requests.add_bond(BOND)?;
                self.index(BOND)?
            }
        };
        // What was told of it may be old by now.
        let mut now = self.requests.links()?.into_iter();
        if now.any(|one| one.index == link.index && one.enslaved) {
            return Ok(());
        }
        // Only a card that is down can be joined; joining brings it up.
        self.requests.set_up(link.index, false)?;
        self.requests.set_master(link.index, bond)?;
        if driver(&link.name) != "virtio_net" {
            self.requests.prefer_in_bond(bond, link.index)?;
        }
        Ok(())
    }

    fn refresh(&mut self, link: &Link) {
        let index = link.index;
        if link.gone {
            if self.known.remove(&index).is_some() {
                println!("{}", line(link, "gone"));
            }
            return;
        }
        let first = !self.known.contains_key(&index);
        let mac = <[u8; 6]>::try_from(&link.mac[..]).unwrap_or_default();
        // The bond itself has no driver.
        let is_bonded = self.bonded.contains(&mac) && driver(&link.name) != "-";
        if is_bonded && !link.enslaved {
            if let Err(error) = self.join(link) {
                println!("ERROR can't join {} in a bond: {error}", link.name);
            }
        } else if first && !link.up {
            // Before its line is printed, so that the first line is not already out of date.
            if let Err(error) = self.requests.set_up(index, true) {
                println!("ERROR can't bring {} up: {error}", link.name);
            }
        }
        let loopback = link.name == "lo";
        let is_alone = !link.enslaved && !is_bonded;
        let known = self.known.entry(index).or_insert(Known {
            line: String::new(),
            addressed: loopback,
        });
        if !known.addressed && is_alone {
            for (address, prefix) in self.wanted.get(&mac).into_iter().flatten() {
                match self.requests.add_address(index, *address, *prefix) {
                    Ok(()) => known.addressed = true,
                    Err(error) => println!("ERROR {address} on {}: {error}", link.name),
                }
            }
        }
        let line = line(link, operstate(link));
        if !loopback && line != known.line {
            println!("{line}");
            known.line = line;
        }
    }
}

fn line(link: &Link, state: &str) -> String {
    let mac: Vec<String> = link.mac.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "NET {} {} {} {state}",
        link.name,
        mac.join(":"),
        driver(&link.name)
    )
}

/// RFC 2863's states, as the kernel names them.
fn operstate(link: &Link) -> &'static str {
    match link.operstate {
        1 => "notpresent",
        2 => "down",
        3 => "lowerlayerdown",
        4 => "testing",
        5 => "dormant",
        6 => "up",
        _ => "unknown",
    }
}

/// The driver of a card, or `-` for a link without one (a bond, a failover master).
fn driver(name: &str) -> String {
    fs::read_link(Path::new("/sys/class/net").join(name).join("device/driver"))
        .ok()
        .and_then(|path| Some(path.file_name()?.to_str()?.to_owned()))
        .unwrap_or_else(|| "-".to_owned())
}

/// The `ip.MAC=ADDRESS/PREFIX,…` words of the kernel command line.
fn wanted(cmdline: &str) -> HashMap<[u8; 6], Vec<(IpAddr, u8)>> {
    let mut wanted: HashMap<_, Vec<_>> = HashMap::new();
    for word in cmdline
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("ip."))
    {
        let Some((mac, addresses)) = word
            .split_once('=')
            .and_then(|(mac, addresses)| Some((parse_mac(mac)?, addresses)))
        else {
            println!("ERROR ip.{word}: not ip.MAC=ADDRESS/PREFIX");
            continue;
        };
        for address in addresses.split(',') {
            match parse_address(address) {
                Some(address) => wanted.entry(mac).or_default().push(address),
                None => println!("ERROR ip.{word}: {address} is not ADDRESS/PREFIX"),
            }
        }
    }
    wanted
}

/// The `bond.MAC` words of the kernel command line.
fn bonded(cmdline: &str) -> HashSet<[u8; 6]> {
    let words = cmdline.split_whitespace();
    words
        .filter_map(|word| parse_mac(word.strip_prefix("bond.")?))
        .collect()
}

fn parse_address(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    Some((address.parse().ok()?, prefix.parse().ok()?))
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|byte| {
            (byte.len() == 2)
                .then(|| u8::from_str_radix(byte, 16).ok())
                .flatten()
        })
        .collect();
    bytes?.try_into().ok()
}
