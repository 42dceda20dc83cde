//! Titles, descriptions, and what other programs keep with networks and guests.

use rpc::*;

use crate::harness::*;

const LIVE: u32 = 1;
const CONFIG: u32 = 2;

const DESCRIPTION: i32 = 0;
const TITLE: i32 = 1;
const ELEMENT: i32 = 2;

fn text(value: &str) -> Option<String> {
    Some(value.to_owned())
}

fn ask(dom: &Dom, kind: i32, uri: Option<&str>, flags: u32) -> DomainGetMetadata {
    DomainGetMetadata {
        dom: dom.clone(),
        r#type: kind,
        uri: uri.map(str::to_owned),
        flags: flags.into(),
    }
}

fn set(dom: &Dom, kind: i32, metadata: Option<String>, flags: u32) -> DomainSetMetadata {
    DomainSetMetadata {
        dom: dom.clone(),
        r#type: kind,
        metadata,
        key: None,
        uri: None,
        flags: flags.into(),
    }
}

fn set_element(dom: &Dom, xml: Option<&str>, flags: u32) -> DomainSetMetadata {
    DomainSetMetadata {
        key: xml.and(text("k")),
        uri: text("urn:k"),
        ..set(dom, ELEMENT, xml.map(str::to_owned), flags)
    }
}

#[tokio::test]
async fn a_guest_has_a_title_and_other_programs_notes() {
    let root = Root::new();
    let daemon = root.start();
    let mut client = root.client().await;
    client.running_network("n1", "sim0").await;
    let dom = client.running_guest("g1", "n1").await;
    client
        .ok(ConnectDomainEventCallbackRegisterAny {
            event_id: 23,
            dom: None,
        })
        .await;

    client
        .ok(set(&dom, TITLE, text("A & B"), LIVE | CONFIG))
        .await;
    assert!(client.event().await.contains("type: 1"));
    assert_eq!(client.ok(ask(&dom, TITLE, None, 0)).await, "A & B");
    let note = "<note at=\"1\"><line/></note>";
    client.ok(set_element(&dom, Some(note), LIVE)).await;
    assert!(client.event().await.contains("urn:k"));
    assert_eq!(client.ok(ask(&dom, ELEMENT, Some("urn:k"), 0)).await, note);
    let missing = ask(&dom, ELEMENT, Some("urn:k"), CONFIG);
    client
        .refuses(&root, missing, Code::NoDomainMetadata, &["not present"])
        .await;
    client.ok(set_element(&dom, Some(note), CONFIG)).await;
    let definition = client.guest_dump(&dom, DOMAIN_XML_INACTIVE).await;
    assert!(
        definition.contains("<title>A &amp; B</title>"),
        "{definition}"
    );
    assert!(
        definition.contains("<k:note xmlns:k=\"urn:k\" at=\"1\">"),
        "{definition}"
    );

    // The definition outlives the daemon.
    daemon.stop();
    let _daemon = root.start();
    let client = root.client().await;
    assert_eq!(client.ok(ask(&dom, TITLE, None, 0)).await, "A & B");
    assert_eq!(client.ok(ask(&dom, ELEMENT, Some("urn:k"), 0)).await, note);
    client.ok(set_element(&dom, None, CONFIG)).await;
    client.ok(set(&dom, TITLE, None, CONFIG)).await;
    let definition = client.guest_dump(&dom, DOMAIN_XML_INACTIVE).await;
    assert!(
        !definition.contains("metadata") && !definition.contains("title"),
        "{definition}"
    );
}

