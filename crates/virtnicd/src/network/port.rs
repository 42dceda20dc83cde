//! Ports: the places of guests' interfaces in a network.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use assign::Generation;
use conf::{NetworkPort, PciAddress, Plug, Uuid};
use rpc::{Code, Domain, Error, Port};
use serde::{Deserialize, Serialize};

use super::{ActiveNetwork, DOMAIN, NetworkObject};
use crate::daemon::Daemon;
use crate::fault::{self, Result};
use crate::lender::Borrower;
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

/// The caller has a device already, and wants the port back that went with it.
const RECLAIM: u32 = 1;

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
    pub(crate) async fn create_port(
        &self,
        object: &Arc<NetworkObject>,
        xml: &str,
        flags: u32,
    ) -> Result<Port> {
        let wanted = NetworkPort::parse(xml).map_err(fault::document(DOMAIN))?;
        let uuid = wanted.uuid;
        let refused = match (&wanted.plug, flags & RECLAIM != 0) {
            (Some(_), false) => "a port that is to be made must not have a <plug>",
            (None, true) => "a port that is to be reclaimed needs its <plug>",
            _ => {
                self.make_port(object, wanted, PortMaker::Client, BTreeMap::new())
                    .await?;
                return Ok(object.port_handle(uuid));
            }
        };
        Err(Error::new(Code::InvalidArg, DOMAIN, refused))
    }

    /// Makes a port: chooses its device, claims it and records it. With a plug: that very device.
    /// Devices in `excluded` are not chosen, with what is wrong with each.
    pub(crate) async fn make_port(
        &self,
        object: &Arc<NetworkObject>,
        wanted: NetworkPort,
        maker: PortMaker,
        excluded: BTreeMap<PciAddress, String>,
    ) -> Result<PortEntry> {
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
            None => {
                let chosen = self.lender.choose(&network, &borrower, excluded).await?;
                port.plug = Some(chosen.plug);
                Some(chosen.claim)
            }
            Some(Plug::HostdevPci { address, .. }) => Some(self.lender.claim(*address, &borrower)?),
            Some(_) => None,
        };
        let entry = PortEntry {
            port,
            claim,
            maker,
            since: SystemTime::now(),
        };
        let kept = self.keep_port(object, &network, &entry);
        if kept.is_err()
            && let Some(claim) = claim
        {
            self.lender.drop_claim(claim);
        }
        kept.map(|()| entry)
    }

    /// Puts a port on its network, if that is still the one that the port was made for.
    fn keep_port(
        &self,
        object: &NetworkObject,
        network: &Arc<conf::Network>,
        entry: &PortEntry,
    ) -> Result<()> {
        let mut state = lock(&object.state);
        let active = state
            .active
            .as_mut()
            .filter(|active| Arc::ptr_eq(&active.network, network));
        let active = active.ok_or_else(|| object.not_active())?;
        if active.ports.contains_key(&entry.port.uuid) {
            return Err(port_exists(entry.port.uuid));
        }
        self.record_port(object, entry)?;
        active.ports.insert(entry.port.uuid, entry.clone());
        Ok(())
    }

    /// Removes a port that a client names. One that a guest runs on stays.
    pub(crate) fn delete_port(&self, object: &NetworkObject, uuid: Uuid) -> Result<()> {
        let entry = object.port(uuid)?;
        if entry
            .claim
            .is_some_and(|claim| self.lender.is_in_use(claim))
        {
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

    /// Ends the claim of a port that is off its network, and removes its record.
    pub(super) fn drop_port(&self, entry: &PortEntry) {
        if let Some(claim) = entry.claim {
            self.lender.drop_claim(claim);
        }
        if let Err(error) = self.records.ports.remove(entry.port.uuid) {
            tracing::warn!(port = %entry.port.uuid, %error, "its record stays");
        }
    }

    /// Puts the ports that another daemon made back on a network, with their devices.
    pub(super) fn restore_port(
        &self,
        active: &mut ActiveNetwork,
        record: PortRecord,
    ) -> Result<()> {
        let port = NetworkPort::parse(&record.xml).map_err(fault::document(DOMAIN))?;
        let borrower = Borrower::port(&active.network, &port);
        let claim = match &port.plug {
            Some(Plug::HostdevPci { address, .. }) => {
                Some(self.lender.reclaim(*address, &borrower)?)
            }
            _ => None,
        };
        let entry = PortEntry {
            port,
            claim,
            maker: record.maker,
            since: record.since,
        };
        active.ports.insert(entry.port.uuid, entry);
        Ok(())
    }

    fn record_port(&self, object: &NetworkObject, entry: &PortEntry) -> Result<()> {
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

fn no_port(uuid: Uuid) -> Error {
    Error::new(
        Code::NoNetworkPort,
        Domain::Network,
        format!("no network port with uuid {uuid}"),
    )
}
