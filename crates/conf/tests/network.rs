//! Running networks, and what makes a network impossible.

#![expect(clippy::unwrap_used, reason = "a test may fail by it")]

use conf::{DeviceStatus, ErrorKind, Form, Network, NetworkStatus, PoolDevice, PoolMembers};

fn network(inside: &str) -> Network {
    Network::parse(&format!("<network><name>n</name>{inside}</network>")).unwrap()
}

fn lines(xml: &str, with: &str) -> Vec<String> {
    xml.lines()
        .filter(|line| line.contains(with))
        .map(|line| line.trim().to_owned())
        .collect()
}

#[test]
fn a_running_pool_shows_its_devices_and_who_is_on_them() {
    let network = network("<forward mode='passthrough'><pf dev='eth0'/></forward>");
    let device = |name: &str, connections| DeviceStatus {
        device: PoolDevice::Interface(name.to_owned()),
        connections,
    };
    let status = NetworkStatus {
        connections: 1,
        devices: vec![device("eth0v0", 0), device("eth0v1", 1)],
    };
    let xml = network.to_xml_live(&status);
    assert!(xml.starts_with("<network connections='1'>\n"), "{xml}");
    assert_eq!(
        lines(&xml, "dev="),
        [
            "<pf dev='eth0'/>",
            "<interface dev='eth0v0'/>",
            "<interface dev='eth0v1' connections='1'/>"
        ]
    );
    assert_eq!(lines(&network.to_xml(Form::Inactive), "interface"), [""; 0]);
}

#[test]
fn a_listed_pool_keeps_its_order_and_counts() {
    let network =
        network("<forward mode='vepa'><interface dev='b'/><interface dev='a'/></forward>");
    let status = NetworkStatus {
        connections: 3,
        devices: vec![DeviceStatus {
            device: PoolDevice::Interface("a".to_owned()),
            connections: 3,
        }],
    };
    assert_eq!(
        lines(&network.to_xml_live(&status), "dev="),
        [
            "<forward dev='b' mode='vepa'>",
            "<interface dev='b'/>",
            "<interface dev='a' connections='3'/>"
        ]
    );
}

/// libvirt's format has no place for it, so that it stands in our namespace.
#[test]
fn weakness_13_host_devices_show_who_is_on_them() {
    let device = |address: &str, connections| DeviceStatus {
        device: PoolDevice::Address(address.parse().unwrap()),
        connections,
    };
    let status = NetworkStatus {
        connections: 1,
        devices: vec![device("0000:03:10.0", 1), device("0000:03:10.2", 0)],
    };
    let used = "<address type='pci' domain='0x0000' bus='0x03' slot='0x10' function='0x0' \
                virtnic:connections='1'/>";
    let free = "<address type='pci' domain='0x0000' bus='0x03' slot='0x10' function='0x2'/>";
    for members in [
        "<pf dev='eth0'/>".to_owned(),
        format!("{free}{}", used.replace("virtnic:c", "c")),
    ] {
        let network = network(&format!("<forward mode='hostdev'>{members}</forward>"));
        let live = network.to_xml_live(&status);
        let mut shown = lines(&live, "<address");
        shown.sort();
        assert_eq!(shown, [used, free]);
        assert_eq!(lines(&live, "xmlns:virtnic='urn:virtnic:1'").len(), 1);
        assert_eq!(lines(&network.to_xml(Form::Live), "virtnic"), [""; 0]);
    }
    // What is shown of a list is no part of its definition.
    let listed = network(&format!("<forward mode='hostdev'>{free}</forward>"));
    let live = listed.to_xml_live(&status);
    assert_eq!(Network::parse(&live), Ok(listed));
}

/// A driver without any device to bind is part of the network all the same.
#[test]
fn weakness_12_a_driver_alone_stays_inside_its_forward() {
    let alone = network("<forward mode='hostdev'><driver model='mlx5_vfio_pci'/></forward>");
    let xml = alone.to_xml(Form::Inactive);
    let forward = "  <forward mode='hostdev' managed='no'>\n    \
                   <driver model='mlx5_vfio_pci'/>\n  </forward>\n";
    assert!(xml.contains(forward), "{xml}");
    assert_eq!(Network::parse(&xml), Ok(alone));
}

