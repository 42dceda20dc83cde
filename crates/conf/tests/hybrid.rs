//! One element in, two interfaces out: pairs of a VF and virtio, and what is wrong with them.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::fs;
use std::path::{Path, PathBuf};

use conf::{
    Domain, Error, Form, GuestAddress, HostSource, HybridFallback, HybridGuest, HybridSettings,
    Interface, InterfaceSource, Network, NetworkPairs, PairPrimary, PciAddress,
};
use proptest::prelude::*;

/// The networks of the cases.
fn networks(name: &str) -> Option<NetworkPairs> {
    let lent = |guest| {
        NetworkPairs::Lent(HybridSettings {
            guest,
            fallback: None,
        })
    };
    match name {
        "pairs" => Some(lent(None)),
        "bonds" => Some(lent(Some(HybridGuest::Bond))),
        "plain" => Some(NetworkPairs::NotLent),
        _ => None,
    }
}

/// What a client gets that defines the document.
fn define(text: &str, previous: Option<&Domain>) -> Result<Domain, Error> {
    let mut domain = Domain::parse(text)?;
    let kept = domain.expand_hybrids(previous, &networks)?;
    domain.fill_defaults_with(&|network| Some(networks(network)? != NetworkPairs::NotLent));
    domain.validate()?;
    domain.assign_addresses_keeping(&|_| true, &kept)?;
    Ok(domain)
}

fn written(domain: &Domain) -> String {
    domain.to_xml(Form::Inactive)
}

fn guest(devices: &str) -> String {
    format!(
        "<domain type='qemu' xmlns:virtnic='urn:virtnic:1'><name>g</name>
         <uuid>c7a5fdbd-edaf-9455-926a-d65c16db1809</uuid><memory unit='MiB'>64</memory>
         <os><type machine='q35'>hvm</type></os><devices>{devices}</devices></domain>"
    )
}

fn defined(devices: &str) -> Domain {
    define(&guest(devices), None).unwrap()
}

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/hybrid");
    let files = fs::read_dir(folder).unwrap();
    let mut cases: Vec<_> = files
        .map(|file| file.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(".in.xml"))
        .collect();
    cases.sort();
    assert!(!cases.is_empty());
    cases
}

#[test]
fn what_asks_for_a_pair_becomes_one_and_stays_it() {
    for case in cases() {
        let name = case.display();
        let input = fs::read_to_string(&case).unwrap();
        let beside = |end: &str| PathBuf::from(case.to_string_lossy().replace(".in.xml", end));
        if let Ok(expected) = fs::read_to_string(beside(".err")) {
            let told = define(&input, None).unwrap_err().to_string();
            for line in expected.lines() {
                assert!(told.contains(line), "{name}: no {line} in {told}");
            }
            continue;
        }
        let domain = define(&input, None).unwrap();
        let output = written(&domain);
        if std::env::var_os("UPDATE_CASES").is_some() {
            fs::write(beside(".out.xml"), &output).unwrap();
        }
        let expected = fs::read_to_string(beside(".out.xml")).unwrap();
        assert_eq!(output, expected, "{name}");
        for again in [&input, &output] {
            let again = define(again, Some(&domain)).unwrap();
            assert_eq!(written(&again), output, "{name}");
        }
        let without = define(&output, None).unwrap();
        assert_eq!(written(&without), output, "{name}");
        assert_eq!(without, domain, "{name}");
        assert_eq!(domain.pair_faults(), [], "{name}");
    }
}

const PF: &str = "<interface type='hostdev-hybrid'><source dev='eth1'/></interface>";

#[test]
fn the_vf_of_a_pair_is_some_vf_of_the_pf() {
    let domain = defined(PF);
    let [standby, primary] = &domain.devices.interfaces[..] else {
        panic!("{}", written(&domain));
    };
    let InterfaceSource::Hostdev { source, .. } = &primary.source else {
        panic!("{}", written(&domain));
    };
    assert_eq!(*source, HostSource::VfOf("eth1".to_owned()));
    assert_eq!(standby.mac, primary.mac);
    let by_name = "<interface type='hostdev'><source dev='eth1'/></interface>";
    let InterfaceSource::Hostdev { source, .. } = Interface::parse(by_name).unwrap().source else {
        panic!();
    };
    assert_eq!(source, HostSource::NetDevice("eth1".to_owned()));
}

