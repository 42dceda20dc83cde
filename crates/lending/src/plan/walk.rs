//! The walk over a guest's devices: chooses, claims and checks each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use assign::{Holder, Item, Obstacle, Origin, Preparation, Step, VfioPreparation};
use conf::{
    ActualDevice, DeviceId, DirectMode, Domain, ForwardMode, HostDevice, HostDriver, HostSource,
    HybridFallback, Interface, InterfaceSource, MacAddress, NetdevName, Network, NetworkPort,
    PciAddress, Plug, Uuid, VfSettings,
};
use host::{Host, HostError};
use pool::{Place, Source};

use super::{
    DevicePlan, Networks, Note, Outcome, OwedDevice, PlanContext, PlannedDevice, PlannedPort,
    document, resolved,
};
use crate::attachment::{Attachment, AttachmentState, Creditor, PortId, Role, Subject};
use crate::claims::Claims;
use crate::devices::device_named;
use crate::error::ChooseError;
use crate::holder::{host_device_holder, interface_holder, port_holder};
use crate::ledger::{PfPlace, PoolRequest};
use crate::members::lone_pf;
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
            Ok(Some(Got::Planned(planned))) => {
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

    /// Minds where the VF of a pair is.
    pub(super) fn note_pair(&mut self, device: &DevicePlan) {
        let (Some(pair), Role::Primary) = (device.attachment.pair, device.attachment.role) else {
            return;
        };
        let pf = match &device.outcome {
            Outcome::Lend(planned) => {
                let function = planned.function();
                function.and_then(|function| self.claims.ledger().pf_of(function))
            }
            Outcome::Owed(owed) => Some(owed.pf.clone()),
            Outcome::Alone | Outcome::Refused(_) => None,
        };
        let is_hoped_for = matches!(device.outcome, Outcome::Owed(_));
        if let Some(pf) = pf {
            self.pairs.insert(pair, (pf, is_hoped_for));
        }
    }

    /// Where the other half of a standby's pair is.
    fn pf_of_pair(&self, attachment: &Attachment) -> Option<&(PfPlace, bool)> {
        let pair = attachment
            .pair
            .filter(|_| attachment.role == Role::Standby)?;
        self.pairs.get(&pair)
    }

    /// The VF of a pair that a guest can do without for a while.
    fn owed(
        &mut self,
        interface: &Interface,
        attachment: &Attachment,
        refusal: DeviceRefusal,
    ) -> Result<Option<Got>, DeviceRefusal> {
        let is_primary = attachment.role == Role::Primary && attachment.pair.is_some();
        let none_is_free = matches!(
            refusal,
            DeviceRefusal::Choose(ChooseError::Refused(_) | ChooseError::Unmanaged(_))
        );
        if !is_primary || !none_is_free {
            return Err(refusal);
        }
        let (settings, network) = match &interface.source {
            InterfaceSource::Network { network, .. } => {
                let network = self.networks.running(network)?;
                (network.extension.hybrid.fallback, network.name.clone())
            }
            InterfaceSource::Hostdev {
                source: HostSource::VfOf(pf),
                ..
            } => match self.claims.ledger().network_of_pf(pf) {
                Ok(network) => (None, network.name),
                Err(_) => return Err(refusal),
            },
            _ => return Err(refusal),
        };
        let own = interface.hybrid_half().and_then(|half| half.fallback);
        if own.or(settings) != Some(HybridFallback::Virtio) {
            return Err(refusal);
        }
        let pf = match &self.context.pf {
            Some(pf) => Some(pf.clone()),
            None => self.claims.likeliest_pf(&network),
        };
        match pf {
            Some(pf) => Ok(Some(Got::Owed(OwedDevice { pf, refusal }))),
            None => Err(refusal),
        }
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
                let holder = holder(interface_holder(self.domain, interface), attachment);
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
                let address = resolve(self.host(), source)?;
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
        self.check_not_drained(share)?;
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
                let address = resolve(self.host(), source)?;
                (Share::Whole(address.into()), plain(hostdev))
            }
        };
        self.check_not_drained(share)?;
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
        let vf = match attachment.role {
            // Its VF is the other half.
            Role::Standby => VfSettings::default(),
            _ => conf::merge_vf_settings(interface.vf, &network, port.group.as_deref()),
        };
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
                    planned
                        .notes
                        .extend(lone_pf(self.host(), network).and_then(Note::of_lone_pf));
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

    /// Where a device has to come from.
    fn from(&self, attachment: &Attachment) -> Source {
        match &self.context.pf {
            Some(pf) if attachment.role == Role::Primary => Source::Pf(pf.address),
            _ => Source::Anywhere,
        }
    }

    /// The virtio half of a pair that its network makes: a macvtap on the PF of the other half.
    fn standby(
        &mut self,
        applicant: Applicant<'_>,
        pf: &PfPlace,
        is_hoped_for: bool,
    ) -> Result<PlannedDevice, DeviceRefusal> {
        self.check_drained(pf.address, &pf.netdev)?;
        let device = device_named(self.host(), &pf.netdev)?;
        let plug = Plug::Direct {
            dev: pf.netdev.clone(),
            mode: DirectMode::Bridge,
        };
        let target = Target::of_plug(self.host(), &plug, Some((device, false)))?;
        let why = format!("the PF of its VF, {}", pf.netdev);
        let mut planned = self.seated(&applicant, plug, &target, &why)?;
        if let Some(port) = &mut planned.port {
            port.is_of_pool = true;
        }
        if is_hoped_for {
            planned.why = format!("the PF of the VF that it is owed, {}", pf.netdev);
            planned.notes.push(Note::Likeliest(pf.netdev.clone()));
        }
        let holder = &applicant.holder;
        let claim = self.claims.claim(planned.share, holder, Origin::PoolPort)?;
        self.check(claim, planned, holder)
    }

    /// The standby of a pair that its owner made: on the PF of its VF, if its network has that.
    fn port_beside(
        &mut self,
        applicant: Applicant<'_>,
        excluded: BTreeMap<DeviceId, String>,
        pf: &PfPlace,
    ) -> Result<PlannedDevice, DeviceRefusal> {
        let device = device_named(self.host(), &pf.netdev)?;
        let (beside, elsewhere) = (applicant.clone(), applicant);
        if let Ok(planned) = self.port(beside, excluded.clone(), Source::Device(device)) {
            return Ok(planned);
        }
        let mut planned = self.port(elsewhere, excluded, Source::Anywhere)?;
        if let Some(own) = planned.share.device().filter(|own| *own != device) {
            let own = self.claims.ledger().name_of(own);
            let other = pf.netdev.clone();
            planned.notes.push(Note::OtherPf { own, other });
        }
        Ok(planned)
    }

    /// A VF of a PF that no network lends by this.
    fn vf_of(
        &mut self,
        interface: &Interface,
        pf: &str,
        managed: bool,
        driver: Option<HostDriver>,
        holder: &Holder,
        mut excluded: BTreeMap<DeviceId, String>,
    ) -> Result<PlannedDevice, DeviceRefusal> {
        check_setting(interface, None)?;
        let network = self.claims.ledger().network_of_pf(pf);
        let network = network.map_err(|error| DeviceRefusal::Pf(Box::new(error)))?;
        let request = PoolRequest {
            network: &network,
            mode: None,
            holder,
            numa_nodes: &self.context.numa_nodes,
            from: Source::Anywhere,
            is_promised: self.context.is_promised,
        };
        for device in self.taken.named.keys() {
            excluded.insert(*device, "the guest names it itself".to_owned());
        }
        loop {
            let chosen = self.claims.choose(&request, &mut excluded)?;
            let device = chosen.choice.device;
            let Some(address) = device.pci() else {
                self.claims.drop_claim(chosen.claim);
                return Err(DeviceRefusal::NoPair);
            };
            let target = Target::HostDevice {
                managed,
                driver: driver.clone(),
                address,
            };
            let settings = Settings::own(interface);
            let wished = self.wish(interface, &settings).of(self.host(), &target);
            let planned = match wished {
                Ok((share, preparation)) => {
                    let why = chosen.choice.to_string();
                    let planned = PlannedDevice::new(share, preparation, &why);
                    self.check(chosen.claim, planned, holder)
                }
                Err(error) => {
                    self.claims.drop_claim(chosen.claim);
                    Err(error.into())
                }
            };
            match planned {
                Ok(mut planned) => {
                    planned.passed_over = excluded;
                    return Ok(planned);
                }
                Err(refusal) => {
                    let fault = refusal.own_fault().ok_or(refusal)?;
                    excluded.insert(device, fault);
                }
            }
        }
    }

    /// How what was reserved is prepared.
    pub(super) fn reserved(&self, attachment: &Attachment) -> Result<Preparation, DeviceRefusal> {
        let devices = &self.domain.devices;
        let its = |alias: &Option<String>| alias.as_ref() == Some(&attachment.alias);
        let function = attachment.reserved.and_then(DeviceId::pci);
        let address = function.ok_or(DeviceRefusal::NoPair)?;
        if let Some(hostdev) = devices.hostdevs.iter().find(|one| its(&one.info.alias)) {
            return Ok(plain(hostdev));
        }
        let interface = devices.interfaces.iter().find(|one| its(&one.info.alias));
        let interface = interface.ok_or(DeviceRefusal::NoPair)?;
        let (settings, managed, driver) = match (&interface.source, &interface.actual) {
            (InterfaceSource::Network { network, .. }, Some(actual)) => {
                let applicant = self.applicant(interface, network, attachment)?;
                let Plug::HostdevPci {
                    managed, driver, ..
                } = &actual.plug
                else {
                    return Err(DeviceRefusal::NoPair);
                };
                (applicant.settings, *managed, driver.clone())
            }
            (
                InterfaceSource::Hostdev {
                    managed, driver, ..
                },
                _,
            ) => (Settings::own(interface), *managed, driver.clone()),
            _ => return Err(DeviceRefusal::NoPair),
        };
        let target = Target::HostDevice {
            managed,
            driver,
            address,
        };
        let (_, preparation) = self.wish(interface, &settings).of(self.host(), &target)?;
        Ok(preparation)
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
        HostSource::VfOf(_) => Err(DeviceRefusal::NoPair),
        HostSource::Usb(_) => Err(DeviceRefusal::UsbInterface),
    }
}