#[tokio::test]
async fn a_network_has_a_description_and_other_programs_notes() {
    let root = Root::new();
    let daemon = root.start();
    let mut client = root.client().await;
    let net = client.running_network("n1", "sim0").await;
    client
        .ok(ConnectNetworkEventRegisterAny {
            event_id: 1,
            net: None,
        })
        .await;
    let set = |kind, metadata: Option<&str>, flags| NetworkSetMetadata {
        network: net.clone(),
        r#type: kind,
        metadata: metadata.map(str::to_owned),
        key: metadata.filter(|_| kind == ELEMENT).and(text("k")),
        uri: (kind == ELEMENT).then(|| "urn:k".to_owned()),
        flags,
    };
    let ask = |kind, flags| NetworkGetMetadata {
        network: net.clone(),
        r#type: kind,
        uri: (kind == ELEMENT).then(|| "urn:k".to_owned()),
        flags,
    };
    client
        .ok(set(DESCRIPTION, Some("two\nlines"), LIVE.into()))
        .await;
    assert!(client.event().await.contains("type: 0"));
    client
        .ok(set(ELEMENT, Some("<a/>"), (LIVE | CONFIG).into()))
        .await;
    assert!(client.event().await.contains("urn:k"));
    assert_eq!(client.ok(ask(DESCRIPTION, 0.into())).await, "two\nlines");
    client
        .refuses(
            &root,
            ask(DESCRIPTION, CONFIG.into()),
            Code::NoNetworkMetadata,
            &["not present"],
        )
        .await;

    daemon.crash();
    let _daemon = root.start();
    let client = root.client().await;
    assert_eq!(client.ok(ask(DESCRIPTION, LIVE.into())).await, "two\nlines");
    for flags in [LIVE, CONFIG] {
        assert_eq!(client.ok(ask(ELEMENT, flags.into())).await, "<a/>");
    }
}

#[tokio::test]
async fn notes_that_would_break_a_document_are_refused() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let dom = client.define_guest(&guest_xml("g1", "")).await;
    let invalid = Code::InvalidArg;
    let element = |xml: &str, key: Option<&str>, uri: Option<&str>| DomainSetMetadata {
        key: key.map(str::to_owned),
        uri: uri.map(str::to_owned),
        ..set(&dom, ELEMENT, text(xml), 0)
    };
    for (change, code, part) in [
        (set(&dom, TITLE, text("two\nlines"), 0), invalid, "one line"),
        (set(&dom, 7, text("x"), 0), invalid, "7 is no kind"),
        (
            set(&dom, TITLE, text("x"), LIVE),
            Code::OperationInvalid,
            "not running",
        ),
        (set(&dom, TITLE, text("x"), 4), invalid, "0x4"),
        (
            element("<a", Some("k"), Some("urn:k")),
            Code::XmlError,
            "not well-formed",
        ),
        (element("<a/>", None, Some("urn:k")), invalid, "prefix"),
        (element("<a/>", Some("k"), None), invalid, "URI"),
        (
            element("<a/>", Some("a b"), Some("urn:k")),
            invalid,
            "'a b'",
        ),
        (
            element("<a xmlns='urn:x'/>", Some("k"), Some("urn:k")),
            invalid,
            "urn:x",
        ),
    ] {
        client.refuses(&root, change, code, &[part]).await;
    }
    let both = ask(&dom, TITLE, None, LIVE | CONFIG);
    client
        .refuses(&root, both, invalid, &["exclude each other"])
        .await;
}

#[tokio::test]
async fn no_note_makes_a_definition_too_large_to_be_read_again() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let dom = client.define_guest(&guest_xml("g1", "")).await;
    let net = client.define_network(&network_xml("n1", "sim0")).await;
    let long = Some("x".repeat(3 << 20));
    let parts = &["too large to be kept"];
    let of_guest = set(&dom, DESCRIPTION, long.clone(), CONFIG);
    client
        .refuses(&root, of_guest, Code::ConfigUnsupported, parts)
        .await;
    let of_network = NetworkSetMetadata {
        network: net,
        r#type: DESCRIPTION,
        metadata: long,
        key: None,
        uri: None,
        flags: CONFIG.into(),
    };
    client
        .refuses(&root, of_network, Code::ConfigUnsupported, parts)
        .await;
}
