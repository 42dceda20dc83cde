//! By what a device is meant: MAC, guest address, alias, and all of them together.

use rpc::*;

use super::*;
use crate::guest_links::{LIVE, change};
use crate::hotplug::{attach, by_alias, detach, on, started};
use crate::in_process::until;

/// A bridged and a macvtap interface of a running guest, and the document of the first, in its parts.
struct Two {
    site: Site,
    daemon: virtnicd::Virtnicd,
    client: Client,
    dom: Dom,
}

const OTHER: &str = "52:54:00:00:00:99";
const ALIAS: &str = "<alias name='ua-one'/>";

impl Two {
    async fn new() -> Two {
        let site = Site::new();
        let daemon = site.start().await;
        let client = site.root.client().await;
        client.running_network("n1", "sim0").await;
        let dom = started(&client, "g1").await;
        let one = on("n1").replace("</interface>", &format!("{ALIAS}</interface>"));
        client.ok(attach(&dom, &one, LIVE)).await;
        let two = direct("sim1", "bridge").replace(MAC, OTHER);
        client.ok(attach(&dom, &two, LIVE)).await;
        Two {
            site,
            daemon,
            client,
            dom,
        }
    }

    async fn place(&self) -> String {
        let live = self.client.guest_dump(&self.dom, 0).await;
        let one = element(&live, "interface");
        assert!(one.contains(MAC), "{one}");
        format!("<address{}", one.rsplit("<address").next().unwrap())
            .replace("</interface>", "")
            .trim()
            .to_owned()
    }

    async fn has_one(&self) -> bool {
        self.client.guest_dump(&self.dom, 0).await.contains(MAC)
    }
}

fn like(mac: &str, more: &str) -> String {
    let mac = match mac {
        "" => String::new(),
        mac => format!("<mac address='{mac}'/>"),
    };
    format!(
        "<interface type='network'>{mac}<source network='n1'/><model type='virtio'/>{more}\
         </interface>"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interface_goes_by_any_of_its_names() {
    let place = Two::new().await.place().await;
    for xml in [
        like(MAC, ""),
        like("", ALIAS),
        like("", &place),
        // Another type, and the right MAC.
        direct("sim1", "bridge"),
    ] {
        let two = Two::new().await;
        two.client.ok(detach(&two.dom, &xml, LIVE)).await;
        assert!(!two.has_one().await, "{xml}");
        assert_eq!(two.client.who().await.len(), 1);
    }
    let two = Two::new().await;
    two.client.ok(by_alias(&two.dom, "ua-one")).await;
    until("it is gone", async || !two.has_one().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_do_not_agree_mean_nothing() {
    let two = Two::new().await;
    let place = two.place().await;
    let before = two.client.picture(&two.site.root).await;
    let away = place.replace("bus='0x0", "bus='0x2");
    assert_ne!(away, place);
    for (xml, parts) in [
        (like(MAC, &away), [MAC, "guest address"]),
        (
            like("52:54:00:a6:55:66", &place),
            ["52:54:00:a6:55:66", "guest address"],
        ),
        (
            like("52:54:00:a6:55:66", ALIAS),
            ["52:54:00:a6:55:66", "alias 'ua-one'"],
        ),
        (
            like(MAC, "<alias name='ua-other'/>"),
            [MAC, "alias 'ua-other'"],
        ),
    ] {
        let down = xml.replace("</interface>", "<link state='down'/></interface>");
        for error in [
            two.client.refused(detach(&two.dom, &xml, LIVE)).await,
            two.client.refused(change(&two.dom, &down, LIVE)).await,
        ] {
            assert_eq!(error.code(), Code::DeviceMissing, "{error}");
            assert!(error.message().contains("no device found"), "{error}");
            for part in parts {
                assert!(error.message().contains(part), "{part}: {error}");
            }
        }
    }
    let error = two.client.refused(by_alias(&two.dom, "ua-other")).await;
    assert_eq!(error.code(), Code::DeviceMissing, "{error}");
    // Nothing that names one, where there are two.
    let error = two
        .client
        .refused(detach(&two.dom, &like("", ""), LIVE))
        .await;
    assert_eq!(error.code(), Code::OperationFailed, "{error}");
    assert!(
        error.message().contains("multiple devices matching"),
        "{error}"
    );
    assert_eq!(two.client.picture(&two.site.root).await, before);
    two.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_changes_by_any_of_its_interfaces_names() {
    let two = Two::new().await;
    let place = two.place().await;
    for (number, xml) in [like(MAC, ""), like("", ALIAS), like("", &place)]
        .iter()
        .enumerate()
    {
        let state = if number % 2 == 0 { "down" } else { "up" };
        let link = format!("<link state='{state}'/>");
        let xml = xml.replace("</interface>", &format!("{link}</interface>"));
        two.client.ok(change(&two.dom, &xml, LIVE)).await;
        let live = two.client.guest_dump(&two.dom, 0).await;
        assert!(element(&live, "interface").contains(&link), "{xml}: {live}");
    }
}
