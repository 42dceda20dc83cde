//! Which host devices simulated guests have open, and which they may open.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex};

use conf::{PciAddress, Uuid};
use host::GuestGroup;

use super::lock;

/// Says whether a guest may open a host device, and if not what the kernel says.
type Rule = Arc<dyn Fn(Uuid, PciAddress) -> Result<(), String> + Send + Sync>;

/// Says what the permissions of the host's nodes do.
type Permissions = Arc<dyn Fn(Option<GuestGroup>, PciAddress) -> Result<(), String> + Send + Sync>;

/// Who opens a device.
pub(super) struct Opener {
    pub(super) pid: u32,
    pub(super) uuid: Uuid,
    /// The group that it alone has.
    pub(super) own_group: Option<GuestGroup>,
}

/// Is told of a device that is open now, or no longer.
type Listener = Arc<dyn Fn(PciAddress, bool) + Send + Sync>;

/// The host's side of all guests' host devices: the files that a QEMU opens for one.
#[derive(Default)]
pub(super) struct Gate(Mutex<Doors>);

#[derive(Default)]
struct Doors {
    rule: Option<Rule>,
    permissions: Option<Permissions>,
    listener: Option<Listener>,
    /// By process.
    open: BTreeSet<(u32, PciAddress)>,
    /// What a guest may not open, whatever the rule says.
    shut: BTreeSet<(u32, PciAddress)>,
    /// Processes that open nothing any more.
    ended: BTreeSet<u32>,
}

impl Doors {
    fn check_free(&self, device: PciAddress) -> Result<(), String> {
        if self.open.iter().any(|(_, open)| *open == device) {
            return Err("Device or resource busy".to_owned());
        }
        Ok(())
    }
}

impl Gate {
    pub(super) fn set_rule(&self, rule: Rule) {
        lock(&self.0).rule = Some(rule);
    }

    pub(super) fn set_permissions(&self, permissions: Permissions) {
        lock(&self.0).permissions = Some(permissions);
    }

    pub(super) fn set_listener(&self, listener: Listener) {
        lock(&self.0).listener = Some(listener);
    }

    pub(super) fn set_may_open(&self, pid: u32, device: PciAddress, may: bool) {
        let shut = &mut lock(&self.0).shut;
        if may {
            shut.remove(&(pid, device));
        } else {
            shut.insert((pid, device));
        }
    }

    /// Opens a device; `Err`: what the kernel says.
    pub(super) fn open(&self, opener: &Opener, device: PciAddress) -> Result<(), String> {
        self.check(opener, device)?;
        {
            let mut doors = lock(&self.0);
            if doors.ended.contains(&opener.pid) {
                return Err("its process has ended".to_owned());
            }
            doors.check_free(device)?;
            doors.open.insert((opener.pid, device));
            // The host hears it before anybody can open or close it again.
            doors.tell(device, true);
        }
        // The kernel checks and opens at once: what was forbidden between the two here is not opened.
        self.check(opener, device)
            .inspect_err(|_| self.close(opener.pid, device))
    }

    /// Whether it could be opened, by permissions and rule, whoever has it open.
    pub(super) fn check(&self, opener: &Opener, device: PciAddress) -> Result<(), String> {
        let (rule, permissions) = {
            let doors = lock(&self.0);
            (doors.rule.clone(), doors.permissions.clone())
        };
        // They may look at what other locks guard.
        if let Some(permissions) = permissions {
            permissions(opener.own_group, device)?;
        }
        if let Some(rule) = rule {
            rule(opener.uuid, device)?;
        }
        if lock(&self.0).shut.contains(&(opener.pid, device)) {
            return Err("Permission denied".to_owned());
        }
        Ok(())
    }

    pub(super) fn close(&self, pid: u32, device: PciAddress) {
        let mut doors = lock(&self.0);
        if doors.open.remove(&(pid, device)) {
            doors.tell(device, false);
        }
    }

    /// A process has ended: what it has open is closed, also what it was just about to open.
    pub(super) fn close_all(&self, pid: u32) {
        lock(&self.0).ended.insert(pid);
        for device in self.open_of(pid) {
            self.close(pid, device);
        }
    }

    pub(super) fn open_of(&self, pid: u32) -> Vec<PciAddress> {
        let doors = lock(&self.0);
        let its = doors.open.iter().filter(|(holder, _)| *holder == pid);
        its.map(|(_, device)| *device).collect()
    }
}

impl Doors {
    fn tell(&self, device: PciAddress, is_open: bool) {
        if let Some(listener) = &self.listener {
            listener(device, is_open);
        }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let doors = lock(&self.0);
        f.debug_struct("Gate")
            .field("open", &doors.open)
            .field("shut", &doors.shut)
            .finish_non_exhaustive()
    }
}
