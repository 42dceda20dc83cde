//! The one task that owns a network: what changes it is done there, one thing after the other, on a
//! thread where it may wait for the kernel or a disk. Nobody waits for it but who asked.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use conf::{Network, Uuid};
use rpc::{Code, Error, NetworkChange, NetworkLifecycle};
use tokio::sync::{mpsc, oneshot, watch};

use super::{DOMAIN, NetworkHandle};
use crate::affect::Subject;
use crate::blocking::stopping;
use crate::daemon::Daemon;
use crate::fault::Result;

/// Works that wait in a mailbox; whoever sends one more waits with it.
const MAILBOX: usize = 64;

/// What is asked of a network's owner.
pub(super) type Work = Box<dyn FnOnce(&mut NetworkState) -> Answer + Send>;

/// Tells who asked, once everybody can see what was done.
type Answer = Box<dyn FnOnce() + Send>;

/// A network, in its owner's hands. One that is neither defined nor active is forgotten.
#[derive(Debug, Default, Clone)]
pub(super) struct NetworkState {
    /// The definition on disk.
    pub(super) defined: Option<Arc<Network>>,
    /// What runs.
    pub(super) active: Option<Arc<Network>>,
    /// It is marked to start with the host.
    pub(super) autostart: bool,
    /// What is to be told of it.
    told: Vec<NetworkChange>,
}

/// A request was not heard: the network is neither defined nor active any more.
#[derive(Debug)]
pub(super) struct Gone;

impl NetworkState {
    /// What runs, or else what would.
    pub(super) fn network(&self) -> Option<&Arc<Network>> {
        self.active.as_ref().or(self.defined.as_ref())
    }

    /// The network of that name, as errors about it need it.
    pub(super) fn subject<'a>(&self, name: &'a str) -> Subject<'a> {
        Subject {
            domain: DOMAIN,
            kind: "network",
            name,
            active: self.active.is_some(),
            persistent: self.defined.is_some(),
        }
    }

    /// Has clients told, once they can see it.
    pub(super) fn tell(&mut self, change: NetworkChange) {
        self.told.push(change);
    }
}

/// Makes a network, and the task that owns it. It ends when the network is neither defined nor active.
pub(super) fn make(daemon: &Arc<Daemon>, name: &str, uuid: Uuid) -> Arc<NetworkHandle> {
    let (mailbox, works) = mpsc::channel(MAILBOX);
    let (shown, view) = watch::channel(Arc::new(NetworkState::default()));
    let handle = Arc::new(NetworkHandle {
        name: name.to_owned(),
        uuid,
        mailbox,
        view,
        is_deaf: AtomicBool::new(false),
    });
    tokio::spawn(own(Arc::clone(daemon), Arc::clone(&handle), works, shown));
    handle
}

async fn own(
    daemon: Arc<Daemon>,
    handle: Arc<NetworkHandle>,
    mut works: mpsc::Receiver<Work>,
    shown: watch::Sender<Arc<NetworkState>>,
) {
    let mut state = NetworkState::default();
    let stopping = Arc::clone(&daemon);
    let mut stopped = std::pin::pin!(stopping.stopped());
    loop {
        let work = tokio::select! {
            work = works.recv() => work,
            () = &mut stopped => return handle.is_deaf.store(true, Ordering::Release),
        };
        let Some(work) = work else { return };
        let mut given = state.clone();
        let done = tokio::task::spawn_blocking(move || {
            // One that panics leaves everything in memory as it was; the log says why.
            let answer = catch_unwind(AssertUnwindSafe(|| work(&mut given)));
            answer.ok().map(|answer| (given, answer))
        });
        let Ok(Some((changed, answer))) = done.await else {
            continue;
        };
        state = changed;
        let told = std::mem::take(&mut state.told);
        shown.send_replace(Arc::new(state.clone()));
        for change in told {
            let net = handle.net();
            daemon.events.tell(NetworkLifecycle { net, change });
        }
        let is_over = state.defined.is_none() && state.active.is_none();
        if is_over {
            daemon.networks.remove(&handle);
        }
        answer();
        if is_over {
            works.close();
            // Those who came too late are told by the silence.
            while works.recv().await.is_some() {}
            return;
        }
    }
}

impl NetworkHandle {
    /// Has its owner do something to it, and waits until it is done. Who asks may go away meanwhile.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut NetworkState) -> Result<T> + Send + 'static,
    ) -> std::result::Result<Result<T>, Gone> {
        let (reply, answer) = oneshot::channel();
        let began = Arc::new(AtomicBool::new(false));
        let begins = Arc::clone(&began);
        let work: Work = Box::new(move |state| {
            begins.store(true, Ordering::Relaxed);
            let done = work(state);
            Box::new(move || {
                // Who asked may be gone.
                let _ = reply.send(done);
            })
        });
        if self.mailbox.send(work).await.is_err() {
            return match self.is_deaf.load(Ordering::Acquire) {
                true => Ok(Err(stopping(DOMAIN))),
                false => Err(Gone),
            };
        }
        match answer.await {
            Ok(done) => Ok(done),
            Err(_) if self.is_deaf.load(Ordering::Acquire) => Ok(Err(stopping(DOMAIN))),
            Err(_) if began.load(Ordering::Relaxed) => {
                let detail = "what was asked broke off; the log says why";
                Ok(Err(Error::new(Code::InternalError, DOMAIN, detail)))
            }
            Err(_) => Err(Gone),
        }
    }

    /// The same, for a network that must be there.
    pub(super) async fn request<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut NetworkState) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        match self.ask(work).await {
            Ok(answer) => answer,
            Err(Gone) => Err(super::no_network(self.uuid)),
        }
    }
}
