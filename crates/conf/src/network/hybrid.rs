//! What a network that lends pairs must be: both halves of each must be able to have it.

use super::Network;
use crate::hybrid::{settings_fault, vlan_fault};
use crate::{Error, Faults, ForwardMode, HybridSettings, PoolMembers};

impl Network {
    /// `<virtnic:hybrid>`, and what else goes with pairs.
    pub(super) fn check_hybrid(&self) -> Result<(), Error> {
        if self.forward_mode() != Some(ForwardMode::HostdevHybrid) {
            if self.extension.hybrid == HybridSettings::default() {
                return Ok(());
            }
            return Err(self.refuse_at(
                "virtnic:hybrid",
                0,
                format_args!(
                    "<virtnic:hybrid> needs forward mode 'hostdev-hybrid', not '{}'",
                    self.mode_word()
                ),
            ));
        }
        let mut faults = Faults::default();
        faults.or_default(self.check_hybrid_members());
        faults.or_default(self.check_hybrid_settings());
        for (nth, group) in self.port_groups.iter().enumerate() {
            let of = format_args!(" of portgroup '{}'", group.name).to_string();
            if let Some(fault) = group.vlan.as_ref().and_then(vlan_fault) {
                faults.push(self.refuse_at("portgroup/vlan", nth, format!("{fault}{of}")));
            }
            if let Some(fault) = group.vf.as_ref().and_then(settings_fault) {
                faults.push(self.refuse_at("portgroup/virtnic:vf", nth, format!("{fault}{of}")));
            }
            if group.virtual_port.is_some() {
                let message = format!("{NO_PROFILE}{of}");
                faults.push(self.refuse_at("portgroup/virtualport", nth, message));
            }
        }
        faults.finish()
    }

    /// The macvtap is on the PF of the VF, so that is what must be named.
    fn check_hybrid_members(&self) -> Result<(), Error> {
        let members = self.forward.as_ref().map(|forward| &forward.members);
        let advice = "name the PF, as <pf dev='…'/>; several may stand there";
        let fault = match members {
            Some(PoolMembers::Addresses(_)) => self.refuse_at(
                "forward/address",
                0,
                "mode 'hostdev-hybrid' lends a VF beside virtio over its PF, and <address> names \
                 no PF",
            ),
            Some(PoolMembers::None) => {
                self.refuse_at("forward", 0, "mode 'hostdev-hybrid' needs a <pf>")
            }
            // Lists of interfaces are refused for all modes that lend host devices.
            _ => return Ok(()),
        };
        Err(Error {
            advice: Some(advice.to_owned()),
            ..fault
        })
    }

    fn check_hybrid_settings(&self) -> Result<(), Error> {
        let mut faults = Faults::default();
        if let Some(fault) = self.vlan.as_ref().and_then(vlan_fault) {
            faults.push(self.refuse_at("vlan", 0, fault));
        }
        if let Some(fault) = settings_fault(&self.extension.vf) {
            faults.push(self.refuse_at("virtnic:vf", 0, fault));
        }
        if self.virtual_port.is_some() {
            faults.push(self.refuse_at("virtualport", 0, NO_PROFILE));
        }
        if self.isolated_ports == Some(true) {
            let message = "<port isolated='yes'> can't be had on pairs of a VF and virtio";
            faults.push(self.refuse_at("port", 0, message));
        }
        if self.extension.direct_modes.is_some() {
            let message = "<virtnic:direct>: the macvtap of a pair is in bridge mode";
            faults.push(self.refuse_at("virtnic:direct", 0, message));
        }
        faults.finish()
    }

    /// `<virtnic:pool lend=…>` chooses between a PF and its VFs where both could be lent.
    pub(super) fn check_lend(&self) -> Result<(), Error> {
        let passthrough = self.forward_mode() == Some(ForwardMode::Passthrough);
        if self.extension.lend.is_none() || passthrough {
            return Ok(());
        }
        let mode = self.mode_word();
        Err(self.refuse_at(
            "virtnic:pool",
            0,
            format_args!(
                "<virtnic:pool lend='…'> is for forward mode 'passthrough': mode '{mode}' leaves no \
                 choice"
            ),
        ))
    }
}

const NO_PROFILE: &str = "<virtualport> can't be had on a pair of a VF and virtio: the switch would \
                          know only one half by it";
