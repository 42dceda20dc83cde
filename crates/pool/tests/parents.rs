//! Parents that many guests share, plain NICs that are lent whole, and what lies between.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod common;

use std::collections::BTreeMap;

use common::*;
use conf::{DeviceId, MacAddress, NumaPolicy, Spread};
use pool::{Closeness, Health, Holder, Members, NicInfo, Pool, Verdict, VfInfo};

const MAC: MacAddress = MacAddress::new([0x52, 0x54, 0, 0, 0, 1]);

fn with_mac(guest: &str) -> Holder {
    Holder {
        mac: Some(MAC),
        ..holder(guest)
    }
}

fn vf_id(n: u8, number: u8) -> DeviceId {
    vf(n, number).into()
}

/// A PF `ens1` whose VFs have network devices, and a network `lan` that shares them.
fn vf_lan(pf_count: u8, spread: Spread) -> Pool {
    let mut pool = Pool::new();
    for n in 1..=pf_count {
        pool.set_pf(&info(n), &named_vfs(n, 3));
    }
    let mut network = shared(pfs(1..=pf_count));
    network.spread = spread;
    pool.set_network("lan", network);
    pool
}

#[test]
fn guests_share_the_parent_with_the_fewest_connections_the_first_of_equals() {
    let mut pool = lan(&["enp4s0", "enp3s0", "enp2s0"], |_| {});
    let given: Vec<_> = (0..4).map(|_| join(&mut pool, "web")).collect();
    assert_eq!(given, ["enp4s0", "enp3s0", "enp2s0", "enp4s0"].map(id));
    assert_eq!(pool.connections(id("enp4s0")), 2);
    let choice = Ask::to("lan").of(&pool).unwrap();
    assert_eq!(
        choice.to_string(),
        "enp3s0: of 3 parents the one with the fewest connections (1)"
    );
}

#[test]
fn a_share_that_ends_makes_room() {
    let mut pool = lan(&["enp3s0", "enp4s0"], |_| {});
    let first = pool.share(id("enp3s0"), holder("web1")).unwrap();
    pool.share(id("enp3s0"), holder("web2")).unwrap();
    pool.share(id("enp4s0"), holder("web3")).unwrap();
    assert_eq!(
        pool.release_share(first),
        Some((id("enp3s0"), holder("web1")))
    );
    assert_eq!(pool.release_share(first), None);
    assert_eq!(Ask::to("lan").of(&pool).unwrap().device, id("enp3s0"));
    let who: Vec<_> = pool.holders(id("enp3s0")).map(|h| &h.guest).collect();
    assert_eq!(who, ["web2"]);
}

#[test]
fn packing_stays_with_the_first_parent() {
    let mut pool = lan(&["enp3s0", "enp4s0"], |lan| lan.spread = Spread::Pack);
    for _ in 0..3 {
        assert_eq!(join(&mut pool, "web"), id("enp3s0"));
    }
    let choice = Ask::to("lan").of(&pool).unwrap();
    assert_eq!(
        choice.to_string(),
        "enp3s0: the first of 2 parents; 3 connections"
    );
}

#[test]
fn vfs_as_parents_are_balanced_over_their_pfs() {
    let mut pool = vf_lan(2, Spread::Balance);
    let given: Vec<_> = (0..7).map(|_| join(&mut pool, "web")).collect();
    let expected = [(1, 0), (2, 0), (1, 1), (2, 1), (1, 2), (2, 2), (1, 0)];
    assert_eq!(given, expected.map(|(n, number)| vf_id(n, number)));
    assert_eq!(
        Ask::to("lan").of(&pool).unwrap().to_string(),
        "VF 0 of ens2 (0000:02:10.0, ens2v0): of the VFs of 2 PFs the one with the \
         fewest connections (1)"
    );
}

#[test]
fn vfs_as_parents_are_packed_on_the_first_pf() {
    let mut pool = vf_lan(2, Spread::Pack);
    let given: Vec<_> = (0..4).map(|_| join(&mut pool, "web")).collect();
    assert_eq!(given, [0, 1, 2, 0].map(|number| vf_id(1, number)));
}

#[test]
fn packing_keeps_to_a_pf_though_a_lists_order_alternates() {
    let mut pool = vf_lan(2, Spread::Pack);
    let list = [(1, 0), (2, 0), (1, 1)].map(|(n, number)| vf_id(n, number));
    let mut network = shared(Members::Devices(list.to_vec()));
    network.spread = Spread::Pack;
    pool.set_network("lan", network);
    let given: Vec<_> = (0..3).map(|_| join(&mut pool, "web")).collect();
    assert_eq!(given, [0, 1, 0].map(|number| vf_id(1, number)));
}

