//! `virtnic who`.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use rpc::{GuestCounters, Lent, LentKind, VirtnicWho};
use serde::Serialize;

use super::ask;
use crate::cli::DaemonArgs;
use crate::failure::Failure;
use crate::output::{self, Span, Table};

/// Show which devices are lent, to whom, and for how long
#[derive(Debug, Args)]
#[command(after_long_help = JSON_HELP)]
pub(crate) struct Who {
    /// Only devices with this text in their network, guest, MAC, PF, PCI address, driver, interface
    /// on the host, or what that sits on
    filter: Option<String>,

    /// What went through each, as its guest sees it
    #[arg(long)]
    stats: bool,

    /// As a JSON array (--help names the fields)
    #[arg(long)]
    json: bool,
}

const JSON_HELP: &str = "\
States:
  claimed    it is chosen for a guest that starts
  preparing  it is being made ready
  lent       the guest has it
  pending    the guest was asked to let it go, and has not yet
  returning  it is being given back
  dirty      it could not be given back
  detached   it was taken from its driver, and no guest has it
  reserved   the VF of a pair that is plugged in when the guest has negotiated failover
  owed       a pair without a VF: the guest runs on virtio, and gets the next VF of the PF
  parted     a pair whose VF was taken from it: the guest gets one by virtnic promote

Fields of each object of --json, null where there is no value:
  kind         hostdev: a PCI function as a whole; usb: a USB device; macvtap; tap
  network      the network whose pool the device comes from
  guest        the name of the guest that has it
  guest_uuid   the guest's uuid
  mac          the MAC address of the guest's interface, as \"52:54:00:00:00:01\"
  alias        the name of the guest's device
  pair         what the two halves of a pair have in common
  role         in a pair: standby, which stays, or primary, the VF
  negotiated   whether the guest's driver has joined the halves; null where the guest bonds them
  advice       what to do where it has not, though it had the time to
  pf           the network interface of the physical function
  vf           the number of the virtual function
  pci_address  as \"0000:03:10.2\"
  driver       the driver that the device is bound to now
  host_netdev  the interface on the host that stands for it, such as a macvtap
  parent       what it sits on: a macvtap's NIC, a tap's bridge, a USB device's bus and port
  mode         a macvtap's mode: vepa, bridge, private or passthrough
  state        how far it is, in one of the words above
  vanished     whether it was lent, and is not there any more
  since        when it was lent, in seconds since 1970
  port         the uuid of its port
  stats        null without --stats, and where nothing counts

Each of stats, as the guest sees it, null where the driver does not tell:
  rx_bytes      bytes that reached the guest
  rx_packets    packets that did
  rx_errors     packets that came broken
  rx_dropped    packets dropped on the way to the guest
  rx_multicast  multicasts among the packets
  rx_broadcast  broadcasts among the packets
  tx_bytes      bytes that the guest sent
  tx_packets    packets that it sent
  tx_errors     packets of it that could not be sent
  tx_dropped    packets of it that were dropped
  tx_multicast  multicasts among its packets
  tx_broadcast  broadcasts among its packets";

/// The state that goes without saying.
const LENT: &str = "lent";

impl Who {
    pub(super) fn run(&self, daemon: &DaemonArgs) -> Result<(), Failure> {
        let question = VirtnicWho {
            filter: self.filter.clone(),
            counters: self.stats,
        };
        let lent = ask(daemon, &question)?;
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
        if self.stats {
            return output::table(&stats(&lent));
        }
        output::table(&table(&lent, now()))?;
        advise(&lent);
        Ok(())
    }
}

/// Says what to do where halves of a pair are not joined; once for each guest.
fn advise(lent: &[Lent]) {
    let mut told: Vec<(Option<&str>, &str)> = Vec::new();
    for row in lent {
        let Some(advice) = row.half.as_ref().and_then(|half| half.advice.as_deref()) else {
            continue;
        };
        let said = (row.guest.as_deref(), advice);
        if !told.contains(&said) {
            told.push(said);
            output::remark(advice.to_owned());
        }
    }
}

/// Seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

/// Who has what. Columns that are about VFs, and those about interfaces on the host, are there if
/// a device has them.
fn table(lent: &[Lent], now: i64) -> Table {
    let some = |has: fn(&Lent) -> bool| lent.iter().any(has);
    let with_links = some(|device| device.kind != LentKind::Hostdev);
    let with_functions = some(|device| {
        device.kind == LentKind::Hostdev || device.pf.is_some() || device.pci_address.is_some()
    });
    let with_state = some(|device| device.state != LENT || device.vanished);
    let with_pairs = some(|device| device.half.is_some());
    let columns = |wanted: bool, names: &'static [&'static str]| {
        names.iter().copied().filter(move |_| wanted)
    };
    let mut table = Table::new(
        ["NETWORK", "GUEST", "MAC"]
            .into_iter()
            .chain(columns(with_links, &["KIND", "NETDEV", "ON"]))
            .chain(columns(
                with_functions,
                &["PF", "VF", "PCI ADDRESS", "DRIVER"],
            ))
            .chain(columns(with_pairs, &["HALF", "NEGOTIATED"]))
            .chain(["FOR"])
            .chain(columns(with_state, &["STATE"])),
    );
    for device in lent {
        let mut cells = vec![
            device.network.clone(),
            device.guest.clone(),
            device.mac.clone(),
        ];
        if with_links {
            cells.extend([
                Some(kind(device)),
                device.host_netdev.clone(),
                device.parent.clone(),
            ]);
        }
        if with_functions {
            cells.extend([
                device.pf.clone(),
                device.vf.map(|number| number.to_string()),
                device.pci_address.clone(),
                device.driver.clone(),
            ]);
        }
        if with_pairs {
            let half = device.half.as_ref();
            let negotiated = half.and_then(|half| half.negotiated);
            cells.extend([
                half.map(|half| half.role.clone()),
                negotiated.map(|is| if is { "yes" } else { "no" }.to_owned()),
            ]);
        }
        let since = since(device);
        cells.push(since.map(|since| Span::of_seconds(now.saturating_sub(since)).to_string()));
        if with_state {
            cells.push(Some(match device.vanished {
                true => format!("{}, vanished", device.state),
                false => device.state.clone(),
            }));
        }
        table.row(cells);
    }
    table
}

