//! Pairs while their guests run: one interface, two devices, one MAC.

use conf::DirectMode;
use host::{Fault, Operation};
use qemu::{Faults, SimulatedGuest, Unplug};
use rpc::*;

use crate::guest_links::{CONFIG, LIVE};
use crate::harness::*;
use crate::in_process::{Site, reached, until};

const MAC: &str = "52:54:00:00:00:99";
const STANDBY: &str = "ua-hybrid-525400000099";
const VF: &str = "ua-hybrid-525400000099-vf";

/// The one element, over a PF.
fn over_pf(settings: &str) -> String {
    format!(
        "<interface type='hostdev-hybrid'><mac address='{MAC}'/><source dev='sim0'/>\
         <virtnic:hybrid xmlns:virtnic='urn:virtnic:1' {settings}/></interface>"
    )
}

fn on(network: &str) -> String {
    format!(
        "<interface type='network'><mac address='{MAC}'/><source network='{network}'/></interface>"
    )
}

fn network(name: &str, pfs: &[&str], settings: &str) -> String {
    let pfs: String = pfs.iter().map(|pf| format!("<pf dev='{pf}'/>")).collect();
    format!(
        "<network xmlns:virtnic='urn:virtnic:1'><name>{name}</name>\
         <forward mode='hostdev-hybrid' managed='yes'>{pfs}</forward>\
         <virtnic:hybrid {settings}/></network>"
    )
}

async fn running(client: &Client, xml: &str) -> Net {
    let net = client.define_network(xml).await;
    client.ok(NetworkCreate { net: net.clone() }).await;
    net
}

async fn started(client: &Client, name: &str, interface: &str) -> Dom {
    let dom = client.define_guest(&guest_xml(name, interface)).await;
    client.start(&dom).await
}

fn simulated(site: &Site, dom: &Dom) -> SimulatedGuest {
    site.simulation.guests.guest(dom.uuid).unwrap()
}

fn has(guest: &SimulatedGuest, alias: &str) -> bool {
    guest.devices().iter().any(|known| known == alias)
}

/// Devices lent or claimed: kind, state.
async fn rows(client: &Client) -> Vec<(LentKind, String)> {
    let mut rows: Vec<_> = (client.who().await.into_iter())
        .filter(|row| row.pci_address.is_some() || row.host_netdev.is_some())
        .map(|row| (row.kind, row.state))
        .collect();
    rows.sort_by_key(|(kind, state)| (kind.word(), state.clone()));
    rows
}

async fn plugged(client: &Client, guest: &SimulatedGuest, alias: &str) {
    until("the VF is plugged in", async || {
        has(guest, alias)
            && rows(client)
                .await
                .iter()
                .any(|(kind, state)| *kind == LentKind::Hostdev && state == "lent")
    })
    .await;
}

fn promote(guest: &str) -> VirtnicPromote {
    VirtnicPromote {
        guest: guest.to_owned(),
        mac: None,
    }
}

