//! What is written is read back as it was.

#![expect(clippy::unwrap_used, reason = "a test may fail by it")]

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::LazyLock;

use conf::*;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

/// Texts with all that must be escaped; never empty, which XML can't tell from absent.
fn text() -> impl Strategy<Value = String> {
    "[a-z<>&'\" é\t]{0,6}[a-z]"
}

fn name() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9.]{0,8}"
}

fn names() -> impl Strategy<Value = Vec<String>> {
    vec(name(), 1..4).prop_map(|mut names| {
        names.sort();
        names.dedup();
        names
    })
}

fn pci() -> impl Strategy<Value = PciAddress> {
    (any::<u32>(), any::<u8>(), 0_u8..32, 0_u8..8).prop_map(|(domain, bus, slot, function)| {
        PciAddress::new(domain, bus, slot, function).unwrap()
    })
}

fn uuid() -> impl Strategy<Value = Uuid> {
    // Not sixteen equal bytes.
    (1_u128..=u128::MAX >> 8).prop_map(Uuid::from_u128)
}

fn mac() -> impl Strategy<Value = MacAddress> {
    any::<[u8; 6]>().prop_map(|mut bytes| {
        bytes[0] &= 0xfe;
        MacAddress::new(bytes)
    })
}

fn vlan() -> impl Strategy<Value = Vlan> {
    let modes = || select(vec![NativeMode::Tagged, NativeMode::Untagged]);
    (any::<bool>(), vec(0_u16..4096, 1..4), of(modes())).prop_map(|(trunk, ids, native)| Vlan {
        trunk: trunk || ids.len() > 1,
        tags: ids
            .iter()
            .enumerate()
            .map(|(index, &id)| VlanTag {
                id,
                native: native.filter(|_| index == 0),
            })
            .collect(),
    })
}

fn rate(floor: bool) -> impl Strategy<Value = Rate> {
    let most = 1_u64 << 54;
    (1..=most, of(1..=most), of(1..=most), of(1..4_194_304_u64)).prop_map(
        move |(average, peak, least, burst)| Rate {
            average: Some(average),
            peak,
            floor: least.filter(|_| floor),
            burst,
        },
    )
}

fn bandwidth(floor: bool) -> impl Strategy<Value = Bandwidth> {
    (rate(floor), of(rate(false))).prop_map(|(inbound, outbound)| Bandwidth {
        inbound: Some(inbound),
        outbound,
    })
}

fn virtual_port() -> impl Strategy<Value = VirtualPort> {
    let qbg = (any::<u8>(), 0_u32..0x100_0000, any::<u8>(), of(uuid())).prop_map(
        |(manager, type_id, version, instance)| VirtualPort {
            kind: Some(VirtualPortKind::Qbg),
            manager_id: Some(manager),
            type_id: Some(type_id),
            type_id_version: Some(version),
            instance_id: instance,
            ..VirtualPort::default()
        },
    );
    let qbh = name().prop_map(|profile| VirtualPort {
        kind: Some(VirtualPortKind::Qbh),
        profile_id: Some(profile),
        ..VirtualPort::default()
    });
    let open = (of(uuid()), of(text())).prop_map(|(interface_id, profile_id)| VirtualPort {
        kind: Some(VirtualPortKind::OpenVSwitch),
        interface_id,
        profile_id,
        ..VirtualPort::default()
    });
    prop_oneof![qbg, qbh, open]
}

fn driver() -> impl Strategy<Value = HostDriver> {
    (of(Just(HostBackend::Vfio)), text()).prop_map(|(backend, model)| HostDriver {
        backend,
        model: Some(model),
    })
}

fn flag() -> impl Strategy<Value = Option<bool>> {
    of(any::<bool>())
}

