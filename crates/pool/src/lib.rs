//! Which device a port gets, and why.
//!
//! [`Pool`] knows the host's PFs with their VFs, its other network devices, the networks that
//! lend them, and who has what. It is pure: others tell it what appeared, what was claimed and
//! what was given back, and it answers [`Pool::choose`] with a device or with a [`Refusal`] that
//! explains itself. It looks at nothing.
//!
//! A device is lent whole, to one guest ([`Pool::claim`]), or shared by many as the parent of
//! their macvtaps ([`Pool::share`]); never both. It is one device however many networks name it:
//! a loan counts in all of them at once. Loans are kept apart from the devices, so that a device
//! that vanishes while it is lent, and comes back, is still lent.
//!
//! What a choice costs: one look at each PF of the network (at most 128 on any real host), one
//! at the plain devices of each NUMA node, and a search in an ordered set for each. The number
//! of VFs, of plain devices and of networks hardly matters.

mod choose;
mod index;
mod inventory;
mod loans;
mod network;
mod promises;
mod refusal;
mod table;

pub use choose::{Choice, Closeness, Place, Request, Source};
pub use inventory::{Health, NicInfo, PfInfo, Pool, Update, VfInfo};
pub use loans::{Holder, ShareId, Taken, Uses};
pub use network::{Members, NetworkSpec, Sharing, called, is_synthetic, synthetic};
pub use refusal::{Refusal, RefusalCause};
pub use table::{Explanation, NicRow, Note, PfRow, Row, Verdict};
