//! Why there is no command line.

/// A guest that can't be started as it is: everything that stands in the way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unsupported configuration: {}", list(problems))]
pub struct CommandLineError {
    /// At least one, in the order of the command line.
    pub problems: Vec<Problem>,
}

/// One thing that stands in the way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// Not carried out by this version.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// A device without an alias.
    #[error("a {0} has no alias")]
    NoAlias(String),
    /// A device without a place in the guest.
    #[error("device '{0}' has no guest address of the kind that it needs")]
    NoAddress(String),
    /// A place on a controller that isn't there.
    #[error("device '{device}' sits on {bus}, which the guest doesn't have")]
    NoController {
        /// The device.
        device: String,
        /// The controller, such as `PCI controller 3`.
        bus: String,
    },
    /// An interface whose network has not given it a device, or whose taps were not opened.
    #[error("interface '{0}' is not connected: its network gave it no device")]
    NotConnected(String),
    /// A host device that nobody has looked up.
    #[error("host device '{0}' was not resolved to an address")]
    NotResolved(String),
}

fn list(problems: &[Problem]) -> String {
    let texts: Vec<_> = problems.iter().map(ToString::to_string).collect();
    texts.join("; ")
}
