//! Whether a simulated kernel gives its network devices IPv6 addresses by itself.

use super::state::State;
use super::{Effect, SimulatedHost};
use crate::{HostError, Ipv6Autoconf, Operation, Usage};

/// What a new device has.
const FRESH: Ipv6Autoconf = Ipv6Autoconf {
    addr_gen_mode: 0,
    accept_ra: 1,
};

/// What a router at the other end of every cable advertises.
const ADVERTISED: &str = "2001:db8:5::1/64";

impl SimulatedHost {
    /// A router is heard on every network device that is up, and believed where that is set: the
    /// host gets an address and a default route there.
    pub fn advertise_router(&self) {
        let mut state = self.lock();
        for netdev in state.all_netdevs() {
            let believed = state.ipv6_of(netdev.index).accept_ra != 0;
            if netdev.state.up && believed && netdev.kind.is_none() {
                let name = netdev.name.to_string();
                let usages = vec![
                    Usage::Addressed {
                        netdev: name.clone(),
                        address: ADVERTISED.to_owned(),
                    },
                    Usage::DefaultRoute { netdev: name },
                ];
                state.net.usages.insert(netdev.index, usages);
            }
        }
    }

    pub(super) fn autoconf_of(&self, ifindex: u32) -> Result<Option<Ipv6Autoconf>, HostError> {
        self.on(Operation::ReadIpv6, ifindex, |state, _, _| {
            Ok(Some(state.ipv6_of(ifindex)))
        })
    }

    pub(super) fn change_addr_gen_mode(&self, ifindex: u32, mode: u8) -> Result<(), HostError> {
        const EINVAL: i32 = rustix::io::Errno::INVAL.raw_os_error();
        self.on(Operation::SetAddrGenMode, ifindex, |state, _, _| {
            if mode > 3 {
                return state.refused(Operation::SetAddrGenMode, ifindex, EINVAL);
            }
            state.change_ipv6(ifindex, |ipv6| ipv6.addr_gen_mode = mode);
            state.effect(Effect::AddrGenMode(ifindex, mode))
        })
    }

    pub(super) fn change_accept_ra(&self, ifindex: u32, accept: i32) -> Result<(), HostError> {
        self.on(Operation::SetAcceptRa, ifindex, |state, _, _| {
            state.change_ipv6(ifindex, |ipv6| ipv6.accept_ra = accept);
            state.effect(Effect::AcceptRa(ifindex, accept))
        })
    }
}

impl State {
    pub(super) fn ipv6_of(&self, index: u32) -> Ipv6Autoconf {
        self.common(index).ipv6.unwrap_or(FRESH)
    }

    pub(super) fn change_ipv6(&mut self, index: u32, change: impl FnOnce(&mut Ipv6Autoconf)) {
        let mut ipv6 = self.ipv6_of(index);
        change(&mut ipv6);
        self.change(index, |common| {
            common.ipv6 = Some(ipv6).filter(|ipv6| *ipv6 != FRESH);
        });
    }
}
