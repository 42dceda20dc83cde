//! A daemon of a test's own, and a client of it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use rpc::client::CallError;
use rpc::*;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub(crate) use crate::documents::*;

/// A test that waits this long for anything has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Two PFs, `sim0` and `sim1`, of four VFs each.
pub(crate) const SHAPE: &str = "pfs=2,vfs=8";

/// What a daemon says when what starts with the host has started. It is ready before that: whoever
/// waits for it may be what a guest waits for.
pub(crate) const AUTOSTARTED: &str = "what is marked for it was started with the host";

/// Where a daemon keeps everything. Outlives the daemons that run on it.
pub(crate) struct Root(TempDir);

impl Root {
    pub(crate) fn new() -> Root {
        Root(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.0.path().join(below)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("run/virtnic/virtnic-sock")
    }

    pub(crate) fn read_only_socket(&self) -> PathBuf {
        self.path("run/virtnic/virtnic-sock-ro")
    }

    /// The program, told to keep everything here, on a simulated host of that shape.
    pub(crate) fn command(&self, shape: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_virtnicd"));
        command
            .arg("--root")
            .arg(self.0.path())
            .args(["--simulate", shape]);
        // What a service manager may have told the test's own process is not for the daemon.
        command
            .env_remove("NOTIFY_SOCKET")
            .env_remove("JOURNAL_STREAM");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    /// The same, with at most that many file descriptors.
    pub(crate) fn command_with_descriptors(&self, shape: &str, most: u32) -> Command {
        let program = self.command(shape);
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {most}; exec \"$0\" \"$@\"")]);
        command.arg(program.get_program()).args(program.get_args());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
            .env_remove("NOTIFY_SOCKET")
            .env_remove("JOURNAL_STREAM");
        command
    }

    /// A daemon that is ready.
    pub(crate) fn start(&self) -> Daemon {
        self.start_on(SHAPE)
    }

    pub(crate) fn start_on(&self, shape: &str) -> Daemon {
        let mut daemon = Daemon::spawn(self.command(shape));
        daemon.wait_for_line("ready");
        daemon
    }

    pub(crate) async fn client(&self) -> Client {
        Client::open(&self.socket(), false).await
    }

    pub(crate) async fn read_only_client(&self) -> Client {
        Client::open(&self.read_only_socket(), true).await
    }

    /// Keeps a file from being written, until that is dropped: a directory takes its place.
    pub(crate) fn in_the_way(&self, below: &str) -> InTheWay {
        let path = self.path(below);
        let aside = self.path(&format!("{}-aside", path.file_name().unwrap().display()));
        if path.exists() {
            fs::rename(&path, &aside).unwrap();
        }
        fs::create_dir(&path).unwrap();
        InTheWay { path, aside }
    }

    /// The one record of a kind, and its path.
    pub(crate) fn record(&self, kind: &str) -> (PathBuf, serde_json::Value) {
        let dir = self.path("run/virtnic").join(kind);
        let mut paths = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let is_record = |path: &PathBuf| path.extension().is_some_and(|ext| ext == "json");
        let path = paths.find(is_record).unwrap();
        let value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        (path, value)
    }

    /// How many records of a kind there are.
    pub(crate) fn records(&self, kind: &str) -> usize {
        let suffix = ".json";
        let names = files_below(&self.path("run/virtnic").join(kind));
        names
            .iter()
            .filter(|(name, _)| name.ends_with(suffix))
            .count()
    }
}

/// See [`Root::in_the_way`].
pub(crate) struct InTheWay {
    path: PathBuf,
    aside: PathBuf,
}

impl Drop for InTheWay {
    fn drop(&mut self) {
        fs::remove_dir(&self.path).unwrap();
        if self.aside.exists() {
            fs::rename(&self.aside, &self.path).unwrap();
        }
    }
}

