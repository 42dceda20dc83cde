//! The server's side of a connection.

mod calls;
mod guard;
mod stream;
mod subscriptions;

use std::fmt;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::UnixStream;

pub use self::stream::{StreamEnded, StreamInput, StreamReader, StreamWriter};
pub use crate::outbox::Disconnected;

use self::calls::{Calls, Full, guarded};
use self::guard::Stage;
use self::stream::Streams;
use self::subscriptions::Subscriptions;
use crate::error::{Code, Domain, Error};
use crate::event::Event;
use crate::frame::{
    Header, KEEPALIVE_PING, KEEPALIVE_PONG, KEEPALIVE_PROGRAM, Kind, Status, frame,
};
use crate::outbox::Outbox;
use crate::procedure::{Info, Program};
use crate::socket::{Inbox, Incoming};
use crate::table::{Reply, Request};
use crate::xdr::{Reader, Xdr};

/// What answers the calls of all connections.
pub trait Service: Send + Sync + 'static {
    /// A client has connected.
    fn opened(&self, conn: &Arc<Connection>) {
        let _ = conn;
    }

    /// Carries out one call. The reply must be of the request's variant.
    ///
    /// Calls of one connection run side by side. The future is first polled by the reader of the
    /// connection, so it must never block its thread; a panic becomes an error reply.
    fn call(
        &self,
        call: Call,
        request: Request,
    ) -> impl Future<Output = Result<Reply, Error>> + Send;

    /// A client is gone. Calls that it made may still be running; their replies go nowhere.
    fn closed(&self, conn: &Arc<Connection>) {
        let _ = conn;
    }
}

/// What one client may take up.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Calls of each priority that run at a time.
    pub calls: usize,
    /// Calls of each priority that wait for a place; more are refused.
    pub waiting_calls: usize,
    /// Bytes that may wait for a client that reads slowly; an event beyond that ends the connection.
    pub queued_bytes: usize,
    /// How long a client may read nothing at all while bytes wait for it.
    pub stall: Duration,
    /// How long a frame may take from its first byte to its last.
    pub frame_time: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            calls: 64,
            waiting_calls: 256,
            queued_bytes: 4 * 1024 * 1024,
            stall: Duration::from_secs(30),
            frame_time: Duration::from_secs(30),
        }
    }
}

/// Who is at the other end, as the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
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
    peer: Option<Peer>,
    read_only: AtomicBool,
    stage: Mutex<Stage>,
    out: Arc<Outbox>,
    streams: Arc<Streams>,
    subscriptions: Mutex<Subscriptions>,
    calls: Arc<Calls>,
    limits: Limits,
}

