//! What can't be had: one clear error, libvirt's code, nothing changed and nothing left behind.

use std::fs;

use rpc::*;
use uuid::Uuid;

use crate::harness::*;

fn define(xml: impl Into<String>) -> NetworkDefineXml {
    NetworkDefineXml { xml: xml.into() }
}

fn create(xml: impl Into<String>) -> NetworkCreateXml {
    NetworkCreateXml { xml: xml.into() }
}

fn start(dom: &Dom) -> DomainCreateWithFlags {
    DomainCreateWithFlags {
        dom: dom.clone(),
        flags: Default::default(),
    }
}

fn with_uuid(xml: &str, uuid: Uuid) -> String {
    xml.replacen("</name>", &format!("</name><uuid>{uuid}</uuid>"), 1)
}

#[tokio::test]
async fn a_pf_that_is_not_there_or_has_no_vfs() {
    let root = Root::new();
    let _daemon = root.start_on("pfs=2,vfs=1");
    let client = root.client().await;
    let unknown = create(network_xml("n1", "nosuch0"));
    client
        .refuses(
            &root,
            unknown,
            Code::DeviceMissing,
            &["'n1'", "nosuch0", "ip link"],
        )
        .await;
    let not_pf = create(network_xml("n1", "sim0v0"));
    client
        .refuses(&root, not_pf, Code::ConfigUnsupported, &["'n1'", "sim0v0"])
        .await;
    let none = create(network_xml("n1", "sim1"));
    let parts = &[
        "operation failed: network 'n1': 'sim1' has no VFs",
        "sriov_numvfs",
    ];
    client
        .refuses(&root, none, Code::InternalError, parts)
        .await;

    // Kept, and refused when it is to start.
    let net = client.define_network(&network_xml("n1", "nosuch0")).await;
    let start = NetworkCreate { net };
    client
        .refuses(&root, start, Code::DeviceMissing, &["nosuch0"])
        .await;
}

#[tokio::test]
async fn a_pf_address_where_a_vf_is_wanted() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let pf = "<address type='pci' domain='0' bus='1' slot='0' function='0'/>";
    let xml = format!("<network><name>n1</name><forward mode='hostdev'>{pf}</forward></network>");
    let parts = &["SR-IOV Virtual Function", "0000:01:00.0"];
    client
        .refuses(&root, define(&*xml), Code::ConfigUnsupported, parts)
        .await;
    client
        .refuses(&root, create(xml), Code::ConfigUnsupported, parts)
        .await;

    let interface = format!("<interface type='hostdev'><source>{pf}</source></interface>");
    let dom = client.define_guest(&guest_xml("g1", &interface)).await;
    client
        .refuses(&root, start(&dom), Code::ConfigUnsupported, parts)
        .await;
}

#[tokio::test]
async fn a_device_that_is_not_there() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let gone = "<source><address type='pci' domain='0' bus='9' slot='9' function='1'/></source>";
    for (name, device) in [
        (
            "interface",
            format!("<interface type='hostdev'>{gone}</interface>"),
        ),
        (
            "plain",
            format!("<hostdev mode='subsystem' type='pci'>{gone}</hostdev>"),
        ),
    ] {
        let dom = client.define_guest(&guest_xml(name, &device)).await;
        let parts = &["0000:09:09.1", "\nsee which there are: lspci -D"];
        client
            .refuses(&root, start(&dom), Code::DeviceMissing, parts)
            .await;
    }
}

#[tokio::test]
async fn a_vlan_trunk_on_a_vf() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    client.running_network("n1", "sim0").await;
    let trunk = "<vlan trunk='yes'><tag id='42'/><tag id='47'/></vlan>";
    let interface = on_network("n1").replace("</interface>", &format!("{trunk}</interface>"));
    let dom = client.define_guest(&guest_xml("g1", &interface)).await;
    let parts = &["one VLAN tag", "trunk"];
    client
        .refuses(&root, start(&dom), Code::ConfigUnsupported, parts)
        .await;
}

#[tokio::test]
async fn a_network_that_is_not_active_or_not_there() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    client.define_network(&network_xml("off", "sim0")).await;
    client.running_network("on", "sim0").await;
    // What the first interface got is given back when the second gets nothing.
    let devices = format!("{}{}", on_network("on"), on_network("off"));
    let dom = client.define_guest(&guest_xml("g1", &devices)).await;
    let parts = &["network 'off' is not active\nstart it first: virsh net-start off"];
    client
        .refuses(&root, start(&dom), Code::OperationInvalid, parts)
        .await;
    let dom = client
        .define_guest(&guest_xml("g2", &on_network("nosuch")))
        .await;
    let parts = &[
        "no network with matching name 'nosuch'",
        "virsh net-list --all",
    ];
    client
        .refuses(&root, start(&dom), Code::NoNetwork, parts)
        .await;
    let xml_desc = guest_xml("g3", &on_network("nosuch"));
    let transient = DomainCreateXml {
        xml_desc,
        flags: Default::default(),
    };
    client
        .refuses(&root, transient, Code::NoNetwork, parts)
        .await;
}

