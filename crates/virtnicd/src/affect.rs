//! What a call changes, or reads: the running object, the kept definition, or both.

use rpc::flags::Affect;
use rpc::{Code, Domain, Error};

use crate::fault::{self, Result};

/// What is changed: at least one of the two, and only what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Affected {
    pub(crate) live: bool,
    pub(crate) config: bool,
}

/// What is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    Live,
    Config,
}

/// The object, as errors about it need it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) domain: Domain,
    /// `domain` or `network`.
    pub(crate) kind: &'a str,
    pub(crate) name: &'a str,
    pub(crate) active: bool,
    pub(crate) persistent: bool,
}

impl Subject<'_> {
    /// What a change with those flags is made to. Without any: to what runs, or else to what would.
    pub(crate) fn affected(&self, flags: impl Into<Affect>) -> Result<Affected> {
        let flags = flags.into();
        let current = !flags.intersects(Affect::LIVE | Affect::CONFIG);
        let affected = Affected {
            live: flags.contains(Affect::LIVE) || (current && self.active),
            config: flags.contains(Affect::CONFIG) || (current && !self.active),
        };
        let Self { kind, name, .. } = self;
        if affected.live && !self.active {
            let detail = format!("{kind} '{name}' is not running");
            return Err(fault::invalid(self.domain, detail));
        }
        if affected.config && !self.persistent {
            let detail = format!("{kind} '{name}' is transient: it has no definition to change");
            return Err(fault::invalid(self.domain, detail));
        }
        Ok(affected)
    }

    /// What a question with those flags is about.
    pub(crate) fn read(&self, flags: impl Into<Affect>) -> Result<Read> {
        let flags = flags.into();
        if flags.contains(Affect::LIVE | Affect::CONFIG) {
            let detail = "the flags 'live' and 'config' exclude each other here";
            return Err(Error::new(Code::InvalidArg, self.domain, detail));
        }
        Ok(match self.affected(flags)? {
            Affected { live: true, .. } => Read::Live,
            Affected { live: false, .. } => Read::Config,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CURRENT: Affect = Affect::NONE;
    const LIVE: Affect = Affect::LIVE;
    const CONFIG: Affect = Affect::CONFIG;

    fn subject(active: bool, persistent: bool) -> Subject<'static> {
        Subject {
            domain: Domain::Network,
            kind: "network",
            name: "n1",
            active,
            persistent,
        }
    }

    #[test]
    fn flags_say_what_is_changed_and_what_is_not_there_is_refused() {
        let both = Affected {
            live: true,
            config: true,
        };
        let live = Affected {
            config: false,
            ..both
        };
        let config = Affected {
            live: false,
            ..both
        };
        for (active, persistent, flags, expected) in [
            (true, true, CURRENT, Some(live)),
            (true, true, LIVE, Some(live)),
            (true, true, CONFIG, Some(config)),
            (true, true, LIVE | CONFIG, Some(both)),
            (false, true, CURRENT, Some(config)),
            (false, true, LIVE, None),
            (false, true, LIVE | CONFIG, None),
            (true, false, CURRENT, Some(live)),
            (true, false, CONFIG, None),
            (true, false, LIVE | CONFIG, None),
        ] {
            let affected = subject(active, persistent).affected(flags);
            assert_eq!(affected.ok(), expected, "{active} {persistent} {flags:?}");
        }
    }

    #[test]
    fn a_question_is_about_one_of_the_two() {
        assert_eq!(subject(true, true).read(CURRENT), Ok(Read::Live));
        assert_eq!(subject(true, true).read(CONFIG), Ok(Read::Config));
        let refused = subject(true, true).read(LIVE | CONFIG).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArg);
    }
}
