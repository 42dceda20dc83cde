//! Ports: the places of guests' interfaces in a network.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use assign::{Generation, Origin};
use conf::{ForwardMode, Network, NetworkPort, Plug, Uuid};
use lending::{
    PlannedPort, PoolRequest, PortSource, Share, check_bridge, device_named, port_holder,
    whole_or_part,
};
use rpc::flags::CreatePort;
use rpc::{Code, Domain, Error, Port};
use serde::{Deserialize, Serialize};
use tokio::task::block_in_place;

use super::table::NoPlace;
use super::{DOMAIN, NetworkHandle};
use crate::daemon::Daemon;
use crate::fault::{self, Result};

/// A port, and the claim on its device.
#[derive(Debug, Clone)]
pub(crate) struct PortEntry {
    pub(crate) port: NetworkPort,
    pub(crate) claim: Option<Generation>,
    maker: PortMaker,
    /// When it was made.
    pub(crate) since: SystemTime,
}

/// Who made a port, and so who removes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PortMaker {
    /// The start of a guest here.
    Guest,
    /// A client, such as `virsh net-port-create` or another daemon.
    Client,
}

/// A port, for the next daemon.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PortRecord {
    pub(super) uuid: Uuid,
    pub(super) network: Uuid,
    pub(super) guest: Uuid,
    pub(super) maker: PortMaker,
    since: SystemTime,
    xml: String,
}

impl PortRecord {
    /// Of this layout; a later one gets another number.
    pub(crate) const FORMAT: u32 = 1;
}

/// The network of a port that another daemon made.
#[derive(Debug, Clone, Copy)]
pub(super) enum OfRestored<'a> {
    Running(&'a Network),
    /// Its record can't be read.
    MayRun,
    Inactive,
}

impl PortEntry {
    pub(super) fn maker(&self) -> PortMaker {
        self.maker
    }
}

impl NetworkHandle {
    /// How clients know a port of it.
    pub(crate) fn port_handle(&self, uuid: Uuid) -> Port {
        Port {
            net: self.net(),
            uuid,
        }
    }
}

/// Ports.
impl Daemon {
    /// The ports of a running network, by identity.
    pub(crate) fn ports_of(&self, handle: &NetworkHandle) -> Result<Vec<PortEntry>> {
        handle.running()?;
        Ok(self.ports.all(handle.uuid))
    }

    /// A port, as it is now.
    pub(crate) fn port(&self, handle: &NetworkHandle, uuid: Uuid) -> Result<PortEntry> {
        handle.running()?;
        let entry = self.ports.get(handle.uuid, uuid);
        entry.ok_or_else(|| no_port(uuid))
    }

    /// The claim of a guest's port.
    pub(crate) fn claim_of(&self, port: lending::PortId) -> Option<Generation> {
        self.ports.get(port.network, port.port)?.claim
    }

    /// Makes a port as a client asks for it.
    pub(crate) fn create_port(
        &self,
        object: &Arc<NetworkHandle>,
        xml: &str,
        flags: CreatePort,
    ) -> Result<Port> {
        let wanted = NetworkPort::parse(xml).map_err(fault::document(DOMAIN))?;
        if flags.contains(CreatePort::VALIDATE) {
            fault::all_read(DOMAIN, xml)?;
        }
        let uuid = wanted.uuid;
        let refused = match (&wanted.plug, flags.contains(CreatePort::RECLAIM)) {
            (Some(_), false) => "a port that is to be made must not have a <plug>",
            (None, true) => "a port that is to be reclaimed needs its <plug>",
            _ => {
                self.make_port(object, wanted)?;
                return Ok(object.port_handle(uuid));
            }
        };
        Err(Error::new(Code::InvalidArg, DOMAIN, refused))
    }

    /// Makes a client's port: chooses its device, claims it and records it. With a plug: that very
    /// device.
    fn make_port(&self, object: &Arc<NetworkHandle>, wanted: NetworkPort) -> Result<()> {
        while !self.try_make_port(object, wanted.clone())? {}
        Ok(())
    }

