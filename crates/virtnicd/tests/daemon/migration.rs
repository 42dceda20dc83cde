//! Guests that are off, moved from one host to another as virsh does it: phase by phase, by the client.

use rpc::flags::MigrateParams;
use rpc::*;

use crate::guest_links::CONFIG;
use crate::harness::*;
use crate::in_process::Site;

const OFFLINE: MigrateParams = MigrateParams::OFFLINE;
const KEPT: MigrateParams = MigrateParams::PERSIST_DEST;
const UNDEFINE: MigrateParams = MigrateParams::UNDEFINE_SOURCE;

/// Two hosts, and a client of each.
struct Hosts {
    sites: [Site; 2],
    daemons: Vec<virtnicd::Virtnicd>,
    from: Client,
    to: Client,
}

impl Hosts {
    async fn new() -> Self {
        let sites = [Site::new(), Site::new()];
        let daemons = vec![sites[0].start().await, sites[1].start().await];
        Self {
            from: sites[0].root.client().await,
            to: sites[1].root.client().await,
            sites,
            daemons,
        }
    }

    async fn pictures(&self) -> [String; 2] {
        [
            self.from.picture(&self.sites[0].root).await,
            self.to.picture(&self.sites[1].root).await,
        ]
        .map(|picture| format!("{picture:#?}"))
    }
}

fn text(field: &str, value: &str) -> TypedParam {
    TypedParam {
        field: field.to_owned(),
        value: TypedValue::Text(value.to_owned()),
    }
}

fn begin(dom: &Dom, flags: MigrateParams) -> DomainMigrateBegin3Params {
    DomainMigrateBegin3Params {
        dom: dom.clone(),
        params: Vec::new(),
        flags,
    }
}

fn prepare(begun: &MigrateBegin, flags: MigrateParams) -> DomainMigratePrepare3Params {
    DomainMigratePrepare3Params {
        params: vec![text("destination_xml", &begun.xml)],
        cookie_in: begun.cookie_out.clone(),
        flags,
    }
}

fn finish(name: &str, flags: MigrateParams, cancelled: bool) -> DomainMigrateFinish3Params {
    DomainMigrateFinish3Params {
        params: vec![text("destination_name", name)],
        // A client has none where nothing was performed.
        cookie_in: Vec::new(),
        flags,
        cancelled,
    }
}

fn confirm(dom: &Dom, cookie: &[u8], flags: MigrateParams) -> DomainMigrateConfirm3Params {
    DomainMigrateConfirm3Params {
        dom: dom.clone(),
        params: Vec::new(),
        cookie_in: cookie.to_vec(),
        flags,
        cancelled: false,
    }
}

