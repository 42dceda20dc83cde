//! A guest's start: plan everything, record it, lend its devices, run QEMU; and the reverse, from
//! wherever it stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use assign::{Lent, LentKind};
use lending::{Attachment, AttachmentState, GuestPlan, Outcome, Subject};
use qemu::{Guest, GuestEvents, LaunchSpec, Launched, TapFds};
use rpc::{Code, Error};

use super::cancel::Cancel;
use super::end::{and_left_behind, give_all_back};
use super::groups::OwnGroup;
use super::handle::{GuestHandle, Run};
use super::moving::{Arrival, ArrivalWish, MoveRecord, Step};
use super::{DomainRecord, QEMU, arrive, control, links, pairs, record};
use crate::blocking::blocking;
use crate::daemon::Daemon;
use crate::fault::{self, Result};
use crate::sync::lock;

/// What is to be started.
pub(super) struct StartWish {
    pub(super) id: i32,
    pub(super) domain: conf::Domain,
    pub(super) paused: bool,
    pub(super) autodestroy: Option<u64>,
    /// It comes from another host.
    pub(super) arrival: Option<Box<ArrivalWish>>,
}

/// A guest that was started.
pub(super) struct Started {
    pub(super) run: Run,
    pub(super) events: GuestEvents,
    /// It was launched halted and let run from here, which its events will tell, too.
    pub(super) resumed_here: bool,
    pub(super) paused: bool,
    /// It comes from another host, and its QEMU waits for it.
    pub(super) arrival: Option<Arrival>,
}

/// One that was not; all is undone, or said.
pub(super) struct Failed {
    pub(super) error: Error,
    /// Somebody ended it on the way.
    pub(super) was_cancelled: bool,
}

/// A start on its way.
struct Start<'a> {
    daemon: &'a Arc<Daemon>,
    handle: &'a Arc<GuestHandle>,
    id: i32,
    paused: bool,
    autodestroy: Option<u64>,
    arrival: Option<Box<ArrivalWish>>,
    cancel: &'a Cancel,
    /// By which its process will open what it is lent.
    own_group: Option<Arc<OwnGroup>>,
    /// What was taken of the host so far.
    progress: &'a Mutex<Vec<Attachment>>,
}

/// Starts a guest. Cancelled, it ends at the next step, with everything undone.
pub(super) async fn start(
    daemon: &Arc<Daemon>,
    handle: &Arc<GuestHandle>,
    wish: StartWish,
    cancel: &Cancel,
    progress: &Mutex<Vec<Attachment>>,
) -> std::result::Result<Started, Failed> {
    let start = Start {
        daemon,
        handle,
        id: wish.id,
        paused: wish.paused,
        autodestroy: wish.autodestroy,
        arrival: wish.arrival,
        cancel,
        own_group: daemon.guest_groups.draw(),
        progress,
    };
    match start.carry_out(wish.domain).await {
        Ok(started) => Ok(started),
        Err(error) => {
            let attachments = lock(progress).clone();
            let left = give_all_back(daemon, handle, &attachments).await;
            Err(Failed {
                error: and_left_behind(error, &left),
                was_cancelled: cancel.is_cancelled(),
            })
        }
    }
}

