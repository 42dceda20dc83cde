//! A daemon that died, and the one that comes after it.

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rpc::client::CallError;
use rpc::*;
use uuid::Uuid;

use crate::harness::*;

#[tokio::test]
async fn after_a_crash_everything_is_there_again_but_guests_that_died_with_it() {
    let root = Root::new();
    let daemon = root.start();
    let client = root.client().await;
    let net = client.running_network("kept", "sim0").await;
    let transient = client
        .ok(NetworkCreateXml {
            xml: network_xml("transient", "sim1"),
        })
        .await;
    let port = client
        .create_port(&net, &port_xml(Uuid::from_u128(1), "client", 1))
        .await;
    let other = client
        .create_port(&transient, &port_xml(Uuid::from_u128(2), "client", 2))
        .await;
    // Edited and not started anew.
    let kept = client.network_dump(&net, NETWORK_XML_INACTIVE).await;
    let edited = kept.replace("sim0", "sim1");
    client.define_network(&edited).await;
    let live = client.network_dump(&net, 0).await;
    let port_dump = NetworkPortGetXmlDesc {
        port: port.clone(),
        flags: Default::default(),
    };
    let port_live = client.ok(port_dump.clone()).await;
    let before: Vec<_> = claims(&client).await;
    // A simulated guest lives in the daemon, so it dies with it.
    let dom = client.running_guest("g1", "kept").await;
    let guest = client.guest_dump(&dom, DOMAIN_XML_INACTIVE).await;
    let xml_desc = guest_xml("transient", &on_network("transient"));
    client
        .ok(DomainCreateXml {
            xml_desc,
            flags: Default::default(),
        })
        .await;
    assert_eq!(client.who().await.len(), 4);
    daemon.crash();
    assert!(root.socket().exists(), "it had no time to clean up");

    let _daemon = root.start();
    let client = root.client().await;
    assert_eq!(client.network_names(2).await, ["kept", "transient"]);
    assert_eq!(client.network_dump(&net, 0).await, live);
    assert_eq!(
        client.network_dump(&net, NETWORK_XML_INACTIVE).await,
        edited
    );
    assert!(
        !client
            .ok(NetworkIsPersistent {
                net: transient.clone()
            })
            .await
    );
    assert_eq!(client.ports(&net).await, std::slice::from_ref(&port));
    assert_eq!(client.ports(&transient).await, std::slice::from_ref(&other));
    assert_eq!(client.ok(port_dump).await, port_live);
    assert_eq!(claims(&client).await, before);
    assert_eq!(client.guest_names(0).await, ["g1"]);
    assert_eq!(client.guest_dump(&dom, 0).await, guest);
    assert_eq!((root.records("domains"), root.records("ports")), (0, 2));

    // And it goes on as if nothing had been.
    let dom = client.start(&dom).await;
    client.ok(DomainDestroy { dom }).await;
    for port in [port, other] {
        client
            .ok(NetworkPortDelete {
                port,
                flags: Default::default(),
            })
            .await;
    }
    assert!(client.who().await.is_empty());
    client.ok(NetworkDestroy { net: transient }).await;
    assert_eq!(client.network_names(0).await, ["kept"]);
}

/// Who has which device, and since when.
async fn claims(client: &Client) -> Vec<(Uuid, Option<String>, Option<Uuid>, i64)> {
    let who = client.who().await.into_iter();
    let mut claims: Vec<_> = who
        .map(|lent| (lent.port, lent.pci_address, lent.guest_uuid, lent.since))
        .collect();
    claims.sort();
    claims
}

#[tokio::test]
async fn a_record_of_another_boot_is_not_believed() {
    let root = Root::new();
    let daemon = root.start();
    let client = root.client().await;
    let net = client.running_network("n1", "sim0").await;
    client
        .create_port(&net, &port_xml(Uuid::from_u128(1), "client", 1))
        .await;
    daemon.crash();
    for kind in ["networks", "ports"] {
        let (path, mut record) = root.record(kind);
        let boot = record.get_mut("boot").expect("a record names its boot");
        *boot = "11111111-2222-4333-8444-555555555555".into();
        fs::write(path, record.to_string()).unwrap();
    }
    let _daemon = root.start();
    let client = root.client().await;
    assert!(client.network_names(2).await.is_empty());
    assert!(client.who().await.is_empty());
    assert_eq!((root.records("networks"), root.records("ports")), (0, 0));
    // The definition stays.
    client.ok(NetworkCreate { net: net.clone() }).await;
    assert!(client.ports(&net).await.is_empty());
}

#[tokio::test]
async fn a_lent_device_of_another_boot_is_not_believed() {
    let root = Root::new();
    let daemon = root.start();
    let client = root.client().await;
    client.running_network("n1", "sim0").await;
    client.running_guest("g1", "n1").await;
    daemon.crash();
    let (path, mut record) = root.record("devices");
    assert!(
        record.get("boot").is_some(),
        "a record names its boot: {record:#}"
    );
    record["boot"] = "11111111-2222-4333-8444-555555555555".into();
    fs::write(path, record.to_string()).unwrap();
    let _daemon = root.start();
    let client = root.client().await;
    assert!(client.who().await.is_empty());
    assert_eq!((root.records("devices"), root.records("ports")), (0, 0));
}

