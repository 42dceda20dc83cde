//! Node devices, as clients list and read them.

use rpc::*;

use crate::harness::*;

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
