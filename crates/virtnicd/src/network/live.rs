//! Running networks: their pools, their live documents, and their records for the next daemon.

use std::collections::HashMap;
use std::sync::Arc;

use conf::{
    DeviceStatus, Form, ForwardMode, HostBackend, Network, NetworkStatus, Plug, PoolDevice, Uuid,
    VirtualPortKind,
};
use records::Loaded;
use rpc::{Code, Error};
use serde::{Deserialize, Serialize};

use super::port::{OfRestored, PortRecord};
use super::{DOMAIN, PortEntry, PortMaker};
use crate::daemon::Daemon;
use crate::fault::{self, Result};
use crate::guest::RecordSubject;
use crate::store::{self, StoredDefinition};

/// A running network, for the next daemon.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NetworkRecord {
    name: String,
    uuid: Uuid,
    xml: String,
}

impl NetworkRecord {
    /// Of this layout; a later one gets another number.
    pub(crate) const FORMAT: u32 = 1;

    pub(super) fn of(network: &Network) -> Self {
        Self {
            name: network.name.clone(),
            uuid: network.uuid,
            xml: network.to_xml(Form::Inactive),
        }
    }
}

impl Daemon {
    /// Makes the network's pool; refused for what can't be lent here. Blocks.
    pub(super) fn open_network(&self, network: &Network) -> Result<()> {
        check_served(network)?;
        let Some(forward) = &network.forward else {
            return Ok(());
        };
        // What guests get from a bridge is made for each of them.
        if network.existing_bridge().is_some() {
            return Ok(());
        }
        self.lender
            .open_pool(network, forward)
            .map_err(fault::lending::open_pool)?;
        self.open_host_access(network)
            .inspect_err(|_| self.lender.close_pool(&network.name))
    }

    /// Ends a network: its idle ports go, its guests stay. The ports of those are kept for the time
    /// when it runs again. Refused, with nothing changed, as long as its record can't be removed: the
    /// next daemon would start it again.
    pub(super) fn close_network(&self, network: &Network) -> Result<()> {
        let removed = self.records.networks.remove(network.uuid);
        removed.map_err(fault::record(
            DOMAIN,
            format!("can't forget that network '{}' runs", network.name),
        ))?;
        self.ports.close(network.uuid);
        let is_idle = |entry: &PortEntry| !self.is_port_used(entry);
        for entry in self.ports.take_idle(network.uuid, is_idle) {
            self.drop_port(&entry);
        }
        self.close_host_access(network);
        self.lender.close_pool(&network.name);
        Ok(())
    }

    pub(super) fn record_network(&self, network: &Network) -> Result<()> {
        let written = (self.records.networks).write(network.uuid, &NetworkRecord::of(network));
        let what = format!("can't record network '{}'", network.name);
        written.map_err(fault::record(DOMAIN, what))
    }

    pub(super) fn live_network_xml(&self, network: &Network) -> String {
        network.to_xml_live(&self.network_status(network))
    }

    /// What a running network has, and how many guests are on each of its devices.
    pub(super) fn network_status(&self, network: &Network) -> NetworkStatus {
        let mut connections: HashMap<PoolDevice, u32> = HashMap::new();
        let ports = self.ports.all(network.uuid);
        for entry in &ports {
            let device = match &entry.port.plug {
                Some(Plug::HostdevPci { address, .. }) => PoolDevice::Address(*address),
                Some(Plug::Direct { dev, .. }) => PoolDevice::Interface(dev.clone()),
                _ => continue,
            };
            *connections.entry(device).or_insert(0) += 1;
        }
        let network = &network.name;
        let guests_on = |device: &PoolDevice| {
            // A device that is listed by its name may be lent as the function that it is.
            let function = match device {
                PoolDevice::Interface(name) => self.lender.listed_function(network, name),
                PoolDevice::Address(_) => None,
            };
            let by_name = connections.get(device).copied().unwrap_or(0);
            let function = function.map(PoolDevice::Address);
            by_name + function.map_or(0, |f| connections.get(&f).copied().unwrap_or(0))
        };
        let devices = self.lender.members(network).into_iter();
        NetworkStatus {
            connections: u32::try_from(ports.len()).unwrap_or(u32::MAX),
            devices: devices
                .map(|device| DeviceStatus {
                    connections: guests_on(&device),
                    device,
                })
                .collect(),
        }
    }

