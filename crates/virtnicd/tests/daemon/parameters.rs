//! Rates: of networks' ports, and of guests' interfaces.

use rpc::*;
use uuid::Uuid;

use crate::harness::*;

const LIVE: u32 = 1;
const CONFIG: u32 = 2;

fn params(all: &[(&str, u32)]) -> Vec<TypedParam> {
    (all.iter())
        .map(|(name, value)| TypedParam::new(*name, *value))
        .collect()
}

fn set_port(port: &Port, all: &[(&str, u32)]) -> NetworkPortSetParameters {
    NetworkPortSetParameters {
        port: port.clone(),
        params: params(all),
        flags: 0,
    }
}

/// As clients do: once, with room for none.
async fn port_rates(client: &Client, port: &Port) -> Vec<u32> {
    let ask = NetworkPortGetParameters {
        port: port.clone(),
        nparams: 0,
        flags: 0,
    };
    rates(client.ok(ask).await.params)
}

/// As clients do: first the number, then that many.
async fn interface_rates(client: &Client, dom: &Dom, device: &str, flags: u32) -> Vec<u32> {
    let ask = |nparams| DomainGetInterfaceParameters {
        dom: dom.clone(),
        device: device.to_owned(),
        nparams,
        flags,
    };
    let Params { params, nparams } = client.ok(ask(0)).await;
    assert_eq!((params.len(), nparams), (0, 7));
    rates(client.ok(ask(nparams)).await.params)
}

/// Inbound average, peak, burst and floor, outbound average, peak and burst.
fn rates(params: Vec<TypedParam>) -> Vec<u32> {
    let names: Vec<_> = params.iter().map(|param| param.field.as_str()).collect();
    assert_eq!(
        names,
        [
            "inbound.average",
            "inbound.peak",
            "inbound.burst",
            "inbound.floor",
            "outbound.average",
            "outbound.peak",
            "outbound.burst",
        ]
    );
    let number = |param: TypedParam| match param.value {
        TypedValue::U32(value) => value,
        other => panic!("{}: {other:?}", param.field),
    };
    params.into_iter().map(number).collect()
}

fn tune(dom: &Dom, device: &str, all: &[(&str, u32)], flags: u32) -> DomainSetInterfaceParameters {
    DomainSetInterfaceParameters {
        dom: dom.clone(),
        device: device.to_owned(),
        params: params(all),
        flags,
    }
}

/// A network whose guests share a network device by macvtap.
async fn sharing(client: &Client) -> Net {
    let xml = "<network><name>n1</name><forward mode='bridge'><interface dev='sim0'/></forward>\
               </network>";
    let net = client.define_network(xml).await;
    client.ok(NetworkCreate { net: net.clone() }).await;
    net
}

const MAC: &str = "52:54:00:00:00:01";

fn interface(network: &str) -> String {
    format!(
        "<interface type='network'><mac address='{MAC}'/><source network='{network}'/></interface>"
    )
}

#[tokio::test]
async fn a_ports_rates_are_what_was_set_also_for_the_next_daemon() {
    let root = Root::new();
    let daemon = root.start();
    let client = root.client().await;
    let net = client.running_network("n1", "sim0").await;
    let port = client
        .create_port(&net, &port_xml(Uuid::from_u128(1), "g1", 1))
        .await;
    assert_eq!(port_rates(&client, &port).await, [0; 7]);
    let inbound = [
        ("inbound.average", 1000),
        ("inbound.peak", 2000),
        ("inbound.burst", 64),
    ];
    client.ok(set_port(&port, &inbound)).await;
    client.ok(set_port(&port, &[("outbound.average", 7)])).await;
    let expected = [1000, 2000, 64, 0, 7, 0, 0];
    assert_eq!(port_rates(&client, &port).await, expected);
    let dump = NetworkPortGetXmlDesc {
        port: port.clone(),
        flags: 0,
    };
    let xml = client.ok(dump).await;
    assert!(xml.contains("<outbound average='7'/>"), "{xml}");

    daemon.crash();
    let _daemon = root.start();
    let client = root.client().await;
    assert_eq!(port_rates(&client, &port).await, expected);
    client.ok(set_port(&port, &[("inbound.average", 0)])).await;
    assert_eq!(port_rates(&client, &port).await, [0, 0, 0, 0, 7, 0, 0]);
}

#[tokio::test]
async fn rates_that_make_no_sense_are_refused() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let net = client.running_network("n1", "sim0").await;
    let port = client
        .create_port(&net, &port_xml(Uuid::from_u128(1), "g1", 1))
        .await;
    let invalid = Code::InvalidArg;
    for (all, code, part) in [
        (&[("inbound.peak", 5)][..], invalid, "inbound.average"),
        (&[("speed", 5)], invalid, "'speed'"),
        (
            &[("inbound.average", 5), ("inbound.average", 6)],
            invalid,
            "more than once",
        ),
        (&[("inbound.floor", 5)], Code::OperationUnsupported, "'n1'"),
    ] {
        client
            .refuses(&root, set_port(&port, all), code, &[part])
            .await;
    }
    let mut wrong = set_port(&port, &[]);
    wrong.params = vec![TypedParam::new("inbound.average", -5)];
    client.refuses(&root, wrong, invalid, &["unsigned"]).await;
    // Read-only clients may look.
    let reader = root.read_only_client().await;
    assert_eq!(port_rates(&reader, &port).await, [0; 7]);
    let error = reader.refused(set_port(&port, &[])).await;
    assert_eq!(error.code(), Code::OperationDenied);
}

