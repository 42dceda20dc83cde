//! What kind of slot each device wants.

use super::order::DeviceRef;
use crate::domain::{Devices, OtherDevice};
use crate::{HostSource, Interface, InterfaceSource, PciAddress};

/// Kinds of connection between a device and a bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Connect {
    PciDevice,
    PcieDevice,
    PciBridge,
    DmiToPciBridge,
    PcieToPciBridge,
    RootPort,
    SwitchUpstream,
    SwitchDownstream,
    PciExpander,
    PcieExpander,
}

/// What a device wants of its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) connect: Connect,
    /// Only on buses that take devices of their own accord.
    pub(super) automatic: bool,
    /// Shares a slot with others of its kind.
    pub(super) aggregate: bool,
}

impl Connect {
    /// Its bit in a set of them.
    pub(super) const fn bit(self) -> u16 {
        1 << self as u16
    }

    /// What a bus must accept, as an error says it.
    pub(super) const fn description(self) -> &'static str {
        match self {
            Self::PciDevice => "standard PCI device",
            Self::PcieDevice => "PCI Express device",
            Self::PciBridge => "pci-bridge",
            Self::DmiToPciBridge => "dmi-to-pci-bridge",
            Self::PcieToPciBridge => "pcie-to-pci-bridge",
            Self::RootPort => "pcie-root-port",
            Self::SwitchUpstream => "pcie-switch-upstream-port",
            Self::SwitchDownstream => "pcie-switch-downstream-port",
            Self::PciExpander => "pci-expander-bus",
            Self::PcieExpander => "pcie-expander-bus",
        }
    }
}

impl Wish {
    pub(super) const fn endpoint(connect: Connect) -> Self {
        Self {
            connect,
            automatic: true,
            aggregate: false,
        }
    }

    /// On any bus that accepts it, also those that are for addresses given by hand.
    pub(super) const fn by_hand(mut self) -> Self {
        self.automatic = false;
        self
    }

    /// Where there is no PCI Express, all endpoints are conventional.
    pub(super) fn on_conventional_buses(mut self) -> Self {
        if self.connect == Connect::PcieDevice {
            self.connect = Connect::PciDevice;
        }
        self
    }

    /// Of a PCI controller; none for roots.
    pub(super) fn of_controller(model: &str) -> Option<Self> {
        let connect = match model {
            "pci-bridge" => Connect::PciBridge,
            "dmi-to-pci-bridge" => Connect::DmiToPciBridge,
            "pcie-to-pci-bridge" => Connect::PcieToPciBridge,
            "pcie-root-port" => Connect::RootPort,
            "pcie-switch-upstream-port" => Connect::SwitchUpstream,
            "pcie-switch-downstream-port" => Connect::SwitchDownstream,
            "pci-expander-bus" => Connect::PciExpander,
            "pcie-expander-bus" => Connect::PcieExpander,
            _ => return None,
        };
        let mut wish = Self::endpoint(connect).by_hand();
        wish.aggregate = connect == Connect::RootPort;
        Some(wish)
    }
}

