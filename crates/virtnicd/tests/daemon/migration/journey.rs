//! Two hosts, a guest on one of them, and a client that moves it as virsh does.

use std::sync::atomic::{AtomicU32, Ordering};

use rpc::flags::MigrateParams as Flags;
use rpc::*;

use crate::guest_links::{CONFIG, LIVE};
use crate::harness::*;
use crate::plug_bench::*;

pub(crate) const MAC: &str = "52:54:00:00:00:01";
pub(crate) const BOND_MAC: &str = "52:54:01:00:00:01";
pub(crate) const TAP_MAC: &str = "52:54:00:00:00:02";
pub(crate) const STANDBY: &str = "ua-hybrid-525400000001";

/// Two hosts of one kind, and a guest on the first.
pub(crate) struct Hosts {
    pub(crate) here: Bench,
    pub(crate) there: Bench,
    pub(crate) dom: Dom,
}

impl Hosts {
    /// The guest has a failover pair, a bond pair and a macvtap, and runs.
    pub(crate) async fn new() -> Self {
        Self::with(&[
            (What::Pair, MAC),
            (What::Bond, BOND_MAC),
            (What::Macvtap, TAP_MAC),
        ])
        .await
    }

    pub(crate) async fn with(devices: &[(What, &str)]) -> Self {
        let here = Bench::new(NARROW, 1).await;
        let there = Bench::new(NARROW, 0).await;
        let dom = here.doms[0].clone();
        for (what, mac) in devices {
            let (dom, xml, flags) = (dom.clone(), what.xml(mac), (LIVE | CONFIG).into());
            here.client
                .ok(DomainAttachDeviceFlags { dom, xml, flags })
                .await;
        }
        let guest = here.guest(0).unwrap();
        guest.negotiate_failover(STANDBY);
        guest.remember("a thing");
        here.is_consistent("before").await;
        Self { here, there, dom }
    }

    /// Where the guest runs, of both hosts.
    pub(crate) fn runs(&self) -> (bool, bool) {
        let runs = |bench: &Bench| {
            let guest = bench.site.simulation.guests.guest(self.dom.uuid);
            guest.is_some_and(|guest| guest.runs())
        };
        (runs(&self.here), runs(&self.there))
    }

    /// What the first host says of it.
    pub(crate) async fn state_here(&self) -> DomainState {
        let (dom, flags) = (self.dom.clone(), Default::default());
        self.here.client.ok(DomainGetState { dom, flags }).await
    }

    /// Nothing of the guest is on that host, but what was there before.
    pub(crate) async fn nothing_there(&mut self, when: &str) {
        self.there.doms.clear();
        self.there.is_consistent(when).await;
        let names = self.there.client.guest_names(0).await;
        assert!(names.is_empty(), "{when}: {names:?}");
        assert_eq!(self.there.site.root.records("moves"), 0, "{when}");
        let files = std::fs::read_dir(self.there.site.root.path("etc/virtnic/domains"));
        let files: Vec<_> = files
            .unwrap()
            .map(|file| file.unwrap().file_name())
            .collect();
        assert!(
            files.iter().all(|name| name == "autostart"),
            "{when}: {files:?}"
        );
    }

    /// It is on the first host as before, whole.
    pub(crate) async fn is_here(&self, when: &str) {
        crate::in_process::until(&format!("{when}: it runs here"), async || {
            self.runs() == (true, false)
        })
        .await;
        self.here.is_consistent(when).await;
        let guest = self.here.guest(0).unwrap();
        assert_eq!(guest.remembered().as_deref(), Some("a thing"), "{when}");
        assert_eq!(self.here.site.root.records("moves"), 0, "{when}");
    }

    /// It is on the second host, whole, and nothing of it runs on the first.
    pub(crate) async fn is_there(&mut self, dom: Dom, when: &str) {
        crate::in_process::until(&format!("{when}: it runs there"), async || {
            self.runs() == (false, true)
        })
        .await;
        self.there.doms = vec![dom];
        self.there.is_consistent(when).await;
        let guest = self.there.guest(0).unwrap();
        assert_eq!(guest.remembered().as_deref(), Some("a thing"), "{when}");
        self.here.is_consistent(when).await;
        for bench in [&self.here, &self.there] {
            crate::in_process::until(&format!("{when}: moves are over"), async || {
                bench.site.root.records("moves") == 0
            })
            .await;
        }
    }
}

/// A client that moves the guest: one connection to each host.
pub(crate) struct Mover {
    pub(crate) here: Client,
    pub(crate) there: Client,
    pub(crate) dom: Dom,
    pub(crate) flags: Flags,
    /// Where QEMU's stream goes.
    pub(crate) uri: String,
    /// What else the user says.
    pub(crate) params: Vec<TypedParam>,
}

