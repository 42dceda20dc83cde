//! Devices as documents name them and as the kernel knows them, and whether they can be had.

use conf::{DeviceId, DirectMode, ForwardMode, Network, Plug};
use host::{HostError, Usage};
use tokio::task::block_in_place;

use super::{Lender, Wanted};
use crate::fault;
use crate::sync::lock;

impl Lender {
    /// Refuses a device that the host uses for itself, in words. Asks the kernel.
    pub(super) fn usable(&self, wanted: Wanted) -> std::result::Result<(), String> {
        let said = |error: HostError| fault::chain(&error);
        match wanted {
            Wanted::Whole(DeviceId::Pci(address)) => {
                let known = lock(&self.state).vfs.get(&address).cloned();
                // The common case, spared a change of threads, which would take as long as all the
                // rest.
                if known.as_ref().is_some_and(|vf| self.host.vf_is_idle(vf)) {
                    return Ok(());
                }
                block_in_place(|| {
                    let vf = match known {
                        Some(vf) => Ok(vf),
                        None => self.host.virtual_function(address),
                    };
                    match vf {
                        Ok(vf) => unused(&self.host.vf_usage(&vf).map_err(said)?),
                        Err(HostError::NotVirtualFunction(_)) => self.nic_usage(wanted),
                        Err(error) => Err(said(error)),
                    }
                })
            }
            Wanted::Whole(DeviceId::Netdev(_)) | Wanted::Share(_) => {
                block_in_place(|| self.nic_usage(wanted))
            }
            Wanted::Tap => Ok(()),
        }
    }

    /// A NIC that is lent whole must be nobody's; one that is shared must only not be part of a
    /// bridge or bond, which take all frames.
    fn nic_usage(&self, wanted: Wanted) -> std::result::Result<(), String> {
        let (Wanted::Whole(device) | Wanted::Share(device)) = wanted else {
            return Ok(());
        };
        let said = |error: HostError| fault::chain(&error);
        let netdev = self.netdev_of(device).map_err(said)?;
        let is_shared = matches!(wanted, Wanted::Share(_));
        if is_shared && netdev.master.is_none() {
            return Ok(());
        }
        let mut usage = self.host.netdev_usage(&netdev).map_err(said)?;
        if is_shared {
            usage.retain(|usage| matches!(usage, Usage::Enslaved { .. }));
        }
        unused(&usage)
    }

    /// The network device that a device is, or has. Asks the kernel.
    pub(crate) fn netdev_of(
        &self,
        device: DeviceId,
    ) -> std::result::Result<host::Netdev, HostError> {
        match device {
            DeviceId::Netdev(name) => self.host.netdev(name.as_str()),
            DeviceId::Pci(address) => {
                let names = self.host.pci_device(address)?.netdevs;
                let name = names.first().ok_or_else(|| HostError::Unsupported {
                    target: address.to_string(),
                    reason: "it has no network device now".to_owned(),
                })?;
                self.host.netdev(name)
            }
        }
    }

    /// What the device of that name is known by: its PCI function, if it is all that this has.
    pub(crate) fn device_named(&self, name: &str) -> std::result::Result<DeviceId, HostError> {
        self.device_of(&self.host.netdev(name)?)
    }

    pub(super) fn device_of(
        &self,
        netdev: &host::Netdev,
    ) -> std::result::Result<DeviceId, HostError> {
        if let Some(address) = netdev.pci
            && self.host.pci_device(address)?.netdevs.len() == 1
        {
            return Ok(address.into());
        }
        Ok(netdev.name.into())
    }

    /// How a port of the network says what was chosen.
    pub(super) fn plug(
        &self,
        network: &Network,
        mode: Option<DirectMode>,
        wanted: Wanted,
    ) -> std::result::Result<Plug, HostError> {
        let forward = network.forward.as_ref();
        match (network.forward_mode(), wanted) {
            (
                Some(ForwardMode::Hostdev | ForwardMode::HostdevHybrid),
                Wanted::Whole(DeviceId::Pci(address)),
            ) => Ok(Plug::HostdevPci {
                managed: forward.is_some_and(|forward| forward.managed),
                driver: forward.and_then(|forward| forward.driver.clone()),
                address,
            }),
            (_, Wanted::Whole(device) | Wanted::Share(device)) => Ok(Plug::Direct {
                dev: block_in_place(|| self.netdev_of(device))?.name.to_string(),
                mode: mode.unwrap_or_default(),
            }),
            (_, Wanted::Tap) => Err(HostError::Unsupported {
                target: network.name.clone(),
                reason: "its guests get taps".to_owned(),
            }),
        }
    }
}

/// Nothing, or what uses a device, in words.
fn unused(usage: &[Usage]) -> std::result::Result<(), String> {
    if usage.is_empty() {
        return Ok(());
    }
    let words: Vec<_> = usage.iter().map(assign::describe_usage).collect();
    Err(words.join("; "))
}
