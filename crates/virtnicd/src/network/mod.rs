//! Networks: defined, started, stopped, and what is asked about them.

mod host_access;
mod live;
mod metadata;
mod parameters;
mod port;
mod report;
mod update;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use conf::{Form, ForwardMode, Network, Uuid, VfSettings};
use rpc::flags::TakeXml;
use rpc::{Code, Domain, Error, Net, NetworkChange, NetworkLifecycle};

pub(crate) use host_access::NO_HOST_ACCESS;
pub(crate) use port::{PortEntry, PortMaker, PortSource, PortWish};

use crate::affect::Subject;
use crate::daemon::Daemon;
use crate::fault::{self, Result};
use crate::registry::{Clash, Named};
use crate::sync::lock;

const DOMAIN: Domain = Domain::Network;

/// A network that the daemon knows.
#[derive(Debug)]
pub(crate) struct NetworkObject {
    name: String,
    uuid: Uuid,
    state: Mutex<NetworkState>,
}

/// What can change about it. A network that is neither defined nor active is forgotten.
#[derive(Debug, Default)]
struct NetworkState {
    /// The definition on disk.
    defined: Option<Network>,
    /// What runs.
    active: Option<ActiveNetwork>,
    /// No longer in the registry: whoever still holds it must look again.
    forgotten: bool,
}

#[derive(Debug)]
struct ActiveNetwork {
    network: Arc<Network>,
    ports: HashMap<Uuid, PortEntry>,
}

impl NetworkState {
    /// What runs, or else what would.
    fn network(&self) -> Option<&Network> {
        let active = self.active.as_ref().map(|active| &*active.network);
        active.or(self.defined.as_ref())
    }

    /// The network of that name, as errors about it need it.
    fn subject<'a>(&self, name: &'a str) -> Subject<'a> {
        Subject {
            domain: DOMAIN,
            kind: "network",
            name,
            active: self.active.is_some(),
            persistent: self.defined.is_some(),
        }
    }
}

impl Named for NetworkObject {
    fn name(&self) -> &str {
        &self.name
    }

    fn uuid(&self) -> Uuid {
        self.uuid
    }
}

impl NetworkObject {
    fn new(network: &Network) -> Self {
        Self {
            name: network.name.clone(),
            uuid: network.uuid,
            state: Mutex::default(),
        }
    }

    /// How clients know it.
    pub(crate) fn net(&self) -> Net {
        Net {
            name: self.name.clone(),
            uuid: self.uuid,
        }
    }

    pub(crate) fn is_active(&self) -> bool {
        lock(&self.state).active.is_some()
    }

    pub(crate) fn is_persistent(&self) -> bool {
        lock(&self.state).defined.is_some()
    }

    /// The bridge that guests are on, where there is one.
    pub(crate) fn bridge(&self) -> Result<String> {
        let state = lock(&self.state);
        let network = state.network();
        network
            .and_then(|network| network.ip.bridge.as_ref()?.name.clone())
            .ok_or_else(|| {
                let detail = format!("network '{}' does not have a bridge name", self.name);
                Error::new(Code::InternalError, DOMAIN, detail)
            })
    }

    /// Whether its guests get whole host devices.
    pub(crate) fn lends_host_devices(&self) -> bool {
        let state = lock(&self.state);
        let network = state.network();
        network.and_then(Network::forward_mode) == Some(ForwardMode::Hostdev)
    }

    /// How a VF of the network is to be set, where an interface says nothing else.
    pub(crate) fn vf_settings(&self, own: Option<VfSettings>, group: Option<&str>) -> VfSettings {
        match &lock(&self.state).active {
            Some(active) => conf::merge_vf_settings(own, &active.network, group),
            None => own.unwrap_or_default(),
        }
    }

    /// What is wrong with an interface that names a port group of it; it can still be mended.
    pub(crate) fn group_fault(&self, group: &str) -> Option<conf::Error> {
        let state = lock(&self.state);
        state.network()?.wanted_port_group(Some(group)).err()
    }

    /// What runs.
    pub(crate) fn running(&self) -> Result<Arc<Network>> {
        let state = lock(&self.state);
        let active = state.active.as_ref().ok_or_else(|| self.not_active())?;
        Ok(Arc::clone(&active.network))
    }

    fn not_active(&self) -> Error {
        fault::invalid(DOMAIN, format!("network '{}' is not active", self.name))
    }
}

/// Networks.
impl Daemon {
    /// The network that a client means.
    pub(crate) fn network(&self, net: &Net) -> Result<Arc<NetworkObject>> {
        self.network_by_uuid(net.uuid)
    }

