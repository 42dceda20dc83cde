//! Node devices, as clients list and read them.

use rpc::*;

use crate::harness::*;
use crate::in_process::Site;

async fn listed(client: &Client, flags: u32) -> Vec<String> {
    let list = ConnectListAllNodeDevices {
        need_results: true,
        flags: flags.into(),
    };
    let devices = client.ok(list).await.into_items().into_iter();
    devices.map(|device| device.name).collect()
}

async fn listed_the_old_way(client: &Client, cap: Option<&str>, maxnames: i32) -> Vec<String> {
    let list = NodeListDevices {
        cap: cap.map(str::to_owned),
        maxnames,
        flags: Default::default(),
    };
    client.ok(list).await
}

#[tokio::test]
async fn the_older_calls_list_what_the_newer_one_does() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.read_only_client().await;
    for (cap, flag) in [
        (None, 0),
        (Some("system"), 1),
        (Some("pci"), 2),
        (Some("net"), 0x10),
        (Some("storage"), 0x100),
    ] {
        let wanted = listed(&client, flag).await;
        assert_eq!(
            listed_the_old_way(&client, cap, 65_536).await,
            wanted,
            "{cap:?}"
        );
        let count = NodeNumOfDevices {
            cap: cap.map(str::to_owned),
            flags: Default::default(),
        };
        let count = client.ok(count).await;
        assert_eq!(usize::try_from(count).unwrap(), wanted.len(), "{cap:?}");
    }
    let nothing: [String; 0] = [];
    assert_eq!(
        listed_the_old_way(&client, Some("teapot"), 9).await,
        nothing
    );
    let pci = listed(&client, 2).await;
    assert!(pci.len() > 3, "{pci:?}");
    assert_eq!(listed_the_old_way(&client, Some("pci"), 3).await, pci[..3]);
    assert_eq!(listed_the_old_way(&client, Some("pci"), -1).await, nothing);
}

#[tokio::test]
async fn a_device_tells_what_it_is_by_a_word() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.read_only_client().await;
    let net = listed(&client, 0x10).await.remove(0);
    for (name, word) in [
        ("computer", "system"),
        ("pci_0000_01_00_0", "pci"),
        (net.as_str(), "net"),
    ] {
        let count = NodeDeviceNumOfCaps { name: name.into() };
        assert_eq!(client.ok(count).await, 1, "{name}");
        let list = |maxnames| NodeDeviceListCaps {
            name: name.into(),
            maxnames,
        };
        assert_eq!(client.ok(list(1)).await, [word]);
        let nothing: [String; 0] = [];
        assert_eq!(client.ok(list(0)).await, nothing);
    }
    let name = "pci_0000_77_00_0".to_owned();
    let missing = client.refused(NodeDeviceNumOfCaps { name }).await;
    assert_eq!(missing.code(), Code::NoNodeDevice);
}

/// Two VFs and their names among node devices.
async fn vfs(client: &Client) -> Vec<String> {
    let all = listed(client, 2).await.into_iter();
    all.filter(|name| name.starts_with("pci_0000_02_00_"))
        .collect()
}

async fn document(client: &Client, name: &str) -> String {
    let ask = NodeDeviceGetXmlDesc {
        name: name.into(),
        flags: Default::default(),
    };
    client.ok(ask).await
}

pub(crate) fn detach(name: &str) -> NodeDeviceDettach {
    NodeDeviceDettach { name: name.into() }
}

pub(crate) fn reattach(name: &str) -> NodeDeviceReAttach {
    NodeDeviceReAttach { name: name.into() }
}

fn reset(name: &str) -> NodeDeviceReset {
    NodeDeviceReset { name: name.into() }
}

#[tokio::test]
async fn a_detached_vf_is_on_vfio_until_it_is_given_back() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let vf = vfs(&client).await.remove(0);
    assert!(document(&client, &vf).await.contains("<name>simvf</name>"));
    client.ok(detach(&vf)).await;
    client.ok(reset(&vf)).await;
    assert!(
        document(&client, &vf)
            .await
            .contains("<name>vfio-pci</name>")
    );
    let who = client.who().await;
    let [row] = &who[..] else { panic!("{who:?}") };
    assert_eq!((&*row.state, &row.guest), ("detached", &None));
    assert_eq!(row.pci_address.as_deref(), Some("0000:02:00.0"));
    assert_eq!(client.ok(VirtnicStatus {}).await.lent, 0);
    let told = client.ok(VirtnicReconcile { apply: true }).await;
    let [told] = &told[..] else {
        panic!("{told:?}")
    };
    assert!(told.what.contains("was detached from the host"), "{told:?}");
    assert!(
        told.remedy
            .contains(&format!("virsh nodedev-reattach {vf}")),
        "{told:?}"
    );
    assert_eq!(root.records("devices"), 1);
    client.ok(reattach(&vf)).await;
    assert!(document(&client, &vf).await.contains("<name>simvf</name>"));
    assert!(client.who().await.is_empty());
    assert_eq!(root.records("devices"), 0);
}

