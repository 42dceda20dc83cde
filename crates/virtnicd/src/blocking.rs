//! What asks the kernel or a disk, on a thread where it may wait.

use rpc::{Code, Domain, Error};
use tokio::task::JoinError;

use crate::fault::Result;

/// Does it on a thread of its own, and waits. It is brought to its end even if nobody waits any more.
///
/// # Errors
/// It panicked, or the daemon stopped before it was begun.
pub(crate) async fn blocking<T: Send + 'static>(
    domain: Domain,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| broke_off(domain, &error))
}

/// A step that came to no end.
pub(crate) fn broke_off(domain: Domain, error: &JoinError) -> Error {
    if error.is_cancelled() {
        return stopping(domain);
    }
    let detail = "what was asked broke off; the log says why";
    Error::new(Code::InternalError, domain, detail)
}

/// The daemon stops, and nobody is there to tell how it went.
pub(crate) fn stopping(domain: Domain) -> Error {
    let detail = "virtnicd is stopping; whether this was done shows when it runs again";
    Error::new(Code::OperationAborted, domain, detail)
}
