//! The server's side of a connection.

mod calls;
mod clients;
mod guard;
mod intake;
mod remote;
mod stream;
mod subscriptions;

use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

pub use self::clients::{ClientLimits, Clients, Limits};
pub use self::remote::{REMOTE_DESCRIPTORS, Refused, Remote, TlsGate, serve_remote};
pub use self::stream::{StreamEnded, StreamInput, StreamReader, StreamWriter};
pub use crate::outbox::Disconnected;

use self::calls::{Calls, guarded};
use self::guard::Stage;
use self::stream::Streams;
use self::subscriptions::{Notice, Subscriptions};
use crate::endpoint::Endpoint;
use crate::error::{Code, Domain, Error};
use crate::event::Event;
use crate::flags::Open;
use crate::frame::{Header, Kind, Status, frame};
use crate::outbox::{Outbox, Unsent};
use crate::procedure::Info;
use crate::socket::permits;
use crate::table::{Reply, Request};
use crate::tls::ClientName;
use crate::xdr::Xdr;

/// What answers the calls of all connections.
pub trait Service: Send + Sync + 'static {
    /// A client has connected.
    fn opened(&self, conn: &Arc<Connection>) {
        let _ = conn;
    }

    /// Carries out one call. The reply must be of the request's variant.
    ///
    /// Calls of one connection run side by side. The future of a [quick](crate::Pace::Quick) call is polled by
    /// the reader of the connection first; none may block its thread. A panic becomes an error reply.
    ///
    /// A call of a client that may change nothing is dropped when the client goes; any other runs to
    /// its end.
    fn call(
        &self,
        call: Call,
        request: Request,
    ) -> impl Future<Output = Result<Reply, Error>> + Send;

    /// A client is gone. Calls by which it changes things may still be running; their replies go
    /// nowhere.
    fn closed(&self, conn: &Arc<Connection>) {
        let _ = conn;
    }
}

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Peer {
    /// A process of this host, as the kernel says; none if it would not tell. It may be one that ssh
    /// started for somebody elsewhere.
    Local(Option<Process>),
    /// A client of another host that proved to have that name.
    Tls {
        /// The name.
        name: ClientName,
        /// Whence it comes.
        address: SocketAddr,
    },
    /// Anybody.
    Tcp {
        /// Whence it comes.
        address: SocketAddr,
    },
}

/// A process of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The process, if it is in sight.
    pub pid: Option<i32>,
}

/// One client.
pub struct Connection {
    id: u64,
    peer: Peer,
    local: Option<IpAddr>,
    read_only: AtomicBool,
    stage: Mutex<Stage>,
    out: Arc<Outbox>,
    streams: Arc<Streams>,
    subscriptions: Mutex<Subscriptions>,
    calls: Calls,
    /// Who wants to know when a call is answered, by its serial.
    awaited: Mutex<Vec<(u32, oneshot::Sender<bool>)>>,
    clients: Arc<Clients>,
}

impl Connection {
    /// A number that no other connection of this process has.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The address of this host at which the client reached us, and so can reach what else listens
    /// there; none for one that came over a unix socket, be it by ssh.
    pub fn local_addr(&self) -> Option<IpAddr> {
        self.local
    }

    /// Whether nobody can read along or pose as the client.
    pub fn is_secure(&self) -> bool {
        !matches!(self.peer, Peer::Tcp { .. })
    }

    /// Whether file descriptors can go along.
    fn passes_fds(&self) -> bool {
        matches!(self.peer, Peer::Local(_))
    }

