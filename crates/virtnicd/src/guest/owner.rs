//! The one task that owns a guest: what is asked, what QEMU tells and what its own steps report meet
//! here, one after the other. Long steps run beside it, so that it always hears.

use std::collections::{BTreeSet, VecDeque};
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lending::{Attachment, AttachmentState, Creditor, Role};
use qemu::{Exit, ExitReason, GuestEvents};
use rpc::flags::Affect;
use rpc::{Code, DomainChange, Error};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;

use super::cancel::Cancel;
use super::change::{self, Direction, LiveChange};
use super::definition::{Unwritten, Write, WriteWhat};
use super::handle::{GuestHandle, Message, Reply, Request, Run, StopReason, View};
use super::held::Held;
use super::hotplug::{self, Meant};
use super::life::{Admission, Job, Kind, Life, Reason, Writing, admit};
use super::pairs::{self, Turn};
use super::plug::{Plug, Plugged, What};
use super::start::{self, StartWish, Started};
use super::unplug::{self, Answer, Asked};
use super::{QEMU, attachment, control, end, follow, stock, update_device};
use crate::affect::Affected;
use crate::blocking::broke_off;
use crate::daemon::Daemon;
use crate::fault::{self, Result};
use crate::sync::lock;

/// Requests that wait in a mailbox; whoever sends one more waits with it.
const MAILBOX: usize = 64;
/// Between two attempts to take back what QEMU still holds: the first, and the longest.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// A guest's owner.
pub(super) struct Owner {
    pub(super) daemon: Arc<Daemon>,
    pub(super) handle: Arc<GuestHandle>,
    mailbox: mpsc::Receiver<Message>,
    shown: watch::Sender<Arc<View>>,
    pub(super) state: View,
    job: Option<Current>,
    writing: Option<Write>,
    ending: Option<Ending>,
    /// What waits for its turn, in the order of asking.
    waiting: VecDeque<(Request, Reply)>,
    /// A change of what runs that its definition could not follow.
    reverts: VecDeque<Revert>,
    events: Option<GuestEvents>,
    /// It is known what QEMU has.
    pub(super) is_stocked: bool,
    /// The start has told already that it runs, which QEMU will tell once more.
    pub(super) is_told: bool,
    /// Devices that QEMU let go, and whose filters changed, by alias: each once.
    pub(super) deleted: BTreeSet<String>,
    pub(super) filters: BTreeSet<String>,
    /// Devices that the guest refused to let go.
    pub(super) refused: BTreeSet<String>,
    /// VFs of pairs of which none was free: not looked for again until something changes.
    pub(super) held_back: BTreeSet<String>,
    /// VFs of pairs that could not be plugged in.
    pub(super) held: Held,
    /// Whether it is worth looking for a VF that is owed to the guest.
    pub(super) vf_may_be_free: bool,
    /// Until when its driver has time to join its pairs.
    pub(super) joins_by: Option<Instant>,
    /// One got free since it was looked for last.
    is_vf_freed: bool,
    /// Clients that wait for a guest to let a device go, in the order of asking.
    unplugging: VecDeque<unplug::Waiting>,
    retry: Option<(Instant, Duration)>,
    answers: Vec<(Reply, Result<()>)>,
}

/// A step that runs beside the owner.
struct Current {
    kind: Job,
    work: JoinHandle<Done>,
    /// The definition is written when it is done.
    will_write: bool,
    cancel: Cancel,
    /// Who asked.
    reply: Option<Reply>,
    /// Who asked to end what is being started.
    stops: Vec<Reply>,
    /// The connection with whose end it is to end.
    autodestroy: Option<u64>,
    /// What it has taken of the host so far, in case it breaks off.
    progress: Arc<Mutex<Vec<Attachment>>>,
}

/// What a step came to.
pub(super) enum Done {
    Started(Box<std::result::Result<Started, start::Failed>>),
    /// What QEMU has let go of while nobody listened.
    Stocked(stock::Stock),
    Controlled(Result<control::Controlled>),
    Changed(Result<Box<LiveChange>>, Option<WriteWhat>),
    /// What could not be kept is taken back; the error is what its client gets.
    Reverted(Result<Box<LiveChange>>, Error),
    /// Of a VF that was plugged in unasked, its alias.
    Plugged(Box<Plugged>, Option<String>),
    /// A device was asked back; how, and what its definition is to lose then.
    Asked(Box<Asked>, bool, Option<Meant>),
    Followed(Box<follow::Followed>),
    CleanedUp(Exit),
}

/// A guest on its way out.
struct Ending {
    gracefully: bool,
    kill: Option<JoinHandle<Result<Exit>>>,
    exit: Option<Exit>,
    replies: Vec<Reply>,
    /// What it was before.
    from: Life,
}

/// A change to take back, and the error that its client gets then.
struct Revert {
    change: Box<LiveChange>,
    error: Error,
    reply: Option<Reply>,
}

/// Makes a guest, and the task that owns it. It ends when the guest is neither defined nor running.
pub(super) fn make(daemon: &Arc<Daemon>, name: &str, uuid: conf::Uuid) -> Arc<GuestHandle> {
    spawn(daemon, name, uuid, Life::Off, None)
}

/// A guest that an earlier daemon started, whose monitor has not answered yet.
pub(super) fn make_found(
    daemon: &Arc<Daemon>,
    name: &str,
    uuid: conf::Uuid,
    run: Run,
    events: GuestEvents,
) -> Arc<GuestHandle> {
    spawn(daemon, name, uuid, Life::Found, Some((run, events)))
}

fn spawn(
    daemon: &Arc<Daemon>,
    name: &str,
    uuid: conf::Uuid,
    life: Life,
    running: Option<(Run, GuestEvents)>,
) -> Arc<GuestHandle> {
    let (run, events) = running.unzip();
    let state = View {
        life,
        busy: false,
        defined: None,
        autostart: false,
        starting: None,
        run: run.map(Arc::new),
        held: BTreeSet::new(),
        stopped: StopReason::default(),
    };
    let (sender, mailbox) = mpsc::channel(MAILBOX);
    let (shown, view) = watch::channel(Arc::new(state.clone()));
    let handle = Arc::new(GuestHandle::new(name.to_owned(), uuid, sender, view));
    let owner = Owner {
        daemon: Arc::clone(daemon),
        handle: Arc::clone(&handle),
        mailbox,
        shown,
        state,
        job: None,
        writing: None,
        ending: None,
        waiting: VecDeque::new(),
        reverts: VecDeque::new(),
        events,
        is_stocked: true,
        is_told: false,
        deleted: BTreeSet::new(),
        filters: BTreeSet::new(),
        refused: BTreeSet::new(),
        held_back: BTreeSet::new(),
        held: Held::default(),
        vf_may_be_free: false,
        joins_by: None,
        is_vf_freed: false,
        unplugging: VecDeque::new(),
        retry: None,
        answers: Vec::new(),
    };
    tokio::spawn(owner.live());
    handle
}

