//! Shaping of guests' interfaces and of networks' ports, while they are there: `virsh domiftune`,
//! and the parameters of ports.

use std::sync::Arc;

use conf::{Bandwidth, Interface, InterfaceSource, Uuid};
use rpc::flags::Affect;
use rpc::{Code, DomainGetInterfaceParameters, DomainSetInterfaceParameters, Error, Params};

use super::change::Edit;
use super::handle::{Run, View};
use super::interface::{Carrier, find};
use super::{GuestHandle, QEMU, Request};
use crate::affect::Read;
use crate::bandwidth::{BandwidthChange, rate_params};
use crate::blocking::blocking;
use crate::daemon::Daemon;
use crate::fault::{self, Result};

/// The MAC of the interface that runs with that device, since a definition does not name it; any
/// other text as it is.
fn known_everywhere(view: &View, device: &str, guest: &str) -> String {
    let interfaces = view.live_interfaces();
    match find(interfaces, device, guest) {
        Ok(place) => interfaces[place].mac.to_string(),
        Err(_) => device.to_owned(),
    }
}

/// Why what QEMU plays alone is not shaped.
const NO_DEVICE: &str = "its frames pass no device of this host";

impl Daemon {
    /// Sets the rates of an interface, or some of them.
    pub(crate) async fn set_interface_bandwidth(
        self: &Arc<Self>,
        handle: &GuestHandle,
        args: &DomainSetInterfaceParameters,
    ) -> Result<()> {
        let change = BandwidthChange::parse(QEMU, &args.params)?;
        let (daemon, guest) = (Arc::clone(self), handle.name.clone());
        let (device, flags) = (args.device.clone(), args.flags.into());
        let edit = Edit::new(move |domain, which, view| {
            let everywhere = known_everywhere(view, &device, &guest);
            let interfaces = &mut domain.devices.interfaces;
            let device = match which {
                Read::Live => &device,
                Read::Config => &everywhere,
            };
            let place = find(interfaces, device, &guest)?;
            let interface = &mut interfaces[place];
            if which == Read::Config {
                daemon.check_config_bandwidth(interface, &change)?;
            }
            let new = change.apply(bandwidth_of(interface));
            put_bandwidth(interface, new);
            Ok(())
        });
        handle.request(Request::Change { flags, edit }).await
    }

    /// A definition that no start could carry out is refused now.
    fn check_config_bandwidth(
        &self,
        interface: &Interface,
        change: &BandwidthChange,
    ) -> Result<()> {
        let lends = |network: &String| {
            let network = self.networks.by_name(network);
            network.is_some_and(|network| network.lends_host_devices())
        };
        match &interface.source {
            InterfaceSource::Hostdev { .. } => Err(no_shaping_of_a_vf(interface)),
            InterfaceSource::Network { network, .. } if lends(network) => {
                Err(no_shaping_of_a_vf(interface))
            }
            InterfaceSource::Network { .. } => Ok(()),
            InterfaceSource::Direct { .. }
            | InterfaceSource::Bridge { .. }
            | InterfaceSource::Ethernet
                if !change.has_floor() =>
            {
                Ok(())
            }
            InterfaceSource::Direct { .. }
            | InterfaceSource::Bridge { .. }
            | InterfaceSource::Ethernet => Err(unshaped(
                interface,
                "a floor is a network's to guarantee, so that its interfaces only can have one",
            )),
            _ => Err(unshaped(interface, NO_DEVICE)),
        }
    }

    /// Shapes the interface that runs on a port. False: none does.
    pub(crate) async fn shape_port(
        &self,
        handle: &GuestHandle,
        port: Uuid,
        change: BandwidthChange,
    ) -> Result<bool> {
        let is_its = move |interface: &Interface| {
            interface
                .actual
                .as_ref()
                .is_some_and(|actual| actual.port == port)
        };
        if !handle.view().live_interfaces().iter().any(is_its) {
            return Ok(false);
        }
        let edit = Edit::new(move |domain, _, _| {
            let mut interfaces = domain.devices.interfaces.iter_mut();
            if let Some(interface) = interfaces.find(|interface| is_its(interface)) {
                let new = change.apply(bandwidth_of(interface));
                put_bandwidth(interface, new);
            }
            Ok(())
        });
        let flags = Affect::LIVE;
        handle.request(Request::Change { flags, edit }).await?;
        Ok(true)
    }
}

