//! `net-update`: a part of a network changes, and nothing else.

#![expect(clippy::unwrap_used, reason = "a test may fail by it")]

use conf::{
    DeviceStatus, Error, ErrorKind, Form, Network, NetworkStatus, NetworkUpdate, PoolDevice,
    UpdateCommand, UpdateSection,
};

use UpdateCommand::{AddFirst, AddLast, Delete, Modify};
use UpdateSection::{
    DnsHost, DnsService, DnsText, ForwardInterface, IpDhcpHost, IpDhcpRange, PortGroup,
};

fn network(inside: &str) -> Network {
    let uuid = "<uuid>81ff0d90-c91e-6742-64da-4a736edb9a9b</uuid>";
    Network::parse(&format!(
        "<network xmlns:virtnic='urn:virtnic:1'><name>n</name>{uuid}{inside}</network>"
    ))
    .unwrap()
}

fn pool() -> Network {
    network("<forward mode='passthrough'><interface dev='a'/><interface dev='b'/></forward>")
}

fn served() -> Network {
    network(
        "<dns><txt name='t' value='v'/><srv service='s' protocol='tcp' domain='d'/>\
         <srv service='s' protocol='udp'/>\
         <host ip='10.0.0.9'><hostname>nine</hostname></host>\
         <host ip='10.0.0.8'><hostname>eight</hostname></host></dns>\
         <ip address='10.9.0.1' prefix='24'/>\
         <ip address='10.0.0.1' prefix='24'><dhcp><range start='10.0.0.100' end='10.0.0.200'/>\
         <host mac='52:54:00:00:00:0a' name='a' ip='10.0.0.10'/>\
         <host mac='52:54:00:00:00:0b' name='b' ip='10.0.0.11'/></dhcp></ip>",
    )
}

fn change(
    network: &Network,
    command: UpdateCommand,
    section: UpdateSection,
    xml: &str,
) -> Result<Network, Error> {
    let parent = None;
    network.update(
        &NetworkUpdate {
            command,
            section,
            parent,
            xml,
        },
        None,
    )
}

/// The lines of a network's document with that text.
fn lines(network: &Network, with: &str) -> Vec<String> {
    let xml = network.to_xml(Form::Inactive);
    let lines = xml.lines().filter(|line| line.contains(with));
    lines.map(|line| line.trim().to_owned()).collect()
}

fn guests_on(device: &str) -> NetworkStatus {
    NetworkStatus {
        connections: 2,
        devices: vec![DeviceStatus {
            device: PoolDevice::Interface(device.to_owned()),
            connections: 2,
        }],
    }
}

#[test]
fn interfaces_are_added_at_either_end_and_deleted() {
    let last = change(&pool(), AddLast, ForwardInterface, "<interface dev='c'/>").unwrap();
    let first = change(&last, AddFirst, ForwardInterface, "<interface dev='z'/>").unwrap();
    let without = change(&first, Delete, ForwardInterface, "<interface dev='b'/>").unwrap();
    assert_eq!(
        lines(&without, "<interface"),
        [
            "<interface dev='z'/>",
            "<interface dev='a'/>",
            "<interface dev='c'/>"
        ]
    );
    let empty = network("<forward mode='vepa'/>");
    let one = change(&empty, AddLast, ForwardInterface, "<interface dev='c'/>").unwrap();
    let none = change(&one, Delete, ForwardInterface, "<interface dev='c'/>").unwrap();
    assert_eq!(none, empty);
}

