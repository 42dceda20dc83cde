//! Macvtaps and taps, and the device below a macvtap.

mod find;
mod lend;
mod lower;
mod names;
mod plan;
mod restore;
mod state;
mod vlan;

pub(crate) use find::{LowerNow, find_link, lower_now};
pub(crate) use names::name_of;
pub(crate) use state::Changing;