impl Owner {
    async fn live(mut self) {
        let daemon = Arc::clone(&self.daemon);
        let mut stopped = std::pin::pin!(daemon.stopped());
        if self
            .state
            .run
            .as_ref()
            .is_some_and(|run| run.autodestroy.is_some())
        {
            // No client outlives its daemon.
            self.end(false, None);
            self.publish();
        }
        loop {
            tokio::select! {
                message = self.mailbox.recv() => match message {
                    Some(message) => self.hear(message),
                    // Every handle is gone, so nobody can ask any more.
                    None => return,
                },
                done = finished(&mut self.job) => self.job_done(done),
                killed = killed(&mut self.ending) => self.kill_done(killed),
                written = written(&mut self.writing) => self.write_done(written),
                event = next_event(&mut self.events) => match event {
                    Some(event) => self.take_event(event),
                    None => self.events = None,
                },
                () = until(self.retry.map(|(when, _)| when)) => self.ask_again(),
                () = until(self.joins_by) => self.had_time_to_join(),
                () = until(self.held.next()) => {
                    self.held.release();
                    self.vf_may_be_free = true;
                }
                () = until(self.unplugging.front().map(|first| first.until)) => self.waited(),
                // What is under way goes on, and the records tell the next daemon of it.
                () = &mut stopped => return self.handle.stop_asking(),
            }
            self.go_on();
            self.publish();
            if self.is_over() {
                self.daemon.guests.remove(&self.handle);
                self.flush();
                self.mailbox.close();
                // Those who came too late are told by the silence.
                while self.mailbox.recv().await.is_some() {}
                return;
            }
            self.flush();
        }
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Ask(request, reply) => self.waiting.push_back((request, reply)),
            Message::VfFree => {
                self.held_back.clear();
                (self.vf_may_be_free, self.is_vf_freed) = (true, true);
            }
            Message::ClientGone(connection) => {
                let of_job = self.job.as_ref().and_then(|job| job.autodestroy);
                let of_run = self.state.run.as_ref().and_then(|run| run.autodestroy);
                if of_job == Some(connection)
                    && let Some(job) = &self.job
                {
                    job.cancel.cancel();
                } else if of_run == Some(connection) {
                    tracing::info!(guest = self.handle.name, "ends with its client");
                    self.end(false, None);
                }
            }
        }
    }

    /// Lets in what can be done by now, in the order of asking.
    fn go_on(&mut self) {
        if self.job.is_none() {
            if let Some(exit) = self.ending.as_ref().and_then(|ending| ending.exit) {
                self.clean_up(exit);
            } else if !self.is_stocked && matches!(self.state.life, Life::Found | Life::Running) {
                self.take_stock();
            } else if self.state.life == Life::Running {
                if let Some(revert) = self.reverts.pop_front() {
                    self.revert(revert);
                } else if !(self.deleted.is_empty()
                    && self.filters.is_empty()
                    && self.refused.is_empty())
                {
                    self.follow();
                } else if let Some(alias) = self.due() {
                    self.promote(alias, None);
                }
            }
        }
        let (mut runs, mut writes) = (false, false);
        for (request, reply) in std::mem::take(&mut self.waiting) {
            let kind = self.kind_of(&request);
            let (wants_run, wants_write) = match kind {
                Kind::Destroy => (false, false),
                Kind::Start | Kind::Control => (true, false),
                Kind::ControlAndWrite => (true, true),
                Kind::Write => (false, true),
            };
            let job = self.job.as_ref().map_or(Job::None, |job| job.kind);
            let will_write = self.job.as_ref().is_some_and(|job| job.will_write);
            let writing = match self.writing {
                None if !will_write => Writing::Idle,
                _ => Writing::Busy,
            };
            let admission = admit(self.state.life, job, writing, kind);
            let is_behind = wants_run && runs || wants_write && writes;
            match admission {
                Admission::Refuse(_) if !is_behind => {
                    let error = self.refusal(admission, &request);
                    self.answers.push((reply, Err(error)));
                }
                Admission::Preempt => self.preempt(reply),
                Admission::Now if !is_behind => self.carry_out(request, reply),
                _ => {
                    runs |= wants_run;
                    writes |= wants_write;
                    self.waiting.push_back((request, reply));
                }
            }
        }
    }

    fn kind_of(&self, request: &Request) -> Kind {
        match request {
            Request::Start { .. } => Kind::Start,
            Request::Destroy { .. } => Kind::Destroy,
            Request::Suspend | Request::Resume | Request::Turn { .. } => Kind::Control,
            Request::Change { flags, .. }
            | Request::Update { flags, .. }
            | Request::Attach { flags, .. } => match self.state.life {
                Life::Off => Kind::Write,
                _ => match self.affected(*flags) {
                    Ok(Affected {
                        live: true,
                        config: true,
                    }) => Kind::ControlAndWrite,
                    Ok(Affected { live: false, .. }) => Kind::Write,
                    _ => Kind::Control,
                },
            },
            // The definition loses it when the guest has.
            Request::Detach { flags, .. } => match self.affected(*flags) {
                Ok(Affected { live: true, .. }) => Kind::Control,
                _ => Kind::Write,
            },
            Request::Define(_)
            | Request::TakeIn(..)
            | Request::Undefine
            | Request::Autostart(_) => Kind::Write,
        }
    }

    pub(super) fn affected(&self, flags: Affect) -> Result<Affected> {
        self.state.subject(&self.handle.name).affected(flags)
    }

    fn refusal(&self, admission: Admission, request: &Request) -> Error {
        match (admission, request) {
            (Admission::Refuse(Reason::AlreadyActive), _) => self.handle.already_active(),
            _ => self.handle.not_running(),
        }
    }

    /// Begins what was let in.
    fn carry_out(&mut self, request: Request, reply: Reply) {
        match request {
            Request::Start {
                domain,
                paused,
                autodestroy,
            } => {
                let domain = match (domain, &self.state.defined) {
                    (Some(domain), _) => *domain,
                    (None, Some(defined)) => conf::Domain::clone(defined),
                    (None, None) => {
                        let error = self.handle.not_running();
                        return self.answers.push((reply, Err(error)));
                    }
                };
                self.start(domain, paused, autodestroy, reply);
            }
            Request::Destroy { gracefully } => self.end(gracefully, Some(reply)),
            Request::Suspend | Request::Resume => self.control(&request, reply),
            Request::Change { flags, edit } => match self.affected(flags) {
                Ok(affected) => self.change(affected, &edit, reply),
                Err(error) => self.answers.push((reply, Err(error))),
            },
            Request::Update { flags, device } => match self.affected(flags) {
                Ok(affected) => self.update(affected, device, reply),
                Err(error) => self.answers.push((reply, Err(error))),
            },
            Request::Attach { flags, device } => match self.affected(flags) {
                Ok(affected) => self.attach(affected, device, reply),
                Err(error) => self.answers.push((reply, Err(error))),
            },
            Request::Detach {
                flags,
                meant,
                waits,
                as_pair,
            } => match self.affected(flags) {
                Ok(affected) => self.detach(affected, meant, (waits, as_pair), reply),
                Err(error) => self.answers.push((reply, Err(error))),
            },
            Request::Turn { alias, turn } => match turn {
                Turn::Promote => self.promote_by_hand(alias, reply),
                Turn::Demote => self.demote(alias, AttachmentState::Demoting, reply),
                Turn::Recall => self.demote(alias, AttachmentState::Recalled, reply),
            },
            Request::Define(domain) => {
                let is_new = self.state.defined.is_none();
                self.write(WriteWhat::Define { domain, is_new }, Some(reply));
            }
            Request::TakeIn(..) if self.state.defined.is_some() => {
                self.answers.push((reply, Ok(())));
            }
            Request::TakeIn(found, domain) => {
                self.write(WriteWhat::TakeIn(found, domain), Some(reply));
            }
            Request::Undefine if self.state.defined.is_none() => {
                let error = fault::invalid(QEMU, "cannot undefine transient domain");
                self.answers.push((reply, Err(error)));
            }
            Request::Undefine => self.write(WriteWhat::Undefine, Some(reply)),
            Request::Autostart(_) if self.state.defined.is_none() => {
                let error = fault::invalid(QEMU, "cannot set autostart for transient domain");
                self.answers.push((reply, Err(error)));
            }
            Request::Autostart(wanted) => self.write(WriteWhat::Autostart(wanted), Some(reply)),
        }
    }

    fn begin(
        &mut self,
        kind: Job,
        reply: Option<Reply>,
        work: impl FnOnce(Cancel, Arc<Mutex<Vec<Attachment>>>) -> JoinHandle<Done>,
    ) {
        let (cancel, progress) = (Cancel::new(), Arc::default());
        self.job = Some(Current {
            kind,
            work: work(cancel.clone(), Arc::clone(&progress)),
            will_write: false,
            cancel,
            reply,
            stops: Vec::new(),
            autodestroy: None,
            progress,
        });
    }

    fn start(
        &mut self,
        domain: conf::Domain,
        paused: bool,
        autodestroy: Option<u64>,
        reply: Reply,
    ) {
        if autodestroy.is_some_and(|connection| !self.daemon.is_connected(connection)) {
            let detail = "the client that the domain was to end with is gone";
            let error = Error::new(Code::OperationAborted, QEMU, detail);
            return self.answers.push((reply, Err(error)));
        }
        let (barred, guest) = (&self.daemon.barred, self.handle.uuid);
        if let Err(error) = barred.check(guest, &self.handle.name) {
            return self.answers.push((reply, Err(error)));
        }
        self.state.life = Life::Starting;
        self.state.starting = Some(Arc::new(domain.clone()));
        let (daemon, handle) = (Arc::clone(&self.daemon), Arc::clone(&self.handle));
        let wish = StartWish {
            id: self.daemon.next_domain_id(),
            domain,
            paused,
            autodestroy,
        };
        self.begin(Job::Start, Some(reply), |cancel, progress| {
            tokio::spawn(async move {
                let started = start::start(&daemon, &handle, wish, &cancel, &progress).await;
                Done::Started(Box::new(started))
            })
        });
        if let Some(job) = &mut self.job {
            job.autodestroy = autodestroy;
        }
    }

    fn take_stock(&mut self) {
        let Some(run) = self.state.run.clone() else {
            return;
        };
        self.is_stocked = true;
        let (daemon, handle) = (Arc::clone(&self.daemon), Arc::clone(&self.handle));
        self.begin(Job::TakeStock, None, |_, _| {
            tokio::spawn(async move { Done::Stocked(stock::take(&daemon, &handle, &run).await) })
        });
    }

    fn control(&mut self, request: &Request, reply: Reply) {
        let Some(run) = self.state.run.clone() else {
            return;
        };
        let (daemon, handle) = (Arc::clone(&self.daemon), Arc::clone(&self.handle));
        let halts = matches!(request, Request::Suspend);
        self.begin(Job::Control, Some(reply), |_, _| {
            tokio::spawn(async move {
                Done::Controlled(if halts {
                    control::suspend(&daemon, &handle, &run).await
                } else {
                    control::resume(&daemon, &handle, &run).await
                })
            })
        });
    }

    fn change(&mut self, affected: Affected, edit: &change::Edit, reply: Reply) {
        match change::documents(&self.state, affected, edit) {
            Err(error) => self.answers.push((reply, Err(error))),
            Ok((Some((old, new)), config)) => {
                let Some(run) = self.state.run.clone() else {
                    return;
                };
                let (daemon, handle) = (Arc::clone(&self.daemon), Arc::clone(&self.handle));
                let will_write = config.is_some();
                self.begin(Job::Control, Some(reply), |_, _| {
                    tokio::spawn(async move {
                        let changed =
                            change::follow(&daemon, &handle, &run, old, new, Direction::On).await;
                        Done::Changed(changed.map(Box::new), config.map(WriteWhat::Keep))
                    })
                });
                if let Some(job) = &mut self.job {
                    job.will_write = will_write;
                }
            }
            Ok((None, Some(config))) => self.write(WriteWhat::Keep(config), Some(reply)),
            Ok((None, None)) => self.answers.push((reply, Ok(()))),
        }
    }

    fn update(&mut self, affected: Affected, device: Arc<conf::Device>, reply: Reply) {
        let defined = (self.state.defined.clone()).filter(|_| affected.config);
        match (self.state.run.clone().filter(|_| affected.live), defined) {
            (Some(run), defined) => {
                let will_write = defined.is_some();
                let (daemon, handle) = (Arc::clone(&self.daemon), Arc::clone(&self.handle));
                self.begin(Job::Control, Some(reply), |_, _| {
                    tokio::spawn(async move {
                        update_device::carry_out(&daemon, &handle, &run, defined, device).await
                    })
                });
                if let Some(job) = &mut self.job {
                    job.will_write = will_write;
                }
            }
            (None, Some(defined)) => {
                let running = self.state.run.clone();
                let what = WriteWhat::Update {
                    defined,
                    running,
                    device,
                };
                self.write(what, Some(reply));
            }
            (None, None) => self.answers.push((reply, Ok(()))),
        }
    }

    fn attach(&mut self, affected: Affected, device: Arc<conf::Device>, reply: Reply) {
        let defined = (self.state.defined.clone()).filter(|_| affected.config);
        let run = self.state.run.clone().filter(|_| affected.live);
        match (run, defined) {
            (Some(run), defined) => {
                let will_write = defined.is_some();
                let (daemon, handle) = (Arc::clone(&self.daemon), Arc::clone(&self.handle));
                self.begin(Job::Plug, Some(reply), |cancel, progress| {
                    tokio::spawn(async move {
                        let plug = Plug {
                            daemon: &daemon,
                            handle: &handle,
                            run: &run,
                            cancel: &cancel,
                            progress: &progress,
                        };
                        let what = What::New { device, defined };
                        Done::Plugged(Box::new(plug.carry_out(&what).await), None)
                    })
                });
                if let Some(job) = &mut self.job {
                    job.will_write = will_write;
                }
            }
            (None, Some(defined)) => {
                self.write(WriteWhat::Attach { defined, device }, Some(reply));
            }
            (None, None) => self.answers.push((reply, Ok(()))),
        }
    }

    /// The VF half of a pair that can be plugged in now: the guest has it coming, and is ready for it.
    fn due(&mut self) -> Option<String> {
        let run = self.state.run.as_ref()?;
        let looks = self.vf_may_be_free;
        let is_due = |one: &&Attachment| {
            let is_coming = one.reserved.is_some()
                || looks && one.state == AttachmentState::Owed(Creditor::Guest);
            one.role == Role::Primary
                && is_coming
                && !self.held_back.contains(&one.alias)
                && !self.held.is_held(&one.alias)
                && pairs::is_ready(run, one)
        };
        let due = run.attachments.iter().find(is_due);
        let due = due.map(|one| one.alias.clone());
        if due.is_none() {
            self.vf_may_be_free = false;
        }
        due
    }

    /// Plugs the VF half of a pair in.
    fn promote(&mut self, alias: String, reply: Option<Reply>) {
        let Some(run) = self.state.run.clone() else {
            return;
        };
        self.is_vf_freed = false;
        let (daemon, handle) = (Arc::clone(&self.daemon), Arc::clone(&self.handle));
        self.begin(Job::Plug, reply, |cancel, progress| {
            tokio::spawn(async move {
                let plug = Plug {
                    daemon: &daemon,
                    handle: &handle,
                    run: &run,
                    cancel: &cancel,
                    progress: &progress,
                };
                let what = What::Primary(alias.clone());
                Done::Plugged(Box::new(plug.carry_out(&what).await), Some(alias))
            })
        });
    }

    fn promote_by_hand(&mut self, alias: String, reply: Reply) {
        let Some(run) = self.state.run.clone() else {
            return;
        };
        let its = attachment::by_alias(&run.attachments, &alias);
        let Some(primary) = its.filter(|one| one.role == Role::Primary) else {
            let error = pairs::no_pair(&self.handle.name, &alias);
            return self.answers.push((reply, Err(error)));
        };
        let refused = match primary.state {
            AttachmentState::Plugged | AttachmentState::Lent => {
                return self.answers.push((reply, Ok(())));
            }
            state if state.is_leaving() => Some(unplug::in_progress(&self.handle.name, &alias)),
            _ if !pairs::is_ready(&run, primary) => {
                let detail = format!(
                    "guest '{}' has not negotiated failover, so that QEMU would keep the VF of '{alias}' \
                     from it\nIts virtio driver has to offer VIRTIO_NET_F_STANDBY: Linux has it since \
                     4.18 (CONFIG_NET_FAILOVER). If it is just starting up the VF comes by itself.",
                    self.handle.name
                );
                Some(Error::new(Code::OperationInvalid, QEMU, detail))
            }
            _ => None,
        };
        match refused {
            Some(error) => self.answers.push((reply, Err(error))),
            None => self.promote(alias, Some(reply)),
        }
    }

    /// Takes the VF half of a pair out of the guest. `how`: it gets none from now on, or is owed another.
    fn demote(&mut self, alias: String, how: AttachmentState, reply: Reply) {
        let Some(run) = self.state.run.clone() else {
            return;
        };
        let its = attachment::by_alias(&run.attachments, &alias);
        let Some(primary) = its.filter(|one| one.role == Role::Primary) else {
            let error = pairs::no_pair(&self.handle.name, &alias);
            return self.answers.push((reply, Err(error)));
        };
        if self.unplugging.iter().any(|one| one.alias == alias) {
            let error = unplug::in_progress(&self.handle.name, &alias);
            return self.answers.push((reply, Err(error)));
        }
        let recalled = how == AttachmentState::Recalled;
        match primary.state {
            AttachmentState::Demoted => self.answers.push((reply, Ok(()))),
            AttachmentState::Owed(Creditor::Guest) if recalled => {
                self.answers.push((reply, Ok(())));
            }
            // It is to leave the document, too.
            AttachmentState::Unplugging => {
                let error = unplug::in_progress(&self.handle.name, &alias);
                self.answers.push((reply, Err(error)));
            }
            AttachmentState::Planned | AttachmentState::Owed(_) => {
                let (daemon, handle) = (Arc::clone(&self.daemon), Arc::clone(&self.handle));
                self.begin(Job::Plug, Some(reply), |_, _| {
                    tokio::spawn(async move {
                        let state = pairs::after(how);
                        let dropped =
                            follow::drop_reserved(&daemon, &handle, &run, &alias, state).await;
                        Done::Followed(Box::new(dropped))
                    })
                });
            }
            _ => {
                let live = Affected {
                    live: true,
                    config: false,
                };
                let meant = Meant::Alias(alias.clone());
                let asked = match primary.state {
                    AttachmentState::Demoting => AttachmentState::Demoting,
                    _ => how,
                };
                self.ask_back(&run, alias, Some(reply), (true, asked), live, meant);
            }
        }
    }

    fn plugged(&mut self, plugged: Plugged, primary: Option<String>, reply: Option<Reply>) {
        let Plugged {
            attachments,
            domain,
            config,
            result,
            is_unclear,
            is_none_free,
        } = plugged;
        if let Some(run) = &mut self.state.run {
            let run = Arc::make_mut(run);
            (run.attachments, run.domain) = (attachments, domain);
        }
        if is_unclear {
            self.is_stocked = false;
        }
        self.give_time_to_join();
        // A VF that got free before it was known who waits for it was nobody's.
        self.vf_may_be_free = true;
        let is_defined = config.is_some();
        if let Some(config) = config {
            self.state.defined = Some(config);
        }
        if let Err(error) = &result {
            tracing::info!(guest = self.handle.name, %error, "a device is not plugged in");
            match primary {
                Some(_) if is_none_free && self.is_vf_freed => {}
                Some(alias) if is_none_free => drop(self.held_back.insert(alias)),
                Some(alias) => self.hold(alias),
                None => {}
            }
            self.promise_again();
        } else if let Some(alias) = primary {
            self.held.forget(&alias);
        }
        self.publish();
        if is_defined {
            self.tell(DomainChange::DefinedUpdated);
        }
        let result = result.map(|aliases| {
            for alias in aliases {
                tracing::info!(guest = self.handle.name, device = alias, "plugged in");
                // QEMU tells of a filter's change only after it was asked.
                self.filters.insert(alias.clone());
                self.tell_added(alias);
            }
        });
        self.answers.extend(reply.map(|reply| (reply, result)));
    }

    /// A VF can't be plugged in now: meanwhile it is for who waits next.
    fn hold(&mut self, alias: String) {
        let its = self.state.run.clone().and_then(|run| {
            let its = attachment::by_alias(&run.attachments, &alias)?;
            pairs::pf_of(&self.daemon, &run, its)
        });
        self.held.hold(alias);
        self.publish();
        if let Some(pf) = its {
            self.daemon.lender.look_again(pf.address);
        }
    }

    /// VFs that the guest waits for are promised, in the order in which they first were.
    fn promise_again(&self) {
        let Some(run) = &self.state.run else {
            return;
        };
        for one in &run.attachments {
            if one.state == AttachmentState::Owed(Creditor::Guest) {
                pairs::promise(&self.daemon, &self.handle, run, one);
            }
        }
    }

    fn detach(
        &mut self,
        affected: Affected,
        meant: Meant,
        (waits, as_pair): (bool, bool),
        reply: Reply,
    ) {
        if !affected.live {
            let edit = hotplug::removal(meant);
            return self.change(affected, &edit, reply);
        }
        match self.detachable(&meant, affected, as_pair) {
            Ok((run, alias)) => {
                let how = (waits, AttachmentState::Unplugging);
                self.ask_back(&run, alias, Some(reply), how, affected, meant);
            }
            Err(error) => self.answers.push((reply, Err(error))),
        }
    }

    /// What a running guest is to be asked for, if all that was asked can be done.
    fn detachable(
        &self,
        meant: &Meant,
        affected: Affected,
        as_pair: bool,
    ) -> Result<(Arc<Run>, String)> {
        let Some(run) = self.state.run.clone() else {
            return Err(self.handle.not_running());
        };
        let alias = unplug::alias_of(&run, meant.find(&run.domain)?, as_pair)?;
        if self.unplugging.iter().any(|one| one.alias == alias) {
            return Err(unplug::in_progress(&self.handle.name, &alias));
        }
        if affected.config
            && let Some(defined) = &self.state.defined
        {
            meant.find(defined)?;
        }
        Ok((run, alias))
    }

    fn ask_back(
        &mut self,
        run: &Arc<Run>,
        alias: String,
        reply: Option<Reply>,
        (waits, state): (bool, AttachmentState),
        affected: Affected,
        meant: Meant,
    ) {
        let config = Some(meant).filter(|_| affected.config);
        let (daemon, handle) = (Arc::clone(&self.daemon), Arc::clone(&self.handle));
        let run = Arc::clone(run);
        self.begin(Job::Plug, reply, |_, _| {
            tokio::spawn(async move {
                let asked = unplug::ask(&daemon, &handle, &run, alias, state).await;
                Done::Asked(Box::new(asked), waits, config)
            })
        });
    }

    fn asked(&mut self, asked: Asked, waits: bool, config: Option<Meant>, reply: Option<Reply>) {
        let Asked {
            attachments,
            alias,
            result,
        } = asked;
        if let Some(run) = &mut self.state.run {
            Arc::make_mut(run).attachments = attachments;
        }
        self.publish();
        let guest = &self.handle.name;
        match result {
            Ok(Answer::InProgress) => {
                let error = unplug::in_progress(guest, &alias);
                self.answers.extend(reply.map(|reply| (reply, Err(error))));
            }
            Ok(answer) => {
                tracing::info!(guest, device = alias, "asked to let it go");
                if answer == Answer::Gone {
                    self.deleted.insert(alias.clone());
                }
                let now = Instant::now();
                self.unplugging.push_back(unplug::Waiting {
                    alias,
                    until: if waits { now + unplug::PATIENCE } else { now },
                    reply,
                    config,
                });
                // The first one's time comes first.
                self.unplugging
                    .make_contiguous()
                    .sort_by_key(|one| one.until);
            }
            Err(error) => self.answers.extend(reply.map(|reply| (reply, Err(error)))),
        }
    }

    /// The first client that waits for a device has waited long enough: what it asked for goes on.
    fn waited(&mut self) {
        if let Some(first) = self.unplugging.pop_front() {
            let guest = &self.handle.name;
            tracing::info!(
                guest,
                device = first.alias,
                "the guest has not let it go yet"
            );
            self.let_go(first);
        }
    }

    /// A device is out of the guest, or as good as that for whoever asked.
    fn let_go(&mut self, waiting: unplug::Waiting) {
        match (waiting.config, waiting.reply) {
            (Some(meant), Some(reply)) => {
                let request = hotplug::remove_from_definition(meant);
                self.waiting.push_back((request, reply));
            }
            (_, reply) => self.answers.extend(reply.map(|reply| (reply, Ok(())))),
        }
    }

    /// Those who wait for a device, which are told what became of it.
    fn waiting_for(&mut self, alias: &str) -> VecDeque<unplug::Waiting> {
        let all = std::mem::take(&mut self.unplugging).into_iter();
        let (its, others) = all.partition(|one| one.alias == alias);
        self.unplugging = others;
        its
    }

    /// Takes a change of what runs back. Its client gets its error then, whatever comes of it.
    fn revert(&mut self, revert: Revert) {
        let Some(run) = self.state.run.clone() else {
            return;
        };
        let (daemon, handle) = (Arc::clone(&self.daemon), Arc::clone(&self.handle));
        let Revert {
            change,
            error,
            reply,
        } = revert;
        let old = change.reverted(&run.domain);
        self.begin(Job::Control, reply, |_, _| {
            tokio::spawn(async move {
                let now = run.domain.clone();
                let changed =
                    change::follow(&daemon, &handle, &run, now, old, Direction::Back).await;
                Done::Reverted(changed.map(Box::new), error)
            })
        });
    }

    fn follow(&mut self) {
        let Some(run) = self.state.run.clone() else {
            return;
        };
        let (daemon, handle) = (Arc::clone(&self.daemon), Arc::clone(&self.handle));
        let deleted = std::mem::take(&mut self.deleted);
        let filters = std::mem::take(&mut self.filters);
        let news = follow::News {
            deleted,
            refused: std::mem::take(&mut self.refused),
            filters,
        };
        self.begin(Job::Follow, None, |_, _| {
            tokio::spawn(async move {
                Done::Followed(Box::new(follow::follow(&daemon, &handle, &run, news).await))
            })
        });
    }

    /// What a start left is still there to be ended.
    fn preempt(&mut self, reply: Reply) {
        if let Some(job) = &mut self.job {
            job.cancel.cancel();
            job.stops.push(reply);
        }
    }

    /// Ends the guest's process, beside whatever is under way.
    pub(super) fn end(&mut self, gracefully: bool, reply: Option<Reply>) {
        let from = self.state.life;
        let ending = self.ending.get_or_insert(Ending {
            gracefully: true,
            kill: None,
            exit: None,
            replies: Vec::new(),
            from,
        });
        ending.replies.extend(reply);
        self.state.life = Life::Ending;
        // Who may use force goes past who may not.
        let is_wanted = ending.kill.is_none() || (ending.gracefully && !gracefully);
        if ending.exit.is_some() || !is_wanted {
            return;
        }
        ending.gracefully = gracefully;
        if let Some(run) = self.state.run.clone() {
            ending.kill = Some(tokio::spawn(
                async move { end::kill(&run, gracefully).await },
            ));
        }
        // A monitor that does not answer is not waited for any more.
        if let Some(job) = &self.job {
            job.cancel.cancel();
        }
    }

    /// Its process is gone, whoever brought that about.
    pub(super) fn is_gone(&mut self, exit: Exit) {
        if self.state.run.is_none() {
            return;
        }
        let from = self.state.life;
        let ending = self.ending.get_or_insert(Ending {
            gracefully: false,
            kill: None,
            exit: None,
            replies: Vec::new(),
            from,
        });
        ending.exit.get_or_insert(exit);
        self.state.life = Life::Ending;
    }

    fn clean_up(&mut self, exit: Exit) {
        let attachments = match &self.state.run {
            Some(run) => run.attachments.clone(),
            None => Vec::new(),
        };
        let (daemon, handle) = (Arc::clone(&self.daemon), Arc::clone(&self.handle));
        self.begin(Job::CleanUp, None, |_, _| {
            tokio::spawn(async move {
                // What fails is logged, and the device kept out of its pool.
                end::give_all_back(&daemon, &handle, &attachments).await;
                Done::CleanedUp(exit)
            })
        });
    }

    /// Writes the definition, or removes it.
    pub(super) fn write(&mut self, what: WriteWhat, reply: Option<Reply>) {
        self.writing = Some(Write::begin(&self.daemon, &self.handle, what, reply, None));
    }

    fn job_done(&mut self, done: std::result::Result<Done, JoinError>) {
        let Some(Current {
            kind,
            reply,
            stops,
            progress,
            ..
        }) = self.job.take()
        else {
            return;
        };
        let done = match done {
            Ok(done) => done,
            Err(error) => return self.job_broke(&error, kind, reply, stops, &progress),
        };
        match done {
            Done::Started(started) => self.started(*started, reply, stops),
            Done::Stocked(stock) => self.stocked(stock),
            Done::Controlled(controlled) => {
                let result = controlled.map(|control::Controlled { resumed }| {
                    if resumed && let Some(run) = &mut self.state.run {
                        Arc::make_mut(run).resumed = true;
                    }
                });
                self.answers.extend(reply.map(|reply| (reply, result)));
            }
            Done::Changed(Ok(change), what) => {
                if let Some(run) = &mut self.state.run {
                    change.apply_to(Arc::make_mut(run));
                }
                match what {
                    None => self.answers.extend(reply.map(|reply| (reply, Ok(())))),
                    Some(what) => {
                        let write =
                            Write::begin(&self.daemon, &self.handle, what, reply, Some(change));
                        self.writing = Some(write);
                    }
                }
            }
            Done::Changed(Err(error), _) => {
                self.answers.extend(reply.map(|reply| (reply, Err(error))));
            }
            Done::Reverted(reverted, error) => {
                match (reverted, &mut self.state.run) {
                    (Ok(change), Some(run)) => change.apply_to(Arc::make_mut(run)),
                    (Ok(_), None) => {}
                    (Err(error), _) => {
                        tracing::error!(guest = self.handle.name, %error, "a change is not undone");
                    }
                }
                self.answers.extend(reply.map(|reply| (reply, Err(error))));
            }
            Done::Plugged(plugged, primary) => self.plugged(*plugged, primary, reply),
            Done::Asked(asked, waits, config) => self.asked(*asked, waits, config, reply),
            Done::Followed(followed) => {
                self.followed(*followed);
                self.answers.extend(reply.map(|reply| (reply, Ok(()))));
            }
            Done::CleanedUp(exit) => self.cleaned_up(exit),
        }
    }

    fn started(
        &mut self,
        started: std::result::Result<Started, start::Failed>,
        reply: Option<Reply>,
        stops: Vec<Reply>,
    ) {
        self.state.starting = None;
        match started {
            Ok(Started {
                run,
                events,
                resumed_here,
                paused,
            }) => {
                tracing::info!(guest = self.handle.name, id = run.id, "started");
                let is_orphan = (run.autodestroy)
                    .is_some_and(|connection| !self.daemon.is_connected(connection));
                self.state.life = Life::Running;
                let owed = owed_aliases(&run);
                self.state.run = Some(Arc::new(run));
                self.events = Some(events);
                self.is_stocked = true;
                self.is_told = resumed_here;
                self.give_time_to_join();
                self.vf_may_be_free = true;
                // All of them, once: QEMU tells of changes only after it was asked.
                self.filters.insert(follow::ALL.to_owned());
                self.publish();
                if !paused {
                    self.tell(DomainChange::ResumedUnpaused);
                }
                self.tell(DomainChange::StartedBooted);
                if paused {
                    self.tell(DomainChange::SuspendedPaused);
                }
                for alias in owed {
                    tracing::warn!(
                        guest = self.handle.name,
                        device = alias,
                        "no VF is free: the guest runs on the other half, and gets the next one"
                    );
                    self.tell_removed(alias);
                }
                self.answers.extend(reply.map(|reply| (reply, Ok(()))));
                let is_unwanted = !stops.is_empty() || is_orphan;
                for stop in stops {
                    self.end(false, Some(stop));
                }
                if is_unwanted {
                    self.end(false, None);
                }
            }
            Err(start::Failed {
                error,
                was_cancelled,
            }) => {
                self.state.life = Life::Off;
                self.state.stopped = if was_cancelled {
                    StopReason::Destroyed
                } else {
                    StopReason::Failed
                };
                self.answers.extend(reply.map(|reply| (reply, Err(error))));
                self.answers
                    .extend(stops.into_iter().map(|stop| (stop, Ok(()))));
            }
        }
    }

    fn stocked(&mut self, stock: stock::Stock) {
        if self.state.life == Life::Found {
            self.state.life = Life::Running;
            let id = self.state.run.as_ref().map_or(-1, |run| run.id);
            tracing::info!(guest = self.handle.name, id, "its monitor answers");
        }
        if let Some(run) = &mut self.state.run {
            let run = Arc::make_mut(run);
            (run.attachments, run.changing) = (stock.attachments, stock.changing);
            run.negotiated = stock.negotiated;
        }
        self.deleted.extend(stock.lost);
        self.vf_may_be_free = true;
        self.give_time_to_join();
        self.promise_again();
        // All of them: asking is what has QEMU tell of the next change.
        self.filters.insert(follow::ALL.to_owned());
    }

    fn followed(&mut self, followed: follow::Followed) {
        let owes = |attachments: &[Attachment]| {
            let is_owed = |one: &Attachment| one.state == AttachmentState::Owed(Creditor::Host);
            attachments.iter().any(is_owed)
        };
        if let Some(run) = &mut self.state.run {
            if owes(&followed.attachments) {
                let wait = self
                    .retry
                    .map_or(FIRST_RETRY, |(_, wait)| (wait * 2).min(LAST_RETRY));
                self.retry = Some((Instant::now() + wait, wait));
            } else {
                self.retry = None;
            }
            let run = Arc::make_mut(run);
            run.attachments = followed.attachments;
            run.domain = followed.domain;
            self.vf_may_be_free = true;
        }
        self.publish();
        for alias in followed.removed {
            for waiting in self.waiting_for(&alias) {
                self.let_go(waiting);
            }
            self.tell_removed(alias);
        }
        for alias in followed.refused {
            let waiting = self.waiting_for(&alias);
            for reply in waiting.into_iter().filter_map(|one| one.reply) {
                let error = unplug::refused(&self.handle.name, &alias);
                self.answers.push((reply, Err(error)));
            }
            self.tell_kept(alias);
        }
    }

    /// Takes back once more what QEMU still held.
    fn ask_again(&mut self) {
        if let Some((_, wait)) = self.retry {
            self.retry = Some((Instant::now() + LAST_RETRY, wait));
        }
        self.deleted.insert(follow::OWED.to_owned());
    }

    fn cleaned_up(&mut self, exit: Exit) {
        let (reason, change) = match exit.reason {
            ExitReason::Shutdown { .. } => (StopReason::Shutdown, DomainChange::StoppedShutdown),
            ExitReason::Destroyed => (StopReason::Destroyed, DomainChange::StoppedDestroyed),
            ExitReason::Crashed => (StopReason::Crashed, DomainChange::StoppedCrashed),
            ExitReason::Died => (StopReason::Crashed, DomainChange::StoppedFailed),
        };
        match exit.status {
            Some(status) => tracing::info!(guest = self.handle.name, ?reason, %status, "stopped"),
            None => tracing::info!(guest = self.handle.name, ?reason, "stopped"),
        }
        self.state.run = None;
        self.state.life = Life::Off;
        self.state.stopped = reason;
        self.events = None;
        (self.retry, self.joins_by) = (None, None);
        self.deleted.clear();
        self.filters.clear();
        self.refused.clear();
        self.held_back.clear();
        self.held.clear();
        for waiting in std::mem::take(&mut self.unplugging) {
            let error = unplug::ended(&self.handle.name);
            let reply = waiting.reply;
            self.answers.extend(reply.map(|reply| (reply, Err(error))));
        }
        for revert in std::mem::take(&mut self.reverts) {
            let Revert { error, reply, .. } = revert;
            self.answers.extend(reply.map(|reply| (reply, Err(error))));
        }
        let replies = self
            .ending
            .take()
            .map_or_else(Vec::new, |ending| ending.replies);
        self.publish();
        self.tell(change);
        (self.answers).extend(replies.into_iter().map(|reply| (reply, Ok(()))));
    }

    /// A step panicked: what it took of the host is given back as far as it is known.
    fn job_broke(
        &mut self,
        error: &JoinError,
        kind: Job,
        reply: Option<Reply>,
        stops: Vec<Reply>,
        progress: &Mutex<Vec<Attachment>>,
    ) {
        let error = || broke_off(QEMU, error);
        let replies = reply.into_iter().chain(stops);
        self.answers
            .extend(replies.map(|reply| (reply, Err(error()))));
        match kind {
            Job::Start => {
                let attachments = std::mem::take(&mut *lock(progress));
                let (daemon, handle) = (Arc::clone(&self.daemon), Arc::clone(&self.handle));
                let exit = Exit {
                    reason: ExitReason::Died,
                    status: None,
                };
                self.state.life = Life::Ending;
                self.begin(Job::CleanUp, None, |_, _| {
                    tokio::spawn(async move {
                        end::give_all_back(&daemon, &handle, &attachments).await;
                        Done::CleanedUp(exit)
                    })
                });
            }
            Job::CleanUp => {
                // The list has what was not given back; the guest itself is gone.
                self.cleaned_up(Exit {
                    reason: ExitReason::Died,
                    status: None,
                });
            }
            Job::Plug => {
                // What it took stays until it is known whether QEMU has it.
                let taken = std::mem::take(&mut *lock(progress)).into_iter();
                let taken = taken.map(|attachment| Attachment {
                    state: AttachmentState::Unplugging,
                    ..attachment
                });
                if let Some(run) = &mut self.state.run {
                    Arc::make_mut(run).attachments.extend(taken);
                }
                self.is_stocked = false;
            }
            Job::None | Job::TakeStock | Job::Control | Job::Follow => {}
        }
    }

    fn kill_done(&mut self, killed: std::result::Result<Result<Exit>, JoinError>) {
        let Some(ending) = &mut self.ending else {
            return;
        };
        ending.kill = None;
        let error = match killed {
            Ok(Ok(exit)) => {
                ending.exit.get_or_insert(exit);
                return;
            }
            Ok(Err(error)) => error,
            Err(error) => broke_off(QEMU, &error),
        };
        if ending.exit.is_some() {
            return;
        }
        // It is there as before.
        self.state.life = ending.from;
        let replies = std::mem::take(&mut ending.replies).into_iter();
        self.answers
            .extend(replies.map(|reply| (reply, Err(error.clone()))));
        self.ending = None;
    }

    fn write_done(&mut self, written: std::result::Result<Written, JoinError>) {
        let Some(write) = self.writing.take() else {
            return;
        };
        let written = match written {
            Ok(written) => written.map_err(|error| write.error(&self.handle.name, error)),
            Err(error) => Err(broke_off(QEMU, &error)),
        };
        let Write {
            what,
            reply,
            change,
            ..
        } = write;
        match (written, change) {
            (Ok(made), _) => {
                let told = self.wrote(what, made);
                self.publish();
                if let Some(told) = told {
                    self.tell(told);
                }
                self.answers.extend(reply.map(|reply| (reply, Ok(()))));
            }
            (Err(error), Some(change)) if self.state.run.is_some() => {
                self.reverts.push_back(Revert {
                    change,
                    error,
                    reply,
                });
            }
            (Err(error), _) => self.answers.extend(reply.map(|reply| (reply, Err(error)))),
        }
    }

    /// The definition is on the disk.
    fn wrote(&mut self, what: WriteWhat, made: Option<Arc<conf::Domain>>) -> Option<DomainChange> {
        match what {
            WriteWhat::Attach { .. } | WriteWhat::Update { .. } => {
                self.state.defined = made.or(self.state.defined.take());
                Some(DomainChange::DefinedUpdated)
            }
            WriteWhat::Define { domain, .. } => {
                let before = self.state.defined.replace(domain);
                Some(match before {
                    Some(_) => DomainChange::DefinedUpdated,
                    None => DomainChange::DefinedAdded,
                })
            }
            WriteWhat::Keep(domain) => {
                self.state.defined = Some(domain);
                None
            }
            WriteWhat::TakeIn(_, domain) => {
                self.state.defined = Some(domain);
                self.state.autostart = self.daemon.domain_store.autostart(&self.handle.name);
                None
            }
            WriteWhat::Undefine => {
                self.state.defined = None;
                self.state.autostart = false;
                Some(DomainChange::UndefinedRemoved)
            }
            WriteWhat::Autostart(wanted) => {
                self.state.autostart = wanted;
                None
            }
        }
    }

    pub(super) fn publish(&mut self) {
        self.state.held = self.held.aliases();
        self.state.busy = self.job.is_some() || self.ending.is_some();
        self.shown.send_replace(Arc::new(self.state.clone()));
    }

    fn flush(&mut self) {
        for (reply, answer) in self.answers.drain(..) {
            // Who asked may be gone.
            let _ = reply.send(answer);
        }
    }

    fn is_over(&self) -> bool {
        self.state.life == Life::Off
            && self.state.defined.is_none()
            && self.job.is_none()
            && self.ending.is_none()
            && self.writing.is_none()
            && self.waiting.is_empty()
    }
}