/// The definition is changed where it stands: what a document can't say is not lost, and a device
/// that guests use is known to be in use.
#[test]
fn weakness_06_an_update_of_a_running_network_knows_who_is_on_its_devices() {
    let update = NetworkUpdate {
        command: Delete,
        section: ForwardInterface,
        parent: None,
        xml: "<interface dev='b'/>",
    };
    let error = pool().update(&update, Some(&guests_on("b"))).unwrap_err();
    assert_eq!(error.kind, ErrorKind::OperationInvalid);
    assert_eq!(
        error.message,
        "network 'n' can't give up 'b': 2 of its guests' interfaces are on it; unplug them first"
    );
    let free = pool().update(&update, Some(&guests_on("a"))).unwrap();
    assert_eq!(lines(&free, "<interface"), ["<interface dev='a'/>"]);

    // PFs, and all else that the change is not about, are as they were.
    let before = network(
        "<forward mode='hostdev' managed='yes'><pf dev='e0'><virtnic:vfs count='4'/></pf>\
         <pf dev='e1'/></forward><portgroup name='g'/><virtnic:vf trust='on'/>",
    );
    let group = "<portgroup name='h'><vlan><tag id='3'/></vlan></portgroup>";
    let mut after = change(&before, AddLast, PortGroup, group).unwrap();
    assert_eq!(after.port_groups.pop().unwrap().name, "h");
    assert_eq!(after, before);
}

#[test]
fn port_groups_are_added_replaced_and_deleted_by_name() {
    let two =
        network("<forward mode='vepa'/><portgroup name='x' default='yes'/><portgroup name='y'/>");
    let trusting = "<portgroup name='y' trustGuestRxFilters='yes'/>";
    let modified = change(&two, Modify, PortGroup, trusting).unwrap();
    assert_eq!(modified.port_groups[1].trust_guest_rx_filters, Some(true));
    let deleted = change(&two, Delete, PortGroup, "<portgroup name='x'/>").unwrap();
    assert_eq!(lines(&deleted, "<portgroup"), ["<portgroup name='y'>"]);
    let first = change(&two, AddFirst, PortGroup, "<portgroup name='w'/>").unwrap();
    assert_eq!(first.port_groups[0].name, "w");
}

#[test]
fn dhcp_and_dns_entries_are_found_by_part_of_what_they_say() {
    let by_name = change(&served(), Delete, IpDhcpHost, "<host name='a'/>").unwrap();
    assert_eq!(
        lines(&by_name, "<host mac"),
        ["<host mac='52:54:00:00:00:0b' name='b' ip='10.0.0.11'/>"]
    );
    let moved = "<host mac='52:54:00:00:00:0b' name='b' ip='10.0.0.77'/>";
    let moved = change(&served(), Modify, IpDhcpHost, moved).unwrap();
    assert_eq!(lines(&moved, "name='b'").len(), 1);
    assert_eq!(lines(&moved, "10.0.0.77").len(), 1);

    let range = "<range start='10.0.0.50' end='10.0.0.60'/>";
    let ranges = change(&served(), AddFirst, IpDhcpRange, range).unwrap();
    assert_eq!(lines(&ranges, "<range")[0], range);
    let back = change(&ranges, Delete, IpDhcpRange, range).unwrap();
    assert_eq!(back, served());

    let fewer = change(
        &served(),
        Delete,
        DnsHost,
        "<host><hostname>nine</hostname></host>",
    );
    assert_eq!(lines(&fewer.unwrap(), "<host ip"), ["<host ip='10.0.0.8'>"]);
    let fewer = change(&served(), Delete, DnsText, "<txt name='t'/>").unwrap();
    assert_eq!(lines(&fewer, "<txt"), [""; 0]);
    let fewer = change(&served(), Delete, DnsService, "<srv protocol='udp'/>").unwrap();
    assert_eq!(lines(&fewer, "<srv").len(), 1);
}

#[test]
fn the_parent_is_the_one_that_is_named_or_the_one_that_serves() {
    let range = |parent, xml| {
        let (command, section) = (AddLast, IpDhcpRange);
        served().update(
            &NetworkUpdate {
                command,
                section,
                parent,
                xml,
            },
            None,
        )
    };
    let own = range(None, "<range start='10.0.0.20' end='10.0.0.30'/>").unwrap();
    assert_eq!(own.ip.addresses[1].dhcp.ranges.len(), 2);
    let other = range(Some(0), "<range start='10.9.0.20' end='10.9.0.30'/>").unwrap_err();
    assert_eq!(other.kind, ErrorKind::OperationInvalid, "{other}");
    assert!(other.message.contains("more than one IPv4 <ip>"), "{other}");
    let none = range(Some(2), "<range start='10.9.0.20' end='10.9.0.30'/>").unwrap_err();
    assert_eq!(none.message, "network 'n' has no <ip> of index 2");
}

