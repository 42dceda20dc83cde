//! What an interface takes of the host, once it is known to what it is connected.

use assign::{
    MacvtapPreparation, Preparation, Profile, ProfileId, TapPreparation, VfConfig, VfioPreparation,
    Vhost,
};
use conf::{
    Bandwidth, DeviceId, DirectMode, HostDriver, Interface, InterfaceSource, MacTableManager,
    NativeMode, NetdevName, NicDriverName, Plug, Uuid, VfLink, VfSettings, VirtType, VirtualPort,
    VirtualPortKind, Vlan,
};
use host::{BridgePort, BridgeVlan, HostError, PortAction, TapQueues};
use rpc::{Code, Error};

use super::QEMU;
use crate::daemon::Daemon;
use crate::fault::{self, Result};
use crate::lender::Wanted;

/// Most queues of a tap: `MAX_TAP_QUEUES` of the kernel's `tun.c` and `if_tap.h`.
const MOST_QUEUES: u32 = 256;

/// What a network, its port group and the interface itself say together.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    pub(super) vlan: Option<Vlan>,
    pub(super) virtual_port: Option<VirtualPort>,
    pub(super) bandwidth: Option<Bandwidth>,
    pub(super) isolated: bool,
    pub(super) trust_guest_rx_filters: bool,
    pub(super) vf: VfSettings,
}

/// Where an interface gets connected.
#[derive(Debug, Clone)]
pub(super) enum Target {
    /// As a network's port, or the interface itself, says.
    Plug(Plug),
    /// A tap of its own that others connect; or one that others made.
    Ethernet {
        /// Who made it.
        existing: bool,
    },
}

impl Settings {
    /// What an interface that is on no network says.
    pub(super) fn own(interface: &Interface) -> Self {
        Self {
            vlan: interface.vlan.clone(),
            virtual_port: interface.virtual_port.clone(),
            bandwidth: interface.bandwidth.clone(),
            isolated: interface.isolated == Some(true),
            trust_guest_rx_filters: interface.trust_guest_rx_filters == Some(true),
            vf: interface.vf.unwrap_or_default(),
        }
    }
}

impl Target {
    /// Where an interface goes that names its device itself; none: QEMU plays it alone, or it is
    /// another's to say.
    pub(super) fn of(interface: &Interface) -> Option<Self> {
        match &interface.source {
            InterfaceSource::Direct { dev, mode } => Some(Self::Plug(Plug::Direct {
                dev: dev.clone(),
                mode: *mode,
            })),
            InterfaceSource::Bridge { bridge } => Some(Self::Plug(Plug::Bridge {
                bridge: bridge.clone(),
                mac_table_manager: None,
            })),
            InterfaceSource::Ethernet => Some(Self::Ethernet {
                existing: interface.target_managed == Some(false),
            }),
            _ => None,
        }
    }
}

impl Daemon {
    /// What the interface takes of the host, and how it is to be made. Asks the host; blocks.
    pub(super) fn connection(
        &self,
        domain: &conf::Domain,
        interface: &Interface,
        target: &Target,
        settings: &Settings,
    ) -> Result<(Wanted, Preparation)> {
        let about = Connecting {
            domain,
            interface,
            settings,
        };
        match target {
            Target::Plug(Plug::HostdevPci {
                managed,
                driver,
                address,
            }) => {
                let vfio = about.vfio(*managed, driver.clone(), self.host_uuid())?;
                Ok((Wanted::Whole((*address).into()), Preparation::Vfio(vfio)))
            }
            Target::Plug(Plug::Direct { dev, mode }) => {
                let device = self.lender.device_named(dev).map_err(fault::host(QEMU))?;
                let is_vf = match device {
                    DeviceId::Pci(address) => match self.host.virtual_function(address) {
                        Ok(_) => true,
                        Err(HostError::NotVirtualFunction(_)) => false,
                        Err(error) => return Err(fault::host(QEMU)(error)),
                    },
                    DeviceId::Netdev(_) => false,
                };
                let macvtap = about.macvtap(dev, *mode, is_vf, self.host_uuid())?;
                let wanted = if macvtap.mode == DirectMode::Passthrough {
                    Wanted::Whole(device)
                } else {
                    Wanted::Share(device)
                };
                Ok((wanted, Preparation::Macvtap(macvtap)))
            }
            Target::Plug(
                plug @ (Plug::Bridge {
                    bridge,
                    mac_table_manager,
                }
                | Plug::Network {
                    bridge,
                    mac_table_manager,
                }),
            ) => {
                self.check_bridge(plug)?;
                let tap = about.tap(Some(bridge), *mac_table_manager, false)?;
                Ok((Wanted::Tap, Preparation::Tap(tap)))
            }
            Target::Ethernet { existing } => {
                let tap = about.tap(None, None, *existing)?;
                Ok((Wanted::Tap, Preparation::Tap(tap)))
            }
        }
    }
}

impl Daemon {
    /// The host's identity, as a switch is told; zeroes where firmware and system tell none.
    fn host_uuid(&self) -> Uuid {
        let uuid = self.node.uuid.as_deref();
        uuid.and_then(|uuid| uuid.parse().ok()).unwrap_or_default()
    }
}

/// An interface on its way to the host.
struct Connecting<'a> {
    domain: &'a conf::Domain,
    interface: &'a Interface,
    settings: &'a Settings,
}

