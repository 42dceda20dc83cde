//! Interfaces of guests that are made otherwise than they were, while the guest runs and in its
//! definition.

use std::fs;

use conf::{Bandwidth, NetdevName};
use host::{Fault, Links, NetdevSnapshot};
use rpc::*;
use serde_json::{Map, json};

use crate::guest_links::{CONFIG, LIVE, change, shown_interface};
use crate::harness::*;
use crate::in_process::{Site, until};
use crate::updates::{running, sharing};

const EIO: i32 = 5;
const MAC: &str = "52:54:00:00:00:77";

/// A host with two bridges.
fn site() -> Site {
    let site = Site::new();
    site.simulation.host.add_bridge("br0").unwrap();
    site.simulation.host.add_bridge("br1").unwrap();
    site
}

async fn bridging(client: &Client, name: &str, bridge: &str, more: &str) -> Net {
    let xml = format!(
        "<network><name>{name}</name><forward mode='bridge'/><bridge name='{bridge}'/>{more}\
         </network>"
    );
    running(client, &xml).await
}

fn interface(kind: &str, source: &str, more: &str) -> String {
    format!(
        "<interface type='{kind}'><mac address='{MAC}'/><source {source}/><model type='virtio'/>\
         {more}</interface>"
    )
}

async fn guest(client: &Client, interface: &str) -> Dom {
    let dom = client.define_guest(&guest_xml("g1", interface)).await;
    client.start(&dom).await
}

/// The guest's tap or macvtap, and the name of its bridge.
fn link(site: &Site, name: &str) -> (Option<String>, NetdevSnapshot) {
    let host = &site.simulation.host;
    let snapshot = host.snapshot().netdevs[name].clone();
    let all = host.netdevs().unwrap();
    let master = snapshot.netdev.master;
    let master = master.and_then(|master| all.into_iter().find(|one| one.index == master));
    (master.map(|one| one.name.to_string()), snapshot)
}

fn bridge_of(site: &Site) -> Option<String> {
    link(site, "vnet0").0
}

/// The VLANs of the guest's tap, and whether it is isolated.
fn port_of(site: &Site) -> (Vec<u16>, bool) {
    let port = link(site, "vnet0").1.port.unwrap();
    let vlans = port.vlans.unwrap().iter().map(|vlan| vlan.id).collect();
    (vlans, port.isolated == Some(true))
}

