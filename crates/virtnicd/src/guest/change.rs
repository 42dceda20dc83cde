//! Changing a guest that is there: what runs, the definition, or both; all of it or nothing.

use std::fmt;
use std::sync::Arc;

use super::bandwidth::{bandwidth_of, put_bandwidth, shape_interface};
use super::handle::{GuestHandle, Run, View};
use super::update_device::set_link;
use super::{QEMU, record};
use crate::affect::{Affected, Read};
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

/// Makes what runs like its new document: links and rates are all that changes by itself. Recorded
/// before it is so: whoever takes over knows what may be; what is taken back need not be, and is
/// recorded as soon as it can be. What fails is undone.
pub(super) async fn follow(
    daemon: &Arc<Daemon>,
    handle: &GuestHandle,
    run: &Run,
    old: conf::Domain,
    new: conf::Domain,
    direction: Direction,
) -> Result<LiveChange> {
    let with = |domain: &conf::Domain| Run {
        domain: domain.clone(),
        ..run.clone()
    };
    match direction {
        Direction::On => record::write(daemon, handle, &with(&new)).await?,
        Direction::Back => record::write_or_warn(daemon, handle, &with(&new)).await,
    }
    let pairs = (old.devices.interfaces.iter()).zip(&new.devices.interfaces);
    let mut done = Vec::new();
    for (before, after) in pairs {
        if let Err(error) = follow_interface(daemon, handle, run, before, after).await {
            for (before, after) in done.into_iter().rev() {
                let undone = follow_interface(daemon, handle, run, after, before).await;
                if let Err(error) = undone {
                    tracing::error!(guest = handle.name, %error, "a change is not undone");
                }
            }
            record::write_or_warn(daemon, handle, &with(&old)).await;
            return Err(error);
        }
        done.push((before, after));
    }
    Ok(LiveChange { old, new })
}

async fn follow_interface(
    daemon: &Arc<Daemon>,
    handle: &GuestHandle,
    run: &Run,
    old: &conf::Interface,
    new: &conf::Interface,
) -> Result<()> {
    if old.link_up != new.link_up {
        set_link(daemon, run, new).await?;
    }
    if bandwidth_of(old) != bandwidth_of(new) {
        let shaped = shape_interface(daemon, handle, run, old, new).await;
        if shaped.is_err() && old.link_up != new.link_up {
            set_link(daemon, run, old).await?;
        }
        shaped?;
    }
    Ok(())
}

impl LiveChange {
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
