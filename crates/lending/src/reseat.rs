//! Interfaces of running guests that are connected otherwise than they were.

use std::sync::Arc;

use assign::TapSeat;
use conf::{Domain, Interface, InterfaceSource, Network, NetworkPort, Uuid, VfSettings};
use host::Host;

use crate::plan::{Networks, PlannedPort, resolved, wanted_port};
use crate::refusal::DeviceRefusal;
use crate::wish::{Lack, PortSource, Settings, Target, Wish, WishError};

/// The port of a running interface, with all that its network says by now merged into it anew: what
/// its own document says may have changed.
///
/// # Errors
/// As [`conf::merge_port`].
pub fn merge_again(
    domain: &Domain,
    interface: &Interface,
    network: &Network,
) -> Result<NetworkPort, conf::Error> {
    conf::merge_port(wanted_port(domain, interface), network)
}

/// The port that a tap gets on the network that its document names now, and writes into the document
/// what it is resolved to; nobody knows of the port yet. `None`: it names its bridge itself.
/// `uuid`: the port's identity, if it is to have a certain one.
///
/// # Errors
/// There is no such network, it has no bridge, or it can't give what is asked for.
pub fn plan_move(
    domain: &Domain,
    interface: &mut Interface,
    uuid: Option<Uuid>,
    networks: &impl Networks,
) -> Result<Option<PlannedPort>, DeviceRefusal> {
    let lacks_bridge = || DeviceRefusal::from(WishError::from(Lack::NoBridgeThere));
    let name = match &interface.source {
        InterfaceSource::Bridge { .. } => {
            interface.actual = None;
            interface.check_resolved().map_err(DeviceRefusal::Setting)?;
            return Ok(None);
        }
        InterfaceSource::Network { network, .. } => network,
        _ => return Err(lacks_bridge()),
    };
    let network: Arc<Network> = networks.running(name)?;
    let mut port = merge_again(domain, interface, &network).map_err(DeviceRefusal::Port)?;
    port.uuid = uuid.unwrap_or(port.uuid);
    let source = PortSource::of(&network, interface.direct_mode).map_err(DeviceRefusal::Port)?;
    let PortSource::Bridge(plug) = source else {
        return Err(lacks_bridge());
    };
    let vf = conf::merge_vf_settings(interface.vf, &network, port.group.as_deref());
    if vf != VfSettings::default() {
        return Err(WishError::from(Lack::VfSettingsOfTap).into());
    }
    interface.actual = Some(resolved(&port, plug.clone()));
    interface.check_resolved().map_err(DeviceRefusal::Setting)?;
    port.plug = Some(plug);
    Ok(Some(PlannedPort {
        network,
        port,
        is_of_pool: false,
    }))
}

/// How the tap of an interface stands in its bridge, as the document of the running guest says; `None`:
/// it is no tap in a bridge. Asks the host; blocks.
///
/// # Errors
/// It asks for what a tap can't have, or its bridge is not there.
pub fn seat_of(
    host: &dyn Host,
    domain: &Domain,
    interface: &Interface,
) -> Result<Option<TapSeat>, WishError> {
    let (settings, target) = match &interface.actual {
        Some(actual) => (
            Settings::of_actual(actual),
            Some(Target::of_plug(host, &actual.plug, None)?),
        ),
        None => (Settings::own(interface), Target::of(host, interface)?),
    };
    let Some(target @ Target::Bridge { .. }) = target else {
        return Ok(None);
    };
    let wish = Wish {
        domain,
        interface,
        settings: &settings,
        host_uuid: Uuid::nil(),
    };
    wish.seat(host, &target)
}
