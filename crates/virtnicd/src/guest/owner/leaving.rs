//! The guest's way to another host, in the owner's hands.

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;

use conf::Uuid;
use lending::AttachmentState;
use qemu::{GuestState, MigrationInfo};
use rpc::{Code, Error};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;

use super::Owner;
use crate::affect::Affected;
use crate::blocking::broke_off;
use crate::fault::{self, Result};
use crate::guest::cancel::Cancel;
use crate::guest::handle::{Reply, Request};
use crate::guest::hotplug::Meant;
use crate::guest::life::Life;
use crate::guest::moving::{
    Aftermath, Departing, Departure, HoldWish, MoveRecord, Moved, Phase, SendWish, Step,
    called_off, no_job,
};
use crate::guest::{QEMU, control, leave, pairs};
use crate::migration::movable;

/// What belongs to a departure besides what is shown of it.
#[derive(Default)]
pub(super) struct Leaving {
    work: Option<JoinHandle<Outcome>>,
    cancel: Option<Cancel>,
    wish: Option<SendWish>,
    /// Who waits until it is sent.
    reply: Option<Reply>,
    /// Who called it off, and waits until it is back.
    back: Vec<Reply>,
    /// VFs that it was asked for.
    asked: BTreeSet<String>,
    /// Until when it has time to let them go.
    unplug_by: Option<Instant>,
    /// The definition when its document was handed out.
    definition: Option<Arc<conf::Domain>>,
    /// That goes from here, too.
    undefine: bool,
    /// Who waits for its end here.
    confirm: Option<Reply>,
}

/// What a step came to.
enum Outcome {
    Sent(Result<MigrationInfo>),
    Left,
    Back(Result<()>),
}

/// Waits for the step that is under way.
pub(super) async fn stepped(leaving: &mut Leaving) -> std::result::Result<LeavingStep, JoinError> {
    match &mut leaving.work {
        Some(work) => work.await.map(LeavingStep),
        None => pending().await,
    }
}

/// See [`Outcome`].
pub(super) struct LeavingStep(Outcome);

impl Leaving {
    /// Until when the guest has time to let its VFs go.
    pub(super) fn unplug_by(&self) -> Option<Instant> {
        self.unplug_by
    }
}

impl Owner {
    /// Holds the guest for a client that is about to move it.
    pub(super) fn hold_to_move(&mut self, wish: HoldWish, reply: Reply) {
        let answer = self.holdable(wish);
        if answer.is_ok() {
            self.state.life = Life::Leaving;
            self.state.leaving = Some(Departure {
                id: wish.id,
                phase: Phase::Held,
                connection: Some(wish.connection),
                since: std::time::Instant::now(),
                was_running: self.runs(),
                sent: None,
            });
            self.leaving = Leaving {
                definition: self.state.defined.clone(),
                ..Leaving::default()
            };
        }
        self.answers.push((reply, answer));
    }

    /// Whether its virtual CPUs run.
    fn runs(&self) -> bool {
        let run = self.state.run.as_ref();
        run.is_some_and(|run| run.machine.state() == GuestState::Running)
    }

    fn holdable(&self, wish: HoldWish) -> Result<()> {
        let Some(run) = &self.state.run else {
            return Err(self.handle.not_running());
        };
        if !self.daemon.is_connected(wish.connection) {
            return Err(called_off());
        }
        movable::check(run)
    }

