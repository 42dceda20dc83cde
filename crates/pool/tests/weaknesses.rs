//! What holds here where libvirt is weak, by the number of the weakness.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod common;

use std::collections::BTreeMap;

use common::*;
use conf::{DeviceId, NumaPolicy};
use pool::{Holder, Pool};

fn vf_id(n: u8, number: u8) -> DeviceId {
    vf(n, number).into()
}

#[test]
fn weakness_01_one_network_lends_from_several_pfs() {
    let mut pool = pool_of(3, |_| {});
    let given: Vec<_> = (0..21).map(|_| lend(&mut pool, "web")).collect();
    for n in 1..=3 {
        let of_pf = given.iter().filter(|d| d.pci().unwrap().bus() == n);
        assert_eq!(of_pf.count(), 7);
    }
}

#[test]
fn weakness_02_vfs_made_or_bound_later_are_noticed() {
    let mut pool = Pool::new();
    pool.set_pf(&info(1), &[]);
    pool.set_network("vfs", passthrough(pfs([1])));
    assert!(Ask::default().of(&pool).is_err());
    let update = pool.set_pf(&info(1), &vfs(1, 1));
    assert_eq!(update.appeared, [vf_id(1, 0)]);
    assert!(Ask::default().of(&pool).is_err());
    pool.set_pf(&info(1), &named_vfs(1, 1));
    assert_eq!(Ask::default().of(&pool).unwrap().device, vf_id(1, 0));
    pool.set_pf(&info(1), &[]);
    assert!(Ask::default().of(&pool).is_err());
}

#[test]
fn weakness_03_busy_far_or_dead_devices_are_passed_over() {
    let mut pool = pool_of(4, |vfs| {
        vfs.numa = NumaPolicy::Prefer;
        vfs.needs_carrier = true;
    });
    pool.set_health(pf(1), DOWN);
    pool.set_health(pf(3), DARK);
    let ask = Ask {
        nodes: &[0],
        exclude: BTreeMap::from([(vf_id(2, 0), "ens2v0 is up with 10.0.0.5/24".to_owned())]),
        ..Ask::default()
    };
    // ens2 and ens4 are near; the first VF of ens2 is busy.
    assert_eq!(ask.of(&pool).unwrap().device, vf_id(2, 1));
}

#[test]
fn weakness_04_a_device_of_two_networks_counts_once() {
    let mut pool = lan(&["enp3s0", "enp4s0"], |_| {});
    pool.set_network("vfs", shared(nics(&["enp3s0", "enp4s0"])));
    assert_eq!(join(&mut pool, "web1"), id("enp3s0"));
    assert_eq!(Ask::default().of(&pool).unwrap().device, id("enp4s0"));
    // A guest that names the device itself.
    let own = Holder {
        network: None,
        ..holder("db")
    };
    pool.claim(id("enp4s0"), own).unwrap();
    assert_eq!(pool.free("vfs"), [id("enp3s0")]);
    assert_eq!(pool.free("lan"), [id("enp3s0")]);
}

#[test]
fn weakness_06_connections_outlive_a_change_of_the_network() {
    let mut pool = lan(&["enp3s0", "enp4s0"], |_| {});
    join(&mut pool, "web");
    pool.set_network("lan", shared(nics(&["enp4s0", "enp3s0", "enp5s0"])));
    assert_eq!(pool.connections(id("enp3s0")), 1);
    assert_eq!(Ask::to("lan").of(&pool).unwrap().device, id("enp4s0"));
    // Even one that is listed no more.
    pool.set_network("lan", shared(nics(&["enp4s0"])));
    pool.set_network("vfs", passthrough(nics(&["enp3s0"])));
    assert!(Ask::default().of(&pool).is_err());
}

#[test]
fn weakness_13_who_has_which_vf_is_known() {
    let mut pool = pool_of(1, |_| {});
    lend(&mut pool, "web");
    assert_eq!(pool.connections(vf(1, 0)), 1);
    assert_eq!(pool.holder(vf(1, 0)), Some(&holder("web")));
    assert_eq!(pool.connections(vf(1, 1)), 0);
}
