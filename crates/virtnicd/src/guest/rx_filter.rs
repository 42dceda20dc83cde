//! Guests whose receive filters the host follows (`trustGuestRxFilters`): what a guest's driver
//! lets in, its macvtap lets in.

use std::sync::Arc;

use assign::Kind;
use conf::{Interface, MacAddress, NetdevName, Plug};
use host::{Host, HostError, RxFilter};
use qemu::Guest;
use rpc::{Code, DomainNicMacChange, Error};

use super::QEMU;
use super::attachment::line_of;
use super::handle::{GuestHandle, Run};
use crate::blocking::blocking;
use crate::daemon::Daemon;
use crate::fault;

/// A macvtap whose guest is trusted.
struct Followed {
    alias: String,
    name: NetdevName,
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

/// Has a macvtap let in what its new document says: what the guest's driver asks for, if it is trusted,
/// else its own MAC and all multicasts. A failure leaves it as it was. What is no macvtap has no filter of
/// ours.
pub(super) async fn set_trust(
    daemon: &Arc<Daemon>,
    handle: &GuestHandle,
    run: &Run,
    interface: &Interface,
) -> Result<(), Error> {
    let Some(macvtap) = macvtap_of(daemon, run, interface) else {
        return Ok(());
    };
    let host = Arc::clone(&daemon.host);
    let (name, ifindex) = (macvtap.name, macvtap.ifindex);
    let read = move || Ok((mac_of(&*host, name, ifindex)?, host.rx_filter(ifindex)?));
    let (mac, filter) = blocking(QEMU, read).await?.map_err(fault::host(QEMU))?;
    let set = match is_followed(interface) {
        true => follow_one(daemon, handle, &run.machine, &macvtap).await,
        false => let_in(daemon, &macvtap, Some(interface.mac), all_multicast()).await,
    };
    let Err(error) = set else {
        return Ok(());
    };
    if let Err(error) = let_in(daemon, &macvtap, mac, filter).await {
        tracing::error!(
            guest = handle.name,
            alias = macvtap.alias,
            error,
            "its receive filter is not as it was"
        );
    }
    let detail = format!(
        "the receive filter of interface {} can't be set: {error}",
        interface.mac
    );
    Err(Error::new(Code::OperationFailed, QEMU, detail))
}

/// Every macvtap whose guest is not trusted lets in what it did from its start on: a change was cut
/// short. The others are followed in any case.
pub(super) async fn put_right(
    daemon: &Arc<Daemon>,
    handle: &GuestHandle,
    run: &Run,
) -> Result<(), Error> {
    let interfaces = run.domain.devices.interfaces.iter();
    for interface in interfaces.filter(|interface| !is_trusted(interface)) {
        set_trust(daemon, handle, run, interface).await?;
    }
    Ok(())
}

async fn let_in(
    daemon: &Arc<Daemon>,
    macvtap: &Followed,
    mac: Option<MacAddress>,
    filter: RxFilter,
) -> Result<(), String> {
    let host = Arc::clone(&daemon.host);
    let (name, ifindex) = (macvtap.name, macvtap.ifindex);
    let set = tokio::task::spawn_blocking(move || {
        // Drivers of devices in passthrough mode may refuse one that they have.
        if let Some(mac) = mac
            && mac_of(&*host, name, ifindex)? != Some(mac)
        {
            host.set_mac(ifindex, mac)?;
        }
        host.set_rx_filter(ifindex, &filter)
    });
    set.await
        .map_err(|_| "setting it broke off".to_owned())?
        .map_err(|error| fault::chain(&error))
}

/// `None`: it has another name by now, and nobody knows its MAC.
fn mac_of(
    host: &dyn Host,
    name: NetdevName,
    ifindex: u32,
) -> Result<Option<MacAddress>, HostError> {
    match host.netdev(name.as_str()) {
        Ok(netdev) => Ok((netdev.index == ifindex).then_some(netdev.mac)),
        Err(HostError::NoNetdev(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn all_multicast() -> RxFilter {
    RxFilter {
        all_multicast: true,
        ..RxFilter::default()
    }
}

/// The macvtap that carries an interface, if one does.
fn macvtap_of(daemon: &Daemon, run: &Run, interface: &Interface) -> Option<Followed> {
    let line = line_of(&run.attachments, interface, |claim| {
        daemon.lender.find(claim)
    });
    let line = line.filter(|line| line.kind == Some(Kind::Macvtap))?;
    Some(Followed {
        alias: interface.info.alias.clone()?,
        name: line.netdev?,
        ifindex: line.ifindex?,
        mac: interface.mac,
    })
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
                name: line.netdev?,
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
    // Asking is also what has QEMU tell of the next change.
    let asked = machine.rx_filter(&macvtap.alias).await;
    let asked = asked.map_err(|error| fault::chain(&error))?;
    let filter = asked.filter;
    let mac = asked.mac;
    let_in(daemon, macvtap, mac, filter).await?;
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
    let is_macvtap = match &interface.actual {
        Some(actual) => matches!(actual.plug, Plug::Direct { .. }),
        None => matches!(interface.source, conf::InterfaceSource::Direct { .. }),
    };
    is_macvtap && is_trusted(interface) && interface.is_virtio()
}

/// Whether the guest may say what its interface lets in.
pub(super) fn is_trusted(interface: &Interface) -> bool {
    let trusted = match &interface.actual {
        Some(actual) => actual.trust_guest_rx_filters,
        None => interface.trust_guest_rx_filters,
    };
    trusted == Some(true)
}