#[tokio::test]
async fn a_vf_is_not_shaped_and_says_so() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let net = client.running_network("n1", "sim0").await;
    let dom = client
        .define_guest(&guest_xml("g1", &interface("n1")))
        .await;
    let dom = client.start(&dom).await;
    let [port] = client.ports(&net).await.try_into().unwrap();
    let all = &[("outbound.average", 1000)];
    let parts = &["<virtnic:vf rate="];
    let unsupported = Code::OperationUnsupported;
    client
        .refuses(&root, set_port(&port, all), unsupported, parts)
        .await;
    for flags in [LIVE, CONFIG, LIVE | CONFIG] {
        client
            .refuses(&root, tune(&dom, MAC, all, flags), unsupported, parts)
            .await;
    }
}

#[tokio::test]
async fn an_interface_and_its_port_have_the_same_rates() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let net = sharing(&client).await;
    let dom = client
        .define_guest(&guest_xml("g1", &interface("n1")))
        .await;
    let dom = client.start(&dom).await;
    let [port] = client.ports(&net).await.try_into().unwrap();
    assert_eq!(interface_rates(&client, &dom, MAC, 0).await, [0; 7]);

    // By its MAC, or by its device.
    client
        .ok(tune(&dom, MAC, &[("inbound.average", 1000)], LIVE))
        .await;
    let xml = client.guest_dump(&dom, 0).await;
    let target = xml.split("<target dev='").nth(1).unwrap();
    let target = target.split('\'').next().unwrap();
    let outbound = [("outbound.average", 5), ("outbound.peak", 6)];
    client.ok(tune(&dom, target, &outbound, 0)).await;
    let told = interface_rates(&client, &dom, target, 0).await;
    assert_eq!(told, [1000, 0, 0, 0, 5, 6, 0]);
    assert_eq!(port_rates(&client, &port).await, told);
    assert_eq!(interface_rates(&client, &dom, MAC, CONFIG).await, [0; 7]);

    // And the other way round.
    client.ok(set_port(&port, &[("inbound.average", 0)])).await;
    let told = interface_rates(&client, &dom, MAC, LIVE).await;
    assert_eq!(told, [0, 0, 0, 0, 5, 6, 0]);
    let live = client.guest_dump(&dom, 0).await;
    assert!(live.contains("<outbound average='5' peak='6'/>"), "{live}");

    // A definition has no device; the one that runs names its interface all the same.
    client
        .ok(tune(&dom, target, &[("inbound.average", 9)], CONFIG))
        .await;
    let told = interface_rates(&client, &dom, target, CONFIG).await;
    assert_eq!(told, [9, 0, 0, 0, 0, 0, 0]);
    let definition = client.guest_dump(&dom, DOMAIN_XML_INACTIVE).await;
    assert!(
        definition.contains("<inbound average='9'/>"),
        "{definition}"
    );
    let told = interface_rates(&client, &dom, MAC, LIVE).await;
    assert_eq!(told, [0, 0, 0, 0, 5, 6, 0]);
    client.ok(DomainDestroy { dom }).await;
}

#[tokio::test]
async fn rates_that_can_not_be_kept_are_not_there() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let net = sharing(&client).await;
    let dom = client
        .define_guest(&guest_xml("g1", &interface("n1")))
        .await;
    let dom = client.start(&dom).await;
    let [port] = client.ports(&net).await.try_into().unwrap();
    let all = &[("outbound.average", 5)];
    for (path, part) in [
        (
            format!("run/virtnic/ports/.{}.json.new", port.uuid),
            "can't record port",
        ),
        (
            format!("run/virtnic/domains/.{}.json.new", dom.uuid),
            "can't record guest 'g1'",
        ),
        (
            "etc/virtnic/domains/g1.xml.new".to_owned(),
            "can't keep guest 'g1'",
        ),
    ] {
        let path = root.path(&path);
        std::fs::create_dir(&path).unwrap();
        let change = tune(&dom, MAC, all, LIVE | CONFIG);
        client
            .refuses(&root, change, Code::SystemError, &[part])
            .await;
        std::fs::remove_dir(path).unwrap();
        assert_eq!(interface_rates(&client, &dom, MAC, LIVE).await, [0; 7]);
        assert_eq!(port_rates(&client, &port).await, [0; 7]);
    }
}

#[tokio::test]
async fn an_interface_that_is_not_there_has_no_rates() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let user = format!("<interface type='user'><mac address='{MAC}'/></interface>");
    let dom = client.define_guest(&guest_xml("g1", &user)).await;
    let all = &[("outbound.average", 5)];
    for (change, code, part) in [
        (
            tune(&dom, "vnet7", all, CONFIG),
            Code::InvalidArg,
            "'vnet7'",
        ),
        (
            tune(&dom, MAC, all, LIVE),
            Code::OperationInvalid,
            "not running",
        ),
        (
            tune(&dom, MAC, all, CONFIG),
            Code::OperationUnsupported,
            "no device",
        ),
        (tune(&dom, MAC, all, 64), Code::InvalidArg, "0x40"),
    ] {
        client.refuses(&root, change, code, &[part]).await;
    }
}

#[tokio::test]
async fn a_rate_that_the_host_refuses_leaves_the_ones_before() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let net = sharing(&client).await;
    let dom = client
        .define_guest(&guest_xml("g1", &interface("n1")))
        .await;
    let dom = client.start(&dom).await;
    let [port] = client.ports(&net).await.try_into().unwrap();
    client
        .ok(tune(&dom, MAC, &[("inbound.average", 7)], LIVE))
        .await;
    // By then it is on record, and its port has it.
    let floor = tune(&dom, MAC, &[("inbound.floor", 5)], LIVE);
    client
        .refuses(&root, floor, Code::OperationUnsupported, &["'floor'"])
        .await;
    let before = [7, 0, 0, 0, 0, 0, 0];
    assert_eq!(interface_rates(&client, &dom, MAC, LIVE).await, before);
    assert_eq!(port_rates(&client, &port).await, before);
}
