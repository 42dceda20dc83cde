//! What stands in the way of choosing and preparing.

use assign::Generation;
use pool::Refusal;

/// No device of a network was chosen.
#[derive(Debug, thiserror::Error)]
pub enum ChooseError {
    /// The network has none to give.
    #[error(transparent)]
    Refused(#[from] Box<Refusal>),
    /// The same, where devices are free, and a network that does not manage its devices has them on
    /// the host's drivers.
    #[error(transparent)]
    Unmanaged(Box<Refusal>),
}

/// A claimed device was not prepared, and its claim is over.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// Nothing is claimed under that generation any more.
    #[error("the claim {0} is not good any more")]
    Superseded(Generation),
    /// Something was in the way; what was done is undone, or told.
    #[error(transparent)]
    Refused(#[from] assign::PrepareError),
}

impl ChooseError {
    /// What a person can do about it, where there is something.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Refused(refusal) => Some(refusal.advice()).filter(|advice| !advice.is_empty()),
            Self::Unmanaged(refusal) => Some(format!(
                "set managed='yes' in the <forward> of network '{}' (virsh net-edit {}), and its \
                 devices are bound for guests and given back; or detach them by hand: virsh \
                 nodedev-detach",
                refusal.network,
                conf::quoted(&refusal.network)
            )),
        }
    }
}

impl PrepareError {
    /// What a person can do about it, where there is something.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Superseded(_) => None,
            Self::Refused(error) => error.obstacle.advice(),
        }
    }

    /// This device's own fault, in words: another of its pool may do.
    #[must_use]
    pub fn own_fault(&self) -> Option<String> {
        match self {
            Self::Superseded(_) => None,
            Self::Refused(error) => (error.is_about_this_device()).then(|| chain(&*error.obstacle)),
        }
    }
}

/// An error with its sources, outermost first. Each says its own part only.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
