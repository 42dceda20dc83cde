//! Errors as clients get them: what went wrong elsewhere, in libvirt's codes.

pub(crate) mod lending;

pub(crate) use ::lending::chain;
use conf::ErrorKind;
use rpc::{Code, Domain, Error};

/// What a call gives.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// A document's fault.
pub(crate) fn document(domain: Domain) -> impl Fn(conf::Error) -> Error {
    move |error| {
        let code = match error.kind {
            ErrorKind::Internal => Code::InternalError,
            ErrorKind::InvalidArgument => Code::InvalidArg,
            ErrorKind::OperationFailed => Code::OperationFailed,
            ErrorKind::OsType => Code::OsType,
            ErrorKind::NoTarget => Code::Other(20),
            ErrorKind::NoName => Code::NoName,
            ErrorKind::Xml => Code::XmlError,
            ErrorKind::XmlDetail => Code::Other(35),
            ErrorKind::OperationInvalid => Code::OperationInvalid,
            ErrorKind::ConfigUnsupported => Code::ConfigUnsupported,
            ErrorKind::Overflow => Code::Overflow,
            ErrorKind::OperationUnsupported => Code::OperationUnsupported,
        };
        Error::new(code, domain, error.to_string())
    }
}

/// Refuses a document that says what nothing reads, as libvirt's schemas would.
pub(crate) fn all_read(domain: Domain, xml: &str) -> Result<()> {
    let unread = conf::grammar::unread(xml).map_err(document(domain))?;
    match unread.first() {
        None => Ok(()),
        Some(unread) => Err(Error::new(
            Code::XmlInvalidSchema,
            domain,
            unread.to_string(),
        )),
    }
}

/// A refusal of the host.
pub(crate) fn host(domain: Domain) -> impl Fn(host::HostError) -> Error {
    move |error| host_error(domain, &error)
}

pub(crate) fn host_error(domain: Domain, error: &host::HostError) -> Error {
    use host::HostError as H;
    match error {
        H::Kernel { source, .. } => match source.raw_os_error() {
            Some(errno) => Error::system(domain, errno, error),
            None => Error::new(Code::InternalError, domain, chain(error)),
        },
        H::NotVirtualFunction(_) | H::NotPci(_) | H::NotPhysicalFunction(_) => {
            Error::new(Code::ConfigUnsupported, domain, error.to_string())
        }
        H::NoPciDevice(_) | H::NoNetdev(_) => {
            Error::new(Code::DeviceMissing, domain, error.to_string())
        }
        _ => Error::new(Code::InternalError, domain, chain(error)),
    }
}

/// A file that can't be written or read.
pub(crate) fn file(
    domain: Domain,
    what: impl std::fmt::Display,
) -> impl Fn(std::io::Error) -> Error {
    move |error| match error.raw_os_error() {
        Some(errno) => Error::system(domain, errno, &what),
        None => Error::new(Code::InternalError, domain, format!("{what}: {error}")),
    }
}

/// A record that can't be written.
pub(crate) fn record(
    domain: Domain,
    what: impl std::fmt::Display,
) -> impl Fn(records::RecordError) -> Error {
    let told = file(domain, what);
    move |error| told(error.source)
}

/// A wrong state for what is asked.
pub(crate) fn invalid(domain: Domain, detail: impl Into<String>) -> Error {
    Error::new(Code::OperationInvalid, domain, detail)
}