#[test]
fn a_whole_loan_and_a_share_exclude_each_other_in_all_networks() {
    let mut pool = lan(&["enp3s0", "enp4s0"], |_| {});
    pool.set_network("whole", passthrough(nics(&["enp3s0"])));

    join(&mut pool, "web1");
    join(&mut pool, "web2");
    join(&mut pool, "web3");
    assert!(pool.free("whole").is_empty());
    let refusal = Ask::to("whole").of(&pool).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "network 'whole' has no free device: enp3s0: shared (web1, web3)"
    );
    assert_eq!(
        refusal.advice(),
        "stop a guest; or add a device to the network"
    );
    let taken = pool.claim(id("enp3s0"), holder("db")).unwrap_err();
    assert_eq!(
        taken.to_string(),
        "enp3s0 is shared by guest 'web1' of network 'lan' and 1 more"
    );

    let mut pool = lan(&["enp3s0", "enp4s0"], |_| {});
    pool.claim(id("enp3s0"), holder("db")).unwrap();
    assert_eq!(pool.free("lan"), [id("enp4s0")]);
    assert_eq!(join(&mut pool, "web"), id("enp4s0"));
    let taken = pool.share(id("enp3s0"), holder("web")).unwrap_err();
    assert_eq!(
        taken.to_string(),
        "enp3s0 is lent to guest 'db' by network 'vfs'"
    );
}

#[test]
fn a_nic_is_lent_whole_once_in_the_lists_order() {
    let mut pool = lan(&["enp4s0", "enp3s0"], |_| {});
    pool.set_network("vfs", passthrough(nics(&["enp4s0", "gone0", "enp3s0"])));
    assert_eq!(
        Ask::default().of(&pool).unwrap().to_string(),
        "enp4s0: the first of 2 that are free"
    );
    assert_eq!(lend(&mut pool, "web1"), id("enp4s0"));
    assert_eq!(
        Ask::default().of(&pool).unwrap().to_string(),
        "enp3s0: the only free one"
    );
    assert_eq!(lend(&mut pool, "web2"), id("enp3s0"));
    let refusal = Ask::default().of(&pool).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "network 'vfs' has no free device: enp4s0: lent (web1); enp3s0: lent (web2); \
         1 not there (gone0)"
    );
}

#[test]
fn a_nic_that_is_down_is_lent_and_a_pf_that_is_down_lends_no_parent() {
    let mut pool = lan(&["enp3s0"], |_| {});
    pool.set_health(id("enp3s0"), DOWN);
    assert!(Ask::to("lan").of(&pool).is_ok());

    let mut pool = vf_lan(1, Spread::Balance);
    pool.set_health(pf(1), DOWN);
    let refusal = Ask::to("lan").of(&pool).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "network 'lan' has no usable parent: 3 VFs of ens1: the PF is down"
    );
}

#[test]
fn carrier_where_the_network_asks_for_it() {
    let mut pool = lan(&["enp3s0", "enp4s0"], |lan| lan.needs_carrier = true);
    pool.set_health(id("enp3s0"), DARK);
    assert_eq!(join(&mut pool, "web"), id("enp4s0"));
    pool.set_health(id("enp4s0"), DOWN);
    let refusal = Ask::to("lan").of(&pool).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "network 'lan' has no usable parent: enp3s0: no carrier, 0 connections; \
         enp4s0: down, so that its carrier can't be told, 1 connection"
    );
    assert_eq!(
        refusal.advice(),
        "bring enp4s0 up: ip link set enp4s0 up; or see to the cable; \
         or add a device to the network"
    );
    pool.set_health(id("enp3s0"), UP);
    assert_eq!(join(&mut pool, "web"), id("enp3s0"));
}

#[test]
fn near_parents_first_or_only() {
    let setup = |numa| {
        let mut pool = lan(&["enp3s0", "enp4s0"], |lan| lan.numa = numa);
        for (netdev, node) in [("enp3s0", 0), ("enp4s0", 1)] {
            pool.set_nic(NicInfo {
                numa_node: Some(node),
                ..nic(netdev)
            });
        }
        pool
    };
    let near = Ask {
        nodes: &[1],
        ..Ask::to("lan")
    };
    let mut pool = setup(NumaPolicy::Prefer);
    pool.share(id("enp4s0"), holder("web")).unwrap();
    let choice = near.of(&pool).unwrap();
    assert_eq!(
        (choice.device, choice.closeness),
        (id("enp4s0"), Closeness::Near)
    );
    pool.remove_nic(id("enp4s0"));
    assert_eq!(near.of(&pool).unwrap().closeness, Closeness::Far);

    let mut pool = setup(NumaPolicy::Require);
    pool.withhold(id("enp4s0"), "its MAC is still another's");
    let refusal = near.of(&pool).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "network 'lan' has no usable parent: \
         enp3s0: it is on NUMA node 0, not on the guest's, 0 connections; \
         enp4s0: 0 connections, kept back (its MAC is still another's)"
    );
}

