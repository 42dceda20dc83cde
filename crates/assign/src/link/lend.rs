//! Making a link for a guest.

use std::os::fd::OwnedFd;

use conf::{DirectMode, NetdevName};
use host::{Host, HostError, MacvlanSpec, Netdev, RxFilter, TapQueues, TapSpec, VlanId};

use super::find::lower_now;
use super::lower::{Given, give_mac, give_mtu, hush};
use super::names::name_of;
use super::plan::{MACVTAP, TAP};
use super::vlan::vlan_now;
use crate::assigner::Assigner;
use crate::error::Obstacle;
use crate::list::InHand;
use crate::patience::insist;
use crate::plan::ItemPlan;
use crate::preparation::Preparation;
use crate::prepare::LentKind;
use crate::record::{LinkWork, Record};
use crate::settings::{describe, read_back};
use crate::step::Step;

const EEXIST: i32 = rustix::io::Errno::EXIST.raw_os_error();

impl Assigner {
    pub(crate) fn lend_link(
        &self,
        in_hand: &InHand<'_>,
        plan: &ItemPlan,
        preparation: &Preparation,
        record: &mut Record,
    ) -> Result<LentKind, Obstacle> {
        let (queues, asked_name) = match preparation {
            Preparation::Macvtap(macvtap) => (macvtap.queues, macvtap.name),
            Preparation::Tap(tap) => (tap.queues, tap.name),
            Preparation::Vfio(_) | Preparation::Usb => {
                return Err(Obstacle::WrongClaim { item: plan.item });
            }
        };
        let mut making = Making {
            assigner: self,
            host: &*self.host.0,
            in_hand,
            tag: self.tag_of(record),
            record,
            queues,
            asked_name,
            netdev: None,
            taps: Vec::new(),
            vhosts: Vec::new(),
        };
        for step in &plan.steps {
            making.take(step)?;
        }
        making.finish(&plan.steps)
    }
}

/// A link that is being made. Dropped, its queues are closed.
struct Making<'a> {
    assigner: &'a Assigner,
    host: &'a dyn Host,
    in_hand: &'a InHand<'a>,
    record: &'a mut Record,
    tag: String,
    queues: TapQueues,
    asked_name: Option<NetdevName>,
    netdev: Option<Netdev>,
    taps: Vec<OwnedFd>,
    vhosts: Vec<OwnedFd>,
}

