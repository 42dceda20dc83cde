//! What a guest's start will take: each interface's port and device, and how each is to be set.
//! Nothing is touched here but the list of claims.

use std::collections::BTreeMap;

use assign::{Generation, Origin, Preparation, VfioPreparation};
use conf::{
    ActualDevice, DeviceId, HostSource, Interface, InterfaceSource, NetworkPort, PciAddress, Plug,
    Uuid,
};
use rpc::{Code, Error};
use tokio::task::block_in_place;

use super::QEMU;
use super::connect::{Settings, Target};
use super::start::Borrowed;
use crate::daemon::Daemon;
use crate::fault::{self, Result};
use crate::lender::{Borrower, Wanted};
use crate::network::{PortMaker, PortWish};

/// All devices of a guest, claimed and not touched yet.
#[derive(Debug, Default)]
pub(super) struct Planned {
    pub(super) devices: Vec<PlannedDevice>,
    /// Devices that interfaces name by their network devices, by the interface's place.
    pub(super) resolved: BTreeMap<usize, PciAddress>,
}

/// A device to prepare.
#[derive(Debug)]
pub(super) struct PlannedDevice {
    pub(super) claim: Generation,
    pub(super) wanted: Wanted,
    pub(super) preparation: Preparation,
    /// The interface that it is for, by its place; `None`: a plain host device.
    pub(super) place: Option<usize>,
    /// The network and port that chose the device, and may choose another.
    pub(super) chosen_by: Option<(Uuid, Uuid)>,
}

impl Daemon {
    /// Chooses and claims every device of a guest, and writes into the document what was chosen.
    pub(super) fn plan(
        &self,
        domain: &mut conf::Domain,
        borrowed: &mut Borrowed,
    ) -> Result<Planned> {
        let mut planned = Planned::default();
        let numa_nodes = self.numa_nodes_of(domain);
        for place in 0..domain.devices.interfaces.len() {
            let interface = &domain.devices.interfaces[place];
            let device = match &interface.source {
                InterfaceSource::Network { .. } => {
                    let none = BTreeMap::new();
                    Some(self.plan_port(domain, place, borrowed, &numa_nodes, none)?)
                }
                InterfaceSource::Hostdev {
                    managed,
                    driver,
                    source,
                } => {
                    let address = block_in_place(|| self.resolve(source))?;
                    if let HostSource::NetDevice(_) = source {
                        planned.resolved.insert(place, address);
                    }
                    // Only a VF can be given its MAC.
                    block_in_place(|| self.host.virtual_function(address))
                        .map_err(fault::host(QEMU))?;
                    let target = Target::Plug(Plug::HostdevPci {
                        managed: *managed,
                        driver: driver.clone(),
                        address,
                    });
                    Some(self.plan_own(domain, place, &target, borrowed)?)
                }
                _ => match Target::of(interface) {
                    Some(target) => Some(self.plan_own(domain, place, &target, borrowed)?),
                    None => None,
                },
            };
            planned.devices.extend(device);
        }
        for hostdev in &domain.devices.hostdevs {
            let address = block_in_place(|| self.resolve(&hostdev.source))?;
            let borrower =
                Borrower::host_device(&domain.name, domain.uuid, hostdev.info.alias.clone());
            let wanted = Wanted::Whole(address.into());
            let claim = self.lender.claim(wanted, &borrower)?;
            borrowed.lent.push(claim);
            planned.devices.push(PlannedDevice {
                claim,
                wanted,
                preparation: Preparation::Vfio(VfioPreparation {
                    managed: hostdev.managed,
                    driver: hostdev.driver.clone(),
                    network: None,
                    profile: None,
                }),
                place: None,
                chosen_by: None,
            });
        }
        Ok(planned)
    }

    /// The device of an interface that names it.
    fn plan_own(
        &self,
        domain: &conf::Domain,
        place: usize,
        target: &Target,
        borrowed: &mut Borrowed,
    ) -> Result<PlannedDevice> {
        let interface = &domain.devices.interfaces[place];
        let settings = Settings::own(interface);
        let (wanted, preparation) =
            block_in_place(|| self.connection(domain, interface, target, &settings))?;
        let borrower = Borrower::interface(&domain.name, domain.uuid, interface);
        let claim = self.lender.claim(wanted, &borrower)?;
        borrowed.lent.push(claim);
        Ok(PlannedDevice {
            claim,
            wanted,
            preparation,
            place: Some(place),
            chosen_by: None,
        })
    }

