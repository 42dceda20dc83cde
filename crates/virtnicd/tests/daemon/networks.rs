//! The life of a network, kept or not.

use rpc::*;
use uuid::Uuid;

use crate::harness::*;

const ACTIVE: u32 = 2;
const INACTIVE: u32 = 1;
const PERSISTENT: u32 = 4;
const TRANSIENT: u32 = 8;
const AUTOSTART: u32 = 16;
const NO_AUTOSTART: u32 = 32;

#[tokio::test]
async fn a_kept_network_is_defined_started_stopped_and_forgotten() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let empty = client.picture(&root).await;

    let net = client.define_network(&network_xml("n1", "sim0")).await;
    assert!(!client.ok(NetworkIsActive { net: net.clone() }).await);
    assert!(client.ok(NetworkIsPersistent { net: net.clone() }).await);
    assert_eq!(
        client.ok(NetworkLookupByName { name: "n1".into() }).await,
        net
    );
    assert_eq!(client.ok(NetworkLookupByUuid { uuid: net.uuid }).await, net);
    assert!(root.path("etc/virtnic/networks/n1.xml").exists());

    client.ok(NetworkCreate { net: net.clone() }).await;
    assert!(client.ok(NetworkIsActive { net: net.clone() }).await);
    let live = client.network_dump(&net, 0).await;
    assert_eq!(live.matches("<address type='pci'").count(), 4, "{live}");
    let inactive = client.network_dump(&net, NETWORK_XML_INACTIVE).await;
    assert!(!inactive.contains("<address"), "{inactive}");

    client.ok(NetworkDestroy { net: net.clone() }).await;
    assert!(!client.ok(NetworkIsActive { net: net.clone() }).await);
    client.ok(NetworkUndefine { net: net.clone() }).await;
    let lookup = NetworkLookupByName { name: "n1".into() };
    let error = client.refused(lookup).await;
    assert_eq!(error.code(), Code::NoNetwork);
    assert_eq!(
        error.message(),
        "Network not found: no network with matching name 'n1'"
    );
    assert_eq!(client.picture(&root).await, empty);
}

#[tokio::test]
async fn a_transient_network_is_gone_when_it_stops() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let empty = client.picture(&root).await;

    let net = client
        .ok(NetworkCreateXml {
            xml: network_xml("t1", "sim1"),
        })
        .await;
    assert!(client.ok(NetworkIsActive { net: net.clone() }).await);
    assert!(!client.ok(NetworkIsPersistent { net: net.clone() }).await);
    assert!(!root.path("etc/virtnic/networks/t1.xml").exists());
    for args in [true, false] {
        let set = NetworkSetAutostart {
            net: net.clone(),
            autostart: args,
        };
        let part = "cannot set autostart for transient network";
        client
            .refuses(&root, set, Code::OperationInvalid, &[part])
            .await;
    }
    let undefine = NetworkUndefine { net: net.clone() };
    client
        .refuses(
            &root,
            undefine,
            Code::OperationInvalid,
            &["transient network"],
        )
        .await;

    client.ok(NetworkDestroy { net: net.clone() }).await;
    let error = client
        .refused(NetworkGetXmlDesc {
            net,
            flags: Default::default(),
        })
        .await;
    assert_eq!(error.code(), Code::NoNetwork);
    assert_eq!(client.picture(&root).await, empty);
}

#[tokio::test]
async fn undefined_while_it_runs_a_network_goes_on_until_it_stops() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let net = client.running_network("n1", "sim0").await;
    client
        .ok(NetworkSetAutostart {
            net: net.clone(),
            autostart: true,
        })
        .await;

    client.ok(NetworkUndefine { net: net.clone() }).await;
    assert!(client.ok(NetworkIsActive { net: net.clone() }).await);
    assert!(!client.ok(NetworkIsPersistent { net: net.clone() }).await);
    assert!(
        !root
            .path("etc/virtnic/networks/autostart/n1.xml")
            .is_symlink()
    );
    // Its ports work as before.
    client
        .create_port(&net, &port_xml(Uuid::from_u128(1), "g", 1))
        .await;

    client.ok(NetworkDestroy { net }).await;
    assert!(client.network_names(0).await.is_empty());
    assert!(client.who().await.is_empty());
}

