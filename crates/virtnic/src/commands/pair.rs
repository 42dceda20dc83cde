//! `virtnic promote` and `virtnic demote`.

use std::process::ExitCode;

use clap::Args;
use rpc::{Lent, VirtnicDemote, VirtnicPromote, VirtnicWho};
use serde::Serialize;

use super::{ask, call};
use crate::cli::DaemonArgs;
use crate::connect::Intent;
use crate::failure::{self, Failure};
use crate::output::{self, Table};

/// Plug the VFs of a running guest's pairs in, as after maintenance of their PF
#[derive(Debug, Args)]
#[command(after_long_help = PROMOTE_HELP)]
pub(crate) struct Promote {
    #[command(flatten)]
    of: Pairs,
}

/// Unplug the VFs of a running guest's pairs: it goes on over virtio, and gets none until promoted
#[derive(Debug, Args)]
#[command(after_long_help = DEMOTE_HELP)]
pub(crate) struct Demote {
    #[command(flatten)]
    of: Pairs,
}

#[derive(Debug, Args)]
struct Pairs {
    /// The guest's name or uuid
    guest: String,

    /// Only the pair with that MAC address
    #[arg(long)]
    mac: Option<String>,

    /// As a JSON array (--help names the fields)
    #[arg(long)]
    json: bool,
}

/// The fields of [`Row`], for help texts.
macro_rules! fields {
    () => {
        "
Fields of each object of --json, null where there is no value:
  alias        the name of the VF in the guest
  mac          the pair's MAC address
  pf           the network interface of the physical function
  vf           the number of the virtual function
  pci_address  as \"0000:03:10.2\"
  state        as virtnic who tells it: lent, pending, parted, owed"
    };
}

const PROMOTE_HELP: &str = concat!(
    "\
Exit status:
  0  the VFs are plugged in
  1  the daemon refused, in the words on standard error
  2  the command line is wrong
  3  no daemon answers
",
    fields!()
);

const DEMOTE_HELP: &str = concat!(
    "\
Exit status:
  0  the VFs are out of the guest
  1  the daemon refused, in the words on standard error
  2  the command line is wrong
  3  no daemon answers
  4  the guest was asked to let one go, and has not answered yet
",
    fields!()
);

/// The state of a VF that the guest was asked for.
const PENDING: &str = "pending";

impl Promote {
    pub(super) fn run(&self, daemon: &DaemonArgs) -> Result<ExitCode, Failure> {
        let (guest, mac) = self.of.named();
        let aliases = call(daemon, Intent::Change, &VirtnicPromote { guest, mac })?;
        self.of.tell(daemon, &aliases)
    }
}

impl Demote {
    pub(super) fn run(&self, daemon: &DaemonArgs) -> Result<ExitCode, Failure> {
        let (guest, mac) = self.of.named();
        let aliases = call(daemon, Intent::Change, &VirtnicDemote { guest, mac })?;
        self.of.tell(daemon, &aliases)
    }
}

impl Pairs {
    fn named(&self) -> (String, Option<String>) {
        (self.guest.clone(), self.mac.clone())
    }

    /// Tells what became of the VFs, which the daemon is asked for.
    fn tell(&self, daemon: &DaemonArgs, aliases: &[String]) -> Result<ExitCode, Failure> {
        let question = VirtnicWho {
            filter: None,
            counters: false,
        };
        let mut lent = ask(daemon, &question)?;
        lent.retain(|row| self.is_its(row));
        let rows: Vec<Row<'_>> = aliases.iter().map(|alias| Row::of(alias, &lent)).collect();
        if self.json {
            output::json(&rows)?;
        } else {
            output::table(&table(&rows))?;
        }
        let is_pending = rows.iter().any(|row| row.state == Some(PENDING));
        if is_pending && !self.json {
            output::remark(
                "the guest has not let it go yet; virtnic who tells when it has".to_owned(),
            );
        }
        Ok(match is_pending {
            true => failure::answer_is_no(),
            false => ExitCode::SUCCESS,
        })
    }

    fn is_its(&self, row: &Lent) -> bool {
        let uuid = row.guest_uuid.map(|uuid| uuid.to_string());
        row.guest.as_ref() == Some(&self.guest) || uuid.is_some_and(|uuid| uuid == self.guest)
    }
}

fn table(rows: &[Row<'_>]) -> Table {
    let mut table = Table::new(["DEVICE", "MAC", "PF", "VF", "PCI ADDRESS", "STATE"]);
    let text = |text: Option<&str>| text.map(str::to_owned);
    for row in rows {
        table.row([
            Some(row.alias.to_owned()),
            text(row.mac),
            text(row.pf),
            row.vf.map(|number| number.to_string()),
            text(row.pci_address),
            text(row.state),
        ]);
    }
    table
}

/// The names that scripts rely on.
#[derive(Serialize)]
struct Row<'a> {
    alias: &'a str,
    mac: Option<&'a str>,
    pf: Option<&'a str>,
    vf: Option<u32>,
    pci_address: Option<&'a str>,
    state: Option<&'a str>,
}

impl<'a> Row<'a> {
    /// Of what the guest has under that name; nothing is known of one that went meanwhile.
    fn of(alias: &'a str, lent: &'a [Lent]) -> Self {
        let its = lent.iter().find(|row| row.alias.as_deref() == Some(alias));
        Self {
            alias,
            mac: its.and_then(|row| row.mac.as_deref()),
            pf: its.and_then(|row| row.pf.as_deref()),
            vf: its.and_then(|row| row.vf),
            pci_address: its.and_then(|row| row.pci_address.as_deref()),
            state: its.map(|row| row.state.as_str()),
        }
    }
}
