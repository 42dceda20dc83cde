//! Guests whose receive filters the host follows (`trustGuestRxFilters`): what a guest's driver
//! lets in, its macvtap lets in.

use std::sync::Arc;

use conf::{Interface, MacAddress, Plug};
use qemu::Guest;
use rpc::DomainNicMacChange;

use super::{DomainObject, Running};
use crate::daemon::Daemon;
use crate::fault;
use crate::sync::lock;

/// A macvtap whose guest is trusted.
struct Followed {
    alias: String,
    ifindex: u32,
    mac: MacAddress,
}

impl Daemon {
    /// A guest's driver changed what it lets in.
    pub(super) async fn filter_changed(&self, object: &Arc<DomainObject>, alias: &str) {
        let _job = object.job.lock().await;
        self.follow_filters(object, Some(alias)).await;
    }

    /// Brings the filters of a guest's trusted macvtaps to what its driver asks for; of one, or of
    /// all. Under its job.
    pub(super) async fn follow_filters(&self, object: &Arc<DomainObject>, alias: Option<&str>) {
        let (guest, followed) = {
            let status = lock(&object.state);
            let Some(running) = &status.running else {
                return;
            };
            (running.guest.clone(), self.followed(running, alias))
        };
        for macvtap in followed {
            if let Err(error) = self.follow_one(object, &guest, &macvtap).await {
                tracing::warn!(
                    guest = object.name,
                    alias = macvtap.alias,
                    error,
                    "its receive filter is not followed"
                );
            }
        }
    }

    fn followed(&self, running: &Running, alias: Option<&str>) -> Vec<Followed> {
        let interfaces = running.domain.devices.interfaces.iter();
        let trusted = interfaces.filter(|interface| is_followed(interface));
        let lines = self.lender.list();
        trusted
            .filter(|interface| alias.is_none() || interface.info.alias.as_deref() == alias)
            .filter_map(|interface| {
                let line = lines.iter().find(|line| {
                    line.owner.guest == running.domain.uuid
                        && line.owner.mac == Some(interface.mac)
                        && line.ifindex.is_some()
                })?;
                Some(Followed {
                    alias: interface.info.alias.clone()?,
                    ifindex: line.ifindex?,
                    mac: interface.mac,
                })
            })
            .collect()
    }

    async fn follow_one(
        &self,
        object: &Arc<DomainObject>,
        guest: &Guest,
        macvtap: &Followed,
    ) -> Result<(), String> {
        let said = |error: &dyn std::error::Error| fault::chain(error);
        // Asking is also what has QEMU tell of the next change.
        let asked = guest.rx_filter(&macvtap.alias).await;
        let asked = asked.map_err(|error| said(&error))?;
        let (host, ifindex) = (Arc::clone(&self.host), macvtap.ifindex);
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
            self.events.tell(DomainNicMacChange {
                dom: object.dom(),
                alias: macvtap.alias.clone(),
                old_mac: macvtap.mac.to_string(),
                new_mac: mac.to_string(),
            });
        }
        Ok(())
    }
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
