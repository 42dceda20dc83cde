//! What an interface takes of the host, once it is known to what it is connected.

use assign::{
    MacvtapPreparation, Preparation, Profile, ProfileId, TapPreparation, TapSeat, VfConfig,
    VfConfigError, VfioPreparation, Vhost,
};
use conf::{
    ActualDevice, Bandwidth, DeviceId, DirectMode, Domain, ForwardMode, HostDriver, Interface,
    InterfaceSource, MacTableManager, NativeMode, NetdevName, NetdevNameError, Network,
    NetworkPort, NicDriverName, PciAddress, Plug, Uuid, VfLink, VfSettings, VirtType, VirtualPort,
    VirtualPortKind, Vlan,
};
use host::{
    BridgePort, BridgeVlan, Host, HostError, PortAction, TapQueues, VlanId, VlanIdError,
    VlanProtocol,
};

use crate::bridge::{BridgeError, check_bridge};
use crate::devices::device_named;
use crate::state::Share;

/// Most queues of a tap: `MAX_TAP_QUEUES` of the kernel's `tun.c` and `if_tap.h`.
const MOST_QUEUES: u32 = 256;

/// What a network, its port group and the interface itself say together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    vlan: Option<Vlan>,
    virtual_port: Option<VirtualPort>,
    bandwidth: Option<Bandwidth>,
    isolated: bool,
    trust_guest_rx_filters: bool,
    vf: VfSettings,
}

/// Where an interface gets connected.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// A PCI function, given to the guest.
    HostDevice {
        managed: bool,
        driver: Option<HostDriver>,
        address: PciAddress,
    },
    /// A macvtap on that device, whose network device is `dev` now.
    Direct {
        dev: String,
        mode: DirectMode,
        device: DeviceId,
        is_vf: bool,
    },
    /// A tap in that bridge.
    Bridge {
        bridge: String,
        table: Option<MacTableManager>,
    },
    /// A tap of its own that others connect; or one that others made.
    Ethernet { existing: bool },
}

/// What the ports of a network are plugged into.
#[derive(Debug)]
pub enum PortSource {
    /// A device of its pool, in that macvtap mode.
    Pool(Option<DirectMode>),
    /// Its bridge.
    Bridge(Plug),
}

/// An interface asks for what it can't have where it goes.
#[derive(Debug, thiserror::Error)]
pub enum WishError {
    /// Not to be had at all.
    #[error(transparent)]
    Unsupported(#[from] Lack),
    /// A name that no network device can have.
    #[error(transparent)]
    Name(#[from] NetdevNameError),
    /// The bridge.
    #[error(transparent)]
    Bridge(#[from] BridgeError),
    /// The host does not tell.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// What can't be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum Lack {
    #[error("802.1Qbg needs a macvtap; a host device can have 802.1Qbh only")]
    QbgOfHostDevice,
    #[error("a host device can't be an isolated port")]
    IsolatedHostDevice,
    #[error("<bandwidth> can't be kept on a host device: <virtnic:vf rate='…'/> limits a VF")]
    BandwidthOfHostDevice,
    #[error(
        "a macvtap in passthrough mode has a VLAN only on a Virtual Function; choose bridge, \
         private or vepa mode, or name a VLAN device as its parent"
    )]
    VlanOfMacvtap,
    #[error("a macvtap can have one VLAN tag, set for the guest, and no trunk")]
    TrunkOfMacvtap,
    #[error(
        "a macvtap's VLAN is one of 802.1Q; 802.1ad needs a Virtual Function of the guest's own"
    )]
    ServiceVlanOfMacvtap,
    #[error(transparent)]
    Vlan(#[from] VlanIdError),
    #[error("<virtnic:vf> needs a Virtual Function of the guest's own")]
    VfSettingsOfMacvtap,
    #[error("no virtual port profile can be had on a bridge here")]
    ProfileOfTap,
    #[error("<virtnic:vf> needs a Virtual Function")]
    VfSettingsOfTap,
    #[error("a VLAN or an isolated port needs a bridge")]
    NeedsBridge,
    #[error(transparent)]
    Vf(#[from] VfConfigError),
    #[error("it is in a bridge, and can go to another bridge alone while its guest runs")]
    NoBridgeThere,
    #[error("{0} queues; a tap has {MOST_QUEUES} at most")]
    Queues(u32),
    #[error("<driver name='vhost'/> needs KVM and a virtio model")]
    Vhost,
    #[error("the port profile lacks a parameter that its type needs")]
    ProfileParameter,
    #[error("Open vSwitch and MidoNet ports are not carried out")]
    ProfileKind,
}

impl WishError {
    /// What a person can do about it, where there is something.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Bridge(error) => error.advice(),
            Self::Host(error) => error.advice(),
            Self::Unsupported(_) | Self::Name(_) => None,
        }
    }
}

