//! The guest's end, in the owner's hands: heard at any time, and beside whatever is under way.

use std::sync::Arc;

use qemu::{Exit, ExitReason};
use rpc::DomainChange;
use tokio::task::JoinError;

use super::{Done, Ending, Owner, Revert};
use crate::blocking::broke_off;
use crate::fault::Result;
use crate::guest::handle::{Reply, StopReason};
use crate::guest::life::{Job, Life};
use crate::guest::{QEMU, end, unplug};

impl Owner {
    /// What a start left is still there to be ended.
    pub(super) fn preempt(&mut self, reply: Reply) {
        if let Some(job) = &mut self.job {
            job.cancel.cancel();
            job.stops.push(reply);
        }
    }

    /// Ends the guest's process, beside whatever is under way.
    pub(in crate::guest) fn end(&mut self, gracefully: bool, reply: Option<Reply>) {
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
    pub(in crate::guest) fn is_gone(&mut self, exit: Exit) {
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

    pub(super) fn clean_up(&mut self, exit: Exit) {
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

    pub(super) fn kill_done(&mut self, killed: std::result::Result<Result<Exit>, JoinError>) {
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
        self.does_not_end(&error);
    }

    pub(super) fn cleaned_up(&mut self, exit: Exit) {
        self.state.arriving = None;
        self.unknown_here = None;
        let left = self.has_left();
        let (reason, change) = match exit.reason {
            _ if left => (StopReason::Migrated, DomainChange::StoppedMigrated),
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
        (self.retry, self.joins_by, self.comes_by) = (None, None, None);
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
        if let Some(moved) = self.state.moved.clone().filter(|_| left) {
            self.tell_moved(&moved);
        }
        (self.answers).extend(replies.into_iter().map(|reply| (reply, Ok(()))));
    }
}
