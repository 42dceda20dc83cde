//! Devices as documents name them and as the kernel knows them, and whether they can be had.

use conf::{DeviceId, DirectMode, ForwardMode, Network, Plug};
use host::{Host, HostError, Netdev, Usage};

use crate::ledger::Ledger;
use crate::state::{Share, lock};

/// A device that can't be had now, for a fault of its own.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// The host itself uses it.
    #[error("{}", .0.iter().map(assign::describe_usage).collect::<Vec<_>>().join("; "))]
    InUse(Vec<Usage>),
    /// The host does not tell.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// What the network device of that name is known by: its PCI function, if it is all that this has.
/// Blocks.
///
/// # Errors
/// There is none, or the host does not tell.
pub fn device_named(host: &dyn Host, name: &str) -> Result<DeviceId, HostError> {
    device_of(host, &host.netdev(name)?)
}

pub(crate) fn device_of(host: &dyn Host, netdev: &Netdev) -> Result<DeviceId, HostError> {
    if let Some(address) = netdev.pci
        && host.pci_device(address)?.netdevs.len() == 1
    {
        return Ok(address.into());
    }
    Ok(netdev.name.into())
}

/// The network device that a device is, or has. Blocks.
pub(crate) fn netdev_of(host: &dyn Host, device: DeviceId) -> Result<Netdev, HostError> {
    match device {
        DeviceId::Netdev(name) => host.netdev(name.as_str()),
        DeviceId::Usb(_) => Err(HostError::Unsupported {
            target: device.to_string(),
            reason: "it is a USB device, which is not known as a network device".to_owned(),
        }),
        DeviceId::Pci(address) => {
            let names = host.pci_device(address)?.netdevs;
            let name = names.first().ok_or_else(|| HostError::Unsupported {
                target: address.to_string(),
                reason: "it has no network device now".to_owned(),
            })?;
            host.netdev(name)
        }
    }
}

impl Ledger {
    /// Refuses a device that the host uses for itself. Asks the host; blocks.
    pub(crate) fn usable(&self, share: Share) -> Result<(), Unusable> {
        let host = &*self.host;
        match share {
            Share::Whole(DeviceId::Pci(address)) => {
                let known = lock(&self.state).vfs.get(&address).cloned();
                if known.as_ref().is_some_and(|vf| host.vf_is_idle(vf)) {
                    return Ok(());
                }
                let vf = match known {
                    Some(vf) => Ok(vf),
                    None => host.virtual_function(address),
                };
                match vf {
                    Ok(vf) => unused(host.vf_usage(&vf)?),
                    Err(HostError::NotVirtualFunction(_)) => {
                        let netdev = netdev_of(host, address.into())?;
                        nic_usable(host, share, &netdev)
                    }
                    Err(error) => Err(error.into()),
                }
            }
            Share::Whole(device @ (DeviceId::Netdev(_) | DeviceId::Usb(_)))
            | Share::Part(device) => {
                let netdev = netdev_of(host, device)?;
                nic_usable(host, share, &netdev)
            }
            Share::Tap => Ok(()),
        }
    }

    /// How a port of the network says what was chosen; or why that can't be had. Asks the host;
    /// blocks.
    pub(crate) fn plug(
        &self,
        network: &Network,
        mode: Option<DirectMode>,
        share: Share,
        device: DeviceId,
    ) -> Result<Plug, Unusable> {
        if let Some(plug) = host_device(network, share) {
            self.usable(share)?;
            return Ok(plug);
        }
        let host = &*self.host;
        let netdev = if let Share::Whole(DeviceId::Pci(_)) = share {
            self.usable(share)?;
            netdev_of(host, device)?
        } else {
            let netdev = netdev_of(host, device)?;
            nic_usable(host, share, &netdev)?;
            netdev
        };
        Ok(Plug::Direct {
            dev: netdev.name.to_string(),
            mode: mode.unwrap_or_default(),
        })
    }

    /// The same for a VF that is at rest and lent as a host device: the one question that is
    /// answered at once.
    pub(crate) fn plug_at_rest(&self, network: &Network, share: Share) -> Option<Plug> {
        let plug = host_device(network, share)?;
        let address = share.device()?.pci()?;
        let vf = lock(&self.state).vfs.get(&address).cloned()?;
        self.host.vf_is_idle(&vf).then_some(plug)
    }
}

/// The plug of a network that lends host devices.
pub(crate) fn host_device(network: &Network, share: Share) -> Option<Plug> {
    let forward = network.forward.as_ref();
    match (network.forward_mode(), share) {
        (
            Some(ForwardMode::Hostdev | ForwardMode::HostdevHybrid),
            Share::Whole(DeviceId::Pci(address)),
        ) => Some(Plug::HostdevPci {
            managed: forward.is_some_and(|forward| forward.managed),
            driver: forward.and_then(|forward| forward.driver.clone()),
            address,
        }),
        _ => None,
    }
}

/// A NIC that is lent whole must be nobody's; one that is shared must only not be part of a bridge
/// or bond, which take all frames.
fn nic_usable(host: &dyn Host, share: Share, netdev: &Netdev) -> Result<(), Unusable> {
    let is_shared = matches!(share, Share::Part(_));
    if is_shared && netdev.master.is_none() {
        return Ok(());
    }
    let mut usage = host.netdev_usage(netdev)?;
    if is_shared {
        usage.retain(|usage| matches!(usage, Usage::Enslaved { .. }));
    }
    unused(usage)
}

fn unused(usage: Vec<Usage>) -> Result<(), Unusable> {
    if usage.is_empty() {
        return Ok(());
    }
    Err(Unusable::InUse(usage))
}
