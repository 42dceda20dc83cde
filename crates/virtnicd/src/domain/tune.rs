//! Shaping of guests' interfaces and of networks' ports, while they are there: `virsh domiftune`,
//! and the parameters of ports.

use std::sync::Arc;

use conf::{Bandwidth, Interface, InterfaceSource, Uuid};
use rpc::{Code, DomainGetInterfaceParameters, DomainSetInterfaceParameters, Error, Params};
use tokio::task::block_in_place;

use super::interface::{Carrier, find};
use super::{DomainObject, QEMU};
use crate::affect::{Affected, Read};
use crate::bandwidth::{BandwidthChange, rate_params};
use crate::daemon::Daemon;
use crate::fault::{self, Result};
use crate::sync::lock;

impl DomainObject {
    /// The MAC of the interface that runs with that device, since a definition does not name it; any
    /// other text as it is.
    fn known_everywhere(&self, device: &str) -> String {
        let status = lock(&self.state);
        let running = status.running.as_ref();
        let interfaces = running.map_or(&[][..], |running| &running.domain.devices.interfaces);
        match find(interfaces, device, &self.name) {
            Ok(place) => interfaces[place].mac.to_string(),
            Err(_) => device.to_owned(),
        }
    }
}

/// Why what QEMU plays alone is not shaped.
const NO_DEVICE: &str = "its frames pass no device of this host";

impl Daemon {
    /// The rates of an interface.
    pub(crate) fn interface_bandwidth(
        &self,
        object: &DomainObject,
        args: &DomainGetInterfaceParameters,
    ) -> Result<Params> {
        let known = object.known_everywhere(&args.device);
        let status = lock(&object.state);
        let running = status.running.as_ref().map(|running| &running.domain);
        let (domain, device) = match status.subject(&object.name).read(args.flags)? {
            Read::Live => (running, &args.device),
            Read::Config => (status.defined.as_ref(), &known),
        };
        let interfaces = domain.map_or(&[][..], |domain| &domain.devices.interfaces);
        let place = find(interfaces, device, &object.name)?;
        let params = rate_params(bandwidth_of(&interfaces[place]));
        Ok(asked(params, args.nparams))
    }

    /// Sets the rates of an interface, or some of them.
    pub(crate) async fn set_interface_bandwidth(
        &self,
        object: &Arc<DomainObject>,
        args: &DomainSetInterfaceParameters,
    ) -> Result<()> {
        let change = BandwidthChange::parse(QEMU, &args.params)?;
        let _job = object.job.lock().await;
        let affected = object.affected(args.flags)?;
        let device = object.known_everywhere(&args.device);
        if affected.config {
            self.check_config_bandwidth(object, &device, &change)?;
        }
        let changed = |domain: &mut conf::Domain, which| {
            let interfaces = &mut domain.devices.interfaces;
            let device = match which {
                Read::Live => &args.device,
                Read::Config => &device,
            };
            let place = find(interfaces, device, &object.name)?;
            let interface = &mut interfaces[place];
            let new = change.apply(bandwidth_of(interface));
            match &mut interface.actual {
                Some(actual) => actual.bandwidth = new,
                None => interface.bandwidth = new,
            }
            Ok(())
        };
        self.change_domain(object, affected, changed).await
    }

    /// A definition that no start could carry out is refused now.
    fn check_config_bandwidth(
        &self,
        object: &DomainObject,
        device: &str,
        change: &BandwidthChange,
    ) -> Result<()> {
        let status = lock(&object.state);
        let defined = status.defined.as_ref();
        let interfaces = defined.map_or(&[][..], |domain| &domain.devices.interfaces);
        let interface = &interfaces[find(interfaces, device, &object.name)?];
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

    /// Shapes what carries an interface as its new document says, and has its port say so.
    pub(super) fn shape_interface(
        &self,
        object: &DomainObject,
        old: &Interface,
        new: &Interface,
    ) -> Result<()> {
        let lines = self.lender.of_guest(object.uuid);
        let claim = match Carrier::of(new, object.uuid, &lines) {
            Carrier::Link { claim, .. } => claim,
            Carrier::Vf { .. } => return Err(no_shaping_of_a_vf(new)),
            Carrier::Nothing => return Err(unshaped(new, NO_DEVICE)),
        };
        let port = new.actual.as_ref().map(|actual| actual.port);
        let on_port = |bandwidth: Option<&Bandwidth>| match port {
            Some(port) => self.put_port_bandwidth(port, bandwidth.cloned()),
            None => Ok(()),
        };
        let shape = |bandwidth: Option<&Bandwidth>| {
            let bandwidth = bandwidth.cloned().unwrap_or_default();
            block_in_place(|| self.lender.set_bandwidth(claim, &bandwidth))
                .map_err(fault::lending::change)
        };
        on_port(bandwidth_of(new))?;
        shape(bandwidth_of(new)).inspect_err(|_| {
            // A shaping that fails is none, not the one before.
            let back = on_port(bandwidth_of(old)).and_then(|()| shape(bandwidth_of(old)));
            if let Err(error) = back {
                tracing::error!(guest = object.name, %error, "an interface is not shaped");
            }
        })
    }

    /// Shapes the interface that runs on a port. False: none does.
    pub(crate) async fn shape_port(
        &self,
        object: &DomainObject,
        port: Uuid,
        change: &BandwidthChange,
    ) -> Result<bool> {
        let _job = object.job.lock().await;
        let runs = {
            let status = lock(&object.state);
            let running = status.running.as_ref();
            let interfaces = running.map_or(&[][..], |running| &running.domain.devices.interfaces);
            (interfaces.iter())
                .filter_map(|interface| interface.actual.as_ref())
                .any(|actual| actual.port == port)
        };
        if !runs {
            return Ok(false);
        }
        let live = Affected {
            live: true,
            config: false,
        };
        let changed = |domain: &mut conf::Domain, _| {
            let interfaces = domain.devices.interfaces.iter_mut();
            let mut actual = interfaces.filter_map(|interface| interface.actual.as_mut());
            if let Some(actual) = actual.find(|actual| actual.port == port) {
                actual.bandwidth = change.apply(actual.bandwidth.as_ref());
            }
            Ok(())
        };
        self.change_domain(object, live, changed).await?;
        Ok(true)
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
