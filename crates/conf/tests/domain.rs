//! Domains and their devices: what is kept, what is refused, what a running guest shows.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use conf::{
    ActualDevice, Domain, ErrorKind, Form, HostDevice, HostSource, Interface, InterfaceSource,
    PciAddress, Plug, UsbSource,
};

fn guest(machine: &str, top: &str, devices: &str) -> String {
    format!(
        "<domain type='qemu'>
  <name>g</name>
  <uuid>c7a5fdbd-edaf-9455-926a-d65c16db1809</uuid>
  <memory unit='MiB'>64</memory>
  {top}
  <os><type machine='{machine}'>hvm</type></os>
  <devices>{devices}</devices>
</domain>"
    )
}

fn defined(text: &str) -> Domain {
    let mut domain = Domain::parse(text).unwrap();
    domain.fill_defaults();
    domain.assign_addresses(&|_| true).unwrap();
    domain.validate().unwrap();
    domain
}

fn refused(text: &str) -> conf::Error {
    let mut domain = match Domain::parse(text) {
        Ok(domain) => domain,
        Err(error) => return error,
    };
    domain.fill_defaults();
    domain.assign_addresses(&|_| true).unwrap_err()
}

fn pci(text: &str) -> PciAddress {
    text.parse().unwrap()
}

const VF: &str = "<interface type='hostdev' managed='yes'>
  <source><address type='pci' bus='0x03' slot='0x10'/></source>
</interface>";

#[test]
fn weakness_19_a_pool_interface_gets_an_express_slot_before_its_network_is_known() {
    let domain = defined(&guest(
        "q35",
        "",
        "<interface type='network'><source network='vfs'/></interface>",
    ));
    let nic = &domain.devices.interfaces[0];
    assert_eq!(nic.model, None);
    assert_eq!(nic.info.pci_address(), Some(pci("0000:01:00.0")));
}

#[test]
fn a_conventional_host_device_goes_behind_a_bridge() {
    let text = guest("q35", "", VF);
    let place = |express: bool| {
        let mut domain = Domain::parse(&text).unwrap();
        domain.fill_defaults();
        domain.assign_addresses(&|_| express).unwrap();
        let address = domain.devices.interfaces[0].info.pci_address().unwrap();
        let bus = u32::from(address.bus());
        let bridge = domain.devices.controllers.iter();
        let mut bridge = bridge.filter(|c| c.kind == "pci" && c.index == bus);
        bridge.next().unwrap().model.clone().unwrap()
    };
    assert_eq!(place(true), "pcie-root-port");
    assert_eq!(place(false), "pcie-to-pci-bridge");
}

#[test]
fn a_definition_drops_what_belongs_to_a_running_guest() {
    let text = guest(
        "q35",
        "",
        "<interface type='network'>
           <source network='vfs' portid='66666666-7777-8888-9999-000000000000'/>
           <target dev='vnet3'/><alias name='net0'/>
         </interface>
         <interface type='user'><alias name='ua-mine'/></interface>",
    );
    let xml = Domain::parse(&text.replace("<domain ", "<domain id='7' "))
        .unwrap()
        .to_xml(Form::Live);
    for gone in ["id='7'", "portid", "vnet3", "net0"] {
        assert!(!xml.contains(gone), "{gone} in\n{xml}");
    }
    assert!(xml.contains("<alias name='ua-mine'/>"));
}

fn running() -> Domain {
    let mut domain = defined(&guest(
        "q35",
        "",
        "<interface type='network'><mac address='52:54:00:aa:00:01'/>
           <source network='vfs' portgroup='gold'/><alias name='ua-fast'/></interface>
         <serial type='pty'/>",
    ));
    domain.id = Some(3);
    domain.assign_aliases();
    domain.devices.serials[0].backend = conf::CharBackend::Pty(Some("/dev/pts/4".to_owned()));
    domain.devices.interfaces[0].actual = Some(ActualDevice {
        port: "66666666-7777-8888-9999-000000000000".parse().unwrap(),
        plug: Plug::HostdevPci {
            managed: true,
            driver: Some(conf::HostDriver {
                backend: Some(conf::HostBackend::Vfio),
                model: None,
            }),
            address: pci("0000:03:10.0"),
        },
        vlan: Some(conf::Vlan {
            trunk: false,
            tags: vec![conf::VlanTag {
                id: 42,
                native: None,
            }],
        }),
        virtual_port: None,
        bandwidth: None,
        isolated: None,
        trust_guest_rx_filters: Some(true),
    });
    domain
}

#[test]
fn a_running_guest_shows_what_its_pool_lent() {
    let domain = running();
    let live = domain.devices.interfaces[0].to_xml(Form::Live);
    assert_eq!(
        live,
        "<interface type='hostdev' managed='yes' trustGuestRxFilters='yes' \
         xmlns:virtnic='urn:virtnic:1'>
  <mac address='52:54:00:aa:00:01'/>
  <driver name='vfio'/>
  <source>
    <address type='pci' domain='0x0000' bus='0x03' slot='0x10' function='0x0'/>
  </source>
  <vlan>
    <tag id='42'/>
  </vlan>
  <virtnic:port network='vfs' portgroup='gold' portid='66666666-7777-8888-9999-000000000000'/>
  <alias name='ua-fast'/>
  <address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>
</interface>
"
    );
    let inactive = domain.devices.interfaces[0].to_xml(Form::Inactive);
    assert!(inactive.contains("<source network='vfs' portgroup='gold'/>"));
    assert!(!inactive.contains("0x03"));
    assert!(
        domain
            .to_xml(Form::Live)
            .starts_with("<domain type='qemu' id='3'>")
    );
    assert!(
        domain
            .to_xml(Form::Live)
            .contains("<source path='/dev/pts/4'/>")
    );
}

