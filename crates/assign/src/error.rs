//! What stands in the way of lending and of taking back.

use std::path::PathBuf;

use conf::{DeviceId, MacAddress, NetdevName, PciAddress, UsbAddress};
use host::{HostError, Usage, VfioHolder, VlanId};
use records::RecordError;
use rustix::io::Errno;

use crate::device::{Generation, Item};

/// The class of a failure, for whoever has a protocol of its own to tell it in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Not to be had on this host or card.
    ConfigUnsupported,
    /// To be had, but not as things are now.
    OperationInvalid,
    /// The kernel refused; its errno.
    System(i32),
    /// Anything else.
    Internal,
}

/// The list and its journal can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The journal can't be read.
    #[error(transparent)]
    Journal(#[from] RecordError),
    /// The host does not tell which boot this is.
    #[error("cannot tell this boot from an earlier one")]
    Boot(#[source] HostError),
}

/// A device that can't be claimed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// Somebody has it.
    #[error("device {device} is in use: lent to guest '{guest}'{}", match .network { Some(network) => format!(" by network '{network}'"), None => String::new() })]
    Taken {
        /// The device.
        device: DeviceId,
        /// The guest's name.
        guest: String,
        /// Through what.
        network: Option<String>,
    },
    /// Links share it, so that it can't be lent whole.
    #[error("device {device} is shared by macvtaps of guest{} {}", if .guests.len() == 1 { "" } else { "s" }, quoted(.guests))]
    Shared {
        /// The device.
        device: DeviceId,
        /// Whose links.
        guests: Vec<String>,
    },
    /// It is not as it was found, or its record can't be read.
    #[error("device {words} is kept back: {reason}; virtnic reconcile tells what would mend it", words = .item.words())]
    Barred {
        /// The device, or the tap of one.
        item: Item,
        /// What stands in the way, in words.
        reason: String,
    },
    /// A VF of it is a guest's, and would be gone with it.
    #[error("{pf} has a VF that would be gone")]
    OfVf {
        /// The PF.
        pf: PciAddress,
        /// Who has the VF.
        #[source]
        source: Box<ClaimError>,
    },
    /// It is just being taken from the host, or given back to it.
    #[error("device {device} is just being {doing}")]
    InHand {
        /// The device.
        device: DeviceId,
        /// What is done to it.
        doing: &'static str,
    },
}

fn quoted(names: &[String]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("'{name}'")).collect();
    names.join(", ")
}

/// An item was not lent, and is off the list; unless [`PrepareError::undo`] tells faults: then it
/// is on it, dirty.
#[derive(Debug, thiserror::Error)]
#[error("cannot lend {words} to guest '{guest}'{}", and_not_undone(.undo), words = .item.words())]
pub struct PrepareError {
    /// The device, or the tap of one.
    pub item: Item,
    /// To whom it was to go.
    pub guest: String,
    /// What stood in the way.
    #[source]
    pub obstacle: Box<Obstacle>,
    /// What could not be undone; empty: everything done was undone, and verified.
    pub undo: Vec<UndoFault>,
}

fn and_not_undone(undo: &[UndoFault]) -> String {
    if undo.is_empty() {
        return String::new();
    }
    format!(", nor restore it ({})", texts(undo))
}

