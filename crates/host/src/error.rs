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
    /// No such USB device, by the kernel's name or by its bus and number.
    #[error("there is no USB device {0}")]
    NoUsbDevice(String),
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
    /// The number of a PF's VFs was not changed. [`HostError::advice`] explains it.
    #[error("setting the number of VFs of {pf} to {asked}, from {has}")]
    VfCount {
        /// The PF, by name and address.
        pf: String,
        /// VFs asked for.
        asked: u16,
        /// VFs that it has.
        has: u16,
        /// Most VFs that it can make (`sriov_totalvfs`).
        max: u16,
        /// A VF that a process holds by vfio, where that is the reason.
        holder: Option<PciAddress>,
        /// What the kernel said.
        #[source]
        source: io::Error,
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
    GrantUsb,
    ProbeUsb,
    SetVfCount,
    ReadGroup,
    ChooseDriver,
    Watch,
    ReadNetdev,
    ReadCounters,
    SetUp,
    ReadIpv6,
    SetAddrGenMode,
    SetAcceptRa,
    SetMtu,
    MakeMacvlan,
    SetMacvlanMode,
    MakeVlan,
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

impl Operation {
    /// Whether it changes anything on the host.
    #[must_use]
    pub fn changes(self) -> bool {
        !matches!(
            self,
            Self::ReadInventory
                | Self::ReadLink
                | Self::ReadVf
                | Self::ReadUsage
                | Self::ReadGroup
                | Self::ChooseDriver
                | Self::Watch
                | Self::ReadNetdev
                | Self::ReadCounters
                | Self::ReadIpv6
        )
    }
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
            Self::GrantUsb => "granting the USB device",
            Self::ProbeUsb => "giving the USB device to the host's drivers",
            Self::SetVfCount => "setting the number of VFs",
            Self::ReadGroup => "reading the IOMMU group",
            Self::ChooseDriver => "choosing the driver",
            Self::Watch => "watching",
            Self::ReadNetdev => "reading the network device",
            Self::ReadCounters => "reading the counters",
            Self::SetUp => "switching the network device on or off",
            Self::ReadIpv6 => "reading the IPv6 settings",
            Self::SetAddrGenMode => "setting how IPv6 addresses are made up (addr_gen_mode)",
            Self::SetAcceptRa => "setting whether IPv6 routers are believed (accept_ra)",
            Self::SetMtu => "setting the MTU",
            Self::MakeMacvlan => "making the macvlan device",
            Self::SetMacvlanMode => "changing the mode of the macvlan device",
            Self::MakeVlan => "making the VLAN device",
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
            Self::Kernel { source, .. } | Self::VfCount { source, .. } => errno(source),
            _ => None,
        }
    }

    /// What the error means and what a person can do about it, where that is known.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::VfCount {
                has, max, holder, ..
            } => vf_count_advice(self.errno()?, *has, *max, *holder),
            Self::NoNetdev(_) => Some("see which there are: ip link".to_owned()),
            Self::NoPciDevice(_) => Some("see which there are: lspci -D".to_owned()),
            Self::NoUsbDevice(_) => Some("see which there are: lsusb".to_owned()),
            _ => None,
        }
    }
}

