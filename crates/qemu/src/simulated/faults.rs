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
    /// What becomes of a device that it is asked to let go.
    pub unplug: Unplug,
    /// Its power button does nothing.
    pub ignores_power_button: bool,
    /// SIGTERM does nothing.
    pub ignores_sigterm: bool,
    /// SIGKILL does nothing, as for a process that waits for a device.
    pub ignores_sigkill: bool,
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
