//! The walk over a guest's devices: chooses, claims and checks each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use assign::{Holder, Item, Obstacle, Origin, Preparation, Step, VfioPreparation};
use conf::{
    ActualDevice, DeviceId, DirectMode, Domain, HostDevice, HostSource, Interface, InterfaceSource,
    MacAddress, NetdevName, Network, NetworkPort, PciAddress, Plug, PoolMembers,
};
use host::{Host, HostError};
use pool::Place;

use super::{
    DevicePlan, Networks, Note, Outcome, PlanContext, PlannedDevice, PlannedPort, document,
    resolved,
};
use crate::attachment::{Attachment, AttachmentState, PortId, Subject};
use crate::claims::Claims;
use crate::devices::device_named;
use crate::error::ChooseError;
use crate::holder::{host_device_holder, interface_holder, port_holder};
use crate::ledger::PoolRequest;
use crate::refusal::{DeviceRefusal, Lendable};
use crate::state::{Share, whole_or_part};
use crate::usb::{UsbError, find_usb};
use crate::wish::{PortSource, Settings, Target, Wish};

/// What the guest's devices looked at so far take that no other of them can have.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Devices that the document names; false: for a macvtap beside others.
    named: BTreeMap<DeviceId, bool>,
    names: BTreeSet<NetdevName>,
    macs: BTreeSet<(DeviceId, MacAddress)>,
}

impl Taken {
    pub(super) fn note(&mut self, device: &DevicePlan) {
        let Some(planned) = device.planned() else {
            return;
        };
        self.names.extend(planned.netdev);
        if let (Preparation::Macvtap(macvtap), Some(on)) =
            (&planned.preparation, planned.share.device())
        {
            self.macs.insert((on, macvtap.mac));
        }
    }
}

/// The walk over a guest's devices.
pub(super) struct Walk<'a, C, N> {
    pub(super) domain: &'a Domain,
    pub(super) claims: &'a mut C,
    pub(super) networks: &'a N,
    pub(super) context: &'a PlanContext,
    pub(super) taken: Taken,
}

/// An interface before its network, without a device yet.
struct Applicant<'a> {
    interface: &'a Interface,
    network: Arc<Network>,
    port: NetworkPort,
    settings: Settings,
    holder: Holder,
}

