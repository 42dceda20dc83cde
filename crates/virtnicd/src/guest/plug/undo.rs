//! Undoing what was done of plugging devices in.

use std::sync::Arc;

use conf::Uuid;
use lending::{Attachment, AttachmentState, Creditor, Role};
use rpc::Error;

use super::{Plug, Plugged, State, What};
use crate::guest::{end, pairs, record};

impl Plug<'_> {
    /// Undoes everything, in reverse. What QEMU has, or may have, is asked back, and stays until it
    /// answers.
    pub(super) async fn undo(&self, what: &What, mut state: State, error: Error) -> Plugged {
        let mut left = Vec::new();
        let config = self.undo_definition(what, &mut state, &mut left).await;
        let mut run = self.run.clone();
        run.attachments = std::mem::take(&mut state.others);
        let is_unclear = !state.in_qemu.is_empty();
        if is_unclear {
            left.push("QEMU has a part of it, or may have, and is asked to let it go".to_owned());
            run.domain = state.left_over(&self.run.domain);
        }
        for mut attachment in std::mem::take(&mut state.taken).into_iter().rev() {
            if state.is_in_qemu(&attachment.alias) {
                attachment.state = match what {
                    What::New { .. } => AttachmentState::Unplugging,
                    What::Primary(_) => self.asked_back(&attachment),
                };
                run.attachments.push(attachment);
                continue;
            }
            let kept = self.undo_lending(&attachment, &mut left).await;
            if let What::Primary(alias) = what {
                pairs::clear(&mut run.domain, alias);
                // It waits on in its place.
                run.attachments.push(Attachment {
                    id: attachment.id,
                    owed_since: attachment.owed_since,
                    ..pairs::without_vf(&attachment, self.before(&attachment))
                });
            } else {
                self.daemon.lender.end_promise(attachment.id);
            }
            run.attachments.extend(kept);
        }
        record::write_or_warn(self.daemon, self.handle, &run).await;
        Plugged {
            attachments: run.attachments,
            domain: run.domain,
            config,
            result: Err(end::and_left_behind(error, &left)),
            is_unclear,
            is_none_free: state.is_none_free,
        }
    }

    /// Writes the definition as it was; what it is if that fails.
    async fn undo_definition(
        &self,
        what: &What,
        state: &mut State,
        left: &mut Vec<String>,
    ) -> Option<Arc<conf::Domain>> {
        let kept = state.config.take()?;
        let What::New {
            defined: Some(defined),
            ..
        } = what
        else {
            return None;
        };
        let failed = self.keep(defined).await.err()?;
        left.push(format!(
            "the definition has the device now ({})",
            failed.detail()
        ));
        Some(kept)
    }

    /// Gives the host back what was lent, with its port; what it is owed if that fails.
    async fn undo_lending(
        &self,
        attachment: &Attachment,
        left: &mut Vec<String>,
    ) -> Option<Attachment> {
        let guest = &self.handle.name;
        if let Some(claim) = attachment.claim
            && let Err(error) = end::give_back(self.daemon, claim).await
        {
            tracing::error!(guest, error, "a device was not given back");
            left.push(error);
            return Some(Attachment {
                id: Uuid::new_v4(),
                state: AttachmentState::Owed(Creditor::Host),
                ..attachment.clone()
            });
        }
        if let Err(error) = self.end_port(attachment.port).await {
            tracing::error!(guest, %error, "its port stays");
        }
        None
    }

    /// How far the VF of a pair was before it was to be plugged in.
    fn before(&self, attachment: &Attachment) -> AttachmentState {
        let mut known = self.run.attachments.iter();
        let its = known.find(|one| one.alias == attachment.alias && one.role == Role::Primary);
        match its.map(|one| one.state) {
            Some(AttachmentState::Demoted) => AttachmentState::Demoted,
            _ => AttachmentState::Owed(Creditor::Guest),
        }
    }

    /// How the VF of a pair is asked back that could not be plugged in: it is owed again if it was.
    fn asked_back(&self, attachment: &Attachment) -> AttachmentState {
        match self.before(attachment) {
            AttachmentState::Demoted => AttachmentState::Demoting,
            _ => AttachmentState::Recalled,
        }
    }
}

impl State {
    /// The document with what QEMU may have, and nothing else of what was added to that of `before`.
    fn left_over(&self, before: &conf::Domain) -> conf::Domain {
        let mut domain = self.domain.clone();
        let interfaces = &self.domain.devices.interfaces;
        for alias in interfaces.iter().filter_map(|one| one.info.alias.as_ref()) {
            if before.find_alias(alias).is_none()
                && !self.is_in_qemu(alias)
                && let Some(place) = domain.find_alias(alias)
            {
                domain.remove_device(place);
            }
        }
        domain
    }
}
