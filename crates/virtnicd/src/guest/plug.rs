//! Plugging a device into a running guest: planned, recorded, lent, and given to QEMU; and the reverse,
//! from wherever it stopped.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use assign::LentKind;
use conf::{Device, DeviceRef};
use lending::{
    Attachment, AttachmentState, Creditor, DevicePlan, Outcome, PlannedDevice, PortId, Subject,
};
use qemu::{GuestState, TapFds};
use rpc::{Code, Error};

use super::cancel::Cancel;
use super::control::control;
use super::handle::{GuestHandle, Run};
use super::{QEMU, end, record};
use crate::blocking::blocking;
use crate::daemon::Daemon;
use crate::fault::{self, Result};
use crate::sync::lock;

/// What came of it.
pub(super) struct Plugged {
    /// What the guest has now: as before, with the device, or with what is left of it.
    pub(super) attachments: Vec<Attachment>,
    pub(super) domain: conf::Domain,
    /// The definition, if that was changed.
    pub(super) config: Option<Arc<conf::Domain>>,
    /// The device's name in the guest, or why it is not there.
    pub(super) result: Result<String>,
    /// It is not known whether QEMU has it.
    pub(super) is_unclear: bool,
}

/// A device on its way into a guest.
pub(super) struct Plug<'a> {
    pub(super) daemon: &'a Arc<Daemon>,
    pub(super) handle: &'a Arc<GuestHandle>,
    pub(super) run: &'a Run,
    /// The definition that is to have it, too.
    pub(super) defined: Option<Arc<conf::Domain>>,
    pub(super) cancel: &'a Cancel,
    /// What was taken of the host for it, should this break off.
    pub(super) progress: &'a Mutex<Vec<Attachment>>,
}

/// How far it came.
struct State {
    domain: conf::Domain,
    /// What it takes of the host.
    attachment: Option<Attachment>,
    config: Option<Arc<conf::Domain>>,
    /// QEMU may have it, in spite of an error.
    is_unclear: bool,
}