#[tokio::test]
async fn damaged_records_are_told_and_do_not_keep_it_from_starting() {
    let root = Root::new();
    let daemon = root.start();
    let client = root.client().await;
    client.running_network("good", "sim0").await;
    daemon.crash();
    for kind in ["networks", "ports", "domains", "devices"] {
        fs::write(
            root.path("run/virtnic").join(kind).join("damaged.json"),
            "{\"boot\": 7",
        )
        .unwrap();
    }
    for kind in ["networks", "domains"] {
        fs::write(root.path("etc/virtnic").join(kind).join("damaged.xml"), "<").unwrap();
    }
    let daemon = root.start();
    for part in ["networks", "ports", "domains"] {
        let part = format!("run/virtnic/{part}/damaged.json");
        assert!(daemon.seen().contains(&part), "{part}: {}", daemon.seen());
    }
    assert!(daemon.seen().contains("damaged.xml"));
    let client = root.client().await;
    assert_eq!(client.network_names(2).await, ["good"]);
    client.running_guest("g1", "good").await;
}

#[tokio::test]
async fn a_damaged_record_of_a_port_leaves_its_device_free() {
    let root = Root::new();
    let daemon = root.start();
    let client = root.client().await;
    let net = client.running_network("n1", "sim0").await;
    client
        .create_port(&net, &port_xml(Uuid::from_u128(1), "client", 1))
        .await;
    daemon.crash();
    let (path, _) = root.record("ports");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let _daemon = root.start();
    let client = root.client().await;
    assert!(client.ports(&net).await.is_empty());
    assert!(client.who().await.is_empty());
    client
        .create_port(&net, &port_xml(Uuid::from_u128(1), "client", 1))
        .await;
}

#[tokio::test]
async fn a_network_whose_pf_is_gone_is_known_after_a_restart() {
    let root = Root::new();
    let daemon = root.start();
    let client = root.client().await;
    let net = client.running_network("n1", "sim1").await;
    daemon.crash();
    // The host has one PF less now.
    let daemon = root.start_on("pfs=1,vfs=4");
    assert!(
        daemon.seen().contains("n1") && daemon.seen().contains("sim1"),
        "{}",
        daemon.seen()
    );
    let client = root.client().await;
    assert!(client.ok(NetworkIsActive { net: net.clone() }).await);
    let xml = port_xml(Uuid::from_u128(1), "client", 1);
    let create = NetworkPortCreateXml {
        network: net.clone(),
        xml,
        flags: Default::default(),
    };
    client
        .refuses(&root, create, Code::InternalError, &["n1"])
        .await;
    client.ok(NetworkDestroy { net }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_crash_in_the_midst_of_everything_loses_and_doubles_nothing() {
    let root = Arc::new(Root::new());
    let mut daemon = root.start();
    root.client().await.running_network("n1", "sim0").await;
    for crash in 1..=8 {
        let done = Arc::new(AtomicU32::new(0));
        let mut clients = tokio::task::JoinSet::new();
        for number in 0..4 {
            let client = root.client().await;
            clients.spawn(work_until_the_end(
                client,
                crash * 16 + number,
                Arc::clone(&done),
            ));
        }
        while done.load(Ordering::Relaxed) < 10 + 7 * u32::from(crash) {
            tokio::task::yield_now().await;
        }
        daemon.crash();
        clients.join_all().await;

        daemon = root.start();
        let client = root.client().await;
        let net = client.ok(NetworkLookupByName { name: "n1".into() }).await;
        let ports = client.ports(&net).await;
        let known: HashSet<_> = ports.iter().map(|port| port.uuid).collect();
        let who = client.who().await;
        let devices: HashSet<_> = who.iter().map(|lent| &lent.pci_address).collect();
        assert_eq!(devices.len(), who.len(), "lent twice: {who:#?}");
        let lent: HashSet<_> = who.iter().map(|lent| lent.port).collect();
        assert_eq!(lent, known, "crash {crash}: {}", daemon.seen());
        let records = ["ports", "domains", "devices"].map(|kind| root.records(kind));
        assert_eq!(
            records,
            [ports.len(), 0, 0],
            "crash {crash}: {}",
            daemon.seen()
        );
        for port in ports {
            client
                .ok(NetworkPortDelete {
                    port,
                    flags: Default::default(),
                })
                .await;
        }
        assert!(client.who().await.is_empty());
    }
    // Every VF can be had.
    let client = root.client().await;
    for number in 0..4 {
        client.running_guest(&format!("after{number}"), "n1").await;
    }
}

/// Makes and deletes ports and guests until the daemon is gone.
async fn work_until_the_end(client: Client, number: u8, done: Arc<AtomicU32>) {
    let network = Net {
        name: "n1".into(),
        uuid: Uuid::nil(),
    };
    let found = client
        .rpc
        .call(&NetworkLookupByName { name: network.name })
        .await;
    let Ok(network) = found else { return };
    for round in 0_u128.. {
        let uuid = Uuid::from_u128(u128::from(number) << 64 | round);
        let xml = port_xml(uuid, "client", number);
        let create = NetworkPortCreateXml {
            network: network.clone(),
            xml,
            flags: Default::default(),
        };
        let worked = match client.rpc.call(&create).await {
            Ok(port) => client
                .rpc
                .call(&NetworkPortDelete {
                    port,
                    flags: Default::default(),
                })
                .await
                .map(drop),
            Err(error) => Err(error),
        };
        if matches!(worked, Err(CallError::Disconnected)) {
            return;
        }
        let xml_desc = guest_xml(&format!("g{number}"), &on_network("n1"));
        let worked = match client
            .rpc
            .call(&DomainCreateXml {
                xml_desc,
                flags: Default::default(),
            })
            .await
        {
            Ok(dom) => client.rpc.call(&DomainDestroy { dom }).await.map(drop),
            Err(error) => Err(error),
        };
        if matches!(worked, Err(CallError::Disconnected)) {
            return;
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
}
