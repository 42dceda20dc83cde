//! Moving a guest to another host, in the phases that libvirt's clients go through.
//!
//! | phase | libvirt's call | where | what it does, and promises when it has succeeded | when it fails | when nobody goes on after it |
//! |---|---|---|---|---|---|
//! | begin | Begin3Params | source | the guest is held: nothing of it changes but by this move. Its document and a cookie are handed out | nothing was changed | the client's connection goes: it is held no more |
//! | prepare | Prepare3Params | destination | all is planned and claimed: networks, macvtaps (down), a VF for each pair (reserved, untouched), the same CPU; a QEMU waits at the address that is handed out, and must not run | all of it is undone | the client's connection goes: all of it is undone |
//! | perform | Perform3Params | source | the guest has let its VFs go, and runs on virtio; its memory is over there; it is halted here, its links down. Not before this has succeeded may it run there | it goes on here, and gets its VFs back | the client's connection goes before the answer: it goes on here. After the answer: it stays halted here with all that it has, and a person says where it is (`virtnic migrate-resolve`) |
//! | finish | Finish3Params | destination | its definition is kept, if asked; links up; it runs; the network is told; VFs are plugged in | its QEMU is ended, all is undone | it runs here |
//! | finish, cancelled | the same | destination | its QEMU is ended, all is undone | – | – |
//! | confirm | Confirm3Params | source | its QEMU is ended, all that it had is given back, its definition gone if asked | it stays as it was | – |
//! | confirm, cancelled | the same | source | it goes on here, and gets its VFs back | it stays halted, and a person is told | – |
//!
//! The client carries everything from one phase to the next; the daemons have no connection. What keeps the
//! guest from running twice needs none: it runs over there only in *finish*, which a client calls only when
//! *perform* has succeeded; and here it is let run again only as long as *perform* has not succeeded, when the
//! client says that it does not run there, or when a person says so. (A client that takes the other daemon for gone
//! while it lets the guest run, since the network between them broke, says what is not so; nothing here can tell.
//! From peer to peer the other daemon is asked.) A daemon that comes back in the middle
//! knows from its records ([`MoveRecord`](crate::guest::MoveRecord)) which of these holds: each step is on
//! record before what makes it so.
//!
//! A guest that is off moves by its definition alone: [`offline`].

mod cookie;
mod job;
pub(crate) mod movable;
mod offline;
mod params;
mod peer;
mod place;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use conf::{Form, Uuid};
use rpc::flags::MigrateParams as Flags;
use rpc::server::Call;
use rpc::{
    Code, Dom, DomainMigrateBegin3Params, DomainMigrateConfirm3Params, DomainMigrateFinish3Params,
    DomainMigratePerform3Params, DomainMigratePrepare3Params, Error, MigrateBegin, MigrateFinish,
    MigratePrepare, Obstacle,
};

use cookie::{Cookie, Sent};
use params::Params;
use place::Places;

pub(crate) use job::params as job_params;

use crate::blocking::blocking;
use crate::daemon::Daemon;
use crate::fault::{self, Result};
use crate::guest::{
    ArrivalWish, Departing, FinishWish, GuestHandle, HoldWish, Moved, Request, SendWish,
};
use crate::options::Options;
use crate::registry::Named as _;

const QEMU: rpc::Domain = rpc::Domain::Qemu;

/// How long who takes part in a move may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// A guest that is asked for its VFs.
    pub(crate) unplug: Duration,
    /// Another daemon, to say where a guest is.
    pub(crate) peer: Duration,
}

impl Patience {
    pub(crate) fn of(options: &Options) -> Self {
        Self {
            unplug: Duration::from_secs(options.unplug_patience.into()),
            peer: peer::asking(),
        }
    }
}

impl Daemon {
    /// Begin, on the source.
    pub(crate) async fn begin_migration(
        self: &Arc<Self>,
        args: DomainMigrateBegin3Params,
        connection: u64,
    ) -> Result<MigrateBegin> {
        if args.flags.contains(Flags::PEER2PEER) {
            let detail = "a move from peer to peer begins, and ends, with Perform";
            return Err(fault::invalid(QEMU, detail));
        }
        self.begin_for(args, connection).await
    }

