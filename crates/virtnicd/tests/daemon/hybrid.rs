//! Pairs of a VF and virtio, as documents show them.

use crate::documents::guest_xml;
use crate::harness::Root;

/// `VIR_DOMAIN_XML_INACTIVE`.
const INACTIVE: u32 = 2;

/// The lines of a guest's interfaces.
fn interfaces(xml: &str) -> Vec<String> {
    let start = xml.find("    <interface").unwrap();
    let end = xml.rfind("</interface>").unwrap();
    xml[start..end].lines().map(str::to_owned).collect()
}

/// How often it is there.
fn count(xml: &str, part: &str) -> usize {
    xml.matches(part).count()
}

#[tokio::test]
async fn one_element_is_defined_as_two_interfaces_and_stays_them() {
    let root = Root::new();
    let daemon = root.start();
    let client = root.client().await;
    let network = "<network xmlns:virtnic='urn:virtnic:1'><name>pairs</name>\
                   <forward mode='hostdev-hybrid' managed='yes'><pf dev='sim0'/></forward>\
                   <virtnic:hybrid guest='bond'/></network>";
    client.define_network(network).await;
    let one = guest_xml(
        "g1",
        "<interface type='hostdev-hybrid'><source dev='sim0'/></interface>\
         <interface type='network'><source network='pairs'/></interface>",
    )
    .replace(
        "<memory",
        "<uuid>c7a5fdbd-edaf-9455-926a-d65c16db1809</uuid><memory",
    );
    let dom = client.define_guest(&one).await;
    let first = client.guest_dump(&dom, INACTIVE).await;
    assert_eq!(count(&first, "<interface "), 4, "{first}");
    assert_eq!(count(&first, "<teaming "), 2, "{first}");
    assert_eq!(count(&first, "guest='bond'"), 2, "{first}");
    assert_eq!(count(&first, "<alias name='ua-hybrid-"), 4, "{first}");
    for again in [&one, &first, &one] {
        let dom = client.define_guest(again).await;
        assert_eq!(client.guest_dump(&dom, INACTIVE).await, first);
    }
    // What else the guest gets takes nothing from them.
    let more = one.replace(
        "<devices>",
        "<devices><interface type='user'><mac address='52:54:00:00:00:09'/>\
         <model type='virtio'/></interface>",
    );
    let dom = client.define_guest(&more).await;
    let shown = interfaces(&client.guest_dump(&dom, INACTIVE).await);
    assert!(shown.ends_with(&interfaces(&first)), "{shown:#?}");

    let dom = client.define_guest(&first).await;
    drop(client);
    daemon.stop();
    let _daemon = root.start();
    let client = root.client().await;
    assert_eq!(client.guest_dump(&dom, INACTIVE).await, first);
}

#[tokio::test]
async fn what_no_half_can_have_is_refused_where_it_is_defined() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let trunk = guest_xml(
        "g1",
        "<interface type='hostdev-hybrid'><source dev='sim0'/>\
         <vlan><tag id='1'/><tag id='2'/></vlan></interface>",
    );
    let define = rpc::DomainDefineXmlFlags {
        xml: trunk,
        flags: Default::default(),
    };
    let parts = ["<vlan> is a trunk", "/domain/devices/interface[1]"];
    client
        .refuses(&root, define, rpc::Code::ConfigUnsupported, &parts)
        .await;
    let network = "<network><name>n</name><forward mode='hostdev-hybrid'><pf dev='sim0'/></forward>\
                   <vlan trunk='yes'><tag id='1'/></vlan></network>";
    let define = rpc::NetworkDefineXml {
        xml: network.to_owned(),
    };
    let parts = ["<vlan> is a trunk", "/network/vlan"];
    client
        .refuses(&root, define, rpc::Code::ConfigUnsupported, &parts)
        .await;
}

#[tokio::test]
async fn a_network_that_is_not_known_yet_makes_pairs_at_the_next_definition() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let one = guest_xml(
        "g1",
        "<interface type='network'><mac address='52:54:00:00:00:01'/><source network='pairs'/>\
         </interface>",
    );
    let dom = client.define_guest(&one).await;
    let shown = client.guest_dump(&dom, INACTIVE).await;
    assert_eq!(count(&shown, "<interface "), 1, "{shown}");
    let network = "<network><name>pairs</name><forward mode='hostdev-hybrid'><pf dev='sim0'/>\
                   </forward></network>";
    client.define_network(network).await;
    let dom = client.define_guest(&shown).await;
    let shown = client.guest_dump(&dom, INACTIVE).await;
    assert_eq!(count(&shown, "<interface "), 2, "{shown}");
    assert_eq!(count(&shown, "52:54:00:00:00:01"), 2, "{shown}");
}
