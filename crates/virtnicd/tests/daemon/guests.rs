//! The life of a guest, kept or not. On a simulated host it is simulated, too.

use rpc::*;

use crate::harness::*;

const ACTIVE: u32 = 1;
const INACTIVE: u32 = 2;
const PERSISTENT: u32 = 4;
const TRANSIENT: u32 = 8;
const RUNNING: u32 = 16;
const PAUSED: u32 = 32;
const SHUT_OFF: u32 = 64;
const AUTOSTART: u32 = 1024;
const NO_AUTOSTART: u32 = 2048;
const START_PAUSED: u32 = 1;
const START_AUTODESTROY: u32 = 2;

async fn state(client: &Client, dom: &Dom) -> (i32, i32) {
    let state = client
        .ok(DomainGetState {
            dom: dom.clone(),
            flags: Default::default(),
        })
        .await;
    (state.state, state.reason)
}

#[tokio::test]
async fn a_kept_guest_has_a_vf_while_it_runs() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let net = client.running_network("n1", "sim0").await;
    let before = client.picture(&root).await;

    let mac = "52:54:00:00:00:09";
    let interface = format!(
        "<interface type='network'><mac address='{mac}'/><source network='n1'/></interface>"
    );
    let dom = client.define_guest(&guest_xml("g1", &interface)).await;
    assert_eq!(dom.id, -1);
    assert_eq!(state(&client, &dom).await.0, 5);
    let kept = client.guest_dump(&dom, DOMAIN_XML_INACTIVE).await;
    assert_eq!(client.guest_dump(&dom, DOMAIN_XML_INACTIVE).await, kept);

    let running = client.start(&dom).await;
    assert_eq!(
        running,
        Dom {
            id: 1,
            ..dom.clone()
        }
    );
    assert_eq!(state(&client, &dom).await, (1, 1));
    assert_eq!(client.ok(DomainLookupById { id: 1 }).await, running);
    let [lent] = client.who().await.try_into().unwrap();
    assert_eq!(lent.network.as_deref(), Some("n1"));
    assert_eq!(
        (lent.guest.as_deref(), lent.guest_uuid),
        (Some("g1"), Some(dom.uuid))
    );
    assert_eq!(lent.mac.as_deref(), Some(mac));
    assert_eq!(lent.pf.as_deref(), Some("sim0"));
    assert_eq!(lent.driver.as_deref(), Some("vfio-pci"));
    assert_eq!(lent.state, "lent");
    assert!(lent.since > 0);
    // The live document names the device, the other one does not change.
    let live = client.guest_dump(&dom, 0).await;
    assert!(
        live.contains("<domain type='kvm' id='1'>") && live.contains("hostdev"),
        "{live}"
    );
    assert_eq!(client.guest_dump(&dom, DOMAIN_XML_INACTIVE).await, kept);
    let [port] = client.ports(&net).await.try_into().unwrap();
    assert_eq!(port.uuid, lent.port);
    assert!(
        client
            .network_dump(&net, 0)
            .await
            .contains("<network connections='1'>")
    );

    client.ok(DomainDestroy { dom: dom.clone() }).await;
    assert_eq!(state(&client, &dom).await, (5, 2));
    assert!(client.who().await.is_empty());
    assert!(client.ports(&net).await.is_empty());
    assert_eq!(client.guest_dump(&dom, 0).await, kept);
    // The next run has a new number.
    assert_eq!(client.start(&dom).await.id, 2);
    client
        .ok(DomainShutdownFlags {
            dom: dom.clone(),
            flags: Default::default(),
        })
        .await;
    gone(&client, 0).await;
    client
        .ok(DomainUndefineFlags {
            dom,
            flags: Default::default(),
        })
        .await;
    assert_eq!(client.picture(&root).await, before);
}

/// A guest that switches itself off is cleaned up after; waits until that many are lent.
async fn gone(client: &Client, lent: u32) {
    let until = async {
        while client.ok(VirtnicStatus {}).await.lent != lent
            || !client.guest_names(ACTIVE).await.is_empty()
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, until)
        .await
        .expect("a guest stays");
}

#[tokio::test]
async fn a_transient_guest_is_gone_when_it_stops() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    client.running_network("n1", "sim0").await;
    let before = client.picture(&root).await;
    let xml_desc = guest_xml("t1", &on_network("n1"));
    let dom = client
        .ok(DomainCreateXml {
            xml_desc,
            flags: START_PAUSED.into(),
        })
        .await;
    assert_eq!(dom.id, 1);
    assert_eq!(state(&client, &dom).await.0, 3);
    assert!(!client.ok(DomainIsPersistent { dom: dom.clone() }).await);
    let set = DomainSetAutostart {
        dom: dom.clone(),
        autostart: true,
    };
    let part = "cannot set autostart for transient domain";
    client
        .refuses(&root, set, Code::OperationInvalid, &[part])
        .await;
    let undefine = DomainUndefineFlags {
        dom: dom.clone(),
        flags: Default::default(),
    };
    let part = "cannot undefine transient domain";
    client
        .refuses(&root, undefine, Code::OperationInvalid, &[part])
        .await;

    client.ok(DomainResume { dom: dom.clone() }).await;
    assert_eq!(state(&client, &dom).await, (1, 5));
    client.ok(DomainSuspend { dom: dom.clone() }).await;
    assert_eq!(state(&client, &dom).await, (3, 1));
    client
        .ok(DomainDestroyFlags {
            dom: dom.clone(),
            flags: 1.into(),
        })
        .await;
    let error = client.refused(DomainLookupByUuid { uuid: dom.uuid }).await;
    assert_eq!(error.code(), Code::NoDomain);
    assert_eq!(client.picture(&root).await, before);
}

