//! The definition of a guest that is off, to another host: the same phases, without *perform*.
//!
//! | phase | where | what it does, and promises | when nobody goes on after it |
//! |---|---|---|---|
//! | begin | source | the guest is held: it is neither started nor changed, nor moved by anybody else. Its definition and a cookie are handed out | the client's connection goes: it is held no more |
//! | prepare | destination | the definition is read, and can be kept there as it is now. It goes along in the cookie: nothing of it stays here | nothing was changed |
//! | finish | destination | checked again, it is kept, in place of an older one | it is on both hosts, and runs on none |
//! | confirm | source | it is forgotten, if asked, and held no more | – |

use std::sync::Arc;

use conf::{Form, Uuid};
use rpc::server::Call;
use rpc::{
    Code, DomainMigrateBegin3Params, DomainMigrateFinish3Params, DomainMigratePrepare3Params,
    Error, MigrateBegin, MigrateFinish, MigratePrepare,
};

use super::cookie::Cookie;
use super::params::{self, Params};
use super::{QEMU, check_secure, same_guest, wrong};
use crate::blocking::blocking;
use crate::daemon::Daemon;
use crate::fault::{self, Result};
use crate::guest::{Departing, GuestHandle, HoldWish, Request};
use crate::registry::Named as _;

impl Daemon {
    /// Begin, on the source.
    pub(super) async fn begin_offline(
        self: &Arc<Self>,
        args: DomainMigrateBegin3Params,
        connection: u64,
    ) -> Result<MigrateBegin> {
        let guest = self.guest(&args.dom)?;
        params::check_offline(args.flags)?;
        let params = Params::read(&args.params, args.flags)?;
        if guest.is_active() {
            let detail = format!(
                "guest '{}' runs: --offline moves the definition of a guest that is off",
                guest.name()
            );
            return Err(fault::invalid(QEMU, detail));
        }
        let (daemon, its) = (Arc::clone(self), Arc::clone(&guest));
        blocking(QEMU, move || {
            daemon.check_no_process(its.uuid(), its.name())
        })
        .await??;
        let id = Uuid::new_v4();
        guest
            .request(Request::Pack(HoldWish { id, connection }))
            .await?;
        let begun = self.packed(&guest, params, id);
        if begun.is_err() {
            // It is held by nobody else.
            let id = Some(id);
            let _ = guest.departing(Departing::CallOff { id, connection }).await;
        }
        begun
    }

    fn packed(&self, guest: &GuestHandle, params: Params, id: Uuid) -> Result<MigrateBegin> {
        let view = guest.view();
        let defined = view.defined.as_ref().ok_or_else(|| guest.not_running())?;
        let given = |xml: Option<String>| xml.map(|xml| same_guest(defined, xml)).transpose();
        let definition = given(params.persistent)?;
        let xml = match given(params.document)? {
            Some(xml) => xml,
            None => defined.to_xml_with_secrets(Form::Migratable),
        };
        let cookie = Cookie {
            daemon: self.identity().to_owned(),
            guest: defined.uuid,
            id,
            definition,
            cpu: None,
            sent: None,
        };
        Ok(MigrateBegin {
            cookie_out: cookie.write(),
            xml,
        })
    }

    /// Prepare, on the destination.
    pub(super) async fn prepare_offline(
        self: &Arc<Self>,
        args: DomainMigratePrepare3Params,
        call: &Call,
    ) -> Result<MigratePrepare> {
        check_secure(call)?;
        params::check_offline(args.flags)?;
        let cookie = Cookie::read(&args.cookie_in)?;
        self.check_from_another(&cookie)?;
        let params = Params::read(&args.params, args.flags)?;
        let Some(xml) = cookie.definition.clone().or(params.document) else {
            return Err(wrong(
                "the client handed no document over for the destination",
            ));
        };
        let domain = self.definition_from(xml, &cookie, params.name).await?;
        let cookie = Cookie {
            definition: Some(domain.to_xml_with_secrets(Form::Inactive)),
            ..cookie
        };
        // It comes back with that, and is read again.
        let cookie_out = cookie.write();
        Cookie::read(&cookie_out)?;
        Ok(MigratePrepare {
            cookie_out,
            // Clients want one, though nothing is sent there.
            uri_out: Some(format!("tcp:{}", self.node.hostname)),
        })
    }

    /// Finish, on the destination.
    pub(super) async fn finish_offline(
        self: &Arc<Self>,
        args: DomainMigrateFinish3Params,
        call: &Call,
    ) -> Result<MigrateFinish> {
        let params = Params::read(&args.params, args.flags)?;
        let name = params.name.unwrap_or_default();
        if args.cancelled {
            let detail = format!("the definition of guest '{name}' does not come");
            return Err(Error::new(Code::MigrateFinishOk, QEMU, detail));
        }
        check_secure(call)?;
        params::check_offline(args.flags)?;
        let cookie = Cookie::read(&args.cookie_in)?;
        self.check_from_another(&cookie)?;
        let Some(xml) = cookie.definition.clone() else {
            return Err(wrong("the cookie has no definition to keep"));
        };
        let domain = Arc::new(self.definition_from(xml, &cookie, Some(name)).await?);
        let unpack = || Request::Unpack(Arc::clone(&domain));
        let guest = self.ask_guest(&domain, unpack).await?;
        tracing::info!(
            guest = guest.name(),
            "its definition came from another host"
        );
        Ok(MigrateFinish {
            dom: guest.dom(),
            cookie_out: Cookie {
                definition: None,
                ..cookie
            }
            .write(),
        })
    }

    /// A definition that can be kept here, as it is now.
    async fn definition_from(
        self: &Arc<Self>,
        xml: String,
        cookie: &Cookie,
        name: Option<String>,
    ) -> Result<conf::Domain> {
        let domain = self.incoming_document(xml, cookie, name.as_deref()).await?;
        if let Some(clash) = self.guests.clash(&domain.name, domain.uuid) {
            let detail = clash.words("domain", &domain.name, domain.uuid);
            return Err(Error::new(Code::OperationFailed, QEMU, detail));
        }
        if let Some(known) = self.guests.by_uuid(domain.uuid)
            && known.is_active()
        {
            return Err(known.already_active());
        }
        let (daemon, uuid, its) = (Arc::clone(self), domain.uuid, domain.name.clone());
        blocking(QEMU, move || daemon.check_no_process(uuid, &its)).await??;
        Ok(domain)
    }
}