impl PortSource {
    /// What a network's ports are plugged into, and in which of its macvtap modes.
    ///
    /// # Errors
    /// A mode that the network does not offer.
    pub fn of(network: &Network, mode: Option<DirectMode>) -> Result<Self, conf::Error> {
        let mode = network.choose_direct_mode(mode)?;
        Ok(match (network.forward_mode(), network.existing_bridge()) {
            (Some(ForwardMode::Bridge), Some(bridge)) => Self::Bridge(Plug::Bridge {
                bridge: bridge.to_owned(),
                mac_table_manager: network
                    .ip
                    .bridge
                    .as_ref()
                    .and_then(|bridge| bridge.mac_table_manager),
            }),
            _ => Self::Pool(mode),
        })
    }
}

impl Settings {
    /// What an interface that is on no network says.
    pub(crate) fn own(interface: &Interface) -> Self {
        Self {
            vlan: interface.vlan.clone(),
            virtual_port: interface.virtual_port.clone(),
            bandwidth: interface.bandwidth.clone(),
            isolated: interface.isolated == Some(true),
            trust_guest_rx_filters: interface.trust_guest_rx_filters == Some(true),
            vf: interface.vf.unwrap_or_default(),
        }
    }

    /// What a port says, in which all that its network and port group say is merged, and how its
    /// VF is to be set.
    pub(crate) fn of_port(port: &NetworkPort, vf: VfSettings) -> Self {
        Self {
            vlan: port.vlan.clone(),
            virtual_port: port.virtual_port.clone(),
            bandwidth: port.bandwidth.clone(),
            isolated: port.isolated == Some(true),
            trust_guest_rx_filters: port.trust_guest_rx_filters == Some(true),
            vf,
        }
    }

    /// What a port says that was made before, as the document of its running interface has it.
    pub(crate) fn of_actual(actual: &ActualDevice) -> Self {
        Self {
            vlan: actual.vlan.clone(),
            virtual_port: actual.virtual_port.clone(),
            bandwidth: actual.bandwidth.clone(),
            isolated: actual.isolated == Some(true),
            trust_guest_rx_filters: actual.trust_guest_rx_filters == Some(true),
            vf: VfSettings::default(),
        }
    }
}

impl Target {
    /// Where an interface goes that names its device itself; none: QEMU plays it alone, or it is
    /// another's to say. Asks the host.
    pub(crate) fn of(host: &dyn Host, interface: &Interface) -> Result<Option<Self>, WishError> {
        Ok(Some(match &interface.source {
            InterfaceSource::Direct { dev, mode } => Self::direct(host, dev, *mode)?,
            InterfaceSource::Bridge { bridge } => Self::Bridge {
                bridge: bridge.clone(),
                table: None,
            },
            InterfaceSource::Ethernet => Self::Ethernet {
                existing: interface.target_managed == Some(false),
            },
            _ => return Ok(None),
        }))
    }

