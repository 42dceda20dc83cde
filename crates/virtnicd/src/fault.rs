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
        // What these say by themselves is that the program failed, or is half a sentence.
        let words = match error.kind {
            ErrorKind::Internal | ErrorKind::NoName | ErrorKind::OsType => Code::XmlError,
            _ => code,
        };
        let advice = error.advice.clone();
        Error::worded(code, words, domain, lending::with_advice(&error, advice))
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
    if let host::HostError::Kernel { source, .. } = error
        && let Some(errno) = source.raw_os_error()
    {
        return Error::system(domain, errno, error);
    }
    let detail = lending::with_advice(error, error.advice());
    Error::new(host_code(error), domain, detail)
}

/// A device that a person named and that is not there, or is of another kind, is no failure of ours.
fn host_code(error: &host::HostError) -> Code {
    use host::HostError as H;
    match error {
        H::NotVirtualFunction(_) | H::NotPci(_) | H::NotPhysicalFunction(_) => {
            Code::ConfigUnsupported
        }
        H::NoPciDevice(_) | H::NoUsbDevice(_) | H::NoNetdev(_) => Code::DeviceMissing,
        _ => Code::InternalError,
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

#[cfg(test)]
mod tests {
    use super::*;

    /// libvirt's codes, and no failure of ours.
    #[test]
    fn what_is_wrong_with_a_document_is_told_as_the_documents_fault() {
        for (inside, code, told) in [
            (
                "<name>n</name><uuid>12</uuid>",
                Code::InternalError,
                "XML error: '12' is no UUID (",
            ),
            ("", Code::NoName, "XML error: <network> needs a <name> ("),
            ("<name>a/b</name>", Code::Other(35), "the network's name "),
        ] {
            let text = format!("<network>{inside}</network>");
            let error = conf::Network::parse(&text).unwrap_err();
            let error = document(Domain::Network)(error);
            assert_eq!(error.code(), code);
            assert!(error.message().starts_with(told), "{error}");
        }
        let port = conf::NetworkPort::parse("<networkport/>").unwrap_err();
        let port = document(Domain::Network)(port);
        assert!(
            port.message()
                .starts_with("XML error: <networkport> needs a <owner>"),
            "{port}"
        );
    }
}
