//! `update-device`: what may be unlike what runs, and what may not.

use host::Links as _;
use rpc::*;

use super::*;
use crate::guest_links::{LIVE, change, shown_interface, with_link};
use crate::updates::running;

/// A host with a bridge, and a network on it.
async fn bridged(site: &Site, client: &Client, more: &str) -> Net {
    site.simulation.host.add_bridge("br0").unwrap();
    let xml = format!(
        "<network><name>br</name><forward mode='bridge'/><bridge name='br0'/>{more}</network>"
    );
    running(client, &xml).await
}

fn interface(more: &str) -> String {
    format!(
        "<interface type='network'><mac address='{MAC}'/><source network='br'/>\
         <model type='virtio'/>{more}</interface>"
    )
}

async fn guest(client: &Client, interface: &str) -> Dom {
    let dom = client.define_guest(&guest_xml("g1", interface)).await;
    client.start(&dom).await
}

async fn end(client: &Client, dom: Dom) {
    client.ok(DomainDestroy { dom: dom.clone() }).await;
    client.ok(DomainUndefine { dom }).await;
}

/// With an element, or with another in its place.
fn with(xml: &str, element: &str) -> String {
    xml.replace("</interface>", &format!("{element}</interface>"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_running_guest_was_started_with_is_not_added_altered_or_taken() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    bridged(&site, &client, "").await;
    for (one, other, what) in [
        ("<acpi index='4'/>", "<acpi index='6'/>", "<acpi>"),
        (
            "<tune><sndbuf>1600</sndbuf></tune>",
            "<tune><sndbuf>2000</sndbuf></tune>",
            "<tune>",
        ),
        ("<mtu size='1400'/>", "<mtu size='1300'/>", "<mtu>"),
        ("<boot order='2'/>", "<boot order='3'/>", "<boot>"),
        ("<rom enabled='no'/>", "<rom enabled='yes'/>", "<rom>"),
        (
            "<driver name='vhost' queues='2'/>",
            "<driver name='vhost' queues='4' rx_queue_size='1024'/>",
            "<driver>",
        ),
    ] {
        for (first, second) in [("", one), (one, other), (one, "")] {
            let dom = guest(&client, &interface(first)).await;
            let shown = shown_interface(&client, &dom, 0).await;
            // Taken out, or put in, as a client does who edits what was shown.
            let mut new = shown.clone();
            if !first.is_empty() {
                let name = what.trim_matches(['<', '>']);
                let start = shown.find(&format!("<{name}")).unwrap();
                let own = &shown[start..];
                let length = match own.find("/>") {
                    Some(short) if !own[..short].contains('>') => short + 2,
                    _ => own.find(&format!("</{name}>")).unwrap() + name.len() + 3,
                };
                new.replace_range(start..start + length, "");
            }
            let new = with_link(&with(&new, second), "down");
            let call = change(&dom, &new, LIVE);
            client
                .refuses(&site.root, call, Code::OperationUnsupported, &[what, MAC])
                .await;
            end(&client, dom).await;
        }
    }
    let dom = guest(&client, &interface("")).await;
    let shown = shown_interface(&client, &dom, 0).await;
    for (own, given, code, parts) in [
        (
            "<model type='virtio'/>",
            "<model type='e1000e'/>",
            Code::OperationUnsupported,
            &["<model>"][..],
        ),
        (
            "<target dev='vnet0'/>",
            "<target dev='newtap'/>",
            Code::OperationUnsupported,
            &["<target>"],
        ),
        (
            MAC,
            "52:54:00:44:e1:55",
            Code::DeviceMissing,
            &["no device found", "52:54:00:44:e1:55"],
        ),
        (
            "<alias name='net0'/>",
            "<alias name='ua-testnet888'/>",
            Code::DeviceMissing,
            &["no device found", MAC, "'ua-testnet888'"],
        ),
    ] {
        let new = shown.replace(own, given);
        assert_ne!(new, shown, "{own}");
        client
            .refuses(&site.root, change(&dom, &new, LIVE), code, parts)
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_can_not_change_may_be_there_where_the_link_does() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    bridged(&site, &client, "").await;
    let all = "<target dev='tar'/>\
         <driver name='vhost' txmode='iothread' ioeventfd='on' event_idx='off' queues='2' \
         rx_queue_size='256' tx_queue_size='256'><host csum='off' gso='off' tso4='off' tso6='off' \
         ecn='off' ufo='off' mrg_rxbuf='off'/><guest csum='off' tso4='off' tso6='off' ecn='off' \
         ufo='off'/></driver><tune><sndbuf>1600</sndbuf></tune><mtu size='1500'/>\
         <boot order='2'/><alias name='ua-net'/><rom bar='on' file='/1af41000.rom'/>";
    let dom = guest(&client, &interface(all)).await;
    let shown = shown_interface(&client, &dom, 0).await;
    client
        .ok(change(&dom, &with_link(&shown, "down"), LIVE))
        .await;
    let shown = shown_interface(&client, &dom, 0).await;
    assert!(shown.contains("<link state='down'/>"), "{shown}");
    let machine = site.simulation.guests.guest(dom.uuid).unwrap();
    assert_eq!(machine.link("ua-net"), Some(false));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_link_of_each_model_and_kind_goes_down_and_up() {
    let site = Site::new();
    let host = &site.simulation.host;
    host.add_netdev("mytap0", "tun", None).unwrap();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    bridged(&site, &client, "").await;
    let ethernet = "<interface type='ethernet'><mac address='52:54:00:00:00:77'/>\
                    <target dev='mytap0' managed='no'/><model type='virtio'/></interface>";
    let mut all: Vec<_> = ["virtio", "e1000e", "igb", "rtl8139"]
        .iter()
        .map(|model| interface("").replace("virtio", model))
        .collect();
    all.extend([direct("sim1", "bridge"), ethernet.to_owned()]);
    // What only virtio has says nothing of another, and is no hindrance.
    all.push(with(
        &interface("").replace("virtio", "e1000e"),
        "<driver><host csum='off'/></driver>",
    ));
    for xml in all {
        for initial in ["up", "down"] {
            let dom = guest(&client, &with_link(&xml, initial)).await;
            let machine = site.simulation.guests.guest(dom.uuid).unwrap();
            for state in ["down", "up"] {
                let shown = shown_interface(&client, &dom, 0).await;
                client
                    .ok(change(&dom, &with_link(&shown, state), LIVE))
                    .await;
                assert_eq!(machine.link("net0"), Some(state == "up"), "{xml}");
            }
            end(&client, dom).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_the_guests_own_device_changes_its_link_alone() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let own = vf_interface(VF, MANAGED, "");
    let dom = guest(&client, &own).await;
    for other in [
        own.replace(" managed='yes'", " managed='no'"),
        with(&own, "<vlan><tag id='7'/></vlan>"),
    ] {
        let parts = &["'hostdev'", "can't be changed"];
        client
            .refuses(
                &site.root,
                change(&dom, &other, LIVE),
                Code::OperationUnsupported,
                parts,
            )
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_that_can_not_change_are_refused() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    bridged(&site, &client, "").await;
    running(&client, &crate::updates::sharing("shared", &["sim0"])).await;
    for (first, second, kind) in [
        (direct("sim1", "vepa"), direct("sim1", "bridge"), "'direct'"),
        (
            interface(""),
            interface("").replace("'br'", "'shared'"),
            "'bridge'",
        ),
    ] {
        let dom = guest(&client, &first).await;
        let parts = &[kind, "<source>"];
        client
            .refuses(
                &site.root,
                change(&dom, &second, LIVE),
                Code::OperationUnsupported,
                parts,
            )
            .await;
        end(&client, dom).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rates_that_can_not_be() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    bridged(&site, &client, "").await;
    let dom = guest(&client, &interface("")).await;
    let rate = |text: &str| interface(&format!("<bandwidth><inbound {text}/></bandwidth>"));
    for (xml, code, parts) in [
        (
            rate("average='-1' peak='5000' burst='1024'"),
            Code::XmlError,
            &["average='-1'", "a number from 0"][..],
        ),
        (
            rate("average='100000000000000000'"),
            Code::Overflow,
            &["average=", "from 0 to 18014398509481984"],
        ),
        (
            rate("average='5000' peak='100000000000000000'"),
            Code::Overflow,
            &["peak=", "from 0 to 18014398509481984"],
        ),
        (
            rate("average='1024000' peak='4096' burst='4194304'"),
            Code::Overflow,
            &["burst=", "from 0 to 4194303"],
        ),
        (
            interface("<bandwidth><outbound peak='5000' burst='1024'/></bandwidth>"),
            Code::Other(35),
            &["average"],
        ),
        (
            rate("average='1000' peak='5000' floor='200' burst='1024'"),
            Code::OperationUnsupported,
            &["floor"],
        ),
    ] {
        client
            .refuses(&site.root, change(&dom, &xml, LIVE), code, parts)
            .await;
    }
    let most = rate("average='18014398509481984' peak='5000' burst='4194303'");
    client.ok(change(&dom, &most, LIVE)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_port_group_shapes_a_tap_otherwise() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let group = |name: &str, is_default: &str, rate: u32| {
        format!(
            "<portgroup name='{name}'{is_default}><bandwidth><inbound average='{rate}'/>\
             </bandwidth></portgroup>"
        )
    };
    let groups = group("sales", " default='yes'", 100) + &group("engineering", "", 200);
    bridged(&site, &client, &groups).await;
    let dom = guest(&client, &interface("")).await;
    let rate = || {
        let host = &site.simulation.host;
        let tap = host.netdev("vnet0").unwrap().index;
        host.bandwidth(tap).inbound.and_then(|rate| rate.average)
    };
    assert_eq!(rate(), Some(100));
    let other = interface("").replace("network='br'", "network='br' portgroup='engineering'");
    client.ok(change(&dom, &other, LIVE)).await;
    assert_eq!(rate(), Some(200));
    let shown = shown_interface(&client, &dom, 0).await;
    assert!(shown.contains("portgroup='engineering'"), "{shown}");
    assert!(shown.contains("<inbound average='200'"), "{shown}");
}
