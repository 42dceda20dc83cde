//! What asks for a pair becomes one, when a guest is defined or an interface is plugged.

use std::collections::{HashMap, HashSet, VecDeque};

use uuid::{Builder, Uuid};

use super::pairs::PairPrimary;
use super::split::{Chosen, Identity, Name, check, split};
use super::{Hybrid, HybridSettings};
use crate::{
    Domain, Error, ErrorKind, Faults, ForwardMode, GuestAddress, Interface, InterfaceSource,
    MacAddress, Network, PciAddress,
};

/// The two interfaces that one element becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HybridHalves {
    /// virtio, which stays.
    pub standby: Interface,
    /// The VF.
    pub primary: Interface,
}

/// Where the halves of pairs were in the guest that a definition replaces, by their aliases: for
/// [`Domain::assign_addresses_keeping`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "the pairs would move in the guest"]
pub struct KeptPlaces(pub(crate) Vec<(String, GuestAddress)>);

/// What a network is to an interface that may ask it for a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkPairs {
    /// Its interfaces are pairs (forward mode `hostdev-hybrid`), made like this where they don't say.
    Lent(HybridSettings),
    /// They are single devices.
    NotLent,
}

impl Network {
    /// Whether its guests get pairs, and how these are made.
    #[must_use]
    pub fn pairs(&self) -> NetworkPairs {
        match self.forward_mode() {
            Some(ForwardMode::HostdevHybrid) => NetworkPairs::Lent(self.extension.hybrid),
            _ => NetworkPairs::NotLent,
        }
    }
}

impl Domain {
    /// Makes a pair of ordinary interfaces of each that asks for one: of type `hostdev-hybrid`, or
    /// of a network that lends pairs, without `<teaming>`. `network` tells what a network lends;
    /// nothing, if it is not known: its interfaces stay as they are.
    ///
    /// The pairs of `previous`, the definition that this one replaces, keep their id, MAC, aliases
    /// and addresses as far as the document says nothing else: they are found by the MAC, or, where
    /// the document gives none, by PF or network, one after the other. The addresses that they should
    /// keep are the answer. To be called before [`Domain::fill_defaults`].
    ///
    /// # Errors
    /// [`ErrorKind::ConfigUnsupported`] with all that a pair can't have, each with its interface;
    /// nothing is changed then.
    pub fn expand_hybrids(
        &mut self,
        previous: Option<&Domain>,
        network: &dyn Fn(&str) -> Option<NetworkPairs>,
    ) -> Result<KeptPlaces, Error> {
        let mut faults = Faults::default();
        let mut asking = Vec::new();
        let interfaces = self.devices.interfaces.iter().enumerate();
        faults.each(interfaces, |(place, interface)| {
            let chosen = interface.chosen(network).and_then(|chosen| {
                if chosen.is_some() {
                    check(interface)?;
                }
                Ok(chosen)
            });
            let chosen = chosen.map_err(|error| at(place, error))?;
            asking.extend(chosen.map(|chosen| (place, chosen)));
            Ok(())
        });
        faults.finish()?;
        let mut kept = KeptPlaces::default();
        if asking.is_empty() {
            return Ok(kept);
        }
        let mut names = Names::of(self);
        let mut known = Known::of(previous, self);
        // Who is named by a MAC comes first, whatever stands before it.
        let mut found: HashMap<usize, Identity> = HashMap::new();
        for by_mac in [true, false] {
            for &(place, _) in &asking {
                let asked = &self.devices.interfaces[place];
                if asked.given_mac.0 == by_mac
                    && let Some(identity) = known.take(asked)
                {
                    found.insert(place, names.claim(identity));
                }
            }
        }
        let mut chosen: HashMap<usize, Chosen> = asking.into_iter().collect();
        let asked = std::mem::take(&mut self.devices.interfaces);
        for (place, interface) in asked.into_iter().enumerate() {
            let Some(chosen) = chosen.remove(&place) else {
                self.devices.interfaces.push(interface);
                continue;
            };
            let mut identity = names.name(&interface, found.remove(&place), self.uuid);
            for name in [&mut identity.standby, &mut identity.primary] {
                let address = name.address.take();
                kept.0
                    .extend(address.map(|address| (name.alias.clone(), address)));
            }
            let (standby, primary) = split(&interface, chosen, identity);
            self.devices.interfaces.extend([standby, primary]);
        }
        Ok(kept)
    }

    /// The pair that an interface to be plugged into this guest asks for; none if it asks for none.
    /// The halves have no guest address but the one that the document gives the standby.
    ///
    /// # Errors
    /// As [`Domain::expand_hybrids`].
    pub fn expand_hybrid(
        &self,
        interface: &Interface,
        network: &dyn Fn(&str) -> Option<NetworkPairs>,
    ) -> Result<Option<HybridHalves>, Error> {
        let Some(chosen) = interface.chosen(network)? else {
            return Ok(None);
        };
        check(interface)?;
        let mut names = Names::of(self);
        let identity = names.name(interface, None, self.uuid);
        let (standby, primary) = split(interface, chosen, identity);
        Ok(Some(HybridHalves { standby, primary }))
    }
}

