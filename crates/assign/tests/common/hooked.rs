//! The simulated host with a hook at `bind`, and a driver that only pretends to set something.

use std::os::fd::OwnedFd;

use conf::{Bandwidth, DirectMode, MacAddress, NetdevName, PciAddress, UsbAddress};
use host::{
    BridgePort, Counters, Host, HostError, HostEvents, Inventory, IommuGroup, Ipv6Autoconf,
    LinkState, Links, MacvlanSpec, Netdev, NetdevNode, NicAbility, NodeAccess, NodePlace,
    Operation, PciDetails, PciDevice, PhysicalFunction, PortRequest, RxFilter, SimulatedHost,
    TapQueues, TapSpec, Usage, Usb, UsbDevice, UsbNode, VfAbilities, VfSetting, VfState,
    VfioHolder, VirtualFunction, VlanSpec,
};

pub(crate) struct Hooked {
    pub(crate) inner: SimulatedHost,
    /// Called before each bind.
    pub(crate) on_bind: Box<dyn Fn() + Send + Sync>,
    /// Called before each macvtap is made.
    pub(crate) before_make: Box<dyn Fn() + Send + Sync>,
    /// Called before each VLAN device is made.
    pub(crate) before_vlan: Box<dyn Fn() + Send + Sync>,
    /// Called before somebody is let open a vfio group.
    pub(crate) on_grant: Box<dyn Fn(NodeAccess) + Send + Sync>,
    /// This setting is taken and forgotten.
    pub(crate) deaf_to: Option<Operation>,
}