/// How it is lent; of a macvtap, the mode too.
fn kind(device: &Lent) -> String {
    match &device.mode {
        Some(mode) => format!("{} {mode}", device.kind.word()),
        None => device.kind.word().to_owned(),
    }
}

/// What went through each.
fn stats(lent: &[Lent]) -> Table {
    let mut table = Table::new([
        "GUEST",
        "MAC",
        "DEVICE",
        "RX BYTES",
        "RX PACKETS",
        "RX DROPS",
        "MULTICAST",
        "BROADCAST",
        "TX BYTES",
        "TX PACKETS",
        "TX DROPS",
    ]);
    table.align_right(3..=10);
    for device in lent {
        let counters = device.counters.as_ref();
        let always = |value: fn(&GuestCounters) -> u64| counters.map(value);
        let sometimes = |value: fn(&GuestCounters) -> Option<u64>| counters.and_then(value);
        let numbers = [
            always(|of| of.rx_bytes),
            always(|of| of.rx_packets),
            always(|of| of.rx_dropped),
            sometimes(|of| of.rx_multicast),
            sometimes(|of| of.rx_broadcast),
            always(|of| of.tx_bytes),
            always(|of| of.tx_packets),
            always(|of| of.tx_dropped),
        ];
        let names = [device.guest.clone(), device.mac.clone(), place(device)];
        let numbers = numbers.map(|number| number.map(|number| number.to_string()));
        table.row(names.into_iter().chain(numbers));
    }
    table
}

/// The device in a word or two: its interface on the host, or which VF it is, or its address.
fn place(device: &Lent) -> Option<String> {
    let vf = || Some(format!("{} VF {}", device.pf.as_ref()?, device.vf?));
    (device.host_netdev.clone())
        .or_else(vf)
        .or_else(|| device.pci_address.clone())
        .or_else(|| device.parent.clone())
}

/// When it was lent; none while it is only claimed.
fn since(device: &Lent) -> Option<i64> {
    (device.since != 0).then_some(device.since)
}

/// The names that scripts rely on.
#[derive(Serialize)]
struct Row<'a> {
    kind: &'static str,
    network: Option<&'a str>,
    guest: Option<&'a str>,
    guest_uuid: Option<String>,
    mac: Option<&'a str>,
    alias: Option<&'a str>,
    pair: Option<String>,
    role: Option<&'a str>,
    negotiated: Option<bool>,
    advice: Option<&'a str>,
    pf: Option<&'a str>,
    vf: Option<u32>,
    pci_address: Option<&'a str>,
    driver: Option<&'a str>,
    host_netdev: Option<&'a str>,
    parent: Option<&'a str>,
    mode: Option<&'a str>,
    state: &'a str,
    vanished: bool,
    since: Option<i64>,
    port: Option<String>,
    stats: Option<Stats>,
}

#[derive(Serialize)]
struct Stats {
    rx_bytes: u64,
    rx_packets: u64,
    rx_errors: Option<u64>,
    rx_dropped: u64,
    rx_multicast: Option<u64>,
    rx_broadcast: Option<u64>,
    tx_bytes: u64,
    tx_packets: u64,
    tx_errors: Option<u64>,
    tx_dropped: u64,
    tx_multicast: Option<u64>,
    tx_broadcast: Option<u64>,
}

impl<'a> From<&'a Lent> for Row<'a> {
    fn from(lent: &'a Lent) -> Self {
        let half = lent.half.as_ref();
        Self {
            kind: lent.kind.word(),
            network: lent.network.as_deref(),
            guest: lent.guest.as_deref(),
            guest_uuid: lent.guest_uuid.map(|uuid| uuid.to_string()),
            mac: lent.mac.as_deref(),
            alias: lent.alias.as_deref(),
            pair: half.map(|half| half.pair.to_string()),
            role: half.map(|half| half.role.as_str()),
            negotiated: half.and_then(|half| half.negotiated),
            advice: half.and_then(|half| half.advice.as_deref()),
            pf: lent.pf.as_deref(),
            vf: lent.vf,
            pci_address: lent.pci_address.as_deref(),
            driver: lent.driver.as_deref(),
            host_netdev: lent.host_netdev.as_deref(),
            parent: lent.parent.as_deref(),
            mode: lent.mode.as_deref(),
            state: &lent.state,
            vanished: lent.vanished,
            since: since(lent),
            port: Some(lent.port)
                .filter(|port| !port.is_nil())
                .map(|port| port.to_string()),
            stats: lent.counters.as_ref().map(Stats::from),
        }
    }
}

impl From<&GuestCounters> for Stats {
    fn from(counters: &GuestCounters) -> Self {
        Self {
            rx_bytes: counters.rx_bytes,
            rx_packets: counters.rx_packets,
            rx_errors: counters.rx_errors,
            rx_dropped: counters.rx_dropped,
            rx_multicast: counters.rx_multicast,
            rx_broadcast: counters.rx_broadcast,
            tx_bytes: counters.tx_bytes,
            tx_packets: counters.tx_packets,
            tx_errors: counters.tx_errors,
            tx_dropped: counters.tx_dropped,
            tx_multicast: counters.tx_multicast,
            tx_broadcast: counters.tx_broadcast,
        }
    }
}
