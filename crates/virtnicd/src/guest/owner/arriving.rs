//! The guest's way from another host, in the owner's hands.

use std::sync::Arc;
use std::time::Duration;

use qemu::{MigrationStatus, StopsWithUs};
use rpc::{Code, DomainChange, Error};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Done, Owner};
use crate::fault::Result;
use crate::guest::arrive::{self, Arrived};
use crate::guest::handle::{Reply, Request};
use crate::guest::life::{Job, Life};
use crate::guest::moving::{self, Arrival, FinishWish};
use crate::guest::{QEMU, follow};

/// How long a guest may not be on its way, before it begins and after all of it has come.
const COMING: Duration = Duration::from_secs(600);

impl Owner {
    /// Its QEMU waits for it.
    pub(super) fn awaited(&mut self, arrival: Arrival) {
        self.state.life = Life::Arriving;
        let guest = &self.handle.name;
        tracing::info!(
            guest,
            at = arrival.uri,
            "waits for it to come from another host"
        );
        let is_there = self.daemon.is_connected(arrival.connection);
        self.state.arriving = Some(arrival);
        self.comes_by = Some(Instant::now() + COMING);
        if !is_there {
            self.comes_not();
        }
    }

    /// It has had time to come.
    pub(super) fn had_time_to_come(&mut self) {
        self.comes_by = None;
        let Some(run) = self
            .state
            .run
            .as_ref()
            .filter(|_| self.state.life == Life::Arriving)
        else {
            return;
        };
        if matches!(
            run.machine.migration_status(),
            MigrationStatus::Active | MigrationStatus::Switching
        ) {
            // It is coming, however long that takes.
            self.comes_by = Some(Instant::now() + COMING);
        } else if self.job.is_none() {
            let guest = &self.handle.name;
            tracing::warn!(
                guest,
                "it has not come within {} min",
                COMING.as_secs() / 60
            );
            self.end(false, None);
        }
    }

    /// The client that moves the guest is gone: it won't come, unless it is here already.
    pub(super) fn bringer_gone(&mut self, connection: u64) {
        let its = (self.state.arriving.as_ref()).filter(|arrival| arrival.connection == connection);
        if its.is_none() || self.state.life != Life::Arriving {
            return;
        }
        match &self.job {
            // If it is not too late for that.
            Some(job) if job.kind == Job::Arrive => job.cancel.cancel(),
            _ => self.comes_not(),
        }
    }

    /// Its client says that it does not come.
    pub(super) fn hear_comes_not(&mut self, connection: u64, reply: Reply) {
        let its = (self.state.arriving.as_ref()).filter(|arrival| arrival.connection == connection);
        if its.is_some() && matches!(self.state.life, Life::Arriving | Life::Ending) {
            tracing::info!(
                guest = self.handle.name,
                "its client says that it does not come"
            );
            self.end(false, Some(reply));
        } else {
            self.answers.push((reply, Ok(())));
        }
    }

    fn comes_not(&mut self) {
        let guest = &self.handle.name;
        tracing::warn!(guest, "who was moving it here is gone: it does not come");
        self.end(false, None);
    }

    /// Lets it run here.
    pub(super) fn finish(&mut self, wish: FinishWish, reply: Reply) {
        let arrival = self.state.arriving.clone();
        let its = arrival
            .filter(|arrival| (arrival.connection, arrival.id) == (wish.connection, wish.id));
        let (Some(_), Some(run)) = (its, self.state.run.clone()) else {
            let detail = format!(
                "guest '{}' is being moved here by another client",
                self.handle.name
            );
            let error = Error::new(Code::OperationFailed, QEMU, detail);
            return self.answers.push((reply, Err(error)));
        };
        let (daemon, handle) = (Arc::clone(&self.daemon), Arc::clone(&self.handle));
        let before = self.state.defined.clone();
        self.state.moved.clone_from(&wish.moved);
        let will_write = wish.definition.is_some();
        self.begin(Job::Arrive, Some(reply), |cancel, _| {
            tokio::spawn(async move {
                let finished = arrive::finish(&daemon, &handle, &run, before, wish, &cancel);
                Done::Arrived(Box::new(finished.await))
            })
        });
        if let Some(job) = &mut self.job {
            job.will_write = will_write;
        }
    }