    /// Reads the definitions that are not known yet.
    pub(crate) async fn load_networks(self: &Arc<Self>) -> std::io::Result<()> {
        for found in self.network_store.load()? {
            match found {
                Ok(found) => {
                    let path = found.path.clone();
                    if let Err(error) = self.load_network(found).await {
                        store::say_left_out(&path, &error);
                    }
                }
                Err(error) => tracing::error!("{}", fault::chain(&error)),
            }
        }
        Ok(())
    }

    async fn load_network(
        self: &Arc<Self>,
        found: StoredDefinition,
    ) -> std::result::Result<(), String> {
        let network = Network::parse(&found.text).map_err(|error| error.to_string())?;
        (self.network_store)
            .check_name(&found, &network.name)
            .map_err(|error| error.to_string())?;
        let network = Arc::new(network);
        let known = self.ask_network(&network, move |daemon, network, state| {
            if state.defined.is_none() {
                let store = &daemon.network_store;
                store
                    .take_in(&found, &network.name, &network.to_xml(Form::Inactive))
                    .map_err(fault::file(DOMAIN, "it is not taken in"))?;
                state.defined = Some(Arc::clone(network));
                state.autostart = store.autostart(&network.name);
            }
            Ok(())
        });
        known.await.map(drop).map_err(|error| error.to_string())
    }

    /// Puts back the networks that ran when the daemon ended, and their ports. Ports of guests for
    /// which `runs` is false are removed.
    pub(crate) async fn restore_networks(
        self: &Arc<Self>,
        runs: impl Fn(Uuid) -> bool,
    ) -> std::io::Result<()> {
        let networks = (self.records.networks).load_own(|one: &NetworkRecord| one.uuid.to_string());
        for record in networks.map_err(std::io::Error::other)? {
            let restored = match record {
                Loaded::Good { record, .. } => self
                    .restore_network(&record)
                    .await
                    .map_err(|error| error.to_string()),
                Loaded::OtherBoot { .. } => Ok(()),
                Loaded::Unreadable(error) => {
                    self.barred.note_unread(RecordSubject::Network, &error);
                    Ok(())
                }
            };
            if let Err(error) = restored {
                tracing::error!(error, "a running network could not be put back");
            }
        }
        let ports = (self.records.ports).load_own(|one: &PortRecord| one.uuid.to_string());
        for record in ports.map_err(std::io::Error::other)? {
            let restored = match record {
                Loaded::Good { record, .. } => self.take_port_record(record, &runs),
                Loaded::OtherBoot { .. } => Ok(()),
                Loaded::Unreadable(error) => {
                    self.barred.note_unread(RecordSubject::Port, &error);
                    Ok(())
                }
            };
            if let Err(error) = restored {
                tracing::error!(error, "a port could not be put back");
            }
        }
        Ok(())
    }

    async fn restore_network(self: &Arc<Self>, record: &NetworkRecord) -> Result<()> {
        let network = Network::parse(&record.xml).map_err(fault::document(DOMAIN))?;
        let network = Arc::new(network);
        let restored = self.ask_network(&network, |daemon, network, state| {
            // A PF may be gone or down by now; its guests' ports must be known all the same.
            if let Err(error) = daemon.open_network(network) {
                tracing::warn!(network = network.name, %error, "runs, and has nothing to lend");
            }
            daemon.ports.open(network);
            state.active = Some(Arc::clone(network));
            Ok(())
        });
        restored.await.map(drop)
    }

