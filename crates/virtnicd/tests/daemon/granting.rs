//! What is lent to a guest is opened by its own QEMU, and by no other, though all run as one user.

use conf::PciAddress;
use host::{NodeAccess, Operation};
use rpc::*;

use crate::guest_links::LIVE;
use crate::harness::*;
use crate::hotplug::{attach, detach, on, started};
use crate::in_process::{Site, reached, until};

fn access(site: &Site, vf: PciAddress) -> Option<NodeAccess> {
    site.simulation.host.vfio_access_of(vf)
}

/// The VF that a client is told to be lent.
async fn lent_vf(client: &Client) -> PciAddress {
    let who = client.who().await;
    let vf = who.iter().find_map(|line| line.pci_address.clone());
    vf.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vf_that_is_another_guests_by_now_is_not_opened_by_who_had_it() {
    let site = Site::on("pfs=1,vfs=1");
    let _daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    let before = site.simulation.host.snapshot();
    let first = started(&client, "a").await;
    client.ok(attach(&first, &on("n1"), LIVE)).await;
    let vf = lent_vf(&client).await;
    let a = site.simulation.guests.guest(first.uuid).unwrap();
    assert_eq!(a.open_devices(), [vf]);
    client.ok(detach(&first, &on("n1"), LIVE)).await;
    until("it is back", async || client.who().await.is_empty()).await;
    assert!(a.could_open(vf).is_err(), "it is the host's");

    // The VF is ready for the other guest, whose QEMU is not there yet.
    let elements =
        on_network("n1") + "<interface type='ethernet'><model type='virtio'/></interface>";
    let second = client.define_guest(&guest_xml("b", &elements)).await;
    let held = site.simulation.host.hold(Operation::MakeTap);
    let starting = tokio::spawn({
        let (starter, dom) = (site.root.client().await, second.clone());
        async move { starter.start(&dom).await }
    });
    let held = reached(held).await;
    assert_eq!(lent_vf(&client).await, vf);
    let granted = access(&site, vf).unwrap();
    assert_eq!((granted.uid, granted.mode), (0, 0o660));
    assert_eq!(a.could_open(vf), Err("Permission denied".to_owned()));
    drop(held);
    starting.await.unwrap();
    let b = site.simulation.guests.guest(second.uuid).unwrap();
    assert_eq!(b.open_devices(), [vf]);
    assert_eq!(b.own_group().map(u32::from), Some(granted.gid));
    assert_ne!(a.own_group(), b.own_group());

    for dom in [first, second] {
        client.ok(DomainDestroy { dom }).await;
    }
    until("all is back", async || client.who().await.is_empty()).await;
    assert_eq!(access(&site, vf), None);
    let after = site.simulation.host.snapshot();
    assert_eq!(before.differences(&after), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_found_guest_opens_what_is_plugged_in_by_the_group_that_it_was_started_with() {
    let site = Site::new();
    let daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    let dom = started(&client, "g1").await;
    let guest = site.simulation.guests.guest(dom.uuid).unwrap();
    drop(client);
    daemon.stop().await;

    let _daemon = site.start().await;
    let client = site.root.client().await;
    client.ok(attach(&dom, &on("n1"), LIVE)).await;
    let vf = lent_vf(&client).await;
    assert_eq!(guest.open_devices(), [vf]);
    let gid = guest.own_group().map(u32::from);
    assert_eq!(access(&site, vf).map(|access| access.gid), gid);
    let told = client.ok(VirtnicReconcile { apply: false }).await;
    assert!(told.is_empty(), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_an_earlier_release_started_opens_it_as_its_user() {
    let site = Site::new();
    let daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    let dom = started(&client, "g1").await;
    drop(client);
    daemon.stop().await;
    let (path, mut record) = site.root.record("domains");
    let removed = record["guest"]
        .as_object_mut()
        .and_then(|guest| guest.remove("own_group"));
    assert!(removed.is_some());
    std::fs::write(&path, record.to_string()).unwrap();

    let _daemon = site.start().await;
    let client = site.root.client().await;
    client.ok(attach(&dom, &on("n1"), LIVE)).await;
    let vf = lent_vf(&client).await;
    let access = access(&site, vf).unwrap();
    assert_ne!(access.uid, 0);
    assert_eq!(access.mode, 0o600);
    // One that is started now has a group of its own.
    let other = started(&client, "g2").await;
    let other = site.simulation.guests.guest(other.uuid).unwrap();
    assert!(other.own_group().is_some());
}
