//! The connection.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, oneshot};

use super::lines::Lines;
use super::message::{self, Event, Message, Refusal};
use super::wire::{Incoming, Outgoing, Wire};
use crate::QmpError;

/// Longest answer to a command that expects no long one, bytes. Longer lines are skipped.
pub const LINE_LIMIT: usize = 1 << 20;

/// Longest answer to a command that expects a long one, such as one that a user typed; bytes.
const LONG_ANSWER: usize = 16 << 20;

/// Longest event, bytes. QEMU's have some hundred.
const EVENT_LIMIT: usize = 64 << 10;

/// How many events wait for whoever reads them. With more, nothing is read from QEMU until some
/// are taken.
const EVENT_QUEUE: usize = 4;

/// After so many bytes that are of no use to anybody reading pauses.
const WASTE: usize = 64 << 10;

/// How long: so QEMU can keep us busy, but not all the time.
const PAUSE: Duration = Duration::from_millis(10);

/// A connection to a QEMU, past the handshake. Clones share it; it ends with the last of them.
///
/// A caller may drop any call at any point: the command is still sent whole, and its answer is
/// thrown away.
#[derive(Debug, Clone)]
pub struct Qmp {
    shared: Arc<Shared>,
    outgoing: mpsc::UnboundedSender<Command>,
}

/// The events of a connection, in QEMU's order. Ends when the connection does.
///
/// They have to be taken: answers come after the events that were sent before them.
pub(crate) type QmpEvents = mpsc::Receiver<Event>;

#[derive(Debug)]
struct Waiting {
    answer: oneshot::Sender<Result<Value, Refusal>>,
    /// How long the answer may be, bytes.
    limit: usize,
}

#[derive(Debug)]
struct Shared {
    pending: Mutex<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    last_id: u64,
    /// `None` once the connection has ended.
    waiting: Option<HashMap<u64, Waiting>>,
}

#[derive(Debug)]
struct Command {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Qmp {
    /// Greets on a connection that stands. A QEMU that hangs, or that serves another client, doesn't
    /// greet back.
    pub(crate) async fn greet(
        wire: Wire,
        deadline: Duration,
    ) -> Result<(Self, QmpEvents), QmpError> {
        let shared = Arc::new(Shared {
            pending: Mutex::new(Pending {
                last_id: 0,
                waiting: Some(HashMap::new()),
            }),
        });
        let (outgoing, queue) = mpsc::unbounded_channel();
        let (events, event_queue) = mpsc::channel(EVENT_QUEUE);
        let (from, to) = wire.split();
        tokio::spawn(write(to, queue));
        tokio::spawn(read(from, Arc::clone(&shared), events));
        let qmp = Self { shared, outgoing };
        // QEMU answers it after its own greeting: no need to wait for that first.
        qmp.execute("qmp_capabilities", Value::Null, Vec::new(), deadline)
            .await?;
        Ok((qmp, event_queue))
    }

    /// Sends a command, with its arguments (an object, or null for none) and descriptors, and
    /// returns QEMU's answer.
    pub async fn execute(
        &self,
        command: &str,
        arguments: Value,
        descriptors: Vec<OwnedFd>,
        deadline: Duration,
    ) -> Result<Value, QmpError> {
        let mut message = Map::new();
        message.insert("execute".to_owned(), command.into());
        if !arguments.is_null() {
            message.insert("arguments".to_owned(), arguments);
        }
        self.asked(command, message, descriptors, deadline, LINE_LIMIT)
            .await
    }

    /// As [`Self::execute`], without descriptors, and the answer may be long.
    pub(super) async fn execute_long(
        &self,
        command: &str,
        arguments: Value,
        deadline: Duration,
    ) -> Result<Value, QmpError> {
        let mut message = Map::new();
        message.insert("execute".to_owned(), command.into());
        message.insert("arguments".to_owned(), arguments);
        self.asked(command, message, Vec::new(), deadline, LONG_ANSWER)
            .await
    }

