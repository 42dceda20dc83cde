//! Devices that come and go many times, by many clients, and VFs that are promised while steps fail.

use std::time::Duration;

use qemu::Faults;
use rpc::*;

use crate::guest_links::LIVE;
use crate::in_process::until;
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
