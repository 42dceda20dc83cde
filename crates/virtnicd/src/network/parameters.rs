//! Parameters of ports: their shaping.

use std::sync::Arc;

use conf::{Bandwidth, Plug, Uuid};
use rpc::{Code, Error, NetworkPortGetParameters, NetworkPortSetParameters, Params};

use super::{DOMAIN, NetworkObject, PortMaker};
use crate::bandwidth::{BandwidthChange, rate_params};
use crate::daemon::Daemon;
use crate::fault::Result;
use crate::sync::lock;

impl Daemon {
    /// The rates of a port: all at once, since clients ask one time, with room for none.
    pub(crate) fn port_parameters(&self, args: &NetworkPortGetParameters) -> Result<Params> {
        let entry = self.network(&args.port.net)?.port(args.port.uuid)?;
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
        let entry = object.port(uuid)?;
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
                && self.shape_port(&guest, uuid, change.clone()).await?
            {
                return Ok(());
            }
        }
        // Whoever made it reads it and carries it out.
        let new = change.apply(entry.port.bandwidth.as_ref());
        self.set_port_bandwidth(&object, uuid, new)
    }

    /// Records the shaping of a port, if it is on a running network.
    pub(crate) fn put_port_bandwidth(
        &self,
        uuid: Uuid,
        bandwidth: Option<Bandwidth>,
    ) -> Result<()> {
        let networks = self.networks.all();
        match networks.iter().find(|object| object.port(uuid).is_ok()) {
            Some(object) => self.set_port_bandwidth(object, uuid, bandwidth),
            None => Ok(()),
        }
    }

    fn set_port_bandwidth(
        &self,
        object: &NetworkObject,
        uuid: Uuid,
        bandwidth: Option<Bandwidth>,
    ) -> Result<()> {
        let mut state = lock(&object.state);
        let active = state.active.as_mut().ok_or_else(|| object.not_active())?;
        let entry = active.ports.get_mut(&uuid);
        let entry = entry.ok_or_else(|| super::port::no_port(uuid))?;
        let before = std::mem::replace(&mut entry.port.bandwidth, bandwidth);
        self.record_port(object, entry)
            .inspect_err(|_| entry.port.bandwidth = before)
    }
}
