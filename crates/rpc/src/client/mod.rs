//! The client's side: open a connection, make calls, hear events.

mod connect;
mod ssh;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

pub use self::connect::{ConnectError, Connecting};

use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::event::{CallbackId, Event};
use crate::flags;
use crate::frame::{
    FRAME_MAX, Header, KEEPALIVE_PING, KEEPALIVE_PONG, KEEPALIVE_PROGRAM, Kind, Status, frame,
};
use crate::outbox::{Disconnected, Outbox, Room};
use crate::procedure::{Procedure, Program};
use crate::socket::{Allowance, Inbox, Incoming};
use crate::table::{AuthList, ConnectClose, ConnectOpen, ConnectSupportsFeature};
use crate::xdr::{DecodeError, EncodeError, Reader, Xdr};

/// How many events wait for somebody to look at them; later ones are lost.
const EVENTS_WAITING: usize = 4096;
/// A server that takes nothing for this long is taken for dead.
const STALL: Duration = Duration::from_secs(60);

const AUTH_NONE: i32 = 0;
const FEATURE_KEEPALIVE: i32 = 10;

/// Why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nothing answers at that path.
    #[error("can't connect to {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The kernel does not tell what comes in on the socket.
    #[error("can't watch the connection to the server")]
    Watch(#[source] std::io::Error),
    /// The server wants a proof of identity that this client can't give.
    #[error("the server asks for authentication of a kind that is not supported here")]
    Authentication,
    /// A call of the opening failed.
    #[error("the server does not open the connection")]
    Call(#[from] CallError),
}

/// Why a call gave nothing back.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The server refused it, in its own words.
    #[error(transparent)]
    Refused(Error),
    /// The server is gone.
    #[error("the connection to the server is lost")]
    Disconnected,
    /// The reply makes no sense.
    #[error("the server's reply can't be understood")]
    Reply(#[from] DecodeError),
    /// The arguments are too large.
    #[error("the call is too large to be sent")]
    Arguments(#[from] EncodeError),
}

impl From<Disconnected> for CallError {
    fn from(_: Disconnected) -> CallError {
        CallError::Disconnected
    }
}

/// An open connection. Calls may be made side by side; dropping it disconnects.
#[derive(Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

/// The events that a connection registered for.
#[derive(Debug)]
pub struct Events {
    received: mpsc::Receiver<(CallbackId, Event)>,
}

#[derive(Debug)]
struct Shared {
    out: Arc<Outbox>,
    serial: AtomicU32,
    waiting: Mutex<HashMap<u32, oneshot::Sender<Answer>>>,
}

#[derive(Debug)]
struct Answer {
    header: Header,
    payload: Vec<u8>,
}

impl Client {
    /// Opens a connection through the socket at `path`, to the driver that the URI `name` names
    /// (empty for the server's choice).
    pub async fn open(
        path: &Path,
        name: &str,
        read_only: bool,
    ) -> Result<(Client, Events), OpenError> {
        let stream = UnixStream::connect(path)
            .await
            .map_err(|source| OpenError::Connect {
                path: path.to_owned(),
                source,
            })?;
        Client::open_on(stream, name, read_only).await
    }

    /// Opens a connection over a socket that is connected already.
    pub async fn open_on(
        stream: UnixStream,
        name: &str,
        read_only: bool,
    ) -> Result<(Client, Events), OpenError> {
        let endpoint = Endpoint::new(stream).map_err(OpenError::Watch)?;
        // What we ask is ours to bound.
        let room = Room {
            bytes: usize::MAX,
            stall: STALL,
            budget: None,
        };
        let shared = Arc::new(Shared {
            out: Arc::new(Outbox::new(endpoint, room)),
            serial: AtomicU32::new(0),
            waiting: Mutex::default(),
        });
        let (sender, received) = mpsc::channel(EVENTS_WAITING);
        tokio::spawn(read(Arc::clone(&shared), sender));
        let client = Client { shared };

        let kinds = client.call(&AuthList {}).await?;
        if !(kinds.is_empty() || kinds.contains(&AUTH_NONE)) {
            return Err(OpenError::Authentication);
        }
        client
            .call(&ConnectSupportsFeature {
                feature: FEATURE_KEEPALIVE,
            })
            .await?;
        let flags = if read_only {
            flags::Open::READ_ONLY
        } else {
            flags::Open::NONE
        };
        let name = (!name.is_empty()).then(|| name.to_owned());
        client.call(&ConnectOpen { name, flags }).await?;
        Ok((client, Events { received }))
    }

    /// Makes a call and waits for what it gives back.
    pub async fn call<P: Procedure>(&self, args: &P) -> Result<P::Reply, CallError> {
        self.call_with_fds(args, Vec::new()).await
    }

    /// Makes a call that file descriptors go with. The server must have feature 8.
    pub async fn call_with_fds<P: Procedure>(
        &self,
        args: &P,
        fds: Vec<OwnedFd>,
    ) -> Result<P::Reply, CallError> {
        let shared = &self.shared;
        let (program, procedure) = (P::INFO.program.number(), P::INFO.number);
        let serial = shared.serial.fetch_add(1, Ordering::Relaxed);
        let kind = if fds.is_empty() {
            Kind::Call
        } else {
            Kind::CallWithFds
        };
        let version = Program::VERSION;
        let header = Header {
            program,
            version,
            procedure,
            kind,
            serial,
            status: Status::Ok,
        };
        let bytes = frame(&header, |w| {
            if !fds.is_empty() {
                w.count(fds.len(), crate::frame::FDS_MAX);
            }
            args.encode(w);
        })?;

        let (sender, answer) = oneshot::channel();
        let waiting = Waiting { shared, serial };
        shared.waiting().insert(serial, sender);
        shared.out.push_with_fds(bytes, fds)?;
        let answer = answer.await.map_err(|_| CallError::Disconnected)?;
        drop(waiting);

        let mut r = Reader::new(&answer.payload);
        match answer.header.status {
            Status::Ok => Ok(P::decode_reply(&mut r)?),
            _ => Err(CallError::Refused(Error::decode(&mut r)?)),
        }
    }

    /// Says goodbye and disconnects.
    pub async fn close(self) {
        // If the server is gone already, so much the better.
        let _ = self.call(&ConnectClose {}).await;
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.shared.out.close();
    }
}

impl Events {
    /// Waits for the next event; none when the connection is gone.
    pub async fn next(&mut self) -> Option<(CallbackId, Event)> {
        self.received.recv().await
    }
}

/// Takes a call off the list of those that wait, also when its future is dropped.
struct Waiting<'a> {
    shared: &'a Shared,
    serial: u32,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.waiting().remove(&self.serial);
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, HashMap<u32, oneshot::Sender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands on what the server sends, until it or we are gone.
async fn read(shared: Arc<Shared>, events: mpsc::Sender<(CallbackId, Event)>) {
    let mut inbox = Inbox::new();
    let allowance = Allowance {
        frame: FRAME_MAX,
        patience: STALL,
        budget: None,
    };
    loop {
        match inbox.next(shared.out.stream(), &allowance).await {
            Ok(incoming) => {
                if take(&shared, &events, incoming).is_err() {
                    break;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "no more frames from the server");
                break;
            }
        }
    }
    shared.out.close();
    // Whoever waits learns that no answer comes.
    shared.waiting().clear();
}

fn take(
    shared: &Shared,
    events: &mpsc::Sender<(CallbackId, Event)>,
    incoming: Incoming<'_>,
) -> Result<(), Disconnected> {
    let Incoming {
        header, payload, ..
    } = incoming;
    match (header.program, header.kind) {
        (KEEPALIVE_PROGRAM, Kind::Event) if header.procedure == KEEPALIVE_PING => {
            if let Ok(bytes) = frame(
                &Header {
                    procedure: KEEPALIVE_PONG,
                    ..header
                },
                |_| (),
            ) {
                shared.out.push(bytes)?;
            }
        }
        (_, Kind::Reply | Kind::ReplyWithFds) => {
            if let Some(sender) = shared.waiting().remove(&header.serial) {
                // Nobody may want it any more.
                let _ = sender.send(Answer {
                    header,
                    payload: payload.to_owned(),
                });
            }
        }
        (program, Kind::Event) => {
            let found = Program::find(program, header.version);
            let mut r = Reader::new(payload);
            match found.and_then(|program| Event::decode(program, header.procedure, &mut r)) {
                Some(Ok(event)) => {
                    if events.try_send(event).is_err() {
                        tracing::debug!(procedure = header.procedure, "nobody hears an event");
                    }
                }
                Some(Err(error)) => {
                    tracing::warn!(procedure = header.procedure, %error, "an event makes no sense");
                }
                None => tracing::debug!(procedure = header.procedure, "an unknown event"),
            }
        }
        _ => {}
    }
    Ok(())
}