/// What the kernel means by an errno for `sriov_numvfs` (its `drivers/pci/iov.c`), or the PF's
/// driver.
fn vf_count_advice(errno: i32, has: u16, max: u16, holder: Option<PciAddress>) -> Option<String> {
    const EPERM: i32 = rustix::io::Errno::PERM.raw_os_error();
    const ENOENT: i32 = rustix::io::Errno::NOENT.raw_os_error();
    const EIO: i32 = rustix::io::Errno::IO.raw_os_error();
    const EAGAIN: i32 = rustix::io::Errno::AGAIN.raw_os_error();
    const ENOMEM: i32 = rustix::io::Errno::NOMEM.raw_os_error();
    const EACCES: i32 = rustix::io::Errno::ACCESS.raw_os_error();
    const EBUSY: i32 = rustix::io::Errno::BUSY.raw_os_error();
    const EINVAL: i32 = rustix::io::Errno::INVAL.raw_os_error();
    const ENOSPC: i32 = rustix::io::Errno::NOSPC.raw_os_error();
    const EROFS: i32 = rustix::io::Errno::ROFS.raw_os_error();
    const ERANGE: i32 = rustix::io::Errno::RANGE.raw_os_error();
    const EOPNOTSUPP: i32 = rustix::io::Errno::OPNOTSUPP.raw_os_error();
    Some(match (errno, holder) {
        (EBUSY, Some(vf)) => {
            format!("a process holds its VF {vf} by vfio; stop that guest or program first")
        }
        (EBUSY, None) if has > 0 => format!(
            "it has {has} VFs, and the kernel changes that number only by way of 0: with none of \
             them in use, set it to 0 first"
        ),
        (EBUSY, None) => String::from("its driver is busy; try again when the PF's link is up"),
        (EAGAIN, _) => String::from("its driver is being reset; try again"),
        (ERANGE, _) => format!(
            "the card's firmware allows {max} VFs; ask for fewer, or raise the limit in the \
             card's own settings and restart"
        ),
        (ENOMEM, _) => String::from(
            "there are too few PCI bus numbers, or there is too little PCI memory space, for that \
             many VFs, and the kernel's log says which; ask for fewer, switch on SR-IOV, ARI and \
             decoding above 4 GiB in the machine's firmware, or boot with pci=realloc or \
             pci=assign-busses",
        ),
        (ENOSPC, _) => format!(
            "the card has too few queues or interrupts left for that many VFs (at most {max}); \
             ask for fewer, or switch off other uses of the PF's queues"
        ),
        (ENOENT | EOPNOTSUPP, _) => String::from(
            "the PF's driver makes no VFs, or the PF has none: load the card's own driver",
        ),
        (EIO, _) => String::from(
            "the card reports fewer VFs than it was set up for; switch SR-IOV on in the card's and \
             the machine's firmware",
        ),
        (EINVAL, _) => format!(
            "the PF's driver refuses that many VFs (at most {max}), or refuses any in its present \
             mode; the kernel's log may say more"
        ),
        (EPERM | EACCES | EROFS, _) => String::from(
            "only root may do that, and not where the kernel is locked down or /sys is read-only",
        ),
        _ => return None,
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(errno: i32, has: u16, holder: Option<PciAddress>) -> HostError {
        HostError::VfCount {
            pf: String::from("'eth0' (0000:01:00.0)"),
            asked: 9,
            has,
            max: 7,
            holder,
            source: io::Error::from_raw_os_error(errno),
        }
    }

    #[test]
    fn each_refusal_of_a_number_of_vfs_says_what_to_do() {
        let vf: PciAddress = "0000:01:10.2".parse().unwrap();
        for (errno, has, holder, said) in [
            (34, 0, None, "allows 7 VFs"),
            (16, 2, None, "by way of 0"),
            (16, 0, None, "busy"),
            (16, 2, Some(vf), "its VF 0000:01:10.2 by vfio"),
            (12, 0, None, "bus numbers"),
            (28, 0, None, "queues"),
            (22, 0, None, "the kernel's log"),
            (5, 0, None, "firmware"),
            (2, 0, None, "driver makes no VFs"),
            (13, 0, None, "only root"),
        ] {
            let error = refused(errno, has, holder);
            assert_eq!(error.errno(), Some(errno));
            let advice = error.advice().unwrap();
            assert!(advice.contains(said), "{errno}: {advice}");
            assert!(!advice.contains("  "), "{errno}: {advice}");
        }
        assert_eq!(refused(71, 0, None).advice(), None, "nothing is made up");
    }

    #[test]
    fn a_device_that_is_not_there_comes_with_where_to_look() {
        let advice = |error: HostError| error.advice().unwrap();
        assert!(advice(HostError::NoNetdev("eth9".to_owned())).contains("ip link"));
        let address = "0000:55:00.0".parse().unwrap();
        assert!(advice(HostError::NoPciDevice(address)).contains("lspci"));
    }
}
