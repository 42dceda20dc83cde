//! What a port gets from the interface that asks, its port group and its network.

use crate::xml::Keyword;
use crate::{
    Error, ErrorKind, ForwardMode, Network, NetworkPort, PortGroup, VfSettings, VirtualPort,
    VirtualPortKind,
};

/// Fills a request for a port from its network: VLANs, profile, shaping, isolation and trust, each
/// from the nearest that has it. A port that has its plug already was merged when it was made, and
/// stays as it is.
///
/// # Errors
/// A port group that the network does not have, profiles that contradict each other or that the
/// network's mode can't carry, a guaranteed rate where none can be given.
pub fn merge_port(mut wanted: NetworkPort, network: &Network) -> Result<NetworkPort, Error> {
    if wanted.plug.is_some() {
        return Ok(wanted);
    }
    let group = network.wanted_port_group(wanted.group.as_deref())?;
    wanted.virtual_port = merge_virtual_port(
        wanted.virtual_port.as_ref(),
        network.virtual_port.as_ref(),
        group.and_then(|group| group.virtual_port.as_ref()),
    )?;
    if let Some(port) = &wanted.virtual_port {
        check_virtual_port(port, network)?;
    }
    if let Some(group) = group {
        wanted.bandwidth = wanted.bandwidth.or_else(|| group.bandwidth.clone());
        wanted.vlan = wanted.vlan.or_else(|| group.vlan.clone());
        wanted.trust_guest_rx_filters = wanted
            .trust_guest_rx_filters
            .or(group.trust_guest_rx_filters);
    }
    wanted.vlan = wanted.vlan.or_else(|| network.vlan.clone());
    wanted.trust_guest_rx_filters = wanted
        .trust_guest_rx_filters
        .or(network.trust_guest_rx_filters);
    wanted.isolated = wanted.isolated.or(network.isolated_ports);
    check_floor(&wanted, network)?;
    Ok(wanted)
}

/// The profile that results from an interface's, its network's and its port group's. The first
/// type counts, and no parameter may be given two values. Without any type there is no profile.
///
/// # Errors
/// [`ErrorKind::Xml`] naming what contradicts, or what is missing in the end.
pub fn merge_virtual_port(
    interface: Option<&VirtualPort>,
    network: Option<&VirtualPort>,
    group: Option<&VirtualPort>,
) -> Result<Option<VirtualPort>, Error> {
    let sources = [
        ("interface", interface),
        ("network", network),
        ("portgroup", group),
    ];
    let sources = || {
        sources
            .iter()
            .filter_map(|(name, port)| Some((*name, (*port)?)))
    };
    let mut typed = sources().filter_map(|(name, port)| Some((name, port.kind?)));
    let Some((owner, kind)) = typed.next() else {
        return Ok(None);
    };
    if let Some((other, differing)) = typed.find(|(_, other)| *other != kind) {
        return Err(Error::new(
            ErrorKind::Xml,
            format!(
                "the {owner}'s virtualport is of type '{}', the {other}'s of type '{}'",
                kind.word(),
                differing.word()
            ),
        ));
    }
    let mut merged = VirtualPort {
        kind: Some(kind),
        ..VirtualPort::default()
    };
    for (name, port) in sources() {
        let port = port.clone();
        let own = Parameters { kind, owner: name };
        own.take(&mut merged.manager_id, port.manager_id, "managerid")?;
        own.take(&mut merged.type_id, port.type_id, "typeid")?;
        own.take(
            &mut merged.type_id_version,
            port.type_id_version,
            "typeidversion",
        )?;
        own.take(&mut merged.instance_id, port.instance_id, "instanceid")?;
        own.take(&mut merged.interface_id, port.interface_id, "interfaceid")?;
        own.take(&mut merged.profile_id, port.profile_id, "profileid")?;
    }
    merged.generate_missing();
    merged.check_complete(false)?;
    Ok(Some(merged))
}

