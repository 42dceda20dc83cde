//! PFs that are taken out of service, and what is told of the guests on them.

use std::fs;
use std::time::Duration;

use host::{Fault, Operation};
use qemu::{Faults, SimulatedGuest, Unplug};
use rpc::*;

use crate::harness::*;
use crate::in_process::{Site, until};

const EIO: i32 = 5;

/// A pair over `sim0`, with the last byte of its MAC.
fn pair(mac: u8) -> String {
    format!(
        "<interface type='hostdev-hybrid'><mac address='52:54:00:00:00:{mac:02x}'/>\
         <source dev='sim0'/></interface>"
    )
}

fn standby(mac: u8) -> String {
    format!("ua-hybrid-5254000000{mac:02x}")
}

fn vf(mac: u8) -> String {
    format!("{}-vf", standby(mac))
}

fn drain(pf: &str) -> VirtnicDrain {
    VirtnicDrain { pf: pf.to_owned() }
}

fn undrain(pf: &str) -> VirtnicUndrain {
    VirtnicUndrain { pf: pf.to_owned() }
}

fn demote(guest: &str) -> VirtnicDemote {
    VirtnicDemote {
        guest: guest.to_owned(),
        mac: None,
    }
}

async fn started(client: &Client, name: &str, devices: &str) -> Dom {
    let dom = client.define_guest(&guest_xml(name, devices)).await;
    client.start(&dom).await
}

fn simulated(site: &Site, dom: &Dom) -> SimulatedGuest {
    site.simulation.guests.guest(dom.uuid).unwrap()
}

fn has(guest: &SimulatedGuest, alias: &str) -> bool {
    guest.devices().iter().any(|known| known == alias)
}

/// A guest with a pair whose VF is plugged in.
async fn paired(site: &Site, client: &Client, name: &str, mac: u8) -> (Dom, SimulatedGuest) {
    let dom = started(client, name, &pair(mac)).await;
    let guest = simulated(site, &dom);
    guest.negotiate_failover(&standby(mac));
    until("the VF is plugged in", async || {
        state(client, name, "primary").await == "lent"
    })
    .await;
    (dom, guest)
}

/// The row of a half of a guest's pair.
async fn row(client: &Client, guest: &str, role: &str) -> Lent {
    let rows = client.who().await;
    let is_it = |row: &&Lent| {
        row.guest.as_deref() == Some(guest)
            && row.half.as_ref().is_some_and(|half| half.role == role)
    };
    let found = rows.iter().find(is_it);
    found
        .unwrap_or_else(|| panic!("no {role} of {guest} in {rows:#?}"))
        .clone()
}

async fn state(client: &Client, guest: &str, role: &str) -> String {
    row(client, guest, role).await.state
}

async fn nic(client: &Client, name: &str) -> Nic {
    let nics = client.ok(VirtnicNics {}).await;
    nics.into_iter().find(|nic| nic.name == name).unwrap()
}

async fn address_of(client: &Client, netdev: &str) -> String {
    nic(client, netdev).await.pci_address.unwrap()
}

/// A PCI address as documents have it.
fn address_xml(address: &str) -> String {
    let parts: Vec<&str> = address.split([':', '.']).collect();
    format!(
        "<address type='pci' domain='0x{}' bus='0x{}' slot='0x{}' function='0x{}'/>",
        parts[0], parts[1], parts[2], parts[3]
    )
}

fn stays(rows: &[StaysOnPf]) -> Vec<(&str, &str)> {
    rows.iter().map(|row| (&*row.what, &*row.guest)).collect()
}