    fn take_port_record(
        &self,
        record: PortRecord,
        runs: &impl Fn(Uuid) -> bool,
    ) -> std::result::Result<(), String> {
        let uuid = record.uuid;
        let kept = record.maker == PortMaker::Client || runs(record.guest);
        if !kept {
            tracing::info!(port = %uuid, "removing a port whose guest is gone");
            return self
                .records
                .ports
                .discard(uuid)
                .map_err(|error| error.to_string());
        }
        let network = record.network;
        let running = (self.networks.by_uuid(network)).and_then(|handle| handle.running().ok());
        let of = match &running {
            Some(running) => OfRestored::Running(running),
            None if self.barred.may_network_run(network) => OfRestored::MayRun,
            None => OfRestored::Inactive,
        };
        let entry = self
            .restored_port(of, record)
            .map_err(|error| error.to_string())?;
        if matches!(of, OfRestored::Inactive) && entry.maker() == PortMaker::Client {
            tracing::warn!(port = %uuid, %network, "removing a port whose network does not run");
            self.drop_port(&entry);
        } else {
            self.ports.put(network, entry);
        }
        Ok(())
    }
}

/// Refuses networks whose guests could not be connected here.
pub(super) fn check_served(network: &Network) -> Result<()> {
    use VirtualPortKind as V;
    let unsupported = |detail| Err(Error::new(Code::ConfigUnsupported, DOMAIN, detail));
    let mode = network.forward_mode();
    let is_hostdev = mode.is_some_and(ForwardMode::lends_host_devices);
    let is_macvtap = network.default_direct_mode().is_some();
    let name = &network.name;
    if !is_hostdev && !is_macvtap && network.existing_bridge().is_none() {
        let mode = mode.map_or("none", conf::xml::Keyword::word);
        return unsupported(format!(
            "network '{name}' has forward mode '{mode}', which virtnic keeps and does not carry \
             out; it lends VFs (mode 'hostdev', 'hostdev-hybrid'), NICs (passthrough, bridge, private, vepa) and \
             ports of an existing bridge"
        ));
    }
    let driver = network
        .forward
        .as_ref()
        .and_then(|forward| forward.driver.as_ref());
    if let Some(backend) = driver.and_then(|driver| driver.backend)
        && backend != HostBackend::Vfio
    {
        let backend = conf::xml::Keyword::word(backend);
        return unsupported(format!(
            "network '{name}' has <driver name='{backend}'/>, and guests get host devices by vfio \
             alone"
        ));
    }
    let groups = network.port_groups.iter();
    let profiles = std::iter::once(&network.virtual_port)
        .chain(groups.map(|group| &group.virtual_port))
        .flatten();
    for kind in profiles.filter_map(|profile| profile.kind) {
        let fits = match kind {
            V::Qbg => is_macvtap,
            V::Qbh => is_macvtap || is_hostdev,
            V::OpenVSwitch | V::MidoNet => false,
        };
        if !fits {
            return unsupported(format!(
                "network '{name}' has a virtual port of type '{}', which virtnic does not carry \
                 out in this mode",
                conf::xml::Keyword::word(kind)
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use records::Records;

    use super::*;

    /// Records as the first format has them.
    fn golden(kind: &str, format: u32) -> Records {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/records/format-1");
        let directory = std::path::Path::new(golden).join(kind);
        Records::open(directory, "51300000-0000-4000-8000-000000000001", format).unwrap()
    }

    #[test]
    fn networks_of_the_first_format_are_read() {
        let records = golden("networks", NetworkRecord::FORMAT);
        let mut names: Vec<_> = (records.load::<NetworkRecord>().unwrap().into_iter())
            .map(|loaded| match loaded {
                Loaded::Good { id, record, .. } if id == record.uuid.to_string() => {
                    Network::parse(&record.xml).unwrap().name
                }
                other => panic!("{other:?}"),
            })
            .collect();
        names.sort_unstable();
        assert_eq!(names, ["kept", "shared"]);
    }

    #[test]
    fn ports_of_the_first_format_are_read() {
        let records = golden("ports", PortRecord::FORMAT);
        let loaded = records.load::<PortRecord>().unwrap();
        assert_eq!(loaded.len(), 3);
        for loaded in loaded {
            let Loaded::Good { id, record, .. } = loaded else {
                panic!("{loaded:?}");
            };
            assert_eq!(id, record.uuid.to_string());
        }
    }
}
