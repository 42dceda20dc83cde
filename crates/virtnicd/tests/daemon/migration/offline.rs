//! Definitions of guests that are off move from one host to another.

use rpc::flags::MigrateParams as Flags;
use rpc::*;

use super::journey::*;
use crate::guest_links::CONFIG;
use crate::harness::*;
use crate::in_process::until;
use crate::plug_bench::*;

const OFFLINE: Flags = Flags::OFFLINE;

/// Two hosts, and a guest on the first that is off.
async fn off() -> (Hosts, Mover) {
    let hosts = Hosts::with(&[(What::Pair, MAC)]).await;
    let dom = hosts.dom.clone();
    hosts.here.client.ok(DomainDestroy { dom }).await;
    let mut mover = Mover::new(&hosts).await;
    mover.flags = OFFLINE | Flags::PERSIST_DEST | Flags::UNDEFINE_SOURCE;
    (hosts, mover)
}

/// As virsh goes through it.
async fn go(mover: &Mover) -> Result<Dom, String> {
    let begun = mover.begin().await?;
    let prepared = match mover.prepare(&begun).await {
        Ok(prepared) => prepared,
        Err(error) => {
            let _ = mover.confirm(&[], true).await;
            return Err(error);
        }
    };
    let finished = mover.finish(&prepared.cookie_out, false).await;
    let cookie = finished
        .as_ref()
        .map_or(&[][..], |finished| &finished.cookie_out);
    let _ = mover.confirm(cookie, finished.is_err()).await;
    finished.map(|finished| finished.dom)
}

async fn definition(client: &Client, dom: &Dom) -> String {
    let flags = (CONFIG | 1).into();
    let dom = dom.clone();
    client.ok(DomainGetXmlDesc { dom, flags }).await
}

