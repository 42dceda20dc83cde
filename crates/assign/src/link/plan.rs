//! What making a link would take.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use conf::{DeviceId, DirectMode, MacAddress, NetdevName};
use host::{BridgePort, Host, Ipv6Autoconf, LinkType, Netdev, PortAction, Usage, VfSetting};

use crate::assigner::Assigner;
use crate::device::{Holder, Item};
use crate::error::Obstacle;
use crate::plan::ItemPlan;
use crate::preparation::{MacvtapPreparation, Profile, ProfileId, TapPreparation, Vhost};
use crate::profile::for_macvtap;
use crate::record::{LinkKind, LinkWork, LowerWork, ProfileWork, VfWork, WholeWork, Work};
use crate::settings::{steps_to_make, wanted};
use crate::step::{Step, protocol};
use crate::vfio::check_pf;

/// What the kernel lets an Ethernet link have: IPv4's least, and a tap's most.
const MTUS: RangeInclusive<u32> = 68..=65_521;

fn check_mtu(mtu: Option<u32>) -> Result<(), Obstacle> {
    match mtu {
        Some(mtu) if !MTUS.contains(&mtu) => Err(Obstacle::MtuOutOfRange(mtu)),
        _ => Ok(()),
    }
}

/// Names of macvtaps start so.
pub(crate) const MACVTAP: &str = "macvtap";
/// Names of taps start so.
pub(crate) const TAP: &str = "vnet";

impl Assigner {
    pub(crate) fn plan_macvtap(
        &self,
        item: Item,
        holder: &Holder,
        macvtap: &MacvtapPreparation,
        others: &BTreeSet<NetdevName>,
    ) -> Result<ItemPlan, Obstacle> {
        let host = &*self.host.0;
        let lower = host.netdev(macvtap.lower.as_str())?;
        let is_whole = macvtap.mode == DirectMode::Passthrough;
        let device = match (item, is_whole) {
            (Item::Device(device), true) => device,
            (Item::Link(generation), false) => {
                let line = self.find_generation(generation);
                line.and_then(|line| line.parent)
                    .unwrap_or_else(|| device_of(&lower))
            }
            _ => return Err(Obstacle::WrongClaim { item }),
        };
        if !is_of(&lower, device) {
            return Err(Obstacle::OtherDevice {
                netdev: lower.name,
                device,
            });
        }
        if let Some(mtu) = macvtap
            .mtu
            .filter(|mtu| *mtu > lower.state.mtu && !is_whole)
        {
            return Err(Obstacle::MtuAboveParent {
                mtu,
                parent: lower.name,
                parent_mtu: lower.state.mtu,
            });
        }
        check_mtu(macvtap.mtu)?;
        if let Some(what) = self.carries_none(&lower) {
            let netdev = lower.name;
            return Err(Obstacle::NoLower { netdev, what });
        }
        if is_whole && macvtap.vlan.is_some() {
            return Err(Obstacle::NoVf { netdev: lower.name });
        }
        let mut steps = Vec::new();
        let mut ipv6 = None;
        let mut vlan = None;
        let whole = if is_whole {
            let whole = self.plan_whole(&lower, macvtap, &mut steps)?;
            ipv6 = host.ipv6_autoconf(lower.index)?;
            if ipv6.is_some_and(|found| found != Ipv6Autoconf::NONE) {
                steps.push(Step::NoIpv6 { netdev: lower.name });
            }
            Some(whole)
        } else {
            refuse_enslaved(host, &lower)?;
            let planned = macvtap.vlan.map(|id| self.plan_vlan(&lower, id));
            match planned.transpose()? {
                None => self.refuse_taken_mac(&lower, Some(&lower), macvtap.mac)?,
                Some(planned) => {
                    self.refuse_taken_mac(&lower, planned.now.as_ref(), macvtap.mac)?;
                    steps.push(planned.step);
                    vlan = Some(planned.work);
                }
            }
            None
        };
        let name = match macvtap.name {
            Some(name) => self.asked_name(name)?,
            None => self.free_name(MACVTAP, others)?,
        };
        steps.push(Step::MakeMacvtap {
            name,
            lower: vlan.as_ref().map_or(lower.name, |vlan| vlan.name),
            mode: macvtap.mode,
            mtu: macvtap.mtu,
        });
        if macvtap.all_multicast {
            steps.push(Step::AllMulticast);
        }
        steps.extend(macvtap.bandwidth.clone().map(Step::Shape));
        let profile = match &macvtap.profile {
            Some(Profile {
                id: ProfileId::Qbh { .. },
                ..
            }) if vlan.is_some() => return Err(Obstacle::ProfileWithVlan),
            Some(profile) => {
                let vf = whole.as_ref().and_then(|whole| whole.vf.as_ref());
                let vf = vf.map(|work| &work.vf);
                let work = for_macvtap(&profile.id, holder, macvtap.mac, &lower, vf)?;
                steps.push(profile_step(profile.action, &work));
                Some(work)
            }
            None => None,
        };
        steps.push(Step::Open {
            name,
            queues: macvtap.queues,
        });
        steps.extend(vhost_step(macvtap.vhost));
        Ok(ItemPlan {
            item,
            steps,
            work: Work::Link(LinkWork {
                kind: LinkKind::Macvtap,
                name,
                index: None,
                mac: macvtap.mac,
                guest_mac: macvtap.mac,
                existing: false,
                lower: Some(LowerWork {
                    device,
                    name: lower.name,
                    index: lower.index,
                    raised: false,
                    ipv6,
                    vlan,
                    whole,
                }),
                mode: Some(macvtap.mode),
                bridge: None,
                bridge_index: None,
                static_mac: false,
                shaped: macvtap.bandwidth.is_some(),
                profile,
            }),
        })
    }

