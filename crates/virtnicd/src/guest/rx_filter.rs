//! Guests whose receive filters the host follows (`trustGuestRxFilters`): what a guest's driver
//! lets in, its macvtap lets in.

use std::sync::Arc;

use conf::{Interface, MacAddress, Plug};
use qemu::Guest;
use rpc::DomainNicMacChange;

use super::attachment::line_of;
use super::handle::{GuestHandle, Run};
use crate::daemon::Daemon;
use crate::fault;

/// A macvtap whose guest is trusted.
struct Followed {
    alias: String,
    ifindex: u32,
    mac: MacAddress,
}

/// Brings the filters of a guest's trusted macvtaps to what its driver asks for.
pub(super) async fn follow(
    daemon: &Arc<Daemon>,
    handle: &GuestHandle,
    run: &Run,
    is_wanted: impl Fn(&str) -> bool,
) {
    for macvtap in followed(daemon, run, is_wanted) {
        if let Err(error) = follow_one(daemon, handle, &run.machine, &macvtap).await {
            tracing::warn!(
                guest = handle.name,
                alias = macvtap.alias,
                error,
                "its receive filter is not followed"
            );
        }
    }
}

fn followed(daemon: &Daemon, run: &Run, is_wanted: impl Fn(&str) -> bool) -> Vec<Followed> {
    let interfaces = run.domain.devices.interfaces.iter();
    let trusted = interfaces.filter(|interface| is_followed(interface));
    trusted
        .filter_map(|interface| {
            let alias = interface.info.alias.clone()?;
            let line = is_wanted(&alias).then(|| {
                line_of(&run.attachments, interface, |claim| {
                    daemon.lender.find(claim)
                })
            })??;
            Some(Followed {
                alias,
                ifindex: line.ifindex?,
                mac: interface.mac,
            })
        })
        .collect()
}

async fn follow_one(
    daemon: &Arc<Daemon>,
    handle: &GuestHandle,
    machine: &Guest,
    macvtap: &Followed,
) -> Result<(), String> {
    let said = |error: &dyn std::error::Error| fault::chain(error);
    // Asking is also what has QEMU tell of the next change.
    let asked = machine.rx_filter(&macvtap.alias).await;
    let asked = asked.map_err(|error| said(&error))?;
    let (host, ifindex) = (Arc::clone(&daemon.host), macvtap.ifindex);
    let filter = asked.filter;
    let mac = asked.mac;
    let set = tokio::task::spawn_blocking(move || {
        if let Some(mac) = mac {
            host.set_mac(ifindex, mac)?;
        }
        host.set_rx_filter(ifindex, &filter)
    });
    set.await
        .map_err(|_| "setting it broke off".to_owned())?
        .map_err(|error| said(&error))?;
    if let Some(mac) = mac.filter(|mac| *mac != macvtap.mac) {
        daemon.events.tell(DomainNicMacChange {
            dom: handle.dom(),
            alias: macvtap.alias.clone(),
            old_mac: macvtap.mac.to_string(),
            new_mac: mac.to_string(),
        });
    }
    Ok(())
}

fn is_followed(interface: &Interface) -> bool {
    let (plug, trusted) = match &interface.actual {
        Some(actual) => (
            matches!(actual.plug, Plug::Direct { .. }),
            actual.trust_guest_rx_filters,
        ),
        None => (
            matches!(interface.source, conf::InterfaceSource::Direct { .. }),
            interface.trust_guest_rx_filters,
        ),
    };
    plug && trusted == Some(true) && interface.is_virtio()
}