/// What a VF is set to: each setting from the nearest that has it.
#[must_use]
pub fn merge_vf_settings(
    interface: Option<VfSettings>,
    network: &Network,
    group: Option<&str>,
) -> VfSettings {
    let interface = interface.unwrap_or_default();
    let group = network.port_group(group).and_then(|group| group.vf);
    let group = group.unwrap_or_default();
    let network = network.extension.vf;
    let nearest =
        |of: fn(&VfSettings) -> Option<u32>| of(&interface).or(of(&group)).or(of(&network));
    VfSettings {
        trust: interface.trust.or(group.trust).or(network.trust),
        spoof_check: interface
            .spoof_check
            .or(group.spoof_check)
            .or(network.spoof_check),
        link: interface.link.or(group.link).or(network.link),
        max_rate: nearest(|vf| vf.max_rate),
        min_rate: nearest(|vf| vf.min_rate),
        qos: interface.qos.or(group.qos).or(network.qos),
        protocol: interface.protocol.or(group.protocol).or(network.protocol),
        rss_query: interface
            .rss_query
            .or(group.rss_query)
            .or(network.rss_query),
    }
}

/// Where parameters are taken from, and for which type.
struct Parameters {
    kind: VirtualPortKind,
    owner: &'static str,
}

impl Parameters {
    /// Takes a value over, unless the type has no use for it or another one was there.
    fn take<T: PartialEq + std::fmt::Display>(
        &self,
        merged: &mut Option<T>,
        value: Option<T>,
        name: &str,
    ) -> Result<(), Error> {
        let Some(value) = value.filter(|_| self.kind.uses(name)) else {
            return Ok(());
        };
        match merged {
            None => *merged = Some(value),
            Some(first) if *first == value => {}
            Some(first) => {
                let owner = self.owner;
                return Err(Error::new(
                    ErrorKind::Xml,
                    format!("virtualport's {name} is '{value}' by the {owner}, and '{first}'"),
                ));
            }
        }
        Ok(())
    }
}

impl Network {
    /// The port group that an interface asks for, or the default one, if any, where it names none.
    ///
    /// # Errors
    /// A name that nobody knows, with the known ones: without its group a port would silently lose
    /// its VLAN. When a guest is defined this is a warning, when a port is made a refusal.
    pub fn wanted_port_group(&self, name: Option<&str>) -> Result<Option<&PortGroup>, Error> {
        let group = self.port_group(name);
        let (Some(name), None) = (name, group) else {
            return Ok(group);
        };
        let known: Vec<_> = self
            .port_groups
            .iter()
            .map(|group| format!("'{}'", group.name))
            .collect();
        let known = if known.is_empty() {
            "it has none".to_owned()
        } else {
            format!("it has {}", known.join(", "))
        };
        let network = &self.name;
        let escaped = name.replace('&', "&amp;").replace('<', "&lt;");
        let group = format!("<portgroup name=\"{}\"/>", escaped.replace('"', "&quot;"));
        Err(Error {
            advice: Some(format!(
                "leave the portgroup out, or add it to the network: virsh net-update {} add \
                 portgroup {} --live --config",
                crate::quoted(network),
                crate::quoted(&group)
            )),
            ..Error::new(
                ErrorKind::ConfigUnsupported,
                format!("network '{network}' has no portgroup '{name}'; {known}"),
            )
        })
    }
}

/// Who can carry a profile: Open vSwitch its own bridge's ports, VFs and macvtap the switch's.
fn check_virtual_port(port: &VirtualPort, network: &Network) -> Result<(), Error> {
    use VirtualPortKind::{OpenVSwitch, Qbg, Qbh};

    let Some(kind) = port.kind else {
        return Ok(());
    };
    let possible = match network.forward_mode() {
        None | Some(ForwardMode::Nat | ForwardMode::Route | ForwardMode::Open) => false,
        Some(ForwardMode::Bridge) if network.existing_bridge().is_some() => kind == OpenVSwitch,
        // 802.1Qbg is spoken for a macvtap; a VF that is the guest's has none.
        Some(ForwardMode::Hostdev | ForwardMode::HostdevHybrid) => kind == Qbh,
        Some(_) => matches!(kind, Qbg | Qbh),
    };
    if possible {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::ConfigUnsupported,
        format!(
            "network '{}' of mode '{}' can't carry a virtualport of type '{}'",
            network.name,
            network.forward_mode().map_or("none", Keyword::word),
            kind.word()
        ),
    ))
}