    async fn begin_for(
        self: &Arc<Self>,
        args: DomainMigrateBegin3Params,
        connection: u64,
    ) -> Result<MigrateBegin> {
        if args.flags.contains(Flags::OFFLINE) {
            return self.begin_offline(args, connection).await;
        }
        let guest = self.guest(&args.dom)?;
        params::check_flags(args.flags)?;
        let params = Params::read(&args.params, args.flags)?;
        let run = guest.run()?;
        if !args.flags.contains(Flags::UNSAFE) {
            let domain = run.domain.clone();
            blocking(QEMU, move || movable::check_disks(&domain)).await??;
        }
        let id = Uuid::new_v4();
        guest
            .request(Request::Hold(HoldWish { id, connection }))
            .await?;
        let begun = self.begun(&guest, args.flags, params, id).await;
        if begun.is_err() {
            // It is held by nobody else.
            let id = Some(id);
            let _ = guest.departing(Departing::CallOff { id, connection }).await;
        }
        begun
    }

    async fn begun(
        &self,
        guest: &GuestHandle,
        flags: Flags,
        params: Params,
        id: Uuid,
    ) -> Result<MigrateBegin> {
        let view = guest.view();
        let run = view.run.as_ref().ok_or_else(|| guest.not_running())?;
        let cpu = run.machine.cpu_features().await.map_err(|error| {
            let detail = fault::chain(&error);
            Error::new(Code::OperationFailed, QEMU, detail)
        })?;
        let definition = match (flags.contains(Flags::PERSIST_DEST), params.persistent) {
            (true, Some(given)) => Some(same_guest(&run.domain, given)?),
            (true, None) => {
                (view.defined.as_ref()).map(|defined| defined.to_xml_with_secrets(Form::Migratable))
            }
            (false, _) => None,
        };
        let xml = match params.document {
            Some(given) => same_guest(&run.domain, given)?,
            None => run.domain.to_xml_with_secrets(Form::Migratable),
        };
        let cookie = Cookie {
            daemon: self.identity().to_owned(),
            guest: run.domain.uuid,
            id,
            definition,
            cpu,
            sent: None,
        };
        Ok(MigrateBegin {
            cookie_out: cookie.write(),
            xml,
        })
    }

    /// Prepare, on the destination, for the client that calls.
    pub(crate) async fn prepare_migration(
        self: &Arc<Self>,
        args: DomainMigratePrepare3Params,
        call: &Call,
    ) -> Result<MigratePrepare> {
        if args.flags.contains(Flags::OFFLINE) {
            return self.prepare_offline(args, call).await;
        }
        check_secure(call)?;
        let connection = call.conn.id();
        params::check_flags(args.flags)?;
        let cookie = Cookie::read(&args.cookie_in)?;
        self.check_from_another(&cookie)?;
        let params = Params::read(&args.params, args.flags)?;
        let Some(xml) = params.document else {
            return Err(wrong(
                "the client handed no document over for the destination",
            ));
        };
        let domain = self
            .incoming_document(xml, &cookie, params.name.as_deref())
            .await?;
        let hostname = self.node.hostname.clone();
        let (uri, listen) = (params.uri, params.listen);
        // A simulated host has no other network.
        let reached = match self.simulated {
            true => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            false => call.conn.local_addr(),
        };
        let places = blocking(QEMU, move || {
            Places::find(uri.as_deref(), listen.as_deref(), reached, &hostname)
        });
        let places = places.await??;
        let wish = ArrivalWish {
            id: cookie.id,
            connection,
            domain,
            settings: params.settings,
            uris: places.listen.clone(),
            cpu: cookie.cpu.clone(),
        };
        let domain = wish.domain.clone();
        let arrive = || Request::Arrive(Box::new(wish.clone()));
        let guest = self.ask_guest(&domain, arrive).await?;
        let view = guest.view();
        let arriving = view
            .arriving
            .as_ref()
            .filter(|arrival| arrival.id == cookie.id);
        let Some(arriving) = arriving else {
            let detail = format!(
                "guest '{}' does not come: it was ended meanwhile",
                guest.name()
            );
            return Err(Error::new(Code::OperationFailed, QEMU, detail));
        };
        Ok(MigratePrepare {
            cookie_out: Cookie {
                definition: None,
                cpu: None,
                ..cookie
            }
            .write(),
            uri_out: Some(places.told(&arriving.uri)),
        })
    }

