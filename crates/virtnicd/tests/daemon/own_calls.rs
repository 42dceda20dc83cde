//! virtnic's own calls: what networks have to lend, which NICs there are, and what is not as it
//! should be.

use rpc::*;
use uuid::Uuid;

use crate::harness::*;

async fn reports(client: &Client, name: Option<&str>) -> Vec<NetworkReport> {
    let name = name.map(str::to_owned);
    client.ok(VirtnicNetwork { name }).await
}

async fn report(client: &Client, name: &str) -> NetworkReport {
    let [report] = reports(client, Some(name)).await.try_into().unwrap();
    report
}

fn lent(row: &PoolRow) -> Vec<(&str, &str, Option<&str>)> {
    let lent = row.lent.iter();
    lent.map(|one| (&*one.device, &*one.guest, one.network.as_deref()))
        .collect()
}

#[tokio::test]
async fn a_network_tells_what_it_has_and_who_has_it() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let net = client.running_network("n1", "sim0").await;

    let empty = report(&client, "n1").await;
    assert!(empty.active && empty.exclusive);
    assert_eq!((&*empty.mode, empty.connections), ("hostdev", 0));
    assert_eq!(empty.uuid, net.uuid);
    let [row] = &*empty.rows else {
        panic!("{empty:?}")
    };
    assert_eq!((&*row.name, row.total, row.free), ("sim0", 4, 4));
    let Some(NicAbility::SrIov(VfCount { vfs: 4, max })) = row.ability else {
        panic!("{row:?}")
    };
    assert!(max >= 4);
    assert_eq!((lent(row), row.obstacle.as_deref()), (vec![], None));

    client
        .create_port(&net, &port_xml(Uuid::from_u128(1), "web", 1))
        .await;
    let used = report(&client, &net.uuid.to_string()).await;
    assert_eq!((&*used.name, used.connections), ("n1", 1));
    assert_eq!((used.rows[0].free, used.rows[0].connections), (3, 1));
    assert_eq!(lent(&used.rows[0]), [("VF 0", "web", Some("n1"))]);

    let missing = VirtnicNetwork {
        name: Some("n9".into()),
    };
    client
        .refuses(&root, missing, Code::NoNetwork, &["n9"])
        .await;
}

/// Weakness 4: a device that two networks name is seen from both to be lent, and by which.
#[tokio::test]
async fn weakness_04_both_networks_of_a_device_know_who_has_it() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let one = client.running_network("one", "sim0").await;
    client.running_network("two", "sim0").await;
    client
        .create_port(&one, &port_xml(Uuid::from_u128(1), "web", 1))
        .await;

    let all = reports(&root.read_only_client().await, None).await;
    let names: Vec<&str> = all.iter().map(|report| &*report.name).collect();
    assert_eq!(names, ["one", "two"]);
    for report in &all {
        assert_eq!(lent(&report.rows[0]), [("VF 0", "web", Some("one"))]);
        assert_eq!(report.rows[0].free, 3);
    }
    let connections: Vec<u32> = all.iter().map(|report| report.connections).collect();
    assert_eq!(connections, [1, 0]);
}

#[tokio::test]
async fn a_network_that_is_not_active_has_nothing_to_lend() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let net = client.running_network("n1", "sim0").await;
    client.ok(NetworkDestroy { net }).await;
    let report = report(&client, "n1").await;
    assert!(!report.active);
    assert_eq!((&*report.mode, report.rows.len()), ("hostdev", 0));
}

#[tokio::test]
async fn nics_are_told_with_the_networks_that_lend_them() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    client.running_network("n1", "sim0").await;
    let nics = client.ok(VirtnicNics {}).await;
    let nic = |name: &str| {
        let found = nics.iter().find(|nic| nic.name == name);
        found.unwrap_or_else(|| panic!("no {name} in {nics:?}"))
    };
    let (sim0, sim1, vf) = (nic("sim0"), nic("sim1"), nic("sim0v0"));
    assert!(matches!(
        sim0.ability,
        NicAbility::SrIov(VfCount { vfs: 4, .. })
    ));
    assert_eq!(
        (&*sim0.networks, &*sim1.networks),
        (&["n1".to_owned()][..], &[][..])
    );
    assert_eq!(
        (&vf.ability, &*vf.networks),
        (&NicAbility::VirtualFunction, &["n1".to_owned()][..])
    );
    assert!(sim0.up && sim0.driver.is_some() && sim0.pci_address.is_some());
}