/// What stands in the way of lending.
#[derive(Debug, thiserror::Error)]
pub enum Obstacle {
    /// The claim is not the device's present one.
    #[error("it was given to another guest, or back, meanwhile; try again")]
    Superseded(Generation),
    /// The host uses it.
    #[error("it is in use: {}", .0.iter().map(describe_usage).collect::<Vec<_>>().join("; "))]
    InUse(Vec<Usage>),
    /// Its PF is down.
    #[error("its PF is not online: '{pf}' is down")]
    PfDown {
        /// The PF's network device.
        pf: String,
    },
    /// No IOMMU.
    #[error("the host has no IOMMU switched on, so no device can be given to a guest")]
    NoIommu,
    /// The IOMMU group has members that the host's own drivers have.
    #[error("its IOMMU group {group} is not viable: {}", blockers(.members))]
    GroupNotViable {
        /// The group.
        group: u32,
        /// What stands in the way.
        members: Vec<Blocker>,
    },
    /// It leads to other devices.
    #[error("it is a bridge, and guests are given what is behind it")]
    Bridge,
    /// It is a PF, and its VFs would be gone without its driver.
    #[error("it has {vfs} VFs, which would be gone")]
    HasVfs {
        /// How many.
        vfs: usize,
        /// The PF.
        address: PciAddress,
    },
    /// Another guest has a device that can't be parted from this one.
    #[error("device {member}, which {tie}, is lent to guest '{guest}'")]
    Tied {
        /// The other device.
        member: DeviceId,
        /// What they share.
        tie: &'static str,
        /// Who has it.
        guest: String,
    },
    /// An attribute is asked for that the PF's driver does not tell.
    #[error("the driver of its physical function offers no {attribute}")]
    NotOffered {
        /// Name of the sysfs attribute.
        attribute: &'static str,
    },
    /// A hub, which is the host's way to other devices.
    #[error("{address} is a hub, and what is plugged into it can be lent alone")]
    UsbHub {
        /// The hub.
        address: UsbAddress,
    },
    /// A back end that is gone.
    #[error("host device driver '{0}' is not supported; there is only 'vfio'")]
    Backend(&'static str),
    /// Not managed, and not bound to vfio.
    #[error("it is not managed, and must be manually detached from the host: {}", match .driver { Some(driver) => format!("driver '{driver}' has it"), None => String::from("no driver has it") })]
    NotDetached {
        /// What has it.
        driver: Option<String>,
    },
    /// A port profile that a hostdev interface can't have.
    #[error("a hostdev interface can have no port profile but one of 802.1Qbh")]
    ProfileNotForVfio,
    /// 802.1Qbh and a VLAN, which comes with the profile.
    #[error("an interface with a port profile of 802.1Qbh can have no VLAN beside it")]
    ProfileWithVlan,
    /// The claim is for something else than what is to be prepared.
    #[error("it was chosen for another use than this one")]
    WrongClaim {
        /// What is claimed.
        item: Item,
    },
    /// A network device that is not the claimed device's.
    #[error("network device '{netdev}' does not belong to {device}")]
    OtherDevice {
        /// The network device.
        netdev: NetdevName,
        /// The claimed device.
        device: DeviceId,
    },
    /// A device that belongs to a bridge, bond or team.
    #[error("'{netdev}' belongs to '{master}', so that no macvtap can share it")]
    Enslaved {
        /// The device.
        netdev: NetdevName,
        /// What it belongs to.
        master: String,
    },
    /// A device that can't have a macvtap.
    #[error(
        "'{netdev}' is {what}, and a macvtap needs an Ethernet card, a bond or a VLAN below it"
    )]
    NoLower {
        /// The device.
        netdev: NetdevName,
        /// What it is, in words.
        what: &'static str,
    },
    /// A MAC is another's on the same device.
    #[error("the MAC {mac} on '{parent}' {holder}")]
    MacTaken {
        /// The MAC.
        mac: MacAddress,
        /// The device that is shared.
        parent: NetdevName,
        /// Whose it is, in words.
        holder: String,
    },
    /// Settings of a VF for what is none.
    #[error("'{netdev}' is no VF, so that it can have neither a VLAN nor other settings of a VF")]
    NoVf {
        /// The device.
        netdev: NetdevName,
    },
    /// A bridge that is none.
    #[error("network device '{netdev}' is no bridge")]
    NoBridge {
        /// The device.
        netdev: NetdevName,
    },
    /// No link has so small or so large a one.
    #[error("an MTU of {0} is not one of 68 to 65521, which links of this kind have")]
    MtuOutOfRange(u32),
    /// An MTU that the device below can't carry.
    #[error("an MTU of {mtu} is above that of '{parent}', {parent_mtu}")]
    MtuAboveParent {
        /// Asked for.
        mtu: u32,
        /// The device below.
        parent: NetdevName,
        /// Its MTU.
        parent_mtu: u32,
    },
    /// The name that was asked for is another device's.
    #[error("there is a network device '{name}' already, {holder}")]
    NameTaken {
        /// The name.
        name: NetdevName,
        /// Whose it is, in words.
        holder: String,
    },
    /// The name that a VLAN device is to have is another device's.
    #[error(
        "VLAN {id} of '{parent}' is to be '{name}', and there is a network device of that name already, {holder}"
    )]
    VlanNameTaken {
        /// The name.
        name: NetdevName,
        /// The VLAN.
        id: VlanId,
        /// The device that is shared.
        parent: NetdevName,
        /// Whose it is, in words.
        holder: String,
    },
    /// The device has that VLAN already, where it can't be seen.
    #[error("VLAN {id} of '{parent}' has its device already, in another network namespace")]
    VlanElsewhere {
        /// The VLAN.
        id: VlanId,
        /// The device that is shared.
        parent: NetdevName,
    },
    /// The host's own VLAN device is down.
    #[error("'{netdev}', which the host has for that VLAN, is down")]
    VlanDown {
        /// The VLAN device.
        netdev: NetdevName,
    },
    /// No name is left.
    #[error("all names from {prefix}0 on are taken")]
    NoFreeName {
        /// Their beginning.
        prefix: &'static str,
    },
    /// A tap that is there already, and no name.
    #[error("a tap that is not managed has to be named")]
    NoName,
    /// A value that was set is not the one that is read back.
    #[error("{wanted} was set, and {found} is read back")]
    NotKept {
        /// What was set.
        wanted: String,
        /// What is so.
        found: String,
    },
    /// The record could not be written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The host refused.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// A member of an IOMMU group that stands in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocker {
    /// Its PCI address.
    pub address: PciAddress,
    /// The driver that has it.
    pub driver: String,
    /// Its network devices.
    pub netdevs: Vec<String>,
}