    /// A daemon does not move guests to itself.
    fn check_from_another(&self, cookie: &Cookie) -> Result<()> {
        if cookie.daemon != self.identity() {
            return Ok(());
        }
        let detail = format!(
            "Attempt to migrate guest to the same host {}: source and destination are one virtnicd",
            self.node.uuid.as_deref().unwrap_or_default()
        );
        Err(Error::new(Code::InternalError, QEMU, detail))
    }

    /// A document as the other host gave it, under the name that it is to have here.
    async fn incoming_document(
        self: &Arc<Self>,
        xml: String,
        cookie: &Cookie,
        name: Option<&str>,
    ) -> Result<conf::Domain> {
        let mut domain = self.read_document(xml, false).await?;
        if domain.uuid != cookie.guest {
            let detail = format!(
                "the document is of guest {}, and {} was to be moved",
                domain.uuid, cookie.guest
            );
            return Err(wrong(detail));
        }
        if let Some(name) = name
            && name != domain.name
        {
            domain.name = name.to_owned();
            // It may be no name.
            let text = domain.to_xml_with_secrets(Form::Migratable);
            domain = self.read_document(text, false).await?;
        }
        Ok(domain)
    }

    /// Perform, on the source.
    pub(crate) async fn perform_migration(
        self: &Arc<Self>,
        args: DomainMigratePerform3Params,
        connection: u64,
    ) -> Result<Vec<u8>> {
        if args.flags.contains(Flags::PEER2PEER) {
            self.move_to_peer(args).await?;
            return Ok(Vec::new());
        }
        self.perform_for(args, connection).await
    }

    async fn perform_for(
        self: &Arc<Self>,
        args: DomainMigratePerform3Params,
        connection: u64,
    ) -> Result<Vec<u8>> {
        params::check_flags(args.flags)?;
        let guest = self.guest(&args.dom)?;
        let cookie = self.own_cookie(&guest, &args.cookie_in)?;
        let params = Params::read(&args.params, args.flags)?;
        let Some(uri) = params.uri else {
            return Err(wrong("the client does not say where the guest is to go"));
        };
        let wish = SendWish {
            id: cookie.id,
            connection,
            uri: place::check_target(&uri)?,
            settings: params.settings,
        };
        guest.departing(Departing::Send(wish)).await?;
        let view = guest.view();
        let sent = view
            .leaving
            .as_ref()
            .and_then(|leaving| leaving.sent.as_deref());
        Ok(Cookie {
            sent: sent.map(Sent::of),
            ..cookie
        }
        .write())
    }

    /// Finish, on the destination.
    pub(crate) async fn finish_migration(
        self: &Arc<Self>,
        args: DomainMigrateFinish3Params,
        call: &Call,
    ) -> Result<MigrateFinish> {
        if args.flags.contains(Flags::OFFLINE) {
            return self.finish_offline(args, call).await;
        }
        let connection = call.conn.id();
        let params = Params::read(&args.params, args.flags)?;
        let name = params.name.unwrap_or_default();
        let guest = self.guest_by_name(&name);
        if args.cancelled {
            if let Ok(guest) = guest {
                guest.comes_not(connection).await;
            }
            let detail = format!("guest '{name}' does not come, and nothing of it is left here");
            return Err(Error::new(Code::MigrateFinishOk, QEMU, detail));
        }
        let guest = guest?;
        let finished = self.finish(&guest, &args, connection).await;
        match &finished {
            Ok(_) => {
                let answered = call.answered();
                tokio::spawn(async move {
                    let is_known = answered.await;
                    guest.told_arrived(connection, is_known).await;
                });
            }
            // Its client takes it that it is not here.
            Err(_) => guest.comes_not(connection).await,
        }
        finished
    }

