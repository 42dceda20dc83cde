//! The process of a simulated guest: what it has, and what happens to it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use conf::Uuid;
use host::{GuestGroup, MemoryLock};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::devices::{Device, id_of};
use super::drives::Drives;
use super::gate::{Gate, Opener};
use super::migration::Migration;
use super::standby::Standby;
use super::{Answers, Faults, Refusal, Start, lock, monitor};
use crate::qmp::{Descriptors, Wire};
use crate::{ExitStatus, RunState};

/// A process that isn't one.
#[derive(Debug)]
pub(crate) struct Machine {
    pid: u32,
    uuid: Uuid,
    /// The group that it alone has.
    own_group: Option<GuestGroup>,
    pub(super) state: Mutex<State>,
    pub(super) gate: Arc<Gate>,
    /// How much it has to lock once it has a host device.
    memory: MemoryLock,
    /// What it printed before it ended at its start.
    last_words: String,
    faults: watch::Sender<Faults>,
    exit: watch::Sender<Option<ExitStatus>>,
    /// Counts what its connection has to look after.
    changed: watch::Sender<u64>,
    /// When its monitor greets.
    ready_at: Instant,
    /// Held for one command: the next is not begun before, whoever sent it.
    turn: Mutex<()>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) status: RunState,
    pub(super) devices: BTreeMap<String, Device>,
    /// The host's sides of network cards, with their taps, which go with them.
    pub(super) netdevs: BTreeMap<String, Vec<OwnedFd>>,
    /// Descriptors that were handed over and that nothing took, by name.
    descriptors: BTreeMap<String, Option<OwnedFd>>,
    /// Virtio cards that are the standby of a failover pair.
    pub(super) standbys: BTreeMap<String, Standby>,
    pub(super) drives: Drives,
    pub(super) migration: Migration,
    /// What its memory holds: something that a test has put there.
    pub(super) memory: Value,
    /// How much its process may lock; `None`: what any process may, which is not enough.
    memory_lock: Option<MemoryLock>,
    /// Its process stops when its daemon ends.
    is_fastened: bool,
    /// Its process is stopped, as by SIGSTOP.
    pub(super) is_stopped: bool,
    /// What it has said and nobody has heard.
    outbox: VecDeque<String>,
    /// The number of the connection that it serves; an older one is over.
    connection: u64,
}

