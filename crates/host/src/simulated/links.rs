//! The simulated host as [`Links`].

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;

use conf::{Bandwidth, DirectMode, MacAddress, NetdevName};

use super::link_rules::ENODEV;
use super::net::{Made, Who};
use super::state::{EBUSY, State, Stop, Target};
use super::{Effect, SimulatedHost};
use crate::{
    BridgePort, Counters, HostError, Ipv6Autoconf, LinkState, LinkType, Links, MacvlanSpec, Netdev,
    NicAbility, Operation, PhysicalFunction, PortRequest, RxFilter, TapQueues, TapSpec, Usage,
    VirtualFunction, VlanSpec,
};

/// Queues of a macvtap or tap, at most: the kernel's limit.
const MOST_QUEUES: u16 = 256;
/// A card's longest frame, and a tap's.
const MOST_MTU: u32 = 9216;
pub(super) const LEAST_MTU: u32 = 68;

const EEXIST: i32 = rustix::io::Errno::EXIST.raw_os_error();
const EINVAL: i32 = rustix::io::Errno::INVAL.raw_os_error();
const E2BIG: i32 = 7;
const ERANGE: i32 = rustix::io::Errno::RANGE.raw_os_error();
const ELOOP: i32 = rustix::io::Errno::LOOP.raw_os_error();
const EOPNOTSUPP: i32 = rustix::io::Errno::OPNOTSUPP.raw_os_error();
const EADDRINUSE: i32 = rustix::io::Errno::ADDRINUSE.raw_os_error();

impl Links for SimulatedHost {
    fn netdevs(&self) -> Result<Vec<Netdev>, HostError> {
        self.call(Operation::ReadNetdev, None, |state, _| {
            Ok(state.all_netdevs())
        })
    }

    fn netdev(&self, name: &str) -> Result<Netdev, HostError> {
        let target = name.parse().map_or(Target::Host, Target::Named);
        self.call(Operation::ReadNetdev, target, |state, _| {
            let index = state.index_of(name);
            let found = index.and_then(|index| state.netdev_at(index));
            Ok(found.ok_or_else(|| HostError::NoNetdev(name.to_owned()))?)
        })
    }

    fn netdev_usage(&self, netdev: &Netdev) -> Result<Vec<Usage>, HostError> {
        self.on(Operation::ReadUsage, netdev.index, |state, _, _| {
            Ok(state.netdev_usages(netdev.index))
        })
    }

    fn nic_ability(&self, netdev: &Netdev) -> Result<NicAbility, HostError> {
        self.ability_of(netdev)
    }

    fn netdev_counters(&self, ifindex: u32) -> Result<Counters, HostError> {
        self.on(Operation::ReadCounters, ifindex, |state, _, _| {
            let told = state.net.counters.get(&ifindex);
            Ok(told.copied().unwrap_or_default())
        })
    }

    fn vf_counters(&self, vf: &VirtualFunction) -> Result<Option<Counters>, HostError> {
        self.counters_of(vf)
    }

    fn set_up(&self, ifindex: u32, up: bool) -> Result<(), HostError> {
        self.on(Operation::SetUp, ifindex, |state, who, _| {
            if let Who::Pf(pf) = who {
                let pf = &mut state.pfs[usize::from(pf)];
                pf.link = LinkState {
                    up,
                    carrier: up && pf.cable,
                    ..pf.link
                };
            } else {
                let lower = state.made(ifindex).and_then(|made| {
                    let shares = made.mode != Some(DirectMode::Passthrough);
                    made.lower.filter(|_| made.mode.is_some() && shares)
                });
                let mac = state.netdev_at(ifindex).map(|netdev| netdev.mac);
                if let (true, Some(lower), Some(mac)) = (up, lower, mac)
                    && state.is_mac_taken(ifindex, lower, mac)
                {
                    return state.refused(Operation::SetUp, ifindex, EADDRINUSE);
                }
                if let Some(errno) = state.up_refusal(ifindex, up) {
                    return state.refused(Operation::SetUp, ifindex, errno);
                }
                state.change(ifindex, |common| common.up = up);
            }
            state.vlans_follow(ifindex, up);
            state.netdev_changed(ifindex);
            state.effect(Effect::LinkUp(ifindex, up))
        })
    }