#[tokio::test]
async fn a_definition_of_a_running_network_waits_for_its_next_start() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let net = client.running_network("n1", "sim0").await;

    // As virsh net-edit does: the document as it is, changed, given back.
    let kept = client.network_dump(&net, NETWORK_XML_INACTIVE).await;
    let edited = kept.replace("dev='sim0'", "dev='sim1'");
    assert_ne!(kept, edited);
    assert_eq!(client.define_network(&edited).await, net);

    assert!(client.network_dump(&net, 0).await.contains("dev='sim0'"));
    assert_eq!(
        client.network_dump(&net, NETWORK_XML_INACTIVE).await,
        edited
    );
    client.ok(NetworkDestroy { net: net.clone() }).await;
    client.ok(NetworkCreate { net: net.clone() }).await;
    assert!(client.network_dump(&net, 0).await.contains("dev='sim1'"));
}

#[tokio::test]
async fn a_transient_network_that_is_defined_stays() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let net = client
        .ok(NetworkCreateXml {
            xml: network_xml("t1", "sim1"),
        })
        .await;
    let xml = client.network_dump(&net, NETWORK_XML_INACTIVE).await;
    assert_eq!(client.define_network(&xml).await, net);
    client.ok(NetworkDestroy { net: net.clone() }).await;
    assert_eq!(client.network_names(INACTIVE).await, ["t1"]);
    client.ok(NetworkCreate { net }).await;
}

#[tokio::test]
async fn the_document_that_is_edited_is_the_same_each_time() {
    let root = Root::new();
    let daemon = root.start();
    let client = root.client().await;
    let xml = "<network><name>n1</name><title>fast</title>\
               <forward mode='hostdev' managed='yes'><pf dev='sim0'/></forward>\
               <vlan><tag id='42'/></vlan>\
               <portgroup name='a' default='yes'/><portgroup name='b'><vlan><tag id='43'/></vlan>\
               </portgroup></network>";
    let net = client.define_network(xml).await;
    let first = client.network_dump(&net, NETWORK_XML_INACTIVE).await;
    assert_eq!(client.network_dump(&net, NETWORK_XML_INACTIVE).await, first);
    // Given back unchanged it stays what it is, running or not, and over a restart.
    client.define_network(&first).await;
    client.ok(NetworkCreate { net: net.clone() }).await;
    assert_eq!(client.network_dump(&net, NETWORK_XML_INACTIVE).await, first);
    daemon.stop();
    let _daemon = root.start();
    let client = root.client().await;
    assert_eq!(client.network_dump(&net, NETWORK_XML_INACTIVE).await, first);
    assert_eq!(
        client
            .ok(NetworkGetMetadata {
                network: net,
                r#type: 1,
                uri: None,
                flags: Default::default()
            })
            .await,
        "fast"
    );
}

/// As a backup does, or a tool that reads a network, changes it and defines it again.
#[tokio::test]
async fn what_is_shown_of_a_running_pool_of_a_pf_defines_it_again() {
    for (mode, device) in [
        ("hostdev' managed='yes", "<address "),
        ("passthrough", "<interface "),
    ] {
        let root = Root::new();
        let _daemon = root.start();
        let client = root.client().await;
        let xml = format!(
            "<network><name>n1</name><forward mode='{mode}'><pf dev='sim0'/></forward></network>"
        );
        let net = client.define_network(&xml).await;
        let definition = client.network_dump(&net, NETWORK_XML_INACTIVE).await;
        client.ok(NetworkCreate { net: net.clone() }).await;
        client
            .create_port(&net, &port_xml(Uuid::from_u128(1), "web", 1))
            .await;
        let live = client.network_dump(&net, 0).await;
        assert_eq!(live.matches(device).count(), 4, "{live}");
        assert_eq!(live.matches("connections='1'").count(), 2, "{live}");

        // While it runs, and when it is gone. Nothing of it is unknown, either.
        for gone in [false, true] {
            if gone {
                client.ok(NetworkDestroy { net: net.clone() }).await;
                client.ok(NetworkUndefine { net: net.clone() }).await;
            }
            let strict = NetworkDefineXmlFlags {
                xml: live.clone(),
                flags: 1.into(),
            };
            assert_eq!(client.ok(strict).await, net);
            let again = client.network_dump(&net, NETWORK_XML_INACTIVE).await;
            assert_eq!(again, definition);
        }
        client.ok(NetworkCreate { net: net.clone() }).await;
    }
}

