//! A stand-in for the daemon, and runs of the program against it.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(
    clippy::unwrap_used,
    reason = "a helper that panics is a test that fails"
)]

pub(crate) mod samples;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use rpc::server::{Call, Clients, Limits, Service, serve};
use rpc::{
    Code, DaemonStatus, Difference, Domain, DrainReport, Error, Lent, LentKind, NetworkReport, Nic,
    PlanOf, PlanReport, Reply, Request,
};
use tempfile::TempDir;
use tokio::net::UnixListener;
use uuid::Uuid;

/// What the stand-in for the daemon says.
pub(crate) enum Answers {
    Lent(Vec<Lent>),
    /// With the guest that was asked for, or what stands in its document.
    Plan(PlanReport),
    Networks(Vec<NetworkReport>),
    Nics(Vec<Nic>),
    Differences(Vec<Difference>),
    /// What is still on a PF, one answer after the other; the last one again.
    Drains(Mutex<Vec<DrainReport>>),
    /// The aliases of a guest's VFs, and what is lent.
    Turns(Vec<String>, Vec<Lent>),
    Refuses,
    /// Knows no call of virtnic's, as libvirt's daemons.
    Foreign,
}

impl Service for Answers {
    async fn call(&self, _: Call, request: Request) -> Result<Reply, Error> {
        match (request, self) {
            (Request::ConnectOpen(_), _) => Ok(Reply::ConnectOpen(())),
            (Request::VirtnicWho(args), Answers::Lent(lent)) => {
                let mut lent = lent.clone();
                if let Some(filter) = args.filter {
                    lent.retain(|device| device.guest.as_ref() == Some(&filter));
                }
                if !args.counters {
                    for device in &mut lent {
                        device.counters = None;
                    }
                }
                Ok(Reply::VirtnicWho(lent))
            }
            (Request::VirtnicStatus(_), Answers::Lent(lent)) => {
                let lent = u32::try_from(lent.len()).unwrap();
                Ok(Reply::VirtnicStatus(DaemonStatus {
                    version: "0.1.0".into(),
                    pid: 4711,
                    uptime: 200,
                    simulated: true,
                    networks: 3,
                    active_networks: 2,
                    guests: 5,
                    running_guests: 4,
                    lent,
                }))
            }
            (Request::VirtnicPlan(args), Answers::Plan(report)) => {
                let mut report = report.clone();
                match args.of {
                    PlanOf::Guest(name) => report.guest = name,
                    PlanOf::Document(xml) => report.guest = xml,
                }
                Ok(Reply::VirtnicPlan(report))
            }
            (Request::VirtnicNetwork(args), Answers::Networks(reports)) => {
                let mut reports = reports.clone();
                if let Some(name) = args.name {
                    reports.retain(|report| report.name == name);
                }
                Ok(Reply::VirtnicNetwork(reports))
            }
            (Request::VirtnicNics(_), Answers::Nics(nics)) => Ok(Reply::VirtnicNics(nics.clone())),
            (Request::VirtnicReconcile(_), Answers::Differences(differences)) => {
                Ok(Reply::VirtnicReconcile(differences.clone()))
            }
            (Request::VirtnicDrain(_), Answers::Drains(reports)) => {
                let mut reports = reports.lock().unwrap();
                Ok(Reply::VirtnicDrain(match reports.len() {
                    1 => reports[0].clone(),
                    _ => reports.remove(0),
                }))
            }
            (Request::VirtnicUndrain(_), Answers::Drains(_)) => Ok(Reply::VirtnicUndrain(())),
            (Request::VirtnicPromote(_), Answers::Turns(aliases, _)) => {
                Ok(Reply::VirtnicPromote(aliases.clone()))
            }
            (Request::VirtnicDemote(_), Answers::Turns(aliases, _)) => {
                Ok(Reply::VirtnicDemote(aliases.clone()))
            }
            (Request::VirtnicWho(_), Answers::Turns(_, lent)) => {
                Ok(Reply::VirtnicWho(lent.clone()))
            }
            (_, Answers::Foreign) => Err(Error::new(
                Code::Rpc,
                Domain::Rpc,
                "Cannot find program 1 version 1",
            )),
            (_, _) => Err(Error::new(
                Code::OperationInvalid,
                Domain::Network,
                "not now",
            )),
        }
    }
}

/// A directory with a daemon below it, for as long as it lives.
pub(crate) struct Host {
    pub(crate) root: TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Host {
    pub(crate) fn empty() -> Host {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("run/virtnic")).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        Host { root, runtime }
    }

    pub(crate) fn with(answers: Answers) -> Host {
        let host = Host::empty();
        host.listen("virtnic-sock-ro", answers);
        host
    }

    pub(crate) fn listen(&self, name: &str, answers: Answers) {
        let answers = Arc::new(answers);
        let read_only = name.ends_with("-ro");
        let _guard = self.runtime.enter();
        let listener = UnixListener::bind(self.socket(name)).unwrap();
        let clients = Clients::new(Limits::default());
        self.runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answers, clients) = (Arc::clone(&answers), Arc::clone(&clients));
                tokio::spawn(serve(answers, stream, read_only, clients));
            }
        });
    }

    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.root.path().join("run/virtnic").join(name)
    }

    pub(crate) fn virtnic(&self, args: &[&str]) -> Ran {
        let mut command = virtnic();
        command.arg("--root").arg(self.root.path()).args(args);
        Ran::of(command.output().unwrap(), self.root.path())
    }
}

pub(crate) fn virtnic() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_virtnic"));
    command.env_remove("VIRTNIC_SOCKET").stdin(Stdio::null());
    command
}

/// What a run of the program left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn of(output: Output, root: &Path) -> Ran {
        let root = root.display().to_string();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&root, "ROOT");
        Ran {
            status: output.status.code().unwrap(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}

pub(crate) fn seconds_ago(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap() - seconds
}

/// Two guests' VFs; the times are in the middle of a unit, so that a slow test tells the same.
pub(crate) fn two_lent() -> Vec<Lent> {
    let first = Lent {
        kind: LentKind::Hostdev,
        network: Some("fast".into()),
        guest: Some("web".into()),
        guest_uuid: Some(Uuid::from_u128(1)),
        mac: Some("52:54:00:00:00:01".into()),
        alias: Some("hostdev0".into()),
        half: None,
        pf: Some("ens1f0".into()),
        vf: Some(0),
        pci_address: Some("0000:03:10.0".into()),
        driver: Some("vfio-pci".into()),
        host_netdev: None,
        parent: None,
        mode: None,
        state: "lent".into(),
        vanished: false,
        since: seconds_ago(3 * 60 + 30),
        port: Uuid::from_u128(10),
        counters: None,
    };
    let second = Lent {
        network: None,
        guest: Some("a-longer-name".into()),
        vf: Some(12),
        since: seconds_ago(5 * 86_400 + 3_600),
        ..first.clone()
    };
    vec![first, second]
}
