//! Who gets to read the passwords in a guest's document.

use rpc::*;

use crate::harness::*;

const SECURE: u32 = 1;
const INACTIVE: u32 = 2;
const MIGRATABLE: u32 = 8;

const DEVICES: &str = "<graphics type='vnc' passwd='opensesame' passwdValidTo='2038-01-01T00:00:00'/>\
     <graphics type='spice' passwd='opensesame'/>\
     <disk type='network'><source protocol='https' name='n'><host name='h'/>\
     <cookies><cookie name='c'>opensesame</cookie></cookies></source><target dev='vda'/></disk>\
     <tpm model='x' passwd='opensesame'><backend passwd='opensesame'/></tpm>";

#[tokio::test]
async fn passwords_are_told_to_who_may_ask_for_them_and_outlive_the_daemon() {
    let root = Root::new();
    let daemon = root.start();
    let client = root.client().await;
    let dom = client.define_guest(&guest_xml("g1", DEVICES)).await;
    let reader = root.read_only_client().await;
    for flags in [0, INACTIVE] {
        for client in [&client, &reader] {
            let shown = client.guest_dump(&dom, flags).await;
            assert!(!shown.contains("opensesame"), "{shown}");
            assert!(shown.contains("passwd='*****' passwdValidTo="), "{shown}");
        }
    }
    for flags in [MIGRATABLE, INACTIVE | MIGRATABLE] {
        let shown = client.guest_dump(&dom, flags).await;
        assert!(!shown.contains("opensesame"), "{shown}");
    }
    let denied = reader
        .refused(DomainGetXmlDesc {
            dom: dom.clone(),
            flags: SECURE.into(),
        })
        .await;
    assert_eq!(denied.code(), Code::OperationDenied);

    let whole = client.guest_dump(&dom, SECURE).await;
    assert_eq!(whole.matches("opensesame").count(), 5, "{whole}");
    // As an editor does: what was told is defined again.
    client.define_guest(&whole).await;
    let printed = daemon.stop();
    assert!(!printed.contains("opensesame"), "{printed}");

    let _daemon = root.start();
    let client = root.client().await;
    assert_eq!(client.guest_dump(&dom, SECURE).await, whole);
}

#[tokio::test]
async fn no_error_tells_a_password() {
    let root = Root::new();
    let daemon = root.start();
    let client = root.client().await;
    let dom = client.define_guest(&guest_xml("g1", DEVICES)).await;
    let refused = client
        .refused(DomainCreateWithFlags {
            dom: dom.clone(),
            flags: 0.into(),
        })
        .await;
    assert!(!refused.to_string().contains("opensesame"), "{refused}");
    for broken in [
        "<graphics type='vnc' passwd='opensesame' passwd='opensesame'/>",
        "<graphics passwd='opensesame'",
        "<controller type='x' passwd='opensesame'/>",
        "<memballoon passwd='opensesame'/>",
        "<graphics type='vnc' passwd='opensesame&'/>",
    ] {
        let refused = client
            .refused(DomainDefineXmlFlags {
                xml: guest_xml("g2", broken),
                flags: 1.into(),
            })
            .await;
        assert!(!refused.to_string().contains("opensesame"), "{refused}");
    }
    let printed = daemon.stop();
    assert!(!printed.contains("opensesame"), "{printed}");
}
