//! The kernel, as virtnic needs it: PCI functions and VFs in sysfs, VF settings over netlink,
//! driver binding, IOMMU groups.
//!
//! [`Host`] is the one narrow door. It has two implementations, [`LinuxHost`] and
//! [`SimulatedHost`], and one suite of contract tests that runs on both. Nothing here decides
//! anything: each method does one thing to one device, and tells what the kernel said.
//!
//! All methods block; some for seconds (`sriov_numvfs`). Never call them on a runtime's threads.

mod abilities;
mod affinity;
mod allocator;
mod device;
mod error;
mod guest_group;
mod inventory;
mod leash;
mod links;
mod linux;
mod memory_lock;
mod node;
mod process;
mod simulated;
mod usb;
mod vlan;

use std::sync::Arc;

use conf::PciAddress;

pub use abilities::VfAbilities;
pub use affinity::{MemoryMode, MemoryPolicy, own_cpus, pin_thread};
pub use allocator::give_memory_back;
pub use conf::VlanProtocol;
pub use device::*;
pub use error::{HostError, Operation};
use error::{KernelRefusal, errno};
pub use guest_group::{GuestGroup, GuestGroupError};
pub use inventory::*;
pub use leash::Leash;
pub use links::*;
pub use linux::{LinuxHost, Paths, PortPatience};
pub use memory_lock::{MemoryLock, raise_memory_lock};
pub use node::{Cpu, NodeInfo, NodeInfoError, NumaCell};
pub use process::{RunAs, Spawn, SpawnError, SpawnStep, Spawned};
pub use simulated::{
    DeviceSnapshot, Effect, Fault, Frozen, Held, NetdevSnapshot, ParseShapeError, PortAnswer,
    Quirks, SimulatedCrash, SimulatedHost, SimulatedShape, Snapshot,
};
pub use usb::{NodeAccess, Usb, UsbDevice, UsbInterface};
pub use vlan::{VlanId, VlanIdError, VlanSpec};

/// What virtnic asks of a host.
pub trait Host: Links + Usb + Inventory {
    /// Every PF of the host that is a network card, in the order of their PCI addresses.
    ///
    /// Costs a walk over sysfs: for start-up and for inventories, not for one call's path.
    fn physical_functions(&self) -> Result<Vec<PhysicalFunction>, HostError>;

    /// The PF behind a network device's name.
    fn physical_function(&self, netdev: &str) -> Result<PhysicalFunction, HostError>;

    /// The enabled VFs of a PF, by VF number.
    fn virtual_functions(&self, pf: &PhysicalFunction) -> Result<Vec<VirtualFunction>, HostError>;

    /// The VF at that address; [`HostError::NotVirtualFunction`] for a PF or a plain device.
    fn virtual_function(&self, address: PciAddress) -> Result<VirtualFunction, HostError>;

    /// The PCI function behind a network device's name.
    fn pci_address_of(&self, netdev: &str) -> Result<PciAddress, HostError>;

    /// What sysfs tells of a PCI function.
    fn pci_device(&self, address: PciAddress) -> Result<PciDevice, HostError>;

    /// The function's IOMMU group with all its members; `None` where there is no IOMMU.
    fn iommu_group(&self, address: PciAddress) -> Result<Option<IommuGroup>, HostError>;

    /// The PF's link right now.
    fn pf_link(&self, pf: &PhysicalFunction) -> Result<LinkState, HostError>;

    /// All that the kernel tells of a VF's settings.
    fn vf_state(&self, vf: &VirtualFunction) -> Result<VfState, HostError>;

    /// Whether the VF's own driver found a MAC that its PF had given it; `false`: it made one up, or
    /// the host gave it one. `None`: it has no network device, or the kernel does not tell.
    /// [`VfState::mac`] does not say so: some PFs list what the VF chose for itself.
    fn vf_mac_is_given(&self, vf: &VirtualFunction) -> Result<Option<bool>, HostError>;

    /// What the PF's driver can set of that which [`Self::vf_state`] tells for every driver alike.
    fn vf_abilities(&self, vf: &VirtualFunction) -> Result<VfAbilities, HostError>;

    /// Sets one attribute of a VF through its PF: one attribute a message, since a message with
    /// several is not atomic.
    fn set_vf(&self, vf: &VirtualFunction, setting: VfSetting) -> Result<(), HostError>;

    /// Sets the MAC of the VF's own network device (what a guest's driver would not do). Used to
    /// give back a VF whose driver does not take up the administrative MAC.
    fn set_netdev_mac(&self, netdev: &str, mac: conf::MacAddress) -> Result<(), HostError>;

    /// What, if anything, uses the VF now besides us: the kernel's view, not our records.
    fn vf_usage(&self, vf: &VirtualFunction) -> Result<Vec<Usage>, HostError>;

    /// Who has the function's vfio group open, where a vfio driver has the function. Members of a
    /// group share it: it may be open for another one.
    fn vfio_holder(&self, address: PciAddress) -> Result<Option<VfioHolder>, HostError>;

    /// Whether it is certain, and can be told at once, that nothing uses the VF. Unlike every other
    /// question this one never waits for a lock that a driver may hold for seconds, so it may be
    /// asked where nothing may block. `false`: ask [`Self::vf_usage`].
    fn vf_is_idle(&self, _vf: &VirtualFunction) -> bool {
        false
    }

    /// The driver that fits a function best for handing it to a guest: a vfio variant driver from
    /// `modules.alias`, else `vfio-pci`.
    fn best_vfio_driver(&self, address: PciAddress) -> Result<String, HostError>;

    /// Whether there is a driver of that name: the kernel has it, or its module is among those of this
    /// kernel. Nothing is loaded.
    ///
    /// # Errors
    /// [`HostError::NoDriver`].
    fn check_driver(&self, driver: &str) -> Result<(), HostError>;

    /// Binds the function to that driver by `driver_override`, loading the module if need be, and
    /// returns when the driver has it. Already bound: nothing is done.
    fn bind(&self, address: PciAddress, driver: &str) -> Result<(), HostError>;

    /// Clears `driver_override`, and lets the kernel probe the function's ordinary driver; returns
    /// when `expect` (the driver that it had before; `None`: none) has it, or when it can't.
    fn unbind(&self, address: PciAddress, expect: Option<&str>) -> Result<(), HostError>;

    /// Resets the function, as sysfs `reset` does; fine where it is bound to vfio or can't.
    fn reset(&self, address: PciAddress) -> Result<(), HostError>;

    /// Who may open the IOMMU group's node, `/dev/vfio/N`. `None`: there is none, as vfio has no device of
    /// the group.
    fn vfio_access(&self, group: u32) -> Result<Option<NodeAccess>, HostError>;

    /// Sets that.
    fn set_vfio_access(&self, group: u32, access: NodeAccess) -> Result<(), HostError>;

    /// Makes that many VFs. Blocks for seconds; refused by the kernel while some exist and the
    /// number is not 0.
    fn set_vf_count(&self, pf: &PhysicalFunction, count: u16) -> Result<(), HostError>;

    /// Identity of this boot, `/proc/sys/kernel/random/boot_id`: what was recorded before another
    /// boot is not believed.
    fn boot_id(&self) -> Result<String, HostError>;

    /// Changes of devices and links, from when this is called on. Ends when dropped.
    fn watch(&self) -> Result<Box<dyn HostEvents>, HostError>;
}

/// A stream of changes.
pub trait HostEvents: Send {
    /// Blocks until something changes. `None`: the stream has ended.
    fn next(&mut self) -> Option<HostEvent>;
}

/// A shared host.
pub type SharedHost = Arc<dyn Host>;
