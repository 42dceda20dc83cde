//! Devices that come and go many times, by many clients, and VFs that are promised while steps fail.

use std::time::Duration;

use host::Operation;
use qemu::{Faults, Unplug};
use rpc::*;
use tokio::task::JoinSet;

use crate::guest_links::LIVE;
use crate::in_process::{reached, until};
use crate::plug_bench::*;

fn attach(dom: &Dom, what: What, mac: &str) -> DomainAttachDeviceFlags {
    DomainAttachDeviceFlags {
        dom: dom.clone(),
        xml: what.xml(mac),
        flags: LIVE.into(),
    }
}

fn detach(dom: &Dom, what: What, mac: &str) -> DomainDetachDeviceFlags {
    DomainDetachDeviceFlags {
        dom: dom.clone(),
        xml: what.xml(mac),
        flags: LIVE.into(),
    }
}

/// Where VFs are all lent, to the last guest.
async fn full(guests: usize) -> Bench {
    let bench = Bench::new("pfs=2,vfs=2", guests).await;
    let dom = &bench.doms[guests - 1];
    for vf in bench.all_vfs() {
        let what = What::HostDevice(vf);
        bench.client.ok(attach(dom, what, "")).await;
    }
    bench
}

/// Takes one of the VFs back.
async fn free_one(bench: &Bench, pf: &str) {
    let who = bench.client.who().await;
    let row = who
        .iter()
        .find(|row| row.pf.as_deref() == Some(pf))
        .unwrap();
    let address = row.pci_address.as_ref().unwrap().parse().unwrap();
    let dom = bench
        .doms
        .iter()
        .find(|dom| Some(dom.uuid) == row.guest_uuid);
    let what = What::HostDevice(address);
    bench.client.ok(detach(dom.unwrap(), what, "")).await;
}

/// The PF that the other half of a pair is on.
async fn pf_of(bench: &Bench, mac: &str) -> String {
    let who = bench.client.who().await;
    let standby = who.iter().find(|row| row.mac.as_deref() == Some(mac));
    standby.unwrap().parent.clone().unwrap()
}

