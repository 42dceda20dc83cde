//! Guests of all kinds at random: what is written is read again as the same.

use conf::{
    ActualDevice, DirectMode, Domain, Form, GuestAddress, HostBackend, HostDevice, HostDriver,
    Interface, InterfaceSource, MacTableManager, PciAddress, Plug, Uuid,
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
        "<controller type='virtio-serial' index='1'/>",
        "<disk><target dev='sdb' bus='scsi'/><address type='drive' controller='2' unit='1'/></disk>",
        "<input type='tablet' bus='usb'/>",
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
            "<vcpu cpuset='3,1-2,^2'>2</vcpu><cputune><vcpupin vcpu='1' cpuset='1' x='y'/>\
             <vcpupin vcpu='0' cpuset='4,5'/><shares>3</shares><emulatorpin cpuset='0' x='y'/>\
             </cputune><numatune><memnode cellid='0' nodeset='0'/><memory placement='auto'/></numatune>",
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

/// What a network may have given an interface.
fn plug() -> impl Strategy<Value = Plug> {
    let manager = prop::option::of(Just(MacTableManager::Libvirt));
    let driver = prop::option::of(Just(HostDriver {
        backend: Some(HostBackend::Vfio),
        model: None,
    }));
    prop_oneof![
        manager.clone().prop_map(|mac_table_manager| Plug::Network {
            bridge: "virbr0".to_owned(),
            mac_table_manager,
        }),
        manager.prop_map(|mac_table_manager| Plug::Bridge {
            bridge: "br0".to_owned(),
            mac_table_manager,
        }),
        Just(Plug::Direct {
            dev: "eth0".to_owned(),
            mode: DirectMode::Passthrough,
        }),
        (any::<bool>(), driver).prop_map(|(managed, driver)| Plug::HostdevPci {
            managed,
            driver,
            address: PciAddress::new(0, 3, 0x10, 0).unwrap_or_default(),
        }),
    ]
}

/// What a guest would have to do without; devices are sorted when they are written.
fn lacking(domain: &Domain) -> Vec<String> {
    let mut names: Vec<_> = domain
        .unsupported()
        .iter()
        .map(ToString::to_string)
        .collect();
    names.sort();
    names
}

proptest! {
    /// Every form that is shown of a running guest defines the same guest again.
    #[test]
    fn running_guests_are_read_again(
        devices in prop::collection::vec(device(), 0..8),
        machine in choice(&["q35", "pc"]),
        plugs in prop::collection::vec(plug(), 8),
    ) {
        let Ok(mut domain) = Domain::parse(&guest(machine, "", &devices.concat())) else {
            return Ok(());
        };
        domain.fill_defaults();
        if domain.assign_addresses(&|_| true).is_err() {
            return Ok(());
        }
        domain.assign_usb_addresses();
        let defined = domain.to_xml(Form::Inactive);
        let unsupported = lacking(&domain);
        domain.id = Some(7);
        domain.assign_aliases();
        for (interface, plug) in domain.devices.interfaces.iter_mut().zip(plugs) {
            interface.target.get_or_insert_with(|| "macvtap3".to_owned());
            if matches!(interface.source, InterfaceSource::Network { .. }) {
                interface.actual = Some(ActualDevice {
                    port: Uuid::from_u128(0x1234),
                    plug,
                    vlan: interface.vlan.clone(),
                    virtual_port: interface.virtual_port.clone(),
                    bandwidth: interface.bandwidth.clone(),
                    isolated: interface.isolated,
                    trust_guest_rx_filters: interface.trust_guest_rx_filters,
                });
            }
        }
        for form in [Form::Live, Form::Inactive, Form::Migratable] {
            let shown = domain.to_xml(form);
            let again = match Domain::parse(&shown) {
                Ok(again) => again,
                Err(error) => return Err(TestCaseError::fail(format!("{error}\n{shown}"))),
            };
            prop_assert_eq!(again.to_xml(Form::Inactive), &*defined, "{}", shown);
            prop_assert_eq!(lacking(&again), &*unsupported);
        }
        // Clients cut a device out of what they were shown, and send it back.
        for device in &domain.devices.interfaces {
            let own = Interface::parse(&device.to_xml(Form::Inactive)).unwrap();
            let live = Interface::parse(&device.to_xml(Form::Live)).unwrap();
            prop_assert_eq!(live.to_xml(Form::Inactive), own.to_xml(Form::Inactive));
        }
        for device in &domain.devices.hostdevs {
            let own = HostDevice::parse(&device.to_xml(Form::Inactive)).unwrap();
            let live = HostDevice::parse(&device.to_xml(Form::Live)).unwrap();
            prop_assert_eq!(live.to_xml(Form::Inactive), own.to_xml(Form::Inactive));
        }
        let status = Domain::parse_status(&domain.to_status_xml()).unwrap();
        prop_assert_eq!(status.to_status_xml(), domain.to_status_xml());
        prop_assert_eq!(status.to_xml(Form::Live), domain.to_xml(Form::Live));
    }
}

/// USB controllers, EHCI and its companions among them, with an index and without.
fn usb_controller() -> impl Strategy<Value = String> {
    let model = choice(&[
        "ich9-ehci1",
        "ich9-uhci1",
        "ich9-uhci2",
        "ich9-uhci3",
        "piix3-uhci",
        "qemu-xhci",
    ]);
    let index = prop::option::of(0_u8..3);
    (model, index).prop_map(|(model, index)| {
        let index = index.map_or(String::new(), |index| format!("index='{index}' "));
        format!("<controller type='usb' {index}model='{model}'/>")
    })
}

proptest! {
    /// Controllers keep their order, whichever of them had to be given an index.
    #[test]
    fn controllers_stay_in_order(controllers in prop::collection::vec(usb_controller(), 1..8)) {
        let mut domain = Domain::parse(&guest("q35", "", &controllers.concat())).unwrap();
        domain.fill_defaults();
        let defined = domain.to_xml(Form::Inactive);
        let mut again = Domain::parse(&defined).unwrap();
        again.fill_defaults();
        prop_assert_eq!(again.to_xml(Form::Inactive), defined);
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
