//! A device on its own, as clients plug it in and out: read, found among a guest's, added and taken
//! away.

use super::addresses::DeviceRef;
use super::{Devices, Domain, GuestAddress, Origin};
use crate::xml::Document;
use crate::{
    Error, HostDevice, HostSource, Interface, InterfaceSource, MacAddress, PciAddress, Plug,
};

/// A device that stands in no guest yet, or that a client describes to mean one that does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// All lists are empty but one, which has one item.
    one: Devices,
    name: String,
    /// Its alias, which a definition keeps only if it is a user's own.
    alias: Option<String>,
    /// An interface's MAC, unless it was made up.
    mac: Option<MacAddress>,
}

/// Why it is not clear which device is meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// None is like it.
    #[error("no device found that is {0}")]
    None(String),
    /// Several are like it.
    #[error("{count} devices are {what}: say the alias or the guest address of one")]
    Several {
        /// What it is like.
        what: String,
        /// How many.
        count: usize,
    },
}

/// A device that a guest has already.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is already in use: the guest has it")]
pub struct AlreadyThere(pub String);

impl Device {
    /// Reads an element of `<devices>`.
    ///
    /// # Errors
    /// What is wrong with it, in libvirt's class, with its place.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let document = Document::parse(text)?;
        document.read_any_definition(|element| {
            let mut one = Devices::default();
            one.read_child(element, Origin::Definition)?;
            let device = Self {
                name: element.name().to_owned(),
                alias: (element.child("alias"))
                    .and_then(|alias| alias.attribute_string("name"))
                    .filter(|alias| !alias.is_empty()),
                mac: (element.child("mac").and(one.interfaces.first()))
                    .map(|interface| interface.mac),
                one,
            };
            if device.one.count() == 0 {
                let message = format!("<{}> is no device of a guest", device.name);
                return Err(element.error(crate::ErrorKind::Xml, message));
            }
            Ok(device)
        })
    }

    /// Its element's name: `interface`, `hostdev`, `disk` …
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface that it is.
    #[must_use]
    pub fn interface(&self) -> Option<&Interface> {
        self.one.interfaces.first()
    }

    /// An interface's MAC, as the document says it; `None`: it says none.
    #[must_use]
    pub fn mac(&self) -> Option<MacAddress> {
        self.mac
    }

    /// The host device that it is.
    #[must_use]
    pub fn host_device(&self) -> Option<&HostDevice> {
        self.one.hostdevs.first()
    }

    /// The disk that it is.
    #[must_use]
    pub fn disk(&self) -> Option<&super::Disk> {
        self.one.disks.first()
    }

    /// The device in words, by what it is known by.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut words = if let Some(interface) = self.interface() {
            match self.mac {
                Some(_) => format!("interface {}", interface.mac),
                None => "interface".to_owned(),
            }
        } else if let Some(hostdev) = self.host_device() {
            format!("host device {}", describe_source(&hostdev.source))
        } else if let Some(disk) = self.disk() {
            format!("disk '{}'", disk.target)
        } else {
            format!("<{}> like that", self.name)
        };
        if let Some(alias) = &self.alias {
            words.push_str(&format!(" with alias '{alias}'"));
        }
        if let Some(address) = self.guest_address() {
            words.push_str(&format!(" at guest address {address}"));
        }
        words
    }

    fn guest_address(&self) -> Option<PciAddress> {
        let place = DeviceRef::all(&self.one).into_iter();
        let mut infos = place.filter_map(|device| device.info(&self.one));
        infos.find_map(super::DeviceInfo::pci_address)
    }
}

fn describe_source(source: &HostSource) -> String {
    match source {
        HostSource::Pci(address) => address.to_string(),
        HostSource::NetDevice(name) => name.clone(),
        HostSource::VfOf(name) => format!("VF of {name}"),
        HostSource::Usb(usb) => {
            let ids = usb.ids.iter();
            let ids = ids.map(|(vendor, product)| format!("{vendor:04x}:{product:04x}"));
            let place = usb
                .place
                .iter()
                .map(|(bus, device)| format!("{bus}-{device}"));
            let words: Vec<_> = ids.chain(place).collect();
            format!("USB {}", words.join(" at "))
        }
    }
}

