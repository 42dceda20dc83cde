//! 802.1Qbg and 802.1Qbh: asking a switch for a guest's port profile.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use conf::{MacAddress, NetdevName};

use super::LinuxHost;
use super::netlink::{
    Device, Kind, Port, RTM_GETLINK, RTM_SETLINK, Response, about_port, ask_agent,
};
use crate::{HostError, Links, Operation, PortAction, PortProfile, PortRequest};

/// How long one waits for a switch's word on a port profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortPatience {
    /// Between two questions.
    pub interval: Duration,
    /// In all.
    pub limit: Duration,
}

impl Default for PortPatience {
    /// As libvirt has it: eight times a second, for 10 s.
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(125),
            limit: Duration::from_secs(10),
        }
    }
}

/// The netlink port on which news of lldpad are heard; 0: on none.
#[derive(Debug, Default)]
pub(super) struct Listener(AtomicU32);

impl Listener {
    pub(super) fn set(&self, port: u32) {
        self.0.store(port, Ordering::Relaxed);
    }

    /// That port is not heard any more.
    pub(super) fn leave(&self, port: u32) {
        // Another stream may have taken its place.
        let _ = (self.0).compare_exchange(port, 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn port(&self) -> Option<u32> {
        Some(self.0.load(Ordering::Relaxed)).filter(|port| *port != 0)
    }
}

/// Where agents that speak VDP write their process ids, which are their netlink ports.
#[derive(Debug, Clone)]
pub(super) struct Agents {
    run: PathBuf,
}

impl Agents {
    const LLDPAD: &str = "lldpad.pid";
    /// Another agent, which only tells news.
    const VIRIP: &str = "virip.pid";

    pub(super) fn new(run: PathBuf) -> Self {
        Self { run }
    }

    /// Whether that netlink port is an agent's.
    pub(super) fn speak_from(&self, port: u32) -> bool {
        [Self::LLDPAD, Self::VIRIP]
            .into_iter()
            .any(|file| self.pid(file).is_ok_and(|pid| pid == port))
    }

    fn pid(&self, file: &str) -> io::Result<u32> {
        let text = std::fs::read(self.run.join(file))?;
        // lldpad writes NULs behind its number.
        let digits = text.iter().copied().take_while(u8::is_ascii_digit);
        let digits: String = digits.map(char::from).collect();
        let pid = digits.parse().ok().filter(|pid| *pid != 0);
        pid.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it holds no process id"))
    }

    fn lldpad(&self) -> Result<u32, String> {
        self.pid(Self::LLDPAD).map_err(|error| {
            let file = self.run.join(Self::LLDPAD);
            format!(
                "lldpad, which speaks 802.1Qbg, does not run ({}: {error}); start it",
                file.display()
            )
        })
    }
}

impl LinuxHost {
    pub(super) fn ask_port(&self, request: &PortRequest) -> Result<(), HostError> {
        let conversation = self.conversation(&request.profile)?;
        conversation.carry_out(request.action, request.mac)
    }

    fn conversation(&self, profile: &PortProfile) -> Result<Conversation<Wire<'_>>, HostError> {
        let link = profile.link();
        let target = format!("'{link}'");
        let refused = |source| HostError::Kernel {
            operation: Operation::PortProfile,
            target: target.clone(),
            source,
        };
        let device = self.netlink.device_named(link.as_str()).map_err(refused)?;
        let device = device.ok_or_else(|| HostError::NoNetdev(link.to_string()))?;
        let (ifindex, port, agent) = match profile {
            PortProfile::Qbg {
                manager_id,
                type_id,
                type_id_version,
                instance_id,
                ..
            } => {
                let agent = self.agents.lldpad();
                let agent = agent.map_err(|reason| HostError::Unsupported {
                    target: target.clone(),
                    reason,
                })?;
                let (lowest, vlan) = self.lowest(device).map_err(refused)?;
                let port = Port::Vsi {
                    link: lowest.name,
                    vlan,
                    manager_id: *manager_id,
                    type_id: *type_id,
                    type_id_version: *type_id_version,
                    instance: *instance_id,
                };
                (lowest.index, port, Some(agent))
            }
            PortProfile::Qbh {
                vf,
                profile_id,
                guest,
                host,
                ..
            } => {
                let port = Port::Card {
                    vf: *vf,
                    profile: profile_id.clone(),
                    guest: *guest,
                    host: *host,
                };
                (device.index, port, None)
            }
        };
        Ok(Conversation {
            wire: Wire {
                host: self,
                ifindex,
                agent,
            },
            patience: self.port_patience,
            link,
            port,
        })
    }

    /// The lowest device of a stack, and the first VLAN on the way; 0: none.
    fn lowest(&self, highest: Device) -> io::Result<(Device, u16)> {
        /// Deeper than the kernel lets devices be stacked.
        const DEPTH: usize = 16;
        let mut lowest = highest;
        let mut vlan = vlan_of(&lowest);
        for _ in 0..DEPTH {
            // Others link to devices that are beside them (veth) or elsewhere (tunnels).
            let stacked = lowest.kind.as_ref().is_some_and(|kind| {
                let kind = kind.as_str();
                ["macvtap", "macvlan", "vlan", "ipvlan", "ipvtap"].contains(&kind)
            });
            let Some(lower) = lowest.lower.filter(|_| stacked) else {
                break;
            };
            lowest = self.netlink.device(lower)?;
            vlan = vlan.or_else(|| vlan_of(&lowest));
        }
        Ok((lowest, vlan.unwrap_or(0)))
    }
}

fn vlan_of(device: &Device) -> Option<u16> {
    match device.kind {
        Some(Kind::Vlan(id)) => id,
        _ => None,
    }
}

/// Who is asked about a port: the card's driver, or an agent.
struct Wire<'a> {
    host: &'a LinuxHost,
    ifindex: u32,
    /// The agent's netlink port; `None`: it is the kernel that is asked.
    agent: Option<u32>,
}