/// Who writes libvirt's form beside a pair that virtnic made names a standby that has its VF.
#[test]
fn a_standby_of_a_made_pair_has_no_second_vf() {
    let mut domain = defined(PF);
    let alias = domain.devices.interfaces[0].info.alias.clone().unwrap();
    assert_eq!(domain.pair_faults(), []);
    let teaming = format!("<teaming type='transient' persistent='{alias}'/>");
    let hostdev = format!(
        "<hostdev mode='subsystem' type='pci' managed='yes'><source><address bus='4' function='1'/>\
         </source>{teaming}</hostdev>"
    );
    let interface = format!(
        "<interface type='hostdev'><mac address='{}'/><source><address type='pci' bus='4' \
         function='2'/></source>{teaming}</interface>",
        domain.devices.interfaces[0].mac
    );
    for second in [hostdev, interface] {
        let before = domain.clone();
        domain
            .add_device(&conf::Device::parse(&second).unwrap())
            .unwrap();
        let faults: Vec<_> = domain
            .pair_faults()
            .iter()
            .map(ToString::to_string)
            .collect();
        let [fault] = &faults[..] else {
            panic!("{faults:?}")
        };
        assert!(fault.contains("is a second VF to the standby"), "{fault}");
        domain = before;
    }
}

#[test]
fn both_halves_have_a_root_port_from_the_start() {
    let libvirts_own = "<interface type='direct'><mac address='52:54:00:00:00:02'/>\
         <source dev='eth0' mode='bridge'/><model type='virtio'/><teaming type='persistent'/>\
         <alias name='ua-two'/></interface>\
         <hostdev mode='subsystem' type='pci' managed='yes'><source><address bus='3' slot='16'/>\
         </source><teaming type='transient' persistent='ua-two'/></hostdev>";
    let domain = defined(&format!("{PF}{libvirts_own}"));
    let mut buses: Vec<_> = (domain.devices.interfaces.iter().map(|i| &i.info))
        .chain(domain.devices.hostdevs.iter().map(|h| &h.info))
        .map(|info| info.pci_address().unwrap().bus())
        .collect();
    let model = |bus: &u8| {
        let mut all = domain.devices.controllers.iter();
        let port = all.find(|c| c.kind == "pci" && c.index == u32::from(*bus));
        port.unwrap().model.clone().unwrap()
    };
    assert!(buses.iter().all(|bus| model(bus) == "pcie-root-port"));
    buses.sort_unstable();
    buses.dedup();
    assert_eq!(buses.len(), 4);
    let pairs = domain.pairs();
    assert_eq!(pairs.len(), 2);
    assert_eq!(pairs[1].primary, PairPrimary::Hostdev(0));
    assert_eq!((pairs[1].standby, pairs[1].id), (2, None));
}

#[test]
fn what_a_guest_got_by_default_stays() {
    let two = format!("{PF}<interface type='network'><source network='pairs'/></interface>{PF}");
    let first = defined(&two);
    let again = define(&guest(&two), Some(&first)).unwrap();
    assert_eq!(written(&again), written(&first));
    // Something new before and between them takes nothing from them.
    let more = "<interface type='user'><mac address='52:54:00:00:00:09'/><model type='virtio'/>\
                </interface>";
    let more = define(&guest(&format!("{more}{PF}{more}{two}")), Some(&first)).unwrap();
    let (old, new) = (&first.devices.interfaces, &more.devices.interfaces);
    assert_eq!(new[1..3], old[0..2]);
    assert_eq!(new[4..6], old[4..6]);
    assert_eq!(new[6..8], old[2..4]);
    assert_ne!(new[8].mac, new[1].mac);
}

#[test]
fn a_pair_is_known_by_its_mac_wherever_it_stands() {
    let with = |mac: &str, over: &str| {
        format!("<interface {over}<mac address='52:54:00:00:00:{mac}'/></interface>")
    };
    let pf = "type='hostdev-hybrid'><source dev='eth1'/>";
    let network = "type='network'><source network='pairs'/>";
    let first = defined(&format!("{}{}", with("01", pf), with("02", pf)));
    let turned = guest(&format!("{}{}", with("02", network), with("01", pf)));
    let turned = define(&turned, Some(&first)).unwrap();
    let (old, new) = (&first.devices.interfaces, &turned.devices.interfaces);
    assert_eq!(new[2..4], old[0..2]);
    assert_eq!(new[0].info, old[2].info);
    assert_eq!(new[1].info, old[3].info);
    assert_eq!(new[0].hybrid, old[2].hybrid);
    // Another MAC is another NIC.
    let other = define(&guest(&with("03", pf)), Some(&first)).unwrap();
    assert_ne!(other.pairs()[0].id, first.pairs()[0].id);
}

