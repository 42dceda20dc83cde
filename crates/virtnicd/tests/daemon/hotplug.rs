//! Devices that are plugged into running guests and asked back, and added to definitions.

use std::time::Duration;

use host::Operation;
use qemu::{Answers, Faults, Unplug};
use rpc::*;

use crate::guest_links::{CONFIG, LIVE};
use crate::harness::*;
use crate::in_process::{Site, reached, until};
use crate::updates::{running, sharing};

pub(crate) const MAC: &str = "52:54:00:00:00:77";

pub(crate) fn attach(dom: &Dom, xml: &str, flags: u32) -> DomainAttachDeviceFlags {
    DomainAttachDeviceFlags {
        dom: dom.clone(),
        xml: xml.to_owned(),
        flags: flags.into(),
    }
}

pub(crate) fn detach(dom: &Dom, xml: &str, flags: u32) -> DomainDetachDeviceFlags {
    DomainDetachDeviceFlags {
        dom: dom.clone(),
        xml: xml.to_owned(),
        flags: flags.into(),
    }
}

pub(crate) fn by_alias(dom: &Dom, alias: &str) -> DomainDetachDeviceAlias {
    DomainDetachDeviceAlias {
        dom: dom.clone(),
        alias: alias.to_owned(),
        flags: LIVE.into(),
    }
}

pub(crate) fn on(network: &str) -> String {
    format!(
        "<interface type='network'><mac address='{MAC}'/><source network='{network}'/>\
         <model type='virtio'/></interface>"
    )
}

/// A guest with a free port or four, and nothing else.
pub(crate) fn bare(name: &str) -> String {
    guest_xml(name, &root_ports(4))
}

pub(crate) async fn started(client: &Client, name: &str) -> Dom {
    let dom = client.define_guest(&bare(name)).await;
    client.start(&dom).await
}

