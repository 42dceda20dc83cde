//! A guest's start: plan everything, record it, lend its devices, run QEMU; and the reverse, from
//! wherever it stopped.

use std::collections::BTreeMap;
use std::sync::Arc;

use assign::{Generation, Lent, LentKind};
use conf::Uuid;
use qemu::{Guest, LaunchSpec, Launched, TapFds};
use rpc::flags::{CreateDomain, StartDomain};
use rpc::{Code, Dom, DomainChange, Error};

use super::plan::PlannedDevice;
use super::{DomainObject, QEMU, StopReason};
use tokio::task::block_in_place;

use crate::daemon::Daemon;
use crate::fault::{self, Result};
use crate::lender::{NotLent, Wanted};
use crate::sync::lock;

/// A guest that runs.
#[derive(Debug)]
pub(crate) struct Running {
    /// Counts up with each start; what `virsh list` shows.
    pub(crate) id: i32,
    /// The document with all that was resolved.
    pub(crate) domain: conf::Domain,
    pub(crate) guest: Guest,
    pub(crate) borrowed: Borrowed,
    /// Somebody resumed it since its start.
    pub(crate) resumed: bool,
    /// The connection with whose end it ends.
    pub(crate) autodestroy: Option<u64>,
}

/// What a guest has from the host.
#[derive(Debug, Clone, Default)]
pub(crate) struct Borrowed {
    /// Network and port.
    pub(crate) ports: Vec<(Uuid, Uuid)>,
    /// The claims on its devices.
    pub(crate) lent: Vec<Generation>,
}

impl Daemon {
    /// Starts a guest that is not kept.
    pub(crate) async fn create_domain(
        self: &Arc<Self>,
        xml: &str,
        flags: CreateDomain,
        connection: u64,
    ) -> Result<Dom> {
        let domain = block_in_place(|| self.read_domain(xml))?;
        if flags.contains(CreateDomain::VALIDATE) {
            fault::all_read(QEMU, xml)?;
        }
        let object = self.with_domain(&domain, |object, status| {
            status.begin(object)?;
            Ok(())
        })?;
        self.start_as(&object, domain, flags.into(), connection)
            .await?;
        Ok(object.dom())
    }

    /// Starts a defined guest.
    pub(crate) async fn start_domain(
        self: &Arc<Self>,
        object: &Arc<DomainObject>,
        flags: StartDomain,
        connection: u64,
    ) -> Result<()> {
        let domain = {
            let mut status = lock(&object.state);
            status.begin(object)?;
            status.defined.clone()
        };
        match domain {
            Some(domain) => self.start_as(object, domain, flags, connection).await,
            None => {
                lock(&object.state).starting = false;
                Err(object.not_running())
            }
        }
    }

    /// Runs to its end even if the client that asked for it goes away.
    async fn start_as(
        self: &Arc<Self>,
        object: &Arc<DomainObject>,
        domain: conf::Domain,
        flags: StartDomain,
        connection: u64,
    ) -> Result<()> {
        let (daemon, object) = (Arc::clone(self), Arc::clone(object));
        let started = tokio::spawn(async move {
            let job = object.job.lock().await;
            let autodestroy = flags
                .contains(StartDomain::AUTODESTROY)
                .then_some(connection);
            let started = daemon
                .run(
                    &object,
                    domain,
                    flags.contains(StartDomain::PAUSED),
                    autodestroy,
                )
                .await;
            let mut status = lock(&object.state);
            status.starting = false;
            if started.is_err() {
                status.stopped = StopReason::Failed;
            }
            daemon.forget_domain_if_unused(&object, &mut status);
            drop(status);
            drop(job);
            started
        });
        started.await.unwrap_or_else(|_| {
            let detail = "the start broke off; the log says why";
            Err(Error::new(Code::InternalError, QEMU, detail))
        })
    }

    async fn run(
        self: &Arc<Self>,
        object: &Arc<DomainObject>,
        mut domain: conf::Domain,
        paused: bool,
        autodestroy: Option<u64>,
    ) -> Result<()> {
        super::plan::refuse_unsupported(&domain)?;
        self.refuse_misplaced(&domain)?;
        let id = self.next_domain_id();
        domain.id = u32::try_from(id).ok();
        let mut borrowed = Borrowed::default();
        let started = self
            .run_with(object, &mut domain, id, paused, &mut borrowed)
            .await;
        let (
            Launched {
                guest,
                events,
                ptys,
            },
            resumed_here,
        ) = match started {
            Ok(launched) => launched,
            Err(error) => {
                let left = self.give_all_back(object, &borrowed).await;
                return Err(and_left_behind(error, &left));
            }
        };
        qemu::fill_ptys(&mut domain, &ptys);
        let running = Running {
            id,
            domain,
            guest,
            borrowed,
            resumed: false,
            autodestroy,
        };
        if let Err(error) = self.record_running(object, &running) {
            // A guest that the next daemon would not find must not run.
            let left = self.abandon(object, running).await;
            return Err(and_left_behind(error, &left));
        }
        lock(&object.state).running = Some(running);
        tracing::info!(guest = object.name, id, "started");
        if !paused {
            self.tell_domain(object, DomainChange::ResumedUnpaused);
        }
        self.tell_domain(object, DomainChange::StartedBooted);
        if paused {
            self.tell_domain(object, DomainChange::SuspendedPaused);
        }
        self.watch_guest(object, id, events, resumed_here);
        self.follow_filters(object, None).await;
        Ok(())
    }