/// `virsh dumpxml` of a running guest, defined again: it asks for a port, not for the device that
/// it happened to get.
#[test]
fn weakness_16_a_live_document_keeps_network_portgroup_and_port() {
    let mut domain = running();
    let direct = Plug::Direct {
        dev: "eth0".to_owned(),
        mode: conf::DirectMode::Bridge,
    };
    let bridge = Plug::Bridge {
        bridge: "br0".to_owned(),
        mac_table_manager: None,
    };
    let hostdev = domain.devices.interfaces[0].actual.clone().unwrap().plug;
    let where_from = "network='vfs' portgroup='gold' portid='66666666-7777-8888-9999-000000000000'";
    for (plug, shown) in [
        (hostdev, format!("<virtnic:port {where_from}/>")),
        (
            direct,
            format!("<source {where_from} dev='eth0' mode='bridge'/>"),
        ),
        (bridge, format!("<source {where_from} bridge='br0'/>")),
    ] {
        let interface = &mut domain.devices.interfaces[0];
        interface.actual.as_mut().unwrap().plug = plug;
        interface.target = Some("macvtap0".to_owned());
        // A client cuts the interface out of the document and sends it back.
        let alone = interface.to_xml(Form::Live);
        assert!(alone.contains(&shown), "{alone}");
        assert!(alone.contains("<target dev='macvtap0'/>"), "{alone}");
        let network = InterfaceSource::Network {
            network: "vfs".to_owned(),
            port_group: Some("gold".to_owned()),
        };
        assert_eq!(Interface::parse(&alone).unwrap().source, network);
        let again = defined(&domain.to_xml(Form::Live));
        assert_eq!(again.unsupported(), []);
        assert_eq!(again.devices.interfaces[0].source, network);
        let inactive = again.to_xml(Form::Inactive);
        assert!(!inactive.contains("portid") && !inactive.contains("macvtap0"));
        assert_eq!(
            Domain::parse_status(&domain.to_status_xml()).unwrap(),
            domain
        );
    }
}

/// Its MAC and VLAN would be ignored.
#[test]
fn weakness_20_a_usb_device_is_no_network_interface() {
    let text = "<interface type='hostdev'><mac address='52:54:00:aa:00:01'/>\
        <source><vendor id='0x0bda'/><product id='0x8153'/></source></interface>";
    let error = Interface::parse(text)
        .unwrap()
        .check_resolved()
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::ConfigUnsupported);
    assert_eq!(
        error.message,
        "a USB device can't be given MAC and VLAN by the host; use a plain <hostdev>"
    );
}

/// A daemon that comes back must find network, port and device of every interface.
#[test]
fn the_status_of_a_running_guest_is_whole() {
    let domain = running();
    let status = domain.to_status_xml();
    assert!(status.contains("network='vfs' portgroup='gold' portid='66666666-"));
    assert_eq!(Domain::parse_status(&status).unwrap(), domain);
}

/// What a port group or a network says of trust counts for the running guest, also after the daemon
/// came back.
#[test]
fn weakness_17_the_resolved_trust_stays_with_the_running_guest() {
    let mut domain = running();
    for trust in [None, Some(false), Some(true)] {
        let interface = &mut domain.devices.interfaces[0];
        assert_eq!(interface.trust_guest_rx_filters, None);
        interface.actual.as_mut().unwrap().trust_guest_rx_filters = trust;
        let again = Domain::parse_status(&domain.to_status_xml()).unwrap();
        let actual = again.devices.interfaces[0].actual.as_ref().unwrap();
        assert_eq!(actual.trust_guest_rx_filters, trust);
        let inactive = again.to_xml(Form::Inactive);
        assert!(!inactive.contains("trustGuestRxFilters"), "{inactive}");
    }
}

#[test]
fn aliases_are_libvirts() {
    let mut domain = defined(&guest(
        "q35",
        "",
        &format!(
            "{VF}<interface type='user'/><console type='pty'/><rng model='virtio'>
             <backend model='random'>/dev/urandom</backend></rng>
             <disk><source file='/d'/><target dev='vdb'/></disk>
             <disk><source file='/e'/><target dev='sdb' bus='sata'/></disk>
             <hostdev type='pci'><source><address bus='4'/></source></hostdev>"
        ),
    ));
    domain.assign_aliases();
    let xml = domain.to_xml(Form::Live);
    for alias in [
        "hostdev0",
        "net1",
        "serial0",
        "rng0",
        "virtio-disk1",
        "sata0-0-1",
        "hostdev1",
        "pcie.0",
        "pci.1",
        "usb",
        "ide",
        "balloon0",
        "watchdog0",
        "input0",
    ] {
        assert!(xml.contains(&format!("<alias name='{alias}'/>")), "{alias}");
    }
    assert!(!domain.to_xml(Form::Inactive).contains("<alias"));
}

#[test]
fn what_is_not_carried_out_is_named_all_at_once() {
    let domain = defined(&guest(
        "q35",
        "<vcpu cpuset='0-1'>2</vcpu><cputune><shares>7</shares></cputune>
         <resource><partition>/m</partition></resource><strange/>",
        "<disk type='file'><driver name='qemu' iothread='1'/><source file='/d'/>
           <target dev='vda'/><serial>S</serial></disk>
         <graphics type='vnc'/><tpm model='tpm-tis'/><odd/><interface type='user'>
           <filterref filter='f'/><link state='down'/><later than='now'/></interface>",
    ));
    let found: Vec<_> = domain
        .unsupported()
        .iter()
        .map(ToString::to_string)
        .collect();
    let expected = [
        "/domain/cputune/shares",
        "/domain/strange",
        "/domain/devices/odd",
        "/domain/devices/disk[1]/driver/@iothread",
        "/domain/devices/disk[1]/serial",
        "/domain/devices/interface[1]/later",
        "/domain/devices/tpm",
        "/domain/devices/graphics",
        "/domain/devices/video",
    ];
    for name in expected {
        assert!(
            found.iter().any(|item| item == name),
            "{name} not in {found:?}"
        );
    }
    assert_eq!(found.len(), expected.len(), "{found:?}");
}

