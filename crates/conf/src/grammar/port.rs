//! The grammar of `<networkport>`.

use super::Effect::{Kept, Used};
use super::network::{PARAMETERS, TAG, VIRTUAL_PORT, VLAN};
use super::{AttributeRule, ElementRule, attribute, element};

const RATE: &[AttributeRule] = &[
    attribute("average", "KiB/s, at most 2^54", ""),
    attribute("peak", "KiB/s, at most 2^54", ""),
    attribute("burst", "KiB, at most 4194303", ""),
];
const INBOUND: &[AttributeRule] = &[
    RATE[0],
    RATE[1],
    attribute("floor", "KiB/s, at most 2^54; guaranteed", ""),
    RATE[2],
];

pub(super) const RULES: &[ElementRule] = &[
    element(
        "/networkport",
        Used,
        "A guest interface's place in a network.",
        &[],
    ),
    element(
        "/networkport/uuid",
        Used,
        "Chosen by whoever asks for it.",
        &[],
    ),
    element("/networkport/owner", Used, "The guest.", &[]),
    element("/networkport/owner/name", Used, "Its name.", &[]),
    element("/networkport/owner/uuid", Used, "Its identity.", &[]),
    element(
        "/networkport/group",
        Used,
        "The port group; must be one of the network's.",
        &[],
    ),
    element(
        "/networkport/mac",
        Used,
        "The guest's MAC.",
        &[attribute("address", "MAC", "")],
    ),
    element(
        "/networkport/virtualport",
        Used,
        "Merged of interface, network, group.",
        VIRTUAL_PORT,
    ),
    element(
        "/networkport/virtualport/parameters",
        Used,
        "What the type needs.",
        PARAMETERS,
    ),
    element(
        "/networkport/bandwidth",
        Kept,
        "Of the interface, else of the group.",
        &[attribute("classID", "traffic class on the bridge", "")],
    ),
    element(
        "/networkport/bandwidth/inbound",
        Kept,
        "`average` or `floor` is needed.",
        INBOUND,
    ),
    element(
        "/networkport/bandwidth/outbound",
        Kept,
        "`average` is needed.",
        RATE,
    ),
    element(
        "/networkport/vlan",
        Used,
        "Of the interface, the group or the network.",
        VLAN,
    ),
    element("/networkport/vlan/tag", Used, "A VLAN.", TAG),
    element(
        "/networkport/port",
        Used,
        "Of the interface or the network.",
        &[attribute("isolated", "`yes`, `no`", "")],
    ),
    element(
        "/networkport/rxfilters",
        Used,
        "Of the interface, the group or the network.",
        &[attribute("trustGuest", "`yes`, `no`", "")],
    ),
    element(
        "/networkport/plug",
        Used,
        "What the guest is plugged into; none in a request.",
        &[
            attribute(
                "type",
                "`none`, `network`, `bridge`, `direct`, `hostdev-pci`",
                "",
            ),
            attribute("bridge", "network, bridge: the bridge", ""),
            attribute(
                "macTableManager",
                "network, bridge: `kernel`, `libvirt`",
                "",
            ),
            attribute("dev", "direct: the device below", ""),
            attribute(
                "mode",
                "direct: `vepa`, `private`, `bridge`, `passthrough`",
                "vepa",
            ),
            attribute("managed", "hostdev-pci: `yes`, `no`", "no"),
        ],
    ),
    element(
        "/networkport/plug/driver",
        Used,
        "hostdev-pci: how it is bound.",
        &[
            attribute("name", "`vfio`, `kvm`, `xen`", "vfio"),
            attribute("model", "a host kernel driver", ""),
        ],
    ),
    element(
        "/networkport/plug/address",
        Used,
        "hostdev-pci: the device.",
        &[
            attribute("domain", "any base", "0"),
            attribute("bus", "0–255, any base", "0"),
            attribute("slot", "0–31, any base", "0"),
            attribute("function", "0–7, any base", "0"),
        ],
    ),
];
