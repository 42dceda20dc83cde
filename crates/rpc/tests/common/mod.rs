//! A daemon that does a little of everything, and a client that sends and sees single frames.
#![allow(dead_code, reason = "each test program uses its part")]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

use rpc::frame::{Header, Kind, Status};
use rpc::server::{Call, Clients, Connection, Limits, Service, StreamReader, StreamWriter, serve};
use rpc::xdr::{Reader, from_bytes};
use rpc::*;
use rustix::net::{RecvFlags, SendFlags};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Notify;

pub(crate) const PING: Header = Header {
    program: 0x6b65_6570,
    version: 1,
    procedure: 1,
    kind: Kind::Event,
    serial: 0,
    status: Status::Ok,
};

pub(crate) fn call_header(program: u32, procedure: i32) -> Header {
    let (version, kind, serial, status) = (1, Kind::Call, 77, Status::Ok);
    Header {
        program,
        version,
        procedure,
        kind,
        serial,
        status,
    }
}

/// The same call's header with another meaning.
pub(crate) trait With {
    fn with(&self, kind: Kind, status: Status) -> Header;
}

impl With for Header {
    fn with(&self, kind: Kind, status: Status) -> Header {
        Header {
            kind,
            status,
            ..*self
        }
    }
}

/// The usual limits, but for what is changed.
pub(crate) fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    change(&mut limits);
    limits
}

/// A call that takes until the daemon is told to let go.
pub(crate) fn slow_call() -> NodeDeviceGetXmlDesc {
    NodeDeviceGetXmlDesc {
        name: "slow".into(),
        flags: Default::default(),
    }
}

pub(crate) fn console(name: &str) -> DomainOpenConsole {
    let dom = Dom {
        name: "g1".into(),
        uuid: uuid::Uuid::nil(),
        id: 1,
    };
    DomainOpenConsole {
        dom,
        dev_name: Some(name.into()),
        flags: Default::default(),
    }
}

#[derive(Default)]
pub(crate) struct Daemon {
    pub(crate) conns: Mutex<Vec<Arc<Connection>>>,
    pub(crate) closed: Notify,
    pub(crate) slow_began: Notify,
    pub(crate) let_go: Notify,
    /// Whether the client got the answer to the last slow call.
    pub(crate) answered: Mutex<Option<tokio::task::JoinHandle<bool>>>,
    consoles: Mutex<Vec<(StreamReader, StreamWriter)>>,
    console_opened: Notify,
}

impl Daemon {
    /// Whether a slow call has begun that nobody waited for yet.
    pub(crate) fn slow_has_begun(&self) -> bool {
        let mut began = std::pin::pin!(self.slow_began.notified());
        began.as_mut().enable()
    }

    pub(crate) async fn take_console(&self) -> (StreamReader, StreamWriter) {
        loop {
            if let Some(console) = self.consoles.lock().unwrap().pop() {
                return console;
            }
            self.console_opened.notified().await;
        }
    }
}

impl Service for Daemon {
    fn opened(&self, conn: &Arc<Connection>) {
        self.conns.lock().unwrap().push(Arc::clone(conn));
    }