    fn set_macvlan_mode(&self, netdev: &Netdev, mode: DirectMode) -> Result<(), HostError> {
        let index = netdev.index;
        self.on(Operation::SetMacvlanMode, index, |state, _, _| {
            let is_whole = |mode: DirectMode| mode == DirectMode::Passthrough;
            let now = state.made(index).and_then(|made| made.mode);
            if now.is_none_or(|now| is_whole(now) != is_whole(mode)) {
                return state.refused(Operation::SetMacvlanMode, index, EINVAL);
            }
            if let Some(made) = state.made_mut(index) {
                made.mode = Some(mode);
            }
            Ok(())
        })
    }

    fn ipv6_autoconf(&self, ifindex: u32) -> Result<Option<Ipv6Autoconf>, HostError> {
        self.autoconf_of(ifindex)
    }

    fn set_addr_gen_mode(&self, ifindex: u32, mode: u8) -> Result<(), HostError> {
        self.change_addr_gen_mode(ifindex, mode)
    }

    fn set_accept_ra(&self, ifindex: u32, accept: i32) -> Result<(), HostError> {
        self.change_accept_ra(ifindex, accept)
    }

    fn set_mac(&self, ifindex: u32, mac: MacAddress) -> Result<(), HostError> {
        self.on(Operation::SetNetdevMac, ifindex, |state, _, _| {
            state.set_netdev_mac(ifindex, mac)
        })
    }

    fn set_mtu(&self, ifindex: u32, mtu: u32) -> Result<(), HostError> {
        self.on(Operation::SetMtu, ifindex, |state, _, _| {
            let lower = (state.made(ifindex))
                .filter(|made| made.mode.is_some() || made.vlan.is_some())
                .and_then(|made| state.link_of(made.lower?));
            let most = lower.map_or(MOST_MTU, |lower| lower.mtu);
            if !(LEAST_MTU..=most).contains(&mtu) {
                let is_vlan = state.made(ifindex).is_some_and(|made| made.vlan.is_some());
                let errno = if is_vlan { ERANGE } else { EINVAL };
                return state.refused(Operation::SetMtu, ifindex, errno);
            }
            state.put_mtu(ifindex, mtu);
            state.effect(Effect::LinkMtu(ifindex, mtu))
        })
    }

    fn make_macvlan(&self, spec: &MacvlanSpec) -> Result<Netdev, HostError> {
        let operation = Operation::MakeMacvlan;
        self.on(operation, spec.lower, |state, _, partial| {
            let refused = |state: &State, errno| {
                Err(Stop::from(state.kernel(
                    operation,
                    Target::Named(spec.name),
                    errno,
                )))
            };
            // One on a macvlan is one on what that is on.
            let below = state.made(spec.lower).filter(|made| made.mode.is_some());
            let lower = below.and_then(|made| made.lower).unwrap_or(spec.lower);
            if !state.is_free(spec.name.as_str()) {
                return refused(state, EEXIST);
            }
            let speaks = state.netdev_at(lower).map(|netdev| netdev.link_type);
            if speaks != Some(LinkType::Ethernet) {
                return refused(state, EINVAL);
            }
            if let Some(errno) = state.macvlan_refusal(lower, spec.mode) {
                return refused(state, errno);
            }
            let most = state.link_of(lower).map_or(MOST_MTU, |link| link.mtu);
            let mtu = spec.mtu.unwrap_or(most);
            if !(LEAST_MTU..=most).contains(&mtu) {
                return refused(state, EINVAL);
            }
            let kind = if spec.tap { "macvtap" } else { "macvlan" };
            let index = state.add_made(Made {
                name: spec.name,
                kind: Some(kind.to_owned()),
                mac: spec.mac,
                lower: Some(lower),
                mode: Some(spec.mode),
                vlan: None,
                alias: None,
                pci: None,
                users: None,
                lasting: false,
            });
            state.put_mtu(index, mtu);
            finish(state, index, spec.name, &spec.tag, partial)
        })
    }

    fn make_vlan(&self, spec: &VlanSpec) -> Result<Netdev, HostError> {
        self.vlan(spec)
    }

    fn open_macvtap(&self, netdev: &Netdev, queues: TapQueues) -> Result<Vec<OwnedFd>, HostError> {
        let index = netdev.index;
        self.on(Operation::OpenTap, index, |state, _, _| {
            let kind = state.made(index).and_then(|made| made.kind.as_deref());
            if kind != Some("macvtap") || queues.count == 0 {
                return state.refused(Operation::OpenTap, index, EINVAL);
            }
            if queues.count > MOST_QUEUES {
                return state.refused(Operation::OpenTap, index, EBUSY);
            }
            null_devices(queues.count).map_err(|error| own(Operation::OpenTap, error))
        })
    }

