//! What went through guests' interfaces.

use rpc::*;

use crate::harness::*;

const STATE: u32 = 1;
const CPU: u32 = 2;
const INTERFACE: u32 = 16;
const ENFORCE: u32 = 0x8000_0000;
const ONLY_INACTIVE: u32 = 2;

const MAC: &str = "52:54:00:00:00:01";

fn ask(doms: &[&Dom], stats: u32, flags: u32) -> ConnectGetAllDomainStats {
    ConnectGetAllDomainStats {
        doms: doms.iter().map(|dom| (*dom).clone()).collect(),
        stats,
        flags: flags.into(),
    }
}

fn names(stats: &DomainStats) -> Vec<&str> {
    stats
        .params
        .iter()
        .map(|param| param.field.as_str())
        .collect()
}

async fn guest_on_macvtap(client: &Client) -> Dom {
    let xml = "<network><name>n1</name><forward mode='bridge'><interface dev='sim0'/></forward>\
               </network>";
    let net = client.define_network(xml).await;
    client.ok(NetworkCreate { net }).await;
    let interface = format!(
        "<interface type='network'><mac address='{MAC}'/><source network='n1'/></interface>"
    );
    let dom = client.define_guest(&guest_xml("g1", &interface)).await;
    client.start(&dom).await
}

#[tokio::test]
async fn a_macvtaps_counters_are_told_by_mac_and_by_device() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let dom = guest_on_macvtap(&client).await;
    let xml = client.guest_dump(&dom, 0).await;
    let target = xml.split("<target dev='").nth(1).unwrap();
    let target = target.split('\'').next().unwrap();
    for device in [MAC, target] {
        let told = client
            .ok(DomainInterfaceStats {
                dom: dom.clone(),
                device: device.to_owned(),
            })
            .await;
        assert!(told.rx_bytes >= 0 && told.tx_packets >= 0, "{told:?}");
    }
    let all = client.ok(ask(&[], INTERFACE, 0)).await;
    let [told] = all.try_into().unwrap();
    let name = told.params.iter().find(|param| param.field == "net.0.name");
    assert_eq!(name.unwrap().value, TypedValue::from(target));
    let names = names(&told);
    assert_eq!(names[..2], ["net.count", "net.0.name"]);
    assert!(
        names.contains(&"net.0.rx.bytes") && names.contains(&"net.0.tx.pkts"),
        "{names:?}"
    );
}

#[tokio::test]
async fn a_vf_that_nothing_is_counted_for_says_so() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    client.running_network("n1", "sim0").await;
    let interface = format!(
        "<interface type='network'><mac address='{MAC}'/><source network='n1'/></interface>"
    );
    let dom = client.define_guest(&guest_xml("g1", &interface)).await;
    let stats = |device: &str| DomainInterfaceStats {
        dom: dom.clone(),
        device: device.to_owned(),
    };
    let not_running = &["not running"];
    client
        .refuses(&root, stats(MAC), Code::OperationInvalid, not_running)
        .await;
    client.start(&dom).await;
    client
        .refuses(
            &root,
            stats("vnet9"),
            Code::InvalidArg,
            &["'vnet9'", "'g1'"],
        )
        .await;
    let parts = &["VF 0 of 'sim0'"];
    client
        .refuses(&root, stats(MAC), Code::OperationUnsupported, parts)
        .await;
    // In a list it is there, and what is not known is not.
    let [told] = client
        .ok(ask(&[&dom], INTERFACE, 0))
        .await
        .try_into()
        .unwrap();
    assert_eq!(names(&told), ["net.count", "net.0.name"]);
    assert_eq!(told.params[1].value, TypedValue::from(MAC));
}

#[tokio::test]
async fn groups_and_guests_are_those_that_were_asked_for() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let on = guest_on_macvtap(&client).await;
    let off = client.define_guest(&guest_xml("g2", "")).await;
    let told = |stats: &[DomainStats]| -> Vec<String> {
        stats.iter().map(|one| one.dom.name.clone()).collect()
    };
    let all = client.ok(ask(&[], 0, 0)).await;
    assert_eq!(told(&all), ["g1", "g2"]);
    assert_eq!(names(&all[1]), ["state.state", "state.reason"]);
    assert!(names(&all[0]).contains(&"net.count"));
    let some = client.ok(ask(&[&off], STATE, 0)).await;
    assert_eq!(told(&some), ["g2"]);
    assert_eq!(some[0].params[0], TypedParam::new("state.state", 5));
    let inactive = client.ok(ask(&[], STATE, ONLY_INACTIVE)).await;
    assert_eq!(told(&inactive), ["g2"]);

    // What is not told is left out, unless it has to be told.
    let [cpu] = client.ok(ask(&[&on], CPU, 0)).await.try_into().unwrap();
    assert_eq!(cpu.params, []);
    let unsupported = Code::ArgumentUnsupported;
    client
        .refuses(
            &root,
            ask(&[&on], CPU | STATE, ENFORCE),
            unsupported,
            &["0x2"],
        )
        .await;
    client
        .refuses(
            &root,
            ask(&[], STATE, 0x1000),
            Code::InvalidArg,
            &["0x1000"],
        )
        .await;
    client.ok(DomainUndefine { dom: off.clone() }).await;
    assert!(client.ok(ask(&[&off, &on], STATE, 0)).await.len() == 1);
}
