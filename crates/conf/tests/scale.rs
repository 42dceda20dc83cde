//! Work grows with a document's length, and no faster: each list here is read, filled in, placed, written and read again
//! in two sizes. The larger is ten times the smaller and may take thirty times as long; where anything is compared pair by
//! pair it takes a hundred times as long.

use std::hint::black_box;
use std::time::{Duration, Instant};

use conf::{Domain, Form, Network};

/// All that is done with a guest's document before it is defined.
fn define_guest(text: &str) {
    let _ = black_box(conf::grammar::unread(text));
    let Ok(mut domain) = Domain::parse(text) else {
        return;
    };
    let _ = black_box(domain.unsupported());
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
        ("disks", devices(&|n| format!("<disk><source file='/d'/><target dev='vd{}' bus='virtio'/></disk>", drive(n)))),
        ("disks, last first", devices(&|n| format!("<disk><source file='/d'/><target dev='vd{}' bus='virtio'/></disk>", drive(count - n)))),
        ("disks on sata", devices(&|n| format!("<disk><target dev='sd{}' bus='sata'/></disk>", drive(n)))),
        ("disks of two buses", devices(&|n| format!("<disk><target dev='{}d{}'/></disk>", ["v", "s"][n % 2], drive(n)))),
        ("usb disks", devices(&|n| format!("<disk><target dev='sd{}' bus='usb'/></disk>", drive(n)))),
        ("controllers", devices(&|n| format!("<controller type='usb' index='{n}' model='qemu-xhci'/>"))),
        ("controllers, last first", devices(&|n| format!("<controller type='usb' index='{}' model='qemu-xhci'/>", count - n))),
        ("controllers without index", devices(&|_| "<controller type='scsi'/>".to_owned())),
        ("usb companions", devices(&|n| format!("<controller type='usb' index='{n}' model='ich9-ehci1'/>"))),
        ("wrong controllers", devices(&|_| "<controller type='x'/>\n".to_owned())),
        ("wrong disks", devices(&|_| "<disk device='x' type='y'/>".to_owned())),
        ("wrong interfaces", devices(&|_| "<interface type='x'><link state='y'/></interface>".to_owned())),
        ("hubs", devices(&|_| "<hub type='usb'/>".to_owned())),
        ("inputs", devices(&|_| "<input type='tablet' bus='usb'/>".to_owned())),
        ("channels", devices(&|n| format!("<channel type='unix'><target type='virtio' name='c{n}'/></channel>"))),
        ("videos", devices(&|_| "<video><model type='vga'/></video>".to_owned())),
        ("graphics", devices(&|_| "<graphics type='vnc'/>".to_owned())),
        ("unknown devices", devices(&|n| format!("<x{n} y='z'/>"))),
        ("interfaces", devices(&|_| "<interface type='network'><source network='n'/></interface>".to_owned())),
        ("conventional interfaces", devices(&|_| "<interface type='user'/>".to_owned())),
        ("hostdevs", devices(&|n| format!("<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='{}' bus='{}' slot='1' function='0'/></source></hostdev>", n / 200, 1 + n % 200))),
        ("usb hostdevs", devices(&|n| format!("<hostdev mode='subsystem' type='usb'><source><address bus='1' device='{n}'/></source></hostdev>"))),
        ("other hostdevs", devices(&|n| format!("<hostdev mode='subsystem' type='{}'><source><adapter name='a'/><address bus='0' target='0' unit='0'/></source></hostdev>", ["scsi", "mdev"][n % 2]))),
        ("serial ports", devices(&|_| "<serial type='pty'/>".to_owned())),
        ("consoles", devices(&|_| "<console type='pty'><target type='virtio'/></console>".to_owned())),
        ("rngs", devices(&|_| "<rng model='virtio'><backend model='random'/></rng>".to_owned())),
        ("sounds", devices(&|_| "<sound model='ich9'/>".to_owned())),
        ("aliases", devices(&|n| format!("<hub type='usb'><alias name='ua-{n}'/></hub>"))),
        ("boot orders", devices(&|n| format!("<hub type='usb'><boot order='{}'/></hub>", n + 1))),
        ("children of a disk", guest("", &format!("<disk><target dev='vda'/>{}</disk>", repeat(count, |n| format!("<x{n}/>"))))),
        ("children of an unknown device", guest("", &format!("<tpm model='x'>{}</tpm>", repeat(count, |n| format!("<x{n}/>"))))),
        ("timers", guest(&format!("<clock offset='utc'>{}</clock>", repeat(count, |_| "<timer name='rtc'/>".to_owned())), "")),
        ("wrong timers", guest(&format!("<clock offset='utc'>{}</clock>", repeat(count, |_| "<timer name='x'/>".to_owned())), "")),
        ("timers with more", guest(&format!("<clock offset='utc'><timer name='rtc'/>{}</clock>", repeat(count, |n| format!("<timer x{n}='x'/>"))), "")),
        ("pins", guest(&format!("<vcpu cpuset='0-16383'>65535</vcpu><cputune>{}</cputune>", repeat(count, |n| format!("<vcpupin vcpu='{n}' cpuset='0-16383'/>"))), "")),
        ("a long set", guest(&format!("<vcpu cpuset='{}0'>1</vcpu>", repeat(count, |n| format!("{},", n * 2 % 16_384))), "")),
        ("a set of wide ranges", guest(&format!("<vcpu cpuset='{}0'>1</vcpu>", repeat(count, |_| "0-16383,".to_owned())), "")),
        ("features", guest(&format!("<cpu>{}</cpu>", repeat(count, |n| format!("<feature name='f{n}'/>"))), "")),
        ("cells", guest(&format!("<cpu><numa>{}</numa></cpu>", repeat(count, |_| "<cell memory='1'/>".to_owned())), "")),
        ("unknown elements", guest(&repeat(count, |n| format!("<x{n} y='z'/>")), "")),
        ("one unknown element", guest(&repeat(count, |_| "<x/>".to_owned()), "")),
        ("several of an element", guest(&repeat(count, |_| "<clock offset='utc' x='y'/>".to_owned()), "")),
        ("boots", guest(&format!("<os><type machine='q35'>hvm</type>{}</os>", repeat(count, |_| "<boot dev='hd'/>".to_owned())), "")),
        ("metadata", guest(&format!("<metadata>{}</metadata>", repeat(count, |_| "<a xmlns='urn:a'/>".to_owned())), "")),
    ]
}