fn blockers(members: &[Blocker]) -> String {
    let texts = members.iter().map(|member| match &member.netdevs[..] {
        [] => format!("driver '{}' has {}", member.driver, member.address),
        netdevs => format!(
            "driver '{}' has {} ({})",
            member.driver,
            member.address,
            netdevs.join(", ")
        ),
    });
    texts.collect::<Vec<_>>().join("; ")
}

/// A lent item that was not changed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nothing is lent under that generation, or it is just being changed.
    #[error("it is not lent any more")]
    NotLent(Generation),
    /// The host refused.
    #[error("cannot change {words}, lent to guest '{guest}'", words = .item.words())]
    Refused {
        /// The device, or the tap of one.
        item: Item,
        /// The guest's name.
        guest: String,
        /// What it said.
        #[source]
        source: HostError,
    },
    /// The record could not be written, so nothing was changed.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// An item that was not taken back.
#[derive(Debug, thiserror::Error)]
pub enum ReturnError {
    /// Nothing has that generation: it was given back, and may be another's by now.
    #[error("it was given back already")]
    Superseded(Generation),
    /// It is on its way just now.
    #[error("{words} is just being {doing}", words = .item.words())]
    InHand {
        /// The device, or the tap of one.
        item: Item,
        /// What is done to it.
        doing: &'static str,
    },
    /// A process has it. Nothing was changed, nothing is forgotten: it is as lent, or as dirty, as
    /// before, and is taken back when it is asked for again after the process let go.
    #[error("{words}, lent to guest '{guest}', is still in use: {process}", words = .item.words())]
    StillHeld {
        /// What is lent.
        item: Item,
        /// Whose it is.
        guest: String,
        /// Who has it.
        process: VfioHolder,
    },
    /// Nothing was changed; it is as lent as before.
    #[error("cannot take {words} back from {whose}", words = .item.words(), whose = whose(.guest))]
    Untouched {
        /// The device, or the tap of one.
        item: Item,
        /// The guest's name.
        guest: String,
        /// What stands in the way.
        #[source]
        fault: UndoFault,
    },
    /// Not everything is as it was found: the device is dirty, and its record stays.
    #[error("{words}, back from {whose}, is not as it was found: {}", texts(.faults), words = .item.words(), whose = whose(.guest))]
    Dirty {
        /// The device, or the tap of one.
        item: Item,
        /// Whose it was.
        guest: String,
        /// All that went wrong.
        faults: Vec<UndoFault>,
    },
}

/// A guest in words; nobody's name is empty.
pub(crate) fn whose(guest: &str) -> String {
    match guest {
        "" => "nobody".to_owned(),
        guest => format!("guest '{guest}'"),
    }
}