fn shaping(site: &Site, name: &str) -> Bandwidth {
    let host = &site.simulation.host;
    let name: NetdevName = name.parse().unwrap();
    host.bandwidth(host.netdev(name.as_str()).unwrap().index)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tap_goes_to_another_bridge_or_network_and_back() {
    let site = site();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let n1 = bridging(&client, "n1", "br0", "").await;
    let n2 = bridging(&client, "n2", "br1", "<vlan><tag id='12'/></vlan>").await;
    let first = interface("network", "network='n1'", "");
    let dom = guest(&client, &first).await;
    assert_eq!(bridge_of(&site).as_deref(), Some("br0"));

    let second = interface("network", "network='n2'", "");
    client.ok(change(&dom, &second, LIVE)).await;
    assert_eq!(bridge_of(&site).as_deref(), Some("br1"));
    assert_eq!(port_of(&site).0, [12]);
    assert!(client.ports(&n1).await.is_empty());
    let [port] = client.ports(&n2).await.try_into().unwrap();
    let live = shown_interface(&client, &dom, 0).await;
    assert!(
        live.contains(&format!("<source network='n2' portid='{}'", port.uuid)),
        "{live}"
    );
    assert!(live.contains("bridge='br1'"), "{live}");
    let who = client.who().await;
    assert_eq!(who[0].network.as_deref(), Some("n2"));
    let kept = shown_interface(&client, &dom, DOMAIN_XML_INACTIVE).await;
    assert!(kept.contains("network='n1'"), "{kept}");

    // What was shown of the running guest is no change.
    let before = client.picture(&site.root).await;
    client.ok(change(&dom, &live, LIVE)).await;
    assert_eq!(client.picture(&site.root).await, before);

    // Both at once, to a bridge without a network.
    let bare = interface("bridge", "bridge='br0'", "");
    client.ok(change(&dom, &bare, LIVE | CONFIG)).await;
    assert_eq!(bridge_of(&site).as_deref(), Some("br0"));
    assert!(client.ports(&n2).await.is_empty());
    for flags in [0, DOMAIN_XML_INACTIVE] {
        let shown = shown_interface(&client, &dom, flags).await;
        assert!(shown.contains("<source bridge='br0'/>"), "{shown}");
    }
    client.ok(change(&dom, &first, LIVE)).await;
    assert_eq!(client.ports(&n1).await.len(), 1);
    client.ok(DomainDestroy { dom: dom.clone() }).await;
    for net in [&n1, &n2] {
        assert!(client.ports(net).await.is_empty());
    }
    assert!(client.who().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn vlan_isolation_and_bandwidth_of_a_tap_change_while_its_guest_runs() {
    let site = site();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    bridging(&client, "n1", "br0", "").await;
    for (kind, source) in [("network", "network='n1'"), ("bridge", "bridge='br0'")] {
        let plain = interface(kind, source, "");
        let dom = guest(&client, &plain).await;
        assert_eq!(port_of(&site), (vec![1], false));
        for (more, vlan, isolated, rate) in [
            ("<vlan><tag id='7'/></vlan>", 7, false, None),
            (
                "<vlan><tag id='8'/></vlan><port isolated='yes'/>",
                8,
                true,
                None,
            ),
            (
                "<port isolated='yes'/><bandwidth><inbound average='100'/></bandwidth>",
                1,
                true,
                Some(100),
            ),
            (
                "<bandwidth><inbound average='200'/></bandwidth>",
                1,
                false,
                Some(200),
            ),
            ("", 1, false, None),
        ] {
            client
                .ok(change(&dom, &interface(kind, source, more), LIVE))
                .await;
            assert_eq!(port_of(&site), (vec![vlan], isolated), "{more}");
            let shaped = shaping(&site, "vnet0").inbound;
            assert_eq!(shaped.and_then(|rate| rate.average), rate, "{more}");
            let live = shown_interface(&client, &dom, 0).await;
            assert_eq!(live.contains("<vlan>"), more.contains("<vlan>"), "{live}");
            assert_eq!(live.contains("<bandwidth>"), rate.is_some(), "{live}");
        }
        client.ok(DomainDestroy { dom: dom.clone() }).await;
        client.ok(DomainUndefine { dom }).await;
        assert!(client.who().await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guest_of_a_macvtap_is_trusted_or_not() {
    let site = site();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    running(&client, &sharing("n1", &["sim0"])).await;
    let plain = interface("network", "network='n1'", "");
    let dom = guest(&client, &plain).await;
    let filter = || link(&site, "macvtap0").1.filter;
    assert!(filter().all_multicast);
    let trusted = plain.replace("type='network'", "type='network' trustGuestRxFilters='yes'");
    client.ok(change(&dom, &trusted, LIVE)).await;
    assert!(!filter().all_multicast);
    let live = shown_interface(&client, &dom, 0).await;
    assert!(live.contains("trustGuestRxFilters='yes'"), "{live}");

    // It is followed from now on, with its MAC.
    let machine = site.simulation.guests.guest(dom.uuid).unwrap();
    let mut members = Map::new();
    members.insert("main-mac".to_owned(), json!("52:54:00:00:00:99"));
    machine.change_filter("net0", &members);
    let mac = || link(&site, "macvtap0").1.netdev.mac.to_string();
    until("it is followed", async || mac() == "52:54:00:00:00:99").await;
    client.ok(change(&dom, &plain, LIVE)).await;
    assert!(filter().all_multicast);
    assert_eq!(mac(), MAC);
    let live = shown_interface(&client, &dom, 0).await;
    assert!(!live.contains("trustGuestRxFilters"), "{live}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_change_is_refused_by_name_all_of_it() {
    let site = site();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    bridging(&client, "n1", "br0", "").await;
    running(&client, &sharing("shared", &["sim0"])).await;
    let vfs = client.running_network("vfs", "sim1").await;
    let tap = |source: &str, more: &str| interface("network", source, more);
    for (own, given, parts) in [
        // A VF has its link, and no more.
        (
            tap("network='vfs'", ""),
            tap("network='vfs'", "<vlan><tag id='5'/></vlan>"),
            &["'hostdev'", "<vlan>", "--config"][..],
        ),
        (
            tap("network='shared'", ""),
            tap(
                "network='shared'",
                "<vlan><tag id='5'/></vlan><port isolated='yes'/>",
            ),
            &["'direct'", "<port>, <vlan>"],
        ),
        (
            tap("network='shared'", ""),
            tap("network='n1'", ""),
            &["'direct'", "<source>"],
        ),
        // Nothing is taken from the pool for that.
        (
            tap("network='n1'", ""),
            tap("network='vfs'", ""),
            &["'bridge'", "<source>"],
        ),
        (
            tap("network='n1'", ""),
            tap("network='none'", ""),
            &["'none'"],
        ),
        (
            tap("network='n1'", ""),
            tap(
                "network='n1'",
                "<mtu size='9000'/><target dev='mine'/><boot order='1'/><rom bar='off'/>\
                 <driver queues='4'/><vlan><tag id='5'/></vlan>",
            ),
            &["<boot>, <driver>, <mtu>, <rom>, <target>"],
        ),
    ] {
        let dom = guest(&client, &own).await;
        let before = (
            client.picture(&site.root).await,
            site.simulation.host.snapshot(),
        );
        for flags in [0, LIVE, LIVE | CONFIG] {
            let error = client.refused(change(&dom, &given, flags)).await;
            for part in parts {
                assert!(error.message().contains(part), "{part}: {error}");
            }
            let now = (
                client.picture(&site.root).await,
                site.simulation.host.snapshot(),
            );
            assert_eq!(now, before);
        }
        client.ok(DomainDestroy { dom: dom.clone() }).await;
        client.ok(DomainUndefine { dom }).await;
    }
    assert!(client.ports(&vfs).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_becomes_what_is_given() {
    let site = site();
    let _daemon = site.start().await;
    let mut client = site.root.client().await;
    client.running_network("vfs", "sim0").await;
    let first = interface("network", "network='vfs'", "<alias name='ua-a'/>");
    let dom = client.define_guest(&guest_xml("g1", &first)).await;
    let kept = shown_interface(&client, &dom, 0).await;
    let address = kept.split("<address").nth(1).unwrap().to_owned();
    client.listen().await;
    let second = interface(
        "bridge",
        "bridge='br0'",
        "<vlan><tag id='5'/></vlan><mtu size='1400'/>",
    );
    client.ok(change(&dom, &second, CONFIG)).await;
    client.hears(&["g1 -1 DefinedUpdated"]).await;
    let kept = shown_interface(&client, &dom, 0).await;
    for part in [
        "type='bridge'",
        "<tag id='5'/>",
        "<mtu size='1400'/>",
        "<alias name='ua-a'/>",
        &address,
    ] {
        assert!(kept.contains(part), "{part}: {kept}");
    }
    assert!(!kept.contains("vfs"), "{kept}");

    // By its alias, or its place in the guest; and one that is no such is refused.
    let by_alias = second.replace(&format!("<mac address='{MAC}'/>"), "<alias name='ua-a'/>");
    let by_alias = by_alias.replace("1400", "1300");
    client.ok(change(&dom, &by_alias, CONFIG)).await;
    let kept = shown_interface(&client, &dom, 0).await;
    assert!(kept.contains("1300") && kept.contains(MAC), "{kept}");
    for (xml, code) in [
        (second.replace(":77", ":78"), Code::DeviceMissing),
        (
            second.replace(
                "<mtu size='1400'/>",
                "<teaming type='transient' persistent='ua-a'/>",
            ),
            Code::ConfigUnsupported,
        ),
    ] {
        let error = client.refused(change(&dom, &xml, CONFIG)).await;
        assert_eq!(error.code(), code, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_network_says_is_not_defined_by_handing_back_what_runs() {
    let site = site();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    bridging(&client, "n1", "br0", "<vlan><tag id='9'/></vlan>").await;
    let dom = guest(&client, &interface("network", "network='n1'", "")).await;
    let live = shown_interface(&client, &dom, 0).await;
    assert!(live.contains("<tag id='9'/>"), "{live}");
    let slow = "<bandwidth><outbound average='50'/></bandwidth></interface>";
    let slow = live.replace("</interface>", slow);
    client.ok(change(&dom, &slow, LIVE | CONFIG)).await;
    for flags in [0, DOMAIN_XML_INACTIVE] {
        let shown = shown_interface(&client, &dom, flags).await;
        assert!(shown.contains("<outbound average='50'/>"), "{shown}");
        assert_eq!(shown.contains("<tag id='9'/>"), flags == 0, "{shown}");
    }
    assert_eq!(port_of(&site).0, [9]);
}

/// All that can be changed of a tap, at once.
fn everything() -> String {
    let more = "<link state='down'/><vlan><tag id='7'/></vlan><port isolated='yes'/>\
                <bandwidth><inbound average='100'/></bandwidth>";
    interface("network", "network='n2'", more)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_fails_leaves_everything_as_it_was() {
    let site = site();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    bridging(&client, "n1", "br0", "").await;
    bridging(&client, "n2", "br1", "").await;
    let dom = guest(&client, &interface("network", "network='n1'", "")).await;
    let host = &site.simulation.host;
    let mut before = (client.picture(&site.root).await, host.snapshot());
    let mut failed = 0;
    for nth in 1.. {
        host.fail(Fault::any(EIO).nth(nth));
        let changed = client
            .rpc
            .call(&change(&dom, &everything(), LIVE | CONFIG))
            .await;
        let was_hit = host.waiting_faults() == 0;
        host.heal();
        if changed.is_ok() {
            if !was_hit {
                break;
            }
            // What was asked then is only asked, and the change is made all the same.
            let back = interface("network", "network='n1'", "<link state='up'/>");
            client.ok(change(&dom, &back, LIVE | CONFIG)).await;
            before = (client.picture(&site.root).await, host.snapshot());
            continue;
        }
        failed += 1;
        let now = (client.picture(&site.root).await, host.snapshot());
        assert_eq!(now, before, "{nth}: {changed:?}");
    }
    assert!(failed > 8, "{failed}");
    assert_eq!(bridge_of(&site).as_deref(), Some("br1"));
    assert_eq!(port_of(&site), (vec![7], true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_can_not_be_set_is_as_it_was() {
    let site = site();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    running(&client, &sharing("n1", &["sim0"])).await;
    let plain = interface("network", "network='n1'", "");
    let trusted = plain.replace("type='network'", "type='network' trustGuestRxFilters='yes'");
    let dom = guest(&client, &plain).await;
    let host = &site.simulation.host;
    for given in [&trusted, &plain] {
        let before = (client.picture(&site.root).await, host.snapshot());
        let mut failed = 0;
        for nth in 1.. {
            host.fail(Fault::of(host::Operation::SetRxFilter, EIO).nth(nth));
            let changed = client.rpc.call(&change(&dom, given, LIVE)).await;
            host.heal();
            if changed.is_ok() {
                break;
            }
            failed += 1;
            let now = (client.picture(&site.root).await, host.snapshot());
            assert_eq!(now, before, "{nth}: {changed:?}");
        }
        assert!(failed > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_whose_filters_nobody_tells_is_not_trusted() {
    let site = site();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    running(&client, &sharing("n1", &["sim0"])).await;
    let plain = interface("network", "network='n1'", "").replace("'virtio'", "'e1000e'");
    let trusted = plain.replace("type='network'", "type='network' trustGuestRxFilters='yes'");
    let dom = guest(&client, &plain).await;
    let change = change(&dom, &trusted, LIVE);
    let parts = &[MAC, "virtio", "trustGuestRxFilters"];
    client
        .refuses(&site.root, change, Code::OperationUnsupported, parts)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_kept_is_not_changed() {
    let site = site();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let n1 = bridging(&client, "n1", "br0", "").await;
    let n2 = bridging(&client, "n2", "br1", "").await;
    let dom = guest(&client, &interface("network", "network='n1'", "")).await;
    let host = &site.simulation.host;
    let before = (shown_interface(&client, &dom, 0).await, host.snapshot());
    let ports = client.ports(&n1).await;
    let definition = site.root.path("etc/virtnic/domains/g1.xml.new");
    fs::create_dir(&definition).unwrap();
    let both = change(&dom, &everything(), LIVE | CONFIG);
    let error = client.refused(both).await;
    assert!(error.message().contains("can't keep guest 'g1'"), "{error}");
    fs::remove_dir(definition).unwrap();
    let now = (shown_interface(&client, &dom, 0).await, host.snapshot());
    assert_eq!(now, before);
    assert_eq!(client.ports(&n1).await, ports);
    assert!(client.ports(&n2).await.is_empty());

    let record = site
        .root
        .in_the_way(&format!("run/virtnic/domains/{}.json", dom.uuid));
    let error = client.refused(change(&dom, &everything(), LIVE)).await;
    assert!(
        error.message().contains("can't record guest 'g1'"),
        "{error}"
    );
    drop(record);
    let now = (shown_interface(&client, &dom, 0).await, host.snapshot());
    assert_eq!(now, before);
    assert!(client.ports(&n2).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_daemon_brings_a_change_to_its_end() {
    let site = site();
    let daemon = site.start().await;
    let client = site.root.client().await;
    let n1 = bridging(&client, "n1", "br0", "").await;
    bridging(&client, "n2", "br1", "").await;
    let dom = guest(&client, &interface("network", "network='n1'", "")).await;
    let (old, text) = {
        let (path, _) = site.root.record("ports");
        let text = fs::read(&path).unwrap();
        (path, text)
    };
    client.ok(change(&dom, &everything(), LIVE)).await;
    let host = &site.simulation.host;
    let changed = host.snapshot();
    daemon.stop().await;

    // As if it had ended when the intent was recorded, and the tap was on its way.
    fs::write(&old, text).unwrap();
    let (path, mut record) = site.root.record("domains");
    let port = old.file_stem().unwrap().to_str().unwrap();
    record["changing"] = json!([{ "network": n1.uuid, "port": port }]);
    fs::write(path, record.to_string()).unwrap();
    let tap = host.netdev("vnet0").unwrap().index;
    let br0 = host.netdev("br0").unwrap().index;
    host.set_up(tap, false).unwrap();
    host.set_master(tap, Some(br0)).unwrap();
    host.set_bandwidth(tap, &Bandwidth::default()).unwrap();

    let _daemon = site.start().await;
    let client = site.root.client().await;
    until("it is made", async || host.snapshot() == changed).await;
    until("its old port is gone", async || {
        client.ports(&n1).await.is_empty()
    })
    .await;
    until("it is settled", async || {
        site.root.record("domains").1.get("changing").is_none()
    })
    .await;
    assert_eq!(client.who().await[0].network.as_deref(), Some("n2"));
}