impl<C: Claims, N: Networks> Walk<'_, C, N> {
    /// Minds what the document names, which a network must not choose before it is that one's turn.
    pub(super) fn note_named(&mut self) {
        let devices = &self.domain.devices;
        let mut named = BTreeMap::new();
        let mut note = |device: DeviceId, whole: bool| {
            *named.entry(device).or_insert(false) |= whole;
        };
        for hostdev in &devices.hostdevs {
            // No network lends a USB device.
            if !matches!(hostdev.source, HostSource::Usb(_))
                && let Ok(address) = resolve(self.host(), &hostdev.source)
            {
                note(address.into(), true);
            }
        }
        for interface in &devices.interfaces {
            match &interface.source {
                InterfaceSource::Hostdev { source, .. } => {
                    if let Ok(address) = resolve(self.host(), source) {
                        note(address.into(), true);
                    }
                }
                InterfaceSource::Direct { dev, mode } => {
                    if let Ok(device) = device_named(self.host(), dev) {
                        note(device, *mode == DirectMode::Passthrough);
                    }
                }
                _ => {}
            }
        }
        self.taken.named = named;
    }

    pub(super) fn step(&mut self, device: &mut DevicePlan, excluded: BTreeMap<DeviceId, String>) {
        let devices = &self.domain.devices;
        let planned = match device.attachment.subject {
            Subject::Interface => match devices.interfaces.get(device.place) {
                Some(interface) => self.interface(interface, &device.attachment, excluded),
                None => Ok(None),
            },
            Subject::HostDevice => match devices.hostdevs.get(device.place) {
                Some(hostdev) => self.host_device(hostdev, &device.attachment),
                None => Ok(None),
            },
        };
        let attachment = &mut device.attachment;
        (attachment.claim, attachment.port) = (None, None);
        attachment.state = AttachmentState::Planned;
        device.outcome = match planned {
            Ok(Some(planned)) => {
                attachment.claim = planned.claim;
                attachment.port = planned.port.as_ref().map(|port| PortId {
                    network: port.network.uuid,
                    port: port.port.uuid,
                });
                Outcome::Lend(Box::new(planned))
            }
            Ok(None) => Outcome::Alone,
            Err(refusal) => Outcome::Refused(Box::new(refusal)),
        };
        self.taken.note(device);
    }

    fn interface(
        &mut self,
        interface: &Interface,
        attachment: &Attachment,
        excluded: BTreeMap<DeviceId, String>,
    ) -> Result<Option<PlannedDevice>, DeviceRefusal> {
        let target = match &interface.source {
            InterfaceSource::Network { network, .. } => {
                let applicant = self.applicant(interface, network, attachment)?;
                return self.port(applicant, excluded).map(Some);
            }
            // A guest that has one is refused as a whole.
            InterfaceSource::Hostdev {
                source: HostSource::Usb(_),
                ..
            } => return Ok(None),
            InterfaceSource::Hostdev {
                managed,
                driver,
                source,
            } => {
                let address = resolve(self.host(), source)?;
                // Only a VF can be given its MAC.
                self.host().virtual_function(address)?;
                Some(Target::HostDevice {
                    managed: *managed,
                    driver: driver.clone(),
                    address,
                })
            }
            _ => Target::of(self.host(), interface)?,
        };
        check_setting(interface, None)?;
        let Some(target) = target else {
            return Ok(None);
        };
        let settings = Settings::own(interface);
        let (share, preparation) = self.wish(interface, &settings).of(self.host(), &target)?;
        let mut planned = PlannedDevice::new(share, preparation, "the interface names it");
        planned.note_host_access();
        let holder = holder(interface_holder(self.domain, interface), attachment);
        let claim = self.claims.claim(share, &holder, Origin::Interface)?;
        self.check(claim, planned, &holder).map(Some)
    }

    fn host_device(
        &mut self,
        hostdev: &HostDevice,
        attachment: &Attachment,
    ) -> Result<Option<PlannedDevice>, DeviceRefusal> {
        let (share, preparation) = match &hostdev.source {
            HostSource::Usb(usb) => match find_usb(self.host(), usb) {
                Ok(address) => (Share::Whole(address.into()), Preparation::Usb),
                // At a start 'requisite' means as much as 'mandatory'.
                Err(UsbError::Missing(_)) if usb.startup_policy.as_deref() == Some("optional") => {
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            },
            source => {
                let preparation = VfioPreparation {
                    managed: hostdev.managed,
                    driver: hostdev.driver.clone(),
                    network: None,
                    profile: None,
                };
                let address = resolve(self.host(), source)?;
                (Share::Whole(address.into()), Preparation::Vfio(preparation))
            }
        };
        let planned = PlannedDevice::new(share, preparation, "the guest names it");
        let holder = holder(host_device_holder(self.domain, hostdev), attachment);
        let claim = self.claims.claim(share, &holder, Origin::HostDevice)?;
        self.check(claim, planned, &holder).map(Some)
    }

    fn applicant<'i>(
        &self,
        interface: &'i Interface,
        network: &str,
        attachment: &Attachment,
    ) -> Result<Applicant<'i>, DeviceRefusal> {
        let network = self.networks.running(network)?;
        let port = document::wanted_port(self.domain, interface);
        let port = conf::merge_port(port, &network).map_err(DeviceRefusal::Port)?;
        let vf = conf::merge_vf_settings(interface.vf, &network, port.group.as_deref());
        Ok(Applicant {
            interface,
            settings: Settings::of_port(&port, vf),
            holder: holder(port_holder(Some(&network), &port), attachment),
            network,
            port,
        })
    }

    /// A port with the device that the network chose; none of the excluded ones. One that is not
    /// in a state to be lent is excluded, too, and the next is tried.
    fn port(
        &mut self,
        applicant: Applicant<'_>,
        mut excluded: BTreeMap<DeviceId, String>,
    ) -> Result<PlannedDevice, DeviceRefusal> {
        let network = &applicant.network;
        let mode = match PortSource::of(network, applicant.interface.direct_mode) {
            Err(error) => return Err(DeviceRefusal::Port(error)),
            Ok(PortSource::Pool(mode)) => mode,
            Ok(PortSource::Bridge(plug)) => {
                let target = Target::of_plug(self.host(), &plug, None)?;
                let planned = self.seated(&applicant, plug, &target, "the network's bridge")?;
                let holder = &applicant.holder;
                let claim = self.claims.claim(planned.share, holder, Origin::PoolPort)?;
                return self.check(claim, planned, holder);
            }
        };
        let request = PoolRequest {
            network,
            mode,
            holder: &applicant.holder,
            numa_nodes: &self.context.numa_nodes,
        };
        for (device, whole) in &self.taken.named {
            let lends_whole =
                matches!(whole_or_part(Some(network), mode, *device), Share::Whole(_));
            if *whole || lends_whole {
                excluded.insert(*device, "the guest names it itself".to_owned());
            }
        }
        let mut is_unmanaged = false;
        loop {
            let chosen = match self.claims.choose(&request, &mut excluded) {
                Err(ChooseError::Refused(refusal)) if is_unmanaged => {
                    return Err(ChooseError::Unmanaged(refusal).into());
                }
                chosen => chosen?,
            };
            let device = chosen.choice.device;
            let is_vf = matches!(chosen.choice.place, Place::Vf { .. });
            let why = chosen.choice.to_string();
            let planned = Target::of_plug(self.host(), &chosen.plug, Some((device, is_vf)))
                .map_err(DeviceRefusal::from)
                .and_then(|target| self.seated(&applicant, chosen.plug, &target, &why));
            let planned = match planned {
                Ok(planned) => self.check(chosen.claim, planned, &applicant.holder),
                Err(refusal) => {
                    self.claims.drop_claim(chosen.claim);
                    Err(refusal)
                }
            };
            match planned {
                Ok(mut planned) => {
                    planned.passed_over = excluded;
                    planned.notes.extend(lone_pf(self.host(), network));
                    if let Some(port) = &mut planned.port {
                        port.is_of_pool = true;
                    }
                    return Ok(planned);
                }
                Err(refusal) => {
                    is_unmanaged |= matches!(
                        &refusal,
                        DeviceRefusal::Obstructed { obstacle, .. }
                            if matches!(**obstacle, Obstacle::NotDetached { .. })
                    );
                    let fault = refusal.own_fault().ok_or(refusal)?;
                    excluded.insert(device, fault);
                }
            }
        }
    }

    /// A port that is plugged in there; not claimed yet, or not checked.
    fn seated(
        &self,
        applicant: &Applicant<'_>,
        plug: Plug,
        target: &Target,
        why: &str,
    ) -> Result<PlannedDevice, DeviceRefusal> {
        let actual = resolved(&applicant.port, plug.clone());
        check_setting(applicant.interface, Some(actual))?;
        let wish = self.wish(applicant.interface, &applicant.settings);
        let (share, preparation) = wish.of(self.host(), target)?;
        let mut planned = PlannedDevice::new(share, preparation, why);
        if !applicant.network.extension.host_access {
            planned.note_host_access();
        }
        planned.port = Some(PlannedPort {
            network: Arc::clone(&applicant.network),
            port: NetworkPort {
                plug: Some(plug),
                ..applicant.port.clone()
            },
            is_of_pool: false,
        });
        Ok(planned)
    }

    /// Checks all that preparing would check, and notes its steps. What does not pass has no claim
    /// afterwards.
    fn check(
        &mut self,
        claim: C::Claim,
        mut planned: PlannedDevice,
        holder: &Holder,
    ) -> Result<PlannedDevice, DeviceRefusal> {
        if let Some(own) = self.claims.own(planned.share, holder) {
            planned.netdev = own.netdev;
            planned.notes.push(Note::HasIt);
            planned.claim = C::generation(claim);
            return Ok(planned);
        }
        match self.steps(&planned, holder) {
            Ok((steps, netdev)) => {
                (planned.steps, planned.netdev) = (steps, netdev);
                planned.claim = C::generation(claim);
                Ok(planned)
            }
            Err(refusal) => {
                self.claims.drop_claim(claim);
                Err(refusal)
            }
        }
    }

    fn steps(
        &self,
        planned: &PlannedDevice,
        holder: &Holder,
    ) -> Result<(Vec<Step>, Option<NetdevName>), DeviceRefusal> {
        if let (Preparation::Macvtap(macvtap), Some(parent)) =
            (&planned.preparation, planned.share.device())
            && self.taken.macs.contains(&(parent, macvtap.mac))
        {
            return Err(DeviceRefusal::SameMac {
                guest: self.domain.name.clone(),
                mac: macvtap.mac,
                parent,
            });
        }
        let assigner = &self.claims.ledger().assigner;
        let item = match planned.share {
            Share::Whole(device) => Item::Device(device),
            Share::Part(_) | Share::Tap => Item::PLANNED_LINK,
        };
        let found = assigner
            .plan_beside(item, holder, &planned.preparation, &self.taken.names)
            .map_err(|obstacle| DeviceRefusal::Obstructed {
                what: Lendable::new(planned.share, mode(&planned.preparation)),
                guest: self.domain.name.clone(),
                obstacle: Box::new(obstacle),
            })?;
        // One that was asked for.
        let same = |name: &NetdevName| self.taken.names.contains(name);
        if let Some(name) = found.netdev().filter(same) {
            return Err(DeviceRefusal::SameName {
                guest: self.domain.name.clone(),
                name,
            });
        }
        let netdev = found.netdev();
        Ok((found.steps, netdev))
    }

    fn wish<'w>(&'w self, interface: &'w Interface, settings: &'w Settings) -> Wish<'w> {
        Wish {
            domain: self.domain,
            interface,
            settings,
            host_uuid: self.context.host_uuid,
        }
    }

    fn host(&self) -> &dyn Host {
        &*self.claims.ledger().host
    }
}