#[test]
fn what_the_new_document_says_counts() {
    let first = defined(PF);
    let bond = "<interface type='hostdev-hybrid'><source dev='eth1'/><virtnic:hybrid guest='bond' \
                fallback='virtio'/><alias name='ua-mine'/><address type='pci' bus='9' slot='0'/>\
                </interface><interface type='user'><model type='virtio'/>\
                <address type='pci' bus='3' slot='0'/></interface>";
    let new = define(&guest(bond), Some(&first)).unwrap();
    let (old, new) = (&first.devices.interfaces, &new.devices.interfaces);
    assert_eq!(
        old[1].info.pci_address().unwrap().bus(),
        3,
        "is another's now"
    );
    assert_eq!(new[0].mac, old[0].mac);
    assert_eq!(new[0].info.alias.as_deref(), Some("ua-mine"));
    assert_eq!(new[0].info.pci_address().unwrap().bus(), 9);
    assert_eq!(new[1].info.alias, old[1].info.alias);
    assert_ne!(new[1].info.pci_address(), old[1].info.pci_address());
    let half = new[1].hybrid_half().unwrap();
    assert_eq!(half.pair, old[1].hybrid_half().unwrap().pair);
    assert_eq!(half.guest, HybridGuest::Bond);
    assert_eq!(half.fallback, Some(HybridFallback::Virtio));
    assert_eq!((&new[0].teaming, &new[1].teaming), (&None, &None));
}

#[test]
fn a_guest_that_becomes_another_machine_is_placed_anew() {
    let first = defined(PF);
    let pc = guest(PF).replace("q35", "pc");
    let new = define(&pc, Some(&first)).unwrap();
    assert_eq!(
        new.devices.interfaces[0].mac,
        first.devices.interfaces[0].mac
    );
    let bus = |domain: &Domain, place: usize| {
        let info = &domain.devices.interfaces[place].info;
        info.pci_address().map(PciAddress::bus)
    };
    assert_eq!((bus(&new, 0), bus(&new, 1)), (Some(0), Some(0)));
}

#[test]
fn an_element_to_plug_is_split_and_means_the_pair_when_it_goes() {
    let domain = defined(PF);
    let new = "<interface type='network'><mac address='52:54:00:00:00:07'/>\
               <source network='pairs'/></interface>";
    let new = Interface::parse(new).unwrap();
    let halves = domain.expand_hybrid(&new, &networks).unwrap().unwrap();
    assert_eq!(halves.standby.mac, halves.primary.mac);
    assert_eq!(halves.standby.info.address, None);
    let plain = Interface::parse("<interface type='network'><source network='plain'/></interface>");
    assert_eq!(domain.expand_hybrid(&plain.unwrap(), &networks), Ok(None));

    let mut domain = domain;
    domain
        .devices
        .interfaces
        .extend([halves.standby, halves.primary]);
    let meant = |text: &str| {
        let asked = Interface::parse(text).unwrap();
        let standby = |pair: conf::Pair| pair.standby;
        let pairs = domain.pairs_meant(&asked).into_iter();
        pairs.map(standby).collect::<Vec<_>>()
    };
    assert_eq!(meant(PF), [0]);
    assert_eq!(meant(&new.to_xml(Form::Inactive)), [2]);
    assert_eq!(
        meant("<interface type='network'><source network='pairs'/></interface>"),
        [2]
    );
    // One half, by its alias.
    let half = domain.devices.interfaces[2].to_xml(Form::Inactive);
    assert_eq!(meant(&half), [0; 0]);
    assert_eq!(
        meant(
            "<interface type='network'><source network='pairs'/>\
             <alias name='ua-hybrid-525400000007'/></interface>"
        ),
        [0; 0]
    );
    assert!(Interface::parse(PF).unwrap().is_hybrid());
}