/// A guaranteed rate is the network's own bridge's to give.
fn check_floor(port: &NetworkPort, network: &Network) -> Result<(), Error> {
    let inbound = port.bandwidth.as_ref().and_then(|shaping| shaping.inbound);
    let Some(floor @ 1..) = inbound.and_then(|rate| rate.floor) else {
        return Ok(());
    };
    let shaped = network
        .bandwidth
        .as_ref()
        .is_some_and(|b| b.inbound.is_some());
    if network.makes_bridge() && shaped {
        return Ok(());
    }
    let why = if network.makes_bridge() {
        "it has no inbound bandwidth of its own"
    } else {
        "it has no bridge of its own"
    };
    Err(Error::new(
        ErrorKind::OperationUnsupported,
        format!(
            "network '{}' can't guarantee the floor of {floor} KiB/s: {why}",
            network.name
        ),
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Uuid, Vlan, VlanTag};

    fn port(group: Option<&str>) -> NetworkPort {
        let text = "<networkport><uuid>5d744f21-ba4a-4d6e-bdb2-30a35ff3207d</uuid>\
             <owner><name>a</name><uuid>d54df46f-1ab5-4a22-8618-4560ef5fac2c</uuid></owner>\
             <mac address='52:54:00:7b:35:93'/></networkport>";
        let mut port = NetworkPort::parse(text).unwrap();
        port.group = group.map(str::to_owned);
        port
    }

    fn network(mode: &str, inside: &str) -> Network {
        Network::parse(&format!(
            "<network><name>n</name><forward mode='{mode}'/>{inside}</network>"
        ))
        .unwrap()
    }

    #[test]
    fn the_default_group_serves_those_who_name_none() {
        let network = network(
            "passthrough",
            "<vlan><tag id='1'/></vlan><portgroup name='a' default='yes'>\
             <vlan><tag id='2'/></vlan></portgroup><portgroup name='b'/>",
        );
        let tag = |group| {
            let merged = merge_port(port(group), &network).unwrap();
            merged.vlan.unwrap().access_tag()
        };
        assert_eq!(tag(None), Some(2));
        assert_eq!(tag(Some("a")), Some(2));
        assert_eq!(
            tag(Some("b")),
            Some(1),
            "a group without a vlan has the network's"
        );
    }

    #[test]
    fn weakness_11_an_unknown_group_is_refused_with_the_known_ones() {
        let network = network("passthrough", "<portgroup name='web'/>");
        let error = merge_port(port(Some("Web")), &network).unwrap_err();
        assert_eq!(error.kind, ErrorKind::ConfigUnsupported);
        assert_eq!(
            error.message,
            "network 'n' has no portgroup 'Web'; it has 'web'"
        );
        let advice = error.advice.as_deref().unwrap();
        assert!(
            advice.contains("virsh net-update n add portgroup '<portgroup name=\"Web\"/>'"),
            "{advice}"
        );
        // The daemon can ask the same when a guest is defined.
        assert_eq!(network.wanted_port_group(Some("Web")), Err(error));
        assert_eq!(network.wanted_port_group(None), Ok(None));
    }

    #[test]
    fn weakness_20_profiles_that_can_not_be_carried_out_are_refused_when_the_port_is_made() {
        let qbg = "<virtualport type='802.1Qbg'><parameters managerid='1' typeid='2' \
             typeidversion='3'/></virtualport>";
        for mode in ["hostdev", "hostdev-hybrid"] {
            let error = merge_port(port(None), &network(mode, qbg)).unwrap_err();
            assert_eq!(error.kind, ErrorKind::ConfigUnsupported);
            let expected = format!(
                "network 'n' of mode '{mode}' can't carry a virtualport of type '802.1Qbg'"
            );
            assert_eq!(error.message, expected);
        }
        merge_port(port(None), &network("vepa", qbg)).unwrap();

        // A midonet interface's id is merged, and compared, like all others.
        let midonet = |id: u128| VirtualPort {
            kind: Some(VirtualPortKind::MidoNet),
            interface_id: Some(Uuid::from_u128(id)),
            ..VirtualPort::default()
        };
        let (own, other) = (midonet(1), midonet(2));
        let merged = merge_virtual_port(Some(&own), Some(&own), None);
        assert_eq!(merged, Ok(Some(own.clone())));
        let error = merge_virtual_port(Some(&own), Some(&other), None).unwrap_err();
        assert!(error.message.contains("interfaceid"), "{error}");
    }

    #[test]
    fn a_profile_needs_a_mode_that_carries_it() {
        let open_vswitch = "<virtualport type='openvswitch'/>";
        let error = merge_port(port(None), &network("hostdev", open_vswitch)).unwrap_err();
        assert!(error.message.contains("can't carry"), "{error}");
        let bridge = format!("<bridge name='br0'/>{open_vswitch}");
        let merged = merge_port(port(None), &network("bridge", &bridge)).unwrap();
        assert!(merged.virtual_port.unwrap().interface_id.is_some());
    }

    #[test]
    fn a_reclaimed_port_stays_as_it_was() {
        let mut reclaimed = port(Some("gone"));
        reclaimed.plug = Some(crate::Plug::Direct {
            dev: "eth0".to_owned(),
            mode: crate::DirectMode::Vepa,
        });
        let network = network("vepa", "<vlan><tag id='1'/></vlan>");
        assert_eq!(merge_port(reclaimed.clone(), &network).unwrap(), reclaimed);
    }

    #[test]
    fn a_floor_needs_a_bridge_that_is_shaped() {
        let mut wanted = port(None);
        wanted.bandwidth = Some(crate::Bandwidth {
            inbound: Some(crate::Rate {
                average: Some(100),
                floor: Some(50),
                ..crate::Rate::default()
            }),
            outbound: None,
        });
        let message = |network| merge_port(wanted.clone(), &network).unwrap_err().message;
        let pool = message(network("hostdev", ""));
        assert!(pool.ends_with("it has no bridge of its own"), "{pool}");
        let plain = message(network("open", ""));
        assert!(
            plain.ends_with("it has no inbound bandwidth of its own"),
            "{plain}"
        );
        let shaped = "<bandwidth><inbound average='1000'/></bandwidth>";
        merge_port(wanted.clone(), &network("open", shaped)).unwrap();
    }

    fn kind() -> impl Strategy<Value = Option<VirtualPortKind>> {
        prop::sample::select(vec![
            None,
            Some(VirtualPortKind::Qbg),
            Some(VirtualPortKind::Qbh),
            Some(VirtualPortKind::OpenVSwitch),
            Some(VirtualPortKind::MidoNet),
        ])
    }

    /// Few values, so that sources agree as often as they don't.
    fn profile() -> impl Strategy<Value = Option<VirtualPort>> {
        let id = || prop::option::of((1_u128..3).prop_map(Uuid::from_u128));
        let parameters = (
            kind(),
            prop::option::of(1_u8..3),
            prop::option::of(1_u32..3),
            prop::option::of(1_u8..3),
            id(),
            id(),
            prop::option::of("[ab]"),
        );
        prop::option::of(parameters.prop_map(
            |(kind, manager, type_id, version, instance, interface, profile)| VirtualPort {
                kind,
                manager_id: manager,
                type_id,
                type_id_version: version,
                instance_id: instance,
                interface_id: interface,
                profile_id: profile,
            },
        ))
    }

    fn vlan() -> impl Strategy<Value = Option<Vlan>> {
        prop::option::of((0_u16..3).prop_map(|id| Vlan {
            trunk: false,
            tags: vec![VlanTag { id, native: None }],
        }))
    }

    /// Whether some parameter that the type uses has two values.
    fn contradict(kind: VirtualPortKind, sources: &[&VirtualPort]) -> bool {
        fn two<T: PartialEq>(values: impl Iterator<Item = Option<T>>) -> bool {
            let mut values = values.flatten();
            let first = values.next();
            values.any(|value| Some(&value) != first.as_ref())
        }
        let all = || sources.iter().map(|source| (*source).clone());
        kind.uses("managerid") && two(all().map(|p| p.manager_id))
            || kind.uses("typeid") && two(all().map(|p| p.type_id))
            || kind.uses("typeidversion") && two(all().map(|p| p.type_id_version))
            || kind.uses("instanceid") && two(all().map(|p| p.instance_id))
            || kind.uses("interfaceid") && two(all().map(|p| p.interface_id))
            || kind.uses("profileid") && two(all().map(|p| p.profile_id))
    }

    proptest! {
        #[test]
        fn profiles_merge_as_libvirt_says(
            interface in profile(), network in profile(), group in profile(),
        ) {
            let sources: Vec<_> = [&interface, &network, &group].into_iter().flatten().collect();
            let kinds: Vec<_> = sources.iter().filter_map(|source| source.kind).collect();
            let merged =
                merge_virtual_port(interface.as_ref(), network.as_ref(), group.as_ref());
            match (merged, kinds.first()) {
                (merged, None) => prop_assert_eq!(merged, Ok(None)),
                (Ok(merged), Some(&first)) => {
                    let merged = merged.unwrap();
                    prop_assert_eq!(merged.kind, Some(first));
                    prop_assert!(kinds.iter().all(|&kind| kind == first));
                    prop_assert!(!contradict(first, &sources));
                    prop_assert_eq!(merged.check_complete(false), Ok(()));
                    prop_assert_eq!(merged.check_nothing_extra(), Ok(()));
                    // What is merged says all that its sources said.
                    let again = merge_virtual_port(Some(&merged), network.as_ref(), None);
                    prop_assert_eq!(again, Ok(Some(merged)));
                }
                (Err(error), Some(&first)) => {
                    prop_assert_eq!(error.kind, ErrorKind::Xml);
                    let differ = kinds.iter().any(|&kind| kind != first);
                    let incomplete = error.message.contains("needs");
                    prop_assert!(differ || contradict(first, &sources) || incomplete);
                }
            }
        }

        #[test]
        fn the_nearest_counts(
            own in vlan(), groups in vlan(), networks in vlan(),
            trust in prop::array::uniform3(prop::option::of(any::<bool>())),
            isolated in prop::array::uniform2(prop::option::of(any::<bool>())),
        ) {
            let mut network = network("passthrough", "<portgroup name='g'/>");
            network.vlan = networks.clone();
            network.trust_guest_rx_filters = trust[2];
            network.isolated_ports = isolated[1];
            network.port_groups[0].vlan = groups.clone();
            network.port_groups[0].trust_guest_rx_filters = trust[1];
            let mut wanted = port(Some("g"));
            wanted.vlan = own.clone();
            wanted.trust_guest_rx_filters = trust[0];
            wanted.isolated = isolated[0];
            let merged = merge_port(wanted, &network).unwrap();
            prop_assert_eq!(&merged.vlan, &own.or(groups).or(networks));
            prop_assert_eq!(
                merged.trust_guest_rx_filters,
                trust.into_iter().flatten().next()
            );
            prop_assert_eq!(merged.isolated, isolated.into_iter().flatten().next());
            prop_assert_eq!(merge_port(merged.clone(), &network).unwrap(), merged);
        }
    }
}
