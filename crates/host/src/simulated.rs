//! A whole host in memory, with chosen failures.

/// A host in memory.
#[derive(Debug, Clone)]
pub struct SimulatedHost;

/// How many PFs and VFs a simulated host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimulatedShape {
    /// PFs.
    pub pfs: u16,
    /// VFs in all, spread evenly over the PFs.
    pub vfs: u32,
}

/// A failure to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault;
