//! Plugging in and out with a real QEMU: the commands, and the words of its refusals. No guest's
//! driver is there to let a device go, so those that need one go as the guest starts anew.

use std::fs::File;
use std::path::Path;

use conf::{DeviceInfo, Disk, DiskSource, Domain, GuestAddress, HostDevice, Interface, PciAddress};
use qemu::{
    Guest, GuestEvent, GuestEvents, LaunchSpec, Launched, Launcher, Leftovers, Plugged,
    RefusalKind, TapFds, Unplugging, open_disk,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::SOON;

struct Bench {
    directory: TempDir,
    domain: Domain,
    guest: Guest,
    events: GuestEvents,
}

impl Bench {
    /// A guest with nine ports, a drive with a medium, and a failover pair's standby.
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let image = |name: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, vec![0; 1 << 20]).unwrap();
            path
        };
        let first = image("first.iso");
        let port =
            |index| format!("<controller type='pci' index='{index}' model='pcie-root-port'/>");
        let ports: String = (1..=9).map(port).collect();
        let xml = format!(
            "<domain type='qemu'><name>web</name><memory>131072</memory>
               <os><type arch='x86_64' machine='q35'>hvm</type></os>
               <features><acpi/></features>
               <devices>
                 <controller type='pci' index='0' model='pcie-root'/>{ports}
                 <controller type='scsi' index='0' model='virtio-scsi'/>
                 <controller type='usb' index='0' model='qemu-xhci'/>
                 <disk type='file' device='cdrom'><driver name='qemu' type='raw'/>
                   <source file='{}'/><target dev='sda' bus='sata'/><readonly/></disk>
                 <interface type='user'><mac address='52:54:00:00:00:01'/>
                   <model type='virtio'/><alias name='ua-standby'/>
                   <teaming type='persistent'/></interface>
                 <interface type='hostdev' managed='yes'><mac address='52:54:00:00:00:01'/>
                   <source><address type='pci' bus='3' slot='16' function='1'/></source>
                   <alias name='ua-vf'/>
                   <teaming type='transient' persistent='ua-standby'/></interface>
                 <memballoon model='none'/>
               </devices></domain>",
            first.display()
        );
        let mut domain = Domain::parse(&xml).unwrap();
        domain.fill_defaults();
        domain.assign_addresses(&|_| true).unwrap();
        domain.assign_aliases();
        let root = directory.path();
        let mut spec = LaunchSpec::new(domain.clone(), root.join("run"), root.join("log"));
        // There is no such device.
        spec.withheld = ["ua-vf".to_owned()].into();
        let Launched { guest, events, .. } = Launcher::Qemu.launch(spec).await.unwrap();
        Self {
            directory,
            domain,
            guest,
            events,
        }
    }

    async fn ask(&self, command: &str, arguments: Value) -> Value {
        let qmp = self.guest.qmp().unwrap();
        let answer = qmp.execute(command, arguments, Vec::new(), SOON).await;
        answer.unwrap()
    }

    /// All that QEMU has of drives and cards.
    async fn stock(&self) -> Value {
        let nodes = self
            .ask("query-named-block-nodes", json!({ "flat": true }))
            .await;
        let nodes: Vec<_> = nodes
            .as_array()
            .unwrap()
            .iter()
            .map(|node| &node["node-name"])
            .collect();
        json!([
            nodes,
            self.ask("query-fdsets", Value::Null).await,
            self.guest.device_aliases().await.unwrap(),
            self.guest.human("info network", SOON).await.unwrap(),
        ])
    }

    async fn deleted(&mut self, alias: &str) {
        let wanted = GuestEvent::DeviceDeleted {
            alias: alias.to_owned(),
        };
        loop {
            let event = tokio::time::timeout(SOON, self.events.recv())
                .await
                .unwrap();
            if event.unwrap() == wanted {
                return;
            }
        }
    }

    fn info(&self, alias: &str, port: u8) -> DeviceInfo {
        DeviceInfo {
            alias: Some(alias.to_owned()),
            address: Some(GuestAddress::Pci {
                address: PciAddress::new(0, port, 0, 0).unwrap(),
                multifunction: None,
            }),
            ..DeviceInfo::default()
        }
    }

    fn disk(&self, alias: &str, format: &str, bus: &str) -> Disk {
        let path = self.directory.path().join(format!("{alias}.img"));
        std::fs::write(&path, vec![0; 1 << 20]).unwrap();
        let mut disk = self.domain.devices.disks[0].clone();
        disk.device = "disk".to_owned();
        disk.read_only = false;
        disk.format = format.to_owned();
        disk.bus = bus.to_owned();
        disk.source = Some(DiskSource::File(path.display().to_string()));
        disk.info = self.info(alias, 9);
        if bus == "scsi" {
            disk.info.address = Some(GuestAddress::Drive {
                controller: 0,
                bus: 0,
                target: 0,
                unit: 3,
            });
        }
        disk
    }

    fn card(&self, alias: &str, port: u8) -> Interface {
        let xml = "<interface type='user'><mac address='52:54:00:00:00:07'/>
             <model type='virtio'/></interface>";
        let mut card = Interface::parse(xml).unwrap();
        card.info = self.info(alias, port);
        card
    }
}

