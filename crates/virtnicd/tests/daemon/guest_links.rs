//! Interfaces of guests that are changed while they are there: their links, and nothing else in
//! passing.

use std::fs;

use rpc::*;

use crate::harness::*;
use crate::updates::{running, sharing};

pub(crate) const LIVE: u32 = 1;
pub(crate) const CONFIG: u32 = 2;

/// A guest's interface as its document shows it, cut out of it as `virsh` does.
pub(crate) async fn shown_interface(client: &Client, dom: &Dom, flags: u32) -> String {
    let xml = client.guest_dump(dom, flags).await;
    let start = xml.find("<interface").unwrap();
    let end = xml.find("</interface>").unwrap() + "</interface>".len();
    xml[start..end].to_owned()
}

pub(crate) fn with_link(interface: &str, state: &str) -> String {
    let without = interface
        .replace("<link state='up'/>", "")
        .replace("<link state='down'/>", "");
    without.replace(
        "</interface>",
        &format!("<link state='{state}'/></interface>"),
    )
}

pub(crate) fn change(dom: &Dom, xml: &str, flags: u32) -> DomainUpdateDeviceFlags {
    DomainUpdateDeviceFlags {
        dom: dom.clone(),
        xml: xml.to_owned(),
        flags: flags.into(),
    }
}

#[tokio::test]
async fn the_link_of_an_emulated_card_goes_up_and_down() {
    let root = Root::new();
    let daemon = root.start();
    let client = root.client().await;
    running(&client, &sharing("n1", &["sim0"])).await;
    let dom = client.running_guest("g1", "n1").await;
    let interface = shown_interface(&client, &dom, 0).await;
    client
        .ok(change(&dom, &with_link(&interface, "down"), LIVE))
        .await;
    let live = shown_interface(&client, &dom, 0).await;
    assert!(live.contains("<link state='down'/>"), "{live}");
    let kept = shown_interface(&client, &dom, DOMAIN_XML_INACTIVE).await;
    assert!(!kept.contains("<link"), "{kept}");

    // As it is defined, into the definition; a bare one will do.
    client
        .ok(change(&dom, &with_link(&kept, "down"), CONFIG))
        .await;
    let kept = shown_interface(&client, &dom, DOMAIN_XML_INACTIVE).await;
    assert!(kept.contains("<link state='down'/>"), "{kept}");
    client
        .ok(change(&dom, &with_link(&live, "up"), LIVE | CONFIG))
        .await;
    for flags in [0, DOMAIN_XML_INACTIVE] {
        let shown = shown_interface(&client, &dom, flags).await;
        assert!(shown.contains("<link state='up'/>"), "{shown}");
    }
    drop(daemon);
}

#[tokio::test]
async fn the_link_of_a_vf_is_its_pfs_to_set() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    client.running_network("n1", "sim0").await;
    let dom = client.running_guest("g1", "n1").await;
    let interface = shown_interface(&client, &dom, 0).await;
    for state in ["down", "up"] {
        client
            .ok(change(&dom, &with_link(&interface, state), LIVE))
            .await;
        let live = shown_interface(&client, &dom, 0).await;
        assert!(live.contains(&format!("<link state='{state}'/>")), "{live}");
        let (_, record) = root.record("devices");
        let link = if state == "down" {
            "\"off\""
        } else {
            "\"auto\""
        };
        assert!(record.to_string().contains(link), "{record}");
    }
    client.ok(DomainDestroy { dom: dom.clone() }).await;
    assert_eq!(root.records("devices"), 0);

    // From the start on, where the definition says so.
    let kept = shown_interface(&client, &dom, DOMAIN_XML_INACTIVE).await;
    client
        .ok(change(&dom, &with_link(&kept, "down"), CONFIG))
        .await;
    client.start(&dom).await;
    let (_, record) = root.record("devices");
    assert!(record.to_string().contains("\"off\""), "{record}");
    let own = "<interface type='hostdev' managed='yes'><mac address='52:54:00:00:00:09'/>\
               <source><address type='pci' domain='0' bus='4' slot='0' function='0'/></source>\
               </interface>";
    let dom = client.define_guest(&guest_xml("g2", own)).await;
    let down = change(&dom, &with_link(own, "down"), CONFIG);
    let parts = &["52:54:00:00:00:09", "<link state='down'>"];
    client
        .refuses(&root, down, Code::ConfigUnsupported, parts)
        .await;
}

