//! Work grows with a document's length, and no faster, and has its bounds: each list here is read,
//! filled in, placed, written and read again in two sizes.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that panics is a test that fails"
)]

use std::hint::black_box;
use std::time::Duration;

use conf::{Domain, ErrorKind, Form, HybridSettings, Network, NetworkPairs};

/// All that is done with a guest's document before it is defined.
fn define_guest(text: &str) {
    let _ = black_box(conf::grammar::unread(text));
    let Ok(mut domain) = Domain::parse(text) else {
        return;
    };
    let _ = black_box(domain.unsupported());
    let lent = |_: &str| Some(NetworkPairs::Lent(HybridSettings::default()));
    let mut again = domain.clone();
    let _ = black_box(domain.expand_hybrids(None, &lent));
    let _ = black_box(again.expand_hybrids(Some(&domain), &lent));
    let _ = black_box((domain.pairs(), domain.pair_faults()));
    domain.fill_defaults();
    if domain.assign_addresses(&|_| true).is_ok() {
        domain.assign_usb_addresses();
        domain.assign_aliases();
    }
    for form in [Form::Inactive, Form::Live, Form::Migratable] {
        black_box(domain.to_xml(form));
    }
    let _ = black_box(Domain::parse_status(&domain.to_status_xml()));
}

/// As [`define_guest`], for a network.
fn define_network(text: &str) {
    let _ = black_box(conf::grammar::unread(text));
    let Ok(network) = Network::parse(text) else {
        return;
    };
    let _ = black_box(network.validate());
    let _ = black_box(Network::parse(&network.to_xml(Form::Inactive)));
}

fn repeat(count: usize, part: impl Fn(usize) -> String) -> String {
    (0..count).map(part).collect()
}

fn guest(elements: &str, devices: &str) -> String {
    format!(
        "<domain type='kvm'><name>g</name><memory>65536</memory>{elements}\
         <os><type machine='q35'>hvm</type></os><devices>{devices}</devices></domain>"
    )
}

/// The name of the drive of that number.
fn drive(mut number: usize) -> String {
    let mut letters = Vec::new();
    loop {
        letters.push(char::from(b'a' + u8::try_from(number % 26).unwrap()));
        if number < 26 {
            break;
        }
        number = number / 26 - 1;
    }
    letters.iter().rev().collect()
}

