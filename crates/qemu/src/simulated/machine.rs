//! The process of a simulated guest: what it has, and what happens to it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use conf::Uuid;
use rustix::process::Signal;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Answers, Faults, Unplug, lock, monitor};
use crate::qmp::Wire;
use crate::{CommandLine, ExitStatus, RunState};

/// A process that isn't one.
#[derive(Debug)]
pub(crate) struct Machine {
    pid: u32,
    uuid: Uuid,
    state: Mutex<State>,
    faults: watch::Sender<Faults>,
    exit: watch::Sender<Option<ExitStatus>>,
    /// Counts what its connection has to look after.
    changed: watch::Sender<u64>,
    /// When its monitor greets.
    ready_at: Instant,
}

#[derive(Debug)]
struct State {
    status: RunState,
    devices: BTreeMap<String, Device>,
    /// The host's sides of network cards.
    netdevs: BTreeSet<String>,
    /// Its taps, which go with it.
    taps: Vec<OwnedFd>,
    /// The names of descriptors that were handed over and that nothing took.
    descriptors: BTreeSet<String>,
    /// What it has said and nobody has heard.
    outbox: VecDeque<String>,
    /// The number of the connection that it serves; an older one is over.
    connection: u64,
}

#[derive(Debug)]
struct Device {
    link_is_up: bool,
    filter: Map<String, Value>,
    /// It told that its filter changed, and was not asked since.
    is_told: bool,
    leaving: Option<Leaving>,
}

/// When a device goes that it was asked for.
#[derive(Debug, Clone, Copy)]
enum Leaving {
    At(Instant),
    WhenReleased,
}

impl Machine {
    pub(super) fn new(
        pid: u32,
        uuid: Uuid,
        command: &CommandLine,
        taps: Vec<OwnedFd>,
        faults: Faults,
    ) -> Self {
        let options = || command.args.iter().zip(command.args.iter().skip(1));
        let values = |wanted: &'static str| {
            let values = options().filter(move |(option, _)| *option == wanted);
            values.filter_map(|(_, value)| serde_json::from_str::<Value>(value).ok())
        };
        let devices = values("-device").filter_map(|device| Device::of(&device));
        let netdevs = values("-netdev").filter_map(|netdev| id_of(&netdev));
        let ready_at = Instant::now() + faults.start_takes;
        let exit = faults
            .refuses_to_start
            .is_some()
            .then_some(ExitStatus::Code(1));
        Self {
            pid,
            uuid,
            state: Mutex::new(State {
                status: RunState::PreLaunch,
                taps: if exit.is_some() { Vec::new() } else { taps },
                devices: devices.collect(),
                netdevs: netdevs.collect(),
                descriptors: BTreeSet::new(),
                outbox: VecDeque::new(),
                connection: 0,
            }),
            faults: watch::Sender::new(faults),
            exit: watch::Sender::new(exit),
            changed: watch::Sender::new(0),
            ready_at,
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
        let number = {
            let mut state = lock(&self.state);
            state.connection += 1;
            // What it said while nobody was there is lost.
            state.outbox.clear();
            state.connection
        };
        self.wake();
        tokio::spawn(monitor::serve(Arc::clone(self), theirs, number));
        Ok(Wire::Simulated(ours))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let faults = self.faults.borrow().clone();
        match signal {
            Signal::TERM if !faults.ignores_sigterm => {
                self.say(
                    "SHUTDOWN",
                    json!({ "guest": false, "reason": "host-signal" }),
                );
                self.end(ExitStatus::Code(0));
            }
            Signal::KILL if !faults.ignores_sigkill => {
                self.end(ExitStatus::Signal(signal.as_raw()))
            }
            _ => {}
        }
    }

    /// What it printed before it ended at its start.
    pub(crate) fn last_words(&self) -> String {
        let faults = self.faults.borrow();
        faults.refuses_to_start.clone().unwrap_or_default()
    }