#[test]
fn a_plain_guest_has_nothing_to_refuse() {
    let domain = defined(&guest(
        "q35",
        "<resource><partition>/m</partition></resource><seclabel type='none'/>
         <pm><suspend-to-mem enabled='no'/></pm><metadata><x xmlns='u:x'/></metadata>",
        &format!("{VF}<serial type='pty'/><video><model type='none'/></video>"),
    ));
    assert_eq!(domain.unsupported(), []);
}

#[test]
fn carried_elements_of_libvirts_are_laid_out_as_it_does() {
    let text = guest(
        "q35",
        "<memoryBacking><source type=\"memfd\"/><access mode='shared'/></memoryBacking>",
        "<channel type='unix'><source mode='bind' path='/a&amp;b'/>\n<target type='virtio'
           name='x'/></channel>",
    );
    let xml = Domain::parse(&text).unwrap().to_xml(Form::Inactive);
    let backing = "  <memoryBacking>
    <source type='memfd'/>
    <access mode='shared'/>
  </memoryBacking>
";
    assert!(xml.contains(backing), "{xml}");
    let channel = "    <channel type='unix'>
      <source mode='bind' path='/a&amp;b'/>
      <target type='virtio' name='x'/>
    </channel>
";
    assert!(xml.contains(channel), "{xml}");
}

#[test]
fn unknown_pieces_stay_where_they_were() {
    let text = guest(
        "q35",
        "<x:mine xmlns:x='urn:x' a=\"1\"><x:b>  c  </x:b></x:mine>",
        "<disk type='file' colour='red'><source file='/d'/><target dev='vda'/></disk>
         <novelty when='soon'/>
         <disk type='file'><source file='/e'/><target dev='vdb'/></disk>",
    );
    let xml = Domain::parse(&text).unwrap().to_xml(Form::Inactive);
    assert!(
        xml.contains("<x:mine xmlns:x='urn:x' a=\"1\"><x:b>  c  </x:b></x:mine>"),
        "{xml}"
    );
    assert!(xml.contains("<disk type='file' device='disk' colour='red'>"));
    let position = |what: &str| xml.find(what).unwrap();
    assert!(position("dev='vda'") < position("<novelty when='soon'/>"));
    assert!(position("<novelty") < position("dev='vdb'"));
}

#[test]
fn forms_of_the_first_descriptions_are_read() {
    let by_name = Interface::parse("<interface type='hostdev'><source dev='eth22'/></interface>");
    let by_name = by_name.unwrap();
    assert_eq!(
        by_name.source,
        InterfaceSource::Hostdev {
            managed: false,
            driver: None,
            source: HostSource::NetDevice("eth22".to_owned()),
        }
    );
    assert!(
        by_name
            .to_xml(Form::Inactive)
            .contains("<source dev='eth22'/>")
    );
    let usb = Interface::parse(
        "<interface type='hostdev'><source><vendor id='0x0012'/><product id='0x24dd'/></source>
         <mac address='00:11:22:33:44:55'/></interface>",
    );
    let InterfaceSource::Hostdev { source, .. } = usb.unwrap().source else {
        panic!("no host device");
    };
    let ids = Some((0x12, 0x24dd));
    assert_eq!(
        source,
        HostSource::Usb(UsbSource {
            ids,
            ..UsbSource::default()
        })
    );
    let hybrid = "<interface type='hostdev-hybrid'><source dev='eth0'/></interface>";
    let hybrid = Interface::parse(hybrid).unwrap();
    let dev = "eth0".to_owned();
    assert_eq!(hybrid.source, InterfaceSource::HostdevHybrid { dev });
}

#[test]
fn our_own_settings_survive_on_an_interface() {
    let text =
        "<interface type='network' xmlns:v='urn:virtnic:1'><mac address='52:54:00:00:00:01'/>
       <source network='n'/><v:vf trust='on' qos='3'/></interface>";
    let interface = Interface::parse(text).unwrap();
    let vf = interface.vf.unwrap();
    assert_eq!((vf.trust, vf.qos), (Some(true), Some(3)));
    let xml = interface.to_xml(Form::Inactive);
    assert_eq!(Interface::parse(&xml).unwrap(), interface);
    let domain = Domain::parse(&guest("q35", "", text)).unwrap();
    let xml = domain.to_xml(Form::Inactive);
    assert_eq!(
        Domain::parse(&xml).unwrap().devices.interfaces[0].vf,
        Some(vf)
    );
}

