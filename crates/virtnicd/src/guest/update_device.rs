//! `virsh update-device` and `virsh domif-setlink`: a device is made like one that is given, in what
//! runs as far as that can be changed, in the definition as it could have been defined.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use conf::xml::{Document, Element};
use conf::{Device, DeviceRef, Form, Interface, InterfaceSource, Plug};
use lending::PortSource;
use rpc::flags::ModifyDevice;
use rpc::{Code, DomainUpdateDeviceFlags, Error};

use super::change::{self, Direction};
use super::definition::WriteWhat;
use super::handle::Run;
use super::hotplug::{Meant, check_carried_out, read_device};
use super::owner::Done;
use super::{GuestHandle, QEMU, Request, medium};
use crate::blocking::blocking;
use crate::daemon::Daemon;
use crate::fault::{self, Result};

/// Makes a device of a guest like the one that is given.
pub(crate) async fn update_device(
    handle: &GuestHandle,
    args: &DomainUpdateDeviceFlags,
) -> Result<()> {
    let device = read_device(&args.xml).await?;
    let is_changeable = device.interface().is_some() || device.disk().is_some();
    if !is_changeable {
        return Err(never(&device));
    }
    let update = Request::Update {
        flags: args.flags.into(),
        device: Arc::new(device),
        force: args.flags.contains(ModifyDevice::FORCE),
    };
    handle.request(update).await
}

/// Changes what runs, and says what its definition becomes, if that is changed, too.
pub(super) async fn carry_out(
    daemon: &Arc<Daemon>,
    handle: &GuestHandle,
    run: &Run,
    defined: Option<Arc<conf::Domain>>,
    (device, direction): (Arc<Device>, Direction),
) -> Done {
    let (on_host, now) = (Arc::clone(daemon), run.domain.clone());
    let documents = blocking(QEMU, move || {
        let new = on_host.running_as(&now, &device)?;
        let config = defined.map(|defined| on_host.definition_as(&defined, Some(&now), &device));
        Ok((new, config.transpose()?))
    });
    let (new, config) = match documents.await {
        Ok(Ok(documents)) => documents,
        Ok(Err(error)) | Err(error) => return Done::Changed(Err(error), None),
    };
    let old = run.domain.clone();
    let changed = change::follow(daemon, handle, run, old, new, direction).await;
    // Clients are told of it as of any other definition.
    let what = config.map(|config| WriteWhat::Define {
        domain: Arc::new(config),
        is_new: false,
    });
    Done::Changed(changed.map(Box::new), what)
}

impl Daemon {
    /// A definition in which a device is as it is given, filled in as if it had been defined so. Blocks.
    pub(super) fn definition_as(
        &self,
        defined: &conf::Domain,
        running: Option<&conf::Domain>,
        device: &Arc<Device>,
    ) -> Result<conf::Domain> {
        let mut domain = defined.clone();
        let place = Meant::Like(Arc::clone(device)).find(&domain)?;
        match (place, device.interface(), device.disk()) {
            (DeviceRef::Interface(at), Some(given), _) => {
                let own = &mut domain.devices.interfaces[at];
                let mut running = running.into_iter().flat_map(|running| {
                    let interfaces = running.devices.interfaces.iter();
                    interfaces.filter(|one| one.info.address == own.info.address)
                });
                let running = running.find(|one| one.mac == own.mac);
                let new = defined_interface(own, given, device, running);
                new.check_resolved().map_err(|error| {
                    let name = format!("interface {}: ", new.mac);
                    fault::document(QEMU)(error).preceded_by(&name)
                })?;
                *own = new;
            }
            (DeviceRef::Disk(at), _, Some(given)) => {
                let own = &mut domain.devices.disks[at];
                *own = medium::defined_as(own, given)?;
            }
            _ => return Err(never(device)),
        }
        let filled = self.filled(domain, &conf::KeptPlaces::default())?;
        filled.check_kept().map_err(fault::document(QEMU))?;
        Ok(filled)
    }

    /// The same of what runs; refused, if it has to be started anew for that.
    fn running_as(&self, running: &conf::Domain, device: &Arc<Device>) -> Result<conf::Domain> {
        let mut domain = running.clone();
        let place = Meant::Like(Arc::clone(device)).find(&domain)?;
        match (place, device.disk()) {
            (DeviceRef::Interface(at), _) if device.interface().is_some() => {
                let own = &running.devices.interfaces[at];
                domain.devices.interfaces[at] = self.running_interface(running, own, device)?;
            }
            (DeviceRef::Disk(at), Some(given)) => {
                let own = &mut domain.devices.disks[at];
                *own = medium::running_with(own, given)?;
                check_carried_out(running, &domain)?;
            }
            _ => return Err(never(device)),
        }
        domain.check_kept().map_err(fault::document(QEMU))?;
        Ok(domain)
    }

