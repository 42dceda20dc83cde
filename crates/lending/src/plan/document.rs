//! What a plan takes from the guest's document alone: its devices with their names, the ports that
//! they ask for, and what nobody carries out.

use conf::{
    ActualDevice, Domain, ForwardMode, HostDevice, HostSource, HybridPart, Interface,
    InterfaceSource, NetworkPort, PairPrimary, PciAddress, Plug, Uuid,
};

use super::{DevicePlan, Networks, Outcome, PlanContext, Wanted};
use crate::attachment::{Attachment, AttachmentState, Role, Subject};
use crate::refusal::GuestObstacle;
use crate::usb::UsbName;

/// Every device of the guest that the host may have a part in, not looked at yet.
pub(super) fn devices(domain: &Domain, networks: &impl Networks) -> Vec<DevicePlan> {
    let named = with_aliases(domain, networks);
    let interfaces = named.devices.interfaces.iter().enumerate();
    let interfaces = interfaces.map(|(place, interface)| of_interface(place, interface));
    let hostdevs = named.devices.hostdevs.iter().enumerate();
    let hostdevs = hostdevs.map(|(place, hostdev)| of_host_device(place, hostdev));
    let mut devices: Vec<_> = interfaces.chain(hostdevs).collect();
    pair(&mut devices, &named);
    devices
}

/// Some devices of a document in which they have their aliases.
pub(super) fn devices_at(domain: &Domain, wanted: &[Wanted]) -> Vec<DevicePlan> {
    let devices = &domain.devices;
    let wanted = wanted.iter().filter_map(|wanted| {
        let place = wanted.place;
        let mut device = match wanted.subject {
            Subject::Interface => of_interface(place, devices.interfaces.get(place)?),
            Subject::HostDevice => of_host_device(place, devices.hostdevs.get(place)?),
        };
        if let Some(id) = wanted.attachment {
            device.attachment.id = id;
        }
        Some(device)
    });
    let mut wanted: Vec<_> = wanted.collect();
    pair(&mut wanted, domain);
    wanted
}

fn of_interface(place: usize, interface: &Interface) -> DevicePlan {
    let alias = interface.info.alias.as_deref();
    let mut device = device(Subject::Interface, place, alias);
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
    let mut device = device(Subject::HostDevice, place, alias);
    device.name = match &hostdev.source {
        HostSource::Pci(address) => format!("hostdev {address}"),
        HostSource::NetDevice(name) | HostSource::VfOf(name) => format!("hostdev {name}"),
        HostSource::Usb(usb) => format!("hostdev {}", UsbName::from(usb)),
    };
    device
}

fn device(subject: Subject, place: usize, alias: Option<&str>) -> DevicePlan {
    DevicePlan {
        attachment: Attachment {
            id: Uuid::new_v4(),
            alias: alias.unwrap_or_default().to_owned(),
            subject,
            mac: None,
            role: Role::Sole,
            pair: None,
            port: None,
            claim: None,
            reserved: None,
            owed_since: None,
            state: AttachmentState::Planned,
        },
        name: String::new(),
        place,
        network: None,
        outcome: Outcome::Alone,
    }
}

/// Notes which are the two of a pair.
fn pair(devices: &mut [DevicePlan], domain: &Domain) {
    for pair in domain.pairs() {
        let id = pair.id.unwrap_or_else(Uuid::new_v4);
        let primary = match pair.primary {
            PairPrimary::Interface(place) => (Subject::Interface, place),
            PairPrimary::Hostdev(place) => (Subject::HostDevice, place),
        };
        let halves = [
            ((Subject::Interface, pair.standby), Role::Standby),
            (primary, Role::Primary),
        ];
        for (half, role) in halves {
            let mut its = devices.iter_mut().filter(|device| device.is_at(half));
            if let Some(device) = its.next() {
                device.attachment.pair = Some(id);
                device.attachment.role = role;
            }
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
        let is_standby = interface
            .hybrid_half()
            .is_some_and(|half| half.part == HybridPart::Standby);
        let lends_devices = !is_standby
            && networks.running(network).is_ok_and(|network| {
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
    refused.extend(domain.pair_faults().iter().map(ToString::to_string));
    for interface in &domain.devices.interfaces {
        let kind = match &interface.source {
            InterfaceSource::Hostdev {
                source: HostSource::Usb(_),
                ..
            } => "interface of type 'hostdev' on a USB device (only SR-IOV Virtual Functions can \
                  be given their MAC; use a plain <hostdev>)"
                .to_owned(),
            _ => continue,
        };
        refused.push(format!("{kind}, {}", interface.mac));
    }
    // Nobody reads more, and a document may have many thousands.
    let further = refused.split_off(refused.len().min(conf::MAX_FAULTS)).len();
    if further > 0 {
        refused.push(format!("and {further} more"));
    }
    refused
}