/// Lists of guests' documents, each of `count` members.
fn guests(count: usize) -> Vec<(&'static str, String)> {
    let devices = |part: &dyn Fn(usize) -> String| guest("", &repeat(count, part));
    vec![
        (
            "pairs",
            devices(&|_| {
                "<interface type='hostdev-hybrid'><source dev='eth1'/></interface>".to_owned()
            }),
        ),
        (
            "pairs of one MAC",
            devices(&|_| {
                "<interface type='network'><mac address='52:54:00:00:00:01'/>\
                 <source network='n'/></interface>"
                    .to_owned()
            }),
        ),
        (
            "disks",
            devices(&|n| {
                format!(
                    "<disk><source file='/d'/><target dev='vd{}' bus='virtio'/></disk>",
                    drive(n)
                )
            }),
        ),
        (
            "disks, last first",
            devices(&|n| {
                format!(
                    "<disk><source file='/d'/><target dev='vd{}' bus='virtio'/></disk>",
                    drive(count - n)
                )
            }),
        ),
        (
            "disks on sata",
            devices(&|n| format!("<disk><target dev='sd{}' bus='sata'/></disk>", drive(n))),
        ),
        (
            "disks of two buses",
            devices(&|n| {
                format!(
                    "<disk><target dev='{}d{}'/></disk>",
                    ["v", "s"][n % 2],
                    drive(n)
                )
            }),
        ),
        (
            "usb disks",
            devices(&|n| format!("<disk><target dev='sd{}' bus='usb'/></disk>", drive(n))),
        ),
        (
            "controllers",
            devices(&|n| format!("<controller type='usb' index='{n}' model='qemu-xhci'/>")),
        ),
        (
            "controllers, last first",
            devices(&|n| {
                format!(
                    "<controller type='usb' index='{}' model='qemu-xhci'/>",
                    count - n
                )
            }),
        ),
        (
            "controllers without index",
            devices(&|_| "<controller type='scsi'/>".to_owned()),
        ),
        (
            "usb companions",
            devices(&|n| format!("<controller type='usb' index='{n}' model='ich9-ehci1'/>")),
        ),
        (
            "wrong controllers",
            devices(&|_| "<controller type='x'/>\n".to_owned()),
        ),
        (
            "wrong disks",
            devices(&|_| "<disk device='x' type='y'/>".to_owned()),
        ),
        (
            "wrong interfaces",
            devices(&|_| "<interface type='x'><link state='y'/></interface>".to_owned()),
        ),
        ("hubs", devices(&|_| "<hub type='usb'/>".to_owned())),
        (
            "inputs",
            devices(&|_| "<input type='tablet' bus='usb'/>".to_owned()),
        ),
        (
            "channels",
            devices(&|n| {
                format!("<channel type='unix'><target type='virtio' name='c{n}'/></channel>")
            }),
        ),
        (
            "videos",
            devices(&|_| "<video><model type='vga'/></video>".to_owned()),
        ),
        (
            "graphics",
            devices(&|_| "<graphics type='vnc'/>".to_owned()),
        ),
        ("unknown devices", devices(&|n| format!("<x{n} y='z'/>"))),
        (
            "interfaces",
            devices(&|_| "<interface type='network'><source network='n'/></interface>".to_owned()),
        ),
        (
            "conventional interfaces",
            devices(&|_| "<interface type='user'/>".to_owned()),
        ),
        (
            "hostdevs",
            devices(&|n| {
                format!(
                    "<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='{}' bus='{}' slot='1' function='0'/></source></hostdev>",
                    n / 200,
                    1 + n % 200
                )
            }),
        ),
        (
            "usb hostdevs",
            devices(&|n| {
                format!(
                    "<hostdev mode='subsystem' type='usb'><source><address bus='1' device='{n}'/></source></hostdev>"
                )
            }),
        ),
        (
            "other hostdevs",
            devices(&|n| {
                format!(
                    "<hostdev mode='subsystem' type='{}'><source><adapter name='a'/><address bus='0' target='0' unit='0'/></source></hostdev>",
                    ["scsi", "mdev"][n % 2]
                )
            }),
        ),
        (
            "serial ports",
            devices(&|_| "<serial type='pty'/>".to_owned()),
        ),
        (
            "consoles",
            devices(&|_| "<console type='pty'><target type='virtio'/></console>".to_owned()),
        ),
        (
            "rngs",
            devices(&|_| "<rng model='virtio'><backend model='random'/></rng>".to_owned()),
        ),
        ("sounds", devices(&|_| "<sound model='ich9'/>".to_owned())),
        (
            "aliases",
            devices(&|n| format!("<hub type='usb'><alias name='ua-{n}'/></hub>")),
        ),
        (
            "boot orders",
            devices(&|n| format!("<hub type='usb'><boot order='{}'/></hub>", n + 1)),
        ),
        (
            "children of a disk",
            guest(
                "",
                &format!(
                    "<disk><target dev='vda'/>{}</disk>",
                    repeat(count, |n| format!("<x{n}/>"))
                ),
            ),
        ),
        (
            "children of an unknown device",
            guest(
                "",
                &format!(
                    "<tpm model='x'>{}</tpm>",
                    repeat(count, |n| format!("<x{n}/>"))
                ),
            ),
        ),
        (
            "timers",
            guest(
                &format!(
                    "<clock offset='utc'>{}</clock>",
                    repeat(count, |_| "<timer name='rtc'/>".to_owned())
                ),
                "",
            ),
        ),
        (
            "wrong timers",
            guest(
                &format!(
                    "<clock offset='utc'>{}</clock>",
                    repeat(count, |_| "<timer name='x'/>".to_owned())
                ),
                "",
            ),
        ),
        (
            "timers with more",
            guest(
                &format!(
                    "<clock offset='utc'><timer name='rtc'/>{}</clock>",
                    repeat(count, |n| format!("<timer x{n}='x'/>"))
                ),
                "",
            ),
        ),
        (
            "pins",
            guest(
                &format!(
                    "<vcpu cpuset='0-16383'>65535</vcpu><cputune>{}</cputune>",
                    repeat(count, |n| format!("<vcpupin vcpu='{n}' cpuset='0-16383'/>"))
                ),
                "",
            ),
        ),
        (
            "a long set",
            guest(
                &format!(
                    "<vcpu cpuset='{}0'>1</vcpu>",
                    repeat(count, |n| format!("{},", n * 2 % 16_384))
                ),
                "",
            ),
        ),
        (
            "a set of wide ranges",
            guest(
                &format!(
                    "<vcpu cpuset='{}0'>1</vcpu>",
                    repeat(count, |_| "0-16383,".to_owned())
                ),
                "",
            ),
        ),
        (
            "features",
            guest(
                &format!(
                    "<cpu>{}</cpu>",
                    repeat(count, |n| format!("<feature name='f{n}'/>"))
                ),
                "",
            ),
        ),
        (
            "cells",
            guest(
                &format!(
                    "<cpu><numa>{}</numa></cpu>",
                    repeat(count, |_| "<cell memory='1'/>".to_owned())
                ),
                "",
            ),
        ),
        (
            "unknown elements",
            guest(&repeat(count, |n| format!("<x{n} y='z'/>")), ""),
        ),
        (
            "one unknown element",
            guest(&repeat(count, |_| "<x/>".to_owned()), ""),
        ),
        (
            "several of an element",
            guest(
                &repeat(count, |_| "<clock offset='utc' x='y'/>".to_owned()),
                "",
            ),
        ),
        (
            "elements in other namespaces",
            guest(&repeat(count, |n| format!("<n{}:x/>", n % 250)), "").replacen(
                "<domain ",
                &format!(
                    "<domain {}",
                    repeat(250, |n| format!("xmlns:n{n}='urn:{n}' "))
                ),
                1,
            ),
        ),
        (
            "boots",
            guest(
                &format!(
                    "<os><type machine='q35'>hvm</type>{}</os>",
                    repeat(count, |_| "<boot dev='hd'/>".to_owned())
                ),
                "",
            ),
        ),
        (
            "metadata",
            guest(
                &format!(
                    "<metadata>{}</metadata>",
                    repeat(count, |_| "<a xmlns='urn:a'/>".to_owned())
                ),
                "",
            ),
        ),
    ]
}

