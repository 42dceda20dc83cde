//! A whole host in memory, with chosen failures.
//!
//! It behaves as the emulated igb card was seen to: a VF's network device takes up the MAC that
//! the PF gave it only when its driver is bound anew, and makes one up where there is none.
//! [`Quirks`] are what drivers differ in.

mod control;
mod events;
mod fault;
mod inventory;
mod ipv6;
mod kernel;
mod link_rules;
mod links;
mod net;
mod nics;
mod pace;
mod qos;
mod shape;
mod snapshot;
mod state;
mod usb;
mod vlan;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use fault::{Effect, Fault, SimulatedCrash};
use pace::Pace;
pub use pace::{Frozen, Held};
pub use qos::PortAnswer;
pub use shape::{ParseShapeError, SimulatedShape};
pub use snapshot::{DeviceSnapshot, NetdevSnapshot, Snapshot};

use crate::{HostError, Operation};
use state::{State, Stop, Target};

const PF_DRIVER: &str = SimulatedHost::PF_DRIVER;
const VF_DRIVER: &str = SimulatedHost::VF_DRIVER;
const NIC_DRIVER: &str = SimulatedHost::NIC_DRIVER;

/// A host in memory: PFs `sim0`, `sim1` …, their VFs' network devices `sim0v0`, `sim0v1` ….
///
/// Clones are the same host, as several daemons one after the other see the same machine.
#[derive(Debug, Clone)]
pub struct SimulatedHost {
    state: Arc<Mutex<State>>,
    pace: Pace,
}

/// What drivers of PFs differ in. The default can do all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quirks {
    /// Takes an all-zero MAC as "none"; else EINVAL.
    pub zero_mac: bool,
    /// A VF's network device has the MAC that the PF gives at once, not only after a new bind.
    pub mac_at_once: bool,
    /// Sets 802.1ad; else EPROTONOSUPPORT.
    pub outer_vlan: bool,
    /// Sets link states; else EOPNOTSUPP, while the kernel tells "auto" all the same.
    pub link_state: bool,
    /// Sets and tells trust; else EOPNOTSUPP and silence.
    pub trust: bool,
    /// Sets and tells the RSS query; else EOPNOTSUPP and silence.
    pub rss_query: bool,
    /// Guarantees rates; else EINVAL.
    pub min_rate: bool,
    /// Sets rates while the PF has no carrier; else EINVAL.
    pub rate_without_link: bool,
    /// The VF's driver tells the PF its MAC: the PF then lists the one that the VF made up as if it
    /// had been given, and a VF bound while the PF is down does not hear of the one that it was
    /// given.
    pub mailbox: bool,
}

impl Default for Quirks {
    fn default() -> Self {
        Self {
            zero_mac: true,
            mac_at_once: false,
            outer_vlan: true,
            link_state: true,
            trust: true,
            rss_query: true,
            min_rate: true,
            rate_without_link: true,
            mailbox: false,
        }
    }
}

impl Quirks {
    /// As igb (Intel 82576) is.
    #[must_use]
    pub fn igb() -> Self {
        Self {
            outer_vlan: false,
            link_state: false,
            rss_query: false,
            min_rate: false,
            rate_without_link: false,
            mailbox: true,
            ..Self::default()
        }
    }
}

impl SimulatedHost {
    /// The driver of simulated PFs.
    pub const PF_DRIVER: &str = "simpf";
    /// The ordinary driver of simulated VFs; it makes a network device.
    pub const VF_DRIVER: &str = "simvf";

    /// The process that has the vfio groups open of [`Self::hold_vfio`].
    pub const GUEST_PROCESS: u32 = 4711;

    /// The driver of simulated NICs without VFs.
    pub const NIC_DRIVER: &str = "simnic";

    /// A host of that shape: PFs up, VFs on their ordinary driver, each in an IOMMU group of its
    /// own.
    #[must_use]
    pub fn new(shape: SimulatedShape) -> Self {
        Self {
            state: Arc::new(Mutex::new(State::new(shape))),
            pace: Pace::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A crash test unwinds through here on purpose; the state stays whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One call of the kernel: crashes and faults first, then what it does. `carry_out` hears
    /// whether a fault lets it happen in part.
    fn call<T>(
        &self,
        operation: Operation,
        target: impl Into<Target>,
        carry_out: impl FnOnce(&mut State, bool) -> Result<T, Stop>,
    ) -> Result<T, HostError> {
        self.pace.wait(operation);
        let target = target.into();
        let mut state = self.lock();
        state.close_unused_taps();
        let outcome = if state.crashed {
            Err(Stop::Crash)
        } else {
            let pci = state.pci_of(target);
            match state.faults.check(operation, pci) {
                None => carry_out(&mut state, false),
                Some(hit) => {
                    let refusal = state.kernel(operation, target, hit.errno);
                    match hit.partial.then(|| carry_out(&mut state, true)) {
                        Some(Err(Stop::Crash)) => Err(Stop::Crash),
                        _ => Err(Stop::Error(refusal)),
                    }
                }
            }
        };
        match outcome {
            Ok(value) => Ok(value),
            Err(Stop::Error(error)) => Err(error),
            // A second panic would abort: what runs during the first one gets an error.
            Err(Stop::Crash) if std::thread::panicking() => {
                Err(state.kernel(operation, target, ESHUTDOWN))
            }
            Err(Stop::Crash) => {
                drop(state);
                self.pace.freeze();
                std::panic::resume_unwind(Box::new(SimulatedCrash))
            }
        }
    }
}

const ESHUTDOWN: i32 = rustix::io::Errno::SHUTDOWN.raw_os_error();