    async fn asked(
        &self,
        command: &str,
        message: Map<String, Value>,
        descriptors: Vec<OwnedFd>,
        deadline: Duration,
        limit: usize,
    ) -> Result<Value, QmpError> {
        let answer = self
            .exchange(command, message, descriptors, deadline, limit)
            .await?;
        answer.map_err(|refusal| QmpError::Refused {
            command: command.to_owned(),
            class: refusal.class,
            description: refusal.description,
        })
    }

    /// Passes a command through as text, and returns QEMU's answer as text, refusals included:
    /// what `virsh qemu-monitor-command` wants. An `id` in it is given back.
    pub async fn pass_through(&self, text: &str, deadline: Duration) -> Result<String, QmpError> {
        let not_a_command = || QmpError::NotACommand {
            text: text.chars().take(80).collect(),
        };
        let Ok(Value::Object(mut message)) = serde_json::from_str(text) else {
            return Err(not_a_command());
        };
        let command = ["execute", "exec-oob"]
            .iter()
            .find_map(|key| message.get(*key)?.as_str())
            .ok_or_else(not_a_command)?
            .to_owned();
        let id = message.remove("id");
        let mut answer = match self
            .exchange(&command, message, Vec::new(), deadline, LONG_ANSWER)
            .await?
        {
            Ok(value) => json!({ "return": value }),
            Err(refusal) => json!({
                "error": { "class": refusal.class, "desc": refusal.description }
            }),
        };
        if let Some(id) = id {
            answer["id"] = id;
        }
        Ok(answer.to_string())
    }

    /// Whether QEMU still answers on this connection, as far as is known.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.shared.lock().waiting.is_some()
    }

    async fn exchange(
        &self,
        command: &str,
        mut message: Map<String, Value>,
        descriptors: Vec<OwnedFd>,
        deadline: Duration,
        limit: usize,
    ) -> Result<Result<Value, Refusal>, QmpError> {
        let closed = || QmpError::Closed {
            command: command.to_owned(),
        };
        let (id, answer) = self.shared.register(limit).ok_or_else(closed)?;
        // Forgets the command if this call is dropped.
        let _forget = Forget {
            shared: &self.shared,
            id,
        };
        message.insert("id".to_owned(), id.into());
        let mut bytes = Value::Object(message).to_string().into_bytes();
        bytes.push(b'\n');
        self.outgoing
            .send(Command { bytes, descriptors })
            .map_err(|_| closed())?;
        match tokio::time::timeout(deadline, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(closed()),
            Err(_) => Err(QmpError::Deadline {
                command: command.to_owned(),
                after: deadline,
            }),
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Pending> {
        // Nothing panics while it is held.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(&self, limit: usize) -> Option<(u64, oneshot::Receiver<Result<Value, Refusal>>)> {
        let mut pending = self.lock();
        let id = pending.last_id + 1;
        let (sender, receiver) = oneshot::channel();
        let waiting = Waiting {
            answer: sender,
            limit,
        };
        pending.waiting.as_mut()?.insert(id, waiting);
        pending.last_id = id;
        Some((id, receiver))
    }

    /// The longest line that is expected now, bytes.
    fn line_limit(&self) -> usize {
        let pending = self.lock();
        let waiting = pending.waiting.iter().flat_map(HashMap::values);
        waiting
            .map(|waiting| waiting.limit)
            .fold(EVENT_LIMIT, usize::max)
    }

    fn take(&self, id: u64) -> Option<Waiting> {
        self.lock().waiting.as_mut()?.remove(&id)
    }
}

struct Forget<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared.take(self.id);
    }
}

/// Sends whole messages in order, until the last [`Qmp`] is gone or QEMU is.
async fn write(mut to: Outgoing, mut queue: mpsc::UnboundedReceiver<Command>) {
    while let Some(command) = queue.recv().await {
        if let Err(error) = to.send(&command.bytes, &command.descriptors).await {
            tracing::debug!(%error, "writing to QEMU's monitor");
            break;
        }
    }
    to.close().await;
}