impl Domain {
    /// Adds a device behind those of its kind; where it is.
    ///
    /// # Errors
    /// The guest has that very device of the host, or a disk of that name.
    pub fn add_device(&mut self, device: &Device) -> Result<DeviceRef, AlreadyThere> {
        if let Some(hostdev) = device.host_device()
            && let Some(_) = self.find_source(&hostdev.source)
        {
            return Err(AlreadyThere(device.describe()));
        }
        if let Some(interface) = device.interface()
            && let InterfaceSource::Hostdev { source, .. } = &interface.source
            && self.find_source(source).is_some()
        {
            return Err(AlreadyThere(format!(
                "host device {}",
                describe_source(source)
            )));
        }
        let devices = &mut self.devices;
        if let Some(disk) = device.disk()
            && devices
                .disks
                .iter()
                .any(|known| known.target == disk.target)
        {
            return Err(AlreadyThere(device.describe()));
        }
        if device.one.memballoon.is_some() && devices.memballoon.is_some() {
            return Err(AlreadyThere("a memory balloon".to_owned()));
        }
        let one = device.one.clone();
        devices.disks.extend(one.disks);
        devices.controllers.extend(one.controllers);
        devices.interfaces.extend(one.interfaces);
        devices.hostdevs.extend(one.hostdevs);
        devices.serials.extend(one.serials);
        devices.consoles.extend(one.consoles);
        devices.rngs.extend(one.rngs);
        devices.memballoon = devices.memballoon.take().or(one.memballoon);
        let after = match device.name.as_str() {
            "hostdev" => devices.hostdevs.len(),
            "rng" => devices.rngs.len(),
            _ => 0,
        };
        let others = one.others.into_iter();
        devices.others.extend(others.map(|mut other| {
            other.after = after;
            other
        }));
        Ok(match DeviceRef::all(&device.one).first() {
            Some(DeviceRef::Disk(_)) => DeviceRef::Disk(devices.disks.len() - 1),
            Some(DeviceRef::Controller(_)) => DeviceRef::Controller(devices.controllers.len() - 1),
            Some(DeviceRef::Interface(_)) => DeviceRef::Interface(devices.interfaces.len() - 1),
            Some(DeviceRef::Hostdev(_)) => DeviceRef::Hostdev(devices.hostdevs.len() - 1),
            Some(DeviceRef::Serial(_)) => DeviceRef::Serial(devices.serials.len() - 1),
            Some(DeviceRef::Rng(_)) => DeviceRef::Rng(devices.rngs.len() - 1),
            Some(DeviceRef::Other(_)) => DeviceRef::Other(devices.others.len() - 1),
            Some(DeviceRef::MemBalloon) | None => DeviceRef::MemBalloon,
        })
    }

    /// Adds an interface behind the others; where it is.
    pub fn add_interface(&mut self, interface: Interface) -> DeviceRef {
        self.devices.interfaces.push(interface);
        DeviceRef::Interface(self.devices.interfaces.len() - 1)
    }

    /// The device that a client means: an interface by MAC, guest address and alias, as far as they are
    /// given; a host device by the function or USB device that it is, which may be an interface's; a disk
    /// by its name; others by all that is said of them.
    ///
    /// # Errors
    /// None is meant, or several could be.
    pub fn find_device(&self, meant: &Device) -> Result<DeviceRef, FindError> {
        let all = DeviceRef::all(&self.devices);
        let mut found: Vec<_> = all
            .into_iter()
            .filter(|&one| self.is_meant(one, meant))
            .collect();
        // Of several like it, those that the client can have seen as they are.
        if found.len() > 1 && meant.interface().is_none() {
            found.truncate(1);
        }
        match found.as_slice() {
            [one] => Ok(*one),
            [] => Err(FindError::None(meant.describe())),
            several => Err(FindError::Several {
                what: meant.describe(),
                count: several.len(),
            }),
        }
    }

    /// The device with that alias.
    #[must_use]
    pub fn find_alias(&self, alias: &str) -> Option<DeviceRef> {
        let all = DeviceRef::all(&self.devices).into_iter();
        let mut its = all.filter(|one| {
            let info = one.info(&self.devices);
            info.is_some_and(|info| info.alias.as_deref() == Some(alias))
        });
        its.next()
    }

