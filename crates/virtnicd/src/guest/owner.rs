//! The one task that owns a guest: what is asked, what QEMU tells and what its own steps report meet
//! here, one after the other. Long steps run beside it, so that it always hears.

use std::collections::{BTreeSet, VecDeque};
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lending::Attachment;
use qemu::{Exit, GuestEvents};
use rpc::{Code, Error};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;

use super::cancel::Cancel;
use super::change::{self, Direction, LiveChange};
use super::definition::{Unwritten, Write, WriteWhat};
use super::handle::{GuestHandle, Message, Reply, Request, Run, StopReason, View};
use super::held::Held;
use super::hotplug::Meant;
use super::life::{Admission, Job, Kind, Life, Writing, admit};
use super::moving::{Aftermath, ArrivalWish, Departure};
use super::plug::Plugged;
use super::start::{StartWish, Started};
use super::unplug::{self, Asked};
use super::{QEMU, arrive, control, follow, leave, start, stock, update_device};
use crate::affect::Affected;
use crate::daemon::Daemon;
use crate::fault::Result;

mod arriving;
mod devices;
mod done;
mod ending;
mod leaving;
mod packing;
mod primaries;
mod requests;

use arriving::UnknownHere;
use leaving::{Leaving, stepped};

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
    leaving: Leaving,
    /// Until when it has time to come from another host.
    comes_by: Option<Instant>,
    /// It came from another host, and its client does not know that yet.
    unknown_here: Option<UnknownHere>,
    /// An earlier daemon was moving it.
    aftermath: Option<Aftermath>,
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
    /// Whether what an earlier daemon did of a move is settled, too.
    Stocked(stock::Stock, bool),
    Controlled(Result<control::Controlled>),
    Changed(Result<Box<LiveChange>>, Option<WriteWhat>),
    /// What could not be kept is taken back; the error is what its client gets.
    Reverted(Result<Box<LiveChange>>, Error),
    /// Of a VF that was plugged in unasked, its alias.
    Plugged(Box<Plugged>, Option<String>),
    /// A device was asked back; how, and what its definition is to lose then.
    Asked(Box<Asked>, bool, Option<Meant>),
    Followed(Box<follow::Followed>),
    /// It has come in, or failed to.
    Arrived(Box<Result<arrive::Arrived>>),
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
    spawn(daemon, name, uuid, Life::Off, None, None)
}

/// A guest that an earlier daemon started, whose monitor has not answered yet.
pub(super) fn make_found(
    daemon: &Arc<Daemon>,
    name: &str,
    uuid: conf::Uuid,
    run: Run,
    events: GuestEvents,
    aftermath: Option<Aftermath>,
) -> Arc<GuestHandle> {
    let found = Some((run, events));
    spawn(daemon, name, uuid, Life::Found, found, aftermath)
}

fn spawn(
    daemon: &Arc<Daemon>,
    name: &str,
    uuid: conf::Uuid,
    life: Life,
    running: Option<(Run, GuestEvents)>,
    aftermath: Option<Aftermath>,
) -> Arc<GuestHandle> {
    let (run, events) = running.unzip();
    let state = View {
        life,
        busy: false,
        defined: None,
        autostart: false,
        starting: None,
        run: run.map(Arc::new),
        leaving: match aftermath {
            Some(Aftermath::Unknown { id, was_running }) => {
                Some(Departure::unknown(id, was_running))
            }
            _ => None,
        },
        arriving: None,
        bandwidth: 0,
        downtime: None,
        moved: None,
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
        leaving: Leaving::default(),
        comes_by: None,
        unknown_here: None,
        aftermath,
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
            let unplug_by = self.leaving.unplug_by();
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
                step = stepped(&mut self.leaving) => self.leaving_stepped(step),
                () = until(self.comes_by) => self.had_time_to_come(),
                () = until(unplug_by) => self.kept_vfs(),
                () = until(self.retry.map(|(when, _)| when)) => self.ask_again(),
                () = until(self.joins_by) => self.had_time_to_join(),
                () = until(self.held.next()) => self.held.release(),
                () = until(self.unplugging.front().map(|first| first.until)) => self.waited(),
                // What is under way goes on, and the records tell the next daemon of it.
                () = &mut stopped => {
                    if let Some(job) = self.job.as_ref().filter(|job| job.kind == Job::Arrive) {
                        // Its client is told that it does not come.
                        job.cancel.cancel();
                    }
                    return self.handle.stop_asking();
                }
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
            Message::Departing(what, reply) => self.hear_departing(what, reply),
            Message::ToldArrived {
                connection,
                is_known,
            } => self.told_arrived(connection, is_known),
            Message::ComesNot { connection, reply } => self.hear_comes_not(connection, reply),
            Message::VfFree => {
                self.held_back.clear();
                self.is_vf_freed = true;
            }
            Message::ClientGone(connection) => {
                self.mover_gone(connection);
                self.bringer_gone(connection);
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
            } else if !self.is_stocked
                && matches!(self.state.life, Life::Found | Life::Running | Life::Leaving)
            {
                self.take_stock();
            } else if matches!(self.state.life, Life::Running | Life::Leaving) {
                if let Some(revert) = self.reverts.pop_front() {
                    self.revert(revert);
                } else if !(self.deleted.is_empty()
                    && self.filters.is_empty()
                    && self.refused.is_empty())
                {
                    self.follow();
                } else if self.state.life == Life::Leaving {
                    self.part_with_vfs();
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
                Kind::Start | Kind::Hold | Kind::Suspend | Kind::Control => (true, false),
                Kind::ControlAndWrite | Kind::Finish | Kind::Pack => (true, true),
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
                    let error = self.refusal(admission);
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
        (paused, autodestroy): (bool, Option<u64>),
        arrival: Option<Box<ArrivalWish>>,
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
            arrival,
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
        let aftermath = self.aftermath;
        self.begin(Job::TakeStock, None, |_, _| {
            tokio::spawn(async move {
                let settled = match aftermath {
                    Some(aftermath) => leave::settle(&daemon, &handle, &run, aftermath).await,
                    None => true,
                };
                Done::Stocked(stock::take(&daemon, &handle, &run).await, settled)
            })
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
                        let on = Direction::On { force: false };
                        let changed = change::follow(&daemon, &handle, &run, old, new, on).await;
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

    fn update(&mut self, affected: Affected, device: Arc<conf::Device>, force: bool, reply: Reply) {
        let defined = (self.state.defined.clone()).filter(|_| affected.config);
        match (self.state.run.clone().filter(|_| affected.live), defined) {
            (Some(run), defined) => {
                let will_write = defined.is_some();
                let (daemon, handle) = (Arc::clone(&self.daemon), Arc::clone(&self.handle));
                self.begin(Job::Control, Some(reply), |_, _| {
                    tokio::spawn(async move {
                        let wanted = (device, Direction::On { force });
                        update_device::carry_out(&daemon, &handle, &run, defined, wanted).await
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

    /// Writes the definition, or removes it.
    pub(super) fn write(&mut self, what: WriteWhat, reply: Option<Reply>) {
        self.writing = Some(Write::begin(&self.daemon, &self.handle, what, reply, None));
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
