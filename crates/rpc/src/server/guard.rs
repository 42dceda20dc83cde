//! What a connection decides by itself before the service hears of a call.

use crate::error::{Code, Domain, Error};
use crate::flags::{DomainXml, Vcpus};
use crate::procedure::Access;
use crate::table::{Reply, Request};

/// "No authentication": the socket's mode and its peer decide.
const AUTH_NONE: i32 = 0;

/// The source of addresses that is for writers: the guest's own agent.
const ADDRESSES_FROM_AGENT: u32 = 1;

/// What this crate does by itself, under libvirt's numbers.
mod feature {
    pub(super) const FD_PASSING: i32 = 8;
    pub(super) const TYPED_STRINGS: i32 = 9;
    pub(super) const KEEPALIVE: i32 = 10;
    pub(super) const EVENT_CALLBACKS: i32 = 14;
    pub(super) const CLOSE_CALLBACK: i32 = 15;
    pub(super) const NETWORK_UPDATE_ORDER: i32 = 16;
}

/// How far the opening of a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// "Open" was not called yet, or was refused.
    New,
    /// "Open" is being carried out.
    Opening,
    /// "Open" succeeded.
    Open,
}

/// Whether a client may make that call now.
pub(crate) fn check(request: &Request, stage: Stage, read_only: bool) -> Result<(), Error> {
    let before_open = match request {
        Request::AuthList(_) | Request::AuthPolkit(_) | Request::ConnectOpen(_) => true,
        Request::ConnectSupportsFeature(args) => args.feature == feature::KEEPALIVE,
        // Nothing is left to close, but nobody should be kept from leaving.
        Request::ConnectClose(_) => true,
        _ => false,
    };
    if stage != Stage::Open && !before_open {
        return Err(Error::new(
            Code::InternalError,
            Domain::Rpc,
            "connection not open",
        ));
    }
    if stage != Stage::New && matches!(request, Request::ConnectOpen(_)) {
        return Err(Error::new(
            Code::InternalError,
            Domain::Rpc,
            "connection already open",
        ));
    }
    if read_only {
        check_reader(request)
    } else {
        Ok(())
    }
}

/// The answer to a call that is about the connection alone; over some no file descriptors can go.
pub(crate) fn answer(request: &Request, passes_fds: bool) -> Option<Reply> {
    Some(match request {
        Request::AuthList(_) => Reply::AuthList(vec![AUTH_NONE]),
        Request::AuthPolkit(_) => Reply::AuthPolkit(true),
        Request::ConnectClose(_) => Reply::ConnectClose(()),
        Request::ConnectRegisterCloseCallback(_) => Reply::ConnectRegisterCloseCallback(()),
        Request::ConnectUnregisterCloseCallback(_) => Reply::ConnectUnregisterCloseCallback(()),
        Request::ConnectSupportsFeature(args) => match args.feature {
            feature::FD_PASSING => Reply::ConnectSupportsFeature(passes_fds),
            feature::TYPED_STRINGS
            | feature::KEEPALIVE
            | feature::EVENT_CALLBACKS
            | feature::CLOSE_CALLBACK
            | feature::NETWORK_UPDATE_ORDER => Reply::ConnectSupportsFeature(true),
            // What is left is about what the service can do.
            _ => return None,
        },
        _ => return None,
    })
}

fn check_reader(request: &Request) -> Result<(), Error> {
    let info = request.info();
    let denied = |detail: String| Err(Error::new(Code::OperationDenied, info.domain, detail));
    let for_writers = match request {
        Request::DomainGetXmlDesc(args)
            if args
                .flags
                .intersects(DomainXml::SECURE | DomainXml::MIGRATABLE) =>
        {
            return denied(format!("{} with secure flag", info.api));
        }
        Request::DomainInterfaceAddresses(args) => args.source == ADDRESSES_FROM_AGENT,
        Request::DomainGetVcpusFlags(args) => args.flags.contains(Vcpus::GUEST),
        Request::VirtnicReconcile(args) => args.apply,
        _ => info.access == Access::Writers,
    };
    if for_writers {
        return denied(format!("read only access prevents {}", info.api));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::flags::Open;
    use crate::table::{ConnectOpen, DomainGetXmlDesc, NetworkDestroy, VirtnicReconcile};
    use crate::types::{Dom, Net};

    fn refusal(request: &Request, read_only: bool) -> String {
        check(request, Stage::Open, read_only)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn readers_may_not_change_anything() {
        let net = Net {
            name: "n1".into(),
            uuid: Uuid::nil(),
        };
        let request = Request::NetworkDestroy(NetworkDestroy { net });
        assert_eq!(check(&request, Stage::Open, false), Ok(()));
        assert_eq!(
            refusal(&request, true),
            "operation forbidden: read only access prevents virNetworkDestroy"
        );
        let error = check(&request, Stage::Open, true).unwrap_err();
        assert_eq!(
            (error.code(), error.domain()),
            (Code::OperationDenied, Domain::Network)
        );
    }

    #[test]
    fn readers_get_no_secrets() {
        let dom = Dom {
            name: "g1".into(),
            uuid: Uuid::nil(),
            id: 1,
        };
        let request = |flags: u32| {
            Request::DomainGetXmlDesc(DomainGetXmlDesc {
                dom: dom.clone(),
                flags: flags.into(),
            })
        };
        assert_eq!(check(&request(2), Stage::Open, true), Ok(()));
        for flags in [1, 8, 3] {
            assert_eq!(
                refusal(&request(flags), true),
                "operation forbidden: virDomainGetXMLDesc with secure flag"
            );
        }
    }

    #[test]
    fn readers_may_look_at_differences_and_mend_none() {
        let request = |apply| Request::VirtnicReconcile(VirtnicReconcile { apply });
        assert_eq!(check(&request(false), Stage::Open, true), Ok(()));
        assert_eq!(check(&request(true), Stage::Open, false), Ok(()));
        assert_eq!(
            refusal(&request(true), true),
            "operation forbidden: read only access prevents virtnicReconcile"
        );
    }

    #[test]
    fn a_connection_is_opened_once() {
        let open = Request::ConnectOpen(ConnectOpen {
            name: None,
            flags: Open::NONE,
        });
        assert_eq!(check(&open, Stage::New, false), Ok(()));
        for stage in [Stage::Opening, Stage::Open] {
            let error = check(&open, stage, false).unwrap_err();
            assert_eq!(error.to_string(), "internal error: connection already open");
        }
    }
}
