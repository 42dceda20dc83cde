//! Moving a guest to another host, in the phases that libvirt's clients go through. So far a guest that is
//! off moves: its definition.
//!
//! | phase | libvirt's call | where | what it does | where nobody goes on after it |
//! |---|---|---|---|---|
//! | begin | Begin3Params | source | hands the definition out, and a cookie that says which it is | nothing was changed |
//! | prepare | Prepare3Params | destination | checks that it can be defined, and keeps it in memory for the client | forgotten when the client's connection goes, or after a minute |
//! | perform | Perform3Params | source | moves memory: not carried out yet | – |
//! | finish | Finish3Params | destination | defines it; cancelled: forgets it | it is defined on both hosts, and runs on none |
//! | confirm | Confirm3Params | source | undefines it, if that was asked for, the guest is off and its definition the one that was handed out; cancelled: nothing | as above |
//!
//! The client carries everything from one phase to the next; the daemons have no connection. So nothing
//! that a client says is believed twice: each phase checks again.

mod arrivals;
mod cookie;
mod params;

use std::sync::Arc;

use rpc::flags::MigrateParams;
use rpc::{
    Code, DomainMigrateBegin3Params, DomainMigrateConfirm3Params, DomainMigrateFinish3Params,
    DomainMigratePerform3Params, DomainMigratePrepare3Params, Error, MigrateBegin, MigrateFinish,
    MigratePrepare,
};

use arrivals::Arrival;
pub(crate) use arrivals::Arrivals;
use cookie::Cookie;
use params::Params;

use crate::daemon::Daemon;
use crate::fault::{self, Result};
use crate::guest::{Request, same_definition};
use crate::registry::Named as _;

const QEMU: rpc::Domain = rpc::Domain::Qemu;

impl Daemon {
    /// Begin, on the source.
    pub(crate) fn begin_migration(&self, args: &DomainMigrateBegin3Params) -> Result<MigrateBegin> {
        let guest = self.guest(&args.dom)?;
        let view = guest.view();
        if !args.flags.contains(MigrateParams::OFFLINE) && !guest.is_active() {
            return Err(guest.not_running());
        }
        check_flags(args.flags)?;
        let params = Params::read(&args.params)?;
        if guest.is_active() {
            let detail = format!(
                "guest '{}' runs: an offline migration moves the definition of a guest that is off",
                guest.name()
            );
            return Err(fault::invalid(QEMU, detail));
        }
        let Some(defined) = &view.defined else {
            return Err(guest.not_running());
        };
        let xml = match params.document {
            Some(given) => {
                let domain = conf::Domain::parse(&given).map_err(fault::document(QEMU))?;
                let (own, other) = ((&defined.name, defined.uuid), (&domain.name, domain.uuid));
                if own != other {
                    let detail = format!(
                        "the document for the destination is of guest '{}' ({}), not of '{}' ({}); \
                         another name is given by --dname",
                        domain.name, domain.uuid, defined.name, defined.uuid
                    );
                    return Err(wrong(detail));
                }
                given
            }
            None => defined.to_xml_with_secrets(conf::Form::Migratable),
        };
        let cookie = Cookie {
            daemon: self.identity().to_owned(),
            guest: defined.uuid,
            definition: same_definition(defined),
        };
        Ok(MigrateBegin {
            cookie_out: cookie.write(),
            xml,
        })
    }

    /// Prepare, on the destination, for the client on that connection.
    pub(crate) async fn prepare_migration(
        self: &Arc<Self>,
        args: DomainMigratePrepare3Params,
        connection: u64,
    ) -> Result<MigratePrepare> {
        check_flags(args.flags)?;
        let cookie = Cookie::read(&args.cookie_in)?;
        if cookie.daemon == self.identity() {
            let detail = "source and destination are one virtnicd: the guest is there already";
            return Err(fault::invalid(QEMU, detail));
        }
        let params = Params::read(&args.params)?;
        let Some(xml) = params.document else {
            let detail = "the client handed no document over for the destination";
            return Err(wrong(detail));
        };
        let mut domain = self.read_document(xml, false).await?;
        if domain.uuid != cookie.guest {
            let detail = format!(
                "the document is of guest {}, and {} was to be moved",
                domain.uuid, cookie.guest
            );
            return Err(wrong(detail));
        }
        if let Some(name) = params.name {
            domain.name = name;
            // It may be no name.
            let text = domain.to_xml_with_secrets(conf::Form::Migratable);
            domain = self.read_document(text, false).await?;
        }
        self.check_can_arrive(&domain)?;
        let arrival = Arrival::new(connection, domain, cookie.clone());
        self.arrivals.expect(arrival)?;
        Ok(MigratePrepare {
            cookie_out: cookie.write(),
            // Clients want one, though nothing is sent there.
            uri_out: Some(format!("tcp:{}", self.node.hostname)),
        })
    }

