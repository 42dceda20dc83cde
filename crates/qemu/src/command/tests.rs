//! What a document becomes, beyond the cases that are files.

use conf::{Domain, GuestAddress, MacAddress, PciAddress, Teaming};
use serde_json::json;

use super::*;

/// A document as it is before a start: defaults, addresses and aliases filled in.
fn filled(xml: &str) -> Domain {
    let mut domain = Domain::parse(xml).unwrap();
    domain.fill_defaults();
    domain.assign_addresses(&|_| true).unwrap();
    domain.assign_aliases();
    domain
}

fn guest(kind: &str, more: &str, devices: &str) -> Domain {
    filled(&format!(
        "<domain type='{kind}'><name>g</name><memory>131072</memory><vcpu>2</vcpu>
           <os><type arch='x86_64' machine='q35'>hvm</type></os>{more}
           <devices>{devices}</devices></domain>"
    ))
}

fn line(domain: &Domain) -> CommandLine {
    command_line(domain, &Resources::default()).unwrap()
}

/// The value of an option.
fn value<'a>(line: &'a CommandLine, option: &str) -> Option<&'a str> {
    let place = line.args.iter().position(|arg| arg == option)?;
    line.args.get(place + 1).map(String::as_str)
}

fn device(line: &CommandLine, id: &str) -> serde_json::Value {
    let devices = line
        .args
        .iter()
        .filter(|arg| arg.starts_with("{\"driver\""));
    let mut devices = devices.map(|arg| serde_json::from_str::<serde_json::Value>(arg).unwrap());
    devices.find(|device| device["id"] == id).unwrap()
}

#[test]
fn everything_that_is_not_carried_out_is_refused_at_once() {
    let domain = guest(
        "qemu",
        "<memoryBacking><locked/></memoryBacking>",
        "<tpm model='tpm-tis'><backend type='emulator'/></tpm>
         <interface type='mcast'><mac address='52:54:00:00:00:01'/>
           <source address='239.0.0.1' port='5558'/><model type='virtio'/></interface>",
    );
    let error = command_line(&domain, &Resources::default()).unwrap_err();
    let text = error.to_string();
    for name in ["memoryBacking", "tpm", "mcast"] {
        assert!(text.contains(name), "{name}: {text}");
    }
    assert!(error.problems.len() >= 3, "{text}");
}

#[test]
fn processors_are_as_the_document_says() {
    let cpu = |kind: &str, cpu: &str| {
        let line = line(&guest(kind, cpu, ""));
        value(&line, "-cpu").unwrap().to_owned()
    };
    assert_eq!(
        cpu("kvm", "<cpu mode='host-passthrough'/>"),
        "host,migratable=on"
    );
    assert_eq!(cpu("qemu", "<cpu mode='maximum'/>"), "max");
    assert_eq!(
        cpu(
            "kvm",
            "<cpu mode='custom' match='exact' check='full'><model>Haswell</model>
               <feature policy='require' name='vmx'/><feature policy='disable' name='hle'/></cpu>"
        ),
        "Haswell,vmx=on,hle=off,enforce=on"
    );
    let passthrough = guest("qemu", "<cpu mode='host-passthrough'/>", "");
    let error = command_line(&passthrough, &Resources::default()).unwrap_err();
    assert!(error.to_string().contains("without KVM"), "{error}");
}

#[test]
fn clocks_are_as_the_document_says() {
    let with = |kind: &str, timers: &str| {
        let clock = format!("<clock offset='localtime'>{timers}</clock>");
        line(&guest(kind, &clock, ""))
    };
    let plain = with("kvm", "");
    assert_eq!(value(&plain, "-rtc"), Some("base=localtime"));
    assert_eq!(value(&plain, "-global"), None);
    assert!(!value(&plain, "-machine").unwrap().contains("hpet"));

    let usual = with(
        "kvm",
        "<timer name='rtc' tickpolicy='catchup'/><timer name='pit' tickpolicy='delay'/>
         <timer name='hpet' present='no'/>",
    );
    assert_eq!(value(&usual, "-rtc"), Some("base=localtime,driftfix=slew"));
    assert_eq!(
        value(&usual, "-global"),
        Some("kvm-pit.lost_tick_policy=delay")
    );
    assert!(
        value(&usual, "-machine")
            .unwrap()
            .contains(",hpet=off,acpi=off")
    );

    let rest = with(
        "kvm",
        "<timer name='pit' tickpolicy='discard'/><timer name='hpet' present='yes'/>
         <timer name='kvmclock' present='no'/><timer name='hypervclock' present='yes'/>",
    );
    assert_eq!(
        value(&rest, "-global"),
        Some("kvm-pit.lost_tick_policy=discard")
    );
    assert!(value(&rest, "-machine").unwrap().contains(",hpet=on,"));
    assert_eq!(value(&rest, "-cpu"), Some("qemu64,kvmclock=off,hv-time=on"));
    let catchup = with("kvm", "<timer name='pit' tickpolicy='catchup'/>");
    assert_eq!(value(&catchup, "-global"), None);

    for (timer, named) in [
        ("name='tsc' frequency='1'", "timer[1]/@name='tsc'"),
        ("name='rtc' track='guest'", "timer/@track"),
        ("name='rtc' present='no'", "timer[1]/@present='no'"),
        (
            "name='pit' tickpolicy='merge'",
            "timer[1]/@tickpolicy='merge'",
        ),
        (
            "name='kvmclock' tickpolicy='delay'",
            "timer[1]/@tickpolicy='delay'",
        ),
    ] {
        let clock = format!("<clock offset='utc'><timer {timer}/></clock>");
        let error = command_line(&guest("kvm", &clock, ""), &Resources::default()).unwrap_err();
        assert!(error.to_string().contains(named), "{timer}: {error}");
    }
}

