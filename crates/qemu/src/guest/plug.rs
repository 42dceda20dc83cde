//! Plugging a network card in: several commands, and what undoes them.

use std::os::fd::OwnedFd;

use conf::{Domain, Interface};

use super::{ControlError, Life};
use crate::{Problem, Qmp, TapFds, netdev_id, nic_device, nic_netdev};

/// Hands the taps over, then adds the host's side and the card. What was done is undone if a later
/// step fails.
pub(super) async fn interface(
    life: &Life,
    domain: &Domain,
    interface: &Interface,
    index: usize,
    taps: TapFds,
) -> Result<(), ControlError> {
    let qmp = life.qmp()?;
    let cannot = |problem| life.cannot_have(problem);
    let alias = interface.info.alias.as_deref();
    let alias = alias.ok_or_else(|| cannot(Problem::NoAlias("interface".to_owned())))?;
    let named = |what: &str, fds: Vec<OwnedFd>| -> Vec<(String, OwnedFd)> {
        let fds = fds.into_iter().enumerate();
        fds.map(|(number, fd)| (format!("{what}-{alias}-{number}"), fd))
            .collect()
    };
    let (taps, vhosts) = (named("tap", taps.taps), named("vhost", taps.vhosts));
    let names = |fds: &[(String, OwnedFd)]| -> Vec<String> {
        fds.iter().map(|(name, _)| name.clone()).collect()
    };
    // All that can be wrong with the document is known before anything is done.
    let netdev = nic_netdev(interface, index, &names(&taps), &names(&vhosts)).map_err(cannot)?;
    let device = nic_device(domain, interface, taps.len().max(1)).map_err(cannot)?;

    let mut handed_over = Vec::new();
    for (name, fd) in taps.into_iter().chain(vhosts) {
        let given = life.command(qmp.give_descriptor(&name, fd)).await;
        handed_over.push(name);
        if let Err(error) = given {
            take_back(qmp, &handed_over).await;
            return Err(error);
        }
    }
    if let Err(error) = life.command(qmp.netdev_add(netdev)).await {
        take_back(qmp, &handed_over).await;
        return Err(error);
    }
    if let Err(error) = life.command(qmp.device_add(device)).await {
        if let Err(left) = qmp.netdev_del(&netdev_id(alias)).await {
            let guest = &life.record.name;
            tracing::error!(guest, alias, error = %left, "the host's side of a card stays");
        }
        return Err(error);
    }
    Ok(())
}

/// Has QEMU close the descriptors that nothing took. It doesn't have those that something did.
async fn take_back(qmp: &Qmp, names: &[String]) {
    for name in names {
        if let Err(error) = qmp.close_descriptor(name).await {
            tracing::debug!(name, %error, "taking a descriptor back");
        }
    }
}
