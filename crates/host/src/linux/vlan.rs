//! VLAN devices of the real kernel.

use super::LinuxHost;
use super::netlink::{Device, Kind};
use super::tap::not_kept;
use crate::{HostError, Netdev, Operation, VlanSpec};

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
        self.finish_made(spec.name, refused, |index| {
            let tagged = self.netlink.set_alias(index, &spec.tag);
            let device = tagged.and_then(|()| self.netlink.device(index));
            let device = device.map_err(refused)?;
            check(spec, &device)?;
            Ok(device)
        })
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