impl PlannedDevice {
    fn note_host_access(&mut self) {
        if mode(&self.preparation).is_some_and(|mode| mode != DirectMode::Passthrough) {
            self.notes.push(Note::NoHostAccess);
        }
    }
}

/// A macvtap's mode.
fn mode(preparation: &Preparation) -> Option<DirectMode> {
    match preparation {
        Preparation::Macvtap(macvtap) => Some(macvtap.mode),
        Preparation::Vfio(_) | Preparation::Tap(_) | Preparation::Usb => None,
    }
}

/// The holder of the attachment's device.
fn holder(holder: Holder, attachment: &Attachment) -> Holder {
    Holder {
        alias: Some(attachment.alias.clone()),
        attachment: Some(attachment.id),
        ..holder
    }
}

/// Refuses settings that what the interface was resolved to can't have.
fn check_setting(interface: &Interface, actual: Option<ActualDevice>) -> Result<(), DeviceRefusal> {
    let resolved = Interface {
        actual,
        ..interface.clone()
    };
    resolved.check_resolved().map_err(DeviceRefusal::Setting)
}

/// The PCI function that a document means.
fn resolve(host: &dyn Host, source: &HostSource) -> Result<PciAddress, DeviceRefusal> {
    match source {
        HostSource::Pci(address) => {
            host.pci_device(*address)?;
            Ok(*address)
        }
        HostSource::NetDevice(name) => Ok(host.pci_address_of(name)?),
        HostSource::Usb(_) => Err(DeviceRefusal::UsbInterface),
    }
}

fn lone_pf(host: &dyn Host, network: &Network) -> Option<Note> {
    let forward = network.forward.as_ref()?;
    let PoolMembers::Interfaces(names) = &forward.members else {
        return None;
    };
    let [name] = names.as_slice() else {
        return None;
    };
    let is_passthrough = network.default_direct_mode() == Some(DirectMode::Passthrough);
    let pf = match is_passthrough.then(|| host.physical_function(name))? {
        Ok(pf) => pf,
        Err(HostError::NotPhysicalFunction(_) | _) => return None,
    };
    (pf.max_vfs > 0).then(|| Note::LonePf(name.clone()))
}
