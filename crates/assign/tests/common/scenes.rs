//! Every way in which something is lent, each with a host to try it on.

use assign::{
    Assigner, Claim, ClaimError, Item, MacvtapPreparation, Origin, Preparation, Profile, ProfileId,
    TapPreparation, Vhost,
};
use conf::{Bandwidth, DeviceId, DirectMode, NetdevName, Rate, UsbAddress, Uuid};
use host::{BridgePort, Host, Links, PortAction, Quirks, TapQueues, Usb, VfSetting, VlanId};

use super::{Machine, everything, guest, mac, mac_and_vlan, ordinary};

/// A way to lend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scene {
    /// A VF by vfio.
    Vfio,
    /// The same on an igb card, whose PF holds the VF to another MAC than its own.
    VfioHeld,
    /// A macvtap that shares a card's network device.
    Shared(DirectMode),
    /// A macvtap in passthrough mode on a VF.
    PassthroughVf,
    /// The same, where the PF has given the VF a MAC that it holds on to.
    PassthroughLockedVf,
    /// A macvtap in passthrough mode on a plain card.
    PassthroughNic,
    /// A macvtap on a plain card that the host keeps down.
    SharedDown,
    /// A macvtap on a VLAN device of a card's.
    SharedVlan,
    /// The same on a card that the host keeps down.
    SharedVlanDown,
    /// A macvtap on a VLAN device that the host has already.
    SharedTheirVlan,
    /// A macvtap in passthrough mode on one.
    PassthroughDown,
    /// A USB device.
    Usb,
    /// A tap in a bridge.
    Bridge,
    /// A tap alone.
    Ethernet,
    /// A tap that somebody else made.
    Existing,
}

impl Scene {
    pub(crate) const ALL: [Self; 17] = [
        Self::Vfio,
        Self::VfioHeld,
        Self::Shared(DirectMode::Vepa),
        Self::Shared(DirectMode::Private),
        Self::Shared(DirectMode::Bridge),
        Self::PassthroughVf,
        Self::PassthroughLockedVf,
        Self::PassthroughNic,
        Self::SharedDown,
        Self::SharedVlan,
        Self::SharedVlanDown,
        Self::SharedTheirVlan,
        Self::PassthroughDown,
        Self::Usb,
        Self::Bridge,
        Self::Ethernet,
        Self::Existing,
    ];

    /// A machine on which it works: two VFs, a plain card, a bridge, a tap.
    pub(crate) fn machine(self) -> Machine {
        let machine = Machine::with_links("vfs=2");
        if self == Self::PassthroughLockedVf {
            let vf = machine.host.virtual_function(machine.vf(0)).unwrap();
            let own = machine.host.vf_state(&vf).unwrap().netdev.unwrap().1;
            machine.host.set_vf(&vf, VfSetting::Mac(own)).unwrap();
        }
        if self == Self::VfioHeld {
            machine.host.set_quirks(Quirks::igb());
            let vf = machine.host.virtual_function(machine.vf(0)).unwrap();
            machine.host.set_netdev_mac("sim0v0", mac(90)).unwrap();
            machine.host.set_vf(&vf, VfSetting::Mac(mac(91))).unwrap();
        }
        if self == Self::SharedTheirVlan {
            machine.host.add_vlan("eth0.42", "eth0", vlan(42)).unwrap();
        }
        if matches!(
            self,
            Self::SharedDown | Self::SharedVlanDown | Self::PassthroughDown
        ) {
            machine.host.put_up("eth0", false);
        }
        machine.host.clear_effects();
        machine
    }

    /// What is claimed of the host.
    pub(crate) fn device(self, machine: &Machine) -> Option<DeviceId> {
        match self {
            Self::Vfio | Self::VfioHeld | Self::PassthroughVf | Self::PassthroughLockedVf => {
                Some(machine.vf(0).into())
            }
            Self::Shared(_)
            | Self::PassthroughNic
            | Self::SharedDown
            | Self::SharedVlan
            | Self::SharedVlanDown
            | Self::SharedTheirVlan
            | Self::PassthroughDown => Some(machine.device("eth0")),
            Self::Usb => Some(machine.usb().into()),
            Self::Bridge | Self::Ethernet | Self::Existing => None,
        }
    }

    pub(crate) fn claim(
        self,
        assigner: &Assigner,
        machine: &Machine,
        n: u32,
    ) -> Result<Claim, ClaimError> {
        let device = self.device(machine);
        match (self, device) {
            (
                Self::Shared(_)
                | Self::SharedDown
                | Self::SharedVlan
                | Self::SharedVlanDown
                | Self::SharedTheirVlan,
                _,
            )
            | (_, None) => assigner.claim_link(device, guest(n), Origin::Interface),
            (_, Some(device)) => assigner.claim(device, guest(n), Origin::Interface),
        }
    }

