//! Definitions that somebody edits, removes or puts there by hand.

use std::fs;
use std::time::Duration;

use rpc::*;
use uuid::Uuid;

use crate::harness::*;
use crate::in_process::{Site, until};

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_goes_on_whatever_its_definition_says_by_now() {
    for (before, after) in [
        ("<uuid>", "<uuid>0"),
        ("<name>n1</name>", "<name>other</name>"),
        ("</name>", "</name"),
    ] {
        let site = Site::new();
        let daemon = site.start().await;
        let client = site.root.client().await;
        let net = client.running_network("n1", "sim0").await;
        let port = port_xml(Uuid::from_u128(1), "client", 1);
        client.create_port(&net, &port).await;
        let who = client.who().await;
        daemon.stop().await;
        let file = site.root.path("etc/virtnic/networks/n1.xml");
        let text = fs::read_to_string(&file).unwrap();
        let edited = match before {
            // Another one, of the same length.
            "<uuid>" => text.replace(&net.uuid.to_string(), &Uuid::from_u128(7).to_string()),
            _ => text.replace(before, after),
        };
        assert_ne!(edited, text);
        fs::write(&file, &edited).unwrap();
        if after.contains("other") {
            fs::rename(&file, file.with_file_name("other.xml")).unwrap();
        }

        let _daemon = site.start().await;
        let client = site.root.client().await;
        assert_eq!(client.network_names(2).await, ["n1"], "{after}");
        let now = client.who().await;
        assert_eq!((now.len(), now[0].port), (1, who[0].port), "{after}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_taken_in_is_left_as_it_is() {
    let site = Site::new();
    let daemon = site.start().await;
    let client = site.root.client().await;
    let net = client.running_network("n1", "sim0").await;
    let dom = client.running_guest("g1", "n1").await;
    // Without a uuid, as they are copied from elsewhere.
    let files = [
        ("etc/virtnic/networks/n1.xml", network_xml("n1", "sim0")),
        ("etc/virtnic/domains/g1.xml", guest_xml("g1", "")),
    ];
    for (file, text) in &files {
        fs::write(site.root.path(file), text).unwrap();
    }
    daemon.read_new_definitions().await;
    for (file, text) in &files {
        assert_eq!(&fs::read_to_string(site.root.path(file)).unwrap(), text);
    }
    let by_name = client.ok(NetworkLookupByName { name: "n1".into() }).await;
    assert_eq!(by_name.uuid, net.uuid);
    let by_name = client.ok(DomainLookupByName { name: "g1".into() }).await;
    assert_eq!(by_name.uuid, dom.uuid);
}

/// What a reading of all files found is not known any more when it has been undefined meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_undefined_does_not_come_back_by_a_reading_of_the_files() {
    let site = std::sync::Arc::new(Site::new());
    let daemon = std::sync::Arc::new(site.start().await);
    let client = site.root.client().await;
    for number in 0..40 {
        client
            .define_guest(&guest_xml(&format!("other{number}"), ""))
            .await;
        client
            .define_network(&network_xml(&format!("other{number}"), "sim0"))
            .await;
    }
    let reading = tokio::spawn({
        let daemon = std::sync::Arc::clone(&daemon);
        async move {
            loop {
                daemon.read_new_definitions().await;
            }
        }
    });
    let round = async || {
        let dom = client.define_guest(&guest_xml("g1", "")).await;
        client.ok(DomainUndefine { dom }).await;
        let net = client.define_network(&network_xml("n1", "sim1")).await;
        client.ok(NetworkUndefine { net }).await;
    };
    let end = tokio::time::Instant::now() + Duration::from_millis(400);
    while tokio::time::Instant::now() < end {
        round().await;
    }
    reading.abort();
    let _ = reading.await;
    // The last reading may still be on its way.
    daemon.read_new_definitions().await;
    let names = client.guest_names(0).await;
    assert!(!names.contains(&"g1".to_owned()), "{names:?}");
    let names = client.network_names(0).await;
    assert!(!names.contains(&"n1".to_owned()), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_is_not_for_another_definition_of_that_name() {
    for restart in [false, true] {
        let site = Site::new();
        let mut daemon = site.start().await;
        daemon.autostarted().await;
        let client = site.root.client().await;
        let net = client.define_network(&network_xml("n1", "sim0")).await;
        let dom = client.define_guest(&guest_xml("g1", "")).await;
        let autostart = true;
        client.ok(NetworkSetAutostart { net, autostart }).await;
        client.ok(DomainSetAutostart { dom, autostart }).await;
        daemon.stop().await;
        for file in ["networks/n1.xml", "domains/g1.xml"] {
            fs::remove_file(site.root.path("etc/virtnic").join(file)).unwrap();
        }
        let marks = ["networks/autostart/n1.xml", "domains/autostart/g1.xml"];
        let marks = marks.map(|mark| site.root.path("etc/virtnic").join(mark));
        let daemon = site.start().await;
        assert!(marks.iter().all(|mark| mark.symlink_metadata().is_err()));
        // As if it had been left while a daemon runs.
        for mark in &marks {
            std::os::unix::fs::symlink("nowhere", mark).unwrap();
        }
        let client = site.root.client().await;
        let net = client.define_network(&network_xml("n1", "sim0")).await;
        let dom = client.define_guest(&guest_xml("g1", "")).await;
        let _daemon = match restart {
            true => {
                daemon.stop().await;
                site.start().await
            }
            false => daemon,
        };
        let client = site.root.client().await;
        assert!(!client.ok(NetworkGetAutostart { net }).await);
        assert!(!client.ok(DomainGetAutostart { dom }).await);
        until("they are gone", async || {
            marks.iter().all(|mark| mark.symlink_metadata().is_err())
        })
        .await;
    }
}