    /// Perform, on the source.
    pub(crate) fn perform_migration(args: &DomainMigratePerform3Params) -> Result<Vec<u8>> {
        check_flags(args.flags | MigrateParams::LIVE)?;
        Err(not_yet())
    }

    /// Finish, on the destination.
    pub(crate) async fn finish_migration(
        self: &Arc<Self>,
        args: DomainMigrateFinish3Params,
        connection: u64,
    ) -> Result<MigrateFinish> {
        let params = Params::read(&args.params)?;
        let name = params.name.unwrap_or_default();
        let Some(arrival) = self.arrivals.take(&name, connection) else {
            let detail = format!("no guest '{name}' was announced by this client within a minute");
            return Err(fault::invalid(QEMU, detail));
        };
        if args.cancelled {
            let detail = format!("guest '{name}' is forgotten here, as was asked for");
            return Err(Error::new(Code::MigrateFinishOk, QEMU, detail));
        }
        self.check_can_arrive(&arrival.domain)?;
        let dom = self.define_read(Arc::new(arrival.domain)).await?;
        tracing::info!(guest = name, "its definition arrived from another host");
        Ok(MigrateFinish {
            dom,
            cookie_out: arrival.cookie.write(),
        })
    }

    /// Confirm, on the source.
    pub(crate) async fn confirm_migration(&self, args: &DomainMigrateConfirm3Params) -> Result<()> {
        if args.cancelled || !args.flags.contains(MigrateParams::UNDEFINE_SOURCE) {
            return Ok(());
        }
        let cookie = Cookie::read(&args.cookie_in)?;
        let guest = self.guest(&args.dom)?;
        if cookie.daemon != self.identity() || cookie.guest != args.dom.uuid {
            let detail = format!(
                "guest '{}' stays defined: the destination tells of another one",
                guest.name()
            );
            return Err(fault::invalid(QEMU, detail));
        }
        let moved = cookie.definition;
        guest.request(Request::UndefineMoved { moved }).await?;
        tracing::info!(guest = guest.name(), "its definition moved to another host");
        Ok(())
    }

    /// A guest that runs here, or one of its name, is in the way; an older definition of it is replaced.
    fn check_can_arrive(&self, domain: &conf::Domain) -> Result<()> {
        if let Some(clash) = self.guests.clash(&domain.name, domain.uuid) {
            let detail = clash.words("domain", &domain.name, domain.uuid);
            return Err(Error::new(Code::OperationFailed, QEMU, detail));
        }
        match self.guests.by_uuid(domain.uuid) {
            Some(known) if known.is_active() => Err(known.already_active()),
            _ => Ok(()),
        }
    }
}

/// What an offline migration does not know, by the options of `virsh migrate`.
const REFUSED: [(MigrateParams, &str); 13] = [
    (MigrateParams::PEER2PEER, "--p2p"),
    (MigrateParams::TUNNELLED, "--tunnelled"),
    (MigrateParams::NON_SHARED_DISK, "--copy-storage-all"),
    (MigrateParams::NON_SHARED_INC, "--copy-storage-inc"),
    (MigrateParams::COMPRESSED, "--compressed"),
    (MigrateParams::AUTO_CONVERGE, "--auto-converge"),
    (MigrateParams::RDMA_PIN_ALL, "--rdma-pin-all"),
    (MigrateParams::POSTCOPY, "--postcopy"),
    (MigrateParams::TLS, "--tls"),
    (MigrateParams::PARALLEL, "--parallel"),
    (
        MigrateParams::NON_SHARED_SYNCHRONOUS_WRITES,
        "--copy-storage-synchronous-writes",
    ),
    (MigrateParams::POSTCOPY_RESUME, "--postcopy-resume"),
    (MigrateParams::ZEROCOPY, "--zerocopy"),
];

fn check_flags(flags: MigrateParams) -> Result<()> {
    if !flags.contains(MigrateParams::OFFLINE) {
        return Err(not_yet());
    }
    let refused = REFUSED.iter().filter(|(flag, _)| flags.contains(*flag));
    let refused: Vec<_> = refused.map(|(_, option)| *option).collect();
    if !refused.is_empty() {
        let detail = format!(
            "an offline migration moves a definition, and knows none of these: {}",
            refused.join(", ")
        );
        return Err(Error::new(Code::ArgumentUnsupported, QEMU, detail));
    }
    if !flags.contains(MigrateParams::PERSIST_DEST) {
        let detail =
            "an offline migration moves the definition and nothing else: it needs --persistent";
        return Err(fault::invalid(QEMU, detail));
    }
    Ok(())
}

fn not_yet() -> Error {
    let detail = "a running guest can't be moved yet\nEnd it, and move its definition: virsh migrate \
                  --offline --persistent";
    Error::new(Code::OperationUnsupported, QEMU, detail)
}

/// What a client says is not right.
fn wrong(detail: impl Into<String>) -> Error {
    Error::new(Code::InvalidArg, QEMU, detail)
}
