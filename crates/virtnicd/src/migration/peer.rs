//! Peer to peer: the daemon that a guest leaves is the client of the other one, and goes through the phases itself.
//!
//! Whoever asked for it may go away. And where the connection breaks just when the guest may have begun to run
//! over there, the other daemon is asked, as long as it takes it to answer within the patience that there is.

use std::sync::Arc;
use std::time::Duration;

use conf::Uuid;
use rpc::client::{CallError, Client, Connecting, Events};
use rpc::flags::{MigrateParams as Flags, NoFlags};
use rpc::uri::{Transport, Uri};
use rpc::{
    Code, ConnectSupportsFeature, Dom, DomainGetJobInfo, DomainGetState, DomainLookupByUuid,
    DomainMigrateBegin3Params, DomainMigrateConfirm3Params, DomainMigrateFinish3Params,
    DomainMigratePerform3Params, DomainMigratePrepare3Params, Error, MigrateBegin, MigrateFinish,
    MigratePrepare, Obstacle, PlanOf, PlannedChoice, TypedParam, TypedValue, VirtnicPlan,
    VirtnicStatus,
};
use tokio::time::Instant;

use super::{QEMU, wrong};
use crate::daemon::{Daemon, ITSELF};
use crate::fault::{self, Result};
use crate::guest::Departing;

/// For the other daemon to answer: it starts a QEMU, or waits until all of a guest has come.
const ANSWERING: Duration = Duration::from_secs(180);
/// After the connection broke: for the other daemon to say where the guest is, and between two attempts.
const ASKING: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(1);

/// libvirt's number of "migration with named parameters".
const MIGRATION_PARAMS: i32 = 13;

/// Another daemon.
struct Peer {
    client: Client,
    _events: Events,
    uri: Uri,
}

impl Peer {
    async fn connect(uri: &Uri) -> Result<Self> {
        let how = Connecting::default();
        let connected = Client::connect(uri, &how).await;
        let (client, events) =
            connected.map_err(|error| unreachable(uri, &fault::chain(&error)))?;
        Ok(Self {
            client,
            _events: events,
            uri: uri.clone(),
        })
    }

    /// # Errors
    /// It is none that guests go to.
    async fn check(&self) -> Result<()> {
        let refused = |what: &str| {
            let detail = format!(
                "what answers at {} {what}: guests move between two hosts that run virtnicd",
                self.uri
            );
            Err(Error::new(Code::OperationUnsupported, QEMU, detail))
        };
        if self.client.call(&VirtnicStatus {}).await.is_err() {
            return refused("is no virtnicd");
        }
        let feature = MIGRATION_PARAMS;
        match self.client.call(&ConnectSupportsFeature { feature }).await {
            Ok(true) => Ok(()),
            _ => refused("can't take guests in"),
        }
    }