fn vf() -> impl Strategy<Value = VfSettings> {
    let link = of(select(vec![VfLink::Auto, VfLink::On, VfLink::Off]));
    let protocol = of(select(vec![VlanProtocol::Dot1q, VlanProtocol::Dot1ad]));
    (
        (flag(), flag(), flag()),
        link,
        (of(0_u32..9), of(9_u32..)),
        (of(0_u8..8), protocol),
    )
        .prop_map(|(switches, link, rates, vlan)| VfSettings {
            trust: switches.0,
            spoof_check: switches.1,
            rss_query: switches.2,
            link,
            min_rate: rates.0,
            max_rate: rates.1,
            qos: vlan.0,
            protocol: vlan.1,
        })
}

fn pool() -> impl Strategy<Value = Forward> {
    let modes = select(vec![
        ForwardMode::Private,
        ForwardMode::Vepa,
        ForwardMode::Passthrough,
        ForwardMode::Hostdev,
        ForwardMode::HostdevHybrid,
        ForwardMode::Bridge,
    ]);
    let members = prop_oneof![
        Just(PoolMembers::None),
        names().prop_map(PoolMembers::PhysicalFunctions),
        names().prop_map(PoolMembers::Interfaces),
        vec(pci(), 1..4).prop_map(|mut addresses| {
            addresses.sort();
            addresses.dedup();
            PoolMembers::Addresses(addresses)
        }),
    ];
    (modes, any::<bool>(), of(driver()), members).prop_map(|(mode, managed, driver, members)| {
        Forward {
            managed: managed && matches!(mode, ForwardMode::Hostdev | ForwardMode::HostdevHybrid),
            mode,
            driver,
            nat: None,
            members,
        }
    })
}

fn ip_network() -> impl Strategy<Value = IpNetwork> {
    let v4 = (1_u8..224, of(1_u8..33)).prop_map(|(first, prefix)| IpNetwork {
        family: None,
        address: Some(IpAddr::V4(Ipv4Addr::new(first, 2, 3, 4))),
        mask: prefix.map(|prefix| match prefix {
            24 => IpMask::Netmask(Ipv4Addr::new(255, 255, 255, 0)),
            prefix => IpMask::Prefix(prefix),
        }),
        ..IpNetwork::default()
    });
    let v6 =
        (any::<u128>(), 1_u8..129, flag()).prop_map(|(address, prefix, local_ptr)| IpNetwork {
            family: Some(IpFamily::Ipv6),
            address: Some(IpAddr::V6(Ipv6Addr::from_bits(address))),
            mask: Some(IpMask::Prefix(prefix)),
            local_ptr,
            ..IpNetwork::default()
        });
    (prop_oneof![v4, v6], of(text())).prop_map(|(network, tftp_root)| IpNetwork {
        tftp_root: tftp_root.filter(|_| network.family.is_none()),
        ..network
    })
}

fn dns() -> impl Strategy<Value = Dns> {
    let service =
        (name(), text(), of(1_u16..), of(1_u16..)).prop_map(|(service, target, port, weight)| {
            DnsService {
                service,
                protocol: "tcp".to_owned(),
                domain: None,
                target: Some(target),
                port,
                priority: None,
                weight,
            }
        });
    let host = vec(text(), 1..3).prop_map(|names| DnsHost {
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        names,
    });
    let record = (name(), text()).prop_map(|(name, value)| DnsText { name, value });
    (
        flag(),
        vec(record, 0..2),
        vec(service, 0..2),
        vec(host, 0..2),
    )
        .prop_map(|(forward_plain_names, texts, services, hosts)| Dns {
            enable: None,
            forward_plain_names,
            forwarders: Vec::new(),
            texts,
            services,
            hosts,
        })
}

fn port_group() -> impl Strategy<Value = PortGroup> {
    (
        any::<bool>(),
        flag(),
        of(vlan()),
        of(virtual_port()),
        of(bandwidth(false)),
        of(vf()),
    )
        .prop_flat_map(|(is_default, trust, vlan, virtual_port, bandwidth, vf)| {
            text().prop_map(move |name| PortGroup {
                name,
                is_default,
                trust_guest_rx_filters: trust,
                vlan: vlan.clone(),
                virtual_port: virtual_port.clone(),
                bandwidth: bandwidth.clone(),
                // One that says nothing is not written.
                vf: vf.filter(|vf| *vf != VfSettings::default()),
            })
        })
}

