//! Who may open a node below `/dev`.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{Gid, Mode, Uid, chmod, chown};

use crate::NodeAccess;

/// Permissions of a node.
const PERMISSIONS: u32 = 0o777;

pub(super) fn read(node: &Path) -> io::Result<NodeAccess> {
    let metadata = fs::symlink_metadata(node)?;
    Ok(NodeAccess {
        uid: metadata.uid(),
        gid: metadata.gid(),
        mode: metadata.permissions().mode() & PERMISSIONS,
    })
}

/// What the old owners may do is not the new ones' for a moment, nor the reverse.
pub(super) fn set(node: &Path, access: NodeAccess) -> io::Result<()> {
    let both = read(node)?.mode & access.mode;
    let (uid, gid) = (Uid::from_raw(access.uid), Gid::from_raw(access.gid));
    chmod(node, Mode::from_raw_mode(both))?;
    chown(node, Some(uid), Some(gid))?;
    chmod(node, Mode::from_raw_mode(access.mode & PERMISSIONS))?;
    Ok(())
}