impl Interface {
    /// How the pair is made that it asks for; none if it asks for none.
    fn chosen(
        &self,
        network: &dyn Fn(&str) -> Option<NetworkPairs>,
    ) -> Result<Option<Chosen>, Error> {
        let own = match self.hybrid {
            Some(Hybrid::Half(_)) => return Ok(None),
            Some(Hybrid::Wanted(settings)) => Some(settings),
            None => None,
        };
        let outer = match &self.source {
            InterfaceSource::HostdevHybrid { .. } => HybridSettings::default(),
            InterfaceSource::Network { network: name, .. } => match network(name) {
                Some(NetworkPairs::Lent(settings)) if self.teaming.is_none() => settings,
                Some(NetworkPairs::NotLent) if own.is_some() => {
                    return Err(Error {
                        advice: Some(
                            "leave <virtnic:hybrid> out, or name a network of that mode".to_owned(),
                        ),
                        ..Error::new(
                            ErrorKind::ConfigUnsupported,
                            format!(
                                "<virtnic:hybrid> asks network '{name}' for a pair, and only \
                                 networks of forward mode 'hostdev-hybrid' lend pairs"
                            ),
                        )
                    });
                }
                _ => return Ok(None),
            },
            _ => return Ok(None),
        };
        let own = own.unwrap_or_default();
        Ok(Some(Chosen {
            guest: own.guest.or(outer.guest).unwrap_or_default(),
            // The network's own may change later, and counts then.
            fallback: own.fallback,
        }))
    }
}

/// The error with the interface that it is about: which one that is in the document is known, its
/// line is not any more.
fn at(place: usize, error: Error) -> Error {
    let path = format!("/domain/devices/interface[{}]", place + 1);
    let further = error.also.into_iter().map(|also| Error {
        path: Some(path.clone()),
        ..also
    });
    Error {
        path: Some(path.clone()),
        also: further.collect(),
        ..error
    }
}

/// What a pair is over: a PF, or a network's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Over {
    Pf(String),
    Network(String),
}

impl Over {
    /// Of an element that asks for a pair, or of a standby.
    pub(super) fn of(source: &InterfaceSource) -> Option<Self> {
        match source {
            InterfaceSource::HostdevHybrid { dev } | InterfaceSource::Direct { dev, .. } => {
                Some(Self::Pf(dev.clone()))
            }
            InterfaceSource::Network { network, .. } => Some(Self::Network(network.clone())),
            _ => None,
        }
    }
}

/// The pairs of the definition that is replaced, as far as the new one doesn't have them as they are.
struct Known {
    pairs: Vec<Option<Identity>>,
    by_mac: HashMap<MacAddress, VecDeque<usize>>,
    over: HashMap<Over, VecDeque<usize>>,
}

impl Known {
    fn of(previous: Option<&Domain>, new: &Domain) -> Self {
        let mut known = Self {
            pairs: Vec::new(),
            by_mac: HashMap::new(),
            over: HashMap::new(),
        };
        let Some(previous) = previous else {
            return known;
        };
        let stay: HashSet<Uuid> = new.hybrid_pair_ids().collect();
        let buses = KeptBuses::between(previous, new);
        for pair in previous.pairs() {
            let (Some(id), PairPrimary::Interface(primary)) = (pair.id, pair.primary) else {
                continue;
            };
            if stay.contains(&id) {
                continue;
            }
            let standby = &previous.devices.interfaces[pair.standby];
            let primary = &previous.devices.interfaces[primary];
            let name = |half: &Interface| {
                Some(Name {
                    alias: half.info.alias.clone()?,
                    address: half
                        .info
                        .address
                        .clone()
                        .filter(|address| buses.fit(address)),
                })
            };
            let (Some(over), Some(standby_name), Some(primary_name)) =
                (Over::of(&standby.source), name(standby), name(primary))
            else {
                continue;
            };
            let place = known.pairs.len();
            let same = known.by_mac.entry(standby.mac).or_default();
            same.push_back(place);
            known.over.entry(over).or_default().push_back(place);
            known.pairs.push(Some(Identity {
                pair: id,
                mac: standby.mac,
                standby: standby_name,
                primary: primary_name,
            }));
        }
        known
    }

