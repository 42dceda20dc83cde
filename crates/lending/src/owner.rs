//! Who gets a device, as the list of lent devices says it.

use assign::Owner;
use conf::{Domain, HostDevice, Interface, Network, NetworkPort};

/// The owner of a network's port.
#[must_use]
pub fn port_owner(network: &Network, port: &NetworkPort) -> Owner {
    Owner {
        guest: port.owner_uuid,
        name: port.owner_name.clone(),
        network: Some(network.name.clone()),
        port: Some(port.uuid),
        mac: Some(port.mac),
        alias: None,
    }
}

/// The owner of what an interface names itself.
#[must_use]
pub fn interface_owner(domain: &Domain, interface: &Interface) -> Owner {
    Owner {
        guest: domain.uuid,
        name: domain.name.clone(),
        network: None,
        port: None,
        mac: Some(interface.mac),
        alias: interface.info.alias.clone(),
    }
}

/// The owner of a plain host device.
#[must_use]
pub fn host_device_owner(domain: &Domain, hostdev: &HostDevice) -> Owner {
    Owner {
        guest: domain.uuid,
        name: domain.name.clone(),
        network: None,
        port: None,
        mac: None,
        alias: hostdev.info.alias.clone(),
    }
}