async fn start_of(client: &Client, name: &str, devices: &str) -> DomainCreateWithFlags {
    let dom = client.define_guest(&guest_xml(name, devices)).await;
    DomainCreateWithFlags {
        dom,
        flags: Default::default(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_pf_lends_nothing_in_any_way_until_it_lends_again() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    let bridge = "<network><name>n2</name><forward mode='bridge'><interface dev='sim0'/></forward>\
                  </network>";
    let net = client.define_network(bridge).await;
    client.ok(NetworkCreate { net }).await;
    let (pf, first) = (
        address_of(&client, "sim0").await,
        address_of(&client, "sim0v0").await,
    );
    let hostdev = |address: &str| {
        format!(
            "<hostdev mode='subsystem' type='pci' managed='yes'><source>{}</source></hostdev>",
            address_xml(address)
        )
    };
    let by_address = format!(
        "<interface type='hostdev' managed='yes'><source>{}</source></interface>",
        address_xml(&first)
    );
    let ways = [
        on_network("n1"),
        on_network("n2"),
        hostdev(&first),
        hostdev(&pf),
        by_address,
        "<interface type='hostdev' managed='yes'><source dev='sim0v0'/></interface>".to_owned(),
        "<interface type='direct'><source dev='sim0' mode='bridge'/></interface>".to_owned(),
        "<interface type='direct'><source dev='sim0v1' mode='passthrough'/></interface>".to_owned(),
        pair(1),
    ];
    let mut starts = Vec::new();
    for (place, way) in ways.iter().enumerate() {
        starts.push(start_of(&client, &format!("g{place}"), way).await);
    }
    let report = client.ok(drain("sim0")).await;
    assert_eq!((&*report.pf, &*report.pci_address), ("sim0", &*pf));
    assert!(
        report.vfs.is_empty() && report.macvtaps.is_empty(),
        "{report:?}"
    );
    assert!(nic(&client, "sim0").await.drained && !nic(&client, "sim1").await.drained);
    for network in ["n1", "n2"] {
        let name = Some(network.to_owned());
        let [report] = client.ok(VirtnicNetwork { name }).await.try_into().unwrap();
        let [row] = &*report.rows else {
            panic!("{report:?}")
        };
        assert!(row.drained, "{row:?}");
        let advice = "it is drained; let it lend again: virtnic undrain sim0";
        assert_eq!(row.obstacle.as_deref(), Some(advice), "{network}");
    }
    for (start, way) in starts.iter().zip(&ways) {
        let before = client.picture(&site.root).await;
        let error = client.refused(start.clone()).await;
        let text = error.message();
        assert!(
            text.contains("drained") && text.contains("virtnic undrain sim0"),
            "{way}: {text}"
        );
        assert_eq!(client.picture(&site.root).await, before, "{way}");
        let of = PlanOf::Guest(start.dom.name.clone());
        let plan = client.ok(VirtnicPlan { of }).await;
        assert!(!plan.would_start, "{way}");
    }
    // The other PF lends on.
    client.running_network("n3", "sim1").await;
    client.running_guest("other", "n3").await;

    client.ok(undrain("sim0")).await;
    for (start, way) in starts.into_iter().zip(&ways) {
        if *way == hostdev(&pf) {
            let error = client.refused(start).await;
            assert!(error.message().contains("it has 4 VFs"), "{error}");
            continue;
        }
        client.ok(start.clone()).await;
        client.ok(DomainDestroy { dom: start.dom }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pf_stays_drained_whatever_becomes_of_the_daemon() {
    let site = Site::new();
    let daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    client.running_network("n2", "sim1").await;
    let start = start_of(&client, "g1", &on_network("n1")).await;
    let other = start_of(&client, "g2", &on_network("n2")).await;
    client.ok(drain("sim0")).await;
    client.ok(drain("sim1")).await;
    assert_eq!(site.root.records("drained"), 2);
    let records = site.root.path("run/virtnic/drained");
    let pf = address_of(&client, "sim1").await;
    daemon.stop().await;
    // What can't be read keeps it drained.
    fs::write(records.join(format!("{pf}.json")), "{\"boot").unwrap();

    let daemon = site.start().await;
    let client = site.root.client().await;
    assert!(nic(&client, "sim0").await.drained && nic(&client, "sim1").await.drained);
    client.refused(start.clone()).await;
    let error = client.refused(other.clone()).await;
    assert!(error.message().contains("virtnic undrain sim1"), "{error}");
    client.ok(undrain("sim0")).await;
    client.ok(undrain(&pf)).await;
    client.ok(start).await;
    client.ok(other).await;
    assert_eq!(site.root.records("drained"), 0);
    daemon.stop().await;

    let _daemon = site.start().await;
    let client = site.root.client().await;
    assert!(!nic(&client, "sim0").await.drained && !nic(&client, "sim1").await.drained);
}

#[tokio::test(flavor = "multi_thread")]
async fn pairs_part_with_their_vfs_and_get_them_back_and_others_are_listed() {
    let site = Site::on("pfs=1,vfs=8");
    let daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    let (_, first) = paired(&site, &client, "g1", 1).await;
    let (_, by_hand) = paired(&site, &client, "g2", 2).await;
    // One whose guest has not joined its halves: its VF is only reserved.
    let waiting = started(&client, "g3", &pair(3)).await;
    assert_eq!(state(&client, "g3", "primary").await, "reserved");
    let plain = client.running_guest("g4", "n1").await;
    client.ok(demote("g2")).await;
    assert_eq!(state(&client, "g2", "primary").await, "parted");

    let report = client.ok(drain("sim0")).await;
    let [left] = &*report.vfs else {
        panic!("{report:?}")
    };
    assert!(left.what.starts_with("VF 3 (0000:"), "{left:?}");
    assert_eq!(left.guest, "g4");
    assert!(left.why.contains("end the guest"), "{left:?}");
    let mut macvtaps: Vec<_> = stays(&report.macvtaps)
        .into_iter()
        .map(|(_, guest)| guest)
        .collect();
    macvtaps.sort_unstable();
    assert_eq!(macvtaps, ["g1", "g2", "g3"]);
    assert!(!has(&first, &vf(1)) && has(&first, &standby(1)));
    for guest in ["g1", "g3"] {
        let row = row(&client, guest, "primary").await;
        assert_eq!(
            (&*row.state, row.pf.as_deref()),
            ("owed", Some("sim0")),
            "{guest}"
        );
        assert_eq!((row.vf, row.pci_address), (None, None));
    }
    let promote = VirtnicPromote {
        guest: "g1".to_owned(),
        mac: None,
    };
    let error = client.refused(promote).await;
    assert!(error.message().contains("virtnic undrain sim0"), "{error}");
    simulated(&site, &waiting).negotiate_failover(&standby(3));
    client.ok(DomainDestroy { dom: plain }).await;
    let report = client.ok(drain("sim0")).await;
    assert!(report.vfs.is_empty(), "{report:?}");

    // The next daemon knows whom it owes.
    daemon.stop().await;
    let _daemon = site.start().await;
    let client = site.root.client().await;
    assert_eq!(state(&client, "g1", "primary").await, "owed");
    client.ok(undrain("sim0")).await;
    until("they have VFs again", async || {
        state(&client, "g1", "primary").await == "lent"
            && state(&client, "g3", "primary").await == "lent"
    })
    .await;
    assert!(has(&first, &vf(1)));
    // What was taken by hand comes by hand.
    assert!(!has(&by_hand, &vf(2)));
    assert_eq!(state(&client, "g2", "primary").await, "parted");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_on_a_pf_through_other_devices_is_listed() {
    let site = Site::on("pfs=3,vfs=1");
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let host = &site.simulation.host;
    host.add_vlan("sim0.5", "sim0", 5.try_into().unwrap())
        .unwrap();
    host.add_bond("bond0", &["sim1", "sim2"]).unwrap();
    for (guest, lower) in [("g1", "sim0.5"), ("g2", "bond0")] {
        let macvtap = format!(
            "<interface type='direct'><source dev='{lower}' mode='bridge'/>\
             <model type='virtio'/></interface>"
        );
        started(&client, guest, &macvtap).await;
    }
    for (pf, guest, lower) in [("sim0", "g1", "sim0.5"), ("sim2", "g2", "bond0")] {
        let report = client.ok(drain(pf)).await;
        assert!(report.vfs.is_empty());
        let [one] = &report.macvtaps[..] else {
            panic!("{report:?}")
        };
        assert_eq!(one.guest, guest);
        assert!(one.why.contains(&format!("on {lower}")), "{}", one.why);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_keeps_its_vf_is_told_and_waited_for() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let (_, guest) = paired(&site, &client, "g1", 1).await;
    guest.set_faults(Faults {
        unplug: Unplug::WhenReleased,
        ..Faults::default()
    });
    // As long as clients wait for a guest.
    let report = client.ok(drain("sim0")).await;
    let [left] = &*report.vfs else {
        panic!("{report:?}")
    };
    assert_eq!(left.guest, "g1");
    assert!(left.why.contains("has not answered yet"), "{left:?}");
    assert_eq!(state(&client, "g1", "primary").await, "pending");
    guest.release(&vf(1));
    until("it is free", async || {
        client.ok(drain("sim0")).await.vfs.is_empty()
    })
    .await;
    assert_eq!(state(&client, "g1", "primary").await, "owed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_that_is_off_left_behind_keeps_no_pf_in_use() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim1").await;
    let dom = client.running_guest("a", "n1").await;
    let host = &site.simulation.host;
    host.fail(Fault::of(Operation::SetMac, EIO).always());
    let report = client.ok(drain("sim1")).await;
    assert_eq!(report.vfs.len(), 1, "{report:?}");
    client.ok(DomainDestroy { dom }).await;
    assert!(client.who().await.iter().any(|row| row.state == "dirty"));
    let report = client.ok(drain("sim1")).await;
    assert!(report.vfs.is_empty(), "{report:?}");
    host.heal();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_pf_can_not_be_drained() {
    let site = Site::new();
    let mut daemon = site.start().await;
    // It writes down that it did.
    daemon.autostarted().await;
    let client = site.root.client().await;
    for (name, part) in [
        ("sim9", "sim9"),
        ("sim0v0", "sim0v0"),
        ("0000:7f:00.0", "0000:7f:00.0"),
    ] {
        let before = client.picture(&site.root).await;
        let error = client.refused(drain(name)).await;
        assert!(error.message().contains(part), "{error}");
        client.refused(undrain(name)).await;
        assert_eq!(client.picture(&site.root).await, before);
    }
    // Nor one whose record can't be kept: the next daemon would lend of it.
    let in_the_way = site
        .root
        .path("run/virtnic/drained")
        .join(format!("{}.json", address_of(&client, "sim0").await));
    fs::create_dir(&in_the_way).unwrap();
    client.refused(drain("sim0")).await;
    assert!(!nic(&client, "sim0").await.drained);
    fs::remove_dir(&in_the_way).unwrap();
    client.ok(drain("sim0")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn halves_stand_together_and_say_whether_the_guest_joined_them() {
    let mut site = Site::new();
    site.simulation.time_to_join = Duration::from_millis(50);
    let _daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim1").await;
    client.running_guest("a", "n1").await;
    let dom = started(&client, "g1", &pair(1)).await;
    client.running_guest("b", "n1").await;
    let guest = simulated(&site, &dom);
    let rows = client.who().await;
    let place = |role: &str| {
        let is_it = |row: &Lent| row.half.as_ref().is_some_and(|half| half.role == role);
        rows.iter().position(is_it).unwrap()
    };
    assert_eq!(place("standby") + 1, place("primary"), "{rows:#?}");
    let pair_of = |role: &str| rows[place(role)].half.as_ref().map(|half| half.pair);
    assert_eq!(pair_of("standby"), pair_of("primary"));
    assert_eq!(rows[place("primary")].alias.as_deref(), Some(&*vf(1)));
    assert_eq!(rows[place("primary")].state, "reserved");

    let half = async || row(&client, "g1", "primary").await.half.unwrap();
    assert_eq!(half().await.negotiated, Some(false));
    until("it had its time", async || half().await.advice.is_some()).await;
    let advice = half().await.advice.unwrap();
    assert!(
        advice.contains("'g1'") && advice.contains("CONFIG_NET_FAILOVER"),
        "{advice}"
    );
    let messages = async || {
        let (dom, flags) = (dom.clone(), Default::default());
        client.ok(DomainGetMessages { dom, flags }).await
    };
    let told = messages().await;
    assert!(
        told.iter().any(|one| one.contains("VIRTIO_NET_F_STANDBY")),
        "{told:?}"
    );

    guest.negotiate_failover(&standby(1));
    until("it is joined", async || {
        half().await.negotiated == Some(true)
    })
    .await;
    assert_eq!(half().await.advice, None);
    let told = messages().await;
    assert!(
        !told.iter().any(|one| one.contains("VIRTIO_NET_F_STANDBY")),
        "{told:?}"
    );
    client.ok(demote("g1")).await;
    let told = messages().await;
    assert!(
        told.iter().any(|one| one.contains("virtnic promote g1")),
        "{told:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bond_has_nothing_to_negotiate() {
    let mut site = Site::new();
    site.simulation.time_to_join = Duration::ZERO;
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let bond = pair(1).replace(
        "</interface>",
        "<virtnic:hybrid xmlns:virtnic='urn:virtnic:1' guest='bond'/></interface>",
    );
    started(&client, "g1", &bond).await;
    for role in ["standby", "primary"] {
        let row = row(&client, "g1", role).await;
        let half = row.half.unwrap();
        assert_eq!(
            (&*row.state, half.negotiated, half.advice),
            ("lent", None, None)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_shows_both_halves_with_the_pf_that_they_share() {
    let site = Site::on("pfs=1,vfs=1");
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let network = "<network xmlns:virtnic='urn:virtnic:1'><name>n1</name>\
                   <forward mode='hostdev-hybrid' managed='yes'><pf dev='sim0'/></forward>\
                   <virtnic:hybrid fallback='virtio'/></network>";
    let net = client.define_network(network).await;
    client.ok(NetworkCreate { net }).await;
    let interface = on_network("n1");
    client.define_guest(&guest_xml("g1", &interface)).await;
    client.define_guest(&guest_xml("g2", &interface)).await;
    let plan = async |name: &str| {
        let of = PlanOf::Guest(name.to_owned());
        client.ok(VirtnicPlan { of }).await
    };
    let halves = |plan: &PlanReport| {
        let devices = plan
            .devices
            .iter()
            .map(|device| device.half.clone().unwrap());
        devices.collect::<Vec<_>>()
    };
    let first = plan("g1").await;
    assert!(first.would_start, "{first:#?}");
    let found = halves(&first);
    assert_eq!((&*found[0].role, &*found[1].role), ("standby", "primary"));
    assert_eq!(found[0].pair, found[1].pair);
    for half in &found {
        assert_eq!(half.pf.as_deref(), Some("sim0"));
    }
    let notes = first.devices[1].notes.join("\n");
    assert!(notes.contains("negotiated failover"), "{notes}");

    client
        .ok(DomainCreate {
            dom: Dom {
                name: "g1".into(),
                uuid: first.guest_uuid,
                id: -1,
            },
        })
        .await;
    let second = plan("g2").await;
    assert!(second.would_start, "{second:#?}");
    assert_eq!(halves(&second)[1].pf.as_deref(), Some("sim0"));
    let PlannedChoice::Owed(which) = &second.devices[1].choice else {
        panic!("{second:#?}")
    };
    assert!(
        which.contains("sim0") && which.contains("virtio"),
        "{which}"
    );

    // Promised counts are the network's to tell.
    client
        .ok(DomainCreate {
            dom: Dom {
                name: "g2".into(),
                uuid: second.guest_uuid,
                id: -1,
            },
        })
        .await;
    let row = row(&client, "g2", "primary").await;
    assert_eq!((&*row.state, row.network.as_deref()), ("owed", Some("n1")));
    let name = Some("n1".to_owned());
    let [report] = client.ok(VirtnicNetwork { name }).await.try_into().unwrap();
    assert_eq!((report.rows[0].promised, report.rows[0].free), (1, 0));
}

/// What a guest has itself it will have given back by its next start.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_names_what_it_takes_can_be_planned_before_and_while_it_runs() {
    for (devices, number) in [
        (
            "<interface type='hostdev-hybrid'><source dev='sim0'/></interface>",
            2,
        ),
        (
            "<interface type='hostdev' managed='yes'><source dev='sim0v1'/></interface>",
            1,
        ),
        (
            "<interface type='direct'><source dev='sim0' mode='bridge'/><model type='virtio'/></interface>",
            1,
        ),
        (
            "<interface type='direct'><source dev='sim0v1' mode='passthrough'/><model type='virtio'/></interface>",
            1,
        ),
    ] {
        let site = Site::new();
        let _daemon = site.start().await;
        let client = site.root.client().await;
        let dom = client.define_guest(&guest_xml("g1", devices)).await;
        let planned = async |when: &str| {
            let of = PlanOf::Guest("g1".to_owned());
            let plan = client.ok(VirtnicPlan { of }).await;
            assert!(plan.would_start, "{when}: {plan:#?}");
            assert_eq!(plan.devices.len(), number);
        };
        planned("off").await;
        client.start(&dom).await;
        planned("running").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mac_that_two_interfaces_have_is_told_and_that_of_a_pair_is_not() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let on = |pf: &str| {
        format!(
            "<interface type='direct'><mac address='52:54:00:00:00:31'/><source dev='{pf}' mode='bridge'/>\
             <model type='virtio'/></interface>"
        )
    };
    let devices = format!("{}{}{}", on("sim0"), on("sim1"), pair(0x32));
    client.define_guest(&guest_xml("g1", &devices)).await;
    let of = PlanOf::Guest("g1".to_owned());
    let plan = client.ok(VirtnicPlan { of }).await;
    assert!(plan.would_start, "{plan:#?}");
    let told = |at: usize| {
        plan.devices[at]
            .notes
            .iter()
            .any(|note| note.contains("52:54:00:00:00:31"))
    };
    assert_eq!([0, 1, 2, 3].map(told), [true, true, false, false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vf_that_somebody_has_is_known_by_the_name_that_it_had() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let by_name = "<interface type='hostdev' managed='yes'><source dev='sim0v1'/></interface>";
    let address = address_of(&client, "sim0v1").await;
    let by_address = format!(
        "<hostdev mode='subsystem' type='pci' managed='yes'><source>{}</source></hostdev>",
        address_xml(&address)
    );
    // The guest's own is no other's.
    for devices in [by_name.repeat(2), format!("{by_name}{by_address}")] {
        let start = start_of(&client, "g0", &devices).await;
        let error = client.refused(start.clone()).await;
        assert!(error.message().contains("twice"), "{error}");
        client.ok(DomainUndefine { dom: start.dom }).await;
    }
    started(&client, "g1", by_name).await;
    for devices in [by_name, &by_address] {
        let start = start_of(&client, "g2", devices).await;
        let error = client.refused(start.clone()).await;
        let parts = [&*address, "lent to guest 'g1'"];
        assert!(
            parts.iter().all(|part| error.message().contains(part)),
            "{error}"
        );
        client.ok(DomainUndefine { dom: start.dom }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_never_joins_its_halves_keeps_no_other_from_its_vf() {
    let site = Site::on("pfs=1,vfs=2");
    let _daemon = site.start().await;
    let client = site.root.client().await;
    client.running_network("n1", "sim0").await;
    let both = format!("{0}{0}", on_network("n1"));
    let holder = started(&client, "g0", &both).await;
    let fallback = |mac: u8| {
        pair(mac).replace(
            "</interface>",
            "<virtnic:hybrid xmlns:virtnic='urn:virtnic:1' fallback='virtio'/></interface>",
        )
    };
    started(&client, "g1", &fallback(1)).await;
    let ready = started(&client, "g2", &fallback(2)).await;
    simulated(&site, &ready).negotiate_failover(&standby(2));
    assert_eq!(state(&client, "g2", "primary").await, "owed");
    client.ok(DomainDestroy { dom: holder }).await;
    until("it has its VF", async || {
        state(&client, "g2", "primary").await == "lent"
    })
    .await;
    assert_eq!(state(&client, "g1", "primary").await, "owed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vf_that_can_not_be_plugged_in_is_tried_again_with_pauses() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let dom = started(&client, "g1", &pair(1)).await;
    let guest = simulated(&site, &dom);
    guest.set_faults(Faults::default().refuse("device_add"));
    guest.negotiate_failover(&standby(1));
    // The one that failed is given back, which is what the next try waits for.
    until("it is tried again", async || has(&guest, &vf(1))).await;
    until("it is known", async || {
        let rows = client.who().await;
        rows.iter().any(|row| {
            let role = row.half.as_ref().map(|half| &*half.role);
            role == Some("primary") && row.state == "lent"
        })
    })
    .await;
    let report = client.ok(drain("sim0")).await;
    assert!(report.vfs.is_empty(), "{report:?}");
}
