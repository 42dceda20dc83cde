//! `virtnic status`.

use std::time::Duration;

use clap::Args;
use rpc::{DaemonStatus, VirtnicStatus};
use serde::Serialize;

use super::ask;
use crate::cli::DaemonArgs;
use crate::failure::Failure;
use crate::output::{self, Span};

/// Show the daemon: its version, since when it runs, and how much it looks after
#[derive(Debug, Args)]
#[command(after_long_help = JSON_HELP)]
pub(crate) struct Status {
    /// As a JSON object (--help names its fields)
    #[arg(long)]
    json: bool,
}

const JSON_HELP: &str = "\
Fields of --json:
  version          the daemon's version, as \"0.1.0\"
  pid              its process id
  uptime           seconds since it started
  simulated        whether it runs on a simulated host
  networks         networks that are defined or active
  active_networks  networks that are active
  guests           guests that are defined or running
  running_guests   guests that are running
  lent             devices that are lent";

impl Status {
    pub(super) fn run(&self, daemon: &DaemonArgs) -> Result<(), Failure> {
        let status = ask(daemon, &VirtnicStatus {})?;
        if self.json {
            output::json(&Row::from(&status))
        } else {
            output::write(for_people(&status).as_bytes())
        }
    }
}

fn for_people(status: &DaemonStatus) -> String {
    let uptime = Span(Duration::from_secs(status.uptime));
    let host = match status.simulated {
        true => "simulated",
        false => "this one",
    };
    format!(
        "\
version   {}
process   {}, for {uptime}
host      {host}
networks  {}, active {}
guests    {}, running {}
lent      {}
",
        output::plain(&status.version),
        status.pid,
        status.networks,
        status.active_networks,
        status.guests,
        status.running_guests,
        status.lent,
    )
}

/// The names that scripts rely on.
#[derive(Serialize)]
struct Row<'a> {
    version: &'a str,
    pid: u32,
    uptime: u64,
    simulated: bool,
    networks: u32,
    active_networks: u32,
    guests: u32,
    running_guests: u32,
    lent: u32,
}

impl<'a> From<&'a DaemonStatus> for Row<'a> {
    fn from(status: &'a DaemonStatus) -> Self {
        Self {
            version: &status.version,
            pid: status.pid,
            uptime: status.uptime,
            simulated: status.simulated,
            networks: status.networks,
            active_networks: status.active_networks,
            guests: status.guests,
            running_guests: status.running_guests,
            lent: status.lent,
        }
    }
}
