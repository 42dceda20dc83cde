//! Changing a guest that is there: what runs, the definition, or both; all of it or nothing.

use std::fmt;
use std::sync::Arc;

use lending::{Attachment, PortId};

use super::bandwidth::{bandwidth_of, put_bandwidth, shape_interface};
use super::handle::{GuestHandle, Run, View};
use super::interface::Carrier;
use super::links::set_link;
use super::seat::{self, Moves};
use super::{QEMU, record, rx_filter};
use crate::affect::{Affected, Read};
use crate::blocking::blocking;
use crate::daemon::Daemon;
use crate::fault::{self, Result};

/// What is made of a document; told which one, and what the guest is like.
pub(crate) struct Edit(Box<EditFn>);

type EditFn = dyn Fn(&mut conf::Domain, Read, &View) -> Result<()> + Send + Sync;

impl Edit {
    pub(super) fn new(
        edit: impl Fn(&mut conf::Domain, Read, &View) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self(Box::new(edit))
    }
}

impl fmt::Debug for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Edit")
    }
}

/// Whether a change is made or taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    On,
    Back,
}

/// A change of what runs that was carried out.
#[derive(Debug)]
pub(super) struct LiveChange {
    pub(super) old: conf::Domain,
    pub(super) new: conf::Domain,
    /// What the guest has then.
    attachments: Vec<Attachment>,
}

/// What runs before and after, and the definition after.
type Documents = (
    Option<(conf::Domain, conf::Domain)>,
    Option<Arc<conf::Domain>>,
);

/// The changed documents. Nothing is touched yet.
pub(super) fn documents(view: &View, affected: Affected, edit: &Edit) -> Result<Documents> {
    let live = view.run.as_ref().filter(|_| affected.live);
    let live = match live {
        Some(run) => {
            let mut new = run.domain.clone();
            edit.0(&mut new, Read::Live, view)?;
            new.check_kept().map_err(fault::document(QEMU))?;
            Some((run.domain.clone(), new))
        }
        None => None,
    };
    let config = match view.defined.as_ref().filter(|_| affected.config) {
        Some(defined) => {
            let mut config = conf::Domain::clone(defined);
            edit.0(&mut config, Read::Config, view)?;
            config.check_kept().map_err(fault::document(QEMU))?;
            Some(Arc::new(config))
        }
        None => None,
    };
    Ok((live, config))
}

/// Makes what runs like its new document. Recorded before it is so: whoever takes over knows what may
/// be; what is taken back need not be, and is recorded as soon as it can be. What fails is undone.
pub(super) async fn follow(
    daemon: &Arc<Daemon>,
    handle: &GuestHandle,
    run: &Run,
    old: conf::Domain,
    new: conf::Domain,
    direction: Direction,
) -> Result<LiveChange> {
    let (moves, old, new) = plan_moves(daemon, run, old, new, direction).await?;
    let attachments = moves.apply_to(&run.attachments);
    let pairs = || (old.devices.interfaces.iter()).zip(&new.devices.interfaces);
    let differs = pairs().any(|(before, after)| !Part::of(before, after).is_empty());
    let before = |changing| Run {
        domain: old.clone(),
        changing,
        ..run.clone()
    };
    let after = |changing| Run {
        domain: new.clone(),
        attachments: attachments.clone(),
        changing,
        ..run.clone()
    };
    let intent = after(differs.then(|| moves.old_ports()));
    match direction {
        Direction::On => {
            if let Err(error) = record::write(daemon, handle, &intent).await {
                end_ports(daemon, handle, moves.new_ports()).await;
                return Err(error);
            }
        }
        Direction::Back => record::write_or_warn(daemon, handle, &intent).await,
    }
    let mut done = Vec::new();
    for (place, (before_it, after_it)) in pairs().enumerate() {
        for part in Part::of(before_it, after_it) {
            let step = Step {
                daemon,
                handle,
                run,
                moves: &moves,
                place,
                part,
            };
            let Err(error) = step.make(before_it, after_it, Direction::On).await else {
                done.push((step, before_it, after_it));
                continue;
            };
            let mut left = None;
            for (step, before_it, after_it) in done.into_iter().rev() {
                let undone = step.make(after_it, before_it, Direction::Back).await;
                if let Err(error) = undone {
                    tracing::error!(guest = handle.name, %error, "a change is not undone");
                    // The next daemon tries once more.
                    left = Some(moves.new_ports());
                }
            }
            record::write_or_warn(daemon, handle, &before(left)).await;
            end_ports(daemon, handle, moves.new_ports()).await;
            return Err(error);
        }
    }
    end_ports(daemon, handle, moves.old_ports()).await;
    if differs {
        record::write_or_warn(daemon, handle, &after(None)).await;
    }
    Ok(LiveChange {
        old,
        new,
        attachments,
    })
}