#[tokio::test]
async fn lists_hold_what_their_flags_ask_for() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    client.define_network(&network_xml("off", "sim0")).await;
    let on = client.running_network("on", "sim0").await;
    let transient = client
        .ok(NetworkCreateXml {
            xml: network_xml("transient", "sim1"),
        })
        .await;
    assert!(!client.ok(NetworkGetAutostart { net: transient }).await);
    client
        .ok(NetworkSetAutostart {
            net: on.clone(),
            autostart: true,
        })
        .await;
    assert!(client.ok(NetworkGetAutostart { net: on }).await);

    for (flags, expected) in [
        (0, &["off", "on", "transient"][..]),
        (ACTIVE, &["on", "transient"]),
        (INACTIVE, &["off"]),
        (ACTIVE | INACTIVE, &["off", "on", "transient"]),
        (PERSISTENT, &["off", "on"]),
        (TRANSIENT, &["transient"]),
        (INACTIVE | TRANSIENT, &[]),
        (AUTOSTART, &["on"]),
        (NO_AUTOSTART, &["off", "transient"]),
        (AUTOSTART | NO_AUTOSTART, &["off", "on", "transient"]),
    ] {
        assert_eq!(client.network_names(flags).await, expected, "flags {flags}");
    }
    // Only their number, and the calls of old clients.
    let number = ConnectListAllNetworks {
        need_results: false,
        flags: ACTIVE.into(),
    };
    let number = client.ok(number).await;
    assert_eq!((number.items().len(), number.count()), (0, 2));
    assert_eq!(client.ok(ConnectNumOfNetworks {}).await, 2);
    assert_eq!(
        client.ok(ConnectListNetworks { maxnames: 10 }).await,
        ["on", "transient"]
    );
    assert_eq!(client.ok(ConnectNumOfDefinedNetworks {}).await, 1);
    assert_eq!(
        client.ok(ConnectListDefinedNetworks { maxnames: 10 }).await,
        ["off"]
    );
    let status = client.ok(VirtnicStatus {}).await;
    assert_eq!(
        (status.networks, status.active_networks, status.simulated),
        (3, 2, true)
    );
}

#[tokio::test]
async fn what_a_networks_state_does_not_allow_is_refused() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let net = client.define_network(&network_xml("n1", "sim0")).await;
    let invalid = Code::OperationInvalid;
    let parts = &["network 'n1' is not active"];
    client
        .refuses(&root, NetworkDestroy { net: net.clone() }, invalid, parts)
        .await;
    let list = NetworkListAllPorts {
        network: net.clone(),
        need_results: true,
        flags: Default::default(),
    };
    client.refuses(&root, list, invalid, parts).await;
    let xml = port_xml(Uuid::from_u128(1), "g", 1);
    let port = NetworkPortCreateXml {
        network: net.clone(),
        xml,
        flags: Default::default(),
    };
    client.refuses(&root, port, invalid, parts).await;

    client.ok(NetworkCreate { net: net.clone() }).await;
    let parts = &["network 'n1' is already active"];
    client
        .refuses(&root, NetworkCreate { net: net.clone() }, invalid, parts)
        .await;
    let xml = client.network_dump(&net, NETWORK_XML_INACTIVE).await;
    client
        .refuses(&root, NetworkCreateXml { xml }, invalid, parts)
        .await;
    let bridge = NetworkGetBridgeName { net };
    client
        .refuses(
            &root,
            bridge,
            Code::InternalError,
            &["'n1' does not have a bridge name"],
        )
        .await;
}

#[tokio::test]
async fn what_is_marked_starts_with_the_host() {
    let root = Root::new();
    let daemon = root.start();
    let next_boot = || std::fs::remove_file(root.path("run/virtnic/autostarted")).unwrap();
    let client = root.client().await;
    for (name, marked) in [("marked", true), ("unmarked", false)] {
        let net = client.define_network(&network_xml(name, "sim0")).await;
        client
            .ok(NetworkSetAutostart {
                net,
                autostart: marked,
            })
            .await;
    }
    daemon.stop();
    next_boot();
    let mut daemon = root.start();
    daemon.has_said(AUTOSTARTED);
    let client = root.client().await;
    assert_eq!(client.network_names(ACTIVE).await, ["marked"]);
    let net = client
        .ok(NetworkLookupByName {
            name: "marked".into(),
        })
        .await;
    client
        .ok(NetworkSetAutostart {
            net: net.clone(),
            autostart: false,
        })
        .await;
    client.ok(NetworkDestroy { net }).await;
    daemon.stop();
    next_boot();
    let mut daemon = root.start();
    daemon.has_said(AUTOSTARTED);
    assert!(root.client().await.network_names(ACTIVE).await.is_empty());
}
