//! Networks: defined, started, stopped, and what is asked about them.

mod host_access;
mod live;
mod metadata;
mod owner;
mod parameters;
mod port;
mod report;
mod table;
mod update;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use conf::{Form, ForwardMode, Network, NetworkPairs, Uuid, VfSettings};
use lending::NetworkProblem;
use rpc::flags::TakeXml;
use rpc::{Code, Domain, Error, Net, NetworkChange};
use tokio::sync::{mpsc, watch};

pub(crate) use live::NetworkRecord;
pub(crate) use port::{PortEntry, PortMaker, PortRecord};
pub(crate) use table::Ports;

use owner::{NetworkState, Work};

use crate::blocking::blocking;
use crate::daemon::Daemon;
use crate::fault::{self, Result};
use crate::registry::Named;

const DOMAIN: Domain = Domain::Network;

/// A network as everybody but its owner has it: something to look at, and somebody to ask.
#[derive(Debug)]
pub(crate) struct NetworkHandle {
    name: String,
    uuid: Uuid,
    mailbox: mpsc::Sender<Work>,
    view: watch::Receiver<Arc<NetworkState>>,
    /// The daemon stops, so that nobody hears any more.
    is_deaf: AtomicBool,
}

impl Named for NetworkHandle {
    fn name(&self) -> &str {
        &self.name
    }

    fn uuid(&self) -> Uuid {
        self.uuid
    }
}

impl NetworkHandle {
    /// The network as it is now. Waits for nobody.
    fn view(&self) -> Arc<NetworkState> {
        Arc::clone(&self.view.borrow())
    }

    /// How clients know it.
    pub(crate) fn net(&self) -> Net {
        Net {
            name: self.name.clone(),
            uuid: self.uuid,
        }
    }

    pub(crate) fn is_active(&self) -> bool {
        self.view().active.is_some()
    }

    pub(crate) fn is_persistent(&self) -> bool {
        self.view().defined.is_some()
    }

    /// Whether it is defined or runs. One that is not is only being asked for.
    pub(crate) fn is_known(&self) -> bool {
        self.view().network().is_some()
    }

    /// Whether it is started with the host.
    pub(crate) fn autostart(&self) -> bool {
        self.view().autostart
    }

    /// The bridge that guests are on, where there is one.
    pub(crate) fn bridge(&self) -> Result<String> {
        let view = self.view();
        view.network()
            .and_then(|network| network.ip.bridge.as_ref()?.name.clone())
            .ok_or_else(|| {
                let detail = format!("network '{}' does not have a bridge name", self.name);
                Error::new(Code::InternalError, DOMAIN, detail)
            })
    }

    /// Whether its guests get whole host devices.
    pub(crate) fn lends_host_devices(&self) -> bool {
        let view = self.view();
        let mode = view.network().and_then(|network| network.forward_mode());
        mode.is_some_and(ForwardMode::lends_host_devices)
    }

    /// Whether its guests get pairs; nothing, if it is going.
    pub(crate) fn pairs(&self) -> Option<NetworkPairs> {
        Some(self.view().network()?.pairs())
    }

    /// How a VF of the network is to be set, where an interface says nothing else.
    pub(crate) fn vf_settings(&self, own: Option<VfSettings>, group: Option<&str>) -> VfSettings {
        match &self.view().active {
            Some(network) => conf::merge_vf_settings(own, network, group),
            None => own.unwrap_or_default(),
        }
    }

    /// What is wrong with an interface that names a port group of it; it can still be mended.
    pub(crate) fn group_fault(&self, group: &str) -> Option<conf::Error> {
        self.view().network()?.wanted_port_group(Some(group)).err()
    }

    /// What runs.
    pub(crate) fn running(&self) -> Result<Arc<Network>> {
        let active = self.view().active.clone();
        active.ok_or_else(|| self.not_active())
    }

    fn not_active(&self) -> Error {
        fault::invalid(DOMAIN, format!("network '{}' is not active", self.name))
    }
}

/// Networks.
impl Daemon {
    /// The network that a client means.
    pub(crate) fn network(&self, net: &Net) -> Result<Arc<NetworkHandle>> {
        self.network_by_uuid(net.uuid)
    }

    pub(crate) fn network_by_uuid(&self, uuid: Uuid) -> Result<Arc<NetworkHandle>> {
        let handle = self.networks.by_uuid(uuid);
        handle
            .filter(|handle| handle.is_known())
            .ok_or_else(|| no_network(uuid))
    }

