//! Which VF a network gives, and what it says when it has none.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod common;

use std::collections::BTreeMap;

use common::*;
use conf::{DeviceId, MacAddress, NumaPolicy, Spread};
use pool::{Closeness, Holder, Members, PfInfo, Place, Pool, RefusalCause, Row, Verdict};

/// The VF as a device.
fn id_of(n: u8, number: u8) -> DeviceId {
    vf(n, number).into()
}

fn pf_of(choice: &pool::Choice) -> conf::PciAddress {
    match &choice.place {
        Place::Vf { pf, .. } => *pf,
        Place::Nic => panic!("{choice} is no VF"),
    }
}

#[test]
fn a_pf_gives_its_vfs_by_number() {
    let mut pool = pool_of(1, |_| {});
    let given: Vec<_> = (0..7).map(|_| lend(&mut pool, "web")).collect();
    assert_eq!(given, [0, 1, 2, 3, 4, 5, 6].map(|number| id_of(1, number)));
    pool.release(vf(1, 3));
    assert_eq!(lend(&mut pool, "web"), id_of(1, 3));
}

#[test]
fn balance_takes_the_pf_with_the_fewest_lent() {
    let mut pool = pool_of(2, |_| {});
    let given: Vec<_> = (0..4).map(|_| lend(&mut pool, "web")).collect();
    let expected = [(1, 0), (2, 0), (1, 1), (2, 1)].map(|(n, number)| id_of(n, number));
    assert_eq!(given, expected);
    let choice = Ask::default().of(&pool).unwrap();
    assert_eq!(
        choice.to_string(),
        "VF 2 of ens1 (0000:01:10.2): of 2 PFs that have one, ens1 has the fewest lent (2 of 7)"
    );
}

#[test]
fn pack_fills_the_first_pf() {
    let mut pool = pool_of(2, |network| network.spread = Spread::Pack);
    let given: Vec<_> = (0..8).map(|_| lend(&mut pool, "web")).collect();
    assert_eq!(
        given[..7],
        [0, 1, 2, 3, 4, 5, 6].map(|number| id_of(1, number))
    );
    assert_eq!(given[7], id_of(2, 0));
}

#[test]
fn a_listed_vf_is_taken_in_the_lists_order_with_gaps() {
    let listed = [5, 1, 6].map(|number| id_of(1, number)).to_vec();
    let mut pool = pool_of(1, |network| {
        network.members = Members::Devices(listed.clone())
    });
    let given: Vec<_> = (0..3).map(|_| lend(&mut pool, "web")).collect();
    assert_eq!(given, listed);
    assert!(Ask::default().of(&pool).is_err());
}

#[test]
fn one_device_in_two_networks_is_lent_once() {
    let mut pool = pool_of(1, |_| {});
    let spec = whole_vfs(Members::Devices(vec![id_of(1, 0)]));
    pool.set_network("one", spec);
    assert_eq!(lend(&mut pool, "web"), id_of(1, 0));
    assert!(pool.free("one").is_empty());
    let taken = pool.claim(vf(1, 0), holder("other")).unwrap_err();
    assert_eq!(
        taken.to_string(),
        "0000:01:10.0 is lent to guest 'web' by network 'vfs'"
    );
    pool.release(vf(1, 0));
    assert_eq!(pool.free("one"), [id_of(1, 0)]);
}

#[test]
fn near_cards_first_or_only() {
    let near = Ask {
        nodes: &[0],
        ..Ask::default()
    };
    let mut pool = pool_of(2, |network| network.numa = NumaPolicy::Prefer);
    for number in 0..7 {
        let choice = near.of(&pool).unwrap();
        assert_eq!(
            (choice.device, choice.closeness),
            (id_of(2, number), Closeness::Near)
        );
        pool.claim(choice.device, holder("web")).unwrap();
    }
    assert_eq!(near.of(&pool).unwrap().closeness, Closeness::Far);

    let mut pool = pool_of(2, |network| network.numa = NumaPolicy::Require);
    for _ in 0..7 {
        let device = near.of(&pool).unwrap().device;
        pool.claim(device, holder("web")).unwrap();
    }
    let refusal = near.of(&pool).unwrap_err();
    let rows = &refusal.explanation.as_ref().unwrap().rows;
    let verdicts: Vec<_> = rows.iter().map(Row::verdict).collect();
    assert_eq!(verdicts, [&Verdict::Far, &Verdict::NoneFree]);
    assert!(
        refusal.advice().contains("numa='prefer'"),
        "{}",
        refusal.advice()
    );
}

