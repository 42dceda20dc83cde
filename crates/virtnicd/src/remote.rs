//! Where clients of other hosts are listened for, and who of them may come in.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use rpc::server::{Refused, Remote, TlsGate};
use rpc::tls::{AllowList, AllowPattern, CredentialsError, Files, PatternError};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, block_in_place};

use crate::daemon::Daemon;
use crate::dispatch::{self, Room};
use crate::options::Options;
use crate::paths::Paths;
use crate::sync::{read, write};

/// For a client to prove who it is.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Clients that wait to be taken in.
const BACKLOG: i32 = 128;

/// Why clients of other hosts can't be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// The kernel refuses the address.
    #[error("can't listen on {address} ({option})")]
    Bind {
        /// The option that names it.
        option: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// Certificates or keys.
    #[error("can't listen for TLS (--listen-tls)")]
    Credentials(#[from] CredentialsError),
    /// There is no list, or nothing on it.
    #[error(
        "nobody is named who may come by TLS, and any certificate of that CA would be root here\nName \
         clients: --tls-allow 'C=GB,O=Example,CN=client1', or one a line in {}",
        .0.display()
    )]
    NobodyAllowed(PathBuf),
    /// The list can't be read.
    #[error("can't read {}", path.display())]
    List {
        /// The list.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A line of it is no name.
    #[error("{} line {line} names no client", path.display())]
    Line {
        /// The list.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        source: PatternError,
    },
}

/// All places where clients of other hosts are listened for.
#[derive(Debug)]
pub(crate) struct Doors(Vec<Arc<Door>>);

/// One of them.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) listener: TcpListener,
    /// None: everybody may come in.
    tls: Option<Tls>,
}

#[derive(Debug)]
struct Tls {
    files: Files,
    /// The clients that the command line names, and the list of others.
    named: Vec<AllowPattern>,
    list: PathBuf,
    gate: RwLock<Arc<TlsGate>>,
}

impl Doors {
    /// Listens where the options say. Must run on a runtime of several threads.
    pub(crate) fn open(options: &Options, paths: &Paths) -> Result<Self, RemoteError> {
        let mut doors = Vec::new();
        if let Some(address) = options.listen_tls {
            let files = match &options.tls_dir {
                Some(dir) => Files::of_server_in(dir),
                None => Files::of_server(paths.root()),
            };
            let (named, list) = (options.tls_allow.clone(), paths.tls_allow());
            let gate = block_in_place(|| gate(&files, &named, &list))?;
            let tls = Tls {
                files,
                named,
                list,
                gate: RwLock::new(Arc::new(gate)),
            };
            doors.push(Door {
                listener: bind("--listen-tls", address)?,
                tls: Some(tls),
            });
        }
        if let Some(address) = options.listen_tcp_without_encryption {
            doors.push(Door {
                listener: bind("--listen-tcp-without-encryption", address)?,
                tls: None,
            });
        }
        Ok(Self(doors.into_iter().map(Arc::new).collect()))
    }

    /// Takes clients in from now on.
    pub(crate) fn accept(&self, accepting: &mut JoinSet<()>, daemon: &Arc<Daemon>, room: &Room) {
        for door in &self.0 {
            match (door.address(), &door.tls) {
                (Ok(address), Some(_)) => tracing::info!(%address, "listening for TLS"),
                (Ok(address), None) => tracing::warn!(
                    %address,
                    "listening for TCP as it is: whoever reaches that port may do whatever root may"
                ),
                (Err(error), _) => tracing::warn!(%error, "listening at an unknown address"),
            }
            let (daemon, room) = (Arc::clone(daemon), room.clone());
            accepting.spawn(dispatch::accept_remote(daemon, Arc::clone(door), room));
        }
    }

    /// Reads certificates and the list of clients again. Those that can't be used change nothing.
    pub(crate) fn read_again(&self) {
        for tls in self.0.iter().filter_map(|door| door.tls.as_ref()) {
            match block_in_place(|| gate(&tls.files, &tls.named, &tls.list)) {
                Ok(gate) => {
                    *write(&tls.gate) = Arc::new(gate);
                    tracing::info!("certificates for TLS, and who may come, were read again");
                }
                Err(error) => tracing::error!(
                    "{}; certificates and clients are those of before",
                    crate::chain(&error)
                ),
            }
        }
    }

    /// Where TLS is listened for.
    pub(crate) fn tls_address(&self) -> Option<SocketAddr> {
        let door = self.0.iter().find(|door| door.tls.is_some())?;
        door.address().ok()
    }
}

impl Door {
    fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Finds out who has come.
    pub(crate) async fn admit(&self, tcp: TcpStream) -> Result<Remote, Refused> {
        match &self.tls {
            Some(tls) => {
                let gate = Arc::clone(&read(&tls.gate));
                gate.admit(tcp).await
            }
            None => Remote::unknown(tcp),
        }
    }
}

/// What the files say now.
fn gate(files: &Files, named: &[AllowPattern], list: &Path) -> Result<TlsGate, RemoteError> {
    let mut allowed = match fs::read_to_string(list) {
        Ok(text) => AllowList::read(&text).map_err(|(line, source)| RemoteError::Line {
            path: list.to_owned(),
            line,
            source,
        })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => AllowList::default(),
        Err(source) => {
            return Err(RemoteError::List {
                path: list.to_owned(),
                source,
            });
        }
    };
    allowed.extend(named.iter().cloned());
    if allowed.is_empty() {
        return Err(RemoteError::NobodyAllowed(list.to_owned()));
    }
    if allowed.allows_anybody() {
        tracing::warn!("any certificate of that CA is let in by TLS, and is root here");
    }
    Ok(TlsGate::open(files, allowed, HANDSHAKE)?)
}

/// The unspecified address of IPv6 takes IPv4 as well, whatever the host's default; where there is no
/// IPv6, IPv4 alone.
fn bind(option: &'static str, address: SocketAddr) -> Result<TcpListener, RemoteError> {
    let is_everywhere = address.is_ipv6() && address.ip().is_unspecified();
    let bound = match listen(address) {
        Err(Errno::AFNOSUPPORT) if is_everywhere => {
            listen((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        bound => bound,
    };
    bound
        .map_err(io::Error::from)
        .and_then(TcpListener::from_std)
        .map_err(|source| RemoteError::Bind {
            option,
            address,
            source,
        })
}

fn listen(address: SocketAddr) -> rustix::io::Result<StdListener> {
    let family = if address.is_ipv6() {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(StdListener::from(socket))
}
