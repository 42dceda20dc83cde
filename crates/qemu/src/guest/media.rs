//! Changing the medium of a drive.

use std::os::fd::OwnedFd;

use conf::Disk;

use super::plug::{add_nodes, alias_of};
use super::undo::{Done, Steps};
use super::{ControlError, Life, leftovers};
use crate::RefusalKind;
use crate::command::NodeNames;

/// Adds the new medium's nodes, opens the tray, changes the medium, closes the tray, and removes the
/// old one's nodes.
pub(super) async fn change(
    life: &Life,
    disk: &Disk,
    files: Vec<OwnedFd>,
    force: bool,
) -> Result<(), ControlError> {
    let qmp = life.qmp()?;
    let cannot = |problem| life.cannot_have(problem);
    let alias = alias_of(&disk.info, "disk").map_err(cannot)?;
    let drives = life.command(qmp.drives()).await?;
    let drive = drives.into_iter().find(|drive| drive.is_of(alias));
    let old = drive.and_then(|drive| drive.inserted).map(|node| node.name);
    let nodes = life.command(qmp.block_nodes()).await?;
    let taken: Vec<_> = nodes.into_iter().map(|node| node.name).collect();
    let names = NodeNames::free(alias, &taken);

    let mut steps = Steps::new(life, qmp);
    let new = add_nodes(&mut steps, disk, &names, files).await?;
    let drive = || alias.to_owned();
    let opened = qmp.open_tray(alias, force).await;
    steps.did(opened, Done::Tray(drive())).await?;
    let removed = qmp.remove_medium(alias).await;
    if let Err(error) = &removed
        && error.refusal() == Some(RefusalKind::TrayLocked)
    {
        steps.undo().await;
        return Err(ControlError::TrayLocked {
            name: life.record.name.clone(),
            disk: disk.target.clone(),
        });
    }
    steps.did(removed, Done::TakenOut(drive(), old)).await?;
    if let Some(node) = &new {
        let inserted = qmp.insert_medium(alias, node).await;
        steps.did(inserted, Done::PutIn(drive())).await?;
    }
    let closed = qmp.close_tray(alias).await;
    steps.did(closed, Done::Nothing).await?;
    // The new medium is in, whatever becomes of the old one's nodes.
    if let Err(error) = leftovers::of_drive(life, alias).await {
        let guest = &life.record.name;
        tracing::error!(guest, alias, %error, "what an earlier medium had is not cleared");
    }
    Ok(())
}