#[test]
fn impossible_changes_are_refused_in_libvirts_classes() {
    use ErrorKind::{OperationInvalid, OperationUnsupported, Xml, XmlDetail};

    let pf = network("<forward mode='passthrough'><pf dev='e0'/></forward>");
    let groups = network("<forward mode='vepa'/><portgroup name='x' default='yes'/>");
    let silent = network("<dns enable='no'/><ip address='10.0.0.1' prefix='24'/>");
    let nat = network("<forward mode='nat' dev='e0'/><ip address='10.0.0.1' prefix='24'/>");
    let interface = "<interface dev='a'/>";
    let host = "<host ip='10.0.0.8'><hostname>x</hostname></host>";
    #[rustfmt::skip]
    let cases = [
        (pool(), Modify, ForwardInterface, interface, OperationUnsupported, "can't be modified"),
        (pool(), AddLast, ForwardInterface, interface, OperationInvalid, "has the <interface dev='a'> already"),
        (pool(), Delete, ForwardInterface, "<interface dev='q'/>", OperationInvalid, "has no <interface dev='q'>"),
        (pool(), AddLast, ForwardInterface, "<interface/>", Xml, "needs the attribute 'dev'"),
        (pool(), AddLast, ForwardInterface, "<pf dev='a'/>", Xml, "expected <interface>, found <pf>"),
        (pool(), AddLast, ForwardInterface, "<interface", Xml, ""),
        (pf, AddLast, ForwardInterface, interface, OperationInvalid, "lends the VFs of its <pf>"),
        (network(""), AddLast, ForwardInterface, interface, OperationInvalid, "has no <forward>"),
        (nat, AddLast, ForwardInterface, interface, Xml, "mode='nat' allows one <interface>"),
        (pool(), AddLast, UpdateSection::ForwardPf, "<pf dev='a'/>", OperationUnsupported, "section 'forward-pf'"),
        (pool(), Modify, UpdateSection::Bridge, "<bridge name='b'/>", OperationUnsupported, "section 'bridge'"),
        (groups.clone(), AddLast, PortGroup, "<portgroup name='x'/>", OperationInvalid, "has a portgroup 'x' already"),
        (groups.clone(), Modify, PortGroup, "<portgroup name='y'/>", OperationInvalid, "has no portgroup 'y'"),
        (groups.clone(), Delete, PortGroup, "<portgroup name='X'/>", OperationInvalid, "has no portgroup 'X'"),
        (groups.clone(), AddLast, PortGroup, "<portgroup name='y' default='yes'/>", OperationInvalid, "has the default portgroup 'x'"),
        (groups.clone(), AddLast, PortGroup, "<portgroup/>", Xml, "needs the attribute 'name'"),
        (groups, AddLast, PortGroup, "<portgroup name='y'><vlan><tag id='1'/></vlan></portgroup>", ErrorKind::ConfigUnsupported, "can't set the <vlan>"),
        (served(), AddLast, IpDhcpHost, "<host name='c' ip='10.0.0.10'/>", OperationInvalid, "some of <host name='c' ip='10.0.0.10'> already"),
        (served(), Delete, IpDhcpHost, "<host name='a' ip='10.0.0.11'/>", OperationInvalid, "has no dhcp <host"),
        (served(), Delete, IpDhcpHost, "<host/>", Xml, "needs the attribute 'mac'"),
        (served(), Modify, IpDhcpHost, "<host mac='52:54:00:00:00:0f' ip='10.0.0.12'/>", OperationInvalid, "has no dhcp <host"),
        (network(""), AddLast, IpDhcpHost, "<host name='c' ip='10.0.0.10'/>", OperationInvalid, "has no <ip>"),
        (served(), Modify, IpDhcpRange, "<range start='10.0.0.2' end='10.0.0.3'/>", OperationUnsupported, "can't be modified"),
        (served(), AddLast, IpDhcpRange, "<range start='10.0.0.100' end='10.0.0.200'/>", OperationInvalid, "already"),
        (served(), Delete, IpDhcpRange, "<range start='10.0.0.100' end='10.0.0.201'/>", OperationInvalid, "has no dhcp <range"),
        (served(), AddLast, DnsHost, host, OperationInvalid, "has a <host> in its <dns> already"),
        (served(), Delete, DnsHost, "<host ip='10.0.0.7'/>", OperationInvalid, "has no such <host>"),
        (served(), Delete, DnsHost, "<host ip='10.0.0.8'><hostname>nine</hostname></host>", OperationInvalid, "more than one such <host>"),
        (served(), Delete, DnsHost, "<host/>", XmlDetail, "needs the attribute 'ip' or a <hostname>"),
        (served(), AddLast, DnsText, "<txt name='t' value='w'/>", OperationInvalid, "has a <txt> in its <dns> already"),
        (served(), Delete, DnsText, "<txt name='t' value='w'/>", OperationInvalid, "has no such <txt>"),
        (served(), Delete, DnsService, "<srv service='s'/>", OperationInvalid, "more than one such <srv>"),
        (served(), Modify, DnsService, "<srv service='s'/>", OperationUnsupported, "can't be modified"),
        (silent, AddLast, DnsHost, host, Xml, "has <dns enable='no'>"),
    ];
    for (network, command, section, xml, kind, message) in cases {
        let error = change(&network, command, section, xml).unwrap_err();
        assert_eq!(error.kind, kind, "{xml}: {error}");
        assert!(error.message.contains(message), "{xml}: {error}");
    }
}

