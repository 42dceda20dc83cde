//! Clients that come from other hosts.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;

use super::{Clients, Peer, Service, serve_peer};
use crate::bridge;
use crate::tls::{ADMITTED, AllowList, ClientName, CredentialsError, Files, server_config};

/// File descriptors that a client from another host takes, while one of this host takes one.
pub const REMOTE_DESCRIPTORS: u32 = 3;

/// Lets clients in by TLS: those that show a certificate of the CA which names somebody on the list.
pub struct TlsGate {
    config: Arc<ServerConfig>,
    allowed: AllowList,
    time: Duration,
}

impl std::fmt::Debug for TlsGate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsGate")
            .field("allowed", &self.allowed)
            .field("time", &self.time)
            .finish_non_exhaustive()
    }
}

impl TlsGate {
    /// A gate with what the files hold now, and so much time for each handshake. Blocks.
    ///
    /// # Errors
    /// The files can't be read or used, or others can read the key.
    pub fn open(
        files: &Files,
        allowed: AllowList,
        time: Duration,
    ) -> Result<TlsGate, CredentialsError> {
        Ok(TlsGate {
            config: Arc::new(server_config(files)?),
            allowed,
            time,
        })
    }

    /// Finds out who has come. Until then a client costs the buffers of one handshake, for the time of
    /// one: whoever accepts connections bounds how many of these run.
    ///
    /// # Errors
    /// Why the client is not let in; it is disconnected.
    pub async fn admit(&self, tcp: TcpStream) -> Result<Remote, Refused> {
        let (address, local) = addresses(&tcp).map_err(Refused::Tcp)?;
        match timeout(self.time, self.greet(tcp)).await {
            Ok(Ok((tls, name))) => Remote::new(tls, Peer::Tls { name, address }, local),
            Ok(Err(refused)) => Err(refused),
            Err(_) => Err(Refused::TooSlow(self.time)),
        }
    }

    async fn greet(&self, tcp: TcpStream) -> Result<(TlsStream<TcpStream>, ClientName), Refused> {
        bridge::prepare(&tcp).map_err(Refused::Tcp)?;
        let acceptor = TlsAcceptor::from(Arc::clone(&self.config));
        let mut tls = acceptor.accept(tcp).await.map_err(Refused::Handshake)?;
        let shown = tls.get_ref().1.peer_certificates();
        let certificate = shown.and_then(<[_]>::first).ok_or(Refused::NoName)?;
        let name = ClientName::of(certificate).ok_or(Refused::NoName)?;
        if !self.allowed.allows(&name) {
            // A goodbye, so that it knows that this is no accident of the network.
            let _ = tls.shutdown().await;
            return Err(Refused::NotAllowed(Box::new(name)));
        }
        let admitted = async {
            tls.write_all(&[ADMITTED]).await?;
            tls.flush().await
        };
        admitted.await.map_err(Refused::Handshake)?;
        Ok((tls, name))
    }
}

/// Why a client from another host is not let in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The connection is gone already, or can't be set up.
    #[error("its connection can't be set up")]
    Tcp(#[source] io::Error),
    /// It speaks no TLS, shows no certificate, or one that does not count.
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
    /// It took too long.
    #[error("it did not prove who it is within {} s", .0.as_secs_f32())]
    TooSlow(Duration),
    /// Nobody can tell whom its certificate names.
    #[error("its certificate names nobody")]
    NoName,
    /// Somebody, but nobody on the list.
    #[error("{0} is not on the list of clients that are let in")]
    NotAllowed(Box<ClientName>),
}

/// A client from another host that was let in.
#[derive(Debug)]
pub struct Remote {
    stream: UnixStream,
    peer: Peer,
    local: IpAddr,
    copying: tokio::task::JoinHandle<()>,
}

impl Remote {
    /// Lets anybody in who came over plain TCP.
    ///
    /// # Errors
    /// It is gone already, or its connection can't be set up.
    pub fn unknown(tcp: TcpStream) -> Result<Remote, Refused> {
        let (address, local) = addresses(&tcp).map_err(Refused::Tcp)?;
        bridge::prepare(&tcp).map_err(Refused::Tcp)?;
        Remote::new(tcp, Peer::Tcp { address }, local)
    }

    /// Who it is.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    fn new<R>(remote: R, peer: Peer, local: IpAddr) -> Result<Remote, Refused>
    where
        R: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + 'static,
    {
        let (stream, other) = UnixStream::pair().map_err(Refused::Tcp)?;
        Ok(Remote {
            stream,
            peer,
            local,
            copying: tokio::spawn(bridge::join(other, remote)),
        })
    }
}

/// Serves a client from another host until it is gone and its descriptors are closed; see
/// [`serve`](super::serve).
///
/// It may change things, unless it says that it won't. File descriptors don't go along.
pub async fn serve_remote<S: Service>(service: Arc<S>, remote: Remote, clients: Arc<Clients>) {
    let Remote {
        stream,
        peer,
        local,
        copying,
    } = remote;
    serve_peer(service, stream, (peer, Some(local)), false, clients).await;
    // Its end was made sure of: both sides have so much time, and no more.
    let _ = copying.await;
}

/// Whence a client comes, and at which of our addresses. IPv4 ones are told as such, also where they came
/// through an IPv6 socket.
fn addresses(tcp: &TcpStream) -> io::Result<(SocketAddr, IpAddr)> {
    let peer = tcp.peer_addr()?;
    let address = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    Ok((address, tcp.local_addr()?.ip().to_canonical()))
}