#[tokio::test]
async fn counters_are_told_only_if_asked_for() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let net = client.running_network("n1", "sim0").await;
    client
        .create_port(&net, &port_xml(Uuid::from_u128(1), "web", 1))
        .await;
    for counters in [false, true] {
        let question = VirtnicWho {
            filter: Some("web".into()),
            counters,
        };
        let [lent] = client.ok(question).await.try_into().unwrap();
        assert_eq!((lent.kind, lent.vanished), (LentKind::Hostdev, false));
        // Only claimed: it is not the guest's yet, whatever went through it.
        assert_eq!(lent.counters, None);
    }
}

#[tokio::test]
async fn where_all_is_well_there_is_nothing_to_mend() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let net = client.running_network("n1", "sim0").await;
    client
        .create_port(&net, &port_xml(Uuid::from_u128(1), "web", 1))
        .await;
    let before = client.picture(&root).await;
    for apply in [false, true] {
        assert_eq!(client.ok(VirtnicReconcile { apply }).await, []);
    }
    assert_eq!(client.picture(&root).await, before);
    let reader = root.read_only_client().await;
    assert_eq!(reader.ok(VirtnicReconcile { apply: false }).await, []);
    let mend = VirtnicReconcile { apply: true };
    reader
        .refuses(&root, mend, Code::OperationDenied, &["virtnicReconcile"])
        .await;
}

/// What a guest's macvtap is, on what it sits, and what went through it, in one question.
#[tokio::test]
async fn weakness_13_a_guest_s_macvtap_is_known_with_its_parent_and_its_traffic() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let xml = "<network><name>shared</name><forward mode='vepa'><interface dev='sim0'/>\
               <interface dev='sim1'/></forward></network>";
    let xml = xml.to_owned();
    let net = client.ok(NetworkDefineXml { xml }).await;
    client.ok(NetworkCreate { net: net.clone() }).await;
    for guest in ["web", "db", "mail"] {
        let dom = client
            .define_guest(&guest_xml(guest, &on_network("shared")))
            .await;
        client.start(&dom).await;
    }

    let question = VirtnicWho {
        filter: Some("web".into()),
        counters: true,
    };
    let [web] = client.ok(question).await.try_into().unwrap();
    assert_eq!(web.kind, LentKind::Macvtap);
    assert_eq!(
        (web.mode.as_deref(), web.parent.as_deref()),
        (Some("vepa"), Some("sim0"))
    );
    assert_eq!(
        (web.host_netdev.as_deref(), web.vf),
        (Some("macvtap0"), None)
    );
    assert!(web.counters.is_some());

    let report = report(&client, "shared").await;
    assert!(!report.exclusive);
    assert_eq!(report.modes, ["vepa", "bridge", "private"]);
    assert_eq!(report.connections, 3);
    let rows: Vec<_> = (report.rows.iter())
        .map(|row| (&*row.name, row.connections, row.free))
        .collect();
    assert_eq!(rows, [("sim0", 2, 1), ("sim1", 1, 1)]);
    assert_eq!(
        lent(&report.rows[0]),
        [
            ("sim0", "web", Some("shared")),
            ("sim0", "mail", Some("shared"))
        ]
    );
}