    /// What is said of the guest on its way out; heard at any time.
    pub(super) fn hear_departing(&mut self, what: Departing, reply: Reply) {
        if let Departing::Bandwidth(_) | Departing::Downtime(_) = what {
            return self.set_limit(&what, reply);
        }
        let Some(leaving) = &self.state.leaving else {
            let error = match what {
                // It is where it would be brought.
                Departing::CallOff { .. } => return self.answers.push((reply, Ok(()))),
                _ => no_job(&self.handle.name),
            };
            return self.answers.push((reply, Err(error)));
        };
        let (phase, id) = (leaving.phase, leaving.id);
        let is_another = |other: Uuid| other != id;
        match what {
            Departing::Send(wish)
                if is_another(wish.id)
                    || phase != Phase::Held
                    || self.state.life == Life::Packed =>
            {
                let detail = format!(
                    "guest '{}' is not held for this client: begin anew",
                    self.handle.name
                );
                self.answers
                    .push((reply, Err(fault::invalid(QEMU, detail))));
            }
            Departing::Send(wish) => self.depart(wish, reply),
            // Heard above.
            Departing::Bandwidth(_) | Departing::Downtime(_) => {
                self.answers.push((reply, Ok(())));
            }
            Departing::Abort => {
                let answer = self.abort();
                self.answers.push((reply, answer));
            }
            Departing::Confirm { id, undefine }
                if !is_another(id) && phase == Phase::Held && self.state.life == Life::Packed =>
            {
                self.is_unpacked_there(undefine, reply);
            }
            Departing::Confirm { id, .. } if is_another(id) || phase != Phase::Sent => {
                let detail = format!(
                    "guest '{}' was not sent by this client: it stays as it is",
                    self.handle.name
                );
                self.answers
                    .push((reply, Err(fault::invalid(QEMU, detail))));
            }
            Departing::Confirm { undefine, .. } => self.leave(undefine, reply),
            Departing::Unknown => {
                if phase == Phase::Sent {
                    if let Some(leaving) = &mut self.state.leaving {
                        leaving.connection = None;
                    }
                } else {
                    // It can't be there yet; one that has left ends here in any case.
                    let _ = self.abort();
                }
                self.answers.push((reply, Ok(())));
            }
            // Somebody else's is not ours to call off.
            Departing::CallOff { id: Some(id), .. } if is_another(id) => {
                self.answers.push((reply, Ok(())));
            }
            Departing::CallOff {
                id: None,
                connection,
            } if leaving.connection != Some(connection) => {
                self.answers.push((reply, Ok(())));
            }
            Departing::CallOff { .. } => self.call_off(Some(reply)),
            Departing::Resolve { here } => {
                let is_unknown = leaving.is_unknown();
                match (is_unknown, here) {
                    (false, _) => {
                        let detail = format!(
                            "guest '{}' is just being moved, and whoever moves it is still there: see 'virsh \
                             domjobinfo', 'virsh domjobabort'",
                            self.handle.name
                        );
                        self.answers
                            .push((reply, Err(fault::invalid(QEMU, detail))));
                    }
                    (true, true) if self.state.life == Life::Found => {
                        let answer = self.stays_as_found();
                        self.answers.push((reply, answer));
                    }
                    (true, true) => self.call_off(Some(reply)),
                    (true, false) => self.leave(false, reply),
                }
            }
        }
    }

    /// Limits what a move of it may take, of one that is under way too.
    fn set_limit(&mut self, limit: &Departing, reply: Reply) {
        match *limit {
            Departing::Bandwidth(bytes) => self.state.bandwidth = bytes,
            Departing::Downtime(limit) => self.state.downtime = Some(limit),
            _ => {}
        }
        let is_sending =
            (self.state.leaving.as_ref()).is_some_and(|leaving| leaving.phase == Phase::Sending);
        let Some(run) = self.state.run.clone().filter(|_| is_sending) else {
            return self.answers.push((reply, Ok(())));
        };
        let (bandwidth, downtime) = (self.state.bandwidth, self.state.downtime);
        tokio::spawn(async move {
            let machine = &run.machine;
            let set = async {
                machine.set_migration_bandwidth(bandwidth).await?;
                match downtime {
                    Some(limit) => machine.set_migration_downtime(limit).await,
                    None => Ok(()),
                }
            };
            // Who asked may be gone.
            let _ = reply.send(set.await.map_err(control::control));
        });
    }

    /// The client that moves the guest is gone.
    pub(super) fn mover_gone(&mut self, connection: u64) {
        let Some(leaving) = &mut self.state.leaving else {
            return;
        };
        if leaving.connection != Some(connection) {
            return;
        }
        leaving.connection = None;
        let guest = &self.handle.name;
        match leaving.phase {
            Phase::Held | Phase::Unplugging | Phase::Sending => {
                tracing::warn!(guest, "who was moving it is gone: it stays here");
                let _ = self.abort();
            }
            Phase::Sent => tracing::error!(
                guest,
                "who moved it is gone, and did not say whether it runs there: it stays here, halted, with all \
                 that it has; virtnic migrate-resolve {guest} --here lets it go on here, --there ends it here"
            ),
            Phase::Left => {}
        }
    }