/// The rates of an interface.
pub(crate) fn interface_bandwidth(
    handle: &GuestHandle,
    args: &DomainGetInterfaceParameters,
) -> Result<Params> {
    let view = handle.view();
    let known = known_everywhere(&view, &args.device, &handle.name);
    let (domain, device) = match view.subject(&handle.name).read(args.flags)? {
        Read::Live => (view.run.as_ref().map(|run| &run.domain), &args.device),
        Read::Config => (view.defined.as_deref(), &known),
    };
    let interfaces = domain.map_or(&[][..], |domain| &domain.devices.interfaces);
    let place = find(interfaces, device, &handle.name)?;
    let params = rate_params(bandwidth_of(&interfaces[place]));
    Ok(asked(params, args.nparams))
}

/// Shapes what carries an interface as its new document says, and has its port say so.
pub(super) async fn shape_interface(
    daemon: &Arc<Daemon>,
    handle: &GuestHandle,
    run: &Run,
    old: &Interface,
    new: &Interface,
) -> Result<()> {
    let claim = match Carrier::of(new, run, &daemon.lender) {
        Carrier::Link { claim, .. } => claim,
        Carrier::Vf { .. } => return Err(no_shaping_of_a_vf(new)),
        Carrier::Nothing => return Err(unshaped(new, NO_DEVICE)),
    };
    let port = new.actual.as_ref().map(|actual| actual.port);
    let (daemon, guest) = (Arc::clone(daemon), handle.name.clone());
    let (old, new) = (bandwidth_of(old).cloned(), bandwidth_of(new).cloned());
    blocking(QEMU, move || {
        let on_port = |bandwidth: &Option<Bandwidth>| match port {
            Some(port) => daemon.put_port_bandwidth(port, bandwidth.clone()),
            None => Ok(()),
        };
        let shape = |bandwidth: &Option<Bandwidth>| {
            let bandwidth = bandwidth.clone().unwrap_or_default();
            (daemon.lender.set_bandwidth(claim, &bandwidth)).map_err(fault::lending::change)
        };
        on_port(&new)?;
        shape(&new).inspect_err(|_| {
            // A shaping that fails is none, not the one before.
            let back = on_port(&old).and_then(|()| shape(&old));
            if let Err(error) = back {
                tracing::error!(guest, %error, "an interface is not shaped");
            }
        })
    })
    .await?
}

/// Has an interface's document say how it is shaped.
pub(super) fn put_bandwidth(interface: &mut Interface, bandwidth: Option<Bandwidth>) {
    match &mut interface.actual {
        Some(actual) => actual.bandwidth = bandwidth,
        None => interface.bandwidth = bandwidth,
    }
}

/// The shaping that counts: its port's, where it has one.
pub(super) fn bandwidth_of(interface: &Interface) -> Option<&Bandwidth> {
    match &interface.actual {
        Some(actual) => actual.bandwidth.as_ref(),
        None => interface.bandwidth.as_ref(),
    }
}

/// First the client asks how many there are, with 0.
fn asked(params: Vec<rpc::TypedParam>, room: i32) -> Params {
    let nparams = i32::try_from(params.len()).unwrap_or(i32::MAX);
    let room = usize::try_from(room).unwrap_or(0);
    Params {
        params: params.into_iter().take(room).collect(),
        nparams,
    }
}

fn no_shaping_of_a_vf(interface: &Interface) -> Error {
    unshaped(
        interface,
        "a host device passes no frames through this host; its VF can be limited as a whole: \
         <virtnic:vf rate='…'/>",
    )
}

fn unshaped(interface: &Interface, why: &str) -> Error {
    let detail = format!("interface {} can't be shaped: {why}", interface.mac);
    Error::new(Code::OperationUnsupported, QEMU, detail)
}
