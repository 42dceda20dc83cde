//! What a guest is doing, what is being done to it, and what may be asked of it meanwhile.
//!
//! ```text
//!                 start                      launched
//!   Off ──────────────────────► Starting ───────────────► Running ◄──── Found (an earlier daemon's)
//!    ▲                             │ fails, or is ended       │              │
//!    │◄────────────────────────────┘                          │ destroy,     │ its process is gone
//!    │                                                        ▼ or it ends   │
//!    └───────────────────────────────────────────────────── Ending ◄─────────┘
//!
//!   Off ── arrive ──► Starting ──► Arriving ── finish ──► Running ── begin ──► Leaving ── confirm ──► Ending
//!                                                            ▲                    │ called off
//!                                                            └────────────────────┘
//!
//!   Off ── begin, of its definition ──► Packed ── confirm, called off ──► Off
//! ```
//!
//! [`admit`] is the whole table: nothing else decides whether a request is carried out.

/// What a guest is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// It does not run.
    Off,
    /// Its devices are being lent, and QEMU started.
    Starting,
    /// An earlier daemon started it; its process is there, and its monitor has not answered yet.
    Found,
    /// Its QEMU waits for it to come in from another host; it must not run here yet.
    Arriving,
    /// It runs, or is halted.
    Running,
    /// As that, and it is held to go to another host, is on its way there, or has gone.
    Leaving,
    /// Its process is being ended, or is gone and its devices are being taken back.
    Ending,
    /// It does not run, and its definition is held to go to another host.
    Packed,
}

/// What is being done to what runs. The definition on the disk has its own [`Writing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Job {
    /// Nothing.
    None,
    /// It is started.
    Start,
    /// QEMU is asked what became of it while nobody listened.
    TakeStock,
    /// It is halted, let run, or changed.
    Control,
    /// A device is plugged in, or asked back.
    Plug,
    /// What QEMU told is followed: a device that it let go, a receive filter.
    Follow,
    /// It has come in, and is let run.
    Arrive,
    /// Its devices are taken back.
    CleanUp,
}

/// Whether the definition is being written to the disk, or is about to be by the job under way: what that
/// writes was made of the definition as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writing {
    /// No.
    Idle,
    /// Yes.
    Busy,
}

/// What is asked, as far as it matters for whether it can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Start it, here or by what comes in from another host.
    Start,
    /// Let run what has come in, and keep its definition.
    Finish,
    /// Hold it, so that it can go to another host.
    Hold,
    /// Hold it while it is off, so that its definition can.
    Pack,
    /// End it, now.
    Destroy,
    /// Halt it: also on its way to another host.
    Suspend,
    /// Do something to what runs.
    Control,
    /// Change what runs, then its definition.
    ControlAndWrite,
    /// Change its definition alone.
    Write,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It is carried out.
    Now,
    /// It waits for what is under way, and is looked at again then.
    Wait,
    /// What is under way is ended for it.
    Preempt,
    /// It is not carried out.
    Refuse(Reason),
}

/// Why a request is not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It runs, or is about to.
    AlreadyActive,
    /// It does not run.
    NotRunning,
    /// It is on its way from another host, and not here yet.
    Arriving,
    /// It is on its way to another host.
    Leaving,
    /// It is not on its way from another host.
    NotArriving,
    /// Its monitor has not answered yet.
    Silent,
}