impl Start<'_> {
    async fn carry_out(&self, mut domain: conf::Domain) -> Result<Started> {
        domain.id = u32::try_from(self.id).ok();
        self.check_no_process().await?;
        if let Some(wish) = &self.arrival {
            // A daemon that came now would know by it that this guest must not run here.
            let record = MoveRecord::new(self.handle, wish.id, Step::Arriving);
            self.daemon.note_move(record).await?;
        }
        let (mut domain, mut plan) = self.plan(domain).await?;
        self.record(&domain).await?;
        let mut taps = BTreeMap::new();
        let withheld = self.withheld(&domain);
        let planned = plan.planned();
        let planned = planned.filter(|(_, device, _)| !withheld.contains(&device.attachment.alias));
        let planned: Vec<usize> = planned.map(|(at, ..)| at).collect();
        for at in planned {
            self.go_on()?;
            let (lent, planned_again) = self.prepare(&domain, plan, at).await?;
            plan = planned_again;
            plan.apply_to(&mut domain);
            let device = &plan.devices[at];
            let interfaces = domain.devices.interfaces.get_mut(device.place);
            let interface = interfaces.filter(|_| device.attachment.subject == Subject::Interface);
            if let (
                Some(interface),
                LentKind::Link {
                    netdev,
                    taps: queues,
                    vhosts,
                },
            ) = (interface, lent.kind)
            {
                interface.target = Some(netdev.name.to_string());
                let fds = TapFds {
                    taps: queues,
                    vhosts,
                };
                taps.extend(interface.info.alias.clone().map(|alias| (alias, fds)));
            }
        }
        self.go_on()?;
        let has_links = !taps.is_empty();
        let functions = plan
            .planned()
            .filter(|(_, device, _)| device.attachment.subject == Subject::Interface)
            .filter(|(_, device, _)| !withheld.contains(&device.attachment.alias))
            .filter_map(|(_, device, planned)| {
                Some((device.attachment.alias.clone(), planned.function()?))
            })
            .collect();
        let launched = self
            .launch(&domain, &plan, functions, taps, withheld)
            .await?;
        let Launched {
            guest,
            events,
            ptys,
        } = launched;
        let finished = self.finish(&guest, &mut domain, &ptys, has_links).await;
        match finished {
            Ok((run, Some(arrival))) => Ok(Started {
                run,
                events,
                resumed_here: false,
                paused: true,
                arrival: Some(arrival),
            }),
            Ok((run, None)) => {
                pairs::direct(self.daemon, &self.handle.name, &run.attachments).await;
                Ok(Started {
                    run,
                    events,
                    resumed_here: has_links && !self.paused,
                    paused: self.paused,
                    arrival: None,
                })
            }
            Err(error) => Err(match guest.destroy().await {
                Ok(_) => error,
                // Its devices can't be taken back while it has them.
                Err(left) => and_left_behind(error, &[fault::chain(&left)]),
            }),
        }
    }

    /// See [`Daemon::check_no_process`].
    async fn check_no_process(&self) -> Result<()> {
        let (daemon, handle) = (Arc::clone(self.daemon), Arc::clone(self.handle));
        blocking(QEMU, move || {
            daemon.check_no_process(handle.uuid, &handle.name)
        })
        .await?
    }

    /// Chooses, claims and checks every device, with its port on its network; nothing is touched.
    async fn plan(&self, mut domain: conf::Domain) -> Result<(conf::Domain, GuestPlan)> {
        let daemon = Arc::clone(self.daemon);
        let (domain, plan) = blocking(QEMU, move || {
            let context = daemon.plan_context(&domain);
            let plan = daemon.plan_start(&domain, &context);
            if let Ok(plan) = &plan {
                plan.apply_to(&mut domain);
            }
            (domain, plan)
        })
        .await?;
        let plan = plan?;
        *lock(self.progress) = super::plan::attachments(&plan, &domain, self.arrival.is_some());
        let attachments = lock(self.progress).clone();
        for device in &plan.devices {
            let mut its = attachments.iter();
            let its = its.find(|one| one.id == device.attachment.id);
            if let (Outcome::Owed(owed), Some(its)) = (&device.outcome, its) {
                pairs::promise_of(self.daemon, self.handle.uuid, &owed.pf, its);
            }
        }
        Ok((domain, plan))
    }

    /// VFs that QEMU gets later.
    fn withheld(&self, domain: &conf::Domain) -> BTreeSet<String> {
        let attachments = lock(self.progress);
        let withheld = attachments
            .iter()
            .filter(|one| pairs::is_withheld(domain, one, self.arrival.is_some()));
        withheld.map(|one| one.alias.clone()).collect()
    }

    /// Prepares a device of a plan. If the fault is this one's, and its network chose it, the next
    /// is tried.
    async fn prepare(
        &self,
        domain: &conf::Domain,
        mut plan: GuestPlan,
        at: usize,
    ) -> Result<(Lent, GuestPlan)> {
        let mut excluded = BTreeMap::new();
        let gone = || Error::new(Code::InternalError, QEMU, "a planned device has no claim");
        loop {
            let attachment = plan.devices[at].attachment.id;
            let planned = plan.devices[at].planned().ok_or_else(gone)?;
            let claim = planned.claim.ok_or_else(gone)?;
            let (preparation, share) = (planned.preparation.clone(), planned.share);
            let chosen = planned.port.as_ref().filter(|port| port.is_of_pool);
            let port = chosen.map(|port| (port.network.uuid, port.port.uuid));
            let daemon = Arc::clone(self.daemon);
            let own_group = self.own_group.as_deref().map(OwnGroup::group);
            let prepare = move || daemon.lender.prepare(claim, &preparation, own_group);
            let prepared = blocking(QEMU, prepare).await?;
            let refused = match prepared {
                Ok(lent) => {
                    let mut attachments = lock(self.progress);
                    let its = attachments.iter_mut().find(|one| one.id == attachment);
                    if let Some(its) = its {
                        its.state = AttachmentState::Lent;
                    }
                    drop(attachments);
                    return Ok((lent, plan));
                }
                Err(error) => error,
            };
            let (Some(port), Some(fault), Some(device)) =
                (port, refused.own_fault(), share.device())
            else {
                return Err(fault::lending::prepare(&refused));
            };
            self.go_on()?;
            tracing::warn!(guest = self.handle.name, %device, fault, "trying another");
            excluded.insert(device, fault);
            lock(self.progress).retain(|one| one.id != attachment);
            let (daemon, excluded) = (Arc::clone(self.daemon), excluded.clone());
            let (again, mut resolved) = (domain.clone(), domain.clone());
            let (given, planned) = blocking(QEMU, move || {
                daemon.end_port(port.0, port.1);
                let context = daemon.plan_context(&again);
                let planned = daemon.plan_again(&mut plan, at, &excluded, &again, &context);
                (plan, planned)
            })
            .await?;
            plan = given;
            planned?;
            lock(self.progress).push(plan.devices[at].attachment.clone());
            plan.apply_to(&mut resolved);
            self.record(&resolved).await?;
        }
    }

    async fn launch(
        &self,
        domain: &conf::Domain,
        plan: &GuestPlan,
        functions: BTreeMap<String, conf::PciAddress>,
        taps: BTreeMap<String, TapFds>,
        withheld: BTreeSet<String>,
    ) -> Result<Launched> {
        let log = self.daemon.paths.guest_log(&self.handle.name);
        let run_dir = self.daemon.paths.guest(self.handle.uuid);
        let mut spec = LaunchSpec::new(domain.clone(), run_dir, log);
        spec.pci_devices = functions;
        spec.usb_devices = usb_devices(plan);
        without_missing(&mut spec.domain, plan);
        spec.run_as = self.daemon.qemu_user.clone();
        spec.own_group = self.own_group.as_deref().map(OwnGroup::group);
        spec.scopes = self.daemon.scopes.clone();
        // Its links are switched on when nothing else can go wrong, just before it runs.
        spec.paused = self.paused || !taps.is_empty();
        spec.incoming = self.arrival.is_some();
        spec.taps = taps;
        spec.withheld = withheld;
        // Given up, there is no process any more when this returns.
        let launched = (self.daemon.launcher).launch_until(spec, self.cancel.cancelled());
        launched.await.map_err(|error| match error {
            qemu::LaunchError::GivenUp => self.cancelled(),
            error => launch_error(&error),
        })
    }

    /// Records a guest that was launched, and lets it run.
    async fn finish(
        &self,
        guest: &Guest,
        domain: &mut conf::Domain,
        ptys: &BTreeMap<String, String>,
        has_links: bool,
    ) -> Result<(Run, Option<Arrival>)> {
        qemu::fill_ptys(domain, ptys);
        let mut attachments = lock(self.progress).clone();
        for attachment in &mut attachments {
            if attachment.state == AttachmentState::Lent {
                attachment.state = AttachmentState::Plugged;
            }
        }
        let run = Run {
            id: self.id,
            domain: domain.clone(),
            machine: guest.clone(),
            attachments,
            negotiated: BTreeSet::new(),
            is_unjoined: false,
            resumed: false,
            arrived: false,
            autodestroy: self.autodestroy,
            own_group: self.own_group.clone(),
            changing: None,
        };
        // A guest that the next daemon would not find must not run.
        record::write(self.daemon, self.handle, &run).await?;
        self.go_on()?;
        if let Some(wish) = &self.arrival {
            let uri = arrive::listen(guest, wish).await?;
            self.go_on()?;
            let arrival = Arrival {
                id: wish.id,
                connection: wish.connection,
                since: std::time::Instant::now(),
                uri,
            };
            return Ok((run, Some(arrival)));
        }
        if has_links && !self.paused {
            links::switch(self.daemon, &run.attachments, true).await?;
            guest.resume().await.map_err(control::control)?;
        }
        Ok((run, None))
    }

    /// Records a start before anything is touched for it.
    async fn record(&self, domain: &conf::Domain) -> Result<()> {
        let attachments = lock(self.progress).clone();
        let of_client = self.autodestroy.is_some();
        let record = DomainRecord::of_start(self.handle, domain, attachments, of_client);
        record::keep(self.daemon, record).await
    }

    /// Whether the guest is still to be started.
    fn go_on(&self) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(self.cancelled());
        }
        Ok(())
    }

    fn cancelled(&self) -> Error {
        let detail = format!(
            "domain '{}' was destroyed while it started",
            self.handle.name
        );
        Error::new(Code::OperationAborted, QEMU, detail)
    }
}

