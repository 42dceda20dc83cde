//! The grammar of `<network>`.

use super::Effect::{Kept, Ours, Used};
use super::{AttributeRule, ElementRule, attribute, element, open};

const YES_NO: &str = "`yes`, `no`";
const ON_OFF: &str = "`on`, `off`";
const IP: &str = "an IP address";
const TEXT: &str = "text";

pub(super) const VLAN: &[AttributeRule] = &[attribute(
    "trunk",
    "`yes`, `no`",
    "yes with several tags, else no",
)];
pub(super) const TAG: &[AttributeRule] = &[
    attribute("id", "0–4095", ""),
    attribute("nativeMode", "`tagged`, `untagged`", ""),
];
pub(super) const VIRTUAL_PORT: &[AttributeRule] = &[attribute(
    "type",
    "`802.1Qbg`, `802.1Qbh`, `openvswitch`, `midonet`",
    "",
)];
pub(super) const PARAMETERS: &[AttributeRule] = &[
    attribute("managerid", "0–255 (802.1Qbg)", ""),
    attribute("typeid", "0–0xffffff (802.1Qbg)", ""),
    attribute("typeidversion", "0–255 (802.1Qbg)", ""),
    attribute("instanceid", "UUID (802.1Qbg)", "made up for a port"),
    attribute(
        "interfaceid",
        "UUID (openvswitch, midonet)",
        "made up for a port of openvswitch",
    ),
    attribute("profileid", "at most 39 bytes (802.1Qbh, openvswitch)", ""),
];
const RATE: &[AttributeRule] = &[
    attribute("average", "KiB/s, at most 2^54", ""),
    attribute("peak", "KiB/s, at most 2^54", ""),
    attribute("burst", "KiB, at most 4194303", ""),
];
const VF: &[AttributeRule] = &[
    attribute("trust", ON_OFF, "off"),
    attribute("spoofchk", ON_OFF, "the driver's"),
    attribute("link", "`auto`, `on`, `off`", "auto"),
    attribute("rate", "Mbit/s; 0: no limit", "0"),
    attribute("min-rate", "Mbit/s, at most `rate`; 0: none", "0"),
    attribute("qos", "0–7", "0"),
    attribute("protocol", "`802.1Q`, `802.1ad`", "802.1Q"),
    attribute("rss-query", ON_OFF, "off"),
];
const LEASE: &[AttributeRule] = &[
    attribute("expiry", "at least two minutes; 0: for ever", ""),
    attribute("unit", "`seconds`, `minutes`, `hours`", "minutes"),
];