#[test]
fn contradictions_are_refused_in_libvirts_class() {
    let mac = "<mac address='52:54:00:00:00:01'/>";
    for (kind, device) in [
        (ErrorKind::Xml, "<interface type='network'/>".to_owned()),
        (ErrorKind::Xml, "<interface type='odd'/>".to_owned()),
        (ErrorKind::Xml, "<interface type='user'><mac address='53:54:00:00:00:01'/></interface>".to_owned()),
        (ErrorKind::Xml, "<interface type='user'><boot order='0'/></interface>".to_owned()),
        (ErrorKind::InvalidArgument, "<interface type='user'><model type='a b'/></interface>".to_owned()),
        (ErrorKind::Overflow, "<interface type='bridge'><source bridge='b'/><coalesce><rx><frames max='4294967296'/></rx></coalesce></interface>".to_owned()),
        (ErrorKind::ConfigUnsupported, "<interface type='user'><virtualport type='802.1Qbh'><parameters profileid='p'/></virtualport></interface>".to_owned()),
        (ErrorKind::ConfigUnsupported, "<interface type='hostdev'><source><address type='ccw'/></source></interface>".to_owned()),
        (ErrorKind::ConfigUnsupported, "<interface type='direct'><source dev='e'/><mtu size='1400'/></interface>".to_owned()),
        (ErrorKind::ConfigUnsupported, "<interface type='direct'><source dev='e'/><port isolated='yes'/></interface>".to_owned()),
        (ErrorKind::ConfigUnsupported, format!("<interface type='user'>{mac}<model type='e1000'/><teaming type='persistent'/></interface>")),
        (ErrorKind::ConfigUnsupported, "<interface type='hostdev'><source><address type='pci' bus='1'/></source><teaming type='transient'/></interface>".to_owned()),
        (ErrorKind::Xml, "<hostdev type='pci'><source><address/></source></hostdev>".to_owned()),
        (ErrorKind::Xml, "<hostdev type='pci'><source><address bus='1'/></source></hostdev>".repeat(2)),
        (ErrorKind::Xml, "<hostdev type='usb'><source><vendor id='0'/><product id='1'/></source></hostdev>".to_owned()),
        (ErrorKind::Internal, "<hostdev type='pci'><source><address bus='1'/></source><address type='usb' bus='0'/></hostdev>".to_owned()),
        (ErrorKind::ConfigUnsupported, "<interface type='user'><alias name='ua-x'/></interface>".repeat(2)),
        (ErrorKind::Xml, "<disk><source file='/a'/><target dev='vda'/></disk>".repeat(2)),
        (ErrorKind::Xml, "<interface type='user'><model type='e1000'/><address type='pci' slot='4'/></interface>".repeat(2)),
    ] {
        let error = refused(&guest("pc", "", &device));
        assert_eq!(error.kind, kind, "{device}: {error}");
    }
}

#[test]
fn a_full_bus_and_an_impossible_one_are_errors() {
    let port = "<interface type='user'><model type='virtio'/>
                <address type='pci' bus='1' slot='1'/></interface>";
    let error = refused(&guest("q35", "", port));
    assert_eq!(
        error.message,
        "Invalid PCI address 0000:01:01.0. slot must be <= 0"
    );
    let far = "<controller type='pci' index='4000' model='pcie-root-port'/>";
    assert_eq!(refused(&guest("q35", "", far)).kind, ErrorKind::Internal);
    let many = "<interface type='user'><model type='virtio'/></interface>".repeat(400);
    assert_eq!(refused(&guest("q35", "", &many)).kind, ErrorKind::Internal);
}

#[test]
fn host_devices_are_read_alone() {
    let text = "<hostdev mode='subsystem' type='pci' managed='yes'>
  <driver name='vfio'/>
  <source>
    <address domain='0x0000' bus='0x06' slot='0x12' function='0x5'/>
  </source>
</hostdev>
";
    let device = HostDevice::parse(text).unwrap();
    assert_eq!(device.source, HostSource::Pci(pci("0000:06:12.5")));
    assert_eq!(device.to_xml(Form::Inactive), text);
    let scsi = "<hostdev mode='subsystem' type='scsi'><source/></hostdev>";
    let error = HostDevice::parse(scsi).unwrap_err();
    assert_eq!(error.kind, ErrorKind::ConfigUnsupported);
}

/// Of the guest itself, of several devices, and of several parts of one device.
#[test]
fn every_fault_of_a_guest_is_told_with_its_place() {
    let text = "<domain type='xen'>
<name>a/b</name>
<title>one\ntwo</title>
<memory unit='stone'>1</memory>
<vcpu>many</vcpu>
<os><type arch='pdp11'>hvm</type></os>
<clock offset='lunar'/>
<on_reboot>dance</on_reboot>
<devices>
<interface type='direct'>
<mac address='01:00:00:00:00:01'/>
<model type='a b'/>
<link state='sideways'/>
<boot order='0'/>
<rom bar='maybe'/>
</interface>
<hostdev type='pci' managed='perhaps'>
<source startupPolicy='optional'/>
<address type='pci' slot='99'/>
</hostdev>
<disk device='drum'>
<driver type='raw' cache='hot'/>
</disk>
</devices></domain>";
    let error = Domain::parse(text).unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidArgument, "libvirt's first");
    let mut told: Vec<_> = [&error]
        .into_iter()
        .chain(&error.also)
        .map(|error| error.path.clone().unwrap())
        .collect();
    told.sort();
    assert_eq!(
        told,
        [
            "/domain/@type",
            "/domain/clock/@offset",
            "/domain/devices/disk",
            "/domain/devices/disk/@device",
            "/domain/devices/disk/driver/@cache",
            "/domain/devices/hostdev/@managed",
            "/domain/devices/hostdev/address/@slot",
            "/domain/devices/hostdev/source/@startupPolicy",
            "/domain/devices/interface",
            "/domain/devices/interface/boot/@order",
            "/domain/devices/interface/link/@state",
            "/domain/devices/interface/mac/@address",
            "/domain/devices/interface/model/@type",
            "/domain/devices/interface/rom/@bar",
            "/domain/memory/@unit",
            "/domain/name",
            "/domain/on_reboot",
            "/domain/os/type/@arch",
            "/domain/title",
            "/domain/vcpu",
        ]
    );
}

