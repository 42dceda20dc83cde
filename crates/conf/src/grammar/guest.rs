//! The tables of `<domain>` and its devices, made from the shapes by which they are read, kept and
//! written. What values mean is said here, and only of what the shapes have.

use std::fmt::Write as _;

use crate::domain::shapes::{
    CHARACTER_DEVICE, CONTROLLER, CPU, DEVICES, DISK, DOMAIN, HOSTDEV, INTERFACE, MEMBALLOON, RNG,
};
use crate::kept::{Rule, Shape};

/// What is modelled, each with the element that it is found in.
const ROOTS: [(&str, &Shape); 10] = [
    ("", &DOMAIN),
    ("/domain", &CPU),
    ("/domain", &DEVICES),
    ("/domain/devices", &DISK),
    ("/domain/devices", &CONTROLLER),
    ("/domain/devices", &INTERFACE),
    ("/domain/devices", &CHARACTER_DEVICE),
    ("/domain/devices", &HOSTDEV),
    ("/domain/devices", &MEMBALLOON),
    ("/domain/devices", &RNG),
];

/// Devices that are kept as they stand, and not modelled.
const OTHER_DEVICES: [&str; 22] = [
    "lease",
    "filesystem",
    "smartcard",
    "parallel",
    "channel",
    "input",
    "tpm",
    "graphics",
    "sound",
    "audio",
    "video",
    "redirdev",
    "redirfilter",
    "hub",
    "watchdog",
    "nvram",
    "panic",
    "shmem",
    "memory",
    "crypto",
    "iommu",
    "vsock",
];

const ON_OFF: &str = "`on`, `off`";
const YES_NO: &str = "`yes`, `no`";