/// A plan takes nothing, and its refusal has the pool's table.
#[tokio::test]
async fn a_plan_shows_the_devices_and_takes_none() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    let net = client.running_network("n1", "sim0").await;
    let two = [on_network("n1"), on_network("n1")].concat();
    let before = client.picture(&root).await;
    let reader = root.read_only_client().await;
    let of = PlanOf::Document(guest_xml("web", &two));
    let plan = reader.ok(VirtnicPlan { of }).await;
    assert!(plan.would_start && !plan.running, "{plan:?}");
    let devices: Vec<&str> = (plan.devices.iter())
        .map(|device| match &device.choice {
            PlannedChoice::Device(chosen) => &*chosen.device,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(devices[0].starts_with("VF 0 of sim0"), "{devices:?}");
    assert!(devices[1].starts_with("VF 1 of sim0"), "{devices:?}");
    assert!(!plan.devices[0].steps.is_empty());
    assert_eq!(client.picture(&root).await, before);

    for number in 1..=3 {
        let mac = u8::try_from(number).unwrap();
        let xml = port_xml(Uuid::from_u128(number), "db", mac);
        client.create_port(&net, &xml).await;
    }
    let of = PlanOf::Document(guest_xml("web", &two));
    let plan = reader.ok(VirtnicPlan { of }).await;
    assert!(!plan.would_start);
    assert!(matches!(plan.devices[0].choice, PlannedChoice::Device(_)));
    let PlannedChoice::Refused(refusal) = &plan.devices[1].choice else {
        panic!("{plan:?}")
    };
    assert!(
        refusal.error.contains("'n1' has no free device"),
        "{refusal:?}"
    );
    // With what the plan itself would have taken.
    let holders: Vec<_> = (lent(&refusal.rows[0]).into_iter())
        .map(|(device, guest, _)| (device, guest))
        .collect();
    assert_eq!(
        holders,
        [
            ("VF 0", "db"),
            ("VF 1", "db"),
            ("VF 2", "db"),
            ("VF 3", "web")
        ]
    );
}

/// A plan is the start's own: what it refuses, the start refuses in the same words.
#[tokio::test]
async fn a_setting_that_a_start_refuses_is_told_by_the_plan() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    client.running_network("n1", "sim0").await;
    let with_mtu = "<mac address='52:54:00:00:00:01'/><mtu size='9000'/></interface>";
    let with_mtu = on_network("n1").replace("</interface>", with_mtu);
    let xml = guest_xml("web", &with_mtu);
    let of = PlanOf::Document(xml.clone());
    let plan = client.ok(VirtnicPlan { of }).await;
    assert!(!plan.would_start);
    let PlannedChoice::Refused(refusal) = &plan.devices[0].choice else {
        panic!("{plan:?}")
    };
    let dom = client.define_guest(&xml).await;
    let start = DomainCreate { dom };
    client
        .refuses(&root, start, Code::ConfigUnsupported, &[&refusal.error])
        .await;
    assert_eq!(client.who().await, []);
}

#[tokio::test]
async fn the_journal_knows_the_running_guests_name_for_a_device() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    client.running_network("n1", "sim0").await;
    client.running_guest("web", "n1").await;
    let (_, record) = root.record("devices");
    assert_eq!(record["owner"]["alias"], "hostdev0", "{record}");
}

#[tokio::test]
async fn a_plan_of_a_document_knows_the_guests_that_are_there() {
    let root = Root::new();
    let _daemon = root.start();
    let client = root.client().await;
    client.running_network("n1", "sim0").await;
    let dom = client.running_guest("g1", "n1").await;
    let plan = async |xml: &str| {
        let of = PlanOf::Document(xml.to_owned());
        client.ok(VirtnicPlan { of }).await
    };
    let own = client.guest_dump(&dom, DOMAIN_XML_INACTIVE).await;
    let report = plan(&own).await;
    assert!(report.running && report.would_start, "{report:?}");
    let other = own.replace(
        &dom.uuid.to_string(),
        "00000000-0000-0000-0000-000000000007",
    );
    let renamed = own.replace("<name>g1</name>", "<name>g2</name>");
    for (xml, said) in [(other, "already exists"), (renamed, "already defined")] {
        let report = plan(&xml).await;
        assert!(
            !report.would_start && report.obstacles[0].contains(said),
            "{report:?}"
        );
        let flags = Default::default();
        let error = client.refused(DomainDefineXmlFlags { xml, flags }).await;
        assert!(error.message().contains(&report.obstacles[0]), "{error}");
    }
    // A driver that is not there is missed before anything is touched.
    let nosuch = "<hostdev mode='subsystem' type='pci' managed='yes'>\
        <driver name='vfio' model='nosuch'/>\
        <source><address domain='0' bus='2' slot='0' function='3'/></source></hostdev>";
    let report = plan(&guest_xml("g3", nosuch)).await;
    assert!(!report.would_start, "{report:?}");
}