    fn running_interface(
        &self,
        running: &conf::Domain,
        own: &Interface,
        device: &Device,
    ) -> Result<Interface> {
        let given = device.interface().unwrap_or(own);
        let (given, seen) = seen(own, given, device.mac().is_some())?;
        let differing = differing(&given, &seen);
        let kind = Carried::of(own);
        let moves = differing.iter().any(|what| kind.is_source(what));
        let may_move = !moves || kind != Carried::Tap || self.has_bridge(&given.source)?;
        let refused: Vec<_> = (differing.iter())
            .filter(|what| !kind.can_change(what, may_move))
            .map(String::as_str)
            .collect();
        if !refused.is_empty() {
            return Err(kind.refusal(own, &refused));
        }
        let mut new = own.clone();
        let is_other = |what: &str| differing.contains(what);
        new.link_up = given.link_up;
        if moves {
            new.source = given.source;
        }
        if is_other(VLAN) {
            new.vlan = given.vlan;
        }
        if is_other(PORT) {
            new.isolated = given.isolated;
        }
        if is_other(BANDWIDTH) {
            new.bandwidth = given.bandwidth;
        }
        if is_other(TRUST) {
            new.trust_guest_rx_filters = given.trust_guest_rx_filters;
        }
        self.merge_settings(running, &mut new, is_other(BANDWIDTH), is_other(TRUST))?;
        let named = |error: Error| error.preceded_by(&format!("interface {}: ", own.mac));
        let trusts = super::rx_filter::is_trusted(&new) && is_other(TRUST);
        if trusts && kind == Carried::Macvtap && !new.is_virtio() {
            let detail = "QEMU tells the receive filters of virtio models alone, so that \
                          trustGuestRxFilters can't be followed";
            let error = Error::new(Code::OperationUnsupported, QEMU, detail);
            return Err(named(error));
        }
        // Where it moves it is checked when it is known what that network has.
        if !super::seat::is_moved(own, &new) {
            let checked = new.check_resolved();
            checked.map_err(|error| named(fault::document(QEMU)(error)))?;
        }
        Ok(new)
    }

    /// What its port says of the interface, where its network has a say in that.
    fn merge_settings(
        &self,
        running: &conf::Domain,
        new: &mut Interface,
        bandwidth: bool,
        trust: bool,
    ) -> Result<()> {
        let InterfaceSource::Network { network, .. } = &new.source else {
            return Ok(());
        };
        if !(bandwidth || trust) || new.actual.is_none() {
            return Ok(());
        }
        let (shaped, trusted) = match self.running_network(network) {
            Ok(network) => {
                let port = lending::merge_again(running, new, &network);
                let port = port.map_err(fault::document(QEMU))?;
                (port.bandwidth, port.trust_guest_rx_filters)
            }
            // A guest outlives the time that its network runs.
            Err(_) => (new.bandwidth.clone(), new.trust_guest_rx_filters),
        };
        if let Some(actual) = &mut new.actual {
            if bandwidth {
                actual.bandwidth = shaped;
            }
            if trust {
                actual.trust_guest_rx_filters = trusted;
            }
        }
        Ok(())
    }

    /// Whether a tap can stand there.
    fn has_bridge(&self, source: &InterfaceSource) -> Result<bool> {
        match source {
            InterfaceSource::Bridge { .. } => Ok(true),
            InterfaceSource::Network { network, .. } => {
                let network = self.running_network(network);
                let network = network.map_err(|problem| fault::lending::network(&problem))?;
                let source = PortSource::of(&network, None);
                Ok(matches!(source, Ok(PortSource::Bridge(_))))
            }
            _ => Ok(false),
        }
    }
}

const VLAN: &str = "<vlan>";
const PORT: &str = "<port>";
const BANDWIDTH: &str = "<bandwidth>";
const TRUST: &str = "'trustGuestRxFilters'";

/// What carries a running interface, as far as it matters for what can be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carried {
    /// The guest has the device itself.
    Device,
    Macvtap,
    /// A tap in a bridge.
    Tap,
    /// One that others connect.
    LoneTap,
    /// QEMU alone.
    Qemu,
}

impl Carried {
    fn of(interface: &Interface) -> Self {
        match (&interface.actual, &interface.source) {
            (Some(actual), _) => match actual.plug {
                Plug::HostdevPci { .. } => Self::Device,
                Plug::Direct { .. } => Self::Macvtap,
                Plug::Bridge { .. } | Plug::Network { .. } => Self::Tap,
            },
            (None, InterfaceSource::Hostdev { .. }) => Self::Device,
            (None, InterfaceSource::Direct { .. }) => Self::Macvtap,
            (None, InterfaceSource::Bridge { .. }) => Self::Tap,
            (None, InterfaceSource::Ethernet) => Self::LoneTap,
            _ => Self::Qemu,
        }
    }

    fn is_source(self, what: &str) -> bool {
        ["'type'", "<source>"].contains(&what)
    }

    fn can_change(self, what: &str, may_move: bool) -> bool {
        match self {
            Self::Device | Self::Qemu => false,
            Self::LoneTap => what == BANDWIDTH,
            Self::Macvtap => [BANDWIDTH, TRUST].contains(&what),
            Self::Tap if self.is_source(what) => may_move,
            Self::Tap => [BANDWIDTH, TRUST, VLAN, PORT].contains(&what),
        }
    }