    /// A port of its network for an interface, with the device that the network chose; none of the
    /// excluded ones.
    pub(super) fn plan_port(
        &self,
        domain: &mut conf::Domain,
        place: usize,
        borrowed: &mut Borrowed,
        numa_nodes: &[u16],
        excluded: BTreeMap<DeviceId, String>,
    ) -> Result<PlannedDevice> {
        let interface = &domain.devices.interfaces[place];
        let (network, wanted) = wanted_port(domain, interface)?;
        let object = self.network_by_name(network)?;
        let wish = PortWish {
            maker: PortMaker::Guest,
            mode: interface.direct_mode,
            numa_nodes: numa_nodes.to_vec(),
            excluded,
        };
        let entry = self.make_port(&object, wanted, wish)?;
        let ids = (object.net().uuid, entry.port.uuid);
        borrowed.ports.push(ids);
        borrowed.lent.extend(entry.claim);
        let port = entry.port;
        let Some(plug) = port.plug.clone() else {
            let detail = format!("network '{network}' gave nothing to plug into");
            return Err(Error::new(Code::InternalError, QEMU, detail));
        };
        let settings = Settings {
            vf: object.vf_settings(interface.vf, port.group.as_deref()),
            ..Settings::of_port(&port)
        };
        let (wanted, preparation) = block_in_place(|| {
            self.connection(domain, interface, &Target::Plug(plug.clone()), &settings)
        })?;
        let claim = match entry.claim {
            Some(claim) => claim,
            // A tap is made for the guest alone; its network has nothing to keep account of.
            None => {
                let mut borrower = Borrower::interface(&domain.name, domain.uuid, interface);
                borrower.owner.network = Some(network.to_owned());
                borrower.owner.port = Some(port.uuid);
                borrower.origin = Origin::PoolPort;
                let claim = self.lender.claim(wanted, &borrower)?;
                borrowed.lent.push(claim);
                claim
            }
        };
        let plug = match (plug, &preparation) {
            // An isolated port's mode is another than its network's.
            (Plug::Direct { dev, .. }, Preparation::Macvtap(macvtap)) => Plug::Direct {
                dev,
                mode: macvtap.mode,
            },
            (plug, _) => plug,
        };
        domain.devices.interfaces[place].actual = Some(ActualDevice {
            port: port.uuid,
            plug,
            vlan: port.vlan,
            virtual_port: port.virtual_port,
            bandwidth: port.bandwidth,
            isolated: port.isolated,
            trust_guest_rx_filters: port.trust_guest_rx_filters,
        });
        Ok(PlannedDevice {
            claim,
            wanted,
            preparation,
            place: Some(place),
            chosen_by: Some(ids),
        })
    }

    /// The PCI function that a document means.
    pub(super) fn resolve(&self, source: &HostSource) -> Result<PciAddress> {
        match source {
            HostSource::Pci(address) => {
                self.host.pci_device(*address).map_err(fault::host(QEMU))?;
                Ok(*address)
            }
            HostSource::NetDevice(name) => {
                self.host.pci_address_of(name).map_err(fault::host(QEMU))
            }
            HostSource::Usb(_) => {
                let detail = "USB host devices are not carried out";
                Err(Error::new(Code::ConfigUnsupported, QEMU, detail))
            }
        }
    }
}

/// The network of an interface, and the port that it needs there.
pub(super) fn wanted_port<'a>(
    domain: &conf::Domain,
    interface: &'a Interface,
) -> Result<(&'a str, NetworkPort)> {
    let InterfaceSource::Network {
        network,
        port_group,
    } = &interface.source
    else {
        return Err(Error::new(
            Code::InternalError,
            QEMU,
            "not an interface of a network",
        ));
    };
    let port = NetworkPort {
        uuid: Uuid::new_v4(),
        owner_name: domain.name.clone(),
        owner_uuid: domain.uuid,
        group: port_group.clone(),
        mac: interface.mac,
        virtual_port: interface.virtual_port.clone(),
        bandwidth: interface.bandwidth.clone(),
        class_id: None,
        vlan: interface.vlan.clone(),
        isolated: interface.isolated,
        trust_guest_rx_filters: interface.trust_guest_rx_filters,
        plug: None,
    };
    Ok((network, port))
}

impl Settings {
    /// What a port says, in which all that its network and port group say is merged; the VF's
    /// settings are not part of it.
    pub(super) fn of_port(port: &NetworkPort) -> Self {
        Self {
            vlan: port.vlan.clone(),
            virtual_port: port.virtual_port.clone(),
            bandwidth: port.bandwidth.clone(),
            isolated: port.isolated == Some(true),
            trust_guest_rx_filters: port.trust_guest_rx_filters == Some(true),
            vf: conf::VfSettings::default(),
        }
    }
}

/// Refuses what a document asks for and nobody carries out: all of it, by name, in one message.
pub(super) fn refuse_unsupported(domain: &conf::Domain) -> Result<()> {
    let mut refused: Vec<String> = domain
        .unsupported()
        .into_iter()
        .map(|one| one.to_string())
        .collect();
    for interface in &domain.devices.interfaces {
        let kind = match &interface.source {
            InterfaceSource::Hostdev {
                source: HostSource::Usb(_),
                ..
            } => {
                "interface of type 'hostdev' on a USB device (only SR-IOV Virtual Functions can be \
                 given their MAC; use a plain <hostdev>)"
                    .to_owned()
            }
            InterfaceSource::HostdevHybrid { .. } | InterfaceSource::Other { .. } => {
                format!("interface of type '{}'", interface.source.kind())
            }
            _ if interface.script.is_some() || interface.downscript.is_some() => {
                "<script> of an interface".to_owned()
            }
            _ => continue,
        };
        refused.push(format!("{kind}, {}", interface.mac));
    }
    for hostdev in &domain.devices.hostdevs {
        if matches!(hostdev.source, HostSource::Usb(_)) {
            refused.push("USB host device".to_owned());
        }
    }
    if refused.is_empty() {
        return Ok(());
    }
    let detail = format!(
        "guest '{}' can't be started, since it asks for what is not carried out: {}",
        domain.name,
        refused.join("; ")
    );
    Err(Error::new(Code::ConfigUnsupported, QEMU, detail))
}

impl Borrower {
    pub(super) fn interface(guest: &str, uuid: Uuid, interface: &Interface) -> Self {
        Self {
            owner: assign::Holder {
                guest: uuid,
                name: guest.to_owned(),
                network: None,
                port: None,
                mac: Some(interface.mac),
                alias: interface.info.alias.clone(),
                attachment: None,
            },
            origin: Origin::Interface,
        }
    }

    pub(super) fn host_device(guest: &str, uuid: Uuid, alias: Option<String>) -> Self {
        Self {
            owner: assign::Holder {
                guest: uuid,
                name: guest.to_owned(),
                network: None,
                port: None,
                mac: None,
                alias,
                attachment: None,
            },
            origin: Origin::HostDevice,
        }
    }
}
