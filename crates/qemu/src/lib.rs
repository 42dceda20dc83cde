//! A guest's QEMU: its command line, its process, its monitor.
//!
//! - [`command_line`] is a pure function: a [`conf::Domain`] whose defaults, aliases and addresses
//!   are filled in, and the [`Resources`] opened for it, become a [`CommandLine`] or everything
//!   that stands in the way of one.
//! - [`Launcher::launch`] starts it and returns when it is connected and halted, or runs;
//!   [`Launcher::reconnect`] takes up one that an earlier daemon started, by its [`GuestRecord`].
//!   Guests are processes of QEMU's or, for a simulated host, [`SimulatedGuests`]: all but process
//!   and monitor are the same.
//! - A [`Guest`] is controlled by its methods and observed by its [`GuestEvents`]. Its end comes
//!   as [`GuestEvent::Exited`], once, as the last event, and when the process really is gone:
//!   then its devices can be taken back.
//! - A guest outlives whoever started it. Dropping a [`Guest`] leaves the process alone.
//! - What a guest's process says is limited, in each line and in what waits of it.
//!
//! ```no_run
//! # async fn example(domain: conf::Domain) -> Result<(), Box<dyn std::error::Error>> {
//! use qemu::{GuestEvent, LaunchSpec, Launched, Launcher};
//!
//! let spec = LaunchSpec::new(domain, "/run/virtnic/guests/web".into(), "/var/log/virtnic/web.log".into());
//! let Launched { guest, mut events, ptys } = Launcher::Qemu.launch(spec).await?;
//! let record = guest.record(); // to be kept, for Launcher::reconnect
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
mod events;
mod guest;
mod launch;
mod launcher;
mod lifecycle;
mod log;
mod observed;
mod output;
mod process;
mod qmp;
mod record;
mod run_dir;
mod scope;
mod simulated;
mod socket;
mod state;
mod stray;
mod version;

pub(crate) use command::netdev_id;
pub use command::{
    CommandLine, CommandLineError, DEFAULT_EMULATOR, Problem, Resources, Taps, command_line,
    hostdev_device, nic_device, nic_netdev,
};
pub use console::{Console, ConsoleError, open_console};
pub use events::{GuestEvent, GuestEvents};
pub use guest::{ControlError, Guest, Leftovers, Plugged, StopsWithUs, Unplugging};
pub use launch::{
    LaunchError, LaunchSpec, Launched, TapFds, channel_path, fill_ptys, memory_lock, open_disk,
};
pub use launcher::Launcher;
pub use lifecycle::{Action, Lifecycle};
pub use qmp::{
    BalloonInfo, CharDeviceInfo, Compression, CpuWord, Event, GuestRxFilter, LINE_LIMIT,
    MigrationInfo, MigrationSettings, MigrationStatus, Qmp, QmpError, RamInfo, RefusalKind,
    RunState, Timestamp,
};
pub use record::{GuestRecord, ReconnectError};
pub use run_dir::sweep_run_dirs;
pub use scope::Scopes;
pub use simulated::{Answers, Faults, SimulatedGuest, SimulatedGuests, Unplug};
pub use state::{Exit, ExitReason, ExitStatus, GuestState, PauseReason};
pub use version::{emulator_version, machine_aliases};
