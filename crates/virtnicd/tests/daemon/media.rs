//! Media of drives, changed while their guests run and in their definitions.

use std::fs;

use qemu::{Faults, SimulatedGuest};
use rpc::*;
use serde_json::json;

use crate::guest_links::{CONFIG, LIVE, change};
use crate::harness::*;
use crate::in_process::{Site, until};

const FORCE: u32 = 4;
const DRIVE: &str = "sata0-0-0";

fn disk(device: &str, target: &str, file: &str) -> String {
    let source = match file {
        "" => String::new(),
        file => format!("<source file='{file}'/>"),
    };
    format!(
        "<disk type='file' device='{device}'><driver name='qemu' type='raw'/>{source}\
         <target dev='{target}' bus='sata'/></disk>"
    )
}

/// A cdrom with the medium of that name below the root; none: it is empty.
fn drive(site: &Site, medium: &str) -> String {
    let path = match medium {
        "" => String::new(),
        medium => {
            let path = site.root.path(medium);
            fs::write(&path, medium).unwrap();
            path.to_str().unwrap().to_owned()
        }
    };
    disk("cdrom", "sda", &path)
}

async fn running(site: &Site, client: &Client, medium: &str) -> (Dom, SimulatedGuest) {
    let dom = client
        .define_guest(&guest_xml("g1", &drive(site, medium)))
        .await;
    let dom = client.start(&dom).await;
    let guest = site.simulation.guests.guest(dom.uuid).unwrap();
    (dom, guest)
}

/// Which media running and defined document name.
async fn shown(client: &Client, dom: &Dom) -> [Option<String>; 2] {
    let mut all = [None, None];
    for (flags, shown) in [0, DOMAIN_XML_INACTIVE].into_iter().zip(&mut all) {
        let text = client.guest_dump(dom, flags).await;
        let after = text.split("<source file='").nth(1);
        let path = after.and_then(|after| after.split('\'').next());
        *shown = path.and_then(|path| Some(path.rsplit('/').next()?.to_owned()));
    }
    all
}

