//! Telling a long step that it is not wanted any more.

use tokio::sync::watch;

/// Given to a step, and kept by whoever may end it.
#[derive(Debug, Clone)]
pub(super) struct Cancel(watch::Sender<bool>);

impl Cancel {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// The step is to end as soon as it can leave everything undone.
    pub(super) fn cancel(&self) {
        self.0.send_replace(true);
    }

    pub(super) fn is_cancelled(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until the step is not wanted any more.
    pub(super) async fn cancelled(&self) {
        // The sender is ours, so it can't be gone.
        let _ = self.0.subscribe().wait_for(|cancelled| *cancelled).await;
    }
}
