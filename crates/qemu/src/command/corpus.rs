//! The arguments for interfaces, host devices and PCI controllers, against cases that are files:
//! `NAME.out.xml`, a document with all addresses, and `NAME.args`, the command line for it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use conf::{ActualDevice, Domain, InterfaceSource, Plug};
use serde_json::Value;

use super::{Problem, Resources, Taps, arguments};

/// Cases whose arguments differ, and why.
const EXCEPTIONS: [(&str, &str); 9] = [
    (
        "hostdev-pci-display-ramfb",
        "a mediated display (display, ramfb) is refused by name",
    ),
    ("net-client", "type 'client' is refused by name"),
    (
        "net-eth-hostip",
        "addresses on the host's side of a tap are refused by name",
    ),
    ("net-mcast", "type 'mcast' is refused by name"),
    ("net-server", "type 'server' is refused by name"),
    ("net-udp", "type 'udp' is refused by name"),
    ("net-vhostuser", "type 'vhostuser' is refused by name"),
    ("net-vhostuser-passt", "type 'vhostuser' is refused by name"),
    (
        "schema-reorder-domain-subelements",
        "type 'vhostuser' is refused by name",
    ),
];

fn cases() -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../conf/tests/corpus/domain"
    ))
}

/// The values of `-netdev` and `-device` that this is about.
fn relevant(args: &[String]) -> Vec<String> {
    let pairs = args.iter().zip(args.iter().skip(1));
    let wanted = pairs.filter(|(option, value)| match option.as_str() {
        "-netdev" => true,
        "-device" => is_relevant(value),
        _ => false,
    });
    wanted
        .map(|(option, value)| format!("{option} {value}"))
        .collect()
}

fn is_relevant(device: &str) -> bool {
    const DRIVERS: [&str; 14] = [
        "dmi-to-pci-bridge",
        "i82801b11-bridge",
        "ioh3420",
        "pci-bridge",
        "pcie-pci-bridge",
        "pcie-root-port",
        "pxb",
        "pxb-pcie",
        "usb-host",
        "vfio-pci",
        "vfio-pci-nohotplug",
        "x3130-upstream",
        "xio3130-downstream",
        "qemu-xhci",
    ];
    let device: Value = serde_json::from_str(device).unwrap();
    device.get("netdev").is_some() || DRIVERS.contains(&device["driver"].as_str().unwrap())
}

/// The words of a command line as a shell would split it.
fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = None::<String>;
    let mut quoted = false;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if !quoted => match chars.next() {
                Some('\n') | None => {}
                Some(c) => word.get_or_insert_default().push(c),
            },
            c if c.is_whitespace() && !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The descriptors that the expected command line has, by the alias of their interface.
fn taps(args: &[String]) -> BTreeMap<String, Taps> {
    let netdevs = args.iter().zip(args.iter().skip(1));
    let netdevs = netdevs.filter(|(option, _)| *option == "-netdev");
    let netdevs = netdevs.map(|(_, value)| serde_json::from_str::<Value>(value).unwrap());
    netdevs
        .filter(|netdev| netdev["type"] == "tap")
        .map(|netdev| {
            let numbers = |one: &str, several: &str| {
                let text = netdev.get(one).or_else(|| netdev.get(several));
                let text = text.and_then(Value::as_str).unwrap_or("");
                text.split(':').filter_map(|n| n.parse().ok()).collect()
            };
            let alias = netdev["id"].as_str().unwrap().strip_prefix("host").unwrap();
            let taps = Taps {
                taps: numbers("fd", "fds"),
                vhosts: numbers("vhostfd", "vhostfds"),
            };
            (alias.to_owned(), taps)
        })
        .collect()
}

