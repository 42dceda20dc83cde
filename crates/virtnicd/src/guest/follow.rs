//! What is done about what QEMU tells: a device that it let go is taken back, a receive filter that
//! changed is followed.

use std::collections::BTreeSet;
use std::sync::Arc;

use conf::DeviceRef;
use lending::{Attachment, AttachmentState, Creditor, PortId, Role};
use qemu::Plugged;

use super::QEMU;
use super::handle::{GuestHandle, Run};
use super::{attachment, end, pairs, record, rx_filter, unplug};
use crate::blocking::blocking;
use crate::daemon::Daemon;
use crate::fault;

/// Stands for all filters; no alias is empty.
pub(super) const ALL: &str = "";
/// Stands for what is owed; no alias is empty.
pub(super) const OWED: &str = "";

/// What QEMU told.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Devices that it let go.
    pub(super) deleted: BTreeSet<String>,
    /// Devices that the guest refused to let go.
    pub(super) refused: BTreeSet<String>,
    /// Network cards whose filters changed.
    pub(super) filters: BTreeSet<String>,
}

/// What became of it.
pub(super) struct Followed {
    pub(super) attachments: Vec<Attachment>,
    pub(super) domain: conf::Domain,
    /// Devices that are out of the guest, by alias.
    pub(super) removed: Vec<String>,
    /// Devices that stay, as the guest will have it.
    pub(super) refused: BTreeSet<String>,
}

/// Takes back what QEMU let go of, and asks again for what it still held; then follows filters.
pub(super) async fn follow(
    daemon: &Arc<Daemon>,
    handle: &GuestHandle,
    run: &Run,
    news: News,
) -> Followed {
    let mut run = run.clone();
    let mut removed = Vec::new();
    let News {
        deleted,
        refused,
        filters,
    } = news;
    let mut owed = Vec::new();
    let mut uncleared = BTreeSet::new();
    if deleted.contains(OWED) {
        uncleared.extend(clear_owed(daemon, handle, &run).await);
    }
    for alias in deleted.iter().filter(|alias| *alias != OWED) {
        if !clear(handle, &run, alias).await {
            uncleared.insert(alias.clone());
        }
        let had = attachment::by_alias(&run.attachments, alias).cloned();
        if had.as_ref().is_some_and(pairs::has_no_vf) {
            // QEMU had brought an earlier one back by itself, and what is owed to the host is that.
            continue;
        }
        unplug::mark(
            &mut run.attachments,
            alias,
            AttachmentState::Owed(Creditor::Host),
        );
        match had.filter(|had| stays(&run, had)) {
            Some(had) => {
                let state = pairs::after(had.state);
                let half = pairs::without_vf(&had, state);
                if state == AttachmentState::Owed(Creditor::Guest) {
                    owed.push((half.clone(), had.state));
                }
                pairs::clear(&mut run.domain, alias);
                run.attachments.push(half);
            }
            None => {
                take_out(&mut run, alias);
            }
        }
        removed.push(alias.clone());
    }
    for alias in refused.difference(&deleted) {
        let is_asked = |one: &Attachment| one.state.is_leaving();
        if attachment::by_alias(&run.attachments, alias).is_some_and(is_asked) {
            unplug::mark(&mut run.attachments, alias, AttachmentState::Plugged);
            record::write_or_warn(daemon, handle, &run).await;
        }
        tracing::warn!(guest = handle.name, device = alias, "the guest keeps it");
    }
    if !deleted.is_empty() {
        pairs::direct(daemon, &handle.name, &run.attachments).await;
        // First what the guest has lost, then what the host gets back.
        record::write_or_warn(daemon, handle, &run).await;
        take_back(daemon, handle, &mut run, &uncleared).await;
        record::write_or_warn(daemon, handle, &run).await;
    }
    for (half, was) in owed {
        let (guest, device) = (&handle.name, &half.alias);
        match was {
            AttachmentState::Recalled => {
                tracing::info!(guest, device, "its VF is back: the guest is owed another");
            }
            _ => tracing::warn!(
                guest,
                device,
                "its VF is lost: the guest goes on over the other half, and gets the next that is \
                 free"
            ),
        }
        pairs::promise(daemon, handle.uuid, &run, &half);
    }
    let all = filters.contains(ALL);
    rx_filter::follow(daemon, handle, &run, |alias| all || filters.contains(alias)).await;
    Followed {
        attachments: run.attachments,
        domain: run.domain,
        refused: refused.difference(&deleted).cloned().collect(),
        removed,
    }
}

/// Takes back what was reserved for the VF half of a pair, or promised. `state`: it gets none from now on,
/// or is owed another.
pub(super) async fn drop_reserved(
    daemon: &Arc<Daemon>,
    handle: &GuestHandle,
    run: &Run,
    alias: &str,
    state: AttachmentState,
) -> Followed {
    let mut run = run.clone();
    let had = attachment::by_alias(&run.attachments, alias).cloned();
    if let Some(had) = had {
        daemon.lender.end_promise(had.id);
        run.attachments.retain(|one| one.id != had.id);
        let half = pairs::without_vf(&had, state);
        if state == AttachmentState::Owed(Creditor::Guest) {
            pairs::promise(daemon, handle.uuid, &run, &half);
        }
        run.attachments.push(half);
        pairs::clear(&mut run.domain, alias);
        record::write_or_warn(daemon, handle, &run).await;
        if had.claim.is_some() {
            run.attachments.push(Attachment {
                state: AttachmentState::Owed(Creditor::Host),
                ..had
            });
            take_back(daemon, handle, &mut run, &BTreeSet::new()).await;
        }
        record::write_or_warn(daemon, handle, &run).await;
    }
    Followed {
        attachments: run.attachments,
        domain: run.domain,
        removed: Vec::new(),
        refused: BTreeSet::new(),
    }
}