    pub(super) fn end(&self, status: ExitStatus) {
        drop(std::mem::take(&mut lock(&self.state).taps));
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

    pub(super) fn devices(&self) -> Vec<String> {
        lock(&self.state).devices.keys().cloned().collect()
    }

    pub(super) fn netdevs(&self) -> Vec<String> {
        lock(&self.state).netdevs.iter().cloned().collect()
    }

    pub(super) fn descriptors(&self) -> Vec<String> {
        lock(&self.state).descriptors.iter().cloned().collect()
    }

    pub(super) fn refuses(&self, command: &str) -> bool {
        let faults = self.faults.borrow();
        faults
            .refused_commands
            .iter()
            .any(|refused| refused == command)
    }

    /// Takes a descriptor, or gives it up; whether there was one to give up.
    pub(super) fn hold_descriptor(&self, name: &str, hold: bool) -> bool {
        let descriptors = &mut lock(&self.state).descriptors;
        if hold {
            descriptors.insert(name.to_owned())
        } else {
            descriptors.remove(name)
        }
    }

    /// Adds the host's side of a card, which takes its descriptors.
    pub(super) fn add_netdev(&self, arguments: &Value) {
        let mut state = lock(&self.state);
        for member in ["fd", "fds", "vhostfd", "vhostfds"] {
            let names = arguments[member].as_str().unwrap_or_default();
            for name in names.split(':') {
                state.descriptors.remove(name);
            }
        }
        state.netdevs.extend(id_of(arguments));
    }

    /// Whether there was one.
    pub(super) fn remove_netdev(&self, id: &str) -> bool {
        lock(&self.state).netdevs.remove(id)
    }

    pub(super) fn link(&self, alias: &str) -> Option<bool> {
        Some(lock(&self.state).devices.get(alias)?.link_is_up)
    }

    pub(super) fn set_link(&self, alias: &str, up: bool) -> bool {
        let mut state = lock(&self.state);
        let device = state.devices.get_mut(alias);
        device.map(|device| device.link_is_up = up).is_some()
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

    /// Plugs a device in; `false`: there is one of that name.
    pub(super) fn plug(&self, arguments: &Value) -> bool {
        let Some((alias, device)) = Device::of(arguments) else {
            return true; // without a name it is of no interest
        };
        let mut state = lock(&self.state);
        if state.devices.contains_key(&alias) {
            return false;
        }
        state.devices.insert(alias, device);
        true
    }

    /// Asks the guest to let a device go; `false`: there is none of that name.
    pub(super) fn unplug(&self, alias: &str) -> bool {
        let unplug = self.faults.borrow().unplug;
        let leaving = match unplug {
            Unplug::After(delay) => Some(Leaving::At(Instant::now() + delay)),
            Unplug::WhenReleased => Some(Leaving::WhenReleased),
            Unplug::AtOnce | Unplug::Refused | Unplug::Silently => None,
        };
        {
            let mut state = lock(&self.state);
            let Some(device) = state.devices.get_mut(alias) else {
                return false;
            };
            device.leaving = leaving;
            if unplug == Unplug::Silently {
                state.devices.remove(alias);
            }
        }
        match unplug {
            Unplug::AtOnce => self.let_go(alias),
            Unplug::Refused => self.say(
                "DEVICE_UNPLUG_GUEST_ERROR",
                json!({ "device": alias, "path": path_of(alias) }),
            ),
            Unplug::After(_) => self.wake(),
            Unplug::Silently | Unplug::WhenReleased => {}
        }
        true
    }

    pub(super) fn release(&self, alias: &str) {
        let waits = {
            let state = lock(&self.state);
            let device = state.devices.get(alias);
            device.is_some_and(|device| matches!(device.leaving, Some(Leaving::WhenReleased)))
        };
        if waits {
            self.let_go(alias);
        }
    }

    fn let_go(&self, alias: &str) {
        if lock(&self.state).devices.remove(alias).is_some() {
            let path = path_of(alias);
            // Parts without a name of their own go first.
            self.say(
                "DEVICE_DELETED",
                json!({ "path": format!("{path}/virtio-backend") }),
            );
            self.say("DEVICE_DELETED", json!({ "device": alias, "path": path }));
        }
    }

    /// Lets the devices go whose time has come, and says when the next one's comes.
    pub(super) fn let_due_go(&self) -> Option<Instant> {
        let now = Instant::now();
        let leaving: Vec<_> = {
            let state = lock(&self.state);
            let devices = state.devices.iter();
            let at = devices.filter_map(|(alias, device)| match device.leaving? {
                Leaving::At(at) => Some((alias.clone(), at)),
                Leaving::WhenReleased => None,
            });
            at.collect()
        };
        for (alias, _) in leaving.iter().filter(|(_, at)| *at <= now) {
            self.let_go(alias);
        }
        let later = leaving.iter().map(|(_, at)| *at).filter(|at| *at > now);
        later.min()
    }

    pub(super) fn change_filter(&self, alias: &str, members: &Map<String, Value>) {
        let is_news = {
            let mut state = lock(&self.state);
            let Some(device) = state.devices.get_mut(alias) else {
                return;
            };
            device.filter.extend(members.clone());
            !std::mem::replace(&mut device.is_told, true)
        };
        if is_news {
            let data = json!({ "name": alias, "path": path_of(alias) });
            self.say("NIC_RX_FILTER_CHANGED", data);
        }
    }

    /// The filters of all cards or of one; `None`: there is no such device.
    pub(super) fn filters(&self, alias: Option<&str>) -> Option<Vec<Value>> {
        let mut state = lock(&self.state);
        let mut found = Vec::new();
        for (name, device) in &mut state.devices {
            let is_card = device.filter.contains_key("main-mac");
            if alias.map_or(is_card, |alias| alias == name) {
                device.is_told = false;
                let mut filter = device.filter.clone();
                filter.insert("name".to_owned(), name.as_str().into());
                found.push(Value::Object(filter));
            }
        }
        (alias.is_none() || !found.is_empty()).then_some(found)
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
        // The sender is ours.
        let _ = talks.await;
    }

    pub(super) fn is_mute(&self) -> bool {
        self.faults.borrow().monitor == Answers::Never
    }

    /// Waits as long as it takes to answer.
    pub(super) async fn think(&self) {
        let answers = self.faults.borrow().monitor;
        if let Answers::After(delay) = answers {
            tokio::time::sleep(delay).await;
        }
    }

    fn wake(&self) {
        self.changed
            .send_modify(|count| *count = count.wrapping_add(1));
    }
}

impl Device {
    /// The name and the rest of a device, as `-device` and `device_add` have it.
    fn of(arguments: &Value) -> Option<(String, Self)> {
        let alias = id_of(arguments)?;
        let mut filter = Map::new();
        if let Some(mac) = arguments.get("mac") {
            filter.insert("main-mac".to_owned(), mac.clone());
        }
        let device = Self {
            link_is_up: true,
            filter,
            is_told: false,
            leaving: None,
        };
        Some((alias, device))
    }
}

fn id_of(arguments: &Value) -> Option<String> {
    Some(arguments.get("id")?.as_str()?.to_owned())
}

fn path_of(alias: &str) -> String {
    format!("/machine/peripheral/{alias}")
}
