//! Streams: bytes both ways beside the calls, as for a console.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

use crate::error::{Code, Domain, Error};
use crate::frame::{Header, Kind, STREAM_PACKET_MAX, Status, frame, stream_packet};
use crate::outbox::{Disconnected, Outbox};
use crate::xdr::Xdr;

/// Data from a client is handed on in pieces of this many bytes at most.
const PIECE_MAX: usize = 16 * 1024;
/// How many pieces wait for a reader that is slow.
const PIECES_WAITING: usize = 16;
/// How long the connection waits for the reader of a stream before it ends the stream.
const READER_PATIENCE: Duration = Duration::from_secs(5);
/// A stream sends on when no more than this is queued, so that a slow client slows its source.
const SEND_BELOW: usize = 64 * 1024;

/// What identifies a stream: program, procedure and serial of the call that opened it.
type StreamId = (u32, i32, u32);

/// The streams of one connection.
#[derive(Debug)]
pub(crate) struct Streams {
    out: Arc<Outbox>,
    open: Mutex<HashMap<StreamId, Entry>>,
    /// Told when any stream may send for the first time, or has ended.
    changed: Notify,
}

#[derive(Debug)]
struct Entry {
    /// Where data from the client goes.
    pieces: mpsc::Sender<Piece>,
    /// The reply to the call is queued; packets may follow.
    started: bool,
    /// The end was sent; the client is to say that it is done.
    ended: bool,
    /// It broke before the reply was queued; the client is told after the reply.
    broken: Option<Error>,
}

/// What a client sends over a stream.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Data(Vec<u8>),
    Finished,
    Aborted,
}

/// What came over a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum StreamInput {
    /// Bytes.
    Data(Vec<u8>),
    /// The client is done.
    Finished,
    /// The client gave up.
    Aborted,
    /// The stream is over for another reason: the connection is gone, the call that opened it
    /// failed, or its bytes were not read for too long.
    Lost,
}

/// A stream can't be written to any more.
#[derive(Debug, thiserror::Error)]
#[error("the stream has ended")]
pub struct StreamEnded;

/// The receiving half of a stream. Dropping it discards what the client still sends.
#[derive(Debug)]
pub struct StreamReader {
    pieces: mpsc::Receiver<Piece>,
}

impl StreamReader {
    /// Waits for what the client sends next. After anything but data, nothing follows.
    pub async fn next(&mut self) -> StreamInput {
        match self.pieces.recv().await {
            Some(Piece::Data(data)) => StreamInput::Data(data),
            Some(Piece::Finished) => StreamInput::Finished,
            Some(Piece::Aborted) => StreamInput::Aborted,
            None => StreamInput::Lost,
        }
    }
}

/// The sending half of a stream. Dropping it without [`finish`](StreamWriter::finish) or
/// [`fail`](StreamWriter::fail) tells the client that the stream broke.
#[derive(Debug)]
pub struct StreamWriter {
    streams: Arc<Streams>,
    header: Header,
    over: bool,
}

impl StreamWriter {
    /// Sends bytes, waiting while the client is slow, and first of all for the reply to the call
    /// that opened the stream.
    pub async fn write(&mut self, data: &[u8]) -> Result<(), StreamEnded> {
        for packet in data.chunks(STREAM_PACKET_MAX) {
            let bytes =
                stream_packet(&self.packet(Status::Continue), packet).map_err(|_| StreamEnded)?;
            self.send(bytes, false).await?;
        }
        Ok(())
    }

    /// Tells the client that nothing more comes. It then closes the stream.
    pub async fn finish(mut self) -> Result<(), StreamEnded> {
        let bytes = frame(&self.packet(Status::Continue), |_| ()).map_err(|_| StreamEnded)?;
        let sent = self.send(bytes, true).await;
        self.over = true;
        sent
    }

    /// Ends the stream with an error that the client shows.
    pub fn fail(mut self, error: &Error) {
        self.over = true;
        self.streams.fail(&self.header, error);
    }

    fn packet(&self, status: Status) -> Header {
        self.header.answer(Kind::Stream, status)
    }

    async fn send(&self, bytes: Vec<u8>, last: bool) -> Result<(), StreamEnded> {
        let streams = &self.streams;
        loop {
            let changed = streams.changed.notified();
            let started = match streams.open().get(&id(&self.header)) {
                Some(entry) if !entry.ended => entry.started,
                _ => return Err(StreamEnded),
            };
            if started {
                break;
            }
            changed.await;
        }
        streams
            .out
            .wait_below(SEND_BELOW)
            .await
            .map_err(|_| StreamEnded)?;
        // The client may have ended the stream meanwhile: then nothing may follow.
        let mut open = streams.open();
        let entry = open.get_mut(&id(&self.header)).ok_or(StreamEnded)?;
        entry.ended = last;
        streams.out.push(bytes).map_err(|_| StreamEnded)
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        if !self.over {
            let error = Error::new(
                Code::InternalError,
                Domain::Streams,
                "the stream ended unexpectedly",
            );
            self.streams.fail(&self.header, &error);
        }
    }
}