fn networks(count: usize) -> Vec<(&'static str, String)> {
    let network = |inside: String| format!("<network><name>n</name>{inside}</network>");
    let hosts = |inside: String| {
        network(format!(
            "<ip address='10.0.0.1' prefix='8'><dhcp>{inside}</dhcp></ip>"
        ))
    };
    vec![
        (
            "interfaces",
            network(format!(
                "<forward mode='bridge'>{}</forward>",
                repeat(count, |n| format!("<interface dev='e{n}'/>"))
            )),
        ),
        (
            "addresses",
            network(format!(
                "<forward mode='hostdev'>{}</forward>",
                repeat(count, |n| format!(
                    "<address type='pci' domain='{}' bus='{}' slot='1'/>",
                    n / 200,
                    n % 200
                ))
            )),
        ),
        (
            "wrong addresses",
            network(format!(
                "<forward mode='hostdev'>{}</forward>",
                repeat(count, |_| "<address type='x'/>".to_owned())
            )),
        ),
        (
            "pfs",
            network(format!(
                "<forward mode='hostdev'>{}</forward>",
                repeat(count, |n| format!("<pf dev='e{n}'/>"))
            )),
        ),
        (
            "port groups",
            network(repeat(count, |n| format!("<portgroup name='g{n}'/>"))),
        ),
        (
            "wrong port groups",
            network(repeat(count, |_| "<portgroup/>".to_owned())),
        ),
        (
            "ips",
            network(repeat(count, |n| {
                format!(
                    "<ip address='10.{}.{}.1' prefix='24'/>",
                    n >> 8 & 255,
                    n & 255
                )
            })),
        ),
        (
            "wrong ips",
            network(repeat(count, |_| "<ip address='x'/>".to_owned())),
        ),
        (
            "routes",
            network(format!(
                "<ip address='10.0.0.1' prefix='8'/>{}",
                repeat(count, |_| {
                    "<route address='0.0.0.0' prefix='0' gateway='10.0.0.2'/>".to_owned()
                })
            )),
        ),
        (
            "hosts",
            hosts(repeat(count, |n| {
                format!("<host name='h{n}' ip='10.0.{}.{}'/>", n >> 8 & 255, n & 255)
            })),
        ),
        (
            "ranges",
            hosts(repeat(count, |_| {
                "<range start='10.0.0.2' end='10.255.255.254'/>".to_owned()
            })),
        ),
        (
            "names",
            network(format!(
                "<dns>{}</dns>",
                repeat(count, |n| format!(
                    "<host ip='10.0.0.1'><hostname>h{n}</hostname></host>"
                ))
            )),
        ),
        (
            "records",
            network(format!(
                "<dns>{}</dns>",
                repeat(count, |n| format!("<txt name='h{n}' value='x'/>"))
            )),
        ),
        (
            "tags",
            network(format!(
                "<forward mode='hostdev'/><vlan>{}</vlan>",
                repeat(count, |n| format!("<tag id='{}'/>", n % 4096))
            )),
        ),
        (
            "options",
            format!(
                "<network xmlns:d='http://libvirt.org/schemas/network/dnsmasq/1.0'><name>n</name><d:options>{}</d:options></network>",
                repeat(count, |_| "<d:option value='x'/>".to_owned())
            ),
        ),
        (
            "unknown elements",
            network(repeat(count, |n| format!("<x{n} y='z'/>"))),
        ),
        (
            "unknown attributes",
            network(repeat(count, |_| "<forward x='1'/>\n".to_owned())),
        ),
    ]
}