    /// Whether this client may change nothing: it came over the read-only socket, or asked for it.
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Relaxed)
    }

    /// Whether the client is gone.
    pub fn is_closed(&self) -> bool {
        self.out.is_closed()
    }

    /// Disconnects the client.
    pub fn close(&self) {
        self.out.close();
    }

    /// Sends an event to each registration of this client that wants it, and says how many those
    /// are. It never waits: a client that leaves too many events unread is disconnected.
    /// [`Clients::publish`] is for all clients.
    pub fn publish(&self, event: &Event) -> usize {
        Notice::new(event.clone()).map_or(0, |notice| self.notify(&notice, u64::MAX))
    }

    /// The same, for registrations that are older than the event of that number.
    fn notify(&self, notice: &Notice, number: u64) -> usize {
        // Held until the event is queued: after the reply to a deregistration nothing comes.
        let subscriptions = self.subscriptions();
        let (bytes, count) = notice.frames(subscriptions.matching(notice.event(), number));
        if count == 0 || self.out.push_unasked(bytes).is_err() {
            return 0;
        }
        count
    }

    /// Whether this client may change things, and its connection is open.
    fn is_writer(&self) -> bool {
        !self.is_read_only() && *self.stage() == Stage::Open
    }

    /// What it may take up.
    fn limits(&self) -> &ClientLimits {
        let limits = self.clients.limits();
        if self.is_writer() {
            &limits.writer
        } else {
            &limits.reader
        }
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn subscriptions(&self) -> MutexGuard<'_, Subscriptions> {
        self.subscriptions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.id)
            .field("peer", &self.peer)
            .finish()
    }
}

/// One call, beside its arguments.
#[derive(Debug)]
pub struct Call {
    /// Whose call it is.
    pub conn: Arc<Connection>,
    /// File descriptors that came with it.
    pub fds: Vec<OwnedFd>,
    header: Header,
}

impl Call {
    /// Waits, once it has been answered, until the kernel has all of the answer; `false`: the client was gone
    /// before. For what must be so only if the client can know. To be called before the call gives its reply,
    /// once.
    pub fn answered(&self) -> impl Future<Output = bool> + Send + use<> {
        let (sender, queued) = oneshot::channel();
        let conn = Arc::clone(&self.conn);
        let mut awaited = conn.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        awaited.push((self.header.serial, sender));
        drop(awaited);
        async move {
            // Each call is answered, also one whose client is gone.
            match queued.await {
                Ok(true) => true,
                Ok(false) => conn.out.wait_below(0).await.is_ok(),
                Err(_) => false,
            }
        }
    }

    /// Opens the stream of this call. Its bytes flow once the call has been answered with success;
    /// if it fails, the stream is lost.
    pub fn open_stream(&self) -> (StreamReader, StreamWriter) {
        self.conn.streams.open_for(self.header)
    }
}

/// Serves one client of this host until it is gone.
///
/// `read_only` says which socket it came over; `clients` are all that share the server. Must run on a
/// tokio runtime with I/O and time.
pub async fn serve<S: Service>(
    service: Arc<S>,
    stream: UnixStream,
    read_only: bool,
    clients: Arc<Clients>,
) {
    let process = stream.peer_cred().ok().map(|cred| Process {
        uid: cred.uid(),
        gid: cred.gid(),
        pid: cred.pid(),
    });
    let peer = (Peer::Local(process), None);
    serve_peer(service, stream, peer, read_only, clients).await;
}

/// Serves one client, wherever it is, which reached us at that address.
async fn serve_peer<S: Service>(
    service: Arc<S>,
    stream: UnixStream,
    (peer, local): (Peer, Option<IpAddr>),
    read_only: bool,
    clients: Arc<Clients>,
) {
    static LAST_ID: AtomicU64 = AtomicU64::new(0);
    let endpoint = match Endpoint::new(stream) {
        Ok(endpoint) => endpoint,
        Err(error) => {
            tracing::warn!(%error, "a client's socket can't be watched; it is disconnected");
            return;
        }
    };
    let out = Arc::new(Outbox::new(endpoint, clients.room(false)));
    let conn = Arc::new(Connection {
        id: LAST_ID.fetch_add(1, Ordering::Relaxed) + 1,
        peer,
        local,
        read_only: AtomicBool::new(read_only),
        stage: Mutex::new(Stage::New),
        streams: Arc::new(Streams::new(Arc::clone(&out))),
        out,
        subscriptions: Mutex::default(),
        calls: Calls::default(),
        awaited: Mutex::default(),
        clients,
    });
    service.opened(&conn);
    intake::read(&service, &conn).await;
    // The reply to "close" may still be on its way to a slow client.
    let flushed = tokio::time::timeout(Duration::from_secs(1), conn.out.wait_below(0)).await;
    tracing::trace!(conn = conn.id, ?flushed, "disconnected");
    conn.close();
    conn.streams.close();
    conn.calls.forget_waiting();
    service.closed(&conn);
}