    async fn call(&self, call: Call, request: Request) -> Result<Reply, Error> {
        Ok(match request {
            Request::ConnectOpen(args) if args.name.as_deref() == Some("xen:///") => {
                return Err(Error::new(Code::NoConnect, Domain::None, "xen:///"));
            }
            Request::ConnectOpen(_) => Reply::ConnectOpen(()),
            Request::ConnectSupportsFeature(_) => Reply::ConnectSupportsFeature(false),
            Request::ConnectGetHostname(_) => Reply::ConnectGetHostname("host".into()),
            Request::ConnectGetUri(_) => Reply::ConnectGetHostname("not a URI".into()),
            Request::ConnectListAllNetworks(args) => {
                let net = Net {
                    name: "n".into(),
                    uuid: uuid::Uuid::nil(),
                };
                let listing = Listing::new(vec![net; LIST_MAX + 1], args.need_results);
                Reply::ConnectListAllNetworks(listing)
            }
            Request::NetworkDefineXml(args) => Reply::NetworkDefineXml(Net {
                name: args.xml,
                uuid: uuid::Uuid::nil(),
            }),
            Request::NetworkDestroy(_) => Reply::NetworkDestroy(()),
            Request::NodeDeviceGetXmlDesc(args) => {
                match args.name.as_str() {
                    "slow" => {
                        *self.answered.lock().unwrap() = Some(tokio::spawn(call.answered()));
                        self.slow_began.notify_one();
                        self.let_go.notified().await;
                    }
                    "panic" => {
                        for _ in 0..args.flags.bits() {
                            tokio::task::yield_now().await;
                        }
                        panic!("a fault, made on purpose");
                    }
                    _ => {}
                }
                Reply::NodeDeviceGetXmlDesc("x".repeat(4_000_000))
            }
            Request::DomainCreateXmlWithFiles(_) => {
                let texts: Vec<String> = call.fds.into_iter().map(read_all).collect();
                let name = texts.join(" ");
                Reply::DomainCreateXmlWithFiles(Dom {
                    name,
                    uuid: uuid::Uuid::nil(),
                    id: 1,
                })
            }
            Request::DomainOpenConsole(args) if args.dev_name.as_deref() == Some("broken") => {
                drop(call.open_stream());
                Reply::DomainOpenConsole(())
            }
            Request::DomainOpenConsole(args) => {
                self.consoles.lock().unwrap().push(call.open_stream());
                self.console_opened.notify_one();
                if args.dev_name.as_deref() == Some("busy") {
                    return Err(Error::new(Code::OperationFailed, Domain::Qemu, "in use"));
                }
                Reply::DomainOpenConsole(())
            }
            other => return Err(other.info().no_support()),
        })
    }

    fn closed(&self, _: &Arc<Connection>) {
        self.closed.notify_one();
    }
}

fn read_all(fd: OwnedFd) -> String {
    std::io::read_to_string(std::fs::File::from(fd)).unwrap()
}

/// A client that knows frames and nothing else.
pub(crate) struct Raw {
    pub(crate) daemon: Arc<Daemon>,
    stream: UnixStream,
    serial: u32,
}

impl Raw {
    pub(crate) fn connect(limits: Limits) -> Raw {
        Raw::connect_with(limits, false)
    }

    pub(crate) fn connect_with(limits: Limits, read_only: bool) -> Raw {
        Raw::connect_to(&Arc::default(), &Clients::new(limits), read_only)
    }

    /// One of several clients of a daemon.
    pub(crate) fn connect_to(daemon: &Arc<Daemon>, clients: &Arc<Clients>, read_only: bool) -> Raw {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (daemon, clients) = (Arc::clone(daemon), Arc::clone(clients));
        tokio::spawn(serve(Arc::clone(&daemon), theirs, read_only, clients));
        Raw {
            daemon,
            stream: ours,
            serial: 0,
        }
    }

    pub(crate) async fn open_connection() -> Raw {
        let mut client = Raw::connect(Limits::default());
        client.open().await;
        client
    }

    pub(crate) async fn open(&mut self) {
        self.call(&ConnectOpen {
            name: None,
            flags: Default::default(),
        })
        .await
        .unwrap();
    }

    /// The server's side of this connection.
    pub(crate) fn conn(&self) -> Arc<Connection> {
        Arc::clone(self.daemon.conns.lock().unwrap().last().unwrap())
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Sends as much as the server takes without being read from; tells how much that was.
    pub(crate) async fn send_some(&mut self, bytes: &[u8]) -> usize {
        let mut sent = 0;
        while sent < bytes.len() {
            let write = self.stream.write(&bytes[sent..]);
            // The server is at its end when it leaves the socket full for that long.
            match tokio::time::timeout(std::time::Duration::from_millis(50), write).await {
                Ok(Ok(count)) => sent += count,
                Ok(Err(_)) | Err(_) => break,
            }
        }
        sent
    }

    /// What the server said last before it ended the connection, if that was an error.
    pub(crate) async fn last_error(&mut self) -> Option<Error> {
        let mut bytes = Vec::new();
        // An end that is none of the peer's making is an end all the same.
        let _ = self.stream.read_to_end(&mut bytes).await;
        from_bytes(bytes.get(28..)?).ok()
    }

    pub(crate) async fn send(&mut self, header: &Header, payload: &[u8]) {
        let mut bytes = frame::frame(header, |_| ()).unwrap();
        bytes.extend_from_slice(payload);
        let length = u32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        self.send_bytes(&bytes).await;
    }

    pub(crate) async fn receive(&mut self) -> (Header, Vec<u8>) {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).await.unwrap();
        let mut bytes = vec![0; u32::from_be_bytes(length) as usize - 4];
        self.stream.read_exact(&mut bytes).await.unwrap();
        (from_bytes(&bytes).unwrap(), bytes.split_off(24))
    }