    fn make_tap(&self, spec: &TapSpec) -> Result<(Netdev, Vec<OwnedFd>), HostError> {
        let operation = Operation::MakeTap;
        self.call(operation, Target::Named(spec.name), |state, partial| {
            let refused = |state: &State, errno| {
                let target = Target::Named(spec.name);
                Err(Stop::from(state.kernel(operation, target, errno)))
            };
            if !state.is_free(spec.name.as_str()) {
                return refused(state, EEXIST);
            }
            let mtu = spec.mtu.unwrap_or(1500);
            if !(LEAST_MTU..=MOST_MTU).contains(&mtu) || spec.queues.count == 0 {
                return refused(state, EINVAL);
            }
            if spec.queues.count > MOST_QUEUES {
                return refused(state, E2BIG);
            }
            let (users, queues) =
                pipes(spec.queues.count).map_err(|error| own(operation, error))?;
            let index = state.add_made(Made {
                name: spec.name,
                kind: Some(String::from("tun")),
                mac: spec.mac,
                lower: None,
                mode: None,
                vlan: None,
                alias: None,
                pci: None,
                users: Some(users),
                lasting: false,
            });
            state.put_mtu(index, mtu);
            let netdev = finish(state, index, spec.name, &spec.tag, partial)?;
            Ok((netdev, queues))
        })
    }

    fn open_tap(&self, name: NetdevName, queues: TapQueues) -> Result<Vec<OwnedFd>, HostError> {
        let operation = Operation::OpenTap;
        self.call(operation, Target::Named(name), |state, _| {
            let found = state.index_of(name.as_str());
            let index = found.ok_or_else(|| HostError::NoNetdev(name.to_string()))?;
            let kind = state.made(index).and_then(|made| made.kind.as_deref());
            let opened = match kind {
                Some("tun" | "macvtap") if queues.count > 0 => null_devices(queues.count),
                _ => return state.refused(operation, index, EINVAL),
            };
            opened.map_err(|error| own(operation, error))
        })
    }

    fn open_vhost(&self, count: u16) -> Result<Vec<OwnedFd>, HostError> {
        self.call(Operation::OpenVhost, None, |state, _| {
            if state.net.without_vhost {
                return Err(HostError::NoVhost.into());
            }
            null_devices(count).map_err(|error| own(Operation::OpenVhost, error))
        })
    }

    fn delete_link(&self, ifindex: u32, name: NetdevName) -> Result<(), HostError> {
        let operation = Operation::DeleteLink;
        self.call(operation, Target::Netdev(ifindex), |state, _| {
            match state.made(ifindex) {
                Some(made) if made.name != name => return Ok(()),
                Some(made) if made.kind.is_some() => {}
                None if state.who(ifindex).is_none() => return Ok(()),
                // A card's can't be removed so.
                Some(_) | None => return state.refused(operation, ifindex, EOPNOTSUPP),
            }
            state.remove_made(ifindex);
            state.effect(Effect::LinkRemoved(ifindex))
        })
    }

    fn set_master(&self, ifindex: u32, master: Option<u32>) -> Result<(), HostError> {
        let operation = Operation::SetMaster;
        self.on(operation, ifindex, |state, _, _| {
            if let Some(master) = master {
                let kind = |index| state.made(index).and_then(|made| made.kind.as_deref());
                let errno = match kind(master) {
                    None if state.who(master).is_none() => Some(EINVAL),
                    Some("bridge" | "bond" | "team") if kind(ifindex) == Some("bridge") => {
                        Some(ELOOP)
                    }
                    Some("bridge" | "bond" | "team") => {
                        (state.macvlans_on(ifindex).next()).map(|_| EBUSY)
                    }
                    _ => Some(EOPNOTSUPP),
                };
                if let Some(errno) = errno {
                    return state.refused(operation, ifindex, errno);
                }
            }
            state.put_into(ifindex, master);
            state.effect(Effect::Master(ifindex, master))
        })
    }

    fn set_bridge_port(&self, ifindex: u32, port: &BridgePort) -> Result<(), HostError> {
        self.on(Operation::SetBridgePort, ifindex, |state, _, _| {
            if state.common(ifindex).port.is_none() {
                return state.refused(Operation::SetBridgePort, ifindex, EOPNOTSUPP);
            }
            state.change(ifindex, |common| {
                if let Some(now) = &mut common.port {
                    now.isolated = port.isolated.or(now.isolated);
                    now.learning = port.learning.or(now.learning);
                    now.unicast_flood = port.unicast_flood.or(now.unicast_flood);
                    now.vlans = port.vlans.clone().or(now.vlans.take());
                }
            });
            state.effect(Effect::BridgePort(ifindex, port.clone()))
        })
    }

