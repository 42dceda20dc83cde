//! One device, one owner: other guests, the host, and the same guest once more.

use rpc::*;

use super::*;
use crate::guest_links::{CONFIG, LIVE};
use crate::hotplug::{attach, bare, detach, started};
use crate::node_devices;

fn start(dom: &Dom) -> DomainCreateWithFlags {
    DomainCreateWithFlags {
        dom: dom.clone(),
        flags: Default::default(),
    }
}

fn is_in_use(error: &Error) {
    assert_eq!(error.code(), Code::OperationInvalid, "{error}");
    for part in [VF, "is in use", "'g1'"] {
        assert!(error.message().contains(part), "{part}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_running_guest_has_nobody_else_gets() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let first = client.define_guest(&bare("g1")).await;
    let second = client.define_guest(&bare("g2")).await;
    let (interface, hostdev) = (vf_interface(VF, MANAGED, ""), host_device(VF, MANAGED, ""));
    client.ok(attach(&first, &interface, CONFIG)).await;
    let first = client.start(&first).await;
    let before = client.picture(&site.root).await;

    // The host.
    is_in_use(&client.refused(node_devices::detach(VF_NODE)).await);
    is_in_use(&client.refused(node_devices::reattach(VF_NODE)).await);
    // The guest that has it, in both forms.
    for xml in [&interface, &hostdev] {
        let error = client.refused(attach(&first, xml, LIVE)).await;
        assert_eq!(error.code(), Code::OperationInvalid, "{error}");
        assert!(error.message().contains(VF), "{error}");
    }
    assert_eq!(client.picture(&site.root).await, before);
    // Another that starts, and one that runs.
    client.ok(attach(&second, &interface, CONFIG)).await;
    is_in_use(&client.refused(start(&second)).await);
    client.ok(detach(&second, &interface, CONFIG)).await;
    let second = client.start(&second).await;
    for xml in [&interface, &hostdev] {
        is_in_use(&client.refused(attach(&second, xml, LIVE)).await);
    }
    assert_eq!(driver(&site, VF).as_deref(), Some("vfio-pci"));
    let [lent] = client.who().await.try_into().unwrap();
    assert_eq!(lent.guest.as_deref(), Some("g1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_has_a_device_once() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let (interface, hostdev) = (vf_interface(VF, MANAGED, ""), host_device(VF, MANAGED, ""));
    for first in [&interface, &hostdev] {
        for second in [&interface, &hostdev] {
            let both = guest_xml("g1", &format!("{first}{second}"));
            let define = DomainDefineXmlFlags {
                xml: both,
                flags: Default::default(),
            };
            let parts = &["Hostdev already exists", VF];
            client
                .refuses(&site.root, define, Code::XmlError, parts)
                .await;
            let dom = client.define_guest(&guest_xml("g1", first)).await;
            let again = attach(&dom, second, CONFIG);
            client
                .refuses(&site.root, again, Code::OperationInvalid, &[VF, "already"])
                .await;
            client.ok(DomainUndefine { dom }).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_can_not_have_a_vf_and_the_card_that_it_is_of() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let both = vf_interface(VF, MANAGED, "") + &host_device("0000:01:00.0", MANAGED, "");
    let dom = client.define_guest(&guest_xml("g1", &both)).await;
    let parts = &["0000:01:00.0", "VFs"];
    client
        .refuses(&site.root, start(&dom), Code::OperationInvalid, parts)
        .await;
    assert_eq!(driver(&site, VF).as_deref(), Some("simvf"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vf_that_is_released_is_the_next_ones_or_the_same_ones_again() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let first = started(&client, "g1").await;
    let second = started(&client, "g2").await;
    let before = client.picture(&site.root).await;
    let xml = vf_interface(VF, MANAGED, "");
    for round in 0..10 {
        for dom in [&first, &second, &first] {
            client.ok(attach(dom, &xml, LIVE)).await;
            assert_eq!(driver(&site, VF).as_deref(), Some("vfio-pci"), "{round}");
            client.ok(detach(dom, &xml, LIVE)).await;
            assert_eq!(driver(&site, VF).as_deref(), Some("simvf"), "{round}");
            assert_eq!(client.picture(&site.root).await, before);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_managed_is_detached_by_hand_first() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    for (name, address) in [("named", None), ("listed", Some(VF))] {
        let members = match address {
            None => "<pf dev='sim0'/>".to_owned(),
            Some(vf) => format!("<address type='pci' {}/>", attributes(vf)),
        };
        for managed in [" managed='no'", ""] {
            let xml = format!(
                "<network><name>{name}</name><forward mode='hostdev'{managed}>{members}</forward>\
                 </network>"
            );
            let net = client.define_network(&xml).await;
            client.ok(NetworkCreate { net: net.clone() }).await;
            by_hand_first(&site, &client, &crate::hotplug::on(name)).await;
            client.ok(NetworkDestroy { net: net.clone() }).await;
            client.ok(NetworkUndefine { net }).await;
        }
    }
    for managed in [" managed='no'", ""] {
        by_hand_first(&site, &client, &vf_interface(VF, managed, "")).await;
        by_hand_first(&site, &client, &host_device(VF, managed, "")).await;
    }
}

/// Refused at start and while the guest runs; with the VF detached by hand it is lent both times, and
/// stays detached afterwards.
async fn by_hand_first(site: &Site, client: &Client, xml: &str) {
    let is_of_pool = xml.contains("<source network");
    let dom = client.define_guest(&bare("g1")).await;
    let dom = client.start(&dom).await;
    let parts = &[
        "not managed",
        "must be manually detached from the host",
        "nodedev-detach",
    ];
    let refused = match is_of_pool {
        true => Code::InternalError,
        false => Code::OperationInvalid,
    };
    client
        .refuses(&site.root, attach(&dom, xml, LIVE), refused, parts)
        .await;
    assert_eq!(driver(site, VF).as_deref(), Some("simvf"), "{xml}");
    client.ok(DomainDestroy { dom: dom.clone() }).await;
    client.ok(attach(&dom, xml, CONFIG)).await;
    client
        .refuses(&site.root, start(&dom), refused, parts)
        .await;
    client.ok(node_devices::detach(VF_NODE)).await;
    let dom = client.start(&dom).await;
    assert_eq!(client.who().await[0].guest.as_deref(), Some("g1"), "{xml}");
    client.ok(DomainDestroy { dom: dom.clone() }).await;
    assert_eq!(driver(site, VF).as_deref(), Some("vfio-pci"), "{xml}");
    client.ok(detach(&dom, xml, CONFIG)).await;

    let dom = client.start(&dom).await;
    client.ok(attach(&dom, xml, LIVE)).await;
    client.ok(detach(&dom, xml, LIVE)).await;
    assert_eq!(driver(site, VF).as_deref(), Some("vfio-pci"), "{xml}");
    client.ok(node_devices::reattach(VF_NODE)).await;
    assert_eq!(driver(site, VF).as_deref(), Some("simvf"), "{xml}");
    client.ok(DomainDestroy { dom: dom.clone() }).await;
    client.ok(DomainUndefine { dom }).await;
    assert!(client.who().await.is_empty());
}
