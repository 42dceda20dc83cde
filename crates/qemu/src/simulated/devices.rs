//! The devices of a simulated guest.

use conf::PciAddress;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::machine::{Machine, State};
use super::{Refusal, Unplug, lock};

/// A device that QEMU has.
#[derive(Debug)]
pub(super) struct Device {
    driver: String,
    /// The host's function, of one that is given through.
    pub(super) host: Option<PciAddress>,
    /// Bus and place on it, of a PCI device.
    slot: Option<(String, String)>,
    /// Of a failover pair's primary: its standby.
    pub(super) standby: Option<String>,
    /// It is a failover pair's standby.
    is_standby: bool,
    /// The host's side of a network card.
    netdev: Option<String>,
    /// The topmost node of a disk's medium.
    pub(super) node: Option<String>,
    /// Of a drive with a removable medium.
    pub(super) tray: Option<Tray>,
    link_is_up: bool,
    filter: Map<String, Value>,
    /// It told that its filter changed, and was not asked since.
    is_told: bool,
    leaving: Option<Leaving>,
}

#[derive(Debug, Default)]
pub(super) struct Tray {
    pub(super) is_open: bool,
    pub(super) is_locked: bool,
}

/// When a device goes that it was asked for.
#[derive(Debug, Clone, Copy)]
enum Leaving {
    At(Instant),
    WhenReleased,
}

impl Device {
    /// The name and the rest of a device, as `-device` and `device_add` have it.
    pub(super) fn of(arguments: &Value) -> Option<(String, Self)> {
        let text = |member: &str| arguments[member].as_str();
        let owned = |member: &str| text(member).map(str::to_owned);
        let alias = id_of(arguments)?;
        let mut filter = Map::new();
        if let Some(mac) = arguments.get("mac") {
            filter.insert("main-mac".to_owned(), mac.clone());
        }
        let driver = owned("driver").unwrap_or_default();
        let device = Self {
            host: text("host").and_then(|host| host.parse().ok()),
            slot: owned("bus").zip(owned("addr")),
            standby: owned("failover_pair_id"),
            is_standby: arguments["failover"].as_bool().unwrap_or_default(),
            netdev: owned("netdev"),
            node: owned("drive"),
            tray: driver.ends_with("-cd").then(Tray::default),
            driver,
            link_is_up: true,
            filter,
            is_told: false,
            leaving: None,
        };
        Some((alias, device))
    }
}

impl State {
    /// Takes a device in that QEMU has made.
    pub(super) fn add_device(&mut self, alias: String, device: Device) {
        if device.is_standby {
            self.standbys.entry(alias.clone()).or_default();
        }
        self.devices.insert(alias, device);
    }

    /// A device of the host's that can't be migrated, by its name there.
    pub(super) fn blocks_migration(&self) -> Option<PciAddress> {
        self.devices.values().find_map(|device| device.host)
    }

    /// What both sides of a migration have to have: driver, bus and place of each device.
    pub(super) fn migrated_devices(&self) -> Vec<(String, String, String)> {
        let placed = self.devices.values().filter_map(|device| {
            let (bus, place) = device.slot.clone()?;
            Some((device.driver.clone(), bus, place))
        });
        let mut placed: Vec<_> = placed.collect();
        placed.sort();
        placed
    }

    fn has_bus(&self, bus: &str) -> bool {
        let of_device = |name: &str| self.devices.contains_key(name);
        let built_in = ["pcie.0", "pci.0"].contains(&bus) || bus.starts_with("ide.");
        built_in
            || of_device(bus)
            || bus
                .rsplit_once('.')
                .is_some_and(|(name, _)| of_device(name))
    }

    /// What stands in the way of a new device, apart from the host.
    fn check_device(&self, alias: &str, device: &Device) -> Result<(), String> {
        if self.devices.contains_key(alias) {
            return Err(format!("Duplicate device ID '{alias}'"));
        }
        let mut others = self.devices.iter();
        let driver = &device.driver;
        if let Some((_, addr)) = &device.slot
            && let Some((other, found)) = others.find(|(_, other)| other.slot == device.slot)
        {
            return Err(format!(
                "PCI: slot {addr} function 0 not available for {driver}, in use by {},id={other}",
                found.driver
            ));
        }
        let in_use = |wanted: &Option<String>, of: fn(&Device) -> &Option<String>| {
            wanted.is_some() && self.devices.values().any(|device| of(device) == wanted)
        };
        if let Some(netdev) = &device.netdev {
            if !self.netdevs.contains_key(netdev) {
                return Err(format!(
                    "Property '{driver}.netdev' can't find value '{netdev}'"
                ));
            }
            if in_use(&device.netdev, |device| &device.netdev) {
                let text = "can't take value";
                return Err(format!(
                    "Property '{driver}.netdev' {text} '{netdev}', it's in use"
                ));
            }
        }
        if let Some(node) = &device.node {
            if !self.drives.has(node) {
                return Err(format!(
                    "Property '{driver}.drive' can't find value '{node}'"
                ));
            }
            if in_use(&device.node, |device| &device.node) {
                return Err(format!(
                    "Drive '{node}' is already in use by another device"
                ));
            }
        }
        Ok(())
    }
}

