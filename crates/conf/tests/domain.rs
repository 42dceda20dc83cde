//! Domains and their devices: what is kept, what is refused, what a running guest shows.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use conf::{
    ActualDevice, Domain, ErrorKind, Form, GuestAddress, HostDevice, HostSource, Interface,
    InterfaceSource, PciAddress, Plug, UsbSource,
};
use proptest::prelude::*;

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
fn a_pool_interface_gets_an_express_slot_before_its_network_is_known() {
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
        "<interface type='hostdev' managed='yes' trustGuestRxFilters='yes'>
  <mac address='52:54:00:aa:00:01'/>
  <driver name='vfio'/>
  <source>
    <address type='pci' domain='0x0000' bus='0x03' slot='0x10' function='0x0'/>
  </source>
  <vlan>
    <tag id='42'/>
  </vlan>
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

/// `virsh dumpxml` of a running guest, defined again.
#[test]
fn a_live_document_can_be_defined() {
    let again = defined(&running().to_xml(Form::Live));
    assert_eq!(again.unsupported(), []);
    let HostSource::Pci(address) = (match &again.devices.interfaces[0].source {
        InterfaceSource::Hostdev { source, .. } => source,
        other => panic!("{other:?}"),
    }) else {
        panic!("no PCI device");
    };
    assert_eq!(*address, pci("0000:03:10.0"));
}

/// A daemon that comes back must find network, port and device of every interface.
#[test]
fn the_status_of_a_running_guest_is_whole() {
    let domain = running();
    let status = domain.to_status_xml();
    assert!(status.contains("network='vfs' portgroup='gold' portid='66666666-"));
    assert_eq!(Domain::parse_status(&status).unwrap(), domain);
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
        "/domain/cputune",
        "/domain/strange",
        "/domain/vcpu/@cpuset",
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

fn choice(words: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop::sample::select(words)
}

fn interface() -> impl Strategy<Value = String> {
    let source = choice(&[
        "type='user'>",
        "type='ethernet'>",
        "type='network'><source network='n' portgroup='p'/>",
        "type='bridge'><source bridge='br0'/>",
        "type='direct'><source dev='eth0' mode='passthrough'/>",
        "type='hostdev' managed='yes'><source><address type='pci' bus='9' slot='1'/></source>",
        "type='hostdev'><source dev='eth22'/>",
        "type='vhostuser'><source type='unix' path='/s' mode='client'/>",
        "type='hostdev-hybrid'><source dev='eth1'/>",
    ]);
    let parts = prop::collection::vec(
        choice(&[
            "<model type='e1000'/>",
            "<model type='virtio'/><driver name='vhost' queues='4'><host csum='off'/></driver>",
            "<vlan><tag id='7'/></vlan>",
            "<bandwidth><inbound average='10'/></bandwidth>",
            "<link state='down'/>",
            "<address type='pci'/>",
            "<rom bar='off'/>",
            "<filterref filter='f'><parameter name='a' value='b'/></filterref>",
            "<unknown a='&lt;&apos;&amp;'>t &amp; u</unknown>",
            "<tune><sndbuf>1600</sndbuf></tune>",
            "<target dev='vnet1'/>",
            "<target dev='tap9'/>",
            "<!-- a remark -->",
            "<acpi index='4'/>",
        ]),
        0..6,
    );
    (source, parts, any::<u16>()).prop_map(|(source, parts, mac)| {
        let [a, b] = mac.to_be_bytes();
        let parts = parts.concat();
        format!(
            "<interface {source}<mac address='52:54:00:00:{a:02x}:{b:02x}'/>{parts}</interface>"
        )
    })
}

fn device() -> impl Strategy<Value = String> {
    let fixed = choice(&[
        "<controller type='pci' model='pcie-root'/>",
        "<controller type='scsi'/>",
        "<controller type='usb' index='0' model='qemu-xhci'/>",
        "<hostdev type='pci'><source><address bus='0x12' slot='3'/></source></hostdev>",
        "<hostdev type='mdev' model='vfio-pci'><source><address uuid='u'/></source></hostdev>",
        "<hostdev type='usb'><source><address bus='1' device='2'/></source></hostdev>",
        "<graphics type='vnc'/>",
        "<video><model type='qxl'/></video>",
        "<sound model='ich9'/>",
        "<serial type='pty'/>",
        "<console type='file'><source path='/c'/></console>",
        "<channel type='unix'><target type='virtio' name='org.x'/></channel>",
        "<rng model='virtio'><backend model='random'>/dev/random</backend></rng>",
        "<rng model='virtio'><backend model='builtin'/></rng>",
        "<disk type='network'><source protocol='nbd' name='e'/><target dev='vdc'/></disk>",
        "<memory model='dimm'><target><size unit='KiB'>523264</size></target></memory>",
        "<other><deep><er/></deep></other>",
    ]);
    prop_oneof![interface(), fixed.prop_map(str::to_owned)]
}

proptest! {
    /// What was written is read and written again as the same; defining it again changes nothing.
    #[test]
    fn written_documents_are_stable(
        devices in prop::collection::vec(device(), 0..8),
        machine in choice(&["q35", "pc", ""]),
        top in choice(&[
            "",
            "<title>t</title><vcpu current='1' cpuset='0'>2</vcpu><cpu mode='host-model'/>",
            "<features><acpi/><kvm><hidden state='on'/></kvm></features><genid>g</genid>",
            "<cpu><topology sockets='1' cores='2' threads='1'/></cpu><memtune><soft_limit>9</soft_limit></memtune>",
        ]),
    ) {
        let text = guest(machine, top, &devices.concat());
        let Ok(mut domain) = Domain::parse(&text) else { return Ok(()); };
        let written = domain.to_xml(Form::Inactive);
        let read = Domain::parse(&written).unwrap();
        prop_assert_eq!(&read.to_xml(Form::Inactive), &written);
        domain.fill_defaults();
        if domain.assign_addresses(&|_| true).is_err() {
            return Ok(());
        }
        let defined = domain.to_xml(Form::Inactive);
        let mut again = Domain::parse(&defined).unwrap();
        prop_assert_eq!(&again.to_xml(Form::Inactive), &defined);
        again.fill_defaults();
        again.assign_addresses(&|_| true).unwrap();
        prop_assert_eq!(&again.to_xml(Form::Inactive), &defined);
        let mut places: Vec<PciAddress> = all_addresses(&again);
        let count = places.len();
        places.sort();
        places.dedup();
        prop_assert_eq!(places.len(), count, "two devices at one place:\n{}", defined);
        again.assign_aliases();
        let status = again.to_status_xml();
        prop_assert_eq!(Domain::parse_status(&status).unwrap().to_status_xml(), status);
    }
}

fn all_addresses(domain: &Domain) -> Vec<PciAddress> {
    let devices = &domain.devices;
    let infos = (devices.controllers.iter().map(|d| &d.info))
        .chain(devices.interfaces.iter().map(|d| &d.info))
        .chain(devices.disks.iter().map(|d| &d.info))
        .chain(devices.hostdevs.iter().map(|d| &d.info))
        .chain(devices.rngs.iter().map(|d| &d.info))
        .chain(devices.others.iter().map(|d| &d.info))
        .chain(devices.memballoon.iter().map(|d| &d.info));
    let pci = |address: &Option<GuestAddress>| match address {
        Some(GuestAddress::Pci { address, .. }) => Some(*address),
        _ => None,
    };
    infos.filter_map(|info| pci(&info.address)).collect()
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