/// A fault on the way back.
#[derive(Debug, thiserror::Error)]
pub enum UndoFault {
    /// The host refused.
    #[error("{}", chain(.0))]
    Host(#[from] HostError),
    /// A value is not the one that was found.
    #[error("it had {was}, and has {is}")]
    NotRestored {
        /// What was found at first.
        was: String,
        /// What is so.
        is: String,
    },
    /// A guest runs with it.
    #[error("{0}")]
    StillHeld(VfioHolder),
    /// The record could not be removed.
    #[error("{}", chain(.0))]
    Record(#[from] RecordError),
}

/// An error with what is behind it, where that is told in one line of another one.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn texts(faults: &[UndoFault]) -> String {
    faults
        .iter()
        .map(UndoFault::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

/// What uses a VF on the host, in words.
#[must_use]
pub fn describe_usage(usage: &Usage) -> String {
    match usage {
        Usage::Addressed { netdev, address } => format!("{netdev} is up with {address}"),
        Usage::Enslaved { netdev, master } => format!("{netdev} belongs to {master}"),
        Usage::Lower { netdev, upper } => format!("{upper} sits on {netdev}"),
        Usage::DefaultRoute { netdev } => format!("a default route leaves through {netdev}"),
        Usage::OtherNamespace => "its network device is in another network namespace".to_owned(),
        Usage::Block { device, by } => format!("{device} {by}"),
        Usage::Console => "it shows the host's console".to_owned(),
        Usage::VfioOpen(holder) => holder.to_string(),
    }
}

impl PrepareError {
    /// Its class.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.obstacle.kind()
    }

    /// Whether another device may do where this one doesn't.
    #[must_use]
    pub fn is_about_this_device(&self) -> bool {
        self.obstacle.is_about_this_device()
    }
}

impl ReturnError {
    /// Its class.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::StillHeld { .. } => ErrorKind::System(Errno::BUSY.raw_os_error()),
            Self::Superseded(_) | Self::InHand { .. } => ErrorKind::OperationInvalid,
            Self::Untouched { .. } | Self::Dirty { .. } => ErrorKind::Internal,
        }
    }

    /// What a person can do about it, where there is something.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::StillHeld { process, .. } => Some(match process.process {
                Some(process) => {
                    format!("once process {process} has ended or closed it: virtnic reconcile")
                }
                None => "once it is closed: virtnic reconcile".to_owned(),
            }),
            Self::Dirty { .. } => Some("virtnic reconcile tells more, and mends it".to_owned()),
            Self::Superseded(_) | Self::InHand { .. } | Self::Untouched { .. } => None,
        }
    }
}