#[test]
fn power_and_vmport_are_said_only_if_the_document_does() {
    let plain = line(&guest("qemu", "", ""));
    assert_eq!(value(&plain, "-global"), None);
    assert!(!value(&plain, "-machine").unwrap().contains("vmport"));
    let pm = "<pm><suspend-to-mem enabled='yes'/></pm><features><vmport state='off'/></features>";
    let said = line(&guest("qemu", pm, ""));
    assert_eq!(value(&said, "-global"), Some("ICH9-LPC.disable_s3=0"));
    let machine = value(&said, "-machine").unwrap();
    assert!(machine.starts_with("q35,usb=off,vmport=off,"), "{machine}");
    let mut old = guest("qemu", pm, "");
    old.os.machine = "pc".to_owned();
    let old = arguments(&old, &Resources::default()).0;
    assert!(old.contains(&"PIIX4_PM.disable_s3=0".to_owned()), "{old:?}");
}

#[test]
fn usb_inputs_have_a_port_each() {
    let mut domain = guest(
        "qemu",
        "",
        "<input type='tablet' bus='usb'/><input type='keyboard' bus='usb'/>",
    );
    domain.assign_usb_addresses();
    let line = line(&domain);
    for (id, driver, port) in [("input0", "usb-tablet", "1"), ("input1", "usb-kbd", "2")] {
        let expected = json!({"driver": driver, "id": id, "bus": "usb.0", "port": port});
        assert_eq!(device(&line, id), expected);
    }
}

#[test]
fn a_channel_is_a_socket_and_a_port() {
    let channel = |source: &str, target: &str| {
        format!("<channel type='unix'>{source}<target type='virtio' {target}/></channel>")
    };
    let domain = guest(
        "qemu",
        "",
        &[
            channel("", "name='org.qemu.guest_agent.0'"),
            channel("<source mode='bind' path='/run/a'/>", ""),
        ]
        .concat(),
    );
    let error = command_line(&domain, &Resources::default()).unwrap_err();
    assert!(error.to_string().contains("channel0"), "{error}");
    let channels = [("channel0".to_owned(), 8), ("channel1".to_owned(), 9)];
    let resources = Resources {
        channels: channels.into(),
        ..Resources::default()
    };
    let line = command_line(&domain, &resources).unwrap();
    let socket = "socket,id=charchannel1,fd=9,server=on,wait=off".to_owned();
    assert!(line.args.contains(&socket), "{line}");
    assert_eq!(
        device(&line, "channel1"),
        json!({"driver": "virtserialport", "bus": "virtio-serial0.0", "nr": 2,
               "chardev": "charchannel1", "id": "channel1"})
    );
    // One that connects to somebody else is not ours to serve.
    let other = guest(
        "qemu",
        "",
        &channel("<source mode='connect' path='/run/a'/>", ""),
    );
    let error = command_line(&other, &resources).unwrap_err();
    assert!(error.to_string().contains("channel"), "{error}");
}

#[test]
fn processors_that_come_later_are_counted() {
    let mut domain = guest("qemu", "", "");
    domain.current_vcpus = Some(1);
    let line = line(&domain);
    assert_eq!(
        value(&line, "-smp"),
        Some("1,maxcpus=2,sockets=2,cores=1,threads=1")
    );
}

#[test]
fn a_kernel_is_booted_directly() {
    let mut domain = guest("qemu", "", "");
    domain.os.kernel = Some("/boot/vmlinuz".to_owned());
    domain.os.initrd = Some("/boot/initrd".to_owned());
    domain.os.cmdline = Some("console=ttyS0,115200 quiet".to_owned());
    let line = line(&domain);
    assert_eq!(value(&line, "-kernel"), Some("/boot/vmlinuz"));
    assert_eq!(value(&line, "-initrd"), Some("/boot/initrd"));
    assert_eq!(value(&line, "-append"), Some("console=ttyS0,115200 quiet"));
}

