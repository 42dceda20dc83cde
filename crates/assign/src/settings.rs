//! VF settings as lists, to compare what is wanted with what the kernel tells.

use conf::VfLink;
use host::{VfSetting, VfState, VlanProtocol};

use crate::config::VfConfig;
use crate::error::Obstacle;

/// What the kernel tells, in the order in which settings are made.
pub(crate) fn told(state: &VfState) -> Vec<VfSetting> {
    let mut all = vec![
        VfSetting::Mac(state.mac),
        VfSetting::Vlan {
            id: state.vlan,
            qos: state.qos,
            protocol: state.vlan_protocol,
        },
    ];
    all.extend(state.spoof_check.map(VfSetting::SpoofCheck));
    all.extend(state.trust.map(VfSetting::Trust));
    all.extend(state.link.map(VfSetting::Link));
    all.push(VfSetting::Rate {
        min: state.min_rate,
        max: state.max_rate,
    });
    all.extend(state.rss_query.map(VfSetting::RssQuery));
    all
}

/// What a VF is to have: each attribute that its driver tells, at the value asked for or the
/// neutral one. One that is asked for and that the driver does not tell is refused, since nothing
/// could verify or undo it.
pub(crate) fn wanted(config: &VfConfig, state: &VfState) -> Result<Vec<VfSetting>, Obstacle> {
    let missing = |attribute| Err(Obstacle::NotOffered { attribute });
    let vlan = config.vlan.map_or(
        VfSetting::Vlan {
            id: 0,
            qos: 0,
            protocol: VlanProtocol::Dot1q,
        },
        |vlan| VfSetting::Vlan {
            id: vlan.id,
            qos: vlan.qos,
            protocol: vlan.protocol,
        },
    );
    let mut all = vec![VfSetting::Mac(config.mac), vlan];
    match (state.spoof_check, config.spoof_check) {
        (Some(_), asked) => all.push(VfSetting::SpoofCheck(asked.unwrap_or(true))),
        (None, Some(_)) => return missing("spoof check"),
        (None, None) => {}
    }
    match (state.trust, config.trust) {
        (Some(_), asked) => all.push(VfSetting::Trust(asked.unwrap_or(false))),
        (None, Some(_)) => return missing("trust"),
        (None, None) => {}
    }
    match (state.link, config.link) {
        (Some(_), asked) => all.push(VfSetting::Link(asked.unwrap_or(VfLink::Auto))),
        (None, Some(_)) => return missing("link state"),
        (None, None) => {}
    }
    all.push(VfSetting::Rate {
        min: config.min_rate,
        max: config.max_rate,
    });
    match (state.rss_query, config.rss_query) {
        (Some(_), asked) => all.push(VfSetting::RssQuery(asked.unwrap_or(false))),
        (None, Some(_)) => return missing("RSS query"),
        (None, None) => {}
    }
    Ok(all)
}

/// The settings that the kernel tells otherwise, each with what it tells.
pub(crate) fn differing(
    wanted: &[VfSetting],
    found: &VfState,
) -> Vec<(VfSetting, Option<VfSetting>)> {
    let told = told(found);
    (wanted.iter())
        .filter_map(|&wanted| {
            let found = told
                .iter()
                .find(|found| found.operation() == wanted.operation());
            let same = found.is_some_and(|&found| same(wanted, found));
            (!same).then_some((wanted, found.copied()))
        })
        .collect()
}

/// Priority and protocol of no VLAN don't matter.
fn same(one: VfSetting, other: VfSetting) -> bool {
    match (one, other) {
        (VfSetting::Vlan { id: 0, .. }, VfSetting::Vlan { id: 0, .. }) => true,
        _ => one == other,
    }
}

/// A setting in words.
pub(crate) fn describe(setting: VfSetting) -> String {
    let on = |on| if on { "on" } else { "off" };
    match setting {
        VfSetting::Mac(mac) if mac.is_zero() => "no MAC".to_owned(),
        VfSetting::Mac(mac) => format!("MAC {mac}"),
        VfSetting::Vlan { id: 0, .. } => "no VLAN".to_owned(),
        VfSetting::Vlan { id, qos, protocol } => {
            let protocol = match protocol {
                VlanProtocol::Dot1q => "",
                VlanProtocol::Dot1ad => " (802.1ad)",
            };
            match qos {
                0 => format!("VLAN {id}{protocol}"),
                qos => format!("VLAN {id}{protocol} priority {qos}"),
            }
        }
        VfSetting::SpoofCheck(yes) => format!("spoof check {}", on(yes)),
        VfSetting::Trust(yes) => format!("trust {}", on(yes)),
        VfSetting::Link(VfLink::Auto) => "link as the PF's".to_owned(),
        VfSetting::Link(VfLink::On) => "link on".to_owned(),
        VfSetting::Link(VfLink::Off) => "link off".to_owned(),
        VfSetting::Rate { min: 0, max: 0 } => "no rate limit".to_owned(),
        VfSetting::Rate { min, max } => format!("rate {min} to {max} Mbit/s"),
        VfSetting::RssQuery(yes) => format!("RSS query {}", on(yes)),
    }
}
