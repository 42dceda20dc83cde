//! Guests with a VF from start to end: paused, rebooted, with memory that stays where
//! it is; and what the host does with a VF otherwise.

use host::{MemoryLock, PortAnswer};
use rpc::*;

use super::*;
use crate::guest_links::LIVE;
use crate::hotplug::{attach, bare, on, started};
use crate::in_process::until;
use crate::node_devices;

async fn node_document(client: &Client, name: &str) -> String {
    let ask = NodeDeviceGetXmlDesc {
        name: name.into(),
        flags: Default::default(),
    };
    client.ok(ask).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_keeps_its_vf_while_it_is_paused_or_rebooted() {
    let site = Site::new();
    let _daemon = site.start().await;
    let mut client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    client
        .ok(ConnectDomainEventCallbackRegisterAny {
            event_id: 1,
            dom: None,
        })
        .await;
    let before = site.simulation.host.snapshot();
    for xml in [
        vf_interface(VF, MANAGED, ""),
        vf_interface(VF, MANAGED, "<vlan><tag id='42'/></vlan>"),
        host_device(VF, MANAGED, ""),
        on("n1"),
    ] {
        let dom = client
            .define_guest(&bare("g1").replace("</devices>", &format!("{xml}</devices>")))
            .await;
        let dom = client.start(&dom).await;
        let lent = site.simulation.host.snapshot();
        let guest = site.simulation.guests.guest(dom.uuid).unwrap();
        client.ok(DomainSuspend { dom: dom.clone() }).await;
        client.ok(DomainResume { dom: dom.clone() }).await;
        guest.reboot();
        while !client.event().await.ends_with("rebooted") {}
        assert_eq!(site.simulation.host.snapshot(), lent, "{xml}");
        assert!(guest.devices().contains(&"hostdev0".to_owned()), "{xml}");
        assert_eq!(client.who().await.len(), 1);
        client.ok(DomainDestroy { dom: dom.clone() }).await;
        assert_eq!(site.simulation.host.snapshot(), before, "{xml}");
        client.ok(DomainUndefine { dom }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_nobody_drives_is_detached_and_driven_by_nobody_again() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    site.simulation.host.bind_by_hand(VF.parse().unwrap(), None);
    let shown = node_document(&client, VF_NODE).await;
    assert!(!shown.contains("<driver>"), "{shown}");
    client.ok(node_devices::detach(VF_NODE)).await;
    assert_eq!(driver(&site, VF).as_deref(), Some("vfio-pci"));
    client.ok(node_devices::reattach(VF_NODE)).await;
    assert_eq!(driver(&site, VF), None);
    let shown = node_document(&client, VF_NODE).await;
    assert!(!shown.contains("<driver>"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_locked_for_a_guest_that_gets_its_first_vf() {
    const GIB: u64 = 1 << 30;
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    for (limit, expected) in [
        ("", GIB + (64 << 20)),
        (
            "<memtune><hard_limit unit='KiB'>10485760</hard_limit></memtune>",
            10 * GIB,
        ),
    ] {
        let xml = bare("g1").replace("<vcpu>", &format!("{limit}<vcpu>"));
        let dom = client.define_guest(&xml).await;
        let dom = client.start(&dom).await;
        let guest = site.simulation.guests.guest(dom.uuid).unwrap();
        let at_first = (!limit.is_empty()).then_some(MemoryLock::AtLeast(expected));
        assert_eq!(guest.memory_lock(), at_first, "{limit}");
        client
            .ok(attach(&dom, &vf_interface(VF, MANAGED, ""), LIVE))
            .await;
        assert_eq!(
            guest.memory_lock(),
            Some(MemoryLock::AtLeast(expected)),
            "{limit}"
        );
        client.ok(DomainDestroy { dom: dom.clone() }).await;
        client.ok(DomainUndefine { dom }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_profile_that_the_card_does_not_take_is_an_end_of_it() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    site.simulation
        .host
        .set_port_answer(PortAnswer::Unsupported);
    let profile = "<virtualport type='802.1Qbh'><parameters profileid='finance'/></virtualport>";
    let dom = started(&client, "g1").await;
    let before = site.simulation.host.snapshot();
    let error = client
        .refused(attach(&dom, &vf_interface(VF, MANAGED, profile), LIVE))
        .await;
    assert!(error.message().contains("port profile"), "{error}");
    assert_eq!(site.simulation.host.snapshot(), before);
    until("nothing is lent", async || client.who().await.is_empty()).await;
}
