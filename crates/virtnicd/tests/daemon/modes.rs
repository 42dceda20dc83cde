//! Guests on networks of every mode that lends devices, and what becomes of these when networks,
//! guests and the daemon itself come and go.

use std::fs;

use rpc::*;
use rustix::process::Signal;
use uuid::Uuid;

use crate::harness::*;
use crate::in_process::Site;

const RECLAIMED: &str = "its device is not claimed again";

fn network(name: &str, mode: &str, members: &str) -> String {
    format!(
        "<network xmlns:virtnic='urn:virtnic:1'><name>{name}</name>\
         <forward mode='{mode}'>{members}</forward></network>"
    )
}

/// A guest with one interface on a network, with the last byte of its MAC.
fn guest(name: &str, mac: u8, network: &str, more: &str) -> String {
    let interface = format!(
        "<interface type='network'><mac address='52:54:00:00:01:{mac:02x}'/>\
         <source network='{network}'/><model type='virtio'/>{more}</interface>"
    );
    guest_xml(name, &interface).replace("<domain ", "<domain xmlns:virtnic='urn:virtnic:1' ")
}

async fn running(client: &Client, xml: &str) -> Net {
    let net = client.define_network(xml).await;
    client.ok(NetworkCreate { net: net.clone() }).await;
    net
}

async fn run(client: &Client, xml: &str) -> Dom {
    let create = DomainCreateXml {
        xml_desc: xml.to_owned(),
        flags: Default::default(),
    };
    client.ok(create).await
}

async fn destroy(client: &Client, dom: &Dom) {
    client.ok(DomainDestroy { dom: dom.clone() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tap_lasts_as_long_as_its_guest() {
    let site = Site::new();
    let _daemon = site.start().await;
    site.simulation.host.add_bridge("br0").unwrap();
    let client = site.root.client().await;
    let there = || {
        site.simulation
            .host
            .snapshot()
            .netdevs
            .contains_key("vnet0")
    };
    for interface in [
        "<interface type='ethernet'/>",
        "<interface type='bridge'><source bridge='br0'/></interface>",
    ] {
        let dom = run(&client, &guest_xml("g1", interface)).await;
        client.ok(DomainSuspend { dom: dom.clone() }).await;
        client.ok(DomainResume { dom: dom.clone() }).await;
        assert!(there());
        destroy(&client, &dom).await;
        assert!(!there());
    }
}

#[tokio::test]
async fn parents_are_shared_evenly_in_each_mode() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    for mode in ["bridge", "private", "vepa"] {
        let members = "<interface dev='sim0v0'/><interface dev='sim0v2'/>";
        let net = running(&client, &network(mode, mode, members)).await;
        let mut guests = Vec::new();
        for number in 1..=3 {
            let xml = guest(&format!("{mode}{number}"), number, mode, "");
            guests.push(run(&client, &xml).await);
        }
        let live = client.network_dump(&net, 0).await;
        for part in [
            "<network connections='3'>".to_owned(),
            "<interface dev='sim0v0' connections='2'/>".to_owned(),
            "<interface dev='sim0v2' connections='1'/>".to_owned(),
        ] {
            assert!(live.contains(&part), "{live}");
        }
        let shown = client.guest_dump(&guests[0], 0).await;
        assert!(shown.contains("<target dev='macvtap"), "{shown}");
        assert!(shown.contains(&format!("mode='{mode}'")), "{shown}");
        let lent = client.who().await;
        assert!(lent.iter().all(|lent| lent.kind == LentKind::Macvtap));
        let messages = DomainGetMessages {
            dom: guests[0].clone(),
            flags: Default::default(),
        };
        let said = client.ok(messages).await.concat();
        assert!(said.contains("host-access='yes'"), "{said}");
        for dom in &guests {
            destroy(&client, dom).await;
        }
        assert_eq!(client.who().await.len(), 0, "{mode}");
        assert!(!client.network_dump(&net, 0).await.contains("connections"));
    }
}

#[tokio::test]
async fn passthrough_lends_each_vf_of_a_pf_once() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let net = running(
        &client,
        &network("whole", "passthrough", "<pf dev='sim0'/>"),
    )
    .await;
    for number in 1..=4 {
        run(&client, &guest(&format!("g{number}"), number, "whole", "")).await;
    }
    let live = client.network_dump(&net, 0).await;
    assert!(
        live.contains("<interface dev='sim0v3' connections='1'/>"),
        "{live}"
    );
    let more = DomainCreateXml {
        xml_desc: guest("g5", 5, "whole", ""),
        flags: Default::default(),
    };
    let parts = &["'whole'", "4 VFs of sim0: 4 lent", "g1"];
    client
        .refuses(&root, more, Code::InternalError, parts)
        .await;
}

#[tokio::test]
async fn a_guest_chooses_among_the_modes_that_its_network_offers() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let xml = network("n1", "bridge", "<interface dev='sim0v0'/>").replace(
        "</network>",
        "<virtnic:direct modes='bridge private'/></network>",
    );
    running(&client, &xml).await;
    let chosen = guest("g1", 1, "n1", "<virtnic:direct mode='private'/>");
    let dom = run(&client, &chosen).await;
    let shown = client.guest_dump(&dom, 0).await;
    assert!(shown.contains("mode='private'"), "{shown}");
    let outside = DomainCreateXml {
        xml_desc: guest("g2", 2, "n1", "<virtnic:direct mode='vepa'/>"),
        flags: Default::default(),
    };
    let parts = &["'n1'", "'vepa' is not offered, only bridge, private"];
    client
        .refuses(&root, outside, Code::ConfigUnsupported, parts)
        .await;
}