#[tokio::test]
async fn weakness_43_a_change_that_is_refused_takes_nothing_from_a_pool() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    running(&client, &sharing("n1", &["sim0"])).await;
    client.running_network("vfs", "sim1").await;
    let dom = client.running_guest("g1", "n1").await;
    let interface = shown_interface(&client, &dom, 0).await;
    let mac = interface.split("address='").nth(1).unwrap();
    let mac = mac.split('\'').next().unwrap();
    let other_network = format!(
        "<interface type='network'><mac address='{mac}'/><source network='vfs'/></interface>"
    );
    let mtu =
        with_link(&interface, "down").replace("</interface>", "<mtu size='900'/></interface>");
    let unsupported = Code::OperationUnsupported;
    for flags in [LIVE, LIVE | CONFIG] {
        for (xml, what) in [(&other_network, "runs: <source>"), (&mtu, "runs: <mtu>")] {
            let change = change(&dom, xml, flags);
            let parts = &["'direct'", mac, what];
            client.refuses(&root, change, unsupported, parts).await;
        }
    }
}

#[tokio::test]
async fn what_is_no_interface_of_the_guest_is_not_changed() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    running(&client, &sharing("n1", &["sim0"])).await;
    let dom = client.running_guest("g1", "n1").await;
    let interface = shown_interface(&client, &dom, 0).await;
    let other = "<interface type='network'><mac address='52:54:00:ff:ff:ff'/>\
                 <source network='n1'/><link state='down'/></interface>";
    for (xml, flags, code, part) in [
        (other, LIVE, Code::DeviceMissing, "52:54:00:ff:ff:ff"),
        (
            "<memballoon model='none'/>",
            LIVE,
            Code::OperationUnsupported,
            "<memballoon>",
        ),
        ("<interface", LIVE, Code::XmlError, "not well-formed"),
        (&interface, 64, Code::InvalidArg, "0x40"),
    ] {
        let change = change(&dom, xml, flags);
        client.refuses(&root, change, code, &[part]).await;
    }
}

#[tokio::test]
async fn weakness_18_a_part_in_a_failover_pair_is_not_changed_in_passing() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    running(&client, &sharing("n1", &["sim0"])).await;
    let interface = "<interface type='network'><mac address='52:54:00:00:00:01'/>\
                     <source network='n1'/><model type='virtio'/></interface>";
    let dom = client.define_guest(&guest_xml("g1", interface)).await;
    let paired = interface.replace("</interface>", "<teaming type='persistent'/></interface>");
    let started = client.start(&dom).await;
    let unsupported = Code::OperationUnsupported;
    let part = &["runs: <teaming>"];
    for flags in [LIVE, LIVE | CONFIG] {
        let change = change(&started, &paired, flags);
        client.refuses(&root, change, unsupported, part).await;
    }
    // The definition is as it is given, and no otherwise.
    client.ok(change(&dom, &paired, CONFIG)).await;
    let kept = shown_interface(&client, &dom, DOMAIN_XML_INACTIVE).await;
    assert!(kept.contains("<teaming type='persistent'/>"), "{kept}");
    client
        .ok(change(&dom, &with_link(&kept, "down"), CONFIG))
        .await;
    let kept = shown_interface(&client, &dom, DOMAIN_XML_INACTIVE).await;
    assert!(kept.contains("<teaming type='persistent'/>"), "{kept}");
}

#[tokio::test]
async fn a_link_that_can_not_be_kept_stays_as_it_was() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    client.running_network("n1", "sim0").await;
    let dom = client.running_guest("g1", "n1").await;
    let down = with_link(&shown_interface(&client, &dom, 0).await, "down");
    let definition = root.path("etc/virtnic/domains/g1.xml.new");
    fs::create_dir(&definition).unwrap();
    let both = change(&dom, &down, LIVE | CONFIG);
    client
        .refuses(&root, both, Code::SystemError, &["can't keep guest 'g1'"])
        .await;
    fs::remove_dir(definition).unwrap();
    let record = root.in_the_way(&format!("run/virtnic/domains/{}.json", dom.uuid));
    let live = change(&dom, &down, LIVE);
    client
        .refuses(&root, live, Code::SystemError, &["can't record guest 'g1'"])
        .await;
    drop(record);
}