fn both(name: &str) -> [Option<String>; 2] {
    let name = (!name.is_empty()).then(|| name.to_owned());
    [name.clone(), name]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_medium_of_a_cdrom_changes_in_the_definition() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let two = disk("cdrom", "sda", "/a.iso") + &disk("disk", "sdb", "/b.img");
    let dom = client.define_guest(&guest_xml("g1", &two)).await;
    client
        .ok(change(&dom, &disk("cdrom", "sda", "/c.iso"), CONFIG))
        .await;
    let kept = client.guest_dump(&dom, 0).await;
    assert!(
        kept.contains("/c.iso") && !kept.contains("/a.iso"),
        "{kept}"
    );
    let error = client
        .refused(change(&dom, &disk("disk", "sdb", "/d.img"), CONFIG))
        .await;
    assert_eq!(error.code(), Code::OperationUnsupported);
    assert!(error.message().contains("'sdb'"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_has_the_drive_as_it_is_given() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let old = "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/>\
               <source file='/a.iso' startupPolicy='optional'/><target dev='sda' bus='sata'/></disk>";
    let dom = client.define_guest(&guest_xml("g1", old)).await;
    for (given, parts, not) in [
        (
            "<disk type='network' device='cdrom'><source protocol='http' name='x'>\
             <host name='h' port='80'/></source><target dev='sda' bus='sata'/></disk>",
            &["protocol=", "<host "][..],
            &["startupPolicy", "/a.iso"][..],
        ),
        (
            "<disk type='file' device='cdrom'><driver name='qemu' type='raw' cache='none'/>\
             <source file='/b.iso' startupPolicy='requisite'/><target dev='sda' bus='sata'/>\
             <serial>ABC</serial></disk>",
            &["/b.iso", "requisite", "cache=", "<serial>ABC"],
            &["protocol="],
        ),
        (old, &["/a.iso", "optional"], &["/b.iso", "cache=", "ABC"]),
    ] {
        client.ok(change(&dom, given, CONFIG)).await;
        let kept = client.guest_dump(&dom, 0).await;
        assert_eq!(kept.matches("<source").count(), 1, "{kept}");
        assert!(parts.iter().all(|part| kept.contains(part)), "{kept}");
        assert!(!not.iter().any(|part| kept.contains(part)), "{kept}");
        // It stays in its place.
        assert!(kept.contains("<address type='drive'"), "{kept}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_medium_comes_and_goes_while_the_guest_runs() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let (dom, guest) = running(&site, &client, "a.iso").await;
    let (nodes, descriptors) = (guest.nodes().len(), guest.descriptor_sets().len());
    let mut medium = guest.medium(DRIVE);
    assert!(medium.is_some());
    for next in ["b.iso", "c.iso", "", "a.iso"] {
        client
            .ok(change(&dom, &drive(&site, next), LIVE | CONFIG))
            .await;
        assert_eq!(shown(&client, &dom).await, both(next));
        let now = guest.medium(DRIVE);
        assert_eq!(now.is_some(), !next.is_empty());
        assert_ne!(now, medium);
        medium = now;
    }
    // Nothing of the earlier ones stays.
    assert_eq!(guest.nodes().len(), nodes);
    assert!(guest.descriptor_sets().len() <= descriptors.max(1));
    client.ok(change(&dom, &drive(&site, ""), LIVE)).await;
    let [live, config] = shown(&client, &dom).await;
    assert_eq!((live, config.as_deref()), (None, Some("a.iso")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tray_that_the_guest_holds_is_opened_by_force_alone() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let (dom, guest) = running(&site, &client, "a.iso").await;
    guest.lock_tray(DRIVE, true);
    let before = (client.picture(&site.root).await, guest.nodes());
    let error = client
        .refused(change(&dom, &drive(&site, "b.iso"), LIVE | CONFIG))
        .await;
    assert!(error.message().contains("'sda'"), "{error}");
    let now = (client.picture(&site.root).await, guest.nodes());
    assert_eq!(now, before);
    let forced = change(&dom, &drive(&site, "b.iso"), LIVE | CONFIG | FORCE);
    client.ok(forced).await;
    assert_eq!(shown(&client, &dom).await, both("b.iso"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_medium_that_can_not_be_had_leaves_the_old_one_in() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let (dom, guest) = running(&site, &client, "a.iso").await;
    let before = (
        client.picture(&site.root).await,
        guest.medium(DRIVE),
        guest.nodes(),
    );
    let unchanged = async || {
        let now = (
            client.picture(&site.root).await,
            guest.medium(DRIVE),
            guest.nodes(),
        );
        assert_eq!(now, before);
    };
    for (given, part) in [
        (disk("cdrom", "sdb", "/a.iso"), "sdb"),
        (disk("disk", "sda", "/a.iso"), "'sda'"),
        (
            drive(&site, "b.iso").replace("type='raw'", "type='raw' cache='none'"),
            "<driver>",
        ),
        (
            drive(&site, "b.iso").replace("bus='sata'", "bus='scsi'"),
            "<target bus",
        ),
        (
            drive(&site, "b.iso").replace("type='raw'", "type='vmdk'"),
            "vmdk",
        ),
        (
            drive(&site, "b.iso").replace("</disk>", "<serial>A</serial></disk>"),
            "<serial>",
        ),
        (
            drive(&site, "b.iso").replace("b.iso'/>", "b.iso' startupPolicy='optional'/>"),
            "startupPolicy",
        ),
    ] {
        let error = client.refused(change(&dom, &given, LIVE | CONFIG)).await;
        assert!(error.message().contains(part), "{error}");
        unchanged().await;
    }
    let mut refused = 0;
    for command in [
        "blockdev-add",
        "blockdev-open-tray",
        "blockdev-remove-medium",
        "blockdev-insert-medium",
        "blockdev-close-tray",
    ] {
        guest.set_faults(Faults::default().refuse(command));
        let changed = change(&dom, &drive(&site, "b.iso"), LIVE | CONFIG);
        client.refused(changed).await;
        guest.set_faults(Faults::default());
        unchanged().await;
        refused += 1;
    }
    assert_eq!(refused, 5);
    // QEMU has the new medium, and the definition can't be kept.
    let definition = site.root.path("etc/virtnic/domains/g1.xml.new");
    fs::create_dir(&definition).unwrap();
    client
        .refused(change(&dom, &drive(&site, "b.iso"), LIVE | CONFIG))
        .await;
    fs::remove_dir(definition).unwrap();
    assert_eq!(client.picture(&site.root).await, before.0);
    assert_eq!(guest.nodes().len(), before.2.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_daemon_puts_a_medium_in_that_was_on_its_way() {
    let site = Site::new();
    let daemon = site.start().await;
    let client = site.root.client().await;
    let (dom, guest) = running(&site, &client, "a.iso").await;
    let before = guest.medium(DRIVE);
    daemon.stop().await;
    // As if it had ended when the intent was recorded.
    let (path, mut record) = site.root.record("domains");
    let xml = record["xml"].as_str().unwrap();
    drive(&site, "b.iso");
    record["xml"] = json!(xml.replace("a.iso", "b.iso"));
    record["changing"] = json!([]);
    record["media"] = json!(["sda"]);
    fs::write(path, record.to_string()).unwrap();

    let _daemon = site.start().await;
    let client = site.root.client().await;
    until("it is settled", async || {
        let record = site.root.record("domains").1;
        record.get("changing").is_none() && record.get("media").is_none()
    })
    .await;
    assert_ne!(guest.medium(DRIVE), before);
    assert_eq!(shown(&client, &dom).await[0].as_deref(), Some("b.iso"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_its_bus_holds_neither_comes_nor_goes() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let (dom, _) = running(&site, &client, "a.iso").await;
    for (device, advice) in [("disk", "--config"), ("cdrom", "change-media")] {
        let attach = DomainAttachDeviceFlags {
            dom: dom.clone(),
            xml: disk(device, "sdb", "/b.iso"),
            flags: LIVE.into(),
        };
        let parts = &["'sdb'", "sata", advice];
        let code = Code::OperationUnsupported;
        client.refuses(&site.root, attach, code, parts).await;
    }
    let detach = DomainDetachDeviceFlags {
        dom: dom.clone(),
        xml: drive(&site, "a.iso"),
        flags: LIVE.into(),
    };
    let parts = &["'sda'", "change-media"];
    let code = Code::OperationUnsupported;
    client.refuses(&site.root, detach, code, parts).await;
}
