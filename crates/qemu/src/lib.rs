//! A guest's QEMU: its command line, its process, its monitor.
//!
//! - [`command_line`] is a pure function: a [`conf::Domain`] whose defaults, aliases and addresses
//!   are filled in, and the [`Resources`] opened for it, become a [`CommandLine`] or everything
//!   that stands in the way of one.
//! - [`Guest::launch`] starts it and returns when it is connected and halted, or runs;
//!   [`Guest::reconnect`] takes up one that an earlier daemon started, by its [`GuestRecord`];
//!   [`Guest::stub`] plays one, for a simulated host.
//! - A [`Guest`] is controlled by its methods and observed by its [`GuestEvents`]. Its end comes
//!   as [`GuestEvent::Exited`], once, as the last event, and when the process really is gone:
//!   then its devices can be taken back.
//! - A guest outlives whoever started it. Dropping a [`Guest`] leaves the process alone.
//!
//! ```no_run
//! # async fn example(domain: conf::Domain) -> Result<(), Box<dyn std::error::Error>> {
//! use qemu::{Guest, GuestEvent, LaunchSpec, Launched};
//!
//! let spec = LaunchSpec::new(domain, "/run/virtnic/guests/web".into(), "/var/log/virtnic/web.log".into());
//! let Launched { guest, mut events, ptys } = Guest::launch(spec).await?;
//! let record = guest.record(); // to be kept, for Guest::reconnect
//! guest.shutdown().await?;
//! while let Some(event) = events.recv().await {
//!     if let GuestEvent::Exited(exit) = event {
//!         assert_eq!(Some(exit), guest.exit());
//!     }
//! }
//! # Ok(()) }
//! ```
//!
//! What a guest's document asks to happen on power-off, reboot and crash is carried out here: QEMU
//! itself stays (`-no-shutdown`) until it is told to go.
//!
//! Nothing here touches sysfs or netlink: host devices and taps come in prepared.

mod command;
mod console;
mod guest;
mod launch;
mod lifecycle;
mod log;
mod process;
mod qmp;
mod record;
mod socket;
mod state;
mod stray;
mod stub;
mod version;

pub use command::{
    CommandLine, CommandLineError, DEFAULT_EMULATOR, Problem, Resources, Taps, command_line,
    hostdev_device, nic_device, nic_netdev,
};
pub use console::{Console, ConsoleError, open_console};
pub use guest::{ControlError, Guest};
pub use launch::{LaunchError, LaunchSpec, Launched, TapFds, channel_path, fill_ptys, memory_lock};
pub use lifecycle::{Action, Lifecycle};
pub use process::ExitStatus;
pub use qmp::{
    BalloonInfo, CharDeviceInfo, EVENT_QUEUE, Event, LINE_LIMIT, Qmp, QmpError, QmpEvents,
    RunState, Timestamp,
};
pub use record::{GuestRecord, ReconnectError};
pub use state::{Exit, ExitReason, GuestEvent, GuestEvents, GuestState, PauseReason};
pub use stray::kill_stray;
pub use version::{emulator_version, machine_aliases};