    /// Why no macvtap can stand on a device, in words.
    fn carries_none(&self, lower: &Netdev) -> Option<&'static str> {
        match lower.link_type {
            LinkType::Ethernet => {}
            LinkType::Loopback => return Some("the loopback device"),
            _ => return Some("no Ethernet device"),
        }
        // The kernel would put it on what is below that one.
        let is_tap = matches!(lower.kind.as_deref(), Some("macvtap" | "tun"));
        (is_tap || self.read_tag(lower).is_some()).then_some("a guest's own link")
    }

    /// Devices that share one, and that one, have a MAC each: the kernel would let this one be made,
    /// and refuse to switch it on. `on`: what it is to stand on, if that is there yet.
    fn refuse_taken_mac(
        &self,
        lower: &Netdev,
        on: Option<&Netdev>,
        mac: MacAddress,
    ) -> Result<(), Obstacle> {
        let taken = |holder| Obstacle::MacTaken {
            mac,
            parent: lower.name,
            holder,
        };
        for below in [Some(lower), on].into_iter().flatten() {
            if below.mac == mac {
                return Err(taken(format!("is that of '{}' itself", below.name)));
            }
        }
        let Some(on) = on else { return Ok(()) };
        let all = self.host.0.netdevs()?;
        let is_it = |other: &&Netdev| {
            let is_macvlan = matches!(other.kind.as_deref(), Some("macvtap" | "macvlan"));
            is_macvlan && other.lower == Some(on.index) && other.mac == mac
        };
        match all.iter().find(is_it) {
            None => Ok(()),
            Some(other) => Err(taken(format!(
                "is that of '{}', {}",
                other.name,
                self.whose(other)
            ))),
        }
    }

    /// What the device below gets, where the guest is its only user.
    fn plan_whole(
        &self,
        lower: &Netdev,
        macvtap: &MacvtapPreparation,
        steps: &mut Vec<Step>,
    ) -> Result<WholeWork, Obstacle> {
        let host = &*self.host.0;
        let mut usages = host.netdev_usage(lower)?;
        // Ours are not counted there, and are as much in the way as any.
        let ours = host.netdevs()?.into_iter();
        let ours = ours.filter(|upper| upper.lower == Some(lower.index) && upper.is_ours());
        usages.extend(ours.map(|upper| Usage::Lower {
            netdev: lower.name.to_string(),
            upper: upper.name.to_string(),
        }));
        usages.dedup();
        if !usages.is_empty() {
            return Err(Obstacle::InUse(usages));
        }
        let is_qbh = matches!(
            macvtap.profile,
            Some(Profile {
                id: ProfileId::Qbh { .. },
                ..
            })
        );
        let vf = match (&macvtap.vf, lower.pci) {
            (Some(config), Some(address)) => {
                if is_qbh && config.vlan_id().is_some() {
                    return Err(Obstacle::ProfileWithVlan);
                }
                // The host says what the device lacks, where it is no VF.
                let vf = host.virtual_function(address)?;
                check_pf(host, &vf)?;
                let original = host.vf_state(&vf)?;
                let mut settings = wanted(config, &original, host.vf_abilities(&vf)?)?;
                // Its own network device gets the MAC.
                settings.retain(|setting| match setting {
                    VfSetting::Mac(_) => false,
                    VfSetting::Vlan { .. } => !is_qbh,
                    _ => true,
                });
                steps.extend(steps_to_make(&settings, &original));
                let mac_given = host.vf_mac_is_given(&vf)?;
                Some(VfWork {
                    vf,
                    original,
                    mac_given,
                    settings,
                })
            }
            (Some(_), None) => return Err(Obstacle::NoVf { netdev: lower.name }),
            (None, _) => None,
        };
        if lower.mac != macvtap.mac {
            steps.push(Step::LowerMac {
                netdev: lower.name,
                mac: macvtap.mac,
            });
        }
        if let Some(mtu) = macvtap.mtu.filter(|mtu| *mtu > lower.state.mtu) {
            steps.push(Step::LowerMtu {
                netdev: lower.name,
                mtu,
            });
        }
        Ok(WholeWork {
            mac: lower.mac,
            mtu: lower.state.mtu,
            up: lower.state.up,
            vf,
        })
    }

    pub(crate) fn plan_tap(
        &self,
        item: Item,
        tap: &TapPreparation,
        others: &BTreeSet<NetdevName>,
    ) -> Result<ItemPlan, Obstacle> {
        let host = &*self.host.0;
        let mut steps = Vec::new();
        let existing = match (tap.existing, tap.name) {
            (false, _) => None,
            (true, Some(name)) => Some(host.netdev(name.as_str())?),
            (true, None) => return Err(Obstacle::NoName),
        };
        let bridge = (tap.bridge.filter(|_| existing.is_none()))
            .map(|name| bridge(host, name))
            .transpose()?;
        let (name, mac) = match (&existing, tap.name) {
            (Some(netdev), _) => (netdev.name, netdev.mac),
            (None, Some(name)) => (self.asked_name(name)?, own_mac(tap.mac)),
            (None, None) => (self.free_name(TAP, others)?, own_mac(tap.mac)),
        };
        if existing.is_some() {
            steps.push(Step::Open {
                name,
                queues: tap.queues,
            });
        } else {
            let bridge_mtu = bridge.as_ref().map(|bridge| bridge.state.mtu);
            let mtu = tap.mtu.or(bridge_mtu);
            check_mtu(tap.mtu)?;
            steps.push(Step::MakeTap { name, mtu });
        }
        if let Some(bridge) = &bridge {
            steps.push(Step::Join {
                bridge: bridge.name,
                index: bridge.index,
            });
            if tap.port != BridgePort::default() {
                steps.push(Step::Port(tap.port.clone()));
            }
        }
        steps.extend(tap.bandwidth.clone().map(Step::Shape));
        steps.extend(vhost_step(tap.vhost));
        if existing.is_none() {
            steps.push(Step::Up);
        }
        Ok(ItemPlan {
            item,
            steps,
            work: Work::Link(LinkWork {
                kind: LinkKind::Tap,
                name,
                index: existing.as_ref().map(|netdev| netdev.index),
                mac,
                guest_mac: tap.mac,
                existing: tap.existing,
                lower: None,
                mode: None,
                bridge: bridge.as_ref().map(|bridge| bridge.name),
                bridge_index: bridge.as_ref().map(|bridge| bridge.index),
                static_mac: tap.static_mac && bridge.is_some(),
                shaped: tap.bandwidth.is_some(),
                profile: None,
            }),
        })
    }
}

