//! What a simulated guest remembers of failover pairs: as QEMU does, in `hw/net/virtio-net.c` as of
//! QEMU 10. See [`SimulatedGuest`](super::SimulatedGuest).

use serde_json::{Value, json};

use super::machine::{Machine, State};
use super::{Refusal, lock};

/// A virtio card with `failover`.
#[derive(Debug, Default)]
pub(super) struct Standby {
    /// The guest's driver has negotiated it since the guest started.
    has_driver: bool,
    /// It has at least once: from then on a primary is made at once.
    opens: bool,
    /// The arguments of the first `device_add` of a primary for it.
    primary: Option<Value>,
}

impl State {
    /// Whether a device is a primary that is only remembered; `Err`: it is one too many.
    pub(super) fn hides(&mut self, arguments: &Value) -> Result<bool, String> {
        let name = arguments["failover_pair_id"].as_str().unwrap_or_default();
        let Some(standby) = self.standbys.get_mut(name) else {
            return Ok(false);
        };
        let remembered = standby.primary.get_or_insert_with(|| arguments.clone());
        if remembered["id"] != arguments["id"] {
            let id = |arguments: &Value| arguments["id"].as_str().unwrap_or_default().to_owned();
            return Err(format!(
                "Cannot attach more than one primary device to '{name}': '{}' and '{}'",
                id(remembered),
                id(arguments)
            ));
        }
        Ok(!standby.opens)
    }
}

impl State {
    /// Standbys whose driver has negotiated failover.
    pub(super) fn negotiated(&self) -> Vec<String> {
        let standbys = self.standbys.iter();
        let negotiated = standbys.filter(|(_, standby)| standby.has_driver);
        negotiated.map(|(alias, _)| alias.clone()).collect()
    }
}

impl Machine {
    /// The guest's driver of a standby negotiates failover.
    pub(super) fn negotiate(&self, alias: &str) {
        if !lock(&self.state).standbys.contains_key(alias) {
            return;
        }
        self.say("FAILOVER_NEGOTIATED", json!({ "device-id": alias }));
        let primary = {
            let mut state = lock(&self.state);
            let is_there = {
                let mut devices = state.devices.values();
                devices.any(|device| device.standby.as_deref() == Some(alias))
            };
            let Some(standby) = state.standbys.get_mut(alias) else {
                return;
            };
            standby.has_driver = true;
            standby.opens = true;
            standby.primary.clone().filter(|_| !is_there)
        };
        if let Some(primary) = primary
            && self.realize(&primary).is_err()
            && let Some(standby) = lock(&self.state).standbys.get_mut(alias)
        {
            // It prints a warning, and forgets.
            standby.primary = None;
        }
    }

    /// The guest starts anew: devices that it was asked for go, and drivers that have negotiated
    /// failover do so again.
    pub(super) fn start_drivers_anew(&self) {
        self.let_asked_go();
        let again: Vec<String> = {
            let mut state = lock(&self.state);
            let standbys = state.standbys.iter_mut();
            let had = standbys.filter_map(|(alias, standby)| {
                std::mem::take(&mut standby.has_driver).then(|| alias.clone())
            });
            had.collect()
        };
        for alias in again {
            self.negotiate(&alias);
        }
    }

    /// `x-query-virtio-status`.
    pub(super) fn virtio_status(&self, path: &str) -> Result<Value, Refusal> {
        let alias = path.strip_prefix("/machine/peripheral/");
        let alias = alias.and_then(|rest| rest.strip_suffix("/virtio-backend"));
        let state = lock(&self.state);
        let card = alias.filter(|alias| state.devices.contains_key(*alias));
        let Some(alias) = card else {
            let text = format!("Path {path} is not a realized VirtIODevice");
            return Err(("GenericError", text));
        };
        let mut features = vec!["VIRTIO_NET_F_MAC: Device has given MAC address"];
        if state
            .standbys
            .get(alias)
            .is_some_and(|standby| standby.has_driver)
        {
            features.push("VIRTIO_NET_F_STANDBY: Device acting as standby for primary device");
        }
        let features = json!({ "transports": [], "dev-features": features });
        Ok(json!({ "name": "virtio-net", "guest-features": features }))
    }

    pub(super) fn has_negotiated(&self, standby: &str) -> bool {
        let state = lock(&self.state);
        let standby = state.standbys.get(standby);
        standby.is_some_and(|standby| standby.has_driver)
    }

    /// The host's address of the primary that a standby remembers.
    pub(super) fn remembered_primary(&self, standby: &str) -> Option<conf::PciAddress> {
        let state = lock(&self.state);
        let primary = state.standbys.get(standby)?.primary.as_ref()?;
        primary["host"].as_str()?.parse().ok()
    }
}