/// Values and defaults, by the place of the attribute or element.
const VALUES: &[(&str, &str, &str)] = &[
    ("/domain/@type", "`kvm`, `qemu`", ""),
    (
        "/domain/@id",
        "the number of the running guest; ignored when read",
        "",
    ),
    ("/domain/memory/@unit", "bytes, KiB … EiB, KB … EB", "`KiB`"),
    ("/domain/currentMemory/@unit", "as `memory`", "`KiB`"),
    (
        "/domain/vcpu/@cpuset",
        "the host's CPUs that the guest runs on, as `0-3,^2,8`",
        "all",
    ),
    ("/domain/vcpu/@current", "1 to the number of CPUs", "all"),
    (
        "/domain/cputune/vcpupin",
        "`vcpu`: the number of a virtual CPU; `cpuset`: the host's CPUs that it runs on",
        "",
    ),
    (
        "/domain/cputune/emulatorpin/@cpuset",
        "the host's CPUs that QEMU's own threads run on",
        "as `vcpu`",
    ),
    (
        "/domain/numatune/memory/@mode",
        "`strict`, `preferred`, `interleave`; `restrictive` can't be started",
        "`strict`",
    ),
    (
        "/domain/numatune/memory/@nodeset",
        "the host's NUMA nodes that the memory comes from",
        "",
    ),
    (
        "/domain/os/type/@arch",
        "`x86_64`; others can't be started",
        "`x86_64`",
    ),
    (
        "/domain/os/type/@machine",
        "`q35`, `pc`, or one of their versions",
        "`pc`",
    ),
    (
        "/domain/os/boot/@dev",
        "`hd`, `network`, `cdrom`, `fd`",
        "`hd`",
    ),
    ("/domain/features/vmport/@state", ON_OFF, "QEMU's"),
    (
        "/domain/clock/@offset",
        "`utc`, `localtime`; others can't be started",
        "`utc`",
    ),
    (
        "/domain/clock/timer/@name",
        "`rtc`, `pit`, `hpet`, `kvmclock`, `hypervclock`; others can't be started",
        "",
    ),
    (
        "/domain/clock/timer/@present",
        "`yes`, `no`; `rtc` and `pit` are always there",
        "QEMU's",
    ),
    (
        "/domain/clock/timer/@tickpolicy",
        "`delay`, `catchup` (`rtc`, `pit`), `discard` (`pit`)",
        "QEMU's; `delay` of a `pit` that is named",
    ),
    ("/domain/pm/suspend-to-mem/@enabled", YES_NO, "QEMU's"),
    ("/domain/pm/suspend-to-disk/@enabled", YES_NO, "QEMU's"),
    (
        "/domain/devices/channel",
        "of type `unix`, bound, with a virtio target: a socket, in the guest's run directory if no path is given; others can't be started",
        "",
    ),
    (
        "/domain/devices/input",
        "`tablet`, `mouse` and `keyboard` on `usb`, or the machine's own on `ps2`; others can't be started",
        "",
    ),
    ("/domain/on_poweroff", "`destroy`, `restart`", "`destroy`"),
    ("/domain/on_reboot", "`destroy`, `restart`", "`restart`"),
    (
        "/domain/on_crash",
        "`destroy`, `restart`, `preserve`, `coredump-destroy`, `coredump-restart`",
        "`destroy`",
    ),
    (
        "/domain/clock/@offset",
        "`utc`, `localtime`; others can't be started",
        "`utc`",
    ),
    ("/domain/devices/console", "as `serial`", ""),
    (
        "/domain/devices/interface/@type",
        "`network`, `direct`, `hostdev`, `bridge`, `ethernet`, `user`, `null`, `vhostuser`, `vdpa` …, and ours, `hostdev-hybrid`",
        "`user`",
    ),
    (
        "/domain/devices/interface/@managed",
        "hostdev: `yes`: bound and given back by us; hostdev-hybrid: `yes`",
        "`no`",
    ),
    (
        "/domain/devices/interface/@trustGuestRxFilters",
        "`yes`, `no`",
        "`no`",
    ),
    (
        "/domain/devices/interface/mac/@address",
        "unicast",
        "made up",
    ),
    (
        "/domain/devices/interface/mac/@type",
        "`static`, `generated`",
        "",
    ),
    ("/domain/devices/interface/mac/@check", "`yes`, `no`", ""),
    (
        "/domain/devices/interface/source/@network",
        "network: its name",
        "",
    ),
    (
        "/domain/devices/interface/source/@portgroup",
        "network: a port group of it",
        "its default",
    ),
    (
        "/domain/devices/interface/source/@bridge",
        "bridge: the host's bridge",
        "",
    ),
    (
        "/domain/devices/interface/source/@macTableManager",
        "of the bridge that the network resolved it to; ignored when read",
        "",
    ),
    (
        "/domain/devices/interface/source/@dev",
        "direct: the parent; hostdev: **ours**, the netdev of a VF, as `eth22`; hostdev-hybrid: a PF; hostdev with `virtnic:hybrid`: **ours**, the PF of which it is a VF",
        "",
    ),
    (
        "/domain/devices/interface/source/@mode",
        "direct: `vepa`, `bridge`, `private`, `passthrough`",
        "`vepa`",
    ),
    (
        "/domain/devices/interface/source/address",
        "hostdev: `type='pci'` with domain, bus, slot, function; `type='usb'` with bus, device",
        "",
    ),
    (
        "/domain/devices/interface/source/vendor/@id",
        "USB: 0x0001–0xffff; implies `type='usb'`",
        "",
    ),
    (
        "/domain/devices/interface/source/product/@id",
        "USB: 0x0000–0xffff",
        "",
    ),
    ("/domain/devices/interface/vlan", "as in networks", ""),
    (
        "/domain/devices/interface/virtualport",
        "as in networks; all but `network` need it whole",
        "",
    ),
    (
        "/domain/devices/interface/bandwidth",
        "as in networks; `floor` with `network` only",
        "",
    ),
    (
        "/domain/devices/interface/port/@isolated",
        "`yes`, `no`; network and bridge",
        "`no`",
    ),
    (
        "/domain/devices/interface/actual",
        "what the network resolved it to; ignored when read",
        "",
    ),
    (
        "/domain/devices/interface/model/@type",
        "`virtio`, `e1000`, `e1000e`, `rtl8139`, `igb` …",
        "`rtl8139`, unless it becomes a host device",
    ),
    (
        "/domain/devices/interface/driver/@name",
        "virtio: `qemu`, `vhost`; hostdev: `vfio`; hostdev-hybrid: one of each",
        "",
    ),
    (
        "/domain/devices/interface/driver/@model",
        "hostdev: a vfio variant driver",
        "",
    ),
    (
        "/domain/devices/interface/driver/@txmode",
        "`iothread`, `timer`",
        "",
    ),
    (
        "/domain/devices/interface/driver/@queues",
        "a number",
        "`1`",
    ),
    (
        "/domain/devices/interface/driver/@rx_queue_size",
        "a power of two",
        "",
    ),
    (
        "/domain/devices/interface/driver/@tx_queue_size",
        "a power of two",
        "",
    ),
    (
        "/domain/devices/interface/backend/@type",
        "`default`; user, vhostuser: `passt`",
        "",
    ),
    (
        "/domain/devices/interface/target/@dev",
        "the tap's name; `vnet…`, `macvtap…` are forgotten",
        "made up",
    ),
    (
        "/domain/devices/interface/target/@managed",
        "ethernet: `yes`, `no`",
        "`yes`",
    ),
    (
        "/domain/devices/interface/teaming/@type",
        "`persistent` (virtio), `transient` (host device)",
        "",
    ),
    (
        "/domain/devices/interface/teaming/@persistent",
        "transient: the other's alias, `ua-…`",
        "",
    ),
    (
        "/domain/devices/interface/link/@state",
        "`up`, `down`",
        "`up`",
    ),
    (
        "/domain/devices/interface/mtu/@size",
        "a number; not for direct and hostdev, but for the standby of a pair",
        "",
    ),
    (
        "/domain/devices/interface/coalesce",
        "`<rx><frames max='…'/></rx>`; network and bridge; it is kept, and can't be started",
        "",
    ),
    (
        "/domain/devices/interface/virtnic:vf",
        "**ours**: as in networks",
        "",
    ),
    (
        "/domain/devices/interface/virtnic:direct",
        "**ours**: `mode`: `vepa`, `private`, `bridge` or `passthrough`, of those that its network offers",
        "its forward mode",
    ),
    (
        "/domain/devices/interface/virtnic:hybrid",
        "**ours**: a pair of a VF and virtio, see below. To ask for one: `guest`: `failover`, `bond`; `fallback`: `none`, `virtio`. On each half also `pair`: a UUID, the same on both, and `part`: `standby`, `primary`",
        "its network's; `failover`, `none`",
    ),
    (
        "/domain/devices/interface/virtnic:port",
        "**ours**: `network`, `portgroup` and `portid` of a running guest's VF; read again, it asks for a port",
        "",
    ),
    (
        "/domain/devices/interface/address",
        "where the guest sees it",
        "given when it is defined",
    ),
    (
        "/domain/devices/interface/alias/@name",
        "`ua-` and letters, digits, `_`, `-`, at most 255 in all; others are forgotten",
        "",
    ),
    (
        "/domain/devices/interface/boot/@order",
        "from 1; not beside `<os><boot>`",
        "",
    ),
    ("/domain/devices/interface/rom/@enabled", "`yes`, `no`", ""),
    ("/domain/devices/interface/rom/@bar", "`on`, `off`", ""),
    (
        "/domain/devices/hostdev/@mode",
        "`subsystem`; `capabilities` is kept and can't be started",
        "`subsystem`",
    ),
    (
        "/domain/devices/hostdev/@type",
        "`pci`, `usb`; `scsi`, `scsi_host`, `mdev` are kept, and can't be started",
        "",
    ),
    (
        "/domain/devices/hostdev/@managed",
        "`yes`: bound and given back by us",
        "`no`",
    ),
    (
        "/domain/devices/hostdev/driver",
        "`name='vfio'`; `model`: a vfio variant driver",
        "",
    ),
    (
        "/domain/devices/hostdev/source/@startupPolicy",
        "USB: `mandatory`, `requisite`, `optional`",
        "",
    ),
    (
        "/domain/devices/hostdev/source/@guestReset",
        "USB: `off`, `uninitialized`, `on`",
        "",
    ),
    (
        "/domain/devices/hostdev/source/vendor/@id",
        "USB: 0x0001–0xffff",
        "",
    ),
    (
        "/domain/devices/hostdev/source/product/@id",
        "USB: 0x0000–0xffff",
        "",
    ),
    (
        "/domain/devices/hostdev/source/address",
        "PCI: domain, bus, slot, function; USB: bus, device",
        "",
    ),
    (
        "/domain/devices/hostdev/teaming/@type",
        "as in interfaces",
        "",
    ),
    (
        "/domain/devices/hostdev/teaming/@persistent",
        "as in interfaces",
        "",
    ),
    (
        "/domain/devices/hostdev/address",
        "where the guest sees it",
        "given when it is defined",
    ),
];