#[test]
fn arguments_are_those_of_the_cases() {
    let mut names: Vec<String> = std::fs::read_dir(cases())
        .unwrap()
        .filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            Some(name.strip_suffix(".args")?.to_owned())
        })
        .collect();
    names.sort();
    assert!(!names.is_empty(), "no cases in {}", cases().display());

    let mut failures = String::new();
    for name in &names {
        let read = |suffix| std::fs::read_to_string(cases().join(format!("{name}.{suffix}")));
        let expected = split(&read("args").unwrap());
        let result = compare(&read("out.xml").unwrap(), &expected);
        let excepted = EXCEPTIONS.iter().any(|(other, _)| other == name);
        match result {
            Ok(()) if excepted => failures += &format!("{name}: passes, and is excepted\n"),
            Err(difference) if !excepted => failures += &format!("{name}: {difference}\n"),
            _ => {}
        }
    }
    for (name, reason) in EXCEPTIONS {
        assert!(
            names.iter().any(|other| other == name),
            "{name} ({reason}) is no case"
        );
    }
    assert!(failures.is_empty(), "\n{failures}");
}

/// What `virt-install` gives a guest without a display: clocks, the guest agent's channel, power
/// management. All of it is carried out, in libvirt's words and order.
#[test]
fn a_plain_guest_of_virt_install_is_whole() {
    let read = |name: &str| std::fs::read_to_string(cases().join(name)).unwrap();
    let domain = prepared(&read("x86_64-q35-headless.out.xml")).unwrap();
    assert_eq!(domain.unsupported(), []);
    let expected = split(&read("x86_64-q35-headless.args"));
    let resources = Resources {
        monitor: 1729,
        channels: BTreeMap::from([("channel0".to_owned(), 1729)]),
        ..Resources::default()
    };
    let (made, problems) = arguments(&domain, &resources);
    assert_eq!(problems, []);
    // Images are named otherwise, no secret is shared, and there is neither sound nor a watchdog
    // beyond the chipset's own.
    let otherwise = |option: &str, value: &str| {
        ["-blockdev", "-audiodev", "-watchdog-action"].contains(&option)
            || ["virtio-blk-pci", "masterKey0", "noreboot"]
                .iter()
                .any(|word| value.contains(word))
    };
    let pairs = |args: &[String]| -> Vec<String> {
        let values = args.iter().skip(1).chain(std::iter::once(&args[0]));
        let options = args.iter().zip(values);
        let options =
            options.filter(|(option, value)| option.starts_with('-') && !otherwise(option, value));
        let text = |(option, value): (&String, &String)| match value.starts_with('-') {
            true => option.clone(),
            false => format!("{option} {value}"),
        };
        options.map(text).collect()
    };
    // The variables before the program are the process's.
    let start = expected.iter().position(|arg| arg == "-name").unwrap();
    assert_eq!(pairs(&made), pairs(&expected[start..]));
}

/// A guest as it is before it starts.
fn prepared(document: &str) -> Result<Domain, String> {
    let mut domain = Domain::parse(document).map_err(|error| error.to_string())?;
    domain.assign_usb_addresses();
    domain.assign_aliases();
    Ok(domain)
}

fn compare(document: &str, expected: &[String]) -> Result<(), String> {
    let mut domain = prepared(document)?;
    for interface in &mut domain.devices.interfaces {
        if matches!(interface.source, InterfaceSource::Network { .. }) {
            // Its network would have given it a tap.
            interface.actual = Some(ActualDevice {
                port: conf::Uuid::nil(),
                plug: Plug::Bridge {
                    bridge: "virbr0".to_owned(),
                    mac_table_manager: None,
                },
                vlan: None,
                virtual_port: None,
                bandwidth: None,
                isolated: None,
                trust_guest_rx_filters: None,
            });
        }
    }
    let resources = Resources {
        taps: taps(expected),
        ..Resources::default()
    };
    let (made, problems) = arguments(&domain, &resources);
    let (made, expected) = (relevant(&made), relevant(expected));
    if made == expected {
        return Ok(());
    }
    let lines = |prefix: &str, these: &[String], those: &[String]| -> String {
        let only = these.iter().filter(|line| !those.contains(line));
        only.map(|line| format!("\n    {prefix} {line}")).collect()
    };
    let problems: Vec<_> = problems.iter().map(Problem::to_string).collect();
    Err(format!(
        "{}{}\n    {}",
        lines("made", &made, &expected),
        lines("want", &expected, &made),
        problems.join("; ")
    ))
}