async fn names(bench: &Bench) -> Vec<String> {
    // Also those that are off.
    bench.client.guest_names(0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_goes_to_another_host() {
    let (mut hosts, mut mover) = off().await;
    let before = definition(&hosts.here.client, &hosts.dom).await;
    let dom = go(&mover).await.unwrap();
    assert_eq!((dom.id, dom.uuid), (-1, hosts.dom.uuid));
    assert_eq!(definition(&hosts.there.client, &dom).await, before);
    assert_eq!(names(&hosts.here).await, [""; 0]);
    assert_eq!(names(&hosts.there).await, ["g0"]);
    // It starts there.
    hosts
        .there
        .client
        .ok(DomainCreate { dom: dom.clone() })
        .await;
    hosts.there.doms = vec![dom.clone()];
    hosts.there.is_consistent("started there").await;
    hosts.there.client.ok(DomainDestroy { dom }).await;

    // Back by the daemon itself, under another name; it stays where it was, too.
    std::mem::swap(&mut hosts.here, &mut hosts.there);
    mover = Mover::new(&hosts).await;
    mover.flags = OFFLINE | Flags::PERSIST_DEST;
    mover.params = vec![text("destination_name", "other")];
    call(&mover.here, mover.by_itself(&hosts)).await.unwrap();
    assert_eq!(names(&hosts.here).await, ["g0"]);
    assert_eq!(names(&hosts.there).await, ["other"]);
    let dom = hosts.dom.clone();
    hosts.here.client.ok(DomainCreate { dom }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_that_was_handed_out_stays_as_it_is() {
    let (hosts, mover) = off().await;
    let before = definition(&hosts.here.client, &hosts.dom).await;
    let begun = mover.begin().await.unwrap();
    let held = "on its way to another host";
    let client = &hosts.here.client;
    let dom = || hosts.dom.clone();
    let start = call(client, DomainCreate { dom: dom() }).await;
    assert!(start.unwrap_err().contains(held));
    let xml = before.clone();
    let define = call(client, DomainDefineXml { xml }).await;
    assert!(define.unwrap_err().contains(held));
    let undefine = call(client, DomainUndefine { dom: dom() }).await;
    assert!(undefine.unwrap_err().contains(held));
    let other = Mover::new(&hosts).await;
    let again = call(
        &other.here,
        DomainMigrateBegin3Params {
            dom: dom(),
            params: Vec::new(),
            flags: mover.flags,
        },
    );
    assert!(again.await.unwrap_err().contains(held));

    // Who asked goes away.
    drop(mover);
    until("it can be started", async || {
        call(client, DomainCreate { dom: dom() }).await.is_ok()
    })
    .await;
    client.ok(DomainDestroy { dom: dom() }).await;

    // Somebody ends it: what was handed out counts no more.
    let mut mover = Mover::new(&hosts).await;
    mover.flags = OFFLINE | Flags::PERSIST_DEST | Flags::UNDEFINE_SOURCE;
    mover.begin().await.unwrap();
    client.ok(DomainAbortJob { dom: dom() }).await;
    client.ok(DomainCreate { dom: dom() }).await;
    let confirm = mover.confirm(&begun.cookie_out, false).await;
    assert!(confirm.unwrap_err().contains("not on its way"));
    assert_eq!(names(&hosts.there).await, [""; 0]);
    assert_eq!(names(&hosts.here).await, ["g0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_changes_nothing() {
    let (hosts, mut mover) = off().await;
    let refused = async |mover: &Mover, part: &str| {
        let error = go(mover).await.unwrap_err();
        assert!(error.contains(part), "{error}");
        assert_eq!(names(&hosts.here).await, ["g0"], "{part}");
        assert_eq!(names(&hosts.there).await, [""; 0], "{part}");
    };
    let all = mover.flags;
    mover.flags = OFFLINE;
    refused(&mover, "needs --persistent").await;
    mover.flags = all | Flags::NON_SHARED_DISK | Flags::PARALLEL;
    refused(&mover, "without --copy-storage-all, --parallel").await;
    mover.flags = all;
    let before = definition(&hosts.here.client, &hosts.dom).await;
    let hidden = before.replace(
        "<devices>",
        "<devices><graphics type='vnc' passwd='*****'/>",
    );
    mover.params = vec![text("destination_xml", &hidden)];
    refused(&mover, "--security-info").await;
    let another = before.replace("<name>g0<", "<name>g1<");
    mover.params = vec![text("persistent_xml", &another)];
    refused(&mover, "not of 'g0'").await;

    // What is kept there counts over what would run there.
    let titled = |title: &str| before.replace("<os>", &format!("<title>{title}</title><os>"));
    mover.params = vec![
        text("destination_xml", &titled("run")),
        text("persistent_xml", &titled("kept")),
    ];
    let dom = go(&mover).await.unwrap();
    let kept = definition(&hosts.there.client, &dom).await;
    assert!(kept.contains("<title>kept</title>"), "{kept}");

    // It runs there by now, and an older definition of it is here again.
    hosts.there.client.ok(DomainCreate { dom }).await;
    hosts.here.client.ok(DomainDefineXml { xml: before }).await;
    mover.params.clear();
    let error = go(&mover).await.unwrap_err();
    assert!(error.contains("already active"), "{error}");
    // And one that runs here does not go so.
    let dom = hosts.dom.clone();
    hosts.here.client.ok(DomainCreate { dom }).await;
    let error = go(&mover).await.unwrap_err();
    assert!(error.contains("guest 'g0' runs"), "{error}");
}

/// Starts, definitions and moves by several clients, side by side.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_is_started_beside_its_moves_runs_once_and_is_never_lost() {
    let (hosts, _) = off().await;
    let before = definition(&hosts.here.client, &hosts.dom).await;
    for round in 0..12 {
        let mut movers = Vec::new();
        for _ in 0..3 {
            let mut mover = Mover::new(&hosts).await;
            mover.flags = OFFLINE | Flags::PERSIST_DEST | Flags::UNDEFINE_SOURCE;
            movers.push(mover);
        }
        let start = async |bench: &Bench| {
            let dom = hosts.dom.clone();
            call(&bench.client, DomainCreate { dom }).await.is_ok()
        };
        let (a, b, c, here, there) = tokio::join!(
            go(&movers[0]),
            go(&movers[1]),
            go(&movers[2]),
            start(&hosts.here),
            start(&hosts.there),
        );
        let moved = [&a, &b, &c].iter().filter(|moved| moved.is_ok()).count();
        assert!(moved <= 1, "round {round}: {a:?} {b:?} {c:?}");
        assert!(!(here && there), "round {round}: it runs on both hosts");
        assert_ne!(hosts.runs(), (true, true), "round {round}");
        let there = names(&hosts.there).await;
        assert_eq!(there.len(), moved, "round {round}: {there:?}");
        let here = names(&hosts.here).await;
        assert_eq!(here.len(), 1 - moved, "round {round}: {here:?}");
        // Back to the beginning.
        for bench in [&hosts.here, &hosts.there] {
            let dom = hosts.dom.clone();
            let _ = call(&bench.client, DomainDestroy { dom: dom.clone() }).await;
            let _ = call(&bench.client, DomainUndefine { dom }).await;
        }
        let xml = before.clone();
        hosts.here.client.ok(DomainDefineXml { xml }).await;
    }
}