#[tokio::test]
async fn a_full_pool_says_how_many_who_and_what_to_do() {
    let root = Root::new();
    let _daemon = root.start_on("pfs=1,vfs=2");
    let client = root.client().await;
    client.running_network("n1", "sim0").await;
    client.running_guest("first", "n1").await;
    client.running_guest("second", "n1").await;
    let third = client
        .define_guest(&guest_xml("third", &on_network("n1")))
        .await;
    let text = client
        .refuses(
            &root,
            start(&third),
            Code::InternalError,
            &[
                "operation failed: interface 52:54:00:",
                ": network 'n1' has no free device",
                "sim0",
                "2 VFs",
                "first",
                "second",
                "stop a guest",
            ],
        )
        .await;
    assert_eq!(
        text.lines().count(),
        2,
        "what is wrong, and what to do: {text}"
    );
    let dom = client
        .ok(DomainLookupByName {
            name: "first".into(),
        })
        .await;
    client.ok(DomainDestroy { dom }).await;
    client.start(&third).await;
}

#[tokio::test]
async fn a_pool_of_vfs_that_nobody_binds_is_told_as_what_it_is() {
    let root = Root::new();
    let _daemon = root.start_on("pfs=1,vfs=8");
    let client = root.client().await;
    let managed = network_xml("n1", "sim0");
    let unmanaged = managed.replace(" managed='yes'", "");
    assert_ne!(managed, unmanaged);
    let net = client.define_network(&unmanaged).await;
    client.ok(NetworkCreate { net: net.clone() }).await;
    let name = Some("n1".to_owned());
    let report = client.ok(VirtnicNetwork { name }).await.remove(0);
    assert_eq!((report.rows[0].free, report.rows[0].busy.len()), (0, 8));
    let dom = client
        .define_guest(&guest_xml("g1", &on_network("n1")))
        .await;
    let parts = &[
        "operation failed: interface 52:54:00:",
        ": network 'n1' has no free device",
        "8 busy (VF 0, VF 1, VF 2, VF 3, VF 4, VF 5 and 2 more: it is not managed, and must be manually detached from the host",
        "set managed='yes' in the <forward> of network 'n1'",
    ];
    client
        .refuses(&root, start(&dom), Code::InternalError, parts)
        .await;
    // As the advice goes.
    client.ok(NetworkDestroy { net }).await;
    let net = client.ok(NetworkLookupByName { name: "n1".into() }).await;
    client.ok(NetworkUndefine { net }).await;
    client.running_network("n1", "sim0").await;
    client.start(&dom).await;

    let driver = "managed='yes'><driver name='kvm'/>";
    let kvm = network_xml("n2", "sim0").replace("managed='yes'>", driver);
    let net = client.define_network(&kvm).await;
    let parts = &["network 'n2' has <driver name='kvm'/>"];
    client
        .refuses(&root, NetworkCreate { net }, Code::ConfigUnsupported, parts)
        .await;
}

/// Advice that could not be followed is none.
#[tokio::test]
async fn a_network_that_can_not_be_started_is_not_told_to_be() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let kept = "<network><name>nat</name><forward/><ip address='10.0.0.1' prefix='24'/></network>";
    client.define_network(kept).await;
    client.define_network(&network_xml("vfs", "sim0")).await;
    for (network, code, expected) in [
        (
            "nat",
            Code::ConfigUnsupported,
            "forward mode 'nat', which virtnic keeps",
        ),
        ("vfs", Code::OperationInvalid, "virsh net-start vfs"),
    ] {
        let guest = guest_xml(network, &on_network(network));
        let dom = client.define_guest(&guest).await;
        let text = client.refuses(&root, start(&dom), code, &[expected]).await;
        assert_eq!(text.contains("net-start"), network == "vfs", "{text}");
    }
}

#[tokio::test]
async fn a_tap_that_is_not_there_is_no_failure_of_the_daemon() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let tap = "<interface type='ethernet'><mac address='52:54:00:00:00:01'/>\
               <target dev='nosuch' managed='no'/></interface>";
    let dom = client.define_guest(&guest_xml("g1", tap)).await;
    let parts = &["device not found: interface 52:54:00:00:00:01: cannot lend a tap"];
    client
        .refuses(&root, start(&dom), Code::DeviceMissing, parts)
        .await;
}

