//! Ports: the places of guests' interfaces in a network.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use assign::Generation;
use conf::{DeviceId, DirectMode, ForwardMode, Network, NetworkPort, Plug, Uuid};
use host::HostError;
use rpc::flags::CreatePort;
use rpc::{Code, Domain, Error, Port};
use serde::{Deserialize, Serialize};
use tokio::task::block_in_place;

use super::{DOMAIN, NetworkObject};
use crate::daemon::Daemon;
use crate::fault::{self, Result};
use crate::lender::{Borrower, Wanted, whole_or_share};
use crate::sync::lock;

/// A port, and the claim on its device.
#[derive(Debug, Clone)]
pub(crate) struct PortEntry {
    pub(crate) port: NetworkPort,
    pub(crate) claim: Option<Generation>,
    maker: PortMaker,
    /// When it was made.
    pub(crate) since: SystemTime,
}

/// What is wished of a port beyond its document.
#[derive(Debug, Clone)]
pub(crate) struct PortWish {
    pub(crate) maker: PortMaker,
    /// The macvtap mode, of those that the network offers.
    pub(crate) mode: Option<DirectMode>,
    /// Where the guest runs; empty: anywhere.
    pub(crate) numa_nodes: Vec<u16>,
    /// Devices not to choose, with what is wrong with each.
    pub(crate) excluded: BTreeMap<DeviceId, String>,
}

/// What the ports of a network are plugged into.
#[derive(Debug)]
pub(crate) enum PortSource {
    /// A device of its pool, in that macvtap mode.
    Pool(Option<DirectMode>),
    /// Its bridge.
    Bridge(Plug),
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
pub(super) struct PortRecord {
    pub(super) uuid: Uuid,
    pub(super) network: Uuid,
    pub(super) guest: Uuid,
    pub(super) maker: PortMaker,
    since: SystemTime,
    xml: String,
}

impl PortEntry {
    pub(super) fn maker(&self) -> PortMaker {
        self.maker
    }
}

impl NetworkObject {
    /// The ports' identities, in no order.
    pub(crate) fn ports(&self) -> Result<Vec<Uuid>> {
        let state = lock(&self.state);
        let active = state.active.as_ref().ok_or_else(|| self.not_active())?;
        Ok(active.ports.keys().copied().collect())
    }