/// A call of a reader costs nothing up to so many bytes.
const SMALL_CALL: usize = 1024;

impl Connection {
    /// Room for a call of that many bytes until it is done; none is needed for a writer's.
    fn charge(&self, bytes: usize) -> Result<Option<OwnedSemaphorePermit>, Error> {
        if bytes <= SMALL_CALL || self.is_writer() {
            return Ok(None);
        }
        let room = Arc::clone(&self.clients.readers_bytes).try_acquire_many_owned(permits(bytes));
        room.map(Some).map_err(|_| no_room())
    }

    async fn run<S: Service>(self: Arc<Self>, service: &S, call: Call, request: Request) {
        let header = call.header;
        let info = request.info();
        let open_flags = match &request {
            Request::ConnectOpen(args) => Some(args.flags),
            _ => None,
        };
        let result = match guarded(async { service.call(call, request).await }).await {
            Ok(Ok(reply)) if reply.info() != info => {
                tracing::error!(call = info.name, reply = reply.info().name, "a wrong reply");
                Err(Error::new(
                    Code::InternalError,
                    info.domain,
                    "the reply is of another call",
                ))
            }
            Ok(result) => result,
            Err(calls::Panicked) => {
                tracing::error!(call = info.name, "a call panicked");
                let detail = format!("{} failed by a fault in the daemon; see its log", info.api);
                Err(Error::new(Code::InternalError, info.domain, detail))
            }
        };
        if let Some(flags) = open_flags {
            if result.is_ok() && flags.contains(Open::READ_ONLY) {
                self.read_only.store(true, Ordering::Relaxed);
            }
            *self.stage() = if result.is_ok() {
                Stage::Open
            } else {
                Stage::New
            };
            self.out.set_room(self.clients.room(self.is_writer()));
        }
        // A client that is gone misses nothing.
        let _ = self.answer(&header, Some(info), result).await;
    }

    /// Queues the answer to a call, waiting for room if the client reads slowly.
    async fn answer(
        &self,
        header: &Header,
        info: Option<&Info>,
        result: Result<Reply, Error>,
    ) -> Result<(), Disconnected> {
        let bytes = reply_frame(header, info, &result);
        let queued = match self.out.push_with_room(bytes).await {
            Ok(is_sent) => Ok(is_sent),
            Err(Unsent::Disconnected) => Err(Disconnected),
            Err(Unsent::NoRoom) => {
                let refusal = reply_frame(header, info, &Err(no_room()));
                // What it asked for it is not told.
                self.out.push(refusal).map(|()| false)
            }
        };
        self.streams.answered(header, result.is_ok());
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = awaited
            .iter()
            .position(|(serial, _)| *serial == header.serial)
        {
            let (_, waiting) = awaited.swap_remove(at);
            if let Ok(is_sent) = queued {
                // Who waited may be gone.
                let _ = waiting.send(is_sent);
            }
        }
        queued.map(drop)
    }
}

/// What a reader is told for whose call or answer there is no room.
fn no_room() -> Error {
    let detail = "read-only clients have too much under way or unread; try again later";
    Error::new(Code::ResourceBusy, Domain::Rpc, detail)
}

/// The frame that answers a call.
fn reply_frame(header: &Header, info: Option<&Info>, result: &Result<Reply, Error>) -> Vec<u8> {
    let good = header.answer(Kind::Reply, Status::Ok);
    let bad = header.answer(Kind::Reply, Status::Error);
    let error_frame = |error: &Error| frame(&bad, |w| error.encode(w));
    match result {
        Ok(reply) => frame(&good, |w| reply.encode(w)).or_else(|error| {
            tracing::error!(call = info.map(|info| info.name), %error, "a reply can't be sent");
            error_frame(&Error::protocol("Unable to encode message payload"))
        }),
        Err(error) => error_frame(error).or_else(|_| {
            error_frame(&Error::new(
                error.code(),
                error.domain(),
                "the text is too long to show",
            ))
        }),
    }
    // Short texts always fit.
    .unwrap_or_default()
}
