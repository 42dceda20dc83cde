//! What is modelled of a domain's elements, what is only carried, and in which order libvirt
//! writes them: the one table behind keeping, ordering and refusing.

use crate::kept::{Shape, carried, harmless, parts, whole};

/// A shape of a device: its own children, then those that every device has.
macro_rules! device {
    ($name:literal, $attributes:expr, [$($child:expr),* $(,)?]) => {
        parts($name, $attributes, &[
            $($child,)*
            parts("boot", &["order"], &[]),
            parts("alias", &["name"], &[]),
            parts("rom", &["enabled", "bar", "file"], &[]),
            parts("acpi", &["index"], &[]),
            whole("address"),
        ])
    };
}

/// `<domain>`.
pub(crate) const DOMAIN: Shape = parts(
    "domain",
    &["type", "id"],
    &[
        parts("name", &[], &[]),
        parts("uuid", &[], &[]),
        carried("genid"),
        parts("title", &[], &[]),
        parts("description", &[], &[]),
        whole("metadata"),
        carried("maxMemory"),
        parts("memory", &["unit"], &[]),
        parts("currentMemory", &["unit"], &[]),
        carried("blkiotune"),
        parts(
            "memtune",
            &[],
            &[
                parts("hard_limit", &["unit"], &[]),
                carried("soft_limit"),
                carried("min_guarantee"),
                carried("swap_hard_limit"),
            ],
        ),
        carried("memoryBacking"),
        parts("vcpu", &["cpuset", "current"], &[]),
        carried("vcpus"),
        carried("iothreads"),
        carried("iothreadids"),
        carried("defaultiothread"),
        parts(
            "cputune",
            &[],
            &[
                carried("shares"),
                carried("period"),
                carried("quota"),
                carried("global_period"),
                carried("global_quota"),
                carried("emulator_period"),
                carried("emulator_quota"),
                carried("iothread_period"),
                carried("iothread_quota"),
                whole("vcpupin"),
                parts("emulatorpin", &["cpuset"], &[]),
                carried("iothreadpin"),
                carried("emulatorsched"),
                carried("vcpusched"),
                carried("iothreadsched"),
                carried("cachetune"),
                carried("memorytune"),
            ],
        ),
        parts(
            "numatune",
            &[],
            &[
                parts("memory", &["mode", "nodeset"], &[]),
                carried("memnode"),
            ],
        ),
        harmless("resource"),
        carried("sysinfo"),
        carried("bootloader"),
        carried("bootloader_args"),
        parts(
            "os",
            &[],
            &[
                parts("type", &["arch", "machine"], &[]),
                carried("firmware"),
                carried("loader"),
                carried("nvram"),
                carried("varstore"),
                parts("kernel", &[], &[]),
                parts("initrd", &[], &[]),
                parts("cmdline", &[], &[]),
                carried("shim"),
                carried("dtb"),
                carried("acpi"),
                parts("boot", &["dev"], &[]),
                carried("bootmenu"),
                parts("bios", &["useserial"], &[]),
                carried("smbios"),
            ],
        ),
        carried("idmap"),
        parts(
            "features",
            &[],
            &[
                parts("acpi", &[], &[]),
                parts("apic", &[], &[]),
                parts("pae", &[], &[]),
                carried("hap"),
                carried("viridian"),
                carried("privnet"),
                carried("hyperv"),
                carried("kvm"),
                carried("pvspinlock"),
                carried("capabilities"),
                carried("pmu"),
                parts("vmport", &["state"], &[]),
                carried("gic"),
                carried("smm"),
                carried("ioapic"),
                carried("hpt"),
                carried("vmcoreinfo"),
            ],
        ),
        whole("cpu"),
        parts(
            "clock",
            &["offset"],
            &[parts(
                "timer",
                &["name", "present", "tickpolicy"],
                &[carried("catchup")],
            )],
        ),
        parts("on_poweroff", &[], &[]),
        parts("on_reboot", &[], &[]),
        parts("on_crash", &[], &[]),
        harmless("on_lockfailure"),
        parts(
            "pm",
            &[],
            &[
                parts("suspend-to-mem", &["enabled"], &[]),
                parts("suspend-to-disk", &["enabled"], &[]),
            ],
        ),
        harmless("perf"),
        parts("devices", &[], DEVICES.children),
        harmless("seclabel"),
        carried("keywrap"),
        carried("launchSecurity"),
    ],
);