#[test]
fn a_host_that_tells_no_node_is_near() {
    let mut pool = pool_of(1, |network| network.numa = NumaPolicy::Require);
    pool.set_pf(
        &PfInfo {
            numa_node: None,
            ..info(1)
        },
        &vfs(1, 7),
    );
    let ask = Ask {
        nodes: &[3],
        ..Ask::default()
    };
    assert_eq!(ask.of(&pool).unwrap().closeness, Closeness::Unasked);
}

#[test]
fn a_pf_that_is_down_is_passed_over_and_named_when_it_was_the_last() {
    let mut pool = pool_of(2, |_| {});
    pool.set_health(pf(1), DOWN);
    assert_eq!(Ask::default().of(&pool).unwrap().device, id_of(2, 0));
    pool.set_health(pf(2), DOWN);
    let refusal = Ask::default().of(&pool).unwrap_err();
    assert!(
        refusal
            .to_string()
            .contains("7 VFs of ens1: the PF is down, 7 free"),
        "{refusal}"
    );
    assert!(
        refusal
            .advice()
            .starts_with("bring ens1 up: ip link set ens1 up")
    );
}

#[test]
fn carrier_counts_where_the_network_needs_it() {
    let mut pool = pool_of(1, |_| {});
    pool.set_health(pf(1), DARK);
    assert!(Ask::default().of(&pool).is_ok());
    let mut pool = pool_of(1, |network| network.needs_carrier = true);
    pool.set_health(pf(1), DARK);
    let refusal = Ask::default().of(&pool).unwrap_err();
    assert!(refusal.to_string().contains("no carrier"), "{refusal}");
}

#[test]
fn a_mac_is_lent_once_behind_a_pf() {
    let mac: MacAddress = "52:54:00:00:00:01".parse().unwrap();
    let mut pool = pool_of(2, |_| {});
    let ask = Ask {
        mac: Some(mac),
        ..Ask::default()
    };
    for expected in [pf(1), pf(2)] {
        let choice = ask.of(&pool).unwrap();
        assert_eq!(pf_of(&choice), expected);
        pool.claim(
            choice.device,
            Holder {
                mac: Some(mac),
                ..holder("web1")
            },
        )
        .unwrap();
    }
    let refusal = ask.of(&pool).unwrap_err();
    assert!(
        refusal
            .to_string()
            .contains("MAC 52:54:00:00:00:01 is in use behind it by guest 'web1'"),
        "{refusal}"
    );
    pool.release(vf(2, 0));
    assert_eq!(pf_of(&ask.of(&pool).unwrap()), pf(2));
}

#[test]
fn a_full_pool_says_who_has_what() {
    let mut pool = pool_of(1, |_| {});
    pool.set_pf(
        &PfInfo {
            max_vfs: 63,
            ..info(1)
        },
        &vfs(1, 4),
    );
    lend(&mut pool, "web1");
    lend(&mut pool, "web2");
    pool.withhold(vf(1, 3), "its VLAN is still 42");
    let exclude = BTreeMap::from([(id_of(1, 2), "ens1v2 is up with 10.0.0.5/24".to_owned())]);
    let refusal = Ask {
        exclude,
        ..Ask::default()
    }
    .of(&pool)
    .unwrap_err();
    assert_eq!(refusal.cause, RefusalCause::NoneFree);
    assert_eq!(
        refusal.to_string(),
        "network 'vfs' has no free device: 4 VFs of ens1: 2 lent (web1, web2), \
         1 busy (VF 2: ens1v2 is up with 10.0.0.5/24), 1 kept back (VF 3: its VLAN is still 42)"
    );
    assert_eq!(
        refusal.advice(),
        "free a busy VF on the host; or restart virtnicd, which tries again to mend those kept back; \
         or stop a guest; or raise the number of VFs of ens1 from 4 (up to 63) when none is lent"
    );
}