    async fn finish(
        self: &Arc<Self>,
        guest: &Arc<GuestHandle>,
        args: &DomainMigrateFinish3Params,
        connection: u64,
    ) -> Result<MigrateFinish> {
        let cookie = Cookie::read(&args.cookie_in)?;
        let definition = if args.flags.contains(Flags::PERSIST_DEST) {
            let view = guest.view();
            let run = view.run.as_ref().ok_or_else(|| guest.not_running())?;
            let xml = match cookie.definition.clone() {
                Some(xml) => xml,
                None => run.domain.to_xml_with_secrets(Form::Migratable),
            };
            let name = guest.name().to_owned();
            let kept = self.incoming_document(xml, &cookie, Some(&name)).await?;
            Some(Arc::new(kept))
        } else {
            None
        };
        let moved = cookie.sent.map(|sent| Moved {
            out: false,
            sent: sent.info(),
            took: sent.took(),
        });
        let wish = FinishWish {
            id: cookie.id,
            connection,
            paused: args.flags.contains(Flags::PAUSED),
            definition,
            moved: moved.map(Arc::new),
        };
        guest.request(Request::Finish(wish)).await?;
        Ok(MigrateFinish {
            dom: guest.dom(),
            cookie_out: cookie.write(),
        })
    }

    /// Confirm, on the source.
    pub(crate) async fn confirm_migration(
        self: &Arc<Self>,
        args: DomainMigrateConfirm3Params,
        connection: u64,
    ) -> Result<()> {
        let guest = self.guest(&args.dom)?;
        let confirmed = self.confirm(&guest, &args, connection).await;
        if let Err(error) = &confirmed {
            // Clients tell nobody.
            tracing::warn!(guest = guest.name(), %error, "how its move ended is not believed");
        }
        confirmed
    }

    async fn confirm(
        &self,
        guest: &GuestHandle,
        args: &DomainMigrateConfirm3Params,
        connection: u64,
    ) -> Result<()> {
        if args.cancelled {
            // Where the other side failed there is no cookie of it.
            let cookie = Cookie::read(&args.cookie_in).ok();
            let id = cookie.map(|cookie| cookie.id);
            return guest.departing(Departing::CallOff { id, connection }).await;
        }
        let cookie = self.own_cookie(guest, &args.cookie_in)?;
        let undefine = args.flags.contains(Flags::UNDEFINE_SOURCE);
        let id = cookie.id;
        guest.departing(Departing::Confirm { id, undefine }).await
    }

    /// A cookie that this daemon gave out for that guest.
    fn own_cookie(&self, guest: &GuestHandle, bytes: &[u8]) -> Result<Cookie> {
        let cookie = Cookie::read(bytes)?;
        if cookie.daemon != self.identity() || cookie.guest != guest.uuid() {
            let detail = format!(
                "the cookie is not of a move of guest '{}' from here",
                guest.name()
            );
            return Err(wrong(detail));
        }
        Ok(cookie)
    }

    /// Ends what is under way. Returns at once.
    pub(crate) async fn abort_job(&self, dom: &Dom) -> Result<()> {
        let guest = self.guest(dom)?;
        if guest.view().leaving.is_none() {
            guest.run()?;
        }
        guest.departing(Departing::Abort).await
    }

    /// Bytes a second that moves of a guest may send; MiB as clients count.
    pub(crate) async fn set_migration_speed(&self, dom: &Dom, mebibytes: u64) -> Result<()> {
        let guest = self.guest(dom)?;
        guest.run()?;
        let bandwidth = params::mebibytes(mebibytes)?;
        guest.departing(Departing::Bandwidth(bandwidth)).await
    }