/// `<cpu>`.
pub(crate) const CPU: Shape = parts(
    "cpu",
    &["mode", "match", "check", "migratable"],
    &[
        parts("arch", &[], &[]),
        parts("model", &["fallback"], &[]),
        carried("vendor"),
        parts(
            "topology",
            &["sockets", "dies", "clusters", "cores", "threads"],
            &[],
        ),
        carried("cache"),
        carried("maxphysaddr"),
        parts("feature", &["policy", "name"], &[]),
        carried("numa"),
    ],
);

/// `<devices>`.
pub(crate) const DEVICES: Shape = parts(
    "devices",
    &[],
    &[
        parts("emulator", &[], &[]),
        whole("disk"),
        whole("controller"),
        whole("lease"),
        whole("filesystem"),
        whole("interface"),
        whole("smartcard"),
        whole("serial"),
        whole("parallel"),
        whole("console"),
        whole("channel"),
        whole("input"),
        whole("tpm"),
        whole("graphics"),
        whole("sound"),
        whole("audio"),
        whole("video"),
        whole("hostdev"),
        whole("redirdev"),
        whole("redirfilter"),
        whole("hub"),
        whole("watchdog"),
        whole("memballoon"),
        whole("rng"),
        whole("nvram"),
        whole("panic"),
        whole("shmem"),
        whole("memory"),
        whole("crypto"),
        whole("iommu"),
        whole("vsock"),
        whole("pstore"),
    ],
);

macro_rules! disk {
    ($source:expr) => {
        device!(
            "disk",
            &["type", "device"],
            [
                parts("driver", &DISK_DRIVER, &[carried("metadata_cache")]),
                carried("auth"),
                $source,
                harmless("backingStore"),
                carried("mirror"),
                parts("target", &["dev", "bus"], &[]),
                carried("iotune"),
                whole("readonly"),
                carried("shareable"),
                carried("transient"),
                carried("serial"),
                carried("wwn"),
                carried("vendor"),
                carried("product"),
                carried("encryption"),
                carried("blockio"),
                carried("geometry"),
            ]
        )
    };
}

/// Attributes of a disk's `<driver>`, in their order.
pub(crate) const DISK_DRIVER: [&str; 19] = [
    "name",
    "type",
    "cache",
    "error_policy",
    "rerror_policy",
    "io",
    "ioeventfd",
    "event_idx",
    "copy_on_read",
    "discard",
    "iothread",
    "detect_zeroes",
    "discard_no_unref",
    "queues",
    "queue_size",
    "iommu",
    "ats",
    "packed",
    "page_per_vq",
];

/// `<disk>`.
pub(crate) const DISK: Shape = disk!(parts("source", &["file", "dev", "index"], &[]));

/// `<disk>` whose source is kept as it stands.
pub(crate) const DISK_ELSEWHERE: Shape = disk!(whole("source"));

/// `<controller>`.
pub(crate) const CONTROLLER: Shape = parts(
    "controller",
    &["type", "index", "model"],
    &[
        parts("model", &["name"], &[]),
        parts(
            "target",
            &["chassisNr", "chassis", "port", "busNr", "hotplug"],
            &[parts("node", &[], &[])],
        ),
        carried("driver"),
        parts("boot", &["order"], &[]),
        parts("alias", &["name"], &[]),
        harmless("master"),
        parts("rom", &["enabled", "bar", "file"], &[]),
        parts("acpi", &["index"], &[]),
        whole("address"),
        carried("pcihole64"),
    ],
)
.with_harmless(&["ports"]);

/// `<serial>` and `<console>`.
pub(crate) const CHARACTER_DEVICE: Shape = device!(
    "serial",
    &["type", "tty"],
    [
        whole("source"),
        carried("protocol"),
        harmless("log"),
        parts(
            "target",
            &["type", "port"],
            &[parts("model", &["name"], &[])]
        ),
    ]
);

/// `<rng>`.
pub(crate) const RNG: Shape = device!(
    "rng",
    &["model"],
    [
        parts("rate", &["bytes", "period"], &[]),
        parts("backend", &["model"], &[]),
        carried("driver"),
    ]
);

