//! The host's own interfaces.

use rpc::*;

use crate::harness::*;

const INACTIVE: u32 = 1;
const ACTIVE: u32 = 2;

async fn listed(client: &Client, flags: u32) -> Vec<Iface> {
    let list = ConnectListAllInterfaces {
        need_results: true,
        flags: flags.into(),
    };
    client.ok(list).await.into_items()
}

#[tokio::test]
async fn what_is_listed_is_found_by_name_and_by_mac_and_has_a_document() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let all = listed(&client, 0).await;
    let names: Vec<_> = all.iter().map(|one| one.name.as_str()).collect();
    assert!(names.is_sorted(), "{names:?}");
    for name in ["sim0", "sim1", "sim0v0", "sim1v3"] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    assert_eq!(listed(&client, ACTIVE | INACTIVE).await, all);
    let active = listed(&client, ACTIVE).await;
    let inactive = listed(&client, INACTIVE).await;
    assert_eq!(active.len() + inactive.len(), all.len());
    let count = client.ok(ConnectNumOfInterfaces {}).await;
    assert_eq!(usize::try_from(count).unwrap(), active.len());
    let few = client.ok(ConnectListInterfaces { maxnames: 1 }).await;
    assert_eq!(few, [active[0].name.clone()]);
    let count = client.ok(ConnectNumOfDefinedInterfaces {}).await;
    assert_eq!(usize::try_from(count).unwrap(), inactive.len());

    let sim0 = all.iter().find(|one| one.name == "sim0").unwrap().clone();
    let by_name = InterfaceLookupByName {
        name: "sim0".into(),
    };
    assert_eq!(client.ok(by_name).await, sim0);
    let mac = sim0.mac.clone();
    assert_eq!(client.ok(InterfaceLookupByMacString { mac }).await, sim0);
    let iface = sim0.clone();
    assert!(
        client
            .ok(InterfaceIsActive {
                iface: iface.clone()
            })
            .await
    );
    let xml = client
        .ok(InterfaceGetXmlDesc {
            iface,
            flags: Default::default(),
        })
        .await;
    assert!(
        xml.starts_with("<interface type='ethernet' name='sim0'>"),
        "{xml}"
    );
    assert!(
        xml.contains(&format!("<mac address='{}'/>", sim0.mac)),
        "{xml}"
    );
    assert!(xml.contains("state='up'"), "{xml}");
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let missing = Code::NoInterface;
    let name = "nosuch0".to_owned();
    let by_name = InterfaceLookupByName { name: name.clone() };
    client
        .refuses(&root, by_name, missing, &["'nosuch0'"])
        .await;
    let iface = Iface {
        name,
        mac: String::new(),
    };
    let dump = InterfaceGetXmlDesc {
        iface,
        flags: Default::default(),
    };
    client.refuses(&root, dump, missing, &["'nosuch0'"]).await;
    for mac in ["52:54:00:ff:ff:ff", "no mac"] {
        let by_mac = InterfaceLookupByMacString { mac: mac.into() };
        client.refuses(&root, by_mac, missing, &[mac]).await;
    }
}

#[tokio::test]
async fn what_was_made_for_guests_is_not_the_hosts() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let before = listed(&client, 0).await;
    let xml = "<network><name>n1</name><forward mode='bridge'><interface dev='sim0'/></forward>\
               </network>";
    let net = client.define_network(xml).await;
    client.ok(NetworkCreate { net }).await;
    let dom = client.running_guest("g1", "n1").await;
    let live = client.guest_dump(&dom, 0).await;
    let target = live.split("<target dev='").nth(1).unwrap();
    let name = target.split('\'').next().unwrap().to_owned();
    assert_eq!(listed(&client, 0).await, before);
    let parts = &[&*name.clone()];
    let by_name = InterfaceLookupByName { name };
    client
        .refuses(&root, by_name, Code::NoInterface, parts)
        .await;
}