    pub(crate) fn network_by_name(&self, name: &str) -> Result<Arc<NetworkHandle>> {
        let handle = self.networks.by_name(name);
        handle.filter(|handle| handle.is_known()).ok_or_else(|| {
            let detail = format!("no network with matching name '{name}'");
            Error::new(Code::NoNetwork, DOMAIN, detail)
        })
    }

    /// What runs under that name.
    pub(crate) fn running_network(
        &self,
        name: &str,
    ) -> std::result::Result<Arc<Network>, NetworkProblem> {
        let handle = self
            .network_by_name(name)
            .map_err(|_| NetworkProblem::Unknown(name.to_owned()))?;
        // As ports are made on it: a plan of what its owner still shows would be of the past.
        self.ports.running(handle.uuid).ok_or_else(|| {
            let defined = handle.view().defined.clone();
            match defined.and_then(|network| live::check_served(&network).err()) {
                Some(why) => NetworkProblem::NotServed(why.detail().to_owned()),
                None => NetworkProblem::Inactive(name.to_owned()),
            }
        })
    }

    /// The networks that are defined, or run, in the order of their names.
    pub(crate) fn known_networks(&self) -> Vec<Arc<NetworkHandle>> {
        let mut all = self.networks.all();
        all.retain(|handle| handle.is_known());
        all
    }

    /// Keeps a definition. A running network goes on as it is, and has it at its next start.
    pub(crate) async fn define_network(
        self: &Arc<Self>,
        xml: String,
        flags: TakeXml,
    ) -> Result<Net> {
        let network = self.read_network(xml, flags).await?;
        let handle = self
            .ask_network(&network, |daemon, network, state| {
                let (store, xml) = (&daemon.network_store, network.to_xml(Form::Inactive));
                let written = match state.defined {
                    Some(_) => store.write(&network.name, &xml),
                    None => store.write_new(&network.name, &xml),
                };
                let what = format!("can't keep network '{}'", network.name);
                written.map_err(fault::file(DOMAIN, what))?;
                state.defined = Some(Arc::clone(network));
                state.tell(NetworkChange::Defined);
                Ok(())
            })
            .await?;
        Ok(handle.net())
    }

    /// Starts a network that is not kept.
    pub(crate) async fn create_network(
        self: &Arc<Self>,
        xml: String,
        flags: TakeXml,
    ) -> Result<Net> {
        let network = self.read_network(xml, flags).await?;
        let handle = self
            .ask_network(&network, |daemon, network, state| {
                daemon.activate(state, network)
            })
            .await?;
        Ok(handle.net())
    }

    /// Starts a defined network.
    pub(crate) async fn start_network(self: &Arc<Self>, handle: &NetworkHandle) -> Result<()> {
        let (daemon, name) = (Arc::clone(self), handle.name.clone());
        let start = move |state: &mut NetworkState| match state.defined.clone() {
            Some(network) => daemon.activate(state, &network),
            None => Err(already_active(&name)),
        };
        handle.request(start).await
    }

    /// Whether a network runs without a record.
    pub(crate) async fn lacks_record(self: &Arc<Self>, handle: &NetworkHandle) -> Result<bool> {
        let daemon = Arc::clone(self);
        let check = move |state: &mut NetworkState| {
            let running = state.active.as_ref();
            Ok(running.is_some_and(|active| !daemon.records.networks.has(active.uuid)))
        };
        handle.request(check).await
    }

    /// Records what runs once more.
    pub(crate) async fn record_running(self: &Arc<Self>, handle: &NetworkHandle) -> Result<()> {
        let daemon = Arc::clone(self);
        let record = move |state: &mut NetworkState| match &state.active {
            Some(active) => daemon.record_network(active),
            None => Ok(()),
        };
        handle.request(record).await
    }

    /// Stops a network. Guests keep the devices that they have from it.
    pub(crate) async fn stop_network(self: &Arc<Self>, handle: &NetworkHandle) -> Result<()> {
        let daemon = Arc::clone(self);
        let not_active = handle.not_active();
        let stop = move |state: &mut NetworkState| match state.active.clone() {
            Some(active) => {
                daemon.close_network(&active)?;
                state.active = None;
                state.tell(NetworkChange::Stopped);
                Ok(())
            }
            None => Err(not_active),
        };
        handle.request(stop).await
    }

    /// Forgets the definition. A running network goes on until it is stopped.
    pub(crate) async fn undefine_network(self: &Arc<Self>, handle: &NetworkHandle) -> Result<()> {
        let (daemon, name) = (Arc::clone(self), handle.name.clone());
        let undefine = move |state: &mut NetworkState| {
            if state.defined.is_none() {
                return Err(fault::invalid(DOMAIN, "can't undefine transient network"));
            }
            (daemon.network_store.remove(&name)).map_err(fault::file(
                DOMAIN,
                format!("can't forget network '{name}'"),
            ))?;
            state.defined = None;
            state.autostart = false;
            state.tell(NetworkChange::Undefined);
            Ok(())
        };
        handle.request(undefine).await
    }