fn demote(guest: &str) -> VirtnicDemote {
    VirtnicDemote {
        guest: guest.to_owned(),
        mac: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vf_is_reserved_at_start_and_plugged_in_when_the_guest_is_ready() {
    for (settings, how) in [("", "pf"), ("", "network")] {
        let site = Site::new();
        let _daemon = site.start().await;
        let client = site.root.client().await;
        let interface = match how {
            "pf" => over_pf(settings),
            _ => {
                running(&client, &network("n1", &["sim0", "sim1"], settings)).await;
                on("n1")
            }
        };
        let dom = client.define_guest(&guest_xml("g1", &interface)).await;
        let before = client.picture(&site.root).await;
        client.start(&dom).await;
        let guest = simulated(&site, &dom);
        // Reserved, and not bound, so that no guest could reach it.
        assert!(has(&guest, STANDBY) && !has(&guest, VF), "{how}");
        assert_eq!(rows(&client).await.len(), 2, "{how}");
        let reserved = client
            .who()
            .await
            .into_iter()
            .find(|row| row.kind == LentKind::Hostdev);
        assert_ne!(
            reserved.unwrap().driver.as_deref(),
            Some("vfio-pci"),
            "{how}"
        );

        guest.negotiate_failover(STANDBY);
        plugged(&client, &guest, VF).await;
        let live = client.guest_dump(&dom, 0).await;
        assert_eq!(live.matches(MAC).count(), 2, "{live}");
        assert_eq!(
            live.matches("<interface type='direct'").count(),
            1,
            "{live}"
        );
        assert_eq!(
            live.matches("<interface type='hostdev'").count(),
            1,
            "{live}"
        );
        assert!(
            live.contains("<address type='pci' domain='0x0000' bus='0x0"),
            "{live}"
        );
        assert!(live.contains("dev='sim0' mode='bridge'"), "{live}");

        client.ok(DomainDestroy { dom }).await;
        assert_eq!(client.picture(&site.root).await, before, "{how}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_guests_on_the_pf_find_it_where_it_listens() {
    let site = Site::new();
    let daemon = site.start().await;
    let client = site.root.client().await;
    let host = &site.simulation.host;
    let mode = || host.macvlan_mode("macvtap0");
    let dom = started(&client, "g1", &over_pf("")).await;
    let guest = simulated(&site, &dom);
    assert_eq!(mode(), Some(DirectMode::Bridge));
    guest.negotiate_failover(STANDBY);
    plugged(&client, &guest, VF).await;
    until("it is passed by", async || mode() == Some(DirectMode::Vepa)).await;
    client.ok(demote("g1")).await;
    assert_eq!(mode(), Some(DirectMode::Bridge));
    // That this can't be done keeps no VF from a guest, and is made good by the next daemon.
    host.fail(Fault::of(Operation::SetMacvlanMode, 95));
    client.ok(promote("g1")).await;
    assert!(has(&guest, VF));
    assert_eq!(mode(), Some(DirectMode::Bridge));
    daemon.stop().await;
    let _daemon = site.start().await;
    until("it is passed by", async || mode() == Some(DirectMode::Vepa)).await;
    let client = site.root.client().await;
    client.ok(DomainDestroy { dom }).await;

    let dom = started(&client, "g2", &over_pf("guest='bond'")).await;
    assert_eq!(mode(), Some(DirectMode::Vepa));
    // Without its VF half it is an interface like any other.
    let detach = DomainDetachDeviceAlias {
        dom,
        alias: VF.to_owned(),
        flags: LIVE.into(),
    };
    client.ok(detach).await;
    until("it is found again", async || {
        mode() == Some(DirectMode::Bridge)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bond_has_both_from_the_start() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let dom = started(&client, "g1", &over_pf("guest='bond'")).await;
    let guest = simulated(&site, &dom);
    assert!(has(&guest, STANDBY) && has(&guest, VF));
    client.ok(demote("g1")).await;
    assert!(has(&guest, STANDBY) && !has(&guest, VF));
    assert_eq!(rows(&client).await.len(), 1);
    client.ok(promote("g1")).await;
    assert!(has(&guest, VF));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_never_negotiates_keeps_virtio_and_gives_all_back() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let dom = client.define_guest(&guest_xml("g1", &over_pf(""))).await;
    let before = client.picture(&site.root).await;
    client.start(&dom).await;
    let error = client.refused(promote("g1")).await;
    assert!(error.message().contains("VIRTIO_NET_F_STANDBY"), "{error}");
    assert!(!has(&simulated(&site, &dom), VF));
    client.ok(DomainDestroy { dom }).await;
    assert_eq!(client.picture(&site.root).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vf_goes_and_comes_by_hand_many_times() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    running(&client, &network("n1", &["sim0"], "")).await;
    let dom = started(&client, "g1", &on("n1")).await;
    let guest = simulated(&site, &dom);
    guest.negotiate_failover(STANDBY);
    plugged(&client, &guest, VF).await;
    let before = client.guest_dump(&dom, 0).await;
    for _ in 0..20 {
        client.ok(demote("g1")).await;
        assert!(!has(&guest, VF) && has(&guest, STANDBY));
        assert_eq!(rows(&client).await.len(), 1);
        let live = client.guest_dump(&dom, 0).await;
        assert_eq!(live.matches(MAC).count(), 2, "{live}");
        client.ok(promote("g1")).await;
        assert!(has(&guest, VF));
    }
    let strip = |xml: &str| {
        let lines = xml.lines().filter(|line| !line.contains("portid="));
        lines.collect::<Vec<_>>().join("\n")
    };
    assert_eq!(strip(&client.guest_dump(&dom, 0).await), strip(&before));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_gets_the_next_vf_the_oldest_first() {
    let site = Site::on("pfs=1,vfs=1");
    let _daemon = site.start().await;
    let client = site.root.client().await;
    running(&client, &network("n1", &["sim0"], "fallback='virtio'")).await;
    let plain = client.running_network("n2", "sim0").await;
    let first = started(&client, "g0", &on("n1").replace(":99", ":90")).await;
    simulated(&site, &first).negotiate_failover("ua-hybrid-525400000090");
    let mut waiting = Vec::new();
    for number in [1, 2] {
        let interface = on("n1").replace(":99", &format!(":9{number}"));
        let dom = started(&client, &format!("g{number}"), &interface).await;
        let guest = simulated(&site, &dom);
        let standby = format!("ua-hybrid-52540000009{number}");
        assert!(has(&guest, &standby));
        guest.negotiate_failover(&standby);
        waiting.push((dom, guest, format!("{standby}-vf")));
    }
    let dom = client.define_guest(&guest_xml("late", &on("n2"))).await;
    client.ok(DomainDestroy { dom: first }).await;
    let (oldest, guest, vf) = &waiting[0];
    until("the oldest has it", async || has(guest, vf)).await;
    assert!(!has(&waiting[1].1, &waiting[1].2));
    // Who comes later does not get what is promised.
    let start = DomainCreateWithFlags {
        dom: dom.clone(),
        flags: Default::default(),
    };
    client.refused(start).await;
    client
        .ok(DomainDestroy {
            dom: oldest.clone(),
        })
        .await;
    until("the next has it", async || {
        has(&waiting[1].1, &waiting[1].2)
    })
    .await;
    client
        .ok(DomainDestroy {
            dom: waiting[1].0.clone(),
        })
        .await;
    client.start(&dom).await;
    assert_eq!(client.ports(&plain).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_fallback_a_guest_needs_its_vf() {
    let site = Site::on("pfs=1,vfs=1");
    let _daemon = site.start().await;
    let client = site.root.client().await;
    started(&client, "g1", &over_pf("").replace(":99", ":98")).await;
    let dom = client.define_guest(&guest_xml("g2", &over_pf(""))).await;
    let before = client.picture(&site.root).await;
    let start = DomainCreateWithFlags {
        dom,
        flags: Default::default(),
    };
    let error = client.refused(start).await;
    assert!(error.message().contains("g1"), "{error}");
    assert_eq!(client.picture(&site.root).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_that_can_not_be_plugged_in_says_what_its_vf_lacks() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    running(&client, &network("n1", &["sim0"], "")).await;
    let dom = started(&client, "g1", &root_ports(6)).await;
    let pf = "sim0".to_owned();
    client.ok(VirtnicDrain { pf }).await;
    let before = client.picture(&site.root).await;
    let attach = DomainAttachDeviceFlags {
        dom,
        xml: on("n1"),
        flags: LIVE.into(),
    };
    let error = client.refused(attach).await;
    assert!(error.message().contains("undrain sim0"), "{error}");
    assert_eq!(client.picture(&site.root).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_keeps_a_standby_as_long_as_its_vf() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let dom = client.define_guest(&guest_xml("g1", &over_pf(""))).await;
    let before = client.guest_dump(&dom, 0).await;
    let detach = |alias: &str| DomainDetachDeviceAlias {
        dom: dom.clone(),
        alias: alias.to_owned(),
        flags: CONFIG.into(),
    };
    let error = client.refused(detach(STANDBY)).await;
    assert!(error.message().contains("goes first"), "{error}");
    assert_eq!(client.guest_dump(&dom, 0).await, before);
    client.ok(detach(VF)).await;
    client.start(&dom).await;
    client.ok(DomainDestroy { dom: dom.clone() }).await;
    client.ok(detach(STANDBY)).await;
    assert!(!client.guest_dump(&dom, 0).await.contains(MAC));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_vf_is_replaced_by_another_of_the_same_pf() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    running(&client, &network("n1", &["sim0", "sim1"], "")).await;
    let dom = started(&client, "g1", &on("n1")).await;
    let guest = simulated(&site, &dom);
    guest.negotiate_failover(STANDBY);
    plugged(&client, &guest, VF).await;
    let vf_of = |rows: Vec<Lent>| rows.into_iter().find(|row| row.kind == LentKind::Hostdev);
    let lost = vf_of(client.who().await).unwrap();
    // The kernel takes it away: QEMU unplugs it unasked.
    guest.ask_back(VF);
    until("it has another", async || {
        has(&guest, VF)
            && vf_of(client.who().await).is_some_and(|row| row.since > 0 && row.state == "lent")
    })
    .await;
    assert_eq!(vf_of(client.who().await).unwrap().pf, lost.pf);
    assert_eq!(rows(&client).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_is_plugged_in_and_out_as_one() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let dom = started(&client, "g1", &root_ports(6)).await;
    let before = client.picture(&site.root).await;
    let guest = simulated(&site, &dom);
    let attach = DomainAttachDeviceFlags {
        dom: dom.clone(),
        xml: over_pf(""),
        flags: (LIVE | CONFIG).into(),
    };
    client.ok(attach.clone()).await;
    for flags in [0, DOMAIN_XML_INACTIVE] {
        let shown = client.guest_dump(&dom, flags).await;
        assert_eq!(shown.matches(MAC).count(), 2, "{shown}");
        assert!(shown.contains(STANDBY) && shown.contains(VF), "{shown}");
    }
    guest.negotiate_failover(STANDBY);
    plugged(&client, &guest, VF).await;
    // The half that stays can't go first.
    let standby = DomainDetachDeviceAlias {
        dom: dom.clone(),
        alias: STANDBY.to_owned(),
        flags: LIVE.into(),
    };
    let error = client.refused(standby).await;
    assert!(error.message().contains(VF), "{error}");
    let detach = DomainDetachDeviceFlags {
        dom: dom.clone(),
        xml: over_pf(""),
        flags: (LIVE | CONFIG).into(),
    };
    client.ok(detach).await;
    until("all is as before", async || {
        client.picture(&site.root).await == before
    })
    .await;

    // A guest that does not let its VF go keeps both halves.
    client.ok(attach).await;
    guest.negotiate_failover(STANDBY);
    plugged(&client, &guest, VF).await;
    guest.set_faults(Faults {
        unplug: Unplug::Refused,
        ..Faults::default()
    });
    let detach = DomainDetachDeviceFlags {
        dom: dom.clone(),
        xml: over_pf(""),
        flags: LIVE.into(),
    };
    client.refused(detach).await;
    assert!(has(&guest, VF) && has(&guest, STANDBY));
    assert_eq!(rows(&client).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_one_element_takes_what_is_left_of_a_pair() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let dom = started(&client, "g1", &root_ports(6)).await;
    let before = client.picture(&site.root).await;
    let guest = simulated(&site, &dom);
    // Its VF was taken from what runs, from the definition, from both.
    for parted in [LIVE, CONFIG, LIVE | CONFIG] {
        let attach = DomainAttachDeviceFlags {
            dom: dom.clone(),
            xml: over_pf(""),
            flags: (LIVE | CONFIG).into(),
        };
        client.ok(attach).await;
        guest.negotiate_failover(STANDBY);
        plugged(&client, &guest, VF).await;
        let vf = DomainDetachDeviceAlias {
            dom: dom.clone(),
            alias: VF.to_owned(),
            flags: parted.into(),
        };
        client.ok(vf).await;
        until("the guest has let it go", async || {
            client.guest_dump(&dom, 0).await.contains(VF) == (parted == CONFIG)
        })
        .await;
        let rest = DomainDetachDeviceFlags {
            dom: dom.clone(),
            xml: over_pf(""),
            flags: (LIVE | CONFIG).into(),
        };
        client.ok(rest.clone()).await;
        until("all is as before", async || {
            client.picture(&site.root).await == before
        })
        .await;
        client.refused(rest).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_the_definition_can_not_lose_stays_in_the_guest() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let dom = started(&client, "g1", &over_pf("guest='bond'")).await;
    let guest = simulated(&site, &dom);
    plugged(&client, &guest, VF).await;
    let detach = |alias: &str, flags: u32| DomainDetachDeviceAlias {
        dom: dom.clone(),
        alias: alias.to_owned(),
        flags: flags.into(),
    };
    client.ok(detach(VF, LIVE)).await;
    until("the guest has let it go", async || {
        !client.guest_dump(&dom, 0).await.contains(VF)
    })
    .await;
    let before = client.picture(&site.root).await;
    let error = client.refused(detach(STANDBY, LIVE | CONFIG)).await;
    assert!(error.message().contains("goes first"), "{error}");
    assert!(has(&guest, STANDBY));
    assert_eq!(client.picture(&site.root).await, before);
    client.ok(detach(STANDBY, LIVE)).await;
}

/// While it is plugged in a VF is told once, as its half of the pair.
#[tokio::test(flavor = "multi_thread")]
async fn a_vf_on_its_way_is_told_once() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    started(&client, "g1", &over_pf("guest='bond'")).await;
    client.ok(demote("g1")).await;
    until("it is parted", async || {
        client.who().await.iter().any(|row| row.state == "parted")
    })
    .await;
    let held = site.simulation.host.hold(Operation::Bind);
    let promoting = tokio::spawn({
        let other = site.root.client().await;
        async move { other.rpc.call(&promote("g1")).await }
    });
    let held = reached(held).await;
    let who = client.who().await;
    drop(held);
    promoting.await.unwrap().unwrap();
    let vfs: Vec<_> = who
        .iter()
        .filter(|row| row.kind == LentKind::Hostdev)
        .collect();
    let [vf] = vfs[..] else { panic!("{who:#?}") };
    assert_eq!(vf.state, "preparing");
    assert_eq!(vf.half.as_ref().unwrap().role, "primary");
}

/// The VF that could not be restored is told, and that its half of the pair has none.
#[tokio::test(flavor = "multi_thread")]
async fn a_half_whose_vf_is_dirty_is_told_beside_it() {
    let site = Site::new();
    let _daemon = site.start().await;
    let client = site.root.client().await;
    let dom = started(&client, "g1", &over_pf("")).await;
    let guest = simulated(&site, &dom);
    guest.negotiate_failover(STANDBY);
    plugged(&client, &guest, VF).await;
    for nth in 1..20 {
        site.simulation
            .host
            .fail(Fault::of(Operation::Unbind, 16).nth(nth));
    }
    client.ok(demote("g1")).await;
    until("both are told", async || {
        let who = client.who().await;
        let has = |state: &str| who.iter().any(|row| row.state == state);
        has("dirty") && has("parted")
    })
    .await;
    site.simulation.host.heal();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_daemon_knows_what_is_reserved_owed_and_parted() {
    let site = Site::on("pfs=1,vfs=2");
    let daemon = site.start().await;
    let client = site.root.client().await;
    running(&client, &network("n1", &["sim0"], "fallback='virtio'")).await;
    let mut doms = Vec::new();
    for number in 1..5 {
        let interface = match number {
            1 => over_pf("").replace(":99", ":91"),
            _ => on("n1").replace(":99", &format!(":9{number}")),
        };
        doms.push(started(&client, &format!("g{number}"), &interface).await);
    }
    let alias = |number: usize| format!("ua-hybrid-52540000009{number}");
    let guests: Vec<_> = doms.iter().map(|dom| simulated(&site, dom)).collect();
    daemon.stop().await;
    let _daemon = site.start().await;
    let client = site.root.client().await;
    // What was reserved is nobody else's.
    let late = client.define_guest(&guest_xml("late", &over_pf(""))).await;
    let start = DomainCreateWithFlags {
        dom: late,
        flags: Default::default(),
    };
    client.refused(start).await;
    for number in 1..3 {
        let guest = &guests[number - 1];
        guest.negotiate_failover(&alias(number));
        let vf = format!("{}-vf", alias(number));
        until("it has its VF", async || has(guest, &vf)).await;
    }
    // One is promised to two, and goes to the older.
    for number in 3..5 {
        guests[number - 1].negotiate_failover(&alias(number));
    }
    client.ok(demote("g1")).await;
    until("the older has it", async || {
        has(&guests[2], &format!("{}-vf", alias(3)))
    })
    .await;
    assert!(!has(&guests[3], &format!("{}-vf", alias(4))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reboot_does_not_bring_a_vf_back_that_was_taken() {
    let site = Site::on("pfs=1,vfs=1");
    let _daemon = site.start().await;
    let client = site.root.client().await;
    running(&client, &network("n1", &["sim0"], "")).await;
    let dom = started(&client, "g1", &on("n1")).await;
    let guest = simulated(&site, &dom);
    guest.negotiate_failover(STANDBY);
    plugged(&client, &guest, VF).await;
    client.ok(demote("g1")).await;
    guest.reboot();
    guest.negotiate_failover(STANDBY);
    // Another gets it.
    let other = started(
        &client,
        "g2",
        &over_pf("guest='bond'").replace(":99", ":98"),
    )
    .await;
    assert!(has(&simulated(&site, &other), "ua-hybrid-525400000098-vf"));
    client.ok(DomainDestroy { dom: other }).await;
    client.ok(promote("g1")).await;
    assert!(has(&guest, VF));
}
