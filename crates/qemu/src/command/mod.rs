//! The command line of a guest's QEMU: a pure function of the guest and of what was opened for it.

mod address;
mod chars;
mod controllers;
#[cfg(test)]
mod corpus;
mod disks;
mod error;
mod hostdevs;
mod inputs;
mod json;
mod machine;
mod nics;
mod nodes;
mod options;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::fd::RawFd;
use std::path::PathBuf;

use conf::{DeviceInfo, Domain, PciAddress};

pub(crate) use disks::{device as disk_device, nodes as disk_nodes};
pub use error::{CommandLineError, Problem};
pub use hostdevs::hostdev_device;
pub(crate) use hostdevs::usb_device;
pub(crate) use nics::netdev_id;
pub use nics::{nic_device, nic_netdev};
pub(crate) use nodes::{NodeNames, is_node_of};

use json::Object;
use options::{OptionList, OptionValue};

/// QEMU for x86-64 where the document names none.
pub const DEFAULT_EMULATOR: &str = "/usr/bin/qemu-system-x86_64";

/// What was opened or resolved for a guest before its command line is made; all by alias.
#[derive(Debug, Clone, Default)]
pub struct Resources {
    /// The listening monitor socket.
    pub monitor: RawFd,
    /// The taps of interfaces that have any.
    pub taps: BTreeMap<String, Taps>,
    /// Which host PCI function a device is, where the document doesn't say it by address.
    pub pci_devices: BTreeMap<String, PciAddress>,
    /// Which host USB device (bus, device) it is, where the document says it by ids.
    pub usb_devices: BTreeMap<String, (u32, u32)>,
    /// Aliases of interfaces and host devices that are the guest's and not plugged in yet, such as a
    /// failover pair's primary, which QEMU would remember and open unasked: nothing of them is on the
    /// command line, and nothing need be resolved or open for them. The controller that such a device
    /// is to be on is there, and its guest address stays free for it.
    pub withheld: BTreeSet<String>,
    /// The guest comes in from another host.
    pub incoming: bool,
    /// The listening sockets of channels.
    pub channels: BTreeMap<String, RawFd>,
    /// The file behind a disk or a character device, opened by us: QEMU needs no right to it.
    /// A disk that is written to has one descriptor for reading and one for both.
    pub files: BTreeMap<String, Vec<RawFd>>,
}

/// The descriptors of an interface's taps, one a queue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taps {
    /// Taps or macvtaps.
    pub taps: Vec<RawFd>,
    /// `/dev/vhost-net`, as many; none without vhost.
    pub vhosts: Vec<RawFd>,
}

/// A program and its arguments. Displayed as a line for a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// The QEMU.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
}

/// The command line that starts this guest, halted (`-S`).
///
/// The guest's defaults, aliases and addresses are filled in. Everything that can't be done is
/// collected, not just the first of it.
pub fn command_line(
    domain: &Domain,
    resources: &Resources,
) -> Result<CommandLine, CommandLineError> {
    let unsupported = domain.unsupported();
    let (args, mut problems) = arguments(domain, resources);
    if !unsupported.is_empty() {
        // What the document has too much of explains what is missing.
        problems = unsupported
            .iter()
            .map(|item| Problem::Unsupported(item.to_string()))
            .collect();
    }
    if !problems.is_empty() {
        return Err(CommandLineError { problems });
    }
    Ok(CommandLine {
        program: domain
            .devices
            .emulator
            .as_deref()
            .unwrap_or(DEFAULT_EMULATOR)
            .into(),
        args,
    })
}

/// The arguments, as far as they can be made, and what stands in the way of the others.
fn arguments(domain: &Domain, resources: &Resources) -> (Vec<String>, Vec<Problem>) {
    let mut builder = Builder {
        domain,
        resources,
        args: Vec::new(),
        problems: Vec::new(),
        boot: BootOrder::of(domain, &resources.withheld),
        next_set: 0,
    };
    builder.machine();
    builder.controllers();
    builder.disks();
    builder.nics();
    builder.character_devices();
    builder.channels();
    builder.inputs();
    builder.hostdevs();
    builder.balloon();
    builder.rngs();
    builder.closing();
    (builder.args, builder.problems)
}

/// What the parts of this module add to.
struct Builder<'a> {
    domain: &'a Domain,
    resources: &'a Resources,
    args: Vec<String>,
    problems: Vec<Problem>,
    boot: BootOrder,
    next_set: u32,
}