impl Machine {
    /// `device_add`.
    pub(super) fn plug(&self, arguments: &Value) -> Result<(), Refusal> {
        let refused = |text: String| ("GenericError", text);
        let bus = arguments["bus"].as_str();
        {
            let mut state = lock(&self.state);
            if let Some(bus) = bus.filter(|bus| !state.has_bus(bus)) {
                return Err(refused(format!("Bus '{bus}' not found")));
            }
            if let Some(bus) = bus.filter(|bus| bus.starts_with("ide.") || *bus == "pcie.0") {
                let text = format!("Bus '{bus}' does not support hotplugging");
                return Err(refused(text));
            }
            if state.hides(arguments).map_err(refused)? {
                return Ok(());
            }
        }
        self.realize(arguments).map_err(refused)
    }

    /// Makes a device, and opens what of the host it needs.
    pub(super) fn realize(&self, arguments: &Value) -> Result<(), String> {
        let Some((alias, device)) = Device::of(arguments) else {
            return Ok(()); // without a name it is of no interest
        };
        lock(&self.state).check_device(&alias, &device)?;
        if let Some(host) = device.host {
            if !self.may_lock_memory() {
                return Err(format!(
                    "vfio {host}: failed to setup container: memory listener initialization failed: \
                     Region pc.ram: vfio_container_dma_map = -12 (Cannot allocate memory)"
                ));
            }
            let opened = self.gate.open(&self.opener(), host);
            opened.map_err(|text| format!("vfio {host}: failed to open its group: {text}"))?;
        }
        lock(&self.state).add_device(alias, device);
        Ok(())
    }

    /// `qom-get`, of which function of the host's a device is.
    pub(super) fn property(&self, path: &str, property: &str) -> Result<Value, Refusal> {
        let state = lock(&self.state);
        let device = path.strip_prefix("/machine/peripheral/");
        let device = device.and_then(|alias| state.devices.get(alias));
        match device
            .and_then(|device| device.host)
            .filter(|_| property == "host")
        {
            Some(host) => Ok(host.to_string().into()),
            None => Err(("GenericError", format!("Property '{property}' not found"))),
        }
    }

    /// `device_del`: asks the guest to let a device go.
    pub(super) fn unplug(&self, alias: &str) -> Result<(), Refusal> {
        {
            let state = lock(&self.state);
            let Some(device) = state.devices.get(alias) else {
                return Err(no_device(alias));
            };
            if device.leaving.is_some() {
                let text = format!("Device {alias} is already in the process of unplug");
                return Err(("GenericError", text));
            }
        }
        self.ask_for(alias);
        Ok(())
    }

    /// What the guest does about the wish for a device.
    pub(super) fn ask_for(&self, alias: &str) {
        let unplug = self.faults().unplug;
        let leaving = match unplug {
            Unplug::After(delay) => Some(Leaving::At(Instant::now() + delay)),
            Unplug::WhenReleased => Some(Leaving::WhenReleased),
            Unplug::AtOnce | Unplug::Refused | Unplug::Silently => None,
        };
        if let Some(device) = lock(&self.state).devices.get_mut(alias) {
            device.leaving = leaving;
        }
        match unplug {
            Unplug::AtOnce => self.let_go(alias),
            Unplug::Refused => self.say(
                "DEVICE_UNPLUG_GUEST_ERROR",
                json!({ "device": alias, "path": path_of(alias) }),
            ),
            Unplug::After(_) => self.wake(),
            Unplug::Silently => drop(self.remove_device(alias)),
            Unplug::WhenReleased => {}
        }
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

    /// Devices that the guest was asked for and that go as it starts anew.
    pub(super) fn let_asked_go(&self) {
        let asked: Vec<_> = {
            let state = lock(&self.state);
            let devices = state.devices.iter();
            let asked = devices.filter(|(_, device)| device.leaving.is_some());
            asked.map(|(alias, _)| alias.clone()).collect()
        };
        for alias in asked {
            self.let_go(&alias);
        }
    }

    fn let_go(&self, alias: &str) {
        if self.remove_device(alias) {
            let path = path_of(alias);
            // Parts without a name of their own go first.
            self.say(
                "DEVICE_DELETED",
                json!({ "path": format!("{path}/virtio-backend") }),
            );
            self.say("DEVICE_DELETED", json!({ "device": alias, "path": path }));
        }
    }

    /// Takes a device away, and closes what of the host it had; whether there was one.
    fn remove_device(&self, alias: &str) -> bool {
        let gone = {
            let mut state = lock(&self.state);
            state.standbys.remove(alias);
            state.devices.remove(alias)
        };
        if let Some(host) = gone.as_ref().and_then(|device| device.host) {
            self.gate.close(self.pid(), host);
        }
        gone.is_some()
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

    pub(super) fn devices(&self) -> Vec<String> {
        lock(&self.state).devices.keys().cloned().collect()
    }

    pub(super) fn link(&self, alias: &str) -> Option<bool> {
        Some(lock(&self.state).devices.get(alias)?.link_is_up)
    }

    pub(super) fn set_link(&self, alias: &str, up: bool) -> bool {
        let mut state = lock(&self.state);
        let device = state.devices.get_mut(alias);
        device.map(|device| device.link_is_up = up).is_some()
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
}

pub(super) fn no_device(alias: &str) -> Refusal {
    ("DeviceNotFound", format!("Device '{alias}' not found"))
}

pub(super) fn id_of(arguments: &Value) -> Option<String> {
    Some(arguments.get("id")?.as_str()?.to_owned())
}

pub(super) fn path_of(alias: &str) -> String {
    format!("/machine/peripheral/{alias}")
}
