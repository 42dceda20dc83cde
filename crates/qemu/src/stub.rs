//! A guest that is none, for a simulated host.

use crate::state::Observed;
use crate::{ControlError, Exit, ExitReason, GuestEvent, GuestEvents, GuestState, PauseReason};

/// States, and nothing behind them.
#[derive(Debug)]
pub(crate) struct Stub {
    pub(crate) name: String,
    pub(crate) observed: Observed,
}

impl Stub {
    pub(crate) fn new(name: &str, paused: bool) -> (Self, GuestEvents) {
        let state = if paused {
            GuestState::Paused(PauseReason::Starting)
        } else {
            GuestState::Running
        };
        let (observed, events) = Observed::new(state);
        let stub = Self {
            name: name.to_owned(),
            observed,
        };
        (stub, events)
    }

    pub(crate) fn lacks(&self, what: &'static str) -> ControlError {
        ControlError::Simulated {
            name: self.name.clone(),
            what,
        }
    }

    pub(crate) fn resume(&self) -> Result<(), ControlError> {
        self.running()?;
        self.observed.become_(GuestState::Running);
        Ok(())
    }

    pub(crate) fn suspend(&self) -> Result<(), ControlError> {
        self.running()?;
        if self.observed.state() == GuestState::Running {
            let paused = GuestState::Paused(PauseReason::User);
            self.observed.become_(paused);
        }
        Ok(())
    }

    /// It obeys its power button at once.
    pub(crate) fn shutdown(&self) -> Result<(), ControlError> {
        self.running()?;
        self.end(ExitReason::Shutdown { by_guest: true });
        Ok(())
    }

    pub(crate) fn reset(&self) -> Result<(), ControlError> {
        self.running()?;
        self.observed.tell(GuestEvent::Rebooted { by_guest: false });
        Ok(())
    }

    /// It has no card that would notice.
    pub(crate) fn set_link(&self) -> Result<(), ControlError> {
        self.running()
    }

    pub(crate) fn destroy(&self) -> Exit {
        match self.observed.exit() {
            Some(exit) => exit,
            None => self.end(ExitReason::Destroyed),
        }
    }

    fn end(&self, reason: ExitReason) -> Exit {
        let exit = Exit {
            reason,
            status: None,
        };
        self.observed.end(exit);
        exit
    }

    fn running(&self) -> Result<(), ControlError> {
        match self.observed.exit() {
            None => Ok(()),
            Some(_) => Err(ControlError::Ended {
                name: self.name.clone(),
            }),
        }
    }
}
