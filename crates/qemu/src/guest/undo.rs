//! What undoes the steps of a plug when a later one fails.

use super::{ControlError, Life};
use crate::{Qmp, QmpError};

/// A step that was done.
#[derive(Debug)]
pub(super) enum Done {
    Nothing,
    /// A descriptor that was handed over, under that name.
    Descriptor(String),
    /// The host's side of a card, by its id.
    Netdev(String),
    /// A set of descriptors.
    Set(u32),
    /// A node of the block layer.
    Node(String),
    /// A device, by its alias.
    Device(String),
    /// The tray of that drive was opened.
    Tray(String),
    /// The node that was the medium of that drive was taken out.
    TakenOut(String, Option<String>),
    /// That drive got another medium.
    PutIn(String),
}

/// The steps that were done, of which nothing is to stay if one fails.
pub(super) struct Steps<'a> {
    pub(super) life: &'a Life,
    pub(super) qmp: &'a Qmp,
    done: Vec<Done>,
}

impl<'a> Steps<'a> {
    pub(super) fn new(life: &'a Life, qmp: &'a Qmp) -> Self {
        Self {
            life,
            qmp,
            done: Vec::new(),
        }
    }

    /// Notes a step, and undoes all if it failed. One without an answer may have been done, or may be
    /// yet: it is undone with the others, since QEMU does one thing after the other.
    pub(super) async fn did<T>(
        &mut self,
        outcome: Result<T, QmpError>,
        done: Done,
    ) -> Result<T, ControlError> {
        let error = match outcome {
            Ok(value) => {
                self.done.push(done);
                return Ok(value);
            }
            Err(error) => error,
        };
        if error.is_uncertain() {
            self.done.push(done);
        }
        self.undo().await;
        // One that has ended has nothing any more.
        self.life.command(async { Err(error) }).await
    }

    /// Undoes all, in reverse.
    pub(super) async fn undo(&mut self) {
        while let Some(done) = self.done.pop() {
            let error = match self.undo_one(&done).await {
                // It was made after all, and goes when the guest lets it; what it stands on stays till
                // then.
                Ok(()) if matches!(done, Done::Device(_)) => return,
                Ok(()) => continue,
                Err(error) => error,
            };
            let guest = &self.life.record.name;
            if error.is_uncertain() {
                // It would be the same with each of the others.
                tracing::warn!(guest, ?done, %error, "what a failed plug has left is not cleared");
                return;
            }
            match done {
                // What took it has it no more, and what never came isn't there.
                Done::Descriptor(_) | Done::Device(_) => {
                    tracing::debug!(guest, ?done, %error, "undoing a step");
                }
                _ => tracing::error!(guest, ?done, %error, "a step can't be undone"),
            }
        }
    }

    async fn undo_one(&self, done: &Done) -> Result<(), QmpError> {
        let qmp = self.qmp;
        match done {
            Done::Nothing | Done::TakenOut(_, None) => Ok(()),
            Done::Descriptor(name) => qmp.close_descriptor(name).await,
            Done::Netdev(id) => qmp.netdev_del(id).await,
            Done::Set(set) => qmp.remove_set(*set).await,
            Done::Node(name) => qmp.remove_node(name).await,
            Done::Device(alias) => qmp.device_del(alias).await,
            Done::Tray(alias) => qmp.close_tray(alias).await,
            Done::TakenOut(alias, Some(node)) => qmp.insert_medium(alias, node).await,
            Done::PutIn(alias) => qmp.remove_medium(alias).await,
        }
    }
}