    /// All that can fail. What was borrowed until then is in `borrowed`. And whether the guest was
    /// launched halted and let run from here, which its events will tell, too.
    async fn run_with(
        self: &Arc<Self>,
        object: &Arc<DomainObject>,
        domain: &mut conf::Domain,
        id: i32,
        paused: bool,
        borrowed: &mut Borrowed,
    ) -> Result<(Launched, bool)> {
        let planned = self.plan(domain, borrowed)?;
        // Only now is it known which interfaces are host devices.
        domain.check_resolved().map_err(fault::document(QEMU))?;
        domain.assign_aliases();
        self.record_start(object, id, domain, borrowed)?;
        let mut taps = BTreeMap::new();
        for device in planned.devices {
            let place = device.place;
            let lent = self.prepare(object, id, domain, device, borrowed).await?;
            let interface = place.and_then(|place| domain.devices.interfaces.get_mut(place));
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
        let has_links = !taps.is_empty();
        if self.simulated {
            if has_links && !paused {
                self.switch_links(object.uuid, true).await?;
            }
            let (guest, events) = Guest::stub(&object.name, paused);
            let launched = Launched {
                guest,
                events,
                ptys: Default::default(),
            };
            return Ok((launched, false));
        }
        let log = self.paths.guest_log(&object.name);
        let mut spec = LaunchSpec::new(domain.clone(), self.paths.guest(object.uuid), log);
        spec.pci_devices = planned
            .resolved
            .into_iter()
            .filter_map(|(place, address)| {
                let interface = domain.devices.interfaces.get(place)?;
                Some((interface.info.alias.clone()?, address))
            })
            .collect();
        spec.run_as = self.qemu_user.clone();
        spec.taps = taps;
        // Its links are switched on when nothing else can go wrong, just before it runs.
        spec.paused = paused || has_links;
        let launched = Guest::launch(spec)
            .await
            .map_err(|error| launch_error(&error))?;
        let resumed_here = has_links && !paused;
        if resumed_here {
            let running = match self.switch_links(object.uuid, true).await {
                Ok(()) => launched
                    .guest
                    .resume()
                    .await
                    .map_err(super::control::control),
                Err(error) => Err(error),
            };
            if let Err(error) = running {
                return Err(match launched.guest.destroy().await {
                    Ok(_) => error,
                    Err(left) => and_left_behind(error, &[fault::chain(&left)]),
                });
            }
        }
        Ok((launched, resumed_here))
    }

    /// Prepares a device. If the fault is this one's, and its network chose it, the next is tried.
    async fn prepare(
        &self,
        object: &DomainObject,
        id: i32,
        domain: &mut conf::Domain,
        mut device: PlannedDevice,
        borrowed: &mut Borrowed,
    ) -> Result<Lent> {
        let mut excluded = BTreeMap::new();
        loop {
            let (place, port) = (device.place, device.chosen_by);
            let refused = self.lender.prepare(device.claim, device.preparation).await;
            let NotLent { error, try_another } = match refused {
                Ok(lent) => return Ok(lent),
                Err(not_lent) => not_lent,
            };
            let (
                Some(place),
                Some(port),
                Some(fault),
                Wanted::Whole(wanted) | Wanted::Share(wanted),
            ) = (place, port, try_another, device.wanted)
            else {
                return Err(error);
            };
            tracing::warn!(guest = object.name, device = %wanted, fault, "trying another");
            excluded.insert(wanted, fault);
            borrowed.lent.retain(|claim| *claim != device.claim);
            borrowed.ports.retain(|other| *other != port);
            self.end_port(port.0, port.1);
            let numa_nodes = self.numa_nodes_of(domain);
            device = self.plan_port(domain, place, borrowed, &numa_nodes, excluded.clone())?;
            self.record_start(object, id, domain, borrowed)?;
        }
    }

    /// Ends a guest that nobody knows of yet, and takes back what it had.
    async fn abandon(&self, object: &Arc<DomainObject>, running: Running) -> Vec<String> {
        if let Err(error) = running.guest.destroy().await {
            // Its devices can't be taken back while it has them.
            return vec![fault::chain(&error)];
        }
        self.give_all_back(object, &running.borrowed).await
    }

    /// Takes back whatever a guest had, as far as that goes; what was left behind.
    pub(super) async fn give_all_back(
        &self,
        object: &DomainObject,
        borrowed: &Borrowed,
    ) -> Vec<String> {
        let mut left = Vec::new();
        for generation in borrowed.lent.iter().rev() {
            if let Err(error) = self.lender.give_back(*generation).await {
                tracing::error!(guest = object.name, %error, "a device was not given back");
                left.push(error);
            }
        }
        for (network, port) in borrowed.ports.iter().rev() {
            self.end_port(*network, *port);
        }
        if let Err(error) = self.records.domains.remove(object.uuid) {
            tracing::warn!(guest = object.name, %error, "its record stays");
        }
        left
    }
}

impl super::DomainStatus {
    /// Reserves the guest for a start.
    fn begin(&mut self, object: &DomainObject) -> Result<()> {
        if self.running.is_some() || self.starting {
            let detail = format!("domain '{}' is already active", object.name);
            return Err(fault::invalid(QEMU, detail));
        }
        self.starting = true;
        Ok(())
    }
}

/// A start's error, with what could not be undone after it.
fn and_left_behind(error: Error, left: &[String]) -> Error {
    if left.is_empty() {
        return error;
    }
    let detail = format!("{}\nNot undone: {}", error.detail(), left.join("; "));
    Error::new(error.code(), error.domain(), detail)
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
