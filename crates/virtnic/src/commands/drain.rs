//! `virtnic drain` and `virtnic undrain`.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use rpc::{DrainReport, StaysOnPf, VirtnicDrain, VirtnicUndrain};
use serde::Serialize;

use super::call;
use crate::cli::DaemonArgs;
use crate::connect::Intent;
use crate::failure::{self, Failure};
use crate::output::{self, Table};

/// Take a PF out of service: nothing of it is lent any more, and pairs part with their VFs on it
///
/// Guests with a pair go on over virtio. What can't leave its guest is listed, with what would have
/// it leave, and so are macvtaps on the PF, which need its link and no VF. A PF stays drained, also
/// over a restart of the daemon, until virtnic undrain.
#[derive(Debug, Args)]
#[command(after_long_help = DRAIN_HELP)]
pub(crate) struct Drain {
    /// The PF's network device
    pf: String,

    /// Ask again each second until no guest has a VF of it; for at most so many seconds, if given
    #[arg(long, value_name = "SECONDS", num_args = 0..=1)]
    wait: Option<Option<u32>>,

    /// As a JSON object (--help names its fields)
    #[arg(long)]
    json: bool,
}

/// Have a PF lend again, and give back to pairs what they parted with
#[derive(Debug, Args)]
pub(crate) struct Undrain {
    /// The PF's network device
    pf: String,
}

const DRAIN_HELP: &str = "\
Exit status:
  0  no guest has a VF of it
  1  the daemon refused, in the words on standard error
  2  the command line is wrong
  3  no daemon answers
  4  guests have VFs of it still; with --wait, when the time was over

Fields of --json:
  pf           the PF's network device
  pci_address  as \"0000:03:00.0\"
  vfs          VFs of it that are still with guests, and it itself if it is lent whole
  macvtaps     macvtaps of guests on it

Each of vfs:
  what   the VF or macvtap
  guest  the name of the guest that has it
  why    why it stays, and what would have it leave

Each of macvtaps:
  what   the VF or macvtap
  guest  the name of the guest that has it
  why    why it stays, and what would have it leave";

/// Between two questions.
const PAUSE: Duration = Duration::from_secs(1);

impl Drain {
    pub(super) fn run(&self, daemon: &DaemonArgs) -> Result<ExitCode, Failure> {
        let started = Instant::now();
        let pf = self.pf.clone();
        let question = VirtnicDrain { pf };
        let mut report = call(daemon, Intent::Change, &question)?;
        if let Some(most) = self.wait {
            let most = most.map(|seconds| Duration::from_secs(seconds.into()));
            let mut told = None;
            while !report.vfs.is_empty() {
                let passed = started.elapsed();
                let left = most.map_or(PAUSE, |most| most.saturating_sub(passed));
                if left.is_zero() {
                    break;
                }
                if told.replace(report.vfs.len()) != Some(report.vfs.len()) {
                    output::remark(waits_for(&report));
                }
                pause(left.min(PAUSE));
                report = call(daemon, Intent::Change, &question)?;
            }
        }
        match self.json {
            true => output::json(&Report::from(&report))?,
            false => output::write(for_people(&report).as_bytes())?,
        }
        Ok(match report.vfs.is_empty() {
            true => ExitCode::SUCCESS,
            false => failure::answer_is_no(),
        })
    }
}

impl Undrain {
    pub(super) fn run(&self, daemon: &DaemonArgs) -> Result<(), Failure> {
        let pf = self.pf.clone();
        call(daemon, Intent::Change, &VirtnicUndrain { pf })?;
        output::remark(format!("{} lends again", self.pf));
        Ok(())
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the daemon tells no client when a guest lets go; it is asked again"
)]
fn pause(time: Duration) {
    thread::sleep(time);
}

/// How many guests' names a line of progress has.
const NAMED: usize = 6;

fn waits_for(report: &DrainReport) -> String {
    let left = match report.vfs.len() {
        1 => "1 VF is".to_owned(),
        many => format!("{many} VFs are"),
    };
    let mut guests: Vec<&str> = report.vfs.iter().map(|one| one.guest.as_str()).collect();
    guests.sort_unstable();
    guests.dedup();
    let more = guests.len().saturating_sub(NAMED);
    guests.truncate(NAMED);
    let names = guests.join(", ");
    match more {
        0 => format!("{left} left of {}: {names}", report.pf),
        more => format!("{left} left of {}: {names} and {more} more", report.pf),
    }
}

fn for_people(report: &DrainReport) -> String {
    let count = |things: &[StaysOnPf]| match things.len() {
        0 => "none".to_owned(),
        many => many.to_string(),
    };
    let mut text = output::plain(&format!(
        "PF        {} ({}), lends nothing until: virtnic undrain {}\nVFs       {} with guests\n\
         macvtaps  {} on it\n",
        report.pf,
        report.pci_address,
        report.pf,
        count(&report.vfs),
        count(&report.macvtaps),
    ));
    let all: Vec<_> = report.vfs.iter().chain(&report.macvtaps).collect();
    if !all.is_empty() {
        let mut table = Table::new(["STAYS", "GUEST", "WHY"]);
        for one in all {
            // A second line says what to do.
            let why = one.why.replace('\n', "; ");
            table.row([Some(one.what.clone()), Some(one.guest.clone()), Some(why)]);
        }
        text += &format!("\n{table}");
    }
    text
}

/// [`DrainReport`] under the names that scripts rely on.
#[derive(Serialize)]
struct Report<'a> {
    pf: &'a str,
    pci_address: &'a str,
    vfs: Vec<Stays<'a>>,
    macvtaps: Vec<Stays<'a>>,
}

#[derive(Serialize)]
struct Stays<'a> {
    what: &'a str,
    guest: &'a str,
    why: &'a str,
}

impl<'a> From<&'a DrainReport> for Report<'a> {
    fn from(report: &'a DrainReport) -> Self {
        Self {
            pf: &report.pf,
            pci_address: &report.pci_address,
            vfs: report.vfs.iter().map(Stays::from).collect(),
            macvtaps: report.macvtaps.iter().map(Stays::from).collect(),
        }
    }
}

impl<'a> From<&'a StaysOnPf> for Stays<'a> {
    fn from(one: &'a StaysOnPf) -> Self {
        Self {
            what: &one.what,
            guest: &one.guest,
            why: &one.why,
        }
    }
}
