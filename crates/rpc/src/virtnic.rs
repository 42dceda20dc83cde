//! The structures of virtnic's own program, for the command of the same name.
//!
//! A new call is a row in [`crate::table`] under `Virtnic`, and its reply a structure here. What is
//! said by name alone (networks, guests, network devices) is text, so that a reply stays readable
//! when its object is gone by the time that it is read.

use uuid::Uuid;

use crate::macros::wire_struct;
use crate::xdr::{DecodeError, Reader, Writer, Xdr};

/// The maximum of a list of lent devices.
pub const LENT_MAX: usize = 65_536;
/// The maximum of lists of the host's NICs, of networks, and of a network's PFs and NICs.
pub const NICS_MAX: usize = 65_536;
/// The maximum of a list of differences.
pub const DIFFERENCES_MAX: usize = 65_536;
/// The maximum of the devices of one guest's plan.
pub const PLANNED_MAX: usize = 4_096;
/// The maximum of the lines about one planned device.
pub const LINES_MAX: usize = 1_024;

/// Declares a choice: its number on the wire, and what goes with it.
macro_rules! wire_choice {
    ($(
        $(#[$meta:meta])*
        pub enum $name:ident $what:literal {
            $( $(#[$vmeta:meta])* $number:literal $variant:ident $(($payload:ident : $t:ty))? , )*
        }
    )*) => { $(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub enum $name { $( $(#[$vmeta])* $variant $(($t))?, )* }

        impl Xdr for $name {
            const MIN: usize = 4;

            fn encode(&self, w: &mut Writer) {
                match self {
                    $( Self::$variant $(($payload))? => {
                        w.word($number);
                        $( $payload.encode(w); )?
                    } )*
                }
            }

            fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
                match i32::decode(r)? {
                    $( $number => Ok(Self::$variant $(({
                        let $payload: $t = Xdr::decode(r)?;
                        $payload
                    }))?), )*
                    value => Err(DecodeError::UnknownChoice { what: $what, value }),
                }
            }
        }
    )* };
}

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
        /// How it is lent.
        kind: LentKind,
        /// The network whose pool it comes from; none for a device named by the guest itself.
        network: Option<String>,
        /// The name of the guest; none for a port that no guest of ours made.
        guest: Option<String>,
        /// The identity of the guest.
        guest_uuid: Option<Uuid>,
        /// The MAC address of the guest's interface, as `52:54:00:00:00:01`.
        mac: Option<String>,
        /// The name of the guest's device, as `hostdev0`.
        alias: Option<String>,
        /// The half of a pair that it is; none: it is in no pair.
        half: Option<PairHalf>,
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
        /// What that one sits on: the NIC below a macvtap, the bridge of a tap. Of a USB device: where
        /// it is plugged in, as `usb:1:5@1.4`, number 5 of bus 1 in port 1.4.
        parent: Option<String>,
        /// A macvtap's mode: `vepa`, `bridge`, `private` or `passthrough`.
        mode: Option<String>,
        /// What is being done with it, in a word: `lent`, `claimed`, `preparing`, `returning`, `dirty`,
        /// `detached`; `pending`: the guest was asked to let it go; `reserved`: the VF of a pair that is
        /// plugged in when the guest has negotiated failover. Without a device: `owed`, the guest waits
        /// for a VF of the PF, or `parted`, its VF was taken from it until it is asked for.
        state: String,
        /// It was lent, and is not there any more.
        vanished: bool,
        /// When it was lent, in seconds since 1970.
        since: i64,
        /// The identity of its port.
        port: Uuid,
        /// What went through it; none if nobody asked, or if nothing counts it.
        counters: Option<GuestCounters>,
    }

    /// A half of a pair: one interface of a guest, two devices, one MAC.
    pub struct PairHalf {
        /// What the two halves have in common.
        pair: Uuid,
        /// `standby`: it stays; `primary`: the VF, which comes and goes.
        role: String,
        /// Whether the guest's driver has joined the halves since it was started last; none where
        /// the guest bonds them itself, and nothing is negotiated.
        negotiated: Option<bool>,
        /// The guest runs for long enough to have negotiated, and has not: what to do.
        advice: Option<String>,
    }

    /// What became of a PF that is to lend nothing.
    pub struct DrainReport {
        /// Its network interface.
        pf: String,
        /// Its PCI address, as `0000:03:00.0`.
        pci_address: String,
        /// VFs of it that are still with guests.
        vfs: Vec<StaysOnPf> [LENT_MAX],
        /// Guests' macvtaps on it, which keep its link in use and no VF.
        macvtaps: Vec<StaysOnPf> [LENT_MAX],
    }

    /// What keeps a guest from going to another host.
    pub struct Obstacle {
        /// Whether it is the other host that says so.
        there: bool,
        /// What can't go.
        what: String,
        /// Why not.
        why: String,
        /// What would have it go.
        advice: String,
    }

    /// Something on a PF that a guest still has.
    pub struct StaysOnPf {
        /// What it is: `VF 3 (0000:03:10.6)`, or a macvtap by its name.
        what: String,
        /// The guest's name.
        guest: String,
        /// Why it stays, and what would have it leave.
        why: String,
    }

    /// What went through a guest's device since it was made, as the guest sees it: received is
    /// what reached the guest. None: the driver does not tell.
    pub struct GuestCounters {
        /// Bytes received.
        rx_bytes: u64,
        /// Packets received.
        rx_packets: u64,
        /// Packets received broken.
        rx_errors: Option<u64>,
        /// Packets dropped on the way to the guest.
        rx_dropped: u64,
        /// Multicast packets received.
        rx_multicast: Option<u64>,
        /// Broadcast packets received.
        rx_broadcast: Option<u64>,
        /// Bytes sent.
        tx_bytes: u64,
        /// Packets sent.
        tx_packets: u64,
        /// Packets that could not be sent.
        tx_errors: Option<u64>,
        /// Packets of the guest's that were dropped.
        tx_dropped: u64,
        /// Multicast packets sent.
        tx_multicast: Option<u64>,
        /// Broadcast packets sent.
        tx_broadcast: Option<u64>,
    }

    /// VFs of a PF.
    pub struct VfCount {
        /// How many it has.
        vfs: u32,
        /// How many it can make.
        max: u32,
    }

    /// A network device of the host that guests can be given, or a part of.
    pub struct Nic {
        /// Its name.
        name: String,
        /// What it can do for guests.
        ability: NicAbility,
        /// Its MAC address, as `52:54:00:00:00:01`; none where it has none.
        mac: Option<String>,
        /// What made it, in the kernel's word (`bond`, `vlan`, `bridge` …); none for a card's own.
        kind: Option<String>,
        /// The PCI function that it belongs to, as `0000:03:10.2`.
        pci_address: Option<String>,
        /// The driver of that function.
        driver: Option<String>,
        /// The NUMA node of that function.
        numa_node: Option<u32>,
        /// Whether it is administratively up.
        up: bool,
        /// Whether its wire is alive.
        carrier: bool,
        /// Its MTU, bytes.
        mtu: u32,
        /// The bridge, bond or team that it is in.
        master: Option<String>,
        /// The active networks that lend it, or its VFs.
        networks: Vec<String> [NICS_MAX],
        /// Whether it was drained, and so lends nothing, nor do its VFs.
        drained: bool,
    }

    /// A network, and what it has to lend.
    pub struct NetworkReport {
        /// Its name.
        name: String,
        /// Its identity.
        uuid: Uuid,
        /// Whether it is active. One that is not lends nothing, and has no rows.
        active: bool,
        /// Its `<forward mode>`; `isolated` for none.
        mode: String,
        /// The bridge of the host that its guests are put into; none where it has none.
        bridge: Option<String>,
        /// The macvtap modes that a guest's interface may ask for; empty where it has no choice.
        modes: Vec<String> [16],
        /// Whether a device is lent to one guest at a time.
        exclusive: bool,
        /// Ports of guests on it.
        connections: u32,
        /// Its PFs and NICs, in its own order.
        rows: Vec<PoolRow> [NICS_MAX],
        /// Devices that it lists and that are not there.
        missing: Vec<String> [NICS_MAX],
    }

    /// The share of one PF or NIC in a network.
    pub struct PoolRow {
        /// The network device, or its address while that is gone.
        name: String,
        /// What it can do; none while it is gone.
        ability: Option<NicAbility>,
        /// Its NUMA node; none where the host has none.
        numa_node: Option<u32>,
        /// Devices of it that the network lends: VFs, or the NIC itself.
        total: u32,
        /// Those that are free; what is shared is free however many have it.
        free: u32,
        /// Guests' interfaces on it, of all networks.
        connections: u32,
        /// VFs of it that guests wait for, which others don't get.
        promised: u32,
        /// Whether it was drained, and so lends nothing.
        drained: bool,
        /// Devices that are lent or shared, and with whom.
        lent: Vec<Holding> [LENT_MAX],
        /// Devices that the host itself uses, and for what.
        busy: Vec<DeviceNote> [LENT_MAX],
        /// Devices that are kept back, and why.
        kept_back: Vec<DeviceNote> [LENT_MAX],
        /// Why nothing of it can be had, whatever is free; none: nothing stands in the way.
        obstacle: Option<String>,
    }

    /// A device, and who has it.
    pub struct Holding {
        /// The device, as `VF 3` or `eth2`.
        device: String,
        /// The guest.
        guest: String,
        /// The network that lent it; none: the guest names the device itself.
        network: Option<String>,
    }

    /// A device, and something about it.
    pub struct DeviceNote {
        /// The device, as `VF 3` or `eth2`.
        device: String,
        /// What there is to say.
        note: String,
    }

    /// Something that is not as the daemon's records, the kernel and the running guests agree.
    pub struct Difference {
        /// Which device; none if it is about a record alone.
        device: Option<String>,
        /// The guest that it is about.
        guest: Option<String>,
        /// What is so, in a line.
        what: String,
        /// How that came about, as far as can be told.
        cause: String,
        /// What would mend it.
        remedy: String,
        /// Whether virtnic may mend it by itself.
        safe: bool,
        /// What was done about it.
        outcome: Outcome,
    }

    /// What a guest's start would take. Nothing of it was done.
    pub struct PlanReport {
        /// The guest's name.
        guest: String,
        /// The guest's identity.
        guest_uuid: Uuid,
        /// Whether it runs already: the plan then tells what the next start would take.
        running: bool,
        /// Whether it would start, as far as can be told without trying.
        would_start: bool,
        /// What stands in the way of the guest as a whole.
        obstacles: Vec<String> [LINES_MAX],
        /// What else is worth knowing.
        notes: Vec<String> [LINES_MAX],
        /// Its interfaces, then its host devices, in the order of its document.
        devices: Vec<PlannedDevice> [PLANNED_MAX],
    }

    /// What one interface or host device of a guest would get.
    pub struct PlannedDevice {
        /// What it is, as `interface` or `hostdev`.
        element: String,
        /// The interface's type, as `network`, `direct` or `hostdev`.
        r#type: String,
        /// The interface's MAC address, as `52:54:00:00:00:01`.
        mac: Option<String>,
        /// Its alias.
        alias: Option<String>,
        /// The network that is to lend it.
        network: Option<String>,
        /// The half of a pair that it is; none: it is in no pair.
        half: Option<PlannedHalf>,
        /// What it would get.
        choice: PlannedChoice,
        /// The steps that would be taken on the host, in order.
        steps: Vec<String> [LINES_MAX],
        /// What else is worth knowing.
        notes: Vec<String> [LINES_MAX],
    }

    /// A half of a pair in a plan.
    pub struct PlannedHalf {
        /// What the two halves have in common; the same in each plan only where the document says it.
        pair: Uuid,
        /// `standby` or `primary`.
        role: String,
        /// The network device of the PF that it is of, or on.
        pf: Option<String>,
    }

    /// A device that would be lent.
    pub struct ChosenDevice {
        /// How it would be lent.
        kind: LentKind,
        /// The device, as `VF 3 of ens1f0 (0000:03:10.6)` or `macvtap on eth2`.
        device: String,
        /// Its PCI address, as `0000:03:10.2`, if it is lent whole.
        pci_address: Option<String>,
        /// Why this one.
        why: String,
    }

    /// Why there is no device.
    pub struct PlanRefusal {
        /// What a start would fail with.
        error: String,
        /// What a person can do about it.
        advice: Option<String>,
        /// What each PF and NIC of the network has, if it is a network that has none to give.
        rows: Vec<PoolRow> [NICS_MAX],
    }
}

wire_choice! {
    /// How a device is lent.
    #[derive(Copy, Eq)]
    pub enum LentKind "kind of lent device" {
        /// A PCI function as a whole, by vfio.
        0 Hostdev,
        /// A macvtap on a NIC.
        1 Macvtap,
        /// A tap, in a bridge or by itself.
        2 Tap,
        /// A USB device as a whole.
        3 Usb,
    }

    /// What a NIC can do for guests.
    pub enum NicAbility "ability of a NIC" {
        /// It makes VFs.
        0 SrIov(count: VfCount),
        /// It is a VF.
        1 VirtualFunction,
        /// It can sort frames for macvlans itself (VMDq); whether that is switched on.
        2 MacvlanOffload(on: bool),
        /// macvlans and bridges are done in software.
        3 Ethernet,
    }

    /// What was done about a difference.
    pub enum Outcome "outcome" {
        /// Nothing: nobody asked, or it is not safe.
        0 Left,
        /// It is mended.
        1 Mended,
        /// It could not be mended, for this reason.
        2 Failed(reason: String),
        /// Nothing: somebody asked for it to be so.
        3 Meant,
    }

    /// Whose plan is asked for.
    pub enum PlanOf "subject of a plan" {
        /// A defined guest, by its name or uuid.
        0 Guest(name: String),
        /// A whole `<domain>` document, which need not be defined.
        1 Document(xml: String),
    }

    /// What a planned device would get.
    pub enum PlannedChoice "planned choice" {
        /// This device.
        0 Device(chosen: ChosenDevice),
        /// Nothing of the host's, and it needs none: why.
        1 None(why: String),
        /// No device, so the guest would not start.
        2 Refused(refusal: PlanRefusal),
        /// The VF half of a pair without a VF: the guest starts on the other half, and gets the next
        /// that is free; of which PF.
        3 Owed(which: String),
    }
}

impl LentKind {
    /// Its word in tables and documents.
    pub fn word(self) -> &'static str {
        match self {
            Self::Hostdev => "hostdev",
            Self::Macvtap => "macvtap",
            Self::Tap => "tap",
            Self::Usb => "usb",
        }
    }
}
