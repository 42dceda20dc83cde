//! The VF halves of the guest's pairs, in the owner's hands: when one is looked for, and what a person asks.

use std::sync::Arc;

use lending::{Attachment, AttachmentState, Creditor, Role};
use rpc::{Code, Error};

use super::{Done, Owner};
use crate::affect::Affected;
use crate::fault::Result;
use crate::guest::handle::{Reply, Run};
use crate::guest::hotplug::Meant;
use crate::guest::life::Job;
use crate::guest::plug::What;
use crate::guest::{QEMU, attachment, follow, halves, pairs, unplug};

impl Owner {
    /// The VF half of a pair that can be plugged in now: the guest has it coming, and is ready for it.
    pub(super) fn due(&self) -> Option<String> {
        let run = self.state.run.as_ref()?;
        let is_due = |one: &&Attachment| {
            let is_coming =
                one.reserved.is_some() || one.state == AttachmentState::Owed(Creditor::Guest);
            one.role == Role::Primary
                && is_coming
                && !self.held_back.contains(&one.alias)
                && !self.held.is_held(&one.alias)
                && pairs::is_ready(run, one)
        };
        let due = run.attachments.iter().find(is_due);
        due.map(|one| one.alias.clone())
    }

    /// Plugs the VF half of a pair in.
    pub(super) fn promote(&mut self, alias: String, reply: Option<Reply>) {
        if let Some(run) = self.state.run.clone() {
            self.is_vf_freed = false;
            self.plug(run, What::Primary(alias), reply);
        }
    }

    pub(super) fn promote_by_hand(&mut self, alias: String, reply: Reply) {
        let (run, primary) = match self.primary(&alias) {
            Ok(found) => found,
            Err(error) => return self.answers.push((reply, Err(error))),
        };
        let refused = match primary.state {
            AttachmentState::Plugged | AttachmentState::Lent => {
                return self.answers.push((reply, Ok(())));
            }
            state if state.is_leaving() => Some(unplug::in_progress(&self.handle.name, &alias)),
            _ if !pairs::is_ready(&run, &primary) => {
                let then = match primary.state {
                    AttachmentState::Demoted => {
                        "If it is just starting up ask again when it has; its VF was taken by hand, and \
                         comes by hand."
                    }
                    _ => "If it is just starting up the VF comes by itself.",
                };
                let detail = format!(
                    "guest '{}' has not negotiated failover, so that QEMU would keep the VF of '{alias}' \
                     from it\n{} {then}",
                    self.handle.name,
                    halves::ADVICE
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
    pub(super) fn demote(&mut self, alias: String, how: AttachmentState, reply: Reply) {
        let (run, primary) = match self.primary(&alias) {
            Ok(found) => found,
            Err(error) => return self.answers.push((reply, Err(error))),
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

    /// The VF half of a pair with that alias.
    fn primary(&self, alias: &str) -> Result<(Arc<Run>, Attachment)> {
        let run = self.state.run.clone();
        let run = run.ok_or_else(|| self.handle.not_running())?;
        let its = attachment::by_alias(&run.attachments, alias);
        let its = its.filter(|one| one.role == Role::Primary).cloned();
        let its = its.ok_or_else(|| pairs::no_pair(&self.handle.name, alias))?;
        Ok((run, its))
    }

    /// A VF can't be plugged in now: meanwhile it is for who waits next.
    pub(super) fn hold(&mut self, alias: String) {
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
    pub(super) fn promise_again(&self) {
        if let Some(run) = &self.state.run {
            pairs::promise_all(&self.daemon, self.handle.uuid, run);
        }
    }
}