    /// Ends a departure before it is too late. Returns at once.
    fn abort(&mut self) -> Result<()> {
        let Some(leaving) = &self.state.leaving else {
            return Err(no_job(&self.handle.name));
        };
        match leaving.phase {
            Phase::Held => self.stays(),
            Phase::Unplugging => self.departure_failed(called_off()),
            Phase::Sending => {
                if let Some(cancel) = &self.leaving.cancel {
                    cancel.cancel();
                }
            }
            Phase::Sent | Phase::Left => {
                let detail = format!(
                    "guest '{}' was sent already: whether it stays is up to who moves it",
                    self.handle.name
                );
                return Err(fault::invalid(QEMU, detail));
            }
        }
        Ok(())
    }

    /// A person says that a guest is here whose process stopped as the daemon did that had let it run.
    fn stays_as_found(&mut self) -> Result<()> {
        let Some(run) = &self.state.run else {
            return Err(self.handle.not_running());
        };
        run.machine.thaw().map_err(|error| {
            let detail = format!("guest '{}' does not go on: {error}", self.handle.name);
            Error::new(Code::OperationFailed, QEMU, detail)
        })?;
        // What else there is to do is done when its monitor answers.
        self.aftermath = Some(Aftermath::GoesOn { was_running: true });
        self.stays();
        Ok(())
    }

    /// It stays here, as if nothing had been asked.
    pub(super) fn stays(&mut self) {
        self.state.leaving = None;
        match self.state.life {
            Life::Leaving => self.state.life = Life::Running,
            Life::Packed => self.state.life = Life::Off,
            _ => {}
        }
        let Leaving { reply, back, .. } = std::mem::take(&mut self.leaving);
        self.answers
            .extend(reply.map(|reply| (reply, Err(called_off()))));
        (self.answers).extend(back.into_iter().map(|reply| (reply, Ok(()))));
        // VFs that it let go for that come back.
        self.held_back.clear();
        self.held.clear();
    }

    pub(super) fn departure_failed(&mut self, error: Error) {
        tracing::warn!(guest = self.handle.name, %error, "it stays here");
        let reply = self.leaving.reply.take();
        self.answers.extend(reply.map(|reply| (reply, Err(error))));
        self.stays();
    }

    /// Takes its VFs out, then sends it.
    fn depart(&mut self, wish: SendWish, reply: Reply) {
        let patience = self.daemon.patience.unplug;
        let mut wish = wish;
        match wish.settings.bandwidth {
            0 => wish.settings.bandwidth = self.state.bandwidth,
            bytes => self.state.bandwidth = bytes,
        }
        wish.settings.downtime = self.state.downtime;
        if let Some(leaving) = &mut self.state.leaving {
            leaving.phase = Phase::Unplugging;
            leaving.connection = Some(wish.connection);
        }
        tracing::info!(
            guest = self.handle.name,
            to = wish.uri,
            "leaves for another host"
        );
        self.leaving.wish = Some(wish);
        self.leaving.reply = Some(reply);
        self.leaving.unplug_by = Some(Instant::now() + patience);
    }

    /// Asks for the next VF, or goes on where there is none any more. No step is under way.
    pub(super) fn part_with_vfs(&mut self) {
        let is_parting =
            (self.state.leaving.as_ref()).is_some_and(|leaving| leaving.phase == Phase::Unplugging);
        let Some(run) = self.state.run.clone().filter(|_| is_parting) else {
            return;
        };
        let mut vfs = run
            .attachments
            .iter()
            .filter(|one| pairs::is_plugged_vf(one))
            .peekable();
        if vfs.peek().is_none() {
            return self.send(&run);
        }
        let next = vfs.find(|one| !self.leaving.asked.contains(&one.alias));
        if let Some(alias) = next.map(|one| one.alias.clone()) {
            self.leaving.asked.insert(alias.clone());
            let live = Affected {
                live: true,
                config: false,
            };
            let meant = Meant::Alias(alias.clone());
            let how = (true, AttachmentState::Recalled);
            self.ask_back(&run, alias, None, how, live, meant);
        }
    }