#[tokio::test]
#[ignore = "needs the lab: a real QEMU"]
async fn disks_come_and_go_with_their_files_and_nodes() {
    let mut web = Bench::start().await;
    let before = web.stock().await;
    for (alias, bus, handed_over) in [
        ("scsi0-0-0-3", "scsi", true),
        ("scsi0-0-0-3", "scsi", false),
        ("virtio-disk7", "virtio", true),
        ("ua-a-name-that-is-longer-than-a-node-s", "virtio", true),
    ] {
        let disk = web.disk(alias, "raw", bus);
        let files = open_disk(&disk, handed_over).unwrap();
        assert_eq!(files.len(), if handed_over { 2 } else { 0 });
        web.guest
            .plug_disk(&web.domain, &disk, files)
            .await
            .unwrap();
        assert_ne!(web.stock().await, before);
        let asked = web.guest.unplug(alias).await.unwrap();
        assert_eq!(asked, Unplugging::Asked);
        if bus == "virtio" {
            let below = web
                .guest
                .clear_leftovers(alias, Plugged::Disk)
                .await
                .unwrap();
            assert!(matches!(below, Leftovers::Device(_)), "{below:?}");
            web.guest.remove_drive(alias).await.unwrap();
            web.guest.reset().await.unwrap();
        }
        web.deleted(alias).await;
        web.guest.remove_drive(alias).await.unwrap();
        assert_eq!(web.stock().await, before, "{alias}");
        web.guest.remove_drive(alias).await.unwrap();
    }
    // An image that isn't one: what was done by then is undone.
    let disk = web.disk("virtio-disk8", "qcow2", "virtio");
    let files = open_disk(&disk, true).unwrap();
    let error = web
        .guest
        .plug_disk(&web.domain, &disk, files)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("not in qcow2 format"), "{error}");
    assert_eq!(web.stock().await, before);
    let disk = web.disk("sata0-0-4", "raw", "virtio");
    let mut sata = disk.clone();
    sata.bus = "sata".to_owned();
    sata.info.address = Some(GuestAddress::Drive {
        controller: 0,
        bus: 0,
        target: 0,
        unit: 4,
    });
    let error = web
        .guest
        .plug_disk(&web.domain, &sata, Vec::new())
        .await
        .unwrap_err();
    assert_eq!(error.refusal(), Some(RefusalKind::BusTakesNone), "{error}");
    assert_eq!(web.stock().await, before);
    web.guest.destroy().await.unwrap();
}

