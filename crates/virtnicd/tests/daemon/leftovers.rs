//! Records that can't be removed, files that are none, and a lock that somebody deleted.

use std::fs;
use std::path::Path;

use clap::Parser as _;
use host::Operation;
use rpc::*;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use uuid::Uuid;
use virtnicd::{Options, StartError, Virtnicd};

use crate::guest_links::{CONFIG, LIVE, change, shown_interface, with_link};
use crate::harness::*;
use crate::in_process::{Site, reached, until};

fn delete(port: &Port) -> NetworkPortDelete {
    NetworkPortDelete {
        port: port.clone(),
        flags: Default::default(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_next_daemon_would_bring_back_is_not_said_to_be_gone() {
    let site = Site::new();
    let daemon = site.start().await;
    let client = site.root.client().await;
    let net = client.running_network("n1", "sim0").await;
    let port = port_xml(Uuid::from_u128(1), "client", 1);
    let port = client.create_port(&net, &port).await;

    let record = format!("run/virtnic/ports/{}.json", port.uuid);
    let in_the_way = site.root.in_the_way(&record);
    let error = client.refused(delete(&port)).await;
    assert!(error.message().contains("can't remove port"), "{error}");
    assert_eq!(client.ports(&net).await, std::slice::from_ref(&port));
    assert_eq!(client.who().await.len(), 1);
    drop(in_the_way);

    let record = format!("run/virtnic/networks/{}.json", net.uuid);
    let in_the_way = site.root.in_the_way(&record);
    let error = client.refused(NetworkDestroy { net: net.clone() }).await;
    assert!(error.message().contains("network 'n1' runs"), "{error}");
    assert_eq!(client.network_names(2).await, ["n1"]);
    assert_eq!(client.ports(&net).await, std::slice::from_ref(&port));
    drop(in_the_way);

    client.ok(delete(&port)).await;
    client.ok(NetworkDestroy { net }).await;
    daemon.stop().await;
    let _daemon = site.start().await;
    let client = site.root.client().await;
    assert!(client.network_names(2).await.is_empty() && client.who().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_what_is_over_are_told_and_go_when_they_can() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    let dom = client.running_guest("g1", "n1").await;
    let of_port = site.root.record("ports").0;
    let kinds = [
        format!("run/virtnic/domains/{}.json", dom.uuid),
        format!(
            "run/virtnic/ports/{}",
            of_port.file_name().unwrap().display()
        ),
    ];
    let in_the_way = kinds.each_ref().map(|path| site.root.in_the_way(path));
    client.ok(DomainDestroy { dom }).await;
    assert!(client.who().await.is_empty());
    let told = client.ok(VirtnicReconcile { apply: false }).await;
    for path in &kinds {
        let says_so = |one: &Difference| one.what.contains(path) && one.outcome == Outcome::Left;
        assert!(told.iter().any(says_so), "{told:?}");
    }
    assert_eq!(told.len(), 2, "{told:?}");
    let told = client.ok(VirtnicReconcile { apply: true }).await;
    let failed = |one: &Difference| matches!(one.outcome, Outcome::Failed(_));
    assert!(told.iter().all(failed), "{told:?}");
    drop(in_the_way);
    assert_eq!(client.ok(VirtnicReconcile { apply: false }).await, []);
    assert_eq!(site.root.records("domains") + site.root.records("ports"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_of_a_network_whose_record_can_not_be_read_keep_their_devices() {
    for transient in [false, true] {
        let site = Site::on("pfs=1,vfs=1");
        let daemon = site.start().await;
        let client = site.root.client().await;
        let net = match transient {
            true => {
                let xml = network_xml("n1", "sim0");
                client.ok(NetworkCreateXml { xml }).await
            }
            false => client.running_network("n1", "sim0").await,
        };
        let port = port_xml(Uuid::from_u128(1), "client", 1);
        let port = client.create_port(&net, &port).await;
        daemon.stop().await;
        let record = site.root.record("networks").0;
        fs::write(&record, "{").unwrap();

        let _daemon = site.start().await;
        let client = site.root.client().await;
        let [lent] = &client.who().await[..] else {
            panic!("the port lost its VF");
        };
        assert_eq!(lent.port, port.uuid);
        // As the advice goes.
        fs::remove_file(&record).unwrap();
        let net = client.define_network(&network_xml_of(&net, "sim0")).await;
        client.ok(NetworkCreate { net: net.clone() }).await;
        let other = port_xml(Uuid::from_u128(2), "other", 2);
        client
            .refused(NetworkPortCreateXml {
                network: net.clone(),
                xml: other,
                flags: Default::default(),
            })
            .await;
        client.ok(delete(&port)).await;
        assert!(client.who().await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_taken_back_is_so_also_where_that_can_not_be_recorded() {
    let site = Site::new();
    let daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    let dom = client.running_guest("g1", "n1").await;
    let interface = shown_interface(&client, &dom, 0).await;
    let both = change(&dom, &with_link(&interface, "down"), LIVE | CONFIG);
    let held = site.simulation.host.hold(Operation::SetLink);
    let changing = tokio::spawn({
        let changer = site.root.client().await;
        async move { changer.refused(both).await }
    });
    let held = reached(held).await;
    // The record is written; then nothing can be any more.
    let record = format!("run/virtnic/domains/{}.json", dom.uuid);
    let in_the_way = ["etc/virtnic/domains/g1.xml.new", &record];
    let in_the_way = in_the_way.map(|path| site.root.in_the_way(path));
    drop(held);
    let error = changing.await.unwrap();
    assert!(error.message().contains("can't keep guest 'g1'"), "{error}");
    assert_eq!(shown_interface(&client, &dom, 0).await, interface);
    let told = client.ok(VirtnicReconcile { apply: false }).await;
    assert!(
        told.iter().any(|one| one.what.contains(&record)),
        "{told:?}"
    );
    drop(in_the_way);
    assert_eq!(client.ok(VirtnicReconcile { apply: false }).await, []);
    daemon.stop().await;
    let _daemon = site.start().await;
    let client = site.root.client().await;
    assert_eq!(shown_interface(&client, &dom, 0).await, interface);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_admitted_when_its_damaged_record_is_removed() {
    let site = Site::on("pfs=1,vfs=1");
    let daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    let dom = client.running_guest("g1", "n1").await;
    let path = site.root.record("devices").0;
    let text = fs::read(&path).unwrap();
    client.ok(DomainDestroy { dom: dom.clone() }).await;
    daemon.stop().await;
    fs::write(&path, &text[..20]).unwrap();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let start = DomainCreateWithFlags {
        dom,
        flags: Default::default(),
    };
    client.refused(start.clone()).await;
    let told = client.ok(VirtnicReconcile { apply: true }).await;
    assert_eq!(told.len(), 1, "{told:?}");
    // As the advice goes.
    fs::remove_file(&path).unwrap();
    assert_eq!(client.ok(VirtnicReconcile { apply: false }).await, []);
    client.ok(start).await;
}

/// Whoever comes next would read what is about to be another.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_stops_keeps_the_root_until_its_last_work_is_done() {
    let site = Site::new();
    let daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    let dom = client
        .define_guest(&guest_xml("g1", &on_network("n1")))
        .await;
    let held = site.simulation.host.hold(Operation::Bind);
    let starting = tokio::spawn({
        let (starter, flags) = (site.root.client().await, Default::default());
        async move {
            drop(
                starter
                    .rpc
                    .call(&DomainCreateWithFlags { dom, flags })
                    .await,
            )
        }
    });
    let held = reached(held).await;
    daemon.stop().await;
    let root = site.root.path("");
    let options = Options::parse_from(["virtnicd", "--root", root.to_str().unwrap()]);
    let simulation = site.simulation.clone();
    let refused = Virtnicd::start_on(&options, Some(simulation)).await;
    assert!(matches!(refused, Err(StartError::Locked(_))), "{refused:?}");
    drop(held);
    starting.await.unwrap();
    until("the root is free", async || {
        let simulation = site.simulation.clone();
        let started = Virtnicd::start_on(&options, Some(simulation)).await;
        started.is_ok()
    })
    .await;
}

/// The document of a network that has an identity.
fn network_xml_of(net: &Net, pf: &str) -> String {
    let name = format!("<name>{}</name>", net.name);
    let identity = format!("{name}<uuid>{}</uuid>", net.uuid);
    network_xml(&net.name, pf).replace(&name, &identity)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_changes_nothing_where_the_lock_was_deleted() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let net = client.running_network("n1", "sim0").await;
    client.running_guest("g1", "n1").await;
    let port = port_xml(Uuid::from_u128(1), "client", 1);
    client.create_port(&net, &port).await;
    fs::remove_file(site.root.path("run/virtnic/virtnicd.lock")).unwrap();
    let before = ["domains", "ports", "devices", "networks"].map(|kind| site.root.records(kind));

    let root = site.root.path("");
    let options = Options::parse_from(["virtnicd", "--root", root.to_str().unwrap()]);
    // On another host: it would find neither guests nor their devices.
    let other = Site::new().simulation;
    let refused = Virtnicd::start_on(&options, Some(other)).await.unwrap_err();
    assert!(matches!(refused, StartError::Listen(_)), "{refused}");
    let after = ["domains", "ports", "devices", "networks"].map(|kind| site.root.records(kind));
    assert_eq!(after, before);
    assert_eq!(client.who().await.len(), 2);
    site.root.client().await;
}

fn fifo(path: &Path) {
    let _ = fs::remove_file(path);
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fifo_in_the_place_of_a_file_is_not_waited_for() {
    let site = Site::new();
    let daemon = site.start().await;
    daemon.stop().await;
    for name in ["devices/starts", "autostarted"] {
        fifo(&site.root.path("run/virtnic").join(name));
    }
    let mut daemon = site.start().await;
    daemon.autostarted().await;
    site.root.client().await;
    daemon.stop().await;

    let lock = site.root.path("run/virtnic/virtnicd.lock");
    fifo(&lock);
    let root = site.root.path("");
    let options = Options::parse_from(["virtnicd", "--root", root.to_str().unwrap()]);
    let start = async || {
        let simulation = site.simulation.clone();
        Virtnicd::start_on(&options, Some(simulation)).await
    };
    let refused = start().await.unwrap_err();
    assert!(matches!(refused, StartError::Directory { .. }), "{refused}");
    // With somebody at its other end it could be opened.
    let _reader = rustix::fs::open(
        &lock,
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK,
        Mode::empty(),
    )
    .unwrap();
    let refused = start().await.unwrap_err();
    let said = virtnicd::chain(&refused);
    assert!(
        said.contains("virtnicd.lock can't be used: it is not a file"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_was_stopped_stays_so_until_the_next_boot() {
    let site = Site::new();
    let mut daemon = site.start().await;
    daemon.autostarted().await;
    let client = site.root.client().await;
    let net = client.running_network("n1", "sim0").await;
    let autostart = true;
    let mark = NetworkSetAutostart { net, autostart };
    let net = mark.net.clone();
    client.ok(mark).await;
    client.ok(NetworkDestroy { net }).await;
    daemon.stop().await;
    let mut daemon = site.start().await;
    daemon.autostarted().await;
    let client = site.root.client().await;
    assert!(client.network_names(2).await.is_empty());
    daemon.stop().await;
    // Another boot.
    fs::remove_file(site.root.path("run/virtnic/autostarted")).unwrap();
    let mut daemon = site.start().await;
    daemon.autostarted().await;
    let client = site.root.client().await;
    assert_eq!(client.network_names(2).await, ["n1"]);
}
