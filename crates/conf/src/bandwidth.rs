//! Traffic shaping of an interface, a port group or a network.

use serde::{Deserialize, Serialize};

/// Limits in both directions, as the guest sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// Towards the guest.
    pub inbound: Option<Rate>,
    /// From the guest.
    pub outbound: Option<Rate>,
}

/// A rate: averages and peaks in KiB/s, the burst in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Average, KiB/s, at most 2^54.
    pub average: Option<u64>,
    /// Peak, KiB/s, at most 2^54.
    pub peak: Option<u64>,
    /// Guaranteed, KiB/s, at most 2^54; inbound on interfaces of networks only.
    pub floor: Option<u64>,
    /// What may pass at peak rate, KiB, at most 4194303.
    pub burst: Option<u64>,
}
