//! What a client asks for and nobody understands is refused, not ignored.

use rpc::*;
use uuid::Uuid;

use crate::harness::*;

const DEFINE_VALIDATE: u32 = 1;
const PORT_VALIDATE: u32 = 2;
const START_VALIDATE: u32 = 16;

#[tokio::test]
async fn flags_that_nobody_knows_are_refused_by_number_and_call() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let net = client.running_network("n1", "sim0").await;
    let dom = client.define_guest(&guest_xml("g1", "")).await;
    let flags = 0x0100_0000;
    let invalid = Code::InvalidArg;
    let parts = |api| ["unsupported flags (0x1000000)", api];
    let call = NetworkGetXmlDesc {
        net,
        flags: flags.into(),
    };
    let text = client
        .refuses(&root, call, invalid, &parts("virNetworkGetXMLDesc"))
        .await;
    assert!(text.starts_with("invalid argument: "), "{text}");
    let call = ConnectListAllNetworks {
        need_results: true,
        flags: flags.into(),
    };
    client
        .refuses(&root, call, invalid, &parts("virConnectListAllNetworks"))
        .await;
    let call = DomainCreateWithFlags {
        dom: dom.clone(),
        flags: flags.into(),
    };
    client
        .refuses(&root, call, invalid, &parts("virDomainCreateWithFlags"))
        .await;
    let call = DomainUndefineFlags {
        dom: dom.clone(),
        flags: flags.into(),
    };
    client
        .refuses(&root, call, invalid, &parts("virDomainUndefineFlags"))
        .await;
    // Known ones among them don't help.
    let call = DomainGetXmlDesc {
        dom,
        flags: (flags | DOMAIN_XML_INACTIVE).into(),
    };
    client
        .refuses(&root, call, invalid, &parts("virDomainGetXMLDesc"))
        .await;
}

#[tokio::test]
async fn a_document_to_be_validated_says_nothing_that_nobody_reads() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let net = client.running_network("n1", "sim0").await;
    let schema = Code::XmlInvalidSchema;
    let parts = &["nosuch"];
    assert_eq!(schema.number(), 92);

    let xml = network_xml("n2", "sim1").replace("</name>", "</name><nosuch/>");
    let define = |xml: &str, flags| NetworkDefineXmlFlags {
        xml: xml.to_owned(),
        flags,
    };
    client
        .refuses(&root, define(&xml, DEFINE_VALIDATE.into()), schema, parts)
        .await;
    client.ok(define(&xml, 0.into())).await;

    let good = guest_xml("g1", &on_network("n1"));
    let xml = good.replace("<source ", "<nosuch/><source ");
    let define = |xml: &str, flags| DomainDefineXmlFlags {
        xml: xml.to_owned(),
        flags,
    };
    client
        .refuses(&root, define(&xml, DEFINE_VALIDATE.into()), schema, parts)
        .await;
    let create = DomainCreateXml {
        xml_desc: xml.clone(),
        flags: START_VALIDATE.into(),
    };
    client.refuses(&root, create, schema, parts).await;
    client.ok(define(&xml, 0.into())).await;
    let good = guest_xml("g2", &on_network("n1"));
    client.ok(define(&good, DEFINE_VALIDATE.into())).await;

    let good = port_xml(Uuid::from_u128(1), "g9", 1);
    let xml = good.replace("</owner>", "</owner><nosuch/>");
    let create = |xml: &str| NetworkPortCreateXml {
        network: net.clone(),
        xml: xml.to_owned(),
        flags: PORT_VALIDATE.into(),
    };
    client.refuses(&root, create(&xml), schema, parts).await;
    client.ok(create(&good)).await;
}
