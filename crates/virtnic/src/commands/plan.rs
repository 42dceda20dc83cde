//! `virtnic plan`.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgGroup, Args};
use rpc::{
    ChosenDevice, PlanOf, PlanRefusal, PlanReport, PlannedChoice, PlannedDevice, VirtnicPlan,
};
use serde::Serialize;

use super::ask;
use super::pool::{self, ROW_HELP, Row as PoolRowJson};
use crate::cli::DaemonArgs;
use crate::failure::{self, Failure};
use crate::output::{self, labelled};

/// Show which device each interface of a guest would get and why, and each step of its start;
/// nothing is done
#[derive(Debug, Args)]
#[command(
    after_long_help = help(),
    group = ArgGroup::new("of").args(["guest", "file"]).required(true)
)]
pub(crate) struct Plan {
    /// The guest's name or uuid
    guest: Option<String>,

    /// A domain document instead of a guest; - for standard input
    #[arg(long, value_name = "GUEST.XML")]
    file: Option<PathBuf>,

    /// As a JSON object (--help names its fields)
    #[arg(long)]
    json: bool,
}

fn help() -> String {
    format!(
        "\
Exit status:
  0  the guest would start
  1  the daemon refused, in the words on standard error; or the file could not be read
  2  the command line is wrong
  3  no daemon answers
  4  the guest would not start

Fields of --json, null where there is no value:
  guest        the guest's name
  guest_uuid   its uuid
  running      whether it runs already: the plan is then that of its next start
  would_start  whether it would start, as far as can be told without trying
  obstacles    what stands in the way of the guest as a whole
  notes        what else is worth knowing
  devices      its interfaces, then its host devices

Each of devices:
  element      interface or hostdev
  type         the interface's type, as \"network\"
  mac          the interface's MAC address
  alias        its alias
  network      the network that is to lend it
  pair         what the two halves of a pair have in common
  role         in a pair: standby, which stays, or primary, the VF
  pf           in a pair: the PF that both halves share
  verdict      device: it gets one; none: it needs none; owed: the next; refused: there is none
  kind         how it would be lent: hostdev, macvtap or tap
  device       what it would get
  pci_address  of what it would get
  why          why this device; or why none; or what a start would fail with
  advice       what a person can do about a refusal
  rows         what the network's PFs and NICs have, if it has none to give
  steps        what would be done on the host, in order
  notes        what else is worth knowing

Each of rows:
{ROW_HELP}"
    )
}

impl Plan {
    pub(super) fn run(&self, daemon: &DaemonArgs) -> Result<ExitCode, Failure> {
        let of = match (&self.file, &self.guest) {
            (Some(file), _) => PlanOf::Document(read(file)?),
            (None, guest) => PlanOf::Guest(guest.clone().unwrap_or_default()),
        };
        let report = ask(daemon, &VirtnicPlan { of }).map_err(|failure| self.explain(failure))?;
        if self.json {
            output::json(&Report::from(&report))?;
        } else {
            output::write(for_people(&report).as_bytes())?;
        }
        Ok(match report.would_start {
            true => ExitCode::SUCCESS,
            false => failure::answer_is_no(),
        })
    }
}

impl Plan {
    /// A document that is too large is the file's fault, and counted in its terms.
    fn explain(&self, failure: Failure) -> Failure {
        match (failure, &self.file) {
            (Failure::Question(error), Some(file)) => Failure::TooLarge {
                path: file.display().to_string(),
                bytes: error.count,
                most: error.max,
            },
            (failure, _) => failure,
        }
    }
}

fn read(file: &Path) -> Result<String, Failure> {
    let text = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(file)
    };
    let path = || match file == Path::new("-") {
        true => "standard input".to_owned(),
        false => file.display().to_string(),
    };
    text.map_err(|source| match source.kind() {
        std::io::ErrorKind::InvalidData => Failure::NotText { path: path() },
        _ => Failure::Input {
            path: path(),
            source,
        },
    })
}

fn for_people(report: &PlanReport) -> String {
    let verdict = match (report.would_start, report.running) {
        (true, false) => "would start",
        (true, true) => "runs; it would start again",
        (false, false) => "would not start",
        (false, true) => "runs; it would not start again",
    };
    let mut text = format!("guest {} {verdict}\n", report.guest);
    for obstacle in &report.obstacles {
        let (obstacle, advice) = obstacle.split_once('\n').unwrap_or((obstacle, ""));
        text += &labelled("refused", obstacle);
        if !advice.is_empty() {
            text += &labelled("advice", advice);
        }
    }
    for note in &report.notes {
        text += &labelled("note", note);
    }
    let mut text = output::plain(&text);
    for device in in_pairs(&report.devices) {
        text += &format!("\n{}", of_device(device));
    }
    text
}

/// The devices in their order, but for the halves of a pair, which stand together.
fn in_pairs(devices: &[PlannedDevice]) -> Vec<&PlannedDevice> {
    let pair = |device: &PlannedDevice| device.half.as_ref().map(|half| half.pair);
    let place = |device: &PlannedDevice| {
        let pair = pair(device)?;
        devices
            .iter()
            .position(|one| one.half.as_ref().is_some_and(|half| half.pair == pair))
    };
    let mut placed: Vec<_> = devices.iter().enumerate().collect();
    placed.sort_by_key(|(at, device)| place(device).unwrap_or(*at));
    placed.into_iter().map(|(_, device)| device).collect()
}