#[tokio::test]
async fn listed_devices_that_are_no_vfs_are_told_all_in_their_places() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let listed = |bus| format!("\n<address type='pci' bus='{bus}'/>");
    let list = [1, 2, 0x55].map(listed).concat();
    let xml = format!("<network><name>n</name><forward mode='hostdev'>{list}</forward></network>");
    let parts = &[
        "unsupported configuration: network 'n': ",
        "0000:01:00.0",
        "(/network/forward/address, line 2, column 1); also: network 'n': there is no PCI device \
         0000:55:00.0 (/network/forward/address, line 4, column 1)",
    ];
    let define = NetworkDefineXml { xml };
    client
        .refuses(&root, define, Code::ConfigUnsupported, parts)
        .await;
}

#[tokio::test]
async fn all_that_keeps_a_guest_from_starting_is_told_at_once() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let nic = "<interface type='direct'><mac address='52:54:00:00:00:02'/><source dev='nosuch' mode='bridge'/></interface>";
    let vf = "<interface type='hostdev' managed='yes'><mac address='52:54:00:00:00:03'/><source>\
              <address type='pci' bus='2'/></source><tune><sndbuf>9</sndbuf></tune><bandwidth><inbound \
              average='1'/></bandwidth></interface>\
              <hostdev mode='subsystem' type='pci'><source><address bus='9'/></source></hostdev>";
    let pooled =
        on_network("nowhere").replace("<source", "<mac address='52:54:00:00:00:01'/><source");
    let devices = format!("<tpm model='x'/>{pooled}{nic}{vf}");
    let dom = client.define_guest(&guest_xml("g1", &devices)).await;
    let parts = &[
        "tpm",
        "interface 52:54:00:00:00:01: no network with matching name 'nowhere'\ndefine network",
        "interface 52:54:00:00:00:02: there is no network device 'nosuch'",
        "\ninterface 52:54:00:00:00:03: <bandwidth> can't be kept on a host device",
        "; also: <sndbuf> can't be had on a host device",
        "\nthere is no PCI device 0000:09:00.0",
    ];
    client
        .refuses(&root, start(&dom), Code::ConfigUnsupported, parts)
        .await;
}

#[tokio::test]
async fn a_network_over_a_bridge_that_is_not_there_says_so() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let xml = "<network><name>n1</name><forward mode='bridge'/><bridge name='br9'/></network>";
    client.ok(NetworkCreateXml { xml: xml.into() }).await;
    let name = Some("n1".to_owned());
    let report = client.ok(VirtnicNetwork { name }).await.remove(0);
    assert_eq!(report.bridge.as_deref(), Some("br9"));
    assert_eq!(report.missing, ["br9"]);
}

#[tokio::test]
async fn a_name_or_a_uuid_that_is_taken() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let network = |name: &str, uuid| with_uuid(&network_xml(name, "sim0"), uuid);
    client.define_network(&network("n1", one)).await;
    let one_text = one.to_string();
    let name = &["network 'n1' already exists with uuid", &one_text];
    let id = &["network 'n1' is already defined with uuid", &one_text];
    let failed = Code::OperationFailed;
    client
        .refuses(&root, define(network("n1", two)), failed, name)
        .await;
    client
        .refuses(&root, create(network("n1", two)), failed, name)
        .await;
    client
        .refuses(&root, define(network("n2", one)), failed, id)
        .await;
    client
        .refuses(&root, create(network("n2", one)), failed, id)
        .await;

    let guest = |name: &str, uuid| with_uuid(&guest_xml(name, ""), uuid);
    client.define_guest(&guest("g1", one)).await;
    let name = &["domain 'g1' already exists with uuid", &one_text];
    let id = &["domain 'g1' is already defined with uuid", &one_text];
    let (by_name, by_id) = (guest("g1", two), guest("g2", one));
    for (xml, parts) in [(by_name, name), (by_id, id)] {
        let define = DomainDefineXmlFlags {
            xml: xml.clone(),
            flags: Default::default(),
        };
        client.refuses(&root, define, failed, parts).await;
        let create = DomainCreateXml {
            xml_desc: xml,
            flags: Default::default(),
        };
        client.refuses(&root, create, failed, parts).await;
    }
}

#[tokio::test]
async fn all_that_is_not_carried_out_is_named_in_one_message() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let devices = "<tpm model='tpm-tis'><backend type='emulator'/></tpm>\
                   <sound model='ich9'/>\
                   <interface type='ethernet'><mac address='52:54:00:00:00:01'/>\
                   <script path='/etc/if-up'/></interface>";
    let dom = client.define_guest(&guest_xml("g1", devices)).await;
    // Kept, all of it.
    let kept = client.guest_dump(&dom, DOMAIN_XML_INACTIVE).await;
    for part in [
        "<tpm model='tpm-tis'>",
        "<sound model='ich9'>",
        "<script path='/etc/if-up'/>",
    ] {
        assert!(kept.contains(part), "{kept}");
    }
    let parts = &[
        "'g1'",
        "tpm",
        "sound",
        "/domain/devices/interface[1]/script",
    ];
    client
        .refuses(&root, start(&dom), Code::ConfigUnsupported, parts)
        .await;
}