impl Making<'_> {
    fn take(&mut self, step: &Step) -> Result<(), Obstacle> {
        let host = self.host;
        match step {
            Step::Set(setting) => {
                if let Some(work) = self.record.vf() {
                    insist(|| host.set_vf(&work.vf, *setting))?;
                }
            }
            // Another one, if its driver was bound anew for its MAC.
            Step::NoIpv6 { .. } => hush(host, self.lower()?.index)?,
            Step::LowerMac { mac, .. } => self.lower_mac(*mac)?,
            Step::LowerMtu { mtu, .. } => {
                let lower = self.lower()?;
                give_mtu(host, &lower, *mtu)?;
            }
            Step::TakeVlan { id, .. } => self.take_vlan(*id)?,
            Step::MakeMacvtap { mode, mtu, .. } => self.make_macvtap(*mode, *mtu)?,
            Step::MakeTap { mtu, .. } => self.make_tap(*mtu)?,
            Step::Join { index, .. } => host.set_master(self.index()?, Some(*index))?,
            Step::Port(port) => host.set_bridge_port(self.index()?, port)?,
            Step::AllMulticast => host.set_rx_filter(self.index()?, &all_multicast())?,
            Step::Shape(bandwidth) => host.set_bandwidth(self.index()?, bandwidth)?,
            Step::Profile { action, .. } => {
                (self.assigner).join(self.in_hand, self.record, *action)?;
            }
            Step::Open { name, .. } => self.open(*name)?,
            Step::Vhost { optional } => self.open_vhost(*optional)?,
            Step::Up => host.set_up(self.index()?, true)?,
            // There are none for links.
            Step::Bind { .. } | Step::Grant { .. } | Step::GrantUsb { .. } => {}
        }
        Ok(())
    }

    /// A driver that takes no MAC of its own because its PF gave it one gets the guest's through
    /// the PF, which is recorded first.
    fn lower_mac(&mut self, mac: conf::MacAddress) -> Result<(), Obstacle> {
        let lower = self.lower()?;
        let vf = self.record.vf().map(|work| &work.vf);
        match give_mac(self.host, &lower, mac, vf)? {
            Given::Directly => Ok(()),
            Given::Refused(refusal) => {
                let whole = self.record.link_mut().and_then(|link| link.lower.as_mut());
                let whole = whole.and_then(|lower| lower.whole.as_mut());
                let Some(work) = whole.and_then(|whole| whole.vf.as_mut()) else {
                    return Err(refusal.into());
                };
                let setting = host::VfSetting::Mac(mac);
                work.settings.push(setting);
                let (vf, driver) = (work.vf.clone(), work.original.driver.clone());
                self.assigner.keep(self.in_hand, self.record)?;
                insist(|| self.host.set_vf(&vf, setting))?;
                Ok(crate::vf::rebind(self.host, vf.address, driver.as_deref())?)
            }
        }
    }

    fn take_vlan(&mut self, id: VlanId) -> Result<(), Obstacle> {
        let (assigner, in_hand) = (self.assigner, self.in_hand);
        let _one_at_a_time = assigner.hold_parents();
        let lower = self.lower()?;
        let record = &mut *self.record;
        assigner.take_vlan(&lower, id, |work| {
            if let Some(vlan) = record.vlan_mut() {
                *vlan = work;
            }
            assigner.keep(in_hand, record)
        })
    }

    fn make_macvtap(&mut self, mode: DirectMode, mtu: Option<u32>) -> Result<(), Obstacle> {
        let lower = self.stands_on()?;
        let mac = self.link()?.mac;
        let netdev = self.under_a_free_name(MACVTAP, |making, name| {
            making.host.make_macvlan(&MacvlanSpec {
                name,
                lower,
                mode,
                mac,
                mtu,
                tap: true,
                tag: making.tag.clone(),
            })
        })?;
        self.made(netdev)
    }

    fn make_tap(&mut self, mtu: Option<u32>) -> Result<(), Obstacle> {
        let mac = self.link()?.mac;
        let (netdev, taps) = self.under_a_free_name(TAP, |making, name| {
            making.host.make_tap(&TapSpec {
                name,
                mac,
                mtu,
                queues: making.queues,
                tag: making.tag.clone(),
            })
        })?;
        self.taps = taps;
        self.made(netdev)
    }

    /// Makes it under the name that is recorded, or, if somebody took that meanwhile, the next one
    /// that is free, recorded first.
    fn under_a_free_name<T>(
        &mut self,
        prefix: &'static str,
        make: impl Fn(&Self, NetdevName) -> Result<T, HostError>,
    ) -> Result<T, Obstacle> {
        loop {
            let name = self.link()?.name;
            match make(self, name) {
                Err(error) if error.errno() == Some(EEXIST) => {
                    if self.asked_name.is_some() {
                        let holder = self.host.netdev(name.as_str())?;
                        return Err(self.assigner.taken(&holder));
                    }
                    let tried = name.as_str().trim_start_matches(prefix).parse();
                    let next = tried.map_or(0, |tried: u32| tried.saturating_add(1));
                    let name = self.assigner.free_name_from(prefix, next)?;
                    self.rename(name)?;
                }
                settled => return Ok(settled?),
            }
        }
    }

    fn rename(&mut self, name: NetdevName) -> Result<(), Obstacle> {
        if let Some(link) = self.record.link_mut() {
            link.name = name;
        }
        self.assigner.keep(self.in_hand, self.record)
    }

    fn made(&mut self, netdev: Netdev) -> Result<(), Obstacle> {
        if let Some(link) = self.record.link_mut() {
            link.index = Some(netdev.index);
        }
        self.netdev = Some(netdev);
        self.assigner.keep(self.in_hand, self.record)
    }

    fn open(&mut self, name: NetdevName) -> Result<(), Obstacle> {
        self.taps = match &self.netdev {
            Some(netdev) => self.host.open_macvtap(netdev, self.queues)?,
            // Somebody else made it.
            None => self.host.open_tap(name, self.queues)?,
        };
        Ok(())
    }

    fn open_vhost(&mut self, optional: bool) -> Result<(), Obstacle> {
        match self.host.open_vhost(self.queues.count) {
            Ok(vhosts) => self.vhosts = vhosts,
            Err(HostError::NoVhost) if optional => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Reads back all that was set.
    fn finish(mut self, steps: &[Step]) -> Result<LentKind, Obstacle> {
        let host = self.host;
        let link = self.link()?;
        let netdev = host.netdev(link.name.as_str())?;
        if !link.existing {
            let not_kept = |wanted: String, found: String| Obstacle::NotKept { wanted, found };
            if Some(netdev.index) != link.index || netdev.alias.as_deref() != Some(&self.tag) {
                let found = "another of that name".to_owned();
                return Err(not_kept(link.name.to_string(), found));
            }
            if netdev.mac != link.mac {
                let (wanted, found) = (link.mac, netdev.mac);
                return Err(not_kept(format!("MAC {wanted}"), format!("MAC {found}")));
            }
            if netdev.master != link.bridge_index {
                let master = |index: Option<u32>| match index {
                    Some(index) => format!("bridge {}", name_of(host, index)),
                    None => "no bridge".to_owned(),
                };
                let (wanted, found) = (master(link.bridge_index), master(netdev.master));
                return Err(not_kept(wanted, found));
            }
            for step in steps {
                self.check(step, &netdev)?;
            }
            self.check_vlan(&netdev)?;
            self.check_lower()?;
        }
        Ok(LentKind::Link {
            netdev,
            taps: std::mem::take(&mut self.taps),
            vhosts: std::mem::take(&mut self.vhosts),
        })
    }

    fn check(&self, step: &Step, netdev: &Netdev) -> Result<(), Obstacle> {
        let (wanted, found) = match step {
            Step::MakeMacvtap { mtu: Some(mtu), .. } | Step::MakeTap { mtu: Some(mtu), .. }
                if *mtu != netdev.state.mtu =>
            {
                (format!("MTU {mtu}"), format!("MTU {}", netdev.state.mtu))
            }
            Step::AllMulticast if !self.host.rx_filter(netdev.index)?.all_multicast => {
                ("all multicasts".to_owned(), "not all multicasts".to_owned())
            }
            Step::Up if !netdev.state.up => ("up".to_owned(), "down".to_owned()),
            _ => return Ok(()),
        };
        Err(Obstacle::NotKept { wanted, found })
    }

    /// A guest with a VLAN is never untagged.
    fn check_vlan(&self, netdev: &Netdev) -> Result<(), Obstacle> {
        let Some(work) = self.record.vlan() else {
            return Ok(());
        };
        let lower = self.lower()?.index;
        let below = vlan_now(self.host, work)?;
        let is_so = below.as_ref().is_some_and(|below| {
            netdev.lower == Some(below.index)
                && below.lower == Some(lower)
                && below.vlan == Some(work.id)
        });
        if is_so {
            return Ok(());
        }
        let tag = below.and_then(|below| below.vlan);
        Err(Obstacle::NotKept {
            wanted: format!("VLAN {}", work.id),
            found: tag.map_or_else(|| "no VLAN".to_owned(), |id| format!("VLAN {id}")),
        })
    }

    fn check_lower(&self) -> Result<(), Obstacle> {
        let link = self.link()?;
        let Some(whole) = link.whole() else {
            return Ok(());
        };
        if let Some(work) = &whole.vf {
            read_back(self.host, work)?;
        }
        let lower = self.lower()?;
        if lower.mac != link.guest_mac {
            let mac = |mac| describe(host::VfSetting::Mac(mac));
            return Err(Obstacle::NotKept {
                wanted: format!("{} on {}", mac(link.guest_mac), lower.name),
                found: mac(lower.mac),
            });
        }
        Ok(())
    }

    fn link(&self) -> Result<&LinkWork, Obstacle> {
        let item = self.record.item;
        self.record.link().ok_or(Obstacle::WrongClaim { item })
    }

    fn index(&self) -> Result<u32, Obstacle> {
        let link = self.link()?;
        (link.index).ok_or_else(|| HostError::NoNetdev(link.name.to_string()).into())
    }

    /// Index of what a macvtap is made on: the device below, which has another one if its driver was
    /// bound anew, or its VLAN device.
    fn stands_on(&self) -> Result<u32, Obstacle> {
        match self.record.vlan() {
            None => Ok(self.lower()?.index),
            Some(vlan) => {
                let index = vlan.index;
                Ok(index.ok_or_else(|| HostError::NoNetdev(vlan.name.to_string()))?)
            }
        }
    }

    /// The device below as it is now.
    fn lower(&self) -> Result<Netdev, Obstacle> {
        let item = self.record.item;
        let lower = self.link()?.lower.as_ref();
        let lower = lower.ok_or(Obstacle::WrongClaim { item })?;
        let now = lower_now(self.host, lower)?.netdev();
        now.ok_or_else(|| HostError::NoNetdev(lower.name.to_string()).into())
    }
}

fn all_multicast() -> RxFilter {
    RxFilter {
        all_multicast: true,
        ..RxFilter::default()
    }
}
