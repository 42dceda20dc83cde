//! Devices that are to come or go while the guest runs, in the owner's hands.

use std::collections::VecDeque;
use std::sync::Arc;

use conf::Device;
use lending::AttachmentState;
use rpc::DomainChange;
use tokio::time::Instant;

use super::{Done, Owner};
use crate::affect::Affected;
use crate::fault::Result;
use crate::guest::definition::WriteWhat;
use crate::guest::handle::{Reply, Run};
use crate::guest::hotplug::{self, Meant};
use crate::guest::life::Job;
use crate::guest::plug::{Plug, Plugged, What};
use crate::guest::unplug::{self, Answer, Asked};

impl Owner {
    pub(super) fn attach(&mut self, affected: Affected, device: Arc<Device>, reply: Reply) {
        let defined = (self.state.defined.clone()).filter(|_| affected.config);
        let run = self.state.run.clone().filter(|_| affected.live);
        match (run, defined) {
            (Some(run), defined) => {
                let will_write = defined.is_some();
                self.plug(run, What::New { device, defined }, Some(reply));
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

    pub(super) fn plug(&mut self, run: Arc<Run>, what: What, reply: Option<Reply>) {
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
                let plugged = plug.carry_out(&what).await;
                let primary = match what {
                    What::New { .. } => None,
                    What::Primary(alias) => Some(alias),
                };
                Done::Plugged(Box::new(plugged), primary)
            })
        });
    }

    pub(super) fn plugged(
        &mut self,
        plugged: Plugged,
        primary: Option<String>,
        reply: Option<Reply>,
    ) {
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

    pub(super) fn detach(
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
            hotplug::take_out(&mut conf::Domain::clone(defined), meant)?;
        }
        Ok((run, alias))
    }

    pub(super) fn ask_back(
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

    pub(super) fn asked(
        &mut self,
        asked: Asked,
        waits: bool,
        config: Option<Meant>,
        reply: Option<Reply>,
    ) {
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
            Err(error) => {
                self.vf_stays(&alias, &error);
                self.answers.extend(reply.map(|reply| (reply, Err(error))));
            }
        }
    }

    /// The first client that waits for a device has waited long enough: what it asked for goes on.
    pub(super) fn waited(&mut self) {
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
    pub(super) fn let_go(&mut self, waiting: unplug::Waiting) {
        match (waiting.config, waiting.reply) {
            (Some(meant), Some(reply)) => {
                let request = hotplug::remove_from_definition(meant);
                self.waiting.push_back((request, reply));
            }
            (_, reply) => self.answers.extend(reply.map(|reply| (reply, Ok(())))),
        }
    }

    /// Those who wait for a device, which are told what became of it.
    pub(super) fn waiting_for(&mut self, alias: &str) -> VecDeque<unplug::Waiting> {
        let all = std::mem::take(&mut self.unplugging).into_iter();
        let (its, others) = all.partition(|one| one.alias == alias);
        self.unplugging = others;
        its
    }
}
