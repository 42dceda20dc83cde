//! Running networks: their pools, their live documents, and their records for the next daemon.

use std::collections::HashMap;
use std::sync::Arc;

use conf::{DeviceStatus, Form, Network, NetworkStatus, Plug, PoolDevice, PoolMembers, Uuid};
use rpc::{Code, Error, NetworkGetMetadata};
use serde::{Deserialize, Serialize};

use super::{ActiveNetwork, DOMAIN, NetworkObject, PortMaker, port::PortRecord};
use crate::daemon::Daemon;
use crate::fault::{self, Result};
use crate::store::Found;
use crate::sync::lock;

/// A running network, for the next daemon.
#[derive(Debug, Serialize, Deserialize)]
struct NetworkRecord {
    name: String,
    uuid: Uuid,
    xml: String,
}

impl Daemon {
    /// Makes the network's pool; refused for what can't be lent here.
    pub(super) fn open_network(&self, network: &Network) -> Result<()> {
        let Some(forward) = network
            .forward
            .as_ref()
            .filter(|f| super::is_served(f.mode))
        else {
            let mode = network
                .forward_mode()
                .map_or("none", conf::xml::Keyword::word);
            let detail = format!(
                "network '{}' has forward mode '{mode}', which virtnic keeps and does not carry \
                 out; it lends VFs, with mode 'hostdev'",
                network.name
            );
            return Err(Error::new(Code::ConfigUnsupported, DOMAIN, detail));
        };
        if let Some(kind) = network.virtual_port.as_ref().and_then(|port| port.kind) {
            let detail = format!(
                "network '{}' has a virtual port of type '{}', which virtnic does not carry out",
                network.name,
                conf::xml::Keyword::word(kind)
            );
            return Err(Error::new(Code::ConfigUnsupported, DOMAIN, detail));
        }
        self.lender.open_pool(network, forward)
    }

    /// Ends a network that is taken off its object: its ports go, its guests stay.
    pub(super) fn close_network(&self, object: &NetworkObject, active: ActiveNetwork) {
        for entry in active.ports.values() {
            self.drop_port(entry);
        }
        self.lender.close_pool(&object.name);
        if let Err(error) = self.records.networks.remove(object.uuid) {
            tracing::warn!(network = object.name, %error, "its record stays");
        }
    }

    pub(super) fn record_network(&self, active: &ActiveNetwork) -> Result<()> {
        let network = &active.network;
        let record = NetworkRecord {
            name: network.name.clone(),
            uuid: network.uuid,
            xml: network.to_xml(Form::Inactive),
        };
        self.records
            .networks
            .write(network.uuid, &record)
            .map_err(fault::file(
                DOMAIN,
                format!("can't record network '{}'", network.name),
            ))
    }

    pub(super) fn live_network_xml(&self, active: &ActiveNetwork) -> String {
        let mut connections = HashMap::new();
        for entry in active.ports.values() {
            if let Some(Plug::HostdevPci { address, .. }) = &entry.port.plug {
                *connections.entry(*address).or_insert(0) += 1;
            }
        }
        let devices = match active
            .network
            .forward
            .as_ref()
            .map(|forward| &forward.members)
        {
            Some(PoolMembers::PhysicalFunctions(_)) => self.lender.members(&active.network.name),
            Some(PoolMembers::Addresses(addresses)) => addresses.clone(),
            _ => Vec::new(),
        };
        let status = NetworkStatus {
            connections: u32::try_from(active.ports.len()).unwrap_or(u32::MAX),
            devices: devices
                .into_iter()
                .map(|address| DeviceStatus {
                    device: PoolDevice::Address(address),
                    connections: connections.get(&address).copied().unwrap_or(0),
                })
                .collect(),
        };
        active.network.to_xml_live(&status)
    }

