//! Why a guest would not get what it asks for.

use std::fmt;

use assign::{ClaimError, Obstacle};
use conf::{DeviceId, DirectMode, MacAddress, NetdevName, PciAddress};
use host::HostError;

use crate::error::{ChooseError, chain};
use crate::members::OpenPoolError;
use crate::plan::{DevicePlan, GuestPlan, Outcome};
use crate::state::Share;
use crate::usb::UsbError;
use crate::wish::WishError;

/// What stands in the way of a guest as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuestObstacle {
    /// Its document asks for what nobody carries out.
    #[error("guest '{guest}' can't be started, since it asks for what is not carried out: {}", .what.join("; "))]
    Unsupported {
        /// Its name.
        guest: String,
        /// Each element, by name.
        what: Vec<String>,
    },
    /// It has more devices than are lent to one guest; none of them was looked at.
    #[error(
        "guest '{guest}' has {devices} devices of the host, and at most {most} are lent to one guest"
    )]
    TooMany {
        /// Its name.
        guest: String,
        /// How many it asks for.
        devices: usize,
        /// How many there can be.
        most: usize,
    },
    /// It asks for CPUs or NUMA nodes that the host does not have.
    #[error("guest '{guest}' can't run here: {}", .what.join("; "))]
    Misplaced {
        /// Its name.
        guest: String,
        /// Each demand, and what there is.
        what: Vec<String>,
    },
}

/// A network that can't be asked for a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkProblem {
    /// There is none of that name.
    #[error("no network with matching name '{0}'")]
    Unknown(String),
    /// It does not run.
    #[error("network '{0}' is not active")]
    Inactive(String),
    /// It does not run, and could not be started: in words, with its name.
    #[error("{0}")]
    NotServed(String),
}

impl NetworkProblem {
    /// What a person can do about it.
    #[must_use]
    pub fn advice(&self) -> String {
        match self {
            Self::Unknown(name) => {
                format!("define network '{name}', or name one that there is: virsh net-list --all")
            }
            Self::Inactive(name) => {
                format!("start it first: virsh net-start {}", conf::quoted(name))
            }
            Self::NotServed(_) => {
                "name a network that can be started: virsh net-list --all".to_owned()
            }
        }
    }
}

