//! A guest's plan: each of its devices, with what it gets of the host, why, and how. Made by one
//! walk, whether it is only shown, or carried out. Nothing is touched here but claims.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use assign::{Generation, Preparation, Step};
use conf::{
    ActualDevice, DeviceId, Domain, HostSource, Interface, InterfaceSource, MacAddress, NetdevName,
    Network, NetworkPort, PciAddress, Plug, UsbAddress, Uuid,
};

use crate::attachment::{Attachment, Subject};
use crate::claims::Claims;
use crate::ledger::{Ledger, PfPlace};
use crate::members::LonePf;
use crate::refusal::{DeviceRefusal, GuestObstacle, NetworkProblem};
use crate::state::Share;

mod document;
mod walk;

pub(crate) use document::wanted_port;
use walk::Walk;

/// What running networks say.
pub trait Networks {
    /// The network of that name, as it runs now.
    ///
    /// # Errors
    /// There is none, or it does not run.
    fn running(&self, name: &str) -> Result<Arc<Network>, NetworkProblem>;
}

/// The networks of a guest, as they ran when its plan began.
struct Snapshot(HashMap<String, Result<Arc<Network>, NetworkProblem>>);

impl Snapshot {
    fn of(domain: &Domain, networks: &impl Networks) -> Self {
        let mut known = HashMap::new();
        for interface in &domain.devices.interfaces {
            if let InterfaceSource::Network { network, .. } = &interface.source
                && !known.contains_key(network)
            {
                known.insert(network.clone(), networks.running(network));
            }
        }
        Self(known)
    }
}

impl Networks for Snapshot {
    fn running(&self, name: &str) -> Result<Arc<Network>, NetworkProblem> {
        let known = self.0.get(name).cloned();
        known.unwrap_or_else(|| Err(NetworkProblem::Unknown(name.to_owned())))
    }
}

/// What else there is to know of the host and of the guest's place on it.
#[derive(Debug, Clone, Default)]
pub struct PlanContext {
    /// The host's identity, as a switch is told; zeroes where it has none.
    pub host_uuid: Uuid,
    /// The host's NUMA nodes that the guest runs on; empty: anywhere.
    pub numa_nodes: Vec<u16>,
    /// CPUs and NUMA nodes that it asks for and the host does not have, in words.
    pub misplaced: Vec<String>,
    /// The PF of which a VF is to be, where the other half of its pair is on one already.
    pub pf: Option<PfPlace>,
    /// The guest was promised one.
    pub is_promised: bool,
}

/// What a guest would get, or gets.
#[derive(Debug)]
pub struct GuestPlan {
    /// The guest's name.
    pub guest: String,
    /// Its identity.
    pub uuid: Uuid,
    /// What stands in the way of the guest as a whole.
    pub obstacles: Vec<GuestObstacle>,
    /// Its interfaces, then its host devices, in the order of its document.
    pub devices: Vec<DevicePlan>,
}

/// One device of a guest.
#[derive(Debug)]
pub struct DevicePlan {
    /// Its identity.
    pub attachment: Attachment,
    /// How its document names it: `interface` with its MAC, or `hostdev` with the device of the host.
    pub name: String,
    /// Its place among the document's interfaces, or host devices.
    pub place: usize,
    /// The name of the network that is to lend it.
    pub network: Option<String>,
    /// What becomes of it.
    pub outcome: Outcome,
}

/// What becomes of a device.
#[derive(Debug)]
pub enum Outcome {
    /// It gets something.
    Lend(Box<PlannedDevice>),
    /// The VF of a pair for which none is free: the guest runs without it, and gets the next one.
    Owed(Box<OwedDevice>),
    /// QEMU plays it alone.
    Alone,
    /// It can't be had.
    Refused(Box<DeviceRefusal>),
}

/// A VF that a guest is promised.
#[derive(Debug)]
pub struct OwedDevice {
    /// Of which PF: that of the other half.
    pub pf: PfPlace,
    /// Why there is none now.
    pub refusal: DeviceRefusal,
}

