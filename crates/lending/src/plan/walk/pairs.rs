//! The halves of pairs in the walk: the VF may be owed, and the standby sits on its VF's PF.

use std::collections::BTreeMap;

use assign::{Holder, Origin, Preparation};
use conf::{
    DeviceId, DirectMode, HostDriver, HostSource, HybridFallback, Interface, InterfaceSource, Plug,
};
use pool::{Choice, Source};

use super::{Applicant, Got, Walk, check_setting, plain};
use crate::attachment::{Attachment, Role};
use crate::claims::Claims;
use crate::devices::device_named;
use crate::error::ChooseError;
use crate::ledger::{PfPlace, PoolRequest};
use crate::plan::{DevicePlan, Networks, Note, Outcome, OwedDevice, PlannedDevice};
use crate::refusal::DeviceRefusal;
use crate::wish::{Settings, Target};

impl<C: Claims, N: Networks> Walk<'_, C, N> {
    /// Minds where the VF of a pair is.
    pub(in crate::plan) fn note_pair(&mut self, device: &DevicePlan) {
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
    pub(super) fn pf_of_pair(&self, attachment: &Attachment) -> Option<&(PfPlace, bool)> {
        let pair = attachment
            .pair
            .filter(|_| attachment.role == Role::Standby)?;
        self.pairs.get(&pair)
    }

    /// The VF of a pair that a guest can do without for a while.
    pub(super) fn owed(
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

    /// Where a device has to come from.
    pub(super) fn from(&self, attachment: &Attachment) -> Source {
        match &self.context.pf {
            Some(pf) if attachment.role == Role::Primary => Source::Pf(pf.address),
            _ => Source::Anywhere,
        }
    }

    /// The virtio half of a pair that its network makes: a macvtap on the PF of the other half.
    pub(super) fn standby(
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
    pub(super) fn port_beside(
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
    pub(super) fn vf_of(
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
        let plan = |walk: &Self, choice: &Choice, _| {
            let target = Target::HostDevice {
                managed,
                driver: driver.clone(),
                address: choice.device.pci().ok_or(DeviceRefusal::NoPair)?,
            };
            let settings = Settings::own(interface);
            let wish = walk.wish(interface, &settings);
            let (share, preparation) = wish.of(walk.host(), &target)?;
            Ok(PlannedDevice::new(share, preparation, &choice.to_string()))
        };
        self.chosen(&request, excluded, plan)
    }

    /// How what was reserved is prepared.
    pub(in crate::plan) fn reserved(
        &self,
        attachment: &Attachment,
    ) -> Result<Preparation, DeviceRefusal> {
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
}
