//! What the kernel does, and refuses, when a network device is changed.

use conf::{DirectMode, MacAddress};

use super::Effect;
use super::net::Who;
use super::state::{EBUSY, State, Stop, Target};
use crate::{BridgePort, BridgeVlan, HostError, Operation};

/// What a device has unless it is told otherwise, bytes.
pub(super) const DEFAULT_MTU: u32 = 1500;

pub(super) const ENODEV: i32 = rustix::io::Errno::NODEV.raw_os_error();
const EINVAL: i32 = rustix::io::Errno::INVAL.raw_os_error();
const EADDRINUSE: i32 = rustix::io::Errno::ADDRINUSE.raw_os_error();
const EADDRNOTAVAIL: i32 = rustix::io::Errno::ADDRNOTAVAIL.raw_os_error();

impl State {
    pub(super) fn set_netdev_mac(&mut self, index: u32, mac: MacAddress) -> Result<(), Stop> {
        let refuse = |state: &Self, errno| {
            let target = Target::Netdev(index);
            Err(state.kernel(Operation::SetNetdevMac, target, errno).into())
        };
        if mac.is_zero() || mac.is_multicast() {
            return refuse(self, EADDRNOTAVAIL);
        }
        match self.who(index) {
            None => refuse(self, ENODEV),
            Some(Who::Pf(_)) => {
                self.change(index, |common| common.mac = Some(mac));
                self.netdev_changed(index);
                self.effect(Effect::LinkMac(index, mac))
            }
            Some(Who::Vf(pf, number)) => {
                let address = self.shape.vf_address(pf, number);
                let told = self.quirks.mailbox && self.pfs[usize::from(pf)].link.up;
                let vf = self.vf(address)?;
                // igb refuses a VF's own wish where the PF gave it a MAC.
                if vf.mac_given && vf.admin_mac != mac && !vf.trust {
                    return refuse(self, EADDRNOTAVAIL);
                }
                vf.netdev_mac = Some(mac);
                vf.took_given_mac = false;
                if told {
                    vf.admin_mac = mac;
                }
                self.netdev_changed(index);
                self.effect(Effect::NetdevMac(address, mac))
            }
            Some(Who::Made) => {
                let made = self.made(index);
                let made = made.and_then(|made| Some((made.mode?, made.lower?)));
                match made {
                    Some((DirectMode::Passthrough, lower)) => {
                        return self.set_netdev_mac(lower, mac);
                    }
                    Some((_, lower))
                        if self.common(index).up && self.is_mac_taken(index, lower, mac) =>
                    {
                        return refuse(self, EADDRINUSE);
                    }
                    Some(_) | None => {}
                }
                if let Some(made) = self.made_mut(index) {
                    made.mac = mac;
                }
                self.netdev_changed(index);
                self.effect(Effect::LinkMac(index, mac))
            }
        }
    }

    /// Whether the device below a macvlan, or another one that is up on it, has that MAC.
    pub(super) fn is_mac_taken(&self, index: u32, lower: u32, mac: MacAddress) -> bool {
        let mut others = self.macvlans_on(lower);
        self.mac_of(lower) == Some(mac)
            || others
                .any(|(other, made)| other != index && self.common(other).up && made.mac == mac)
    }

    pub(super) fn put_into(&mut self, index: u32, master: Option<u32>) {
        let is_bridge = master
            .and_then(|master| self.made(master)?.kind.as_deref())
            .is_some_and(|kind| kind == "bridge");
        let fresh = is_bridge.then(|| BridgePort {
            isolated: Some(false),
            learning: Some(true),
            unicast_flood: Some(true),
            vlans: Some(vec![BridgeVlan {
                id: 1,
                pvid: true,
                untagged: true,
            }]),
        });
        self.forget_macs(index);
        self.change(index, |common| {
            (common.master, common.port) = (master, fresh);
        });
        self.netdev_changed(index);
    }

    /// Sets the MTU, and takes that of macvlans and VLANs above down to it.
    pub(super) fn put_mtu(&mut self, index: u32, mtu: u32) {
        if let Some(Who::Pf(pf)) = self.who(index) {
            self.pfs[usize::from(pf)].link.mtu = mtu;
        } else {
            self.change(index, |common| {
                common.mtu = Some(mtu).filter(|mtu| *mtu != DEFAULT_MTU);
            });
        }
        let macvlans = self.macvlans_on(index).map(|(upper, _)| upper);
        let vlans = self.vlans_on(index).map(|(upper, _)| upper);
        let uppers: Vec<_> = macvlans.chain(vlans).collect();
        for upper in uppers {
            if self.link_of(upper).is_some_and(|link| link.mtu > mtu) {
                self.put_mtu(upper, mtu);
            }
        }
        self.netdev_changed(index);
    }

    /// Why a macvlan in that mode can't be made there.
    pub(super) fn macvlan_refusal(&self, lower: u32, mode: DirectMode) -> Option<i32> {
        if self.common(lower).master.is_some() {
            return Some(EBUSY);
        }
        let mut others = self.macvlans_on(lower).peekable();
        let passthrough = DirectMode::Passthrough;
        let is_alone = others.peek().is_none();
        let excluded = (mode == passthrough && !is_alone)
            || others.any(|(_, other)| other.mode == Some(passthrough));
        excluded.then_some(EINVAL)
    }

    /// A kernel's refusal about a network device.
    pub(super) fn refused<T>(
        &self,
        operation: Operation,
        index: u32,
        errno: i32,
    ) -> Result<T, Stop> {
        let error: HostError = self.kernel(operation, Target::Netdev(index), errno);
        Err(error.into())
    }
}
