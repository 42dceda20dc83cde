//! `virtnic who`.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use rpc::{Lent, VirtnicWho};
use serde::Serialize;

use super::ask;
use crate::cli::DaemonArgs;
use crate::failure::Failure;
use crate::output::{self, Span, Table};

/// Show which devices are lent, to whom, and for how long
#[derive(Debug, Args)]
#[command(after_long_help = JSON_HELP)]
pub(crate) struct Who {
    /// Only devices with this text in their network, guest, MAC, PF, PCI address or driver
    filter: Option<String>,

    /// As a JSON array (--help names the fields)
    #[arg(long)]
    json: bool,
}

const JSON_HELP: &str = "\
Fields of each object of --json, null where there is no value:
  network      the network whose pool the device comes from
  guest        the name of the guest that has it
  guest_uuid   the guest's uuid
  mac          the MAC address of the guest's interface, as \"52:54:00:00:00:01\"
  pf           the network interface of the physical function
  vf           the number of the virtual function
  pci_address  as \"0000:03:10.2\"
  driver       the driver that the device is bound to now
  host_netdev  the interface on the host that stands for it, such as a macvtap
  state        one of claimed, preparing, lent, returning; dirty: it could not be given back
  since        when it was lent, in seconds since 1970
  port         the uuid of its port";

/// The state that goes without saying.
const LENT: &str = "lent";

impl Who {
    pub(super) fn run(&self, daemon: &DaemonArgs) -> Result<(), Failure> {
        let filter = self.filter.clone();
        let lent = ask(daemon, &VirtnicWho { filter })?;
        if self.json {
            let rows: Vec<Row<'_>> = lent.iter().map(Row::from).collect();
            return output::json(&rows);
        }
        if lent.is_empty() {
            output::remark(match &self.filter {
                None => "nothing is lent".to_owned(),
                Some(filter) => format!("nothing of '{filter}' is lent"),
            });
            return Ok(());
        }
        output::table(&table(&lent, now()))
    }
}

/// Seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

fn table(lent: &[Lent], now: i64) -> Table {
    let with_state = lent.iter().any(|device| device.state != LENT);
    let mut table = Table::new(
        [
            "NETWORK",
            "GUEST",
            "MAC",
            "PF",
            "VF",
            "PCI ADDRESS",
            "DRIVER",
            "FOR",
        ]
        .into_iter()
        .chain(with_state.then_some("STATE")),
    );
    for device in lent {
        let cells = [
            device.network.clone(),
            device.guest.clone(),
            device.mac.clone(),
            device.pf.clone(),
            device.vf.map(|number| number.to_string()),
            device.pci_address.clone(),
            device.driver.clone(),
            since(device).map(|since| Span::of_seconds(now.saturating_sub(since)).to_string()),
        ];
        let state = with_state.then(|| Some(device.state.clone()));
        table.row(cells.into_iter().chain(state));
    }
    table
}

/// When it was lent; none while it is only claimed.
fn since(device: &Lent) -> Option<i64> {
    (device.since != 0).then_some(device.since)
}

/// The names that scripts rely on.
#[derive(Serialize)]
struct Row<'a> {
    network: Option<&'a str>,
    guest: Option<&'a str>,
    guest_uuid: Option<String>,
    mac: Option<&'a str>,
    pf: Option<&'a str>,
    vf: Option<u32>,
    pci_address: Option<&'a str>,
    driver: Option<&'a str>,
    host_netdev: Option<&'a str>,
    state: &'a str,
    since: Option<i64>,
    port: String,
}

impl<'a> From<&'a Lent> for Row<'a> {
    fn from(lent: &'a Lent) -> Self {
        Self {
            network: lent.network.as_deref(),
            guest: lent.guest.as_deref(),
            guest_uuid: lent.guest_uuid.map(|uuid| uuid.to_string()),
            mac: lent.mac.as_deref(),
            pf: lent.pf.as_deref(),
            vf: lent.vf,
            pci_address: lent.pci_address.as_deref(),
            driver: lent.driver.as_deref(),
            host_netdev: lent.host_netdev.as_deref(),
            state: &lent.state,
            since: since(lent),
            port: lent.port.to_string(),
        }
    }
}