#[test]
fn weakness_14_a_pool_of_two_kinds_is_refused_by_both_names() {
    let address = "<address type='pci' bus='3'/>";
    for (mode, inside, one, other) in [
        (
            "hostdev",
            "<interface dev='a'/><pf dev='b'/>",
            "interface",
            "pf",
        ),
        (
            "passthrough",
            &format!("{address}<pf dev='b'/>"),
            "address",
            "pf",
        ),
        (
            "hostdev",
            &format!("{address}<interface dev='a'/>"),
            "interface",
            "address",
        ),
    ] {
        let text =
            format!("<network><name>n</name><forward mode='{mode}'>{inside}</forward></network>");
        let error = Network::parse(&text).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Xml);
        let expected = format!("<forward> has both <{one}> and <{other}>");
        assert!(error.message.starts_with(&expected), "{error}");
    }
}

#[test]
fn what_a_running_network_shows_of_its_pf_is_read_as_that_pf() {
    let address = "<address type='pci' bus='3' virtnic:connections='1'/>";
    for (mode, found) in [
        ("hostdev", address),
        ("hostdev-hybrid", address),
        ("passthrough", "<interface dev='e1' connections='1'/>"),
        ("bridge", "<interface dev='e1'/>"),
    ] {
        let text = |found: &str| {
            format!(
                "<network><name>n</name><uuid>c7a5fdbd-edaf-9455-926a-d65c16db1809</uuid>\
                 <forward mode='{mode}' xmlns:virtnic='urn:virtnic:1'><pf dev='eth0'/>{found}\
                 </forward></network>"
            )
        };
        let again = Network::parse(&text(found)).unwrap();
        assert_eq!(again, Network::parse(&text("")).unwrap());
        let pfs = PoolMembers::PhysicalFunctions(vec!["eth0".to_owned()]);
        assert_eq!(again.forward.unwrap().members, pfs);
    }
}

#[test]
fn weakness_15_every_value_is_escaped() {
    let hard = "a&amp;&lt;&apos;&quot;&gt;";
    let network = network(&format!(
        "<title>{hard}</title><bridge name='{hard}'/><domain name='{hard}'/>\
         <dns><txt name='t' value='{hard}'/><host ip='10.0.0.1'><hostname>{hard}</hostname></host></dns>\
         <ip address='10.0.0.1' prefix='24'><tftp root='{hard}'/>\
         <dhcp><host name='{hard}' ip='10.0.0.9'/><bootp file='{hard}'/></dhcp></ip>\
         <portgroup name='{hard}'><virtualport type='802.1Qbh'>\
         <parameters profileid='{hard}'/></virtualport></portgroup>"
    ));
    let xml = network.to_xml(Form::Inactive);
    assert_eq!(lines(&xml, hard).len(), 10, "{xml}");
    assert_eq!(Network::parse(&xml), Ok(network));
}

#[test]
fn impossible_networks_are_refused_by_name() {
    let cases = [
        (
            "<forward mode='hostdev'/><mac address='52:54:00:00:00:01'/>",
            "mode 'hostdev' allows no <mac>",
        ),
        (
            "<forward mode='vepa'/><ip address='10.0.0.1'/>",
            "mode 'vepa' allows no <ip>",
        ),
        (
            "<forward mode='bridge'/><domain name='d'/>",
            "mode 'bridge' allows no <domain>",
        ),
        (
            "<forward mode='bridge'/><dns><host ip='10.0.0.1'><hostname>h</hostname></host></dns>",
            "mode 'bridge' allows no <host>",
        ),
        (
            "<forward mode='hostdev'/><bandwidth><inbound average='1'/></bandwidth>",
            "mode 'hostdev' allows no <bandwidth>",
        ),
        (
            "<forward mode='vepa'/><portgroup name='g'><bandwidth><inbound average='1'/>\
             </bandwidth></portgroup>",
            "mode 'vepa' allows no <bandwidth> in portgroup 'g'",
        ),
        (
            "<forward mode='hostdev' dev='eth0'/>",
            "mode 'hostdev' lends PCI devices: name 'eth0' by its <address>, or its PF as <pf>",
        ),
        (
            "<forward mode='passthrough'><address type='pci' bus='3'/></forward>",
            "mode 'passthrough' lends network devices: name them by <interface>, not by <address>",
        ),
        (
            "<portgroup name='g'/><portgroup name='g'/>",
            "portgroup 'g' is there twice",
        ),
        (
            "<portgroup name='g' default='yes'/><portgroup name='h' default='yes'/>",
            "portgroups 'g' and 'h' are both the default",
        ),
        (
            "<vlan><tag id='1'/></vlan>",
            "mode 'none' can't set a <vlan>",
        ),
        (
            "<forward mode='vepa'/><portgroup name='g'><vlan><tag id='1'/></vlan></portgroup>",
            "mode 'vepa' can't set the <vlan> of portgroup 'g'",
        ),
        (
            "<forward mode='passthrough'/><vlan><tag id='1'/></vlan><portgroup name='g'>\
             <virtualport type='802.1Qbh'><parameters profileid='p'/></virtualport></portgroup>",
            "mode 'passthrough' can't set the <vlan> of portgroup 'g'",
        ),
        (
            "<ip address='10.0.0.1' prefix='24'><dhcp><range start='10.0.0.2' end='10.0.0.3'/>\
             </dhcp></ip><ip address='10.1.0.1' prefix='24'><dhcp>\
             <host name='h' ip='10.1.0.2'/></dhcp></ip>",
            "more than one IPv4 <ip> has a <dhcp>",
        ),
        (
            "<ip address='10.0.0.1' prefix='24'/><route address='10.9.0.0' prefix='16' \
             gateway='10.8.0.1'/>",
            "the gateway 10.8.0.1 of the <route> to 10.9.0.0 is in none of its <ip> networks",
        ),
    ];
    for (inside, expected) in cases {
        let error = network(inside).validate().unwrap_err();
        assert_eq!(error.kind, conf::ErrorKind::ConfigUnsupported, "{inside}");
        assert_eq!(
            error.message,
            format!("network 'n': {expected}"),
            "{inside}"
        );
        let path = error.path.unwrap();
        assert!(path.starts_with("/network/"), "{inside}: {path}");
        assert!(error.position.unwrap() > (1, 1), "{inside}");
    }
}