#[test]
fn a_start_is_told_what_is_wrong_with_pairs() {
    let faults = |devices: &str| {
        let domain = Domain::parse(&guest(devices)).unwrap();
        let faults = domain.pair_faults();
        let faults = faults.iter().map(ToString::to_string);
        faults.collect::<Vec<_>>().join("\n")
    };
    let standby = "<interface type='direct'><mac address='52:54:00:00:00:01'/><source dev='e'/>\
                   <model type='virtio'/><teaming type='persistent'/></interface>";
    let primary = |mac: &str, alias: &str, more: &str| {
        format!(
            "<interface type='hostdev'><mac address='52:54:00:00:00:{mac}'/><source dev='v'/>\
             <teaming type='transient' persistent='{alias}'/>{more}</interface>"
        )
    };
    // The alias that it will have.
    assert_eq!(
        faults(&format!("{standby}{}", primary("01", "net0", ""))),
        ""
    );
    assert_eq!(faults(standby), "");
    assert_eq!(
        faults(&primary("01", "ua-none", "")),
        "interface 52:54:00:00:00:01 is the VF of a pair whose standby, 'ua-none', is not there"
    );
    assert_eq!(
        faults(&format!("{standby}{}", primary("02", "net0", ""))),
        "interface 52:54:00:00:00:02 and its standby, interface 52:54:00:00:00:01, have not the \
         same MAC"
    );
    let second = primary("01", "net0", "");
    assert_eq!(
        faults(&format!("{standby}{second}{second}")),
        "interface 52:54:00:00:00:01 is a second VF to the standby 'net0'"
    );
    assert_eq!(
        faults(&format!(
            "<interface type='user'><model type='virtio'/></interface>{}",
            primary("01", "net0", "")
        )),
        "interface 52:54:00:00:00:01 is the VF of a pair, and its standby, 'net0', has no <teaming \
         type='persistent'/>"
    );
    assert!(faults(PF).ends_with("asks for a pair, and was not made one: define the guest again"));
    let own = "<virtnic:hybrid pair='c7a5fdbd-edaf-8455-926a-525400000001'/>";
    assert_eq!(
        faults(&primary("01", "ua-x", own)),
        "interface 52:54:00:00:00:01 is the VF of pair c7a5fdbd-edaf-8455-926a-525400000001, whose \
         standby is not there"
    );
    let half = standby.replace("</interface>", &format!("{own}</interface>"));
    let whole = format!("{half}{}", primary("01", "ua-x", own));
    let told = faults(&whole);
    assert!(told.contains("have not the same PF"), "{told}");
    assert!(
        told.contains("whose standby, 'ua-x', is not there"),
        "{told}"
    );
    let told = faults(&format!("{half}{half}"));
    assert!(told.contains("is a second standby of pair"), "{told}");
}

#[test]
fn a_network_of_pairs_is_what_both_halves_can_have() {
    let refused = |mode: &str, inside: &str, rest: &str| {
        let text = format!(
            "<network xmlns:virtnic='urn:virtnic:1'><name>n</name><forward mode='{mode}'>{inside}\
             </forward>{rest}</network>"
        );
        let told = Network::parse(&text).unwrap().validate();
        told.map_or_else(|error| error.to_string(), |()| String::new())
    };
    let (mode, pf) = ("hostdev-hybrid", "<pf dev='e'/>");
    assert_eq!(refused(mode, pf, "<vlan><tag id='7'/></vlan>"), "");
    for (inside, rest, told, place) in [
        ("", "", "needs a <pf>", "/network/forward,"),
        (
            "<address type='pci' bus='3'/>",
            "",
            "<address> names no PF",
            "/network/forward/address",
        ),
        (
            "<interface dev='e'/>",
            "",
            "lends PCI devices",
            "/network/forward/interface",
        ),
        (
            pf,
            "<vlan><tag id='7'/><tag id='8'/></vlan>",
            "<vlan> is a trunk",
            "/network/vlan",
        ),
        (
            pf,
            "<vlan trunk='yes'><tag id='7'/></vlan>",
            "<vlan> is a trunk",
            "/network/vlan",
        ),
        (
            pf,
            "<vlan><tag id='7' nativeMode='tagged'/></vlan>",
            "is a trunk",
            "/network/vlan",
        ),
        (
            pf,
            "<vlan><tag id='0'/></vlan>",
            "has the tag 0",
            "/network/vlan",
        ),
        (
            pf,
            "<portgroup name='p'><vlan trunk='yes'><tag id='7'/></vlan>\
             <virtnic:vf protocol='802.1ad'/></portgroup>",
            "of portgroup 'p'",
            "/network/portgroup/virtnic:vf",
        ),
        (
            pf,
            "<virtnic:vf protocol='802.1ad'/>",
            "802.1ad",
            "/network/virtnic:vf",
        ),
        (
            pf,
            "<port isolated='yes'/>",
            "<port isolated='yes'>",
            "/network/port",
        ),
        (
            pf,
            "<virtnic:direct modes='bridge'/>",
            "<virtnic:direct>",
            "/network/virtnic:direct",
        ),
        (
            pf,
            "<virtualport type='802.1Qbh'><parameters profileid='p'/></virtualport>",
            "<virtualport>",
            "/network/virtualport",
        ),
        (
            pf,
            "<virtnic:pool lend='pf'/>",
            "forward mode 'passthrough'",
            "/network/virtnic:pool",
        ),
    ] {
        let error = refused(mode, inside, rest);
        assert!(
            error.contains(told) && error.contains(place),
            "{rest}: {error}"
        );
    }
    let hybrid = "<virtnic:hybrid guest='bond'/>";
    assert!(refused("hostdev", pf, hybrid).contains("needs forward mode 'hostdev-hybrid'"));
    let lend = "<virtnic:pool lend='vfs'/>";
    assert_eq!(refused("passthrough", "<interface dev='e'/>", lend), "");
}

