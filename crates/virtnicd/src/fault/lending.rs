//! What the ledger says, in libvirt's codes: the error in the first line, and what to do about it
//! in the lines after that.

use assign::{ChangeError, ClaimError, ErrorKind, LinkError};
use host::HostError;
use lending::{ChooseError, MakeVfsError, OpenPoolError, PrepareError};
use rpc::{Code, Domain, Error};

use super::{chain, host, invalid};

/// An error and what a person can do about it, in one text.
pub(crate) fn with_advice(error: &dyn std::error::Error, advice: Option<String>) -> String {
    match advice {
        Some(advice) => format!("{}\n{advice}", chain(error)),
        None => chain(error),
    }
}

/// Nothing was chosen.
pub(crate) fn choose(error: ChooseError) -> Error {
    match error {
        ChooseError::Claim(error) => claim(error),
        ChooseError::Refused(_) => {
            let detail = with_advice(&error, error.advice());
            Error::new(Code::InternalError, Domain::Network, detail)
        }
    }
}

/// Somebody has it.
pub(crate) fn claim(error: ClaimError) -> Error {
    invalid(Domain::Qemu, error.to_string())
}

/// It was not lent.
pub(crate) fn prepare(error: &PrepareError) -> Error {
    let code = match error {
        PrepareError::Superseded(_) => Code::InternalError,
        PrepareError::Refused(error) => kind(error.kind()),
    };
    Error::new(code, Domain::Qemu, with_advice(error, error.advice()))
}

/// A network has nothing to lend.
pub(crate) fn open_pool(error: OpenPoolError) -> Error {
    let code = match error {
        OpenPoolError::Device(error) => return host(Domain::Network)(error),
        OpenPoolError::NamesNone(_) => Code::ConfigUnsupported,
        OpenPoolError::NoVfs { .. } | OpenPoolError::Host { .. } => Code::InternalError,
        OpenPoolError::MakeVfs(_) => Code::OperationFailed,
    };
    let mut detail = with_advice(&error, error.advice());
    if let OpenPoolError::MakeVfs(error) = &error
        && let MakeVfsError::Refused {
            not_undone: Some(left),
            ..
        } = &**error
    {
        detail.push_str("\nNot undone: ");
        detail.push_str(&chain(&**left));
    }
    Error::new(code, Domain::Network, detail)
}

/// What is lent was not changed.
pub(crate) fn change(error: ChangeError) -> Error {
    let code = match &error {
        ChangeError::NoSuchSetting { .. }
        | ChangeError::NotOffered { .. }
        | ChangeError::Lent(LinkError::Refused {
            source: HostError::Unsupported { .. },
            ..
        }) => Code::OperationUnsupported,
        ChangeError::Lent(_) | ChangeError::NotTaken { .. } => Code::OperationFailed,
    };
    Error::new(code, Domain::Qemu, chain(&error))
}

/// The class of an obstacle. The chain ends with the kernel's own words already.
fn kind(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::ConfigUnsupported => Code::ConfigUnsupported,
        ErrorKind::OperationInvalid => Code::OperationInvalid,
        ErrorKind::System(_) => Code::SystemError,
        ErrorKind::Internal => Code::InternalError,
    }
}
