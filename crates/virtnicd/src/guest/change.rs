//! Changing a guest that is there: what runs, the definition, or both; all of it or nothing.

use std::fmt;
use std::sync::Arc;

use lending::{Attachment, PortId};

use super::bandwidth::{bandwidth_of, put_bandwidth, shape_interface};
use super::handle::{GuestHandle, Run, View};
use super::interface::Carrier;
use super::links::set_link;
use super::seat::{self, Moves};
use super::{QEMU, medium, record, rx_filter};
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
    On {
        /// A drive's medium changes even where the guest holds its tray locked.
        force: bool,
    },
    Back,
}

/// A change of what runs that was begun: written with the intent, so that the next daemon can bring it to its
/// end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Unfinished {
    /// What is nobody's when it is made.
    pub(super) ports: Vec<PortId>,
    /// The drives whose media it changes, by target.
    pub(super) media: Vec<String>,
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
    let changes = Change::between(&old, &new);
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
    let differs = !changes.is_empty();
    let unfinished = |ports| Unfinished {
        ports,
        media: Change::media(&changes, &new),
    };
    let intent = after(differs.then(|| unfinished(moves.old_ports())));
    match direction {
        Direction::On { .. } => {
            if let Err(error) = record::write(daemon, handle, &intent).await {
                end_ports(daemon, handle, moves.new_ports()).await;
                return Err(error);
            }
        }
        Direction::Back => record::write_or_warn(daemon, handle, &intent).await,
    }
    let mut done = Vec::new();
    let step = |change| Step {
        daemon,
        handle,
        run,
        moves: &moves,
        change,
    };
    // What is taken back is made, too, step by step.
    let on = match direction {
        Direction::On { .. } => direction,
        Direction::Back => Direction::On { force: true },
    };
    for change in &changes {
        let Err(error) = step(*change).make(&old, &new, on).await else {
            done.push(*change);
            continue;
        };
        let mut left = None;
        for change in done.into_iter().rev() {
            let undone = step(change).make(&new, &old, Direction::Back).await;
            if let Err(error) = undone {
                tracing::error!(guest = handle.name, %error, "a change is not undone");
                // The next daemon tries once more.
                left = Some(unfinished(moves.new_ports()));
            }
        }
        record::write_or_warn(daemon, handle, &before(left)).await;
        end_ports(daemon, handle, moves.new_ports()).await;
        return Err(error);
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
pub(super) async fn put_right(
    daemon: &Arc<Daemon>,
    handle: &GuestHandle,
    run: &Run,
    unfinished: &Unfinished,
) -> Result<()> {
    seat::put_right(daemon, run).await?;
    for drive in &run.domain.devices.disks {
        if unfinished.media.contains(&drive.target) {
            medium::put_in(daemon, handle, run, drive, true).await?;
        }
    }
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

/// What is changed by itself, at a place of the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Interface(usize, Part),
    Medium(usize),
}

impl Change {
    /// Those that make one document of what runs another.
    fn between(old: &conf::Domain, new: &conf::Domain) -> Vec<Self> {
        let mut all = Vec::new();
        let (old, new) = (&old.devices, &new.devices);
        for (at, (old, new)) in old.interfaces.iter().zip(&new.interfaces).enumerate() {
            let parts = Part::of(old, new).into_iter();
            all.extend(parts.map(|part| Self::Interface(at, part)));
        }
        for (at, (old, new)) in old.disks.iter().zip(&new.disks).enumerate() {
            all.extend(medium::is_other(old, new).then_some(Self::Medium(at)));
        }
        all
    }

    /// The drives whose media change.
    fn media(changes: &[Self], domain: &conf::Domain) -> Vec<String> {
        let media = changes.iter().filter_map(|change| match change {
            Self::Medium(at) => domain.devices.disks.get(*at),
            Self::Interface(..) => None,
        });
        media.map(|disk| disk.target.clone()).collect()
    }
}

/// One change.
struct Step<'a> {
    daemon: &'a Arc<Daemon>,
    handle: &'a GuestHandle,
    run: &'a Run,
    moves: &'a Moves,
    change: Change,
}

impl Step<'_> {
    async fn make(
        &self,
        old: &conf::Domain,
        new: &conf::Domain,
        direction: Direction,
    ) -> Result<()> {
        let (daemon, handle, run) = (self.daemon, self.handle, self.run);
        let (place, part) = match self.change {
            Change::Interface(place, part) => (place, part),
            Change::Medium(place) => {
                // Who takes it back does so a moment later, whatever the guest began with it.
                let force = direction != Direction::On { force: false };
                let drive = &new.devices.disks[place];
                return medium::put_in(daemon, handle, run, drive, force).await;
            }
        };
        let (old, new) = (
            &old.devices.interfaces[place],
            &new.devices.interfaces[place],
        );
        match part {
            Part::Link => set_link(daemon, run, new).await,
            Part::Seat => {
                let moves = self.moves;
                moves.carry_out(daemon, run, place, direction).await
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
        let disks = (self.old.devices.disks.iter()).zip(&self.new.devices.disks);
        for (old, new) in disks.filter(|(old, new)| medium::is_other(old, new)) {
            let mut disks = reverted.devices.disks.iter_mut();
            if let Some(disk) = disks.find(|one| one.target == new.target)
                && !medium::is_other(disk, new)
            {
                disk.clone_from(old);
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