#[test]
fn a_controller_with_a_place_is_no_root() {
    let controller = "<controller type='pci' index='0'><address type='pci' bus='1'/></controller>";
    let mut domain = Domain::parse(&guest("q35", "", controller)).unwrap();
    domain.fill_defaults();
    let placed = domain.assign_addresses(&|_| true);
    let error = placed.and_then(|()| domain.validate()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Xml, "{error}");
    // As far as it came it can be read again.
    Domain::parse(&domain.to_xml(Form::Inactive)).unwrap();
}

/// An element that nobody knows is kept, and its text is not taken for that of the one around it.
#[test]
fn text_with_an_element_in_it_is_read_once() {
    let rng = "<rng model='virtio'><backend model='random'>/dev/a<x>b</x></backend></rng>";
    let text = guest("q35", "<title>one<y>two</y></title>", rng);
    let domain = Domain::parse(&text).unwrap();
    assert_eq!(domain.title.as_deref(), Some("one"));
    assert_eq!(domain.devices.rngs[0].source.as_deref(), Some("/dev/a"));
    let xml = domain.to_xml(Form::Inactive);
    assert!(
        xml.contains("<x>b</x>") && xml.contains("<y>two</y>"),
        "{xml}"
    );
    assert_eq!(Domain::parse(&xml).unwrap(), domain);
}

#[test]
fn every_device_with_a_fault_is_named() {
    let error = Domain::parse(
        "<domain type='kvm'><name>g</name><memory>1</memory><os><type>hvm</type></os><devices>\n\
         <interface type='x'/>\n<disk><target dev='vda'/></disk>\n<hostdev type='y'/></devices></domain>",
    )
    .unwrap_err();
    let lines: Vec<_> = [&error]
        .into_iter()
        .chain(&error.also)
        .map(|e| e.position.unwrap().0)
        .collect();
    assert_eq!(lines, [2, 4], "{error}");
}

#[test]
fn where_a_guest_runs_is_read_and_written_in_one_form() {
    let text = guest(
        "q35",
        "<vcpu placement='static' cpuset='0-3,^2,8'>2</vcpu>
         <numatune><memory nodeset='1,0' placement='static'/></numatune>
         <cputune><emulatorpin cpuset='7'/><vcpupin cpuset='5,4' vcpu='1'/>
           <vcpupin vcpu='0' cpuset='1'/><vcpupin vcpu='2' cpuset='1'/></cputune>",
        "",
    );
    let domain = defined(&text);
    assert_eq!(domain.unsupported(), []);
    let xml = domain.to_xml(Form::Inactive);
    let expected = "  <vcpu placement='static' cpuset='0-1,3,8'>2</vcpu>
  <cputune>
    <vcpupin vcpu='0' cpuset='1'/>
    <vcpupin vcpu='1' cpuset='4-5'/>
    <emulatorpin cpuset='7'/>
  </cputune>
  <numatune>
    <memory mode='strict' nodeset='0-1'/>
  </numatune>
";
    assert!(xml.contains(expected), "{xml}");
    assert_eq!(Domain::parse(&xml).unwrap(), domain);
    assert_eq!(
        Domain::parse_status(&domain.to_status_xml()).unwrap(),
        domain
    );
}

#[test]
fn the_pins_of_a_guest_fall_back_to_its_cpus() {
    let text = guest(
        "q35",
        "<vcpu cpuset='0-1'>2</vcpu><cputune><vcpupin vcpu='1' cpuset='4'/></cputune>",
        "",
    );
    let placement = Domain::parse(&text).unwrap().placement;
    let shown = |set: Option<&conf::NumberSet>| set.map(ToString::to_string);
    assert_eq!(shown(placement.vcpu_cpus(0)).as_deref(), Some("0-1"));
    assert_eq!(shown(placement.vcpu_cpus(1)).as_deref(), Some("4"));
    assert_eq!(shown(placement.emulator_cpus()).as_deref(), Some("0-1"));
    assert_eq!(shown(placement.memory_nodes()), None);
}

#[test]
fn what_is_tuned_beside_the_placement_is_kept_and_named() {
    let text = guest(
        "q35",
        "<vcpu>1</vcpu>
         <cputune><shares>9</shares><emulatorpin cpuset='0'/><iothreadpin iothread='1'
           cpuset='0'/></cputune>
         <numatune><memory mode='restrictive' placement='auto'/><memnode cellid='0'
           mode='strict' nodeset='0'/></numatune>",
        "",
    );
    let domain = Domain::parse(&text).unwrap();
    let mut found: Vec<_> = domain
        .unsupported()
        .iter()
        .map(ToString::to_string)
        .collect();
    found.sort_unstable();
    assert_eq!(
        found,
        [
            "/domain/cputune/iothreadpin",
            "/domain/cputune/shares",
            "/domain/numatune/memnode",
            "/domain/numatune/memory/@mode='restrictive'",
            "/domain/numatune/memory/@placement",
        ]
    );
    let xml = domain.to_xml(Form::Inactive);
    let kept = "  <cputune>
    <shares>9</shares>
    <emulatorpin cpuset='0'/>
    <iothreadpin iothread='1' cpuset='0'/>
  </cputune>
  <numatune>
    <memory mode='restrictive' placement='auto'/>
    <memnode cellid='0' mode='strict' nodeset='0'/>
  </numatune>
";
    assert!(xml.contains(kept), "{xml}");
    assert_eq!(Domain::parse(&xml).unwrap().to_xml(Form::Inactive), xml);
}