    /// A port, as it is now.
    pub(crate) fn port(&self, uuid: Uuid) -> Result<PortEntry> {
        let state = lock(&self.state);
        let active = state.active.as_ref().ok_or_else(|| self.not_active())?;
        active
            .ports
            .get(&uuid)
            .cloned()
            .ok_or_else(|| no_port(uuid))
    }

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
    /// Makes a port as a client asks for it.
    pub(crate) fn create_port(
        &self,
        object: &Arc<NetworkObject>,
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
                let wish = PortWish {
                    maker: PortMaker::Client,
                    mode: None,
                    numa_nodes: Vec::new(),
                    excluded: BTreeMap::new(),
                };
                self.make_port(object, wanted, wish)?;
                return Ok(object.port_handle(uuid));
            }
        };
        Err(Error::new(Code::InvalidArg, DOMAIN, refused))
    }

    /// Makes a port: chooses its device, claims it and records it. With a plug: that very device.
    pub(crate) fn make_port(
        &self,
        object: &Arc<NetworkObject>,
        wanted: NetworkPort,
        wish: PortWish,
    ) -> Result<PortEntry> {
        loop {
            let made = self.try_make_port(object, wanted.clone(), wish.clone())?;
            if let Some(entry) = made {
                return Ok(entry);
            }
        }
    }

    /// The same; `None`: the network was changed meanwhile, and what was chosen is of the past.
    fn try_make_port(
        &self,
        object: &Arc<NetworkObject>,
        wanted: NetworkPort,
        wish: PortWish,
    ) -> Result<Option<PortEntry>> {
        let network = {
            let state = lock(&object.state);
            let active = state.active.as_ref().ok_or_else(|| object.not_active())?;
            if active.ports.contains_key(&wanted.uuid) {
                return Err(port_exists(wanted.uuid));
            }
            Arc::clone(&active.network)
        };
        let mut port = conf::merge_port(wanted, &network).map_err(fault::document(DOMAIN))?;
        let borrower = Borrower::port(&network, &port);
        let claim = match &port.plug {
            None => match PortSource::of(&network, wish.mode)? {
                PortSource::Pool(mode) => {
                    let chosen = self.lender.choose(
                        &network,
                        mode,
                        &borrower,
                        &wish.numa_nodes,
                        wish.excluded,
                    )?;
                    port.plug = Some(chosen.plug);
                    Some(chosen.claim)
                }
                PortSource::Bridge(plug) => {
                    self.check_bridge(&plug)?;
                    port.plug = Some(plug);
                    None
                }
            },
            Some(plug) => match self.wanted_of(&network, plug)? {
                Some(wanted) => Some(self.lender.claim(wanted, &borrower)?),
                None => None,
            },
        };
        let entry = PortEntry {
            port,
            claim,
            maker: wish.maker,
            since: SystemTime::now(),
        };
        let kept = self.keep_port(object, &network, &entry);
        if !matches!(kept, Ok(true))
            && let Some(claim) = claim
        {
            self.lender.drop_claim(claim);
        }
        kept.map(|kept| kept.then_some(entry))
    }

    /// The device behind a plug, and how much of it; `None`: a bridge, which nobody has.
    fn wanted_of(&self, network: &Network, plug: &Plug) -> Result<Option<Wanted>> {
        match plug {
            Plug::HostdevPci { address, .. } => Ok(Some(Wanted::Whole((*address).into()))),
            Plug::Direct { dev, mode } => {
                let device = block_in_place(|| self.lender.device_named(dev))
                    .map_err(fault::host(DOMAIN))?;
                Ok(Some(whole_or_share(network, Some(*mode), device)))
            }
            Plug::Bridge { .. } | Plug::Network { .. } => Ok(None),
        }
    }

    /// A bridge that is not there is told now, by name, and not by the tap that does not find it.
    pub(crate) fn check_bridge(&self, plug: &Plug) -> Result<()> {
        let (Plug::Bridge { bridge, .. } | Plug::Network { bridge, .. }) = plug else {
            return Ok(());
        };
        let found = block_in_place(|| self.host.netdev(bridge));
        let reason = match found {
            Ok(netdev) if netdev.kind.as_deref() == Some("bridge") => return Ok(()),
            Ok(_) => format!("network device '{bridge}' is no bridge"),
            Err(HostError::NoNetdev(_)) => {
                format!("there is no bridge '{bridge}'\nMake it: ip link add {bridge} type bridge")
            }
            Err(error) => return Err(fault::host(DOMAIN)(error)),
        };
        Err(Error::new(Code::ConfigUnsupported, DOMAIN, reason))
    }

    /// Puts a port on its network, if that is still the one that the port was made for.
    fn keep_port(
        &self,
        object: &NetworkObject,
        network: &Arc<conf::Network>,
        entry: &PortEntry,
    ) -> Result<bool> {
        let mut state = lock(&object.state);
        let active = state.active.as_mut().ok_or_else(|| object.not_active())?;
        if !Arc::ptr_eq(&active.network, network) {
            return Ok(false);
        }
        if active.ports.contains_key(&entry.port.uuid) {
            return Err(port_exists(entry.port.uuid));
        }
        self.record_port(object, entry)?;
        active.ports.insert(entry.port.uuid, entry.clone());
        Ok(true)
    }

    /// Removes a port that a client names. One that a guest runs on stays.
    pub(crate) fn delete_port(&self, object: &NetworkObject, uuid: Uuid) -> Result<()> {
        let entry = object.port(uuid)?;
        if self.is_port_used(&entry) {
            let detail = format!("guest '{}' runs on port {uuid}", entry.port.owner_name);
            return Err(Error::new(Code::OperationInvalid, DOMAIN, detail));
        }
        self.remove_port(object, uuid)
    }

    /// Removes a port, whoever made it. Its claim ends unless the device is with a guest.
    pub(crate) fn remove_port(&self, object: &NetworkObject, uuid: Uuid) -> Result<()> {
        let mut state = lock(&object.state);
        let active = state.active.as_mut().ok_or_else(|| object.not_active())?;
        let entry = active.ports.remove(&uuid).ok_or_else(|| no_port(uuid))?;
        self.drop_port(&entry);
        Ok(())
    }

    /// Removes a port of a guest that is gone, wherever it is: on its network, or kept for the time
    /// when that runs again. Gone already is fine.
    pub(crate) fn end_port(&self, network: Uuid, uuid: Uuid) {
        if let Some(object) = self.networks.by_uuid(network)
            && self.remove_port(&object, uuid).is_ok()
        {
            return;
        }
        let mut parked = lock(&self.parked_ports);
        let Some(entries) = parked.get_mut(&network) else {
            return;
        };
        if let Some(at) = entries.iter().position(|entry| entry.port.uuid == uuid) {
            let entry = entries.swap_remove(at);
            self.drop_port(&entry);
        }
        if entries.is_empty() {
            parked.remove(&network);
        }
    }

    /// Whether a guest runs on a port.
    pub(super) fn is_port_used(&self, entry: &PortEntry) -> bool {
        match entry.claim {
            Some(claim) => self.lender.is_in_use(claim),
            None => {
                let guest = self.domains.by_uuid(entry.port.owner_uuid);
                entry.maker == PortMaker::Guest && guest.is_some_and(|guest| guest.is_active())
            }
        }
    }

    /// Ends the claim of a port that is off its network, and removes its record.
    pub(super) fn drop_port(&self, entry: &PortEntry) {
        if let Some(claim) = entry.claim {
            self.lender.drop_claim(claim);
        }
        if let Err(error) = self.records.ports.remove(entry.port.uuid) {
            tracing::warn!(port = %entry.port.uuid, %error, "its record stays");
        }
    }

    /// A port that another daemon made, with its device. One whose device can't be claimed again is
    /// kept all the same: it can still be looked at and removed.
    pub(super) fn restored_port(
        &self,
        network: Option<&Network>,
        record: PortRecord,
    ) -> Result<PortEntry> {
        let port = NetworkPort::parse(&record.xml).map_err(fault::document(DOMAIN))?;
        let claim = network.and_then(|network| {
            let claim = match port.plug.as_ref().map(|plug| self.wanted_of(network, plug)) {
                None | Some(Ok(None)) => return None,
                Some(Err(error)) => Err(error),
                Some(Ok(Some(wanted))) => {
                    let borrower = Borrower::port(network, &port);
                    self.lender.reclaim(port.uuid, wanted, &borrower)
                }
            };
            claim
                .inspect_err(|error| {
                    tracing::error!(port = %port.uuid, %error, "its device is not claimed again");
                })
                .ok()
        });
        let claim = claim.or_else(|| self.lender.claim_of_port(port.uuid));
        Ok(PortEntry {
            port,
            claim,
            maker: record.maker,
            since: record.since,
        })
    }

    pub(super) fn record_port(&self, object: &NetworkObject, entry: &PortEntry) -> Result<()> {
        let record = PortRecord {
            uuid: entry.port.uuid,
            network: object.uuid,
            guest: entry.port.owner_uuid,
            maker: entry.maker,
            since: entry.since,
            xml: entry.port.to_xml(),
        };
        self.records
            .ports
            .write(entry.port.uuid, &record)
            .map_err(fault::file(
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

impl PortSource {
    /// What a network's ports are plugged into, and in which of its macvtap modes.
    pub(crate) fn of(network: &Network, mode: Option<DirectMode>) -> Result<Self> {
        let mode = network
            .choose_direct_mode(mode)
            .map_err(fault::document(DOMAIN))?;
        match (network.forward_mode(), network.existing_bridge()) {
            (Some(ForwardMode::Bridge), Some(bridge)) => Ok(Self::Bridge(Plug::Bridge {
                bridge: bridge.to_owned(),
                mac_table_manager: network
                    .ip
                    .bridge
                    .as_ref()
                    .and_then(|bridge| bridge.mac_table_manager),
            })),
            _ => Ok(Self::Pool(mode)),
        }
    }
}
