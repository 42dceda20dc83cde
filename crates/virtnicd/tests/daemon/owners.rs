//! One owner for each guest and each network: nobody waits for another's work, an end is always heard,
//! and nothing that was acknowledged is lost.

use std::sync::Arc;
use std::time::Duration;

use host::Operation;
use qemu::{Answers, Faults};
use rpc::client::CallError;
use rpc::*;

use crate::guest_links::{CONFIG, LIVE, change, shown_interface, with_link};
use crate::harness::*;
use crate::in_process::{Site, reached, until};

const ACTIVE: u32 = 1;

fn start(dom: &Dom) -> DomainCreateWithFlags {
    DomainCreateWithFlags {
        dom: dom.clone(),
        flags: Default::default(),
    }
}

fn destroy(dom: &Dom) -> DomainDestroy {
    DomainDestroy { dom: dom.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_is_heard_while_a_guest_starts_and_leaves_nothing() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    let dom = client
        .define_guest(&guest_xml("g1", &on_network("n1")))
        .await;
    let before = client.picture(&site.root).await;
    // Its emulator never greets.
    site.simulation.guests.set_faults(Faults {
        monitor: Answers::Never,
        ..Faults::default()
    });
    let starting = tokio::spawn({
        let (starter, dom) = (site.root.client().await, dom.clone());
        async move { starter.refused(start(&dom)).await }
    });
    until("its process is there", async || {
        site.simulation.guests.running() == 1
    })
    .await;
    client.ok(destroy(&dom)).await;
    let error = starting.await.unwrap();
    assert_eq!(error.code(), Code::OperationAborted, "{error}");
    assert_eq!(client.picture(&site.root).await, before);
    assert_eq!(site.simulation.guests.running(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_is_heard_while_the_kernel_prepares_a_device() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    let dom = client
        .define_guest(&guest_xml("g1", &on_network("n1")))
        .await;
    let before = client.picture(&site.root).await;
    let held = site.simulation.host.hold(Operation::Bind);
    let starting = tokio::spawn({
        let (starter, dom) = (site.root.client().await, dom.clone());
        async move { starter.refused(start(&dom)).await }
    });
    let held = reached(held).await;
    let ending = tokio::spawn({
        let (ender, dom) = (site.root.client().await, dom.clone());
        async move { ender.ok(destroy(&dom)).await }
    });
    // Meanwhile everybody else is answered.
    assert_eq!(client.guest_names(0).await, ["g1"]);
    client.guest_dump(&dom, 0).await;
    client
        .define_guest(&guest_xml("g2", &on_network("n1")))
        .await;
    drop(held);
    ending.await.unwrap();
    assert_eq!(starting.await.unwrap().code(), Code::OperationAborted);
    let g2 = client.ok(DomainLookupByName { name: "g2".into() }).await;
    client.ok(DomainUndefine { dom: g2 }).await;
    assert_eq!(client.picture(&site.root).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_while_a_network_makes_vfs() {
    let site = Site::on("pfs=2,vfs=0");
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let xml = "<network><name>n1</name><forward mode='hostdev' managed='yes'><pf dev='sim0'>\
        <virtnic:vfs xmlns:virtnic='urn:virtnic:1' count='4'/></pf></forward></network>";
    let net = client.define_network(xml).await;
    let held = site.simulation.host.hold(Operation::SetVfCount);
    let starting = tokio::spawn({
        let (starter, net) = (site.root.client().await, net.clone());
        async move { starter.ok(NetworkCreate { net }).await }
    });
    let held = reached(held).await;
    let other = network_xml("n2", "sim1").replace(
        "</name>",
        "</name><uuid>00000000-0000-0000-0000-000000000002</uuid>",
    );
    for _ in 0..20 {
        let reader = site.root.read_only_client().await;
        assert!(reader.network_names(0).await.contains(&"n1".to_owned()));
        client.network_dump(&net, NETWORK_XML_INACTIVE).await;
        client.define_network(&other).await;
    }
    assert!(!starting.is_finished());
    drop(held);
    starting.await.unwrap();
    assert!(client.network_dump(&net, 0).await.contains("<address"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_ends_with_its_client_also_if_that_goes_while_it_starts() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    let before = client.picture(&site.root).await;
    for round in 0..10 {
        let held = site.simulation.host.hold(Operation::Bind);
        let starter = site.root.client().await;
        let xml_desc = guest_xml("g1", &on_network("n1"));
        let flags = flags::CreateDomain::AUTODESTROY;
        let starting = tokio::spawn(async move {
            let _ = starter.rpc.call(&DomainCreateXml { xml_desc, flags }).await;
        });
        let held = reached(held).await;
        starting.abort();
        let _ = starting.await;
        drop(held);
        until("it has ended with its client", async || {
            client.picture(&site.root).await == before
        })
        .await;
        assert_eq!(site.simulation.guests.running(), 0, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_was_to_end_with_its_client_ends_with_the_daemon() {
    let site = Site::new();
    let daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    client
        .ok(DomainCreateXml {
            xml_desc: guest_xml("g1", &on_network("n1")),
            flags: flags::CreateDomain::AUTODESTROY,
        })
        .await;
    daemon.stop().await;
    let _daemon = site.start().await;
    let client = site.root.client().await;
    until("it has ended", async || {
        client.guest_names(0).await.is_empty()
    })
    .await;
    assert_eq!(site.simulation.guests.running(), 0);
    assert!(client.who().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_keeps_its_port_when_its_network_is_stopped_while_it_starts() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let net = client.running_network("n1", "sim0").await;
    let dom = client
        .define_guest(&guest_xml("g1", &on_network("n1")))
        .await;
    let held = site.simulation.host.hold(Operation::Bind);
    let starting = tokio::spawn({
        let (starter, dom) = (site.root.client().await, dom.clone());
        async move { starter.ok(start(&dom)).await }
    });
    let held = reached(held).await;
    client.ok(NetworkDestroy { net: net.clone() }).await;
    drop(held);
    starting.await.unwrap();
    client.ok(NetworkCreate { net: net.clone() }).await;
    assert_eq!(client.ports(&net).await.len(), 1);
    assert_eq!(client.who().await.len(), 1);
    client.ok(destroy(&dom)).await;
    assert!(client.ports(&net).await.is_empty());
    assert!(client.who().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_definition_that_was_acknowledged_is_lost() {
    const ROUNDS: u32 = 60;
    let site = Arc::new(Site::new());
    let daemon = site.start().await;
    let client = site.root.client().await;
    let document = "<uuid>00000000-0000-0000-0000-000000000001</uuid>";
    let document = guest_xml("g1", "").replace("</name>", &format!("</name>{document}"));
    let dom = client.define_guest(&document).await;
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..8 {
        let (site, dom, document) = (Arc::clone(&site), dom.clone(), document.clone());
        clients.spawn(async move {
            let client = site.root.client().await;
            for round in 0..ROUNDS {
                match number % 4 {
                    0 => {
                        client.define_guest(&document).await;
                    }
                    1 => {
                        client
                            .ok(DomainSetMetadata {
                                dom: dom.clone(),
                                r#type: 0,
                                metadata: Some(format!("round {round}")),
                                key: None,
                                uri: None,
                                flags: flags::Affect::CONFIG,
                            })
                            .await;
                    }
                    _ => {
                        client
                            .ok(DomainSetAutostart {
                                dom: dom.clone(),
                                autostart: round % 2 == number % 2,
                            })
                            .await;
                    }
                }
            }
        });
    }
    clients.join_all().await;
    // The last word of each is what is there, also for the next daemon.
    client
        .ok(DomainSetMetadata {
            dom: dom.clone(),
            r#type: 0,
            metadata: Some("the last".to_owned()),
            key: None,
            uri: None,
            flags: flags::Affect::CONFIG,
        })
        .await;
    let shown = client.guest_dump(&dom, DOMAIN_XML_INACTIVE).await;
    assert!(shown.contains("the last"), "{shown}");
    daemon.stop().await;
    let _daemon = site.start().await;
    let client = site.root.client().await;
    assert_eq!(client.guest_dump(&dom, DOMAIN_XML_INACTIVE).await, shown);
    client.ok(DomainUndefine { dom }).await;
    assert!(client.guest_names(0).await.is_empty());
}

/// What a change writes was made of the definition as it was when it began.
#[tokio::test(flavor = "multi_thread")]
async fn a_definition_waits_for_a_change_that_will_write_it() {
    for undefine in [false, true] {
        let site = Site::new();
        let daemon = site.start().await;
        let client = site.root.client().await;
        client.running_network("n1", "sim0").await;
        let dom = client.running_guest("g1", "n1").await;
        let document = client.guest_dump(&dom, DOMAIN_XML_INACTIVE).await;
        let interface = shown_interface(&client, &dom, 0).await;
        let both = change(&dom, &with_link(&interface, "down"), LIVE | CONFIG);
        let held = site.simulation.host.hold(Operation::SetLink);
        let changing = tokio::spawn({
            let changer = site.root.client().await;
            async move { changer.ok(both).await }
        });
        let held = reached(held).await;
        let (definer, of) = (site.root.client().await, dom.clone());
        let titled = document.replace("</uuid>", "</uuid><title>new</title>");
        let mut defining = tokio::spawn(async move {
            match undefine {
                true => definer.ok(DomainUndefine { dom: of }).await,
                false => drop(definer.define_guest(&titled).await),
            }
        });
        // It is not said to be done while something else is about to be written.
        let early = tokio::time::timeout(Duration::from_millis(50), &mut defining).await;
        assert!(early.is_err());
        drop(held);
        changing.await.unwrap();
        defining.await.unwrap();
        let is_kept = async |client: &Client| {
            let persistent = client.ok(DomainIsPersistent { dom: dom.clone() }).await;
            let shown = client.guest_dump(&dom, DOMAIN_XML_INACTIVE).await;
            (persistent, shown.contains("<title>new</title>"))
        };
        assert_eq!(is_kept(&client).await, (!undefine, !undefine));
        daemon.stop().await;
        let _daemon = site.start().await;
        let client = site.root.client().await;
        assert_eq!(is_kept(&client).await, (!undefine, !undefine));
    }
}

/// systemd is told that it is ready then: it orders what it makes for a guest after the daemon's service,
/// and would wait for a daemon that waits for its guests.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_is_ready_before_what_starts_with_the_host_has_started() {
    let site = Site::new();
    let daemon = site.start().await;
    let client = site.root.client().await;
    let net = client.running_network("n1", "sim0").await;
    let document = guest_xml("g1", &on_network("n1"));
    let dom = client.define_guest(&document).await;
    let autostart = true;
    client.ok(NetworkSetAutostart { net, autostart }).await;
    client.ok(DomainSetAutostart { dom, autostart }).await;
    daemon.stop().await;
    // Another boot.
    std::fs::remove_file(site.root.path("run/virtnic/autostarted")).unwrap();
    let held = site.simulation.host.hold(Operation::Bind);
    let mut daemon = site.start().await;
    let held = reached(held).await;
    let client = site.root.client().await;
    assert_eq!(client.guest_names(0).await, ["g1"]);
    assert!(client.guest_names(ACTIVE).await.is_empty());
    drop(held);
    daemon.autostarted().await;
    assert_eq!(client.guest_names(ACTIVE).await, ["g1"]);
}

/// Who is not told how it went is not told that there is no such thing.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_stops_takes_nothing_for_gone() {
    let site = Site::new();
    let daemon = site.start().await;
    let client = site.root.client().await;
    let net = client.running_network("n1", "sim0").await;
    let dom = client.define_guest(&guest_xml("g1", "")).await;
    let mut askers = Vec::new();
    for number in 0..16 {
        let (client, dom, net) = (site.root.client().await, dom.clone(), net.clone());
        let mut autostart = false;
        askers.push(tokio::spawn(async move {
            let mut refused = Vec::new();
            loop {
                let (dom, net) = (dom.clone(), net.clone());
                autostart = !autostart;
                let answer = match number % 2 {
                    0 => {
                        client
                            .rpc
                            .call(&DomainSetAutostart { dom, autostart })
                            .await
                    }
                    _ => {
                        client
                            .rpc
                            .call(&NetworkSetAutostart { net, autostart })
                            .await
                    }
                };
                match answer {
                    Ok(()) => {}
                    Err(CallError::Refused(error)) => refused.push(error),
                    Err(_) => return refused,
                }
            }
        }));
    }
    until("they ask", async || {
        let autostarts = async || client.ok(DomainGetAutostart { dom: dom.clone() }).await;
        autostarts().await
    })
    .await;
    daemon.stop().await;
    for asker in askers {
        for error in asker.await.unwrap() {
            assert_eq!(error.code(), Code::OperationAborted, "{error}");
        }
    }
}

/// Every call that changes something, from many clients at once, on a host that takes its time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_storm_of_all_calls_that_change_something_is_weathered() {
    const CLIENTS: u32 = 16;
    const ROUNDS: u32 = 12;
    let site = Arc::new(Site::on("pfs=2,vfs=16"));
    site.simulation.host.add_bridge("br0").unwrap();
    site.simulation.host.set_slowness(Duration::from_millis(1));
    let daemon = site.start().await;
    let client = site.root.client().await;
    let before = client.picture(&site.root).await;
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        let site = Arc::clone(&site);
        clients.spawn(async move { batter(&site, number, ROUNDS).await });
    }
    let reader = site.root.read_only_client().await;
    let mut lists = 0;
    while clients.try_join_next().is_none() {
        reader.network_names(0).await;
        reader.guest_names(0).await;
        lists += 1;
    }
    clients.join_all().await;
    assert!(lists > 0);
    // Everything that is left can be put away, and then nothing is.
    for dom in client
        .ok(ConnectListAllDomains {
            need_results: true,
            flags: Default::default(),
        })
        .await
        .into_items()
    {
        let _ = client.rpc.call(&destroy(&dom)).await;
        let _ = client.rpc.call(&DomainUndefine { dom }).await;
    }
    for net in client
        .ok(ConnectListAllNetworks {
            need_results: true,
            flags: Default::default(),
        })
        .await
        .into_items()
    {
        let _ = client.rpc.call(&NetworkDestroy { net: net.clone() }).await;
        let _ = client.rpc.call(&NetworkUndefine { net }).await;
    }
    until("nothing is left", async || {
        client.picture(&site.root).await == before
    })
    .await;
    assert_eq!(site.simulation.guests.running(), 0);
    daemon.stop().await;
}

/// One client's share of it. Each call is answered, by success or by a refusal.
async fn batter(site: &Site, number: u32, rounds: u32) {
    let client = site.root.client().await;
    let guest = format!("g{}", number % 4);
    let network = ["n1", "n2"][usize::try_from(number % 2).unwrap()];
    let (dom, net) = (
        Dom {
            name: guest.clone(),
            uuid: uuid::Uuid::from_u128(u128::from(number % 4) + 1),
            id: -1,
        },
        Net {
            name: network.to_owned(),
            uuid: uuid::Uuid::from_u128(u128::from(number % 2) + 101),
        },
    );
    let network_document = if network == "n1" {
        network_xml(network, "sim0")
    } else {
        "<network><name>n2</name><forward mode='bridge'/><bridge name='br0'/></network>".to_owned()
    };
    let network_document =
        network_document.replace("</name>", &format!("</name><uuid>{}</uuid>", net.uuid));
    let guest_document = guest_xml(&guest, &on_network(network))
        .replace("</name>", &format!("</name><uuid>{}</uuid>", dom.uuid));
    for round in 0..rounds {
        answered(
            &client,
            NetworkDefineXml {
                xml: network_document.clone(),
            },
        )
        .await;
        answered(&client, NetworkCreate { net: net.clone() }).await;
        answered(
            &client,
            DomainDefineXml {
                xml: guest_document.clone(),
            },
        )
        .await;
        answered(&client, start(&dom)).await;
        answered(
            &client,
            DomainSetInterfaceParameters {
                dom: dom.clone(),
                device: "52:54:00:00:00:01".into(),
                params: vec![TypedParam::new("outbound.average", 5_u32)],
                flags: 3.into(),
            },
        )
        .await;
        answered(
            &client,
            DomainSetMetadata {
                dom: dom.clone(),
                r#type: 1,
                metadata: Some(format!("{number} {round}")),
                key: None,
                uri: None,
                flags: 3.into(),
            },
        )
        .await;
        answered(
            &client,
            DomainSetAutostart {
                dom: dom.clone(),
                autostart: round % 2 == 0,
            },
        )
        .await;
        answered(
            &client,
            NetworkSetAutostart {
                net: net.clone(),
                autostart: false,
            },
        )
        .await;
        answered(&client, DomainSuspend { dom: dom.clone() }).await;
        answered(
            &client,
            NetworkUpdate {
                net: net.clone(),
                command: 3,
                section: 10,
                parent_index: -1,
                xml: format!("<portgroup name='p{number}'/>"),
                flags: 1.into(),
            },
        )
        .await;
        answered(&client, DomainResume { dom: dom.clone() }).await;
        if round % 3 == number % 3 {
            answered(&client, NetworkDestroy { net: net.clone() }).await;
        }
        answered(&client, destroy(&dom)).await;
        if round % 4 == number % 4 {
            answered(&client, DomainUndefine { dom: dom.clone() }).await;
            answered(&client, NetworkUndefine { net: net.clone() }).await;
        }
    }
}

async fn answered<P: Procedure>(client: &Client, args: P) {
    match tokio::time::timeout(PATIENCE * 3, client.rpc.call(&args)).await {
        Ok(Ok(_) | Err(CallError::Refused(_))) => {}
        Ok(Err(error)) => panic!("{}: {error}", P::INFO.api),
        Err(_) => panic!("{} gets no answer", P::INFO.api),
    }
}