    /// All that is refused, and what is not.
    fn refusal(self, interface: &Interface, what: &[&str]) -> Error {
        let (kind, can) = match self {
            Self::Device => ("hostdev", "its link alone can"),
            Self::Macvtap => (
                "direct",
                "its link, <bandwidth> and trustGuestRxFilters can",
            ),
            Self::Tap => (
                "bridge",
                "its link, <bandwidth>, <vlan> and <port> can, and it can go to another bridge or \
                 bridge network",
            ),
            Self::LoneTap => ("ethernet", "its link and <bandwidth> can"),
            Self::Qemu => (interface.source.kind(), "its link alone can"),
        };
        let detail = format!(
            "of interface {}, which is of type '{kind}', these can't be changed while its guest \
             runs: {}\nOf one of that type {can}; with --config all of it changes with the next \
             start.",
            interface.mac,
            what.join(", ")
        );
        Error::new(Code::OperationUnsupported, QEMU, detail)
    }
}

/// An interface of a definition as it is given. What names it stays.
fn defined_interface(
    own: &Interface,
    given: &Interface,
    device: &Device,
    running: Option<&Interface>,
) -> Interface {
    let mut new = given.clone();
    if device.mac().is_none() {
        (new.mac, new.mac_generated) = (own.mac, own.mac_generated);
    }
    let info = &mut new.info;
    info.address = info.address.take().or_else(|| own.info.address.clone());
    info.alias = info.alias.take().or_else(|| own.info.alias.clone());
    // Who hands back what was shown of the running guest does not mean to define what the network
    // says today.
    if let Some(actual) = running.and_then(|running| running.actual.as_ref()) {
        if new.vlan == actual.vlan {
            new.vlan.clone_from(&own.vlan);
        }
        if new.virtual_port == actual.virtual_port {
            new.virtual_port.clone_from(&own.virtual_port);
        }
        if new.bandwidth == actual.bandwidth {
            new.bandwidth.clone_from(&own.bandwidth);
        }
        if new.isolated == actual.isolated {
            new.isolated = own.isolated;
        }
        if new.trust_guest_rx_filters == actual.trust_guest_rx_filters {
            new.trust_guest_rx_filters = own.trust_guest_rx_filters;
        }
    }
    new
}

/// The document that a client has changed, as far as that can be told: the interface as it runs or as
/// it is defined, whichever is the nearer one; and what it gave, with what was filled in for it and may
/// be left out.
fn seen(own: &Interface, given: &Interface, has_mac: bool) -> Result<(Interface, Interface)> {
    let shown = |form| Interface::parse(&own.to_xml(form)).map_err(fault::document(QEMU));
    let completed = |form: &Interface| {
        let mut given = given.clone();
        if !has_mac {
            (given.mac, given.mac_generated) = (form.mac, form.mac_generated);
        }
        let info = &mut given.info;
        info.address = info.address.take().or_else(|| form.info.address.clone());
        info.alias = info.alias.take().or_else(|| form.info.alias.clone());
        given.model = given.model.take().or_else(|| form.model.clone());
        if given.target_name().is_none() {
            given.target.clone_from(&form.target);
        }
        given
    };
    let (defined, runs) = (shown(Form::Inactive)?, shown(Form::Live)?);
    let as_defined = (completed(&defined), defined);
    let as_runs = (completed(&runs), runs);
    let distance = |(given, form): &(Interface, Interface)| differing(given, form).len();
    Ok(match distance(&as_defined) <= distance(&as_runs) {
        true => as_defined,
        false => as_runs,
    })
}

/// The attributes of an interface, and the elements directly in it, that another has otherwise; its
/// link apart.
fn differing(given: &Interface, own: &Interface) -> BTreeSet<String> {
    let link_up = own.link_up;
    let given = Interface {
        link_up,
        ..given.clone()
    };
    let texts = [&given, own].map(|interface| interface.to_xml(Form::Live));
    let [given, own] = &texts;
    let (Ok(given), Ok(own)) = (Document::parse(given), Document::parse(own)) else {
        return BTreeSet::new();
    };
    let (given, own) = (parts(given.root()), parts(own.root()));
    let names: BTreeSet<&String> = given.keys().chain(own.keys()).collect();
    let differs = |name: &&String| given.get(*name) != own.get(*name);
    names.into_iter().filter(differs).cloned().collect()
}

/// What stands in an element, by name.
fn parts(element: Element<'_>) -> BTreeMap<String, Vec<String>> {
    let mut parts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let attributes = element.attributes();
    // It is ours to write where it is needed.
    let attributes = attributes.filter(|(name, _)| !name.starts_with("xmlns"));
    let attributes = attributes.map(|(name, value)| (format!("'{name}'"), value.to_owned()));
    let children = element.children();
    let children = children.map(|one| (format!("<{}>", one.name()), one.raw().as_str().to_owned()));
    for (name, text) in attributes.chain(children) {
        parts.entry(name).or_default().push(text);
    }
    parts
}

fn never(device: &Device) -> Error {
    let detail = format!(
        "a <{}> can't be changed while its guest is there",
        device.name()
    );
    Error::new(Code::OperationUnsupported, QEMU, detail)
}