    pub(super) fn arrived(&mut self, arrived: Result<Arrived>, reply: Option<Reply>) {
        let Arrived {
            run,
            definition,
            stops_with_us,
        } = match arrived {
            Ok(arrived) if arrived.stops_with_us.is_none() && self.ending.is_some() => {
                // It was never let run, so it can go on where it was.
                let error = moving::comes_not(&self.handle.name);
                self.answers.extend(reply.map(|reply| (reply, Err(error))));
                let before = self.state.defined.clone();
                let was_defined = arrived.definition.map(|written| {
                    self.state.defined = Some(written);
                    before
                });
                return self.undo_definition(was_defined);
            }
            Ok(arrived) => arrived,
            Err(error) => {
                tracing::warn!(guest = self.handle.name, %error, "it does not come");
                self.answers.extend(reply.map(|reply| (reply, Err(error))));
                return self.end(false, None);
            }
        };
        tracing::info!(
            guest = self.handle.name,
            id = run.id,
            "came from another host"
        );
        let before = self.state.defined.clone();
        let defined = definition.map(|definition| {
            self.state.defined = Some(definition);
            match &before {
                Some(_) => DomainChange::DefinedUpdated,
                None => DomainChange::DefinedAdded,
            }
        });
        // It counts as arriving until its client knows.
        let arrival = self.state.arriving.as_ref();
        self.unknown_here = Some(UnknownHere {
            connection: arrival.map(|arrival| arrival.connection),
            was_defined: defined.is_some().then_some(before),
            stops_with_us,
        });
        if self.state.life == Life::Arriving {
            self.state.life = Life::Running;
        }
        if let Some(now) = &mut self.state.run {
            Arc::make_mut(now).arrived = true;
        }
        self.give_time_to_join();
        // All of them, once: QEMU tells of changes only after it was asked.
        self.filters.insert(follow::ALL.to_owned());
        self.publish();
        if let Some(defined) = defined {
            self.tell(defined);
        }
        self.answers.extend(reply.map(|reply| (reply, Ok(()))));
    }

    /// The definition that it got here goes, or what was in its place comes back.
    fn undo_definition(&mut self, was_defined: Option<Option<Arc<conf::Domain>>>) {
        let request = match was_defined {
            Some(Some(before)) => Request::Define(before),
            Some(None) => Request::Undefine,
            None => return,
        };
        // Nobody waits for that.
        let (reply, _) = oneshot::channel();
        self.waiting.push_back((request, reply));
    }

    /// Its client knows that it is here, or is gone and never will.
    pub(super) fn told_arrived(&mut self, connection: u64, is_known: bool) {
        let its = self
            .unknown_here
            .take_if(|here| here.connection == Some(connection));
        let Some(here) = its else {
            return;
        };
        let UnknownHere {
            was_defined,
            stops_with_us,
            ..
        } = here;
        let guest = &self.handle.name;
        if let Some(stops_with_us) = stops_with_us {
            arrive::let_off(stops_with_us, guest);
        }
        if !is_known {
            tracing::warn!(
                guest,
                "who moved it here is gone, and does not know that it came: it ends here"
            );
            self.undo_definition(was_defined);
            return self.end(false, None);
        }
        self.state.arriving = None;
        let (daemon, guest) = (Arc::clone(&self.daemon), self.handle.uuid);
        tokio::spawn(async move { daemon.forget_move(guest).await });
    }
}

/// A guest that runs here, and nobody but us knows it.
pub(super) struct UnknownHere {
    connection: Option<u64>,
    /// Its definition was written, in place of that one.
    was_defined: Option<Option<Arc<conf::Domain>>>,
    stops_with_us: Option<StopsWithUs>,
}