fn of_device(device: &PlannedDevice) -> String {
    let mut text = device.element.clone();
    if let Some(name) = device.mac.as_ref().or(device.alias.as_ref()) {
        text += &format!(" {name}");
    }
    text += &match &device.network {
        Some(network) => format!(", network {network}\n"),
        None => format!(", {}\n", device.r#type),
    };
    if let Some(half) = &device.half {
        let on = half
            .pf
            .as_ref()
            .map_or_else(String::new, |pf| format!(" over {pf}"));
        text += &labelled("half", &format!("{} of a pair{on}", half.role));
    }
    let mut rows = &[][..];
    match &device.choice {
        PlannedChoice::Device(chosen) => {
            text += &labelled("gets", &chosen.device);
            text += &labelled("why", &chosen.why);
        }
        PlannedChoice::None(why) => text += &labelled("gets", why),
        PlannedChoice::Owed(which) => text += &labelled("owed", which),
        PlannedChoice::Refused(refusal) => {
            text += &labelled("refused", &refusal.error);
            if let Some(advice) = &refusal.advice {
                text += &labelled("advice", advice);
            }
            rows = &refusal.rows;
        }
    }
    for (place, step) in device.steps.iter().enumerate() {
        text += &labelled(&format!("step {}", place + 1), step);
    }
    for note in &device.notes {
        text += &labelled("note", note);
    }
    let mut text = output::plain(&text);
    if !rows.is_empty() {
        text += &indented(&pool::summary(rows).to_string());
        if let Some(taken) = pool::taken(rows, device.network.as_deref()) {
            text += &indented(&taken.to_string());
        }
    }
    text
}

fn indented(lines: &str) -> String {
    lines.lines().map(|line| format!("    {line}\n")).collect()
}

/// [`PlanReport`] under the names that scripts rely on.
#[derive(Serialize)]
struct Report<'a> {
    guest: &'a str,
    guest_uuid: String,
    running: bool,
    would_start: bool,
    obstacles: &'a [String],
    notes: &'a [String],
    devices: Vec<Device<'a>>,
}

#[derive(Serialize)]
struct Device<'a> {
    element: &'a str,
    r#type: &'a str,
    mac: Option<&'a str>,
    alias: Option<&'a str>,
    network: Option<&'a str>,
    pair: Option<String>,
    role: Option<&'a str>,
    pf: Option<&'a str>,
    verdict: &'static str,
    kind: Option<&'static str>,
    device: Option<&'a str>,
    pci_address: Option<&'a str>,
    why: &'a str,
    advice: Option<&'a str>,
    rows: Vec<PoolRowJson<'a>>,
    steps: &'a [String],
    notes: &'a [String],
}

impl<'a> From<&'a PlanReport> for Report<'a> {
    fn from(report: &'a PlanReport) -> Self {
        Self {
            guest: &report.guest,
            guest_uuid: report.guest_uuid.to_string(),
            running: report.running,
            would_start: report.would_start,
            obstacles: &report.obstacles,
            notes: &report.notes,
            devices: report.devices.iter().map(Device::from).collect(),
        }
    }
}

impl<'a> From<&'a PlannedDevice> for Device<'a> {
    fn from(planned: &'a PlannedDevice) -> Self {
        let chosen: Option<&ChosenDevice> = match &planned.choice {
            PlannedChoice::Device(chosen) => Some(chosen),
            _ => None,
        };
        let refusal: Option<&PlanRefusal> = match &planned.choice {
            PlannedChoice::Refused(refusal) => Some(refusal),
            _ => None,
        };
        let (verdict, why) = match &planned.choice {
            PlannedChoice::Device(chosen) => ("device", &chosen.why),
            PlannedChoice::None(why) => ("none", why),
            PlannedChoice::Owed(which) => ("owed", which),
            PlannedChoice::Refused(refusal) => ("refused", &refusal.error),
        };
        let half = planned.half.as_ref();
        Self {
            element: &planned.element,
            r#type: &planned.r#type,
            mac: planned.mac.as_deref(),
            alias: planned.alias.as_deref(),
            network: planned.network.as_deref(),
            pair: half.map(|half| half.pair.to_string()),
            role: half.map(|half| half.role.as_str()),
            pf: half.and_then(|half| half.pf.as_deref()),
            verdict,
            kind: chosen.map(|chosen| chosen.kind.word()),
            device: chosen.map(|chosen| chosen.device.as_str()),
            pci_address: chosen.and_then(|chosen| chosen.pci_address.as_deref()),
            why,
            advice: refusal.and_then(|refusal| refusal.advice.as_deref()),
            rows: refusal
                .map(|refusal| refusal.rows.iter().map(PoolRowJson::from).collect())
                .unwrap_or_default(),
            steps: &planned.steps,
            notes: &planned.notes,
        }
    }
}
