//! What can go wrong, and the exit status of each.

use std::process::ExitCode;
use std::time::Duration;

use rpc::client::CallError;
use rpc::xdr::{DecodeError, EncodeError};

use crate::connect::NoDaemon;

/// Why a command ended badly.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The daemon's own words.
    #[error("{0}")]
    Refused(rpc::Error),
    #[error("{0}")]
    NoDaemon(NoDaemon),
    #[error("the daemon went away before it answered")]
    Gone,
    #[error("the daemon does not answer within {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the daemon asks who is there, in a way that virtnic does not know")]
    Authentication,
    #[error("the daemon's answer can't be understood: {0}")]
    Answer(DecodeError),
    #[error("the question is too long: {0}")]
    Question(EncodeError),
    #[error("{path} has {bytes} bytes, and a document may have {most} ({} MiB)", .most >> 20)]
    TooLarge {
        path: String,
        bytes: usize,
        most: usize,
    },
    #[error("{path} can't be read: {source}")]
    Input {
        path: String,
        source: std::io::Error,
    },
    #[error("{path} is not UTF-8 text, which is all that is read")]
    NotText { path: String },
    #[error("the output can't be written: {0}")]
    Output(std::io::Error),
    #[error("virtnic can't get what it needs from the system: {0}")]
    Runtime(std::io::Error),
}

impl Failure {
    /// The exit status that `--help` promises.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::NoDaemon(_) | Self::Gone | Self::Silent(_) => 3,
            Self::Refused(_)
            | Self::Authentication
            | Self::Answer(_)
            | Self::Question(_)
            | Self::TooLarge { .. }
            | Self::Input { .. }
            | Self::NotText { .. }
            | Self::Output(_)
            | Self::Runtime(_) => 1,
        })
    }

    /// What a person can do about it, if there is something.
    pub(crate) fn advice(&self) -> Option<String> {
        match self {
            Self::NoDaemon(none) => Some(none.advice()),
            Self::Gone => Some("its log says why".to_owned()),
            Self::Answer(_) => {
                Some("virtnic and virtnicd are of different versions, perhaps".to_owned())
            }
            Self::Refused(error) if not_virtnicd(error) => {
                Some("whoever listens there is no virtnicd, but libvirt's own daemon".to_owned())
            }
            _ => None,
        }
    }
}

/// The exit status of a command that did what it should, and whose answer is no.
pub(crate) fn answer_is_no() -> ExitCode {
    ExitCode::from(4)
}

/// Whether the refusal is of all of virtnic's calls.
fn not_virtnicd(error: &rpc::Error) -> bool {
    error.code() == rpc::Code::Rpc && error.message().starts_with("Cannot find program")
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(error) => Self::Refused(error),
            CallError::Disconnected => Self::Gone,
            CallError::Reply(error) => Self::Answer(error),
            CallError::Arguments(error) => Self::Question(error),
        }
    }
}