#[test]
fn a_placement_that_makes_no_sense_is_refused_with_its_place() {
    let cputune = |pins: &str| format!("<cputune>{pins}</cputune>");
    let numatune = |memory: &str| format!("<numatune>{memory}</numatune>");
    let cases = [
        (
            "<vcpu cpuset='0-'>1</vcpu>".to_owned(),
            ErrorKind::InvalidArgument,
            "cpuset='0-'",
        ),
        (
            "<vcpu cpuset='1,^1'>1</vcpu>".to_owned(),
            ErrorKind::ConfigUnsupported,
            "one number",
        ),
        (cputune("<vcpupin cpuset='0'/>"), ErrorKind::Xml, "'vcpu'"),
        (
            cputune("<vcpupin vcpu='0'/>"),
            ErrorKind::Internal,
            "'cpuset'",
        ),
        (
            cputune("<vcpupin vcpu='0' cpuset='0'/><vcpupin vcpu='0' cpuset='1'/>"),
            ErrorKind::Internal,
            "twice",
        ),
        (
            cputune("<emulatorpin cpuset='0'/><emulatorpin cpuset='1'/>"),
            ErrorKind::Xml,
            "one <emulatorpin>",
        ),
        (
            numatune("<memory mode='loose' nodeset='0'/>"),
            ErrorKind::ConfigUnsupported,
            "'loose'",
        ),
        (
            numatune("<memory placement='near'/>"),
            ErrorKind::ConfigUnsupported,
            "'near'",
        ),
        (
            numatune("<memory mode='strict'/>"),
            ErrorKind::Xml,
            "'nodeset'",
        ),
        (
            numatune("<memory nodeset='16384'/>"),
            ErrorKind::InvalidArgument,
            "16383",
        ),
        (
            "<numatune/><numatune/>".to_owned(),
            ErrorKind::Xml,
            "one <numatune>",
        ),
    ];
    for (elements, kind, part) in cases {
        let error = Domain::parse(&guest("q35", &elements, "")).unwrap_err();
        assert_eq!(error.kind, kind, "{elements}: {error}");
        assert!(error.message.contains(part), "{error}");
        assert!(error.position.is_some(), "{error}");
    }
}

#[test]
fn a_device_that_gets_a_child_loses_its_text_for_good() {
    let xml = guest("q35", "", "<graphics type='vnc'>stray</graphics>");
    let first = defined(&xml).to_xml(Form::Inactive);
    assert!(!first.contains("stray"), "{first}");
    assert_eq!(defined(&first).to_xml(Form::Inactive), first);
}

#[test]
fn what_is_not_carried_out_is_told_once() {
    let domain = defined(
        &guest(
            "q35",
            "",
            "<interface type='ethernet'><script path='/x'/></interface>
         <interface type='vhostuser'><source type='unix' path='/s' mode='client'/></interface>
         <serial type='tcp'><source mode='bind' host='h' service='1'/></serial>
         <console type='tcp'><source mode='bind' host='h' service='1'/></console>",
        )
        .replace(
            "<memory ",
            "<memoryBacking><access mode='shared'/></memoryBacking><memory ",
        ),
    );
    let told: Vec<_> = domain
        .unsupported()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        told,
        [
            "/domain/memoryBacking",
            "/domain/devices/serial[1]/@type='tcp'",
            "/domain/devices/interface[1]/script",
            "/domain/devices/interface[2]/@type='vhostuser'",
        ]
    );
}

#[test]
fn a_document_for_anybody_has_no_passwords_in_any_form() {
    let text = guest(
        "q35",
        "<x passwd='p4ss'/><features passwd='p4ss'/><metadata><m:a xmlns:m='urn:m' passwd='own'/></metadata>",
        "<graphics type='vnc' port='-1' passwd='p4ss' passwdValidTo='2038-01-01T00:00:00'>
           <listen type='address' passwd='p4ss'/></graphics>
         <disk type='network'><source protocol='https' name='n'><host name='h'/>
           <cookies><cookie name='c'>p4ss</cookie></cookies></source>
           <auth username='u' passwd='p4ss'><secret type='iscsi' uuid='c7a5fdbd-edaf-9455-926a-d65c16db1809'/></auth>
           <target dev='vda' passwd='p4ss'/></disk>
         <serial type='tcp'><source passwd='p4ss'/></serial>
         <interface type='vhostuser'><source type='unix' path='/s' passwd='p4ss'/><y passwd='p4ss'/></interface>",
    );
    let text = text.replace(
        "<memory ",
        "<memoryBacking><access mode='shared'/></memoryBacking><memory ",
    );
    let domain = defined(&text);
    for form in [Form::Inactive, Form::Live, Form::Migratable] {
        let shown = domain.to_xml(form);
        assert!(!shown.contains("p4ss"), "{shown}");
        assert!(
            shown.contains("passwd='*****' passwdValidTo='2038"),
            "{shown}"
        );
        assert!(shown.contains("passwd='own'"), "{shown}");
        let whole = domain.to_xml_with_secrets(form);
        assert_eq!(
            Domain::parse(&whole)
                .unwrap()
                .to_xml_with_secrets(Form::Inactive),
            domain.to_xml_with_secrets(Form::Inactive)
        );
    }
    let status = domain.to_status_xml();
    let again = Domain::parse_status(&status).unwrap();
    assert_eq!(again.to_status_xml(), status);
}

