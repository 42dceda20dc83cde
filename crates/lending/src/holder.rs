//! Who gets a device, as the list of lent devices says it.

use assign::Holder;
use conf::{Domain, HostDevice, Interface, Network, NetworkPort};

/// The holder of a network's port; without the network, if nobody knows which it is.
#[must_use]
pub fn port_holder(network: Option<&Network>, port: &NetworkPort) -> Holder {
    Holder {
        guest: port.owner_uuid,
        name: port.owner_name.clone(),
        network: network.map(|network| network.name.clone()),
        port: Some(port.uuid),
        mac: Some(port.mac),
        alias: None,
        attachment: None,
    }
}

/// The holder of what an interface names itself.
#[must_use]
pub fn interface_holder(domain: &Domain, interface: &Interface) -> Holder {
    Holder {
        guest: domain.uuid,
        name: domain.name.clone(),
        network: None,
        port: None,
        mac: Some(interface.mac),
        alias: interface.info.alias.clone(),
        attachment: None,
    }
}

/// The holder of a plain host device.
#[must_use]
pub fn host_device_holder(domain: &Domain, hostdev: &HostDevice) -> Holder {
    Holder {
        guest: domain.uuid,
        name: domain.name.clone(),
        network: None,
        port: None,
        mac: None,
        alias: hostdev.info.alias.clone(),
        attachment: None,
    }
}