const HYBRID: &str = "<interface type='hostdev-hybrid'><source dev='sim0'/></interface>";

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_moves_and_is_the_same_there() {
    let hosts = Hosts::new().await;
    let secret = "<graphics type='vnc' passwd='geheim'/>";
    let dom = hosts
        .from
        .define_guest(&guest_xml("g1", &format!("{HYBRID}{secret}")))
        .await;
    let secure = u32::from(DOMAIN_XML_INACTIVE | 1);
    let before = hosts.from.guest_dump(&dom, secure).await;
    let flags = OFFLINE | KEPT | UNDEFINE;
    let begun = hosts.from.ok(begin(&dom, flags)).await;
    assert!(begun.xml.contains("geheim"), "{}", begun.xml);
    hosts.to.ok(prepare(&begun, flags)).await;
    // Nothing is so yet.
    assert!(hosts.to.guest_names(0).await.is_empty());
    let arrived = hosts.to.ok(finish("g1", flags, false)).await;
    assert_eq!((arrived.dom.uuid, arrived.dom.id), (dom.uuid, -1));
    assert_eq!(hosts.to.guest_dump(&arrived.dom, secure).await, before);
    hosts
        .from
        .ok(confirm(&dom, &arrived.cookie_out, flags))
        .await;
    assert!(hosts.from.guest_names(0).await.is_empty());
    assert_eq!(hosts.to.guest_names(0).await, ["g1"]);
    drop(hosts.daemons);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_stays_is_there_twice_and_another_name_is_its_name_there() {
    let hosts = Hosts::new().await;
    let dom = hosts.from.define_guest(&guest_xml("g1", "")).await;
    let flags = OFFLINE | KEPT;
    let begun = hosts.from.ok(begin(&dom, flags)).await;
    let mut renamed = prepare(&begun, flags);
    renamed.params.push(text("destination_name", "g2"));
    hosts.to.ok(renamed).await;
    let arrived = hosts.to.ok(finish("g2", flags, false)).await;
    hosts
        .from
        .ok(confirm(&dom, &arrived.cookie_out, flags))
        .await;
    assert_eq!(hosts.from.guest_names(0).await, ["g1"]);
    assert_eq!(hosts.to.guest_names(0).await, ["g2"]);
    // Once more it replaces what is there.
    let begun = hosts.from.ok(begin(&dom, flags)).await;
    let mut renamed = prepare(&begun, flags);
    renamed.params.push(text("destination_name", "g2"));
    hosts.to.ok(renamed).await;
    hosts.to.ok(finish("g2", flags, false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_moved_is_refused_and_nothing_is_changed() {
    let hosts = Hosts::new().await;
    let dom = hosts.from.define_guest(&guest_xml("g1", "")).await;
    let runs = hosts.from.define_guest(&guest_xml("g2", "")).await;
    let runs = hosts.from.start(&runs).await;
    let before = hosts.pictures().await;
    let all = OFFLINE | KEPT | UNDEFINE;
    for (asked, code, part) in [
        (
            begin(&dom, MigrateParams::LIVE),
            Code::OperationInvalid,
            "not running",
        ),
        (
            begin(&runs, MigrateParams::LIVE),
            Code::OperationUnsupported,
            "--offline",
        ),
        (begin(&runs, all), Code::OperationInvalid, "'g2' runs"),
        (begin(&dom, OFFLINE), Code::OperationInvalid, "--persistent"),
        (
            begin(
                &dom,
                all | MigrateParams::TUNNELLED | MigrateParams::NON_SHARED_DISK,
            ),
            Code::ArgumentUnsupported,
            "--tunnelled, --copy-storage-all",
        ),
    ] {
        let error = hosts.from.refused(asked).await;
        assert_eq!(error.code(), code, "{error}");
        assert!(error.message().contains(part), "{error}");
    }
    let mut other = begin(&dom, all);
    other.params = vec![text("destination_xml", &guest_xml("other", ""))];
    hosts.from.refused(other).await;

    let begun = hosts.from.ok(begin(&dom, all)).await;
    // By itself, from a libvirtd, of another guest, without a document, and by another name.
    let mut foreign = prepare(&begun, all);
    foreign.cookie_in = b"<qemu-migration/>\0".to_vec();
    let mut stranger = prepare(&begun, all);
    stranger.params = vec![text("destination_xml", &guest_xml("g1", ""))];
    let mut empty = prepare(&begun, all);
    empty.params.clear();
    let mut named = prepare(&begun, all);
    named.params.push(text("destination_name", "a/b"));
    for asked in [foreign, stranger, empty, named] {
        hosts.to.refused(asked).await;
    }
    let error = hosts.from.refused(prepare(&begun, all)).await;
    assert!(error.message().contains("one virtnicd"), "{error}");
    let error = hosts.to.refused(finish("g1", all, false)).await;
    assert!(error.message().contains("'g1'"), "{error}");
    assert_eq!(hosts.pictures().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_or_gives_up_leaves_nothing() {
    let hosts = Hosts::new().await;
    let dom = hosts.from.define_guest(&guest_xml("g1", "")).await;
    let before = hosts.pictures().await;
    let all = OFFLINE | KEPT | UNDEFINE;
    let begun = hosts.from.ok(begin(&dom, all)).await;
    let client = hosts.sites[1].root.client().await;
    client.ok(prepare(&begun, all)).await;
    // It is that client's alone, until it goes.
    let error = hosts.to.refused(prepare(&begun, all)).await;
    assert!(error.message().contains("another client"), "{error}");
    hosts.to.refused(finish("g1", all, false)).await;
    drop(client);
    crate::in_process::until("it is forgotten", async || {
        hosts.to.rpc.call(&prepare(&begun, all)).await.is_ok()
    })
    .await;
    let error = hosts.to.refused(finish("g1", all, true)).await;
    assert_eq!(error.code(), Code::MigrateFinishOk);
    hosts.to.refused(finish("g1", all, false)).await;
    let mut cancelled = confirm(&dom, &begun.cookie_out, all);
    cancelled.cancelled = true;
    hosts.from.ok(cancelled).await;
    assert_eq!(hosts.pictures().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_was_changed_or_started_meanwhile_stays() {
    let hosts = Hosts::new().await;
    let all = OFFLINE | KEPT | UNDEFINE;
    for meanwhile in ["changed", "started"] {
        let dom = hosts.from.define_guest(&guest_xml(meanwhile, "")).await;
        let begun = hosts.from.ok(begin(&dom, all)).await;
        hosts.to.ok(prepare(&begun, all)).await;
        let arrived = hosts.to.ok(finish(meanwhile, all, false)).await;
        match meanwhile {
            "started" => drop(hosts.from.start(&dom).await),
            _ => {
                let attach = DomainAttachDeviceFlags {
                    dom: dom.clone(),
                    xml: "<interface type='user'/>".to_owned(),
                    flags: CONFIG.into(),
                };
                hosts.from.ok(attach).await;
            }
        }
        let confirmed = confirm(&dom, &arrived.cookie_out, all);
        let error = hosts.from.refused(confirmed).await;
        assert!(error.message().contains("stays defined here"), "{error}");
        assert!(error.message().contains(meanwhile), "{error}");
    }
    assert_eq!(hosts.from.guest_names(0).await.len(), 2);
}