/// Something that is claimed, checked, and not touched yet.
#[derive(Debug)]
pub struct PlannedDevice {
    /// The port of its network.
    pub port: Option<PlannedPort>,
    /// What it gets of the host.
    pub share: Share,
    /// How that is to be made ready.
    pub preparation: Preparation,
    /// The claim on it; `None`: it is only tried.
    pub claim: Option<Generation>,
    /// The name that its macvtap or tap has, unless somebody takes that first.
    pub netdev: Option<NetdevName>,
    /// Why this one.
    pub why: String,
    /// What will be done on the host.
    pub steps: Vec<Step>,
    /// What else is worth knowing.
    pub notes: Vec<Note>,
    /// Devices of its pool that were passed over, with what is wrong with each.
    pub passed_over: BTreeMap<DeviceId, String>,
}

/// A port that is to be put on its network.
#[derive(Debug, Clone)]
pub struct PlannedPort {
    /// The network as it ran when the port was planned: one that was changed since has other
    /// things to lend.
    pub network: Arc<Network>,
    /// The port, with its plug, and all that network and port group say merged into it.
    pub port: NetworkPort,
    /// Its device is one of the network's pool; else a tap is made for the guest alone.
    pub is_of_pool: bool,
}

/// What is worth knowing of a device that can be had. [`fmt::Display`] says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The host can't reach its guests.
    NoHostAccess {
        /// Its network could change that.
        of_network: bool,
    },
    /// A passthrough network that lists a PF by its name, and nothing else, lends the PF itself.
    LonePf(String),
    /// One that does so lends the PF's VFs, one a guest.
    LonePfsVfs(String),
    /// Half of a pair, and the other half is on another PF.
    OtherPf {
        /// Of this half.
        own: String,
        /// Of the other half.
        other: String,
    },
    /// The PF of a pair whose VF is owed, and how it was chosen.
    Likeliest(String),
    /// Another interface of the guest, not the other half of its pair, has that MAC, too.
    SharedMac(MacAddress),
    /// The guest has it now, so that it can't be told what making it ready again takes.
    HasIt,
}

/// Interfaces and host devices of one guest that are looked at: a machine's PCI buses have numbers up
/// to 255, and each of them gets one.
pub const MOST_DEVICES: usize = 256;

/// Looks at every device of a guest: chooses, claims and checks. What is refused has no claim
/// afterwards. Asks the host; blocks.
pub fn plan<C: Claims>(
    domain: &Domain,
    claims: &mut C,
    networks: &impl Networks,
    context: &PlanContext,
) -> GuestPlan {
    // A network that changes meanwhile is the same one for the whole plan.
    let networks = Snapshot::of(domain, networks);
    let mut plan = GuestPlan {
        guest: domain.name.clone(),
        uuid: domain.uuid,
        obstacles: document::obstacles(domain, context),
        devices: Vec::new(),
    };
    let devices = domain.devices.interfaces.len() + domain.devices.hostdevs.len();
    if devices > MOST_DEVICES {
        plan.obstacles.push(GuestObstacle::TooMany {
            guest: domain.name.clone(),
            devices,
            most: MOST_DEVICES,
        });
        return plan;
    }
    plan.devices = document::devices(domain, &networks);
    let mut walk = Walk::new(domain, claims, &networks, context);
    walk.note_named();
    walk.each(&mut plan.devices, &BTreeMap::new());
    plan
}

/// A device that is to be plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// What it is in the document.
    pub subject: Subject,
    /// Its place among those.
    pub place: usize,
    /// The attachment that it has already; `None`: it gets one.
    pub attachment: Option<Uuid>,
}

/// Plans devices that are to be plugged into a running guest, whose document has them already, with
/// their aliases; in that order, both halves of a pair together. What the guest has otherwise is lent, and
/// not looked at. Asks the host; blocks.
pub fn plan_devices<C: Claims>(
    domain: &Domain,
    wanted: &[Wanted],
    excluded: &BTreeMap<DeviceId, String>,
    claims: &mut C,
    networks: &impl Networks,
    context: &PlanContext,
) -> Vec<DevicePlan> {
    let networks = Snapshot::of(domain, networks);
    let mut devices = document::devices_at(domain, wanted);
    let mut walk = Walk::new(domain, claims, &networks, context);
    walk.each(&mut devices, excluded);
    devices
}

