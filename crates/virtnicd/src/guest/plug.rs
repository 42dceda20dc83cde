//! Plugging devices into a running guest: planned, recorded, lent, and given to QEMU; and the reverse,
//! from wherever it stopped.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use assign::{LentKind, Preparation};
use conf::{Device, DeviceId, DeviceRef, Uuid};
use lending::{
    Attachment, AttachmentState, Creditor, DevicePlan, Outcome, PortId, Role, Share, Subject,
    Wanted,
};
use qemu::{ControlError, GuestState, TapFds};
use rpc::{Code, Error};

use super::cancel::Cancel;
use super::control::control;
use super::groups::OwnGroup;
use super::handle::{GuestHandle, Run};
use super::{QEMU, definition, medium, pairs, record};
use crate::blocking::blocking;
use crate::daemon::Daemon;
use crate::fault::{self, Result};
use crate::sync::lock;

mod undo;

/// What came of it.
pub(super) struct Plugged {
    /// What the guest has now: as before, with the devices, or with what is left of them.
    pub(super) attachments: Vec<Attachment>,
    pub(super) domain: conf::Domain,
    /// The definition, if that was changed.
    pub(super) config: Option<Arc<conf::Domain>>,
    /// The devices' names in the guest, or why they are not there.
    pub(super) result: Result<Vec<String>>,
    /// It is not known whether QEMU has one.
    pub(super) is_unclear: bool,
    /// Nothing is wrong but that no VF is free.
    pub(super) is_none_free: bool,
}

/// What is plugged in.
pub(super) enum What {
    /// A device, or a pair of them, that the documents don't have yet.
    New {
        device: Arc<Device>,
        /// The definition that is to have it, too.
        defined: Option<Arc<conf::Domain>>,
    },
    /// The VF of a pair that the guest has, by its alias.
    Primary(String),
}

/// Devices on their way into a guest.
pub(super) struct Plug<'a> {
    pub(super) daemon: &'a Arc<Daemon>,
    pub(super) handle: &'a Arc<GuestHandle>,
    pub(super) run: &'a Run,
    pub(super) cancel: &'a Cancel,
    /// What was taken of the host for them, should this break off.
    pub(super) progress: &'a Mutex<Vec<Attachment>>,
}

/// How far it came.
struct State {
    domain: conf::Domain,
    /// What else the guest has.
    others: Vec<Attachment>,
    /// What they take of the host.
    taken: Vec<Attachment>,
    config: Option<Arc<conf::Domain>>,
    /// QEMU has these, or may have them in spite of an error, by alias.
    in_qemu: Vec<String>,
    is_none_free: bool,
}

/// A device that is planned, and what is known of it.
struct Ready {
    attachment: Attachment,
    subject: Subject,
    place: usize,
    preparation: Preparation,
    share: Share,
    /// A network chose it, so that another will do.
    is_of_pool: bool,
}

/// Of which PF the VF of a pair has to be.
#[derive(Clone)]
struct Beside {
    pf: lending::PfPlace,
    /// It may have what is kept for guests that were promised one.
    is_promised: bool,
}

/// What was made ready.
enum Given {
    Nothing,
    Function(conf::PciAddress),
    Usb(u32, u32),
    Link {
        claim: assign::Generation,
        name: String,
        fds: TapFds,
    },
}

