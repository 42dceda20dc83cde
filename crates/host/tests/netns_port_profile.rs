//! Port profiles over real netlink, in a network namespace of each test's own, with a stand-in for
//! lldpad. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use conf::{MacAddress, Uuid};
use host::{
    Host, HostError, HostEvent, Links, LinuxHost, Paths, PortAction, PortPatience, PortProfile,
    PortRequest,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::thread::UnshareFlags;

const AGENT: u32 = 4711;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const HEADER: usize = 16;
const LINK_HEADER: usize = 16;

const IN_PROGRESS: u16 = 0x101;
const SHORT: Duration = Duration::from_millis(100);
const INSTANCE: Uuid = Uuid::from_u128(0x09b11c53_8b5c_4eeb_8f00_d84eaa0aaa4f);

/// Runs a test on a thread with a network namespace of its own. There is `left`, which is connected, and `over`, a macvtap on it; the directory is that of pid files.
fn in_namespace(test: impl FnOnce(&LinuxHost, &Path) + Send + 'static) {
    in_namespace_for(Duration::from_secs(10), test);
}

/// The same, with that much patience for the switch.
fn in_namespace_for(limit: Duration, test: impl FnOnce(&LinuxHost, &Path) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        let run = tempfile::tempdir().unwrap();
        #[expect(deprecated, reason = "the safe form; no descriptor table is unshared")]
        rustix::thread::unshare(UnshareFlags::NEWNET).expect("network namespaces need root");
        ip("link add left type veth peer name right");
        ip("link add link left name over type macvtap mode vepa");
        let patience = PortPatience {
            interval: Duration::from_millis(2),
            limit,
        };
        let paths = Paths {
            run: run.path().to_owned(),
            ..Paths::default()
        };
        let host = LinuxHost::new(paths).with_port_patience(patience);
        test(&host, run.path());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {said}");
}

fn mac() -> MacAddress {
    MacAddress::new([0x52, 0x54, 0, 1, 2, 3])
}

fn vsi(action: PortAction) -> PortRequest {
    PortRequest {
        action,
        mac: mac(),
        profile: PortProfile::Qbg {
            link: "over".parse().unwrap(),
            manager_id: 11,
            type_id: 0x0a0b0c,
            type_id_version: 2,
            instance_id: INSTANCE,
        },
    }
}

fn card(vf: Option<u16>, action: PortAction) -> PortRequest {
    PortRequest {
        action,
        mac: mac(),
        profile: PortProfile::Qbh {
            link: "left".parse().unwrap(),
            vf,
            profile_id: String::from("finance"),
            guest: Uuid::from_u128(1),
            host: Uuid::from_u128(2),
        },
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = (value.len() as u16 + 4).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (HEADER as u32 + payload.len() as u32)
        .to_ne_bytes()
        .to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.resize(HEADER, 0);
    bytes.extend(payload);
    bytes
}

/// A request as the agent got it.
#[derive(Debug)]
struct Heard {
    kind: u16,
    /// The netlink port to which news should go.
    port: u32,
    payload: Vec<u8>,
}

/// What the agent answers.
#[derive(Debug, Clone)]
struct Script {
    /// To an RTM_SETLINK: an error number, 0 for none.
    errno: i32,
    /// To the RTM_GETLINKs, one after the other, the last one from then on; `None`: it does not
    /// mention the instance.
    responses: Vec<Option<u16>>,
    /// The type of these answers: lldpad's has not always been the same.
    kind: u16,
}

impl Script {
    fn of(responses: &[Option<u16>]) -> Self {
        Self {
            errno: 0,
            responses: responses.to_vec(),
            kind: RTM_NEWLINK,
        }
    }
}

/// An agent in the thread's namespace, known by its pid file. It ends with the test.
fn agent(run: &Path, script: Script) -> (Socket, Receiver<Heard>) {
    let mut socket = Socket::new(NETLINK_ROUTE).unwrap();
    socket.bind(&SocketAddr::new(AGENT, 0)).unwrap();
    // As lldpad itself writes it.
    std::fs::write(run.join("lldpad.pid"), format!("{AGENT}\n\0\0\0")).unwrap();
    let news = Socket::new(NETLINK_ROUTE).unwrap();
    let (tell, heard) = channel();
    std::thread::spawn(move || {
        let mut responses = script.responses.iter().copied().peekable();
        let mut last = None;
        loop {
            let mut buffer = Vec::with_capacity(4096);
            let (_, sender) = socket.recv_from(&mut buffer, 0).unwrap();
            let number = |at: usize| u32::from_ne_bytes(buffer[at..at + 4].try_into().unwrap());
            let kind = u16::from_ne_bytes([buffer[4], buffer[5]]);
            let answer = match kind {
                RTM_SETLINK => message(NLMSG_ERROR, &{
                    let mut payload = (-script.errno).to_ne_bytes().to_vec();
                    payload.extend(&buffer[..HEADER]);
                    payload
                }),
                _ => {
                    last = responses.next().unwrap_or(last);
                    let instance = if last.is_some() {
                        INSTANCE
                    } else {
                        Uuid::nil()
                    };
                    let port = [
                        attribute(4, instance.as_bytes()),
                        attribute(7, &last.unwrap_or(0).to_ne_bytes()),
                    ];
                    let mut payload = vec![0; LINK_HEADER];
                    payload.extend(attribute(24, &attribute(1, &port.concat())));
                    message(script.kind, &payload)
                }
            };
            let heard = Heard {
                kind,
                port: number(12),
                payload: buffer[HEADER..].to_vec(),
            };
            if tell.send(heard).is_err() {
                return;
            }
            socket.send_to(&answer, &sender, 0).unwrap();
        }
    });
    (news, heard)
}

/// How often the agent was asked what became of a request.
fn questions(heard: &Receiver<Heard>) -> usize {
    let all = heard.try_iter();
    all.filter(|heard| heard.kind == RTM_GETLINK).count()
}

fn refusal(host: &LinuxHost, request: &PortRequest) -> String {
    match host.port_profile(request) {
        Err(HostError::PortProfile { link, reason }) => {
            assert_eq!(link, request.profile.link().to_string());
            reason
        }
        other => panic!("{other:?}"),
    }
}

fn unsupported(host: &LinuxHost, request: &PortRequest) -> String {
    match host.port_profile(request) {
        Err(HostError::Unsupported { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_association_is_awaited() {
    for kind in [RTM_NEWLINK, NLMSG_DONE] {
        in_namespace(move |host, run| {
            let mut script = Script::of(&[None, Some(IN_PROGRESS), Some(IN_PROGRESS), Some(0)]);
            script.kind = kind;
            let (_news, heard) = agent(run, script);
            host.port_profile(&vsi(PortAction::Associate)).unwrap();
            let request = heard.recv().unwrap();
            assert_eq!(request.kind, RTM_SETLINK);
            let has = |bytes: &[u8]| {
                let mut parts = request.payload.windows(bytes.len());
                parts.any(|part| part == bytes)
            };
            assert!(has(b"left\0"), "the lowest device is named");
            assert!(has(&attribute(4, INSTANCE.as_bytes())));
            assert!(has(&attribute(6, &[2])), "associate");
            assert_eq!(questions(&heard), 4);
        });
    }
}

#[test]
fn a_refusal_is_told_with_its_reason() {
    in_namespace(|host, run| {
        let (_news, _heard) = agent(run, Script::of(&[Some(IN_PROGRESS), Some(4)]));
        let reason = refusal(host, &vsi(PortAction::Associate));
        assert_eq!(reason, "that VSI type is not allowed there (code 4)");
    });
}

#[test]
fn a_switch_that_never_answers_is_not_waited_for_without_end() {
    in_namespace_for(SHORT, |host, run| {
        let (_news, heard) = agent(run, Script::of(&[Some(IN_PROGRESS)]));
        let reason = refusal(host, &vsi(PortAction::PreAssociate));
        assert_eq!(reason, "the switch gave no answer within 0.1 s");
        assert!(questions(&heard) >= 2);
    });
}

#[test]
fn what_the_agent_gave_up_is_not_waited_for() {
    in_namespace(|host, run| {
        let (_news, heard) = agent(run, Script::of(&[Some(IN_PROGRESS), None]));
        let reason = refusal(host, &vsi(PortAction::Associate));
        assert!(reason.contains("lldpad gave it up"), "{reason}");
        assert_eq!(questions(&heard), 2);
    });
}

#[test]
fn an_agent_that_refuses_keeps_its_number() {
    in_namespace(|host, run| {
        let mut script = Script::of(&[Some(0)]);
        script.errno = 22;
        let (_news, heard) = agent(run, script);
        let error = host.port_profile(&vsi(PortAction::Associate)).unwrap_err();
        assert_eq!(error.errno(), Some(22));
        assert_eq!(error.to_string(), "asking for the port profile of 'over'");
        assert_eq!(questions(&heard), 0);
    });
}

#[test]
fn the_end_of_an_association_is_there_once_nobody_knows_of_it() {
    in_namespace(|host, run| {
        let (_news, heard) = agent(run, Script::of(&[Some(IN_PROGRESS), None]));
        host.port_profile(&vsi(PortAction::Disassociate)).unwrap();
        assert_eq!(questions(&heard), 2);
    });
}

#[test]
fn another_association_does_not_wait() {
    in_namespace(|host, run| {
        let (_news, heard) = agent(run, Script::of(&[Some(4)]));
        host.port_profile(&vsi(PortAction::AssociateAgain)).unwrap();
        assert_eq!(heard.recv().unwrap().kind, RTM_SETLINK);
        assert_eq!(questions(&heard), 0);
    });
}

#[test]
fn an_agent_that_is_not_there_is_named() {
    in_namespace(|host, run| {
        let reason = unsupported(host, &vsi(PortAction::Associate));
        assert!(
            reason.contains("lldpad") && reason.contains("start it"),
            "{reason}"
        );
        std::fs::write(run.join("lldpad.pid"), "nonsense").unwrap();
        let reason = unsupported(host, &vsi(PortAction::Associate));
        assert!(reason.contains("holds no process id"), "{reason}");
        // It was there once.
        std::fs::write(run.join("lldpad.pid"), AGENT.to_string()).unwrap();
        let reason = unsupported(host, &vsi(PortAction::Associate));
        assert!(reason.contains("does not run any more"), "{reason}");
    });
}

/// The agent's answer is not awaited for ever either.
#[test]
fn an_agent_that_hangs_is_not_waited_for_without_end() {
    in_namespace_for(SHORT, |host, run| {
        let mut deaf = Socket::new(NETLINK_ROUTE).unwrap();
        deaf.bind(&SocketAddr::new(AGENT, 0)).unwrap();
        std::fs::write(run.join("lldpad.pid"), AGENT.to_string()).unwrap();
        let reason = refusal(host, &vsi(PortAction::Associate));
        assert_eq!(reason, "lldpad does not answer");
    });
}

#[test]
fn weakness_37_the_end_of_a_port_profile_is_told_by_guest_and_instance_in_every_mode() {
    in_namespace(|host, run| {
        let (news, heard) = agent(run, Script::of(&[Some(0)]));
        let mut events = host.watch().unwrap();
        host.port_profile(&vsi(PortAction::Associate)).unwrap();
        let port = heard.recv().unwrap().port;
        let mut told = vec![0; LINK_HEADER];
        let mut vf_mac = u32::MAX.to_ne_bytes().to_vec();
        vf_mac.extend(mac().bytes());
        vf_mac.resize(36, 0);
        told.extend(attribute(22, &attribute(1, &attribute(1, &vf_mac))));
        let parameters = [attribute(4, INSTANCE.as_bytes()), attribute(6, &[3])].concat();
        told.extend(attribute(24, &attribute(1, &parameters)));
        let ended = message(RTM_SETLINK, &told);
        // A stranger's word does not count, the agent's does.
        let stranger = SocketAddr::new(port, 0);
        news.send_to(&ended, &stranger, 0).unwrap();
        std::fs::remove_file(run.join("lldpad.pid")).unwrap();
        let mut other = Socket::new(NETLINK_ROUTE).unwrap();
        let own = other.bind_auto().unwrap().port_number();
        std::fs::write(run.join("virip.pid"), own.to_string()).unwrap();
        other.send_to(&ended, &SocketAddr::new(port, 0), 0).unwrap();
        let expected = HostEvent::PortDisassociated {
            mac: mac(),
            instance: Some(INSTANCE),
        };
        ip("link add last type veth peer name other");
        let mut ends = 0;
        loop {
            match events.next().unwrap() {
                event if event == expected => ends += 1,
                HostEvent::LinkChanged { netdev, .. } if netdev == "last" => break,
                _ => {}
            }
        }
        assert_eq!(ends, 1);
    });
}

#[test]
fn a_card_without_port_profiles_is_named() {
    in_namespace(|host, _| {
        for vf in [None, Some(0)] {
            for action in [PortAction::Associate, PortAction::Disassociate] {
                let reason = unsupported(host, &card(vf, action));
                assert!(reason.contains("802.1Qbh"), "{vf:?} {action:?}: {reason}");
            }
        }
        let mut request = card(None, PortAction::Associate);
        if let PortProfile::Qbh { link, .. } = &mut request.profile {
            *link = "nosuchdev".parse().unwrap();
        }
        let error = host.port_profile(&request).unwrap_err();
        assert!(matches!(error, HostError::NoNetdev(_)), "{error}");
    });
}
