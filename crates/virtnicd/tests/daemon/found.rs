//! What the next daemon finds: guests that answer, guests that don't, and records that nobody can read.

use std::fs;

use host::{Host as _, VfSetting};
use qemu::{Answers, Faults, Unplug};
use rpc::*;

use crate::harness::*;
use crate::in_process::{Site, until};

fn start(dom: &Dom) -> DomainCreateWithFlags {
    DomainCreateWithFlags {
        dom: dom.clone(),
        flags: Default::default(),
    }
}

async fn state(client: &Client, dom: &Dom) -> i32 {
    let (dom, flags) = (dom.clone(), Default::default());
    client.ok(DomainGetState { dom, flags }).await.state
}

#[tokio::test(flavor = "multi_thread")]
async fn many_running_guests_are_found_again_with_all_that_they_have() {
    let site = Site::on("pfs=1,vfs=64");
    let daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    for number in 0..32 {
        client.running_guest(&format!("g{number}"), "n1").await;
    }
    let who = |client: Vec<Lent>| {
        let mut rows: Vec<_> = client.iter().map(|lent| format!("{lent:?}")).collect();
        rows.sort();
        rows
    };
    let before = who(client.who().await);
    daemon.stop().await;
    let _daemon = site.start().await;
    let client = site.root.client().await;
    assert_eq!(who(client.who().await), before);
    let dom = client.ok(DomainLookupByName { name: "g7".into() }).await;
    until("its monitor answers", async || {
        state(&client, &dom).await == 1
    })
    .await;
    client.ok(DomainDestroy { dom }).await;
    assert_eq!(client.who().await.len(), 31);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_whose_monitor_is_silent_keeps_its_devices_says_so_and_can_be_ended() {
    let site = Site::new();
    let daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    let dom = client.running_guest("g1", "n1").await;
    site.simulation.guests.set_faults(Faults {
        monitor: Answers::Never,
        ..Faults::default()
    });
    let guest = site.simulation.guests.guest(dom.uuid).unwrap();
    guest.set_faults(Faults {
        monitor: Answers::Never,
        ..Faults::default()
    });
    daemon.stop().await;
    let _daemon = site.start().await;
    let client = site.root.client().await;
    assert_eq!(state(&client, &dom).await, 0);
    assert_eq!(client.who().await.len(), 1);
    let error = client.refused(DomainSuspend { dom: dom.clone() }).await;
    assert!(error.message().contains("g1"), "{error}");
    let error = client.refused(start(&dom)).await;
    assert_eq!(error.code(), Code::OperationInvalid, "{error}");
    client.ok(DomainDestroy { dom }).await;
    assert!(client.who().await.is_empty());
    assert_eq!(site.simulation.guests.running(), 0);
}

/// A guest that was asked to let its device go, and does when it is told to.
async fn asked_to_let_go(site: &Site, client: &Client, dom: &Dom) -> qemu::SimulatedGuest {
    let guest = site.simulation.guests.guest(dom.uuid).unwrap();
    guest.set_faults(Faults {
        unplug: Unplug::WhenReleased,
        ..Faults::default()
    });
    let ask = QemuDomainMonitorCommand {
        dom: dom.clone(),
        cmd: r#"{"execute":"device_del","arguments":{"id":"hostdev0"}}"#.into(),
        flags: Default::default(),
    };
    client.ok(ask).await;
    guest
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_qemu_still_holds_is_owed_and_taken_back_later() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    let dom = client.running_guest("g1", "n1").await;
    let guest = asked_to_let_go(&site, &client, &dom).await;
    // QEMU says that it has let go, and has not closed the group.
    let vf = client.who().await[0].pci_address.clone().unwrap();
    site.simulation.host.hold_vfio(vf.parse().unwrap(), true);
    guest.release("hostdev0");
    until("the guest is without it", async || {
        !client.guest_dump(&dom, 0).await.contains("<interface")
    })
    .await;
    assert_eq!(client.who().await.len(), 1);
    site.simulation.host.hold_vfio(vf.parse().unwrap(), false);
    until("it is back", async || client.who().await.is_empty()).await;
    client.ok(DomainDestroy { dom }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_was_let_go_while_nobody_listened_is_taken_back() {
    let site = Site::new();
    let daemon = site.start().await;
    let client = site.root.client().await;
    let net = client.running_network("n1", "sim0").await;
    let dom = client.running_guest("g1", "n1").await;
    let guest = asked_to_let_go(&site, &client, &dom).await;
    daemon.stop().await;
    guest.release("hostdev0");
    let _daemon = site.start().await;
    let client = site.root.client().await;
    until("it is back", async || client.who().await.is_empty()).await;
    until("its port is gone", async || {
        client.ports(&net).await.is_empty()
    })
    .await;
    until("the guest is without it", async || {
        !client.guest_dump(&dom, 0).await.contains("<interface")
    })
    .await;
}

/// Each way in which a record can't be read.
fn spoil(text: &str, how: usize) -> String {
    match how {
        0 | 5 => text[..text.len() / 2].to_owned(),
        1 => String::new(),
        2 => text.replacen("\"format\": 3", "\"format\": 999", 1),
        3 => text.replacen("\"id\"", "\"number\"", 1),
        // A sound record of a document that makes no sense to this release.
        _ => text.replacen("<memory", "<mem", 1),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_whose_record_can_not_be_read_keeps_what_it_has_and_is_not_started_twice() {
    for how in 0..6 {
        let site = Site::new();
        let daemon = site.start().await;
        let client = site.root.client().await;
        client.running_network("n1", "sim0").await;
        let dom = client.running_guest("g1", "n1").await;
        daemon.stop().await;
        let (path, _) = site.root.record("domains");
        let text = fs::read_to_string(&path).unwrap();
        let spoilt = spoil(&text, how);
        assert_ne!(spoilt, text);
        fs::write(&path, &spoilt).unwrap();
        // Whatever name somebody gave the file, as far as it still says whose it is.
        let path = match how {
            5 => {
                let renamed = path.with_file_name("renamed.json");
                fs::rename(&path, &renamed).unwrap();
                renamed
            }
            _ => path,
        };

        let _daemon = site.start().await;
        let client = site.root.client().await;
        assert_eq!(client.who().await.len(), 1, "{how}");
        let error = client.refused(start(&dom)).await;
        assert!(error.message().contains("reconcile"), "{how}: {error}");
        let of = PlanOf::Guest("g1".into());
        let plan = client.ok(VirtnicPlan { of }).await;
        let said = format!("operation failed: {}", plan.obstacles.join("; "));
        assert!(!plan.would_start && said == error.message(), "{plan:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), spoilt);
        // Somebody sets what is the guest's: nobody can stop that, or start it again, now.
        let vf = client.who().await[0].pci_address.clone().unwrap();
        let host = &site.simulation.host;
        let vf = host.virtual_function(vf.parse().unwrap()).unwrap();
        let mac = "52:54:00:aa:aa:aa".parse().unwrap();
        host.set_vf(&vf, VfSetting::Mac(mac)).unwrap();
        let told = client.ok(VirtnicReconcile { apply: true }).await;
        assert!(told.len() >= 2, "{how}: {told:?}");
        assert!(
            told.iter()
                .all(|one| !one.remedy.contains("stop the guest")),
            "{how}: {told:?}"
        );
        assert!(
            told.iter().any(|one| one.remedy.contains("process")
                && one.guest.as_deref() == Some("g1")
                && matches!(one.outcome, Outcome::Left)),
            "{how}: {told:?}"
        );
        assert_eq!(site.simulation.guests.running(), 1);
        assert_eq!(client.who().await.len(), 1, "{how}");

        // Its process ends: then it can be mended, and starts.
        site.simulation.guests.guest(dom.uuid).unwrap().kill();
        until("it has ended", async || {
            site.simulation.guests.running() == 0
        })
        .await;
        let promised = client.ok(VirtnicReconcile { apply: false }).await;
        let told = client.ok(VirtnicReconcile { apply: true }).await;
        assert!(
            told.iter().any(|one| {
                matches!(one.outcome, Outcome::Mended) && one.remedy.contains("was removed")
            }),
            "{how}: {told:?}"
        );
        let safe = promised.iter().filter(|one| one.safe).count();
        let mended = |one: &&Difference| matches!(one.outcome, Outcome::Mended);
        assert_eq!(told.iter().filter(mended).count(), safe, "{how}: {told:?}");
        assert!(client.who().await.is_empty(), "{how}");
        client.ok(start(&dom)).await;
        assert_eq!(client.who().await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_nobody_knows_whose_a_record_is_no_guest_loses_what_it_has() {
    let site = Site::new();
    let daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    let dom = client.running_guest("g1", "n1").await;
    daemon.stop().await;
    let (path, _) = site.root.record("domains");
    let nameless = path.with_file_name("renamed.json");
    std::os::unix::fs::symlink("nowhere", &nameless).unwrap();
    fs::remove_file(&path).unwrap();

    let daemon = site.start().await;
    let client = site.root.client().await;
    assert_eq!(client.who().await.len(), 1);
    let error = client.refused(start(&dom)).await;
    assert!(error.message().contains("reconcile"), "{error}");
    let told = client.ok(VirtnicReconcile { apply: true }).await;
    let file = nameless.display().to_string();
    assert!(
        told.iter()
            .any(|one| one.what.contains(&file) && !one.remedy.contains(&file)),
        "{told:?}"
    );
    assert_eq!(client.who().await.len(), 1);

    // As it is told to.
    site.simulation.guests.guest(dom.uuid).unwrap().kill();
    until("it has ended", async || {
        site.simulation.guests.running() == 0
    })
    .await;
    fs::remove_file(&nameless).unwrap();
    daemon.stop().await;
    let _daemon = site.start().await;
    let client = site.root.client().await;
    assert!(client.who().await.is_empty());
    client.ok(start(&dom)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_under_another_name_is_put_back_and_its_copy_left_alone() {
    let site = Site::new();
    let daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    client.running_guest("g1", "n1").await;
    daemon.stop().await;
    let (path, _) = site.root.record("domains");
    let renamed = path.with_file_name("renamed.json");
    fs::rename(&path, &renamed).unwrap();

    let daemon = site.start().await;
    let client = site.root.client().await;
    assert_eq!(client.who().await.len(), 1);
    assert_eq!(client.ok(VirtnicReconcile { apply: false }).await, []);
    assert!(path.exists() && !renamed.exists());
    daemon.stop().await;

    fs::copy(&path, &renamed).unwrap();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    assert_eq!(client.who().await.len(), 1);
    assert_eq!(client.ok(VirtnicReconcile { apply: true }).await, []);
    assert!(path.exists() && renamed.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_records_of_networks_and_ports_are_told() {
    let site = Site::new();
    let daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    client.running_guest("g1", "n1").await;
    daemon.stop().await;
    let spoilt = ["networks", "ports"].map(|kind| site.root.record(kind).0);
    for path in &spoilt {
        fs::write(path, "{").unwrap();
    }

    let _daemon = site.start().await;
    let client = site.root.client().await;
    assert_eq!(client.who().await.len(), 1);
    let told = client.ok(VirtnicReconcile { apply: true }).await;
    for path in &spoilt {
        let file = path.display().to_string();
        assert!(
            told.iter()
                .any(|one| one.what.contains(&file) && !one.remedy.contains(&file)),
            "{told:?}"
        );
        assert_eq!(fs::read_to_string(path).unwrap(), "{");
    }
    // One is gone, and one was written anew: its advice would remove a good record.
    let [network, port] = &spoilt;
    fs::remove_file(port).unwrap();
    let anew = network.with_extension("anew");
    fs::write(&anew, "{}").unwrap();
    fs::rename(&anew, network).unwrap();
    assert_eq!(client.ok(VirtnicReconcile { apply: false }).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_record_under_another_name_does_not_bring_the_network_back() {
    for keep in [true, false] {
        let site = Site::new();
        let daemon = site.start().await;
        let client = site.root.client().await;
        let net = client.running_network("n1", "sim0").await;
        daemon.stop().await;
        let path = site.root.record("networks").0;
        let other = path.with_file_name("other.json");
        fs::copy(&path, &other).unwrap();
        if !keep {
            fs::remove_file(&path).unwrap();
        }

        let daemon = site.start().await;
        assert!(path.exists() && !other.exists());
        let client = site.root.client().await;
        client.ok(NetworkDestroy { net }).await;
        daemon.stop().await;
        let _daemon = site.start().await;
        assert!(
            fs::read_dir(path.parent().unwrap())
                .unwrap()
                .next()
                .is_none()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_gone_are_told_and_written_again() {
    let site = Site::new();
    let daemon = site.start().await;
    let client = site.root.client().await;
    let net = client.running_network("n1", "sim0").await;
    let port = port_xml(uuid::Uuid::from_u128(1), "client", 1);
    client.create_port(&net, &port).await;
    let dom = client.running_guest("g1", "n1").await;
    let before = client.picture(&site.root).await;
    for kind in ["networks", "ports", "domains", "devices"] {
        while site.root.records(kind) > 0 {
            fs::remove_file(site.root.record(kind).0).unwrap();
        }
    }
    let told = client.ok(VirtnicReconcile { apply: false }).await;
    let gone = told
        .iter()
        .filter(|one| one.safe && one.outcome == Outcome::Left);
    assert_eq!((told.len(), gone.count()), (5, 5), "{told:?}");
    let told = client.ok(VirtnicReconcile { apply: true }).await;
    let mended = told.iter().filter(|one| one.outcome == Outcome::Mended);
    assert_eq!(mended.count(), 5, "{told:?}");
    assert_eq!(client.ok(VirtnicReconcile { apply: false }).await, []);
    assert_eq!(client.picture(&site.root).await, before);
    daemon.stop().await;
    let _daemon = site.start().await;
    let client = site.root.client().await;
    assert_eq!(client.who().await.len(), 2);
    assert_eq!(client.ports(&net).await.len(), 2);
    client.ok(DomainDestroy { dom }).await;
    assert_eq!(client.who().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_runs_without_a_record_is_not_started_twice() {
    for has_old_one in [false, true] {
        without_a_record(has_old_one).await;
    }
}

/// With the record of an earlier run under another name.
async fn without_a_record(has_old_one: bool) {
    let site = Site::new();
    let daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    let dom = client.running_guest("g1", "n1").await;
    let path = site.root.record("domains").0;
    let old = fs::read(&path).unwrap();
    client.ok(DomainDestroy { dom: dom.clone() }).await;
    client.ok(start(&dom)).await;
    daemon.stop().await;
    fs::remove_file(&path).unwrap();
    if has_old_one {
        fs::write(path.with_file_name("old.json"), old).unwrap();
    }

    let _daemon = site.start().await;
    let client = site.root.client().await;
    assert_eq!(client.who().await.len(), 1);
    let error = client.refused(start(&dom)).await;
    assert!(error.message().contains("there is no record"), "{error}");
    assert_eq!(site.simulation.guests.running(), 1);
    let told = client.ok(VirtnicReconcile { apply: true }).await;
    assert!(
        told.iter().any(|one| one.guest.as_deref() == Some("g1")),
        "{told:?}"
    );
    site.simulation.guests.guest(dom.uuid).unwrap().kill();
    client.ok(VirtnicReconcile { apply: true }).await;
    assert!(client.who().await.is_empty());
    client.ok(start(&dom)).await;
}