impl Obstacle {
    /// Its class.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoIommu
            | Self::NotOffered { .. }
            | Self::Backend(_)
            | Self::ProfileNotForVfio
            | Self::ProfileWithVlan
            | Self::UsbHub { .. }
            | Self::NoVf { .. }
            | Self::NoBridge { .. }
            | Self::NoLower { .. }
            | Self::MtuAboveParent { .. }
            | Self::MtuOutOfRange(_)
            | Self::NoName
            | Self::Host(
                HostError::NotVirtualFunction(_)
                | HostError::Unsupported { .. }
                | HostError::NoVhost,
            ) => ErrorKind::ConfigUnsupported,
            Self::Superseded(_)
            | Self::InUse(_)
            | Self::PfDown { .. }
            | Self::GroupNotViable { .. }
            | Self::Bridge
            | Self::HasVfs { .. }
            | Self::Tied { .. }
            | Self::NotDetached { .. }
            | Self::Enslaved { .. }
            | Self::OtherDevice { .. }
            | Self::VlanNameTaken { .. }
            | Self::VlanElsewhere { .. }
            | Self::VlanDown { .. }
            | Self::MacTaken { .. } => ErrorKind::OperationInvalid,
            // What the kernel would have said.
            Self::NameTaken { .. } => ErrorKind::System(Errno::EXIST.raw_os_error()),
            Self::NotKept { .. } | Self::NoFreeName { .. } | Self::WrongClaim { .. } => {
                ErrorKind::Internal
            }
            Self::Record(error) => error.errno().map_or(ErrorKind::Internal, ErrorKind::System),
            Self::Host(error) => error.errno().map_or(ErrorKind::Internal, ErrorKind::System),
        }
    }

    /// Whether another device may do where this one doesn't.
    #[must_use]
    pub fn is_about_this_device(&self) -> bool {
        matches!(
            self,
            Self::InUse(_)
                | Self::GroupNotViable { .. }
                | Self::HasVfs { .. }
                | Self::Tied { .. }
                | Self::NotDetached { .. }
                | Self::PfDown { .. }
                | Self::Enslaved { .. }
                | Self::MtuAboveParent { .. }
                | Self::MacTaken { .. }
                | Self::VlanNameTaken { .. }
                | Self::VlanElsewhere { .. }
                | Self::VlanDown { .. }
                | Self::NoLower { .. }
                | Self::OtherDevice { .. }
                | Self::Host(
                    HostError::NotTaken { .. }
                        | HostError::NoPciDevice(_)
                        | HostError::NoNetdev(_)
                        | HostError::NotVirtualFunction(_)
                        | HostError::NoPfNetdev(_)
                )
        )
    }

    /// What a person can do about it, where there is something.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::PfDown { pf } => Some(format!("bring it up: ip link set {pf} up")),
            Self::NoIommu => Some(
                "switch it on in the firmware, and boot with intel_iommu=on where that is not \
                 the default"
                    .to_owned(),
            ),
            Self::InUse(usages) if usages.as_slice() == [Usage::Console] => Some(
                "if the host can do without its console: virsh nodedev-detach, with the driver named \
                 (--driver vfio), and managed='no' for the guest"
                    .to_owned(),
            ),
            Self::InUse(_) => {
                Some("take it out of use on the host, or give the guest another".to_owned())
            }
            Self::GroupNotViable { members, .. } => members.first().map(|member| {
                format!(
                    "if the host can do without it: echo {0} > \
                     /sys/bus/pci/devices/{0}/driver/unbind",
                    member.address
                )
            }),
            Self::HasVfs { address, .. } => Some(format!(
                "give the guest one of them; or, if the card is to be its own, stop what lends \
                 them and remove them first: echo 0 > /sys/bus/pci/devices/{address}/sriov_numvfs"
            )),
            Self::NotDetached { .. } => {
                Some("bind it to vfio-pci first (virsh nodedev-detach), or set managed='yes'".to_owned())
            }
            Self::NotOffered { attribute } => Some(format!("leave the {attribute} out")),
            Self::Record(RecordError { path, source, .. })
                if source.kind() == std::io::ErrorKind::StorageFull =>
            {
                let directory = path.parent().map_or_else(PathBuf::new, PathBuf::from);
                Some(format!("make room under {}", directory.display()))
            }
            Self::Host(HostError::NotVirtualFunction(_)) => {
                Some("name a VF, or give the card as a plain <hostdev>".to_owned())
            }
            Self::Enslaved { netdev, master } => Some(format!(
                "take it out (ip link set {netdev} nomaster), or name '{master}' instead of \
                 '{netdev}': a bridge as <interface type='bridge'>, a bond as the macvtap's device"
            )),
            Self::UsbHub { .. } => Some("see what is plugged in there: lsusb -t".to_owned()),
            Self::NoVf { .. } | Self::ProfileWithVlan => Some("leave the VLAN out".to_owned()),
            Self::MtuAboveParent { mtu, parent, .. } => {
                Some(format!("raise it first: ip link set {parent} mtu {mtu}"))
            }
            Self::MacTaken { .. } => {
                Some("give the guest another MAC: devices on one card have one each".to_owned())
            }
            Self::NoLower { .. } => Some("name the card that the guest is to use".to_owned()),
            Self::VlanNameTaken { name, .. } => Some(format!(
                "give that device another name (ip link set {name} name …): these are for VLANs of \
                 guests"
            )),
            Self::VlanElsewhere { .. } => {
                Some("take it back from there, or let the guest use another card".to_owned())
            }
            Self::VlanDown { netdev } => Some(format!("bring it up: ip link set {netdev} up")),
            Self::NameTaken { .. } => {
                Some("leave <target> out, and it gets a name that is free".to_owned())
            }
            Self::Host(error) => error.advice(),
            _ => None,
        }
    }
}
