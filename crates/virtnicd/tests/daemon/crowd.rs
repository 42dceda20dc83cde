//! Many clients at once.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rpc::client::CallError;
use rpc::*;
use uuid::Uuid;

use crate::harness::*;

const CLIENTS: u8 = 8;
const ROUNDS: u8 = 25;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_vf_is_lent_twice_and_all_come_back() {
    let root = Arc::new(Root::new());
    let _daemon = root.start();
    let client = root.client().await;
    // Fewer devices than clients, on two networks that share a PF.
    let one = client.running_network("one", "sim0").await;
    let two = client.running_network("two", "sim0").await;
    let before = client.picture(&root).await;

    let mut clients = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        let root = Arc::clone(&root);
        let net = if number % 2 == 0 {
            one.clone()
        } else {
            two.clone()
        };
        clients.spawn(async move { make_and_delete(&root, &net, number).await });
    }
    let made: u32 = clients.join_all().await.into_iter().sum();
    assert!(made >= u32::from(ROUNDS), "only {made} ports were made");
    assert_eq!(client.picture(&root).await, before);
}

/// Makes a port, looks whether its device is its alone, and deletes it, again and again. How often
/// there was a device for it.
async fn make_and_delete(root: &Root, net: &Net, number: u8) -> u32 {
    let client = root.client().await;
    let mut made = 0;
    for round in 0..ROUNDS {
        let uuid = Uuid::from_u128(u128::from(number) << 64 | u128::from(round));
        let xml = port_xml(uuid, &format!("guest{number}"), number);
        let create = NetworkPortCreateXml {
            network: net.clone(),
            xml,
            flags: Default::default(),
        };
        let port = match client.rpc.call(&create).await {
            Ok(port) => port,
            Err(CallError::Refused(error)) => {
                assert!(error.message().contains("has no free device"), "{error}");
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        made += 1;
        let who = client.who().await;
        let devices: HashSet<_> = who.iter().map(|lent| &lent.pci_address).collect();
        assert_eq!(devices.len(), who.len(), "lent twice: {who:#?}");
        assert!(
            who.iter().any(|lent| lent.port == uuid),
            "not on the list: {who:#?}"
        );
        client
            .ok(NetworkPortDelete {
                port,
                flags: Default::default(),
            })
            .await;
    }
    made
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn guests_started_and_ended_at_once_leave_nothing() {
    let root = Arc::new(Root::new());
    let _daemon = root.start();
    let client = root.client().await;
    client.running_network("n1", "sim0").await;
    let before = client.picture(&root).await;
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..4 {
        let root = Arc::clone(&root);
        clients.spawn(async move {
            let client = root.client().await;
            for _ in 0..10 {
                let dom = client.running_guest(&format!("g{number}"), "n1").await;
                assert!(
                    client
                        .who()
                        .await
                        .iter()
                        .any(|lent| lent.guest_uuid == Some(dom.uuid))
                );
                client.ok(DomainDestroy { dom: dom.clone() }).await;
                client
                    .ok(DomainUndefineFlags {
                        dom,
                        flags: Default::default(),
                    })
                    .await;
            }
        });
    }
    clients.join_all().await;
    assert_eq!(client.picture(&root).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_that_start_one_guest_one_does() {
    let root = Arc::new(Root::new());
    let _daemon = root.start();
    let client = root.client().await;
    client.running_network("n1", "sim0").await;
    let dom = client
        .define_guest(&guest_xml("g1", &on_network("n1")))
        .await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let (root, dom) = (Arc::clone(&root), dom.clone());
        clients.spawn(async move {
            let client = root.client().await;
            match client
                .rpc
                .call(&DomainCreateWithFlags {
                    dom,
                    flags: Default::default(),
                })
                .await
            {
                Ok(_) => 1,
                Err(CallError::Refused(error)) => {
                    assert_eq!(error.code(), Code::OperationInvalid, "{error}");
                    0
                }
                Err(error) => panic!("{error}"),
            }
        });
    }
    let started: u32 = clients.join_all().await.into_iter().sum();
    assert_eq!(started, 1);
    assert_eq!(client.who().await.len(), 1);
}

/// Codes that a client must reckon with whose object others change meanwhile.
fn is_a_race(error: &Error) -> bool {
    let codes = [
        Code::NoNetwork,
        Code::NoDomain,
        Code::OperationInvalid,
        Code::OperationFailed,
        // It was started by one and ended by another.
        Code::OperationAborted,
    ];
    codes.contains(&error.code())
}

/// Makes a call that may come too late or too early.
async fn attempt<P: Procedure>(client: &Client, args: P) -> bool {
    match client.rpc.call(&args).await {
        Ok(_) => true,
        Err(CallError::Refused(error)) if is_a_race(&error) => false,
        Err(error) => panic!("{}: {error}", P::INFO.api),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clients_that_fight_over_one_name_leave_nothing() {
    let root = Arc::new(Root::new());
    let _daemon = root.start();
    let client = root.client().await;
    let before = client.picture(&root).await;
    let net = Net {
        name: "n1".into(),
        uuid: Uuid::from_u128(1),
    };
    let dom = Dom {
        name: "g1".into(),
        uuid: Uuid::from_u128(2),
        id: -1,
    };
    let identity = |uuid| format!("</name><uuid>{uuid}</uuid>");
    let net_xml = network_xml("n1", "sim0").replace("</name>", &identity(net.uuid));
    let dom_xml = guest_xml("g1", "").replace("</name>", &identity(dom.uuid));

    let mut clients = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        let (root, net, dom) = (Arc::clone(&root), net.clone(), dom.clone());
        let (net_xml, dom_xml) = (net_xml.clone(), dom_xml.clone());
        clients.spawn(async move {
            let client = root.client().await;
            for round in 0..ROUNDS {
                let (net, dom) = (net.clone(), dom.clone());
                let (xml, xml_desc) = (net_xml.clone(), dom_xml.clone());
                // Each in an order of its own.
                match (number + round) % 8 {
                    0 => attempt(&client, NetworkDefineXml { xml }).await,
                    1 => attempt(&client, NetworkCreateXml { xml }).await,
                    2 => attempt(&client, NetworkDestroy { net }).await,
                    3 => attempt(&client, NetworkUndefine { net }).await,
                    4 => {
                        attempt(
                            &client,
                            DomainDefineXmlFlags {
                                xml: xml_desc,
                                flags: Default::default(),
                            },
                        )
                        .await
                    }
                    5 => {
                        attempt(
                            &client,
                            DomainCreateXml {
                                xml_desc,
                                flags: Default::default(),
                            },
                        )
                        .await
                    }
                    6 => attempt(&client, DomainDestroy { dom }).await,
                    _ => {
                        attempt(
                            &client,
                            DomainUndefineFlags {
                                dom,
                                flags: Default::default(),
                            },
                        )
                        .await
                    }
                };
            }
        });
    }
    clients.join_all().await;
    attempt(&client, NetworkDestroy { net: net.clone() }).await;
    attempt(&client, NetworkUndefine { net }).await;
    attempt(&client, DomainDestroy { dom: dom.clone() }).await;
    attempt(
        &client,
        DomainUndefineFlags {
            dom,
            flags: Default::default(),
        },
    )
    .await;
    assert_eq!(client.picture(&root).await, before);
}

/// Each change makes what was chosen for a port one of the past.
#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_changes_under_its_ports_hangs_nobody() {
    let root = Arc::new(Root::new());
    let _daemon = root.start_on("pfs=1,vfs=16");
    let client = root.client().await;
    let net = client.running_network("n1", "sim0").await;
    let before = client.picture(&root).await;
    let end = tokio::time::Instant::now() + Duration::from_millis(500);
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..11_u8 {
        let (root, net) = (Arc::clone(&root), net.clone());
        clients.spawn(async move {
            let client = root.client().await;
            for round in 0.. {
                if tokio::time::Instant::now() > end {
                    return;
                }
                if number < 8 {
                    let port = port_xml(Uuid::from_u128(number.into()), "client", number + 1);
                    let port = client.create_port(&net, &port).await;
                    let flags = Default::default();
                    client.ok(NetworkPortDelete { port, flags }).await;
                } else {
                    let change = NetworkSetMetadata {
                        network: net.clone(),
                        r#type: 0,
                        metadata: Some(format!("round {round}")),
                        key: None,
                        uri: None,
                        flags: flags::Affect::LIVE,
                    };
                    client.ok(change).await;
                }
            }
        });
    }
    clients.join_all().await;
    let change = NetworkSetMetadata {
        network: net,
        r#type: 0,
        metadata: None,
        key: None,
        uri: None,
        flags: flags::Affect::LIVE,
    };
    client.ok(change).await;
    assert_eq!(client.picture(&root).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_network_that_comes_and_goes_under_its_guests_loses_no_vf() {
    let root = Arc::new(Root::new());
    let daemon = root.start();
    let client = root.client().await;
    let net = client.define_network(&network_xml("n1", "sim0")).await;
    let before = client.picture(&root).await;
    let mut guests = tokio::task::JoinSet::new();
    for number in 0..4 {
        let root = Arc::clone(&root);
        guests.spawn(async move {
            let client = root.client().await;
            let xml = guest_xml(&format!("g{number}"), &on_network("n1"));
            let dom = client.define_guest(&xml).await;
            for _ in 0..ROUNDS {
                let start = DomainCreateWithFlags {
                    dom: dom.clone(),
                    flags: Default::default(),
                };
                if start_in_a_storm(&client, start).await {
                    client.ok(DomainDestroy { dom: dom.clone() }).await;
                }
            }
            client
                .ok(DomainUndefineFlags {
                    dom,
                    flags: Default::default(),
                })
                .await;
        });
    }
    while !guests.is_empty() {
        client.ok(NetworkCreate { net: net.clone() }).await;
        client.ok(NetworkDestroy { net: net.clone() }).await;
        while let Some(ended) = guests.try_join_next() {
            ended.unwrap();
        }
    }
    assert_eq!(client.picture(&root).await, before);
    // All four can be had again.
    client.ok(NetworkCreate { net }).await;
    for number in 0..4 {
        client.running_guest(&format!("after{number}"), "n1").await;
    }
    let log = daemon.stop();
    assert!(!log.contains("ERROR") && !log.contains("panicked"), "{log}");
}

/// The network may go away at any moment of a start; anything else is no excuse.
async fn start_in_a_storm(client: &Client, start: DomainCreateWithFlags) -> bool {
    match client.rpc.call(&start).await {
        Ok(_) => true,
        Err(CallError::Refused(error)) => {
            let text = error.message();
            let gone = [
                "is not active",
                "lends no devices now",
                "is not good any more",
            ];
            assert!(gone.iter().any(|part| text.contains(part)), "{text}");
            false
        }
        Err(error) => panic!("{error}"),
    }
}
