//! Guests without a QEMU, for tests and for simulated hosts.
//!
//! A simulated guest is a process and a monitor that exist in memory: it says in QMP what QEMU
//! would say. All that is above, from the command line to the events, is the same as for a real
//! guest. It outlives whoever started it as long as its [`SimulatedGuests`] are there, so several
//! daemons of one test can hand it over; and it fails as its [`Faults`] have it.

mod commands;
mod devices;
mod drives;
mod faults;
mod gate;
mod machine;
mod media;
mod migration;
mod monitor;
mod standby;

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use conf::{PciAddress, Uuid};
use host::{GuestGroup, MemoryLock};
use rustix::process::Signal;
use serde_json::{Map, Value};

pub use faults::{Answers, Faults, Unplug};
use gate::Gate;
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
    /// What they have open.
    gate: Arc<Gate>,
}

/// A refusal's class and words.
type Refusal = (&'static str, String);

/// What a simulated process is started with.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) uuid: Uuid,
    /// The group that it alone has.
    pub(crate) own_group: Option<GuestGroup>,
    pub(crate) command: CommandLine,
    /// The taps of its cards, by the id of the card's netdev.
    pub(crate) taps: BTreeMap<String, Vec<OwnedFd>>,
    /// How much memory it may lock; `None`: what any process may.
    pub(crate) memory_lock: Option<MemoryLock>,
    /// How much it has to, once it has a host device.
    pub(crate) memory: MemoryLock,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            boot_id: Uuid::new_v4().to_string(),
            started: AtomicU32::new(0),
            machines: Mutex::default(),
            faults: Mutex::default(),
            gate: Arc::default(),
        }
    }
}

