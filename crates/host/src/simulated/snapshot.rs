//! The whole host at one moment, to compare.

use std::collections::{BTreeMap, BTreeSet};

use conf::{Bandwidth, DirectMode, MacAddress, PciAddress, UsbAddress};

use super::SimulatedHost;
use super::net::Who;
use super::state::{Place, State};
use crate::{BridgePort, Ipv6Autoconf, Netdev, NodeAccess, PortRequest, RxFilter, VfState};

/// All VFs, and the plain devices, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// By address.
    pub devices: BTreeMap<PciAddress, DeviceSnapshot>,
    /// Network devices by name; of VFs' only those that are not as their driver makes them.
    pub netdevs: BTreeMap<String, NetdevSnapshot>,
    /// PFs whose new VFs get no driver by themselves.
    pub without_autoprobe: BTreeSet<PciAddress>,
    /// How network devices are shaped, by index.
    pub bandwidths: BTreeMap<u32, Bandwidth>,
    /// USB devices: their interfaces' drivers, and who may open them.
    pub usb: BTreeMap<UsbAddress, (Vec<Option<String>>, NodeAccess)>,
    /// Nodes of IOMMU groups that others than root may open, by group.
    pub vfio: BTreeMap<u32, NodeAccess>,
    /// Port profiles that are agreed, by the guest's MAC.
    pub port_profiles: BTreeMap<MacAddress, PortRequest>,
}

/// One device at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceSnapshot {
    /// Its settings, where it is a VF.
    pub vf: Option<VfState>,
    /// Its driver.
    pub driver: Option<String>,
    /// Its `driver_override`.
    pub driver_override: Option<String>,
}

/// One network device at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetdevSnapshot {
    /// MAC, link, master …; without its index. A VF's MAC is among its settings, and zeroes here.
    pub netdev: Netdev,
    /// How a macvtap's frames reach others.
    pub mode: Option<DirectMode>,
    /// What it lets in.
    pub filter: RxFilter,
    /// How it stands in its bridge.
    pub port: Option<BridgePort>,
    /// How it gets IPv6 addresses.
    pub ipv6: Ipv6Autoconf,
    /// MACs that its bridge's table has, statically, behind it.
    pub bridge_macs: Vec<MacAddress>,
}

impl Snapshot {
    /// The devices that differ, each with what it was (`self`) and what it is (`later`).
    #[must_use]
    pub fn differences(&self, later: &Self) -> Vec<String> {
        let all: BTreeSet<_> = self.devices.keys().chain(later.devices.keys()).collect();
        let differing = all.into_iter().filter_map(|address| {
            let (before, after) = (self.devices.get(address), later.devices.get(address));
            (before != after).then(|| format!("{address}: was {before:?}, is {after:?}"))
        });
        let mut found: Vec<String> = differing.collect();
        let names: BTreeSet<_> = self.netdevs.keys().chain(later.netdevs.keys()).collect();
        for name in names {
            let (before, after) = (self.netdevs.get(name), later.netdevs.get(name));
            if before != after {
                found.push(format!("{name}: was {before:?}, is {after:?}"));
            }
        }
        let mut compare = |what: &str, before: String, after: String| {
            if before != after {
                found.push(format!("{what}: was {before}, is {after}"));
            }
        };
        compare(
            "without autoprobe",
            format!("{:?}", self.without_autoprobe),
            format!("{:?}", later.without_autoprobe),
        );
        compare(
            "shaping",
            format!("{:?}", self.bandwidths),
            format!("{:?}", later.bandwidths),
        );
        compare(
            "USB devices",
            format!("{:?}", self.usb),
            format!("{:?}", later.usb),
        );
        compare(
            "vfio groups",
            format!("{:?}", self.vfio),
            format!("{:?}", later.vfio),
        );
        compare(
            "port profiles",
            format!("{:?}", self.port_profiles),
            format!("{:?}", later.port_profiles),
        );
        found
    }
}

impl SimulatedHost {
    /// All devices as they are now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut state = self.lock();
        state.close_unused_taps();
        let mut addresses: Vec<_> = (state.places.iter())
            .filter(|(_, place)| !matches!(place, Place::Pf(_)))
            .map(|(address, _)| *address)
            .collect();
        addresses.sort_unstable();
        let devices = addresses.into_iter().map(|address| {
            let vf = state.vf_state(address).ok();
            let binding = state.binding(address).ok().flatten().cloned();
            let binding = binding.unwrap_or_default();
            let device = DeviceSnapshot {
                vf,
                driver: binding.driver.map(Into::into),
                driver_override: binding.driver_override.map(Into::into),
            };
            (address, device)
        });
        let devices = devices.collect();
        let mut vfio: BTreeMap<_, _> = (state.vfio_nodes.iter())
            .filter(|(_, access)| **access != NodeAccess::ROOT)
            .map(|(group, access)| (*group, *access))
            .collect();
        vfio.retain(|group, _| state.vfio_access(*group).is_some());
        let without = state.qos.without_autoprobe.iter();
        Snapshot {
            devices,
            netdevs: netdevs(&state),
            without_autoprobe: without.map(|pf| state.shape.pf_address(*pf)).collect(),
            bandwidths: state.qos.bandwidths.clone(),
            usb: state.usb.told(),
            vfio,
            port_profiles: state.qos.profiles.clone(),
        }
    }
}

fn netdevs(state: &State) -> BTreeMap<String, NetdevSnapshot> {
    let all = state.all_netdevs().into_iter();
    let told = all.filter_map(|mut netdev| {
        let (index, common) = (netdev.index, state.common(netdev.index));
        if let Some(Who::Vf(..)) = state.who(index) {
            netdev.mac = MacAddress::ZERO;
            if common == Default::default() {
                return None;
            }
        }
        netdev.index = 0;
        let behind = state.net.tables.iter().filter(|(port, _)| *port == index);
        let snapshot = NetdevSnapshot {
            mode: state.made(index).and_then(|made| made.mode),
            filter: common.filter,
            port: common.port,
            ipv6: state.ipv6_of(index),
            bridge_macs: behind.map(|(_, mac)| *mac).collect(),
            netdev,
        };
        Some((snapshot.netdev.name.to_string(), snapshot))
    });
    told.collect()
}
