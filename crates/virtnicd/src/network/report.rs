//! What each network has to lend, on which NICs, and who has what of it.

use conf::ForwardMode;
use conf::xml::Keyword as _;
use lending::{BridgeError, check_bridge};
use pool::Sharing;
use rpc::NetworkReport;

use super::NetworkHandle;
use crate::daemon::Daemon;
use crate::fault::Result;
use crate::registry::Named as _;

impl Daemon {
    /// The network of that name or uuid, or all networks, by name. Asks the kernel about each
    /// device that is free, so it blocks.
    pub(crate) fn network_reports(&self, name: Option<&str>) -> Result<Vec<NetworkReport>> {
        let mut objects = match name {
            None => self.known_networks(),
            Some(name) => {
                let by_uuid = name
                    .parse()
                    .ok()
                    .and_then(|uuid| self.networks.by_uuid(uuid));
                vec![match by_uuid {
                    Some(object) => object,
                    None => self.network_by_name(name)?,
                }]
            }
        };
        objects.sort_by(|one, other| one.name().cmp(other.name()));
        // One that is forgotten meanwhile has nothing to tell.
        let reports = (objects.iter()).filter_map(|object| self.network_report(object));
        Ok(reports.collect())
    }

    fn network_report(&self, object: &NetworkHandle) -> Option<NetworkReport> {
        let view = object.view();
        let network = view.network()?;
        let ports = view
            .active
            .as_ref()
            .map(|_| self.ports.all(object.uuid).len());
        let explanation = ports.and_then(|_| self.lender.survey(network));
        let is_exclusive = match &explanation {
            Some(explanation) => explanation.sharing == Sharing::Exclusive,
            None => matches!(
                network.forward_mode(),
                Some(ForwardMode::Hostdev | ForwardMode::HostdevHybrid | ForwardMode::Passthrough)
            ),
        };
        let missing = explanation.iter().flat_map(|table| &table.missing);
        let bridge = network.existing_bridge().filter(|_| ports.is_some());
        let no_bridge = bridge.filter(|bridge| {
            matches!(
                check_bridge(&*self.host, bridge),
                Err(BridgeError::Missing(_))
            )
        });
        Some(NetworkReport {
            name: object.name.clone(),
            uuid: object.uuid,
            active: ports.is_some(),
            mode: network
                .forward_mode()
                .map_or("isolated", |mode| mode.word())
                .to_owned(),
            bridge: network.existing_bridge().map(str::to_owned),
            modes: (network.direct_modes().into_iter())
                .map(|mode| mode.word().to_owned())
                .collect(),
            exclusive: is_exclusive,
            connections: u32::try_from(ports.unwrap_or(0)).unwrap_or(u32::MAX),
            missing: (missing.map(ToString::to_string))
                .chain(no_bridge.map(str::to_owned))
                .collect(),
            rows: explanation
                .map(|table| self.pool_rows(&table))
                .unwrap_or_default(),
        })
    }
}