    pub(crate) async fn set_network_autostart(
        self: &Arc<Self>,
        handle: &NetworkHandle,
        wanted: bool,
    ) -> Result<()> {
        let (daemon, name) = (Arc::clone(self), handle.name.clone());
        let mark = move |state: &mut NetworkState| {
            if state.defined.is_none() {
                let detail = "cannot set autostart for transient network";
                return Err(fault::invalid(DOMAIN, detail));
            }
            (daemon.network_store.set_autostart(&name, wanted))
                .map_err(fault::file(DOMAIN, format!("can't mark network '{name}'")))?;
            state.autostart = wanted;
            Ok(())
        };
        handle.request(mark).await
    }

    /// The document of a network, in the form that is asked for.
    pub(crate) fn network_xml(&self, handle: &NetworkHandle, inactive: bool) -> Result<String> {
        let view = handle.view();
        match (&view.active, &view.defined) {
            (Some(active), defined) if !(inactive && defined.is_some()) => {
                if inactive {
                    return Ok(active.to_xml(Form::Inactive));
                }
                Ok(self.live_network_xml(active))
            }
            (_, Some(defined)) => Ok(defined.to_xml(Form::Inactive)),
            _ => Err(handle.not_active()),
        }
    }

    /// Starts what is marked to start with the host.
    pub(crate) async fn autostart_networks(self: &Arc<Self>) {
        for handle in self.networks.all() {
            if handle.is_active() || !handle.autostart() {
                continue;
            }
            match self.start_network(&handle).await {
                Ok(()) => tracing::info!(network = handle.name, "started with the host"),
                Err(error) => tracing::error!(network = handle.name, %error, "not started"),
            }
        }
    }

    async fn read_network(self: &Arc<Self>, xml: String, flags: TakeXml) -> Result<Arc<Network>> {
        let daemon = Arc::clone(self);
        let read = blocking(DOMAIN, move || daemon.read_network_document(&xml, flags));
        Ok(Arc::new(read.await??))
    }

    /// A document as a client gave it, filled in as libvirt would. Blocks: it looks at the host.
    fn read_network_document(&self, xml: &str, flags: TakeXml) -> Result<Network> {
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
        network
            .check_listed(|address| {
                let error = self.host.virtual_function(address).err()?;
                Some((error.to_string(), error.advice()))
            })
            .map_err(fault::document(DOMAIN))?;
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

    /// Has the owner of the network of that name and uuid do something to it, new or known.
    async fn ask_network(
        self: &Arc<Self>,
        network: &Arc<Network>,
        work: impl Fn(&Arc<Self>, &Arc<Network>, &mut NetworkState) -> Result<()>
        + Clone
        + Send
        + 'static,
    ) -> Result<Arc<NetworkHandle>> {
        let Network { name, uuid, .. } = &**network;
        loop {
            let made = self
                .networks
                .get_or_insert(name, *uuid, || owner::make(self, name, *uuid));
            let handle = made.map_err(|clash| {
                let detail = clash.words("network", name, *uuid);
                Error::new(Code::OperationFailed, DOMAIN, detail)
            })?;
            let (daemon, network) = (Arc::clone(self), Arc::clone(network));
            let work = work.clone();
            let asked = handle.ask(move |state| work(&daemon, &network, state));
            // Forgotten meanwhile, it is a new one.
            if let Ok(done) = asked.await {
                return done.map(|()| handle);
            }
            tokio::task::yield_now().await;
        }
    }

    /// Makes a network run. Blocks: VFs may be made.
    fn activate(&self, state: &mut NetworkState, network: &Arc<Network>) -> Result<()> {
        if state.active.is_some() {
            return Err(already_active(&network.name));
        }
        self.open_network(network)?;
        Self::say_host_access(network);
        if let Err(error) = self.record_network(network) {
            self.close_host_access(network);
            self.lender.close_pool(&network.name);
            return Err(error);
        }
        self.ports.open(network);
        state.active = Some(Arc::clone(network));
        state.tell(NetworkChange::Started);
        Ok(())
    }
}

fn no_network(uuid: Uuid) -> Error {
    let detail = format!("no network with matching uuid '{uuid}'");
    Error::new(Code::NoNetwork, DOMAIN, detail)
}

fn already_active(name: &str) -> Error {
    fault::invalid(DOMAIN, format!("network '{name}' is already active"))
}