async fn plan_moves(
    daemon: &Arc<Daemon>,
    run: &Run,
    old: conf::Domain,
    mut new: conf::Domain,
    direction: Direction,
) -> Result<(Moves, conf::Domain, conf::Domain)> {
    let (daemon, run) = (Arc::clone(daemon), run.clone());
    blocking(QEMU, move || {
        let moves = Moves::plan(&daemon, &run, &old, &mut new, direction)?;
        Ok((moves, old, new))
    })
    .await?
}

async fn end_ports(daemon: &Arc<Daemon>, handle: &GuestHandle, ports: Vec<PortId>) {
    if ports.is_empty() {
        return;
    }
    let on_networks = Arc::clone(daemon);
    let ended = blocking(QEMU, move || seat::end_ports(&on_networks, &ports)).await;
    if let Err(error) = ended {
        tracing::error!(guest = handle.name, %error, "ports stay that are nobody's");
    }
}

/// Makes all that a change could have changed as the document says, whatever it is now.
pub(super) async fn put_right(daemon: &Arc<Daemon>, handle: &GuestHandle, run: &Run) -> Result<()> {
    seat::put_right(daemon, run).await?;
    for interface in &run.domain.devices.interfaces {
        match Carrier::of(interface, run, &daemon.lender) {
            // Not every driver has such a thing; those that have were asked for it.
            Carrier::Vf { .. } if interface.link_up.is_some() => {
                set_link(daemon, run, interface).await?;
            }
            Carrier::Link { .. } => {
                shape_interface(daemon, handle, run, interface, interface).await?;
            }
            Carrier::Vf { .. } | Carrier::Nothing => {}
        }
    }
    rx_filter::put_right(daemon, handle, run).await
}

/// A part of an interface that is changed by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Link,
    Seat,
    Bandwidth,
    Trust,
}

impl Part {
    /// Those in which two documents differ.
    fn of(old: &conf::Interface, new: &conf::Interface) -> Vec<Self> {
        let mut parts = Vec::new();
        let mut note = |differs: bool, part| parts.extend(differs.then_some(part));
        note(old.link_up != new.link_up, Self::Link);
        note(seat::is_moved(old, new), Self::Seat);
        note(bandwidth_of(old) != bandwidth_of(new), Self::Bandwidth);
        let trusted = (rx_filter::is_trusted(old), rx_filter::is_trusted(new));
        note(trusted.0 != trusted.1, Self::Trust);
        parts
    }
}

/// One change of one interface.
struct Step<'a> {
    daemon: &'a Arc<Daemon>,
    handle: &'a GuestHandle,
    run: &'a Run,
    moves: &'a Moves,
    place: usize,
    part: Part,
}

impl Step<'_> {
    async fn make(
        &self,
        old: &conf::Interface,
        new: &conf::Interface,
        direction: Direction,
    ) -> Result<()> {
        let (daemon, handle, run) = (self.daemon, self.handle, self.run);
        match self.part {
            Part::Link => set_link(daemon, run, new).await,
            Part::Seat => {
                let moves = self.moves;
                moves.carry_out(daemon, run, self.place, direction).await
            }
            Part::Bandwidth => shape_interface(daemon, handle, run, old, new).await,
            Part::Trust => rx_filter::set_trust(daemon, handle, run, new).await,
        }
    }
}

impl LiveChange {
    /// The guest as it is now.
    pub(super) fn apply_to(&self, run: &mut Run) {
        run.domain.clone_from(&self.new);
        run.attachments.clone_from(&self.attachments);
    }

    /// What runs now, with this change taken back and later ones kept.
    pub(super) fn reverted(&self, now: &conf::Domain) -> conf::Domain {
        let mut reverted = now.clone();
        let changed = (self.old.devices.interfaces.iter()).zip(&self.new.devices.interfaces);
        for (old, new) in changed.filter(|(old, new)| old != new) {
            let interfaces = reverted.devices.interfaces.iter_mut();
            let mut its = interfaces.filter(|one| one.info.alias == new.info.alias);
            let Some(interface) = its.next() else {
                continue;
            };
            if interface == new {
                interface.clone_from(old);
                continue;
            }
            if interface.link_up == new.link_up {
                interface.link_up = old.link_up;
            }
            if bandwidth_of(interface) == bandwidth_of(new) {
                put_bandwidth(interface, bandwidth_of(old).cloned());
            }
        }
        if reverted.title == self.new.title {
            reverted.title.clone_from(&self.old.title);
        }
        if reverted.description == self.new.description {
            reverted.description.clone_from(&self.old.description);
        }
        if reverted.metadata == self.new.metadata {
            reverted.metadata.clone_from(&self.old.metadata);
        }
        reverted
    }
}
