//! What can go wrong with a simulated guest.

use std::time::Duration;

/// How a simulated guest behaves that is not well. By default it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Faults {
    /// From its start until its monitor greets.
    pub start_takes: Duration,
    /// It ends at its start, with these words in its log.
    pub refuses_to_start: Option<String>,
    /// How its monitor answers.
    pub monitor: Answers,
    /// Commands that its monitor refuses, such as `device_add`.
    pub refused_commands: Vec<String>,
    /// Commands that its monitor refuses once, each after it has carried out that many: one entry for
    /// each time.
    pub refused_once: Vec<(u32, String)>,
    /// Commands that it carries out, and answers, only after that long: one entry for each time. What
    /// comes after them waits, too.
    pub delayed_once: Vec<(String, Duration)>,
    /// Commands that it carries out without an answer: one entry for each time.
    pub unanswered_once: Vec<String>,
    /// Commands that its QEMU, which is older, doesn't have.
    pub unknown_commands: Vec<String>,
    /// The kernel doesn't let its process lock more memory.
    pub keeps_memory_lock: bool,
    /// What becomes of a device that it is asked to let go.
    pub unplug: Unplug,
    /// Its memory changes faster than a migration sends it, as long as this is so.
    pub migration_stays: bool,
    /// A migration of it fails before the guest is halted.
    pub migration_fails: bool,
    /// How long it takes to end a migration that is cancelled.
    pub cancel_takes: Duration,
    /// It takes what comes in of a guest, and loads it only when this is no longer so.
    pub load_stays: bool,
    /// The words of features that its CPU has, as QEMU would tell them; `None`: it doesn't.
    pub cpu_features: Option<serde_json::Value>,
    /// It can't load what comes in of a guest.
    pub load_fails: bool,
    /// Its power button does nothing.
    pub ignores_power_button: bool,
    /// SIGTERM does nothing.
    pub ignores_sigterm: bool,
    /// SIGKILL does nothing, as for a process that waits for a device.
    pub ignores_sigkill: bool,
}

impl Faults {
    /// Its monitor refuses that command once.
    #[must_use]
    pub fn refuse(self, command: &str) -> Self {
        self.refuse_after(0, command)
    }

    /// Its monitor refuses that command once, after it has carried out that many.
    #[must_use]
    pub fn refuse_after(mut self, carried_out: u32, command: &str) -> Self {
        self.refused_once.push((carried_out, command.to_owned()));
        self
    }

    /// Its monitor carries that command out, and answers it, only after that long, once.
    #[must_use]
    pub fn delay(mut self, command: &str, delay: Duration) -> Self {
        self.delayed_once.push((command.to_owned(), delay));
        self
    }

    /// Its monitor carries that command out once, and never answers it.
    #[must_use]
    pub fn swallow(mut self, command: &str) -> Self {
        self.unanswered_once.push(command.to_owned());
        self
    }
}

/// How a monitor answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Answers {
    /// At once.
    #[default]
    AtOnce,
    /// Each command after that long.
    After(Duration),
    /// Not at all, and it tells nothing, until its faults are others.
    Never,
}

/// What becomes of a device that a guest is asked to let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unplug {
    /// It goes at once.
    #[default]
    AtOnce,
    /// It goes after that long.
    After(Duration),
    /// It goes with [`SimulatedGuest::release`](super::SimulatedGuest::release).
    WhenReleased,
    /// The guest says that it keeps it.
    Refused,
    /// It goes at once, and nobody is told.
    Silently,
}