fn element() -> impl Strategy<Value = String> {
    let over = prop::sample::select(vec![
        "type='hostdev-hybrid'><source dev='eth1'/>",
        "type='hostdev-hybrid'><source dev='eth2'/>",
        "type='network'><source network='pairs'/>",
        "type='network'><source network='bonds'/>",
        "type='network'><source network='plain'/>",
        "type='user'>",
    ]);
    let parts = prop::sample::subsequence(
        vec![
            "<vlan><tag id='7'/></vlan>",
            "<target dev='tap9'/>",
            "<model type='virtio'/><driver name='vhost' queues='4'/>",
            "<link state='down'/>",
            "<virtnic:vf trust='on'/>",
            "<rom bar='off'/>",
            "<unknown a='&lt;'>t</unknown>",
        ],
        0..7,
    );
    (over, parts, prop::option::of(any::<u8>())).prop_map(|(over, parts, mac)| {
        let mac = mac.map_or(String::new(), |mac| {
            format!("<mac address='52:54:00:00:00:{mac:02x}'/>")
        });
        format!("<interface {over}{mac}{}</interface>", parts.concat())
    })
}

proptest! {
    /// However often and in whichever form it is defined, a guest's pairs stay what they are.
    #[test]
    fn pairs_stay(elements in prop::collection::vec(element(), 1..6)) {
        let text = guest(&elements.concat());
        let Ok(first) = define(&text, None) else {
            return Ok(());
        };
        prop_assert_eq!(first.pair_faults(), []);
        let document = written(&first);
        prop_assert_eq!(written(&Domain::parse(&document).unwrap()), &*document);
        prop_assert_eq!(written(&define(&document, None).unwrap()), &*document);
        prop_assert_eq!(written(&define(&document, Some(&first)).unwrap()), &*document);
        let again = define(&text, Some(&first)).unwrap();
        prop_assert_eq!(again.pairs(), first.pairs());
        for pair in first.pairs() {
            let PairPrimary::Interface(primary) = pair.primary else {
                return Err(TestCaseError::fail("a plain host device"));
            };
            for place in [pair.standby, primary] {
                prop_assert_eq!(
                    &again.devices.interfaces[place],
                    &first.devices.interfaces[place]
                );
            }
            prop_assert_eq!(pair.standby + 1, primary);
        }
        let mut running = first.clone();
        running.assign_aliases();
        let status = running.to_status_xml();
        prop_assert_eq!(Domain::parse_status(&status).unwrap().to_status_xml(), status);
        for interface in &running.devices.interfaces {
            let live = Interface::parse(&interface.to_xml(Form::Live)).unwrap();
            prop_assert_eq!(live.to_xml(Form::Inactive), interface.to_xml(Form::Inactive));
        }
    }
}

#[test]
fn an_address_is_kept_on_a_bus_that_is_what_it_was() {
    let first = defined(PF);
    let taken = "<controller type='pci' index='0' model='pcie-root'/>\
                 <controller type='pci' index='1' model='pcie-root-port'/>\
                 <controller type='pci' index='2' model='pcie-root-port'/>\
                 <controller type='pci' index='3' model='pcie-to-pci-bridge'/>";
    let new = define(&guest(&format!("{taken}{PF}")), Some(&first)).unwrap();
    let address = |domain: &Domain, place: usize| {
        let info: &conf::DeviceInfo = &domain.devices.interfaces[place].info;
        assert!(matches!(info.address, Some(GuestAddress::Pci { .. })));
        info.pci_address().unwrap()
    };
    assert_eq!(address(&new, 0), address(&first, 0));
    assert_ne!(address(&new, 1), address(&first, 1));
}
