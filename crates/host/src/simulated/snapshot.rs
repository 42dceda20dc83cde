//! The whole host at one moment, to compare.

use std::collections::{BTreeMap, BTreeSet};

use conf::PciAddress;

use super::SimulatedHost;
use super::state::Place;
use crate::VfState;

/// All VFs, and the plain devices, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// By address.
    pub devices: BTreeMap<PciAddress, DeviceSnapshot>,
}

/// One device at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceSnapshot {
    /// Its settings, where it is a VF.
    pub vf: Option<VfState>,
    /// Its driver.
    pub driver: Option<String>,
    /// Its `driver_override`.
    pub driver_override: Option<String>,
}

impl Snapshot {
    /// The devices that differ, each with what it was (`self`) and what it is (`later`).
    #[must_use]
    pub fn differences(&self, later: &Self) -> Vec<String> {
        let all: BTreeSet<_> = self.devices.keys().chain(later.devices.keys()).collect();
        let differing = all.into_iter().filter_map(|address| {
            let (before, after) = (self.devices.get(address), later.devices.get(address));
            (before != after).then(|| format!("{address}: was {before:?}, is {after:?}"))
        });
        differing.collect()
    }
}

impl SimulatedHost {
    /// All devices as they are now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut state = self.lock();
        let mut addresses: Vec<_> = (state.places.iter())
            .filter(|(_, place)| !matches!(place, Place::Pf(_)))
            .map(|(address, _)| *address)
            .collect();
        addresses.sort_unstable();
        let devices = addresses.into_iter().map(|address| {
            let vf = state.vf_state(address).ok();
            let binding = state.binding(address).ok().flatten().cloned();
            let binding = binding.unwrap_or_default();
            let device = DeviceSnapshot {
                vf,
                driver: binding.driver.map(Into::into),
                driver_override: binding.driver_override.map(Into::into),
            };
            (address, device)
        });
        Snapshot {
            devices: devices.collect(),
        }
    }
}
