//! Which VFs are known to be at rest, so that sysfs need not be asked again for each.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use conf::PciAddress;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::netlink::{Link, Messages, receive_from};
use super::watch::{LINK_GROUP, RTM_DELLINK, RTM_NEWLINK};

/// Messages read in one go. With more waiting, nothing is known until they are read.
const MOST_AT_ONCE: usize = 256;

/// Notes of VFs whose network device is down and alone.
///
/// The kernel puts a message into each listener's socket before a change of a link is over: up and
/// down, masters, devices built on it, renames, a driver that lets go. Whoever reads all that waits
/// there and finds nothing of a device knows that it is as it was.
#[derive(Debug, Default)]
pub(super) struct RestNotes {
    /// Held while messages that are there already are read, which waits for nobody.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    listener: Option<Socket>,
    buffer: Vec<u8>,
    /// The indexes of their network devices.
    at_rest: BTreeMap<PciAddress, Vec<u32>>,
    /// By index.
    devices: BTreeMap<u32, PciAddress>,
    /// Messages so far.
    heard: u64,
}

/// What is known of a VF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    AtRest,
    /// It has to be looked at; what is seen is as of this moment.
    Nothing(Moment),
}

/// How many messages had been heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment(u64);

impl RestNotes {
    /// What is known of a VF now.
    pub(super) fn ask(&self, address: PciAddress) -> Known {
        let mut state = self.state();
        state.listen();
        match state.at_rest.contains_key(&address) {
            true => Known::AtRest,
            false => Known::Nothing(Moment(state.heard)),
        }
    }

    /// Notes that a VF with these network devices was seen at rest after that moment. Not noted if
    /// the kernel told of any link since.
    pub(super) fn note(&self, address: PciAddress, devices: Vec<u32>, since: Moment) {
        let mut state = self.state();
        state.listen();
        if state.listener.is_none() || since != Moment(state.heard) {
            return;
        }
        for device in &devices {
            state.devices.insert(*device, address);
        }
        state.at_rest.insert(address, devices);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes in all that the kernel has told.
    fn listen(&mut self) {
        let Some(listener) = self.listener.take().or_else(open) else {
            return;
        };
        for _ in 0..MOST_AT_ONCE {
            match receive_from(&listener, &mut self.buffer) {
                Ok(0) => self.take_in(),
                // Somebody else's message says nothing of the host.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.listener = Some(listener);
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Lost messages, or worse.
                Err(error) => {
                    tracing::debug!(%error, "what is known of links is forgotten");
                    break;
                }
            }
        }
        // A fresh listener next time: what waits in this one is of no use any more.
        self.heard += 1;
        self.at_rest.clear();
        self.devices.clear();
    }

    fn take_in(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        for message in Messages(&buffer) {
            self.heard += 1;
            let changed = message.ok().and_then(|message| {
                let told = [RTM_NEWLINK, RTM_DELLINK].contains(&message.message_type());
                told.then(|| Link::read(message.payload()).ok())?
            });
            match changed {
                Some(link) => self.forget(&link),
                // What makes no sense may be of any of them.
                None => {
                    self.at_rest.clear();
                    self.devices.clear();
                }
            }
        }
        self.buffer = buffer;
    }

    fn forget(&mut self, link: &Link) {
        // One that is new on a function says whose it is.
        let function = self.devices.get(&link.index).copied().or(link.function);
        if let Some(address) = function {
            for device in self.at_rest.remove(&address).into_iter().flatten() {
                self.devices.remove(&device);
            }
        }
    }
}

/// A socket that the kernel tells of links. Without one, nothing is noted.
fn open() -> Option<Socket> {
    let opened = Socket::new(NETLINK_ROUTE).and_then(|mut socket| {
        socket.bind(&SocketAddr::new(0, LINK_GROUP))?;
        socket.set_non_blocking(true)?;
        Ok(socket)
    });
    opened
        .inspect_err(|error| tracing::debug!(%error, "no news of links can be had"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn ip(arguments: &str) {
        let words = arguments.split_whitespace();
        assert!(Command::new("ip").args(words).status().unwrap().success());
    }

    #[test]
    fn a_change_of_the_link_ends_what_was_noted_and_one_of_another_does_not() {
        let thread = std::thread::spawn(|| {
            #[expect(deprecated, reason = "the safe form; no descriptor table is unshared")]
            rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET)
                .expect("network namespaces need root");
            ip("link add left index 100 type veth peer name right index 101");
            ip("link add third index 102 type veth peer name fourth index 103");
            let (notes, vf) = (
                RestNotes::default(),
                PciAddress::new(0, 1, 0x10, 0).unwrap(),
            );
            let note = || match notes.ask(vf) {
                Known::AtRest => panic!("noted already"),
                Known::Nothing(moment) => notes.note(vf, vec![100], moment),
            };
            for change in [
                "link set left up",
                "link set left down",
                "link add link left name upper type macvlan",
                "link del upper",
                "link set left name other",
                "link del other",
            ] {
                note();
                ip("link set third up");
                ip("link set third down");
                assert_eq!(notes.ask(vf), Known::AtRest, "before {change}");
                ip(change);
                assert_ne!(notes.ask(vf), Known::AtRest, "{change}");
            }
            // What was seen before a change is not noted after it.
            let Known::Nothing(moment) = notes.ask(vf) else {
                panic!()
            };
            ip("link set third up");
            notes.note(vf, vec![100], moment);
            assert_ne!(notes.ask(vf), Known::AtRest);
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}
