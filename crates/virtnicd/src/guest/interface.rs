//! A guest's interfaces, one by one: which is meant, what it is on the host, and what went through.

use std::sync::Arc;

use assign::{Kind, Phase};
use conf::{Interface, MacAddress};
use host::{Counters, VirtualFunction};
use lending::Ledger;
use rpc::{Code, Error, InterfaceStats};

use super::attachment::line_of;
use super::handle::Run;
use super::{GuestHandle, QEMU};
use crate::blocking::blocking;
use crate::daemon::Daemon;
use crate::fault::{self, Result};

/// What carries an interface's frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Carrier {
    /// A network device that was made for it, the index of that one, and its claim.
    Link {
        kind: Kind,
        ifindex: u32,
        claim: assign::Generation,
    },
    /// A VF that the guest drives itself, and its claim.
    Vf {
        vf: VirtualFunction,
        claim: assign::Generation,
    },
    /// QEMU alone, or nothing any more.
    Nothing,
}

/// The interface that a client means: its MAC, or the name of its device on the host.
pub(super) fn find(interfaces: &[Interface], device: &str, guest: &str) -> Result<usize> {
    let mac: Option<MacAddress> = device.parse().ok();
    let is_it = |interface: &Interface| match mac {
        Some(mac) => interface.mac == mac,
        None => interface.target.as_deref() == Some(device),
    };
    let mut found = (0..interfaces.len()).filter(|&place| is_it(&interfaces[place]));
    let detail = match (found.next(), found.next()) {
        (Some(place), None) => return Ok(place),
        (Some(_), Some(_)) => {
            format!("guest '{guest}' has more than one interface '{device}'; name its device")
        }
        (None, _) => format!("'{device}' is not a known interface of guest '{guest}'"),
    };
    Err(Error::new(Code::InvalidArg, QEMU, detail))
}

impl Carrier {
    /// What carries an interface of a running guest.
    pub(super) fn of(interface: &Interface, run: &Run, lender: &Ledger) -> Self {
        let line = line_of(&run.attachments, interface, |claim| lender.find(claim));
        let Some(line) = line.filter(|line| line.phase == Phase::Lent) else {
            return Self::Nothing;
        };
        let claim = line.generation;
        match (line.kind, line.ifindex, &line.vf) {
            (Some(kind @ (Kind::Macvtap | Kind::Tap)), Some(ifindex), _) => Self::Link {
                kind,
                ifindex,
                claim,
            },
            (Some(Kind::Hostdev), _, Some(vf)) => Self::Vf {
                vf: vf.clone(),
                claim,
            },
            _ => Self::Nothing,
        }
    }
}

/// How an interface is named in lists of numbers: by its device, or else as `domifstat` finds it.
pub(super) fn name_of(interface: &Interface) -> String {
    match interface.target_name() {
        Some(target) => target.to_owned(),
        None => interface.mac.to_string(),
    }
}

/// `-1`: not known.
pub(super) fn wire_stats(counters: &Counters) -> InterfaceStats {
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let maybe = |value: Option<u64>| value.map_or(-1, number);
    InterfaceStats {
        rx_bytes: number(counters.rx_bytes),
        rx_packets: number(counters.rx_packets),
        rx_errs: maybe(counters.rx_errors),
        rx_drop: number(counters.rx_dropped),
        tx_bytes: number(counters.tx_bytes),
        tx_packets: number(counters.tx_packets),
        tx_errs: maybe(counters.tx_errors),
        tx_drop: number(counters.tx_dropped),
    }
}

impl Daemon {
    /// What went through an interface, as its guest sees it: `virsh domifstat`.
    pub(crate) async fn interface_stats(
        self: &Arc<Self>,
        handle: &GuestHandle,
        device: &str,
    ) -> Result<InterfaceStats> {
        let run = handle.run()?;
        let interfaces = &run.domain.devices.interfaces;
        let place = find(interfaces, device, &handle.name)?;
        let carrier = Carrier::of(&interfaces[place], &run, &self.lender);
        let (daemon, asked) = (Arc::clone(self), carrier.clone());
        let counters = blocking(QEMU, move || daemon.counters(&asked)).await?;
        let counters = counters.map_err(fault::host(QEMU))?;
        counters
            .map(|counters| wire_stats(&counters))
            .ok_or_else(|| {
                let detail = match &carrier {
                    Carrier::Vf { vf, .. } => format!(
                        "nothing is counted for '{device}' so far: nothing passed through VF {} of \
                     '{}', or its driver does not count",
                        vf.number, vf.pf_netdev
                    ),
                    _ => format!("'{device}' has no device on this host that would count"),
                };
                Error::new(Code::OperationUnsupported, QEMU, detail)
            })
    }

    /// What went through a carrier, as the guest sees it; `None`: nothing counts there. Blocks.
    pub(super) fn counters(
        &self,
        carrier: &Carrier,
    ) -> std::result::Result<Option<Counters>, host::HostError> {
        match carrier {
            Carrier::Link { kind, ifindex, .. } => {
                let counters = self.host.netdev_counters(*ifindex)?;
                // What a tap sends, its guest receives. A macvtap stands on the guest's side.
                Ok(Some(match kind {
                    Kind::Tap => counters.from_other_end(),
                    Kind::Macvtap | Kind::Hostdev | Kind::Usb => counters,
                }))
            }
            Carrier::Vf { vf, .. } => self.host.vf_counters(vf),
            Carrier::Nothing => Ok(None),
        }
    }
}
