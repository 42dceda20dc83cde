//! What the flags of attaching, detaching and updating reach: what runs, the definition, or both.

use rpc::*;

use super::*;
use crate::guest_links::{CONFIG, LIVE, change, shown_interface, with_link};
use crate::hotplug::{attach, bare, detach, on};

/// Whether what runs has it, and whether the definition does.
async fn has(client: &Client, dom: &Dom, part: &str) -> (bool, bool) {
    (
        client.guest_dump(dom, 0).await.contains(part),
        (client.guest_dump(dom, DOMAIN_XML_INACTIVE).await).contains(part),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_comes_and_goes_where_the_flags_say() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    let dom = client.define_guest(&bare("g1")).await;
    for (xml, part) in [
        (vf_interface(VF, MANAGED, ""), MAC),
        (host_device(VF, MANAGED, ""), "<hostdev "),
        (on("n1"), MAC),
        (direct("sim1", "bridge"), MAC),
    ] {
        // Off: what runs is nothing, and current is the definition.
        for flags in [LIVE, LIVE | CONFIG] {
            let error = client.refused(attach(&dom, &xml, flags)).await;
            assert_eq!(error.code(), Code::OperationInvalid, "{error}");
            assert!(error.message().contains("not running"), "{error}");
        }
        let older = DomainAttachDevice {
            dom: dom.clone(),
            xml: xml.clone(),
        };
        let error = client.refused(older).await;
        assert!(error.message().contains("not running"), "{error}");
        for flags in [0, CONFIG] {
            client.ok(attach(&dom, &xml, flags)).await;
            assert!(has(&client, &dom, part).await.1, "{flags}: {xml}");
            client.ok(detach(&dom, &xml, flags)).await;
            assert!(!has(&client, &dom, part).await.1, "{flags}: {xml}");
        }

        let running = client.start(&dom).await;
        let before = client.picture(&site.root).await;
        for (flags, reaches) in [
            (0, (true, false)),
            (LIVE, (true, false)),
            (CONFIG, (false, true)),
            (LIVE | CONFIG, (true, true)),
        ] {
            client.ok(attach(&running, &xml, flags)).await;
            assert_eq!(
                has(&client, &running, part).await,
                reaches,
                "{flags}: {xml}"
            );
            client.ok(detach(&running, &xml, flags)).await;
            assert_eq!(client.picture(&site.root).await, before, "{flags}: {xml}");
        }
        // The older calls mean what runs.
        let older = DomainAttachDevice {
            dom: running.clone(),
            xml: xml.clone(),
        };
        client.ok(older).await;
        assert_eq!(has(&client, &running, part).await, (true, false));
        let older = DomainDetachDevice {
            dom: running.clone(),
            xml: xml.clone(),
        };
        client.ok(older).await;
        assert_eq!(client.picture(&site.root).await, before);
        client.ok(DomainDestroy { dom: running }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_changes_what_the_flags_say() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    const DOWN: &str = "<link state='down'/>";
    for up in [on("n1"), direct("sim1", "bridge")] {
        let up = with_link(&up, "up");
        let down = with_link(&up, "down");
        let dom = client.define_guest(&guest_xml("g1", &up)).await;
        for flags in [LIVE, LIVE | CONFIG] {
            let error = client.refused(change(&dom, &down, flags)).await;
            assert!(error.message().contains("not running"), "{error}");
        }
        for flags in [0, CONFIG] {
            client.ok(change(&dom, &down, flags)).await;
            assert!(has(&client, &dom, DOWN).await.1);
            client.ok(change(&dom, &up, flags)).await;
            assert!(!has(&client, &dom, DOWN).await.1);
        }
        let running = client.start(&dom).await;
        for (flags, reaches) in [
            (0, (true, false)),
            (LIVE, (true, false)),
            (CONFIG, (false, true)),
            (LIVE | CONFIG, (true, true)),
        ] {
            client.ok(change(&running, &down, flags)).await;
            assert_eq!(has(&client, &running, DOWN).await, reaches, "{flags}");
            client.ok(change(&running, &up, flags)).await;
            assert_eq!(has(&client, &running, DOWN).await, (false, false));
        }
        // Without the word it is up, too.
        client.ok(change(&running, &down, LIVE)).await;
        let shown = shown_interface(&client, &running, 0).await;
        client
            .ok(change(&running, &shown.replace(DOWN, ""), LIVE))
            .await;
        assert!(!has(&client, &running, DOWN).await.0);
        client.ok(DomainDestroy { dom: running }).await;
        client.ok(DomainUndefine { dom }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_elsewhere_in_the_definition_goes_from_both() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    let dom = client.define_guest(&roomy("g1")).await;
    let dom = client.start(&dom).await;
    // The first free place in what runs is another one than that in the definition.
    for number in [1, 2] {
        let other = on("n1").replace(MAC, &format!("52:54:00:00:01:0{number}"));
        client.ok(attach(&dom, &other, LIVE)).await;
    }
    client.ok(attach(&dom, &on("n1"), LIVE | CONFIG)).await;
    let shown = |xml: &str| {
        let at = xml.find(MAC).unwrap();
        let start = xml[..at].rfind("<interface").unwrap();
        element(&xml[start..], "interface")
    };
    let live = shown(&client.guest_dump(&dom, 0).await);
    let kept = shown(&client.guest_dump(&dom, DOMAIN_XML_INACTIVE).await);
    let place = |xml: &str| xml.rsplit("<address").next().unwrap().to_owned();
    assert_ne!(place(&live), place(&kept));
    // By its MAC, as `virsh detach-interface` and this client of libvirt's do it.
    client.ok(detach(&dom, &on("n1"), LIVE | CONFIG)).await;
    assert_eq!(has(&client, &dom, MAC).await, (false, false));
}