impl Plug<'_> {
    /// Plugs it in, or undoes everything.
    pub(super) async fn carry_out(&self, device: &Arc<Device>) -> Plugged {
        let mut state = State {
            domain: self.run.domain.clone(),
            attachment: None,
            config: None,
            is_unclear: false,
        };
        let result = self.go(device, &mut state).await;
        match result {
            Ok(alias) => {
                let mut attachments = self.run.attachments.clone();
                attachments.extend(state.attachment);
                Plugged {
                    attachments,
                    domain: state.domain,
                    config: state.config,
                    result: Ok(alias),
                    is_unclear: false,
                }
            }
            Err(error) => self.undo(state, error).await,
        }
    }

    async fn go(&self, device: &Arc<Device>, state: &mut State) -> Result<String> {
        let (config, domain, place) = self.documents(device).await?;
        let subject = match place {
            DeviceRef::Interface(at) => Some((Subject::Interface, at)),
            DeviceRef::Hostdev(at) => Some((Subject::HostDevice, at)),
            _ => {
                let detail = format!(
                    "a <{}> can't be plugged into a running guest; with --config it is there at its \
                     next start",
                    device.name()
                );
                return Err(Error::new(Code::OperationUnsupported, QEMU, detail));
            }
        };
        let mut planned = None;
        if let Some((subject, at)) = subject {
            planned = Some(self.plan(&domain, subject, at, BTreeMap::new()).await?);
        }
        self.note(state, planned.as_ref(), domain.clone());
        self.record(state).await?;
        self.write_definition(state, config).await?;
        let lent = match planned {
            Some(planned) => self.prepare(state, &domain, planned).await?,
            None => LentFor::Nothing,
        };
        self.go_on()?;
        let alias = self.give(state, place, lent).await?;
        if let Some(attachment) = &mut state.attachment {
            attachment.state = AttachmentState::Plugged;
        }
        let run = self.run_with(state);
        record::write_or_warn(self.daemon, self.handle, &run).await;
        Ok(alias)
    }

    /// The definition and the running document with the device in it.
    async fn documents(
        &self,
        device: &Arc<Device>,
    ) -> Result<(Option<conf::Domain>, conf::Domain, DeviceRef)> {
        let (daemon, device) = (Arc::clone(self.daemon), Arc::clone(device));
        let (run, defined) = (self.run.clone(), self.defined.clone());
        blocking(QEMU, move || {
            let (domain, place) = daemon.running_with(&run, &device)?;
            domain.check_kept().map_err(fault::document(QEMU))?;
            let config = defined.map(|defined| daemon.definition_with(&defined, &device));
            Ok((config.transpose()?, domain, place))
        })
        .await?
    }

    /// Chooses, claims and checks, with the port on its network; nothing is touched.
    async fn plan(
        &self,
        domain: &conf::Domain,
        subject: Subject,
        at: usize,
        excluded: BTreeMap<conf::DeviceId, String>,
    ) -> Result<DevicePlan> {
        let (daemon, domain) = (Arc::clone(self.daemon), domain.clone());
        blocking(QEMU, move || {
            daemon.plan_plug(&domain, subject, at, &excluded)
        })
        .await?
    }

    /// Notes what is taken, and what the document becomes by it.
    fn note(&self, state: &mut State, planned: Option<&DevicePlan>, mut domain: conf::Domain) {
        if let Some(planned) = planned {
            planned.apply_to(&mut domain);
            state.attachment = planned.planned().map(|_| planned.attachment.clone());
        }
        *lock(self.progress) = state.attachment.clone().into_iter().collect();
        state.domain = domain;
    }

    fn run_with(&self, state: &State) -> Run {
        let mut run = self.run.clone();
        run.domain.clone_from(&state.domain);
        run.attachments.extend(state.attachment.clone());
        run
    }

    async fn record(&self, state: &State) -> Result<()> {
        record::write(self.daemon, self.handle, &self.run_with(state)).await
    }

    /// The definition comes first: what can't be kept is not plugged in.
    async fn write_definition(
        &self,
        state: &mut State,
        config: Option<conf::Domain>,
    ) -> Result<()> {
        let Some(config) = config.map(Arc::new) else {
            return Ok(());
        };
        self.keep(&config).await?;
        state.config = Some(config);
        Ok(())
    }

    async fn keep(&self, definition: &Arc<conf::Domain>) -> Result<()> {
        let (daemon, name) = (Arc::clone(self.daemon), self.handle.name.clone());
        let definition = Arc::clone(definition);
        blocking(QEMU, move || {
            daemon
                .domain_store
                .write(&name, &definition.to_xml_with_secrets(conf::Form::Inactive))
                .map_err(fault::file(QEMU, format!("can't keep guest '{name}'")))
        })
        .await?
    }

    /// Prepares what was planned. If the fault is that device's own, and a network chose it, the next is
    /// tried.
    async fn prepare(
        &self,
        state: &mut State,
        domain: &conf::Domain,
        mut device: DevicePlan,
    ) -> Result<LentFor> {
        let mut excluded = BTreeMap::new();
        loop {
            self.go_on()?;
            let Some(planned) = device.planned() else {
                return Ok(LentFor::Nothing); // QEMU plays it alone
            };
            let refused = match self.prepare_one(planned).await? {
                Ok(lent) => {
                    if let Some(attachment) = &mut state.attachment {
                        attachment.state = AttachmentState::Lent;
                    }
                    return Ok(lent);
                }
                Err(refused) => refused,
            };
            let chosen = planned.port.as_ref().is_some_and(|port| port.is_of_pool);
            let (Some(fault), Some(on), true) =
                (refused.own_fault(), planned.share.device(), chosen)
            else {
                return Err(fault::lending::prepare(&refused));
            };
            tracing::warn!(guest = self.handle.name, device = %on, fault, "trying another");
            excluded.insert(on, fault);
            self.end_port(device.attachment.port).await?;
            state.attachment = None;
            let (subject, at) = (device.attachment.subject, device.place);
            device = self.plan(domain, subject, at, excluded.clone()).await?;
            self.note(state, Some(&device), domain.clone());
            self.record(state).await?;
        }
    }

    async fn prepare_one(
        &self,
        planned: &PlannedDevice,
    ) -> Result<std::result::Result<LentFor, lending::PrepareError>> {
        let gone = || Error::new(Code::InternalError, QEMU, "a planned device has no claim");
        let claim = planned.claim.ok_or_else(gone)?;
        let (daemon, preparation) = (Arc::clone(self.daemon), planned.preparation.clone());
        let function = planned.function();
        let own_group = self.run.machine.record().own_group;
        let prepare = move || daemon.lender.prepare(claim, &preparation, own_group);
        let lent = blocking(QEMU, prepare).await?;
        Ok(lent.map(|lent| match (lent.kind, function) {
            (
                LentKind::Link {
                    netdev,
                    taps,
                    vhosts,
                },
                _,
            ) => LentFor::Link {
                claim,
                name: netdev.name.to_string(),
                fds: TapFds { taps, vhosts },
            },
            (_, Some(function)) => LentFor::Function(function),
            (_, None) => LentFor::Nothing,
        }))
    }

    /// Gives it to QEMU; its alias.
    async fn give(&self, state: &mut State, place: DeviceRef, lent: LentFor) -> Result<String> {
        let machine = &self.run.machine;
        let mut link = None;
        let mut taps = TapFds::default();
        let mut function = None;
        match lent {
            LentFor::Link { claim, name, fds } => {
                if let DeviceRef::Interface(at) = place
                    && let Some(interface) = state.domain.devices.interfaces.get_mut(at)
                {
                    interface.target = Some(name);
                }
                (link, taps) = (Some(claim), fds);
                self.record(state).await?;
            }
            LentFor::Function(address) => function = Some(address),
            LentFor::Nothing => {}
        }
        let domain = &state.domain;
        let info = place.info(&domain.devices);
        let alias = info
            .and_then(|info| info.alias.clone())
            .ok_or_else(|| Error::new(Code::InternalError, QEMU, "the device got no alias"))?;
        if let Some(claim) = link
            && machine.state() == GuestState::Running
        {
            // A guest that is halted has all of them off.
            let daemon = Arc::clone(self.daemon);
            blocking(QEMU, move || daemon.lender.set_link_state(claim, true))
                .await?
                .map_err(|error| Error::new(Code::OperationFailed, QEMU, fault::chain(&error)))?;
        }
        let given = match (place, function) {
            (DeviceRef::Interface(at), Some(function)) => {
                let interface = &domain.devices.interfaces[at];
                let teaming = interface.teaming.as_ref();
                machine
                    .plug_host_device(domain, &interface.info, teaming, function)
                    .await
            }
            (DeviceRef::Hostdev(at), Some(function)) => {
                let hostdev = &domain.devices.hostdevs[at];
                let teaming = hostdev.teaming.as_ref();
                machine
                    .plug_host_device(domain, &hostdev.info, teaming, function)
                    .await
            }
            (DeviceRef::Interface(at), None) => {
                let interface = &domain.devices.interfaces[at];
                machine.plug_interface(domain, interface, at, taps).await
            }
            _ => Ok(()),
        };
        if let Err(error) = given {
            state.is_unclear = error.is_uncertain();
            return Err(control(error));
        }
        if let DeviceRef::Interface(at) = place
            && function.is_none()
            && domain.devices.interfaces[at].link_up == Some(false)
            && let Err(error) = machine.set_link(&alias, false).await
        {
            state.is_unclear = true;
            return Err(control(error));
        }
        Ok(alias)
    }

    /// Undoes everything, in reverse. What QEMU may have is asked back, and stays until it answers.
    async fn undo(&self, mut state: State, error: Error) -> Plugged {
        let mut left = Vec::new();
        let mut config = None;
        if let Some(kept) = state.config.take()
            && let Some(defined) = &self.defined
            && let Err(failed) = self.keep(defined).await
        {
            left.push(format!(
                "the definition has the device now ({})",
                failed.detail()
            ));
            config = Some(kept);
        }
        let mut run = self.run.clone();
        if state.is_unclear
            && let Some(mut attachment) = state.attachment.take()
        {
            left.push("QEMU may have the device, and is asked to let it go".to_owned());
            attachment.state = AttachmentState::Unplugging;
            run.attachments.push(attachment);
            run.domain.clone_from(&state.domain);
            record::write_or_warn(self.daemon, self.handle, &run).await;
            return Plugged {
                attachments: run.attachments,
                domain: run.domain,
                config,
                result: Err(end::and_left_behind(error, &left)),
                is_unclear: true,
            };
        }
        if let Some(mut attachment) = state.attachment.take() {
            if let Some(claim) = attachment.claim
                && let Err(failed) = end::give_back(self.daemon, claim).await
            {
                tracing::error!(
                    guest = self.handle.name,
                    error = failed,
                    "a device was not given back"
                );
                left.push(failed);
                attachment.state = AttachmentState::Owed(Creditor::Host);
                run.attachments.push(attachment);
            } else if let Err(failed) = self.end_port(attachment.port).await {
                tracing::error!(guest = self.handle.name, error = %failed, "its port stays");
            }
        }
        record::write_or_warn(self.daemon, self.handle, &run).await;
        Plugged {
            attachments: run.attachments,
            domain: run.domain,
            config,
            result: Err(end::and_left_behind(error, &left)),
            is_unclear: false,
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

/// What was made ready.
enum LentFor {
    Nothing,
    Function(conf::PciAddress),
    Link {
        claim: assign::Generation,
        name: String,
        fds: TapFds,
    },
}

impl Daemon {
    /// Plans a device that is to be plugged in, with its port on its network. Asks the host; blocks.
    pub(super) fn plan_plug(
        &self,
        domain: &conf::Domain,
        subject: Subject,
        at: usize,
        excluded: &BTreeMap<conf::DeviceId, String>,
    ) -> Result<DevicePlan> {
        let context = self.plan_context(domain);
        let gone = || {
            Error::new(
                Code::InternalError,
                QEMU,
                "the device is not in its document",
            )
        };
        loop {
            let ledger = &mut &*self.lender;
            let excluded = excluded.clone();
            let planned =
                lending::plan_device(domain, subject, at, excluded, ledger, self, &context);
            let planned = planned.ok_or_else(gone)?;
            let kept = match &planned.outcome {
                Outcome::Lend(device) => self.keep_port_of(device),
                Outcome::Refused(refusal) => Err(fault::lending::device(&planned, refusal)),
                Outcome::Alone => Ok(true),
            };
            if matches!(kept, Ok(true)) {
                return Ok(planned);
            }
            if let Some(claim) = planned.attachment.claim {
                self.lender.drop_claim(claim);
            }
            kept?;
        }
    }
}