    /// The same, as it is.
    pub(crate) fn migration_speed(&self, dom: &Dom) -> Result<u64> {
        let guest = self.guest(dom)?;
        guest.run()?;
        let view = guest.view();
        // libvirt's own "no limit".
        const UNLIMITED: u64 = 8_796_093_022_207;
        Ok(match view.bandwidth {
            0 => UNLIMITED,
            bytes => bytes >> 20,
        })
    }

    /// For how long a move may halt a guest, milliseconds.
    pub(crate) async fn set_migration_downtime(&self, dom: &Dom, millis: u64) -> Result<()> {
        let guest = self.guest(dom)?;
        guest.run()?;
        let limit = params::downtime(millis)?;
        guest.departing(Departing::Downtime(limit)).await
    }

    /// The same, as it is.
    pub(crate) fn migration_downtime(&self, dom: &Dom) -> Result<u64> {
        let guest = self.guest(dom)?;
        guest.run()?;
        // QEMU's own, where nobody set one.
        let limit = guest.view().downtime.unwrap_or(Duration::from_millis(300));
        Ok(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX))
    }

    /// Post-copy, which is not carried out.
    pub(crate) fn start_post_copy(&self, dom: &Dom) -> Result<()> {
        self.guest(dom)?.run()?;
        let detail = format!("--postcopy: {}", params::POSTCOPY);
        Err(Error::new(Code::OperationUnsupported, QEMU, detail))
    }

    /// What keeps a running guest from going to another host, or to that one; nothing is changed.
    pub(crate) async fn check_migration(
        self: &Arc<Self>,
        name: &str,
        destination: Option<&str>,
    ) -> Result<Vec<Obstacle>> {
        let guest = self.guest_named(name)?;
        let run = guest.run()?;
        let mut found: Vec<_> = movable::reasons(&run)
            .into_iter()
            .map(Obstacle::from)
            .collect();
        let domain = run.domain.clone();
        let disks = blocking(QEMU, move || movable::unshared_disks(&domain)).await?;
        found.extend(disks.into_iter().map(Obstacle::from));
        if let Some(destination) = destination {
            let xml = run.domain.to_xml_with_secrets(Form::Migratable);
            found.extend(peer::obstacles(destination, xml).await?);
        }
        Ok(found)
    }

    /// A person says where a guest is of which nobody else knows.
    pub(crate) async fn resolve_migration(&self, name: &str, here: bool) -> Result<()> {
        let guest = self.guest_named(name)?;
        guest.departing(Departing::Resolve { here }).await
    }
}

/// A document that a user gave for the destination: it has to be of the guest, and to say what it says itself.
fn same_guest(domain: &conf::Domain, xml: String) -> Result<String> {
    let given = conf::Domain::parse(&xml).map_err(fault::document(QEMU))?;
    if (&given.name, given.uuid) != (&domain.name, domain.uuid) {
        let detail = format!(
            "the document for the destination is of guest '{}' ({}), not of '{}' ({}); another name is given by \
             --dname, and the uuid stays",
            given.name, given.uuid, domain.name, domain.uuid
        );
        return Err(wrong(detail));
    }
    if conf::has_hidden_secrets(&xml) {
        let detail = format!(
            "the document of guest '{}' for the destination has '*****' in place of a password\nMake it with its \
             secrets: virsh dumpxml --migratable --security-info",
            domain.name
        );
        return Err(wrong(detail));
    }
    Ok(xml)
}

/// Who brings a guest has to be known.
fn check_secure(call: &Call) -> Result<()> {
    if call.conn.is_secure() {
        return Ok(());
    }
    let detail = "a guest comes only from somebody who is known: over a unix socket, ssh or TLS, not over TCP \
                  as it is";
    Err(Error::new(Code::OperationDenied, QEMU, detail))
}

/// What a client says is not right.
fn wrong(detail: impl Into<String>) -> Error {
    Error::new(Code::InvalidArg, QEMU, detail)
}