/// The processor's time of this thread so far: what else the machine does takes none of it.
fn worked() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(
        now.tv_sec.try_into().unwrap(),
        now.tv_nsec.try_into().unwrap(),
    )
}

/// How long a definition takes, in one size and ten times that size.
fn times(define: fn(&str), small: &str, large: &str) -> (Duration, Duration) {
    let time = |text: &str| {
        let start = worked();
        define(text);
        worked() - start
    };
    (time(small), time(large))
}

/// Ten times the length may take this many times as long. Where anything is compared pair by pair
/// it is a hundred times, and what else the machine does makes some of the difference.
const MOST: f64 = 40.0;

#[test]
fn ten_times_the_length_takes_about_ten_times_as_long() {
    const SMALL: usize = 100;
    let lists = pairs(SMALL, guests).map(|list| (define_guest as fn(&str), list));
    let networks = pairs(SMALL, networks).map(|list| (define_network as fn(&str), list));
    for (define, (name, small, large)) in lists.chain(networks) {
        // Once of a few times the machine is at rest.
        let is_linear = (0..5).any(|_| {
            let (short, long) = times(define, &small, &large);
            long.as_secs_f64() < MOST * short.as_secs_f64().max(0.000_5)
        });
        assert!(is_linear, "{name}");
    }
}