/// What is reserved for a guest, as it is to be prepared. Asks the host; blocks.
///
/// # Errors
/// It is not to be had any more; the claim stays.
pub fn plan_reserved(
    domain: &Domain,
    attachment: &Attachment,
    ledger: &Ledger,
    networks: &impl Networks,
    context: &PlanContext,
) -> Result<Preparation, DeviceRefusal> {
    let networks = Snapshot::of(domain, networks);
    let mut claims = ledger;
    let walk = Walk::new(domain, &mut claims, &networks, context);
    walk.reserved(attachment)
}

impl GuestPlan {
    /// Plans one device anew, the others staying as they are; those of `excluded` are not chosen,
    /// with what is wrong with each. Its earlier claim is over. Asks the host; blocks.
    pub fn plan_again<C: Claims>(
        &mut self,
        at: usize,
        excluded: BTreeMap<DeviceId, String>,
        domain: &Domain,
        claims: &mut C,
        networks: &impl Networks,
        context: &PlanContext,
    ) {
        let mut walk = Walk::new(domain, claims, networks, context);
        walk.note_named();
        for (place, other) in self.devices.iter().enumerate() {
            if place != at {
                walk.taken.note(other);
            }
            walk.note_pair(other);
        }
        if let Some(device) = self.devices.get_mut(at) {
            walk.step(device, excluded);
        }
    }

    /// Ends every claim of it that nothing was done with.
    pub fn release(&self, ledger: &Ledger) {
        for device in self.devices.iter().rev() {
            if let Some(claim) = device.attachment.claim {
                ledger.drop_claim(claim);
            }
        }
    }

    /// Writes into the document what was resolved, and everybody's alias.
    pub fn apply_to(&self, domain: &mut Domain) {
        let of = |subject| {
            let devices = self.devices.iter();
            devices.filter(move |device| device.attachment.subject == subject)
        };
        for device in of(Subject::Interface) {
            if let Some(interface) = domain.devices.interfaces.get_mut(device.place) {
                device.resolve(interface);
            }
        }
        domain.assign_aliases();
        // These stand in claims already, whatever a network became since.
        for device in of(Subject::Interface) {
            if let Some(interface) = domain.devices.interfaces.get_mut(device.place) {
                interface.info.alias = Some(device.attachment.alias.clone());
            }
        }
        for device in of(Subject::HostDevice) {
            if let Some(hostdev) = domain.devices.hostdevs.get_mut(device.place) {
                hostdev.info.alias = Some(device.attachment.alias.clone());
                let found = device.planned().and_then(PlannedDevice::usb);
                if let (HostSource::Usb(usb), Some(address)) = (&mut hostdev.source, found) {
                    let place = (u32::from(address.bus()), u32::from(address.device()));
                    usb.place = Some(place);
                }
            }
        }
    }

    /// What is lent, with each device's place in [`GuestPlan::devices`].
    pub fn planned(&self) -> impl Iterator<Item = (usize, &DevicePlan, &PlannedDevice)> {
        let devices = self.devices.iter().enumerate();
        devices.filter_map(|(at, device)| Some((at, device, device.planned()?)))
    }
}

impl DevicePlan {
    /// Writes into the document what was resolved of this device.
    pub fn apply_to(&self, domain: &mut Domain) {
        if self.attachment.subject == Subject::Interface
            && let Some(interface) = domain.devices.interfaces.get_mut(self.place)
        {
            self.resolve(interface);
        }
    }

    fn resolve(&self, interface: &mut Interface) {
        interface.actual = self.planned().and_then(PlannedDevice::actual);
        let function = self.planned().and_then(PlannedDevice::function);
        interface.host_address = function.filter(|_| interface.names_host_device());
    }