    /// The host device, or the interface that is one, of that source.
    fn find_source(&self, source: &HostSource) -> Option<DeviceRef> {
        let hostdevs = self.devices.hostdevs.iter();
        let hostdev = hostdevs
            .map(|one| &one.source)
            .position(|known| same_source(known, source));
        hostdev.map(DeviceRef::Hostdev).or_else(|| {
            let mut interfaces = self.devices.interfaces.iter();
            let its = interfaces.position(|one| is_on_source(one, source));
            its.map(DeviceRef::Interface)
        })
    }

    fn is_meant(&self, one: DeviceRef, meant: &Device) -> bool {
        let devices = &self.devices;
        let Some(info) = one.info(devices) else {
            return false;
        };
        let is_at = |address: PciAddress| info.pci_address() == Some(address);
        if meant.guest_address().is_some_and(|address| !is_at(address)) {
            return false;
        }
        // A definition keeps users' own aliases alone: one that was made up for the running guest says
        // nothing there.
        let is_made_up = |alias: &String| info.alias.is_none() && !alias.starts_with("ua-");
        let has_alias = meant.alias.is_none()
            || meant.alias == info.alias
            || meant.alias.as_ref().is_some_and(is_made_up);
        match one {
            DeviceRef::Interface(place) => match (devices.interfaces.get(place), &meant.one) {
                (Some(own), _) if meant.interface().is_some() => {
                    has_alias && meant.mac.is_none_or(|mac| mac == own.mac)
                }
                (Some(own), _) => meant
                    .host_device()
                    .is_some_and(|hostdev| is_on_source(own, &hostdev.source)),
                (None, _) => false,
            },
            DeviceRef::Hostdev(place) => {
                let own = devices.hostdevs.get(place);
                own.zip(meant.host_device())
                    .is_some_and(|(own, meant)| same_source(&own.source, &meant.source))
            }
            DeviceRef::Disk(place) => {
                let own = devices.disks.get(place);
                own.zip(meant.disk())
                    .is_some_and(|(own, meant)| own.target == meant.target)
            }
            DeviceRef::Controller(place) => {
                let own = devices.controllers.get(place);
                own.zip(meant.one.controllers.first())
                    .is_some_and(|(own, meant)| own.kind == meant.kind && own.index == meant.index)
            }
            DeviceRef::Rng(place) => {
                let own = devices.rngs.get(place);
                own.zip(meant.one.rngs.first()).is_some_and(|(own, meant)| {
                    own.model == meant.model && own.source == meant.source
                })
            }
            DeviceRef::Serial(place) => {
                let own = devices.serials.get(place);
                own.zip(meant.one.serials.first())
                    .is_some_and(|(own, meant)| own.target_port == meant.target_port)
            }
            DeviceRef::MemBalloon => meant.one.memballoon.is_some(),
            DeviceRef::Other(place) => {
                let own = devices.others.get(place);
                own.zip(meant.one.others.first())
                    .is_some_and(|(own, meant)| {
                        own.name == meant.name
                            && has_alias
                            && own.attributes == meant.attributes
                            && own.children == meant.children
                    })
            }
        }
    }

    /// Takes a device out of the document.
    pub fn remove_device(&mut self, place: DeviceRef) {
        let devices = &mut self.devices;
        let kept = match place {
            DeviceRef::Disk(at) => return drop(take(&mut devices.disks, at)),
            DeviceRef::Controller(at) => return drop(take(&mut devices.controllers, at)),
            DeviceRef::Interface(at) => return drop(take(&mut devices.interfaces, at)),
            DeviceRef::Serial(at) => return drop(take(&mut devices.serials, at)),
            DeviceRef::Other(at) => return drop(take(&mut devices.others, at)),
            DeviceRef::MemBalloon => return devices.memballoon = None,
            DeviceRef::Hostdev(at) => take(&mut devices.hostdevs, at).map(|_| ("hostdev", at)),
            DeviceRef::Rng(at) => take(&mut devices.rngs, at).map(|_| ("rng", at)),
        };
        // Those that are only kept stand between them.
        for other in &mut devices.others {
            if kept.is_some_and(|(name, at)| other.name == name && other.after > at) {
                other.after -= 1;
            }
        }
    }

