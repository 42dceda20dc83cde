//! Documents that are none, or that are meant to hurt.

use rpc::client::CallError;
use rpc::*;

use crate::harness::*;

/// A document is refused wherever a client can hand it in.
async fn refused_everywhere(root: &Root, client: &Client, xml: &str, code: Code, parts: &[&str]) {
    let xml = || xml.to_owned();
    client
        .refuses(root, NetworkDefineXml { xml: xml() }, code, parts)
        .await;
    client
        .refuses(
            root,
            NetworkCreateXmlFlags {
                xml: xml(),
                flags: Default::default(),
            },
            code,
            parts,
        )
        .await;
    client
        .refuses(
            root,
            DomainDefineXmlFlags {
                xml: xml(),
                flags: Default::default(),
            },
            code,
            parts,
        )
        .await;
    client
        .refuses(
            root,
            DomainCreateXml {
                xml_desc: xml(),
                flags: Default::default(),
            },
            code,
            parts,
        )
        .await;
    let network = client.ok(NetworkLookupByName { name: "on".into() }).await;
    let port = NetworkPortCreateXml {
        network,
        xml: xml(),
        flags: Default::default(),
    };
    client.refuses(root, port, code, parts).await;
}

#[tokio::test]
async fn what_is_not_well_formed() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    client.running_network("on", "sim0").await;
    for xml in [
        "",
        "hello",
        "<network>",
        "<a></b>",
        "<network name='a' name='b'/>",
        "<x>&nosuch;</x>",
    ] {
        refused_everywhere(&root, &client, xml, Code::XmlError, &[]).await;
    }
    let xml = "<network>\n  <name>n1</name>\n  <forward\n</network>";
    let text = client
        .refuses(
            &root,
            NetworkDefineXml { xml: xml.into() },
            Code::XmlError,
            &[],
        )
        .await;
    assert!(text.contains("line 4"), "the place is told: {text}");
}

#[tokio::test]
async fn an_entity_bomb() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    client.running_network("on", "sim0").await;
    let mut entities = String::from("<!ENTITY e0 'lol'>");
    for level in 1..30 {
        let inner = format!("&e{};", level - 1).repeat(10);
        entities += &format!("<!ENTITY e{level} '{inner}'>");
    }
    let bomb = format!("<!DOCTYPE network [{entities}]><network><name>&e29;</name></network>");
    refused_everywhere(&root, &client, &bomb, Code::XmlError, &["document type"]).await;
    let file = "<!DOCTYPE network [<!ENTITY f SYSTEM 'file:///etc/passwd'>]>\
                <network><name>&f;</name></network>";
    refused_everywhere(&root, &client, file, Code::XmlError, &["document type"]).await;
}

#[tokio::test]
async fn documents_that_are_deep_or_long() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    client.running_network("on", "sim0").await;
    let deep = format!("{}{}", "<a>".repeat(100_000), "</a>".repeat(100_000));
    refused_everywhere(&root, &client, &deep, Code::XmlError, &[]).await;
    let attributes: String = (0..50_000).map(|n| format!(" a{n}='x'")).collect();
    refused_everywhere(
        &root,
        &client,
        &format!("<network{attributes}/>"),
        Code::XmlError,
        &[],
    )
    .await;
}

#[tokio::test]
async fn a_string_over_the_protocols_maximum_never_leaves_the_client() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let xml = "x".repeat(5 * 1024 * 1024);
    let refused = client.rpc.call(&NetworkDefineXml { xml }).await;
    assert!(
        matches!(refused, Err(CallError::Arguments(_))),
        "{refused:?}"
    );
    // The connection is good for more.
    client.ok(ConnectGetHostname {}).await;
}

#[tokio::test]
async fn errors_tell_the_element() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let no_name = "<network><forward mode='hostdev'><pf dev='sim0'/></forward></network>";
    client
        .refused(NetworkDefineXml {
            xml: no_name.into(),
        })
        .await;
    for (part, place) in [
        ("<forward mode='nosuch'/>", "nosuch"),
        ("<forward mode='hostdev'><pf/></forward>", "pf"),
        ("<vlan><tag id='4096'/></vlan>", "4096"),
        ("<uuid>12345</uuid>", "uuid"),
    ] {
        let xml = format!("<network><name>n1</name>{part}</network>");
        let before = client.picture(&root).await;
        let error = client.refused(NetworkDefineXml { xml }).await;
        assert!(error.message().contains(place), "{place}: {error}");
        assert_eq!(client.picture(&root).await, before);
    }
}