fn pairs(
    small: usize,
    lists: fn(usize) -> Vec<(&'static str, String)>,
) -> impl Iterator<Item = (&'static str, String, String)> {
    let large = lists(small * 10).into_iter().map(|(_, text)| text);
    let small = lists(small).into_iter();
    small
        .zip(large)
        .map(|((name, small), large)| (name, small, large))
}

/// Prints what each list takes: `COUNT=… cargo test -p conf --release --test scale -- --ignored
/// --nocapture`.
#[test]
#[ignore = "measures, and shows nothing of itself"]
fn measure() {
    let count: usize = std::env::var("COUNT").map_or(2_000, |count| count.parse().unwrap());
    let lists = pairs(count / 10, guests).map(|list| (define_guest as fn(&str), list));
    let networks = pairs(count / 10, networks).map(|list| (define_network as fn(&str), list));
    for (define, (name, small, large)) in lists.chain(networks) {
        let (short, long) = times(define, &small, &large);
        println!("{name:32} {short:>12.2?} {long:>12.2?}  {}", large.len());
    }
}

#[test]
fn the_first_twenty_faults_are_told_and_no_others() {
    let timers = guest(
        &format!(
            "<clock offset='utc'>{}</clock>",
            "<timer name='x'/>\n".repeat(100_000)
        ),
        "",
    );
    let controllers = guest("", &"<controller type='x'/>".repeat(8_000));
    let disks = guest("", &"<disk device='x' type='y'/>".repeat(8_000));
    for text in [timers, controllers, disks] {
        let error = Domain::parse(&text).unwrap_err();
        assert_eq!(error.also.len() + 1, conf::MAX_FAULTS);
        let told = error.to_string();
        assert!(
            told.ends_with("; there may be more than these 20"),
            "{told}"
        );
        assert!(told.len() < 20 * 200, "{told}");
    }
    let groups = format!(
        "<network><name>n</name>{}</network>",
        "<portgroup/>".repeat(100_000)
    );
    let error = Network::parse(&groups).unwrap_err();
    assert_eq!(error.also.len() + 1, conf::MAX_FAULTS);
}

#[test]
fn no_error_is_as_long_as_what_it_tells_of() {
    let long = "\u{e9}".repeat(500_000);
    let disk = format!("<disk><target dev='{long}'/></disk>");
    let twice = guest("", &disk.repeat(2));
    let mut domain = Domain::parse(&twice).unwrap();
    domain.fill_defaults();
    let feature = format!(
        "<cpu>{}</cpu>",
        format!("<feature name='{long}'/>").repeat(2)
    );
    for error in [
        domain.validate().unwrap_err(),
        Domain::parse(&guest(&feature, "")).unwrap_err(),
        Domain::parse(&guest("", &format!("<disk type='{long}'/>"))).unwrap_err(),
        Domain::parse(&format!("<{long}/>")).unwrap_err(),
        conf::grammar::unread(&format!("<network><{long} {long}=''/></network>"))
            .unwrap()
            .remove(0),
        Network::parse(&format!("<network><name>{long}</name></network>")).unwrap_err(),
    ] {
        let told = error.to_string();
        assert!(told.len() < 3_000, "{} bytes", told.len());
    }
}

#[test]
fn what_could_not_be_read_again_is_not_kept() {
    // Written with blanks between its elements it would have too many nodes.
    let crowded = guest(&"<x/>".repeat(200_000), "");
    let notes = "n".repeat(3 << 20);
    let long = guest(&format!("<description>{notes}</description>"), "");
    for text in [crowded, long] {
        let refused = Domain::parse(&text).unwrap().validate().unwrap_err();
        assert_eq!(refused.kind, ErrorKind::ConfigUnsupported);
        assert!(
            refused.message.contains("too large to be kept"),
            "{refused}"
        );
    }
    let groups = "<portgroup name='a'><vlan><tag id='1'/></vlan></portgroup>".repeat(40_000);
    let network = Network::parse(&format!("<network><name>n</name>{groups}</network>")).unwrap();
    let refused = network.validate().unwrap_err();
    assert!(
        refused.message.contains("too large to be kept"),
        "{refused}"
    );
}

#[test]
fn a_deep_element_is_not_blown_up_by_its_indentation() {
    let (open, close) = ("<a>".repeat(240), "</a>".repeat(240));
    let inner = "<b/>".repeat(50_000);
    let text = guest(&format!("<sysinfo>{open}{inner}{close}</sysinfo>"), "");
    let written = Domain::parse(&text).unwrap().to_xml(Form::Inactive);
    assert!(written.len() < 2 * text.len(), "{}", written.len());
}

#[test]
fn a_guest_has_no_more_devices_than_its_buses_hold() {
    let hubs = |count: usize| guest("", &"<hub type='usb'/>".repeat(count));
    let refused = Domain::parse(&hubs(conf::MAX_DEVICES + 1)).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::ConfigUnsupported);
    assert!(
        refused.to_string().contains("more than 8192 devices"),
        "{refused}"
    );
    // What is filled in counts, too: what was defined can always be read again.
    let mut full = Domain::parse(&hubs(conf::MAX_DEVICES)).unwrap();
    full.fill_defaults();
    let refused = full.assign_addresses(&|_| true).unwrap_err();
    assert!(
        refused.to_string().contains("more than 8192 devices"),
        "{refused}"
    );
    let mut most = Domain::parse(&hubs(conf::MAX_DEVICES - 50)).unwrap();
    most.fill_defaults();
    most.assign_addresses(&|_| true).unwrap();
    Domain::parse(&most.to_xml(Form::Inactive)).unwrap();
}

