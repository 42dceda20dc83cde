//! VLAN devices.

use std::fmt;

use conf::NetdevName;
use serde::{Deserialize, Serialize};

/// The number of a VLAN that frames are tagged with: 1 to 4094. IEEE 802.1Q-2018, table 9-2,
/// reserves 4095, and 0 stands for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct VlanId(u16);

/// A number that no VLAN has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("VLAN {0} is none that frames are tagged with: 1 to 4094")]
pub struct VlanIdError(u16);

/// A VLAN device to make, of 802.1Q.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VlanSpec {
    /// Its name.
    pub name: NetdevName,
    /// Index of the device below.
    pub lower: u32,
    /// What its frames are tagged with there.
    pub id: VlanId,
    /// Its `ifalias`, which begins with [`crate::TAG`].
    pub tag: String,
}

impl VlanId {
    /// The number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for VlanId {
    type Error = VlanIdError;

    fn try_from(id: u16) -> Result<Self, Self::Error> {
        match id {
            1..=4094 => Ok(Self(id)),
            _ => Err(VlanIdError(id)),
        }
    }
}

impl From<VlanId> for u16 {
    fn from(id: VlanId) -> Self {
        id.0
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_numbers_are_none() {
        for id in [1, 42, 4094] {
            assert_eq!(VlanId::try_from(id).unwrap().get(), id);
        }
        for id in [0, 4095, u16::MAX] {
            assert_eq!(VlanId::try_from(id), Err(VlanIdError(id)));
        }
    }
}