/// What the device wants; none if it sits on no PCI bus.
pub(super) fn wish(
    device: DeviceRef,
    devices: &Devices,
    is_express: &dyn Fn(PciAddress) -> bool,
) -> Option<Wish> {
    let connect = match device {
        DeviceRef::Controller(i) => {
            let controller = devices.controllers.get(i)?;
            let model = controller.model.as_deref();
            match (controller.kind.as_str(), model) {
                ("pci", Some(model)) => return Wish::of_controller(model),
                ("usb", Some("none")) => return None,
                ("usb", Some("qemu-xhci" | "nec-xhci")) => Connect::PcieDevice,
                ("usb" | "ide" | "sata", _) => Connect::PciDevice,
                ("virtio-serial", model) => virtio(model),
                ("scsi", None | Some("virtio-scsi")) => Connect::PcieDevice,
                ("scsi", Some(model)) if model.starts_with("virtio-") => virtio(Some(model)),
                ("scsi", _) => Connect::PciDevice,
                ("nvme", _) => Connect::PcieDevice,
                _ => return None,
            }
        }
        DeviceRef::Interface(i) => interface(devices.interfaces.get(i)?, is_express)?,
        DeviceRef::Disk(i) => {
            let disk = devices.disks.get(i)?;
            if disk.bus != "virtio" {
                return None;
            }
            virtio(disk.unused.attribute("model"))
        }
        DeviceRef::Hostdev(i) => source(&devices.hostdevs.get(i)?.source, is_express)?,
        DeviceRef::MemBalloon => match devices.memballoon.as_ref()?.model.as_str() {
            "none" | "xen" => return None,
            model => virtio(Some(model)),
        },
        DeviceRef::Rng(i) => virtio(Some(&devices.rngs.get(i)?.model)),
        DeviceRef::Serial(i) => {
            let serial = devices.serials.get(i)?;
            if serial.target_type.as_deref() != Some("pci-serial") {
                return None;
            }
            Connect::PciDevice
        }
        DeviceRef::Other(i) => other(devices.others.get(i)?)?,
    };
    Some(Wish::endpoint(connect))
}

/// Transitional virtio devices work in conventional slots only.
fn virtio(model: Option<&str>) -> Connect {
    match model {
        Some("virtio-transitional") => Connect::PciDevice,
        _ => Connect::PcieDevice,
    }
}

fn interface(interface: &Interface, is_express: &dyn Fn(PciAddress) -> bool) -> Option<Connect> {
    if let InterfaceSource::Hostdev { source: host, .. } = &interface.source {
        return source(host, is_express);
    }
    match interface.model.as_deref() {
        // No model: a network will resolve it to a host device.
        None | Some("virtio" | "virtio-non-transitional" | "e1000e" | "igb") => {
            Some(Connect::PcieDevice)
        }
        Some("usb-net") => None,
        Some(_) => Some(Connect::PciDevice),
    }
}

fn source(source: &HostSource, is_express: &dyn Fn(PciAddress) -> bool) -> Option<Connect> {
    match source {
        HostSource::Usb(_) => None,
        HostSource::NetDevice(_) | HostSource::VfOf(_) => Some(Connect::PcieDevice),
        HostSource::Pci(address) if is_express(*address) => Some(Connect::PcieDevice),
        HostSource::Pci(_) => Some(Connect::PciDevice),
    }
}

fn other(device: &OtherDevice) -> Option<Connect> {
    let model = device.attribute("model");
    match device.name.as_str() {
        "filesystem" | "vsock" | "rng" => Some(virtio(model)),
        "sound" => match model {
            Some("sb16" | "pcspk" | "usb") | None => None,
            Some("virtio") => Some(Connect::PcieDevice),
            Some(_) => Some(Connect::PciDevice),
        },
        "watchdog" => (model == Some("i6300esb")).then_some(Connect::PciDevice),
        "video" => match device.child_attribute("model", "type").as_deref() {
            Some("none" | "ramfb") => None,
            Some("virtio" | "bochs") => Some(Connect::PcieDevice),
            _ => Some(Connect::PciDevice),
        },
        "hostdev" => match device.attribute("type") {
            Some("scsi_host") => Some(virtio(model)),
            Some("mdev") if model == Some("vfio-pci") => Some(Connect::PcieDevice),
            _ => None,
        },
        "input" => (device.attribute("bus") == Some("virtio")).then(|| virtio(model)),
        "shmem" | "pstore" => Some(Connect::PciDevice),
        "memory" => {
            matches!(model, Some("virtio-mem" | "virtio-pmem")).then_some(Connect::PcieDevice)
        }
        "iommu" => (model == Some("virtio")).then_some(Connect::PcieDevice),
        "crypto" => Some(Connect::PcieDevice),
        "panic" => (model == Some("pvpanic")).then_some(Connect::PciDevice),
        _ => None,
    }
}
