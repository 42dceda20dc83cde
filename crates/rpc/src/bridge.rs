//! Joins a socket of this host, which frames are made for, and whatever else carries them.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Bytes on their way in each direction.
const PIECE: usize = 16 * 1024;
/// A side that takes nothing for this long is taken for dead.
const STALL: Duration = Duration::from_secs(60);
/// For what is still on its way when one side has ended.
const FAREWELL: Duration = Duration::from_secs(2);

/// When the kernel asks whether a silent peer's host is still there, how often, and how many times.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 3);

/// Sets a TCP connection up for calls: small frames go at once, and a host that vanished is noticed within
/// a minute.
pub(crate) fn prepare(tcp: impl AsFd) -> io::Result<()> {
    let (idle, between, count) = KEEPALIVE;
    sockopt::set_tcp_nodelay(&tcp, true)?;
    sockopt::set_tcp_keepidle(&tcp, idle)?;
    sockopt::set_tcp_keepintvl(&tcp, between)?;
    sockopt::set_tcp_keepcnt(&tcp, count)?;
    sockopt::set_socket_keepalive(&tcp, true)?;
    Ok(())
}

/// Copies both ways until one side has ended and the other had its chance to take the rest.
pub(crate) async fn join<R: AsyncRead + AsyncWrite>(mut local: UnixStream, remote: R) {
    let (mut from_local, mut to_local) = local.split();
    let (mut from_remote, mut to_remote) = tokio::io::split(remote);
    let ours_ended = {
        let outward = copy(&mut from_local, &mut to_remote);
        let inward = copy(&mut from_remote, &mut to_local);
        tokio::pin!(outward, inward);
        tokio::select! {
            () = &mut outward => true,
            () = &mut inward => {
                // We learn of it, and may have something to say.
                let _ = timeout(FAREWELL, outward).await;
                false
            }
        }
    };
    if ours_ended {
        // Bytes that nobody read would have the kernel throw away what was sent last.
        let mut space = vec![0; PIECE];
        let rest = async { while matches!(from_remote.read(&mut space).await, Ok(1..)) {} };
        let _ = timeout(FAREWELL, rest).await;
    }
}

/// Copies until the one side ends or the other takes no more, which the other is told.
async fn copy(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) {
    let mut space = vec![0; PIECE];
    while let Ok(count @ 1..) = from.read(&mut space).await {
        let sent = async {
            to.write_all(&space[..count]).await?;
            to.flush().await
        };
        if !matches!(timeout(STALL, sent).await, Ok(Ok(()))) {
            return;
        }
    }
    let _ = timeout(FAREWELL, to.shutdown()).await;
}