/// Whether the document keeps a device that QEMU has no more: the VF half of a pair that was not to leave
/// it.
fn stays(run: &Run, had: &Attachment) -> bool {
    had.role == Role::Primary
        && had.state != AttachmentState::Unplugging
        && pairs::other_half(&run.attachments, had).is_some()
}

/// Takes a device out of the document; with the standby of a pair also its other half, which has no VF.
fn take_out(run: &mut Run, alias: &str) {
    let mut gone = vec![alias.to_owned()];
    let mut all = run.attachments.iter();
    let standby = all.find(|one| one.alias == alias && one.role == Role::Standby);
    if let Some(standby) = standby {
        let pair = standby.pair;
        let bare =
            |one: &Attachment| one.pair == pair && one.role == Role::Primary && one.claim.is_none();
        let halves = run.attachments.iter().filter(|one| bare(one));
        gone.extend(halves.map(|one| one.alias.clone()));
        run.attachments.retain(|one| !bare(one));
    }
    for alias in gone {
        if let Some(place) = run.domain.find_alias(&alias)
            && is_pluggable(place)
        {
            run.domain.remove_device(place);
        }
    }
}

/// Whether such a device is one that comes and goes; the ends of others are not ours to follow.
fn is_pluggable(place: DeviceRef) -> bool {
    matches!(
        place,
        DeviceRef::Interface(_) | DeviceRef::Hostdev(_) | DeviceRef::Disk(_)
    )
}

/// Takes away what QEMU has of the host for a device that is gone. True: it has nothing more.
async fn clear(handle: &GuestHandle, run: &Run, alias: &str) -> bool {
    let devices = &run.domain.devices;
    let what = match run.domain.find_alias(alias) {
        Some(DeviceRef::Interface(at)) if !devices.interfaces[at].is_hostdev() => {
            let driver = devices.interfaces[at].driver.as_ref();
            let queues = driver.and_then(|driver| driver.queues).unwrap_or(1);
            Plugged::Interface {
                queues: usize::try_from(queues).unwrap_or(1),
            }
        }
        Some(DeviceRef::Disk(_)) => Plugged::Disk,
        _ => return true,
    };
    clear_of(handle, run, alias, what).await
}

/// The same for what is owed to the host and has a link, which QEMU may have kept its end of. Those that
/// it still has.
async fn clear_owed(daemon: &Arc<Daemon>, handle: &GuestHandle, run: &Run) -> Vec<String> {
    let mut kept = Vec::new();
    for one in &run.attachments {
        let line = one.claim.and_then(|claim| daemon.lender.find(claim));
        let is_link = line.is_some_and(|line| line.netdev.is_some());
        let what = Plugged::Interface { queues: 0 };
        if one.state == AttachmentState::Owed(Creditor::Host)
            && is_link
            && !clear_of(handle, run, &one.alias, what).await
        {
            kept.push(one.alias.clone());
        }
    }
    kept
}

async fn clear_of(handle: &GuestHandle, run: &Run, alias: &str, what: Plugged) -> bool {
    // The next device of that name would stumble over it.
    let cleared = run.machine.clear_leftovers(alias, what).await;
    if let Err(error) = cleared {
        let error = fault::chain(&error);
        tracing::warn!(
            guest = handle.name,
            device = alias,
            error,
            "QEMU keeps its end of it"
        );
        return false;
    }
    true
}

/// Takes back all that is owed to the host, as far as QEMU has closed it.
async fn take_back(
    daemon: &Arc<Daemon>,
    handle: &GuestHandle,
    run: &mut Run,
    uncleared: &BTreeSet<String>,
) {
    let mut kept = Vec::new();
    let others = run.attachments.clone();
    for attachment in std::mem::take(&mut run.attachments) {
        if attachment.state != AttachmentState::Owed(Creditor::Host)
            || uncleared.contains(&attachment.alias)
        {
            kept.push(attachment);
            continue;
        }
        if let Some(claim) = attachment.claim
            && let Err(error) = end::give_back(daemon, claim).await
        {
            tracing::warn!(
                guest = handle.name,
                error,
                "a device that the guest let go is not given back yet"
            );
            ask_once_more(handle, run, &others, &attachment).await;
            kept.push(attachment);
            continue;
        }
        if let Some(PortId { network, port }) = attachment.port {
            let daemon = Arc::clone(daemon);
            let ended = blocking(QEMU, move || daemon.end_port(network, port)).await;
            if let Err(error) = ended {
                tracing::error!(guest = handle.name, %error, "its port stays");
            }
        }
    }
    run.attachments = kept;
}

/// QEMU makes the first VF of a failover pair anew each time that its guest starts anew, asked or not: it
/// has one then that it had let go, unless it came too late.
async fn ask_once_more(handle: &GuestHandle, run: &Run, others: &[Attachment], owed: &Attachment) {
    let its = others
        .iter()
        .find(|one| one.alias == owed.alias && one.id != owed.id);
    if owed.role != Role::Primary || !its.is_some_and(pairs::has_no_vf) {
        return;
    }
    match run.machine.unplug(&owed.alias).await {
        Ok(qemu::Unplugging::NotThere) => {}
        Ok(_) => tracing::warn!(
            guest = handle.name,
            device = owed.alias,
            "QEMU has brought its VF back by itself, and is asked for it once more"
        ),
        Err(error) => {
            let error = fault::chain(&error);
            tracing::warn!(
                guest = handle.name,
                device = owed.alias,
                error,
                "it is not asked for"
            );
        }
    }
}
