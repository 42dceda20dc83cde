//! Devices as documents name them and as the kernel knows them, and whether they can be had.

use conf::{DeviceId, DirectMode, ForwardMode, Network, Plug};
use host::{HostError, Netdev, Usage};
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
                        Err(HostError::NotVirtualFunction(_)) => {
                            let netdev = self.netdev_of(address.into()).map_err(said)?;
                            self.nic_usable(wanted, &netdev)
                        }
                        Err(error) => Err(said(error)),
                    }
                })
            }
            Wanted::Whole(device @ DeviceId::Netdev(_)) | Wanted::Share(device) => {
                block_in_place(|| {
                    let netdev = self.netdev_of(device).map_err(said)?;
                    self.nic_usable(wanted, &netdev)
                })
            }
            Wanted::Tap => Ok(()),
        }
    }

    /// A NIC that is lent whole must be nobody's; one that is shared must only not be part of a
    /// bridge or bond, which take all frames.
    fn nic_usable(&self, wanted: Wanted, netdev: &Netdev) -> std::result::Result<(), String> {
        let is_shared = matches!(wanted, Wanted::Share(_));
        if is_shared && netdev.master.is_none() {
            return Ok(());
        }
        let usage = self.host.netdev_usage(netdev);
        let mut usage = usage.map_err(|error| fault::chain(&error))?;
        if is_shared {
            usage.retain(|usage| matches!(usage, Usage::Enslaved { .. }));
        }
        unused(&usage)
    }

    /// The network device that a device is, or has. Asks the kernel.
    pub(crate) fn netdev_of(&self, device: DeviceId) -> std::result::Result<Netdev, HostError> {
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

    pub(super) fn device_of(&self, netdev: &Netdev) -> std::result::Result<DeviceId, HostError> {
        if let Some(address) = netdev.pci
            && self.host.pci_device(address)?.netdevs.len() == 1
        {
            return Ok(address.into());
        }
        Ok(netdev.name.into())
    }

    /// How a port of the network says what was chosen; or why that can't be had, in words. Asks the
    /// kernel.
    pub(super) fn plug(
        &self,
        network: &Network,
        mode: Option<DirectMode>,
        wanted: Wanted,
    ) -> std::result::Result<Plug, String> {
        let forward = network.forward.as_ref();
        let said = |error: HostError| fault::chain(&error);
        match (network.forward_mode(), wanted) {
            (
                Some(ForwardMode::Hostdev | ForwardMode::HostdevHybrid),
                Wanted::Whole(DeviceId::Pci(address)),
            ) => {
                self.usable(wanted)?;
                Ok(Plug::HostdevPci {
                    managed: forward.is_some_and(|forward| forward.managed),
                    driver: forward.and_then(|forward| forward.driver.clone()),
                    address,
                })
            }
            // Asked in one go: each change of threads takes as long as a question.
            (_, Wanted::Whole(device) | Wanted::Share(device)) => block_in_place(|| {
                let netdev = if let Wanted::Whole(DeviceId::Pci(_)) = wanted {
                    self.usable(wanted)?;
                    self.netdev_of(device).map_err(said)?
                } else {
                    let netdev = self.netdev_of(device).map_err(said)?;
                    self.nic_usable(wanted, &netdev)?;
                    netdev
                };
                Ok(Plug::Direct {
                    dev: netdev.name.to_string(),
                    mode: mode.unwrap_or_default(),
                })
            }),
            (_, Wanted::Tap) => Err(format!("network '{}' gives its guests taps", network.name)),
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
