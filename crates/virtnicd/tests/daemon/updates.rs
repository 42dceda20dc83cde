//! Networks that are changed while they are there: what is shown, what is kept, and what stays as it
//! was when the change fails.

use rpc::*;
use uuid::Uuid;

use crate::harness::*;

const CURRENT: u32 = 0;
const LIVE: u32 = 1;
const CONFIG: u32 = 2;

const MODIFY: u32 = 1;
const DELETE: u32 = 2;
const ADD_LAST: u32 = 3;
const ADD_FIRST: u32 = 4;

const BRIDGE: u32 = 1;
const FORWARD_INTERFACE: u32 = 7;
const PORT_GROUP: u32 = 9;

/// A network whose guests share network devices by macvtap.
pub(crate) fn sharing(name: &str, devices: &[&str]) -> String {
    let devices: String = (devices.iter())
        .map(|dev| format!("<interface dev='{dev}'/>"))
        .collect();
    format!("<network><name>{name}</name><forward mode='bridge'>{devices}</forward></network>")
}

/// Defines and starts a network.
pub(crate) async fn running(client: &Client, xml: &str) -> Net {
    let net = client.define_network(xml).await;
    client.ok(NetworkCreate { net: net.clone() }).await;
    net
}

fn update(net: &Net, command: u32, section: u32, xml: &str, flags: u32) -> NetworkUpdate {
    NetworkUpdate {
        net: net.clone(),
        command,
        section,
        parent_index: -1,
        xml: xml.to_owned(),
        flags: flags.into(),
    }
}

fn device(net: &Net, command: u32, dev: &str, flags: u32) -> NetworkUpdate {
    let xml = format!("<interface dev='{dev}'/>");
    update(net, command, FORWARD_INTERFACE, &xml, flags)
}

/// How many guests a running network's document tells of a device.
fn connections(live: &str, dev: &str) -> u32 {
    let line = live
        .lines()
        .find(|line| line.contains(&format!("<interface dev='{dev}'")))
        .unwrap_or_else(|| panic!("no {dev} in {live}"));
    let count = line.split("connections='").nth(1);
    count.map_or(0, |rest| rest.split('\'').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn weakness_06_a_live_update_keeps_connections_and_knows_what_is_in_use() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let net = running(&client, &sharing("n1", &["sim0"])).await;
    let mut guests = Vec::new();
    for name in ["g1", "g2"] {
        guests.push(client.running_guest(name, "n1").await);
    }
    client.ok(device(&net, ADD_LAST, "sim1", LIVE)).await;
    let live = client.network_dump(&net, 0).await;
    assert!(live.contains("<network connections='2'"), "{live}");
    assert_eq!(
        (connections(&live, "sim0"), connections(&live, "sim1")),
        (2, 0)
    );
    let definition = client.network_dump(&net, NETWORK_XML_INACTIVE).await;
    assert!(!definition.contains("sim1"), "{definition}");

    // The new device is the emptier one.
    guests.push(client.running_guest("g3", "n1").await);
    let live = client.network_dump(&net, 0).await;
    assert_eq!(
        (connections(&live, "sim0"), connections(&live, "sim1")),
        (2, 1)
    );

    let in_use = &["'n1'", "'sim0'", "2 of its guests"];
    client
        .refuses(
            &root,
            device(&net, DELETE, "sim0", LIVE),
            Code::OperationInvalid,
            in_use,
        )
        .await;
    for dom in guests.drain(..2) {
        client.ok(DomainDestroy { dom }).await;
    }
    client.ok(device(&net, DELETE, "sim0", LIVE)).await;
    let live = client.network_dump(&net, 0).await;
    assert!(!live.contains("sim0"), "{live}");
    assert_eq!(connections(&live, "sim1"), 1);
    let dom = guests.remove(0);
    client.ok(DomainDestroy { dom }).await;
    assert!(client.who().await.is_empty());
}

#[tokio::test]
async fn an_update_goes_where_its_flags_say() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let net = client.define_network(&sharing("n1", &["sim0"])).await;
    let not_running = &["network 'n1' is not running"];
    let add = device(&net, ADD_LAST, "sim1", LIVE);
    client
        .refuses(&root, add, Code::OperationInvalid, not_running)
        .await;

    // Of what does not run, the current one is the definition.
    client.ok(device(&net, ADD_FIRST, "sim1", CURRENT)).await;
    let definition = client.network_dump(&net, 0).await;
    let place = |dev| definition.find(&format!("<interface dev='{dev}'")).unwrap();
    assert!(place("sim1") < place("sim0"), "{definition}");

    client.ok(NetworkCreate { net: net.clone() }).await;
    client.ok(device(&net, DELETE, "sim0", CURRENT)).await;
    assert!(!client.network_dump(&net, 0).await.contains("sim0"));
    let definition = client.network_dump(&net, NETWORK_XML_INACTIVE).await;
    assert!(definition.contains("sim0"), "{definition}");
    client.ok(device(&net, ADD_LAST, "sim0", LIVE)).await;
    client.ok(device(&net, DELETE, "sim1", LIVE | CONFIG)).await;
    for flags in [0, NETWORK_XML_INACTIVE] {
        let xml = client.network_dump(&net, flags).await;
        assert!(xml.contains("sim0") && !xml.contains("sim1"), "{xml}");
    }

    let xml = sharing("t1", &["sim1"]);
    let transient = client.ok(NetworkCreateXml { xml }).await;
    let add = device(&transient, ADD_LAST, "sim0", LIVE | CONFIG);
    client
        .refuses(&root, add, Code::OperationInvalid, &["'t1' is transient"])
        .await;
}