/// The table of a guest and its devices, as Markdown.
#[must_use]
pub fn guest_markdown() -> String {
    let mut text =
        String::from("| element | attribute | values | default | |\n|---|---|---|---|---|\n");
    for (parent, shape) in ROOTS {
        rows(shape, &format!("{parent}/{}", shape.name), &mut text);
    }
    text
}

/// Notes on places that no shape has: there should be none.
#[must_use]
pub fn stray_guest_notes() -> Vec<&'static str> {
    let table = guest_markdown();
    let known = |place: &str| match place.split_once("/@") {
        // The attribute's row comes somewhere behind its element's.
        Some((element, name)) => {
            table
                .split_once(&format!("| `{element}` |"))
                .is_some_and(|(_, rest)| {
                    let own = rest.split("\n| `").next().unwrap_or_default();
                    own.contains(&format!("\n| | `{name}` |"))
                })
        }
        None => table.contains(&format!("| `{place}` |")),
    };
    let places = VALUES.iter().map(|(place, _, _)| *place);
    places.filter(|place| !known(place)).collect()
}

/// Depth is that of the shapes.
fn rows(shape: &Shape, path: &str, text: &mut String) {
    let device = path.strip_prefix("/domain/devices/");
    let effect = match shape.rule {
        _ if device.is_some_and(|name| OTHER_DEVICES.contains(&name)) => "*kept*",
        Rule::Parts | Rule::Whole => "",
        Rule::Carried => "*kept*; a guest that has it can't be started",
        Rule::Harmless => "*kept*",
    };
    let (values, default) = note(path);
    // Writing to a string can't fail.
    let _ = writeln!(text, "| `{path}` | | {values} | {default} | {effect} |");
    for (names, effect) in [(shape.attributes, ""), (shape.harmless, "*kept*")] {
        for name in names {
            let (values, default) = note(&format!("{path}/@{name}"));
            let _ = writeln!(text, "| | `{name}` | {values} | {default} | {effect} |");
        }
    }
    for child in shape.children {
        let path = format!("{path}/{}", child.name);
        let mut roots = ROOTS.iter();
        if !roots.any(|(parent, root)| format!("{parent}/{}", root.name) == path) {
            rows(child, &path, text);
        }
    }
}

fn note(place: &str) -> (&'static str, &'static str) {
    let found = VALUES.iter().find(|(known, _, _)| *known == place);
    found.map_or(("", ""), |&(_, values, default)| (values, default))
}
