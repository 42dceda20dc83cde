//! The drives of a simulated guest, and the media in them.

use serde_json::{Value, json};

use super::devices::{Device, no_device, path_of};
use super::machine::Machine;
use super::{Refusal, lock};

fn refused<T>(text: String) -> Result<T, Refusal> {
    Err(("GenericError", text))
}

impl Machine {
    pub(super) fn nodes(&self) -> Vec<String> {
        lock(&self.state).drives.nodes()
    }

    pub(super) fn descriptor_sets(&self) -> Vec<u32> {
        lock(&self.state).drives.set_numbers()
    }

    pub(super) fn remove_node(&self, name: &str) -> Result<(), Refusal> {
        let mut state = lock(&self.state);
        let mut devices = state.devices.values();
        let used = devices.any(|device| device.node.as_deref() == Some(name));
        state.drives.remove_node(name, used)
    }

    pub(super) fn medium(&self, alias: &str) -> Option<String> {
        lock(&self.state).devices.get(alias)?.node.clone()
    }

    pub(super) fn lock_tray(&self, alias: &str, locked: bool) {
        let _ = self.with_drive(alias, |device| {
            if let Some(tray) = &mut device.tray {
                tray.is_locked = locked;
            }
            Ok(())
        });
    }

    pub(super) fn block_devices(&self) -> Value {
        let state = lock(&self.state);
        let drives = state.devices.iter();
        let drives = drives.filter(|(_, device)| device.node.is_some() || device.tray.is_some());
        let shown = drives.map(|(alias, device)| {
            let mut shown = json!({
                "device": "",
                "qdev": path_of(alias),
                "removable": device.tray.is_some(),
                "locked": device.tray.as_ref().is_some_and(|tray| tray.is_locked),
            });
            if let Some(tray) = &device.tray {
                shown["tray_open"] = tray.is_open.into();
            }
            if let Some(node) = &device.node {
                shown["inserted"] = json!({ "node-name": node });
            }
            shown
        });
        shown.collect()
    }

    /// Without force a locked tray stays shut, and that is no error.
    pub(super) fn open_tray(&self, alias: &str, force: bool) -> Result<(), Refusal> {
        self.move_tray(alias, true, force)
    }

    pub(super) fn close_tray(&self, alias: &str) -> Result<(), Refusal> {
        self.move_tray(alias, false, true)
    }

    fn move_tray(&self, alias: &str, open: bool, force: bool) -> Result<(), Refusal> {
        let moved = self.with_drive(alias, |device| {
            let Some(tray) = &mut device.tray else {
                return refused(format!("Device '{alias}' is not removable"));
            };
            if tray.is_open == open || (open && tray.is_locked && !force) {
                return Ok(false);
            }
            tray.is_open = open;
            Ok(true)
        })?;
        if moved {
            let data = json!({ "device": "", "id": path_of(alias), "tray-open": open });
            self.say("DEVICE_TRAY_MOVED", data);
        }
        Ok(())
    }

    /// Takes the medium out of an open drive, or puts one in.
    pub(super) fn change_medium(&self, alias: &str, node: Option<&str>) -> Result<(), Refusal> {
        if let Some(node) = node.filter(|node| !lock(&self.state).drives.has(node)) {
            return refused(format!("Node '{node}' not found"));
        }
        self.with_drive(alias, |device| {
            if !device.tray.as_ref().is_some_and(|tray| tray.is_open) {
                return refused(format!("Tray of device '{alias}' is not open"));
            }
            if node.is_some() && device.node.is_some() {
                return refused(format!("There already is a medium in device '{alias}'"));
            }
            device.node = node.map(str::to_owned);
            Ok(())
        })
    }

    fn with_drive<T>(
        &self,
        alias: &str,
        change: impl FnOnce(&mut Device) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let mut state = lock(&self.state);
        let device = state.devices.get_mut(alias);
        change(device.ok_or_else(|| no_device(alias))?)
    }
}