fn extension() -> impl Strategy<Value = NetworkExtension> {
    let spread = select(vec![Spread::Balance, Spread::Pack]);
    let numa = select(vec![
        NumaPolicy::Ignore,
        NumaPolicy::Prefer,
        NumaPolicy::Require,
    ]);
    let modes = of(select(vec![
        vec![DirectMode::Vepa],
        vec![DirectMode::Bridge, DirectMode::Private],
        vec![DirectMode::Passthrough],
    ]));
    let hybrid = (
        of(select(vec![HybridGuest::Failover, HybridGuest::Bond])),
        of(select(vec![HybridFallback::None, HybridFallback::Virtio])),
    );
    let hybrid = hybrid.prop_map(|(guest, fallback)| HybridSettings { guest, fallback });
    let lend = of(select(vec![PoolLend::Pf, PoolLend::Vfs]));
    let ours = (
        spread,
        numa,
        any::<bool>(),
        vf(),
        modes,
        any::<bool>(),
        hybrid,
        lend,
    );
    ours.prop_map(
        |(spread, numa, needs_carrier, vf, direct_modes, host_access, hybrid, lend)| {
            NetworkExtension {
                spread,
                numa,
                needs_carrier,
                vf,
                direct_modes,
                host_access,
                hybrid,
                lend,
                vfs: Vec::new(),
            }
        },
    )
}

/// How many VFs some of the pool's PFs are to have.
fn vf_counts(members: Option<&PoolMembers>, count: Option<u32>) -> Vec<PfVfs> {
    match (members, count) {
        (Some(PoolMembers::PhysicalFunctions(names)), Some(count)) => vec![PfVfs {
            pf: names[0].clone(),
            count,
        }],
        _ => Vec::new(),
    }
}

fn network() -> impl Strategy<Value = Network> {
    let words = (text(), uuid(), of(text()), of(text()));
    let settings = (
        flag(),
        flag(),
        of(vlan()),
        of(virtual_port()),
        of(bandwidth(false)),
    );
    let extension = (extension(), of(1_u32..=65_535));
    let ip = (
        any::<bool>(),
        of(1_u32..),
        of(mac()),
        dns(),
        vec(ip_network(), 0..3),
        vec(text(), 0..3),
    );
    (
        words,
        of(pool()),
        settings,
        vec(port_group(), 0..3),
        extension,
        ip,
    )
        .prop_map(|(words, forward, settings, port_groups, extension, ip)| {
            let own = forward.is_none();
            let members = forward.as_ref().map(|forward| &forward.members);
            let vfs = vf_counts(members, extension.1);
            Network {
                name: words.0,
                uuid: words.1,
                title: words.2,
                description: words.3,
                metadata: None,
                forward,
                isolated_ports: settings.0,
                trust_guest_rx_filters: settings.1,
                vlan: settings.2,
                virtual_port: settings.3,
                bandwidth: settings.4,
                port_groups,
                ip: IpSettings {
                    ipv6: ip.0,
                    bridge: own.then(NetworkBridge::default),
                    mtu: ip.1.filter(|_| own),
                    mac: ip.2,
                    domain: None,
                    dns: ip.3,
                    addresses: ip.4,
                    routes: Vec::new(),
                    dnsmasq_options: ip.5,
                },
                places: conf::Places::default(),
                extension: NetworkExtension { vfs, ..extension.0 },
            }
        })
}

fn plug() -> impl Strategy<Value = Plug> {
    let modes = || {
        select(vec![
            DirectMode::Vepa,
            DirectMode::Private,
            DirectMode::Bridge,
            DirectMode::Passthrough,
        ])
    };
    let managers = || {
        of(select(vec![
            MacTableManager::Kernel,
            MacTableManager::Libvirt,
        ]))
    };
    prop_oneof![
        (text(), managers()).prop_map(|(bridge, mac_table_manager)| Plug::Network {
            bridge,
            mac_table_manager
        }),
        (text(), managers()).prop_map(|(bridge, mac_table_manager)| Plug::Bridge {
            bridge,
            mac_table_manager
        }),
        (text(), modes()).prop_map(|(dev, mode)| Plug::Direct { dev, mode }),
        (any::<bool>(), of(driver()), pci()).prop_map(|(managed, driver, address)| {
            Plug::HostdevPci {
                managed,
                driver,
                address,
            }
        }),
    ]
}