pub(super) const RULES: &[ElementRule] = &[
    element(
        "/network",
        Used,
        "A network.",
        &[
            attribute(
                "connections",
                "guests' interfaces on it; ignored when read",
                "",
            ),
            attribute("ipv6", YES_NO, "no"),
            attribute("trustGuestRxFilters", YES_NO, ""),
        ],
    ),
    element("/network/name", Used, "Unique; no `/`, no line feed.", &[]),
    element("/network/uuid", Used, "Unique; made up if missing.", &[]),
    element("/network/title", Kept, "One line for people.", &[]),
    element("/network/description", Kept, "Text for people.", &[]),
    open(
        "/network/metadata",
        Kept,
        "Whatever other programs keep here, byte for byte.",
        &[],
    ),
    element(
        "/network/forward",
        Used,
        "What guests get; without it the network is isolated.",
        &[
            attribute("dev", "another name for the first `<interface>`", ""),
            attribute(
                "mode",
                "`none`, `nat`, `route`, `open`, `bridge`, `private`, `vepa`, `passthrough`, \
             `hostdev`, and ours, `hostdev-hybrid`",
                "nat",
            ),
            attribute(
                "managed",
                "`yes`, `no`; `yes`: devices are bound and given back by us (hostdev, hostdev-hybrid)",
                "`no`; in hostdev-hybrid `yes`",
            ),
        ],
    ),
    element(
        "/network/forward/driver",
        Used,
        "How host devices are bound.",
        &[
            attribute(
                "name",
                "`vfio`; `kvm` and `xen` are read and can't be used",
                "vfio",
            ),
            attribute(
                "model",
                "a host kernel driver, for a vfio variant driver",
                "",
            ),
        ],
    ),
    element(
        "/network/forward/nat",
        Kept,
        "Mode nat only.",
        &[attribute("ipv6", YES_NO, "")],
    ),
    element(
        "/network/forward/nat/address",
        Kept,
        "Source addresses.",
        &[
            attribute("start", "an IPv4 address", ""),
            attribute("end", "an IPv4 address, not before `start`", "start"),
        ],
    ),
    element(
        "/network/forward/nat/port",
        Kept,
        "Source ports.",
        &[
            attribute("start", "0–65535", ""),
            attribute("end", "0–65535, not below `start`", ""),
        ],
    ),
    element(
        "/network/forward/pf",
        Used,
        "A PF whose VFs are lent, in mode hostdev-hybrid beside virtio over it. libvirt reads one; several are ours. Not together with a list.",
        &[attribute("dev", "its network device", "")],
    ),
    element(
        "/network/forward/pf/virtnic:vfs",
        Ours,
        "How many VFs it is to have.",
        &[attribute("count", "1–65535", "")],
    ),
    element(
        "/network/forward/interface",
        Used,
        "A network device that is lent, or the uplink of mode nat and route.",
        &[
            attribute("dev", "its name", ""),
            attribute(
                "connections",
                "guests' interfaces on it; ignored when read",
                "",
            ),
        ],
    ),
    element(
        "/network/forward/address",
        Used,
        "A PCI function that is lent (hostdev).",
        &[
            attribute("type", "`pci`", ""),
            attribute("domain", "any base", "0"),
            attribute("bus", "0–255, any base", "0"),
            attribute("slot", "0–31, any base", "0"),
            attribute("function", "0–7, any base", "0"),
            attribute(
                "virtnic:connections",
                "**ours**: guests' interfaces on it; ignored when read",
                "",
            ),
        ],
    ),
    element(
        "/network/bridge",
        Used,
        "The bridge: an existing one in mode bridge.",
        &[
            attribute("name", TEXT, "virbr%d, the first that is free"),
            attribute("zone", "firewalld's", ""),
            attribute("stp", ON_OFF, "on"),
            attribute("delay", "seconds", "0"),
            attribute("macTableManager", "`kernel`, `libvirt`", ""),
        ],
    ),
    element(
        "/network/mtu",
        Kept,
        "Of isolated, nat, route and open networks.",
        &[attribute("size", "bytes", "")],
    ),
    element(
        "/network/mac",
        Kept,
        "Of the network's own bridge.",
        &[attribute(
            "address",
            "no group address",
            "52:54:00 and three random bytes",
        )],
    ),
    element(
        "/network/domain",
        Kept,
        "The DNS domain.",
        &[
            attribute("name", TEXT, ""),
            attribute("localOnly", YES_NO, ""),
            attribute("register", "`yes`, `no`; `yes` needs `localOnly`", ""),
        ],
    ),
    element(
        "/network/dns",
        Kept,
        "The DNS server.",
        &[
            attribute("enable", "`yes`, `no`; `no` allows no records", "yes"),
            attribute("forwardPlainNames", YES_NO, ""),
        ],
    ),
    element(
        "/network/dns/forwarder",
        Kept,
        "Where queries go; one attribute is needed.",
        &[attribute("domain", TEXT, ""), attribute("addr", IP, "")],
    ),
    element(
        "/network/dns/txt",
        Kept,
        "A TXT record.",
        &[
            attribute("name", "no blanks", ""),
            attribute("value", TEXT, ""),
        ],
    ),
    element(
        "/network/dns/srv",
        Kept,
        "A SRV record.",
        &[
            attribute("service", TEXT, ""),
            attribute("protocol", TEXT, ""),
            attribute("domain", TEXT, ""),
            attribute("target", "needed by the three that follow", ""),
            attribute("port", "1–65535", ""),
            attribute("priority", "0–65535", "0"),
            attribute("weight", "0–65535", "0"),
        ],
    ),
    element(
        "/network/dns/host",
        Kept,
        "Names of an address.",
        &[attribute("ip", IP, "")],
    ),
    element(
        "/network/dns/host/hostname",
        Kept,
        "A name; at least one.",
        &[],
    ),
    element(
        "/network/vlan",
        Used,
        "VLANs of ports that have none of their own.",
        VLAN,
    ),
    element(
        "/network/vlan/tag",
        Used,
        "A VLAN; at most one is native. A VF takes one.",
        TAG,
    ),
    element("/network/bandwidth", Kept, "Shaping of the bridge.", &[]),
    element(
        "/network/bandwidth/inbound",
        Kept,
        "Towards guests; `average` is needed.",
        RATE,
    ),
    element(
        "/network/bandwidth/outbound",
        Kept,
        "From guests; `average` is needed.",
        RATE,
    ),
    element(
        "/network/port",
        Used,
        "Settings of all ports.",
        &[attribute("isolated", YES_NO, "")],
    ),
    element(
        "/network/ip",
        Kept,
        "An address of the bridge.",
        &[
            attribute("family", "`ipv4`, `ipv6`", "ipv4"),
            attribute("address", IP, ""),
            attribute("netmask", "IPv4; not with `prefix`", ""),
            attribute("prefix", "bits", "the address's class, 64 for IPv6"),
            attribute("localPtr", YES_NO, ""),
        ],
    ),
    element(
        "/network/ip/tftp",
        Kept,
        "IPv4 only.",
        &[attribute("root", "a directory", "")],
    ),
    element(
        "/network/ip/dhcp",
        Kept,
        "At most one of each family has ranges or hosts.",
        &[],
    ),
    element(
        "/network/ip/dhcp/range",
        Kept,
        "Addresses for anybody, in the network of the `<ip>`.",
        &[
            attribute("start", IP, ""),
            attribute("end", "an IP address, not before `start`", ""),
        ],
    ),
    element("/network/ip/dhcp/range/lease", Kept, "For how long.", LEASE),
    element(
        "/network/ip/dhcp/host",
        Kept,
        "An address for somebody.",
        &[
            attribute("mac", "IPv4: this or `name` is needed", ""),
            attribute(
                "id",
                "IPv6: this or `name` is needed; hex digits and colons",
                "",
            ),
            attribute("name", "starts with a letter or a digit", ""),
            attribute("ip", IP, ""),
        ],
    ),
    element("/network/ip/dhcp/host/lease", Kept, "For how long.", LEASE),
    element(
        "/network/ip/dhcp/bootp",
        Kept,
        "What a client boots.",
        &[
            attribute("file", TEXT, ""),
            attribute("server", IP, "the network's own"),
        ],
    ),
    element(
        "/network/route",
        Kept,
        "A static route.",
        &[
            attribute("family", "`ipv4`, `ipv6`", "ipv4"),
            attribute("address", "a network, without a host part", ""),
            attribute("netmask", "IPv4; not with `prefix`", ""),
            attribute("prefix", "bits", "0"),
            attribute("gateway", "in the network of an `<ip>`", ""),
            attribute("metric", "from 1", ""),
        ],
    ),
    element(
        "/network/virtualport",
        Used,
        "Profile of every port; the type is needed.",
        VIRTUAL_PORT,
    ),
    element(
        "/network/virtualport/parameters",
        Used,
        "What the type needs.",
        PARAMETERS,
    ),
    element(
        "/network/portgroup",
        Used,
        "Settings of those ports that name it.",
        &[
            attribute("name", "unique in the network", ""),
            attribute(
                "default",
                "`yes`, `no`; `yes`: for those that name none; one at most",
                "no",
            ),
            attribute("trustGuestRxFilters", YES_NO, "the network's"),
        ],
    ),
    element(
        "/network/portgroup/vlan",
        Used,
        "Instead of the network's.",
        VLAN,
    ),
    element("/network/portgroup/vlan/tag", Used, "A VLAN.", TAG),
    element(
        "/network/portgroup/virtualport",
        Used,
        "Merged with the network's.",
        VIRTUAL_PORT,
    ),
    element(
        "/network/portgroup/virtualport/parameters",
        Used,
        "Merged.",
        PARAMETERS,
    ),
    element("/network/portgroup/bandwidth", Kept, "Of each port.", &[]),
    element(
        "/network/portgroup/bandwidth/inbound",
        Kept,
        "Towards the guest.",
        RATE,
    ),
    element(
        "/network/portgroup/bandwidth/outbound",
        Kept,
        "From the guest.",
        RATE,
    ),
    element(
        "/network/portgroup/virtnic:vf",
        Ours,
        "Before the network's own.",
        VF,
    ),
    element(
        "/network/dnsmasq:options",
        Kept,
        "Lines of dnsmasq's configuration.",
        &[],
    ),
    element(
        "/network/dnsmasq:options/dnsmasq:option",
        Kept,
        "A line.",
        &[attribute("value", TEXT, "")],
    ),
    element(
        "/network/virtnic:pool",
        Ours,
        "How a VF is chosen.",
        &[
            attribute(
                "spread",
                "`balance`: the PF with the fewest lent; `pack`: the first",
                "balance",
            ),
            attribute(
                "numa",
                "`prefer`: a device near the guest first; `require`: near or none; `ignore`",
                "prefer",
            ),
            attribute(
                "carrier",
                "`require`: a PF or NIC without carrier lends nothing; `ignore`",
                "ignore",
            ),
            attribute(
                "lend",
                "mode passthrough, of a device that is a PF: `vfs`: its free VFs, one to a guest; `pf`: the NIC itself",
                "vfs, if it has any",
            ),
        ],
    ),
    element(
        "/network/virtnic:vf",
        Ours,
        "What a VF may do, set on each hand-out.",
        VF,
    ),
    element(
        "/network/virtnic:direct",
        Ours,
        "What a guest may choose, and whether the host takes part.",
        &[
            attribute(
                "modes",
                "a list of `vepa`, `private`, `bridge`, `passthrough`",
                "all",
            ),
            attribute(
                "host-access",
                "`yes`: a macvlan of the host's own on each parent",
                "no",
            ),
        ],
    ),
    element(
        "/network/virtnic:hybrid",
        Ours,
        "Mode hostdev-hybrid: how its guests' pairs of a VF and virtio are made where they don't say.",
        &[
            attribute(
                "guest",
                "`failover`: QEMU's failover pair, joined by the guest's virtio driver; `bond`: the guest bonds them itself",
                "failover",
            ),
            attribute(
                "fallback",
                "without a free VF: `virtio`: the guest starts on virtio alone; `none`: it does not start",
                "none",
            ),
        ],
    ),
];