impl Streams {
    pub(crate) fn new(out: Arc<Outbox>) -> Streams {
        Streams {
            out,
            open: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// A stream for the call of that header.
    pub(crate) fn open_for(self: &Arc<Self>, header: Header) -> (StreamReader, StreamWriter) {
        let (sender, pieces) = mpsc::channel(PIECES_WAITING);
        let entry = Entry {
            pieces: sender,
            started: false,
            ended: false,
            broken: None,
        };
        self.open().insert(id(&header), entry);
        if self.out.is_closed() {
            // Too late to be among those that the end of the connection ends.
            self.open().remove(&id(&header));
        }
        let writer = StreamWriter {
            streams: Arc::clone(self),
            header,
            over: false,
        };
        (StreamReader { pieces }, writer)
    }

    /// The reply to a call is queued; if it was good, its stream may begin.
    pub(crate) fn answered(&self, header: &Header, good: bool) {
        let mut open = self.open();
        if good {
            let broken = open.get_mut(&id(header)).and_then(|entry| {
                entry.started = true;
                entry.broken.take()
            });
            if let Some(error) = broken {
                open.remove(&id(header));
                self.send_error(header, &error);
            }
        } else {
            open.remove(&id(header));
        }
        drop(open);
        self.changed.notify_waiters();
    }

    /// Takes in a packet. Those of streams that are over are dropped, except that whoever says
    /// goodbye gets an answer: a client waits for it without end.
    pub(crate) async fn take(&self, header: &Header, data: &[u8]) -> Result<(), Disconnected> {
        match (header.kind, header.status) {
            (Kind::Stream, Status::Continue) => {
                let pieces = self
                    .open()
                    .get(&id(header))
                    .map(|entry| entry.pieces.clone());
                if let Some(pieces) = pieces {
                    self.hand_on(header, data, pieces).await;
                }
                Ok(())
            }
            (Kind::Stream, Status::Ok) => self.end(header, Piece::Finished).await,
            (Kind::Stream, Status::Error) => self.end(header, Piece::Aborted).await,
            (Kind::Hole, _) => {
                let error = Error::new(
                    Code::InvalidStream,
                    Domain::Streams,
                    "holes were not agreed on for this stream",
                );
                self.fail(header, &error);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Ends all streams: the connection is gone.
    pub(crate) fn close(&self) {
        self.open().clear();
        self.changed.notify_waiters();
    }

    async fn hand_on(&self, header: &Header, data: &[u8], pieces: mpsc::Sender<Piece>) {
        for piece in data.chunks(PIECE_MAX) {
            let piece = Piece::Data(piece.to_owned());
            match pieces.send_timeout(piece, READER_PATIENCE).await {
                // Nobody reads any more; what the client sends is of no use.
                Ok(()) | Err(mpsc::error::SendTimeoutError::Closed(_)) => {}
                Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                    let error = Error::new(
                        Code::OperationTimeout,
                        Domain::Streams,
                        "the other side of the stream does not read",
                    );
                    self.fail(header, &error);
                    return;
                }
            }
        }
    }

    /// The client is done with a stream: takes it off the list, and says so.
    async fn end(&self, header: &Header, how: Piece) -> Result<(), Disconnected> {
        let goodbye = header.answer(Kind::Stream, Status::Ok);
        let ended = {
            let mut open = self.open();
            let ended = open.remove(&id(header));
            // A header alone always has a legal length.
            if let Ok(bytes) = frame(&goodbye, |_| ()) {
                self.out.push(bytes)?;
            }
            ended
        };
        self.changed.notify_waiters();
        if let Some(entry) = ended {
            // A reader that is that slow learns of the end without its reason.
            let _ = entry.pieces.send_timeout(how, READER_PATIENCE).await;
        }
        Ok(())
    }

    /// Ends a stream with an error, unless it is over already.
    fn fail(&self, header: &Header, error: &Error) {
        let mut open = self.open();
        match open.get_mut(&id(header)) {
            Some(entry) if entry.started => {
                open.remove(&id(header));
                self.send_error(header, error);
            }
            Some(entry) => entry.broken = Some(error.clone()),
            None => {}
        }
        drop(open);
        self.changed.notify_waiters();
    }

    fn send_error(&self, header: &Header, error: &Error) {
        let packet = header.answer(Kind::Stream, Status::Error);
        if let Ok(bytes) = frame(&packet, |w| error.encode(w)) {
            // If the client is gone there is nobody to tell.
            let _ = self.out.push(bytes);
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<StreamId, Entry>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn id(header: &Header) -> StreamId {
    (header.program, header.procedure, header.serial)
}