fn port() -> impl Strategy<Value = NetworkPort> {
    let owner = (uuid(), text(), uuid(), of(text()), mac());
    let settings = (
        of(virtual_port()),
        of(bandwidth(true)),
        of(1_u32..),
        of(vlan()),
    );
    (owner, settings, flag(), flag(), of(plug())).prop_map(
        |(owner, settings, isolated, trust_guest_rx_filters, plug)| NetworkPort {
            uuid: owner.0,
            owner_name: owner.1,
            owner_uuid: owner.2,
            group: owner.3,
            mac: owner.4,
            virtual_port: settings.0,
            class_id: settings.2.filter(|_| settings.1.is_some()),
            bandwidth: settings.1,
            vlan: settings.3,
            isolated,
            trust_guest_rx_filters,
            plug,
        },
    )
}

fn device() -> impl Strategy<Value = NodeDevice> {
    let names = || (any::<u16>(), of(text())).prop_map(|(id, name)| PciName { id, name });
    let sriov = prop_oneof![
        Just(NodeSriov::None),
        pci().prop_map(NodeSriov::VirtualFunctionOf),
        (vec(pci(), 0..3), any::<u32>())
            .prop_map(|(vfs, max)| NodeSriov::PhysicalFunction { vfs, max }),
    ];
    let link = || {
        (
            of(any::<u32>()),
            of(Just(PciLinkSpeed::Gt2_5)),
            any::<u32>(),
        )
            .prop_map(|(port, speed, width)| PciExpressLink { port, speed, width })
    };
    let express =
        (of(link()), of(link())).prop_map(|(capable, status)| PciExpress { capable, status });
    let group = (any::<u32>(), vec(pci(), 0..3))
        .prop_map(|(number, members)| NodeIommuGroup { number, members });
    let pci = (
        of(0_u32..0x100_0000),
        pci(),
        (names(), names()),
        sriov,
        of(group),
        of(any::<u32>()),
        of(express),
    )
        .prop_map(
            |(class, address, names, sriov, iommu_group, numa_node, express)| {
                NodeCapability::Pci(PciCapability {
                    class,
                    address,
                    product: names.0,
                    vendor: names.1,
                    sriov,
                    other: Vec::new(),
                    iommu_group,
                    numa_node,
                    express,
                })
            },
        );
    let net = (name(), of(text()), of(any::<u32>()), vec(name(), 0..3)).prop_map(
        |(interface, address, speed, features)| {
            NodeCapability::Net(NetCapability {
                interface,
                address,
                link: NetLink {
                    speed,
                    state: Some(InterfaceState::LowerLayerDown),
                },
                features,
                kind: Some(NetKind::Wired),
            })
        },
    );
    (
        name(),
        of(text()),
        vec(text(), 0..2),
        of(name()),
        of(name()),
        prop_oneof![pci, net],
    )
        .prop_map(
            |(name, path, links, parent, driver, capability)| NodeDevice {
                name,
                devnode: path.clone(),
                path,
                devnode_links: links,
                parent,
                driver,
                capabilities: vec![capability],
            },
        )
}