    /// The pair that the element means, which is then no other's any more.
    fn take(&mut self, asked: &Interface) -> Option<Identity> {
        let waiting = match asked.given_mac.0 {
            true => self.by_mac.get_mut(&asked.mac)?,
            false => self.over.get_mut(&Over::of(&asked.source)?)?,
        };
        let pairs = &mut self.pairs;
        std::iter::from_fn(|| waiting.pop_front()).find_map(|place| pairs[place].take())
    }
}

/// Which addresses of the old definition mean the same in the new one.
struct KeptBuses<'d> {
    same_machine: bool,
    old: HashMap<u32, Option<&'d str>>,
    new: HashMap<u32, Option<&'d str>>,
}

impl<'d> KeptBuses<'d> {
    fn between(previous: &'d Domain, new: &'d Domain) -> Self {
        let models = |domain: &'d Domain| {
            let pci = domain.devices.controllers.iter();
            pci.filter(|controller| controller.kind == "pci")
                .map(|controller| (controller.index, controller.model.as_deref()))
                .collect()
        };
        Self {
            same_machine: previous.is_q35() == new.is_q35(),
            old: models(previous),
            new: models(new),
        }
    }

    /// On a bus that the new definition leaves to us, or has as it was.
    fn fit(&self, address: &GuestAddress) -> bool {
        let GuestAddress::Pci { address, .. } = address else {
            return false;
        };
        let bus = u32::from(address.bus());
        let as_it_was = match (self.old.get(&bus), self.new.get(&bus)) {
            (Some(old), Some(new)) => old == new,
            // Only such buses are made of themselves.
            (Some(old), None) => {
                matches!(old, Some("pcie-root-port" | "pci-bridge" | "pci-root"))
            }
            (None, _) => false,
        };
        self.same_machine && as_it_was
    }
}

/// Aliases, addresses and pairs that are taken.
struct Names {
    aliases: HashSet<String>,
    /// The last number that was put behind an alias.
    numbers: HashMap<String, u32>,
    addresses: HashSet<PciAddress>,
    pairs: HashSet<Uuid>,
}

impl Names {
    fn of(domain: &Domain) -> Self {
        Self {
            aliases: domain.infos().filter_map(|i| i.alias.clone()).collect(),
            numbers: HashMap::new(),
            addresses: domain.infos().filter_map(|i| i.pci_address()).collect(),
            pairs: domain.hybrid_pair_ids().collect(),
        }
    }

    /// What of it is not somebody else's by now; an alias that is gets empty.
    fn claim(&mut self, mut identity: Identity) -> Identity {
        for name in [&mut identity.standby, &mut identity.primary] {
            if !self.aliases.insert(name.alias.clone()) {
                name.alias.clear();
            }
            let address = name.address.as_ref();
            if let Some(GuestAddress::Pci { address, .. }) = address
                && !self.addresses.insert(*address)
            {
                name.address = None;
            }
        }
        self.pairs.insert(identity.pair);
        identity
    }

    /// What the halves are known by: by what the document says, by what they were known by, or by
    /// names made of the MAC.
    fn name(&mut self, asked: &Interface, known: Option<Identity>, guest: Uuid) -> Identity {
        let given = asked.info.alias.clone();
        let mut identity = known.unwrap_or_else(|| {
            let nameless = || Name {
                alias: String::new(),
                address: None,
            };
            Identity {
                pair: self.pair(guest, asked.mac),
                mac: asked.mac,
                standby: nameless(),
                primary: nameless(),
            }
        });
        let Identity {
            mac,
            standby,
            primary,
            ..
        } = &mut identity;
        if let Some(given) = given {
            standby.alias = given;
        } else if standby.alias.is_empty() {
            let [a, b, c, d, e, f] = mac.bytes();
            standby.alias = self.alias(&format!(
                "ua-hybrid-{a:02x}{b:02x}{c:02x}{d:02x}{e:02x}{f:02x}"
            ));
        }
        if primary.alias.is_empty() {
            primary.alias = self.alias(&format!("{}-vf", standby.alias));
        }
        // The document's own goes before it.
        standby.address = standby
            .address
            .take()
            .filter(|_| asked.info.address.is_none());
        identity
    }

    fn alias(&mut self, wanted: &str) -> String {
        let mut alias = wanted.to_owned();
        while !self.aliases.insert(alias.clone()) {
            let number = self.numbers.entry(wanted.to_owned()).or_insert(1);
            *number += 1;
            alias = format!("{wanted}-{number}");
        }
        alias
    }

    /// The pair of a guest and a MAC: the same each time, unless there are two of that MAC.
    fn pair(&mut self, guest: Uuid, mac: MacAddress) -> Uuid {
        let mut bytes = guest.into_bytes();
        bytes[10..].copy_from_slice(&mac.bytes());
        let mut pair = Builder::from_custom_bytes(bytes).into_uuid();
        while !self.pairs.insert(pair) {
            pair = Uuid::new_v4();
        }
        pair
    }
}
