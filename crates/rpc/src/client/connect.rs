//! Reaching a daemon wherever it is.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinError;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

use super::{Client, Events, OpenError, ssh};
use crate::bridge;
use crate::tls::{ADMITTED, CredentialsError, Files, client_config};
use crate::uri::{Host, Transport, Uri};

/// Where daemons listen if nothing is said, below the root: virtnic's, then libvirt's.
const SOCKETS: [&str; 2] = ["run/virtnic/virtnic-sock", "run/libvirt/libvirt-sock"];

/// How to connect.
#[derive(Debug, Clone)]
pub struct Connecting {
    /// Only to look.
    pub read_only: bool,
    /// For each step: to find and reach the host, the handshake, the first calls. 30 seconds.
    pub time: Duration,
    /// Below it sockets and certificates are looked for that the URI does not name. `/`.
    pub root: PathBuf,
}

impl Default for Connecting {
    fn default() -> Connecting {
        Connecting {
            read_only: false,
            time: Duration::from_secs(30),
            root: PathBuf::from("/"),
        }
    }
}

/// Why a daemon can't be reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No socket of this host.
    #[error("no daemon listens at {}", list(.0))]
    NoDaemon(Vec<PathBuf>),
    /// A host can't be found or does not take the connection.
    #[error("can't connect to {place}")]
    Reach {
        /// The host and port.
        place: String,
        /// What the kernel or the resolver said.
        source: io::Error,
    },
    /// It was too slow.
    #[error("{place} did not {step} within {} s", .time.as_secs_f32())]
    Slow {
        /// The host and port.
        place: String,
        /// What it had to do.
        step: &'static str,
        /// The time that it had.
        time: Duration,
    },
    /// We have no certificate to show.
    #[error("there are no certificates for TLS that can be used")]
    Credentials(#[from] CredentialsError),
    /// TLS came to nothing; mostly that is the other's certificate.
    #[error("no TLS connection to {place}")]
    Handshake {
        /// The host and port.
        place: String,
        /// What is wrong.
        source: io::Error,
    },
    /// It hung up after it had seen our certificate.
    #[error(
        "{0} closed the connection once it had seen our certificate: it is of another CA, out of date, or \
         not among those that are let in there"
    )]
    NotAdmitted(String),
    /// ssh can't be started.
    #[error("can't run '{command}'")]
    NoSsh {
        /// Its name.
        command: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// ssh ran, and led to no daemon.
    #[error("ssh to {place} led to no daemon{}", last_words(.said))]
    Ssh {
        /// The host.
        place: String,
        /// The last lines that ssh, or what it ran, printed.
        said: Vec<String>,
        /// How that was noticed.
        source: OpenError,
    },
    /// The connection can't be made ready.
    #[error("the connection can't be set up")]
    SetUp(#[source] io::Error),
    /// The thread that read the certificates is gone.
    #[error("the certificates were not read")]
    Thread(#[from] JoinError),
    /// Somebody answers, but does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
}

fn list(paths: &[PathBuf]) -> String {
    let paths: Vec<_> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    paths.join(" or ")
}

fn last_words(lines: &[String]) -> String {
    if lines.is_empty() {
        return ", and said nothing".to_owned();
    }
    format!(": {}", lines.join("; "))
}

impl Client {
    /// Opens a connection to the daemon that the URI names, wherever it is.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use rpc::client::{Client, Connecting};
    /// let uri = "qemu+tls://host2.example.org/system".parse()?;
    /// let (client, _events) = Client::connect(&uri, &Connecting::default()).await?;
    /// println!("{}", client.call(&rpc::ConnectGetHostname {}).await?);
    /// # Ok(()) }
    /// ```
    ///
    /// File descriptors go along only where the daemon is on this host.
    ///
    /// # Errors
    /// The host, its certificate or ours, or the daemon: the error and its sources say which.
    pub async fn connect(uri: &Uri, how: &Connecting) -> Result<(Client, Events), ConnectError> {
        match uri.transport() {
            Transport::Unix { socket } => {
                let stream = unix(socket.as_ref().map(AsRef::as_ref), how).await?;
                open(stream, uri, how, "the daemon").await
            }
            Transport::Tcp { host, port } => {
                let tcp = reach(host, *port, how.time).await?;
                open(
                    joined(tcp).map_err(ConnectError::SetUp)?,
                    uri,
                    how,
                    &place(host, *port),
                )
                .await
            }
            Transport::Tls { host, port, pki } => {
                let files = match pki {
                    Some(dir) => Files::of_client_in(dir.as_ref()),
                    None => Files::of_client(&how.root),
                };
                let tls = tls(host, *port, files, how.time).await?;
                open(
                    joined(tls).map_err(ConnectError::SetUp)?,
                    uri,
                    how,
                    &place(host, *port),
                )
                .await
            }
            Transport::Ssh(ssh) => ssh::open(ssh, uri, how).await,
        }
    }
}

/// The first calls.
pub(super) async fn open(
    stream: UnixStream,
    uri: &Uri,
    how: &Connecting,
    place: &str,
) -> Result<(Client, Events), ConnectError> {
    let opened = Client::open_on(stream, uri.name(), how.read_only);
    match timeout(how.time, opened).await {
        Ok(opened) => Ok(opened?),
        Err(_) => Err(slow(place, "open the connection", how.time)),
    }
}

fn slow(place: &str, step: &'static str, time: Duration) -> ConnectError {
    ConnectError::Slow {
        place: place.to_owned(),
        step,
        time,
    }
}

/// A host and a port as people write them.
fn place(host: &Host, port: u16) -> String {
    match host.address() {
        Some(address) => SocketAddr::new(address, port).to_string(),
        None => format!("{host}:{port}"),
    }
}

async fn unix(socket: Option<&Path>, how: &Connecting) -> Result<UnixStream, ConnectError> {
    let suffix = if how.read_only { "-ro" } else { "" };
    let places = match socket {
        Some(socket) => vec![socket.to_owned()],
        None => SOCKETS
            .iter()
            .map(|name| how.root.join(format!("{name}{suffix}")))
            .collect(),
    };
    for path in &places {
        match UnixStream::connect(path).await {
            Ok(stream) => return Ok(stream),
            // The next may be there; a daemon that went leaves its file at most.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) => {}
            Err(source) => {
                return Err(ConnectError::Open(OpenError::Connect {
                    path: path.clone(),
                    source,
                }));
            }
        }
    }
    Err(ConnectError::NoDaemon(places))
}

/// A TCP connection to one of the host's addresses, each of which gets its part of the time.
async fn reach(host: &Host, port: u16, time: Duration) -> Result<TcpStream, ConnectError> {
    let failed = |source| ConnectError::Reach {
        place: place(host, port),
        source,
    };
    let too_slow = || slow(&place(host, port), "take the connection", time);
    let end = Instant::now() + time;
    let addresses: Vec<SocketAddr> = match host.address() {
        Some(address) => vec![SocketAddr::new(address, port)],
        None => {
            let name = host.to_string();
            let found = timeout_at(end, tokio::net::lookup_host((name.as_str(), port))).await;
            found
                .map_err(|_| slow(&name, "turn up in the DNS", time))?
                .map_err(failed)?
                .collect()
        }
    };
    let mut last = failed(io::Error::other("the name has no addresses"));
    for (number, address) in addresses.iter().enumerate() {
        let left = end.saturating_duration_since(Instant::now());
        let others = u32::try_from(addresses.len() - number).unwrap_or(u32::MAX);
        match timeout(left / others, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => {
                bridge::prepare(&tcp).map_err(ConnectError::SetUp)?;
                return Ok(tcp);
            }
            Ok(Err(source)) => last = failed(source),
            Err(_) => last = too_slow(),
        }
    }
    Err(last)
}

/// A TLS connection on which both sides know each other.
async fn tls(
    host: &Host,
    port: u16,
    files: Files,
    time: Duration,
) -> Result<TlsStream<TcpStream>, ConnectError> {
    let config = tokio::task::spawn_blocking(move || client_config(&files)).await??;
    let place = place(host, port);
    let failed = |source| ConnectError::Handshake {
        place: place.clone(),
        source,
    };
    let name = match host.address() {
        Some(address) => ServerName::from(address),
        None => ServerName::try_from(host.to_string())
            .map_err(|error| failed(io::Error::other(error)))?,
    };
    let tcp = reach(host, port, time).await?;
    let handshake = async {
        let connector = TlsConnector::from(Arc::new(config));
        let mut tls = connector.connect(name, tcp).await.map_err(failed)?;
        let mut answer = [0];
        match tls.read(&mut answer).await {
            Ok(1) if answer == [ADMITTED] => Ok(tls),
            Ok(1..) => {
                let said = format!("it answers {answer:?} instead of letting us in");
                Err(failed(io::Error::new(io::ErrorKind::InvalidData, said)))
            }
            // What was wrong with our certificate is said as an alert.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(failed(error)),
            Ok(0) | Err(_) => Err(ConnectError::NotAdmitted(place.clone())),
        }
    };
    match timeout(time, handshake).await {
        Ok(done) => done,
        Err(_) => Err(slow(&place, "let us in", time)),
    }
}

/// The local end of a connection that is joined to it in the background.
fn joined<R>(remote: R) -> io::Result<UnixStream>
where
    R: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + 'static,
{
    let (ours, other) = UnixStream::pair()?;
    tokio::spawn(bridge::join(other, remote));
    Ok(ours)
}
