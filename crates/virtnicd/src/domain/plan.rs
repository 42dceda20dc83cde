//! What a guest's start will take: each interface's port and device, and how each is to be set.
//! Nothing is touched here but the list of claims.

use std::collections::BTreeMap;

use assign::{Generation, Origin, Preparation, VfConfig};
use conf::{
    ActualDevice, HostSource, Interface, InterfaceSource, NetworkPort, PciAddress, Plug, Uuid,
    VfSettings,
};
use rpc::{Code, Error};
use tokio::task::block_in_place;

use super::QEMU;
use super::start::Borrowed;
use crate::daemon::Daemon;
use crate::fault::{self, Result};
use crate::lender::Borrower;
use crate::network::PortMaker;

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
    pub(super) address: PciAddress,
    pub(super) preparation: Preparation,
    /// The interface, by its place, whose network chose the device and may choose another; and its
    /// network and port.
    pub(super) chosen_for: Option<(usize, (Uuid, Uuid))>,
}

impl Daemon {
    /// Chooses and claims every device of a guest, and writes into the document what was chosen.
    pub(super) async fn plan(
        &self,
        domain: &mut conf::Domain,
        borrowed: &mut Borrowed,
    ) -> Result<Planned> {
        let mut planned = Planned::default();
        let (name, uuid) = (domain.name.clone(), domain.uuid);
        for place in 0..domain.devices.interfaces.len() {
            let interface = &mut domain.devices.interfaces[place];
            let device = match &interface.source {
                InterfaceSource::Network { .. } => Some(
                    self.plan_port(domain, place, borrowed, BTreeMap::new())
                        .await?,
                ),
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
                    let own = interface.vf.unwrap_or_default();
                    let network = vf_config(interface, interface.vlan.as_ref(), &own)?;
                    let borrower = Borrower::interface(&name, uuid, interface);
                    let claim = self.lender.claim(address, &borrower)?;
                    borrowed.lent.push(claim);
                    let preparation = Preparation {
                        managed: *managed,
                        driver: driver.clone(),
                        network: Some(network),
                    };
                    Some(PlannedDevice {
                        claim,
                        address,
                        preparation,
                        chosen_for: None,
                    })
                }
                _ => None,
            };
            planned.devices.extend(device);
        }
        for hostdev in &domain.devices.hostdevs {
            let address = block_in_place(|| self.resolve(&hostdev.source))?;
            let borrower = Borrower::host_device(&name, uuid, hostdev.info.alias.clone());
            let claim = self.lender.claim(address, &borrower)?;
            borrowed.lent.push(claim);
            let preparation = Preparation {
                managed: hostdev.managed,
                driver: hostdev.driver.clone(),
                network: None,
            };
            planned.devices.push(PlannedDevice {
                claim,
                address,
                preparation,
                chosen_for: None,
            });
        }
        Ok(planned)
    }

    /// A port of its network for an interface, with the device that the network chose; none of the
    /// excluded ones.
    pub(super) async fn plan_port(
        &self,
        domain: &mut conf::Domain,
        place: usize,
        borrowed: &mut Borrowed,
        excluded: BTreeMap<PciAddress, String>,
    ) -> Result<PlannedDevice> {
        let (guest, uuid) = (domain.name.clone(), domain.uuid);
        let interface = &mut domain.devices.interfaces[place];
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
        let object = self.network_by_name(network)?;
        let wanted = NetworkPort {
            uuid: Uuid::new_v4(),
            owner_name: guest,
            owner_uuid: uuid,
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
        let entry = self
            .make_port(&object, wanted, PortMaker::Guest, excluded)
            .await?;
        let ids = (object.net().uuid, entry.port.uuid);
        borrowed.ports.push(ids);
        let port = entry.port;
        let (
            Some(Plug::HostdevPci {
                managed,
                driver,
                address,
            }),
            Some(claim),
        ) = (&port.plug, entry.claim)
        else {
            let detail = format!("network '{network}' gave no host device");
            return Err(Error::new(Code::InternalError, QEMU, detail));
        };
        borrowed.lent.push(claim);
        let settings = object.vf_settings(interface.vf, port.group.as_deref());
        let network = Some(vf_config(interface, port.vlan.as_ref(), &settings)?);
        let preparation = Preparation {
            managed: *managed,
            driver: driver.clone(),
            network,
        };
        let address = *address;
        interface.actual = port.plug.clone().map(|plug| ActualDevice {
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
            address,
            preparation,
            chosen_for: Some((place, ids)),
        })
    }

    /// The PCI function that a document means.
    fn resolve(&self, source: &HostSource) -> Result<PciAddress> {
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

fn vf_config(
    interface: &Interface,
    vlan: Option<&conf::Vlan>,
    settings: &VfSettings,
) -> Result<VfConfig> {
    VfConfig::new(interface.mac, vlan, settings).map_err(|error| {
        let detail = format!("interface {}: {error}", interface.mac);
        Error::new(Code::ConfigUnsupported, QEMU, detail)
    })
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
            InterfaceSource::Network { .. } | InterfaceSource::User | InterfaceSource::Null => {
                continue;
            }
            InterfaceSource::Hostdev {
                source: HostSource::Usb(_),
                ..
            } => {
                "interface of type 'hostdev' on a USB device (only SR-IOV Virtual Functions can be \
                 given their MAC; use a plain <hostdev>)"
                    .to_owned()
            }
            InterfaceSource::Hostdev { .. } => continue,
            _ => format!("interface of type '{}'", interface.source.kind()),
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
    fn interface(guest: &str, uuid: Uuid, interface: &Interface) -> Self {
        Self {
            owner: assign::Owner {
                guest: uuid,
                name: guest.to_owned(),
                network: None,
                port: None,
                mac: Some(interface.mac),
                alias: interface.info.alias.clone(),
            },
            origin: Origin::Interface,
        }
    }

    fn host_device(guest: &str, uuid: Uuid, alias: Option<String>) -> Self {
        Self {
            owner: assign::Owner {
                guest: uuid,
                name: guest.to_owned(),
                network: None,
                port: None,
                mac: None,
                alias,
            },
            origin: Origin::HostDevice,
        }
    }
}
