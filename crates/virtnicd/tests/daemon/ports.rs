//! Ports that clients make: a network's devices, claimed by whoever asked.

use std::collections::HashSet;

use rpc::*;
use uuid::Uuid;

use crate::harness::*;

const RECLAIM: u32 = 1;

fn uuid(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

#[tokio::test]
async fn a_port_claims_a_device_until_it_is_deleted() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let net = client.running_network("n1", "sim0").await;
    let before = client.picture(&root).await;

    let port = client.create_port(&net, &port_xml(uuid(1), "g1", 1)).await;
    assert_eq!(
        port,
        Port {
            net: net.clone(),
            uuid: uuid(1)
        }
    );
    assert_eq!(client.ports(&net).await, std::slice::from_ref(&port));
    let lookup = NetworkPortLookupByUuid {
        network: net.clone(),
        uuid: uuid(1),
    };
    assert_eq!(client.ok(lookup).await, port);
    let dump = NetworkPortGetXmlDesc {
        port: port.clone(),
        flags: Default::default(),
    };
    let xml = client.ok(dump.clone()).await;
    assert_eq!(client.ok(dump).await, xml);
    assert!(
        xml.contains("<plug type='hostdev-pci' managed='yes'>"),
        "{xml}"
    );
    let [lent] = client.who().await.try_into().unwrap();
    assert_eq!((lent.state.as_str(), lent.port), ("claimed", uuid(1)));
    assert_eq!((lent.pf.as_deref(), lent.vf), (Some("sim0"), Some(0)));
    assert!(lent.since > 0);
    let live = client.network_dump(&net, 0).await;
    assert!(live.contains("<network connections='1'>"), "{live}");

    client
        .ok(NetworkPortDelete {
            port: port.clone(),
            flags: Default::default(),
        })
        .await;
    assert_eq!(client.picture(&root).await, before);
    let parts = &[&*uuid(1).to_string()];
    let delete = NetworkPortDelete {
        port: port.clone(),
        flags: Default::default(),
    };
    client
        .refuses(&root, delete, Code::NoNetworkPort, parts)
        .await;
    let dump = NetworkPortGetXmlDesc {
        port,
        flags: Default::default(),
    };
    client
        .refuses(&root, dump, Code::NoNetworkPort, parts)
        .await;
    let lookup = NetworkPortLookupByUuid {
        network: net,
        uuid: uuid(1),
    };
    client
        .refuses(&root, lookup, Code::NoNetworkPort, parts)
        .await;
}

#[tokio::test]
async fn bad_ports_are_refused() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let net = client.running_network("n1", "sim0").await;
    client.create_port(&net, &port_xml(uuid(1), "g1", 1)).await;
    let create = |xml: String, flags| NetworkPortCreateXml {
        network: net.clone(),
        xml,
        flags,
    };

    let again = create(port_xml(uuid(1), "g2", 2), 0.into());
    let text = client
        .refuses(&root, again, Code::NetworkPortExist, &["exists already"])
        .await;
    assert_eq!(text, format!("network port {} exists already", uuid(1)));

    let good = port_xml(uuid(2), "g2", 2);
    let group = good.replace("</owner>", "</owner><group>nosuch</group>");
    let error = client.refused(create(group, 0.into())).await;
    assert!(
        error
            .message()
            .contains("network 'n1' has no portgroup 'nosuch'"),
        "{error}"
    );

    for (asked, part) in [
        ("<port isolated='yes'/>", "isolated"),
        (
            "<bandwidth><inbound average='1'/></bandwidth>",
            "<bandwidth>",
        ),
        (
            "<vlan trunk='yes'><tag id='1'/><tag id='2'/></vlan>",
            "no trunk",
        ),
    ] {
        let xml = good.replace("</owner>", &format!("</owner>{asked}"));
        let create = create(xml, 0.into());
        client
            .refuses(&root, create, Code::ConfigUnsupported, &[part])
            .await;
    }

    let plug = "</owner><plug type='hostdev-pci' managed='yes'>\
                <address domain='0x0000' bus='0x02' slot='0x00' function='0x3'/></plug>";
    let plugged = good.replace("</owner>", plug);
    let parts = &["must not have a <plug>"];
    client
        .refuses(
            &root,
            create(plugged.clone(), 0.into()),
            Code::InvalidArg,
            parts,
        )
        .await;
    let parts = &["needs its <plug>"];
    client
        .refuses(
            &root,
            create(good.clone(), RECLAIM.into()),
            Code::InvalidArg,
            parts,
        )
        .await;
    client
        .refuses(
            &root,
            create("<networkport></x>".into(), 0.into()),
            Code::XmlError,
            &["line 1"],
        )
        .await;
    let other = create(network_xml("n1", "sim0"), 0.into());
    client
        .refuses(&root, other, Code::XmlError, &["networkport", "network"])
        .await;

    // Reclaimed with its device it is a port like any other; and that device is nobody else's then.
    client.ok(create(plugged.clone(), RECLAIM.into())).await;
    let taken = plugged.replace(&uuid(2).to_string(), &uuid(3).to_string());
    let parts = &["0000:02:00.3", "g2"];
    client
        .refuses(
            &root,
            create(taken, RECLAIM.into()),
            Code::OperationInvalid,
            parts,
        )
        .await;
}

