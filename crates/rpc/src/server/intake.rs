//! What comes in on a connection, frame by frame.

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use super::calls::{self, Full, Job};
use super::guard::{self, Stage};
use super::{Call, Connection, Service, no_room, reply_frame};
use crate::error::{Code, Domain, Error};
use crate::frame::{
    Header, KEEPALIVE_PING, KEEPALIVE_PONG, KEEPALIVE_PROGRAM, Kind, Status, frame,
};
use crate::outbox::Disconnected;
use crate::procedure::{Pace, Program};
use crate::socket::{Allowance, Inbox, Incoming, ReadError};
use crate::table::Request;
use crate::unserved;
use crate::xdr::{DecodeError, Reader};

/// Takes in frames until the connection ends.
pub(super) async fn read<S: Service>(service: &Arc<S>, conn: &Arc<Connection>) {
    let mut inbox = Inbox::new();
    let opening = Instant::now() + conn.clients.limits().opening;
    loop {
        // A client with much to say must not keep this thread from the others.
        tokio::task::coop::consume_budget().await;
        let incoming = match next_frame(conn, &mut inbox, opening).await {
            Ok(incoming) => incoming,
            Err(error) => {
                tracing::debug!(conn = conn.id, %error, "no more frames");
                if let Some((header, error)) = refusal(&error, conn.is_read_only()) {
                    // A client that is gone misses nothing.
                    let _ = conn.answer(&header, None, Err(error)).await;
                }
                return;
            }
        };
        let writer = conn.is_writer();
        let next = {
            let turns = &conn.clients.readers_turn;
            // They are never closed.
            let _turn = if writer {
                None
            } else {
                turns.acquire().await.ok()
            };
            take(service, conn, incoming).await
        };
        let next = match next {
            Ok(Next::Busy(header, pace, job)) => wait_for_place(conn, &header, pace, job).await,
            next => next,
        };
        match next {
            Ok(Next::Frame | Next::Busy(..)) => {}
            Ok(Next::Close) | Err(Disconnected) => return,
        }
    }
}

/// The next frame, unless the client takes too long to open its connection.
async fn next_frame<'a>(
    conn: &Connection,
    inbox: &'a mut Inbox,
    opening: Instant,
) -> Result<Incoming<'a>, ReadError> {
    let limits = conn.limits();
    let writer = conn.is_writer();
    let allowance = Allowance {
        frame: limits.frame,
        patience: limits.frame_time,
        budget: (!writer).then_some(&conn.clients.readers_bytes),
    };
    let next = inbox.next(conn.out.stream(), &allowance);
    if *conn.stage() == Stage::New {
        let opened = timeout_at(opening, next).await;
        opened.unwrap_or(Err(ReadError::NotOpened))
    } else {
        next.await
    }
}

/// What a client is told whose frame is not read; none: the frame makes no sense anyway.
fn refusal(error: &ReadError, read_only: bool) -> Option<(Header, Error)> {
    match *error {
        ReadError::OverAllowance {
            header,
            length,
            max,
        } => {
            let who = if read_only {
                "a read-only client"
            } else {
                "a client whose connection is not open"
            };
            let detail =
                format!("a message of {length} bytes is over the {max} that {who} may send");
            Some((header, Error::protocol(detail)))
        }
        ReadError::NoRoom(header) => Some((header, no_room())),
        _ => None,
    }
}

/// A call for which even the queue has no place: its client is refused, or, if it leaves its answers
/// unread, not listened to for as long as it does.
async fn wait_for_place(
    conn: &Arc<Connection>,
    header: &Header,
    pace: Pace,
    mut job: Job,
) -> Result<Next, Disconnected> {
    while !conn.out.has_room() {
        conn.out.wait_for_room().await?;
        match calls::start(conn, pace, job).await {
            Ok(()) => return Ok(Next::Frame),
            Err(Full(back)) => job = back,
        }
    }
    let detail = "too many calls of this connection wait for an answer; wait for some of them";
    let error = Error::new(Code::OperationFailed, Domain::Rpc, detail);
    conn.answer(header, None, Err(error)).await?;
    Ok(Next::Frame)
}

/// Whether a connection goes on.
enum Next {
    Frame,
    Close,
    /// There is no place for that call.
    Busy(Header, Pace, Job),
}

async fn take<S: Service>(
    service: &Arc<S>,
    conn: &Arc<Connection>,
    incoming: Incoming<'_>,
) -> Result<Next, Disconnected> {
    let header = incoming.header;
    if header.program == KEEPALIVE_PROGRAM {
        if header.procedure == KEEPALIVE_PING && header.kind == Kind::Event {
            let pong = Header {
                procedure: KEEPALIVE_PONG,
                ..header
            };
            // A header alone always has a legal length.
            if let Ok(bytes) = frame(&pong, |_| ()) {
                conn.out.push_pong(bytes)?;
            }
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
    if let Some(reply) = guard::answer(&request, conn.passes_fds()) {
        conn.answer(&header, Some(info), Ok(reply)).await?;
        let close = matches!(request, Request::ConnectClose(_));
        return Ok(if close { Next::Close } else { Next::Frame });
    }
    {
        // Held until the reply is queued, so that no event overtakes it.
        let mut subscriptions = conn.subscriptions();
        let first = subscriptions.is_unused();
        let count = conn.clients.event_count();
        if let Some(result) = subscriptions.answer(&request, count, conn.limits().subscriptions) {
            if first && !subscriptions.is_unused() {
                conn.clients.add_listener(conn);
            }
            let bytes = reply_frame(&header, Some(info), &result);
            return conn.out.push(bytes).map(|()| Next::Frame);
        }
    }
    let charge = match conn.charge(payload.len()) {
        Ok(charge) => charge,
        Err(error) => {
            return conn
                .answer(&header, Some(info), Err(error))
                .await
                .map(|()| Next::Frame);
        }
    };
    let job: Job = {
        let service = Arc::clone(service);
        let conn = Arc::clone(conn);
        let call = Call {
            conn: Arc::clone(&conn),
            fds,
            header,
        };
        Box::pin(async move {
            conn.run(&*service, call, request).await;
            drop(charge);
        })
    };
    Ok(match calls::start(conn, info.pace, job).await {
        Ok(()) => Next::Frame,
        Err(Full(job)) => Next::Busy(header, info.pace, job),
    })
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
        .ok_or_else(|| unserved::refusal(found, procedure))?
        .map_err(|error| {
            tracing::debug!(procedure, %error, "a call can't be decoded");
            Error::protocol(match error {
                DecodeError::NotText => {
                    "Unable to decode message payload: a text in it, such as \
                                         a document, is not UTF-8"
                }
                _ => "Unable to decode message payload",
            })
        })
}
