//! `virtnic migrate-check` and `virtnic migrate-resolve`.

use std::process::ExitCode;

use clap::Args;
use rpc::{Obstacle, VirtnicMigrateCheck, VirtnicMigrateResolve};
use serde::Serialize;

use super::call;
use crate::cli::DaemonArgs;
use crate::connect::Intent;
use crate::failure::{self, Failure};
use crate::output;

/// Tell what keeps a running guest from going to another host; nothing is changed
///
/// Each device answers for itself, and the other host, if one is named, for what it would have to lend.
/// Whether the other host's CPU is the same only a move tells.
#[derive(Debug, Args)]
#[command(after_long_help = CHECK_HELP)]
pub(crate) struct MigrateCheck {
    /// The guest, by its name or UUID
    guest: String,

    /// The other host's daemon, as for virsh migrate --p2p
    #[arg(value_name = "DESTINATION")]
    destination: Option<String>,

    /// As a JSON array (--help names its fields)
    #[arg(long)]
    json: bool,
}

/// Say where a guest runs whose move was broken off when nobody could tell
///
/// Such a guest is halted where it was, with all that it had. Look at the other host first: a guest that
/// runs twice destroys its disks.
#[derive(Debug, Args)]
pub(crate) struct MigrateResolve {
    /// The guest, by its name or UUID
    guest: String,

    #[command(flatten)]
    place: Place,
}

/// Where it runs.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Place {
    /// It does not run on the other host: it goes on here
    #[arg(long)]
    here: bool,

    /// It runs on the other host: it ends here
    #[arg(long)]
    there: bool,
}

const CHECK_HELP: &str = "\
Exit status:
  0  nothing that can be told keeps it
  1  the daemon refused, in the words on standard error
  2  the command line is wrong
  3  no daemon answers
  4  something keeps it

Fields of --json, of each reason:
  there   whether it is the other host that says so
  what    what can't go
  why     why not
  advice  what would have it go";

#[derive(Serialize)]
struct Row<'a> {
    there: bool,
    what: &'a str,
    why: &'a str,
    advice: &'a str,
}

impl MigrateCheck {
    pub(super) fn run(&self, daemon: &DaemonArgs) -> Result<ExitCode, Failure> {
        let (guest, destination) = (self.guest.clone(), self.destination.clone());
        let question = VirtnicMigrateCheck { guest, destination };
        let obstacles = call(daemon, Intent::Change, &question)?;
        if self.json {
            let rows = obstacles.iter().map(|one| Row {
                there: one.there,
                what: &one.what,
                why: &one.why,
                advice: &one.advice,
            });
            output::json(&rows.collect::<Vec<_>>())?;
        } else {
            output::write(self.for_people(&obstacles).as_bytes())?;
        }
        Ok(match obstacles.is_empty() {
            true => ExitCode::SUCCESS,
            false => failure::answer_is_no(),
        })
    }

    fn for_people(&self, obstacles: &[Obstacle]) -> String {
        let to = match &self.destination {
            Some(destination) => format!("to {destination}"),
            None => "to another host".to_owned(),
        };
        if obstacles.is_empty() {
            return format!("Nothing keeps guest '{}' from going {to}.\n", self.guest);
        }
        let mut text = format!("Guest '{}' can't go {to}:\n", self.guest);
        for one in obstacles {
            let host = if one.there {
                " (says the other host)"
            } else {
                ""
            };
            text += &format!("  {}: {}{host}\n    {}\n", one.what, one.why, one.advice);
        }
        text
    }
}

impl MigrateResolve {
    pub(super) fn run(&self, daemon: &DaemonArgs) -> Result<(), Failure> {
        let (guest, here) = (self.guest.clone(), self.place.here);
        call(
            daemon,
            Intent::Change,
            &VirtnicMigrateResolve { guest, here },
        )?;
        output::remark(match here {
            true => format!("guest '{}' goes on here", self.guest),
            false => format!("guest '{}' has ended here", self.guest),
        });
        Ok(())
    }
}