#[tokio::test]
async fn what_can_not_be_updated_is_refused_by_name() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let net = running(&client, &sharing("n1", &["sim0"])).await;
    let pf = client.running_network("pf", "sim1").await;
    let invalid = Code::OperationInvalid;
    let unsupported = Code::OperationUnsupported;
    for (change, code, parts) in [
        (
            device(&net, ADD_LAST, "sim0", LIVE),
            invalid,
            &["'sim0'", "already"][..],
        ),
        (
            device(&net, DELETE, "sim1", CONFIG),
            invalid,
            &["has no", "'sim1'"],
        ),
        (
            device(&net, MODIFY, "sim0", LIVE),
            unsupported,
            &["can't be modified"],
        ),
        (device(&pf, ADD_LAST, "sim0", LIVE), invalid, &["<pf>"]),
        (
            device(&net, 9, "sim1", LIVE),
            Code::InvalidArg,
            &["9 is no command"],
        ),
        (
            update(&net, ADD_LAST, 99, "<x/>", LIVE),
            Code::InvalidArg,
            &["99 is no section"],
        ),
        (
            update(&net, MODIFY, BRIDGE, "<bridge name='x'/>", LIVE),
            unsupported,
            &["'n1'", "'bridge'"],
        ),
        (
            update(
                &net,
                ADD_LAST,
                FORWARD_INTERFACE,
                "<interface dev='si",
                LIVE,
            ),
            Code::XmlError,
            &["line 1"],
        ),
        (
            device(&net, ADD_LAST, "sim1", 8),
            Code::InvalidArg,
            &["0x8", "virNetworkUpdate"],
        ),
    ] {
        client.refuses(&root, change, code, parts).await;
    }
    // What no device can be called, no pool can have.
    let change = device(&net, ADD_LAST, "much-too-long-a-name", LIVE | CONFIG);
    let parts = &["much-too-long-a-name"];
    client
        .refuses(&root, change, Code::DeviceMissing, parts)
        .await;
    // The pool is what it was.
    let dom = client.running_guest("g1", "n1").await;
    client.ok(DomainDestroy { dom }).await;
}