/// Whether a request can be carried out now.
pub(crate) fn admit(life: Life, job: Job, writing: Writing, kind: Kind) -> Admission {
    use Admission::{Now, Preempt, Refuse, Wait};
    match (kind, life) {
        // What was handed out stays as it is.
        (Kind::Write, Life::Packed) => Refuse(Reason::Leaving),
        (Kind::Write, _) => match writing {
            Writing::Idle => Now,
            Writing::Busy => Wait,
        },

        (Kind::Start, Life::Off) if job == Job::None => Now,
        // What is left of its last run is being tidied away.
        (Kind::Start, Life::Off | Life::Ending) => Wait,
        (
            Kind::Start,
            Life::Starting | Life::Found | Life::Arriving | Life::Running | Life::Leaving,
        ) => Refuse(Reason::AlreadyActive),

        // It might run there by the time.
        (Kind::Start, Life::Packed) => Refuse(Reason::Leaving),

        (Kind::Finish, Life::Arriving) if job == Job::None && writing == Writing::Idle => Now,
        (Kind::Finish, Life::Arriving) => Wait,
        (Kind::Finish, _) => Refuse(Reason::NotArriving),

        (Kind::Hold, Life::Off | Life::Packed) => Refuse(Reason::NotRunning),
        (Kind::Hold, Life::Starting | Life::Ending) => Wait,
        (Kind::Hold, Life::Running) if job == Job::None => Now,
        (Kind::Hold, Life::Running) => Wait,
        (Kind::Hold, Life::Found) => Refuse(Reason::Silent),

        (Kind::Pack, Life::Off) if job == Job::None && writing == Writing::Idle => Now,
        (Kind::Pack, Life::Off | Life::Ending) => Wait,
        (Kind::Pack, Life::Packed) => Refuse(Reason::Leaving),
        (
            Kind::Pack,
            Life::Starting | Life::Found | Life::Arriving | Life::Running | Life::Leaving,
        ) => Refuse(Reason::AlreadyActive),

        (Kind::Destroy, Life::Off | Life::Packed) => Refuse(Reason::NotRunning),
        (Kind::Destroy, Life::Starting) => Preempt,
        // Its process is ended beside whatever is under way, which ends with that.
        (
            Kind::Destroy,
            Life::Found | Life::Arriving | Life::Running | Life::Leaving | Life::Ending,
        ) => Now,

        (Kind::Suspend | Kind::Control | Kind::ControlAndWrite, Life::Off | Life::Packed) => {
            Refuse(Reason::NotRunning)
        }
        (Kind::Suspend | Kind::Control | Kind::ControlAndWrite, Life::Starting | Life::Ending) => {
            Wait
        }
        (Kind::Suspend, Life::Leaving) => match job {
            Job::None => Now,
            _ => Wait,
        },
        (_, Life::Arriving) => Refuse(Reason::Arriving),
        // What is sent must not change under it.
        (_, Life::Leaving) => Refuse(Reason::Leaving),
        // One whose monitor is silent says so.
        (Kind::ControlAndWrite, Life::Found | Life::Running) if writing == Writing::Busy => Wait,
        (Kind::Suspend | Kind::Control | Kind::ControlAndWrite, Life::Found | Life::Running) => {
            match job {
                Job::None => Now,
                _ => Wait,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    const LIVES: [Life; 8] = [
        Life::Off,
        Life::Starting,
        Life::Found,
        Life::Arriving,
        Life::Running,
        Life::Leaving,
        Life::Ending,
        Life::Packed,
    ];
    const JOBS: [Job; 8] = [
        Job::None,
        Job::Start,
        Job::TakeStock,
        Job::Control,
        Job::Plug,
        Job::Follow,
        Job::Arrive,
        Job::CleanUp,
    ];
    const KINDS: [Kind; 9] = [
        Kind::Start,
        Kind::Finish,
        Kind::Hold,
        Kind::Pack,
        Kind::Destroy,
        Kind::Suspend,
        Kind::Control,
        Kind::ControlAndWrite,
        Kind::Write,
    ];
    const WRITINGS: [Writing; 2] = [Writing::Idle, Writing::Busy];

    proptest! {
        #[test]
        fn an_end_never_waits(life in select(&LIVES[..]), job in select(&JOBS[..]), writing in select(&WRITINGS[..])) {
            prop_assert_ne!(admit(life, job, writing, Kind::Destroy), Admission::Wait);
        }

        #[test]
        fn nothing_but_an_end_begins_beside_a_job(
            life in select(&LIVES[..]), job in select(&JOBS[1..]), writing in select(&WRITINGS[..]),
            kind in select(&KINDS[..]),
        ) {
            let admission = admit(life, job, writing, kind);
            if !matches!(kind, Kind::Destroy | Kind::Write) {
                prop_assert_ne!(admission, Admission::Now);
            }
        }

        #[test]
        fn a_definition_is_written_whatever_runs(life in select(&LIVES[..7]), job in select(&JOBS[..])) {
            prop_assert_eq!(admit(life, job, Writing::Idle, Kind::Write), Admission::Now);
        }

        #[test]
        fn two_writers_never_meet(life in select(&LIVES[..]), job in select(&JOBS[..]), kind in select(&KINDS[..])) {
            let admission = admit(life, job, Writing::Busy, kind);
            if matches!(kind, Kind::Write | Kind::ControlAndWrite | Kind::Finish) {
                prop_assert_ne!(admission, Admission::Now);
            }
        }

        #[test]
        fn what_waits_is_let_in_or_refused_once_all_is_quiet(kind in select(&KINDS[..])) {
            for life in [Life::Off, Life::Arriving, Life::Running, Life::Leaving, Life::Packed] {
                prop_assert_ne!(admit(life, Job::None, Writing::Idle, kind), Admission::Wait);
            }
        }

        #[test]
        fn what_comes_or_goes_is_not_changed(
            life in select(&[Life::Arriving, Life::Leaving][..]), job in select(&JOBS[..]),
            writing in select(&WRITINGS[..]), kind in select(&[Kind::Control, Kind::ControlAndWrite][..]),
        ) {
            prop_assert!(matches!(admit(life, job, writing, kind), Admission::Refuse(_)));
        }

        #[test]
        fn what_is_packed_is_neither_started_nor_changed(
            job in select(&JOBS[..]), writing in select(&WRITINGS[..]), kind in select(&KINDS[..]),
        ) {
            prop_assert!(matches!(admit(Life::Packed, job, writing, kind), Admission::Refuse(_)));
        }

        #[test]
        fn a_guest_runs_once(life in select(&LIVES[1..]), job in select(&JOBS[..]), writing in select(&WRITINGS[..])) {
            prop_assert_ne!(admit(life, job, writing, Kind::Start), Admission::Now);
        }
    }
}