/// What a conversation takes.
trait Speak {
    /// The device that is spoken of.
    fn ifindex(&self) -> u32;
    /// Whether it is an agent that answers.
    fn is_agent(&self) -> bool;
    /// The payload of the reply, where there is one besides an acknowledgement.
    fn exchange(&self, kind: u16, payload: &[u8], limit: Duration) -> io::Result<Option<Vec<u8>>>;
    fn set_up(&self, up: bool) -> Result<(), HostError>;
}

impl Speak for Wire<'_> {
    fn ifindex(&self) -> u32 {
        self.ifindex
    }

    fn is_agent(&self) -> bool {
        self.agent.is_some()
    }

    fn exchange(&self, kind: u16, payload: &[u8], limit: Duration) -> io::Result<Option<Vec<u8>>> {
        let message = about_port(kind, payload);
        if let Some(agent) = self.agent {
            let deadline = Instant::now() + limit;
            return ask_agent(agent, self.host.listener.port(), message, deadline);
        }
        let mut reply = None;
        self.host.netlink.exchange(message, |_, payload| {
            reply = Some(payload.to_vec());
            Ok(())
        })?;
        Ok(reply)
    }

    fn set_up(&self, up: bool) -> Result<(), HostError> {
        self.host.set_up(self.ifindex, up)
    }
}

/// About one port.
struct Conversation<S> {
    wire: S,
    patience: PortPatience,
    link: NetdevName,
    port: Port,
}

impl<S: Speak> Conversation<S> {
    fn carry_out(&self, action: PortAction, mac: MacAddress) -> Result<(), HostError> {
        if action == PortAction::Disassociate {
            self.set_own_link(false);
        }
        self.send(action, mac)?;
        if action == PortAction::AssociateAgain {
            return Ok(());
        }
        self.wait(action, mac)?;
        if action == PortAction::Associate {
            self.set_own_link(true);
        }
        Ok(())
    }

    fn send(&self, action: PortAction, mac: MacAddress) -> Result<(), HostError> {
        const EINVAL: i32 = rustix::io::Errno::INVAL.raw_os_error();
        let ifindex = self.wire.ifindex();
        let message = self.port.request(ifindex, action, mac);
        let sent = match self.exchange(RTM_SETLINK, &message) {
            Err(error) if self.is_own_port() && crate::errno(&error) == Some(EINVAL) => {
                let message = self.port.request_without_mac(ifindex, action);
                self.exchange(RTM_SETLINK, &message)
            }
            sent => sent,
        };
        sent.map(|_| ()).map_err(|error| self.failed(error))
    }