impl Plug<'_> {
    /// Plugs it in, or undoes everything.
    pub(super) async fn carry_out(&self, what: &What) -> Plugged {
        let mut state = State {
            domain: self.run.domain.clone(),
            others: self.run.attachments.clone(),
            taken: Vec::new(),
            config: None,
            in_qemu: Vec::new(),
            is_none_free: false,
        };
        let result = match what {
            What::New { device, defined } => self.add(device, defined, &mut state).await,
            What::Primary(alias) => self.promote(alias, &mut state).await,
        };
        match result {
            Ok(aliases) => {
                let run = self.run_with(&state);
                pairs::direct(self.daemon, &self.handle.name, &run.attachments).await;
                record::write_or_warn(self.daemon, self.handle, &run).await;
                Plugged {
                    attachments: run.attachments,
                    domain: run.domain,
                    config: state.config,
                    result: Ok(aliases),
                    is_unclear: false,
                    is_none_free: false,
                }
            }
            Err(error) => self.undo(what, state, error).await,
        }
    }

    /// A device that is new to the guest, or both halves of a pair.
    async fn add(
        &self,
        device: &Arc<Device>,
        defined: &Option<Arc<conf::Domain>>,
        state: &mut State,
    ) -> Result<Vec<String>> {
        let (config, domain, places) = self.documents(device, defined).await?;
        let mut wanted = Vec::new();
        for place in &places {
            match *place {
                DeviceRef::Interface(_) | DeviceRef::Hostdev(_) => {
                    wanted.extend(wanted_at(*place, None));
                }
                DeviceRef::Disk(_) => {}
                _ => {
                    let detail = format!(
                        "a <{}> can't be plugged into a running guest; with --config it is there at \
                         its next start",
                        device.name()
                    );
                    return Err(Error::new(Code::OperationUnsupported, QEMU, detail));
                }
            }
        }
        let plans = self.plan(&domain, &wanted, BTreeMap::new(), None).await?;
        self.note(state, &plans, domain.clone());
        self.record(state).await?;
        if let Some(config) = config.map(Arc::new) {
            // The definition comes first: what can't be kept is not plugged in.
            self.keep(&config).await?;
            state.config = Some(config);
        }
        let mut aliases = Vec::new();
        for place in places {
            self.go_on()?;
            let plan = plans.iter().find(|plan| is_of(plan, place));
            let given = match plan {
                Some(plan) if pairs::is_withheld(&state.domain, &plan.attachment, false) => {
                    self.owe(state, plan);
                    continue;
                }
                Some(plan) => self.prepare(state, &domain, plan, None).await?,
                None => Given::Nothing,
            };
            self.go_on()?;
            aliases.push(self.give(state, place, given).await?);
        }
        Ok(aliases)
    }

    /// The VF of a pair that the guest has without it.
    async fn promote(&self, alias: &str, state: &mut State) -> Result<Vec<String>> {
        let gone = || pairs::no_pair(&self.handle.name, alias);
        let at = state
            .others
            .iter()
            .position(|one| one.alias == alias && one.role == Role::Primary);
        let attachment = state.others.remove(at.ok_or_else(gone)?);
        let place = state.domain.find_alias(alias).ok_or_else(gone)?;
        let domain = state.domain.clone();
        let given = match attachment.reserved {
            Some(device) => {
                state.taken.push(attachment.clone());
                let ready = self.reserved(&domain, attachment, place, device).await?;
                self.prepare_ready(state, ready)
                    .await?
                    .map_err(|refused| fault::lending::prepare(&refused))?
            }
            None => {
                let wanted = wanted_at(place, Some(attachment.id)).ok_or_else(gone)?;
                state.taken.push(attachment.clone());
                let pf = pairs::pf_of(self.daemon, self.run, &attachment).map(|pf| Beside {
                    pf,
                    is_promised: attachment.state == AttachmentState::Owed(Creditor::Guest),
                });
                // It is to be heard of when that one lends again.
                let lender = &self.daemon.lender;
                state.is_none_free =
                    (pf.as_ref()).is_some_and(|beside| lender.is_drained(beside.pf.address));
                let plans = self
                    .plan(&domain, &[wanted], BTreeMap::new(), pf.clone())
                    .await?;
                let plan = plans.first().ok_or_else(gone)?;
                if let Outcome::Owed(owed) = &plan.outcome {
                    state.is_none_free = true;
                    return Err(fault::lending::device(plan, &owed.refusal));
                }
                self.note(state, &plans, domain.clone());
                self.record(state).await?;
                self.prepare(state, &domain, plan, pf).await?
            }
        };
        self.go_on()?;
        let alias = self.give(state, place, given).await?;
        for attachment in &mut state.taken {
            self.daemon.lender.end_promise(attachment.id);
            attachment.owed_since = None;
        }
        Ok(vec![alias])
    }

    /// What was reserved, as it is to be prepared.
    async fn reserved(
        &self,
        domain: &conf::Domain,
        attachment: Attachment,
        place: DeviceRef,
        device: DeviceId,
    ) -> Result<Ready> {
        let (daemon, domain) = (Arc::clone(self.daemon), domain.clone());
        let own = attachment.clone();
        let planned = blocking(QEMU, move || {
            let context = daemon.plan_context(&domain);
            lending::plan_reserved(&domain, &own, &daemon.lender, &*daemon, &context)
        })
        .await?;
        let preparation = planned.map_err(|refusal| fault::lending::device_alone(&refusal))?;
        let (subject, place) = subject_of(place)
            .ok_or_else(|| pairs::no_pair(&self.handle.name, &attachment.alias))?;
        Ok(Ready {
            attachment,
            subject,
            place,
            preparation,
            share: Share::Whole(device),
            is_of_pool: false,
        })
    }

    /// The definition and the running document with the device in it.
    async fn documents(
        &self,
        device: &Arc<Device>,
        defined: &Option<Arc<conf::Domain>>,
    ) -> Result<(Option<conf::Domain>, conf::Domain, Vec<DeviceRef>)> {
        let (daemon, device) = (Arc::clone(self.daemon), Arc::clone(device));
        let (run, defined) = (self.run.clone(), defined.clone());
        blocking(QEMU, move || {
            let (domain, places) = daemon.running_with(&run, &device)?;
            domain.check_kept().map_err(fault::document(QEMU))?;
            let config = defined.map(|defined| daemon.definition_with(&defined, &device));
            Ok((config.transpose()?, domain, places))
        })
        .await?
    }

    /// Chooses, claims and checks, with the ports on their networks; nothing is touched. `pf`: of which a
    /// VF has to be.
    async fn plan(
        &self,
        domain: &conf::Domain,
        wanted: &[Wanted],
        excluded: BTreeMap<DeviceId, String>,
        pf: Option<Beside>,
    ) -> Result<Vec<DevicePlan>> {
        let (daemon, domain, wanted) = (Arc::clone(self.daemon), domain.clone(), wanted.to_vec());
        blocking(QEMU, move || {
            daemon.plan_plug(&domain, &wanted, &excluded, pf)
        })
        .await?
    }

    /// Notes what is taken, and what the document becomes by it. Who had an attachment keeps its identity.
    fn note(&self, state: &mut State, plans: &[DevicePlan], mut domain: conf::Domain) {
        for plan in plans {
            plan.apply_to(&mut domain);
            let mut attachment = plan.attachment.clone();
            let is_taken = matches!(plan.outcome, Outcome::Lend(_) | Outcome::Owed(_));
            let mut known = state.taken.iter();
            let known = known.position(|one| one.id == attachment.id);
            if let Some(known) = known.map(|known| state.taken.remove(known)) {
                (attachment.pair, attachment.role) = (known.pair, known.role);
                attachment.owed_since = known.owed_since;
            }
            pairs::join(&domain, &mut attachment, &mut state.others);
            if is_taken {
                state.taken.push(attachment);
            }
        }
        lock(self.progress).clone_from(&state.taken);
        state.domain = domain;
    }

    /// A VF that the guest gets later: reserved for it, or promised.
    fn owe(&self, state: &mut State, plan: &DevicePlan) {
        let its = state.taken.iter_mut();
        for attachment in its.filter(|one| one.id == plan.attachment.id) {
            pairs::reserve(attachment, plan);
            if let Outcome::Owed(owed) = &plan.outcome {
                pairs::promise_of(self.daemon, self.handle.uuid, &owed.pf, attachment);
            }
        }
        lock(self.progress).clone_from(&state.taken);
    }

    fn run_with(&self, state: &State) -> Run {
        let mut run = self.run.clone();
        run.domain.clone_from(&state.domain);
        run.attachments.clone_from(&state.others);
        run.attachments.extend(state.taken.iter().cloned());
        run
    }

    async fn record(&self, state: &State) -> Result<()> {
        record::write(self.daemon, self.handle, &self.run_with(state)).await
    }

    async fn keep(&self, definition: &Arc<conf::Domain>) -> Result<()> {
        let (daemon, name) = (Arc::clone(self.daemon), self.handle.name.clone());
        let definition = Arc::clone(definition);
        blocking(QEMU, move || {
            definition::keep(&daemon, &name, &definition).map_err(definition::not_kept(&name))
        })
        .await?
    }

    /// Prepares what was planned. If the fault is that device's own, and a network chose it, the next is
    /// tried.
    async fn prepare(
        &self,
        state: &mut State,
        domain: &conf::Domain,
        plan: &DevicePlan,
        pf: Option<Beside>,
    ) -> Result<Given> {
        let mut excluded = BTreeMap::new();
        let Some(mut ready) = Ready::of(plan) else {
            return Ok(Given::Nothing); // QEMU plays it alone
        };
        loop {
            self.go_on()?;
            let (place, on, is_of_pool) = (ready.place, ready.share.device(), ready.is_of_pool);
            let (subject, port) = (ready.subject, ready.attachment.port);
            let attachment = Some(ready.attachment.id);
            let refused = match self.prepare_ready(state, ready).await? {
                Ok(given) => return Ok(given),
                Err(refused) => refused,
            };
            let (Some(fault), Some(on), true) = (refused.own_fault(), on, is_of_pool) else {
                return Err(fault::lending::prepare(&refused));
            };
            tracing::warn!(guest = self.handle.name, device = %on, fault, "trying another");
            excluded.insert(on, fault);
            self.end_port(port).await?;
            let wanted = [Wanted {
                subject,
                place,
                attachment,
            }];
            let plans = self
                .plan(domain, &wanted, excluded.clone(), pf.clone())
                .await?;
            let keeps = state.domain.clone();
            self.note(state, &plans, keeps);
            self.record(state).await?;
            let again = plans.first().and_then(Ready::of);
            let Some(again) = again else {
                return Err(fault::lending::prepare(&refused));
            };
            ready = again;
        }
    }

    async fn prepare_ready(
        &self,
        state: &mut State,
        ready: Ready,
    ) -> Result<std::result::Result<Given, lending::PrepareError>> {
        let gone = || Error::new(Code::InternalError, QEMU, "a planned device has no claim");
        let claim = ready.attachment.claim.ok_or_else(gone)?;
        let (daemon, preparation) = (Arc::clone(self.daemon), ready.preparation.clone());
        let own_group = self.run.own_group.as_deref().map(OwnGroup::group);
        let prepare = move || daemon.lender.prepare(claim, &preparation, own_group);
        let lent = match blocking(QEMU, prepare).await? {
            Ok(lent) => lent,
            Err(refused) => {
                // The claim is over.
                for one in state.with_claim(claim) {
                    (one.claim, one.reserved) = (None, None);
                }
                return Ok(Err(refused));
            }
        };
        for one in state.with_claim(claim) {
            one.state = AttachmentState::Lent;
            one.reserved = None;
        }
        lock(self.progress).clone_from(&state.taken);
        Ok(Ok(match (lent.kind, ready.share.device()) {
            (
                LentKind::Link {
                    netdev,
                    taps,
                    vhosts,
                },
                _,
            ) => Given::Link {
                claim,
                name: netdev.name.to_string(),
                fds: TapFds { taps, vhosts },
            },
            (_, Some(DeviceId::Pci(function))) => Given::Function(function),
            (_, Some(DeviceId::Usb(usb))) => Given::Usb(usb.bus().into(), usb.device().into()),
            (_, Some(DeviceId::Netdev(_)) | None) => Given::Nothing,
        }))
    }

    /// Gives it to QEMU; its alias.
    async fn give(&self, state: &mut State, place: DeviceRef, given: Given) -> Result<String> {
        if let Given::Link { claim, name, .. } = &given {
            if let DeviceRef::Interface(at) = place
                && let Some(interface) = state.domain.devices.interfaces.get_mut(at)
            {
                interface.target = Some(name.clone());
            }
            self.record(state).await?;
            // A guest that is halted has all of them off.
            if self.run.machine.state() == GuestState::Running {
                let (daemon, claim) = (Arc::clone(self.daemon), *claim);
                blocking(QEMU, move || daemon.lender.set_link_state(claim, true))
                    .await?
                    .map_err(|error| {
                        Error::new(Code::OperationFailed, QEMU, fault::chain(&error))
                    })?;
            }
        }
        let info = place.info(&state.domain.devices);
        let alias = info.and_then(|info| info.alias.clone());
        let alias = alias
            .ok_or_else(|| Error::new(Code::InternalError, QEMU, "the device got no alias"))?;
        let plugged = self.plug(&state.domain, place, given).await;
        if plugged
            .as_ref()
            .map_or_else(ControlError::is_uncertain, |()| true)
        {
            state.in_qemu.push(alias.clone());
        }
        plugged.map_err(control)?;
        for one in state.taken.iter_mut().filter(|one| one.alias == alias) {
            one.state = AttachmentState::Plugged;
        }
        if let DeviceRef::Interface(at) = place
            && let Some(interface) = state.domain.devices.interfaces.get(at)
            && !interface.is_hostdev()
            && interface.link_up == Some(false)
        {
            let set = self.run.machine.set_link(&alias, false).await;
            set.map_err(control)?;
        }
        Ok(alias)
    }

    async fn plug(
        &self,
        domain: &conf::Domain,
        place: DeviceRef,
        given: Given,
    ) -> std::result::Result<(), ControlError> {
        let (machine, devices) = (&self.run.machine, &domain.devices);
        match (place, given) {
            (DeviceRef::Interface(at), Given::Function(function)) => {
                let interface = &devices.interfaces[at];
                let teaming = interface.teaming.as_ref();
                (machine.plug_host_device(domain, &interface.info, teaming, function)).await
            }
            // It is ready for the guest, which is not to see it.
            (DeviceRef::Hostdev(at), _) if devices.hostdevs[at].info.is_unassigned() => Ok(()),
            (DeviceRef::Hostdev(at), Given::Function(function)) => {
                let hostdev = &devices.hostdevs[at];
                let teaming = hostdev.teaming.as_ref();
                (machine.plug_host_device(domain, &hostdev.info, teaming, function)).await
            }
            (DeviceRef::Hostdev(at), Given::Usb(bus, device)) => {
                machine
                    .plug_usb(domain, &devices.hostdevs[at], (bus, device))
                    .await
            }
            (DeviceRef::Interface(at), given) => {
                let taps = match given {
                    Given::Link { fds, .. } => fds,
                    _ => TapFds::default(),
                };
                let interface = &devices.interfaces[at];
                machine.plug_interface(domain, interface, at, taps).await
            }
            (DeviceRef::Disk(at), _) => {
                let disk = &devices.disks[at];
                let files = medium::open(self.daemon, &self.handle.name, disk).await?;
                machine.plug_disk(domain, disk, files).await
            }
            _ => Ok(()),
        }
    }

    async fn end_port(&self, port: Option<PortId>) -> Result<()> {
        let Some(PortId { network, port }) = port else {
            return Ok(());
        };
        let daemon = Arc::clone(self.daemon);
        blocking(QEMU, move || daemon.end_port(network, port)).await
    }

    /// Whether the guest is still there to have it.
    fn go_on(&self) -> Result<()> {
        if !self.cancel.is_cancelled() {
            return Ok(());
        }
        let detail = format!("domain '{}' was destroyed meanwhile", self.handle.name);
        Err(Error::new(Code::OperationAborted, QEMU, detail))
    }
}