/// A bridge or bond hears all that arrives at its members, and the kernel lets nothing else listen
/// there. A VRF does not listen.
pub(super) fn refuse_enslaved(host: &dyn Host, lower: &Netdev) -> Result<(), Obstacle> {
    let Some(index) = lower.master else {
        return Ok(());
    };
    let master = host.netdevs()?.into_iter().find(|n| n.index == index);
    if (master.as_ref()).is_some_and(|master| master.kind.as_deref() == Some("vrf")) {
        return Ok(());
    }
    Err(Obstacle::Enslaved {
        netdev: lower.name,
        master: master.map_or_else(|| format!("device {index}"), |m| m.name.to_string()),
    })
}

fn profile_step(action: PortAction, work: &ProfileWork) -> Step {
    Step::Profile {
        action,
        protocol: protocol(&work.profile),
    }
}

fn vhost_step(vhost: Vhost) -> Option<Step> {
    match vhost {
        Vhost::Never => None,
        Vhost::IfThere => Some(Step::Vhost { optional: true }),
        Vhost::Required => Some(Step::Vhost { optional: false }),
    }
}

fn bridge(host: &dyn Host, name: NetdevName) -> Result<Netdev, Obstacle> {
    let netdev = host.netdev(name.as_str())?;
    if netdev.kind.as_deref() == Some("bridge") {
        return Ok(netdev);
    }
    Err(Obstacle::NoBridge { netdev: name })
}

/// A device by what it is known by, where nobody claimed it under another name.
fn device_of(netdev: &Netdev) -> DeviceId {
    netdev
        .pci
        .map_or(DeviceId::Netdev(netdev.name), DeviceId::Pci)
}

fn is_of(netdev: &Netdev, device: DeviceId) -> bool {
    match device {
        DeviceId::Pci(address) => netdev.pci == Some(address),
        DeviceId::Usb(_) => false,
        DeviceId::Netdev(name) => {
            netdev.name == name
                || (netdev.alternative_names.iter()).any(|other| other == name.as_str())
        }
    }
}

/// The MAC of the host's end of a tap: never a guest's, never the lowest in a bridge.
fn own_mac(guest: MacAddress) -> MacAddress {
    let mut bytes = guest.bytes();
    bytes[0] = if bytes[0] == 0xfe { 0xfa } else { 0xfe };
    MacAddress::new(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_end_has_another_mac_than_the_guest() {
        let own = |text: &str| own_mac(text.parse().unwrap()).to_string();
        assert_eq!(own("52:54:00:00:00:01"), "fe:54:00:00:00:01");
        assert_eq!(own("fe:54:00:00:00:01"), "fa:54:00:00:00:01");
    }
}
