//! What asks the kernel or a disk, on a thread where it may wait.

use rpc::{Code, Domain, Error};

use crate::fault::Result;

/// Does it on a thread of its own, and waits. It is brought to its end even if nobody waits any more.
///
/// # Errors
/// It panicked.
pub(crate) async fn blocking<T: Send + 'static>(
    domain: Domain,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| {
        let detail = "what was asked broke off; the log says why";
        Error::new(Code::InternalError, domain, detail)
    })
}