/// What a running network of that definition could have.
fn status(network: &Network, counts: &[u32], found: &[PciAddress]) -> NetworkStatus {
    let forward = network.forward.as_ref();
    let devices: Vec<PoolDevice> = match forward.map(|forward| &forward.members) {
        Some(PoolMembers::Interfaces(names)) => {
            names.iter().cloned().map(PoolDevice::Interface).collect()
        }
        Some(PoolMembers::Addresses(addresses)) => {
            addresses.iter().copied().map(PoolDevice::Address).collect()
        }
        Some(PoolMembers::PhysicalFunctions(_)) => {
            let found = found.iter().map(|&vf| match forward.unwrap().mode {
                ForwardMode::Hostdev | ForwardMode::HostdevHybrid => PoolDevice::Address(vf),
                _ => PoolDevice::Interface(format!("e{}", vf.slot())),
            });
            found.collect()
        }
        _ => Vec::new(),
    };
    let devices = devices.into_iter().zip(counts);
    NetworkStatus {
        connections: counts[0],
        devices: devices
            .map(|(device, &connections)| DeviceStatus {
                device,
                connections,
            })
            .collect(),
    }
}

proptest! {
    /// What is shown of a running network defines the same network again.
    #[test]
    fn running_networks(
        network in network(),
        counts in vec(0_u32..3, 4),
        found in vec(pci(), 0..4),
    ) {
        let mut found = found;
        found.sort_by_key(|vf| vf.slot());
        found.dedup_by_key(|vf| vf.slot());
        let xml = network.to_xml_live(&status(&network, &counts, &found));
        prop_assert_eq!(Network::parse(&xml), Ok(network), "{}", xml);
        prop_assert_eq!(conf::grammar::unread(&xml), Ok(Vec::new()), "{}", xml);
    }

    #[test]
    fn networks(network in network()) {
        let xml = network.to_xml(Form::Inactive);
        let again = Network::parse(&xml);
        prop_assert_eq!(again.as_ref(), Ok(&network), "{}", xml);
        prop_assert_eq!(network.to_xml(Form::Live), &*xml);
        prop_assert_eq!(conf::grammar::unread(&xml), Ok(Vec::new()), "{}", xml);
    }

    #[test]
    fn network_ports(port in port()) {
        let xml = port.to_xml();
        prop_assert_eq!(NetworkPort::parse(&xml), Ok(port), "{}", xml);
        prop_assert_eq!(conf::grammar::unread(&xml), Ok(Vec::new()), "{}", xml);
    }

    #[test]
    fn node_devices(device in device()) {
        let xml = device.to_xml();
        prop_assert_eq!(NodeDevice::parse(&xml), Ok(device), "{}", xml);
        prop_assert_eq!(conf::grammar::unread(&xml), Ok(Vec::new()), "{}", xml);
    }

    /// Whatever becomes of a document, there is an answer; and what is read is written so that it
    /// reads alike.
    #[test]
    fn damaged_documents_have_an_answer(
        case in any::<prop::sample::Index>(),
        from in any::<prop::sample::Index>(),
        to in any::<prop::sample::Index>(),
        instead in "[a-z<>/='&;0-9 ]{0,3}",
    ) {
        let case = case.get(&CASES[..]);
        let offset = |index: &prop::sample::Index| {
            let offset = index.index(case.len());
            (0..=offset).rev().find(|&at| case.is_char_boundary(at)).unwrap()
        };
        let (one, other) = (offset(&from), offset(&to));
        // Short damage mostly, so that some of it goes unnoticed.
        let (start, end) = (one.min(other), one.max(other).min(one.min(other) + 30));
        let end = (end..=case.len()).find(|&at| case.is_char_boundary(at)).unwrap();
        let damaged = format!("{}{instead}{}", &case[..start], &case[end..]);
        if let Ok(network) = Network::parse(&damaged) {
            let xml = network.to_xml(Form::Inactive);
            prop_assert_eq!(Network::parse(&xml), Ok(network), "{}", xml);
        }
        if let Ok(port) = NetworkPort::parse(&damaged) {
            prop_assert_eq!(NetworkPort::parse(&port.to_xml()), Ok(port));
        }
        if let Ok(device) = NodeDevice::parse(&damaged) {
            prop_assert_eq!(NodeDevice::parse(&device.to_xml()), Ok(device));
        }
    }
}

/// Every document of the corpus that these nouns read.
static CASES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    ["network", "networkport", "nodedev", "own"]
        .iter()
        .flat_map(|folder| fs::read_dir(corpus.join(folder)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "xml"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect()
});
