//! The real kernel.

/// The host that this runs on.
#[derive(Debug, Clone)]
pub struct LinuxHost;
