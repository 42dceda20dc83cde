//! Guests that move from one host to another.

mod faults;
mod journey;
mod offline;

use qemu::Faults;
use rpc::flags::MigrateParams as Flags;
use rpc::*;

use crate::harness::*;
use crate::in_process::until;
use crate::plug_bench::*;
use journey::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_with_pairs_goes_to_another_host_and_comes_back() {
    let mut hosts = Hosts::new().await;
    let mut mover = Mover::new(&hosts).await;
    mover.flags = Flags::LIVE | Flags::PERSIST_DEST | Flags::UNDEFINE_SOURCE;
    for trip in 0..4 {
        let when = format!("trip {trip}");
        let dom = mover.go().await.unwrap();
        let left = hosts.here.client.guest_names(0).await;
        assert!(left.is_empty(), "{when}: {left:?}");
        hosts.is_there(dom, &when).await;
        let guest = hosts.there.guest(0).unwrap();
        assert_eq!(guest.open_devices().len(), 2, "{when}: its VFs");
        assert!(guest.announcements() > 0, "{when}");
        // And back.
        std::mem::swap(&mut hosts.here, &mut hosts.there);
        hosts.there.doms.clear();
        hosts.dom = hosts.here.doms[0].clone();
        let flags = mover.flags;
        mover = Mover::new(&hosts).await;
        mover.flags = flags;
    }
    hosts.here.ends_clean("at the end").await;
    hosts.there.ends_clean("at the end").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_hear_how_a_guest_leaves_and_comes() {
    let mut hosts = Hosts::with(&[(What::Macvtap, TAP_MAC)]).await;
    for bench in [&hosts.here, &hosts.there] {
        bench.client.listen().await;
    }
    for event_id in [20, 21] {
        let register = ConnectDomainEventCallbackRegisterAny {
            event_id,
            dom: None,
        };
        hosts.here.client.ok(register).await;
    }
    let mover = Mover::new(&hosts).await;
    mover.go().await.unwrap();
    let mut heard = Vec::new();
    while !heard
        .iter()
        .any(|event: &String| event.contains("JobCompleted"))
    {
        heard.push(hosts.here.client.event().await);
    }
    let job = heard.pop().unwrap();
    assert!(job.contains("memory_total"), "{job}");
    let iterations = heard
        .iter()
        .filter(|event| event.contains("MigrationIteration"));
    assert_eq!(iterations.count(), 2, "{heard:?}");
    heard.retain(|event| !event.contains("MigrationIteration"));
    assert_eq!(heard, ["g0 1 SuspendedMigrated", "g0 -1 StoppedMigrated"]);
    let expected = ["g0 1 StartedMigrated", "g0 1 ResumedMigrated"];
    hosts.there.client.hears(&expected).await;
    let state = |client, dom: Dom| async move {
        Client::ok(
            client,
            DomainGetState {
                dom,
                flags: Default::default(),
            },
        )
        .await
    };
    let off = state(&hosts.here.client, hosts.dom.clone()).await;
    assert_eq!((off.state, off.reason), (5, 4), "shut off, migrated");
    let on = state(&hosts.there.client, hosts.dom.clone()).await;
    assert_eq!((on.state, on.reason), (1, 2), "running, migrated");
    for (bench, operation) in [(&hosts.here, 5), (&hosts.there, 4)] {
        let (dom, flags) = (hosts.dom.clone(), 1.into());
        let stats = bench.client.ok(DomainGetJobStats { dom, flags }).await;
        assert_eq!(stats.r#type, 3);
        assert_eq!(stats.params[0].value, TypedValue::I32(operation));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_move_is_refused_before_anything_happens_with_every_reason() {
    let hosts = Hosts::with(&[(What::Pair, MAC), (What::Vf, "52:54:00:00:00:09")]).await;
    let mover = Mover::new(&hosts).await;
    hosts
        .here
        .client
        .ok(DomainSuspend {
            dom: hosts.dom.clone(),
        })
        .await;
    let before = hosts.here.client.picture(&hosts.here.site.root).await;
    let error = mover.go().await.unwrap_err();
    for part in [
        "can't be moved as it is",
        "it is paused",
        "52:54:00:00:00:09: it is a VF without",
    ] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(
        before,
        hosts.here.client.picture(&hosts.here.site.root).await
    );
    assert_eq!(hosts.runs(), (false, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_cannot_take_it_says_why_and_keeps_nothing() {
    let mut hosts = Hosts::new().await;
    // One of its networks is off.
    let pairs = hosts
        .there
        .client
        .ok(NetworkLookupByName {
            name: "pairs".to_owned(),
        })
        .await;
    hosts
        .there
        .client
        .ok(NetworkDestroy { net: pairs.clone() })
        .await;
    let mover = Mover::new(&hosts).await;
    let error = mover.go().await.unwrap_err();
    assert!(error.contains("network 'pairs' is not active"), "{error}");
    hosts.there.client.ok(NetworkCreate { net: pairs }).await;
    hosts.nothing_there("no network").await;
    hosts.is_here("no network").await;

    // Its CPU is another.
    let word = |features: u32| serde_json::json!([{ "cpuid-input-eax": 1, "cpuid-register": "ECX", "features": features }]);
    let cpu = |features| Faults {
        cpu_features: Some(word(features)),
        ..Faults::default()
    };
    hosts.here.guest(0).unwrap().set_faults(cpu(3));
    hosts.there.site.simulation.guests.set_faults(cpu(1));
    let error = mover.go().await.unwrap_err();
    assert!(
        error.contains("CPUID 0x1 ECX is 0x00000003 there and 0x00000001 here"),
        "{error}"
    );
    hosts.nothing_there("another CPU").await;
    hosts.is_here("another CPU").await;
    hosts.there.site.simulation.guests.set_faults(cpu(3));
    let dom = mover.go().await.unwrap();
    hosts.is_there(dom, "the same CPU").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_on_its_way_is_not_changed_by_anybody_else() {
    let hosts = Hosts::new().await;
    let mover = Mover::new(&hosts).await;
    let begun = mover.begin().await.unwrap();
    let xml = What::Macvtap.xml("52:54:00:00:00:0a");
    let (dom, flags) = (hosts.dom.clone(), 1.into());
    let error = call(
        &hosts.here.client,
        DomainAttachDeviceFlags { dom, xml, flags },
    )
    .await;
    assert!(error.unwrap_err().contains("on its way to another host"));
    // Nor moved by another.
    let other = Mover::new(&hosts).await;
    let error = other.go().await.unwrap_err();
    assert!(error.contains("on its way to another host"), "{error}");
    // Whoever has announced it is the one that brings it.
    let _prepared = mover.prepare(&begun).await.unwrap();
    let error = other.finish(&begun.cookie_out, false).await.unwrap_err();
    assert!(error.contains("by another client"), "{error}");
    assert_eq!(hosts.runs(), (true, false));
    let dom = hosts.dom.clone();
    hosts.here.client.ok(DomainAbortJob { dom }).await;
    drop(mover);
    until("nothing waits there", async || {
        hosts.there.client.guest_names(0).await.is_empty()
    })
    .await;
    hosts.is_here("called off").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_seen_limited_and_aborted() {
    let mut hosts = Hosts::new().await;
    let mover = Mover::new(&hosts).await;
    let client = &hosts.here.client;
    let (dom, flags) = (hosts.dom.clone(), rpc::flags::NoFlags::NONE);
    let none = client.ok(DomainGetJobInfo { dom: dom.clone() }).await;
    assert_eq!(none.r#type, 0);
    let refused = client.refused(DomainAbortJob { dom: dom.clone() }).await;
    assert!(
        refused.to_string().contains("no job is active"),
        "{refused}"
    );
    let set = DomainMigrateSetMaxSpeed {
        dom: dom.clone(),
        bandwidth: 7,
        flags,
    };
    client.ok(set).await;
    let guest = hosts.here.guest(0).unwrap();
    let stays = Faults {
        migration_stays: true,
        ..Faults::default()
    };
    guest.set_faults(stays);
    let going = tokio::spawn(async move { mover.go().await });
    let info = || async {
        let dom = dom.clone();
        client.ok(DomainGetJobInfo { dom }).await
    };
    until("memory is on its way", async || info().await.data_total > 0).await;
    let now = info().await;
    assert_eq!((now.r#type, now.data_remaining > 0), (2, true));
    assert_eq!(guest.migration_bandwidth(), 7 << 20);
    let set = DomainMigrateSetMaxSpeed {
        dom: dom.clone(),
        bandwidth: 9,
        flags,
    };
    client.ok(set).await;
    assert_eq!(guest.migration_bandwidth(), 9 << 20);
    let speed = client
        .ok(DomainMigrateGetMaxSpeed {
            dom: dom.clone(),
            flags,
        })
        .await;
    assert_eq!(speed, 9);
    assert!(guest.open_devices().is_empty(), "its VFs are gone by now");
    client.ok(DomainAbortJob { dom: dom.clone() }).await;
    let error = going.await.unwrap().unwrap_err();
    assert!(error.contains("canceled by client"), "{error}");
    guest.set_faults(Faults::default());
    hosts.is_here("aborted").await;
    until("its VFs are back", async || guest.open_devices().len() == 2).await;
    hosts.nothing_there("aborted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_brings_a_guest_to_another_one_by_itself() {
    let mut hosts = Hosts::new().await;
    let mut mover = Mover::new(&hosts).await;
    mover.flags = Flags::LIVE | Flags::PERSIST_DEST | Flags::UNDEFINE_SOURCE;
    let perform = mover.by_itself(&hosts);
    hosts.here.client.ok(perform).await;
    let dom = hosts.dom.clone();
    hosts.is_there(dom, "by itself").await;
    assert!(hosts.here.client.guest_names(0).await.is_empty());
    assert_eq!(hosts.there.client.guest_names(0).await, ["g0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asked_a_daemon_to_move_a_guest_may_go_away() {
    let mut hosts = Hosts::new().await;
    let mover = Mover::new(&hosts).await;
    let guest = hosts.here.guest(0).unwrap();
    guest.set_faults(Faults {
        migration_stays: true,
        ..Faults::default()
    });
    let dom = hosts.dom.clone();
    let perform = mover.by_itself(&hosts);
    let going = tokio::spawn(async move { drop(mover.here.rpc.call(&perform).await) });
    until("its memory is on its way", async || {
        let dom = dom.clone();
        hosts
            .here
            .client
            .ok(DomainGetJobInfo { dom })
            .await
            .data_total
            > 0
    })
    .await;
    going.abort();
    let _ = going.await;
    guest.set_faults(Faults::default());
    hosts.is_there(dom, "on its own").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_asks_the_other_one_where_the_guest_is() {
    for (command, is_there) in [("cont", false), ("announce-self", false)] {
        let when = format!("killed at {command}");
        let mut hosts = Hosts::new().await;
        let runtime = crate::plug_crash::killable(&mut hosts.there).await;
        let mut mover = Mover::new(&hosts).await;
        mover.flags = Flags::LIVE | Flags::PERSIST_DEST;
        let there = hosts.there.site.simulation.guests.clone();
        there.set_faults(Faults::default().swallow(command));
        let dom = hosts.dom.clone();
        let perform = mover.by_itself(&hosts);
        let going = tokio::spawn(async move { mover.here.rpc.call(&perform).await.map(drop) });
        let guest = || there.guest(dom.uuid);
        until("it is told to run", async || {
            guest().is_some_and(|guest| guest.waiting_faults() == 0)
        })
        .await;
        there.daemon_ends();
        crate::plug_crash::kill(&mut hosts.there, runtime).await;
        there.daemon_ends();
        there.set_faults(Faults::default());
        assert_eq!(hosts.runs(), (false, false), "{when}: neither knows yet");
        hosts.there.restart().await;
        let went = going.await.unwrap();
        assert_eq!(went.is_ok(), is_there, "{when}: {went:?}");
        hosts.nothing_there(&when).await;
        hosts.is_here(&when).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_daemon_to_move_to_is_refused_by_name() {
    let hosts = Hosts::with(&[(What::Macvtap, TAP_MAC)]).await;
    let mover = Mover::new(&hosts).await;
    for (uri, part) in [
        ("qemu+unix:///system?socket=/nowhere/sock", "/nowhere/sock"),
        ("test:///default", "test:///default"),
        ("qemu+ssh://b/system?command=/tmp/mine", "'command=' in"),
        ("qemu+ssh://b/system?netcat=/tmp/mine", "'netcat=' in"),
        ("qemu+tls://b/system?pkipath=/tmp/mine", "'pkipath=' in"),
        ("", ""),
    ] {
        let perform = DomainMigratePerform3Params {
            dconnuri: Some(uri.to_owned()),
            ..mover.by_itself(&hosts)
        };
        let error = hosts.here.client.refused(perform).await;
        assert!(error.message().contains(part), "{error}");
    }
    drop(mover);
    hosts.is_here("refused").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_a_move_that_can_not_be_read_leaves_its_guest_to_a_person() {
    let mut hosts = Hosts::new().await;
    let path = format!("run/virtnic/moves/{}.json", hosts.dom.uuid);
    std::fs::write(hosts.here.site.root.path(&path), "{").unwrap();
    hosts.here.restart().await;
    until("it is halted", async || hosts.state_here().await.state == 3).await;
    assert_eq!(hosts.runs(), (false, false));
    let told = hosts.here.client.ok(VirtnicReconcile { apply: true }).await;
    let told = told
        .iter()
        .find(|one| one.guest.as_deref() == Some("g0"))
        .unwrap();
    assert!(
        told.remedy.contains("migrate-resolve g0 --here"),
        "{told:?}"
    );
    let (guest, here) = ("g0".to_owned(), true);
    hosts
        .here
        .client
        .ok(VirtnicMigrateResolve { guest, here })
        .await;
    hosts.is_here("a person said so").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_guest_is_told_without_moving_it() {
    let hosts = Hosts::with(&[(What::Pair, MAC), (What::Vf, "52:54:00:00:00:09")]).await;
    let socket = hosts.there.site.root.socket();
    let check = |destination: Option<String>| VirtnicMigrateCheck {
        guest: "g0".to_owned(),
        destination,
    };
    let told = hosts.here.client.ok(check(None)).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].what.contains("52:54:00:00:00:09") && !told[0].there,
        "{told:?}"
    );
    let name = "pairs".to_owned();
    let net = hosts.there.client.ok(NetworkLookupByName { name }).await;
    hosts.there.client.ok(NetworkDestroy { net }).await;
    let uri = format!("qemu+unix:///system?socket={}", socket.display());
    let told = hosts.here.client.ok(check(Some(uri))).await;
    let there: Vec<_> = told.iter().filter(|one| one.there).collect();
    assert!(
        there
            .iter()
            .any(|one| one.why.contains("'pairs' is not active")),
        "{told:?}"
    );
    hosts.is_here("asked about").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_stays_runs_again_if_it_ran_before() {
    let mut hosts = Hosts::new().await;
    let mover = Mover::new(&hosts).await;
    let guest = hosts.here.guest(0).unwrap();
    guest.set_faults(Faults {
        migration_stays: true,
        ..Faults::default()
    });
    let dom = hosts.dom.clone();
    let going = tokio::spawn(async move { mover.go().await });
    until("its memory is on its way", async || {
        let dom = dom.clone();
        hosts
            .here
            .client
            .ok(DomainGetJobInfo { dom })
            .await
            .data_total
            > 0
    })
    .await;
    // As virsh does with --timeout.
    hosts
        .here
        .client
        .ok(DomainSuspend { dom: dom.clone() })
        .await;
    assert_eq!(hosts.runs(), (false, false));
    hosts.here.client.ok(DomainAbortJob { dom }).await;
    going.await.unwrap().unwrap_err();
    guest.set_faults(Faults::default());
    hosts.nothing_there("aborted").await;
    hosts.is_here("aborted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_guest_stays_paused() {
    for by_itself in [true, false] {
        let hosts = Hosts::with(&[(What::Macvtap, TAP_MAC)]).await;
        let mut mover = Mover::new(&hosts).await;
        let dom = hosts.dom.clone();
        hosts
            .here
            .client
            .ok(DomainSuspend { dom: dom.clone() })
            .await;
        if by_itself {
            hosts.here.client.ok(mover.by_itself(&hosts)).await;
        } else {
            mover.flags = Flags::LIVE | Flags::PAUSED;
            mover.go().await.unwrap();
        }
        assert_eq!(hosts.runs(), (false, false));
        hosts.there.client.ok(DomainResume { dom }).await;
        assert_eq!(hosts.runs(), (false, true));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_calls_a_move_off_or_confirms_it() {
    let mut hosts = Hosts::new().await;
    let mover = Mover::new(&hosts).await;
    let begun = mover.begin().await.unwrap();
    let prepared = mover.prepare(&begun).await.unwrap();
    let sent = mover.perform(&prepared).await.unwrap();
    let other = Mover::new(&hosts).await;
    other.confirm(&[], true).await.unwrap();
    assert_eq!(hosts.runs(), (false, false), "it is not the other's");
    let error = other.confirm(b"{}", false).await.unwrap_err();
    assert!(error.contains("has no virtnicd"), "{error}");
    let finished = mover.finish(&sent, false).await.unwrap();
    other.confirm(&[], true).await.unwrap();
    assert_eq!(hosts.runs(), (false, true));
    mover.confirm(&finished.cookie_out, false).await.unwrap();
    hosts.is_there(finished.dom, "confirmed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_as_it_is_to_run_there_leaves_nothing_there() {
    let mut hosts = Hosts::new().await;
    let there = hosts.there.site.simulation.guests.clone();
    for (what, faults) in [
        ("refused", Faults::default().refuse("cont")),
        (
            "not loaded",
            Faults {
                load_fails: true,
                ..Faults::default()
            },
        ),
    ] {
        there.set_faults(faults);
        let mut mover = Mover::new(&hosts).await;
        mover.flags = Flags::LIVE | Flags::PERSIST_DEST;
        mover.go().await.unwrap_err();
        there.set_faults(Faults::default());
        hosts.nothing_there(what).await;
        hosts.is_here(what).await;
    }
    // What can't be recorded is not let run.
    let mut mover = Mover::new(&hosts).await;
    mover.flags = Flags::LIVE | Flags::PERSIST_DEST;
    let begun = mover.begin().await.unwrap();
    let prepared = mover.prepare(&begun).await.unwrap();
    let sent = mover.perform(&prepared).await.unwrap();
    let path = format!("run/virtnic/moves/{}.json", hosts.dom.uuid);
    let in_the_way = hosts.there.site.root.in_the_way(&path);
    mover.finish(&sent, false).await.unwrap_err();
    assert_eq!(
        hosts.runs(),
        (false, false),
        "neither before the client says so"
    );
    drop(in_the_way);
    mover.confirm(&[], true).await.unwrap();
    hosts.is_here("not recorded").await;
}
