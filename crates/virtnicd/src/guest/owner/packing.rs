//! The way of a guest's definition to another host and from one, while it is off, in the owner's hands.

use std::sync::Arc;

use super::Owner;
use super::leaving::Leaving;
use crate::guest::definition::WriteWhat;
use crate::guest::handle::Reply;
use crate::guest::life::Life;
use crate::guest::moving::{Departure, HoldWish, Phase, called_off};

impl Owner {
    /// Holds the guest, which is off, for a client that is about to move its definition.
    pub(super) fn pack(&mut self, wish: HoldWish, reply: Reply) {
        let barred = &self.daemon.barred;
        let answer = if self.state.defined.is_none() {
            Err(self.handle.not_running())
        } else if !self.daemon.is_connected(wish.connection) {
            Err(called_off())
        } else {
            // Of one that may run nobody takes the definition away.
            barred.check(self.handle.uuid, &self.handle.name)
        };
        if answer.is_ok() {
            self.state.life = Life::Packed;
            self.state.leaving = Some(Departure {
                id: wish.id,
                phase: Phase::Held,
                connection: Some(wish.connection),
                since: std::time::Instant::now(),
                was_running: false,
                sent: None,
            });
            self.leaving = Leaving::default();
        }
        self.answers.push((reply, answer));
    }

    /// The other host has the definition. Until it is forgotten here, the guest is neither started nor moved.
    pub(super) fn is_unpacked_there(&mut self, undefine: bool, reply: Reply) {
        tracing::info!(
            guest = self.handle.name,
            undefine,
            "its definition is on another host"
        );
        if !undefine {
            self.stays();
            return self.answers.push((reply, Ok(())));
        }
        if let Some(leaving) = &mut self.state.leaving {
            leaving.phase = Phase::Left;
        }
        self.write(WriteWhat::Undefine, Some(reply));
    }

    /// That was tried; it may have failed.
    pub(super) fn may_be_forgotten(&mut self) {
        if self.state.life == Life::Packed {
            self.stays();
        }
    }

    /// Keeps a definition that comes from another host.
    pub(super) fn unpack(&mut self, domain: Arc<conf::Domain>, reply: Reply) {
        let (barred, guest) = (&self.daemon.barred, self.handle.uuid);
        let answer = match self.state.life {
            Life::Off => barred.check(guest, &self.handle.name),
            _ => Err(self.handle.already_active()),
        };
        if let Err(error) = answer {
            return self.answers.push((reply, Err(error)));
        }
        let is_new = self.state.defined.is_none();
        self.write(WriteWhat::Define { domain, is_new }, Some(reply));
    }
}