    /// Gives a device that is plugged into the running guest its alias, unless it has a user's own:
    /// the one after the highest of its kind. `is_taken`: whether something else still has that name.
    pub fn name_plugged(
        &mut self,
        place: DeviceRef,
        is_host_device: bool,
        is_taken: &dyn Fn(&str) -> bool,
    ) {
        let prefix = match place {
            DeviceRef::Interface(_) if !is_host_device => "net",
            DeviceRef::Interface(_) | DeviceRef::Hostdev(_) => "hostdev",
            DeviceRef::Disk(at) => return self.name_disk(at),
            _ => return,
        };
        let number = |alias: &str| alias.strip_prefix(prefix)?.parse::<u32>().ok();
        let aliases = self.infos().filter_map(|info| info.alias.as_deref());
        let mut next = aliases
            .filter_map(number)
            .max()
            .map_or(0, |last| last.saturating_add(1));
        while is_taken(&format!("{prefix}{next}")) && next < u32::MAX {
            next += 1;
        }
        if let Some(info) = place.info_mut(&mut self.devices)
            && info.alias.is_none()
        {
            info.alias = Some(format!("{prefix}{next}"));
        }
    }
}

fn take<T>(list: &mut Vec<T>, at: usize) -> Option<T> {
    (at < list.len()).then(|| list.remove(at))
}

fn same_source(one: &HostSource, other: &HostSource) -> bool {
    match (one, other) {
        (HostSource::Usb(one), HostSource::Usb(other)) => match (one.place, other.place) {
            (Some(one), Some(other)) => one == other,
            _ => one.ids.is_some() && one.ids == other.ids,
        },
        (one, other) => one == other,
    }
}

/// Whether an interface is that device, by its document or as it was resolved.
fn is_on_source(interface: &Interface, source: &HostSource) -> bool {
    let plug = interface.actual.as_ref().map(|actual| &actual.plug);
    if let (Some(Plug::HostdevPci { address, .. }), HostSource::Pci(meant)) = (plug, source) {
        return address == meant;
    }
    if let (Some(address), HostSource::Pci(meant)) = (interface.host_address, source) {
        return address == *meant;
    }
    match &interface.source {
        InterfaceSource::Hostdev { source: own, .. } => same_source(own, source),
        _ => false,
    }
}

/// Whether a device has more than one function of its slot in the guest, and so can't leave alone.
#[must_use]
pub fn is_multifunction(info: &super::DeviceInfo) -> bool {
    matches!(
        info.address,
        Some(GuestAddress::Pci {
            multifunction: Some(true),
            ..
        })
    ) || info
        .pci_address()
        .is_some_and(|address| address.function() != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The element of a running guest says its alias, which its definition does not have.
    #[test]
    fn an_alias_that_was_made_up_says_nothing_of_a_definition() {
        let interface = |alias: &str| {
            format!("<interface type='user'><mac address='52:54:00:00:00:01'/>{alias}</interface>")
        };
        let defined = |alias: &str| {
            let text = format!(
                "<domain type='kvm'><name>g</name><memory>1</memory><os><type>hvm</type></os>\
                 <devices>{}</devices></domain>",
                interface(alias)
            );
            Domain::parse(&text).unwrap()
        };
        let device = |alias: &str| Device::parse(&interface(alias)).unwrap();
        let (made_up, users) = ("<alias name='net0'/>", "<alias name='ua-a'/>");
        let plain = defined("");
        assert!(plain.find_device(&device(made_up)).is_ok());
        assert!(plain.find_device(&device(users)).is_err());
        let named = defined(users);
        assert!(named.find_device(&device(users)).is_ok());
        assert!(named.find_device(&device(made_up)).is_err());
        let mut runs = defined("");
        runs.devices.interfaces[0].info.alias = Some("net0".to_owned());
        assert!(runs.find_device(&device(made_up)).is_ok());
        assert!(runs.find_device(&device("<alias name='net1'/>")).is_err());
    }
}