pub(crate) fn count(text: &str, part: &str) -> usize {
    text.matches(part).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vf_of_a_network_is_plugged_in_and_comes_back() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let net = client.running_network("n1", "sim0").await;
    let dom = started(&client, "g1").await;
    let before = client.picture(&site.root).await;
    client.ok(attach(&dom, &on("n1"), LIVE)).await;

    let who = client.who().await;
    assert_eq!(who.len(), 1);
    assert_eq!(who[0].driver.as_deref(), Some("vfio-pci"));
    assert_eq!(client.ports(&net).await.len(), 1);
    let live = client.guest_dump(&dom, 0).await;
    assert!(
        live.contains("<interface type='hostdev' managed='yes'"),
        "{live}"
    );
    assert!(live.contains("<alias name='hostdev0'/>"), "{live}");
    assert!(
        live.contains(
            "<address type='pci' domain='0x0000' bus='0x03' slot='0x00' function='0x0'/>"
        ),
        "{live}"
    );
    let kept = client.guest_dump(&dom, DOMAIN_XML_INACTIVE).await;
    assert!(!kept.contains("<interface"), "{kept}");
    let guest = site.simulation.guests.guest(dom.uuid).unwrap();
    assert!(guest.devices().contains(&"hostdev0".to_owned()));

    // As `virsh detach-interface` does it: with the element of the live document.
    client.ok(detach(&dom, &on("n1"), LIVE)).await;
    assert!(!guest.devices().contains(&"hostdev0".to_owned()));
    assert_eq!(client.picture(&site.root).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_macvtap_is_plugged_in_and_comes_back() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    running(&client, &sharing("n1", &["sim0"])).await;
    let dom = started(&client, "g1").await;
    let before = client.picture(&site.root).await;
    client.ok(attach(&dom, &on("n1"), LIVE)).await;
    let live = client.guest_dump(&dom, 0).await;
    assert!(live.contains("<interface type='direct'>"), "{live}");
    assert!(live.contains("<target dev='macvtap0'/>"), "{live}");
    assert!(live.contains("<alias name='net0'/>"), "{live}");
    let guest = site.simulation.guests.guest(dom.uuid).unwrap();
    assert_eq!(guest.netdevs(), ["hostnet0"]);
    assert!(guest.descriptors().is_empty());
    client.ok(by_alias(&dom, "net0")).await;
    until("it is back", async || client.who().await.is_empty()).await;
    assert!(guest.netdevs().is_empty());
    until("all is as before", async || {
        client.picture(&site.root).await == before
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_and_the_definition_change_together_or_alone() {
    let site = Site::new();
    let _daemon = site.start().await;
    let mut client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    let dom = client.define_guest(&bare("g1")).await;
    let before = client.guest_dump(&dom, 0).await;
    // One that does not run: current is its definition.
    client.ok(attach(&dom, &on("n1"), 0)).await;
    let kept = client.guest_dump(&dom, 0).await;
    assert_eq!(count(&kept, "<interface type='network'>"), 1, "{kept}");
    assert!(kept.contains("bus='0x03' slot='0x00'"), "{kept}");
    client.ok(detach(&dom, &on("n1"), CONFIG)).await;
    assert_eq!(client.guest_dump(&dom, 0).await, before);
    let error = client.refused(detach(&dom, &on("n1"), CONFIG)).await;
    assert_eq!(error.code(), Code::DeviceMissing, "{error}");
    let error = client.refused(attach(&dom, &on("n1"), LIVE)).await;
    assert_eq!(error.code(), Code::OperationInvalid, "{error}");

    let dom = client.start(&dom).await;
    client.listen().await;
    client.ok(attach(&dom, &on("n1"), LIVE | CONFIG)).await;
    client.hears(&["g1 1 DefinedUpdated"]).await;
    for flags in [0, DOMAIN_XML_INACTIVE] {
        let shown = client.guest_dump(&dom, flags).await;
        assert_eq!(count(&shown, MAC), 1, "{shown}");
    }
    client.ok(detach(&dom, &on("n1"), LIVE | CONFIG)).await;
    for flags in [0, DOMAIN_XML_INACTIVE] {
        let shown = client.guest_dump(&dom, flags).await;
        assert_eq!(count(&shown, MAC), 0, "{shown}");
    }
    assert_eq!(client.guest_dump(&dom, DOMAIN_XML_INACTIVE).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_device_is_plugged_in_by_its_address() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let net = client.running_network("n1", "sim0").await;
    let dom = started(&client, "g1").await;
    let other = client.running_guest("g2", "n1").await;
    let before = client.picture(&site.root).await;
    let taken = client.who().await[0].pci_address.clone().unwrap();
    let hostdev = |address: &str| {
        let (bus, slot, function) = (&address[5..7], &address[8..10], &address[11..]);
        format!(
            "<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0x0000' \
             bus='0x{bus}' slot='0x{slot}' function='0x{function}'/></source></hostdev>"
        )
    };
    let error = client.refused(attach(&dom, &hostdev(&taken), LIVE)).await;
    assert!(error.message().contains("g2"), "{error}");
    assert_eq!(client.picture(&site.root).await, before);

    client.ok(DomainDestroy { dom: other }).await;
    client.ok(attach(&dom, &hostdev(&taken), LIVE)).await;
    let error = client.refused(attach(&dom, &hostdev(&taken), LIVE)).await;
    assert_eq!(error.code(), Code::OperationInvalid, "{error}");
    let live = client.guest_dump(&dom, 0).await;
    assert_eq!(count(&live, "<hostdev "), 1, "{live}");
    client.ok(detach(&dom, &hostdev(&taken), LIVE)).await;
    assert!(client.who().await.is_empty());

    // What an interface has goes by the function that it is, too.
    client.ok(attach(&dom, &on("n1"), LIVE)).await;
    let given = client.who().await[0].pci_address.clone().unwrap();
    client.ok(detach(&dom, &hostdev(&given), LIVE)).await;
    assert!(client.ports(&net).await.is_empty());
    assert!(!client.guest_dump(&dom, 0).await.contains("<interface"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_plugged_in_is_refused_and_changes_nothing() {
    let site = Site::on("pfs=1,vfs=1");
    let _daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    let dom = started(&client, "g1").await;
    let before = client.picture(&site.root).await;
    let guest = site.simulation.guests.guest(dom.uuid).unwrap();
    let all = guest.devices();
    for (xml, code, part) in [
        ("<interface", Code::XmlError, ""),
        ("<domain/>", Code::XmlError, "no device"),
        (&*on("nosuch"), Code::NoNetwork, "nosuch"),
        (
            "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
            Code::OperationUnsupported,
            "--config",
        ),
        (
            "<interface type='network'><source network='n1'/><address type='pci' bus='0x00' \
             slot='0x09'/></interface>",
            Code::InternalError,
            "pcie-root-port",
        ),
        (
            "<interface type='network'><source network='n1'/><address type='pci' bus='0x01' \
             slot='0x00' function='0x1'/></interface>",
            Code::InternalError,
            "function 0",
        ),
        (
            "<hostdev mode='subsystem' type='pci'><source><address domain='0' bus='0xee' slot='1' \
             function='0'/></source></hostdev>",
            Code::DeviceMissing,
            "ee:01.0",
        ),
    ] {
        let error = client.refused(attach(&dom, xml, LIVE | CONFIG)).await;
        assert_eq!(error.code(), code, "{xml}: {error}");
        assert!(error.message().contains(part), "{error}");
        assert_eq!(client.picture(&site.root).await, before, "{xml}");
    }
    // A full pool, and a guest without a free port.
    client.ok(attach(&dom, &on("n1"), LIVE)).await;
    let error = client
        .refused(attach(&dom, &on("n1").replace(":77", ":78"), LIVE))
        .await;
    assert!(error.message().contains("n1"), "{error}");
    client.ok(detach(&dom, &on("n1"), LIVE)).await;
    assert_eq!(client.picture(&site.root).await, before);
    assert_eq!(guest.devices(), all);
    running(&client, &sharing("n2", &["sim0"])).await;
    for number in 0..5 {
        let xml = on("n2").replace(":77", &format!(":8{number}"));
        let answer = client.rpc.call(&attach(&dom, &xml, LIVE)).await;
        if let Err(rpc::client::CallError::Refused(error)) = answer {
            assert!(
                error.message().contains("No more available PCI slots"),
                "{error}"
            );
            assert!(error.message().contains("pcie-root-port"), "{error}");
            return;
        }
    }
    panic!("there was always another port");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_step_is_undone_in_reverse() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    running(&client, &sharing("n2", &["sim1"])).await;
    let dom = started(&client, "g1").await;
    let before = client.picture(&site.root).await;
    let guest = site.simulation.guests.guest(dom.uuid).unwrap();
    let all = guest.devices();
    for (network, command) in [
        ("n1", "device_add"),
        ("n2", "getfd"),
        ("n2", "netdev_add"),
        ("n2", "device_add"),
    ] {
        guest.set_faults(Faults {
            refused_commands: vec![command.to_owned()],
            ..Faults::default()
        });
        let error = client
            .refused(attach(&dom, &on(network), LIVE | CONFIG))
            .await;
        assert!(error.message().contains(command), "{error}");
        assert_eq!(
            client.picture(&site.root).await,
            before,
            "{network} {command}"
        );
        assert_eq!(guest.devices(), all);
        assert!(guest.netdevs().is_empty() && guest.descriptors().is_empty());
    }
    guest.set_faults(Faults::default());
    let record = format!("run/virtnic/domains/{}.json", dom.uuid);
    for at in [&*record, "etc/virtnic/domains/g1.xml"] {
        let in_the_way = site.root.in_the_way(at);
        client.refused(attach(&dom, &on("n1"), LIVE | CONFIG)).await;
        drop(in_the_way);
        assert_eq!(client.picture(&site.root).await, before, "{at}");
    }
    client.ok(attach(&dom, &on("n1"), LIVE | CONFIG)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_does_not_answer_keeps_its_device_and_gives_it_later() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    let dom = started(&client, "g1").await;
    let before = client.picture(&site.root).await;
    client.ok(attach(&dom, &on("n1"), LIVE | CONFIG)).await;
    let guest = site.simulation.guests.guest(dom.uuid).unwrap();
    guest.set_faults(Faults {
        unplug: Unplug::WhenReleased,
        ..Faults::default()
    });
    let asking = tokio::spawn({
        let (asker, dom) = (site.root.client().await, dom.clone());
        async move { asker.ok(detach(&dom, &on("n1"), LIVE | CONFIG)).await }
    });
    until("it was asked", async || {
        client
            .who()
            .await
            .iter()
            .any(|lent| lent.state == "pending")
    })
    .await;
    // Others are answered meanwhile, and a second one is told.
    client
        .ok(attach(&dom, &on("n1").replace(":77", ":78"), LIVE))
        .await;
    client.ok(by_alias(&dom, "hostdev1")).await;
    let error = client.refused(detach(&dom, &on("n1"), LIVE)).await;
    assert!(
        error.message().contains("already in the process of unplug"),
        "{error}"
    );
    // The client has waited long enough: the guest has it still.
    asking.await.unwrap();
    assert!(client.guest_dump(&dom, 0).await.contains(MAC));
    assert!(
        !client
            .guest_dump(&dom, DOMAIN_XML_INACTIVE)
            .await
            .contains(MAC)
    );
    assert_eq!(client.who().await.len(), 2);
    guest.release("hostdev0");
    guest.release("hostdev1");
    until("all is as before", async || {
        client.picture(&site.root).await == before
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_may_refuse_and_be_asked_again() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    let dom = started(&client, "g1").await;
    client.ok(attach(&dom, &on("n1"), LIVE | CONFIG)).await;
    let before = client.picture(&site.root).await;
    let guest = site.simulation.guests.guest(dom.uuid).unwrap();
    guest.set_faults(Faults {
        unplug: Unplug::Refused,
        ..Faults::default()
    });
    let error = client.refused(detach(&dom, &on("n1"), LIVE | CONFIG)).await;
    assert_eq!(error.code(), Code::OperationFailed, "{error}");
    assert_eq!(client.picture(&site.root).await, before);
    guest.set_faults(Faults::default());
    client.ok(detach(&dom, &on("n1"), LIVE | CONFIG)).await;
    assert!(client.who().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_are_meant_are_refused_and_each_goes_by_its_alias() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    client.running_network("n2", "sim1").await;
    let dom = started(&client, "g1").await;
    client.ok(attach(&dom, &on("n1"), LIVE)).await;
    client.ok(attach(&dom, &on("n2"), LIVE)).await;
    let error = client.refused(detach(&dom, &on("n1"), LIVE)).await;
    assert_eq!(error.code(), Code::OperationFailed, "{error}");
    assert!(
        error.message().contains("multiple devices matching"),
        "{error}"
    );
    client.ok(by_alias(&dom, "hostdev0")).await;
    until("it is out of the document", async || {
        count(&client.guest_dump(&dom, 0).await, "<interface") == 1
    })
    .await;
    // With the place of the other.
    let live = client.guest_dump(&dom, 0).await;
    let start = live.find("<interface").unwrap();
    let end = live.find("</interface>").unwrap() + "</interface>".len();
    client.ok(detach(&dom, &live[start..end], LIVE)).await;
    assert!(client.who().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_daemon_finishes_what_was_begun() {
    let site = Site::new();
    let daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    let dom = started(&client, "g1").await;
    let before = client.picture(&site.root).await;
    // Asked, and let go while nobody listened.
    client.ok(attach(&dom, &on("n1"), LIVE)).await;
    let guest = site.simulation.guests.guest(dom.uuid).unwrap();
    guest.set_faults(Faults {
        unplug: Unplug::WhenReleased,
        ..Faults::default()
    });
    client.ok(by_alias(&dom, "hostdev0")).await;
    daemon.stop().await;
    guest.release("hostdev0");
    let daemon = site.start().await;
    let client = site.root.client().await;
    until("it is back", async || client.who().await.is_empty()).await;
    until("all is as before", async || {
        client.picture(&site.root).await == before
    })
    .await;

    // Prepared, and QEMU was not asked any more.
    guest.set_faults(Faults::default());
    let held = site.simulation.host.hold(Operation::Bind);
    let plugging = tokio::spawn({
        let (asker, dom) = (site.root.client().await, dom.clone());
        async move {
            let _ = asker.rpc.call(&attach(&dom, &on("n1"), LIVE)).await;
        }
    });
    let held = reached(held).await;
    let stopping = tokio::spawn(daemon.stop());
    drop(held);
    stopping.await.unwrap();
    plugging.await.unwrap();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    until("all is as before, or it is plugged in", async || {
        let is_there = guest.devices().contains(&"hostdev0".to_owned());
        let who = client.who().await;
        let shown = client.guest_dump(&dom, 0).await.contains(MAC);
        if is_there {
            who.len() == 1 && shown
        } else {
            who.is_empty() && !shown
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_is_heard_while_a_device_is_plugged_in() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    let dom = client.define_guest(&bare("g1")).await;
    let before = client.picture(&site.root).await;
    client.start(&dom).await;
    let guest = site.simulation.guests.guest(dom.uuid).unwrap();
    guest.set_faults(Faults {
        monitor: Answers::After(Duration::from_secs(3600)),
        ..Faults::default()
    });
    let plugging = tokio::spawn({
        let (asker, dom) = (site.root.client().await, dom.clone());
        async move { asker.refused(attach(&dom, &on("n1"), LIVE)).await }
    });
    until("it is prepared", async || {
        client.who().await.iter().any(|lent| lent.state == "lent")
    })
    .await;
    client.ok(DomainDestroy { dom }).await;
    plugging.await.unwrap();
    assert_eq!(client.picture(&site.root).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_start_is_not_plugged_in_either() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let dom = client.define_guest(&guest_xml("g1", &root_ports(6))).await;
    let dom = client.start(&dom).await;
    let interface = |address: &str| {
        format!(
            "<interface type='direct'><mac address='52:54:00:00:00:55'/><source dev='sim0' mode='bridge'/>\
             <model type='virtio'/>{address}</interface>"
        )
    };
    let disk = |bus: &str, target: &str, address: &str| {
        format!(
            "<disk type='file' device='disk'><source file='/a.img'/><target dev='{target}' bus='{bus}'/>\
             {address}</disk>"
        )
    };
    let long = format!("<alias name='ua-{}'/>", "x".repeat(300));
    for (xml, part) in [
        (
            interface("<address type='usb' bus='0' port='1'/>"),
            "address",
        ),
        (interface("<address type='drive'/>"), "address"),
        (
            interface("<address type='ccw' cssid='0xfe' ssid='0' devno='1'/>"),
            "address",
        ),
        (interface(&long), "alias"),
        (
            disk("virtio", "vda", "<address type='usb' bus='0' port='1'/>"),
            "address",
        ),
        (
            disk("scsi", "sda", "<address type='pci' bus='1'/>"),
            "address",
        ),
        (
            disk("scsi", "sda", "<address type='drive' controller='2'/>"),
            "no scsi controller with index 2",
        ),
    ] {
        let before = client.picture(&site.root).await;
        let attach = DomainAttachDeviceFlags {
            dom: dom.clone(),
            xml,
            flags: (LIVE | CONFIG).into(),
        };
        let error = client.refused(attach).await;
        assert!(error.message().contains(part), "{error}");
        assert_eq!(client.picture(&site.root).await, before);
    }
}
