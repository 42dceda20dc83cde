//! Lends a device to a guest, and takes it back as it was found.
//!
//! [`Assigner`] owns the one list of what is assigned, whatever its kind and whoever asked: a
//! pool's port, an interface that names its device, a plain host device. Walking devices is
//! walking this list. It also owns the journal: a small file for each item that is not as it was
//! found, written before the first change and removed after the last one was verified.
//!
//! An [`Item`] is a device lent whole, by vfio, over USB or below a macvtap in passthrough mode; or a link
//! that is made for one guest: a macvtap that shares its device with others, or a tap. A device is
//! lent whole once, or shared, never both. A function that was only taken from the host's driver, for
//! nobody yet ([`Assigner::detach`]), is an item of its own beside that.
//!
//! An item's way:
//!
//! ```text
//! claim ──► Claimed ──prepare──► Preparing ──► Lent ──give_back──► Returning ──► (off the list)
//!              │                     │                                 │
//!              └─give_back─► (off)   └─ fails: undone ─► (off)         └─ fails ─► Dirty ─give_back─► …
//! ```
//!
//! - A **claim** is in memory only, and quick: choosing and claiming share one lock of the
//!   caller's. After a restart of the daemon whoever holds claims (a network's ports, by their own
//!   records) claims again, unless [`Assigner::find`] tells that its device is lent already.
//! - From **preparing** on there is a record, until all was verified to be as it was found.
//! - A **dirty** item could not be restored. It stays on the list, with its record, out of every
//!   pool, until [`Assigner::give_back`] of its generation succeeds.
//!
//! Every method blocks, `claim` and the readers excepted for no longer than a map look-up takes.
//! No lock is held while the kernel is asked for anything: two devices are prepared side by side.

mod access;
mod assigner;
mod change;
mod compare;
mod config;
mod detach;
mod device;
mod error;
mod journal;
mod link;
mod list;
mod make_vfs;
mod patience;
mod plan;
mod preparation;
mod prepare;
mod profile;
mod reconcile;
mod record;
mod recover;
mod reseat;
mod restore;
mod settings;
mod step;
mod usb;
mod vf;
mod vfio;

pub use assigner::{Assigner, Claim};
pub use change::ChangeError;
pub use config::{AccessVlan, VfConfig, VfConfigError};
pub use detach::{DetachError, Detached};
pub use device::{Assignment, Generation, Holder, Item, Kind, Origin, ParseGenerationError, Phase};
pub use error::{
    Blocker, ClaimError, ErrorKind, LinkError, Obstacle, OpenError, PrepareError, ReturnError,
    UndoFault, describe_usage,
};
pub use make_vfs::MakeVfsError;
pub use plan::ItemPlan;
pub use preparation::{
    MacvtapPreparation, Preparation, Profile, ProfileId, TapPreparation, VfioPreparation, Vhost,
};
pub use prepare::{Lent, LentKind};
pub use reconcile::{Difference, MendError};
pub use recover::{Finding, Recovery};
pub use reseat::{SeatOwner, TapSeat};
pub use restore::Returned;
pub use step::{Step, VfioUser, VlanSource};
pub use vfio::check_unmanaged;
