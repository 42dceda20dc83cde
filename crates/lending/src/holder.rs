//! Who gets a device, as the list of lent devices says it.

use assign::Holder;
use conf::{Network, NetworkPort, Uuid};

use crate::attachment::Attachment;

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

/// The holder of what a guest's document names itself.
#[must_use]
pub fn attachment_holder(guest: Uuid, name: &str, attachment: &Attachment) -> Holder {
    Holder {
        guest,
        name: name.to_owned(),
        network: None,
        port: None,
        mac: attachment.mac,
        alias: Some(attachment.alias.clone()),
        attachment: Some(attachment.id),
    }
}
