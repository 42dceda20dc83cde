//! What the kernel refused.

use std::io;

use conf::PciAddress;

/// A failed operation on the host. A kernel refusal keeps its errno.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// No such network device.
    #[error("there is no network device '{0}'")]
    NoNetdev(String),
    /// A network device that has no PCI function behind it.
    #[error("network device '{0}' is not a PCI device")]
    NotPci(String),
    /// No such PCI function.
    #[error("there is no PCI device {0}")]
    NoPciDevice(PciAddress),
    /// A network device whose card makes no VFs.
    #[error("network device '{0}' is not an SR-IOV physical function")]
    NotPhysicalFunction(String),
    /// A PCI function that is no VF.
    #[error("PCI device {0} is not an SR-IOV Virtual Function")]
    NotVirtualFunction(PciAddress),
    /// A PF that has no network device to set its VFs with.
    #[error("the physical function {0} has no network device; is its driver loaded?")]
    NoPfNetdev(PciAddress),
    /// The PF's driver does not list that VF.
    #[error("the driver of '{pf}' does not list VF {number}")]
    VfNotListed {
        /// The PF's network device.
        pf: String,
        /// The VF's number.
        number: u16,
    },
    /// vhost-net is not there.
    #[error("there is no /dev/vhost-net; load it with: modprobe vhost_net")]
    NoVhost,
    /// What is asked for is not there: a card without it, or an agent that doesn't run.
    #[error("{target} can't do that: {reason}")]
    Unsupported {
        /// The device.
        target: String,
        /// What is missing.
        reason: String,
    },
    /// The switch, or the agent that speaks to it, refused a port profile.
    #[error("the port profile of '{link}' was refused: {reason}")]
    PortProfile {
        /// The network device.
        link: String,
        /// What came back, or that nothing did in time.
        reason: String,
    },
    /// The driver did not take the device.
    #[error("driver '{driver}' did not take {address}{}", match .holder { Some(holder) => format!("; '{holder}' has it"), None => String::from("; no driver has it") })]
    NotTaken {
        /// The device.
        address: PciAddress,
        /// The driver that should have it.
        driver: String,
        /// The one that has it.
        holder: Option<String>,
    },
    /// A driver that is not there and can't be loaded.
    #[error("driver '{driver}' is not available: {reason}")]
    NoDriver {
        /// The driver.
        driver: String,
        /// What modprobe said.
        reason: String,
    },
    /// The kernel refused an operation.
    #[error("{operation} of {target}")]
    Kernel {
        /// What was tried.
        operation: Operation,
        /// On which device, by name and address.
        target: String,
        /// What the kernel said; its extended text, if any, inside.
        #[source]
        source: io::Error,
    },
    /// sysfs or netlink said something that makes no sense.
    #[error("the kernel's answer about {target} makes no sense: {what}")]
    Malformed {
        /// The device or file.
        target: String,
        /// What was read.
        what: String,
    },
}

/// One kind of kernel operation: names it in errors, and picks it for a simulated fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(
    missing_docs,
    reason = "each is the Host method or setting of that name"
)]
pub enum Operation {
    ReadInventory,
    ReadLink,
    ReadVf,
    SetMac,
    SetVlan,
    SetSpoofCheck,
    SetTrust,
    SetLink,
    SetRate,
    SetNetdevMac,
    ReadUsage,
    Bind,
    Unbind,
    Reset,
    GrantVfio,
    SetVfCount,
    ReadGroup,
    ChooseDriver,
    Watch,
    ReadNetdev,
    ReadCounters,
    SetUp,
    SetMtu,
    MakeMacvlan,
    OpenTap,
    MakeTap,
    OpenVhost,
    DeleteLink,
    SetMaster,
    SetBridgePort,
    SetBridgeMac,
    SetRxFilter,
    SetBandwidth,
    SetAutoprobe,
    SetRssQuery,
    PortProfile,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ReadInventory => "reading the devices",
            Self::ReadLink => "reading the link",
            Self::ReadVf => "reading the VF settings",
            Self::SetMac => "setting the MAC",
            Self::SetVlan => "setting the VLAN",
            Self::SetSpoofCheck => "setting the spoof check",
            Self::SetTrust => "setting the trust",
            Self::SetLink => "setting the link state",
            Self::SetRate => "setting the rate",
            Self::SetNetdevMac => "setting the network device's MAC",
            Self::ReadUsage => "finding users",
            Self::Bind => "binding",
            Self::Unbind => "giving back",
            Self::Reset => "resetting",
            Self::GrantVfio => "granting the vfio group",
            Self::SetVfCount => "setting the number of VFs",
            Self::ReadGroup => "reading the IOMMU group",
            Self::ChooseDriver => "choosing the driver",
            Self::Watch => "watching",
            Self::ReadNetdev => "reading the network device",
            Self::ReadCounters => "reading the counters",
            Self::SetUp => "switching the network device on or off",
            Self::SetMtu => "setting the MTU",
            Self::MakeMacvlan => "making the macvlan device",
            Self::OpenTap => "opening the tap",
            Self::MakeTap => "making the tap",
            Self::OpenVhost => "opening vhost-net",
            Self::DeleteLink => "removing the network device",
            Self::SetMaster => "putting it into its bridge or taking it out",
            Self::SetBridgePort => "setting the bridge port",
            Self::SetBridgeMac => "setting the bridge's MAC table",
            Self::SetRxFilter => "setting the receive filter",
            Self::SetBandwidth => "setting the bandwidth",
            Self::SetAutoprobe => "setting the automatic probing of VFs",
            Self::SetRssQuery => "setting the RSS query",
            Self::PortProfile => "asking for the port profile",
        })
    }
}

impl HostError {
    /// The kernel's error number, where it was the kernel that refused.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel { source, .. } => errno(source),
            _ => None,
        }
    }
}

/// A kernel's refusal with the words that it added (netlink's extended acknowledgement). Inside an
/// [`io::Error`], since that alone holds either a number or words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KernelRefusal {
    errno: i32,
    said: Option<String>,
}

impl KernelRefusal {
    /// Longest text that is kept.
    const MOST_CHARS: usize = 200;

    pub(crate) fn new(errno: i32, said: Option<String>) -> Self {
        let clean = |said: String| {
            let printable = said.chars().filter(|c| !c.is_control());
            printable.take(Self::MOST_CHARS).collect::<String>()
        };
        Self {
            errno,
            said: said.map(clean).filter(|said| !said.is_empty()),
        }
    }
}

impl std::fmt::Display for KernelRefusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plain = io::Error::from_raw_os_error(self.errno);
        match &self.said {
            Some(said) => write!(f, "{said}: {plain}"),
            None => plain.fmt(f),
        }
    }
}

impl std::error::Error for KernelRefusal {}

impl From<KernelRefusal> for io::Error {
    fn from(refusal: KernelRefusal) -> Self {
        let kind = Self::from_raw_os_error(refusal.errno).kind();
        Self::new(kind, refusal)
    }
}

/// The number in an error, with or without words.
pub(crate) fn errno(error: &io::Error) -> Option<i32> {
    let refusal = (error.get_ref()).and_then(|inner| inner.downcast_ref::<KernelRefusal>());
    refusal.map_or_else(|| error.raw_os_error(), |refusal| Some(refusal.errno))
}