/// VFs that the guest runs without for now.
fn owed_aliases(run: &Run) -> Vec<String> {
    let owed = run.attachments.iter().filter(|one| {
        one.role == Role::Primary && one.state == AttachmentState::Owed(Creditor::Guest)
    });
    owed.map(|one| one.alias.clone()).collect()
}

async fn finished(job: &mut Option<Current>) -> std::result::Result<Done, JoinError> {
    match job {
        Some(job) => (&mut job.work).await,
        None => pending().await,
    }
}

async fn killed(ending: &mut Option<Ending>) -> std::result::Result<Result<Exit>, JoinError> {
    match ending.as_mut().and_then(|ending| ending.kill.as_mut()) {
        Some(kill) => kill.await,
        None => pending().await,
    }
}

/// What came of writing a definition.
type Written = std::result::Result<Option<Arc<conf::Domain>>, Unwritten>;

async fn written(writing: &mut Option<Write>) -> std::result::Result<Written, JoinError> {
    match writing {
        Some(write) => (&mut write.work).await,
        None => pending().await,
    }
}

async fn next_event(events: &mut Option<GuestEvents>) -> Option<qemu::GuestEvent> {
    match events {
        Some(events) => events.recv().await,
        None => pending().await,
    }
}

async fn until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => pending().await,
    }
}
