//! What each half of a pair gets of the element that asks for it. `docs/xml.md` has the same as a
//! table.

use uuid::Uuid;

use super::{Hybrid, HybridFallback, HybridGuest, HybridHalf, HybridPart};
use crate::kept::Kept;
use crate::{
    DeviceInfo, DirectMode, Error, ErrorKind, Faults, GuestAddress, HostSource, Interface,
    InterfaceSource, MacAddress, Teaming, VfSettings, Vlan, VlanProtocol,
};

/// VLANs that a VLAN device can be of: 0 only marks a priority, 4095 is reserved (IEEE 802.1Q).
const VLAN_IDS: std::ops::RangeInclusive<u16> = 1..=4094;

/// What the two halves are known by.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) pair: Uuid,
    pub(super) mac: MacAddress,
    pub(super) standby: Name,
    pub(super) primary: Name,
}

/// What one half is known by.
#[derive(Debug, Clone)]
pub(super) struct Name {
    pub(super) alias: String,
    /// Where it was.
    pub(super) address: Option<GuestAddress>,
}

/// Who joins the halves, and what follows if there is no VF.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chosen {
    pub(super) guest: HybridGuest,
    pub(super) fallback: Option<HybridFallback>,
}

/// Standby and primary of an element that asks for a pair, which was [`check`]ed.
pub(super) fn split(
    asked: &Interface,
    chosen: Chosen,
    known_by: Identity,
) -> (Interface, Interface) {
    let Identity {
        pair,
        mac,
        standby,
        primary,
    } = known_by;
    let half = |part| {
        Some(Hybrid::Half(HybridHalf {
            pair,
            part,
            guest: chosen.guest,
            fallback: chosen.fallback,
        }))
    };
    let (below, beside) = match &asked.source {
        InterfaceSource::HostdevHybrid { dev } => (
            InterfaceSource::Direct {
                dev: dev.clone(),
                mode: DirectMode::Bridge,
            },
            InterfaceSource::Hostdev {
                managed: true,
                driver: asked.vf_driver.clone(),
                source: HostSource::VfOf(dev.clone()),
            },
        ),
        source => (source.clone(), source.clone()),
    };
    let failover = chosen.guest == HybridGuest::Failover;
    let transient = Teaming::Transient {
        persistent: standby.alias.clone(),
    };
    let virtio = Interface {
        mac,
        source: below,
        model: Some(asked.model.clone().unwrap_or_else(|| "virtio".to_owned())),
        teaming: failover.then_some(Teaming::Persistent),
        hybrid: half(HybridPart::Standby),
        // Those are the VF's.
        vf: None,
        vf_driver: None,
        direct_mode: None,
        info: DeviceInfo {
            alias: Some(standby.alias),
            rom: None,
            ..asked.info.clone()
        },
        ..asked.clone()
    };
    let vf = Interface {
        mac,
        given_mac: asked.given_mac,
        source: beside,
        vlan: asked.vlan.clone(),
        virtual_port: None,
        bandwidth: None,
        isolated: None,
        trust_guest_rx_filters: None,
        target: None,
        target_managed: None,
        mac_generated: asked.mac_generated,
        mac_check: asked.mac_check,
        script: None,
        downscript: None,
        backend_domain: None,
        model: None,
        driver: None,
        vf_driver: None,
        backend: None,
        send_buffer: None,
        coalesce_rx_frames: None,
        teaming: failover.then_some(transient),
        link_up: None,
        mtu: None,
        vf: asked.vf,
        direct_mode: None,
        hybrid: half(HybridPart::Primary),
        info: DeviceInfo {
            alias: Some(primary.alias),
            rom: asked.info.rom.clone(),
            ..DeviceInfo::default()
        },
        actual: None,
        host_address: None,
        unused: Kept::default(),
    };
    (virtio, vf)
}

/// Refuses what neither half can have, each by its name.
pub(super) fn check(asked: &Interface) -> Result<(), Error> {
    let mut faults = Faults::default();
    let mut refuse = |message: String| {
        faults.push(Error::new(ErrorKind::ConfigUnsupported, message));
    };
    if let Some(fault) = asked.vlan.as_ref().and_then(vlan_fault) {
        refuse(fault);
    }
    if let Some(fault) = asked.vf.as_ref().and_then(settings_fault) {
        refuse(fault.to_owned());
    }
    if let Some(model) = asked.model.as_ref().filter(|_| !asked.is_virtio()) {
        refuse(format!(
            "<model type='{model}'>: the standby of a pair is virtio"
        ));
    }
    if asked
        .direct_mode
        .is_some_and(|mode| mode != DirectMode::Bridge)
    {
        refuse("<virtnic:direct>: the macvtap of a pair is in bridge mode".to_owned());
    }
    if asked.vf_driver.is_some() && matches!(asked.source, InterfaceSource::Network { .. }) {
        refuse(
            "<driver> of the VF: how a network's VFs are bound is said by its <forward><driver>"
                .to_owned(),
        );
    }
    let inbound = asked.bandwidth.as_ref().and_then(|shaping| shaping.inbound);
    if inbound.is_some_and(|rate| rate.floor.is_some_and(|floor| floor > 0)) {
        refuse(
            "<bandwidth> with a floor: only a network's own bridge can guarantee one".to_owned(),
        );
    }
    let address = asked.info.address.as_ref();
    if address.is_some_and(|address| !matches!(address, GuestAddress::Pci { .. })) {
        refuse("<address>: both halves of a pair are PCI devices".to_owned());
    }
    for (name, given) in [
        ("teaming", asked.teaming.is_some()),
        ("virtualport", asked.virtual_port.is_some()),
        ("port isolated='yes'", asked.isolated == Some(true)),
        ("script", asked.script.is_some()),
        ("downscript", asked.downscript.is_some()),
        ("backenddomain", asked.backend_domain.is_some()),
        ("coalesce", asked.coalesce_rx_frames.is_some()),
    ] {
        if given {
            refuse(format!(
                "<{name}> can't be had on a pair of a VF and virtio"
            ));
        }
    }
    for name in ["ip", "route", "portForward", "guest", "filterref"] {
        if asked.unused.children(name).next().is_some() {
            refuse(format!(
                "<{name}> can't be had on a pair of a VF and virtio"
            ));
        }
    }
    faults.finish()
}

/// Why both halves can't have such a `<vlan>`: the VF's frames are tagged by its PF, those of the
/// standby by a VLAN device.
pub(crate) fn vlan_fault(vlan: &Vlan) -> Option<String> {
    let tagged = vlan.tags.iter().any(|tag| tag.native.is_some());
    match vlan.access_tag().filter(|_| !tagged) {
        None => Some(
            "<vlan> is a trunk, and a pair of a VF and virtio has one VLAN: give one <tag> without \
             nativeMode"
                .to_owned(),
        ),
        Some(id) if !VLAN_IDS.contains(&id) => Some(format!(
            "<vlan> has the tag {id}, and a pair of a VF and virtio can have {} to {}",
            VLAN_IDS.start(),
            VLAN_IDS.end()
        )),
        Some(_) => None,
    }
}

/// Why both halves can't have such a `<virtnic:vf>`.
pub(crate) fn settings_fault(vf: &VfSettings) -> Option<&'static str> {
    (vf.protocol == Some(VlanProtocol::Dot1ad)).then_some(
        "<virtnic:vf protocol='802.1ad'> can't be had on a pair of a VF and virtio: both halves are \
         tagged by 802.1Q",
    )
}
