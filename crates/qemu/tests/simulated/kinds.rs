//! Devices that are plugged in, one of each kind.

use std::fs::File;
use std::os::fd::OwnedFd;

use conf::{DeviceInfo, Disk, Domain, GuestAddress, HostDevice, Interface, PciAddress};
use qemu::{ControlError, Plugged, SimulatedGuest, TapFds};

use crate::{Started, free_port};

/// A guest with what the devices below are plugged into.
pub(crate) const GUEST: &str = "<controller type='scsi' index='0' model='virtio-scsi'/>
     <controller type='usb' index='0' model='qemu-xhci'/>";

/// A device that is plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Card,
    Vf,
    Usb,
    VirtioDisk,
    ScsiDisk,
}

pub(crate) use Kind::{Card, ScsiDisk, Usb, Vf, VirtioDisk};

pub(crate) const ALL: [Kind; 5] = [Card, Vf, Usb, VirtioDisk, ScsiDisk];

impl Kind {
    pub(crate) fn alias(self) -> &'static str {
        match self {
            Card => "net7",
            Vf => "hostdev7",
            Usb => "hostdev8",
            VirtioDisk => "virtio-disk7",
            ScsiDisk => "scsi0-0-0-7",
        }
    }

    /// The commands that it takes, in their order.
    pub(crate) fn steps(self) -> &'static [&'static str] {
        match self {
            Card => &["getfd", "netdev_add", "device_add"],
            Vf | Usb => &["device_add"],
            VirtioDisk | ScsiDisk => &["add-fd", "blockdev-add", "device_add"],
        }
    }

    pub(crate) fn plugged(self) -> Plugged {
        match self {
            Card => Plugged::Interface { queues: 2 },
            Vf | Usb => Plugged::HostDevice,
            VirtioDisk | ScsiDisk => Plugged::Disk,
        }
    }

    pub(crate) async fn plug(self, web: &Started) -> Result<(), ControlError> {
        let (guest, domain) = (&web.guest, &web.domain);
        match self {
            Card => {
                let taps = TapFds {
                    taps: files(2),
                    vhosts: files(2),
                };
                guest.plug_interface(domain, &card(domain), 7, taps).await
            }
            Vf => {
                guest
                    .plug_host_device(domain, &vf_info(domain), None, vf())
                    .await
            }
            Usb => guest.plug_usb(domain, &usb(), (1, 7)).await,
            VirtioDisk | ScsiDisk => guest.plug_disk(domain, &self.disk(domain), files(2)).await,
        }
    }

    pub(crate) fn disk(self, domain: &Domain) -> Disk {
        let place = match self {
            ScsiDisk => GuestAddress::Drive {
                controller: 0,
                bus: 0,
                target: 0,
                unit: 7,
            },
            _ => free_port(domain, 2).unwrap(),
        };
        Disk {
            device: "disk".to_owned(),
            source: Some(conf::DiskSource::File("/images/data.qcow2".to_owned())),
            format: "qcow2".to_owned(),
            driver_attributes: Vec::new(),
            target: "sdh".to_owned(),
            bus: if self == ScsiDisk { "scsi" } else { "virtio" }.to_owned(),
            read_only: false,
            info: info(self, Some(place)),
            unused: Default::default(),
        }
    }
}

fn info(kind: Kind, address: Option<GuestAddress>) -> DeviceInfo {
    DeviceInfo {
        alias: Some(kind.alias().to_owned()),
        address,
        ..DeviceInfo::default()
    }
}

pub(crate) fn files(count: usize) -> Vec<OwnedFd> {
    let open = || File::open("/dev/null").unwrap().into();
    std::iter::repeat_with(open).take(count).collect()
}

pub(crate) fn vf() -> PciAddress {
    PciAddress::new(0, 3, 16, 7).unwrap()
}

fn vf_info(domain: &Domain) -> DeviceInfo {
    info(Vf, free_port(domain, 1))
}

pub(crate) fn card(domain: &Domain) -> Interface {
    let xml = "<interface type='ethernet'><mac address='52:54:00:00:00:07'/>
         <model type='virtio'/></interface>";
    let mut card = Interface::parse(xml).unwrap();
    card.info = info(Card, free_port(domain, 0));
    card
}

fn usb() -> HostDevice {
    let xml = "<hostdev mode='subsystem' type='usb'><source>
         <vendor id='0x1234'/><product id='0xbeef'/></source></hostdev>";
    let mut usb = HostDevice::parse(xml).unwrap();
    usb.info = info(Usb, None);
    usb
}

/// All that QEMU has.
pub(crate) fn stock(beside: &SimulatedGuest) -> impl PartialEq + std::fmt::Debug + use<> {
    (
        beside.devices(),
        beside.netdevs(),
        beside.descriptors(),
        (beside.nodes(), beside.descriptor_sets()),
        beside.open_devices(),
    )
}
