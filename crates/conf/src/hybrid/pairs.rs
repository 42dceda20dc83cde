//! The pairs of a guest: those that virtnic made, and those of libvirt's own `<teaming>`.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::define::Over;
use super::{HybridFallback, HybridGuest, HybridHalf, HybridPart};
use crate::{Domain, HostSource, Interface, InterfaceSource, Teaming};

/// Two devices of a guest with one MAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// The virtio half, by its place among the interfaces.
    pub standby: usize,
    /// The other half.
    pub primary: PairPrimary,
    /// Its id, if virtnic made it; libvirt's own form has none.
    pub id: Option<Uuid>,
    /// Who joins the halves.
    pub guest: HybridGuest,
    /// What its halves say; where they don't, their network counts.
    pub fallback: Option<HybridFallback>,
}

/// The half of a pair that may come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PairPrimary {
    /// By its place among the interfaces.
    Interface(usize),
    /// By its place among the plain host devices; libvirt's own form only.
    Hostdev(usize),
}

/// Why a guest can't be started with the pairs that its document has. Each is told with its own
/// name: `interface MAC`, or `hostdev` with its place in the document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum PairFault {
    #[error("{device} asks for a pair, and was not made one: define the guest again")]
    NotMade { device: String },
    #[error("{device} is the VF of a pair whose standby, '{alias}', is not there")]
    NoStandby { device: String, alias: String },
    #[error(
        "{device} is the VF of a pair, and its standby, '{alias}', has no <teaming \
         type='persistent'/>"
    )]
    NotStandby { device: String, alias: String },
    #[error("{device} is the VF of pair {pair}, whose standby is not there")]
    Alone { device: String, pair: Uuid },
    #[error("{device} is a second {part} of pair {pair}")]
    Second {
        device: String,
        part: &'static str,
        pair: Uuid,
    },
    #[error("{device} is a second VF to the standby '{alias}'")]
    SecondPrimary { device: String, alias: String },
    #[error("{device} and its standby, {standby}, have not the same MAC")]
    Macs { device: String, standby: String },
    #[error("{device} and its standby have not the same {what}")]
    Differ { device: String, what: &'static str },
}

/// The halves of a pair that virtnic made.
#[derive(Default, Clone, Copy)]
struct Halves {
    standby: Option<usize>,
    primary: Option<usize>,
}

impl Domain {
    /// The pairs that are whole, in the order of their VFs in the document.
    #[must_use]
    pub fn pairs(&self) -> Vec<Pair> {
        let made = self.halves();
        let aliases = self.standbys();
        let interfaces = self.devices.interfaces.iter().enumerate();
        let interfaces = interfaces.filter_map(|(place, interface)| {
            let primary = PairPrimary::Interface(place);
            let Some(half) = interface.hybrid_half() else {
                return teamed(&aliases, interface.teaming.as_ref(), primary);
            };
            let halves = made.get(&half.pair)?;
            let standby = halves.standby.filter(|_| halves.primary == Some(place))?;
            Some(Pair {
                standby,
                primary,
                id: Some(half.pair),
                guest: half.guest,
                fallback: half.fallback,
            })
        });
        let hostdevs = self.devices.hostdevs.iter().enumerate();
        let hostdevs = hostdevs.filter_map(|(place, hostdev)| {
            teamed(
                &aliases,
                hostdev.teaming.as_ref(),
                PairPrimary::Hostdev(place),
            )
        });
        interfaces.chain(hostdevs).collect()
    }