    pub(crate) async fn receive_event(&mut self) -> (CallbackId, Event) {
        let (header, payload) = self.receive().await;
        assert_eq!(header.kind, Kind::Event);
        let program = Program::find(header.program, header.version).unwrap();
        Event::decode(program, header.procedure, &mut Reader::new(&payload))
            .unwrap()
            .unwrap()
    }

    /// Waits until there is something to receive.
    pub(crate) async fn something_came(&self) {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        while rustix::net::recv(&self.stream, &mut [0; 1][..], flags).is_err() {
            tokio::task::yield_now().await;
        }
    }

    pub(crate) async fn is_closed_by_server(&mut self) -> bool {
        matches!(self.stream.read(&mut [0; 1]).await, Ok(0) | Err(_))
    }

    /// Sends a frame and waits for the payload of its answer.
    pub(crate) async fn exchange(
        &mut self,
        header: &Header,
        payload: &[u8],
    ) -> Result<Vec<u8>, Error> {
        self.send(header, payload).await;
        let (reply, payload) = self.receive().await;
        assert_eq!(
            (
                reply.program,
                reply.version,
                reply.procedure,
                reply.serial,
                reply.kind
            ),
            (
                header.program,
                header.version,
                header.procedure,
                header.serial,
                Kind::Reply
            )
        );
        match reply.status {
            Status::Ok => Ok(payload),
            _ => Err(from_bytes(&payload).unwrap()),
        }
    }

    /// Sends a call without waiting; gives its serial.
    pub(crate) async fn start<P: Procedure>(&mut self, args: &P) -> u32 {
        let header = self.next_header::<P>(Kind::Call);
        let bytes = frame::frame(&header, |w| args.encode(w)).unwrap();
        self.send_bytes(&bytes).await;
        header.serial
    }

    pub(crate) async fn start_with_fds<P: Procedure>(&mut self, args: &P, fds: Vec<OwnedFd>) {
        let header = self.next_header::<P>(Kind::CallWithFds);
        let bytes = frame::frame(&header, |w| {
            w.word(u32::try_from(fds.len()).unwrap());
            args.encode(w);
        });
        self.send_bytes(&bytes.unwrap()).await;
        for fd in fds {
            let rights = [fd.as_fd()];
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
            control.push(rustix::net::SendAncillaryMessage::ScmRights(&rights));
            let byte = [std::io::IoSlice::new(&[0])];
            rustix::net::sendmsg(&self.stream, &byte, &mut control, SendFlags::empty()).unwrap();
        }
    }

    pub(crate) async fn receive_reply<P: Procedure>(&mut self) -> Result<P::Reply, Error> {
        let (header, payload) = self.receive().await;
        assert_eq!(
            (header.procedure, header.kind),
            (P::INFO.number, Kind::Reply)
        );
        match header.status {
            Status::Ok => Ok(P::decode_reply(&mut Reader::new(&payload)).unwrap()),
            _ => Err(from_bytes(&payload).unwrap()),
        }
    }

    pub(crate) async fn call<P: Procedure>(&mut self, args: &P) -> Result<P::Reply, Error> {
        self.start(args).await;
        self.receive_reply::<P>().await
    }

    pub(crate) async fn open_console(
        &mut self,
        name: &str,
    ) -> (Header, StreamReader, StreamWriter) {
        let serial = self.start(&console(name)).await;
        self.receive_reply::<DomainOpenConsole>().await.unwrap();
        let (reader, writer) = self.daemon.take_console().await;
        (
            Header {
                serial,
                ..call_header(Program::Main.number(), 201)
            },
            reader,
            writer,
        )
    }

    fn next_header<P: Procedure>(&mut self, kind: Kind) -> Header {
        let serial = self.serial;
        self.serial += 1;
        let header = call_header(P::INFO.program.number(), P::INFO.number);
        Header {
            kind,
            serial,
            ..header
        }
    }
}