/// The USB devices that the guest gets: bus and number, by alias.
fn usb_devices(plan: &GuestPlan) -> BTreeMap<String, (u32, u32)> {
    let planned = plan.planned();
    planned
        .filter_map(|(_, device, planned)| {
            let usb = planned.usb()?;
            let place = (u32::from(usb.bus()), u32::from(usb.device()));
            Some((device.attachment.alias.clone(), place))
        })
        .collect()
}

/// Takes out what QEMU would look for and not find: USB devices without which the guest may start.
fn without_missing(domain: &mut conf::Domain, plan: &GuestPlan) {
    let is_missing = |alias: Option<&String>| {
        plan.devices.iter().any(|device| {
            device.attachment.subject == Subject::HostDevice
                && device.planned().is_none()
                && Some(&device.attachment.alias) == alias
        })
    };
    let hostdevs = &mut domain.devices.hostdevs;
    hostdevs.retain(|hostdev| !is_missing(hostdev.info.alias.as_ref()));
}

fn launch_error(error: &qemu::LaunchError) -> Error {
    let code = match error {
        qemu::LaunchError::CommandLine(_) | qemu::LaunchError::NoEmulator { .. } => {
            Code::ConfigUnsupported
        }
        _ => Code::InternalError,
    };
    Error::new(code, QEMU, fault::chain(error))
}