#[tokio::test]
async fn an_interface_may_name_its_device_itself() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let before = client.picture(&root).await;
    let direct = "<interface type='direct'><mac address='52:54:00:00:01:01'/>\
                  <source dev='sim0v1' mode='passthrough'/><model type='virtio'/></interface>";
    let dom = run(&client, &guest_xml("g1", direct)).await;
    let [lent] = client.who().await.try_into().unwrap();
    assert_eq!(lent.kind, LentKind::Macvtap);
    assert_eq!(lent.mode.as_deref(), Some("passthrough"));
    assert_eq!(lent.driver.as_deref(), Some("simvf"));
    // The same device by another name.
    let hostdev = "<interface type='hostdev' managed='yes'><mac address='52:54:00:00:01:02'/>\
                   <source dev='sim0v1'/></interface>";
    let again = DomainCreateXml {
        xml_desc: guest_xml("g2", hostdev),
        flags: Default::default(),
    };
    client
        .refuses(&root, again, Code::OperationInvalid, &["g1"])
        .await;
    destroy(&client, &dom).await;
    assert_eq!(client.picture(&root).await, before);
}

#[tokio::test]
async fn weakness_05_guests_of_a_stopped_network_keep_their_devices() {
    let root = Root::new();
    let _daemon = root.start_on("pfs=1,vfs=2");
    let client = root.client().await;
    let net = client.running_network("n1", "sim0").await;
    let first = run(&client, &guest("g1", 1, "n1", "")).await;
    let ports = client.ports(&net).await;
    let live = client.network_dump(&net, 0).await;
    client.ok(NetworkDestroy { net: net.clone() }).await;
    client.ok(NetworkCreate { net: net.clone() }).await;
    assert_eq!(client.network_dump(&net, 0).await, live);
    assert_eq!(client.ports(&net).await, ports);
    let second = run(&client, &guest("g2", 2, "n1", "")).await;
    let more = DomainCreateXml {
        xml_desc: guest("g3", 3, "n1", ""),
        flags: Default::default(),
    };
    client
        .refuses(&root, more, Code::InternalError, &["g1", "g2"])
        .await;
    // A guest that ends meanwhile is not there any more when its network is back.
    client.ok(NetworkDestroy { net: net.clone() }).await;
    destroy(&client, &first).await;
    client.ok(NetworkCreate { net: net.clone() }).await;
    assert_eq!(client.ports(&net).await.len(), 1);
    destroy(&client, &second).await;
    assert_eq!(client.ports(&net).await.len(), 0);
    assert_eq!(root.records("ports"), 0);
}