/// Reads until QEMU closes; then every waiting command is told so.
async fn read(mut from: Incoming, shared: Arc<Shared>, events: mpsc::Sender<Event>) {
    let mut lines = Lines::default();
    let mut chunk = vec![0; 16 << 10];
    let mut waste = Waste::default();
    loop {
        let count = match from.read(&mut chunk).await {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) => {
                tracing::debug!(%error, "reading from QEMU's monitor");
                break;
            }
        };
        let mut bytes = &chunk[..count];
        while !bytes.is_empty() {
            let Some(line) = lines.feed(&mut bytes, shared.line_limit()) else {
                continue;
            };
            match dispatch(&line, &shared) {
                Ok(None) => {}
                Ok(Some(event)) => {
                    // Waits for room. Nobody may be listening, which is fine.
                    let _ = events.send(event).await;
                }
                Err(reason) => waste.tell(&line, reason),
            }
        }
        waste.bytes += lines.take_skipped();
        if waste.bytes >= WASTE {
            waste.bytes = 0;
            tokio::time::sleep(PAUSE).await;
        }
    }
    shared.lock().waiting = None;
}

/// Gives an answer to whoever waits for it, and returns an event; `Err`: what is wrong with it.
fn dispatch(line: &[u8], shared: &Shared) -> Result<Option<Event>, &'static str> {
    match message::parse(line)? {
        Message::Greeting => Ok(None),
        Message::Answer(id, answer) => {
            // A caller that no longer waits is fine.
            if let Some(waiting) = shared.take(id) {
                let _ = waiting.answer.send(answer);
            }
            Ok(None)
        }
        Message::Event(event) if event.size <= EVENT_LIMIT => Ok(Some(event)),
        Message::Event(_) => Err("an event that is too long"),
    }
}

/// What QEMU sends and nobody has a use for.
#[derive(Debug, Default)]
struct Waste {
    bytes: usize,
    lines: u64,
}

