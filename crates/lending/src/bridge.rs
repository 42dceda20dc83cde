//! Bridges that guests' taps are put into.

use host::{Host, HostError};

/// A bridge that a tap can't be put into.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// It is not there.
    #[error("there is no bridge '{0}'")]
    Missing(String),
    /// It is something else.
    #[error("network device '{0}' is no bridge")]
    Other(String),
    /// The host does not tell.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// Tells of a bridge that is not there by name, and not by the tap that does not find it. Asks the
/// host; blocks.
///
/// # Errors
/// It is not there, or no bridge.
pub fn check_bridge(host: &dyn Host, bridge: &str) -> Result<(), BridgeError> {
    match host.netdev(bridge) {
        Ok(netdev) if netdev.kind.as_deref() == Some("bridge") => Ok(()),
        Ok(_) => Err(BridgeError::Other(bridge.to_owned())),
        Err(HostError::NoNetdev(_)) => Err(BridgeError::Missing(bridge.to_owned())),
        Err(error) => Err(error.into()),
    }
}

impl BridgeError {
    /// What a person can do about it, where there is something.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Missing(bridge) => Some(format!("Make it: ip link add {bridge} type bridge")),
            Self::Other(_) => None,
            Self::Host(error) => error.advice(),
        }
    }
}
