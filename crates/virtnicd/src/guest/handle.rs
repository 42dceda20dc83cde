//! A guest as everybody but its owner has it: something to look at, and somebody to ask.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use conf::Uuid;
use lending::Attachment;
use rpc::flags::Affect;
use rpc::{Dom, DomainState, Error};
use tokio::sync::{mpsc, oneshot, watch};

use super::change::{Edit, Unfinished};
use super::console::Consoles;
use super::groups::OwnGroup;
use super::hotplug::Meant;
use super::life::Life;
use super::moving::{Arrival, ArrivalWish, Departing, Departure, FinishWish, HoldWish, Moved};
use super::pairs::Turn;
use super::{DOMAIN, QEMU, control};
use crate::affect::Subject;
use crate::blocking::stopping;
use crate::fault::{self, Result};
use crate::registry::Named;
use crate::store::StoredDefinition;

/// A guest that the daemon knows.
#[derive(Debug)]
pub(crate) struct GuestHandle {
    pub(super) name: String,
    pub(super) uuid: Uuid,
    mailbox: mpsc::Sender<Message>,
    view: watch::Receiver<Arc<View>>,
    /// The daemon stops, so that nobody hears any more.
    is_deaf: AtomicBool,
    pub(super) consoles: Consoles,
}

/// A guest at one moment.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) life: Life,
    /// Something is being done to what runs.
    pub(crate) busy: bool,
    /// The definition on disk.
    pub(crate) defined: Option<Arc<conf::Domain>>,
    /// It is marked to start with the host.
    pub(crate) autostart: bool,
    /// What is being started.
    pub(crate) starting: Option<Arc<conf::Domain>>,
    /// What runs.
    pub(crate) run: Option<Arc<Run>>,
    /// It is about to go to another host, on its way there, or gone.
    pub(crate) leaving: Option<Departure>,
    /// It comes from another host.
    pub(crate) arriving: Option<Arrival>,
    /// Bytes a second that may be sent of it; 0: no limit.
    pub(crate) bandwidth: u64,
    /// For how long it may be halted as it is moved; `None`: by QEMU's own.
    pub(crate) downtime: Option<Duration>,
    /// How it was moved last, to or from this host.
    pub(crate) moved: Option<Arc<Moved>>,
    /// VFs of pairs, by alias, that could not be plugged in just now.
    pub(crate) held: BTreeSet<String>,
    /// Why it does not run.
    pub(crate) stopped: StopReason,
}

/// A guest that runs.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// Counts up with each start; what `virsh list` shows.
    pub(crate) id: i32,
    /// The document with all that was resolved.
    pub(crate) domain: conf::Domain,
    pub(crate) machine: qemu::Guest,
    pub(crate) attachments: Vec<Attachment>,
    /// Standbys, by alias, whose guest's driver has joined them with a VF since it was started last.
    pub(crate) negotiated: BTreeSet<String>,
    /// It has run for long enough to join all its pairs, and has not.
    pub(crate) is_unjoined: bool,
    /// Somebody resumed it since its start.
    pub(crate) resumed: bool,
    /// It came from another host.
    pub(crate) arrived: bool,
    /// The connection with whose end it ends.
    pub(crate) autodestroy: Option<u64>,
    /// The group that its process has; this keeps it from others.
    pub(super) own_group: Option<Arc<OwnGroup>>,
    /// What runs is being made like its document.
    pub(crate) changing: Option<Unfinished>,
}

/// Why a guest is off; the numbers are libvirt's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum StopReason {
    #[default]
    Unknown = 0,
    Shutdown = 1,
    Destroyed = 2,
    Crashed = 3,
    Migrated = 4,
    Failed = 6,
}

/// `VIR_DOMAIN_SHUTOFF`.
const SHUT_OFF: i32 = 5;

/// What reaches a guest's owner.
#[derive(Debug)]
pub(super) enum Message {
    Ask(Request, Reply),
    /// It is on its way out: heard whatever is done.
    Departing(Departing, Reply),
    /// The client that moved it here knows that it runs here, or is gone and never will.
    ToldArrived {
        connection: u64,
        is_known: bool,
    },
    /// It won't come after all; its client says so.
    ComesNot {
        connection: u64,
        reply: Reply,
    },
    /// A client's connection ended: a guest that is to end with it does.
    ClientGone(u64),
    /// A VF that it waits for may be had.
    VfFree,
}