#[tokio::test]
async fn an_update_that_can_not_be_kept_changes_nothing() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let net = running(&client, &sharing("n1", &["sim0"])).await;
    let add = device(&net, ADD_LAST, "sim1", LIVE | CONFIG);

    // The running network's record can't be written.
    let record = root.in_the_way(&format!("run/virtnic/networks/{}.json", net.uuid));
    let parts = &["can't record network 'n1'"];
    client
        .refuses(&root, add.clone(), Code::SystemError, parts)
        .await;
    drop(record);

    // The definition can't: by then it runs with the change, which is undone.
    let definition = root.in_the_way("etc/virtnic/networks/n1.xml.new");
    let parts = &["can't keep network 'n1'"];
    client
        .refuses(&root, add.clone(), Code::SystemError, parts)
        .await;
    for name in ["g1", "g2"] {
        client.running_guest(name, "n1").await;
    }
    let live = client.network_dump(&net, 0).await;
    assert_eq!(connections(&live, "sim0"), 2);
    drop(definition);

    client.ok(add).await;
    let live = client.network_dump(&net, 0).await;
    assert_eq!(connections(&live, "sim1"), 0);
}

#[tokio::test]
async fn an_updated_network_is_found_again_as_it_runs() {
    let root = Root::new();
    let daemon = root.start();
    let client = root.client().await;
    let net = running(&client, &sharing("n1", &["sim0"])).await;
    client.ok(device(&net, ADD_LAST, "sim1", LIVE)).await;
    let before = client.network_dump(&net, 0).await;
    daemon.crash();
    let _daemon = root.start();
    let client = root.client().await;
    assert_eq!(client.network_dump(&net, 0).await, before);
    assert!(before.contains("sim1"), "{before}");
}

#[tokio::test]
async fn a_port_group_that_is_added_counts_for_the_next_port() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let net = client.running_network("n1", "sim0").await;
    let group = "<portgroup name='blue'><vlan><tag id='42'/></vlan></portgroup>";
    client
        .ok(update(&net, ADD_LAST, PORT_GROUP, group, LIVE))
        .await;
    let xml = port_xml(Uuid::from_u128(1), "g1", 1);
    let xml = xml.replace("</owner>", "</owner><group>blue</group>");
    let port = client.create_port(&net, &xml).await;
    let dump = client
        .ok(NetworkPortGetXmlDesc {
            port,
            flags: Default::default(),
        })
        .await;
    assert!(dump.contains("<tag id='42'/>"), "{dump}");
    let again = update(&net, ADD_LAST, PORT_GROUP, group, LIVE);
    client
        .refuses(&root, again, Code::OperationInvalid, &["'blue'", "already"])
        .await;
    let red = group.replace("42", "43");
    client
        .ok(update(&net, MODIFY, PORT_GROUP, &red, LIVE))
        .await;
    client
        .ok(update(&net, DELETE, PORT_GROUP, &red, LIVE))
        .await;
    assert!(!client.network_dump(&net, 0).await.contains("blue"));
}

/// The host's own devices beside its guests' macvtaps.
async fn host_access(client: &Client) -> Vec<String> {
    let all = client
        .ok(ConnectListAllInterfaces {
            need_results: true,
            flags: Default::default(),
        })
        .await;
    let names = all.into_items().into_iter().map(|iface| iface.name);
    names.filter(|name| name.starts_with("h-")).collect()
}

#[tokio::test]
async fn the_hosts_own_way_to_its_guests_follows_an_update() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let xml = sharing("n1", &["sim0"]).replace(
        "</network>",
        "<virtnic:direct xmlns:virtnic='urn:virtnic:1' host-access='yes'/></network>",
    );
    let net = running(&client, &xml).await;
    assert_eq!(host_access(&client).await, ["h-sim0"]);
    client.ok(device(&net, ADD_LAST, "sim1", LIVE)).await;
    assert_eq!(host_access(&client).await, ["h-sim0", "h-sim1"]);
    client.ok(device(&net, DELETE, "sim0", LIVE)).await;
    assert_eq!(host_access(&client).await, ["h-sim1"]);
    client.ok(NetworkDestroy { net }).await;
    assert_eq!(host_access(&client).await, [""; 0]);
}