#[test]
fn a_template_of_a_targets_name_is_kept_and_names_no_device() {
    let read = |target: &str| {
        Interface::parse(&format!(
            "<interface type='ethernet'><target {target}/></interface>"
        ))
    };
    for (dev, kept, name) in [
        ("tap%d", Some("tap%d"), None),
        ("x%dy", Some("x%dy"), None),
        ("vnet%d", None, None),
        ("macvtap%d", None, None),
        ("tap7", Some("tap7"), Some("tap7")),
        ("100%", Some("100%"), Some("100%")),
        ("%d%d", Some("%d%d"), Some("%d%d")),
    ] {
        let interface = read(&format!("dev='{dev}'")).unwrap();
        assert_eq!(interface.target.as_deref(), kept, "{dev}");
        assert_eq!(interface.target_name(), name, "{dev}");
    }
    let refused = read("dev='tap%d' managed='no'").unwrap_err();
    assert_eq!(refused.kind, ErrorKind::ConfigUnsupported);
}

#[test]
fn a_guests_name_must_be_fit_for_a_file() {
    for name in [".", "..", "a/b", "a\nb", " ", "", "/"] {
        let text = guest("q35", "", "").replace("<name>g<", &format!("<name>{name}<"));
        let refused = Domain::parse(&text).unwrap_err();
        assert_ne!(refused.kind, ErrorKind::Internal, "{name:?}: {refused}");
    }
    for name in ["...", ".a", "a b", "ü", &"n".repeat(200)] {
        let text = guest("q35", "", "").replace("<name>g<", &format!("<name>{name}<"));
        assert_eq!(Domain::parse(&text).unwrap().name, name);
    }
    let long = guest("q35", "", "").replace("<name>g<", &format!("<name>{}<", "n".repeat(241)));
    assert_eq!(Domain::parse(&long).unwrap_err().kind, ErrorKind::Xml);
}

#[test]
fn a_machine_that_is_not_made_is_refused_where_it_stands() {
    let text = guest("foo", "", "");
    let error = Domain::parse(&text).unwrap_err();
    assert_eq!(
        error.message,
        "machine='foo' on <type>: expected q35 or pc, or one of their versions"
    );
    assert_eq!(error.path.as_deref(), Some("/domain/os/type/@machine"));
    assert!(error.position.is_some());
}

#[test]
fn a_host_device_of_another_kind_is_named_by_its_kind() {
    let scsi = "<hostdev mode='subsystem' type='scsi'><source/></hostdev>\
                <hostdev mode='capabilities' type='storage'/><tpm model='x'/>";
    let domain = Domain::parse(&guest("q35", "", scsi)).unwrap();
    let found: Vec<_> = domain
        .unsupported()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        found,
        [
            "/domain/devices/hostdev/@type='scsi'",
            "/domain/devices/hostdev/@mode='capabilities'",
            "/domain/devices/tpm"
        ]
    );
}

/// All that an interface can't have is told at once, and nothing is dropped for that.
#[test]
fn what_an_interface_can_not_have_is_refused_by_name() {
    let told = |interface: &str| {
        let interface = Interface::parse(interface).unwrap();
        interface.check_resolved().unwrap_err().to_string()
    };
    let user = told(
        "<interface type='user' xmlns:virtnic='urn:virtnic:1'><bandwidth><inbound average='1'/>\
         </bandwidth><vlan><tag id='4'/></vlan><mtu size='1400'/><virtnic:vf trust='on'/></interface>",
    );
    for name in ["bandwidth", "vlan", "mtu", "virtnic:vf"] {
        let part = format!("<{name}> can't be had on an interface of type 'user'");
        assert!(user.contains(&part), "{user}");
    }
    let direct = told(
        "<interface type='direct' xmlns:virtnic='urn:virtnic:1'><source dev='e' mode='bridge'/>\
         <virtnic:direct mode='vepa'/></interface>",
    );
    assert!(direct.starts_with("<virtnic:direct> chooses of a network's modes"));
    let vf = told(&VF.replace(
        "</interface>",
        "<tune><sndbuf>1600</sndbuf></tune><link state='down'/></interface>",
    ));
    assert_eq!(
        vf,
        "<link state='down'> can't be had on a host device; also: <sndbuf> can't be had on a host \
         device"
    );
}

#[test]
fn a_controller_that_came_with_a_device_is_not_refused_beside_it() {
    let text = guest("q35", "", "<smartcard mode='host'/>");
    let told: Vec<_> = defined(&text)
        .unsupported()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(told, ["/domain/devices/smartcard"]);
}

/// What is in virtnic's own namespace does something, or is refused where it stands.
#[test]
fn what_is_ours_and_stands_where_nobody_reads_it_is_refused() {
    let ns = "xmlns:virtnic='urn:virtnic:1'";
    let interface = |attributes: &str, inside: &str| {
        format!(
            "<interface type='network' {ns} {attributes}><source network='n'/>{inside}</interface>"
        )
    };
    for (devices, expected) in [
        (
            interface("", "<virtnic:vf/><virtnic:vf rate='3'/>"),
            "<virtnic:vf> is there twice (/domain/devices/interface/virtnic:vf, line 7, ",
        ),
        (
            interface("", "<virtnic:vff/>"),
            "<virtnic:vff> is not known here; expected virtnic:vf, virtnic:direct, virtnic:hybrid or virtnic:port",
        ),
        (
            interface("virtnic:x='1'", ""),
            "<interface> has no attribute 'virtnic:x' (/domain/devices/interface/@virtnic:x, line",
        ),
        (
            interface("", "<virtnic:port network='n' portid='p'/>"),
            "<virtnic:port> is for interfaces of type 'hostdev' that a network lent",
        ),
        (
            VF.replace(
                "<source>",
                &format!("<virtnic:port {ns} network='n' a='b'/><source>"),
            ),
            "<virtnic:port> has no attribute 'a'; expected network, portgroup, portid (/domain/\
             devices/interface/virtnic:port/@a, line 8, column 59); also: <virtnic:port> needs the \
             attribute 'portid'",
        ),
        (
            format!("<channel type='unix'><target type='virtio'/><virtnic:direct {ns}/></channel>"),
            "<virtnic:direct> is not known here; it belongs in <network> or <interface> (/domain",
        ),
    ] {
        let text = guest("q35", "", &devices);
        let error = Domain::parse(&text).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
        // What an earlier release kept is not lost.
        if devices.contains("<channel") {
            assert!(Domain::parse_kept(&text).is_ok());
        }
    }
    let top = guest("q35", "", "").replace("<domain ", &format!("<domain {ns} virtnic:x='1' "));
    let error = Domain::parse(&top).unwrap_err().to_string();
    let expected = "<domain> has no attribute 'virtnic:x' (/domain/@virtnic:x, line 1, column 39)";
    assert_eq!(error, expected);
    let hostdev = format!(
        "<hostdev mode='subsystem' type='pci' {ns} virtnic:x='1'><source><address bus='3'/></source>\
         </hostdev>"
    );
    let error = HostDevice::parse(&hostdev).unwrap_err().to_string();
    assert!(error.starts_with("<hostdev> has no attribute"), "{error}");
    let error = Interface::parse(&interface("", "<virtnic:pool/>")).unwrap_err();
    assert!(
        error
            .message
            .starts_with("<virtnic:pool> is not known here"),
        "{error}"
    );
}

