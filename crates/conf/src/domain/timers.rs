//! `<timer>`s of a guest's `<clock>`.

use crate::tree::Tree;
use crate::xml::{Element, Keyword, keywords};
use crate::{Error, ErrorKind, Faults};

/// `<timer>`: how one of the guest's clocks behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timer {
    /// The clock that is meant.
    pub name: TimerName,
    /// Whether the guest has it.
    pub present: Option<bool>,
    /// What becomes of ticks that came too late.
    pub tick_policy: Option<TickPolicy>,
}

/// `timer/@name`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the words are the document's")]
pub enum TimerName {
    Platform,
    Pit,
    Rtc,
    Hpet,
    Tsc,
    KvmClock,
    HypervClock,
    ArmvTimer,
}

/// `timer/@tickpolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TickPolicy {
    /// They come late.
    Delay,
    /// They come faster until time is right again.
    Catchup,
    /// Several become one.
    Merge,
    /// They are left out.
    Discard,
}

keywords!(TimerName {
    Platform = "platform",
    Pit = "pit",
    Rtc = "rtc",
    Hpet = "hpet",
    Tsc = "tsc",
    KvmClock = "kvmclock",
    HypervClock = "hypervclock",
    ArmvTimer = "armvtimer",
});
keywords!(TickPolicy {
    Delay = "delay",
    Catchup = "catchup",
    Merge = "merge",
    Discard = "discard",
});

impl Timer {
    /// All of a `<clock>`; of two for the same clock the second is a fault.
    pub(super) fn read_all(clock: Element<'_>, faults: &mut Faults) -> Vec<Self> {
        let mut timers: Vec<Self> = Vec::new();
        // There are no more of them than names, so each is looked up in no time.
        faults.each(clock.children_named("timer"), |element| {
            timers.push(Self::read(element, &timers)?);
            Ok(())
        });
        timers
    }

    fn read(element: Element<'_>, before: &[Self]) -> Result<Self, Error> {
        let name = element
            .keyword::<TimerName>("name")?
            .ok_or_else(|| element.missing(ErrorKind::Xml, "name"))?;
        if before.iter().any(|timer| timer.name == name) {
            let word = name.word();
            let message = format!("<clock> has more than one <timer name='{word}'>");
            return Err(element.error(ErrorKind::ConfigUnsupported, message));
        }
        Ok(Self {
            name,
            present: element.yes_no("present")?,
            tick_policy: element.keyword("tickpolicy")?,
        })
    }

    pub(super) fn tree(&self) -> Tree<'_> {
        let mut tree = Tree::new("timer").with("name", self.name.word());
        tree.yes_no("present", self.present);
        tree.optional("tickpolicy", self.tick_policy.map(Keyword::word));
        tree
    }

    /// What of it QEMU has no word for.
    pub(super) fn lacking(&self) -> Option<String> {
        use TickPolicy::{Catchup, Delay, Discard};

        let policies: &[TickPolicy] = match self.name {
            TimerName::Rtc => &[Delay, Catchup],
            TimerName::Pit => &[Delay, Catchup, Discard],
            TimerName::Hpet => &[Delay],
            TimerName::KvmClock | TimerName::HypervClock => &[],
            TimerName::Platform | TimerName::Tsc | TimerName::ArmvTimer => {
                return Some(format!("@name='{}'", self.name.word()));
            }
        };
        // A PC has both, whatever its document says.
        if matches!(self.name, TimerName::Rtc | TimerName::Pit) && self.present == Some(false) {
            return Some("@present='no'".to_owned());
        }
        match self.tick_policy {
            Some(policy) if !policies.contains(&policy) => {
                Some(format!("@tickpolicy='{}'", policy.word()))
            }
            _ => None,
        }
    }
}