#[tokio::test]
async fn weakness_07_reading_definitions_again_leaves_what_runs_alone() {
    let root = Root::new();
    let mut daemon = root.start();
    let client = root.client().await;
    let net = client.running_network("n1", "sim0").await;
    client
        .create_port(&net, &port_xml(Uuid::from_u128(1), "g1", 1))
        .await;
    run(&client, &guest("g2", 2, "n1", "")).await;
    let live = client.network_dump(&net, 0).await;
    let (ports, lent) = (client.ports(&net).await, client.who().await);
    let added = root.path("etc/virtnic/networks/added.xml");
    fs::write(added, network_xml("added", "sim1")).unwrap();
    daemon.signal(Signal::HUP);
    daemon.wait_for_line("definitions");
    assert_eq!(client.network_names(0).await.len(), 2);
    assert_eq!(client.network_dump(&net, 0).await, live);
    assert_eq!(client.ports(&net).await, ports);
    assert_eq!(client.who().await, lent);
}

#[tokio::test]
async fn weakness_08_a_restart_changes_nothing_in_live_documents() {
    let root = Root::new();
    let daemon = root.start();
    let client = root.client().await;
    let mut nets = Vec::new();
    for (name, mode, members) in [
        ("vfs", "hostdev", "<pf dev='sim0'/><pf dev='sim1'/>"),
        ("names", "passthrough", "<interface dev='sim1v1'/>"),
        ("shared", "bridge", "<pf dev='sim1'/>"),
    ] {
        let net = running(&client, &network(name, mode, members)).await;
        let number = u8::try_from(nets.len()).unwrap() + 1;
        let port = port_xml(Uuid::from_u128(number.into()), "g", number);
        client.create_port(&net, &port).await;
        nets.push((client.network_dump(&net, 0).await, net));
    }
    assert!(nets[0].0.contains("<pf dev='sim1'/>"), "{}", nets[0].0);
    daemon.crash();
    let _daemon = root.start();
    let client = root.client().await;
    for (live, net) in &nets {
        assert_eq!(&client.network_dump(net, 0).await, live);
    }
}

#[tokio::test]
async fn weakness_09_every_port_can_be_removed() {
    let root = Root::new();
    let daemon = root.start();
    let client = root.client().await;
    let members = "<interface dev='sim1v0'/>";
    let net = running(&client, &network("n1", "bridge", members)).await;
    let port = client
        .create_port(&net, &port_xml(Uuid::from_u128(1), "client", 1))
        .await;
    let dom = run(&client, &guest("g2", 2, "n1", "")).await;
    assert_eq!(client.ports(&net).await.len(), 2);
    destroy(&client, &dom).await;
    assert_eq!(client.ports(&net).await, std::slice::from_ref(&port));
    daemon.crash();
    // The next host has no second PF, so the port's device can't be found.
    let mut daemon = Daemon::spawn(root.command("pfs=1,vfs=4"));
    daemon.wait_for_line(RECLAIMED);
    daemon.wait_for_line("ready");
    let client = root.client().await;
    assert_eq!(client.ports(&net).await, std::slice::from_ref(&port));
    client
        .ok(NetworkPortDelete {
            port,
            flags: Default::default(),
        })
        .await;
    assert_eq!(client.ports(&net).await, []);
    assert_eq!(root.records("ports"), 0);
}

#[tokio::test]
async fn weakness_10_a_port_that_can_not_be_made_leaves_nothing() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let net = running(&client, &network("n1", "bridge", "<pf dev='sim0'/>")).await;
    let records = root.path("run/virtnic/ports");
    fs::rename(&records, root.path("ports")).unwrap();
    fs::write(&records, "").unwrap();
    let xml = port_xml(Uuid::from_u128(1), "g1", 1).replace(
        "</networkport>",
        "<bandwidth><inbound average='1000'/></bandwidth></networkport>",
    );
    let create = NetworkPortCreateXml {
        network: net.clone(),
        xml,
        flags: Default::default(),
    };
    client
        .refuses(&root, create.clone(), Code::SystemError, &["record port"])
        .await;
    fs::remove_file(&records).unwrap();
    fs::rename(root.path("ports"), &records).unwrap();
    client.ok(create).await;
}

