//! Not carried out yet.

use std::os::fd::OwnedFd;

use conf::{Bandwidth, MacAddress, NetdevName};

use crate::*;

fn missing<T>() -> Result<T, HostError> {
    Err(HostError::Unsupported {
        target: "this host".to_owned(),
        reason: "not carried out yet".to_owned(),
    })
}

impl Links for LinuxHost {
    fn netdevs(&self) -> Result<Vec<Netdev>, HostError> {
        missing()
    }
    fn netdev(&self, _name: &str) -> Result<Netdev, HostError> {
        missing()
    }
    fn netdev_usage(&self, _netdev: &Netdev) -> Result<Vec<Usage>, HostError> {
        missing()
    }
    fn nic_ability(&self, _netdev: &Netdev) -> Result<NicAbility, HostError> {
        missing()
    }
    fn netdev_counters(&self, _ifindex: u32) -> Result<Counters, HostError> {
        missing()
    }
    fn vf_counters(&self, _vf: &VirtualFunction) -> Result<Option<Counters>, HostError> {
        missing()
    }
    fn set_up(&self, _ifindex: u32, _up: bool) -> Result<(), HostError> {
        missing()
    }
    fn set_mac(&self, _ifindex: u32, _mac: MacAddress) -> Result<(), HostError> {
        missing()
    }
    fn set_mtu(&self, _ifindex: u32, _mtu: u32) -> Result<(), HostError> {
        missing()
    }
    fn make_macvlan(&self, _spec: &MacvlanSpec) -> Result<Netdev, HostError> {
        missing()
    }
    fn open_macvtap(
        &self,
        _netdev: &Netdev,
        _queues: TapQueues,
    ) -> Result<Vec<OwnedFd>, HostError> {
        missing()
    }
    fn make_tap(&self, _spec: &TapSpec) -> Result<(Netdev, Vec<OwnedFd>), HostError> {
        missing()
    }
    fn open_tap(&self, _name: NetdevName, _queues: TapQueues) -> Result<Vec<OwnedFd>, HostError> {
        missing()
    }
    fn open_vhost(&self, _count: u16) -> Result<Vec<OwnedFd>, HostError> {
        missing()
    }
    fn delete_link(&self, _ifindex: u32, _name: NetdevName) -> Result<(), HostError> {
        missing()
    }
    fn set_master(&self, _ifindex: u32, _master: Option<u32>) -> Result<(), HostError> {
        missing()
    }
    fn set_bridge_port(&self, _ifindex: u32, _port: &BridgePort) -> Result<(), HostError> {
        missing()
    }
    fn set_bridge_mac(
        &self,
        _ifindex: u32,
        _mac: MacAddress,
        _present: bool,
    ) -> Result<(), HostError> {
        missing()
    }
    fn rx_filter(&self, _ifindex: u32) -> Result<RxFilter, HostError> {
        missing()
    }
    fn set_rx_filter(&self, _ifindex: u32, _filter: &RxFilter) -> Result<(), HostError> {
        missing()
    }
    fn set_bandwidth(&self, _ifindex: u32, _bandwidth: &Bandwidth) -> Result<(), HostError> {
        missing()
    }
    fn autoprobe(&self, _pf: &crate::PhysicalFunction) -> Result<bool, HostError> {
        missing()
    }
    fn set_autoprobe(&self, _pf: &crate::PhysicalFunction, _on: bool) -> Result<(), HostError> {
        missing()
    }
    fn port_profile(&self, _request: &PortRequest) -> Result<(), HostError> {
        missing()
    }
}