#[test]
fn a_busy_parent_is_passed_over_with_the_reason() {
    let pool = lan(&["enp3s0", "enp4s0"], |_| {});
    let mut ask = Ask::to("lan");
    ask.exclude = BTreeMap::from([(id("enp3s0"), "enp3s0 belongs to bond0".to_owned())]);
    let choice = ask.of(&pool).unwrap();
    assert_eq!(choice.to_string(), "enp4s0: the only parent; 0 connections");
    (ask.exclude).insert(id("enp4s0"), "enp4s0 belongs to br0".to_owned());
    let refusal = ask.of(&pool).unwrap_err();
    assert!(
        (refusal.to_string()).contains("enp3s0: 0 connections, busy (enp3s0 belongs to bond0)"),
        "{refusal}"
    );
    assert!(
        (refusal.advice()).starts_with("free a busy device on the host"),
        "{}",
        refusal.advice()
    );
}

#[test]
fn a_mac_is_on_a_parent_once() {
    let mut pool = lan(&["enp3s0", "enp4s0"], |_| {});
    let ask = Ask {
        mac: Some(MAC),
        ..Ask::to("lan")
    };
    let share = pool.share(id("enp3s0"), with_mac("web1")).unwrap();
    assert_eq!(ask.of(&pool).unwrap().device, id("enp4s0"));
    pool.share(id("enp4s0"), with_mac("web2")).unwrap();
    let refusal = ask.of(&pool).unwrap_err();
    assert!(
        (refusal.to_string())
            .contains("enp3s0: MAC 52:54:00:00:00:01 is in use on it by guest 'web1'"),
        "{refusal}"
    );
    pool.release_share(share);
    assert_eq!(ask.of(&pool).unwrap().device, id("enp3s0"));
}

/// The PF's own network device and its VFs hang on one switch.
#[test]
fn a_mac_on_a_pf_counts_for_its_vfs_except_for_the_guest_that_pairs_them() {
    let mut pool = pool_of(1, |_| {});
    let own = DeviceId::from(pf(1));
    pool.set_nic(NicInfo {
        device: own,
        ..nic("ens1")
    });
    pool.set_network("lan", shared(Members::Devices(vec![own])));
    let ask = |network, guest| Ask {
        guest,
        mac: Some(MAC),
        ..Ask::to(network)
    };
    pool.share(own, with_mac("web")).unwrap();
    assert!(ask("vfs", "db").of(&pool).is_err());
    let vf = ask("vfs", "web").of(&pool).unwrap().device;
    pool.claim(vf, with_mac("web")).unwrap();
    // A pair is a VF and a share, not two VFs.
    assert!(ask("vfs", "web").of(&pool).is_err());
    assert!(ask("lan", "db").of(&pool).is_err());
}

#[test]
fn a_parent_that_vanishes_while_shared_is_told_and_still_shared_when_it_returns() {
    let mut pool = lan(&["enp3s0", "enp4s0"], |_| {});
    for guest in ["web1", "web2"] {
        pool.share(id("enp3s0"), holder(guest)).unwrap();
    }
    let update = pool.remove_nic(id("enp3s0"));
    assert_eq!(update.vanished, [id("enp3s0")]);
    let expected = ["web1", "web2"].map(|guest| (id("enp3s0"), holder(guest)));
    assert_eq!(update.vanished_while_lent, expected);
    assert_eq!(Ask::to("lan").of(&pool).unwrap().device, id("enp4s0"));
    assert_eq!(pool.set_nic(nic("enp3s0")).appeared, [id("enp3s0")]);
    assert!(pool.set_nic(nic("enp3s0")).appeared.is_empty());
    assert_eq!(pool.connections(id("enp3s0")), 2);
    assert_eq!(Ask::to("lan").of(&pool).unwrap().device, id("enp4s0"));
}

