//! The structures of virtnic's own program, for the command of the same name.
//!
//! A new call is a row in [`crate::table`] under `Virtnic`, and its reply a structure here.

use uuid::Uuid;

use crate::macros::wire_struct;

/// The maximum of a list of lent devices.
pub const LENT_MAX: usize = 65_536;

wire_struct! {
    /// The daemon itself.
    pub struct DaemonStatus {
        /// The daemon's version, as `0.1.0`.
        version: String,
        /// Its process id.
        pid: u32,
        /// Seconds since it started.
        uptime: u64,
        /// Whether it runs on a simulated host.
        simulated: bool,
        /// Networks that are defined or active.
        networks: u32,
        /// Networks that are active.
        active_networks: u32,
        /// Guests that are defined or running.
        guests: u32,
        /// Guests that are running.
        running_guests: u32,
        /// Devices that are lent.
        lent: u32,
    }

    /// One lent device, and who has it.
    pub struct Lent {
        /// The network whose pool it comes from; none for a device named by the guest itself.
        network: Option<String>,
        /// The name of the guest; none for a port that no guest of ours made.
        guest: Option<String>,
        /// The identity of the guest.
        guest_uuid: Option<Uuid>,
        /// The MAC address of the guest's interface, as `52:54:00:00:00:01`.
        mac: Option<String>,
        /// The network interface of the physical function.
        pf: Option<String>,
        /// The number of the virtual function.
        vf: Option<u32>,
        /// The PCI address, as `0000:03:10.2`.
        pci_address: Option<String>,
        /// The driver that the device is bound to now.
        driver: Option<String>,
        /// The interface on the host that stands for it, such as a macvtap.
        host_netdev: Option<String>,
        /// What is being done with it, in a word.
        state: String,
        /// When it was lent, in seconds since 1970.
        since: i64,
        /// The identity of its port.
        port: Uuid,
    }
}