    /// The guest has not let its VFs go in time.
    pub(super) fn kept_vfs(&mut self) {
        self.leaving.unplug_by = None;
        let run = self.state.run.as_ref();
        let mut kept = run.into_iter().flat_map(|run| &run.attachments);
        let kept =
            kept.find(|one| self.leaving.asked.contains(&one.alias) && one.state.is_leaving());
        let alias = kept.map_or_else(String::new, |one| one.alias.clone());
        let detail = format!(
            "guest '{}' has not let its VF '{alias}' go within {} s, so it can't be moved\nIt stays here. If \
             its driver lets the VF go later it gets it back by itself.",
            self.handle.name,
            self.daemon.patience.unplug.as_secs()
        );
        let error = Error::new(Code::OperationTimeout, QEMU, detail);
        self.departure_failed(error);
    }

    /// The guest said no to a VF's going, or QEMU did.
    pub(super) fn vf_stays(&mut self, alias: &str, error: &Error) {
        let is_parting =
            (self.state.leaving.as_ref()).is_some_and(|leaving| leaving.phase == Phase::Unplugging);
        if is_parting && self.leaving.asked.contains(alias) {
            self.departure_failed(error.clone());
        }
    }

    fn send(&mut self, run: &Arc<crate::guest::Run>) {
        let Some(wish) = self.leaving.wish.clone() else {
            return;
        };
        self.leaving.unplug_by = None;
        if let Some(leaving) = &mut self.state.leaving {
            leaving.phase = Phase::Sending;
        }
        let cancel = Cancel::new();
        self.leaving.cancel = Some(cancel.clone());
        let (daemon, handle, run) = (
            Arc::clone(&self.daemon),
            Arc::clone(&self.handle),
            Arc::clone(run),
        );
        let was_running = (self.state.leaving.as_ref()).is_some_and(|leaving| leaving.was_running);
        self.leaving.work = Some(tokio::spawn(async move {
            let wish = (&wish, was_running);
            Outcome::Sent(leave::send(&daemon, &handle, &run, wish, &cancel).await)
        }));
    }

    pub(super) fn leaving_stepped(&mut self, step: std::result::Result<LeavingStep, JoinError>) {
        self.leaving.work = None;
        let outcome = match step {
            Ok(LeavingStep(outcome)) => outcome,
            Err(error) => match self.state.leaving.as_ref().map(|leaving| leaving.phase) {
                Some(Phase::Sending) => Outcome::Sent(Err(broke_off(QEMU, &error))),
                Some(Phase::Left) => Outcome::Left,
                _ => Outcome::Back(Err(broke_off(QEMU, &error))),
            },
        };
        if self.state.leaving.is_none() {
            return;
        }
        match outcome {
            Outcome::Sent(Ok(info)) => self.was_sent(info),
            Outcome::Sent(Err(error)) => {
                self.is_stocked = false;
                self.departure_failed(error);
            }
            Outcome::Left => self.end(false, None),
            Outcome::Back(Ok(())) => {
                tracing::info!(guest = self.handle.name, "it goes on here");
                self.stays();
            }
            Outcome::Back(Err(error)) => {
                tracing::error!(guest = self.handle.name, %error, "it does not go on here");
                let waiting = std::mem::take(&mut self.leaving.back).into_iter();
                let waiting = waiting.chain(self.leaving.reply.take());
                let answers = waiting.map(|reply| (reply, Err(error.clone())));
                self.answers.extend(answers);
                if let Some(leaving) = &mut self.state.leaving {
                    // A person has to see to it.
                    leaving.connection = None;
                }
            }
        }
    }

    fn was_sent(&mut self, info: MigrationInfo) {
        let Some(leaving) = &mut self.state.leaving else {
            return;
        };
        leaving.phase = Phase::Sent;
        leaving.sent = Some(Arc::new(info));
        let is_there = leaving
            .connection
            .is_some_and(|connection| self.daemon.is_connected(connection));
        if !is_there || !self.leaving.back.is_empty() {
            // Nobody was told that it was sent, so it can't run there.
            return self.call_off(None);
        }
        self.publish();
        let reply = self.leaving.reply.take();
        self.answers.extend(reply.map(|reply| (reply, Ok(()))));
    }