/// Why one device of a guest can't be had.
#[derive(Debug, thiserror::Error)]
pub enum DeviceRefusal {
    /// Its network can't be asked.
    #[error(transparent)]
    Network(#[from] NetworkProblem),
    /// What network, port group and interface say together makes no port.
    #[error(transparent)]
    Port(conf::Error),
    /// Its network has none to give.
    #[error(transparent)]
    Choose(#[from] ChooseError),
    /// Somebody has the device that it names.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The interface asks for what it can't have there.
    #[error(transparent)]
    Wish(#[from] WishError),
    /// A setting that this kind of device can't have.
    #[error(transparent)]
    Setting(conf::Error),
    /// The device that it names is not what it should be.
    #[error(transparent)]
    Host(#[from] HostError),
    /// An interface on a card that is no VF.
    #[error("PCI device {address}{} is not an SR-IOV Virtual Function, and no other card can be given the MAC of an interface", .name.as_ref().map_or_else(String::new, |name| format!(" ('{name}')")))]
    NoVf {
        /// Where it sits.
        address: PciAddress,
        /// Its network device, if the document named that.
        name: Option<String>,
    },
    /// Two of the guest's devices are that one.
    #[error("the guest names device {0} twice")]
    Twice(DeviceId),
    /// Its PF lends nothing.
    #[error("'{0}' is drained: nothing of it is lent")]
    Drained(String),
    /// The PF of a pair has nothing to lend.
    #[error(transparent)]
    Pf(Box<OpenPoolError>),
    /// Half of a pair whose other half can't be had.
    #[error("the other half of its pair can't be had")]
    NoPair,
    /// An interface on a USB device.
    #[error(
        "only an SR-IOV Virtual Function can be given the MAC of an interface, and a USB device is none"
    )]
    UsbInterface,
    /// The USB device that it names.
    #[error(transparent)]
    Usb(#[from] UsbError),
    /// Another device of the same guest gets that name.
    #[error("guest '{guest}' would have two network devices '{name}'")]
    SameName {
        /// The guest's name.
        guest: String,
        /// The network device's.
        name: NetdevName,
    },
    /// Another macvtap of the same guest on that device has that MAC.
    #[error("guest '{guest}' would have two macvtaps with the MAC {mac} on {parent}")]
    SameMac {
        /// The guest's name.
        guest: String,
        /// What both would have.
        mac: MacAddress,
        /// The device below.
        parent: DeviceId,
    },
    /// The device is not in a state to be lent.
    #[error("cannot lend {what} to guest '{guest}'")]
    Obstructed {
        /// What was to be lent.
        what: Lendable,
        /// The guest's name.
        guest: String,
        /// What stands in the way.
        #[source]
        obstacle: Box<Obstacle>,
    },
}

/// What is lent, in users' words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lendable {
    /// A device.
    Device(DeviceId),
    /// A macvtap on a device.
    Macvtap(DeviceId),
    /// A tap.
    Tap,
}

/// Why a guest would not start: the first thing that is in the way.
#[derive(Debug, Clone, Copy)]
pub enum PlanRefusal<'a> {
    /// Of the guest as a whole.
    Guest(&'a GuestObstacle),
    /// Of one device.
    Device(&'a DevicePlan, &'a DeviceRefusal),
}

impl DeviceRefusal {
    /// What a person can do about it, where there is something.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Drained(pf) => Some(format!("let it lend again: virtnic undrain {pf}")),
            Self::Pf(error) => error.advice(),
            Self::NoPair => None,
            Self::Twice(_) => Some("take one of the two out of its definition".to_owned()),
            Self::NoVf { name, .. } => {
                let pf = name.as_deref().unwrap_or("PF");
                Some(format!(
                    "If it is a PF, one of its VFs comes with <interface type='hostdev-hybrid'><source \
                     dev='{pf}'/>, or from a network with <forward mode='hostdev'><pf dev='{pf}'/>; the \
                     card itself is given by a plain <hostdev>."
                ))
            }
            Self::Choose(error) => error.advice(),
            Self::Wish(error) => error.advice(),
            Self::Host(error) => error.advice(),
            Self::Obstructed { obstacle, .. } => obstacle.advice(),
            Self::SameName { .. } => {
                Some("leave one <target> out, and it gets a name that is free".to_owned())
            }
            Self::SameMac { .. } => Some("give one of them another MAC".to_owned()),
            Self::Network(problem) => Some(problem.advice()),
            Self::Port(error) | Self::Setting(error) => error.advice.clone(),
            Self::Usb(error) => error.advice(),
            Self::UsbInterface => Some("give the device as a plain <hostdev>".to_owned()),
            Self::Claim(_) => None,
        }
    }

    /// The chosen device's own fault, in words: another of its pool may do.
    pub(crate) fn own_fault(&self) -> Option<String> {
        match self {
            Self::Obstructed { obstacle, .. } => {
                (obstacle.is_about_this_device()).then(|| chain(&**obstacle))
            }
            Self::SameMac { .. } => Some(self.to_string()),
            _ => None,
        }
    }
}

impl GuestPlan {
    /// Why the guest would not start; `None`: it would, as far as can be told without trying.
    #[must_use]
    pub fn refusal(&self) -> Option<PlanRefusal<'_>> {
        self.refusals().next()
    }

    /// All that is in the way.
    pub fn refusals(&self) -> impl Iterator<Item = PlanRefusal<'_>> {
        let of_guest = self.obstacles.iter().map(PlanRefusal::Guest);
        of_guest.chain(
            (self.devices.iter()).filter_map(|device| match &device.outcome {
                Outcome::Refused(refusal) => Some(PlanRefusal::Device(device, refusal)),
                Outcome::Lend(_) | Outcome::Owed(_) | Outcome::Alone => None,
            }),
        )
    }
}

impl Lendable {
    pub(crate) fn new(share: Share, mode: Option<DirectMode>) -> Self {
        match (share, mode) {
            (Share::Whole(device), None) => Self::Device(device),
            (Share::Whole(device) | Share::Part(device), _) => Self::Macvtap(device),
            (Share::Tap, _) => Self::Tap,
        }
    }
}

impl fmt::Display for Lendable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(device) => device.fmt(f),
            Self::Macvtap(device) => write!(f, "a macvtap on {device}"),
            Self::Tap => f.write_str("a tap"),
        }
    }
}