#[test]
fn commands_and_sections_have_the_numbers_of_the_protocol() {
    let commands: Vec<_> = (0..6).map(UpdateCommand::from_number).collect();
    assert_eq!(
        commands,
        [
            None,
            Some(Modify),
            Some(Delete),
            Some(AddLast),
            Some(AddFirst),
            None
        ]
    );
    for (number, section) in [
        (0, None),
        (1, Some(UpdateSection::Bridge)),
        (4, Some(IpDhcpHost)),
        (7, Some(ForwardInterface)),
        (9, Some(PortGroup)),
        (12, Some(DnsService)),
        (13, None),
        (u32::MAX, None),
    ] {
        assert_eq!(UpdateSection::from_number(number), section);
    }
}

#[test]
fn a_part_says_nothing_of_ours_that_nobody_reads() {
    let ns = "xmlns:virtnic='urn:virtnic:1'";
    for (network, section, xml, expected) in [
        (
            pool(),
            ForwardInterface,
            format!("<interface dev='c' {ns}><virtnic:vf trust='on'/></interface>"),
            "<virtnic:vf> is not known here",
        ),
        (
            pool(),
            PortGroup,
            format!("<portgroup name='g' {ns}><virtnic:pool/></portgroup>"),
            "<virtnic:pool> is not known here; expected virtnic:vf",
        ),
        (
            served(),
            DnsText,
            format!("<txt name='u' value='v' {ns} virtnic:x='1'/>"),
            "<txt> has no attribute 'virtnic:x'",
        ),
        (
            served(),
            IpDhcpHost,
            format!("<host name='c' ip='10.0.0.12' {ns} virtnic:x='1'/>"),
            "<host> has no attribute 'virtnic:x'",
        ),
    ] {
        let error = change(&network, AddLast, section, &xml).unwrap_err();
        assert!(error.message.starts_with(expected), "{error}");
    }
}