    /// It runs there: it ends here, when that is on record.
    fn leave(&mut self, undefine: bool, reply: Reply) {
        let Some(leaving) = &mut self.state.leaving else {
            return self.answers.push((reply, Ok(())));
        };
        leaving.phase = Phase::Left;
        let record = MoveRecord::new(&self.handle, leaving.id, Step::Left);
        self.leaving.undefine = undefine;
        self.leaving.confirm = Some(reply);
        if self.ending.is_some() {
            // It is on its way out by itself.
            return;
        }
        let daemon = Arc::clone(&self.daemon);
        self.leaving.work = Some(tokio::spawn(async move {
            if let Err(error) = daemon.note_move(record).await {
                tracing::warn!(%error, "a daemon that came now would not know that it has left");
            }
            Outcome::Left
        }));
    }

    /// One that has left does not end here: a person has to see to it.
    pub(super) fn does_not_end(&mut self, error: &Error) {
        let Some(leaving) = &mut self.state.leaving else {
            return;
        };
        if leaving.phase == Phase::Left {
            (leaving.phase, leaving.connection) = (Phase::Sent, None);
            let confirm = self.leaving.confirm.take();
            self.answers
                .extend(confirm.map(|reply| (reply, Err(error.clone()))));
        }
    }

    /// It does not run there: it goes on here.
    fn call_off(&mut self, reply: Option<Reply>) {
        let Some(phase) = self.state.leaving.as_ref().map(|leaving| leaving.phase) else {
            return self.answers.extend(reply.map(|reply| (reply, Ok(()))));
        };
        if phase == Phase::Left {
            let error = fault::invalid(QEMU, "it was told to have left already");
            return self.answers.extend(reply.map(|reply| (reply, Err(error))));
        }
        self.leaving.back.extend(reply);
        if phase != Phase::Sent {
            // What was sent already is called off when that is known.
            let _ = self.abort();
            return;
        }
        if self.leaving.work.is_some() {
            return;
        }
        let Some(run) = self.state.run.clone() else {
            return;
        };
        let (daemon, guest) = (Arc::clone(&self.daemon), self.handle.uuid);
        let goes_on = (self.state.leaving.as_ref()).is_some_and(|leaving| leaving.was_running);
        self.leaving.work = Some(tokio::spawn(async move {
            if goes_on && let Err(error) = leave::go_on(&daemon, &run).await {
                return Outcome::Back(Err(error));
            }
            daemon.forget_move(guest).await;
            Outcome::Back(Ok(()))
        }));
    }

    /// What ended has left for another host, if it has: what is to follow, and who waits for that.
    pub(super) fn has_left(&mut self) -> bool {
        let leaving = self.state.leaving.take();
        if let Some(work) = self.leaving.work.take() {
            let (daemon, guest) = (Arc::clone(&self.daemon), self.handle.uuid);
            tokio::spawn(async move {
                // What it still notes is over already.
                let _ = work.await;
                daemon.forget_move(guest).await;
            });
        }
        let Leaving {
            reply,
            back,
            definition,
            undefine,
            confirm,
            ..
        } = std::mem::take(&mut self.leaving);
        let ended = || fault::invalid(QEMU, "the guest ended meanwhile");
        let waiting = reply.into_iter().chain(back);
        self.answers
            .extend(waiting.map(|reply| (reply, Err(ended()))));
        let Some(confirm) = confirm else {
            return false;
        };
        if let Some((since, Some(sent))) = leaving.map(|leaving| (leaving.since, leaving.sent)) {
            let moved = Moved {
                out: true,
                sent: MigrationInfo::clone(&sent),
                took: since.elapsed(),
            };
            self.state.moved = Some(Arc::new(moved));
        }
        let is_same = match (&definition, &self.state.defined) {
            (Some(then), Some(now)) => Arc::ptr_eq(then, now),
            _ => false,
        };
        if undefine && is_same {
            self.waiting.push_back((Request::Undefine, confirm));
        } else {
            if undefine && self.state.defined.is_some() {
                tracing::warn!(
                    guest = self.handle.name,
                    "its definition was changed while it left, and stays"
                );
            }
            self.answers.push((confirm, Ok(())));
        }
        true
    }
}