/// Answers a request; dropped, it tells that the guest was forgotten before it was heard.
pub(super) type Reply = oneshot::Sender<Result<()>>;

/// What can be asked of a guest.
#[derive(Debug)]
pub(crate) enum Request {
    /// Start it: with that document, or as it is defined.
    Start {
        domain: Option<Box<conf::Domain>>,
        paused: bool,
        /// The connection with whose end it is to end.
        autodestroy: Option<u64>,
    },
    /// Have a QEMU wait for it: it comes from another host.
    Arrive(Box<ArrivalWish>),
    /// Let it run: all of it has come.
    Finish(FinishWish),
    /// Hold it: it is to go to another host.
    Hold(HoldWish),
    /// Hold it, which is off: its definition is to go to another host.
    Pack(HoldWish),
    /// End its process, and take back what it has.
    Destroy { gracefully: bool },
    /// Halt its virtual CPUs.
    Suspend,
    /// Let them run.
    Resume,
    /// Change what runs, the definition, or both.
    Change { flags: Affect, edit: Edit },
    /// Make a device of what runs, the definition, or both like one that is given.
    Update {
        flags: Affect,
        device: Arc<conf::Device>,
        /// Also where the guest holds on to what is to change.
        force: bool,
    },
    /// Add a device to what runs, the definition, or both.
    Attach {
        flags: Affect,
        device: Arc<conf::Device>,
    },
    /// Take a device from what runs, the definition, or both.
    Detach {
        flags: Affect,
        meant: Meant,
        /// For the guest, as long as clients wait.
        waits: bool,
        /// The other half of its pair goes with it.
        as_pair: bool,
    },
    /// Plug the VF half of a pair in, or take it out.
    Turn { alias: String, turn: Turn },
    /// Keep a definition.
    Define(Arc<conf::Domain>),
    /// Keep a definition that comes from another host, unless the guest runs here.
    Unpack(Arc<conf::Domain>),
    /// Know a definition that was found on the disk, if none is known.
    TakeIn(Arc<StoredDefinition>, Arc<conf::Domain>),
    /// Forget the definition.
    Undefine,
    /// Start it with the host, or not.
    Autostart(bool),
}

/// A request was not heard: the guest is neither defined nor running any more.
#[derive(Debug)]
pub(crate) struct Gone;

impl Request {
    /// Write the record of what runs again: a change of nothing.
    pub(crate) fn record_again() -> Self {
        Self::Change {
            flags: Affect::LIVE,
            edit: Edit::new(|_, _, _| Ok(())),
        }
    }
}

impl View {
    /// What runs, or else what would.
    pub(crate) fn domain(&self) -> Option<&conf::Domain> {
        let running = self.run.as_ref().map(|run| &run.domain);
        running
            .or(self.defined.as_deref())
            .or(self.starting.as_deref())
    }

    /// The guest of that name, as errors about it need it.
    pub(crate) fn subject<'a>(&self, name: &'a str) -> Subject<'a> {
        Subject {
            domain: QEMU,
            kind: "domain",
            name,
            active: self.run.is_some(),
            persistent: self.defined.is_some(),
        }
    }

    /// The interfaces that run.
    pub(crate) fn live_interfaces(&self) -> &[conf::Interface] {
        self.run
            .as_ref()
            .map_or(&[][..], |run| &run.domain.devices.interfaces)
    }
}

impl Named for GuestHandle {
    fn name(&self) -> &str {
        &self.name
    }

    fn uuid(&self) -> Uuid {
        self.uuid
    }
}

impl GuestHandle {
    pub(super) fn new(
        name: String,
        uuid: Uuid,
        mailbox: mpsc::Sender<Message>,
        view: watch::Receiver<Arc<View>>,
    ) -> Self {
        Self {
            name,
            uuid,
            mailbox,
            view,
            is_deaf: AtomicBool::new(false),
            consoles: Consoles::default(),
        }
    }

