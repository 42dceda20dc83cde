//! What a VF is to be for its guest.

use conf::{MacAddress, VfLink, VfSettings, Vlan};
use host::VlanProtocol;
use serde::{Deserialize, Serialize};

/// A VF's settings for a guest. What is `None` gets its neutral value where the driver tells one:
/// trust off, spoof check on, link as the PF's. A rate of 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VfConfig {
    pub(crate) mac: MacAddress,
    pub(crate) vlan: Option<AccessVlan>,
    pub(crate) trust: Option<bool>,
    pub(crate) spoof_check: Option<bool>,
    pub(crate) link: Option<VfLink>,
    pub(crate) min_rate: u32,
    pub(crate) max_rate: u32,
    #[serde(default)]
    pub(crate) rss_query: Option<bool>,
}

/// The VLAN that a VF's frames get on the wire and lose towards the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessVlan {
    /// 1–4094.
    pub(crate) id: u16,
    /// 0–7.
    pub(crate) qos: u8,
    /// The tag's protocol.
    pub(crate) protocol: VlanProtocol,
}

/// Settings that no VF can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VfConfigError {
    /// More than one tag, or tags that the guest sees.
    #[error("an SR-IOV network device can have one VLAN tag, set for the guest, and no trunk")]
    Trunk,
    /// 4095, which IEEE 802.1Q reserves (drivers take it all the same).
    #[error("VLAN {0} is not one that a VF can have: 0 to 4094")]
    VlanId(u16),
    /// Beyond three bits.
    #[error("VLAN priority {0} is not one of 0 to 7")]
    Qos(u8),
    /// A group's address, or none.
    #[error("{0} can't be a VF's MAC address")]
    Mac(MacAddress),
    /// The guarantee above the limit.
    #[error("the guaranteed rate of {min} Mbit/s is above the limit of {max} Mbit/s")]
    Rates {
        /// Mbit/s.
        min: u32,
        /// Mbit/s.
        max: u32,
    },
}

impl VfConfig {
    /// The settings of an interface, with those of its network. `settings.qos` is the VLAN's, and
    /// says nothing where there is none; VLAN 0 is none.
    pub fn new(
        mac: MacAddress,
        vlan: Option<&Vlan>,
        settings: &VfSettings,
    ) -> Result<Self, VfConfigError> {
        if mac.is_zero() || mac.is_multicast() {
            return Err(VfConfigError::Mac(mac));
        }
        let (min, max) = (
            settings.min_rate.unwrap_or(0),
            settings.max_rate.unwrap_or(0),
        );
        if max != 0 && min > max {
            return Err(VfConfigError::Rates { min, max });
        }
        let qos = settings.qos.unwrap_or(0);
        if qos > 7 {
            return Err(VfConfigError::Qos(qos));
        }
        let id = match vlan {
            None => 0,
            Some(vlan) => vlan.access_tag().ok_or(VfConfigError::Trunk)?,
        };
        if id > 4094 {
            return Err(VfConfigError::VlanId(id));
        }
        Ok(Self {
            mac,
            vlan: (id != 0).then_some(AccessVlan {
                id,
                qos,
                protocol: settings.protocol.unwrap_or_default(),
            }),
            trust: settings.trust,
            spoof_check: settings.spoof_check,
            link: settings.link,
            min_rate: min,
            max_rate: max,
            rss_query: settings.rss_query,
        })
    }

    /// The guest's MAC.
    #[must_use]
    pub fn mac(&self) -> MacAddress {
        self.mac
    }

    /// The VLAN's number, 1–4094.
    #[must_use]
    pub fn vlan_id(&self) -> Option<u16> {
        self.vlan.map(|vlan| vlan.id)
    }
}

#[cfg(test)]
mod tests {
    use conf::VlanTag;

    use super::*;

    fn mac() -> MacAddress {
        "52:54:00:00:00:01".parse().unwrap()
    }

    fn vlan(trunk: bool, ids: &[u16]) -> Vlan {
        let tags = ids.iter().map(|&id| VlanTag { id, native: None });
        Vlan {
            trunk,
            tags: tags.collect(),
        }
    }

    #[test]
    fn one_tag_and_no_trunk() {
        let new = |vlan: &Vlan| VfConfig::new(mac(), Some(vlan), &VfSettings::default());
        assert_eq!(new(&vlan(false, &[42])).unwrap().vlan_id(), Some(42));
        assert_eq!(new(&vlan(false, &[0])).unwrap().vlan_id(), None);
        assert_eq!(new(&vlan(true, &[42])), Err(VfConfigError::Trunk));
        assert_eq!(new(&vlan(false, &[1, 2])), Err(VfConfigError::Trunk));
        assert_eq!(new(&vlan(false, &[4095])), Err(VfConfigError::VlanId(4095)));
    }

    #[test]
    fn what_no_card_can_do_is_refused() {
        let zero = VfConfig::new(MacAddress::ZERO, None, &VfSettings::default());
        assert_eq!(zero, Err(VfConfigError::Mac(MacAddress::ZERO)));
        let rates = VfSettings {
            min_rate: Some(200),
            max_rate: Some(100),
            ..VfSettings::default()
        };
        let refused = VfConfig::new(mac(), None, &rates);
        assert_eq!(refused, Err(VfConfigError::Rates { min: 200, max: 100 }));
    }
}
