//! `virtnic net`.

use clap::Args;
use rpc::{NetworkReport, PoolRow, VirtnicNetwork};
use serde::Serialize;

use super::ask;
use super::pool::{self, ROW_HELP, Row as PoolRowJson};
use crate::cli::DaemonArgs;
use crate::failure::Failure;
use crate::output::{self, Table};

/// Show what a network has to lend, on which cards, and who has what of it; or all networks
#[derive(Debug, Args)]
#[command(after_long_help = json_help())]
pub(crate) struct Net {
    /// The network's name or uuid
    network: Option<String>,

    /// As a JSON array, of one object if a network is named (--help names the fields)
    #[arg(long)]
    json: bool,
}

fn json_help() -> String {
    format!(
        "\
Fields of each object of --json:
  name         the network's name
  uuid         its uuid
  active       one that is not active lends nothing, and has no rows
  mode         its forward mode; isolated for none
  bridge       the host's bridge that its guests are put into; null where it has none
  modes        the macvtap modes that a guest's interface may ask for
  exclusive    whether a device is lent to one guest at a time
  connections  ports of guests on it
  rows         its PFs and NICs, in its own order
  missing      devices that it lists and that are not there

Each of rows:
{ROW_HELP}"
    )
}

impl Net {
    pub(super) fn run(&self, daemon: &DaemonArgs) -> Result<(), Failure> {
        let name = self.network.clone();
        let reports = ask(daemon, &VirtnicNetwork { name })?;
        if self.json {
            let rows: Vec<Row<'_>> = reports.iter().map(Row::from).collect();
            return output::json(&rows);
        }
        if self.network.is_some() {
            let texts: Vec<String> = reports.iter().map(for_people).collect();
            return output::write(texts.join("\n").as_bytes());
        }
        if reports.is_empty() {
            output::remark("there are no networks".to_owned());
            return Ok(());
        }
        output::table(&overview(&reports))
    }
}

/// All networks, one a line.
fn overview(reports: &[NetworkReport]) -> Table {
    let mut table = Table::new([
        "NETWORK", "STATE", "MODE", "NICS", "DEVICES", "FREE", "PORTS",
    ]);
    table.align_right(3..=6);
    for report in reports {
        let sum = |count: fn(&PoolRow) -> u32| {
            let lends = report.active && !report.rows.is_empty();
            lends.then(|| report.rows.iter().map(count).fold(0, u32::saturating_add))
        };
        table.row([
            Some(report.name.clone()),
            Some(state(report).to_owned()),
            Some(report.mode.clone()),
            report.active.then(|| report.rows.len().to_string()),
            sum(|row| row.total).map(|total| total.to_string()),
            sum(free).map(|free| free.to_string()),
            Some(report.connections.to_string()),
        ]);
    }
    table
}

/// What can be had of a PF or NIC: nothing, if something stands in the way of all of it.
fn free(row: &PoolRow) -> u32 {
    if row.obstacle.is_some() { 0 } else { row.free }
}

fn state(report: &NetworkReport) -> &'static str {
    if report.active { "active" } else { "inactive" }
}

/// One network, with all that it has.
fn for_people(report: &NetworkReport) -> String {
    let lending = match (report.rows.is_empty(), report.exclusive) {
        (true, _) => "",
        (false, true) => ", a device for one guest",
        (false, false) => ", devices shared",
    };
    let mut text = format!(
        "network  {} ({})\nmode     {}{lending}\n",
        report.name,
        state(report),
        report.mode,
    );
    if let Some(bridge) = &report.bridge {
        text += &format!("bridge   {bridge}\n");
    }
    if !report.modes.is_empty() {
        text += &format!("choice   {}\n", report.modes.join(", "));
    }
    text += &format!("ports    {}\n", report.connections);
    if !report.missing.is_empty() {
        text += &format!("missing  {}\n", report.missing.join(", "));
    }
    let mut text = output::plain(&text);
    if !report.rows.is_empty() {
        text += &format!("\n{}", pool::summary(&report.rows));
    }
    if let Some(taken) = pool::taken(&report.rows, Some(&report.name)) {
        text += &format!("\n{taken}");
    }
    text
}

/// The names that scripts rely on.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    uuid: String,
    active: bool,
    mode: &'a str,
    bridge: Option<&'a str>,
    modes: &'a [String],
    exclusive: bool,
    connections: u32,
    rows: Vec<PoolRowJson<'a>>,
    missing: &'a [String],
}

impl<'a> From<&'a NetworkReport> for Row<'a> {
    fn from(report: &'a NetworkReport) -> Self {
        Self {
            name: &report.name,
            uuid: report.uuid.to_string(),
            active: report.active,
            mode: &report.mode,
            bridge: report.bridge.as_deref(),
            modes: &report.modes,
            exclusive: report.exclusive,
            connections: report.connections,
            rows: report.rows.iter().map(PoolRowJson::from).collect(),
            missing: &report.missing,
        }
    }
}