impl State {
    fn with_claim(&mut self, claim: assign::Generation) -> impl Iterator<Item = &mut Attachment> {
        let taken = self.taken.iter_mut();
        taken.filter(move |one| one.claim == Some(claim))
    }

    fn is_in_qemu(&self, alias: &str) -> bool {
        self.in_qemu.iter().any(|known| known == alias)
    }
}

impl Ready {
    fn of(plan: &DevicePlan) -> Option<Self> {
        let planned = plan.planned()?;
        Some(Self {
            attachment: plan.attachment.clone(),
            subject: plan.attachment.subject,
            place: plan.place,
            preparation: planned.preparation.clone(),
            share: planned.share,
            is_of_pool: planned.port.as_ref().is_some_and(|port| port.is_of_pool)
                || planned.port.is_none() && plan.attachment.role == Role::Primary,
        })
    }
}

fn is_of(plan: &DevicePlan, place: DeviceRef) -> bool {
    subject_of(place) == Some((plan.attachment.subject, plan.place))
}

fn wanted_at(place: DeviceRef, attachment: Option<Uuid>) -> Option<Wanted> {
    let (subject, place) = subject_of(place)?;
    Some(Wanted {
        subject,
        place,
        attachment,
    })
}

fn subject_of(place: DeviceRef) -> Option<(Subject, usize)> {
    match place {
        DeviceRef::Interface(at) => Some((Subject::Interface, at)),
        DeviceRef::Hostdev(at) => Some((Subject::HostDevice, at)),
        _ => None,
    }
}

