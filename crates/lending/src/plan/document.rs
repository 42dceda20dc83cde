//! What a plan takes from the guest's document alone: its devices with their names, the ports that
//! they ask for, and what nobody carries out.

use std::collections::HashMap;

use conf::{
    ActualDevice, Domain, ForwardMode, HostDevice, HostSource, Interface, InterfaceSource,
    NetworkPort, PciAddress, Plug, Teaming, Uuid,
};

use super::{DevicePlan, Networks, Outcome, PlanContext};
use crate::attachment::{Attachment, AttachmentState, Role, Subject};
use crate::refusal::GuestObstacle;

/// Every device of the guest that the host may have a part in, not looked at yet.
pub(super) fn devices(domain: &Domain, networks: &impl Networks) -> Vec<DevicePlan> {
    let named = with_aliases(domain, networks);
    let interfaces = named.devices.interfaces.iter().enumerate();
    let interfaces = interfaces.map(|(place, interface)| of_interface(place, interface));
    // A guest that has others is refused as a whole.
    let all = named.devices.hostdevs.iter().enumerate();
    let lent: Vec<_> = all.filter(|(_, one)| !is_usb(one)).collect();
    let hostdevs = lent
        .iter()
        .map(|&(place, hostdev)| of_host_device(place, hostdev));
    let mut devices: Vec<_> = interfaces.chain(hostdevs).collect();
    let teamings = (named.devices.interfaces.iter().map(|one| &one.teaming))
        .chain(lent.iter().map(|(_, one)| &one.teaming));
    pair(&mut devices, teamings);
    devices
}

/// One device of a document in which it has its alias.
pub(super) fn device_at(domain: &Domain, subject: Subject, place: usize) -> Option<DevicePlan> {
    let devices = &domain.devices;
    match subject {
        Subject::Interface => Some(of_interface(place, devices.interfaces.get(place)?)),
        Subject::HostDevice => Some(of_host_device(place, devices.hostdevs.get(place)?)),
    }
}

fn of_interface(place: usize, interface: &Interface) -> DevicePlan {
    let alias = interface.info.alias.as_deref();
    let mut device = device(Subject::Interface, place, alias, interface.teaming.as_ref());
    device.name = format!("interface {}", interface.mac);
    device.attachment.mac = Some(interface.mac);
    device.network = match &interface.source {
        InterfaceSource::Network { network, .. } => Some(network.clone()),
        _ => None,
    };
    device
}

fn of_host_device(place: usize, hostdev: &HostDevice) -> DevicePlan {
    let alias = hostdev.info.alias.as_deref();
    let mut device = device(Subject::HostDevice, place, alias, hostdev.teaming.as_ref());
    device.name = match &hostdev.source {
        HostSource::Pci(address) => format!("hostdev {address}"),
        HostSource::NetDevice(name) => format!("hostdev {name}"),
        HostSource::Usb(_) => "hostdev".to_owned(),
    };
    device
}

fn device(
    subject: Subject,
    place: usize,
    alias: Option<&str>,
    teaming: Option<&Teaming>,
) -> DevicePlan {
    DevicePlan {
        attachment: Attachment {
            id: Uuid::new_v4(),
            alias: alias.unwrap_or_default().to_owned(),
            subject,
            mac: None,
            role: match teaming {
                None => Role::Sole,
                Some(Teaming::Persistent) => Role::Standby,
                Some(Teaming::Transient { .. }) => Role::Primary,
            },
            pair: None,
            port: None,
            claim: None,
            state: AttachmentState::Planned,
        },
        name: String::new(),
        place,
        network: None,
        outcome: Outcome::Alone,
    }
}

fn is_usb(hostdev: &HostDevice) -> bool {
    matches!(hostdev.source, HostSource::Usb(_))
}

/// Each primary names its standby by its alias.
fn pair<'a>(devices: &mut [DevicePlan], teamings: impl Iterator<Item = &'a Option<Teaming>>) {
    let by_alias: HashMap<String, usize> = (devices.iter().enumerate())
        .map(|(at, device)| (device.attachment.alias.clone(), at))
        .collect();
    for (at, teaming) in teamings.enumerate() {
        let Some(Teaming::Transient { persistent }) = teaming else {
            continue;
        };
        let standby = by_alias.get(persistent);
        if let Some(&standby) = standby.filter(|&&standby| standby != at) {
            let pair = *(devices[standby].attachment.pair).get_or_insert_with(Uuid::new_v4);
            devices[at].attachment.pair = Some(pair);
        }
    }
}

