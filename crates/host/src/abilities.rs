//! What a PF's driver can set on its VFs, where the kernel does not tell.
//!
//! The kernel tells trust, spoof check and RSS query as unknown where a driver has none. It tells a
//! link state and a rate for every VF, though, settable or not, and takes a VLAN's protocol without
//! a word on which ones there are: that is known of each driver only by its source.

use conf::VfLink;

use crate::{VfSetting, VlanProtocol};

/// What can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VfAbilities {
    /// `IFLA_VF_LINK_STATE`.
    pub link_state: bool,
    /// The lower part of `IFLA_VF_RATE`.
    pub min_rate: bool,
    /// `IFLA_VF_VLAN_LIST` with 802.1ad.
    pub outer_vlan: bool,
}

impl VfAbilities {
    /// All that the kernel has a word for.
    pub const ALL: Self = Self {
        link_state: true,
        min_rate: true,
        outer_vlan: true,
    };

    /// As Linux 6.12's drivers are (`ndo_set_vf_link_state`, `ndo_set_vf_rate` and
    /// `ndo_set_vf_vlan` in `drivers/net/ethernet`). Of a driver that is not known here all is
    /// believed: it says itself what it refuses.
    #[must_use]
    pub fn of_driver(driver: &str) -> Self {
        let plain_vlan = Self {
            outer_vlan: false,
            ..Self::ALL
        };
        match driver {
            "igb" => Self {
                link_state: false,
                min_rate: false,
                outer_vlan: false,
            },
            "ixgbe" | "i40e" => Self {
                min_rate: false,
                ..plain_vlan
            },
            "bnxt_en" | "qede" => plain_vlan,
            _ => Self::ALL,
        }
    }

    /// Whether a setting can be made at all; a neutral one need not be made.
    #[must_use]
    pub fn allow(self, setting: VfSetting) -> bool {
        match setting {
            VfSetting::Link(link) => self.link_state || link == VfLink::Auto,
            VfSetting::Rate { min, .. } => self.min_rate || min == 0,
            VfSetting::Vlan { id, protocol, .. } => {
                self.outer_vlan || id == 0 || protocol == VlanProtocol::Dot1q
            }
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_driver_is_not_asked_for_what_it_lacks() {
        let igb = VfAbilities::of_driver("igb");
        assert!(!igb.allow(VfSetting::Link(VfLink::On)));
        assert!(igb.allow(VfSetting::Link(VfLink::Auto)));
        assert!(!igb.allow(VfSetting::Rate { min: 10, max: 100 }));
        assert!(igb.allow(VfSetting::Rate { min: 0, max: 100 }));
        let outer = VfSetting::Vlan {
            id: 5,
            qos: 0,
            protocol: VlanProtocol::Dot1ad,
        };
        assert!(!igb.allow(outer));
        assert!(VfAbilities::of_driver("ice").allow(outer));
    }
}