/// The host's own network devices, by name.
async fn host_interfaces(client: &Client) -> Vec<String> {
    let list = ConnectListAllInterfaces {
        need_results: true,
        flags: Default::default(),
    };
    let found = client.ok(list).await;
    found
        .items()
        .iter()
        .map(|iface| iface.name.clone())
        .collect()
}

#[tokio::test]
async fn the_host_takes_part_in_a_network_that_lets_it() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let before = host_interfaces(&client).await;
    let shared = network("n1", "bridge", "<interface dev='sim0v0'/>");
    let open = shared.replace(
        "</network>",
        "<virtnic:direct host-access='yes'/></network>",
    );
    let net = running(&client, &open).await;
    let mut after = host_interfaces(&client).await;
    after.retain(|name| !before.contains(name));
    assert_eq!(after, ["h-sim0v0"]);
    let dom = run(&client, &guest("g1", 1, "n1", "")).await;
    let messages = DomainGetMessages {
        dom: dom.clone(),
        flags: Default::default(),
    };
    assert_eq!(client.ok(messages).await, Vec::<String>::new());
    destroy(&client, &dom).await;
    client.ok(NetworkDestroy { net }).await;
    assert_eq!(host_interfaces(&client).await, before);
    // A macvtap in another mode would not reach it.
    let odd = open.replace("mode='bridge'", "mode='vepa'");
    let odd = odd.replace("n1", "n2");
    let create = NetworkCreateXml { xml: odd };
    client
        .refuses(
            &root,
            create,
            Code::ConfigUnsupported,
            &["'n2'", "'bridge'"],
        )
        .await;
}

#[tokio::test]
async fn weakness_11_a_port_group_that_is_not_there_is_told_when_a_guest_is_defined() {
    let root = Root::new();
    let mut daemon = root.start();
    let client = root.client().await;
    let xml = network("n1", "bridge", "<interface dev='sim0v0'/>")
        .replace("</network>", "<portgroup name='web'/></network>");
    running(&client, &xml).await;
    let interface = "<interface type='network'><mac address='52:54:00:00:01:01'/>\
                     <source network='n1' portgroup='wbe'/></interface>";
    let dom = client.define_guest(&guest_xml("g1", interface)).await;
    let line = daemon.wait_for_line("wbe");
    assert!(line.contains("g1") && line.contains("web"), "{line}");
    let start = DomainCreate { dom };
    let refused = client.refused(start).await;
    assert!(refused.detail().contains("web"), "{refused}");
}

#[tokio::test]
async fn a_lone_pf_stands_for_its_vfs_and_the_plan_says_so() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let alone = network("n1", "passthrough", "<interface dev='sim0'/>");
    let itself = alone
        .replace("n1", "n2")
        .replace("<network>", "<network xmlns:virtnic='urn:virtnic:1'>");
    let itself = itself.replace("</network>", "<virtnic:pool lend='pf'/></network>");
    for (xml, name, device, note) in [
        (
            &alone,
            "n1",
            "macvtap on sim0v0 in passthrough mode",
            "<virtnic:pool lend='pf'/> would lend the PF",
        ),
        (
            &itself,
            "n2",
            "macvtap on sim0 in passthrough mode",
            "would lend its VFs",
        ),
    ] {
        let net = running(&client, xml).await;
        let of = PlanOf::Document(guest("g1", 1, name, ""));
        let plan = client.ok(VirtnicPlan { of }).await;
        assert!(plan.would_start, "{plan:?}");
        let [planned] = plan.devices.try_into().unwrap();
        let PlannedChoice::Device(chosen) = &planned.choice else {
            panic!("{planned:?}");
        };
        assert_eq!(chosen.device, device);
        let notes = planned.notes.concat();
        assert!(notes.contains(note), "{notes}");
        assert_eq!(client.who().await, [], "a plan takes nothing");
        client.ok(NetworkDestroy { net }).await;
    }
}