#[test]
fn all_that_a_forward_mode_forbids_is_told_with_its_place() {
    let text = "<network xmlns:virtnic='urn:virtnic:1'><name>n</name>\n<forward mode='hostdev'/>\n\
                <domain name='d'/>\n<ip address='10.0.0.1'/>\n<bandwidth><inbound average='1'/>\
                </bandwidth>\n<portgroup name='g'/><portgroup name='g'/>\n\
                <virtnic:direct host-access='yes'/>\n</network>";
    let told = Network::parse(text).unwrap().validate().unwrap_err();
    let told = told.to_string();
    for place in [
        "/network/domain, line 3, column 1",
        "/network/ip, line 4, column 1",
        "/network/bandwidth, line 5, column 1",
        "/network/portgroup, line 6, column 22",
        "/network/virtnic:direct, line 7, column 1",
    ] {
        assert!(told.contains(place), "no {place} in {told}");
    }
    // What was changed since has no place any more.
    let network = Network::parse("<network><name>n</name></network>").unwrap();
    let (xml, section) = (
        "<portgroup name='g'><vlan><tag id='1'/></vlan></portgroup>",
        9,
    );
    let change = conf::NetworkUpdate {
        command: conf::UpdateCommand::AddLast,
        section: conf::UpdateSection::from_number(section).unwrap(),
        parent: None,
        xml,
    };
    assert_eq!(network.update(&change, None).unwrap_err().position, None);
}