#[tokio::test]
async fn a_detached_vf_is_a_guests_by_its_name_and_nobodys_else() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let vf = vfs(&client).await.remove(0);
    client.ok(detach(&vf)).await;
    let hostdev = "<hostdev mode='subsystem' type='pci' managed='no'><source>\
         <address domain='0' bus='2' slot='0' function='0'/></source></hostdev>";
    let dom = client.define_guest(&guest_xml("g1", hostdev)).await;
    client.start(&dom).await;
    let [row] = &client.who().await[..] else {
        panic!("one row")
    };
    assert_eq!((&*row.state, row.guest.as_deref()), ("lent", Some("g1")));
    for refused in [
        client.refused(detach(&vf)).await,
        client.refused(reattach(&vf)).await,
        client.refused(reset(&vf)).await,
    ] {
        assert_eq!(refused.code(), Code::OperationInvalid);
        assert_eq!(refused.domain(), Domain::NodeDevice);
        assert!(
            refused.message().contains("lent to guest 'g1'"),
            "{refused}"
        );
    }
    client.ok(DomainDestroy { dom }).await;
    let [row] = &client.who().await[..] else {
        panic!("one row")
    };
    assert_eq!((&*row.state, &row.guest), ("detached", &None));
    client.ok(reattach(&vf)).await;
}

#[tokio::test]
async fn what_cannot_be_detached_is_refused_with_the_reason() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let refused = client.refused(detach("computer")).await;
    assert_eq!(refused.code(), Code::InvalidArg);
    assert!(
        refused
            .message()
            .ends_with("device computer is not a PCI device"),
        "{refused}"
    );
    let refused = client.refused(detach("pci_0000_77_00_0")).await;
    assert_eq!(refused.code(), Code::NoNodeDevice);
    let refused = client.refused(detach("pci_0000_01_00_0")).await;
    assert_eq!(refused.code(), Code::OperationInvalid);
    assert!(refused.message().contains("it has 4 VFs"), "{refused}");
    let vf = vfs(&client).await.remove(0);
    let with = |driver: &str| NodeDeviceDetachFlags {
        name: vf.clone(),
        driver_name: Some(driver.into()),
        flags: Default::default(),
    };
    assert_eq!(
        client.refused(with("kvm")).await.code(),
        Code::ArgumentUnsupported
    );
    assert!(
        client
            .refused(with("nosuch"))
            .await
            .message()
            .contains("nosuch")
    );
    client.ok(with("vfio")).await;
    client.ok(reattach(&vf)).await;
    let reader = root.read_only_client().await;
    assert_eq!(
        reader.refused(detach(&vf)).await.code(),
        Code::OperationDenied
    );
}

#[tokio::test]
async fn clients_hear_of_devices_that_change_come_and_go() {
    let root = Root::new();
    let _daemon = root.start();
    let mut client = root.client().await;
    for event_id in [0, 1] {
        let listen = ConnectNodeDeviceEventRegisterAny {
            event_id,
            dev: None,
        };
        client.ok(listen).await;
    }
    let vf = vfs(&client).await.remove(0);
    client.ok(detach(&vf)).await;
    let (mut gone, mut updated) = (false, false);
    while !(gone && updated) {
        let event = client.event().await;
        gone |= event.contains("net_sim0v0_") && event.contains("Deleted");
        updated |= event.contains(&vf) && event.contains("Update");
    }
    client.ok(reattach(&vf)).await;
    loop {
        let event = client.event().await;
        if event.contains("net_sim0v0_") && event.contains("Created") {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_detached_stays_so_over_a_restart_and_not_over_a_boot() {
    let site = Site::new();
    let daemon = site.start().await;
    let client = site.root.client().await;
    let vf = vfs(&client).await.remove(0);
    client.ok(detach(&vf)).await;
    drop(client);
    daemon.stop().await;

    let daemon = site.start().await;
    let client = site.root.client().await;
    let [row] = &client.who().await[..] else {
        panic!("one row")
    };
    assert_eq!(row.state, "detached");
    assert!(
        document(&client, &vf)
            .await
            .contains("<name>vfio-pci</name>")
    );
    drop(client);
    daemon.stop().await;

    site.simulation.host.reboot();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    assert!(client.who().await.is_empty());
    assert!(document(&client, &vf).await.contains("<name>simvf</name>"));
    assert_eq!(site.root.records("devices"), 0);
}