#[test]
fn what_many_vfs_have_in_common_is_said_once() {
    let pool = pool_of(1, |_| {});
    let reason = |number| {
        if number == 2 {
            "it is up"
        } else {
            "it is not managed"
        }
    };
    let exclude = (0..7).map(|number| (id_of(1, number), reason(number).to_owned()));
    let exclude = exclude.collect();
    let refusal = Ask {
        exclude,
        ..Ask::default()
    }
    .of(&pool)
    .unwrap_err();
    assert!(
        refusal.to_string().ends_with(
            "7 busy (VF 0, VF 1, VF 3, VF 4, VF 5, VF 6: it is not managed, VF 2: it is up)"
        ),
        "{refusal}"
    );
}

#[test]
fn a_big_pools_refusal_stays_readable() {
    let mut pool = pool_of(12, |_| {});
    for n in 0..84 {
        lend(&mut pool, &format!("guest-with-a-long-name-{n}"));
    }
    let refusal = Ask::default().of(&pool).unwrap_err();
    assert!(refusal.to_string().len() < 600, "{refusal}");
    assert!(
        refusal
            .to_string()
            .ends_with("70 VFs of 10 further PFs: 70 lent, 0 busy, 0 kept back")
    );
    assert_eq!(refusal.details().len(), 12);
}

#[test]
fn a_pf_without_vfs_or_a_missing_one_is_named() {
    let mut pool = pool_of(1, |_| {});
    pool.set_pf(&info(1), &[]);
    let refusal = Ask::default().of(&pool).unwrap_err();
    assert!(refusal.to_string().ends_with("0 VFs of ens1"), "{refusal}");
    assert!(
        refusal
            .advice()
            .contains("/sys/class/net/ens1/device/sriov_numvfs")
    );
    pool.remove_pf(pf(1));
    let refusal = Ask::default().of(&pool).unwrap_err();
    assert!(
        refusal.to_string().contains("the PF is not there"),
        "{refusal}"
    );
}

#[test]
fn a_network_that_is_not_started_is_refused_by_name() {
    let refusal = Ask::default().of(&Pool::new()).unwrap_err();
    assert_eq!(refusal.cause, RefusalCause::NoNetwork);
    assert_eq!(refusal.to_string(), "network 'vfs' lends no devices now");
}

#[test]
fn a_vf_that_vanishes_while_lent_is_still_lent_when_it_returns() {
    let mut pool = pool_of(1, |_| {});
    lend(&mut pool, "web");
    let update = pool.set_pf(&info(1), &[]);
    assert_eq!(update.vanished.len(), 7);
    assert_eq!(update.vanished_while_lent, [(id_of(1, 0), holder("web"))]);
    let update = pool.set_pf(&info(1), &vfs(1, 7));
    assert_eq!(update.appeared.len(), 7);
    assert_eq!(Ask::default().of(&pool).unwrap().device, id_of(1, 1));
}

#[test]
fn an_explanation_can_be_written_down() {
    let pool = pool_of(2, |_| {});
    let explanation = pool.explain(&Ask::default().request()).unwrap();
    let verdicts: Vec<_> = explanation.rows.iter().map(Row::verdict).collect();
    assert_eq!(verdicts, [&Verdict::Open, &Verdict::Open]);
    assert_eq!(explanation.rows[1].to_string(), "7 VFs of ens2: 7 free");
}

/// It would not run any more.
#[test]
fn a_guest_that_has_all_itself_is_not_told_to_stop_one() {
    let mut pool = pool_of(2, |network| {
        network.members = Members::Devices(vec![vf(1, 0).into()]);
    });
    let own = Ask::default().request().guest.to_owned();
    lend(&mut pool, &own);
    let advice = Ask::default().of(&pool).unwrap_err().advice();
    assert!(
        advice.starts_with("have the guest ask for fewer devices of it; or list another VF"),
        "{advice}"
    );
}

/// A PF beside listed devices would be refused.
#[test]
fn a_full_list_of_vfs_is_not_to_get_a_pf() {
    let mut pool = pool_of(2, |network| {
        network.members = Members::Devices(vec![vf(1, 0).into()]);
    });
    lend(&mut pool, "web1");
    let advice = Ask::default().of(&pool).unwrap_err().advice();
    assert_eq!(
        advice,
        "stop a guest; or list another VF of ens1 in the network: 1 of its 7 are in it"
    );
    pool.set_pf(&info(1), &vfs(1, 1));
    let advice = Ask::default().of(&pool).unwrap_err().advice();
    assert_eq!(
        advice,
        "stop a guest; or list the VFs of another PF in the network"
    );
}
