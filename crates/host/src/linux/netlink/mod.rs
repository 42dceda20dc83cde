//! Netlink: one request at a time, each with an acknowledgement, a deadline, and the kernel's own
//! words kept.
//!
//! Requests are encoded by `netlink-packet-route`. Replies are read attribute by attribute, only
//! those that are wanted: a newer kernel's unknown attribute must not hide the known ones, and
//! "the driver does not tell" (all ones) must not look like "on".

mod attributes;
mod connection;
mod link;
mod usage;

pub(super) use connection::{Connections, receive};
pub(super) use link::Link;
