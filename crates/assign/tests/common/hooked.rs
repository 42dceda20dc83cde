//! The simulated host with a hook at `bind`, and a driver that only pretends to set something.

use conf::{MacAddress, PciAddress};
use host::{
    Host, HostError, HostEvents, IommuGroup, LinkState, Operation, PciDevice, PhysicalFunction,
    SimulatedHost, Usage, VfSetting, VfState, VirtualFunction,
};

pub(crate) struct Hooked {
    pub(crate) inner: SimulatedHost,
    /// Called before each bind.
    pub(crate) on_bind: Box<dyn Fn() + Send + Sync>,
    /// This setting is taken and forgotten.
    pub(crate) deaf_to: Option<Operation>,
}

type Answer<T> = Result<T, HostError>;

impl Host for Hooked {
    fn physical_functions(&self) -> Answer<Vec<PhysicalFunction>> {
        self.inner.physical_functions()
    }
    fn physical_function(&self, netdev: &str) -> Answer<PhysicalFunction> {
        self.inner.physical_function(netdev)
    }
    fn virtual_functions(&self, pf: &PhysicalFunction) -> Answer<Vec<VirtualFunction>> {
        self.inner.virtual_functions(pf)
    }
    fn virtual_function(&self, address: PciAddress) -> Answer<VirtualFunction> {
        self.inner.virtual_function(address)
    }
    fn pci_address_of(&self, netdev: &str) -> Answer<PciAddress> {
        self.inner.pci_address_of(netdev)
    }
    fn pci_device(&self, address: PciAddress) -> Answer<PciDevice> {
        self.inner.pci_device(address)
    }
    fn iommu_group(&self, address: PciAddress) -> Answer<Option<IommuGroup>> {
        self.inner.iommu_group(address)
    }
    fn pf_link(&self, pf: &PhysicalFunction) -> Answer<LinkState> {
        self.inner.pf_link(pf)
    }
    fn vf_state(&self, vf: &VirtualFunction) -> Answer<VfState> {
        self.inner.vf_state(vf)
    }
    fn set_vf(&self, vf: &VirtualFunction, setting: VfSetting) -> Answer<()> {
        if self.deaf_to == Some(setting.operation()) {
            return Ok(());
        }
        self.inner.set_vf(vf, setting)
    }
    fn set_netdev_mac(&self, netdev: &str, mac: MacAddress) -> Answer<()> {
        self.inner.set_netdev_mac(netdev, mac)
    }
    fn vf_usage(&self, vf: &VirtualFunction) -> Answer<Vec<Usage>> {
        self.inner.vf_usage(vf)
    }
    fn best_vfio_driver(&self, address: PciAddress) -> Answer<String> {
        self.inner.best_vfio_driver(address)
    }
    fn bind(&self, address: PciAddress, driver: &str) -> Answer<()> {
        (self.on_bind)();
        self.inner.bind(address, driver)
    }
    fn unbind(&self, address: PciAddress, expect: Option<&str>) -> Answer<()> {
        self.inner.unbind(address, expect)
    }
    fn reset(&self, address: PciAddress) -> Answer<()> {
        self.inner.reset(address)
    }
    fn grant_vfio(&self, group: u32, uid: u32, gid: u32) -> Answer<()> {
        self.inner.grant_vfio(group, uid, gid)
    }
    fn set_vf_count(&self, pf: &PhysicalFunction, count: u16) -> Answer<()> {
        self.inner.set_vf_count(pf, count)
    }
    fn boot_id(&self) -> Answer<String> {
        self.inner.boot_id()
    }
    fn watch(&self) -> Answer<Box<dyn HostEvents>> {
        self.inner.watch()
    }
}