#[test]
fn a_topology_of_other_cpus_than_there_are_is_not_carried_out() {
    let guest = |sockets: u32| {
        let xml = format!(
            "<domain type='kvm'><name>g</name><memory>1024</memory><vcpu>2</vcpu>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os>\
             <cpu><topology sockets='{sockets}' cores='1' threads='1'/></cpu></domain>"
        );
        let unsupported = conf::Domain::parse(&xml).unwrap().unsupported();
        unsupported
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(guest(2), [""; 0]);
    assert_eq!(
        guest(3),
        ["/domain/cpu/topology (of 3 CPUs, and <vcpu> is 2)"]
    );
}

/// From its name come a disk's place and what QEMU calls it.
#[test]
fn a_disk_has_a_name_that_says_which_one_it_is() {
    let told = |kind: &str, target: &str, bus: &str| {
        let disk = format!(
            "<disk type='file' device='{kind}'><source file='/a'/><target dev='{target}' bus='{bus}'/></disk>"
        );
        let mut domain = Domain::parse(&guest("q35", "", &disk)).unwrap();
        domain.fill_defaults();
        let placed = domain.assign_addresses(&|_| true);
        let checked = placed.and_then(|()| domain.validate());
        checked.err().map(|error| error.to_string())
    };
    for (kind, target, bus) in [
        ("disk", "vda", "virtio"),
        ("disk", "xvdzz", "virtio"),
        ("lun", "sdb", "scsi"),
        ("cdrom", "hda1", "sata"),
    ] {
        assert_eq!(told(kind, target, bus), None);
    }
    for (kind, target, bus, says) in [
        (
            "disk",
            "a,b=c",
            "virtio",
            "Invalid harddisk device name: a,b=c",
        ),
        ("disk", "fda", "virtio", "Invalid harddisk device name: fda"),
        ("disk", "vda,b=c", "virtio", "Unknown disk name 'vda,b=c'"),
        ("disk", "vd", "virtio", "Unknown disk name 'vd'"),
        ("cdrom", "cdrom", "sata", "Unknown disk name 'cdrom'"),
    ] {
        let told = told(kind, target, bus).unwrap();
        assert!(told.contains(says), "{told}");
    }
}

/// What is read and not carried out is told, so that no guest starts without it.
#[test]
fn interrupts_that_are_to_be_coalesced_are_told_as_not_carried_out() {
    let interface = "<interface type='bridge'><source bridge='br0'/>\
                     <coalesce><rx><frames max='7'/></rx></coalesce></interface>";
    let told = defined(&guest("q35", "", interface)).unsupported();
    let told: Vec<_> = told.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["/domain/devices/interface[1]/coalesce"]);
}

/// As virt-install writes them.
#[test]
fn companions_of_a_usb_2_controller_have_its_index() {
    let usb = |model: &str, more: &str| format!("<controller type='usb' model='{model}' {more}/>");
    let one = ["ich9-ehci1", "ich9-uhci1", "ich9-uhci2", "ich9-uhci3"];
    let one: String = one.iter().map(|model| usb(model, "")).collect();
    let indexes = |controllers: &str| {
        let domain = defined(&guest("q35", "", controllers));
        let all = domain.devices.controllers.iter();
        let usb = all.filter(|one| one.kind == "usb");
        usb.map(|one| (one.model.clone().unwrap(), one.index))
            .collect::<Vec<_>>()
    };
    let told: Vec<_> = indexes(&one).into_iter().map(|(_, index)| index).collect();
    assert_eq!(told, [0, 0, 0, 0]);
    // Another EHCI begins another one.
    let two = indexes(&format!("{one}{one}"));
    let of = |index: u32| two.iter().filter(|(_, its)| *its == index).count();
    assert_eq!((of(0), of(1)), (4, 4));
    let mixed = usb("nec-xhci", "") + &usb("ich9-ehci1", "") + &usb("ich9-uhci1", "");
    let told: Vec<_> = indexes(&mixed)
        .into_iter()
        .map(|(_, index)| index)
        .collect();
    assert_eq!(told, [0, 1, 1]);
    let given = usb("ich9-ehci1", "index='2'") + &usb("ich9-uhci1", "");
    let told: Vec<_> = indexes(&given)
        .into_iter()
        .map(|(_, index)| index)
        .collect();
    assert_eq!(told, [2, 2]);
}
