//! Flags of calls, and lists filtered by them. The numbers are those of libvirt's API.

use std::collections::HashSet;
use std::sync::Arc;

use rpc::{Code, ConnectGetAllDomainStats, Dom, Domain, Error, Iface, Net};

use crate::daemon::Daemon;
use crate::fault::Result;
use crate::guest::GuestHandle;

/// `VIR_CONNECT_LIST_NETWORKS_INACTIVE`; for guests the two are the other way round.
const NETWORK_INACTIVE: u32 = 1;
const NETWORK_ACTIVE: u32 = 2;
const DOMAIN_ACTIVE: u32 = 1;
const DOMAIN_INACTIVE: u32 = 2;
const PERSISTENT: u32 = 4;
const TRANSIENT: u32 = 8;
const NETWORK_AUTOSTART: u32 = 16;
const NETWORK_NO_AUTOSTART: u32 = 32;
const RUNNING: u32 = 16;
const PAUSED: u32 = 32;
const SHUT_OFF: u32 = 64;
const OTHER_STATE: u32 = 128;
const MANAGED_SAVE: u32 = 256;
const NO_MANAGED_SAVE: u32 = 512;
const DOMAIN_AUTOSTART: u32 = 1024;
const DOMAIN_NO_AUTOSTART: u32 = 2048;
const SNAPSHOT: u32 = 4096;
const NO_SNAPSHOT: u32 = 8192;
const CHECKPOINT: u32 = 0x4000;
const NO_CHECKPOINT: u32 = 0x8000;

/// `VIR_NETWORK_XML_INACTIVE`.
pub(super) const XML_INACTIVE: u32 = 1;
/// `VIR_DOMAIN_DESTROY_GRACEFUL`.
pub(super) const DESTROY_GRACEFUL: u32 = 1;
/// `VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP`.
pub(super) const MONITOR_HMP: u32 = 1;
/// `VIR_DOMAIN_DEFINE_VALIDATE`.
pub(super) const DEFINE_VALIDATE: u32 = 1;
/// `VIR_DOMAIN_START_PAUSED`.
pub(super) const START_PAUSED: u32 = 1;
/// `VIR_DOMAIN_START_AUTODESTROY`.
const START_AUTODESTROY: u32 = 2;
/// `VIR_DOMAIN_START_VALIDATE`.
pub(super) const START_VALIDATE: u32 = 16;
/// `VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN`.
const SHUTDOWN_ACPI: u32 = 1;

/// Which of the active and the inactive ones.
#[derive(Debug, Clone, Copy)]
pub(super) enum Which {
    Active,
    Inactive,
}

pub(super) const ACTIVE: Which = Which::Active;
pub(super) const INACTIVE: Which = Which::Inactive;

/// A filter of networks or guests: flags, or which ones.
pub(super) trait Filter: Copy {
    fn networks(self) -> u32;
    fn domains(self) -> u32;
}

impl Filter for u32 {
    fn networks(self) -> u32 {
        self
    }
    fn domains(self) -> u32 {
        self
    }
}

impl Filter for Which {
    fn networks(self) -> u32 {
        match self {
            Which::Active => NETWORK_ACTIVE,
            Which::Inactive => NETWORK_INACTIVE,
        }
    }
    fn domains(self) -> u32 {
        match self {
            Which::Active => DOMAIN_ACTIVE,
            Which::Inactive => DOMAIN_INACTIVE,
        }
    }
}

/// The networks that pass the flags: of each pair that is asked for, one must fit.
pub(super) fn networks(daemon: &Arc<Daemon>, filter: impl Filter) -> Vec<Net> {
    let flags = filter.networks();
    let all = daemon.known_networks();
    let fits = all.into_iter().filter(|network| {
        let (active, persistent) = (network.is_active(), network.is_persistent());
        let autostart =
            flags & (NETWORK_AUTOSTART | NETWORK_NO_AUTOSTART) != 0 && network.autostart();
        [
            &[(NETWORK_ACTIVE, active), (NETWORK_INACTIVE, !active)],
            &[(PERSISTENT, persistent), (TRANSIENT, !persistent)],
            &[
                (NETWORK_AUTOSTART, autostart),
                (NETWORK_NO_AUTOSTART, !autostart),
            ],
        ]
        .into_iter()
        .all(|group| passes(flags, group))
    });
    fits.map(|network| network.net()).collect()
}

/// The guests that pass the flags: of each group that is asked for, one must fit.
pub(super) fn domains(daemon: &Arc<Daemon>, filter: impl Filter) -> Vec<Dom> {
    let flags = filter.domains();
    let all = daemon.known_guests();
    let fits = all.into_iter().filter(|domain| {
        let (active, persistent) = (domain.is_active(), domain.is_persistent());
        let state = domain.state_and_reason().state;
        let autostart =
            flags & (DOMAIN_AUTOSTART | DOMAIN_NO_AUTOSTART) != 0 && domain.view().autostart;
        let (running, paused, off) = (state == 1, state == 3, state == 5);
        let other = !(running || paused || off);
        [
            &[(DOMAIN_ACTIVE, active), (DOMAIN_INACTIVE, !active)][..],
            &[(PERSISTENT, persistent), (TRANSIENT, !persistent)],
            &[
                (RUNNING, running),
                (PAUSED, paused),
                (SHUT_OFF, off),
                (OTHER_STATE, other),
            ],
            &[(MANAGED_SAVE, false), (NO_MANAGED_SAVE, true)],
            &[
                (DOMAIN_AUTOSTART, autostart),
                (DOMAIN_NO_AUTOSTART, !autostart),
            ],
            &[(SNAPSHOT, false), (NO_SNAPSHOT, true)],
            &[(CHECKPOINT, false), (NO_CHECKPOINT, true)],
        ]
        .into_iter()
        .all(|group| passes(flags, group))
    });
    fits.map(|domain| domain.dom()).collect()
}

/// The guests whose numbers a client wants, of those that pass its flags: some, or all. One that is
/// gone by now is left out.
pub(super) fn stats_of(
    daemon: &Arc<Daemon>,
    args: &ConnectGetAllDomainStats,
) -> Vec<Arc<GuestHandle>> {
    // What is above asks for something else than a filter.
    let listed = domains(daemon, args.flags & 0xff);
    let wanted: HashSet<_> = args.doms.iter().map(|dom| dom.uuid).collect();
    let fits = listed
        .into_iter()
        .filter(|dom| wanted.is_empty() || wanted.contains(&dom.uuid));
    fits.filter_map(|dom| daemon.guests.by_uuid(dom.uuid))
        .collect()
}

fn passes(flags: u32, group: &[(u32, bool)]) -> bool {
    let asked = group.iter().any(|(flag, _)| flags & flag != 0);
    !asked || group.iter().any(|(flag, fits)| flags & flag != 0 && *fits)
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
pub(super) fn autodestroy(flags: u32, connection: u64) -> Option<u64> {
    (flags & START_AUTODESTROY != 0).then_some(connection)
}

/// The start of a defined guest.
pub(super) fn start(flags: u32, connection: u64) -> crate::guest::Request {
    crate::guest::Request::Start {
        domain: None,
        paused: flags & START_PAUSED != 0,
        autodestroy: autodestroy(flags, connection),
    }
}

/// Guests are asked to stop through ACPI, the one way that each has.
pub(super) fn only_acpi(flags: u32) -> Result<()> {
    if flags & !SHUTDOWN_ACPI == 0 {
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
        assert!(passes(0, &[(1, false), (2, true)]));
        assert!(passes(1 | 2, &[(1, false), (2, true)]));
        assert!(!passes(1, &[(1, false), (2, true)]));
    }
}