#[tokio::test]
async fn a_forward_mode_that_is_not_carried_out_is_kept_and_refused_by_name() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let xml = "<network><name>n1</name><forward mode='nat'/>\
               <ip address='192.0.2.1' netmask='255.255.255.0'/></network>";
    let net = client.define_network(xml).await;
    let parts = &["'n1'", "'nat'"];
    client
        .refuses(&root, NetworkCreate { net }, Code::ConfigUnsupported, parts)
        .await;
}

#[tokio::test]
async fn names_that_are_no_file_names() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let before = client.picture(&root).await;
    let long = "n".repeat(300);
    for name in ["../../../escaped", "a/b", "", &long] {
        client.refused(define(network_xml(name, "sim0"))).await;
        let define = DomainDefineXmlFlags {
            xml: guest_xml(name, ""),
            flags: Default::default(),
        };
        client.refused(define).await;
        assert_eq!(client.picture(&root).await, before, "{name}");
    }
    assert!(!root.path("escaped.xml").exists() && !root.path("etc/escaped.xml").exists());
}

/// Where a directory of records should be is a file, as far as that goes like a disk that is full.
fn block(root: &Root, kind: &str) {
    let dir = root.path("run/virtnic").join(kind);
    fs::rename(&dir, root.path(kind)).unwrap();
    fs::write(dir, "").unwrap();
}

fn unblock(root: &Root, kind: &str) {
    let dir = root.path("run/virtnic").join(kind);
    fs::remove_file(&dir).unwrap();
    fs::rename(root.path(kind), dir).unwrap();
}

#[tokio::test]
async fn a_disk_that_takes_no_record() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let off = client.define_network(&network_xml("off", "sim1")).await;
    let net = client.running_network("n1", "sim0").await;
    let dom = client
        .define_guest(&guest_xml("g1", &on_network("n1")))
        .await;
    let system = Code::SystemError;

    block(&root, "networks");
    let parts = &["can't record network 'off'", "Not a directory"];
    client
        .refuses(&root, NetworkCreate { net: off.clone() }, system, parts)
        .await;
    client
        .refuses(&root, create(network_xml("t1", "sim1")), system, &["'t1'"])
        .await;
    unblock(&root, "networks");

    block(&root, "ports");
    let xml = port_xml(Uuid::from_u128(1), "client", 1);
    let port = NetworkPortCreateXml {
        network: net.clone(),
        xml,
        flags: Default::default(),
    };
    client
        .refuses(&root, port, system, &["can't record port"])
        .await;
    client
        .refuses(&root, start(&dom), system, &["can't record port"])
        .await;
    unblock(&root, "ports");

    block(&root, "domains");
    client
        .refuses(&root, start(&dom), system, &["can't record guest 'g1'"])
        .await;
    unblock(&root, "domains");

    block(&root, "devices");
    let error = client.refused(start(&dom)).await;
    assert!(error.message().contains("Not a directory"), "{error}");
    unblock(&root, "devices");
    assert!(client.who().await.is_empty() && client.ports(&net).await.is_empty());
    assert_eq!((root.records("devices"), root.records("domains")), (0, 0));

    // With room again, all of it works.
    client.ok(NetworkCreate { net: off }).await;
    client.start(&dom).await;
}

#[tokio::test]
async fn a_disk_that_takes_no_definition() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let net = client.define_network(&network_xml("n1", "sim0")).await;
    let dom = client.define_guest(&guest_xml("g1", "")).await;
    // The new file's name is taken by a directory, so that it can't be written.
    fs::create_dir(root.path("etc/virtnic/networks/n1.xml.new")).unwrap();
    fs::create_dir(root.path("etc/virtnic/domains/g1.xml.new")).unwrap();
    let xml = client
        .network_dump(&net, NETWORK_XML_INACTIVE)
        .await
        .replace("sim0", "sim1");
    let parts = &["can't keep network 'n1'"];
    client
        .refuses(&root, define(xml), Code::SystemError, parts)
        .await;
    let xml = client
        .guest_dump(&dom, DOMAIN_XML_INACTIVE)
        .await
        .replace("65536", "131072");
    let define = DomainDefineXmlFlags {
        xml,
        flags: Default::default(),
    };
    client
        .refuses(&root, define, Code::SystemError, &["can't keep guest 'g1'"])
        .await;
}