/// A simulated guest, seen from inside and from beside.
///
/// It treats failover pairs as QEMU does (`hw/net/virtio-net.c`, `system/qdev-monitor.c`, from
/// `failover_hide_primary_device`, `failover_add_primary` and `virtio_net_set_features` as of QEMU 10):
///
/// - A virtio card with `failover` keeps the arguments of the first `device_add` that names it as
///   `failover_pair_id`, for as long as the card itself is there. A later one under the same id
///   doesn't change them, whatever host address it has; one under another id is refused.
/// - Until the guest's driver has negotiated failover once, such a `device_add` succeeds and makes
///   nothing: no device is opened, and `device_del` doesn't find it. Afterwards it makes the device at
///   once, also while the guest starts anew. One that fails then is kept all the same.
/// - Each time that the driver negotiates, at each start of the guest, `FAILOVER_NEGOTIATED` is told,
///   and if the card has no primary one is made with the arguments that are kept: the *first* host
///   address, whoever has that device by then. Only if this fails are they forgotten.
/// - `device_del` and `DEVICE_DELETED` forget nothing.
///
/// A guest that starts anew also lets go what it was asked for before (`hw/acpi/pcihp.c`).
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

    /// Which guest may open which host device from now on: asked whenever one opens one, at its start,
    /// when a device is plugged in, and when QEMU plugs one in that it remembers. `Err` is what the
    /// kernel says. No device is open twice in any case.
    pub fn set_opening_rule(
        &self,
        rule: impl Fn(Uuid, PciAddress) -> Result<(), String> + Send + Sync + 'static,
    ) {
        self.0.gate.set_rule(Arc::new(rule));
    }

    /// What the permissions of the host's nodes say of a process with that group of its own: whether it
    /// may open a device. Asked as [`Self::set_opening_rule`]'s is, and before it.
    pub fn set_permissions(
        &self,
        permissions: impl Fn(Option<GuestGroup>, PciAddress) -> Result<(), String>
        + Send
        + Sync
        + 'static,
    ) {
        self.0.gate.set_permissions(Arc::new(permissions));
    }

    /// Who is told from now on which host devices are open, each time that one is opened or closed. It must
    /// not ask about guests.
    pub fn set_open_listener(&self, listener: impl Fn(PciAddress, bool) + Send + Sync + 'static) {
        self.0.gate.set_listener(Arc::new(listener));
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

    /// Their daemon is killed, which shares a process with others: what the kernel does then to a guest that
    /// [stops with it](crate::Guest::stop_with_us) is done.
    pub fn daemon_ends(&self) {
        for machine in lock(&self.0.machines).values() {
            machine.stop_if_fastened();
        }
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
    pub(crate) fn start(&self, start: Start) -> Arc<Machine> {
        let number = self.0.started.fetch_add(1, Ordering::Relaxed);
        let pid = FIRST_PID.wrapping_add(number);
        let faults = lock(&self.0.faults).clone();
        let machine = Arc::new(Machine::new(pid, start, Arc::clone(&self.0.gate), faults));
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

    /// Faults that happen once and have not yet: 0 tells a test that its fault did happen.
    #[must_use]
    pub fn waiting_faults(&self) -> usize {
        let faults = self.0.faults();
        faults.refused_once.len() + faults.delayed_once.len() + faults.unanswered_once.len()
    }

    /// QEMU's own word for what it does.
    #[must_use]
    pub fn run_state(&self) -> RunState {
        self.0.status()
    }

    /// Whether its virtual CPUs run, and its process is not stopped.
    #[must_use]
    pub fn runs(&self) -> bool {
        let state = lock(&self.0.state);
        state.status == RunState::Running && !state.is_stopped
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

    /// The host's PCI functions that it has open.
    #[must_use]
    pub fn open_devices(&self) -> Vec<PciAddress> {
        self.0.gate.open_of(self.0.pid())
    }

    /// Whether it could open a function of the host's now, and if not what the kernel says. One that is open
    /// already is not minded.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn could_open(&self, device: PciAddress) -> Result<(), String> {
        self.0.gate.check(&self.0.opener(), device)
    }

    /// Whether it may open a function of the host's; at first it may open any. See also
    /// [`SimulatedGuests::set_opening_rule`].
    pub fn set_may_open(&self, device: PciAddress, may: bool) {
        self.0.gate.set_may_open(self.0.pid(), device, may);
    }

    /// The function that it would open for a failover pair's standby when the guest's driver
    /// negotiates: what QEMU remembers.
    #[must_use]
    pub fn remembered_primary(&self, standby: &str) -> Option<PciAddress> {
        self.0.remembered_primary(standby)
    }

    /// The group that its process has, and no other guest's.
    #[must_use]
    pub fn own_group(&self) -> Option<GuestGroup> {
        self.0.own_group()
    }

    /// Whether the guest's driver of a failover pair's standby has negotiated failover since it started.
    #[must_use]
    pub fn has_negotiated(&self, standby: &str) -> bool {
        self.0.has_negotiated(standby)
    }

    /// How much memory its process may lock; `None`: what any process may.
    #[must_use]
    pub fn memory_lock(&self) -> Option<MemoryLock> {
        self.0.memory_lock()
    }

    /// The names of its block nodes.
    #[must_use]
    pub fn nodes(&self) -> Vec<String> {
        self.0.nodes()
    }

    /// The numbers of its sets of descriptors.
    #[must_use]
    pub fn descriptor_sets(&self) -> Vec<u32> {
        self.0.descriptor_sets()
    }

    /// The node of the medium in a drive; `None`: it is empty, or there is no such drive.
    #[must_use]
    pub fn medium(&self, alias: &str) -> Option<String> {
        self.0.medium(alias)
    }

    /// Whether the cable of a network card is plugged in; `None`: there is no such device.
    #[must_use]
    pub fn link(&self, alias: &str) -> Option<bool> {
        self.0.link(alias)
    }

    /// Writes something into the guest's memory, which goes with the guest wherever that goes.
    pub fn remember(&self, what: &str) {
        lock(&self.0.state).memory = what.into();
    }

    /// What [`Self::remember`] wrote.
    #[must_use]
    pub fn remembered(&self) -> Option<String> {
        lock(&self.0.state).memory.as_str().map(str::to_owned)
    }

    /// How often its network cards told the network where they are.
    #[must_use]
    pub fn announcements(&self) -> u32 {
        lock(&self.0.state).migration.announced
    }

    /// Bytes a second that its migration may send; 0: no limit.
    #[must_use]
    pub fn migration_bandwidth(&self) -> u64 {
        self.0.migration_bandwidth()
    }

    /// It switches itself off.
    pub fn power_off(&self) {
        self.0.shut_down("guest-shutdown");
    }

    /// Its driver of a failover pair's standby negotiates failover, as it does at each of the guest's
    /// starts from then on.
    pub fn negotiate_failover(&self, standby: &str) {
        self.0.negotiate(standby);
    }

    /// The host's kernel asks for a device, as when its driver is to be unbound: QEMU asks the guest
    /// for it, unasked by us.
    pub fn ask_back(&self, alias: &str) {
        self.0.ask_for(alias);
    }

    /// The guest locks the tray of a drive, or no longer does; one that does, and is asked to open it,
    /// does not.
    pub fn lock_tray(&self, alias: &str, locked: bool) {
        self.0.lock_tray(alias, locked);
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