    /// Title or description; anything else that other programs keep stays in the document.
    pub(crate) fn network_metadata(&self, args: &NetworkGetMetadata) -> Result<String> {
        let object = self.network(&args.network)?;
        let state = lock(&object.state);
        let network = state.network();
        let found = network.and_then(|network| match args.r#type {
            0 => network.description.clone(),
            1 => network.title.clone(),
            _ => None,
        });
        found.ok_or_else(|| {
            let detail = "Requested metadata element is not present";
            Error::new(Code::NoNetworkMetadata, DOMAIN, detail)
        })
    }

    /// Reads the definitions that are not known yet.
    pub(crate) fn load_networks(&self) -> std::io::Result<()> {
        for found in self.network_store.load()? {
            match found {
                Ok(found) => {
                    if let Err(error) = self.load_network(&found) {
                        let file = found.path.display();
                        tracing::error!(%file, error, "a definition is left out");
                    }
                }
                Err(error) => tracing::error!("{}", fault::chain(&error)),
            }
        }
        Ok(())
    }

    fn load_network(&self, found: &Found) -> std::result::Result<(), String> {
        let network = Network::parse(&found.text).map_err(|error| error.to_string())?;
        self.network_store
            .check_name(found, &network.name)
            .map_err(|error| error.to_string())?;
        let known = self.with_network(&network, |_, state| {
            if state.defined.is_none() {
                self.network_store
                    .take_in(found, &network.name, &network.to_xml(Form::Inactive))
                    .map_err(fault::file(
                        DOMAIN,
                        format!("can't keep network '{}'", network.name),
                    ))?;
                state.defined = Some(network.clone());
            }
            Ok(())
        });
        known.map(drop).map_err(|error| error.to_string())
    }

    /// Puts back the networks that ran when the daemon ended, and their ports. Ports of guests for
    /// which `runs` is false are removed.
    pub(crate) fn restore_networks(&self, runs: impl Fn(Uuid) -> bool) -> std::io::Result<()> {
        for record in self.records.networks.load::<NetworkRecord>()? {
            let restored = record
                .map_err(|error| fault::chain(&error))
                .and_then(|record| {
                    self.restore_network(&record)
                        .map_err(|error| error.to_string())
                });
            if let Err(error) = restored {
                tracing::error!(error, "a running network could not be put back");
            }
        }
        for record in self.records.ports.load::<PortRecord>()? {
            let restored = record
                .map_err(|error| fault::chain(&error))
                .and_then(|record| self.take_port_record(record, &runs));
            if let Err(error) = restored {
                tracing::error!(error, "a port could not be put back");
            }
        }
        Ok(())
    }

    fn restore_network(&self, record: &NetworkRecord) -> Result<()> {
        let network = Network::parse(&record.xml).map_err(fault::document(DOMAIN))?;
        self.with_network(&network, |_, state| {
            // A PF may be gone or down by now; its guests' ports must be known all the same.
            if let Err(error) = self.open_network(&network) {
                tracing::warn!(network = network.name, %error, "runs, and has nothing to lend");
            }
            state.active = Some(ActiveNetwork {
                network: Arc::new(network.clone()),
                ports: HashMap::new(),
            });
            Ok(())
        })?;
        Ok(())
    }

    fn take_port_record(
        &self,
        record: PortRecord,
        runs: &impl Fn(Uuid) -> bool,
    ) -> std::result::Result<(), String> {
        let uuid = record.uuid;
        let kept = record.maker == PortMaker::Client || runs(record.guest);
        let object = self
            .networks
            .by_uuid(record.network)
            .filter(|object| object.is_active());
        let (true, Some(object)) = (kept, object) else {
            tracing::info!(port = %uuid, "removing a port whose guest or network is gone");
            return self
                .records
                .ports
                .remove(uuid)
                .map_err(|error| error.to_string());
        };
        let mut state = lock(&object.state);
        let Some(active) = state.active.as_mut() else {
            return Ok(());
        };
        self.restore_port(active, record)
            .map_err(|error| error.to_string())
    }
}
