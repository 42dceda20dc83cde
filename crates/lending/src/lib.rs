//! Who has what of the host: where `pool` chooses and `assign` lends, under one lock, so that a
//! device is never promised twice.
//!
//! The [`Ledger`] is the one account of what is claimed and lent; the pool's is a view that follows
//! it. Every method blocks where it says that it asks the host, and holds no lock meanwhile: the
//! caller decides on which thread. Nothing here knows how clients are answered; each error says
//! what is wrong, and by `advice` what a person can do about it.

mod attachment;
mod bridge;
mod changes;
mod claims;
mod devices;
mod error;
mod holder;
mod ledger;
mod members;
mod plan;
mod promises;
mod refusal;
mod reseat;
mod state;
mod survey;
mod usb;
mod vfs;
mod wish;

#[cfg(test)]
mod tests;

pub use assign::{ClaimError, TapSeat};
pub use attachment::{Attachment, AttachmentState, Creditor, PortId, Role, Subject};
pub use bridge::{BridgeError, check_bridge};
pub use changes::Vanished;
pub use claims::{Claims, Trial, TrialClaim};
pub use devices::{Unusable, device_named};
pub use error::{ChooseError, PrepareError, chain};
pub use holder::{attachment_holder, port_holder};
pub use ledger::{Chosen, Ledger, PfPlace, PoolRequest};
pub use members::OpenPoolError;
pub use plan::{
    DevicePlan, GuestPlan, MOST_DEVICES, Networks, Note, Outcome, OwedDevice, PlanContext,
    PlannedDevice, PlannedPort, Wanted, plan, plan_devices, plan_reserved,
};
pub use pool::Source;
pub use promises::Promise;
pub use refusal::{DeviceRefusal, GuestObstacle, Lendable, NetworkProblem, PlanRefusal};
pub use reseat::{merge_again, plan_move, seat_of};
pub use state::{Share, whole_or_part};
pub use usb::{UsbError, UsbName};
pub use vfs::MakeVfsError;
pub use wish::{Lack, PortSource, WishError, check_host_port};