    /// The pairs that an element means which asks for one: its MAC, where it gives that, its PF or
    /// network, and the standby's alias and address. None if the element means one interface: a half
    /// by itself, or one of a network that is named by alias or address.
    #[must_use]
    pub fn pairs_meant(&self, asked: &Interface) -> Vec<Pair> {
        let info = &asked.info;
        let whole = asked.is_hybrid()
            || matches!(asked.source, InterfaceSource::Network { .. })
                && asked.hybrid.is_none()
                && asked.teaming.is_none()
                && info.alias.is_none()
                && info.address.is_none();
        if !whole {
            return Vec::new();
        }
        let over = Over::of(&asked.source);
        let mut pairs = self.pairs();
        pairs.retain(|pair| {
            let standby = &self.devices.interfaces[pair.standby];
            let known = &standby.info;
            pair.id.is_some()
                && (!asked.given_mac.0 || standby.mac == asked.mac)
                && Over::of(&standby.source) == over
                && (info.alias.is_none() || info.alias == known.alias)
                && (info.address.is_none() || info.address == known.address)
        });
        pairs
    }

    /// All that a start must refuse of pairs: libvirt defines what says it. A standby without a VF
    /// is a guest's only interface, and no fault.
    #[must_use]
    pub fn pair_faults(&self) -> Vec<PairFault> {
        let mut faults = Vec::new();
        let made = self.halves();
        let aliases = self.standbys();
        // Those of pairs that virtnic made first, wherever they stand.
        let ours = self.devices.interfaces.iter();
        let ours = ours.filter(|interface| interface.is_part(HybridPart::Primary));
        let mut taken: HashSet<&str> = ours
            .filter_map(|interface| match &interface.teaming {
                Some(Teaming::Transient { persistent }) => Some(persistent.as_str()),
                _ => None,
            })
            .collect();
        for (place, interface) in self.devices.interfaces.iter().enumerate() {
            let device = || named(interface);
            if interface.is_hybrid() {
                faults.push(PairFault::NotMade { device: device() });
            } else if let Some(half) = interface.hybrid_half() {
                let halves = made.get(&half.pair).copied().unwrap_or_default();
                self.half_faults(place, half, halves, &mut faults);
            } else if let Some(Teaming::Transient { persistent }) = &interface.teaming {
                match self.teaming_fault(&aliases, persistent, &device()) {
                    Err(fault) => faults.push(fault),
                    Ok(_) if !taken.insert(persistent) => {
                        faults.push(PairFault::SecondPrimary {
                            device: device(),
                            alias: persistent.clone(),
                        });
                    }
                    Ok(standby) if standby.mac != interface.mac => faults.push(PairFault::Macs {
                        device: device(),
                        standby: named(standby),
                    }),
                    Ok(_) => {}
                }
            }
        }
        for (place, hostdev) in self.devices.hostdevs.iter().enumerate() {
            let Some(Teaming::Transient { persistent }) = &hostdev.teaming else {
                continue;
            };
            // What MAC it has is told by nobody here.
            let device = format!("hostdev[{}]", place + 1);
            match self.teaming_fault(&aliases, persistent, &device) {
                Err(fault) => faults.push(fault),
                Ok(_) if !taken.insert(persistent) => {
                    faults.push(PairFault::SecondPrimary {
                        device,
                        alias: persistent.clone(),
                    });
                }
                Ok(_) => {}
            }
        }
        faults
    }

    /// Pairs that virtnic made, once for each half.
    pub(super) fn hybrid_pair_ids(&self) -> impl Iterator<Item = Uuid> {
        let halves = self.devices.interfaces.iter();
        halves.filter_map(|interface| Some(interface.hybrid_half()?.pair))
    }

    /// The first of each part counts.
    fn halves(&self) -> HashMap<Uuid, Halves> {
        let mut made: HashMap<Uuid, Halves> = HashMap::new();
        for (place, interface) in self.devices.interfaces.iter().enumerate() {
            if let Some(half) = interface.hybrid_half() {
                let halves = made.entry(half.pair).or_default();
                let part = match half.part {
                    HybridPart::Standby => &mut halves.standby,
                    HybridPart::Primary => &mut halves.primary,
                };
                part.get_or_insert(place);
            }
        }
        made
    }