impl Builder<'_> {
    /// Adds an option and its value.
    fn option(&mut self, name: &'static str, value: impl Into<OptionValue>) {
        self.args.push(name.to_owned());
        self.args.push(value.into().into_text());
    }

    fn flag(&mut self, name: &'static str) {
        self.args.push(name.to_owned());
    }

    /// Adds a device, or the reasons why it can't be.
    fn device(&mut self, device: Result<Object, Problem>) {
        match device {
            Ok(device) => self.option("-device", device),
            Err(problem) => self.problems.push(problem),
        }
    }

    fn is_withheld(&self, info: &DeviceInfo) -> bool {
        is_withheld(info, &self.resources.withheld)
    }

    fn refuse(&mut self, what: impl Into<String>) {
        self.problems.push(Problem::Unsupported(what.into()));
    }

    /// The device's alias; without one it can't be told apart.
    fn alias(&mut self, info: &DeviceInfo, what: &str) -> Option<String> {
        if info.alias.is_none() {
            self.problems.push(Problem::NoAlias(what.to_owned()));
        }
        info.alias.clone()
    }

    /// Hands over the opened files of a device as a set, and returns the path that stands for it.
    fn file_set(&mut self, alias: &str) -> Option<String> {
        let files = self.resources.files.get(alias)?;
        let set = self.next_set;
        self.next_set += 1;
        for fd in files {
            let list = OptionList::new().with("set", set).with("fd", fd);
            self.option("-add-fd", list.with("opaque", alias));
        }
        Some(format!("/dev/fdset/{set}"))
    }

    fn rngs(&mut self) {
        for rng in &self.domain.devices.rngs {
            let Some(alias) = self.alias(&rng.info, "rng") else {
                continue;
            };
            let backend = format!("obj{alias}");
            let object = Object::new()
                .with("qom-type", "rng-random")
                .with("id", &backend)
                .with("filename", rng.source.as_deref().unwrap_or("/dev/urandom"));
            self.option("-object", object);
            let device = self.pci_address(&rng.info, &alias).map(|address| {
                Object::driver(virtio("virtio-rng", &rng.model))
                    .with("rng", backend)
                    .with("id", alias)
                    .maybe("max-bytes", rng.rate.map(|(bytes, _)| bytes))
                    // QEMU wants a period with a limit; a second is libvirt's.
                    .maybe("period", rng.rate.map(|(_, period)| period.unwrap_or(1000)))
                    .and(address)
            });
            self.device(device);
        }
    }

    fn balloon(&mut self) {
        let Some(balloon) = &self.domain.devices.memballoon else {
            return;
        };
        if balloon.model == "none" {
            return;
        }
        let Some(alias) = self.alias(&balloon.info, "memballoon") else {
            return;
        };
        let device = self.pci_address(&balloon.info, &alias).map(|address| {
            Object::driver(virtio("virtio-balloon", &balloon.model))
                .with("id", alias)
                .and(address)
        });
        self.device(device);
    }

    /// What closes every command line.
    fn closing(&mut self) {
        if self.resources.incoming {
            self.option("-incoming", "defer");
        }
        self.option(
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        );
        self.option("-msg", "timestamp=on");
    }
}

fn is_q35(domain: &Domain) -> bool {
    domain.os.machine.contains("q35")
}

fn is_withheld(info: &DeviceInfo, withheld: &BTreeSet<String>) -> bool {
    let alias = info.alias.as_ref();
    alias.is_some_and(|alias| withheld.contains(alias))
}

/// The PCI form of a virtio device: `virtio`, `virtio-transitional` or `virtio-non-transitional`.
fn virtio(device: &str, model: &str) -> String {
    let suffix = model.strip_prefix("virtio").unwrap_or("");
    format!("{device}-pci{suffix}")
}

/// The boot order in effect, with `<boot dev=…>` of the system applied to the devices.
#[derive(Debug, Default)]
struct BootOrder {
    disk: Option<u32>,
    cdrom: Option<u32>,
    network: Option<u32>,
    disk_alias: Option<String>,
    cdrom_alias: Option<String>,
    network_alias: Option<String>,
}

impl BootOrder {
    /// Of the devices that are there from the start: the system's place for a network card goes to
    /// the first of them, since a guest can't boot from one that is not plugged in.
    fn of(domain: &Domain, withheld: &BTreeSet<String>) -> Self {
        let place = |device: &str| {
            let index = domain.os.boot.iter().position(|dev| dev == device)?;
            u32::try_from(index + 1).ok()
        };
        let first_disk = |kind: &str| {
            let mut disks = domain.devices.disks.iter();
            let disk = disks.find(|disk| disk.device == kind)?;
            disk.info.alias.clone()
        };
        Self {
            disk: place("hd"),
            cdrom: place("cdrom"),
            network: place("network"),
            disk_alias: first_disk("disk"),
            cdrom_alias: first_disk("cdrom"),
            network_alias: domain
                .devices
                .interfaces
                .iter()
                .find(|interface| !is_withheld(&interface.info, withheld))
                .and_then(|interface| interface.info.alias.clone()),
        }
    }

    /// The device's place, from 1; its own `<boot order>` counts before the system's.
    fn index(&self, info: &DeviceInfo) -> Option<u32> {
        let is = |first: &Option<String>| first.is_some() && *first == info.alias;
        info.boot_order.or(match () {
            () if is(&self.disk_alias) => self.disk,
            () if is(&self.cdrom_alias) => self.cdrom,
            () if is(&self.network_alias) => self.network,
            () => None,
        })
    }
}

/// As a shell would take it: a line that can be copied from the log and run.
impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", quoted(&self.program.to_string_lossy()))?;
        for arg in &self.args {
            // An option begins a line, so that people can read it.
            let gap = if arg.starts_with('-') { " \\\n" } else { " " };
            write!(f, "{gap}{}", quoted(arg))?;
        }
        Ok(())
    }
}

fn quoted(arg: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./,:@%^".contains(c);
    if !arg.is_empty() && arg.chars().all(plain) {
        return arg.to_owned();
    }
    format!("'{}'", arg.replace('\'', r"'\''"))
}
