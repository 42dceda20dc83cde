//! What a running guest has of the host, device by device.

use assign::{Assignment, Generation};
use conf::{Interface, Uuid};
use serde::{Deserialize, Serialize};

/// One device of a guest on the host: from the document's interface or host device to the claim, the
/// port, QEMU's device and the way back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attachment {
    /// The only way to find it; made when its guest's start is planned.
    pub(crate) id: Uuid,
    /// QEMU's name of the device, and so the document's.
    pub(crate) alias: Option<String>,
    /// Network and port.
    pub(crate) port: Option<(Uuid, Uuid)>,
    /// The claim on the host's device.
    pub(crate) claim: Option<Generation>,
    pub(crate) state: AttachmentState,
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AttachmentState {
    /// Chosen and claimed; nothing was done to it.
    Planned,
    /// It is the guest's.
    Lent,
    /// The guest let it go, and it could not be taken back yet: asked again until it can.
    OwedToHost,
}

impl Attachment {
    pub(crate) fn planned(port: Option<(Uuid, Uuid)>, claim: Option<Generation>) -> Self {
        Self {
            id: Uuid::new_v4(),
            alias: None,
            port,
            claim,
            state: AttachmentState::Planned,
        }
    }
}

/// The attachment of a device with that name of QEMU's.
pub(crate) fn by_alias<'a>(attachments: &'a [Attachment], alias: &str) -> Option<&'a Attachment> {
    (attachments.iter()).find(|one| one.alias.as_deref() == Some(alias))
}

/// The attachment of a running guest's interface.
pub(crate) fn of_interface<'a>(
    attachments: &'a [Attachment],
    interface: &Interface,
) -> Option<&'a Attachment> {
    by_alias(attachments, interface.info.alias.as_deref()?)
}

/// The line of the list that an interface stands on.
pub(crate) fn line_of(
    attachments: &[Attachment],
    interface: &Interface,
    find: impl FnOnce(Generation) -> Option<Assignment>,
) -> Option<Assignment> {
    find(of_interface(attachments, interface)?.claim?)
}
