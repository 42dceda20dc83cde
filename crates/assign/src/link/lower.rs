//! Setting the device below a macvtap.

use conf::MacAddress;
use host::{Host, HostError, Netdev, VirtualFunction};

use crate::patience::insist;
use crate::vf::is_locked;

const EBUSY: i32 = 16;

/// How a device took a MAC.
#[derive(Debug)]
pub(crate) enum Given {
    /// It has it.
    Directly,
    /// It is a VF, and holds on to the one that its PF gave it; this is what it said.
    Refused(HostError),
}

/// Gives a network device its own MAC. Drivers that can't change it while the device is up have it
/// switched off; whoever restores it, or hands it out, switches it on again.
pub(crate) fn give_mac(
    host: &dyn Host,
    netdev: &Netdev,
    mac: MacAddress,
    vf: Option<&VirtualFunction>,
) -> Result<Given, HostError> {
    match while_down(host, netdev, || host.set_mac(netdev.index, mac)) {
        Err(error) if vf.is_some() && is_locked(&error) => Ok(Given::Refused(error)),
        settled => settled.map(|()| Given::Directly),
    }
}

/// Gives a network device an MTU, switched off if need be.
pub(crate) fn give_mtu(host: &dyn Host, netdev: &Netdev, mtu: u32) -> Result<(), HostError> {
    while_down(host, netdev, || host.set_mtu(netdev.index, mtu))
}

fn while_down(
    host: &dyn Host,
    netdev: &Netdev,
    set: impl Fn() -> Result<(), HostError>,
) -> Result<(), HostError> {
    match set() {
        Err(error) if error.errno() == Some(EBUSY) && netdev.state.up => {
            host.set_up(netdev.index, false)?;
            insist(set)
        }
        Err(error) if error.errno() == Some(EBUSY) => insist(set),
        settled => settled,
    }
}
