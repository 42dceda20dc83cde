//! Host devices: plain ones, and those that interfaces became. They come after all interfaces,
//! so that a failover primary follows its standby.

use conf::{
    Controller, DeviceInfo, Domain, HostSource, Interface, InterfaceSource, PciAddress, Plug, Rom,
    Teaming, UsbSource,
};

use super::address::{pci_address, usb_address};
use super::json::Object;
use super::{Builder, Problem};

/// A host device of the guest, wherever the document has it.
struct Assigned<'a> {
    info: &'a DeviceInfo,
    teaming: Option<&'a Teaming>,
    source: Source<'a>,
}

enum Source<'a> {
    Pci(PciAddress),
    /// Known by a name that was looked up.
    PciByName,
    Usb(&'a UsbSource),
}

impl<'a> From<&'a HostSource> for Source<'a> {
    fn from(source: &'a HostSource) -> Self {
        match source {
            HostSource::Pci(address) => Self::Pci(*address),
            HostSource::NetDevice(_) | HostSource::VfOf(_) => Self::PciByName,
            HostSource::Usb(usb) => Self::Usb(usb),
        }
    }
}

impl Builder<'_> {
    pub(super) fn hostdevs(&mut self) {
        for assigned in all(self.domain) {
            if assigned.info.is_unassigned() {
                continue; // prepared for the guest, but not shown to it
            }
            if self.is_withheld(assigned.info) {
                continue;
            }
            let Some(alias) = self.alias(assigned.info, "hostdev") else {
                continue;
            };
            let device = match assigned.source {
                Source::Pci(host) => self.vfio(&assigned, &alias, host),
                Source::PciByName => match self.resources.pci_devices.get(&alias) {
                    Some(&host) => self.vfio(&assigned, &alias, host),
                    None => Err(Problem::NotResolved(alias)),
                },
                Source::Usb(source) => self.usb(&assigned, &alias, source),
            };
            self.device(device);
        }
    }

    fn vfio(
        &self,
        device: &Assigned<'_>,
        alias: &str,
        host: PciAddress,
    ) -> Result<Object, Problem> {
        hostdev_object(
            &self.domain.devices.controllers,
            device.info,
            device.teaming,
            host,
            self.boot.index(device.info),
            alias,
        )
    }

    fn usb(
        &self,
        device: &Assigned<'_>,
        alias: &str,
        source: &UsbSource,
    ) -> Result<Object, Problem> {
        let place = source
            .place
            .or_else(|| self.resources.usb_devices.get(alias).copied());
        let optional = source.startup_policy.as_deref() == Some("optional");
        if place.is_none() && !optional {
            return Err(Problem::NotResolved(alias.to_owned()));
        }
        let boot_index = self.boot.index(device.info);
        usb_object(self.domain, device.info, alias, source, boot_index, place)
    }
}

/// The arguments of `device_add` for a USB device that is plugged into a running guest; `place` is
/// its bus and device.
pub(crate) fn usb_device(
    domain: &Domain,
    info: &DeviceInfo,
    source: &UsbSource,
    place: (u32, u32),
) -> Result<serde_json::Value, Problem> {
    let alias = alias_of(info)?;
    let order = info.boot_order;
    Ok(usb_object(domain, info, alias, source, order, Some(place))?.to_json())
}

fn usb_object(
    domain: &Domain,
    info: &DeviceInfo,
    alias: &str,
    source: &UsbSource,
    boot_index: Option<u32>,
    place: Option<(u32, u32)>,
) -> Result<Object, Problem> {
    let path = place.map(|(bus, device)| format!("/dev/bus/usb/{bus:03}/{device:03}"));
    let (reset, resets_all) = match source.guest_reset.as_deref() {
        Some("off") => (Some(false), Some(false)),
        Some("uninitialized") => (Some(true), Some(false)),
        Some("on") => (Some(true), Some(true)),
        _ => (None, None),
    };
    Ok(Object::driver("usb-host")
        .maybe("hostdevice", path)
        .with("id", alias)
        .maybe("bootindex", boot_index)
        .maybe("guest-reset", reset)
        .maybe("guest-resets-all", resets_all)
        .and(usb_address(&domain.devices.controllers, info, alias)?))
}

fn alias_of(info: &DeviceInfo) -> Result<&str, Problem> {
    let alias = info.alias.as_deref();
    alias.ok_or_else(|| Problem::NoAlias("hostdev".to_owned()))
}

/// The arguments of `device_add` for a PCI function that is plugged into a running guest.
///
/// `host` is the function; `info` and `teaming` are the device's, its alias and address filled in.
pub fn hostdev_device(
    domain: &Domain,
    info: &DeviceInfo,
    teaming: Option<&Teaming>,
    host: PciAddress,
) -> Result<serde_json::Value, Problem> {
    let alias = alias_of(info)?;
    let controllers = &domain.devices.controllers;
    let device = hostdev_object(controllers, info, teaming, host, info.boot_order, alias)?;
    Ok(device.to_json())
}

fn hostdev_object(
    controllers: &[Controller],
    info: &DeviceInfo,
    teaming: Option<&Teaming>,
    host: PciAddress,
    boot_index: Option<u32>,
    alias: &str,
) -> Result<Object, Problem> {
    let standby = teaming.and_then(|teaming| match teaming {
        Teaming::Transient { persistent } => Some(persistent.as_str()),
        Teaming::Persistent => None,
    });
    Ok(Object::driver("vfio-pci")
        .with("host", host.to_string())
        .with("id", alias)
        .maybe("bootindex", boot_index)
        .maybe("failover_pair_id", standby)
        .and(pci_address(controllers, info, alias)?)
        .and(rom(info)))
}

/// `rombar` and `romfile`.
pub(super) fn rom(info: &DeviceInfo) -> Object {
    let Some(rom) = &info.rom else {
        return Object::new();
    };
    let Rom { enabled, bar, file } = rom;
    if *enabled == Some(false) {
        return Object::new().with("romfile", "");
    }
    Object::new()
        .maybe("rombar", bar.map(u32::from))
        .maybe("romfile", file.as_deref())
}

/// Interfaces that are host devices by themselves, then host devices, then interfaces that
/// became one by their network: the order in which their aliases are given.
fn all(domain: &Domain) -> impl Iterator<Item = Assigned<'_>> {
    let interfaces = &domain.devices.interfaces;
    let by_themselves = interfaces
        .iter()
        .filter_map(|interface| match &interface.source {
            InterfaceSource::Hostdev { source, .. } => Some((interface, Source::from(source))),
            _ => None,
        });
    let by_network = interfaces
        .iter()
        .filter(|interface| !matches!(interface.source, InterfaceSource::Hostdev { .. }))
        .filter_map(|interface| Some((interface, Source::Pci(plugged_function(interface)?))));
    let hostdevs = domain.devices.hostdevs.iter().map(|hostdev| Assigned {
        info: &hostdev.info,
        teaming: hostdev.teaming.as_ref(),
        source: Source::from(&hostdev.source),
    });
    by_themselves
        .map(assigned_interface)
        .chain(hostdevs)
        .chain(by_network.map(assigned_interface))
}

fn assigned_interface<'a>((interface, source): (&'a Interface, Source<'a>)) -> Assigned<'a> {
    Assigned {
        info: &interface.info,
        teaming: interface.teaming.as_ref(),
        source,
    }
}

/// The PCI function that the interface's network gave it, if it gave one.
fn plugged_function(interface: &Interface) -> Option<PciAddress> {
    match interface.actual.as_ref()?.plug {
        Plug::HostdevPci { address, .. } => Some(address),
        _ => None,
    }
}
