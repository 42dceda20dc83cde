//! Two hundred clients that may change nothing, and what they can do to those that may.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rpc::frame::{Header, Kind, Status, frame};
use rpc::*;

use crate::harness::*;

/// Readers of each kind.
const EACH: usize = 50;
/// What a daemon may have in memory while they are there, in kB.
const MEMORY_MAX: u64 = 128 * 1024;

fn encoded<P: Procedure>(serial: u32, args: &P) -> Vec<u8> {
    let header = Header {
        program: P::INFO.program.number(),
        version: 1,
        procedure: P::INFO.number,
        kind: Kind::Call,
        serial,
        status: Status::Ok,
    };
    frame(&header, |w| args.encode(w)).unwrap()
}

fn open() -> Vec<u8> {
    let name = None;
    let flags = flags::Open::READ_ONLY;
    encoded(0, &ConnectOpen { name, flags })
}

/// A client that sends the same again and again, as fast as it is taken.
struct Attacker {
    socket: UnixStream,
    /// What it sends once.
    first: Vec<u8>,
    /// What it sends after that, without end.
    then: Vec<u8>,
    sent: usize,
    reads: bool,
}

impl Attacker {
    fn new(socket: &Path, first: Vec<u8>, then: Vec<u8>, reads: bool) -> Attacker {
        let socket = UnixStream::connect(socket).unwrap();
        socket.set_nonblocking(true).unwrap();
        Attacker {
            socket,
            first,
            then,
            sent: 0,
            reads,
        }
    }

    /// Sends and reads once. Whether the daemon still has it.
    fn go_on(&mut self) -> bool {
        let left = if self.sent < self.first.len() {
            &self.first[self.sent..]
        } else if self.then.is_empty() {
            &[]
        } else {
            &self.then[(self.sent - self.first.len()) % self.then.len()..]
        };
        let mut alive = match self.socket.write(left) {
            Ok(count) => {
                self.sent += count;
                true
            }
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        };
        if self.reads {
            let read = self.socket.read(&mut [0; 64 * 1024]);
            alive &= !matches!(read, Ok(0));
        }
        alive
    }
}

/// The readers, each of them back as soon as it is cut off, until `over`.
fn attack(root: &Root, over: &AtomicBool) {
    let disks: String = (0..1000)
        .map(|n| format!("<disk type='file'><source file='/d{n}'/><target dev='vd{n}'/></disk>"))
        .collect();
    let plan = VirtnicPlan {
        of: PlanOf::Document(guest_xml("large", &disks)),
    };
    let subscribe = ConnectNetworkEventRegisterAny {
        event_id: 0,
        net: None,
    };
    let list = ConnectListAllNetworks {
        need_results: true,
        flags: flags::ListNetworks::NONE,
    };
    let half = |opened: Vec<u8>| {
        let mut bytes = encoded(1, &plan);
        bytes.resize(200 * 1024, b' ');
        bytes[..4].copy_from_slice(&(255 * 1024_u32).to_be_bytes());
        [opened, bytes].concat()
    };
    let (reader, writer) = (root.read_only_socket(), root.socket());
    let make = |kind: usize| match kind {
        0 => Attacker::new(&reader, half(open()), Vec::new(), false),
        1 => Attacker::new(&writer, half(Vec::new()), Vec::new(), false),
        2 => {
            let first = [open(), encoded(1, &subscribe).repeat(4096)].concat();
            Attacker::new(&reader, first, encoded(2, &list), false)
        }
        3 => Attacker::new(&reader, open(), encoded(1, &plan), false),
        _ => Attacker::new(&reader, open(), encoded(1, &list), true),
    };
    let mut crowd: Vec<(usize, Attacker)> = (0..4 * EACH)
        .map(|number| (number % 5, make(number % 5)))
        .collect();
    while !over.load(Ordering::Relaxed) {
        for (kind, attacker) in &mut crowd {
            if !attacker.go_on() {
                *attacker = make(*kind);
            }
        }
        std::thread::yield_now();
    }
}

/// The most memory that a process ever had, in kB.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let number = line.unwrap().split_whitespace().nth(1).unwrap();
    number.parse().unwrap()
}

#[tokio::test]
async fn two_hundred_hostile_readers_take_little_and_hold_no_writer_up() {
    let root = Arc::new(Root::new());
    let daemon = root.start_on("pfs=2,vfs=400");
    let mut client = root.client().await;
    client.listen().await;
    client.running_network("n1", "sim0").await;
    client.hears(&["n1 Defined", "n1 Started"]).await;

    let over = Arc::new(AtomicBool::new(false));
    let readers = std::thread::spawn({
        let (root, over) = (Arc::clone(&root), Arc::clone(&over));
        move || attack(&root, &over)
    });
    for round in 0..60 {
        let name = format!("n{round}-hostile");
        let net = client.define_network(&network_xml(&name, "sim1")).await;
        client.ok(NetworkCreate { net: net.clone() }).await;
        assert_eq!(client.network_names(0).await.len(), 2);
        client.ok(NetworkDestroy { net: net.clone() }).await;
        client.ok(NetworkUndefine { net }).await;
        let heard = ["Defined", "Started", "Stopped", "Undefined"];
        let heard = heard.map(|what| format!("{name} {what}"));
        client.hears(&heard.each_ref().map(String::as_str)).await;
    }
    let peak = peak(daemon.pid());
    over.store(true, Ordering::Relaxed);
    readers.join().unwrap();
    assert!(peak < MEMORY_MAX, "the daemon had {peak} kB");
    // When they are gone, a reader is served as ever.
    let reader = root.read_only_client().await;
    assert_eq!(reader.network_names(0).await, ["n1"]);
}
