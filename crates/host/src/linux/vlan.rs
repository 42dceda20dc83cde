//! VLAN devices of the real kernel.

use super::LinuxHost;
use super::netlink::{Device, Kind};
use super::tap::{errno, not_kept};
use crate::{HostError, Netdev, Operation, VlanSpec};

const ENODEV: i32 = rustix::io::Errno::NODEV.raw_os_error();

impl LinuxHost {
    pub(super) fn vlan(&self, spec: &VlanSpec) -> Result<Netdev, HostError> {
        let refused = |source| HostError::Kernel {
            operation: Operation::MakeVlan,
            target: match self.netlink.device(spec.lower) {
                Ok(lower) => format!("'{}' for VLAN {} of '{}'", spec.name, spec.id, lower.name),
                Err(_) => format!("'{}' on device {}", spec.name, spec.lower),
            },
            source,
        };
        self.netlink.make_vlan(spec).map_err(refused)?;
        // From here on there is something to undo.
        let made = self.netlink.device_named(spec.name.as_str());
        let made = made.and_then(|made| made.ok_or_else(|| errno(ENODEV)));
        let made = made.map_err(refused)?;
        let tagged = self.netlink.set_alias(made.index, &spec.tag);
        let finished = tagged.and_then(|()| self.netlink.device(made.index));
        let finished = finished.map_err(refused);
        let finished = finished.and_then(|device| check(spec, &device).map(|()| device));
        match finished.and_then(|device| self.netdev_of(device)) {
            Ok(netdev) => Ok(netdev),
            Err(error) => {
                if let Err(left) = self.netlink.delete(made.index) {
                    tracing::error!(netdev = %spec.name, error = %left, "left behind");
                }
                Err(error)
            }
        }
    }
}

fn check(spec: &VlanSpec, device: &Device) -> Result<(), HostError> {
    let found = match device.kind {
        Some(Kind::Vlan(Some(id))) if id == spec.id.get() => {
            if device.alias.as_deref() == Some(&spec.tag) {
                return Ok(());
            }
            String::from("its alias is another")
        }
        Some(Kind::Vlan(Some(id))) => format!("its VLAN is {id}"),
        _ => String::from("it is no VLAN device of 802.1Q"),
    };
    Err(not_kept(spec.name, found))
}
