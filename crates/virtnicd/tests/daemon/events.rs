//! What clients are told, and in which order.

use rpc::*;

use crate::harness::*;

#[tokio::test]
async fn networks_tell_what_becomes_of_them() {
    let root = Root::new();
    let _daemon = root.start();
    let mut client = root.client().await;
    client.listen().await;
    let net = client.running_network("n1", "sim0").await;
    client.hears(&["n1 Defined", "n1 Started"]).await;
    let refused = NetworkCreateXml {
        xml: network_xml("n2", "nosuch"),
    };
    client.refused(refused).await;
    client.ok(NetworkDestroy { net: net.clone() }).await;
    client.ok(NetworkUndefine { net }).await;
    // Nothing of the refused one in between.
    client.hears(&["n1 Stopped", "n1 Undefined"]).await;
    let net = client
        .ok(NetworkCreateXml {
            xml: network_xml("t1", "sim0"),
        })
        .await;
    client.ok(NetworkDestroy { net }).await;
    client.hears(&["t1 Started", "t1 Stopped"]).await;
}

#[tokio::test]
async fn guests_tell_what_becomes_of_them() {
    let root = Root::new();
    let _daemon = root.start();
    let mut client = root.client().await;
    client.listen().await;
    let xml = guest_xml("g1", "");
    let dom = client.define_guest(&xml).await;
    let again = client.guest_dump(&dom, DOMAIN_XML_INACTIVE).await;
    client.define_guest(&again).await;
    client
        .hears(&["g1 -1 DefinedAdded", "g1 -1 DefinedUpdated"])
        .await;
    client.start(&dom).await;
    client
        .hears(&["g1 1 ResumedUnpaused", "g1 1 StartedBooted"])
        .await;
    client.ok(DomainSuspend { dom: dom.clone() }).await;
    client.hears(&["g1 1 SuspendedPaused"]).await;
    client.ok(DomainResume { dom: dom.clone() }).await;
    client.hears(&["g1 1 ResumedUnpaused"]).await;
    client.ok(DomainDestroy { dom: dom.clone() }).await;
    client.hears(&["g1 -1 StoppedDestroyed"]).await;

    let start = DomainCreateWithFlags {
        dom: dom.clone(),
        flags: 1.into(),
    };
    client.ok(start).await;
    client
        .hears(&["g1 2 StartedBooted", "g1 2 SuspendedPaused"])
        .await;
    client
        .ok(DomainUndefineFlags {
            dom: dom.clone(),
            flags: Default::default(),
        })
        .await;
    client.hears(&["g1 2 UndefinedRemoved"]).await;
    client
        .ok(DomainShutdownFlags {
            dom,
            flags: Default::default(),
        })
        .await;
    client
        .hears(&["g1 2 ShutdownByGuest", "g1 -1 StoppedShutdown"])
        .await;
}

#[tokio::test]
async fn a_failed_start_tells_nothing() {
    let root = Root::new();
    let _daemon = root.start();
    let mut client = root.client().await;
    let dom = client
        .define_guest(&guest_xml("g1", &on_network("nosuch")))
        .await;
    client.listen().await;
    client
        .refused(DomainCreateWithFlags {
            dom: dom.clone(),
            flags: Default::default(),
        })
        .await;
    client
        .ok(DomainUndefineFlags {
            dom,
            flags: Default::default(),
        })
        .await;
    client.hears(&["g1 -1 UndefinedRemoved"]).await;
}

#[tokio::test]
async fn only_whoever_registered_hears_and_only_about_what() {
    let root = Root::new();
    let _daemon = root.start();
    let mut client = root.read_only_client().await;
    let writer = root.client().await;
    let one = writer.define_network(&network_xml("one", "sim0")).await;
    let two = writer.define_network(&network_xml("two", "sim0")).await;
    let register = ConnectNetworkEventRegisterAny {
        event_id: 0,
        net: Some(two.clone()),
    };
    let callback_id = client.ok(register).await;
    writer.ok(NetworkCreate { net: one.clone() }).await;
    writer.ok(NetworkCreate { net: two.clone() }).await;
    client.hears(&["two Started"]).await;
    client
        .ok(ConnectNetworkEventDeregisterAny { callback_id })
        .await;
    writer.ok(NetworkDestroy { net: two }).await;
    client
        .ok(ConnectNetworkEventRegisterAny {
            event_id: 0,
            net: None,
        })
        .await;
    writer.ok(NetworkDestroy { net: one }).await;
    client.hears(&["one Stopped"]).await;
}