#[tokio::test]
async fn a_port_that_a_guest_runs_on_stays() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let net = client.running_network("n1", "sim0").await;
    let dom = client.running_guest("g1", "n1").await;
    let [port] = client.ports(&net).await.try_into().unwrap();
    let delete = NetworkPortDelete {
        port: port.clone(),
        flags: Default::default(),
    };
    let parts = &["guest 'g1' runs on port"];
    client
        .refuses(&root, delete, Code::OperationInvalid, parts)
        .await;
    client.ok(DomainDestroy { dom }).await;
    assert!(client.ports(&net).await.is_empty());
}

#[tokio::test]
async fn a_stopped_network_gives_up_its_ports_and_not_its_guests() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let net = client.running_network("n1", "sim0").await;
    let dom = client.running_guest("g1", "n1").await;
    client
        .create_port(&net, &port_xml(uuid(1), "client", 1))
        .await;
    assert_eq!(client.who().await.len(), 2);
    client.ok(NetworkDestroy { net: net.clone() }).await;
    let [lent] = client.who().await.try_into().unwrap();
    assert_eq!(
        (lent.guest.as_deref(), lent.state.as_str()),
        (Some("g1"), "lent")
    );
    let held = lent.pci_address;

    // Started again it does not lend what its former guest still has.
    client.ok(NetworkCreate { net: net.clone() }).await;
    for number in 2..5 {
        client
            .create_port(&net, &port_xml(uuid(number.into()), "client", number))
            .await;
    }
    let xml = port_xml(uuid(9), "client", 9);
    let one_more = NetworkPortCreateXml {
        network: net.clone(),
        xml,
        flags: Default::default(),
    };
    client
        .refuses(
            &root,
            one_more,
            Code::InternalError,
            &["no free device", "g1"],
        )
        .await;
    client.ok(DomainDestroy { dom }).await;
    client
        .create_port(&net, &port_xml(uuid(9), "client", 9))
        .await;
    let who = client.who().await;
    let last = who.iter().find(|lent| lent.port == uuid(9)).unwrap();
    assert_eq!(last.pci_address, held);
}

#[tokio::test]
async fn two_networks_on_one_pf_lend_each_vf_once() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let one = client.running_network("one", "sim0").await;
    let two = client.running_network("two", "sim0").await;
    for number in 1..=4 {
        let net = if number % 2 == 0 { &one } else { &two };
        client
            .create_port(net, &port_xml(uuid(number.into()), "g", number))
            .await;
    }
    let addresses: HashSet<_> = client
        .who()
        .await
        .into_iter()
        .map(|l| l.pci_address)
        .collect();
    assert_eq!(addresses.len(), 4);
    let xml = port_xml(uuid(5), "g", 5);
    let create = NetworkPortCreateXml {
        network: one.clone(),
        xml,
        flags: Default::default(),
    };
    client
        .refuses(
            &root,
            create,
            Code::InternalError,
            &["network 'one' has no free device"],
        )
        .await;
    // Stopping one leaves what the other has.
    client.ok(NetworkDestroy { net: one }).await;
    assert_eq!(client.ports(&two).await.len(), 2);
    assert_eq!(client.who().await.len(), 2);
}

#[tokio::test]
async fn a_mac_is_on_a_pf_once() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let net = client.running_network("n1", "sim0").await;
    client
        .create_port(&net, &port_xml(uuid(1), "first", 7))
        .await;
    let xml = port_xml(uuid(2), "second", 7);
    let create = NetworkPortCreateXml {
        network: net,
        xml: xml.clone(),
        flags: Default::default(),
    };
    let parts = &["first", "52:54:00:00:00:07", "another MAC"];
    client
        .refuses(&root, create, Code::InternalError, parts)
        .await;
    // The other PF is another wire.
    let net = client.running_network("n2", "sim1").await;
    client.create_port(&net, &xml).await;
}

#[tokio::test]
async fn who_finds_by_any_of_its_texts() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let one = client.running_network("one", "sim0").await;
    let two = client.running_network("two", "sim1").await;
    client.create_port(&one, &port_xml(uuid(1), "web", 1)).await;
    client
        .create_port(&two, &port_xml(uuid(2), "mail", 2))
        .await;
    for (filter, expected) in [
        ("one", &[1][..]),
        ("mail", &[2]),
        ("52:54:00:00:00:01", &[1]),
        ("0000:04:00", &[2]),
        ("52:54", &[1, 2]),
        ("nobody", &[]),
    ] {
        let found = client
            .ok(VirtnicWho {
                filter: Some(filter.into()),
                counters: false,
            })
            .await;
        let mut ports: Vec<_> = found.iter().map(|lent| lent.port.as_u128()).collect();
        ports.sort_unstable();
        assert_eq!(ports, expected, "{filter}");
    }
}