impl Machine {
    pub(super) fn new(pid: u32, start: Start, gate: Arc<Gate>, faults: Faults) -> Self {
        let Start {
            uuid,
            own_group,
            command,
            mut taps,
            memory_lock,
            memory,
        } = start;
        let options = || command.args.iter().zip(command.args.iter().skip(1));
        let texts = |wanted: &'static str| {
            let values = options().filter(move |(option, _)| *option == wanted);
            values.map(|(_, value)| value)
        };
        let values = |wanted: &'static str| {
            let values = texts(wanted);
            values.filter_map(|value| serde_json::from_str::<Value>(value).ok())
        };
        let opener = Opener {
            pid,
            uuid,
            own_group,
        };
        let is_incoming = texts("-incoming").next().is_some();
        let mut state = State {
            status: if is_incoming {
                RunState::InMigrate
            } else {
                RunState::PreLaunch
            },
            devices: BTreeMap::new(),
            netdevs: BTreeMap::new(),
            descriptors: BTreeMap::new(),
            standbys: BTreeMap::new(),
            drives: Drives::default(),
            migration: Migration::default(),
            memory: Value::Null,
            memory_lock,
            is_fastened: false,
            is_stopped: false,
            outbox: VecDeque::new(),
            connection: 0,
        };
        for netdev in values("-netdev").filter_map(|netdev| id_of(&netdev)) {
            let fds = taps.remove(&netdev).unwrap_or_default();
            state.netdevs.insert(netdev, fds);
        }
        texts("-add-fd").for_each(|option| state.drives.add_at_start(option));
        let mut last_words = faults.refuses_to_start.clone();
        for node in values("-blockdev") {
            if let Err((_, text)) = state.drives.add_node(&node) {
                last_words.get_or_insert(text);
            }
        }
        for arguments in values("-device") {
            let Some((alias, device)) = Device::of(&arguments) else {
                continue;
            };
            if state.hides(&arguments).unwrap_or_default() {
                continue;
            }
            if let Some(host) = device.host
                && last_words.is_none()
                && let Err(text) = gate.open(&opener, host)
            {
                last_words = Some(format!("vfio {host}: failed to open its group: {text}"));
            }
            state.add_device(alias, device);
        }
        let exit = last_words.is_some().then_some(ExitStatus::Code(1));
        if exit.is_some() {
            state.netdevs.clear();
            gate.close_all(pid);
        }
        let ready_at = Instant::now() + faults.start_takes;
        Self {
            pid,
            uuid,
            own_group,
            state: Mutex::new(state),
            gate,
            memory,
            last_words: last_words.unwrap_or_default(),
            faults: watch::Sender::new(faults),
            exit: watch::Sender::new(exit),
            changed: watch::Sender::new(0),
            ready_at,
            turn: Mutex::new(()),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn start_time(&self) -> u64 {
        self.pid.into()
    }

    pub(super) fn uuid(&self) -> Uuid {
        self.uuid
    }

    pub(super) fn own_group(&self) -> Option<GuestGroup> {
        self.own_group
    }

    /// What it opens host devices as.
    pub(super) fn opener(&self) -> Opener {
        Opener {
            pid: self.pid,
            uuid: self.uuid,
            own_group: self.own_group,
        }
    }

    pub(super) fn exit(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    pub(crate) async fn ended(&self) -> ExitStatus {
        let mut exit = self.exit.subscribe();
        let ended = exit.wait_for(Option::is_some).await;
        // The sender is ours.
        ended
            .ok()
            .and_then(|exit| *exit)
            .unwrap_or(ExitStatus::Code(0))
    }

    /// Connects to its monitor. As QEMU it serves one connection; here the newest.
    pub(crate) fn connect(self: &Arc<Self>) -> io::Result<Wire> {
        if self.exit().is_some() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let descriptors = Descriptors::default();
        let number = {
            let mut state = lock(&self.state);
            state.connection += 1;
            // What it said while nobody was there is lost.
            state.outbox.clear();
            state.connection
        };
        self.wake();
        let its = descriptors.clone();
        tokio::spawn(monitor::serve(Arc::clone(self), (theirs, its), number));
        Ok(Wire::Simulated(ours, descriptors))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let faults = self.faults.borrow().clone();
        match signal {
            Signal::TERM if lock(&self.state).is_stopped => {}
            Signal::TERM if !faults.ignores_sigterm => {
                self.say(
                    "SHUTDOWN",
                    json!({ "guest": false, "reason": "host-signal" }),
                );
                self.end(ExitStatus::Code(0));
            }
            Signal::STOP | Signal::CONT => {
                lock(&self.state).is_stopped = signal == Signal::STOP;
                self.wake();
            }
            Signal::KILL if !faults.ignores_sigkill => {
                self.end(ExitStatus::Signal(signal.as_raw()))
            }
            _ => {}
        }
    }

    /// What it printed before it ended at its start.
    pub(crate) fn last_words(&self) -> String {
        self.last_words.clone()
    }

    pub(super) fn end(&self, status: ExitStatus) {
        {
            let mut state = lock(&self.state);
            state.netdevs.clear();
            state.descriptors.clear();
            state.drives = Drives::default();
        }
        self.gate.close_all(self.pid);
        self.exit.send_if_modified(|exit| {
            let first = exit.is_none();
            exit.get_or_insert(status);
            first
        });
        self.wake();
    }

    pub(super) fn set_faults(&self, faults: Faults) {
        self.faults.send_replace(faults);
        self.wake();
    }

    pub(super) fn status(&self) -> RunState {
        lock(&self.state).status.clone()
    }

    pub(super) fn netdevs(&self) -> Vec<String> {
        lock(&self.state).netdevs.keys().cloned().collect()
    }

    pub(super) fn descriptors(&self) -> Vec<String> {
        lock(&self.state).descriptors.keys().cloned().collect()
    }

    pub(super) fn faults(&self) -> Faults {
        self.faults.borrow().clone()
    }

    /// Waits until its faults are so.
    pub(super) async fn faults_are(&self, so: impl Fn(&Faults) -> bool) {
        let mut faults = self.faults.subscribe();
        // The sender is ours.
        let _ = faults.wait_for(|faults| so(faults)).await;
    }

    /// Why a command is refused, if a fault has it so.
    pub(super) fn refuses(&self, command: &str) -> Option<Refusal> {
        let once = take(&self.faults, |faults| {
            let refused = &mut faults.refused_once;
            let place = refused.iter().position(|(_, refused)| refused == command)?;
            match refused[place].0.checked_sub(1) {
                Some(left) => {
                    refused[place].0 = left;
                    None
                }
                None => Some(refused.remove(place)),
            }
        });
        let faults = self.faults.borrow();
        let is_in = |commands: &[String]| commands.iter().any(|other| other == command);
        if is_in(&faults.unknown_commands) {
            let text = format!("The command {command} has not been found");
            return Some(("CommandNotFound", text));
        }
        let refused = once.is_some() || is_in(&faults.refused_commands);
        refused.then(|| ("GenericError", format!("'{command}' is refused by a fault")))
    }

    pub(crate) fn raise_memory_lock(&self, wanted: MemoryLock) -> io::Result<()> {
        let limit = &mut lock(&self.state).memory_lock;
        if limit.is_some_and(|limit| limit.covers(wanted)) {
            return Ok(());
        }
        if self.faults.borrow().keeps_memory_lock {
            return Err(rustix::io::Errno::PERM.into());
        }
        *limit = Some(wanted);
        Ok(())
    }

    pub(super) fn memory_lock(&self) -> Option<MemoryLock> {
        lock(&self.state).memory_lock
    }

    pub(super) fn may_lock_memory(&self) -> bool {
        self.memory_lock()
            .is_some_and(|limit| limit.covers(self.memory))
    }

    /// Takes a descriptor; one of the same name is closed.
    pub(super) fn take_descriptor(&self, name: &str, fd: Option<OwnedFd>) {
        lock(&self.state).descriptors.insert(name.to_owned(), fd);
    }

    /// Closes a descriptor that nothing took; whether there was one.
    pub(super) fn close_descriptor(&self, name: &str) -> bool {
        lock(&self.state).descriptors.remove(name).is_some()
    }

    /// Adds the host's side of a card, which takes its descriptors.
    pub(super) fn add_netdev(&self, arguments: &Value) -> Result<(), Refusal> {
        let refused = |text: String| ("GenericError", text);
        let mut state = lock(&self.state);
        let id = id_of(arguments).unwrap_or_default();
        if state.netdevs.contains_key(&id) {
            return Err(refused(format!("Duplicate ID '{id}' for netdev")));
        }
        let members = ["fd", "fds", "vhostfd", "vhostfds"];
        let named = members
            .iter()
            .filter_map(|member| arguments[*member].as_str());
        let mut taken = Vec::new();
        for name in named.flat_map(|names| names.split(':')) {
            let Some(fd) = state.descriptors.remove(name) else {
                let text = format!("File descriptor named '{name}' has not been found");
                return Err(refused(text));
            };
            taken.extend(fd);
        }
        state.netdevs.insert(id, taken);
        Ok(())
    }

    /// Whether there was one.
    pub(super) fn remove_netdev(&self, id: &str) -> bool {
        lock(&self.state).netdevs.remove(id).is_some()
    }

    pub(super) fn say(&self, event: &str, data: Value) {
        let time = json!({ "seconds": 1, "microseconds": 2 });
        let line = json!({ "event": event, "data": data, "timestamp": time });
        self.write(&line);
    }

    /// Adds a message to what its connection is to hear.
    pub(super) fn write(&self, message: &Value) {
        let line = format!("{message}\r\n");
        lock(&self.state).outbox.push_back(line);
        self.wake();
    }

    pub(super) fn run(&self) {
        lock(&self.state).status = RunState::Running;
        self.say("RESUME", json!({}));
    }

    pub(super) fn halt(&self, status: RunState) {
        lock(&self.state).status = status;
        self.say("STOP", json!({}));
    }

    pub(super) fn reset(&self, by_guest: bool) {
        self.say("RESET", json!({ "guest": by_guest }));
        self.start_drivers_anew();
    }

    pub(super) fn press_power_button(&self) {
        self.say("POWERDOWN", json!({}));
        if !self.faults.borrow().ignores_power_button {
            self.shut_down("guest-shutdown");
        }
    }

    pub(super) fn shut_down(&self, reason: &str) {
        self.say("SHUTDOWN", json!({ "guest": true, "reason": reason }));
        self.halt(RunState::Shutdown);
    }

    pub(super) fn panic(&self) {
        self.say("GUEST_PANICKED", json!({ "action": "pause" }));
        self.halt(RunState::GuestPanicked);
    }

    pub(super) fn fail_disk(&self) {
        self.say("BLOCK_IO_ERROR", json!({ "action": "stop" }));
        self.halt(RunState::IoError);
    }

    /// Carries a command of that connection out, if it still serves that: as QEMU does, which forgets those
    /// that it has not begun when a connection is closed.
    pub(super) fn in_turn(&self, connection: u64, command: impl FnOnce()) {
        let _turn = lock(&self.turn);
        if lock(&self.state).connection == connection {
            command();
        }
    }

    /// An answer, for whoever asked; nobody else hears it.
    pub(super) fn answer(&self, connection: u64, answer: &Value) {
        {
            let mut state = lock(&self.state);
            if state.connection != connection {
                return;
            }
            state.outbox.push_back(format!("{answer}\r\n"));
        }
        self.wake();
    }

    /// The next thing that this connection is to hear; `Err`: it is over.
    pub(super) fn next_line(&self, connection: u64) -> Result<Option<String>, ()> {
        let mut state = lock(&self.state);
        if state.connection != connection {
            return Err(());
        }
        Ok(state.outbox.pop_front())
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Waits until its monitor says anything at all.
    pub(super) async fn is_ready(&self) {
        tokio::time::sleep_until(self.ready_at).await;
        self.is_talking().await;
    }

    /// Waits until it isn't mute.
    pub(super) async fn is_talking(&self) {
        let mut faults = self.faults.subscribe();
        let talks = faults.wait_for(|faults| faults.monitor != Answers::Never);
        // The senders are ours.
        let _ = talks.await;
        let mut changes = self.changes();
        while lock(&self.state).is_stopped && changes.changed().await.is_ok() {}
    }

    pub(super) fn is_mute(&self) -> bool {
        self.faults.borrow().monitor == Answers::Never || lock(&self.state).is_stopped
    }

    /// It stops when its daemon is said to have ended, or no longer does.
    pub(crate) fn fasten(&self, fastened: bool) {
        lock(&self.state).is_fastened = fastened;
    }

    /// Its daemon has ended.
    pub(super) fn stop_if_fastened(&self) {
        if std::mem::take(&mut lock(&self.state).is_fastened) {
            self.signal(Signal::STOP);
        }
    }

    /// Waits as long as it takes to answer.
    pub(super) async fn think(&self, command: &str) {
        let answers = self.faults.borrow().monitor;
        if let Answers::After(delay) = answers {
            tokio::time::sleep(delay).await;
        }
        let once = take(&self.faults, |faults| {
            let mut delayed = faults.delayed_once.iter();
            let place = delayed.position(|(delayed, _)| delayed == command)?;
            Some(faults.delayed_once.remove(place))
        });
        if let Some((_, delay)) = once {
            tokio::time::sleep(delay).await;
        }
    }

    /// Whether a fault has a command carried out without an answer.
    pub(super) fn swallows(&self, command: &str) -> bool {
        let taken = take(&self.faults, |faults| {
            let mut unanswered = faults.unanswered_once.iter();
            let place = unanswered.position(|unanswered| unanswered == command)?;
            Some(faults.unanswered_once.remove(place))
        });
        taken.is_some()
    }

    pub(super) fn wake(&self) {
        self.changed
            .send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// Takes a fault that happens once.
fn take<T>(
    faults: &watch::Sender<Faults>,
    change: impl FnOnce(&mut Faults) -> Option<T>,
) -> Option<T> {
    let mut taken = None;
    faults.send_if_modified(|faults| {
        taken = change(faults);
        taken.is_some()
    });
    taken
}