#[test]
fn a_vf_is_no_parent_while_it_has_no_network_device() {
    let mut pool = Pool::new();
    pool.set_pf(&info(1), &vfs(1, 2));
    pool.set_network("lan", shared(pfs([1])));
    pool.set_network("vfs", passthrough(pfs([1])));
    pool.set_network("whole", whole_vfs(pfs([1])));
    assert_eq!(pool.free("whole").len(), 2);
    let refusal = Ask::to("lan").of(&pool).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "network 'lan' has no usable parent: \
         2 VFs of ens1: 2 without a network device (VF 0, VF 1)"
    );
    assert!(
        (refusal.advice()).starts_with("bind VFs of ens1 to a driver that makes network devices"),
        "{}",
        refusal.advice()
    );
    let mut vfs = vfs(1, 2);
    vfs[1].netdev = Some(name("ens1v1"));
    let update = pool.set_pf(&info(1), &vfs);
    assert_eq!(update, pool::Update::default());
    let choice = Ask::default().of(&pool).unwrap();
    assert_eq!(
        (choice.device, choice.netdev),
        (vf_id(1, 1), Some(name("ens1v1")))
    );
    assert_eq!(Ask::to("lan").of(&pool).unwrap().device, vf_id(1, 1));
}

#[test]
fn vfs_that_change_numbers_stay_lent_and_are_not_reported_as_gone() {
    let mut pool = pool_of(1, |_| {});
    lend(&mut pool, "web");
    let swapped: Vec<VfInfo> = (vfs(1, 7).into_iter())
        .map(|vf| VfInfo {
            number: 6 - vf.number,
            ..vf
        })
        .collect();
    let update = pool.set_pf(&info(1), &swapped);
    assert_eq!(update, pool::Update::default());
    assert_eq!(pool.vf(vf(1, 0)), Some((pf(1), 6)));
    assert_eq!(Ask::default().of(&pool).unwrap().device, vf_id(1, 6));
    assert!(!pool.free("vfs").contains(&vf_id(1, 0)));
}

#[test]
fn a_list_may_mix_vfs_and_nics() {
    let mut pool = Pool::new();
    pool.set_pf(&info(1), &named_vfs(1, 2));
    pool.set_nic(nic("enp9s0"));
    let list = Members::Devices(vec![vf_id(1, 1), id("enp9s0"), vf_id(1, 0)]);
    pool.set_network("lan", shared(list));
    let given: Vec<_> = (0..4).map(|_| join(&mut pool, "web")).collect();
    // With equal connections, the one on the card with less on it.
    let expected = [vf_id(1, 1), id("enp9s0"), vf_id(1, 0), id("enp9s0")];
    assert_eq!(given, expected);
    let explanation = pool.explain(&Ask::to("lan").request()).unwrap();
    let rows: Vec<_> = explanation.rows.iter().map(ToString::to_string).collect();
    assert_eq!(
        rows,
        ["2 VFs of ens1: 2 connections", "enp9s0: 2 connections"]
    );
}

#[test]
fn a_long_list_of_lent_nics_is_refused_in_a_readable_line() {
    let names: Vec<_> = (0..2000).map(|n| format!("nic{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let mut pool = lan(&names, |_| {});
    pool.set_network("vfs", passthrough(nics(&names)));
    for _ in &names {
        lend(&mut pool, "web");
    }
    let refusal = Ask::default().of(&pool).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "network 'vfs' has no free device: nic0: lent (web); nic1: lent (web); \
         1998 further devices: 1998 lent, 0 busy, 0 kept back"
    );
}

#[test]
fn an_explanation_reads_as_it_was_written() {
    let mut pool = lan(&["enp3s0"], |_| {});
    pool.set_pf(&info(1), &named_vfs(1, 2));
    let list = Members::Devices(vec![vf_id(1, 1), id("enp3s0"), id("gone0")]);
    pool.set_network("lan", shared(list));
    pool.share(vf_id(1, 1), with_mac("web")).unwrap();
    let explanation = pool.explain(&Ask::to("lan").request()).unwrap();
    let text = serde_json::to_string(&explanation).unwrap();
    let read: pool::Explanation = serde_json::from_str(&text).unwrap();
    assert_eq!(read, explanation);
    let choice = Ask::to("lan").of(&pool).unwrap();
    let text = serde_json::to_string(&choice).unwrap();
    assert_eq!(serde_json::from_str::<pool::Choice>(&text).unwrap(), choice);
}

#[test]
fn a_nics_news_counts_at_once() {
    let mut pool = lan(&["enp3s0"], |lan| lan.needs_carrier = true);
    for carrier in [false, true] {
        pool.set_nic(NicInfo {
            health: Health { up: true, carrier },
            ..nic("enp3s0")
        });
        assert_eq!(Ask::to("lan").of(&pool).is_ok(), carrier);
    }
    let refusal = Ask::to("lan").of(&{
        pool.set_health(id("enp3s0"), DARK);
        pool
    });
    let rows = refusal.unwrap_err().explanation.unwrap().rows;
    assert_eq!(rows[0].verdict(), &Verdict::NoCarrier);
}