    /// The guest as it is now. Waits for nobody.
    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }

    /// Asks its owner for something, and waits until it is done or refused. Who asks may go away
    /// meanwhile: what was begun is brought to its end.
    pub(crate) async fn ask(&self, request: Request) -> std::result::Result<Result<()>, Gone> {
        self.send(|reply| Message::Ask(request, reply)).await
    }

    async fn send(
        &self,
        message: impl FnOnce(Reply) -> Message,
    ) -> std::result::Result<Result<()>, Gone> {
        let (reply, answer) = oneshot::channel();
        let message = message(reply);
        let silence = || match self.is_deaf.load(Ordering::Acquire) {
            true => Ok(Err(stopping(QEMU))),
            false => Err(Gone),
        };
        if self.mailbox.send(message).await.is_err() {
            return silence();
        }
        answer.await.map_or_else(|_| silence(), Ok)
    }

    /// Its owner goes, and the guest stays.
    pub(super) fn stop_asking(&self) {
        self.is_deaf.store(true, Ordering::Release);
    }

    /// The same, for a guest that must be there.
    pub(crate) async fn request(&self, request: Request) -> Result<()> {
        match self.ask(request).await {
            Ok(answer) => answer,
            Err(Gone) => Err(super::no_guest(self.uuid, &self.name)),
        }
    }

    /// Says something of its way to another host, whatever is done to it just now.
    pub(crate) async fn departing(&self, what: Departing) -> Result<()> {
        let said = self.send(|reply| Message::Departing(what, reply)).await;
        said.unwrap_or_else(|Gone| Err(super::no_guest(self.uuid, &self.name)))
    }

    /// Says whether the client that moved it here got to know that it runs here.
    pub(crate) async fn told_arrived(&self, connection: u64, is_known: bool) {
        let message = Message::ToldArrived {
            connection,
            is_known,
        };
        // One that has ended meanwhile runs nowhere.
        let _ = self.mailbox.send(message).await;
    }

    /// Says that it does not come, and waits until nothing is left of that.
    pub(crate) async fn comes_not(&self, connection: u64) {
        let said = self.send(|reply| Message::ComesNot { connection, reply });
        // One that is gone does not come either.
        let _ = said.await;
    }

    /// Tells it that a VF which it waits for may be had.
    pub(crate) async fn vf_free(&self) {
        // One that is forgotten waits for nothing.
        let _ = self.mailbox.send(Message::VfFree).await;
    }

    /// Has it end with its client, if it is to.
    pub(super) async fn client_gone(&self, connection: u64) {
        // One that is forgotten has ended.
        let _ = self.mailbox.send(Message::ClientGone(connection)).await;
    }

    /// How clients know it: with the number of its run, or -1.
    pub(crate) fn dom(&self) -> Dom {
        let run = self.view().run.as_ref().map_or(-1, |run| run.id);
        self.dom_with(run)
    }

    pub(super) fn dom_with(&self, id: i32) -> Dom {
        Dom {
            name: self.name.clone(),
            uuid: self.uuid,
            id,
        }
    }

    pub(crate) fn is_active(&self) -> bool {
        self.view().run.is_some()
    }

    /// Whether it runs, and nothing is being done to it.
    pub(crate) fn is_at_rest(&self) -> bool {
        let view = self.view();
        view.life == Life::Running && !view.busy
    }

    /// Whether somebody is just changing what runs.
    pub(crate) fn is_busy(&self) -> bool {
        self.view().busy
    }

    pub(crate) fn is_persistent(&self) -> bool {
        self.view().defined.is_some()
    }

    /// Whether it is defined, or runs, or is about to. One that is not is only being asked for.
    pub(crate) fn is_known(&self) -> bool {
        let view = self.view();
        view.defined.is_some() || view.life != Life::Off
    }

    /// What runs.
    pub(crate) fn run(&self) -> Result<Arc<Run>> {
        self.view().run.clone().ok_or_else(|| self.not_running())
    }

    pub(crate) fn state_and_reason(&self) -> DomainState {
        let view = self.view();
        match (&view.run, view.life) {
            (Some(run), _) => control::state_and_reason(run),
            (None, Life::Starting) => control::STARTING,
            (None, _) => DomainState {
                state: SHUT_OFF,
                reason: view.stopped as i32,
            },
        }
    }

    pub(crate) fn not_running(&self) -> Error {
        fault::invalid(DOMAIN, "domain is not running")
    }

    pub(crate) fn already_active(&self) -> Error {
        fault::invalid(QEMU, format!("domain '{}' is already active", self.name))
    }
}
