//! What a running guest has of the host, found by the names that users and QEMU have for it.

use assign::{Assignment, Generation};
use conf::Interface;
use lending::Attachment;

/// The attachment of a device with that name of QEMU's.
pub(super) fn by_alias<'a>(attachments: &'a [Attachment], alias: &str) -> Option<&'a Attachment> {
    attachments.iter().find(|one| one.alias == alias)
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
