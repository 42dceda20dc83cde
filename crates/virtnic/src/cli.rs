//! The command line: help, man page and completions all come from this one definition.

use std::path::PathBuf;

use clap::builder::TypedValueParser as _;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use crate::commands::{
    drain::{Drain, Undrain},
    man::Man,
    migrate::{MigrateCheck, MigrateResolve},
    net::Net,
    nics::Nics,
    pair::{Demote, Promote},
    plan::Plan,
    reconcile::Reconcile,
    status::Status,
    who::Who,
};

/// Shows what virtnicd lends to guests: virtual functions of network cards, and who has them
///
/// Networks and guests themselves are made and started with virsh.
#[derive(Debug, Parser)]
#[command(name = "virtnic", version, after_help = EXIT_STATUS)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,

    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_STATUS: &str = "\
Exit status:
  0  all is well
  1  the daemon refused, in the words on standard error; or a file could not be read, or the
     output not be written
  2  the command line is wrong
  3  no daemon answers
  4  the answer is no: the guest would not start (plan), differences are left (reconcile), a
     guest has not let go of a VF (demote, drain)";

/// Names the daemon's socket.
const SOCKET_VARIABLE: &str = "VIRTNIC_SOCKET";

/// Where the daemon is.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct DaemonArgs {
    /// The daemon's socket [default: virtnic-sock-ro in /run/virtnic, else virtnic-sock there; to
    /// change something, virtnic-sock]
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = SOCKET_VARIABLE,
        hide_env_values = true,
        // One that is set to nothing is not set: see `DaemonArgs::check`.
        value_parser = clap::builder::OsStringValueParser::new().map(PathBuf::from)
    )]
    pub(crate) socket: Option<PathBuf>,

    /// The root of the daemon, as given to virtnicd --root; stands over --socket and VIRTNIC_SOCKET
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
}

impl DaemonArgs {
    /// Lets an environment variable that is set to nothing count as none.
    ///
    /// # Errors
    /// An option that has no value.
    pub(crate) fn check(&mut self) -> Result<(), clap::Error> {
        let is_empty = |path: &PathBuf| path.as_os_str().is_empty();
        if !self.socket.as_ref().is_some_and(is_empty) {
            return Ok(());
        }
        if std::env::var_os(SOCKET_VARIABLE).is_some_and(|value| value.is_empty()) {
            self.socket = None;
            return Ok(());
        }
        let message = "--socket needs a path";
        Err(Cli::command().error(clap::error::ErrorKind::InvalidValue, message))
    }
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Who(Who),
    Plan(Plan),
    Net(Net),
    Nics(Nics),
    Promote(Promote),
    Demote(Demote),
    Drain(Drain),
    Undrain(Undrain),
    MigrateCheck(MigrateCheck),
    MigrateResolve(MigrateResolve),
    Reconcile(Reconcile),
    Status(Status),
    /// Write completions for a shell to standard output
    Completions {
        /// The shell
        shell: Shell,
    },
    Man(Man),
}