    /// With all that can be asked for.
    pub(crate) fn preparation(self, n: u32) -> Preparation {
        match self {
            Self::Vfio => everything(n),
            Self::VfioHeld => ordinary(n),
            Self::Shared(mode) => Preparation::Macvtap(MacvtapPreparation {
                profile: Some(qbg()),
                ..macvtap("eth0", mode, n)
            }),
            Self::PassthroughVf | Self::PassthroughLockedVf => {
                Preparation::Macvtap(MacvtapPreparation {
                    vf: Some(mac_and_vlan(n)),
                    ..macvtap("sim0v0", DirectMode::Passthrough, n)
                })
            }
            Self::SharedDown => Preparation::Macvtap(macvtap("eth0", DirectMode::Bridge, n)),
            Self::SharedVlan | Self::SharedVlanDown | Self::SharedTheirVlan => {
                Preparation::Macvtap(MacvtapPreparation {
                    vlan: Some(vlan(42)),
                    ..macvtap("eth0", DirectMode::Bridge, n)
                })
            }
            Self::PassthroughDown => {
                Preparation::Macvtap(macvtap("eth0", DirectMode::Passthrough, n))
            }
            Self::PassthroughNic => Preparation::Macvtap(MacvtapPreparation {
                mtu: Some(9000),
                ..macvtap("eth0", DirectMode::Passthrough, n)
            }),
            Self::Bridge => Preparation::Tap(TapPreparation {
                bridge: Some(name("br0")),
                port: BridgePort {
                    isolated: Some(true),
                    learning: Some(false),
                    unicast_flood: Some(false),
                    vlans: None,
                },
                static_mac: true,
                ..tap(n)
            }),
            Self::Usb => Preparation::Usb,
            Self::Ethernet => Preparation::Tap(tap(n)),
            Self::Existing => Preparation::Tap(TapPreparation {
                name: Some(name("tap0")),
                existing: true,
                ..tap(n)
            }),
        }
    }

    /// Whether a link is made for the guest.
    pub(crate) fn makes_link(self) -> bool {
        !matches!(
            self,
            Self::Vfio | Self::VfioHeld | Self::Usb | Self::Existing
        )
    }

    /// The item that is claimed first.
    pub(crate) fn is_link(item: Item) -> bool {
        matches!(item, Item::Link(_))
    }
}

pub(crate) fn vlan(id: u16) -> VlanId {
    id.try_into().unwrap()
}

pub(crate) fn name(text: &str) -> NetdevName {
    text.parse().unwrap()
}

pub(crate) fn macvtap(lower: &str, mode: DirectMode, n: u32) -> MacvtapPreparation {
    MacvtapPreparation {
        lower: name(lower),
        mode,
        name: None,
        mac: mac(n),
        vf: None,
        vlan: None,
        queues: QUEUES,
        vhost: Vhost::Required,
        mtu: None,
        bandwidth: Some(bandwidth()),
        all_multicast: true,
        profile: None,
    }
}

pub(crate) fn tap(n: u32) -> TapPreparation {
    TapPreparation {
        name: None,
        bridge: None,
        mac: mac(n),
        queues: QUEUES,
        vhost: Vhost::IfThere,
        mtu: None,
        port: BridgePort::default(),
        static_mac: false,
        bandwidth: Some(bandwidth()),
        existing: false,
    }
}

pub(crate) const QUEUES: TapQueues = TapQueues {
    count: 2,
    vnet_hdr: true,
};

pub(crate) fn bandwidth() -> Bandwidth {
    let rate = Rate {
        average: Some(1000),
        ..Rate::default()
    };
    Bandwidth {
        inbound: Some(rate),
        outbound: None,
    }
}

pub(crate) fn qbg() -> Profile {
    Profile {
        action: PortAction::Associate,
        id: ProfileId::Qbg {
            manager_id: 11,
            type_id: 1_193_047,
            type_id_version: 2,
            instance_id: Uuid::from_u128(77),
        },
    }
}

pub(crate) fn qbh() -> Profile {
    Profile {
        action: PortAction::Associate,
        id: ProfileId::Qbh {
            profile_id: "tenants".to_owned(),
            host: Uuid::from_u128(99),
        },
    }
}

impl Machine {
    pub(crate) fn device(&self, netdev: &str) -> DeviceId {
        let netdev = self.host.netdev(netdev).unwrap();
        netdev
            .pci
            .map_or(DeviceId::Netdev(netdev.name), DeviceId::Pci)
    }

    /// The USB device that is plugged in.
    pub(crate) fn usb(&self) -> UsbAddress {
        self.host.usb_devices().unwrap()[0].address
    }

    /// Whether there is a network device of that name.
    pub(crate) fn has(&self, netdev: &str) -> bool {
        self.host.netdev(netdev).is_ok()
    }
}