    /// The same; false: the network was changed meanwhile, and what was chosen is of the past.
    fn try_make_port(&self, object: &Arc<NetworkHandle>, wanted: NetworkPort) -> Result<bool> {
        // As the table has it: what the owner shows may be behind, and would be no better next time.
        let network = self.ports.running(object.uuid);
        let network = network.ok_or_else(|| object.not_active())?;
        if self.ports.get(object.uuid, wanted.uuid).is_some() {
            return Err(port_exists(wanted.uuid));
        }
        let mut port = conf::merge_port(wanted, &network).map_err(fault::document(DOMAIN))?;
        if port.plug.is_none()
            && network
                .forward_mode()
                .is_some_and(ForwardMode::lends_host_devices)
        {
            lending::check_host_port(&port).map_err(|error| fault::lending::wish(&error))?;
        }
        let holder = port_holder(Some(&network), &port);
        let claim = match &port.plug {
            None => match PortSource::of(&network, None).map_err(fault::document(DOMAIN))? {
                PortSource::Pool(mode) => {
                    let request = PoolRequest {
                        network: &network,
                        mode,
                        holder: &holder,
                        numa_nodes: &[],
                        from: lending::Source::Anywhere,
                        is_promised: false,
                    };
                    let mut excluded = BTreeMap::new();
                    // The common case is spared a change of threads, which would take as long as
                    // all the rest.
                    let at_rest = self.lender.choose_at_rest(&request, &excluded);
                    let chosen = match at_rest.map_err(|error| fault::lending::choose(&error))? {
                        Some(chosen) => chosen,
                        None => block_in_place(|| self.lender.choose(&request, &mut excluded))
                            .map_err(|error| fault::lending::choose(&error))?,
                    };
                    port.plug = Some(chosen.plug);
                    Some(chosen.claim)
                }
                PortSource::Bridge(plug) => {
                    if let Plug::Bridge { bridge, .. } | Plug::Network { bridge, .. } = &plug {
                        block_in_place(|| check_bridge(&*self.host, bridge))
                            .map_err(|error| fault::lending::bridge(&error))?;
                    }
                    port.plug = Some(plug);
                    None
                }
            },
            Some(plug) => match self.share_of(Some(&network), plug)? {
                Some(share) => {
                    let claim = self.lender.claim(share, &holder, Origin::PoolPort);
                    Some(claim.map_err(|error| fault::lending::claim(&error))?)
                }
                None => None,
            },
        };
        let entry = PortEntry {
            port,
            claim,
            maker: PortMaker::Client,
            since: SystemTime::now(),
        };
        let kept = self.keep_port(object, &network, &entry);
        if !matches!(kept, Ok(true))
            && let Some(claim) = claim
        {
            self.lender.drop_claim(claim);
        }
        kept
    }

    /// Records a port once more, if it is still there. Blocks.
    pub(crate) fn record_port_again(&self, network: &NetworkHandle, port: Uuid) -> Result<()> {
        let Some(entry) = self.ports.get(network.uuid, port) else {
            return Ok(());
        };
        self.record_port(network.uuid, &entry)?;
        if self.ports.get(network.uuid, port).is_none() {
            self.forget_port(port);
        }
        Ok(())
    }

    /// Puts a guest's port on its network. False: the network was changed since it was planned.
    pub(crate) fn keep_planned_port(
        &self,
        planned: &PlannedPort,
        claim: Option<Generation>,
    ) -> Result<bool> {
        let object = self.network_by_name(&planned.network.name)?;
        let entry = PortEntry {
            port: planned.port.clone(),
            // A tap is made for the guest alone; its network has nothing to keep account of.
            claim: claim.filter(|_| planned.is_of_pool),
            maker: PortMaker::Guest,
            since: SystemTime::now(),
        };
        self.keep_port(&object, &planned.network, &entry)
    }

    /// The device behind a plug, and how much of it; `None`: a bridge, which nobody has.
    fn share_of(&self, network: Option<&Network>, plug: &Plug) -> Result<Option<Share>> {
        match plug {
            Plug::HostdevPci { address, .. } => Ok(Some(Share::Whole((*address).into()))),
            Plug::Direct { dev, mode } => {
                let device = block_in_place(|| device_named(&*self.host, dev))
                    .map_err(fault::host(DOMAIN))?;
                Ok(Some(whole_or_part(network, Some(*mode), device)))
            }
            Plug::Bridge { .. } | Plug::Network { .. } => Ok(None),
        }
    }

    /// Puts a port on its network, if that is still the one that the port was made for.
    fn keep_port(
        &self,
        object: &NetworkHandle,
        network: &Arc<conf::Network>,
        entry: &PortEntry,
    ) -> Result<bool> {
        let uuid = entry.port.uuid;
        match self.ports.reserve(network, entry) {
            Ok(()) => {}
            Err(NoPlace::Changed) => return Ok(false),
            Err(NoPlace::NotActive) => return Err(object.not_active()),
            Err(NoPlace::Exists) => return Err(port_exists(uuid)),
        }
        if let Err(error) = self.record_port(object.uuid, entry) {
            self.ports.remove(object.uuid, uuid);
            return Err(error);
        }
        if self.ports.made(uuid) {
            return Ok(true);
        }
        self.forget_port(uuid);
        Err(object.not_active())
    }