fn networks(count: usize) -> Vec<(&'static str, String)> {
    let network = |inside: String| format!("<network><name>n</name>{inside}</network>");
    let hosts = |inside: String| {
        network(format!("<ip address='10.0.0.1' prefix='8'><dhcp>{inside}</dhcp></ip>"))
    };
    vec![
        ("interfaces", network(format!("<forward mode='bridge'>{}</forward>", repeat(count, |n| format!("<interface dev='e{n}'/>"))))),
        ("addresses", network(format!("<forward mode='hostdev'>{}</forward>", repeat(count, |n| format!("<address type='pci' domain='{}' bus='{}' slot='1'/>", n / 200, n % 200))))),
        ("wrong addresses", network(format!("<forward mode='hostdev'>{}</forward>", repeat(count, |_| "<address type='x'/>".to_owned())))),
        ("pfs", network(format!("<forward mode='hostdev'>{}</forward>", repeat(count, |n| format!("<pf dev='e{n}'/>"))))),
        ("port groups", network(repeat(count, |n| format!("<portgroup name='g{n}'/>")))),
        ("wrong port groups", network(repeat(count, |_| "<portgroup/>".to_owned()))),
        ("ips", network(repeat(count, |n| format!("<ip address='10.{}.{}.1' prefix='24'/>", n >> 8 & 255, n & 255)))),
        ("wrong ips", network(repeat(count, |_| "<ip address='x'/>".to_owned()))),
        ("routes", network(format!("<ip address='10.0.0.1' prefix='8'/>{}", repeat(count, |_| "<route address='0.0.0.0' prefix='0' gateway='10.0.0.2'/>".to_owned())))),
        ("hosts", hosts(repeat(count, |n| format!("<host name='h{n}' ip='10.0.{}.{}'/>", n >> 8 & 255, n & 255)))),
        ("ranges", hosts(repeat(count, |_| "<range start='10.0.0.2' end='10.255.255.254'/>".to_owned()))),
        ("names", network(format!("<dns>{}</dns>", repeat(count, |n| format!("<host ip='10.0.0.1'><hostname>h{n}</hostname></host>"))))),
        ("records", network(format!("<dns>{}</dns>", repeat(count, |n| format!("<txt name='h{n}' value='x'/>"))))),
        ("tags", network(format!("<forward mode='hostdev'/><vlan>{}</vlan>", repeat(count, |n| format!("<tag id='{}'/>", n % 4096))))),
        ("options", format!("<network xmlns:d='http://libvirt.org/schemas/network/dnsmasq/1.0'><name>n</name><d:options>{}</d:options></network>", repeat(count, |_| "<d:option value='x'/>".to_owned()))),
        ("unknown elements", network(repeat(count, |n| format!("<x{n} y='z'/>")))),
        ("unknown attributes", network(repeat(count, |_| "<forward x='1'/>\n".to_owned()))),
    ]
}

/// The least of a few tries: what else the machine does is not to be measured.
fn time(work: impl Fn()) -> Duration {
    let tries = (0..3).map(|_| {
        let start = Instant::now();
        work();
        start.elapsed()
    });
    tries.min().unwrap()
}

#[test]
#[ignore]
fn measure() {
    let count: usize = std::env::var("COUNT").map_or(2_000, |c| c.parse().unwrap());
    for (make, define) in [
        (guests as fn(usize) -> Vec<(&'static str, String)>, define_guest as fn(&str)),
        (networks, define_network),
    ] {
        for ((name, small), (_, large)) in make(count / 10).into_iter().zip(make(count)) {
            let (a, b) = (time(|| define(&small)), {let s = Instant::now(); define(&large); s.elapsed()});
            println!("{name:32} {:8.2} ms {:10.2} ms  x{:.0}", a.as_secs_f64() * 1e3, b.as_secs_f64() * 1e3, b.as_secs_f64() / a.as_secs_f64());
        }
    }
}
