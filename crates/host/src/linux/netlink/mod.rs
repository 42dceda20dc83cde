//! Netlink: one request at a time, each with an acknowledgement, a deadline, and the kernel's own
//! words kept.
//!
//! Requests are encoded by `netlink-packet-route`, or, where it has no words for them, attribute by
//! attribute. Replies are read attribute by attribute, only those that are wanted: a newer kernel's
//! unknown attribute must not hide the known ones, and "the driver does not tell" (all ones) must
//! not look like "on".

mod agent;
mod attributes;
mod bridge;
mod connection;
mod details;
mod device;
mod ethtool;
mod ipv6;
mod link;
mod port;
mod traffic;
mod usage;
mod vf_stats;
mod vlan;

pub(super) use agent::ask_agent;
pub(super) use connection::{Connections, Messages, receive, receive_from};
pub(super) use device::{Device, Kind, PortFlags};
pub(super) use link::Link;
#[cfg(test)]
pub(super) use port::port_answer;
pub(super) use port::{Port, RTM_GETLINK, RTM_SETLINK, Response, about_port, disassociated};
pub(super) use traffic::{Hook, Limit, is_missing_module};
