//! What can't be, said in words that scripts look for.

use conf::PciAddress;
use rpc::*;

use super::*;
use crate::guest_links::{CONFIG, LIVE};
use crate::hotplug::{attach, bare, on, started};
use crate::updates::{running, sharing};

fn start(dom: &Dom) -> DomainCreateWithFlags {
    DomainCreateWithFlags {
        dom: dom.clone(),
        flags: Default::default(),
    }
}

const PF: &str = "0000:01:00.0";

#[tokio::test(flavor = "multi_thread")]
async fn a_vf_that_can_not_be_set_as_asked_is_not_lent() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let dom = started(&client, "g1").await;
    let trunk = "<vlan trunk='yes'><tag id='42'/><tag id='47'/></vlan>";
    let model = "<driver name='vfio' model='test'/>";
    for (xml, code, parts) in [
        (
            vf_interface(VF, MANAGED, trunk),
            Code::ConfigUnsupported,
            &["VLAN", "trunk"][..],
        ),
        (
            vf_interface(PF, MANAGED, ""),
            Code::ConfigUnsupported,
            &["not an SR-IOV Virtual Function", PF],
        ),
        (
            vf_interface(VF, MANAGED, "").replace("<source>", &format!("{model}<source>")),
            Code::InternalError,
            &["'test'", "driver"],
        ),
        (
            host_device(VF, MANAGED, "").replace("<source>", &format!("{model}<source>")),
            Code::InternalError,
            &["'test'", "driver"],
        ),
        (
            host_device(PF, MANAGED, ""),
            Code::OperationInvalid,
            &["VFs"],
        ),
    ] {
        client
            .refuses(&site.root, attach(&dom, &xml, LIVE), code, parts)
            .await;
        // The same at a start.
        let other = client.define_guest(&guest_xml("g2", &xml)).await;
        client.refuses(&site.root, start(&other), code, parts).await;
        client.ok(DomainUndefine { dom: other }).await;
        assert_eq!(driver(&site, VF).as_deref(), Some("simvf"), "{xml}");
    }
    // An interface has a place.
    let nowhere = vf_interface(VF, MANAGED, "<address type='unassigned'/>");
    let parts = &["unassigned", "is supported only for hostdev"];
    for flags in [LIVE, CONFIG] {
        client
            .refuses(
                &site.root,
                attach(&dom, &nowhere, flags),
                Code::ConfigUnsupported,
                parts,
            )
            .await;
    }
    let define = DomainDefineXmlFlags {
        xml: guest_xml("g2", &nowhere),
        flags: Default::default(),
    };
    client
        .refuses(&site.root, define, Code::ConfigUnsupported, parts)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_that_is_down_and_a_network_that_is_off_lend_nothing() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let net = client.running_network("n1", "sim0").await;
    let dom = started(&client, "g1").await;
    let kept = client.define_guest(&guest_xml("g2", &on("n1"))).await;
    let pf: PciAddress = PF.parse().unwrap();
    site.simulation.host.set_pf_up(pf, false);
    for (call, is_of_pool) in [
        (attach(&dom, &vf_interface(VF, MANAGED, ""), LIVE), false),
        (attach(&dom, &on("n1"), LIVE), true),
    ] {
        let (code, parts): (_, &[&str]) = match is_of_pool {
            true => (Code::InternalError, &["sim0", "is down"]),
            false => (
                Code::OperationInvalid,
                &["PF is not online", "'sim0' is down", "ip link set sim0 up"],
            ),
        };
        client.refuses(&site.root, call, code, parts).await;
    }
    site.simulation.host.set_pf_up(pf, true);
    client.ok(NetworkDestroy { net }).await;
    let parts = &["network 'n1' is not active"];
    let invalid = Code::OperationInvalid;
    client
        .refuses(&site.root, attach(&dom, &on("n1"), LIVE), invalid, parts)
        .await;
    client
        .refuses(&site.root, start(&kept), invalid, parts)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_of_a_card_instead_of_its_vfs_is_neither_defined_nor_started() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let xml = format!(
        "<network><name>n1</name><forward mode='hostdev' managed='yes'>\
         <address type='pci' {}/></forward></network>",
        attributes(PF)
    );
    let parts = &["SR-IOV Virtual Function", PF];
    let define = NetworkDefineXml { xml: xml.clone() };
    client
        .refuses(&site.root, define, Code::ConfigUnsupported, parts)
        .await;
    client
        .refuses(
            &site.root,
            NetworkCreateXml { xml },
            Code::ConfigUnsupported,
            parts,
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn boot_orders_that_can_not_be() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    let with = |boot: &str| {
        let boot = format!("<boot order='{boot}'/></interface>");
        on("n1").replace("</interface>", &boot)
    };
    let os_boot = bare("g1").replace("hvm</type>", "hvm</type><boot dev='hd'/>");
    let disk = "<disk type='file' device='disk'><driver name='qemu' type='raw'/>\
                <source file='/disk.img'/><target dev='vda' bus='virtio'/><boot order='1'/></disk>\
                </devices>";
    let disk_boot = bare("g2").replace("</devices>", disk);
    for (xml, order, code, part) in [
        (
            &os_boot,
            "2",
            Code::ConfigUnsupported,
            "per-device boot elements cannot be used together with os/boot elements",
        ),
        (&disk_boot, "1", Code::ConfigUnsupported, "boot order '1'"),
        (&disk_boot, "-1", Code::XmlError, "expected a number from 0"),
        (&disk_boot, "ss", Code::XmlError, "expected a number from 0"),
    ] {
        let dom = client.define_guest(xml).await;
        let dom = client.start(&dom).await;
        for flags in [LIVE, CONFIG] {
            let call = attach(&dom, &with(order), flags);
            client.refuses(&site.root, call, code, &[part]).await;
        }
        client.ok(DomainDestroy { dom: dom.clone() }).await;
        client.ok(DomainUndefine { dom }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mtus_that_can_not_be() {
    let site = Site::new();
    site.simulation.host.add_bridge("br0").unwrap();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    running(
        &client,
        "<network><name>br</name><forward mode='bridge'/><bridge name='br0'/></network>",
    )
    .await;
    running(&client, &sharing("shared", &["sim0"])).await;
    let dom = started(&client, "g1").await;
    let with = |xml: String, mtu: &str| {
        xml.replace("</interface>", &format!("<mtu size='{mtu}'/></interface>"))
    };
    for (xml, code, parts) in [
        (with(on("br"), "sdfg"), Code::XmlError, &["size", "mtu"][..]),
        (with(on("br"), "-1"), Code::XmlError, &["size", "mtu"]),
        (
            with(on("br"), "99999999"),
            Code::ConfigUnsupported,
            &["MTU"],
        ),
        (
            with(on("shared"), "9000"),
            Code::InternalError,
            &["an MTU of 9000 is above that of 'sim0', 1500"],
        ),
        (
            with(direct("sim0", "bridge"), "9000"),
            Code::ConfigUnsupported,
            &["setting MTU on interface type 'direct' is not supported"],
        ),
    ] {
        client
            .refuses(&site.root, attach(&dom, &xml, LIVE), code, parts)
            .await;
    }
}
