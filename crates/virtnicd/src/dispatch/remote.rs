//! Clients of other hosts are taken in.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rpc::server::{Peer, serve_remote};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::{ACCEPT_PAUSE, Api, Room};
use crate::daemon::Daemon;
use crate::remote::Door;
use crate::sync::lock;

/// Clients at a time of whom it is not known yet who they are, or for whom there is no room yet; others
/// wait outside.
const NEWCOMERS: usize = 20;
/// How long a client has to prove who it is while others wait outside.
const HURRY: Duration = Duration::from_secs(1);
/// Between two lines of the log about those that are sent away.
const TELL_EACH: Duration = Duration::from_secs(10);

/// Takes clients of other hosts in, as far as there is room for them, until it is cancelled.
pub(crate) async fn accept_remote(daemon: Arc<Daemon>, door: Arc<Door>, room: Room) {
    let newcomers = Arc::new(Semaphore::new(NEWCOMERS));
    let others_wait = watch::Sender::new(false);
    let hall = Arc::new(Hall {
        daemon,
        door,
        room,
        sent_away: SentAway::default(),
    });
    loop {
        let (tcp, from) = match hall.door.listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // It went before it was taken in, or descriptors have run out.
                tracing::warn!(%error, "can't take a client of another host in");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        others_wait.send_replace(newcomers.available_permits() == 0);
        let Ok(newcomer) = Arc::clone(&newcomers).acquire_owned().await else {
            // It is never closed.
            return;
        };
        others_wait.send_replace(false);
        let (hall, others_wait) = (Arc::clone(&hall), others_wait.subscribe());
        tokio::spawn(hall.take_in(tcp, from, newcomer, others_wait));
    }
}

/// What all newcomers at one door have to do with.
struct Hall {
    daemon: Arc<Daemon>,
    door: Arc<Door>,
    room: Room,
    sent_away: SentAway,
}

impl Hall {
    /// Finds out who it is, waits for room, and serves it.
    async fn take_in(
        self: Arc<Self>,
        tcp: TcpStream,
        from: SocketAddr,
        newcomer: OwnedSemaphorePermit,
        mut others_wait: watch::Receiver<bool>,
    ) {
        // Many that say nothing must not keep those out who would prove themselves at once.
        let hurried = async {
            tokio::time::sleep(HURRY).await;
            // The sender may be gone, with the daemon.
            let _ = others_wait.wait_for(|others| *others).await;
        };
        let admitted = tokio::select! {
            admitted = self.door.admit(tcp) => admitted,
            () = hurried => {
                self.sent_away.tell(from, "others waited, and it had not proved who it is");
                return;
            }
            () = self.daemon.stopped() => return,
        };
        let remote = match admitted {
            Ok(remote) => remote,
            Err(why) => return self.sent_away.tell(from, &crate::chain(&why)),
        };
        let place = tokio::select! {
            place = self.room.remote_place() => place,
            () = self.daemon.stopped() => return,
        };
        drop(newcomer);
        if let Peer::Tls { name, .. } = remote.peer() {
            tracing::info!(%name, %from, "a client has come by TLS");
        }
        let clients = self.daemon.events.clients();
        let api = Arc::new(Api(Arc::clone(&self.daemon)));
        // The client's end may outlast the daemon by a moment.
        drop(self);
        serve_remote(api, remote, clients).await;
        drop(place);
    }
}

/// Tells of clients that were sent away, but lets nobody fill the log.
#[derive(Debug, Default)]
struct SentAway {
    /// When it was last told, and how many were not since.
    told: Mutex<(Option<Instant>, u64)>,
}

impl SentAway {
    fn tell(&self, from: SocketAddr, why: &str) {
        let untold = {
            let mut told = lock(&self.told);
            let now = Instant::now();
            if told
                .0
                .is_some_and(|last| now.duration_since(last) < TELL_EACH)
            {
                told.1 += 1;
                tracing::debug!("{from} is sent away: {why}");
                return;
            }
            told.0 = Some(now);
            std::mem::take(&mut told.1)
        };
        let others = match untold {
            0 => String::new(),
            count => format!(" (and so were {count} others, since this was last told)"),
        };
        tracing::warn!("{from} is sent away: {why}{others}");
    }
}