    /// Removes a port that a client names. One that a guest runs on stays, and so does one whose record
    /// can't be removed: the next daemon would have it back.
    pub(crate) fn delete_port(&self, object: &NetworkHandle, uuid: Uuid) -> Result<()> {
        let entry = self.port(object, uuid)?;
        if self.is_port_used(&entry) {
            let detail = format!("guest '{}' runs on port {uuid}", entry.port.owner_name);
            return Err(Error::new(Code::OperationInvalid, DOMAIN, detail));
        }
        if !self.ports.hide(object.uuid, uuid) {
            return Err(no_port(uuid));
        }
        if let Err(error) = self.records.ports.remove(uuid) {
            self.ports.made(uuid);
            let what = format!("can't remove port {uuid}");
            return Err(fault::record(DOMAIN, what)(error));
        }
        if let Some(entry) = self.ports.remove(object.uuid, uuid) {
            self.end_claim(&entry);
        }
        Ok(())
    }

    /// Removes a port of a guest that is gone, whether its network runs or not. Its claim ends unless
    /// the device is with a guest. Gone already is fine.
    pub(crate) fn end_port(&self, network: Uuid, uuid: Uuid) {
        if let Some(entry) = self.ports.remove(network, uuid) {
            self.drop_port(&entry);
        }
    }

    /// The same, whichever network it is on.
    pub(crate) fn end_port_anywhere(&self, uuid: Uuid) {
        if let Some(network) = self.ports.network_of(uuid) {
            self.end_port(network, uuid);
        }
    }

    /// Whether a guest runs on a port, or is about to.
    pub(super) fn is_port_used(&self, entry: &PortEntry) -> bool {
        // Who made it removes it, when its guest is gone.
        entry.maker == PortMaker::Guest
            || (entry.claim).is_some_and(|claim| self.lender.is_in_use(claim))
    }

    /// Ends the claim of a port that is off its network, and removes its record.
    pub(super) fn drop_port(&self, entry: &PortEntry) {
        self.end_claim(entry);
        self.forget_port(entry.port.uuid);
    }

    fn end_claim(&self, entry: &PortEntry) {
        if let Some(claim) = entry.claim {
            self.lender.drop_claim(claim);
        }
    }

    fn forget_port(&self, uuid: Uuid) {
        if let Err(error) = self.records.ports.discard(uuid) {
            tracing::warn!(port = %uuid, error = fault::chain(&error), "its record stays for now");
        }
    }

    /// A port that another daemon made, with its device. One whose device can't be claimed again is
    /// kept all the same: it can still be looked at and removed.
    pub(super) fn restored_port(
        &self,
        network: OfRestored<'_>,
        record: PortRecord,
    ) -> Result<PortEntry> {
        let port = NetworkPort::parse(&record.xml).map_err(fault::document(DOMAIN))?;
        let claim_again = |network| {
            let plug = port.plug.as_ref()?;
            let claim = match self.share_of(network, plug) {
                Ok(None) => return None,
                Err(error) => Err(error),
                Ok(Some(share)) => {
                    let holder = port_holder(network, &port);
                    let claim = self.lender.reclaim(port.uuid, share, &holder);
                    claim.map_err(|error| fault::lending::claim(&error))
                }
            };
            claim
                .inspect_err(|error| {
                    tracing::error!(port = %port.uuid, %error, "its device is not claimed again");
                })
                .ok()
        };
        let claim = match network {
            OfRestored::Running(network) => claim_again(Some(network)),
            OfRestored::MayRun => claim_again(None),
            OfRestored::Inactive => None,
        };
        let claim = claim.or_else(|| self.lender.claim_of_port(port.uuid));
        Ok(PortEntry {
            port,
            claim,
            maker: record.maker,
            since: record.since,
        })
    }

    pub(super) fn record_port(&self, network: Uuid, entry: &PortEntry) -> Result<()> {
        let record = PortRecord {
            uuid: entry.port.uuid,
            network,
            guest: entry.port.owner_uuid,
            maker: entry.maker,
            since: entry.since,
            xml: entry.port.to_xml(),
        };
        self.records
            .ports
            .write(entry.port.uuid, &record)
            .map_err(fault::record(
                DOMAIN,
                format!("can't record port {}", entry.port.uuid),
            ))
    }
}

fn port_exists(uuid: Uuid) -> Error {
    Error::new(Code::NetworkPortExist, DOMAIN, uuid.to_string())
}

pub(super) fn no_port(uuid: Uuid) -> Error {
    Error::new(
        Code::NoNetworkPort,
        Domain::Network,
        format!("no network port with uuid {uuid}"),
    )
}
