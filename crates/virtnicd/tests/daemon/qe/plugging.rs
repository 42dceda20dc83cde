//! Devices that are plugged in beside others, counted, placed, and found again after a restart.

use rpc::*;

use super::*;
use crate::guest_links::{CONFIG, LIVE};
use crate::hotplug::{attach, bare, by_alias, count, detach, on, started};
use crate::in_process::until;
use crate::updates::running;

#[tokio::test(flavor = "multi_thread")]
async fn a_network_counts_what_is_plugged_in() {
    let site = Site::new();
    let daemon = site.start().await;
    let client = site.root.client().await;
    let net = client.running_network("n1", "sim0").await;
    let dom = client.define_guest(&roomy("g1")).await;
    let dom = client.start(&dom).await;
    let numbered = |number: u32| on("n1").replace(MAC, &format!("52:54:00:00:02:0{number}"));
    for number in 1..=4 {
        client.ok(attach(&dom, &numbered(number), LIVE)).await;
        assert_eq!(connections(&client, &net).await, number);
    }
    // The fifth of four.
    let error = client.refused(attach(&dom, &numbered(5), LIVE)).await;
    assert_eq!(error.code(), Code::InternalError, "{error}");
    assert!(
        error.message().contains("'n1' has no free device"),
        "{error}"
    );
    assert_eq!(connections(&client, &net).await, 4);
    client.ok(detach(&dom, &numbered(1), LIVE)).await;
    assert_eq!(connections(&client, &net).await, 3);
    drop(client);
    daemon.stop().await;

    let _daemon = site.start().await;
    let client = site.root.client().await;
    assert_eq!(connections(&client, &net).await, 3);
    client.ok(DomainDestroy { dom }).await;
    assert_eq!(connections(&client, &net).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_counts_its_guests_again_after_it_was_stopped() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let net = client.running_network("n1", "sim0").await;
    let two = on("n1") + &on("n1").replace(MAC, "52:54:00:00:00:78");
    let dom = client.define_guest(&guest_xml("g1", &two)).await;
    let dom = client.start(&dom).await;
    assert_eq!(connections(&client, &net).await, 2);
    client.ok(NetworkDestroy { net: net.clone() }).await;
    client.ok(NetworkCreate { net: net.clone() }).await;
    client.ok(DomainDestroy { dom: dom.clone() }).await;
    client.start(&dom).await;
    assert_eq!(connections(&client, &net).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_has_a_vf_gets_another_after_the_daemon_was_restarted() {
    let site = Site::new();
    let daemon = site.start().await;
    let client = site.root.client().await;
    let net = client.running_network("n1", "sim0").await;
    let own = on("n1").replace(MAC, "52:54:00:00:00:01");
    let mut dom = client
        .define_guest(&bare("g1").replace("</devices>", &format!("{own}</devices>")))
        .await;
    dom = client.start(&dom).await;
    drop(client);
    let mut daemon = daemon;
    let free = "0000:02:00.2";
    let tap = "<interface type='bridge'><mac address='52:54:00:00:00:77'/><source bridge='br0'/>\
               <model type='virtio'/></interface>";
    site.simulation.host.add_bridge("br0").unwrap();
    for xml in [
        vf_interface(free, MANAGED, ""),
        host_device(free, MANAGED, ""),
        on("n1"),
        direct("sim1", "vepa"),
        tap.to_owned(),
    ] {
        daemon.stop().await;
        daemon = site.start().await;
        let client = site.root.client().await;
        until("it is found", async || {
            client.guest_dump(&dom, 0).await.contains("hostdev0")
        })
        .await;
        client.ok(attach(&dom, &xml, LIVE)).await;
        assert_eq!(client.who().await.len(), 2, "{xml}");
        client.ok(detach(&dom, &xml, LIVE)).await;
        assert_eq!(client.who().await.len(), 1, "{xml}");
        assert_eq!(client.ports(&net).await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_model_has_its_kind_of_place() {
    let site = Site::new();
    site.simulation.host.add_bridge("br0").unwrap();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    running(
        &client,
        "<network><name>br</name><forward mode='bridge'/><bridge name='br0'/></network>",
    )
    .await;
    let conventional = "<controller type='pci' index='5' model='pcie-to-pci-bridge'/></devices>";
    let xml = bare("g1").replace("</devices>", conventional);
    let dom = client.define_guest(&xml).await;
    let dom = client.start(&dom).await;
    let live = client.guest_dump(&dom, 0).await;
    let controller = |bus: &str| {
        let index = u32::from_str_radix(bus, 16).unwrap();
        let start = live
            .find(&format!("<controller type='pci' index='{index}'"))
            .unwrap();
        element(&live[start..], "controller")
    };
    for (model, kind) in [
        ("virtio", "pcie-root-port"),
        ("e1000e", "pcie-root-port"),
        ("igb", "pcie-root-port"),
        ("rtl8139", "pcie-to-pci-bridge"),
    ] {
        let xml = on("br").replace("virtio", model);
        client.ok(attach(&dom, &xml, LIVE)).await;
        let shown = element(&client.guest_dump(&dom, 0).await, "interface");
        assert!(
            shown.contains(&format!("<model type='{model}'/>")),
            "{shown}"
        );
        let place = shown.rsplit("<address").next().unwrap();
        let bus = place.split("bus='0x").nth(1).unwrap();
        let held_by = controller(bus.split('\'').next().unwrap());
        assert!(
            held_by.contains(&format!("model='{kind}'")),
            "{model}: {held_by}"
        );
        client.ok(detach(&dom, &xml, LIVE)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tap_or_macvtap_of_somebody_elses_is_plugged_in_and_left_alone() {
    let site = Site::new();
    let host = &site.simulation.host;
    host.add_netdev("mytap0", "tun", None).unwrap();
    host.add_netdev("mymacvtap0", "macvtap", Some("sim0"))
        .unwrap();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let dom = started(&client, "g1").await;
    let before = (client.picture(&site.root).await, host.snapshot());
    for name in ["mytap0", "mymacvtap0"] {
        let xml = format!(
            "<interface type='ethernet'><mac address='{MAC}'/>\
             <target dev='{name}' managed='no'/><model type='virtio'/></interface>"
        );
        client.ok(attach(&dom, &xml, LIVE)).await;
        let shown = element(&client.guest_dump(&dom, 0).await, "interface");
        let target = format!("<target dev='{name}' managed='no'/>");
        assert!(shown.contains(&target), "{shown}");
        client.ok(detach(&dom, &xml, LIVE)).await;
        let after = (client.picture(&site.root).await, host.snapshot());
        assert_eq!(after, before, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_device_may_be_prepared_and_not_given() {
    let site = Site::new();
    let daemon = site.start().await;
    let client = site.root.client().await;
    let dom = started(&client, "g1").await;
    let before = client.picture(&site.root).await;
    let guest = site.simulation.guests.guest(dom.uuid).unwrap();
    let all = guest.devices();
    let xml = host_device(VF, MANAGED, "<address type='unassigned'/>");
    client.ok(attach(&dom, &xml, LIVE)).await;
    assert_eq!(driver(&site, VF).as_deref(), Some("vfio-pci"));
    let live = client.guest_dump(&dom, 0).await;
    assert_eq!(count(&live, "<address type='unassigned'/>"), 1, "{live}");
    assert_eq!(guest.devices(), all);

    // The next daemon does not take it for lost.
    daemon.stop().await;
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let other = vf_interface("0000:02:00.1", MANAGED, "");
    client.ok(attach(&dom, &other, LIVE)).await;
    client.ok(detach(&dom, &other, LIVE)).await;
    assert_eq!(client.who().await.len(), 1);
    assert_eq!(driver(&site, VF).as_deref(), Some("vfio-pci"));
    client.ok(detach(&dom, &xml, LIVE)).await;
    assert_eq!(driver(&site, VF).as_deref(), Some("simvf"));
    assert_eq!(client.picture(&site.root).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vf_is_plugged_in_with_all_that_its_element_says() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let disk = "<disk type='file' device='disk'><driver name='qemu' type='raw'/>\
                <source file='/disk.img'/><target dev='vda' bus='virtio'/><boot order='1'/></disk>";
    let xml = bare("g1").replace("</devices>", &format!("{disk}</devices>"));
    let dom = client.define_guest(&xml).await;
    let dom = client.start(&dom).await;
    let more = "<vlan><tag id='42'/></vlan><boot order='2'/><alias name='ua-vf'/>\
                <rom bar='on' file='/vf.rom'/>";
    let xml = vf_interface(VF, MANAGED, more);
    client.ok(attach(&dom, &xml, LIVE)).await;
    let live = client.guest_dump(&dom, 0).await;
    let shown = element(&live, "interface");
    for part in [
        "<tag id='42'/>",
        "<boot order='2'/>",
        "<alias name='ua-vf'/>",
        "<rom bar='on' file='/vf.rom'/>",
        MAC,
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let state = |site: &Site| {
        let devices = site.simulation.host.snapshot().devices;
        devices[&VF.parse().unwrap()].vf.clone().unwrap()
    };
    let vf = format!("{:?}", state(&site));
    assert!(vf.contains("42"), "{vf}");
    // What `virsh detach-interface hostdev` takes.
    client.ok(detach(&dom, &shown, LIVE)).await;
    let vf = format!("{:?}", state(&site));
    assert!(!vf.contains("42"), "{vf}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_is_free_again_when_its_device_is_gone() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let alias = "<alias name='ua-vf'/>";
    let dom = started(&client, "g1").await;
    client
        .ok(attach(&dom, &vf_interface(VF, MANAGED, alias), LIVE))
        .await;
    let second = vf_interface("0000:02:00.1", MANAGED, alias).replace(MAC, "52:54:00:00:00:78");
    for flags in [LIVE, LIVE | CONFIG] {
        let parts = &["non unique alias", "ua-vf"];
        client
            .refuses(
                &site.root,
                attach(&dom, &second, flags),
                Code::ConfigUnsupported,
                parts,
            )
            .await;
    }
    client.ok(by_alias(&dom, "ua-vf")).await;
    until("it is gone", async || client.who().await.is_empty()).await;
    client.ok(attach(&dom, &second, LIVE)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_has_sixty_four_vfs() {
    let site = Site::on("pfs=2,vfs=70");
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let net = client.running_network("n1", "sim0").await;
    let more = client.running_network("n2", "sim1").await;
    // Eight functions of each of eight slots behind root ports, as who counts every slot has them.
    let mut devices = String::from("<controller type='pci' index='0' model='pcie-root'/>");
    for port in 1..=9 {
        devices.push_str(&format!(
            "<controller type='pci' index='{port}' model='pcie-root-port'/>"
        ));
    }
    for number in 0..35 {
        devices.push_str(&format!(
            "<interface type='network'><mac address='52:54:00:00:03:{number:02x}'/>\
             <source network='n1'/><address type='pci' domain='0' bus='{}' slot='0' \
             function='{}'{}/></interface>",
            1 + number / 8,
            number % 8,
            if number % 8 == 0 {
                " multifunction='on'"
            } else {
                ""
            }
        ));
    }
    for number in 0..29 {
        devices.push_str(&format!(
            "<interface type='network'><mac address='52:54:00:00:04:{number:02x}'/>\
             <source network='n2'/></interface>"
        ));
    }
    let dom = client.define_guest(&guest_xml("g1", &devices)).await;
    let dom = client.start(&dom).await;
    let counted = (
        connections(&client, &net).await,
        connections(&client, &more).await,
    );
    assert_eq!(counted, (35, 29));
    client.ok(DomainSuspend { dom: dom.clone() }).await;
    client.ok(DomainResume { dom: dom.clone() }).await;
    client.ok(DomainDestroy { dom }).await;
    assert!(client.who().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_an_interface_says_is_plugged_in() {
    let site = Site::new();
    site.simulation.host.add_bridge("br0").unwrap();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    running(
        &client,
        "<network><name>br</name><forward mode='bridge'/><bridge name='br0'/></network>",
    )
    .await;
    let dom = started(&client, "g1").await;
    let before = (
        client.picture(&site.root).await,
        site.simulation.host.snapshot(),
    );
    let on_host = "<target dev='test'/><mtu size='1400'/><link state='up'/>\
         <alias name='ua-net'/><bandwidth><inbound average='100' peak='400' burst='256'/>\
         <outbound average='200' peak='300' burst='256'/></bandwidth>";
    let in_guest = "<target dev='test'/><tune><sndbuf>1600</sndbuf></tune><acpi index='6'/>\
         <rom bar='on' file='/1af41000.rom' enabled='yes'/>";
    let driver = "<target dev='test'/>\
         <driver name='vhost' txmode='iothread' ioeventfd='on' event_idx='off' queues='4' \
         rx_queue_size='1024' tx_queue_size='256' rss='on' rss_hash_report='on' page_per_vq='on'>\
         <host csum='off' gso='off' tso4='off' tso6='off' ecn='off' ufo='off' mrg_rxbuf='off'/>\
         <guest csum='off' tso4='off' tso6='off' ecn='off' ufo='off'/></driver>";
    for more in [on_host, in_guest, driver] {
        let xml = on("br").replace("</interface>", &format!("{more}</interface>"));
        client.ok(attach(&dom, &xml, LIVE)).await;
        let shown = element(&client.guest_dump(&dom, 0).await, "interface");
        // Each attribute and each element, in whatever order.
        for part in more
            .split(['<', '>', ' '])
            .filter(|part| part.contains('='))
        {
            assert!(
                shown.contains(part.trim_end_matches('/')),
                "{part}: {shown}"
            );
        }
        client.ok(detach(&dom, &shown, LIVE)).await;
        let after = (
            client.picture(&site.root).await,
            site.simulation.host.snapshot(),
        );
        assert_eq!(after, before, "{more}");
    }
    let user =
        format!("<interface type='user'><mac address='{MAC}'/><model type='virtio'/></interface>");
    client.ok(attach(&dom, &user, LIVE)).await;
    client.ok(detach(&dom, &user, LIVE)).await;
    assert_eq!(client.picture(&site.root).await, before.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_of_a_guest_is_changed_by_a_plug() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let more = "<serial type='pty'/><channel type='unix'><target type='virtio' name='org.a'/>\
                </channel></devices>";
    let dom = client
        .define_guest(&bare("g1").replace("</devices>", more))
        .await;
    let dom = client.start(&dom).await;
    let before = client.guest_dump(&dom, 0).await;
    let xml = vf_interface(VF, MANAGED, "");
    client.ok(attach(&dom, &xml, LIVE)).await;
    let with = client.guest_dump(&dom, 0).await;
    let start = with.find("    <interface").unwrap();
    let end = with.find("</interface>\n").unwrap() + "</interface>\n".len();
    let without = format!("{}{}", &with[..start], &with[end..]);
    assert_eq!(without, before);
    client.ok(detach(&dom, &xml, LIVE)).await;
    assert_eq!(client.guest_dump(&dom, 0).await, before);
}