    pub(crate) fn network_by_uuid(&self, uuid: Uuid) -> Result<Arc<NetworkObject>> {
        self.networks.by_uuid(uuid).ok_or_else(|| {
            let detail = format!("no network with matching uuid '{uuid}'");
            Error::new(Code::NoNetwork, DOMAIN, detail)
        })
    }

    pub(crate) fn network_by_name(&self, name: &str) -> Result<Arc<NetworkObject>> {
        self.networks.by_name(name).ok_or_else(|| {
            let detail = format!("no network with matching name '{name}'");
            Error::new(Code::NoNetwork, DOMAIN, detail)
        })
    }

    /// Keeps a definition. A running network goes on as it is, and has it at its next start.
    pub(crate) fn define_network(&self, xml: &str, flags: TakeXml) -> Result<Net> {
        let network = self.read_network(xml, flags)?;
        let object = self.with_network(&network, |_, state| {
            self.network_store
                .write(&network.name, &network.to_xml(Form::Inactive))
                .map_err(fault::file(
                    DOMAIN,
                    format!("can't keep network '{}'", network.name),
                ))?;
            state.defined = Some(network.clone());
            Ok(())
        })?;
        self.tell_network(&object, NetworkChange::Defined);
        Ok(object.net())
    }

    /// Starts a network that is not kept.
    pub(crate) fn create_network(&self, xml: &str, flags: TakeXml) -> Result<Net> {
        let network = self.read_network(xml, flags)?;
        let object = self.with_network(&network, |object, state| {
            self.activate(object, state, network.clone())
        })?;
        self.tell_network(&object, NetworkChange::Started);
        Ok(object.net())
    }

    /// Starts a defined network.
    pub(crate) fn start_network(&self, object: &Arc<NetworkObject>) -> Result<()> {
        let mut state = lock(&object.state);
        let Some(network) = state.defined.clone() else {
            return Err(already_active(object));
        };
        self.activate(object, &mut state, network)?;
        drop(state);
        self.tell_network(object, NetworkChange::Started);
        Ok(())
    }

    /// Stops a network. Guests keep the devices that they have from it.
    pub(crate) fn stop_network(&self, object: &Arc<NetworkObject>) -> Result<()> {
        let mut state = lock(&object.state);
        let Some(active) = state.active.take() else {
            return Err(object.not_active());
        };
        self.close_network(object, active);
        self.forget_if_unused(object, &mut state);
        drop(state);
        self.tell_network(object, NetworkChange::Stopped);
        Ok(())
    }

    /// Forgets the definition. A running network goes on until it is stopped.
    pub(crate) fn undefine_network(&self, object: &Arc<NetworkObject>) -> Result<()> {
        let mut state = lock(&object.state);
        if state.defined.is_none() {
            return Err(fault::invalid(DOMAIN, "can't undefine transient network"));
        }
        self.network_store
            .remove(&object.name)
            .map_err(fault::file(
                DOMAIN,
                format!("can't forget network '{}'", object.name),
            ))?;
        state.defined = None;
        self.forget_if_unused(object, &mut state);
        drop(state);
        self.tell_network(object, NetworkChange::Undefined);
        Ok(())
    }

    pub(crate) fn network_autostart(&self, object: &NetworkObject) -> Result<bool> {
        if !object.is_persistent() {
            return Err(no_autostart());
        }
        Ok(self.network_store.autostart(&object.name))
    }

    pub(crate) fn set_network_autostart(&self, object: &NetworkObject, wanted: bool) -> Result<()> {
        if !object.is_persistent() {
            return Err(no_autostart());
        }
        self.network_store
            .set_autostart(&object.name, wanted)
            .map_err(fault::file(
                DOMAIN,
                format!("can't mark network '{}'", object.name),
            ))
    }

    /// The document of a network, in the form that is asked for.
    pub(crate) fn network_xml(&self, object: &NetworkObject, inactive: bool) -> Result<String> {
        let state = lock(&object.state);
        match (&state.active, &state.defined) {
            (Some(active), defined) if !(inactive && defined.is_some()) => {
                if inactive {
                    return Ok(active.network.to_xml(Form::Inactive));
                }
                Ok(self.live_network_xml(active))
            }
            (_, Some(defined)) => Ok(defined.to_xml(Form::Inactive)),
            _ => Err(object.not_active()),
        }
    }

