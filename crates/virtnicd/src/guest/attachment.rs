//! What a running guest has of the host, found by the names that users and QEMU have for it.

use assign::{Assignment, Generation};
use conf::Interface;
use lending::{Attachment, AttachmentState, Creditor};

/// The attachment of a device with that name of QEMU's. What is still to be given back of an earlier one
/// with the name is not meant, unless there is no other.
pub(super) fn by_alias<'a>(attachments: &'a [Attachment], alias: &str) -> Option<&'a Attachment> {
    let is_there = |one: &&Attachment| one.state != AttachmentState::Owed(Creditor::Host);
    let mut all = attachments.iter().filter(|one| one.alias == alias);
    let first = all.clone().next();
    all.find(is_there).or(first)
}

/// The line of the list that an interface of a running guest stands on.
pub(super) fn line_of(
    attachments: &[Attachment],
    interface: &Interface,
    find: impl FnOnce(Generation) -> Option<Assignment>,
) -> Option<Assignment> {
    let attachment = by_alias(attachments, interface.info.alias.as_deref()?)?;
    find(attachment.claim?)
}
