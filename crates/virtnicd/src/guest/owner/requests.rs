//! What is asked of the guest: of which kind it is, and how what was let in begins.

use lending::AttachmentState;
use rpc::Error;
use rpc::flags::Affect;

use super::Owner;
use crate::affect::Affected;
use crate::fault::{self, Result};
use crate::guest::definition::WriteWhat;
use crate::guest::handle::{Reply, Request};
use crate::guest::life::{Admission, Kind, Life, Reason};
use crate::guest::pairs::Turn;
use crate::guest::{QEMU, moving};

impl Owner {
    pub(super) fn kind_of(&self, request: &Request) -> Kind {
        match request {
            Request::Start { .. } | Request::Arrive(_) => Kind::Start,
            Request::Finish(_) => Kind::Finish,
            Request::Hold(_) => Kind::Hold,
            Request::Pack(_) => Kind::Pack,
            Request::Destroy { .. } => Kind::Destroy,
            Request::Suspend => Kind::Suspend,
            Request::Resume | Request::Turn { .. } => Kind::Control,
            Request::Change { flags, .. }
            | Request::Update { flags, .. }
            | Request::Attach { flags, .. } => match self.state.life {
                Life::Off | Life::Packed => Kind::Write,
                _ => match self.affected(*flags) {
                    Ok(Affected {
                        live: true,
                        config: true,
                    }) => Kind::ControlAndWrite,
                    Ok(Affected { live: false, .. }) => Kind::Write,
                    _ => Kind::Control,
                },
            },
            // The definition loses it when the guest has.
            Request::Detach { flags, .. } => match self.affected(*flags) {
                Ok(Affected { live: true, .. }) => Kind::Control,
                _ => Kind::Write,
            },
            Request::Define(_)
            | Request::Unpack(_)
            | Request::TakeIn(..)
            | Request::Undefine
            | Request::Autostart(_) => Kind::Write,
        }
    }

    pub(in crate::guest) fn affected(&self, flags: Affect) -> Result<Affected> {
        self.state.subject(&self.handle.name).affected(flags)
    }

    pub(super) fn refusal(&self, admission: Admission) -> Error {
        match admission {
            Admission::Refuse(Reason::AlreadyActive) => self.handle.already_active(),
            Admission::Refuse(Reason::Arriving) => moving::is_arriving(&self.handle.name),
            Admission::Refuse(Reason::Leaving) => moving::is_leaving(&self.handle.name),
            Admission::Refuse(Reason::NotArriving) => moving::comes_not(&self.handle.name),
            Admission::Refuse(Reason::Silent) => moving::is_silent(&self.handle.name),
            _ => self.handle.not_running(),
        }
    }

    /// Begins what was let in.
    pub(super) fn carry_out(&mut self, request: Request, reply: Reply) {
        match request {
            Request::Start {
                domain,
                paused,
                autodestroy,
            } => {
                let domain = match (domain, &self.state.defined) {
                    (Some(domain), _) => *domain,
                    (None, Some(defined)) => conf::Domain::clone(defined),
                    (None, None) => {
                        let error = self.handle.not_running();
                        return self.answers.push((reply, Err(error)));
                    }
                };
                self.start(domain, (paused, autodestroy), None, reply);
            }
            Request::Arrive(wish) => {
                let domain = wish.domain.clone();
                self.start(domain, (true, None), Some(wish), reply);
            }
            Request::Finish(wish) => self.finish(wish, reply),
            Request::Hold(wish) => self.hold_to_move(wish, reply),
            Request::Pack(wish) => self.pack(wish, reply),
            Request::Unpack(domain) => self.unpack(domain, reply),
            Request::Destroy { gracefully } => self.end(gracefully, Some(reply)),
            Request::Suspend | Request::Resume => self.control(&request, reply),
            Request::Change { flags, edit } => match self.affected(flags) {
                Ok(affected) => self.change(affected, &edit, reply),
                Err(error) => self.answers.push((reply, Err(error))),
            },
            Request::Update {
                flags,
                device,
                force,
            } => match self.affected(flags) {
                Ok(affected) => self.update(affected, device, force, reply),
                Err(error) => self.answers.push((reply, Err(error))),
            },
            Request::Attach { flags, device } => match self.affected(flags) {
                Ok(affected) => self.attach(affected, device, reply),
                Err(error) => self.answers.push((reply, Err(error))),
            },
            Request::Detach {
                flags,
                meant,
                waits,
                as_pair,
            } => match self.affected(flags) {
                Ok(affected) => self.detach(affected, meant, (waits, as_pair), reply),
                Err(error) => self.answers.push((reply, Err(error))),
            },
            Request::Turn { alias, turn } => match turn {
                Turn::Promote => self.promote_by_hand(alias, reply),
                Turn::Demote => self.demote(alias, AttachmentState::Demoting, reply),
                Turn::Recall => self.demote(alias, AttachmentState::Recalled, reply),
            },
            Request::Define(domain) => {
                let is_new = self.state.defined.is_none();
                self.write(WriteWhat::Define { domain, is_new }, Some(reply));
            }
            Request::TakeIn(..) if self.state.defined.is_some() => {
                self.answers.push((reply, Ok(())));
            }
            Request::TakeIn(found, domain) => {
                self.write(WriteWhat::TakeIn(found, domain), Some(reply));
            }
            Request::Undefine if self.state.defined.is_none() => {
                let error = fault::invalid(QEMU, "cannot undefine transient domain");
                self.answers.push((reply, Err(error)));
            }
            Request::Undefine => self.write(WriteWhat::Undefine, Some(reply)),
            Request::Autostart(_) if self.state.defined.is_none() => {
                let error = fault::invalid(QEMU, "cannot set autostart for transient domain");
                self.answers.push((reply, Err(error)));
            }
            Request::Autostart(wanted) => self.write(WriteWhat::Autostart(wanted), Some(reply)),
        }
    }
}