    /// Whether the guest is there for good; `None`: it is about to be, or not to be.
    async fn has(&self, uuid: Uuid) -> std::result::Result<Option<bool>, CallError> {
        let dom = match self.client.call(&DomainLookupByUuid { uuid }).await {
            Ok(dom) => dom,
            Err(CallError::Refused(error)) if error.code() == Code::NoDomain => {
                return Ok(Some(false));
            }
            Err(error) => return Err(error),
        };
        let flags = NoFlags::NONE;
        let state = self
            .client
            .call(&DomainGetState {
                dom: dom.clone(),
                flags,
            })
            .await?;
        // libvirt's numbers: no state, shutting down; shut off.
        match state.state {
            0 | 4 => return Ok(None),
            5 => return Ok(Some(false)),
            _ => {}
        }
        // As long as its move is a job there, nothing is decided.
        let job = self.client.call(&DomainGetJobInfo { dom }).await?;
        Ok((job.r#type == 0).then_some(true))
    }
}

/// Where a client sends a guest. It is this daemon that goes there, with its own rights: what would have it run
/// a program, here or there, or use a file, is not for its clients to say.
fn destination(uri: &str) -> Result<Uri> {
    let uri: Uri = uri.parse().map_err(|error| wrong(fault::chain(&error)))?;
    let refused = match uri.transport() {
        Transport::Ssh(ssh) => [
            ("command", ssh.command.is_some()),
            ("netcat", ssh.netcat.is_some()),
            ("keyfile", ssh.key_file.is_some()),
        ]
        .into_iter()
        .find_map(|(name, given)| given.then_some(name)),
        Transport::Tls { pki, .. } => pki.is_some().then_some("pkipath"),
        _ => None,
    };
    match refused {
        Some(name) => Err(wrong(format!(
            "'{name}=' in {uri} is for clients: with --p2p the daemon itself goes there, by the configuration of \
             its own ssh and certificates"
        ))),
        None => Ok(uri),
    }
}

/// What the daemon at that URI says of a guest with that document. Nothing is changed there.
pub(super) async fn obstacles(uri: &str, xml: String) -> Result<Vec<Obstacle>> {
    let uri = destination(uri)?;
    let peer = Peer::connect(&uri).await?;
    peer.check().await?;
    let of = PlanOf::Document(xml);
    let planned = peer.client.call(&VirtnicPlan { of }).await;
    let report = planned.map_err(|error| there(&uri, error))?;
    let obstacle = |what: String, why: String, advice: Option<String>| Obstacle {
        there: true,
        what,
        why,
        advice: advice.unwrap_or_else(|| "see virtnic plan there".to_owned()),
    };
    let guest = format!("guest '{}'", report.guest);
    let mut found: Vec<_> = (report.obstacles.into_iter())
        .map(|why| obstacle(guest.clone(), why, None))
        .collect();
    if report.running {
        let why = "it runs there already".to_owned();
        found.push(obstacle(guest, why, Some("end it there".to_owned())));
    }
    for device in report.devices {
        if let PlannedChoice::Refused(refusal) = device.choice {
            let name = device.mac.or(device.alias).unwrap_or_default();
            let what = format!("{} {name}", device.element);
            found.push(obstacle(what, refusal.error, refusal.advice));
        }
    }
    Ok(found)
}

/// A daemon that does not answer for so long is taken for one whose connection broke.
async fn in_time<T>(
    call: impl Future<Output = std::result::Result<T, CallError>>,
) -> std::result::Result<T, CallError> {
    let answered = tokio::time::timeout(ANSWERING, call).await;
    answered.unwrap_or(Err(CallError::Disconnected))
}

fn unreachable(uri: &Uri, why: &str) -> Error {
    let detail = format!("the daemon at {uri} is not reached: {why}");
    Error::new(Code::OperationFailed, QEMU, detail)
}

/// What went wrong over there.
fn there(uri: &Uri, error: CallError) -> Error {
    match error {
        CallError::Refused(error) => error,
        error => {
            let detail = format!("the daemon at {uri}: {}", fault::chain(&error));
            Error::new(Code::OperationFailed, QEMU, detail)
        }
    }
}

/// What the other side is told of what was asked.
fn for_the_other(flags: Flags) -> Flags {
    flags.without(Flags::CHANGE_PROTECTION | Flags::ABORT_ON_ERROR | Flags::AUTO_CONVERGE)
}

impl Daemon {
    /// The whole way, for a client that only waits.
    pub(super) async fn move_to_peer(
        self: &Arc<Self>,
        args: DomainMigratePerform3Params,
    ) -> Result<()> {
        let uri = args.dconnuri.clone().unwrap_or_default();
        let uri = destination(&uri)?;
        // It goes on without who asked for it, whatever becomes of that call.
        let (daemon, dom) = (Arc::clone(self), args.dom.clone());
        let moved = tokio::spawn(async move { daemon.go_to_peer(args, uri).await });
        match moved.await {
            Ok(moved) => moved,
            Err(error) => {
                // Nobody else knows how far it was.
                if let Ok(guest) = self.guest(&dom) {
                    let _ = guest.departing(Departing::Unknown).await;
                }
                Err(crate::blocking::broke_off(QEMU, &error))
            }
        }
    }

    async fn go_to_peer(
        self: &Arc<Self>,
        args: DomainMigratePerform3Params,
        uri: Uri,
    ) -> Result<()> {
        let guest = self.guest(&args.dom)?;
        if args.flags.contains(Flags::OFFLINE) {
            return self.definition_to_peer(args, &uri).await;
        }
        guest.run()?;
        let peer = Peer::connect(&uri).await?;
        peer.check().await?;
        let (dom, params, mut flags) = (args.dom, args.params, args.flags);
        if matches!(guest.run()?.machine.state(), qemu::GuestState::Paused(_)) {
            // As clients do that move a guest themselves.
            flags = flags | Flags::PAUSED;
        }
        let begin = DomainMigrateBegin3Params {
            dom: dom.clone(),
            params: params.clone(),
            flags,
        };
        let begun = self.begin_for(begin, ITSELF).await?;
        let call_off = |cookie: Vec<u8>| DomainMigrateConfirm3Params {
            dom: dom.clone(),
            params: params.clone(),
            cookie_in: cookie,
            flags,
            cancelled: true,
        };
        let MigrateBegin { cookie_out, xml } = begun;
        let own = cookie_out.clone();
        let name = text_of(&params, "destination_name").unwrap_or_else(|| dom.name.clone());
        let prepare = DomainMigratePrepare3Params {
            params: with(
                &params,
                &[("destination_xml", &xml), ("destination_name", &name)],
            ),
            cookie_in: cookie_out.clone(),
            flags: for_the_other(flags),
        };
        let prepared = match in_time(peer.client.call(&prepare)).await {
            Ok(prepared) => prepared,
            Err(error) => {
                self.confirm_migration(call_off(cookie_out), ITSELF).await?;
                return Err(there(&uri, error));
            }
        };
        let finish = |cookie: Vec<u8>, cancelled| DomainMigrateFinish3Params {
            params: with(&params, &[("destination_name", &name)]),
            cookie_in: cookie,
            flags: for_the_other(flags),
            cancelled,
        };
        let MigratePrepare {
            cookie_out: cookie,
            uri_out,
        } = prepared;
        let wanted = text_of(&params, "migrate_uri");
        let is_local = |uri: &String| uri.starts_with("unix:");
        // A socket of this host is for the user to name, not for the other daemon.
        let stream = uri_out
            .filter(|uri| !is_local(uri) || wanted.as_ref().is_some_and(is_local))
            .or(wanted)
            .unwrap_or_default();
        let perform = DomainMigratePerform3Params {
            dom: dom.clone(),
            dconnuri: None,
            params: with(&params, &[("migrate_uri", &stream)]),
            cookie_in: cookie,
            flags: flags.without(Flags::PEER2PEER),
        };
        let sent = match self.perform_for(perform, ITSELF).await {
            Ok(sent) => sent,
            Err(error) => {
                // What it answers is that nothing is left there.
                let _ = in_time(peer.client.call(&finish(Vec::new(), true))).await;
                let _ = self.confirm_migration(call_off(own), ITSELF).await;
                return Err(error);
            }
        };
        let finished = in_time(peer.client.call(&finish(sent.clone(), false))).await;
        let (cookie, error) = match finished {
            Ok(MigrateFinish { .. }) => (sent, None),
            Err(CallError::Refused(error)) if error.code() != Code::OperationAborted => {
                (sent, Some(CallError::Refused(error)))
            }
            // It may run there, or not.
            Err(error) => match self.ask_peer(&peer.uri, &dom).await {
                Some(true) => (sent, None),
                Some(false) => (sent, Some(error)),
                None => {
                    guest.departing(Departing::Unknown).await?;
                    return Err(lost(&dom.name, &uri));
                }
            },
        };
        match error {
            None => {
                let confirm = DomainMigrateConfirm3Params {
                    cancelled: false,
                    ..call_off(cookie)
                };
                let confirmed = self.confirm_migration(confirm, ITSELF).await;
                if confirmed.is_err() {
                    let _ = guest.departing(Departing::Unknown).await;
                }
                confirmed
            }
            Some(error) => {
                self.confirm_migration(call_off(cookie), ITSELF).await?;
                Err(there(&uri, error))
            }
        }
    }

    /// The same, of a guest that is off.
    async fn definition_to_peer(
        self: &Arc<Self>,
        args: DomainMigratePerform3Params,
        uri: &Uri,
    ) -> Result<()> {
        let peer = Peer::connect(uri).await?;
        peer.check().await?;
        let DomainMigratePerform3Params {
            dom, params, flags, ..
        } = args;
        let begin = DomainMigrateBegin3Params {
            dom: dom.clone(),
            params: params.clone(),
            flags,
        };
        let MigrateBegin { cookie_out, xml } = self.begin_for(begin, ITSELF).await?;
        let name = text_of(&params, "destination_name").unwrap_or_else(|| dom.name.clone());
        let brought = async {
            let prepare = DomainMigratePrepare3Params {
                params: with(
                    &params,
                    &[("destination_xml", &xml), ("destination_name", &name)],
                ),
                cookie_in: cookie_out.clone(),
                flags: for_the_other(flags),
            };
            let prepared = in_time(peer.client.call(&prepare)).await;
            let prepared = prepared.map_err(|error| there(uri, error))?;
            let finish = DomainMigrateFinish3Params {
                params: with(&params, &[("destination_name", &name)]),
                cookie_in: prepared.cookie_out,
                flags: for_the_other(flags),
                cancelled: false,
            };
            match in_time(peer.client.call(&finish)).await {
                Ok(_) => Ok(()),
                Err(CallError::Refused(error)) => Err(error),
                Err(error) => {
                    let why = fault::chain(&error);
                    let detail = format!(
                        "whether the definition of guest '{}' is kept at {uri} is not known, so it stays here: {why}",
                        dom.name
                    );
                    Err(Error::new(Code::OperationFailed, QEMU, detail))
                }
            }
        };
        let brought = brought.await;
        let confirm = DomainMigrateConfirm3Params {
            dom: dom.clone(),
            params: params.clone(),
            cookie_in: cookie_out.clone(),
            flags,
            cancelled: brought.is_err(),
        };
        let confirmed = self.confirm_migration(confirm, ITSELF).await;
        brought.and(confirmed)
    }

    /// Asks the other daemon anew whether it has the guest; `None`: it can't be asked.
    async fn ask_peer(&self, uri: &Uri, dom: &Dom) -> Option<bool> {
        let until = Instant::now() + self.patience.peer;
        tracing::warn!(guest = dom.name, %uri, "the connection broke as it was to run there: asking");
        while Instant::now() < until {
            let asked = async { Peer::connect(uri).await.ok()?.has(dom.uuid).await.ok()? };
            if let Ok(Some(has)) = tokio::time::timeout_at(until, asked).await {
                return Some(has);
            }
            // Nothing tells when a daemon can be reached.
            tokio::time::sleep(PAUSE.min(self.patience.peer / 10)).await;
        }
        None
    }
}

/// How long the other daemon may take to say where the guest is.
pub(super) const fn asking() -> Duration {
    ASKING
}

fn lost(guest: &str, uri: &Uri) -> Error {
    let detail = format!(
        "the connection to {uri} broke just as guest '{guest}' was to run there, and nobody answers there: it \
         stays here, halted\nOnce it is known where it runs: virtnic migrate-resolve {guest} --here, or --there."
    );
    Error::new(Code::OperationFailed, QEMU, detail)
}

fn text_of(params: &[TypedParam], field: &str) -> Option<String> {
    let found = params.iter().find(|param| param.field == field);
    match found.map(|param| &param.value) {
        Some(TypedValue::Text(text)) => Some(text.clone()),
        _ => None,
    }
}

/// The named values, with these texts in place of theirs.
fn with(params: &[TypedParam], texts: &[(&str, &str)]) -> Vec<TypedParam> {
    let is_another = |param: &&TypedParam| !texts.iter().any(|(field, _)| param.field == *field);
    let mut all: Vec<_> = params.iter().filter(is_another).cloned().collect();
    all.extend(texts.iter().map(|(field, text)| TypedParam {
        field: (*field).to_owned(),
        value: TypedValue::Text((*text).to_owned()),
    }));
    all
}
