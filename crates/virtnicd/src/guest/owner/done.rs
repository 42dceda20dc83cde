//! What the owner's steps came to.

use std::sync::{Arc, Mutex};

use lending::{Attachment, AttachmentState, Creditor, Role};
use qemu::{Exit, ExitReason};
use rpc::DomainChange;
use tokio::task::JoinError;
use tokio::time::Instant;

use super::{Current, Done, FIRST_RETRY, LAST_RETRY, Owner, Revert, Written};
use crate::blocking::broke_off;
use crate::guest::definition::{Write, WriteWhat};
use crate::guest::handle::{Reply, Run, StopReason};
use crate::guest::life::{Job, Life};
use crate::guest::start::{self, Started};
use crate::guest::{QEMU, control, end, follow, stock, unplug};
use crate::sync::lock;

impl Owner {
    pub(super) fn job_done(&mut self, done: std::result::Result<Done, JoinError>) {
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
            Done::Stocked(stock, settled) => self.stocked(stock, settled),
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
            Done::Arrived(arrived) => self.arrived(*arrived, reply),
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
                arrival,
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
                let is_unwanted = !stops.is_empty() || is_orphan;
                if let Some(arrival) = arrival {
                    self.awaited(arrival);
                    self.publish();
                    self.tell(DomainChange::StartedMigrated);
                    self.answers.extend(reply.map(|reply| (reply, Ok(()))));
                    for stop in stops {
                        self.end(false, Some(stop));
                    }
                    return;
                }
                self.give_time_to_join();
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

    fn stocked(&mut self, stock: stock::Stock, settled: bool) {
        if settled {
            self.aftermath = None;
        }
        if self.state.life == Life::Found {
            self.state.life = match self.state.leaving {
                Some(_) => Life::Leaving,
                None => Life::Running,
            };
            let id = self.state.run.as_ref().map_or(-1, |run| run.id);
            tracing::info!(guest = self.handle.name, id, "its monitor answers");
        }
        if let Some(run) = &mut self.state.run {
            let run = Arc::make_mut(run);
            (run.attachments, run.changing) = (stock.attachments, stock.changing);
            run.negotiated = stock.negotiated;
        }
        self.deleted.extend(stock.lost);
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
            self.vf_stays(&alias, &unplug::refused(&self.handle.name, &alias));
            for reply in waiting.into_iter().filter_map(|one| one.reply) {
                let error = unplug::refused(&self.handle.name, &alias);
                self.answers.push((reply, Err(error)));
            }
            self.tell_kept(alias);
        }
    }

    /// Takes back once more what QEMU still held.
    pub(super) fn ask_again(&mut self) {
        if let Some((_, wait)) = self.retry {
            self.retry = Some((Instant::now() + LAST_RETRY, wait));
        }
        self.deleted.insert(follow::OWED.to_owned());
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
            // Nobody was told that it is here.
            Job::Arrive => self.end(false, None),
            Job::None | Job::TakeStock | Job::Control | Job::Follow => {}
        }
    }

    pub(super) fn write_done(&mut self, written: std::result::Result<Written, JoinError>) {
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
                self.may_be_forgotten();
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
            (Err(error), _) => {
                self.may_be_forgotten();
                self.answers.extend(reply.map(|reply| (reply, Err(error))));
            }
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
}

/// VFs that the guest runs without for now.
fn owed_aliases(run: &Run) -> Vec<String> {
    let owed = run.attachments.iter().filter(|one| {
        one.role == Role::Primary && one.state == AttachmentState::Owed(Creditor::Guest)
    });
    owed.map(|one| one.alias.clone()).collect()
}