/// The document with the aliases that its devices will have: those of a network that lends host
/// devices count as such.
fn with_aliases(domain: &Domain, networks: &impl Networks) -> Domain {
    let mut named = domain.clone();
    for interface in &mut named.devices.interfaces {
        interface.actual = None;
        let InterfaceSource::Network { network, .. } = &interface.source else {
            continue;
        };
        let lends_devices = networks.running(network).is_ok_and(|network| {
            matches!(
                network.forward_mode(),
                Some(ForwardMode::Hostdev | ForwardMode::HostdevHybrid)
            )
        });
        interface.actual = lends_devices.then(|| ActualDevice {
            port: Uuid::nil(),
            plug: Plug::HostdevPci {
                managed: false,
                driver: None,
                address: PciAddress::default(),
            },
            vlan: None,
            virtual_port: None,
            bandwidth: None,
            isolated: None,
            trust_guest_rx_filters: None,
        });
    }
    named.assign_aliases();
    named
}

/// The port that an interface asks its network for.
pub(crate) fn wanted_port(domain: &Domain, interface: &Interface) -> NetworkPort {
    let group = match &interface.source {
        InterfaceSource::Network { port_group, .. } => port_group.clone(),
        _ => None,
    };
    NetworkPort {
        uuid: Uuid::new_v4(),
        owner_name: domain.name.clone(),
        owner_uuid: domain.uuid,
        group,
        mac: interface.mac,
        virtual_port: interface.virtual_port.clone(),
        bandwidth: interface.bandwidth.clone(),
        class_id: None,
        vlan: interface.vlan.clone(),
        isolated: interface.isolated,
        trust_guest_rx_filters: interface.trust_guest_rx_filters,
        plug: None,
    }
}

/// What stands in the way of the guest as a whole.
pub(super) fn obstacles(domain: &Domain, context: &PlanContext) -> Vec<GuestObstacle> {
    let mut obstacles = Vec::new();
    let what = unsupported(domain);
    if !what.is_empty() {
        let guest = domain.name.clone();
        obstacles.push(GuestObstacle::Unsupported { guest, what });
    }
    if !context.misplaced.is_empty() {
        obstacles.push(GuestObstacle::Misplaced {
            guest: domain.name.clone(),
            what: context.misplaced.clone(),
        });
    }
    obstacles
}

/// What a document asks for and nobody carries out, by name.
fn unsupported(domain: &Domain) -> Vec<String> {
    let elements = domain.unsupported().into_iter();
    let mut refused: Vec<String> = elements.map(|one| one.to_string()).collect();
    for interface in &domain.devices.interfaces {
        let kind = match &interface.source {
            InterfaceSource::Hostdev {
                source: HostSource::Usb(_),
                ..
            } => "interface of type 'hostdev' on a USB device (only SR-IOV Virtual Functions can \
                  be given their MAC; use a plain <hostdev>)"
                .to_owned(),
            InterfaceSource::HostdevHybrid { .. } => {
                format!("interface of type '{}'", interface.source.kind())
            }
            _ => continue,
        };
        refused.push(format!("{kind}, {}", interface.mac));
    }
    for hostdev in &domain.devices.hostdevs {
        let HostSource::Usb(usb) = &hostdev.source else {
            continue;
        };
        let ids = (usb.ids.iter()).map(|(vendor, product)| format!(" {vendor:04x}:{product:04x}"));
        let place = (usb.place.iter()).map(|(bus, device)| format!(" at {bus}-{device}"));
        let name: String = ids.chain(place).collect();
        refused.push(format!("USB host device{name}"));
    }
    // Nobody reads more, and a document may have many thousands.
    let further = refused.split_off(refused.len().min(conf::MAX_FAULTS)).len();
    if further > 0 {
        refused.push(format!("and {further} more"));
    }
    refused
}