#[tokio::test]
#[ignore = "needs the lab: a real QEMU"]
async fn media_change_with_their_nodes() {
    let web = Bench::start().await;
    let drive = |name: Option<&str>| {
        let mut disk = web.domain.devices.disks[0].clone();
        disk.source = name.map(|name| {
            let path = web.directory.path().join(name);
            std::fs::write(&path, vec![1; 1 << 20]).unwrap();
            DiskSource::File(path.display().to_string())
        });
        disk
    };
    let count = async || {
        let stock = web.stock().await;
        let length = |place: usize| stock[place].as_array().unwrap().len();
        (length(0), length(1))
    };
    let alias = web.domain.devices.disks[0].info.alias.clone().unwrap();
    assert_eq!(count().await, (1, 0));
    for _ in 0..3 {
        let disk = drive(Some("second.iso"));
        let files = open_disk(&disk, true).unwrap();
        web.guest.change_medium(&disk, files, false).await.unwrap();
        assert_eq!(count().await, (1, 1));
    }
    let mut missing = drive(None);
    missing.source = Some(DiskSource::File("/nonexistent/third.iso".to_owned()));
    let error = web.guest.change_medium(&missing, Vec::new(), false).await;
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("/nonexistent/third.iso")
    );
    let cleared = web.guest.clear_leftovers(&alias, Plugged::Medium).await;
    assert_eq!(cleared.unwrap(), Leftovers::None);
    assert_eq!(count().await, (1, 1), "the medium that is in has its own");
    web.guest
        .change_medium(&drive(None), Vec::new(), false)
        .await
        .unwrap();
    assert_eq!(count().await, (0, 0));
    web.guest.destroy().await.unwrap();
}

#[tokio::test]
#[ignore = "needs the lab: a real QEMU"]
async fn cards_come_and_go_and_refusals_are_told_apart() {
    let mut web = Bench::start().await;
    let before = web.stock().await;
    let none = TapFds::default;
    let card = web.card("net7", 8);
    web.guest
        .plug_interface(&web.domain, &card, 7, none())
        .await
        .unwrap();
    let plugged = web.stock().await;
    let second = web.card("net8", 8);
    let error = web
        .guest
        .plug_interface(&web.domain, &second, 8, none())
        .await;
    let error = error.unwrap_err();
    assert_eq!(error.refusal(), Some(RefusalKind::SlotInUse), "{error}");
    assert_eq!(web.stock().await, plugged, "its netdev is gone");
    let qmp = web.guest.qmp().unwrap();
    for (arguments, kind) in [
        (
            json!({ "driver": "e1000e", "bus": "pci.77", "id": "x" }),
            RefusalKind::BusNotFound,
        ),
        (
            json!({ "driver": "e1000e", "bus": "pcie.0", "id": "x" }),
            RefusalKind::BusTakesNone,
        ),
        (
            json!({ "driver": "e1000e", "bus": "pci.9", "id": "net7" }),
            RefusalKind::NameTaken,
        ),
    ] {
        let error = qmp.device_add(arguments).await.unwrap_err();
        assert_eq!(error.refusal(), Some(kind), "{error}");
    }
    let medium = web.domain.devices.disks[0].info.alias.as_deref().unwrap();
    let medium = json!({ "node-name": format!("{medium}-storage") });
    let error = qmp.execute("blockdev-del", medium, Vec::new(), SOON).await;
    assert_eq!(error.unwrap_err().refusal(), Some(RefusalKind::InUse));

    for _ in 0..2 {
        let asked = web.guest.unplug("net7").await.unwrap();
        assert!(asked != Unplugging::NotThere, "it needs the guest's driver");
    }
    web.guest.reset().await.unwrap();
    web.deleted("net7").await;
    let kind = Plugged::Interface { queues: 4 };
    for _ in 0..2 {
        let cleared = web.guest.clear_leftovers("net7", kind).await.unwrap();
        assert_eq!(cleared, Leftovers::None);
    }
    assert_eq!(web.stock().await, before);
    assert_eq!(
        web.guest.unplug("net7").await.unwrap(),
        Unplugging::NotThere
    );

    // Descriptors that nothing took, as a plug leaves them that broke off.
    let qmp = web.guest.qmp().unwrap();
    for name in ["tap-net7-0", "vhost-net7-1"] {
        let fd = File::open(Path::new("/dev/null")).unwrap().into();
        qmp.give_descriptor(name, fd).await.unwrap();
    }
    web.guest.clear_leftovers("net7", kind).await.unwrap();
    for name in ["tap-net7-0", "vhost-net7-1"] {
        qmp.close_descriptor(name).await.unwrap_err();
    }
    web.guest.destroy().await.unwrap();
}