/// Two guests wait for VFs of one PF: the first on both PFs, the second, whose MAC this is, on either.
async fn waiting(bench: &Bench, what: What) -> &'static str {
    let bus = u8::from(what == What::Bond);
    for last in 1..3 {
        let mac = format!("52:54:0{bus}:00:00:0{last}");
        bench.client.ok(attach(&bench.doms[0], what, &mac)).await;
    }
    let mac = match what {
        What::Bond => "52:54:01:00:01:01",
        _ => "52:54:00:00:01:01",
    };
    bench.client.ok(attach(&bench.doms[1], what, mac)).await;
    mac
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_vf_and_is_not_ready_keeps_it_from_nobody() {
    let bench = full(3).await;
    let mac = waiting(&bench, What::Pair).await;
    let guest = bench.guest(1).unwrap();
    guest.negotiate_failover("ua-hybrid-525400000101");
    free_one(&bench, &pf_of(&bench, mac).await).await;
    until("the one that is ready has it", async || {
        let vf = "ua-hybrid-525400000101-vf";
        guest.devices().iter().any(|one| one == vf)
    })
    .await;
    bench.is_consistent("").await;
    bench.ends_clean("").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vf_that_can_not_be_plugged_in_is_tried_again_and_not_without_end() {
    let bench = full(2).await;
    let mac = "52:54:01:00:00:01";
    bench
        .client
        .ok(attach(&bench.doms[0], What::Bond, mac))
        .await;
    let guest = bench.guest(0).unwrap();
    let refused = Faults {
        refused_commands: vec!["device_add".to_owned()],
        ..Faults::default()
    };
    guest.set_faults(refused);
    let host = &bench.site.simulation.host;
    free_one(&bench, &pf_of(&bench, mac).await).await;
    let binds = || {
        let bound = |effect: &&host::Effect| matches!(effect, host::Effect::Bound(..));
        host.effects().iter().filter(bound).count()
    };
    let before = binds();
    until("it was tried", async || binds() > before).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let tried = binds() - before;
    assert!(tried < 20, "{tried} times");
    guest.set_faults(Faults::default());
    bench.is_consistent("").await;
    bench.ends_clean("").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vf_that_one_guest_can_not_have_goes_to_the_next() {
    let bench = full(3).await;
    let mac = waiting(&bench, What::Bond).await;
    bench.guest(0).unwrap().set_faults(Faults {
        refused_commands: vec!["device_add".to_owned()],
        ..Faults::default()
    });
    let guest = bench.guest(1).unwrap();
    free_one(&bench, &pf_of(&bench, mac).await).await;
    until("the next has it", async || {
        let vf = "ua-hybrid-525401000101-vf";
        guest.devices().iter().any(|one| one == vf)
    })
    .await;
    bench.heal();
    bench.is_consistent("").await;
    bench.ends_clean("").await;
}

/// What may not grow, however often devices come and go.
async fn sizes(bench: &Bench) -> Vec<usize> {
    let guest = bench.guest(0).unwrap();
    let root = &bench.site.root;
    let record = bench.record_of(&bench.doms[0]);
    vec![
        guest.devices().len(),
        guest.netdevs().len(),
        guest.descriptors().len() + guest.nodes().len() + guest.descriptor_sets().len(),
        bench.site.simulation.host.snapshot().netdevs.len(),
        root.records("devices"),
        root.records("ports"),
        root.records("domains"),
        record.as_array().map_or(0, Vec::len),
        bench.client.who().await.len(),
        bench.client.guest_dump(&bench.doms[0], 0).await.len(),
    ]
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Other tests of this program open and close theirs meanwhile.
const OTHERS: usize = 200;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_grows_with_devices_that_come_and_go() {
    const CYCLES: usize = 250;
    let bench = Bench::new(NARROW, 1).await;
    let (client, dom, mac) = (&bench.client, &bench.doms[0], "52:54:00:00:00:01");
    let before = (sizes(&bench).await, descriptors());
    for _ in 0..CYCLES {
        for what in [What::Vf, What::Macvtap] {
            client.ok(attach(dom, what, mac)).await;
            client.ok(detach(dom, what, mac)).await;
        }
    }
    let after = (sizes(&bench).await, descriptors());
    assert_eq!(after.0, before.0);
    assert!(after.1 < before.1 + OTHERS, "{before:?} {after:?}");

    client.ok(attach(dom, What::PairOverPf, mac)).await;
    bench
        .guest(0)
        .unwrap()
        .negotiate_failover("ua-hybrid-525400000001");
    bench.is_consistent("before").await;
    let before = (sizes(&bench).await, descriptors());
    for _ in 0..2 * CYCLES {
        let (guest, mac) = ("g0".to_owned(), None);
        client.ok(VirtnicDemote { guest, mac }).await;
        let (guest, mac) = ("g0".to_owned(), None);
        client.ok(VirtnicPromote { guest, mac }).await;
    }
    let after = (sizes(&bench).await, descriptors());
    assert_eq!(after.0, before.0);
    assert!(after.1 < before.1 + OTHERS, "{before:?} {after:?}");
    bench.is_consistent("after").await;
    bench.ends_clean("").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_plug_and_unplug_at_once_are_all_answered() {
    const ROUNDS: usize = 15;
    let bench = Bench::new(NARROW, 2).await;
    let mut clients = JoinSet::new();
    for number in 0..4_u8 {
        let (client, dom) = (bench.site.root.client().await, bench.doms[0].clone());
        let guest = bench.guest(0).unwrap();
        clients.spawn(async move {
            // The first two are after the same devices.
            let mac = format!("52:54:00:00:00:0{}", number / 2);
            let bond = format!("52:54:01:00:00:0{number}");
            for round in 0..ROUNDS {
                guest.set_faults(Faults {
                    unplug: match round % 3 {
                        0 => Unplug::AtOnce,
                        1 => Unplug::After(Duration::from_millis(1)),
                        _ => Unplug::Refused,
                    },
                    ..Faults::default()
                });
                for (what, mac) in [(What::Vf, &mac), (What::Macvtap, &mac), (What::Bond, &bond)] {
                    let _ = call(&client, attach(&dom, what, mac)).await;
                    let _ = call(&client, detach(&dom, what, mac)).await;
                }
            }
        });
    }
    for number in 0..2 {
        let (client, dom) = (bench.site.root.client().await, bench.doms[number].clone());
        clients.spawn(async move {
            for _ in 0..ROUNDS * 4 {
                let flags = Default::default();
                let dom = dom.clone();
                call(&client, DomainGetXmlDesc { dom, flags })
                    .await
                    .unwrap();
                client.who().await;
            }
        });
    }
    let (client, dom) = (bench.site.root.client().await, bench.doms[0].clone());
    clients.spawn(async move {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(40)).await;
            client.ok(DomainDestroy { dom: dom.clone() }).await;
            client.start(&dom).await;
        }
    });
    while let Some(joined) = clients.join_next().await {
        joined.unwrap();
    }
    bench.heal();
    bench.is_consistent("after the storm").await;
    bench.ends_clean("").await;
}

/// QEMU makes a failover pair's VF anew whenever its guest starts anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_reboots_just_as_its_vf_is_taken_does_not_keep_it() {
    let bench = Bench::new(NARROW, 1).await;
    let (standby, vf) = ("ua-hybrid-525400000001", "ua-hybrid-525400000001-vf");
    let over_pf = attach(&bench.doms[0], What::PairOverPf, "52:54:00:00:00:01");
    bench.client.ok(over_pf).await;
    let guest = bench.guest(0).unwrap();
    guest.negotiate_failover(standby);
    bench.is_consistent("before").await;
    let held = bench.site.simulation.host.hold(Operation::Unbind);
    let demoting = tokio::spawn({
        let client = bench.site.root.client().await;
        let (guest, mac) = ("g0".to_owned(), None);
        async move { client.ok(VirtnicDemote { guest, mac }).await }
    });
    let held = reached(held).await;
    guest.reboot();
    assert_eq!(guest.open_devices().len(), 1, "it has it again");
    drop(held);
    demoting.await.unwrap();
    until("it is out for good", async || {
        let who = bench.client.who().await;
        let is_lent = who.iter().any(|row| row.kind == LentKind::Hostdev);
        !is_lent && !guest.devices().iter().any(|one| one == vf)
    })
    .await;
    guest.reboot();
    assert!(guest.open_devices().is_empty());
    bench.is_consistent("after").await;
    bench.ends_clean("").await;
}
