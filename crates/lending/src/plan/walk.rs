//! The walk over a guest's devices: chooses, claims and checks each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use assign::{Holder, Item, Obstacle, Origin, Preparation, Step, VfioPreparation};
use conf::{
    ActualDevice, DeviceId, DirectMode, Domain, ForwardMode, HostDevice, HostSource, Interface,
    InterfaceSource, MacAddress, NetdevName, Network, NetworkPort, PairPrimary, PciAddress, Plug,
    Uuid, VfSettings,
};
use host::{Host, HostError};
use pool::{Choice, Place, Source};

use super::{
    DevicePlan, Networks, Note, Outcome, OwedDevice, PlanContext, PlannedDevice, PlannedPort,
    document, resolved,
};
use crate::attachment::{Attachment, AttachmentState, Creditor, PortId, Role, Subject};
use crate::claims::Claims;
use crate::devices::device_named;
use crate::error::ChooseError;
use crate::holder::{attachment_holder, port_holder};
use crate::ledger::{PfPlace, PoolRequest};
use crate::members::lone_pf;
use crate::refusal::{DeviceRefusal, Lendable};
use crate::state::{Share, whole_or_part};
use crate::usb::{UsbError, find_usb};
use crate::wish::{PortSource, Settings, Target, Wish};

mod pairs;

/// What the guest's devices looked at so far take that no other of them can have.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Devices that the document names; false: for a macvtap beside others.
    named: BTreeMap<DeviceId, bool>,
    /// Those that it names twice, to have them whole.
    twice: BTreeSet<DeviceId>,
    /// MACs that several interfaces have, halves of a pair apart.
    shared_macs: BTreeSet<MacAddress>,
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
    /// Where the VFs of pairs are, or will be, and whether that is only hoped for.
    pub(super) pairs: BTreeMap<Uuid, (PfPlace, bool)>,
}

/// An interface before its network, without a device yet.
#[derive(Clone)]
struct Applicant<'a> {
    interface: &'a Interface,
    network: Arc<Network>,
    port: NetworkPort,
    settings: Settings,
    holder: Holder,
}

impl<'a, C: Claims, N: Networks> Walk<'a, C, N> {
    pub(super) fn new(
        domain: &'a Domain,
        claims: &'a mut C,
        networks: &'a N,
        context: &'a PlanContext,
    ) -> Self {
        Self {
            domain,
            claims,
            networks,
            context,
            taken: Taken::default(),
            pairs: BTreeMap::new(),
        }
    }