    fn direct(host: &dyn Host, dev: &str, mode: DirectMode) -> Result<Self, WishError> {
        let device = device_named(host, dev)?;
        let is_vf = match device {
            DeviceId::Pci(address) => match host.virtual_function(address) {
                Ok(_) => true,
                Err(HostError::NotVirtualFunction(_)) => false,
                Err(error) => return Err(error.into()),
            },
            DeviceId::Netdev(_) | DeviceId::Usb(_) => false,
        };
        Ok(Self::Direct {
            dev: dev.to_owned(),
            mode,
            device,
            is_vf,
        })
    }

    /// Where a port goes; `chosen`: the device of its network, and whether that is a VF, where
    /// that need not be asked.
    pub(crate) fn of_plug(
        host: &dyn Host,
        plug: &Plug,
        chosen: Option<(DeviceId, bool)>,
    ) -> Result<Self, WishError> {
        Ok(match plug {
            Plug::HostdevPci {
                managed,
                driver,
                address,
            } => Self::HostDevice {
                managed: *managed,
                driver: driver.clone(),
                address: *address,
            },
            Plug::Direct { dev, mode } => match chosen {
                Some((device, is_vf)) => Self::Direct {
                    dev: dev.clone(),
                    mode: *mode,
                    device,
                    is_vf,
                },
                None => Self::direct(host, dev, *mode)?,
            },
            Plug::Bridge {
                bridge,
                mac_table_manager,
            }
            | Plug::Network {
                bridge,
                mac_table_manager,
            } => Self::Bridge {
                bridge: bridge.clone(),
                table: *mac_table_manager,
            },
        })
    }
}

/// An interface on its way to the host.
pub(crate) struct Wish<'a> {
    pub(crate) domain: &'a Domain,
    pub(crate) interface: &'a Interface,
    pub(crate) settings: &'a Settings,
    /// The host's identity, as a switch is told.
    pub(crate) host_uuid: Uuid,
}

