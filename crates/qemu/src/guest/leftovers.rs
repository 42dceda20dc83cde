//! What is left in QEMU of a device that was not plugged in to the end, or that is gone.

use super::plug::descriptor_names;
use super::{ControlError, Leftovers, Life, Plugged, Unplugging, unplug};
use crate::command::is_node_of;
use crate::qmp::DescriptorSet;
use crate::{QmpError, RefusalKind, netdev_id};

/// Clears all of it, in the order in which nothing is pulled away below something else.
pub(super) async fn clear(
    life: &Life,
    alias: &str,
    kind: Plugged,
) -> Result<Leftovers, ControlError> {
    let qmp = life.qmp()?;
    if kind != Plugged::Medium && life.command(qmp.device_aliases()).await?.contains(alias) {
        match unplug(life, alias).await? {
            asked @ (Unplugging::Asked | Unplugging::InProgress) => {
                // It may have gone at once.
                if life.command(qmp.device_aliases()).await?.contains(alias) {
                    return Ok(Leftovers::Device(asked));
                }
            }
            Unplugging::NotThere => {}
        }
    }
    match kind {
        Plugged::HostDevice => {}
        Plugged::Interface { queues } => {
            let removed = life.command(qmp.netdev_del(&netdev_id(alias))).await;
            unless(removed, RefusalKind::DeviceNotFound)?;
            for name in (0..queues).flat_map(|queue| descriptor_names(alias, queue)) {
                match life.command(qmp.close_descriptor(&name)).await {
                    // QEMU has no other reason than that there is none of that name.
                    Ok(()) | Err(ControlError::Qmp(QmpError::Refused { .. })) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Plugged::Disk | Plugged::Medium => of_drive(life, alias).await?,
    }
    Ok(Leftovers::None)
}

/// Clears the nodes of a drive that it doesn't use, and the files that were handed over for them.
pub(super) async fn of_drive(life: &Life, alias: &str) -> Result<(), ControlError> {
    let qmp = life.qmp()?;
    let nodes = async || {
        let mut nodes = life.command(qmp.block_nodes()).await?;
        nodes.retain(|node| is_node_of(alias, &node.name));
        Ok::<_, ControlError>(nodes)
    };
    let mut found = nodes().await?;
    // Formats come before the storage that they are on.
    found.sort_by(|a, b| a.name.cmp(&b.name));
    for node in &found {
        let removed = life.command(qmp.remove_node(&node.name)).await;
        unless(removed, RefusalKind::InUse)?;
    }
    let kept = nodes().await?;
    for set in life.command(qmp.descriptor_sets()).await? {
        let path = DescriptorSet::path(set.number);
        if set.is_of(alias) && !kept.iter().any(|node| node.file == path) {
            life.command(qmp.remove_set(set.number)).await?;
        }
    }
    Ok(())
}

/// A refusal of that kind is fine.
fn unless(outcome: Result<(), ControlError>, kind: RefusalKind) -> Result<(), ControlError> {
    match outcome {
        Err(error) if error.refusal() == Some(kind) => Ok(()),
        outcome => outcome,
    }
}
