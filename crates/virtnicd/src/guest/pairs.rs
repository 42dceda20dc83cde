//! Pairs: one interface of a guest, two devices, one MAC. The standby stays; the VF comes and goes.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use assign::Origin;
use conf::{Domain, HybridGuest, Teaming, Uuid};
use lending::{
    Attachment, AttachmentState, Creditor, DevicePlan, Outcome, PfPlace, Promise, Role, Share,
    Subject, attachment_holder,
};
use rpc::{Code, Error};
use tokio::sync::mpsc;

use super::QEMU;
use super::handle::{GuestHandle, Request, Run};
use crate::blocking::blocking;
use crate::daemon::Daemon;
use crate::fault::{self, Result};

/// Whether the device is a VF that QEMU gets only when the guest has negotiated failover, or when there is
/// one, or when the guest has come (`arrives`) from another host.
pub(super) fn is_withheld(domain: &Domain, attachment: &Attachment, arrives: bool) -> bool {
    attachment.role == Role::Primary
        && attachment.pair.is_some()
        && (arrives
            || has_no_vf(attachment)
            || guest_of(domain, attachment) == HybridGuest::Failover)
}

/// Whether it is the VF half of a pair, without a VF.
pub(super) fn has_no_vf(one: &Attachment) -> bool {
    one.role == Role::Primary
        && matches!(
            one.state,
            AttachmentState::Demoted | AttachmentState::Owed(Creditor::Guest)
        )
}

/// Whether it is the VF half of a pair, and QEMU has its VF.
pub(crate) fn is_plugged_vf(one: &Attachment) -> bool {
    one.role == Role::Primary
        && one.reserved.is_none()
        && !matches!(
            one.state,
            AttachmentState::Owed(_) | AttachmentState::Demoted | AttachmentState::Planned
        )
}

/// Who joins the halves of its pair.
pub(super) fn guest_of(domain: &Domain, attachment: &Attachment) -> HybridGuest {
    match teaming_of(domain, attachment) {
        Some(Teaming::Transient { .. } | Teaming::Persistent) => HybridGuest::Failover,
        None => HybridGuest::Bond,
    }
}

fn teaming_of<'a>(domain: &'a Domain, attachment: &Attachment) -> Option<&'a Teaming> {
    let devices = &domain.devices;
    let its = |alias: &Option<String>| alias.as_ref() == Some(&attachment.alias);
    match attachment.subject {
        Subject::Interface => (devices.interfaces.iter())
            .find(|one| its(&one.info.alias))
            .and_then(|one| one.teaming.as_ref()),
        Subject::HostDevice => (devices.hostdevs.iter())
            .find(|one| its(&one.info.alias))
            .and_then(|one| one.teaming.as_ref()),
    }
}

/// Makes a new VF half one pair with the standby that the guest has already, where its document names
/// one.
pub(super) fn join(domain: &Domain, primary: &mut Attachment, others: &mut [Attachment]) {
    let Some(Teaming::Transient { persistent }) = teaming_of(domain, primary) else {
        return;
    };
    let mut standbys = others.iter_mut();
    if let Some(standby) = standbys.find(|one| one.alias == *persistent) {
        standby.role = Role::Standby;
        standby.pair = standby.pair.or(primary.pair);
        primary.pair = standby.pair;
    }
}

/// A VF that is not plugged in with the others: reserved for the guest, or owed to it.
pub(super) fn reserve(attachment: &mut Attachment, plan: &DevicePlan) {
    match &plan.outcome {
        Outcome::Lend(planned) => {
            attachment.state = AttachmentState::Planned;
            attachment.reserved = planned.share.device();
        }
        Outcome::Owed(_) => {
            attachment.state = AttachmentState::Owed(Creditor::Guest);
            attachment.owed_since = Some(now());
        }
        Outcome::Alone | Outcome::Refused(_) => {}
    }
}

/// What the VF half of a pair is once QEMU has let its VF go, by what it was before.
pub(super) fn after(asked: AttachmentState) -> AttachmentState {
    match asked {
        AttachmentState::Demoting => AttachmentState::Demoted,
        // It was lost, or its PF is drained: the guest gets another.
        _ => AttachmentState::Owed(Creditor::Guest),
    }
}

/// The attachment of a VF half that has no VF.
pub(super) fn without_vf(had: &Attachment, state: AttachmentState) -> Attachment {
    Attachment {
        id: Uuid::new_v4(),
        port: None,
        claim: None,
        reserved: None,
        owed_since: (state == AttachmentState::Owed(Creditor::Guest)).then(now),
        state,
        ..had.clone()
    }
}