#[tokio::test]
async fn undefined_while_it_runs_a_guest_goes_on_until_it_stops() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    client.running_network("n1", "sim0").await;
    let dom = client.running_guest("g1", "n1").await;
    client
        .ok(DomainUndefineFlags {
            dom: dom.clone(),
            flags: Default::default(),
        })
        .await;
    assert!(client.ok(DomainIsActive { dom: dom.clone() }).await);
    assert!(!client.ok(DomainIsPersistent { dom: dom.clone() }).await);
    assert!(!root.path("etc/virtnic/domains/g1.xml").exists());
    assert_eq!(client.who().await.len(), 1);
    client.ok(DomainDestroy { dom }).await;
    assert!(client.guest_names(0).await.is_empty());
    assert!(client.who().await.is_empty());
}

#[tokio::test]
async fn a_definition_of_a_running_guest_waits_for_its_next_start() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    client.running_network("n1", "sim0").await;
    let dom = client.running_guest("g1", "n1").await;
    let kept = client.guest_dump(&dom, DOMAIN_XML_INACTIVE).await;
    let edited = kept.replace(">65536<", ">131072<");
    assert_ne!(kept, edited);
    assert_eq!(client.define_guest(&edited).await, dom);
    assert!(client.guest_dump(&dom, 0).await.contains(">65536<"));
    assert_eq!(client.guest_dump(&dom, DOMAIN_XML_INACTIVE).await, edited);
    assert_eq!(
        client.ok(DomainGetInfo { dom: dom.clone() }).await.max_mem,
        65_536
    );
    client.ok(DomainDestroy { dom: dom.clone() }).await;
    client.start(&dom).await;
    assert_eq!(client.ok(DomainGetInfo { dom }).await.max_mem, 131_072);
}

#[tokio::test]
async fn lists_hold_what_their_flags_ask_for() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let off = client.define_guest(&guest_xml("off", "")).await;
    let on = client.define_guest(&guest_xml("on", "")).await;
    client.start(&on).await;
    client
        .ok(DomainSetAutostart {
            dom: off.clone(),
            autostart: true,
        })
        .await;
    assert!(client.ok(DomainGetAutostart { dom: off }).await);
    let xml_desc = guest_xml("paused", "");
    client
        .ok(DomainCreateXml {
            xml_desc,
            flags: START_PAUSED.into(),
        })
        .await;

    for (flags, expected) in [
        (0, &["off", "on", "paused"][..]),
        (ACTIVE, &["on", "paused"]),
        (INACTIVE, &["off"]),
        (ACTIVE | INACTIVE, &["off", "on", "paused"]),
        (PERSISTENT, &["off", "on"]),
        (TRANSIENT, &["paused"]),
        (RUNNING, &["on"]),
        (PAUSED | SHUT_OFF, &["off", "paused"]),
        (ACTIVE | SHUT_OFF, &[]),
        (AUTOSTART, &["off"]),
        (NO_AUTOSTART, &["on", "paused"]),
    ] {
        assert_eq!(client.guest_names(flags).await, expected, "flags {flags}");
    }
    assert_eq!(client.ok(ConnectNumOfDomains {}).await, 2);
    assert_eq!(client.ok(ConnectListDomains { maxids: 10 }).await, [1, 2]);
    assert_eq!(
        client.ok(ConnectListDefinedDomains { maxnames: 10 }).await,
        ["off"]
    );
    let status = client.ok(VirtnicStatus {}).await;
    assert_eq!((status.guests, status.running_guests), (3, 2));
}

