//! VF settings as lists, to compare what is wanted with what the kernel tells.

use conf::VfLink;
use host::{Host, VfAbilities, VfSetting, VfState, VlanProtocol};

use crate::config::VfConfig;
use crate::error::Obstacle;
use crate::patience::patiently;
use crate::record::VfWork;
use crate::step::Step;

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
/// could verify or undo it; so is one that the driver is known not to set, though the kernel tells
/// it for every driver.
pub(crate) fn wanted(
    config: &VfConfig,
    state: &VfState,
    abilities: VfAbilities,
) -> Result<Vec<VfSetting>, Obstacle> {
    let settings = told_settings(config, state)?;
    let told = told(state);
    // What is so already is not set.
    let refused = settings
        .iter()
        .find(|setting| !abilities.allow(**setting) && !told.contains(setting));
    match refused {
        None => Ok(settings),
        Some(VfSetting::Vlan { .. }) => missing("802.1ad VLAN"),
        Some(VfSetting::Rate { .. }) => missing("guaranteed rate"),
        Some(_) => missing("link state"),
    }
}

fn missing<T>(attribute: &'static str) -> Result<T, Obstacle> {
    Err(Obstacle::NotOffered { attribute })
}

fn told_settings(config: &VfConfig, state: &VfState) -> Result<Vec<VfSetting>, Obstacle> {
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

/// The MAC is set even if it seems to be set already: some drivers tell the one that the VF chose
/// for itself, which it could change. What else the kernel tells to be as wanted is left alone:
/// drivers refuse to set what they don't have, though they tell its neutral value.
pub(crate) fn steps_to_make(settings: &[VfSetting], original: &VfState) -> Vec<Step> {
    let differing = differing(settings, original);
    let make = settings.iter().copied().filter(|setting| {
        matches!(setting, VfSetting::Mac(_))
            || differing.iter().any(|(wanted, _)| wanted == setting)
    });
    make.map(Step::Set).collect()
}

/// What the VF has now; a failure, if that is not what it was given.
pub(crate) fn read_back(host: &dyn Host, work: &VfWork) -> Result<VfState, Obstacle> {
    let found = patiently(|| {
        let state = host.vf_state(&work.vf)?;
        let differing = differing(&work.settings, &state);
        let kept = differing.is_empty();
        Ok(((state, differing), kept))
    });
    let (state, differing) = found?;
    match differing.first() {
        None => Ok(state),
        Some((wanted, found)) => Err(Obstacle::NotKept {
            wanted: describe(*wanted),
            found: found.map_or_else(|| "nothing".to_owned(), describe),
        }),
    }
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
