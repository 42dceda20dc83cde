//! Failures to happen, and what did happen.

use conf::{Bandwidth, MacAddress, NetdevName, PciAddress, UsbAddress};

use crate::{BridgePort, NodeAccess, Operation, PortRequest, RxFilter, VfSetting};

/// A failure to happen: which call it hits, and what the kernel then says.
///
/// ```
/// use host::{Fault, Operation};
/// let fault = Fault::of(Operation::SetVlan, 95 /* EOPNOTSUPP */).always();
/// let second = Fault::of(Operation::Bind, 16 /* EBUSY */).nth(2).partial();
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub(super) operation: Option<Operation>,
    pub(super) target: Option<PciAddress>,
    pub(super) errno: i32,
    pub(super) skip: u64,
    pub(super) lasting: bool,
    pub(super) partial: bool,
}

impl Fault {
    /// The next call of that operation fails with that errno.
    #[must_use]
    pub fn of(operation: Operation, errno: i32) -> Self {
        Self {
            operation: Some(operation),
            ..Self::any(errno)
        }
    }

    /// The next call of whatever operation fails.
    #[must_use]
    pub fn any(errno: i32) -> Self {
        Self {
            operation: None,
            target: None,
            errno,
            skip: 0,
            lasting: false,
            partial: false,
        }
    }

    /// Only calls for that device count.
    #[must_use]
    pub fn on(mut self, target: PciAddress) -> Self {
        self.target = Some(target);
        self
    }

    /// Not the next matching call but the nth, counted from 1.
    #[must_use]
    pub fn nth(mut self, n: u64) -> Self {
        self.skip = n.saturating_sub(1);
        self
    }

    /// From then on every time, until [`super::SimulatedHost::heal`].
    #[must_use]
    pub fn always(mut self) -> Self {
        self.lasting = true;
        self
    }

    /// The failed call leaves something behind: a setting is set all the same; a device has lost
    /// its old driver and got no new one.
    #[must_use]
    pub fn partial(mut self) -> Self {
        self.partial = true;
        self
    }

    fn fits(&self, operation: Operation, target: Option<PciAddress>) -> bool {
        self.operation.is_none_or(|wanted| wanted == operation)
            && self.target.is_none_or(|wanted| target == Some(wanted))
    }
}

/// The faults that wait.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Fault>);

/// A fault that hit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hit {
    pub(super) errno: i32,
    pub(super) partial: bool,
}

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn waiting(&self) -> usize {
        self.0.iter().filter(|fault| !fault.lasting).count()
    }

    /// Counts this call for every fault that it fits; the first one that is due hits.
    pub(super) fn check(
        &mut self,
        operation: Operation,
        target: Option<PciAddress>,
    ) -> Option<Hit> {
        let mut hit = None;
        self.0.retain_mut(|fault| {
            if !fault.fits(operation, target) {
                return true;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
                return true;
            }
            if hit.is_some() {
                return true;
            }
            hit = Some(Hit {
                errno: fault.errno,
                partial: fault.partial,
            });
            fault.lasting
        });
        hit
    }
}

/// One change that was made to the simulated host, in the order in which they were made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// An attribute of a VF was set through its PF.
    Set(PciAddress, VfSetting),
    /// A VF's own network device got a MAC.
    NetdevMac(PciAddress, MacAddress),
    /// `driver_override` was written; `None`: cleared.
    Override(PciAddress, Option<String>),
    /// A driver lost the device.
    Unbound(PciAddress, String),
    /// A driver took the device.
    Bound(PciAddress, String),
    /// The device was reset.
    Reset(PciAddress),
    /// Who may open an IOMMU group's node.
    VfioAccess(u32, NodeAccess),
    /// Who may open a USB device's node.
    UsbAccess(UsbAddress, NodeAccess),
    /// Drivers took a USB device's interfaces.
    UsbProbed(UsbAddress),
    /// A PF has that many VFs now.
    VfCount(PciAddress, u16),
    /// Drivers take that PF's new VFs at once, or no longer.
    Autoprobe(PciAddress, bool),
    /// A network device was made.
    LinkMade(u32, NetdevName),
    /// A network device got its alias.
    Tagged(u32, String),
    /// A network device is up, or down.
    LinkUp(u32, bool),
    /// How addresses are made up on a network device (`addr_gen_mode`).
    AddrGenMode(u32, u8),
    /// Whether routers are believed on a network device (`accept_ra`).
    AcceptRa(u32, i32),
    /// A network device, other than a VF's, got a MAC.
    LinkMac(u32, MacAddress),
    /// A network device got an MTU.
    LinkMtu(u32, u32),
    /// A network device was removed.
    LinkRemoved(u32),
    /// A network device is in that bridge, or in none.
    Master(u32, Option<u32>),
    /// A bridge port was set.
    BridgePort(u32, BridgePort),
    /// A bridge's table has that MAC behind that port, or no longer.
    BridgeMac(u32, MacAddress, bool),
    /// A network device lets in that.
    RxFilter(u32, RxFilter),
    /// The device of that index is shaped so.
    Bandwidth(u32, Bandwidth),
    /// A port profile was agreed.
    PortProfile(Box<PortRequest>),
}

/// What unwinds out of a call after [`super::SimulatedHost::crash_after`]: catch it with
/// [`std::panic::catch_unwind`] and downcast to this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimulatedCrash;