    pub(crate) fn is_at(&self, (subject, place): (Subject, usize)) -> bool {
        self.attachment.subject == subject && self.place == place
    }

    /// What it gets, if it gets something.
    #[must_use]
    pub fn planned(&self) -> Option<&PlannedDevice> {
        match &self.outcome {
            Outcome::Lend(planned) => Some(planned),
            Outcome::Owed(_) | Outcome::Alone | Outcome::Refused(_) => None,
        }
    }
}

impl PlannedDevice {
    /// The PCI function that is given to the guest.
    #[must_use]
    pub fn function(&self) -> Option<PciAddress> {
        match (&self.preparation, self.share) {
            (Preparation::Vfio(_), Share::Whole(device)) => device.pci(),
            _ => None,
        }
    }

    /// The USB device that is given to the guest.
    #[must_use]
    pub fn usb(&self) -> Option<UsbAddress> {
        self.share.device()?.usb()
    }

    /// What an interface of a network was resolved to.
    fn actual(&self) -> Option<ActualDevice> {
        let port = &self.port.as_ref()?.port;
        let plug = match (port.plug.clone()?, &self.preparation) {
            // An isolated port's mode is another than its network's.
            (Plug::Direct { dev, .. }, Preparation::Macvtap(macvtap)) => Plug::Direct {
                dev,
                mode: macvtap.mode,
            },
            (plug, _) => plug,
        };
        Some(resolved(port, plug))
    }

    fn new(share: Share, preparation: Preparation, why: &str) -> Self {
        Self {
            port: None,
            share,
            preparation,
            claim: None,
            netdev: None,
            why: why.to_owned(),
            steps: Vec::new(),
            notes: Vec::new(),
            passed_over: BTreeMap::new(),
        }
    }
}

/// What an interface is, whose port is plugged in there.
pub(crate) fn resolved(port: &NetworkPort, plug: Plug) -> ActualDevice {
    ActualDevice {
        port: port.uuid,
        plug,
        vlan: port.vlan.clone(),
        virtual_port: port.virtual_port.clone(),
        bandwidth: port.bandwidth.clone(),
        isolated: port.isolated,
        trust_guest_rx_filters: port.trust_guest_rx_filters,
    }
}

impl Note {
    pub(crate) fn of_lone_pf(lone: LonePf) -> Option<Self> {
        let LonePf { pf, lends_vfs } = lone;
        match lends_vfs {
            true => Some(Self::LonePfsVfs(pf.netdev)),
            false => (pf.max_vfs > 0).then_some(Self::LonePf(pf.netdev)),
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHostAccess { of_network } => {
                f.write_str(
                    "this host and its own guests on macvtap can't reach each other (others can)",
                )?;
                if *of_network {
                    f.write_str(
                        "; <virtnic:direct host-access='yes'/> in the network gives the host a \
                         macvlan of its own",
                    )?;
                }
                Ok(())
            }
            Self::OtherPf { own, other } => write!(
                f,
                "it is on {own}, and the other half of its pair on {other}: what fails or is \
                 serviced there cuts one half alone, and the two are not one switch port"
            ),
            Self::Likeliest(pf) => write!(
                f,
                "no VF is free; of the network's PFs {pf} is the most likely to have one for this \
                 guest, so that the other half is on it"
            ),
            Self::SharedMac(mac) => write!(
                f,
                "another interface of the guest has the MAC {mac}, too: on one network a switch sends \
                 what is for it to either; halves of a pair are made by <interface \
                 type='hostdev-hybrid'>"
            ),
            Self::HasIt => f.write_str(
                "the guest has it now; what its next start would do is told when it is given back",
            ),
            Self::LonePf(name) => write!(
                f,
                "the network lends the PF {name} itself, to one guest; without <virtnic:pool \
                 lend='pf'/>, or with lend='vfs', it would lend its VFs, if it has any"
            ),
            Self::LonePfsVfs(name) => write!(
                f,
                "the network lists the PF {name} alone, and lends its VFs, one a guest; \
                 <virtnic:pool lend='pf'/> would lend the PF itself"
            ),
        }
    }
}
