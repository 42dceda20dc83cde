//! `virtnic nics`.

use clap::Args;
use rpc::{Nic, NicAbility, VirtnicNics};
use serde::Serialize;

use super::ask;
use super::pool::{Ability, ability};
use crate::cli::DaemonArgs;
use crate::failure::Failure;
use crate::output::{self, Table};

/// Show the host's network cards: which make VFs, which can offload macvlans, which are plain
#[derive(Debug, Args)]
#[command(visible_alias = "nodedev", after_long_help = JSON_HELP)]
pub(crate) struct Nics {
    /// VFs too
    #[arg(long)]
    vfs: bool,

    /// As a JSON array, VFs included (--help names the fields)
    #[arg(long)]
    json: bool,
}

const JSON_HELP: &str = "\
Abilities:
  SR-IOV           it makes VFs, which are lent whole (hostdev), or carry a macvtap each
  macvlan offload  it sorts the frames of macvtaps itself, if that is switched on:
                   ethtool -K NIC l2-fwd-offload on
  Ethernet         macvtaps and bridges on it are done in software

Fields of each object of --json, null where there is no value:
  name         the network device
  ability      sr-iov, vf, macvlan-offload, ethernet
  vfs          VFs that it has, if it is sr-iov
  max_vfs      VFs that it can make, if it is sr-iov
  offload      whether macvlan-offload is switched on
  mac          as \"52:54:00:00:00:01\"
  kind         what made it, in the kernel's word, as \"bond\"; null for a card's own
  pci_address  as \"0000:03:00.0\"
  driver       the driver of that PCI function
  numa_node    the NUMA node of that PCI function
  up           whether it is administratively up
  carrier      whether its wire is alive
  mtu          in bytes
  master       the bridge, bond or team that it is in
  networks     the active networks that lend it, or its VFs
  drained      whether it was drained, so that nothing of it is lent: virtnic undrain NIC";

impl Nics {
    pub(super) fn run(&self, daemon: &DaemonArgs) -> Result<(), Failure> {
        let mut nics = ask(daemon, &VirtnicNics {})?;
        if self.json {
            let rows: Vec<Row<'_>> = nics.iter().map(Row::from).collect();
            return output::json(&rows);
        }
        let all = nics.len();
        if !self.vfs {
            nics.retain(|nic| nic.ability != NicAbility::VirtualFunction);
        }
        match (nics.is_empty(), all) {
            (true, 0) => output::remark("there are no network cards".to_owned()),
            (true, _) => output::remark("there are VFs only (--vfs shows them)".to_owned()),
            (false, _) => return output::table(&table(&nics)),
        }
        Ok(())
    }
}

fn table(nics: &[Nic]) -> Table {
    let with_kind = nics.iter().any(|nic| nic.kind.is_some());
    let with_drained = nics.iter().any(|nic| nic.drained);
    let mut table = Table::new(
        [
            "NIC",
            "ABILITY",
            "LINK",
            "DRIVER",
            "PCI ADDRESS",
            "NODE",
            "MASTER",
            "NETWORKS",
        ]
        .into_iter()
        .chain(with_kind.then_some("KIND"))
        .chain(with_drained.then_some("LENDS")),
    );
    for nic in nics {
        let cells = [
            Some(nic.name.clone()),
            Some(ability(&nic.ability)),
            Some(link(nic).to_owned()),
            nic.driver.clone(),
            nic.pci_address.clone(),
            nic.numa_node.map(|node| node.to_string()),
            nic.master.clone(),
            (!nic.networks.is_empty()).then(|| nic.networks.join(", ")),
        ];
        let kind = with_kind.then(|| nic.kind.clone());
        let lends = with_drained.then(|| nic.drained.then(|| "drained".to_owned()));
        table.row(cells.into_iter().chain(kind).chain(lends));
    }
    table
}

fn link(nic: &Nic) -> &'static str {
    match (nic.up, nic.carrier) {
        (false, _) => "down",
        (true, false) => "no carrier",
        (true, true) => "up",
    }
}

/// The names that scripts rely on.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    #[serde(flatten)]
    ability: Ability,
    mac: Option<&'a str>,
    kind: Option<&'a str>,
    pci_address: Option<&'a str>,
    driver: Option<&'a str>,
    numa_node: Option<u32>,
    up: bool,
    carrier: bool,
    mtu: u32,
    master: Option<&'a str>,
    networks: &'a [String],
    drained: bool,
}

impl<'a> From<&'a Nic> for Row<'a> {
    fn from(nic: &'a Nic) -> Self {
        Self {
            name: &nic.name,
            ability: Ability::from(&nic.ability),
            mac: nic.mac.as_deref(),
            kind: nic.kind.as_deref(),
            pci_address: nic.pci_address.as_deref(),
            driver: nic.driver.as_deref(),
            numa_node: nic.numa_node,
            up: nic.up,
            carrier: nic.carrier,
            mtu: nic.mtu,
            master: nic.master.as_deref(),
            networks: &nic.networks,
            drained: nic.drained,
        }
    }
}