#[test]
fn names_with_commas_stay_whole() {
    let mut domain = guest("qemu", "", "");
    domain.name = "a,debug-threads=off".to_owned();
    let line = line(&domain);
    assert_eq!(
        value(&line, "-name"),
        Some("guest=a,,debug-threads=off,debug-threads=on")
    );
}

#[test]
fn the_system_s_boot_order_reaches_the_devices() {
    let mut domain = guest(
        "qemu",
        "",
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
           <source file='/i.qcow2'/><target dev='vda' bus='virtio'/></disk>
         <interface type='hostdev'><mac address='52:54:00:00:00:01'/>
           <source><address type='pci' bus='3' slot='16' function='1'/></source></interface>",
    );
    domain.os.boot = vec!["network".to_owned(), "hd".to_owned()];
    let line = line(&domain);
    assert_eq!(device(&line, "virtio-disk0")["bootindex"], 2);
    let vf = device(&line, "hostdev0");
    assert_eq!(vf["bootindex"], 1);
    assert_eq!(vf["host"], "0000:03:10.1");
    assert_eq!(vf.get("mac"), None, "the VF has it");
}

#[test]
fn a_disk_has_its_cache_and_its_nodes() {
    let domain = guest(
        "qemu",
        "",
        "<disk type='block' device='disk'>
           <driver name='qemu' type='qcow2' cache='none' io='native' discard='unmap'/>
           <source dev='/dev/vg/guest'/><target dev='vda' bus='virtio'/></disk>
         <disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>",
    );
    let line = line(&domain);
    let nodes: Vec<_> = line
        .args
        .iter()
        .zip(&line.args[1..])
        .filter(|(option, _)| *option == "-blockdev")
        .map(|(_, node)| serde_json::from_str::<serde_json::Value>(node).unwrap())
        .collect();
    let cache = json!({ "direct": true, "no-flush": false });
    assert_eq!(
        nodes,
        [
            json!({
                "driver": "host_device", "filename": "/dev/vg/guest", "aio": "native",
                "node-name": "virtio-disk0-storage", "auto-read-only": true, "discard": "unmap",
                "cache": cache,
            }),
            json!({
                "driver": "qcow2", "node-name": "virtio-disk0-format", "read-only": false,
                "discard": "unmap", "cache": cache, "file": "virtio-disk0-storage",
            }),
        ]
    );
    let disk = device(&line, "virtio-disk0");
    assert_eq!(disk["drive"], "virtio-disk0-format");
    assert_eq!(disk["write-cache"], "on");
    let tray = device(&line, "sata0-0-0");
    assert_eq!(tray["driver"], "ide-cd");
    assert_eq!(tray.get("drive"), None, "an empty tray");
}