    /// Asks until there is a word. A card's port that stays silent is given up.
    fn wait(&self, action: PortAction, mac: MacAddress) -> Result<(), HostError> {
        let PortPatience { interval, limit } = self.patience;
        let deadline = Instant::now() + limit;
        let mut listed = false;
        loop {
            let response = self.response().map_err(|error| self.failed(error))?;
            match response {
                Response::Done => return Ok(()),
                Response::Absent if action == PortAction::Disassociate => return Ok(()),
                Response::Refused(words, code) => {
                    return Err(self.refused(format!("{words} (code {code})")));
                }
                Response::Absent if !self.wire.is_agent() => {
                    return Err(self.unsupported("its driver tells nothing of that port"));
                }
                // lldpad forgets what the switch does not confirm within three seconds.
                Response::Absent if listed => {
                    let reason = "the switch did not confirm it, and lldpad gave it up";
                    return Err(self.refused(reason.to_owned()));
                }
                Response::InProgress => listed = true,
                Response::Absent => {}
            }
            if Instant::now() + interval > deadline {
                break;
            }
            #[expect(
                clippy::disallowed_methods,
                reason = "neither kernel nor agent tells when the switch has answered"
            )]
            std::thread::sleep(interval);
        }
        if !self.wire.is_agent()
            && action != PortAction::Disassociate
            && let Err(error) = self.send(PortAction::Disassociate, mac)
        {
            tracing::warn!(device = %self.link, %error, "a port's association stays open");
        }
        let seconds = limit.as_secs_f32();
        Err(self.refused(format!("the switch gave no answer within {seconds} s")))
    }

    fn response(&self) -> io::Result<Response> {
        let answer = self.exchange(RTM_GETLINK, &self.port.question(self.wire.ifindex()))?;
        answer.map_or(Ok(Response::Absent), |answer| self.port.response(&answer))
    }

    fn exchange(&self, kind: u16, payload: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.wire.exchange(kind, payload, self.patience.limit)
    }

    fn is_own_port(&self) -> bool {
        matches!(self.port, Port::Card { vf: None, .. })
    }

    /// A NIC whose own port it is follows its association.
    fn set_own_link(&self, up: bool) {
        if self.is_own_port()
            && let Err(error) = self.wire.set_up(up)
        {
            tracing::debug!(device = %self.link, %error, "its link stays as it is");
        }
    }

    fn failed(&self, error: io::Error) -> HostError {
        const EOPNOTSUPP: i32 = rustix::io::Errno::OPNOTSUPP.raw_os_error();
        match error.kind() {
            io::ErrorKind::ConnectionRefused if self.wire.is_agent() => {
                self.unsupported("lldpad, which speaks 802.1Qbg, does not run any more; start it")
            }
            io::ErrorKind::TimedOut if self.wire.is_agent() => {
                self.refused(String::from("lldpad does not answer"))
            }
            _ if !self.wire.is_agent() && crate::errno(&error) == Some(EOPNOTSUPP) => {
                self.unsupported("the card has no port profiles (802.1Qbh)")
            }
            _ => HostError::Kernel {
                operation: Operation::PortProfile,
                target: format!("'{}'", self.link),
                source: error,
            },
        }
    }

    fn refused(&self, reason: String) -> HostError {
        HostError::PortProfile {
            link: self.link.to_string(),
            reason,
        }
    }

    fn unsupported(&self, reason: &str) -> HostError {
        HostError::Unsupported {
            target: format!("'{}'", self.link),
            reason: reason.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use conf::Uuid;

    use super::*;

    /// A card that answers each question with the next word, and remembers what was done.
    struct Card {
        vf: Option<u16>,
        /// Refuses requests of more than that many bytes.
        most_bytes: usize,
        words: RefCell<Vec<Option<u16>>>,
        done: RefCell<Vec<String>>,
    }

    const IN_PROGRESS: Option<u16> = Some(0x101);
    const EINVAL: i32 = rustix::io::Errno::INVAL.raw_os_error();

    impl Speak for &Card {
        fn ifindex(&self) -> u32 {
            7
        }

        fn is_agent(&self) -> bool {
            false
        }

        fn exchange(&self, kind: u16, payload: &[u8], _: Duration) -> io::Result<Option<Vec<u8>>> {
            if kind == RTM_SETLINK {
                if payload.len() > self.most_bytes {
                    return Err(io::Error::from_raw_os_error(EINVAL));
                }
                // The request is the last attribute but for its padding.
                let request = payload[payload.len() - 4];
                self.done.borrow_mut().push(format!("request {request}"));
                return Ok(None);
            }
            let mut words = self.words.borrow_mut();
            let word = if words.len() > 1 {
                words.remove(0)
            } else {
                words[0]
            };
            Ok(Some(super::super::netlink::port_answer(self.vf, word)))
        }

        fn set_up(&self, up: bool) -> Result<(), HostError> {
            self.done.borrow_mut().push(format!("up {up}"));
            Ok(())
        }
    }

    /// What came of it, and what was done to the card meanwhile.
    fn carry_out(card: &Card, action: PortAction) -> (Result<(), HostError>, Vec<String>) {
        let conversation = Conversation {
            wire: card,
            patience: PortPatience {
                interval: Duration::ZERO,
                limit: Duration::from_millis(20),
            },
            link: "eth0".parse().unwrap(),
            port: Port::Card {
                vf: card.vf,
                profile: String::from("finance"),
                guest: Uuid::from_u128(1),
                host: Uuid::from_u128(2),
            },
        };
        let mac = MacAddress::new([0x52, 0x54, 0, 1, 2, 3]);
        let outcome = conversation.carry_out(action, mac);
        (outcome, card.done.take())
    }

    fn card(vf: Option<u16>, words: &[Option<u16>]) -> Card {
        Card {
            vf,
            most_bytes: usize::MAX,
            words: RefCell::new(words.to_vec()),
            done: RefCell::default(),
        }
    }

    #[test]
    fn a_cards_own_link_follows_its_association() {
        let (outcome, done) =
            carry_out(&card(None, &[IN_PROGRESS, Some(0)]), PortAction::Associate);
        outcome.unwrap();
        assert_eq!(done, ["request 2", "up true"]);
        let (outcome, done) = carry_out(&card(None, &[Some(0)]), PortAction::PreAssociate);
        outcome.unwrap();
        assert_eq!(done, ["request 1"]);
        let (outcome, done) = carry_out(&card(None, &[None]), PortAction::Disassociate);
        outcome.unwrap();
        assert_eq!(done, ["up false", "request 3"]);
        let (outcome, done) = carry_out(&card(Some(3), &[Some(0)]), PortAction::Associate);
        outcome.unwrap();
        assert_eq!(done, ["request 2"], "a VF's port leaves the PF alone");
    }

    #[test]
    fn an_association_that_is_never_confirmed_is_given_up() {
        for action in [PortAction::Associate, PortAction::PreAssociate] {
            let (outcome, done) = carry_out(&card(Some(3), &[IN_PROGRESS]), action);
            let error = outcome.unwrap_err();
            assert_eq!(
                error.to_string(),
                "the port profile of 'eth0' was refused: the switch gave no answer within 0.02 s"
            );
            assert_eq!(done.last().map(String::as_str), Some("request 3"));
        }
        let (outcome, done) = carry_out(&card(Some(3), &[IN_PROGRESS]), PortAction::Disassociate);
        outcome.unwrap_err();
        assert_eq!(done, ["request 3"], "once is enough");
    }

    #[test]
    fn a_refused_profile_leaves_the_link_down() {
        let (outcome, done) = carry_out(&card(None, &[Some(0x102)]), PortAction::Associate);
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("does not know that port profile"), "{error}");
        assert_eq!(done, ["request 2"]);
    }

    #[test]
    fn a_kernel_that_takes_no_mac_for_a_cards_own_port_gets_none() {
        let mut own = card(None, &[Some(0)]);
        own.most_bytes = 130;
        let (outcome, done) = carry_out(&own, PortAction::Associate);
        outcome.unwrap();
        assert_eq!(done, ["request 2", "up true"]);
        let mut of_vf = card(Some(3), &[Some(0)]);
        of_vf.most_bytes = 130;
        let (outcome, _) = carry_out(&of_vf, PortAction::Associate);
        assert_eq!(outcome.unwrap_err().errno(), Some(EINVAL));
    }

    #[test]
    fn a_driver_that_tells_nothing_of_a_port_has_no_port_profiles() {
        let (outcome, _) = carry_out(&card(Some(3), &[None]), PortAction::Associate);
        assert!(matches!(outcome, Err(HostError::Unsupported { .. })));
    }
}
