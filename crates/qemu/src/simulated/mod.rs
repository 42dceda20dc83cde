//! Guests without a QEMU, for tests and for simulated hosts.
//!
//! A simulated guest is a process and a monitor that exist in memory: it says in QMP what QEMU
//! would say. All that is above, from the command line to the events, is the same as for a real
//! guest. It outlives whoever started it as long as its [`SimulatedGuests`] are there, so several
//! daemons of one test can hand it over; and it fails as its [`Faults`] have it.

mod faults;
mod machine;
mod monitor;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use conf::Uuid;
use rustix::process::Signal;
use serde_json::{Map, Value};

pub use faults::{Answers, Faults, Unplug};
pub(crate) use machine::Machine;

use crate::{CommandLine, ExitStatus, GuestRecord, RunState};

/// Greater than any number that the kernel gives to a process.
const FIRST_PID: u32 = 1 << 31;

/// All simulated guests of a host. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct SimulatedGuests(Arc<Host>);

#[derive(Debug)]
struct Host {
    /// Tells its guests from those of others.
    boot_id: String,
    started: AtomicU32,
    /// Those that run, by their process.
    machines: Mutex<HashMap<u32, Arc<Machine>>>,
    /// Of the guests that start from now on.
    faults: Mutex<Faults>,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            boot_id: Uuid::new_v4().to_string(),
            started: AtomicU32::new(0),
            machines: Mutex::default(),
            faults: Mutex::default(),
        }
    }
}

/// A simulated guest, seen from inside and from beside.
#[derive(Debug, Clone)]
pub struct SimulatedGuest(Arc<Machine>);

impl SimulatedGuests {
    /// A host without guests.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What fails of the guests that start from now on.
    pub fn set_faults(&self, faults: Faults) {
        *lock(&self.0.faults) = faults;
    }

    /// The guest with that identity, if it runs; of several the one that started last.
    #[must_use]
    pub fn guest(&self, uuid: Uuid) -> Option<SimulatedGuest> {
        let machines = lock(&self.0.machines);
        let its = machines.values().filter(|machine| machine.uuid() == uuid);
        its.filter(|machine| machine.exit().is_none())
            .max_by_key(|machine| machine.pid())
            .map(|machine| SimulatedGuest(Arc::clone(machine)))
    }

    /// Those that run, with the numbers of their processes.
    pub(crate) fn all(&self) -> Vec<(Uuid, u32)> {
        let machines = lock(&self.0.machines);
        let running = machines.values().filter(|machine| machine.exit().is_none());
        running
            .map(|machine| (machine.uuid(), machine.pid()))
            .collect()
    }

    /// How many run.
    #[must_use]
    pub fn running(&self) -> usize {
        let machines = lock(&self.0.machines);
        machines
            .values()
            .filter(|machine| machine.exit().is_none())
            .count()
    }

    /// Starts the process.
    pub(crate) fn start(
        &self,
        uuid: Uuid,
        command: &CommandLine,
        taps: Vec<OwnedFd>,
    ) -> Arc<Machine> {
        let number = self.0.started.fetch_add(1, Ordering::Relaxed);
        let pid = FIRST_PID.wrapping_add(number);
        let faults = lock(&self.0.faults).clone();
        let machine = Arc::new(Machine::new(pid, uuid, command, taps, faults));
        let mut machines = lock(&self.0.machines);
        machines.retain(|_, machine| machine.exit().is_none());
        machines.insert(pid, Arc::clone(&machine));
        machine
    }

    /// The process of a record, if it runs.
    pub(crate) fn find(&self, record: &GuestRecord) -> Option<Arc<Machine>> {
        let machines = lock(&self.0.machines);
        let machine = machines.get(&record.pid)?;
        (record.boot_id == self.0.boot_id && machine.exit().is_none()).then(|| Arc::clone(machine))
    }

    pub(crate) fn pid_of(&self, uuid: Uuid) -> Option<u32> {
        self.guest(uuid).map(|guest| guest.0.pid())
    }

    pub(crate) fn boot_id(&self) -> &str {
        &self.0.boot_id
    }

    /// Ends the guests with that identity.
    pub(crate) fn kill(&self, uuid: Uuid) {
        while let Some(guest) = self.guest(uuid) {
            guest.kill();
        }
    }
}

impl SimulatedGuest {
    /// What fails from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.0.set_faults(faults);
    }

    /// QEMU's own word for what it does.
    #[must_use]
    pub fn run_state(&self) -> RunState {
        self.0.status()
    }

    /// The aliases of the devices that it has.
    #[must_use]
    pub fn devices(&self) -> Vec<String> {
        self.0.devices()
    }

    /// The ids of the host's sides of its network cards.
    #[must_use]
    pub fn netdevs(&self) -> Vec<String> {
        self.0.netdevs()
    }

    /// The names of descriptors that were handed over to it and that nothing took.
    #[must_use]
    pub fn descriptors(&self) -> Vec<String> {
        self.0.descriptors()
    }

    /// Whether the cable of a network card is plugged in; `None`: there is no such device.
    #[must_use]
    pub fn link(&self, alias: &str) -> Option<bool> {
        self.0.link(alias)
    }

    /// It switches itself off.
    pub fn power_off(&self) {
        self.0.shut_down("guest-shutdown");
    }

    /// It starts anew, at its own wish.
    pub fn reboot(&self) {
        self.0.reset(true);
    }

    /// It panics.
    pub fn panic(&self) {
        self.0.panic();
    }

    /// A disk of it fails, and halts it.
    pub fn fail_disk(&self) {
        self.0.fail_disk();
    }

    /// Its process dies of itself, with that status.
    pub fn die(&self, code: i32) {
        self.0.end(ExitStatus::Code(code));
    }

    /// Its process is killed, whatever its faults are.
    pub fn kill(&self) {
        self.0.end(ExitStatus::Signal(Signal::KILL.as_raw()));
    }

    /// Its driver lets a device go that was asked for: see [`Unplug::WhenReleased`].
    pub fn release(&self, alias: &str) {
        self.0.release(alias);
    }

    /// Its driver changes what a card lets in: members of QEMU's `RxFilterInfo`, such as
    /// `main-mac` or `promiscuous`. As QEMU it tells of it once, until it is asked.
    pub fn change_filter(&self, alias: &str, members: &Map<String, Value>) {
        self.0.change_filter(alias, members);
    }

    /// QEMU says something unasked.
    pub fn say(&self, event: &str, data: Value) {
        self.0.say(event, data);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing panics while one is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