#[tokio::test]
async fn what_a_guests_state_does_not_allow_is_refused() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    client.running_network("n1", "sim0").await;
    let dom = client
        .define_guest(&guest_xml("g1", &on_network("n1")))
        .await;
    let invalid = Code::OperationInvalid;
    let off = &["domain is not running"];
    client
        .refuses(&root, DomainDestroy { dom: dom.clone() }, invalid, off)
        .await;
    client
        .refuses(&root, DomainSuspend { dom: dom.clone() }, invalid, off)
        .await;
    client
        .refuses(&root, DomainResume { dom: dom.clone() }, invalid, off)
        .await;
    let shutdown = DomainShutdownFlags {
        dom: dom.clone(),
        flags: Default::default(),
    };
    client.refuses(&root, shutdown, invalid, off).await;
    let console = DomainOpenConsole {
        dom: dom.clone(),
        dev_name: None,
        flags: Default::default(),
    };
    client.refuses(&root, console, invalid, off).await;

    client.start(&dom).await;
    let start = DomainCreateWithFlags {
        dom: dom.clone(),
        flags: Default::default(),
    };
    let on = &["domain 'g1' is already active"];
    client.refuses(&root, start, invalid, on).await;
    let xml_desc = client.guest_dump(&dom, 0).await;
    client
        .refuses(
            &root,
            DomainCreateXml {
                xml_desc,
                flags: Default::default(),
            },
            invalid,
            on,
        )
        .await;
    let resume = DomainResume { dom: dom.clone() };
    client
        .refuses(&root, resume, invalid, &["already running"])
        .await;
    let monitor = QemuDomainMonitorCommand {
        dom,
        cmd: r#"{"execute":"fly"}"#.into(),
        flags: Default::default(),
    };
    // QEMU's refusal is an answer.
    let answer = client.ok(monitor).await;
    assert!(answer.contains("CommandNotFound"), "{answer}");
}

#[tokio::test]
async fn a_guests_directory_goes_with_it_and_others_at_the_next_start() {
    let root = Root::new();
    let daemon = root.start();
    let directories = || {
        let entries = std::fs::read_dir(root.path("run/virtnic/guests"));
        entries.map_or(0, |entries| entries.count())
    };
    let client = root.client().await;
    client.running_network("n1", "sim0").await;
    let dom = client.running_guest("g1", "n1").await;
    assert_eq!(directories(), 1);
    client.ok(DomainDestroy { dom: dom.clone() }).await;
    assert_eq!(directories(), 0);

    client.start(&dom).await;
    daemon.crash();
    assert_eq!(directories(), 1);
    let _daemon = root.start();
    root.client().await;
    assert_eq!(
        directories(),
        0,
        "the simulated guest is gone with its daemon"
    );
}

#[tokio::test]
async fn a_guest_bound_to_its_client_ends_with_it() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    client.running_network("n1", "sim0").await;
    let other = root.client().await;
    let xml_desc = guest_xml("bound", &on_network("n1"));
    other
        .ok(DomainCreateXml {
            xml_desc,
            flags: START_AUTODESTROY.into(),
        })
        .await;
    let unbound = client.running_guest("unbound", "n1").await;
    assert_eq!(client.who().await.len(), 2);
    drop(other);
    let until = async {
        while client.guest_names(0).await != ["unbound"] {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, until)
        .await
        .expect("the guest goes on");
    let [lent] = client.who().await.try_into().unwrap();
    assert_eq!(lent.guest_uuid, Some(unbound.uuid));
}

#[tokio::test]
async fn a_vf_that_a_guest_names_itself_is_lent_to_it_and_to_no_other() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    client.running_network("n1", "sim0").await;
    let device = "<source><address type='pci' domain='0' bus='2' slot='0' function='1'/></source>";
    let interface = format!("<interface type='hostdev' managed='yes'>{device}</interface>");
    let dom = client.define_guest(&guest_xml("own", &interface)).await;
    client.start(&dom).await;
    let [lent] = client.who().await.try_into().unwrap();
    assert_eq!(lent.pci_address.as_deref(), Some("0000:02:00.1"));
    assert_eq!(lent.network, None);

    // Neither another interface nor a plain host device nor the pool gets it.
    let hostdev = format!("<hostdev mode='subsystem' type='pci' managed='yes'>{device}</hostdev>");
    for (name, devices) in [("second", interface), ("third", hostdev)] {
        let dom = client.define_guest(&guest_xml(name, &devices)).await;
        let start = DomainCreateWithFlags {
            dom,
            flags: Default::default(),
        };
        let parts = &["0000:02:00.1", "own"];
        client
            .refuses(&root, start, Code::OperationInvalid, parts)
            .await;
    }
    for number in 0..3 {
        client.running_guest(&format!("pooled{number}"), "n1").await;
    }
    let mut addresses: Vec<_> = client
        .who()
        .await
        .into_iter()
        .map(|l| l.pci_address)
        .collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 4);
}

#[tokio::test]
async fn marked_guests_start_once_a_boot() {
    let root = Root::new();
    let daemon = root.start();
    let client = root.client().await;
    let dom = client.define_guest(&guest_xml("g1", "")).await;
    client
        .ok(DomainSetAutostart {
            dom: dom.clone(),
            autostart: true,
        })
        .await;
    daemon.stop();
    // The same boot: whoever stopped the guest since wants it stopped.
    let mut daemon = root.start();
    daemon.has_said(AUTOSTARTED);
    assert!(root.client().await.guest_names(ACTIVE).await.is_empty());
    daemon.stop();
    // Another boot.
    std::fs::remove_file(root.path("run/virtnic/autostarted")).unwrap();
    let mut daemon = root.start();
    daemon.has_said(AUTOSTARTED);
    assert_eq!(root.client().await.guest_names(ACTIVE).await, ["g1"]);
}