impl Daemon {
    /// Plans devices that are to be plugged in, with their ports on their networks; or nothing. Asks the
    /// host; blocks.
    fn plan_plug(
        &self,
        domain: &conf::Domain,
        wanted: &[Wanted],
        excluded: &BTreeMap<DeviceId, String>,
        pf: Option<Beside>,
    ) -> Result<Vec<DevicePlan>> {
        let mut context = self.plan_context(domain);
        context.is_promised = pf.as_ref().is_some_and(|beside| beside.is_promised);
        context.pf = pf.map(|beside| beside.pf);
        loop {
            let ledger = &mut &*self.lender;
            let plans = lending::plan_devices(domain, wanted, excluded, ledger, self, &context);
            // Of a pair what the VF half lacks is the cause, and goes before what the other half says.
            let refused = plans.iter().filter_map(|plan| match &plan.outcome {
                Outcome::Refused(refusal) => Some((plan, refusal)),
                _ => None,
            });
            let refused = refused.min_by_key(|(plan, _)| plan.attachment.role != Role::Primary);
            let refused = refused.map(|(plan, refusal)| fault::lending::device(plan, refusal));
            let kept = match refused {
                Some(error) => Err(error),
                None => self.keep_ports_of(plans.iter().filter_map(DevicePlan::planned)),
            };
            if matches!(kept, Ok(true)) {
                return Ok(plans);
            }
            for claim in plans.iter().rev().filter_map(|plan| plan.attachment.claim) {
                self.lender.drop_claim(claim);
            }
            kept?;
        }
    }
}
