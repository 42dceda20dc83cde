//! What a guest's driver asks its network card to let in.

use conf::MacAddress;
use host::RxFilter;
use serde_json::Value;

/// Multicast groups that are followed one by one; with more, all are let in.
const MOST_GROUPS: usize = 64;

/// What a guest's driver asked its network card for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestRxFilter {
    /// The card's alias.
    pub alias: String,
    /// The MAC that the driver set; `None` where QEMU tells of none that a card can have.
    pub mac: Option<MacAddress>,
    /// What it lets in besides. A guest with VLANs of its own gets all frames, since macvtap knows
    /// no VLAN filter; so does one whose table of addresses ran over.
    pub filter: RxFilter,
}

impl GuestRxFilter {
    /// The cards of an answer to `query-rx-filter`: QEMU's `RxFilterInfo`.
    pub(super) fn list(answer: &Value) -> Option<Vec<Self>> {
        answer.as_array()?.iter().map(Self::read).collect()
    }

    fn read(info: &Value) -> Option<Self> {
        let flag = |name: &str| info.get(name).and_then(Value::as_bool).unwrap_or(false);
        let text = |name: &str| info.get(name).and_then(Value::as_str);
        let word = |name: &str| text(name).unwrap_or("none");
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
            alias: text("name")?.to_owned(),
            mac: text("main-mac")
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
    use serde_json::json;

    use super::*;

    fn asked(change: impl FnOnce(&mut Value)) -> GuestRxFilter {
        let mut info = json!({
            "name": "net0", "promiscuous": false, "multicast": "normal", "unicast": "normal",
            "vlan": "none", "broadcast-allowed": true, "multicast-overflow": false,
            "unicast-overflow": false, "main-mac": "52:54:00:00:00:01", "vlan-table": [],
            "unicast-table": [], "multicast-table": ["01:00:5e:00:00:01"],
        });
        change(&mut info);
        GuestRxFilter::list(&json!([info])).unwrap().remove(0)
    }

    #[test]
    fn what_the_guest_asks_for_is_let_in() {
        let plain = asked(|_| {});
        assert_eq!(plain.alias, "net0");
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
    fn an_answer_without_sense_is_none() {
        for answer in [json!({}), json!([{}]), json!("x")] {
            assert!(GuestRxFilter::list(&answer).is_none(), "{answer}");
        }
        assert_eq!(
            asked(|i| i["main-mac"] = "01:00:5e:00:00:01".into()).mac,
            None
        );
    }
}
