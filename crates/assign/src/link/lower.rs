//! Setting the device below a macvtap.

use conf::MacAddress;
use host::{Host, HostError, Ipv6Autoconf, Netdev, VirtualFunction};

use crate::patience::insist;
use crate::vf::is_locked;

const EBUSY: i32 = rustix::io::Errno::BUSY.raw_os_error();

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

/// Keeps the host's kernel from taking addresses and routes on a device that is up for guests
/// only. Addresses that are there stay, so that a device which the host has up loses none.
pub(crate) fn hush(host: &dyn Host, index: u32) -> Result<(), HostError> {
    let Some(now) = host.ipv6_autoconf(index)? else {
        return Ok(());
    };
    let none = Ipv6Autoconf::NONE;
    if now.addr_gen_mode != none.addr_gen_mode {
        host.set_addr_gen_mode(index, none.addr_gen_mode)?;
    }
    if now.accept_ra != none.accept_ra {
        host.set_accept_ra(index, none.accept_ra)?;
    }
    Ok(())
}

/// The reverse of [`hush`]. What somebody has set otherwise meanwhile is theirs.
pub(crate) fn unhush(host: &dyn Host, index: u32, found: Ipv6Autoconf) -> Result<(), HostError> {
    let Some(now) = host.ipv6_autoconf(index)? else {
        return Ok(());
    };
    let none = Ipv6Autoconf::NONE;
    if now.addr_gen_mode == none.addr_gen_mode && now.addr_gen_mode != found.addr_gen_mode {
        host.set_addr_gen_mode(index, found.addr_gen_mode)?;
    }
    if now.accept_ra == none.accept_ra && now.accept_ra != found.accept_ra {
        host.set_accept_ra(index, found.accept_ra)?;
    }
    Ok(())
}
