//! Numbers of many guests at once: `virsh domstats`.

use std::collections::HashMap;
use std::sync::Arc;

use assign::Assignment;
use conf::{Interface, Uuid};
use host::Counters;
use rpc::{Code, ConnectGetAllDomainStats, DomainStats, Error, TypedParam};

use super::interface::{Carrier, name_of};
use super::{DOMAIN, DomainObject};
use crate::daemon::Daemon;
use crate::fault::{self, Result};
use crate::sync::lock;

/// `VIR_DOMAIN_STATS_STATE`.
const STATE: u32 = 1;
/// `VIR_DOMAIN_STATS_INTERFACE`.
const INTERFACE: u32 = 16;
/// `VIR_CONNECT_GET_ALL_DOMAINS_STATS_ENFORCE_STATS`: a group that is not told is an error.
const ENFORCE: u32 = 0x8000_0000;

impl Daemon {
    /// The groups of numbers that are asked for, as far as they are told here, of those guests; no
    /// group: all. A guest that is gone by now is left out. Blocks.
    pub(crate) fn domain_stats(
        &self,
        guests: Vec<Arc<DomainObject>>,
        args: &ConnectGetAllDomainStats,
    ) -> Result<Vec<DomainStats>> {
        let untold = args.stats & !(STATE | INTERFACE);
        if args.flags & ENFORCE != 0 && untold != 0 {
            let detail = format!("groups of statistics {untold:#x} are not told here");
            return Err(Error::new(Code::ArgumentUnsupported, DOMAIN, detail));
        }
        let wants = |group: u32| args.stats == 0 || args.stats & group != 0;
        let mut lent: HashMap<Uuid, Vec<Assignment>> = HashMap::new();
        if wants(INTERFACE) {
            for line in self.lender.list() {
                lent.entry(line.holder.guest).or_default().push(line);
            }
        }
        let told = guests.into_iter().map(|object| {
            let mut params = Vec::new();
            if wants(STATE) {
                let now = object.state_and_reason();
                params.push(TypedParam::new("state.state", now.state));
                params.push(TypedParam::new("state.reason", now.reason));
            }
            if wants(INTERFACE) {
                let lines = lent.get(&object.uuid).map_or(&[][..], Vec::as_slice);
                self.interface_params(&object, lines, &mut params);
            }
            DomainStats {
                dom: object.dom(),
                params,
            }
        });
        Ok(told.collect())
    }

    /// The numbers of a running guest's interfaces.
    fn interface_params(
        &self,
        object: &DomainObject,
        lines: &[Assignment],
        params: &mut Vec<TypedParam>,
    ) {
        let carriers: Vec<(String, Carrier)> = {
            let status = lock(&object.state);
            let Some(running) = &status.running else {
                return;
            };
            let carrier = |interface: &Interface| {
                (
                    name_of(interface),
                    Carrier::of(interface, object.uuid, lines),
                )
            };
            let interfaces = running.domain.devices.interfaces.iter();
            interfaces.map(carrier).collect()
        };
        let count = u32::try_from(carriers.len()).unwrap_or(u32::MAX);
        params.push(TypedParam::new("net.count", count));
        for (number, (name, carrier)) in carriers.into_iter().enumerate() {
            params.push(TypedParam::new(format!("net.{number}.name"), name));
            match self.counters(&carrier) {
                Ok(Some(counters)) => counter_params(number, &counters, params),
                // What nobody counts is left out.
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(
                        guest = object.name,
                        error = fault::chain(&error),
                        "no numbers"
                    );
                }
            }
        }
    }
}

fn counter_params(number: usize, counters: &Counters, params: &mut Vec<TypedParam>) {
    let all = [
        ("rx.bytes", Some(counters.rx_bytes)),
        ("rx.pkts", Some(counters.rx_packets)),
        ("rx.errs", counters.rx_errors),
        ("rx.drop", Some(counters.rx_dropped)),
        ("tx.bytes", Some(counters.tx_bytes)),
        ("tx.pkts", Some(counters.tx_packets)),
        ("tx.errs", counters.tx_errors),
        ("tx.drop", Some(counters.tx_dropped)),
    ];
    for (name, value) in all {
        let field = format!("net.{number}.{name}");
        params.extend(value.map(|value| TypedParam::new(field, value)));
    }
}