impl Connecting<'_> {
    fn vfio(
        &self,
        managed: bool,
        driver: Option<HostDriver>,
        host: Uuid,
    ) -> Result<VfioPreparation> {
        let profile = self.profile(host)?;
        if let Some(Profile {
            id: ProfileId::Qbg { .. },
            ..
        }) = profile
        {
            return Err(
                self.unsupported("802.1Qbg needs a macvtap; a host device can have 802.1Qbh only")
            );
        }
        if self.settings.bandwidth.is_some() {
            return Err(self.unsupported(
                "<bandwidth> can't be kept on a host device; limit its VF: <virtnic:vf rate='…'/>",
            ));
        }
        if self.settings.isolated {
            return Err(self.unsupported("a host device can't be an isolated port"));
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
        host: Uuid,
    ) -> Result<MacvtapPreparation> {
        // Siblings that must not reach each other: what macvlan has for that is its private mode,
        // which holds as long as no switch sends their frames back.
        let mode = match mode {
            DirectMode::Bridge | DirectMode::Vepa if self.settings.isolated => DirectMode::Private,
            mode => mode,
        };
        let whole_vf = is_vf && mode == DirectMode::Passthrough;
        if !whole_vf {
            if self.settings.vlan.is_some() {
                return Err(self.unsupported(
                    "a macvtap has a VLAN only in passthrough mode on a Virtual Function; use a \
                     VLAN device as its parent",
                ));
            }
            if self.settings.vf != VfSettings::default() {
                return Err(
                    self.unsupported("<virtnic:vf> needs a Virtual Function of the guest's own")
                );
            }
        }
        Ok(MacvtapPreparation {
            lower: name(dev)?,
            mode,
            name: self.target_name()?,
            mac: self.interface.mac,
            vf: whole_vf.then(|| self.vf_config()).transpose()?,
            queues: self.queues()?,
            vhost: self.vhost()?,
            mtu: self.interface.mtu,
            bandwidth: self.settings.bandwidth.clone(),
            // Without it neither multicast nor IPv6 neighbour discovery reaches a guest whose
            // filters nobody follows.
            all_multicast: !self.settings.trust_guest_rx_filters,
            profile: self.profile(host)?,
        })
    }

    fn tap(
        &self,
        bridge: Option<&str>,
        table: Option<MacTableManager>,
        existing: bool,
    ) -> Result<TapPreparation> {
        if self.settings.virtual_port.is_some() {
            return Err(self.unsupported("no virtual port profile can be had on a bridge here"));
        }
        if self.settings.vf != VfSettings::default() {
            return Err(self.unsupported("<virtnic:vf> needs a Virtual Function"));
        }
        let ours = table == Some(MacTableManager::Libvirt);
        let on_bridge = bridge.is_some();
        if !on_bridge && (self.settings.vlan.is_some() || self.settings.isolated) {
            return Err(self.unsupported("a VLAN or an isolated port needs a bridge"));
        }
        Ok(TapPreparation {
            name: self.target_name()?,
            bridge: bridge.map(name).transpose()?,
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

    fn vf_config(&self) -> Result<VfConfig> {
        let settings = self.settings;
        let mut vf = settings.vf;
        // The guest drives the card itself: its PF alone can pull the cable out.
        if self.interface.link_up == Some(false) {
            vf.link = Some(VfLink::Off);
        }
        VfConfig::new(self.interface.mac, settings.vlan.as_ref(), &vf)
            .map_err(|error| self.unsupported(error))
    }

    fn queues(&self) -> Result<TapQueues> {
        let driver = self.interface.driver.as_ref();
        let count = driver.and_then(|driver| driver.queues).unwrap_or(1);
        let count = u16::try_from(count)
            .ok()
            .filter(|count| u32::from(*count) <= MOST_QUEUES)
            .ok_or_else(|| {
                self.unsupported(format_args!(
                    "{count} queues; a tap has {MOST_QUEUES} at most"
                ))
            })?;
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
    fn vhost(&self) -> Result<Vhost> {
        let driver = self.interface.driver.as_ref().and_then(|d| d.name);
        let could = self.interface.is_virtio() && self.domain.virt_type == VirtType::Kvm;
        match driver {
            Some(NicDriverName::Qemu) => Ok(Vhost::Never),
            Some(NicDriverName::Vhost) if !could => {
                Err(self.unsupported("<driver name='vhost'/> needs KVM and a virtio model"))
            }
            Some(NicDriverName::Vhost) => Ok(Vhost::Required),
            None if could => Ok(Vhost::IfThere),
            None => Ok(Vhost::Never),
        }
    }

    fn target_name(&self) -> Result<Option<NetdevName>> {
        self.interface.target_name().map(name).transpose()
    }

    fn profile(&self, host: Uuid) -> Result<Option<Profile>> {
        let Some(port) = &self.settings.virtual_port else {
            return Ok(None);
        };
        let missing = || self.unsupported("the port profile lacks a parameter that its type needs");
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
                host,
            },
            Some(VirtualPortKind::OpenVSwitch | VirtualPortKind::MidoNet) => {
                return Err(self.unsupported("Open vSwitch and MidoNet ports are not carried out"));
            }
        };
        Ok(Some(Profile {
            action: PortAction::Associate,
            id,
        }))
    }

    fn unsupported(&self, what: impl std::fmt::Display) -> Error {
        let detail = format!("interface {}: {what}", self.interface.mac);
        Error::new(Code::ConfigUnsupported, QEMU, detail)
    }
}

fn name(text: &str) -> Result<NetdevName> {
    text.parse().map_err(|error: conf::NetdevNameError| {
        Error::new(Code::ConfigUnsupported, QEMU, error.to_string())
    })
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
