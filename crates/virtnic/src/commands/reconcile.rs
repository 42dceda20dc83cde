//! `virtnic reconcile`.

use std::process::ExitCode;

use clap::Args;
use rpc::{Difference, Outcome, VirtnicReconcile};
use serde::Serialize;

use super::call;
use crate::cli::DaemonArgs;
use crate::connect::Intent;
use crate::failure::{self, Failure};
use crate::output::{self, labelled};

/// Compare records, kernel and running guests; tell each difference, its cause, and what mends it
#[derive(Debug, Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Reconcile {
    /// Mend what is safe to mend; else nothing is changed
    #[arg(long)]
    apply: bool,

    /// As a JSON array (--help names the fields)
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Exit status:
  0  there are no differences, or all are mended or meant
  1  the daemon refused, in the words on standard error
  2  the command line is wrong
  3  no daemon answers
  4  differences are left

Fields of each object of --json, null where there is no value:
  device   the device, as \"0000:03:10.2\" or \"eth2\"
  guest    the guest that it is about
  what     what is so, in a line
  cause    how that came about, as far as can be told
  remedy   what would mend it; what was done, where outcome is mended
  safe     whether --apply mends it
  outcome  left, mended, failed, or meant: somebody asked for it to be so, by nodedev-detach
  failure  why it could not be mended";

impl Reconcile {
    pub(super) fn run(&self, daemon: &DaemonArgs) -> Result<ExitCode, Failure> {
        let intent = match self.apply {
            true => Intent::Change,
            false => Intent::Look,
        };
        let apply = self.apply;
        let differences = call(daemon, intent, &VirtnicReconcile { apply })?;
        if self.json {
            let rows: Vec<Row<'_>> = differences.iter().map(Row::from).collect();
            output::json(&rows)?;
        } else {
            let texts: Vec<String> = differences.iter().map(for_people).collect();
            output::write(texts.join("\n").as_bytes())?;
            output::remark(verdict(&differences, self.apply));
        }
        let is_left = |one: &Difference| !matches!(one.outcome, Outcome::Mended | Outcome::Meant);
        Ok(match differences.iter().any(is_left) {
            true => failure::answer_is_no(),
            false => ExitCode::SUCCESS,
        })
    }
}

/// A difference, with what there is to know about it below.
fn for_people(one: &Difference) -> String {
    let mut text = format!("{}\n", one.what);
    if !one.cause.is_empty() {
        text += &labelled("cause", &one.cause);
    }
    let label = match (&one.outcome, one.safe) {
        (Outcome::Mended, _) => "mended",
        (Outcome::Meant, _) => "undo",
        (_, true) => "remedy",
        (_, false) => "by hand",
    };
    text += &labelled(label, &one.remedy);
    if let Outcome::Failed(reason) = &one.outcome {
        text += &labelled("failed", reason);
    }
    output::plain(&text)
}

/// All of it in a line.
fn verdict(differences: &[Difference], applied: bool) -> String {
    let count = |fits: fn(&Difference) -> bool| differences.iter().filter(|one| fits(one)).count();
    let all = match differences.len() - count(|one| one.outcome == Outcome::Meant) {
        0 if differences.is_empty() => {
            return "no differences: records, kernel and guests agree".to_owned();
        }
        0 => return "no differences beside what somebody asked for".to_owned(),
        1 => "1 difference".to_owned(),
        many => format!("{many} differences"),
    };
    if applied {
        return format!(
            "{all}, {} mended",
            count(|one| one.outcome == Outcome::Mended)
        );
    }
    match count(|one| one.safe) {
        0 => format!("{all}, to be mended by hand"),
        safe => format!("{all}, of which --apply would mend {safe}"),
    }
}

/// The names that scripts rely on.
#[derive(Serialize)]
struct Row<'a> {
    device: Option<&'a str>,
    guest: Option<&'a str>,
    what: &'a str,
    cause: &'a str,
    remedy: &'a str,
    safe: bool,
    outcome: &'static str,
    failure: Option<&'a str>,
}

impl<'a> From<&'a Difference> for Row<'a> {
    fn from(one: &'a Difference) -> Self {
        let (outcome, failure) = match &one.outcome {
            Outcome::Left => ("left", None),
            Outcome::Mended => ("mended", None),
            Outcome::Meant => ("meant", None),
            Outcome::Failed(reason) => ("failed", Some(reason.as_str())),
        };
        Self {
            device: one.device.as_deref(),
            guest: one.guest.as_deref(),
            what: &one.what,
            cause: &one.cause,
            remedy: &one.remedy,
            safe: one.safe,
            outcome,
            failure,
        }
    }
}