#[test]
fn files_that_we_opened_are_handed_over() {
    let domain = guest(
        "qemu",
        "",
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/>
           <source file='/i.img'/><target dev='vda' bus='virtio'/></disk>
         <serial type='file'><source path='/log'/></serial>",
    );
    let mut resources = Resources::default();
    resources
        .files
        .insert("virtio-disk0".to_owned(), vec![7, 8]);
    resources.files.insert("serial0".to_owned(), vec![9]);
    let line = command_line(&domain, &resources).unwrap();
    let text = line.args.join(" ");
    assert!(
        text.contains("-add-fd set=0,fd=7,opaque=virtio-disk0"),
        "{text}"
    );
    assert!(
        text.contains("-add-fd set=0,fd=8,opaque=virtio-disk0"),
        "{text}"
    );
    assert!(text.contains(r#""filename":"/dev/fdset/0""#), "{text}");
    assert!(
        text.contains("-chardev file,id=charserial0,path=/dev/fdset/1,append=on"),
        "{text}"
    );
    assert!(!text.contains("/i.img") && !text.contains("/log"), "{text}");
}

#[test]
fn an_interface_whose_network_gave_it_nothing_is_named() {
    let domain = guest(
        "qemu",
        "",
        "<interface type='network'><mac address='52:54:00:00:00:01'/>
           <source network='fast'/><model type='virtio'/></interface>",
    );
    let error = command_line(&domain, &Resources::default()).unwrap_err();
    assert_eq!(error.problems, [Problem::NotConnected("net0".to_owned())]);
}

#[test]
fn a_device_on_a_bus_that_is_not_there_is_named() {
    let mut domain = guest("qemu", "", "<memballoon model='virtio'/>");
    let balloon = domain.devices.memballoon.as_mut().unwrap();
    balloon.info.address = Some(GuestAddress::Pci {
        address: PciAddress::new(0, 77, 0, 0).unwrap(),
        multifunction: None,
    });
    let error = command_line(&domain, &Resources::default()).unwrap_err();
    assert!(error.to_string().contains("PCI controller 77"), "{error}");
}

#[test]
fn a_pair_of_devices_can_be_plugged_into_a_running_guest() {
    let mut domain = guest(
        "qemu",
        "",
        "<interface type='bridge'><mac address='52:54:00:00:00:01'/>
           <source bridge='br0'/><model type='virtio'/></interface>",
    );
    let mut standby = domain.devices.interfaces.remove(0);
    standby.teaming = Some(Teaming::Persistent);
    standby.mac = MacAddress::new([0x52, 0x54, 0, 0, 0, 2]);
    let names = ["tapfd-net00".to_owned()];
    assert_eq!(
        nic_netdev(&standby, 0, &names, &[]).unwrap(),
        json!({ "type": "tap", "fd": "tapfd-net00", "id": "hostnet0" })
    );
    let device = nic_device(&domain, &standby, 1).unwrap();
    assert_eq!(device["failover"], true);
    assert_eq!(device["mac"], "52:54:00:00:00:02");

    let mut info = standby.info.clone();
    info.alias = Some("hostdev0".to_owned());
    let teaming = Teaming::Transient {
        persistent: "net0".to_owned(),
    };
    let host = PciAddress::new(0, 3, 16, 1).unwrap();
    let primary = hostdev_device(&domain, &info, Some(&teaming), host).unwrap();
    assert_eq!(primary["failover_pair_id"], "net0");
    assert_eq!(primary["bus"], device["bus"]);
    info.alias = None;
    assert!(hostdev_device(&domain, &info, None, host).is_err());
}

#[test]
fn memory_is_locked_for_devices_that_reach_it() {
    use host::MemoryLock;

    let vf = "<interface type='hostdev'><mac address='52:54:00:00:00:01'/>
                <source><address type='pci' bus='3' slot='16' function='1'/></source></interface>";
    let gib = 1 << 30;
    let memory = 131_072 * 1024;
    assert_eq!(crate::memory_lock(&guest("kvm", "", "")), None);
    assert_eq!(
        crate::memory_lock(&guest("kvm", "", vf)),
        Some(MemoryLock::AtLeast(memory + gib))
    );
    let limited = "<memtune><hard_limit unit='GiB'>3</hard_limit></memtune>";
    assert_eq!(
        crate::memory_lock(&guest("kvm", limited, vf)),
        Some(MemoryLock::AtLeast(3 * gib))
    );
}

#[test]
fn a_shell_gets_back_each_argument() {
    let line = CommandLine {
        program: "/usr/bin/printf".into(),
        args: [
            "%s|",
            "-a",
            "it's",
            "",
            "{\"a\":\"b c\"}",
            "$HOME `x` \\ \n",
        ]
        .map(str::to_owned)
        .into(),
    };
    let output = std::process::Command::new("/bin/sh")
        .args(["-c", &line.to_string()])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "-a|it's||{\"a\":\"b c\"}|$HOME `x` \\ \n|"
    );
}

#[test]
fn what_is_withheld_is_not_there_and_its_port_is() {
    let pair = |source: &str| {
        format!(
            "<interface type='hostdev'><mac address='52:54:00:00:00:01'/>
               <source>{source}</source><alias name='ua-vf'/>
               <teaming type='transient' persistent='ua-standby'/></interface>
             <interface type='user'><mac address='52:54:00:00:00:01'/>
               <model type='virtio'/><alias name='ua-standby'/>
               <teaming type='persistent'/></interface>"
        )
    };
    let host = "<address type='pci' bus='3' slot='16' function='1'/>";
    let mut domain = guest("qemu", "", &pair(host));
    domain.os.boot = vec!["network".to_owned()];
    let all = line(&domain);
    let vf = device(&all, "ua-vf");
    assert_eq!(vf["failover_pair_id"], "ua-standby");
    assert_eq!(vf["bootindex"], 1);

    let withholding = Resources {
        withheld: ["ua-vf".to_owned()].into(),
        ..Resources::default()
    };
    let without = command_line(&domain, &withholding).unwrap();
    let text = without.to_string();
    assert!(!text.contains("ua-vf") && !text.contains("vfio"), "{text}");
    let standby = device(&without, "ua-standby");
    assert_eq!(standby["failover"], true);
    assert_eq!(
        standby["bootindex"], 1,
        "the guest boots from the card that is there"
    );
    let port = vf["bus"].as_str().unwrap();
    assert_eq!(
        device(&without, port),
        device(&all, port),
        "it waits for the VF"
    );

    // A primary that has no VF, or none that is known yet.
    domain.devices.interfaces[0].source = conf::InterfaceSource::Network {
        network: "pool".to_owned(),
        port_group: None,
    };
    assert!(command_line(&domain, &Resources::default()).is_err());
    assert_eq!(command_line(&domain, &withholding).unwrap(), without);
}