    /// Minds what the document names, which a network must not choose before it is that one's turn.
    pub(super) fn note_named(&mut self) {
        let devices = &self.domain.devices;
        let (mut named, mut twice) = (BTreeMap::new(), BTreeSet::new());
        let mut note = |device: DeviceId, whole: bool| {
            let known = named.entry(device).or_insert(false);
            if *known && whole {
                twice.insert(device);
            }
            *known |= whole;
        };
        for hostdev in &devices.hostdevs {
            // No network lends a USB device.
            if !matches!(hostdev.source, HostSource::Usb(_))
                && let Ok(address) = self.resolve(&hostdev.source)
            {
                note(address.into(), true);
            }
        }
        for interface in &devices.interfaces {
            match &interface.source {
                InterfaceSource::Hostdev { source, .. } => {
                    if let Ok(address) = self.resolve(source) {
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
        (self.taken.named, self.taken.twice) = (named, twice);
        self.taken.shared_macs = self.shared_macs();
    }

    fn shared_macs(&self) -> BTreeSet<MacAddress> {
        let pairs = self.domain.pairs().into_iter();
        let primaries: BTreeSet<usize> = pairs
            .filter_map(|pair| match pair.primary {
                PairPrimary::Interface(at) => Some(at),
                PairPrimary::Hostdev(_) => None,
            })
            .collect();
        let mut seen = BTreeSet::new();
        let interfaces = self.domain.devices.interfaces.iter().enumerate();
        let others = interfaces.filter(|(at, _)| !primaries.contains(at));
        others
            .map(|(_, interface)| interface.mac)
            .filter(|mac| !seen.insert(*mac))
            .collect()
    }

    /// Every device; VFs of pairs first, each of which says on which PF the other half has to be. Those of
    /// `excluded` are not chosen.
    pub(super) fn each(
        &mut self,
        devices: &mut [DevicePlan],
        excluded: &BTreeMap<DeviceId, String>,
    ) {
        for is_turn_of_primaries in [true, false] {
            let its_turn = |device: &&mut DevicePlan| {
                (device.attachment.role == Role::Primary) == is_turn_of_primaries
            };
            for device in devices.iter_mut().filter(its_turn) {
                self.step(device, excluded.clone());
            }
        }
    }

    pub(super) fn step(&mut self, device: &mut DevicePlan, excluded: BTreeMap<DeviceId, String>) {
        let devices = &self.domain.devices;
        let planned = match device.attachment.subject {
            Subject::Interface => match devices.interfaces.get(device.place) {
                Some(interface) => match self.interface(interface, &device.attachment, excluded) {
                    Err(refusal) => self.owed(interface, &device.attachment, refusal),
                    Ok(planned) => Ok(planned.map(|planned| Got::Planned(Box::new(planned)))),
                },
                None => Ok(None),
            },
            Subject::HostDevice => match devices.hostdevs.get(device.place) {
                Some(hostdev) => {
                    let planned = self.host_device(hostdev, &device.attachment);
                    planned.map(|planned| planned.map(|planned| Got::Planned(Box::new(planned))))
                }
                None => Ok(None),
            },
        };
        let attachment = &mut device.attachment;
        (attachment.claim, attachment.port) = (None, None);
        attachment.state = AttachmentState::Planned;
        device.outcome = match planned {
            Ok(Some(Got::Owed(owed))) => {
                attachment.state = AttachmentState::Owed(Creditor::Guest);
                Outcome::Owed(Box::new(owed))
            }
            Ok(Some(Got::Planned(mut planned))) => {
                let mac = attachment.mac;
                let shared = mac.filter(|mac| self.taken.shared_macs.contains(mac));
                planned.notes.extend(shared.map(Note::SharedMac));
                attachment.claim = planned.claim;
                attachment.port = planned.port.as_ref().map(|port| PortId {
                    network: port.network.uuid,
                    port: port.port.uuid,
                });
                Outcome::Lend(planned)
            }
            Ok(None) => Outcome::Alone,
            Err(refusal) => Outcome::Refused(Box::new(refusal)),
        };
        self.taken.note(device);
        self.note_pair(device);
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
                let pf = self.pf_of_pair(attachment).cloned();
                let lends_pairs =
                    applicant.network.forward_mode() == Some(ForwardMode::HostdevHybrid);
                let planned = match (pf, attachment.role) {
                    (Some((pf, is_hoped_for)), Role::Standby) if lends_pairs => {
                        self.standby(applicant, &pf, is_hoped_for)
                    }
                    (_, Role::Standby) if lends_pairs => Err(DeviceRefusal::NoPair),
                    (Some((pf, _)), _) => self.port_beside(applicant, excluded, &pf),
                    (None, _) => self.port(applicant, excluded, self.from(attachment)),
                };
                return planned.map(Some);
            }
            InterfaceSource::Hostdev {
                source: HostSource::VfOf(pf),
                driver,
                managed,
            } => {
                let holder = self.holder(attachment);
                let (managed, driver) = (*managed, driver.clone());
                return (self.vf_of(interface, pf, managed, driver, &holder, excluded)).map(Some);
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
                let address = self.resolve(source)?;
                // Only a VF can be given its MAC.
                self.host()
                    .virtual_function(address)
                    .map_err(|error| match error {
                        HostError::NotVirtualFunction(address) => DeviceRefusal::NoVf {
                            address,
                            name: name_in(source).map(str::to_owned),
                        },
                        error => error.into(),
                    })?;
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
        self.check_named_once(share)?;
        self.check_not_drained(share)?;
        let mut planned = PlannedDevice::new(share, preparation, "the interface names it");
        planned.note_host_access(false);
        let holder = self.holder(attachment);
        let claim = self.claims.claim(share, &holder, Origin::Interface)?;
        self.check(claim, planned, &holder).map(Some)
    }

    /// The PCI function that a document means. One that is with a guest has no network device now, and is known
    /// by that which it had.
    fn resolve(&self, source: &HostSource) -> Result<PciAddress, DeviceRefusal> {
        let host = self.host();
        match source {
            HostSource::Pci(address) => {
                host.pci_device(*address)?;
                Ok(*address)
            }
            HostSource::NetDevice(name) => host.pci_address_of(name).or_else(|error| {
                let before = matches!(error, HostError::NoNetdev(_))
                    .then(|| self.claims.ledger().assigner.named_before(name));
                before.flatten().ok_or_else(|| error.into())
            }),
            HostSource::VfOf(_) => Err(DeviceRefusal::NoPair),
            HostSource::Usb(_) => Err(DeviceRefusal::UsbInterface),
        }
    }

    /// A guest can't have a device whole twice.
    fn check_named_once(&self, share: Share) -> Result<(), DeviceRefusal> {
        let device = share
            .device()
            .filter(|device| self.taken.twice.contains(device));
        device.map_or(Ok(()), |device| Err(DeviceRefusal::Twice(device)))
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
                let address = self.resolve(source)?;
                (Share::Whole(address.into()), plain(hostdev))
            }
        };
        self.check_named_once(share)?;
        self.check_not_drained(share)?;
        let planned = PlannedDevice::new(share, preparation, "the guest names it");
        let holder = self.holder(attachment);
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
        let vf = match attachment.role {
            // Its VF is the other half.
            Role::Standby => VfSettings::default(),
            _ => conf::merge_vf_settings(interface.vf, &network, port.group.as_deref()),
        };
        Ok(Applicant {
            interface,
            settings: Settings::of_port(&port, vf),
            holder: Holder {
                alias: Some(attachment.alias.clone()),
                attachment: Some(attachment.id),
                ..port_holder(Some(&network), &port)
            },
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
        from: Source,
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
            from,
            is_promised: self.context.is_promised,
        };
        for (device, whole) in &self.taken.named {
            let lends_whole =
                matches!(whole_or_part(Some(network), mode, *device), Share::Whole(_));
            if *whole || lends_whole {
                excluded.insert(*device, "the guest names it itself".to_owned());
            }
        }
        let plan = |walk: &Self, choice: &Choice, plug: Plug| {
            let is_vf = matches!(choice.place, Place::Vf { .. });
            let target = Target::of_plug(walk.host(), &plug, Some((choice.device, is_vf)))?;
            walk.seated(&applicant, plug, &target, &choice.to_string())
        };
        let mut planned = self.chosen(&request, excluded, plan)?;
        let lone = lone_pf(self.host(), network).and_then(Note::of_lone_pf);
        planned.notes.extend(lone);
        if let Some(port) = &mut planned.port {
            port.is_of_pool = true;
        }
        Ok(planned)
    }

    /// The device that a pool chooses, as `plan` says; none of the excluded ones. One that is not in a
    /// state to be lent is excluded, too, and the next is tried.
    pub(super) fn chosen(
        &mut self,
        request: &PoolRequest<'_>,
        mut excluded: BTreeMap<DeviceId, String>,
        plan: impl Fn(&Self, &Choice, Plug) -> Result<PlannedDevice, DeviceRefusal>,
    ) -> Result<PlannedDevice, DeviceRefusal> {
        let mut is_unmanaged = false;
        loop {
            let chosen = match self.claims.choose(request, &mut excluded) {
                Err(ChooseError::Refused(refusal)) if is_unmanaged => {
                    return Err(ChooseError::Unmanaged(refusal).into());
                }
                chosen => chosen?,
            };
            let device = chosen.choice.device;
            let planned = match plan(self, &chosen.choice, chosen.plug) {
                Ok(planned) => self.check(chosen.claim, planned, request.holder),
                Err(refusal) => {
                    self.claims.drop_claim(chosen.claim);
                    Err(refusal)
                }
            };
            match planned {
                Ok(mut planned) => {
                    planned.passed_over = excluded;
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

    /// What a guest names itself is not lent either while its PF is drained; nor is the PF, or a part
    /// of it.
    fn check_not_drained(&self, share: Share) -> Result<(), DeviceRefusal> {
        let ledger = self.claims.ledger();
        let device = match share {
            Share::Whole(device) | Share::Part(device) => device,
            Share::Tap => return Ok(()),
        };
        let Some(address) = device.pci() else {
            return Ok(());
        };
        match ledger.pf_of(address) {
            Some(pf) => self.check_drained(pf.address, &pf.netdev),
            None if ledger.is_drained(address) => {
                let found = self.host().pci_device(address).ok();
                let netdev = found.and_then(|found| found.netdevs.into_iter().next());
                let name = netdev.unwrap_or_else(|| address.to_string());
                Err(DeviceRefusal::Drained(name))
            }
            None => Ok(()),
        }
    }

    fn check_drained(&self, pf: PciAddress, name: &str) -> Result<(), DeviceRefusal> {
        match self.claims.ledger().is_drained(pf) {
            true => Err(DeviceRefusal::Drained(name.to_owned())),
            false => Ok(()),
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
            planned.note_host_access(true);
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

    fn holder(&self, attachment: &Attachment) -> Holder {
        attachment_holder(self.domain.uuid, &self.domain.name, attachment)
    }

    fn host(&self) -> &dyn Host {
        &*self.claims.ledger().host
    }
}

impl PlannedDevice {
    fn note_host_access(&mut self, of_network: bool) {
        if mode(&self.preparation).is_some_and(|mode| mode != DirectMode::Passthrough) {
            self.notes.push(Note::NoHostAccess { of_network });
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

/// The network device by which a document names a device of the host.
fn name_in(source: &HostSource) -> Option<&str> {
    match source {
        HostSource::NetDevice(name) => Some(name),
        HostSource::Pci(_) | HostSource::Usb(_) | HostSource::VfOf(_) => None,
    }
}

/// What was found for a device.
enum Got {
    Planned(Box<PlannedDevice>),
    Owed(OwedDevice),
}

fn plain(hostdev: &HostDevice) -> Preparation {
    Preparation::Vfio(VfioPreparation {
        managed: hostdev.managed,
        driver: hostdev.driver.clone(),
        network: None,
        profile: None,
    })
}

/// Refuses settings that what the interface was resolved to can't have.
fn check_setting(interface: &Interface, actual: Option<ActualDevice>) -> Result<(), DeviceRefusal> {
    let resolved = Interface {
        actual,
        ..interface.clone()
    };
    resolved.check_resolved().map_err(DeviceRefusal::Setting)
}
