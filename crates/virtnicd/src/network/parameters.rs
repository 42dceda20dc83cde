//! Parameters of ports: their shaping.

use std::sync::Arc;

use conf::{Bandwidth, Plug, Uuid};
use rpc::{Code, Error, NetworkPortGetParameters, NetworkPortSetParameters, Params};

use super::{DOMAIN, PortEntry, PortMaker};
use crate::bandwidth::{BandwidthChange, rate_params};
use crate::daemon::Daemon;
use crate::fault::Result;

impl Daemon {
    /// The rates of a port: all at once, since clients ask one time, with room for none.
    pub(crate) fn port_parameters(&self, args: &NetworkPortGetParameters) -> Result<Params> {
        let entry = self.port(&*self.network(&args.port.net)?, args.port.uuid)?;
        let params = rate_params(entry.port.bandwidth.as_ref());
        Ok(Params {
            nparams: i32::try_from(params.len()).unwrap_or(i32::MAX),
            params,
        })
    }

    /// Sets the rates of a port, or some of them, and those of the guest that runs on it.
    pub(crate) async fn set_port_parameters(
        self: &Arc<Self>,
        args: &NetworkPortSetParameters,
    ) -> Result<()> {
        let change = BandwidthChange::parse(DOMAIN, &args.params)?;
        let object = self.network(&args.port.net)?;
        let uuid = args.port.uuid;
        let entry = self.port(&object, uuid)?;
        if change.has_floor() {
            let detail = format!(
                "port {uuid}: a floor is guaranteed among the guests of a bridge that its network \
                 makes, and network '{}' makes none",
                object.name
            );
            return Err(Error::new(Code::OperationUnsupported, DOMAIN, detail));
        }
        if entry.maker() == PortMaker::Guest {
            if let Some(Plug::HostdevPci { address, .. }) = &entry.port.plug {
                let detail = format!(
                    "port {uuid} can't be shaped: guest '{}' has the host device {address}, whose \
                     frames don't pass through this host; its VF can be limited as a whole: \
                     <virtnic:vf rate='…'/>",
                    entry.port.owner_name
                );
                return Err(Error::new(Code::OperationUnsupported, DOMAIN, detail));
            }
            if let Some(guest) = self.guests.by_uuid(entry.port.owner_uuid)
                && self.shape_port(&guest, uuid, change).await?
            {
                return Ok(());
            }
        }
        // Whoever made it reads it and carries it out.
        let daemon = Arc::clone(self);
        let network = object.uuid;
        object
            .request(move |_| {
                let entry = daemon.ports.get(network, uuid);
                let entry = entry.ok_or_else(|| super::port::no_port(uuid))?;
                let new = change.apply(entry.port.bandwidth.as_ref());
                daemon.set_port_bandwidth(network, entry, new)
            })
            .await
    }

    /// Records the shaping of a guest's port, if it is there.
    pub(crate) fn put_port_bandwidth(
        &self,
        uuid: Uuid,
        bandwidth: Option<Bandwidth>,
    ) -> Result<()> {
        let network = self.ports.network_of(uuid);
        let found = network.and_then(|network| Some((network, self.ports.get(network, uuid)?)));
        match found {
            Some((network, entry)) => self.set_port_bandwidth(network, entry, bandwidth),
            None => Ok(()),
        }
    }

    /// Each port's shaping is changed by one alone: its guest's owner, or its network's.
    fn set_port_bandwidth(
        &self,
        network: Uuid,
        mut entry: PortEntry,
        bandwidth: Option<Bandwidth>,
    ) -> Result<()> {
        let uuid = entry.port.uuid;
        entry.port.bandwidth = bandwidth;
        self.record_port(network, &entry)?;
        let bandwidth = entry.port.bandwidth;
        self.ports
            .change(uuid, |entry| entry.port.bandwidth = bandwidth);
        Ok(())
    }
}
