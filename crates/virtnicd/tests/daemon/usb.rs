//! USB devices of the host, given to guests.

use conf::UsbAddress;
use host::Usb as _;
use rpc::*;

use crate::harness::*;
use crate::in_process::{Site, until};

const KEYBOARD: (u16, u16) = (0x046d, 0xc31c);

fn hostdev(source: &str) -> String {
    format!("<hostdev mode='subsystem' type='usb'>{source}</hostdev>")
}

/// By what it is.
fn keyboard(policy: &str) -> String {
    hostdev(&format!(
        "<source {policy}><vendor id='0x046d'/><product id='0xc31c'/></source>"
    ))
}

fn start(dom: &Dom) -> DomainCreate {
    DomainCreate { dom: dom.clone() }
}

fn plug(site: &Site, port: &str) -> UsbAddress {
    site.simulation.host.add_usb(1, port, KEYBOARD).unwrap()
}

/// The host devices that the guest's QEMU has.
fn devices(site: &Site, dom: &Dom) -> Vec<String> {
    let devices = site.simulation.guests.guest(dom.uuid).unwrap().devices();
    let hostdevs = devices.into_iter();
    hostdevs
        .filter(|alias| alias.starts_with("hostdev"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_has_a_usb_device_while_it_runs() {
    let site = Site::new();
    let address = plug(&site, "1.4");
    let daemon = site.start().await;
    let client = site.root.client().await;
    let found = site.simulation.host.snapshot();
    let dom = client.define_guest(&guest_xml("g1", &keyboard(""))).await;
    client.start(&dom).await;
    let [lent] = client.who().await.try_into().unwrap();
    assert_eq!(
        (lent.kind, lent.guest.as_deref()),
        (LentKind::Usb, Some("g1"))
    );
    assert_eq!(lent.parent, Some(address.to_string()));
    assert_eq!((&*lent.state, lent.vanished), ("lent", false));
    assert_eq!(devices(&site, &dom), ["hostdev0"]);
    // Which one it is stands in the live document, not in the definition.
    let live = client.guest_dump(&dom, 0).await;
    assert!(live.contains("<address bus='1' device='2'/>"), "{live}");
    let kept = client.guest_dump(&dom, DOMAIN_XML_INACTIVE).await;
    assert!(!kept.contains("<address bus='1' device='2'/>"), "{kept}");

    // Another guest can't have it, by whatever it calls it.
    let place = hostdev("<source><address bus='1' device='2'/></source>");
    let second = client.define_guest(&guest_xml("g2", &place)).await;
    let parts = &["is in use: lent to guest 'g1'"];
    client
        .refuses(&site.root, start(&second), Code::OperationInvalid, parts)
        .await;

    // Nor after a restart of the daemon.
    daemon.stop().await;
    let _daemon = site.start().await;
    let client = site.root.client().await;
    assert_eq!(client.who().await.len(), 1);
    client
        .refuses(&site.root, start(&second), Code::OperationInvalid, parts)
        .await;
    client.ok(DomainDestroy { dom }).await;
    assert!(client.who().await.is_empty());
    assert_eq!(found.differences(&site.simulation.host.snapshot()), [""; 0]);
    client.start(&second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_one_usb_device_is_refused_with_what_to_do() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let dom = client.define_guest(&guest_xml("g1", &keyboard(""))).await;
    let parts = &["046d:c31c", "\nsee which there are: lsusb"];
    client
        .refuses(&site.root, start(&dom), Code::DeviceMissing, parts)
        .await;
    plug(&site, "1");
    plug(&site, "2");
    let parts = &[
        "046d:c31c means 2 USB devices",
        "<address bus='1' device='2'/>",
    ];
    client
        .refuses(&site.root, start(&dom), Code::OperationFailed, parts)
        .await;
    let interface = "<interface type='hostdev'><source><vendor id='0x46d'/>\
                     <product id='0xc31c'/></source></interface>";
    let dom = client.define_guest(&guest_xml("g2", interface)).await;
    let parts = &["on a USB device", "use a plain <hostdev>"];
    client
        .refuses(&site.root, start(&dom), Code::ConfigUnsupported, parts)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_optional_device_that_is_not_there_keeps_no_guest_from_starting() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let missing = "<source startupPolicy='optional'><address bus='1' device='9'/></source>";
    let both = keyboard("startupPolicy='optional'") + &hostdev(missing);
    let dom = client.define_guest(&guest_xml("g1", &both)).await;
    client.start(&dom).await;
    assert!(client.who().await.is_empty());
    assert_eq!(devices(&site, &dom), [""; 0]);
    client.ok(DomainDestroy { dom: dom.clone() }).await;
    plug(&site, "3");
    client.start(&dom).await;
    assert_eq!(client.who().await.len(), 1);
    assert_eq!(devices(&site, &dom), ["hostdev0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_pulled_out_is_shown_as_vanished_and_goes_with_its_guest() {
    let site = Site::new();
    let address = plug(&site, "1.4");
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let dom = client.define_guest(&guest_xml("g1", &keyboard(""))).await;
    client.start(&dom).await;
    site.simulation.host.remove_usb(address);
    until("it is shown as vanished", async || {
        client.who().await.iter().all(|lent| lent.vanished)
    })
    .await;
    // Plugged in again it is another one, which another guest may have.
    let again = plug(&site, "1.4");
    let second = client.define_guest(&guest_xml("g2", &keyboard(""))).await;
    client.start(&second).await;
    client.ok(DomainDestroy { dom }).await;
    let [lent] = client.who().await.try_into().unwrap();
    assert_eq!(
        (lent.parent, lent.vanished),
        (Some(again.to_string()), false)
    );
    assert!(site.simulation.host.usb_device(again).is_ok());
}