pub(crate) fn text(field: &str, text: &str) -> TypedParam {
    TypedParam {
        field: field.to_owned(),
        value: TypedValue::Text(text.to_owned()),
    }
}

type Answer<T> = std::result::Result<T, String>;

static STREAMS: AtomicU32 = AtomicU32::new(0);

impl Mover {
    pub(crate) async fn new(hosts: &Hosts) -> Self {
        let number = STREAMS.fetch_add(1, Ordering::Relaxed);
        let socket = hosts.there.site.root.path(&format!("stream-{number}"));
        Self {
            here: hosts.here.site.root.client().await,
            there: hosts.there.site.root.client().await,
            dom: hosts.dom.clone(),
            flags: Flags::LIVE,
            uri: format!("unix:{}", socket.display()),
            params: Vec::new(),
        }
    }

    fn all(&self, more: &[TypedParam]) -> Vec<TypedParam> {
        let mut all = self.params.clone();
        for param in more {
            all.retain(|one| one.field != param.field);
        }
        all.extend_from_slice(more);
        all
    }

    fn name(&self) -> String {
        let named = self
            .params
            .iter()
            .find(|one| one.field == "destination_name");
        match named.map(|one| &one.value) {
            Some(TypedValue::Text(name)) => name.clone(),
            _ => self.dom.name.clone(),
        }
    }

    pub(crate) async fn begin(&self) -> Answer<MigrateBegin> {
        let begin = DomainMigrateBegin3Params {
            dom: self.dom.clone(),
            params: self.all(&[text("migrate_uri", &self.uri)]),
            flags: self.flags | Flags::CHANGE_PROTECTION,
        };
        call(&self.here, begin).await
    }

    pub(crate) async fn prepare(&self, begun: &MigrateBegin) -> Answer<MigratePrepare> {
        let prepare = DomainMigratePrepare3Params {
            params: self.all(&[
                text("migrate_uri", &self.uri),
                text("destination_xml", &begun.xml),
                text("destination_name", &self.name()),
            ]),
            cookie_in: begun.cookie_out.clone(),
            flags: self.flags,
        };
        call(&self.there, prepare).await
    }

    pub(crate) async fn perform(&self, prepared: &MigratePrepare) -> Answer<Vec<u8>> {
        let uri = prepared.uri_out.clone().unwrap_or_else(|| self.uri.clone());
        let perform = DomainMigratePerform3Params {
            dom: self.dom.clone(),
            dconnuri: None,
            params: self.all(&[text("migrate_uri", &uri)]),
            cookie_in: prepared.cookie_out.clone(),
            flags: self.flags | Flags::CHANGE_PROTECTION,
        };
        call(&self.here, perform).await
    }

    pub(crate) async fn finish(&self, cookie: &[u8], cancelled: bool) -> Answer<MigrateFinish> {
        let finish = DomainMigrateFinish3Params {
            params: self.all(&[text("destination_name", &self.name())]),
            cookie_in: cookie.to_vec(),
            flags: self.flags,
            cancelled,
        };
        call(&self.there, finish).await
    }

    pub(crate) async fn confirm(&self, cookie: &[u8], cancelled: bool) -> Answer<()> {
        let confirm = DomainMigrateConfirm3Params {
            dom: self.dom.clone(),
            params: self.params.clone(),
            cookie_in: cookie.to_vec(),
            flags: self.flags | Flags::CHANGE_PROTECTION,
            cancelled,
        };
        call(&self.here, confirm).await
    }

    /// What has the daemon that it leaves do all of it.
    pub(crate) fn by_itself(&self, hosts: &Hosts) -> DomainMigratePerform3Params {
        let socket = hosts.there.site.root.socket();
        DomainMigratePerform3Params {
            dom: self.dom.clone(),
            dconnuri: Some(format!("qemu+unix:///system?socket={}", socket.display())),
            params: self.all(&[text("migrate_uri", &self.uri)]),
            cookie_in: Vec::new(),
            flags: self.flags | Flags::PEER2PEER,
        }
    }

    /// All of it, as virsh goes through it; the error is the first.
    pub(crate) async fn go(&self) -> Answer<Dom> {
        let begun = self.begin().await?;
        let prepared = match self.prepare(&begun).await {
            Ok(prepared) => prepared,
            Err(error) => {
                let _ = self.confirm(&[], true).await;
                return Err(error);
            }
        };
        let sent = match self.perform(&prepared).await {
            Ok(sent) => sent,
            Err(error) => {
                let _ = self.finish(&[], true).await;
                return Err(error);
            }
        };
        match self.finish(&sent, false).await {
            Ok(MigrateFinish { dom, cookie_out }) => {
                // What fails here virsh doesn't tell, either.
                let _ = self.confirm(&cookie_out, false).await;
                Ok(dom)
            }
            Err(error) => {
                let _ = self.confirm(&[], true).await;
                Err(error)
            }
        }
    }
}