    /// Interfaces by the aliases that they have, or will have when the guest starts; those of
    /// devices that can't be a standby are left out.
    fn standbys(&self) -> HashMap<String, (usize, bool)> {
        let interfaces = self.devices.interfaces.iter().enumerate();
        interfaces
            .filter(|(_, interface)| !interface.is_hostdev())
            .map(|(place, interface)| {
                let alias = interface.info.alias.clone();
                let alias = alias.unwrap_or_else(|| format!("net{place}"));
                let stays = interface.teaming == Some(Teaming::Persistent);
                (alias, (place, stays))
            })
            .collect()
    }

    fn teaming_fault(
        &self,
        aliases: &HashMap<String, (usize, bool)>,
        alias: &str,
        device: &str,
    ) -> Result<&Interface, PairFault> {
        let (device, name) = (device.to_owned(), alias.to_owned());
        match aliases.get(alias) {
            Some(&(standby, true)) => Ok(&self.devices.interfaces[standby]),
            Some((_, false)) => Err(PairFault::NotStandby {
                device,
                alias: name,
            }),
            None => Err(PairFault::NoStandby {
                device,
                alias: name,
            }),
        }
    }

    fn half_faults(
        &self,
        place: usize,
        half: &HybridHalf,
        halves: Halves,
        faults: &mut Vec<PairFault>,
    ) {
        let interface = &self.devices.interfaces[place];
        let (device, pair) = (named(interface), half.pair);
        let first = match half.part {
            HybridPart::Standby => halves.standby,
            HybridPart::Primary => halves.primary,
        };
        if first != Some(place) {
            let part = crate::xml::Keyword::word(half.part);
            return faults.push(PairFault::Second { device, part, pair });
        }
        if half.part == HybridPart::Standby {
            return;
        }
        let standby = halves.standby.map(|place| &self.devices.interfaces[place]);
        let Some((standby, other)) = standby.and_then(|s| Some((s, s.hybrid_half()?))) else {
            return faults.push(PairFault::Alone { device, pair });
        };
        if standby.mac != interface.mac {
            let standby = named(standby);
            return faults.push(PairFault::Macs { device, standby });
        }
        for (what, same) in [
            ("'guest'", half.guest == other.guest),
            ("'fallback'", half.fallback == other.fallback),
            ("<vlan>", interface.vlan == standby.vlan),
            ("PF, network or port group", same_card(interface, standby)),
        ] {
            if !same {
                let device = device.clone();
                faults.push(PairFault::Differ { device, what });
            }
        }
        if let Some(Teaming::Transient { persistent }) = &interface.teaming
            && standby.info.alias.as_ref() != Some(persistent)
        {
            let alias = persistent.clone();
            faults.push(PairFault::NoStandby { device, alias });
        }
    }
}

/// Whether the VF is of the PF that the standby is on, as far as the document tells.
fn same_card(primary: &Interface, standby: &Interface) -> bool {
    match (&primary.source, &standby.source) {
        (
            InterfaceSource::Hostdev {
                source: HostSource::VfOf(pf),
                ..
            },
            InterfaceSource::Direct { dev, .. },
        ) => pf == dev,
        (InterfaceSource::Hostdev { .. }, InterfaceSource::Direct { .. }) => true,
        (one @ InterfaceSource::Network { .. }, other) => one == other,
        _ => false,
    }
}

fn teamed(
    aliases: &HashMap<String, (usize, bool)>,
    teaming: Option<&Teaming>,
    primary: PairPrimary,
) -> Option<Pair> {
    let Some(Teaming::Transient { persistent }) = teaming else {
        return None;
    };
    let &(standby, stays) = aliases.get(persistent)?;
    stays.then_some(Pair {
        standby,
        primary,
        id: None,
        guest: HybridGuest::Failover,
        fallback: None,
    })
}

fn named(interface: &Interface) -> String {
    format!("interface {}", interface.mac)
}
