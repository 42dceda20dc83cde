//! Guests whose receive filters the host follows (`trustGuestRxFilters`): what a guest's driver
//! lets in, its macvtap lets in.

use std::sync::Arc;
use std::time::Duration;

use conf::{Interface, MacAddress, Plug};
use host::RxFilter;
use qemu::{Event, Guest};
use rpc::DomainNicMacChange;
use serde_json::{Value, json};

use super::{DomainObject, Running};
use crate::daemon::Daemon;
use crate::fault;
use crate::sync::lock;

/// QEMU answers at once; a guest that hangs does not matter for it.
const DEADLINE: Duration = Duration::from_secs(10);
/// Multicast groups that are followed one by one; with more, all are let in.
const MOST_GROUPS: usize = 64;

/// A macvtap whose guest is trusted.
struct Followed {
    alias: String,
    ifindex: u32,
    mac: MacAddress,
}

/// What a guest's driver asked its card for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    mac: Option<MacAddress>,
    filter: RxFilter,
}

impl Daemon {
    /// A guest's driver changed what it lets in.
    pub(super) async fn filter_changed(&self, object: &Arc<DomainObject>, event: &Event) {
        let Some(alias) = event.text("name") else {
            return;
        };
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
                    line.holder.guest == running.domain.uuid
                        && line.holder.mac == Some(interface.mac)
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
        let monitor = guest.qmp().map_err(|error| said(&error))?;
        // Asking is also what has QEMU tell of the next change.
        let answer = monitor
            .execute(
                "query-rx-filter",
                json!({ "name": macvtap.alias }),
                Vec::new(),
                DEADLINE,
            )
            .await
            .map_err(|error| said(&error))?;
        let asked = Asked::read(&answer).ok_or("QEMU's answer makes no sense")?;
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

impl Asked {
    /// QEMU's `RxFilterInfo` (`qapi/net.json`). A guest with VLANs of its own gets all frames,
    /// since macvtap knows no VLAN filter; so does one whose table of addresses ran over.
    fn read(answer: &Value) -> Option<Self> {
        let info = answer.as_array()?.first()?;
        let flag = |name: &str| info.get(name).and_then(Value::as_bool).unwrap_or(false);
        let word = |name: &str| info.get(name).and_then(Value::as_str).unwrap_or("none");
        let macs = |name: &str| -> Vec<MacAddress> {
            let table = info.get(name).and_then(Value::as_array);
            let texts = table.into_iter().flatten().filter_map(Value::as_str);
            texts.filter_map(|text| text.parse().ok()).collect()
        };
        let vlans = info.get("vlan-table").and_then(Value::as_array);
        let has_vlans = word("vlan") != "none" && vlans.is_some_and(|table| !table.is_empty());
        let groups = macs("multicast-table");
        let more_unicast = !macs("unicast-table").is_empty() || flag("unicast-overflow");
        let all_multicast =
            word("multicast") == "all" || flag("multicast-overflow") || groups.len() > MOST_GROUPS;
        Some(Self {
            mac: info
                .get("main-mac")
                .and_then(Value::as_str)
                .and_then(|mac| mac.parse().ok())
                .filter(|mac: &MacAddress| !mac.is_zero() && !mac.is_multicast()),
            filter: RxFilter {
                promiscuous: flag("promiscuous")
                    || has_vlans
                    || more_unicast
                    || word("unicast") == "all",
                all_multicast,
                multicast: if all_multicast { Vec::new() } else { groups },
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(change: impl FnOnce(&mut Value)) -> Asked {
        let mut info = json!({
            "name": "net0", "promiscuous": false, "multicast": "normal", "unicast": "normal",
            "vlan": "none", "broadcast-allowed": true, "multicast-overflow": false,
            "unicast-overflow": false, "main-mac": "52:54:00:00:00:01", "vlan-table": [],
            "unicast-table": [], "multicast-table": ["01:00:5e:00:00:01"],
        });
        change(&mut info);
        Asked::read(&json!([info])).unwrap()
    }

    #[test]
    fn what_the_guest_asks_for_is_let_in() {
        let plain = asked(|_| {});
        assert_eq!(plain.mac, "52:54:00:00:00:01".parse().ok());
        assert!(!plain.filter.promiscuous && !plain.filter.all_multicast);
        assert_eq!(plain.filter.multicast.len(), 1);
        assert!(asked(|i| i["promiscuous"] = true.into()).filter.promiscuous);
        assert!(
            asked(|i| i["multicast"] = "all".into())
                .filter
                .all_multicast
        );
        assert!(
            asked(|i| i["multicast-overflow"] = true.into())
                .filter
                .all_multicast
        );
    }

    #[test]
    fn weakness_36_more_unicast_addresses_and_vlans_of_the_guest_get_through() {
        let more = json!(["52:54:00:00:00:02"]);
        assert!(asked(|i| i["unicast-table"] = more).filter.promiscuous);
        let tagged = asked(|i| {
            i["vlan"] = "normal".into();
            i["vlan-table"] = json!([7]);
        });
        assert!(tagged.filter.promiscuous);
    }

    #[test]
    fn an_answer_without_sense_changes_nothing() {
        for answer in [json!({}), json!([]), json!("x")] {
            assert!(Asked::read(&answer).is_none(), "{answer}");
        }
        assert_eq!(
            asked(|i| i["main-mac"] = "01:00:5e:00:00:01".into()).mac,
            None
        );
    }
}
