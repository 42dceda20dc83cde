//! `cargo xtask lab`: emulated SR-IOV hosts, to run and to look around in.

mod accel;
pub(crate) mod boot;
mod cache;
mod cpio;
pub(crate) mod debian;
mod early;
mod guest;
pub(crate) mod pair;
pub(crate) mod session;
pub(crate) mod setup;
pub(crate) mod wire;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use self::boot::HostSpec;
use self::pair::Member;
use self::session::{Outcome, Plan, SessionError};
use self::setup::{Lab, SetupError};
use self::wire::{Daemon, Job};

/// `cargo xtask lab …`
#[derive(Debug, Subcommand)]
pub(crate) enum LabCommand {
    /// Run a command as root in an emulated SR-IOV host, and return its exit status (124 if it took too long).
    ///
    /// The command's directory is this checkout, read-only; the built programs are on its PATH. It finds the PFs' netdev
    /// names in LAB_PF0, LAB_PF1 …, a small guest in LAB_GUEST_KERNEL and LAB_GUEST_INITRD, the daemon's name in
    /// LAB_DAEMON, and in LAB_STATION the network namespace of a station outside of the host. With --hosts 2 it runs in
    /// the first; `on2 COMMAND…` runs one in the second, LAB_HOST2_URI connects to the daemon there.
    Exec {
        #[command(flatten)]
        host: HostOptions,
        /// Seconds that the command may take once the host is up
        #[arg(long, default_value_t = 600, value_name = "SECONDS")]
        timeout: u64,
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// Open a shell in an emulated SR-IOV host.
    Shell {
        #[command(flatten)]
        host: HostOptions,
    },
    /// Build what the lab needs, and keep it.
    Setup,
    /// Remove all that the lab keeps.
    Clean,
}

/// What kind of host.
#[derive(Debug, Clone, Args)]
pub(crate) struct HostOptions {
    /// Hosts, alike and joined by two networks
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=2))]
    pub(crate) hosts: u8,
    /// SR-IOV cards, each with 7 VFs
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=4))]
    pub(crate) pfs: u8,
    /// VFs made on each card
    #[arg(long, default_value_t = 7, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=7))]
    pub(crate) vfs: u8,
    /// Start libvirtd instead of virtnicd, to compare
    #[arg(long, conflicts_with = "no_daemon")]
    pub(crate) with_libvirt: bool,
    /// Start no daemon
    #[arg(long)]
    pub(crate) no_daemon: bool,
    /// Use programs built with optimisation
    #[arg(long)]
    pub(crate) release: bool,
    /// MiB of memory of each host [default: 4096, of two hosts 3072 each]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(512..=65536))]
    pub(crate) memory: Option<u32>,
    /// Keep the kernel's console in this file, that of a second host in FILE.2
    #[arg(long, value_name = "FILE")]
    pub(crate) console: Option<PathBuf>,
}

impl HostOptions {
    /// A host with one card and our daemon.
    pub(crate) fn new(pfs: u8) -> Self {
        Self {
            hosts: 1,
            pfs,
            vfs: 7,
            with_libvirt: false,
            no_daemon: false,
            release: false,
            memory: None,
            console: None,
        }
    }

    /// The daemon that these options ask for.
    pub(crate) fn daemon(&self) -> Daemon {
        match (self.with_libvirt, self.no_daemon) {
            (true, _) => Daemon::Libvirtd,
            (_, true) => Daemon::None,
            _ => Daemon::Virtnicd,
        }
    }

    /// A job on such a host.
    pub(crate) fn plan(&self, command: Vec<String>, timeout: Option<u64>) -> Plan {
        let member = (self.hosts == 2).then_some(Member::First);
        let memory = if member.is_some() { 3072 } else { 4096 };
        Plan {
            host: HostSpec {
                pfs: self.pfs,
                memory: self.memory.unwrap_or(memory),
                member,
            },
            job: Job {
                member,
                vfs: self.vfs,
                daemon: self.daemon(),
                command,
                timeout,
                terminal: None,
                input: false,
                env: Vec::new(),
            },
            release: self.release,
            console: self.console.clone(),
        }
    }
}

/// Why a lab command could not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LabError {
    /// The set-up.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The run.
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// Carries out a lab command.
pub(crate) fn main(command: LabCommand) -> Result<ExitCode, LabError> {
    let plan = match command {
        LabCommand::Exec {
            host,
            timeout,
            command,
        } => host.plan(command, Some(timeout)),
        LabCommand::Shell { host } => {
            let mut plan = host.plan(vec!["bash".to_owned(), "-l".to_owned()], None);
            plan.job.terminal = Some(session::terminal_size());
            plan
        }
        LabCommand::Setup => {
            let lab = Lab::set_up()?;
            crate::ui::say(&format!(
                "The lab is ready in {}",
                lab.cache.dir().display()
            ));
            return Ok(ExitCode::SUCCESS);
        }
        LabCommand::Clean => {
            cache::Cache::open()
                .and_then(|cache| cache.clean())
                .map_err(SetupError::from)?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    let lab = Lab::set_up()?;
    let Outcome { code } = session::run(&lab, &plan, &mut session::Passthrough)?;
    Ok(ExitCode::from(code))
}
