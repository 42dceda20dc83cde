//! The grammar of `<device>`.

use super::Effect::Shown;
use super::{AttributeRule, ElementRule, attribute, element, open};

const TYPE: AttributeRule = attribute(
    "type",
    "`system`, `pci`, `net`, `usb_device`, `usb`; others are carried through",
    "",
);
const ADDRESS: &[AttributeRule] = &[
    attribute("domain", "", ""),
    attribute("bus", "", ""),
    attribute("slot", "", ""),
    attribute("function", "", ""),
];

pub(super) const RULES: &[ElementRule] = &[
    element("/device", Shown, "A device of the host.", &[]),
    element(
        "/device/name",
        Shown,
        "Unique: subsystem, name, and MAC of a network device.",
        &[],
    ),
    element("/device/path", Shown, "Its directory in sysfs.", &[]),
    element(
        "/device/devnode",
        Shown,
        "Its device node.",
        &[attribute("type", "`dev`, `link`", "")],
    ),
    element(
        "/device/parent",
        Shown,
        "What it sits on: a VF's network device on its VF, a VF on the bridge above its card.",
        &[],
    ),
    element(
        "/device/driver",
        Shown,
        "The kernel driver that has it.",
        &[],
    ),
    element("/device/driver/name", Shown, "Its name.", &[]),
    open(
        "/device/capability",
        Shown,
        "What it is. PCI: class, address, names, `phys_function` or `virt_functions` with \
         addresses, IOMMU group, NUMA node, link. Net: interface, address, link, features. \
         USB: bus, device, names.",
        &[TYPE],
    ),
    element(
        "/device/capability/product",
        Shown,
        "PCI, USB: id and name.",
        &[attribute("id", "0x0000–0xffff", "")],
    ),
    element(
        "/device/capability/vendor",
        Shown,
        "PCI, USB: id and name.",
        &[attribute("id", "0x0000–0xffff", "")],
    ),
    element(
        "/device/capability/capability",
        Shown,
        "PCI: its part in SR-IOV.",
        &[
            attribute("type", "`phys_function`, `virt_functions`", ""),
            attribute("maxCount", "most VFs that it can have", ""),
        ],
    ),
    element(
        "/device/capability/capability/address",
        Shown,
        "Its PF, or a VF of it.",
        ADDRESS,
    ),
    element(
        "/device/capability/iommuGroup",
        Shown,
        "PCI.",
        &[attribute("number", "good for this boot", "")],
    ),
    element(
        "/device/capability/iommuGroup/address",
        Shown,
        "A member, itself included.",
        ADDRESS,
    ),
    element(
        "/device/capability/numa",
        Shown,
        "PCI.",
        &[attribute("node", "a number", "")],
    ),
    element(
        "/device/capability/pci-express/link",
        Shown,
        "What its link can do, and does.",
        &[
            attribute("validity", "`cap`, `sta`", ""),
            attribute("port", "a number", ""),
            attribute("speed", "GT/s: `2.5`, `5`, `8`, `16`, `32`, `64`", ""),
            attribute("width", "lanes; 0: down", ""),
        ],
    ),
    element(
        "/device/capability/link",
        Shown,
        "Net.",
        &[
            attribute("speed", "Mbit/s", ""),
            attribute(
                "state",
                "`unknown`, `notpresent`, `down`, `lowerlayerdown`, `testing`, `dormant`, `up`",
                "",
            ),
        ],
    ),
    element(
        "/device/capability/feature",
        Shown,
        "Net: what its driver offloads.",
        &[attribute("name", "`rx`, `tx`, `tso` …", "")],
    ),
];