    fn set_bridge_mac(
        &self,
        ifindex: u32,
        mac: MacAddress,
        present: bool,
    ) -> Result<(), HostError> {
        self.on(Operation::SetBridgeMac, ifindex, |state, _, _| {
            if state.common(ifindex).port.is_none() {
                return state.refused(Operation::SetBridgeMac, ifindex, EOPNOTSUPP);
            }
            let tables = &mut state.net.tables;
            if present {
                // A MAC is behind one port.
                tables.retain(|(_, other)| *other != mac);
                tables.insert((ifindex, mac));
            } else {
                tables.remove(&(ifindex, mac));
            }
            state.effect(Effect::BridgeMac(ifindex, mac, present))
        })
    }

    fn rx_filter(&self, ifindex: u32) -> Result<RxFilter, HostError> {
        self.on(Operation::ReadNetdev, ifindex, |state, _, _| {
            Ok(state.common(ifindex).filter)
        })
    }

    fn set_rx_filter(&self, ifindex: u32, filter: &RxFilter) -> Result<(), HostError> {
        self.on(Operation::SetRxFilter, ifindex, |state, _, _| {
            if !filter.multicast.iter().all(|mac| mac.is_multicast()) {
                return state.refused(Operation::SetRxFilter, ifindex, EINVAL);
            }
            let mut filter = filter.clone();
            filter.multicast.sort_unstable();
            filter.multicast.dedup();
            state.change(ifindex, |common| common.filter = filter.clone());
            state.netdev_changed(ifindex);
            state.effect(Effect::RxFilter(ifindex, filter))
        })
    }

    fn set_bandwidth(&self, ifindex: u32, bandwidth: &Bandwidth) -> Result<(), HostError> {
        self.shape(ifindex, bandwidth)
    }

    fn autoprobe(&self, pf: &PhysicalFunction) -> Result<bool, HostError> {
        self.autoprobe_of(pf)
    }

    fn set_autoprobe(&self, pf: &PhysicalFunction, on: bool) -> Result<(), HostError> {
        self.change_autoprobe(pf, on)
    }

    fn port_profile(&self, request: &PortRequest) -> Result<(), HostError> {
        self.ask_port(request)
    }
}

impl SimulatedHost {
    /// A call about a device that has to be there.
    pub(super) fn on<T>(
        &self,
        operation: Operation,
        index: u32,
        carry_out: impl FnOnce(&mut State, Who, bool) -> Result<T, Stop>,
    ) -> Result<T, HostError> {
        self.call(
            operation,
            Target::Netdev(index),
            |state, partial| match state.who(index) {
                Some(who) => carry_out(state, who, partial),
                None => state.refused(operation, index, ENODEV),
            },
        )
    }
}

/// Tags a device that was just made; where that fails "in part", it stays without a tag.
pub(super) fn finish(
    state: &mut State,
    index: u32,
    name: NetdevName,
    tag: &str,
    partial: bool,
) -> Result<Netdev, Stop> {
    state.effect(Effect::LinkMade(index, name))?;
    if !partial {
        let is_for_guest = (state.made(index))
            .is_some_and(|made| matches!(made.kind.as_deref(), Some("macvtap" | "tun")));
        if let Some(made) = state.made_mut(index) {
            made.alias = Some(tag.to_owned());
        }
        if is_for_guest {
            state.change_ipv6(index, |ipv6| {
                ipv6.addr_gen_mode = Ipv6Autoconf::NONE.addr_gen_mode;
            });
        }
        state.effect(Effect::Tagged(index, tag.to_owned()))?;
    }
    let netdev = state.netdev_at(index);
    Ok(netdev.ok_or_else(|| HostError::NoNetdev(name.to_string()))?)
}

/// A failure that is this process's own.
fn own(operation: Operation, source: io::Error) -> Stop {
    Stop::Error(HostError::Kernel {
        operation,
        target: String::from("the simulated host"),
        source,
    })
}

fn null_devices(count: u16) -> io::Result<Vec<OwnedFd>> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    let opened = (0..count).map(|_| options.open("/dev/null").map(OwnedFd::from));
    opened.collect()
}

/// One end that tells when the other ones are all closed, and those.
fn pipes(count: u16) -> io::Result<(io::PipeReader, Vec<OwnedFd>)> {
    let (users, queue) = io::pipe()?;
    let mut queues = Vec::with_capacity(usize::from(count));
    for _ in 1..count {
        queues.push(OwnedFd::from(queue.try_clone()?));
    }
    queues.push(OwnedFd::from(queue));
    Ok((users, queues))
}