#[tokio::test]
#[ignore = "needs the lab: a real QEMU"]
async fn a_primary_is_remembered_before_the_guest_negotiates() {
    let web = Bench::start().await;
    let negotiated = web.guest.has_negotiated_failover("ua-standby").await;
    assert_eq!(negotiated.unwrap(), Some(false));
    let none = web.guest.has_negotiated_failover("ua-none").await;
    assert_eq!(none.unwrap(), None);
    let aliases = web.guest.device_aliases().await.unwrap();
    assert!(!aliases.contains("ua-vf"), "it was withheld");

    let qmp = web.guest.qmp().unwrap();
    let primary = |id: &str| {
        json!({ "driver": "e1000e", "bus": "pci.9", "addr": "0x0", "id": id,
                "failover_pair_id": "ua-standby" })
    };
    for _ in 0..2 {
        qmp.device_add(primary("ua-vf")).await.unwrap();
        assert_eq!(
            web.guest.unplug("ua-vf").await.unwrap(),
            Unplugging::NotThere
        );
    }
    assert_eq!(web.guest.device_aliases().await.unwrap(), aliases);
    let error = qmp.device_add(primary("ua-other")).await.unwrap_err();
    assert_eq!(error.refusal(), Some(RefusalKind::OtherPrimary), "{error}");
    web.guest.destroy().await.unwrap();
}

#[tokio::test]
#[ignore = "needs the lab: a real QEMU"]
async fn a_device_of_the_hosts_that_is_not_there_is_refused_with_qemus_reason() {
    let web = Bench::start().await;
    let info = web.info("hostdev7", 9);
    let host = PciAddress::new(0xfff, 3, 16, 1).unwrap();
    let mut little = web.domain.clone();
    little.memory_hard_limit_kib = Some(1);
    let plugged = web.guest.plug_host_device(&little, &info, None, host).await;
    let text = plugged.unwrap_err().to_string();
    assert!(text.contains("'device_add'"), "{text}");
    assert!(text.contains("0fff:03:10.1"), "{text}");
    let xml = "<hostdev mode='subsystem' type='usb'><source>
         <vendor id='0x1234'/><product id='0xbeef'/></source></hostdev>";
    let mut usb = HostDevice::parse(xml).unwrap();
    usb.info.alias = Some("hostdev8".to_owned());
    let plugged = web.guest.plug_usb(&web.domain, &usb, (99, 99)).await;
    let text = plugged.unwrap_err().to_string();
    assert!(text.contains("'device_add'"), "{text}");
    assert!(text.contains("/dev/bus/usb/099/099"), "{text}");

    web.guest.raise_memory_lock(&web.domain).unwrap();
    let limits = format!("/proc/{}/limits", web.guest.pid().unwrap());
    let limits = std::fs::read_to_string(limits).unwrap();
    let mut lines = limits.lines();
    let line = lines.find(|line| line.contains("locked memory")).unwrap();
    let wanted = ((128 << 20) + (1_u64 << 30)).to_string();
    let is_enough = line.contains(&wanted) || line.contains("unlimited");
    assert!(is_enough, "{line}");
    web.guest.destroy().await.unwrap();
}
