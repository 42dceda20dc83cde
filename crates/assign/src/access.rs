//! Who may open the node of a device that is lent.

use host::{GuestGroup, NodeAccess};

use crate::assigner::Assigner;

impl Assigner {
    /// Who is let open a node for a guest whose QEMU has that group of its own; `None`: QEMU runs as
    /// we do, and may already.
    pub(crate) fn access_for(&self, group: Option<GuestGroup>) -> Option<NodeAccess> {
        let user = self.vfio_user?;
        Some(match group {
            // Not the user, as whom other guests' QEMUs run as well.
            Some(group) => NodeAccess {
                uid: 0,
                gid: group.gid(),
                mode: 0o660,
            },
            None => NodeAccess {
                uid: user.uid,
                gid: user.gid,
                mode: 0o600,
            },
        })
    }
}

/// That, in words.
pub(crate) fn describe(access: NodeAccess) -> String {
    let NodeAccess { uid, gid, mode } = access;
    format!("a node of user {uid} and group {gid} with permissions {mode:03o}")
}