impl Connection {
    /// A number that no other connection of this process has.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Who is at the other end; none if the kernel would not tell.
    pub fn peer(&self) -> Option<Peer> {
        self.peer
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
    pub fn publish(&self, event: &Event) -> usize {
        let subscriptions = self.subscriptions();
        let (program, procedure) = event.message();
        let header = Header {
            program: program.number(),
            version: Program::VERSION,
            procedure,
            kind: Kind::Event,
            serial: 1,
            status: Status::Ok,
        };
        let mut sent = 0;
        for callback in subscriptions.matching(event) {
            let bytes = match frame(&header, |w| event.encode(callback, w)) {
                Ok(bytes) => bytes,
                Err(error) => {
                    tracing::error!(%error, ?event, "an event can't be sent");
                    break;
                }
            };
            if self.out.push_unasked(bytes).is_err() {
                break;
            }
            sent += 1;
        }
        sent
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
    /// Opens the stream of this call. Its bytes flow once the call has been answered with success;
    /// if it fails, the stream is lost.
    pub fn open_stream(&self) -> (StreamReader, StreamWriter) {
        self.conn.streams.open_for(self.header)
    }
}

/// Serves one client until it is gone.
///
/// `read_only` says which socket it came over. Must run on a tokio runtime with I/O and time.
pub async fn serve<S: Service>(
    service: Arc<S>,
    stream: UnixStream,
    read_only: bool,
    limits: Limits,
) {
    static LAST_ID: AtomicU64 = AtomicU64::new(0);
    let peer = stream
        .peer_cred()
        .map(|cred| Peer {
            uid: cred.uid(),
            gid: cred.gid(),
            pid: cred.pid(),
        })
        .ok();
    let out = Arc::new(Outbox::new(stream, limits.queued_bytes, limits.stall));
    let conn = Arc::new(Connection {
        id: LAST_ID.fetch_add(1, Ordering::Relaxed) + 1,
        peer,
        read_only: AtomicBool::new(read_only),
        stage: Mutex::new(Stage::New),
        streams: Arc::new(Streams::new(Arc::clone(&out))),
        out,
        subscriptions: Mutex::default(),
        calls: Arc::new(Calls::new(&limits)),
        limits,
    });
    service.opened(&conn);
    read(&service, &conn).await;
    // The reply to "close" may still be on its way to a slow client.
    let flushed = tokio::time::timeout(Duration::from_secs(1), conn.out.wait_below(0)).await;
    tracing::trace!(conn = conn.id, ?flushed, "disconnected");
    conn.close();
    conn.streams.close();
    conn.calls.forget_waiting();
    service.closed(&conn);
}

/// Takes in frames until the connection ends.
async fn read<S: Service>(service: &Arc<S>, conn: &Arc<Connection>) {
    let mut inbox = Inbox::new(conn.limits.frame_time);
    loop {
        // A client with much to say must not keep this thread from the others.
        tokio::task::coop::consume_budget().await;
        // Whoever does not read answers does not get to ask for more.
        if conn
            .out
            .wait_below(conn.limits.queued_bytes / 4)
            .await
            .is_err()
        {
            return;
        }
        let incoming = match inbox.next(conn.out.stream()).await {
            Ok(incoming) => incoming,
            Err(error) => {
                tracing::debug!(conn = conn.id, %error, "no more frames");
                return;
            }
        };
        match take(service, conn, incoming).await {
            Ok(Next::Frame) => {}
            Ok(Next::Close) | Err(Disconnected) => return,
        }
    }
}

/// Whether a connection goes on.
enum Next {
    Frame,
    Close,
}

async fn take<S: Service>(
    service: &Arc<S>,
    conn: &Arc<Connection>,
    incoming: Incoming<'_>,
) -> Result<Next, Disconnected> {
    let header = incoming.header;
    if header.program == KEEPALIVE_PROGRAM {
        if header.procedure == KEEPALIVE_PING && header.kind == Kind::Event {
            conn.send_plain(&Header {
                procedure: KEEPALIVE_PONG,
                ..header
            })?;
        }
        return Ok(Next::Frame);
    }
    match (header.kind, header.status) {
        (Kind::Call | Kind::CallWithFds, Status::Ok) => take_call(service, conn, incoming).await,
        (Kind::Call | Kind::CallWithFds, status) => {
            let error = Error::protocol(format!("Unexpected status of a call: {status:?}"));
            conn.answer(&header, None, Err(error))
                .await
                .map(|()| Next::Frame)
        }
        (Kind::Stream | Kind::Hole, _) => conn
            .streams
            .take(&header, incoming.payload)
            .await
            .map(|()| Next::Frame),
        // Answers and events come from servers; nobody waits for an answer to one.
        (Kind::Reply | Kind::ReplyWithFds | Kind::Event, _) => Ok(Next::Frame),
        (Kind::Other(number), _) => {
            let error = Error::protocol(format!("Unexpected message type {number}"));
            conn.answer(&header, None, Err(error))
                .await
                .map(|()| Next::Frame)
        }
    }
}

async fn take_call<S: Service>(
    service: &Arc<S>,
    conn: &Arc<Connection>,
    incoming: Incoming<'_>,
) -> Result<Next, Disconnected> {
    let Incoming {
        header,
        payload,
        fds,
    } = incoming;
    let request = match decode(&header, payload) {
        Ok(request) => request,
        Err(error) => {
            return conn
                .answer(&header, None, Err(error))
                .await
                .map(|()| Next::Frame);
        }
    };
    let info = request.info();
    let checked = {
        let mut stage = conn.stage();
        let checked = guard::check(&request, *stage, conn.is_read_only());
        if checked.is_ok() && matches!(request, Request::ConnectOpen(_)) {
            *stage = Stage::Opening;
        }
        checked
    };
    if let Err(error) = checked {
        return conn
            .answer(&header, Some(info), Err(error))
            .await
            .map(|()| Next::Frame);
    }
    if let Some(reply) = guard::answer(&request) {
        conn.answer(&header, Some(info), Ok(reply)).await?;
        let close = matches!(request, Request::ConnectClose(_));
        return Ok(if close { Next::Close } else { Next::Frame });
    }
    {
        // Held until the reply is queued, so that no event overtakes it.
        let mut subscriptions = conn.subscriptions();
        if let Some(result) = subscriptions.answer(&request) {
            let bytes = reply_frame(&header, Some(info), &result);
            return conn.out.push(bytes).map(|()| Next::Frame);
        }
    }
    let job = {
        let service = Arc::clone(service);
        let conn = Arc::clone(conn);
        let call = Call {
            conn: Arc::clone(&conn),
            fds,
            header,
        };
        Box::pin(async move { conn.run(&*service, call, request).await })
    };
    if let Err(Full) = conn.calls.start(info.priority, job).await {
        let detail = "too many calls of this connection wait for an answer; wait for some of them";
        let error = Error::new(Code::OperationFailed, Domain::Rpc, detail);
        conn.answer(&header, Some(info), Err(error)).await?;
    }
    Ok(Next::Frame)
}

/// The request in a call's frame, or the error that a client expects.
fn decode(header: &Header, payload: &[u8]) -> Result<Request, Error> {
    let Header {
        program,
        version,
        procedure,
        ..
    } = *header;
    let found = Program::find(program, version).ok_or_else(|| {
        Error::protocol(format!("Cannot find program {program} version {version}"))
    })?;
    Request::decode(found, procedure, &mut Reader::new(payload))
        .ok_or_else(|| Error::protocol(format!("unknown procedure: {procedure}")))?
        .map_err(|error| {
            tracing::debug!(procedure, %error, "a call can't be decoded");
            Error::protocol("Unable to decode message payload")
        })
}

impl Connection {
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
            if result.is_ok() && flags & guard::OPEN_READ_ONLY != 0 {
                self.read_only.store(true, Ordering::Relaxed);
            }
            *self.stage() = if result.is_ok() {
                Stage::Open
            } else {
                Stage::New
            };
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
        let queued = self.out.push_with_room(bytes).await;
        self.streams.answered(header, result.is_ok());
        queued
    }

    fn send_plain(&self, header: &Header) -> Result<(), Disconnected> {
        match frame(header, |_| ()) {
            Ok(bytes) => self.out.push(bytes),
            // A header alone always has a legal length.
            Err(_) => Ok(()),
        }
    }
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
