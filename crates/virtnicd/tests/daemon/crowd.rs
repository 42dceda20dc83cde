//! Many clients at once.

use std::collections::HashSet;
use std::sync::Arc;

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
        let net = if number % 2 == 0 { one.clone() } else { two.clone() };
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
        let create = NetworkPortCreateXml { network: net.clone(), xml, flags: 0 };
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
        assert!(who.iter().any(|lent| lent.port == uuid), "not on the list: {who:#?}");
        client.ok(NetworkPortDelete { port, flags: 0 }).await;
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
                assert!(client.who().await.iter().any(|lent| lent.guest_uuid == Some(dom.uuid)));
                client.ok(DomainDestroy { dom: dom.clone() }).await;
                client.ok(DomainUndefineFlags { dom, flags: 0 }).await;
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
    let dom = client.define_guest(&guest_xml("g1", &on_network("n1"))).await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let (root, dom) = (Arc::clone(&root), dom.clone());
        clients.spawn(async move {
            let client = root.client().await;
            match client.rpc.call(&DomainCreateWithFlags { dom, flags: 0 }).await {
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