impl Wish<'_> {
    /// What the interface takes of the host, and how it is to be made. Asks the host for no more
    /// than whether a bridge is there.
    pub(crate) fn of(
        &self,
        host: &dyn Host,
        target: &Target,
    ) -> Result<(Share, Preparation), WishError> {
        Ok(match target {
            Target::HostDevice {
                managed,
                driver,
                address,
            } => {
                let vfio = self.vfio(*managed, driver.clone())?;
                (Share::Whole((*address).into()), Preparation::Vfio(vfio))
            }
            Target::Direct {
                dev,
                mode,
                device,
                is_vf,
            } => {
                let macvtap = self.macvtap(dev, *mode, *is_vf)?;
                let share = if macvtap.mode == DirectMode::Passthrough {
                    Share::Whole(*device)
                } else {
                    Share::Part(*device)
                };
                (share, Preparation::Macvtap(macvtap))
            }
            Target::Bridge { bridge, table } => {
                check_bridge(host, bridge)?;
                let tap = self.tap(Some(bridge), *table, false)?;
                (Share::Tap, Preparation::Tap(tap))
            }
            Target::Ethernet { existing } => {
                let tap = self.tap(None, None, *existing)?;
                (Share::Tap, Preparation::Tap(tap))
            }
        })
    }

    /// How the tap that it takes stands in its bridge; `None`: it takes none.
    pub(crate) fn seat(
        &self,
        host: &dyn Host,
        target: &Target,
    ) -> Result<Option<TapSeat>, WishError> {
        let (_, preparation) = self.of(host, target)?;
        Ok(match preparation {
            Preparation::Tap(tap) => tap.bridge.map(|bridge| TapSeat {
                bridge,
                port: tap.port,
                static_mac: tap.static_mac,
                mtu: tap.mtu,
            }),
            Preparation::Vfio(_) | Preparation::Usb | Preparation::Macvtap(_) => None,
        })
    }

    fn vfio(
        &self,
        managed: bool,
        driver: Option<HostDriver>,
    ) -> Result<VfioPreparation, WishError> {
        let profile = self.profile()?;
        if let Some(Profile {
            id: ProfileId::Qbg { .. },
            ..
        }) = profile
        {
            return Err(Lack::QbgOfHostDevice.into());
        }
        if self.settings.isolated {
            return Err(Lack::IsolatedHostDevice.into());
        }
        Ok(VfioPreparation {
            managed,
            driver,
            network: Some(self.vf_config()?),
            profile,
        })
    }

    fn macvtap(
        &self,
        dev: &str,
        mode: DirectMode,
        is_vf: bool,
    ) -> Result<MacvtapPreparation, WishError> {
        // Siblings that must not reach each other: what macvlan has for that is its private mode,
        // which holds as long as no switch sends their frames back.
        let mode = match mode {
            DirectMode::Bridge | DirectMode::Vepa if self.settings.isolated => DirectMode::Private,
            mode => mode,
        };
        let whole_vf = is_vf && mode == DirectMode::Passthrough;
        if !whole_vf {
            if self.settings.vlan.is_some() && mode == DirectMode::Passthrough {
                return Err(Lack::VlanOfMacvtap.into());
            }
            if self.settings.vf.protocol == Some(VlanProtocol::Dot1ad) {
                return Err(Lack::ServiceVlanOfMacvtap.into());
            }
            if self.settings.vf != VfSettings::default() {
                return Err(Lack::VfSettingsOfMacvtap.into());
            }
        }
        Ok(MacvtapPreparation {
            lower: dev.parse()?,
            mode,
            name: self.target_name()?,
            mac: self.interface.mac,
            vf: whole_vf.then(|| self.vf_config()).transpose()?,
            vlan: match whole_vf {
                true => None,
                false => self.access_vlan()?,
            },
            queues: self.queues()?,
            vhost: self.vhost()?,
            mtu: self.interface.mtu,
            bandwidth: self.settings.bandwidth.clone(),
            // Without it neither multicast nor IPv6 neighbour discovery reaches a guest whose
            // filters nobody follows.
            all_multicast: !self.settings.trust_guest_rx_filters,
            profile: self.profile()?,
        })
    }

    fn tap(
        &self,
        bridge: Option<&str>,
        table: Option<MacTableManager>,
        existing: bool,
    ) -> Result<TapPreparation, WishError> {
        if self.settings.virtual_port.is_some() {
            return Err(Lack::ProfileOfTap.into());
        }
        if self.settings.vf != VfSettings::default() {
            return Err(Lack::VfSettingsOfTap.into());
        }
        let ours = table == Some(MacTableManager::Libvirt);
        let on_bridge = bridge.is_some();
        if !on_bridge && (self.settings.vlan.is_some() || self.settings.isolated) {
            return Err(Lack::NeedsBridge.into());
        }
        Ok(TapPreparation {
            name: self.target_name()?,
            bridge: bridge.map(str::parse).transpose()?,
            mac: self.interface.mac,
            queues: self.queues()?,
            vhost: self.vhost()?,
            mtu: self.interface.mtu,
            port: BridgePort {
                isolated: self.settings.isolated.then_some(true),
                learning: ours.then_some(false),
                unicast_flood: ours.then_some(false),
                vlans: self.settings.vlan.as_ref().map(bridge_vlans),
            },
            static_mac: ours,
            bandwidth: self.settings.bandwidth.clone(),
            existing,
        })
    }

    fn vf_config(&self) -> Result<VfConfig, WishError> {
        let settings = self.settings;
        let mut vf = settings.vf;
        // The guest drives the card itself: its PF alone can pull the cable out.
        if self.interface.link_up == Some(false) {
            vf.link = Some(VfLink::Off);
        }
        VfConfig::new(self.interface.mac, settings.vlan.as_ref(), &vf)
            .map_err(|error| Lack::from(error).into())
    }

    /// The VLAN device's, on which a macvtap is to stand. As for a VF, VLAN 0 is none.
    fn access_vlan(&self) -> Result<Option<VlanId>, WishError> {
        let Some(vlan) = &self.settings.vlan else {
            return Ok(None);
        };
        match vlan.access_tag().ok_or(Lack::TrunkOfMacvtap)? {
            0 => Ok(None),
            id => Ok(Some(id.try_into().map_err(Lack::from)?)),
        }
    }

    fn queues(&self) -> Result<TapQueues, WishError> {
        let driver = self.interface.driver.as_ref();
        let count = driver.and_then(|driver| driver.queues).unwrap_or(1);
        let count = u16::try_from(count)
            .ok()
            .filter(|count| u32::from(*count) <= MOST_QUEUES)
            .ok_or(Lack::Queues(count))?;
        // Who else understands the header in front of each frame, QEMU knows.
        let model = self.interface.model.as_deref().unwrap_or("virtio");
        let vnet_hdr =
            self.interface.is_virtio() || matches!(model, "e1000e" | "igb" | "vmxnet3" | "virtio");
        Ok(TapQueues {
            count: count.max(1),
            vnet_hdr,
        })
    }

    /// Frames are moved by the kernel for virtio under KVM, unless the document says otherwise.
    fn vhost(&self) -> Result<Vhost, WishError> {
        let driver = self.interface.driver.as_ref().and_then(|d| d.name);
        let could = self.interface.is_virtio() && self.domain.virt_type == VirtType::Kvm;
        match driver {
            Some(NicDriverName::Qemu) => Ok(Vhost::Never),
            Some(NicDriverName::Vhost) if !could => Err(Lack::Vhost.into()),
            Some(NicDriverName::Vhost) => Ok(Vhost::Required),
            None if could => Ok(Vhost::IfThere),
            None => Ok(Vhost::Never),
        }
    }

    fn target_name(&self) -> Result<Option<NetdevName>, WishError> {
        let name = self.interface.target_name();
        Ok(name.map(str::parse).transpose()?)
    }

    fn profile(&self) -> Result<Option<Profile>, WishError> {
        let Some(port) = &self.settings.virtual_port else {
            return Ok(None);
        };
        let missing = || Lack::ProfileParameter;
        let id = match port.kind {
            None => return Ok(None),
            Some(VirtualPortKind::Qbg) => ProfileId::Qbg {
                manager_id: port.manager_id.ok_or_else(missing)?,
                type_id: port.type_id.ok_or_else(missing)?,
                type_id_version: port.type_id_version.ok_or_else(missing)?,
                instance_id: port.instance_id.ok_or_else(missing)?,
            },
            Some(VirtualPortKind::Qbh) => ProfileId::Qbh {
                profile_id: port.profile_id.clone().ok_or_else(missing)?,
                host: self.host_uuid,
            },
            Some(VirtualPortKind::OpenVSwitch | VirtualPortKind::MidoNet) => {
                return Err(Lack::ProfileKind.into());
            }
        };
        Ok(Some(Profile {
            action: PortAction::Associate,
            id,
        }))
    }
}

/// One tag is the guest's own VLAN, and it does not see it; several are a trunk, of which one may
/// be native.
fn bridge_vlans(vlan: &Vlan) -> Vec<BridgeVlan> {
    if let Some(id) = vlan.access_tag() {
        return vec![BridgeVlan {
            id,
            pvid: true,
            untagged: true,
        }];
    }
    let tags = vlan.tags.iter().map(|tag| BridgeVlan {
        id: tag.id,
        pvid: tag.native.is_some(),
        untagged: tag.native == Some(NativeMode::Untagged),
    });
    tags.collect()
}

/// Refuses what a port asks for and no host device can have.
///
/// # Errors
/// The first such thing.
pub fn check_host_port(port: &NetworkPort) -> Result<(), WishError> {
    if port.isolated == Some(true) {
        return Err(Lack::IsolatedHostDevice.into());
    }
    if port.bandwidth.is_some() {
        return Err(Lack::BandwidthOfHostDevice.into());
    }
    let config = VfConfig::new(port.mac, port.vlan.as_ref(), &VfSettings::default());
    config.map_err(Lack::from)?;
    Ok(())
}