fn now() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// The document of a VF half that has no VF.
pub(super) fn clear(domain: &mut Domain, alias: &str) {
    let mut its = domain.devices.interfaces.iter_mut();
    let its = its.find(|one| one.info.alias.as_deref() == Some(alias));
    if let Some(interface) = its {
        (interface.actual, interface.host_address) = (None, None);
    }
}

/// The other half of a pair.
pub(super) fn other_half<'a>(
    attachments: &'a [Attachment],
    one: &Attachment,
) -> Option<&'a Attachment> {
    let pair = one.pair?;
    let mut all = attachments.iter();
    all.find(|other| {
        other.pair == Some(pair)
            && other.role != one.role
            && other.state != AttachmentState::Owed(Creditor::Host)
    })
}

/// Has the other macvtaps on a PF find a guest where it listens: over the card while it has its VF, on its
/// standby otherwise. It is in other guests' way only, so that a failure is told and no more.
pub(super) async fn direct(daemon: &Arc<Daemon>, guest: &str, attachments: &[Attachment]) {
    let is_here =
        |one: &Attachment| one.state == AttachmentState::Plugged || one.state.is_leaving();
    let standbys = attachments
        .iter()
        .filter(|one| one.role == Role::Standby && is_here(one));
    let wanted: Vec<_> = standbys
        .filter_map(|standby| {
            let has_vf = other_half(attachments, standby).is_some_and(is_here);
            Some((standby.alias.clone(), standby.claim?, has_vf))
        })
        .collect();
    if wanted.is_empty() {
        return;
    }
    let asked = Arc::clone(daemon);
    let directed = blocking(QEMU, move || {
        let each = wanted.into_iter().map(|(alias, claim, has_vf)| {
            let done = asked.lender.bypass(claim, has_vf);
            done.map_err(|error| (alias, fault::chain(&error)))
        });
        each.filter_map(std::result::Result::err)
            .collect::<Vec<_>>()
    });
    for (alias, error) in directed.await.unwrap_or_default() {
        tracing::warn!(
            guest,
            alias,
            error,
            "other guests on its PF may not reach it"
        );
    }
}

/// The PF that the standby of a VF half is on, which its VF has to be of; none: it is not known.
pub(crate) fn pf_of(daemon: &Daemon, run: &Run, primary: &Attachment) -> Option<PfPlace> {
    let standby = other_half(&run.attachments, primary)?;
    let line = daemon.lender.find(standby.claim?)?;
    let parent = line.parent.or(line.item.device())?;
    let address = parent.pci()?;
    let netdev = daemon.lender.name_of(parent);
    Some(PfPlace { address, netdev })
}

/// Whether the guest would see a VF that QEMU gets now.
pub(super) fn is_ready(run: &Run, primary: &Attachment) -> bool {
    match guest_of(&run.domain, primary) {
        HybridGuest::Bond => true,
        HybridGuest::Failover => other_half(&run.attachments, primary)
            .is_some_and(|standby| run.negotiated.contains(&standby.alias)),
    }
}

/// Promises the guest a VF of the PF that its standby is on.
pub(super) fn promise(daemon: &Daemon, guest: Uuid, run: &Run, owed: &Attachment) {
    if let Some(pf) = pf_of(daemon, run, owed) {
        promise_of(daemon, guest, &pf, owed);
    }
}

/// Promises the guest a VF of that PF.
pub(super) fn promise_of(daemon: &Daemon, guest: Uuid, pf: &PfPlace, owed: &Attachment) {
    daemon.lender.promise(Promise {
        attachment: owed.id,
        guest,
        pf: pf.address,
        since: owed.owed_since.unwrap_or(0),
    });
}

/// What was reserved for a guest of an earlier daemon is so again, and what was promised is. Blocks.
pub(super) fn take_up(daemon: &Daemon, name: &str, guest: Uuid, run: &mut Run) {
    let mut attachments = run.attachments.clone();
    for attachment in &mut attachments {
        let Some(device) = attachment.reserved else {
            continue;
        };
        let of_port = attachment.port.and_then(|port| daemon.claim_of(port));
        let claim = of_port.map_or_else(
            || {
                let holder = attachment_holder(guest, name, attachment);
                let origin = match attachment.subject {
                    Subject::Interface => Origin::Interface,
                    Subject::HostDevice => Origin::HostDevice,
                };
                daemon.lender.claim(Share::Whole(device), &holder, origin)
            },
            Ok,
        );
        match claim {
            Ok(claim) => attachment.claim = Some(claim),
            Err(error) => {
                tracing::warn!(guest = name, %device, "not reserved any more: {error}");
                *attachment = without_vf(attachment, AttachmentState::Owed(Creditor::Guest));
            }
        }
    }
    run.attachments = attachments;
    promise_all(daemon, guest, run);
}

