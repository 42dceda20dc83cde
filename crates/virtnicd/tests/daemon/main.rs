//! The daemon as its clients and its admin see it: the built program on a simulated host, each test
//! with a root of its own, and a client of the wire protocol.
//!
//! One program for all of them, so that it is linked once.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper that panics is a test that fails"
)]

mod documents;
mod harness;
#[path = "../../../rpc/tests/common/pki.rs"]
mod pki;

mod bad_documents;
mod bad_frames;
mod by_hand;
mod crowd;
mod drain;
mod events;
mod found;
mod granting;
mod guest_links;
mod guests;
mod host_interfaces;
mod hostile_readers;
mod hotplug;
mod hybrid;
mod in_process;
mod leftovers;
mod media;
mod metadata;
mod migration;
mod modes;
mod networks;
mod node_devices;
mod own_calls;
mod owners;
mod pairs;
mod parameters;
mod placement;
mod plug_bench;
mod plug_crash;
mod plug_storm;
mod plug_walk;
mod ports;
mod process;
mod qe;
mod refusals;
mod restart;
mod secrets;
mod statistics;
mod strictness;
mod tls;
mod update_device;
mod updates;
mod usb;
