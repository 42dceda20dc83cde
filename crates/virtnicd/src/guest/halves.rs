//! What a person is told of a guest's pairs: how far each half is, and whether the guest's driver has joined
//! them.

use std::sync::Arc;
use std::time::Duration;

use conf::HybridGuest;
use lending::{Attachment, AttachmentState, Creditor, Role};
use qemu::GuestState;
use rpc::PairHalf;
use tokio::time::Instant;

use super::handle::{GuestHandle, Run};
use super::owner::Owner;
use super::pairs;
use crate::daemon::Daemon;

/// How long a guest may take from its start until its driver has joined its pairs.
pub(crate) const TIME_TO_JOIN: Duration = Duration::from_secs(60);

/// What a guest's driver needs for that.
pub(super) const ADVICE: &str = "Its virtio driver has to take VIRTIO_NET_F_STANDBY: Linux does since 4.18, with \
                      CONFIG_NET_FAILOVER. A guest that bonds the halves itself needs a pair with \
                      <virtnic:hybrid guest='bond'/>.";

/// A half of a pair as clients are told of it; none: the device is in no pair.
pub(crate) fn half_of(run: &Run, one: &Attachment) -> Option<PairHalf> {
    let pair = one.pair?;
    let (role, standby) = match one.role {
        Role::Sole => return None,
        Role::Standby => ("standby", Some(one)),
        Role::Primary => ("primary", pairs::other_half(&run.attachments, one)),
    };
    let negotiated = match pairs::guest_of(&run.domain, one) {
        HybridGuest::Bond => None,
        HybridGuest::Failover => {
            Some(standby.is_some_and(|standby| run.negotiated.contains(&standby.alias)))
        }
    };
    let is_late = negotiated == Some(false) && run.is_unjoined;
    Some(PairHalf {
        pair,
        role: role.to_owned(),
        negotiated,
        advice: is_late.then(|| advice(&run.domain.name)),
    })
}

/// How far the VF half of a pair is that has no VF; none: it has one, or is none.
pub(crate) fn without_vf(one: &Attachment) -> Option<&'static str> {
    match one.state {
        _ if one.role != Role::Primary => None,
        AttachmentState::Owed(Creditor::Guest) => Some("owed"),
        AttachmentState::Demoted => Some("parted"),
        _ => None,
    }
}

/// What the owner of a running guest should know of its pairs, a line each.
pub(super) fn messages(daemon: &Daemon, run: &Run) -> Vec<String> {
    let mut messages = Vec::new();
    for one in &run.attachments {
        let Some(state) = without_vf(one) else {
            continue;
        };
        let (alias, guest) = (&one.alias, &run.domain.name);
        messages.push(match state {
            "owed" => {
                let of = pairs::pf_of(daemon, run, one).map_or_else(String::new, |pf| {
                    let is_drained = daemon.lender.is_drained(pf.address);
                    let drained = if is_drained { ", which is drained" } else { "" };
                    format!(" of {}{drained}", pf.netdev)
                });
                format!("note: it runs on virtio without its VF '{alias}', and gets the next{of}")
            }
            _ => format!(
                "note: its VF '{alias}' was taken from it, and it runs on virtio until: virtnic \
                 promote {guest}"
            ),
        });
    }
    if run.is_unjoined && !unjoined(run).is_empty() {
        let advice = advice(&run.domain.name).replace('\n', ". ");
        messages.push(format!("note: {advice}"));
    }
    messages
}

/// Standbys that the guest's driver has not joined with a VF.
fn unjoined(run: &Run) -> Vec<&str> {
    let standbys = run.attachments.iter().filter(|one| {
        one.role == Role::Standby
            && pairs::guest_of(&run.domain, one) == HybridGuest::Failover
            && !run.negotiated.contains(&one.alias)
    });
    standbys.map(|one| one.alias.as_str()).collect()
}

fn advice(guest: &str) -> String {
    format!(
        "guest '{guest}' has not negotiated failover, so that the VF of its pair is kept from it\n{ADVICE}"
    )
}

impl Owner {
    /// Gives the guest's driver time to join its pairs, once for each start.
    pub(super) fn give_time_to_join(&mut self) {
        let is_new = self.joins_by.is_none();
        let run = self.state.run.as_ref().filter(|run| !run.is_unjoined);
        if is_new && run.is_some_and(|run| !unjoined(run).is_empty()) {
            self.joins_by = Some(Instant::now() + self.daemon.time_to_join);
        }
    }

    /// The guest starts anew, and so does its driver's time.
    pub(super) fn joins_anew(&mut self) {
        if let Some(run) = &mut self.state.run {
            let run = Arc::make_mut(run);
            run.negotiated.clear();
            run.is_unjoined = false;
        }
        self.joins_by = None;
        self.give_time_to_join();
    }

    /// The time is over: says so if the guest's driver has not joined them.
    pub(super) fn had_time_to_join(&mut self) {
        self.joins_by = None;
        let Some(run) = &mut self.state.run else {
            return;
        };
        let left: Vec<_> = unjoined(run).into_iter().map(str::to_owned).collect();
        if left.is_empty() {
            return;
        }
        if run.machine.state() != GuestState::Running {
            // It was halted, for some of the time at least.
            return self.give_time_to_join();
        }
        Arc::make_mut(run).is_unjoined = true;
        let (guest, standbys) = (&self.handle.name, left.join(", "));
        tracing::warn!(guest, standbys, "{}", advice(guest));
    }
}

impl Daemon {
    /// Halves of pairs that have no VF: the guest, what runs, and the half.
    pub(crate) fn halves_without_vf(&self) -> Vec<(Arc<GuestHandle>, Arc<Run>, Attachment)> {
        let mut found = Vec::new();
        for guest in self.guests.all() {
            let Some(run) = guest.view().run.clone() else {
                continue;
            };
            let bare = run
                .attachments
                .iter()
                .filter(|one| without_vf(one).is_some());
            found.extend(bare.map(|one| (Arc::clone(&guest), Arc::clone(&run), one.clone())));
        }
        found
    }
}