    /// Starts what is marked to start with the host.
    pub(crate) fn autostart_networks(&self) {
        for object in self.networks.all() {
            if object.is_active() || !self.network_store.autostart(&object.name) {
                continue;
            }
            match self.start_network(&object) {
                Ok(()) => tracing::info!(network = object.name, "started with the host"),
                Err(error) => tracing::error!(network = object.name, %error, "not started"),
            }
        }
    }

    /// A document as a client gave it, filled in as libvirt would.
    fn read_network(&self, xml: &str, flags: TakeXml) -> Result<Network> {
        let mut network = Network::parse(xml).map_err(fault::document(DOMAIN))?;
        for unread in conf::grammar::unread(xml).map_err(fault::document(DOMAIN))? {
            if flags.contains(TakeXml::VALIDATE) {
                let detail = unread.to_string();
                return Err(Error::new(Code::XmlInvalidSchema, DOMAIN, detail));
            }
            tracing::warn!(network = network.name, "ignored: {unread}");
        }
        let own = network.name.clone();
        network
            .fill_defaults(|name| self.is_bridge_taken(&own, name))
            .map_err(fault::document(DOMAIN))?;
        network.validate().map_err(fault::document(DOMAIN))?;
        if let Some(forward) = &network.forward
            && let conf::PoolMembers::Addresses(addresses) = &forward.members
        {
            for address in addresses {
                self.host.virtual_function(*address).map_err(|error| {
                    let detail = format!("<address> of network '{}': {error}", network.name);
                    Error::new(Code::ConfigUnsupported, DOMAIN, detail)
                })?;
            }
        }
        Ok(network)
    }

    /// Whether another network or a device of the host has that name.
    fn is_bridge_taken(&self, network: &str, bridge: &str) -> bool {
        let others = self.networks.all();
        let mut others = others.iter().filter(|other| other.name != network);
        others.any(|other| other.bridge().is_ok_and(|name| name == bridge))
            || !matches!(
                self.host.pci_address_of(bridge),
                Err(host::HostError::NoNetdev(_))
            )
    }

    /// Does something to the network of that name and uuid, new or known. What is neither defined
    /// nor active afterwards is forgotten.
    fn with_network(
        &self,
        network: &Network,
        change: impl Fn(&Arc<NetworkObject>, &mut NetworkState) -> Result<()>,
    ) -> Result<Arc<NetworkObject>> {
        let Network { name, uuid, .. } = network;
        loop {
            let object = self
                .networks
                .get_or_insert(name, *uuid, || NetworkObject::new(network));
            let object = object.map_err(|clash| {
                let detail = match clash {
                    Clash::Name(other) => {
                        format!("network '{name}' already exists with uuid {other}")
                    }
                    Clash::Uuid(other) => {
                        format!("network '{other}' is already defined with uuid {uuid}")
                    }
                };
                Error::new(Code::OperationFailed, DOMAIN, detail)
            })?;
            let mut state = lock(&object.state);
            if state.forgotten {
                continue;
            }
            let changed = change(&object, &mut state);
            self.forget_if_unused(&object, &mut state);
            drop(state);
            return changed.map(|()| object);
        }
    }

    fn activate(
        &self,
        object: &NetworkObject,
        state: &mut NetworkState,
        network: Network,
    ) -> Result<()> {
        if state.active.is_some() {
            return Err(already_active(object));
        }
        self.open_network(&network)?;
        Self::say_host_access(&network);
        let mut active = ActiveNetwork {
            network: Arc::new(network),
            ports: HashMap::new(),
        };
        if let Err(error) = self.record_network(&active.network) {
            self.close_host_access(&active.network);
            self.lender.close_pool(&object.name);
            return Err(error);
        }
        let kept = lock(&self.parked_ports).remove(&object.uuid);
        let kept = kept.unwrap_or_default().into_iter();
        (active.ports).extend(kept.map(|entry| (entry.port.uuid, entry)));
        state.active = Some(active);
        Ok(())
    }

    fn forget_if_unused(&self, object: &Arc<NetworkObject>, state: &mut NetworkState) {
        if state.defined.is_none() && state.active.is_none() {
            self.networks.remove(object);
            state.forgotten = true;
        }
    }

    fn tell_network(&self, object: &NetworkObject, change: NetworkChange) {
        self.events.tell(NetworkLifecycle {
            net: object.net(),
            change,
        });
    }
}

fn already_active(object: &NetworkObject) -> Error {
    fault::invalid(
        DOMAIN,
        format!("network '{}' is already active", object.name),
    )
}

fn no_autostart() -> Error {
    fault::invalid(DOMAIN, "cannot set autostart for transient network")
}