/// Promises all VFs that a guest waits for, in the order in which they first were.
pub(super) fn promise_all(daemon: &Daemon, guest: Uuid, run: &Run) {
    for one in &run.attachments {
        if one.state == AttachmentState::Owed(Creditor::Guest) {
            promise(daemon, guest, run, one);
        }
    }
}

impl Daemon {
    /// Has guests that were promised a VF look for one when one may be had, the oldest promise of those
    /// that can use one first.
    pub(crate) fn keep_promises(self: &Arc<Self>) {
        let (sender, mut free) = mpsc::unbounded_channel();
        self.lender.tell_free(move |pf| {
            // Nobody hears it any more once the daemon stops.
            let _ = sender.send(pf);
        });
        let daemon = Arc::downgrade(self);
        tokio::spawn(async move {
            while let Some(pf) = free.recv().await {
                let Some(daemon) = daemon.upgrade() else {
                    return;
                };
                let can_use = |promise: &Promise| {
                    let guest = daemon.guests.by_uuid(promise.guest);
                    guest.is_some_and(|guest| can_use(&guest, promise.attachment))
                };
                for promise in daemon.lender.due(pf, can_use) {
                    if let Some(guest) = daemon.guests.by_uuid(promise.guest) {
                        guest.vf_free().await;
                    }
                }
            }
        });
    }
}

/// Whether a guest that was promised a VF would be given one that is free now.
fn can_use(guest: &GuestHandle, attachment: Uuid) -> bool {
    let view = guest.view();
    view.run.as_ref().is_some_and(|run| {
        let mut all = run.attachments.iter();
        let its = all.find(|one| one.id == attachment);
        its.is_some_and(|one| is_ready(run, one) && !view.held.contains(&one.alias))
    })
}

/// There is no such pair.
pub(super) fn no_pair(guest: &str, alias: &str) -> Error {
    let detail = format!("guest '{guest}' has no pair whose VF is '{alias}'");
    Error::new(Code::DeviceMissing, QEMU, detail)
}

/// What is done to the VF half of a pair by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It is plugged in.
    Promote,
    /// It is taken out, and the guest goes on over the other half until somebody promotes it.
    Demote,
    /// The same, until its PF lends again.
    Recall,
}

/// Plugs the VFs of a running guest's pairs in, or takes them out: of all, or of that with the MAC. One
/// after the other; the first that fails ends it.
pub(crate) async fn turn(
    handle: &Arc<GuestHandle>,
    mac: Option<conf::MacAddress>,
    turn: Turn,
) -> Result<Vec<String>> {
    let view = handle.view();
    let run = view.run.as_ref().ok_or_else(|| {
        let detail = format!("guest '{}' is not running", handle.name);
        fault::invalid(QEMU, detail)
    })?;
    let primaries = run.attachments.iter().filter(|one| {
        one.role == Role::Primary
            && one.state != AttachmentState::Owed(Creditor::Host)
            && mac.is_none_or(|mac| mac_of(run, one) == Some(mac))
    });
    let aliases: Vec<_> = primaries.map(|one| one.alias.clone()).collect();
    if aliases.is_empty() {
        let which = mac.map_or_else(String::new, |mac| format!(" with MAC {mac}"));
        let detail = format!("guest '{}' has no pair{which}", handle.name);
        return Err(Error::new(Code::DeviceMissing, QEMU, detail));
    }
    for alias in &aliases {
        let alias = alias.clone();
        handle.request(Request::Turn { alias, turn }).await?;
    }
    Ok(aliases)
}

/// Takes the VF of a pair out of a running guest, which is owed another.
pub(crate) async fn recall(handle: &GuestHandle, alias: String) -> Result<()> {
    let turn = Turn::Recall;
    handle.request(Request::Turn { alias, turn }).await
}

/// A pair's MAC; that of a plain host device is its standby's.
fn mac_of(run: &Run, primary: &Attachment) -> Option<conf::MacAddress> {
    primary
        .mac
        .or_else(|| other_half(&run.attachments, primary)?.mac)
}
