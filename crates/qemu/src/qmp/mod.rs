//! QMP, QEMU's machine protocol: JSON, one message a line, over a unix socket.
//!
//! What QEMU sends is not trusted: lines are capped, unknown messages are kept or skipped, and
//! nothing that it says ends the connection but its end.

mod blocks;
mod client;
mod commands;
mod error;
mod lines;
mod message;
mod migration;
mod rx_filter;
mod wire;

pub(crate) use blocks::DescriptorSet;
pub(crate) use client::QmpEvents;
pub use client::{LINE_LIMIT, Qmp};
pub use commands::{BalloonInfo, CharDeviceInfo};
pub use error::{QmpError, RefusalKind};
pub use message::{Event, RunState, Timestamp};
pub use migration::{
    Compression, CpuWord, MigrationInfo, MigrationSettings, MigrationStatus, RamInfo,
};
pub use rx_filter::GuestRxFilter;
pub(crate) use wire::{Descriptors, Wire};