#[test]
fn a_name_is_one_line_with_something_in_it() {
    for (name, fault) in [
        ("a&#10;b", r#""a\nb" contains a line feed"#),
        ("  ", r#""  " is blank"#),
        ("&#9;", r#""\t" is blank"#),
    ] {
        let text = format!("<network><name>{name}</name></network>");
        let error = Network::parse(&text).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Xml);
        assert_eq!(error.message, format!("the network's name {fault}"));
    }
}

#[test]
fn possible_networks_pass() {
    for inside in [
        "<forward mode='hostdev'><pf dev='a'/><pf dev='b'/></forward><vlan><tag id='1'/></vlan>",
        "<forward mode='bridge'/><bridge name='br0'/><bandwidth><inbound average='1'/></bandwidth>",
        "<forward mode='bridge'/><bridge name='br0'/><vlan><tag id='1'/></vlan>\
         <virtualport type='openvswitch'/>",
        "<ip address='10.0.0.1' prefix='24'/><route address='10.9.0.0' prefix='16' \
         gateway='10.0.0.9'/>",
    ] {
        assert_eq!(network(inside).validate(), Ok(()), "{inside}");
    }
}

#[test]
fn a_bridge_of_its_own_gets_a_free_name_and_a_mac() {
    let taken = |name: &str| ["virbr0", "virbr1", "br-0-%d"].contains(&name);
    let mut plain = network("");
    plain.fill_defaults(taken).unwrap();
    let name = |network: &Network| network.ip.bridge.clone().unwrap().name.unwrap();
    assert_eq!(name(&plain), "virbr2");
    assert!(plain.ip.mac.unwrap().to_string().starts_with("52:54:00:"));

    let mut pattern = network("<bridge name='br-%d-%d'/><mac address='52:54:00:00:00:01'/>");
    pattern.fill_defaults(taken).unwrap();
    assert_eq!(name(&pattern), "br-1-%d");
    assert_eq!(pattern.ip.mac.unwrap().to_string(), "52:54:00:00:00:01");

    let error = network("").fill_defaults(|_| true).unwrap_err();
    assert_eq!(
        error.to_string(),
        "network 'n': all bridge names of the pattern 'virbr%d' are taken"
    );

    let mut pool = network("<forward mode='hostdev'/>");
    let before = pool.clone();
    pool.fill_defaults(|_| true).unwrap();
    assert_eq!(pool, before);
}

#[test]
fn all_faults_of_a_document_are_told_the_first_in_its_class() {
    let error = Network::parse(
        "<network><name>n</name><uuid>x</uuid>\n<forward mode='x'/>\n<ip address='y'/></network>",
    )
    .unwrap_err();
    let told = error.to_string();
    let places = [
        "/network/uuid",
        "/network/ip/@address, line 3",
        "/network/forward/@mode, line 2",
    ];
    let found: Vec<_> = places.iter().filter_map(|place| told.find(place)).collect();
    assert_eq!(found.len(), 3, "{told}");
    assert!(found.is_sorted(), "{told}");
    assert_eq!((error.kind, error.also.len()), (ErrorKind::Internal, 2));
    assert_eq!(error.also[1].kind, ErrorKind::ConfigUnsupported);
}

#[test]
fn all_faults_of_one_element_are_told() {
    let inside = [
        "<forward mode='hostdev' managed='ja'><address type='pci' bus='300' slot='40' function='9'/>\
         <address type='usb'/><driver name='x'/></forward>",
        "<forward mode='hostdv'><pf/><pf dev='a'><virtnic:vfs count='0'/></pf><nat/></forward>",
        "<virtnic:pool spread='x' numa='x' carrier='x' colour='red'/>",
        "<virtnic:vf trust='yes' rate='10Gbit' min-rate='-1' qos='8' protocol='802.1x'/>",
        "<virtnic:direct modes='x' host-access='x'/>",
        "<portgroup default='yes' trustGuestRxFilters='x'><vlan><tag id='5000' nativeMode='x'/>\
         <tag/></vlan><virtnic:vf link='x'/></portgroup>",
        "<bandwidth><inbound average='x' peak='x'/><outbound/></bandwidth>",
        "<ip family='x' address='x' localPtr='x'/><route address='x' metric='0'/>",
        "<forward mode='hostdev'/><bridge name='b' stp='on' delay='1'/><mtu size='9000'/>",
        "<dns enable='x'><txt/><host ip='x'/></dns>",
    ];
    let faults = [6, 3, 4, 5, 2, 6, 3, 6, 4, 3];
    for (inside, faults) in inside.into_iter().zip(faults) {
        let text =
            format!("<network xmlns:virtnic='urn:virtnic:1'><name>n</name>{inside}</network>");
        let error = Network::parse(&text).unwrap_err();
        assert_eq!(error.also.len() + 1, faults, "{error}");
        let all = std::iter::once(&error).chain(&error.also);
        assert!(
            all.clone()
                .all(|e| e.position.is_some() && e.path.is_some()),
            "{error}"
        );
        let mut told: Vec<_> = all.map(|error| &error.message).collect();
        told.sort();
        told.dedup();
        assert_eq!(told.len(), faults, "the same twice: {error}");
    }
}

#[test]
fn a_networks_managed_is_yes_or_no_in_any_case() {
    for (word, managed) in [
        ("yes", true),
        ("YES", true),
        ("no", false),
        ("No", false),
        ("", false),
    ] {
        let network = network(&format!("<forward mode='hostdev' managed='{word}'/>"));
        assert_eq!(network.forward.unwrap().managed, managed, "{word}");
    }
    let text = "<network><name>n</name><forward mode='hostdev' managed='ja'/></network>";
    let error = Network::parse(text).unwrap_err();
    assert_eq!(
        error.message,
        "managed='ja' on <forward>: expected yes or no"
    );
}

/// Otherwise a wrong number in the namespace would lose what a VF may not do.
#[test]
fn what_only_looks_like_ours_is_refused_by_name() {
    let refused = |outer: &str, inside: &str| {
        let text = format!("<network {outer}><name>n</name>{inside}</network>");
        Network::parse(&text).map_err(|error| error.to_string())
    };
    for (outer, inside, name, write) in [
        (
            "xmlns:virtnic='urn:virtnic:2'",
            "<virtnic:vf/>",
            "virtnic:vf",
            "xmlns:virtnic=",
        ),
        (
            "xmlns:v='urn:virtnic:one'",
            "<portgroup name='g'><v:vf/></portgroup>",
            "v:vf",
            "xmlns:v=",
        ),
        (
            "xmlns:virtnic='http://example.org'",
            "<virtnic:pool/>",
            "virtnic:pool",
            "xmlns:virtnic=",
        ),
        ("", "<vf xmlns='urn:virtnic:'/>", "vf", "xmlns="),
    ] {
        let error = refused(outer, inside).unwrap_err();
        let start = format!("<{name}> is of the namespace '");
        assert!(error.starts_with(&start), "{error}");
        assert!(
            error.contains(&format!("write {write}'urn:virtnic:1' (/network/")),
            "{error}"
        );
    }
    // Other programs' elements, and whatever they keep.
    for (outer, inside) in [
        (
            "xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'",
            "<qemu:vf/>",
        ),
        (
            "xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'",
            "<dnsmasq:options/>",
        ),
        (
            "xmlns:virtnic='urn:virtnic:2'",
            "<metadata><virtnic:vf/></metadata>",
        ),
        ("xmlns:virtnic='urn:virtnic:2'", ""),
    ] {
        assert!(refused(outer, inside).is_ok(), "{inside}");
    }
    let guest = "<domain type='kvm' xmlns:virtnic='urn:virtnic:2'><name>g</name><memory>1</memory><os>\
                 <type>hvm</type></os><devices><interface type='user'><virtnic:vf/></interface>\
                 </devices></domain>";
    let error = conf::Domain::parse(guest).unwrap_err().to_string();
    assert!(
        error.contains("<virtnic:vf> is of the namespace 'urn:virtnic:2'"),
        "{error}"
    );
}

#[test]
fn a_networks_name_must_be_fit_for_a_file() {
    for name in [".", "..", "a/b", "a\nb", " ", "", &"n".repeat(241)] {
        let text = format!("<network><name>{name}</name></network>");
        assert!(Network::parse(&text).is_err(), "{name:?}");
    }
}

/// What is in virtnic's own namespace does something, or is refused where it stands.
#[test]
fn what_is_ours_and_stands_where_nobody_reads_it_is_refused() {
    let network = |inside: &str| {
        let text = format!(
            "<network xmlns:virtnic='urn:virtnic:1'>\n<name>n</name>\n{inside}\n</network>"
        );
        Network::parse(&text).unwrap_err().to_string()
    };
    let forward = "<forward mode='hostdev'>";
    for (inside, expected) in [
        (
            "<portgroup name='g'><virtnic:pool spread='pack'/></portgroup>".to_owned(),
            "<virtnic:pool> is not known here; expected virtnic:vf \
             (/network/portgroup/virtnic:pool, line 3, column 21)",
        ),
        (
            "<portgroup name='g'><virtnic:vf/><virtnic:vf rate='3'/></portgroup>".to_owned(),
            "<virtnic:vf> is there twice (/network/portgroup/virtnic:vf, line 3, column 34)",
        ),
        (
            format!("{forward}<pf dev='e'/><virtnic:vf/></forward>"),
            "<virtnic:vf> is not known here; it belongs in <network>, <portgroup> or <interface> \
             (/network/forward/virtnic:vf, line 3, column 38)",
        ),
        (
            format!(
                "{forward}<pf dev='e'><virtnic:vfs count='1'/><virtnic:vfs count='2'/></pf></forward>"
            ),
            "<virtnic:vfs> is there twice (/network/forward/pf/virtnic:vfs, line 3, column 61)",
        ),
        (
            format!("{forward}<virtnic:foo/><pf dev='e' virtnic:foo='1'/></forward>"),
            "<virtnic:foo> is not known here (/network/forward/virtnic:foo, line 3, column 25); \
             also: <pf> has no attribute 'virtnic:foo' (/network/forward/pf/@virtnic:foo, line 3, \
             column 51)",
        ),
        (
            "<virtnic:vf><rate/></virtnic:vf>".to_owned(),
            "<rate> is not known in <virtnic:vf> (/network/virtnic:vf/rate, line 3, column 13)",
        ),
        (
            "<bridge xmlns:virtnic='urn:virtnic:2' virtnic:zone='z'/>".to_owned(),
            "'virtnic:zone' on <bridge> is of the namespace 'urn:virtnic:2', which is not read; \
             write xmlns:virtnic='urn:virtnic:1' (/network/bridge, line 3, column 39)",
        ),
    ] {
        assert_eq!(network(&inside), expected, "{inside}");
    }
    let error = Network::parse(
        "<network xmlns:virtnic='urn:virtnic:1' virtnic:a='1'><metadata virtnic:b='1'><virtnic:c/>\
         </metadata><virtnic:d/></network>",
    );
    assert_eq!(
        error.unwrap_err().to_string(),
        "<network> needs a <name> (/network, line 1, column 1); also: <network> has no attribute \
         'virtnic:a' (/network/@virtnic:a, line 1, column 40); also: <virtnic:d> is not known here; \
         expected virtnic:pool, virtnic:vf, virtnic:direct or virtnic:hybrid (/network/virtnic:d, line 1, column 101)"
    );
}

#[test]
fn all_faults_of_profiles_addresses_and_leases_are_told() {
    let told = |inside: &str| {
        let error = Network::parse(&format!("<network><name>n</name>{inside}</network>"));
        let error = error.unwrap_err();
        let all = std::iter::once(&error).chain(&error.also);
        let places = all.map(|error| error.path.clone().unwrap_or_default());
        let places = places.map(|path| path.replace("/network/", ""));
        places.collect::<Vec<_>>().join(" ")
    };
    for (inside, expected) in [
        (
            "<virtualport type='802.1Qbq'><parameters managerid='300' typeid='0xfffffff' \
             typeidversion='x' instanceid='zz'/></virtualport><portgroup name='g' default='maybe'/>",
            "virtualport/@type virtualport/parameters/@managerid virtualport/parameters/@typeid \
             virtualport/parameters/@typeidversion virtualport/parameters/@instanceid \
             portgroup/@default",
        ),
        (
            "<ip address='10.0.0.300' netmask='255.0.255.0'><dhcp><range start='x' end='y'>\
             <lease expiry='z' unit='w'/></range><host mac='1' name='_' ip='i'/>\
             <bootp server='s'/></dhcp></ip>",
            "ip/@address ip/@netmask ip/dhcp/range/@start ip/dhcp/range/@end \
             ip/dhcp/range/lease/@expiry ip/dhcp/range/lease/@unit ip/dhcp/host/@mac \
             ip/dhcp/host/@name ip/dhcp/host/@ip ip/dhcp/bootp ip/dhcp/bootp/@server",
        ),
        (
            "<ip address='10.0.0.1' prefix='99' netmask='n'/><route family='ipv5' address='a' \
             prefix='129' gateway='g'/>",
            "ip/@prefix ip/@netmask route/@family route/@address route/@gateway route/@prefix",
        ),
        // Whether an address is in a network that could not be read is not judged.
        (
            "<ip address='10.0.0.1' prefix='x'><dhcp><range start='10.9.0.1' end='10.9.0.2'/></dhcp>\
             </ip>",
            "ip/@prefix",
        ),
        (
            "<forward><nat><address start='x' end='y'/><port start='99999' end='x'/></nat></forward>\
             <vlan trunk='maybe'><tag id='x'/></vlan>",
            "vlan/tag/@id vlan/@trunk forward/nat/address/@start forward/nat/address/@end \
             forward/nat/port/@start forward/nat/port/@end",
        ),
        (
            "<dns><srv target='t' port='0' priority='x' weight='y'/></dns>",
            "dns/srv/@port dns/srv/@priority dns/srv/@weight dns/srv dns/srv",
        ),
    ] {
        assert_eq!(told(inside), expected, "{inside}");
    }
    let port = conf::NetworkPort::parse(
        "<networkport><uuid>zz</uuid><owner><uuid>y</uuid></owner><mac address='x'/><vlan/>\
         <port isolated='w'/><plug type='v'/></networkport>",
    );
    let error = port.unwrap_err();
    assert!(error.message.starts_with("'zz' is no UUID"), "{error}");
    assert_eq!(error.also.len(), 6, "{error}");
}
