//! Lists, filtered by the flags of calls.

use std::collections::HashSet;
use std::sync::Arc;

use rpc::flags::{ListDomains, ListNetworks, ShutDownDomain, StartDomain};
use rpc::{Code, ConnectGetAllDomainStats, Dom, Domain, Error, Iface, Net, NodeDev};

use crate::daemon::Daemon;
use crate::fault::Result;
use crate::guest::{GuestHandle, Request};

/// Which of the active and the inactive ones.
#[derive(Debug, Clone, Copy)]
pub(super) enum Which {
    Active,
    Inactive,
}

pub(super) const ACTIVE: Which = Which::Active;
pub(super) const INACTIVE: Which = Which::Inactive;

impl From<Which> for ListNetworks {
    fn from(which: Which) -> Self {
        match which {
            Which::Active => Self::ACTIVE,
            Which::Inactive => Self::INACTIVE,
        }
    }
}

impl From<Which> for ListDomains {
    fn from(which: Which) -> Self {
        match which {
            Which::Active => Self::ACTIVE,
            Which::Inactive => Self::INACTIVE,
        }
    }
}

/// The networks that pass the flags: of each pair that is asked for, one must fit.
pub(super) fn networks(daemon: &Arc<Daemon>, flags: impl Into<ListNetworks>) -> Vec<Net> {
    type Flags = ListNetworks;
    let flags = flags.into();
    let all = daemon.known_networks();
    let fits = all.into_iter().filter(|network| {
        let (active, persistent) = (network.is_active(), network.is_persistent());
        let autostart =
            flags.intersects(Flags::AUTOSTART | Flags::NO_AUTOSTART) && network.autostart();
        [
            &[(Flags::ACTIVE, active), (Flags::INACTIVE, !active)],
            &[
                (Flags::PERSISTENT, persistent),
                (Flags::TRANSIENT, !persistent),
            ],
            &[
                (Flags::AUTOSTART, autostart),
                (Flags::NO_AUTOSTART, !autostart),
            ],
        ]
        .into_iter()
        .all(|group| passes(group, |flag| flags.contains(flag)))
    });
    fits.map(|network| network.net()).collect()
}

/// The guests that pass the flags: of each group that is asked for, one must fit.
pub(super) fn domains(daemon: &Arc<Daemon>, flags: impl Into<ListDomains>) -> Vec<Dom> {
    type Flags = ListDomains;
    let flags = flags.into();
    let all = daemon.known_guests();
    let fits = all.into_iter().filter(|domain| {
        let (active, persistent) = (domain.is_active(), domain.is_persistent());
        let state = domain.state_and_reason().state;
        let autostart =
            flags.intersects(Flags::AUTOSTART | Flags::NO_AUTOSTART) && domain.view().autostart;
        let (running, paused, off) = (state == 1, state == 3, state == 5);
        let other = !(running || paused || off);
        [
            &[(Flags::ACTIVE, active), (Flags::INACTIVE, !active)][..],
            &[
                (Flags::PERSISTENT, persistent),
                (Flags::TRANSIENT, !persistent),
            ],
            &[
                (Flags::RUNNING, running),
                (Flags::PAUSED, paused),
                (Flags::SHUT_OFF, off),
                (Flags::OTHER, other),
            ],
            &[(Flags::MANAGED_SAVE, false), (Flags::NO_MANAGED_SAVE, true)],
            &[
                (Flags::AUTOSTART, autostart),
                (Flags::NO_AUTOSTART, !autostart),
            ],
            &[(Flags::HAS_SNAPSHOT, false), (Flags::NO_SNAPSHOT, true)],
            &[(Flags::HAS_CHECKPOINT, false), (Flags::NO_CHECKPOINT, true)],
        ]
        .into_iter()
        .all(|group| passes(group, |flag| flags.contains(flag)))
    });
    fits.map(|domain| domain.dom()).collect()
}

/// The guests whose numbers a client wants, of those that pass its flags: some, or all. One that is
/// gone by now is left out.
pub(super) fn stats_of(
    daemon: &Arc<Daemon>,
    args: &ConnectGetAllDomainStats,
) -> Vec<Arc<GuestHandle>> {
    let listed = domains(daemon, args.flags);
    let wanted: HashSet<_> = args.doms.iter().map(|dom| dom.uuid).collect();
    let fits = listed
        .into_iter()
        .filter(|dom| wanted.is_empty() || wanted.contains(&dom.uuid));
    fits.filter_map(|dom| daemon.guests.by_uuid(dom.uuid))
        .collect()
}

fn passes<F: Copy>(group: &[(F, bool)], is_set: impl Fn(F) -> bool) -> bool {
    let mut asked = group.iter().filter(|(flag, _)| is_set(*flag)).peekable();
    asked.peek().is_none() || asked.any(|(_, fits)| *fits)
}

/// How many, as the old calls count.
pub(super) fn count<T>(items: &[T]) -> i32 {
    i32::try_from(items.len()).unwrap_or(i32::MAX)
}

/// An object with a name.
pub(super) trait WithName {
    fn into_name(self) -> String;
}

impl WithName for Net {
    fn into_name(self) -> String {
        self.name
    }
}

impl WithName for Iface {
    fn into_name(self) -> String {
        self.name
    }
}

impl WithName for NodeDev {
    fn into_name(self) -> String {
        self.name
    }
}

impl WithName for String {
    fn into_name(self) -> String {
        self
    }
}

impl WithName for Dom {
    fn into_name(self) -> String {
        self.name
    }
}

/// As many names as the client has room for.
pub(super) fn names(items: Vec<impl WithName>, max: i32) -> Vec<String> {
    items
        .into_iter()
        .take(usize::try_from(max).unwrap_or(0))
        .map(WithName::into_name)
        .collect()
}

/// As many ids as the client has room for.
pub(super) fn ids(items: &[Dom], max: i32) -> Vec<i32> {
    items
        .iter()
        .take(usize::try_from(max).unwrap_or(0))
        .map(|dom| dom.id)
        .collect()
}

/// The connection with whose end a guest is to end, if it is to.
pub(super) fn autodestroy(flags: StartDomain, connection: u64) -> Option<u64> {
    (flags.contains(StartDomain::AUTODESTROY)).then_some(connection)
}

/// The start of a defined guest.
pub(super) fn start(flags: StartDomain, connection: u64) -> Request {
    Request::Start {
        domain: None,
        paused: flags.contains(StartDomain::PAUSED),
        autodestroy: autodestroy(flags, connection),
    }
}

/// Post-copy is not carried out, so that none can be ended.
pub(super) fn no_post_copy(flags: rpc::flags::AbortJob) -> Result<()> {
    if flags.contains(rpc::flags::AbortJob::POSTCOPY) {
        let detail = "no post-copy migration is under way";
        return Err(crate::fault::invalid(rpc::Domain::Qemu, detail));
    }
    Ok(())
}

/// Guests are asked to stop through ACPI, the one way that each has.
pub(super) fn only_acpi(flags: ShutDownDomain) -> Result<()> {
    if flags == ShutDownDomain::NONE || flags == ShutDownDomain::ACPI_POWER_BUTTON {
        return Ok(());
    }
    let detail = "guests are shut down through ACPI; other modes need an agent in the guest";
    Err(Error::new(
        Code::ArgumentUnsupported,
        Domain::Domain,
        detail,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_group_one_must_fit() {
        let group = [(1, false), (2, true)];
        for (flags, expected) in [(0, true), (1, false), (2, true), (1 | 2, true)] {
            assert_eq!(
                passes(&group, |flag| flags & flag != 0),
                expected,
                "{flags}"
            );
        }
    }
}