/// `<memballoon>`.
pub(crate) const MEMBALLOON: Shape = parts(
    "memballoon",
    &["model"],
    &[
        harmless("stats"),
        parts("boot", &["order"], &[]),
        parts("alias", &["name"], &[]),
        parts("rom", &["enabled", "bar", "file"], &[]),
        parts("acpi", &["index"], &[]),
        whole("address"),
        carried("driver"),
    ],
);

/// `<hostdev>` of PCI and USB devices.
pub(crate) const HOSTDEV: Shape = device!(
    "hostdev",
    &["mode", "type", "managed"],
    [
        whole("driver"),
        parts(
            "source",
            &["startupPolicy", "guestReset", "dev"],
            &[
                parts("vendor", &["id"], &[]),
                parts("product", &["id"], &[]),
                whole("address"),
            ],
        ),
        parts("teaming", &["type", "persistent"], &[]),
        carried("readonly"),
        carried("shareable"),
    ]
);

macro_rules! interface {
    ([$($before:expr),*], $source:expr) => {
        device!(
            "interface",
            &["type", "managed", "trustGuestRxFilters"],
            [
                parts("mac", &["address", "type", "check", "currentAddress"], &[]),
                $($before,)*
                $source,
                whole("vlan"),
                whole("virtualport"),
                whole("bandwidth"),
                parts("port", &["isolated"], &[]),
                whole("actual"),
                carried("ip"),
                carried("route"),
                carried("portForward"),
                parts("script", &["path"], &[]),
                parts("downscript", &["path"], &[]),
                parts("backenddomain", &["name"], &[]),
                parts("target", &["dev", "managed"], &[]),
                carried("guest"),
                parts("model", &["type"], &[]),
                INTERFACE_DRIVER,
                parts("backend", &["type", "tap", "vhost", "logFile"], &[]),
                carried("filterref"),
                parts("tune", &[], &[parts("sndbuf", &[], &[])]),
                parts("teaming", &["type", "persistent"], &[]),
                parts("link", &["state"], &[]),
                parts("mtu", &["size"], &[]),
                whole("coalesce"),
                whole("virtnic:vf"),
                whole("virtnic:direct"),
                whole("virtnic:hybrid"),
                whole("virtnic:port"),
            ]
        )
    };
}

/// Attributes of an interface's `<driver>`, in their order; the last for host devices.
const NIC_DRIVER: [&str; 14] = [
    "name",
    "txmode",
    "ioeventfd",
    "event_idx",
    "queues",
    "rx_queue_size",
    "tx_queue_size",
    "rss",
    "rss_hash_report",
    "iommu",
    "ats",
    "packed",
    "page_per_vq",
    "model",
];

/// `<driver>` of an interface; libvirt forgets what doesn't fit the interface's kind.
const INTERFACE_DRIVER: Shape = parts(
    "driver",
    &NIC_DRIVER,
    &[
        parts("host", &HOST_OFFLOADS, &[]),
        parts("guest", &GUEST_OFFLOADS, &[]),
    ],
);

/// Attributes of `<driver><host>`, in their order.
pub(crate) const HOST_OFFLOADS: [&str; 7] =
    ["csum", "gso", "tso4", "tso6", "ecn", "ufo", "mrg_rxbuf"];

/// Attributes of `<driver><guest>`, in their order.
pub(crate) const GUEST_OFFLOADS: [&str; 5] = ["csum", "tso4", "tso6", "ecn", "ufo"];

/// `<source>` of an interface, of all kinds that are modelled.
const INTERFACE_SOURCE: Shape = parts(
    "source",
    &[
        "network",
        "portgroup",
        "portid",
        "bridge",
        "macTableManager",
        "dev",
        "mode",
    ],
    &[
        whole("address"),
        parts("vendor", &["id"], &[]),
        parts("product", &["id"], &[]),
    ],
);

/// `<interface>` whose source is modelled.
pub(crate) const INTERFACE: Shape = interface!([], INTERFACE_SOURCE);

/// `<interface>` that is a host device: how it is bound stands before which it is.
pub(crate) const INTERFACE_HOSTDEV: Shape = interface!([INTERFACE_DRIVER], INTERFACE_SOURCE);

/// `<interface>` whose source is kept as it stands.
pub(crate) const INTERFACE_ELSEWHERE: Shape = interface!([], whole("source"));
