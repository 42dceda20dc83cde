//! What follows a power-off, a reboot and a crash.

use conf::LifecycleActions;
use serde::{Deserialize, Serialize};

/// What becomes of a guest then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Its process ends.
    Destroy,
    /// It starts anew, in the same process.
    Restart,
    /// It stays as it is, halted, until someone ends it.
    Preserve,
}

impl Action {
    /// The document's word; `None` for one that is not carried out (`coredump-…`).
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "destroy" => Some(Self::Destroy),
            // Nothing is renamed when the process stays.
            "restart" | "rename-restart" => Some(Self::Restart),
            "preserve" => Some(Self::Preserve),
            _ => None,
        }
    }
}

/// The three actions of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifecycle {
    /// After it switched itself off.
    pub on_poweroff: Action,
    /// After it asked to be restarted.
    pub on_reboot: Action,
    /// After it panicked.
    pub on_crash: Action,
}

impl Lifecycle {
    /// The document's actions. A word that is not carried out counts as `destroy`; no such guest
    /// gets a command line.
    #[must_use]
    pub fn of(actions: &LifecycleActions) -> Self {
        let action = |word: &str| Action::parse(word).unwrap_or(Action::Destroy);
        Self {
            on_poweroff: action(&actions.on_poweroff),
            on_reboot: action(&actions.on_reboot),
            on_crash: action(&actions.on_crash),
        }
    }
}