impl Hooked {
    pub(crate) fn plain(inner: SimulatedHost) -> Self {
        Self {
            inner,
            on_bind: Box::new(|| {}),
            before_make: Box::new(|| {}),
            before_vlan: Box::new(|| {}),
            on_grant: Box::new(|_| {}),
            deaf_to: None,
        }
    }
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
    fn vf_mac_is_given(&self, vf: &VirtualFunction) -> Answer<Option<bool>> {
        self.inner.vf_mac_is_given(vf)
    }
    fn vf_abilities(&self, vf: &VirtualFunction) -> Answer<VfAbilities> {
        self.inner.vf_abilities(vf)
    }
    fn set_netdev_mac(&self, netdev: &str, mac: MacAddress) -> Answer<()> {
        self.inner.set_netdev_mac(netdev, mac)
    }
    fn vf_usage(&self, vf: &VirtualFunction) -> Answer<Vec<Usage>> {
        self.inner.vf_usage(vf)
    }
    fn vfio_holder(&self, address: PciAddress) -> Answer<Option<VfioHolder>> {
        self.inner.vfio_holder(address)
    }
    fn check_driver(&self, driver: &str) -> Answer<()> {
        self.inner.check_driver(driver)
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
    fn vfio_access(&self, group: u32) -> Answer<Option<NodeAccess>> {
        self.inner.vfio_access(group)
    }
    fn set_vfio_access(&self, group: u32, access: NodeAccess) -> Answer<()> {
        if self.deaf_to == Some(Operation::GrantVfio) {
            return Ok(());
        }
        (self.on_grant)(access);
        self.inner.set_vfio_access(group, access)
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

impl Usb for Hooked {
    fn usb_devices(&self) -> Answer<Vec<UsbDevice>> {
        self.inner.usb_devices()
    }
    fn usb_device(&self, address: UsbAddress) -> Answer<UsbDevice> {
        self.inner.usb_device(address)
    }
    fn usb_access(&self, address: UsbAddress) -> Answer<NodeAccess> {
        self.inner.usb_access(address)
    }
    fn set_usb_access(&self, address: UsbAddress, access: NodeAccess) -> Answer<()> {
        if self.deaf_to == Some(Operation::GrantUsb) {
            return Ok(());
        }
        self.inner.set_usb_access(address, access)
    }
    fn probe_usb(&self, address: UsbAddress) -> Answer<()> {
        if self.deaf_to == Some(Operation::ProbeUsb) {
            return Ok(());
        }
        self.inner.probe_usb(address)
    }
}

impl Inventory for Hooked {
    fn pci_functions(&self) -> Answer<Vec<PciAddress>> {
        self.inner.pci_functions()
    }
    fn pci_place(&self, address: PciAddress) -> Answer<NodePlace> {
        self.inner.pci_place(address)
    }
    fn pci_details(&self, address: PciAddress) -> Answer<PciDetails> {
        self.inner.pci_details(address)
    }
    fn netdev_place(&self, netdev: &str) -> Answer<NodePlace> {
        self.inner.netdev_place(netdev)
    }
    fn netdev_node(&self, netdev: &Netdev) -> Answer<NetdevNode> {
        self.inner.netdev_node(netdev)
    }
    fn usb_names(&self) -> Answer<Vec<String>> {
        self.inner.usb_names()
    }
    fn usb_place(&self, name: &str) -> Answer<NodePlace> {
        self.inner.usb_place(name)
    }
    fn usb_node(&self, name: &str) -> Answer<UsbNode> {
        self.inner.usb_node(name)
    }
    fn pci_usage(&self, address: PciAddress) -> Answer<Vec<Usage>> {
        self.inner.pci_usage(address)
    }
    fn usb_usage(&self, bus: u32, device: u32) -> Answer<Vec<Usage>> {
        self.inner.usb_usage(bus, device)
    }
    fn rebind(&self, address: PciAddress) -> Answer<Option<String>> {
        self.inner.rebind(address)
    }
}

impl Links for Hooked {
    fn netdevs(&self) -> Answer<Vec<Netdev>> {
        self.inner.netdevs()
    }
    fn netdev(&self, name: &str) -> Answer<Netdev> {
        self.inner.netdev(name)
    }
    fn netdev_usage(&self, netdev: &Netdev) -> Answer<Vec<Usage>> {
        self.inner.netdev_usage(netdev)
    }
    fn nic_ability(&self, netdev: &Netdev) -> Answer<NicAbility> {
        self.inner.nic_ability(netdev)
    }
    fn netdev_counters(&self, ifindex: u32) -> Answer<Counters> {
        self.inner.netdev_counters(ifindex)
    }
    fn vf_counters(&self, vf: &VirtualFunction) -> Answer<Option<Counters>> {
        self.inner.vf_counters(vf)
    }
    fn set_up(&self, ifindex: u32, up: bool) -> Answer<()> {
        if self.deaf_to == Some(Operation::SetUp) {
            return Ok(());
        }
        self.inner.set_up(ifindex, up)
    }
    fn set_macvlan_mode(&self, netdev: &Netdev, mode: DirectMode) -> Answer<()> {
        self.inner.set_macvlan_mode(netdev, mode)
    }
    fn ipv6_autoconf(&self, ifindex: u32) -> Answer<Option<Ipv6Autoconf>> {
        self.inner.ipv6_autoconf(ifindex)
    }
    fn set_addr_gen_mode(&self, ifindex: u32, mode: u8) -> Answer<()> {
        self.inner.set_addr_gen_mode(ifindex, mode)
    }
    fn set_accept_ra(&self, ifindex: u32, accept: i32) -> Answer<()> {
        self.inner.set_accept_ra(ifindex, accept)
    }
    fn set_mac(&self, ifindex: u32, mac: MacAddress) -> Answer<()> {
        if self.deaf_to == Some(Operation::SetNetdevMac) {
            return Ok(());
        }
        self.inner.set_mac(ifindex, mac)
    }
    fn set_mtu(&self, ifindex: u32, mtu: u32) -> Answer<()> {
        if self.deaf_to == Some(Operation::SetMtu) {
            return Ok(());
        }
        self.inner.set_mtu(ifindex, mtu)
    }
    fn make_macvlan(&self, spec: &MacvlanSpec) -> Answer<Netdev> {
        (self.before_make)();
        self.inner.make_macvlan(spec)
    }
    fn make_vlan(&self, spec: &VlanSpec) -> Answer<Netdev> {
        (self.before_vlan)();
        self.inner.make_vlan(spec)
    }
    fn open_macvtap(&self, netdev: &Netdev, queues: TapQueues) -> Answer<Vec<OwnedFd>> {
        self.inner.open_macvtap(netdev, queues)
    }
    fn make_tap(&self, spec: &TapSpec) -> Answer<(Netdev, Vec<OwnedFd>)> {
        self.inner.make_tap(spec)
    }
    fn open_tap(&self, name: NetdevName, queues: TapQueues) -> Answer<Vec<OwnedFd>> {
        self.inner.open_tap(name, queues)
    }
    fn open_vhost(&self, count: u16) -> Answer<Vec<OwnedFd>> {
        self.inner.open_vhost(count)
    }
    fn delete_link(&self, ifindex: u32, name: NetdevName) -> Answer<()> {
        self.inner.delete_link(ifindex, name)
    }
    fn set_master(&self, ifindex: u32, master: Option<u32>) -> Answer<()> {
        if self.deaf_to == Some(Operation::SetMaster) {
            return Ok(());
        }
        self.inner.set_master(ifindex, master)
    }
    fn set_bridge_port(&self, ifindex: u32, port: &BridgePort) -> Answer<()> {
        self.inner.set_bridge_port(ifindex, port)
    }
    fn set_bridge_mac(&self, ifindex: u32, mac: MacAddress, present: bool) -> Answer<()> {
        self.inner.set_bridge_mac(ifindex, mac, present)
    }
    fn rx_filter(&self, ifindex: u32) -> Answer<RxFilter> {
        self.inner.rx_filter(ifindex)
    }
    fn set_rx_filter(&self, ifindex: u32, filter: &RxFilter) -> Answer<()> {
        if self.deaf_to == Some(Operation::SetRxFilter) {
            return Ok(());
        }
        self.inner.set_rx_filter(ifindex, filter)
    }
    fn set_bandwidth(&self, ifindex: u32, bandwidth: &Bandwidth) -> Answer<()> {
        self.inner.set_bandwidth(ifindex, bandwidth)
    }
    fn autoprobe(&self, pf: &PhysicalFunction) -> Answer<bool> {
        self.inner.autoprobe(pf)
    }
    fn set_autoprobe(&self, pf: &PhysicalFunction, on: bool) -> Answer<()> {
        self.inner.set_autoprobe(pf, on)
    }
    fn port_profile(&self, request: &PortRequest) -> Answer<()> {
        self.inner.port_profile(request)
    }
}
