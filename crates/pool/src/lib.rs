//! Which device a port gets, and why.
//!
//! [`Pool`] knows the host's PFs and VFs, the networks that lend them, and the loans. It is pure:
//! others tell it what appeared, what was claimed and what was given back, and it answers
//! [`Pool::choose`] with a device or with a [`Refusal`] that explains itself. It looks at nothing.
//!
//! A VF is known by its PCI address, and is one device however many networks name it: a loan
//! takes it out of all of them at once. Loans are kept apart from the devices, so that a device
//! that vanishes while it is lent, and comes back, is still lent.
//!
//! What a choice costs: one look at each PF of the network (at most 128 on any real host) and one
//! search in one PF's ordered set of free VFs. The number of VFs and of networks hardly matters.

mod choose;
mod inventory;
mod network;
mod refusal;
mod table;

pub use choose::{Choice, Closeness, Request};
pub use inventory::{Health, Holder, PfInfo, PfUpdate, Pool, Taken, VfInfo};
pub use network::{Members, NetworkSpec};
pub use refusal::{Refusal, RefusalCause};
pub use table::{Explanation, Note, PfRow, Verdict};