/// Every file below a directory with its text, sockets and the lock apart.
fn files_below(dir: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else if path.is_file() || path.is_symlink() {
            let text = fs::read(&path).unwrap_or_default();
            found.push((
                path.display().to_string(),
                String::from_utf8_lossy(&text).into_owned(),
            ));
        }
    }
    found.sort();
    found
}

/// A running program. Ends with the test.
pub(crate) struct Daemon {
    child: Child,
    log: Receiver<String>,
    /// All of the log that was looked at.
    seen: Vec<String>,
}

impl Daemon {
    pub(crate) fn spawn(mut command: Command) -> Daemon {
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, log) = channel();
        // Reads to the end, so that the daemon never waits for its log.
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Daemon {
            child,
            log,
            seen: Vec::new(),
        }
    }

    /// Waits for a line of the log that holds `part`; lines before it are passed over.
    pub(crate) fn wait_for_line(&mut self, part: &str) -> String {
        loop {
            match self.log.recv_timeout(PATIENCE) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(part) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no line with {part:?}: {:#?}", self.seen),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("ended without a line with {part:?}: {:#?}", self.seen)
                }
            }
        }
    }

    /// Waits for such a line, unless there was one already.
    pub(crate) fn has_said(&mut self, part: &str) {
        if !self.seen.iter().any(|line| line.contains(part)) {
            self.wait_for_line(part);
        }
    }

    /// The log until it was ready.
    pub(crate) fn seen(&self) -> String {
        self.seen.join("\n")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for its end; how it ended, and the log.
    pub(crate) fn ended(mut self) -> (ExitStatus, String) {
        // The log ends with the process.
        loop {
            match self.log.recv_timeout(PATIENCE) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("does not end: {:#?}", self.seen),
            }
        }
        (self.child.wait().unwrap(), self.seen())
    }

    /// Asks it to stop, and waits.
    pub(crate) fn stop(self) -> String {
        self.signal(Signal::TERM);
        let (status, log) = self.ended();
        assert!(status.success(), "{status}: {log}");
        log
    }

    /// As a crash: it gets to do nothing more.
    pub(crate) fn crash(self) {
        self.signal(Signal::KILL);
        let (status, _) = self.ended();
        assert!(!status.success());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection, and what it heard.
pub(crate) struct Client {
    pub(crate) rpc: rpc::client::Client,
    events: rpc::client::Events,
}

impl Client {
    async fn open(socket: &Path, read_only: bool) -> Client {
        let opened = rpc::client::Client::open(socket, "qemu:///system", read_only).await;
        let (rpc, events) = opened.unwrap();
        Client { rpc, events }
    }

    /// One that is open already.
    pub(crate) fn of(rpc: rpc::client::Client, events: rpc::client::Events) -> Client {
        Client { rpc, events }
    }

    /// Makes a call that must succeed.
    pub(crate) async fn ok<P: Procedure>(&self, args: P) -> P::Reply {
        match tokio::time::timeout(PATIENCE, self.rpc.call(&args)).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => panic!("{}: {error}", P::INFO.api),
            Err(_) => panic!("{} gets no answer", P::INFO.api),
        }
    }

    /// Makes a call that must be refused.
    pub(crate) async fn refused<P: Procedure>(&self, args: P) -> Error {
        match tokio::time::timeout(PATIENCE, self.rpc.call(&args)).await {
            Ok(Err(CallError::Refused(error))) => error,
            Ok(Ok(_)) => panic!("{} is not refused", P::INFO.api),
            Ok(Err(error)) => panic!("{}: {error}", P::INFO.api),
            Err(_) => panic!("{} gets no answer", P::INFO.api),
        }
    }

    /// Makes a call that must be refused with that code and all those parts in its text, and must
    /// change nothing.
    pub(crate) async fn refuses<P: Procedure>(
        &self,
        root: &Root,
        args: P,
        code: Code,
        parts: &[&str],
    ) -> String {
        let before = self.picture(root).await;
        let error = self.refused(args).await;
        let text = error.message().to_owned();
        assert_eq!(error.code(), code, "{text}");
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
        let after = self.picture(root).await;
        assert_eq!(before, after, "after: {text}");
        text
    }

    pub(crate) async fn define_network(&self, xml: &str) -> Net {
        self.ok(NetworkDefineXml {
            xml: xml.to_owned(),
        })
        .await
    }

    /// Defines and starts a network that lends the VFs of a PF.
    pub(crate) async fn running_network(&self, name: &str, pf: &str) -> Net {
        let net = self.define_network(&network_xml(name, pf)).await;
        self.ok(NetworkCreate { net: net.clone() }).await;
        net
    }

    pub(crate) async fn network_dump(&self, net: &Net, flags: u32) -> String {
        self.ok(NetworkGetXmlDesc {
            net: net.clone(),
            flags: flags.into(),
        })
        .await
    }

    pub(crate) async fn define_guest(&self, xml: &str) -> Dom {
        self.ok(DomainDefineXmlFlags {
            xml: xml.to_owned(),
            flags: Default::default(),
        })
        .await
    }

    /// Defines and starts a guest with an interface on a network.
    pub(crate) async fn running_guest(&self, name: &str, network: &str) -> Dom {
        let dom = self
            .define_guest(&guest_xml(name, &on_network(network)))
            .await;
        self.start(&dom).await
    }

    pub(crate) async fn start(&self, dom: &Dom) -> Dom {
        self.ok(DomainCreateWithFlags {
            dom: dom.clone(),
            flags: Default::default(),
        })
        .await
    }

    pub(crate) async fn guest_dump(&self, dom: &Dom, flags: u32) -> String {
        self.ok(DomainGetXmlDesc {
            dom: dom.clone(),
            flags: flags.into(),
        })
        .await
    }

    pub(crate) async fn create_port(&self, net: &Net, xml: &str) -> Port {
        let (network, xml) = (net.clone(), xml.to_owned());
        self.ok(NetworkPortCreateXml {
            network,
            xml,
            flags: Default::default(),
        })
        .await
    }

    pub(crate) async fn ports(&self, net: &Net) -> Vec<Port> {
        let (network, need_results) = (net.clone(), true);
        self.ok(NetworkListAllPorts {
            network,
            need_results,
            flags: Default::default(),
        })
        .await
        .into_items()
    }

    pub(crate) async fn network_names(&self, flags: u32) -> Vec<String> {
        let nets = self
            .ok(ConnectListAllNetworks {
                need_results: true,
                flags: flags.into(),
            })
            .await;
        nets.into_items().into_iter().map(|net| net.name).collect()
    }

    pub(crate) async fn guest_names(&self, flags: u32) -> Vec<String> {
        let doms = self
            .ok(ConnectListAllDomains {
                need_results: true,
                flags: flags.into(),
            })
            .await;
        doms.into_items().into_iter().map(|dom| dom.name).collect()
    }

    pub(crate) async fn who(&self) -> Vec<Lent> {
        self.ok(VirtnicWho {
            filter: None,
            counters: false,
        })
        .await
    }

    /// Registers for what becomes of networks and of guests.
    pub(crate) async fn listen(&self) {
        self.ok(ConnectNetworkEventRegisterAny {
            event_id: 0,
            net: None,
        })
        .await;
        self.ok(ConnectDomainEventCallbackRegisterAny {
            event_id: 0,
            dom: None,
        })
        .await;
    }

    /// The next event, in a few words.
    pub(crate) async fn event(&mut self) -> String {
        let event = tokio::time::timeout(PATIENCE, self.events.next()).await;
        let (_, event) = event.expect("no event comes").expect("the daemon is gone");
        match event {
            Event::NetworkLifecycle(event) => format!("{} {:?}", event.net.name, event.change),
            Event::DomainLifecycle(DomainLifecycle { dom, change }) => {
                format!("{} {} {change:?}", dom.name, dom.id)
            }
            Event::DomainRebooted(event) => format!("{} rebooted", event.dom.name),
            other => format!("{other:?}"),
        }
    }

    /// The next events must be these.
    pub(crate) async fn hears(&mut self, expected: &[&str]) {
        let mut heard = Vec::new();
        for _ in expected {
            heard.push(self.event().await);
        }
        assert_eq!(heard, expected);
    }

    /// All that a user can see of a daemon, and all that it keeps.
    pub(crate) async fn picture(&self, root: &Root) -> Picture {
        let whole = async {
            loop {
                if let Some(picture) = self.picture_at_once(root).await {
                    return picture;
                }
            }
        };
        let picture = tokio::time::timeout(PATIENCE, whole).await;
        picture.expect("objects come and go without end")
    }

    /// The same; none if something that was listed was gone before it could be looked at.
    async fn picture_at_once(&self, root: &Root) -> Option<Picture> {
        let status = self.ok(VirtnicStatus {}).await;
        let mut lines = vec![format!(
            "networks {} ({} active), guests {} ({} running), lent {}",
            status.networks,
            status.active_networks,
            status.guests,
            status.running_guests,
            status.lent
        )];
        let nets = self
            .ok(ConnectListAllNetworks {
                need_results: true,
                flags: Default::default(),
            })
            .await;
        for net in nets.into_items() {
            lines.push(format!("{net:?}"));
            for flags in [flags::ShowXml::NONE, flags::ShowXml::INACTIVE] {
                let net = net.clone();
                lines.push(self.unless_gone(NetworkGetXmlDesc { net, flags }).await?);
            }
        }
        let doms = self
            .ok(ConnectListAllDomains {
                need_results: true,
                flags: Default::default(),
            })
            .await;
        for dom in doms.into_items() {
            lines.push(format!("{dom:?}"));
            for flags in [flags::DomainXml::NONE, flags::DomainXml::INACTIVE] {
                let dom = dom.clone();
                lines.push(self.unless_gone(DomainGetXmlDesc { dom, flags }).await?);
            }
        }
        let mut who: Vec<_> = self
            .who()
            .await
            .iter()
            .map(|lent| format!("{lent:?}"))
            .collect();
        who.sort();
        lines.extend(who);
        let mut files = files_below(&root.path("etc"));
        files.extend(files_below(&root.path("run")));
        // One counts the claims that were ever made, so that none is taken for another; the other is
        // written some time after the daemon is ready.
        files.retain(|(name, _)| {
            let changes = ["devices/starts", "virtnic/autostarted"];
            !changes.iter().any(|own| name.ends_with(own))
        });
        Some(Picture { lines, files })
    }

    /// Makes a call that must succeed; none if what it is about does not exist any more.
    async fn unless_gone<P: Procedure>(&self, args: P) -> Option<P::Reply> {
        match tokio::time::timeout(PATIENCE, self.rpc.call(&args)).await {
            Ok(Ok(reply)) => Some(reply),
            Ok(Err(CallError::Refused(error)))
                if matches!(error.code(), Code::NoDomain | Code::NoNetwork) =>
            {
                None
            }
            Ok(Err(error)) => panic!("{}: {error}", P::INFO.api),
            Err(_) => panic!("{} gets no answer", P::INFO.api),
        }
    }
}

/// The root of a guest's PCI tree, with so many free ports below it.
pub(crate) fn root_ports(count: u32) -> String {
    let port =
        |index: u32| format!("<controller type='pci' index='{index}' model='pcie-root-port'/>");
    let ports: String = (1..=count).map(port).collect();
    format!("<controller type='pci' index='0' model='pcie-root'/>{ports}")
}

/// See [`Client::picture`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Picture {
    lines: Vec<String>,
    files: Vec<(String, String)>,
}

/// `VIR_NETWORK_XML_INACTIVE`.
pub(crate) const NETWORK_XML_INACTIVE: u32 = 1;
/// `VIR_DOMAIN_XML_INACTIVE`.
pub(crate) const DOMAIN_XML_INACTIVE: u32 = 2;