#[test]
fn numbers_in_a_document_make_nothing_of_their_own_size() {
    let mut devices = String::new();
    for kind in ["scsi", "sata", "virtio-serial", "usb", "ccid"] {
        devices += &format!("<controller type='{kind}' index='2147483647'/>");
    }
    devices += "<disk><target dev='sda' bus='sata'/>\
                <address type='drive' controller='5' unit='4294967295'/></disk>\
                <channel type='unix'><target type='virtio'/><address type='virtio-serial' \
                controller='4294967295' bus='0' port='4294967295'/></channel>\
                <input type='tablet' bus='usb'><address type='usb' bus='4294967295' port='1'/></input>\
                <serial type='pty'><target port='4294967295'/></serial><serial type='pty'/>\
                <controller type='usb' index='1' model='qemu-xhci' ports='4294967295'/>\
                <hostdev mode='subsystem' type='pci'><source><address bus='1'/></source>\
                <address type='pci' bus='200'/></hostdev>";
    let elements = "<vcpu cpuset='0-16383' current='1'>65535</vcpu><iothreads>4294967295</iothreads>\
                    <cpu><topology sockets='65535' cores='65535' threads='65535'/>\
                    <numa><cell cpus='0-65534' memory='1'/></numa></cpu>";
    let mut domain = Domain::parse(&guest(elements, &devices)).unwrap();
    domain.fill_defaults();
    domain.assign_addresses(&|_| true).unwrap();
    domain.assign_usb_addresses();
    domain.assign_aliases();
    assert!(domain.devices.count() < 600, "{}", domain.devices.count());
    let text = domain.to_status_xml();
    assert!(text.len() < 200_000, "{}", text.len());
    let drive = "<disk><target dev='sda' bus='sata'/>\
                 <address type='drive' controller='4294967295'/></disk>";
    let mut crowded = Domain::parse(&guest("", drive)).unwrap();
    crowded.fill_defaults();
    assert!(crowded.devices.count() < 300);
    let beyond = guest(
        "",
        "<controller type='pci' index='4000000000' model='pcie-root-port'/>",
    );
    assert!(Domain::parse(&beyond).is_err());
}
