//! Which device a network gives, and what it says when it has none.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

use std::collections::BTreeMap;

use conf::{MacAddress, NumaPolicy, PciAddress, Spread};
use pool::{
    Closeness, Health, Holder, Members, NetworkSpec, PfInfo, Pool, Refusal, RefusalCause, Request,
    Verdict, VfInfo,
};

const UP: Health = Health {
    up: true,
    carrier: true,
};

fn pf(n: u8) -> PciAddress {
    PciAddress::new(0, n, 0, 0).unwrap()
}

fn vf(n: u8, number: u8) -> PciAddress {
    PciAddress::new(0, n, 0x10 + number / 8, number % 8).unwrap()
}

fn vfs(n: u8, count: u8) -> Vec<VfInfo> {
    (0..count)
        .map(|number| VfInfo {
            address: vf(n, number),
            number: number.into(),
        })
        .collect()
}

fn info(n: u8) -> PfInfo {
    PfInfo {
        address: pf(n),
        netdev: format!("ens{n}"),
        numa_node: Some(u16::from(n % 2)),
        max_vfs: 7,
        health: UP,
    }
}

/// PFs ens1 … with seven VFs each, and a network over all of them.
fn pool_of(pfs: u8, spec: impl FnOnce(&mut NetworkSpec)) -> Pool {
    let mut pool = Pool::new();
    for n in 1..=pfs {
        pool.set_pf(&info(n), &vfs(n, 7));
    }
    let mut network = NetworkSpec {
        members: Members::PhysicalFunctions((1..=pfs).map(pf).collect()),
        spread: Spread::Balance,
        numa: NumaPolicy::Ignore,
        needs_carrier: false,
    };
    spec(&mut network);
    pool.set_network("vfs", network);
    pool
}

#[derive(Default)]
struct Ask<'a> {
    nodes: &'a [u16],
    mac: Option<MacAddress>,
    exclude: BTreeMap<PciAddress, String>,
}

impl Ask<'_> {
    fn of(&self, pool: &Pool) -> Result<pool::Choice, Box<Refusal>> {
        pool.choose(&Request {
            network: "vfs",
            guest: "web",
            mac: self.mac,
            numa_nodes: self.nodes,
            exclude: &self.exclude,
        })
    }
}

fn holder(guest: &str) -> Holder {
    Holder {
        guest: guest.into(),
        network: Some("vfs".into()),
        mac: None,
    }
}

fn lend(pool: &mut Pool, guest: &str) -> PciAddress {
    let device = Ask::default().of(pool).unwrap().device;
    pool.claim(device, holder(guest)).unwrap();
    device
}

#[test]
fn a_pf_gives_its_vfs_by_number() {
    let mut pool = pool_of(1, |_| {});
    let given: Vec<_> = (0..7).map(|_| lend(&mut pool, "web")).collect();
    assert_eq!(
        given,
        (0..7).map(|number| vf(1, number)).collect::<Vec<_>>()
    );
    pool.release(vf(1, 3));
    assert_eq!(lend(&mut pool, "web"), vf(1, 3));
}

#[test]
fn balance_takes_the_pf_with_the_fewest_lent() {
    let mut pool = pool_of(2, |_| {});
    let given: Vec<_> = (0..4).map(|_| lend(&mut pool, "web")).collect();
    assert_eq!(given, [vf(1, 0), vf(2, 0), vf(1, 1), vf(2, 1)]);
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
    assert!(given[..7].iter().all(|device| device.bus() == 1));
    assert_eq!(given[7], vf(2, 0));
}

#[test]
fn a_listed_vf_is_taken_in_the_lists_order_with_gaps() {
    let listed = vec![vf(1, 5), vf(1, 1), vf(1, 6)];
    let mut pool = pool_of(1, |network| {
        network.members = Members::Addresses(listed.clone())
    });
    let given: Vec<_> = (0..3).map(|_| lend(&mut pool, "web")).collect();
    assert_eq!(given, listed);
    assert!(Ask::default().of(&pool).is_err());
}

#[test]
fn one_device_in_two_networks_is_lent_once() {
    let mut pool = pool_of(1, |_| {});
    let spec = NetworkSpec {
        members: Members::Addresses(vec![vf(1, 0)]),
        spread: Spread::Balance,
        numa: NumaPolicy::Ignore,
        needs_carrier: false,
    };
    pool.set_network("one", spec);
    assert_eq!(lend(&mut pool, "web"), vf(1, 0));
    assert!(pool.free("one").is_empty());
    let taken = pool.claim(vf(1, 0), holder("other")).unwrap_err();
    assert_eq!(
        taken.to_string(),
        "0000:01:10.0 is lent to guest 'web' by network 'vfs'"
    );
    pool.release(vf(1, 0));
    assert_eq!(pool.free("one"), [vf(1, 0)]);
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
            (vf(2, number), Closeness::Near)
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
    let rows = &refusal.explanation.as_ref().unwrap().pfs;
    assert_eq!(
        (&rows[0].verdict, &rows[1].verdict),
        (&Verdict::Far, &Verdict::NoneFree)
    );
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
    pool.set_health(
        pf(1),
        Health {
            up: false,
            carrier: false,
        },
    );
    assert_eq!(Ask::default().of(&pool).unwrap().device, vf(2, 0));
    pool.set_health(
        pf(2),
        Health {
            up: false,
            carrier: false,
        },
    );
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
    let dark = Health {
        up: true,
        carrier: false,
    };
    let mut pool = pool_of(1, |_| {});
    pool.set_health(pf(1), dark);
    assert!(Ask::default().of(&pool).is_ok());
    let mut pool = pool_of(1, |network| network.needs_carrier = true);
    pool.set_health(pf(1), dark);
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
        assert_eq!(choice.pf, expected);
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
    assert_eq!(ask.of(&pool).unwrap().pf, pf(2));
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
    let exclude = BTreeMap::from([(vf(1, 2), "ens1v2 is up with 10.0.0.5/24".to_owned())]);
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
    assert_eq!(update.vanished_while_lent, [(vf(1, 0), holder("web"))]);
    let update = pool.set_pf(&info(1), &vfs(1, 7));
    assert_eq!(update.appeared.len(), 7);
    assert_eq!(Ask::default().of(&pool).unwrap().device, vf(1, 1));
}

#[test]
fn an_explanation_can_be_written_down() {
    let pool = pool_of(2, |_| {});
    let ask = Ask::default();
    let explanation = pool
        .explain(&Request {
            network: "vfs",
            guest: "web",
            mac: None,
            numa_nodes: &[],
            exclude: &ask.exclude,
        })
        .unwrap();
    let verdicts: Vec<_> = explanation.pfs.iter().map(|row| &row.verdict).collect();
    assert_eq!(verdicts, [&Verdict::Open, &Verdict::Open]);
    assert_eq!(explanation.pfs[1].to_string(), "7 VFs of ens2: 7 free");
}