impl Waste {
    /// Logs a line that is skipped: ever fewer of them.
    fn tell(&mut self, line: &[u8], reason: &str) {
        self.bytes += line.len();
        self.lines += 1;
        if self.lines.is_power_of_two() {
            let beginning = String::from_utf8_lossy(&line[..line.len().min(200)]);
            let number = self.lines;
            tracing::warn!(%beginning, reason, number, "a line from QEMU is skipped");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qmp::Descriptors;
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
    use std::io::{IoSliceMut, Write};
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;

    /// A connected pair of ends, and what the other side reads of one command.
    async fn greeted() -> (Qmp, QmpEvents, std::os::unix::net::UnixStream) {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let (qmp, events, theirs) = {
            let answering = tokio::task::spawn_blocking(move || {
                let (line, _) = receive(&theirs);
                assert!(line.contains("qmp_capabilities"));
                reply(&theirs, r#"{"QMP": {}}"#);
                reply(&theirs, r#"{"return": {}, "id": 1}"#);
                theirs
            });
            let wire = Wire::Socket(UnixStream::from_std(ours).unwrap());
            let (qmp, events) = Qmp::greet(wire, Duration::from_secs(20)).await.unwrap();
            (qmp, events, answering.await.unwrap())
        };
        (qmp, events, theirs)
    }

    fn reply(stream: &std::os::unix::net::UnixStream, line: &str) {
        let mut stream = stream;
        writeln!(stream, "{line}").unwrap();
    }

    /// One message, and the descriptors that came with it.
    fn receive(stream: &std::os::unix::net::UnixStream) -> (String, Vec<OwnedFd>) {
        let mut text = Vec::new();
        let mut descriptors = Vec::new();
        while !text.ends_with(b"\n") {
            let mut bytes = [0; 4096];
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let received = rustix::net::recvmsg(
                stream,
                &mut [IoSliceMut::new(&mut bytes)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            )
            .unwrap();
            text.extend_from_slice(&bytes[..received.bytes]);
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(fds) = message {
                    descriptors.extend(fds);
                }
            }
        }
        (String::from_utf8(text).unwrap(), descriptors)
    }

    #[tokio::test]
    async fn a_descriptor_goes_with_its_command() {
        let (qmp, _events, theirs) = greeted().await;
        let (reader, writer) = std::io::pipe().unwrap();
        let qemu = tokio::task::spawn_blocking(move || {
            let (line, descriptors) = receive(&theirs);
            reply(&theirs, r#"{"return": {}, "id": 2}"#);
            (line, descriptors)
        });
        qmp.give_descriptor("tap0", writer.into()).await.unwrap();
        let (line, mut descriptors) = qemu.await.unwrap();
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["execute"], "getfd");
        assert_eq!(line["arguments"]["fdname"], "tap0");
        assert_eq!(descriptors.len(), 1);
        let mut received = std::fs::File::from(descriptors.remove(0));
        received.write_all(b"through").unwrap();
        drop(received);
        assert_eq!(std::io::read_to_string(reader).unwrap(), "through");
    }

    #[tokio::test]
    async fn the_end_of_qemu_ends_every_call() {
        let (qmp, mut events, theirs) = greeted().await;
        let waiting = tokio::spawn({
            let qmp = qmp.clone();
            async move { qmp.status().await }
        });
        let theirs = tokio::task::spawn_blocking(move || {
            receive(&theirs);
            drop(theirs);
        });
        theirs.await.unwrap();
        assert!(matches!(
            waiting.await.unwrap(),
            Err(QmpError::Closed { .. })
        ));
        assert_eq!(events.recv().await, None);
        assert!(!qmp.is_open());
        assert!(matches!(qmp.stop().await, Err(QmpError::Closed { .. })));
    }

    #[tokio::test]
    async fn a_long_command_is_sent_whole_though_its_caller_is_gone() {
        let (qmp, _events, theirs) = greeted().await;
        let long = "x".repeat(4 << 20);
        tokio::select! {
            biased;
            answer = qmp.human(&long, Duration::from_secs(20)) => panic!("{answer:?}"),
            () = std::future::ready(()) => {}
        }
        let qemu = tokio::task::spawn_blocking(move || {
            let mut lines = std::io::BufRead::lines(std::io::BufReader::new(&theirs));
            let first = lines.next().unwrap().unwrap();
            let second = lines.next().unwrap().unwrap();
            reply(&theirs, r#"{"return": {"status": "running"}, "id": 3}"#);
            (first.len(), second)
        });
        assert_eq!(qmp.status().await.unwrap(), super::super::RunState::Running);
        let (first, second) = qemu.await.unwrap();
        assert!(first > 4 << 20);
        assert!(second.contains("query-status"), "{second}");
    }

    #[tokio::test(start_paused = true)]
    async fn garbage_without_end_is_read_at_a_pace_and_answers_get_through() {
        let (ours, mut theirs) = tokio::io::duplex(64 << 10);
        let qemu = tokio::spawn(async move {
            let mut garbage = 0_usize;
            let mut chunk = b"no JSON at all\n".repeat(1000);
            chunk.extend(vec![b'x'; 100 << 10]);
            chunk.push(b'\n');
            let answer = b"{\"return\": {}, \"id\": 1}\n";
            theirs.write_all(answer).await.unwrap();
            while theirs.write_all(&chunk).await.is_ok() {
                garbage += chunk.len();
                if garbage > 4 << 20 {
                    let answer = b"{\"return\": {\"status\": \"paused\"}, \"id\": 2}\n";
                    theirs.write_all(answer).await.unwrap();
                    break;
                }
            }
            (garbage, theirs)
        });
        let start = tokio::time::Instant::now();
        let (qmp, _events) =
            Qmp::greet(Wire::Simulated(ours, Descriptors::default()), Duration::MAX)
                .await
                .unwrap();
        assert_eq!(qmp.status().await.unwrap(), super::super::RunState::Paused);
        let (garbage, _theirs) = qemu.await.unwrap();
        // The clock is the runtime's: it counts pauses, not work.
        let pauses = u128::try_from(garbage / WASTE / 2).unwrap();
        assert!(start.elapsed().as_millis() >= pauses * PAUSE.as_millis());
    }
}
